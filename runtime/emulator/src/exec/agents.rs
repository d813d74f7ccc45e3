//! What runs beside the warps of a block: `cp.async`, bulk copies, mbarriers and wgmma in flight.

use std::collections::BTreeMap;

use crate::exec::block::Block;
use crate::exec::bulk::{Arrival, Outgoing};
use crate::exec::copy::Copied;
use crate::exec::mbarrier::Mbarrier;
use crate::exec::schedule::Choices;
use crate::exec::wgmma::InFlight;
use crate::findings::finding::FindingKind;
use crate::launch::Cx;
use crate::state::clocks::Knowledge;
use crate::state::warp::{LANES, lanes};
use crate::text::ins::{MbarrierTest, Op, Reg};

/// The asynchronous state of a block.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// `cp.async` copies that no thread has waited for, by warp.
    pub(crate) copies: Vec<Vec<Copied>>,
    /// Groups of `cp.async` that each lane committed, by warp.
    pub(crate) copy_groups: Vec<[u32; LANES]>,
    pub(crate) mbarriers: BTreeMap<u32, Mbarrier>,
    /// How many mbarriers were ever made: picks their agents.
    pub(crate) mbarriers_made: u32,
    /// Copies towards shared memory that have not arrived.
    pub(crate) arrivals: Vec<Arrival>,
    /// Bulk copies out of shared memory that no thread has waited for.
    pub(crate) outgoing: Vec<Outgoing>,
    /// Groups of bulk copies that each lane committed, by warp.
    pub(crate) bulk_groups: Vec<[u32; LANES]>,
    /// Which warp waited for the last bulk read of a shared word.
    pub(crate) bulk_readers: Vec<u8>,
    /// wgmma of each warp.
    pub(crate) wgmma: Vec<InFlight>,
    /// Arrivals of each warp at the cluster's barrier, and what it knew at the last.
    pub(crate) cluster: Vec<(u32, Knowledge)>,
}

impl Agents {
    pub(crate) fn new(warps: usize, words: usize, registers: u32, wgmma: bool) -> Agents {
        let tracked = if wgmma { registers as usize } else { 0 };
        Agents {
            copies: vec![Vec::new(); warps],
            copy_groups: vec![[0; LANES]; warps],
            bulk_groups: vec![[0; LANES]; warps],
            bulk_readers: vec![0; words],
            wgmma: (0..warps).map(|_| InFlight::new(tracked)).collect(),
            cluster: vec![(0, Knowledge::default()); warps],
            ..Agents::default()
        }
    }

    /// Whether something is on its way that could arrive now.
    #[inline]
    pub(crate) fn waiting(&self) -> bool {
        !self.arrivals.is_empty() || self.outgoing.iter().any(|store| !store.delivered)
    }
}

impl Block {
    /// Lets one asynchronous operation arrive.
    pub(crate) fn deliver(&mut self, cx: &mut Cx<'_>, choices: &mut Choices) {
        cx.progress += 1;
        let pending: Vec<usize> =
            (0..self.agents.outgoing.len()).filter(|&index| !self.agents.outgoing[index].delivered).collect();
        let arriving = self.agents.arrivals.len();
        let pick = choices.delivery(arriving + pending.len());
        if pick < arriving {
            let arrival = self.agents.arrivals.remove(pick);
            self.arrived(cx, arrival);
        } else if let Some(&index) = pending.get(pick - arriving) {
            self.send(cx, index);
        }
    }

    /// Nothing asynchronous may outlive the thread that has to wait for it.
    pub(crate) fn check_abandoned(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, pc: u32) {
        let lanes_of = |lanes: &mut dyn Iterator<Item = u8>| lanes.fold(0_u32, |set, lane| set | 1 << lane) & mask;
        let copies = lanes_of(&mut self.agents.copies[w].iter().map(|copy| copy.lane));
        let stores = lanes_of(&mut self.agents.outgoing.iter().filter(|store| store.warp == w).map(|store| store.lane as u8));
        let wgmma = if self.agents.wgmma[w].records.is_empty() { 0 } else { mask };
        for (lanes, what) in [(copies, "`cp.async`"), (stores, "bulk copy"), (wgmma, "wgmma")] {
            if lanes != 0 {
                self.finding(cx, w, pc, lanes, FindingKind::Abandoned, || {
                    format!("a {what} of these lanes was never waited for")
                });
            }
        }
        if wgmma != 0 {
            self.agents.wgmma[w].records.clear();
        }
    }

    /// `barrier.cluster` in a cluster of one block. True: try again.
    pub(crate) fn cluster(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, wait: bool) -> bool {
        if !wait {
            let known = self.knowledge[w].clone();
            let (count, published) = &mut self.agents.cluster[w];
            *count += 1;
            *published = known;
            let (present, clock) = (self.warps[w].live(), self.clock(w));
            self.warps[w].order.sync(mask, present, clock);
            self.tick(w);
            cx.counters.barriers += 1;
            cx.progress += 1;
            return false;
        }
        let mine = self.agents.cluster[w].0;
        let late = (0..self.warps.len()).any(|other| self.warps[other].live() != 0 && self.agents.cluster[other].0 < mine);
        if late {
            return true;
        }
        for other in 0..self.warps.len() {
            let published = self.agents.cluster[other].1.clone();
            self.knowledge[w].join(&published);
        }
        false
    }

    /// Instructions of this module's neighbours. True: try the same instruction again later.
    pub(crate) fn asynchronous(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, pc: u32, op: &Op) -> bool {
        match *op {
            Op::CopyAsync { dst, src, bytes, src_bytes, ignore } => {
                self.copy_async(cx, w, mask, pc, (dst, src), bytes, src_bytes, ignore);
            }
            Op::CopyCommit => lanes(mask).for_each(|lane| self.agents.copy_groups[w][lane] += 1),
            Op::CopyWait { left } => self.copy_wait(cx, w, mask, left),
            Op::CopyArrive { mbarrier, noinc } => self.copy_arrive(cx, w, mask, pc, mbarrier, noinc),
            Op::LoadMatrix { ref d, transpose, addr } => self.load_matrix(cx, w, mask, pc, (d, transpose), addr),
            Op::StoreMatrix { ref a, transpose, addr } => self.store_matrix(cx, w, mask, pc, (a, transpose), addr),
            Op::MoveMatrix { d, a } => self.move_matrix(cx, w, mask, pc, d, a),
            Op::Mma(ref mma) => self.mma(cx, w, mask, pc, mma),
            Op::MbarrierInit { addr, count } => self.mbarrier_init(cx, w, mask, pc, addr, count),
            Op::MbarrierInvalidate { addr } => self.mbarrier_invalidate(cx, w, mask, pc, addr),
            Op::MbarrierArrive { how, addr, count, d, .. } => self.mbarrier_arrive(cx, w, mask, pc, how, addr, count, d),
            Op::MbarrierExpect { addr, bytes } => self.mbarrier_expect(cx, w, mask, pc, addr, bytes, 1),
            Op::MbarrierComplete { addr, bytes } => self.mbarrier_expect(cx, w, mask, pc, addr, bytes, -1),
            Op::MbarrierTest { addr, test, p } => self.mbarrier_test(cx, w, mask, pc, addr, test, p),
            Op::MbarrierPending { d, a } => self.warps[w].map1(mask, d, a, |state| state >> 32),
            Op::Bulk(ref bulk) => self.bulk(cx, w, mask, pc, bulk),
            Op::BulkCommit => lanes(mask).for_each(|lane| self.agents.bulk_groups[w][lane] += 1),
            Op::BulkWait { left } => self.bulk_wait(cx, w, mask, left),
            Op::WgmmaFence => self.agents.wgmma[w].fence(),
            Op::Wgmma(ref wgmma) => self.wgmma(cx, w, mask, pc, wgmma),
            Op::WgmmaCommit => self.agents.wgmma[w].committed += 1,
            Op::WgmmaWait { left } => self.wgmma_wait(cx, w, mask, left),
            _ => {}
        }
        false
    }
}

impl Op {
    /// Calls back for each register of a scalar instruction, and says whether it is written.
    pub(crate) fn each_register(&self, mut each: impl FnMut(Reg, bool)) {
        let mut many = |reads: &[Reg], writes: &[Reg]| {
            reads.iter().for_each(|&reg| each(reg, false));
            writes.iter().for_each(|&reg| each(reg, true));
        };
        match *self {
            Op::Mov { d, a }
            | Op::IntUnary { d, a, .. }
            | Op::FloatUnary { d, a, .. }
            | Op::WindowAddress { d, a, .. }
            | Op::Redux { d, a, .. }
            | Op::Match { d, a, .. }
            | Op::MoveMatrix { d, a }
            | Op::MbarrierPending { d, a }
            | Op::MapAddress { d, a, .. }
            | Op::ClusterRank { d, a, .. } => many(&[a], &[d]),
            Op::Int { d, a, b, .. }
            | Op::Carry { d, a, b, .. }
            | Op::Float { d, a, b, .. }
            | Op::Set { d, a, b, .. }
            | Op::Select { d, a, b, .. }
            | Op::Convert { d, a, b, .. } => many(&[a, b], &[d]),
            Op::Mad { d, a, b, c, .. }
            | Op::FunnelShift { d, a, b, c, .. }
            | Op::Lop3 { d, a, b, c, .. }
            | Op::Permute { d, a, b, c, .. }
            | Op::Extract { d, a, b, c, .. }
            | Op::DotProduct { d, a, b, c, .. }
            | Op::FindNthSet { d, a, b, c }
            | Op::Fma { d, a, b, c, .. }
            | Op::Slct { d, a, b, c, .. }
            | Op::Shuffle { d, a, b, c, .. } => many(&[a, b, c], &[d]),
            Op::Insert { d, a, b, c, e, .. } => many(&[a, b, c, e], &[d]),
            Op::Setp { a, b, .. } => many(&[a, b], &[]),
            Op::TestFloat { a, .. } | Op::IsSpace { a, .. } => many(&[a], &[]),
            Op::Clock { d, .. } | Op::ActiveMask { d } | Op::Vote { d, mode: crate::text::ins::VoteMode::Ballot, .. } => {
                many(&[], &[d]);
            }
            Op::Elect { d, .. } => many(&[], &[d]),
            Op::Pack { d, ref parts, .. } => many(parts, &[d]),
            Op::Unpack { ref d, a, .. } => many(&[a], d),
            Op::Load(ref access) => many(&[access.addr.base], &access.regs),
            Op::Store(ref access) => {
                many(&[access.addr.base], &[]);
                many(&access.regs, &[]);
            }
            Op::Atomic(ref atomic) => {
                many(&[atomic.addr.base, atomic.b], &atomic.d);
                many(&atomic.a, &[]);
            }
            Op::LoadMatrix { ref d, addr, .. } => many(&[addr.base], d),
            Op::StoreMatrix { ref a, addr, .. } => {
                many(&[addr.base], &[]);
                many(a, &[]);
            }
            Op::Mma(ref mma) => {
                many(&mma.a, &[]);
                many(&mma.b, &[]);
                many(&mma.c, &mma.d);
            }
            Op::MbarrierArrive { d, .. } => many(&[], &[d]),
            Op::MbarrierTest { test: MbarrierTest::Parity(reg) | MbarrierTest::State(reg), .. } => many(&[reg], &[]),
            Op::Vote { .. }
            | Op::Nop
            | Op::PredLogic { .. }
            | Op::PredMov { .. }
            | Op::Branch { .. }
            | Op::BranchIndex { .. }
            | Op::Return
            | Op::Exit
            | Op::Trap
            | Op::Assert { .. }
            | Op::Barrier { .. }
            | Op::WarpSync { .. }
            | Op::Fence { .. }
            | Op::FenceProxyAsync
            | Op::FenceMbarrierInit
            | Op::CopyAsync { .. }
            | Op::CopyCommit
            | Op::CopyWait { .. }
            | Op::CopyArrive { .. }
            | Op::MbarrierInit { .. }
            | Op::MbarrierInvalidate { .. }
            | Op::MbarrierExpect { .. }
            | Op::MbarrierComplete { .. }
            | Op::Bulk(_)
            | Op::BulkCommit
            | Op::BulkWait { .. }
            | Op::WgmmaFence
            | Op::Wgmma(_)
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. }
            | Op::SetMaxRegisters
            | Op::ClusterArrive
            | Op::ClusterWait
            | Op::GridDependencyWait => {}
        }
    }
}
