//! The verifier on `tests/text/kernel/verify_*.kernel`: each file names a machine in its first line and says, at the
//! end of every line at fault, what is wrong. `MOEC_BLESS=1` rewrites what they say.

use std::path::Path;

use moec_ir::kernel::{
    Arg, Builder, Given, Kernel, Launch, Location, Mbarrier, Program, Regime, Violation, parse, print, print_with_violations,
    verify,
};
use moec_ir::machine::{Copier, MACHINES, Widths};
use moec_ir::{DType, Extent, Machine};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/text/kernel");

fn machine(name: &str) -> Machine {
    Machine::named(name).unwrap_or_else(|| panic!("no machine {name}"))
}

/// The program with every violation at the end of its line.
fn annotated(program: &Program, found: &[Violation]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in print_with_violations(program, found).lines() {
        match (line.trim_start().strip_prefix("^ error: "), lines.last_mut()) {
            (Some(message), Some(last)) if last.contains(" // error: ") => last.push_str(&format!("; error: {message}")),
            (Some(message), Some(last)) => last.push_str(&format!(" // error: {message}")),
            (Some(_) | None, _) => lines.push(line.to_string()),
        }
    }
    lines.join("\n") + "\n"
}

fn check(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (header, body) = text.split_once('\n').unwrap_or_default();
    let name = header.strip_prefix("// test: verify ").unwrap_or_else(|| panic!("{}: which machine?", path.display()));
    let program = parse(body).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = verify(&program, &machine(name)).err().unwrap_or_default();
    let is = format!("{header}\n{}", annotated(&program, &found));
    if std::env::var_os("MOEC_BLESS").is_some() {
        std::fs::write(path, &is).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    } else {
        assert_eq!(is, text, "{}", path.display());
    }
    found.len()
}

#[test]
fn every_file_says_what_is_wrong_with_it() {
    let files = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let is_test = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("verify_"));
    let errors: Vec<usize> = files.filter(|path| is_test(path)).map(|path| check(&path)).collect();
    assert!(errors.len() >= 6 && errors.iter().sum::<usize>() >= 20, "{errors:?}");
    assert!(errors.contains(&0), "a valid file too");
}

fn program(kernel: Kernel) -> Program {
    let regimes = vec![Regime { tokens_up_to: None, tile_rows: None, launches: Vec::new() }];
    Program { name: "p".into(), kernels: vec![kernel], regimes, ..Program::default() }
}

/// What text cannot say: launches of nothing.
#[test]
fn indices_that_lead_nowhere() {
    let k = Builder::new("k", 1);
    k.input("x", DType::F32);
    let mut program = program(k.finish());
    let launch = |kernel| Launch {
        kernel,
        grid: Extent::Const(1),
        early: false,
        working: None,
        args: vec![Arg { param: "x".into(), given: Given::Buffer(3) }],
    };
    program.regimes[0].launches = vec![launch(0), launch(1)];
    let found = verify(&program, &machine("x86-64-v3")).unwrap_err();
    let messages: Vec<(&Location, &str)> = found.iter().map(|v| (&v.at, v.message.as_str())).collect();
    let expected =
        [(&Location::Launch(0, 0), "%x: there is no such buffer"), (&Location::Launch(0, 1), "there is no such kernel")];
    assert_eq!(messages, expected);
}

/// What text cannot say: one name for two parameters.
#[test]
fn parameters_have_names_of_their_own() {
    let k = Builder::new("k", 1);
    k.input("x", DType::F32);
    k.scalar("x", DType::I32);
    let found = verify(&program(k.finish()), &machine("x86-64-v3")).unwrap_err();
    let messages: Vec<&str> = found.iter().map(|v| v.message.as_str()).collect();
    assert_eq!(messages, ["%x: two parameters have this name"]);
}

#[test]
fn nesting_has_an_end() {
    fn nest(k: &Builder, depth: usize) {
        if depth > 0 {
            k.when(k.bool(true), || nest(k, depth - 1));
        }
    }
    let deep = |depth| {
        let k = Builder::new("k", 1);
        nest(&k, depth);
        program(k.finish())
    };
    let machine = machine("x86-64-v3");
    assert_eq!(verify(&deep(64), &machine), Ok(()));
    assert_eq!(parse(&print(&deep(64))), Ok(deep(64)));
    let found = verify(&deep(65), &machine).unwrap_err();
    assert_eq!(found[0].message, "blocks are nested more than 64 deep");
}

#[test]
fn violations_are_printed_under_their_lines() {
    let k = Builder::new("k", 32);
    let x = k.input("x", DType::F32);
    k.when(k.thread().lt(7), || {
        k.barrier();
        x.store(k.i32(0), k.f32(1.0));
    });
    let program = program(k.finish());
    let found = verify(&program, &machine("sm_80")).unwrap_err();
    let expected = "\
program @p {
  regime {
  }
}

kernel @k(%x: *f32) threads 32 {
  if thread < 7 {
    barrier block
    ^ error: a block barrier where the threads of the block may part
    store %x[0] = 1.0
    ^ error: %x is only read: its parameter is not `*mut`
  }
}
";
    assert_eq!(print_with_violations(&program, &found), expected);
}

/// A phase of an mbarrier can expect the bytes of the largest copy, in every machine that has such copies.
#[test]
fn a_phase_can_expect_the_largest_copy() {
    let bulk = MACHINES.iter().flat_map(|machine| machine.copy_engines).filter(|engine| engine.copier == Copier::Bulk);
    let most: Vec<u32> = bulk
        .map(|engine| match engine.widths {
            Widths::Multiples { most, .. } => most,
            Widths::Of(widths) => widths.iter().copied().max().unwrap_or(0),
        })
        .collect();
    assert!(!most.is_empty() && most.iter().all(|most| *most <= Mbarrier::MOST), "{most:?}");
}
