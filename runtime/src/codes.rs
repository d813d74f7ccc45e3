//! The table of this crate's codes: group, number, a few words, a paragraph. A number is never used again for another error.
//! Which error has which code is said in `error`.

use crate::error::Blame;

/// What an error concerns: one group for each hundred of the codes. It is closed: callers match it without a
/// wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorGroup {
    /// The package: `RT01`.
    Package,
    /// Weights and other tensor files: `RT02`.
    Weights,
    /// The arguments of a call: `RT03`.
    Arguments,
    /// The environment: `RT04`.
    Environment,
    /// The device: `RT05`.
    Device,
}

impl ErrorGroup {
    /// Where the cause of such errors is: in the input, or in the machine.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            ErrorGroup::Package | ErrorGroup::Weights | ErrorGroup::Arguments => Blame::Input,
            ErrorGroup::Environment | ErrorGroup::Device => Blame::Environment,
        }
    }
}

macro_rules! codes {
    ($([$group:ident] $($name:ident = $id:literal, $title:literal, $explanation:literal;)+)+) => {
        /// Every kind of error of this crate, by its stable number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $title] $name,)+)+
        }

        impl ErrorCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [ErrorCode] = &[$($(ErrorCode::$name,)+)+];

            /// The code as people write it: `RT0101`.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $($(ErrorCode::$name => $id,)+)+ }
            }

            /// What the error concerns: the hundred of its number.
            #[must_use]
            pub fn group(self) -> ErrorGroup {
                match self { $($(ErrorCode::$name)|+ => ErrorGroup::$group,)+ }
            }

            /// A few words that name the error.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $($(ErrorCode::$name => $title,)+)+ }
            }

            /// A paragraph for people: what it means and what to do.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self { $($(ErrorCode::$name => $explanation,)+)+ }
            }
        }
    };
}

codes! {
    // 01xx: the package.
    [Package]
    NotAPackage = "RT0101", "not a package",
        "A package starts with the eight bytes `moec.pkg`; this file does not. `moec compile` writes packages.";
    FormatVersion = "RT0102", "a package of another format version",
        "The container or the manifest was written by a moec of another version. Packages are not converted: compile the spec \
         again.";
    Damaged = "RT0103", "a damaged package",
        "A length or a SHA-256 in the package does not agree with its bytes: the file was cut short, changed or joined with \
         another one. Fetch it again, or compile the spec again.";
    Manifest = "RT0104", "an unsound manifest",
        "The manifest breaks one of its own rules, such as an index that names nothing. A package that moec wrote never does.";

    // 02xx: weights and other tensor files.
    [Weights]
    Read = "RT0201", "a file that cannot be read",
        "The system refused to open or to read the file. The message ends with the system's reason.";
    Safetensors = "RT0202", "not a safetensors file",
        "The header is not that of a safetensors file, or it names bytes that the file does not have: an interrupted download \
         is the common case.";
    MissingTensor = "RT0203", "a tensor is not in the file",
        "None of the names under which `[weights]` of the spec looks for a tensor is in the file. `--tensor-prefix`, or the \
         prefix given to `assemble`, stands before each of them.";
    TensorShape = "RT0204", "a stored tensor has another shape",
        "The tensor has the name that was looked for, but not the shape that the layer gives it: the spec is of another model, \
         or the file stores it transposed, fused or with the experts folded into the rows, which `[weights]` can say.";
    TensorDType = "RT0205", "a stored tensor of a type that is not converted",
        "Floats of 64, 32 and 16 bits become the layer's type, integers and truths become i32 where they fit. An integer does not \
         become a float, nor a float an integer, and quantised types are not converted.";
    TensorRange = "RT0206", "a stored integer outside i32",
        "The kernels take 32-bit integers, and a number in the file does not fit.";
    NotSafetensors = "RT0207", "a file of another format",
        "Tensors are read from safetensors files. The first bytes of this file are those of another format, which the message \
         names with what to do: GGUF, a file of `torch.save`, an array of numpy, a package, or what Git LFS leaves in the place \
         of a file that was not fetched.";
    Index = "RT0208", "an index that cannot be used",
        "The index of a checkpoint in several files is JSON with a `weight_map` from tensors to files of the same folder. One \
         that names a file outside its folder is refused: an index may come from a stranger.";
    NoTensors = "RT0209", "a folder without safetensors files",
        "Of a folder, `model.safetensors` is taken, else the index, else every `.safetensors` file. This one has none of them.";
    ManyIndices = "RT0210", "a folder with several indices",
        "Several indices are several checkpoints, or one in several formats. Name the one that is meant in the folder's place.";
    TensorTwice = "RT0211", "a tensor in two files of a folder",
        "The folder has no index that says which of its files belong together, and two of them have a tensor of one name. Name \
         the file that is meant.";
    MissingShard = "RT0212", "a file of an index is not there",
        "The index says that a tensor of the layer is in a file that is not beside it. Files with none of the layer's tensors \
         may be missing; the message names all that are.";
    NotInShard = "RT0213", "a tensor is not where the index says",
        "The file that the index names is there, and does not have the tensor: index and files are of different versions.";
    MissingExperts = "RT0214", "experts without a tensor",
        "Each expert has a tensor of its own, and some experts of the layer have none: a part of the checkpoint is missing, or \
         `moe.experts` of the spec is that of another model.";
    MoreExperts = "RT0215", "tensors of more experts than the layer has",
        "Each expert has a tensor of its own, and the checkpoint has some of experts that the layer does not have: `moe.experts` \
         of the spec is that of another model. A layer that leaves experts out computes something else.";

    // 03xx: the arguments of a call.
    [Arguments]
    Count = "RT0301", "another number of tensors",
        "A layer takes as many inputs and weights as its manifest lists, in that order.";
    Shape = "RT0302", "a tensor of another shape",
        "Activations are [T, H] or [B, S, H], H being the layer's width; other inputs and weights have the shapes of the \
         manifest (`moec inspect`).";
    DType = "RT0303", "a tensor of another element type",
        "Nothing is converted silently at a launch. `Tensor::to_dtype` converts.";
    TokensAboveMax = "RT0304", "more tokens than the package serves",
        "`tokens.max` in the spec bounds a batch, and the kernels' index arithmetic relies on it. Split the batch, or compile \
         with a larger bound.";
    SequenceTokens = "RT0305", "tokens that are not whole sequences",
        "The number of tokens in the batch is not a multiple of that of a sequence.";
    TooShort = "RT0306", "memory that is too short",
        "A region given by the caller has fewer bytes than these dimensions need. `Layer::workspace_bytes` says how many the \
         workspace needs.";
    Misaligned = "RT0307", "memory that is not aligned",
        "Kernels load several elements at once, so that every buffer starts at a multiple of the alignment in the manifest.";
    WrongDevice = "RT0308", "memory of another device",
        "A region was allocated on another device, or by another opening of this one, than the layer runs on.";
    NotObserved = "RT0309", "nothing is observed under this name",
        "Which values of a run can be looked at stands in the manifest; other names have nothing behind them.";
    Extent = "RT0310", "a size without a value",
        "A formula of the manifest overflows, divides by zero or is negative for these dimensions.";
    LaunchRange = "RT0311", "a launch outside what the device takes",
        "The grid or a scalar argument does not fit the device's types. A smaller batch does.";
    UnknownDevice = "RT0312", "not the name of a device",
        "Devices are `host`, `cuda` (the first GPU) and `cuda:N`.";
    NoWeight = "RT0313", "no weight of this name",
        "The manifest lists the layer's weights by name.";
    Threads = "RT0314", "too many threads, or none",
        "The host device starts the threads that it is asked for. Beyond a machine's CPUs they make nothing faster, so their \
         number is bounded.";
    NumberRange = "RT0315", "an index outside its table",
        "Hash routing looks up the experts of each token id in a table. An id outside the table, or an entry outside the experts, \
         is refused before anything runs: of what the nearest would give no model was trained. Give ids of the vocabulary; rows that \
         `token_mask` says are padding may have any. `hash_oob = \"drop\"` in `[router]` gives tokens with other ids no experts.";

    OtherLayer = "RT0316", "a plan of another layer",
        "A plan was given weights that are bound to another layer, or to another loading of its package. Ask the layer whose \
         weights they are for the plan (`Bound::layer`).";
    NoStream = "RT0317", "a stream of another kind of device",
        "A `CUstream` was given to a layer on a device that has no streams. Run it on `Stream::DEFAULT`.";

    Workspace = "RT0318", "not enough workspace",
        "`tokens.workspace` in the spec, or the caller of `Layer::plan_within`, bounds the workspace. A batch that needs more is run \
         in parts, if the layer allows that: not where all tokens share a capacity, a loss or noise. Even a part of a few \
         tokens, or of one sequence, needs some.";
    Released = "RT0319", "a weight that was released",
        "A weight that is packed when it is bound is not kept beside what is made of it, since no run reads it.";

    // 04xx: the environment.
    [Environment]
    NotBuilt = "RT0401", "a device that this program was built without",
        "Devices are Cargo features of moec-runtime: `host`, `cuda` and `emulator`.";
    NoDriver = "RT0402", "no NVIDIA driver",
        "The driver's library was not found, does not answer, or is older than the package's PTX. `moec doctor` says what is \
         there.";
    NoImage = "RT0403", "no kernels for this device",
        "The package was not compiled for this GPU's architecture or for CPUs. The message names the `--target` to compile for.";
    CpuFeatures = "RT0404", "this CPU lacks features",
        "Every host target of the package uses instructions that this CPU does not have. `--target host` compiles for the CPU at \
         hand, `--target x86-64-v3` for any x86-64 CPU with AVX2, `--target aarch64` for any 64-bit Arm CPU.";
    LoadImage = "RT0405", "an image that cannot be loaded",
        "The driver or the dynamic loader refused the kernels. On the host the image is loaded by way of a file in the folder \
         for temporary files (TMPDIR), which has to allow execution.";
    OutOfMemory = "RT0406", "not enough memory",
        "The device has no room for an allocation of this size. A smaller batch needs less workspace.";

    // 05xx: the device.
    [Device]
    Device = "RT0501", "a device call failed",
        "The driver or the operating system refused a call. Where it says that the device is lost, nothing more can run on it in \
         this process.";
    Poisoned = "RT0502", "the device failed earlier",
        "An earlier call lost the device. The first failure is in the message; restart the process.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_and_are_explained() {
        assert!(ErrorCode::ALL.windows(2).all(|pair| pair[0].id() < pair[1].id()));
        assert!(ErrorCode::ALL.iter().all(|code| code.explanation().len() > code.title().len()));
    }

    /// The hundred of a number is the group of the table that it stands in.
    #[test]
    fn numbers_stand_in_their_group() {
        for code in ErrorCode::ALL {
            let hundred = match code.group() {
                ErrorGroup::Package => "RT01",
                ErrorGroup::Weights => "RT02",
                ErrorGroup::Arguments => "RT03",
                ErrorGroup::Environment => "RT04",
                ErrorGroup::Device => "RT05",
            };
            assert!(code.id().starts_with(hundred) && code.id().len() == 6, "{} in {:?}", code.id(), code.group());
        }
    }
}
