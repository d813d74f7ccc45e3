//! A layer that runs when it is told to, so that `pytorch.py` can take turns with it: not a benchmark by itself.
//!
//! ```text
//! serve SPEC FILE.safetensors
//! ```
//!
//! The file has the weights under the spec's names, and tokens `x.T` for every T. Each line of standard input is
//! `run T`, answered by the seconds that took, or `write T PATH`, which writes the last output for T as raw bytes.
#![allow(clippy::print_stdout, reason = "a protocol")]

mod packages;

use std::collections::BTreeMap;
use std::io::{BufRead, stdin};
use std::time::{Duration, Instant};

use moec_runtime::{Batch, Checkpoint, DeviceKind, Dims, Layer, assemble};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [spec, file] = &arguments[..] else { panic!("usage: serve SPEC FILE.safetensors") };
    let package = packages::host_package(&packages::load(spec));
    let layer = Layer::load(&package, DeviceKind::Host { threads: None }).expect("a layer");
    let dtype = layer.manifest().dtype;
    let bytes = std::fs::read(file).expect("a file");
    let checkpoint = Checkpoint::read(&bytes).expect("a safetensors file");
    let (weights, _) = assemble(layer.manifest(), &checkpoint, "").expect("the weights that the spec names");
    let bound = layer.bind(weights).expect("weights that fit");
    let batch = |name: &str| -> Option<(String, Batch)> {
        let tokens = name.strip_prefix("x.")?;
        let (x, _) = checkpoint.tensor(name, dtype).expect("tokens");
        Some((tokens.to_string(), bound.batch(&[x], Dims::tokens(tokens.parse().expect("a number"))).expect("memory")))
    };
    let mut batches: BTreeMap<String, Batch> = checkpoint.names().into_iter().filter_map(batch).collect();
    println!("{} on {}", layer.manifest().layer, layer.target().name);
    for line in stdin().lock().lines() {
        let line = line.expect("a line");
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", tokens] => {
                let batch = batches.get_mut(tokens).expect("tokens in the file");
                let start = Instant::now();
                bound.launch(batch).expect("a run");
                println!("{}", start.elapsed().as_secs_f64());
            }
            ["write", tokens, path] => {
                let run = bound.collect(&batches[tokens], Duration::ZERO).expect("an output");
                std::fs::write(path, run.outputs[0].1.bytes()).expect("a file");
                println!("written");
            }
            _ => panic!("`{line}` is not a command"),
        }
    }
}
