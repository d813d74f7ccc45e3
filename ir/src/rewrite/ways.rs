//! The ways in which an op can be computed, as alternatives beside each other in the e-graph.
//!
//! After saturation: no rule looks at a way, so that nothing is found twice for each of them.

use egg::{EGraph, Language};

use super::Typing;
use super::cost::{Cost, NEVER, UNFUSED, Workload, cost, experts_choose, has_kernel, product};
use crate::graph::{Assignment, Attr, Dim, Node, Op, Span, Type};
use crate::{Machine, Sorting, tiling};

/// The e-graph with every op in every way that the machine has kernels for.
pub(super) fn expanded(mut egraph: EGraph<Node, Typing>, machine: &Machine) -> EGraph<Node, Typing> {
    let ops: Vec<_> = egraph
        .classes()
        .flat_map(|class| class.nodes.iter().map(|node| (class.id, node.clone())))
        .map(|(class, node)| (class, ways_of(&node, &types(&egraph, &node), machine), node))
        .collect();
    for (class, ways, node) in ops {
        let Node::Apply(op, operands) = node else { continue };
        for way in ways {
            let way = egraph.add(Node::Attr(way));
            let node = egraph.add(Node::apply(op, &[&operands[..], &[way]].concat()));
            egraph.union(class, node);
        }
    }
    egraph.rebuild();
    egraph
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

/// The way of a node whose way is decided, and all that there are.
pub(super) fn ways(node: &Node, types: &[&Type], machine: &Machine) -> Option<(Attr, Vec<Attr>)> {
    let (Node::Apply(op, operands), [rest @ .., Type::Attr(way)]) = (node, types) else { return None };
    let open = Node::apply(*op, &operands[..operands.len() - 1]);
    way.is_way_of(*op).then(|| (way.clone(), ways_of(&open, rest, machine)))
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
            let fits = |sorting: &Sorting| sorting.shared_bytes(columns(types), machine) <= u64::from(machine.shared_bytes);
            Sorting::ALL.into_iter().filter(fits).map(Attr::Sorting).collect()
        }
        (_, _) => Vec::new(),
    }
}

/// The experts that a router has numbers for, those without rows too.
fn columns(types: &[&Type]) -> u64 {
    let Some(Type::List(routers)) = types.get(1) else { return 0 };
    match routers.first() {
        Some(Type::Tensor { shape, .. }) => match shape.first() {
            Some(Dim::Const(n)) => *n,
            Some(Dim::Tokens | Dim::Pairs) | None => 0,
        },
        Some(Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_)) | None => 0,
    }
}

fn is_one_span(rule: &Assignment) -> bool {
    match rule {
        Assignment::Dropless => true,
        Assignment::Capacity(capacity) => capacity.span == Span::All,
    }
}
