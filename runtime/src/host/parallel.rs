//! Threads that take part in a run: whatever implements [`Parallel`].

use std::fmt;

use rayon::prelude::*;

/// Threads that work on the launches of a run: those of this crate, rayon's, or the caller's own.
pub trait Parallel: Send + Sync + fmt::Debug {
    /// How many threads may work at once. Results do not depend on it.
    fn threads(&self) -> usize;

    /// Calls `body` with each number below `count`, on any threads and in any order, and returns when all calls have
    /// returned. It may be called by several threads at once, and from inside of a `body`.
    ///
    /// A run calls it once for all of its launches (of a batch in parts, once for each), with a number for each thread that can help.
    /// A call of `body` works for as long as there is something to do that no other call has begun, and waits for no call that has not come:
    /// the calls may follow each other on one thread. Numbers that are left out only make a run slower, unless none is called,
    /// which is an error.
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
        // Each number by itself: rayon runs halves of halves of a range whole.
        (0..count as usize).into_par_iter().with_max_len(1).for_each(|number| body(number as u64));
    }
}
