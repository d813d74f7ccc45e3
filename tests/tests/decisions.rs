//! What egg decides for the example specs: how an op is computed depends on the machine and on the batch, and every other way costs
//! more in the model. That all ways give the same numbers is held by `ir/tests/decisions.rs`, on layers that are small enough to run.

use std::collections::BTreeMap;

use moec::import::Entry;
use moec::pipeline::lower;
use moec_ir::graph;
use moec_ir::rewrite::choices;
use moec_tests::scaled::{of_odd_widths, of_tf32};
use moec_tests::{examples, machine};

/// The last products of an expert and of the shared one.
const SHARED: &str = "grouped_gemm @down + gemm @shared_down";

/// Of an example on a machine, for a batch of so many tokens, the op that begins so is computed in the way that begins so.
const DECISIONS: &[(&str, &str, &str, u64, &str, &str)] = &[
    ("how pairs are sorted", "mixtral-8x7b", "sm_90a", 64, "route", "sort(cluster)"),
    ("how pairs are sorted", "mixtral-8x7b", "sm_90a", 512, "route", "sort(block)"),
    ("how pairs are sorted", "qwen3-30b-a3b", "sm_90a", 4096, "route", "sort(spread)"),
    ("how pairs are sorted on another machine", "qwen3-30b-a3b", "sm_90a", 16, "route", "sort(cluster)"),
    ("how pairs are sorted on another machine", "qwen3-30b-a3b", "sm_80", 16, "route", "sort(routed)"),
    ("whether the router sorts too", "qwen3-30b-a3b", "sm_80", 1, "route", "sort(routed)"),
    ("whether the router sorts too", "qwen3-30b-a3b", "sm_80", 512, "route", "sort(block)"),
    ("whether lanes split K", "tiny", "sm_80", 1, "grouped_gemm @gate, @up", "beside(dot("),
    ("whether lanes split K", "tiny", "sm_80", 64, "grouped_gemm @gate, @up", "beside(tile("),
    ("whether weights are streamed", "switch-base-8", "sm_90a", 1, "grouped_gemm @down", "stream("),
    ("whether weights are streamed", "mixtral-8x7b", "sm_90a", 4096, "grouped_gemm @down", "twin("),
    ("whether matrices go through shared memory", "qwen3-30b-a3b", "sm_80", 1, "grouped_gemm @down", "stream(8 "),
    ("whether matrices go through shared memory", "qwen3-30b-a3b", "sm_80", 4096, "grouped_gemm @down", "mma(128 "),
    ("how high tiles are", "qwen3-30b-a3b", "sm_100a", 512, "grouped_gemm @down", "mma(64 "),
    ("how high tiles are", "qwen3-30b-a3b", "sm_100a", 4096, "grouped_gemm @down", "mma(128 "),
    ("whether four warps multiply together", "deepseek-v3", "sm_90a", 16, "grouped_gemm @gate, @up", "beside(stream("),
    ("whether four warps multiply together", "deepseek-v3", "sm_90a", 32768, "grouped_gemm @gate, @up", "beside(twin(256 "),
    ("whether two blocks share weights", "mixtral-8x7b", "sm_90a", 8192, "grouped_gemm @gate, @up", "twin(256 by 128)"),
    ("whether two blocks share weights", "mixtral-8x7b", "sm_90a", 64, "grouped_gemm @gate, @up", "group("),
    ("whether the shared expert is in the grouped launch", "qwen1.5-moe-a2.7b", "sm_86", 16, SHARED, "beside("),
    ("whether the shared expert is in the grouped launch", "qwen1.5-moe-a2.7b", "sm_80", 4096, SHARED, "apart"),
];

#[test]
fn ways_depend_on_the_machine_and_on_the_batch() {
    let examples = examples();
    let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (decision, example, name, tokens, op, way) in DECISIONS {
        let example = examples.iter().find(|of| of.name == *example).expect("an example of that name");
        let machine = machine(name);
        let lowered = lower(&example.spec, Entry::Layer, &machine).expect("kernels");
        let choices = choices(lowered.rewritten.at(*tokens), &machine, *tokens);
        let choice = choices.iter().find(|choice| choice.op.starts_with(op)).expect("a choice for the op");
        let what = format!("{decision}: {} on {name}, T = {tokens}: {choice:?}", example.name);
        let ((chosen, cost), others) = choice.ways.split_first().expect("a way");
        assert!(chosen.starts_with(way), "{what}");
        assert!(!others.is_empty() && others.iter().all(|(_, other)| other > cost), "{what}");
        ways.entry(decision).or_default().push(way);
    }
    assert!(ways.len() >= 4 && ways.values().all(|ways| ways.len() > 1 && ways[0] != ways[1]), "{ways:?}");
}

/// Lines of an odd K are not copied to shared memory but loaded, which is dearer, and still far cheaper than multiply-adds.
#[test]
fn products_of_an_odd_k_are_of_matrices() {
    for (example, name) in of_odd_widths().into_iter().flat_map(|example| ["sm_80", "sm_90a"].map(|name| (example.clone(), name)))
    {
        let machine = machine(name);
        let lowered = lower(&example.spec, Entry::Layer, &machine).expect("kernels");
        let choices = choices(lowered.rewritten.at(4096), &machine, 4096);
        let products: Vec<_> = choices.iter().filter(|choice| choice.op.starts_with("grouped_gemm")).collect();
        assert_eq!(products.len(), 2);
        for choice in products {
            let ((chosen, cost), others) = choice.ways.split_first().expect("a way");
            let of_numbers = others.iter().filter(|(way, _)| way.starts_with("tile(")).map(|(_, cost)| *cost).min();
            assert!(
                chosen.starts_with("mma(") && of_numbers.is_some_and(|of_numbers| of_numbers > 2 * *cost),
                "{name}: {choice:?}"
            );
        }
    }
}

/// Only a spec that says so has its factors rounded, and never those of its router.
#[test]
fn tf32_is_asked_for() {
    for (name, tf32) in ["sm_80", "sm_86", "sm_90a", "sm_120a"].into_iter().flat_map(|name| [(name, true), (name, false)]) {
        let mut spec = of_tf32().spec;
        (spec.hidden, spec.expert.intermediate, spec.numerics.tf32) = (1024, 2048, tf32);
        let machine = machine(name);
        let lowered = lower(&spec, Entry::Layer, &machine).expect("kernels");
        let choices = choices(lowered.rewritten.at(4096), &machine, 4096);
        let products: Vec<_> =
            choices.iter().filter(|choice| choice.op.contains("gemm") && choice.ways[0].0 != "apart").collect();
        assert!(products.len() >= 2, "{products:?}");
        for choice in products {
            let chosen = &choice.ways.first().expect("a way").0;
            assert_eq!(chosen.contains("mma("), tf32, "{name}: {choice:?}");
        }
        let text = graph::print(lowered.rewritten.at(4096).graph());
        let router: Vec<&str> = text.split("\n  %").filter(|node| node.contains("[@router]")).collect();
        assert!(router.len() == 1 && !router[0].contains("tf32"), "{text}");
        assert_eq!(text.contains("tf32 $0"), tf32, "{text}");
    }
}
