//! Plans: memory and threads of the caller, runs at once, and what is refused before anything is launched.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "memory of the caller is an address and a promise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fixture::{self, HIDDEN, floats, param, w, x, y};
use crate::mock::{Call, Mock};
use crate::object::shared_object;
use moec_runtime::device::Argument;
use moec_runtime::host::{self, Parallel, Rayon};
use moec_runtime::package::{Arg, Buffer, Extent, Launch, Manifest, ParamKind, Role};
use moec_runtime::{Batch, Bound, DeviceKind, Dims, Error, Layer, Memory, Package, Plan, Region, Stream};

fn on_mock(manifest: Manifest) -> (Arc<Mock>, Layer, Bound) {
    let package = Package::new(manifest, vec![fixture::PTX.into(), Vec::new()]).unwrap();
    let (mock, opened) = Mock::open();
    let layer = Layer::on(&package, opened).unwrap();
    let bound = layer.bind(vec![w()]).unwrap();
    mock.state.lock().unwrap().calls.clear();
    (mock, layer, bound)
}

fn calls(mock: &Mock) -> Vec<Call> {
    std::mem::take(&mut mock.state.lock().unwrap().calls)
}

/// A batch of 5 tokens on the layer's device.
fn batch(layer: &Layer) -> Batch {
    let device = layer.device();
    Batch {
        dims: Dims::tokens(5),
        inputs: vec![Region::of(device, x(5).bytes()).unwrap()],
        outputs: vec![Region::new(device, 80).unwrap()],
        workspace: Region::new(device, 512).unwrap(),
    }
}

#[test]
fn a_plan_is_what_a_run_launches() {
    let mut manifest = fixture::manifest();
    // The update is the first kernel, on the weight.
    let args = vec![Arg::Buffer(0), Arg::Buffer(1), Arg::ScalarI32(Extent::Const(4)), Arg::ScalarI64(Extent::Tokens)];
    manifest.targets[0].update = vec![Launch { kernel: 0, grid: Extent::Const(1), early: false, working: None, args }];
    let (mock, layer, bound) = on_mock(manifest);
    let mut batch = batch(&layer);
    calls(&mock);
    bound.launch(&mut batch).unwrap();
    bound.update(&mut batch).unwrap();
    let expected: Vec<Call> = calls(&mock).into_iter().filter(|call| *call != Call::Sync).collect();
    assert_eq!(expected.len(), 3);
    let plan = layer.plan(Dims::tokens(5)).unwrap();
    assert_eq!((plan.dims(), plan.workspace()), (Dims::tokens(5), (512, 256)));
    assert_eq!(calls(&mock), [], "a plan asks nothing of the device");
    for _ in 0..2 {
        plan.run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap();
        plan.update(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap();
        assert_eq!(calls(&mock), expected, "the same launches, and nothing is waited for");
    }
    layer.sync().unwrap();
    assert_eq!(calls(&mock), [Call::Sync]);
}

/// What is prepared is made when weights are bound, once, and every run reads it.
#[test]
fn what_is_prepared_is_made_once() {
    let mut manifest = fixture::manifest();
    let weight = manifest.buffers[1].clone();
    manifest.buffers.push(Buffer { name: "prepared".into(), role: Role::Prepared, ..weight });
    for target in &mut manifest.targets {
        let args = vec![Arg::Buffer(1), Arg::Buffer(5), Arg::ScalarI32(Extent::Const(4)), Arg::ScalarI64(Extent::Const(1))];
        target.prepare = vec![Launch { kernel: 0, grid: Extent::Const(1), early: false, working: None, args }];
        target.regimes.iter_mut().for_each(|regime| regime.launches[1].args[1] = Arg::Buffer(5));
    }
    // On the mock: which launches there are.
    let package = Package::new(manifest.clone(), vec![fixture::PTX.into(), Vec::new()]).unwrap();
    let (mock, opened) = Mock::open();
    let layer = Layer::on(&package, opened).unwrap();
    let bound = layer.bind(vec![w()]).unwrap();
    let launches = |mock: &Mock| calls(mock).into_iter().filter(|call| matches!(call, Call::Launch { .. })).count();
    assert_eq!(launches(&mock), 1, "by the binding");
    let mut batch = batch(&layer);
    calls(&mock);
    for _ in 0..2 {
        bound.launch(&mut batch).unwrap();
        assert_eq!(launches(&mock), 2, "none of them prepares");
    }
    // On the host: `add_it` adds twice the weight.
    let Some(object) = shared_object() else { return };
    let package = Package::new(manifest, vec![fixture::PTX.into(), object.to_vec()]).unwrap();
    let bound = Layer::load(&package, DeviceKind::Host { threads: None }).unwrap().bind(vec![w()]).unwrap();
    let run = bound.run(&[x(2)], Dims::tokens(2)).unwrap();
    let expected = (0..8).map(|i| 2.0 * i as f32 + 2.0 * [0.5, 1.5, 2.5, 3.5][i % 4]);
    assert_eq!(run.tensor("y").unwrap(), &floats(&[2, HIDDEN], expected));
}

#[test]
fn a_plan_of_no_tokens_runs_nothing() {
    let (mock, layer, bound) = on_mock(fixture::manifest());
    let plan = layer.plan(Dims::tokens(0)).unwrap();
    assert_eq!(plan.workspace(), (0, 256));
    let mut workspace = Region::new(layer.device(), 0).unwrap();
    plan.run(&bound, &mut Memory { inputs: &[], outputs: &mut [], workspace: &mut workspace }, Stream::DEFAULT).unwrap();
    assert_eq!(calls(&mock), []);
}

#[test]
fn sizes_without_a_plan() {
    let (_, layer, _) = on_mock(fixture::manifest());
    assert_eq!(layer.plan(Dims::tokens(1001)).unwrap_err().code(), "RT0304");
    assert_eq!(layer.plan(Dims { tokens: 6, sequence_tokens: 4 }).unwrap_err().code(), "RT0305");
    let mut manifest = fixture::manifest();
    manifest.targets[0].regimes[1].launches[1].args[4] = Arg::ScalarI32(Extent::Tokens * (1 << 30));
    let (_, layer, _) = on_mock(manifest);
    let error = layer.plan(Dims::tokens(5)).unwrap_err().to_string();
    assert!(error.starts_with("kernel `add_it`: argument 4 is 5368709120, outside"), "{error}");
    assert!(layer.plan(Dims::tokens(1)).is_ok(), "the other regime");
}

/// Where the launches in front of an early one have no blocks, it is the first, and waits for what the stream did before.
#[test]
fn the_first_launch_is_not_early() {
    let early = |grid: Extent| {
        let mut manifest = fixture::manifest();
        let launches = &mut manifest.targets[0].regimes[1].launches;
        launches[0].grid = grid;
        launches[1].early = true;
        let (mock, layer, bound) = on_mock(manifest);
        let plan = layer.plan(Dims::tokens(5)).unwrap();
        plan.run(&bound, &mut batch(&layer).memory(), Stream::DEFAULT).unwrap();
        let starts =
            calls(&mock).into_iter().filter_map(|call| if let Call::Launch { start, .. } = call { Some(start) } else { None });
        starts.map(|start| (start.kernel, start.early)).collect::<Vec<_>>()
    };
    assert_eq!(early(Extent::Tokens), [(0, false), (1, true)]);
    assert_eq!(early(Extent::Const(0)), [(1, false)]);
}

#[test]
fn grids_are_whole_clusters() {
    let mut manifest = fixture::manifest();
    manifest.targets[0].kernels[1].cluster = 4;
    let (_, layer, _) = on_mock(manifest);
    assert!(layer.plan(Dims::tokens(8)).is_ok());
    let error = layer.plan(Dims::tokens(6)).unwrap_err().to_string();
    assert!(error.contains("kernel `add_it`: a grid of 6 blocks is not whole clusters of 4"), "{error}");
}

/// A launch lists its arguments on the stack, so a package says at once that there are too many.
#[test]
fn parameters_are_bounded() {
    let mut manifest = fixture::manifest();
    let extra = 64 - manifest.targets[1].kernels[0].params.len();
    for target in &mut manifest.targets {
        target.kernels[0].params.extend(vec![param(ParamKind::I32); extra]);
        for regime in &mut target.regimes {
            regime.launches[0].args.extend(vec![Arg::ScalarI32(Extent::Const(7)); extra]);
        }
    }
    manifest.targets.remove(0);
    manifest.images.remove(0);
    manifest.targets[0].images[0] = 0;
    let package = Package::new(manifest.clone(), vec![Vec::new()]).unwrap();
    let (mock, opened) = Mock::open();
    let layer = Layer::on(&package, opened).unwrap();
    let bound = layer.bind(vec![w()]).unwrap();
    bound.run(&[x(5)], Dims::tokens(5)).unwrap();
    let launched = calls(&mock).into_iter().find_map(|call| if let Call::Launch { args, .. } = call { Some(args) } else { None });
    assert_eq!(launched.unwrap()[63], Argument::I32(7));
    manifest.targets[0].kernels[0].params.push(param(ParamKind::I32));
    let error = Package::new(manifest, vec![Vec::new()]).unwrap_err().to_string();
    assert!(error.contains("kernel `double_it` takes 65 parameters, at most 64"), "{error}");
}

// Fault table, row 12.
#[test]
fn memory_is_looked_at_before_anything_is_launched() {
    let (mock, layer, bound) = on_mock(fixture::manifest());
    let plan = layer.plan(Dims::tokens(5)).unwrap();
    let check = |expected: &str, edit: &dyn Fn(&mut Batch)| {
        let mut batch = batch(&layer);
        edit(&mut batch);
        calls(&mock);
        let error = plan.run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(plan.update(&bound, &mut batch.memory(), Stream::DEFAULT), Err(error));
        assert_eq!(calls(&mock), [], "{expected}");
    };
    // SAFETY: the mock runs nothing, so nothing is read or written there.
    let foreign = |address, bytes| unsafe { Region::foreign(layer.device(), address, bytes) };
    check("the layer takes 1 inputs, 0 given", &|batch| batch.inputs.clear());
    check("the layer takes 1 outputs, 2 given", &|batch| batch.outputs.push(foreign(0, 0)));
    check("`workspace` has 511 bytes, 512 needed", &|batch| batch.workspace = foreign(1 << 30, 511));
    check("`workspace` is not aligned to 256 bytes", &|batch| batch.workspace = foreign((1 << 30) + 128, 512));
    check("`x` has 79 bytes, 80 needed", &|batch| batch.inputs[0] = foreign(1 << 30, 79));
    check("`x` is not aligned to 16 bytes", &|batch| batch.inputs[0] = foreign((1 << 30) + 8, 80));
    check("`y` is not aligned to 16 bytes", &|batch| batch.outputs[0] = foreign((1 << 30) + 4, 80));
    let (_, elsewhere) = Mock::open();
    let away = "lies on another device than the layer; copy it there first";
    check(&format!("`workspace` {away}"), &|batch| batch.workspace = Region::new(&elsewhere.device, 512).unwrap());
    check(&format!("`y` {away}"), &|batch| batch.outputs[0] = Region::new(&elsewhere.device, 80).unwrap());
    // Weights of another loading, and a stream where there are none.
    let (_, _, other) = on_mock(fixture::manifest());
    let mut batch = batch(&layer);
    calls(&mock);
    let error = plan.run(&other, &mut batch.memory(), Stream::DEFAULT).unwrap_err();
    assert_eq!((error.code(), error), ("RT0316", Error::OtherLayer));
    // SAFETY: the mock never uses it.
    let stream = unsafe { Stream::cuda(std::ptr::without_provenance_mut(64)) };
    let error = plan.run(&bound, &mut batch.memory(), stream).unwrap_err();
    assert_eq!((error.code(), error), ("RT0317", Error::NoStream));
    assert_eq!(calls(&mock), []);
    // SAFETY: null is no stream of the caller.
    assert_eq!(unsafe { Stream::cuda(std::ptr::null_mut()) }, Stream::DEFAULT);
}

#[test]
fn a_lost_device_is_left_alone() {
    let (mock, layer, bound) = on_mock(fixture::manifest());
    let plan = layer.plan(Dims::tokens(5)).unwrap();
    let mut batch = batch(&layer);
    let lost = Error::Device { call: "cuLaunchKernel", why: "CUDA_ERROR_ILLEGAL_ADDRESS".into(), sticky: true };
    let position = calls(&mock).len();
    assert_eq!(position, 4);
    mock.state.lock().unwrap().fail = Some((0, lost.clone()));
    assert_eq!(plan.run(&bound, &mut batch.memory(), Stream::DEFAULT), Err(lost));
    assert_eq!(calls(&mock).len(), 1, "nothing after the failure");
    assert_eq!(plan.run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap_err().code(), "RT0502");
    assert_eq!(layer.sync().unwrap_err().code(), "RT0502");
    assert_eq!(calls(&mock), []);
}

/// Memory of the caller, aligned to 256 bytes.
#[derive(Clone)]
#[repr(align(256))]
struct Aligned([f32; 64]);

fn aligned(floats: usize) -> Vec<Aligned> {
    vec![Aligned([0.0; 64]); floats.div_ceil(64)]
}

fn address(memory: &[Aligned]) -> u64 {
    memory.as_ptr().expose_provenance() as u64
}

/// The outputs of a run of `tokens`, all of whose memory is the caller's.
fn run_foreign(layer: &Layer, bound: &Bound, plan: &Plan, tokens: u64) -> Vec<f64> {
    let elements = (tokens * HIDDEN) as usize;
    let (mut input, output) = (aligned(elements), aligned(elements));
    let (workspace_bytes, align) = plan.workspace();
    assert_eq!(align, 256);
    let workspace = aligned(workspace_bytes as usize / 4);
    for (at, value) in x(tokens).to_f64().into_iter().enumerate() {
        input[at / 64].0[at % 64] = value as f32;
    }
    // SAFETY: the vectors live to the end of this function, and are read only after the run.
    let region = |memory: &[Aligned], bytes| unsafe { Region::foreign(layer.device(), address(memory), bytes) };
    let mut outputs = [region(&output, elements as u64 * 4)];
    let mut workspace = region(&workspace, workspace_bytes);
    let inputs = [region(&input, elements as u64 * 4)];
    let mut memory = Memory { inputs: &inputs, outputs: &mut outputs, workspace: &mut workspace };
    plan.run(bound, &mut memory, Stream::DEFAULT).unwrap();
    let mut bytes = vec![0; elements * 4];
    outputs[0].copy_out(0, &mut bytes).unwrap();
    drop((inputs, outputs, workspace));
    let copied: Vec<f64> = bytes.as_chunks::<4>().0.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect();
    let direct = (0..elements).map(|at| f64::from(std::hint::black_box(&output)[at / 64].0[at % 64]));
    assert!(copied.iter().copied().eq(direct), "the caller reads what the region has");
    copied
}

#[test]
fn memory_of_the_caller() {
    let Some(object) = shared_object() else { return };
    let package = fixture::package(object);
    let layer = Layer::load(&package, DeviceKind::Host { threads: Some(2) }).unwrap();
    let weight = aligned(4);
    // SAFETY: the vector outlives the region, and is not touched until it is gone.
    let mut region = unsafe { Region::foreign(layer.device(), address(&weight), 16) };
    region.copy_in(0, w().bytes()).unwrap();
    assert_eq!(region.copy_in(4, w().bytes()).unwrap_err().code(), "RT0306");
    let bound = layer.bind_regions(vec![region]).unwrap();
    assert_eq!(bound.weight("w").unwrap(), w());
    for tokens in [1, 3, 64, 1000] {
        let plan = layer.plan(Dims::tokens(tokens)).unwrap();
        assert_eq!(run_foreign(&layer, &bound, &plan, tokens), y(tokens).to_f64());
    }
    drop((bound, layer));
    assert_eq!(&weight[0].0[..4], [0.5, 1.5, 2.5, 3.5], "it is the caller's still");
    // A device that does not share memory with the process is asked, and takes nothing back.
    let (mock, layer, _) = on_mock(fixture::manifest());
    let own = Region::of(layer.device(), &[1, 2, 3, 4]).unwrap();
    // SAFETY: the memory is the region's, which lives longer.
    let mut part = unsafe { Region::foreign(layer.device(), own.address(), 2) };
    part.fill(7).unwrap();
    drop(part);
    let mut all = [0; 4];
    own.copy_out(0, &mut all).unwrap();
    assert_eq!(all, [7, 7, 3, 4]);
    assert!(mock.state.lock().unwrap().live.contains_key(&own.address()));
}

// Fault table, row 19.
#[test]
fn one_plan_runs_at_once_on_different_memory() {
    let Some(object) = shared_object() else { return };
    let package = fixture::package(object);
    for threads in [Some(1), Some(3), None] {
        let layer = Layer::load(&package, DeviceKind::Host { threads }).unwrap();
        let bound = layer.bind(vec![w()]).unwrap();
        let plan = layer.plan(Dims::tokens(500)).unwrap();
        let expected = y(500).to_f64();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| assert_eq!(run_foreign(&layer, &bound, &plan, 500), expected)));
            }
        });
    }
}

/// A region that a plan is given keeps its memory, whatever the device is told meanwhile.
#[test]
fn a_region_keeps_its_memory() {
    let Some(object) = shared_object() else { return };
    let layer = Layer::load(&fixture::package(object), DeviceKind::Host { threads: Some(1) }).unwrap();
    let bound = layer.bind(vec![w()]).unwrap();
    let mut batch = batch(&layer);
    for region in batch.inputs.iter().chain(&batch.outputs).chain([&batch.workspace]) {
        layer.device().free(region.address());
    }
    layer.plan(Dims::tokens(5)).unwrap().run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap();
    let mut bytes = [0; 80];
    assert_eq!(batch.outputs[0].copy_out(0, &mut bytes).unwrap_err().code(), "RT0501", "the device has forgotten it");
}

/// One thread, which counts; every number, the last first, but for the first `left_out`.
#[derive(Debug, Default)]
struct Reversed {
    threads: usize,
    left_out: u64,
    called: AtomicU64,
}

impl Parallel for Reversed {
    fn threads(&self) -> usize {
        self.threads
    }

    fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync)) {
        (self.left_out..count).rev().for_each(|number| {
            self.called.fetch_add(1, Ordering::Relaxed);
            body(number);
        });
    }
}

#[test]
fn threads_of_the_caller() {
    let Some(object) = shared_object() else { return };
    let package = fixture::package(object);
    let on = |parallel: Arc<dyn Parallel>| {
        let layer = Layer::on(&package, host::open_on(&package, parallel).unwrap()).unwrap();
        layer.bind(vec![w()]).unwrap()
    };
    for threads in [1, 2, 16] {
        let reversed = Arc::new(Reversed { threads, ..Reversed::default() });
        let bound = on(reversed.clone());
        assert_eq!(bound.layer().device().name(), format!("host, {threads} threads"));
        for tokens in [1, 5, 999] {
            let run = bound.run(&[x(tokens)], Dims::tokens(tokens)).unwrap();
            assert_eq!(run.tensor("y").unwrap(), &y(tokens), "{threads} threads, {tokens} tokens");
            assert_eq!(on(Arc::new(Rayon)).run(&[x(tokens)], Dims::tokens(tokens)).unwrap().tensor("y"), run.tensor("y"));
        }
        // Once for both launches, with a number for each thread that has a block.
        let numbers = |blocks: u64| blocks.min(threads as u64);
        assert_eq!(reversed.called.load(Ordering::Relaxed), numbers(5) + numbers(999));
    }
    let lazy = |left_out| on(Arc::new(Reversed { threads: 2, left_out, ..Reversed::default() }));
    assert_eq!(lazy(1).run(&[x(64)], Dims::tokens(64)).unwrap().tensor("y").unwrap(), &y(64), "the others do it all");
    let error = lazy(2).run(&[x(64)], Dims::tokens(64)).unwrap_err();
    assert_eq!(error.to_string(), "the caller's parallel_for failed: it called none of 2 numbers");
    assert!(lazy(2).run(&[x(1)], Dims::tokens(1)).is_ok(), "one block needs no threads");
}
