//! One row of a body: scores, groups, the top k and their weights. How 32 lanes share a row is in `lanes`, how they find
//! its greatest in `pick`.

use std::collections::HashMap;

use super::super::body::{Term, pointwise_op};
use super::super::math::{self, Accuracy, finite};
use super::lanes::{At, Lanes, Nan};
use super::pick::{TAKEN, greatest, key, take, top_2};
use super::{Gating, LANES, Operand, Picked, Picker, Share};
use crate::DType;
use crate::graph::{Attr, Eps, GroupMask, GroupScore, Groups, Node, Norm, Op, Pointwise, Renorm};
use crate::kernel::Value;
use crate::kernel::build::Array;

/// What is known of a whole row once it was read.
#[derive(Clone, Copy)]
pub(super) enum Known<'k> {
    Softmax {
        max: Value<'k>,
        sum: Value<'k>,
    },
    /// The groups that stay have the key [`TAKEN`].
    Groups(Groups, Array<'k>),
}

/// A token's row.
pub(super) struct Row<'a, 'k> {
    pub(super) lanes: &'a Lanes<'k>,
    pub(super) gating: &'a Gating<'a>,
    pub(super) logits: Array<'k>,
    /// Where its logits start.
    pub(super) start: Value<'k>,
    /// What stands in the holes `$1..`.
    pub(super) operands: &'a [Array<'k>],
    pub(super) scratch: Share<'k>,
}

pub(super) type Facts<'k> = HashMap<usize, Known<'k>>;

impl<'k> Row<'_, 'k> {
    /// Writes the token's experts and weights, and its best score where that is asked for. Returns what is known of the row.
    pub(super) fn picks(
        &self,
        (node, how): (usize, Picker),
        token: Value<'k>,
        topk_experts: Array<'k>,
        topk_weights: Array<'k>,
        best_of_token: Option<Array<'k>>,
    ) -> Facts<'k> {
        let (k, share) = (self.lanes.k, &self.scratch);
        let (scratch, top_k) = (share.picked(), self.gating.spec.top_k);
        let facts = self.facts();
        let scores = self.gating.operands[node][0];
        match how {
            Picker::TopK { keys } => self.top_k(scores, keys, &facts),
            Picker::Mixer { jitter } => self.mix(scores, jitter, &facts),
            Picker::Table { table, rows, ids } => {
                self.look_up(self.operands[ids].load(token), (self.operands[table], rows), scores, &facts);
            }
        }
        if let (Some((scores, count)), Some(best_of_token)) = (self.gating.best, best_of_token) {
            self.best(scores, count, (token, best_of_token), &facts);
        }
        self.weigh(node, &facts);
        self.each_pick(top_k, |j| {
            let pair = k.bind("pair", token * top_k as i32 + j);
            topk_experts.store(pair, scratch.experts.load(share.pick + j));
            topk_weights.store(pair, scratch.weights.load(share.pick + j));
        });
        // The next row's picks go where these are.
        k.warp_barrier();
        facts
    }

    /// Writes the experts with the largest of these keys, which are not the token's own.
    pub(super) fn counted(&self, keys: usize, token: Value<'k>, counted_experts: Array<'k>, facts: &Facts<'k>) {
        let (k, lanes, share) = (self.lanes.k, self.lanes, &self.scratch);
        let (columns, top_k) = (self.gating.columns[keys], self.gating.spec.top_k);
        self.rank(columns, &|at| self.value(keys, at, facts));
        greatest(lanes, share.picked().keys, share.key, (columns, top_k), |j, expert| {
            lanes.once(|| counted_experts.store(k.bind("pair", token * top_k as i32 + j), expert));
        });
    }

    /// Writes the score of every expert. A NaN stays one.
    pub(super) fn scores(&self, token: Value<'k>, scores: Array<'k>) {
        let (k, lanes, experts) = (self.lanes.k, self.lanes, self.gating.spec.experts as i32);
        let facts = self.facts();
        let first = k.bind("first_score", token * experts);
        self.every(self.gating.spec.experts, &mut |at| {
            let score = self.value(self.gating.scored(), at, &facts);
            if lanes.wide > 1 {
                // A vector may reach beyond the row: there is room where the logits were.
                self.logits.store(self.start + at.first, score);
            } else {
                let store = || scores.store(first + at.index, score);
                at.live.map_or_else(store, |live| k.when(live, store));
            }
        });
        if lanes.wide > 1 {
            k.for_range("e", k.i32(0), k.i32(experts), |e| scores.store(first + e, self.logits.load(self.start + e)));
        }
    }

    /// Writes that a token has no expert in each of these, weights of 0, and no claim to be served.
    pub(super) fn no_picks(
        &self,
        token: Value<'k>,
        experts: [Option<Array<'k>>; 2],
        topk_weights: Array<'k>,
        best_of_token: Option<Array<'k>>,
    ) {
        let (k, lanes, top_k) = (self.lanes.k, self.lanes, self.gating.spec.top_k);
        self.each_pick(top_k, |j| {
            let pair = k.bind("pair", token * top_k as i32 + j);
            experts.iter().flatten().for_each(|experts| experts.store(pair, k.i32(-1)));
            topk_weights.store(pair, k.f32(0.0));
        });
        best_of_token.iter().for_each(|best| lanes.once(|| best.store(token, k.f32(f32::NEG_INFINITY))));
    }

    /// What is known of whole rows.
    fn facts(&self) -> Facts<'k> {
        let mut facts = Facts::new();
        for (i, node) in self.gating.nodes.iter().enumerate() {
            if let Node::Apply(op, _) = node
                && !self.gating.is_picks[i]
                && !self.gating.is_reported_only(i)
                && let Some(known) = self.learn(*op, i, &facts)
            {
                facts.insert(i, known);
            }
        }
        facts
    }

    /// The experts with the largest keys, and their scores.
    fn top_k(&self, scores: usize, keys: usize, facts: &Facts<'k>) {
        let (lanes, share) = (self.lanes, &self.scratch);
        let scratch = share.picked();
        let columns = self.gating.columns[keys];
        self.rank(columns, &|at| self.value(keys, at, facts));
        greatest(lanes, scratch.keys, share.key, (columns, self.gating.picked), |j, expert| {
            lanes.once(|| scratch.experts.store(share.pick + j, expert));
        });
        self.each_pick(self.gating.picked, |j| {
            let expert = scratch.experts.load(share.pick + j);
            scratch.weights.store(share.pick + j, self.score(scores, expert, facts));
        });
    }

    /// The experts in row `id` of a table, and their scores.
    fn look_up(&self, id: Value<'k>, (table, rows): (Array<'k>, u32), scores: usize, facts: &Facts<'k>) {
        let (k, gating, share) = (self.lanes.k, self.gating, &self.scratch);
        let within = |x: Value<'k>, n: u32| x.max(0).min(n as i32 - 1);
        let row = k.bind("row", within(id, rows).cast(DType::I64) * k.i64(i64::from(gating.picked)));
        self.each_pick(gating.picked, |j| {
            let expert = k.bind("expert", within(table.load(row + j.cast(DType::I64)), gating.columns[scores]));
            share.picked().experts.store(share.pick + j, expert);
            share.picked().weights.store(share.pick + j, self.score(scores, expert, facts));
        });
    }

    /// Writes the largest of the scores of the first `count` picks.
    fn best(&self, scores: usize, count: u32, (token, best_of_token): (Value<'k>, Array<'k>), facts: &Facts<'k>) {
        let (k, lanes, share) = (self.lanes.k, self.lanes, &self.scratch);
        let least = k.f32(f32::NEG_INFINITY);
        let best = k.var("best", least);
        self.each_pick(count, |j| {
            let expert = share.picked().experts.load(share.pick + j);
            let at = At { index: expert, first: expert, lanes: 1, live: None, group: None, nan: Nan::Stays };
            let score = k.bind("score", self.value(scores, &at, facts));
            best.set(best.get().max(score.eq(score).select(score, least)));
        });
        k.warp_barrier();
        let best = lanes.greatest_in_warp(best.get());
        lanes.once(|| best_of_token.store(token, best));
    }

    /// The score of one expert.
    fn score(&self, scores: usize, expert: Value<'k>, facts: &Facts<'k>) -> Value<'k> {
        self.value(scores, &At { index: expert, first: expert, lanes: 1, live: None, group: None, nan: Nan::Least }, facts)
    }

    /// One expert after another, each with its softmax among those left that are not too far below it.
    fn mix(&self, logits: usize, jitter: f64, facts: &Facts<'k>) {
        let (k, lanes, share) = (self.lanes.k, self.lanes, &self.scratch);
        let scratch = share.picked();
        let logit = |at: &At<'k>| k.bind("logit", finite(k, self.value(logits, at, facts)));
        let columns = self.gating.columns[logits];
        self.rank(columns, &logit);
        // Lanes beyond the last column read its key.
        k.warp_barrier();
        greatest(lanes, scratch.keys, share.key, (columns, self.gating.picked), |j, expert| {
            let best = logit(&At { index: expert, first: expert, lanes: 1, live: None, group: None, nan: Nan::Stays });
            let best = best.splat(lanes.wide);
            let sum = k.var("sum", k.f32(0.0).splat(lanes.wide));
            self.every(columns, &mut |at| {
                let x = logit(at);
                let is_left = scratch.keys.load_vector(share.key + at.first, lanes.wide).ne(TAKEN);
                // Of two zeros the quotient is no number, and not too far.
                let is_far = ((best - x) / x.abs().max(best)).gt((2.0 * jitter) as f32);
                let term = is_far.select(x.like(0), math::exp(k, x - best));
                sum.set(sum.get() + at.or(is_left.select(term, x.like(0)), k.f32(0.0)));
            });
            let weight = k.bind("weight", k.f32(1.0) / lanes.sum(sum.get()));
            lanes.once(|| {
                scratch.experts.store(share.pick + j, expert);
                scratch.weights.store(share.pick + j, weight);
            });
            take(lanes, scratch.keys, share.key + expert);
        });
    }

    /// Writes the keys of all columns.
    fn rank(&self, columns: u32, value: &dyn Fn(&At<'k>) -> Value<'k>) {
        let (k, lanes, share) = (self.lanes.k, self.lanes, &self.scratch);
        let scratch = share.picked();
        self.every(columns, &mut |at| {
            let key = k.bind("key", key(k, value(at)));
            match at.live {
                Some(live) if lanes.wide == 1 => k.when(live, || scratch.keys.store(share.key + at.first, key)),
                Some(_) | None => scratch.keys.store(share.key + at.first, at.or(key, k.i32(TAKEN))),
            }
        });
        if self.gating.group_limit.is_some() {
            // Group by group a lane has other columns than it picks from.
            k.warp_barrier();
        }
    }

    /// The number of each of the first `count` picks, in one lane.
    fn each_pick(&self, count: u32, body: impl FnOnce(Value<'k>)) {
        let (k, lanes) = (self.lanes.k, self.lanes);
        let lane = if lanes.wide == 1 { lanes.index } else { k.i32(0) };
        k.for_step("j", lane, k.i32(count as i32), k.i32(lanes.warp as i32), body);
    }

    /// All columns of a row of so many, group by group where there are groups of them.
    fn every(&self, columns: u32, body: &mut dyn FnMut(&At<'k>)) {
        let k = self.lanes.k;
        match self.gating.groups().zip(self.gating.group_size()) {
            Some((groups, size)) if groups.groups as u32 * size == columns => {
                k.for_range("group", k.i32(0), k.i32(groups.groups as i32), |group| self.group(group, size, body));
            }
            Some(_) | None => self.lanes.strips(k.i32(0), columns, body),
        }
    }

    fn group(&self, group: Value<'k>, size: u32, body: &mut dyn FnMut(&At<'k>)) {
        let start = self.lanes.k.bind("group_start", group * size as i32);
        self.lanes.strips(start, size, &mut |at| body(&At { group: Some(group), ..*at }));
    }

    fn learn(&self, op: Op, node: usize, facts: &Facts<'k>) -> Option<Known<'k>> {
        let operand = || self.gating.operands[node][0];
        match op {
            Op::Softmax => Some(self.softmax(operand(), facts)),
            Op::GroupLimit => self.gating.groups().zip(self.scratch.scratch.group_keys).map(|(groups, keys)| {
                self.limit(operand(), groups, keys, facts);
                Known::Groups(groups, keys)
            }),
            Op::List | Op::Gemm | Op::GroupedGemm | Op::Route | Op::TopK | Op::SparseMixer | Op::HashPicks | Op::Renorm => None,
            Op::AllExperts
            | Op::Leading
            | Op::Joint
            | Op::PickWeights
            | Op::Jitter
            | Op::Observe
            | Op::Counted
            | Op::BestScore
            | Op::Losses
            | Op::Part
            | Op::BiasUpdate
            | Op::Given
            | Op::Picked => None,
            Op::WithoutRows | Op::Within | Op::Assign | Op::RenormKept | Op::DroppedInput | Op::IdentityInput | Op::Dispatch => {
                None
            }
            Op::ExpertScale | Op::ExpertRows | Op::PairWeights | Op::Combine | Op::RmsNorm | Op::Pointwise(_) => None,
            Op::Flatten | Op::Slots | Op::TokenSoftmax | Op::SoftDispatch | Op::SoftCombine | Op::Launch | Op::Item => None,
        }
    }

    fn softmax(&self, x: usize, facts: &Facts<'k>) -> Known<'k> {
        let (k, lanes) = (self.lanes.k, self.lanes);
        let columns = self.gating.columns[x];
        let max = k.var("max", k.f32(f32::MIN).splat(lanes.wide));
        self.every(columns, &mut |at| max.set(max.get().max(at.or(finite(k, self.value(x, at, facts)), k.f32(f32::MIN)))));
        let max = lanes.greatest(max.get());
        let sum = k.var("sum", k.f32(0.0).splat(lanes.wide));
        self.every(columns, &mut |at| {
            let term = math::exp(k, finite(k, self.value(x, at, facts)) - max.splat(lanes.wide));
            sum.set(sum.get() + at.or(term, k.f32(0.0)));
        });
        Known::Softmax { max, sum: lanes.sum(sum.get()) }
    }

    /// Marks the groups that stay.
    fn limit(&self, x: usize, groups: Groups, keys: Array<'k>, facts: &Facts<'k>) {
        let (k, lanes, start) = (self.lanes.k, self.lanes, self.scratch.group_key);
        let size = self.gating.columns[x] / groups.groups as u32;
        let least = k.f32(f32::NEG_INFINITY);
        k.for_range("group", k.i32(0), k.i32(groups.groups as i32), |group| {
            let (best, second) = (k.var("best", least.splat(lanes.wide)), k.var("second", least.splat(lanes.wide)));
            self.group(group, size, &mut |at| {
                let x = self.value(x, at, facts);
                let x = k.bind("x", at.or(x.eq(x).select(x, least.splat(at.lanes)), least));
                second.set(second.get().max(best.get().min(x)));
                best.set(best.get().max(x));
            });
            let worth = match groups.score {
                GroupScore::Top2Sum if size > 1 => {
                    let (first, second) = top_2(lanes, best.get(), second.get());
                    first + second
                }
                GroupScore::Top2Sum | GroupScore::Max => lanes.greatest(best.get()),
            };
            let worth = k.bind("worth", key(k, worth));
            lanes.once(|| keys.store(start + group, worth));
        });
        let count = groups.groups as i32;
        if lanes.wide == 1 && count % 4 != 0 {
            // A compiler may read four neighbours at once, those of the last four too that are no groups.
            lanes.once(|| (count..count / 4 * 4 + 4).for_each(|slot| keys.store(start + slot, k.i32(TAKEN))));
        }
        k.warp_barrier();
        greatest(lanes, keys, start, (groups.groups as u32, groups.keep as u32), |_, _| {});
    }

    /// The value of a body's node at some elements, f32.
    pub(super) fn value(&self, node: usize, at: &At<'k>, facts: &Facts<'k>) -> Value<'k> {
        let mut terms: HashMap<usize, Term<'_, 'k>> = HashMap::new();
        match self.term(node, at, facts, &mut terms) {
            Term::Value(value) => value,
            Term::Attr(attr) => unreachable!("the constant {attr} is not a row: verify refuses it"),
        }
    }

    fn term<'t>(&'t self, node: usize, at: &At<'k>, facts: &Facts<'k>, terms: &mut HashMap<usize, Term<'t, 'k>>) -> Term<'t, 'k> {
        if let Some(term) = terms.get(&node) {
            return *term;
        }
        let k = self.lanes.k;
        let splat = |value: Value<'k>| value.splat(at.lanes);
        let term = match &self.gating.nodes[node] {
            Node::Attr(attr) => Term::Attr(attr),
            Node::Hole(0) => Term::Value(self.logits.load_vector(self.start + at.first, at.lanes)),
            Node::Hole(i) => {
                let (operand, what) = (self.operands[*i as usize - 1], self.gating.spec.operands[*i as usize - 1]);
                // One number is every column's.
                let is_one = matches!(what, Operand::Vector { len: 1, .. });
                let value = if is_one { operand.load(k.i32(0)).splat(at.lanes) } else { operand.load_vector(at.first, at.lanes) };
                Term::Value(value.cast(DType::F32))
            }
            Node::Param(p) => unreachable!("`{}` in a body: verify refuses it", p.0),
            Node::Apply(op, _) => {
                let operands: Vec<_> = self.gating.operands[node].iter().map(|i| self.term(*i, at, facts, terms)).collect();
                let value = match (facts.get(&node), operands.first()) {
                    (Some(Known::Softmax { max, sum }), Some(Term::Value(x))) => {
                        math::exp(k, finite(k, *x) - splat(*max)) / splat(*sum)
                    }
                    (Some(Known::Groups(groups, keys)), Some(Term::Value(x))) => {
                        let size = self.gating.columns[node] / groups.groups as u32;
                        let group = at.group.unwrap_or(at.index / size as i32);
                        let stays = keys.load(self.scratch.group_key + group).eq(TAKEN);
                        let masked = match groups.mask {
                            GroupMask::NegInf => f32::NEG_INFINITY,
                            GroupMask::Zero => 0.0,
                        };
                        stays.select(*x, splat(k.f32(masked)))
                    }
                    (None, Some(Term::Value(x))) if matches!(op, Op::Leading | Op::AllExperts) => *x,
                    (Some(_), _) | (None, _) => match op {
                        Op::ExpertScale => pointwise_op(k, Pointwise::Mul, Accuracy::Full, &operands),
                        Op::Pointwise(op) => pointwise_op(k, *op, Accuracy::Full, &operands),
                        op => unreachable!("`{}` of columns: `Gating::read` refuses it", op.name()),
                    },
                };
                Term::Value(k.bind(op.name(), value.cast(DType::F32)))
            }
        };
        let term = match (term, at.nan) {
            (Term::Value(x), Nan::Least) => Term::Value(k.bind("number", x.eq(x).select(x, splat(k.f32(f32::NEG_INFINITY))))),
            (Term::Value(_), Nan::Stays) | (Term::Attr(_), _) => term,
        };
        terms.insert(node, term);
        term
    }

    /// Makes the scores of the picks their weights: what the body says after the node that picks.
    fn weigh(&self, picker: usize, facts: &Facts<'k>) {
        let op = |node: usize| match &self.gating.nodes[node] {
            Node::Apply(op, _) => Some(*op),
            Node::Attr(_) | Node::Hole(_) | Node::Param(_) => None,
        };
        // Rows, the order of service, what is observed or counted and which tokens are padding change no weight of the others.
        let is_kept = |op: Op| matches!(op, Op::WithoutRows | Op::BestScore | Op::Counted | Op::Observe);
        let changes = |op: Op| !is_kept(op) && op != Op::Pointwise(Pointwise::MaskTokens);
        let weighs = |i: &usize| self.gating.is_picks[*i] && !self.gating.others.nodes.contains(i) && op(*i).is_some_and(changes);
        let after: Vec<usize> = (picker + 1..self.gating.nodes.len()).filter(weighs).collect();
        let is_alone = |node: usize| matches!(op(node), Some(Op::ExpertScale | Op::Joint));
        let mut count = self.gating.picked;
        for run in after.chunk_by(|a, b| !is_alone(*a) && !is_alone(*b)) {
            match (run, op(run[0])) {
                ([node], Some(Op::ExpertScale)) => self.scale_by_expert(self.gating.operands[*node][1], count),
                ([node], Some(Op::Joint)) => {
                    self.join(self.gating.operands[*node][1], facts);
                    count = self.gating.spec.top_k;
                }
                (run, _) => self.weigh_by(run, count),
            }
        }
    }

    /// The last columns of the scores, as picks after those that there are.
    fn join(&self, scores: usize, facts: &Facts<'k>) {
        let (k, gating, share) = (self.lanes.k, self.gating, &self.scratch);
        let joint = gating.spec.top_k - gating.picked;
        let first = (gating.columns[scores] - joint) as i32;
        self.each_pick(joint, |j| {
            let at = k.bind("at", share.pick + j + gating.picked as i32);
            let expert = k.bind("expert", j + first);
            share.picked().experts.store(at, expert);
            share.picked().weights.store(at, self.score(scores, expert, facts));
        });
        // Other lanes read them.
        k.warp_barrier();
    }

    /// The weights of so many picks times a vector over the experts, or times one number.
    fn scale_by_expert(&self, vector: usize, count: u32) {
        let Node::Hole(hole) = self.gating.nodes[vector] else { unreachable!("a scale that is no operand: `Gating` refuses it") };
        let share = &self.scratch;
        let is_one = matches!(self.gating.spec.operands[hole as usize - 1], Operand::Vector { len: 1, .. });
        let (vector, Picked { experts, weights, .. }) = (self.operands[hole as usize - 1], share.picked());
        self.each_pick(count, |j| {
            let at = self.lanes.k.bind("at", share.pick + j);
            let scale = vector.load(if is_one { self.lanes.k.i32(0) } else { experts.load(at) }).cast(DType::F32);
            weights.store(at, weights.load(at) * scale);
        });
    }

    /// Ops that look at the weights of the token's first `count` picks alone, in registers.
    fn weigh_by(&self, run: &[usize], count: u32) {
        let (k, lanes, share) = (self.lanes.k, self.lanes, &self.scratch);
        let weights = share.picked().weights;
        let chunks: Vec<u32> = (0..count).step_by(LANES as usize).collect();
        let ops = run.iter().filter_map(|i| match &self.gating.nodes[*i] {
            Node::Apply(op, _) => Some((*op, self.gating.operands[*i].get(1).map(|attr| &self.gating.nodes[*attr]))),
            Node::Attr(_) | Node::Hole(_) | Node::Param(_) => None,
        });
        let mut w: Vec<(At<'k>, Value<'k>)> = Vec::new();
        k.warp_barrier();
        for from in &chunks {
            let len = (count - from).min(LANES);
            lanes.strips(k.i32(*from as i32), len, &mut |at| {
                let weight = weights.load_vector(share.pick + at.first, lanes.wide);
                w.push((*at, k.bind("weight", at.or(weight, k.f32(0.0)))));
            });
        }
        for (op, attr) in ops {
            self.weigh_once(op, attr, &mut w);
        }
        // Lanes without a pick have read another's weight.
        k.warp_barrier();
        for (at, weight) in w {
            match at.live {
                Some(live) if lanes.wide == 1 => k.when(live, || weights.store(share.pick + at.first, weight)),
                Some(_) | None => weights.store(share.pick + at.first, weight),
            }
        }
        k.warp_barrier();
    }

    fn weigh_once(&self, op: Op, attr: Option<&Node>, w: &mut [(At<'k>, Value<'k>)]) {
        let (k, lanes) = (self.lanes.k, self.lanes);
        let join = |w: &[(At<'k>, Value<'k>)], join: &dyn Fn(Value<'k>, Value<'k>) -> Value<'k>, least: f32| {
            let least = k.f32(least);
            w.iter().map(|(at, x)| at.or(*x, least)).reduce(join).unwrap_or(least)
        };
        match (op, attr) {
            (Op::Softmax, _) => {
                w.iter_mut().for_each(|(_, x)| *x = k.bind("finite", finite(k, *x)));
                let max = lanes.greatest(join(w, &|a, b| a.max(b), f32::MIN)).splat(lanes.wide);
                w.iter_mut().for_each(|(_, x)| *x = k.bind("exp", math::exp(k, *x - max)));
                let sum = lanes.sum(join(w, &|a, b| a + b, 0.0)).splat(lanes.wide);
                w.iter_mut().for_each(|(_, x)| *x = k.bind("softmax", *x / sum));
            }
            (Op::Renorm, Some(Node::Attr(Attr::Renorm(Renorm { norm, mode, eps })))) => {
                let sum = |of: &dyn Fn(Value<'k>) -> Value<'k>| {
                    let terms: Vec<_> = w.iter().map(|(at, x)| (*at, k.bind("term", of(*x)))).collect();
                    lanes.sum(join(&terms, &|a, b| a + b, 0.0))
                };
                let norm = match norm {
                    Norm::Sum => sum(&|x| x),
                    Norm::P(p) if p.get() == 1.0 => sum(&|x| x.abs()),
                    Norm::P(p) => {
                        let sizes: Vec<_> = w.iter().map(|(at, x)| (*at, x.abs())).collect();
                        let largest = lanes.greatest(join(&sizes, &|a, b| a.max(b), 0.0));
                        // Shares of the largest: no power leaves the range.
                        let unit = k.bind("unit", largest.eq(0.0).select(k.f32(1.0), largest));
                        let share = |x: Value<'k>| x.abs() / unit.splat(lanes.wide);
                        unit * math::power(k, sum(&|x| math::power(k, share(x), p.get())), 1.0 / p.get())
                    }
                };
                let eps = eps.get() as f32;
                let divisor = match mode {
                    Eps::Add => norm + eps,
                    Eps::Clamp => norm.max(eps),
                };
                // Nothing but zeros: they stay.
                let divisor = k.bind("divisor", divisor.eq(0.0).select(k.f32(1.0), divisor)).splat(lanes.wide);
                w.iter_mut().for_each(|(_, x)| *x = k.bind("renorm", *x / divisor));
            }
            (Op::Pointwise(op), attr) => w.iter_mut().for_each(|(_, x)| {
                let mut terms = vec![Term::Value(*x)];
                if let Some(Node::Attr(attr)) = attr {
                    terms.push(Term::Attr(attr));
                }
                *x = k.bind(op.name(), pointwise_op(k, op, Accuracy::Full, &terms).cast(DType::F32));
            }),
            (op, _) => unreachable!("`{}` of weights: `Gating::read` refuses it", op.name()),
        }
    }
}
