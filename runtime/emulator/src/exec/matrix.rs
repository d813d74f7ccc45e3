//! Matrix fragments of a warp: ldmatrix, stmatrix, movmatrix and mma.sync (PTX ISA 9.7.14).

use crate::exec::access::wavefronts;
use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::numbers::float::{F16, decode, f32_to_f16};
use crate::numbers::numerics::{Element, Unit, dot};
use crate::state::block::Block;
use crate::state::clocks::UNKNOWN;
use crate::state::place::Touch;
use crate::state::run::Cx;
use crate::state::shared::Read;
use crate::state::warp::{ALL, LANES, Warp, lanes};
use crate::text::ins::{Addr, Mma, Reg};
use crate::types::{MmaTy, Ty};

/// Bytes of one row of an 8 by 8 matrix of 16-bit elements.
const ROW: u32 = 16;

/// Every lane.
const LANE_NUMBERS: [u8; LANES] = {
    let mut numbers = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        numbers[lane] = lane as u8;
        lane += 1;
    }
    numbers
};

impl Block {
    fn whole(&mut self, cx: &mut Cx<'_>, at: At) {
        let At { mask, .. } = at;
        if mask != ALL {
            self.finding(cx, at, FindingKind::BadMask, || "a matrix instruction needs all 32 lanes".to_owned());
        }
    }

    /// The shared offset of each row, from the lanes that name them. None where a row may not be touched.
    fn rows(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr, count: usize) -> [Option<usize>; LANES] {
        let At { w, mask, pc } = at;
        let named = if count == 4 { ALL } else { (1 << (8 * count)) - 1 };
        let addresses = self.addresses(cx, at.of(mask & named), addr);
        let mut rows = [None; LANES];
        let mut offsets = [0; LANES];
        for lane in lanes(mask & named) {
            let mut offset = addresses[lane];
            if let crate::state::place::Place::Shared(inside) = crate::state::place::generic(offset) {
                offset = inside;
            }
            let touch = Touch { w, lane, pc, bytes: ROW, strength: 0 };
            if self.check_shared(cx, touch, offset) {
                rows[lane] = Some(offset as usize);
            }
            offsets[lane] = offset;
        }
        let (passes, needed) = wavefronts(&offsets[..8 * count], &LANE_NUMBERS[..8 * count], ROW);
        cx.counters.wavefronts += passes;
        cx.counters.wavefronts_needed += needed;
        rows
    }

    pub(crate) fn load_matrix(&mut self, cx: &mut Cx<'_>, at: At, (d, transpose): (&[Reg], bool), addr: Addr) {
        let At { w, mask, pc } = at;
        self.whole(cx, at);
        let rows = self.rows(cx, at, addr, d.len());
        cx.counters.shared.loads += 1;
        for (index, &reg) in d.iter().enumerate() {
            let mut matrix = [[0_u8; ROW as usize]; 8];
            for (row, bytes) in matrix.iter_mut().enumerate() {
                let lane = 8 * index + row;
                let Some(at) = rows[lane] else { continue };
                bytes.copy_from_slice(&self.shared.data[at..at + ROW as usize]);
                cx.counters.shared.read_bytes += u64::from(ROW);
                self.note_matrix_read(cx, Touch { w, lane, pc, bytes: ROW, strength: 0 }, at);
            }
            for lane in lanes(mask) {
                let (row, column) = (lane / 4, lane % 4);
                let element = |r: usize, c: usize| u32::from(u16::from_le_bytes([matrix[r][2 * c], matrix[r][2 * c + 1]]));
                let value = if transpose {
                    element(2 * column, row) | element(2 * column + 1, row) << 16
                } else {
                    element(row, 2 * column) | element(row, 2 * column + 1) << 16
                };
                self.warps[w].set_lane(reg, lane, u64::from(value));
            }
            self.warps[w].wrote(reg, mask);
        }
    }

    /// The row goes to all lanes at once: which of them read it cannot be said.
    fn note_matrix_read(&mut self, cx: &mut Cx<'_>, touch: Touch, at: usize) {
        let clock = self.clock(touch.w);
        let mut clean = true;
        for word in at / 4..(at + ROW as usize) / 4 {
            let write = self.shared.writes[word];
            if !write.is_none() {
                clean &= self.judge_shared_write(cx, touch, word, write, 0xf, None);
            }
            self.shared.note_read(word, Read { reader: touch.w as u8, clock, mask: 0xf, lane: UNKNOWN });
        }
        if clean && !self.shared.initialised(at, ROW as usize) {
            self.finding(cx, touch.at(), FindingKind::UninitialisedShared, || format!("row at byte {at} of shared memory"));
        }
    }

    pub(crate) fn store_matrix(&mut self, cx: &mut Cx<'_>, at: At, (a, transpose): (&[Reg], bool), addr: Addr) {
        let At { w, mask, pc } = at;
        self.whole(cx, at);
        let rows = self.rows(cx, at, addr, a.len());
        cx.counters.shared.stores += 1;
        for (index, &reg) in a.iter().enumerate() {
            self.warps[w].need(reg, mask);
            let values = self.warps[w].regs[reg as usize];
            let mut matrix = [[0_u8; ROW as usize]; 8];
            for (lane, value) in values.iter().enumerate() {
                let (row, column) = (lane / 4, lane % 4);
                for half in 0..2 {
                    let bytes = ((value >> (16 * half)) as u16).to_le_bytes();
                    let (r, c) = if transpose { (2 * column + half, row) } else { (row, 2 * column + half) };
                    matrix[r][2 * c..2 * c + 2].copy_from_slice(&bytes);
                }
            }
            for (row, bytes) in matrix.iter().enumerate() {
                let lane = 8 * index + row;
                let Some(at) = rows[lane] else { continue };
                let touch = Touch { w, lane, pc, bytes: ROW, strength: 0 };
                self.note_shared_write(cx, touch, at, Some(bytes));
                self.shared.data[at..at + ROW as usize].copy_from_slice(bytes);
                self.shared.set_initialised(at, ROW as usize);
                cx.counters.shared.written_bytes += u64::from(ROW);
                cx.progress += 1;
            }
        }
    }

    pub(crate) fn move_matrix(&mut self, cx: &mut Cx<'_>, at: At, d: Reg, a: Reg) {
        let At { w, mask, .. } = at;
        self.whole(cx, at);
        let warp = &mut self.warps[w];
        warp.need(a, mask);
        let values = warp.regs[a as usize];
        let element = |r: usize, c: usize| values[4 * r + c / 2] >> (16 * (c % 2)) & 0xffff;
        for lane in lanes(mask) {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            warp.set_lane(d, lane, element(column, row) | element(column + 1, row) << 16);
        }
        warp.wrote(d, mask);
    }

    pub(crate) fn mma(&mut self, cx: &mut Cx<'_>, at: At, mma: &Mma) {
        let At { w, mask, .. } = at;
        self.whole(cx, at);
        let numerics = cx.options.numerics;
        let warp = &mut self.warps[w];
        for &reg in mma.a.iter().chain(&mma.b[..]).chain(&mma.c[..]) {
            warp.need(reg, mask);
        }
        let k = usize::from(mma.k);
        cx.counters.mma_flops += 2 * 16 * u64::from(mma.n) * k as u64;
        if mma.a_ty.integral() {
            return warp.integer_mma(mask, mma);
        }
        let mut a = vec![Element::default(); 16 * k];
        let mut b = vec![Element::default(); 8 * k];
        for lane in 0..LANES {
            each_element(lane, mma.a_ty, mma.a.len(), true, |reg, shift, row, column| {
                let bits = (warp.regs[mma.a[reg] as usize][lane] >> shift) as u32;
                a[row * k + column] = Element::new(bits, mma.a_ty, numerics);
            });
            each_element(lane, mma.b_ty, mma.b.len(), false, |reg, shift, row, column| {
                let bits = (warp.regs[mma.b[reg] as usize][lane] >> shift) as u32;
                b[row * k + column] = Element::new(bits, mma.b_ty, numerics);
            });
        }
        let types = (mma.a_ty, mma.b_ty);
        for lane in lanes(mask) {
            let (group, pair) = (lane / 4, 2 * (lane % 4));
            let mut out = [0_f32; 4];
            for (index, value) in out.iter_mut().enumerate() {
                let (row, column) = (group + 8 * (index / 2), pair + index % 2);
                let c = if mma.d_ty == Ty::F16 {
                    let bits = warp.lane(mma.c[index / 2], lane) >> (16 * (index % 2));
                    decode(bits as u32 & 0xffff, &F16) as f32
                } else {
                    f32::from_bits(warp.lane(mma.c[index], lane) as u32)
                };
                let (x, y) = (&a[row * k..(row + 1) * k], &b[column * k..(column + 1) * k]);
                *value = dot(numerics, Unit::Mma, types, x, y, c, mma.d_ty);
            }
            if mma.d_ty == Ty::F16 {
                for half in 0..2 {
                    let bits = |index: usize| u64::from(f32_to_f16(out[2 * half + index]));
                    warp.set_lane(mma.d[half], lane, bits(0) | bits(1) << 16);
                }
            } else {
                for (index, value) in out.iter().enumerate() {
                    warp.set_lane(mma.d[index], lane, u64::from(value.to_bits()));
                }
            }
        }
        for &reg in &mma.d {
            warp.wrote(reg, mask);
        }
    }
}

/// Calls back for each element that a lane holds of a fragment: register, bit shift, row (of A) or column (of B), k.
///
/// PTX ISA 9.7.14.5: with E elements in a register, A's register r has row `lane / 4 + 8 * (r % 2)` and starts at
/// `k = E * (lane % 4) + 4 * E * (r / 2)`; B's has column `lane / 4` and starts at `k = E * (lane % 4) + 4 * E * r`.
pub(crate) fn each_element(lane: usize, ty: MmaTy, regs: usize, is_a: bool, mut each: impl FnMut(usize, u32, usize, usize)) {
    let per_reg = 4 / ty.bytes() as usize;
    for reg in 0..regs {
        let (down, along) = if is_a { (8 * (reg % 2), reg / 2) } else { (0, reg) };
        for element in 0..per_reg {
            let k = per_reg * (lane % 4) + 4 * per_reg * along + element;
            each(reg, element as u32 * 8 * ty.bytes(), lane / 4 + down, k);
        }
    }
}

/// An 8-bit integer element.
pub(crate) fn integer_element(bits: u64, ty: MmaTy) -> i64 {
    if ty == MmaTy::S8 { i64::from(bits as i8) } else { i64::from(bits as u8) }
}

/// The sum of an integer dot product: wrapping, or clamped with `.satfinite`.
pub(crate) fn integer_sum(sum: i64, saturate: bool) -> u64 {
    let value = if saturate { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { sum };
    u64::from(value as u32)
}

impl Warp {
    fn integer_mma(&mut self, mask: u32, mma: &Mma) {
        let k = usize::from(mma.k);
        let mut a = vec![0_i64; 16 * k];
        let mut b = vec![0_i64; 8 * k];
        for lane in 0..LANES {
            each_element(lane, mma.a_ty, mma.a.len(), true, |reg, shift, row, column| {
                a[row * k + column] = integer_element(self.regs[mma.a[reg] as usize][lane] >> shift, mma.a_ty);
            });
            each_element(lane, mma.b_ty, mma.b.len(), false, |reg, shift, row, column| {
                b[row * k + column] = integer_element(self.regs[mma.b[reg] as usize][lane] >> shift, mma.b_ty);
            });
        }
        for lane in lanes(mask) {
            let (group, pair) = (lane / 4, 2 * (lane % 4));
            let mut out = [0; 4];
            for (index, value) in out.iter_mut().enumerate() {
                let (row, column) = (group + 8 * (index / 2), pair + index % 2);
                let c = i64::from(self.lane(mma.c[index], lane) as i32);
                let products = a[row * k..(row + 1) * k].iter().zip(&b[column * k..(column + 1) * k]);
                *value = integer_sum(c + products.map(|(x, y)| x * y).sum::<i64>(), mma.saturate);
            }
            for (index, value) in out.into_iter().enumerate() {
                self.set_lane(mma.d[index], lane, value);
            }
        }
        for &reg in &mma.d {
            self.wrote(reg, mask);
        }
    }
}
