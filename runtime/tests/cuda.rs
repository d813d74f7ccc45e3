//! The GPU device against a driver made of C (`fixture/mock_libcuda.c`): which calls it makes, with what, and what it does
//! when one fails. Each case runs in a child process that finds the mock where it looks for `libcuda.so.1`; without a C
//! compiler, or off Linux, these tests say so and pass.
#![cfg(all(feature = "cuda", feature = "host"))]
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "a stream of the caller is a pointer and a promise")]

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::fixture;
use crate::fixture::{w, x, y};
use moec_runtime::package::{Arg, DType, Extent, ParamKind, Swizzle, TensorMap, View};
use moec_runtime::{DeviceKind, Dims, Layer, Package, Stream};
use tempfile::TempDir;

/// The folder with the mock, made once; `None`, said aloud, where that is not possible.
fn mock() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<TempDir>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("mock_libcuda.c");
        std::fs::write(&source, include_str!("fixture/mock_libcuda.c")).unwrap();
        let library = folder.path().join("libcuda.so.1");
        let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        (cfg!(target_os = "linux") && status.ok()?.success()).then_some(folder)
    });
    if folder.is_none() {
        skip();
    }
    folder.as_ref().map(TempDir::path)
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skip() {
    eprintln!("skipped: runtime/tests/cuda.rs needs Linux and `cc`, a C compiler that makes shared objects");
}

/// What the child does: the layer, twice; `out:` lines tell the parent.
#[test]
fn child() {
    let Ok(case) = std::env::var("MOCK_CASE") else { return };
    let mut manifest = fixture::manifest();
    match case.as_str() {
        "old driver" => manifest.targets[0].least_driver = Some("12.4".into()),
        _ if case.starts_with("early") => {
            manifest.targets[0].regimes.iter_mut().for_each(|regime| regime.launches[1].early = true);
        }
        _ if case.starts_with("cluster") => {
            manifest.targets[0].kernels[1].cluster = 4;
            for launch in manifest.targets[0].regimes.iter_mut().map(|regime| &mut regime.launches[1]) {
                launch.grid = Extent::Const(8);
                launch.early = case.contains("early");
            }
        }
        "shared memory" => manifest.targets[0].kernels[1].dynamic_shared_bytes = 100_000,
        "tensor map" | "no map" => {
            let target = &mut manifest.targets[0];
            let tile = [1, 2, 4];
            target.kernels[0].params[0].kind =
                ParamKind::TensorMap(TensorMap { dtype: DType::F32, tile, swizzle: Swizzle::None });
            let (extents, strides) = ([2, 3, 4].map(Extent::Const), [8, 4].map(Extent::Const));
            for regime in &mut target.regimes {
                let (extents, strides) = (extents.clone(), strides.clone());
                regime.launches[0].args[0] = Arg::TensorMap(View { buffer: 0, extents, strides });
            }
        }
        _ => {}
    }
    let package = Package::new(manifest, vec![fixture::PTX.into(), Vec::new()]).unwrap();
    let ordinal = u32::from(case == "second device");
    let bound = Layer::load(&package, DeviceKind::Cuda { ordinal }).and_then(|layer| layer.bind(vec![w()]));
    let bound = match bound {
        Ok(bound) => bound,
        Err(error) => return println!("out: {} {error}", error.code()),
    };
    if case.starts_with("plan") {
        // SAFETY: the mock knows no streams, and the memory lives until it is waited for, or the layer is gone.
        let stream = unsafe { Stream::cuda(std::ptr::without_provenance_mut(if case.contains("stream") { 0x77 } else { 0 })) };
        let plan = bound.layer().plan(Dims::tokens(5)).unwrap();
        let mut batch = bound.batch(&[x(5)], Dims::tokens(5)).unwrap();
        for _ in 0..3 {
            plan.run(&bound, &mut batch.memory(), stream).unwrap();
        }
        if !case.contains("dropped") {
            bound.layer().sync().unwrap();
            let run = bound.collect(&batch, std::time::Duration::ZERO).unwrap();
            println!("out: {}", run.tensor("y").unwrap() == &y(5));
        }
        return;
    }
    for _ in 0..2 {
        match bound.run(&[x(5)], Dims::tokens(5)) {
            Ok(run) => {
                let load = run.tensor("load").unwrap().to_i32().unwrap();
                println!("out: {} {load:?} on {}", run.tensor("y").unwrap() == &y(5), bound.layer().device().name());
            }
            Err(error) => println!("out: {} {error}", error.code()),
        }
    }
}

/// The child's `out:` lines and the driver's calls.
fn run(mock: &Path, case: &str, env: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let log = mock.join(format!("{case}.log"));
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cuda::child", "--nocapture"])
        .env("LD_LIBRARY_PATH", mock)
        .env("MOCK_CASE", case)
        .env("MOCK_LOG", &log)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let out = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success(), "{case}: {out}\n{}", String::from_utf8_lossy(&child.stderr));
    let out = out.lines().filter_map(|line| Some(line.split_once("out: ")?.1.to_owned())).collect();
    let calls = std::fs::read_to_string(log).unwrap_or_default();
    (out, calls.lines().map(str::to_owned).collect())
}

#[test]
fn a_run_on_the_driver() {
    let Some(mock) = mock() else { return };
    let (out, calls) = run(mock, "plain", &[]);
    assert_eq!(out, ["true [5, -4] on Mock GPU"; 2]);
    let image = format!("cuModuleLoadData {}", fixture::PTX.len());
    let open = ["cuInit", "cuDeviceGet", "cuDriverGetVersion", "cuDevicePrimaryCtxRetain", &image];
    let open = [&open[..], &["cuModuleGetFunction double_it", "cuModuleGetFunction add_it", "cuMemAlloc 16", "cuMemcpyHtoD"]];
    let run = [
        "cuMemAlloc 80",
        "cuMemcpyHtoD",
        "cuMemAlloc 80",
        "cuMemAlloc 512",
        "cuLaunchKernel 10 grid 5 1 1 block 128 1 1 shared 0 stream (nil)",
        "cuLaunchKernel 11 grid 5 1 1 block 128 1 1 shared 0 stream (nil)",
        "cuCtxSynchronize",
        "cuMemcpyDtoH",
        "cuMemcpyDtoH",
        "cuMemFree",
        "cuMemFree",
        "cuMemFree",
    ];
    let close = ["cuMemFree", "cuModuleUnload", "cuDevicePrimaryCtxRelease"];
    assert_eq!(calls, [&open.concat()[..], &run, &run, &close].concat());
}

/// The driver encodes a map for each launch, innermost dimension first, and the kernel is given it by value.
#[test]
fn tensor_maps_are_encoded() {
    let Some(mock) = mock() else { return };
    let (out, calls) = run(mock, "tensor map", &[]);
    assert_eq!(out, ["true [5, -4] on Mock GPU"; 2]);
    // Type 7 is FLOAT32; strides are in bytes.
    let encode = "cuTensorMapEncodeTiled type 7 rank 3 extents 4 3 2 strides 16 32 box 4 2 1 steps 1 1 1 interleave 0 swizzle 0 \
                  promotion 3 fill 0";
    let place = calls.iter().position(|call| call == encode).unwrap_or_else(|| panic!("{calls:#?}"));
    assert!(calls[place + 1].starts_with("cuLaunchKernel 10 grid 5 1 1"), "{calls:#?}");
    assert_eq!(calls.iter().filter(|call| *call == encode).count(), 2);
    let (out, _) = run(mock, "no map", &[("MOCK_FAIL", "cuTensorMapEncodeTiled 1 1")]);
    assert!(out[0].contains("cuTensorMapEncodeTiled") && out[0].contains("error 1"), "{out:?}");
}

/// A launch that may begin before the one before it has ended has the attribute that says so, number 6, and others have none.
#[test]
fn early_launches_have_their_attribute() {
    let Some(mock) = mock() else { return };
    let (out, calls) = run(mock, "early", &[]);
    assert_eq!(out, ["true [5, -4] on Mock GPU"; 2]);
    let launches: Vec<&String> = calls.iter().filter(|call| call.starts_with("cuLaunch")).collect();
    let plain = "cuLaunchKernel 10 grid 5 1 1 block 128 1 1 shared 0 stream (nil)";
    let early = "cuLaunchKernelEx 11 grid 5 1 1 block 128 1 1 shared 0 stream (nil) attribute 6 is 1 0 0";
    assert_eq!(launches, [plain, early, plain, early]);
    let (out, _) = run(mock, "early and refused", &[("MOCK_FAIL", "cuLaunchKernelEx 1 700")]);
    assert!(out[0].contains("cuLaunchKernelEx") && out[0].contains("error 700"), "{out:?}");
}

/// A kernel of clusters is launched in these, attribute 4, whether or not it is early too.
#[test]
fn clusters_are_an_attribute() {
    let Some(mock) = mock() else { return };
    for (case, attributes) in
        [("cluster", "attribute 4 is 4 1 1"), ("cluster that is early", "attribute 4 is 4 1 1 attribute 6 is 1 0 0")]
    {
        let (_, calls) = run(mock, case, &[]);
        let launches: Vec<&String> = calls.iter().filter(|call| call.starts_with("cuLaunch")).collect();
        let plain = "cuLaunchKernel 10 grid 5 1 1 block 128 1 1 shared 0 stream (nil)";
        let clusters = format!("cuLaunchKernelEx 11 grid 8 1 1 block 128 1 1 shared 0 stream (nil) {attributes}");
        assert_eq!(launches, [plain, &clusters, plain, &clusters]);
    }
}

#[test]
fn much_shared_memory_is_asked_for() {
    let Some(mock) = mock() else { return };
    let (out, calls) = run(mock, "shared memory", &[]);
    assert_eq!(out.len(), 2);
    // Attribute 8 is CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
    assert!(calls.contains(&"cuFuncSetAttribute 11 8 100000".into()), "{calls:#?}");
    assert!(calls.iter().any(|call| call.contains("11 grid 5 1 1 block 128 1 1 shared 100000")), "{calls:#?}");
}

// Fault table, rows 14, 16 and 17: the words, and that nothing stays retained, loaded or allocated.
#[test]
fn failures_are_told_and_cleaned_up() {
    let Some(mock) = mock() else { return };
    let check = |case: &str, env: &[(&str, &str)], expected: &[&str]| {
        let (out, calls) = run(mock, case, env);
        assert_eq!(out.len(), expected.len(), "{case}: {out:?}");
        for (line, expected) in out.iter().zip(expected) {
            assert!(line.starts_with(&expected[..6]) && line.contains(&expected[7..]), "{case}: {line}\nshould say: {expected}");
        }
        let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
        let failed = |name: &str| usize::from(case == name);
        assert_eq!(count("cuDevicePrimaryCtxRetain"), count("cuDevicePrimaryCtxRelease"), "{case}: {calls:#?}");
        assert_eq!(count("cuModuleLoadData") - failed("no load"), count("cuModuleUnload"), "{case}: {calls:#?}");
        assert_eq!(count("cuMemAlloc") - failed("no memory"), count("cuMemFree"), "{case}: {calls:#?}");
    };
    let lost = "RT0502 cuLaunchKernel failed: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access";
    check("no init", &[("MOCK_FAIL", "cuInit 1 34")], &["RT0402 cuInit says CUDA_ERROR_OTHER"]);
    check("second device", &[], &["RT0402 there is no device 1"]);
    check("old driver", &[], &["RT0402 the driver speaks CUDA 12.2, the package's PTX needs 12.4"]);
    check("old gpu", &[("MOCK_ARCH", "75")], &["RT0403 no kernels for Mock GPU (sm_75): it has `sm_80`, `host`"]);
    check("no load", &[("MOCK_FAIL", "cuModuleLoadData 1 222")], &["RT0405 the PTX is newer than the driver"]);
    check("no kernel", &[("MOCK_FAIL", "cuModuleGetFunction 2 500")], &["RT0405 no kernel `add_it`"]);
    check("no memory", &[("MOCK_FAIL", "cuMemAlloc 1 2")], &["RT0406 no room for 16 bytes"]);
    check("a refused launch", &[("MOCK_FAIL", "cuLaunchKernel 2 701")], &["RT0501 cuLaunchKernel"; 2]);
    check("a lost device", &[("MOCK_FAIL", "cuLaunchKernel 2 700")], &["RT0501 CUDA_ERROR_ILLEGAL_ADDRESS", lost]);
    check("lost later", &[("MOCK_FAIL", "cuCtxSynchronize 1 719")], &["RT0501 cuCtxSynchronize", "RT0502 restart the process"]);
}

// Fault table, rows 16 and 17: whichever call of a whole life fails, once, it is told once or does not matter, what was taken
// is given back, and the layer goes on unless the device is lost.
#[test]
fn each_call_fails_in_its_turn() {
    let Some(mock) = mock() else { return };
    // CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, CUDA_ERROR_ILLEGAL_ADDRESS.
    for (code, is_sticky) in [(701, false), (700, true)] {
        let mut position = 1;
        loop {
            let case = format!("call {position} fails with {code}");
            let (out, calls) = run(mock, &case, &[("MOCK_FAIL", &format!("any {position} {code}"))]);
            let Some(failed) = calls.iter().find_map(|call| call.strip_prefix("failed ")) else { break };
            let wrong: Vec<&String> = out.iter().filter(|line| !line.starts_with("true [5, -4]")).collect();
            let given_back = ["cuMemFree", "cuModuleUnload", "cuDevicePrimaryCtxRelease"];
            match (&wrong[..], &out[..]) {
                // An error while something is given back cannot be returned.
                ([], [_, _]) => assert!(given_back.contains(&failed) || failed == "cuCtxSetCurrent", "{case}: {failed}: {out:?}"),
                // It could not be loaded or bound.
                ([told], [_]) => assert!(told.starts_with("RT04") || told.starts_with("RT05"), "{case}: {told}"),
                // One run failed and the other did not, or it came after the loss of the device.
                ([told], [_, second]) if !is_sticky || *told == second => assert!(told.starts_with("RT05"), "{case}: {told}"),
                ([told, after], [_, _]) if is_sticky => {
                    assert!(told.starts_with("RT0501") && after.starts_with("RT0502"), "{case}: {out:?}");
                }
                _ => panic!("{case}: {failed}: {out:?}"),
            }
            // What failed took nothing; where the context could not be entered, nothing could be given back.
            if failed != "cuCtxSetCurrent" {
                let count = |name: &str| calls.iter().filter(|call| call.split(' ').next() == Some(name)).count();
                let taken = |name: &str| count(name) - usize::from(failed == name);
                assert_eq!(taken("cuDevicePrimaryCtxRetain"), count("cuDevicePrimaryCtxRelease"), "{case}: {failed}");
                assert_eq!(taken("cuModuleLoadData"), count("cuModuleUnload"), "{case}: {failed}");
                assert_eq!(taken("cuMemAlloc"), count("cuMemFree"), "{case}: {failed}");
            }
            position += 1;
        }
        assert!(position > 60, "{} calls are few", position - 1);
    }
}

// Fault table, row 18: a run neither allocates nor waits between its launches, and where a capture refuses what comes before or
// after them, that is told, nothing leaks, and the next run is as good as ever.
#[test]
fn a_capture_refuses_memory_and_waiting() {
    let Some(mock) = mock() else { return };
    for (start, refused) in [("cuMemcpyHtoD", "cuMemAlloc 80"), ("cuLaunchKernel", "cuCtxSynchronize")] {
        let (out, calls) = run(mock, &format!("captured from {start}"), &[("MOCK_CAPTURE", start)]);
        let [first, second] = &out[..] else { panic!("{start}: {out:?}") };
        assert!(first.starts_with("RT0501") && first.contains(refused.split(' ').next().unwrap()), "{start}: {first}");
        assert!(second.starts_with("true [5, -4]"), "{start}: {second}");
        let started = calls.iter().position(|call| call.starts_with(start)).unwrap();
        let next = calls[started + 1..].iter().find(|call| !call.starts_with("cuLaunchKernel"));
        assert_eq!(next.map(String::as_str), Some(refused), "{start}: {calls:#?}");
        let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
        let failed = usize::from(refused.starts_with("cuMemAlloc"));
        assert_eq!(count("cuMemAlloc") - failed, count("cuMemFree"), "{start}: {calls:#?}");
    }
}

// Fault table, row 18: a run of a plan is launches on the caller's stream and nothing else, so that it can be captured.
#[test]
fn a_plan_only_enqueues() {
    let Some(mock) = mock() else { return };
    for (case, stream, capture) in [
        ("plan", "(nil)", None),
        ("plan on a stream", "0x77", None),
        ("plan on a stream that is captured", "0x77", Some("cuLaunchKernel")),
    ] {
        let env: Vec<(&str, &str)> = capture.map(|start| ("MOCK_CAPTURE", start)).into_iter().collect();
        let log = mock.join(format!("{case}.log"));
        let calls = if capture.is_none() {
            let (out, calls) = run(mock, case, &env);
            assert_eq!(out, ["true"], "{case}");
            calls
        } else {
            // The capture is on when the layer is waited for, which it refuses: the runs before that passed.
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cuda::child", "--nocapture"])
                .env("LD_LIBRARY_PATH", mock)
                .env("MOCK_CASE", case)
                .env("MOCK_LOG", &log)
                .envs(env)
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&child.stderr).into_owned();
            assert!(!child.status.success() && told.contains("cuCtxSynchronize"), "{told}");
            std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
        };
        let first = calls.iter().position(|call| call.starts_with("cuLaunchKernel")).unwrap();
        let launches = [10, 11, 10, 11, 10, 11]
            .map(|kernel| format!("cuLaunchKernel {kernel} grid 5 1 1 block 128 1 1 shared 0 stream {stream}"));
        assert_eq!(calls[first..first + 6], launches, "{case}");
        assert_eq!(calls[first + 6], "cuCtxSynchronize", "{case}");
    }
}

/// A kernel that still runs is code of the module: the module is not unloaded under it.
#[test]
fn a_layer_that_is_dropped_waits_for_what_it_enqueued() {
    let Some(mock) = mock() else { return };
    let (_, calls) = run(mock, "plan on a stream, dropped", &[]);
    assert_eq!(calls[calls.len() - 3..], ["cuCtxSynchronize", "cuModuleUnload", "cuDevicePrimaryCtxRelease"], "{calls:#?}");
}
