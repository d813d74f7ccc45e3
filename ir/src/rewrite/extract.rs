//! The cheapest graph of an e-graph, exactly: every class that is used is paid for once.
//!
//! egg's own extractor prices trees, so it pays for a shared value at every use; a layer is built on sharing. This is a
//! branch and bound over the choice of one node for each class that is needed. The bound: what is chosen, plus for each
//! needed class that is still open its cheapest node.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use egg::{EGraph, Id, Language, RecExpr};

use super::{Cost, Typing};
use crate::graph::{Node, depth_first};

/// Steps after which the best graph so far is taken. Layers need some hundreds.
const MOST_STEPS: usize = 200_000;

/// What [`extract()`] found.
pub(super) struct Extracted {
    /// The cheapest graph, in depth-first order, as a graph's builder gives it.
    pub(super) nodes: RecExpr<Node>,
    /// Whether the search ended by itself: otherwise a cheaper graph may exist.
    pub(super) exact: bool,
}

/// The cheapest graph of `root`, given each node's own cost. Ties go to the node that egg stores first.
pub(super) fn extract(
    egraph: &EGraph<Node, Typing>,
    root: Id,
    cost: impl Fn(&EGraph<Node, Typing>, &Node) -> Cost,
) -> Extracted {
    let mut classes: BTreeMap<Id, Vec<(Cost, Node)>> = BTreeMap::new();
    for class in egraph.classes() {
        let mut nodes: Vec<(Cost, Node)> =
            class.nodes.iter().map(|n| (cost(egraph, n), n.clone().map_children(|c| egraph.find(c)))).collect();
        nodes.sort();
        nodes.dedup();
        classes.insert(class.id, nodes);
    }
    let tree = tree_costs(&classes);
    // The tree's choice is acyclic and is the first upper bound.
    for nodes in classes.values_mut() {
        nodes.sort_by_key(|(own, node)| (tree_cost(*own, node, &tree), node.clone()));
    }
    let greedy: HashMap<Id, usize> = classes.keys().map(|id| (*id, 0)).collect();
    let mut search = Search {
        cheapest: classes.iter().map(|(id, nodes)| (*id, nodes.iter().map(|n| n.0).min().unwrap_or(0))).collect(),
        best_cost: total(&classes, &greedy, root),
        best: greedy,
        classes: &classes,
        steps: 0,
    };
    let open = BTreeSet::from([root]);
    let bound = search.cheapest[&root];
    search.descend(&mut HashMap::new(), open, bound);
    let exact = search.steps <= MOST_STEPS;
    let nodes = depth_first(root, |id| &classes[&id][search.best[&id]].1).into();
    Extracted { nodes, exact }
}

struct Search<'a> {
    classes: &'a BTreeMap<Id, Vec<(Cost, Node)>>,
    cheapest: HashMap<Id, Cost>,
    best: HashMap<Id, usize>,
    best_cost: Cost,
    steps: usize,
}

impl Search<'_> {
    /// Decides one open class after the other. `bound` is the cost of what is chosen plus the least of what is open.
    fn descend(&mut self, chosen: &mut HashMap<Id, usize>, mut open: BTreeSet<Id>, bound: Cost) {
        self.steps += 1;
        if bound >= self.best_cost || self.steps > MOST_STEPS {
            return;
        }
        let Some(class) = open.pop_last() else {
            self.best_cost = bound;
            self.best = chosen.clone();
            return;
        };
        let classes = self.classes;
        for (i, (own, node)) in classes[&class].iter().enumerate() {
            chosen.insert(class, i);
            if !self.cyclic(chosen, class) {
                let mut open = open.clone();
                let mut bound = bound.saturating_sub(self.cheapest[&class]).saturating_add(*own);
                for child in node.children() {
                    if !chosen.contains_key(child) && open.insert(*child) {
                        bound = bound.saturating_add(self.cheapest[child]);
                    }
                }
                self.descend(chosen, open, bound);
            }
            chosen.remove(&class);
        }
    }

    /// Whether the choice of `class` closes a cycle among what is chosen.
    fn cyclic(&self, chosen: &HashMap<Id, usize>, class: Id) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack = vec![class];
        while let Some(at) = stack.pop() {
            let Some(choice) = chosen.get(&at) else { continue };
            for child in self.classes[&at][*choice].1.children() {
                if *child == class {
                    return true;
                }
                if seen.insert(*child) {
                    stack.push(*child);
                }
            }
        }
        false
    }
}

/// The least cost of each class as a tree: a shared value is paid for at every use.
fn tree_costs(classes: &BTreeMap<Id, Vec<(Cost, Node)>>) -> HashMap<Id, Cost> {
    let mut costs: HashMap<Id, Cost> = HashMap::new();
    loop {
        let mut changed = false;
        for (id, nodes) in classes {
            let ready = nodes.iter().filter(|(_, n)| n.children().iter().all(|c| costs.contains_key(c)));
            if let Some(least) = ready.map(|(own, n)| tree_cost(*own, n, &costs)).min()
                && costs.get(id).is_none_or(|old| least < *old)
            {
                costs.insert(*id, least);
                changed = true;
            }
        }
        if !changed {
            return costs;
        }
    }
}

/// One more than its operands together, so that a choice by tree cost is never cyclic.
fn tree_cost(own: Cost, node: &Node, costs: &HashMap<Id, Cost>) -> Cost {
    let operands = node.children().iter().map(|c| costs.get(c).copied().unwrap_or(Cost::MAX));
    operands.fold(own.saturating_add(1), Cost::saturating_add)
}

fn total(classes: &BTreeMap<Id, Vec<(Cost, Node)>>, chosen: &HashMap<Id, usize>, root: Id) -> Cost {
    let mut seen = BTreeSet::from([root]);
    let mut stack = vec![root];
    let mut sum: Cost = 0;
    while let Some(at) = stack.pop() {
        let (own, node) = &classes[&at][chosen[&at]];
        sum = sum.saturating_add(*own);
        stack.extend(node.children().iter().filter(|c| seen.insert(**c)));
    }
    sum.saturating_add(1)
}
