//! `moec import` against what is known to be right: the specs that reproduce 55 published blocks, and the published values
//! of 23 models.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command;
use moec::diagnostics::{Code, Diagnostic, Source};
use moec::hugging_face::{self, Block, not_carried, preset, presets};
use moec::spec;
use moec_runtime::Checkpoint;
use proptest::prelude::*;
use serde_json::{Value, json};

fn data(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hugging_face").join(name)).unwrap()
}

/// The published blocks, by name.
fn blocks() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hugging_face");
    let mut names: Vec<String> =
        command::names_in(&folder).into_iter().filter_map(|name| name.strip_suffix(".config.json").map(str::to_string)).collect();
    names.sort();
    names
}

fn config(name: &str) -> Source {
    Source { name: format!("{name}.config.json"), text: data(&format!("{name}.config.json")) }
}

fn import(name: &str) -> Block {
    // Of the two layers of this config, the first looks experts up by token id.
    let layer = (name == "deepseek_v4_hash").then_some(0);
    hugging_face::import(&config(name), layer).unwrap()
}

fn from_json(value: &Value, layer: Option<u64>) -> Result<Block, Code> {
    from_mixed(value, layer, &json!({}))
}

/// The same, of a config with fields of several models: those of `mixed` that this one does not read are left out.
fn from_mixed(value: &Value, layer: Option<u64>, mixed: &Value) -> Result<Block, Code> {
    let source = Source { name: "config.json".into(), text: value.to_string() };
    let unread: Vec<String> = mixed.as_object().unwrap().keys().cloned().collect();
    hugging_face::import_allowing(&source, layer, &unread).map_err(|diagnostic| diagnostic.code)
}

/// Tables whose difference from the published block is meant, and why.
const DIFFERENCES: &[(&str, &str, &str)] =
    &[("granitemoeshared", "shared", "the fixture is the routed part alone: the shared MLP is a sibling of the block")];

/// What a spec says of the layer's meaning: no names, and no keys that repeat a default.
fn meaning(text: &str, name: &str) -> BTreeMap<String, toml::Table> {
    let default = |table: &str, key: &str, value: &toml::Value| match (table, key) {
        ("moe", "name") => true,
        ("moe", "routed_output_scale") | ("router", "scale") | ("expert", "output_scale") => value.as_float() == Some(1.0),
        ("router", "renorm_eps") => value.as_float() == Some(0.0),
        // The published block takes it from its table.
        ("router", "vocabulary") => true,
        // An absolute capacity is not rounded.
        ("capacity", "round") => true,
        (_, _) => false,
    };
    let text: toml::Table = text.parse().unwrap();
    let tables = text.into_iter().filter(|(table, _)| !["weights", "tokens", "numerics"].contains(&table.as_str()));
    let tables = tables.filter(|(table, _)| !DIFFERENCES.iter().any(|(block, part, _)| *block == name && part == table));
    tables
        .map(|(table, value)| {
            let keys = value.as_table().unwrap().clone().into_iter();
            let keys = keys.filter(|(key, value)| !default(&table, key, value)).collect();
            (table, keys)
        })
        .collect()
}

#[test]
fn published_blocks_give_the_specs_that_reproduce_them() {
    let names = blocks();
    assert_eq!(names.len(), 55);
    let mut compiled = 0;
    for name in &names {
        let (imported, expected) = (import(name).spec(None), data(&format!("{name}.toml")));
        assert_eq!(meaning(&imported, name), meaning(&expected, name), "{name}");
        let parsed = |text: &str| spec::parse(&Source { name: "spec.toml".into(), text: text.to_string() });
        match (parsed(&imported), parsed(&expected)) {
            (Ok(mut imported), Ok(mut expected)) => {
                assert_eq!(imported.router.vocabulary, (name == "deepseek_v4_hash").then_some(50), "{name}");
                for spec in [&mut imported, &mut expected] {
                    (spec.name, spec.weights, spec.router.vocabulary) = (String::new(), Vec::new(), None);
                    spec.numerics.dtype = spec::DType::F32;
                }
                if DIFFERENCES.iter().any(|(block, _, _)| block == name) {
                    imported.shared = None;
                }
                assert_eq!(imported, expected, "{name}");
                compiled += 1;
            }
            (Err(_), Err(_)) => {}
            (imported, expected) => panic!("{name}: {imported:?} and {expected:?}"),
        }
        let source = Source { name: "spec.toml".into(), text: imported };
        not_carried(&source).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:?}"));
    }
    assert!(compiled >= 55, "{compiled}");
}

/// A safetensors file of these tensors, `{name: [dtype, shape]}`, without data.
fn checkpoint(folder: &Path, name: &str, tensors: &Value) -> PathBuf {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, tensor) in tensors.as_object().unwrap() {
        let elements: u64 = tensor[1].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        let bytes = elements * if tensor[0] == "I64" { 8 } else { 4 };
        header.insert(name.clone(), json!({"dtype": tensor[0], "shape": tensor[1], "data_offsets": [end, end + bytes]}));
        end += bytes;
    }
    let header = Value::from(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let path = command::write(folder, name, &bytes);
    fs::File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64 + end).unwrap();
    path
}

#[test]
fn published_blocks_have_the_tensors_that_their_specs_name() {
    let folder = command::folder();
    let headers: Value = serde_json::from_str(&data("headers.json")).unwrap();
    for name in blocks() {
        let path = checkpoint(folder.path(), &format!("{name}.safetensors"), &headers[&name]);
        let header = Checkpoint::open(&path).unwrap();
        let block = import(&name);
        let checked = hugging_face::check(&block, &header, None, &[]);
        if DIFFERENCES.iter().any(|(block, _, _)| *block == name) {
            let absent = checked.unwrap_err();
            assert!(absent.iter().all(|d| d.code == Code::TensorMissing && d.message.contains("shared_mlp")), "{absent:?}");
            continue;
        }
        let checked = checked.unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
        assert_eq!((checked.prefix.as_str(), checked.compared), ("w.", checked.tensors), "{name}");
        assert_eq!(
            checked.tensors,
            headers[&name].as_object().unwrap().len(),
            "{name}: every tensor of the file is one of the spec's"
        );
        assert_eq!(hugging_face::check(&block, &header, Some("w."), &[]), Ok(checked), "{name}");
        assert!(hugging_face::check(&block, &header, Some("v."), &[]).is_err(), "{name}");
    }
}

/// The values of the published models, as `reference/semantics.md` lists them, by hand.
#[rustfmt::skip]
const PUBLISHED: &[Published] = &[
    //        name                      H     F      E    k   groups             score                      renorm           scale  shared         first MoE layer
    Published("mixtral-8x7b",           4096, 14336, 8,   2,  "",                "softmax score_topk",      "sum",           1.0,   "",            0),
    Published("mixtral-8x22b",          6144, 16384, 8,   2,  "",                "softmax score_topk",      "sum",           1.0,   "",            0),
    Published("qwen1.5-moe-a2.7b",      2048, 1408,  60,  4,  "",                "softmax score_topk",      "none",          1.0,   "5632 sigmoid", 0),
    Published("qwen3-30b-a3b",          2048, 768,   128, 8,  "",                "softmax score_topk",      "sum",           1.0,   "",            0),
    Published("qwen3-235b-a22b",        4096, 1536,  128, 8,  "",                "softmax score_topk",      "sum",           1.0,   "",            0),
    Published("qwen3-next-80b-a3b",     2048, 512,   512, 10, "",                "softmax score_topk",      "sum",           1.0,   "512 sigmoid", 0),
    Published("olmoe-1b-7b",            2048, 1024,  64,  8,  "",                "softmax score_topk",      "none",          1.0,   "",            0),
    Published("deepseek-v2-lite",       2048, 1408,  64,  6,  "",                "softmax score_topk",      "none",          1.0,   "2816",        1),
    Published("deepseek-v2",            5120, 1536,  160, 6,  "8/3 max zero",    "softmax score_topk",      "none",          16.0,  "3072",        1),
    Published("deepseek-v3",            7168, 2048,  256, 8,  "8/4 top2_sum -inf", "sigmoid score_topk bias", "sum 1e-20",   2.5,   "2048",        3),
    Published("kimi-k2",                7168, 2048,  384, 8,  "",                "sigmoid score_topk bias", "sum 1e-20",     2.827, "2048",        1),
    Published("glm-4.5",                5120, 1536,  160, 8,  "",                "sigmoid score_topk bias", "sum 1e-20",     2.5,   "1536",        3),
    Published("glm-4.5-air",            4096, 1408,  128, 8,  "",                "sigmoid score_topk bias", "sum 1e-20",     1.0,   "1408",        1),
    Published("gpt-oss-120b",           2880, 2880,  128, 4,  "",                "softmax topk_score",      "none",          1.0,   "",            0),
    Published("gpt-oss-20b",            2880, 2880,  32,  4,  "",                "softmax topk_score",      "none",          1.0,   "",            0),
    Published("llama4-scout",           5120, 8192,  16,  1,  "",                "sigmoid topk_score",      "none",          1.0,   "8192",        0),
    Published("llama4-maverick",        5120, 8192,  128, 1,  "",                "sigmoid topk_score",      "none",          1.0,   "8192",        1),
    Published("dbrx",                   6144, 10752, 16,  4,  "",                "softmax score_topk",      "p 1",           1.0,   "",            0),
    Published("granite-3.1-3b-a800m",   1536, 512,   40,  8,  "",                "softmax topk_score",      "none",          1.0,   "",            0),
    Published("phi-3.5-moe",            4096, 6400,  16,  2,  "",                "softmax score_topk",      "none",          1.0,   "",            0),
    Published("ernie-4.5-21b-a3b",      2560, 1536,  64,  6,  "",                "softmax score_topk bias", "sum 1e-12 clamp", 1.0, "3072",        1),
    Published("jamba-v0.1",             4096, 14336, 16,  2,  "",                "softmax score_topk",      "none",          1.0,   "",            1),
    Published("switch-base-8",          768,  3072,  8,   1,  "",                "softmax score_topk",      "none",          1.0,   "",            1),
];

struct Published(&'static str, u64, u64, u64, u64, &'static str, &'static str, &'static str, f64, &'static str, u64);

/// Keys of a table, with a blank between them.
fn words(text: &toml::Table, table: &str, keys: &[&str]) -> String {
    let value = |key: &&str| match text.get(table)?.get(key)? {
        toml::Value::String(text) if key.starts_with("correction") => (text == "score").then(|| "bias".to_string()),
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Float(number) if number.fract() == 0.0 => Some(format!("{number}")),
        toml::Value::Float(number) => Some(format!("{number:e}")),
        other => Some(other.to_string()),
    };
    keys.iter().filter_map(value).collect::<Vec<_>>().join(" ")
}

#[test]
fn presets_are_the_published_models() {
    let mut names: Vec<&str> = PUBLISHED.iter().map(|row| row.0).collect();
    names.sort_unstable();
    assert_eq!(presets().collect::<Vec<_>>(), names);
    for &Published(name, hidden, intermediate, experts, top_k, groups, score, renorm, scale, shared, first) in PUBLISHED {
        let text: toml::Table = preset(name, None).unwrap().spec(None).parse().unwrap();
        let integer = |table: &str, key: &str| text[table][key].as_integer().unwrap() as u64;
        assert_eq!(
            [integer("moe", "hidden"), integer("expert", "intermediate"), integer("moe", "experts"), integer("router", "top_k")],
            [hidden, intermediate, experts, top_k],
            "{name}"
        );
        let given = words(&text, "router", &["groups", "topk_groups", "group_score", "group_mask"]);
        assert_eq!(given.replacen(' ', "/", 1), groups, "{name}");
        assert_eq!(words(&text, "router", &["score", "order", "correction_on"]), score, "{name}");
        assert_eq!(words(&text, "router", &["renorm", "renorm_p", "renorm_eps", "renorm_eps_mode"]), renorm, "{name}");
        assert_eq!(text["router"].get("scale").map_or(1.0, |scale| scale.as_float().unwrap()), scale, "{name}");
        assert_eq!(words(&text, "shared", &["intermediate", "gate"]), shared, "{name}");
        for layer in 0..first {
            assert_eq!(preset(name, Some(layer)).err().unwrap().diagnostics[0].code, Code::DenseLayer, "{name} {layer}");
        }
        preset(name, Some(first)).unwrap();
    }
}

#[test]
fn what_only_one_preset_says() {
    let text = |name: &str| preset(name, None).unwrap().spec(None).parse::<toml::Table>().unwrap();
    let gpt = text("gpt-oss-20b");
    assert_eq!(words(&gpt, "expert", &["alpha", "clamp_limit", "clamp_where", "up_offset", "bias"]), "1.702e0 7 pre 1 true");
    assert_eq!(gpt["router"]["bias"].as_bool(), Some(true));
    assert_eq!(gpt["weights"]["gate_up"]["layout"].as_str(), Some("T interleave"));
    assert_eq!(words(&text("phi-3.5-moe"), "router", &["select", "jitter"]), "sparsemixer 1e-2");
    assert_eq!(words(&text("llama4-scout"), "router", &["apply"]), "input");
    assert_eq!(words(&text("switch-base-8"), "capacity", &["tokens", "group"]), "64 sequence");
    assert_eq!(text("dbrx")["weights"]["down"]["experts"].as_integer(), Some(16));
}

#[test]
fn dense_layers_are_refused_with_the_reason() {
    let base =
        json!({"model_type": "qwen3_moe", "hidden_size": 8, "moe_intermediate_size": 8, "num_experts": 4, "hidden_act": "silu"});
    let of = |model_type: &str, fields: Value| {
        let mut config = base.clone();
        config["model_type"] = json!(model_type);
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    let ernie = json!({"intermediate_size": 8, "moe_k": 2, "moe_layer_start_index": 1, "moe_layer_end_index": 3, "moe_layer_interval": 2});
    let switch = json!({"d_model": 8, "d_ff": 8, "encoder_sparse_step": 2});
    let jamba = json!({"intermediate_size": 8, "expert_layer_period": 2, "expert_layer_offset": 1});
    let llama = json!({"intermediate_size": 8, "interleave_moe_layer_step": 2});
    let mimo = json!({"moe_layer_freq": [0, 1, 0, 1, 1, 1, 1, 1], "num_experts_per_tok": 2});
    let lfm2 = json!({"num_dense_layers": 2, "num_experts_per_tok": 2});
    let hybrid = json!({"hybrid_override_pattern": "ME*E", "mlp_hidden_act": "relu2", "num_experts_per_tok": 2});
    let nllb = json!({"encoder_ffn_dim": 8, "encoder_sparse_step": 4});
    let cases = [
        (of("qwen3_moe", json!({"decoder_sparse_step": 2, "mlp_only_layers": [3]})), vec![1, 5, 7]),
        (of("deepseek_v3", json!({"first_k_dense_replace": 3, "num_experts_per_tok": 2})), vec![3, 4, 5, 6, 7]),
        (of("deepseek_v3", json!({"first_k_dense_replace": 1, "moe_layer_freq": 2, "num_experts_per_tok": 2})), vec![2, 4, 6]),
        (
            of("deepseek_v3", json!({"mlp_layer_types": ["dense", "sparse"], "num_hidden_layers": 2, "num_experts_per_tok": 2})),
            vec![1],
        ),
        (of("mimo_v2_flash", mimo), vec![1, 3, 4, 5, 6, 7]),
        (of("ernie4_5_moe", ernie), vec![1, 3]),
        (of("switch_transformers", switch), vec![1, 3, 5, 7]),
        (of("nllb-moe", nllb), vec![3, 7]),
        (of("jamba", jamba), vec![1, 3, 5, 7]),
        (of("llama4", llama), vec![1, 3, 5, 7]),
        (of("llama4", json!({"intermediate_size": 8, "moe_layers": [2, 6]})), vec![2, 6]),
        (of("lfm2_moe", lfm2), vec![2, 3, 4, 5, 6, 7]),
        (of("nemotron_h", hybrid), vec![1, 3]),
    ];
    for (mut config, layers) in cases {
        if config.get("num_hidden_layers").is_none() && config.get("hybrid_override_pattern").is_none() {
            config["num_hidden_layers"] = json!(8);
        }
        let count = config["num_hidden_layers"].as_u64().unwrap_or(4);
        let found: Vec<u64> = (0..count)
            .filter(|layer| match from_mixed(&config, Some(*layer), &base) {
                Ok(_) => true,
                Err(Code::DenseLayer) => false,
                Err(code) => panic!("{code:?} of layer {layer} of {config}"),
            })
            .collect();
        assert_eq!(found, layers, "{config}");
        assert_eq!(from_json(&config, Some(count)).err(), Some(Code::OutOfRange), "{config}");
        assert_eq!(from_json(&config, Some(u64::MAX)).err(), Some(Code::OutOfRange), "{config}");
    }
}

#[test]
fn every_model_type_is_imported() {
    for model_type in hugging_face::model_types() {
        let config = json!({
            "model_type": "a wrapper of it", "num_hidden_layers": 4,
            "text_config": {
                "model_type": format!("{model_type}_text"), "hidden_size": 64, "num_experts": 16, "num_experts_per_tok": 4,
                "moe_intermediate_size": 32, "intermediate_size": 32, "d_ff": 32, "encoder_ffn_dim": 32,
                "expert_ffn_hidden_size": 32, "hidden_act": "silu", "n_shared_experts": 1, "shared_intermediate_size": 32,
                "moe_shared_expert_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_group": 4, "topk_group": 2,
                "ffn_config": {"ffn_hidden_size": 32}, "hybrid_override_pattern": "EEEE",
            },
        });
        let mixed = &config["text_config"];
        let block = from_mixed(&config, None, mixed).unwrap_or_else(|code| panic!("{model_type}: {code:?}"));
        let source = Source { name: "spec.toml".into(), text: block.spec(None) };
        not_carried(&source).unwrap_or_else(|mistakes| panic!("{model_type}: {mistakes:?}"));
        // No layer is left out without a reason.
        if let Err(code) = from_mixed(&config, Some(3), mixed) {
            panic!("{model_type}: {code:?}");
        }
    }
}

#[test]
fn lists_with_one_entry_a_layer() {
    let config = json!({
        "model_type": "hunyuan_v1_moe", "hidden_size": 8, "num_experts": 4, "moe_topk": [1, 2], "num_hidden_layers": 2,
        "moe_intermediate_size": [8, 8], "num_shared_expert": [1, 1], "hidden_act": "silu",
    });
    assert_eq!(from_json(&config, None).err(), Some(Code::LayerNeeded));
    for layer in 0..2 {
        let text: toml::Table = from_json(&config, Some(layer)).unwrap().spec(None).parse().unwrap();
        assert_eq!(text["router"]["top_k"].as_integer(), Some(layer as i64 + 1));
        assert_eq!(text["weights"]["router"].as_str(), Some(&*format!("model.layers.{layer}.mlp.gate.wg.weight")));
    }
}

#[test]
fn numbers_of_either_kind_and_nulls() {
    let mut config: Value = serde_json::from_str(&data("deepseek_v3.config.json")).unwrap();
    config["n_group"] = Value::Null;
    config["num_experts_per_tok"] = json!(4.0);
    config["routed_scaling_factor"] = json!(2);
    let text: toml::Table = from_json(&config, None).unwrap().spec(None).parse().unwrap();
    assert_eq!(words(&text, "router", &["top_k", "groups", "scale"]), "4 2");
    for (field, value, code) in [
        ("hidden_size", json!("32"), Code::WrongType),
        ("hidden_size", json!(-1), Code::OutOfRange),
        ("hidden_size", json!(1.5), Code::OutOfRange),
        ("hidden_size", json!(0), Code::OutOfRange),
        ("hidden_size", Value::Null, Code::FieldMissing),
        ("n_routed_experts", json!(1e300), Code::OutOfRange),
        ("n_routed_experts", json!(100_000), Code::OutOfRange),
        ("num_experts_per_tok", json!([]), Code::WrongType),
        ("num_experts_per_tok", json!([1, 2]), Code::LayerNeeded),
        ("norm_topk_prob", json!(1), Code::WrongType),
        ("hidden_act", json!("mish"), Code::UnknownWord),
        ("scoring_func", json!("entmax"), Code::UnknownWord),
        ("topk_method", json!("greed"), Code::UnreadField),
        ("num_hidden_layers", json!(1_000_000_000), Code::OutOfRange),
        ("model_type", json!("deepseek_v9"), Code::UnknownModelType),
        ("model_type", json!("doge"), Code::NotExpressible),
        ("model_type", Value::Null, Code::FieldMissing),
        ("mlp_bias", json!(true), Code::NotExpressible),
    ] {
        let mut config = config.clone();
        config[field] = value.clone();
        assert_eq!(from_json(&config, None).err(), Some(code), "{field} = {value}");
    }
}

#[test]
fn a_checkpoint_of_many_layers_in_many_files() {
    let folder = command::folder();
    let block = |layer| preset("mixtral-8x7b", layer).unwrap();
    let mut files = [json!({}), json!({})];
    for (layer, tensors) in files.iter_mut().enumerate() {
        let name = |rest: &str| format!("model.layers.{layer}.block_sparse_moe.{rest}");
        tensors[name("gate.weight")] = json!(["F32", [8, 4096]]);
        for expert in 0..8 {
            for (part, shape) in [("w1", [14336, 4096]), ("w3", [14336, 4096]), ("w2", [4096, 14336])] {
                tensors[name(&format!("experts.{expert}.{part}.weight"))] = json!(["F32", shape]);
            }
        }
    }
    let mut map = serde_json::Map::new();
    for (at, tensors) in files.iter().enumerate() {
        tensors.as_object().unwrap().keys().for_each(|name| drop(map.insert(name.clone(), json!(format!("{at}.safetensors")))));
    }
    let index = command::write(folder.path(), "model.safetensors.index.json", json!({"weight_map": map}).to_string());
    let header = Checkpoint::open(&index).unwrap();

    let checked = hugging_face::check(&block(Some(1)), &header, None, &[]).unwrap();
    assert_eq!((checked.prefix.as_str(), checked.tensors, checked.compared), ("model.layers.1.block_sparse_moe.", 25, 0));
    checkpoint(folder.path(), "1.safetensors", &files[1]);
    let header = Checkpoint::open(&index).unwrap();
    assert_eq!(hugging_face::check(&block(Some(1)), &header, None, &[]).unwrap().compared, 25);
    assert_eq!(
        hugging_face::check(&block(None), &header, None, &[]).unwrap().compared,
        0,
        "the first MoE layer's file is not there"
    );

    // Two experts swapped for others, a name misspelt, and a file that is not the one that the index names.
    files[1]["model.layers.1.block_sparse_moe.experts.3.w2.weight"] = json!(["F32", [14336, 4096]]);
    fs::remove_file(folder.path().join("1.safetensors")).unwrap();
    checkpoint(folder.path(), "1.safetensors", &files[1]);
    let header = Checkpoint::open(&index).unwrap();
    let wrong = hugging_face::check(&block(Some(1)), &header, None, &[]).unwrap_err();
    assert_eq!(wrong.iter().map(|d| d.code).collect::<Vec<_>>(), [Code::TensorShape], "{wrong:?}");
    assert!(wrong[0].message.contains("experts.3.w2.weight") && wrong[0].message.contains("not [4096, 14336]"), "{wrong:?}");
    let alone = checkpoint(folder.path(), "alone.safetensors", &files[0]);
    let alone = Checkpoint::open(&alone).unwrap();
    assert!(hugging_face::check(&block(None), &alone, None, &[]).is_ok());
    assert!(hugging_face::check(&block(Some(1)), &alone, None, &[]).is_err(), "it is layer 0");
    let mut renamed = files[0].clone();
    let moved = renamed.as_object_mut().unwrap().remove("model.layers.0.block_sparse_moe.experts.7.w1.weight").unwrap();
    renamed["model.layers.0.block_sparse_moe.experts.7.w1.wieght"] = moved;
    let renamed = Checkpoint::open(checkpoint(folder.path(), "renamed.safetensors", &renamed)).unwrap();
    let wrong = hugging_face::check(&block(Some(0)), &renamed, None, &[]).unwrap_err();
    assert_eq!(wrong[0].help.as_deref(), Some("did you mean `model.layers.0.block_sparse_moe.experts.7.w1.wieght`?"));
}

#[test]
fn what_is_no_checkpoint() {
    let folder = command::folder();
    let cases: [(&str, &[u8]); 8] = [
        ("empty.safetensors", b""),
        ("short.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("long.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}"),
        ("text.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("more.safetensors", b"\x02\0\0\0\0\0\0\0{}more"),
        ("offsets.safetensors", b"\x3b\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[9],\"data_offsets\":[0,8]}}   "),
        ("none.index.json", b"{}"),
        ("list.index.json", b"[1]"),
    ];
    for (name, bytes) in cases {
        let path = command::write(folder.path(), name, bytes);
        let error = Checkpoint::open(&path).err().map(|error| Diagnostic::from(error).code);
        assert_eq!(error, Some(Code::BadCheckpoint), "{name}");
    }
    // A name that leaves the folder is not followed.
    checkpoint(folder.path(), "outside.safetensors", &json!({}));
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let map = json!({"weight_map": {"gate.weight": "../outside.safetensors"}});
    let outside = Checkpoint::open(command::write(&inner, "a.index.json", map.to_string())).unwrap_err().to_string();
    assert!(outside.contains("no file of its folder"), "{outside}");
}

/// Any JSON, biased to what configs hold.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..300i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop_oneof!["softmax", "noaux_tc", "group_limited_greedy", "dense", "moe", "hash_moe"].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,12}", inner, 0..4).prop_map(|map| Value::from(serde_json::Map::from_iter(map))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A config with any field replaced by anything is a spec or a diagnostic inside its text, never a panic.
    #[test]
    fn hostile_configs(
        block in prop::sample::select(blocks()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
        layer in prop::option::of(prop_oneof![0..64u64, any::<u64>()]),
    ) {
        // Infinity, which Python writes, is not what serde_json reads.
        let text = config(&block).text.replace("Infinity", "1");
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let fields: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        for (field, change) in changes {
            value[field.get(&fields)] = change;
        }
        let source = Source { name: "config.json".into(), text: value.to_string() };
        match hugging_face::import(&source, layer) {
            Ok(imported) => {
                let spec = Source { name: "spec.toml".into(), text: imported.spec(None) };
                let _ = not_carried(&spec);
                prop_assert!(spec.text.parse::<toml::Table>().is_ok(), "{}", spec.text);
            }
            Err(diagnostic) => {
                let inside = |span: &std::ops::Range<usize>| source.text.get(span.clone()).is_some();
                prop_assert!(diagnostic.labels.iter().all(|label| inside(&label.span)), "{diagnostic:?}");
            }
        }
    }

    #[test]
    fn hostile_headers(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "\\PC{0,64}", name in "[a-b]\\.(safetensors|index\\.json)") {
        let folder = command::folder();
        let sized = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        for bytes in [bytes, sized, text.into_bytes()] {
            let _ = Checkpoint::open(command::write(folder.path(), &name, bytes));
        }
    }

    #[test]
    fn hostile_texts(text in "\\PC{0,200}") {
        let _ = hugging_face::import(&Source { name: "config.json".into(), text: text.clone() }, None);
        let text = format!("{{\"model_type\": \"mixtral\", {text}");
        let _ = hugging_face::import(&Source { name: "config.json".into(), text }, None);
    }
}
