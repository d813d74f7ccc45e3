//! What was chosen among ways of computing the ops of a graph, and what the others would cost: the figures of `--why`.

use egg::Id;

use super::cost::{Cost, Workload, cost, product};
use super::ways::{self, tilings_of};
use crate::graph::{Attr, Node, Op, Type, Typed};
use crate::{Machine, Tiling};

/// The ways in which one op of a graph can be computed, or several that can share a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The op and the weights that it reads; of several, each after `+`.
    pub op: String,
    /// Where these ops are in the graph.
    pub nodes: Vec<Id>,
    /// Each way with its modelled cost, the chosen one first, then the cheapest first. Of several ops: `apart`, each in the way of its
    /// own, or their tiling as parts of one launch.
    pub ways: Vec<(String, Cost)>,
}

/// What was chosen among ways of computing one op, or of launching several, and what each would cost for a batch of so many tokens.
pub fn choices(graph: &Typed, machine: &Machine, tokens: u64) -> Vec<Choice> {
    let workload = Workload::of(graph, &[tokens]);
    let own = graph.graph().nodes.ids().filter_map(|id| of_op(graph, id, machine, &workload));
    let several = launchable(graph).into_iter().filter_map(|products| of_launch(graph, &products, machine, &workload));
    own.chain(several).collect()
}

fn of_op(graph: &Typed, id: Id, machine: &Machine, workload: &Workload) -> Option<Choice> {
    let node = graph.node(id);
    let Node::Apply(op, operands) = node else { return None };
    let types: Vec<&Type> = operands.iter().map(|id| graph.ty(*id)).collect();
    let (chosen, ways) = ways::ways(node, &types, machine)?;
    let of = |way: &Attr| {
        let way = Type::Attr(way.clone());
        cost(node, &[&types[..types.len() - 1], &[&way]].concat(), machine, workload)
    };
    let ways = ways.iter().map(|way| (way.to_string(), of(way))).collect();
    Some(Choice { op: named(graph, *op, operands), nodes: vec![id], ways: sorted(ways, &chosen.to_string()) })
}

/// The chosen way first, then the cheapest.
fn sorted(mut ways: Vec<(String, Cost)>, chosen: &str) -> Vec<(String, Cost)> {
    ways.sort_by_key(|(way, cost)| (way != chosen, *cost, way.clone()));
    ways
}

/// The products that share a launch or could: those that a combine adds up, and what these read (`rules/launches.rs`).
fn launchable(graph: &Typed) -> Vec<Vec<Id>> {
    let mut found: Vec<Vec<Id>> = Vec::new();
    for node in graph.graph().nodes.as_ref() {
        let Node::Apply(Op::Combine, operands) = node else { continue };
        let Some(mut rows) = made_by(graph, operands[0], Op::GroupedGemm) else { continue };
        let mut dense = products(graph, operands[2]);
        while !dense.is_empty() {
            found.push([&[rows][..], &dense].concat());
            let reads = |product: Id, op: Op| made_by(graph, graph.node(product).operands()[0], op);
            let (Some(read), Some(beside)) = (reads(rows, Op::GroupedGemm), reads(dense[0], Op::Gemm)) else { break };
            let others = products(graph, graph.node(dense[0]).operands()[2]);
            (rows, dense) = (read, [&[beside][..], &others].concat());
        }
    }
    found
}

/// The dense products of a list.
fn products(graph: &Typed, list: Id) -> Vec<Id> {
    graph.node(list).operands().iter().filter_map(|item| made_by(graph, *item, Op::Gemm)).collect()
}

/// The product of this kind that a value is, by itself or out of a launch.
fn made_by(graph: &Typed, value: Id, op: Op) -> Option<Id> {
    match graph.node(value) {
        Node::Apply(own, _) if *own == op => Some(value),
        Node::Apply(Op::Item, operands) => match (graph.node(operands[0]), graph.ty(operands[1])) {
            (Node::Apply(Op::Launch, parts), Type::Attr(Attr::Num(i))) => made_by(graph, *parts.get(*i as usize)?, op),
            (_, _) => None,
        },
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    }
}

fn of_launch(graph: &Typed, products: &[Id], machine: &Machine, workload: &Workload) -> Option<Choice> {
    let mut parts = Vec::new();
    for id in products {
        let node = graph.node(*id);
        let Node::Apply(op, operands) = node else { return None };
        let types: Vec<&Type> = operands.iter().map(|id| graph.ty(*id)).collect();
        let [rest @ .., Type::Attr(way @ (Attr::Tiling(_) | Attr::Beside(_)))] = &types[..] else { return None };
        let multiplied = self::product(*op, rest)?;
        parts.push((node, rest.to_vec(), way, vec![(node.clone(), multiplied)]));
    }
    let of = |(node, rest, ..): &(&Node, Vec<&Type>, &Attr, _), way: Attr| {
        cost(node, &[&rest[..], &[&Type::Attr(way)]].concat(), machine, workload)
    };
    let own = |part: &(&Node, Vec<&Type>, &Attr, Vec<_>)| match part.2 {
        Attr::Tiling(tiling) => Some(of(part, Attr::Tiling(*tiling))),
        _ => tilings_of(std::slice::from_ref(&part.3), machine).into_iter().map(|tiling| of(part, Attr::Tiling(tiling))).min(),
    };
    let apart = parts.iter().map(own).sum::<Option<Cost>>()?;
    let together = |tiling: &Tiling| {
        let sum: Cost = parts.iter().map(|part| of(part, Attr::Beside(*tiling))).sum();
        (Attr::Beside(*tiling).to_string(), sum.saturating_add(machine.launch_ps))
    };
    let tilings = tilings_of(&parts.iter().map(|part| part.3.clone()).collect::<Vec<_>>(), machine);
    let ways = std::iter::once((APART.to_string(), apart)).chain(tilings.iter().map(together)).collect();
    let is_apart = parts.iter().any(|(_, _, way, _)| matches!(way, Attr::Tiling(_)));
    let chosen = if is_apart { APART.to_string() } else { parts[0].2.to_string() };
    let ops: Vec<String> = products.iter().map(|id| name_of(graph, *id)).collect();
    Some(Choice { op: ops.join(" + "), nodes: products.to_vec(), ways: sorted(ways, &chosen) })
}

/// The way of products that have launches of their own.
const APART: &str = "apart";

/// The op of a node and the weights that it reads: `grouped_gemm @gate, @up`.
pub fn name_of(graph: &Typed, id: Id) -> String {
    match graph.node(id) {
        Node::Apply(op, operands) => named(graph, *op, operands),
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) => String::new(),
    }
}

/// `op @weight, @weight`.
fn named(graph: &Typed, op: Op, operands: &[Id]) -> String {
    let mut weights: Vec<String> = Vec::new();
    let mut name = |id: &Id| match graph.node(*id) {
        Node::Param(param) if !param.is_input() => weights.push(param.0.clone()),
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) | Node::Apply(..) => {}
    };
    for id in operands {
        match graph.node(*id) {
            Node::Apply(Op::List, items) => items.iter().for_each(&mut name),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => name(id),
        }
    }
    format!("{} {}", op.name(), weights.join(", ")).trim_end().to_string()
}
