//! Kernels as text: out and in again, on random kernels and on anything at all.

use crate::random;
use moec_ir::Machine;
use moec_ir::kernel::parse::parse_kernel;
use moec_ir::kernel::{Builder, Part, Program, parse, print, print_kernel};
use proptest::prelude::*;

fn machine(name: &str) -> Machine {
    Machine::named(name).unwrap_or_else(|| panic!("no machine {name}"))
}

#[test]
fn random_kernels_come_back_and_mean_the_same() {
    for seed in 0..60 {
        for name in ["sm_80", "x86-64-v4-bf16"] {
            let machine = machine(name);
            random::check(&random::program(&machine, seed), &machine, seed);
        }
    }
}

#[test]
fn nonsense_is_printed_and_refused() {
    for seed in 0..2000 {
        random::check_nonsense(&random::nonsense(seed), &machine(["sm_90a", "x86-64-v3"][seed as usize % 2]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn any_words_are_parsed_or_refused(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..80)) {
        let _ = parse(&format!("program @p {{}} kernel @k(%x: *f32) threads 32 {{ {}", words.join(" ")));
        let _ = parse(&words.concat());
    }

    #[test]
    fn a_damaged_program_is_parsed_or_refused(seed in 0u64..40, at in 0usize..4000, len in 0usize..8, put in "\\PC{0,3}") {
        let text = print(&random::program(&machine("sm_80"), seed));
        let (from, to) = (at.min(text.len()), (at + len).min(text.len()));
        if let Err(error) = parse(&format!("{}{put}{}", &text[..from], &text[to..])) {
            prop_assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
        }
    }
}

const WORDS: &[&str] = &[
    "program",
    "kernel",
    "@k",
    "@\"",
    "%x",
    "%x.1",
    "%\"a\\u{e9}\"",
    "let",
    "var",
    "set",
    "load",
    "store",
    "atomic",
    "shuffle",
    "vote",
    "redux",
    "barrier",
    "registers",
    "copy",
    "bytes",
    "live",
    "commit",
    "wait",
    "groups",
    "load_matrix",
    "store_matrix",
    "copied",
    "transposed",
    "mma",
    "m16n8k16",
    "id",
    "arrivals",
    "stages",
    "phase",
    "and",
    "warps",
    "mbarrier",
    "arrive",
    "roles",
    "tile_copy",
    "barrier_arrive",
    "keep",
    "stream",
    "group_mma",
    "m64n16k32",
    "lines",
    "products",
    "fence",
    "allow_next",
    "launches",
    "early",
    "working",
    "follows",
    "cluster",
    "map",
    "view",
    "strides",
    "swizzle",
    "for",
    "if",
    "else",
    "in",
    "..",
    "step",
    "def",
    "$0",
    "$99999999999999999999",
    "=",
    "+=",
    "==",
    "<",
    "-",
    "!",
    "*",
    "+",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "f32",
    "f32x4",
    "i32x",
    "bool",
    "mask",
    "align",
    "thread",
    "block",
    "warp",
    "any",
    "fma",
    "select",
    "bits",
    "0x7fc00000",
    "bits_i32",
    "splat",
    "concat",
    "transpose",
    "lane",
    "1",
    "1.5",
    "1e9",
    "1e999",
    "99999999999999999999",
    "1i64",
    "// x\n",
    "\n",
    "regime",
    "up_to",
    "launch",
    "grid",
    "buffer",
    "T",
    "ceil",
    "/",
    "threads",
    "shared",
    "%",
    "\"",
    "\\",
    "é",
    "\u{0}",
];

#[test]
fn nesting_is_bounded_in_both_directions() {
    let brackets = format!("kernel @k() threads 1 {{ let %a: i32 = {}1{} }}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(parse_kernel(&brackets).unwrap_err().message, "brackets are nested more than 96 deep");
    let blocks = format!("kernel @k() threads 1 {{ {}", "if true {".repeat(100_000));
    assert_eq!(parse_kernel(&blocks).unwrap_err().message, "blocks are nested more than 80 deep");
    let formula = format!("program @p {{ buffer %x: input f32[{}T", "(".repeat(100_000));
    assert_eq!(parse(&formula).unwrap_err().message, "expected a formula");
}

/// Each value is used twice by the next: as a tree, 2^60 of them.
#[test]
fn shared_and_deep_expressions_print_in_linear_space() {
    let k = Builder::new("deep", 1);
    let y = k.output("y", moec_ir::DType::F32);
    let mut value = k.f32(1.5);
    for _ in 0..60 {
        value = value.fma(value, value.abs());
    }
    y.store(k.i32(0), value);
    let mut sum = k.block();
    for i in 0..2000 {
        sum = k.i32(i) - sum;
    }
    y.store(sum, k.f32(0.0));
    let kernel = k.finish();
    let text = print_kernel(&kernel);
    assert!(text.len() < 40_000, "{} bytes", text.len());
    let again = parse_kernel(&text).unwrap();
    assert_eq!(print_kernel(&again), text);
    assert_eq!(again.exprs.len(), kernel.exprs.len());
}

/// Roles as a schedule writes them.
#[test]
fn roles_are_built_as_they_are_written() {
    let k = Builder::new("built", 160);
    let full = k.mbarrier("full", 1, 2);
    let first = Box::new(|| {
        full.arrive(k.block());
        full.arrive_expecting(k.i32(1), k.i32(64));
    });
    let rest = Box::new(|| {
        full.wait(k.i32(1), k.block() / 2);
        k.barrier_of(3, 128);
    });
    k.roles(vec![Part { warps: 0..1, registers: None, body: first }, Part { warps: 1..5, registers: Some(40), body: rest }]);
    let expected = "\
kernel @built() threads 160 {
  mbarrier %full arrivals 1 stages 2
  roles warps 0..1 {
    arrive %full[block]
    arrive %full[1] bytes 64
  } and warps 1..5 registers 40 {
    wait %full[1] phase block / 2
    barrier threads 128 id 3
  }
}
";
    assert_eq!(print_kernel(&k.finish()), expected);
}

fn round_trip(text: &str) {
    let program: Program = parse(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(print(&program), text);
}

#[test]
fn every_form_is_as_it_was() {
    round_trip(include_str!("../../tests/text/kernel/every_form.kernel"));
}

#[test]
fn errors_say_where() {
    for (text, error) in [
        ("", "1:1: expected `program`"),
        ("program @p {\n  regime {\n    launch @k() grid 1\n  }\n}", "3:12: there is no such kernel"),
        ("program @p {}\nkernel @k() threads 1 {\n  let %a: i32 = %b\n}", "3:17: nothing has this name"),
        ("program @p {}\nkernel @k() threads 1 {\n  let %é: i32 = 1\n}", "3:8: 'é' has no place here"),
        ("program @p {}\nkernel @k() threads 1 {\n  let %a: i33 = 1\n}", "3:11: expected a type"),
        ("program @p {}\nkernel @k() threads 1 {\n  let %a: f32 = 1e39\n}", "3:17: not a number that fits"),
        ("program @p {}\nkernel @k() threads 1 {\n  let %a: bool = 1 < 2 < 3\n}", "3:24: expected a statement"),
    ] {
        let found = parse(text).unwrap_err().to_string();
        assert!(found.contains(error), "{found}\nis not\n{error}");
    }
}
