//! How the blocks of a launch are shared out among threads: by whatever implements [`Parallel`], each share once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::error::Error;

/// Threads that work on the blocks of a launch: those of this crate, rayon's, or the caller's own.
pub trait Parallel: Send + Sync + fmt::Debug {
    /// How many threads may work at once. Launches are cut into up to 32 shares for each; results do not depend on it.
    fn threads(&self) -> usize;

    /// Calls `body` with each number below `count`, once, on any threads and in any order, and returns when all calls have
    /// returned. It may be called by several threads at once, and from inside of a `body`.
    ///
    /// Numbers that are left out are an error of the launch; what is called twice or beyond `count` is left alone.
    fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync));
}

/// Rayon's threads: the pool in which the caller runs, or the global one. From outside of its pool rayon hands work over,
/// which takes a lock, now and then allocates, and makes the caller wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rayon;

impl Parallel for Rayon {
    fn threads(&self) -> usize {
        rayon::current_num_threads()
    }

    fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync)) {
        (0..count).into_par_iter().for_each(body);
    }
}

/// Shares of a grid that each thread gets. A grid has room for the worst routing, so that the blocks at its end may have nothing to do, and
/// experts have unequal work: of fewer shares some thread would have too many of those that have.
const SHARES_A_THREAD: u64 = 32;
/// Words of bits, one bit a share.
const CLAIM_WORDS: usize = 64;
const SHARES_MAX: u64 = CLAIM_WORDS as u64 * u64::BITS as u64;

/// Calls `run` with ranges that cover the blocks `0..blocks`, each block once.
///
/// # Errors
/// [`Error::Device`] where `parallel` left some out.
pub(super) fn spread(parallel: &dyn Parallel, blocks: u64, run: impl Fn(u64, u64) + Sync) -> Result<(), Error> {
    let shares = (parallel.threads() as u64).saturating_mul(SHARES_A_THREAD).clamp(1, SHARES_MAX);
    let share = blocks.div_ceil(shares).max(1);
    let count = blocks.div_ceil(share);
    if count <= 1 {
        run(0, blocks);
        return Ok(());
    }
    // A block must not run twice, nor one that there is not, whatever the caller's `parallel_for` does.
    let claimed = [const { AtomicU64::new(0) }; CLAIM_WORDS];
    parallel.parallel_for(count, &|index| {
        let bit = 1 << (index % u64::from(u64::BITS));
        let word = claimed.get((index / u64::from(u64::BITS)) as usize).filter(|_| index < count);
        if word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0) {
            let begin = index * share;
            run(begin, begin.saturating_add(share).min(blocks));
        }
    });
    let done: u64 = claimed.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum();
    if done == count {
        return Ok(());
    }
    let why = format!("it called {done} of {count} numbers");
    Err(Error::Device { call: "the caller's parallel_for", why, sticky: false })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Calls these numbers.
    #[derive(Debug)]
    struct Calls(usize, fn(u64) -> Vec<u64>);

    impl Parallel for Calls {
        fn threads(&self) -> usize {
            self.0
        }

        fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync)) {
            self.1(count).into_iter().for_each(body);
        }
    }

    /// The blocks that ran, in order.
    fn ran(parallel: &dyn Parallel, blocks: u64) -> (Result<(), Error>, Vec<u64>) {
        let ran = Mutex::new(Vec::new());
        let result = spread(parallel, blocks, |begin, end| ran.lock().unwrap().extend(begin..end));
        let mut ran = ran.into_inner().unwrap();
        ran.sort_unstable();
        (result, ran)
    }

    #[test]
    fn every_block_runs_once() {
        for threads in [0, 1, 2, 7, 1024, usize::MAX] {
            for blocks in [1, 2, 3, 8, 9, 63, 64, 65, 4095, 4096, 4097, 10_000] {
                let all: Vec<u64> = (0..blocks).collect();
                for order in [|n| (0..n).collect(), |n| (0..n).rev().collect(), |n| (0..n).chain(0..2 * n).collect()] {
                    assert_eq!(ran(&Calls(threads, order), blocks), (Ok(()), all.clone()), "{threads} threads");
                }
                assert_eq!(ran(&Rayon, blocks), (Ok(()), all));
            }
        }
    }

    #[test]
    fn what_is_left_out_is_an_error() {
        let (result, ran) = ran(&Calls(2, |n| (1..n).chain([u64::MAX]).collect()), 8);
        assert_eq!(ran, (1..8).collect::<Vec<_>>());
        assert_eq!(result.unwrap_err().to_string(), "the caller's parallel_for failed: it called 7 of 8 numbers");
    }
}
