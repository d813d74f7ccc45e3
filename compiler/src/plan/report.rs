//! The plan of a layer as data: what `moec plan --json` writes, and what its text and its picture show. Keys are a promise: one may be
//! added, none changes its meaning while `version` stays. The comments are what `moec schema plan` says of them.

use moec_ir::rewrite::Limit;
use schemars::JsonSchema;
use serde::Serialize;

/// The version of the form of plans.
pub(super) const VERSION: u32 = 1;

/// What a layer launches on some machines, and what the cost model says of it. Times are modelled, none is measured; they are in
/// microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Plan {
    /// Version of this form: 1.
    pub version: u32,
    /// The layer's name, of an entry the package's.
    pub layer: String,
    /// One for each target, in the order asked for.
    pub targets: Vec<TargetPlan>,
}

/// The plan of one target.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TargetPlan {
    /// Its name: `sm_90a`, `x86-64-v4`.
    pub target: &'static str,
    /// What the model knows of the machine.
    pub machine: MachineFacts,
    /// One for each token count, in the order asked for.
    pub batches: Vec<BatchPlan>,
    /// Of a host the ways in which its weights can lie (`host.pack`): `none` first. Empty for a GPU.
    pub packs: Vec<PackPlan>,
}

/// A way in which the weights of a host can lie.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PackPlan {
    /// The word of `host.pack`.
    pub pack: &'static str,
    /// Whether the spec asks for it.
    pub asked: bool,
    /// Bytes that the layer makes of the weights and keeps. Weights that were packed are not kept beside them.
    pub own_bytes: u64,
    /// Bytes that are read and written when weights are bound.
    pub moved_bytes: u64,
    /// The time that this takes, at the machine's bandwidth.
    pub bind_us: f64,
    /// One for each token count, in the order asked for.
    pub batches: Vec<PackTime>,
}

/// The time of a batch where weights lie so.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PackTime {
    /// Tokens of the batch, T.
    pub tokens: u64,
    /// Time of the batch.
    pub time_us: f64,
    /// Runs of such batches after which `bind_us` is won back, beside `none`; null: never, or nothing is packed.
    pub runs: Option<u64>,
}

/// What the model knows of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct MachineFacts {
    /// Streaming multiprocessors, or cores.
    pub processors: u32,
    /// Bandwidth of memory, GB/s (10^9 bytes).
    pub bandwidth_gbs: f64,
    /// Bytes of the last cache.
    pub cache_bytes: u64,
    /// Time of a launch.
    pub launch_us: f64,
    /// The fastest rate for each element type that has one of its own.
    pub rates: Vec<RateFacts>,
}

/// The fastest rate of products of elements of one type.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RateFacts {
    /// The type: `f32`, `bf16`.
    pub dtype: String,
    /// TFLOP/s of all processors.
    pub tflops: f64,
}

/// What is launched for a batch of one size.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BatchPlan {
    /// T. The batch is one sequence.
    pub tokens: u64,
    /// Which regime serves it, from 0.
    pub regime: usize,
    /// The largest T of this regime; null: it has no bound.
    pub tokens_up_to: Option<u64>,
    /// Grouped rows that the prices are for: the pairs that are kept at most; of experts to which picks are given and a map says
    /// where those of each id are, their part of the pairs, `T K E / ids` rounded up; or the slots. null: no rows are grouped, as
    /// by a router.
    pub rows: Option<u64>,
    /// In the order of the launches.
    pub ops: Vec<OpPlan>,
    /// Sums over the ops.
    pub total: Figures,
    /// The least that the layer takes if its router picks by chance.
    pub bound: BoundFigures,
}

/// An op of the layer, or several that share a launch.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OpPlan {
    /// The op and the weights that it reads; of several, each after `+`.
    pub op: String,
    /// How it is computed, where there is a choice: a tiling or a manner of sorting.
    pub way: Option<String>,
    /// What it launches. The model prices an op, not each of its launches.
    pub launches: Vec<LaunchPlan>,
    /// What it costs.
    pub figures: Figures,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LaunchPlan {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks, whatever the routing; those that get no rows end at once.
    pub grid: u64,
    /// Threads of a block; 1 on a host.
    pub block: u32,
    /// Bytes of shared memory of a block.
    pub shared_bytes: u64,
    /// Registers of a thread, by ptxas; null where it was not found, and on a host.
    pub registers: Option<u32>,
    /// Bytes of registers that a thread stores to its stack and loads back, by ptxas.
    pub spill_bytes: Option<u32>,
}

/// Work, and the time that it takes in the model.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Figures {
    /// Arithmetic of the result: two for each product and its addition. Rows and columns that only fill a tile are not counted.
    pub flops: u64,
    /// Bytes from and to memory: operands and results once, and weights again where they do not stay in the cache.
    pub bytes: u64,
    /// All of the time. Of one op: the longest of `moving_us`, `waiting_us`, `caching_us` and `computing_us`, a thousandth of what moving or computing
    /// hides, `serial_us` and
    /// `launch_us`. Of several, in a total or where they share a launch (`+`), the sum of this over them, in which each has its
    /// own longest one: it may be more than what the sums beside it give.
    pub time_us: f64,
    /// Time to move the bytes, with a few processors' part of the bandwidth where few blocks do all.
    pub moving_us: f64,
    /// Time in which memory answers for the weights, where so few of their bytes are under way at a time.
    pub waiting_us: f64,
    /// Time in which the last cache gives what tiles read, some of it more than once.
    pub caching_us: f64,
    /// Time of the arithmetic by the units that do it, with what only fills tiles, and processors that have no block.
    pub computing_us: f64,
    /// Time of steps that wait for each other.
    pub serial_us: f64,
    /// Time of the launches.
    pub launch_us: f64,
    /// What takes most of the time.
    pub limit: LimitWord,
}

/// What takes most of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitWord {
    /// Moving bytes.
    Bandwidth,
    /// Waiting for memory, of which few bytes are asked for at a time.
    Latency,
    /// Reading of the last cache.
    Cache,
    /// Computing.
    Arithmetic,
    /// Moving bytes or computing, which one block does alone.
    Processor,
    /// Steps that wait for each other.
    Serial,
    /// Launches.
    Launch,
}

impl From<Limit> for LimitWord {
    fn from(limit: Limit) -> LimitWord {
        match limit {
            Limit::Bandwidth => LimitWord::Bandwidth,
            Limit::Latency => LimitWord::Latency,
            Limit::Cache => LimitWord::Cache,
            Limit::Arithmetic => LimitWord::Arithmetic,
            Limit::Processor => LimitWord::Processor,
            Limit::Serial => LimitWord::Serial,
            Limit::Launch => LimitWord::Launch,
        }
    }
}

/// The least that a layer takes if its router picks by chance, each expert as likely as the others, and no token is padding:
/// `max(bytes / bandwidth, FLOPs of a type / the fastest rate for it)`, without launches. It is no bound of every routing: one
/// that hits fewer experts or drops more pairs may take less.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BoundFigures {
    /// Bytes of the weights. Of those of E experts the part that is hit in the mean, `E (1 - (1 - K / N)^T)` experts, where picks
    /// are of N: the E that are here, those elsewhere and those without weights.
    pub weight_bytes: u64,
    /// Bytes of the inputs.
    pub input_bytes: u64,
    /// Bytes of the outputs.
    pub output_bytes: u64,
    /// FLOPs of the products, by the type of their factors. E experts have `T K E / N` pairs in the mean, rounded down; with a
    /// capacity as many of them as it may keep, which is more than it keeps by chance.
    pub flops: Vec<FlopsOfType>,
    /// Time to move the bytes.
    pub moving_us: f64,
    /// Time of the FLOPs, of the type that takes longest.
    pub computing_us: f64,
    /// The longer one of both.
    pub time_us: f64,
}

/// FLOPs of products of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FlopsOfType {
    /// The type: `f32`, `bf16`.
    pub dtype: String,
    /// Two for each product and its addition.
    pub flops: u64,
}
