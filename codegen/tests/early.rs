//! Launches that begin before the one before them has ended: what LLVM may not move, and the same bits by the interpreter and as
//! PTX in the emulator, which holds what comes before the wait against the launches before.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use crate::small_kernels::{gpus, skipped, verified};
use moec_codegen::{Options, Ptxas, assembly, codegen};
use moec_ir::kernel::{Given, Program, interp, parse, print};
use moec_ir::{Dims, Machine};
use ptx_emulator::{Arg, Fill, FindingKind, Launch, Memory, Schedule};

const TEXT: &str = "program @early {
  buffer %x: input f32[256]
  buffer %w: weight f32[256]
  buffer %a: workspace f32[256]
  buffer %b: workspace f32[256]
  buffer %y: output f32[256]
  regime {
    launch @first(%x, %y = %a) grid 4
    launch @second(%w, %x = %a, %y = %b) grid 4 early
    launch @second(%w = %x, %x = %b, %y) grid 4 early
  }
}

kernel @first(%x: *f32, %y: *mut f32) threads 64 {
  load %v: f32 = %x[block * 64 + thread]
  allow_next
  store %y[block * 64 + thread] = %v * 3.0
}

kernel @second(%w: *f32, %x: *f32, %y: *mut f32) threads 64 {
  shared %tile: f32[64]
  load %weight: f32 = %w[block * 64 + thread]
  allow_next
  wait launches
  copy %tile[thread] = %x[block * 64 + thread] bytes 4
  commit
  load %v: f32 = %x[block * 64 + (thread ^ 1)]
  load %u: f32 = %x[255 - (block * 64 + thread)] keep
  wait groups 0
  load %t: f32 = %tile[thread]
  store %y[block * 64 + thread] = %weight * %v + %u - %t
}
";

fn early() -> impl Iterator<Item = Machine> {
    gpus().into_iter().filter(|gpu| gpu.early_launches)
}

fn program() -> Program {
    let program = parse(TEXT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(print(&program), TEXT);
    program
}

/// The lines with this word, and what is before and behind the wait.
fn around_the_wait(ptx: &str, kernel: &str) -> (String, String) {
    let (_, body) = ptx.split_once(&format!(".entry {kernel}(")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let (before, after) = body.split_once("griddepcontrol.wait;").unwrap();
    (before.to_string(), after.to_string())
}

/// Reads of what launches before write stay behind the wait, and are none of memory that nothing writes (`.nc`).
#[test]
fn nothing_is_read_over_the_wait() {
    for machine in early() {
        let ptx = assembly(&program(), &machine).unwrap();
        let (before, after) = around_the_wait(&ptx, "early_second");
        assert_eq!(before.matches("ld.global").count(), 1, "{ptx}");
        assert!(before.contains("ld.global.nc") && before.contains("griddepcontrol.launch_dependents;"), "{ptx}");
        assert_eq!((after.matches("ld.global").count(), after.matches("cp.async.ca").count()), (2, 1), "{ptx}");
        assert!(!after.contains(".nc") && after.contains("ld.global.L1::evict_last"), "{ptx}");
        // Without the wait all of it is memory that nothing writes.
        let mut plain = program();
        plain.kernels[1].body.retain(|stmt| *stmt != moec_ir::kernel::Stmt::Wait(moec_ir::kernel::Wait::Launches));
        let ptx = assembly(&plain, &machine).unwrap();
        let (_, body) = ptx.split_once(".entry early_second(").unwrap();
        assert_eq!((body.matches("ld.global.nc").count(), body.matches("griddepcontrol.wait").count()), (3, 0), "{ptx}");
    }
}

/// The output of the program's PTX, and the kinds of findings.
fn emulated(program: &Program, ptx: &str, x: &[u8], w: &[u8], schedule: Schedule) -> (Vec<u8>, Vec<FindingKind>) {
    let module = ptx_emulator::parse(ptx).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
    let mut memory = Memory::new();
    let buffers: Vec<_> = program
        .buffers
        .iter()
        .map(|buffer| match buffer.name.as_str() {
            "x" => memory.upload("x", x).unwrap(),
            "w" => memory.upload("w", w).unwrap(),
            name => memory.alloc(name, 1024, Fill::Uninitialised(0xa5)).unwrap(),
        })
        .collect();
    let options = ptx_emulator::Options { schedule, seed: 3, ..ptx_emulator::Options::default() };
    let mut kinds = Vec::new();
    for step in &program.regimes[0].launches {
        let kernel = &program.kernels[step.kernel];
        let args = step.args.iter().map(|arg| match &arg.given {
            Given::Buffer(index) => Arg::Buffer(buffers[*index]),
            Given::Scalar(_) | Given::TensorMap(_) => unreachable!("all are buffers"),
        });
        let symbol = format!("{}_{}", program.name, kernel.name);
        let args = module.entry(&symbol).unwrap().pack(&memory, &args.collect::<Vec<_>>()).unwrap();
        let shape = Launch { grid: [4, 1, 1], block: [kernel.threads, 1, 1], shared_bytes: 0, early: step.early, args };
        let report = ptx_emulator::launch(&module, &symbol, &shape, &mut memory, &options).unwrap();
        kinds.extend(report.findings.iter().map(|finding| finding.kind));
    }
    kinds.dedup();
    (memory.content(buffers[4]).unwrap(), kinds)
}

#[test]
fn early_launches_three_ways() {
    let program = program();
    let floats = |f: &dyn Fn(i32) -> i32| (0..256).flat_map(|i| (f(i) as f32).to_le_bytes()).collect::<Vec<u8>>();
    let (x, w) = (floats(&|i| i * i % 31), floats(&|i| i % 7 - 3));
    let given = BTreeMap::from([("x".to_string(), x.clone()), ("w".to_string(), w.clone())]);
    let dims = Dims { tokens: 1, sequence_tokens: 1 };
    for machine in early() {
        verified(&program, &machine);
        let expected = interp(&program, &machine, dims, &given).unwrap_or_else(|fault| panic!("{fault}"));
        let expected = expected["y"].bytes().unwrap().to_vec();
        let ptx = assembly(&program, &machine).unwrap();
        for schedule in Schedule::ALL {
            assert_eq!(
                emulated(&program, &ptx, &x, &w, schedule),
                (expected.clone(), vec![]),
                "{} {}",
                machine.name,
                schedule.name()
            );
            // The wait is not there, or it is behind the first read.
            let without = ptx.replace("griddepcontrol.wait;", "");
            let (_, kinds) = emulated(&program, &without, &x, &w, schedule);
            assert_eq!(kinds, [FindingKind::EarlyAccess], "{} {}", machine.name, schedule.name());
            let (before, after) = ptx.rsplit_once("griddepcontrol.wait;").unwrap();
            let (load, rest) = after.split_once("cp.async.commit_group;").unwrap();
            let late = format!("{before}{load}griddepcontrol.wait;\ncp.async.commit_group;{rest}");
            let (_, kinds) = emulated(&program, &late, &x, &w, schedule);
            assert_eq!(kinds, [FindingKind::EarlyAccess], "{} {}\n{late}", machine.name, schedule.name());
        }
        let Some(ptxas) = Ptxas::find() else {
            skipped("early_launches_three_ways", "no ptxas was found");
            continue;
        };
        let objects = codegen(&program, &machine, &Options { ptxas: Some(ptxas) }).unwrap();
        assert_eq!(objects[1].warnings, [""; 0], "{}", machine.name);
        let usages = objects[1].kernels.iter().filter_map(|kernel| kernel.usage);
        assert!(usages.into_iter().all(|usage| usage.spill_stores == 0 && usage.stack_bytes == 0), "{}", machine.name);
    }
}
