//! What the configuration classes of transformers say of the layer where a file says nothing: the fields that the rows of
//! `models` read, and no sizes, which every file has.

use super::rules::Fallback::{self, Flag, Integer, Number, Word};

type Defaults = &'static [(&'static str, Fallback)];

pub(super) const SWITCH: Defaults =
    &[("expert_capacity", Integer(64)), ("dense_act_fn", Word("relu")), ("router_bias", Flag(false))];
pub(super) const NLLB: Defaults = &[
    ("activation_function", Word("relu")),
    ("second_expert_policy", Word("all")),
    ("moe_eval_capacity_token_fraction", Number(1.0)),
    ("moe_token_dropout", Number(0.2)),
    ("normalize_router_prob_before_dropping", Flag(false)),
    ("batch_prioritized_routing", Flag(false)),
    ("router_bias", Flag(false)),
    ("encoder_sparse_step", Integer(4)),
];
pub(super) const MIXTRAL: Defaults = &[("num_experts_per_tok", Integer(2)), ("num_local_experts", Integer(8))];
pub(super) const QWEN2: Defaults = &[
    ("norm_topk_prob", Flag(false)),
    ("num_experts_per_tok", Integer(4)),
    ("shared_expert_intermediate_size", Integer(5632)),
    ("decoder_sparse_step", Integer(1)),
];
pub(super) const QWEN3: Defaults =
    &[("norm_topk_prob", Flag(false)), ("num_experts_per_tok", Integer(8)), ("decoder_sparse_step", Integer(1))];
pub(super) const QWEN3_NEXT: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(10)),
    ("shared_expert_intermediate_size", Integer(512)),
    ("decoder_sparse_step", Integer(1)),
];
pub(super) const QWEN3_5: Defaults = &[("num_experts_per_tok", Integer(8)), ("shared_expert_intermediate_size", Integer(512))];
pub(super) const OLMOE: Defaults = &[("norm_topk_prob", Flag(false)), ("num_experts_per_tok", Integer(8))];
pub(super) const MELLUM: Defaults = &[("norm_topk_prob", Flag(true)), ("num_experts_per_tok", Integer(8))];
pub(super) const JAMBA: Defaults =
    &[("num_experts_per_tok", Integer(2)), ("expert_layer_period", Integer(2)), ("expert_layer_offset", Integer(1))];
pub(super) const HUNYUAN: Defaults = &[("num_shared_expert", Integer(1))];
pub(super) const DBRX: Defaults = &[("ffn_act_fn", Word("silu")), ("moe_normalize_expert_weights", Number(1.0))];
pub(super) const GRANITE_SHARED: Defaults = &[("shared_intermediate_size", Integer(0))];
pub(super) const GRANITE_HYBRID: Defaults = &[("shared_intermediate_size", Integer(1024))];
pub(super) const JETMOE: Defaults = &[("activation_function", Word("silu")), ("num_experts_per_tok", Integer(2))];
pub(super) const ARIA: Defaults =
    &[("moe_num_experts", Integer(8)), ("moe_topk", Integer(2)), ("moe_num_shared_experts", Integer(2))];
pub(super) const COHERE2: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("expert_selection_fn", Word("softmax")),
    ("num_shared_experts", Integer(0)),
    ("shared_expert_combination_strategy", Word("average")),
];
pub(super) const GPT_OSS: Defaults =
    &[("swiglu_alpha", Number(1.702)), ("swiglu_limit", Number(7.0)), ("num_experts_per_tok", Integer(4))];
pub(super) const LLAMA4: Defaults = &[("num_experts_per_tok", Integer(1)), ("interleave_moe_layer_step", Integer(1))];
pub(super) const PHI: Defaults = &[("router_jitter_noise", Number(0.01))];

pub(super) const DEEPSEEK_V2: Defaults = &[
    ("topk_method", Word("greedy")),
    ("scoring_func", Word("softmax")),
    ("routed_scaling_factor", Number(1.0)),
    ("n_shared_experts", Integer(2)),
    ("first_k_dense_replace", Integer(0)),
];
pub(super) const DEEPSEEK_V3: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(8)),
    ("topk_group", Integer(4)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(3)),
];
pub(super) const AXK1: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(8)),
    ("topk_group", Integer(4)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
    ("rms_norm_eps", Number(1e-6)),
];
/// Not a class of transformers: those of the model's own code.
pub(super) const BAILING: Defaults =
    &[("norm_topk_prob", Flag(true)), ("num_shared_experts", Integer(0)), ("first_k_dense_replace", Integer(0))];
/// Not a class of transformers: those of the model's own code.
pub(super) const BAILING_V2: Defaults = &[
    ("score_function", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("moe_router_enable_expert_bias", Flag(true)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(8)),
    ("topk_group", Integer(4)),
    ("num_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(0)),
];
pub(super) const SOLAR: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(0)),
];
pub(super) const EXAONE: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("num_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const GLM4: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const GLM4_LITE: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.8)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const GLM_DSA: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(3)),
];
pub(super) const DOTS1: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(false)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("first_k_dense_replace", Integer(0)),
];
pub(super) const MIMO: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const KIMI_LINEAR: Defaults = &[
    ("moe_router_activation_func", Word("sigmoid")),
    ("moe_renormalize", Flag(true)),
    ("routed_scaling_factor", Number(2.446)),
    ("num_expert_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("num_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const MISTRAL4: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(0)),
];
pub(super) const MINIMAX_M2: Defaults = &[("scoring_func", Word("sigmoid")), ("use_routing_bias", Flag(true))];
pub(super) const LFM2: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.0)),
    ("use_expert_bias", Flag(true)),
    ("num_dense_layers", Integer(2)),
];
pub(super) const AFMOE: Defaults = &[
    ("score_func", Word("sigmoid")),
    ("route_norm", Flag(true)),
    ("route_scale", Number(1.0)),
    ("num_shared_experts", Integer(2)),
    ("num_dense_layers", Integer(1)),
];
pub(super) const ERNIE: Defaults = &[
    ("moe_use_aux_free", Flag(true)),
    ("moe_norm_min", Number(1e-12)),
    ("moe_num_shared_experts", Integer(2)),
    ("moe_layer_start_index", Integer(1)),
    ("moe_layer_interval", Integer(1)),
];
pub(super) const LONGCAT: Defaults =
    &[("routed_scaling_factor", Number(6.0)), ("zero_expert_num", Integer(256)), ("moe_topk", Integer(12))];
pub(super) const DEEPSEEK_V4: Defaults = &[
    ("scoring_func", Word("sqrtsoftplus")),
    ("routed_scaling_factor", Number(1.5)),
    ("swiglu_limit", Number(10.0)),
    ("n_shared_experts", Integer(1)),
];
pub(super) const HY_V3: Defaults = &[
    ("moe_router_enable_expert_bias", Flag(true)),
    ("route_norm", Flag(true)),
    ("router_scaling_factor", Number(2.826)),
    ("num_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const INKLING2: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("route_scale", Number(8.0)),
    ("mlp_gate_softcap", Number(4.0)),
    ("mlp_up_softcap", Number(25.0)),
];
pub(super) const STEP3: Defaults = &[
    ("moe_router_activation", Word("sigmoid")),
    ("use_moe_router_bias", Flag(true)),
    ("norm_expert_weight", Flag(true)),
    ("moe_router_scaling_factor", Number(1.0)),
    ("share_expert_dim", Integer(1280)),
];
pub(super) const MINIMAX_M3: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("use_routing_bias", Flag(true)),
    ("routed_scaling_factor", Number(2.0)),
    ("swiglu_alpha", Number(1.702)),
    ("swiglu_limit", Number(7.0)),
    ("shared_intermediate_size", Integer(3072)),
    ("first_k_dense_replace", Integer(0)),
];
pub(super) const LAGUNA: Defaults = &[
    ("moe_routed_scaling_factor", Number(1.0)),
    ("moe_router_logit_softcapping", Number(0.0)),
    ("shared_expert_intermediate_size", Integer(512)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const KOLIBRI1: Defaults = &[("norm_topk_prob", Flag(false)), ("shared_expert_intermediate_size", Integer(512))];
pub(super) const NEMOTRON: Defaults = &[
    ("scoring_func", Word("sigmoid")),
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(1.0)),
    ("mlp_hidden_act", Word("relu2")),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("moe_shared_expert_intermediate_size", Integer(7688)),
];
pub(super) const GEMMA4: Defaults =
    &[("enable_moe_block", Flag(true)), ("rms_norm_eps", Number(1e-6)), ("hidden_activation", Word("gelu_pytorch_tanh"))];
pub(super) const INKLING: Defaults = &[("route_scale", Number(8.0)), ("n_shared_experts", Integer(2))];

pub(super) const QWEN3_VL: Defaults = &[("num_experts_per_tok", Integer(4)), ("decoder_sparse_step", Integer(1))];
pub(super) const QWEN3_OMNI: Defaults =
    &[("norm_topk_prob", Flag(true)), ("num_experts_per_tok", Integer(8)), ("decoder_sparse_step", Integer(1))];
pub(super) const QWEN3_TALKER: Defaults =
    &[("norm_topk_prob", Flag(false)), ("num_experts_per_tok", Integer(8)), ("decoder_sparse_step", Integer(1))];
pub(super) const QWEN4_EXP: Defaults =
    &[("norm_topk_prob", Flag(true)), ("num_experts_per_tok", Integer(10)), ("shared_expert_intermediate_size", Integer(512))];
pub(super) const LARA_MINI: Defaults =
    &[("norm_topk_prob", Flag(true)), ("num_experts_per_tok", Integer(4)), ("shared_expert_intermediate_size", Integer(512))];
pub(super) const FLINT: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(6)),
    ("shared_expert_intermediate_size", Integer(1024)),
    ("decoder_sparse_step", Integer(1)),
];
pub(super) const BEAM: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(8)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(8)),
    ("topk_group", Integer(4)),
    ("first_k_dense_replace", Integer(3)),
];
pub(super) const AXK2: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(8)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const BAILING_HYBRID: Defaults = &[
    ("moe_renormalize", Flag(true)),
    ("num_experts_per_token", Integer(8)),
    ("routed_scaling_factor", Number(2.5)),
    ("num_expert_group", Integer(8)),
    ("topk_group", Integer(4)),
    ("num_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(2)),
];
pub(super) const SARVAM: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const DOTS3_NOTE: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(8)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("shared_experts_intermediate_size", Integer(1536)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const GLM5_NEXT: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(8)),
    ("routed_scaling_factor", Number(2.5)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("swiglu_limit", Number(10.0)),
    ("first_k_dense_replace", Integer(3)),
];
pub(super) const HY_V4: Defaults = &[
    ("norm_topk_prob", Flag(true)),
    ("num_experts_per_tok", Integer(8)),
    ("routed_scaling_factor", Number(2.827)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("swiglu_limit", Number(10.0)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const MISTRAL_LARGE4: Defaults = &[
    ("num_experts_per_tok", Integer(4)),
    ("routed_scaling_factor", Number(1.0)),
    ("n_group", Integer(1)),
    ("topk_group", Integer(1)),
    ("n_shared_experts", Integer(1)),
    ("first_k_dense_replace", Integer(1)),
];
pub(super) const UNLIMITED_OCR: Defaults = &[
    ("topk_method", Word("greedy")),
    ("routed_scaling_factor", Number(1.0)),
    ("n_shared_experts", Integer(2)),
    ("first_k_dense_replace", Integer(1)),
];
