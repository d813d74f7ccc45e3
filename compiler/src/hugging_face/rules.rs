//! What a row of the table of model types can say. The rows are in `models`; `layer` and `layers` read the fields. Where
//! the tensors are is in `files`.

use std::fmt;

use super::stored::Stored;

/// One row: a family of model types that share every rule.
pub(super) struct Model {
    /// The `model_type` words; one that ends in `_text` is found without it too.
    pub(super) types: &'static [&'static str],
    /// Of two generations under one `model_type`, what tells this one from the row that comes after it.
    pub(super) told_by: Option<ToldBy>,
    /// Fields that a file of this family may leave out, and what its class then says.
    pub(super) defaults: &'static [(&'static str, Fallback)],
    /// The field of F, the inner width of a routed expert.
    pub(super) intermediate: &'static [&'static str],
    pub(super) top_k: TopK,
    /// The score, where no field of the config says another.
    pub(super) score: &'static str,
    /// The fields that may say another.
    pub(super) score_fields: &'static [&'static str],
    pub(super) order: &'static str,
    pub(super) selection: Selection,
    /// Flags that turn the correction bias off.
    pub(super) corrected_if: &'static [&'static str],
    pub(super) renorm: Renorm,
    pub(super) scale: Scale,
    pub(super) activation: Activation,
    pub(super) gated: bool,
    /// The experts' projections have biases.
    pub(super) bias: bool,
    pub(super) router_bias: RouterBias,
    pub(super) shared: Shared,
    pub(super) capacity: Capacity,
    pub(super) features: &'static [Feature],
    pub(super) layers: Layers,
    /// Tensors that only this family has.
    pub(super) also: &'static [Stored],
    /// Fields that the model's code has and does not follow, and why.
    pub(super) ignored: &'static [(&'static str, &'static str)],
}

/// What only one generation of a `model_type` writes.
#[derive(Clone, Copy)]
pub(super) struct ToldBy {
    /// Words for `model_type` that no other generation writes.
    pub(super) types: &'static [&'static str],
    /// The class in `architectures`.
    pub(super) architectures: &'static [&'static str],
    /// Fields of its configs.
    pub(super) fields: &'static [&'static str],
}

/// What a class says where the file says nothing.
#[derive(Clone, Copy)]
pub(super) enum Fallback {
    Integer(u64),
    Number(f64),
    Flag(bool),
    Word(&'static str),
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fallback::Integer(value) => write!(f, "{value}"),
            Fallback::Number(value) => write!(f, "{value:?}"),
            Fallback::Flag(value) => write!(f, "{value}"),
            Fallback::Word(word) => write!(f, "\"{word}\""),
        }
    }
}

/// K.
#[derive(Clone, Copy)]
pub(super) enum TopK {
    /// One of the fields that say it.
    Field,
    /// The model has no other.
    Fixed(u64),
}

/// What bends the selection.
#[derive(Clone, Copy)]
pub(super) enum Selection {
    /// Nothing: the best scores.
    Plain,
    /// A bias on the score.
    Biased,
    /// A bias on the logit.
    LogitBiased,
    /// `topk_method`, or else this one: `greedy`, `group_limited_greedy` or `noaux_tc`.
    Method(&'static str),
    /// Groups by the sum of their two best, the others masked so; with a bias on the score, or without.
    Grouped { mask: &'static str, corrected: bool },
}

/// What is done to the selected weights.
#[derive(Clone, Copy)]
pub(super) enum Renorm {
    Never,
    /// The model's code never does, whatever `norm_topk_prob` says.
    Ignored,
    /// Divided by their sum plus this.
    Sum(f64),
    /// The same, where one of these flags is set.
    SumIf(&'static [&'static str], f64),
    /// Divided by their sum, which is at least what this field says, or else this.
    SumClamped(&'static [&'static str], f64),
    /// Divided by the p-norm, whose p this field says.
    P(&'static str),
}

/// What the routed scaling factor multiplies.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    None,
    /// The weights.
    Weights(&'static [&'static str]),
    /// The summed routed output.
    Output(&'static [&'static str]),
}

/// The inner nonlinearity.
#[derive(Clone, Copy)]
pub(super) enum Activation {
    /// The one that this field of the config names.
    Field(&'static [&'static str]),
    /// This, whatever the config names.
    Fixed(&'static str),
    /// silu on the routed experts, and on the shared ones the one that the config names.
    SharedField(&'static [&'static str]),
    /// `softcap(gate) * sigmoid(gate) * softcap(up)`, by `mlp_gate_softcap` and `mlp_up_softcap`.
    Softcapped,
    /// `(up + 1) * gate * sigmoid(alpha * gate)` after a clamp.
    GptOss,
    /// silu, clamped by `swiglu_limit` before it.
    Clamped,
    /// The same of the routed experts; the shared ones have no clamp.
    ClampedAlone,
    /// silu, clamped by `swiglu_limits` after it, and the shared expert by `swiglu_limits_shared`.
    ClampedAfter,
}

/// Whether the logits have a bias.
#[derive(Clone, Copy)]
pub(super) enum RouterBias {
    Never,
    Always,
    If(&'static str),
}

/// The always-on experts.
#[derive(Clone, Copy)]
pub(super) enum Shared {
    None,
    /// So many of the routed width.
    Count(&'static [&'static str]),
    /// So many of this width.
    Wide {
        count: &'static [&'static str],
        width: &'static [&'static str],
    },
    /// One of this width.
    Width(&'static [&'static str]),
    /// One of this width behind a sigmoid gate.
    Gated(&'static [&'static str]),
    /// One of the routed width.
    One,
    /// So many of the routed width, each with a column of the router.
    Joint(&'static [&'static str]),
}

/// What bounds an expert's tokens.
#[derive(Clone, Copy)]
pub(super) enum Capacity {
    None,
    Switch,
    Nllb,
}

/// What few models do.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Feature {
    /// Phi's masked softmax, whose jitter is no noise.
    SparseMixer,
    /// The weight multiplies the expert's input.
    InputScaled,
    /// The experts see another width.
    Latent,
    /// Experts that give their input back.
    Identity,
    /// The router sees `rms(x) * scale * H^-0.5`.
    RouterNorm,
    /// `tanh(l / c) * c` on the logits.
    Softcap,
    /// The first layers look experts up by token id.
    HashLayers,
    /// Shared and routed outputs are averaged where the config says so.
    Combination,
    /// An RMS norm on the block's output.
    OutputNorm,
    /// A layer that predicts further tokens has the number after the last, and the block of the others.
    NumberedPrediction,
}

/// Which layers are MoE layers. A list `mlp_layer_types`, `is_moe_layer` or `moe_layer_freq` decides wherever there is one.
#[derive(Clone, Copy)]
pub(super) enum Layers {
    All,
    /// `first_k_dense_replace`, `moe_layer_freq`.
    FirstDense,
    /// `num_dense_layers`.
    DenseCount,
    /// `decoder_sparse_step`, `mlp_only_layers`.
    SparseStep,
    /// `moe_layers`, `interleave_moe_layer_step`.
    Interleaved,
    /// `expert_layer_period`, `expert_layer_offset`.
    Period,
    /// `moe_layer_start_index`, `moe_layer_end_index`, `moe_layer_interval`.
    Range,
    /// `moe_layers_enum`, a list or a string with commas, else all but the first three.
    Enumerated,
    /// `layers_block_type`, `hybrid_override_pattern`.
    Blocks,
    /// `encoder_sparse_step`: every so many, the second first.
    SwitchSteps,
    /// `encoder_sparse_step`: every so many, the last of each run.
    NllbSteps,
}
