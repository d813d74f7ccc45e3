//! The launches of a list, one after another, by all threads in one go: how blocks are handed out, and when the next launch begins.
//!
//! A thread that takes part takes shares of the blocks of the launch under way until there are none left, then waits for those that
//! have taken some and are not done with them. The thread that ends the last block begins the next launch. So nothing waits for a
//! thread that has not come: calls of a `parallel_for` may come late, in any number, or one after another on one thread.
//!
//! A launch that follows the one before it is open from when that begins. A thread that finds no more blocks of the one takes shares of the
//! other, and runs each when the blocks have ended that it needs: those up to a number, since blocks are handed out in order. Whether they
//! have is seen by what each thread has in hand.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::{array, hint, thread};

use super::parallel::Parallel;
use crate::device::MAX_THREADS;
use crate::error::Error;

/// The most launches that are gone through in one go.
pub(super) const TOGETHER: usize = 16;
/// Parts of the blocks that are left, for each thread, of which a share is one. Blocks have unequal work, some experts' much more than
/// others': of fewer parts some thread would have too much of it. Shares shrink to one block, so that all threads end together; large ones
/// have blocks of one expert, which share what is in a cache.
const PARTS_A_THREAD: u64 = 32;
/// Threads that take part, at most.
const HANDS: usize = MAX_THREADS;
/// How often a thread looks whether the others are done before it lets other threads have its processor.
const LOOKS: usize = 128;

/// What is launched.
pub(super) trait Blocks: Sync {
    /// Blocks of a launch that have work: asked when the launches before it have ended, but for one that it follows.
    fn count(&self, launch: usize) -> u64;

    /// Blocks of a part of a launch, and of the launch before it those that they need to have ended: of the same part and of all before. None:
    /// it begins when that launch has ended. A launch that follows another is not followed.
    fn follows(&self, _launch: usize) -> Option<Parts> {
        None
    }

    /// Runs the blocks of each share, `begin..end`, before it asks for the next, until there is none.
    fn run(&self, launch: usize, shares: &mut dyn Iterator<Item = (u64, u64)>);
}

/// Blocks for one that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Of the launch before, at least 1.
    pub(super) before: u64,
    /// Of the launch, at least 1.
    pub(super) own: u64,
}

/// Launches as far as they have come.
struct Together<'l> {
    launches: &'l dyn Blocks,
    count: usize,
    threads: u64,
    /// The launch whose blocks are handed out; `count` where all have ended.
    under_way: AtomicUsize,
    of: [Launch; TOGETHER],
    /// Threads that have come.
    came: AtomicUsize,
    /// Of each thread, one more than a block of the launch under way: all that it has in hand and all that it will take are not before that
    /// block. 0: it has none, and takes no more.
    hands: [AtomicU64; HANDS],
}

/// In cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Launch {
    /// Set when it is opened.
    blocks: AtomicU64,
    /// Whether it follows the one before it, which has several blocks.
    follows: AtomicBool,
    /// The first block that is in no thread's hands.
    next: AtomicU64,
    /// Blocks that have ended.
    done: AtomicU64,
}

/// What one thread takes of a launch.
struct Shares<'l> {
    all: &'l Together<'l>,
    at: usize,
    /// The thread's, where the launch is followed.
    hand: Option<&'l AtomicU64>,
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
    let together = Together {
        launches,
        count: count.min(TOGETHER),
        threads,
        under_way,
        of: array::from_fn(|_| Launch::default()),
        came: AtomicUsize::new(0),
        hands: [const { AtomicU64::new(0) }; HANDS],
    };
    if most == 1 {
        together.begin(0);
        return Ok(());
    }
    // The first launch is published whatever it has: meanwhile threads wake up.
    match together.count(0) {
        0 => together.begin(1),
        _ => together.open_follower(0),
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
    /// Says how many blocks a launch has, before which all have ended but for one that it follows.
    fn count(&self, at: usize) -> u64 {
        let count = self.launches.count(at);
        self.of[at].blocks.store(count, Ordering::Relaxed);
        count
    }

    /// Begins the first launch from `at` on that has several blocks; runs those before it, whose one block the others would only wait
    /// for. All before `at` have ended.
    fn begin(&self, mut at: usize) {
        while at < self.count {
            let is_open = self.of[at].follows.load(Ordering::Relaxed);
            let blocks = if is_open { self.of[at].blocks.load(Ordering::Relaxed) } else { self.count(at) };
            // Of one that is open others may have taken the blocks.
            if blocks > u64::from(!is_open) {
                break;
            }
            self.run(at, None);
            at += 1;
        }
        self.open_follower(at);
        // With it what is stored above, and what the blocks before wrote. A launch that followed may have ended already.
        self.under_way.fetch_max(at, Ordering::AcqRel);
    }

    /// Opens the launch that follows one which begins.
    fn open_follower(&self, at: usize) {
        let follower = at + 1;
        if follower < self.count && self.launches.follows(follower).is_some() {
            self.count(follower);
            self.of[follower].follows.store(true, Ordering::Relaxed);
        }
    }

    /// Runs shares of a launch; whether a block among them was the last to end.
    fn run(&self, at: usize, hand: Option<&AtomicU64>) -> bool {
        let mut shares = Shares { all: self, at, hand, taken: 0, ended: false };
        self.launches.run(at, &mut shares);
        shares.ended
    }

    /// Goes through the launches, from the one under way on.
    fn go_through(&self) {
        // There are as many as threads; others that a caller sends find all in hand.
        let Some(hand) = self.hands.get(self.came.fetch_add(1, Ordering::Relaxed)) else { return };
        loop {
            let at = self.under_way.load(Ordering::Acquire);
            if at >= self.count {
                return;
            }
            let follower = at + 1;
            let is_followed = follower < self.count && self.of[follower].follows.load(Ordering::Relaxed);
            if self.run(at, is_followed.then_some(hand)) {
                self.begin(follower);
            } else if is_followed && self.run(follower, None) {
                self.begin(follower + 1);
            }
            let mut looks = 0;
            while self.under_way.load(Ordering::Acquire) == at {
                pass_time(&mut looks);
            }
        }
    }

    /// Waits until blocks `..end` of a launch have ended.
    fn wait(&self, at: usize, end: u64) {
        let Launch { blocks, next, done, .. } = &self.of[at];
        let mut looks = 0;
        loop {
            if done.load(Ordering::Acquire) == blocks.load(Ordering::Relaxed) {
                return;
            }
            // A thread that has taken a block has come, and has said before what is in hand.
            if next.load(Ordering::Acquire) >= end {
                let came = self.came.load(Ordering::Relaxed).min(HANDS);
                // What is not in hand has ended, and all that it wrote is seen.
                let has_some = |hand: &AtomicU64| (1..=end).contains(&hand.load(Ordering::Acquire));
                if !self.hands[..came].iter().any(has_some) {
                    return;
                }
            }
            pass_time(&mut looks);
        }
    }
}

/// Between two looks at what others do.
fn pass_time(looks: &mut usize) {
    *looks += 1;
    if *looks < LOOKS { hint::spin_loop() } else { thread::yield_now() }
}

impl Iterator for Shares<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let Shares { all, at, hand, .. } = *self;
        let Launch { blocks, next, done, follows } = &all.of[at];
        let blocks = blocks.load(Ordering::Relaxed);
        let in_hand = |block: u64| hand.iter().for_each(|hand| hand.store(block, Ordering::Release));
        // Before a block is taken: it is not before this one.
        in_hand(1 + next.load(Ordering::Relaxed));
        // The thread that ends the last block has seen what all others wrote.
        if self.taken > 0 && done.fetch_add(self.taken, Ordering::AcqRel) + self.taken == blocks {
            self.ended = true;
        }
        let parts = all.threads.saturating_mul(PARTS_A_THREAD);
        let share = |begin: u64| blocks.saturating_sub(begin).div_ceil(parts);
        let taken =
            next.fetch_update(Ordering::Release, Ordering::Relaxed, |begin| (begin < blocks).then(|| begin + share(begin)));
        let begin = taken.ok();
        self.taken = begin.map_or(0, share);
        in_hand(begin.map_or(0, |begin| 1 + begin));
        let (begin, end) = begin.map(|begin| (begin, begin + self.taken))?;
        if let (true, Some(parts)) = (follows.load(Ordering::Relaxed), all.launches.follows(at)) {
            all.wait(at - 1, end.div_ceil(parts.own).saturating_mul(parts.before));
        }
        Some((begin, end))
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

    /// Launches of so many blocks, each of which notes that it ran, and that all blocks had that are to run before.
    struct Noted<'n> {
        blocks: &'n [u64],
        /// Of each odd launch, which follows the one before it.
        parts: Option<Parts>,
        ran: Vec<Vec<AtomicU64>>,
        wrong: Mutex<Vec<(usize, u64)>>,
        /// What else a block does.
        work: &'n (dyn Fn(usize, u64) + Sync),
    }

    impl Blocks for Noted<'_> {
        fn count(&self, launch: usize) -> u64 {
            self.blocks[launch]
        }

        fn follows(&self, launch: usize) -> Option<Parts> {
            self.parts.filter(|_| launch % 2 == 1)
        }

        fn run(&self, launch: usize, shares: &mut dyn Iterator<Item = (u64, u64)>) {
            for block in shares.flat_map(|(begin, end)| begin..end) {
                let mut before: Vec<&[AtomicU64]> = self.ran[..launch].iter().map(Vec::as_slice).collect();
                if let (Some(parts), Some(last)) = (self.follows(launch), before.last_mut()) {
                    *last = &last[..last.len().min(((block / parts.own + 1) * parts.before) as usize)];
                }
                let before = before.into_iter().flatten().all(|ran| ran.load(Ordering::Relaxed) == 1);
                (self.work)(launch, block);
                if !before || self.ran[launch][block as usize].fetch_add(1, Ordering::Relaxed) != 0 {
                    self.wrong.lock().unwrap().push((launch, block));
                }
            }
        }
    }

    fn ran(parallel: &dyn Parallel, blocks: &[u64], work: &(dyn Fn(usize, u64) + Sync)) -> Result<(), Error> {
        ran_in_parts(parallel, blocks, None, work)
    }

    fn ran_in_parts(
        parallel: &dyn Parallel,
        blocks: &[u64],
        parts: Option<Parts>,
        work: &(dyn Fn(usize, u64) + Sync),
    ) -> Result<(), Error> {
        let ran = blocks.iter().map(|blocks| (0..*blocks).map(|_| AtomicU64::new(0)).collect()).collect();
        let noted = Noted { blocks, parts, ran, wrong: Mutex::default(), work };
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

    /// Launches of parts, some of which are absent.
    #[test]
    fn parts_run_after_theirs_of_the_launch_before() {
        let parts = |before: u64, own: u64| Some(Parts { before, own });
        let lists: [(&[u64], Option<Parts>); 6] = [
            (&[60, 80], parts(3, 4)),
            (&[5, 300, 100, 0, 7, 7, 1, 9], parts(1, 60)),
            (&[1, 4, 2, 8, 0, 0, 9], parts(1, 4)),
            (&[1000, 10, 0, 0, 1000, 10], parts(100, 1)),
            (&[7, 1, 2], parts(8, 1)),
            (&[2; TOGETHER], parts(1, 1)),
        ];
        for threads in [1, 2, 3, 8] {
            let threads = Threads::new(threads).unwrap();
            for _ in 0..50 {
                for (blocks, parts) in lists {
                    ran_in_parts(&threads, blocks, parts, &|_, _| ()).unwrap();
                }
            }
        }
        for (blocks, parts) in lists {
            let calls = Calls(4, |n| (0..n).chain(0..3).collect());
            ran_in_parts(&calls, blocks, parts, &|_, _| ()).unwrap();
        }
    }

    /// The last block of the first launch does not end before the first block of the second has run.
    #[test]
    fn a_launch_that_follows_begins_before_the_other_has_ended() {
        let (has_run, began) = (AtomicBool::new(false), std::time::Instant::now());
        let work = |launch: usize, block: u64| match (launch, block) {
            (0, 29) => {
                while !has_run.load(Ordering::Acquire) && began.elapsed().as_secs() < 60 {
                    thread::yield_now();
                }
            }
            (1, 0) => has_run.store(true, Ordering::Release),
            _ => {}
        };
        ran_in_parts(&Threads::new(2).unwrap(), &[30, 40, 3], Some(Parts { before: 3, own: 4 }), &work).unwrap();
        assert!(began.elapsed().as_secs() < 60, "it waited for all blocks");
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
