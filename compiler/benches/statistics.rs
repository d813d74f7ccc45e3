//! What statistics cost: a layer of published size on this CPU, all cores, with what its route kernel observes and without,
//! runs interleaved. Medians of both, and of the differences within the pairs.
#![allow(clippy::print_stdout, reason = "a table for people")]

mod packages;
mod timed;

use std::slice::from_ref;
use std::time::Duration;

use moec::import::{Entry, import};
use moec::pipeline::{batches, lower_graph, this_host};
use moec::spec::Spec;
use moec::{package, random};
use moec_codegen::{Options, codegen};
use moec_ir::graph::{Builder, Graph, Node, OUTPUT, Op};
use moec_runtime::{Batch, Bound, Dims, Layer, Package};
use timed::{Timed, median};

const LAYERS: [&str; 2] = ["qwen3-30b-a3b", "deepseek-v3"];
const TOKENS: [u64; 3] = [1, 64, 4096];
const PAIRS: usize = 11;
/// Experts' inner width where a layer's weights would fill the memory twice: the rest weighs the more.
const NARROW: u64 = 64;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for name in LAYERS.into_iter().filter(|name| asked.is_empty() || asked.iter().any(|a| a == name)) {
        let (mut spec, text) = packages::example(name);
        if name == "deepseek-v3" {
            spec.expert.intermediate = NARROW;
        }
        println!("{name}, intermediate {}: medians of {PAIRS} pairs, ms\n", spec.expert.intermediate);
        println!("{:>8}{:>12}{:>12}{:>12}{:>12}{:>12}", "tokens", "layer", "without", "difference", "route", "without");
        let graph = || import(&spec, Entry::Layer).expect("a graph");
        let layers = [graph(), without(graph())].map(|graph| layer(&spec, &text, graph));
        for tokens in TOKENS {
            let x = random::tokens(layers[0].0.layer().manifest().dtype, tokens, spec.hidden, 0).expect("tokens");
            let mut batches =
                layers.each_ref().map(|(bound, _)| bound.batch(from_ref(&x), Dims::tokens(tokens)).expect("memory"));
            let mut times: [Vec<(Duration, Duration)>; 2] = [Vec::new(), Vec::new()];
            for pair in 0..=PAIRS {
                // Which comes first alternates; the first pair warms up.
                for side in [pair % 2, 1 - pair % 2] {
                    let time = run(&layers[side], &mut batches[side]);
                    if pair > 0 {
                        times[side].push(time);
                    }
                }
            }
            let ms = |time: f64| format!("{:.4}", time * 1e3);
            let of = |side: usize, part: fn(&(Duration, Duration)) -> Duration| median(times[side].iter().map(part).collect());
            let mut apart: Vec<f64> =
                times[0].iter().zip(&times[1]).map(|(with, without)| with.0.as_secs_f64() - without.0.as_secs_f64()).collect();
            apart.sort_by(f64::total_cmp);
            let cells = [
                ms(of(0, |t| t.0).as_secs_f64()),
                ms(of(1, |t| t.0).as_secs_f64()),
                ms(apart[apart.len() / 2]),
                ms(of(0, |t| t.1).as_secs_f64()),
                ms(of(1, |t| t.1).as_secs_f64()),
            ];
            let share = (of(0, |t| t.1).as_secs_f64() - of(1, |t| t.1).as_secs_f64()) / of(1, |t| t.0).as_secs_f64();
            let cells: String = cells.iter().map(|cell| format!("{cell:>12}")).collect();
            println!("{tokens:>8}{cells}   the route kernel's part of the layer grows by {:.3}%", share * 100.0);
        }
        println!();
    }
}

/// The graph of the output alone, without `observe`.
fn without(graph: Graph) -> Graph {
    let mut builder = Builder::default();
    for (param, ty) in &graph.params {
        builder.param(&param.0, ty.clone());
    }
    let mut place = Vec::new();
    for node in graph.nodes.as_ref() {
        let at = |id: &egg::Id| place[usize::from(*id)];
        let id = match node {
            Node::Apply(Op::Observe, operands) => at(&operands[2]),
            Node::Apply(op, operands) => builder.apply(*op, &operands.iter().map(at).collect::<Vec<_>>()),
            Node::Param(_) | Node::Attr(_) | Node::Hole(_) => builder.add(node.clone()),
        };
        place.push(id);
    }
    let output = graph.result(OUTPUT).expect("an output");
    builder.finish(&graph.name, place[usize::from(output)])
}

fn layer(spec: &Spec, text: &str, graph: Graph) -> (Bound, std::sync::Arc<Timed>) {
    let machine = this_host().expect("an x86-64 CPU of level v3");
    let lowered = lower_graph(graph, &machine, &batches(spec)).expect("kernels");
    let objects = codegen(&lowered.program, &machine, &Options::default()).expect("an object");
    let package: Package = package::package(spec, Entry::Layer, text, &[(&machine, lowered, objects)]).expect("a package");
    let (opened, timed) = Timed::open(&package);
    let layer = Layer::on(&package, opened).expect("a layer");
    let bound = layer.bind(random::weights(layer.manifest(), 0).expect("weights")).expect("weights that fit");
    (bound, timed)
}

/// The time of the layer, and of its first launch.
fn run((bound, timed): &(Bound, std::sync::Arc<Timed>), batch: &mut Batch) -> (Duration, Duration) {
    timed.take();
    let all = bound.launch(batch).expect("a run");
    (all, timed.take()[0])
}
