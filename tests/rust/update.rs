//! `update IN OUT TOKENS`: a run and an update of the layer `training`, with weights that are given and with weights that are
//! bound. IN has x and the weights, OUT gets y and the correction bias of each.
#![deny(warnings)]

use std::error::Error;
use std::fs;

use training::{Batch, Layer, Memory, Weights};

include!(concat!(env!("ROOM"), "/training.rs"));

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let bytes = fs::read(&arguments[1])?;
    let tokens: usize = arguments[3].parse()?;
    let mut all = bytes.chunks(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mut next = |count: usize| all.by_ref().take(count).collect::<Vec<f32>>();
    let (x, router, bias) = (next(tokens * 24), next(10 * 24), next(10));
    let [gate, up, down] = [0; 3].map(|_| next(10 * 16 * 24));

    let layer = Layer::host(2)?;
    let mut workspace = Memory::new(layer.workspace_bytes(tokens, 0)?);
    let mut out = Vec::new();
    for is_bound in [false, true] {
        let (mut changed, mut y) = (bias.clone(), vec![0.0; x.len()]);
        let mut weights = Weights { router: &router, correction_bias: &mut changed, gate: &gate, up: &up, down: &down };
        if is_bound {
            let mut bound = layer.bind(weights)?;
            bound.run(Batch { x: &x, y: &mut y, sequence_tokens: 0 }, &mut workspace)?;
            bound.update(Batch { x: &x, y: &mut y, sequence_tokens: 0 }, &mut workspace)?;
        } else {
            layer.run(&weights, Batch { x: &x, y: &mut y, sequence_tokens: 0 }, &mut workspace)?;
            layer.update(&mut weights, Batch { x: &x, y: &mut y, sequence_tokens: 0 }, &mut workspace)?;
        }
        out.extend(y.iter().chain(&changed).flat_map(|value| value.to_le_bytes()));
    }
    fs::write(&arguments[2], out)?;
    Ok(())
}
