//! Every operation on every host, bit for bit against plain Rust (and the `half` crate).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels;
use crate::small_kernels::{array, hosts, load, map, program, zip_all};
use half::{bf16, f16};
use moec_ir::DType::{BF16, F16, F32, I32, I64};
use moec_ir::Machine;
use moec_ir::kernel::{Builder, Value};
use moec_ir::machine::Unit;

/// Equal bits, or NaN both.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// All 2^16 patterns of the upper half, with the lower halves at which rounding turns.
fn floats_near_every_bf16() -> Vec<f32> {
    let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1000, 0x3000];
    (0..1u32 << 16).flat_map(|upper| lower.map(|low| f32::from_bits(upper << 16 | low))).collect()
}

/// Numbers where operations differ.
const SPECIAL: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -2.5,
    3.4e38,
    -3.4e38,
    1e-40,
    -1e-45,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.1,
    16777217.0,
];

/// Each of `values` against each.
fn pairs<T: Copy>(values: &[T]) -> (Vec<T>, Vec<T>) {
    values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))).unzip()
}

#[test]
fn from_16_bits() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for lanes in [1, 16] {
        for (name, out) in map::<u16, f32>(BF16, F32, lanes, &all, |_, x| x.cast(F32)) {
            assert!(all.iter().zip(&out).all(|(&x, &y)| same(bf16::from_bits(x).to_f32(), y)), "bf16, {name}");
        }
        for (name, out) in map::<u16, f32>(F16, F32, lanes, &all, |_, x| x.cast(F32)) {
            assert!(all.iter().zip(&out).all(|(&x, &y)| same(f16::from_bits(x).to_f32(), y)), "f16, {name}");
        }
    }
}

#[test]
fn to_16_bits() {
    let all = floats_near_every_bf16();
    for lanes in [1, 16] {
        for (name, out) in map::<f32, u16>(F32, BF16, lanes, &all, |_, x| x.cast(BF16)) {
            let wrong = all.iter().zip(&out).find(|&(&x, &y)| bf16::from_f32(x).to_bits() != y);
            assert_eq!(wrong, None, "bf16, {name}");
        }
        for (name, out) in map::<f32, u16>(F32, F16, lanes, &all, |_, x| x.cast(F16)) {
            let right = |x: f32, y: u16| f16::from_f32(x).to_bits() == y || (x.is_nan() && f16::from_bits(y).is_nan());
            let wrong = all.iter().zip(&out).find(|&(&x, &y)| !right(x, y));
            assert_eq!(wrong, None, "f16, {name}");
        }
    }
}

#[test]
fn floats_of_one_operand() {
    type Case = (&'static str, for<'k> fn(&'k Builder, Value<'k>, Value<'k>) -> Value<'k>, fn(f32) -> f32);
    let cases: [Case; 6] = [
        ("neg", |_, x, _| -x, |x| -x),
        ("abs", |_, x, _| x.abs(), f32::abs),
        ("floor", |_, x, _| x.floor(), f32::floor),
        ("sqrt", |_, x, _| x.sqrt(), f32::sqrt),
        ("bits", |_, x, _| x.bitcast(I32).bitcast(F32), |x| x),
        ("reciprocal", |k, x, _| k.f32(1.0).splat(x.ty().lanes) / x, |x| 1.0 / x),
    ];
    let kernels = cases.map(|(_, kernel, _)| kernel);
    for lanes in [1, 4, 16] {
        for (name, outs) in zip_all::<f32, f32>(F32, F32, lanes, &SPECIAL, &SPECIAL, &kernels) {
            for ((op, _, rust), out) in cases.iter().zip(outs) {
                let wrong = SPECIAL.iter().zip(&out).find(|&(&x, &y)| !same(rust(x), y));
                assert_eq!(wrong, None, "{op} of {lanes} lanes, {name}");
            }
        }
    }
}

#[test]
fn floats_of_two_operands() {
    type Case = (&'static str, for<'k> fn(&'k Builder, Value<'k>, Value<'k>) -> Value<'k>, fn(f32, f32) -> f32);
    let cases: [Case; 9] = [
        ("add", |_, a, b| a + b, |a, b| a + b),
        ("sub", |_, a, b| a - b, |a, b| a - b),
        ("mul", |_, a, b| a * b, |a, b| a * b),
        ("div", |_, a, b| a / b, |a, b| a / b),
        ("min", |_, a, b| a.min(b), |a, b| if b < a { b } else { a }),
        ("max", |_, a, b| a.max(b), |a, b| if a < b { b } else { a }),
        ("mul add, not fused", |_, a, b| a * b + a, |a, b| a * b + a),
        ("fma", |_, a, b| a.fma(b, a), |a, b| a.mul_add(b, a)),
        ("select", |_, a, b| (a.le(b) & !a.eq(b)).select(a, -b), |a, b| if a < b { a } else { -b }),
    ];
    let (a, b) = pairs(&SPECIAL);
    let kernels = cases.map(|(_, kernel, _)| kernel);
    for lanes in [1, 8, 32] {
        for (name, outs) in zip_all::<f32, f32>(F32, F32, lanes, &a, &b, &kernels) {
            for ((op, _, rust), out) in cases.iter().zip(outs) {
                let wrong = a.iter().zip(&b).zip(&out).find(|&((&a, &b), &y)| !same(rust(a, b), y));
                assert_eq!(wrong, None, "{op} of {lanes} lanes, {name}");
            }
        }
    }
}

#[test]
fn comparisons() {
    type Kernel = for<'k> fn(&'k Builder, Value<'k>, Value<'k>) -> Value<'k>;
    type Case = (&'static str, Kernel, fn(f32, f32) -> bool, fn(i32, i32) -> bool);
    let cases: [Case; 6] = [
        ("eq", |_, a, b| a.eq(b).cast(I32), |a, b| a == b, |a, b| a == b),
        ("ne", |_, a, b| a.ne(b).cast(I32), |a, b| a != b, |a, b| a != b),
        ("lt", |_, a, b| a.lt(b).cast(I32), |a, b| a < b, |a, b| a < b),
        ("le", |_, a, b| a.le(b).cast(I32), |a, b| a <= b, |a, b| a <= b),
        ("gt", |_, a, b| a.gt(b).cast(I32), |a, b| a > b, |a, b| a > b),
        ("ge", |_, a, b| a.ge(b).cast(I32), |a, b| a >= b, |a, b| a >= b),
    ];
    let (a, b) = pairs(&SPECIAL);
    let ints = [0, 1, -1, i32::MAX, i32::MIN, 7, -8, 1 << 20];
    let (c, d) = pairs(&ints);
    let kernels = cases.map(|(_, kernel, ..)| kernel);
    for (name, outs) in zip_all::<f32, i32>(F32, I32, 16, &a, &b, &kernels) {
        for ((op, _, rust, _), out) in cases.iter().zip(outs) {
            let wrong = a.iter().zip(&b).zip(&out).find(|&((&a, &b), &y)| i32::from(rust(a, b)) != y);
            assert_eq!(wrong, None, "{op} of floats, {name}");
        }
    }
    for (name, outs) in zip_all::<i32, i32>(I32, I32, 8, &c, &d, &kernels) {
        for ((op, _, _, rust), out) in cases.iter().zip(outs) {
            let wrong = c.iter().zip(&d).zip(&out).find(|&((&a, &b), &y)| i32::from(rust(a, b)) != y);
            assert_eq!(wrong, None, "{op} of integers, {name}");
        }
    }
}

#[test]
fn integers() {
    type Kernel = for<'k> fn(&'k Builder, Value<'k>, Value<'k>) -> Value<'k>;
    type Case = (&'static str, Kernel, fn(i64, i64) -> i64, fn(i32, i32) -> i32);
    let cases: [Case; 15] = [
        ("add", |_, a, b| a + b, i64::wrapping_add, i32::wrapping_add),
        ("sub", |_, a, b| a - b, i64::wrapping_sub, i32::wrapping_sub),
        ("mul", |_, a, b| a * b, i64::wrapping_mul, i32::wrapping_mul),
        ("div", |_, a, b| a / b, i64::wrapping_div, i32::wrapping_div),
        ("rem", |_, a, b| a % b, i64::wrapping_rem, i32::wrapping_rem),
        ("min", |_, a, b| a.min(b), i64::min, i32::min),
        ("max", |_, a, b| a.max(b), i64::max, i32::max),
        ("and", |_, a, b| a & b, |a, b| a & b, |a, b| a & b),
        ("or", |_, a, b| a | b, |a, b| a | b, |a, b| a | b),
        ("xor", |_, a, b| a ^ b, |a, b| a ^ b, |a, b| a ^ b),
        ("neg, not", |_, a, b| -a ^ !b, |a, b| a.wrapping_neg() ^ !b, |a, b| a.wrapping_neg() ^ !b),
        ("shl", |_, a, b| a << (b & bits(a)), |a, b| a << (b & 63), |a, b| a << (b & 31)),
        ("shr", |_, a, b| a >> (b & bits(a)), |a, b| a >> (b & 63), |a, b| a >> (b & 31)),
        (
            "shr unsigned",
            |_, a, b| a.shr_unsigned(b & bits(a)),
            |a, b| (a as u64 >> (b & 63)) as i64,
            |a, b| (a as u32 >> (b & 31)) as i32,
        ),
        (
            "count ones",
            |_, a, b| a.count_ones() + b,
            |a, b| i64::from(a.count_ones()).wrapping_add(b),
            |a, b| (a.count_ones() as i32).wrapping_add(b),
        ),
    ];
    // No zero among the divisors.
    let wide = [1, -1, 2, -3, 7, 100, 31, 33, 63, i64::MAX, i64::MIN, 1 << 33, -(1 << 40), 123_456_789_012];
    let narrow = [1, -1, 2, -3, 7, 100, 31, 33, 63, i32::MAX, i32::MIN, 1 << 20, -(1 << 25), 123_456_789];
    let ((a, b), (c, d)) = (pairs(&wide), pairs(&narrow));
    let kernels = cases.map(|(_, kernel, ..)| kernel);
    for lanes in [1, 4] {
        for (name, outs) in zip_all::<i64, i64>(I64, I64, lanes, &a, &b, &kernels) {
            for ((op, _, rust, _), out) in cases.iter().zip(outs) {
                let wrong = a.iter().zip(&b).zip(&out).find(|&((&a, &b), &y)| rust(a, b) != y);
                assert_eq!(wrong, None, "{op} of i64, {lanes} lanes, {name}");
            }
        }
        for (name, outs) in zip_all::<i32, i32>(I32, I32, lanes, &c, &d, &kernels) {
            for ((op, _, _, rust), out) in cases.iter().zip(outs) {
                let wrong = c.iter().zip(&d).zip(&out).find(|&((&a, &b), &y)| rust(a, b) != y);
                assert_eq!(wrong, None, "{op} of i32, {lanes} lanes, {name}");
            }
        }
    }
}

/// The greatest shift of a value's type, in as many lanes.
fn bits(a: Value<'_>) -> Value<'_> {
    a.like(a.ty().elem.bytes() as i32 * 8 - 1)
}

#[test]
fn between_integers_and_floats() {
    let floats = [
        0.0f32,
        -0.9,
        0.9,
        1.5,
        -1.5,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        -2147483904.0,
        9.3e18,
        -9.3e18,
        1e30,
        -1e30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let longs = [0i64, 1, -1, 16777217, -16777219, i64::MAX, i64::MIN, 1 << 40];
    for lanes in [1, 8] {
        for (name, out) in map::<f32, i32>(F32, I32, lanes, &floats, |_, x| x.cast(I32)) {
            assert_eq!(out, floats.map(|x| x as i32), "f32 to i32, {name}");
        }
        for (name, out) in map::<f32, i64>(F32, I64, lanes, &floats, |_, x| x.cast(I64)) {
            assert_eq!(out, floats.map(|x| x as i64), "f32 to i64, {name}");
        }
        for (name, out) in map::<i64, f32>(I64, F32, lanes, &longs, |_, x| x.cast(F32)) {
            assert_eq!(out, longs.map(|x| x as f32), "i64 to f32, {name}");
        }
        for (name, out) in map::<i64, f32>(I64, F32, lanes, &longs, |_, x| x.cast(I32).cast(F32)) {
            assert_eq!(out, longs.map(|x| x as i32 as f32), "i32 to f32, {name}");
        }
        for (name, out) in map::<i64, i64>(I64, I64, lanes, &longs, |_, x| x.cast(I32).cast(I64)) {
            assert_eq!(out, longs.map(|x| i64::from(x as i32)), "i64 through i32, {name}");
        }
    }
}

#[test]
fn lanes_are_reduced_in_halves() {
    // 1e8 swallows small numbers, so that every other order gives another sum.
    let values: Vec<f32> = (0..32).map(|i| [1e8, 0.7, -1e8, 3.3][i % 4] * (1.0 + i as f32 / 7.0)).collect();
    for lanes in [2usize, 4, 8, 16, 32] {
        let (mut sum, mut greatest) = (values[..lanes].to_vec(), values[..lanes].to_vec());
        let mut half = lanes / 2;
        while half > 0 {
            (0..half).for_each(|i| sum[i] += sum[i + half]);
            (0..half).for_each(|i| greatest[i] = greatest[i].max(greatest[i + half]));
            half /= 2;
        }
        let n = lanes as u32;
        for (name, out) in map::<f32, f32>(F32, F32, n, &values[..lanes], |_, x| x.reduce_add().splat(n)) {
            assert_eq!(out, vec![sum[0]; lanes], "{lanes} lanes, {name}");
        }
        for (name, out) in map::<f32, f32>(F32, F32, n, &values[..lanes], |_, x| (x.reduce_max() + x.lane(1)).splat(n)) {
            assert_eq!(out, vec![greatest[0] + values[1]; lanes], "{lanes} lanes, {name}");
        }
    }
}

#[test]
fn matrices_are_transposed() {
    for (lanes, rows) in [(4usize, 2usize), (16, 4), (32, 2), (32, 8), (64, 4), (64, 8), (64, 32)] {
        let (columns, values): (usize, Vec<f32>) = (lanes / rows, (0..lanes).map(|i| i as f32).collect());
        let want: Vec<f32> = (0..lanes).map(|i| values[i % rows * columns + i / rows]).collect();
        for (name, out) in map::<f32, f32>(F32, F32, lanes as u32, &values, |_, x| x.transpose(rows as u32)) {
            assert_eq!(out, want, "{rows} rows of {lanes} lanes, {name}");
        }
        let turned: Vec<f32> = values[lanes / 2..].iter().chain(&values[..lanes / 2]).copied().collect();
        let half = lanes as u32 / 2;
        for (name, out) in map::<f32, f32>(F32, F32, lanes as u32, &values, |_, x| x.lanes(half, half).concat(x.lanes(0, half))) {
            assert_eq!(out, turned, "{lanes} lanes, {name}");
        }
    }
}

#[test]
fn two_of_sixteen_bits_are_one_of_32() {
    let values: Vec<u32> = (0..64u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
    for lanes in [1, 2, 8, 16] {
        for elem in [BF16, F16] {
            for (name, out) in
                map::<u32, u32>(I32, I32, lanes, &values, |_, x| (x.bitcast(elem).bitcast(I32) << 4).bitcast(F32).bitcast(I32))
            {
                assert_eq!(out, values.iter().map(|x| x << 4).collect::<Vec<_>>(), "{elem}, {lanes} lanes, {name}");
            }
        }
        // The first of two is the low half.
        for (name, out) in map::<u32, f32>(I32, F32, lanes, &values, |_, x| x.bitcast(BF16).lane(0).cast(F32).splat(lanes)) {
            let want = |first: u32| f32::from_bits(first << 16);
            let want: Vec<f32> = values.chunks(lanes as usize).flat_map(|x| vec![want(x[0]); lanes as usize]).collect();
            assert!(out.iter().zip(&want).all(|(a, b)| same(*a, *b)), "{lanes} lanes, {name}");
        }
    }
}

#[test]
fn bf16_dot_products() {
    let machines: Vec<Machine> = hosts().into_iter().filter(|m| m.rate(Unit::Dot, BF16).is_some()).collect();
    if machines.is_empty() {
        small_kernels::skipped("bf16_dot_products", "no host with AVX512-BF16");
    }
    for machine in machines {
        for lanes in [1u32, 2, 4, 8, 16, 32] {
            let k = Builder::new("dot", 1);
            let (a, b, out) = (k.input("a", BF16), k.input("b", BF16), k.output("out", F32));
            let (zero, n) = (k.i32(0), lanes as usize);
            out.store(zero, out.load_vector(zero, lanes).dot(a.load_vector(zero, lanes * 2), b.load_vector(zero, lanes * 2)));
            // Small integers: exact in any order.
            let a: Vec<f32> = (0..2 * n).map(|i| i as f32 - 9.0).collect();
            let b: Vec<f32> = (0..2 * n).map(|i| (i * i % 13) as f32).collect();
            let mut out: Vec<f32> = (0..n).map(|i| i as f32 * 100.0).collect();
            let want: Vec<f32> = (0..n).map(|i| out[i] + a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]).collect();
            let [mut a, mut b] = [a, b].map(|v| v.into_iter().map(bf16::from_f32).collect::<Vec<_>>());
            let program = program(vec![k.finish()]);
            load(&program, &machine).run("dot", &[array(&mut a), array(&mut b), array(&mut out)], 1);
            assert_eq!(out, want, "{lanes} lanes");
        }
    }
}
