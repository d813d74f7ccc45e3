//! How a launch is run: in what order, with which arithmetic, on which machine.

/// How `mma` and `wgmma` add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Multiply-adds in f32, in order of k: fast.
    #[default]
    Plain,
    /// The published bit-level model of Ampere (`sm_80`, `sm_86`).
    Ampere,
    /// The published bit-level model of Ada (`sm_89`).
    Ada,
    /// The published bit-level model of Hopper (`sm_90`); Blackwell's `mma.sync` is the same.
    Hopper,
}

/// The order in which warps run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Warps in turn, blocks in order, asynchronous work done promptly.
    #[default]
    RoundRobin,
    /// Warps, quanta, blocks and asynchronous deliveries in an order drawn from the seed.
    Random,
    /// One warp as far as it goes, blocks from the last to the first, asynchronous work as late as possible.
    Adversarial,
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Schedule; 3] = [Schedule::RoundRobin, Schedule::Random, Schedule::Adversarial];

    /// Its name, as reports and command lines spell it.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::RoundRobin => "round-robin",
            Schedule::Random => "random",
            Schedule::Adversarial => "adversarial",
        }
    }
}

/// Which blocks of the grid run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// Every one.
    #[default]
    All,
    /// These, by linear index (x fastest). Those outside the grid are an error.
    Only(Vec<u64>),
    /// The first, the last, and this many spread evenly between them.
    Sample(u64),
}

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared memory that one block may have.
    pub shared_bytes: u32,
    /// Threads of a block.
    pub block_threads: u32,
    /// Blocks that may be in flight together; more are started only when all that run wait for others.
    pub resident_blocks: usize,
    /// Host memory that the state of resident blocks may take, roughly.
    pub state_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        // 227 KiB is what an H100 block can ask for.
        Limits { shared_bytes: 227 << 10, block_threads: 1024, resident_blocks: 132, state_bytes: 1 << 30 }
    }
}

/// How to run a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The order of what the hardware leaves open.
    pub schedule: Schedule,
    /// Seed of everything random.
    pub seed: u64,
    /// Report float atomics: their order decides the result's bits.
    pub deterministic: bool,
    /// Arithmetic of the tensor cores.
    pub numerics: Numerics,
    /// Whether `wgmma.wait_group` in one warp says nothing about the other warps of its group.
    pub strict_wgmma: bool,
    /// Which blocks run.
    pub blocks: Blocks,
    /// What the machine has.
    pub limits: Limits,
    /// Different findings before the launch is given up.
    pub max_findings: usize,
    /// Instructions of all warps together before the launch is given up.
    pub step_limit: u64,
    /// Instructions of one warp before the launch is given up. `None` follows from the launch: 2^20, and one for each byte
    /// of the memory that kernels could walk through.
    pub warp_step_limit: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            schedule: Schedule::default(),
            seed: 0,
            deterministic: false,
            numerics: Numerics::default(),
            strict_wgmma: true,
            blocks: Blocks::All,
            limits: Limits::default(),
            max_findings: 64,
            step_limit: 1 << 32,
            warp_step_limit: None,
        }
    }
}
