//! Factors of small matrix products that come straight from memory: what the streams of `gemm` and the logits of `route` share.
//!
//! A lane has 16 bytes of a line, 8 elements along k: lane 4 g + t of a warp those from 8 t on of line g. A sum does not mind which k is where
//! as long as both factors agree, so pairs 0 and 1 are its part of one product of depth 16, pairs 2 and 3 of the next.

use crate::kernel::build::{Array, Sums};
use crate::kernel::{Builder, Hint, Value};
use crate::tiling::MATRIX;

/// Elements of 16 bytes.
pub(super) const PART: u32 = 8;
/// Lines of half a left factor; lines of a right one.
pub(super) const EIGHT: u32 = 8;

/// The lane's part of a line. Where some lanes may be beyond K: whether this one is not, and what it reads else, whose place zeros take.
pub(super) fn load_part<'k>(
    k: &'k Builder,
    from: Array<'k>,
    place: Value<'k>,
    edge: Option<(Value<'k>, Value<'k>)>,
    hint: Hint,
) -> Value<'k> {
    let Some((inside, otherwise)) = edge else { return from.load_hinted(place, PART, 16, hint) };
    let loaded = from.load_hinted(inside.select(place, otherwise), PART, 16, hint);
    k.bind("inside", inside.select(loaded, k.f32(0.0).splat(PART).cast(from.elem())))
}

/// Adds the products of parts of these lines, 32 elements along k: of `left` 16 lines a factor, of `right` 8. The sums are
/// `[left factor, right factor]`.
pub(super) fn add_products<'k>(sums: Sums<'k>, left: &[Value<'k>], right: &[Value<'k>]) {
    for half in [0, PART / 2] {
        for (factor, lines) in (0..).zip(left.chunks(2)) {
            let pair = |eight: usize, second: u32| lines[eight].lanes(half + second, 2);
            let a = [pair(0, 0), pair(1, 0), pair(0, 2), pair(1, 2)];
            for (eight, line) in (0..).zip(right) {
                let b = [line.lanes(half, 2), line.lanes(half + 2, 2)];
                sums.add_product(factor * right.len() as u32 + eight, MATRIX, &a, &b);
            }
        }
    }
}
