//! Runs a layer that the build script compiled, on the tensors of a published block: `engine FOLDER`, which tensors.py has filled.

use std::error::Error;
use std::path::{Path, PathBuf};

use mixtral::{Batch, Layer, Memory, Weights};

include!(concat!(env!("OUT_DIR"), "/mixtral.rs"));

fn read(folder: &Path, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let path = folder.join(name).with_extension("bin");
    let bytes = std::fs::read(&path).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: engine FOLDER")?);
    let tensor = |name: &str| read(&folder, name);
    let (x, expected, mut y) = (tensor("x")?, tensor("y")?, tensor("y")?);
    let (router, gate, up, down) = (tensor("router")?, tensor("gate")?, tensor("up")?, tensor("down")?);
    y.fill(0.0);

    // Once: the device, the weights, and memory for the largest batch.
    let layer = Layer::host(0)?;
    let bound = layer.bind(Weights { router: &router, gate: &gate, up: &up, down: &down })?;
    let tokens = x.len() / 32;
    let mut workspace = Memory::new(layer.workspace_bytes(tokens, 0)?);

    // Each step.
    bound.run(Batch { x: &x, y: &mut y, sequence_tokens: 0 }, &mut workspace)?;

    let largest = expected.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-5 * largest;
    let near = y.iter().zip(&expected).filter(|pair| is_near(*pair)).count();
    let wrong = y.len() - near;
    println!(
        "{} on {}: T = {tokens}, {wrong} of {} outputs differ from the published block",
        mixtral::LAYER,
        layer.target(),
        y.len()
    );

    let short = bound.run(Batch { x: &x, y: &mut y[32..], sequence_tokens: 0 }, &mut workspace);
    println!("a wrong shape: {}", short.err().ok_or("it was taken")?);
    if wrong == 0 { Ok(()) } else { Err("the outputs differ".into()) }
}
