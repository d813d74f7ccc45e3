//! What a caller may read of a routing: statistics, losses, and what the correction bias becomes.

use egg::Id;
use moec_ir::graph::{self, Attr, Balance, Op, Part, Span};

use super::{CORRECTION_BIAS, Entry, Layer, named};
use crate::spec::{AuxGroup, AuxLoss, Mode, Score, Spec};

impl Layer<'_> {
    /// The probabilities of all columns that statistics are made of: the scores, or the softmax of the logits where these are the
    /// scores.
    pub(super) fn probability(&mut self, logits: Id) -> Id {
        match self.spec.router.score {
            Score::Identity => self.g.apply(Op::Softmax, &[logits]),
            Score::Softmax | Score::Sigmoid | Score::SqrtSoftplus => self.score(logits),
        }
    }

    /// The picks, with what statistics are made of.
    pub(super) fn observed(&mut self, logits: Id, picks: Id) -> Id {
        // What experts without weights take has no balance.
        if self.spec.router.identity_experts + self.spec.router.joint_shared > 0 || !self.observes() {
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

    /// Whether a caller may read of the routing: of a router alone where the routing is made in any case, because pairs are dropped or
    /// `[training]` asks for sums over it.
    pub(super) fn observes(&self) -> bool {
        match self.entry {
            Entry::Layer | Entry::Experts { .. } => true,
            Entry::Router => {
                let sums = losses(self.spec).is_some() || self.spec.training.bias_update_rate.is_some();
                self.spec.capacity.is_some() || sums
            }
        }
    }

    /// What a caller may read of a routing, and what the correction bias becomes after it.
    pub(super) fn parts(&mut self, routing: Id) -> Vec<(String, Id)> {
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
fn losses(spec: &Spec) -> Option<graph::Losses> {
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
