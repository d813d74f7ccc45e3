//! Runs a compiled layer on this CPU with the runtime alone: no compiler, no LLVM.
//!
//! ```text
//! run_package PACKAGE [WEIGHTS [PREFIX]]
//! ```
//!
//! `WEIGHTS` is a safetensors file, an index of several, or a folder with either. `PREFIX` stands before every tensor name in it. Without weights, seeded random ones are bound.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use moec_runtime::package::{self, DType, Manifest, Role};
use moec_runtime::{Checkpoint, DeviceKind, Dims, Layer, Tensor, assemble};

/// Tokens of the batch.
const TOKENS: u64 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = match arguments[..] {
        [package] => run(package, None, ""),
        [package, weights] => run(package, Some(weights), ""),
        [package, weights, prefix] => run(package, Some(weights), prefix),
        _ => {
            eprintln!("usage: run_package PACKAGE [WEIGHTS [PREFIX]]");
            return ExitCode::from(2);
        }
    };
    match said {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Loads, binds, runs one batch, and says what came out.
fn run(package: impl AsRef<Path>, weights: Option<&str>, prefix: &str) -> Result<String, Box<dyn Error>> {
    // Everything in the file is checked before anything is allocated, and loaded before anything runs.
    let package = package::read(&fs::read(package)?)?;
    let layer = Layer::load(&package, DeviceKind::Host { threads: None })?;
    let manifest = layer.manifest();

    let weights = match weights {
        Some(path) => assemble(manifest, &Checkpoint::open(path)?, prefix)?.0,
        None => random_weights(manifest)?,
    };
    // Weights are copied once; the bound layer can then be run from any thread.
    let bound = layer.bind(weights)?;

    let tokens = TOKENS.min(manifest.max_tokens);
    let hidden = manifest.dims.iter().find(|dim| dim.name == "hidden").map_or(0, |dim| dim.value);
    let x = random(manifest.dtype, vec![tokens, hidden], 1.0, 1)?;
    let run = bound.run(&[x], Dims::tokens(tokens))?;

    let mut text = format!("{} on {}: {tokens} tokens in {:?}\n", manifest.layer, layer.target().name, run.elapsed);
    for (name, tensor) in &run.outputs {
        let values = tensor.to_f64();
        let mean = values.iter().map(|value| value.abs()).sum::<f64>() / values.len() as f64;
        writeln!(text, "{name}: {} {:?}, mean magnitude {mean:.6}", tensor.dtype().name(), tensor.shape())?;
    }
    // Routing and statistics are read by their public names.
    for name in ["stats.load", "stats.kept"] {
        if let Some(tensor) = run.tensor(name) {
            writeln!(text, "{name}: {:?}", tensor.to_i32()?)?;
        }
    }
    Ok(text)
}

/// Weights at which a layer neither vanishes nor explodes.
fn random_weights(manifest: &Manifest) -> Result<Vec<Tensor>, moec_runtime::Error> {
    let buffers = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    buffers
        .zip(2..)
        .map(|(buffer, seed)| {
            let shape: Vec<u64> = buffer.shape.iter().filter_map(|n| n.as_const()?.try_into().ok()).collect();
            let inputs = shape.last().copied().unwrap_or(1).max(1);
            random(buffer.dtype, shape, (inputs as f32).sqrt().recip(), seed)
        })
        .collect()
}

/// Values between minus and plus `scale`, the same for the same seed (splitmix64).
fn random(dtype: DType, shape: Vec<u64>, scale: f32, seed: u64) -> Result<Tensor, moec_runtime::Error> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((bits ^ (bits >> 31)) >> 40) as f32 / (1 << 24) as f32;
        scale * (2.0 * unit - 1.0)
    };
    let values: Vec<f32> = std::iter::repeat_with(next).take(shape.iter().product::<u64>() as usize).collect();
    Tensor::from_f32(dtype, shape, &values)
}
