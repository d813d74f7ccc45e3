//! Which graph serves which batches.
//!
//! The e-graph holds the graphs for all of them; what is cheapest depends on T. It is asked at the powers of two, at the largest
//! batch and at the expected ones. Between two neighbours of these that want different graphs lies a crossover, which the model
//! gives exactly. Each regime adds kernels to a package, so that neighbours are merged where one graph costs hardly more than two.

use super::{Batches, Cost, Grown, graph_cost};
use crate::graph::{Regime, Typed};

/// Most regimes of a layer.
const MOST_REGIMES: usize = 4;
/// What one graph in the place of two may cost more at any batch size, in thousandths.
const MOST_LOSS: u128 = 10;

/// What [`regimes()`] found.
pub(super) struct Found {
    pub(super) regimes: Vec<Regime<Typed>>,
    /// Whether every search ended by itself.
    pub(super) exact: bool,
}

/// The graphs for these batches, by rising T; the last one has no bound.
pub(super) fn regimes(grown: &Grown, batches: &Batches) -> Found {
    if batches.together {
        let (graph, exact) = grown.best(&batches.expected);
        return Found { regimes: vec![Regime { tokens_up_to: None, graph }], exact };
    }
    let points = points(batches);
    let mut graphs: Vec<Typed> = Vec::new();
    let mut exact = true;
    for tokens in &points {
        let (graph, ended) = grown.best(&[*tokens]);
        exact &= ended;
        if !graphs.iter().any(|known| known.graph() == graph.graph()) {
            graphs.push(graph);
        }
    }
    let cost = |graph: usize, tokens: u64| graph_cost(&graphs[graph], grown.machine, &[tokens]);
    let costs: Vec<Vec<Cost>> =
        points.iter().map(|tokens| (0..graphs.len()).map(|graph| cost(graph, *tokens)).collect()).collect();
    let ranges = ranges(&costs);
    let bound = |pair: &[Range]| {
        let [here, next] = [pair[0], pair[1]];
        last_before(points[here.last], points[next.first], |tokens| cost(next.graph, tokens) < cost(here.graph, tokens))
    };
    let bounds = ranges.windows(2).map(|pair| Some(bound(pair))).chain([None]);
    let regimes =
        ranges.iter().zip(bounds).map(|(range, tokens_up_to)| Regime { tokens_up_to, graph: graphs[range.graph].clone() });
    Found { regimes: regimes.collect(), exact }
}

/// The batch sizes at which graphs are compared, ascending.
fn points(batches: &Batches) -> Vec<u64> {
    let most = batches.most.max(1);
    let powers = (0..u64::BITS).map(|bits| 1 << bits).take_while(|tokens| *tokens < most);
    let mut points: Vec<u64> =
        powers.chain(batches.expected.iter().copied().filter(|tokens| (1..most).contains(tokens))).collect();
    points.push(most);
    points.sort_unstable();
    points.dedup();
    points
}

/// Points that one graph serves, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: usize,
    last: usize,
    graph: usize,
}

/// The ranges of points, given what each graph costs at each point.
fn ranges(costs: &[Vec<Cost>]) -> Vec<Range> {
    let mut ranges: Vec<Range> = (0..costs.len()).map(|point| best_of(costs, point, point).0).collect();
    loop {
        let merged = ranges.windows(2).enumerate().map(|(i, pair)| {
            let (range, loss) = best_of(costs, pair[0].first, pair[1].last);
            (loss, i, range)
        });
        // Of equal losses the first, so that the result is one.
        let Some((loss, i, range)) = merged.min_by_key(|(loss, i, _)| (*loss, *i)) else { return ranges };
        if loss > MOST_LOSS && ranges.len() <= MOST_REGIMES {
            return ranges;
        }
        ranges.splice(i..i + 2, [range]);
    }
}

/// The graph whose largest loss over these points is least, and this loss in thousandths of the best cost.
fn best_of(costs: &[Vec<Cost>], first: usize, last: usize) -> (Range, u128) {
    let loss = |graph: usize| {
        let at = |costs: &Vec<Cost>| {
            let best = u128::from(costs.iter().copied().min().unwrap_or(0)).max(1);
            (u128::from(costs[graph]).saturating_sub(best) * 1000).div_ceil(best)
        };
        let largest = costs[first..=last].iter().map(at).max().unwrap_or(0);
        let sum: u128 = costs[first..=last].iter().map(|costs| u128::from(costs[graph])).sum();
        (largest, sum)
    };
    let graphs = 0..costs.first().map_or(0, Vec::len);
    let ((loss, _), graph) = graphs.map(|graph| (loss(graph), graph)).min().unwrap_or(((0, 0), 0));
    (Range { first, last, graph }, loss)
}

/// The last of `low..high` before `is_past` becomes true, which it is at `high` by agreement, not at `low`.
fn last_before(mut low: u64, mut high: u64, is_past: impl Fn(u64) -> bool) -> u64 {
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if is_past(middle) { high = middle } else { low = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By point, the costs of graphs.
    fn served(costs: &[&[Cost]]) -> Vec<(usize, usize, usize)> {
        let costs: Vec<Vec<Cost>> = costs.iter().map(|of| of.to_vec()).collect();
        ranges(&costs).into_iter().map(|range| (range.first, range.last, range.graph)).collect()
    }

    #[test]
    fn neighbours_are_merged_where_it_costs_at_most_one_in_a_hundred() {
        assert_eq!(served(&[&[100, 200], &[100, 101]]), [(0, 1, 0)]);
        assert_eq!(served(&[&[100, 200], &[102, 100]]), [(0, 0, 0), (1, 1, 1)]);
        // 101 of 100 may be: the first graph serves both.
        assert_eq!(served(&[&[100, 200], &[101, 100]]), [(0, 1, 0)]);
        // A third graph, second at both points, serves them together.
        assert_eq!(served(&[&[1000, 2000, 1005], &[2000, 1000, 1010]]), [(0, 1, 2)]);
    }

    #[test]
    fn at_most_four_are_left_the_cheapest_merged_first() {
        let own = |graph: usize| (0..6).map(|other| if other == graph { 100 } else { 1000 }).collect::<Vec<Cost>>();
        let mut costs: Vec<Vec<Cost>> = (0..6).map(own).collect();
        // The graph of point 3 does nearly for 4, that of point 1 for 0.
        (costs[4][3], costs[0][1]) = (120, 150);
        let ranges = ranges(&costs);
        let served: Vec<_> = ranges.iter().map(|range| (range.first, range.last, range.graph)).collect();
        assert_eq!(served, [(0, 1, 1), (2, 2, 2), (3, 4, 3), (5, 5, 5)]);
    }

    #[test]
    fn crossovers_are_exact() {
        assert_eq!(last_before(64, 128, |tokens| tokens >= 100), 99);
        assert_eq!(last_before(64, 128, |_| false), 127);
        assert_eq!(last_before(64, 128, |_| true), 64);
        assert_eq!(last_before(1, 2, |_| true), 1);
    }

    #[test]
    fn powers_of_two_the_largest_and_the_expected() {
        let batches = |expected: &[u64], most| Batches { expected: expected.to_vec(), most, together: false };
        assert_eq!(points(&batches(&[3, 64], 100)), [1, 2, 3, 4, 8, 16, 32, 64, 100]);
        assert_eq!(points(&batches(&[1], 1)), [1]);
        assert_eq!(points(&batches(&[], u64::MAX)).len(), 65);
    }
}
