//! A launch while it runs, as data.

use std::collections::HashMap;

use crate::findings::counters::{Counters, Executed};
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
