//! Scalar instructions against plain Rust, and launches too large for the host.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::statements;
use crate::statements::run;
use ptx_emulator::{Arg, Blocks, Fill, FindingKind, Launch, LaunchError, Memory, Options, launch, parse};

/// What a lane should hold.
type ByLane = fn(u32) -> u32;

/// Runs `body` on 32 lanes and returns the 32-bit word that each stores from `%r9`.
fn words(body: &str) -> Vec<u32> {
    let found = run(&format!("{body}\nst.global.u32 [%d5], %r9;"), 1, 32, &Options::default());
    assert!(found.report.clean(), "{body}: {}", found.report);
    found.y[..128].chunks_exact(4).map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

/// Lane `i` has `%r7 = i * 0x01234567 + 89` and `%r8 = 0x80000001 >> i`.
const OPERANDS: &str = "mul.lo.u32 %r7, %r2, 19088743; add.u32 %r7, %r7, 89; mov.u32 %r8, 2147483649; shr.u32 %r8, %r8, %r2;";

fn x(i: u32) -> u32 {
    i.wrapping_mul(19_088_743).wrapping_add(89)
}

fn y(i: u32) -> u32 {
    0x8000_0001 >> i
}

#[test]
fn integers_are_those_of_rust() {
    let cases: [(&str, ByLane); 29] = [
        ("add.s32 %r9, %r7, %r8;", |i| x(i).wrapping_add(y(i))),
        ("sub.s32 %r9, %r7, %r8;", |i| x(i).wrapping_sub(y(i))),
        ("add.sat.s32 %r9, %r7, %r8;", |i| (x(i) as i32).saturating_add(y(i) as i32) as u32),
        ("mul.lo.s32 %r9, %r7, %r8;", |i| x(i).wrapping_mul(y(i))),
        ("mul.hi.s32 %r9, %r7, %r8;", |i| ((i64::from(x(i) as i32) * i64::from(y(i) as i32)) >> 32) as u32),
        ("mul.hi.u32 %r9, %r7, %r8;", |i| ((u64::from(x(i)) * u64::from(y(i))) >> 32) as u32),
        ("mad.lo.s32 %r9, %r7, %r8, %r2;", |i| x(i).wrapping_mul(y(i)).wrapping_add(i)),
        ("div.s32 %r9, %r7, %r8;", |i| (x(i) as i32).wrapping_div(y(i) as i32) as u32),
        ("div.u32 %r9, %r7, %r8;", |i| x(i) / y(i)),
        ("rem.s32 %r9, %r7, %r8;", |i| (x(i) as i32).wrapping_rem(y(i) as i32) as u32),
        ("rem.u32 %r9, %r7, %r8;", |i| x(i) % y(i)),
        ("min.s32 %r9, %r7, %r8;", |i| (x(i) as i32).min(y(i) as i32) as u32),
        ("max.u32 %r9, %r7, %r8;", |i| x(i).max(y(i))),
        ("xor.b32 %r9, %r7, %r8;", |i| x(i) ^ y(i)),
        ("shl.b32 %r9, %r7, %r2;", |i| x(i) << i),
        ("shr.s32 %r9, %r7, %r2;", |i| ((x(i) as i32) >> i) as u32),
        ("shr.s32 %r9, %r7, 40;", |i| ((x(i) as i32) >> 31) as u32),
        ("shl.b32 %r9, %r7, 32;", |_| 0),
        ("popc.b32 %r9, %r7;", |i| x(i).count_ones()),
        ("clz.b32 %r9, %r8;", |i| y(i).leading_zeros()),
        ("brev.b32 %r9, %r7;", |i| x(i).reverse_bits()),
        ("bfind.u32 %r9, %r8;", |i| 31 - y(i).leading_zeros()),
        ("abs.s32 %r9, %r7;", |i| (x(i) as i32).unsigned_abs()),
        ("bfe.u32 %r9, %r7, 5, 9;", |i| x(i) >> 5 & 0x1ff),
        ("bfe.s32 %r9, %r7, 5, 9;", |i| ((x(i) << 18) as i32 >> 23) as u32),
        ("bfi.b32 %r9, %r7, %r8, 8, 12;", |i| (y(i) & !0xfff00) | (x(i) & 0xfff) << 8),
        ("lop3.b32 %r9, %r7, %r8, %r2, 0xe8;", |i| (x(i) & y(i)) | (x(i) & i) | (y(i) & i)),
        ("prmt.b32 %r9, %r7, %r8, 0x7043;", |i| {
            u32::from_le_bytes([x(i).to_le_bytes()[3], y(i).to_le_bytes()[0], x(i).to_le_bytes()[0], y(i).to_le_bytes()[3]])
        }),
        ("shf.l.wrap.b32 %r9, %r7, %r7, %r2;", |i| x(i).rotate_left(i)),
    ];
    for (instruction, expected) in cases {
        let found = words(&format!("{OPERANDS} {instruction}"));
        assert_eq!(found, (0..32).map(expected).collect::<Vec<u32>>(), "{instruction}");
    }
}

#[test]
fn wide_arithmetic_carries() {
    let body = format!("{OPERANDS} add.cc.u32 %r10, %r7, %r7; addc.u32 %r9, %r8, %r8;");
    let expected = |i: u32| ((u64::from(y(i)) << 32 | u64::from(x(i))).wrapping_mul(2) >> 32) as u32;
    assert_eq!(words(&body), (0..32).map(expected).collect::<Vec<u32>>());
}

#[test]
fn lanes_talk_to_each_other() {
    let cases: [(&str, ByLane); 11] = [
        ("shfl.sync.up.b32 %r9, %r7, 3, 0, -1;", |i| if i < 3 { x(i) } else { x(i - 3) }),
        ("shfl.sync.down.b32 %r9, %r7, 3, 31, -1;", |i| if i > 28 { x(i) } else { x(i + 3) }),
        ("shfl.sync.bfly.b32 %r9, %r7, 5, 31, -1;", |i| x(i ^ 5)),
        ("shfl.sync.idx.b32 %r9, %r7, %r8, 31, -1;", |i| x(y(i) & 31)),
        // Segments of 8 lanes.
        ("shfl.sync.idx.b32 %r9, %r7, 2, 6175, -1;", |i| x(i & 24 | 2)),
        ("setp.gt.u32 %p1, %r2, 20; vote.sync.ballot.b32 %r9, %p1, -1;", |_| 0xffe0_0000),
        ("and.b32 %r10, %r2, 3; match.any.sync.b32 %r9, %r10, -1;", |i| 0x1111_1111 << (i & 3)),
        ("redux.sync.add.s32 %r9, %r2, -1;", |_| 496),
        ("redux.sync.max.u32 %r9, %r8, -1;", |_| 0x8000_0001),
        ("elect.sync %r9|%p1, -1;", |_| 0),
        ("activemask.b32 %r9;", |_| u32::MAX),
    ];
    for (instruction, expected) in cases {
        let found = words(&format!("{OPERANDS} {instruction}"));
        assert_eq!(found, (0..32).map(expected).collect::<Vec<u32>>(), "{instruction}");
    }
}

/// Lane `i` has `%f1 = i / 3 - 5`, `%f2 = 2^(i - 16)`.
#[test]
fn floats_are_those_of_rust() {
    let operands = "cvt.rn.f32.u32 %f3, %r2; div.rn.f32 %f1, %f3, 0f40400000; sub.f32 %f1, %f1, 0f40A00000; \
                    add.u32 %r10, %r2, 111; shl.b32 %r10, %r10, 23; mov.b32 %f2, %r10;";
    let a = |i: u32| i as f32 / 3.0 - 5.0;
    let b = |i: u32| 2.0_f32.powi(i as i32 - 16);
    let cases: [(&str, &dyn Fn(u32) -> u32); 14] = [
        ("add.f32 %f9, %f1, %f2; mov.b32 %r9, %f9;", &|i| (a(i) + b(i)).to_bits()),
        ("mul.rn.f32 %f9, %f1, %f1; mov.b32 %r9, %f9;", &|i| (a(i) * a(i)).to_bits()),
        ("fma.rn.f32 %f9, %f1, %f1, %f2; mov.b32 %r9, %f9;", &|i| a(i).mul_add(a(i), b(i)).to_bits()),
        ("max.f32 %f9, %f1, %f2; mov.b32 %r9, %f9;", &|i| a(i).max(b(i)).to_bits()),
        ("sqrt.rn.f32 %f9, %f2; mov.b32 %r9, %f9;", &|i| b(i).sqrt().to_bits()),
        ("ex2.approx.f32 %f9, %f1; mov.b32 %r9, %f9;", &|i| (f64::from(a(i)).exp2() as f32).to_bits()),
        ("cvt.rzi.s32.f32 %r9, %f1;", &|i| a(i) as i32 as u32),
        ("cvt.rni.s32.f32 %r9, %f1;", &|i| a(i).round_ties_even() as i32 as u32),
        ("cvt.rzi.u32.f32 %r9, %f1;", &|i| a(i) as u32),
        ("cvt.f64.f32 %g1, %f1; mul.f64 %g2, %g1, %g1; cvt.rn.f32.f64 %f9, %g2; mov.b32 %r9, %f9;", &|i| {
            ((f64::from(a(i)) * f64::from(a(i))) as f32).to_bits()
        }),
        ("cvt.rn.bf16x2.f32 %r9, %f1, %f2;", &|i| {
            // Ties do not occur: adding half of the last place and cutting off is rounding.
            let half = |value: f32| (value.to_bits() + 0x8000) >> 16;
            half(a(i)) << 16 | half(b(i))
        }),
        ("cvt.rn.bf16.f32 %h1, %f2; cvt.f32.bf16 %f9, %h1; mov.b32 %r9, %f9;", &|i| b(i).to_bits()),
        ("cvt.rn.f16.f32 %h1, %f2; cvt.f32.f16 %f9, %h1; mov.b32 %r9, %f9;", &|i| b(i).to_bits()),
        ("setp.ltu.f32 %p1, %f1, %f2; selp.b32 %r9, 1, 0, %p1;", &|i| u32::from(a(i) < b(i))),
    ];
    for (instruction, expected) in cases {
        let found = words(&format!("{operands} {instruction}"));
        assert_eq!(found, (0..32).map(expected).collect::<Vec<u32>>(), "{instruction}");
    }
}

#[test]
fn jumps_through_a_table() {
    let body = "and.b32 %r10, %r2, 3; mov.u32 %r9, 7; T: .branchtargets A, B, C, D; brx.idx %r10, T; \
                A: mov.u32 %r9, 10; bra D; B: mov.u32 %r9, 20; bra D; C: mov.u32 %r9, 30; D:";
    assert_eq!(words(body), (0..32).map(|i| [10, 20, 30, 7][i % 4]).collect::<Vec<u32>>());
}

#[test]
fn text_of_llvm_parses() {
    let module = parse(include_str!("ptx/llvm_mixed.ptx")).unwrap();
    let entry = module.entry("moec_a").unwrap();
    let layout: Vec<(usize, usize, bool)> = entry.params.iter().map(|param| (param.offset, param.bytes, param.pointer)).collect();
    assert_eq!(layout, [(0, 8, true), (8, 8, true), (16, 4, false), (20, 4, false), (128, 128, false)]);
    assert_eq!((entry.shared_bytes, entry.shared_align, entry.max_threads), (4224, 1024, Some(256)));
}

/// TMA, mbarrier, wgmma by inline assembly, a jump table, local memory, 128-bit products: as LLVM 22 prints them.
#[test]
fn text_of_llvm_for_hopper_parses() {
    let module = parse(include_str!("ptx/llvm_hopper.ptx")).unwrap_or_else(|error| panic!("{error}"));
    let entry = module.entry("moec_b").unwrap();
    assert_eq!(entry.params.iter().map(|param| param.bytes).collect::<Vec<usize>>(), [128, 8, 8]);
    assert_eq!(entry.local_bytes, 32);
    assert!(entry.instructions() > 80);
}

#[test]
fn what_is_not_known_is_refused_with_its_place() {
    let cases = [
        ("frobnicate.u32 %r7, %r8;", "instruction `frobnicate.u32` is not modelled"),
        ("add.funny.u32 %r7, %r8, %r8;", "modifier `.funny`"),
        ("add.u32 %r7, %r8;", "takes 3 operands, not 2"),
        ("add.u32 %q7, %r8, %r8;", "`%q7` is not declared"),
        ("bra NOWHERE;", "label `NOWHERE` is not defined"),
        ("tcgen05.wait.sync.aligned;", "is not modelled"),
        ("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r5], %r2, [%r5];", "clusters of more than one block"),
        ("ld.global.u32 %r7, [%d1", "expected `]`"),
    ];
    for (statement, message) in cases {
        let error = parse(&statements::kernel(statement)).unwrap_err();
        assert!(error.message.contains(message), "{statement}: {error}");
        assert!(error.at.line >= 12, "{statement}: {error}");
    }
}

/// out[i] = table[i * 2^20 + block], with i a 64-bit index: 3 TiB of table, made up as it is read.
const HUGE: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
    .visible .entry huge(.param .u64 table, .param .u64 out)\n{\n.reg .b64 %d<12>; .reg .b32 %r<6>;\n\
    ld.param.u64 %d1, [table]; ld.param.u64 %d2, [out]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x;\n\
    cvt.u64.u32 %d3, %r1; shl.b64 %d4, %d3, 20; mul.wide.u32 %d5, %r2, 4; add.s64 %d6, %d4, %d5; add.s64 %d7, %d1, %d6;\n\
    ld.global.u32 %r3, [%d7];\n\
    mul.wide.u32 %d8, %r1, 128; add.s64 %d9, %d8, %d5; add.s64 %d10, %d2, %d9; st.global.u32 [%d10], %r3;\nret;\n}\n";

#[test]
fn some_blocks_of_a_huge_grid_run_over_sparse_memory() {
    let blocks = 3 << 20;
    let module = parse(HUGE).unwrap();
    let mut memory = Memory::new();
    // Each word says where it is.
    let fill = |offset: u64, out: &mut [u8]| {
        for (index, word) in out.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&(((offset >> 2) + index as u64) as u32).to_le_bytes());
        }
    };
    let table = memory.alloc("table", u64::from(blocks) << 20, Fill::Procedure(Arc::new(fill))).unwrap();
    let out = memory.alloc("out", u64::from(blocks) * 128, Fill::Uninitialised(0)).unwrap();
    let args = module.entries[0].pack(&memory, &[Arg::Buffer(table), Arg::Buffer(out)]).unwrap();
    let shape = Launch { grid: [blocks, 1, 1], block: [32, 1, 1], shared_bytes: 0, early: false, args };
    let last = u64::from(blocks) - 1;
    let chosen = Options { blocks: Blocks::Only(vec![0, 7, last]), ..Options::default() };
    let report = launch(&module, "huge", &shape, &mut memory, &chosen).unwrap();
    assert!(report.clean(), "{report}");
    assert_eq!(report.counters.blocks, 3);
    for block in [0, 7, last] {
        let mut row = [0; 128];
        memory.read(out, block * 128, &mut row).unwrap();
        let found = u32::from_le_bytes([row[124], row[125], row[126], row[127]]);
        assert_eq!(found, ((block << 18) + 31) as u32);
    }
    let sampled = Options { blocks: Blocks::Sample(5), ..Options::default() };
    assert_eq!(launch(&module, "huge", &shape, &mut memory, &sampled).unwrap().counters.blocks, 7);
    let outside = Options { blocks: Blocks::Only(vec![last + 1]), ..Options::default() };
    assert_eq!(launch(&module, "huge", &shape, &mut memory, &outside), Err(LaunchError::NoSuchBlock(last + 1)));
}

/// The same kernel with a 32-bit index: right for small grids, and reported where the product no longer fits.
#[test]
fn an_index_of_32_bits_is_reported_beyond_its_range() {
    let narrow = HUGE.replace("cvt.u64.u32 %d3, %r1; shl.b64 %d4, %d3, 20;", "shl.b32 %r4, %r1, 20; cvt.s64.s32 %d4, %r4;");
    let module = parse(&narrow).unwrap();
    let mut memory = Memory::new();
    let table = memory.alloc("table", 1 << 40, Fill::Byte(1)).unwrap();
    let out = memory.alloc("out", 1 << 30, Fill::Uninitialised(0)).unwrap();
    let args = module.entries[0].pack(&memory, &[Arg::Buffer(table), Arg::Buffer(out)]).unwrap();
    let shape = Launch { grid: [1 << 20, 1, 1], block: [32, 1, 1], shared_bytes: 0, early: false, args };
    for (block, wraps) in [(0, false), (2047, false), (2048, true), (4096, true)] {
        let options = Options { blocks: Blocks::Only(vec![block]), ..Options::default() };
        let report = launch(&module, "huge", &shape, &mut memory, &options).unwrap();
        assert_eq!(report.has(FindingKind::AddressWrap), wraps, "block {block}: {report}");
    }
}
