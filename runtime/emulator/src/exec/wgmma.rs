//! `wgmma.mma_async`: a quarter of a warpgroup's product in each warp, under way until it is waited for (PTX ISA 9.7.15).

use crate::checks::race::PENDING_READ;
use crate::exec::matrix::{each_element, integer_element, integer_sum};
use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::numbers::float::{F16, decode, f32_to_f16};
use crate::numbers::numerics::{Element, Unit, dot};
use crate::options::Numerics;
use crate::state::block::Block;
use crate::state::clocks::UNKNOWN;
use crate::state::place::Touch;
use crate::state::run::Cx;
use crate::state::shared::Read;
use crate::state::tensor_map::Swizzle;
use crate::state::warp::{ALL, LANES, lanes};
use crate::text::ins::{Op, Reg, Wgmma, WgmmaA};
use crate::types::{MmaTy, Ty};

/// A matrix descriptor of shared memory (PTX ISA 9.7.15.5.1.2).
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    base_offset: u64,
    swizzle: Swizzle,
}

impl Descriptor {
    fn new(bits: u64) -> Descriptor {
        Descriptor {
            start: (bits & 0x3fff) << 4,
            leading: (bits >> 16 & 0x3fff) << 4,
            stride: (bits >> 32 & 0x3fff) << 4,
            base_offset: bits >> 49 & 7,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::Bytes128,
                2 => Swizzle::Bytes64,
                _ => Swizzle::Bytes32,
            },
        }
    }

    /// The 16-byte unit that starts at this row (or column) and byte of k, for operands whose k is contiguous.
    fn along_k(&self, row: u64, byte: u64) -> u64 {
        let within = match self.swizzle.span() {
            None => (byte / 16) * self.leading + (row % 8) * 16,
            Some(span) => (row % 8) * u64::from(span) + byte,
        };
        self.swizzle.apply(self.start + (row / 8) * self.stride + within)
    }

    /// The 16-byte unit of 8 rows (or columns) that starts at this one, for one k: 16-bit operands, transposed.
    fn across_k(&self, row: u64, k: u64) -> u64 {
        let within = match self.swizzle.span() {
            None => (row / 8) * self.stride + (k / 8) * self.leading + (k % 8) * 16,
            Some(span) => {
                let (span, per_atom) = (u64::from(span), u64::from(span) / 2);
                (row / per_atom) * self.leading + (k / 8) * self.stride + (k % 8) * span + (row % per_atom) * 2
            }
        };
        self.swizzle.apply(self.start + within)
    }
}

/// One operand in shared memory.
#[derive(Clone, Copy)]
struct Operand {
    ty: MmaTy,
    transpose: bool,
    first_row: u64,
    rows: usize,
    k: usize,
}

impl Block {
    /// Scalar instructions while wgmma is about: its registers are not to be touched, and writes are remembered.
    pub(crate) fn check_pending(&mut self, cx: &mut Cx<'_>, at: At, op: &Op) {
        let At { w, .. } = at;
        let flight = &mut self.agents.wgmma[w];
        if let Op::Mov { d, a } = *op
            && flight.renames(d, a)
        {
            return;
        }
        let mut touched = None;
        let mut written = Vec::new();
        op.each_register(|reg, write| {
            if flight.owns(reg) {
                touched = Some(reg);
            }
            if write {
                written.push(reg);
            }
        });
        written.into_iter().for_each(|reg| flight.write(reg));
        if let Some(reg) = touched {
            let name = cx.entry.register_names.get(reg as usize).cloned().unwrap_or_default();
            self.finding(cx, at, FindingKind::AsyncPending, || format!("`{name}` belongs to a wgmma that was not waited for"));
        }
    }

    pub(crate) fn wgmma(&mut self, cx: &mut Cx<'_>, at: At, wgmma: &Wgmma) {
        let At { w, mask, .. } = at;
        if mask != ALL {
            self.finding(cx, at, FindingKind::BadMask, || "wgmma needs all 32 lanes".to_owned());
        }
        if self.warps.len() < (w / 4 + 1) * 4 {
            self.finding(cx, at, FindingKind::Undefined, || "wgmma needs a warpgroup of 4 warps".to_owned());
        }
        let integral = wgmma.a_ty.integral();
        let scale = self.warps[w].pred(wgmma.scale_d, mask);
        if scale != 0 && scale != mask {
            self.finding(cx, at, FindingKind::Undefined, || "scale-d differs between lanes".to_owned());
        }
        let adds = scale != 0;
        let (n, k) = (usize::from(wgmma.n), usize::from(wgmma.k));
        let mut unfenced: Vec<Reg> = Vec::new();
        let a_regs: &[Reg] = match &wgmma.a {
            WgmmaA::Registers(regs) => regs,
            WgmmaA::Descriptor(_) => &[],
        };
        for &reg in wgmma.d.iter().chain(a_regs) {
            if self.agents.wgmma[w].is_unfenced(reg) {
                unfenced.push(reg);
            }
        }
        if let Some(&reg) = unfenced.first() {
            let name = cx.entry.register_names.get(reg as usize).cloned().unwrap_or_default();
            self.finding(cx, at, FindingKind::MissingWgmmaFence, || {
                format!("`{name}` was written by an ordinary instruction since the last `wgmma.fence`")
            });
        }
        for &reg in a_regs {
            self.warps[w].need(reg, mask);
        }
        if adds {
            wgmma.d.iter().for_each(|&reg| self.warps[w].need(reg, mask));
        }
        let mut units = Vec::new();
        let a_operand = Operand { ty: wgmma.a_ty, transpose: wgmma.transpose_a, first_row: 16 * (w as u64 % 4), rows: 16, k };
        let a = match &wgmma.a {
            WgmmaA::Descriptor(reg) => self.operand(cx, at, *reg, a_operand, &mut units),
            WgmmaA::Registers(regs) => {
                let mut bits = vec![0; 16 * k];
                for lane in 0..LANES {
                    each_element(lane, wgmma.a_ty, 4, true, |reg, shift, row, column| {
                        bits[row * k + column] = (self.warps[w].regs[regs[reg] as usize][lane] >> shift) as u32;
                    });
                }
                bits
            }
        };
        let b_operand = Operand { ty: wgmma.b_ty, transpose: wgmma.transpose_b, first_row: 0, rows: n, k };
        let b = self.operand(cx, at, wgmma.b_desc, b_operand, &mut units);
        cx.counters.wgmma_flops += 2 * 16 * n as u64 * k as u64;
        if integral {
            self.integer_product(at, wgmma, &a, &b, adds);
        } else {
            self.float_product(cx.options.numerics, at, wgmma, &a, &b, adds);
        }
        self.agents.wgmma[w].start(&wgmma.d, a_regs, units);
        for &reg in &wgmma.d {
            self.warps[w].wrote(reg, mask);
        }
        cx.progress += 1;
    }

    /// The raw elements of an operand in shared memory, row by row, with all checks of an asynchronous read.
    fn operand(&mut self, cx: &mut Cx<'_>, at: At, reg: Reg, operand: Operand, units: &mut Vec<u32>) -> Vec<u32> {
        let At { w, mask, pc } = at;
        let Operand { ty, transpose, first_row, rows, k } = operand;
        let mut out = vec![0; rows * k];
        self.warps[w].need(reg, mask);
        let values = self.warps[w].regs[reg as usize];
        let first = mask.trailing_zeros() as usize % LANES;
        let bits = values[first];
        if lanes(mask).any(|lane| values[lane] != bits) {
            self.finding(cx, at, FindingKind::BadDescriptor, || "the descriptor differs between lanes".to_owned());
        }
        let descriptor = Descriptor::new(bits);
        if descriptor.base_offset != 0 {
            self.finding(cx, at, FindingKind::BadDescriptor, || "a base offset other than 0 is not modelled".to_owned());
            return out;
        }
        let element = ty.bytes() as usize;
        let per = 16 / element;
        let touch = Touch { w, lane: first, pc, bytes: 16, strength: 0 };
        let mut read = |block: &mut Block, from: u64| -> [u8; 16] {
            let mut bytes = [0; 16];
            if block.shared.holds(from, 16) {
                block.async_unit(cx, touch, from as usize);
                bytes.copy_from_slice(&block.shared.data[from as usize..from as usize + 16]);
                units.push(from as u32);
            } else {
                let size = block.shared.data.len();
                block.finding(cx, at, FindingKind::OutOfBounds, || {
                    format!("the descriptor reaches byte {from} of {size} bytes of shared memory")
                });
            }
            bytes
        };
        if transpose {
            for column in 0..k {
                for row in (0..rows).step_by(8) {
                    let unit = read(self, descriptor.across_k(first_row + row as u64, column as u64));
                    for (index, pair) in unit.chunks_exact(2).enumerate() {
                        out[(row + index) * k + column] = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
                    }
                }
            }
        } else {
            for row in 0..rows {
                for column in (0..k).step_by(per) {
                    let unit = read(self, descriptor.along_k(first_row + row as u64, (column * element) as u64));
                    for (index, part) in unit.chunks_exact(element).enumerate() {
                        out[row * k + column + index] = crate::exec::access::from_bytes(part) as u32;
                    }
                }
            }
        }
        out
    }

    /// One 16-byte unit that the tensor core reads.
    fn async_unit(&mut self, cx: &mut Cx<'_>, touch: Touch, at: usize) {
        let reader = (self.warps.len() + touch.w) as u8;
        let mut clean = true;
        for word in at / 4..at / 4 + 4 {
            clean &= self.async_read(cx, touch, word, 0xf);
            self.shared.note_read(word, Read { reader, clock: PENDING_READ, mask: 0xf, lane: UNKNOWN });
        }
        if clean && !self.shared.initialised(at, 16) {
            self.finding(cx, touch.at().of(ALL), FindingKind::UninitialisedShared, || format!("byte {at} of shared memory"));
        }
    }

    fn float_product(&mut self, numerics: Numerics, at: At, wgmma: &Wgmma, a: &[u32], b: &[u32], adds: bool) {
        let At { w, mask, .. } = at;
        let k = usize::from(wgmma.k);
        let elements = |bits: &[u32], ty: MmaTy, negate: bool| -> Vec<Element> {
            let element = |bits: &u32| {
                let element = Element::new(*bits, ty, numerics);
                if negate { element.negated() } else { element }
            };
            bits.iter().map(element).collect()
        };
        let a = elements(a, wgmma.a_ty, wgmma.negate_a);
        let b = elements(b, wgmma.b_ty, wgmma.negate_b);
        let types = (wgmma.a_ty, wgmma.b_ty);
        let half = wgmma.d_ty == Ty::F16;
        let warp = &mut self.warps[w];
        for lane in lanes(mask) {
            for index in 0..usize::from(wgmma.n) / 2 {
                let (row, column) = fragment(lane, index);
                let reg = wgmma.d[if half { index / 2 } else { index }];
                let old = warp.lane(reg, lane);
                let c = match (adds, half) {
                    (false, _) => 0.0,
                    (true, true) => decode((old >> (16 * (index % 2))) as u32 & 0xffff, &F16) as f32,
                    (true, false) => f32::from_bits(old as u32),
                };
                let (x, y) = (&a[row * k..(row + 1) * k], &b[column * k..(column + 1) * k]);
                let value = dot(numerics, Unit::Wgmma, types, x, y, c, wgmma.d_ty);
                let new = if half {
                    let shift = 16 * (index % 2);
                    (old & 0xffff_ffff & !(0xffff << shift)) | u64::from(f32_to_f16(value)) << shift
                } else {
                    u64::from(value.to_bits())
                };
                warp.set_lane(reg, lane, new);
            }
        }
    }

    fn integer_product(&mut self, at: At, wgmma: &Wgmma, a: &[u32], b: &[u32], adds: bool) {
        let At { w, mask, .. } = at;
        let k = usize::from(wgmma.k);
        let warp = &mut self.warps[w];
        for lane in lanes(mask) {
            for index in 0..usize::from(wgmma.n) / 2 {
                let (row, column) = fragment(lane, index);
                let reg = wgmma.d[index];
                let c = if adds { i64::from(warp.lane(reg, lane) as i32) } else { 0 };
                let products = a[row * k..(row + 1) * k]
                    .iter()
                    .zip(&b[column * k..(column + 1) * k])
                    .map(|(x, y)| integer_element(u64::from(*x), wgmma.a_ty) * integer_element(u64::from(*y), wgmma.b_ty));
                warp.set_lane(reg, lane, integer_sum(c + products.sum::<i64>(), wgmma.saturate));
            }
        }
    }

    /// Waits until at most `left` groups are under way.
    pub(crate) fn wgmma_wait(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, left: Reg) {
        let first = mask.trailing_zeros() as usize % LANES;
        let left = self.warps[w].lane(left, first) as u32;
        self.settle_wgmma(w, left, None);
        if !cx.options.strict_wgmma {
            // The relaxed reading: what one warp of the group has waited for, none of them still reads.
            let done = self.agents.wgmma[w].done();
            let clock = self.clock(w);
            let group = w / 4 * 4..(w / 4 * 4 + 4).min(self.warps.len());
            for other in group.filter(|&other| other != w) {
                let behind = self.agents.wgmma[other].behind(done);
                self.settle_wgmma(other, behind, Some(clock));
            }
        }
        cx.progress += 1;
    }

    /// Ends the reads of groups of a warp. Where another warp has waited for them (`relaxed`), no clock of their end is kept.
    fn settle_wgmma(&mut self, w: usize, left: u32, relaxed: Option<u32>) {
        let clock = self.clock(w);
        let reader = (self.warps.len() + w) as u8;
        let over = self.agents.wgmma[w].settle(left, relaxed.is_none());
        let to = if relaxed.is_some() { None } else { Some(clock) };
        for at in over {
            for word in at as usize / 4..at as usize / 4 + 4 {
                self.shared.settle_read(word, reader, PENDING_READ, to);
            }
        }
        // A later group may read the same bytes and is still at it.
        let again: Vec<u32> = self.agents.wgmma[w].units().collect();
        for at in again {
            for word in at as usize / 4..at as usize / 4 + 4 {
                self.shared.note_read(word, Read { reader, clock: PENDING_READ, mask: 0xf, lane: UNKNOWN });
            }
        }
    }
}

/// Row and column of D's element `index` of a lane, within the warp's 16 rows.
fn fragment(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + 8 * (index / 2 % 2), 8 * (index / 4) + 2 * (lane % 4) + index % 2)
}
