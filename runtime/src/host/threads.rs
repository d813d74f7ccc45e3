//! The threads of this crate. A caller publishes a job, works on it itself, and is helped by the threads that are free; nothing
//! is allocated for it, no lock is taken, and no thread waits for another to wake up.
//!
//! This is not rayon's way: a thread from outside of rayon's pool hands its work over and sleeps, which costs 10 to 30
//! microseconds a run where a layer may take as many, and a queue that grows by a block every 63 jobs.
#![allow(unsafe_code, reason = "a job lies on the stack of its caller")]

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use super::parallel::Parallel;
use crate::error::Error;

/// Jobs that can be published at once; a caller beyond them works alone.
const SLOTS: usize = 64;
/// How often a thread looks for work before it sleeps, a few milliseconds in all, in which others may have its processor: long enough to be
/// there for the next of several runs, since a thread that slept comes some 0.1 ms late, a twentieth of a decoded token's layer.
const LOOKS: usize = 4096;
/// How many sleepers a caller wakes, and each that was woken in turn: all are awake after a few steps, none wakes them all.
const WOKEN: usize = 2;

/// A number of threads, the caller's included.
#[derive(Debug)]
pub(super) struct Threads {
    jobs: Arc<Jobs>,
    workers: Vec<JoinHandle<()>>,
}

/// What the threads share.
#[derive(Debug)]
struct Jobs {
    slots: [Slot; SLOTS],
    sleepers: Box<[Sleeper]>,
    ends: AtomicBool,
}

/// A place for one job.
#[derive(Debug, Default)]
struct Slot {
    /// A caller has it, from before its job is published until no thread looks at it any more.
    taken: AtomicBool,
    /// The job; null where none is published.
    job: AtomicPtr<Job<'static>>,
    /// Threads that may be looking at the job.
    users: AtomicUsize,
}

#[derive(Debug, Default)]
struct Sleeper {
    thread: OnceLock<thread::Thread>,
    sleeps: AtomicBool,
}

/// Numbers to call `body` with.
struct Job<'j> {
    body: &'j (dyn Fn(u64) + Sync),
    count: u64,
    /// The next that nothing was called with.
    next: AtomicU64,
}

impl Threads {
    /// So many threads, that of the caller among them.
    pub(super) fn new(threads: usize) -> Result<Threads, Error> {
        let sleepers = (1..threads).map(|_| Sleeper::default()).collect();
        let slots = [const { Slot { taken: AtomicBool::new(false), job: AtomicPtr::new(ptr::null_mut()), users: AtomicUsize::new(0) } };
            SLOTS];
        let jobs = Arc::new(Jobs { slots, sleepers, ends: AtomicBool::new(false) });
        // Where one cannot be started, those before it end as this is dropped.
        let mut all = Threads { jobs, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for index in 1..threads {
            let jobs = Arc::clone(&all.jobs);
            let started =
                thread::Builder::new().name(format!("moec {index}")).spawn(move || jobs.serve(&jobs.sleepers[index - 1]));
            let refused =
                |error: std::io::Error| Error::Device { call: "starting threads", why: error.to_string(), sticky: false };
            all.workers.push(started.map_err(refused)?);
        }
        Ok(all)
    }

    /// The threads that all layers of the process share which ask for no number: as many as rayon's pool has, so that
    /// `RAYON_NUM_THREADS` counts.
    pub(super) fn shared() -> Result<Arc<Threads>, Error> {
        static SHARED: OnceLock<Arc<Threads>> = OnceLock::new();
        if let Some(threads) = SHARED.get() {
            return Ok(Arc::clone(threads));
        }
        let made = Arc::new(Threads::new(rayon::current_num_threads())?);
        // Two may be made at once; one of them ends here.
        Ok(Arc::clone(SHARED.get_or_init(|| made)))
    }
}

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync)) {
        let job = Job { body, count, next: AtomicU64::new(0) };
        let free = || self.jobs.slots.iter().find(|slot| !slot.taken.swap(true, Ordering::Acquire));
        let Some(slot) = (!self.workers.is_empty()).then(free).flatten() else { return job.work() };
        slot.job.store(ptr::from_ref(&job).cast::<Job<'static>>().cast_mut(), Ordering::SeqCst);
        self.jobs.wake();
        // Nothing below unwinds: `body` runs kernels, which are C.
        job.work();
        // A thread that counts itself among the users after this finds no job; every other is waited for.
        slot.job.store(ptr::null_mut(), Ordering::SeqCst);
        while slot.users.load(Ordering::SeqCst) != 0 {
            thread::yield_now();
        }
        slot.taken.store(false, Ordering::Release);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.jobs.ends.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        for worker in self.workers.drain(..) {
            // A thread that panicked has ended too.
            let _ = worker.join();
        }
    }
}

impl Jobs {
    /// What a thread does: helps where there is a job, looks again for a while, sleeps.
    fn serve(&self, sleeper: &Sleeper) {
        let _ = sleeper.thread.set(thread::current());
        let mut looks = 0;
        while !self.ends.load(Ordering::SeqCst) {
            if self.slots.iter().any(|slot| slot.with(|job| self.help(job))) {
                looks = 0;
            } else if looks < LOOKS {
                looks += 1;
                thread::yield_now();
            } else {
                // A job that was published before this is seen below; the caller of a later one sees the sleeper.
                sleeper.sleeps.store(true, Ordering::SeqCst);
                while sleeper.sleeps.load(Ordering::SeqCst) && !self.has_work() && !self.ends.load(Ordering::SeqCst) {
                    thread::park();
                }
                sleeper.sleeps.store(false, Ordering::SeqCst);
                looks = 0;
            }
        }
    }

    /// Does a part of the job; whether there was any left.
    fn help(&self, job: &Job<'_>) -> bool {
        let has_work = job.has_work();
        if has_work {
            self.wake();
            job.work();
        }
        has_work
    }

    fn has_work(&self) -> bool {
        self.slots.iter().any(|slot| slot.with(Job::has_work))
    }

    /// Wakes a few threads that sleep.
    fn wake(&self) {
        let asleep = self
            .sleepers
            .iter()
            .filter(|sleeper| sleeper.sleeps.load(Ordering::SeqCst) && sleeper.sleeps.swap(false, Ordering::SeqCst));
        asleep.take(WOKEN).filter_map(|sleeper| sleeper.thread.get()).for_each(thread::Thread::unpark);
    }
}

impl Slot {
    /// Asks the job that is published here; false where none is.
    fn with(&self, ask: impl FnOnce(&Job<'static>) -> bool) -> bool {
        if self.job.load(Ordering::SeqCst).is_null() {
            return false;
        }
        self.users.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the pointer is null, or to a job that is published. Its caller took it back after this load, in the one order
        // of all these operations, so that it sees this user and lets the job live until the count goes down again. The job is
        // only read, but for its atomic.
        let answer = unsafe { self.job.load(Ordering::SeqCst).as_ref() }.is_some_and(ask);
        self.users.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

impl Job<'_> {
    fn has_work(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.count
    }

    /// Calls the body with one number after the other until there is none left.
    fn work(&self) {
        let numbers = std::iter::repeat_with(|| self.next.fetch_add(1, Ordering::Relaxed));
        numbers.take_while(|number| *number < self.count).for_each(self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of what `body` was called with.
    fn sum(threads: &Threads, count: u64) -> u64 {
        let sum = AtomicU64::new(0);
        threads.parallel_for(count, &|number| _ = sum.fetch_add(number + 1, Ordering::Relaxed));
        sum.into_inner()
    }

    #[test]
    fn every_number_is_called_once() {
        for count in [1, 2, 3, 5] {
            let threads = Threads::new(count).unwrap();
            assert_eq!(threads.threads(), count);
            for n in (0..200).chain([10_000]) {
                assert_eq!(sum(&threads, n), n * (n + 1) / 2, "{count} threads");
            }
        }
    }

    /// More callers than slots, jobs within jobs, and threads that fell asleep between them.
    #[test]
    fn callers_do_not_wait_for_each_other() {
        let threads = Threads::new(3).unwrap();
        thread::scope(|scope| {
            for caller in 0..SLOTS as u64 + 8 {
                let threads = &threads;
                scope.spawn(move || {
                    for n in 0..50 {
                        let outer = AtomicU64::new(0);
                        threads.parallel_for(3, &|_| _ = outer.fetch_add(sum(threads, n + caller), Ordering::Relaxed));
                        assert_eq!(outer.into_inner(), 3 * (n + caller) * (n + caller + 1) / 2);
                    }
                });
            }
        });
        for n in 0..20 {
            thread::sleep(std::time::Duration::from_millis(2));
            assert_eq!(sum(&threads, n), n * (n + 1) / 2);
        }
    }

    /// All threads work on a job that takes long enough for them to wake up, whether or not they slept.
    #[test]
    fn all_threads_take_part() {
        let threads = Threads::new(4).unwrap();
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(5));
            let here = std::sync::Mutex::new(std::collections::HashSet::new());
            threads.parallel_for(400, &|_| {
                here.lock().unwrap().insert(thread::current().id());
                thread::sleep(std::time::Duration::from_millis(1));
            });
            assert_eq!(here.into_inner().unwrap().len(), 4);
        }
    }
}
