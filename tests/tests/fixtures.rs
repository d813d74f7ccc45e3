//! The differential chain on published blocks: `fixture == interp == rewritten interp == host`, however weights lie on it.
//!
//! The fixtures are layers of public model code on random weights and tokens, with the outputs that code gave.

use std::slice::from_ref;

use moec::import::Entry;
use moec::pipeline::{lower, this_host};
use moec::reference::{NOT_CHOSEN, difference, experts_of_tokens, reference};
use moec::spec::{Host, Mode, Pack, Spec};
use moec_runtime::{Checkpoint, DeviceKind, Dims, Layer, weights};
use moec_tests::built::compiled;
use moec_tests::trials::{Case, Family};
use moec_tests::{Fixture, fixtures, inputs};
use safetensors::SafeTensors;

/// Largest error allowed in f32, relative to the largest output.
const BOUND: f64 = 2e-5;
/// A cast to f32 rounds in the interpreter until a rule has dropped it: some f32 roundings apart, no more.
const ROUNDINGS: f64 = 1e-6;

/// The first `top_k` of the experts of each token, of which there are so many, in no order.
fn sets(experts: &[usize], picks: u64, top_k: u64) -> Vec<Vec<usize>> {
    let set = |picks: &[usize]| {
        let mut picks = picks[..top_k as usize].to_vec();
        picks.sort_unstable();
        picks
    };
    experts.chunks(picks as usize).map(set).collect()
}

/// Blocks of `tests/fixtures`: fewer means that some are missing.
const FEWEST: usize = 61;

/// A trial for each block.
pub(crate) fn family() -> Family {
    let blocks = fixtures();
    assert!(blocks.len() >= FEWEST, "blocks are missing from tests/fixtures: there are {}", blocks.len());
    let of = |fixture: Fixture| {
        let spec = fixture.spec.clone();
        Case::new(fixture.name.clone(), &spec, move || {
            down_the_chain(&fixture);
            Ok(())
        })
    };
    Family { name: "fixtures", one_in: 4, cases: blocks.into_iter().map(of).collect() }
}

fn down_the_chain(Fixture { name, spec, text, file }: &Fixture) {
    let machine = this_host().expect("an x86-64 CPU of level v3");
    let bytes = std::fs::read(file).expect("the fixture");
    let checkpoint = Checkpoint::read(&bytes).expect("safetensors");
    let package = compiled(spec, Entry::Layer, text, from_ref(&machine)).expect("a package");
    let manifest = package.manifest();
    let (weights, _) = weights::assemble(manifest, &checkpoint, "w.").expect("weights");
    let x = inputs(manifest, &checkpoint);
    let tensor = |name: &str| checkpoint.tensor(name, manifest.dtype).expect(name).0.to_f64();
    let published = tensor("out.hidden");
    let dims = Dims::of_activations(x[0].shape()).expect("[T, H] or [B, S, H]");

    let lowered = lower(spec, Entry::Layer, &machine).expect("kernels");
    let interp = |graph: &moec_ir::graph::Typed| {
        reference(graph.graph().clone(), manifest, &weights, &x, dims).expect("the interpreter runs every graph")
    };
    let (plain, rewritten) = (interp(&lowered.graph), interp(lowered.rewritten.at(dims.tokens)));
    let layer = Layer::load(&package, DeviceKind::Host { threads: None }).expect("a layer");
    let run = layer.bind(weights.clone()).expect("bound").run(&x, dims).expect("a run");
    let host = run.tensor("y").expect("y").to_f64();
    let experts = experts_of_tokens(&run);
    for pack in [Pack::Panels, Pack::F32] {
        let spec = Spec { host: Host { pack }, ..spec.clone() };
        let package = compiled(&spec, Entry::Layer, text, from_ref(&machine)).expect("a package");
        let layer = Layer::load(&package, DeviceKind::Host { threads: None }).expect("a layer");
        let run = layer.bind(weights.clone()).expect("bound").run(&x, dims).expect("a run");
        let error = difference(&run.tensor("y").expect("y").to_f64(), &published).of_largest;
        assert!(error <= BOUND, "{name}: {pack:?} {error:.1e}");
    }

    let errors = [
        difference(&plain.output, &published).of_largest,
        difference(&rewritten.output, &plain.output).of_largest,
        difference(&host, &published).of_largest,
    ];
    assert!(errors[0] <= BOUND && errors[1] <= ROUNDINGS && errors[2] <= BOUND, "{name}: {errors:?}");
    let picked = |experts: &[usize]| sets(experts, spec.picks(), spec.picks() - spec.router.joint_shared);
    assert_eq!(picked(&plain.experts), picked(&rewritten.experts), "{name}: rewriting picks other experts");
    assert_eq!(picked(&plain.experts), picked(&experts), "{name}: the host picks other experts");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    if let Ok(theirs) = tensors.tensor("ref.topk_index") {
        let index = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("eight bytes")) as usize;
        let theirs: Vec<usize> = theirs.data().chunks(8).map(index).collect();
        let theirs = sets(&theirs, spec.router.top_k, spec.router.top_k);
        assert_eq!(picked(&experts), theirs, "{name}: the published block picks other experts");
    }
    // Soft routing picks no experts: its weights are those of the block.
    for (ours, theirs) in [("soft.dispatch", "ref.dispatch"), ("soft.combine", "ref.combine")] {
        let is_soft = matches!(spec.router.mode, Mode::Soft(_));
        assert_eq!(run.tensor(ours).is_some(), is_soft, "{name}: {ours}");
        if let Some(weights) = run.tensor(ours) {
            let error = difference(&weights.to_f64(), &tensor(theirs)).of_largest;
            assert!(error <= BOUND, "{name}: {ours} {error:.1e}");
        }
    }
    assert_eq!(experts.is_empty(), matches!(spec.router.mode, Mode::Soft(_)), "{name}");
    if spec.router.mode == Mode::ExpertChoice {
        let theirs = tensors.tensor("ref.probs_dense").expect("the weights of the experts that chose, and zeros");
        let weight = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let theirs: Vec<f32> = theirs.data().chunks(4).map(weight).collect();
        let chose = |(pair, weight): (usize, &f32)| if *weight > 0.0 { pair % spec.experts as usize } else { NOT_CHOSEN };
        let theirs: Vec<usize> = theirs.iter().enumerate().map(chose).collect();
        assert_eq!(experts, theirs, "{name}: in the published block experts choose other tokens");
    }
}
