//! Runs compiled layers on this machine's NVIDIA GPU and holds the results against those that are known: no compiler, no LLVM.
//!
//! ```text
//! check_gpu FOLDER
//! ```
//!
//! `FOLDER/cases/NAME.moec` is run on `NAME.safetensors` (`in.hidden` and other inputs, weights below `w.`) beside it, and
//! compared with its `out.hidden`, and bit for bit with the `out.hidden` of `NAME.emulated.safetensors`, which the emulator
//! wrote. `FOLDER/timed/NAME.moec` is timed on random weights. `scripts/gpu_kit.sh` makes such a folder.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use moec_runtime::package::{self, Buffer, DType, Role};
use moec_runtime::{Bound, Checkpoint, DeviceKind, Dims, Layer, Tensor, assemble};

/// The part of the largest output that an error may be: what the tests hold the host to.
const BOUND_F32: f64 = 2e-5;
/// Runs of each case that must give the same bits.
const REPEATS: usize = 20;
/// Batches to time.
const TOKENS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];
/// Runs of a timed batch, after one to warm up; the median is printed. Fewer where they take longer than this together.
const TIMED: usize = 7;
const LONGEST: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: check_gpu FOLDER");
        return ExitCode::from(2);
    };
    let mut wrong = 0;
    println!("{:<28} {:>9} {:>10} {:>8} {:>8}  launches", "case", "error", "emulator", "repeats", "experts");
    for path in packages(&folder.join("cases")) {
        match case(&path) {
            Ok(line) => {
                wrong += usize::from(!line.is_right);
                println!("{:<28} {}", name(&path), line.text);
            }
            Err(error) => {
                wrong += 1;
                println!("{:<28} failed: {error}", name(&path));
            }
        }
    }
    println!("{wrong} wrong");
    println!("{:<28} {:>7} {:>12} {:>12} {:>12}", "timed", "tokens", "least us", "median us", "most us");
    for path in packages(&folder.join("timed")) {
        if let Err(error) = timed(&path) {
            wrong += 1;
            println!("{:<28} failed: {error}", name(&path));
        }
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The packages of a folder, in the order of their names; none where there is no folder.
fn packages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "moec")).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What is said of one case.
struct Line {
    is_right: bool,
    text: String,
}

fn case(path: &Path) -> Result<Line, Box<dyn Error>> {
    let package = package::read(&fs::read(path)?)?;
    let layer = Layer::load(&package, DeviceKind::Cuda { ordinal: 0 })?;
    let manifest = layer.manifest();
    let given = fs::read(path.with_extension("safetensors"))?;
    let given = Checkpoint::read(&given)?;
    let bound = layer.bind(assemble(manifest, &given, "w.")?.0)?;
    let wanted = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input);
    let inputs = wanted.enumerate().map(|(index, buffer)| {
        let name = if index == 0 { "in.hidden".to_string() } else { format!("in.{}", buffer.name) };
        given.tensor(&name, buffer.dtype).map(|(tensor, _)| tensor)
    });
    let inputs: Vec<Tensor> = inputs.collect::<Result<_, _>>()?;
    let dims = Dims::of_activations(inputs[0].shape())?;
    let run = bound.run(&inputs, dims)?;
    let output = &run.outputs[0].1;

    let expected = given.tensor("out.hidden", DType::F32)?.0.to_f64();
    let largest = expected.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let off = output.to_f64().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest;

    let emulated = fs::read(path.with_extension("emulated.safetensors"))?;
    let emulated = Checkpoint::read(&emulated)?;
    let bits_of = |name: &str, dtype| emulated.tensor(name, dtype).map(|(tensor, _)| tensor.bytes().to_vec());
    let same = bits_of("out.hidden", output.dtype())? == output.bytes();
    let experts = match run.tensor("route.experts") {
        Some(experts) if emulated.has("route.experts") => Some(bits_of("route.experts", experts.dtype())? == experts.bytes()),
        Some(_) | None => None,
    };
    let mut repeats = true;
    for _ in 0..REPEATS {
        repeats &= bound.run(&inputs, dims)?.outputs[0].1.bytes() == output.bytes();
    }
    let launches = layer.target().regimes.first().map_or(0, |regime| regime.launches.len());
    let word = |holds: bool| if holds { "same" } else { "DIFFER" };
    Ok(Line {
        is_right: off <= BOUND_F32 && same && repeats && experts != Some(false),
        text: format!("{off:>9.1e} {:>10} {:>8} {:>8}  {launches}", word(same), word(repeats), experts.map_or("-", word)),
    })
}

fn timed(path: &Path) -> Result<(), Box<dyn Error>> {
    let package = package::read(&fs::read(path)?)?;
    let layer = Layer::load(&package, DeviceKind::Cuda { ordinal: 0 })?;
    let weights = layer.manifest().buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    let weights: Vec<Tensor> = weights.map(|buffer| random(buffer, None)).collect::<Result<_, _>>()?;
    let bound = layer.bind(weights)?;
    for tokens in TOKENS.into_iter().filter(|tokens| *tokens <= bound.layer().manifest().max_tokens) {
        let times = times(&bound, tokens)?;
        let us = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e6);
        let (least, median, most) = (us(times.first()), us(times.get(times.len() / 2)), us(times.last()));
        println!("{:<28} {tokens:>7} {least:>12.1} {median:>12.1} {most:>12.1}", name(path));
    }
    Ok(())
}

/// The times of the launches of one batch, ascending: from the first launch to when all is done, nothing copied.
fn times(bound: &Bound, tokens: u64) -> Result<Vec<Duration>, Box<dyn Error>> {
    let dims = Dims::tokens(tokens);
    let layer = bound.layer();
    let inputs = layer.manifest().buffers.iter().filter(|buffer| buffer.role == Role::Input);
    let inputs: Vec<Tensor> = inputs.map(|buffer| random(buffer, Some(dims))).collect::<Result<_, _>>()?;
    let mut batch = bound.batch(&inputs, dims)?;
    bound.launch(&mut batch)?;
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < TIMED && started.elapsed() < LONGEST {
        times.push(bound.launch(&mut batch)?);
    }
    times.sort_unstable();
    Ok(times)
}

/// Random content of a buffer's type and shape: a block of it, repeated, so that gigabytes are made in no time.
fn random(buffer: &Buffer, dims: Option<Dims>) -> Result<Tensor, moec_runtime::Error> {
    let dims = dims.unwrap_or(Dims::tokens(0));
    let shape = buffer.shape.iter().map(|extent| extent.eval(dims).map(|n| n.unsigned_abs())).collect::<Result<Vec<_>, _>>()?;
    let inner = shape.last().copied().unwrap_or(1).max(1);
    let scale = if buffer.role == Role::Weight { (inner as f32).sqrt().recip() } else { 1.0 };
    // A prime length, so that rows differ.
    const BLOCK: u64 = 1_000_003;
    let count = shape.iter().product::<u64>();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ count;
    let values = (0..BLOCK.min(count)).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    });
    let values: Vec<f32> = values.collect();
    let block = Tensor::from_f32(buffer.dtype, vec![values.len() as u64], &values)?;
    let mut bytes = block.bytes().repeat(count.div_ceil(BLOCK) as usize);
    bytes.truncate((count * buffer.dtype.bytes()) as usize);
    Tensor::new(buffer.dtype, shape, bytes)
}
