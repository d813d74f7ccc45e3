//! What runs beside the warps of a block: `cp.async`, bulk copies, mbarriers and wgmma in flight.

use crate::exec::schedule::Choices;
use crate::findings::at::At;
use crate::state::block::Block;
use crate::state::clocks::Published;
use crate::state::run::Cx;
use crate::state::warp::lanes;
use crate::text::ins::Op;

impl Block {
    /// Lets one asynchronous operation arrive.
    pub(crate) fn deliver(&mut self, cx: &mut Cx<'_>, choices: &mut Choices) {
        cx.progress += 1;
        let pending: Vec<usize> =
            (0..self.agents.outgoing.len()).filter(|&index| !self.agents.outgoing[index].delivered).collect();
        let (sent, arriving) = (self.agents.mail.len(), self.agents.arrivals.len());
        let pick = choices.delivery(sent + arriving + pending.len());
        if pick < sent {
            let mail = self.agents.mail.remove(pick);
            self.received(cx, mail);
        } else if pick < sent + arriving {
            let arrival = self.agents.arrivals.remove(pick - sent);
            self.arrived(cx, arrival);
        } else if let Some(&index) = pending.get(pick - sent - arriving) {
            self.send(cx, index);
        }
    }

    /// `barrier.cluster`: release and acquire by default (PTX ISA 9.7.13.3). True: try again.
    pub(crate) fn cluster(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, wait: bool) -> bool {
        let (number, rank) = self.place.in_cluster();
        let Some(cluster) = cx.clusters.get_mut(&number) else { return false };
        let member = cluster.member(rank, w);
        if !wait {
            member.arrive(&self.knowledge[w]);
            let (present, clock) = (self.warps[w].live(), self.clock(w));
            self.warps[w].order.sync(mask, present, clock);
            self.tick(w);
            cx.counters.barriers += 1;
            cx.progress += 1;
            return false;
        }
        let mine = member.count();
        let Some(others) = cluster.arrived(mine) else { return true };
        for other in others {
            if other.block == self.number {
                self.knowledge[w].join(other.known(mine));
            } else {
                self.knowledge[w].join_published(self.number, &Published::from([(other.block, other.known(mine).clone())]));
            }
        }
        false
    }

    /// Instructions of this module's neighbours. True: try the same instruction again later.
    pub(crate) fn asynchronous(&mut self, cx: &mut Cx<'_>, at: At, op: &Op) -> bool {
        let At { w, mask, .. } = at;
        match *op {
            Op::CopyAsync { dst, src, bytes, src_bytes, ignore } => {
                self.copy_async(cx, at, (dst, src), bytes, src_bytes, ignore);
            }
            Op::CopyCommit => lanes(mask).for_each(|lane| self.agents.copy_groups[w][lane] += 1),
            Op::CopyWait { left } => self.copy_wait(cx, w, mask, left),
            Op::CopyArrive { mbarrier, noinc } => self.copy_arrive(cx, at, mbarrier, noinc),
            Op::LoadMatrix { ref d, transpose, addr } => self.load_matrix(cx, at, (d, transpose), addr),
            Op::StoreMatrix { ref a, transpose, addr } => self.store_matrix(cx, at, (a, transpose), addr),
            Op::MoveMatrix { d, a } => self.move_matrix(cx, at, d, a),
            Op::Mma(ref mma) => self.mma(cx, at, mma),
            Op::MbarrierInit { addr, count } => self.mbarrier_init(cx, at, addr, count),
            Op::MbarrierInvalidate { addr } => self.mbarrier_invalidate(cx, at, addr),
            Op::MbarrierArrive { how, reach, addr, count, d } => self.mbarrier_arrive(cx, at, (how, reach), addr, count, d),
            Op::MbarrierExpect { addr, bytes } => self.mbarrier_expect(cx, at, addr, bytes, 1),
            Op::MbarrierComplete { addr, bytes } => self.mbarrier_expect(cx, at, addr, bytes, -1),
            Op::MbarrierTest { addr, test, wide, p } => self.mbarrier_test(cx, at, addr, (test, wide), p),
            Op::MbarrierPending { d, a } => self.warps[w].map1(mask, d, a, |state| state >> 32),
            Op::Bulk(ref bulk) => self.bulk(cx, at, bulk),
            Op::BulkCommit => lanes(mask).for_each(|lane| self.agents.bulk_groups[w][lane] += 1),
            Op::BulkWait { left } => self.bulk_wait(cx, w, mask, left),
            Op::WgmmaFence => self.agents.wgmma[w].fence(),
            Op::Wgmma(ref wgmma) => self.wgmma(cx, at, wgmma),
            Op::WgmmaCommit => self.agents.wgmma[w].commit(),
            Op::WgmmaWait { left } => self.wgmma_wait(cx, w, mask, left),
            _ => {}
        }
        false
    }
}
