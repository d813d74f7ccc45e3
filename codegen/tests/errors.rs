//! What is refused, and how it is said.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::{program, vector_add};
use moec_codegen::{Error, Options, codegen};
use moec_ir::DType::{BF16, F32, I32};
use moec_ir::kernel::{Builder, Kernel, Stmt, Value};
use moec_ir::{Machine, MatrixShape};

fn refused(kernels: Vec<Kernel>, machine: &str) -> String {
    let error = codegen(&program(kernels), &Machine::named(machine).unwrap(), &Options::default()).unwrap_err();
    assert!(!error.is_environment());
    error.to_string()
}

#[test]
fn too_much_shared_memory() {
    let k = Builder::new("greedy", 32);
    k.shared("a", F32, 227 * 256 + 1);
    let error = refused(vec![k.finish()], "sm_90a");
    assert_eq!(error, "kernel `greedy` needs 232464 bytes of shared memory; a block on sm_90a has 232448");
}

#[test]
fn matrices_where_there_are_none() {
    let lacks = |write: fn(&Builder)| {
        let k = Builder::new("k", 1);
        write(&k);
        let error = refused(vec![k.finish()], "x86-64-v4-bf16");
        assert!(error.ends_with("which x86-64-v4-bf16 does not have"), "{error}");
        error
    };
    fn pair(k: &Builder) -> Value<'_> {
        k.f32(0.0).splat(2).cast(BF16)
    }
    let copy = lacks(|k| k.shared("to", F32, 4).copy_from(k.i32(0), k.input("from", F32), k.i32(0), 16, None));
    assert!(copy.contains("an asynchronous copy"), "{copy}");
    assert!(lacks(|k| k.commit()).contains("a group of copies"));
    assert!(lacks(|k| k.wait_copies(0)).contains("a wait for copies"));
    assert!(lacks(|k| drop(k.shared("from", BF16, 64).load_matrix(k.i32(0), 1))).contains("a matrix load"));
    let store = lacks(|k| k.shared("to", BF16, 64).store_matrix(k.i32(0), &[pair(k)], false));
    assert!(store.contains("a matrix store"), "{store}");
    let k = Builder::new("k", 1);
    k.sums("sums", 4).add_product(0, MatrixShape::M16N8K8, &[pair(&k); 2], &[pair(&k)]);
    assert!(refused(vec![k.finish()], "x86-64-v3").contains("a product of matrices"));
}

#[test]
fn a_dot_product_where_there_is_none() {
    let k = Builder::new("dot", 1);
    let (a, out) = (k.input("a", BF16), k.output("out", F32));
    let v = a.load_vector(k.i32(0), 8);
    out.store(k.i32(0), k.f32(0.0).splat(4).dot(v, v));
    let kernel = k.finish();
    let error = refused(vec![kernel.clone()], "x86-64-v4");
    assert_eq!(error, "kernel `dot` needs a bf16 dot product, which x86-64-v4 does not have");
    for machine in ["sm_80", "aarch64"] {
        assert!(refused(vec![kernel.clone()], machine).ends_with(&format!("which {machine} does not have")));
    }
}

#[test]
fn threads_and_warps_that_a_machine_lacks() {
    let error = refused(vec![vector_add(4, 128)], "x86-64-v3");
    assert_eq!(error, "kernel `vector_add` needs blocks of 128 threads, which x86-64-v3 does not have");
    let k = Builder::new("partial", 48);
    k.shuffle(k.thread(), 1);
    let error = refused(vec![k.finish()], "sm_80");
    assert_eq!(error, "kernel `partial` needs exchanges in a warp that is not whole, which sm_80 does not have");
}

#[test]
fn kernels_that_the_verifier_would_refuse() {
    assert!(refused(vec![vector_add(4, 1), vector_add(4, 1)], "sm_80").ends_with("another kernel has its name"));
    // A name used outside the block that binds it.
    let k = Builder::new("unbound", 1);
    let out = k.output("out", I32);
    out.store(k.i32(0), k.bind("late", k.i32(1)));
    let mut kernel = k.finish();
    let bound = kernel.body.remove(0);
    assert!(matches!(bound, Stmt::Let { .. }));
    kernel.body.push(bound);
    let error = refused(vec![kernel], "x86-64-v3");
    assert_eq!(error, "kernel `unbound` is malformed: `late` is used before it is bound");
}

#[test]
fn an_absent_linker_is_the_environments_fault() {
    let error = Error::NoLinker { tried: "cc".to_string() };
    assert!(error.is_environment());
}
