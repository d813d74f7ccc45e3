//! The differential chain on published blocks: `fixture == interp == rewritten interp == host`.
//!
//! The fixtures are layers of public model code on random weights and tokens, with the outputs that code gave.

use std::collections::BTreeMap;

use moec::pipeline::{compile, lower, this_host};
use moec_codegen::Options;
use moec_ir::Dims;
use moec_ir::graph::{Tensor, Type, Typed, Value, interp};
use moec_runtime::{Checkpoint, DeviceKind, Layer, weights};
use moec_tests::{Fixture, fixtures};
use safetensors::SafeTensors;

/// Largest error allowed in f32, relative to the largest output.
const BOUND: f64 = 2e-5;

/// The largest difference, relative to the largest of `expected`.
fn error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    let difference = actual.iter().zip(expected).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    difference / largest
}

fn output(graph: &Typed, params: &BTreeMap<String, Tensor>, dims: Dims) -> (Vec<f64>, Vec<Vec<usize>>) {
    let values = interp(graph, params, dims).unwrap();
    let sets = values.iter().find_map(|value| match value {
        Value::Routing(r) => Some(sets(&r.picks.expert_of_pair, r.picks.top_k)),
        _ => None,
    });
    match values.last() {
        Some(Value::Tensor(y)) => (y.data.clone(), sets.unwrap()),
        other => panic!("a layer gives a tensor, not {other:?}"),
    }
}

fn sets(experts: &[usize], top_k: usize) -> Vec<Vec<usize>> {
    experts
        .chunks(top_k)
        .map(|picks| {
            let mut picks = picks.to_vec();
            picks.sort_unstable();
            picks
        })
        .collect()
}

#[test]
fn every_fixture_down_the_chain() {
    let machine = this_host().expect("an x86-64 CPU of level v3");
    let mut worst = 0f64;
    let mut seen = 0;
    for Fixture { name, spec, text, file } in fixtures() {
        let bytes = std::fs::read(&file).unwrap();
        let checkpoint = Checkpoint::read(&bytes).unwrap();
        let package = compile(&spec, &text, std::slice::from_ref(&machine), &Options::default()).unwrap();
        let (weights, _) = weights::assemble(package.manifest(), &checkpoint, "w.").unwrap();
        let (x, _) = checkpoint.tensor("in.hidden", package.manifest().dtype).unwrap();
        let (expected, _) = checkpoint.tensor("out.hidden", package.manifest().dtype).unwrap();
        let expected = expected.to_f64();
        let dims = moec_runtime::Dims::of_activations(x.shape()).unwrap();
        let ir_dims = Dims { tokens: dims.tokens, row_tokens: dims.row_tokens };

        // interp, before and after rewriting
        let lowered = lower(&spec, &machine).unwrap();
        let mut params = BTreeMap::new();
        let names = package.manifest().buffers.iter().filter(|b| b.role == moec_runtime::package::Role::Weight);
        for (buffer, tensor) in names.zip(&weights) {
            let shape = tensor.shape().iter().map(|n| *n as usize).collect();
            params.insert(format!("@{}", buffer.name), Tensor { shape, data: tensor.to_f64() });
        }
        let hidden = spec.hidden as usize;
        params.insert("%x".into(), Tensor { shape: vec![dims.tokens as usize, hidden], data: x.to_f64() });
        assert!(lowered.graph.graph().params.iter().all(|(p, t)| matches!(t, Type::Tensor { .. }) && params.contains_key(&p.0)));
        let (plain, picked) = output(&lowered.graph, &params, ir_dims);
        let (fused, picked_fused) = output(&lowered.rewritten.graph, &params, ir_dims);

        // host
        let layer = Layer::load(&package, DeviceKind::Host { threads: None }).unwrap();
        let run = layer.bind(weights).unwrap().run(&[x], dims).unwrap();
        let on_host = run.outputs[0].1.to_f64();
        let experts: Vec<usize> = run.tensor("route.experts").unwrap().to_f64().iter().map(|e| *e as usize).collect();

        let errors = [error(&plain, &expected), error(&fused, &plain), error(&on_host, &expected)];
        println!("{name:24} interp {:.1e}  rewritten {:.1e}  host {:.1e}", errors[0], errors[1], errors[2]);
        // A cast to f32 rounds in the interpreter until a rule has dropped it: some f32 roundings apart, no more.
        assert!(errors[0] <= BOUND && errors[1] <= 1e-6 && errors[2] <= BOUND, "{name}: {errors:?}");
        assert_eq!(picked, picked_fused, "{name}");
        assert_eq!(picked, sets(&experts, spec.router.top_k as usize), "{name}: host picks other experts");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        if let Ok(published) = tensors.tensor("ref.topk_index") {
            let index = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap()) as usize;
            let published: Vec<usize> = published.data().chunks(8).map(index).collect();
            assert_eq!(picked, sets(&published, spec.router.top_k as usize), "{name}: the published block picks other experts");
        }
        worst = worst.max(errors[2]);
        seen += 1;
    }
    println!("{seen} fixtures, worst host error {worst:.1e}");
    assert!(seen >= 18);
}
