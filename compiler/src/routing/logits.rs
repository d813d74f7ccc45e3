//! Logits where none were recorded: hidden states times the router's weight, in f32, as the layer computes them.

use half::{bf16, f16};

use super::rows::{Rows, stride};
use crate::spec::{DType, InputNorm};

/// The router up to its logits.
#[derive(Clone, Debug)]
pub struct Product {
    /// `[E, H]`.
    pub weight: Vec<f32>,
    /// `[E]`.
    pub bias: Option<Vec<f32>>,
    /// The norm in front.
    pub input_norm: Option<InputNorm>,
    /// `[H]`, after the norm.
    pub input_scale: Option<Vec<f32>>,
    /// What tokens are rounded to.
    pub dtype: DType,
}

/// Tokens whose products are computed side by side: each weight is loaded once for them.
const TOKENS: usize = 4;
const LANES: usize = 8;

/// `logits[t, e] = sum_h x[t, h] * w[e, h] + b[e]`.
pub(super) fn logits(product: &Product, experts: usize, hidden: &Rows, logits: &mut Rows) {
    let (width, padded) = (hidden.width, stride(experts));
    (logits.count, logits.width) = (hidden.count, experts);
    logits.values.clear();
    logits.values.resize(hidden.count * padded, f32::NEG_INFINITY);
    let mut tokens = vec![0.0; TOKENS * width];
    for first in (0..hidden.count).step_by(TOKENS) {
        let count = TOKENS.min(hidden.count - first);
        for (i, x) in tokens.chunks_exact_mut(width).enumerate().take(count) {
            x.copy_from_slice(&hidden.row(first + i)[..width]);
            prepare(product, x);
        }
        for (e, w) in product.weight.chunks_exact(width).enumerate() {
            let bias = product.bias.as_ref().map_or(0.0, |bias| bias[e]);
            let sums = dots(&tokens, w);
            for (i, sum) in sums.iter().enumerate().take(count) {
                logits.values[(first + i) * padded + e] = sum + bias;
            }
        }
    }
    logits.classify(&hidden.kinds);
}

fn prepare(product: &Product, x: &mut [f32]) {
    let round = |x: &mut [f32]| match product.dtype {
        DType::F32 => {}
        DType::F16 => x.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        DType::Bf16 => x.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
    };
    round(x);
    let Some(norm) = product.input_norm else { return };
    let mean = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / x.len() as f64;
    let factor = (norm.scale / (mean + norm.eps).sqrt()) as f32;
    x.iter_mut().for_each(|x| *x *= factor);
    if let Some(scale) = &product.input_scale {
        x.iter_mut().zip(scale).for_each(|(x, s)| *x *= s);
    }
    round(x);
}

/// The products of a few tokens, one after another in `x`, with one row.
fn dots(x: &[f32], w: &[f32]) -> [f32; TOKENS] {
    let whole = w.len() / LANES * LANES;
    let mut sums = [[0.0f32; LANES]; TOKENS];
    for (at, w) in w.as_chunks::<LANES>().0.iter().enumerate() {
        for (token, sums) in sums.iter_mut().enumerate() {
            let x = &x[token * (x.len() / TOKENS) + at * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] += x[lane] * w[lane];
            }
        }
    }
    let rest = |token: usize| {
        let x = &x[token * (x.len() / TOKENS) + whole..];
        x.iter().zip(&w[whole..]).map(|(x, w)| x * w).sum::<f32>()
    };
    std::array::from_fn(|token| sums[token].iter().sum::<f32>() + rest(token))
}
