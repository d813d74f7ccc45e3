//! From grouped rows to what the experts make of them, and the shared experts beside these.

use egg::Id;
use moec_ir::graph::{Op, Pointwise};

use super::routing::renorms_kept;
use super::{Entry, Layer};
use crate::spec::{Activation, Apply, ClampPlace, Gating, Shared, SharedGate, Tensor};

impl Layer<'_> {
    /// From the experts' rows `[P, width]` to their output rows `[P, width]`, weighted where there are weights.
    pub(super) fn experts(&mut self, rows: Id, routing: Id, weights: Option<Id>, width: u64) -> Id {
        let expert = self.spec.expert;
        // A product of weighted rows is the weighted product of the rows.
        let input = weights.filter(|_| self.spec.router.apply == Apply::Input);
        let gated = expert.activation.gated;
        let gate =
            gated.then(|| self.grouped([Tensor::Gate, Tensor::GateBias], [expert.intermediate, width], rows, routing, input));
        let up = self.grouped([Tensor::Up, Tensor::UpBias], [expert.intermediate, width], rows, routing, input);
        let inner = self.activation(expert.activation, gate, up);
        let inner = self.cast(inner);
        let mut y = self.grouped([Tensor::Down, Tensor::DownBias], [width, expert.intermediate], inner, routing, None);
        if let (Some(weights), Apply::Output) = (weights, self.spec.router.apply) {
            y = self.times(y, weights);
        }
        let y = self.constant(Pointwise::Scale, y, expert.output_scale);
        self.cast(y)
    }

    /// `y * weights`, and what the weights lack of `router.scale`.
    fn times(&mut self, y: Id, weights: Id) -> Id {
        let y = self.g.apply(Pointwise::Mul, &[y, weights]);
        match self.entry {
            Entry::Layer | Entry::Router if renorms_kept(self.spec) => self.constant(Pointwise::Scale, y, self.spec.router.scale),
            // Given weights are final.
            Entry::Layer | Entry::Router | Entry::Experts { .. } => y,
        }
    }

    /// `rows . w[expert]^T (* weights) (+ bias[expert])`, from K to N columns.
    fn grouped(&mut self, [tensor, bias]: [Tensor; 2], [n, k]: [u64; 2], rows: Id, routing: Id, weights: Option<Id>) -> Id {
        let experts = self.entry.experts(self.spec);
        let w = self.weight(tensor, &[experts, n, k]);
        let y = self.g.grouped_gemm(rows, routing, w);
        let mut y = self.rounded(y);
        if let Some(weights) = weights {
            y = self.times(y, weights);
        }
        if !self.spec.expert.bias {
            return y;
        }
        let b = self.weight(bias, &[experts, n]);
        let b = self.g.apply(Op::ExpertRows, &[b, routing]);
        self.g.apply(Pointwise::Add, &[y, b])
    }

    /// From `x` to the output of the shared experts, `[T, H]` f32.
    pub(super) fn shared(&mut self, x: Id, joint: Option<Id>, shared: &Shared) -> Id {
        let (hidden, intermediate) = (self.spec.hidden, shared.intermediate);
        let gated = shared.activation.gated;
        let biased = |tensor: Tensor| shared.bias.then_some(tensor);
        let gate = gated.then(|| self.dense(Tensor::SharedGate, biased(Tensor::SharedGateBias), x, intermediate, hidden));
        let up = self.dense(Tensor::SharedUp, biased(Tensor::SharedUpBias), x, intermediate, hidden);
        let mut inner = self.activation(shared.activation, gate, up);
        if let Some(weights) = joint {
            // Side by side, each expert under its weight.
            inner = self.g.apply(Pointwise::Mul, &[inner, weights]);
        }
        let inner = self.cast(inner);
        let y = self.dense(Tensor::SharedDown, biased(Tensor::SharedDownBias), inner, hidden, intermediate);
        match shared.gate {
            SharedGate::None => y,
            SharedGate::Sigmoid => {
                let w = self.weight(Tensor::SharedGateProj, &[1, hidden]);
                let gate = self.g.gemm(x, w);
                let gate = self.g.apply(Pointwise::Sigmoid, &[gate]);
                self.g.apply(Pointwise::Mul, &[y, gate])
            }
        }
    }

    /// `act(gate) * (up + offset)`, or `act(up)`, with the clamps.
    fn activation(&mut self, how: Gating, gate: Option<Id>, up: Id) -> Id {
        let limit = |place| how.clamp.filter(|clamp| clamp.place == place).map(|clamp| clamp.limit);
        let Some(mut gate) = gate else { return self.act(how, up) };
        if let Some(limit) = limit(ClampPlace::Pre) {
            gate = self.constant(Pointwise::AtMost, gate, limit);
        }
        gate = self.act(how, gate);
        if let Some(limit) = limit(ClampPlace::Post) {
            gate = self.constant(Pointwise::AtMost, gate, limit);
        }
        let mut up = up;
        if let Some(clamp) = how.clamp {
            up = self.constant(Pointwise::AtMost, up, clamp.limit);
            up = self.constant(Pointwise::AtLeast, up, -clamp.limit);
        }
        if let Some(cap) = how.up_softcap {
            up = self.softcapped(up, cap);
        }
        up = self.constant(Pointwise::Offset, up, how.up_offset);
        self.g.apply(Pointwise::Mul, &[gate, up])
    }

    fn act(&mut self, how: Gating, x: Id) -> Id {
        match how.activation {
            Activation::Silu => {
                let inner = self.constant(Pointwise::Scale, x, how.alpha);
                let gate = self.g.apply(Pointwise::Sigmoid, &[inner]);
                let x = how.gate_softcap.map_or(x, |cap| self.softcapped(x, cap));
                self.g.apply(Pointwise::Mul, &[x, gate])
            }
            Activation::Gelu => self.g.apply(Pointwise::Gelu, &[x]),
            Activation::GeluTanh => self.g.apply(Pointwise::GeluTanh, &[x]),
            Activation::Relu => self.g.apply(Pointwise::Relu, &[x]),
            Activation::Relu2 => {
                let x = self.g.apply(Pointwise::Relu, &[x]);
                self.g.apply(Pointwise::Square, &[x])
            }
        }
    }
}
