//! The report as data: what `moec route --json` writes. Keys are a promise: one may be added, none changes its meaning while
//! `version` stays.

use moec_runtime::{Health, entropy_share};
use serde::Serialize;

use super::observe::{Interval, Kept, Observer, Rule, Seen};
use super::sweep::{Band, Effect, Own, Sizing, hundredths, value};
use crate::spec::{CapacityGroup, CapacitySize, Ratio, Spec, Word};

/// Routing health of one spec on one trace. Rates are shares from 0 to 1; a pair is one (token, expert) assignment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this form: 1.
    pub version: u32,
    /// The layer's name.
    pub layer: String,
    /// What the spec says about routing.
    pub router: Router,
    /// What was read.
    pub trace: TraceFacts,
    /// What the spec's own capacity does.
    pub drop: Drop,
    /// The least capacity factor, in hundredths, that drops at most what was asked for.
    pub recommendation: Recommendation,
    /// Pairs of each expert.
    pub load: Spread<u64>,
    /// Router probabilities of each expert, summed over the tokens: of a sigmoid or sqrtsoftplus score its share of the
    /// token's sum.
    pub probability: Spread<f64>,
    /// Capacity factors, ascending.
    pub sweep: Vec<Point>,
    /// Routing modes on the same logits.
    pub modes: Vec<Mode>,
    /// Neighbouring batches, in order.
    pub over_batches: Vec<Stretch>,
}

/// What the spec says about routing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Router {
    /// `router.mode`.
    pub mode: &'static str,
    /// E.
    pub experts: u64,
    /// K; where experts choose, that of the tokens that choose beside them.
    pub top_k: u64,
    /// `router.score`.
    pub score: &'static str,
    /// `capacity.priority`; of a dropless layer the one that it was swept with.
    pub priority: &'static str,
    /// `capacity.group`.
    pub group: String,
    /// `capacity.factor`, where the spec has one.
    pub factor: Option<f64>,
    /// The factor at which an expert has room for the mean load: K where `count_k` is false, else 1.
    pub even_factor: u64,
    /// The spec has no capacity: nothing is dropped.
    pub is_dropless: bool,
    /// How C follows from a factor.
    pub formula: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceFacts {
    /// `logits` or `hidden`.
    pub source: &'static str,
    /// Files read.
    pub files: usize,
    /// Tensors that counted.
    pub tensors: usize,
    /// Tensors of another shape or type, which did not.
    pub skipped_tensors: usize,
    /// Batches; capacities never cross one.
    pub batches: u64,
    /// Stretches of tokens that share one capacity.
    pub spans: u64,
    /// T, of all batches.
    pub tokens: u64,
    /// T K, but for the picks of identity experts, which need no room.
    pub pairs: u64,
    /// Tokens of the longest batch.
    pub longest_batch: u64,
    /// The most tokens that experts choose from at once. A longer span is cut into pieces where experts choose, and in the
    /// modes `expert_choice` and `soft`; each has the C of its own length.
    pub most_choice_tokens: u64,
    /// Spans that were cut so.
    pub cut_spans: u64,
    /// Tokens whose picks the graph's interpreter decided, as f32 is not sure of them: experts too close to each other, logits
    /// that are not finite or in f64.
    pub interpreted_tokens: u64,
}

/// What the spec's own capacity does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drop {
    /// The least and the largest C of a span; none: dropless, or there is no token.
    pub capacity: Option<(u64, u64)>,
    /// Pairs that no expert has room for; where experts choose, tokens that none chose.
    pub dropped: u64,
    /// As a share of all.
    pub rate: f64,
    /// Tokens that lose every pick.
    pub dropped_tokens: u64,
    /// As a share of all.
    pub token_rate: f64,
    /// How much `rate` matters.
    pub band: Band,
    /// What to do about it.
    pub advice: &'static str,
}

/// A capacity factor that is enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// The share of pairs that may be dropped.
    pub target: f64,
    /// The factor, in the spec's own formula.
    pub factor: f64,
    /// The least and the largest C of a span.
    pub capacity: Option<(u64, u64)>,
    /// What it drops.
    pub rate: f64,
    /// Empty rows of buffers that hold C rows an expert.
    pub waste: f64,
}

/// How something is spread over the experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread<T> {
    /// Of an expert if all had the same: T K / E pairs, or T / E of probability.
    pub mean: f64,
    /// What the capacity factor allows an expert: `hot_above * mean`.
    pub limit: f64,
    /// Mean squared distance from the mean.
    pub variance: f64,
    /// Standard deviation over mean.
    pub spread: f64,
    /// The largest.
    pub largest: f64,
    /// Entropy as a share of that of the even distribution: 1 is even, 0 is all on one.
    pub entropy_share: f64,
    /// The factor of the mean above which an expert is hot: that of the spec's capacity, else 1.25.
    pub hot_above: f64,
    /// Experts above it, by index.
    pub hot: Vec<usize>,
    /// Experts below a tenth of the mean, by index.
    pub cold: Vec<usize>,
    /// By expert.
    pub per_expert: Vec<T>,
}

/// One capacity factor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// In the spec's own formula.
    pub factor: f64,
    /// The least and the largest C of a span.
    pub capacity: Option<(u64, u64)>,
    /// Dropped pairs, as a share of all.
    pub drop_rate: f64,
    /// Tokens that lose every pick, as a share of all.
    pub token_drop_rate: f64,
    /// Empty rows of buffers that hold C rows an expert.
    pub waste: f64,
    /// It is the spec's.
    pub is_spec: bool,
    /// It is the recommended one.
    pub is_recommended: bool,
}

/// One way to route the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mode {
    /// `dropless`, `capacity`, `expert_choice` or `soft`.
    pub kind: &'static str,
    /// The capacity factor of `capacity`, where one was meant.
    pub factor: Option<f64>,
    /// It is what the spec says.
    pub is_spec: bool,
    /// The least and the largest C of a span.
    pub capacity: Option<(u64, u64)>,
    /// Dropped pairs as a share of all; none where tokens do not pick.
    pub drop_rate: Option<f64>,
    /// Its band.
    pub band: Option<Band>,
    /// Tokens that no expert computes, as a share of all.
    pub token_drop_rate: f64,
    /// Of the rows in the buffers, those that are padding: to C, or to a GPU's tiles where there is no C.
    pub waste: f64,
    /// Rows of the busiest expert over the mean, batch by batch: how long the others wait for it.
    pub busiest: f64,
    /// Rows that experts compute.
    pub rows: u64,
    /// As a share of those of dropless routing.
    pub cost: f64,
    /// The same with padding.
    pub padded_cost: f64,
    /// Of `soft`: multiply-adds that mix tokens into slots and back, as a share of the experts' own.
    pub mixing: Option<f64>,
}

/// Neighbouring batches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// The first of them, counted from 0.
    pub first: u64,
    /// How many.
    pub batches: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Pairs that the spec's capacity drops, as a share of theirs.
    pub drop_rate: f64,
    /// Loads over their mean: the least, the lowest tenth, the median, the highest tenth, the largest.
    pub quantiles: [f64; 5],
    /// The expert with the largest load.
    pub hottest: usize,
    /// Loads over their mean of the experts that have the most in the whole trace, at most three, hottest first.
    pub leaders: Vec<f64>,
}

/// What is known of the trace besides the counts.
pub(super) struct Read {
    pub(super) source: &'static str,
    pub(super) files: usize,
    pub(super) tensors: usize,
    pub(super) skipped_tensors: usize,
}

/// The report of everything that was seen.
pub(super) fn report(spec: &Spec, observer: &Observer<'_>, read: &Read, target: Ratio) -> Report {
    let (seen, sizing) = (&observer.seen, &observer.sizing);
    let pairs = seen.load.iter().sum();
    let measure = Measure { pairs, tokens: seen.tokens, sizing, seen };
    let own = measure.effect(Rule::Spec);
    let enough = seen.counts.least_factor(sizing, pairs, target);
    let recommended = measure.point(hundredths(enough));
    let hot_above = hot_above(&measure, &own);
    Report {
        version: 1,
        layer: spec.name.clone(),
        router: router(spec, sizing),
        trace: TraceFacts {
            source: read.source,
            files: read.files,
            tensors: read.tensors,
            skipped_tensors: read.skipped_tensors,
            batches: seen.batches,
            spans: seen.counts.spans(),
            tokens: seen.tokens,
            pairs,
            longest_batch: seen.longest_batch,
            most_choice_tokens: seen.choice.most_tokens,
            cut_spans: seen.cut_spans,
            interpreted_tokens: observer.selector.interpreted,
        },
        drop: match experts_choose(spec) {
            // A token that nobody chose is what a dropped pair is elsewhere.
            true => {
                let unchosen = drop((seen.choice.unchosen, seen.tokens), (seen.choice.unchosen, seen.tokens), own.capacity);
                // Experts that choose are balanced, whatever the router does.
                let advice = if unchosen.band == Band::Negligible { unchosen.advice } else { Band::Measurable.advice() };
                Drop { advice, ..unchosen }
            }
            false => drop((own.dropped_pairs, pairs), (own.dropped_tokens, seen.tokens), own.capacity),
        },
        recommendation: Recommendation {
            target: value(target),
            factor: recommended.factor,
            capacity: recommended.capacity,
            rate: recommended.drop_rate,
            waste: recommended.waste,
        },
        load: {
            let load: Vec<f64> = seen.load.iter().map(|load| *load as f64).collect();
            spread(&load, hot_above, seen.load.clone())
        },
        probability: {
            let rounded: Vec<f64> = seen.probability.iter().map(|x| short(*x)).collect();
            spread(&seen.probability, hot_above, rounded)
        },
        sweep: sweep(&measure, enough),
        modes: modes(spec, &measure),
        over_batches: over_batches(seen),
    }
}

fn experts_choose(spec: &Spec) -> bool {
    spec.router.mode == crate::spec::Mode::ExpertChoice
}

fn drop((dropped, of): (u64, u64), (tokens, of_tokens): (u64, u64), capacity: Option<(u64, u64)>) -> Drop {
    let band = Band::of(dropped, of);
    Drop {
        capacity,
        dropped,
        rate: share(dropped, of),
        dropped_tokens: tokens,
        token_rate: share(tokens, of_tokens),
        band,
        advice: band.advice(),
    }
}

fn router(spec: &Spec, sizing: &Sizing) -> Router {
    let own = match sizing.own {
        Own::Factor => String::new(),
        Own::Dropless => "; the spec is dropless".to_string(),
        Own::Size => "; the spec's own C is no factor".to_string(),
    };
    let (k, round) = match sizing.capacity.size {
        CapacitySize::Factor { count_k, round, .. } => (if count_k { " K" } else { "" }, round.word()),
        CapacitySize::Tokens(_) | CapacitySize::Fraction { .. } => (" K", "ceil"),
    };
    Router {
        mode: mode_word(spec),
        experts: spec.experts,
        top_k: sizing.top_k,
        score: spec.router.score.word(),
        priority: sizing.capacity.priority.word(),
        group: match sizing.capacity.group {
            CapacityGroup::All => "all".to_string(),
            CapacityGroup::Row => "row".to_string(),
            CapacityGroup::Tokens(n) => n.to_string(),
        },
        factor: sizing.own_factor().map(value),
        even_factor: sizing.even(),
        is_dropless: sizing.own == Own::Dropless,
        formula: format!("C = {round}(factor S{k} / E){}{own}", bounds(sizing)),
    }
}

fn bounds(sizing: &Sizing) -> String {
    let least = if sizing.capacity.min > 0 { format!(", at least {}", sizing.capacity.min) } else { String::new() };
    let multiple = sizing.capacity.multiple_of;
    let multiple = if multiple > 1 { format!(", up to a multiple of {multiple}") } else { String::new() };
    least + &multiple
}

fn mode_word(spec: &Spec) -> &'static str {
    match spec.router.mode {
        crate::spec::Mode::TokenChoice => "token_choice",
        crate::spec::Mode::ExpertChoice => "expert_choice",
        crate::spec::Mode::Soft(_) => "soft",
        crate::spec::Mode::Hash => "hash",
    }
}

/// What effects are measured against.
struct Measure<'m> {
    pairs: u64,
    tokens: u64,
    sizing: &'m Sizing,
    seen: &'m Seen,
}

impl Measure<'_> {
    fn effect(&self, rule: Rule) -> Effect {
        self.seen.counts.effect(self.sizing.experts, |span| rule.capacity(self.sizing, span))
    }

    fn point(&self, factor: Ratio) -> Point {
        let effect = self.seen.counts.effect(self.sizing.experts, |span| Some(self.sizing.at(factor, span)));
        Point {
            factor: value(factor),
            capacity: effect.capacity,
            drop_rate: share(effect.dropped_pairs, self.pairs),
            token_drop_rate: share(effect.dropped_tokens, self.tokens),
            waste: empty(self.pairs - effect.dropped_pairs, effect.buffer_rows),
            is_spec: false,
            is_recommended: false,
        }
    }
}

/// Where an expert counts as hot: above what the spec has room for, in means.
fn hot_above(measure: &Measure<'_>, own: &Effect) -> f64 {
    match (measure.sizing.own_factor(), measure.sizing.own) {
        (Some(factor), _) => value(factor) / measure.sizing.even() as f64,
        (None, Own::Size) if measure.pairs > 0 => own.buffer_rows as f64 / measure.pairs as f64,
        (None, Own::Size | Own::Factor | Own::Dropless) => moec_runtime::health::USUAL_CAPACITY_FACTOR,
    }
}

fn spread<T>(load: &[f64], hot_above: f64, per_expert: Vec<T>) -> Spread<T> {
    let health = Health::of(load, hot_above);
    Spread {
        mean: short(health.mean),
        limit: short(health.mean * hot_above),
        variance: short(health.variance),
        spread: short(health.spread()),
        largest: short(health.largest),
        entropy_share: short(entropy_share(load)),
        hot_above: short(hot_above),
        hot: health.hot,
        cold: health.cold,
        per_expert,
    }
}

/// From a quarter to four times the mean load and on to the recommended factor, with the spec's own.
fn sweep(measure: &Measure<'_>, recommended: u64) -> Vec<Point> {
    const STEPS: std::ops::RangeInclusive<u64> = 5..=80;
    let own = measure.sizing.own_factor();
    let mut factors: Vec<Ratio> = STEPS.map(|step| hundredths(5 * step * measure.sizing.even())).collect();
    const BEYOND: u64 = 16;
    let last = 400 * measure.sizing.even();
    let beyond = recommended.saturating_sub(last);
    factors.extend((0..=BEYOND).filter(|_| beyond > 0).map(|step| hundredths(last + beyond * step / BEYOND)));
    factors.push(hundredths(recommended));
    factors.extend(own);
    let is_same = |a: Ratio, b: Ratio| {
        u128::from(a.numerator) * u128::from(b.denominator) == u128::from(b.numerator) * u128::from(a.denominator)
    };
    factors.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
    factors.dedup_by(|a, b| is_same(*a, *b));
    let point = |factor: Ratio| Point {
        is_spec: own.is_some_and(|own| is_same(own, factor)),
        is_recommended: is_same(factor, hundredths(recommended)),
        ..measure.point(factor)
    };
    factors.into_iter().map(point).collect()
}

fn modes(spec: &Spec, measure: &Measure<'_>) -> Vec<Mode> {
    let (seen, sizing) = (measure.seen, measure.sizing);
    let mut modes: Vec<Mode> = Vec::new();
    let is_own_mean = |n: u64| {
        let even = u128::from(sizing.even());
        sizing
            .own_factor()
            .is_some_and(|own| u128::from(own.numerator) * 100 == u128::from(n) * even * u128::from(own.denominator))
    };
    for kept in &seen.kept {
        // The spec's own capacity is told once.
        match kept.rule {
            Rule::Mean(n) if is_own_mean(n) => {}
            Rule::Dropless | Rule::Spec | Rule::Mean(_) => {
                modes.push(token_choice(kept, measure, !experts_choose(spec)));
            }
        }
    }
    // Dropless, then by what there is room for.
    modes.sort_by_key(|mode| mode.capacity);
    let choice = &seen.choice;
    let slots_effect = measure.effect(if sizing.own == Own::Dropless { Rule::Mean(100) } else { Rule::Spec });
    let cost = short(choice.rows as f64 / (measure.pairs.max(1)) as f64);
    let chosen = Mode {
        kind: "expert_choice",
        factor: None,
        is_spec: experts_choose(spec),
        capacity: slots_effect.capacity,
        drop_rate: None,
        band: None,
        token_drop_rate: share(choice.unchosen, measure.tokens),
        waste: 0.0,
        busiest: 1.0,
        rows: choice.rows,
        cost,
        padded_cost: cost,
        mixing: None,
    };
    let expert = spec.expert;
    let of_experts = choice.rows as f64 * (if expert.activation.gated { 3.0 } else { 2.0 }) * expert.ffn as f64;
    let soft = Mode {
        kind: "soft",
        is_spec: matches!(spec.router.mode, crate::spec::Mode::Soft(_)),
        token_drop_rate: 0.0,
        mixing: Some(if of_experts > 0.0 { short(seen.mixed as f64 / of_experts) } else { 0.0 }),
        ..chosen.clone()
    };
    modes.push(chosen);
    modes.push(soft);
    modes
}

fn token_choice(kept: &Kept, measure: &Measure<'_>, tokens_choose: bool) -> Mode {
    let Measure { pairs, tokens, sizing, seen } = measure;
    let effect = measure.effect(kept.rule);
    let rows = pairs - effect.dropped_pairs;
    let (kind, factor, padded) = match kept.rule {
        Rule::Dropless => ("dropless", None, u128::from(kept.tile_rows)),
        Rule::Spec => ("capacity", sizing.own_factor().map(value), effect.buffer_rows),
        Rule::Mean(n) => ("capacity", Some(value(hundredths(n * sizing.even()))), effect.buffer_rows),
    };
    Mode {
        kind,
        factor,
        is_spec: tokens_choose && (kept.rule == Rule::Spec || (kept.rule == Rule::Dropless && sizing.own == Own::Dropless)),
        capacity: effect.capacity,
        drop_rate: Some(share(effect.dropped_pairs, *pairs)),
        band: Some(Band::of(effect.dropped_pairs, *pairs)),
        token_drop_rate: share(effect.dropped_tokens, *tokens),
        waste: empty(rows, padded),
        busiest: short(kept.busiest as f64 * seen.load.len() as f64 / rows.max(1) as f64),
        rows,
        cost: share(rows, *pairs),
        padded_cost: short(padded as f64 / (*pairs).max(1) as f64),
        mixing: None,
    }
}

fn over_batches(seen: &Seen) -> Vec<Stretch> {
    const LEADERS: usize = 3;
    let mut order: Vec<usize> = (0..seen.load.len()).collect();
    order.sort_by(|a, b| seen.load[*b].cmp(&seen.load[*a]).then(a.cmp(b)));
    let mut first = 0;
    let stretch = |interval: &Interval| {
        let pairs: u64 = interval.load.iter().sum();
        let mean = pairs as f64 / interval.load.len().max(1) as f64;
        let relative = |load: u64| if mean > 0.0 { short(load as f64 / mean) } else { 0.0 };
        let mut sorted = interval.load.clone();
        sorted.sort_unstable();
        let at = |tenths: usize| relative(sorted.get((sorted.len().max(1) - 1) * tenths / 10).copied().unwrap_or(0));
        let stretch = Stretch {
            first,
            batches: interval.batches,
            tokens: interval.tokens,
            drop_rate: share(interval.dropped, pairs),
            quantiles: [at(0), at(1), at(5), at(9), at(10)],
            // The first of equals.
            hottest: (0..interval.load.len()).rev().max_by_key(|e| interval.load[*e]).unwrap_or(0),
            leaders: order.iter().take(LEADERS).map(|expert| relative(interval.load[*expert])).collect(),
        };
        first += interval.batches;
        stretch
    };
    seen.intervals.iter().map(stretch).collect()
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { short(part as f64 / whole as f64) }
}

/// The share of rows that are padding.
fn empty(rows: u64, of: u128) -> f64 {
    if of == 0 { 0.0 } else { short(1.0 - rows as f64 / of as f64) }
}

/// Six significant digits: what is printed does not depend on how sums were rounded.
fn short(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}
