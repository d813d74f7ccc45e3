//! Everything that can go wrong in this crate, as one enum: each variant has a stable code, a message, and mostly a help that
//! says what to do next (`text`). No rendering: the command line decides how an error looks.

mod text;

use std::path::PathBuf;

use crate::codes::ErrorCode;
use crate::format::Format;
use crate::package::DType;

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

/// An error of the runtime. It displays as its message and, behind a semicolon, its help.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The file does not start as a package does.
    NotAPackage,
    /// The package has another format version.
    FormatVersion {
        /// In the file.
        found: u32,
        /// In this crate.
        known: u32,
    },
    /// Lengths or hashes do not agree with the bytes.
    Damaged {
        /// What does not agree.
        what: String,
    },
    /// The manifest breaks one of its rules.
    Manifest {
        /// The rule, and where.
        what: String,
    },

    /// A file could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The bytes are not safetensors, or damaged ones.
    Safetensors {
        /// The file; empty where the bytes came from the caller.
        path: PathBuf,
        /// What does not agree.
        why: String,
    },
    /// The bytes are of another format, which is known.
    NotSafetensors {
        /// The file; empty where the bytes came from the caller.
        path: PathBuf,
        /// Its format.
        found: Format,
    },
    /// The index of a checkpoint cannot be used.
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A folder has no safetensors file.
    NoTensors {
        /// The folder.
        path: PathBuf,
        /// What it has that may be meant.
        found: Vec<String>,
    },
    /// A folder has several indices, and none has the usual name.
    ManyIndices {
        /// The folder.
        path: PathBuf,
        /// Their names.
        found: Vec<String>,
    },
    /// Two files of a folder have a tensor of one name.
    TensorTwice {
        /// The tensor.
        tensor: String,
        /// The file that comes first.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The file of a tensor is not there.
    MissingShard {
        /// The tensor that is needed.
        tensor: String,
        /// The file that should have it.
        file: String,
        /// Every file that the index names and that is not there.
        missing: Vec<String>,
    },
    /// The file that should have a tensor has not.
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
    },
    /// No candidate for a weight is in the checkpoint.
    MissingTensor {
        /// The weight buffer, or the name asked for.
        buffer: String,
        /// The names looked for.
        candidates: Vec<String>,
        /// Names in the file that are close.
        near_matches: Vec<String>,
    },
    /// Some experts have a tensor of their own for a weight, and others do not.
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
    TensorDType {
        /// The stored tensor.
        tensor: String,
        /// In the file.
        actual: String,
        /// What it was to become.
        expected: DType,
    },

    /// A stored integer is outside the type that it becomes.
    TensorRange {
        /// The stored tensor.
        tensor: String,
        /// The first such integer.
        value: i128,
    },

    /// A number of buffers is wrong.
    Count {
        /// `inputs`, `outputs`, `weights`.
        what: &'static str,
        /// By the manifest.
        expected: usize,
        /// Given.
        actual: usize,
    },
    /// A tensor has the wrong shape.
    Shape {
        /// The buffer.
        name: String,
        /// By the manifest.
        expected: String,
        /// Given.
        actual: String,
    },
    /// Activations have another rank than two or three.
    Rank {
        /// The buffer.
        name: String,
        /// Its shape.
        actual: Vec<u64>,
    },
    /// A tensor has the wrong element type.
    DType {
        /// The buffer.
        name: String,
        /// By the manifest.
        expected: DType,
        /// Given.
        actual: DType,
    },
    /// An integer numbers nothing that there is: a token id outside the vocabulary, an entry of a table outside the experts.
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
    TokensAboveMax {
        /// Asked for.
        tokens: u64,
        /// By the manifest.
        max: u64,
    },
    /// Sequences of `sequence_tokens` do not make up `tokens`.
    SequenceTokens {
        /// In the batch.
        tokens: u64,
        /// In a sequence.
        sequence_tokens: u64,
    },
    /// A piece of caller-owned memory is too short.
    TooShort {
        /// `workspace` or a buffer.
        name: String,
        /// For these dims.
        needed: u64,
        /// Given.
        actual: u64,
    },
    /// A piece of caller-owned memory does not start where kernels need it to.
    Misaligned {
        /// `workspace` or a buffer.
        name: String,
        /// By the manifest.
        align: u64,
    },
    /// Memory of one device was given to a layer on another.
    WrongDevice {
        /// The buffer.
        name: String,
    },
    /// Nothing is observed under this name.
    NotObserved {
        /// Asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No weight has this name.
    NoWeight {
        /// Asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The weight is not kept: nothing but a preparation reads it.
    Released {
        /// Asked for.
        name: String,
    },
    /// An extent has no value for these dims.
    Extent {
        /// Overflow, division by zero, negative.
        why: &'static str,
    },
    /// A grid or scalar is outside what the device takes.
    LaunchRange {
        /// The kernel's symbol.
        kernel: String,
        /// `the grid`, `argument 3`.
        what: String,
        /// The value.
        value: i64,
    },
    /// A plan and weights of two layers.
    OtherLayer,
    /// A stream was given to a device that has none.
    NoStream,
    /// A batch needs more workspace than it may have, and cannot be run in parts that are small enough.
    Workspace {
        /// Bytes that the smallest part needs.
        needed: u64,
        /// Bytes that there may be.
        limit: u64,
        /// Bytes that the whole batch needs.
        whole: u64,
    },
    /// Not the name of a device.
    UnknownDevice {
        /// Asked for.
        name: String,
    },
    /// More threads than the host device starts, or none.
    Threads {
        /// Asked for.
        threads: usize,
        /// [`crate::device::MAX_THREADS`].
        max: usize,
    },

    /// The crate was built without this device.
    NotBuilt {
        /// `host` or `cuda`.
        device: &'static str,
    },
    /// There is no NVIDIA driver, or none that answers.
    NoDriver {
        /// What was tried.
        why: String,
    },
    /// The package has nothing for this device.
    NoImage {
        /// `NVIDIA H200 (sm_90)`.
        device: String,
        /// What the package has.
        targets: Vec<String>,
        /// What would fit.
        wanted: String,
    },
    /// The CPU lacks features that every host target of the package uses.
    CpuFeatures {
        /// The target that came nearest.
        target: String,
        /// Features it uses and the CPU lacks.
        missing: Vec<String>,
    },
    /// The system or the driver refused an image, or it lacks a kernel that the manifest names.
    LoadImage {
        /// Its words.
        why: String,
        /// What to do, where the words say it.
        help: Option<&'static str>,
    },
    /// The device has no memory left.
    OutOfMemory {
        /// Asked for.
        bytes: u64,
    },

    /// A device call failed.
    Device {
        /// The call.
        call: &'static str,
        /// The device's words.
        why: String,
        /// The device's state is lost: nothing more can run on it in this process.
        sticky: bool,
    },
    /// An earlier call failed for good.
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
            Error::TensorDType { .. } => ErrorCode::TensorDType,
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
            Error::Shape { .. } | Error::Rank { .. } => ErrorCode::Shape,
            Error::DType { .. } => ErrorCode::DType,
            Error::TokensAboveMax { .. } => ErrorCode::TokensAboveMax,
            Error::SequenceTokens { .. } => ErrorCode::SequenceTokens,
            Error::TooShort { .. } => ErrorCode::TooShort,
            Error::Misaligned { .. } => ErrorCode::Misaligned,
            Error::WrongDevice { .. } => ErrorCode::WrongDevice,
            Error::NotObserved { .. } => ErrorCode::NotObserved,
            Error::Extent { .. } => ErrorCode::Extent,
            Error::LaunchRange { .. } => ErrorCode::LaunchRange,
            Error::UnknownDevice { .. } => ErrorCode::UnknownDevice,
            Error::NoWeight { .. } => ErrorCode::NoWeight,
            Error::Released { .. } => ErrorCode::Released,
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
            Error::Workspace { .. } => ErrorCode::Workspace,
            Error::Poisoned { .. } => ErrorCode::Poisoned,
        }
    }

    /// Where the cause is: in the input, or in the machine.
    #[must_use]
    pub fn blame(&self) -> Blame {
        self.kind().group().blame()
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Error {
        Error::Damaged { what: what.into() }
    }

    pub(crate) fn manifest(what: impl Into<String>) -> Error {
        Error::Manifest { what: what.into() }
    }
}
