//! What every capacity would drop and waste, from counts that one pass has made: loads and smallest ranks of all spans of
//! one length stand for all of them. Nothing is routed again.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::ranks::Ranks;
use crate::spec::{Capacity, CapacityGroup, CapacitySize, Dropped, Pad, Priority, Ratio, Round, Spec};

/// How the capacity of an expert follows from a factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizing {
    pub(super) capacity: Capacity,
    /// Whether the spec has a capacity, and whether it is given by a factor.
    pub(super) own: Own,
    pub(super) top_k: u64,
    pub(super) experts: u64,
}

/// What a spec says about its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Dropless,
    Factor,
    /// Tokens, or a fraction of them.
    Size,
}

impl Sizing {
    /// The spec's own formula where it has a factor. Else `ceil(factor * S * K / E)`, with the spec's minimum and multiple.
    pub(super) fn of(spec: &Spec) -> Sizing {
        const DROPLESS: Capacity = Capacity {
            size: CapacitySize::Factor { factor: Ratio { numerator: 1, denominator: 1 }, count_k: true, round: Round::Ceil },
            min: 0,
            multiple_of: 1,
            group: CapacityGroup::All,
            priority: Priority::ChoiceMajor,
            renorm_after_drop: false,
            dropped: Dropped::Zero,
            pad: Pad::None,
        };
        let own = match spec.capacity.map(|capacity| capacity.size) {
            None => Own::Dropless,
            Some(CapacitySize::Factor { .. }) => Own::Factor,
            Some(CapacitySize::Tokens(_) | CapacitySize::Fraction { .. }) => Own::Size,
        };
        let capacity = spec.capacity.unwrap_or(DROPLESS);
        Sizing { capacity, own, top_k: spec.router.top_k, experts: spec.experts }
    }

    /// The factor at which the mean load just fits: K where the formula does not count it.
    pub(super) fn even(&self) -> u64 {
        match self.capacity.size {
            CapacitySize::Factor { count_k: false, .. } => self.top_k,
            CapacitySize::Factor { count_k: true, .. } | CapacitySize::Tokens(_) | CapacitySize::Fraction { .. } => 1,
        }
    }

    /// The spec's own factor.
    pub(super) fn own_factor(&self) -> Option<Ratio> {
        match self.capacity.size {
            CapacitySize::Factor { factor, .. } if self.own == Own::Factor => Some(factor),
            CapacitySize::Factor { .. } | CapacitySize::Tokens(_) | CapacitySize::Fraction { .. } => None,
        }
    }

    /// C of a span of that many tokens by the spec; `None`: it drops nothing.
    pub(super) fn own(&self, span: u64) -> Option<u64> {
        (self.own != Own::Dropless).then(|| self.capacity.tokens_per_expert(span, self.top_k, self.experts))
    }

    /// C of a span of that many tokens, had the spec this factor.
    pub(super) fn at(&self, factor: Ratio, span: u64) -> u64 {
        let size = match self.capacity.size {
            CapacitySize::Factor { count_k, round, .. } => CapacitySize::Factor { factor, count_k, round },
            CapacitySize::Tokens(_) | CapacitySize::Fraction { .. } => {
                CapacitySize::Factor { factor, count_k: true, round: Round::Ceil }
            }
        };
        Capacity { size, ..self.capacity }.tokens_per_expert(span, self.top_k, self.experts)
    }
}

/// A factor in hundredths.
pub(super) fn hundredths(n: u64) -> Ratio {
    Ratio { numerator: n, denominator: 100 }
}

pub(super) fn value(factor: Ratio) -> f64 {
    factor.numerator as f64 / factor.denominator as f64
}

/// All spans of one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans {
    spans: u64,
    /// Spans by their tokens and their pairs.
    spans_by_size: BTreeMap<(u64, u64), u64>,
    /// Experts by their load: `experts_by_load[l]` have `l` pairs in some span.
    experts_by_load: Vec<u64>,
    /// Tokens by their smallest rank, but for those that no capacity drops.
    tokens_by_rank: Vec<u64>,
}

/// All spans of a trace by their length, as far as capacities depend on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    by_length: BTreeMap<u64, Spans>,
}

/// What one rule for C does to the whole trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Pairs that no expert has room for.
    pub(super) dropped_pairs: u64,
    /// Pairs that any router would lose: of each span those beyond the room of all experts together, `S K - C E`.
    pub(super) least_pairs: u64,
    /// Tokens that would be left out if experts chose, whatever the router: `S - C E`.
    pub(super) least_unchosen: u64,
    /// Tokens that lose all their picks.
    pub(super) dropped_tokens: u64,
    /// Rows of buffers that hold C rows an expert and span.
    pub(super) buffer_rows: u128,
    /// The least and the largest C.
    pub(super) capacity: Option<(u64, u64)>,
}

impl Counts {
    /// Adds a span. `length` is what its capacity is computed from: the last run of a batch may have fewer tokens.
    pub(super) fn add(&mut self, length: u64, tokens: u64, ranks: &Ranks) {
        let spans = self.by_length.entry(length).or_default();
        let pairs = ranks.loads.iter().map(|load| u64::from(*load)).sum();
        spans.spans += 1;
        *spans.spans_by_size.entry((tokens, pairs)).or_default() += 1;
        ranks.loads.iter().for_each(|load| count(&mut spans.experts_by_load, *load));
        ranks.smallest.iter().flatten().for_each(|rank| count(&mut spans.tokens_by_rank, *rank));
    }

    pub(super) fn spans(&self) -> u64 {
        self.by_length.values().map(|spans| spans.spans).sum()
    }

    /// The effect of a capacity that is `capacity(length)`; `None` drops nothing.
    pub(super) fn effect(&self, experts: u64, capacity: impl Fn(u64) -> Option<u64>) -> Effect {
        let mut effect = Effect::default();
        for (length, spans) in &self.by_length {
            let Some(c) = capacity(*length) else { continue };
            let above = |counts: &[u64]| {
                counts
                    .iter()
                    .enumerate()
                    .skip(usize::try_from(c).unwrap_or(usize::MAX))
                    .fold((0, 0), |(number, excess), (value, count)| (number + count, excess + count * (value as u64 - c)))
            };
            let room = c.saturating_mul(experts);
            for ((tokens, pairs), number) in &spans.spans_by_size {
                effect.least_pairs += number * pairs.saturating_sub(room);
                effect.least_unchosen += number * tokens.saturating_sub(room);
            }
            effect.dropped_pairs += above(&spans.experts_by_load).1;
            effect.dropped_tokens += above(&spans.tokens_by_rank).0;
            effect.buffer_rows += u128::from(experts) * u128::from(c) * u128::from(spans.spans);
            effect.capacity = Some(effect.capacity.map_or((c, c), |(least, most)| (least.min(c), most.max(c))));
        }
        effect
    }

    /// The least factor in hundredths that drops at most this share of the pairs.
    pub(super) fn least_factor(&self, sizing: &Sizing, pairs: u64, target: Ratio) -> u64 {
        self.least(sizing, |effect| {
            u128::from(effect.dropped_pairs) * u128::from(target.denominator) <= u128::from(pairs) * u128::from(target.numerator)
        })
    }

    /// The least factor in hundredths at which there is room for as many pairs as there are.
    pub(super) fn least_roomy(&self, sizing: &Sizing) -> u64 {
        self.least(sizing, |effect| effect.least_pairs == 0)
    }

    fn least(&self, sizing: &Sizing, is_enough: impl Fn(&Effect) -> bool) -> u64 {
        let is_enough = |n: u64| is_enough(&self.effect(sizing.experts, |length| Some(sizing.at(hundredths(n), length))));
        // E experts of S tokens each are room for all.
        let mut enough = 1;
        while !is_enough(enough) {
            enough *= 2;
        }
        let mut short = enough / 2;
        while enough - short > 1 {
            let middle = short + (enough - short) / 2;
            if is_enough(middle) { enough = middle } else { short = middle }
        }
        enough
    }
}

fn count(counts: &mut Vec<u64>, value: u32) {
    let value = value as usize;
    if counts.len() <= value {
        counts.resize(value + 1, 0);
    }
    counts[value] += 1;
}

/// How much a drop rate matters: of what is dropped beyond what any router would drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// Below 1 %.
    Negligible,
    /// From 1 % to below 5 %.
    Measurable,
    /// From 5 % to 15 %.
    Significant,
    /// Above 15 %.
    Collapse,
}

impl Band {
    /// The band of a drop rate, exactly.
    pub(super) fn of(dropped: u64, pairs: u64) -> Band {
        let (dropped, pairs) = (u128::from(dropped) * 100, u128::from(pairs));
        match dropped {
            _ if dropped < pairs || pairs == 0 => Band::Negligible,
            _ if dropped < 5 * pairs => Band::Measurable,
            _ if dropped <= 15 * pairs => Band::Significant,
            _ => Band::Collapse,
        }
    }

    /// Its name and its limits.
    pub fn title(self) -> &'static str {
        match self {
            Band::Negligible => "negligible (below 1%)",
            Band::Measurable => "measurable (1 to 5%)",
            Band::Significant => "significant (5 to 15%)",
            Band::Collapse => "router collapse (above 15%)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_at_their_edges() {
        let band = |dropped| Band::of(dropped, 1000);
        assert_eq!([0, 9].map(band), [Band::Negligible; 2]);
        assert_eq!([10, 49].map(band), [Band::Measurable; 2]);
        assert_eq!([50, 150].map(band), [Band::Significant; 2]);
        assert_eq!([151, 1000].map(band), [Band::Collapse; 2]);
        assert_eq!(Band::of(0, 0), Band::Negligible);
    }

    /// Loads 4, 1, 1 of six tokens with one pick: C = 2 drops two of them, whole.
    #[test]
    fn an_effect_by_hand() {
        let mut counts = Counts::default();
        counts.add(6, 6, &Ranks { loads: vec![4, 1, 1], smallest: [0, 1, 0, 2, 3, 0].map(Some).to_vec() });
        let expected =
            Effect { dropped_pairs: 2, dropped_tokens: 2, buffer_rows: 6, capacity: Some((2, 2)), ..Effect::default() };
        assert_eq!(counts.effect(3, |_| Some(2)), expected);
        // C = 1 has room for three of six, whatever the router.
        let one = counts.effect(3, |_| Some(1));
        assert_eq!((one.dropped_pairs, one.least_pairs, one.least_unchosen), (3, 3, 3));
        assert_eq!(counts.effect(3, |_| None), Effect::default());
        // A token that needs no room is lost by no capacity.
        counts.add(1, 1, &Ranks { loads: vec![0; 3], smallest: vec![None] });
        assert_eq!(counts.effect(3, |_| Some(0)).dropped_tokens, 6);
        assert_eq!(counts.effect(3, |_| Some(u64::MAX)).dropped_pairs, 0);
    }
}
