//! Hash routing where numbers are out of range, on this CPU's kernels and on the emulated PTX: entries of the table outside the
//! experts and ids outside the vocabulary are refused before any kernel runs.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use moec::emulate::options;
use moec::pipeline::{compile, this_host};
use moec::random;
use moec_codegen::Options;
use moec_runtime::emulator::{self, Sample};
use moec_runtime::package::{Dims, Dtype, Role};
use moec_runtime::{Bound, DeviceKind, Error, Layer, Tensor};
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
    Tensor::new(Dtype::I32, tensor.shape().to_vec(), numbers.into_iter().flat_map(i32::to_le_bytes).collect()).unwrap()
}

fn refused<T>(result: Result<T, Error>) -> (&'static str, String) {
    let error = result.err().expect("a refusal");
    (error.code(), error.to_string())
}

#[test]
fn numbers_out_of_range_are_refused() {
    let mode = modes().into_iter().find(|mode| mode.name == "hash").unwrap();
    let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
    let package = compile(&mode.spec, &mode.text, &machines, &Options::default()).unwrap();
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
