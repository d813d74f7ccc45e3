//! Soft routing on the host against the formulas of its papers, written out in f64: Puigcerver et al. 2023, equations 1 to 3,
//! with the norms of V-MoE (`l2`) and of lucidrains' soft-moe-pytorch (`rms`).

use std::collections::BTreeMap;

use moec::diagnostics::Source;
use moec::import::Entry;
use moec::pipeline::{compile, this_host};
use moec::random;
use moec::reference::difference;
use moec::spec::parse;
use moec_codegen::Options;
use moec_runtime::package::{DType, Dims, Role};
use moec_runtime::{Bound, DeviceKind, Layer, Tensor};

const HIDDEN: usize = 20;
const EXPERTS: usize = 3;
const FFN: usize = 12;
const SLOTS: usize = 2;
/// Three sequences of 13 tokens.
const DIMS: Dims = Dims { tokens: 39, sequence_tokens: 13 };

/// What the formulas need of the spec.
struct Variant {
    keys: &'static str,
    weights: &'static str,
    norm: fn(&[f64]) -> Vec<f64>,
    dispatch_normed: bool,
}

fn as_it_is(x: &[f64]) -> Vec<f64> {
    x.to_vec()
}

fn l2(x: &[f64]) -> Vec<f64> {
    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}

fn rms(x: &[f64]) -> Vec<f64> {
    let root = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + 1e-12).sqrt();
    x.iter().map(|x| x / root).collect()
}

const VARIANTS: [Variant; 4] = [
    Variant { keys: "norm = \"l2\"\nnorm_eps = 1e-6", weights: "slot_scale = \"slot_scale\"", norm: l2, dispatch_normed: false },
    Variant { keys: "norm = \"l2\"\nnorm_eps = 1e-6\ndispatch_normed = true", weights: "", norm: l2, dispatch_normed: true },
    Variant {
        keys: "norm = \"rms\"\nnorm_eps = 1e-12\ndispatch_normed = true",
        weights: "token_gain = \"token_gain\"\nslot_gain = \"slot_gain\"",
        norm: rms,
        dispatch_normed: true,
    },
    Variant { keys: "norm = \"none\"", weights: "", norm: as_it_is, dispatch_normed: false },
];

/// The layer on the host, and its weights by name.
fn layer(variant: &Variant) -> (Bound, BTreeMap<String, Vec<f64>>) {
    let Variant { keys, weights, .. } = variant;
    let text = format!(
        "[moe]\nname = \"soft\"\nhidden = {HIDDEN}\nexperts = {EXPERTS}\n[router]\nmode = \"soft\"\nslots = {SLOTS}\n{keys}\n\
         [expert]\nintermediate = {FFN}\n[weights]\n{weights}\n[numerics]\ndtype = \"f32\"\n"
    );
    let spec = parse(&Source { name: "soft".to_string(), text: text.clone() }).expect("a correct spec");
    let machine = this_host().expect("an x86-64 CPU of level v3");
    let package = compile(&spec, Entry::Layer, &text, &[machine], &Options::default()).expect("a package");
    let manifest = package.manifest();
    let drawn = random::weights(manifest, 5).expect("weights");
    let names = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight).map(|buffer| buffer.name.clone());
    let by_name = names.zip(drawn.iter().map(Tensor::to_f64)).collect();
    let layer = Layer::load(&package, DeviceKind::Host { threads: None }).expect("a layer");
    (layer.bind(drawn).expect("bound"), by_name)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

/// One sequence: its tokens to its outputs.
fn sequence(variant: &Variant, weights: &BTreeMap<String, Vec<f64>>, x: &[f64]) -> Vec<f64> {
    let tensor = |name: &str| weights.get(name).map(Vec::as_slice);
    let normed = |x: &[f64], gain: &str| {
        let normed = (variant.norm)(x);
        tensor(gain).map_or(normed.clone(), |gain| normed.iter().zip(gain).map(|(x, g)| x * g).collect::<Vec<f64>>())
    };
    let tokens: Vec<&[f64]> = x.chunks(HIDDEN).collect();
    let unit: Vec<Vec<f64>> = tokens.iter().map(|x| normed(x, "token_gain")).collect();
    let phi: Vec<Vec<f64>> = tensor("slots").expect("slots").chunks(HIDDEN).map(|phi| normed(phi, "slot_gain")).collect();
    let scale = tensor("slot_scale").map_or(1.0, |scale| scale[0]);
    let mut y = vec![0.0; x.len()];
    let of_token = |x: &Vec<f64>| softmax(&phi.iter().map(|phi| scale * dot(x, phi)).collect::<Vec<f64>>());
    let combine: Vec<Vec<f64>> = unit.iter().map(of_token).collect();
    for (i, of_slot) in phi.iter().enumerate() {
        let dispatch = softmax(&unit.iter().map(|x| scale * dot(x, of_slot)).collect::<Vec<f64>>());
        let mixed = |t: usize| if variant.dispatch_normed { unit[t].as_slice() } else { tokens[t] };
        let slot: Vec<f64> = (0..HIDDEN).map(|h| (0..tokens.len()).map(|t| dispatch[t] * mixed(t)[h]).sum::<f64>()).collect();
        let matrix = |name: &str, f: usize, width: usize| {
            let at = (i / SLOTS * if name == "down" { HIDDEN } else { FFN } + f) * width;
            weights[name][at..][..width].to_vec()
        };
        let inner = |f: usize| {
            let gate = dot(&matrix("gate", f, HIDDEN), &slot);
            gate / (1.0 + (-gate).exp()) * dot(&matrix("up", f, HIDDEN), &slot)
        };
        let inner: Vec<f64> = (0..FFN).map(inner).collect();
        let out: Vec<f64> = (0..HIDDEN).map(|h| dot(&matrix("down", h, FFN), &inner)).collect();
        for t in 0..tokens.len() {
            (0..HIDDEN).for_each(|h| y[t * HIDDEN + h] += combine[t][i] * out[h]);
        }
    }
    y
}

fn run(layer: &Bound, x: &[f64]) -> Vec<f64> {
    let values: Vec<f32> = x.iter().map(|x| *x as f32).collect();
    let x = Tensor::from_f32(DType::F32, vec![DIMS.tokens, HIDDEN as u64], &values).expect("tokens");
    layer.run(&[x], DIMS).expect("a run").tensor("y").expect("y").to_f64()
}

fn tokens() -> Vec<f64> {
    random::tokens(DType::F32, DIMS.tokens, HIDDEN as u64, 9).expect("tokens").to_f64()
}

#[test]
fn the_formulas_of_the_papers() {
    let x = tokens();
    for variant in &VARIANTS {
        let (layer, weights) = layer(variant);
        let expected: Vec<f64> =
            x.chunks(DIMS.sequence_tokens as usize * HIDDEN).flat_map(|x| sequence(variant, &weights, x)).collect();
        let error = difference(&run(&layer, &x), &expected).of_largest;
        assert!(error < 2e-6, "{}: {error:.1e}", variant.keys);
    }
}

/// Tokens of a sequence have no order: another one gives the same outputs in that order, and those of the other sequences
/// keep their bits.
#[test]
fn tokens_of_a_sequence_have_no_order() {
    let x = tokens();
    let row = DIMS.sequence_tokens as usize;
    // Of the second sequence, from the last to the first.
    let place = |t: usize| if (row..2 * row).contains(&t) { 3 * row - 1 - t } else { t };
    let turned =
        |x: &[f64]| (0..DIMS.tokens as usize).flat_map(|t| x[place(t) * HIDDEN..][..HIDDEN].to_vec()).collect::<Vec<f64>>();
    for variant in &VARIANTS {
        let (layer, _) = layer(variant);
        let (y, of_turned) = (run(&layer, &x), run(&layer, &turned(&x)));
        let error = difference(&turned(&of_turned), &y).of_largest;
        assert!(error < 1e-6, "{}: {error:.1e}", variant.keys);
        let others = (0..row).chain(2 * row..DIMS.tokens as usize);
        assert!(others.into_iter().all(|t| y[t * HIDDEN..][..HIDDEN] == of_turned[t * HIDDEN..][..HIDDEN]), "{}", variant.keys);
    }
}
