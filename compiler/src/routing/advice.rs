//! What to do about what was counted. What any router would drop is the capacity's fault; the router is judged by the rest.

use super::measure::{Measure, empty, experts_choose, share, short};
use super::observe::Rule;
use super::report::{Cause, Drop, Recommendation, Spread, Take};
use super::sweep::{Band, Effect, Own, hundredths, value};
use super::text::{capacity_text, factor_text, percent};
use crate::spec::{Capacity, CapacitySize, Ratio, Spec};

/// Where an expert counts as hot, in means: above what the spec has room for. Where that is less than the mean an even router
/// would have hot experts alone, so that the usual factor is taken.
pub(super) fn hot_above(measure: &Measure<'_>) -> f64 {
    let own = measure.effect(Rule::Spec);
    let room = match (measure.sizing.own_factor(), measure.sizing.own) {
        (Some(factor), _) => Some(value(factor) / measure.sizing.even() as f64),
        (None, Own::Size) if measure.pairs > 0 => Some(own.buffer_rows as f64 / measure.pairs as f64),
        (None, Own::Size | Own::Factor | Own::Dropless) => None,
    };
    room.filter(|room| *room >= 1.0).unwrap_or(moec_runtime::health::USUAL_CAPACITY_FACTOR)
}

/// What the spec's own capacity does, why, and what to do about it.
pub(super) fn drop(spec: &Spec, measure: &Measure<'_>, recommendation: Option<&Recommendation>) -> Drop {
    let own = measure.effect(Rule::Spec);
    let seen = measure.seen;
    let (dropped, least, of, tokens) = match experts_choose(spec) {
        // A token that no expert chose is what a dropped pair is elsewhere. What spans that were cut leave out may be less.
        true => (seen.choice.unchosen, own.least_unchosen.min(seen.choice.unchosen), measure.tokens, seen.choice.unchosen),
        false => (own.dropped_pairs, own.least_pairs, measure.pairs, own.dropped_tokens),
    };
    let band = Band::of(dropped - least, of);
    let cause = match (Band::of(dropped, of), Band::of(least, of), band) {
        (Band::Negligible, _, _) => Cause::Nothing,
        (_, Band::Negligible, Band::Negligible) if least < dropped - least => Cause::Router,
        (_, _, Band::Negligible) => Cause::Capacity,
        (_, Band::Negligible, _) => Cause::Router,
        (_, _, _) => Cause::Both,
    };
    let raise = recommendation.filter(|recommendation| recommendation.take == Take::Factor);
    let router = match (band, experts_choose(spec), raise) {
        // Experts that choose are balanced, whatever the router does.
        (_, true, _) => "raise the capacity factor".to_string(),
        (Band::Negligible | Band::Measurable, false, Some(recommendation)) => {
            format!("raise the capacity factor to {}", factor_text(recommendation.factor))
        }
        (Band::Negligible | Band::Measurable, false, None) => "take dropless routing".to_string(),
        (Band::Significant, false, _) => "add or tune a balance loss".to_string(),
        (Band::Collapse, false, _) => "switch the routing strategy".to_string(),
    };
    let advice = match cause {
        Cause::Nothing => "nothing to change".to_string(),
        Cause::Capacity => capacity(spec, measure, &own),
        Cause::Router => router,
        Cause::Both => {
            let rest = percent(share(dropped - least, of));
            format!("{}; for the {rest} beyond that, {router}", capacity(spec, measure, &own))
        }
    };
    Drop {
        capacity: own.capacity,
        dropped,
        rate: share(dropped, of),
        least,
        least_rate: share(least, of),
        dropped_tokens: tokens,
        token_rate: share(tokens, if experts_choose(spec) { of } else { measure.tokens }),
        band,
        cause,
        advice,
    }
}

/// That there is too little room for any router, and what would be enough.
fn capacity(spec: &Spec, measure: &Measure<'_>, own: &Effect) -> String {
    let (sizing, seen) = (measure.sizing, measure.seen);
    let spans = seen.counts.spans().max(1) as f64;
    let c = own.capacity.map_or("0".to_string(), capacity_text);
    if experts_choose(spec) {
        let tokens = measure.tokens as f64 / spans;
        return format!(
            "raise the capacity: {} experts of C = {c} choose {} of {tokens:.0} tokens at most",
            sizing.experts,
            (own.buffer_rows as f64 / spans).round(),
        );
    }
    let roomy = hundredths(seen.counts.least_roomy(sizing));
    let even = measure.pairs as f64 / (spans * sizing.experts as f64);
    let even = if even.fract() == 0.0 { format!("{even:.0}") } else { format!("{even:.1}") };
    let enough = match (sizing.capacity.size, sizing.own) {
        (CapacitySize::Factor { factor, count_k: false, round }, _) if sizing.top_k > 1 => {
            let size = CapacitySize::Factor { factor, count_k: true, round };
            let counting = Capacity { size, ..sizing.capacity };
            let with_k =
                seen.counts.effect(sizing.experts, |span| Some(counting.tokens_per_expert(span, sizing.top_k, sizing.experts)));
            let with_k = with_k.capacity.map_or("0".to_string(), capacity_text);
            let factor = factor_text(value(factor));
            format!("factor {} is room for all, and {factor} with `count_k = true` gives C = {with_k}", factor_text(value(roomy)))
        }
        (_, Own::Size) => {
            let c = measure.at(roomy).capacity.map_or("0".to_string(), capacity_text);
            format!("C = {c} is room for all")
        }
        (_, Own::Factor | Own::Dropless) => format!("factor {} is room for all", factor_text(value(roomy))),
    };
    format!("raise the capacity: C = {c}, but S K / E = {even} pairs an expert with any router; {enough}")
}

/// The least factor in hundredths that drops at most the target, beside what dropless routing costs.
pub(super) fn recommendation(measure: &Measure<'_>, enough: u64, target: Ratio, load: &Spread<u64>) -> Recommendation {
    const MOST: usize = 3;
    let factor = hundredths(enough);
    let effect = measure.at(factor);
    let dropless = measure.seen.kept.iter().find(|kept| kept.rule == Rule::Dropless).map_or(0, |kept| kept.tile_rows);
    let cost = |rows: u128| short(rows as f64 / measure.pairs.max(1) as f64);
    let (padded_cost, dropless_padded_cost) = (cost(effect.buffer_rows), cost(u128::from(dropless)));
    let take = if u128::from(dropless) <= effect.buffer_rows { Take::Dropless } else { Take::Factor };
    let balance: Vec<usize> = load.hot.iter().take(MOST).map(|hot| hot.expert).collect();
    let name = factor_text(value(factor));
    let pads = format!("dropless pads {dropless_padded_cost:.2}x, factor {name} pads {padded_cost:.2}x");
    let text = match take {
        Take::Dropless if balance.is_empty() => format!("{pads}: take dropless"),
        Take::Dropless => {
            let experts: Vec<String> = balance.iter().map(usize::to_string).collect();
            let experts = format!("expert{} {}", if experts.len() == 1 { "" } else { "s" }, experts.join(", "));
            format!("{pads}: take dropless, or balance {experts}")
        }
        Take::Factor => format!("{pads}: take factor {name}"),
    };
    Recommendation {
        target: value(target),
        factor: value(factor),
        capacity: effect.capacity,
        rate: share(effect.dropped_pairs, measure.pairs),
        waste: empty(measure.pairs - effect.dropped_pairs, effect.buffer_rows),
        padded_cost,
        dropless_padded_cost,
        take,
        balance,
        text,
    }
}
