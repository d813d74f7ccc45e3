//! What is known of fields that no rule has read: those that do not matter to a MoE layer, and why; those whose meaning is a
//! key of the spec, so that they can be held against it; and the words in a name that concern the layer.

/// A group of fields that do not matter, and the reason. `*` stands for any letters at one end of a name that does not concern
/// experts, routing, gates, activations, caps or norms: such a name is in a group only as a whole.
pub(super) struct Inert {
    pub(super) why: &'static str,
    /// Whether a table of such a name is not looked into: its keys are of another model, or of no model.
    pub(super) closed: bool,
    pub(super) fields: &'static [&'static str],
}

/// Tables that say that the checkpoint's weights are quantised.
pub(super) const QUANTISATION: &[&str] = &["quantization_config", "quantization", "compression_config"];

/// Fields that do not matter to what a MoE layer computes.
#[rustfmt::skip]
pub(super) const INERT: &[Inert] = &[
    Inert {
        why: "says where the file comes from",
        closed: false,
        fields: &[
            "_*", "_commit_hash", "model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype",
            "name_or_path", "custom_pipelines", "library_name", "language", "license", "tokenizer_class", "processor_class",
            "image_processor_type",
        ],
    },
    Inert {
        why: "the attention's, or of another mixer of tokens",
        closed: false,
        fields: &[
            "attn_*", "attention_*", "*_attention", "*_attention_heads", "attn_config", "linear_attn_config", "num_heads",
            "n_heads", "num_attention_heads*", "num_key_value_heads*", "num_kv_heads", "head_dim*", "*_head_dim", "*_head_dims",
            "*_lora_rank", "kv_*", "qk_*", "q_*", "qkv_*", "use_qkv_bias", "use_qk_norm*", "use_mla", "mla_*",
            "hybrid_block_size", "hybrid_layer_pattern", "initial_context_length", "use_cla", "cla_share_factor",
            "sliding_window*", "*_sliding_window*", "use_sliding_window", "max_window_layers", "layer_types",
            "layer_group_size", "global_attn_every_n_layers", "full_attention_interval", "layer_offsets", "full_attn_*",
            "linear_attn_*", "linear_conv_kernel_dim", "linear_head_dim", "linear_num_*", "linear_key_head_dim",
            "linear_value_head_dim", "linear_lower_bound", "group_norm_size", "kda_*", "short_conv_kernel_size", "v_head_dim",
            "clip_qkv", "index_*", "indexer_*", "cca_time*", "o_groups", "o_lora_rank", "compress_*", "gated_norm_rank",
            "attn_temperature_tuning", "attn_output_gate", "attn_logit_softcapping", "attention_logit_cap",
            "attention_softmax_in_fp32", "use_attention_gate", "index_topk", "index_topk_blocks", "kda_safe_gate",
            "loop_gate_rank", "mamba_hidden_act", "hidden_mamba_act", "mamba_rms_norm", "mamba_norm_before_gate", "qk_norm",
            "no_rope_layer*", "floor_scale", "use_bidirectional_attention", "d_kv", "kv_channels", "conv_*", "n_local_*",
            "query_pre_attn_scalar", "swa_*", "add_swa_attention_sink_bias", "add_full_attention_sink_bias", "sink_*",
            "learnable_sink_init", "d_rel", "rel_extent", "rel_l2_clip_threshold", "log_scaling_*", "sconv_kernel_size",
            "local_layer_ids", "number_of_conv_states", "keep_window_size", "gated_attention", "use_gqa",
            "num_attention_groups", "mamba_*", "ssm_*", "n_groups", "n_mamba_heads", "expand", "chunk_size", "time_step_*",
            "use_conv_bias", "use_mamba*", "use_associative_scan", "attn_layer_*", "layer_attn_*", "block_size",
            "linear_attn_alpha_factor", "linear_attn_beta_factor", "residual_gate_temperature", "use_cross_attention",
            "add_cross_attention", "relative_attention_*", "has_relative_attention_bias", "mask_init_id", "ple_*", "ngram_*",
            "heads_per_ngram", "split_ngram_parts", "make_ngram_*", "kv_source_layers", "hc_*", "global_head_dim",
            "num_global_key_value_heads", "output_gate_type", "loop_*", "n_layers_per_attn_res_block",
            "zero_centered_gamma_attention",
        ],
    },
    Inert {
        why: "position embeddings",
        closed: false,
        fields: &[
            "rope_*", "*_rope*", "rotary_*", "partial_rotary_factor*", "max_position_embeddings",
            "original_max_position_embeddings", "model_max_length", "max_seq_len", "max_sequence_length", "seq_length",
            "max_source_positions", "max_target_positions", "position_embedding_type", "scale_embedding", "mrope_section",
            "use_mrope", "longrope_*", "max_model_len", "position_id_per_seconds",
        ],
    },
    Inert {
        why: "vocabulary, embeddings and the head on the logits of tokens",
        closed: true,
        fields: &[
            "*vocab_size*", "*_token_id", "*_token_ids", "*_token_index", "*_token", "tie_word_embeddings", "tie_embedding",
            "tie_encoder_decoder", "embedding_*", "emb_pdrop", "embd_pdrop", "embed_*", "logits_scaling", "logit_scale",
            "final_logit_softcapping", "lm_head_bias", "num_logits_to_keep", "norm_head", "hidden_size_per_layer_input",
            "pretraining_tp", "logits_mup_width_multiplier", "mup_enabled", "use_mup", "use_embedding_norm",
            "classifier_dropout", "id2label", "label2id", "num_labels", "problem_type", "class_num", "dense_list", "pool_type",
            "seed", "add_classification_head", "finetuning_task", "bos", "eos",
        ],
    },
    Inert {
        why: "norms of the decoder layer, which stand before and after the MoE layer",
        closed: false,
        fields: &[
            "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon",
            "post_norm_eps", "use_rmsnorm", "rms_norm_type", "norm_type", "normalization_*", "qk_norm_type", "layernorm_type",
            "sandwich_norm", "use_post_attention_norm",
        ],
    },
    Inert {
        why: "how the decoder layer adds the MoE layer's output to its input",
        closed: false,
        fields: &[
            "residual_multiplier", "attention_multiplier", "mlp_alpha_factor", "mlp_beta_factor", "layernorm_attention_alpha",
            "layernorm_attention_beta", "layernorm_full_attention_*", "layernorm_linear_attention_*", "layernorm_mlp_*",
            "postnorm", "residual_in_fp32", "fp32_residual_connection", "use_parallel_residual",
        ],
    },
    Inert {
        why: "the width and the number of other layers than the MoE layers",
        closed: false,
        fields: &[
            "intermediate_size", "intermediate_size_mlp", "dense_intermediate_size", "prefix_dense_*", "ffn_hidden_size",
            "decoder_ffn_dim", "decoder_layers", "encoder_layers", "num_decoder_layers", "num_encoder_layers", "num_sparse_*",
            "num_hidden_layers", "num_layers", "n_layers", "use_double_wide_mlp", "num_kv_shared_layers", "layers_block_type",
            "hybrid_override_pattern", "mlp_ratio", "mlp_intermediate_size",
        ],
    },
    Inert {
        why: "of training alone",
        closed: false,
        fields: &[
            "router_aux_loss_coef", "aux_loss_coef", "aux_loss_alpha", "moe_aux_loss_coeff", "seq_aux", "router_z_loss_coef",
            "moe_z_loss_coeff", "moe_loss_weight", "moe_jitter_eps", "router_jitter_noise", "input_jitter_noise",
            "output_router_logits", "load_balance_coeff", "load_balancing_loss_weight", "add_router_probs",
            "router_ignore_padding_tokens", "moe_router_bias_update_rate", "moe_orthogonal_loss_lambda", "moe_warmup_steps",
            "moe_router_load_balancing_type", "expert_bias_update_rate", "router_bias_update_rate", "dropout", "dropout_rate",
            "*_dropout", "*_dropout_prob", "*_xdrop", "*_layerdrop", "activation_dropout", "resid_pdrop", "initializer_*",
            "init_*", "*_init_std", "rescale_prenorm_residual", "recompute*", "gradient_checkpointing", "moe_token_dropout",
            "bias_update_rate", "moe_capacity", "enable_aux_loss",
        ],
    },
    Inert {
        why: "how it is run and stored: caches, parallelism, kernels, numbers' types",
        closed: false,
        fields: &[
            "use_cache", "cache_*", "num_cache_*", "return_dict", "output_attentions", "output_hidden_states", "output_past",
            "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "ep_size", "expert_parallel_size",
            "expert_model_parallel_size", "tensor_parallel*", "sequence_parallel", "parallelism_config", "fuse_*",
            "use_flash_attn", "use_fused_*", "use_sparse_head_and_loss_fn", "use_recompute*", "use_kernels", "use_grouped_mm",
            "experts_implementation", "_experts_implementation", "moe_shared_expert_overlap", "moe_grouped_gemm",
            "expert_dtype", "router_dtype", "moe_router_dtype", "router_in_fp32", "need_fp32_gate", "moe_router_fp32",
            "enable_moe_fp32_combine", "*_cache_dtype", "low_cpu_mem_usage", "*_kernel*_path", "flash_*",
        ],
    },
    Inert {
        why: "how weights are quantised, which those of the layer are not",
        closed: true,
        fields: QUANTISATION,
    },
    Inert {
        why: "layers that predict further tokens (MTP)",
        closed: true,
        fields: &["num_nextn_predict_layers", "num_mtp_*", "mtp_*", "use_mtp", "chain_hidden_post_norm", "nextn_*"],
    },
    Inert {
        why: "generation",
        closed: false,
        fields: &[
            "top_p", "do_sample", "max_length", "min_length", "max_new_tokens", "num_beams", "num_beam_groups",
            "num_return_sequences", "repetition_penalty", "length_penalty", "diversity_penalty", "early_stopping",
            "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
            "typical_p", "remove_invalid_values", "exponential_decay_length_penalty", "use_bfloat16", "torchscript",
            "pruned_heads", "prefix", "task_specific_params", "sep_token_id", "generation_*", "canvas_length", "output_scores",
            "return_dict_in_generate", "tf_legacy_loss", "cross_attention_hidden_size",
        ],
    },
    Inert {
        why: "of what is beside the text model: pictures, sound, projectors, other models of the file",
        closed: true,
        fields: &[
            "vision_*", "visual_*", "vit_*", "image_*", "*_image_*", "video_*", "audio_*", "speech_*", "anyres_*", "mm_*",
            "img_*", "projector_*", "projector_hidden_act", "projection_*", "projection_layer_norm_eps", "*_projector",
            "*_projector_*", "merged_hidden_size", "spatial_merge_size", "patch_size", "num_channels", "talker_config",
            "code_predictor_config", "num_code_groups", "code2wav_config", "word_timestamp_config", "enable_audio_output",
            "downsample_ratio", "boi_*", "eoi_*", "max_value_projector_patch_to_query_dict", "unk_*", "tile_tag",
            "candidate_resolutions", "global_view_pos", "temporal_*", "use_image_*", "adapter_*", "ignore_index",
        ],
    },
];

/// Whether a name is one of the group's.
impl Inert {
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|pattern| matches(pattern, name))
    }
}

/// `*` at the start, at the end or at both.
fn matches(pattern: &str, name: &str) -> bool {
    let inner = pattern.trim_matches('*');
    let found = match (pattern.starts_with('*'), pattern.ends_with('*')) {
        (true, true) => name.split_once(inner),
        (true, false) => name.strip_suffix(inner).map(|rest| (rest, "")),
        (false, true) => name.strip_prefix(inner).map(|rest| ("", rest)),
        (false, false) => return name == inner,
    };
    // What is private to a library is not of the model, unless its name says so.
    found.is_some_and(
        |(before, after)| if pattern == "_*" { !concerns_layer(after) } else { !is_guarded(before) && !is_guarded(after) },
    )
}

/// Whether a name concerns experts or routing, in whatever table it stands.
pub(super) fn is_of_experts(name: &str) -> bool {
    const OF_EXPERTS: [&str; 6] = ["expert", "moe", "rout", "swiglu", "score", "scoring"];
    OF_EXPERTS.iter().any(|part| name.contains(part))
}

/// Whether what stands for a `*` concerns the layer.
fn is_guarded(part: &str) -> bool {
    #[rustfmt::skip]
    const WORDS: [&str; 30] = [
        "gate", "gates", "gated", "gating", "act", "acts", "activation", "activations", "cap", "caps", "capped", "capping",
        "softcap", "softcapping", "clamp", "norm", "norms", "normalize", "normalized", "normalization", "renorm", "renormalize",
        "temperature", "topk", "softmax", "sigmoid", "silu", "gelu", "relu", "glu",
    ];
    is_of_experts(part) || part.split('_').any(|word| WORDS.contains(&word))
}

/// What a field means in the models that have it, as far as it can be held against a spec.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Means {
    /// The value of this key, of which the second is what a spec without it has.
    Key(&'static str, &'static str, &'static str),
    /// Set where this key is there and is not this word.
    Switch(&'static str, &'static str, &'static str),
    /// The activation.
    Activation,
    /// Whether the weights are divided by their sum.
    Renorm,
    /// The factor on the weights or on their sum.
    Scale,
    /// How many shared experts there are.
    SharedCount,
    /// Whether the score is this.
    IsScore(&'static str),
    /// `greedy`, `group_limited_greedy` or `noaux_tc`.
    Method,
    /// The numbers of dense layers.
    DenseLayers,
    /// A word of generation for the logits of tokens, and of few models for K.
    OfGeneration,
    /// Only these values change nothing.
    Only(&'static [&'static str]),
}

/// Fields of the layer by any model's name for them. A row of `models` reads those of its own type; any other must agree with
/// what the layer became.
#[rustfmt::skip]
pub(super) const MEANINGS: &[(&[&str], Means)] = &[
    (&["hidden_size", "d_model"], Means::Key("moe", "hidden", "")),
    (
        &[
            "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts", "n_experts",
        ],
        Means::Key("moe", "experts", ""),
    ),
    (
        &[
            "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts",
            "experts_per_token", "num_selected_experts", "moe_router_topk", "topk", "router_top_k", "num_activated_experts",
        ],
        Means::Key("router", "top_k", ""),
    ),
    (
        &[
            "moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", "expert_intermediate_size",
            "expert_dim", "expert_hidden_dim",
        ],
        Means::Key("expert", "intermediate", ""),
    ),
    (
        &[
            "norm_topk_prob", "moe_renormalize", "norm_expert_weight", "route_norm", "moe_norm_topk_prob",
            "norm_topk_weights",
        ],
        Means::Renorm,
    ),
    (
        &[
            "routed_scaling_factor", "route_scale", "router_scaling_factor", "moe_router_scaling_factor",
            "moe_routed_scaling_factor", "routed_scale", "moe_router_topk_scaling_factor",
        ],
        Means::Scale,
    ),
    (
        &[
            "scoring_func", "score_function", "score_func", "moe_router_activation", "moe_router_activation_func",
            "moe_gate_act", "moe_router_score_function", "expert_selection_fn", "router_score_function", "router_activation",
            "gate_act",
        ],
        Means::Key("router", "score", ""),
    ),
    (&["moe_router_use_sigmoid", "use_sigmoid_gate"], Means::IsScore("sigmoid")),
    (&["n_group", "num_expert_group", "num_expert_groups", "moe_router_num_groups"], Means::Key("router", "groups", "1")),
    (&["topk_group", "num_limited_groups", "moe_router_group_topk"], Means::Key("router", "topk_groups", "1")),
    (&["group_limited_greedy"], Means::Switch("router", "groups", "1")),
    (&["topk_method"], Means::Method),
    (
        &[
            "use_expert_bias", "moe_use_aux_free", "use_routing_bias", "moe_router_enable_expert_bias", "use_moe_router_bias",
            "enable_expert_bias", "use_router_bias", "use_gate_bias",
        ],
        Means::Switch("router", "correction_on", "none"),
    ),
    (&["router_bias", "gate_bias"], Means::Switch("router", "bias", "false")),
    (
        &[
            "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert", "moe_shared_experts",
            "n_shared_expert",
        ],
        Means::SharedCount,
    ),
    (
        &[
            "shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim", "share_expert_dims",
            "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size",
        ],
        Means::Key("shared", "intermediate", "0"),
    ),
    (&["use_mixed_mlp_moe", "use_shared_expert"], Means::Switch("shared", "intermediate", "0")),
    (&["shared_expert_sink"], Means::Switch("router", "joint_shared", "0")),
    (&["shared_expert_combination_strategy", "shared_expert_combine"], Means::Key("shared", "combine", "sum")),
    (&["moe_apply_router_weight_on_input", "apply_router_weight_on_input"], Means::Switch("router", "apply", "output")),
    (
        &[
            "mlp_bias", "use_bias", "moe_bias", "use_mlp_bias", "expert_bias", "experts_bias", "add_bias_linear",
        ],
        Means::Switch("expert", "bias", "false"),
    ),
    (
        &[
            "hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "mlp_hidden_act", "ffn_act_fn",
        ],
        Means::Activation,
    ),
    (&["swiglu_limit", "swiglu_limits", "moe_act_limit", "swiglu_clamp"], Means::Key("expert", "clamp_limit", "0")),
    (&["swiglu_limits_shared"], Means::Key("shared", "clamp_limit", "0")),
    (&["swiglu_alpha"], Means::Key("expert", "alpha", "1")),
    (&["mlp_gate_softcap"], Means::Key("expert", "gate_softcap", "0")),
    (&["mlp_up_softcap"], Means::Key("expert", "up_softcap", "0")),
    (
        &[
            "moe_router_logit_softcapping", "router_logit_softcapping", "router_softcap",
        ],
        Means::Key("router", "logit_softcap", "0"),
    ),
    (&["moe_latent_size"], Means::Key("expert", "latent", "0")),
    (&["zero_expert_num"], Means::Key("router", "identity_experts", "0")),
    (&["zero_expert_type"], Means::Only(&["identity"])),
    (&["expert_capacity"], Means::Key("capacity", "tokens", "0")),
    (&["num_hash_layers", "moe_layer_num_skipped", "moe_layer_offset"], Means::Only(&["0"])),
    (&["first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", "expert_layer_offset"], Means::Only(&["0"])),
    (
        &[
            "moe_layer_freq", "moe_layer_interval", "moe_every_n_layer", "expert_layer_period", "decoder_sparse_step",
            "encoder_sparse_step", "interleave_moe_layer_step",
        ],
        Means::Only(&["1"]),
    ),
    (&["mlp_layer_types"], Means::Only(&["sparse", "moe"])),
    (&["is_moe_layer"], Means::Only(&["true"])),
    (&["mlp_only_layers"], Means::DenseLayers),
    (&["enable_moe_block", "use_moe", "is_moe"], Means::Only(&["true"])),
    (&["use_grouped_topk"], Means::Only(&["true"])),
    // How a shared expert is weighed, where there is one, which its width says.
    (&["shared_moe_mode"], Means::Only(&["sigmoid", "none"])),
    (&["feed_forward_proj"], Means::Activation),
    (&["is_gated_act"], Means::Key("expert", "gated", "true")),
    (&["router_type"], Means::Only(&["tokens_masked"])),
    // Capacities of training code, whose published inference drops nothing.
    (&["moe_drop_tokens", "moe_random_routing_dropped_token", "moe_use_hard_gate", "moe_dropless"], Means::Only(&["false"])),
    // Of generation, and of the head on the logits, where they say what every model does.
    (&["top_k"], Means::OfGeneration),
    (&["temperature"], Means::Only(&["1"])),
    (&["norm_softmax"], Means::Only(&["false"])),
    (&["moe_gate"], Means::Only(&["top2_fused", "topk"])),
];

/// Parts of a name that concern experts, routing, gates, activations, norms, caps or scales.
#[rustfmt::skip]
const SPOKEN: &[&str] = &[
    "expert", "moe", "rout", "gate", "gating", "topk", "top_k", "score", "scoring", "_act", "act_", "activation", "swiglu",
    "glu", "norm", "cap", "clamp", "clip", "limit", "share", "bias", "group", "sparse", "dense", "mlp", "ffn", "feed_forward",
    "latent", "hash", "scal", "multiplier", "alpha", "beta", "temperature", "softmax", "sigmoid", "silu", "gelu", "relu",
    "jitter", "threshold", "weight", "logit", "balanc", "drop", "layer_freq", "intermediate",
];

/// Whether a name concerns what a MoE layer computes.
pub(super) fn concerns_layer(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "act" || SPOKEN.iter().any(|part| name.contains(part))
}
