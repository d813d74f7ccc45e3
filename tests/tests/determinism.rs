//! The same spec gives the same bytes: compiled twice, on one thread and on two.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use moec::import::Entry;
use moec::pipeline::compile;
use moec_codegen::Options;
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, examples, machine};

/// A trial for each example.
pub(crate) fn family() -> Family {
    let of = |example: Example| {
        let spec = example.spec.clone();
        Case::new(example.name.clone(), &spec, move || {
            let once = on_threads(&example, 1);
            assert!(once == on_threads(&example, 1), "twice on one thread");
            assert!(once == on_threads(&example, 2), "on one thread and on two");
            Ok(())
        })
    };
    Family { name: "determinism", one_in: 4, cases: examples().into_iter().map(of).collect() }
}

/// The package's bytes, compiled on this many threads.
fn on_threads(example: &Example, threads: usize) -> Vec<u8> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let machines = ["sm_80", "sm_90a", "x86-64-v3"].map(machine);
    let package = pool.install(|| compile(&example.spec, Entry::Layer, &example.text, &machines, &Options::default()));
    package.unwrap().to_bytes().unwrap()
}
