//! Which weight tensors a layer has, and where a checkpoint keeps each of them.
//! Reading tensors from a file is not done here; the recipe says all that the loader needs.

use super::model::{Word, words};

/// One tensor of the layer and where it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Which tensor of the layer.
    pub tensor: Tensor,
    /// Names to look for in the file, in order: the first that exists is taken. Never empty. Without a `[weights]`
    /// entry it is the tensor's own word.
    pub names: Vec<String>,
    /// How the stored tensor differs from the canonical one.
    pub layout: Layout,
    /// The file has one leading dimension of `experts * rows` in place of `[experts, rows]`.
    pub flattened: bool,
}

impl Weight {
    /// Whether `name` stands for one tensor an expert.
    pub fn is_per_expert(name: &str) -> bool {
        name.contains(EXPERT_INDEX)
    }

    /// The stored name of one expert's tensor: `{e}` replaced.
    pub fn name_of_expert(name: &str, expert: u64) -> String {
        name.replace(EXPERT_INDEX, &expert.to_string())
    }
}

/// What stands for the expert's index in a stored name.
pub const EXPERT_INDEX: &str = "{e}";

words! {
    /// `layout` of a `[weights]` entry. The canonical order of a matrix is `[.., out, in]`.
    Layout {
        /// As the canonical tensor.
        Plain = "",
        /// Stored `[.., in, out]`.
        Transposed = "T",
        /// Gate and up rows alternate: gate is the even ones.
        Interleaved = "interleave",
        /// Stored `[.., in, out]`, and gate and up columns alternate.
        TransposedInterleaved = "T interleave",
        /// Slots stored `[hidden, experts, slots]`.
        Hep = "HEP",
    }
}

impl Layout {
    /// Whether the last two dimensions are swapped in the file.
    pub fn is_transposed(self) -> bool {
        match self {
            Layout::Transposed | Layout::TransposedInterleaved => true,
            Layout::Plain | Layout::Interleaved | Layout::Hep => false,
        }
    }

    /// Whether gate and up alternate in the file; otherwise gate comes first, whole.
    pub fn is_interleaved(self) -> bool {
        match self {
            Layout::Interleaved | Layout::TransposedInterleaved => true,
            Layout::Plain | Layout::Transposed | Layout::Hep => false,
        }
    }
}

words! {
    /// The tensors that a layer can have, by the words of `[weights]`. Shapes are canonical: H hidden, E experts,
    /// F intermediate size, S that of the shared experts together, R router columns: E, one for each
    /// identity expert, and one for each shared expert that has a joint weight.
    Tensor {
        /// `[R, H]`.
        Router = "router",
        /// `[R]`.
        RouterBias = "router_bias",
        /// `[R]`, added for the selection only: without the joint columns, which are not selected.
        CorrectionBias = "correction_bias",
        /// `[H]`: factors on the router's input, after its norm.
        RouterInputScale = "router_input_scale",
        /// `[1]`: a factor on all weights, after renormalisation.
        RouterGlobalScale = "router_global_scale",
        /// `[R]`: factors on the weights, after renormalisation.
        PerExpertScale = "per_expert_scale",
        /// `[V, K]`, integers: the experts of each token id.
        HashTable = "hash_table",
        /// `[E, P, H]`: the embeddings of P slots an expert.
        Slots = "slots",
        /// `[1]`: factor on the logits of soft routing.
        SlotScale = "slot_scale",
        /// `[H]`: factors on the tokens of soft routing, after their norm.
        TokenGain = "token_gain",
        /// `[H]`: factors on the slots, after their norm.
        SlotGain = "slot_gain",
        /// `[E, F, H]`.
        Gate = "gate",
        /// `[E, F, H]`.
        Up = "up",
        /// `[E, 2F, H]`: gate rows, then up rows.
        GateUp = "gate_up",
        /// `[E, H, F]`.
        Down = "down",
        /// `[E, F]`.
        GateBias = "gate_bias",
        /// `[E, F]`.
        UpBias = "up_bias",
        /// `[E, 2F]`: gate, then up.
        GateUpBias = "gate_up_bias",
        /// `[E, H]`.
        DownBias = "down_bias",
        /// `[latent, H]`.
        LatentIn = "latent_in",
        /// `[H, latent]`.
        LatentOut = "latent_out",
        /// `[H]`, added once after the combine.
        OutputBias = "output_bias",
        /// `[H]`: factors on the output, after its norm.
        OutputNorm = "output_norm",
        /// `[S, H]`.
        SharedGate = "shared_gate",
        /// `[S, H]`.
        SharedUp = "shared_up",
        /// `[2S, H]`: gate rows, then up rows.
        SharedGateUp = "shared_gate_up",
        /// `[H, S]`.
        SharedDown = "shared_down",
        /// `[S]`.
        SharedGateBias = "shared_gate_bias",
        /// `[S]`.
        SharedUpBias = "shared_up_bias",
        /// `[2S]`: gate, then up.
        SharedGateUpBias = "shared_gate_up_bias",
        /// `[H]`.
        SharedDownBias = "shared_down_bias",
        /// `[1, H]`: the sigmoid gate on the shared output.
        SharedGateProj = "shared_gate_proj",
    }
}

impl Tensor {
    /// The layouts that mean something for this tensor, `Plain` first.
    pub fn layouts(self) -> &'static [Layout] {
        use Layout::*;
        match self {
            Tensor::GateUp | Tensor::SharedGateUp => &[Plain, Transposed, Interleaved, TransposedInterleaved],
            Tensor::GateUpBias | Tensor::SharedGateUpBias => &[Plain, Interleaved],
            Tensor::Router
            | Tensor::Gate
            | Tensor::Up
            | Tensor::Down
            | Tensor::LatentIn
            | Tensor::LatentOut
            | Tensor::SharedGate
            | Tensor::SharedUp
            | Tensor::SharedDown
            | Tensor::SharedGateProj => &[Plain, Transposed],
            Tensor::Slots => &[Plain, Hep],
            Tensor::RouterBias
            | Tensor::CorrectionBias
            | Tensor::RouterInputScale
            | Tensor::RouterGlobalScale
            | Tensor::PerExpertScale
            | Tensor::HashTable
            | Tensor::SlotScale
            | Tensor::TokenGain
            | Tensor::SlotGain
            | Tensor::GateBias
            | Tensor::UpBias
            | Tensor::DownBias
            | Tensor::OutputBias
            | Tensor::OutputNorm
            | Tensor::SharedGateBias
            | Tensor::SharedUpBias
            | Tensor::SharedDownBias => &[Plain],
        }
    }

    /// Whether the tensor has a leading expert dimension, which a checkpoint may split or flatten.
    pub fn has_experts(self) -> bool {
        match self {
            Tensor::Gate
            | Tensor::Up
            | Tensor::GateUp
            | Tensor::Down
            | Tensor::GateBias
            | Tensor::UpBias
            | Tensor::GateUpBias
            | Tensor::DownBias => true,
            Tensor::Router
            | Tensor::RouterBias
            | Tensor::CorrectionBias
            | Tensor::RouterInputScale
            | Tensor::RouterGlobalScale
            | Tensor::PerExpertScale
            | Tensor::HashTable
            | Tensor::Slots
            | Tensor::SlotScale
            | Tensor::TokenGain
            | Tensor::SlotGain
            | Tensor::LatentIn
            | Tensor::LatentOut
            | Tensor::OutputBias
            | Tensor::OutputNorm
            | Tensor::SharedGate
            | Tensor::SharedUp
            | Tensor::SharedGateUp
            | Tensor::SharedDown
            | Tensor::SharedGateBias
            | Tensor::SharedUpBias
            | Tensor::SharedGateUpBias
            | Tensor::SharedDownBias
            | Tensor::SharedGateProj => false,
        }
    }

    /// The tensor with this word.
    pub fn from_word(word: &str) -> Option<Tensor> {
        Tensor::ALL.iter().copied().find(|tensor| tensor.word() == word)
    }
}
