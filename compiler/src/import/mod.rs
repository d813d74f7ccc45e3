//! A spec as a graph: what the layer computes, op by op, with nothing fused and nothing chosen.
//! Where weights are stored is `package`'s business.

mod capacity;
mod entry;
mod experts;
mod observation;
mod routing;
mod soft;

use egg::Id;
use moec_ir::graph::{self, Attr, Builder, Dim, Graph, Op, Part, Pointwise, Type};
use moec_ir::{DType, Facts};

pub use entry::{Entry, EntryError};

pub(crate) use capacity::rows_at_capacity;

use crate::facts::{facts, facts_of};
use crate::spec::{self, Dropped, Mode, SharedCombine, Spec, Tensor, Word};
use routing::renorms_kept;

/// The experts of each token, as an output and as an input.
pub(crate) const TOPK_IDS: &str = "topk_ids";
/// Their weights.
pub(crate) const TOPK_WEIGHTS: &str = "topk_weights";

/// The weight that is added to the scores for the selection alone.
pub(crate) const CORRECTION_BIAS: &str = "@correction_bias";

/// The graph of an entry, under its name. Its weights have their canonical names.
///
/// * `layer`: input `%x` `[T, H]`, where tokens may be padding `%token_mask` `[T]`, where token ids decide `%token_ids` `[T]` too, where
///   there is noise `%seed` `[2]`; output `y` `[T, H]`.
/// * `router`: the same inputs; outputs `topk_ids` i32 `[T, K]` and `topk_weights` f32 `[T, K]`, the final weights. Padding, dropped pairs
///   and tokens without picks have the id -1 and the weight 0. K counts the shared experts that the router weighs, which have the
///   ids after those of all experts, and so have identity experts.
/// * `experts`: inputs `%x` `[T, H]` as the experts see it, `%topk_ids` and `%topk_weights` as above, where only some experts are here
///   `%expert_map` i32 `[E]`; output `y` `[T, H]`, the sum over the picks that are here. An id that is no expert's is no pick.
///
/// # Errors
/// [`EntryError`]: a layer has no `router` and no `experts` without picks of each token. Every layer has the entry `layer`.
pub fn import(spec: &Spec, entry: Entry) -> Result<Graph, EntryError> {
    entry.check(spec)?;
    let mut layer = Layer::new(spec, entry);
    let results = match entry {
        Entry::Layer => layer.whole(),
        Entry::Experts { local } => layer.experts_alone(local),
        Entry::Router => layer.router_alone(),
    };
    Ok(layer.g.finish_with(&entry.name(spec), results, facts_of(spec, entry)))
}

/// The graph of the entry `layer`, which every spec has.
pub(crate) fn import_layer(spec: &Spec) -> Graph {
    let mut layer = Layer::new(spec, Entry::Layer);
    let results = layer.whole();
    layer.g.finish_with(&spec.name, results, facts(spec))
}

fn named(name: &str, value: Id) -> (String, Id) {
    (name.to_string(), value)
}

/// The router's products alone: of the layer's inputs `%x`, where there is noise `%seed`; output the logits `[T, R]`, its bias
/// added.
pub(crate) fn import_logits(spec: &Spec) -> Graph {
    let mut layer = Layer::new(spec, Entry::Router);
    let x = layer.x();
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
    let mut layer = Layer::new(spec, Entry::Layer);
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
    entry: Entry,
    dtype: DType,
    g: Builder,
    /// Which tokens are padding.
    mask: Option<Id>,
    /// Which tokens have picks, where that is not what `mask` says.
    picking: Option<Id>,
}

impl<'s> Layer<'s> {
    fn new(spec: &'s Spec, entry: Entry) -> Layer<'s> {
        Layer { spec, entry, dtype: element(spec.numerics.dtype), g: Builder::default(), mask: None, picking: None }
    }
}

impl Layer<'_> {
    /// From tokens to the output, and what a caller may read of the routing.
    fn whole(&mut self) -> Vec<(String, Id)> {
        let x = self.tokens();
        let (mut y, joint, beside) = match self.spec.router.mode {
            Mode::Soft(soft) => {
                let (y, [dispatch, combine]) = self.soft(x, soft);
                (y, None, vec![named("soft.dispatch", dispatch), named("soft.combine", combine)])
            }
            Mode::TokenChoice | Mode::ExpertChoice | Mode::Hash => {
                let assigned = self.assigned_picks(x);
                let routing = self.weighted(assigned);
                (self.routed(x, routing), self.joint_weights(routing), self.parts(assigned))
            }
        };
        if let Some(shared) = &self.spec.shared {
            let of_shared = self.shared(x, joint, shared);
            y = self.g.apply(Pointwise::Add, &[y, of_shared]);
            if shared.combine == SharedCombine::Average {
                y = self.constant(Pointwise::Scale, y, 0.5);
            }
        }
        let y = self.output_norm(y);
        // Beside shared experts and biases too a row of padding is zeros.
        let y = self.masked(y);
        let y = self.cast(y);
        [vec![named(graph::OUTPUT, y)], beside].concat()
    }

    /// From tokens to their picks under final weights. Where pairs are dropped, or something is asked of the routing, it is made,
    /// and a caller may read of it what it may of the whole layer's.
    fn router_alone(&mut self) -> Vec<(String, Id)> {
        let x = self.tokens();
        let (picked, beside) = if self.observes() {
            let assigned = self.assigned_picks(x);
            let routing = self.weighted(assigned);
            let factor = if renorms_kept(self.spec) { self.spec.router.scale } else { 1.0 };
            let picked = self.g.apply_attr(Op::Picked, &[routing], Attr::Real(factor.into()));
            (picked, self.parts(assigned))
        } else {
            let picks = self.picks_of(x);
            (self.g.apply_attr(Op::Picked, &[picks], Attr::Real(1.0.into())), Vec::new())
        };
        let [ids, weights] = [0, 1].map(|place| self.g.apply_attr(Op::Item, &[picked], Attr::Num(place)));
        [vec![named(TOPK_IDS, ids), named(TOPK_WEIGHTS, weights)], beside].concat()
    }

    /// From given picks to the sum of each token's experts that are here.
    fn experts_alone(&mut self, local: Option<u64>) -> Vec<(String, Id)> {
        let x = self.x();
        let of_picks = |dtype| Type::tensor(&[Dim::Tokens, Dim::Const(self.spec.picks())], dtype);
        let (of_ids, of_weights) = (of_picks(DType::I32), of_picks(DType::F32));
        let ids = self.g.param(&format!("%{TOPK_IDS}"), of_ids);
        let weights = self.g.param(&format!("%{TOPK_WEIGHTS}"), of_weights);
        let of_experts = Type::tensor(&[Dim::Const(self.spec.experts)], DType::I32);
        let maps: Vec<Id> = local.map(|_| self.g.param("%expert_map", of_experts)).into_iter().collect();
        let maps = self.g.apply(Op::List, &maps);
        let routing = self.g.apply_attr(Op::Given, &[ids, weights, maps], Attr::Num(self.entry.experts(self.spec)));
        let y = self.combined(x, routing, self.entry.width(self.spec));
        let y = self.cast(y);
        let counts = [("stats.load", Part::Load), ("stats.kept", Part::Kept)];
        let counts = counts.map(|(name, part)| named(name, self.g.apply_attr(Op::Part, &[routing], Attr::Part(part))));
        [vec![named(graph::OUTPUT, y)], counts.to_vec()].concat()
    }

    /// The entry's tokens.
    fn x(&mut self) -> Id {
        self.g.param("%x", Type::tensor(&[Dim::Tokens, Dim::Const(self.entry.width(self.spec))], self.dtype))
    }

    /// These, of which some may be padding.
    fn tokens(&mut self) -> Id {
        let x = self.x();
        if self.spec.tokens.mask {
            self.mask = Some(self.g.param("%token_mask", Type::tensor(&[Dim::Tokens], DType::I32)));
        }
        x
    }

    /// From `x` to the picks of each token.
    fn picks_of(&mut self, x: Id) -> Id {
        let logits = self.logits(x);
        let logits = self.scaled(logits);
        self.picks(logits)
    }

    /// From `x` to those that are kept.
    fn assigned_picks(&mut self, x: Id) -> Id {
        let picks = self.picks_of(x);
        self.assigned(picks)
    }

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
        let y = self.combined(inner, routing, width);
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

    /// From what the experts see of each token to the weighted sum of what its experts make of it, f32.
    fn combined(&mut self, x: Id, routing: Id, width: u64) -> Id {
        let rows = self.g.apply(Op::Dispatch, &[x, routing]);
        let weights = self.g.apply(Op::PairWeights, &[routing]);
        let rows = self.experts(rows, routing, Some(weights), width);
        self.g.combine(rows, routing)
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
        let y = self.rounded(y);
        let Some(bias) = bias else { return y };
        let b = self.weight(bias, &[n]);
        self.g.apply(Pointwise::Add, &[y, b])
    }

    /// A product, whose factors may be rounded where the spec says so.
    fn rounded(&mut self, product: Id) -> Id {
        if self.spec.numerics.tf32 { self.g.apply(Pointwise::Tf32, &[product]) } else { product }
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
