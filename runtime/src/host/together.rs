//! The launches of a list, one after another, by all threads in one go: how blocks are handed out, and when the next launch begins.
//!
//! A thread that takes part takes shares of the blocks of the launch under way until there are none left, then waits for those that
//! have taken some and are not done with them. The thread that ends the last block begins the next launch. So nothing waits for a
//! thread that has not come: calls of a `parallel_for` may come late, in any number, or one after another on one thread.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{array, hint, thread};

use super::parallel::Parallel;
use crate::error::Error;

/// The most launches that are gone through in one go.
pub(super) const TOGETHER: usize = 16;
/// Parts of the blocks that are left, for each thread, of which a share is one. Blocks have unequal work, some experts' much more than
/// others': of fewer parts some thread would have too much of it. Shares shrink to one block, so that all threads end together; large ones
/// have blocks of one expert, which share what is in a cache.
const PARTS_A_THREAD: u64 = 32;
/// How often a thread looks whether the others are done before it lets other threads have its processor.
const LOOKS: usize = 128;

/// What is launched.
pub(super) trait Blocks: Sync {
    /// Blocks of a launch that have work: asked once, when the launches before it have ended.
    fn count(&self, launch: usize) -> u64;

    /// Runs the blocks of each share, `begin..end`, before it asks for the next, until there is none.
    fn run(&self, launch: usize, shares: &mut dyn Iterator<Item = (u64, u64)>);
}

/// Launches as far as they have come.
struct Together<'l> {
    launches: &'l dyn Blocks,
    count: usize,
    threads: u64,
    /// The launch whose blocks are handed out; `count` where all have ended.
    under_way: AtomicUsize,
    of: [Launch; TOGETHER],
}

/// In cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Launch {
    /// Set when it begins.
    blocks: AtomicU64,
    /// The first block that is in no thread's hands.
    next: AtomicU64,
    /// Blocks that have ended.
    done: AtomicU64,
}

/// What one thread takes of a launch.
struct Shares<'l> {
    of: &'l Launch,
    threads: u64,
    /// Blocks in hand.
    taken: u64,
    /// Whether these were the last ones of the launch to end.
    ended: bool,
}

/// Runs `count` launches, at most [`TOGETHER`], each after those before it have ended. None has more than `most` blocks.
///
/// # Errors
/// [`Error::Device`] where `parallel` called nothing.
pub(super) fn run(parallel: &dyn Parallel, launches: &dyn Blocks, count: usize, most: u64) -> Result<(), Error> {
    if most == 0 {
        return Ok(());
    }
    let threads = (parallel.threads() as u64).max(1);
    let under_way = AtomicUsize::new(0);
    let together =
        Together { launches, count: count.min(TOGETHER), threads, under_way, of: array::from_fn(|_| Launch::default()) };
    if most == 1 {
        together.begin(0);
        return Ok(());
    }
    // The first launch is published whatever it has: meanwhile threads wake up.
    if together.count(0) == 0 {
        together.begin(1);
    }
    let calls = threads.min(most);
    parallel.parallel_for(calls, &|_| together.go_through());
    // Each call did all that others left to it, and has returned.
    if together.under_way.load(Ordering::Acquire) == together.count {
        return Ok(());
    }
    let why = format!("it called none of {calls} numbers");
    Err(Error::Device { call: "the caller's parallel_for", why, sticky: false })
}

impl Together<'_> {
    /// Says how many blocks a launch has, before which all have ended.
    fn count(&self, at: usize) -> u64 {
        let count = self.launches.count(at);
        self.of[at].blocks.store(count, Ordering::Relaxed);
        count
    }

    /// Begins the first launch from `at` on that has several blocks; runs those before it, whose one block the others would only wait
    /// for. All before `at` have ended.
    fn begin(&self, mut at: usize) {
        while at < self.count && self.count(at) <= 1 {
            self.run(at);
            at += 1;
        }
        // With it what is stored above, and what the blocks before wrote.
        self.under_way.store(at, Ordering::Release);
    }

    /// Runs shares of a launch; whether a block among them was the last to end.
    fn run(&self, at: usize) -> bool {
        let mut shares = Shares { of: &self.of[at], threads: self.threads, taken: 0, ended: false };
        self.launches.run(at, &mut shares);
        shares.ended
    }

    /// Goes through the launches, from the one under way on.
    fn go_through(&self) {
        loop {
            let at = self.under_way.load(Ordering::Acquire);
            if at >= self.count {
                return;
            }
            if self.run(at) {
                self.begin(at + 1);
            }
            let mut looks = 0;
            while self.under_way.load(Ordering::Acquire) == at {
                looks += 1;
                if looks < LOOKS { hint::spin_loop() } else { thread::yield_now() }
            }
        }
    }
}

impl Iterator for Shares<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let Launch { blocks, next, done } = self.of;
        let blocks = blocks.load(Ordering::Relaxed);
        // The thread that ends the last block has seen what all others wrote.
        if self.taken > 0 && done.fetch_add(self.taken, Ordering::AcqRel) + self.taken == blocks {
            self.ended = true;
        }
        let parts = self.threads.saturating_mul(PARTS_A_THREAD);
        let share = |begin: u64| blocks.saturating_sub(begin).div_ceil(parts);
        let taken =
            next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |begin| (begin < blocks).then(|| begin + share(begin)));
        let begin = taken.ok();
        self.taken = begin.map_or(0, share);
        begin.map(|begin| (begin, begin + self.taken))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::parallel::Rayon;
    use super::super::threads::Threads;
    use super::*;

    /// Calls these numbers, one after another on one thread.
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

    /// Launches of so many blocks, each of which notes that it ran, and that all blocks before its launch had.
    struct Noted<'n> {
        blocks: &'n [u64],
        ran: Vec<Vec<AtomicU64>>,
        wrong: Mutex<Vec<(usize, u64)>>,
        /// What else a block does.
        work: &'n (dyn Fn(usize, u64) + Sync),
    }

    impl Blocks for Noted<'_> {
        fn count(&self, launch: usize) -> u64 {
            self.blocks[launch]
        }

        fn run(&self, launch: usize, shares: &mut dyn Iterator<Item = (u64, u64)>) {
            for block in shares.flat_map(|(begin, end)| begin..end) {
                let before = self.ran[..launch].iter().flatten().all(|ran| ran.load(Ordering::Relaxed) == 1);
                (self.work)(launch, block);
                if !before || self.ran[launch][block as usize].fetch_add(1, Ordering::Relaxed) != 0 {
                    self.wrong.lock().unwrap().push((launch, block));
                }
            }
        }
    }

    fn ran(parallel: &dyn Parallel, blocks: &[u64], work: &(dyn Fn(usize, u64) + Sync)) -> Result<(), Error> {
        let ran = blocks.iter().map(|blocks| (0..*blocks).map(|_| AtomicU64::new(0)).collect()).collect();
        let noted = Noted { blocks, ran, wrong: Mutex::default(), work };
        run(parallel, &noted, blocks.len(), blocks.iter().copied().max().unwrap_or(0))?;
        assert!(noted.ran.iter().flatten().all(|ran| ran.load(Ordering::Relaxed) == 1), "{parallel:?}, {blocks:?}");
        assert_eq!(noted.wrong.into_inner().unwrap(), [], "{parallel:?}, {blocks:?}");
        Ok(())
    }

    const LISTS: [&[u64]; 9] =
        [&[], &[0], &[1], &[1, 1, 1], &[0, 0, 5], &[3, 0, 200, 1, 0], &[1000], &[64, 65, 4097, 2], &[2; TOGETHER]];

    #[test]
    fn every_block_runs_once_and_in_order() {
        for threads in [0, 1, 2, 7, 1024, usize::MAX] {
            for blocks in LISTS {
                // More calls than were asked for, and fewer; the first does everything.
                let orders: [fn(u64) -> Vec<u64>; 4] = [
                    |n| (0..n.min(99)).collect(),
                    |n| (0..n.min(99)).rev().collect(),
                    |n| (0..2 * n.min(9)).collect(),
                    |_| vec![7],
                ];
                for order in orders {
                    assert_eq!(ran(&Calls(threads, order), blocks, &|_, _| ()), Ok(()));
                }
            }
        }
        for threads in [1, 2, 3, 8] {
            let threads = Threads::new(threads).unwrap();
            for _ in 0..50 {
                LISTS.iter().for_each(|blocks| ran(&threads, blocks, &|_, _| ()).unwrap());
            }
        }
        LISTS.iter().for_each(|blocks| ran(&Rayon, blocks, &|_, _| ()).unwrap());
    }

    /// Of all but one block there is next to nothing to do.
    #[test]
    fn a_long_block_holds_up_the_next_launch_alone() {
        let threads = Threads::new(4).unwrap();
        for long in [0, 17, 99] {
            let work = |launch: usize, block: u64| {
                if launch == 1 && block == long {
                    thread::sleep(std::time::Duration::from_millis(5));
                }
            };
            ran(&threads, &[2, 100, 100], &work).unwrap();
        }
    }

    #[test]
    fn launches_are_nested_and_have_many_callers() {
        let threads = Threads::new(3).unwrap();
        thread::scope(|scope| {
            for caller in 0..80 {
                let threads = &threads;
                scope.spawn(move || {
                    for n in 0..8 {
                        let inner = |_: usize, _: u64| ran(threads, &[2, n, 9], &|_, _| ()).unwrap();
                        ran(threads, &[3, caller % 5, 2], &inner).unwrap();
                    }
                });
            }
        });
    }

    /// Calls that come late find less to do.
    #[test]
    fn threads_of_a_caller_come_when_they_like() {
        /// Each call on a thread of its own that begins later than the one before.
        #[derive(Debug)]
        struct Late;

        impl Parallel for Late {
            fn threads(&self) -> usize {
                5
            }

            fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync)) {
                thread::scope(|scope| {
                    for number in 0..count {
                        scope.spawn(move || {
                            thread::sleep(std::time::Duration::from_millis(number));
                            body(number);
                        });
                    }
                });
            }
        }

        let slow = |_: usize, _: u64| thread::sleep(std::time::Duration::from_micros(100));
        ran(&Late, &[8, 1, 40, 3], &slow).unwrap();
    }

    #[test]
    fn a_parallel_for_that_calls_nothing_is_an_error() {
        let error = ran(&Calls(2, |_| Vec::new()), &[1, 8], &|_, _| ()).unwrap_err();
        assert_eq!(error.to_string(), "the caller's parallel_for failed: it called none of 2 numbers");
        assert_eq!(ran(&Calls(2, |_| Vec::new()), &[1, 1], &|_, _| ()), Ok(()), "single blocks need no threads");
    }
}
