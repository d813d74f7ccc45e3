//! `cvt` on single values (PTX ISA 9.7.9.21).

use crate::numbers::float::{BF16, E4M3, E5M2, F16, Format, TF32, decode, encode, narrow, round_to};
use crate::types::{Convert, Round, Ty};

fn format(ty: Ty) -> Option<&'static Format> {
    match ty {
        Ty::F16 | Ty::F16x2 => Some(&F16),
        Ty::Bf16 | Ty::Bf16x2 => Some(&BF16),
        Ty::E4m3 | Ty::E4m3x2 => Some(&E4M3),
        Ty::E5m2 | Ty::E5m2x2 => Some(&E5M2),
        Ty::Tf32 => Some(&TF32),
        _ => None,
    }
}

fn packed(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::Bf16x2 | Ty::E4m3x2 | Ty::E5m2x2)
}

/// Two f32 into one packed register.
pub(crate) fn takes_two(how: &Convert) -> bool {
    packed(how.to) && how.from == Ty::F32
}

/// Whether this combination of types exists and is computed.
pub(crate) fn supported(how: &Convert) -> bool {
    let plain = |ty: Ty| ty.integral() || matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64);
    let away = how.round == Round::NearestAway;
    if packed(how.to) || packed(how.from) {
        let from_float = packed(how.to) && matches!(how.from, Ty::F32 | Ty::F16x2 | Ty::Bf16x2);
        let to_half = matches!(how.to, Ty::F16x2 | Ty::Bf16x2) && matches!(how.from, Ty::E4m3x2 | Ty::E5m2x2);
        return (from_float || to_half) && !how.integral && !away && how.to != how.from;
    }
    if how.to == Ty::Tf32 {
        return how.from == Ty::F32;
    }
    let limits = !how.satfinite || matches!(how.to, Ty::F16 | Ty::Bf16);
    plain(how.to) && plain(how.from) && !away && limits
}

/// The value in the destination register.
pub(crate) fn convert(how: &Convert, a: u64, b: u64) -> u64 {
    if takes_two(how) {
        // The first operand becomes the upper half.
        let (high, low) = (float_to_small(how, single(a, how)), float_to_small(how, single(b, how)));
        return high << (how.to.bits() / 2) | low;
    }
    if packed(how.to) {
        let (from_bits, to_bits) = (how.from.bits() / 2, how.to.bits() / 2);
        let Some(source) = format(how.from) else { return 0 };
        let part = |shift: u32| {
            let bits = (a >> shift) as u32 & ((1 << from_bits) - 1);
            float_to_small(how, decode(bits, source))
        };
        return part(from_bits) << to_bits | part(0);
    }
    match (how.from.floating(), how.to.floating()) {
        (false, false) => integer_to_integer(how, a),
        (false, true) => {
            let value = integer(how.from, a);
            match how.to {
                Ty::F32 => u64::from(integer_to_f32(value, how.round)),
                Ty::F64 => (value as f64).to_bits(),
                _ => float_to_small(how, value as f64),
            }
        }
        (true, false) => float_to_integer(how, crate::numbers::float::value(how.from, a)),
        (true, true) => float_to_float(how, a),
    }
}

fn single(bits: u64, how: &Convert) -> f64 {
    let value = f32::from_bits(bits as u32);
    if how.ftz && value.is_subnormal() { f64::from(0.0_f32.copysign(value)) } else { f64::from(value) }
}

fn float_to_small(how: &Convert, value: f64) -> u64 {
    let Some(format) = format(how.to) else { return 0 };
    let value = if how.relu && value < 0.0 { 0.0 } else { value };
    let value = if how.sat { clamp_unit(value) } else { value };
    u64::from(encode(value, format, how.round, how.satfinite))
}

fn clamp_unit(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) + 0.0 }
}

fn integer(ty: Ty, bits: u64) -> i128 {
    let width = ty.bits();
    if ty.signed() {
        i128::from((bits as i64) << (64 - width) >> (64 - width))
    } else {
        i128::from(bits << (64 - width) >> (64 - width))
    }
}

fn limits(ty: Ty) -> (i128, i128) {
    let width = ty.bits();
    if ty.signed() { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

/// Sign- or zero-extends to the register's width, and keeps no more than it.
fn widen(ty: Ty, value: i128, wide: u8) -> u64 {
    let width = ty.bits();
    let narrowed = if ty.signed() { value << (128 - width) >> (128 - width) } else { value & ((1 << width) - 1) };
    let kept = u32::from(wide).clamp(width, 64);
    (narrowed as u64) << (64 - kept) >> (64 - kept)
}

fn integer_to_integer(how: &Convert, a: u64) -> u64 {
    let mut value = integer(how.from, a);
    if how.sat {
        let (low, high) = limits(how.to);
        value = value.clamp(low, high);
    }
    widen(how.to, value, how.wide)
}

fn integer_to_f32(value: i128, round: Round) -> u32 {
    if round == Round::Nearest {
        return (value as f32).to_bits();
    }
    // 64-bit integers may not fit f64: keep what is cut off as a sticky bit.
    let magnitude = value.unsigned_abs();
    let excess = 128_u32.saturating_sub(magnitude.leading_zeros() + 50);
    let sticky = u128::from(magnitude & ((1 << excess) - 1) != 0);
    let kept = ((magnitude >> excess) | sticky) as f64 * 2.0_f64.powi(excess as i32);
    narrow(if value < 0 { -kept } else { kept }, round).to_bits()
}

fn float_to_integer(how: &Convert, value: f64) -> u64 {
    let value = if how.ftz && how.from == Ty::F32 && (value as f32).is_subnormal() { 0.0 } else { value };
    if value.is_nan() {
        // PTX ISA 9.7.9.21: zero, but the top bit where f64 or a 64-bit integer is involved.
        let wide = how.from == Ty::F64 || how.to.bits() == 64;
        return if wide { 1 << (how.to.bits() - 1) } else { 0 };
    }
    let whole = match how.round {
        Round::Nearest | Round::NearestAway => value.round_ties_even(),
        Round::Zero => value.trunc(),
        Round::Down => value.floor(),
        Round::Up => value.ceil(),
    };
    let (low, high) = limits(how.to);
    widen(how.to, (whole as i128).clamp(low, high), how.wide)
}

fn float_to_float(how: &Convert, a: u64) -> u64 {
    let mut value = if how.from == Ty::F32 { single(a, how) } else { crate::numbers::float::value(how.from, a) };
    if how.integral {
        value = match how.round {
            Round::Nearest | Round::NearestAway => value.round_ties_even(),
            Round::Zero => value.trunc(),
            Round::Down => value.floor(),
            Round::Up => value.ceil(),
        };
    }
    match how.to {
        Ty::F64 => if how.sat { clamp_unit(value) } else { value }.to_bits(),
        Ty::F32 => {
            let value = if how.sat { clamp_unit(value) } else { value };
            let narrowed = narrow(value, how.round);
            let flushed = if how.ftz && narrowed.is_subnormal() { 0.0_f32.copysign(narrowed) } else { narrowed };
            u64::from(if flushed.is_nan() { crate::numbers::float::NAN_F32 } else { flushed.to_bits() })
        }
        Ty::Tf32 => {
            if value.is_nan() {
                return u64::from(crate::numbers::float::NAN_F32);
            }
            let value = if how.relu && value < 0.0 { 0.0 } else { value };
            let rounded = round_to(value, TF32.mantissa, TF32.min_exponent, how.round);
            let limited = if how.satfinite { rounded.clamp(-TF32.max, TF32.max) } else { rounded };
            u64::from((limited as f32).to_bits())
        }
        Ty::Bf16 if how.from == Ty::F32 && how.round == Round::Nearest && !how.relu && !how.satfinite && !how.sat => {
            u64::from(crate::numbers::float::f32_to_bf16(value as f32))
        }
        _ => float_to_small(how, value),
    }
}
