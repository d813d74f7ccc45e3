//! Fields with one entry a layer, and fields that say which layers are MoE layers: a list without an entry for the layer, and
//! two fields that differ, are errors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use moec::diagnostics::{Code, Diagnostic, Source};
use moec::hugging_face::{self, Block};
use serde_json::{Value, json};

fn import(config: &Value, layer: Option<u64>, allowed: &[&str]) -> Result<Block, Diagnostic> {
    let allowed: Vec<String> = allowed.iter().map(|name| name.to_string()).collect();
    hugging_face::import_allowing(&Source { name: "config.json".into(), text: config.to_string() }, layer, &allowed)
}

fn code(config: &Value, layer: Option<u64>) -> Option<Code> {
    import(config, layer, &[]).err().map(|error| error.code)
}

/// The smallest config of a type, in the fields of its family.
fn base(model_type: &str, layers: u64, fields: &Value) -> Value {
    let family = match model_type {
        "minimax_m3" => json!({"intermediate_size": 24, "num_local_experts": 8, "shared_intermediate_size": 0}),
        "mixtral" | "llama4" | "gpt_oss" => json!({"intermediate_size": 24, "num_local_experts": 8}),
        "olmoe" => json!({"intermediate_size": 24, "num_experts": 8, "norm_topk_prob": true}),
        "mellum" | "qwen3_moe" => json!({"moe_intermediate_size": 24, "num_experts": 8, "norm_topk_prob": true}),
        "qwen3_5_moe_text" => json!({"moe_intermediate_size": 24, "num_experts": 8, "shared_expert_intermediate_size": 24}),
        "step3p5" => json!({"moe_intermediate_size": 24, "moe_num_experts": 8, "share_expert_dim": 24, "swiglu_limits": null}),
        "nemotron_h" => json!({
            "moe_intermediate_size": 24, "n_routed_experts": 8, "mlp_hidden_act": "relu2", "n_group": 1, "topk_group": 1,
            "moe_shared_expert_intermediate_size": 24, "n_shared_experts": 1,
        }),
        _ => json!({"moe_intermediate_size": 24, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}),
    };
    let mut config = json!({
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": 32, "num_experts_per_tok": 2, "dtype": "float32",
    });
    let table = config.as_object_mut().unwrap();
    if !["nemotron_h", "gpt_oss"].contains(&model_type) {
        table.insert("hidden_act".to_string(), json!("silu"));
    }
    for fields in [&family, fields] {
        table.extend(fields.as_object().unwrap().clone());
    }
    config
}

/// The words of a list, each so many times.
fn words(runs: &[(&str, usize)]) -> Value {
    runs.iter().flat_map(|(word, count)| vec![*word; *count]).collect()
}

#[test]
fn a_list_without_an_entry_for_the_layer_is_an_error_where_no_rule_reads_it() {
    let fields = [
        ("routed_scaling_factor", json!([2.5]), 5),
        ("n_shared_experts", json!([2]), 1),
        ("swiglu_limits", json!([7.0, 7.0]), 5),
        ("first_k_dense_replace", json!([3]), 1),
        ("scoring_func", json!(["sigmoid"]), 1),
        ("n_shared_experts", json!([]), 1),
        ("n_group", json!([1, 1, 1]), 3),
    ];
    for (field, value, layer) in fields {
        let config = base("mixtral", 8, &json!({field: value}));
        let error = import(&config, Some(layer), &[]).err().unwrap_or_else(|| panic!("{field} = {value}"));
        let expected = if value == json!([]) { Code::WrongType } else { Code::OutOfRange };
        assert_eq!(error.code, expected, "{error:?}");
        assert!(error.help.as_deref().unwrap().contains(&format!("--allow-unread {field}")), "{error:?}");
        let block = import(&config, Some(layer), &[field]).unwrap_or_else(|error| panic!("{field}: {error:?}"));
        assert_eq!(block.unread().allowed.len(), 1, "{field}");
    }
    // Entries that say what the layer is are no mistake.
    assert_eq!(code(&base("mixtral", 2, &json!({"n_shared_experts": [0, 0]})), Some(1)), None);
    assert_eq!(code(&base("mixtral", 2, &json!({"n_shared_experts": []})), None), Some(Code::WrongType));
}

#[test]
fn numbers_of_dense_layers_are_held_against_the_layer() {
    for model_type in ["qwen3_5_moe_text", "olmoe", "mellum"] {
        let with = |value: Value| base(model_type, 8, &json!({"mlp_only_layers": value}));
        for value in [json!([5]), json!([0, 5.0]), json!(5)] {
            assert_eq!(code(&with(value.clone()), Some(5)), Some(Code::UnreadField), "{model_type} {value}");
            assert_eq!(code(&with(value.clone()), None), Some(Code::UnreadField), "{model_type} {value}");
        }
        assert_eq!(code(&with(json!([5])), Some(3)), None, "{model_type}");
        for layer in [None, Some(5)] {
            assert_eq!(code(&with(json!([])), layer), None, "{model_type}");
            assert_eq!(code(&with(json!(null)), layer), None, "{model_type}");
        }
    }
    assert_eq!(
        code(&base("qwen3_moe", 8, &json!({"mlp_only_layers": [5], "decoder_sparse_step": 1})), Some(5)),
        Some(Code::DenseLayer)
    );
}

#[test]
fn a_list_of_kinds_has_one_entry_for_each_layer() {
    let pattern = |letters: &str| json!({"hybrid_override_pattern": letters});
    let cases = [
        (base("deepseek_v3", 61, &json!({"moe_layer_freq": [0, 0, 0, 1]})), 30),
        (base("deepseek_v3", 61, &json!({"mlp_layer_types": words(&[("dense", 3), ("sparse", 4)])})), 20),
        (base("deepseek_v3", 61, &json!({"mlp_layer_types": []})), 20),
        (base("deepseek_v3", 8, &json!({"is_moe_layer": vec![true; 9]})), 7),
        (base("nemotron_h", 52, &pattern("MEMEM*EM")), 40),
        (base("nemotron_h", 52, &pattern("MEMEM*EM")), 1),
        (base("nemotron_h", 4, &pattern("MEMEM*EM")), 1),
        (base("nemotron_h", 4, &json!({"layers_block_type": ["mamba", "moe"]})), 1),
    ];
    for (config, layer) in cases {
        for layer in [Some(layer), None] {
            assert_eq!(code(&config, layer), Some(Code::OutOfRange), "{config} {layer:?}");
        }
    }
    let mut unnumbered = base("nemotron_h", 8, &pattern("MEMEM*EM"));
    assert_eq!(code(&unnumbered, Some(6)), None);
    unnumbered.as_object_mut().unwrap().remove("num_hidden_layers");
    assert_eq!(code(&unnumbered, Some(6)), None);
    assert_eq!(code(&unnumbered, Some(8)), Some(Code::OutOfRange));
    // A layer that predicts further tokens may have an entry, and need not.
    for entries in 4..=6 {
        let fields = json!({"moe_layer_freq": vec![1; entries], "num_nextn_predict_layers": 1});
        let expected = (entries == 6).then_some(Code::OutOfRange);
        for layer in [None, Some(3), Some(4)] {
            assert_eq!(code(&base("deepseek_v3", 4, &fields), layer), expected, "{entries} {layer:?}");
        }
    }
}

#[test]
fn blocks_of_several_kinds_need_the_list_of_them() {
    let absent = [json!({}), json!({"hybrid_override_pattern": null}), json!({"hybrid_pattern": "MEME"})];
    for fields in absent {
        for layer in [None, Some(1)] {
            let error = import(&base("nemotron_h", 4, &fields), layer, &[]).err().unwrap();
            assert_eq!(error.code, Code::FieldMissing, "{fields}");
            assert!(error.help.as_deref().unwrap().contains("`hybrid_override_pattern`"), "{error:?}");
        }
    }
}

#[test]
fn fields_that_differ_in_which_layers_are_moe_layers() {
    let sparse = |layers: usize| words(&[("sparse", layers)]);
    // The model, its layers, the fields, a layer of which they differ and one of which they do not.
    let cases = [
        ("step3p5", 45, json!({"moe_layers_enum": "5,6,7", "mlp_layer_types": sparse(45)}), 1, 6),
        ("step3p5", 8, json!({"moe_layers_enum": [5, 6, 7], "is_moe_layer": vec![true; 8]}), 1, 6),
        ("deepseek_v3", 61, json!({"first_k_dense_replace": 3, "moe_layer_freq": vec![1; 61]}), 0, 3),
        ("deepseek_v3", 8, json!({"first_k_dense_replace": 1, "mlp_layer_types": sparse(8)}), 0, 1),
        ("deepseek_v3", 4, json!({"first_k_dense_replace": 0, "mlp_layer_types": words(&[("dense", 1), ("sparse", 3)])}), 0, 1),
        ("deepseek_v3", 4, json!({"moe_layer_freq": [0, 1, 1, 1], "is_moe_layer": [false, false, true, true]}), 1, 2),
        ("deepseek_v3", 4, json!({"moe_layer_freq": 2, "mlp_layer_types": sparse(4)}), 1, 2),
        ("deepseek_v3", 4, json!({"num_dense_layers": 2, "mlp_layer_types": sparse(4)}), 1, 2),
        ("qwen3_moe", 4, json!({"decoder_sparse_step": 2, "mlp_layer_types": sparse(4)}), 0, 1),
        ("qwen3_moe", 4, json!({"decoder_sparse_step": 1, "mlp_only_layers": [2], "mlp_layer_types": sparse(4)}), 2, 1),
        ("llama4", 4, json!({"moe_layers": [1, 2], "interleave_moe_layer_step": 2}), 2, 1),
        ("nemotron_h", 4, json!({"layers_block_type": ["mamba", "moe", "moe", "moe"], "hybrid_override_pattern": "MEME"}), 2, 1),
        ("nemotron_h", 4, json!({"mlp_layer_types": sparse(4), "hybrid_override_pattern": "MEME"}), 2, 1),
    ];
    for (model_type, layers, fields, differs, agrees) in cases {
        let config = base(model_type, layers, &fields);
        for layer in [Some(differs), None] {
            let error = import(&config, layer, &[]).err().unwrap_or_else(|| panic!("{fields}"));
            assert_eq!((error.code, error.labels.len()), (Code::FieldsDisagree, 2), "{fields} {layer:?}: {error:?}");
            let is_of_layer = error.message.contains(&format!("layer {differs} is"));
            assert!(layer.is_none() || is_of_layer, "{fields}: {error:?}");
        }
        assert_eq!(code(&config, Some(agrees)), None, "{fields}");
    }
    let agreeing = [
        ("deepseek_v3", json!({"first_k_dense_replace": 1, "moe_layer_freq": 2, "is_moe_layer": [false, false, true, false]})),
        ("deepseek_v3", json!({"moe_layer_freq": 1, "mlp_layer_types": words(&[("dense", 1), ("sparse", 3)])})),
        ("qwen3_moe", json!({"decoder_sparse_step": 1, "mlp_only_layers": [0], "is_moe_layer": [0, 1, 1, 1]})),
        ("llama4", json!({"moe_layers": [1, 3], "interleave_moe_layer_step": 2})),
        ("step3p5", json!({"moe_layers_enum": "2,3", "mlp_layer_types": words(&[("dense", 2), ("sparse", 2)])})),
        ("nemotron_h", json!({"layers_block_type": ["mamba", "moe", "attention", "moe"], "hybrid_override_pattern": "ME*E"})),
    ];
    for (model_type, fields) in agreeing {
        assert_eq!(code(&base(model_type, 4, &fields), None), None, "{fields}");
    }
    // The first is taken where the other is left out as asked.
    let fields = json!({"first_k_dense_replace": 3, "moe_layer_freq": vec![1; 4]});
    let block = import(&base("deepseek_v3", 4, &fields), Some(0), &["first_k_dense_replace"]).unwrap();
    assert_eq!(block.unread().allowed, ["first_k_dense_replace = 3"]);
}

#[test]
fn a_limit_is_above_0_where_the_code_always_clamps() {
    for model_type in ["gpt_oss", "minimax_m3", "deepseek_v4"] {
        let with = |limit: Value| base(model_type, 4, &json!({"swiglu_limit": limit, "mlp_layer_types": words(&[("moe", 4)])}));
        for limit in [json!(-7.0), json!(0), json!(-1e-9)] {
            assert_eq!(code(&with(limit.clone()), None), Some(Code::OutOfRange), "{model_type} {limit}");
        }
        assert_eq!(code(&with(json!(null)), None), Some(Code::FieldMissing), "{model_type}");
        assert!(import(&with(json!(7.0)), None, &[]).unwrap().spec(None).contains("clamp_limit = 7.0"), "{model_type}");
    }
    let step = |field: &str, limits: Value| base("step3p5", 4, &json!({field: limits}));
    for field in ["swiglu_limits", "swiglu_limits_shared"] {
        assert_eq!(code(&step(field, json!([0, 0, 0, -16.0])), Some(3)), Some(Code::OutOfRange), "{field}");
        for off in [json!([7, 7, 7, 0]), json!([7, 7, 7, null]), json!(null)] {
            assert!(!import(&step(field, off), Some(3), &[]).unwrap().spec(None).contains("clamp_limit"), "{field}");
        }
    }
}
