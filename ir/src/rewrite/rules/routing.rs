//! Identities of routing.

use crate::graph::{Assignment, Attr, Capacity, Op, Pointwise, Type};
use crate::rewrite::matching::{computed, pattern};

use super::{Rule, is_normal};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // softmax, top-k, renormalise = top-k, softmax: exponentials of K logits instead of E. Only without a guard in
        // the sum: the guard is not scale-free. Where logits are so far apart that a score is 0, both sides may pick
        // different experts, each with weight 0.
        computed("softmax-after-top-k", "(renorm (top_k (softmax ?l) (softmax ?l) ?k) ?rule)", |m| match m.attr("?rule")? {
            Attr::Renorm(rule) if rule.eps.get() == 0.0 && rule.norm.sums_positive() => {
                let picks = m.apply(Op::TopK, &[m.class("?l"), m.class("?l"), m.class("?k")])?;
                m.apply(Op::Softmax, &[picks])
            }
            _ => None,
        }),
        // Scaling every logit by a positive number does not change the picks: pick first, scale K weights, not E.
        computed("scale-after-top-k", "(top_k (scale ?s ?c) (scale ?s ?c) ?k)", |m| {
            if !keeps_order(m.real("?c")?) {
                return None;
            }
            let picks = m.apply(Op::TopK, &[m.class("?s"), m.class("?s"), m.class("?k")])?;
            m.apply(Pointwise::Scale, &[picks, m.class("?c")])
        }),
        // A renormalisation without a guard cancels any positive scale before it.
        computed("drop-scale-before-renorm", "(renorm (scale ?p ?c) ?rule)", |m| match m.attr("?rule")? {
            Attr::Renorm(rule) if rule.eps.get() == 0.0 && keeps_order(m.real("?c")?) => {
                m.apply(Op::Renorm, &[m.class("?p"), m.class("?rule")])
            }
            _ => None,
        }),
        // The picked softmax already sums to one.
        computed("drop-renorm-of-softmax", "(renorm (softmax (top_k ?s ?t ?k)) ?rule)", |m| match m.attr("?rule")? {
            Attr::Renorm(rule) if rule.eps.get() == 0.0 && rule.norm.sums_positive() => {
                let picks = m.apply(Op::TopK, &[m.class("?s"), m.class("?t"), m.class("?k")])?;
                m.apply(Op::Softmax, &[picks])
            }
            _ => None,
        }),
        // Every group stays: no group is limited.
        computed("drop-group-limit-of-all", "(group_limit ?keys ?groups)", |m| match m.attr("?groups")? {
            Attr::Groups(g) if g.keep == g.groups => Some(m.class("?keys")),
            _ => None,
        }),
        // Where nothing is dropped, all picks are kept: they are renormalised with the scores. Picks of padding are of no
        // expert, and have no arithmetic.
        computed("renorm-before-dropless", "(renorm_kept (assign ?p dropless) ?rule)", |m| {
            let picks = m.apply(Op::Renorm, &[m.class("?p"), m.class("?rule")])?;
            let dropless = m.constant(Attr::Assignment(Assignment::Dropless));
            m.apply(Op::Assign, &[picks, dropless])
        }),
        computed("expert-scale-before-dropless", "(expert_scale (assign ?p dropless) ?s)", |m| {
            let picks = m.apply(Op::ExpertScale, &[m.class("?p"), m.class("?s")])?;
            let dropless = m.constant(Attr::Assignment(Assignment::Dropless));
            m.apply(Op::Assign, &[picks, dropless])
        }),
        // Where nothing is dropped, no token comes first: its best score need not be known.
        pattern("drop-best-score-of-dropless", "(assign (best_score ?p ?s ?n) dropless)", "(assign ?p dropless)"),
        // Where nothing is dropped, no input is added.
        pattern("drop-input-of-dropless", "(add ?y (dropped_input ?x (assign ?p dropless)))", "?y"),
        // Where an expert gets at most one pair from a token, a capacity of the whole span never drops. The rows of an expert
        // may come in another order, which no op tells: each reads rows by the routing that made them.
        computed("dropless-when-roomy", "(assign ?picks ?rule)", |m| match (m.attr("?rule")?, m.ty("?picks")) {
            (Attr::Assignment(Assignment::Capacity(capacity)), Type::Picks { repeats: false, .. }) if holds_span(&capacity) => {
                let dropless = m.constant(Attr::Assignment(Assignment::Dropless));
                m.apply(Op::Assign, &[m.class("?picks"), dropless])
            }
            (_, _) => None,
        }),
    ]
}

/// Whether products by this number are in the order of the other factors (and none becomes 0 or infinite in f64).
fn keeps_order(c: f64) -> bool {
    c > 0.0 && is_normal(c)
}

/// Whether the capacity is at least the number of tokens of a span, whatever that number is.
fn holds_span(capacity: &Capacity) -> bool {
    let (above, below) = capacity.per_expert.least_share(&capacity.span.whole());
    above >= below
}
