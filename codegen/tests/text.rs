//! What is said to LLVM, before its optimiser: whole, for two small kernels on two machines.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::{block_sum, gemm_row, program, vector_add};
use moec_codegen::{assembly, llvm_text, llvm_version};
use moec_ir::kernel::Builder;
use moec_ir::{DType, Machine};

#[test]
fn block_sum_on_a_gpu() {
    let machine = Machine::named("sm_90a").unwrap();
    insta::assert_snapshot!(llvm_text(&program(vec![block_sum(64)]), &machine).unwrap());
}

#[test]
fn gemm_row_on_a_host() {
    let machine = Machine::named("x86-64-v4").unwrap();
    insta::assert_snapshot!(llvm_text(&program(vec![gemm_row(16)]), &machine).unwrap());
}

/// The same body on both, but for its frame.
#[test]
fn one_lowering_for_all() {
    let body = |machine: &str| {
        let text = llvm_text(&program(vec![gemm_row(8)]), &Machine::named(machine).unwrap()).unwrap();
        let sum = text.lines().skip_while(|l| !l.starts_with("k.loop:")).take_while(|l| !l.starts_with("k.done:"));
        sum.map(|l| l.replace(" addrspace(1)", "")).collect::<Vec<_>>()
    };
    // The GPU reads its block number from a register: its values are numbered one further.
    let plain =
        |lines: Vec<String>| -> Vec<String> { lines.iter().map(|l| l.replace(|c: char| c.is_ascii_digit(), "")).collect() };
    assert!(body("sm_80").len() > 8);
    assert_eq!(plain(body("sm_80")), plain(body("x86-64-v3")));
}

#[test]
fn assembly_is_the_machines_own() {
    let of = |machine: &str| assembly(&program(vec![vector_add(4, 1)]), &Machine::named(machine).unwrap()).unwrap();
    assert!(of("sm_80").contains(".visible .entry test_vector_add("));
    assert!(of("x86-64-v4").contains("test_x86_64_v4_vector_add:") && of("x86-64-v4").contains("vaddps"));
    assert!(of("aarch64").contains("test_aarch64_vector_add:") && of("aarch64").contains("fadd\tv"));
    assert!(llvm_version().starts_with("22."));
}

/// Where there are fewer lanes than a register has they are padded, where there are more it takes several.
#[test]
fn dot_products_of_arm() {
    let machine = Machine::named("aarch64-bf16").unwrap();
    for (lanes, count) in [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4)] {
        let k = Builder::new("dot", 1);
        let (a, out) = (k.input("a", DType::BF16), k.output("out", DType::F32));
        let (zero, v) = (k.i32(0), a.load_vector(k.i32(0), 2 * lanes));
        out.store(zero, out.load_vector(zero, lanes).dot(v, v));
        let text = assembly(&program(vec![k.finish()]), &machine).unwrap();
        assert_eq!(text.matches("bfdot").count(), count, "{text}");
    }
}
