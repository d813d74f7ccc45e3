//! The manifest's types: everything a launch needs, written down by the compiler. Plain data, spelt in JSON as it
//! stands here; the comments are what `moec schema manifest` says of it. No behaviour and no validation (see `check`), and no type
//! of any other crate.

use serde::{Deserialize, Serialize};

use super::extent::Extent;
use super::recipe::Recipe;

/// What a package says about itself. The order of every list is part of its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The compiler that wrote it, with its version: `moec 0.1.0`.
    pub compiler: String,
    /// The layer's name, from the spec, and behind it `-experts` or `-router` where the package is of such an entry.
    pub layer: String,
    /// Which part of the layer it computes.
    pub entry: Entry,
    /// SHA-256 of the spec's text, 64 lower-case hexadecimal digits.
    pub spec_sha256: String,
    /// The dtype of activations and weights.
    pub dtype: DType,
    /// Whether products may be of factors rounded to tf32, of f32: each product is within 2^-10 of itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tf32: bool,
    /// A launch with more tokens than this is refused.
    pub max_tokens: u64,
    /// Where a batch may be cut into parts that run one after another.
    #[serde(default, skip_serializing_if = "Cuts::is_nowhere")]
    pub cuts: Cuts,
    /// The most bytes of workspace that a run takes: a batch that needs more is run in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_limit: Option<u64>,
    /// The layer's fixed sizes (`hidden`, `intermediate`, `experts`, `top_k`, ...): for people and engines, not for launches.
    /// Where experts choose their tokens there is no `top_k`.
    pub dims: Vec<Dim>,
    /// Every buffer that a launch may name: inputs, outputs and weights in calling order, and workspace.
    pub buffers: Vec<Buffer>,
    /// How each weight buffer is assembled from a checkpoint: one recipe a weight buffer.
    pub weights: Vec<Recipe>,
    /// The images that follow the manifest in the file, in order.
    pub images: Vec<Image>,
    /// What the package can run on. Where several fit a machine, the nearest to it is loaded: the newest architecture, the
    /// most CPU features.
    pub targets: Vec<Target>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(truth: &bool) -> bool {
    !truth
}

/// Where a batch may be cut, so that each token's output is that of the whole batch. What is observed of a part is that of its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Cuts {
    /// Between any two tokens.
    Tokens,
    /// Between sequences.
    Sequences,
    /// Nowhere.
    #[default]
    Nowhere,
}

impl Cuts {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_nowhere(&self) -> bool {
        *self == Cuts::Nowhere
    }
}

/// A part of a layer that a package computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// All of it: tokens `x` to `y`.
    Layer,
    /// The routed experts: tokens `x`, their picks `topk_ids` i32 `[T, K]` and `topk_weights` f32 `[T, K]`, and where only some experts
    /// are here `expert_map` i32 `[E]`, to `y`. An id, or a number of the map, that is no expert's is no pick.
    Experts,
    /// The router: tokens `x` to `topk_ids` and `topk_weights`, -1 and 0 where there is no pick.
    Router,
}

impl Entry {
    /// The word that manifests and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Entry::Layer => "layer",
            Entry::Experts => "experts",
            Entry::Router => "router",
        }
    }
}

/// A named size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Dim {
    /// `hidden`, `experts`, ...
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// An element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed 32-bit integer.
    I32,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// The name that specs, manifests and messages use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
        }
    }
}

/// What a buffer is to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Given at each run, read only.
    Input,
    /// Given at each run, written whole.
    Output,
    /// Bound once, read only but for [`Target::update`]; its shape is constant.
    Weight,
    /// Made once, by [`Target::prepare`], when weights are bound; read only after that; its shape is constant.
    Prepared,
    /// Scratch of one run: undefined before and after, except where `observe` names it.
    Workspace,
}

/// One piece of memory that launches name by its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// Unique in the package. A weight has its canonical name: `router`, `gate`, `down_bias`, ...
    pub name: String,
    /// What it is to the caller.
    pub role: Role,
    /// Its element type.
    pub dtype: DType,
    /// Its shape, row-major, dense.
    pub shape: Vec<Extent>,
    /// The alignment in bytes that kernels rely on: a power of two, at most 256.
    pub align: u32,
    /// For a workspace buffer that can be read back after a run: the name to ask for. Of routing `route.experts`,
    /// `route.weights`, `route.rows` and `route.counted` (the picks that a loss counts), of soft routing `soft.dispatch` and `soft.combine`, of statistics `stats.load`, `stats.kept`,
    /// `stats.tokens` (without padding), `stats.probability`, `stats.z`, `stats.importance`, `stats.aux_loss` and
    /// `stats.z_loss`; which of them a layer has depends on its routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<String>,
    /// For integers that number something: each is from 0 to below this. Held where a tensor is copied to the device; of
    /// memory that is there already kernels take the nearest such number, and read nothing out of bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
    /// For an input with `below`: the input, i32 `[T]`, that says by a 0 which tokens are padding. Their numbers may be any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// PTX text, UTF-8, without NUL.
    Ptx,
    /// An ELF for one GPU architecture.
    Cubin,
    /// A shared object for the host.
    SharedObject,
}

/// One image. The writer fills in all but the kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// What it is.
    pub kind: ImageKind,
    /// Bytes from the end of the manifest. Images follow each other without gaps.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Image {
    /// An image whose place and hash the writer fills in.
    #[must_use]
    pub fn new(kind: ImageKind) -> Image {
        Image { kind, offset: 0, length: 0, sha256: String::new() }
    }
}

/// Where a target's kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// An NVIDIA GPU.
    Gpu,
    /// The CPU.
    Host,
}

/// One machine class that the package has kernels for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `sm_80`, `sm_90a`, `x86-64-v4`, ...
    pub name: String,
    /// Where it runs.
    pub kind: TargetKind,
    /// Indices of its images, each holding every kernel: the best for the device is loaded, only that.
    pub images: Vec<u32>,
    /// Host: the CPU features that the code uses, such as `avx2`, `bmi1`, `lzcnt`, `avx512bf16`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    /// GPU: the least CUDA version of a driver that takes the PTX, `12.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least_driver: Option<String>,
    /// GPU: the PTX ISA version of the text, `8.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx_version: Option<String>,
    /// The kernels that launches name by index.
    pub kernels: Vec<Kernel>,
    /// What is launched once, when weights are bound, in order: it reads weights and writes what is prepared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<Launch>,
    /// Launch sequences by batch size, in ascending order; the last is open-ended.
    pub regimes: Vec<Regime>,
    /// What is launched after a run where the caller asks for it, in order: it may write weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub update: Vec<Launch>,
    /// What can be said of a run's routing; absent where no expert is picked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Routing>,
}

impl Target {
    /// The regime that serves a batch of so many tokens; one of a checked manifest has it.
    pub fn regime(&self, tokens: u64) -> Option<&Regime> {
        self.regimes.iter().find(|regime| regime.tokens_up_to.is_none_or(|most| tokens <= most))
    }

    /// Every launch that there may be: the preparation's, those of all regimes, then the update's.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.prepare.iter().chain(self.regimes.iter().flat_map(|regime| &regime.launches)).chain(&self.update)
    }
}

/// Which observed buffers say how a run was routed, and the sizes that statistics take from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// The buffers.
    pub slots: Slots,
    /// The partial sums over tokens keep sequences apart: of each as many as of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_sequence: bool,
    /// E, those without rows included.
    pub experts: u64,
    /// Of these, so many at the end have no rows: identities, and shared ones beside the picks.
    #[serde(default, skip_serializing_if = "is_none")]
    pub rowless: u64,
    /// Most picks of a token, K, the shared ones beside them included.
    pub top_k: u64,
    /// Of these, so many at the end are shared experts beside the picks: of every token, and without rows.
    #[serde(default, skip_serializing_if = "is_none")]
    pub joint_shared: u64,
    /// A correction bias had a part in the picks: those without it are not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub corrected: bool,
    /// Groups of experts limited the picks: those without them are not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grouped: bool,
    /// Rows that an engine allocates which pads every expert's buffer to its capacity; absent where none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_at_capacity: Option<Extent>,
    /// Above how much of the mean an expert is hot, where a capacity factor of at least the mean says so, in means whether K
    /// counts in the spec's or not: numerator and denominator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_factor: Option<[u64; 2]>,
}

/// The names under which a target's buffers are observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// i32 `[E]`: pairs that picked each expert.
    pub load: String,
    /// i32 `[E]`: of these, pairs that it had room for.
    pub kept: String,
    /// i32 `[1]`: tokens that count, where some may be padding or have no picks by `hash_oob = "drop"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
    /// i32 `[T, K]`: the experts of each token, best first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<String>,
    /// i32 `[T, K]`: the grouped row of each pair; -1: dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
    /// f32 `[.., E]`: the router's probabilities of each expert, in partial sums over the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<String>,
    /// f32 `[..]`: `logsumexp(logits)^2`, in partial sums over the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z: Option<String>,
    /// f32 `[E]`: those probabilities, summed over all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<String>,
    /// f32 `[1]`: the balance loss that the spec asks for, times its coefficient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aux_loss: Option<String>,
    /// f32 `[1]`: the router z-loss, times its coefficient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<String>,
}

/// The launches for a range of batch sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Regime {
    /// The most tokens it serves; null on the last regime only.
    pub tokens_up_to: Option<u64>,
    /// Rows of the highest tile of its grouped products: an expert's last tile may be partly empty. Absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_rows: Option<u32>,
    /// In order; each sees what the ones before it wrote.
    pub launches: Vec<Launch>,
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// Its name in the kernel text.
    pub name: String,
    /// Its type.
    pub kind: ParamKind,
}

/// The type of a kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ParamKind {
    /// The address of a buffer.
    Pointer,
    /// A signed 32-bit scalar.
    I32,
    /// A signed 64-bit scalar.
    I64,
    /// A tensor map, by value: the kernel reads boxes of a tensor.
    TensorMap(TensorMap),
}

/// What a kernel knows of a tensor of three dimensions whose boxes it copies. Of a matrix the outer extent is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TensorMap {
    /// Its element type.
    pub dtype: DType,
    /// Extents of a box, outermost first, each 1 to 256.
    pub tile: [u32; 3],
    /// How a box lies in shared memory.
    #[serde(default, skip_serializing_if = "Swizzle::is_none")]
    pub swizzle: Swizzle,
}

/// How the rows of a box are permuted in shared memory, in parts of 16 bytes: CUDA driver API, `CUtensorMapSwizzle`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    fn is_none(&self) -> bool {
        *self == Swizzle::None
    }

    /// Bytes of a row, where they are given.
    #[must_use]
    pub fn row_bytes(self) -> Option<u64> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }
}

/// One kernel of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Its name in the kernel text.
    pub name: String,
    /// Its symbol in the image.
    pub symbol: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Threads of a block; 1 on the host.
    pub threads: u32,
    /// Blocks of a cluster, which run at the same time: a power of two up to 8. A grid is whole clusters. Absent: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub cluster: u32,
    /// Bytes of shared memory declared in the image itself; on the host, of the stack of the thread.
    pub shared_bytes: u32,
    /// Bytes of shared memory to ask for at launch, over and above `shared_bytes`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dynamic_shared_bytes: u32,
    /// Registers a thread, where ptxas has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<u32>,
    /// Bytes spilled a thread, where ptxas has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill_bytes: Option<u32>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_none(count: &u64) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(value: &u32) -> bool {
    *value == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Index into [`Target::kernels`].
    pub kernel: u32,
    /// Blocks, in one dimension. Zero blocks: nothing is launched.
    pub grid: Extent,
    /// It may begin before the launch before it has ended: its kernel waits for that (`griddepcontrol.wait`). Not the first of a sequence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early: bool,
    /// Which blocks have work. Absent: all may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working: Option<Working>,
    /// One argument a parameter of the kernel, in order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// Whether its blocks may begin while those of the launch before it have not all ended.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.working.as_ref().is_some_and(|working| working.follows)
    }

    /// Its formulas.
    pub fn formulas(&self) -> impl Iterator<Item = &Extent> {
        let of_blocks = self.working.iter().map(|working| &working.each).chain([&self.grid]);
        self.args.iter().flat_map(Arg::formulas).chain(of_blocks)
    }
}

/// The blocks of a launch that have work: the first ones, as many as the first element of a buffer says when the launch begins, times
/// `each`, and no more than the grid. The others have no effect and may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Working {
    /// Index into [`Manifest::buffers`]: i32, one of `args`, with a shape of numbers.
    pub buffer: u32,
    /// Blocks for each that is counted.
    pub each: Extent,
    /// The blocks for one that is counted need no more of the launch before it than the blocks for the same one and for those before, and may
    /// begin when these have ended. That launch has work by the same buffer, and does not follow another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// The address of [`Manifest::buffers`] at this index.
    Buffer(u32),
    /// A scalar that must fit in 32 bits.
    ScalarI32(Extent),
    /// A scalar.
    ScalarI64(Extent),
    /// A tensor map of a buffer.
    TensorMap(View),
}

impl Arg {
    /// Index into [`Manifest::buffers`] of the buffer that the kernel is given, as such or by a map.
    #[must_use]
    pub fn buffer(&self) -> Option<usize> {
        match self {
            Arg::Buffer(buffer) | Arg::TensorMap(View { buffer, .. }) => Some(*buffer as usize),
            Arg::ScalarI32(_) | Arg::ScalarI64(_) => None,
        }
    }

    /// Its formulas.
    pub fn formulas(&self) -> impl Iterator<Item = &Extent> {
        let (one, several): (Option<&Extent>, [&[Extent]; 2]) = match self {
            Arg::Buffer(_) => (None, [&[], &[]]),
            Arg::ScalarI32(extent) | Arg::ScalarI64(extent) => (Some(extent), [&[], &[]]),
            Arg::TensorMap(View { extents, strides, .. }) => (None, [extents, strides]),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }
}

/// A buffer seen as a tensor of three dimensions, which lies inside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Index into [`Manifest::buffers`]; its first element is the tensor's.
    pub buffer: u32,
    /// Extents, outermost first, each 1 to 2^32.
    pub extents: [Extent; 3],
    /// Elements from one index to the next of the outer two dimensions: multiples of 16 bytes. Dimensions may overlap.
    pub strides: [Extent; 2],
}
