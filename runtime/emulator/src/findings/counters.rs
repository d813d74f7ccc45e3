//! What a launch did, as counts. Nothing here is a time, and nothing here is called one.

use std::collections::BTreeMap;
use std::fmt;

use crate::findings::json;

/// Accesses to one state space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp-level load instructions.
    pub loads: u64,
    /// Warp-level store instructions.
    pub stores: u64,
    /// Warp-level atomics.
    pub atomics: u64,
    /// Bytes that the lanes asked to read.
    pub read_bytes: u64,
    /// Bytes that the lanes wrote.
    pub written_bytes: u64,
}

/// Sectors of 32 bytes of one buffer in global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sectors {
    /// Those that instructions touched: each as often as an instruction of a warp, or a box, has bytes of it. Of atomics none.
    pub touched: u64,
    /// The fewest that could have held the same bytes, by instruction.
    pub needed: u64,
    /// Different ones, those of atomics included: what memory moves if a cache keeps everything for the launch.
    pub distinct: u64,
}

impl Sectors {
    fn add(&mut self, other: Sectors) {
        self.touched += other.touched;
        self.needed += other.needed;
        self.distinct += other.distinct;
    }
}

/// What was done with one buffer in global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// By loads and copies.
    pub read: Sectors,
    /// By stores and copies.
    pub written: Sectors,
}

impl Moved {
    pub(crate) fn add(&mut self, other: Moved) {
        self.read.add(other.read);
        self.written.add(other.written);
    }
}

/// How often one opcode ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Instructions of warps.
    pub warps: u64,
    /// Instructions of single lanes.
    pub lanes: u64,
}

/// The counts of a launch, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By full opcode.
    pub opcodes: BTreeMap<String, Executed>,
    /// Blocks that ran to their end.
    pub blocks: u64,
    /// Global memory, module constants included.
    pub global: Traffic,
    /// Shared memory.
    pub shared: Traffic,
    /// Local memory.
    pub local: Traffic,
    /// By buffer, those that were touched. Launches of a sum count apart: what several read is different sectors of each.
    pub buffers: BTreeMap<String, Moved>,
    /// 32-byte sectors that the global accesses touched, boxes included.
    pub sectors: u64,
    /// The fewest sectors that could have held the same bytes.
    pub sectors_needed: u64,
    /// Passes that the shared-memory banks needed.
    pub wavefronts: u64,
    /// Passes that would be needed without any bank conflict.
    pub wavefronts_needed: u64,
    /// Floating-point and integer operations of `mma.sync`, a multiply-add being two.
    pub mma_flops: u64,
    /// The same for `wgmma`.
    pub wgmma_flops: u64,
    /// Floating-point operations of scalar and packed instructions, of lanes.
    pub scalar_flops: u64,
    /// Bytes moved by bulk and tensor copies.
    pub bulk_bytes: u64,
    /// Bytes moved by `cp.async`.
    pub copy_bytes: u64,
    /// Arrivals of warps at block barriers.
    pub barriers: u64,
    /// Arrivals at mbarriers.
    pub mbarrier_arrivals: u64,
    /// Branches at which the lanes of a warp parted.
    pub divergent_branches: u64,
}

impl Counters {
    /// Instructions of warps, of all opcodes.
    pub fn warp_instructions(&self) -> u64 {
        self.opcodes.values().map(|executed| executed.warps).sum()
    }

    /// Instructions of lanes, of all opcodes.
    pub fn lane_instructions(&self) -> u64 {
        self.opcodes.values().map(|executed| executed.lanes).sum()
    }

    /// Adds the counts of another launch.
    pub fn add(&mut self, other: &Counters) {
        for (opcode, executed) in &other.opcodes {
            let mine = self.opcodes.entry(opcode.clone()).or_default();
            mine.warps += executed.warps;
            mine.lanes += executed.lanes;
        }
        for (mine, theirs) in
            [(&mut self.global, &other.global), (&mut self.shared, &other.shared), (&mut self.local, &other.local)]
        {
            mine.loads += theirs.loads;
            mine.stores += theirs.stores;
            mine.atomics += theirs.atomics;
            mine.read_bytes += theirs.read_bytes;
            mine.written_bytes += theirs.written_bytes;
        }
        for (buffer, moved) in &other.buffers {
            self.buffers.entry(buffer.clone()).or_default().add(*moved);
        }
        self.blocks += other.blocks;
        self.sectors += other.sectors;
        self.sectors_needed += other.sectors_needed;
        self.wavefronts += other.wavefronts;
        self.wavefronts_needed += other.wavefronts_needed;
        self.mma_flops += other.mma_flops;
        self.wgmma_flops += other.wgmma_flops;
        self.scalar_flops += other.scalar_flops;
        self.bulk_bytes += other.bulk_bytes;
        self.copy_bytes += other.copy_bytes;
        self.barriers += other.barriers;
        self.mbarrier_arrivals += other.mbarrier_arrivals;
        self.divergent_branches += other.divergent_branches;
    }

    fn rows(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("blocks", self.blocks),
            ("warp_instructions", self.warp_instructions()),
            ("lane_instructions", self.lane_instructions()),
            ("global_loads", self.global.loads),
            ("global_stores", self.global.stores),
            ("global_atomics", self.global.atomics),
            ("global_read_bytes", self.global.read_bytes),
            ("global_written_bytes", self.global.written_bytes),
            ("sectors", self.sectors),
            ("sectors_needed", self.sectors_needed),
            ("shared_loads", self.shared.loads),
            ("shared_stores", self.shared.stores),
            ("shared_atomics", self.shared.atomics),
            ("shared_read_bytes", self.shared.read_bytes),
            ("shared_written_bytes", self.shared.written_bytes),
            ("wavefronts", self.wavefronts),
            ("wavefronts_needed", self.wavefronts_needed),
            ("local_read_bytes", self.local.read_bytes),
            ("local_written_bytes", self.local.written_bytes),
            ("scalar_flops", self.scalar_flops),
            ("mma_flops", self.mma_flops),
            ("wgmma_flops", self.wgmma_flops),
            ("bulk_bytes", self.bulk_bytes),
            ("copy_bytes", self.copy_bytes),
            ("barriers", self.barriers),
            ("mbarrier_arrivals", self.mbarrier_arrivals),
            ("divergent_branches", self.divergent_branches),
        ]
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        let mut object = json::Object::new();
        for (name, value) in self.rows() {
            object.number(name, value);
        }
        let mut opcodes = json::Object::new();
        for (opcode, executed) in &self.opcodes {
            opcodes.raw(opcode, &format!("[{},{}]", executed.warps, executed.lanes));
        }
        object.raw("opcodes", &opcodes.close());
        let mut buffers = json::Object::new();
        for (buffer, moved) in &self.buffers {
            let of = |Sectors { touched, needed, distinct }: Sectors| format!("[{touched},{needed},{distinct}]");
            buffers.raw(buffer, &format!("[{},{}]", of(moved.read), of(moved.written)));
        }
        object.raw("buffers", &buffers.close());
        object.close()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.rows().into_iter().filter(|(_, value)| *value != 0) {
            writeln!(out, "{name:<24} {value:>16}")?;
        }
        for (opcode, executed) in &self.opcodes {
            writeln!(out, "  {opcode:<40} {:>12} {:>14}", executed.warps, executed.lanes)?;
        }
        Ok(())
    }
}
