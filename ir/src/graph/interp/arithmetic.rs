//! Arithmetic of numbers and rows.

use super::ops::wrong;
use super::picking::mask_picks;
use super::{Tensor, Value};
use crate::graph::philox::philox;
use crate::graph::{Attr, Pointwise};

/// What computes number by number.
pub(super) fn pointwise(op: Pointwise, operands: &[&Value]) -> Result<Value, String> {
    let of = |f: &dyn Fn(f64) -> f64| match operands {
        [x] => map(x, f),
        _ => wrong(op.into()),
    };
    let with = |f: &dyn Fn(f64, f64) -> f64| match operands {
        [x, Value::Attr(Attr::Real(c))] => map(x, |x| f(x, c.get())),
        _ => wrong(op.into()),
    };
    let both = |f: &dyn Fn(f64, f64) -> f64| match operands {
        [Value::Tensor(a), Value::Tensor(b)] => Ok(Value::Tensor(zip(a, b, f)?)),
        _ => wrong(op.into()),
    };
    match op {
        Pointwise::MaskTokens => match operands {
            [Value::Tensor(x), Value::Tensor(mask)] => Ok(Value::Tensor(mask_rows(x, mask))),
            [Value::Picks(picks), Value::Tensor(mask)] => Ok(Value::Picks(mask_picks(picks, mask))),
            _ => wrong(op.into()),
        },
        Pointwise::Cast => match operands {
            [Value::Tensor(x), Value::Attr(Attr::DType(dtype))] => Ok(Value::Tensor(x.map(|x| dtype.round(x)))),
            _ => wrong(op.into()),
        },
        // What may be rounded is not.
        Pointwise::Tf32 => of(&|x| x),
        Pointwise::Scale => with(&|x, c| x * c),
        Pointwise::Offset => with(&|x, c| x + c),
        Pointwise::AtMost => with(&|x, c| if c < x { c } else { x }),
        Pointwise::AtLeast => with(&|x, c| if x < c { c } else { x }),
        Pointwise::Sigmoid => of(&sigmoid),
        Pointwise::Tanh => of(&f64::tanh),
        Pointwise::SqrtSoftplus => of(&|x| (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt()),
        Pointwise::Silu => of(&|x| x * sigmoid(x)),
        Pointwise::Gelu => of(&|x| x / 2.0 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))),
        Pointwise::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            of(&|x| x / 2.0 * (1.0 + (c * (x + 0.044715 * x * x * x)).tanh()))
        }
        Pointwise::Relu => of(&|x| if x < 0.0 { 0.0 } else { x }),
        Pointwise::Square => of(&|x| x * x),
        Pointwise::Add => both(&|a, b| a + b),
        Pointwise::Mul => both(&|a, b| a * b),
    }
}

pub(super) fn mask_rows(x: &Tensor, mask: &Tensor) -> Tensor {
    let mut y = x.clone();
    let rows = y.data.chunks_mut(x.shape[1].max(1)).zip(&mask.data);
    rows.filter(|(_, mask)| **mask == 0.0).for_each(|(row, _)| row.fill(0.0));
    y
}

pub(super) fn map(x: &Value, f: impl Fn(f64) -> f64) -> Result<Value, String> {
    map_rows(x, |row| row.iter_mut().for_each(|x| *x = f(*x)))
}

pub(super) fn map_rows(x: &Value, f: impl Fn(&mut [f64])) -> Result<Value, String> {
    match x {
        Value::Tensor(x) => {
            let mut y = x.clone();
            y.data.chunks_mut(x.shape.last().copied().unwrap_or(1).max(1)).for_each(f);
            Ok(Value::Tensor(y))
        }
        Value::Picks(picks) => Ok(Value::Picks(picks.map_rows(f))),
        Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => {
            Err("arithmetic is on tensors and picks".to_string())
        }
    }
}

pub(super) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Result<Tensor, String> {
    let n = a.shape.last().copied().unwrap_or(1).max(1);
    let of = |i: usize| match (a.shape == b.shape, b.shape.len()) {
        (true, _) => i,
        // A row, or one number.
        (false, 1) => i % n % b.data.len().max(1),
        (false, _) => i / n * b.shape[1] + i % n * b.shape[1] / n,
    };
    let other = |i: usize| b.data.get(of(i)).ok_or_else(|| format!("{:?} does not broadcast to {:?}", b.shape, a.shape));
    let data = a.data.iter().enumerate().map(|(i, x)| Ok(f(*x, *other(i)?))).collect::<Result<_, String>>()?;
    Ok(Tensor::new(a.shape.clone(), data))
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y[m, n] = sum_k x[m, k] * w[n, k]`.
pub(super) fn gemm(x: &Tensor, w: &Tensor) -> Tensor {
    let (m, n, k) = (x.shape[0], w.shape[0], x.shape[1]);
    let data = (0..m * n).map(|i| dot(&x.data[i / n * k..][..k], &w.data[i % n * k..][..k])).collect();
    Tensor::new(vec![m, n], data)
}

pub(super) fn within(ids: &Tensor, n: u64, is_token: impl Fn(usize) -> bool) -> Tensor {
    let is_within = |(t, id): (usize, &f64)| f64::from(u8::from((0.0..n as f64).contains(id) && is_token(t)));
    let data: Vec<f64> = ids.data.iter().enumerate().map(is_within).collect();
    Tensor { shape: ids.shape.clone(), data: data.into() }
}

/// The nearest finite number; the least one for NaN.
pub(super) fn finite(x: f64) -> f64 {
    if x.is_nan() { f64::MIN } else { x.clamp(f64::MIN, f64::MAX) }
}

pub(super) fn softmax(row: &mut [f64]) {
    let max = row.iter().copied().map(finite).fold(f64::MIN, f64::max);
    row.iter_mut().for_each(|x| *x = (finite(*x) - max).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// Each column of the tokens of a sequence that are no padding is a row of [`softmax`].
pub(super) fn token_softmax(x: &Tensor, is_token: impl Fn(usize) -> bool, sequence_tokens: usize) -> Tensor {
    let (tokens, n) = (x.shape[0], x.shape[1]);
    let mut y = vec![0.0; x.data.len()];
    for first in (0..tokens).step_by(sequence_tokens) {
        let here: Vec<usize> = (first..first.saturating_add(sequence_tokens).min(tokens)).filter(|t| is_token(*t)).collect();
        let places = |column: usize| here.iter().map(move |t| t * n + column);
        for column in 0..n {
            let mut row: Vec<f64> = places(column).map(|at| x.data[at]).collect();
            softmax(&mut row);
            places(column).zip(row).for_each(|(at, weight)| y[at] = weight);
        }
    }
    Tensor::new(x.shape.clone(), y)
}

pub(super) fn jitter(x: &Tensor, seed: &Tensor, eps: f64) -> Tensor {
    let key = [0, 1].map(|i| seed.data[i] as i32 as u32);
    let n = x.shape[1];
    let factor = |i: usize| {
        let (token, column) = (i / n, i % n);
        let words = philox([(column / 4) as u32, token as u32, 0, 0], key);
        let unit = f64::from(words[column % 4] >> 8) / f64::from(1 << 24);
        1.0 + eps * (2.0 * unit - 1.0)
    };
    Tensor::new(x.shape.clone(), x.data.iter().enumerate().map(|(i, x)| x * factor(i)).collect())
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
