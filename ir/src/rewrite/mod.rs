//! Which meanings are equal, and which of them is cheapest: an e-graph over the graph's own ops, grown by the rules to
//! saturation (bounded by nodes and iterations, never by time), and an exact extraction by a roofline cost.

mod bound;
mod choices;
mod cost;
mod extract;
mod matching;
mod price;
mod regimes;
mod route_cost;
pub mod rules;
mod spread;
mod typing;
mod ways;

pub use bound::{Bound, bound};
pub use choices::{Choice, choices, name_of};
pub use cost::{Cost, Workload, cost};
pub use price::{Amounts, Limit, Price, prices};
pub use rules::{Rule, rules};
pub use spread::Spread;
pub use typing::Typing;

use std::collections::BTreeMap;
use std::fmt;

use egg::{EGraph, Runner, SimpleScheduler};

use crate::Machine;
use crate::graph::{Graph, Node, Regime, Typed, print_regimes, verify};

/// Nodes and rounds after which the e-graph stops growing. A layer saturates with some hundreds in some ten rounds.
const MOST_NODES: usize = 20_000;
const MOST_ROUNDS: usize = 40;

/// The batches that a layer is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batches {
    /// Token counts to be fast at: `before` and `after` are sums over them.
    pub expected: Vec<u64>,
    /// The largest one that is served.
    pub most: u64,
    /// Whether one graph serves all of them, the cheapest at the expected ones together: a token's bits depend on nothing but
    /// the token then.
    pub together: bool,
}

impl Batches {
    /// One graph for all, the cheapest for these token counts.
    pub fn together(expected: &[u64]) -> Batches {
        Batches { expected: expected.to_vec(), most: expected.iter().copied().max().unwrap_or(1), together: true }
    }
}

/// What a rewrite found.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The cheapest equal graphs, each with the batches that it serves.
    pub regimes: Vec<Regime<Typed>>,
    /// Modelled cost of the graph as given, picoseconds over all expected token counts.
    pub before: Cost,
    /// Modelled cost of the results, each token count in its regime.
    pub after: Cost,
    /// The rules that matched, each with the round in which it first did, in that order.
    pub matched: Vec<(usize, String)>,
    /// Whether every rule was applied everywhere: otherwise a limit was met.
    pub saturated: bool,
    /// Whether no graph of the e-graph is cheaper: otherwise a search for one met its limit.
    pub exact: bool,
}

impl Rewritten {
    /// The graph that serves a batch of so many tokens.
    pub fn at(&self, tokens: u64) -> &Typed {
        serving(&self.regimes, tokens)
    }
}

/// The graphs as text, each with its bound.
impl fmt::Display for Rewritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regimes = self.regimes.iter().map(|of| Regime { tokens_up_to: of.tokens_up_to, graph: of.graph.graph() });
        f.write_str(&print_regimes(regimes))
    }
}

fn serving(regimes: &[Regime<Typed>], tokens: u64) -> &Typed {
    let serves = |regime: &&Regime<Typed>| regime.tokens_up_to.is_none_or(|most| tokens <= most);
    &regimes.iter().find(serves).unwrap_or(&regimes[regimes.len() - 1]).graph
}

/// Why a graph is what it is: one rule on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The round in which the rule first matched.
    pub round: usize,
    /// Its name.
    pub rule: String,
    /// Modelled cost of the best graphs that the other rules find.
    pub without: Cost,
}

/// The cheapest graphs equal to `graph` on `machine`.
pub fn rewrite(graph: &Typed, machine: &Machine, batches: &Batches) -> Rewritten {
    found(graph, machine, batches, Grown { is_scheduled: true, ..Grown::new(graph, machine, &rules()) })
}

/// As [`rewrite()`], with only the given rules, which may leave ops that no kernel computes.
pub fn rewrite_with(graph: &Typed, machine: &Machine, batches: &Batches, rules: &[Rule]) -> Rewritten {
    found(graph, machine, batches, Grown::new(graph, machine, rules))
}

fn found(graph: &Typed, machine: &Machine, batches: &Batches, grown: Grown) -> Rewritten {
    let found = regimes::regimes(&grown, batches);
    let after = |tokens: &u64| graph_cost(serving(&found.regimes, *tokens), machine, &[*tokens]);
    Rewritten {
        before: graph_cost(graph, machine, &batches.expected),
        after: batches.expected.iter().map(after).fold(0, Cost::saturating_add),
        exact: found.exact,
        regimes: found.regimes,
        saturated: grown.saturated,
        matched: grown.matched,
    }
}

/// An e-graph that has grown, and what it grew from.
struct Grown<'g> {
    graph: &'g Typed,
    machine: &'g Machine,
    egraph: EGraph<Node, Typing>,
    root: egg::Id,
    matched: Vec<(usize, String)>,
    saturated: bool,
    /// Whether graphs are for the schedule: ops that no kernel computes are avoided at any price.
    is_scheduled: bool,
}

impl<'g> Grown<'g> {
    fn new(graph: &'g Typed, machine: &'g Machine, rules: &[Rule]) -> Grown<'g> {
        let params: BTreeMap<_, _> = graph.graph().params.iter().cloned().collect();
        let runner: Runner<Node, Typing> = Runner::new(Typing { params })
            .with_expr(&graph.graph().nodes)
            .with_node_limit(MOST_NODES)
            .with_iter_limit(MOST_ROUNDS)
            .with_time_limit(std::time::Duration::from_secs(1 << 30))
            .with_scheduler(SimpleScheduler)
            .run(rules);
        let mut matched: Vec<(usize, String)> = Vec::new();
        for (round, iteration) in runner.iterations.iter().enumerate() {
            for rule in iteration.applied.keys().map(ToString::to_string) {
                if !matched.iter().any(|(_, known)| *known == rule) {
                    matched.push((round + 1, rule));
                }
            }
        }
        let saturated = matches!(runner.stop_reason, Some(egg::StopReason::Saturated));
        let root = runner.roots[0];
        let egraph = ways::expanded(runner.egraph, machine);
        Grown { graph, machine, root: egraph.find(root), egraph, matched, saturated, is_scheduled: false }
    }

    /// The cheapest graph for these token counts together, and whether no other is cheaper.
    fn best(&self, tokens: &[u64]) -> (Typed, bool) {
        let workload = Workload::of(self.graph, tokens);
        let node_cost = |egraph: &EGraph<Node, Typing>, node: &Node| {
            let types: Vec<_> = egg::Language::children(node).iter().map(|c| &egraph[*c].data).collect();
            let beside = if self.is_scheduled { ways::without_kernel(node, &types) } else { 0 };
            ways::decided(node, &types, self.machine, &workload).saturating_add(beside)
        };
        let best = extract::extract(&self.egraph, self.root, node_cost);
        let result = Graph { nodes: best.nodes, ..self.graph.graph().clone() };
        let typed = verify(result).unwrap_or_else(|violations| panic!("a rewrite made an ill-typed graph: {violations:?}"));
        (typed, best.exact)
    }
}

/// The rules that `rewritten` could not do without, in the order in which they matched: each is left out in turn, and
/// counts if the best graphs that are left cost more.
pub fn why(graph: &Typed, rewritten: &Rewritten, machine: &Machine, batches: &Batches) -> Vec<Reason> {
    let without = |name: &str| {
        let others: Vec<Rule> = rules().into_iter().filter(|rule| rule.name.as_str() != name).collect();
        rewrite_with(graph, machine, batches, &others).after
    };
    rewritten
        .matched
        .iter()
        .map(|(round, rule)| Reason { round: *round, rule: rule.clone(), without: without(rule) })
        .filter(|reason| reason.without > rewritten.after)
        .collect()
}

/// The modelled cost of a whole graph, each value computed once, its ops in the cheapest way where none is given.
pub fn graph_cost(graph: &Typed, machine: &Machine, expected_tokens: &[u64]) -> Cost {
    let workload = Workload::of(graph, expected_tokens);
    let of = |node: &Node| {
        let types: Vec<_> = node.operands().iter().map(|c| graph.ty(*c)).collect();
        ways::cheapest(node, &types, machine, &workload)
    };
    graph.graph().nodes.as_ref().iter().fold(0, |sum: Cost, node| sum.saturating_add(of(node)))
}
