//! A cluster, as data: how often each warp of its blocks has arrived at its barrier, and what is under way from one block to
//! another.

use crate::findings::at::At;
use crate::state::clocks::Knowledge;
use crate::text::ins::Arrive;

/// The warps of all blocks of a cluster, by rank of the block and number of the warp.
#[derive(Debug)]
pub(crate) struct Cluster {
    warps: usize,
    members: Vec<Member>,
    /// What is under way to each block; none, if it has ended.
    mail: Vec<Option<Vec<Mail>>>,
}

/// Something on its way to an mbarrier of another block.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) from: Sender,
    pub(crate) mbarrier: u32,
    pub(crate) sent: Sent,
}

/// Where something came from.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// The number of the block, and its place.
    pub(crate) number: u32,
    pub(crate) block: [u32; 3],
    pub(crate) at: At,
    /// What the warp knew when it began.
    pub(crate) known: Knowledge,
}

#[derive(Debug)]
pub(crate) enum Sent {
    /// An arrival. It lets others know what its thread knew, if its scope is wide enough.
    Arrival { how: Arrive, number: i64, tells: bool },
    /// Bytes of a copy.
    Bytes(Vec<Landing>),
}

/// A run of bytes, and where they go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Landing {
    pub(crate) shared: usize,
    pub(crate) bytes: u8,
    pub(crate) data: [u8; 16],
}

/// A warp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// Arrivals.
    count: u32,
    /// What it knew at the last arrivals with even and with odd numbers: it may be one ahead of those that wait.
    known: [Knowledge; 2],
    /// The number of its block; 0: that has not begun.
    pub(crate) block: u32,
    /// All of its lanes have ended.
    ended: bool,
}

impl Member {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// It arrives, and knows so much.
    pub(crate) fn arrive(&mut self, known: &Knowledge) {
        self.count += 1;
        self.known[self.count as usize % 2].clone_from(known);
    }

    /// What it knew at the arrival with this number, or at its last one before that.
    pub(crate) fn known(&self, count: u32) -> &Knowledge {
        &self.known[self.count.min(count) as usize % 2]
    }
}

impl Cluster {
    pub(crate) fn new(blocks: u32, warps: usize) -> Cluster {
        let mail = (0..blocks).map(|_| Some(Vec::new())).collect();
        Cluster { warps, members: vec![Member::default(); blocks as usize * warps], mail }
    }

    /// What is under way to a block of the cluster. None: it has ended.
    pub(crate) fn mail(&mut self, rank: u32) -> Option<&mut Vec<Mail>> {
        self.mail.get_mut(rank as usize)?.as_mut()
    }

    /// The block has ended. Whether all of the cluster have.
    pub(crate) fn leave(&mut self, rank: u32) -> bool {
        self.mail[rank as usize] = None;
        self.mail.iter().all(Option::is_none)
    }

    pub(crate) fn member(&mut self, rank: u32, warp: usize) -> &mut Member {
        &mut self.members[rank as usize * self.warps + warp]
    }

    /// The warp does nothing any more.
    pub(crate) fn end(&mut self, rank: u32, warp: usize) {
        self.member(rank, warp).ended = true;
    }

    /// Those that have arrived, if all have that so often that have not ended.
    pub(crate) fn arrived(&self, count: u32) -> Option<impl Iterator<Item = &Member>> {
        let late = self.members.iter().any(|member| !member.ended && member.count < count);
        (!late).then(|| self.members.iter().filter(|member| member.count > 0))
    }
}
