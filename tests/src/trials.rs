//! Trials: tests that are found when they run, a named one for each spec. By day a sample of them runs that has every kind of
//! spec, by night all do.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use moec::spec::Spec;
use sha2::{Digest, Sha256};

/// With this variable in the environment every trial runs, as `make test-all` does.
pub const ALL: &str = "MOEC_TEST_ALL";

/// Trials that are told of at the end as the slowest.
const SLOWEST: usize = 10;

/// One trial.
pub struct Case {
    name: String,
    kinds: BTreeSet<String>,
    is_ignored: bool,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

impl Case {
    /// A trial on what the spec describes.
    pub fn new(name: impl Into<String>, spec: &Spec, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Case {
        Case { name: name.into(), kinds: kinds(spec), is_ignored: false, run: Box::new(run) }
    }

    /// A trial on kernels of no layer.
    pub fn of_kernels(name: impl Into<String>, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Case {
        Case { name: name.into(), kinds: BTreeSet::new(), is_ignored: false, run: Box::new(run) }
    }

    /// The case is of this kind too: a target, or what else it is run on.
    #[must_use]
    pub fn of_kind(mut self, kind: &str) -> Case {
        self.kinds.insert(kind.to_string());
        self
    }

    /// It cannot run here.
    #[must_use]
    pub fn ignored(mut self) -> Case {
        self.is_ignored = true;
        self
    }
}

/// Trials that ask the same of many specs.
pub struct Family {
    /// It stands before the name of each of its trials.
    pub name: &'static str,
    /// By day one in so many runs, beside those that every kind needs.
    pub one_in: u64,
    /// All of them.
    pub cases: Vec<Case>,
}

/// What a spec chooses among: the words of its enumerations, the keys that are set, and those that are true. Sizes and names
/// are no kinds.
fn kinds(spec: &Spec) -> BTreeSet<String> {
    let text = format!("{spec:#?}");
    let is_choice = |value: &str| value.starts_with(|c: char| c.is_ascii_alphabetic());
    let kind = |line: &str| {
        let (key, value) = line.trim().split_once(": ").unwrap_or(("", line.trim()));
        is_choice(value).then(|| format!("{key}: {}", value.trim_end_matches([',', '(', '{', ' '])))
    };
    text.lines().filter_map(kind).collect()
}

/// The cases that run by day: one in so many by the hash of their names, then as few others as it takes to have every kind,
/// those first that have most of what is missing. The same ones on every machine and every day.
fn sample(cases: &[(&str, &BTreeSet<String>)], one_in: u64) -> BTreeSet<usize> {
    let hash = |name: &str| Sha256::digest(name).iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte));
    let mut chosen: BTreeSet<usize> = (0..cases.len()).filter(|at| hash(cases[*at].0).is_multiple_of(one_in)).collect();
    let mut seen: BTreeSet<&String> = chosen.iter().flat_map(|at| cases[*at].1).collect();
    loop {
        let missing = |at: &usize| cases[*at].1.iter().filter(|kind| !seen.contains(kind)).count();
        let best = (0..cases.len()).max_by_key(|at| (missing(at), hash(cases[*at].0)));
        let Some(best) = best.filter(|at| missing(at) > 0) else { return chosen };
        seen.extend(cases[best].1);
        chosen.insert(best);
    }
}

/// Runs the trials of all families: the sample, or all of them where [`ALL`] is set or a part of a name is given. What ran, and
/// what took longest, is told at the end. `last` is called before that.
pub fn run(families: Vec<Family>, arguments: &Arguments, last: impl FnOnce()) -> ! {
    let times = Arc::new(Mutex::new(Vec::new()));
    let takes_all = std::env::var_os(ALL).is_some() || arguments.filter.is_some();
    let mut trials = Vec::new();
    let mut counts = Vec::new();
    for Family { name, one_in, cases } in families {
        let known: Vec<_> = cases.iter().map(|case| (case.name.as_str(), &case.kinds)).collect();
        let chosen = if takes_all { (0..cases.len()).collect() } else { sample(&known, one_in) };
        counts.push(format!("{name} {} of {}", chosen.len(), cases.len()));
        let chosen = cases.into_iter().enumerate().filter(|(at, _)| chosen.contains(at));
        trials.extend(chosen.map(|(_, case)| trial(format!("{name}::{}", case.name), case, &times)));
    }
    let conclusion = libtest_mimic::run(arguments, trials);
    last();
    if !arguments.list {
        say(&format!("trials that ran: {}", counts.join(", ")));
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        for (time, name) in times.iter().take(SLOWEST) {
            say(&format!("trial: {:8.1} s  {name}", time.as_secs_f64()));
        }
    }
    conclusion.exit()
}

fn trial(name: String, case: Case, times: &Arc<Mutex<Vec<(Duration, String)>>>) -> Trial {
    let times = Arc::clone(times);
    let of = name.clone();
    let timed = move || {
        let started = Instant::now();
        let result = (case.run)();
        times.lock().unwrap_or_else(PoisonError::into_inner).push((started.elapsed(), of));
        result
    };
    Trial::test(name, timed).with_ignored_flag(case.is_ignored)
}

/// A line on stdout; where that is closed it is lost.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What was made for a key, made once in a process.
pub(crate) struct Memo<V>(Mutex<HashMap<String, Arc<std::sync::OnceLock<V>>>>);

impl<V: Clone> Memo<V> {
    pub(crate) fn new() -> Memo<V> {
        Memo(Mutex::new(HashMap::new()))
    }

    /// Two threads that ask for the same key at once wait for one `make`.
    pub(crate) fn get(&self, key: String, make: impl FnOnce() -> V) -> V {
        let cell = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        cell.get_or_init(make).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kinds: &[&str]) -> BTreeSet<String> {
        kinds.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sample_has_every_kind() {
        let kinds: Vec<BTreeSet<String>> =
            (0..60).map(|i| of(&[["a", "b", "c"][i % 3], if i == 41 { "rare" } else { "common" }])).collect();
        let names: Vec<String> = (0..60).map(|i| format!("case_{i}")).collect();
        let cases: Vec<(&str, &BTreeSet<String>)> = names.iter().map(String::as_str).zip(&kinds).collect();
        for one_in in [1, 4, 1 << 40] {
            let chosen = sample(&cases, one_in);
            let seen: BTreeSet<&String> = chosen.iter().flat_map(|at| &kinds[*at]).collect();
            assert_eq!(seen.len(), 5, "{chosen:?}");
            assert!(chosen.contains(&41));
            assert_eq!(chosen, sample(&cases, one_in));
        }
        assert_eq!(sample(&cases, 1).len(), 60);
        // No case by its hash: one has two kinds, and at most one more is needed for each of the other three.
        assert!(sample(&cases, 1 << 40).len() <= 4);
    }

    #[test]
    fn kinds_are_choices_and_no_sizes() {
        let example = crate::examples().into_iter().find(|example| example.name == "mixtral-8x7b").unwrap();
        let kinds = kinds(&example.spec);
        for kind in ["mode: TokenChoice", "score: Softmax", "dtype: Bf16", "capacity: None"] {
            assert!(kinds.contains(kind), "{kind}: {kinds:?}");
        }
        assert!(!kinds.iter().any(|kind| kind.contains("4096") || kind.contains("mixtral")), "{kinds:?}");
    }
}
