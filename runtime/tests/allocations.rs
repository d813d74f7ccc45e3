//! A run of a plan allocates nothing. The allocator of this binary counts, so it has one test; without a C compiler that says
//! so and passes.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement")]

mod fixture;
#[path = "fixture/object.rs"]
mod object;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fixture::{w, x, y};
use moec_runtime::device::Opened;
use moec_runtime::host::{self, Parallel};
use moec_runtime::{Dims, Layer, Stream};
use object::shared_object;

/// The system's allocator, and a count of what all threads ask it for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // A run frees nothing either.
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(start, layout) }
    }
}

/// The caller's own: one thread, the last number first.
#[derive(Debug)]
struct Reversed;

impl Parallel for Reversed {
    fn threads(&self) -> usize {
        3
    }

    fn parallel_for(&self, count: u64, body: &(dyn Fn(u64) + Sync)) {
        (0..count).rev().for_each(body);
    }
}

#[test]
fn a_run_allocates_nothing() {
    let Some(object) = shared_object() else { return };
    let package = fixture::package(object);
    let open: [&dyn Fn() -> Opened; 5] = [
        &|| host::open(&package, Some(1)).unwrap(),
        &|| host::open(&package, Some(2)).unwrap(),
        &|| host::open(&package, Some(5)).unwrap(),
        &|| host::open(&package, None).unwrap(),
        &|| host::open_on(&package, Arc::new(Reversed)).unwrap(),
    ];
    for open in open {
        let opened = open();
        // A thread that starts allocates, and nothing says when it has started.
        std::thread::sleep(Duration::from_millis(100));
        let layer = Layer::on(&package, opened).unwrap();
        let name = layer.device().name();
        let bound = layer.bind(vec![w()]).unwrap();
        for tokens in [1, 2, 64, 1000] {
            let plan = layer.plan(Dims::tokens(tokens)).unwrap();
            let mut batch = bound.batch(&[x(tokens)], Dims::tokens(tokens)).unwrap();
            plan.run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap();
            batch.outputs[0].fill(0xff).unwrap();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            // More than the jobs that a block of rayon's queue holds.
            for _ in 0..500 {
                plan.run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap();
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{name}, {tokens} tokens");
            let run = bound.collect(&batch, Duration::ZERO).unwrap();
            assert_eq!(run.tensor("y").unwrap(), &y(tokens), "{name}, {tokens} tokens");
        }
    }
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 100, "the allocator counts");
}
