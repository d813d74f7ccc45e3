//! Tensor names and checks of `moec import` against transformers 5.24: for each of its MoE configurations, a config with small
//! sizes, the names that its `conversion_mapping.py` reads from published files, and those of its modules (`published/blocks.json`,
//! written by `scripts/survey.py`); and for some of them a whole block under its published names, with its input and output.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command;
use crate::command::{folder, moec_in, product, stderr, stdout};
use moec::diagnostics::{Code, Diagnostic, Source};
use moec::hugging_face::{self, Block, Checked};
use moec_runtime::Checkpoint;
use serde_json::{Map, Value, json};

fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published")
}

/// `{"folder.Class": {"layer", "config", "published": {name: shape}, "modules": {name: shape}}}`; one tensor an expert is `{e}`.
fn blocks() -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(published().join("blocks.json")).unwrap()).unwrap()
}

fn import(block: &Value) -> Block {
    let source = Source { name: "config.json".into(), text: block["config"].to_string() };
    hugging_face::import(&source, block["layer"].as_u64()).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

/// A safetensors file of these tensors, `(name, type, shape)`, without data.
fn checkpoint(folder: &Path, name: &str, tensors: &[(String, &str, Vec<u64>)]) -> PathBuf {
    let mut end = 0;
    let mut header = Map::new();
    for (name, dtype, shape) in tensors {
        let bytes = shape.iter().product::<u64>()
            * match *dtype {
                "I64" => 8,
                "F32" => 4,
                "BF16" => 2,
                _ => 1,
            };
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    }
    let header = Value::from(header).to_string();
    let path = command::write(folder, name, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    path
}

/// The tensors of names with `{e}`, of which there are 8.
fn expanded(names: &Value) -> Vec<(String, &'static str, Vec<u64>)> {
    let shape = |value: &Value| value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
    let one = |(name, value): (&String, &Value)| {
        let count = if name.contains("{e}") { 8 } else { 1 };
        let dtype = if name.ends_with("tid2eid") { "I64" } else { "F32" };
        let value = shape(value);
        (0..count).map(move |expert| (name.replace("{e}", &expert.to_string()), dtype, value.clone())).collect::<Vec<_>>()
    };
    names.as_object().unwrap().iter().flat_map(one).collect()
}

fn check(block: &Block, path: &Path) -> Result<Checked, Vec<Diagnostic>> {
    hugging_face::check(block, &Checkpoint::open(path).unwrap(), None, &[])
}

/// The names in a spec, of each entry the first.
fn first_names(spec: &str) -> BTreeSet<String> {
    let spec: toml::Table = spec.parse().unwrap();
    let first = |value: &toml::Value| match value {
        toml::Value::Table(table) => table["name"].clone(),
        value => value.clone(),
    };
    let name = |value: toml::Value| match value {
        toml::Value::Array(names) => names[0].as_str().unwrap().to_string(),
        name => name.as_str().unwrap().to_string(),
    };
    spec["weights"].as_table().unwrap().values().map(first).map(name).collect()
}

#[test]
fn specs_have_the_published_names_first() {
    let blocks = blocks();
    assert!(blocks.len() >= 80, "{}", blocks.len());
    for (name, block) in &blocks {
        let spec = import(block).spec(None);
        assert!(spec.contains("Tensor names are the published ones"), "{name}: {spec}");
        // transformers writes the experts of these one by one, and their publisher's files have them fused, as its modules do.
        let is_fused = ["qwen3_5_moe.", "qwen4_exp."].iter().any(|model| name.starts_with(model));
        let published = &block[if is_fused { "modules" } else { "published" }];
        let expected: BTreeSet<String> = published.as_object().unwrap().keys().cloned().collect();
        assert_eq!(first_names(&spec), expected, "{name}");
    }
}

#[test]
fn files_with_published_names_and_with_those_of_modules_are_checked() {
    let folder = folder();
    for (name, block) in &blocks() {
        for names in ["published", "modules"] {
            let tensors = expanded(&block[names]);
            let path = checkpoint(folder.path(), "model.safetensors", &tensors);
            let checked = check(&import(block), &path).unwrap_or_else(|wrong| panic!("{name}, {names}: {wrong:?}"));
            assert_eq!((checked.tensors, checked.compared), (tensors.len(), tensors.len()), "{name}, {names}");
        }
    }
}

/// A block of each of these models under published names: imported, checked, run, and compared with what the block gave.
#[test]
fn published_blocks_run_from_files_with_published_names() {
    let folder = folder();
    let blocks = blocks();
    let names: Vec<String> = command::names_in(&published()).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert!(names.len() >= 20, "{names:?}");
    for file in names {
        let model = file.trim_end_matches(".safetensors");
        // The class of the whole file: the wrapper where there is one.
        let of_model = |(name, _): &(&String, &Value)| name.starts_with(&format!("{model}.")) && !name.contains("TextConfig");
        let (_, block) = blocks.iter().find(of_model).unwrap();
        command::write(folder.path(), "config.json", block["config"].to_string());
        let (layer, tensors) = (block["layer"].to_string(), published().join(&file));
        let tensors = tensors.to_str().unwrap();
        let spec = product(&moec_in(folder.path(), &["import", "config.json", "--layer", &layer, "--check", tensors]));
        command::write(folder.path(), "spec.toml", spec);
        let input = format!("{tensors}:in.hidden");
        let said = product(&moec_in(folder.path(), &["run", "spec.toml", "--weights", tensors, "--input", &input]));
        let error = said.lines().find(|line| line.starts_with("out.hidden ")).unwrap_or_else(|| panic!("{model}: {said}"));
        assert!(error.contains("(at most 2e-5)"), "{model}: {error}");
    }
}

/// A tensor's name, type and shape.
type Tensor = (String, &'static str, Vec<u64>);

/// Tensors of a Qwen3 block of 8 experts at layer 0.
fn qwen3() -> (Block, Vec<Tensor>) {
    let blocks = blocks();
    let block = &blocks["qwen3_moe.Qwen3MoeConfig"];
    (import(block), expanded(&block["published"]))
}

#[track_caller]
fn codes(found: Result<Checked, Vec<Diagnostic>>) -> Vec<Code> {
    found.unwrap_err().iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn types_that_are_not_loaded_are_mistakes() {
    let folder = folder();
    let (block, tensors) = qwen3();
    for dtype in ["F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"] {
        let mut tensors = tensors.clone();
        tensors.iter_mut().filter(|(name, ..)| name.contains("experts.")).for_each(|(_, of, _)| *of = dtype);
        let wrong = check(&block, &checkpoint(folder.path(), "a.safetensors", &tensors)).unwrap_err();
        // One for each of gate, up and down: their experts are wrong alike.
        assert_eq!(wrong.iter().map(|d| d.code).collect::<Vec<_>>(), [Code::TensorDType; 3], "{dtype}: {wrong:?}");
        assert!(wrong[0].message.contains("experts.0.gate_proj.weight`") && wrong[0].message.contains(dtype), "{wrong:?}");
    }
    let mut tensors = tensors;
    tensors[0].1 = "BF16";
    assert!(check(&block, &checkpoint(folder.path(), "a.safetensors", &tensors)).is_ok());
    tensors[0].1 = "I64";
    assert_eq!(codes(check(&block, &checkpoint(folder.path(), "a.safetensors", &tensors))), [Code::TensorDType]);
}

#[test]
fn tensors_of_the_layer_that_go_unused_are_mistakes() {
    let folder = folder();
    let (block, tensors) = qwen3();
    let with = |more: &[&str]| {
        let more = more.iter().map(|name| (format!("model.layers.0.{name}"), "F32", vec![4]));
        checkpoint(folder.path(), "a.safetensors", &[tensors.clone(), more.collect()].concat())
    };
    let part = [
        "mlp.shared_expert.gate_proj.weight",
        "mlp.shared_expert_gate.weight",
        "mlp.gate.bias",
        "mlp.gate.e_score_correction_bias",
        "mlp.experts.0.gate_proj.bias",
        "mlp.experts.0.gate_proj.weight_scale_inv",
        "mlp.experts.8.gate_proj.weight",
        "mlp.post_norm.weight",
        "mlp.foo",
        "mlp.mystery.weight",
        "moe.router_bias",
        "shared_mlp.input_linear.weight",
    ];
    for name in part {
        let wrong = check(&block, &with(&[name])).unwrap_err();
        assert_eq!(wrong.iter().map(|d| d.code).collect::<Vec<_>>(), [Code::TensorUnused], "{name}: {wrong:?}");
        // Allowed whole, and as the message spells it.
        let pattern = wrong[0].help.as_deref().unwrap().split('\'').nth(1).unwrap().to_string();
        for allowed in [format!("model.layers.0.{name}"), pattern] {
            let header = Checkpoint::open(with(&[name])).unwrap();
            let checked = hugging_face::check(&block, &header, None, std::slice::from_ref(&allowed)).unwrap();
            assert_eq!(checked.allowed, [format!("model.layers.0.{name}")], "{allowed}");
        }
    }
    // What stands at the layer and is no part of the block: attention and norms by their folder, the rest by name.
    let beside = ["self_attn.q_proj.weight", "self_attn.q_proj.bias", "input_layernorm.weight", "mlp.rotary.inv_freq", "foo.bar"];
    let checked = check(&block, &with(&beside)).unwrap();
    let folders: Vec<(&str, usize)> = checked.beside.iter().map(|(folder, count)| (folder.as_str(), *count)).collect();
    assert_eq!(folders, [("foo.bar", 1), ("input_layernorm", 1), ("mlp.rotary.inv_freq", 1), ("self_attn", 2)]);
    // Another layer's tensors are not this one's.
    assert!(
        check(
            &block,
            &checkpoint(
                folder.path(),
                "a.safetensors",
                &[
                    tensors.clone(),
                    vec![
                        ("model.layers.1.mlp.shared_expert.up_proj.weight".into(), "F32", vec![4]),
                        ("model.layers.10.mlp.gate.bias".into(), "F32", vec![4]),
                    ]
                ]
                .concat()
            )
        )
        .is_ok()
    );
}

#[test]
fn missing_experts_are_named_as_the_file_names_them() {
    let folder = folder();
    let (block, mut tensors) = qwen3();
    tensors.retain(|(name, ..)| !(name.contains("experts.5.gate") || name.contains("experts.7.gate")));
    let wrong = check(&block, &checkpoint(folder.path(), "a.safetensors", &tensors)).unwrap_err();
    assert_eq!(
        wrong[0].message,
        "the checkpoint has no tensor `model.layers.0.mlp.experts.5.gate_proj.weight`, nor 1 others like it: of 8 experts it has \
         0 to 4, 6"
    );
    // Names of the file's own way of storing, not of another one that the model has too.
    let blocks = blocks();
    let block = &blocks["step3p7.Step3p7Config"];
    let mut tensors = expanded(&block["modules"]);
    tensors.retain(|(name, ..)| !name.ends_with("experts.down_proj"));
    let wrong = check(&import(block), &checkpoint(folder.path(), "a.safetensors", &tensors)).unwrap_err();
    assert!(wrong[0].message.contains("mlp.experts.down_proj`"), "{wrong:?}");
}

#[test]
fn layouts_are_told_apart_by_shapes() {
    let folder = folder();
    let blocks = blocks();
    let block = import(&blocks["qwen3_vl_moe.Qwen3VLMoeConfig"]);
    for (names, layout) in [("published", true), ("modules", false)] {
        let path = checkpoint(folder.path(), "a.safetensors", &expanded(&blocks["qwen3_vl_moe.Qwen3VLMoeConfig"][names]));
        let spec = block.spec(Some(&check(&block, &path).unwrap()));
        assert_eq!(spec.contains("experts.gate_up_proj\", layout = \"T\""), layout, "{spec}");
    }
}

#[test]
fn shards_that_are_missing_are_named() {
    let folder = folder();
    let (_, tensors) = qwen3();
    let (ours, theirs) = tensors.split_at(5);
    checkpoint(folder.path(), "one.safetensors", ours);
    let map = |tensors: &[(String, &str, Vec<u64>)], file: &str| -> Map<String, Value> {
        tensors.iter().map(|(name, ..)| (name.clone(), json!(file))).collect()
    };
    let mut weight_map = map(ours, "one.safetensors");
    weight_map.extend(map(theirs, "two.safetensors"));
    // A byte order mark is skipped, as it is in a config and in a spec.
    let index = format!("\u{feff}{}", json!({"weight_map": weight_map}));
    command::write(folder.path(), "model.safetensors.index.json", index);
    let config = format!("\u{feff}{}", blocks()["qwen3_moe.Qwen3MoeConfig"]["config"]);
    command::write(folder.path(), "config.json", config);
    let arguments = ["import", "config.json", "--layer", "0", "--check", "model.safetensors.index.json"];
    let output = moec_in(folder.path(), &arguments);
    product(&output);
    assert!(stderr(&output).contains("5 of them of the right type and shape"), "{}", stderr(&output));
    assert!(stderr(&output).contains("`two.safetensors`, which is not beside the index"), "{}", stderr(&output));
    assert_ne!(moec_in(folder.path(), &[&arguments[..], &["--deny-warnings"]].concat()).status.code(), Some(0));
    // The folder stands for its index, and for the config in it.
    checkpoint(folder.path(), "two.safetensors", theirs);
    let output = moec_in(folder.path(), &["import", ".", "--layer", "0", "--check", "."]);
    product(&output);
    assert!(stderr(&output).contains("reading ./config.json") && stderr(&output).contains("all of the right type and shape"));
}

#[test]
fn what_is_no_config_is_called_by_its_name() {
    let folder = folder();
    fs::create_dir(folder.path().join("empty")).unwrap();
    checkpoint(folder.path(), "model.safetensors", &qwen3().1);
    for (name, start) in
        [("a.gguf", &b"GGUF\x03\0\0\0"[..]), ("a.moec", b"moec.pkg"), ("a.pt", b"PK\x03\x04"), ("a.bin", b"\x80\x02c")]
    {
        command::write(folder.path(), name, start);
    }
    for (argument, says) in [
        ("empty", "the folder `empty` has no config.json"),
        ("Qwen/Qwen3-30B-A3B", "hf download Qwen/Qwen3-30B-A3B config.json --local-dir Qwen3-30B-A3B"),
        ("missing/config.json", "cannot read `missing/config.json`"),
        ("a.gguf", "`a.gguf` is a GGUF file"),
        ("a.moec", "`a.moec` is a moec package"),
        ("a.pt", "`a.pt` is a zip archive"),
        ("a.bin", "`a.bin` is a Python pickle"),
        ("model.safetensors", "`model.safetensors` is a safetensors file"),
    ] {
        let output = moec_in(folder.path(), &["import", argument]);
        assert_ne!(output.status.code(), Some(0));
        assert!(stdout(&output).is_empty() && stderr(&output).contains(says), "{argument}: {}", stderr(&output));
    }
}

/// A path is bytes: one that is not UTF-8 is read as any other.
#[cfg(unix)]
#[test]
fn paths_that_are_not_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = folder();
    let inner = folder.path().join(OsStr::from_bytes(b"\xff\xfe"));
    fs::create_dir(&inner).unwrap();
    let (_, tensors) = qwen3();
    let file = checkpoint(&inner, "a.safetensors", &tensors);
    let map: Map<String, Value> = tensors.iter().map(|(name, ..)| (name.clone(), json!("a.safetensors"))).collect();
    let index = command::write(&inner, "a.safetensors.index.json", json!({"weight_map": map}).to_string());
    command::write(&inner, "config.json", blocks()["qwen3_moe.Qwen3MoeConfig"]["config"].to_string());
    for checkpoint in [&file, &index, &inner] {
        let mut moec = std::process::Command::new(env!("CARGO_BIN_EXE_moec"));
        let output = moec.arg("import").arg(&inner).args(["--layer", "0", "--check"]).arg(checkpoint).output().unwrap();
        assert!(product(&output).contains("experts = 8\n"), "{}", stderr(&output));
        assert!(stderr(&output).contains("all of the right type and shape"), "{}", stderr(&output));
    }
}
