//! How published checkpoints store a block's tensors: names below the block's own, and layouts.
//! A name with `{e}` is one tensor an expert, as most files have them; the fused ones are how transformers 5 saves.

use crate::spec::{Layout, Tensor};

/// Names to look for, in order.
pub(super) type Names = &'static [&'static str];

/// One tensor and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) tensor: Tensor,
    pub(super) names: Names,
    pub(super) layout: Layout,
    /// Experts and rows are one dimension.
    pub(super) flattened: bool,
}

/// A tensor as the layer has it.
pub(super) const fn plain(tensor: Tensor, names: Names) -> Stored {
    laid(tensor, names, Layout::Plain)
}

const fn laid(tensor: Tensor, names: Names, layout: Layout) -> Stored {
    Stored { tensor, names, layout, flattened: false }
}

const fn flat(tensor: Tensor, names: Names, layout: Layout) -> Stored {
    Stored { tensor, names, layout, flattened: true }
}

pub(super) const PROJECTIONS: &[Stored] = &[
    plain(Tensor::Gate, &["experts.{e}.gate_proj.weight"]),
    plain(Tensor::Up, &["experts.{e}.up_proj.weight"]),
    plain(Tensor::Down, &["experts.{e}.down_proj.weight"]),
];
pub(super) const FUSED: &[Stored] =
    &[plain(Tensor::GateUp, &["experts.gate_up_proj"]), plain(Tensor::Down, &["experts.down_proj"])];
/// The names of the two above at a layer, then at the block.
pub(super) const MLP_PROJECTIONS: &[Stored] = &[
    plain(Tensor::Gate, &["mlp.experts.{e}.gate_proj.weight", "experts.{e}.gate_proj.weight"]),
    plain(Tensor::Up, &["mlp.experts.{e}.up_proj.weight", "experts.{e}.up_proj.weight"]),
    plain(Tensor::Down, &["mlp.experts.{e}.down_proj.weight", "experts.{e}.down_proj.weight"]),
];
pub(super) const MLP_FUSED: &[Stored] = &[
    plain(Tensor::GateUp, &["mlp.experts.gate_up_proj", "experts.gate_up_proj"]),
    plain(Tensor::Down, &["mlp.experts.down_proj", "experts.down_proj"]),
];
pub(super) const STEP: &[Stored] = &[
    plain(Tensor::Gate, &["moe.gate_proj.weight"]),
    plain(Tensor::Up, &["moe.up_proj.weight"]),
    plain(Tensor::Down, &["moe.down_proj.weight"]),
];
/// Gate and up rows alternate.
pub(super) const W13: &[Stored] =
    &[laid(Tensor::GateUp, &["experts.w13_weight"], Layout::Interleaved), plain(Tensor::Down, &["experts.w2_weight"])];
pub(super) const NUMBERED: &[&[Stored]] = &[
    &[
        plain(Tensor::Gate, &["experts.{e}.w1.weight"]),
        plain(Tensor::Up, &["experts.{e}.w3.weight"]),
        plain(Tensor::Down, &["experts.{e}.w2.weight"]),
    ],
    FUSED,
];
pub(super) const UNGATED: &[Stored] =
    &[plain(Tensor::Up, &["experts.{e}.up_proj.weight"]), plain(Tensor::Down, &["experts.{e}.down_proj.weight"])];
pub(super) const UNGATED_FUSED: &[Stored] =
    &[plain(Tensor::Up, &["experts.up_proj"]), plain(Tensor::Down, &["experts.down_proj"])];
pub(super) const SWITCH: &[Stored] =
    &[plain(Tensor::Up, &["experts.expert_{e}.wi.weight"]), plain(Tensor::Down, &["experts.expert_{e}.wo.weight"])];
pub(super) const NLLB: &[Stored] = &[
    plain(Tensor::Up, &["experts.expert_{e}.fc1.weight"]),
    plain(Tensor::Down, &["experts.expert_{e}.fc2.weight"]),
    plain(Tensor::UpBias, &["experts.expert_{e}.fc1.bias"]),
    plain(Tensor::DownBias, &["experts.expert_{e}.fc2.bias"]),
];
pub(super) const LINEAR: &[Stored] = &[
    plain(Tensor::GateUp, &["input_linear.weight", "experts.gate_up_proj"]),
    plain(Tensor::Down, &["output_linear.weight", "experts.down_proj"]),
];
pub(super) const GRANITE_SHARED: &[Stored] = &[
    plain(
        Tensor::GateUp,
        &["block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj", "experts.gate_up_proj"],
    ),
    plain(Tensor::Down, &["block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj", "experts.down_proj"]),
];
pub(super) const GRANITE_FUSED: &[Stored] = &[
    plain(Tensor::GateUp, &["block_sparse_moe.experts.gate_up_proj", "experts.gate_up_proj"]),
    plain(Tensor::Down, &["block_sparse_moe.experts.down_proj", "experts.down_proj"]),
];
/// `h @ w2`: the published code never transposes it.
pub(super) const DBRX: &[Stored] = &[
    flat(Tensor::Gate, &["experts.mlp.w1"], Layout::Plain),
    flat(Tensor::Up, &["experts.mlp.v1"], Layout::Plain),
    flat(Tensor::Down, &["experts.mlp.w2"], Layout::Transposed),
];
pub(super) const ARIA: &[Stored] = &[
    laid(Tensor::GateUp, &["experts.fc1.weight", "experts.gate_up_proj"], Layout::Transposed),
    laid(Tensor::Down, &["experts.fc2.weight", "experts.down_proj"], Layout::Transposed),
];
pub(super) const TRANSPOSED: &[Stored] = &[
    laid(Tensor::GateUp, &["experts.gate_up_proj"], Layout::Transposed),
    laid(Tensor::Down, &["experts.down_proj"], Layout::Transposed),
];
pub(super) const GPT_OSS: &[Stored] = &[
    laid(Tensor::GateUp, &["experts.gate_up_proj"], Layout::TransposedInterleaved),
    laid(Tensor::Down, &["experts.down_proj"], Layout::Transposed),
    laid(Tensor::GateUpBias, &["experts.gate_up_proj_bias"], Layout::Interleaved),
    plain(Tensor::DownBias, &["experts.down_proj_bias"]),
];
pub(super) const PRIVACY_FILTER: &[Stored] = &[
    laid(Tensor::GateUp, &["experts.gate_up_proj"], Layout::Transposed),
    laid(Tensor::Down, &["experts.down_proj"], Layout::Transposed),
    plain(Tensor::GateUpBias, &["experts.gate_up_proj_bias"]),
    plain(Tensor::DownBias, &["experts.down_proj_bias"]),
];

pub(super) const SHARED_EXPERTS: &[Stored] = &[
    plain(Tensor::SharedGate, &["shared_experts.gate_proj.weight"]),
    plain(Tensor::SharedUp, &["shared_experts.up_proj.weight"]),
    plain(Tensor::SharedDown, &["shared_experts.down_proj.weight"]),
];
pub(super) const MLP_SHARED_EXPERTS: &[Stored] = &[
    plain(Tensor::SharedGate, &["mlp.shared_experts.gate_proj.weight", "shared_experts.gate_proj.weight"]),
    plain(Tensor::SharedUp, &["mlp.shared_experts.up_proj.weight", "shared_experts.up_proj.weight"]),
    plain(Tensor::SharedDown, &["mlp.shared_experts.down_proj.weight", "shared_experts.down_proj.weight"]),
];
pub(super) const STEP_SHARED: &[Stored] = &[
    plain(Tensor::SharedGate, &["share_expert.gate_proj.weight"]),
    plain(Tensor::SharedUp, &["share_expert.up_proj.weight"]),
    plain(Tensor::SharedDown, &["share_expert.down_proj.weight"]),
];
pub(super) const SHARED_EXPERT: &[Stored] = &[
    plain(Tensor::SharedGate, &["shared_expert.gate_proj.weight"]),
    plain(Tensor::SharedUp, &["shared_expert.up_proj.weight"]),
    plain(Tensor::SharedDown, &["shared_expert.down_proj.weight"]),
];
pub(super) const SHARED_MLP: &[Stored] = &[
    plain(Tensor::SharedGate, &["shared_mlp.gate_proj.weight"]),
    plain(Tensor::SharedUp, &["shared_mlp.up_proj.weight"]),
    plain(Tensor::SharedDown, &["shared_mlp.down_proj.weight"]),
];
pub(super) const SHARED_LINEAR: &[Stored] = &[
    plain(Tensor::SharedGateUp, &["shared_mlp.input_linear.weight"]),
    plain(Tensor::SharedDown, &["shared_mlp.output_linear.weight"]),
];
pub(super) const SHARED_FUSED: &[Stored] = &[
    plain(Tensor::SharedGateUp, &["shared_experts.gate_up_proj.weight"]),
    plain(Tensor::SharedDown, &["shared_experts.down_proj.weight"]),
];
pub(super) const SHARED_UNGATED: &[Stored] = &[
    plain(Tensor::SharedUp, &["shared_experts.up_proj.weight"]),
    plain(Tensor::SharedDown, &["shared_experts.down_proj.weight"]),
];
pub(super) const INKLING_SHARED: &[Stored] = &[
    plain(Tensor::SharedGate, &["shared_experts.gate_proj"]),
    plain(Tensor::SharedUp, &["shared_experts.up_proj"]),
    plain(Tensor::SharedDown, &["shared_experts.down_proj"]),
];
pub(super) const INKLING_SHARED_W13: &[Stored] = &[
    laid(Tensor::SharedGateUp, &["shared_experts.shared_w13_weight"], Layout::Interleaved),
    plain(Tensor::SharedDown, &["shared_experts.shared_w2_weight"]),
];
pub(super) const SHARED_NUMBERED: &[Stored] = &[
    plain(Tensor::SharedGate, &["shared_experts.w1.weight"]),
    plain(Tensor::SharedUp, &["shared_experts.w3.weight"]),
    plain(Tensor::SharedDown, &["shared_experts.w2.weight"]),
];
/// As transformers writes HY4 back: it renames every `gate_proj`, that of the attention and this one.
pub(super) const SHARED_LINEAR_GATE: &[Stored] = &[
    plain(Tensor::SharedGate, &["shared_experts.linear_gate.weight"]),
    plain(Tensor::SharedUp, &["shared_experts.up_proj.weight"]),
    plain(Tensor::SharedDown, &["shared_experts.down_proj.weight"]),
];
pub(super) const SHARED_GATE: &[Stored] = &[plain(Tensor::SharedGateProj, &["shared_expert_gate.weight"])];

pub(super) const OUTPUT_NORM: &[Stored] =
    &[plain(Tensor::OutputNorm, &["post_mlp_layernorm.weight", "mlp.post_mlp_layernorm.weight"])];
pub(super) const OUTPUT_BIAS: &[Stored] = &[plain(Tensor::OutputBias, &["bias"])];
pub(super) const GLOBAL_SCALE: &[Stored] = &[plain(Tensor::RouterGlobalScale, &["gate.global_scale"])];
pub(super) const GEMMA4: &[Stored] =
    &[plain(Tensor::RouterInputScale, &["router.scale"]), plain(Tensor::PerExpertScale, &["router.per_expert_scale"])];
pub(super) const HASH_TABLE: &[Stored] = &[plain(Tensor::HashTable, &["gate.tid2eid"])];
pub(super) const LATENT: &[Stored] =
    &[plain(Tensor::LatentIn, &["fc1_latent_proj.weight"]), plain(Tensor::LatentOut, &["fc2_latent_proj.weight"])];
