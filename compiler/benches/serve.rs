//! A layer that runs when it is told to, so that `scripts/bench_host.py` can take turns with it: not a benchmark by itself.
//!
//! ```text
//! serve make SPEC FILE.safetensors NAME...     random weights, and tokens for each name
//! serve run SPEC FILE.safetensors TARGET       the layer, compiled for a target of this CPU
//! serve limits                                 answers each line by what this machine can do now, measured once
//! ```
//!
//! A name is a routing and a number of tokens: `uniform.16`, or `zipf.16`, in which experts are picked about as often as Zipf's law with the
//! exponent 1.2 says, in an order of its own; `uniform.16.other` has other tokens. Each line of standard input is `run NAME`, answered by the seconds that took; `picks NAME
//! PATH`, which writes the experts of each token as i32, and behind them their weights as f32; or `write NAME PATH`, which writes the last
//! output as f32.
#![allow(clippy::print_stdout, reason = "a protocol")]

mod packages;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, stdin};
use std::path::Path;
use std::time::{Duration, Instant};

use moec::import::Entry;
use moec::ir::Machine;
use moec::limits;
use moec::pipeline::compile;
use moec::random;
use moec_codegen::Options;
use moec_runtime::package::{DType, Manifest, Role};
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Batch, Checkpoint, DeviceKind, Dims, Layer, Package, Tensor, assemble};

/// Of Zipf's law: the expert of rank r is picked as often as `1 / r^1.2`.
const EXPONENT: f32 = 1.2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", spec, file, names @ ..] => make(spec, file, names),
        ["run", spec, file, target] => serve(spec, file, target),
        ["limits"] => serve_limits(),
        _ => panic!("usage: serve make SPEC FILE NAME... | serve run SPEC FILE TARGET | serve limits"),
    }
}

fn package(spec: &str, machine: &Machine) -> Package {
    let (spec, text) = packages::load(spec);
    compile(&spec, Entry::Layer, &text, std::slice::from_ref(machine), &Options::default()).expect("a package")
}

/// Weights as random numbers, but for the router's first column: tokens of `zipf` have a 1 there and those of `uniform` a 0, so that one
/// router serves both.
fn make(spec: &str, file: &str, names: &[&str]) {
    let machine = Machine::named("x86-64-v3").expect("a target");
    let package = package(spec, &machine);
    let manifest = package.manifest();
    let names_of = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight).map(|buffer| buffer.name.clone());
    let mut weights: BTreeMap<String, Tensor> = names_of.zip(random::weights(manifest, 0).expect("weights")).collect();
    // Taken, so that gigabytes are let go of as soon as they are in another place.
    let mut weight = |name: &str| weights.remove(name).expect("a weight");
    let router = weight("router");
    let [experts, hidden] = [0, 1].map(|axis| router.shape()[axis] as usize);
    let mut logits: Vec<f32> = router.to_f64().into_iter().map(|x| x as f32).collect();
    for (rank, row) in ranks(experts).into_iter().zip(logits.chunks_mut(hidden)) {
        row[0] = -EXPONENT * (rank as f32 + 1.0).ln();
    }
    let router = Tensor::from_f32(router.dtype(), router.shape().to_vec(), &logits).expect("a router");
    let (gate_up, down) = (fused(weight("gate"), weight("up")), weight("down"));
    let batches: Vec<(String, Tensor)> = names.iter().map(|name| (format!("x.{name}"), tokens(manifest, name, hidden))).collect();
    let mut tensors = vec![("router", &router), ("gate_up", &gate_up), ("down", &down)];
    tensors.extend(batches.iter().map(|(name, x)| (name.as_str(), x)));
    fs::write(file, to_safetensors(&tensors).expect("a file's bytes")).expect("a file");
}

/// Each number below `count` once, in no order.
fn ranks(count: usize) -> Vec<usize> {
    let mut ranks: Vec<usize> = (0..count).collect();
    // Multiples of a number that shares no factor with `count` go through all of them.
    let step = (count * 5 / 8..).find(|step| gcd(*step, count) == 1).expect("a prime");
    ranks.iter_mut().enumerate().for_each(|(i, rank)| *rank = i * step % count);
    ranks
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Rows of gate, then rows of up, expert by expert.
#[expect(clippy::needless_pass_by_value, reason = "both are let go of")]
fn fused(gate: Tensor, up: Tensor) -> Tensor {
    let [experts, rows, hidden] = [0, 1, 2].map(|axis| gate.shape()[axis]);
    let one = gate.bytes().len() / experts as usize;
    let both = gate.bytes().chunks(one).zip(up.bytes().chunks(one)).flat_map(|(gate, up)| [gate, up]);
    Tensor::new(gate.dtype(), vec![experts, 2 * rows, hidden], both.collect::<Vec<_>>().concat()).expect("a weight")
}

fn tokens(manifest: &Manifest, name: &str, hidden: usize) -> Tensor {
    let (routing, count, seed) = match name.split('.').collect::<Vec<_>>()[..] {
        [routing, count] => (routing, count, 1),
        [routing, count, "other"] => (routing, count, 2),
        _ => panic!("`{name}` is not ROUTING.TOKENS or ROUTING.TOKENS.other"),
    };
    let first = if routing == "zipf" { 1.0 } else { 0.0 };
    let x = random::tokens(manifest.dtype, count.parse().expect("a number"), hidden as u64, seed).expect("tokens");
    let mut values: Vec<f32> = x.to_f64().into_iter().map(|x| x as f32).collect();
    values.chunks_mut(hidden).for_each(|row| row[0] = first);
    Tensor::from_f32(manifest.dtype, x.shape().to_vec(), &values).expect("tokens")
}

fn serve_limits() {
    println!("ready");
    for _ in stdin().lock().lines() {
        let limits = limits::measure(1).expect("what this machine can do");
        println!("{}", serde_json::to_string(&limits).expect("numbers and names"));
    }
}

fn serve(spec: &str, file: &str, target: &str) {
    let machine = Machine::named(target).expect("a target");
    let layer = Layer::load(&package(spec, &machine), DeviceKind::Host { threads: None }).expect("a layer");
    let checkpoint = Checkpoint::open(Path::new(file)).expect("a safetensors file");
    let (weights, _) = assemble(layer.manifest(), &checkpoint, "").expect("the weights that the spec names");
    let bound = layer.bind(weights).expect("weights that fit");
    let batch = |name: &str| -> Batch {
        let (x, _) = checkpoint.tensor(&format!("x.{name}"), layer.manifest().dtype).expect("tokens in the file");
        let tokens = x.shape()[0];
        bound.batch(&[x], Dims::tokens(tokens)).expect("memory")
    };
    let mut batches: BTreeMap<String, Batch> = BTreeMap::new();
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line.expect("a line");
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", name] => {
                // No more than two: batches of many tokens take much memory.
                if !batches.contains_key(name) {
                    if batches.len() > 1 {
                        batches.clear();
                    }
                    batches.insert(name.to_string(), batch(name));
                }
                let start = Instant::now();
                bound.launch(batches.get_mut(name).expect("it is there")).expect("a run");
                println!("{}", start.elapsed().as_secs_f64());
            }
            ["picks", name, path] => {
                let run = bound.collect(&batches[name], Duration::ZERO).expect("an output");
                let [experts, weights] = ["route.experts", "route.weights"]
                    .map(|name| run.tensor(name).expect("what a run observes").bytes().to_vec());
                fs::write(path, [experts, weights].concat()).expect("a file");
                println!("written");
            }
            ["write", name, path] => {
                let run = bound.collect(&batches[name], Duration::ZERO).expect("an output");
                let (_, y) = &run.outputs[0];
                let values: Vec<f32> = y.to_f64().into_iter().map(|y| y as f32).collect();
                let y = Tensor::from_f32(DType::F32, y.shape().to_vec(), &values).expect("an output");
                fs::write(path, y.bytes()).expect("a file");
                println!("written");
            }
            _ => panic!("`{line}` is not a command"),
        }
    }
}
