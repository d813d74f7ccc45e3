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

use libtest_mimic::Failed;
use moec_tests::Example;
use moec_tests::scaled::{modes, scaled_examples};
use moec_tests::trials::{Case, Family, say};
use ptx_emulator::{Mutant, Mutation, Position, mutants};

use steps::{Notice, Steps};

/// What may be deleted, a line each: layers, kernel, which of its equal statements, the statement, and why nothing changes.
const EQUIVALENT: &str = include_str!("equivalent.txt");

/// Mutants of all layers.
#[derive(Default)]
pub(crate) struct Tally {
    caught: BTreeMap<Notice, usize>,
    equivalent: usize,
}

/// A trial for each layer, and what becomes of its mutants.
pub(crate) fn family() -> (Family, Arc<Mutex<Tally>>) {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let of = |example: Example| {
        let tally = Arc::clone(&tally);
        let spec = example.spec.clone();
        Case::new(example.name.clone(), &spec, move || check(&example, &tally))
    };
    let counts = |name: &str| name.starts_with("capacity") || name.starts_with("loss") || name == "expert_choice";
    let modes = modes().into_iter().filter(|mode| counts(&mode.name));
    let cases = scaled_examples().into_iter().chain(modes).map(of).collect();
    (Family { name: "mutants", one_in: 4, cases }, tally)
}

/// How many mutants were caught by what.
pub(crate) fn tell(tally: &Mutex<Tally>) {
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let caught: usize = tally.caught.values().sum();
    let total = caught + tally.equivalent;
    let by: Vec<String> = tally.caught.iter().map(|(notice, count)| format!("{count} by {notice:?}")).collect();
    if total > 0 {
        say(&format!("mutants: {caught} of {total} caught ({}), {} equivalent", by.join(", "), tally.equivalent));
    }
}

fn check(example: &Example, tally: &Mutex<Tally>) -> Result<(), Failed> {
    let steps = Steps::record(example, "sm_90a")?;
    let mut wrong = String::new();
    for (place, mutant) in placed(mutants(&steps.text)?).into_iter().filter(|(_, mutant)| steps.exercises(mutant)) {
        let notice = steps.notice(&mutant);
        let is_listed = is_equivalent(&example.name, steps.kernel(&mutant), &mutant, place);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let what = match notice {
            Some(notice) => {
                *tally.caught.entry(notice).or_default() += 1;
                is_listed.then_some("listed as equivalent, but noticed")
            }
            None => {
                tally.equivalent += 1;
                (!is_listed).then_some("not caught")
            }
        };
        if let Some(what) = what {
            writeln!(wrong, "{what}: {} | {} | {place} | {mutant}", example.name, steps.kernel(&mutant))?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// The mutants, each with which one of its kernel's equal statements it breaks: lines move with every LLVM, places do not.
fn placed(mutants: Vec<Mutant>) -> Vec<(usize, Mutant)> {
    let mut places: BTreeMap<(String, String), Vec<Position>> = BTreeMap::new();
    let mut place = |mutant: &Mutant| {
        let seen = places.entry((mutant.kernel.clone(), mutant.statement.clone())).or_default();
        if !seen.contains(&mutant.at) {
            seen.push(mutant.at);
        }
        seen.len()
    };
    let counted = mutants.into_iter().filter(|mutant| mutant.mutation != Mutation::OtherBarrier);
    counted.map(|mutant| (place(&mutant), mutant)).collect()
}

/// Whether the file lists a deleted statement with a reason. A wait that may be deleted may wait for less.
fn is_equivalent(layer: &str, of: &str, mutant: &Mutant, place: usize) -> bool {
    let place = place.to_string();
    let fields = |line: &'static str| -> Option<[&str; 5]> {
        line.split('|').map(str::trim).collect::<Vec<_>>().try_into().ok().filter(|_| !line.starts_with('#'))
    };
    EQUIVALENT.lines().filter_map(fields).any(|[layers, kernel, places, statement, reason]| {
        matches!(mutant.mutation, Mutation::Deleted | Mutation::WaitsForLess)
            && layers.split_whitespace().any(|name| name == layer)
            && (kernel, statement) == (of, mutant.statement.as_str())
            && places.split_whitespace().any(|number| number == place)
            && !reason.is_empty()
    })
}
