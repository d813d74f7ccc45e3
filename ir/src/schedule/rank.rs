//! Places in order, found by all threads of a block: each item of a chunk is behind those before it that have its
//! number (the expert of a pair, the digit of a key). What `sort` and `order` share.
//!
//! ```text
//!   chunk     [ warp 0 | warp 1 | .. ]             each warp has some strips of 32 items, one after another
//!   strip     lanes of one number find each other by votes, one a bit of it; a lane's rank is how many of them are below it
//!   next      [warps, numbers]                     the warp's next place for each number: from the first warp's on, which is the
//!                                                  block's, or from 0 on
//!   place     next of the item's warp and number + rank, and behind what the warps before have of the number
//! ```
//!
//! Integers, and nothing depends on the order in which threads run. One thread alone goes through the items.

use super::chunk::share;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Value, Vote};
use crate::{DType, Machine, tiling};

/// What a block of [`chunk_threads`](super::chunk::chunk_threads) has to find places.
#[derive(Clone, Copy)]
pub(super) struct Ranks<'k> {
    k: &'k Builder,
    threads: u32,
    /// Warps that take part.
    warps: u32,
    /// Items have numbers below this; fewer than 0: no number.
    numbers: u32,
    /// Whether there are items without a number.
    lacking: bool,
    /// Lanes of a warp.
    lanes: u32,
    /// Of the block, by number: the next place. What follows are those of other warps.
    pub(super) next: Array<'k>,
    /// Of the block, by item of the chunk.
    number_at: Array<'k>,
    place_at: Array<'k>,
}

impl<'k> Ranks<'k> {
    pub(super) fn new(
        k: &'k Builder,
        machine: &Machine,
        threads: u32,
        numbers: u32,
        lacking: bool,
        [next, number_at, place_at]: [&str; 3],
    ) -> Ranks<'k> {
        let warps = tiling::rank_warps(u64::from(numbers), machine);
        let items = tiling::chunk_items(machine);
        let [number_at, place_at] = [number_at, place_at].map(|name| k.shared(name, DType::I32, items));
        let next = k.shared(next, DType::I32, warps * numbers);
        Ranks { k, threads, warps, numbers, lacking, lanes: machine.warp_lanes, next, number_at, place_at }
    }

    /// Asks for the number of each of so many items, tells of each its place, -1 where it has no number, and goes on with the next
    /// places. All threads of the block come here, and need not have seen these.
    pub(super) fn places(
        &self,
        items: Value<'k>,
        number_of: impl FnOnce(Value<'k>) -> Value<'k>,
        told: impl FnOnce(Value<'k>, Value<'k>, Value<'k>),
    ) {
        let k = self.k;
        share(k, "i", self.threads, items, |i| self.number_at.store(i, number_of(i)));
        k.barrier();
        if self.threads == 1 {
            k.for_range("i", k.i32(0), items, |i| {
                let number = self.number_at.load(i);
                let place = k.var("place", k.i32(-1));
                self.with_number(number, || {
                    place.set(self.next.load(number));
                    self.next.store(number, place.get() + 1);
                });
                told(i, number, place.get());
            });
            return;
        }
        let (numbers, of_all) = (self.numbers as i32, (self.lanes * self.warps) as i32);
        share(k, "other", self.threads, k.i32((self.warps as i32 - 1) * numbers), |i| self.next.store(i + numbers, k.i32(0)));
        k.barrier();
        let strips = k.bind("strips", (items + (of_all - 1)) / of_all);
        let (warp, lane) = (k.bind("warp", k.thread() / self.lanes as i32), k.bind("lane", k.thread() % self.lanes as i32));
        k.when(k.thread().lt(of_all), || {
            k.for_range("strip", k.i32(0), strips, |strip| {
                let i = k.bind("i", (warp * strips + strip) * self.lanes as i32 + lane);
                self.strip(warp, lane, i, k.bind("inside", i.lt(items)));
            });
        });
        k.barrier();
        if self.warps > 1 {
            share(k, "number", self.threads, k.i32(numbers), |number| {
                let of_warp = |warp: u32| k.bind("at", number + (warp * self.numbers) as i32);
                let counts: Vec<_> = (0..self.warps).map(|warp| self.next.load(of_warp(warp))).collect();
                let last = counts.into_iter().enumerate().fold(k.i32(0), |place, (warp, count)| {
                    if warp > 0 {
                        self.next.store(of_warp(warp as u32), place);
                    }
                    k.bind("place", place + count)
                });
                self.next.store(number, last);
            });
            k.barrier();
        }
        share(k, "i", self.threads, items, |i| {
            let number = self.number_at.load(i);
            let (warp, place) = (k.bind("warp", i / (strips * self.lanes as i32)), k.var("place", self.place_at.load(i)));
            let is_behind = if self.lacking { warp.gt(0) & number.ge(0) } else { warp.gt(0) };
            k.when(is_behind, || place.set(place.get() + self.next.load(warp * numbers + number)));
            told(i, number, place.get());
        });
    }

    /// Gives the items of a warp's lanes places in the warp's count.
    fn strip(&self, warp: Value<'k>, lane: Value<'k>, i: Value<'k>, inside: Value<'k>) {
        let k = self.k;
        let number = k.var("number", k.i32(-1));
        k.when(inside, || number.set(self.number_at.load(i)));
        let number = k.bind("number", number.get());
        let has = k.bind("has", number.ge(0));
        let bits = u32::BITS - self.numbers.saturating_sub(1).leading_zeros();
        let same = (0..bits).fold(k.vote(Vote::Ballot, has), |same, bit| {
            let is_one = k.bind("is_one", (number & (1 << bit)).ne(0));
            let ones = k.vote(Vote::Ballot, is_one);
            k.bind("same", same & is_one.select(ones, !ones))
        });
        let below = k.bind("below", same & ((k.i32(1) << lane) - 1));
        let at = k.bind("at", warp * self.numbers as i32 + number.max(0));
        let first = self.next.load(at);
        // All lanes have read it.
        k.warp_barrier();
        k.when(has & below.eq(0), || self.next.store(at, first + same.count_ones()));
        k.warp_barrier();
        k.when(inside, || self.place_at.store(i, has.select(first + below.count_ones(), -1)));
    }

    fn with_number(&self, number: Value<'k>, body: impl FnOnce()) {
        if self.lacking { self.k.when(number.ge(0), body) } else { body() }
    }
}

/// For each value that the block's threads have, the sum of those of the threads before, and that of all. All threads come here. An array
/// of this name has a number of each warp and value.
pub(super) fn before<'k>(
    k: &'k Builder,
    machine: &Machine,
    threads: u32,
    name: &str,
    values: &[Value<'k>],
) -> Vec<[Value<'k>; 2]> {
    let (lanes, warps) = (machine.warp_lanes, threads / machine.warp_lanes);
    let lane = k.bind("lane", k.thread() % lanes as i32);
    let in_warp = |value: &Value<'k>| {
        // Of 1, 2, 4, ... neighbours: their sum, and that of those before the lane.
        let (mut sum, mut earlier, mut mask) = (*value, k.i32(0), 1);
        while mask < lanes {
            let other = k.bind("other", k.shuffle(sum, mask));
            earlier = k.bind("earlier", earlier + (lane & mask as i32).ne(0).select(other, 0));
            sum = k.bind("sum", sum + other);
            mask *= 2;
        }
        [earlier, sum]
    };
    let of_warp: Vec<_> = values.iter().map(in_warp).collect();
    if warps == 1 {
        return of_warp;
    }
    let warp = k.bind("warp", k.thread() / lanes as i32);
    let sums = k.shared(name, DType::I32, warps * values.len() as u32);
    k.when(lane.eq(0), || {
        for (i, [_, sum]) in of_warp.iter().enumerate() {
            sums.store(warp + i as i32 * warps as i32, *sum);
        }
    });
    k.barrier();
    let of_block = |(i, [earlier, _]): (usize, &[Value<'k>; 2])| {
        let of_warps = (0..warps as i32).map(|other| (other, sums.load(k.i32(i as i32 * warps as i32 + other))));
        of_warps.fold([*earlier, k.i32(0)], |[earlier, all], (other, sum)| {
            let earlier = k.bind("earlier", earlier + warp.gt(other).select(sum, 0));
            [earlier, k.bind("all", all + sum)]
        })
    };
    of_warp.iter().enumerate().map(of_block).collect()
}
