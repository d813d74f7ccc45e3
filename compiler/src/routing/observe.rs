//! One pass over a trace: rows in, counts out. What is kept of a row is its picks until its span ends, and after that only
//! what `sweep`, the modes and the plots count, so that memory depends on the longest span and not on the trace.

use std::ops::Range;

use moec_ir::tiling::MOST_ROWS;

use super::choice::ExpertChoice;
use super::left_out::LeftOut;
use super::mode::Mode;
use super::ranks::{Ranks, rank};
use super::rows::{Rows, stride};
use super::score::{Sums, add_scaled};
use super::select::{Picked, Selector, Vectors};
use super::sweep::{Counts, Own, Sizing, hundredths};
use crate::reference::ReferenceError;
use crate::spec::{CapacityGroup, Spec};

/// Capacities that modes are compared at, as hundredths of the mean load.
pub(super) const COMPARED: [u64; 3] = [100, 125, 200];
/// The most points of a plot over batches; neighbours are joined where there are more.
const MOST_INTERVALS: usize = 128;

/// What is seen of a trace so far.
pub(super) struct Observer<'s> {
    spec: &'s Spec,
    pub(super) sizing: Sizing,
    pub(super) selector: Selector,
    /// Tokens of a batch, at most.
    batch_limit: u64,
    /// How many tensors were begun.
    tensor: usize,
    /// Rows of the last that are still to come.
    tensor_left: u64,
    batch: Stretch,
    span: Stretch,
    /// Experts chose from a piece of the open span already: it is longer than they choose from at once.
    span_is_cut: bool,
    sequence_tokens: Option<u64>,
    /// Picks of the open span.
    open: Picked,
    chunk: Picked,
    ranks: Ranks,
    pub(super) seen: Seen,
}

/// A stretch of rows that is being read.
#[derive(Clone, Copy, Default)]
struct Stretch {
    /// Rows that are still to come: of a run of so many tokens, tokens.
    left: u64,
    /// Tokens that were seen of it.
    tokens: u64,
}

impl Stretch {
    fn of(left: u64) -> Stretch {
        Stretch { left, tokens: 0 }
    }
}

/// The counts.
pub(super) struct Seen {
    /// Rows that count.
    pub(super) tokens: u64,
    /// Rows that do not.
    pub(super) left_out: LeftOut,
    pub(super) batches: u64,
    pub(super) longest_batch: u64,
    /// Pairs of each expert.
    pub(super) load: Vec<u64>,
    /// Router probabilities of each expert, summed over the tokens.
    pub(super) probability: Vec<f64>,
    partial: Vec<f32>,
    pub(super) counts: Counts,
    /// Of dropless routing, of the spec's capacity where it has one, and of [`COMPARED`].
    pub(super) kept: Vec<Kept>,
    pub(super) choice: ExpertChoice,
    /// Spans that experts choose from in pieces.
    pub(super) cut_spans: u64,
    pub(super) intervals: Vec<Interval>,
    batches_each: u64,
    /// Multiply-adds of soft routing's two mixes, for each hidden element.
    pub(super) mixed: u128,
}

/// Rows of each expert under one capacity, batch by batch.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) rule: Rule,
    of_batch: Vec<u64>,
    /// Sum over the batches of the busiest expert's rows.
    pub(super) busiest: u64,
    /// Rows when each expert's are padded to tiles.
    pub(super) tile_rows: u64,
}

/// A capacity to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Dropless,
    Spec,
    /// Hundredths of the mean load.
    Mean(u64),
}

impl Rule {
    /// C of a span of that many tokens; `None`: there is room for all.
    pub(super) fn capacity(self, sizing: &Sizing, span: u64) -> Option<u64> {
        match self {
            Rule::Dropless => None,
            Rule::Spec => sizing.own(span),
            Rule::Mean(n) => Some(sizing.at(hundredths(n * sizing.even()), span)),
        }
    }
}

/// Rows of the highest tile of most GPUs' grouped products, to which the rows of an expert are padded.
pub(super) fn tile_rows() -> u64 {
    u64::from(MOST_ROWS)
}

/// Neighbouring batches as one point of a plot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interval {
    /// The tensors of its first and of its last batch, by their number.
    pub(super) tensors: (usize, usize),
    pub(super) batches: u64,
    pub(super) tokens: u64,
    pub(super) load: Vec<u64>,
    /// Pairs that the spec's capacity drops.
    pub(super) dropped: u64,
}

impl Interval {
    fn join(&mut self, other: &Interval) {
        self.tensors.1 = other.tensors.1;
        self.batches += other.batches;
        self.tokens += other.tokens;
        self.dropped += other.dropped;
        self.load.resize(other.load.len(), 0);
        self.load.iter_mut().zip(&other.load).for_each(|(a, b)| *a += b);
    }
}

impl<'s> Observer<'s> {
    pub(super) fn new(
        spec: &'s Spec,
        vectors: &Vectors,
        batch_limit: u64,
        left_out: LeftOut,
    ) -> Result<Observer<'s>, ReferenceError> {
        let experts = spec.experts as usize;
        let sizing = Sizing::of(spec);
        let own = (sizing.own != Own::Dropless).then_some(Rule::Spec);
        let rules = [Rule::Dropless].into_iter().chain(own).chain(COMPARED.map(Rule::Mean));
        let kept = |rule| Kept { rule, of_batch: vec![0; experts], busiest: 0, tile_rows: 0 };
        Ok(Observer {
            spec,
            sizing,
            selector: Selector::new(spec, vectors)?,
            batch_limit,
            tensor: 0,
            tensor_left: 0,
            batch: Stretch::default(),
            span: Stretch::default(),
            span_is_cut: false,
            sequence_tokens: None,
            open: Picked::default(),
            chunk: Picked::default(),
            ranks: Ranks::default(),
            seen: Seen {
                tokens: 0,
                left_out,
                batches: 0,
                longest_batch: 0,
                load: vec![0; experts],
                probability: vec![0.0; experts],
                partial: vec![0.0; stride(spec.columns() as usize)],
                counts: Counts::default(),
                kept: rules.map(kept).collect(),
                choice: ExpertChoice::new(experts),
                cut_spans: 0,
                intervals: Vec::new(),
                batches_each: 1,
                mixed: 0,
            },
        })
    }

    /// The next rows belong to a new tensor of that many.
    pub(super) fn begin(&mut self, rows: u64, sequence_tokens: Option<u64>) {
        self.tensor += 1;
        self.tensor_left = rows;
        self.sequence_tokens = sequence_tokens;
        self.seen.left_out.begin();
    }

    /// Takes the next rows of the tensor. Rows that are no tokens end batches and spans as others do, and are not in them.
    pub(super) fn take(&mut self, rows: &Rows) -> Result<(), ReferenceError> {
        let mut first = 0;
        while first < rows.count {
            if self.batch.left == 0 {
                self.batch = Stretch::of(self.batch_rows());
            }
            if self.span.left == 0 {
                self.span = Stretch::of(self.span_rows());
            }
            let kind = rows.kinds[first];
            let is_token = self.seen.left_out.is_token(kind);
            let of_span = is_token || !self.spans_are_of_tokens();
            let room = self.seen.choice.most_tokens - self.seen.choice.tokens();
            let mut most = self.batch.left.min((rows.count - first) as u64);
            most = if of_span { most.min(self.span.left) } else { most };
            most = if is_token { most.min(room) } else { most };
            let alike = |other| if is_token { self.seen.left_out.is_token(other) } else { other == kind };
            let count = rows.kinds[first..first + most as usize].iter().take_while(|other| alike(**other)).count();
            if is_token {
                self.observe(rows, first..first + count)?;
                self.seen.left_out.pass(count as u64);
                self.batch.tokens += count as u64;
                self.span.tokens += count as u64;
            } else {
                self.seen.left_out.add(kind, self.tensor - 1, count as u64);
            }
            first += count;
            self.tensor_left -= count as u64;
            self.batch.left -= count as u64;
            self.span.left -= if of_span { count as u64 } else { 0 };
            if self.span.left == 0 || self.batch.left == 0 {
                self.end_span();
            } else if is_token && count as u64 == room {
                self.span_is_cut = true;
                self.choose();
            }
            if self.batch.left == 0 {
                self.end_batch();
            }
        }
        self.seen.probability.iter_mut().zip(&mut self.seen.partial).for_each(|(sum, partial)| {
            *sum += f64::from(*partial);
            *partial = 0.0;
        });
        Ok(())
    }

    /// As many whole rows of `[B, S, E]` as the limit allows, one at least.
    fn batch_rows(&self) -> u64 {
        let limit = match self.sequence_tokens {
            Some(row) if row > 0 => (self.batch_limit / row * row).max(row),
            Some(_) | None => self.batch_limit,
        };
        limit.min(self.tensor_left)
    }

    /// The rows that share a capacity.
    fn span_rows(&self) -> u64 {
        match self.spec.capacity.map_or(CapacityGroup::All, |capacity| capacity.group) {
            CapacityGroup::All => self.batch.left,
            CapacityGroup::Sequence => self.sequence_tokens.unwrap_or(self.batch.left).min(self.batch.left),
            CapacityGroup::Tokens(n) => n,
        }
    }

    /// Whether spans are runs of so many tokens, and not of rows.
    fn spans_are_of_tokens(&self) -> bool {
        matches!(self.spec.capacity.map(|capacity| capacity.group), Some(CapacityGroup::Tokens(_)))
    }

    fn observe(&mut self, rows: &Rows, range: Range<usize>) -> Result<(), ReferenceError> {
        let Seen { partial, choice, .. } = &mut self.seen;
        self.selector.select(rows, range, &mut self.chunk, |score, logits: &[f32], scores: &[f32], sums: Sums| {
            add_scaled(partial, scores, 1.0 / sums.sum);
            choice.push(score, logits, scores, sums);
        })?;
        self.open.experts.extend_from_slice(&self.chunk.experts);
        self.open.weights.extend_from_slice(&self.chunk.weights);
        self.open.best.extend_from_slice(&self.chunk.best);
        Ok(())
    }

    /// Lets the experts choose from the tokens seen since they last did.
    fn choose(&mut self) {
        let seen = &mut self.seen;
        let tokens = seen.choice.tokens();
        // The last run of a batch has the capacity of a whole one; a piece of a span that was cut has its own.
        let length = match self.spec.capacity.map(|capacity| capacity.group) {
            Some(CapacityGroup::Tokens(n)) if !self.span_is_cut => n,
            Some(_) | None => tokens,
        };
        let capacity = self.sizing.own(length).or_else(|| Rule::Mean(100).capacity(&self.sizing, length)).unwrap_or(0);
        let before = seen.choice.rows;
        seen.choice.choose(capacity);
        seen.mixed += 2 * u128::from(tokens) * u128::from(seen.choice.rows - before);
    }

    fn end_span(&mut self) {
        let tokens = self.span.tokens;
        self.span = Stretch::default();
        if tokens == 0 {
            return;
        }
        self.choose();
        let seen = &mut self.seen;
        seen.cut_spans += u64::from(std::mem::take(&mut self.span_is_cut));
        let Mode { top_k, priority, .. } = self.selector.mode;
        rank(&self.open, top_k, seen.load.len(), priority, &mut self.ranks);
        let length = match self.spec.capacity.map(|capacity| capacity.group) {
            Some(CapacityGroup::Tokens(n)) => n,
            Some(CapacityGroup::All | CapacityGroup::Sequence) | None => tokens,
        };
        seen.counts.add(length, tokens, &self.ranks);
        seen.tokens += tokens;
        for kept in &mut seen.kept {
            let capacity = kept.rule.capacity(&self.sizing, length).unwrap_or(u64::MAX);
            let loads = kept.of_batch.iter_mut().zip(&self.ranks.loads);
            loads.for_each(|(kept, load)| *kept += u64::from(*load).min(capacity));
        }
        self.open.experts.clear();
        self.open.weights.clear();
        self.open.best.clear();
    }

    fn end_batch(&mut self) {
        let (seen, tokens) = (&mut self.seen, self.batch.tokens);
        if tokens == 0 {
            return;
        }
        seen.batches += 1;
        seen.longest_batch = seen.longest_batch.max(tokens);
        let total = |kept: &Kept| kept.of_batch.iter().sum::<u64>();
        let pairs = seen.kept.first().map_or(0, total);
        let own = seen.kept.iter().find(|kept| kept.rule == Rule::Spec).map_or(pairs, total);
        let load = seen.kept.first().map_or(Vec::new(), |kept| kept.of_batch.clone());
        seen.load.iter_mut().zip(&load).for_each(|(sum, load)| *sum += load);
        let tensor = self.tensor - 1;
        let interval = Interval { tensors: (tensor, tensor), batches: 1, tokens, load, dropped: pairs - own };
        match seen.intervals.last_mut() {
            Some(last) if last.batches < seen.batches_each => last.join(&interval),
            Some(_) | None => seen.intervals.push(interval),
        }
        if seen.intervals.len() > MOST_INTERVALS {
            let joined = seen.intervals.chunks(2).map(|pair| {
                let mut joined = pair[0].clone();
                pair[1..].iter().for_each(|other| joined.join(other));
                joined
            });
            seen.intervals = joined.collect();
            seen.batches_each *= 2;
        }
        let tile_rows = tile_rows();
        for kept in &mut seen.kept {
            kept.busiest += kept.of_batch.iter().copied().max().unwrap_or(0);
            kept.tile_rows += kept.of_batch.iter().map(|rows| rows.next_multiple_of(tile_rows)).sum::<u64>();
            kept.of_batch.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use moec_ir::Dims;
    use moec_ir::graph::{self, Value};

    use super::super::select::tests::{Numbers, spec};
    use super::*;
    use crate::import::import_routing;
    use crate::spec::CapacitySize;

    /// Batches of logits: tokens, row tokens, values.
    type Batch = (u64, Option<u64>, Vec<f64>);

    fn batches(experts: usize, kind: &str, numbers: &mut Numbers) -> Vec<Batch> {
        let shapes = [(12, Some(4)), (7, None), (1, None), (12, Some(12)), (10, Some(5)), (12, Some(4))];
        let one = |n: &mut Numbers| if kind == "normal" { f64::from(n.normal() as f32) } else { (n.normal() * 1.5).round() };
        let values = |tokens: u64, n: &mut Numbers| (0..tokens as usize * experts).map(|_| one(n)).collect();
        shapes.into_iter().map(|(tokens, row)| (tokens, row, values(tokens, numbers))).collect()
    }

    /// The trace, in chunks of so many rows.
    fn observed<'s>(spec: &'s Spec, batches: &[Batch], chunk: usize) -> Observer<'s> {
        let experts = spec.experts as usize;
        let mut observer = Observer::new(spec, &Vectors::default(), 1 << 20, LeftOut::default()).unwrap();
        for (tokens, sequence_tokens, values) in batches {
            observer.begin(*tokens, *sequence_tokens);
            values.chunks(chunk * experts).for_each(|values| observer.take(&Rows::of(experts, values)).unwrap());
        }
        observer
    }

    /// Pairs and whole tokens that the graph's `assign` drops, run again for this C.
    fn dropped(spec: &Spec, batches: &[Batch], c: u64) -> (u64, u64) {
        let mut spec = spec.clone();
        let capacity = spec.capacity.as_mut().unwrap();
        (capacity.size, capacity.min, capacity.multiple_of) = (CapacitySize::Tokens(c), 0, 1);
        let graph = graph::verify(import_routing(&spec)).unwrap();
        let (mut pairs, mut whole) = (0, 0);
        for (tokens, sequence_tokens, values) in batches {
            let shape = vec![*tokens as usize, spec.experts as usize];
            let params = BTreeMap::from([("%logits".to_string(), graph::Tensor::new(shape, values.clone()))]);
            let dims = Dims { tokens: *tokens, sequence_tokens: sequence_tokens.unwrap_or(*tokens) };
            let values = graph::interp(&graph, &params, dims).unwrap();
            let routing = values.into_iter().rev().find_map(|value| match value {
                Value::Routing(routing) => Some(routing),
                _ => None,
            });
            for rows in routing.unwrap().row_of_pair.chunks(spec.router.top_k as usize) {
                let lost = rows.iter().filter(|row| row.is_none()).count();
                pairs += lost as u64;
                whole += u64::from(lost == rows.len());
            }
        }
        (pairs, whole)
    }

    #[test]
    fn every_capacity_as_if_it_were_run() {
        let mut numbers = Numbers(11);
        for priority in ["choice_major", "token_major", "score", "batch_prioritized"] {
            for group in ["\"all\"", "\"row\"", "5"] {
                // Of integers, many weights are equal: then the logits themselves are the weights, exactly.
                for (kind, router) in [("normal", "renorm = \"sum\""), ("ties", "score = \"identity\"")] {
                    let capacity = format!(
                        "[capacity]\nfactor = 1.0\ncount_k = false\nround = \"ceil\"\npriority = \"{priority}\"\ngroup = {group}"
                    );
                    for (experts, top_k) in [(4, 2), (6, 1), (5, 5)] {
                        let spec = spec(experts, top_k, router, &capacity, "f32");
                        let batches = batches(experts, kind, &mut numbers);
                        let observer = observed(&spec, &batches, 1000);
                        for c in 0..=13 {
                            let effect = observer.seen.counts.effect(spec.experts, |_| Some(c));
                            let swept = (effect.dropped_pairs, effect.dropped_tokens);
                            let what = format!("{priority}, {group}, {kind}, {top_k} of {experts}, C = {c}");
                            assert_eq!(swept, dropped(&spec, &batches, c), "{what}");
                        }
                    }
                }
            }
        }
    }

    /// Tokens that no expert chooses, by the graph.
    #[test]
    fn experts_choose_as_in_the_graph() {
        let mut numbers = Numbers(21);
        let router = |score: &str| format!("mode = \"expert_choice\"\nscore = \"{score}\"");
        for (group, router) in [
            ("\"all\"", router("softmax")),
            ("\"row\"", router("sigmoid")),
            ("5", router("sqrtsoftplus")),
            ("\"all\"", router("identity")),
            ("\"row\"", router("identity") + "\nlogit_scale = 0.5\nlogit_softcap = 2.0"),
        ] {
            for factor in ["0.4", "1.0", "2.0", "100.0"] {
                let capacity =
                    format!("[capacity]\nfactor = {factor}\ncount_k = false\nround = \"floor\"\nmin = 1\ngroup = {group}");
                let spec = spec(6, 1, &router, &capacity, "f32");
                let mut batches = batches(6, "normal", &mut numbers);
                if router.contains("identity") {
                    // Where logits are the scores, ties and what is not finite have their places too.
                    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, f64::NEG_INFINITY];
                    let values = batches.iter_mut().flat_map(|(_, _, values)| values.iter_mut().skip(1).step_by(4));
                    values.zip(odd.iter().cycle()).for_each(|(value, odd)| *value = *odd);
                    batches[0].2[..6].fill(f64::NEG_INFINITY);
                }
                let choosing = super::super::tokens_that_choose(&spec, Some(2));
                let observer = observed(&choosing, &batches, 7);
                let graph = graph::verify(import_routing(&spec)).unwrap();
                let (mut unchosen, mut rows) = (0, 0);
                for (tokens, sequence_tokens, values) in &batches {
                    let logits = graph::Tensor::new(vec![*tokens as usize, 6], values.clone());
                    let dims = Dims { tokens: *tokens, sequence_tokens: sequence_tokens.unwrap_or(*tokens) };
                    let values = graph::interp(&graph, &BTreeMap::from([("%logits".to_string(), logits)]), dims).unwrap();
                    let routing = values.into_iter().rev().find_map(|value| match value {
                        Value::Routing(routing) => Some(routing),
                        _ => None,
                    });
                    let routing = routing.unwrap();
                    rows += routing.pair_of_row.len() as u64;
                    unchosen += routing.row_of_pair.chunks(6).filter(|rows| rows.iter().all(Option::is_none)).count() as u64;
                }
                let choice = &observer.seen.choice;
                assert_eq!((choice.unchosen, choice.rows), (unchosen, rows), "{group} {router} {factor}");
            }
        }
    }

    /// Of spans of 8 tokens but 6 at once: 6 and 2, each with the C of its length (3 and 1); what fits is whole again, and has
    /// the C of 8 (4) even where it is the shorter last run of a batch.
    #[test]
    fn long_spans_are_cut_and_counted() {
        let capacity = "[capacity]\nfactor = 2.0\ncount_k = false\nround = \"ceil\"\ngroup = 8";
        let spec = spec(4, 1, "mode = \"expert_choice\"", capacity, "f32");
        let choosing = super::super::tokens_that_choose(&spec, None);
        let mut numbers = Numbers(8);
        let mut values = |tokens: usize| (0..tokens * 4).map(|_| numbers.normal()).collect::<Vec<f64>>();
        let mut observer = Observer::new(&choosing, &Vectors::default(), 1 << 20, LeftOut::default()).unwrap();
        observer.seen.choice.most_tokens = 6;
        for (tokens, cut_spans, rows) in
            [(8, 1, 4 * (3 + 1)), (3, 1, 4 * (4 + 3)), (6, 1, 4 * (7 + 4)), (19, 3, 4 * (11 + 8 + 3))]
        {
            observer.begin(tokens, None);
            observer.take(&Rows::of(4, &values(tokens as usize))).unwrap();
            assert_eq!((observer.seen.cut_spans, observer.seen.choice.rows), (cut_spans, rows), "{tokens}");
        }
        let read = super::super::measure::Read {
            source: "logits",
            layer: None,
            files: 1,
            tensors: vec!["x"; 4],
            skipped_tensors: 0,
            rows: 36,
            target: crate::spec::Ratio { numerator: 1, denominator: 100 },
            has_experts: true,
            ranks: None,
        };
        let report = super::super::measure::report(&spec, &observer, &read);
        assert_eq!((report.trace.cut_spans, report.trace.most_choice_tokens), (3, 6));
        let said = "experts choose from 6 tokens at once: 3 spans are cut";
        let report = super::super::Reports { layers: vec![report] };
        for shown in [super::super::text(&report), super::super::html(&report)] {
            assert!(shown.contains(said), "{shown}");
        }
    }

    /// How a trace is cut into reads changes nothing.
    #[test]
    fn chunks_do_not_show() {
        let capacity = "[capacity]\nfactor = 0.7\ncount_k = false\nround = \"ceil\"\ngroup = 5";
        let spec = spec(6, 2, "score = \"sigmoid\"", capacity, "f32");
        let batches = batches(6, "normal", &mut Numbers(4));
        let whole = observed(&spec, &batches, 1000);
        for chunk in [1, 2, 5, 7] {
            let other = observed(&spec, &batches, chunk);
            assert_eq!(whole.seen.counts, other.seen.counts, "{chunk}");
            assert_eq!(whole.seen.intervals, other.seen.intervals, "{chunk}");
            let numbers = |observer: &Observer<'_>| {
                let seen = &observer.seen;
                (seen.tokens, seen.batches, seen.load.clone(), seen.choice.unchosen, seen.choice.rows, seen.mixed)
            };
            assert_eq!(numbers(&whole), numbers(&other), "{chunk}");
            for (a, b) in whole.seen.probability.iter().zip(&other.seen.probability) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    /// The recommended factor is enough, and a hundredth less is not.
    #[test]
    fn the_recommended_factor_is_the_least() {
        use super::super::sweep::value;
        let mut numbers = Numbers(9);
        for capacity in [
            "",
            "[capacity]\nfactor = 1.25\ncount_k = false\nround = \"floor\"",
            "[capacity]\nfactor = 1.25\nround = \"half_even\"\ncount_k = true\ngroup = \"sequence\"",
            "[capacity]\nfactor = 1.0\ncount_k = false\nround = \"ceil\"\nmultiple_of = 4\nmin = 2",
            "[capacity]\ntokens = 3",
        ] {
            let spec = spec(8, 2, "", capacity, "f32");
            let observer = observed(&spec, &batches(8, "normal", &mut numbers), 1000);
            let pairs = observer.seen.tokens * 2;
            for target in ["0", "0.01", "0.05", "0.2", "1"].map(|text| crate::spec::Ratio::from_decimal(text).unwrap()) {
                let rate = |n: u64| {
                    let sizing = &observer.sizing;
                    let effect = observer.seen.counts.effect(8, |span| Some(sizing.at(hundredths(n), span)));
                    effect.dropped_pairs as f64 / pairs as f64
                };
                let least = observer.seen.counts.least_factor(&observer.sizing, pairs, target);
                assert!(rate(least) <= value(target), "{capacity} {least}");
                assert!(least == 1 || rate(least - 1) > value(target), "{capacity} {least}");
            }
        }
    }

    #[test]
    fn many_batches_are_joined() {
        let spec = spec(4, 1, "", "", "f32");
        let batch = |i: usize| (1, None, (0..4).map(|e| f64::from(u8::from(e == i % 4))).collect::<Vec<f64>>());
        let batches: Vec<Batch> = (0..1000).map(batch).collect();
        let seen = observed(&spec, &batches, 8).seen;
        assert!(seen.intervals.len() <= MOST_INTERVALS && seen.intervals.len() > MOST_INTERVALS / 2);
        assert_eq!(seen.intervals.iter().map(|interval| interval.batches).sum::<u64>(), 1000);
        let all_but_last = &seen.intervals[..seen.intervals.len() - 1];
        assert!(all_but_last.iter().all(|interval| interval.batches == all_but_last[0].batches));
        assert_eq!(seen.load, [250; 4]);
    }
}
