//! What a config says beside the fields that a rule reads: tables and lists, values that turn something off, words that are
//! also those of generation, a model inside another. Each is followed, or agrees with the layer, or is an error.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use moec::diagnostics::{Code, Diagnostic, Source};
use moec::hugging_face::{self, Block};
use serde_json::{Value, json};

fn import_allowing(config: &Value, allowed: &[&str]) -> Result<Block, Diagnostic> {
    let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    hugging_face::import_allowing(&Source { name: "config.json".into(), text: config.to_string() }, None, &allowed)
}

fn import(config: &Value) -> Result<Block, Diagnostic> {
    import_allowing(config, &[])
}

/// The spec's keys of a config.
#[track_caller]
fn spec(config: &Value) -> toml::Table {
    import(config).unwrap_or_else(|error| panic!("{config}: {error:?}")).spec(None).parse().unwrap()
}

/// A config of this type with these fields.
fn base(model_type: &str, fields: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "num_hidden_layers": 8, "hidden_size": 32, "hidden_act": "silu", "dtype": "float32",
    });
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    config
}

/// A Mixtral, and these fields.
fn mixtral(fields: Value) -> Value {
    let mut config = base("mixtral", json!({"intermediate_size": 24, "num_local_experts": 8, "num_experts_per_tok": 2}));
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    config
}

/// The layer of DeepSeek-V3 in small, and these fields.
fn deepseek(model_type: &str, fields: Value) -> Value {
    let sizes = json!({
        "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "n_shared_experts": 1, "n_group": 4,
        "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "first_k_dense_replace": 0,
    });
    let mut config = base(model_type, sizes);
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    config
}

/// The error of a field that is not followed, which names the path; its own help gets rid of it.
#[track_caller]
fn unread(config: &Value, path: &str) {
    let error = import(config).err().unwrap_or_else(|| panic!("{path} is passed over"));
    assert_eq!(error.code, Code::UnreadField, "{error:?}");
    let help = error.help.as_deref().unwrap();
    let flags: Vec<&str> = help.split('`').nth(1).unwrap().split("--allow-unread").map(str::trim).skip(1).collect();
    assert!(flags.contains(&path), "{path}: {help}");
    let block = import_allowing(config, &flags).unwrap_or_else(|error| panic!("{path}: {error:?}"));
    assert_eq!(block.unread().allowed.len(), flags.len(), "{path}: {:?}", block.unread());
    assert!(block.unread().needless.is_empty(), "{path}: {:?}", block.unread());
}

/// In a table whose name concerns the layer every key does, and in any table and list those whose own names do.
#[test]
fn fields_in_tables_and_lists() {
    for (fields, path) in [
        (json!({"moe": {"top_k": 4, "num": 16, "norm": false}}), "moe.num"),
        (json!({"router": {"temperature": 2.0, "pre": "tanh"}}), "router.pre"),
        (json!({"experts": {"k": 3}}), "experts.k"),
        (json!({"moe_config": {"more": {"k": 3}}}), "moe_config.more.k"),
        (json!({"moe_config": [{"k": 3}]}), "moe_config.k"),
        (json!({"moe_config": {"use_cache": true}}), "moe_config.use_cache"),
        (json!({"extra": {"layers": [{"num_experts": 4, "router_temperature": 3}]}}), "extra.layers.router_temperature"),
        (json!({"extra": [[{"num_experts": 4}]]}), "extra.num_experts"),
        (json!({"block_configs": vec![json!({"ffn": {"num_experts": 8, "moe_top_k": 1}}); 8]}), "block_configs.ffn.moe_top_k"),
        (json!({"ffn_config": {"k": 3, "top_k": 7}}), "ffn_config.k"),
        (json!({"attn_config": {"moe_top_k": 3}}), "attn_config.moe_top_k"),
        (json!({"attn_config": {"moe": {"k": 3}}}), "attn_config.moe.k"),
        (json!({"rope_scaling": {"num_experts": 3}}), "rope_scaling.num_experts"),
    ] {
        unread(&mixtral(fields), path);
    }
    // What agrees, what is of the table's own business, and what is another model's.
    for fields in [
        json!({"moe": {"num_experts": 8, "num_experts_per_tok": 2, "nothing": null}}),
        json!({"extra": [{"num_experts": 8, "colour": "red"}]}),
        json!({"attn_config": {"clip_qkv": 8.0, "norm": "rms", "hidden_size": 7}}),
        json!({"rope_scaling": {"factor": 2.0, "beta_fast": 32.0}}),
        json!({"vision_config": {"num_experts": 3}}),
        json!({"quantization_config": {"quant_method": "q", "dynamic": {"-:.*experts.*": {"bits": 4}}, "expert_bits": 4}}),
        json!({"label2id": {"moe": 0, "score": 1}}),
    ] {
        assert!(import(&mixtral(fields.clone())).is_ok(), "{fields}");
    }
    // A table is left out whole by its own name.
    let block = import_allowing(&mixtral(json!({"moe": {"a": 1, "b": {"c": 2}}})), &["moe"]).unwrap();
    assert_eq!(block.unread().allowed, ["moe.a = 1", "moe.b.c = 2"]);
    assert!(block.unread().needless.is_empty(), "{:?}", block.unread());
}

/// Names that would be of something else by one end, and concern the layer by another part; and what is turned off, which
/// the layer may have.
#[test]
fn names_and_values_that_concern_the_layer() {
    let foreign = json!({
        "gating": "sigmoid", "temperature": 0.5, "normalization_gate": true, "temporal_gate": "tanh", "use_fused_gate": true,
        "norm_softmax": true, "_moe_scale": 3.0, "_router_cap": 30.0, "attn_act": "relu", "init_norm": "l2", "cache_gating": 1,
        "generation_temperature": 0.5, "mm_gate_act": "tanh", "renormalize": false, "use_swiglu": false, "use_glu": false,
        "glu": false, "expert_activation": "none", "router_temperature": 0,
    });
    for config in [mixtral(json!({})), deepseek("deepseek_v3", json!({}))] {
        for (field, value) in foreign.as_object().unwrap() {
            let mut added = config.clone();
            added[field] = value.clone();
            unread(&added, field);
        }
    }
    let quiet = json!({
        "renormalize": null, "router_names": [], "moe_note": "", "temperature": 1.0, "norm_softmax": false, "_commit_hash": "a",
        "_attn_implementation": "sdpa", "_experts_implementation": "eager", "attn_output_gate": true, "activation_dropout": 0.1,
        "use_qk_norm": true, "top_k": 50,
    });
    for (field, value) in quiet.as_object().unwrap() {
        assert!(import(&mixtral(json!({field: value}))).is_ok(), "{field}");
    }
}

/// `top_k` is a field of generation, unless K has no other and it could be one.
#[test]
fn top_k_at_the_top() {
    let mut config = mixtral(json!({"top_k": 4}));
    assert_eq!(spec(&config)["router"]["top_k"].as_integer(), Some(2));
    config.as_object_mut().unwrap().remove("num_experts_per_tok");
    for top_k in [json!(4), json!(8), json!("4"), json!(0)] {
        config["top_k"] = top_k;
        unread(&config, "top_k");
    }
    // What the class has, and what 8 experts cannot give.
    for top_k in [json!(2), json!(50), json!(null)] {
        config["top_k"] = top_k;
        let block = import(&config).unwrap();
        assert!(block.assumed().concat().contains("num_experts_per_tok = 2"), "{:?}", block.assumed());
    }
}

/// An activation may be a table, of which every key is followed.
#[test]
fn activations_as_tables() {
    let with = |table: Value| {
        let ffn = json!({"ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 2, "ffn_act_fn": table});
        base("dbrx", json!({"d_model": 32, "ffn_config": ffn}))
    };
    let activation = |table: Value| {
        let mut config = with(table);
        config.as_object_mut().unwrap().remove("hidden_act");
        spec(&config)["expert"]["activation"].as_str().unwrap().to_string()
    };
    assert_eq!(activation(json!({"name": "silu"})), "silu");
    assert_eq!(activation(json!({"name": "gelu", "approximate": "none"})), "gelu");
    assert_eq!(activation(json!({"name": "gelu", "approximate": null})), "gelu");
    assert_eq!(activation(json!({"name": "gelu", "approximate": "tanh"})), "gelu_tanh");
    for table in [
        json!({"name": "gelu", "approximate": "sigmoid"}),
        json!({"name": "silu", "approximate": "tanh"}),
        json!({"name": "silu", "alpha": 1.5}),
        json!({"name": "silu", "inplace": false}),
    ] {
        let mut config = with(table.clone());
        config.as_object_mut().unwrap().remove("hidden_act");
        let key = table.as_object().unwrap().keys().find(|key| *key != "name").unwrap();
        unread(&config, &format!("ffn_config.ffn_act_fn.{key}"));
    }
    // Where no rule reads the field, it must say what the layer has.
    assert!(import(&mixtral(json!({"ffn_act_fn": {"name": "silu"}}))).is_ok());
    unread(&mixtral(json!({"ffn_act_fn": {"name": "silu", "alpha": 1.5}})), "ffn_act_fn");
}

/// The text model's own type decides, and one that is in no table is not its wrapper's.
#[test]
fn an_inner_model_type_that_is_not_known() {
    let config = json!({"model_type": "mixtral", "text_config": mixtral(json!({"model_type": "weird_moe"}))});
    let error = import(&config).err().unwrap();
    assert_eq!(error.code, Code::UnknownModelType);
    assert_eq!(config.to_string()[error.labels[0].span.clone()], *"\"weird_moe\"");
    assert!(import(&json!({"model_type": "weird", "text_config": mixtral(json!({}))})).is_ok());
}

/// Of some fields the published code of the class is not what their names say.
#[test]
fn what_the_class_does_whatever_the_field_says() {
    // The class has a bias and groups by their two best, and does not look at `topk_method`.
    assert_eq!(spec(&deepseek("deepseek_v3", json!({})))["router"]["correction_on"].as_str(), Some("score"));
    assert!(import(&deepseek("deepseek_v3", json!({"topk_method": "noaux_tc"}))).is_ok());
    for method in ["greedy", "group_limited_greedy", "best"] {
        unread(&deepseek("deepseek_v3", json!({"topk_method": method})), "topk_method");
    }
    // That of the version before does.
    let v2 = |method: &str, groups: u64| {
        deepseek("deepseek_v2", json!({"topk_method": method, "norm_topk_prob": false, "n_group": groups, "topk_group": 1}))
    };
    assert!(spec(&v2("greedy", 1))["router"].get("groups").is_none());
    assert_eq!(spec(&v2("group_limited_greedy", 4))["router"]["group_score"].as_str(), Some("max"));
    assert_eq!(import(&v2("best", 4)).err().unwrap().code, Code::UnknownWord);
    // The sparsemixer of PhiMoE picks two.
    let phi = |k: u64| base("phimoe", json!({"intermediate_size": 24, "num_local_experts": 8, "num_experts_per_tok": k}));
    assert_eq!(spec(&phi(2))["router"]["top_k"].as_integer(), Some(2));
    unread(&phi(3), "num_experts_per_tok");
    // Jamba's layer of one expert is a dense one, that of others is not.
    let one = |model_type, more: Value| {
        let mut config = base(model_type, json!({"intermediate_size": 24, "num_experts": 1, "num_experts_per_tok": 1}));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let jamba = one("jamba", json!({"expert_layer_period": 2, "expert_layer_offset": 1}));
    let error = import(&jamba).err().unwrap();
    assert_eq!(error.code, Code::DenseLayer);
    assert_eq!(jamba.to_string()[error.labels[0].span.clone()], *"1");
    assert!(import(&one("hunyuan_v1_moe", json!({"num_shared_expert": 1}))).is_ok());
    // One pick, divided by its own weight.
    let one = import(&deepseek("deepseek_v3", json!({"num_experts_per_tok": 1}))).unwrap();
    assert!(one.assumed().concat().contains("every weight is 1"), "{:?}", one.assumed());
    let four = import(&deepseek("deepseek_v3", json!({}))).unwrap();
    assert!(!four.assumed().concat().contains("every weight is 1"), "{:?}", four.assumed());
}

/// A config of a quantised checkpoint says nothing of the layer, whose weights are not quantised, and that is said.
#[test]
fn quantised_checkpoints() {
    for field in ["quantization_config", "quantization", "compression_config"] {
        let block = import(&mixtral(json!({field: {"quant_method": "awq", "bits": 4, "group_size": 64}}))).unwrap();
        assert!(block.spec(None).contains("`awq`"), "{field}: {:?}", block.assumed());
        assert!(block.assumed().concat().contains("unquantised"), "{field}: {:?}", block.assumed());
    }
    assert!(!import(&mixtral(json!({"quantization_config": null}))).unwrap().assumed().concat().contains("unquantised"));
}
