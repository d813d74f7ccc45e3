//! Which meanings are equal, and which of them is cheapest: an e-graph over the graph's own ops, grown by the rules to
//! saturation (bounded by nodes and iterations, never by time), and an exact extraction by a roofline cost.

mod cost;
mod extract;
mod matching;
pub mod rules;
mod tile;
mod typing;

pub use cost::{Cost, Workload, cost};
pub use rules::{Rule, rules};
pub use typing::Typing;

use std::collections::BTreeMap;

use egg::{EGraph, Runner, SimpleScheduler};

use crate::Machine;
use crate::graph::{Graph, Node, Typed, verify};

/// Nodes and rounds after which the e-graph stops growing. A layer saturates with some hundreds in some ten rounds.
const MOST_NODES: usize = 20_000;
const MOST_ROUNDS: usize = 40;

/// What a rewrite found.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The cheapest equal graph.
    pub graph: Typed,
    /// Modelled cost of the graph as given, picoseconds over all expected token counts.
    pub before: Cost,
    /// Modelled cost of the result.
    pub after: Cost,
    /// The rules that matched, each with the round in which it first did, in that order.
    pub matched: Vec<(usize, String)>,
    /// Whether every rule was applied everywhere: otherwise a limit was met.
    pub saturated: bool,
    /// Whether no graph of the e-graph is cheaper: otherwise the search for it met its limit.
    pub exact: bool,
}

/// Why a graph is what it is: one rule on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The round in which the rule first matched.
    pub round: usize,
    /// Its name.
    pub rule: String,
    /// Modelled cost of the best graph that the other rules find.
    pub without: Cost,
}

/// The cheapest graph equal to `graph` on `machine`, summed over the expected token counts.
pub fn rewrite(graph: &Typed, machine: &Machine, expected_tokens: &[u64]) -> Rewritten {
    rewrite_with(graph, machine, expected_tokens, &rules())
}

/// As [`rewrite()`], with only the given rules.
pub fn rewrite_with(graph: &Typed, machine: &Machine, expected_tokens: &[u64], rules: &[Rule]) -> Rewritten {
    let params: BTreeMap<_, _> = graph.graph().params.iter().cloned().collect();
    let runner: Runner<Node, Typing> = Runner::new(Typing { params })
        .with_expr(&graph.graph().nodes)
        .with_node_limit(MOST_NODES)
        .with_iter_limit(MOST_ROUNDS)
        .with_time_limit(std::time::Duration::from_secs(1 << 30))
        .with_scheduler(SimpleScheduler)
        .run(rules);
    let root = runner.egraph.find(runner.roots[0]);
    let egraph = tile::tiled(runner.egraph, machine);
    let workload = Workload::of(graph, expected_tokens);
    let node_cost = |egraph: &EGraph<Node, Typing>, node: &Node| {
        let types: Vec<_> = egg::Language::children(node).iter().map(|c| &egraph[*c].data).collect();
        if tile::is_untiled(node, &types) { cost::NEVER } else { cost(node, &types, machine, &workload) }
    };
    let best = extract::extract(&egraph, egraph.find(root), node_cost);

    let mut matched: Vec<(usize, String)> = Vec::new();
    for (round, iteration) in runner.iterations.iter().enumerate() {
        for rule in iteration.applied.keys().map(ToString::to_string) {
            if !matched.iter().any(|(_, known)| *known == rule) {
                matched.push((round + 1, rule));
            }
        }
    }
    let result = Graph { nodes: best.nodes, ..graph.graph().clone() };
    let typed = verify(result).unwrap_or_else(|violations| panic!("a rewrite made an ill-typed graph: {violations:?}"));
    Rewritten {
        before: graph_cost(graph, machine, expected_tokens),
        after: graph_cost(&typed, machine, expected_tokens),
        graph: typed,
        matched,
        exact: best.exact,
        saturated: matches!(runner.stop_reason, Some(egg::StopReason::Saturated)),
    }
}

/// The rules that `rewritten` could not do without, in the order in which they matched: each is left out in turn, and
/// counts if the best graph that is left costs more.
pub fn why(graph: &Typed, rewritten: &Rewritten, machine: &Machine, expected_tokens: &[u64]) -> Vec<Reason> {
    let without = |name: &str| {
        let others: Vec<Rule> = rules().into_iter().filter(|rule| rule.name.as_str() != name).collect();
        rewrite_with(graph, machine, expected_tokens, &others).after
    };
    rewritten
        .matched
        .iter()
        .map(|(round, rule)| Reason { round: *round, rule: rule.clone(), without: without(rule) })
        .filter(|reason| reason.without > rewritten.after)
        .collect()
}

/// The modelled cost of a whole graph, each value computed once, its products under the cheapest tiling where none is given.
pub fn graph_cost(graph: &Typed, machine: &Machine, expected_tokens: &[u64]) -> Cost {
    let workload = Workload::of(graph, expected_tokens);
    let of = |node: &Node| {
        let types: Vec<_> = node.operands().iter().map(|c| graph.ty(*c)).collect();
        tile::cheapest(node, &types, machine, &workload)
    };
    graph.graph().nodes.as_ref().iter().fold(0, |sum: Cost, node| sum.saturating_add(of(node)))
}
