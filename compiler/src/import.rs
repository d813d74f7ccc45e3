//! A spec as a graph: what the layer computes, op by op, with nothing fused and nothing chosen.
//! Where weights are stored is `package`'s business.

use egg::Id;
use moec_ir::graph::{self, Assignment, Attr, Balance, Builder, Dim, Eps, Graph, Op, Part, Pointwise, Span, Type};
use moec_ir::{DType, Extent, Facts};

use crate::facts::facts;
use crate::spec::{
    self, Activation, Apply, AuxGroup, AuxLoss, Capacity, CapacityGroup, CapacitySize, ClampPlace, Correction, Dropped, EpsMode,
    Gating, GroupMask, GroupScore, HashOob, Mode, Norm, Order, Priority, Renorm, Round, RouterDType, Score, Select, Shared,
    SharedCombine, SharedGate, Soft, SoftNorm, Spec, Tensor, Word,
};

/// The weight that is added to the scores for the selection alone.
const CORRECTION_BIAS: &str = "@correction_bias";

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
    /// From `x` `[T, H]` to the logits `[T, R]`: the router's products, with its bias.
    fn logits(&mut self, x: Id) -> Id {
        let columns = self.spec.columns();
        let x = self.router_input(x);
        let w = self.weight(Tensor::Router, &[columns, self.spec.hidden]);
        let mut logits = self.g.gemm(x, w);
        if self.spec.router.bias {
            let bias = self.weight(Tensor::RouterBias, &[columns]);
            logits = self.g.apply(Pointwise::Add, &[logits, bias]);
        }
        logits
    }

    /// The logits `[T, R]` as scores are made of them: rounded, scaled and capped.
    fn scaled(&mut self, mut logits: Id) -> Id {
        let router = &self.spec.router;
        if router.dtype == RouterDType::Model {
            let rounded = self.cast(logits);
            logits = self.g.apply_attr(Pointwise::Cast, &[rounded], Attr::DType(DType::F32));
        }
        logits = self.constant(Pointwise::Scale, logits, router.logit_scale);
        match router.logit_softcap {
            Some(cap) => self.softcapped(logits, cap),
            None => logits,
        }
    }

    /// From these to the picks of each token.
    fn picks(&mut self, logits: Id) -> Id {
        let router = &self.spec.router;
        let scores = match router.order {
            Order::ScoreTopK => self.score(logits),
            Order::TopKScore => logits,
        };
        if router.mode == Mode::ExpertChoice {
            // A positive factor changes no choice.
            let scores = self.constant(Pointwise::Scale, scores, router.scale);
            let picks = self.g.apply(Op::AllExperts, &[scores]);
            return self.masked(picks);
        }
        let (joint, all_logits) = (scores, logits);
        let [scores, logits] = [scores, logits].map(|of| self.competing(of));
        let mut keys = scores;
        if let Some(correction) = router.correction {
            let bias = self.correction_bias();
            let corrected = match correction {
                Correction::Score => scores,
                Correction::Logit => logits,
            };
            keys = self.g.apply(Pointwise::Add, &[corrected, bias]);
        }
        if let Some(groups) = router.groups {
            let groups = graph::Groups {
                groups: groups.count,
                keep: groups.top,
                score: match groups.score {
                    GroupScore::Top2Sum => graph::GroupScore::Top2Sum,
                    GroupScore::Max => graph::GroupScore::Max,
                },
                mask: match groups.mask {
                    GroupMask::NegativeInfinity => graph::GroupMask::NegInf,
                    GroupMask::Zero => graph::GroupMask::Zero,
                },
            };
            keys = self.g.apply_attr(Op::GroupLimit, &[keys], Attr::Groups(groups));
        }
        let mut picks = match (router.mode, router.select) {
            (Mode::Hash, _) => self.hash_picks(scores),
            (_, Select::TopK) => self.g.apply_attr(Op::TopK, &[scores, keys], Attr::Num(router.top_k)),
            (_, Select::SparseMixer) => {
                let jitter = self.g.add(graph::Node::Attr(Attr::Real(router.jitter.into())));
                self.g.apply_attr(Op::SparseMixer, &[logits, jitter], Attr::Num(router.top_k))
            }
        };
        if router.joint_shared > 0 {
            picks = self.g.apply_attr(Op::Joint, &[picks, joint], Attr::Num(router.joint_shared));
        }
        if router.order == Order::TopKScore {
            picks = self.score(picks);
        }
        if router.identity_experts > 0 {
            picks = self.g.apply_attr(Op::WithoutRows, &[picks], Attr::Num(router.identity_experts));
        }
        picks = self.ranked(all_logits, picks);
        if renorms_kept(self.spec) {
            return self.observed(logits, picks); // Renormalised when it is known what is kept, and only then scaled.
        }
        // Joint weights are shares of their sum, whether or not a key says so.
        let share = Renorm { norm: Norm::Sum, eps: 0.0, eps_mode: EpsMode::Add };
        if let Some(renorm) = router.renorm.or((router.joint_shared > 0).then_some(share)) {
            picks = self.g.apply_attr(Op::Renorm, &[picks], Attr::Renorm(renorm_rule(renorm)));
        }
        picks = self.constant(Pointwise::Scale, picks, router.scale);
        picks = self.expert_scale(picks);
        self.observed(logits, picks)
    }

    /// The picks, with what decides which token is served first where that is its best score: of the columns of all experts,
    /// shared ones too, as it is before any selection, renormalisation or scale. So a softmax over the selected logits alone
    /// serves tokens as the same layer does that is written as a softmax over all, renormalised.
    fn ranked(&mut self, logits: Id, picks: Id) -> Id {
        let Some(Priority::BatchPrioritized) = self.spec.capacity.map(|capacity| capacity.priority) else { return picks };
        let scores = self.score(logits);
        // The joint picks are every token's, and no claim to an expert.
        self.g.apply_attr(Op::BestScore, &[picks, scores], Attr::Num(self.spec.router.top_k))
    }

    /// The weights of picks or of a routing times what the checkpoint has for all experts and for each, if it has that.
    fn expert_scale(&mut self, mut weights: Id) -> Id {
        for (tensor, len) in [(Tensor::RouterGlobalScale, 1), (Tensor::PerExpertScale, self.spec.candidates())] {
            if self.spec.weight(tensor).is_some() {
                let scale = self.weight(tensor, &[len]);
                weights = self.g.apply(Op::ExpertScale, &[weights, scale]);
            }
        }
        weights
    }

    /// Of a row of the router the columns of the experts that compete.
    fn competing(&mut self, row: Id) -> Id {
        match self.spec.router.joint_shared {
            0 => row,
            _ => self.g.apply_attr(Op::Leading, &[row], Attr::Num(self.spec.candidates())),
        }
    }

    /// The experts that the table has for each token's id.
    fn hash_picks(&mut self, scores: Id) -> Id {
        // Without a vocabulary the table has no rows, which no graph may have.
        let vocabulary = self.spec.router.vocabulary.unwrap_or(0);
        let shape = [vocabulary, self.spec.router.top_k].map(Dim::Const);
        let table = self.g.param("@hash_table", Type::tensor(&shape, DType::I32));
        let ids = self.g.param("%token_ids", Type::tensor(&[Dim::Tokens], DType::I32));
        if self.spec.router.hash_oob == HashOob::Drop {
            let vocabulary = self.g.add(graph::Node::Attr(Attr::Num(vocabulary)));
            let of_tokens: Vec<Id> = [ids, vocabulary].into_iter().chain(self.mask).collect();
            self.picking = Some(self.g.apply(Op::Within, &of_tokens));
        }
        self.g.apply(Op::HashPicks, &[scores, table, ids])
    }

    /// The probabilities of all columns that statistics are made of: the scores, or the softmax of the logits where these are the
    /// scores.
    fn probability(&mut self, logits: Id) -> Id {
        match self.spec.router.score {
            Score::Identity => self.g.apply(Op::Softmax, &[logits]),
            Score::Softmax | Score::Sigmoid | Score::SqrtSoftplus => self.score(logits),
        }
    }

    /// The picks, with what statistics are made of.
    fn observed(&mut self, logits: Id, picks: Id) -> Id {
        // What experts without weights take has no balance.
        if self.spec.router.identity_experts + self.spec.router.joint_shared > 0 {
            return self.masked_picks(picks);
        }
        let scores = self.probability(logits);
        let picks = if counts_scores_alone(self.spec) {
            let others = self.g.apply_attr(Op::TopK, &[scores, scores], Attr::Num(self.spec.router.top_k));
            self.g.apply(Op::Counted, &[picks, others])
        } else {
            picks
        };
        let picks = self.masked_picks(picks);
        let by_sequence = losses(self.spec).and_then(|losses| losses.balance).is_some_and(|(by, _)| by.is_by_sequence());
        let span = if by_sequence { Span::Sequence } else { Span::All };
        self.g.apply_attr(Op::Observe, &[logits, scores, picks], Attr::Span(span))
    }

    /// Picks, without those of padding and of tokens that have none.
    fn masked_picks(&mut self, picks: Id) -> Id {
        self.picking.or(self.mask).map_or(picks, |mask| self.g.apply(Pointwise::MaskTokens, &[picks, mask]))
    }

    /// Rows or picks, without those of padding.
    fn masked(&mut self, x: Id) -> Id {
        self.mask.map_or(x, |mask| self.g.apply(Pointwise::MaskTokens, &[x, mask]))
    }

    /// What the router sees of `x`.
    fn router_input(&mut self, x: Id) -> Id {
        let seen = self.normed(x);
        let Some(jitter) = self.spec.training.jitter else { return seen };
        let seed = self.g.param("%seed", Type::tensor(&[Dim::Const(2)], DType::I32));
        self.g.apply_attr(Op::Jitter, &[seen, seed], Attr::Real(jitter.into()))
    }

    fn normed(&mut self, x: Id) -> Id {
        let Some(norm) = self.spec.router.input_norm else { return x };
        let mut y = self.g.rms_norm(x, norm.eps);
        y = self.constant(Pointwise::Scale, y, norm.scale);
        if self.spec.weight(Tensor::RouterInputScale).is_some() {
            let scale = self.weight(Tensor::RouterInputScale, &[self.spec.hidden]);
            y = self.g.apply(Pointwise::Mul, &[y, scale]);
        }
        self.cast(y)
    }

    /// From the picks of each token to those that are kept.
    fn assigned(&mut self, picks: Id) -> Id {
        self.g.apply_attr(Op::Assign, &[picks], Attr::Assignment(assignment(self.spec)))
    }

    /// The pairs under the weights that are made of those that were kept, where there are such.
    fn weighted(&mut self, routing: Id) -> Id {
        match self.spec.router.renorm {
            Some(renorm) if renorms_kept(self.spec) => {
                let kept = self.g.apply_attr(Op::RenormKept, &[routing], Attr::Renorm(renorm_rule(renorm)));
                self.expert_scale(kept)
            }
            // By the scores alone it is chosen: an expert's factor may be negative.
            Some(_) | None if self.spec.router.mode == Mode::ExpertChoice => self.expert_scale(routing),
            Some(_) | None => routing,
        }
    }

    /// What a caller may read of a routing, and what the correction bias becomes after it.
    fn parts(&mut self, routing: Id) -> Vec<(String, Id)> {
        let is_chosen = self.spec.router.mode == Mode::ExpertChoice;
        let is_observed = !is_chosen && self.spec.router.identity_experts + self.spec.router.joint_shared == 0;
        let parts = [
            ("route.experts", Part::Experts, !is_chosen),
            ("route.counted", Part::Counted, is_observed && counts_scores_alone(self.spec)),
            ("stats.probability", Part::Probability, is_observed),
            ("stats.z", Part::Z, is_observed),
            ("stats.load", Part::Load, true),
            ("stats.kept", Part::Kept, true),
            ("route.rows", Part::Rows, true),
            ("stats.tokens", Part::Tokens, self.picking.or(self.mask).is_some()),
        ];
        let mut results = vec![named("route.weights", self.g.apply_attr(Op::PickWeights, &[routing], Attr::Num(0)))];
        for (name, part, _) in parts.into_iter().filter(|(_, _, has)| *has) {
            results.push(named(name, self.g.apply_attr(Op::Part, &[routing], Attr::Part(part))));
        }
        if let Some(rule) = losses(self.spec) {
            let losses = self.g.apply_attr(Op::Losses, &[routing], Attr::Losses(rule));
            let names = [Some("stats.importance"), rule.balance.map(|_| "stats.aux_loss"), rule.z.map(|_| "stats.z_loss")];
            for (name, place) in names.into_iter().flatten().zip(0..) {
                results.push(named(name, self.g.apply_attr(Op::Item, &[losses], Attr::Num(place))));
            }
        }
        if let Some(rate) = self.spec.training.bias_update_rate {
            let bias = self.correction_bias();
            results.push(named(CORRECTION_BIAS, self.g.apply_attr(Op::BiasUpdate, &[bias, routing], Attr::Real(rate.into()))));
        }
        results
    }

    /// f32 whatever the layer's type: checkpoints keep it so, and a rounded bias picks other experts.
    fn correction_bias(&mut self) -> Id {
        self.g.param(CORRECTION_BIAS, Type::tensor(&[Dim::Const(self.spec.candidates())], DType::F32))
    }

    /// Logits, of all experts or of the picked ones, to scores.
    fn score(&mut self, logits: Id) -> Id {
        match self.spec.router.score {
            Score::Softmax => self.g.apply(Op::Softmax, &[logits]),
            Score::Sigmoid => self.g.apply(Pointwise::Sigmoid, &[logits]),
            Score::Identity => logits,
            Score::SqrtSoftplus => self.g.apply(Pointwise::SqrtSoftplus, &[logits]),
        }
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

    /// From `x` to the mixture of all experts' slots, `[T, H]` f32, with the weights of tokens in slots and of slots in tokens.
    fn soft(&mut self, x: Id, soft: Soft) -> (Id, [Id; 2]) {
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

    /// From the experts' rows `[P, width]` to their output rows `[P, width]`, weighted where there are weights.
    fn experts(&mut self, rows: Id, routing: Id, weights: Option<Id>, width: u64) -> Id {
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
        if renorms_kept(self.spec) { self.constant(Pointwise::Scale, y, self.spec.router.scale) } else { y }
    }

    /// `rows . w[expert]^T (* weights) (+ bias[expert])`, from K to N columns.
    fn grouped(&mut self, [tensor, bias]: [Tensor; 2], [n, k]: [u64; 2], rows: Id, routing: Id, weights: Option<Id>) -> Id {
        let w = self.weight(tensor, &[self.spec.experts, n, k]);
        let mut y = self.g.grouped_gemm(rows, routing, w);
        if let Some(weights) = weights {
            y = self.times(y, weights);
        }
        if !self.spec.expert.bias {
            return y;
        }
        let b = self.weight(bias, &[self.spec.experts, n]);
        let b = self.g.apply(Op::ExpertRows, &[b, routing]);
        self.g.apply(Pointwise::Add, &[y, b])
    }

    /// From `x` to the output of the shared experts, `[T, H]` f32.
    fn shared(&mut self, x: Id, joint: Option<Id>, shared: &Shared) -> Id {
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

    /// The weights of the shared experts, `[T, n]`, where they are normalised together with the routed ones.
    fn joint_weights(&mut self, routing: Id) -> Option<Id> {
        let router = &self.spec.router;
        (router.joint_shared > 0).then(|| self.g.apply_attr(Op::PickWeights, &[routing], Attr::Num(router.top_k)))
    }

    /// `input . w^T (+ bias)`.
    fn dense(&mut self, tensor: Tensor, bias: Option<Tensor>, input: Id, n: u64, k: u64) -> Id {
        let w = self.weight(tensor, &[n, k]);
        let y = self.g.gemm(input, w);
        let Some(bias) = bias else { return y };
        let b = self.weight(bias, &[n]);
        self.g.apply(Pointwise::Add, &[y, b])
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

/// Whether weights are renormalised over what was kept, not over all picks.
fn renorms_kept(spec: &Spec) -> bool {
    spec.router.renorm.is_some() && spec.capacity.is_some_and(|capacity| capacity.renorm_after_drop)
}

fn renorm_rule(Renorm { norm, eps, eps_mode }: Renorm) -> graph::Renorm {
    let norm = match norm {
        Norm::Sum => graph::Norm::Sum,
        Norm::P(p) => graph::Norm::P(p.into()),
    };
    let mode = match eps_mode {
        EpsMode::Add => Eps::Add,
        EpsMode::Clamp => Eps::Clamp,
    };
    graph::Renorm { norm, mode, eps: eps.into() }
}

/// Whether the loss counts the highest scores rather than the picks: DeepSeek's, where a bias has a part in these, and that of
/// Megatron-LM, where a bias or groups have. Groups limit neither the top-k of arXiv 2412.19437, equation 18, nor that of
/// `compute_routing_scores_for_aux_loss` in Megatron-LM; DeepSeek-V2, which has no bias, counts what its groups leave.
fn counts_scores_alone(spec: &Spec) -> bool {
    let (corrected, grouped) = (spec.router.correction.is_some(), spec.router.groups.is_some());
    match spec.training.aux_loss {
        Some((AuxLoss::DeepseekSequence, _)) => corrected,
        Some((AuxLoss::Megatron, _)) => corrected || grouped,
        Some((
            AuxLoss::Switch
            | AuxLoss::Mixtral
            | AuxLoss::Gshard
            | AuxLoss::DeepspeedTopk
            | AuxLoss::Megablocks
            | AuxLoss::Importance,
            _,
        ))
        | None => false,
    }
}

/// The losses of `[training]`, their coefficients with what tells definitions of one loss apart.
pub(crate) fn losses(spec: &Spec) -> Option<graph::Losses> {
    let by_row = spec.training.aux_group == AuxGroup::Sequence;
    let load = if by_row { Balance::Sequences } else { Balance::Load };
    let top_k = spec.router.top_k as f64;
    let balance = spec.training.aux_loss.map(|(loss, factor)| {
        let (balance, factor) = match loss {
            AuxLoss::Switch | AuxLoss::Mixtral => (load, factor),
            AuxLoss::DeepspeedTopk | AuxLoss::Megatron | AuxLoss::Megablocks => (load, factor / top_k),
            AuxLoss::Gshard if by_row => (Balance::SequencesFirst, factor),
            AuxLoss::Gshard => (Balance::First, factor),
            AuxLoss::DeepseekSequence => (Balance::Sequences, factor / top_k),
            AuxLoss::Importance => (Balance::Importance, factor),
        };
        (balance, factor.into())
    });
    let losses = graph::Losses { balance, z: spec.training.z_coef.map(Into::into) };
    (losses.balance.is_some() || losses.z.is_some()).then_some(losses)
}

/// The spec's `[capacity]`.
fn assignment(spec: &Spec) -> Assignment {
    let Some(capacity) = &spec.capacity else { return Assignment::Dropless };
    let (span, tokens) = match capacity.group {
        CapacityGroup::All => (Span::All, Extent::Tokens),
        CapacityGroup::Sequence => (Span::Sequence, Extent::SequenceTokens),
        CapacityGroup::Tokens(n) => (Span::Tokens(n), Extent::Const(n)),
    };
    let priority = match capacity.priority {
        // Each expert takes the tokens that it scores highest.
        _ if spec.router.mode == Mode::ExpertChoice => graph::Priority::Score,
        Priority::ChoiceMajor => graph::Priority::ChoiceMajor,
        Priority::TokenMajor => graph::Priority::TokenMajor,
        Priority::Score => graph::Priority::Score,
        Priority::BatchPrioritized => graph::Priority::BatchPrioritized,
    };
    let per_expert = per_expert(capacity, tokens, spec);
    Assignment::Capacity(graph::Capacity { per_expert, span, priority })
}

/// Rows of all experts' buffers where each holds its capacity of every span; `None` without a capacity.
pub(crate) fn rows_at_capacity(spec: &Spec) -> Option<Extent> {
    match assignment(spec) {
        Assignment::Dropless => None,
        Assignment::Capacity(capacity) => Some(capacity.per_expert * capacity.span.count() * spec.experts),
    }
}

/// `round(factor * tokens (* K) / E)`, at least `min`, up to a multiple of `multiple_of`.
fn per_expert(capacity: &Capacity, tokens: Extent, spec: &Spec) -> Extent {
    let size = match capacity.size {
        CapacitySize::Factor { factor, count_k, round } => {
            let choices = if count_k { spec.router.top_k } else { 1 };
            let below = Extent::Const(factor.denominator) * spec.experts;
            (tokens * factor.numerator * choices).div(below, rounding(round))
        }
        CapacitySize::Tokens(tokens) => Extent::Const(tokens),
        CapacitySize::Fraction { fraction, round } => {
            (tokens * fraction.numerator).div(Extent::Const(fraction.denominator), rounding(round))
        }
    };
    let size = if capacity.min > 0 { size.max(Extent::Const(capacity.min)) } else { size };
    if capacity.multiple_of > 1 { size.div_ceil(capacity.multiple_of) * capacity.multiple_of } else { size }
}

fn rounding(round: Round) -> moec_ir::Round {
    match round {
        Round::Ceil => moec_ir::Round::Ceil,
        Round::Floor => moec_ir::Round::Floor,
        Round::HalfEven => moec_ir::Round::HalfEven,
    }
}
