//! Rows, each by the lanes of a warp together, or by vectors on the host: what `normalise` and `softmax` share.

use crate::kernel::{Builder, Value};
use crate::{DType, Extent, Machine};

/// Rows of a block: a warp has two, the host's thread all.
const ROWS: u32 = 8;
/// Warps of a block.
const WARPS: u32 = 4;

/// Number of blocks for so many rows.
pub(super) fn grid(rows: Extent) -> Extent {
    rows.div_ceil(u64::from(ROWS))
}

/// Threads of a block.
pub(super) fn threads(machine: &Machine) -> u32 {
    warps(machine) * machine.warp_lanes
}

fn warps(machine: &Machine) -> u32 {
    if machine.has_threads() { WARPS } else { 1 }
}

/// A thread's way along a row of `n` elements, `lanes` of them at once.
pub(super) struct RowLoop<'a, 'k> {
    pub(super) k: &'k Builder,
    machine: &'a Machine,
    n: u32,
    pub(super) lanes: u32,
    lane: Value<'k>,
}

impl<'a, 'k> RowLoop<'a, 'k> {
    /// `body` for each of the block's rows, below `rows`, that this thread's warp has.
    pub(super) fn rows(
        k: &'k Builder,
        machine: &'a Machine,
        [n, lanes]: [u32; 2],
        rows: Value<'k>,
        body: impl FnOnce(&RowLoop<'a, 'k>, Value<'k>),
    ) {
        let warp_lanes = machine.warp_lanes as i32;
        let (lane, warp) = (k.bind("lane", k.thread() % warp_lanes), k.bind("warp", k.thread() / warp_lanes));
        let row_loop = RowLoop { k, machine, n, lanes, lane };
        let first = k.bind("first_token", k.block() * ROWS as i32);
        k.for_step("m", warp, k.i32(ROWS as i32), k.i32(warps(machine) as i32), |m| {
            let row = k.bind("token", first + m);
            k.when(row.lt(rows), || body(&row_loop, row));
        });
    }

    /// The most elements of so many bytes that a thread takes at once.
    pub(super) fn widest(machine: &Machine, n: u32, bytes: u64) -> u32 {
        // On a GPU an access of several elements is aligned to all of them, so they divide a row.
        if machine.has_threads() {
            (machine.vector_bytes / bytes as u32).min(1 << n.trailing_zeros())
        } else {
            machine.vector_bytes / DType::F32.bytes() as u32
        }
    }

    /// Where a row starts.
    pub(super) fn start(&self, row: Value<'k>) -> Value<'k> {
        self.k.bind("start", row.cast(DType::I64) * self.k.i64(i64::from(self.n)))
    }

    /// The thread's elements of a row: vectors, then what is left.
    pub(super) fn each(&self, body: &dyn Fn(Value<'k>, u32)) {
        let RowLoop { k, n, lanes, lane, .. } = *self;
        let (whole, warp) = (n - n % lanes, self.machine.warp_lanes);
        k.for_step("n", lane * lanes as i32, k.i32(whole as i32), k.i32((warp * lanes) as i32), |at| body(at, lanes));
        if whole < n {
            k.for_step("n", lane + whole as i32, k.i32(n as i32), k.i32(warp as i32), |at| body(at, 1));
        }
    }

    /// What the lanes of the warp have, in one number.
    pub(super) fn of_all(&self, name: &str, mine: Value<'k>, join: impl Fn(Value<'k>, Value<'k>) -> Value<'k>) -> Value<'k> {
        let mut all = self.k.bind(name, mine);
        let mut mask = self.machine.warp_lanes / 2;
        while mask > 0 {
            all = self.k.bind(name, join(all, self.k.shuffle(all, mask)));
            mask /= 2;
        }
        all
    }

    /// The most bytes that an address is known to be a multiple of.
    pub(super) fn align(&self, dtype: DType, lanes: u32) -> u32 {
        let most = if self.machine.has_threads() { self.machine.vector_bytes } else { 1 };
        (dtype.bytes() as u32 * lanes).min(most).max(dtype.bytes() as u32)
    }
}
