//! What a layer checks and which calls it makes to its device, on a mock: the fault table's rows that need no kernel.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::fixture;
use crate::fixture::{HIDDEN, MAX_TOKENS, floats, w, x};
use crate::mock::{Call, Mock};
use moec_runtime::device::{Argument, Opened, Start};
use moec_runtime::package::{Arg, Buffer, DType, Extent, Manifest, Recipe, Role, Source};
use moec_runtime::{Batch, Blame, Bound, DeviceKind, Dims, Error, Layer, Package, Region, Tensor};

fn layer(manifest: Manifest) -> (Arc<Mock>, Layer) {
    let package = Package::new(manifest, vec![fixture::PTX.into(), Vec::new()]).unwrap();
    let (mock, opened) = Mock::open();
    (mock, Layer::on(&package, opened).unwrap())
}

fn bound() -> (Arc<Mock>, Bound) {
    let (mock, layer) = layer(fixture::manifest());
    let bound = layer.bind(vec![w()]).unwrap();
    mock.state.lock().unwrap().calls.clear();
    (mock, bound)
}

fn calls(mock: &Mock) -> Vec<Call> {
    std::mem::take(&mut mock.state.lock().unwrap().calls)
}

fn launches(mock: &Mock) -> usize {
    calls(mock).iter().filter(|call| matches!(call, Call::Launch { .. })).count()
}

#[test]
fn a_run_is_the_manifest_s_launches() {
    let (mock, bound) = bound();
    let run = bound.run(&[x(5)], Dims::tokens(5)).unwrap();
    assert_eq!(run.tensor("y").unwrap().shape(), [5, HIDDEN]);
    assert_eq!(run.tensor("load").unwrap().shape(), [2]);
    assert_eq!(run.tensor("load").unwrap().dtype(), DType::I32);
    assert_eq!(run.tensor("tmp"), None, "not observed");
    let memory = |buffer: usize, address: u64, bytes: u64| Argument::Memory { buffer, address, bytes };
    let at = |n: u64| n << 20;
    let scalars = [Argument::I32(4), Argument::I64(5)];
    // w is at 1, then x, y, workspace; the counts are used last, tmp follows at 256 with 6 rows of 16 bytes.
    let first = [memory(0, at(2), 80), memory(2, at(4) + 256, 96), scalars[0], scalars[1]];
    let second =
        [memory(2, at(4) + 256, 96), memory(1, at(1), 16), memory(4, at(3), 80), memory(3, at(4), 8), scalars[0], scalars[1]];
    assert_eq!(
        calls(&mock),
        [
            Call::Alloc(80),
            Call::CopyIn(80),
            Call::Alloc(80),
            Call::Alloc(512),
            Call::Launch { start: Start { kernel: 0, blocks: 5, early: false, working: None }, args: first.to_vec() },
            Call::Launch { start: Start { kernel: 1, blocks: 5, early: false, working: None }, args: second.to_vec() },
            Call::Sync,
            Call::CopyOut(80),
            Call::CopyOut(8),
        ]
    );
    assert_eq!(mock.state.lock().unwrap().live.len(), 1, "only the weight stays");
}

#[test]
fn regimes_are_chosen_by_tokens() {
    let mut manifest = fixture::manifest();
    manifest.targets[0].regimes[0].launches.pop();
    let (mock, layer) = layer(manifest);
    let bound = layer.bind(vec![w()]).unwrap();
    for (tokens, expected) in [(1, 1), (2, 1), (3, 2), (MAX_TOKENS, 2)] {
        calls(&mock);
        bound.run(&[x(tokens)], Dims::tokens(tokens)).unwrap();
        assert_eq!(launches(&mock), expected, "{tokens} tokens");
    }
}

// Fault table, row 5.
#[test]
fn no_tokens_launch_nothing() {
    let (mock, bound) = bound();
    let run = bound.run(&[x(0)], Dims::tokens(0)).unwrap();
    assert_eq!(run.tensor("y").unwrap().shape(), [0, HIDDEN]);
    assert_eq!(run.observed, []);
    assert_eq!(calls(&mock), []);
    let no_rows = floats(&[3, 0, HIDDEN], []);
    assert!(bound.run(&[no_rows], Dims { tokens: 0, sequence_tokens: 0 }).is_ok());
    assert_eq!(calls(&mock), []);
}

// Fault table, row 10. The device is not called.
#[test]
fn wrong_inputs_are_errors_before_any_launch() {
    let (mock, bound) = bound();
    let check = |expected: &str, input, dims| {
        let error = bound.run(&[input], dims).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.blame(), Blame::Input);
        assert_eq!(calls(&mock), []);
    };
    check(
        "1001 tokens, the package serves at most 1000; split the batch, or compile with a larger `[tokens] max`",
        x(1001),
        Dims::tokens(1001),
    );
    check("`x` is f16, expected f32; convert it first (`Tensor::to_dtype`)", x(5).to_dtype(DType::F16), Dims::tokens(5));
    check("`x` has shape [5, 4], expected [6, 4]", x(5), Dims::tokens(6));
    check("`x` has shape [20], expected [5, 4]", x(5).reshape(vec![20]).unwrap(), Dims::tokens(5));
    check("`x` has shape [4, 5], expected [5, 4]", x(5).reshape(vec![4, 5]).unwrap(), Dims::tokens(5));
    check("6 tokens are not whole sequences of 4; give the shape as [B, S, H]", x(6), Dims { tokens: 6, sequence_tokens: 4 });
    check("6 tokens are not whole sequences of 0; give the shape as [B, S, H]", x(6), Dims { tokens: 6, sequence_tokens: 0 });
    assert_eq!(bound.run(&[], Dims::tokens(1)).unwrap_err().to_string(), "the layer takes 1 inputs, 0 given");
    let rows = x(6).reshape(vec![2, 3, HIDDEN]).unwrap();
    let dims = Dims::of_activations(rows.shape()).unwrap();
    assert_eq!(bound.run(&[rows], dims).unwrap().tensor("y").unwrap().shape(), [6, HIDDEN]);
}

#[test]
fn weights_are_checked_once() {
    let (_, layer) = layer(fixture::manifest());
    let error = |weights| layer.bind(weights).unwrap_err().code();
    assert_eq!(error(vec![]), "RT0301");
    assert_eq!(error(vec![w(), w()]), "RT0301");
    assert_eq!(error(vec![w().to_dtype(DType::Bf16)]), "RT0303");
    assert_eq!(error(vec![floats(&[3], [0.0; 3])]), "RT0302");
}

/// The layer with a table of two numbers a row, each below 4, and a number below 3 for each token.
fn numbered() -> Manifest {
    let mut manifest = fixture::manifest();
    let numbers = |name: &str, role, shape: Vec<Extent>, below| Buffer {
        name: name.into(),
        role,
        dtype: DType::I32,
        shape,
        align: 16,
        observe: None,
        below: Some(below),
        mask: None,
    };
    manifest.buffers.push(numbers("table", Role::Weight, vec![Extent::Const(3), Extent::Const(2)], 4));
    manifest.buffers.push(numbers("ids", Role::Input, vec![Extent::Tokens], 3));
    manifest.weights.push(Recipe::whole("table", vec![Source::plain("table")]));
    manifest
}

#[test]
fn numbers_of_nothing_are_errors_before_any_launch() {
    let integers =
        |shape: &[u64], of: &[i32]| Tensor::new(DType::I32, shape.to_vec(), of.iter().flat_map(|n| n.to_le_bytes()).collect());
    let (mock, layer) = layer(numbered());
    let table = |of: &[i32]| layer.bind(vec![w(), integers(&[3, 2], of).unwrap()]);
    for (of, says) in [
        ([0, 1, 2, 3, 4, 0], "`table` holds 4 in row 2: it must be from 0 to 3"),
        ([0, 1, 2, -1, 9, 0], "`table` holds -1 in row 1: it must be from 0 to 3"),
        ([i32::MAX, 1, 2, 3, 3, 0], "`table` holds 2147483647 in row 0: it must be from 0 to 3"),
    ] {
        let error = table(&of).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), ("RT0315", says));
        assert_eq!((error.blame(), calls(&mock)), (Blame::Input, vec![]));
    }
    let bound = table(&[0, 1, 2, 3, 3, 0]).unwrap();
    calls(&mock);
    let run = |ids: &[i32], shape: &[u64]| {
        let rows = x(4).reshape([shape, &[HIDDEN]].concat()).unwrap();
        bound.run(&[rows, integers(shape, ids).unwrap()], Dims::of_activations(&[shape, &[HIDDEN]].concat()).unwrap())
    };
    for (ids, shape, says) in [
        ([0, 1, 3, -1], &[4][..], "`ids` holds 3 in row 2: it must be from 0 to 2"),
        ([0, 1, 2, -1], &[4][..], "`ids` holds -1 in row 3: it must be from 0 to 2"),
        ([i32::MIN, 1, 2, 0], &[4][..], "`ids` holds -2147483648 in row 0: it must be from 0 to 2"),
        ([0, 1, 7, 0], &[2, 2][..], "`ids` holds 7 in row 2: it must be from 0 to 2"),
    ] {
        let error = run(&ids, shape).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), ("RT0315", says));
        assert_eq!((error.blame(), calls(&mock)), (Blame::Input, vec![]));
    }
    assert!(run(&[0, 1, 2, 0], &[4]).is_ok());
    assert_eq!(launches(&mock), 2);
}

/// Of padding, which a mask names, any number will do, however its rows are shaped.
#[test]
fn numbers_of_padding_may_be_any() {
    let mut manifest = numbered();
    let ids = manifest.buffers.iter_mut().find(|buffer| buffer.name == "ids").unwrap();
    ids.mask = Some("mask".into());
    let mask = Buffer { name: "mask".into(), below: None, mask: None, ..ids.clone() };
    manifest.buffers.push(mask);
    let integers =
        |shape: &[u64], of: &[i32]| Tensor::new(DType::I32, shape.to_vec(), of.iter().flat_map(|n| n.to_le_bytes()).collect());
    let (_, layer) = layer(manifest);
    let bound = layer.bind(vec![w(), integers(&[3, 2], &[0; 6]).unwrap()]).unwrap();
    let run = |ids: &[i32], mask: &[i32], shape: &[u64]| {
        let inputs = vec![x(4), integers(&[4], ids).unwrap(), integers(shape, mask).unwrap()];
        bound.run(&inputs, Dims::tokens(4)).map(|_| ())
    };
    assert_eq!(run(&[-1, 2, -100, i32::MIN], &[0, 1, 0, 0], &[4]), Ok(()));
    assert_eq!(run(&[-1, 2, -100, i32::MAX], &[0, 1, 0, 0], &[2, 2]), Ok(()));
    let says = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(says(run(&[-1, 2, -100, 0], &[0, 1, -7, 1], &[4])), "`ids` holds -100 in row 2: it must be from 0 to 2");
    assert_eq!(says(run(&[0, 0, 0, 0], &[0, 1, 1], &[3])), "`mask` has shape [3], expected [4]");
}

fn batch(bound: &Bound, workspace_bytes: u64) -> Batch {
    let device = bound.layer().device().clone();
    Batch {
        dims: Dims::tokens(5),
        inputs: vec![Region::of(&device, x(5).bytes()).unwrap()],
        outputs: vec![Region::new(&device, 80).unwrap()],
        workspace: Region::new(&device, workspace_bytes).unwrap(),
    }
}

// Fault table, row 12.
#[test]
fn a_caller_s_memory_is_checked() {
    let (mock, bound) = bound();
    assert_eq!(bound.layer().workspace_bytes(Dims::tokens(5)), Ok(512));
    bound.launch(&mut batch(&bound, 512)).unwrap();
    assert_eq!(launches(&mock), 2);
    let check = |expected: &str, batch: &mut Batch| {
        assert_eq!(bound.launch(batch).unwrap_err().to_string(), expected);
        assert_eq!(launches(&mock), 0);
    };
    check("`workspace` has 511 bytes, 512 needed", &mut batch(&bound, 511));
    check("`workspace` has 0 bytes, 512 needed", &mut batch(&bound, 0));
    let mut short = batch(&bound, 512);
    short.outputs[0] = Region::new(bound.layer().device(), 79).unwrap();
    check("`y` has 79 bytes, 80 needed", &mut short);
    short.outputs.clear();
    check("the layer takes 1 outputs, 0 given", &mut short);
    mock.state.lock().unwrap().skew = 8;
    let mut skewed = batch(&bound, 512);
    check("`workspace` is not aligned to 256 bytes", &mut skewed);
    mock.state.lock().unwrap().skew = 0;
    skewed.workspace = batch(&bound, 512).workspace;
    check("`x` is not aligned to 16 bytes", &mut skewed);
    let (_, elsewhere) = Mock::open();
    let mut foreign = batch(&bound, 512);
    foreign.workspace = Region::new(&elsewhere.device, 512).unwrap();
    check("`workspace` lies on another device than the layer; copy it there first", &mut foreign);
    let mut above = batch(&bound, 512);
    above.dims = Dims::tokens(1001);
    assert_eq!(bound.launch(&mut above).unwrap_err().code(), "RT0304");
}

#[test]
fn regions_hold_what_they_say() {
    let (_, opened) = Mock::open();
    let mut region = Region::of(&opened.device, &[1, 2, 3, 4]).unwrap();
    let mut two = [0; 2];
    region.copy_out(2, &mut two).unwrap();
    assert_eq!(two, [3, 4]);
    assert_eq!(region.copy_out(3, &mut two).unwrap_err().code(), "RT0306");
    assert_eq!(region.copy_out(u64::MAX, &mut two).unwrap_err().code(), "RT0306");
    assert_eq!(region.copy_in(0, &[0; 5]).unwrap_err().code(), "RT0306");
    region.fill(7).unwrap();
    region.copy_out(0, &mut two).unwrap();
    assert_eq!(two, [7, 7]);
}

#[test]
fn scalars_and_grids_are_checked_for_range() {
    let with = |edit: &dyn Fn(&mut moec_runtime::package::Launch)| {
        let mut manifest = fixture::manifest();
        edit(&mut manifest.targets[0].regimes[1].launches[1]);
        let (mock, layer) = layer(manifest);
        let bound = layer.bind(vec![w()]).unwrap();
        let result = bound.run(&[x(5)], Dims::tokens(5));
        (result, launches(&mock))
    };
    let (result, launched) = with(&|launch| launch.args[4] = Arg::ScalarI32(Extent::Tokens * (1 << 30)));
    let error = result.unwrap_err().to_string();
    assert!(error.starts_with("kernel `add_it`: argument 4 is 5368709120, outside"), "{error}");
    assert_eq!(launched, 0, "nothing, not even the launch before it");
    let (result, launched) = with(&|launch| launch.grid = Extent::Const(0) - 1);
    assert_eq!((result.unwrap_err().code(), launched), ("RT0310", 0));
    let (result, launched) = with(&|launch| launch.grid = Extent::Tokens - 5);
    assert!(result.is_ok(), "no blocks: the launch is left out");
    assert_eq!(launched, 1);
}

fn lost() -> Error {
    Error::Device { call: "cuLaunchKernel", why: "CUDA_ERROR_ILLEGAL_ADDRESS".into(), sticky: true }
}

// Fault table, rows 16 and 36: whichever call fails, its error comes once; from then on the device is left alone.
#[test]
fn a_lost_device_poisons_the_layer() {
    for at in 0..9 {
        let (mock, bound) = bound();
        mock.state.lock().unwrap().fail = Some((at, lost()));
        assert_eq!(bound.run(&[x(5)], Dims::tokens(5)), Err(lost()), "call {at}");
        calls(&mock);
        let poisoned = bound.run(&[x(5)], Dims::tokens(5)).unwrap_err();
        assert_eq!((poisoned.code(), poisoned.blame().exit_code()), ("RT0502", 3));
        assert!(poisoned.to_string().contains("ILLEGAL_ADDRESS); nothing more can run on it: restart"), "{poisoned}");
        assert_eq!(bound.layer().bind(vec![w()]).unwrap_err(), poisoned);
        assert_eq!(calls(&mock), []);
        drop(bound);
        assert!(mock.state.lock().unwrap().live.is_empty(), "call {at}: memory is given back");
    }
}

// Fault table, rows 16 and 17: an error that does not lose the device can be tried again, and nothing leaks.
#[test]
fn other_failures_pass() {
    let launch_failed = Error::Device { call: "cuLaunchKernel", why: "out of resources".into(), sticky: false };
    for error in [Error::OutOfMemory { bytes: 80 }, launch_failed] {
        for at in 0..9 {
            let (mock, bound) = bound();
            mock.state.lock().unwrap().fail = Some((at, error.clone()));
            assert_eq!(bound.run(&[x(5)], Dims::tokens(5)), Err(error.clone()), "call {at}");
            assert_eq!(mock.state.lock().unwrap().live.len(), 1, "call {at}: only the weight stays");
            assert!(bound.run(&[x(5)], Dims::tokens(5)).is_ok());
        }
    }
}

#[test]
fn a_failed_launch_is_waited_for() {
    let (mock, bound) = bound();
    mock.state.lock().unwrap().fail = Some((5, lost()));
    bound.run(&[x(5)], Dims::tokens(5)).unwrap_err();
    assert_eq!(calls(&mock).last(), Some(&Call::Sync));
}

// Fault table, row 35: what runs keeps what it needs.
#[test]
fn a_bound_layer_outlives_its_layer() {
    let (_, layer) = layer(fixture::manifest());
    let bound = layer.bind(vec![w()]).unwrap();
    let again = bound.clone();
    drop((layer, bound));
    assert!(again.run(&[x(1)], Dims::tokens(1)).is_ok());
}

#[test]
fn devices_have_names() {
    assert_eq!("host".parse(), Ok(DeviceKind::Host { threads: None }));
    assert_eq!("cuda".parse(), Ok(DeviceKind::Cuda { ordinal: 0 }));
    assert_eq!("cuda:3".parse(), Ok(DeviceKind::Cuda { ordinal: 3 }));
    for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "Host"] {
        assert_eq!(name.parse::<DeviceKind>(), Err(Error::UnknownDevice { name: name.into() }));
    }
    let (_, Opened { device, .. }) = Mock::open();
    let package = fixture::package(&[]);
    assert_eq!(Layer::on(&package, Opened { device, target: 2 }).unwrap_err().code(), "RT0104");
}

// Without a driver this is an error; with one, this package's PTX loads or is refused. Never a panic.
#[cfg(feature = "cuda")]
#[test]
fn an_absent_driver_is_an_error() {
    match Layer::load(&fixture::package(&[]), DeviceKind::Cuda { ordinal: 0 }) {
        Err(Error::NoDriver { why }) => assert!(!why.is_empty()),
        Err(other) => assert_eq!(other.blame(), Blame::Environment, "{other}"),
        Ok(layer) => assert_eq!(layer.target().name, "sm_80"),
    }
}
