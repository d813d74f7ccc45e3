//! Softcaps on gate and up, and an RMS norm with a gain on the output, against formulas written out here in f64: by the graph
//! interpreter, by the host's kernels, and by the emulated PTX.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use crate::command;
use crate::command::{folder, moec_in, product, write};
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Tensor};

const HIDDEN: usize = 32;
const EXPERTS: usize = 4;
const FFN: usize = 24;
const TOKENS: usize = 9;

const SPEC: &str = "
[moe]
name = \"capped\"
hidden = 32
experts = 4
output_norm = \"rms\"
output_norm_eps = 1e-3

[router]
top_k = 2
score = \"sigmoid\"
renorm = \"sum\"

[expert]
intermediate = 24
gate_softcap = 1.5
up_softcap = 0.75

[shared]
intermediate = 24
up_softcap = 2.5

[numerics]
dtype = \"f32\"
";

/// Numbers in -1..1, the same every time.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// `w . x`, rows of `w` of the length of `x`.
fn product_of(w: &[f32], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softcap(x: f64, cap: f64) -> f64 {
    (x / cap).tanh() * cap
}

/// `down( softcap(gate) sigmoid(gate) softcap(up) )`.
fn expert(gate: &[f32], up: &[f32], down: &[f32], x: &[f64], [of_gate, of_up]: [f64; 2]) -> Vec<f64> {
    let (gate, up) = (product_of(gate, x), product_of(up, x));
    let inner: Vec<f64> =
        gate.iter().zip(&up).map(|(gate, up)| softcap(*gate, of_gate) * sigmoid(*gate) * softcap(*up, of_up)).collect();
    product_of(down, &inner)
}

#[test]
fn capped_activations_and_a_norm_on_the_output() {
    let shapes: [(&str, Vec<usize>); 9] = [
        ("router", vec![EXPERTS, HIDDEN]),
        ("gate", vec![EXPERTS, FFN, HIDDEN]),
        ("up", vec![EXPERTS, FFN, HIDDEN]),
        ("down", vec![EXPERTS, HIDDEN, FFN]),
        ("shared_gate", vec![FFN, HIDDEN]),
        ("shared_up", vec![FFN, HIDDEN]),
        ("shared_down", vec![HIDDEN, FFN]),
        ("output_norm", vec![HIDDEN]),
        ("x", vec![TOKENS, HIDDEN]),
    ];
    let data: Vec<Vec<f32>> = shapes.iter().zip(1..).map(|((_, shape), seed)| numbers(seed, shape.iter().product())).collect();
    let [router, gate, up, down, shared_gate, shared_up, shared_down, gain, x] = &data[..] else { panic!() };
    let of_expert = |w: &'_ [f32], expert: usize| w[expert * FFN * HIDDEN..(expert + 1) * FFN * HIDDEN].to_vec();
    let mut expected = Vec::new();
    for token in x.chunks(HIDDEN) {
        let token: Vec<f64> = token.iter().map(|x| f64::from(*x)).collect();
        let scores: Vec<f64> = product_of(router, &token).into_iter().map(sigmoid).collect();
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let sum = scores[order[0]] + scores[order[1]];
        // The shared expert inherits the cap of the gate.
        let mut y: Vec<f64> = expert(shared_gate, shared_up, shared_down, &token, [1.5, 2.5]);
        for picked in &order[..2] {
            let [gate, up, down] = [gate, up, down].map(|w| of_expert(w, *picked));
            let out = expert(&gate, &up, &down, &token, [1.5, 0.75]);
            y.iter_mut().zip(out).for_each(|(y, out)| *y += out * scores[*picked] / sum);
        }
        let mean = y.iter().map(|y| y * y).sum::<f64>() / HIDDEN as f64;
        expected.extend(y.iter().zip(gain).map(|(y, gain)| y / (mean + 1e-3).sqrt() * f64::from(*gain)));
    }

    let folder = folder();
    let tensors: Vec<(&str, Tensor)> = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| {
            let shape = shape.iter().map(|n| *n as u64).collect();
            (*name, Tensor::from_f32(DType::F32, shape, data).unwrap())
        })
        .collect();
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    write(folder.path(), "w.safetensors", to_safetensors(&tensors).unwrap());
    write(folder.path(), "s.toml", SPEC);
    for device in [&["--reference"][..], &["--device", "emulator", "--target", "sm_80"]] {
        let run = ["run", "s.toml", "--weights", "w.safetensors", "--input", "w.safetensors:x", "--output", "y.safetensors"];
        product(&moec_in(folder.path(), &[&run[..], device].concat()));
        let bytes = fs::read(folder.path().join("y.safetensors")).unwrap();
        let y = Checkpoint::read(&bytes).unwrap();
        let y = y.tensor("out.hidden", DType::F32).unwrap().0.to_f64();
        let most = expected.iter().fold(0.0, |most: f64, y| most.max(y.abs()));
        for (at, (y, expected)) in y.iter().zip(&expected).enumerate() {
            assert!((y - expected).abs() < 1e-5 * most, "{device:?} {at}: {y} and {expected}");
        }
        assert_eq!(y.len(), expected.len());
    }
}

/// What the new keys may not stand beside.
#[test]
fn what_contradicts() {
    let refused = |from: &str, to: &str, words: &str| {
        let spec = SPEC.replace(from, to);
        let output = command::moec_with_input(&["check", "-"], &spec);
        assert_eq!(output.status.code(), Some(1), "{to}");
        assert!(command::stderr(&output).contains(words), "{to}: {}", command::stderr(&output));
    };
    refused("gate_softcap = 1.5", "gate_softcap = 1.5\nactivation = \"gelu\"", "gate_softcap is a part of silu");
    refused("gate_softcap = 1.5", "gate_softcap = 0.0", "gate_softcap");
    refused("output_norm_eps = 1e-3", "", "output_norm_eps");
    refused("output_norm = \"rms\"\n", "", "output_norm");
}
