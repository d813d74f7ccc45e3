//! Floating-point formats and arithmetic on single values, as pure functions on bits.
//!
//! Everything narrower than f64 is computed in f64, made exact by rounding to odd where a sum may not fit, and then
//! rounded once to its own format.

use crate::types::{Compare, FloatMode, FloatOp, FloatTest, FloatUnary, Round, Ty};

/// A binary format with subnormals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) mantissa: u32,
    pub(crate) min_exponent: i32,
    pub(crate) max: f64,
    /// Bits of infinity, or of NaN where there is no infinity.
    pub(crate) infinity: u32,
    pub(crate) nan: u32,
    pub(crate) bits: u32,
}

pub(crate) const F16: Format = Format { mantissa: 10, min_exponent: -14, max: 65504.0, infinity: 0x7c00, nan: 0x7fff, bits: 16 };
pub(crate) const BF16: Format =
    Format { mantissa: 7, min_exponent: -126, max: 3.389_531_389_251_535_5e38, infinity: 0x7f80, nan: 0x7fff, bits: 16 };
pub(crate) const E4M3: Format = Format { mantissa: 3, min_exponent: -6, max: 448.0, infinity: 0x7f, nan: 0x7f, bits: 8 };
pub(crate) const E5M2: Format = Format { mantissa: 2, min_exponent: -14, max: 57344.0, infinity: 0x7c, nan: 0x7f, bits: 8 };
pub(crate) const TF32: Format = Format {
    mantissa: 10,
    min_exponent: -126,
    max: 3.401_162_134_214_653_4e38,
    infinity: 0x7f80_0000 >> 13,
    nan: 0x7fff_ffff >> 13,
    bits: 19,
};

pub(crate) const NAN_F32: u32 = 0x7fff_ffff;

/// 2^exponent for exponents that f64 holds as a normal number.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The exponent of the leading bit; the value must be finite and not zero.
pub(crate) fn exponent(value: f64) -> i32 {
    let field = ((value.to_bits() >> 52) & 0x7ff) as i32;
    if field == 0 { -1022 - (value.to_bits() << 12).leading_zeros() as i32 - 1 } else { field - 1023 }
}

/// Rounds to a grid of `mantissa` bits after the leading one, and no finer than the format's subnormals.
pub(crate) fn round_to(value: f64, mantissa: u32, min_exponent: i32, round: Round) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let quantum = exponent(value).max(min_exponent) - mantissa as i32;
    let scaled = value * power(-quantum);
    let whole = match round {
        Round::Nearest => scaled.round_ties_even(),
        Round::NearestAway => scaled.round(),
        Round::Zero => scaled.trunc(),
        Round::Down => scaled.floor(),
        Round::Up => scaled.ceil(),
    };
    whole * power(quantum)
}

/// The bits of a value in a small format. `satfinite` turns what is too large into the largest.
pub(crate) fn encode(value: f64, format: &Format, round: Round, satfinite: bool) -> u32 {
    if value.is_nan() {
        return format.nan;
    }
    let sign = u32::from(value.is_sign_negative()) << (format.bits - 1);
    let rounded = round_to(value.abs(), format.mantissa, format.min_exponent, flip(round, sign != 0));
    if rounded > format.max {
        let stays_finite = match round {
            Round::Nearest | Round::NearestAway => false,
            Round::Zero => true,
            Round::Down => sign == 0,
            Round::Up => sign != 0,
        };
        let largest = format.infinity - u32::from(format.infinity != format.nan || format.bits == 8);
        return sign | if satfinite || (stays_finite && value.is_finite()) { largest } else { format.infinity };
    }
    if rounded == 0.0 {
        return sign;
    }
    let (exponent, mantissa) = (exponent(rounded), format.mantissa);
    if exponent < format.min_exponent {
        return sign | (rounded * power(mantissa as i32 - format.min_exponent)) as u32;
    }
    let fraction = (rounded * power(-exponent) - 1.0) * power(mantissa as i32);
    sign | (((exponent - format.min_exponent + 1) as u32) << mantissa) | fraction as u32
}

/// Rounding of a magnitude for a signed direction.
fn flip(round: Round, negative: bool) -> Round {
    match (round, negative) {
        (Round::Down, true) => Round::Up,
        (Round::Up, true) => Round::Down,
        (other, _) => other,
    }
}

/// The exact value of bits in a small format.
pub(crate) fn decode(bits: u32, format: &Format) -> f64 {
    let negative = bits >> (format.bits - 1) & 1 == 1;
    let magnitude = bits & ((1 << (format.bits - 1)) - 1);
    let special = if format.infinity == format.nan { magnitude == format.nan } else { magnitude >= format.infinity };
    let value = if special {
        if magnitude == format.infinity && format.infinity != format.nan { f64::INFINITY } else { f64::NAN }
    } else {
        let field = (magnitude >> format.mantissa) as i32;
        let fraction = f64::from(magnitude & ((1 << format.mantissa) - 1));
        let scale = power(format.min_exponent - format.mantissa as i32);
        if field == 0 { fraction * scale } else { (fraction + power(format.mantissa as i32)) * power(field - 1) * scale }
    };
    if negative { -value } else { value }
}

/// To the nearest even, the conversion that every epilogue uses.
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

pub(crate) fn f32_to_f16(value: f32) -> u16 {
    encode(f64::from(value), &F16, Round::Nearest, false) as u16
}

/// An f64 sum rounded to odd: rounding it again to 50 bits or fewer gives the correctly rounded sum.
pub(crate) fn odd_sum(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // Knuth's two-sum: the exact error of the addition.
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let up = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if up { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// f64 to f32 with a direction.
pub(crate) fn narrow(value: f64, round: Round) -> f32 {
    if round == Round::Nearest || !value.is_finite() {
        return value as f32;
    }
    let rounded = round_to(value, 23, -126, round);
    if rounded.abs() > f64::from(f32::MAX) {
        let outward = match round {
            Round::Zero => false,
            Round::Down => value < 0.0,
            Round::Up => value > 0.0,
            Round::Nearest | Round::NearestAway => true,
        };
        return (if outward { f32::INFINITY } else { f32::MAX }).copysign(value as f32);
    }
    rounded as f32
}

/// Which directed roundings are computed: those whose f64 intermediate is exact or odd.
pub(crate) fn rounds(ty: Ty, round: Round, name: &str) -> bool {
    ty == Ty::F32 && round != Round::NearestAway && matches!(name, "add" | "sub" | "mul" | "fma" | "mad")
}

fn flush_f32(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

/// Saturation, relu, flushing and the canonical NaN.
#[inline]
fn finish_f32(value: f32, mode: FloatMode) -> u64 {
    let mut value = value;
    if mode != FloatMode::default() {
        if mode.ftz {
            value = flush_f32(value);
        }
        if mode.sat {
            value = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) + 0.0 };
        }
        if mode.relu && value < 0.0 {
            value = 0.0;
        }
    }
    u64::from(if value.is_nan() { NAN_F32 } else { value.to_bits() })
}

#[inline]
pub(crate) fn load_f32(bits: u64, ftz: bool) -> f32 {
    let value = f32::from_bits(bits as u32);
    if ftz { flush_f32(value) } else { value }
}

/// PTX ISA 9.7.3.11: -0 is less than +0, a lone NaN loses unless `.NaN`.
fn extreme(a: f64, b: f64, largest: bool, nan: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan || (a.is_nan() && b.is_nan()) {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    let a_first = if a == b { a.is_sign_negative() } else { a < b };
    if a_first != largest { a } else { b }
}

#[inline]
pub(crate) fn binary_f32(op: FloatOp, mode: FloatMode, a: u64, b: u64) -> u64 {
    let (x, y) = (load_f32(a, mode.ftz), load_f32(b, mode.ftz));
    let value = match op {
        FloatOp::Add if mode.round == Round::Nearest => x + y,
        FloatOp::Sub if mode.round == Round::Nearest => x - y,
        FloatOp::Mul if mode.round == Round::Nearest => x * y,
        FloatOp::Add => narrow(odd_sum(f64::from(x), f64::from(y)), mode.round),
        FloatOp::Sub => narrow(odd_sum(f64::from(x), -f64::from(y)), mode.round),
        FloatOp::Mul => narrow(f64::from(x) * f64::from(y), mode.round),
        FloatOp::Div => x / y,
        FloatOp::Min => extreme(f64::from(x), f64::from(y), false, mode.nan) as f32,
        FloatOp::Max => extreme(f64::from(x), f64::from(y), true, mode.nan) as f32,
        // PTX: the sign of a, the magnitude of b.
        FloatOp::CopySign => return (a & 0x8000_0000) | (b & 0x7fff_ffff),
    };
    finish_f32(value, mode)
}

#[inline]
pub(crate) fn fma_f32(mode: FloatMode, a: u64, b: u64, c: u64) -> u64 {
    let (x, y, z) = (load_f32(a, mode.ftz), load_f32(b, mode.ftz), load_f32(c, mode.ftz));
    // The product of two f32 is exact in f64, so one odd sum and one rounding make a fused multiply-add.
    finish_f32(narrow(odd_sum(f64::from(x) * f64::from(y), f64::from(z)), mode.round), mode)
}

pub(crate) fn binary_f64(op: FloatOp, mode: FloatMode, a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    match op {
        FloatOp::Add => x + y,
        FloatOp::Sub => x - y,
        FloatOp::Mul => x * y,
        FloatOp::Div => x / y,
        FloatOp::Min => extreme(x, y, false, mode.nan),
        FloatOp::Max => extreme(x, y, true, mode.nan),
        FloatOp::CopySign => y.copysign(x),
    }
    .to_bits()
}

/// f16 and bf16: exact or odd in f64, then one rounding.
fn half_format(ty: Ty) -> &'static Format {
    if matches!(ty, Ty::Bf16 | Ty::Bf16x2) { &BF16 } else { &F16 }
}

fn finish_half(value: f64, format: &Format, mode: FloatMode) -> u64 {
    let mut value = value;
    if mode.sat {
        value = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) + 0.0 };
    }
    if mode.relu && value < 0.0 {
        value = 0.0;
    }
    let bits = encode(value, format, Round::Nearest, false);
    let subnormal = bits & 0x7fff != 0 && (bits & 0x7fff) >> format.mantissa == 0;
    u64::from(if mode.ftz && subnormal { bits & 0x8000 } else { bits })
}

fn load_half(bits: u64, format: &Format, ftz: bool) -> f64 {
    let value = decode(bits as u32 & 0xffff, format);
    if ftz && value.abs() < power(format.min_exponent) { value * 0.0 } else { value }
}

fn binary_half(op: FloatOp, ty: Ty, mode: FloatMode, a: u64, b: u64) -> u64 {
    let format = half_format(ty);
    let (x, y) = (load_half(a, format, mode.ftz), load_half(b, format, mode.ftz));
    let value = match op {
        FloatOp::Add => odd_sum(x, y),
        FloatOp::Sub => odd_sum(x, -y),
        FloatOp::Mul => x * y,
        FloatOp::Div => x / y,
        FloatOp::Min => extreme(x, y, false, mode.nan),
        FloatOp::Max => extreme(x, y, true, mode.nan),
        FloatOp::CopySign => return (a & 0x8000) | (b & 0x7fff),
    };
    finish_half(value, format, mode)
}

fn fma_half(ty: Ty, mode: FloatMode, a: u64, b: u64, c: u64) -> u64 {
    let format = half_format(ty);
    let load = |bits| load_half(bits, format, mode.ftz);
    finish_half(odd_sum(load(a) * load(b), load(c)), format, mode)
}

/// Runs an operation on the low and the high part of packed registers.
fn packed(bits: u32, mut each: impl FnMut(u32) -> u64) -> u64 {
    let mask = (1_u64 << bits) - 1;
    (each(0) & mask) | (each(bits) & mask) << bits
}

pub(crate) fn binary(op: FloatOp, ty: Ty, mode: FloatMode, a: u64, b: u64) -> u64 {
    match ty {
        Ty::F64 => binary_f64(op, mode, a, b),
        Ty::F16 | Ty::Bf16 => binary_half(op, ty, mode, a, b),
        Ty::F16x2 | Ty::Bf16x2 => packed(16, |shift| binary_half(op, ty, mode, a >> shift, b >> shift)),
        Ty::F32x2 => packed(32, |shift| binary_f32(op, mode, a >> shift, b >> shift)),
        _ => binary_f32(op, mode, a, b),
    }
}

pub(crate) fn fma(ty: Ty, mode: FloatMode, a: u64, b: u64, c: u64) -> u64 {
    match ty {
        Ty::F64 => f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits(),
        Ty::F16 | Ty::Bf16 => fma_half(ty, mode, a, b, c),
        Ty::F16x2 | Ty::Bf16x2 => packed(16, |shift| fma_half(ty, mode, a >> shift, b >> shift, c >> shift)),
        Ty::F32x2 => packed(32, |shift| fma_f32(mode, a >> shift, b >> shift, c >> shift)),
        _ => fma_f32(mode, a, b, c),
    }
}

fn unary_value(op: FloatUnary, x: f64) -> f64 {
    match op {
        FloatUnary::Neg => -x,
        FloatUnary::Abs => x.abs(),
        FloatUnary::Rcp => 1.0 / x,
        FloatUnary::Sqrt => x.sqrt(),
        FloatUnary::Rsqrt => 1.0 / x.sqrt(),
        FloatUnary::Ex2 => x.exp2(),
        FloatUnary::Lg2 => x.log2(),
        FloatUnary::Sin => x.sin(),
        FloatUnary::Cos => x.cos(),
        FloatUnary::Tanh => x.tanh(),
    }
}

pub(crate) fn unary(op: FloatUnary, ty: Ty, mode: FloatMode, a: u64) -> u64 {
    let half = |bits: u64| match op {
        // Sign operations touch no other bit, NaN included.
        FloatUnary::Neg => bits ^ 0x8000,
        FloatUnary::Abs => bits & 0x7fff,
        _ => {
            let format = half_format(ty);
            finish_half(unary_value(op, load_half(bits, format, mode.ftz)), format, mode)
        }
    };
    let single = |bits: u64| {
        let x = load_f32(bits, mode.ftz);
        match op {
            FloatUnary::Neg => u64::from((-x).to_bits()),
            FloatUnary::Abs => u64::from(x.abs().to_bits()),
            FloatUnary::Rcp => finish_f32(1.0 / x, mode),
            FloatUnary::Sqrt => finish_f32(x.sqrt(), mode),
            _ => finish_f32(unary_value(op, f64::from(x)) as f32, mode),
        }
    };
    match ty {
        Ty::F64 => unary_value(op, f64::from_bits(a)).to_bits(),
        Ty::F16 | Ty::Bf16 => half(a),
        Ty::F16x2 | Ty::Bf16x2 => packed(16, |shift| half(a >> shift)),
        Ty::F32x2 => packed(32, |shift| single(a >> shift)),
        _ => single(a),
    }
}

pub(crate) fn test(test: FloatTest, ty: Ty, a: u64) -> bool {
    let (finite, nan, infinite, subnormal, zero) = if ty == Ty::F64 {
        let x = f64::from_bits(a);
        (x.is_finite(), x.is_nan(), x.is_infinite(), x.is_subnormal(), x == 0.0)
    } else {
        let x = f32::from_bits(a as u32);
        (x.is_finite(), x.is_nan(), x.is_infinite(), x.is_subnormal(), x == 0.0)
    };
    match test {
        FloatTest::Finite => finite,
        FloatTest::Infinite => infinite,
        FloatTest::Number => !nan,
        FloatTest::NotANumber => nan,
        FloatTest::Normal => finite && !subnormal && !zero,
        FloatTest::Subnormal => subnormal,
    }
}

/// The exact value of a scalar float register.
pub(crate) fn value(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F64 => f64::from_bits(bits),
        Ty::F16 => decode(bits as u32 & 0xffff, &F16),
        Ty::Bf16 => decode(bits as u32 & 0xffff, &BF16),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// Ordered comparisons are false on NaN, the `u` ones true (PTX ISA 9.7.6.2).
pub(crate) fn compare(cmp: Compare, x: f64, y: f64) -> bool {
    let unordered = x.is_nan() || y.is_nan();
    match cmp {
        Compare::Eq => x == y,
        Compare::Ne => x != y && !unordered,
        Compare::Lt | Compare::Lo => x < y,
        Compare::Le | Compare::Ls => x <= y,
        Compare::Gt | Compare::Hi => x > y,
        Compare::Ge | Compare::Hs => x >= y,
        Compare::Equ => x == y || unordered,
        Compare::Neu => x != y,
        Compare::Ltu => x < y || unordered,
        Compare::Leu => x <= y || unordered,
        Compare::Gtu => x > y || unordered,
        Compare::Geu => x >= y || unordered,
        Compare::Num => !unordered,
        Compare::Nan => unordered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite bit pattern survives decode and encode: the formats are consistent with themselves.
    #[test]
    fn formats_round_trip() {
        for (format, width) in [(F16, 16), (BF16, 16), (E4M3, 8), (E5M2, 8)] {
            for bits in 0..1_u32 << width {
                let value = decode(bits, &format);
                if value.is_nan() {
                    continue;
                }
                assert_eq!(encode(value, &format, Round::Nearest, false), bits, "{format:?} {bits:x}");
            }
        }
    }

    /// Limits from the OCP 8-bit specification and IEEE 754.
    #[test]
    fn formats_have_the_published_limits() {
        assert_eq!(encode(500.0, &E4M3, Round::Nearest, true), 0x7e);
        assert_eq!(encode(1e9, &E5M2, Round::Nearest, true), 0x7b);
        assert_eq!(encode(-1e9, &E5M2, Round::Nearest, false), 0xfc);
        assert_eq!(encode(65519.0, &F16, Round::Nearest, false), 0x7bff);
        assert_eq!(encode(65520.0, &F16, Round::Nearest, false), 0x7c00);
        assert_eq!(encode(1e6, &F16, Round::Zero, false), 0x7bff);
        assert_eq!(decode(0x01, &E4M3), 2.0_f64.powi(-9));
        assert_eq!(decode(0x0001, &F16), 2.0_f64.powi(-24));
    }

    /// The odd-sum path gives the bits of the library's fused multiply-add.
    #[test]
    fn fused_multiply_add_rounds_once() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            f32::from_bits((state >> 32) as u32 & 0xbfff_ffff)
        };
        for _ in 0..20_000 {
            let (a, b, c) = (next(), next(), next());
            let expected = a.mul_add(b, c);
            let bits = fma_f32(FloatMode::default(), a.to_bits().into(), b.to_bits().into(), c.to_bits().into()) as u32;
            assert!(bits == expected.to_bits() || expected.is_nan(), "{a} {b} {c}");
        }
    }

    #[test]
    fn bf16_agrees_with_the_general_rounding() {
        for step in 0..100_000_u32 {
            let value = f32::from_bits(step.wrapping_mul(42_949));
            if !value.is_nan() {
                assert_eq!(u32::from(f32_to_bf16(value)), encode(value.into(), &BF16, Round::Nearest, false));
            }
        }
    }
}
