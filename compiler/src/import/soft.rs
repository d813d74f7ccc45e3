//! Soft routing: every slot is a mixture of all tokens, and every token one of all slots.

use egg::Id;
use moec_ir::DType;
use moec_ir::graph::{Dim, Op, Pointwise, Type};

use super::Layer;
use crate::spec::{Soft, SoftNorm, Tensor};

impl Layer<'_> {
    /// From `x` to the mixture of all experts' slots, `[T, H]` f32, with the weights of tokens in slots and of slots in tokens.
    pub(super) fn soft(&mut self, x: Id, soft: Soft) -> (Id, [Id; 2]) {
        let (hidden, experts) = (self.spec.hidden, self.spec.experts);
        // A sum over tokens has each of them, whatever its weight.
        let x = self.masked(x);
        let tokens = self.soft_normed(x, soft, Tensor::TokenGain);
        let embedded = self.weight(Tensor::Slots, &[experts, soft.slots, hidden]);
        let embedded = self.g.apply(Op::Flatten, &[embedded]);
        let embedded = self.soft_normed(embedded, soft, Tensor::SlotGain);
        let mut logits = self.g.gemm(tokens, embedded);
        if self.spec.weight(Tensor::SlotScale).is_some() {
            // f32 whatever the layer's type, as all of the logits.
            let scale = self.g.param("@slot_scale", Type::tensor(&[Dim::Const(1)], DType::F32));
            logits = self.g.apply(Pointwise::Mul, &[logits, scale]);
        }
        let slots = self.g.slots(experts, soft.slots);
        let (inner, width) = self.latent_in(if soft.dispatch_normed { tokens } else { x });
        let of_tokens: Vec<Id> = std::iter::once(logits).chain(self.mask).collect();
        let dispatch = self.g.apply(Op::TokenSoftmax, &of_tokens);
        let rows = self.g.soft_dispatch(inner, dispatch, slots);
        let rows = self.cast(rows);
        let rows = self.experts(rows, slots, None, width);
        let combine = self.g.apply(Op::Softmax, &[logits]);
        let combine = self.masked(combine);
        let y = self.g.soft_combine(rows, combine, slots);
        let y = self.latent_out(y);
        (self.finished(y), [dispatch, combine])
    }

    /// The norm of soft routing, f32, times the gain where the checkpoint has one.
    fn soft_normed(&mut self, x: Id, soft: Soft, gain: Tensor) -> Id {
        let hidden = self.spec.hidden as f64;
        let mut y = match soft.norm {
            SoftNorm::None => return x,
            SoftNorm::Rms => self.g.rms_norm(x, soft.norm_eps),
            // x / sqrt(sum x^2 + eps) = x / sqrt(mean x^2 + eps / H) / sqrt H.
            SoftNorm::L2 => {
                let y = self.g.rms_norm(x, soft.norm_eps / hidden);
                self.constant(Pointwise::Scale, y, 1.0 / hidden.sqrt())
            }
        };
        if self.spec.weight(gain).is_some() {
            let gain = self.weight(gain, &[self.spec.hidden]);
            y = self.g.apply(Pointwise::Mul, &[y, gain]);
        }
        y
    }
}
