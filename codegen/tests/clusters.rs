//! Kernels whose blocks run in clusters and wait for each other.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::{gpus, program};
use crate::three_ways::Given::{Ints, Map, Number, Unwritten};
use crate::three_ways::{Given, bytes, check, emulated, read};
use moec_codegen::{Error, assembly};
use moec_ir::Machine;
use moec_ir::kernel::Tensor;
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

/// A ring of three stages: each block of a pair brings half of every chunk to both, and its readers tell both that they have read it.
const PAIRS: &str = "kernel @pairs(%x: map i32[1, 2, 32], %n: i32, %y: *mut i32) threads 96 cluster 2 {
  shared %ring: i32[384] align 1024
  mbarrier %full arrivals 1 stages 3
  mbarrier %empty arrivals 4 stages 3
  let %mine: i32 = block % 2
  roles warps 0..1 {
    if thread == 0 {
      for %i: i32 in 0..%n {
        let %s: i32 = %i % 3
        wait %empty[%s] phase %i / 3 - 1
        arrive %full[%s] bytes 512
        tile_copy %ring[%s * 128 + %mine * 64] = %x[block / 2, %i * 4 + %mine * 2, 0] on %full[%s] in_all_blocks
      }
    }
  } and warps 1..3 {
    let %place: i32 = thread - 32
    var %sum: i32 = block
    for %j: i32 in 0..%n {
      wait %full[%j % 3] phase %j / 3
      load %v: i32 = %ring[%j % 3 * 128 + %place]
      load %w: i32 = %ring[%j % 3 * 128 + 64 + (%place ^ 33)]
      set %sum = %sum * 3 + %v - %w * 5
      barrier warp
      if thread % 32 < 2 {
        arrive %empty[%j % 3] in_block thread % 32
      }
    }
    store %y[block * 64 + %place] = %sum
  }
  barrier cluster
}";

fn pairs(n: i32) -> Vec<Given> {
    let lines = 4 * n;
    let x: Vec<i32> = (0..2 * lines * 32).map(|i| i * i % 1013).collect();
    let tensor = Tensor { extents: [2, lines as u64, 32], strides: [lines as u64 * 32, 32] };
    vec![Map(bytes(&x), tensor), Number(n), Unwritten(4 * 64)]
}

#[test]
fn blocks_that_share_copies_three_ways() {
    for n in [1, 7] {
        let found = check(|machine| machine.shared_boxes, 4, &pairs(n), PAIRS);
        let sum = |thread: i32| {
            let (block, place) = (thread / 64, thread % 64);
            let x = |i: i32, at: i32| (block / 2 * n * 128 + i * 128 + at) * (block / 2 * n * 128 + i * 128 + at) % 1013;
            (0..n).fold(block, |sum, i| sum.wrapping_mul(3) + x(i, place) - x(i, 64 + (place ^ 33)) * 5)
        };
        assert_eq!(found, [(0..4 * 64).map(sum).collect::<Vec<i32>>()], "{n} chunks");
    }
}

/// What each part is for: without it something is found.
#[test]
fn blocks_that_share_copies_wait_for_each_other() {
    let machine = Machine::named("sm_90a").unwrap();
    let ptx = assembly(&program(vec![read(PAIRS)]), &machine).unwrap();
    let kinds = |ptx: &str| {
        let of = |schedule| emulated(&read(PAIRS), ptx, 4, &pairs(7), schedule).0.findings.into_iter().map(|found| found.kind);
        Schedule::ALL.into_iter().flat_map(of).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&ptx), []);
    let count = |word: &str| ptx.lines().filter(|line| line.contains(word)).count();
    let words = ["mbarrier.arrive.shared::cluster.b64", "mapa.shared::cluster", ".multicast::cluster"];
    assert_eq!(words.map(count), [1; 3], "{ptx}");
    // An arrival in the scope of the cluster waits for every store to global memory, and a wait in it drops the first-level cache.
    assert_eq!([count("release.cluster"), count("acquire.cluster")], [1, 0], "only the barriers' beginning: {ptx}");
    // One where the barriers begin, one at the end.
    let (meet, wait) = ("barrier.cluster.arrive.aligned;", "barrier.cluster.wait.aligned;");
    assert_eq!([count(meet), count(wait)], [2, 2], "{ptx}");
    let without = |from: &str, to: &str, last: bool| {
        let (before, after) = if last { ptx.rsplit_once(from) } else { ptx.split_once(from) }.unwrap();
        kinds(&format!("{before}{to}{after}"))
    };
    let cases = [
        (wait, "", false, FindingKind::SharedRace),
        (wait, "", true, FindingKind::BlockEnded),
        ("fence.mbarrier_init.release.cluster;", "", false, FindingKind::MissingProxyFence),
    ];
    for (from, to, last, kind) in cases {
        let found = without(from, to, last);
        assert!(found.contains(&kind), "{from}: {found:?}");
    }
}

#[test]
fn machines_without_clusters_refuse_them() {
    let error = assembly(&program(vec![read(PAIRS)]), &Machine::named("sm_120a").unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what == "copies to all blocks of a cluster"), "{error}");
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
