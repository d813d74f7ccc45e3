//! What every error says, the message apart from the help, and that it displays as both.

use moec_runtime::package::DType;
use moec_runtime::{Error, ErrorCode, Format};

type Says = (Error, &'static str, &'static str);

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// Message and help; an empty help is none.
fn package_and_weights() -> Vec<Says> {
    let [gate, w1, w] = ["gate", "w1", "w"].map(String::from);
    vec![
        (Error::NotAPackage, "this is not a moec package: it does not start with `moec.pkg`", "make one with `moec compile`"),
        (
            Error::FormatVersion { found: 9, known: 8 },
            "the package has format version 9, this runtime reads 8",
            "compile the spec again with this moec",
        ),
        (
            Error::Damaged { what: "a gap; or an overlap".into() },
            "the package is damaged: a gap; or an overlap",
            "fetch it again or compile the spec again",
        ),
        (
            Error::Manifest { what: "no image".into() },
            "the package's manifest is not sound: no image",
            "compile the spec again with this moec",
        ),
        (Error::Read { path: "a".into(), why: "no such file; really".into() }, "cannot read `a`: no such file; really", ""),
        (Error::Safetensors { path: "a".into(), why: "short".into() }, "`a` is not a safetensors file: short", ""),
        (Error::Safetensors { path: "".into(), why: "short".into() }, "not a safetensors file: short", ""),
        (
            Error::NotSafetensors { path: "a".into(), found: Format::Gguf },
            "`a` is not a safetensors file: it is a GGUF file",
            "give the model's safetensors files, from which it was made",
        ),
        (Error::Index { path: "i".into(), why: "no map".into() }, "`i` is not an index of safetensors files: no map", ""),
        (
            Error::NoTensors { path: "d".into(), found: names(&["a.pt"]) },
            "`d` has no safetensors file, but `a.pt`",
            Format::Torch.to_tensors(),
        ),
        (
            Error::NoTensors { path: "d".into(), found: vec![] },
            "`d` has no safetensors file",
            "fetch the checkpoint: `hf download REPOSITORY --include '*.safetensors*'`",
        ),
        (
            Error::ManyIndices { path: "d".into(), found: names(&["a", "b"]) },
            "`d` has several indices, `a`, `b`",
            "name the one that is meant",
        ),
        (
            Error::TensorTwice { tensor: w.clone(), first: "a".into(), second: "b".into() },
            "`w` is in `a` and in `b`",
            "name the file that is meant",
        ),
        (
            Error::MissingShard { tensor: w.clone(), file: "a".into(), missing: names(&["a"]) },
            "`w` is in `a`, which is not beside the index",
            "fetch what is missing",
        ),
        (
            Error::MissingShard { tensor: w.clone(), file: "a".into(), missing: names(&["a", "b", "c", "d", "e"]) },
            "`w` is in `a`, which is not beside the index: 5 files are missing, `a`, `b`, `c`, `d` and 1 more",
            "fetch what is missing",
        ),
        (
            Error::NotInShard { tensor: w.clone(), path: "a".into() },
            "the index says that `w` is in `a`, and it is not",
            "fetch index and files again",
        ),
        (
            Error::MissingTensor { buffer: gate.clone(), candidates: names(&["a", "b"]), near_matches: vec![] },
            "no tensor for `gate`: looked for `a`, `b`",
            "",
        ),
        (
            Error::MissingTensor { buffer: gate.clone(), candidates: names(&["a"]), near_matches: names(&["c"]) },
            "no tensor for `gate`: looked for `a`",
            "the file has `c`",
        ),
        (
            Error::MissingExperts { buffer: gate.clone(), name: w1.clone(), others: 2, experts: 8, there: vec![(0, 4), (6, 6)] },
            "`w1` is missing, and 2 more of the kind (for `gate`), 0 to 4, 6 are there",
            "the layer has 8 experts, the checkpoint or `moe.experts` is wrong",
        ),
        (
            Error::MoreExperts { buffer: gate.clone(), name: w1, experts: 8, there: vec![(3, 3)] },
            "`w1` is of an expert that the layer does not have (for `gate`), 3 is there",
            "the layer has 8 experts, the checkpoint or `moe.experts` is wrong",
        ),
        (
            Error::TensorShape { tensor: w.clone(), buffer: gate, expected: vec![2, 3], actual: vec![3, 2] },
            "tensor `w` (for `gate`) has shape [3, 2], expected [2, 3]",
            "check `[weights]` (layout, experts) in the spec",
        ),
        (
            Error::TensorDType { tensor: w.clone(), actual: "I8".into(), expected: DType::I32 },
            "tensor `w` has dtype I8, which cannot become i32",
            "token ids and tables are integers: in PyTorch `.int()`",
        ),
        (Error::TensorRange { tensor: w, value: 1 << 40 }, "tensor `w` holds 1099511627776, which i32 cannot", ""),
    ]
}

fn arguments() -> Vec<Says> {
    let x = || "x".to_string();
    vec![
        (Error::Count { what: "inputs", expected: 1, actual: 2 }, "the layer takes 1 inputs, 2 given", ""),
        (Error::Shape { name: x(), expected: "[2, 3]".into(), actual: "[3]".into() }, "`x` has shape [3], expected [2, 3]", ""),
        (Error::Rank { name: x(), actual: vec![3] }, "`x` has shape [3], expected [T, H] or [B, S, H]", "one token is [1, H]"),
        (
            Error::DType { name: x(), expected: DType::F32, actual: DType::Bf16 },
            "`x` is bf16, expected f32",
            "convert it first (`Tensor::to_dtype`)",
        ),
        (
            Error::TokensAboveMax { tokens: 2, max: 1 },
            "2 tokens, the package serves at most 1",
            "split the batch, or compile with a larger `[tokens] max`",
        ),
        (
            Error::SequenceTokens { tokens: 5, sequence_tokens: 2 },
            "5 tokens are not whole sequences of 2",
            "give the shape as [B, S, H]",
        ),
        (Error::TooShort { name: x(), needed: 8, actual: 4 }, "`x` has 4 bytes, 8 needed", ""),
        (Error::Misaligned { name: x(), align: 256 }, "`x` is not aligned to 256 bytes", ""),
        (Error::WrongDevice { name: x() }, "`x` lies on another device than the layer", "copy it there first"),
        (
            Error::NotObserved { name: x(), known: names(&["a", "b"]) },
            "nothing is observed as `x` on this target",
            "there is `a`, `b`",
        ),
        (Error::NotObserved { name: x(), known: vec![] }, "nothing is observed as `x` on this target", "there is nothing"),
        (Error::Extent { why: "division by zero" }, "a size of this launch has no value: division by zero", ""),
        (
            Error::LaunchRange { kernel: "k".into(), what: "the grid".into(), value: -1 },
            "kernel `k`: the grid is -1, outside what the device takes",
            "use a smaller batch",
        ),
        (Error::UnknownDevice { name: x() }, "`x` is not a device", "there is host, cuda and cuda:N"),
        (Error::NoWeight { name: x(), known: names(&["a"]) }, "the layer has no weight `x`", "it has `a`"),
        (
            Error::Released { name: x() },
            "the weight `x` was released when it had been packed",
            "keep a copy, or compile with `pack = \"none\"` in `[host]`",
        ),
        (
            Error::Threads { threads: 0, max: 4 },
            "0 threads asked for, 1 to 4 can be had",
            "leave the number out for as many as there are CPUs",
        ),
        (Error::NumberRange { name: x(), row: 3, value: -1, most: 7 }, "`x` holds -1 in row 3: it must be from 0 to 7", ""),
        (
            Error::OtherLayer,
            "the plan is of another layer than the weights",
            "make it with `Layer::plan` of the layer that they are bound to",
        ),
        (Error::NoStream, "the device has no streams", "run on `Stream::DEFAULT`"),
        (
            Error::Workspace { needed: 9216, limit: 1000, whole: 155_136 },
            "the smallest part of the batch needs 9216 bytes of workspace, at most 1000 are allowed",
            "allow as many, or use a smaller batch",
        ),
        (
            Error::Workspace { needed: 155_136, limit: 1000, whole: 155_136 },
            "the batch needs 155136 bytes of workspace and cannot be cut, at most 1000 are allowed",
            "allow as many, or use a smaller batch",
        ),
    ]
}

fn environment_and_device() -> Vec<Says> {
    let why = || "error; 3".to_string();
    vec![
        (
            Error::NotBuilt { device: "cuda" },
            "this program was built without the device `cuda`",
            "build moec-runtime with its feature `cuda`",
        ),
        (Error::NoDriver { why: why() }, "no NVIDIA driver: error; 3", "install one, or use the host device"),
        (
            Error::NoImage { device: "a GPU".into(), targets: names(&["sm_80"]), wanted: "sm_90a".into() },
            "the package has no kernels for a GPU: it has `sm_80`",
            "compile with `--target sm_90a`",
        ),
        (
            Error::CpuFeatures { target: "x86-64-v4".into(), missing: names(&["avx512f"]) },
            "this CPU lacks `avx512f` (target `x86-64-v4`)",
            "compile on this machine with `--target host`",
        ),
        (Error::LoadImage { why: why(), help: None }, "cannot load the package's image: error; 3", ""),
        (Error::LoadImage { why: why(), help: Some("update") }, "cannot load the package's image: error; 3", "update"),
        (Error::OutOfMemory { bytes: 9 }, "the device has no room for 9 bytes", "free some, or use a smaller batch"),
        (Error::Device { call: "cuInit", why: why(), sticky: false }, "cuInit failed: error; 3", ""),
        (
            Error::Poisoned { first: why() },
            "the device failed earlier (error; 3)",
            "nothing more can run on it: restart the process",
        ),
    ]
}

#[test]
fn message_and_help_are_apart_and_display_joins_them() {
    let errors = [package_and_weights(), arguments(), environment_and_device()].concat();
    for (error, message, help) in &errors {
        let help = Some(*help).filter(|help| !help.is_empty());
        assert_eq!((error.message().as_str(), error.help().as_deref()), (*message, help), "{}", error.code());
        let displayed = help.map_or_else(|| (*message).to_string(), |help| format!("{message}; {help}"));
        assert_eq!(error.to_string(), displayed);
    }
    let said: Vec<ErrorCode> = errors.iter().map(|(error, ..)| error.kind()).collect();
    let unsaid: Vec<_> = ErrorCode::ALL.iter().filter(|code| !said.contains(code)).collect();
    assert!(unsaid.is_empty(), "no error of this test has the codes {unsaid:?}");
}
