//! The link `host == emulated PTX` of the differential chain: every kernel as the text that ships, under several schedules,
//! with every check on. What is held to what is in `chain`, on which batches in `batches`.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod batches;
mod chain;
mod large;

use libtest_mimic::{Arguments, Trial};
use moec::spec::Mode;
use moec_tests::fixtures;
use moec_tests::scaled::{modes, scaled_examples};

/// The architectures with kernels of their own.
const TARGETS: [&str; 2] = ["sm_80", LAST];
/// The one that everything is run on.
const LAST: &str = "sm_90a";

fn main() {
    let mut trials = Vec::new();
    for example in scaled_examples() {
        for target in TARGETS {
            let example = example.clone();
            let name = format!("{}::{target}", example.name);
            trials.push(Trial::test(name, move || {
                // Where the text is that of the last target but for its header, so is all that it does.
                let is_known = target != LAST && chain::ptx_body(&example, target) == chain::ptx_body(&example, LAST);
                let batches = if is_known { batches::of_some_sizes(&example) } else { batches::of_every_size(&example) };
                chain::check(&example, target, &batches)
            }));
        }
        let odd = example.clone();
        trials.push(Trial::test(format!("{}::odd_logits", example.name), move || chain::check(&odd, LAST, &batches::odd(&odd))));
    }
    for mode in modes() {
        if mode.spec.router.mode == Mode::ExpertChoice {
            let odd = mode.clone();
            let name = format!("modes::{}::odd_logits", mode.name);
            trials.push(Trial::test(name, move || chain::check(&odd, LAST, &batches::odd(&odd))));
        }
        let name = format!("modes::{}", mode.name);
        trials.push(Trial::test(name, move || chain::check(&mode, "sm_80", &batches::of_some_sizes(&mode))));
    }
    for fixture in fixtures() {
        trials.push(Trial::test(format!("fixtures::{}", fixture.name), move || chain::check_fixture(&fixture, LAST)));
    }
    trials.extend(large::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
