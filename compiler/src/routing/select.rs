//! Which experts each token picks, and with which weights. The graph's interpreter decides; in front of it stands a filter
//! in f32 that knows how far it may be off, and hands on each row in which two experts that matter are nearer than that: the
//! picks are the interpreter's, and most rows do not take its time. What the scores of the picks become is the interpreter's too.

use std::collections::BTreeMap;
use std::ops::Range;

use egg::Id;
use moec_ir::graph::{self, GroupMask, GroupScore, Groups, Typed, Value};
use moec_ir::{DType, Dims};

use super::largest::{Candidate, find_largest};
use super::mode::{Keys, LOGITS, Mode, Of, Scores};
use super::rows::{Rows, stride};
use super::score::{Score, Sums, make_finite, scores, survey};
use crate::import::{CORRECTION_BIAS, import_routing};
use crate::reference::ReferenceError;
use crate::spec::Spec;

/// What the router of a spec does with logits, prepared for many rows.
#[derive(Debug)]
pub(super) struct Selector {
    pub(super) mode: Mode,
    graph: Typed,
    params: BTreeMap<String, graph::Tensor>,
    /// Padded, zeros where there is none.
    bias: Vec<f32>,
    work: Work,
    /// Rows that the interpreter decided.
    pub(super) interpreted: u64,
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
    /// What the picks of sure rows weigh at first, `[T, K]`.
    weights: Vec<f64>,
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
        let graph = graph::verify(import_routing(spec)).map_err(|violations| {
            ReferenceError::new(violations.into_iter().map(|violation| violation.message).collect::<Vec<_>>().join("; "))
        })?;
        Selector::of(graph, vectors)
    }

    /// Of the graph of a routing, as [`import_routing`] makes it.
    fn of(graph: Typed, vectors: &Vectors) -> Result<Selector, ReferenceError> {
        let mode = Mode::of(&graph).ok_or_else(|| ReferenceError::new("the selection picks nothing".to_string()))?;
        let vector = |len: usize, given: Option<&Vec<f32>>, otherwise: f64| {
            let given = given.map(|given| given.iter().map(|x| f64::from(*x)).collect());
            graph::Tensor::new(vec![len], given.unwrap_or_else(|| vec![otherwise; len]))
        };
        let mut params = BTreeMap::new();
        for (param, _) in &graph.graph().params {
            let tensor = match param.0.as_str() {
                CORRECTION_BIAS => vector(mode.experts, vectors.correction_bias.as_ref(), 0.0),
                "@per_expert_scale" => vector(mode.experts, vectors.per_expert_scale.as_ref(), 1.0),
                // The same for all: the order of service does not depend on it.
                "@router_global_scale" => vector(1, None, 1.0),
                _ => continue,
            };
            params.insert(param.0.clone(), tensor);
        }
        let is_biased = mode.keys.is_some_and(|keys| keys.is_biased);
        let mut bias = vectors.correction_bias.clone().filter(|_| is_biased).unwrap_or_default();
        bias.resize(stride(mode.columns), 0.0);
        Ok(Selector { mode, graph, params, bias, work: Work::default(), interpreted: 0 })
    }

    /// Replaces `picked` by what these rows pick, and gives `see` of each row the score by which experts would choose, if it is
    /// not the logits; the logits, without NaN, after scale and cap; and the scores, as `score::scores` writes them.
    pub(super) fn select(
        &mut self,
        rows: &Rows,
        range: Range<usize>,
        picked: &mut Picked,
        see: impl FnMut(Option<Score>, &[f32], &[f32], Sums),
    ) -> Result<(), ReferenceError> {
        let pairs = range.len() * self.mode.top_k;
        picked.experts.resize(pairs, 0);
        picked.weights.resize(if self.mode.is_by_weight() { pairs } else { 0 }, 0.0);
        picked.best.resize(if self.mode.is_by_best() { range.len() } else { 0 }, 0.0);
        self.work.unsure.clear();
        match self.mode.scores {
            Some(scores) => {
                self.filter_all(scores, rows, range.clone(), picked, see);
                self.weigh(range.len(), picked)?;
            }
            None => {
                self.work.unsure.extend(0..range.len());
                self.see_interpreted(rows, range.clone(), see)?;
            }
        }
        self.interpret(rows, range.start, picked)
    }

    /// Picks in the rows in which it is certain what the interpreter would pick, and notes the others.
    fn filter_all(
        &mut self,
        how: Scores,
        rows: &Rows,
        range: Range<usize>,
        picked: &mut Picked,
        mut see: impl FnMut(Option<Score>, &[f32], &[f32], Sums),
    ) {
        let k = self.mode.top_k;
        let is_by_weight = self.mode.is_by_weight();
        let keys = self.mode.keys.filter(|_| !is_by_weight || self.mode.weights.is_some());
        self.work.weights.clear();
        self.work.weights.resize(picked.weights.len(), 0.0);
        self.work.scores.resize(rows.stride(), 0.0);
        for row in 0..range.len() {
            let (nan, largest) = self.prepare(how, rows.row(range.start + row));
            let is_finite = !nan && largest.is_finite();
            let largest = if is_finite {
                largest
            } else {
                make_finite(&mut self.work.logits, self.mode.columns);
                survey(&self.work.logits).1
            };
            let sums = scores(how.score.unwrap_or(Score::Softmax), &self.work.logits, largest, &mut self.work.scores);
            see(how.score, &self.work.logits, &self.work.scores, sums);
            let experts = &mut picked.experts[row * k..][..k];
            // What f32 cannot hold is not filtered.
            let is_sure = is_finite && rows.wide.is_empty() && keys.is_some_and(|keys| self.filter(how, keys, sums, experts));
            if !is_sure {
                self.work.unsure.push(row);
                continue;
            }
            if let Some(of) = self.mode.weights.filter(|_| is_by_weight) {
                for (j, expert) in experts.iter().enumerate() {
                    self.work.weights[row * k + j] = self.number(how, of, *expert, sums);
                }
            }
            if let Some(best) = picked.best.get_mut(row) {
                let scores = experts.iter().map(|expert| self.number(how, Of::Score, *expert, sums));
                *best = scores.fold(f64::NEG_INFINITY, f64::max) as f32;
            }
        }
    }

    /// Rounds, scales and caps one row; says whether it has a NaN, and its largest logit.
    fn prepare(&mut self, how: Scores, row: &[f32]) -> (bool, f32) {
        let Work { base, logits, .. } = &mut self.work;
        base.clear();
        base.extend_from_slice(row);
        match how.logits.rounded_to {
            Some(DType::BF16) => base.iter_mut().for_each(|x| *x = to_bf16(*x)),
            Some(DType::F16) => base.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
            Some(DType::F32 | DType::Bool | DType::I32 | DType::I64) | None => {}
        }
        logits.clear();
        logits.extend_from_slice(base);
        if how.logits.scale != 1.0 {
            let scale = how.logits.scale as f32;
            logits.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(cap) = how.logits.cap {
            let logits = logits[..self.mode.columns].iter_mut();
            logits.for_each(|x| *x = ((f64::from(*x) / cap).tanh() * cap) as f32);
        }
        // Columns that do not compete are never picked.
        base[self.mode.experts..].fill(f32::NEG_INFINITY);
        survey(logits)
    }

    /// Picks, if it is certain what the interpreter would pick.
    fn filter(&mut self, how: Scores, by: Keys, sums: Sums, experts: &mut [u16]) -> bool {
        let by_logit = !by.is_biased && by.groups.is_none();
        let mut keys = std::mem::take(&mut self.work.keys);
        let mut candidates = std::mem::take(&mut self.work.candidates);
        let source = if by_logit { &self.work.base } else { &keys };
        // Room for ties beyond the last pick.
        let wanted = (self.mode.top_k + 2).min(self.mode.experts);
        let is_sure = if by_logit {
            find_largest(source, self.mode.experts, wanted, &mut self.work.folded, &mut candidates);
            self.is_certain(&candidates, |a, b| self.logits_apart(how, by, (a, b), sums.largest))
        } else {
            let errors = self.corrected(how, by, sums, &mut keys);
            let is_grouped = by.groups.is_none_or(|groups| self.limit(groups, &mut keys, errors.worst));
            is_grouped && {
                find_largest(&keys, self.mode.experts, wanted, &mut self.work.folded, &mut candidates);
                let zeros = by.groups.is_some_and(|groups| groups.mask == GroupMask::Zero);
                // Masked experts that score 0 would be picked by their index.
                let above_zero =
                    !zeros || candidates.get(self.mode.top_k - 1).is_some_and(|last| keys[last.expert()] > errors.worst);
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
        if candidates.len() < self.mode.top_k {
            return false;
        }
        let in_order = (1..self.mode.top_k).all(|i| tie(at(i - 1), at(i)) || apart(at(i - 1), at(i)));
        let last = at(self.mode.top_k - 1);
        let next = candidates[self.mode.top_k..].iter().map(|candidate| candidate.expert()).find(|next| !tie(last, *next));
        in_order && next.map_or(candidates.len() == self.mode.experts, |next| apart(last, next))
    }

    /// Whether the score of `a` is above that of `b` in f64 too, both being functions of the logit alone: scores of logits
    /// that differ may be the same number.
    fn logits_apart(&self, how: Scores, by: Keys, (a, b): (usize, usize), largest: f32) -> bool {
        let (x, y) = (how.logits.exact(self.work.base[a]), how.logits.exact(self.work.base[b]));
        let difference = x - y;
        if difference <= how.logits.cap.map_or(0.0, |cap| cap * 1e-12) || difference.is_nan() {
            return false;
        }
        // The upper score is no underflow, and a few of its last bits are less than the difference.
        match (by.of, how.score) {
            (Of::Logit, _) | (Of::Score, None) => true,
            (Of::Score, Some(Score::Softmax)) => difference > 1e-11 && f64::from(largest) - x < 600.0,
            (Of::Score, Some(Score::Sigmoid)) => x > -600.0 && difference > 1e-11 * if x > 8.0 { x.exp() } else { 3000.0 },
            (Of::Score, Some(Score::SqrtSoftplus)) => x > -600.0 && difference > 1e-11 * x.abs().max(1.0),
        }
    }

    /// The keys of selection as f32 has them, and how far they may be off.
    fn corrected(&self, how: Scores, by: Keys, sums: Sums, keys: &mut Vec<f32>) -> Errors {
        let Work { logits, scores, .. } = &self.work;
        let on_logits = by.of == Of::Logit;
        keys.clear();
        let factor = if how.score == Some(Score::Softmax) { 1.0 / sums.sum } else { 1.0 };
        match on_logits {
            true => keys.extend(logits.iter().zip(&self.bias).map(|(x, b)| x + b)),
            false => keys.extend(scores.iter().zip(&self.bias).map(|(s, b)| s * factor + b)),
        }
        // Padded columns are never picked; as logits they are minus infinity already.
        keys[self.mode.experts..].fill(f32::NEG_INFINITY);
        let mut largest = (0.0f32, 0.0f32, 0.0f32);
        for expert in 0..self.mode.experts {
            let finite = |x: f32| if x.is_finite() { x.abs() } else { 0.0 };
            largest.0 = largest.0.max(finite(keys[expert]));
            largest.1 = largest.1.max(scores[expert] * factor);
            largest.2 = largest.2.max(finite(logits[expert]));
        }
        let (key, score, logit) = largest;
        let inexact = how.logits.scale != 1.0 || how.logits.cap.is_some();
        let of_logits = if inexact { 3e-7 * logit } else { 0.0 };
        // The sum of a row in lanes, and the exponential of a rounded difference.
        let relative = 4e-6 + 1e-8 * self.mode.experts as f32 + 2.0 * of_logits;
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
        let size = self.mode.experts / groups.groups as usize;
        let mut worths: Vec<(f32, usize)> = Vec::with_capacity(groups.groups as usize);
        for (group, keys) in keys[..self.mode.experts].chunks_exact(size).enumerate() {
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
        let kept = groups.keep as usize;
        let boundary = worths[kept - 1].0 - worths.get(kept).map_or(f32::NEG_INFINITY, |next| next.0);
        if boundary <= 5.0 * worst || boundary.is_nan() {
            return false;
        }
        for (_, group) in &worths[kept..] {
            keys[group * size..][..size].fill(f32::NEG_INFINITY);
        }
        true
    }

    /// The logit or the score of an expert among all columns, whatever is selected.
    fn number(&self, how: Scores, of: Of, expert: u16, sums: Sums) -> f64 {
        let expert = usize::from(expert);
        match (of, how.score) {
            (Of::Logit, _) | (Of::Score, None) => how.logits.exact(self.work.base[expert]),
            (Of::Score, Some(Score::Softmax)) => f64::from(self.work.scores[expert]) / f64::from(sums.sum),
            (Of::Score, Some(Score::Sigmoid | Score::SqrtSoftplus)) => f64::from(self.work.scores[expert]),
        }
    }

    /// The weights of the picks of sure rows, as far as they are known when the order of service is decided: what the graph
    /// makes of what they weigh at first. Those of the other rows are still to come.
    fn weigh(&mut self, tokens: usize, picked: &mut Picked) -> Result<(), ReferenceError> {
        let Mode { top_k, experts, picker, picks, .. } = self.mode;
        if picked.weights.is_empty() || self.work.unsure.len() == tokens {
            return Ok(());
        }
        let first = graph::Picks {
            top_k,
            experts,
            rowless: 0,
            expert_of_pair: picked.experts.iter().map(|expert| usize::from(*expert)).collect(),
            weight_of_pair: std::mem::take(&mut self.work.weights),
            best_of_token: None,
            counted: None,
            observed: None,
        };
        let given = BTreeMap::from([(picker, Value::Picks(first))]);
        let weighed = picks_of(self.value(picks, tokens, given)?)?;
        picked.weights.iter_mut().zip(&weighed.weight_of_pair).for_each(|(weight, w)| *weight = *w as f32);
        self.work.weights = weighed.weight_of_pair;
        Ok(())
    }

    /// The value of a node, those of others given.
    fn value(&self, node: Id, tokens: usize, given: BTreeMap<Id, Value>) -> Result<Value, ReferenceError> {
        let dims = Dims { tokens: tokens as u64, sequence_tokens: tokens as u64 };
        graph::interp_node(&self.graph, &self.params, dims, node, given).map_err(ReferenceError::new)
    }

    /// Gives `see` what the interpreter makes of rows whose scores the filter cannot make.
    fn see_interpreted(
        &mut self,
        rows: &Rows,
        range: Range<usize>,
        mut see: impl FnMut(Option<Score>, &[f32], &[f32], Sums),
    ) -> Result<(), ReferenceError> {
        for first in range.clone().step_by(AT_ONCE) {
            let here: Vec<usize> = (first..range.end.min(first + AT_ONCE)).collect();
            self.record(rows, &here);
            let [scores, probabilities] = [self.mode.score, self.mode.probability].map(|node| {
                let row = |row: &[f64]| row.iter().map(|x| *x as f32).collect::<Vec<f32>>();
                match self.value(node, here.len(), BTreeMap::new())? {
                    Value::Tensor(tensor) => Ok(tensor.data.chunks(self.mode.columns).map(row).collect::<Vec<_>>()),
                    Value::Picks(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => {
                        Err(ReferenceError::new("scores that are no tensor".to_string()))
                    }
                }
            });
            for (mut scores, mut probabilities) in scores?.into_iter().zip(probabilities?) {
                make_finite(&mut scores, self.mode.columns);
                scores.resize(rows.stride(), f32::NEG_INFINITY);
                probabilities.iter_mut().for_each(|x| *x = if x.is_finite() { *x } else { 0.0 });
                probabilities.resize(rows.stride(), 0.0);
                let sums = Sums { sum: probabilities.iter().sum(), largest: survey(&scores).1 };
                see(None, &scores, &probabilities, sums);
            }
        }
        Ok(())
    }

    /// These rows are what was recorded.
    fn record(&mut self, rows: &Rows, which: &[usize]) {
        let data = which.iter().flat_map(|row| rows.exact(*row)).collect();
        self.params.insert(LOGITS.to_string(), graph::Tensor::new(vec![which.len(), self.mode.columns], data));
    }

    /// Asks the graph's interpreter about the rows that the filter is not sure of.
    fn interpret(&mut self, rows: &Rows, first: usize, picked: &mut Picked) -> Result<(), ReferenceError> {
        let k = self.mode.top_k;
        let unsure = std::mem::take(&mut self.work.unsure);
        for unsure in unsure.chunks(AT_ONCE) {
            self.record(rows, &unsure.iter().map(|row| first + row).collect::<Vec<usize>>());
            let picks = picks_of(self.value(self.mode.picks, unsure.len(), BTreeMap::new())?)?;
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
            self.interpreted += unsure.len() as u64;
        }
        self.work.unsure = unsure;
        Ok(())
    }
}

/// Rows that the interpreter is given at once.
const AT_ONCE: usize = 256;

fn picks_of(value: Value) -> Result<graph::Picks, ReferenceError> {
    match value {
        Value::Picks(picks) => Ok(picks),
        Value::Tensor(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => {
            Err(ReferenceError::new("the selection picks nothing".to_string()))
        }
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

/// Round to nearest, ties to even; a NaN stays one.
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

#[cfg(test)]
pub(super) mod tests {
    use moec_ir::graph::{Assignment, Attr, Builder, Capacity, Dim, Op, Pointwise, Span, Type};

    use super::*;
    use crate::diagnostics::Source;
    use crate::import::{PROBABILITY, SCORE};

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
        expected.experts.resize(rows.count * selector.mode.top_k, 0);
        expected.weights.resize(if selector.mode.is_by_weight() { rows.count * selector.mode.top_k } else { 0 }, 0.0);
        expected.best.resize(if selector.mode.is_by_best() { rows.count } else { 0 }, 0.0);
        selector.work.unsure = (0..rows.count).collect();
        selector.interpret(&rows, 0, &mut expected).unwrap();
        selector.interpreted = 0;
        let mut picked = Picked::default();
        selector.select(&rows, 0..rows.count, &mut picked, |_, _, _, _| ()).unwrap();
        assert_eq!(picked.experts, expected.experts, "{what}");
        for (a, b) in picked.weights.iter().chain(&picked.best).zip(expected.weights.iter().chain(&expected.best)) {
            assert!((a - b).abs() <= 1e-5 * b.abs() + 1e-18 || a == b || (a.is_nan() && b.is_nan()), "{what}: {a} {b}");
        }
        if selector.mode.weights == Some(Of::Logit) {
            assert!(picked.weights.iter().zip(&expected.weights).all(|(a, b)| a.total_cmp(b).is_eq()), "{what}");
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

    /// A score that the filter has no form for: everything is the interpreter's, the scores too.
    #[test]
    fn a_score_that_the_filter_does_not_know() {
        let tensor = |columns| Type::tensor(&[Dim::Tokens, Dim::Const(columns)], DType::F32);
        let mut g = Builder::default();
        let logits = g.param(LOGITS, tensor(8));
        let score = g.apply(Pointwise::Sigmoid, &[logits]);
        let score = g.apply(Pointwise::Square, &[score]);
        let picks = g.apply_attr(Op::TopK, &[score, score], Attr::Num(2));
        let capacity = Capacity { per_expert: 2.into(), span: Span::All, priority: graph::Priority::Score };
        let routing = g.apply_attr(Op::Assign, &[picks], Attr::Assignment(Assignment::Capacity(capacity)));
        let weights = g.apply(Op::PairWeights, &[routing]);
        let results = [(graph::OUTPUT, weights), (PROBABILITY, score), (SCORE, score)];
        let results = results.map(|(name, id)| (name.to_string(), id)).to_vec();
        let graph = graph::verify(g.finish_with("squares", results, moec_ir::Facts::default())).unwrap();
        let mut selector = Selector::of(graph, &Vectors::default()).unwrap();
        assert_eq!(selector.mode.scores, None);
        let values = values("normal", 8, &mut Numbers(23));
        let rows = Rows::of(8, &values);
        let (mut picked, mut seen) = (Picked::default(), Vec::new());
        let see = |score: Option<Score>, _: &[f32], scores: &[f32], sums: Sums| {
            assert!(score.is_none() && (sums.sum - scores.iter().sum::<f32>()).abs() < 1e-5);
            seen.extend(scores[..8].to_vec());
        };
        selector.select(&rows, 0..rows.count, &mut picked, see).unwrap();
        assert_eq!(selector.interpreted, rows.count as u64);
        let squares: Vec<f64> = values.iter().map(|x| (1.0 / (1.0 + (-x).exp())).powi(2)).collect();
        assert!(seen.len() == squares.len() && seen.iter().zip(&squares).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6));
        for (row, (experts, weights)) in squares.chunks(8).zip(picked.experts.chunks(2).zip(picked.weights.chunks(2))) {
            let mut order: Vec<usize> = (0..8).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            assert_eq!(experts.iter().map(|expert| usize::from(*expert)).collect::<Vec<_>>(), order[..2]);
            assert!(weights.iter().zip(&order).all(|(weight, expert)| *weight == row[*expert] as f32));
        }
    }
}
