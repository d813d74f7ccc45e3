//! Numbers and lists of them on the command line: each with its bounds, and the reason for them, so that no argument can ask
//! for more than moec could do.

use std::env;
use std::str::FromStr;

use moec_runtime::device::MAX_THREADS;
use moec_runtime::emulator::{Place, Sample};

/// Whole numbers that are accepted, and why there are no others.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    least: u64,
    most: u64,
    why: &'static str,
}

pub(super) const THREADS: Bound =
    Bound { least: 1, most: MAX_THREADS as u64, why: "more threads than a machine has CPUs make nothing faster" };
pub(super) const TOKENS: Bound =
    Bound { least: 0, most: MOST_TOKENS, why: "no layer takes more: see `tokens.max` in `moec schema`" };
pub(super) const BATCH: Bound = Bound { least: 1, most: MOST_TOKENS, why: "no layer takes larger batches" };
pub(super) const SCHEDULES: Bound = Bound { least: 1, most: 1000, why: "each runs every batch once more" };
pub(super) const REPEAT: Bound = Bound { least: 1, most: 100_000, why: "the median of more runs is the same" };
pub(super) const LAYER: Bound = Bound { least: 0, most: 65_535, why: "no model has so many layers" };
pub(super) const TOP_K: Bound = Bound { least: 1, most: 64, why: "no layer picks more: see `router.top_k` in `moec schema`" };

pub(super) const RANKS: Bound = Bound { least: 1, most: 4096, why: "each has an expert at least" };
pub(super) const LOCAL_EXPERTS: Bound =
    Bound { least: 1, most: 4096, why: "no layer has more: see `moe.experts` in `moec schema`" };

/// What `tokens.max` of a spec may be at most.
const MOST_TOKENS: u64 = (1 << 31) - 1;
/// The most entries of a list.
const MOST_ENTRIES: usize = 64;

impl Bound {
    /// Reads a number in these bounds.
    pub(super) fn read<N: TryFrom<u64>>(self, text: &str) -> Result<N, String> {
        let Bound { least, most, why } = self;
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| format!("not a whole number from {least} to {most}: {why}"))
    }
}

/// Token counts of batches, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenCounts(pub(crate) Vec<u64>);

impl FromStr for TokenCounts {
    type Err = String;

    fn from_str(text: &str) -> Result<TokenCounts, String> {
        entries(text, |entry| TOKENS.read(entry)).map(TokenCounts)
    }
}

/// Token counts of batches that have tokens.
pub(super) fn batches(text: &str) -> Result<TokenCounts, String> {
    entries(text, |entry| BATCH.read(entry)).map(TokenCounts)
}

/// `all`, or numbers of blocks and `last`.
pub(super) fn sample(text: &str) -> Result<Sample, String> {
    let place = |word: &str| match word {
        "last" => Ok(Place::Last),
        number => number.parse().map(Place::At).map_err(|_| "neither a block's number nor `last`".to_string()),
    };
    if text == "all" { Ok(Sample::All) } else { entries(text, place).map(Sample::Only) }
}

/// The entries of a list with commas, each read by `read`.
fn entries<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let count = text.split(',').count();
    if count > MOST_ENTRIES {
        return Err(format!("{count} entries, at most {MOST_ENTRIES}: each is run by itself"));
    }
    let entry = |word: &str| read(word).map_err(|why| if count == 1 { why } else { format!("`{word}`: {why}") });
    text.split(',').map(str::trim).map(entry).collect()
}

/// The variables from which rayon, which runs what has no `--threads`, takes its number of threads. 0 and nothing are its
/// words for all CPUs.
const POOL_VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];

/// Holds the environment to the bounds of the command line: rayon would ignore what is no number, and start any other.
pub(crate) fn check_environment() -> Result<(), String> {
    let bound = Bound { least: 0, ..THREADS };
    POOL_VARIABLES.into_iter().try_for_each(|name| match env::var_os(name) {
        Some(value) if !value.is_empty() => {
            let value = value.to_string_lossy();
            bound.read::<usize>(&value).map(drop).map_err(|why| format!("{name} is {}, {why}", moec::diagnostics::quote(&value)))
        }
        Some(_) | None => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_the_bound_says() {
        assert_eq!(THREADS.read::<usize>("1024"), Ok(1024));
        for text in ["0", "1025", "100000", "-1", "1e3", "99999999999999999999999", "", " 3", "three"] {
            assert!(THREADS.read::<usize>(text).is_err_and(|why| why.contains("from 1 to 1024: more threads")), "{text}");
        }
        assert_eq!(TOKENS.read::<u64>("2147483647"), Ok(2_147_483_647));
        assert!(TOKENS.read::<u64>("2147483648").is_err());
    }

    #[test]
    fn lists_end_too() {
        assert_eq!("1, 17".parse(), Ok(TokenCounts(vec![1, 17])));
        assert!("1,x".parse::<TokenCounts>().is_err_and(|why| why.starts_with("`x`: not a whole number")));
        assert!("1,".repeat(99).parse::<TokenCounts>().is_err_and(|why| why.starts_with("100 entries, at most 64")));
        assert!("".parse::<TokenCounts>().is_err());
        assert_eq!(batches("1,17"), Ok(TokenCounts(vec![1, 17])));
        assert!(batches("4,0").is_err_and(|why| why.starts_with("`0`: not a whole number from 1 to")));
        assert_eq!(sample("0,7,last"), Ok(Sample::Only(vec![Place::At(0), Place::At(7), Place::Last])));
        assert!(sample("0,first").is_err());
    }
}
