//! A bounded run of the fuzz check: arbitrary bytes, torn kernels, and arbitrary valid instructions.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use proptest::prelude::*;
use ptx_emulator::fuzz::{Outcome, check};

const KERNELS: [&str; 6] = [
    include_str!("ptx/vector_add.ptx"),
    include_str!("ptx/block_sum.ptx"),
    include_str!("ptx/tiled_gemm.ptx"),
    include_str!("ptx/warp_mma.ptx"),
    include_str!("ptx/hopper_tile.ptx"),
    include_str!("ptx/llvm_mixed.ptx"),
];

/// Statements with holes for numbers: any sequence of them is a valid kernel.
const STATEMENTS: &[&str] = &[
    "add.s32 %r{}, %r{}, %r{};",
    "mul.wide.s32 %d{}, %r{}, %r{};",
    "mad.lo.s32 %r{}, %r{}, %r{}, %r{};",
    "mov.u32 %r{}, %tid.x;",
    "mov.u32 %r{}, tile;",
    "div.s32 %r{}, %r{}, %r{};",
    "rem.s64 %d{}, %d{}, %d{};",
    "shl.b32 %r{}, %r{}, %r{};",
    "shr.s64 %d{}, %d{}, %r{};",
    "bfe.s32 %r{}, %r{}, %r{}, %r{};",
    "bfi.b64 %d{}, %d{}, %d{}, %r{}, %r{};",
    "prmt.b32 %r{}, %r{}, %r{}, %r{};",
    "fns.b32 %r{}, %r{}, %r{}, %r{};",
    "fma.rn.f32 %r{}, %r{}, %r{}, %r{};",
    "cvt.rzi.s32.f32 %r{}, %r{};",
    "cvt.rn.f32.s64 %r{}, %d{};",
    "cvt.rz.f32.u64 %r{}, %d{};",
    "cvt.rn.satfinite.e4m3x2.f32 %h{}, %r{}, %r{};",
    "setp.lt.s32 %p{}, %r{}, %r{};",
    "@%p{} bra L{};",
    "@%p{} exit;",
    "selp.b32 %r{}, %r{}, %r{}, %p{};",
    "ld.global.b32 %r{}, [%d{}];",
    "ld.b64 %d{}, [%d{}];",
    "ld.shared.v2.b32 {%r{}, %r{}}, [%r{}];",
    "st.shared.b32 [%r{}], %r{};",
    "st.global.b64 [%d{}], %d{};",
    "st.local.b32 [%r{}], %r{};",
    "atom.shared.add.u32 %r{}, [%r{}], %r{};",
    "atom.global.acq_rel.gpu.cas.b32 %r{}, [%d{}], %r{}, %r{};",
    "red.global.add.f32 [%d{}], %r{};",
    "bar.sync %r{};",
    "bar.sync 1, %r{};",
    "barrier.sync 2;",
    "bar.arrive 3, 64;",
    "bar.warp.sync %r{};",
    "fence.acq_rel.gpu;",
    "fence.proxy.async;",
    "shfl.sync.idx.b32 %r{}|%p{}, %r{}, %r{}, %r{}, %r{};",
    "vote.sync.ballot.b32 %r{}, %p{}, %r{};",
    "match.any.sync.b32 %r{}, %r{}, %r{};",
    "redux.sync.add.s32 %r{}, %r{}, %r{};",
    "elect.sync %r{}|%p{}, %r{};",
    "cp.async.ca.shared.global [%r{}], [%d{}], 4, %r{};",
    "cp.async.commit_group;",
    "cp.async.wait_group 1;",
    "cp.async.wait_all;",
    "cp.async.mbarrier.arrive.noinc.shared.b64 [%r{}];",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r{}, %r{}, %r{}, %r{}}, [%r{}];",
    "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r{}], {%r{}, %r{}};",
    "mbarrier.init.shared.b64 [%r{}], %r{};",
    "mbarrier.arrive.shared.b64 %d{}, [%r{}];",
    "mbarrier.arrive.expect_tx.shared.b64 _, [%r{}], %r{};",
    "mbarrier.test_wait.parity.shared.b64 %p{}, [%r{}], %r{};",
    "mbarrier.inval.shared.b64 [%r{}];",
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r{}], [%d{}], %r{}, [%r{}];",
    "cp.async.bulk.global.shared::cta.bulk_group [%d{}], [%r{}], %r{};",
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r{}], [%d{}, {%r{}, %r{}}], [%r{}];",
    "cp.async.bulk.commit_group;",
    "cp.async.bulk.wait_group 0;",
    "wgmma.fence.sync.aligned;",
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r{}, %r{}, %r{}, %r{}}, %d{}, %d{}, %p{}, 1, 1, 0, 1;",
    "wgmma.commit_group.sync.aligned;",
    "wgmma.wait_group.sync.aligned 0;",
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r{}], [%d{}], %r{}, [%r{}], %h{};",
    "mapa.shared::cluster.u32 %r{}, %r{}, %r{};",
    "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r{}];",
    "barrier.cluster.arrive.aligned;",
    "barrier.cluster.wait.aligned;",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r{}, %r{}, %r{}, %r{}}, {%r{}, %r{}, %r{}, %r{}}, {%r{}, %r{}}, {%r{}, %r{}, %r{}, %r{}};",
    "trap;",
];

fn kernel(choices: &[(usize, u64)]) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y, .param .u32 n)\n{\n\
         .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %d<4>;\n\
         .shared .align 128 .b8 tile[2048]; .local .align 16 .b8 depot[64];\n\
         ld.param.u64 %d0, [x]; ld.param.u64 %d1, [y]; ld.param.u64 %d2, [x]; mov.u64 %d3, 16; ld.param.u32 %r0, [n];\n\
         mov.u32 %r1, %laneid; mov.u32 %r2, -1; shl.b32 %r3, %r1, 4; setp.eq.u32 %p0, %r1, 3; setp.ne.u32 %p1, %r1, 0;\n\
         setp.eq.u32 %p2, %r1, %r1; setp.lt.u32 %p3, %r1, 7;\n",
    );
    for (line, &(statement, seed)) in choices.iter().enumerate() {
        text.push_str(&format!("L{line}:\n"));
        let mut seed = seed;
        for (index, part) in STATEMENTS[statement % STATEMENTS.len()].split("{}").enumerate() {
            if index > 0 {
                let label = text.ends_with(" L");
                let bound = if label { choices.len() as u64 } else { 4 };
                text.push_str(&(seed % bound).to_string());
                seed = seed.rotate_right(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            text.push_str(part);
        }
        text.push('\n');
    }
    text.push_str("ret;\n}\n");
    text
}

proptest! {
    // PROPTEST_CASES sets more.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn torn_kernels_never_break_it(which in 0..KERNELS.len(), at in any::<u32>(), byte in any::<u8>(), cut in any::<u32>()) {
        let mut bytes = KERNELS[which].as_bytes().to_vec();
        let at = at as usize % bytes.len();
        bytes[at] = byte;
        let cut = cut as usize % (4 * bytes.len());
        bytes.truncate(cut.max(at));
        check(&bytes);
    }

    #[test]
    fn arbitrary_instructions_never_break_it(choices in proptest::collection::vec((any::<usize>(), any::<u64>()), 1..40)) {
        let text = kernel(&choices);
        prop_assert!(matches!(check(text.as_bytes()), Outcome::Ran(_)), "{:?}\n{text}", check(text.as_bytes()));
    }
}

#[test]
fn every_statement_is_valid() {
    for statement in 0..STATEMENTS.len() {
        let text = kernel(&[(statement, 1)]);
        assert!(matches!(check(text.as_bytes()), Outcome::Ran(_)), "{:?}\n{text}", check(text.as_bytes()));
    }
}

#[test]
fn whole_kernels_run() {
    for kernel in KERNELS {
        let outcome = check(kernel.as_bytes());
        assert!(matches!(&outcome, Outcome::Ran(results) if results.iter().all(Result::is_ok)), "{outcome:?}");
    }
}
