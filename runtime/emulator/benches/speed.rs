//! Lane-instructions a second on one core, with all checks on.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::{Arg, Fill, Launch, Memory, Options, Report, launch, parse};

const GEMM: &str = include_str!("../tests/ptx/tiled_gemm.ptx");
const ADD: &str = include_str!("../tests/ptx/vector_add.ptx");

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| ((i % 13) as f32 - 6.0).to_le_bytes()).collect()
}

fn gemm(module: &ptx_emulator::Module) -> Report {
    let (m, n, k) = (64_usize, 64_usize, 256_usize);
    let mut memory = Memory::new();
    let a = memory.upload("a", &floats(m * k)).expect("fits");
    let b = memory.upload("b", &floats(k * n)).expect("fits");
    let c = memory.alloc("c", (m * n * 4) as u64, Fill::Uninitialised(0)).expect("fits");
    let args = [Arg::Buffer(a), Arg::Buffer(b), Arg::Buffer(c), Arg::U32(n as u32), Arg::U32(k as u32)];
    let args = module.entries[0].pack(&memory, &args).expect("the arguments fit");
    let shape = Launch { grid: [n as u32 / 16, m as u32 / 16, 1], block: [16, 16, 1], shared_bytes: 0, early: false, args };
    launch(module, "tiled_gemm", &shape, &mut memory, &Options::default()).expect("it launches")
}

fn add(module: &ptx_emulator::Module) -> Report {
    let count = 100_000_usize;
    let mut memory = Memory::new();
    let a = memory.upload("a", &floats(count)).expect("fits");
    let b = memory.upload("b", &floats(count)).expect("fits");
    let c = memory.alloc("c", count as u64 * 4, Fill::Uninitialised(0)).expect("fits");
    let args = [Arg::Buffer(a), Arg::Buffer(b), Arg::Buffer(c), Arg::U32(count as u32)];
    let args = module.entries[0].pack(&memory, &args).expect("the arguments fit");
    let shape = Launch { grid: [(count as u32).div_ceil(256), 1, 1], block: [256, 1, 1], shared_bytes: 0, early: false, args };
    launch(module, "vector_add", &shape, &mut memory, &Options::default()).expect("it launches")
}

fn speed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane_instructions");
    group.sample_size(10);
    for (name, text, run) in [("tiled_gemm", GEMM, gemm as fn(&ptx_emulator::Module) -> Report), ("vector_add", ADD, add)] {
        let module = parse(text).expect("it parses");
        let report = run(&module);
        assert!(report.clean(), "{report}");
        group.throughput(Throughput::Elements(report.counters.lane_instructions()));
        group.bench_function(name, |bencher| bencher.iter(|| run(&module)));
    }
    group.finish();
}

criterion_group!(benches, speed);
criterion_main!(benches);
