//! Element types, in memory and in registers.

use std::fmt;
use std::str::FromStr;

/// The type of one element. Tensors of a layer are `F32`, `F16` or `BF16`; the others belong to kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// A truth value. Lives in registers only.
    Bool,
    /// 32-bit signed integer, wrapping.
    I32,
    /// 64-bit signed integer, wrapping.
    I64,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// IEEE binary32.
    F32,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [DType; 6] = [DType::Bool, DType::I32, DType::I64, DType::F16, DType::BF16, DType::F32];

    /// Bytes of one element in memory.
    pub fn bytes(self) -> u64 {
        match self {
            DType::Bool => 1,
            DType::F16 | DType::BF16 => 2,
            DType::I32 | DType::F32 => 4,
            DType::I64 => 8,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32)
    }

    /// Whether this is an integer type (`Bool` is not one).
    pub fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::I64)
    }

    /// `x` rounded to this type (nearest, ties to even), as the interpreter needs it.
    /// Integers and `Bool` are left alone.
    // Not `f16::from_f64` and `bf16::from_f64`: half 2.7 drops the low 32 bits of the fraction first, and so takes what is a
    // little above a tie for the tie. Its conversions from f32 are right, and used where the value is one.
    pub fn round(self, x: f64) -> f64 {
        match self {
            DType::Bool | DType::I32 | DType::I64 => x,
            DType::F32 => f64::from(x as f32),
            DType::F16 => round_to(x, 10, -14, 65504.0),
            DType::BF16 => round_to(x, 7, -126, 3.3895313892515355e38),
        }
    }
}

/// `x` rounded to a binary format with `fraction` stored bits, least normal exponent `least` and
/// greatest finite value `max`.
fn round_to(x: f64, fraction: i32, least: i32, max: f64) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(least);
    let ulp = 2f64.powi(exponent - fraction);
    let rounded = (x / ulp).round_ties_even() * ulp;
    if rounded.abs() > max { f64::INFINITY.copysign(x) } else { rounded }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::Bool => "bool",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
        })
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        DType::ALL.into_iter().find(|d| d.to_string() == s).ok_or_else(|| format!("`{s}` is not an element type"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_keeps_the_upper_half_rounded_to_even() {
        for (x, y) in [(1.0, 1.0), (1.00390625, 1.0), (1.01171875, 1.015625), (-3.1, -3.09375)] {
            assert_eq!(DType::BF16.round(x), y);
        }
    }

    #[test]
    fn f16_has_subnormals_and_overflows() {
        assert_eq!(DType::F16.round(2f64.powi(-24)), 2f64.powi(-24));
        assert_eq!(DType::F16.round(2f64.powi(-26)), 0.0);
        assert_eq!(DType::F16.round(65519.0), 65504.0);
        assert_eq!(DType::F16.round(65520.0), f64::INFINITY);
    }
}
