//! What each operation gives, bit for bit, lane by lane. Which operations a kernel does is the interpreter's.
//!
//! A lane is the bits of an element in a `u64`: integers sign-extended, truths 0 or 1, floats their own bits.

use half::{bf16, f16};

use super::{Binary, Compare, Reduce, Unary};
use crate::DType;

/// An operation that has no result, and why.
pub(super) type Undefined = &'static str;

fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn of_float(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// `n` wrapped to the integer type.
fn wrapped(elem: DType, n: i64) -> u64 {
    if elem == DType::I32 { i64::from(n as i32) as u64 } else { n as u64 }
}

/// The bits of f32 that tf32 has.
const TF32_BITS: u64 = 0xffff_e000;

/// A subnormal number is taken for zero.
fn normal(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Of operands of type `elem`.
pub(super) fn unary(op: Unary, elem: DType, a: u64) -> u64 {
    match op {
        Unary::Neg if elem == DType::F32 => of_float(-float(a)),
        Unary::Neg => wrapped(elem, (a as i64).wrapping_neg()),
        Unary::Not if elem == DType::Bool => a ^ 1,
        Unary::Not => !a,
        Unary::Abs => of_float(float(a).abs()),
        Unary::Floor => of_float(float(a).floor()),
        Unary::Sqrt => of_float(float(a).sqrt()),
        // A negative number is sign-extended beyond its own bits.
        Unary::CountOnes if elem == DType::I32 => u64::from((a as u32).count_ones()),
        Unary::CountOnes => u64::from(a.count_ones()),
        Unary::Exp2Approx => of_float(normal(f64::from(normal(float(a))).exp2() as f32)),
        Unary::ReciprocalApprox => of_float(normal(1.0 / normal(float(a)))),
        Unary::RoundTf32 if float(a).is_nan() => 0x7fff_ffff,
        // Half of the last bit that stays; a carry goes up to infinity.
        Unary::RoundTf32 => ((a & 0xffff_ffff) + 0x1000) & TF32_BITS,
    }
}

/// Of operands of type `elem`.
pub(super) fn binary(op: Binary, elem: DType, a: u64, b: u64) -> Result<u64, Undefined> {
    if elem == DType::F32 { Ok(binary_float(op, a, b)) } else { binary_int(op, elem, a, b) }
}

fn binary_float(op: Binary, a: u64, b: u64) -> u64 {
    let (x, y) = (float(a), float(b));
    let second_if = |second: bool| if second { b } else { a };
    match op {
        Binary::Add => of_float(x + y),
        Binary::Sub => of_float(x - y),
        Binary::Mul => of_float(x * y),
        Binary::Div => of_float(x / y),
        Binary::Rem => of_float(x % y),
        Binary::Min => second_if(y < x),
        Binary::Max => second_if(x < y),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl | Binary::Shr | Binary::ShrUnsigned => a,
    }
}

fn binary_int(op: Binary, elem: DType, a: u64, b: u64) -> Result<u64, Undefined> {
    let (x, y) = (a as i64, b as i64);
    let least = if elem == DType::I32 { i64::from(i32::MIN) } else { i64::MIN };
    let divided = |quotient: fn(i64, i64) -> i64| match y {
        0 => Err("division by zero"),
        -1 if x == least => Err("the quotient overflows"),
        _ => Ok(quotient(x, y) as u64),
    };
    let shifted = |by: &dyn Fn(u32) -> i64| match u32::try_from(y) {
        Ok(n) if u64::from(n) < elem.bytes() * 8 => Ok(wrapped(elem, by(n))),
        Ok(_) | Err(_) => Err("a shift by more bits than there are"),
    };
    match op {
        Binary::Add => Ok(wrapped(elem, x.wrapping_add(y))),
        Binary::Sub => Ok(wrapped(elem, x.wrapping_sub(y))),
        Binary::Mul => Ok(wrapped(elem, x.wrapping_mul(y))),
        Binary::Div => divided(|x, y| x / y),
        Binary::Rem => divided(|x, y| x % y),
        Binary::Min => Ok(x.min(y) as u64),
        Binary::Max => Ok(x.max(y) as u64),
        Binary::And => Ok(a & b),
        Binary::Or => Ok(a | b),
        Binary::Xor => Ok(a ^ b),
        Binary::Shl => shifted(&|n| x << n),
        Binary::Shr => shifted(&|n| x >> n),
        Binary::ShrUnsigned if elem == DType::I32 => shifted(&|n| i64::from(x as u32 >> n)),
        Binary::ShrUnsigned => shifted(&|n| (x as u64 >> n) as i64),
    }
}

/// Of operands of type `elem`.
pub(super) fn compare(op: Compare, elem: DType, a: u64, b: u64) -> u64 {
    let order = if elem == DType::F32 { float(a).partial_cmp(&float(b)) } else { (a as i64).partial_cmp(&(b as i64)) };
    u64::from(match op {
        Compare::Eq => order.is_some_and(|order| order.is_eq()),
        Compare::Ne => order.is_none_or(|order| order.is_ne()),
        Compare::Lt => order.is_some_and(|order| order.is_lt()),
        Compare::Le => order.is_some_and(|order| order.is_le()),
        Compare::Gt => order.is_some_and(|order| order.is_gt()),
        Compare::Ge => order.is_some_and(|order| order.is_ge()),
    })
}

/// `a * b + c`, rounded once.
pub(super) fn fma(a: u64, b: u64, c: u64) -> u64 {
    of_float(float(a).mul_add(float(b), float(c)))
}

/// `acc` plus two products of bf16, as AVX512-BF16 does it: the second pair first, each product added with one
/// rounding, subnormal operands and results zero.
pub(super) fn dot(acc: u64, a: [u64; 2], b: [u64; 2]) -> u64 {
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let wide = |bits: u64| flush(f32::from_bits((bits as u32) << 16));
    let add = |acc: f32, i: usize| flush(wide(a[i]).mul_add(wide(b[i]), acc));
    of_float(add(add(flush(float(acc)), 1), 0))
}

/// A sum plus the products of a row and a column of 16-bit floats, or of f32 of which the bits of tf32 are looked at, as the kernel IR defines it: in order of k, each product rounded to
/// f32 (it is exact but for the least and the greatest), each sum rounded to nearest even; a NaN is PTX's canonical one. Tensor
/// cores round less or cut off (MMA-Sim, arXiv 2511.10909), so results on a GPU are held by bounds.
pub(super) fn add_products(elem: DType, sum: u64, a: &[u64], b: &[u64]) -> u64 {
    let wide = |bits: u64| match elem {
        DType::F32 => float(bits & TF32_BITS),
        elem => float(cast(elem, DType::F32, bits)),
    };
    let sum = a.iter().zip(b).fold(float(sum), |sum, (a, b)| sum + wide(*a) * wide(*b));
    if sum.is_nan() { 0x7fff_ffff } else { of_float(sum) }
}

/// All lanes into one: the upper half onto the lower, until one is left.
pub(super) fn reduce(op: Reduce, elem: DType, lanes: &[u64]) -> Result<u64, Undefined> {
    let op = match op {
        Reduce::Add => Binary::Add,
        Reduce::Max => Binary::Max,
    };
    let mut lanes = lanes.to_vec();
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len() / 2);
        for (a, b) in lanes.iter_mut().zip(upper) {
            *a = binary(op, elem, *a, b)?;
        }
    }
    Ok(lanes.first().copied().unwrap_or(0))
}

/// The same number in another type.
pub(super) fn cast(from: DType, to: DType, a: u64) -> u64 {
    match (from, to) {
        (DType::Bool | DType::I32 | DType::I64, DType::F32) => of_float(a as i64 as f32),
        (DType::Bool | DType::I32 | DType::I64, DType::I32 | DType::I64) => wrapped(to, a as i64),
        (DType::F16, DType::F32) => of_float(f16::from_bits(a as u16).to_f32()),
        (DType::BF16, DType::F32) => of_float(f32::from_bits((a as u32) << 16)),
        (DType::F32, DType::I32) => i64::from(float(a) as i32) as u64,
        (DType::F32, DType::I64) => float(a) as i64 as u64,
        (DType::F32, DType::F16) => u64::from(f16::from_f32(float(a)).to_bits()),
        (DType::F32, DType::BF16) => u64::from(bf16::from_f32(float(a)).to_bits()),
        // To its own type; the verifier refuses the rest.
        (DType::Bool | DType::I32 | DType::I64 | DType::F16 | DType::BF16 | DType::F32, _) => a,
    }
}

/// The same bits in another type: lanes of 16 bits are halves of those of 32, the low one first.
pub(super) fn bitcast(from: DType, to: DType, lanes: &[u64]) -> Vec<u64> {
    let typed = |bits: u32| if to == DType::I32 { wrapped(to, i64::from(bits)) } else { u64::from(bits) };
    match (from.bytes(), to.bytes()) {
        (2, 4) => lanes.chunks_exact(2).map(|pair| typed(pair[0] as u32 & 0xffff | (pair[1] as u32) << 16)).collect(),
        (4, 2) => lanes.iter().flat_map(|bits| [bits & 0xffff, bits >> 16 & 0xffff]).collect(),
        (_, _) => lanes.iter().map(|bits| typed(*bits as u32)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f16_to_f32(bits: u16) -> f32 {
        float(cast(DType::F16, DType::F32, u64::from(bits)))
    }

    fn f32_to_f16(x: f32) -> u16 {
        cast(DType::F32, DType::F16, of_float(x)) as u16
    }

    fn f32_to_bf16(x: f32) -> u16 {
        cast(DType::F32, DType::BF16, of_float(x)) as u16
    }

    #[test]
    fn every_f16_survives_the_way_through_f32() {
        for bits in 0..=u16::MAX {
            let x = f16_to_f32(bits);
            let same = if x.is_nan() { bits | 0x200 } else { bits };
            assert_eq!(f32_to_f16(x), same, "{bits:#06x}");
        }
    }

    /// `half` beside the rounding that this crate has of its own, for f64: at each 16-bit number, at the tie above it and at
    /// the f32 on either side of that.
    #[test]
    fn sixteen_bits_are_rounded_to_nearest_even() {
        for bits in 0..0x7c00u16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            let tie = if high.is_finite() { (low + high) / 2.0 } else { 65520.0 };
            for x in [low, tie.next_down(), tie, tie.next_up()] {
                assert_eq!(f64::from(f16_to_f32(f32_to_f16(x))), DType::F16.round(f64::from(x)), "{x:e}");
                assert_eq!(f32_to_f16(-x), f32_to_f16(x) | 0x8000, "{x:e}");
            }
        }
        for bits in 0..0x7f80u32 {
            let tie = f32::from_bits(bits << 16 | 0x8000);
            for x in [tie.next_down(), tie, tie.next_up()] {
                let rounded = f32::from_bits(u32::from(f32_to_bf16(x)) << 16);
                assert_eq!(f64::from(rounded), DType::BF16.round(f64::from(x)), "{x:e}");
            }
        }
    }

    #[test]
    fn the_edges_of_bf16() {
        for (x, bits) in [(1.0, 0x3f80), (f32::MAX, 0x7f80), (-f32::MAX, 0xff80), (1e-45, 0), (-1e-45, 0x8000), (-0.0, 0x8000)] {
            assert_eq!(f32_to_bf16(x), bits, "{x}");
        }
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80, "a tie goes to even");
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82, "a tie goes to even");
        assert_eq!(f32_to_bf16(f32::from_bits(0x7f80_0001)), 0x7fc0, "a signalling NaN");
        assert_eq!(f32_to_bf16(f32::from_bits(0x0000_8001)), 1, "subnormal");
    }

    #[test]
    fn a_dot_product_takes_the_second_pair_first_and_flushes_subnormals() {
        let b = |x: f32| u64::from(f32_to_bf16(x));
        assert_eq!(dot(of_float(1.0), [b(2.0), b(3.0)], [b(4.0), b(5.0)]), of_float(24.0));
        // 2^24 + 1 is lost at once; -2^24 first leaves it.
        let (large, one) = (b(4096.0), b(1.0));
        assert_eq!(dot(of_float(16_777_216.0), [one, b(-4096.0)], [one, large]), of_float(1.0));
        assert_eq!(dot(of_float(16_777_216.0), [b(-4096.0), one], [large, one]), of_float(0.0));
        assert_eq!(dot(of_float(1e-40), [0, 0], [0, 0]), 0);
    }

    #[test]
    fn products_are_added_in_order() {
        let b = |x: f32| u64::from(f32_to_bf16(x));
        let of = |sum: f32, a: [f32; 3], c: [f32; 3]| add_products(DType::BF16, of_float(sum), &a.map(b), &c.map(b));
        assert_eq!(of(1.0, [2.0, 3.0, 4.0], [5.0, 6.0, 7.0]), of_float(57.0));
        // 2^24 + 1 is lost, and 2^24 - 2^24 + 1 is not.
        assert_eq!(of(0.0, [4096.0, 1.0, -4096.0], [4096.0, 1.0, 4096.0]), of_float(0.0));
        assert_eq!(of(0.0, [4096.0, -4096.0, 1.0], [4096.0, 4096.0, 1.0]), of_float(1.0));
        // 2^-75 squared is below the least f32, 2^-70 squared a subnormal.
        assert_eq!(of(0.0, [2f32.powi(-75), 2f32.powi(-70), 0.0], [2f32.powi(-75), 2f32.powi(-70), 0.0]), 1 << 9);
        assert_eq!(of(f32::INFINITY, [0.0; 3], [f32::INFINITY, 0.0, 0.0]), 0x7fff_ffff);
        let f16 = |x: f32| u64::from(f32_to_f16(x));
        assert_eq!(add_products(DType::F16, of_float(0.5), &[f16(0.25)], &[f16(-2.0)]), of_float(0.0));
    }

    #[test]
    fn nan_stays_on_the_left_of_min_and_max() {
        let (nan, one) = (of_float(f32::NAN), of_float(1.0));
        for op in [Binary::Min, Binary::Max] {
            assert_eq!(binary(op, DType::F32, nan, one), Ok(nan));
            assert_eq!(binary(op, DType::F32, one, nan), Ok(one));
        }
    }
}
