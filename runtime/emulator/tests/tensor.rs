//! Tensor-core kernels against f64: right answers, no findings, and every broken synchronisation noticed.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use ptx_emulator::{
    Arg, Fill, FindingKind, Launch, Memory, Numerics, Options, Report, Schedule, Swizzle, TensorMap, launch, mutants, parse,
};

const WARP_MMA: &str = include_str!("ptx/warp_mma.ptx");
const HOPPER_TILE: &str = include_str!("ptx/hopper_tile.ptx");

/// Whole numbers from -3 to 3 as bf16: every product and sum is exact, in any order and any model.
fn whole(count: usize, step: usize) -> (Vec<u8>, Vec<f64>) {
    let values: Vec<f32> = (0..count).map(|i| ((i * step + i / 7) % 7) as f32 - 3.0).collect();
    let bytes = values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect();
    (bytes, values.into_iter().map(f64::from).collect())
}

fn product(a: &[f64], b: &[f64], rows: usize, columns: usize, k: usize) -> Vec<f32> {
    let element = |row: usize, column: usize| (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum::<f64>() as f32;
    (0..rows * columns).map(|index| element(index / columns, index % columns)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

fn warp_mma(text: &str, k: usize, options: &Options) -> (Report, Vec<f32>, Vec<f32>) {
    let ((a, x), (b, y)) = (whole(16 * k, 3), whole(8 * k, 5));
    let module = parse(text).unwrap();
    let mut memory = Memory::new();
    let a = memory.upload("a", &a).unwrap();
    let b = memory.upload("b", &b).unwrap();
    let c = memory.alloc("c", 16 * 8 * 4, Fill::Uninitialised(0xff)).unwrap();
    let args = [Arg::Buffer(a), Arg::Buffer(b), Arg::Buffer(c), Arg::U32(k as u32)];
    let args = module.entries[0].pack(&memory, &args).unwrap();
    let shape = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "warp_mma", &shape, &mut memory, options).unwrap();
    (report, floats(&memory.content(c).unwrap()), product(&x, &y, 16, 8, k))
}

fn hopper_tile(text: &str, k: usize, options: &Options) -> (Report, Vec<f32>, Vec<f32>) {
    let ((a, x), (b, y)) = (whole(64 * k, 3), whole(64 * k, 5));
    let module = parse(text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let a = memory.upload("a", &a).unwrap();
    let b = memory.upload("b", &b).unwrap();
    let c = memory.alloc("c", 64 * 64 * 4, Fill::Uninitialised(0xff)).unwrap();
    let map = |buffer| {
        TensorMap {
            element_bytes: 2,
            address: memory.address(buffer).unwrap(),
            extents: vec![k as u64, 64],
            strides: vec![2 * k as u64],
            box_extents: vec![64, 64],
            swizzle: Swizzle::Bytes128,
        }
        .encode()
        .unwrap()
        .to_vec()
    };
    let args = [Arg::Bytes(map(a)), Arg::Bytes(map(b)), Arg::Buffer(c), Arg::U32(k as u32 / 64)];
    let args = module.entries[0].pack(&memory, &args).unwrap();
    let shape = Launch { grid: [1, 1, 1], block: [160, 1, 1], shared_bytes: 2 * 16384, early: false, args };
    let report = launch(&module, "hopper_tile", &shape, &mut memory, options).unwrap();
    (report, floats(&memory.content(c).unwrap()), product(&x, &y, 64, 64, k))
}

#[test]
fn mma_tiles_are_exact_under_every_schedule_and_model() {
    for schedule in Schedule::ALL {
        for numerics in [Numerics::Plain, Numerics::Ampere, Numerics::Ada, Numerics::Hopper] {
            for k in [16, 32, 80] {
                let options = Options { schedule, numerics, seed: k as u64, ..Options::default() };
                let (report, found, expected) = warp_mma(WARP_MMA, k, &options);
                assert!(report.clean(), "{report}");
                assert_eq!(found, expected);
                assert_eq!(report.counters.mma_flops, 2 * 16 * 8 * k as u64);
            }
        }
    }
}

#[test]
fn wgmma_tiles_are_exact_under_every_schedule() {
    for schedule in Schedule::ALL {
        for (seed, numerics) in [(1, Numerics::Plain), (2, Numerics::Hopper)] {
            for k in [64, 320] {
                let options = Options { schedule, seed, numerics, ..Options::default() };
                let (report, found, expected) = hopper_tile(HOPPER_TILE, k, &options);
                assert!(report.clean(), "{report}");
                assert_eq!(found, expected);
                assert_eq!(report.counters.wgmma_flops, 2 * 64 * 64 * k as u64);
                assert_eq!(report.counters.bulk_bytes, 2 * 64 * 2 * k as u64);
                // Boxes of lines of 128 bytes: each line once.
                let read = report.counters.buffers["b"].read;
                assert_eq!((read.touched, read.distinct), (64 * 2 * k as u64 / 32, 64 * 2 * k as u64 / 32));
            }
        }
    }
}

/// Which kinds the schedules find together in a changed kernel.
fn kinds(run: impl Fn(&Options) -> Report) -> Vec<FindingKind> {
    let mut found = Vec::new();
    for (seed, schedule) in Schedule::ALL.into_iter().enumerate() {
        let report = run(&Options { schedule, seed: seed as u64, step_limit: 1 << 22, ..Options::default() });
        found.extend(report.findings.iter().map(|finding| finding.kind));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn broken_copies_are_noticed() {
    use FindingKind::*;
    let cases = [
        ("cp.async.wait_group 1;", "", AsyncPending),
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;", AsyncPending),
        ("bar.warp.sync -1;", "", LaneRace),
        ("last:\n\tcp.async.commit_group;", "last:", AsyncPending),
        ("bar.sync 0;", "", LaneRace),
        ("mov.u32 %r3, stages;", "mov.u32 %r3, stages; add.u32 %r3, %r3, 8;", Misaligned),
    ];
    for (from, to, kind) in cases {
        assert!(WARP_MMA.contains(from));
        let found = kinds(|options| warp_mma(&WARP_MMA.replace(from, to), 80, options).0);
        // Without the last barrier the reads of ldmatrix cannot be told apart by lane: an equivalent mutant here.
        if from != "bar.sync 0;" {
            assert!(found.contains(&kind), "{from} -> {to}: {found:?}");
        }
    }
}

#[test]
fn broken_pipelines_are_noticed() {
    use FindingKind::*;
    let cases = [
        ("fence.mbarrier_init.release.cluster;", "", MissingProxyFence),
        ("ready:\n\tbar.sync 0;", "ready:", SharedRace),
        ("mbarrier.init.shared::cta.b64 [%r5+8], 4;", "", MbarrierMisuse),
        ("mbarrier.init.shared::cta.b64 [%r5], 4;", "mbarrier.init.shared::cta.b64 [%r5], 3;", AsyncPending),
        ("mbarrier.init.shared::cta.b64 [%r5], 4;", "mbarrier.init.shared::cta.b64 [%r5], 5;", Deadlock),
        ("_, [%r18], 16384;", "_, [%r18], 8192;", Deadlock),
        ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r18], 16384;", "", Deadlock),
        ("mbarrier.try_wait.parity.shared::cta.b64 p, [%r36], %r34;", "setp.eq.u32 p, %r1, %r1;", AsyncPending),
        ("mbarrier.try_wait.parity.shared::cta.b64 p, [%r19], %r16;", "setp.eq.u32 p, %r1, %r1;", SharedRace),
        ("wgmma.fence.sync.aligned;", "", MissingWgmmaFence),
        ("wgmma.commit_group.sync.aligned;", "", AsyncPending),
        ("wgmma.wait_group.sync.aligned 0;", "", AsyncPending),
        ("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;", AsyncPending),
        ("@%p5 mbarrier.arrive.shared::cta.b64 _, [%r37];", "", Deadlock),
        ("@%p5 mbarrier.arrive.shared::cta.b64 _, [%r37];", "mbarrier.arrive.shared::cta.b64 _, [%r37];", Deadlock),
    ];
    for (from, to, kind) in cases {
        assert!(HOPPER_TILE.contains(from), "{from}");
        let found = kinds(|options| hopper_tile(&HOPPER_TILE.replace(from, to), 320, options).0);
        assert!(found.contains(&kind), "{from} -> {to}: {found:?}");
    }
}

/// Mutants that change nothing, with the reason.
const EQUIVALENT: &[(&str, &str, &str)] = &[
    ("warp_mma", "bar.sync 0; uses another barrier", "one warp has every barrier to itself"),
    ("warp_mma", "bar.sync 0; deleted", "the lanes that ldmatrix hands a row to are not told apart, and it is `.aligned`"),
    ("warp_mma", "cp.async.wait_all; deleted", "all groups with copies in them were waited for by then"),
    ("hopper_tile", "bar.sync 0; uses another barrier", "it is the only barrier"),
];

/// The mutation suite over these two kernels: every synchronisation instruction, broken in every way.
#[test]
fn every_mutant_is_noticed_or_explained() {
    let (mut noticed, mut explained) = (0, 0);
    let mut missed = Vec::new();
    for (text, k) in [(WARP_MMA, 80), (HOPPER_TILE, 320)] {
        for mutant in mutants(text).unwrap() {
            let found = kinds(|options| match mutant.kernel.as_str() {
                "warp_mma" => warp_mma(&mutant.text, k, options).0,
                _ => hopper_tile(&mutant.text, k, options).0,
            });
            let what = format!("{} {}", mutant.statement, mutant.mutation);
            let known = EQUIVALENT
                .iter()
                .any(|(kernel, statement, why)| *kernel == mutant.kernel && *statement == what && !why.is_empty());
            match (found.is_empty(), known) {
                (false, _) => noticed += 1,
                (true, true) => explained += 1,
                (true, false) => missed.push(mutant.to_string()),
            }
        }
    }
    println!("{noticed} mutants noticed, {explained} explained, {} missed", missed.len());
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!((noticed, explained), (29, 4));
}
