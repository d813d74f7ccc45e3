//! The ways in which products can be cut, as alternatives beside each other in the e-graph.
//!
//! After saturation: no rule looks at a tiling, so that nothing is found twice for each of them.

use egg::{EGraph, Language};

use super::Typing;
use super::cost::{Cost, NEVER, Workload, cost, product};
use crate::graph::{Attr, Node, Type};
use crate::{Machine, tiling};

/// The e-graph with every product under every tiling that the machine has kernels for.
pub(super) fn tiled(mut egraph: EGraph<Node, Typing>, machine: &Machine) -> EGraph<Node, Typing> {
    let products: Vec<_> = egraph
        .classes()
        .flat_map(|class| class.nodes.iter().map(|node| (class.id, node.clone())))
        .filter_map(|(class, node)| Some((class, product_of(&egraph, &node)?, node)))
        .collect();
    for (class, product, node) in products {
        let Node::Apply(op, operands) = node else { continue };
        for tiling in tiling::candidates(&product, machine) {
            let tiling = egraph.add(Node::Attr(Attr::Tiling(tiling)));
            let node = egraph.add(Node::apply(op, &[&operands[..], &[tiling]].concat()));
            egraph.union(class, node);
        }
    }
    egraph.rebuild();
    egraph
}

fn product_of(egraph: &EGraph<Node, Typing>, node: &Node) -> Option<tiling::Product> {
    let types: Vec<&Type> = node.children().iter().map(|c| &egraph[*c].data).collect();
    if is_untiled(node, &types) { untiled_product(node, &types) } else { None }
}

/// What a node costs: of a product that is not cut yet, under the cheapest tiling.
pub(super) fn cheapest(node: &Node, types: &[&Type], machine: &Machine, workload: &Workload) -> Cost {
    let Some(product) = untiled_product(node, types) else { return cost(node, types, machine, workload) };
    let under = |tiling| {
        let tiling = Type::Attr(Attr::Tiling(tiling));
        cost(node, &[types, &[&tiling]].concat(), machine, workload)
    };
    tiling::candidates(&product, machine).into_iter().map(under).min().unwrap_or(NEVER)
}

/// Whether a node is a product that no kernel computes before it is cut.
pub(super) fn is_untiled(node: &Node, types: &[&Type]) -> bool {
    untiled_product(node, types).is_some()
}

fn untiled_product(node: &Node, types: &[&Type]) -> Option<tiling::Product> {
    match node {
        Node::Apply(op, operands) if op.arity() == Some(operands.len()) => product(*op, types),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    }
}
