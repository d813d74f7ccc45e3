//! What only training asks for, on the host's kernels and on the emulated PTX: the bias that follows the load, and noise
//! on what the router sees.

use std::sync::Arc;

use moec::diagnostics::Source;
use moec::emulate::options;
use moec::pipeline::{self, this_host};
use moec::{random, spec};
use moec_runtime::emulator::{self, Emulator, Sample};
use moec_runtime::package::{Dims, Dtype};
use moec_runtime::{Bound, DeviceKind, Layer, Package, Run, Tensor};
use moec_tests::machine;
use ptx_emulator::Schedule;

const TARGET: &str = "sm_80";
const RATE: f32 = 0.125;
const TOKENS: u64 = 50;
const HIDDEN: u64 = 24;

fn package(training: &str) -> Package {
    let text = format!(
        "[moe]\nhidden = {HIDDEN}\nexperts = 10\n[router]\ntop_k = 3\nscore = \"sigmoid\"\ncorrection_on = \"score\"\n\
         [capacity]\ntokens = 12\n[expert]\nintermediate = 16\n[numerics]\ndtype = \"f32\"\n[training]\n{training}\n"
    );
    let spec = spec::parse(&Source { name: "training".into(), text: text.clone() }).expect("a spec");
    let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
    pipeline::compile(&spec, &text, &machines, &moec_codegen::Options::default()).expect("a package")
}

/// The layer on the host, and on the emulator that watches it.
fn devices(package: &Package) -> (Layer, Layer, Arc<Emulator>) {
    let host = Layer::load(package, DeviceKind::Host { threads: Some(1) }).expect("a host");
    let options = options(TARGET, (Schedule::Adversarial, 5));
    let (opened, emulator) = emulator::open(package, Some(TARGET), options, Sample::All).expect("an emulator");
    (host, Layer::on(package, opened).expect("a target"), emulator)
}

fn bound(layer: &Layer) -> Bound {
    layer.bind(random::weights(layer.manifest(), 3).expect("weights")).expect("a bound layer")
}

fn tokens() -> Tensor {
    random::tokens(Dtype::F32, TOKENS, HIDDEN, 1).expect("tokens")
}

fn counts(run: &Run, name: &str) -> Vec<i32> {
    run.tensor(name).expect("an observed buffer").to_i32().expect("counts")
}

/// The formula of DeepSeek-V3, in f32 as the kernel.
fn moved(bias: &[f64], load: &[i32]) -> Vec<f64> {
    let mean = load.iter().map(|n| f64::from(*n)).sum::<f64>() / load.len() as f64;
    let step = |load: &i32| match mean.partial_cmp(&f64::from(*load)) {
        Some(std::cmp::Ordering::Greater) => RATE,
        Some(std::cmp::Ordering::Less) => -RATE,
        Some(std::cmp::Ordering::Equal) | None => 0.0,
    };
    bias.iter().zip(load).map(|(bias, load)| f64::from(*bias as f32 + step(load))).collect()
}

#[test]
fn the_bias_follows_the_load() {
    let (host, emulated, emulator) = devices(&package(&format!("bias_update_rate = {RATE}")));
    for layer in [host, emulated] {
        let layer = bound(&layer);
        let bias = || layer.weight("correction_bias").expect("a weight").to_f64();
        let before = bias();
        let mut batch = layer.batch(&[tokens()], Dims::tokens(TOKENS)).expect("memory");
        let elapsed = layer.launch(&mut batch).expect("a run");
        assert_eq!(bias(), before, "a run moves nothing");
        let load = counts(&layer.collect(&batch, elapsed).expect("a run"), "stats.load");
        let dropped: i32 = load.iter().map(|load| (load - 12).max(0)).sum();
        assert!(dropped > 0 && load.iter().sum::<i32>() == 150, "before anything is dropped: {load:?}");
        layer.update(&mut batch).expect("an update");
        let once = bias();
        assert_eq!(once, moved(&before, &load));
        // The sum of several batches is the caller's to make.
        let sum = [9, 9, 9, 8, 10, 9, 0, 18, 9, 9];
        let bytes = sum.iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
        let tensor = Tensor::new(Dtype::I32, vec![10], bytes).expect("a tensor");
        layer.overwrite(&mut batch, "stats.load", &tensor).expect("a place for it");
        layer.update(&mut batch).expect("an update");
        assert_eq!(bias(), moved(&once, &sum));
        let balanced = layer.run(&[tokens()], Dims::tokens(TOKENS)).expect("a run");
        assert_ne!(counts(&balanced, "stats.load"), load, "the next run routes by it");
        let none = layer.overwrite(&mut batch, "stats.lead", &tensor).expect_err("no such place");
        assert!(none.to_string().contains("`stats.load`"), "{none}");
        assert_eq!(layer.weight("bias").expect_err("no such weight").code(), "RT0313");
    }
    let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn without_a_rate_nothing_moves() {
    let (host, ..) = devices(&package(""));
    let layer = bound(&host);
    assert!(layer.layer().target().update.is_empty());
    let before = layer.weight("correction_bias").expect("a weight");
    let mut batch = layer.batch(&[tokens()], Dims::tokens(TOKENS)).expect("memory");
    layer.launch(&mut batch).expect("a run");
    layer.update(&mut batch).expect("nothing to do");
    assert_eq!(layer.weight("correction_bias").expect("a weight"), before);
}

#[test]
fn noise_is_what_the_seed_says() {
    let seed = |low: i32, high: i32| {
        Tensor::new(Dtype::I32, vec![2], [low, high].iter().flat_map(|n| n.to_le_bytes()).collect()).expect("a seed")
    };
    let runs = |training: &str, seeds: &[Tensor]| -> Vec<Run> {
        let (host, emulated, emulator) = devices(&package(training));
        let run =
            |layer: &Layer, seed: &Tensor| bound(layer).run(&[tokens(), seed.clone()], Dims::tokens(TOKENS)).expect("a run");
        let on_host: Vec<Run> = seeds.iter().map(|seed| run(&host, seed)).collect();
        let on_gpu = run(&emulated, &seeds[0]);
        let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(counts(&on_gpu, "route.experts"), counts(&on_host[0], "route.experts"));
        on_host
    };
    let [first, again, other, far] = &runs("jitter = 0.5", &[seed(1, 2), seed(1, 2), seed(2, 2), seed(1, 3)])[..] else {
        panic!("four runs")
    };
    assert_eq!(first.outputs, again.outputs);
    for other in [other, far] {
        assert_ne!(counts(first, "route.experts"), counts(other, "route.experts"));
    }
    // The least noise picks as no noise does: the experts see tokens without any.
    let (host, ..) = devices(&package(""));
    let plain = bound(&host).run(&[tokens()], Dims::tokens(TOKENS)).expect("a run");
    let [least] = &runs("jitter = 1e-7", &[seed(1, 2)])[..] else { panic!("a run") };
    assert_eq!(counts(least, "route.experts"), counts(&plain, "route.experts"));
    let (a, b) = (least.outputs[0].1.to_f64(), plain.outputs[0].1.to_f64());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
}
