//! The launcher against a driver that runs nothing (`tests/c/mock_driver.c`): everything that it asks of the driver, and that moec-runtime
//! launches the same for the same package. On no machine is a GPU needed.
#![allow(unsafe_code, reason = "a stream of the caller is a pointer and a promise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use moec_runtime::package::{
    self, Arg, Buffer, Cuts, DType, Dim, Entry, Extent, Image, ImageKind, Kernel, Launch, Manifest, Param, ParamKind, Recipe,
    Regime, Role, Round, Source, Swizzle, Target, TargetKind, TensorMap, View,
};
use moec_runtime::{DeviceKind, Dims, Layer, Package, Stream, Tensor};
use moec_tests::{machine, root, skipped};

use super::{LAYERS, Linked, block, compile, host, program, room, said};

/// Tokens of the runs: a single one, some, and beyond a regime.
pub(super) const BATCHES: [&str; 3] = ["1", "17", "300"];

/// The folder that has the mock as `libcuda.so.1`, and the mock as a file of another name.
pub(super) fn mock() -> Option<&'static (PathBuf, String)> {
    static MOCK: LazyLock<Option<(PathBuf, String)>> = LazyLock::new(|| {
        let folder = room()?.join("driver");
        fs::create_dir_all(&folder).unwrap();
        let library = folder.join("libcuda.so.1");
        compile("cc", "mock.so", &["-std=c11", "-shared", "-fPIC", "@/mock_driver.c"]);
        fs::copy(room()?.join("mock.so"), &library).unwrap();
        Some((folder, room()?.join("mock.so").to_string_lossy().into_owned()))
    });
    MOCK.as_ref()
}

fn constant(value: i64) -> Extent {
    Extent::Const(value)
}

/// A layer that has everything that a launch may have: a tensor map, clusters, an early start, dynamic shared memory, kernels that
/// prepare and that update. `everything_y = x * table`, where it is run.
pub(super) fn everything() -> Package {
    const HIDDEN: i64 = 16;
    let buffer = |name: &str, role, shape: &[Extent]| Buffer {
        name: name.into(),
        role,
        dtype: DType::F32,
        shape: shape.to_vec(),
        align: 16,
        observe: (name == "rows").then(|| "route.rows".into()),
        below: None,
        mask: None,
    };
    let rows = Extent::Tokens.div(3, Round::Ceil) * 3;
    let buffers = vec![
        buffer("x", Role::Input, &[Extent::Tokens, constant(HIDDEN)]),
        buffer("table", Role::Weight, &[constant(HIDDEN)]),
        buffer("prepared", Role::Prepared, &[constant(HIDDEN), constant(3)]),
        buffer("scratch", Role::Workspace, &[rows, constant(HIDDEN)]),
        buffer("rows", Role::Workspace, &[Extent::Tokens]),
        buffer("y", Role::Output, &[Extent::Tokens, constant(HIDDEN)]),
    ];
    let map = TensorMap { dtype: DType::F32, tile: [1, 4, 8], swizzle: Swizzle::Bytes32 };
    let kinds: [(&str, &[ParamKind]); 4] = [
        ("prepare", &[ParamKind::Pointer, ParamKind::Pointer]),
        ("gather", &[ParamKind::TensorMap(map), ParamKind::Pointer, ParamKind::I32]),
        ("scale", &[ParamKind::Pointer, ParamKind::Pointer, ParamKind::Pointer, ParamKind::I64, ParamKind::I32]),
        ("update", &[ParamKind::Pointer]),
    ];
    let kernels: Vec<Kernel> = kinds
        .iter()
        .map(|(name, kinds)| Kernel {
            name: (*name).into(),
            symbol: format!("everything_{name}"),
            params: kinds.iter().map(|kind| Param { name: "p".into(), kind: *kind }).collect(),
            threads: 128,
            cluster: if *name == "scale" { 4 } else { 1 },
            shared_bytes: 0,
            dynamic_shared_bytes: if *name == "gather" { 100_000 } else { 0 },
            registers: None,
            spill_bytes: None,
        })
        .collect();
    let launch = |kernel, grid, early, args| Launch { kernel, grid, early, working: None, args };
    let view = View {
        buffer: 0,
        extents: [constant(1), Extent::Tokens, constant(HIDDEN)],
        strides: [Extent::Tokens * HIDDEN, constant(HIDDEN)],
    };
    let gather = launch(
        1,
        Extent::Tokens,
        // Below four tokens it is the first launch of a run, and has none before it.
        true,
        vec![Arg::TensorMap(view), Arg::Buffer(3), Arg::ScalarI32(Extent::SequenceTokens)],
    );
    let scale_args = vec![
        Arg::Buffer(3),
        Arg::Buffer(2),
        Arg::Buffer(5),
        Arg::ScalarI64(Extent::Tokens * (1_i64 << 20)),
        Arg::ScalarI32(Extent::Tokens.div(4, Round::Floor)),
    ];
    let scale = launch(2, Extent::Tokens.div(4, Round::Ceil) * 4, true, scale_args);
    // Of no blocks below four tokens.
    let some = launch(0, Extent::Tokens.div(4, Round::Floor), false, vec![Arg::Buffer(4), Arg::Buffer(3)]);
    let regime = |tokens_up_to, launches: &[&Launch]| Regime {
        tokens_up_to,
        tile_rows: None,
        launches: launches.iter().map(|launch| (*launch).clone()).collect(),
    };
    let target = Target {
        name: "sm_80".into(),
        kind: TargetKind::Gpu,
        images: vec![0],
        cpu_features: Vec::new(),
        least_driver: Some("12.4".into()),
        ptx_version: Some("8.4".into()),
        kernels,
        regimes: vec![regime(Some(2), &[&some, &gather, &scale]), regime(None, &[&some, &scale, &gather, &scale])],
        prepare: vec![launch(0, constant(3), false, vec![Arg::Buffer(1), Arg::Buffer(2)])],
        update: vec![launch(3, constant(1), false, vec![Arg::Buffer(1)])],
        statistics: None,
    };
    let manifest = Manifest {
        compiler: "moec of a test".into(),
        layer: "everything".into(),
        entry: Entry::Layer,
        spec_sha256: "0".repeat(64),
        dtype: DType::F32,
        tf32: false,
        max_tokens: 1000,
        cuts: Cuts::Nowhere,
        workspace_limit: None,
        dims: vec![Dim { name: "hidden".into(), value: HIDDEN as u64 }],
        buffers,
        weights: vec![Recipe::whole("table", vec![Source::plain("table")])],
        images: vec![Image::new(ImageKind::Ptx)],
        targets: vec![target],
    };
    let entries = kinds.iter().map(|(name, kinds)| {
        let params = kinds.iter().map(|kind| match kind {
            ParamKind::Pointer | ParamKind::I64 => "\t.param .u64 p",
            ParamKind::I32 => "\t.param .u32 p",
            ParamKind::TensorMap(_) => "\t.param .align 64 .b8 p[128]",
        });
        format!(".visible .entry everything_{name}(\n{}\n)\n{{ ret; }}\n", params.collect::<Vec<_>>().join(",\n"))
    });
    let ptx = format!(".version 8.4\n.target sm_80\n.address_size 64\n{}", entries.collect::<String>());
    Package::new(manifest, vec![ptx.into_bytes()]).unwrap()
}

/// Programs of both layers.
fn programs() -> Option<&'static str> {
    static PROGRAMS: LazyLock<bool> = LazyLock::new(|| {
        if mock().is_none() {
            return false;
        }
        program("gpu_everything", "gpu.c", &["everything"], Linked::Static);
        program("gpu_mixtral", "gpu.c", &LAYERS[..1], Linked::Static);
        true
    });
    PROGRAMS.then_some("gpu_")
}

/// Create, bind, runs and the end, as the driver sees them, found by the library or given by the caller.
#[test]
fn the_life_of_a_layer() {
    let (Some(_), Some((folder, file))) = (programs(), mock()) else { return };
    let mut all = String::new();
    for tokens in BATCHES {
        let found = said("gpu_everything", &["life", "-", tokens], &[("LD_LIBRARY_PATH", &folder.to_string_lossy())]);
        let given = said("gpu_everything", &["life", file, tokens], &[]);
        assert_eq!(found, given, "the driver that is found, and the one that is given");
        all += &format!("== T = {tokens}\n{given}");
    }
    insta::assert_snapshot!("life_on_a_gpu", all);
    let life = |arch: &str| {
        let text = BATCHES.map(|tokens| said("gpu_mixtral", &["life", file, tokens], &[("MOCK_ARCH", arch)]));
        text.concat()
            .lines()
            .filter(|line| line.starts_with("--") || line.starts_with("launch"))
            .map(|l| format!("{l}\n"))
            .collect()
    };
    insta::assert_snapshot!("launches_on_sm_80", life("80"));
    let (ampere, hopper): (String, String) = (life("89"), life("90"));
    assert!(ampere.contains("for sm_80") && hopper.contains("for sm_90a"), "{ampere}{hopper}");
}

#[test]
fn what_a_driver_refuses() {
    let (Some(_), Some((folder, file))) = (programs(), mock()) else { return };
    insta::assert_snapshot!("errors_on_a_gpu", said("gpu_everything", &["errors", file, "0"], &[]));
    let old = [("MOCK_VERSION", "12020"), ("LD_LIBRARY_PATH", &*folder.to_string_lossy())];
    program("create_everything", "create.c", &["everything"], Linked::Static);
    program("create_on_gpu", "create.c", &LAYERS[1..], Linked::Static);
    let mut text = said("create_everything", &["0", "1", "2"], &old);
    text += &said("create_on_gpu", &["2"], &old[1..]);
    insta::assert_snapshot!("drivers", text);
    // The reason is the loader's. A machine that has a driver finds it.
    let absent = said("gpu_everything", &["absent", "-", "0"], &[]);
    let begin = "-- no driver\ncreate: no CUDA driver, or one that is too old: no CUDA driver: libcuda.so.1: ";
    if absent.contains("libcuda.so.1: ") {
        assert!(absent.starts_with(begin) && absent.ends_with(" (install NVIDIA's driver, or pass get_proc)\n"), "{absent}");
    } else {
        skipped("launcher without a driver", "there is one");
    }
}

/// What a child does: as the C programs, by moec-runtime.
#[test]
fn child() {
    let Some(file) = std::env::var_os("MOCK_PACKAGE") else { return };
    let tokens = std::env::var("MOCK_TOKENS").unwrap().parse().unwrap();
    let package = package::read(&fs::read(file).unwrap()).unwrap();
    let layer = Layer::load(&package, DeviceKind::Cuda { ordinal: 0 }).unwrap();
    let dims = Dims::tokens(tokens);
    let zeros = |role| {
        let buffers = package.manifest().buffers.iter().filter(move |buffer| buffer.role == role);
        let zero = |buffer: &Buffer| {
            let shape: Vec<u64> = buffer.shape.iter().map(|extent| extent.count(dims).unwrap()).collect();
            let bytes = shape.iter().product::<u64>() * buffer.dtype.bytes();
            Tensor::new(buffer.dtype, shape, vec![0; bytes as usize]).unwrap()
        };
        buffers.map(zero).collect::<Vec<_>>()
    };
    let bound = layer.bind(zeros(Role::Weight)).unwrap();
    let plan = layer.plan(dims).unwrap();
    let mut batch = bound.batch(&zeros(Role::Input), dims).unwrap();
    // SAFETY: the mock knows no streams, and the memory lives until the runs are over.
    let stream = unsafe { Stream::cuda(std::ptr::without_provenance_mut(0x77)) };
    plan.run(&bound, &mut batch.memory(), stream).unwrap();
    plan.update(&bound, &mut batch.memory(), stream).unwrap();
}

/// The launches of a log, each without its stream.
pub(super) fn launches(log: &str) -> Vec<String> {
    let launches = log.lines().filter(|line| line.starts_with("launch "));
    launches.map(|line| line.replace(" stream 0x77", "").replace(" stream 0", "")).collect()
}

/// A part of a log, by how its heading begins.
pub(super) fn part<'l>(log: &'l str, begin: &str) -> &'l str {
    let rest = &log[log.find(begin).unwrap() + begin.len()..];
    rest.split("-- ").next().unwrap_or(rest)
}

fn launched_by_runtime(file: &Path, arch: &str, tokens: &str) -> Vec<String> {
    let (folder, _) = mock().unwrap();
    let log = file.with_extension(format!("{arch}.{tokens}.log"));
    let _ = fs::remove_file(&log);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launcher::gpu::child", "--nocapture"])
        .envs([("MOCK_TOKENS", tokens), ("MOCK_ARCH", arch)])
        .env("LD_LIBRARY_PATH", folder)
        .env("MOCK_PACKAGE", file)
        .env("MOCK_LOG", &log)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{told}", String::from_utf8_lossy(&output.stdout));
    launches(&fs::read_to_string(log).unwrap())
}

/// Kernels, grids, blocks, shared memory, attributes and arguments, where memory is allocated in the same order.
#[test]
fn moec_runtime_launches_the_same() {
    let (Some(prefix), Some((_, file))) = (programs(), mock()) else { return };
    let mixtral = super::package(&block(LAYERS[0]), &[host(), machine("sm_80"), machine("sm_90a")]);
    for (package, arches) in [(everything(), &["80"][..]), (mixtral, &["80", "90"])] {
        let name = package.manifest().layer.clone();
        let path = room().unwrap().join(format!("{name}.moec"));
        fs::write(&path, package.to_bytes().unwrap()).unwrap();
        for arch in arches {
            for tokens in BATCHES {
                let life = said(&format!("{prefix}{name}"), &["life", file, tokens], &[("MOCK_ARCH", arch)]);
                let parts = ["-- bind ", "-- run at T = ", "-- update"];
                let ours: Vec<String> = parts.iter().flat_map(|begin| launches(part(&life, begin))).collect();
                assert!(!ours.is_empty(), "{name}: {life}");
                assert_eq!(ours, launched_by_runtime(&path, arch, tokens), "{name} on sm_{arch} at T = {tokens}");
            }
        }
    }
}

/// NVIDIA's header, where there is one: in `.tools`, where its PyPI wheel was unpacked, or in a toolkit.
#[test]
fn types_are_those_of_cuda_h() {
    if room().is_none() {
        return;
    }
    let toolkit = std::env::var_os("CUDA_HOME").map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
    let folders = [root().join(".tools/nvidia/cu13/include"), toolkit.join("include")];
    let Some(folder) = folders.iter().find(|folder| folder.join("cuda.h").is_file()) else {
        skipped("launcher::cuda_types", "there is no cuda.h");
        return;
    };
    let includes = [folder.clone(), root().join("runtime/launcher")].map(|folder| format!("-I{}", folder.display()));
    compile("cc", "cuda_types.o", &["-std=c11", "-Wno-unused-function", &includes[0], &includes[1], "-c", "@/cuda_types.c"]);
}
