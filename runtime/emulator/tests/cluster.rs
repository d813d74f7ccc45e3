//! Clusters of blocks: that their blocks run together, and what their barrier orders.

use ptx_emulator::{
    Arg, Blocks, Fill, FindingKind, Launch, LaunchError, Limits, Memory, Options, Report, Schedule, launch, parse,
};

fn text(cluster: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y)\n.maxntid 64\n{cluster}\n{{\n\
         .reg .pred %p<20>; .reg .b32 %r<40>; .reg .b64 %d<40>;\n\
         ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %cluster_ctarank;\n\
         mad.lo.s32 %r4, %r2, 64, %r1; mul.wide.u32 %d3, %r4, 4; add.s64 %d4, %d1, %d3; add.s64 %d5, %d2, %d3;\n\
         xor.b32 %r5, %r2, 1; mad.lo.s32 %r6, %r5, 64, %r1; mul.wide.u32 %d6, %r6, 4; add.s64 %d7, %d1, %d6;\n\
         setp.ne.u32 %p1, %r3, 0;\n{body}\nret;\n}}\n"
    )
}

/// `x` and `y` have a word a thread; `x` is not written.
fn run(text: &str, blocks: u32, options: &Options) -> Result<(Report, Vec<u32>), LaunchError> {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let [x, y] = ["x", "y"].map(|name| memory.alloc(name, 8 * 256, Fill::Uninitialised(0xee)).unwrap());
    let args = module.entry("k").unwrap().pack(&memory, &[Arg::Buffer(x), Arg::Buffer(y)]).unwrap();
    let shape = Launch { grid: [blocks, 1, 1], block: [64, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "k", &shape, &mut memory, options)?;
    let words = memory.content(y).unwrap();
    Ok((report, words.chunks(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()))
}

const PAIRS: &str = ".explicitcluster\n.reqnctapercluster 2";
const BARRIER: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn what_is_stored_before_the_barrier_is_seen_behind_it() {
    let exchange =
        |barrier: &str| format!("st.global.u32 [%d4], %r4; {barrier} ld.global.u32 %r7, [%d7]; st.global.u32 [%d5], %r7;");
    for schedule in Schedule::ALL {
        for seed in 0..4 {
            let options = Options { schedule, seed, ..Options::default() };
            let (report, y) = run(&text(PAIRS, &exchange(BARRIER)), 6, &options).unwrap();
            assert!(report.clean(), "{}: {report}", schedule.name());
            let expected: Vec<u32> = (0..6 * 64).map(|i| ((i / 64) ^ 1) * 64 + i % 64).collect();
            assert_eq!(y[..6 * 64], expected, "{}", schedule.name());
            // A barrier of the block orders nothing between blocks, and neither does half of the cluster's.
            for barrier in ["bar.sync 0;", "barrier.cluster.arrive.aligned;"] {
                let (report, _) = run(&text(PAIRS, &exchange(barrier)), 6, &options).unwrap();
                let wrong = [FindingKind::GlobalRace, FindingKind::UninitialisedGlobal];
                assert!(!report.clean() && report.findings.iter().all(|found| wrong.contains(&found.kind)), "{report}");
            }
        }
    }
}

/// A block that has ended is not waited for: PTX ISA 9.7.13.3.
#[test]
fn blocks_of_a_cluster_wait_for_those_that_run() {
    for schedule in Schedule::ALL {
        let options = Options { schedule, ..Options::default() };
        let (report, _) = run(&text(PAIRS, &format!("@%p1 bra END; {BARRIER} END:")), 4, &options).unwrap();
        assert!(report.clean(), "{}: {report}", schedule.name());
        let stuck = format!("@%p1 bra MEET; {BARRIER} bra END; MEET: bar.sync 1, 128; END:");
        let (report, _) = run(&text(PAIRS, &stuck), 4, &options).unwrap();
        assert_eq!(report.findings[0].kind, FindingKind::Deadlock, "{}: {report}", schedule.name());
        assert!(report.findings.iter().any(|found| found.message.contains("waits at the cluster's barrier")), "{report}");
    }
}

#[test]
fn registers_say_where_a_block_is_in_its_cluster() {
    let body = "mov.u32 %r7, %cluster_ctarank; mov.u32 %r8, %cluster_nctarank; mov.u32 %r9, %clusterid.x; mov.u32 %r10, %nclusterid.x;\n\
                mad.lo.s32 %r7, %r7, 10, %r8; mad.lo.s32 %r7, %r7, 10, %r9; mad.lo.s32 %r7, %r7, 10, %r10; st.global.u32 [%d5], %r7;";
    let of = |cluster: &str| {
        run(&text(cluster, body), 4, &Options::default()).unwrap().1.iter().step_by(64).copied().take(4).collect::<Vec<_>>()
    };
    assert_eq!(of(PAIRS), [202, 1202, 212, 1212]);
    assert_eq!(of(".reqnctapercluster 4, 1, 1"), [401, 1401, 2401, 3401]);
    assert_eq!(of(""), [104, 114, 124, 134]);
}

#[test]
fn clusters_run_whole() {
    let body = "st.global.u32 [%d5], %r4;";
    let refused = run(&text(PAIRS, body), 5, &Options::default()).unwrap_err();
    assert_eq!(refused, LaunchError::Cluster { blocks: 5, cluster: 2 });
    assert_eq!(refused.to_string(), "5 blocks along x are not whole clusters of 2");
    for (blocks, ran) in [(Blocks::Only(vec![3]), vec![2, 3]), (Blocks::Sample(0), vec![0, 1, 6, 7])] {
        let options = Options { blocks, ..Options::default() };
        let (report, y) = run(&text(PAIRS, &format!("{BARRIER} {body}")), 8, &options).unwrap();
        assert!(report.clean(), "{report}");
        let written: Vec<u32> = y.iter().step_by(64).filter(|word| **word != 0xeeee_eeee).map(|word| word / 64).collect();
        assert_eq!((written, report.counters.blocks), (ran.clone(), ran.len() as u64));
    }
    let options = Options { blocks: Blocks::Only(vec![8]), ..Options::default() };
    assert_eq!(run(&text(PAIRS, body), 8, &options).unwrap_err(), LaunchError::NoSuchBlock(8));
    for other in [".reqnctapercluster 1, 2", ".reqnctapercluster 32"] {
        assert!(parse(&text(other, body)).unwrap_err().to_string().contains("along x alone, of 1 to 16 blocks"), "{other}");
    }
}

/// As many blocks are in memory together as the host has room for, and those of a cluster always.
#[test]
fn the_state_of_a_cluster_fits() {
    let of = |state_bytes: u64| Options { limits: Limits { state_bytes, ..Limits::default() }, ..Options::default() };
    // Each block waits for one of the other cluster.
    let wait = "xor.b32 %r5, %r2, 4; mad.lo.s32 %r6, %r5, 64, %r1; mul.wide.u32 %d6, %r6, 4; add.s64 %d7, %d2, %d6;\n\
                st.release.gpu.u32 [%d5], %r2; L: ld.acquire.gpu.u32 %r7, [%d7]; setp.ne.u32 %p2, %r7, %r5; @%p2 bra L;";
    let needed = |cluster: &str| match run(&text(cluster, wait), 8, &of(0)).unwrap_err() {
        LaunchError::TooMuchState { needed, allowed: 0 } => needed,
        other => panic!("{other}"),
    };
    let (alone, four) = (needed(""), ".reqnctapercluster 4");
    assert_eq!(needed(four), 4 * alone);
    let refused = run(&text(four, wait), 8, &of(4 * alone - 1)).unwrap_err();
    assert_eq!(refused, LaunchError::TooMuchState { needed: 4 * alone, allowed: 4 * alone - 1 });
    for (states, ends) in [(4, false), (7, false), (8, true)] {
        let (report, _) = run(&text(four, wait), 8, &of(states * alone)).unwrap();
        assert_eq!(report.completed, ends, "{states}: {report}");
    }
}
