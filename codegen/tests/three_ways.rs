//! Kernels whose warps wait for each other, three ways: by the interpreter, as PTX in the emulator under every schedule, and
//! through NVIDIA's assembler where it is found. All give the same bits.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::{gpus, program, skipped, verified};
use half::bf16;
use moec_codegen::{Options, Ptxas, assembly, codegen, llvm_text};
use moec_ir::Machine;
use moec_ir::kernel::parse::parse_kernel;
use moec_ir::kernel::{Argument, Kernel, Memory, ParamKind, Swizzle, Tensor, TensorMap, interp_kernel, print_kernel};
use ptx_emulator::{Arg, Fill, FindingKind, Launch, Report, Schedule};

/// What a parameter is given.
#[derive(Clone)]
pub(crate) enum Given {
    Ints(Vec<i32>),
    /// An array of so many elements of 4 bytes that is not written.
    Unwritten(usize),
    Number(i32),
    /// An array of these bytes.
    Bytes(Vec<u8>),
    /// A tensor in memory of these bytes.
    Map(Vec<u8>, Tensor),
}

use Given::{Bytes, Ints, Map, Number, Unwritten};

impl Given {
    /// What the memory holds, and the bytes of one that is not written.
    fn content(&self) -> Option<Result<Vec<u8>, usize>> {
        match self {
            Ints(content) => Some(Ok(bytes(content))),
            Bytes(content) | Map(content, _) => Some(Ok(content.clone())),
            Unwritten(len) => Some(Err(4 * len)),
            Number(_) => None,
        }
    }
}

pub(crate) fn bytes(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// The map as the emulator takes it.
pub(crate) fn encoded(map: TensorMap, tensor: Tensor, address: u64) -> Vec<u8> {
    let innermost_first = |[outer, row, column]: [u64; 3]| vec![column, row, outer];
    let element = map.elem.bytes();
    let encoded = ptx_emulator::TensorMap {
        element_bytes: element as u8,
        address,
        extents: innermost_first(tensor.extents),
        strides: tensor.strides.iter().rev().map(|stride| stride * element).collect(),
        box_extents: innermost_first(map.tile.map(u64::from)).into_iter().map(|extent| extent as u32).collect(),
        swizzle: match map.swizzle {
            Swizzle::None => ptx_emulator::Swizzle::None,
            Swizzle::Bytes32 => ptx_emulator::Swizzle::Bytes32,
            Swizzle::Bytes64 => ptx_emulator::Swizzle::Bytes64,
            Swizzle::Bytes128 => ptx_emulator::Swizzle::Bytes128,
        },
    };
    encoded.encode().unwrap().to_vec()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|chunk| i32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

/// The arrays that are written, as the interpreter leaves them.
fn interpreted(kernel: &Kernel, machine: &Machine, blocks: u64, given: &[Given]) -> Vec<Vec<i32>> {
    let (mut memory, mut args) = (Vec::new(), Vec::new());
    for given in given {
        args.push(match given {
            Ints(_) | Bytes(_) | Unwritten(_) => Argument::Buffer(memory.len()),
            Number(n) => Argument::Scalar(i64::from(*n)),
            Map(_, tensor) => Argument::TensorMap(memory.len(), *tensor),
        });
        memory.extend(given.content().map(|content| content.map_or_else(Memory::unknown, Memory::from)));
    }
    interp_kernel(kernel, machine, blocks, &args, &mut memory).unwrap_or_else(|fault| panic!("{}: {fault}", machine.name));
    let arrays = args.iter().zip(&kernel.params).filter_map(|(arg, param)| match (arg, param.kind) {
        (Argument::Buffer(i) | Argument::TensorMap(i, _), kind) if kind.is_written() => Some(ints(memory[*i].bytes().unwrap())),
        (Argument::Buffer(_) | Argument::Scalar(_) | Argument::TensorMap(..), _) => None,
    });
    arrays.collect()
}

/// The same by the PTX in the emulator, and what it found.
pub(crate) fn emulated(kernel: &Kernel, ptx: &str, blocks: u64, given: &[Given], schedule: Schedule) -> (Report, Vec<Vec<i32>>) {
    let module = ptx_emulator::parse(ptx).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
    let (mut memory, mut args, mut written) = (ptx_emulator::Memory::new(), Vec::new(), Vec::new());
    for (param, given) in kernel.params.iter().zip(given) {
        let buffer = given.content().map(|content| match content {
            Ok(content) => memory.upload(&param.name, &content).unwrap(),
            Err(len) => memory.alloc(&param.name, len as u64, Fill::Uninitialised(0xa5)).unwrap(),
        });
        args.push(match (param.kind, buffer, given) {
            (ParamKind::TensorMap(map), Some(buffer), Map(_, tensor)) => {
                Arg::Bytes(encoded(map, *tensor, memory.address(buffer).unwrap()))
            }
            (_, Some(buffer), _) => Arg::Buffer(buffer),
            (_, None, Number(n)) => Arg::I32(*n),
            (_, None, Ints(_) | Bytes(_) | Unwritten(_) | Map(..)) => unreachable!("an array is a buffer"),
        });
        written.extend(buffer.filter(|_| param.kind.is_written()));
    }
    let args = module.entries[0].pack(&memory, &args).unwrap();
    let shape = Launch { grid: [blocks as u32, 1, 1], block: [kernel.threads, 1, 1], shared_bytes: 0, early: false, args };
    let numerics = ptx_emulator::Numerics::Plain;
    let options = ptx_emulator::Options { schedule, seed: 7, numerics, ..ptx_emulator::Options::default() };
    let report = ptx_emulator::launch(&module, &module.entries[0].name, &shape, &mut memory, &options).unwrap();
    let arrays = written.iter().map(|buffer| ints(&memory.content(*buffer).unwrap()));
    (report, arrays.collect())
}

pub(crate) fn read(text: &str) -> Kernel {
    let kernel = parse_kernel(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(parse_kernel(&print_kernel(&kernel)), Ok(kernel.clone()), "{}", print_kernel(&kernel));
    kernel
}

/// Runs it on every machine for which `has` holds, and gives what is written.
pub(crate) fn check(has: fn(&Machine) -> bool, blocks: u64, given: &[Given], text: &str) -> Vec<Vec<i32>> {
    let kernel = read(text);
    let machines: Vec<Machine> = gpus().into_iter().filter(has).collect();
    let expected = interpreted(&kernel, &machines[0], blocks, given);
    for machine in &machines {
        let program = program(vec![kernel.clone()]);
        verified(&program, machine);
        let ptx = assembly(&program, machine).unwrap();
        for schedule in Schedule::ALL {
            let (report, found) = emulated(&kernel, &ptx, blocks, given, schedule);
            assert!(report.clean(), "{} {}: {report}\n{ptx}", machine.name, schedule.name());
            assert_eq!(found, expected, "{} {}\n{ptx}", machine.name, schedule.name());
        }
        let Some(ptxas) = Ptxas::find() else {
            skipped(&kernel.name, "no ptxas was found");
            continue;
        };
        let objects =
            codegen(&program, machine, &Options { ptxas: Some(ptxas) }).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
        assert_eq!(objects[1].warnings, [""; 0], "{}", machine.name);
        let usage = objects[1].kernels[0].usage.unwrap();
        assert_eq!((usage.spill_stores, usage.spill_loads, usage.stack_bytes), (0, 0, 0), "{}: {usage:?}\n{ptx}", machine.name);
    }
    expected
}

fn every(_: &Machine) -> bool {
    true
}

fn with_mbarriers(machine: &Machine) -> bool {
    machine.mbarriers
}

/// A hint changes nothing, on any machine.
#[test]
fn a_prefetch_is_a_hint() {
    let text = "kernel @hint(%x: *i32, %y: *mut i32) threads 32 {
      prefetch %x[63 - thread]
      load %v: i32 = %x[thread]
      store %y[thread] = %v
    }";
    let x: Vec<i32> = (0..64).collect();
    assert_eq!(check(every, 1, &[Ints(x.clone()), Unwritten(32)], text), [x[..32].to_vec()]);
    let host = Machine::named("x86-64-v3").unwrap();
    let text = text.replace("threads 32", "threads 1").replace("63 - thread", "block").replace("[thread]", "[block]");
    let assembly = assembly(&program(vec![read(&text)]), &host).unwrap();
    assert!(assembly.contains("prefetch"), "{assembly}");
}

/// What is asked for has to be there, as the interpreter has it too: the last of 64 elements is, the one behind it is not.
#[test]
fn a_prefetch_of_what_is_in_no_buffer_is_found() {
    for (last, expected) in [(63, None), (64, Some(FindingKind::OutOfBounds))] {
        let kernel = read(&format!(
            "kernel @hint(%x: *i32, %y: *mut i32) threads 32 {{
              prefetch %x[{last} - thread]
              store %y[thread] = thread
            }}"
        ));
        let given = [Ints((0..64).collect()), Unwritten(32)];
        for machine in gpus() {
            let ptx = assembly(&program(vec![kernel.clone()]), &machine).unwrap();
            let report = emulated(&kernel, &ptx, 1, &given, Schedule::RoundRobin).0;
            assert_eq!(report.findings.iter().map(|found| found.kind).collect::<Vec<_>>(), Vec::from_iter(expected), "{report}");
        }
    }
}

/// What another role stores between two loads is seen by the second: of memory that is written and read LLVM is promised nothing,
/// for with `noalias` it makes one load of both.
#[test]
fn what_threads_hand_each_other_is_read_again() {
    let text = "kernel @again(%y: *mut i32, %z: *mut i32) threads 64 {
      roles warps 0..1 {
        load %before: i32 = %y[thread]
        barrier threads 64 id 1
        barrier threads 64 id 2
        load %after: i32 = %y[thread]
        store %z[thread] = %before * 100 + %after
      } and warps 1..2 {
        barrier threads 64 id 1
        store %y[thread - 32] = thread
        barrier threads 64 id 2
      }
    }";
    let (y, after): (Vec<i32>, Vec<i32>) = ((0..32).collect(), (32..64).collect());
    let z = y.iter().zip(&after).map(|(before, after)| before * 100 + after).collect();
    assert_eq!(check(every, 1, &[Ints(y), Unwritten(32)], text), [after, z]);
}

/// What a turn of a loop stores another thread stores over in the next turn: LLVM is not told that a thread has that memory
/// alone, unless the turns do not meet.
#[test]
fn a_turn_stores_over_the_one_before() {
    let text = "kernel @turns(%y: *mut i32) threads 64 {
      for %i: i32 in 0..2 {
        store %y[thread ^ (%i * 32)] = thread + %i * 100
        barrier block
      }
    }";
    let last = (0..64).map(|at| (at ^ 32) + 100).collect::<Vec<i32>>();
    assert_eq!(check(every, 1, &[Unwritten(64)], text), [last]);
    let apart = text.replace(" ^ (%i * 32)", "").replace("barrier block", "let %next: i32 = %i + 1");
    for machine in gpus() {
        let said = |text: &str| llvm_text(&program(vec![read(text)]), &machine).unwrap().contains("noalias %y");
        assert!(!said(text) && said(&apart), "{}", machine.name);
    }
}

/// Around where rounding turns, of numbers all over f32, subnormals and infinities included.
#[test]
fn bf16_is_rounded_to_the_nearest() {
    let near = |upper: u32| [1, 0x7fff, 0x8000, 0x8001].map(|lower| f32::from_bits(upper << 16 | lower));
    let infinities = [f32::INFINITY, f32::NEG_INFINITY];
    let numbers = (0..1 << 16).step_by(37).flat_map(near).chain(infinities).filter(|x| !x.is_nan());
    let mut numbers: Vec<f32> = numbers.collect();
    let blocks = numbers.len().div_ceil(512);
    numbers.resize(blocks * 512, 0.0);
    let given = [Bytes(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()), Unwritten(blocks * 256), Unwritten(blocks * 128)];
    let found = check(
        every,
        blocks as u64,
        &given,
        "kernel @rounds(%x: *f32, %pairs: *mut bf16, %firsts: *mut bf16) threads 256 {
           let %i: i32 = block * 256 + thread
           load %two: f32x2 = %x[%i * 2]
           store %pairs[%i * 2] = bf16(%two)
           load %first: f32 = %x[%i * 2]
           store %firsts[%i] = bf16(%first)
         }
        ",
    );
    let rounded = |x: &f32| i32::from(bf16::from_f32(*x).to_bits());
    let pairs: Vec<i32> = numbers.chunks(2).map(|two| rounded(&two[0]) | rounded(&two[1]) << 16).collect();
    let firsts: Vec<i32> = numbers.chunks(4).map(|four| rounded(&four[0]) | rounded(&four[2]) << 16).collect();
    assert_eq!(found, [pairs, firsts]);
}

/// Of any sign and content; which one it becomes is the machine's.
#[test]
fn a_nan_stays_one_in_bf16() {
    let bits = [0x7fc0_0000u32, 0xffc0_0000, 0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff, 0x7f80_8000, 0x7f80_0000];
    let text = "kernel @nan(%x: *f32, %y: *mut i32) threads 32 {
      load %a: f32 = %x[thread]
      let %n: f32 = f32(bf16(%a))
      store %y[thread] = select(%n == %n, 0, 1)
    }";
    let given = [Bytes([bits; 4].iter().flatten().flat_map(|x| x.to_le_bytes()).collect()), Unwritten(32)];
    assert_eq!(check(every, 1, &given, text), [[1, 1, 1, 1, 1, 1, 1, 0].repeat(4)]);
}

/// Loads say what is known of their next use, in parts of every width; the values are the same.
#[test]
fn hints_change_no_value() {
    let text = "kernel @hints(%x: *i32, %h: *f16, %y: *mut i32) threads 32 {
      load %a: i32x4 = %x[thread * 4] align 16 stream
      load %b: i32x4 = %x[thread * 4 + 1] keep
      load %c: f16x8 = %h[thread * 8] align 16 keep
      load %d: f16x4 = %h[thread * 8 + 2] align 4 stream
      load %e: f16 = %h[thread] stream
      let %f: i32 = sum(%a) * 3 + sum(%b) + i32(sum(f32(%c))) * 5 + i32(sum(f32(%d))) * 7 + i32(f32(%e))
      store %y[thread * 2] = splat(%f, 2)
      barrier block
      load %g: i32x2 = %y[(thread ^ 1) * 2] align 8 stream
      store %y[thread + 64] = sum(%g)
    }";
    let x: Vec<i32> = (0..132).map(|i| i * i % 37).collect();
    // Whole numbers below 32, two in each word: their bits are those of f16.
    let half = |i: i32| [0, 0x3c00, 0x4000, 0x4200, 0x4400][i as usize % 5];
    let halves: Vec<i32> = (0..128).map(|i| half(2 * i) | half(2 * i + 1) << 16).collect();
    let value = |i: i32| i % 5;
    let sum = |from: i32, len: i32| (from..from + len).map(value).sum::<i32>();
    let of_x = |from: usize| x[from..from + 4].iter().sum::<i32>();
    let of = |t: i32| {
        let at = t as usize * 4;
        of_x(at) * 3 + of_x(at + 1) + sum(8 * t, 8) * 5 + sum(8 * t + 2, 4) * 7 + value(t)
    };
    let twice = (0..32).flat_map(|t| [of(t); 2]);
    let expected: Vec<i32> = twice.chain((0..32).map(|t| 2 * of(t ^ 1))).collect();
    assert_eq!(check(every, 1, &[Ints(x), Ints(halves), Unwritten(96)], text), [expected]);
    for (machine, hints) in [("sm_80", [".ca", ".cs"]), ("sm_90a", [".L1::evict_last", ".L1::no_allocate"])] {
        let ptx = assembly(&program(vec![read(text)]), &Machine::named(machine).unwrap()).unwrap();
        let [keep, stream] = hints;
        let loads = [
            format!("ld.global.nc{stream}.v4.b32"),
            format!("ld.global.nc{keep}.b32"),
            format!("ld.global.nc{keep}.v4.b32"),
            format!("ld.global.nc{stream}.b32"),
            format!("ld.global.nc{stream}.b16"),
            format!("ld.global{stream}.v2.b32"),
        ];
        assert_eq!(loads.map(|load| ptx.matches(&load).count()), [1, 4, 1, 2, 1, 1], "{ptx}");
    }
    let host = Machine::named("x86-64-v3").unwrap();
    let text = "kernel @hint(%x: *i32, %y: *mut i32) threads 1 { load %v: i32 = %x[block] stream store %y[block] = %v }";
    verified(&program(vec![read(text)]), &host);
    assembly(&program(vec![read(text)]), &host).unwrap();
}

/// Warps that store arrive and go on; those that read wait for them.
#[test]
fn threads_arrive_at_a_barrier_of_others() {
    let text = "kernel @arrive(%x: *i32, %y: *mut i32) threads 96 {
       shared %tile: i32[64]
       roles warps 0..2 {
         load %v: i32 = %x[thread]
         store %tile[thread] = %v * 3
         barrier_arrive threads 96 id 1
         store %y[thread + 32] = %v
       } and warps 2..3 {
         barrier threads 96 id 1
         load %a: i32 = %tile[thread - 64]
         load %b: i32 = %tile[thread - 32]
         store %y[thread - 64] = %a + %b
       }
     }";
    let x: Vec<i32> = (0..64).map(|i| i * i - 7).collect();
    let sums = (0..32).map(|t| (x[t] + x[t + 32]) * 3).chain(x.iter().copied()).collect::<Vec<i32>>();
    assert_eq!(check(every, 1, &[Ints(x.clone()), Unwritten(96)], text), [sums]);
    let arrive = "barrier_arrive threads 96 id 1";
    let kernel = read(&text.replace(arrive, "").replace("barrier threads 96 id 1", ""));
    let ptx = assembly(&program(vec![kernel.clone()]), &Machine::named("sm_80").unwrap()).unwrap();
    let given = [Ints(x), Unwritten(96)];
    assert!(Schedule::ALL.iter().any(|schedule| !emulated(&kernel, &ptx, 1, &given, *schedule).0.clean()));
}

/// Two warps write, two others read what they wrote; the block's barrier is not used.
#[test]
fn roles_meet_at_a_barrier_of_their_own() {
    let x: Vec<i32> = (0..128).map(|i| i * i - 7).collect();
    let found = check(
        every,
        2,
        &[Ints(x.clone()), Unwritten(128)],
        "kernel @meet(%x: *i32, %y: *mut i32) threads 160 {
           shared %tile: i32[64]
           let %in: i32 = block * 64
           roles warps 0..2 {
             load %v: i32 = %x[%in + thread]
             store %tile[thread] = %v * 3
             barrier threads 128 id 1
           } and warps 3..5 {
             let %i: i32 = thread - 96
             barrier threads 128 id 1
             load %w: i32 = %tile[63 - %i]
             store %y[%in + %i] = %w + 1
           }
         }",
    );
    let expected: Vec<i32> = (0..128).map(|i| x[i / 64 * 64 + 63 - i % 64] * 3 + 1).collect();
    assert_eq!(found, [expected]);
}

/// Groups of warps inside a role have barriers of their own, and a variable goes on after the roles.
#[test]
fn groups_of_a_role_meet() {
    let found = check(
        every,
        1,
        &[Unwritten(256)],
        "kernel @groups(%y: *mut i32) threads 256 {
           shared %tile: i32[256]
           var %v: i32 = thread
           roles warps 0..8 {
             store %tile[thread] = thread * 5
             if thread / 128 == 0 {
               barrier threads 128 id 3
               load %a: i32 = %tile[127 - thread]
               set %v = %a
             } else {
               barrier threads 128 id 4
               load %b: i32 = %tile[383 - thread]
               set %v = -%b
             }
           }
           barrier block
           store %y[thread] = %v
         }",
    );
    assert_eq!(found, [(0..256).map(|t| if t < 128 { (127 - t) * 5 } else { -(383 - t) * 5 }).collect::<Vec<i32>>()]);
}

/// `%n` tiles go through a ring of three stages, from one warp to two, which hand them back.
const RING: &str = "kernel @ring(%x: *i32, %n: i32, %y: *mut i32) threads 96 {
  shared %ring: i32[96]
  mbarrier %full arrivals 32 stages 3
  mbarrier %empty arrivals 2 stages 3
  let %in: i32 = block * %n
  roles warps 0..1 {
    for %i: i32 in 0..%n {
      wait %empty[%i % 3] phase %i / 3 - 1
      load %v: i32 = %x[(%in + %i) * 32 + thread]
      store %ring[%i % 3 * 32 + thread] = %v
      arrive %full[%i % 3]
    }
  } and warps 1..3 {
    let %lane: i32 = thread % 32
    var %sum: i32 = 0
    var %stage: i32 = 0
    var %phase: i32 = 0
    for %j: i32 in 0..%n {
      wait %full[%stage] phase %phase
      load %w: i32 = %ring[%stage * 32 + (%lane ^ thread / 32)]
      barrier warp
      if %lane == 0 {
        arrive %empty[%stage]
      }
      set %sum = %sum * 3 + %w
      set %stage = %stage + 1
      if %stage == 3 {
        set %stage = 0
        set %phase = %phase + 1
      }
    }
    store %y[block * 64 + thread - 32] = %sum
  }
}";

#[test]
fn a_ring_hands_tiles_on() {
    for n in [0, 1, 3, 10] {
        let x: Vec<i32> = (0..2 * n * 32).map(|i| i * 7 % 101).collect();
        let found = check(with_mbarriers, 2, &[Ints(x.clone()), Number(n), Unwritten(128)], RING);
        let sum = |t: i32| {
            let lane = (t % 64 % 32) ^ (t % 64 / 32 + 1);
            (0..n).fold(0, |sum: i32, j| sum.wrapping_mul(3).wrapping_add(x[((t / 64 * n + j) * 32 + lane) as usize]))
        };
        assert_eq!(found, [(0..128).map(sum).collect::<Vec<i32>>()], "{n} tiles");
    }
}

/// The emulator finds a ring without its waits.
#[test]
fn a_ring_without_a_wait_is_a_race() {
    let x: Vec<i32> = (0..640).collect();
    for (ring, wait) in [
        (RING, "wait %empty[%i % 3] phase %i / 3 - 1"),
        (RING, "wait %full[%stage] phase %phase"),
        (BULK_RING, "wait %empty[%s] phase %i / 3 - 1"),
        (BULK_RING, "wait %full[%j % 3] phase %j / 3"),
    ] {
        assert!(ring.contains(wait));
        let kernel = read(&ring.replace(wait, ""));
        let ptx = assembly(&program(vec![kernel.clone()]), &Machine::named("sm_90a").unwrap()).unwrap();
        let given = [Ints(x.clone()), Number(10), Unwritten(64)];
        let found = Schedule::ALL.map(|schedule| emulated(&kernel, &ptx, 1, &given, schedule).0);
        assert!(found.iter().any(|report| !report.clean()), "{}: {wait}", kernel.name);
    }
}

/// A ring that one thread fills with bulk copies.
const BULK_RING: &str = "kernel @bulk_ring(%x: *i32, %n: i32, %y: *mut i32) threads 96 {
  shared %ring: i32[192]
  mbarrier %full arrivals 1 stages 3
  mbarrier %empty arrivals 2 stages 3
  roles warps 0..1 {
    if thread == 0 {
      for %i: i32 in 0..%n {
        let %s: i32 = %i % 3
        let %from: i32 = (block * %n + %i) * 64
        wait %empty[%s] phase %i / 3 - 1
        prefetch %x[%from]
        arrive %full[%s] bytes 256
        bulk_copy %ring[%s * 64] = %x[%from] bytes 64 on %full[%s]
        bulk_copy %ring[%s * 64 + 16] = %x[%from + 16] bytes 192 on %full[%s]
      }
    }
  } and warps 1..3 {
    let %place: i32 = thread - 32
    var %sum: i32 = 0
    for %j: i32 in 0..%n {
      wait %full[%j % 3] phase %j / 3
      load %w: i32 = %ring[%j % 3 * 64 + (%place ^ 33)]
      set %sum = %sum * 3 + %w
      barrier warp
      if thread % 32 == 0 {
        arrive %empty[%j % 3]
      }
    }
    store %y[block * 64 + %place] = %sum
  }
}";

#[test]
fn bulk_copies_fill_a_ring() {
    for n in [0, 1, 7] {
        let x: Vec<i32> = (0..2 * n * 64).map(|i| i * 7 % 101).collect();
        let found = check(with_mbarriers, 2, &[Ints(x.clone()), Number(n), Unwritten(128)], BULK_RING);
        let sum = |t: i32| {
            let place = |j: i32| ((t / 64 * n + j) * 64 + ((t % 64) ^ 33)) as usize;
            (0..n).fold(0, |sum: i32, j| sum.wrapping_mul(3).wrapping_add(x[place(j)]))
        };
        assert_eq!(found, [(0..128).map(sum).collect::<Vec<i32>>()], "{n} tiles");
    }
}

/// Threads of a role with registers of their own.
#[test]
fn roles_have_registers() {
    let found = check(
        |machine| machine.role_registers,
        1,
        &[Unwritten(384)],
        "kernel @registers(%y: *mut i32) threads 384 {
           mbarrier %go arrivals 128 stages 1
           roles warps 0..4 registers 40 {
             store %y[thread] = 1
             arrive %go[0] bytes 0
           } and warps 4..12 registers 232 {
             wait %go[0] phase 0
             load %before: i32 = %y[thread % 128]
             store %y[thread] = %before + thread
           }
         }",
    );
    assert_eq!(found, [(0..384).map(|t| if t < 128 { 1 } else { t + 1 }).collect::<Vec<i32>>()]);
}

#[test]
fn what_a_machine_lacks_is_said() {
    let refused = |text: &str, machine: &str| {
        codegen(&program(vec![read(text)]), &Machine::named(machine).unwrap(), &Options::default()).unwrap_err().to_string()
    };
    assert_eq!(refused(RING, "sm_80"), "kernel `ring` needs mbarriers, which sm_80 does not have");
    let some = |body: &str, threads: u32| format!("kernel @k() threads {threads} {{ {body} }}");
    let registers = some("roles warps 0..4 registers 40 { }", 128);
    assert_eq!(refused(&registers, "sm_89"), "kernel `k` needs registers by role, which sm_89 does not have");
    let roles = some("roles warps 0..1 { }", 1);
    assert_eq!(refused(&roles, "x86-64-v3"), "kernel `k` needs roles of warps, which x86-64-v3 does not have");
    let meet = some("barrier threads 1 id 1", 1);
    assert_eq!(refused(&meet, "x86-64-v3"), "kernel `k` needs barriers of some threads, which x86-64-v3 does not have");
}
