//! Every field of a config is accounted for: from the config of each published block, one field at a time is dropped,
//! renamed, nulled, changed or added, and never does another layer come out without a word.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::command;
use moec::diagnostics::{Code, Diagnostic, Source};
use moec::hugging_face::{self, Block};
use serde_json::{Value, json};

/// The configs of published blocks, one of each type, and the layer that the block is of.
fn configs() -> Vec<(String, Value, Option<u64>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hugging_face");
    let mut names = command::names_in(&folder);
    names.sort();
    let names = names.into_iter().filter_map(|name| name.strip_suffix(".config.json").map(str::to_string));
    let read = |name: &str| fs::read_to_string(folder.join(format!("{name}.config.json"))).unwrap();
    let parsed = |name: &str| serde_json::from_str(&read(name).replace("Infinity", "1e300").replace("NaN", "0.0")).unwrap();
    let mut types = BTreeSet::new();
    let configs = names.map(|name| (name.clone(), parsed(&name), (name == "deepseek_v4_hash").then_some(0)));
    let mut is_first = |config: &Value, layer| types.insert((config["model_type"].to_string(), layer));
    configs.filter(|(_, config, layer)| is_first(config, *layer)).collect()
}

fn import(config: &Value, layer: Option<u64>) -> Result<Block, Diagnostic> {
    hugging_face::import(&Source { name: "config.json".into(), text: config.to_string() }, layer)
}

/// The spec without its comments, and all that is said beside it.
fn said(block: &Block) -> (String, String) {
    let spec = block.spec(None).lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let unread = block.unread();
    (spec, [block.assumed(), &unread.allowed, &unread.others].concat().join("\n"))
}

/// The tables that fields of the layer stand in, as JSON pointers.
fn tables(config: &Value) -> Vec<&'static str> {
    ["", "/text_config", "/ffn_config", "/text_config/ffn_config"]
        .into_iter()
        .filter(|table| config.pointer(table).is_some_and(Value::is_object))
        .collect()
}

fn table<'a>(config: &'a mut Value, at: &str) -> &'a mut serde_json::Map<String, Value> {
    config.pointer_mut(at).unwrap().as_object_mut().unwrap()
}

/// What is wrong with a changed config, where its import gives another layer and does not name the field.
fn silent(original: &str, changed: &Value, layer: Option<u64>, names: &[&str]) -> Option<String> {
    let (spec, notes) = said(&import(changed, layer).ok()?);
    let is_named = names.iter().any(|name| notes.contains(name));
    (spec != original && !is_named).then(|| format!("another layer, and of {names:?} no word"))
}

#[test]
fn dropped_renamed_and_nulled_fields_are_spoken_of() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for (name, config, layer) in configs() {
        let (original, _) = said(&import(&config, layer).unwrap_or_else(|error| panic!("{name}: {error:?}")));
        for at in tables(&config) {
            let fields: Vec<String> = config.pointer(at).unwrap().as_object().unwrap().keys().cloned().collect();
            // Without these the name or the type of the numbers is another one, which the spec itself says.
            for field in fields.iter().filter(|field| !["_name_or_path", "model_type"].contains(&field.as_str())) {
                let mut dropped = config.clone();
                table(&mut dropped, at).remove(field);
                let mut nulled = config.clone();
                table(&mut nulled, at).insert(field.clone(), Value::Null);
                let renamed = [format!("{field}s"), field[..field.len() - 1].to_string(), format!("old_{field}")];
                let renamed = renamed.iter().filter(|other| config.pointer(at).unwrap().get(other).is_none()).map(|other| {
                    let mut renamed = config.clone();
                    let value = table(&mut renamed, at).remove(field).unwrap();
                    table(&mut renamed, at).insert(other.clone(), value);
                    (renamed, vec![field.as_str(), other.as_str()])
                });
                let spoken = match field.as_str() {
                    // Of either it is said that weights are taken in bf16.
                    "dtype" | "torch_dtype" => "bf16",
                    field => field,
                };
                let changed = [(dropped, vec![spoken]), (nulled, vec![spoken])].into_iter().chain(renamed);
                for (changed, mut names) in changed {
                    names.push(spoken);
                    wrong.extend(silent(&original, &changed, layer, &names).map(|why| format!("{name}: {at}/{field}: {why}")));
                    tried += 1;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 5000, "{tried}");
}

/// Fields whose name concerns the layer and that change nothing in what it computes when it serves, by hand.
#[rustfmt::skip]
const WITHOUT_EFFECT: &[&str] = &[
    // Losses and noise of training.
    "router_aux_loss_coef", "aux_loss_coef", "router_z_loss_coef", "router_jitter_noise", "input_jitter_noise",
    "moe_jitter_eps", "moe_loss_weight", "output_router_logits", "add_router_probs", "router_ignore_padding_tokens",
    // Precision, kernels, and how the decoder layer around the MoE layer is made.
    "router_dtype", "moe_shared_expert_overlap", "enable_moe_fp32_combine", "intermediate_size_mlp",
    "dense_intermediate_size", "scale_embedding", "logits_scaling", "embedding_multiplier", "attention_multiplier",
    "residual_multiplier", "hidden_activation_", "attention_value_scale", "logits_mup_width_multiplier",
    "rms_norm_eps_moe_gate", "prefix_dense_intermediate_size",
    // Which layers are MoE layers: the layer that is imported stays the same.
    "decoder_sparse_step", "encoder_sparse_step", "num_sparse_encoder_layers", "num_sparse_decoder_layers",
    "mlp_only_layers", "first_k_dense_replace", "num_dense_layers", "interleave_moe_layer_step", "moe_layers",
    "mlp_layer_types", "expert_layer_period", "expert_layer_offset", "moe_layer_freq", "moe_layer_start_index",
    "moe_layer_end_index", "moe_layer_interval",
    // A capacity for all tokens at once is there: the other is not read.
    "expert_capacity",
    // Of generation, and of how a library runs the model.
    "_experts_implementation", "output_scores", "top_k",
    // Of the attention's own selection.
    "index_topk", "mamba_hidden_act", "n_groups", "index_topk_blocks",
];

/// Whether a name is of the layer, by this test's own words.
fn is_of_layer(field: &str) -> bool {
    const PARTS: [&str; 14] = [
        "expert",
        "moe",
        "rout",
        "topk",
        "top_k",
        "n_group",
        "scor",
        "swiglu",
        "mlp_gate",
        "mlp_up",
        "hidden_act",
        "capacity",
        "zero_",
        "latent",
    ];
    PARTS.iter().any(|part| field.contains(part)) && !WITHOUT_EFFECT.contains(&field)
}

/// Another value of the same type.
fn another(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(on) => Some(json!(!on)),
        Value::Number(number) => match number.as_u64() {
            Some(0) => Some(json!(2)),
            Some(number) => Some(json!(number * 2)),
            None => number.as_f64().map(|number| json!(number * 0.5 + 0.25)),
        },
        Value::String(word) => Some(json!(if word == "relu" { "gelu" } else { "relu" })),
        Value::Array(values) => values.iter().map(another).collect::<Option<Vec<_>>>().map(Value::from),
        Value::Null | Value::Object(_) => None,
    }
}

#[test]
fn a_field_of_the_layer_with_another_value_gives_another_layer_or_a_word() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for (name, config, layer) in configs() {
        let (original, before) = said(&import(&config, layer).unwrap());
        for at in tables(&config) {
            for (field, value) in config.pointer(at).unwrap().as_object().unwrap() {
                let Some(other) = another(value).filter(|_| is_of_layer(field)) else { continue };
                let mut changed = config.clone();
                table(&mut changed, at).insert(field.clone(), other.clone());
                tried += 1;
                let Ok(block) = import(&changed, layer) else { continue };
                let (spec, after) = said(&block);
                let spoken = after != before && after.contains(field.as_str());
                if spec == original && !spoken {
                    wrong.push(format!("{name}: {at}/{field} = {other} instead of {value} changes nothing"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 200, "{tried}");
}

#[test]
fn a_foreign_field_of_the_layer_is_never_passed_over() {
    let foreign = [
        ("n_group", json!(4)),
        ("topk_group", json!(3)),
        ("routed_scaling_factor", json!(3.25)),
        ("route_scale", json!(3.25)),
        ("scoring_func", json!("identity")),
        ("moe_router_activation_func", json!("identity")),
        ("n_shared_experts", json!(7)),
        ("shared_expert_intermediate_size", json!(17)),
        ("num_experts", json!(17)),
        ("n_routed_experts", json!(17)),
        ("num_experts_per_tok", json!(11)),
        ("moe_topk", json!(11)),
        ("moe_intermediate_size", json!(17)),
        ("swiglu_limit", json!(5.5)),
        ("swiglu_alpha", json!(2.5)),
        ("moe_router_logit_softcapping", json!(20.0)),
        ("moe_latent_size", json!(8)),
        ("zero_expert_num", json!(3)),
        ("expert_capacity", json!(3)),
        ("moe_apply_router_weight_on_input", json!("yes")),
        ("expert_output_norm", json!(true)),
        ("router_input_multiplier", json!(2.0)),
        ("gate_temperature", json!(0.5)),
        ("expert_dropout_threshold", json!(0.5)),
        ("topk_method", json!("best")),
        ("first_k_dense_replace", json!(1)),
    ];
    for (name, config, layer) in configs() {
        let (original, before) = said(&import(&config, layer).unwrap());
        for at in tables(&config) {
            for (field, value) in foreign.iter().filter(|(field, _)| config.pointer(at).unwrap().get(field).is_none()) {
                let mut added = config.clone();
                table(&mut added, at).insert((*field).to_string(), value.clone());
                let Ok(block) = import(&added, layer) else { continue };
                let (spec, after) = said(&block);
                let spoken = after != before && after.contains(field);
                // Where the row reads the field, the spec follows it, or the layers do.
                let is_read = before.contains(&format!("{field} =")) || *field == "first_k_dense_replace";
                assert!(spoken || is_read, "{name}: {at}/{field} = {value} is passed over:\n{after}\n{original}---\n{spec}");
            }
            // One of the two must disagree with the layer.
            for flag in ["norm_topk_prob", "use_expert_bias", "router_bias", "use_routing_bias", "mlp_bias"] {
                if config.pointer(at).unwrap().get(flag).is_some() {
                    continue;
                }
                let passed_over = [true, false].into_iter().all(|on| {
                    let mut added = config.clone();
                    table(&mut added, at).insert(flag.to_string(), json!(on));
                    import(&added, layer).is_ok_and(|block| said(&block) == (original.clone(), before.clone()))
                });
                assert!(!passed_over, "{name}: {at}/{flag} is passed over");
            }
        }
    }
}

/// The spec's keys of a config.
fn spec(config: &Value) -> toml::Table {
    import(config, None).unwrap_or_else(|error| panic!("{config}: {error:?}")).spec(None).parse().unwrap()
}

fn base(model_type: &str, fields: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "num_hidden_layers": 8, "hidden_size": 32, "hidden_act": "silu", "dtype": "float32",
    });
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    config
}

/// Two generations write `bailing_moe`; the fields of the second, or the class, tell them apart.
#[test]
fn two_generations_under_one_model_type() {
    let sizes = json!({
        "moe_intermediate_size": 24, "num_experts": 16, "num_experts_per_tok": 4, "num_shared_experts": 2, "norm_topk_prob": true,
        "first_k_dense_replace": 0, "norm_head": false, "norm_softmax": false, "use_bias": false, "use_qkv_bias": false,
    });
    let with = |fields: Value| {
        let mut config = base("bailing_moe", sizes.clone());
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    let first = with(json!({"architectures": ["BailingMoeForCausalLM"]}));
    for config in [&first, &base("bailing_moe", sizes.clone())] {
        let router = &spec(config)["router"];
        assert_eq!(router["score"].as_str(), Some("softmax"));
        assert_eq!(router["renorm"].as_str(), Some("sum"));
        assert!(router.get("correction_on").is_none() && router.get("scale").is_none() && router.get("renorm_eps").is_none());
    }
    assert_eq!(spec(&first)["shared"]["intermediate"].as_integer(), Some(48));
    let (_, notes) = said(&import(&base("bailing_moe", sizes.clone()), None).unwrap());
    assert!(notes.contains("first generation"), "{notes}");

    let fields = json!({
        "score_function": "sigmoid", "moe_router_enable_expert_bias": true, "routed_scaling_factor": 2.5, "n_group": 8,
        "topk_group": 4,
    });
    for classes in [json!({}), json!({"architectures": ["BailingMoeV2ForCausalLM"]}), json!({"architectures": null})] {
        let mut config = with(fields.clone());
        config.as_object_mut().unwrap().extend(classes.as_object().unwrap().clone());
        let router = &spec(&config)["router"];
        assert_eq!(router["score"].as_str(), Some("sigmoid"));
        assert_eq!(router["correction_on"].as_str(), Some("score"));
        assert_eq!(router["scale"].as_float(), Some(2.5));
        assert_eq!((router["groups"].as_integer(), router["topk_groups"].as_integer()), (Some(8), Some(4)));
    }
    let error =
        import(&with(json!({"architectures": ["BailingMoeForCausalLM"], "routed_scaling_factor": 2.5})), None).err().unwrap();
    assert_eq!(error.code, Code::UnreadField);
}

/// Switches for the bias, the score and the renormalisation, and the width of the shared experts, are followed or refused.
#[test]
fn switches_are_followed() {
    let m2 = |fields: Value| {
        let mut config = base(
            "minimax_m2",
            json!({
                "intermediate_size": 24, "num_local_experts": 16, "num_experts_per_tok": 4, "scoring_func": "sigmoid",
                "use_routing_bias": true, "shared_intermediate_size": 0, "use_mtp": true,
            }),
        );
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    let router = |config: &Value| spec(config)["router"].as_table().unwrap().clone();
    assert_eq!(router(&m2(json!({})))["correction_on"].as_str(), Some("score"));
    assert!(router(&m2(json!({"use_routing_bias": false}))).get("correction_on").is_none());
    assert_eq!(router(&m2(json!({"scoring_func": "softmax"})))["score"].as_str(), Some("softmax"));
    assert_eq!(import(&m2(json!({"shared_intermediate_size": 24})), None).err().unwrap().code, Code::UnreadField);

    let step = base(
        "step3p5",
        json!({
            "moe_num_experts": 16, "moe_top_k": 4, "moe_intermediate_size": 24, "share_expert_dim": 40, "swiglu_limits": null,
            "moe_router_activation": "softmax", "use_moe_router_bias": false, "norm_expert_weight": false, "need_fp32_gate": true,
            "moe_router_scaling_factor": 3.0, "moe_every_n_layer": 1, "moe_layer_offset": 0,
        }),
    );
    let table = spec(&step);
    assert_eq!(table["router"]["score"].as_str(), Some("softmax"));
    assert_eq!(table["router"]["renorm"].as_str(), Some("none"));
    assert!(table["router"].get("correction_on").is_none());
    assert_eq!(table["moe"]["routed_output_scale"].as_float(), Some(3.0));
    assert_eq!(table["shared"]["intermediate"].as_integer(), Some(40));

    let afmoe = |fields: Value| {
        let mut config = base(
            "afmoe",
            json!({"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "num_shared_experts": 1}),
        );
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    assert_eq!(router(&afmoe(json!({"route_norm": false})))["renorm"].as_str(), Some("none"));
    assert_eq!(import(&afmoe(json!({"n_group": 4})), None).err().unwrap().code, Code::UnreadField);
    assert!(import(&afmoe(json!({"n_group": 1, "topk_group": 1})), None).is_ok());

    let kolibri = base(
        "kolibri1",
        json!({
            "num_local_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "norm_topk_prob": false,
            "shared_expert_intermediate_size": 40,
        }),
    );
    let shared = import(&kolibri, None).unwrap().spec(None);
    assert!(shared.contains("[shared]\nintermediate = 40\n") && shared.contains("shared_experts.down_proj.weight"), "{shared}");
    // A width and a count that contradict each other.
    let ling = base(
        "bailing_moe_v2",
        json!({
            "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "num_shared_experts": 1, "n_group": 1,
            "topk_group": 1, "moe_shared_expert_intermediate_size": 48,
        }),
    );
    let error = import(&ling, None).err().unwrap();
    assert_eq!(error.code, Code::UnreadField);
    assert!(error.help.as_deref().unwrap().contains("--allow-unread moe_shared_expert_intermediate_size"), "{error:?}");
    let source = Source { name: "config.json".into(), text: ling.to_string() };
    let block = hugging_face::import_allowing(&source, None, &["moe_shared_expert_intermediate_size".to_string()]).unwrap();
    assert_eq!(block.unread().allowed, ["moe_shared_expert_intermediate_size = 48"]);
    assert!(block.spec(None).contains("Left out as asked: moe_shared_expert_intermediate_size = 48"));
}

#[test]
fn layers_one_by_one() {
    let step = |fields: Value| {
        let sizes = json!({
            "moe_num_experts": 16, "moe_top_k": 4, "moe_intermediate_size": 24, "share_expert_dim": 24, "swiglu_limits": null,
            "swiglu_limits_shared": null,
        });
        let mut config = base("step3p5", sizes);
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    let moe_layers = |config: &Value| -> Vec<u64> {
        let outcome = |layer: &u64| import(config, Some(*layer)).map(|_| ()).map_err(|error| error.code);
        (0..8).filter(|layer| outcome(layer).map_err(|code| assert_eq!(code, Code::DenseLayer)).is_ok()).collect()
    };
    assert_eq!(moe_layers(&step(json!({"moe_layers_enum": "3,4, 6"}))), [3, 4, 6]);
    assert_eq!(moe_layers(&step(json!({"moe_layers_enum": [3, 4, 6]}))), [3, 4, 6]);
    assert_eq!(moe_layers(&step(json!({}))), [3, 4, 5, 6, 7]);
    assert_eq!(import(&step(json!({"moe_layers_enum": "3,x"})), None).err().unwrap().code, Code::WrongType);
    let error = import(&step(json!({"moe_layers_enum": "3,4,5,6,7"})), Some(0)).err().unwrap();
    assert!(error.help.as_deref().unwrap().contains("3..=7"), "{error:?}");

    let exaone = base(
        "exaone_moe",
        json!({
            "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "num_shared_experts": 1, "n_group": 1,
            "is_moe_layer": [false, true, true, false, true, true, true, true],
        }),
    );
    assert_eq!(moe_layers(&exaone), [1, 2, 4, 5, 6, 7]);
}

/// The caret stands under the key that decided.
#[test]
fn the_list_that_leaves_a_layer_out_is_the_place() {
    let config = base(
        "qwen3_moe",
        json!({
            "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "norm_topk_prob": true, "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        }),
    );
    let text = config.to_string();
    let label = |layer| {
        let error = import(&config, Some(layer)).err().unwrap();
        assert_eq!(error.code, Code::DenseLayer);
        text[error.labels[0].span.clone()].to_string()
    };
    assert_eq!(label(3), "[3]");
    assert_eq!(label(2), "2");
}

#[test]
fn a_layer_that_predicts_further_tokens() {
    let fields = json!({
        "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "n_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
    });
    let block = import(&base("deepseek_v3", fields.clone()), Some(8)).unwrap();
    assert!(block.spec(None).contains("model.layers.8.mlp.gate.weight"));
    assert!(said(&block).1.contains("MTP"), "{:?}", block.assumed());
    assert_eq!(import(&base("deepseek_v3", fields.clone()), Some(9)).err().unwrap().code, Code::OutOfRange);
    let mut moved = fields;
    moved["num_local_experts"] = moved["n_routed_experts"].take();
    moved
        .as_object_mut()
        .unwrap()
        .retain(|name, _| !["n_routed_experts", "routed_scaling_factor", "n_group"].contains(&name.as_str()));
    let mimo = base(
        "minimax_m2",
        json!({
            "num_local_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 24, "num_mtp_modules": 3,
        }),
    );
    let error = import(&mimo, Some(8)).err().unwrap();
    assert!(error.message.contains("MTP"), "{error:?}");
}

/// Fields of one meaning that say different things.
#[test]
fn two_names_for_one_thing() {
    let config = |other: u64| {
        base("mixtral", json!({"intermediate_size": 24, "num_local_experts": 8, "num_experts": other, "num_experts_per_tok": 2}))
    };
    assert!(import(&config(8), None).is_ok());
    let error = import(&config(16), None).err().unwrap();
    assert_eq!(error.code, Code::FieldsDisagree);
    assert_eq!(error.labels.len(), 2);
    // A wrapper that says otherwise than its text model.
    let wrapped = json!({"model_type": "m", "num_experts_per_tok": 3, "text_config": config(8)});
    assert_eq!(import(&wrapped, None).err().unwrap().code, Code::UnreadField);
}

/// A table of fields layer by layer may have some of the MoE layer.
#[test]
fn fields_of_one_layer() {
    let config = base(
        "mixtral",
        json!({
            "intermediate_size": 24, "num_local_experts": 8, "num_experts_per_tok": 2,
            "per_layer_config": {"02": {"head_dim": 8}, "05": {"num_local_experts": 4}},
        }),
    );
    assert!(import(&config, Some(2)).is_ok());
    let error = import(&config, Some(5)).err().unwrap();
    assert_eq!(error.code, Code::UnreadField);
    assert!(error.message.contains("per_layer_config.05.num_local_experts"), "{error:?}");
    assert_eq!(import(&config, None).err().unwrap().code, Code::UnreadField);
}
