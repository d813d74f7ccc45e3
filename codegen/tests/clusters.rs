//! Kernels whose blocks run in clusters and wait for each other.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::{gpus, program};
use crate::three_ways::Given::{Ints, Unwritten};
use crate::three_ways::{check, emulated, read};
use moec_codegen::{Error, assembly};
use moec_ir::Machine;
use ptx_emulator::{FindingKind, Schedule};

/// The blocks of a cluster hand each other sums: each adds what the others have stored, twice.
const TEXT: &str = "kernel @sums(%x: *i32, %z: *mut i32, %y: *mut i32) threads 64 cluster 4 {
  let %first: i32 = block / 4 * 4
  load %mine: i32 = %x[block * 64 + thread]
  for %turn: i32 in 0..2 {
    store %z[block * 64 + thread] = %mine + %turn
    barrier cluster
    var %sum: i32 = 0
    for %other: i32 in 0..4 {
      load %theirs: i32 = %z[(%first + %other) * 64 + thread]
      set %sum = %sum + %theirs
    }
    store %y[(block * 2 + %turn) * 64 + thread] = %sum
    barrier cluster
  }
}";

fn with_clusters(machine: &Machine) -> bool {
    machine.cluster_blocks > 1
}

fn x() -> Vec<i32> {
    (0..8 * 64).map(|i| i * i % 101).collect()
}

#[test]
fn clusters_three_ways() {
    let x = x();
    let expected = (0..8 * 2 * 64).map(|i| {
        let (block, turn, thread) = (i / 128, i / 64 % 2, i % 64);
        let others = block / 4 * 4..block / 4 * 4 + 4;
        others.map(|other| x[other * 64 + thread] + turn as i32).sum()
    });
    let written = check(with_clusters, 8, &[Ints(x.clone()), Unwritten(8 * 64), Unwritten(16 * 64)], TEXT);
    assert_eq!(written[1], expected.collect::<Vec<i32>>());
}

#[test]
fn the_text_says_clusters() {
    for machine in gpus().into_iter().filter(with_clusters) {
        let ptx = assembly(&program(vec![read(TEXT)]), &machine).unwrap();
        let count = |word: &str| ptx.lines().filter(|line| line.contains(word)).count();
        assert_eq!(count(".reqnctapercluster 4"), 1, "{ptx}");
        let (arrive, wait) = (count("barrier.cluster.arrive.aligned;"), count("barrier.cluster.wait.aligned;"));
        assert!(arrive == wait && arrive >= 2, "{ptx}");
        assert!(count("ld.global.nc") >= 1, "{ptx}");
        // A barrier that is not there is found.
        let barrier = "barrier.cluster.wait.aligned;";
        let (before, after) = ptx.split_once(barrier).unwrap();
        for schedule in Schedule::ALL {
            let (report, _) =
                emulated(&read(TEXT), &format!("{before}{after}"), 8, &[Ints(x()), Unwritten(512), Unwritten(1024)], schedule);
            let wrong = [FindingKind::GlobalRace, FindingKind::UninitialisedGlobal];
            assert!(!report.clean() && report.findings.iter().all(|found| wrong.contains(&found.kind)), "{report}");
        }
    }
}

#[test]
fn machines_without_clusters_refuse_them() {
    for name in ["sm_89", "x86-64-v3"] {
        let machine = Machine::named(name).unwrap();
        let text = "kernel @k() threads 1 cluster 2 {\n  barrier cluster\n}";
        let error = assembly(&program(vec![read(text)]), &machine).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { what, .. } if what == "clusters of 2 blocks"), "{error}");
        let text = "kernel @k() threads 32 {\n  barrier cluster\n}".replace("32", if machine.has_threads() { "32" } else { "1" });
        let error = assembly(&program(vec![read(&text)]), &machine).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { what, .. } if what == "clusters of blocks"), "{error}");
    }
}
