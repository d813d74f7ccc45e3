//! `[capacity]`: which pairs are kept.

use egg::Id;
use moec_ir::Extent;
use moec_ir::graph::{self, Assignment, Attr, Op, Span};

use super::Layer;
use crate::spec::{Capacity, CapacityGroup, CapacitySize, Mode, Priority, Round, Spec};

impl Layer<'_> {
    /// From the picks of each token to those that are kept.
    pub(super) fn assigned(&mut self, picks: Id) -> Id {
        self.g.apply_attr(Op::Assign, &[picks], Attr::Assignment(assignment(self.spec)))
    }
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
