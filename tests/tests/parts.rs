//! A router and then its experts are the layer, and what devices have of the experts adds up: on published blocks with their
//! weights, on the host. `emulated` has the same kernels as the text that ships.

use std::slice::from_ref;

use moec::import::Entry;
use moec::pipeline::this_host;
use moec::reference::{bound, difference};
use moec::spec::{Mode, SharedCombine, Spec};
use moec_runtime::package::{DType, Dims, Manifest, Role};
use moec_runtime::{Checkpoint, DeviceKind, Layer, Run, Tensor, weights};
use moec_tests::built::compiled;
use moec_tests::trials::{Case, Family};
use moec_tests::{Fixture, fixtures, inputs};

/// Blocks whose tokens pick, at least: fewer means that some are missing.
const FEWEST: usize = 45;

/// A published block with its file.
struct Block {
    fixture: Fixture,
    bytes: Vec<u8>,
}

impl Block {
    fn new(fixture: Fixture) -> Block {
        Block { bytes: std::fs::read(&fixture.file).unwrap(), fixture }
    }

    fn spec(&self) -> &Spec {
        &self.fixture.spec
    }

    fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint::read(&self.bytes).unwrap()
    }

    /// An entry of the block on the host.
    fn load(&self, entry: Entry) -> Layer {
        let machine = this_host().expect("an x86-64 CPU of level v3");
        let package = compiled(self.spec(), entry, &self.fixture.text, from_ref(&machine)).unwrap();
        Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap()
    }

    /// The weights of an entry with all experts.
    fn weights(&self, layer: &Layer) -> Vec<Tensor> {
        weights::assemble(layer.manifest(), &self.checkpoint(), "w.").unwrap().0
    }

    /// What an entry makes of these inputs under the block's weights.
    fn run(&self, entry: Entry, inputs: &[Tensor], dims: Dims) -> Run {
        let layer = self.load(entry);
        let weights = self.weights(&layer);
        layer.bind(weights).unwrap().run(inputs, dims).unwrap()
    }

    /// The block's own inputs, and how many tokens they are.
    fn inputs(&self, layer: &Layer) -> (Vec<Tensor>, Dims) {
        let inputs = inputs(layer.manifest(), &self.checkpoint());
        let dims = Dims::of_activations(inputs[0].shape()).unwrap();
        (inputs, dims)
    }

    /// Rows times a weight of the layer, where it has that: the projections around its experts, which their caller does.
    fn projected(&self, layer: &Layer, name: &str, rows: Tensor) -> Tensor {
        let weights = self.weights(layer);
        let Some(w) = names(layer.manifest(), Role::Weight).zip(&weights).find(|(of, _)| *of == name).map(|(_, w)| w) else {
            return rows;
        };
        let [n, k] = [w.shape()[0], w.shape()[1]];
        let (w, x) = (w.to_f64(), rows.to_f64());
        let dot = |row: &[f64], column: usize| row.iter().zip(&w[column * k as usize..]).map(|(x, w)| x * w).sum::<f64>() as f32;
        let y: Vec<f32> = x.chunks(k as usize).flat_map(|row| (0..n as usize).map(|column| dot(row, column))).collect();
        Tensor::from_f32(rows.dtype(), vec![y.len() as u64 / n, n], &y).unwrap()
    }

    /// What the layer does with the sum of its experts and beside it: the layer without what the experts say, and what the sum is
    /// multiplied by.
    fn rest(&self, layer: &Layer, inputs: &[Tensor], dims: Dims) -> (Vec<f64>, f64) {
        let spec = self.spec();
        let silent = |(name, tensor): (&str, Tensor)| match name {
            "down" | "down_bias" => Tensor::new(tensor.dtype(), tensor.shape().to_vec(), vec![0; tensor.bytes().len()]).unwrap(),
            _ => tensor,
        };
        let weights = names(layer.manifest(), Role::Weight).zip(self.weights(layer)).map(silent).collect();
        let run = layer.bind(weights).unwrap().run(inputs, dims).unwrap();
        let is_mean = spec.shared.is_some_and(|shared| shared.combine == SharedCombine::Average);
        (run.tensor("y").unwrap().to_f64(), spec.routed_output_scale * if is_mean { 0.5 } else { 1.0 })
    }
}

fn names(manifest: &Manifest, role: Role) -> impl Iterator<Item = &str> {
    manifest.buffers.iter().filter(move |buffer| buffer.role == role).map(|buffer| buffer.name.as_str())
}

/// Integers as a tensor.
fn integers(shape: &[u64], numbers: impl IntoIterator<Item = i32>) -> Tensor {
    Tensor::new(DType::I32, shape.to_vec(), numbers.into_iter().flat_map(i32::to_le_bytes).collect()).unwrap()
}

/// The picks of the block's router, as the experts take them.
fn picked(run: &Run) -> [Tensor; 2] {
    ["topk_ids", "topk_weights"].map(|name| run.tensor(name).unwrap().clone())
}

/// Two trials for each block whose tokens pick.
pub(crate) fn family() -> Family {
    let picks = |fixture: &Fixture| matches!(fixture.spec.router.mode, Mode::TokenChoice | Mode::Hash);
    let blocks: Vec<Fixture> = fixtures().into_iter().filter(picks).collect();
    assert!(blocks.len() >= FEWEST, "{} blocks", blocks.len());
    let mut cases = Vec::new();
    for fixture in blocks {
        let (name, spec) = (fixture.name.clone(), fixture.spec.clone());
        let of = |kind: &str, check: fn(&Block)| {
            let fixture = fixture.clone();
            let case = Case::new(format!("{name}::{kind}"), &spec, move || {
                check(&Block::new(fixture));
                Ok(())
            });
            case.of_kind(kind)
        };
        // Under a norm the output is no sum with what the experts say.
        if spec.output_norm.is_none() {
            cases.push(of("router_and_experts", is_router_and_experts));
        }
        if spec.experts.is_multiple_of(2) {
            cases.push(of("devices", adds_up_over_devices));
        }
    }
    Family { name: "parts", one_in: 16, cases }
}

/// A router and then its experts are the layer, with what it does beside them; where that is nothing, also the block's own output.
fn is_router_and_experts(block: &Block) {
    let (name, spec) = (&block.fixture.name, block.spec());
    let layer = block.load(Entry::Layer);
    let (inputs, dims) = block.inputs(&layer);
    let expected = block.run(Entry::Layer, &inputs, dims);
    let router = block.run(Entry::Router, &inputs, dims);
    let [ids, weights] = picked(&router);
    assert_eq!(ids.shape(), [dims.tokens, spec.picks()], "{name}");
    let x = block.projected(&layer, "latent_in", inputs[0].clone());
    let experts = block.run(Entry::Experts { local: None }, &[x, ids.clone(), weights], dims);
    let experts = block.projected(&layer, "latent_out", experts.tensor("y").unwrap().clone());
    let (rest, factor) = block.rest(&layer, &inputs, dims);
    let sum: Vec<f64> = experts.to_f64().iter().zip(&rest).map(|(experts, rest)| experts * factor + rest).collect();
    let error = difference(&sum, &expected.tensor("y").unwrap().to_f64()).of_largest;
    let most = bound(layer.manifest().dtype);
    assert!(error <= most, "{name}: {error:.1e}");
    // A pair that the layer drops is no pick of the router, and no other is missing.
    let [of_layer, rows] = ["route.experts", "route.rows"].map(|name| expected.tensor(name).unwrap().to_i32().unwrap());
    let kept = of_layer.iter().zip(rows).map(|(expert, row)| {
        let is_kept = row >= 0 || *expert >= spec.experts as i32;
        if is_kept { *expert } else { -1 }
    });
    assert_eq!(ids.to_i32().unwrap(), kept.collect::<Vec<_>>(), "{name}");
    if rest.iter().all(|rest| *rest == 0.0) && factor == 1.0 {
        let (theirs, _) = block.checkpoint().tensor("out.hidden", layer.manifest().dtype).unwrap();
        let error = difference(&sum, &theirs.to_f64()).of_largest;
        assert!(error <= most, "{name}: {error:.1e} against the published block");
    }
}

/// A device has some of the experts, wherever it has them: together they give what one with all of them gives.
fn adds_up_over_devices(block: &Block) {
    let (name, spec) = (&block.fixture.name, block.spec());
    let layer = block.load(Entry::Layer);
    let (inputs, dims) = block.inputs(&layer);
    let [ids, weights] = picked(&block.run(Entry::Router, &inputs, dims));
    let given = [block.projected(&layer, "latent_in", inputs[0].clone()), ids, weights];
    let all = block.load(Entry::Experts { local: None });
    let of_all = block.weights(&all);
    let whole = all.bind(of_all.clone()).unwrap().run(&given, dims).unwrap().tensor("y").unwrap().to_f64();
    for devices in [2, 4].into_iter().filter(|devices| spec.experts.is_multiple_of(*devices)) {
        let local = spec.experts / devices;
        let part = block.load(Entry::Experts { local: Some(local) });
        let mut sum = vec![0.0; whole.len()];
        for device in 0..devices {
            // The experts are dealt out, so that their order here is another than there.
            let map = (0..spec.experts).map(|id| if id % devices == device { (local - 1 - id / devices) as i32 } else { -1 });
            let here = |tensor: &Tensor| {
                let expert = tensor.bytes().len() / spec.experts as usize;
                let rows = (0..local).map(|place| ((local - 1 - place) * devices + device) as usize * expert);
                let bytes = rows.flat_map(|at| tensor.bytes()[at..at + expert].to_vec()).collect();
                Tensor::new(tensor.dtype(), [&[local], &tensor.shape()[1..]].concat(), bytes).unwrap()
            };
            let inputs = [&given[..], &[integers(&[spec.experts], map)]].concat();
            let run = part.bind(of_all.iter().map(here).collect()).unwrap().run(&inputs, dims).unwrap();
            sum.iter_mut().zip(run.tensor("y").unwrap().to_f64()).for_each(|(sum, y)| *sum += y);
            assert_eq!(run.tensor("stats.load").unwrap().shape(), [local], "{name}");
        }
        let error = difference(&sum, &whole).of_largest;
        assert!(error <= bound(all.manifest().dtype), "{name} on {devices} devices: {error:.1e}");
    }
}
