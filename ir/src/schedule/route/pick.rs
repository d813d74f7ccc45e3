//! The greatest of many, by the lanes of a row together: integers that order as floats do, and repeated selection.
//!
//! ```text
//!   keys   7  9  2  9 ...      lane by lane the greatest and where it was first, then across the lanes;
//!             ^                the winner's key becomes TAKEN, below all others, so that no index wins twice
//! ```
//!
//! A lane of a warp has its keys in registers, where these are [enough](tiling::LANE_KEYS).

use super::LANES;
use super::lanes::Lanes;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Value};
use crate::{DType, tiling};

/// The key of what was picked: less than that of minus infinity.
pub(super) const TAKEN: i32 = i32::MIN;

/// An integer for each float, in the same order. Both zeros have one key, and NaN that of minus infinity.
pub(in crate::schedule) fn key<'k>(k: &'k Builder, x: Value<'k>) -> Value<'k> {
    let lanes = x.ty().lanes;
    let x = x.eq(x).select(x, k.f32(f32::NEG_INFINITY).splat(lanes)) + 0.0;
    let bits = k.bind("bits", x.bitcast(DType::I32));
    bits ^ ((bits >> 31) & i32::MAX)
}

/// Picks the `count` greatest of `keys[start..start + n]`, greatest first, ties to the lower index; tells of each. In the end their
/// keys are [`TAKEN`]; what reads these before [takes](take) them itself.
pub(super) fn greatest<'k>(
    lanes: &Lanes<'k>,
    keys: Array<'k>,
    start: Value<'k>,
    (n, count): (u32, u32),
    found: impl FnOnce(Value<'k>, Value<'k>),
) {
    let k = lanes.k;
    if lanes.wide == 1 && n <= tiling::LANE_KEYS * LANES {
        return greatest_in_registers(lanes, keys, start, (n, count), found);
    }
    // Lanes read what others wrote.
    k.warp_barrier();
    k.for_range("j", k.i32(0), k.i32(count as i32), |j| {
        let greatest = k.var("greatest", k.i32(TAKEN).splat(lanes.wide));
        let place = k.var("place", k.i32(0).splat(lanes.wide));
        lanes.strips(k.i32(0), n, &mut |at| {
            let key = keys.load_vector(start + at.first, lanes.wide);
            let better = k.bind("better", at.alive(key.gt(greatest.get())));
            place.set(better.select(at.index, place.get()));
            greatest.set(better.select(key, greatest.get()));
        });
        let top = lanes.greatest(greatest.get());
        let index = k.bind("index", lanes.first(greatest.get().eq(top.splat(lanes.wide)), place.get()));
        found(j, index);
        take(lanes, keys, start + index);
    });
}

/// Makes a key less than all others, once every lane has read its keys.
pub(super) fn take<'k>(lanes: &Lanes<'k>, keys: Array<'k>, at: Value<'k>) {
    lanes.k.warp_barrier();
    lanes.once(|| keys.store(at, lanes.k.i32(TAKEN)));
    lanes.k.warp_barrier();
}

fn greatest_in_registers<'k>(
    lanes: &Lanes<'k>,
    keys: Array<'k>,
    start: Value<'k>,
    (n, count): (u32, u32),
    found: impl FnOnce(Value<'k>, Value<'k>),
) {
    let k = lanes.k;
    let mut of_lane = Vec::new();
    for strip in (0..n).step_by(LANES as usize) {
        let index = k.bind("index", lanes.index + strip as i32);
        let has_key = (strip + LANES > n).then(|| k.bind("has_key", index.lt(n as i32)));
        let key = match has_key {
            None => k.var("key", keys.load(start + index)),
            Some(has_key) => {
                let key = k.var("key", k.i32(TAKEN));
                k.when(has_key, || key.set(keys.load(start + index)));
                key
            }
        };
        of_lane.push((index, has_key, key));
    }
    k.for_range("j", k.i32(0), k.i32(count as i32), |j| {
        let first = (k.i32(TAKEN), k.i32(0));
        let (best, place) = of_lane.iter().fold(first, |(best, place), (index, _, key)| {
            let better = k.bind("better", key.get().gt(best));
            (k.bind("best", better.select(key.get(), best)), k.bind("place", better.select(*index, place)))
        });
        let top = lanes.greatest(best);
        let winner = k.bind("winner", lanes.first(best.eq(top), place));
        found(j, winner);
        for (index, _, key) in &of_lane {
            key.set(winner.eq(*index).select(k.i32(TAKEN), key.get()));
        }
    });
    // No lane reads the keys of another before all are there.
    for (index, has_key, key) in of_lane {
        let store = || keys.store(start + index, key.get());
        has_key.map_or_else(store, |has_key| k.when(has_key, store));
    }
    k.warp_barrier();
}

/// Of the 32 values `best` and of `second` below them, lane by lane: the two greatest.
pub(super) fn top_2<'k>(lanes: &Lanes<'k>, best: Value<'k>, second: Value<'k>) -> (Value<'k>, Value<'k>) {
    let top = lanes.greatest(best);
    let winner = lanes.first(best.eq(top.splat(lanes.wide)), lanes.index).splat(lanes.wide);
    (top, lanes.greatest(lanes.index.eq(winner).select(second, best)))
}
