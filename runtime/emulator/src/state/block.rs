//! One resident block, as data: its warps, its memory and its clocks.

use crate::state::barrier::BARRIERS;
use std::collections::HashMap;

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::barrier::Barrier;
use crate::state::clocks::{Knowledge, PENDING, Published, Stamp};
use crate::state::cluster::Cluster;
use crate::state::in_flight::Agents;
use crate::state::run::Cx;
use crate::state::shared::Shared;
use crate::state::warp::{ALL, LANES, Placement, Warp};

/// One resident block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) place: Placement,
    /// Counted from 1 in the order of starting.
    pub(crate) number: u32,
    pub(crate) warps: Vec<Warp>,
    pub(crate) knowledge: Vec<Knowledge>,
    /// What each warp knew at its last fence: what its relaxed writes publish.
    pub(crate) fenced: Vec<Option<Knowledge>>,
    /// The same for fences that reach beyond the block.
    pub(crate) fenced_wide: Vec<Option<Knowledge>>,
    /// What relaxed reads saw, to be learnt at the next fence.
    pub(crate) observed: Vec<Option<Knowledge>>,
    pub(crate) shared: Shared,
    /// What was released at addresses in shared memory.
    pub(crate) published: HashMap<u64, Published>,
    pub(crate) barriers: Vec<Barrier>,
    pub(crate) agents: Agents,
    pub(crate) turn: usize,
}

impl Block {
    pub(crate) fn new(cx: &mut Cx<'_>, place: Placement, number: u32) -> Block {
        let threads = place.shape.iter().product::<u32>();
        let count = threads.div_ceil(LANES as u32);
        let waited = if cx.chain == cx.launch { ALL } else { 0 };
        let warp = |index| Warp { waited, ..Warp::new(cx.entry, index, &place, cx.globals) };
        let warps: Vec<Warp> = (0..count).map(warp).collect();
        let (cluster, rank) = place.in_cluster();
        let cluster = cx.clusters.entry(cluster).or_insert_with(|| Cluster::new(place.cluster, warps.len()));
        (0..warps.len()).for_each(|warp| cluster.member(rank, warp).block = number);
        let mut knowledge = vec![Knowledge::default(); warps.len()];
        for (warp, known) in knowledge.iter_mut().enumerate() {
            known.seen[warp] = 1;
        }
        let asynchronous = cx.entry.asynchronous;
        let readers = if asynchronous { 2 * warps.len() + 1 } else { warps.len() };
        let bytes = place.dynamic_base + place.dynamic_bytes;
        Block {
            place,
            number,
            fenced: vec![None; warps.len()],
            fenced_wide: vec![None; warps.len()],
            observed: vec![None; warps.len()],
            knowledge,
            shared: Shared::new(bytes, readers),
            published: HashMap::new(),
            barriers: (0..BARRIERS).map(|_| Barrier::default()).collect(),
            agents: Agents::new(warps.len(), bytes.div_ceil(4) as usize, cx.entry.registers, cx.entry.wgmma),
            warps,
            turn: 0,
        }
    }

    /// The warp's own clock.
    pub(crate) fn clock(&self, warp: usize) -> u32 {
        self.knowledge[warp].seen[warp]
    }

    /// What the warp does from here on comes after what it published.
    pub(crate) fn tick(&mut self, warp: usize) {
        let clock = &mut self.knowledge[warp].seen[warp];
        *clock = (*clock + 1).min(PENDING - 1);
    }

    pub(crate) fn stamp(&self, warp: usize, lane: usize, mask: u8, strength: u8) -> Stamp {
        Stamp { block: self.number, clock: self.clock(warp), agent: warp as u8, lane: lane as u8, mask, strength }
    }

    pub(crate) fn finding(&self, cx: &mut Cx<'_>, at: At, kind: FindingKind, message: impl FnOnce() -> String) {
        cx.report.add(cx.entry, kind, self.place.block, at, message);
    }
}
