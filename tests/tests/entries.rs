//! The entries of a layer: which a layer has, and what the experts alone make of given picks, by the definition.

use moec::import::{Entry, import};
use moec::pipeline::this_host;
use moec::reference::{bound, difference};
use moec::spec::{self, Apply, Mode};
use moec_runtime::package::{DType, Dims, Manifest, Role};
use moec_runtime::{DeviceKind, Layer, Tensor};
use moec_tests::built::compiled;
use moec_tests::fixtures;

fn names(manifest: &Manifest, role: Role) -> impl Iterator<Item = &str> {
    manifest.buffers.iter().filter(move |buffer| buffer.role == role).map(|buffer| buffer.name.as_str())
}

/// Integers as a tensor.
fn integers(shape: &[u64], numbers: impl IntoIterator<Item = i32>) -> Tensor {
    Tensor::new(DType::I32, shape.to_vec(), numbers.into_iter().flat_map(i32::to_le_bytes).collect()).unwrap()
}

/// `down . (silu(gate . x) * (up . x))` of one expert, in f64.
fn expert(weights: &[&[f64]; 3], e: usize, [hidden, intermediate]: [usize; 2], x: &[f64]) -> Vec<f64> {
    let row = |w: &[f64], row: usize, x: &[f64]| (0..x.len()).map(|k| w[row * x.len() + k] * x[k]).sum::<f64>();
    let inner: Vec<f64> = (0..intermediate)
        .map(|f| {
            let [gate, up] = [weights[0], weights[1]].map(|w| row(w, e * intermediate + f, x));
            gate / (1.0 + (-gate).exp()) * up
        })
        .collect();
    (0..hidden).map(|h| row(weights[2], e * hidden + h, &inner)).collect()
}

/// The sum over the picks by its definition, with picks of no expert, of one expert twice, and of experts that are elsewhere; under
/// weights on either side of the experts.
#[test]
fn given_picks_are_summed_by_definition() {
    const TOKENS: usize = 9;
    const H: usize = 24;
    const F: usize = 16;
    const E: usize = 6;
    const K: usize = 3;
    let text = |apply: &str| {
        format!(
            "[moe]\nname = \"given\"\nhidden = {H}\nexperts = {E}\n[router]\nmode = \"token_choice\"\ntop_k = {K}\nscore = \"softmax\"\n\
             apply = \"{apply}\"\n[expert]\nintermediate = {F}\nactivation = \"silu\"\ngated = true\n[numerics]\ndtype = \"f32\"\n"
        )
    };
    let none = [-1, E as i32, i32::MAX, i32::MIN, -7];
    let id = |pair: usize| match pair % 4 {
        1 => none[pair / 4 % none.len()],
        // As the pick before the one that is none: its expert twice.
        2 => ((pair - 2) * 5 % E) as i32,
        _ => (pair * 5 % E) as i32,
    };
    let weight = |pair: usize| if pair % 4 == 1 { f32::NAN } else { pair as f32 / 20.0 - 0.4 };
    let numbers = [-1, 2, 0, i32::MAX, 1, i32::MIN];
    for (apply, map) in [("output", None), ("input", None), ("output", Some(numbers)), ("input", Some(numbers))] {
        let source = moec::diagnostics::Source { name: "given.toml".into(), text: text(apply) };
        let spec = spec::parse(&source).unwrap();
        assert_eq!(spec.router.apply == Apply::Input, apply == "input");
        let local = map.map(|_| 3);
        let entry = Entry::Experts { local };
        let package = compiled(&spec, entry, &source.text, &[this_host().unwrap()]).unwrap();
        let manifest = package.manifest();
        let weights = moec::random::weights(manifest, 5).unwrap();
        let of = |name: &str| {
            let place = names(manifest, Role::Weight).position(|weight| weight == name).unwrap();
            weights[place].to_f64()
        };
        let [gate, up, down] = ["gate", "up", "down"].map(of);
        let x = moec::random::tokens(DType::F32, TOKENS as u64, H as u64, 3).unwrap();
        let shape = [TOKENS as u64, K as u64];
        let factors: Vec<f32> = (0..TOKENS * K).map(weight).collect();
        let ids = integers(&shape, (0..TOKENS * K).map(id));
        let mut given = vec![x.clone(), ids, Tensor::from_f32(DType::F32, shape.to_vec(), &factors).unwrap()];
        given.extend(map.map(|map| integers(&[E as u64], map)));
        let layer = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap();
        let run = layer.bind(weights.clone()).unwrap().run(&given, Dims::tokens(TOKENS as u64)).unwrap();
        let mut expected = vec![0.0; TOKENS * H];
        for pair in 0..TOKENS * K {
            let here = |id: i32| match map {
                None => usize::try_from(id).ok().filter(|e| *e < E),
                Some(map) => {
                    let number = usize::try_from(id).ok().and_then(|id| map.get(id))?;
                    usize::try_from(*number).ok().filter(|e| *e < 3)
                }
            };
            let Some(e) = here(id(pair)) else { continue };
            let (token, w) = (pair / K, f64::from(weight(pair)));
            let row = x.to_f64()[token * H..][..H].to_vec();
            let weights = [&gate[..], &up, &down];
            let y = match apply {
                "input" => expert(&weights, e, [H, F], &row.iter().map(|x| x * w).collect::<Vec<_>>()),
                _ => expert(&weights, e, [H, F], &row).iter().map(|y| y * w).collect(),
            };
            expected[token * H..][..H].iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
        }
        let error = difference(&run.tensor("y").unwrap().to_f64(), &expected).of_largest;
        assert!(error <= bound(DType::F32), "{apply}, {map:?}: {error:.1e}");
    }
}

/// A batch that is run in parts, because its workspace may be no longer, has each token's picks with the token, and one map for all.
#[test]
fn a_batch_in_parts_has_its_picks_in_parts() {
    const SPEC: &str = "[moe]\nname = \"parts\"\nhidden = 32\nexperts = 6\n[router]\nmode = \"token_choice\"\ntop_k = 2\n\
                        score = \"softmax\"\n[expert]\nintermediate = 16\nactivation = \"silu\"\ngated = true\n[numerics]\n\
                        dtype = \"f32\"\n[tokens]\nmax = 2000\n";
    let dims = Dims::tokens(1700);
    for entry in [Entry::Router, Entry::Experts { local: None }, Entry::Experts { local: Some(4) }] {
        let run = |limit: &str| {
            let source = moec::diagnostics::Source { name: "parts.toml".into(), text: format!("{SPEC}{limit}") };
            let spec = spec::parse(&source).unwrap();
            let package = compiled(&spec, entry, &source.text, &[this_host().unwrap()]).unwrap();
            let weights = moec::random::weights(package.manifest(), 5).unwrap();
            let inputs = moec::random::inputs(package.manifest(), dims, 3).unwrap();
            let layer = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap();
            let parts = layer.plan(dims).unwrap().parts();
            (layer.bind(weights).unwrap().run(&inputs, dims).unwrap().outputs, parts)
        };
        let ((whole, one), (cut, parts)) = (run(""), run("workspace = \"96 kB\"\n"));
        // A router has no workspace to cut for.
        assert_eq!((one, parts > 1), (1, entry != Entry::Router), "{entry:?}: {parts} parts");
        for ((name, whole), (_, cut)) in whole.iter().zip(&cut) {
            let error = difference(&cut.to_f64(), &whole.to_f64()).of_largest;
            assert!(error <= bound(whole.dtype()), "{entry:?}: {name} {error:.1e}");
        }
    }
}

/// A layer has the entries that its routing lets it have, under names of their own; what it has not is an error.
#[test]
fn entries_of_every_block() {
    for fixture in fixtures() {
        let (name, spec) = (&fixture.name, &fixture.spec);
        let picks = matches!(spec.router.mode, Mode::TokenChoice | Mode::Hash);
        let entries = [Entry::Layer, Entry::Router, Entry::Experts { local: None }, Entry::Experts { local: Some(1) }];
        for entry in entries {
            let graph = import(spec, entry);
            assert_eq!(graph.is_ok(), picks || entry == Entry::Layer, "{name}, {entry:?}");
            let Ok(graph) = graph else { continue };
            let suffix = if entry == Entry::Layer { String::new() } else { format!("-{}", entry.word()) };
            assert_eq!(graph.name, format!("{}{suffix}", spec.name), "{name}");
        }
        for local in [0, spec.experts + 1] {
            assert!(import(spec, Entry::Experts { local: Some(local) }).is_err(), "{name}");
        }
    }
}
