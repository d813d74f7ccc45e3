//! bf16 as f32 on a host. A word of 32 bits has two: an even element in its lower half, an odd one in its upper half. Each is one
//! instruction away from its f32, so that a vector of words gives a vector of even elements and one of odd ones; rows that are multiplied with
//! them lie in this order.

use crate::DType;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Value};

/// Words of two bf16 each as f32: the first ones, and the second ones. A bf16 is the upper half of its f32.
pub(super) fn widened(pairs: Value<'_>) -> [Value<'_>; 2] {
    [pairs << 16, pairs & (-1 << 16)].map(|half| half.bitcast(DType::F32))
}

/// So many even elements of an array from `place` on, as f32, and as many odd ones.
pub(super) fn halves<'k>(k: &'k Builder, from: Array<'k>, place: Value<'k>, lanes: u32) -> [Value<'k>; 2] {
    let halves = k.bind("halves", from.load_vector(place, 2 * lanes).cast(DType::F32).transpose(lanes));
    [0, 1].map(|half| halves.lanes(half * lanes, lanes))
}
