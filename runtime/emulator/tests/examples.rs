//! Kernels written by hand, outside this project, run as the README shows it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use ptx_emulator::{Arg, Fill, FindingKind, Launch, Memory, Moved, Options, Schedule, Sectors, launch, parse};

const VECTOR_ADD: &str = include_str!("ptx/vector_add.ptx");
const BLOCK_SUM: &str = include_str!("ptx/block_sum.ptx");

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn add(count: u32, launched: u32) -> (ptx_emulator::Report, Vec<f32>, Vec<f32>) {
    let a: Vec<f32> = (0..count).map(|i| i as f32 * 0.5).collect();
    let b: Vec<f32> = (0..count).map(|i| 1000.0 - i as f32).collect();
    let expected = a.iter().zip(&b).map(|(x, y)| (f64::from(*x) + f64::from(*y)) as f32).collect();
    let module = parse(VECTOR_ADD).unwrap();
    let mut memory = Memory::new();
    let a = memory.upload("a", &bytes(&a)).unwrap();
    let b = memory.upload("b", &bytes(&b)).unwrap();
    let c = memory.alloc("c", u64::from(count) * 4, Fill::Uninitialised(0xff)).unwrap();
    let entry = module.entry("vector_add").unwrap();
    let args = entry.pack(&memory, &[Arg::Buffer(a), Arg::Buffer(b), Arg::Buffer(c), Arg::U32(launched)]).unwrap();
    let shape = Launch { grid: [launched.div_ceil(128).max(1), 1, 1], block: [128, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "vector_add", &shape, &mut memory, &Options::default()).unwrap();
    (report, floats(&memory.content(c).unwrap()), expected)
}

#[test]
fn vectors_are_added() {
    for count in [1, 31, 32, 33, 127, 128, 129, 1000] {
        let (report, found, expected) = add(count, count);
        assert!(report.clean(), "{report}");
        assert_eq!(found, expected);
    }
}

#[test]
fn full_blocks_waste_no_sector() {
    let (report, ..) = add(1024, 1024);
    assert_eq!(report.counters.sectors, 3 * 1024 * 4 / 32);
    assert_eq!(report.counters.sectors, report.counters.sectors_needed);
    assert_eq!(report.counters.blocks, 8);
    assert_eq!(report.counters.global.read_bytes, 8192);
    assert_eq!(report.counters.opcodes["add.rn.f32"].lanes, 1024);
    let all = Sectors { touched: 128, needed: 128, distinct: 128 };
    let (read, written) = (Moved { read: all, ..Moved::default() }, Moved { written: all, ..Moved::default() });
    let buffers = [("a", read), ("b", read), ("c", written)].map(|(name, moved)| (name.to_owned(), moved));
    assert_eq!(report.counters.buffers, buffers.into());
}

/// What several blocks, or boxes, read is touched by each, and one sector.
#[test]
fn sectors_that_are_read_again_are_not_different_ones() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry again(.param .u64 from) {\n\
                .reg .b64 %a; .reg .b32 %t, %v; ld.param.u64 %a, [from]; ld.global.u32 %v, [%a]; ld.global.u32 %v, [%a+60]; ret; }";
    let module = parse(text).unwrap();
    let mut memory = Memory::new();
    let from = memory.upload("from", &[0; 64]).unwrap();
    let args = module.entry("again").unwrap().pack(&memory, &[Arg::Buffer(from)]).unwrap();
    let shape = Launch { grid: [3, 1, 1], block: [64, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "again", &shape, &mut memory, &Options::default()).unwrap();
    // Three blocks of two warps load two words, each in a sector of its own.
    let read = Sectors { touched: 12, needed: 12, distinct: 2 };
    assert_eq!(report.counters.buffers["from"], Moved { read, ..Moved::default() });
}

#[test]
fn one_element_too_many_is_reported() {
    let (report, ..) = add(100, 101);
    let finding = &report.findings[0];
    assert_eq!(finding.kind, FindingKind::OutOfBounds);
    assert_eq!((finding.at.line, finding.warp, finding.lanes), (33, 3, 1 << 4));
    assert!(finding.message.contains("past the end of `a`"), "{finding}");
}

fn sum(text: &str, options: &Options) -> (ptx_emulator::Report, Vec<f32>, Vec<f32>) {
    let input: Vec<f32> = (0..1024).map(|i| (i % 37) as f32).collect();
    let expected = input.chunks(256).map(|block| block.iter().sum()).collect();
    let module = parse(text).unwrap();
    let mut memory = Memory::new();
    let source = memory.upload("input", &bytes(&input)).unwrap();
    let out = memory.alloc("out", 16, Fill::Uninitialised(0)).unwrap();
    let entry = module.entry("block_sum").unwrap();
    let args = entry.pack(&memory, &[Arg::Buffer(source), Arg::Buffer(out)]).unwrap();
    let shape = Launch { grid: [4, 1, 1], block: [256, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "block_sum", &shape, &mut memory, options).unwrap();
    (report, floats(&memory.content(out).unwrap()), expected)
}

#[test]
fn blocks_are_summed_under_every_schedule() {
    for schedule in Schedule::ALL {
        for seed in 0..4 {
            let (report, found, expected) = sum(BLOCK_SUM, &Options { schedule, seed, ..Options::default() });
            assert!(report.clean(), "{report}");
            // Whole numbers below 2^24: any order of addition is exact.
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_lost_barrier_is_reported_even_where_the_sum_is_right() {
    let broken = BLOCK_SUM.replace("bar.sync 0;", "");
    for schedule in Schedule::ALL {
        let (report, ..) = sum(&broken, &Options { schedule, ..Options::default() });
        assert!(report.has(FindingKind::SharedRace) || report.has(FindingKind::UninitialisedShared), "{report}");
    }
}
