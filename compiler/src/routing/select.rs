//! Which experts each token picks, and with which weights. The graph's interpreter decides; in front of it stands a filter
//! in f32 that knows how far it may be off, and hands on each row in which two experts that matter are nearer than that: the
//! picks are the interpreter's, at a thousandth of its time.

use std::collections::BTreeMap;
use std::ops::Range;

use moec_ir::Dims;
use moec_ir::graph::{self, Typed, Value};

use super::rows::{LANES, Rows, stride};
use super::score::{Sums, make_finite, scores, survey};
use crate::import::import_routing;
use crate::reference::ReferenceError;
use crate::spec::{
    Correction, DType, EpsMode, GroupMask, GroupScore, Groups, Norm, Order, Priority, Renorm, RouterDType, Score, Select, Spec,
    Tensor,
};

/// What the router of a spec does with logits, prepared for many rows.
#[derive(Debug)]
pub(super) struct Selector {
    /// The columns of the router.
    columns: usize,
    /// The first of them, which compete.
    experts: usize,
    top_k: usize,
    score: Score,
    order: Order,
    correction: Option<Correction>,
    groups: Option<Groups>,
    rounded_to: Option<DType>,
    logit_scale: f64,
    softcap: Option<f64>,
    mixes: bool,
    /// Shared columns have a part in the weights.
    joins: bool,
    /// What turns the picked scores into weights; `None`: weights decide nothing.
    weighing: Option<Weighing>,
    /// Whether tokens are served by their best score.
    ranks: bool,
    /// Padded, zeros where there is none.
    bias: Vec<f32>,
    graph: Typed,
    params: BTreeMap<String, graph::Tensor>,
    work: Work,
    /// Rows that the interpreter decided.
    pub(super) interpreted: u64,
}

#[derive(Debug)]
struct Weighing {
    renorm: Option<Renorm>,
    scale: f64,
    per_expert: Vec<f64>,
}

/// Rows of scratch.
#[derive(Debug, Default)]
struct Work {
    /// The logits as the router's arithmetic rounds them: equal ones are ties.
    base: Vec<f32>,
    /// After scale and cap.
    logits: Vec<f32>,
    scores: Vec<f32>,
    keys: Vec<f32>,
    folded: Vec<f32>,
    candidates: Vec<Candidate>,
    unsure: Vec<usize>,
}

/// What was picked in some rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Picked {
    /// `[T, K]`, best first.
    pub(super) experts: Vec<u16>,
    /// `[T, K]` where weights decide the order of service, else empty.
    pub(super) weights: Vec<f32>,
    /// `[T]` where best scores decide it, else empty.
    pub(super) best: Vec<f32>,
}

/// The tensors besides the logits that selection may need.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// `[E]`; zeros where absent.
    pub correction_bias: Option<Vec<f32>>,
    /// `[E]`; ones where absent.
    pub per_expert_scale: Option<Vec<f32>>,
}

impl Selector {
    pub(super) fn new(spec: &Spec, vectors: &Vectors) -> Result<Selector, ReferenceError> {
        let router = &spec.router;
        let (columns, experts) = (spec.columns() as usize, spec.candidates() as usize);
        let padded = stride(columns);
        let bias = vectors.correction_bias.clone().filter(|_| router.correction.is_some());
        let mut bias = bias.unwrap_or_else(|| vec![0.0; experts]);
        let scales = vectors.per_expert_scale.clone().filter(|_| spec.weight(Tensor::PerExpertScale).is_some());
        let per_expert = scales.unwrap_or_else(|| vec![1.0; experts]);
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let vector = |x: &[f32]| graph::Tensor::new(vec![experts], wide(x));
        let mut params = BTreeMap::new();
        if router.correction.is_some() {
            params.insert("@correction_bias".to_string(), vector(&bias));
        }
        if spec.weight(Tensor::PerExpertScale).is_some() {
            params.insert("@per_expert_scale".to_string(), vector(&per_expert));
        }
        if spec.weight(Tensor::RouterGlobalScale).is_some() {
            // The same for all: the order of service does not depend on it.
            params.insert("@router_global_scale".to_string(), graph::Tensor::new(vec![1], vec![1.0]));
        }
        bias.resize(padded, 0.0);
        let renorms_kept = spec.capacity.is_some_and(|capacity| capacity.renorm_after_drop);
        let weighing = spec.capacity.filter(|capacity| is_by_weight(capacity.priority)).map(|_| match renorms_kept {
            true => Weighing { renorm: None, scale: 1.0, per_expert: vec![1.0; experts] },
            false => Weighing { renorm: router.renorm, scale: router.scale, per_expert: wide(&per_expert) },
        });
        let graph = graph::verify(import_routing(spec)).map_err(|violations| {
            ReferenceError::new(violations.into_iter().map(|violation| violation.message).collect::<Vec<_>>().join("; "))
        })?;
        Ok(Selector {
            columns,
            experts,
            top_k: router.top_k as usize,
            score: router.score,
            order: router.order,
            correction: router.correction,
            groups: router.groups,
            rounded_to: (router.dtype == RouterDType::Model).then_some(spec.numerics.dtype),
            logit_scale: router.logit_scale,
            softcap: router.logit_softcap,
            mixes: router.select == Select::SparseMixer,
            joins: router.joint_shared > 0,
            weighing,
            ranks: spec.capacity.is_some_and(|capacity| capacity.priority == Priority::BatchPrioritized),
            bias,
            graph,
            params,
            work: Work::default(),
            interpreted: 0,
        })
    }

    /// Replaces `picked` by what these rows pick, and gives each row's logits, without NaN, after scale and cap, and its
    /// scores (as `score::scores` writes them) to `see`.
    pub(super) fn select(
        &mut self,
        rows: &Rows,
        range: Range<usize>,
        picked: &mut Picked,
        mut see: impl FnMut(&[f32], &[f32], Sums),
    ) -> Result<(), ReferenceError> {
        let pairs = range.len() * self.top_k;
        picked.experts.resize(pairs, 0);
        picked.weights.resize(if self.weighing.is_some() { pairs } else { 0 }, 0.0);
        picked.best.resize(if self.ranks { range.len() } else { 0 }, 0.0);
        self.work.unsure.clear();
        self.work.scores.resize(rows.stride(), 0.0);
        for row in 0..range.len() {
            let (nan, largest) = self.prepare(rows.row(range.start + row));
            let is_finite = !nan && largest.is_finite();
            let largest = if is_finite {
                largest
            } else {
                make_finite(&mut self.work.logits, self.columns);
                survey(&self.work.logits).1
            };
            let sums = scores(self.score, &self.work.logits, largest, &mut self.work.scores);
            see(&self.work.logits, &self.work.scores, sums);
            // What f32 cannot hold, and weights of a mixer or of joint columns, are not filtered.
            let is_sure = is_finite
                && rows.wide.is_empty()
                && !((self.mixes || self.joins) && self.weighing.is_some())
                && self.filter(sums, &mut picked.experts[row * self.top_k..][..self.top_k]);
            if !is_sure {
                self.work.unsure.push(row);
                continue;
            }
            let experts = &picked.experts[row * self.top_k..][..self.top_k];
            if let Some(weighing) = &self.weighing {
                self.weigh(weighing, sums, experts, &mut picked.weights[row * self.top_k..][..self.top_k]);
            }
            if let Some(best) = picked.best.get_mut(row) {
                *best = experts.iter().map(|e| self.score_of(*e, sums)).fold(f64::NEG_INFINITY, f64::max) as f32;
            }
        }
        self.interpret(rows, range.start, picked)
    }

    /// Rounds, scales and caps one row; says whether it has a NaN, and its largest logit.
    fn prepare(&mut self, row: &[f32]) -> (bool, f32) {
        let Work { base, logits, .. } = &mut self.work;
        base.clear();
        base.extend_from_slice(row);
        match self.rounded_to {
            Some(DType::Bf16) => base.iter_mut().for_each(|x| *x = to_bf16(*x)),
            Some(DType::F16) => base.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
            Some(DType::F32) | None => {}
        }
        logits.clear();
        logits.extend_from_slice(base);
        if self.logit_scale != 1.0 {
            let scale = self.logit_scale as f32;
            logits.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(cap) = self.softcap {
            let logits = logits[..self.columns].iter_mut();
            logits.for_each(|x| *x = ((f64::from(*x) / cap).tanh() * cap) as f32);
        }
        // Columns that do not compete are never picked.
        base[self.experts..].fill(f32::NEG_INFINITY);
        survey(logits)
    }

    /// The logit that the interpreter sees.
    fn logit(&self, base: f32) -> f64 {
        let x = f64::from(base) * self.logit_scale;
        self.softcap.map_or(x, |cap| (x * (1.0 / cap)).tanh() * cap)
    }

    /// Picks, if it is certain what the interpreter would pick.
    fn filter(&mut self, sums: Sums, experts: &mut [u16]) -> bool {
        let by_logit = self.mixes || (self.correction.is_none() && self.groups.is_none());
        let mut keys = std::mem::take(&mut self.work.keys);
        let mut candidates = std::mem::take(&mut self.work.candidates);
        let source = if by_logit { &self.work.base } else { &keys };
        // Room for ties beyond the last pick.
        let wanted = (self.top_k + 2).min(self.experts);
        let is_sure = if by_logit {
            find_largest(source, self.experts, wanted, &mut self.work.folded, &mut candidates);
            self.is_certain(&candidates, |a, b| self.logits_apart(a, b, sums.largest))
        } else {
            let errors = self.corrected(sums, &mut keys);
            let is_grouped = self.groups.is_none_or(|groups| self.limit(groups, &mut keys, errors.worst));
            is_grouped && {
                find_largest(&keys, self.experts, wanted, &mut self.work.folded, &mut candidates);
                let zeros = self.groups.is_some_and(|groups| groups.mask == GroupMask::Zero);
                // Masked experts that score 0 would be picked by their index.
                let above_zero = !zeros || candidates.get(self.top_k - 1).is_some_and(|last| keys[last.expert()] > errors.worst);
                above_zero && self.is_certain(&candidates, |a, b| self.keys_apart(&keys, a, b, &errors))
            }
        };
        if is_sure {
            experts.iter_mut().zip(&candidates).for_each(|(expert, candidate)| *expert = candidate.expert() as u16);
        }
        self.work.keys = keys;
        self.work.candidates = candidates;
        is_sure
    }

    /// Whether the order of the first K candidates, and that no other expert is among them, follows from those of them that
    /// are apart and those that are ties.
    fn is_certain(&self, candidates: &[Candidate], apart: impl Fn(usize, usize) -> bool) -> bool {
        let base = &self.work.base;
        let tie = |a: usize, b: usize| base[a] == base[b] && self.bias[a] == self.bias[b];
        let at = |i: usize| candidates[i].expert();
        if candidates.len() < self.top_k {
            return false;
        }
        let in_order = (1..self.top_k).all(|i| tie(at(i - 1), at(i)) || apart(at(i - 1), at(i)));
        let last = at(self.top_k - 1);
        let next = candidates[self.top_k..].iter().map(|candidate| candidate.expert()).find(|next| !tie(last, *next));
        in_order && next.map_or(candidates.len() == self.experts, |next| apart(last, next))
    }

    /// Whether the score of `a` is above that of `b` in f64 too, both being functions of the logit alone: scores of logits
    /// that differ may be the same number.
    fn logits_apart(&self, a: usize, b: usize, largest: f32) -> bool {
        let (x, y) = (self.logit(self.work.base[a]), self.logit(self.work.base[b]));
        let difference = x - y;
        if difference <= self.softcap.map_or(0.0, |cap| cap * 1e-12) || difference.is_nan() {
            return false;
        }
        if self.order == Order::TopKScore || self.mixes {
            return true;
        }
        // The upper score is no underflow, and a few of its last bits are less than the difference.
        match self.score {
            Score::Identity => true,
            Score::Softmax => difference > 1e-11 && f64::from(largest) - x < 600.0,
            Score::Sigmoid => x > -600.0 && difference > 1e-11 * if x > 8.0 { x.exp() } else { 3000.0 },
            Score::SqrtSoftplus => x > -600.0 && difference > 1e-11 * x.abs().max(1.0),
        }
    }

    /// The keys of selection as f32 has them, and how far they may be off.
    fn corrected(&self, sums: Sums, keys: &mut Vec<f32>) -> Errors {
        let Work { logits, scores, .. } = &self.work;
        let on_logits = self.order == Order::TopKScore || self.correction == Some(Correction::Logit);
        let on_logits = on_logits || self.score == Score::Identity;
        keys.clear();
        let factor = if self.score == Score::Softmax { 1.0 / sums.sum } else { 1.0 };
        match on_logits {
            true => keys.extend(logits.iter().zip(&self.bias).map(|(x, b)| x + b)),
            false => keys.extend(scores.iter().zip(&self.bias).map(|(s, b)| s * factor + b)),
        }
        // Padded columns are never picked; as logits they are minus infinity already.
        keys[self.experts..].fill(f32::NEG_INFINITY);
        let mut largest = (0.0f32, 0.0f32, 0.0f32);
        for expert in 0..self.experts {
            let finite = |x: f32| if x.is_finite() { x.abs() } else { 0.0 };
            largest.0 = largest.0.max(finite(keys[expert]));
            largest.1 = largest.1.max(scores[expert] * factor);
            largest.2 = largest.2.max(finite(logits[expert]));
        }
        let (key, score, logit) = largest;
        let inexact = self.logit_scale != 1.0 || self.softcap.is_some();
        let of_logits = if inexact { 3e-7 * logit } else { 0.0 };
        // The sum of a row in lanes, and the exponential of a rounded difference.
        let relative = 4e-6 + 1e-8 * self.experts as f32 + 2.0 * of_logits;
        let of_scores = if on_logits { of_logits } else { 0.0 };
        let worst = 3e-7 * key + of_scores + if on_logits { 0.0 } else { score * relative } + 1e-18;
        Errors { on_logits, factor, relative, of_logits: of_scores, largest: sums.largest, worst }
    }

    fn keys_apart(&self, keys: &[f32], a: usize, b: usize, errors: &Errors) -> bool {
        let off = |e: usize| {
            let of_score = match errors.on_logits {
                true => errors.of_logits,
                false => {
                    let distance = (errors.largest - self.work.logits[e]).abs();
                    self.work.scores[e] * errors.factor * (errors.relative + 2.5e-7 * distance)
                }
            };
            of_score + 1.5e-7 * keys[e].abs() + 1e-18
        };
        // What is masked is below all that is not.
        let is_masked = keys[b] == f32::NEG_INFINITY && keys[a].is_finite();
        is_masked || keys[a] - keys[b] > off(a) + off(b)
    }

    /// Masks the keys outside the best groups, if it is certain which those are.
    fn limit(&self, groups: Groups, keys: &mut [f32], worst: f32) -> bool {
        let size = self.experts / groups.count as usize;
        let mut worths: Vec<(f32, usize)> = Vec::with_capacity(groups.count as usize);
        for (group, keys) in keys[..self.experts].chunks_exact(size).enumerate() {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for key in keys {
                let rest = if *key > first { first } else { *key };
                first = if *key > first { *key } else { first };
                second = if rest > second { rest } else { second };
            }
            let worth = match groups.score {
                GroupScore::Top2Sum => first + second,
                GroupScore::Max => first,
            };
            worths.push((worth, group));
        }
        worths.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let kept = groups.top as usize;
        let boundary = worths[kept - 1].0 - worths.get(kept).map_or(f32::NEG_INFINITY, |next| next.0);
        if boundary <= 5.0 * worst || boundary.is_nan() {
            return false;
        }
        for (_, group) in &worths[kept..] {
            keys[group * size..][..size].fill(f32::NEG_INFINITY);
        }
        true
    }

    /// The score of an expert among all columns, whatever is selected.
    fn score_of(&self, expert: u16, sums: Sums) -> f64 {
        let expert = usize::from(expert);
        match self.score {
            Score::Identity => self.logit(self.work.base[expert]),
            Score::Softmax => f64::from(self.work.scores[expert]) / f64::from(sums.sum),
            Score::Sigmoid | Score::SqrtSoftplus => f64::from(self.work.scores[expert]),
        }
    }

    /// The weights of the picks of one row, as far as they are known when the order of service is decided.
    fn weigh(&self, weighing: &Weighing, sums: Sums, experts: &[u16], weights: &mut [f32]) {
        let base = &self.work.base;
        let mut w: Vec<f64> = match (self.order, self.score) {
            (Order::TopKScore, Score::Softmax) => {
                let x: Vec<f64> = experts.iter().map(|e| self.logit(base[usize::from(*e)])).collect();
                let largest = x.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
                x.iter().map(|x| (x - largest).exp() / sum).collect()
            }
            (Order::ScoreTopK, Score::Softmax) | (_, Score::Identity | Score::Sigmoid | Score::SqrtSoftplus) => {
                experts.iter().map(|e| self.score_of(*e, sums)).collect()
            }
        };
        if let Some(renorm) = weighing.renorm {
            let norm = match renorm.norm {
                Norm::Sum => w.iter().sum(),
                Norm::P(p) => w.iter().map(|w| w.abs().powf(p)).sum::<f64>().powf(1.0 / p),
            };
            let divisor = match renorm.eps_mode {
                EpsMode::Add => norm + renorm.eps,
                EpsMode::Clamp => norm.max(renorm.eps),
            };
            w.iter_mut().for_each(|w| *w /= divisor);
        }
        for ((weight, w), e) in weights.iter_mut().zip(&w).zip(experts) {
            *weight = (w * weighing.scale * weighing.per_expert[usize::from(*e)]) as f32;
        }
    }

    /// Asks the graph's interpreter about the rows that the filter is not sure of.
    fn interpret(&mut self, rows: &Rows, first: usize, picked: &mut Picked) -> Result<(), ReferenceError> {
        const AT_ONCE: usize = 256;
        let k = self.top_k;
        for unsure in self.work.unsure.chunks(AT_ONCE) {
            let data = unsure.iter().flat_map(|row| rows.exact(first + *row)).collect();
            self.params.insert("%logits".to_string(), graph::Tensor::new(vec![unsure.len(), self.columns], data));
            let tokens = unsure.len() as u64;
            let values = graph::interp(&self.graph, &self.params, Dims { tokens, sequence_tokens: tokens });
            let picks = values.map_err(ReferenceError::new)?.into_iter().rev().find_map(|value| match value {
                Value::Picks(picks) => Some(picks),
                Value::Tensor(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => None,
            });
            let picks = picks.ok_or_else(|| ReferenceError::new("the selection picks nothing".to_string()))?;
            for (i, row) in unsure.iter().enumerate() {
                if let (Some(best), Some(of_token)) = (picked.best.get_mut(*row), &picks.best_of_token) {
                    *best = of_token[i] as f32;
                }
                for j in 0..k {
                    picked.experts[row * k + j] = picks.expert_of_pair[i * picks.top_k + j] as u16;
                    if let Some(weight) = picked.weights.get_mut(row * k + j) {
                        *weight = picks.weight_of_pair[i * picks.top_k + j] as f32;
                    }
                }
            }
            self.interpreted += tokens;
        }
        Ok(())
    }
}

/// How far the keys of one row may be off.
struct Errors {
    on_logits: bool,
    factor: f32,
    relative: f32,
    of_logits: f32,
    largest: f32,
    /// Of any key.
    worst: f32,
}

/// Whether the order of service depends on the weights.
pub(super) fn is_by_weight(priority: Priority) -> bool {
    match priority {
        Priority::Score => true,
        Priority::ChoiceMajor | Priority::TokenMajor | Priority::BatchPrioritized => false,
    }
}

/// Round to nearest, ties to even; a NaN stays one.
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// The `wanted` largest of the first `width` keys and every other that is not below them, with their indices, largest first,
/// ties to the lower index. No key is NaN, and the padding is minus infinity.
fn find_largest(keys: &[f32], width: usize, wanted: usize, folded: &mut Vec<f32>, found: &mut Vec<Candidate>) {
    // The largest of each of a few groups: the `wanted`-th of these is at most the `wanted`-th key.
    folded.clear();
    let max = |a: f32, b: f32| if a > b { a } else { b };
    let halves = |groups: usize| groups.is_multiple_of(2) && groups / 2 >= 2 * wanted;
    if halves(keys.len()) {
        let (low, high) = keys.split_at(keys.len() / 2);
        folded.extend(low.iter().zip(high).map(|(a, b)| max(*a, *b)));
    }
    while halves(folded.len()) {
        let half = folded.len() / 2;
        let (low, high) = folded.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(a, b)| *a = max(*a, *b));
        folded.truncate(half);
    }
    let least = if folded.len() > wanted { nth_largest(folded, wanted) } else { f32::NEG_INFINITY };
    found.clear();
    for (block, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
        let mut among = 0u32;
        for (lane, key) in keys.iter().enumerate() {
            among |= u32::from(*key >= least) << lane;
        }
        while among != 0 {
            let lane = among.trailing_zeros() as usize;
            among &= among - 1;
            let expert = block * LANES + lane;
            if expert < width {
                found.push(Candidate::of(keys[lane], expert));
            }
        }
    }
    found.sort_unstable();
}

/// An expert and its key as one number: the larger the key the less it is, and of equal keys the lower index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn of(key: f32, expert: usize) -> Candidate {
        // Plus zero: both zeros are one key.
        let bits = (key + 0.0).to_bits();
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Candidate(u64::from(!ascending) << 32 | expert as u64)
    }

    fn expert(self) -> usize {
        self.0 as u32 as usize
    }
}

/// Of a few numbers by counting, which takes no turns that a processor has to guess.
fn nth_largest(values: &mut [f32], n: usize) -> f32 {
    const FEW: usize = 64;
    if values.len() > FEW {
        return *values.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1;
    }
    let mut at_least = [0u32; FEW];
    for y in values.iter() {
        at_least.iter_mut().zip(values.iter()).for_each(|(count, x)| *count += u32::from(y >= x));
    }
    let mut nth = f32::NEG_INFINITY;
    for (x, at_least) in values.iter().zip(at_least) {
        nth = if at_least as usize >= n && *x > nth { *x } else { nth };
    }
    nth
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::diagnostics::Source;

    pub(in crate::routing) fn spec(experts: usize, top_k: usize, router: &str, capacity: &str, dtype: &str) -> Spec {
        let text = format!(
            "[moe]\nhidden = 8\nexperts = {experts}\n[router]\ntop_k = {top_k}\n{router}\n{capacity}\n\
             [expert]\nintermediate = 8\n[numerics]\ndtype = \"{dtype}\"\n"
        );
        crate::spec::parse(&Source { name: "test".into(), text: text.clone() })
            .unwrap_or_else(|wrong| panic!("{wrong:?}\n{text}"))
    }

    /// Seeded numbers of about N(0, 1).
    pub(in crate::routing) struct Numbers(pub(in crate::routing) u64);

    impl Numbers {
        pub(in crate::routing) fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        pub(in crate::routing) fn normal(&mut self) -> f64 {
            ((0..12).map(|_| self.uniform()).sum::<f64>()) - 6.0
        }
    }

    /// Rows as recorded logits are, and as they should never be.
    fn values(kind: &str, experts: usize, numbers: &mut Numbers) -> Vec<f64> {
        const ROWS: usize = 60;
        let one = |n: &mut Numbers| match kind {
            "normal" | "level" => f64::from(n.normal() as f32),
            "wide" => f64::from((n.normal() * 30.0) as f32),
            "bf16" => f64::from(to_bf16(n.normal() as f32)),
            "few" => (n.normal() * 2.0).round(),
            "near" => f64::from(f32::from_bits(3.0f32.to_bits() + (n.uniform() * 4.0) as u32)),
            "tiny" => f64::from(f32::from_bits((n.uniform() * 4.0) as u32)),
            "saturated" => 17.0 + (n.uniform() * 100.0).round() * 0.5,
            "double" => n.normal(),
            _ => match (n.uniform() * 12.0) as u32 {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => f64::NEG_INFINITY,
                3 => -0.0,
                _ => f64::from(n.normal() as f32),
            },
        };
        let mut values: Vec<f64> = (0..ROWS * experts).map(|_| one(numbers)).collect();
        if kind == "level" {
            // Rows that differ from the first by little, and some not at all.
            for at in experts..values.len() {
                values[at] = values[at % experts] + if at % 7 == 0 { 1e-7 } else { 0.0 };
                values[at] = f64::from(values[at] as f32);
            }
        }
        if kind == "odd" {
            values[..experts].fill(f64::NAN);
            values[experts..2 * experts].fill(f64::NEG_INFINITY);
            values[2 * experts..3 * experts].fill(1.0);
            values[3 * experts..4 * experts - 1].fill(f64::NEG_INFINITY);
        }
        values
    }

    fn vectors(experts: usize, numbers: &mut Numbers) -> Vectors {
        // Some biases are equal, so that equal logits are ties.
        let bias = (0..experts).map(|e| if e % 3 == 0 { 0.25 } else { numbers.normal() as f32 * 0.1 }).collect();
        let scale = (0..experts).map(|_| 0.5 + numbers.uniform() as f32).collect();
        Vectors { correction_bias: Some(bias), per_expert_scale: Some(scale) }
    }

    /// A bias that makes the keys of one row all but equal: what order they have is beyond f32.
    fn level(router: &str, row: &[f64]) -> Vec<f32> {
        let score = |x: f64| if router.contains("sigmoid") || router == "deepseek-v3" { 1.0 / (1.0 + (-x).exp()) } else { x };
        row.iter().map(|x| (0.7 - score(*x)) as f32).collect()
    }

    /// What the interpreter alone says, and what the filter in front of it: the same experts, nearly the same weights. Gives
    /// the share of rows that the filter decided.
    fn check(spec: &Spec, values: &[f64], vectors: &Vectors, what: &str) -> f64 {
        let rows = Rows::of(spec.columns() as usize, values);
        let mut selector = Selector::new(spec, vectors).unwrap();
        let mut expected = Picked::default();
        expected.experts.resize(rows.count * selector.top_k, 0);
        expected.weights.resize(if selector.weighing.is_some() { rows.count * selector.top_k } else { 0 }, 0.0);
        expected.best.resize(if selector.ranks { rows.count } else { 0 }, 0.0);
        selector.work.unsure = (0..rows.count).collect();
        selector.interpret(&rows, 0, &mut expected).unwrap();
        selector.interpreted = 0;
        let mut picked = Picked::default();
        selector.select(&rows, 0..rows.count, &mut picked, |_, _, _| ()).unwrap();
        assert_eq!(picked.experts, expected.experts, "{what}");
        for (a, b) in picked.weights.iter().chain(&picked.best).zip(expected.weights.iter().chain(&expected.best)) {
            assert!((a - b).abs() <= 1e-5 * b.abs() + 1e-18 || a == b || (a.is_nan() && b.is_nan()), "{what}: {a} {b}");
        }
        assert_eq!((picked.weights.len(), picked.best.len()), (expected.weights.len(), expected.best.len()));
        1.0 - selector.interpreted as f64 / rows.count as f64
    }

    const ROUTERS: [(&str, &str); 21] = [
        ("softmax", ""),
        ("softmax renormalised", "renorm = \"sum\""),
        ("softmax of the picked", "order = \"topk_score\""),
        ("sigmoid", "score = \"sigmoid\"\nrenorm = \"sum\"\nrenorm_eps = 1e-20\nscale = 2.5"),
        ("sigmoid of the picked", "score = \"sigmoid\"\norder = \"topk_score\""),
        ("sqrtsoftplus", "score = \"sqrtsoftplus\"\nrenorm = \"p\"\nrenorm_p = 2.0"),
        ("identity", "score = \"identity\""),
        ("corrected softmax", "correction_on = \"score\"\nrenorm = \"sum\"\nrenorm_eps = 1e-12\nrenorm_eps_mode = \"clamp\""),
        ("corrected sigmoid", "score = \"sigmoid\"\ncorrection_on = \"score\""),
        ("corrected sqrtsoftplus", "score = \"sqrtsoftplus\"\ncorrection_on = \"score\""),
        ("corrected logit", "score = \"sigmoid\"\ncorrection_on = \"logit\"\norder = \"score_topk\""),
        ("corrected identity", "score = \"identity\"\ncorrection_on = \"score\""),
        ("groups", "groups = 4\ntopk_groups = 2"),
        ("groups by max", "groups = 4\ntopk_groups = 1\ngroup_score = \"max\""),
        ("groups masked by zero", "groups = 4\ntopk_groups = 2\ngroup_mask = \"zero\"\nscore = \"sigmoid\""),
        (
            "deepseek-v3",
            "score = \"sigmoid\"\ncorrection_on = \"score\"\ngroups = 4\ntopk_groups = 2\nrenorm = \"sum\"\nrenorm_eps = 1e-20",
        ),
        ("capped", "score = \"sigmoid\"\nlogit_softcap = 2.0"),
        ("capped and corrected", "score = \"sigmoid\"\nlogit_softcap = 2.0\ncorrection_on = \"score\""),
        ("scaled", "logit_scale = 0.3"),
        ("scaled and corrected", "logit_scale = 0.3\ncorrection_on = \"score\""),
        ("mixer", "select = \"sparsemixer\"\njitter = 0.3"),
    ];

    #[test]
    fn the_filter_picks_what_the_interpreter_picks() {
        let kinds = ["normal", "level", "wide", "bf16", "few", "near", "tiny", "saturated", "double", "odd"];
        let by_weight = "[capacity]\nfactor = 1.0\ncount_k = false\nround = \"ceil\"\npriority = \"score\"\n[weights]\nper_expert_scale = \"scale\"";
        let by_best = by_weight.replace("\"score\"", "\"batch_prioritized\"");
        for (name, router) in ROUTERS {
            for (experts, top_k) in [(8, 2), (64, 6), (96, 1)] {
                for (capacity, dtype) in
                    [("", "f32"), (by_weight, "f32"), (&by_best, "f32"), ("", "bf16"), ("", "f16"), (&by_best, "f16")]
                {
                    let rounded = if dtype == "f32" { String::new() } else { "\ndtype = \"model\"".to_string() };
                    let spec = spec(experts, top_k, &(router.to_string() + &rounded), capacity, dtype);
                    let mut numbers = Numbers(experts as u64);
                    for kind in kinds {
                        let mut vectors = vectors(experts, &mut numbers);
                        let what = format!("{name}, {top_k} of {experts}, {kind}, {dtype} {capacity}");
                        let values = values(kind, experts, &mut numbers);
                        if kind == "level" {
                            vectors.correction_bias = Some(level(name, &values[..experts]));
                        }
                        let sure = check(&spec, &values, &vectors, &what);
                        let is_usual = kind == "normal" && dtype == "f32" && (capacity != by_weight || name != "mixer");
                        assert!(!is_usual || sure > 0.9, "{what}: the filter decided {sure}");
                    }
                }
            }
        }
    }

    /// Identity experts compete; joint columns have a part in the scores alone.
    #[test]
    fn columns_beside_the_experts() {
        let shared = "[shared]\nintermediate = 8\ncount = 3";
        let mut numbers = Numbers(17);
        for (router, capacity) in [
            ("identity_experts = 3\ncorrection_on = \"score\"", ""),
            ("identity_experts = 3", "[capacity]\nfactor = 1.0\ncount_k = false\nround = \"ceil\"\npriority = \"score\""),
            ("joint_shared = 3\nscore = \"sigmoid\"\ncorrection_on = \"score\"", shared),
            ("joint_shared = 3\nscore = \"sigmoid\"", shared),
            ("joint_shared = 3", &(shared.to_string() + "\n[capacity]\ntokens = 2\npriority = \"batch_prioritized\"")),
            (
                "joint_shared = 3\norder = \"topk_score\"",
                &(shared.to_string() + "\n[capacity]\ntokens = 2\npriority = \"batch_prioritized\""),
            ),
        ] {
            let spec = spec(16, 3, router, capacity, "f32");
            assert_eq!(spec.columns(), 19);
            for kind in ["normal", "few", "odd"] {
                let vectors = vectors(spec.candidates() as usize, &mut numbers);
                let sure = check(&spec, &values(kind, 19, &mut numbers), &vectors, &format!("{router} {kind}"));
                assert!(kind != "normal" || sure > 0.9, "{router}: the filter decided {sure}");
            }
        }
    }

    #[test]
    fn as_many_experts_as_picks() {
        let mut numbers = Numbers(3);
        let spec = spec(4, 4, "score = \"sigmoid\"\ncorrection_on = \"score\"", "", "f32");
        let vectors = vectors(4, &mut numbers);
        assert!(check(&spec, &values("normal", 4, &mut numbers), &vectors, "all") > 0.9);
        check(&spec, &values("few", 4, &mut numbers), &vectors, "all, ties");
    }

    #[test]
    fn the_largest_of_a_row() {
        let mut numbers = Numbers(5);
        for width in [1usize, 7, 8, 60, 160, 256, 1000] {
            for wanted in [1, 2, 9, 40, width].map(|wanted| wanted.min(width)) {
                let mut keys: Vec<f32> = (0..width).map(|_| (numbers.normal() * 20.0).round() as f32).collect();
                keys.resize(stride(width), f32::NEG_INFINITY);
                let mut found = Vec::new();
                find_largest(&keys, width, wanted, &mut Vec::new(), &mut found);
                let mut order: Vec<usize> = (0..width).collect();
                order.sort_by(|a, b| keys[*b].partial_cmp(&keys[*a]).unwrap().then(a.cmp(b)));
                let found: Vec<usize> = found.into_iter().map(Candidate::expert).collect();
                assert!(found.len() >= wanted, "{width} {wanted}");
                assert_eq!(found, order[..found.len()], "{width} {wanted}");
                assert!(order.get(found.len()).is_none_or(|next| keys[*next] < keys[found[found.len() - 1]]));
            }
        }
    }
}
