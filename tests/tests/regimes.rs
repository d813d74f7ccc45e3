//! Which kernels run in which range of T, for each example spec and GPU: a table that is checked in, and that each range ends where the
//! model says that the next one's kernels become cheaper.

use std::fmt::Write;

use moec::import::Entry;
use moec::pipeline::{Lowered, batches, lower};
use moec::plan::plan;
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_ir::rewrite::graph_cost;
use moec_tests::{Example, examples, root};
use rayon::prelude::*;

/// Ranges of a layer, at most.
const MOST_REGIMES: usize = 4;

#[test]
fn ranges_end_where_others_become_cheaper() {
    for example in examples() {
        let machines: Vec<Machine> = MACHINES.into_iter().filter(Machine::is_gpu).collect();
        let of = |machine: &Machine| {
            let lowered = lower(&example.spec, Entry::Layer, machine).unwrap();
            hold_ranges(&example, machine, &lowered);
            rows(&example, machine, &lowered)
        };
        let table: String = machines.par_iter().map(of).collect::<Vec<_>>().concat();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(root().join("tests/snapshots").join(&example.name));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("regimes", table));
    }
}

/// A row for each range and kernel.
fn rows(example: &Example, machine: &Machine, lowered: &Lowered) -> String {
    let regimes = &lowered.rewritten.regimes;
    let firsts: Vec<u64> = std::iter::once(1).chain(regimes.iter().filter_map(|regime| Some(regime.tokens_up_to? + 1))).collect();
    let plan = plan(&example.name, &[(machine, lowered, &[])], &firsts).unwrap();
    let mut rows = String::new();
    for (first, batch) in firsts.iter().zip(&plan.targets[0].batches) {
        let range = format!("{first}..{}", batch.tokens_up_to.map_or(String::new(), |last| last.to_string()));
        for op in &batch.ops {
            for launch in &op.launches {
                let way = op.way.as_deref().unwrap_or("");
                writeln!(rows, "{:8} {range:12} {:24} {}", machine.name, way, launch.kernel).unwrap();
            }
        }
    }
    rows
}

/// Graphs are compared at the powers of two, the expected batches and the largest. Between two of these a range ends at the last batch that
/// its graph is cheapest for. At one of them two ranges may have been joined, where that costs a hundredth at most; where there are four
/// ranges, which are as many as there may be, it may cost more.
fn hold_ranges(example: &Example, machine: &Machine, lowered: &Lowered) {
    let (regimes, batches) = (&lowered.rewritten.regimes, batches(&example.spec));
    let serves = |tokens: u64| regimes.iter().position(|regime| regime.tokens_up_to.is_none_or(|last| tokens <= last)).unwrap();
    let is_compared = |tokens: u64| tokens.is_power_of_two() || batches.expected.contains(&tokens) || tokens == batches.most;
    let lasts: Vec<u64> = regimes.iter().filter_map(|regime| regime.tokens_up_to).collect();
    let ends = lasts.iter().flat_map(|last| [(*last, last + 1), (last + 1, *last)]);
    // A batch of each range.
    let others: Vec<u64> = lasts.iter().copied().chain([batches.most]).collect();
    let powers = (0..).map(|bits| 1 << bits).take_while(|tokens| *tokens <= batches.most);
    let inside = powers.flat_map(|tokens| others.iter().map(move |other| (tokens, *other)));
    for (tokens, other) in ends.chain(inside) {
        let cost = |served: u64| u128::from(graph_cost(&regimes[serves(served)].graph, machine, &[tokens]));
        let (own, other) = (cost(tokens), cost(other));
        let is_cheaper = own <= other || is_compared(tokens) && (own * 100 <= other * 101 || regimes.len() == MOST_REGIMES);
        assert!(
            is_cheaper,
            "{} on {}, T = {tokens}: {own} ps, by the kernels of another range {other}",
            example.name, machine.name
        );
    }
}
