//! Padding takes no part: a batch under a mask gives its tokens what the batch of these tokens alone gives them, in every
//! routing mode, on this CPU's kernels and on the emulated PTX, whatever numbers stand in the rows of padding. Those come out
//! as zeros.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::Arc;

use moec::emulate::options;
use moec::import::Entry;
use moec::pipeline::{compile, this_host};
use moec::random;
use moec::reference::{bound, difference};
use moec::spec::{CapacityGroup, CapacitySize, HashOob, Mode, Spec};
use moec_codegen::Options;
use moec_runtime::emulator::{self, Emulator, Sample};
use moec_runtime::package::{DType, Dims, Role};
use moec_runtime::statistics::AuxLoss;
use moec_runtime::{DeviceKind, Layer, Package, Run, Statistics, Tensor};
use moec_tests::scaled::modes;
use moec_tests::{Example, machine};
use ptx_emulator::Schedule;
use rayon::prelude::*;

const TARGET: &str = "sm_80";
const TOKENS: u64 = 24;
/// Tokens of a sequence.
const ROW_TOKENS: u64 = 12;

/// What became of a batch on one device.
struct Outcome {
    run: Run,
    statistics: Option<Statistics>,
    /// The correction bias once it was moved.
    moved: Option<Vec<f64>>,
}

/// Runs of so many tokens are no sequences.
fn dims(spec: &Spec) -> Dims {
    let is_run = matches!(spec.capacity.map(|capacity| capacity.group), Some(CapacityGroup::Tokens(_)));
    Dims { tokens: TOKENS, sequence_tokens: if is_run { TOKENS } else { ROW_TOKENS } }
}

/// Tokens that a span has, where it is not all.
fn span(spec: &Spec) -> usize {
    match spec.capacity.map(|capacity| capacity.group) {
        Some(CapacityGroup::Tokens(n)) => n as usize,
        Some(CapacityGroup::Sequence | CapacityGroup::All) | None => ROW_TOKENS as usize,
    }
}

/// Every third token of a span is padding, so that each span has as many of the others.
fn is_padding(spec: &Spec, token: usize) -> bool {
    token % span(spec) % 3 == 1
}

/// The layer for the tokens alone: without a mask, and with the capacity that the batch with padding has.
fn without_mask(spec: &Spec) -> (Spec, Dims) {
    let mut alone = spec.clone();
    alone.tokens.mask = false;
    let real_of = |tokens: usize| (0..tokens).filter(|token| !is_padding(spec, *token)).count() as u64;
    if let Some(capacity) = &mut alone.capacity {
        let shared = match capacity.group {
            CapacityGroup::All => TOKENS,
            CapacityGroup::Sequence => ROW_TOKENS,
            CapacityGroup::Tokens(n) => n,
        };
        let room = capacity.tokens_per_expert(shared, spec.router.top_k, spec.experts);
        (capacity.size, capacity.min, capacity.multiple_of) = (CapacitySize::Tokens(room), 0, 1);
        if let CapacityGroup::Tokens(n) = &mut capacity.group {
            *n = real_of(*n as usize);
        }
    }
    (alone, Dims { tokens: real_of(TOKENS as usize), sequence_tokens: real_of(dims(spec).sequence_tokens as usize) })
}

fn package(mode: &Example, spec: &Spec) -> Package {
    let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
    compile(spec, Entry::Layer, &mode.text, &machines, &Options::default()).unwrap()
}

/// The layer on the host, and on the emulator that watches it.
fn devices(package: &Package) -> (Layer, Layer, Arc<Emulator>) {
    let host = Layer::load(package, DeviceKind::Host { threads: Some(1) }).unwrap();
    let (opened, emulator) =
        emulator::open(package, Some(TARGET), options(TARGET, (Schedule::Adversarial, 5)), Sample::All).unwrap();
    (host, Layer::on(package, opened).unwrap(), emulator)
}

fn run(layer: &Layer, inputs: &[Tensor], dims: Dims) -> Outcome {
    let bound = layer.bind(random::weights(layer.manifest(), 3).unwrap()).unwrap();
    let mut batch = bound.batch(inputs, dims).unwrap();
    let elapsed = bound.launch(&mut batch).unwrap();
    let run = bound.collect(&batch, elapsed).unwrap();
    bound.update(&mut batch).unwrap();
    let has_bias = layer.manifest().buffers.iter().any(|buffer| buffer.role == Role::Weight && buffer.name == "correction_bias");
    let moved = has_bias.then(|| bound.weight("correction_bias").unwrap().to_f64());
    Outcome { statistics: layer.statistics(&run).unwrap(), run, moved }
}

/// Inputs with `poison` in the rows of padding, and those of the tokens alone.
fn inputs(package: &Package, spec: &Spec, poison: f32) -> (Vec<Tensor>, Vec<Tensor>) {
    let manifest = package.manifest();
    let drawn = random::inputs(manifest, dims(spec), 7).unwrap();
    let names = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input).map(|buffer| buffer.name.as_str());
    let real: Vec<usize> = (0..TOKENS as usize).filter(|token| !is_padding(spec, *token)).collect();
    let (mut with_padding, mut alone) = (Vec::new(), Vec::new());
    for (name, tensor) in names.zip(drawn) {
        let integers = |values: Vec<i32>| {
            Tensor::new(DType::I32, vec![values.len() as u64], values.into_iter().flat_map(i32::to_le_bytes).collect()).unwrap()
        };
        match name {
            "x" => {
                let n = spec.hidden as usize;
                let x: Vec<f32> = tensor.to_f64().into_iter().map(|x| x as f32).collect();
                let floats = |x: &[f32]| Tensor::from_f32(tensor.dtype(), vec![(x.len() / n) as u64, n as u64], x).unwrap();
                let row = |t: usize| if is_padding(spec, t) { vec![poison; n] } else { x[t * n..][..n].to_vec() };
                with_padding.push(floats(&(0..TOKENS as usize).flat_map(row).collect::<Vec<f32>>()));
                alone.push(floats(&real.iter().flat_map(|t| x[t * n..][..n].to_vec()).collect::<Vec<f32>>()));
            }
            "token_mask" => {
                let mask = |t| if is_padding(spec, t) { 0 } else { 1 - 3 * (t as i32 % 2) };
                with_padding.push(integers((0..TOKENS as usize).map(mask).collect()));
            }
            _ => {
                let ids = tensor.to_i32().unwrap();
                alone.push(integers(real.iter().map(|t| ids[*t]).collect()));
                // Padding has no id, whatever stands there.
                let wild = |t: usize| [-1, -100, i32::MAX, i32::MIN][t / 3 % 4];
                let id = |t: usize| if is_padding(spec, t) { wild(t) } else { ids[t] };
                with_padding.push(integers((0..ids.len()).map(id).collect()));
            }
        }
    }
    (with_padding, alone)
}

/// Every number of one list is the other's, relative to the number or to one.
#[track_caller]
fn same(what: &str, is: &[f64], wanted: &[f64], error: f64) {
    assert_eq!(is.len(), wanted.len(), "{what}");
    let far = is
        .iter()
        .zip(wanted)
        .position(|(a, b)| a != b && (a - b).abs().partial_cmp(&(error * b.abs().max(1.0))) != Some(std::cmp::Ordering::Less));
    assert!(far.is_none(), "{what}: {is:?} is not {wanted:?}");
}

fn numbers(run: &Run, name: &str) -> Option<Vec<f64>> {
    run.tensor(name).map(Tensor::to_f64)
}

/// Rows of `n` numbers: those of tokens, and those of padding.
fn parted(spec: &Spec, values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = values.len() / TOKENS as usize;
    let rows = values.chunks(n.max(1)).enumerate();
    let (padding, real): (Vec<_>, Vec<_>) = rows.partition(|(token, _)| is_padding(spec, *token));
    let flat = |rows: Vec<(usize, &[f64])>| rows.into_iter().flat_map(|(_, row)| row.to_vec()).collect();
    (flat(real), flat(padding))
}

fn check(what: &str, spec: &Spec, dtype: DType, with: &Outcome, alone: &Outcome) {
    let outputs = [with, alone].map(|outcome| numbers(&outcome.run, "y").unwrap());
    let (real, padding) = parted(spec, &outputs[0]);
    assert!(padding.iter().all(|y| y.to_bits() == 0), "{what}: padding is zeros, not {padding:?}");
    let error = difference(&real, &outputs[1]).of_largest;
    assert!(error <= bound(dtype), "{what}: the tokens' outputs are {error:.1e} off");
    if matches!(spec.router.mode, Mode::Soft(_)) {
        for name in ["soft.dispatch", "soft.combine"] {
            let (real, padding) = parted(spec, &numbers(&with.run, name).unwrap());
            assert!(padding.iter().all(|weight| *weight == 0.0), "{what}: {name} of padding");
            same(&format!("{what}: {name}"), &real, &numbers(&alone.run, name).unwrap(), 1e-5);
        }
        return;
    }
    for (name, of_padding) in [("route.experts", -1.0), ("route.weights", 0.0)] {
        let Some(values) = numbers(&with.run, name) else { continue };
        let (real, padding) = parted(spec, &values);
        assert!(padding.iter().all(|x| *x == of_padding), "{what}: {name} of padding");
        same(&format!("{what}: {name}"), &real, &numbers(&alone.run, name).unwrap(), 1e-6);
    }
    // Where the pairs are, too: padding has no row between them.
    let (rows, none) = parted(spec, &numbers(&with.run, "route.rows").unwrap());
    assert!(none.iter().all(|row| *row == -1.0), "{what}: rows of padding");
    let kept = |rows: &[f64]| rows.iter().map(|row| *row >= 0.0).collect::<Vec<bool>>();
    let (is, wanted) = (kept(&rows), kept(&numbers(&alone.run, "route.rows").unwrap()));
    assert_eq!(is, wanted, "{what}: kept pairs");
    for name in ["stats.load", "stats.kept"] {
        assert_eq!(numbers(&with.run, name), numbers(&alone.run, name), "{what}: {name}");
    }
    for name in ["stats.aux_loss", "stats.z_loss", "stats.importance"] {
        let of = |outcome: &Outcome| numbers(&outcome.run, name).unwrap_or_default();
        same(&format!("{what}: {name}"), &of(with), &of(alone), 1e-5);
    }
    assert_eq!(with.moved, alone.moved, "{what}: the bias");
    let (s, wanted) = (with.statistics.as_ref().unwrap(), alone.statistics.as_ref().unwrap());
    // Tokens that are no padding may have no picks either, by their ids.
    assert_eq!((s.tokens, s.padding_tokens), (wanted.tokens, Some(TOKENS - wanted.tokens)), "{what}");
    assert_eq!(numbers(&with.run, "stats.tokens"), Some(vec![wanted.tokens as f64]), "{what}");
    let drops = spec.router.hash_oob == HashOob::Drop;
    assert_eq!(wanted.tokens == alone.run.dims.tokens, !drops, "{what}: ids of the vocabulary");
    assert_eq!((&s.load, &s.kept, &s.first), (&wanted.load, &wanted.kept, &wanted.first), "{what}");
    assert_eq!((s.dropped_pairs, s.dropped_tokens), (wanted.dropped_pairs, wanted.dropped_tokens), "{what}");
    let of = |s: &Statistics| -> Vec<f64> {
        let z = s.probability.as_ref().map(|p| p.z_loss);
        AuxLoss::ALL.into_iter().filter_map(|loss| s.aux_loss(loss)).chain(z).chain([s.health.variance]).collect()
    };
    same(&format!("{what}: statistics"), &of(s), &of(wanted), 1e-5);
}

#[test]
fn padding_takes_no_part() {
    let masked: Vec<Example> = modes().into_iter().filter(|mode| mode.spec.tokens.mask).collect();
    let has = |is: &dyn Fn(&Mode) -> bool| masked.iter().any(|mode| is(&mode.spec.router.mode));
    assert!(has(&|m| *m == Mode::TokenChoice) && has(&|m| *m == Mode::ExpertChoice));
    assert!(has(&|m| *m == Mode::Hash) && has(&|m| matches!(m, Mode::Soft(_))));
    masked.par_iter().for_each(|mode| {
        let (alone, dims_alone) = without_mask(&mode.spec);
        let (with_padding, of_tokens) = (package(mode, &mode.spec), package(mode, &alone));
        let dtype = with_padding.manifest().dtype;
        let (host, emulated, emulator) = devices(&with_padding);
        let plain = devices(&of_tokens);
        for poison in [f32::NAN, f32::INFINITY, 0.0] {
            let (given, real) = inputs(&with_padding, &mode.spec, poison);
            for (device, layer, plain) in [("host", &host, &plain.0), ("PTX", &emulated, &plain.1)] {
                let what = format!("{} on the {device}, padding {poison}", mode.name);
                check(&what, &mode.spec, dtype, &run(layer, &given, dims(&mode.spec)), &run(plain, &real, dims_alone));
            }
        }
        // A batch of nothing else.
        let (mut given, _) = inputs(&with_padding, &mode.spec, f32::NAN);
        given[1] = Tensor::new(DType::I32, vec![TOKENS], vec![0; 4 * TOKENS as usize]).unwrap();
        for layer in [&host, &emulated] {
            let outcome = run(layer, &given, dims(&mode.spec));
            assert!(numbers(&outcome.run, "y").unwrap().iter().all(|y| y.to_bits() == 0), "{}: nothing but padding", mode.name);
            for name in ["stats.load", "stats.kept", "stats.tokens", "stats.aux_loss", "stats.z_loss", "soft.dispatch"] {
                let sums = numbers(&outcome.run, name).unwrap_or_default();
                assert!(sums.iter().all(|x| *x == 0.0), "{}: {name} of nothing but padding: {sums:?}", mode.name);
            }
        }
        let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
        assert!(findings.is_empty(), "{}: {findings:?}", mode.name);
    });
}

/// Without the key there is no such input, and the layer's own kernels: those that it had before there was a key.
#[test]
fn without_the_key_there_is_no_mask() {
    let mode = modes().into_iter().find(|mode| mode.name == "padding_by_position").unwrap();
    let (alone, _) = without_mask(&mode.spec);
    let package = package(&mode, &alone);
    assert!(package.manifest().buffers.iter().all(|buffer| !buffer.name.contains("mask") && buffer.name != "token_count"));
}
