//! What other libraries call the keys and words of a spec: for hints, never for reading. A hint names the one key or word that
//! means the same; where libraries mean different things by a name, it is not here.

/// A key's name elsewhere, and the key.
struct Alias {
    theirs: &'static [&'static str],
    table: &'static str,
    key: &'static str,
    /// What the key says where theirs is on, if its values are others; empty where they are the same.
    value: &'static str,
}

/// A word's name elsewhere, and the word.
struct Word {
    key: &'static str,
    theirs: &'static [&'static str],
    ours: &'static str,
    /// What has to be said beside it to mean the same; empty where nothing has.
    beside: &'static str,
}

const fn alias(table: &'static str, key: &'static str, theirs: &'static [&'static str]) -> Alias {
    Alias { theirs, table, key, value: "" }
}

/// A switch elsewhere, which is one value of the key.
const fn switch(table: &'static str, key: &'static str, value: &'static str, theirs: &'static [&'static str]) -> Alias {
    Alias { theirs, table, key, value }
}

const fn word(key: &'static str, ours: &'static str, theirs: &'static [&'static str], beside: &'static str) -> Word {
    Word { key, theirs, ours, beside }
}

/// Names in configs of Hugging Face transformers, Megatron-LM, DeepSpeed, vLLM and of the models' own code.
#[rustfmt::skip]
static KEYS: &[Alias] = &[
    alias("moe", "hidden", &["hidden_size", "d_model", "dim", "embed_dim", "n_embd", "model_dim", "emb_dim"]),
    alias("moe", "experts", &["num_experts", "n_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts", "expert_num"]),
    alias("router", "top_k", &["num_experts_per_tok", "num_experts_per_token", "experts_per_token", "num_selected_experts", "moe_top_k", "moe_topk", "moe_router_topk", "moe_k", "k"]),
    alias("router", "score", &["scoring_func", "score_func", "score_function", "moe_router_score_function", "router_activation", "gating_function"]),
    switch("router", "renorm", "\"sum\"", &["norm_topk_prob", "normalize_topk", "renormalize", "route_norm", "moe_renormalize"]),
    alias("router", "scale", &["routed_scaling_factor", "route_scale", "moe_router_topk_scaling_factor", "router_scaling_factor"]),
    alias("router", "groups", &["n_group", "num_groups", "n_expert_groups", "num_expert_group", "moe_router_num_groups"]),
    alias("router", "topk_groups", &["topk_group", "n_limited_groups", "moe_router_group_topk"]),
    switch("router", "correction_on", "\"score\"", &["e_score_correction_bias", "use_routing_bias", "moe_router_enable_expert_bias", "router_correction_bias"]),
    alias("router", "logit_softcap", &["router_logit_softcapping", "router_softcap"]),
    alias("router", "identity_experts", &["zero_expert_num", "num_zero_experts"]),
    alias("capacity", "factor", &["capacity_factor", "expert_capacity_factor", "moe_expert_capacity_factor", "moe_capacity_factor", "train_capacity_factor"]),
    alias("capacity", "tokens", &["expert_capacity", "max_tokens_per_expert"]),
    alias("capacity", "min", &["min_capacity", "min_expert_capacity"]),
    alias("capacity", "priority", &["drop_policy", "moe_token_drop_policy"]),
    alias("expert", "intermediate", &["intermediate_size", "moe_intermediate_size", "ffn", "d_ff", "ffn_dim", "ffn_size", "ffn_hidden_size", "moe_ffn_hidden_size", "mlp_dim", "inner_dim", "expert_dim"]),
    alias("expert", "activation", &["hidden_act", "act", "act_fn", "activation_function", "activation_func", "hidden_activation", "nonlinearity"]),
    alias("expert", "clamp_limit", &["swiglu_limit", "activation_clamp"]),
    alias("expert", "bias", &["mlp_bias", "use_bias", "add_bias_linear"]),
    alias("expert", "gated", &["gated_linear_unit", "use_glu", "glu"]),
    alias("shared", "intermediate", &["intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size"]),
    alias("shared", "count", &["n_shared_experts", "num_shared_experts", "num_shared_expert"]),
    alias("weights", "gate", &["w1", "gate_proj"]),
    alias("weights", "up", &["w3", "up_proj"]),
    alias("weights", "down", &["w2", "down_proj"]),
    alias("weights", "gate_up", &["w13", "gate_up_proj"]),
    alias("weights", "correction_bias", &["e_score_correction_bias", "expert_bias"]),
    alias("training", "aux_coef", &["aux_loss_coef", "aux_loss_alpha", "router_aux_loss_coef", "moe_aux_loss_coeff", "load_balancing_loss_coef"]),
    alias("training", "z_coef", &["z_loss_coef", "router_z_loss_coef", "moe_z_loss_coeff"]),
    alias("training", "jitter", &["router_jitter_noise", "jitter_noise", "jitter_eps", "moe_input_jitter_eps"]),
    alias("training", "bias_update_rate", &["bias_update_speed", "moe_router_bias_update_rate"]),
    alias("tokens", "max", &["max_tokens", "max_num_tokens", "max_batch_tokens"]),
    alias("numerics", "dtype", &["torch_dtype", "params_dtype"]),
];

#[rustfmt::skip]
static WORDS: &[Word] = &[
    word("activation", "silu", &["swish"], ""),
    word("activation", "silu", &["swiglu"], "gated = true"),
    word("activation", "gelu", &["geglu"], "gated = true"),
    word("activation", "relu", &["reglu"], "gated = true"),
    word("activation", "silu", &["quick_gelu", "gelu_quick"], "alpha = 1.702"),
    word("activation", "gelu_tanh", &["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_approximate"], ""),
    word("activation", "relu2", &["relu_squared", "squared_relu", "relu^2"], ""),
    word("mode", "token_choice", &["topk", "top_k", "learned"], ""),
    word("mode", "soft", &["softmoe", "soft_moe"], ""),
    word("score", "sqrtsoftplus", &["sqrt_softplus"], ""),
    word("score", "identity", &["linear", "none", "raw"], ""),
    word("renorm", "sum", &["l1"], ""),
    word("renorm", "p", &["l2"], "renorm_p = 2"),
    word("round", "ceil", &["up"], ""),
    word("round", "floor", &["down"], ""),
    word("round", "half_even", &["nearest", "round"], ""),
    word("priority", "batch_prioritized", &["bpr"], ""),
    word("priority", "score", &["probs"], ""),
    word("dtype", "f32", &["float32", "fp32", "float"], ""),
    word("dtype", "f16", &["float16", "fp16", "half"], ""),
    word("dtype", "bf16", &["bfloat16"], ""),
];

/// The table and the key that `name` most likely means, one of `table`, where that has such a key; and the key's value where
/// `name` is a switch, else nothing.
pub(super) fn key(name: &str, table: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let is_meant = |alias: &&Alias| alias.theirs.iter().any(|theirs| theirs.eq_ignore_ascii_case(name));
    let meant = || KEYS.iter().filter(is_meant);
    meant().find(|alias| alias.table == table).or_else(|| meant().next()).map(|alias| (alias.table, alias.key, alias.value))
}

/// The word of this key that `name` means, and what has to stand beside it.
pub(super) fn word_of(key: &str, name: &str) -> Option<(&'static str, &'static str)> {
    let is_meant = |word: &&Word| word.key == key && word.theirs.iter().any(|theirs| theirs.eq_ignore_ascii_case(name));
    WORDS.iter().find(is_meant).map(|word| (word.ours, word.beside))
}

#[cfg(test)]
mod tests {
    use super::super::keys::{TABLES, Takes, table};
    use super::*;

    /// What is hinted at is there, and what it is hinted for is not.
    #[test]
    fn hints_are_keys_and_words() {
        for alias in KEYS {
            let keys = table(alias.table).map(|table| table.keys).unwrap_or_default();
            assert!(keys.iter().any(|key| key.name == alias.key), "{}.{}", alias.table, alias.key);
            assert!(!keys.iter().any(|key| alias.theirs.contains(&key.name)), "{}.{}", alias.table, alias.key);
        }
        for word in WORDS {
            let keys = TABLES.iter().flat_map(|table| table.keys).filter(|key| key.name == word.key);
            let choices = keys.flat_map(|key| match key.takes {
                Takes::Word(choices) | Takes::WordOrInteger(choices, ..) => choices,
                _ => &[],
            });
            let choices: Vec<&str> = choices.map(|choice| choice.word).collect();
            assert!(choices.contains(&word.ours), "{} = {}", word.key, word.ours);
            assert!(!word.theirs.iter().any(|theirs| choices.contains(theirs)), "{} = {:?}", word.key, word.theirs);
        }
    }

    #[test]
    fn the_same_name_in_two_tables() {
        assert_eq!(key("intermediate_size", "shared"), Some(("shared", "intermediate", "")));
        assert_eq!(key("intermediate_size", "moe"), Some(("expert", "intermediate", "")));
        assert_eq!(key("Num_Experts", "router"), Some(("moe", "experts", "")));
        assert_eq!(key("norm_topk_prob", "router"), Some(("router", "renorm", "\"sum\"")));
        assert_eq!(word_of("activation", "swiglu"), Some(("silu", "gated = true")));
        assert_eq!(word_of("score", "swiglu"), None);
    }
}
