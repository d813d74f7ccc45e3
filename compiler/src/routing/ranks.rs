//! The place of each pair in the queue of its expert, in the order in which a capacity serves them. A pair is dropped by a
//! capacity C where its rank is C or more, so ranks that are known once say what every C would drop.

use moec_ir::graph::{Priority, serve};

use super::select::Picked;

/// What one span says about every capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranks {
    /// Pairs of each expert.
    pub(super) loads: Vec<u32>,
    /// For each token, the smallest rank among its picks: it loses all of them by a capacity up to that. `None`: a pick of it
    /// needs no room, so that no capacity does.
    pub(super) smallest: Vec<Option<u32>>,
}

/// Ranks the pairs of one span with the first `experts`; a pick beyond them needs no room. Weights are there where the priority
/// asks for them.
pub(super) fn rank(picked: &Picked, top_k: usize, experts: usize, priority: Priority, ranks: &mut Ranks) {
    let tokens = picked.experts.len() / top_k;
    ranks.loads.clear();
    ranks.loads.resize(experts, 0);
    ranks.smallest.clear();
    ranks.smallest.resize(tokens, Some(u32::MAX));
    let Ranks { loads, smallest } = ranks;
    let ranked = match priority {
        Priority::ChoiceMajor | Priority::TokenMajor => Vec::new(),
        Priority::BatchPrioritized => descending(picked.best.iter()),
        Priority::Score => descending(picked.weights.iter()),
    };
    let ranked = ranked.iter().map(|at| *at as usize);
    serve(priority, tokens, top_k, ranked, |token, choice| {
        match loads.get_mut(usize::from(picked.experts[token * top_k + choice])) {
            Some(load) => {
                smallest[token] = smallest[token].map(|rank| rank.min(*load));
                *load += 1;
            }
            None => smallest[token] = None,
        }
    });
}

/// Positions from the largest weight to the least, ties to the earlier; a NaN is minus infinity.
fn descending<'w>(weights: impl Iterator<Item = &'w f32>) -> Vec<u32> {
    // Large weights become small numbers. Plus zero: both zeros are one.
    let key = |weight: f32| {
        let bits = if weight.is_nan() { f32::NEG_INFINITY.to_bits() } else { (weight + 0.0).to_bits() };
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(!ascending)
    };
    let mut order: Vec<u64> = weights.enumerate().map(|(at, weight)| key(*weight) << 32 | at as u64).collect();
    order.sort_unstable();
    order.into_iter().map(|key| key as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tokens of two picks; expert 0 is wanted by all.
    #[test]
    fn ranks_by_hand() {
        let weights = vec![0.6, 0.4, 0.9, 0.1, 0.7, 0.3];
        let picked = Picked { experts: vec![0, 1, 1, 0, 0, 2], weights, best: vec![0.06, 0.09, 0.07] };
        let smallest = |priority| {
            let mut ranks = Ranks::default();
            rank(&picked, 2, 3, priority, &mut ranks);
            assert_eq!(ranks.loads, [3, 2, 1]);
            ranks.smallest.into_iter().map(Option::unwrap).collect::<Vec<u32>>()
        };
        // First choices: 0 of token 0, 1 of token 1, 0 of token 2 at rank 1; then 1 of token 0 at rank 1, 0 of token 1 at
        // rank 2, 2 of token 2 at rank 0.
        assert_eq!(smallest(Priority::ChoiceMajor), [0, 0, 0]);
        // Token 1 finds one before it at expert 1 and one at expert 0.
        assert_eq!(smallest(Priority::TokenMajor), [0, 1, 0]);
        // Token 1, token 2, token 0: 1 and 0 are first, then 0 is taken by one, then 0 of token 1, 2, 1.
        assert_eq!(smallest(Priority::BatchPrioritized), [1, 0, 0]);
        // By what was best, the weights apart: token 0 comes first.
        let best = Picked { best: vec![0.9, 0.1, 0.5], ..picked.clone() };
        let mut ranks = Ranks::default();
        rank(&best, 2, 3, Priority::BatchPrioritized, &mut ranks);
        assert_eq!(ranks.smallest, [0, 0, 0].map(Some));
        // 0.9 (expert 1), 0.7 (0), 0.6 (0, rank 1), 0.4 (1, rank 1), 0.3 (2), 0.1 (0, rank 2).
        assert_eq!(smallest(Priority::Score), [1, 0, 0]);
    }

    /// Picks beyond the two experts need no room, whether they come first or last.
    #[test]
    fn a_pick_without_rows_is_never_lost() {
        let weights = vec![0.6, 0.4, 0.9, 0.1, 0.7, 0.3];
        let picked = Picked { experts: vec![2, 0, 0, 3, 0, 1], weights, best: vec![0.06, 0.09, 0.07] };
        for priority in [Priority::ChoiceMajor, Priority::TokenMajor, Priority::BatchPrioritized, Priority::Score] {
            let mut ranks = Ranks::default();
            rank(&picked, 2, 2, priority, &mut ranks);
            assert_eq!((&ranks.loads[..], &ranks.smallest[..]), (&[3, 1][..], &[None, None, Some(0)][..]), "{priority:?}");
        }
    }

    #[test]
    fn order_of_weights() {
        let weights = [f32::NAN, -1.0, 0.0, -0.0, f32::INFINITY, 1e-40, -1.0];
        assert_eq!(descending(weights.iter()), [4, 5, 2, 3, 1, 6, 0]);
        assert_eq!(descending([f32::NAN, f32::NEG_INFINITY].iter()), [0, 1]);
    }
}
