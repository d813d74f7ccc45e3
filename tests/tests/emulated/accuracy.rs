//! Sums of as many terms as published layers have, in each of the ways to compute them by tensor cores, on the published models of these:
//! within a bound of each element.

use libtest_mimic::Failed;
use moec_ir::DType;
use moec_tests::trials;
use ptx_emulator::Numerics;

use super::product::{Numbers, Product, Shape, WHOLE};

/// The longest sums that a published layer has; few rows and columns of them, whole ones.
const TERMS: usize = 14_336;

/// By target, ways to compute a product by tensor cores, and the published model of these.
const WAYS: [(&str, &str, Numerics); 5] = [
    ("sm_80", "mma(16 by 64)", Numerics::Ampere),
    ("sm_90a", "mma(16 by 64)", Numerics::Hopper),
    ("sm_80", "stream(8 by 16)", Numerics::Ampere),
    ("sm_90a", "stream(8 by 16)", Numerics::Hopper),
    ("sm_90a", "group(64 by 128)", Numerics::Hopper),
];

/// Numbers as of a normal distribution; ones of which few are by far the largest; ones of which the second half of a sum nearly cancels the
/// first.
const NUMBERS: [(&str, Numbers); 3] = [
    ("random", |n, _, _| normal(n)),
    ("heavy-tailed", |n, _, _| (0.02 / (n - 0.5)).clamp(-64.0, 64.0)),
    ("cancelling", |n, along, is_weight| {
        let here = 0.5 + (along * 2.0 * 1000.0).fract() + n / 64.0;
        if is_weight && along >= 0.5 { -here } else { here }
    }),
];

pub(super) fn cases() -> Vec<trials::Case> {
    let of = |(target, way, numerics): (&'static str, &'static str, Numerics)| {
        let name = format!("accuracy::{}_on_{target}", way.replace(['(', ')', ' '], "_"));
        let run = move || [DType::BF16, DType::F16].into_iter().try_for_each(|dtype| check(dtype, way, target, numerics));
        trials::Case::of_kernels(name.clone(), run).of_kind(&name)
    };
    WAYS.into_iter().map(of).collect()
}

/// Of a number in 0..1 one that is distributed about as a normal one: the logistic distribution's quantile of the same variance.
fn normal(n: f64) -> f64 {
    let n = n.clamp(1e-6, 1.0 - 1e-6);
    (n / (1.0 - n)).ln() * 3f64.sqrt() / std::f64::consts::PI
}

/// Long sums of all kinds of numbers. Shorter ones of one sign, where all that is cut off adds up, and whose results are rounded to 16 bits.
fn check(dtype: DType, way: &str, target: &str, numerics: Numerics) -> Result<(), Failed> {
    let of = |k: usize, out: DType| Shape { dtype, rows: 8, columns: 16, k, weights: 1, out };
    let long = NUMBERS.into_iter().map(|(name, numbers)| (name, numbers, of(TERMS, DType::F32)));
    let of_one_sign: Numbers = |n, _, _| 0.5 + n;
    for (name, numbers, shape) in long.chain([("of one sign", of_one_sign, of(TERMS / 8, dtype))]) {
        let near = Product::new(shape, way, target, numbers)?.is_near(numerics);
        near.map_err(|failed| format!("{dtype}, {name}: {}", failed.message().unwrap_or_default()))?;
    }
    // A term that is missing is within the bound of such long sums.
    Product::new(of(TERMS / 8 + 8, DType::F32), way, target, WHOLE)?.is_exact(numerics)
}
