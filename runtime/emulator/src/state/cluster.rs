//! The barrier of a cluster, as data: how often each warp of its blocks has arrived.

use crate::state::clocks::Knowledge;

/// The warps of all blocks of a cluster, by rank of the block and number of the warp.
#[derive(Debug)]
pub(crate) struct Cluster {
    warps: usize,
    members: Vec<Member>,
}

/// A warp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// Arrivals.
    pub(crate) count: u32,
    /// What it knew at the last.
    pub(crate) known: Knowledge,
    /// The number of its block; 0: that has not begun.
    pub(crate) block: u32,
    /// All of its lanes have ended.
    ended: bool,
}

impl Cluster {
    pub(crate) fn new(blocks: u32, warps: usize) -> Cluster {
        Cluster { warps, members: vec![Member::default(); blocks as usize * warps] }
    }

    pub(crate) fn member(&mut self, rank: u32, warp: usize) -> &mut Member {
        &mut self.members[rank as usize * self.warps + warp]
    }

    /// The warp does nothing any more. Whether none of the cluster does.
    pub(crate) fn end(&mut self, rank: u32, warp: usize) -> bool {
        self.member(rank, warp).ended = true;
        self.members.iter().all(|member| member.ended)
    }

    /// Those that have arrived so often, with what they knew then, if all have that have not ended.
    pub(crate) fn arrived(&self, count: u32) -> Option<impl Iterator<Item = &Member>> {
        let late = self.members.iter().any(|member| !member.ended && member.count < count);
        (!late).then(|| self.members.iter().filter(|member| member.count > 0))
    }
}
