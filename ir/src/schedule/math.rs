//! The functions of the activations, from nothing but additions, products and shifts, so that every machine gives the
//! same bits. Any number of lanes, f32.
//!
//! Errors are measured against f64 in the tests below. What a body does with these functions is in `body`.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, SQRT_2};

use crate::kernel::{Builder, Value};
use crate::{DType, Machine};

/// ln 2 in two parts, of which the first has few bits: its products with exponents are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` within 1.1 ulp, subnormal results included; 0 at minus infinity, infinity at infinity, NaN at NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, `e^r` by the polynomial of Cephes (Moshier, `expf.c`), and `2^n` in two
/// factors, since n = 128 and n < -126 have no normal power of two.
pub(crate) fn exp<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    const E_TO_R: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    // Beyond these bounds the result is 0 or infinity. `min` and `max` keep a NaN on their left.
    let x = k.bind("x", x.max(-105.0).min(89.0));
    let n = k.bind("n", x.fma(LOG2_E, 0.5).floor());
    let r = k.bind("r", n.fma(-LN_2_LOW, n.fma(-LN_2_HIGH, x)));
    let e_to_r = polynomial(r, &E_TO_R).fma(r * r, r) + 1.0;
    let n = k.bind("power", n.cast(DType::I32));
    let half = k.bind("half", n >> 1);
    e_to_r * two_to_the(half) * two_to_the(n - half)
}

/// The nearest finite number; the least one for NaN.
pub(crate) fn finite<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    k.f32(f32::MIN).splat(x.ty().lanes).max(x).min(f32::MAX)
}

/// `2^n` for n in -126..=127.
fn two_to_the(n: Value) -> Value {
    ((n + 127) << 23).bitcast(DType::F32)
}

/// How exact a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accuracy {
    /// As f32 is.
    Full,
    /// As a 16-bit result needs it, by approximations of the machine: within `2^-16` of itself, up to `|x|` of 90, and where it is below
    /// `2^-126` maybe zero.
    Half,
}

impl Accuracy {
    /// For a result of this type.
    pub(crate) fn of(result: DType, machine: &Machine) -> Accuracy {
        match result {
            DType::F16 | DType::BF16 if machine.approximations => Accuracy::Half,
            DType::F16 | DType::BF16 | DType::F32 | DType::I32 | DType::I64 | DType::Bool => Accuracy::Full,
        }
    }
}

/// `x / (1 + e^-u)`.
fn by_one_plus_exp<'k>(k: &'k Builder, x: Value<'k>, u: Value<'k>, accuracy: Accuracy) -> Value<'k> {
    match accuracy {
        Accuracy::Full => x / (exp(k, -u) + 1.0),
        Accuracy::Half => x * ((u * -LOG2_E).exp2_approx() + 1.0).reciprocal_approx(),
    }
}

/// `1 / (1 + e^-x)`.
pub(crate) fn sigmoid<'k>(k: &'k Builder, x: Value<'k>, accuracy: Accuracy) -> Value<'k> {
    by_one_plus_exp(k, x.like(1), x, accuracy)
}

/// Odd in x, within 3 ulp; 1 and -1 at the infinities, NaN at NaN.
///
/// Cephes (Moshier, `tanhf.c`): an odd polynomial below 5/8, beyond it `1 - 2 / (e^2|x| + 1)`.
pub(crate) fn tanh<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    const TO_5_8: [f32; 5] = [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8];
    let x = k.bind("x", x);
    let squared = k.bind("squared", x * x);
    let near = polynomial(squared, &TO_5_8).fma(squared * x, x);
    let far = k.bind("far", x.like(1) - x.like(2) / (exp(k, x.abs() * 2.0) + 1.0));
    x.abs().lt(0.625).select(near, x.lt(0.0).select(-far, far))
}

/// `sqrt(log(1 + e^x))` within 3 ulp; 0 at minus infinity, infinity at infinity, NaN at NaN.
///
/// `log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)`, which never overflows.
pub(crate) fn sqrt_softplus<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    let x = k.bind("x", x);
    (x.max(0.0) + log_1_plus(k, exp(k, -x.abs()))).sqrt()
}

/// `log(1 + u)` for u in 0..=1, within 3 ulp: `2 artanh s` with `s = u / (2 + u) <= 1/3`, by its Taylor series, whose
/// ninth term is below 1e-9 of the sum.
fn log_1_plus<'k>(k: &'k Builder, u: Value<'k>) -> Value<'k> {
    let u = k.bind("u", u);
    artanh(k, u / (u + 2.0)) * 2.0
}

/// `artanh s` for `|s| <= 1/3`, by eight terms of its Taylor series.
fn artanh<'k>(k: &'k Builder, s: Value<'k>) -> Value<'k> {
    const TERMS: [f32; 7] = [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0];
    let s = k.bind("s", s);
    let squared = k.bind("squared", s * s);
    polynomial(squared, &TERMS).fma(squared * s, s)
}

/// `ln x` for `x >= 0`, within 3 ulp, subnormal x included; minus infinity at 0, infinity at infinity, NaN at NaN.
///
/// `x = 2^n m` with m from `sqrt(1/2)` to `sqrt 2`, and `ln m = 2 artanh((m - 1) / (m + 1))`.
pub(crate) fn ln<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    const TO_NORMAL: i32 = 24;
    const SQRT_HALF: i32 = (SQRT_2 / 2.0).to_bits() as i32;
    let x = k.bind("x", x);
    let is_small = k.bind("is_small", x.lt(f32::MIN_POSITIVE));
    let normal = is_small.select(x * (1 << TO_NORMAL) as f32, x);
    let bits = k.bind("bits", normal.bitcast(DType::I32));
    let power = k.bind("power", (bits - SQRT_HALF) >> 23);
    let m = k.bind("m", (bits - (power << 23)).bitcast(DType::F32));
    let n = k.bind("n", is_small.select(power - TO_NORMAL, power).cast(DType::F32));
    let of_m = artanh(k, (m - 1.0) / (m + 1.0)) * 2.0;
    let ln = n.fma(LN_2_HIGH, n.fma(LN_2_LOW, of_m));
    let at_edges = x.eq(0.0).select(x.like(-1) / x.abs(), x);
    (x.gt(0.0) & x.le(f32::MAX)).select(ln, at_edges)
}

/// `x^p` for `x >= 0` and `p > 0`: exact steps for p of 1, 2 and 1/2, else `e^(p ln x)`, within `2 + p |ln x|` ulp.
pub(crate) fn power<'k>(k: &'k Builder, x: Value<'k>, p: f64) -> Value<'k> {
    let x = k.bind("x", x);
    match p {
        1.0 => x,
        2.0 => x * x,
        0.5 => x.sqrt(),
        p => exp(k, ln(k, x) * p as f32),
    }
}

/// `x / (1 + e^-x)`.
pub(crate) fn silu<'k>(k: &'k Builder, x: Value<'k>, accuracy: Accuracy) -> Value<'k> {
    let x = k.bind("x", x);
    by_one_plus_exp(k, x, x, accuracy)
}

/// `x Phi(x)`, where `Phi(x) = (1 + erf(x / sqrt 2)) / 2` = `erfc(-x / sqrt 2) / 2`: no cancellation where x is negative.
pub(crate) fn gelu<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    let x = k.bind("x", x);
    let upper = k.bind("upper", erfc(k, x.abs() * FRAC_1_SQRT_2) * 0.5);
    x * x.lt(0.0).select(upper, upper.like(1) - upper)
}

/// `x / 2 (1 + tanh u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, which is `x sigmoid(2 u)`.
pub(crate) fn gelu_tanh<'k>(k: &'k Builder, x: Value<'k>, accuracy: Accuracy) -> Value<'k> {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let x = k.bind("x", x);
    let u = x * (x * x).fma(0.044_715, 1.0) * TWICE_SQRT_2_OVER_PI;
    by_one_plus_exp(k, x, u, accuracy)
}

/// `1 - erf(z)` for `z >= 0`, within 1.5e-7 and, up to 3, 1e-6 of itself. Cephes (Moshier, `ndtrf.c`): an odd polynomial
/// up to 1, beyond it `e^(-z^2) / z` times a polynomial in `1 / z^2`, one up to 2 and one after.
fn erfc<'k>(k: &'k Builder, z: Value<'k>) -> Value<'k> {
    const TO_1: [f32; 7] =
        [7.853_861_5e-5, -8.010_193_7e-4, 5.188_327_7e-3, -2.685_381_3e-2, 0.112_835_854, -0.376_126_27, FRAC_2_SQRT_PI];
    const TO_2: [f32; 9] = [
        2.326_82e-2,
        -0.138_703_94,
        0.368_742_47,
        -0.582_473_3,
        0.621_000_47,
        -0.494_451_52,
        0.340_488,
        -0.274_112_7,
        0.563_825_96,
    ];
    const BEYOND: [f32; 8] =
        [-10.477_664, 12.977_2, -7.495_518_7, 2.921_019, -1.015_265_2, 0.421_846_33, -0.282_076_75, 0.564_189_5];
    let z = k.bind("z", z);
    let squared = k.bind("squared", z * z);
    let near = z.like(1) - z * polynomial(squared, &TO_1);
    let inverse = k.bind("inverse", z.like(1) / z.max(1.0));
    let y = k.bind("y", inverse * inverse);
    let far = z.lt(2.0).select(polynomial(y, &TO_2), polynomial(y, &BEYOND));
    z.lt(1.0).select(near, exp(k, -squared) * inverse * far)
}

/// Horner's rule, the highest power first.
fn polynomial<'k>(x: Value<'k>, coefficients: &[f32]) -> Value<'k> {
    match coefficients {
        [] => x.like(0),
        [highest, rest @ ..] => rest.iter().fold(x.like(0) + *highest, |sum, c| sum.fma(x, *c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Machine;
    use crate::kernel::{Argument, Memory, interp_kernel};

    type Function = for<'k> fn(&'k Builder, Value<'k>) -> Value<'k>;

    fn sigmoid<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
        super::sigmoid(k, x, Accuracy::Full)
    }

    fn silu<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
        super::silu(k, x, Accuracy::Full)
    }

    fn gelu_tanh<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
        super::gelu_tanh(k, x, Accuracy::Full)
    }

    /// `function` of every number, by the interpreter.
    fn run(function: Function, lanes: u32, xs: &[f32]) -> Vec<f32> {
        run_on("x86-64-v4", function, lanes, xs)
    }

    fn run_on(machine: &str, function: Function, lanes: u32, xs: &[f32]) -> Vec<f32> {
        let machine = Machine::named(machine).unwrap();
        let threads = machine.warp_lanes;
        let k = Builder::new("function", threads);
        let (from, to) = (k.input("x", DType::F32), k.output("y", DType::F32));
        let (first, step) = (k.thread() * lanes as i32, k.i32((threads * lanes) as i32));
        k.for_step("i", first, k.i32(xs.len() as i32), step, |i| {
            to.store(i, function(&k, from.load_vector(i, lanes)));
        });
        let bytes: Vec<u8> = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut memory = vec![Memory::from(bytes), Memory::unknown(xs.len() * 4)];
        interp_kernel(&k.finish(), &machine, 1, &[Argument::Buffer(0), Argument::Buffer(1)], &mut memory).unwrap();
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        memory[1].bytes().unwrap().chunks(4).map(float).collect()
    }

    /// Numbers of every size up to `most`, of both signs.
    fn sweep(most: f32) -> Vec<f32> {
        let bits = (0..most.to_bits()).step_by(999_983).map(f32::from_bits);
        let even = (0..1024).map(|i| most * (i as f32 / 1024.0));
        bits.chain(even).flat_map(|x| [x, -x]).collect()
    }

    fn ulp(y: f64) -> f64 {
        2f64.powi((y.abs().log2().floor() as i32).saturating_sub(23).max(-149))
    }

    fn worst(function: Function, most: f32, error: impl Fn(f64, f64) -> f64) -> f64 {
        let xs = sweep(most);
        let ys = run(function, 1, &xs);
        xs.iter()
            .zip(&ys)
            .map(|(x, y)| error(f64::from(*x), f64::from(*y)))
            .fold(0.0, |most, e| if e > most || e.is_nan() { e } else { most })
    }

    /// `2 / sqrt pi e^(-z^2) sum 2^n z^(2n + 1) / (2n + 1)!!`: every term has z's sign.
    fn erf(z: f64) -> f64 {
        let terms = (0..200).scan(z, |term, n| {
            let this = *term;
            *term *= 2.0 * z * z / (2.0 * f64::from(n) + 3.0);
            Some(this)
        });
        if z.abs() > 6.0 { z.signum() } else { std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * terms.sum::<f64>() }
    }

    #[test]
    fn exp_is_within_1_1_ulp() {
        let ulps = worst(exp, 88.72, |x, y| (y - x.exp()).abs() / ulp(x.exp()));
        assert!(ulps < 1.1, "{ulps} ulp");
    }

    /// The interpreter's approximations are exact: what is left is the rounding of `x log2 e`. A machine's add `2^-22` each.
    #[test]
    fn approximations_are_enough_for_16_bits() {
        type Meaning = fn(f64) -> f64;
        let functions: [(Function, Meaning); 3] = [
            (|k, x| super::sigmoid(k, x, Accuracy::Half), |x| 1.0 / (1.0 + (-x).exp())),
            (|k, x| super::silu(k, x, Accuracy::Half), |x| x / (1.0 + (-x).exp())),
            (
                |k, x| super::gelu_tanh(k, x, Accuracy::Half),
                |x| x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).exp()),
            ),
        ];
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for (i, (function, of)) in functions.into_iter().enumerate() {
            let xs = sweep(if i == 2 { 9.0 } else { 90.0 });
            for (x, y) in xs.iter().zip(run_on("sm_90a", function, 1, &xs)) {
                let expected = of(f64::from(*x));
                // A reciprocal below the least normal number is zero.
                let error = (f64::from(y) - expected).abs() - f64::from(x.abs().max(1.0)) * 2f64.powi(-126);
                assert!(error <= 2f64.powi(-16) * expected.abs(), "{i}: {y} for {x}, not {expected}");
            }
            let ends = run_on("sm_90a", function, 1, &[inf, 1e30, -1e30, 0.0, nan]);
            assert_eq!(ends[..4], run(if i == 0 { sigmoid } else { silu }, 1, &[inf, 1e30, -1e30, 0.0]), "{i}");
            assert!(ends[4].is_nan());
        }
    }

    #[test]
    fn exp_at_the_edges() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let xs = [0.0, -0.0, inf, -inf, 88.73, 1e30, -104.0, -1e30, 88.722_83, -103.0];
        assert_eq!(run(exp, 1, &xs)[..8], [1.0, 1.0, inf, 0.0, inf, inf, 0.0, 0.0]);
        assert!(run(exp, 1, &xs)[8].is_finite());
        assert_eq!(run(exp, 1, &xs)[9], (-103f64).exp() as f32);
        for function in [exp, sigmoid, silu, gelu, gelu_tanh, tanh, sqrt_softplus, ln] as [Function; 8] {
            assert!(run(function, 1, &[nan])[0].is_nan());
        }
    }

    #[test]
    fn scores_are_within_3_ulp() {
        let of_tanh = worst(tanh, 20.0, |x, y| (y - x.tanh()).abs() / ulp(x.tanh()));
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let of_softplus = worst(sqrt_softplus, 80.0, |x, y| (y - softplus(x).sqrt()).abs() / ulp(softplus(x).sqrt()));
        assert!(of_tanh < 3.0 && of_softplus < 3.0, "tanh {of_tanh} ulp, sqrt_softplus {of_softplus} ulp");
        let (inf, huge) = (f32::INFINITY, 1e30);
        assert_eq!(run(tanh, 1, &[inf, -inf, huge, -huge, 0.0]), [1.0, -1.0, 1.0, -1.0, 0.0]);
        assert_eq!(run(sqrt_softplus, 1, &[inf, -inf, huge, -huge]), [inf, 0.0, huge.sqrt(), 0.0]);
    }

    #[test]
    fn logarithms_and_powers() {
        let positive = |x: f64, error: f64| if x > 0.0 { error } else { 0.0 };
        let of_ln = worst(ln, f32::MAX, |x, y| positive(x, (y - x.ln()).abs() / ulp(x.ln())));
        assert!(of_ln < 3.0, "{of_ln} ulp");
        let (inf, tiny) = (f32::INFINITY, f32::from_bits(1));
        let edges = run(ln, 1, &[0.0, -0.0, inf, 1.0, f32::NAN, tiny]);
        assert_eq!(edges[..4], [-inf, -inf, inf, 0.0]);
        assert!(edges[4].is_nan() && (edges[5] - tiny.ln()).abs() < 1e-4);
        let powers: [(f64, Function); 4] = [
            (2.0, |k, x| power(k, x, 2.0)),
            (0.5, |k, x| power(k, x, 0.5)),
            (3.0, |k, x| power(k, x, 3.0)),
            (0.3, |k, x| power(k, x, 0.3)),
        ];
        for (p, function) in powers {
            let error = worst(function, 1.0, |x, y| positive(x, (y - x.powf(p)).abs()));
            assert!(error < 2e-7, "power {p}: {error}");
            assert_eq!(run(function, 1, &[0.0, 1.0]), [0.0, 1.0]);
        }
    }

    #[test]
    fn activations() {
        let near = |meaning: fn(f64) -> f64| move |x: f64, y: f64| (y - meaning(x)).abs() / (1.0 + x.abs());
        let silu_error = worst(silu, 200.0, near(|x| x / (1.0 + (-x).exp())));
        let sigmoid_error = worst(sigmoid, 200.0, near(|x| 1.0 / (1.0 + (-x).exp())));
        let gelu_error = worst(gelu, 20.0, near(|x| x / 2.0 * (1.0 + erf(x / 2f64.sqrt()))));
        let cubic = |x: f64| std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x);
        let tanh_error = worst(gelu_tanh, 20.0, move |x, y| (y - x / 2.0 * (1.0 + cubic(x).tanh())).abs() / (1.0 + x.abs()));
        for (name, error) in [("silu", silu_error), ("sigmoid", sigmoid_error), ("gelu", gelu_error), ("gelu_tanh", tanh_error)] {
            assert!(error < 1.5e-7, "{name}: {error}");
        }
    }

    #[test]
    fn activations_of_large_numbers_are_zero_or_themselves() {
        for function in [silu, gelu, gelu_tanh] as [Function; 3] {
            assert_eq!(run(function, 1, &[-1e30, -200.0, 200.0, 1e30]), [0.0, 0.0, 200.0, 1e30]);
        }
    }

    #[test]
    fn lanes_do_not_change_bits() {
        let xs: Vec<f32> = sweep(30.0).into_iter().take(2048).collect();
        for function in [exp, sigmoid, silu, gelu, gelu_tanh, tanh, sqrt_softplus] as [Function; 7] {
            assert_eq!(run(function, 1, &xs), run(function, 16, &xs));
        }
    }
}
