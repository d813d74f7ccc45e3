//! The table of model types: what each one's published code does, and which fields of its config say the rest.
//! Reading the fields is `layer`'s business; where the tensors are stored is in `files`.

use super::rules::{Activation, Capacity, Feature, Layers, Model, Renorm, RouterBias, Scale, Selection, Shared, ToldBy, TopK};
use super::{defaults, stored};

const MOE_INTERMEDIATE: &[&str] = &["moe_intermediate_size"];
const INTERMEDIATE: &[&str] = &["intermediate_size"];
/// `moe_intermediate_size` wins where it exists: the other is then the dense layers'.
const EITHER_INTERMEDIATE: &[&str] = &["moe_intermediate_size", "intermediate_size"];
const NORM: &[&str] = &["norm_topk_prob"];
const SCALE: &[&str] = &["routed_scaling_factor"];
const SCORE: &[&str] = &["scoring_func"];
const ACTIVATION: &[&str] = &["hidden_act"];
const SHARED_COUNT: &[&str] = &["n_shared_experts", "num_shared_experts"];
const SHARED_WIDTH: &[&str] = &["shared_expert_intermediate_size"];

const NUMBERED_PREDICTION: &[Feature] = &[Feature::NumberedPrediction];

/// softmax, then the best; dropless SwiGLU. What every row starts from.
const SOFTMAX: Model = Model {
    types: &[],
    told_by: None,
    defaults: &[],
    intermediate: INTERMEDIATE,
    top_k: TopK::Field,
    score: "softmax",
    score_fields: &[],
    order: "score_topk",
    selection: Selection::Plain,
    corrected_if: &[],
    renorm: Renorm::Never,
    scale: Scale::None,
    activation: Activation::Field(ACTIVATION),
    gated: true,
    bias: false,
    router_bias: RouterBias::Never,
    shared: Shared::None,
    capacity: Capacity::None,
    features: &[],
    layers: Layers::All,
    also: &[],
    ignored: &[],
};

/// sigmoid scores, a bias for the selection, groups, a scale: DeepSeek-V3.
const SIGMOID: Model = Model {
    intermediate: MOE_INTERMEDIATE,
    score: "sigmoid",
    score_fields: SCORE,
    // A bias and groups whatever `topk_method` says, which their classes do not read.
    selection: Selection::Grouped { mask: "-inf", corrected: true },
    renorm: Renorm::SumIf(NORM, 1e-20),
    scale: Scale::Weights(SCALE),
    shared: Shared::Count(SHARED_COUNT),
    layers: Layers::FirstDense,
    ..SOFTMAX
};

/// The same by classes that read no word for the score.
const GROUPED: Model = Model { score_fields: &[], ..SIGMOID };

/// The selected logits, then softmax.
const TOP_K_FIRST: Model = Model { order: "topk_score", ..SOFTMAX };

/// softmax, the best, divided by their sum: Mixtral.
const RENORMALISED: Model = Model { renorm: Renorm::Sum(0.0), ..SOFTMAX };

/// Model types that a spec cannot express, and why.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("zaya", "its router is an MLP whose state is carried from layer to layer"),
    ("doge", "its experts are looked up by product keys"),
    ("muse_spark", "each of its experts has a norm of its own on the output"),
    ("ernie4_5_vl_moe", "tokens of text and of pictures have experts and routers of their own, and a mask says which is which"),
    ("dots3_note_vision_encoder", "the number of experts of its vision tower differs from layer to layer"),
    ("vitpose", "a data set's number chooses the expert: it has no router"),
    ("vitpose_backbone", "a data set's number chooses the expert: it has no router"),
];

/// Every family.
pub(super) static MODELS: &[Model] = &[
    Model {
        types: &["switch_transformers"],
        defaults: defaults::SWITCH,
        intermediate: &["d_ff"],
        activation: Activation::Field(&["dense_act_fn"]),
        top_k: TopK::Fixed(1),
        gated: false,
        router_bias: RouterBias::If("router_bias"),
        capacity: Capacity::Switch,
        layers: Layers::SwitchSteps,
        ..SOFTMAX
    },
    Model {
        types: &["nllb-moe", "nllb_moe"],
        defaults: defaults::NLLB,
        intermediate: &["encoder_ffn_dim"],
        activation: Activation::Field(&["activation_function"]),
        top_k: TopK::Fixed(2),
        // torch.finfo(torch.float32).eps
        renorm: Renorm::SumClamped(&[], f32::EPSILON as f64),
        gated: false,
        bias: true,
        router_bias: RouterBias::If("router_bias"),
        capacity: Capacity::Nllb,
        layers: Layers::NllbSteps,
        ..SOFTMAX
    },
    Model { types: &["mixtral"], defaults: defaults::MIXTRAL, ..RENORMALISED },
    Model { types: &["minimax", "minimax_text_01"], ..RENORMALISED },
    Model {
        types: &["qwen2_moe"],
        defaults: defaults::QWEN2,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        layers: Layers::SparseStep,
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_moe"],
        defaults: defaults::QWEN3,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        layers: Layers::SparseStep,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_next"],
        defaults: defaults::QWEN3_NEXT,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        layers: Layers::SparseStep,
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_5_moe"],
        defaults: defaults::QWEN3_5,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::Sum(0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model { types: &["olmoe", "flex_olmo"], defaults: defaults::OLMOE, renorm: Renorm::SumIf(NORM, 0.0), ..SOFTMAX },
    Model {
        types: &["mellum"],
        defaults: defaults::MELLUM,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        ..SOFTMAX
    },
    Model { types: &["jamba"], defaults: defaults::JAMBA, layers: Layers::Period, ..SOFTMAX },
    Model {
        types: &["hunyuan_v1_moe"],
        defaults: defaults::HUNYUAN,
        intermediate: EITHER_INTERMEDIATE,
        renorm: Renorm::Sum(0.0),
        shared: Shared::Count(&["num_shared_expert"]),
        ..SOFTMAX
    },
    Model {
        types: &["dbrx"],
        defaults: defaults::DBRX,
        intermediate: &["ffn_hidden_size"],
        activation: Activation::Field(&["ffn_act_fn"]),
        renorm: Renorm::P("moe_normalize_expert_weights"),
        ..SOFTMAX
    },
    Model { types: &["granitemoe"], ..TOP_K_FIRST },
    Model {
        // The shared MLP is a sibling of the block, so that names start at the layer.
        types: &["granitemoeshared", "granitemoe_swa"],
        defaults: defaults::GRANITE_SHARED,
        shared: Shared::Width(&["shared_intermediate_size"]),
        ..TOP_K_FIRST
    },
    Model {
        types: &["granitemoehybrid"],
        defaults: defaults::GRANITE_HYBRID,
        shared: Shared::Width(&["shared_intermediate_size"]),
        ..TOP_K_FIRST
    },
    Model {
        types: &["jetmoe"],
        defaults: defaults::JETMOE,
        activation: Activation::Field(&["activation_function"]),
        also: stored::OUTPUT_BIAS,
        ..TOP_K_FIRST
    },
    Model {
        types: &["aria"],
        defaults: defaults::ARIA,
        intermediate: EITHER_INTERMEDIATE,
        activation: Activation::SharedField(ACTIVATION),
        shared: Shared::Count(&["moe_num_shared_experts"]),
        ..TOP_K_FIRST
    },
    Model {
        types: &["cohere2_moe"],
        defaults: defaults::COHERE2,
        score_fields: &["expert_selection_fn"],
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Count(&["num_shared_experts"]),
        layers: Layers::FirstDense,
        features: &[Feature::Combination],
        ..TOP_K_FIRST
    },
    Model {
        types: &["gpt_oss"],
        defaults: defaults::GPT_OSS,
        activation: Activation::GptOss,
        bias: true,
        router_bias: RouterBias::Always,
        ..TOP_K_FIRST
    },
    Model {
        types: &["openai_privacy_filter"],
        defaults: defaults::GPT_OSS,
        activation: Activation::GptOss,
        bias: true,
        router_bias: RouterBias::Always,
        ..TOP_K_FIRST
    },
    Model {
        types: &["llama4"],
        defaults: defaults::LLAMA4,
        score: "sigmoid",
        shared: Shared::One,
        features: &[Feature::InputScaled],
        layers: Layers::Interleaved,
        ..TOP_K_FIRST
    },
    Model {
        types: &["phimoe"],
        defaults: defaults::PHI,
        // Its sparsemixer picks two, whatever `num_experts_per_tok` says.
        top_k: TopK::Fixed(2),
        features: &[Feature::SparseMixer],
        renorm: Renorm::Never,
        ..RENORMALISED
    },
    Model {
        types: &["deepseek_v2"],
        defaults: defaults::DEEPSEEK_V2,
        intermediate: MOE_INTERMEDIATE,
        score_fields: SCORE,
        selection: Selection::Method("greedy"),
        renorm: Renorm::Ignored,
        scale: Scale::Weights(SCALE),
        shared: Shared::Count(SHARED_COUNT),
        layers: Layers::FirstDense,
        ..SOFTMAX
    },
    Model {
        types: &["deepseek_v3", "deepseek_v32", "kimi_k2"],
        defaults: defaults::DEEPSEEK_V3,
        features: NUMBERED_PREDICTION,
        ..SIGMOID
    },
    Model { types: &["axk1"], defaults: defaults::AXK1, features: &[Feature::OutputNorm], ..SIGMOID },
    Model { types: &["solar_open"], defaults: defaults::SOLAR, ..SIGMOID },
    Model { types: &["exaone_moe"], defaults: defaults::EXAONE, ..SIGMOID },
    Model {
        // Ling 2.0 and Ring 2.0, of which early files say `bailing_moe`.
        types: &["bailing_moe", "bailing_moe_v2"],
        told_by: Some(ToldBy {
            types: &["bailing_moe_v2"],
            architectures: &["BailingMoeV2ForCausalLM"],
            fields: &["score_function", "moe_router_enable_expert_bias"],
        }),
        defaults: defaults::BAILING_V2,
        score_fields: &["score_function"],
        corrected_if: &["moe_router_enable_expert_bias"],
        shared: Shared::Count(&["num_shared_experts"]),
        ..SIGMOID
    },
    Model {
        types: &["bailing_moe"],
        defaults: defaults::BAILING,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Count(&["num_shared_experts"]),
        layers: Layers::FirstDense,
        ..SOFTMAX
    },
    Model { types: &["glm4_moe", "glm4v_moe"], defaults: defaults::GLM4, features: NUMBERED_PREDICTION, ..SIGMOID },
    Model { types: &["glm4_moe_lite"], defaults: defaults::GLM4_LITE, features: NUMBERED_PREDICTION, ..SIGMOID },
    Model { types: &["glm_moe_dsa"], defaults: defaults::GLM_DSA, features: NUMBERED_PREDICTION, ..SIGMOID },
    Model { types: &["dots1"], defaults: defaults::DOTS1, ..SIGMOID },
    Model { types: &["mimo_v2_flash"], defaults: defaults::MIMO, shared: Shared::None, ..SIGMOID },
    Model {
        types: &["kimi_linear"],
        defaults: defaults::KIMI_LINEAR,
        score_fields: &["moe_router_activation_func"],
        renorm: Renorm::SumIf(&["moe_renormalize", "norm_topk_prob"], 1e-20),
        ..SIGMOID
    },
    Model {
        types: &["mistral4"],
        defaults: defaults::MISTRAL4,
        score: "softmax",
        score_fields: &[],
        selection: Selection::Grouped { mask: "zero", corrected: false },
        ..SIGMOID
    },
    Model {
        types: &["minimax_m2"],
        defaults: defaults::MINIMAX_M2,
        score: "sigmoid",
        score_fields: SCORE,
        selection: Selection::Biased,
        corrected_if: &["use_routing_bias"],
        ..RENORMALISED
    },
    Model {
        types: &["lfm2_moe"],
        defaults: defaults::LFM2,
        intermediate: MOE_INTERMEDIATE,
        score: "sigmoid",
        selection: Selection::Biased,
        corrected_if: &["use_expert_bias"],
        renorm: Renorm::SumIf(NORM, 1e-6),
        scale: Scale::Weights(SCALE),
        activation: Activation::Fixed("silu"),
        layers: Layers::DenseCount,
        ..SOFTMAX
    },
    Model {
        types: &["afmoe"],
        defaults: defaults::AFMOE,
        score_fields: &["score_func"],
        scale: Scale::Weights(&["route_scale"]),
        selection: Selection::Biased,
        renorm: Renorm::SumIf(&["route_norm"], 1e-20),
        layers: Layers::DenseCount,
        ..SIGMOID
    },
    Model {
        types: &["ernie4_5_moe"],
        defaults: defaults::ERNIE,
        intermediate: MOE_INTERMEDIATE,
        selection: Selection::Biased,
        corrected_if: &["moe_use_aux_free"],
        renorm: Renorm::SumClamped(&["moe_norm_min"], 1e-12),
        shared: Shared::Count(&["moe_num_shared_experts"]),
        layers: Layers::Range,
        ..SOFTMAX
    },
    Model {
        types: &["longcat_flash"],
        defaults: defaults::LONGCAT,
        intermediate: &["expert_ffn_hidden_size"],
        selection: Selection::Biased,
        scale: Scale::Weights(SCALE),
        features: &[Feature::Identity],
        ignored: &[("router_bias", "the model's code makes a bias and never adds it")],
        ..SOFTMAX
    },
    Model {
        types: &["deepseek_v4"],
        defaults: defaults::DEEPSEEK_V4,
        score: "sqrtsoftplus",
        selection: Selection::Biased,
        renorm: Renorm::Sum(1e-20),
        activation: Activation::Clamped,
        features: &[Feature::HashLayers],
        ..SIGMOID
    },
    Model {
        types: &["hy_v3"],
        defaults: defaults::HY_V3,
        score_fields: &[],
        selection: Selection::Biased,
        corrected_if: &["moe_router_enable_expert_bias"],
        renorm: Renorm::SumIf(&["route_norm"], 1e-20),
        scale: Scale::Weights(&["router_scaling_factor"]),
        ..SIGMOID
    },
    Model {
        types: &["inkling2", "inkling2_loop"],
        defaults: defaults::INKLING2,
        selection: Selection::Biased,
        renorm: Renorm::Sum(1e-20),
        scale: Scale::Weights(&["route_scale", "routed_scaling_factor"]),
        activation: Activation::Softcapped,
        shared: Shared::None,
        layers: Layers::All,
        ..SIGMOID
    },
    Model {
        types: &["step3p5", "step3p7"],
        defaults: defaults::STEP3,
        score_fields: &["moe_router_activation"],
        selection: Selection::Biased,
        corrected_if: &["use_moe_router_bias"],
        renorm: Renorm::SumIf(&["norm_expert_weight"], 0.0),
        scale: Scale::Output(&["moe_router_scaling_factor"]),
        activation: Activation::ClampedAfter,
        shared: Shared::Width(&["share_expert_dim", "share_expert_dims"]),
        layers: Layers::Enumerated,
        ..SIGMOID
    },
    Model {
        types: &["minimax_m3_vl", "minimax_m3"],
        defaults: defaults::MINIMAX_M3,
        intermediate: INTERMEDIATE,
        selection: Selection::Biased,
        corrected_if: &["use_routing_bias"],
        renorm: Renorm::Sum(0.0),
        scale: Scale::Output(SCALE),
        activation: Activation::GptOss,
        shared: Shared::Width(&["shared_intermediate_size"]),
        ..SIGMOID
    },
    Model {
        types: &["laguna"],
        defaults: defaults::LAGUNA,
        score_fields: &[],
        selection: Selection::Biased,
        renorm: Renorm::Sum(0.0),
        scale: Scale::Output(&["moe_routed_scaling_factor"]),
        shared: Shared::Width(SHARED_WIDTH),
        features: &[Feature::Softcap],
        ignored: &[("gating", "it is a gate on the attention's output")],
        ..SIGMOID
    },
    Model {
        types: &["kolibri1"],
        defaults: defaults::KOLIBRI1,
        score_fields: &[],
        order: "topk_score",
        selection: Selection::LogitBiased,
        renorm: Renorm::SumIf(NORM, 0.0),
        scale: Scale::None,
        shared: Shared::Width(SHARED_WIDTH),
        layers: Layers::All,
        ..SIGMOID
    },
    Model {
        types: &["nemotron_h"],
        defaults: defaults::NEMOTRON,
        activation: Activation::Field(&["mlp_hidden_act"]),
        gated: false,
        shared: Shared::Width(&["moe_shared_expert_intermediate_size"]),
        features: &[Feature::Latent],
        layers: Layers::Blocks,
        ..SIGMOID
    },
    Model {
        types: &["gemma4"],
        defaults: defaults::GEMMA4,
        intermediate: MOE_INTERMEDIATE,
        activation: Activation::Field(&["hidden_activation"]),
        renorm: Renorm::Sum(0.0),
        features: &[Feature::RouterNorm],
        also: stored::GEMMA4,
        ..SOFTMAX
    },
    Model {
        types: &["inkling"],
        defaults: defaults::INKLING,
        intermediate: EITHER_INTERMEDIATE,
        score_fields: &[],
        scale: Scale::Weights(&["route_scale"]),
        selection: Selection::Biased,
        // The weights are divided by the sum over routed and shared ones: `joint_shared` says so.
        renorm: Renorm::Never,
        shared: Shared::Joint(&["n_shared_experts"]),
        ignored: &[("rms_norm_eps_moe_gate", "the model's code has no norm before its router")],
        also: stored::GLOBAL_SCALE,
        ..SIGMOID
    },
    Model {
        types: &["qwen3_vl_moe"],
        defaults: defaults::QWEN3_VL,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::Sum(0.0),
        layers: Layers::SparseStep,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_omni_moe"],
        defaults: defaults::QWEN3_OMNI,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        layers: Layers::SparseStep,
        ..SOFTMAX
    },
    Model {
        types: &["qwen3_omni_moe_talker"],
        defaults: defaults::QWEN3_TALKER,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        layers: Layers::SparseStep,
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model {
        types: &["qwen4_exp"],
        defaults: defaults::QWEN4_EXP,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Gated(SHARED_WIDTH),
        also: stored::SHARED_GATE,
        ..SOFTMAX
    },
    Model {
        types: &["lara_mini"],
        defaults: defaults::LARA_MINI,
        intermediate: MOE_INTERMEDIATE,
        renorm: Renorm::SumIf(NORM, 0.0),
        shared: Shared::Width(SHARED_WIDTH),
        ..SOFTMAX
    },
    Model {
        types: &["flint"],
        defaults: defaults::FLINT,
        score_fields: &[],
        selection: Selection::Plain,
        renorm: Renorm::SumIf(NORM, 0.0),
        scale: Scale::None,
        shared: Shared::Width(SHARED_WIDTH),
        layers: Layers::SparseStep,
        ..SIGMOID
    },
    Model { types: &["beam"], defaults: defaults::BEAM, scale: Scale::Output(SCALE), shared: Shared::None, ..GROUPED },
    Model {
        types: &["axk2"],
        defaults: defaults::AXK2,
        selection: Selection::Grouped { mask: "zero", corrected: true },
        ..GROUPED
    },
    Model {
        types: &["bailing_hybrid"],
        defaults: defaults::BAILING_HYBRID,
        renorm: Renorm::SumIf(&["moe_renormalize", "norm_topk_prob"], 1e-20),
        ..GROUPED
    },
    Model { types: &["sarvam_mla"], defaults: defaults::SARVAM, ..GROUPED },
    Model { types: &["sarvam_moe"], defaults: defaults::SARVAM, ..GROUPED },
    Model {
        types: &["dots3_note"],
        defaults: defaults::DOTS3_NOTE,
        shared: Shared::Wide { count: &["n_shared_experts"], width: &["shared_experts_intermediate_size"] },
        ..GROUPED
    },
    Model { types: &["glm5_next"], defaults: defaults::GLM5_NEXT, activation: Activation::Clamped, ..GROUPED },
    Model { types: &["hy_v4", "hy_v4_vl"], defaults: defaults::HY_V4, activation: Activation::ClampedAlone, ..GROUPED },
    Model {
        types: &["mistral_large4"],
        defaults: defaults::MISTRAL_LARGE4,
        score: "softmax",
        selection: Selection::Grouped { mask: "zero", corrected: false },
        renorm: Renorm::Sum(1e-20),
        ..GROUPED
    },
    Model {
        types: &["unlimited_ocr", "deepseek_ocr2"],
        defaults: defaults::UNLIMITED_OCR,
        intermediate: MOE_INTERMEDIATE,
        selection: Selection::Method("greedy"),
        scale: Scale::Weights(SCALE),
        shared: Shared::Count(SHARED_COUNT),
        layers: Layers::FirstDense,
        ..SOFTMAX
    },
];
