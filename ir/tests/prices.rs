//! What the cost of a layer is made of: figures by hand, and sums that are what extraction added up.

use moec_ir::graph::{Node, Op, Typed};
use moec_ir::machine::MACHINES;
use moec_ir::rewrite::{Batches, Price, bound, graph_cost, name_of, prices, rewrite};
use moec_ir::schedule::{launching_nodes, schedule};
use moec_ir::{DType, Machine};

use crate::decisions::layers;
use crate::layer::parse;

const MIXTRAL: &str = include_str!("../../tests/text/graph/layer_mixtral.moe");

fn sm_80() -> Machine {
    Machine::named("sm_80").unwrap()
}

fn rewritten(layer: &Typed, machine: &Machine, tokens: u64) -> Typed {
    rewrite(layer, machine, &Batches::together(&[tokens])).at(tokens).clone()
}

/// H = 16, F = 12, E = 8, K = 2 in bf16 at T = 3: P = 6 pairs, which hit 8 (1 - (3/4)^3) = 4.6 experts, so five.
#[test]
fn a_small_layer_by_hand() {
    let layer = parse(MIXTRAL);
    // Where nothing waits for memory or the last cache: else that may hide what a longer body costs.
    // Without waiting for memory or the last cache: it hides all of so small a body, of which a thousandth is less than a picosecond.
    let machine = Machine { memory_ps: 0, cache_bytes_per_us: None, ..sm_80() };
    let graph = rewritten(&layer, &machine, 3);
    let prices = prices(&graph, &machine, 3);
    let of = |id: egg::Id| {
        let amounts = prices[usize::from(id)].amounts;
        (name_of(&graph, id), amounts.bytes, amounts.flops)
    };
    let ops = graph.graph().nodes.ids().filter(|id| prices[usize::from(*id)] != Price::default());
    let expected = [
        // Tokens 3*16*2 bytes, the router 8*16*2, picks 3*2*8. The product 2*3*8*16 FLOPs, top-2 of three rows of 8 at 4 FLOPs an
        // element, a softmax of 3*2 picks at 16.
        ("route @router".to_string(), 96 + 256 + 48, 768 + 96 + 96),
        // Tokens, where the pairs are 3*2*16, five experts of two weights of 12*16*2, rows 6*12*2. Two products 2*6*12*16; of 6*12
        // numbers a silu at 16 FLOPs, a product and a rounding.
        ("grouped_gemm @gate, @up".to_string(), 96 + 96 + 5 * 2 * 384 + 144, 2 * 2304 + 72 * (16 + 1 + 1)),
        // Rows, where the pairs are, five experts, 6 weights of pairs at 4 bytes, rows 6*16*2. A product, and of 6*16 numbers a
        // product and a rounding.
        ("grouped_gemm @down".to_string(), 144 + 96 + 5 * 384 + 24 + 192, 2304 + 96 * 2),
        // Rows, where the pairs are, tokens. A sum of 6*16 numbers, a rounding of 3*16.
        ("combine".to_string(), 192 + 96 + 96, 96 + 48),
    ];
    assert_eq!(ops.map(of).collect::<Vec<_>>(), expected);
}

/// Without launches, and without what kernels hand to each other.
#[test]
fn the_bound_of_a_small_layer_by_hand() {
    let slow = Machine { bytes_per_us: 1_000, ..sm_80() };
    let bound = bound(&parse(MIXTRAL), &slow, 3);
    // The router, and three weights of 4.625 experts; tokens in and out.
    assert_eq!((bound.weight_bytes, bound.input_bytes, bound.output_bytes), (256 + 3 * 1776, 96, 96));
    // All products are of bf16.
    assert_eq!(bound.flops, [(DType::BF16, 768 + 3 * 2304)]);
    // A byte takes 1 ns; 7680 FLOPs take 24.6 ps at 312 TFLOP/s.
    assert_eq!((bound.bytes(), bound.moving, bound.computing, bound.time()), (5776, 5_776_000, 24, 5_776_000));
    // At many tokens all eight experts.
    assert_eq!(moec_ir::rewrite::bound(&parse(MIXTRAL), &slow, 100).weight_bytes, 256 + 3 * 8 * 384);
}

/// Twelve picks by chance of which four have no rows: 3 * 2 * 8 / 12 = 4 pairs, and 8 (1 - (10/12)^3) = 3.37 experts that are
/// hit.
#[test]
fn the_bound_of_experts_without_rows_by_hand() {
    let text = MIXTRAL.replace("@router: tensor<8 x", "@router: tensor<12 x").replace("T x 8 x f32", "T x 12 x f32");
    let text = text
        .replace("x 2 of 8", "x 2 of 12")
        .replace("%4 = scale %3, 1.0 : picks<T x 2 of 12>", "%4 = without_rows %3, 4 : picks<T x 2 of 8 + 4>");
    let layer = parse(&text.replace("routing<T x 2 of 12>", "routing<T x 2 of 8 + 4>"));
    let bound = bound(&layer, &sm_80(), 3);
    // Of each of three weights 8 * 384 * 91/216 = 1294.2 bytes.
    assert_eq!(bound.weight_bytes, 12 * 16 * 2 + 3 * 1294);
    assert_eq!(bound.flops, [(DType::BF16, 2 * 3 * 12 * 16 + 3 * 2 * 4 * 12 * 16)]);
}

/// Of every layer, machine and some batch sizes: nothing is left out or counted twice, and no bound is above what it bounds.
#[test]
fn sums_are_the_cost_of_the_layer() {
    for (name, layer, _) in layers() {
        for machine in MACHINES {
            for tokens in [1, 17, 300, 5000] {
                let graph = rewritten(&layer, &machine, tokens);
                let prices = prices(&graph, &machine, tokens);
                let sum: Price = prices.iter().copied().sum();
                let at = format!("{name} on {} at {tokens}", machine.name);
                assert_eq!(sum.total(), graph_cost(&graph, &machine, &[tokens]), "{at}");
                let bound = bound(&layer, &machine, tokens);
                assert!(bound.time() <= sum.total() && bound.bytes() <= sum.amounts.bytes, "{at}: {bound:?}, {sum:?}");
                let flops: u64 = bound.flops.iter().map(|(_, flops)| flops).sum();
                assert!(flops <= sum.amounts.flops && sum.moving > 0, "{at}: {bound:?}, {sum:?}");
            }
        }
    }
}

/// What a node launches in the schedule is what the model priced; a shared launch is priced once, with its parts.
#[test]
fn launches_are_those_that_were_priced() {
    for (name, layer, _) in layers() {
        for machine in ["sm_80", "sm_90a", "x86-64-v3"].map(|name| Machine::named(name).unwrap()) {
            for tokens in [1, 300] {
                let graph = rewritten(&layer, &machine, tokens);
                let (prices, launching) = (prices(&graph, &machine, tokens), launching_nodes(&graph, &machine).unwrap());
                assert_eq!(launching.len(), schedule(&graph, &machine).unwrap().regimes[0].launches.len());
                for (id, node) in graph.graph().nodes.items() {
                    let launched = launching.iter().filter(|by| **by == id).count() as u64;
                    let priced = prices[usize::from(id)].amounts.launches;
                    assert_eq!(launched, priced, "{name} on {} at {tokens}: {id}, {node:?}", machine.name);
                    if let Node::Apply(Op::Launch, parts) = node {
                        assert!(parts.iter().all(|part| prices[usize::from(*part)].amounts.launches == 0));
                    }
                }
            }
        }
    }
}
