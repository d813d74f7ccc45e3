//! The ways in which an op can be computed, as alternatives beside each other in the e-graph.
//!
//! After saturation: no rule looks at a way, so that nothing is found twice for each of them.

use egg::{EGraph, Id, Language};

use super::Typing;
use super::cost::{Cost, NEVER, UNFUSED, Workload, cost, has_kernel, ordering, product};
use super::route_cost::{experts_choose, experts_of};
use crate::graph::{Assignment, Attr, Node, Op, Span, Type};
use crate::tiling::{self, Product};
use crate::{Machine, Sorting, Tiling};

/// The e-graph with every op in every way that the machine has kernels for.
pub(super) fn expanded(mut egraph: EGraph<Node, Typing>, machine: &Machine) -> EGraph<Node, Typing> {
    let ops: Vec<_> = egraph
        .classes()
        .flat_map(|class| class.nodes.iter().map(|node| (class.id, node.clone())))
        .map(|(class, node)| (class, ways_of(&node, &types(&egraph, &node), machine), node))
        .collect();
    let launches = launches(&egraph);
    for (class, ways, node) in ops {
        let Node::Apply(op, operands) = node else { continue };
        for way in ways {
            let way = egraph.add(Node::Attr(way));
            let node = egraph.add(Node::apply(op, &[&operands[..], &[way]].concat()));
            egraph.union(class, node);
        }
    }
    for (class, parts) in launches {
        for tiling in tilings_of(&parts, machine) {
            let parts: Vec<Id> = parts.iter().filter_map(|part| one_of(&mut egraph, part, tiling, machine)).collect();
            let launch = egraph.add(Node::apply(Op::Launch, &parts));
            egraph.union(class, launch);
        }
    }
    egraph.rebuild();
    egraph
}

/// The products that can make a part of a launch, each with what it multiplies.
pub(super) type Part = Vec<(Node, Product)>;

/// The launches of values that are products, and for each of these the products that make it.
fn launches(egraph: &EGraph<Node, Typing>) -> Vec<(Id, Vec<Part>)> {
    let part = |class: &Id| -> Part {
        let of = |node: &Node| {
            let (Node::Apply(op, operands), types) = (node, types(egraph, node)) else { return None };
            (op.arity() == Some(operands.len()) && has_kernel(*op, &types))
                .then(|| product(*op, &types))
                .flatten()
                .map(|product| (node.clone(), product))
        };
        egraph[*class].nodes.iter().filter_map(of).collect()
    };
    let launches = egraph.classes().flat_map(|class| class.nodes.iter().map(|node| (class.id, node)));
    let parts = launches.filter_map(|(class, node)| match node {
        Node::Apply(Op::Launch, values) => Some((class, values.iter().map(part).collect::<Vec<Part>>())),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    });
    parts.filter(|(_, parts)| parts.iter().all(|part| !part.is_empty())).collect()
}

/// The tilings in which all parts can be made.
pub(super) fn tilings_of(parts: &[Part], machine: &Machine) -> Vec<Tiling> {
    let mut tilings: Vec<Tiling> = Vec::new();
    // What a block has of rows in shared memory it has once.
    let mut rows = parts.iter().flatten().map(|(_, product)| product.rows);
    let first = rows.next();
    if rows.any(|other| Some(other) != first) {
        return tilings;
    }
    for tiling in parts.iter().flatten().flat_map(|(_, product)| tiling::candidates(product, machine)) {
        let takes = |part: &Part| part.iter().any(|(_, product)| tiling::takes(tiling, product, machine));
        if !tilings.contains(&tiling) && parts.iter().all(takes) {
            tilings.push(tiling);
        }
    }
    tilings
}

/// A part in this tiling: the products that take it are one value.
fn one_of(egraph: &mut EGraph<Node, Typing>, part: &Part, tiling: Tiling, machine: &Machine) -> Option<Id> {
    let way = egraph.add(Node::Attr(Attr::Beside(tiling)));
    let mut made: Option<Id> = None;
    for (node, _) in part.iter().filter(|(_, product)| tiling::takes(tiling, product, machine)) {
        let Node::Apply(op, operands) = node else { continue };
        let node = egraph.add(Node::apply(*op, &[&operands[..], &[way]].concat()));
        made.map(|other| egraph.union(other, node));
        made = Some(node);
    }
    made
}

fn types<'e>(egraph: &'e EGraph<Node, Typing>, node: &Node) -> Vec<&'e Type> {
    node.children().iter().map(|c| &egraph[*c].data).collect()
}

/// What a node costs: of an op whose way is open, in the cheapest.
pub(super) fn cheapest(node: &Node, types: &[&Type], machine: &Machine, workload: &Workload) -> Cost {
    let ways = ways_of(node, types, machine);
    let of = |way: Attr| cost(node, &[types, &[&Type::Attr(way)]].concat(), machine, workload);
    ways.into_iter().map(of).min().unwrap_or_else(|| cost(node, types, machine, workload))
}

/// What a node of the e-graph costs, which [`expanded`] made: an op whose way is open has others beside it.
pub(super) fn decided(node: &Node, types: &[&Type], machine: &Machine, workload: &Workload) -> Cost {
    if ways_of(node, types, machine).is_empty() { cost(node, types, machine, workload) } else { NEVER }
}

/// What it costs beside that, where the graph is to be scheduled: an op that no kernel computes is left only where no rule takes it.
pub(super) fn without_kernel(node: &Node, types: &[&Type]) -> Cost {
    match node {
        Node::Apply(op, _) if !has_kernel(*op, types) => UNFUSED,
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => 0,
    }
}

/// The way of a node whose way is decided for itself, and all that there are.
pub(super) fn ways(node: &Node, types: &[&Type], machine: &Machine) -> Option<(Attr, Vec<Attr>)> {
    let (Node::Apply(op, operands), [rest @ .., Type::Attr(way)]) = (node, types) else { return None };
    let open = Node::apply(*op, &operands[..operands.len() - 1]);
    (way.is_way_of(*op) && !matches!(way, Attr::Beside(_))).then(|| (way.clone(), ways_of(&open, rest, machine)))
}

/// The ways in which a node can be computed: none where it is decided, or there is but one.
fn ways_of(node: &Node, types: &[&Type], machine: &Machine) -> Vec<Attr> {
    let op = match node {
        Node::Apply(op, operands) if op.arity() == Some(operands.len()) => *op,
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => return Vec::new(),
    };
    if let Some(product) = product(op, types) {
        return tiling::candidates(&product, machine).into_iter().map(Attr::Tiling).collect();
    }
    match (op, types.last()) {
        // One block sorts the pairs of one span.
        (Op::Route, Some(Type::Attr(Attr::Assignment(rule)))) if !experts_choose(types) && is_one_span(rule) => {
            // Other kernels find an order of service between the two.
            let can = |sorting: &Sorting| !sorting.routes() || ordering(types) == 0;
            let fits = |sorting: &Sorting| sorting.fits(experts_of(types), machine) && can(sorting);
            Sorting::ALL.into_iter().filter(fits).map(Attr::Sorting).collect()
        }
        // No kernel of its own comes before it that one block could do too.
        (Op::Given, Some(Type::Attr(Attr::Num(experts)))) => {
            let fits = |sorting: &Sorting| !sorting.routes() && sorting.fits(*experts, machine);
            Sorting::ALL.into_iter().filter(fits).map(Attr::Sorting).collect()
        }
        (_, _) => Vec::new(),
    }
}

fn is_one_span(rule: &Assignment) -> bool {
    match rule {
        Assignment::Dropless => true,
        Assignment::Capacity(capacity) => capacity.span == Span::All,
    }
}
