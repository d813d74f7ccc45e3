//! Kernels compiled for the host and run, against plain Rust: control flow, memory, and the entry's contract.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::{Arg, array, gemm_row, histogram, hosts, load, map, program, vector_add};
use moec_ir::DType::{BF16, F32, I32};
use moec_ir::kernel::Builder;
use moec_ir::schedule::limits::limits;

#[test]
fn vector_add_with_a_tail() {
    for machine in hosts() {
        let loaded = load(&program(vec![vector_add(16, 1)]), &machine);
        let mut a: Vec<f32> = (0..100).map(|i| i as f32 * 0.1).collect();
        let mut b: Vec<f32> = (0..100).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        let mut c = vec![0f32; 100];
        let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        loaded.run("vector_add", &[array(&mut a), array(&mut b), array(&mut c), Arg::Number(100)], 7);
        assert_eq!(c, want, "{}", machine.name);
    }
}

#[test]
fn gemm_in_vectors() {
    for machine in hosts() {
        let loaded = load(&program(vec![gemm_row(32)]), &machine);
        let (rows, depth) = (5, 77);
        let mut a: Vec<f32> = (0..rows * depth).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
        let mut b: Vec<f32> = (0..depth * 32).map(|i| ((i * 104729) % 103) as f32 / 51.0 - 1.0).collect();
        let mut c = vec![0f32; rows * 32];
        let mut want = c.clone();
        for (i, want) in want.iter_mut().enumerate() {
            *want = (0..depth).fold(0.0, |sum, k| a[i / 32 * depth + k].mul_add(b[k * 32 + i % 32], sum));
        }
        let args = [array(&mut a), array(&mut b), array(&mut c), Arg::Number(depth as i64)];
        loaded.run("gemm_row", &args, rows as u64);
        assert_eq!(c, want, "{}", machine.name);
    }
}

#[test]
fn blocks_run_in_parts_and_on_threads() {
    for machine in hosts() {
        let loaded = load(&program(vec![histogram(1)]), &machine);
        let mut input: Vec<i32> = (0..10_000).map(|i| i * i % 16).collect();
        let mut counts = [0i32; 16];
        let mut want = [0i32; 16];
        input.iter().for_each(|&i| want[i as usize] += 1);
        let args = [array(&mut input), array(&mut counts)].map(|a| a.word());
        std::thread::scope(|scope| {
            for part in 0..4 {
                let (loaded, args) = (&loaded, &args);
                scope.spawn(move || loaded.run_words("histogram", args, part * 2500..(part + 1) * 2500));
            }
        });
        assert_eq!(counts, want, "{}", machine.name);
    }
}

#[test]
fn a_variable_is_read_where_it_is_used() {
    // x and y swap: an expression read before a `set` must not be used after it.
    let k = Builder::new("fibonacci", 1);
    let (n, out) = (k.scalar("n", I32), k.output("out", I32));
    let (x, y) = (k.var("x", k.i32(0)), k.var("y", k.i32(1)));
    k.for_range("i", k.i32(0), n, |_| {
        let next = k.bind("next", x.get() + y.get());
        x.set(y.get());
        y.set(next);
        k.when(x.get().gt(1000), || {
            x.set(x.get() % 1000);
            k.when((x.get() & 1).eq(0), || x.set(x.get() + 1));
        });
    });
    out.store(k.i32(0), x.get());
    out.store(k.i32(1), x.get() + y.get());
    let program = program(vec![k.finish()]);
    let (mut x, mut y) = (0i32, 1i32);
    for _ in 0..40 {
        (x, y) = (y, x.wrapping_add(y));
        if x > 1000 {
            x %= 1000;
            x += i32::from(x & 1 == 0);
        }
    }
    for machine in hosts() {
        let mut out = [0i32; 2];
        load(&program, &machine).run("fibonacci", &[Arg::Number(40), array(&mut out)], 1);
        assert_eq!(out, [x, x.wrapping_add(y)], "{}", machine.name);
    }
}

#[test]
fn loops_of_every_shape() {
    let k = Builder::new("loops", 1);
    let out = k.output("out", I32);
    let count = |slot: i32, start: i32, end: i32, step: i32| {
        let turns = k.var("turns", k.i32(0));
        k.for_step("i", k.i32(start), k.i32(end), k.i32(step), |i| turns.set(turns.get() * 10 + i));
        out.store(k.i32(slot), turns.get());
    };
    count(0, 0, 0, 1);
    count(1, 5, 2, 1);
    count(2, 1, 8, 3);
    count(3, -2, 3, 2);
    // Nested, with a branch of two sides; one iteration variable bounds the other.
    let total = k.var("total", k.i32(0));
    k.for_range("i", k.i32(0), k.i32(6), |i| {
        k.for_range("j", i, k.i32(6), |j| {
            k.branch(((i + j) % 2).eq(0), || total.set(total.get() + i * j), || total.set(total.get() - 1));
        });
    });
    out.store(k.i32(4), total.get());
    let program = program(vec![k.finish()]);
    let nested = (0..6).flat_map(|i| (i..6).map(move |j| if (i + j) % 2 == 0 { i * j } else { -1 })).sum();
    for machine in hosts() {
        let mut out = [-1i32; 5];
        load(&program, &machine).run("loops", &[array(&mut out)], 1);
        assert_eq!(out, [0, 0, 147, -198, nested], "{}", machine.name);
    }
}

#[test]
fn a_block_has_scratch_of_its_own() {
    let k = Builder::new("alone", 1);
    let (near, out) = (k.shared("near", I32, 8), k.output("out", I32));
    let block = k.bind("block", k.block());
    near.store(block % 8, block + 5);
    k.barrier();
    out.store(block, near.load(block % 8) * 10 + k.thread());
    let program = program(vec![k.finish()]);
    for machine in hosts() {
        let mut out = [0i32; 10];
        load(&program, &machine).run("alone", &[array(&mut out)], 10);
        assert_eq!(out, [50, 60, 70, 80, 90, 100, 110, 120, 130, 140], "{}", machine.name);
    }
}

/// Loops that copy and clear must not become calls of memcpy and memset: nothing would resolve them (and linking, which
/// refuses undefined symbols, would fail).
#[test]
fn nothing_is_called() {
    let k = Builder::new("copy", 1);
    let (from, to, n) = (k.input("from", F32), k.output("to", F32), k.scalar("n", I32));
    let near = k.shared("near", F32, 4096);
    k.for_range("i", k.i32(0), n, |i| to.store(i, from.load(i)));
    k.for_range("i", k.i32(0), k.i32(4096), |i| near.store(i, k.f32(0.0)));
    k.for_range("i", k.i32(0), n, |i| near.store(i, from.load(i) + near.load(i)));
    to.store(n, near.load(n - 1).floor().sqrt());
    let program = program(vec![k.finish()]);
    for machine in hosts() {
        let (mut from, mut to) = ([2.0f32, 3.0, 16.5], [0f32; 4]);
        load(&program, &machine).run("copy", &[array(&mut from), array(&mut to), Arg::Number(3)], 1);
        assert_eq!(to, [2.0, 3.0, 16.5, 4.0], "{}", machine.name);
    }
}

#[test]
fn a_very_deep_expression_is_no_problem() {
    for (name, out) in map::<f32, f32>(F32, F32, 1, &[1.0], |_, x| (0..5_000).fold(x, |sum, _| sum + x)) {
        assert_eq!(out, [5_001.0], "{name}");
    }
}

/// What measures a machine is all there in the machine code: a load of each stream, and every product of a turn, none joined with another.
#[test]
fn loops_that_measure_are_not_made_shorter() {
    for machine in hosts() {
        let limits = limits(&machine);
        let assembly = moec_codegen::assembly(&limits.program, &machine).unwrap();
        let lines = |word: &str| assembly.lines().filter(|line| line.trim_start().starts_with(word)).collect::<Vec<_>>();
        // 12 sums where vectors have 32 bytes, 24 where they have 64; each has 4 products a turn.
        let products = if machine.vector_bytes == 64 { 4 * 24 } else { 4 * 12 };
        assert!(lines("vfmadd").len() >= products, "{}: {assembly}", machine.name);
        let has_dots = limits.products.iter().any(|products| products.elem == BF16);
        assert!(lines("vdpbf16ps").len() >= if has_dots { products } else { 0 }, "{}: {assembly}", machine.name);
        // Memory is an operand of the sums, or loaded before.
        let read = lines("vaddps").into_iter().chain(lines("vmovups")).filter(|line| line.contains("(%"));
        assert!(read.count() >= 8, "{}: {assembly}", machine.name);
    }
}
