//! Arithmetic of the tensor cores: plain f32 multiply-adds, or the published bit-level models.
//!
//! The models are those of MMA-Sim (arXiv 2511.10909): the products and the accumulator are aligned to the largest
//! exponent, cut off after a fixed number of fraction bits, added exactly, and cut off once more to the result.

use crate::numbers::float::{E4M3, E5M2, F16, decode, encode, exponent, narrow, round_to};
use crate::options::Numerics;
use crate::types::{MmaTy, Round, Ty};

/// Which instruction a dot product belongs to: Hopper's two differ for fp8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Mma,
    Wgmma,
}

/// The parameters of one model for one type.
#[derive(Clone, Copy, Debug)]
struct Model {
    fraction: i32,
    /// Products in one sum.
    step: usize,
    /// Fraction bits of an f32 result.
    kept: u32,
}

impl Numerics {
    fn model(self, unit: Unit, ty: MmaTy, k: usize) -> Model {
        let fp8 = matches!(ty, MmaTy::E4m3 | MmaTy::E5m2);
        let split = match ty {
            MmaTy::Tf32 => k == 8,
            MmaTy::F16 | MmaTy::Bf16 => k == 16,
            MmaTy::E4m3 | MmaTy::E5m2 => k == 32,
            MmaTy::S8 | MmaTy::U8 => false,
        };
        let half = if split { k / 2 } else { k };
        match self {
            Numerics::Ada if fp8 => Model { fraction: 13, step: half, kept: 13 },
            Numerics::Ampere | Numerics::Ada => Model { fraction: 24, step: half, kept: 23 },
            Numerics::Hopper | Numerics::Plain if fp8 && unit == Unit::Wgmma => Model { fraction: 13, step: k, kept: 13 },
            Numerics::Hopper | Numerics::Plain => Model { fraction: 25, step: k, kept: 23 },
        }
    }
}

/// An operand as a number and, for the models, as an integer with an exponent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Element {
    pub(crate) value: f32,
    significand: i64,
    exponent: i32,
}

/// Fraction bits and least exponent of a type.
fn shape(ty: MmaTy) -> (i32, i32) {
    match ty {
        MmaTy::F16 => (10, -14),
        MmaTy::Bf16 => (7, -126),
        MmaTy::Tf32 => (10, -126),
        MmaTy::E4m3 => (3, -6),
        MmaTy::E5m2 => (2, -14),
        MmaTy::S8 | MmaTy::U8 => (0, 0),
    }
}

/// Splits a finite value. Zero has the exponent -126 in the published model, whatever its type.
fn split(value: f64, fraction: i32, least: i32) -> (i64, i32) {
    if value == 0.0 || !value.is_finite() {
        return (0, -126);
    }
    let exponent = exponent(value).max(least);
    ((value * 2.0_f64.powi(fraction - exponent)) as i64, exponent)
}

impl Element {
    /// From the bits of one element.
    pub(crate) fn new(bits: u32, ty: MmaTy, numerics: Numerics) -> Element {
        let value = match ty {
            MmaTy::F16 => decode(bits & 0xffff, &F16) as f32,
            MmaTy::Bf16 => f32::from_bits(bits << 16),
            // The low 13 bits are not looked at.
            MmaTy::Tf32 => f32::from_bits(bits & 0xffff_e000),
            MmaTy::E4m3 => decode(bits & 0xff, &E4M3) as f32,
            MmaTy::E5m2 => decode(bits & 0xff, &E5M2) as f32,
            MmaTy::S8 => f32::from(bits as i8),
            MmaTy::U8 => f32::from(bits as u8),
        };
        if numerics == Numerics::Plain {
            return Element { value, ..Element::default() };
        }
        let (fraction, least) = shape(ty);
        let (significand, exponent) = split(f64::from(value), fraction, least);
        Element { value, significand, exponent }
    }

    pub(crate) fn negated(self) -> Element {
        Element { value: -self.value, significand: -self.significand, ..self }
    }
}

/// One element of D from a row of A, a column of B and one element of C.
pub(crate) fn dot(
    numerics: Numerics,
    unit: Unit,
    (a_ty, b_ty): (MmaTy, MmaTy),
    a: &[Element],
    b: &[Element],
    c: f32,
    d_ty: Ty,
) -> f32 {
    if numerics == Numerics::Plain {
        // The product of two small floats is exact in f32: this is a fused multiply-add.
        let sum = a.iter().zip(b).fold(c, |sum, (x, y)| sum + x.value * y.value);
        return if d_ty == Ty::F16 {
            decode(encode(f64::from(sum), &F16, Round::Nearest, false), &F16) as f32
        } else if sum.is_nan() {
            f32::from_bits(crate::numbers::float::NAN_F32)
        } else {
            sum
        };
    }
    let model = numerics.model(unit, a_ty, a.len());
    let shift = shape(a_ty).0 + shape(b_ty).0;
    a.chunks(model.step).zip(b.chunks(model.step)).fold(c, |sum, (x, y)| fused(model, shift, x, y, sum, d_ty))
}

/// One aligned sum.
fn fused(model: Model, product_bits: i32, a: &[Element], b: &[Element], c: f32, d_ty: Ty) -> f32 {
    // Exact in f64, or infinite, or not a number: all that is needed of it.
    let probe = a.iter().zip(b).fold(f64::from(c), |sum, (x, y)| sum + f64::from(x.value) * f64::from(y.value));
    if probe.is_nan() {
        return f32::from_bits(crate::numbers::float::NAN_F32);
    }
    if probe.is_infinite() {
        return probe as f32;
    }
    let least = if d_ty == Ty::F16 { -14 } else { -126 };
    let (c_significand, c_exponent) = split(f64::from(c), 23, least);
    let top = a.iter().zip(b).map(|(x, y)| x.exponent + y.exponent).fold(c_exponent, i32::max);
    let mut sum = cut(c_significand, model.fraction + c_exponent - top - 23);
    for (x, y) in a.iter().zip(b) {
        sum += cut(x.significand * y.significand, model.fraction + x.exponent + y.exponent - top - product_bits);
    }
    let exact = sum as f64 * 2.0_f64.powi(top - model.fraction);
    if d_ty == Ty::F16 {
        return decode(encode(exact, &F16, Round::Nearest, false), &F16) as f32;
    }
    if exact.abs() >= 2.0_f64.powi(128) {
        return if exact < 0.0 { f32::NEG_INFINITY } else { f32::INFINITY };
    }
    narrow(round_to(exact, model.kept, -126, Round::Zero), Round::Zero)
}

/// Shifts a magnitude and drops the bits that fall off its end.
fn cut(value: i64, shift: i32) -> i64 {
    let magnitude = value.unsigned_abs();
    let moved = match shift {
        ..=-64 => 0,
        -63..0 => magnitude >> -shift,
        0..64 => magnitude << shift,
        _ => 0,
    };
    if value < 0 { -(moved as i64) } else { moved as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(values: &[f32], numerics: Numerics) -> Vec<Element> {
        values.iter().map(|value| Element::new(value.to_bits() >> 16, MmaTy::Bf16, numerics)).collect()
    }

    /// Small whole numbers are exact in every model: the value is the mathematical one.
    #[test]
    fn whole_numbers_are_exact() {
        let a: Vec<f32> = (0..16).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..16).map(|i| (i % 5) as f32 - 2.0).collect();
        let exact: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>() + 9.0;
        for numerics in [Numerics::Plain, Numerics::Ampere, Numerics::Ada, Numerics::Hopper] {
            let (x, y) = (elements(&a, numerics), elements(&b, numerics));
            let found = dot(numerics, Unit::Mma, (MmaTy::Bf16, MmaTy::Bf16), &x, &y, 9.0, Ty::F32);
            assert_eq!(found, exact, "{numerics:?}");
        }
    }

    /// 2^25 + 1 - 2^25: f32 loses the 1; an aligned sum of 25 fraction bits keeps it, one of 24 does not.
    #[test]
    fn the_models_differ_where_they_are_said_to() {
        let mut a = vec![0.0; 16];
        let mut b = vec![0.0; 16];
        (a[0], b[0]) = (33_554_432.0, 1.0);
        (a[1], b[1]) = (1.0, 1.0);
        (a[2], b[2]) = (-33_554_432.0, 1.0);
        let found = |numerics| {
            let (x, y) = (elements(&a, numerics), elements(&b, numerics));
            dot(numerics, Unit::Mma, (MmaTy::Bf16, MmaTy::Bf16), &x, &y, 0.0, Ty::F32)
        };
        assert_eq!(found(Numerics::Plain), 0.0);
        assert_eq!(found(Numerics::Ampere), 0.0);
        assert_eq!(found(Numerics::Hopper), 1.0);
    }

    /// Results are cut off, not rounded: 1 + 2^-24 + 2^-24 is 1 + 2^-23, but 1 + 3 * 2^-25 is 1.
    #[test]
    fn results_are_truncated() {
        let tiny = 2.0_f32.powi(-25);
        let a = vec![1.0, tiny, tiny, tiny];
        let b = vec![1.0; 4];
        let (x, y) = (elements(&a, Numerics::Hopper), elements(&b, Numerics::Hopper));
        let found = dot(Numerics::Hopper, Unit::Mma, (MmaTy::Bf16, MmaTy::Bf16), &x, &y, 0.0, Ty::F32);
        assert_eq!(found, 1.0);
        let (x, y) = (elements(&a, Numerics::Plain), elements(&b, Numerics::Plain));
        assert_eq!(dot(Numerics::Plain, Unit::Mma, (MmaTy::Bf16, MmaTy::Bf16), &x, &y, 0.0, Ty::F32), 1.0);
    }
}
