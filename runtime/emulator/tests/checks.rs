//! Each check finds its bug, and stays silent on the same kernel without it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use crate::statements::run;
use ptx_emulator::{FindingKind, FindingKind::*, Options, Schedule};

/// A body, blocks, threads, and the only kind of finding that it may have; none for a correct kernel.
type Case = (&'static str, &'static str, u32, u32, Option<FindingKind>);

const CASES: &[Case] = &[
    ("store past the end", "st.global.u32 [%d5+4096], %r2;", 1, 32, Some(OutOfBounds)),
    ("store to the last element", "st.global.u32 [%d5], %r2;", 1, 1024, None),
    ("null", "mov.u64 %d6, 0; ld.global.u32 %r7, [%d6+8];", 1, 1, Some(NullPointer)),
    ("wild", "mov.u64 %d6, 81985529216486895; ld.global.u32 %r7, [%d6+1];", 1, 1, Some(OutOfBounds)),
    ("shared address as a global one", "cvta.shared.u64 %d6, %d3; ld.global.u32 %r7, [%d6];", 1, 1, Some(WrongSpace)),
    ("past the end of shared memory", "st.shared.u32 [%r5+2048], %r2;", 1, 1, Some(OutOfBounds)),
    ("end of shared memory", "st.shared.u32 [%r5+2044], %r2;", 1, 1, None),
    ("prefetch of the last byte", "prefetch.global.L2 [%d2+4095];", 1, 32, None),
    (
        "prefetch of what is not written yet",
        "prefetch.global.L2 [%d5]; applypriority.global.L2::evict_normal [%d2], 128;",
        2,
        64,
        None,
    ),
    ("prefetch past the end", "prefetch.global.L2 [%d2+4096];", 1, 32, Some(OutOfBounds)),
    ("prefetch past the end by a generic address", "prefetch.L1 [%d2+4096];", 1, 1, Some(OutOfBounds)),
    ("prefetch of null", "mov.u64 %d6, 0; prefetch.global.L2 [%d6];", 1, 1, Some(NullPointer)),
    (
        "prefetch of a shared address as a global one",
        "cvta.shared.u64 %d6, %d3; prefetch.global.L2 [%d6];",
        1,
        1,
        Some(WrongSpace),
    ),
    ("prefetch of shared memory", "cvta.shared.u64 %d6, %d3; prefetch.L1 [%d6];", 1, 1, None),
    ("prefetch past the end of local memory", "mov.u32 %r7, depot; prefetch.local.L1 [%r7+4096];", 1, 1, Some(OutOfBounds)),
    ("prefetch that no lane does", "setp.gt.u32 %p1, %r2, 99; @%p1 prefetch.global.L2 [%d2+4096];", 1, 32, None),
    ("misaligned vector", "ld.global.v4.u32 {%r7,%r8,%r9,%r10}, [%d1+4];", 1, 1, Some(Misaligned)),
    ("misaligned shared", "st.shared.u32 [%r5+2], %r2;", 1, 1, Some(Misaligned)),
    ("a counter that nothing ends", "L: add.u32 %r7, %r2, 1; mov.u32 %r2, %r7; bra L;", 200, 256, Some(StepLimit)),
    (
        "a walk out of memory that nothing ends",
        "L: st.global.u32 [%d5], %r2; add.u64 %d5, %d5, 4096; bra L;",
        1,
        32,
        Some(OutOfBounds),
    ),
    ("unwritten register", "st.global.u32 [%d5], %r50;", 1, 32, Some(UninitialisedRegister)),
    ("unwritten predicate", "@%p7 st.global.u32 [%d5], %r2;", 1, 32, Some(UninitialisedRegister)),
    ("a move of nothing", "mov.u32 %r50, %r51;", 1, 32, None),
    (
        "register written by some lanes",
        "setp.lt.u32 %p1, %r2, 7; @%p1 mov.u32 %r50, 1; add.u32 %r51, %r50, 1;",
        1,
        32,
        Some(UninitialisedRegister),
    ),
    ("unwritten shared", "ld.shared.u32 %r7, [%r6];", 1, 32, Some(UninitialisedShared)),
    ("unwritten global", "ld.global.u32 %r7, [%d5];", 1, 32, Some(UninitialisedGlobal)),
    ("unwritten local", "mov.u32 %r7, depot; ld.local.u32 %r8, [%r7];", 1, 32, Some(UninitialisedShared)),
    ("local", "mov.u32 %r7, depot; st.local.u32 [%r7], %r2; ld.local.u32 %r8, [%r7]; st.global.u32 [%d5], %r8;", 1, 64, None),
    (
        "exchange between warps",
        "st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 128; add.u32 %r8, %r5, %r7; bar.sync 0; ld.shared.u32 %r9, [%r8];",
        1,
        64,
        None,
    ),
    (
        "exchange without a barrier",
        "st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 128; add.u32 %r8, %r5, %r7; ld.shared.u32 %r9, [%r8];",
        1,
        64,
        Some(SharedRace),
    ),
    (
        "second store without a barrier",
        "st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 128; add.u32 %r8, %r5, %r7; bar.sync 0; ld.shared.u32 %r9, [%r8]; st.shared.u32 [%r6], %r9;",
        1,
        64,
        Some(SharedRace),
    ),
    ("lanes store one value to one word", "st.shared.u32 [%r5], %r1;", 1, 32, None),
    ("lanes store different values to one word", "st.shared.u32 [%r5], %r2;", 1, 32, Some(LaneRace)),
    ("two warps store to one word", "st.shared.u32 [%r5], %r1;", 1, 64, Some(SharedRace)),
    (
        "exchange between lanes",
        "st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 4; add.u32 %r8, %r5, %r7; bar.warp.sync -1; ld.shared.u32 %r9, [%r8];",
        1,
        32,
        None,
    ),
    (
        "exchange between lanes without order",
        "st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 4; add.u32 %r8, %r5, %r7; ld.shared.u32 %r9, [%r8];",
        1,
        32,
        Some(LaneRace),
    ),
    (
        "a shuffle orders nothing",
        "st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 4; add.u32 %r8, %r5, %r7; shfl.sync.idx.b32 %r10, %r2, 0, 31, -1; ld.shared.u32 %r9, [%r8];",
        1,
        32,
        Some(LaneRace),
    ),
    (
        "halves of a word",
        "shl.b32 %r7, %r2, 1; add.u32 %r8, %r5, %r7; cvt.u16.u32 %h1, %r2; st.shared.b16 [%r8], %h1; ld.shared.b16 %h2, [%r8]; st.shared.b16 [%r8], %h2;",
        1,
        64,
        None,
    ),
    ("global between blocks", "setp.eq.u32 %p1, %r2, 0; @%p1 st.global.u32 [%d2], %r3;", 2, 32, Some(GlobalRace)),
    (
        "global between warps",
        "st.global.u32 [%d5], %r2; xor.b32 %r7, %r4, 128; cvt.u64.u32 %d6, %r7; add.s64 %d7, %d2, %d6; ld.global.u32 %r8, [%d7];",
        1,
        64,
        Some(GlobalRace),
    ),
    (
        "global between warps with a barrier",
        "st.global.u32 [%d5], %r2; xor.b32 %r7, %r4, 128; cvt.u64.u32 %d6, %r7; add.s64 %d7, %d2, %d6; bar.sync 0; ld.global.u32 %r8, [%d7];",
        1,
        64,
        None,
    ),
    ("atomics may meet", "red.global.add.u32 [%d1], 1; atom.global.max.u32 %r7, [%d1+4], %r2;", 3, 64, None),
    (
        "an atomic and a plain store",
        "setp.eq.u32 %p1, %r3, 0; @%p1 red.global.add.u32 [%d1], 1; @!%p1 st.global.u32 [%d1], 1;",
        2,
        1,
        Some(GlobalRace),
    ),
    ("barrier in a branch", "setp.lt.u32 %p1, %r2, 7; @%p1 bra A; bar.sync 0; A:", 1, 32, None),
    (
        "divergent barrier",
        "setp.lt.u32 %p1, %r2, 7; @%p1 bra A; bar.sync 0; bra B; A: bar.sync 1; B:",
        1,
        32,
        Some(DivergentBarrier),
    ),
    ("a warp that does not come", "setp.lt.u32 %p1, %r2, 32; @%p1 bar.sync 1, 64;", 1, 64, Some(Deadlock)),
    ("barrier for some warps", "setp.lt.u32 %p1, %r2, 64; @%p1 bar.sync 1, 64;", 1, 128, None),
    ("a barrier reached twice in a phase", "bar.arrive 1, 96; bar.sync 0; bar.arrive 1, 96;", 1, 64, Some(BarrierCount)),
    ("odd number of threads", "bar.sync 1, 33;", 1, 64, Some(BarrierCount)),
    ("threads that exit do not hold up a barrier", "setp.gt.u32 %p1, %r2, 40; @%p1 exit; bar.sync 0;", 1, 128, None),
    ("mask without oneself", "shfl.sync.idx.b32 %r10, %r2, 0, 31, 1;", 1, 2, Some(BadMask)),
    ("shuffle from a lane that does not exist", "shfl.sync.idx.b32 %r10, %r2, 9, 31, -1;", 1, 8, Some(InactiveLane)),
    (
        "part of a warp",
        "setp.lt.u32 %p1, %r2, 16; @%p1 bra A; shfl.sync.bfly.b32 %r10, %r2, 1, 31, 0xffff0000; bra B; A: shfl.sync.bfly.b32 %r10, %r2, 1, 31, 0xffff; B: st.global.u32 [%d5], %r10;",
        1,
        32,
        None,
    ),
    (
        "the wrong part of a warp",
        "setp.lt.u32 %p1, %r2, 16; @%p1 bra A; shfl.sync.bfly.b32 %r10, %r2, 1, 31, -1; bra B; A: shfl.sync.bfly.b32 %r10, %r2, 1, 31, -1; B:",
        1,
        32,
        Some(DivergentBarrier),
    ),
    ("an endless loop", "A: bra A;", 1, 32, Some(Deadlock)),
    (
        "a flag that is never set",
        "st.global.u32 [%d2], 0; A: ld.volatile.global.u32 %r7, [%d2]; setp.eq.u32 %p1, %r7, 0; @%p1 bra A;",
        1,
        1,
        Some(Deadlock),
    ),
    (
        "a lane waits for another",
        "mov.u32 %r9, 0; st.volatile.shared.u32 [%r5], %r9; bar.warp.sync -1; setp.eq.u32 %p1, %r2, 5; @%p1 bra B; A: ld.volatile.shared.u32 %r7, [%r5]; setp.eq.u32 %p2, %r7, 0; @%p2 bra A; bra C; B: st.volatile.shared.u32 [%r5], 1; C:",
        1,
        32,
        None,
    ),
    (
        "i32 wraps into an address",
        "mov.u32 %r7, 70000; mul.lo.s32 %r8, %r7, %r7; cvt.s64.s32 %d6, %r8; and.b64 %d7, %d6, 0; add.s64 %d8, %d1, %d7; mul.wide.s32 %d9, %r8, 4; sub.s64 %d10, %d9, %d9; add.s64 %d11, %d1, %d10; ld.global.u32 %r9, [%d11];",
        1,
        1,
        Some(AddressWrap),
    ),
    (
        "u32 above 2^31 is fine when it is unsigned",
        "mov.u32 %r7, 60000; mul.lo.s32 %r8, %r7, %r7; cvt.u64.u32 %d6, %r8; sub.s64 %d7, %d6, %d6; add.s64 %d8, %d1, %d7; ld.global.u32 %r9, [%d8];",
        1,
        1,
        None,
    ),
    (
        "a wrap that is masked on purpose",
        "mul.lo.u32 %r7, %r1, 0x9e3779b9; and.b32 %r8, %r7, 0xffc; cvt.u64.u32 %d6, %r8; add.s64 %d7, %d1, %d6; ld.global.u32 %r9, [%d7];",
        1,
        1,
        None,
    ),
    ("float atomic", "mov.f32 %f1, 0f3F800000; red.global.add.f32 [%d1], %f1;", 1, 32, Some(FloatAtomic)),
    ("trap", "trap;", 1, 32, Some(Trap)),
    ("division by zero", "mov.u32 %r7, 0; div.u32 %r8, %r2, %r7;", 1, 1, Some(DivideByZero)),
    ("no such barrier", "mov.u32 %r7, 77; bar.sync %r7;", 1, 32, Some(Undefined)),
];

#[test]
fn each_check_finds_its_bug_and_nothing_else() {
    for (name, body, blocks, threads, expected) in CASES {
        for schedule in Schedule::ALL {
            let options = Options { schedule, seed: 3, deterministic: true, ..Options::default() };
            let report = run(body, *blocks, *threads, &options).report;
            let mut kinds: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
            // A race may also show as bytes that are not written yet.
            let race = matches!(expected, Some(SharedRace | LaneRace | GlobalRace));
            kinds.retain(|kind| !race || !matches!(kind, UninitialisedShared | UninitialisedGlobal));
            kinds.dedup();
            let wanted: Vec<FindingKind> = expected.iter().copied().collect();
            assert_eq!(kinds, wanted, "{name} under {}: {report}", schedule.name());
        }
    }
}

/// The message passing of PTX ISA 8.8: data, then a flag, from one block to another.
const MESSAGE: &str = "
    setp.eq.u32 %p1, %r3, 1; @%p1 bra READER;
    st.global.u32 [%d2+64], 42;
    {FENCE}
    {STORE} [%d1], 77;
    bra END;
READER:
    {LOAD} %r7, [%d1]; setp.ne.u32 %p2, %r7, 77; @%p2 bra READER;
    {ACQUIRE}
    ld.global.u32 %r8, [%d2+64]; st.global.u32 [%d2+128], %r8;
END:";

#[test]
fn flags_between_blocks_need_release_and_acquire() {
    let cases = [
        ("", "st.release.gpu.global.u32", "ld.acquire.gpu.global.u32", "", true),
        ("fence.acq_rel.gpu;", "st.relaxed.gpu.global.u32", "ld.relaxed.gpu.global.u32", "fence.acq_rel.gpu;", true),
        ("membar.gl;", "st.volatile.global.u32", "ld.volatile.global.u32", "membar.gl;", true),
        ("", "st.relaxed.gpu.global.u32", "ld.acquire.gpu.global.u32", "", false),
        ("", "st.release.gpu.global.u32", "ld.relaxed.gpu.global.u32", "", false),
        ("fence.acq_rel.gpu;", "st.volatile.global.u32", "ld.volatile.global.u32", "", false),
    ];
    for (fence, store, load, acquire, clean) in cases {
        let body =
            MESSAGE.replace("{FENCE}", fence).replace("{STORE}", store).replace("{LOAD}", load).replace("{ACQUIRE}", acquire);
        for schedule in Schedule::ALL {
            let run = run(&body, 2, 1, &Options { schedule, ..Options::default() });
            assert_eq!(run.report.clean(), clean, "{fence} {store} {load} {acquire}: {}", run.report);
            assert_eq!(run.report.has(GlobalRace), !clean);
            assert_eq!(run.y[128], 42);
        }
    }
}

#[test]
fn too_much_shared_memory_is_a_finding() {
    let mut options = Options::default();
    options.limits.shared_bytes = 2000;
    assert!(run("", 1, 1, &options).report.has(SharedLimit));
}

#[test]
fn reports_are_json() {
    let report = run("trap;", 1, 1, &Options::default()).report;
    let text = report.to_json();
    assert!(text.starts_with("{\"completed\":false,\"findings\":[{\"kind\":\"trap\",\"kernel\":\"k\",\"line\":"), "{text}");
    assert!(text.contains("\"opcodes\":{") && text.ends_with("}}}"), "{text}");
}
