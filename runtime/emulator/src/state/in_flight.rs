//! What is under way beside the warps of a block, as data.

use std::collections::BTreeMap;

use crate::state::cluster::{Mail, Sender};
use crate::state::mbarrier::Mbarrier;
use crate::state::warp::LANES;
use crate::state::wgmma::InFlight;
use crate::text::ins::AtomicOp;
use crate::types::Ty;

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
    /// What other blocks of the cluster sent, and has not arrived.
    pub(crate) mail: Vec<Mail>,
    /// The latest of what has arrived from other blocks, by block, warp and instruction, with the warp's clock.
    pub(crate) met: BTreeMap<(u32, usize, u32), Sender>,
    /// The same of bytes, by the agent and the clock that they came with.
    pub(crate) landed: BTreeMap<u8, (u32, Sender)>,
    /// Bulk copies out of shared memory that no thread has waited for.
    pub(crate) outgoing: Vec<Outgoing>,
    /// Groups of bulk copies that each lane committed, by warp.
    pub(crate) bulk_groups: Vec<[u32; LANES]>,
    /// Which warp waited for the last bulk read of a shared word.
    pub(crate) bulk_readers: Vec<u8>,
    /// wgmma of each warp.
    pub(crate) wgmma: Vec<InFlight>,
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
            ..Agents::default()
        }
    }

    /// Whether something is on its way that could arrive now.
    #[inline]
    pub(crate) fn waiting(&self) -> bool {
        !self.arrivals.is_empty() || !self.mail.is_empty() || self.outgoing.iter().any(|store| !store.delivered)
    }
}

/// A copy that has been started.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    pub(crate) lane: u8,
    pub(crate) at: usize,
    pub(crate) bytes: u8,
    pub(crate) data: [u8; 16],
    pub(crate) group: u32,
}

/// Something on its way to shared memory, tracked by an mbarrier.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) warp: usize,
    pub(crate) lane: usize,
    pub(crate) pc: u32,
    pub(crate) mbarrier: u32,
    pub(crate) incoming: Incoming,
    /// Of a copy to several blocks of the cluster.
    pub(crate) spread: Option<Box<Spread>>,
}

/// Which blocks a copy goes to.
#[derive(Debug)]
pub(crate) struct Spread {
    /// The block itself among them.
    pub(crate) own: bool,
    pub(crate) others: Vec<u32>,
    pub(crate) from: Sender,
}

#[derive(Debug)]
pub(crate) enum Incoming {
    Copies(Vec<Copied>),
    Bulk(Vec<Piece>),
}

/// A run of bytes of a copy. Without a global address it is filled with zeros, or left out of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) shared: usize,
    pub(crate) bytes: u8,
    pub(crate) global: Option<u64>,
}

/// Something on its way out of shared memory.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) warp: usize,
    pub(crate) lane: usize,
    pub(crate) pc: u32,
    pub(crate) group: u32,
    pub(crate) delivered: bool,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) reduce: Option<(AtomicOp, Ty)>,
}
