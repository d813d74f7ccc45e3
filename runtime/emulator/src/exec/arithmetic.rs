//! Integer, bit, comparison, move and conversion instructions on all lanes of a warp, with the watch for 32-bit wraps.

use crate::numbers::convert::convert;
use crate::numbers::float;
use crate::state::warp::LANES;
use crate::state::warp::{Warp, Wrap, lanes};
use crate::text::ins::{Pred, Reg};
use crate::types::{Compare, Convert, IntOp, IntUnary, Logic, MadOp, PermuteMode, Ty};

fn sign(value: u64, bits: u32) -> i64 {
    (value as i64) << (64 - bits) >> (64 - bits)
}

fn trim(value: u64, bits: u32) -> u64 {
    value << (64 - bits) >> (64 - bits)
}

/// Shift amounts beyond the width shift everything out (PTX ISA 9.7.8.7).
fn shift_left(value: u64, by: u64, bits: u32) -> u64 {
    if by as u32 >= bits { 0 } else { trim(value << by as u32, bits) }
}

fn shift_right(value: u64, by: u64, ty: Ty) -> u64 {
    let (bits, by) = (ty.bits(), by as u32);
    if ty.signed() {
        trim((sign(value, bits) >> by.min(bits - 1)) as u64, bits)
    } else if by >= bits {
        0
    } else {
        trim(value, bits) >> by
    }
}

/// Any integer operation on any width. Division by zero gives all ones, as hardware does.
fn int_value(op: IntOp, ty: Ty, x: u64, y: u64) -> u64 {
    let bits = ty.bits();
    let (sx, sy) = (sign(x, bits), sign(y, bits));
    let (ux, uy) = (trim(x, bits), trim(y, bits));
    let value = match op {
        IntOp::Add => ux.wrapping_add(uy),
        IntOp::Sub => ux.wrapping_sub(uy),
        IntOp::MulLo => ux.wrapping_mul(uy),
        IntOp::MulHi if ty.signed() => ((i128::from(sx) * i128::from(sy)) >> bits) as u64,
        IntOp::MulHi => ((u128::from(ux) * u128::from(uy)) >> bits) as u64,
        IntOp::MulWide => {
            let wide = if ty.signed() { sx.wrapping_mul(sy) as u64 } else { ux.wrapping_mul(uy) };
            return trim(wide, 2 * bits);
        }
        IntOp::Div | IntOp::Rem if uy == 0 => {
            if op == IntOp::Div {
                u64::MAX
            } else {
                ux
            }
        }
        IntOp::Div if ty.signed() => sx.wrapping_div(sy) as u64,
        IntOp::Div => ux / uy,
        IntOp::Rem if ty.signed() => sx.wrapping_rem(sy) as u64,
        IntOp::Rem => ux % uy,
        IntOp::Min if ty.signed() => sx.min(sy) as u64,
        IntOp::Min => ux.min(uy),
        IntOp::Max if ty.signed() => sx.max(sy) as u64,
        IntOp::Max => ux.max(uy),
        IntOp::And => ux & uy,
        IntOp::Or => ux | uy,
        IntOp::Xor => ux ^ uy,
        IntOp::Shl => shift_left(ux, y & 0xffff_ffff, bits),
        IntOp::Shr => shift_right(x, y & 0xffff_ffff, ty),
    };
    trim(value, bits)
}

impl Warp {
    pub(crate) fn int(&mut self, mask: u32, op: IntOp, ty: Ty, sat: bool, [d, a, b]: [Reg; 3]) {
        let before = self.wrap_of(&[a, b]);
        let fresh = self.fresh_wraps(mask, op, ty, a, b);
        let narrow = ty.bits() == 32;
        match op {
            IntOp::Add if sat => self.map2(mask, d, a, b, |x, y| u64::from((x as i32).saturating_add(y as i32) as u32)),
            IntOp::Sub if sat => self.map2(mask, d, a, b, |x, y| u64::from((x as i32).saturating_sub(y as i32) as u32)),
            IntOp::Add if narrow => self.map2(mask, d, a, b, |x, y| u64::from((x as u32).wrapping_add(y as u32))),
            IntOp::Sub if narrow => self.map2(mask, d, a, b, |x, y| u64::from((x as u32).wrapping_sub(y as u32))),
            IntOp::MulLo if narrow => self.map2(mask, d, a, b, |x, y| u64::from((x as u32).wrapping_mul(y as u32))),
            IntOp::Add if ty.bits() == 64 => self.map2(mask, d, a, b, u64::wrapping_add),
            IntOp::MulWide if ty == Ty::S32 => {
                self.map2(mask, d, a, b, |x, y| (i64::from(x as i32) * i64::from(y as i32)) as u64);
            }
            IntOp::MulWide if ty == Ty::U32 => {
                self.map2(mask, d, a, b, |x, y| u64::from(x as u32) * u64::from(y as u32));
            }
            IntOp::And if narrow => self.map2(mask, d, a, b, |x, y| (x & y) & 0xffff_ffff),
            IntOp::Or if narrow => self.map2(mask, d, a, b, |x, y| (x | y) & 0xffff_ffff),
            IntOp::Shl if narrow => self.map2(mask, d, a, b, |x, y| u64::from((x as u32).checked_shl(y as u32).unwrap_or(0))),
            _ => self.map2(mask, d, a, b, |x, y| int_value(op, ty, x, y)),
        }
        let carried = match op {
            // These bring any value back into a range on purpose.
            IntOp::And | IntOp::Rem | IntOp::MulHi => Wrap::default(),
            IntOp::MulWide if ty.signed() => Wrap { signed: before.signed, unsigned: before.signed },
            IntOp::MulWide => Wrap { signed: before.unsigned, unsigned: before.unsigned },
            _ => before,
        };
        self.taint(d, mask, carried);
        self.taint(d, mask, fresh);
    }

    fn wrap_of(&self, regs: &[Reg]) -> Wrap {
        if !self.any_wrap {
            return Wrap::default();
        }
        regs.iter().fold(Wrap::default(), |all, &reg| {
            let one = self.wrap(reg);
            Wrap { signed: all.signed | one.signed, unsigned: all.unsigned | one.unsigned }
        })
    }

    /// Lanes in which a 32-bit operation leaves the range of i32, and those in which it also leaves that of u32.
    fn fresh_wraps(&self, mask: u32, op: IntOp, ty: Ty, a: Reg, b: Reg) -> Wrap {
        if ty.bits() != 32 {
            return Wrap::default();
        }
        let (x, y) = (&self.regs[a as usize], &self.regs[b as usize]);
        let signed = |value: u64| i64::from(value as i32);
        match op {
            IntOp::Add => outside(
                mask,
                |lane| signed(x[lane]) + signed(y[lane]),
                |lane| u64::from(x[lane] as u32) + u64::from(y[lane] as u32),
            ),
            IntOp::Sub => outside(
                mask,
                |lane| signed(x[lane]) - signed(y[lane]),
                |lane| u64::from(x[lane] as u32).wrapping_sub(u64::from(y[lane] as u32)),
            ),
            IntOp::MulLo => outside(
                mask,
                |lane| signed(x[lane]) * signed(y[lane]),
                |lane| u64::from(x[lane] as u32) * u64::from(y[lane] as u32),
            ),
            IntOp::Shl => {
                outside(mask, |lane| signed(x[lane]) << (y[lane] & 31), |lane| u64::from(x[lane] as u32) << (y[lane] & 31))
            }
            _ => Wrap::default(),
        }
    }

    pub(crate) fn mad(&mut self, mask: u32, op: MadOp, ty: Ty, [d, a, b, c]: [Reg; 4]) {
        let before = self.wrap_of(&[a, b]);
        let addend = self.wrap_of(&[c]);
        let fresh = if op == MadOp::Lo && ty.bits() == 32 {
            let (x, y, z) = (&self.regs[a as usize], &self.regs[b as usize], &self.regs[c as usize]);
            let signed = |value: u64| i64::from(value as i32);
            outside(
                mask,
                |lane| signed(x[lane]) * signed(y[lane]) + signed(z[lane]),
                |lane| (u64::from(x[lane] as u32) * u64::from(y[lane] as u32)).wrapping_add(u64::from(z[lane] as u32)),
            )
        } else {
            Wrap::default()
        };
        let bits = ty.bits();
        let mul = match op {
            MadOp::Lo | MadOp::Sad => IntOp::MulLo,
            MadOp::Hi => IntOp::MulHi,
            MadOp::Wide => IntOp::MulWide,
        };
        match (op, ty) {
            (MadOp::Lo, Ty::S32 | Ty::U32) => {
                self.map3(mask, d, [a, b, c], |x, y, z| u64::from((x as u32).wrapping_mul(y as u32).wrapping_add(z as u32)))
            }
            (MadOp::Wide, Ty::S32) => {
                self.map3(mask, d, [a, b, c], |x, y, z| ((i64::from(x as i32) * i64::from(y as i32)) as u64).wrapping_add(z))
            }
            (MadOp::Sad, _) => self.map3(mask, d, [a, b, c], |x, y, z| {
                let difference =
                    if ty.signed() { sign(x, bits).abs_diff(sign(y, bits)) } else { trim(x, bits).abs_diff(trim(y, bits)) };
                trim(difference.wrapping_add(z), bits)
            }),
            _ => self.map3(mask, d, [a, b, c], |x, y, z| {
                let width = if op == MadOp::Wide { 2 * bits } else { bits };
                trim(int_value(mul, ty, x, y).wrapping_add(z), width)
            }),
        }
        let widened = match (op, ty.signed()) {
            (MadOp::Wide, true) => Wrap { signed: before.signed, unsigned: before.signed },
            (MadOp::Wide, false) => Wrap { signed: before.unsigned, unsigned: before.unsigned },
            (MadOp::Lo | MadOp::Hi | MadOp::Sad, _) => before,
        };
        self.taint(d, mask, widened);
        self.taint(d, mask, addend);
        self.taint(d, mask, fresh);
    }

    pub(crate) fn int_unary(&mut self, mask: u32, op: IntUnary, ty: Ty, d: Reg, a: Reg) {
        let bits = ty.bits();
        let before = self.wrap_of(&[a]);
        self.map1(mask, d, a, |x| {
            let (s, u) = (sign(x, bits), trim(x, bits));
            match op {
                IntUnary::Neg => trim(s.wrapping_neg() as u64, bits),
                IntUnary::Abs => trim(s.unsigned_abs(), bits),
                IntUnary::Not => trim(!u, bits),
                IntUnary::Cnot => u64::from(u == 0),
                IntUnary::Popc => u64::from(u.count_ones()),
                IntUnary::Clz => u64::from(u.leading_zeros() - (64 - bits)),
                IntUnary::Brev => u.reverse_bits() >> (64 - bits),
                IntUnary::Bfind | IntUnary::BfindShift => {
                    // PTX ISA 9.7.1.17: the top bit that differs from the sign; all ones where there is none.
                    let magnitude = if ty.signed() && s < 0 { trim(!u, bits) } else { u };
                    if magnitude == 0 {
                        0xffff_ffff
                    } else {
                        let top = 63 - magnitude.leading_zeros();
                        u64::from(if op == IntUnary::BfindShift { bits - 1 - top } else { top })
                    }
                }
            }
        });
        if op == IntUnary::Neg {
            self.taint(d, mask, before);
        }
    }

    /// The extended-precision forms: `reads` adds the carry in, `writes` leaves one behind.
    pub(crate) fn carry(&mut self, mask: u32, subtract: bool, (reads, writes): (bool, bool), ty: Ty, regs: [Reg; 4]) {
        let [cc, d, a, b] = regs;
        let carry_in = if reads { self.pred(Pred { slot: cc, negated: false }, mask) } else { 0 };
        let bits = ty.bits();
        self.need(a, mask);
        self.need(b, mask);
        let mut carry_out = 0;
        for lane in lanes(mask) {
            let (x, y) = (trim(self.lane(a, lane), bits), trim(self.lane(b, lane), bits));
            let c = u64::from(carry_in >> lane & 1);
            let wide = if subtract {
                i128::from(x) - i128::from(y) - i128::from(c)
            } else {
                i128::from(x) + i128::from(y) + i128::from(c)
            };
            carry_out |= u32::from(wide < 0 || wide >> bits != 0) << lane;
            self.set_lane(d, lane, trim(wide as u64, bits));
        }
        self.wrote(d, mask);
        if writes {
            self.set_pred(cc, mask, carry_out);
        }
    }

    pub(crate) fn funnel_shift(&mut self, mask: u32, right: bool, wrap: bool, [d, a, b, c]: [Reg; 4]) {
        self.map3(mask, d, [a, b, c], |low, high, by| {
            let wide = (high & 0xffff_ffff) << 32 | (low & 0xffff_ffff);
            let by = if wrap { by as u32 & 31 } else { (by as u32).min(32) };
            if right { (wide >> by) & 0xffff_ffff } else { (wide << by) >> 32 }
        });
        // A left shift of the same register twice is a rotation; either way the result is bits, not a number.
    }

    pub(crate) fn lop3(&mut self, mask: u32, table: u8, [d, a, b, c]: [Reg; 4]) {
        self.map3(mask, d, [a, b, c], |x, y, z| {
            let mut out = 0;
            for row in 0..8 {
                if table >> row & 1 == 1 {
                    let pick = |value: u64, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
                    out |= pick(x, 2) & pick(y, 1) & pick(z, 0);
                }
            }
            out & 0xffff_ffff
        });
    }

    pub(crate) fn permute(&mut self, mask: u32, mode: PermuteMode, [d, a, b, c]: [Reg; 4]) {
        self.map3(mask, d, [a, b, c], |x, y, z| {
            let bytes = ((y & 0xffff_ffff) << 32 | (x & 0xffff_ffff)).to_le_bytes();
            let at = (z & 3) as usize;
            let pick = |index: usize| -> u8 {
                match mode {
                    PermuteMode::Index => {
                        let selector = (z >> (4 * index)) as usize;
                        let byte = bytes[selector & 7];
                        // PTX ISA 9.7.9.7: bit 3 replicates the byte's sign.
                        if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
                    }
                    PermuteMode::Forward4 => bytes[at + index],
                    PermuteMode::Backward4 => bytes[(at + 8 - index) & 7],
                    PermuteMode::Replicate8 => bytes[at],
                    PermuteMode::EdgeLeft => bytes[at.max(index)],
                    PermuteMode::EdgeRight => bytes[at.min(index)],
                    PermuteMode::Replicate16 => bytes[2 * (at & 1) + (index & 1)],
                }
            };
            u64::from(u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)]))
        });
    }

    pub(crate) fn extract(&mut self, mask: u32, ty: Ty, [d, a, b, c]: [Reg; 4]) {
        let bits = ty.bits();
        self.map3(mask, d, [a, b, c], |x, at, count| {
            let (at, count) = (at as u32 & 0xff, count as u32 & 0xff);
            if count == 0 {
                return 0;
            }
            let value = trim(x, bits);
            let top = (at + count - 1).min(bits - 1);
            let field = if at >= bits { 0 } else { value >> at };
            let from = count.min(bits.saturating_sub(at));
            let kept = if from >= 64 { field } else { field & ((1 << from) - 1) };
            let negative = ty.signed() && value >> top & 1 == 1;
            let filled = if negative && from < 64 { kept | (u64::MAX << from) } else { kept };
            trim(filled, bits)
        });
    }

    pub(crate) fn insert(&mut self, mask: u32, ty: Ty, [d, a, b, c, e]: [Reg; 5]) {
        let bits = ty.bits();
        for reg in [a, b, c, e] {
            self.need(reg, mask);
        }
        for lane in lanes(mask) {
            let (at, count) = (self.lane(c, lane) as u32 & 0xff, self.lane(e, lane) as u32 & 0xff);
            let window = if count >= 64 { u64::MAX } else { (1 << count) - 1 };
            let window = if at >= 64 { 0 } else { window << at };
            let value = if at >= 64 { 0 } else { self.lane(a, lane) << at };
            let out = trim((value & window) | (self.lane(b, lane) & !window), bits);
            self.set_lane(d, lane, out);
        }
        self.wrote(d, mask);
    }

    pub(crate) fn dot_product(&mut self, mask: u32, a_signed: bool, b_signed: bool, [d, a, b, c]: [Reg; 4]) {
        let byte = |value: u64, index: u32, signed: bool| {
            let byte = (value >> (8 * index)) as u8;
            if signed { i64::from(byte as i8) } else { i64::from(byte) }
        };
        self.map3(mask, d, [a, b, c], |x, y, z| {
            let sum: i64 = (0..4).map(|index| byte(x, index, a_signed) * byte(y, index, b_signed)).sum();
            u64::from((z as u32).wrapping_add(sum as u32))
        });
    }

    pub(crate) fn find_nth_set(&mut self, mask: u32, [d, a, b, c]: [Reg; 4]) {
        self.map3(mask, d, [a, b, c], |bits, base, offset| {
            let (bits, base, offset) = (bits as u32, base as u32 & 31, offset as i32);
            let set = |index: &u32| bits >> index & 1 == 1;
            // PTX ISA 9.7.1.18: upwards from the base for positive offsets, downwards for negative ones.
            let found = match offset {
                0 => Some(base).filter(set),
                1.. => (base..32).filter(set).nth(offset as usize - 1),
                _ => (0..=base).rev().filter(set).nth(offset.unsigned_abs() as usize - 1),
            };
            u64::from(found.unwrap_or(u32::MAX))
        });
    }

    /// A move carries everything along: value, whether there is one, and whether it wrapped.
    pub(crate) fn mov(&mut self, mask: u32, d: Reg, a: Reg) {
        let (values, init, wrap) = (self.regs[a as usize], self.init[a as usize], self.wraps[a as usize]);
        let Some(out) = self.regs.get_mut(d as usize) else { return };
        for lane in 0..LANES {
            out[lane] = if mask >> lane & 1 == 1 { values[lane] } else { out[lane] };
        }
        self.wrote(d, mask);
        self.init[d as usize] &= init | !mask;
        self.taint(d, mask, wrap);
    }

    pub(crate) fn pack(&mut self, mask: u32, d: Reg, parts: &[Reg], bits: u8) {
        let width = u32::from(bits) / parts.len() as u32;
        let mut init = u32::MAX;
        for &part in parts {
            init &= self.init[part as usize];
        }
        for lane in lanes(mask) {
            let joined = parts.iter().rev().fold(0, |all, &part| all << width | trim(self.lane(part, lane), width));
            self.set_lane(d, lane, joined);
        }
        self.wrote(d, mask);
        if let Some(out) = self.init.get_mut(d as usize) {
            *out &= init | !mask;
        }
    }

    pub(crate) fn unpack(&mut self, mask: u32, parts: &[Reg], a: Reg, bits: u8) {
        let width = u32::from(bits) / parts.len() as u32;
        let (values, init) = (self.regs[a as usize], self.init[a as usize]);
        for (index, &part) in parts.iter().enumerate() {
            for lane in lanes(mask) {
                self.set_lane(part, lane, trim(values[lane] >> (index as u32 * width), width));
            }
            self.wrote(part, mask);
            if let Some(out) = self.init.get_mut(part as usize) {
                *out &= init | !mask;
            }
        }
    }

    pub(crate) fn select(&mut self, mask: u32, d: Reg, a: Reg, b: Reg, p: Pred) {
        let first = self.pred(p, mask);
        let (x, y) = (self.regs[a as usize], self.regs[b as usize]);
        let init = (self.init[a as usize] & first) | (self.init[b as usize] & !first);
        let (wa, wb) = (self.wraps[a as usize], self.wraps[b as usize]);
        let Some(out) = self.regs.get_mut(d as usize) else { return };
        for lane in lanes(mask) {
            out[lane] = if first >> lane & 1 == 1 { x[lane] } else { y[lane] };
        }
        self.wrote(d, mask);
        self.init[d as usize] &= init | !mask;
        let pick = |one: u32, other: u32| (one & first) | (other & !first);
        self.taint(d, mask, Wrap { signed: pick(wa.signed, wb.signed), unsigned: pick(wa.unsigned, wb.unsigned) });
    }

    /// The lanes for which the comparison holds.
    pub(crate) fn compare(&mut self, mask: u32, cmp: Compare, ty: Ty, ftz: bool, a: Reg, b: Reg) -> u32 {
        if ty.floating() {
            return match ty {
                Ty::F32 => self.test2(mask, a, b, |x, y| {
                    float::compare(cmp, float::load_f32(x, ftz).into(), float::load_f32(y, ftz).into())
                }),
                _ => self.test2(mask, a, b, |x, y| float::compare(cmp, float::value(ty, x), float::value(ty, y))),
            };
        }
        let bits = ty.bits();
        let unsigned_word = matches!(cmp, Compare::Lo | Compare::Ls | Compare::Hi | Compare::Hs);
        if ty.signed() && !unsigned_word {
            self.test2(mask, a, b, |x, y| ordered(cmp, sign(x, bits), sign(y, bits)))
        } else {
            self.test2(mask, a, b, |x, y| ordered(cmp, trim(x, bits), trim(y, bits)))
        }
    }

    pub(crate) fn logic(&mut self, mask: u32, holds: u32, logic: Option<(Logic, Pred)>) -> (u32, u32) {
        let Some((logic, pred)) = logic else {
            return (holds, !holds);
        };
        let other = self.pred(pred, mask);
        let join = |x: u32| match logic {
            Logic::And => x & other,
            Logic::Or => x | other,
            Logic::Xor => x ^ other,
        };
        (join(holds), join(!holds & mask))
    }

    pub(crate) fn convert(&mut self, mask: u32, how: &Convert, [d, a, b]: [Reg; 3]) {
        let before = self.wrap_of(&[a]);
        match (how.to, how.from) {
            (Ty::S64, Ty::S32) => self.map1(mask, d, a, |x| i64::from(x as i32) as u64),
            (Ty::U64, Ty::U32) => self.map1(mask, d, a, |x| x & 0xffff_ffff),
            (Ty::U32, Ty::U64) if !how.sat => self.map1(mask, d, a, |x| x & 0xffff_ffff),
            _ if a == b => self.map1(mask, d, a, |x| convert(how, x, x)),
            _ => self.map2(mask, d, a, b, |x, y| convert(how, x, y)),
        }
        if how.to.integral() && how.from.integral() && how.to.bits() >= how.from.bits() {
            let kept = if how.from.signed() { before.signed } else { before.unsigned };
            self.taint(d, mask, Wrap { signed: kept, unsigned: kept });
        }
    }
}

fn ordered<T: Ord>(cmp: Compare, x: T, y: T) -> bool {
    match cmp {
        Compare::Eq | Compare::Equ => x == y,
        Compare::Ne | Compare::Neu => x != y,
        Compare::Lt | Compare::Lo | Compare::Ltu => x < y,
        Compare::Le | Compare::Ls | Compare::Leu => x <= y,
        Compare::Gt | Compare::Hi | Compare::Gtu => x > y,
        Compare::Ge | Compare::Hs | Compare::Geu => x >= y,
        Compare::Num => true,
        Compare::Nan => false,
    }
}

/// The signed result says whether i32 is left; the unsigned one excuses values that are right as u32.
#[inline]
fn outside(mask: u32, signed: impl Fn(usize) -> i64, unsigned: impl Fn(usize) -> u64) -> Wrap {
    let mut left = 0_u32;
    for lane in 0..LANES {
        let value = signed(lane);
        left |= u32::from(value != i64::from(value as i32)) << lane;
    }
    left &= mask;
    let mut both = 0;
    for lane in lanes(left) {
        let right_as_u32 = (0..1 << 32).contains(&signed(lane)) || unsigned(lane) < 1 << 32;
        both |= u32::from(!right_as_u32) << lane;
    }
    Wrap { signed: left, unsigned: both }
}
