//! A spec as a graph: what the layer computes, op by op, with nothing fused and nothing chosen.
//! Where weights are stored is `package`'s business.

mod capacity;
mod experts;
mod observation;
mod routing;
mod soft;

use egg::Id;
use moec_ir::graph::{self, Attr, Builder, Dim, Graph, Op, Pointwise, Type};
use moec_ir::{DType, Facts};

pub(crate) use capacity::rows_at_capacity;

use crate::facts::facts;
use crate::spec::{self, Dropped, Mode, SharedCombine, Spec, Tensor, Word};

/// The weight that is added to the scores for the selection alone.
pub(crate) const CORRECTION_BIAS: &str = "@correction_bias";

/// The layer's graph: input `%x` `[T, H]`, where tokens may be padding `%token_mask` `[T]`, where token ids decide `%token_ids`
/// `[T]` too, weights by their canonical names, output `[T, H]`.
pub fn import(spec: &Spec) -> Graph {
    let mut layer = Layer { spec, dtype: element(spec.numerics.dtype), g: Builder::default(), mask: None, picking: None };
    let x = layer.g.param("%x", Type::tensor(&[Dim::Tokens, Dim::Const(spec.hidden)], layer.dtype));
    if spec.tokens.mask {
        layer.mask = Some(layer.g.param("%token_mask", Type::tensor(&[Dim::Tokens], DType::I32)));
    }
    let (mut y, joint, beside) = match spec.router.mode {
        Mode::Soft(soft) => {
            let (y, [dispatch, combine]) = layer.soft(x, soft);
            (y, None, vec![named("soft.dispatch", dispatch), named("soft.combine", combine)])
        }
        Mode::TokenChoice | Mode::ExpertChoice | Mode::Hash => {
            let logits = layer.logits(x);
            let logits = layer.scaled(logits);
            let picks = layer.picks(logits);
            let assigned = layer.assigned(picks);
            let routing = layer.weighted(assigned);
            (layer.routed(x, routing), layer.joint_weights(routing), layer.parts(assigned))
        }
    };
    if let Some(shared) = &spec.shared {
        let of_shared = layer.shared(x, joint, shared);
        y = layer.g.apply(Pointwise::Add, &[y, of_shared]);
        if shared.combine == SharedCombine::Average {
            y = layer.constant(Pointwise::Scale, y, 0.5);
        }
    }
    let y = layer.output_norm(y);
    // Beside shared experts and biases too a row of padding is zeros.
    let y = layer.masked(y);
    let y = layer.cast(y);
    let results = [vec![named(graph::OUTPUT, y)], beside].concat();
    layer.g.finish_with(&spec.name, results, facts(spec))
}

fn named(name: &str, value: Id) -> (String, Id) {
    (name.to_string(), value)
}

/// The router's products alone: of the layer's inputs `%x`, where there is noise `%seed`; output the logits `[T, R]`, its bias
/// added.
pub(crate) fn import_logits(spec: &Spec) -> Graph {
    let mut layer = Layer { spec, dtype: element(spec.numerics.dtype), g: Builder::default(), mask: None, picking: None };
    let x = layer.g.param("%x", Type::tensor(&[Dim::Tokens, Dim::Const(spec.hidden)], layer.dtype));
    let logits = layer.logits(x);
    layer.g.finish(&spec.name, logits)
}

/// What [`import_routing`] calls the probabilities of all columns, `[T, R]`: what statistics are made of.
pub(crate) const PROBABILITY: &str = "probability";
/// What it calls the scores of all columns, `[T, R]`: those by which experts would choose.
pub(crate) const SCORE: &str = "score";

/// The routing of the layer alone: input `%logits` `[T, R]`, the router's bias added, none of them of padding. The output is the
/// weight of each pair that is kept; the picks and the routing are values of the graph.
pub fn import_routing(spec: &Spec) -> Graph {
    let mut layer = Layer { spec, dtype: element(spec.numerics.dtype), g: Builder::default(), mask: None, picking: None };
    let logits = layer.g.param("%logits", Type::tensor(&[Dim::Tokens, Dim::Const(spec.columns())], DType::F32));
    let logits = layer.scaled(logits);
    let picks = layer.picks(logits);
    let assigned = layer.assigned(picks);
    let routing = layer.weighted(assigned);
    let weights = layer.g.apply(Op::PairWeights, &[routing]);
    let of_columns = [named(PROBABILITY, layer.probability(logits)), named(SCORE, layer.score(logits))];
    let results = std::iter::once(named(graph::OUTPUT, weights)).chain(of_columns).collect();
    layer.g.finish_with(&spec.name, results, Facts::default())
}

/// The spec's element type as the graph's.
pub(crate) fn element(dtype: spec::DType) -> DType {
    match dtype {
        spec::DType::F32 => DType::F32,
        spec::DType::F16 => DType::F16,
        spec::DType::Bf16 => DType::BF16,
    }
}

struct Layer<'s> {
    spec: &'s Spec,
    dtype: DType,
    g: Builder,
    /// Which tokens are padding.
    mask: Option<Id>,
    /// Which tokens have picks, where that is not what `mask` says.
    picking: Option<Id>,
}

impl Layer<'_> {
    /// Picks, without those of padding and of tokens that have none.
    fn masked_picks(&mut self, picks: Id) -> Id {
        self.picking.or(self.mask).map_or(picks, |mask| self.g.apply(Pointwise::MaskTokens, &[picks, mask]))
    }

    /// Rows or picks, without those of padding.
    fn masked(&mut self, x: Id) -> Id {
        self.mask.map_or(x, |mask| self.g.apply(Pointwise::MaskTokens, &[x, mask]))
    }

    /// From `x` to the sum of each token's experts, `[T, H]` f32.
    fn routed(&mut self, x: Id, routing: Id) -> Id {
        let (inner, width) = self.latent_in(x);
        let rows = self.g.apply(Op::Dispatch, &[inner, routing]);
        let weights = self.g.apply(Op::PairWeights, &[routing]);
        let rows = self.experts(rows, routing, Some(weights), width);
        let y = self.g.combine(rows, routing);
        let mut y = self.latent_out(y);
        if self.spec.capacity.is_some_and(|capacity| capacity.dropped == Dropped::Input) {
            let passed = self.g.apply(Op::DroppedInput, &[x, routing]);
            y = self.g.apply(Pointwise::Add, &[y, passed]);
        }
        if self.spec.router.identity_experts > 0 {
            let kept = self.g.apply(Op::IdentityInput, &[x, routing]);
            y = self.g.apply(Pointwise::Add, &[y, kept]);
        }
        self.finished(y)
    }

    /// What the experts see, and its width.
    fn latent_in(&mut self, x: Id) -> (Id, u64) {
        let Some(latent) = self.spec.expert.latent else { return (x, self.spec.hidden) };
        let inner = self.dense(Tensor::LatentIn, None, x, latent, self.spec.hidden);
        (self.cast(inner), latent)
    }

    /// What the experts made of it, `[T, H]` f32.
    fn latent_out(&mut self, y: Id) -> Id {
        let Some(latent) = self.spec.expert.latent else { return y };
        let y = self.cast(y);
        self.dense(Tensor::LatentOut, None, y, self.spec.hidden, latent)
    }

    /// The norm of the layer's output `[T, H]`, where it has one.
    fn output_norm(&mut self, y: Id) -> Id {
        let Some(eps) = self.spec.output_norm else { return y };
        let y = self.g.rms_norm(y, eps);
        let gain = self.weight(Tensor::OutputNorm, &[self.spec.hidden]);
        self.g.apply(Pointwise::Mul, &[y, gain])
    }

    /// The bias and the scale of the routed sum.
    fn finished(&mut self, mut y: Id) -> Id {
        if self.spec.weight(Tensor::OutputBias).is_some() {
            let bias = self.weight(Tensor::OutputBias, &[self.spec.hidden]);
            y = self.g.apply(Pointwise::Add, &[y, bias]);
        }
        self.constant(Pointwise::Scale, y, self.spec.routed_output_scale)
    }

    /// `input . w^T (+ bias)`.
    fn dense(&mut self, tensor: Tensor, bias: Option<Tensor>, input: Id, n: u64, k: u64) -> Id {
        let w = self.weight(tensor, &[n, k]);
        let y = self.g.gemm(input, w);
        let Some(bias) = bias else { return y };
        let b = self.weight(bias, &[n]);
        self.g.apply(Pointwise::Add, &[y, b])
    }

    /// `tanh(x / cap) * cap`.
    fn softcapped(&mut self, x: Id, cap: f64) -> Id {
        let x = self.constant(Pointwise::Scale, x, 1.0 / cap);
        let x = self.g.apply(Pointwise::Tanh, &[x]);
        self.constant(Pointwise::Scale, x, cap)
    }

    /// `op x c`; what a default leaves as it is, is not said.
    fn constant(&mut self, op: Pointwise, x: Id, c: f64) -> Id {
        if (op == Pointwise::Scale && c == 1.0) || (op == Pointwise::Offset && c == 0.0) {
            return x;
        }
        self.g.apply_attr(op, &[x], Attr::Real(c.into()))
    }

    /// `x` rounded to the layer's type.
    fn cast(&mut self, x: Id) -> Id {
        self.g.apply_attr(Pointwise::Cast, &[x], Attr::DType(self.dtype))
    }

    fn weight(&mut self, tensor: Tensor, shape: &[u64]) -> Id {
        let shape: Vec<Dim> = shape.iter().map(|n| Dim::Const(*n)).collect();
        self.g.param(&format!("@{}", tensor.word()), Type::tensor(&shape, self.dtype))
    }
}
