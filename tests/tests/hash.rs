//! Hash routing where numbers are out of range. Entries of the table outside the experts and, under `hash_oob = "error"`, ids
//! outside the vocabulary are refused before any kernel runs, but for ids of padding. Under `"drop"` a token with such an id has
//! no experts: held to a model by hand in the graph's interpreter, after rewriting, by this CPU's kernels and by emulated PTX.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use moec::diagnostics::Source;
use moec::emulate::options;
use moec::import::Entry;
use moec::pipeline::{build, compile, this_host};
use moec::reference::{difference, reference};
use moec::{package, random, spec};
use moec_codegen::Options;
use moec_runtime::emulator::{self, Sample};
use moec_runtime::package::{DType, Dims, Manifest, Role};
use moec_runtime::statistics::AuxLoss;
use moec_runtime::{Bound, DeviceKind, Error, Layer, Statistics, Tensor};
use moec_tests::machine;
use moec_tests::scaled::modes;
use ptx_emulator::Schedule;

const TARGET: &str = "sm_80";
const TOKENS: u64 = 5;
const VOCABULARY: i32 = 11;
const EXPERTS: i32 = 7;

/// A tensor with the number at this place in the place of its own.
fn with(tensor: &Tensor, place: usize, number: i32) -> Tensor {
    let mut numbers = tensor.to_i32().unwrap();
    numbers[place] = number;
    Tensor::new(DType::I32, tensor.shape().to_vec(), numbers.into_iter().flat_map(i32::to_le_bytes).collect()).unwrap()
}

fn refused<T>(result: Result<T, Error>) -> (&'static str, String) {
    let error = result.err().expect("a refusal");
    (error.code(), error.to_string())
}

#[test]
fn numbers_out_of_range_are_refused() {
    let mode = modes().into_iter().find(|mode| mode.name == "hash").unwrap();
    let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
    let package = compile(&mode.spec, Entry::Layer, &mode.text, &machines, &Options::default()).unwrap();
    let host = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap();
    let (opened, emulator) =
        emulator::open(&package, Some(TARGET), options(TARGET, (Schedule::Adversarial, 5)), Sample::All).unwrap();
    let emulated = Layer::on(&package, opened).unwrap();
    let manifest = package.manifest();
    let place = |role: Role, name: &str| {
        manifest.buffers.iter().filter(|buffer| buffer.role == role).position(|buffer| buffer.name == name).unwrap()
    };
    let (table, ids) = (place(Role::Weight, "hash_table"), place(Role::Input, "token_ids"));
    let weights = random::weights(manifest, 3).unwrap();
    let inputs = random::inputs(manifest, Dims::tokens(TOKENS), 7).unwrap();
    for (device, layer) in [("host", &host), ("PTX", &emulated)] {
        // The last of row 10, and the first of row 2: three entries a row.
        for (at, row, number) in [(32, 10, EXPERTS), (6, 2, -1), (6, 2, i32::MIN), (0, 0, i32::MAX)] {
            let mut weights = weights.clone();
            weights[table] = with(&weights[table], at, number);
            let says = format!("`hash_table` holds {number} in row {row}: it must be from 0 to {}", EXPERTS - 1);
            assert_eq!(refused(layer.bind(weights)), ("RT0315", says), "{device}");
        }
        let bound: Bound = layer.bind(weights.clone()).unwrap();
        for (row, number) in [(4, VOCABULARY), (0, -1), (2, VOCABULARY + 5), (3, i32::MIN), (1, i32::MAX)] {
            let mut inputs = inputs.clone();
            inputs[ids] = with(&inputs[ids], row, number);
            let says = format!("`token_ids` holds {number} in row {row}: it must be from 0 to {}", VOCABULARY - 1);
            assert_eq!(refused(bound.run(&inputs, Dims::tokens(TOKENS))), ("RT0315", says), "{device}");
        }
        assert!(emulator.take_launches().is_empty(), "{device}: nothing ran");
        // Both ends are within.
        let mut inputs = inputs.clone();
        inputs[ids] = with(&with(&inputs[ids], 0, 0), 1, VOCABULARY - 1);
        assert!(bound.run(&inputs, Dims::tokens(TOKENS)).is_ok(), "{device}");
    }
    assert!(!emulator.take_launches().is_empty(), "the emulator ran the last batch");
}

/// Sizes of the layer that the model below knows: hidden, experts, intermediate, picks of a token, vocabulary.
const H: usize = 6;
const E: usize = 5;
const F: usize = 4;
const K: usize = 2;
const V: usize = 11;
/// Places of an expert, where there is a capacity.
const ROOM: usize = 2;

/// Good ids, and among them some that there are none of.
const IDS: [i32; 14] = [0, -1, 10, 11, 3, 16, i32::MIN, 7, i32::MAX, 3, 3, 10, -100, 0];
/// Padding has a good id, and ids that there are none of.
const MASK: [i32; 14] = [1, 1, 1, 1, 0, 0, 1, -3, 1, 1, 1, 1, 0, 1];

#[derive(Clone, Copy)]
struct Parts {
    mask: bool,
    shared: bool,
    capacity: bool,
}

/// What the layer gives, by its definition.
struct Model {
    /// `[T, H]`.
    y: Vec<f64>,
    /// `[T, K]`: whether each pair is there and has a row.
    kept: Vec<bool>,
    load: Vec<u64>,
    /// Tokens that count.
    counted: u64,
    /// `E sum_e f_e P_e` over the tokens that count.
    switch: f64,
    z: f64,
}

/// `w x`, of `w` `[N, len x]`.
fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

/// `down relu(up x)`.
fn ffn(up: &[f64], down: &[f64], x: &[f64]) -> Vec<f64> {
    product(down, &product(up, x).into_iter().map(|x| x.max(0.0)).collect::<Vec<f64>>())
}

fn model(parts: Parts, x: &[f64], ids: &[i32], mask: &[i32], weight: &dyn Fn(&str) -> Vec<f64>) -> Model {
    let tokens = ids.len();
    let (table, router, up, down) = (weight("hash_table"), weight("router"), weight("up"), weight("down"));
    let row = |t: usize| &x[t * H..][..H];
    let is_token = |t: usize| !parts.mask || mask[t] != 0;
    let counts = |t: usize| is_token(t) && (0..V as i32).contains(&ids[t]);
    let logits: Vec<Vec<f64>> = (0..tokens).map(|t| product(&router, row(t))).collect();
    let sum_of = |t: usize| logits[t].iter().map(|l| l.exp()).sum::<f64>();
    let p = |t: usize, e: usize| logits[t][e].exp() / sum_of(t);
    let pick = |t: usize, j: usize| table[ids[t] as usize * K + j] as usize;
    let (mut room, mut load) = ([if parts.capacity { ROOM } else { usize::MAX }; E], vec![0; E]);
    let mut kept = vec![false; tokens * K];
    // All first choices, then all second ones.
    for (j, t) in (0..K).flat_map(|j| (0..tokens).map(move |t| (j, t))).filter(|(_, t)| counts(*t)) {
        let e = pick(t, j);
        load[e] += 1;
        (kept[t * K + j], room[e]) = (room[e] > 0, room[e].saturating_sub(1));
    }
    let mut y = vec![0.0; tokens * H];
    for (t, y) in y.chunks_mut(H).enumerate().filter(|(t, _)| is_token(*t)) {
        for j in (0..K).filter(|j| kept[t * K + j]) {
            let e = pick(t, j);
            let share = p(t, e) / (0..K).map(|j| p(t, pick(t, j))).sum::<f64>();
            let of_expert = ffn(&up[e * F * H..][..F * H], &down[e * F * H..][..F * H], row(t));
            y.iter_mut().zip(of_expert).for_each(|(y, x)| *y += share * x);
        }
        if parts.shared {
            let of_shared = ffn(&weight("shared_up"), &weight("shared_down"), row(t));
            y.iter_mut().zip(of_shared).for_each(|(y, x)| *y += x);
        }
    }
    let counted: Vec<usize> = (0..tokens).filter(|t| counts(*t)).collect();
    let n = counted.len() as f64;
    let share_of = |e: usize| counted.iter().map(|t| p(*t, e)).sum::<f64>() / n;
    let switch = E as f64 * (0..E).map(|e| load[e] as f64 / n * share_of(e)).sum::<f64>();
    let z = counted.iter().map(|t| sum_of(*t).ln().powi(2)).sum::<f64>() / n;
    Model { y, kept, load, counted: counted.len() as u64, switch, z }
}

fn text(parts: Parts) -> String {
    let part = |has: bool, table: &'static str| if has { table } else { "" };
    format!(
        "[moe]\nname = \"hash\"\nhidden = {H}\nexperts = {E}\n[router]\nmode = \"hash\"\nhash_oob = \"drop\"\nvocabulary = {V}\n\
         top_k = {K}\nscore = \"softmax\"\norder = \"score_topk\"\nrenorm = \"sum\"\n[expert]\nintermediate = {F}\n\
         gated = false\nactivation = \"relu\"\n{}{}[tokens]\nmask = {}\n[numerics]\ndtype = \"f32\"\n",
        part(parts.shared, "[shared]\nintermediate = 4\n"),
        part(parts.capacity, "[capacity]\ntokens = 2\npriority = \"choice_major\"\n[lints]\ncapacity_floor = \"allow\"\n"),
        parts.mask,
    )
}

fn integers(numbers: &[i32]) -> Tensor {
    let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    Tensor::new(DType::I32, vec![numbers.len() as u64], bytes).unwrap()
}

fn inputs(manifest: &Manifest, x: &Tensor, ids: &[i32], mask: &[i32]) -> Vec<Tensor> {
    let names = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input).map(|buffer| buffer.name.as_str());
    let of = |name| match name {
        "x" => x.clone(),
        "token_ids" => integers(ids),
        "token_mask" => integers(mask),
        other => panic!("an input {other}"),
    };
    names.map(of).collect()
}

#[test]
fn tokens_outside_the_vocabulary_have_no_experts() {
    for bits in 0..8 {
        let parts = Parts { mask: bits & 1 > 0, shared: bits & 2 > 0, capacity: bits & 4 > 0 };
        let text = text(parts);
        let spec = spec::parse(&Source { name: "hash".into(), text: text.clone() }).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
        let stages = build(&spec, Entry::Layer, &machines, &Options::default()).unwrap();
        let package = package::package(&spec, Entry::Layer, &text, &stages).unwrap();
        let manifest = package.manifest();
        let weights = random::weights(manifest, 3).unwrap();
        let x = random::tokens(DType::F32, IDS.len() as u64, H as u64, 4).unwrap();
        let named = || manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight).zip(&weights);
        let weight = |name: &str| named().find(|(buffer, _)| buffer.name == name).unwrap().1.to_f64();
        let wanted = model(parts, &x.to_f64(), &IDS, &MASK, &weight);
        assert!(parts.capacity == wanted.kept.iter().filter(|kept| **kept).count().ne(&(wanted.counted as usize * K)));
        let given = inputs(manifest, &x, &IDS, &MASK);
        let dims = Dims::tokens(IDS.len() as u64);
        let check = |way: &str, y: &[f64], kept: &[bool]| {
            let what = format!("{way}, mask {}, shared {}, capacity {}", parts.mask, parts.shared, parts.capacity);
            let error = difference(y, &wanted.y).of_largest;
            assert!(error < 2e-5, "{what}: {error:.1e} off");
            assert_eq!(kept, wanted.kept, "{what}");
        };
        for (way, graph) in [("graph", &stages[0].1.graph), ("rewritten graph", stages[0].1.rewritten.at(dims.tokens))] {
            let is = reference(graph.graph().clone(), manifest, &weights, &given, dims).unwrap();
            check(way, &is.output, &is.rows.iter().map(Option::is_some).collect::<Vec<bool>>());
        }
        let host = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap();
        let (opened, emulator) =
            emulator::open(&package, Some(TARGET), options(TARGET, (Schedule::Adversarial, 5)), Sample::All).unwrap();
        for (way, layer) in [("host", host), ("PTX", Layer::on(&package, opened).unwrap())] {
            let run = layer.bind(weights.clone()).unwrap().run(&given, dims).unwrap();
            let rows = run.tensor("route.rows").unwrap().to_i32().unwrap();
            check(way, &run.tensor("y").unwrap().to_f64(), &rows.iter().map(|row| *row >= 0).collect::<Vec<bool>>());
            let s: Statistics = layer.statistics(&run).unwrap().unwrap();
            let others = IDS.len() as u64 - wanted.counted;
            assert_eq!((s.tokens, s.padding_tokens, &s.load), (wanted.counted, Some(others), &wanted.load), "{way}");
            let (switch, z) = (s.aux_loss(AuxLoss::Switch).unwrap(), s.probability.unwrap().z_loss);
            assert!((switch - wanted.switch).abs() < 1e-5 && (z - wanted.z).abs() < 1e-5 * wanted.z, "{way}: {switch}, {z}");
        }
        let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
        assert!(findings.is_empty(), "{findings:?}");
    }
}

/// With `hash_oob = "error"` the id of padding may be any: that of a token may not.
#[test]
fn padding_needs_no_id() {
    let mode = modes().into_iter().find(|mode| mode.name == "padding_of_token_ids").unwrap();
    let machines = [this_host().expect("an x86-64 CPU of level v3")];
    let package = compile(&mode.spec, Entry::Layer, &mode.text, &machines, &Options::default()).unwrap();
    let host = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap();
    let bound = host.bind(random::weights(package.manifest(), 3).unwrap()).unwrap();
    let x = random::tokens(package.manifest().dtype, TOKENS, mode.spec.hidden, 4).unwrap();
    let run = |ids: &[i32], mask: &[i32]| bound.run(&inputs(package.manifest(), &x, ids, mask), Dims::tokens(TOKENS));
    let mask = [1, 0, 1, 0, 0];
    let y = |ids: &[i32]| run(ids, &mask).unwrap().tensor("y").unwrap().clone();
    assert_eq!(y(&[3, -1, 10, -100, i32::MAX]), y(&[3, 0, 10, 4, 10]));
    let says = "`token_ids` holds -100 in row 2: it must be from 0 to 10".to_string();
    assert_eq!(refused(run(&[3, -1, -100, 4, 4], &mask)), ("RT0315", says));
}
