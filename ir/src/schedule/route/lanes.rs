//! The 32 lanes that work on one row, and how they make one value of theirs. What a row means is in `row`.
//!
//! ```text
//!   a row      e0 e1 e2 ... e31 | e32 e33 ... e63 | e64 ..     strips of 32
//!   lane i          has                                        e[i], e[i + 32], e[i + 64], ...
//! ```
//!
//! On a GPU they are a warp and exchange values by shuffles; on the host they are one vector. Both join lane i with lane
//! i + 16 first, then i + 8, ...: the same sums, bit for bit.

use super::pick::TAKEN;
use super::{Block, Gating, LANES, Operand, Route, Scratch, padded};
use crate::kernel::build::Array;
use crate::kernel::{Builder, Extreme, Value};
use crate::{DType, Machine};

/// The 32 lanes that work on one row: those of a warp with a value each, or those of one vector.
pub(super) struct Lanes<'k> {
    pub(super) k: &'k Builder,
    /// Elements of a value: 1, or those of a vector.
    pub(super) wide: u32,
    /// Lanes of a warp.
    pub(super) warp: u32,
    /// The lane's number; in a vector, its lanes' numbers.
    pub(super) index: Value<'k>,
}

/// Some of a row's elements: one each for 32 lanes, or a single one.
#[derive(Clone, Copy)]
pub(super) struct At<'k> {
    /// Which elements.
    pub(super) index: Value<'k>,
    /// Where a load of `lanes` elements starts. Always inside the padded row.
    pub(super) first: Value<'k>,
    pub(super) lanes: u32,
    /// Which lanes have an element of the row; `None`: all.
    pub(super) live: Option<Value<'k>>,
    /// The group that all elements belong to.
    pub(super) group: Option<Value<'k>>,
    pub(super) nan: Nan,
}

/// What becomes of a NaN in a row.
#[derive(Clone, Copy)]
pub(super) enum Nan {
    /// It stays, so that its key is the least.
    Stays,
    /// Minus infinity, so that an expert that must be picked all the same has a weight.
    Least,
}

impl<'k> At<'k> {
    /// `truth`, but false in lanes without an element.
    pub(super) fn alive(&self, truth: Value<'k>) -> Value<'k> {
        self.live.map_or(truth, |live| live & truth)
    }

    /// `value`, but `otherwise` in lanes without an element.
    pub(super) fn or(&self, value: Value<'k>, otherwise: Value<'k>) -> Value<'k> {
        self.live.map_or(value, |live| live.select(value, otherwise.splat(self.lanes)))
    }
}

/// Bytes that [`Lanes`] keeps in shared memory.
pub(super) fn shared_bytes(spec: &Route, machine: &Machine, block: &Block) -> u64 {
    let vectors = spec.operands.iter().filter(|operand| matches!(operand, Operand::Vector { .. })).count() as u64;
    let host = 4 * (u64::from(LANES) + vectors * u64::from(block.pitch));
    if machine.warp_lanes == LANES { 0 } else { host }
}

impl<'k> Lanes<'k> {
    pub(super) fn new(k: &'k Builder, machine: &Machine) -> Lanes<'k> {
        let wide = LANES / machine.warp_lanes;
        let index = if wide == 1 {
            k.bind("lane", k.thread() % LANES as i32)
        } else {
            let numbers = k.shared("numbers", DType::I32, LANES);
            (0..LANES as i32).for_each(|i| numbers.store(k.i32(i), k.i32(i)));
            numbers.load_vector(k.i32(0), LANES)
        };
        Lanes { k, wide, warp: machine.warp_lanes, index }
    }

    /// What a vector may read beyond the end of a row: copies of the layer's vectors with room behind them, and something
    /// in the room behind the logits and keys. Lanes of a warp stay inside.
    pub(super) fn stage(
        &self,
        gating: &Gating,
        block: &Block,
        operands: &[Array<'k>],
        logits: Array<'k>,
        scratch: &Scratch<'k>,
    ) -> Vec<Array<'k>> {
        let (k, spec) = (self.k, gating.spec);
        if self.wide == 1 {
            return operands.to_vec();
        }
        let fill = |array: Array<'k>, len: u32, with: Value<'k>| {
            let step = k.i32(LANES as i32);
            k.for_step("i", k.i32(0), k.i32(len as i32), step, |i| array.store(i, with.splat(LANES)));
        };
        fill(logits, block.logits(), k.f32(0.0));
        if let Some(picked) = scratch.picked {
            fill(picked.keys, block.pitch, k.i32(TAKEN));
            fill(picked.weights, padded(spec.top_k), k.f32(0.0));
        }
        if let Some((group_keys, groups)) = scratch.group_keys.zip(gating.groups()) {
            fill(group_keys, padded(groups.groups as u32), k.i32(TAKEN));
        }
        let copy = |(i, (operand, from)): (usize, (&Operand, &Array<'k>))| {
            let Operand::Vector { len, .. } = *operand else { return *from };
            let to = k.shared(&format!("v{}_here", i + 1), DType::F32, block.pitch);
            fill(to, block.pitch, k.f32(0.0));
            k.for_range("e", k.i32(0), k.i32(len as i32), |e| to.store(e, from.load(e).cast(DType::F32)));
            to
        };
        spec.operands.iter().zip(operands).enumerate().map(copy).collect()
    }

    /// Elements `start..start + len`, 32 at a time.
    pub(super) fn strips(&self, start: Value<'k>, len: u32, body: &mut dyn FnMut(&At<'k>)) {
        let k = self.k;
        let mut strip = |from: Value<'k>| {
            let inside = self.index + from.splat(self.wide);
            let live = (!len.is_multiple_of(LANES)).then(|| k.bind("live", inside.lt(len as i32)));
            let index = k.bind("index", inside + start.splat(self.wide));
            let first = if self.wide > 1 {
                start + from
            } else {
                // A lane without an element reads the last one.
                live.map_or(index, |_| start + inside.min(len as i32 - 1))
            };
            body(&At { index, first: k.bind("first", first), lanes: self.wide, live, group: None, nan: Nan::Stays });
        };
        if len <= LANES {
            strip(k.i32(0));
        } else {
            k.for_step("strip", k.i32(0), k.i32(len as i32), k.i32(LANES as i32), strip);
        }
    }

    /// A value from all lanes: across the vector, then across the warp, halving each time.
    fn together(&self, mut value: Value<'k>, join: impl Fn(Value<'k>, Value<'k>) -> Value<'k>) -> Value<'k> {
        let mut mask = self.warp / 2;
        while mask > 0 {
            value = self.k.bind("joined", join(value, self.k.shuffle(value, mask)));
            mask /= 2;
        }
        value
    }

    /// The greatest of one value for each lane of a warp.
    pub(super) fn greatest_in_warp(&self, value: Value<'k>) -> Value<'k> {
        if value.ty().elem == DType::I32 && self.warp > 1 {
            return self.k.redux(Extreme::Max, value);
        }
        self.together(value, |a, b| a.max(b))
    }

    /// The greatest of all lanes.
    pub(super) fn greatest(&self, value: Value<'k>) -> Value<'k> {
        self.greatest_in_warp(self.k.bind("greatest", value.reduce_max()))
    }

    /// The sum of all lanes.
    pub(super) fn sum(&self, value: Value<'k>) -> Value<'k> {
        let here = self.k.bind("sum", value.reduce_add());
        self.together(here, |a, b| a + b)
    }

    /// The least of `index` in the lanes where `holds` does.
    pub(super) fn first(&self, holds: Value<'k>, index: Value<'k>) -> Value<'k> {
        -self.greatest(holds.select(-index, -i32::MAX))
    }

    /// What one lane does for all.
    pub(super) fn once(&self, body: impl FnOnce()) {
        if self.wide > 1 { body() } else { self.k.when(self.index.eq(0), body) }
    }
}
