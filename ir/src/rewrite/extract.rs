//! The cheapest graph of an e-graph, exactly: every class that is used is paid for once.
//!
//! egg's own extractor prices trees, so it pays for a shared value at every use; a layer is built on sharing. This is a
//! branch and bound over the choice of one node for each class that is needed. The bound: what is chosen, plus for each
//! needed class that is still open its cheapest node.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use egg::{EGraph, Id, Language, RecExpr};

use super::{Cost, Typing};
use crate::graph::{Node, Type, depth_first};

/// Steps after which the best graph so far is taken. Layers need some hundreds.
const MOST_STEPS: usize = 200_000;

/// What [`extract()`] found.
pub(super) struct Extracted {
    /// The cheapest graph, in depth-first order, as a graph's builder gives it.
    pub(super) nodes: RecExpr<Node>,
    /// Whether the search ended by itself: otherwise a cheaper graph may exist.
    pub(super) exact: bool,
}

/// The cheapest graph of `root`, given each node's own cost. Ties go to the least node.
pub(super) fn extract(egraph: &EGraph<Node, Typing>, root: Id, cost: impl Fn(&EGraph<Node, Typing>, &Node) -> Cost) -> Extracted {
    let mut classes: BTreeMap<Id, Vec<(Cost, Node)>> = BTreeMap::new();
    for class in egraph.classes() {
        let mut nodes: Vec<(Cost, Node)> =
            class.nodes.iter().map(|n| (cost(egraph, n), n.clone().map_children(|c| egraph.find(c)))).collect();
        nodes.sort();
        // Constants cost nothing: of nodes that differ in them alone, the cheapest is as good as all.
        let values = |node: &Node| -> Vec<Id> {
            let is_value = |c: &&Id| !matches!(egraph[**c].data, Type::Attr(_));
            node.children().iter().filter(is_value).copied().collect()
        };
        let mut seen = BTreeSet::new();
        nodes.retain(|(_, node)| node.is_leaf() || seen.insert(values(node)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::graph::{Attr, Dim, Op, Param, Pointwise, Type};

    /// An e-graph of tensors of one type, in which every union is well typed, and its classes.
    struct Toy {
        egraph: EGraph<Node, Typing>,
        costs: BTreeMap<String, Cost>,
    }

    impl Toy {
        fn new() -> Toy {
            let x = (Param("%x".to_string()), Type::tensor(&[Dim::Tokens, Dim::Const(4)], DType::F32));
            let egraph = EGraph::new(Typing { params: BTreeMap::from([x]) });
            Toy { egraph, costs: BTreeMap::new() }
        }

        fn x(&mut self) -> Id {
            self.egraph.add(Node::Param(Param("%x".to_string())))
        }

        /// `x + number`, a node that no other number makes.
        fn offset(&mut self, x: Id, number: usize, cost: Cost) -> Id {
            let attr = Attr::Real((number as f64).into());
            self.costs.insert(attr.to_string(), cost);
            let c = self.egraph.add(Node::Attr(attr));
            self.egraph.add(Node::apply(Pointwise::Offset, &[x, c]))
        }

        fn add(&mut self, a: Id, b: Id) -> Id {
            self.egraph.add(Node::apply(Pointwise::Add, &[a, b]))
        }

        /// An offset costs what was said, an addition 2, leaves nothing.
        fn cost(&self, node: &Node) -> Cost {
            match node {
                Node::Apply(Op::Pointwise(Pointwise::Offset), operands) => match &self.egraph[operands[1]].data {
                    Type::Attr(attr) => self.costs[&attr.to_string()],
                    ty => panic!("an offset by {ty}"),
                },
                Node::Apply(..) => 2,
                Node::Param(_) | Node::Hole(_) | Node::Attr(_) => 0,
            }
        }

        /// The cost of what is extracted, each node paid for once.
        fn extracted(&self, root: Id) -> Cost {
            let found = extract(&self.egraph, self.egraph.find(root), |_, node| self.cost(node));
            assert!(found.exact);
            let nodes = found.nodes;
            let paid = |node: &Node| match node {
                Node::Apply(Op::Pointwise(Pointwise::Offset), operands) => match &nodes[operands[1]] {
                    Node::Attr(attr) => self.costs[&attr.to_string()],
                    node => panic!("an offset by {node}"),
                },
                Node::Apply(..) => 2,
                Node::Param(_) | Node::Hole(_) | Node::Attr(_) => 0,
            };
            nodes.as_ref().iter().map(paid).sum()
        }

        /// The least cost over all choices of one node a class, those with cycles left out.
        fn brute_force(&self, root: Id) -> Cost {
            let classes: Vec<Id> = self.egraph.classes().map(|class| class.id).collect();
            let mut choice = vec![0; classes.len()];
            let mut least = Cost::MAX;
            loop {
                let of = |id: Id| classes.iter().position(|c| *c == id).map(|i| &self.egraph[id].nodes[choice[i]]);
                least = least.min(self.paid(self.egraph.find(root), &of).unwrap_or(Cost::MAX));
                let Some(place) = (0..classes.len()).find(|i| choice[*i] + 1 < self.egraph[classes[*i]].nodes.len()) else {
                    return least;
                };
                choice[..place].fill(0);
                choice[place] += 1;
            }
        }

        /// What a choice costs; `None`: it is cyclic.
        fn paid<'a>(&self, root: Id, of: &impl Fn(Id) -> Option<&'a Node>) -> Option<Cost> {
            let mut sum = 0;
            let mut done: BTreeMap<Id, bool> = BTreeMap::new();
            let mut path = vec![(root, 0)];
            while let Some((at, visited)) = path.pop() {
                let node = of(at)?;
                if visited == 0 {
                    match done.insert(at, false) {
                        None => sum += self.cost(node),
                        Some(true) => {
                            done.insert(at, true);
                            continue;
                        }
                        Some(false) => return None,
                    }
                }
                match node.children().get(visited) {
                    Some(child) => path.extend([(at, visited + 1), (self.egraph.find(*child), 0)]),
                    None => {
                        done.insert(at, true);
                    }
                }
            }
            Some(sum)
        }
    }

    /// The graph of the reference notes: two values, each cheaper alone, but dearer than one that both can share.
    #[test]
    fn a_shared_value_is_paid_for_once() {
        let mut toy = Toy::new();
        let x = toy.x();
        let shared = toy.offset(x, 1, 100);
        let [left, right] = [2, 3].map(|i| {
            let alone = toy.offset(x, 10 * i, 70);
            let from_shared = toy.offset(shared, i, 1);
            toy.egraph.union(alone, from_shared);
            alone
        });
        let root = toy.add(left, right);
        toy.egraph.rebuild();
        // A tree extractor takes 70 + 70 + 2, since 100 + 1 > 70.
        assert_eq!(toy.brute_force(root), 104);
        assert_eq!(toy.extracted(root), 104);
    }

    #[test]
    fn as_cheap_as_the_best_of_all_choices() {
        let mut seed = 1u64;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        for _ in 0..300 {
            let mut toy = Toy::new();
            let mut values = vec![toy.x()];
            for number in 1..10 {
                let (a, b) = (values[below(values.len())], values[below(values.len())]);
                values.push(if below(3) == 0 { toy.add(a, b) } else { toy.offset(a, number, [0, 1, 3, 10, 30][below(5)]) });
            }
            for _ in 0..5 {
                let (a, b) = (values[below(values.len())], values[below(values.len())]);
                toy.egraph.union(a, b);
            }
            toy.egraph.rebuild();
            let root = values[values.len() - 1];
            assert_eq!(toy.extracted(root), toy.brute_force(root));
        }
    }
}
