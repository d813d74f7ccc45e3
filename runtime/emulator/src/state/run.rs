//! A launch while it runs, as data.

use std::collections::HashMap;

use crate::findings::counters::{Counters, Executed, Moved, Sectors};
use crate::findings::report::Recorder;
use crate::options::Options;
use crate::state::clocks::Published;
use crate::state::cluster::Cluster;
use crate::state::memory::Memory;
use crate::text::module::Entry;

/// Everything that the blocks of a launch share.
pub(crate) struct Cx<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) memory: &'a mut Memory,
    pub(crate) options: &'a Options,
    pub(crate) args: &'a [u8],
    pub(crate) globals: &'a [u64],
    pub(crate) report: Recorder,
    pub(crate) counters: Counters,
    pub(crate) executed: Vec<Executed>,
    /// By the number of the buffer.
    pub(crate) moved: Vec<Moved>,
    /// Grows whenever anything changes that another thread could see.
    pub(crate) progress: u64,
    pub(crate) steps: u64,
    /// Instructions that one warp may take.
    pub(crate) warp_step_limit: u64,
    pub(crate) launch: u64,
    /// The first of the launches that may still run when this one begins; itself if there is none.
    pub(crate) chain: u64,
    /// What was released at global addresses.
    pub(crate) published: HashMap<u64, Published>,
    /// The barriers of the clusters under way, by their number in the grid.
    pub(crate) clusters: HashMap<u64, Cluster>,
    /// The coordinates of blocks by their number, less one.
    pub(crate) numbers: Vec<[u32; 3]>,
}

impl Cx<'_> {
    /// Counts the sectors of one instruction, or of one box, in the buffer of this number.
    pub(crate) fn count_sectors(&mut self, buffer: usize, is_read: bool, touched: u64, needed: u64) {
        self.counters.sectors += touched;
        self.counters.sectors_needed += needed;
        // What lies in no buffer is a finding, and is counted above alone.
        if buffer >= self.memory.buffers() {
            return;
        }
        if self.moved.len() <= buffer {
            self.moved.resize(buffer + 1, Moved::default());
        }
        let moved = &mut self.moved[buffer];
        let of: &mut Sectors = if is_read { &mut moved.read } else { &mut moved.written };
        of.touched += touched;
        of.needed += needed;
    }
}
