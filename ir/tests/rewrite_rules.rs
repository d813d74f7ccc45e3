//! Every rule alone: that it fires, what it makes, and that both sides are equal on random numbers, ties, infinities and
//! NaN included. For a rule with a condition: where it must not fire.

use std::collections::BTreeSet;

use egg::Id;
use moec_ir::graph::{Attr, Node, Typed, print};
use moec_ir::machine::{Rate, Unit};
use moec_ir::rewrite::{Batches, Rule, rewrite_with, rules};
use moec_ir::{DType, Dims, Machine};

use crate::oracle::{Numbers, inputs, same, typed};
use crate::rewrite_cases::{Case, UNCHANGED, cases};

const TOKENS: [u64; 3] = [1, 64, 4096];

/// What the lines of a case may name.
const PARAMS: &str = "%x: tensor<T x 4 x f32>, %h: tensor<T x 8 x f32>, %z: tensor<T x 8 x f32>, %half: tensor<T x 4 x bf16>, \
    @w: tensor<8 x 4 x f32>, @w2: tensor<8 x 4 x f32>, @v: tensor<8 x f32>, @one: tensor<1 x 4 x f32>, @w4: tensor<4 x 4 x f32>, \
    @square: tensor<8 x 8 x bf16>, @four: tensor<4 x f32>, @scalar: tensor<1 x f32>, @back: tensor<8 x 4 x 6 x f32>, @b4: tensor<8 x 4 x f32>, \
    @gate: tensor<8 x 6 x 4 x f32>, @up: tensor<8 x 6 x 4 x f32>, @thin: tensor<8 x 1 x 4 x f32>, @b: tensor<8 x 6 x f32>, \
    @table: tensor<5 x 3 x i32>, %ids: tensor<T x i32>";

/// Logits, picks and a routing for the lines that need one.
const ROUTING: &str = "%l = gemm %x, [@w] : ?\n %p = top_k %l, %l, 2 : ?\n %r = assign %p, dropless : ?\n";

/// A layer of these lines. `%picks` and `%routing` become the combined rows of the tokens, weighted.
fn layer(lines: &str) -> Typed {
    let routing = if ["%r,", "%r ", "%l", "%p,"].iter().any(|name| lines.contains(name)) { ROUTING } else { "" };
    let observe = "%xs = dispatch %x, %routing : ?\n %ws = pair_weights %routing : ?\n %weighted = mul %xs, %ws : ?\n \
        %y = combine %weighted, %routing : ?\n return %y";
    let tail = if lines.contains("%routing =") {
        observe.to_string()
    } else if lines.contains("%picks =") {
        format!("%routing = assign %picks, dropless : ?\n {observe}")
    } else {
        "return %y".to_string()
    };
    typed(&format!("layer @case({PARAMS}) -> ? {{\n {routing} {lines}\n {tail}\n}}"))
}

fn named(name: &str) -> Vec<Rule> {
    rules().into_iter().filter(|rule| rule.name.as_str() == name).collect()
}

/// The graph as text, whatever the ways in which its ops are computed: no rule looks at them.
fn text(graph: &Typed) -> String {
    let mut graph = graph.graph().clone();
    let nodes: Vec<Node> = graph.nodes.as_ref().to_vec();
    let is_way = |id: &Id| matches!(nodes[usize::from(*id)], Node::Attr(Attr::Tiling(_) | Attr::Beside(_) | Attr::Sorting(_)));
    let open = |node: &Node| match node {
        Node::Apply(op, operands) => Node::apply(*op, &operands.iter().filter(|id| !is_way(id)).copied().collect::<Vec<_>>()),
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) => node.clone(),
    };
    graph.nodes = nodes.iter().map(open).collect::<Vec<_>>().into();
    print(&graph)
}

fn check(case: &Case) {
    let (rule, left) = (&case.rule, layer(&case.left));
    // Of products this small the rows and columns of a tile that are not there are most: arithmetic is made cheap, so that a
    // product made twice does not hide what a rule saves.
    let gpu = Machine::named("sm_90a").expect("a machine");
    let cheap = Rate { unit: Unit::Vector, elem: DType::F32, flops_per_us: gpu.vector_rate() * 1000 };
    let machine = Machine { rates: Box::leak(Box::new([cheap])), ..gpu };
    let result = rewrite_with(&left, &machine, &Batches::together(&TOKENS), &named(rule));
    let fired = !result.matched.is_empty();
    if case.right == UNCHANGED {
        assert!(!fired && text(result.at(1)) == text(&left), "{rule} fired on {}", case.left);
        return;
    }
    assert!(fired, "{rule} did not fire on\n{}", print(left.graph()));
    assert!(result.saturated && result.exact, "{rule} does not end");
    assert_eq!(text(result.at(1)), text(&layer(&case.right)), "{rule}");
    assert!(result.after < result.before, "{rule} does not pay");
    for tokens in [0, 1, 7] {
        for (seed, numbers) in (0..4).flat_map(|seed| Numbers::ALL.map(|numbers| (seed, numbers))) {
            // Sequences of 7 or, in other seeds, of 3 tokens.
            let dims = Dims { tokens, sequence_tokens: if seed % 2 == 0 { tokens } else { 3 } };
            same(&left, result.at(1), &inputs(&left, dims, seed, numbers), dims, case.tolerance)
                .unwrap_or_else(|why| panic!("{rule}, T = {tokens}, {numbers:?}, seed {seed}: {why}\n{}", case.left));
        }
    }
}

#[test]
fn each_rule_makes_an_equal_graph_where_it_may_and_none_where_it_may_not() {
    cases().iter().for_each(check);
}

#[test]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let rules: Vec<String> = rules().iter().map(|rule| rule.name.to_string()).collect();
    let distinct: BTreeSet<&String> = rules.iter().collect();
    assert_eq!(distinct.len(), rules.len(), "two rules of one name");
    let cases = cases();
    let proved: BTreeSet<&String> = cases.iter().filter(|case| case.right != UNCHANGED).map(|case| &case.rule).collect();
    let named: BTreeSet<&String> = cases.iter().map(|case| &case.rule).collect();
    assert_eq!(proved, distinct);
    assert_eq!(named, distinct);
}

#[test]
fn rule_names_are_phrases() {
    for rule in rules() {
        let name = rule.name.as_str();
        assert!(
            name.split('-').count() >= 2 && name.chars().all(|c| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit()),
            "{name}"
        );
    }
}
