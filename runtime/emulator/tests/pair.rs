//! Blocks of a cluster that write to each other's shared memory and arrive at each other's mbarriers.

use FindingKind::*;
use ptx_emulator::{Arg, Fill, FindingKind, Launch, Memory, Options, Report, Schedule, launch, mutants, parse};

const PAIR: &str = include_str!("ptx/pair.ptx");
const STEPS: usize = 5;
const BLOCKS: usize = 4;

fn word(index: usize) -> u32 {
    (index as u32).wrapping_mul(0x9e37_79b9) >> 7
}

fn run(text: &str, options: &Options) -> (Report, Vec<u32>) {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let content: Vec<u8> = (0..64 * STEPS).flat_map(|index| word(index).to_le_bytes()).collect();
    let x = memory.upload("x", &content).unwrap();
    let y = memory.alloc("y", 32 * BLOCKS as u64 * 4, Fill::Uninitialised(0xee)).unwrap();
    let args = [Arg::Buffer(x), Arg::Buffer(y), Arg::U32(STEPS as u32)];
    let args = module.entry("pair").unwrap().pack(&memory, &args).unwrap();
    let shape = Launch { grid: [BLOCKS as u32, 1, 1], block: [64, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "pair", &shape, &mut memory, options).unwrap();
    let found = memory.content(y).unwrap();
    (report, found.chunks(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

fn each_schedule(mut of: impl FnMut(&Options)) {
    for schedule in Schedule::ALL {
        for seed in 0..3 {
            of(&Options { schedule, seed, step_limit: 1 << 22, ..Options::default() });
        }
    }
}

#[test]
fn each_block_of_a_pair_brings_half_to_both() {
    let fold = |lane: usize| {
        (0..STEPS).fold(0_u32, |sum, step| {
            let of = |half: usize| word(64 * step + 32 * half + lane);
            of(1).wrapping_mul(5).wrapping_add(sum.wrapping_mul(3).wrapping_add(of(0)))
        })
    };
    let expected: Vec<u32> = (0..32 * BLOCKS).map(|index| fold(index % 32)).collect();
    let wide = PAIR
        .replace("arrive.shared::cluster", "arrive.release.cluster.shared::cluster")
        .replace("parity.shared::cta.b64 %p4, [%r19]", "parity.acquire.cluster.shared::cta.b64 %p4, [%r19]");
    each_schedule(|options| {
        let (report, y) = run(PAIR, options);
        assert!(report.clean(), "{}: {report}", options.schedule.name());
        assert!(run(&wide, options).0.clean());
        assert_eq!(y, expected, "{}", options.schedule.name());
        // Two blocks share what is read: 256 bytes a step a pair.
        let pairs = BLOCKS as u64 / 2;
        assert_eq!(report.counters.bulk_bytes, pairs * 256 * STEPS as u64);
        assert_eq!(report.counters.buffers["x"].read.touched, pairs * 8 * STEPS as u64);
    });
}

/// A kernel that is wrong in one way, and what is said of it under some schedule.
#[test]
fn what_is_wrong_between_blocks_is_noticed() {
    let both = "barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;";
    let arrive = "mbarrier.arrive.shared::cluster.b64 _, [%r26];";
    let wait = "mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r19], %r16;";
    let read = "ld.shared.u32 %r25, [%r23+128];";
    let of_lane = "mapa.shared::cluster.u32 %r26, %r19, %r2;";
    let other = "xor.b32 %r3, %r3, 1;";
    let cases = [
        // The mbarriers of the other block may not be there yet.
        (format!("ready:\n\t{both}"), "ready: bar.sync 0;".to_owned(), SharedRace),
        ("fence.mbarrier_init.release.cluster;".to_owned(), String::new(), MissingProxyFence),
        // The other block may have ended.
        (format!("{both}\n\tret;"), "ret;".to_owned(), BlockEnded),
        (format!("{both}\n\tret;"), "barrier.cluster.arrive.aligned; ret;".to_owned(), BlockEnded),
        // Bytes come while they are read, or are read while they come.
        (wait.to_owned(), "setp.eq.u32 %p4, %r1, %r1;".to_owned(), MbarrierMisuse),
        // An arrival in the scope of the block tells that reads are over, and tells no store.
        (read.to_owned(), format!("{read} st.shared.u32 [%r23], %r25;"), SharedRace),
        ("mbarrier.init.shared::cta.b64 [%r6], 2;".to_owned(), "mbarrier.init.shared::cta.b64 [%r6], 1;".to_owned(), SharedRace),
        (
            "mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r18], %r15;".to_owned(),
            "setp.eq.u32 %p4, %r1, %r1;".to_owned(),
            SharedRace,
        ),
        // What does not come.
        ("setp.lt.u32 %p6, %r2, 2;".to_owned(), "setp.lt.u32 %p6, %r2, 1;".to_owned(), Deadlock),
        (of_lane.to_owned(), of_lane.replace("%r2;", "%r3;"), SharedRace),
        ("mov.b16 %h1, 3;".to_owned(), "mov.b16 %h1, 1;".to_owned(), Deadlock),
        ("_, [%r18], 256;".to_owned(), "_, [%r18], 128;".to_owned(), AsyncPending),
        // What is not there, or not modelled.
        ("mov.b16 %h1, 3;".to_owned(), "mov.b16 %h1, 7;".to_owned(), Undefined),
        ("mov.b16 %h1, 3;".to_owned(), "mov.b16 %h1, 0;".to_owned(), Undefined),
        (of_lane.to_owned(), of_lane.replace("%r2;", "2;"), Undefined),
        (arrive.to_owned(), arrive.replace("shared::cluster", "shared::cta"), Undefined),
        (
            arrive.to_owned(),
            format!("{other} mapa.shared::cluster.u32 %r27, %r23, %r3; ld.shared::cluster.u32 %r24, [%r27];"),
            Undefined,
        ),
    ];
    for (from, to, kind) in cases {
        assert_eq!(PAIR.matches(&from).count(), 1, "{from}");
        let mut found = Vec::new();
        each_schedule(|options| found.extend(run(&PAIR.replace(&from, &to), options).0.findings.iter().map(|found| found.kind)));
        assert!(found.contains(&kind), "{from} -> {to}: {found:?}");
    }
}

/// Block 0 stores a word and arrives in block 1, which waits and reads it.
const STORED: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry pair(.param .u64 .ptr .global .align 16 x, .param .u64 .ptr .global .align 16 y, .param .u32 steps)
.maxntid 64
.explicitcluster
.reqnctapercluster 2
{
\t.reg .pred %p<4>;
\t.reg .b32 %r<8>;
\t.reg .b64 %d<2>;
\t.shared .align 8 .b8 told[8];
\tld.param.u64 %d1, [y];
\tmov.u32 %r1, %tid.x;
\tmov.u32 %r2, %cluster_ctarank;
\tmov.u32 %r3, told;
\tsetp.ne.u32 %p1, %r1, 0;
\t@%p1 bra made;
\tmbarrier.init.shared::cta.b64 [%r3], 1;
\tfence.mbarrier_init.release.cluster;
made:
\tbarrier.cluster.arrive.aligned;
\tbarrier.cluster.wait.aligned;
\t@%p1 bra done;
\tmov.u32 %r4, %ctaid.x;
\tsetp.gt.u32 %p2, %r4, 1;
\t@%p2 bra done;
\tsetp.eq.u32 %p3, %r2, 1;
\t@%p3 bra WAIT;
\tst.global.u32 [%d1], 7;
\tmapa.shared::cluster.u32 %r5, %r3, 1;
\tmbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5];
\tbra done;
WAIT:
\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r3], 0;
\t@!%p2 bra WAIT;
\tld.global.u32 %r6, [%d1];
\tst.global.u32 [%d1+4], %r6;
done:
\tbar.warp.sync -1;
\tbarrier.cluster.arrive.aligned;
\tbarrier.cluster.wait.aligned;
\tret;
}
";

#[test]
fn stores_are_told_in_the_scope_of_the_cluster() {
    let narrow = [("arrive.release.cluster", "arrive.release.cta"), ("parity.acquire.cluster", "parity.acquire.cta")];
    each_schedule(|options| {
        let (report, y) = run(STORED, options);
        assert!(report.clean(), "{}: {report}", options.schedule.name());
        assert_eq!(y[..2], [7, 7]);
        for (wide, narrow) in narrow {
            let (report, _) = run(&STORED.replace(wide, narrow), options);
            assert!(
                report.findings.iter().any(|found| found.kind == GlobalRace),
                "{narrow}, {}: {report}",
                options.schedule.name()
            );
        }
    });
}

/// Mutants that change nothing, with the reason.
const EQUIVALENT: &[(&str, &str, &str)] = &[
    ("92:2", "bar.warp.sync -1; deleted", "what one lane hands on through an mbarrier counts for its whole warp"),
    ("107:2", "bar.warp.sync -1; deleted", "the cluster's barrier is `.aligned`: lanes wait for each other there"),
];

#[test]
fn every_mutant_of_a_pair_is_noticed_or_explained() {
    let mut missed = Vec::new();
    for mutant in mutants(PAIR).unwrap() {
        let mut found = false;
        each_schedule(|options| found |= !run(&mutant.text, options).0.clean());
        let what = format!("{} {}", mutant.statement, mutant.mutation);
        let place = mutant.to_string();
        let explained = |(at, statement, why): &(&str, &str, &str)| place.contains(at) && *statement == what && !why.is_empty();
        if found == EQUIVALENT.iter().any(explained) {
            missed.push(mutant.to_string());
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
