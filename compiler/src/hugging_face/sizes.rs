//! The shapes that a layer's tensors have in files, by its sizes and by how they are stored: what the loader takes
//! (`runtime/src/weights.rs`), and no more.

use super::stored::Stored;
use crate::spec::{Tensor, Weight};

/// The numbers that shapes are made of.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) hidden: u64,
    pub(super) experts: u64,
    pub(super) intermediate: u64,
    pub(super) top_k: u64,
    pub(super) vocabulary: u64,
    pub(super) latent: Option<u64>,
    pub(super) identity: u64,
    pub(super) joint: u64,
    pub(super) shared: u64,
    pub(super) shared_count: u64,
}

/// Stands for a size that the config does not say.
const ANY: u64 = 0;

impl Sizes {
    pub(super) fn new(hidden: u64, experts: u64) -> Sizes {
        Sizes {
            hidden,
            experts,
            intermediate: 1,
            top_k: 1,
            vocabulary: ANY,
            latent: None,
            identity: 0,
            joint: 0,
            shared: 1,
            shared_count: 1,
        }
    }

    /// The canonical shape.
    fn shape(&self, tensor: Tensor) -> Vec<u64> {
        let Sizes { hidden, experts, intermediate, shared, .. } = *self;
        let width = self.latent.unwrap_or(hidden);
        let routed = experts + self.identity;
        match tensor {
            Tensor::Router => vec![routed + self.joint, hidden],
            Tensor::RouterBias | Tensor::CorrectionBias => vec![routed],
            Tensor::RouterInputScale | Tensor::OutputBias | Tensor::OutputNorm | Tensor::TokenGain | Tensor::SlotGain => {
                vec![hidden]
            }
            Tensor::RouterGlobalScale | Tensor::SlotScale => vec![1],
            Tensor::PerExpertScale => vec![routed],
            Tensor::HashTable => vec![self.vocabulary, self.top_k],
            Tensor::Slots => vec![ANY, ANY, ANY],
            Tensor::Gate | Tensor::Up => vec![experts, intermediate, width],
            Tensor::GateUp => vec![experts, 2 * intermediate, width],
            Tensor::Down => vec![experts, width, intermediate],
            Tensor::GateBias | Tensor::UpBias => vec![experts, intermediate],
            Tensor::GateUpBias => vec![experts, 2 * intermediate],
            Tensor::DownBias => vec![experts, width],
            Tensor::LatentIn => vec![width, hidden],
            Tensor::LatentOut => vec![hidden, width],
            Tensor::SharedGate | Tensor::SharedUp => vec![shared, hidden],
            Tensor::SharedGateUp => vec![2 * shared, hidden],
            Tensor::SharedDown => vec![hidden, shared],
            Tensor::SharedGateBias | Tensor::SharedUpBias => vec![shared],
            Tensor::SharedGateUpBias => vec![2 * shared],
            Tensor::SharedDownBias => vec![hidden],
            Tensor::SharedGateProj => vec![1, hidden],
        }
    }

    /// The shapes that the stored tensor may have, the expected one first.
    pub(super) fn stored_shapes(&self, stored: &Stored, name: &str) -> Vec<Vec<u64>> {
        let mut shape = self.shape(stored.tensor);
        if stored.layout.is_transposed() && shape.len() >= 2 {
            let last = shape.len() - 1;
            shape.swap(last - 1, last);
        }
        if Weight::is_per_expert(name) {
            shape.remove(0);
        } else if stored.flattened {
            let experts = shape.remove(0);
            shape[0] *= experts;
        }
        let mut shapes = vec![shape.clone()];
        if self.identity > 0 && stored.tensor.has_experts() && !Weight::is_per_expert(name) {
            // Identity experts may have rows that nothing reads.
            shapes.push([&[self.experts + self.identity], &shape[1..]].concat());
        }
        // Several shared experts may be stored one by one instead of side by side.
        let (count, one) = (self.shared_count, self.shared / self.shared_count.max(1));
        if count > 1 && matches!(stored.tensor, Tensor::SharedGate | Tensor::SharedUp) {
            shapes.push(vec![count, one, self.hidden]);
        }
        if count > 1 && stored.tensor == Tensor::SharedGateUp {
            shapes.push(vec![count, 2 * one, self.hidden]);
        }
        if count > 1 && stored.tensor == Tensor::SharedDown {
            shapes.push(vec![count, self.hidden, one]);
        }
        shapes
    }
}

/// Axes of one index change nothing: `[1, E]` is stored as `[E]` is.
pub(super) fn is_same_shape(expected: &[u64], actual: &[u64]) -> bool {
    let longer = |shape: &[u64]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    let (expected, actual) = (longer(expected), longer(actual));
    expected.len() == actual.len() && expected.iter().zip(&actual).all(|(e, a)| *e == ANY || e == a)
}

/// A shape as text; a size that the config does not say is `_`.
pub(super) fn shape_text(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(|n| if *n == ANY { "_".to_string() } else { n.to_string() }).collect();
    format!("[{}]", sizes.join(", "))
}
