//! The same spec gives the same bytes: compiled twice, on one thread and on two.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use libtest_mimic::{Arguments, Trial};
use moec::pipeline::compile;
use moec_codegen::Options;
use moec_tests::{Example, examples, machine};

fn main() {
    let of = |example: &Example| {
        let example = example.clone();
        Trial::test(format!("{}::same_bytes_every_time", example.name), move || {
            let once = on_threads(&example, 1);
            assert!(once == on_threads(&example, 1), "twice on one thread");
            assert!(once == on_threads(&example, 2), "on one thread and on two");
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), examples().iter().map(of).collect()).exit();
}

/// The package's bytes, compiled on this many threads.
fn on_threads(example: &Example, threads: usize) -> Vec<u8> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let machines = ["sm_80", "sm_90a", "x86-64-v3"].map(machine);
    let package = pool.install(|| compile(&example.spec, &example.text, &machines, &Options::default()));
    package.unwrap().to_bytes().unwrap()
}
