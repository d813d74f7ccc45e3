//! The table of model types: what each one's published code does, and which fields of its config say the rest.
//! Reading the fields is `layer`'s business; where the tensors are stored is in `stored`.

use super::rules::Fallback::{Flag, Integer, Number, Word};
use super::rules::{Activation, Capacity, Feature, Layers, Model, Renorm, RouterBias, Scale, Selection, Shared, TopK};
use super::stored;

const MOE_FFN: &[&str] = &["moe_intermediate_size"];
/// `moe_intermediate_size` wins where it exists: the other is then the dense layers'.
const PLAIN_FFN: &[&str] = &["moe_intermediate_size", "intermediate_size"];
const NORM: &[&str] = &["norm_topk_prob", "moe_renormalize"];
const SHARED_COUNT: &[&str] =
    &["n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert", "moe_shared_experts"];
const SHARED_WIDTH: &[&str] = &["shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim"];

const SCORE: &[&str] = &["scoring_func", "score_function", "score_func"];

/// softmax, then the best; dropless SwiGLU. What every row starts from.
const SOFTMAX: Model = Model {
    types: &[],
    defaults: &[],
    ffn: PLAIN_FFN,
    top_k: TopK::Field,
    score: "softmax",
    score_fields: &[],
    order: "score_topk",
    selection: Selection::Plain,
    renorm: Renorm::Never,
    scale: Scale::None,
    activation: Activation::Field,
    gated: true,
    bias: false,
    router_bias: RouterBias::Never,
    shared: Shared::None,
    capacity: Capacity::None,
    features: &[],
    layers: Layers::All,
    prefix: "model.layers.{N}.mlp.",
    router: &["gate.weight"],
    correction: &["gate.e_score_correction_bias", "e_score_correction_bias", "gate.expert_bias"],
    experts: &[stored::PROJECTIONS, stored::FUSED],
    shared_stored: stored::SHARED_EXPERTS,
    also: &[],
};

/// sigmoid scores, a bias for the selection, groups, a scale: DeepSeek-V3.
const SIGMOID: Model = Model {
    ffn: MOE_FFN,
    score: "sigmoid",
    score_fields: SCORE,
    selection: Selection::Method("noaux_tc"),
    renorm: Renorm::SumIf(NORM, 1e-20),
    scale: Scale::Weights,
    shared: Shared::Count(SHARED_COUNT),
    layers: Layers::FirstDense,
    ..SOFTMAX
};

/// The selected logits, then softmax.
const TOP_K_FIRST: Model = Model { order: "topk_score", ..SOFTMAX };

/// `w1`, `w3`, `w2`: gate, up, down.
const NUMBERED: Model =
    Model { renorm: Renorm::Sum(0.0), prefix: "model.layers.{N}.block_sparse_moe.", experts: stored::NUMBERED, ..SOFTMAX };

/// Model types that a spec cannot express, and why.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("zaya", "its router is an MLP whose state is carried from layer to layer"),
    ("doge", "its experts are looked up by product keys"),
    ("muse_spark", "each of its experts has a norm of its own on the output"),
];

/// Every family.
pub(super) static MODELS: &[Model] = &[
    Model {
        types: &["switch_transformers"],
        defaults: &[("expert_capacity", Integer(64)), ("dense_act_fn", Word("relu")), ("router_bias", Flag(false))],
        ffn: &["d_ff"],
        top_k: TopK::Fixed(1),
        gated: false,
        router_bias: RouterBias::If("router_bias"),
        capacity: Capacity::Switch,
        layers: Layers::SwitchSteps,
        prefix: "encoder.block.{N}.layer.1.mlp.",
        router: &["router.classifier.weight"],
        experts: &[stored::SWITCH],
        ..SOFTMAX
    },
    Model {
        types: &["nllb-moe", "nllb_moe"],
        defaults: &[
            ("activation_function", Word("relu")),
            ("moe_eval_capacity_token_fraction", Number(1.0)),
            ("moe_token_dropout", Number(0.2)),
            ("normalize_router_prob_before_dropping", Flag(false)),
            ("router_bias", Flag(false)),
        ],
        ffn: &["encoder_ffn_dim"],
        top_k: TopK::Fixed(2),
        // torch.finfo(torch.float32).eps
        renorm: Renorm::SumClamped(f32::EPSILON as f64),
        gated: false,
        bias: true,
        router_bias: RouterBias::If("router_bias"),
        capacity: Capacity::Nllb,
        layers: Layers::NllbSteps,
        prefix: "model.encoder.layers.{N}.ffn.",
        router: &["router.classifier.weight"],
        experts: &[stored::NLLB],
        ..SOFTMAX
    },
    Model {
        types: &["mixtral"],
        defaults: &[("num_experts_per_tok", Integer(2)), ("num_local_experts", Integer(8))],
        ..NUMBERED
    },
    Model { types: &["minimax", "minimax_text_01"], ..NUMBERED },
    Model {
        types: &["qwen2_moe"],
        defaults: &[("norm_topk_prob", Flag(false)), ("num_experts_per_tok", Integer(4))],
        ffn: MOE_FFN,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        layers: Layers::SparseStep,
        shared_stored: stored::SHARED_EXPERT,
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_moe"],
        defaults: &[("norm_topk_prob", Flag(false)), ("num_experts_per_tok", Integer(8))],
        ffn: MOE_FFN,
        renorm: Renorm::SumIf(NORM, 0.0),
        layers: Layers::SparseStep,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_next", "qwen3_5_moe"],
        defaults: &[("norm_topk_prob", Flag(true)), ("num_experts_per_tok", Integer(10))],
        ffn: MOE_FFN,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        layers: Layers::SparseStep,
        shared_stored: stored::SHARED_EXPERT,
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model {
        types: &["olmoe", "flex_olmo", "mellum"],
        defaults: &[("norm_topk_prob", Flag(false)), ("num_experts_per_tok", Integer(8))],
        renorm: Renorm::SumIf(NORM, 0.0),
        ..SOFTMAX
    },
    Model {
        types: &["jamba"],
        defaults: &[
            ("num_experts_per_tok", Integer(2)),
            ("expert_layer_period", Integer(2)),
            ("expert_layer_offset", Integer(1)),
        ],
        layers: Layers::Period,
        prefix: "model.layers.{N}.feed_forward.",
        router: &["router.weight"],
        ..SOFTMAX
    },
    Model {
        types: &["hunyuan_v1_moe"],
        defaults: &[("num_shared_expert", Integer(1))],
        renorm: Renorm::Sum(0.0),
        shared: Shared::Count(SHARED_COUNT),
        router: &["gate.wg.weight"],
        shared_stored: stored::SHARED_MLP,
        ..SOFTMAX
    },
    Model {
        types: &["dbrx"],
        defaults: &[("ffn_act_fn", Word("silu")), ("moe_normalize_expert_weights", Number(1.0))],
        ffn: &["ffn_hidden_size"],
        renorm: Renorm::P("moe_normalize_expert_weights"),
        prefix: "transformer.blocks.{N}.ffn.",
        router: &["router.layer.weight"],
        experts: &[stored::DBRX],
        ..SOFTMAX
    },
    Model {
        types: &["granitemoe"],
        prefix: "model.layers.{N}.block_sparse_moe.",
        router: &["router.layer.weight", "router.weight"],
        experts: &[stored::LINEAR],
        ..TOP_K_FIRST
    },
    Model {
        // The shared MLP is a sibling of the block, so that names start at the layer.
        types: &["granitemoeshared", "granitemoehybrid"],
        shared: Shared::Width(SHARED_WIDTH),
        prefix: "model.layers.{N}.",
        router: &["block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight", "router.weight"],
        experts: &[stored::GRANITE_SHARED],
        shared_stored: stored::SHARED_LINEAR,
        ..TOP_K_FIRST
    },
    Model {
        types: &["jetmoe"],
        defaults: &[("activation_function", Word("silu")), ("num_experts_per_tok", Integer(2))],
        router: &["router.layer.weight"],
        experts: &[stored::LINEAR],
        also: stored::OUTPUT_BIAS,
        ..TOP_K_FIRST
    },
    Model {
        types: &["aria"],
        defaults: &[("moe_num_experts", Integer(8)), ("moe_topk", Integer(2)), ("moe_num_shared_experts", Integer(2))],
        shared: Shared::Count(SHARED_COUNT),
        prefix: "language_model.model.layers.{N}.mlp.",
        router: &["router.weight"],
        experts: &[stored::ARIA],
        ..TOP_K_FIRST
    },
    Model {
        types: &["cohere2_moe"],
        score_fields: &["expert_selection_fn"],
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Count(SHARED_COUNT),
        features: &[Feature::Combination],
        ..TOP_K_FIRST
    },
    Model {
        types: &["gpt_oss"],
        defaults: &[("swiglu_alpha", Number(1.702)), ("swiglu_limit", Number(7.0)), ("num_experts_per_tok", Integer(4))],
        activation: Activation::GptOss,
        bias: true,
        router_bias: RouterBias::Always,
        router: &["router.weight"],
        experts: &[stored::GPT_OSS],
        ..TOP_K_FIRST
    },
    Model {
        types: &["openai_privacy_filter"],
        defaults: &[("swiglu_alpha", Number(1.702)), ("swiglu_limit", Number(7.0))],
        activation: Activation::GptOss,
        bias: true,
        router_bias: RouterBias::Always,
        router: &["router.weight"],
        experts: &[stored::PRIVACY_FILTER],
        ..TOP_K_FIRST
    },
    Model {
        types: &["llama4"],
        defaults: &[("num_experts_per_tok", Integer(1)), ("interleave_moe_layer_step", Integer(1))],
        ffn: &["intermediate_size"],
        score: "sigmoid",
        shared: Shared::One,
        features: &[Feature::InputScaled],
        layers: Layers::Interleaved,
        prefix: "language_model.model.layers.{N}.feed_forward.",
        router: &["router.weight"],
        experts: &[stored::TRANSPOSED],
        shared_stored: stored::SHARED_EXPERT,
        ..TOP_K_FIRST
    },
    Model {
        types: &["phimoe"],
        defaults: &[("router_jitter_noise", Number(0.01)), ("num_experts_per_tok", Integer(2))],
        features: &[Feature::SparseMixer],
        router: &["gate.weight", "router.weight"],
        renorm: Renorm::Never,
        ..NUMBERED
    },
    Model {
        types: &["deepseek_v2"],
        defaults: &[("routed_scaling_factor", Number(1.0)), ("first_k_dense_replace", Integer(0))],
        ffn: MOE_FFN,
        score_fields: SCORE,
        selection: Selection::Method("greedy"),
        renorm: Renorm::Ignored,
        scale: Scale::Weights,
        shared: Shared::Count(SHARED_COUNT),
        layers: Layers::FirstDense,
        ..SOFTMAX
    },
    Model {
        types: &["deepseek_v3", "deepseek_v32", "kimi_k2"],
        defaults: &[("norm_topk_prob", Flag(true)), ("routed_scaling_factor", Number(2.5))],
        ..SIGMOID
    },
    Model {
        types: &["axk1", "bailing_moe", "bailing_moe_v2", "solar_open", "exaone_moe"],
        defaults: &[("norm_topk_prob", Flag(true)), ("routed_scaling_factor", Number(2.5))],
        correction: &["gate.e_score_correction_bias", "e_score_correction_bias", "gate.expert_bias"],
        ..SIGMOID
    },
    Model {
        types: &["glm4_moe", "glm4v_moe", "glm4_moe_lite", "glm_moe_dsa", "dots1"],
        defaults: &[("norm_topk_prob", Flag(true)), ("routed_scaling_factor", Number(1.0))],
        ..SIGMOID
    },
    Model {
        types: &["mimo_v2_flash"],
        defaults: &[("norm_topk_prob", Flag(true)), ("routed_scaling_factor", Number(1.0))],
        shared: Shared::None,
        ..SIGMOID
    },
    Model {
        types: &["kimi_linear"],
        defaults: &[("moe_renormalize", Flag(true)), ("routed_scaling_factor", Number(1.0))],
        prefix: "model.layers.{N}.block_sparse_moe.",
        experts: stored::NUMBERED,
        ..SIGMOID
    },
    Model {
        types: &["mistral4"],
        defaults: &[("norm_topk_prob", Flag(true)), ("routed_scaling_factor", Number(1.0))],
        score: "softmax",
        score_fields: &[],
        selection: Selection::Grouped,
        ..SIGMOID
    },
    Model {
        types: &["minimax_m2"],
        score: "sigmoid",
        selection: Selection::Biased,
        correction: &["e_score_correction_bias", "gate.e_score_correction_bias"],
        ..NUMBERED
    },
    Model {
        types: &["lfm2_moe"],
        defaults: &[
            ("norm_topk_prob", Flag(true)),
            ("routed_scaling_factor", Number(1.0)),
            ("use_expert_bias", Flag(true)),
            ("num_dense_layers", Integer(2)),
        ],
        ffn: MOE_FFN,
        score: "sigmoid",
        selection: Selection::BiasedIf("use_expert_bias"),
        renorm: Renorm::SumIf(NORM, 1e-6),
        scale: Scale::Weights,
        activation: Activation::Fixed("silu"),
        layers: Layers::DenseCount,
        prefix: "model.layers.{N}.feed_forward.",
        correction: &["expert_bias"],
        experts: stored::NUMBERED,
        ..SOFTMAX
    },
    Model {
        types: &["afmoe"],
        defaults: &[("route_scale", Number(1.0)), ("num_dense_layers", Integer(1))],
        selection: Selection::Biased,
        renorm: Renorm::Sum(1e-20),
        layers: Layers::DenseCount,
        router: &["router.gate.weight"],
        correction: &["expert_bias"],
        ..SIGMOID
    },
    Model {
        types: &["ernie4_5_moe"],
        defaults: &[("moe_norm_min", Number(1e-12)), ("moe_layer_interval", Integer(1))],
        ffn: MOE_FFN,
        selection: Selection::Biased,
        renorm: Renorm::SumClamped(1e-12),
        shared: Shared::Count(SHARED_COUNT),
        layers: Layers::Range,
        correction: &["moe_statics.e_score_correction_bias", "gate.moe_statics.e_score_correction_bias"],
        ..SOFTMAX
    },
    Model {
        types: &["longcat_flash"],
        defaults: &[("routed_scaling_factor", Number(6.0)), ("zero_expert_num", Integer(256)), ("moe_topk", Integer(12))],
        ffn: &["expert_ffn_hidden_size"],
        selection: Selection::Biased,
        scale: Scale::Weights,
        features: &[Feature::Identity],
        router: &["router.classifier.weight"],
        correction: &["router.e_score_correction_bias"],
        ..SOFTMAX
    },
    Model {
        types: &["deepseek_v4"],
        defaults: &[("routed_scaling_factor", Number(1.5)), ("swiglu_limit", Number(10.0))],
        score: "sqrtsoftplus",
        selection: Selection::Biased,
        renorm: Renorm::Sum(1e-20),
        activation: Activation::Clamped,
        features: &[Feature::HashLayers],
        ..SIGMOID
    },
    Model { types: &["hy_v3", "inkling2"], selection: Selection::Biased, renorm: Renorm::Sum(1e-20), ..SIGMOID },
    Model {
        types: &["step3p5", "step3p7"],
        selection: Selection::Biased,
        renorm: Renorm::Sum(0.0),
        scale: Scale::Output,
        activation: Activation::ClampedAfter,
        shared: Shared::Width(SHARED_WIDTH),
        ..SIGMOID
    },
    Model {
        types: &["minimax_m3_vl", "minimax_m3"],
        defaults: &[("swiglu_alpha", Number(1.702)), ("swiglu_limit", Number(7.0))],
        ffn: PLAIN_FFN,
        selection: Selection::Biased,
        renorm: Renorm::Sum(0.0),
        scale: Scale::Output,
        activation: Activation::GptOss,
        shared: Shared::Width(SHARED_WIDTH),
        shared_stored: stored::SHARED_FUSED,
        ..SIGMOID
    },
    Model {
        types: &["laguna"],
        selection: Selection::Biased,
        renorm: Renorm::Sum(0.0),
        scale: Scale::Output,
        shared: Shared::Width(SHARED_WIDTH),
        features: &[Feature::Softcap],
        ..SIGMOID
    },
    Model {
        types: &["kolibri1"],
        order: "topk_score",
        selection: Selection::LogitBiased,
        renorm: Renorm::SumIf(NORM, 0.0),
        scale: Scale::None,
        ..SIGMOID
    },
    Model {
        types: &["nemotron_h"],
        defaults: &[
            ("norm_topk_prob", Flag(true)),
            ("routed_scaling_factor", Number(1.0)),
            ("mlp_hidden_act", Word("relu2")),
            ("n_group", Integer(1)),
        ],
        gated: false,
        shared: Shared::Width(&["moe_shared_expert_intermediate_size"]),
        features: &[Feature::Latent],
        layers: Layers::Blocks,
        prefix: "backbone.layers.{N}.mixer.",
        experts: &[stored::UNGATED, stored::UNGATED_FUSED],
        shared_stored: stored::SHARED_UNGATED,
        ..SIGMOID
    },
    Model {
        types: &["gemma4"],
        defaults: &[("rms_norm_eps", Number(1e-6)), ("hidden_activation", Word("gelu_pytorch_tanh"))],
        ffn: MOE_FFN,
        renorm: Renorm::Sum(0.0),
        features: &[Feature::RouterNorm],
        prefix: "model.language_model.layers.{N}.",
        router: &["router.proj.weight"],
        experts: &[stored::FUSED],
        also: stored::GEMMA4,
        ..SOFTMAX
    },
    Model {
        types: &["inkling"],
        defaults: &[("route_scale", Number(1.0))],
        selection: Selection::Biased,
        // The weights are divided by the sum over routed and shared ones: `joint_shared` says so.
        renorm: Renorm::Never,
        shared: Shared::Joint(SHARED_COUNT),
        shared_stored: stored::INKLING_SHARED,
        also: stored::GLOBAL_SCALE,
        ..SIGMOID
    },
];
