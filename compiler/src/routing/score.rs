//! Scores of a row of logits in f32, in loops that a compiler turns into vectors: no calls, no branches, no rests. Good to
//! about 1e-6 of each score; which of two close scores is larger is decided in `select`.

use super::rows::LANES;

/// From the logits of a row to its scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Score {
    Softmax,
    Sigmoid,
    SqrtSoftplus,
}

/// Of one row: what its scores add up to, and what they were taken relative to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Of the scores as written.
    pub(super) sum: f32,
    /// The largest logit: softmax scores are written times `exp(-largest)`.
    pub(super) largest: f32,
}

/// Whether a row has a NaN, and its largest element.
pub(super) fn survey(x: &[f32]) -> (bool, f32) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut nan = [0u32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            largest[lane] = if x[lane] > largest[lane] { x[lane] } else { largest[lane] };
            nan[lane] |= u32::from(x[lane].is_nan());
        }
    }
    (nan.iter().any(|nan| *nan != 0), largest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// Softmax's rule for what is no finite number: the nearest one, and the least for NaN. The padding stays.
pub(super) fn make_finite(x: &mut [f32], width: usize) {
    x[..width].iter_mut().for_each(|x| *x = if x.is_nan() { f32::MIN } else { x.clamp(f32::MIN, f32::MAX) });
}

/// The scores of a row without NaN: softmax up to a factor, the others as they are. Padding, minus infinity, scores nothing.
pub(super) fn scores(score: Score, x: &[f32], largest: f32, y: &mut [f32]) -> Sums {
    let sum = match score {
        Score::Softmax => each(x, y, |x| exp(x - largest)),
        Score::Sigmoid => each(x, y, |x| 1.0 / (1.0 + exp(-x))),
        Score::SqrtSoftplus => each(x, y, |x| (if x > 0.0 { x } else { 0.0 } + ln_1p(exp(-x.abs()))).sqrt()),
    };
    Sums { sum, largest }
}

#[inline(always)]
fn each(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    for (x, y) in x.as_chunks::<LANES>().0.iter().zip(y.as_chunks_mut::<LANES>().0) {
        for lane in 0..LANES {
            y[lane] = f(x[lane]);
            sums[lane] += y[lane];
        }
    }
    sums.iter().sum()
}

/// `y += x * factor`.
pub(super) fn add_scaled(y: &mut [f32], x: &[f32], factor: f32) {
    for (y, x) in y.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
        // By way of an array, so that no store stands between two loads.
        let sum: [f32; LANES] = std::array::from_fn(|lane| y[lane] + x[lane] * factor);
        *y = sum;
    }
}

/// e^x to about 2 units in the last place, between e^-87 and e^88.
#[inline(always)]
#[allow(clippy::excessive_precision, reason = "ln 2 in two parts, the first of few bits")]
pub(super) fn exp(x: f32) -> f32 {
    // Adding it leaves a whole number in the low bits.
    const WHOLE: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = (shifted.to_bits().wrapping_sub(WHOLE.to_bits())).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// ln(1 + t) for t from 0 to 1, as twice the artanh of t / (2 + t).
#[inline(always)]
fn ln_1p(t: f32) -> f32 {
    let z = t / (2.0 + t);
    let q = z * z;
    let p = 1.0 / 13.0;
    let p = p * q + 1.0 / 11.0;
    let p = p * q + 1.0 / 9.0;
    let p = p * q + 1.0 / 7.0;
    let p = p * q + 1.0 / 5.0;
    let p = p * q + 1.0 / 3.0;
    2.0 * z * (p * q + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(value: f32, expected: f64, relative: f64) {
        assert!((f64::from(value) - expected).abs() <= relative * expected.abs() + 1e-37, "{value} {expected}");
    }

    #[test]
    fn close_to_f64() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            near(exp(x), f64::from(x).exp(), 4e-7);
        }
        for i in 0..=10_000 {
            let t = i as f32 / 10_000.0;
            near(ln_1p(t), f64::from(t).ln_1p(), 4e-7);
        }
        assert_eq!((exp(0.0), ln_1p(0.0)), (1.0, 0.0));
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(1000.0).is_finite());
    }

    #[test]
    fn rows_of_every_score() {
        let x: Vec<f32> = (0..32).map(|i| if i < 20 { (i as f32 * 37.0) % 11.0 - 5.0 } else { f32::NEG_INFINITY }).collect();
        let (nan, largest) = survey(&x);
        assert!(!nan && largest == x[..20].iter().copied().fold(f32::MIN, f32::max));
        let mut y = vec![0.0; 32];
        let mut check = |score, f: &dyn Fn(f64) -> f64| {
            let sums = scores(score, &x, largest, &mut y);
            x[..20].iter().zip(&y).for_each(|(x, y)| near(*y, f(f64::from(*x)), 2e-6));
            near(sums.sum, x[..20].iter().map(|x| f(f64::from(*x))).sum(), 2e-6);
        };
        check(Score::Softmax, &|x| (x - f64::from(largest)).exp());
        check(Score::Sigmoid, &|x| 1.0 / (1.0 + (-x).exp()));
        check(Score::SqrtSoftplus, &|x| (1.0 + x.exp()).ln().sqrt());
        assert!(survey(&[f32::NAN, 1.0].repeat(8)).0);
    }
}
