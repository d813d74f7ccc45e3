//! Arrivals at the barriers of a block.

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::barrier::{Arrival, BARRIERS};
use crate::state::block::Block;
use crate::state::run::Cx;
use crate::state::warp::{ALL, GroupState, LANES, lanes};
use crate::text::ins::{BarrierKind, BarrierReduce};

impl Block {
    /// Arrives at a block barrier. The lanes wait inside it if the kind says so.
    pub(crate) fn arrive(&mut self, cx: &mut Cx<'_>, at: At, group: usize, (kind, id, count): (BarrierKind, u32, Option<u32>)) {
        let At { w, mask, pc } = at;
        let warp = &mut self.warps[w];
        if id as usize >= BARRIERS {
            self.finding(cx, at, FindingKind::Undefined, || format!("there is no barrier {id}"));
            self.advance(w, group, mask, pc + 1);
            return;
        }
        let whole = mask == warp.live();
        let live = mask.count_ones();
        let (mut popc, mut any, mut all) = (0, false, true);
        let reduce = match kind {
            BarrierKind::Reduce { op, d, p } => {
                let holds = warp.pred(p, mask);
                popc = holds.count_ones();
                any = holds != 0;
                all = holds == mask;
                Some((op, d))
            }
            BarrierKind::Sync | BarrierKind::Arrive => None,
        };
        let waits = kind != BarrierKind::Arrive;
        if let Some(count) = count
            && (count == 0 || count % LANES as u32 != 0)
        {
            self.finding(cx, at, FindingKind::BarrierCount, || {
                format!("barrier {id} is given {count} threads, not a multiple of the warp size")
            });
        }
        let barrier = &self.barriers[id as usize];
        if !barrier.arrivals.is_empty() && barrier.count != count {
            let other = barrier.count;
            self.finding(cx, at, FindingKind::BarrierCount, || {
                let show = |count: Option<u32>| count.map_or("all".to_owned(), |count| count.to_string());
                format!("barrier {id} is used for {} threads here and for {} by others", show(count), show(other))
            });
        }
        if barrier.arrivals.iter().any(|arrival| arrival.warp == w && arrival.mask & mask != 0) {
            self.finding(cx, at, FindingKind::BarrierCount, || {
                format!("barrier {id} is reached a second time before its phase is complete")
            });
            cx.report.stop();
            return;
        }
        let barrier = &mut self.barriers[id as usize];
        if barrier.arrivals.is_empty() {
            barrier.count = count;
            barrier.all = true;
        }
        barrier.popc += popc;
        barrier.any |= any;
        barrier.all &= all;
        // A counted barrier counts whole warps (PTX ISA 9.7.13.1).
        barrier.arrived += if count.is_some() && whole { LANES as u32 } else { live };
        barrier.joined.join(&self.knowledge[w]);
        barrier.arrivals.push(Arrival { warp: w, mask, waits, reduce });
        let full = self.clock(w);
        let present = self.warps[w].live();
        self.warps[w].order.sync(mask, present, full);
        self.tick(w);
        cx.counters.barriers += 1;
        cx.progress += 1;
        let (over, expected) = match self.barriers[id as usize].count {
            Some(count) => (self.barriers[id as usize].arrived > count.saturating_add(31), count),
            None => (false, 0),
        };
        if over {
            let arrived = self.barriers[id as usize].arrived;
            self.finding(cx, at, FindingKind::BarrierCount, || {
                format!("{arrived} threads arrived at barrier {id}, which is for {expected}")
            });
        }
        if waits {
            let index = self.split(w, group, mask, pc);
            self.warps[w].groups[index].state = GroupState::Waiting { barrier: id as u8 };
        } else {
            self.advance(w, group, mask, pc + 1);
        }
        self.complete_barrier(cx, id as usize);
    }

    pub(crate) fn complete_barrier(&mut self, cx: &mut Cx<'_>, id: usize) {
        let barrier = &self.barriers[id];
        if barrier.arrivals.is_empty() {
            return;
        }
        let complete = match barrier.count {
            Some(count) => barrier.arrived >= count,
            None => {
                let here = |w: usize| barrier.arrivals.iter().filter(|a| a.warp == w).fold(0, |all, a| all | a.mask);
                self.warps.iter().enumerate().all(|(w, warp)| warp.live() & !here(w) == 0)
            }
        };
        if !complete {
            return;
        }
        let barrier = std::mem::take(&mut self.barriers[id]);
        cx.progress += 1;
        for arrival in &barrier.arrivals {
            let w = arrival.warp;
            if let Some((op, d)) = arrival.reduce {
                let warp = &mut self.warps[w];
                match op {
                    BarrierReduce::Popc => {
                        for lane in lanes(arrival.mask) {
                            warp.set_lane(d, lane, u64::from(barrier.popc));
                        }
                        warp.wrote(d, arrival.mask);
                    }
                    BarrierReduce::And => warp.set_pred(d, arrival.mask, if barrier.all { ALL } else { 0 }),
                    BarrierReduce::Or => warp.set_pred(d, arrival.mask, if barrier.any { ALL } else { 0 }),
                }
            }
            if !arrival.waits {
                continue;
            }
            self.knowledge[w].join(&barrier.joined);
            for group in &mut self.warps[w].groups {
                if group.state == (GroupState::Waiting { barrier: id as u8 }) && group.mask & arrival.mask != 0 {
                    group.state = GroupState::Ready;
                    group.pc += 1;
                }
            }
        }
    }
}
