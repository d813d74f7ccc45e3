//! What an error says: what is wrong, and apart from it what to do next.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use super::Error;
use crate::format::Format;
use crate::package::DType;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.help() {
            Some(help) => write!(f, "{}; {help}", self.message()),
            None => f.write_str(&self.message()),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// What is wrong, and where: the text without [`Error::help`].
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Error::NotAPackage => "this is not a moec package: it does not start with `moec.pkg`".into(),
            Error::FormatVersion { found, known } => {
                format!("the package has format version {found}, this runtime reads {known}")
            }
            Error::Damaged { what } => format!("the package is damaged: {what}"),
            Error::Manifest { what } => format!("the package's manifest is not sound: {what}"),

            Error::Read { path, why } => format!("cannot read `{}`: {why}", path.display()),
            Error::Safetensors { path, why } => format!("{}: {why}", subject(path, "a safetensors file")),
            Error::NotSafetensors { path, found } => {
                format!("{}: it is {}", subject(path, "a safetensors file"), found.name())
            }
            Error::Index { path, why } => format!("{}: {why}", subject(path, "an index of safetensors files")),
            Error::NoTensors { path, found } => format!("`{}` has no safetensors file{}", path.display(), beside(found)),
            Error::ManyIndices { path, found } => format!("`{}` has several indices, {}", path.display(), list(found)),
            Error::TensorTwice { tensor, first, second } => {
                format!("`{tensor}` is in `{}` and in `{}`", first.display(), second.display())
            }
            Error::MissingShard { tensor, file, missing } => {
                let all = match missing.len() {
                    0 | 1 => String::new(),
                    several => format!(": {several} files are missing, {}", some(missing)),
                };
                format!("`{tensor}` is in `{file}`, which is not beside the index{all}")
            }
            Error::NotInShard { tensor, path } => {
                format!("the index says that `{tensor}` is in `{}`, and it is not", path.display())
            }
            Error::MissingTensor { buffer, candidates, near_matches: _ } => {
                format!("no tensor for `{buffer}`: looked for {}", list(candidates))
            }
            Error::MissingExperts { buffer, name, others, experts: _, there } => {
                let others = if *others > 0 { format!(", and {others} more of the kind") } else { String::new() };
                format!("`{name}` is missing{others} (for `{buffer}`), {} there", numbers(there))
            }
            Error::MoreExperts { buffer, name, experts: _, there } => {
                format!("`{name}` is of an expert that the layer does not have (for `{buffer}`), {} there", numbers(there))
            }
            Error::TensorShape { tensor, buffer, expected, actual } => {
                format!("tensor `{tensor}` (for `{buffer}`) has shape {actual:?}, expected {expected:?}")
            }
            Error::TensorDType { tensor, actual, expected } => {
                format!("tensor `{tensor}` has dtype {actual}, which cannot become {}", expected.name())
            }
            Error::TensorRange { tensor, value } => format!("tensor `{tensor}` holds {value}, which i32 cannot"),

            Error::Count { what, expected, actual } => format!("the layer takes {expected} {what}, {actual} given"),
            Error::Shape { name, expected, actual } => format!("`{name}` has shape {actual}, expected {expected}"),
            Error::Rank { name, actual } => format!("`{name}` has shape {actual:?}, expected [T, H] or [B, S, H]"),
            Error::DType { name, expected, actual } => format!("`{name}` is {}, expected {}", actual.name(), expected.name()),
            Error::NumberRange { name, row, value, most } => {
                format!("`{name}` holds {value} in row {row}: it must be from 0 to {most}")
            }
            Error::TokensAboveMax { tokens, max } => format!("{tokens} tokens, the package serves at most {max}"),
            Error::SequenceTokens { tokens, sequence_tokens } => {
                format!("{tokens} tokens are not whole sequences of {sequence_tokens}")
            }
            Error::TooShort { name, needed, actual } => format!("`{name}` has {actual} bytes, {needed} needed"),
            Error::Misaligned { name, align } => format!("`{name}` is not aligned to {align} bytes"),
            Error::WrongDevice { name } => format!("`{name}` lies on another device than the layer"),
            Error::NotObserved { name, known: _ } => format!("nothing is observed as `{name}` on this target"),
            Error::NoWeight { name, known: _ } => format!("the layer has no weight `{name}`"),
            Error::Released { name } => format!("the weight `{name}` was released when it had been packed"),
            Error::Extent { why } => format!("a size of this launch has no value: {why}"),
            Error::LaunchRange { kernel, what, value } => {
                format!("kernel `{kernel}`: {what} is {value}, outside what the device takes")
            }
            Error::OtherLayer => "the plan is of another layer than the weights".into(),
            Error::NoStream => "the device has no streams".into(),
            Error::Workspace { needed, limit, whole } if needed == whole => {
                format!("the batch needs {whole} bytes of workspace and cannot be cut, at most {limit} are allowed")
            }
            Error::Workspace { needed, limit, .. } => {
                format!("the smallest part of the batch needs {needed} bytes of workspace, at most {limit} are allowed")
            }
            Error::UnknownDevice { name } => format!("`{name}` is not a device"),
            Error::Threads { threads, max } => format!("{threads} threads asked for, 1 to {max} can be had"),

            Error::NotBuilt { device } => format!("this program was built without the device `{device}`"),
            Error::NoDriver { why } => format!("no NVIDIA driver: {why}"),
            Error::NoImage { device, targets, wanted: _ } => {
                format!("the package has no kernels for {device}: it has {}", list(targets))
            }
            Error::CpuFeatures { target, missing } => format!("this CPU lacks {} (target `{target}`)", list(missing)),
            Error::LoadImage { why, help: _ } => format!("cannot load the package's image: {why}"),
            Error::OutOfMemory { bytes } => format!("the device has no room for {bytes} bytes"),

            Error::Device { call, why, sticky: _ } => format!("{call} failed: {why}"),
            Error::Poisoned { first } => format!("the device failed earlier ({first})"),
        }
    }

    /// What to do next, or what there is instead; `None` where the message says all that is known.
    #[must_use]
    pub fn help(&self) -> Option<Cow<'static, str>> {
        let help = match self {
            Error::NotAPackage => "make one with `moec compile`",
            Error::FormatVersion { .. } | Error::Manifest { .. } => "compile the spec again with this moec",
            Error::Damaged { .. } => "fetch it again or compile the spec again",

            Error::NotSafetensors { found, .. } => found.to_tensors(),
            Error::NoTensors { found, .. } => without_tensors(found),
            Error::ManyIndices { .. } => "name the one that is meant",
            Error::TensorTwice { .. } => "name the file that is meant",
            Error::MissingShard { .. } => "fetch what is missing",
            Error::NotInShard { .. } => "fetch index and files again",
            Error::MissingTensor { near_matches, .. } if near_matches.is_empty() => return None,
            Error::MissingTensor { near_matches, .. } => return Some(format!("the file has {}", list(near_matches)).into()),
            Error::MissingExperts { experts, .. } | Error::MoreExperts { experts, .. } => {
                return Some(format!("the layer has {experts} experts, the checkpoint or `moe.experts` is wrong").into());
            }
            Error::TensorShape { .. } => "check `[weights]` (layout, experts) in the spec",
            Error::TensorDType { actual, expected, .. } => converted(actual, *expected),

            Error::Rank { .. } => "one token is [1, H]",
            Error::DType { .. } => "convert it first (`Tensor::to_dtype`)",
            Error::TokensAboveMax { .. } => "split the batch, or compile with a larger `[tokens] max`",
            Error::SequenceTokens { .. } => "give the shape as [B, S, H]",
            Error::WrongDevice { .. } => "copy it there first",
            Error::NotObserved { known, .. } => return Some(format!("there is {}", list(known)).into()),
            Error::Released { .. } => "keep a copy, or compile with `pack = \"none\"` in `[host]`",
            Error::NoWeight { known, .. } => return Some(format!("it has {}", list(known)).into()),
            Error::LaunchRange { .. } => "use a smaller batch",
            Error::OtherLayer => "make it with `Layer::plan` of the layer that they are bound to",
            Error::NoStream => "run on `Stream::DEFAULT`",
            Error::Workspace { .. } => "allow as many, or use a smaller batch",
            Error::UnknownDevice { .. } => "there is host, cuda and cuda:N",
            Error::Threads { .. } => "leave the number out for as many as there are CPUs",

            Error::NotBuilt { device } => return Some(format!("build moec-runtime with its feature `{device}`").into()),
            Error::NoDriver { .. } => "install one, or use the host device",
            Error::NoImage { wanted, .. } => return Some(format!("compile with `--target {wanted}`").into()),
            Error::CpuFeatures { .. } => "compile on this machine with `--target host`",
            Error::LoadImage { help, .. } => (*help)?,
            Error::OutOfMemory { .. } => "free some, or use a smaller batch",
            Error::Poisoned { .. } => "nothing more can run on it: restart the process",

            Error::Read { .. }
            | Error::Safetensors { .. }
            | Error::Index { .. }
            | Error::TensorRange { .. }
            | Error::Count { .. }
            | Error::Shape { .. }
            | Error::NumberRange { .. }
            | Error::TooShort { .. }
            | Error::Misaligned { .. }
            | Error::Extent { .. }
            | Error::Device { .. } => return None,
        };
        Some(help.into())
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".into();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
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
fn converted(actual: &str, expected: DType) -> &'static str {
    match (expected, actual) {
        (DType::I32, _) => "token ids and tables are integers: in PyTorch `.int()`",
        (DType::F32 | DType::F16 | DType::Bf16, "I64" | "I32" | "I16" | "BOOL") => {
            "floats are converted, integers are not: in PyTorch `.float()`"
        }
        (DType::F32 | DType::F16 | DType::Bf16, _) => {
            "quantised tensors are not supported: take the checkpoint in bf16 or f16, or dequantise it"
        }
    }
}
