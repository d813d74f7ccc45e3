//! Under which names files store the layers of a model type. The facts are those of transformers' `conversion_mapping.py`,
//! which renames what published files have into its modules: the published name comes first, the module's after it.
//! What the tensors mean is in `models`.

use super::stored::{self, Names, Stored};

/// The names of some model types.
pub(super) struct Files {
    /// The `model_type` words, as in the table of models.
    pub(super) types: &'static [&'static str],
    /// What stands before every name, in published files and in transformers' modules; `{N}` is the layer.
    pub(super) prefixes: [&'static str; 2],
    /// The first names were held against what transformers reads from published files.
    pub(super) published: bool,
    pub(super) router: Names,
    pub(super) correction: Names,
    /// The ways in which the routed experts are stored, the published one first.
    pub(super) experts: &'static [&'static [Stored]],
    /// The same of the shared ones.
    pub(super) shared: &'static [&'static [Stored]],
}

/// A multimodal file, whose text model has another prefix than a file of its own would.
pub(super) struct Wrapper {
    pub(super) types: &'static [&'static str],
    pub(super) prefixes: [&'static str; 2],
}

const MLP: [&str; 2] = ["model.layers.{N}.mlp.", "model.layers.{N}.mlp."];
const SPARSE: [&str; 2] = ["model.layers.{N}.block_sparse_moe.", "model.layers.{N}.mlp."];
const FEED_FORWARD: [&str; 2] = ["model.layers.{N}.feed_forward.", "model.layers.{N}.feed_forward."];
const LAYER: [&str; 2] = ["model.layers.{N}.", "model.layers.{N}."];

const PLAIN: Files = Files {
    types: &[],
    prefixes: MLP,
    published: true,
    router: &["gate.weight"],
    correction: &["gate.e_score_correction_bias"],
    experts: &[stored::PROJECTIONS, stored::FUSED],
    shared: &[stored::SHARED_EXPERTS],
};
const SHARED_EXPERT: Files = Files { shared: &[stored::SHARED_EXPERT], ..PLAIN };
const NUMBERED: Files = Files { prefixes: SPARSE, experts: stored::NUMBERED, ..PLAIN };

/// The names of every model type.
pub(super) static FILES: &[Files] = &[
    Files {
        types: &[
            "qwen3_moe",
            "qwen3_omni_moe",
            "olmoe",
            "flex_olmo",
            "mellum",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "kimi_k2",
            "axk2",
            "solar_open",
            "glm4_moe",
            "glm4v_moe",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "glm5_next",
            "dots1",
            "dots3_note",
            "mimo_v2_flash",
            "beam",
            "sarvam_mla",
            "cohere2_moe",
            "unlimited_ocr",
            "deepseek_ocr2",
        ],
        ..PLAIN
    },
    Files { types: &["qwen2_moe", "qwen3_next", "qwen3_omni_moe_talker", "flint"], ..SHARED_EXPERT },
    Files { types: &["lara_mini", "qwen3_5_moe", "qwen4_exp"], experts: &[stored::FUSED, stored::PROJECTIONS], ..SHARED_EXPERT },
    Files { types: &["qwen3_vl_moe"], experts: &[stored::TRANSPOSED, stored::FUSED], ..PLAIN },
    Files { types: &["mistral4"], experts: &[stored::FUSED, stored::PROJECTIONS], ..PLAIN },
    Files {
        types: &["mistral_large4"],
        prefixes: ["layers.{N}.", "model.language_model.layers.{N}.mlp."],
        experts: stored::NUMBERED,
        shared: &[stored::SHARED_NUMBERED, stored::SHARED_EXPERTS],
        ..PLAIN
    },
    Files { types: &["exaone_moe"], correction: &["e_score_correction_bias", "gate.e_score_correction_bias"], ..PLAIN },
    Files {
        types: &["bailing_hybrid", "sarvam_moe"],
        correction: &["gate.expert_bias", "gate.e_score_correction_bias"],
        ..PLAIN
    },
    Files {
        types: &["bailing_moe", "bailing_moe_v2"],
        published: false,
        correction: &["gate.expert_bias", "gate.e_score_correction_bias"],
        ..PLAIN
    },
    Files {
        types: &["laguna"],
        correction: &["experts.e_score_correction_bias", "gate.e_score_correction_bias"],
        shared: &[stored::SHARED_EXPERT, stored::SHARED_EXPERTS],
        ..PLAIN
    },
    Files {
        types: &["kolibri1"],
        prefixes: LAYER,
        router: &["mlp.gate.weight", "gate.weight"],
        correction: &["moe.router.expert_bias", "mlp.gate.e_score_correction_bias", "gate.e_score_correction_bias"],
        experts: &[stored::MLP_PROJECTIONS, stored::MLP_FUSED],
        shared: &[stored::MLP_SHARED_EXPERTS],
        ..PLAIN
    },
    Files {
        // The norm of the output stands at the layer.
        types: &["axk1"],
        prefixes: LAYER,
        router: &["mlp.gate.weight", "gate.weight"],
        correction: &["mlp.gate.e_score_correction_bias", "gate.e_score_correction_bias"],
        experts: &[stored::MLP_PROJECTIONS, stored::MLP_FUSED],
        shared: &[stored::MLP_SHARED_EXPERTS],
        ..PLAIN
    },
    Files {
        types: &["hy_v3"],
        router: &["router.gate.weight", "gate.weight"],
        correction: &["expert_bias", "e_score_correction_bias"],
        shared: &[stored::SHARED_MLP, stored::SHARED_EXPERTS],
        ..PLAIN
    },
    Files {
        types: &["hy_v4", "hy_v4_vl"],
        experts: &[stored::FUSED, stored::PROJECTIONS],
        shared: &[stored::SHARED_EXPERTS, stored::SHARED_LINEAR_GATE],
        ..PLAIN
    },
    Files {
        types: &["step3p5", "step3p7"],
        prefixes: LAYER,
        router: &["moe.gate.weight", "mlp.gate.weight", "gate.weight"],
        correction: &["moe.router_bias", "mlp.gate.e_score_correction_bias", "gate.e_score_correction_bias"],
        experts: &[stored::STEP, stored::MLP_FUSED],
        shared: &[stored::STEP_SHARED, stored::MLP_SHARED_EXPERTS],
        ..PLAIN
    },
    Files { types: &["mixtral", "minimax", "minimax_text_01"], ..NUMBERED },
    Files { types: &["minimax_m2"], correction: &["e_score_correction_bias"], ..NUMBERED },
    Files { types: &["phimoe"], router: &["gate.weight", "router.weight"], ..NUMBERED },
    Files { types: &["kimi_linear"], ..NUMBERED },
    Files {
        types: &["minimax_m3_vl", "minimax_m3"],
        correction: &["e_score_correction_bias", "gate.e_score_correction_bias"],
        shared: &[stored::SHARED_EXPERTS, stored::SHARED_FUSED],
        ..NUMBERED
    },
    Files { types: &["lfm2_moe"], prefixes: FEED_FORWARD, correction: &["expert_bias"], experts: stored::NUMBERED, ..PLAIN },
    Files { types: &["jamba"], prefixes: FEED_FORWARD, router: &["router.weight"], ..PLAIN },
    Files {
        types: &["llama4"],
        prefixes: FEED_FORWARD,
        router: &["router.weight"],
        experts: &[stored::TRANSPOSED],
        ..SHARED_EXPERT
    },
    Files { types: &["hunyuan_v1_moe"], router: &["gate.wg.weight"], shared: &[stored::SHARED_MLP], ..PLAIN },
    Files { types: &["afmoe"], router: &["router.gate.weight"], correction: &["expert_bias"], ..PLAIN },
    Files {
        types: &["ernie4_5_moe"],
        correction: &["moe_statics.e_score_correction_bias", "gate.moe_statics.e_score_correction_bias"],
        ..PLAIN
    },
    Files {
        types: &["longcat_flash"],
        router: &["router.classifier.weight"],
        correction: &["router.e_score_correction_bias"],
        ..PLAIN
    },
    Files {
        types: &["deepseek_v4"],
        prefixes: ["layers.{N}.ffn.", "model.layers.{N}.mlp."],
        correction: &["gate.bias", "gate.e_score_correction_bias"],
        experts: stored::NUMBERED,
        shared: &[stored::SHARED_NUMBERED, stored::SHARED_EXPERTS],
        ..PLAIN
    },
    Files {
        types: &["dbrx"],
        prefixes: ["transformer.blocks.{N}.ffn.", "transformer.blocks.{N}.ffn."],
        router: &["router.layer.weight"],
        experts: &[stored::DBRX],
        ..PLAIN
    },
    Files {
        types: &["granitemoe"],
        prefixes: ["model.layers.{N}.block_sparse_moe.", "model.layers.{N}.block_sparse_moe."],
        router: &["router.layer.weight", "router.weight"],
        experts: &[stored::LINEAR],
        ..PLAIN
    },
    Files {
        types: &["granitemoe_swa"],
        prefixes: LAYER,
        router: &["block_sparse_moe.router.weight", "router.weight"],
        experts: &[stored::GRANITE_FUSED],
        shared: &[stored::SHARED_LINEAR],
        ..PLAIN
    },
    Files {
        // The shared MLP is a sibling of the block, so that names start at the layer.
        types: &["granitemoeshared", "granitemoehybrid"],
        prefixes: LAYER,
        router: &["block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight", "router.weight"],
        experts: &[stored::GRANITE_SHARED],
        shared: &[stored::SHARED_LINEAR],
        ..PLAIN
    },
    Files { types: &["jetmoe"], router: &["router.layer.weight"], experts: &[stored::LINEAR], ..PLAIN },
    Files { types: &["aria"], router: &["router.weight"], experts: &[stored::ARIA], ..PLAIN },
    Files { types: &["gpt_oss"], router: &["router.weight"], experts: &[stored::GPT_OSS], ..PLAIN },
    Files { types: &["openai_privacy_filter"], router: &["router.weight"], experts: &[stored::PRIVACY_FILTER], ..PLAIN },
    Files {
        types: &["nemotron_h"],
        prefixes: ["backbone.layers.{N}.mixer.", "model.layers.{N}.mixer."],
        experts: &[stored::UNGATED, stored::UNGATED_FUSED],
        shared: &[stored::SHARED_UNGATED],
        ..PLAIN
    },
    Files { types: &["gemma4"], prefixes: LAYER, router: &["router.proj.weight"], experts: &[stored::FUSED], ..PLAIN },
    Files {
        types: &["inkling"],
        correction: &["gate.bias", "gate.e_score_correction_bias"],
        experts: &[stored::W13, stored::FUSED],
        shared: &[stored::INKLING_SHARED_W13, stored::INKLING_SHARED],
        ..PLAIN
    },
    Files {
        types: &["inkling2", "inkling2_loop"],
        prefixes: ["model.llm.layers.{N}.mlp.", "model.language_model.layers.{N}.mlp."],
        correction: &["gate.bias", "gate.e_score_correction_bias"],
        experts: &[stored::W13, stored::FUSED],
        ..PLAIN
    },
    Files {
        types: &["switch_transformers"],
        prefixes: ["encoder.block.{N}.layer.1.mlp.", "encoder.block.{N}.layer.1.mlp."],
        router: &["router.classifier.weight"],
        experts: &[stored::SWITCH],
        ..PLAIN
    },
    Files {
        types: &["nllb-moe", "nllb_moe"],
        prefixes: ["model.encoder.layers.{N}.ffn.", "model.encoder.layers.{N}.ffn."],
        router: &["router.classifier.weight"],
        experts: &[stored::NLLB],
        ..PLAIN
    },
];

/// Multimodal files: the outer `model_type` and where its text model's layers are.
pub(super) static WRAPPERS: &[Wrapper] = &[
    Wrapper {
        types: &["glm4v_moe", "glm5_next", "qwen3_vl_moe", "qwen3_5_moe", "qwen4_exp"],
        prefixes: ["model.language_model.layers.{N}.mlp.", "model.language_model.layers.{N}.mlp."],
    },
    Wrapper {
        types: &["hy_v4_vl", "unlimited_ocr", "deepseek_ocr2"],
        prefixes: ["model.layers.{N}.mlp.", "model.language_model.layers.{N}.mlp."],
    },
    Wrapper { types: &["step3p7"], prefixes: ["model.layers.{N}.", "model.language_model.layers.{N}."] },
    Wrapper {
        types: &["aria", "kimi_k25"],
        prefixes: ["language_model.model.layers.{N}.mlp.", "model.language_model.layers.{N}.mlp."],
    },
    Wrapper {
        types: &["llama4"],
        prefixes: ["language_model.model.layers.{N}.feed_forward.", "language_model.model.layers.{N}.feed_forward."],
    },
    Wrapper {
        types: &["minimax_m3_vl"],
        prefixes: ["language_model.model.layers.{N}.block_sparse_moe.", "model.language_model.layers.{N}.mlp."],
    },
    Wrapper { types: &["gemma4"], prefixes: ["model.language_model.layers.{N}.", "model.language_model.layers.{N}."] },
    Wrapper {
        types: &["inkling_mm_model", "inkling2", "inkling2_loop"],
        prefixes: ["model.llm.layers.{N}.mlp.", "model.language_model.layers.{N}.mlp."],
    },
    Wrapper {
        types: &["qwen3_omni_moe", "qwen3_omni_moe_thinker"],
        prefixes: ["thinker.model.layers.{N}.mlp.", "thinker.model.language_model.layers.{N}.mlp."],
    },
    Wrapper { types: &["nemo_speechlm"], prefixes: ["llm.model.layers.{N}.mixer.", "model.language_model.layers.{N}.mixer."] },
    Wrapper {
        types: &["nemotron_h_omni", "NemotronH_Omni_Reasoning_V3", "NemotronH_Nano_VL_V2"],
        prefixes: ["language_model.backbone.layers.{N}.mixer.", "language_model.model.layers.{N}.mixer."],
    },
];
