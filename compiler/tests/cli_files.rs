//! Files as people have them, from outside: checkpoints in several files, other formats in a file's place, names that are not
//! text, texts with a byte order mark, and names that would change what a terminal shows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::command;
use crate::command::{example, fixture, folder, moec_in, product, start, stderr, stdout, write};
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Package, Tensor, package};

/// A published block's tensors, as they are stored.
fn stored(checkpoint: &Checkpoint<'_>) -> Vec<(String, Tensor)> {
    let load = |name: &str| {
        let dtype = if checkpoint.info(name).unwrap().dtype.starts_with('F') { DType::F32 } else { DType::I32 };
        (name.to_string(), checkpoint.tensor(name, dtype).unwrap().0)
    };
    checkpoint.names().into_iter().map(load).collect()
}

fn save(path: &Path, tensors: &[&(String, Tensor)]) {
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    fs::write(path, to_safetensors(&named).unwrap()).unwrap();
}

/// Every tensor in a file of its own, beside their index.
fn shard(folder: &Path, tensors: &[(String, Tensor)]) {
    let file = |at: usize| format!("model-{:05}-of-{:05}.safetensors", at + 1, tensors.len());
    tensors.iter().enumerate().for_each(|(at, tensor)| save(&folder.join(file(at)), &[tensor]));
    let map: serde_json::Map<_, _> =
        tensors.iter().enumerate().map(|(at, (name, _))| (name.clone(), serde_json::Value::from(file(at)))).collect();
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn weights_in_several_files() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (spec, whole) = (fixture("mixtral", "toml"), fixture("mixtral", "safetensors"));
    let tensors = stored(&Checkpoint::open(&whole).unwrap());
    fs::create_dir(at("model")).unwrap();
    shard(&at("model"), &tensors);
    let run = |weights: &str, input: &str| {
        let arguments = ["run", &spec, "--weights", weights, "--tensor-prefix", "w.", "--input", input, "--repeat", "1"];
        let output = moec_in(folder.path(), &[&arguments[..], &["--output", "y"]].concat());
        product(&output);
        fs::read(at("y")).unwrap()
    };
    let expected = run(&whole, &whole);
    assert_eq!(run("model", &whole), expected);
    assert_eq!(run("model/model.safetensors.index.json", "model"), expected);

    // Of the files, only those that the layer needs are missed, and every one that is missing is named.
    let missing = |tensor: &str| {
        let file = tensors.iter().position(|(name, _)| name == tensor).unwrap() + 1;
        let path = at(&format!("model/model-{file:05}-of-{:05}.safetensors", tensors.len()));
        fs::remove_file(&path).unwrap();
    };
    missing("out.hidden_f64");
    assert_eq!(run("model", &whole), expected);
    missing("w.gate.weight");
    let arguments = ["run", &spec, "--weights", "model", "--tensor-prefix", "w.", "--tokens", "1"];
    let output = moec_in(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output));
}

/// Files beside the one that is read are named.
#[test]
fn files_that_are_left_out() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (spec, whole) = (fixture("mixtral", "toml"), fixture("mixtral", "safetensors"));
    let run = |weights: &str, flags: &[&str]| {
        let arguments = ["run", &spec, "--weights", weights, "--tensor-prefix", "w.", "--tokens", "1", "--repeat", "1"];
        moec_in(folder.path(), &[&arguments[..], flags].concat())
    };
    fs::create_dir(at("model")).unwrap();
    fs::copy(&whole, at("model/model.safetensors")).unwrap();
    assert!(!stderr(&run("model", &[])).contains("MOE1112"));
    fs::copy(&whole, at("model/consolidated.safetensors")).unwrap();
    let output = run("model", &[]);
    product(&output);
    let said = stderr(&output);
    assert!(said.contains("warning[MOE1112]: not read: `consolidated.safetensors`"), "{said}");
    assert_eq!(run("model", &["--deny-warnings"]).status.code(), Some(1));
    product(&run("model/model.safetensors", &["--deny-warnings"]));
}

/// Half a model, and one with more experts than the spec has: by the names that the file uses.
#[test]
fn experts_that_are_missing() {
    let folder = folder();
    let spec = "[moe]\nhidden = 8\nexperts = 6\n[router]\nmode = \"token_choice\"\ntop_k = 2\nscore = \"softmax\"\norder = \
                \"score_topk\"\nrenorm = \"sum\"\n[expert]\nintermediate = 4\nactivation = \"silu\"\ngated = true\n[weights]\nrouter \
                = \"gate.weight\"\ngate = \"experts.{e}.gate_proj.weight\"\nup = \"experts.{e}.up_proj.weight\"\ndown = \
                \"experts.{e}.down_proj.weight\"\n";
    write(folder.path(), "s.toml", spec);
    let zeros = |name: String, shape: [u64; 2]| {
        (name, Tensor::from_f32(DType::F32, shape.to_vec(), &vec![0.0; (shape[0] * shape[1]) as usize]).unwrap())
    };
    let run = |experts: u64| {
        let mut tensors = vec![zeros("gate.weight".into(), [6, 8])];
        for expert in 0..experts {
            tensors.push(zeros(format!("experts.{expert}.gate_proj.weight"), [4, 8]));
            tensors.push(zeros(format!("experts.{expert}.up_proj.weight"), [4, 8]));
            tensors.push(zeros(format!("experts.{expert}.down_proj.weight"), [8, 4]));
        }
        save(&folder.path().join("w.safetensors"), &tensors.iter().collect::<Vec<_>>());
        moec_in(folder.path(), &["run", "s.toml", "--weights", "w.safetensors", "--tokens", "1", "--repeat", "1"])
    };
    let output = run(4);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output));
    product(&run(6));
    let output = run(8);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`experts.6.gate_proj.weight` is of an expert that the layer does not have"), "{said}");
    assert!(said.contains("0 to 7 are there") && said.contains("RT0215"), "{said}");
}

/// A tensor that is not as `[weights]` says: at its entry, and of a shape at the sizes that it follows from.
#[test]
fn errors_of_weights_have_places() {
    let folder = folder();
    let spec = "[moe]\nhidden = 8\nexperts = 2\n[router]\ntop_k = 1\ncorrection_on = \"score\"\n[expert]\nintermediate = 4\n\
                activation = \"silu\"\n[weights]\nrouter = \"gate.weight\"\ncorrection_bias = \"gate.bias\"\ngate_up = { name = \
                \"gate_up\", layout = \"T\" }\ndown = [\"down\", \"experts.{e}.down\"]\n[numerics]\ndtype = \"f32\"\n";
    write(folder.path(), "s.toml", spec);
    let zeros = |name: &str, dtype: DType, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        (name.to_string(), Tensor::new(dtype, shape.to_vec(), vec![0; count * dtype.bytes() as usize]).unwrap())
    };
    let right = [
        zeros("p.gate.weight", DType::F32, &[2, 8]),
        zeros("p.gate.bias", DType::F32, &[2]),
        zeros("p.gate_up", DType::F32, &[2, 8, 8]),
        zeros("p.experts.0.down", DType::F32, &[8, 4]),
        zeros("p.experts.1.down", DType::F32, &[8, 4]),
    ];
    let save_all = save;
    let save = |changed: Option<(&str, Option<(String, Tensor)>)>| {
        let (name, tensor) = changed.clone().unzip();
        let kept = right.iter().filter(|(known, _)| Some(known.as_str()) != name);
        let tensors: Vec<&(String, Tensor)> = kept.chain(tensor.iter().flatten()).collect();
        save_all(&folder.path().join("w.safetensors"), &tensors);
    };
    let common = ["--weights", "w.safetensors", "--tensor-prefix", "p."];
    let run = || moec_in(folder.path(), &[&["run", "s.toml", "-q", "--tokens", "1", "--repeat", "1"][..], &common].concat());
    save(None);
    product(&run());
    for (name, tensor, places) in [
        ("p.gate.weight", None, &["s.toml:11:10"][..]),
        ("p.gate.weight", Some(zeros("p.gate.weight", DType::F32, &[3, 8])), &["s.toml:11:10", "experts = 2", "hidden = 8"]),
        ("p.gate.bias", Some(zeros("p.gate.bias", DType::I32, &[2])), &["s.toml:12:19"]),
        ("p.gate_up", Some(zeros("p.gate_up", DType::F32, &[2, 8, 6])), &["s.toml:13:11", "intermediate = 4"]),
        ("p.experts.1.down", None, &["s.toml:14:8", "experts = 2"]),
    ] {
        save(Some((name, tensor)));
        let said = stderr(&run());
        for place in places.iter().chain(&["the weights are in `w.safetensors`"]) {
            assert!(said.contains(place), "{name}, {place}: {said}");
        }
    }
    // What a router has is read by `route` too.
    save(Some(("p.gate.bias", Some(zeros("p.gate.bias", DType::F32, &[5])))));
    let logits = ("x".to_string(), Tensor::from_f32(DType::F32, vec![2, 2], &[0.5, 1.0, 2.0, 1.0]).unwrap());
    save_all(&folder.path().join("x.safetensors"), &[&logits]);
    let said = stderr(&moec_in(folder.path(), &[&["route", "s.toml", "-q", "--logits", "x.safetensors"][..], &common].concat()));
    assert!(said.contains("s.toml:12:19") && said.contains("experts = 2"), "{said}");
}

/// What is given in the place of a spec, of weights, of tokens, of a package or of a text is called by its name.
#[test]
fn files_of_other_formats() {
    let folder = folder();
    let torch = [b"PK\x03\x04", &[0; 22][..], &16u16.to_le_bytes(), &[0; 2], b"archive/data.pkl"].concat();
    let large = [b"GGUF\x03\0\0\0".to_vec(), vec![0; 2 << 20]].concat();
    for (name, bytes) in [
        ("model.gguf", &large[..]),
        ("model.pt", &torch),
        ("old.bin", b"\x80\x02}q\0."),
        ("x.npy", b"\x93NUMPY\x01\0v\0{'descr': '<f4'}"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ] {
        write(folder.path(), name, bytes);
    }
    let spec = example("tiny.toml");
    product(&moec_in(folder.path(), &["compile", &spec, "-o", "tiny.moec"]));
    product(&moec_in(folder.path(), &["run", &spec, "--tokens", "1", "--repeat", "1", "--output", "y.safetensors"]));
    let mut said = String::new();
    for arguments in [
        &["check", "model.gguf"][..],
        &["check", "tiny.moec"],
        &["check", "y.safetensors"],
        &["compile", "model.pt"],
        &["run", "model.gguf"],
        &["run", "lfs.safetensors"],
        &["import", "old.bin"],
        &["inspect", "x.npy"],
        &["opt", "tiny.moec", "--pipeline", "verify"],
        &["run", "tiny.moec", "--weights", "model.gguf"],
        &["run", "tiny.moec", "--weights", "tiny.moec"],
        &["run", "tiny.moec", "--weights", "model.pt"],
        &["run", "tiny.moec", "--weights", "."],
        &["run", "tiny.moec", "--weights", "mistralai/Mixtral-8x7B-v0.1"],
        &["run", "tiny.moec", "--input", "x.npy"],
        &["run", "tiny.moec", "--input", "lfs.safetensors"],
    ] {
        let output = moec_in(folder.path(), arguments);
        assert_eq!((output.status.code(), &*stdout(&output)), (Some(1), ""), "{arguments:?}: {}", stderr(&output));
        said += &format!("$ moec {}\n{}\n", arguments.join(" ").replace(&spec, "tiny.toml"), stderr(&output));
    }
    insta::assert_snapshot!(said);
}

/// Tokens in every shape and type: converted and said, or refused with what would be right.
#[test]
fn tokens_of_other_shapes_and_types() {
    let folder = folder();
    let spec = example("tiny.toml");
    let input = |name: &str, dtype: &str, bits: usize, shape: &str, elements: usize| {
        let bytes = vec![0; elements * bits / 8];
        let header = format!(r#"{{"h":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#, bytes.len());
        write(folder.path(), name, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat());
        moec_in(folder.path(), &["run", &spec, "--input", name, "--repeat", "1"])
    };
    let double = input("f64", "F64", 64, "[2, 64]", 128);
    assert!(product(&double).contains("tokens      2"));
    assert!(stderr(&double).contains("note: `h` is f64, converted to f32"), "{}", stderr(&double));
    let mut said = String::new();
    for (dtype, bits, shape, elements) in [
        ("F32", 32, "[64]", 64),
        ("F32", 32, "[]", 1),
        ("F32", 32, "[1, 1, 1, 64]", 64),
        ("F32", 32, "[2, 0]", 0),
        ("I64", 64, "[1, 64]", 64),
        ("U8", 8, "[1, 64]", 64),
        ("BOOL", 8, "[1, 64]", 64),
        ("F8_E4M3", 8, "[1, 64]", 64),
        ("C64", 64, "[1, 64]", 64),
    ] {
        let output = input("x", dtype, bits, shape, elements);
        assert_eq!((output.status.code(), &*stdout(&output)), (Some(1), ""), "{dtype} {shape}: {}", stderr(&output));
        said += &format!("{dtype} {shape}\n{}\n", stderr(&output));
    }
    insta::assert_snapshot!(said);
}

/// Names of files are bytes.
#[cfg(unix)]
#[test]
fn names_that_are_not_text() {
    use std::os::unix::ffi::OsStringExt;
    let folder = folder();
    let name = |end: &str| OsString::from_vec([b"\xff\xfe", end.as_bytes()].concat());
    let run = |arguments: &[&OsStr]| -> Output {
        let moec =
            Command::new(env!("CARGO_BIN_EXE_moec")).args(arguments).current_dir(folder.path()).env("MOEC_PTXAS", "").output();
        moec.unwrap()
    };
    let (spec, weights, x, y, out) = (name(".toml"), name(".safetensors"), name(":x.safetensors"), name(".y"), name(".out"));
    fs::copy(fixture("mixtral", "toml"), folder.path().join(&spec)).unwrap();
    for copy in [&weights, &x] {
        if fs::copy(fixture("mixtral", "safetensors"), folder.path().join(copy)).is_err() {
            println!("skipped: the file system has names of text alone");
            return;
        }
    }
    let word = OsStr::new;
    let with_tensor = [x.clone(), OsString::from(":in.hidden")].into_iter().collect::<OsString>();
    let (run_it, flag) = (word("run"), |text| OsStr::new(text));
    for input in [&weights, &x, &with_tensor] {
        let arguments = [
            run_it,
            &spec,
            flag("--weights"),
            &weights,
            flag("--tensor-prefix"),
            flag("w."),
            flag("--input"),
            input,
            flag("--output"),
            &y,
        ];
        product(&run(&arguments));
        assert!(Checkpoint::open(folder.path().join(&y)).unwrap().has("out.hidden"));
    }
    product(&run(&[word("check"), &spec]));
    let package = name(".moec");
    product(&run(&[word("compile"), &spec, word("-o"), &package]));
    product(&run(&[word("inspect"), &package]));
    product(&run(&[word("run"), &package, word("--tokens"), word("1")]));
    product(&run(&[word("compile"), &spec, word("--out-dir"), &out, word("--emit"), word("graph")]));
    let graph = fs::read_dir(folder.path().join(&out)).unwrap().next().unwrap().unwrap().path();
    product(&run(&[word("opt"), graph.as_os_str(), word("--pipeline"), word("verify")]));
    let absent = name("absent");
    for arguments in
        [&[word("check"), &absent][..], &[word("run"), &spec, word("--weights"), &absent], &[word("import"), &absent]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("absent`"), "{output:?}");
    }
}

/// What editors on Windows put before a text is no part of it.
#[test]
fn texts_with_a_byte_order_mark() {
    let folder = folder();
    let marked = |name: &str, text: &str| write(folder.path(), name, format!("\u{feff}{text}"));
    let tiny = fs::read_to_string(example("tiny.toml")).unwrap();
    marked("tiny.toml", &tiny);
    let json = r#"{"moe": {"hidden": 64, "experts": 8}, "router": {"mode": "token_choice", "top_k": 2, "score": "softmax", "order":
        "score_topk", "renorm": "sum"}, "expert": {"intermediate": 8, "activation": "silu", "gated": true}}"#;
    marked("s.json", json);
    product(&moec_in(folder.path(), &["check", "tiny.toml", "s.json"]));
    let from_stdin = start(folder.path(), &["check", "-"], &[], &format!("\u{feff}{json}"));
    product(&from_stdin);
    product(&moec_in(folder.path(), &["compile", "tiny.toml", "--emit", "graph,kernel", "--out-dir", "plain"]));
    for file in fs::read_dir(folder.path().join("plain")).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = marked("text", &text).display().to_string();
        assert_eq!(product(&moec_in(folder.path(), &["opt", &name, "--pipeline", "verify", "--target", "host"])), text);
        product(&moec_in(folder.path(), &["inspect", &name]));
    }
    let config = r#"{"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 32, "num_local_experts": 8,
        "num_experts_per_tok": 2, "hidden_act": "silu", "num_hidden_layers": 2}"#;
    marked("config.json", config);
    product(&moec_in(folder.path(), &["import", "config.json"]));
    // Places count from the text's own start.
    marked("wrong.json", r#"{"moe": {"hidden": NaN}}"#);
    let wrong = moec_in(folder.path(), &["check", "wrong.json", "--message-format", "short"]);
    assert_eq!(stderr(&wrong), "wrong.json:1:20: error[MOE0007]: malformed JSON: NaN is not JSON\n");
}

/// Names in a package and names of files and tensors cannot move the cursor, colour a line or hide one.
#[test]
fn names_that_would_change_the_terminal() {
    const EVIL: &str = "\u{1b}[2J\r\u{9b}31m\u{202e}";
    let folder = folder();
    let spec = example("tiny.toml");
    product(&moec_in(folder.path(), &["compile", &spec, "-o", "tiny.moec"]));
    let honest = package::read(&fs::read(folder.path().join("tiny.moec")).unwrap()).unwrap();
    let mut manifest = honest.manifest().clone();
    manifest.layer = EVIL.into();
    manifest.compiler = EVIL.into();
    if let Some(dim) = manifest.dims.last_mut() {
        dim.name = EVIL.into();
    }
    let package = Package::new(manifest, honest.images().to_vec()).unwrap();
    write(folder.path(), "evil.moec", package.to_bytes().unwrap());
    let row = Tensor::from_f32(DType::F32, vec![1, 63], &[0.0; 63]).unwrap();
    let tensors = to_safetensors(&[(EVIL, &row)]).unwrap();
    let evil_name = format!("{}.safetensors", EVIL.replace('\r', ""));
    write(folder.path(), &evil_name, tensors);
    write(folder.path(), &format!("{evil_name}.toml"), format!("[moe]\nhidden = \"{EVIL}\"\n"));
    for (arguments, exit) in [
        (&["inspect", "evil.moec"][..], 0),
        (&["inspect", "evil.moec", "--manifest"], 0),
        (&["run", "evil.moec", "--tokens", "1"], 0),
        (&["run", &spec, "--input", &evil_name], 1),
        (&["run", &spec, "--weights", &evil_name, "--tokens", "1"], 1),
        (&["run", &format!("{evil_name}.toml")], 1),
        (&["check", &format!("{evil_name}.toml"), "--message-format", "short"], 1),
        (&["check", &format!("{evil_name}.toml"), "--message-format", "json"], 1),
        (&["check", &format!("absent{evil_name}")], 1),
        (&["compile", &spec, "--emit", "graph", "-o", &evil_name], 0),
    ] {
        let output = moec_in(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {}", stderr(&output));
        for text in [stdout(&output), stderr(&output)] {
            let shown = |c: char| (!c.is_control() || c == '\n') && c != '\u{202e}';
            assert!(text.chars().all(shown), "{arguments:?}: {text:?}");
        }
    }
    let manifest = product(&moec_in(folder.path(), &["inspect", "evil.moec", "--manifest"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["layer"], EVIL, "still JSON of the same");
}

/// A batch that no machine has the memory for is refused before any of it is made.
#[test]
fn tokens_beyond_memory() {
    let folder = folder();
    let spec = "[moe]\nhidden = 8192\nexperts = 2\n[router]\nmode = \"token_choice\"\ntop_k = 1\nscore = \"softmax\"\norder = \
                \"score_topk\"\nrenorm = \"none\"\n[expert]\nintermediate = 16\nactivation = \"silu\"\ngated = true\n[tokens]\nmax = \
                1000000000\n";
    write(folder.path(), "s.toml", spec);
    let output = moec_in(folder.path(), &["run", "s.toml", "--tokens", "1000000000"]);
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(3), ""), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("error[MOE0804]") && said.contains("help: run fewer tokens at a time"), "{said}");
    assert!(said.contains(" for the batch, at 1000000000 tokens"), "{said}");
}

/// A stranger's checkout cannot bring a tool that moec runs.
#[cfg(unix)]
#[test]
fn tools_of_the_current_folder_are_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let tools = folder.path().join(".tools/bin");
    fs::create_dir_all(&tools).unwrap();
    fs::create_dir(folder.path().join("inner")).unwrap();
    let ptxas = write(&tools, "ptxas", "#!/bin/sh\ntouch \"$(dirname \"$0\")/ran\"\necho V1.2.3\n");
    fs::set_permissions(&ptxas, fs::Permissions::from_mode(0o755)).unwrap();
    let (mut command, inner) = (Command::new(env!("CARGO_BIN_EXE_moec")), folder.path().join("inner"));
    let doctor = command.args(["doctor", "--no-measure"]).current_dir(inner).env_remove("MOEC_PTXAS").output().unwrap();
    assert!(!stdout(&doctor).contains("1.2.3"), "{}", stdout(&doctor));
    assert!(!tools.join("ran").exists());
    let named = start(folder.path(), &["doctor", "--no-measure"], &[("MOEC_PTXAS", &ptxas.display().to_string())], "");
    assert!(stdout(&named).contains("ptxas     1.2.3"), "{}", stdout(&named));
}

/// No compiler, linker or assembler is needed, and the package has the same bytes whatever tools there are.
#[test]
fn a_bare_machine_compiles_and_runs() {
    let folder = folder();
    let (spec, out) = (example("tiny.toml"), folder.path());
    let bare = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moec"));
        let output = command.args(arguments).current_dir(out).env_clear().env("PATH", out).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    bare(&["compile", &spec, "--target", "x86-64-v3", "-o", "bare.moec"]);
    bare(&["run", &spec, "--reference"]);
    let full = start(out, &["compile", &spec, "--target", "x86-64-v3", "-o", "full.moec"], &[("CC", "cc")], "");
    assert!(full.status.success(), "{}", stderr(&full));
    assert!(fs::read(out.join("bare.moec")).unwrap() == fs::read(out.join("full.moec")).unwrap());
    let named = start(out, &["doctor", "--no-measure"], &[("MOEC_CC", "moec-no-such-driver -m64")], "");
    assert_eq!(named.status.code(), Some(3));
    assert!(stderr(&named).contains("`moec-no-such-driver -m64`, which MOEC_CC names"), "{}", stderr(&named));
}

/// A file that is replaced keeps its permissions, and nothing is left beside it, whether or not it could be written.
#[cfg(unix)]
#[test]
fn files_that_are_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let compile = |to: &str| moec_in(folder.path(), &["compile", &example("tiny.toml"), "--emit", "graph", "-o", to]);
    product(&compile("out/new"));
    fs::write(out.join("plain"), "").unwrap();
    assert_eq!(mode(&out.join("new")), mode(&out.join("plain")), "as any other new file");
    for bits in [0o600, 0o640, 0o755] {
        let path = write(&out, "old", "old");
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        product(&compile("out/old"));
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (bits, fs::read(out.join("new")).unwrap()), "{bits:o}");
    }
    fs::create_dir(out.join("folder")).unwrap();
    assert_eq!(compile("out/folder").status.code(), Some(3));
    assert_eq!(command::names_in(&out), ["folder", "new", "old", "plain"]);
}

/// A symbolic link stays one: what it points to is written, in the link's own terms, whether or not it was there.
#[cfg(unix)]
#[test]
fn files_behind_links() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    ["links", "store"].into_iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    let compile = |to: &str| moec_in(folder.path(), &["compile", &example("tiny.toml"), "--emit", "graph", "-o", to]);
    product(&compile("plain"));
    let expected = fs::read(at("plain")).unwrap();
    fs::write(at("store/there"), "old").unwrap();
    symlink("../store/there", at("links/relative")).unwrap();
    symlink(at("links/relative"), at("links/twice")).unwrap();
    symlink("../store/dangling", at("links/dangling")).unwrap();
    symlink("links/dangling", at("here")).unwrap();
    for (link, file) in [("links/relative", "store/there"), ("links/twice", "store/there"), ("here", "store/dangling")] {
        product(&compile(link));
        assert_eq!(fs::read(at(file)).unwrap(), expected, "{link}");
        fs::write(at(file), "old").unwrap();
    }
    for link in ["links/relative", "links/twice", "links/dangling", "here"] {
        assert!(at(link).is_symlink(), "{link}");
    }
    assert_eq!(command::names_in(&at("links")), ["dangling", "relative", "twice"]);
    assert_eq!(command::names_in(&at("store")), ["dangling", "there"]);
    // Links that come to nothing are named.
    symlink("b", at("a")).unwrap();
    symlink("a", at("b")).unwrap();
    symlink("no/such/folder", at("nowhere")).unwrap();
    for name in ["a", "nowhere"] {
        let refused = compile(name);
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(&format!("cannot write `{name}`")), "{}", stderr(&refused));
        assert!(at(name).is_symlink());
    }
}
