//! The link `host == emulated PTX` of the differential chain: every kernel as the text that ships, under several schedules,
//! with every check on. What runs is in `layers`, on which batches in `batches`.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod batches;
mod chain;
mod large;

use libtest_mimic::{Arguments, Trial};
use moec_tests::scaled::{modes, scaled_examples};
use moec_tests::{Example, fixtures};

/// The architectures with kernels of their own.
const TARGETS: [&str; 2] = ["sm_80", "sm_90a"];

fn main() {
    let mut trials = Vec::new();
    for example in scaled_examples() {
        for target in TARGETS {
            let example = example.clone();
            let name = format!("{}::{target}", example.name);
            trials.push(Trial::test(name, move || chain::check(&example, target, &batches::of_every_size(&example))));
        }
        let odd = example.clone();
        trials.push(Trial::test(format!("{}::odd_logits", example.name), move || {
            chain::check(&odd, "sm_90a", &batches::odd(&odd))
        }));
    }
    for mode in modes() {
        let name = format!("modes::{}", mode.name);
        trials.push(Trial::test(name, move || chain::check(&mode, "sm_80", &batches::of_some_sizes(&mode))));
    }
    for fixture in fixtures() {
        trials.push(Trial::test(format!("fixtures::{}", fixture.name), move || chain::check_fixture(&fixture, "sm_90a")));
    }
    trials.extend(large::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
