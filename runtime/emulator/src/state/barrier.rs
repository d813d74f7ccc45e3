//! The barriers of a block, as data.

use crate::state::clocks::Knowledge;
use crate::text::ins::{BarrierReduce, Reg};

/// Barriers of a block (PTX ISA 9.7.13.1).
pub(crate) const BARRIERS: usize = 16;

/// A block barrier in its current phase.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Number of threads, where an arrival gave one.
    pub(crate) count: Option<u32>,
    /// Threads that arrived, as the hardware counts them.
    pub(crate) arrived: u32,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) joined: Knowledge,
    pub(crate) popc: u32,
    pub(crate) any: bool,
    pub(crate) all: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) warp: usize,
    pub(crate) mask: u32,
    pub(crate) waits: bool,
    pub(crate) reduce: Option<(BarrierReduce, Reg)>,
}
