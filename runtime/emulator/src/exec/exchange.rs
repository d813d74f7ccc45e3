//! What lanes of a warp tell each other: shuffles, votes, matches and reductions (PTX ISA 9.7.9.6 and 9.7.13).

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::run::Cx;
use crate::state::warp::{ALL, LANES, lanes};
use crate::text::ins::{Pred, ReduceOp, Reg, ShuffleMode, VoteMode};
use crate::types::Ty;

impl Block {
    pub(crate) fn shuffle(&mut self, cx: &mut Cx<'_>, at: At, mode: ShuffleMode, regs: [Reg; 5]) {
        let At { w, mask, .. } = at;
        let [d, p, a, b, c] = regs;
        let warp = &mut self.warps[w];
        warp.need(a, mask);
        warp.need(b, mask);
        warp.need(c, mask);
        let (values, offsets, controls) = (warp.regs[a as usize], warp.regs[b as usize], warp.regs[c as usize]);
        let mut out = values;
        let (mut inside, mut inactive) = (0_u32, 0_u32);
        for lane in lanes(mask) {
            let (by, control) = (offsets[lane] as u32 & 31, controls[lane] as u32);
            let (clamp, segment) = (control & 31, control >> 8 & 31);
            let me = lane as u32;
            // PTX ISA 9.7.9.6: the segment mask fixes the upper bits of the lane.
            let low = me & segment;
            let high = low | (clamp & !segment);
            let (source, valid) = match mode {
                ShuffleMode::Up => {
                    let source = me as i32 - by as i32;
                    (source, source >= high as i32)
                }
                ShuffleMode::Down => ((me + by) as i32, me + by <= high),
                ShuffleMode::Butterfly => ((me ^ by) as i32, (me ^ by) <= high),
                ShuffleMode::Index => {
                    let source = low | (by & !segment);
                    (source as i32, source <= high)
                }
            };
            let source = if valid { source as usize & 31 } else { lane };
            inside |= u32::from(valid) << lane;
            if mask >> source & 1 == 0 {
                inactive |= 1 << lane;
            }
            out[lane] = values[source] & 0xffff_ffff;
        }
        for lane in lanes(mask) {
            warp.set_lane(d, lane, out[lane]);
        }
        warp.wrote(d, mask);
        warp.set_pred(p, mask, inside);
        if inactive != 0 {
            self.finding(cx, at.of(inactive), FindingKind::InactiveLane, || {
                "these lanes read from lanes that take no part".to_owned()
            });
        }
    }

    pub(crate) fn vote(&mut self, w: usize, mask: u32, mode: VoteMode, d: Reg, p: Pred) {
        let warp = &mut self.warps[w];
        let holds = warp.pred(p, mask);
        match mode {
            VoteMode::Ballot => {
                for lane in lanes(mask) {
                    warp.set_lane(d, lane, u64::from(holds));
                }
                warp.wrote(d, mask);
            }
            VoteMode::All => warp.set_pred(d, mask, if holds == mask { ALL } else { 0 }),
            VoteMode::Any => warp.set_pred(d, mask, if holds != 0 { ALL } else { 0 }),
            VoteMode::Uniform => warp.set_pred(d, mask, if holds == mask || holds == 0 { ALL } else { 0 }),
        }
    }

    pub(crate) fn match_lanes(&mut self, w: usize, mask: u32, all: bool, ty: Ty, [d, p, a]: [Reg; 3]) {
        let warp = &mut self.warps[w];
        warp.need(a, mask);
        let bits = ty.bits();
        let values = warp.regs[a as usize].map(|value| value << (64 - bits) >> (64 - bits));
        let mut out = [0_u64; LANES];
        for lane in lanes(mask) {
            let same = lanes(mask).filter(|&other| values[other] == values[lane]).fold(0_u32, |set, other| set | 1 << other);
            out[lane] = u64::from(if all && same != mask { 0 } else { same });
        }
        let equal = lanes(mask).all(|lane| out[lane] == u64::from(mask));
        for lane in lanes(mask) {
            warp.set_lane(d, lane, out[lane]);
        }
        warp.wrote(d, mask);
        warp.set_pred(p, mask, if equal { ALL } else { 0 });
    }

    pub(crate) fn reduce(&mut self, w: usize, mask: u32, op: ReduceOp, ty: Ty, d: Reg, a: Reg) {
        let warp = &mut self.warps[w];
        warp.need(a, mask);
        let values = lanes(mask).map(|lane| warp.regs[a as usize][lane] as u32);
        let signed = ty.signed();
        let result = values.reduce(|x, y| match op {
            ReduceOp::Add => x.wrapping_add(y),
            ReduceOp::Min if signed => (x as i32).min(y as i32) as u32,
            ReduceOp::Max if signed => (x as i32).max(y as i32) as u32,
            ReduceOp::Min => x.min(y),
            ReduceOp::Max => x.max(y),
            ReduceOp::And => x & y,
            ReduceOp::Or => x | y,
            ReduceOp::Xor => x ^ y,
        });
        for lane in lanes(mask) {
            warp.set_lane(d, lane, u64::from(result.unwrap_or(0)));
        }
        warp.wrote(d, mask);
    }

    /// The leader is the lowest lane; the standard leaves it open, but it must be the same one each time.
    pub(crate) fn elect(&mut self, w: usize, mask: u32, d: Reg, p: Reg) {
        let warp = &mut self.warps[w];
        let leader = mask.trailing_zeros();
        for lane in lanes(mask) {
            warp.set_lane(d, lane, u64::from(leader));
        }
        warp.wrote(d, mask);
        warp.set_pred(p, mask, mask & mask.wrapping_neg());
    }
}
