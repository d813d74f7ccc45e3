//! What was counted, as a report.

use moec_runtime::{Health, entropy_share};

use super::advice::{drop, hot_above, recommendation};
use super::observe::{Interval, Kept, Observer, Rule, Seen};
use super::placement::placement;
use super::report::{ExpertShare, Mode, Point, Report, Router, Spread, Stretch, TraceFacts, VERSION};
use super::sweep::{Band, Effect, Own, Sizing, hundredths, value};
use crate::spec::{CapacityGroup, CapacitySize, Ratio, Spec, Word};

/// What is known of the trace besides the counts.
pub(super) struct Read<'r> {
    pub(super) source: &'static str,
    pub(super) layer: Option<String>,
    pub(super) files: usize,
    /// By their names.
    pub(super) tensors: Vec<&'r str>,
    pub(super) skipped_tensors: usize,
    pub(super) rows: u64,
    /// The share of pairs that the recommended capacity may drop.
    pub(super) target: Ratio,
    /// Whether the spec says how wide experts are.
    pub(super) has_experts: bool,
    /// Devices that the experts are to lie on.
    pub(super) ranks: Option<usize>,
}

/// The report of everything that was seen.
pub(super) fn report(spec: &Spec, observer: &Observer<'_>, read: &Read<'_>) -> Report {
    let (seen, sizing) = (&observer.seen, &observer.sizing);
    let pairs = seen.load.iter().sum();
    let measure = Measure { pairs, tokens: seen.tokens, sizing, seen };
    let enough = (pairs > 0).then(|| seen.counts.least_factor(sizing, pairs, read.target));
    let hot_above = hot_above(&measure);
    let load: Vec<f64> = seen.load.iter().map(|load| *load as f64).collect();
    let load = spread(&load, hot_above, seen.load.clone());
    let recommendation = enough.map(|enough| recommendation(&measure, enough, read.target, &load));
    Report {
        version: VERSION,
        layer: spec.name.clone(),
        router: router(spec, sizing),
        trace: TraceFacts {
            source: read.source,
            layer: read.layer.clone(),
            files: read.files,
            tensors: read.tensors.len(),
            skipped_tensors: read.skipped_tensors,
            rows: read.rows,
            left_out: seen.left_out.facts(&read.tensors),
            batches: seen.batches,
            spans: seen.counts.spans(),
            tokens: seen.tokens,
            pairs,
            longest_batch: seen.longest_batch,
            most_choice_tokens: seen.choice.most_tokens,
            cut_spans: seen.cut_spans,
            interpreted_tokens: observer.selector.interpreted,
        },
        drop: drop(spec, &measure, recommendation.as_ref()),
        recommendation,
        load,
        probability: {
            let rounded: Vec<f64> = seen.probability.iter().map(|x| short(*x)).collect();
            spread(&seen.probability, hot_above, rounded)
        },
        sweep: sweep(&measure, enough),
        modes: modes(spec, &measure, read.has_experts),
        over_batches: over_batches(seen, &read.tensors),
        placement: read.ranks.map(|ranks| placement(&seen.load, ranks)),
    }
}

pub(super) fn experts_choose(spec: &Spec) -> bool {
    spec.router.mode == crate::spec::Mode::ExpertChoice
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
            CapacityGroup::Sequence => "sequence".to_string(),
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
pub(super) struct Measure<'m> {
    pub(super) pairs: u64,
    pub(super) tokens: u64,
    pub(super) sizing: &'m Sizing,
    pub(super) seen: &'m Seen,
}

impl Measure<'_> {
    pub(super) fn effect(&self, rule: Rule) -> Effect {
        self.seen.counts.effect(self.sizing.experts, |span| rule.capacity(self.sizing, span))
    }

    /// The effect of the spec's formula with another factor.
    pub(super) fn at(&self, factor: Ratio) -> Effect {
        self.seen.counts.effect(self.sizing.experts, |span| Some(self.sizing.at(factor, span)))
    }

    fn point(&self, factor: Ratio) -> Point {
        let effect = self.at(factor);
        Point {
            factor: value(factor),
            capacity: effect.capacity,
            drop_rate: share(effect.dropped_pairs, self.pairs),
            least_drop_rate: share(effect.least_pairs, self.pairs),
            token_drop_rate: share(effect.dropped_tokens, self.tokens),
            waste: empty(self.pairs - effect.dropped_pairs, effect.buffer_rows),
            is_spec: false,
            is_recommended: false,
        }
    }
}

fn spread<T>(load: &[f64], hot_above: f64, per_expert: Vec<T>) -> Spread<T> {
    let health = Health::of(load, hot_above);
    let total: f64 = load.iter().sum();
    let of = |expert: &usize| ExpertShare {
        expert: *expert,
        share: short(load[*expert] / total),
        of_mean: short(load[*expert] / health.mean),
    };
    let mut hot = health.hot.clone();
    hot.sort_by(|a, b| load[*b].total_cmp(&load[*a]).then(a.cmp(b)));
    let (dead, mut cold): (Vec<usize>, Vec<usize>) = health.cold.iter().copied().partition(|expert| load[*expert] == 0.0);
    cold.sort_by(|a, b| load[*a].total_cmp(&load[*b]).then(a.cmp(b)));
    Spread {
        mean: short(health.mean),
        limit: short(health.mean * hot_above),
        variance: short(health.variance),
        spread: short(health.spread()),
        largest: short(health.largest),
        entropy_share: short(entropy_share(load)),
        hot_above: short(hot_above),
        hot: hot.iter().map(of).collect(),
        cold: cold.iter().map(of).collect(),
        dead,
        per_expert,
    }
}

/// From a quarter to four times the mean load and on to the recommended factor, if there is one, with the spec's own.
fn sweep(measure: &Measure<'_>, recommended: Option<u64>) -> Vec<Point> {
    const STEPS: std::ops::RangeInclusive<u64> = 5..=80;
    let own = measure.sizing.own_factor();
    let mut factors: Vec<Ratio> = STEPS.map(|step| hundredths(5 * step * measure.sizing.even())).collect();
    const BEYOND: u64 = 16;
    let last = 400 * measure.sizing.even();
    let beyond = recommended.map_or(0, |recommended| recommended.saturating_sub(last));
    let recommended = recommended.map(hundredths);
    factors.extend((0..=BEYOND).filter(|_| beyond > 0).map(|step| hundredths(last + beyond * step / BEYOND)));
    factors.extend(recommended);
    factors.extend(own);
    let is_same = |a: Ratio, b: Ratio| {
        u128::from(a.numerator) * u128::from(b.denominator) == u128::from(b.numerator) * u128::from(a.denominator)
    };
    factors.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
    factors.dedup_by(|a, b| is_same(*a, *b));
    let point = |factor: Ratio| Point {
        is_spec: own.is_some_and(|own| is_same(own, factor)),
        is_recommended: recommended.is_some_and(|recommended| is_same(recommended, factor)),
        ..measure.point(factor)
    };
    factors.into_iter().map(point).collect()
}

fn modes(spec: &Spec, measure: &Measure<'_>, has_experts: bool) -> Vec<Mode> {
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
        least_drop_rate: None,
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
    let of_experts = choice.rows as f64 * (if expert.activation.gated { 3.0 } else { 2.0 }) * expert.intermediate as f64;
    let soft = Mode {
        kind: "soft",
        is_spec: matches!(spec.router.mode, crate::spec::Mode::Soft(_)),
        token_drop_rate: 0.0,
        mixing: has_experts.then(|| if of_experts > 0.0 { short(seen.mixed as f64 / of_experts) } else { 0.0 }),
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
        least_drop_rate: Some(share(effect.least_pairs, *pairs)),
        band: Some(Band::of(effect.dropped_pairs - effect.least_pairs, *pairs)),
        token_drop_rate: share(effect.dropped_tokens, *tokens),
        waste: empty(rows, padded),
        busiest: short(kept.busiest as f64 * seen.load.len() as f64 / rows.max(1) as f64),
        rows,
        cost: share(rows, *pairs),
        padded_cost: short(padded as f64 / (*pairs).max(1) as f64),
        mixing: None,
    }
}

fn over_batches(seen: &Seen, tensors: &[&str]) -> Vec<Stretch> {
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
        let name = |tensor: usize| tensors.get(tensor).map_or(String::new(), |name| name.to_string());
        let stretch = Stretch {
            first,
            tensor: name(interval.tensors.0),
            last_tensor: name(interval.tensors.1),
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

pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { short(part as f64 / whole as f64) }
}

/// The share of rows that are padding.
pub(super) fn empty(rows: u64, of: u128) -> f64 {
    if of == 0 { 0.0 } else { short(1.0 - rows as f64 / of as f64) }
}

/// Six significant digits: what is printed does not depend on how sums were rounded.
pub(super) fn short(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}
