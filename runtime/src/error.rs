//! Everything that can go wrong in this crate, as one enum: each variant has a stable code and a message that says what to
//! do next. No rendering: the command line decides how an error looks.

use std::path::{Path, PathBuf};

use crate::codes::ErrorCode;
use crate::format::Format;
use crate::package::Dtype;

/// Where the cause of an error is; a command line maps it to its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The package, the weights or the arguments are wrong: exit code 1.
    Input,
    /// The machine lacks something, or a device failed: exit code 3.
    Environment,
}

impl Blame {
    /// The exit code of a command that ends with such an error.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Blame::Input => 1,
            Blame::Environment => 3,
        }
    }
}

/// An error of the runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not start as a package does.
    #[error("this is not a moec package: it does not start with `moec.pkg`; make one with `moec compile`")]
    NotAPackage,
    /// The package has another format version.
    #[error("the package has format version {found}, this runtime reads {known}; compile the spec again with this moec")]
    FormatVersion {
        /// In the file.
        found: u32,
        /// In this crate.
        known: u32,
    },
    /// Lengths or hashes do not agree with the bytes.
    #[error("the package is damaged: {what}; fetch it again or compile the spec again")]
    Damaged {
        /// What does not agree.
        what: String,
    },
    /// The manifest breaks one of its rules.
    #[error("the package's manifest is not sound: {what}; compile the spec again with this moec")]
    Manifest {
        /// The rule, and where.
        what: String,
    },

    /// A file could not be read.
    #[error("cannot read `{}`: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The bytes are not safetensors, or damaged ones.
    #[error("{}: {why}", subject(path, "a safetensors file"))]
    Safetensors {
        /// The file; empty where the bytes came from the caller.
        path: PathBuf,
        /// What does not agree.
        why: String,
    },
    /// The bytes are of another format, which is known.
    #[error("{}: it is {}; {}", subject(path, "a safetensors file"), found.name(), found.to_tensors())]
    NotSafetensors {
        /// The file; empty where the bytes came from the caller.
        path: PathBuf,
        /// Its format.
        found: Format,
    },
    /// The index of a checkpoint cannot be used.
    #[error("{}: {why}", subject(path, "an index of safetensors files"))]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A folder has no safetensors file.
    #[error("`{}` has no safetensors file{}; {}", path.display(), beside(found), without_tensors(found))]
    NoTensors {
        /// The folder.
        path: PathBuf,
        /// What it has that may be meant.
        found: Vec<String>,
    },
    /// A folder has several indices, and none has the usual name.
    #[error("`{}` has several indices, {}; name the one that is meant", path.display(), list(found))]
    ManyIndices {
        /// The folder.
        path: PathBuf,
        /// Their names.
        found: Vec<String>,
    },
    /// Two files of a folder have a tensor of one name.
    #[error("`{tensor}` is in `{}` and in `{}`; name the file that is meant", first.display(), second.display())]
    TensorTwice {
        /// The tensor.
        tensor: String,
        /// The file that comes first.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The file of a tensor is not there.
    #[error(
        "`{tensor}` is in `{file}`, which is not beside the index{}; fetch what is missing",
        if missing.len() > 1 { format!(": {} files are missing, {}", missing.len(), some(missing)) } else { String::new() }
    )]
    MissingShard {
        /// The tensor that is needed.
        tensor: String,
        /// The file that should have it.
        file: String,
        /// Every file that the index names and that is not there.
        missing: Vec<String>,
    },
    /// The file that should have a tensor has not.
    #[error("the index says that `{tensor}` is in `{}`, and it is not; fetch index and files again", path.display())]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
    },
    /// No candidate for a weight is in the checkpoint.
    #[error("no tensor for `{buffer}`: looked for {}{}", list(candidates), near(near_matches))]
    MissingTensor {
        /// The weight buffer, or the name asked for.
        buffer: String,
        /// The names looked for.
        candidates: Vec<String>,
        /// Names in the file that are close.
        near_matches: Vec<String>,
    },
    /// Some experts have a tensor of their own for a weight, and others do not.
    #[error(
        "`{name}` is missing{} (for `{buffer}`), {} there; the layer has {experts} experts, the checkpoint or `moe.experts` is wrong",
        if *others > 0 { format!(", and {others} more of the kind") } else { String::new() },
        numbers(there)
    )]
    MissingExperts {
        /// The weight buffer.
        buffer: String,
        /// The first tensor that is missing.
        name: String,
        /// How many more are.
        others: u64,
        /// How many the layer has.
        experts: u64,
        /// The experts that have theirs, as runs from first to last.
        there: Vec<(u64, u64)>,
    },
    /// There are tensors of more experts than the layer has.
    #[error(
        "`{name}` is of an expert that the layer does not have (for `{buffer}`), {} there; the layer has {experts} experts, the \
         checkpoint or `moe.experts` is wrong",
        numbers(there)
    )]
    MoreExperts {
        /// The weight buffer.
        buffer: String,
        /// The first tensor that is too many.
        name: String,
        /// How many experts the layer has.
        experts: u64,
        /// The experts that have a tensor, as runs from first to last.
        there: Vec<(u64, u64)>,
    },
    /// A stored tensor does not have the shape that the recipe says.
    #[error(
        "tensor `{tensor}` (for `{buffer}`) has shape {actual:?}, expected {expected:?}; check `[weights]` (layout, experts) in the spec"
    )]
    TensorShape {
        /// The stored tensor.
        tensor: String,
        /// The weight buffer.
        buffer: String,
        /// By the recipe.
        expected: Vec<u64>,
        /// In the file.
        actual: Vec<u64>,
    },
    /// A stored tensor has an element type that cannot become a weight.
    #[error("tensor `{tensor}` has dtype {actual}, which cannot become {}; {}", expected.name(), converted(actual, *expected))]
    TensorDtype {
        /// The stored tensor.
        tensor: String,
        /// In the file.
        actual: String,
        /// What it was to become.
        expected: Dtype,
    },

    /// A stored integer is outside the type that it becomes.
    #[error("tensor `{tensor}` holds {value}, which i32 cannot")]
    TensorRange {
        /// The stored tensor.
        tensor: String,
        /// The first such integer.
        value: i128,
    },

    /// A number of buffers is wrong.
    #[error("the layer takes {expected} {what}, {actual} given")]
    Count {
        /// `inputs`, `outputs`, `weights`.
        what: &'static str,
        /// By the manifest.
        expected: usize,
        /// Given.
        actual: usize,
    },
    /// A tensor has the wrong shape.
    #[error("`{name}` has shape {actual}, expected {expected}")]
    Shape {
        /// The buffer.
        name: String,
        /// By the manifest.
        expected: String,
        /// Given.
        actual: String,
    },
    /// A tensor has the wrong element type.
    #[error("`{name}` is {}, expected {}; convert it first (`Tensor::to_dtype`)", actual.name(), expected.name())]
    Dtype {
        /// The buffer.
        name: String,
        /// By the manifest.
        expected: Dtype,
        /// Given.
        actual: Dtype,
    },
    /// An integer numbers nothing that there is: a token id outside the vocabulary, an entry of a table outside the experts.
    #[error("`{name}` holds {value} in row {row}: it must be from 0 to {most}")]
    NumberRange {
        /// The buffer.
        name: String,
        /// The first row with such a number; of token ids the token.
        row: u64,
        /// The number.
        value: i32,
        /// The largest that there may be.
        most: u64,
    },
    /// The batch is larger than the package was made for.
    #[error("{tokens} tokens, the package serves at most {max}; split the batch, or compile with a larger `[tokens] max`")]
    TokensAboveMax {
        /// Asked for.
        tokens: u64,
        /// By the manifest.
        max: u64,
    },
    /// Sequences of `row_tokens` do not make up `tokens`.
    #[error("{tokens} tokens are not whole sequences of {row_tokens}; give the shape as [B, S, H]")]
    RowTokens {
        /// In the batch.
        tokens: u64,
        /// In a sequence.
        row_tokens: u64,
    },
    /// A piece of caller-owned memory is too short.
    #[error("`{name}` has {actual} bytes, {needed} needed")]
    TooShort {
        /// `workspace` or a buffer.
        name: String,
        /// For these dims.
        needed: u64,
        /// Given.
        actual: u64,
    },
    /// A piece of caller-owned memory does not start where kernels need it to.
    #[error("`{name}` is not aligned to {align} bytes")]
    Misaligned {
        /// `workspace` or a buffer.
        name: String,
        /// By the manifest.
        align: u64,
    },
    /// Memory of one device was given to a layer on another.
    #[error("`{name}` lies on another device than the layer; copy it there first")]
    WrongDevice {
        /// The buffer.
        name: String,
    },
    /// Nothing is observed under this name.
    #[error("nothing is observed as `{name}` on this target; there is {}", list(known))]
    NotObserved {
        /// Asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No weight has this name.
    #[error("the layer has no weight `{name}`; it has {}", list(known))]
    NoWeight {
        /// Asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// An extent has no value for these dims.
    #[error("a size of this launch has no value: {why}")]
    Extent {
        /// Overflow, division by zero, negative.
        why: &'static str,
    },
    /// A grid or scalar is outside what the device takes.
    #[error("kernel `{kernel}`: {what} is {value}, outside what the device takes; use a smaller batch")]
    LaunchRange {
        /// The kernel's symbol.
        kernel: String,
        /// `the grid`, `argument 3`.
        what: String,
        /// The value.
        value: i64,
    },
    /// A plan and weights of two layers.
    #[error("the plan is of another layer than the weights; make it with `Layer::plan` of the layer that they are bound to")]
    OtherLayer,
    /// A stream was given to a device that has none.
    #[error("the device has no streams; run on `Stream::DEFAULT`")]
    NoStream,
    /// Not the name of a device.
    #[error("`{name}` is not a device; there is host, cuda and cuda:N")]
    UnknownDevice {
        /// Asked for.
        name: String,
    },
    /// More threads than the host device starts, or none.
    #[error("{threads} threads asked for, 1 to {max} can be had; leave the number out for as many as there are CPUs")]
    Threads {
        /// Asked for.
        threads: usize,
        /// [`crate::device::MAX_THREADS`].
        max: usize,
    },

    /// The crate was built without this device.
    #[error("this program was built without the device `{device}`; build moec-runtime with its feature `{device}`")]
    NotBuilt {
        /// `host` or `cuda`.
        device: &'static str,
    },
    /// There is no NVIDIA driver, or none that answers.
    #[error("no NVIDIA driver: {why}; install one, or use the host device")]
    NoDriver {
        /// What was tried.
        why: String,
    },
    /// The package has nothing for this device.
    #[error("the package has no kernels for {device}: it has {}; compile with `--target {wanted}`", list(targets))]
    NoImage {
        /// `NVIDIA H200 (sm_90)`.
        device: String,
        /// What the package has.
        targets: Vec<String>,
        /// What would fit.
        wanted: String,
    },
    /// The CPU lacks features that every host target of the package uses.
    #[error("this CPU lacks {} (target `{target}`); compile on this machine with `--target host`", list(missing))]
    CpuFeatures {
        /// The target that came nearest.
        target: String,
        /// Features it uses and the CPU lacks.
        missing: Vec<String>,
    },
    /// The system or the driver refused an image, or it lacks a kernel that the manifest names.
    #[error("cannot load the package's image: {why}")]
    LoadImage {
        /// Its words, and what to do.
        why: String,
    },
    /// The device has no memory left.
    #[error("the device has no room for {bytes} bytes; free some, or use a smaller batch")]
    OutOfMemory {
        /// Asked for.
        bytes: u64,
    },

    /// A device call failed.
    #[error("{call} failed: {why}")]
    Device {
        /// The call.
        call: &'static str,
        /// The device's words.
        why: String,
        /// The device's state is lost: nothing more can run on it in this process.
        sticky: bool,
    },
    /// An earlier call failed for good.
    #[error("the device failed earlier ({first}); nothing more can run on it: restart the process")]
    Poisoned {
        /// The first failure.
        first: String,
    },
}

impl Error {
    /// The stable code as people write it; [`ErrorCode`] has them all.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind().id()
    }

    /// The stable code.
    #[must_use]
    pub fn kind(&self) -> ErrorCode {
        match self {
            Error::NotAPackage => ErrorCode::NotAPackage,
            Error::FormatVersion { .. } => ErrorCode::FormatVersion,
            Error::Damaged { .. } => ErrorCode::Damaged,
            Error::Manifest { .. } => ErrorCode::Manifest,
            Error::Read { .. } => ErrorCode::Read,
            Error::Safetensors { .. } => ErrorCode::Safetensors,
            Error::MissingTensor { .. } => ErrorCode::MissingTensor,
            Error::TensorShape { .. } => ErrorCode::TensorShape,
            Error::TensorDtype { .. } => ErrorCode::TensorDtype,
            Error::TensorRange { .. } => ErrorCode::TensorRange,
            Error::NotSafetensors { .. } => ErrorCode::NotSafetensors,
            Error::Index { .. } => ErrorCode::Index,
            Error::NoTensors { .. } => ErrorCode::NoTensors,
            Error::ManyIndices { .. } => ErrorCode::ManyIndices,
            Error::TensorTwice { .. } => ErrorCode::TensorTwice,
            Error::MissingShard { .. } => ErrorCode::MissingShard,
            Error::NotInShard { .. } => ErrorCode::NotInShard,
            Error::MissingExperts { .. } => ErrorCode::MissingExperts,
            Error::MoreExperts { .. } => ErrorCode::MoreExperts,
            Error::Count { .. } => ErrorCode::Count,
            Error::Shape { .. } => ErrorCode::Shape,
            Error::Dtype { .. } => ErrorCode::Dtype,
            Error::TokensAboveMax { .. } => ErrorCode::TokensAboveMax,
            Error::RowTokens { .. } => ErrorCode::RowTokens,
            Error::TooShort { .. } => ErrorCode::TooShort,
            Error::Misaligned { .. } => ErrorCode::Misaligned,
            Error::WrongDevice { .. } => ErrorCode::WrongDevice,
            Error::NotObserved { .. } => ErrorCode::NotObserved,
            Error::Extent { .. } => ErrorCode::Extent,
            Error::LaunchRange { .. } => ErrorCode::LaunchRange,
            Error::UnknownDevice { .. } => ErrorCode::UnknownDevice,
            Error::NoWeight { .. } => ErrorCode::NoWeight,
            Error::Threads { .. } => ErrorCode::Threads,
            Error::NumberRange { .. } => ErrorCode::NumberRange,
            Error::NotBuilt { .. } => ErrorCode::NotBuilt,
            Error::NoDriver { .. } => ErrorCode::NoDriver,
            Error::NoImage { .. } => ErrorCode::NoImage,
            Error::CpuFeatures { .. } => ErrorCode::CpuFeatures,
            Error::LoadImage { .. } => ErrorCode::LoadImage,
            Error::OutOfMemory { .. } => ErrorCode::OutOfMemory,
            Error::Device { .. } => ErrorCode::Device,
            Error::OtherLayer => ErrorCode::OtherLayer,
            Error::NoStream => ErrorCode::NoStream,
            Error::Poisoned { .. } => ErrorCode::Poisoned,
        }
    }

    /// Where the cause is: in the input, or in the machine.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match &self.code()[..4] {
            "RT04" | "RT05" => Blame::Environment,
            _ => Blame::Input,
        }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Error {
        Error::Damaged { what: what.into() }
    }

    pub(crate) fn manifest(what: impl Into<String>) -> Error {
        Error::Manifest { what: what.into() }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".into();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn near(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; the file has {}", list(names)) }
}

/// `model.safetensors` is not what it should be.
fn subject(path: &Path, what: &str) -> String {
    if path.as_os_str().is_empty() { format!("not {what}") } else { format!("`{}` is not {what}", path.display()) }
}

/// The first names of many.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", list(&names[..names.len().min(SHOWN)]))
}

fn beside(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(", but {}", some(found)) }
}

fn without_tensors(found: &[String]) -> &'static str {
    let has = |extensions: &[&str]| found.iter().any(|name| extensions.iter().any(|end| name.ends_with(end)));
    match () {
        () if found.iter().any(|name| name == "snapshots") => "the files are in a folder below its `snapshots`",
        () if has(&[".gguf"]) => Format::Gguf.to_tensors(),
        () if has(&[".bin", ".pt", ".pth", ".ckpt", ".pkl"]) => Format::Torch.to_tensors(),
        () if has(&[".npy", ".npz"]) => Format::Npz.to_tensors(),
        () => "fetch the checkpoint: `hf download REPOSITORY --include '*.safetensors*'`",
    }
}

/// `0 to 7 are`.
fn numbers(runs: &[(u64, u64)]) -> String {
    const SHOWN: usize = 4;
    let run = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    let shown: Vec<String> = runs.iter().take(SHOWN).map(run).collect();
    let more = if runs.len() > SHOWN { " and others" } else { "" };
    let is_one = matches!(runs, [(first, last)] if first == last);
    format!("{}{more} {}", shown.join(", "), if is_one { "is" } else { "are" })
}

/// What to do about an element type.
fn converted(actual: &str, expected: Dtype) -> &'static str {
    match (expected, actual) {
        (Dtype::I32, _) => "token ids and tables are integers: in PyTorch `.int()`",
        (Dtype::F32 | Dtype::F16 | Dtype::Bf16, "I64" | "I32" | "I16" | "BOOL") => {
            "floats are converted, integers are not: in PyTorch `.float()`"
        }
        (Dtype::F32 | Dtype::F16 | Dtype::Bf16, _) => {
            "quantised tensors are not supported: take the checkpoint in bf16 or f16, or dequantise it"
        }
    }
}
