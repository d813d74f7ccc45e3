//! A launch: its options, which blocks run, and the loop over those that are resident.

use std::collections::HashMap;
use std::fmt;

use crate::exec::block::Progress;
use crate::exec::schedule::Choices;
use crate::findings::at::At;
use crate::findings::counters::{Counters, Executed, Moved};
use crate::findings::finding::FindingKind;
use crate::findings::report::{Recorder, Report};
use crate::options::{Blocks, Options};
use crate::state::block::Block;
use crate::state::memory::{Buffer, Fill, Memory, MemoryError};
use crate::state::run::Cx;
use crate::state::warp::Placement;
use crate::text::module::{Entry, Module};

/// The shape and the arguments of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Blocks, as x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block, as x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared_bytes: u32,
    /// Whether it may begin before the launches before it on the same memory have ended (programmatic stream serialisation): what it
    /// does before `griddepcontrol.wait` is held against what these read and wrote.
    pub early: bool,
    /// The parameter block; [`Entry::pack`] makes it.
    pub args: Vec<u8>,
}

/// Why a launch could not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The module has no such kernel.
    NoSuchEntry(String),
    /// The grid has no blocks, or too many.
    Grid([u32; 3]),
    /// The grid is not whole clusters of the kernel.
    Cluster {
        /// Blocks along x.
        blocks: u32,
        /// Of a cluster.
        cluster: u32,
    },
    /// The block has no threads, too many, or not those that the kernel requires.
    Block {
        /// What was asked for.
        block: [u32; 3],
        /// What is allowed, in words.
        allowed: String,
    },
    /// The parameter block has the wrong size.
    Args {
        /// What the kernel takes.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// An argument does not fit its parameter.
    Arg {
        /// The parameter's index.
        index: usize,
        /// Its size in bytes.
        expected: usize,
        /// The argument's size in bytes.
        found: usize,
    },
    /// A selected block is not in the grid.
    NoSuchBlock(u64),
    /// The registers, shared and local memory of blocks that run together, those of a cluster, need more of the host than allowed.
    TooMuchState {
        /// What it would take.
        needed: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// The module's variables could not be placed.
    Memory(MemoryError),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::NoSuchEntry(name) => write!(out, "there is no kernel `{name}`"),
            LaunchError::Grid(grid) => write!(out, "a grid of {grid:?} blocks cannot be launched"),
            LaunchError::Block { block, allowed } => {
                write!(out, "a block of {block:?} threads cannot be launched: {allowed}")
            }
            LaunchError::Cluster { blocks, cluster } => {
                write!(out, "{blocks} blocks along x are not whole clusters of {cluster}")
            }
            LaunchError::Args { expected, found } => {
                write!(out, "the kernel takes {expected} bytes of parameters, not {found}")
            }
            LaunchError::Arg { index, expected, found } => {
                write!(out, "parameter {index} has {expected} bytes, the argument {found}")
            }
            LaunchError::NoSuchBlock(block) => write!(out, "block {block} is not in the grid"),
            LaunchError::TooMuchState { needed, allowed } => {
                write!(out, "blocks that run together need {needed} bytes of the host, {allowed} are allowed")
            }
            LaunchError::Memory(error) => write!(out, "the module's variables: {error}"),
        }
    }
}

impl std::error::Error for LaunchError {}

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// The address of a buffer.
    Buffer(Buffer),
    /// A raw address, or any 64-bit integer.
    U64(u64),
    /// A 32-bit integer.
    U32(u32),
    /// A signed 32-bit integer.
    I32(i32),
    /// A float.
    F32(f32),
    /// Anything passed by value, such as a tensor map.
    Bytes(Vec<u8>),
}

impl Entry {
    /// Lays arguments out as the kernel expects them.
    ///
    /// # Errors
    /// [`LaunchError::Args`] for another number of arguments, [`LaunchError::Arg`] for one of another size,
    /// [`LaunchError::Memory`] for a buffer that is not in `memory`.
    pub fn pack(&self, memory: &Memory, args: &[Arg]) -> Result<Vec<u8>, LaunchError> {
        if args.len() != self.params.len() {
            return Err(LaunchError::Args { expected: self.params.len(), found: args.len() });
        }
        let mut out = vec![0; self.param_bytes];
        for (index, (param, arg)) in self.params.iter().zip(args).enumerate() {
            let bytes = match arg {
                Arg::Buffer(buffer) => memory.address(*buffer).map_err(LaunchError::Memory)?.to_le_bytes().to_vec(),
                Arg::U64(value) => value.to_le_bytes().to_vec(),
                Arg::U32(value) => value.to_le_bytes().to_vec(),
                Arg::I32(value) => value.to_le_bytes().to_vec(),
                Arg::F32(value) => value.to_le_bytes().to_vec(),
                Arg::Bytes(bytes) => bytes.clone(),
            };
            if bytes.len() != param.bytes {
                return Err(LaunchError::Arg { index, expected: param.bytes, found: bytes.len() });
            }
            out[param.offset..param.offset + param.bytes].copy_from_slice(&bytes);
        }
        Ok(out)
    }
}

/// Blocks whose coordinates are kept for reports of races.
const NAMED_BLOCKS: usize = 1 << 22;

/// The part of a warp's limit from which on its block has no more turns.
const LONG: u64 = 64;

/// Runs a kernel.
///
/// # Errors
/// [`LaunchError`], before anything runs: no such kernel, a grid, block or arguments that it cannot be launched with, or too much
/// state. What a kernel does wrong is a finding of the report.
pub fn launch(
    module: &Module,
    entry: &str,
    launch: &Launch,
    memory: &mut Memory,
    options: &Options,
) -> Result<Report, LaunchError> {
    let entry = module.entry(entry).ok_or_else(|| LaunchError::NoSuchEntry(entry.to_owned()))?;
    let total = check_shape(entry, launch, options)?;
    let globals = place_globals(module, memory)?;
    // What walks through memory byte by byte ends below this.
    let warp_step_limit = options.warp_step_limit.unwrap_or_else(|| memory.total_bytes().saturating_add(1 << 20));
    memory.launches += 1;
    let stamp = memory.launches;
    if !launch.early {
        memory.chain = stamp;
    }
    let chain = memory.chain.max(1);
    let mut cx = Cx {
        entry,
        memory,
        options,
        args: &launch.args,
        globals: &globals,
        report: Recorder::new(options.max_findings),
        counters: Counters::default(),
        executed: vec![Executed::default(); entry.code.len()],
        moved: Vec::new(),
        progress: 0,
        steps: 0,
        warp_step_limit,
        launch: stamp,
        chain,
        published: HashMap::new(),
        clusters: HashMap::new(),
        numbers: Vec::new(),
    };
    let dynamic_base = u64::from(entry.shared_bytes).next_multiple_of(u64::from(entry.shared_align));
    let shared = dynamic_base + u64::from(launch.shared_bytes);
    if shared > u64::from(options.limits.shared_bytes) {
        let limit = options.limits.shared_bytes;
        cx.report.add(entry, FindingKind::SharedLimit, [0; 3], At { w: 0, mask: 0, pc: 0 }, || {
            format!("the block needs {shared} bytes of shared memory, the machine has {limit}")
        });
        return Ok(Report { findings: cx.report.finish(), counters: Counters::default(), completed: false });
    }
    let state = state_bytes(entry, launch, shared);
    let cluster = entry.cluster.unwrap_or(1);
    let needed = state.saturating_mul(cluster.into());
    if needed > options.limits.state_bytes {
        return Err(LaunchError::TooMuchState { needed, allowed: options.limits.state_bytes });
    }
    let residents = (options.limits.state_bytes / state.max(1)).clamp(1, options.limits.resident_blocks.max(1) as u64);
    let mut choices = Choices::new(options.schedule, options.seed);
    let queue = Queue::new(total, cluster.into(), &options.blocks, &mut choices)?;
    let base = Placement {
        block: [0; 3],
        grid: launch.grid,
        shape: launch.block,
        linear: 0,
        dynamic_base: dynamic_base as u32,
        dynamic_bytes: launch.shared_bytes,
        cluster,
    };
    let completed = run_blocks(&mut cx, base, queue, residents as usize, &mut choices);
    for (ins, executed) in entry.code.iter().zip(&cx.executed) {
        if executed.warps > 0 {
            let name = &entry.opcodes[usize::from(ins.opcode)];
            let all = cx.counters.opcodes.entry(name.clone()).or_default();
            all.warps += executed.warps;
            all.lanes += executed.lanes;
        }
    }
    for (number, name, [read, written]) in cx.memory.sectors_of(stamp) {
        let mut moved = cx.moved.get(number).copied().unwrap_or_default();
        (moved.read.distinct, moved.written.distinct) = (read, written);
        if moved != Moved::default() {
            cx.counters.buffers.entry(name.to_owned()).or_default().add(moved);
        }
    }
    Ok(Report { findings: cx.report.finish(), counters: cx.counters, completed })
}

fn check_shape(entry: &Entry, launch: &Launch, options: &Options) -> Result<u64, LaunchError> {
    let [x, y, z] = launch.grid.map(u64::from);
    // CUDA programming guide, technical specifications: 2^31 - 1 by 65535 by 65535.
    if x == 0 || y == 0 || z == 0 || x > (1 << 31) - 1 || y > 65535 || z > 65535 {
        return Err(LaunchError::Grid(launch.grid));
    }
    let cluster = entry.cluster.unwrap_or(1);
    if !launch.grid[0].is_multiple_of(cluster) {
        return Err(LaunchError::Cluster { blocks: launch.grid[0], cluster });
    }
    let threads = launch.block.iter().try_fold(1_u32, |all, &extent| all.checked_mul(extent)).unwrap_or(u32::MAX);
    let most = options.limits.block_threads.min(entry.max_threads.unwrap_or(u32::MAX)).min(1024);
    if threads == 0 || threads > most || launch.block[2] > 64 {
        return Err(LaunchError::Block { block: launch.block, allowed: format!("1 to {most} threads") });
    }
    if entry.required_block.is_some_and(|required| required != launch.block) {
        let allowed = format!("the kernel requires {:?}", entry.required_block.unwrap_or_default());
        return Err(LaunchError::Block { block: launch.block, allowed });
    }
    if launch.args.len() != entry.param_bytes {
        return Err(LaunchError::Args { expected: entry.param_bytes, found: launch.args.len() });
    }
    Ok(x * y * z)
}

/// Module variables exist as long as the memory, as they do on a device.
fn place_globals(module: &Module, memory: &mut Memory) -> Result<Vec<u64>, LaunchError> {
    if let Some(known) = memory.modules.get(&module.fingerprint) {
        return Ok(known.clone());
    }
    let mut addresses = Vec::with_capacity(module.globals.len());
    for variable in &module.globals {
        // An alignment beyond the allocator's is reached by skipping within the buffer.
        let padding = if variable.align > 256 { variable.align } else { 0 };
        let buffer = memory.alloc(&variable.name, variable.bytes + padding, Fill::Byte(0)).map_err(LaunchError::Memory)?;
        let base = memory.address(buffer).map_err(LaunchError::Memory)?;
        let address = base.next_multiple_of(variable.align.max(1));
        memory.write(buffer, address - base, &variable.initial).map_err(LaunchError::Memory)?;
        if variable.constant {
            memory.set_read_only(buffer, true).map_err(LaunchError::Memory)?;
        }
        addresses.push(address);
    }
    memory.modules.insert(module.fingerprint, addresses.clone());
    Ok(addresses)
}

/// What one block takes of the host, roughly.
fn state_bytes(entry: &Entry, launch: &Launch, shared: u64) -> u64 {
    let threads = u64::from(launch.block.iter().product::<u32>());
    let warps = threads.div_ceil(32);
    let readers = if entry.asynchronous { 2 * warps + 1 } else { warps };
    warps * (u64::from(entry.registers) * 272 + u64::from(entry.local_bytes) * 64) + shared * (2 + readers + 3) + (64 << 10)
}

/// The clusters still to be started, by number.
enum Queue {
    Range(std::ops::Range<u64>),
    Reverse(std::iter::Rev<std::ops::Range<u64>>),
    List(std::vec::IntoIter<u64>),
}

/// Grids up to this size are shuffled; larger ones would need a table of their own.
const SHUFFLED: u64 = 1 << 20;

impl Queue {
    /// Of the clusters that have some of these blocks.
    fn new(blocks_in_all: u64, cluster: u64, blocks: &Blocks, choices: &mut Choices) -> Result<Queue, LaunchError> {
        let total = blocks_in_all / cluster;
        let mut chosen: Vec<u64> = match blocks {
            Blocks::All if total <= SHUFFLED => (0..total).collect(),
            Blocks::All => {
                return Ok(match choices.reversed() {
                    true => Queue::Reverse((0..total).rev()),
                    false => Queue::Range(0..total),
                });
            }
            Blocks::Only(list) => {
                if let Some(&outside) = list.iter().find(|&&block| block >= blocks_in_all) {
                    return Err(LaunchError::NoSuchBlock(outside));
                }
                list.iter().map(|block| block / cluster).collect()
            }
            Blocks::Sample(count) => {
                let parts = u128::from((*count).min(1 << 20) + 1);
                let spread = (0..=parts).map(|part| (u128::from(total - 1) * part / parts) as u64);
                spread.collect()
            }
        };
        if !matches!(blocks, Blocks::All) {
            chosen.sort_unstable();
            chosen.dedup();
        }
        choices.order(&mut chosen);
        Ok(Queue::List(chosen.into_iter()))
    }

    fn next(&mut self) -> Option<u64> {
        match self {
            Queue::Range(range) => range.next(),
            Queue::Reverse(range) => range.next(),
            Queue::List(list) => list.next(),
        }
    }
}

fn run_blocks(cx: &mut Cx<'_>, base: Placement, mut queue: Queue, most: usize, choices: &mut Choices) -> bool {
    let mut resident: Vec<Block> = Vec::new();
    let mut wanted = choices.residents().min(most);
    let mut drained = false;
    let mut started = 0_u64;
    let room = most.saturating_sub(base.cluster as usize);
    loop {
        while resident.len() < wanted && (resident.is_empty() || resident.len() <= room) && !drained {
            match queue.next() {
                // The blocks of a cluster run together.
                Some(cluster) => {
                    let blocks = u64::from(base.cluster);
                    for rank in 0..blocks {
                        let rank = if choices.reversed() { blocks - 1 - rank } else { rank };
                        let linear = cluster * blocks + rank;
                        let place = Placement { block: coordinates(linear, base.grid), linear, ..base };
                        if cx.numbers.len() < NAMED_BLOCKS {
                            cx.numbers.push(place.block);
                        }
                        // Block numbers have 26 bits; beyond them distant blocks share one, which hides races between them.
                        let number = (started % 0x3ff_fffe) as u32 + 1;
                        started += 1;
                        resident.push(Block::new(cx, place, number));
                    }
                }
                None => drained = true,
            }
        }
        if resident.is_empty() {
            return !cx.report.stopped();
        }
        let before = cx.progress;
        let mut stuck = true;
        let mut index = 0;
        while index < resident.len() {
            // A block that runs this long is on its own until it ends or reaches the limit: in turns with others that never
            // end, each would have to.
            let slice =
                if resident[index].longest() > cx.warp_step_limit / LONG { u32::MAX } else { choices.slice(base.cluster > 1) };
            match resident[index].run(cx, choices, slice) {
                Progress::Running => {
                    stuck = false;
                    index += 1;
                }
                Progress::Stuck => index += 1,
                Progress::Finished => {
                    stuck = false;
                    cx.counters.blocks += 1;
                    resident.swap_remove(index);
                }
            }
            if cx.report.stopped() {
                return false;
            }
        }
        if !stuck || cx.progress != before {
            continue;
        }
        // All that run wait for something that only others can do.
        if !drained && wanted < most {
            wanted += 1;
            continue;
        }
        report_deadlock(cx, &resident);
        return false;
    }
}

fn report_deadlock(cx: &mut Cx<'_>, resident: &[Block]) {
    let Some(block) = resident.first() else { return };
    let (cluster, _) = block.place.in_cluster();
    let with_it = resident.iter().filter(|other| other.place.in_cluster().0 == cluster);
    let standing: Vec<_> = with_it.flat_map(|block| block.standing(cx).into_iter().map(move |at| (block, at))).collect();
    for (block, (warp, pc, lanes, what)) in standing {
        block.finding(cx, At { w: warp, mask: lanes, pc }, FindingKind::Deadlock, || {
            format!("warp {warp} {what}, and no warp can go on")
        });
    }
    if cx.report.is_empty() {
        block.finding(cx, At { w: 0, mask: 0, pc: 0 }, FindingKind::Deadlock, || "no warp can go on".to_owned());
    }
    cx.report.stop();
}

fn coordinates(linear: u64, [x, y, _]: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(x), u64::from(y));
    [(linear % x) as u32, (linear / x % y) as u32, (linear / x / y) as u32]
}
