//! How much the emulator's checks are worth: every synchronisation instruction of every kernel of the scaled example specs
//! is broken, one at a time, and each mutant has to be reported, to give another result, or to be listed in
//! `equivalent.txt` with the reason.
//!
//! A mutant runs alone: each launch of its kernel, on the memory that the kernel IR's interpreter has at that point, until
//! something is noticed. Barriers that are merely renumbered are not counted: where all warps pass the same barriers, one
//! is as good as another.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod steps;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use moec_tests::Example;
use moec_tests::scaled::{modes, scaled_examples};
use ptx_emulator::{Mutant, Mutation, mutants};

use steps::{Notice, Steps};

/// The reasons, a line each: kernel, mutation and statement pattern, then why nobody can notice.
const EQUIVALENT: &str = include_str!("equivalent.txt");

/// Mutants of all layers.
#[derive(Default)]
struct Tally {
    caught: BTreeMap<Notice, usize>,
    equivalent: usize,
}

fn main() {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let of = |example: Example| {
        let tally = Arc::clone(&tally);
        Trial::test(format!("{}::every_mutant", example.name), move || check(&example, &tally))
    };
    let capacity = modes().into_iter().filter(|mode| mode.name.starts_with("capacity"));
    let trials = scaled_examples().into_iter().chain(capacity).map(of).collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let caught: usize = tally.caught.values().sum();
    let total = caught + tally.equivalent;
    let by: Vec<String> = tally.caught.iter().map(|(notice, count)| format!("{count} by {notice:?}")).collect();
    println!("mutants: {caught} of {total} caught ({}), {} equivalent", by.join(", "), tally.equivalent);
    conclusion.exit();
}

fn check(example: &Example, tally: &Mutex<Tally>) -> Result<(), Failed> {
    let steps = Steps::record(example, "sm_90a")?;
    let mut survivors = String::new();
    for mutant in mutants(&steps.text)?.into_iter().filter(|mutant| mutant.mutation != Mutation::OtherBarrier) {
        let notice = steps.notice(&mutant);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Some(notice) => *tally.caught.entry(notice).or_default() += 1,
            None if is_equivalent(&mutant) => tally.equivalent += 1,
            None => writeln!(survivors, "{mutant}")?,
        }
    }
    if survivors.is_empty() { Ok(()) } else { Err(format!("nobody noticed:\n{survivors}").into()) }
}

fn is_equivalent(mutant: &Mutant) -> bool {
    let matches = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (kernel, mutation, statement) = (fields.next(), fields.next(), fields.next());
        let has_reason = fields.next().is_some_and(|reason| !reason.is_empty());
        has_reason
            && kernel.is_some_and(|kernel| mutant.kernel.starts_with(kernel))
            && mutation == Some(mutant.mutation.to_string().as_str())
            && statement.is_some_and(|statement| mutant.statement.starts_with(statement))
    };
    EQUIVALENT.lines().filter(|line| !line.starts_with('#')).any(matches)
}
