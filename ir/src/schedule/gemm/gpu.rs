//! A tile of products on a GPU without tensor cores: both sides through shared memory, a square of sums a thread.
//!
//! ```text
//!                     columns 64                  for each slice of `depth` along k (32, or what fits):
//!                  +--------------+                 all threads bring rows and weights into shared memory
//!           depth  |   weights    |                 as f32, k outermost: reads along k are coalesced;
//!                  +--------------+                 then thread (i, j) of 16 x 16 adds the products of
//!          depth                                    rows 4i .. 4i + 4 and columns 4j .. 4j + 4 of each of
//!   rows  +-----+  +--------------+                 w weights: 1 + w reads of 16 bytes for 16 w FMA.
//!    64   |     |  |  4 x 4 sums  |
//!         +-----+  |  a thread    |               Tiles of 32 and 16 rows: 2 and 1 rows a thread, the same columns.
//!                  +--------------+
//! ```
//!
//! FLOPs: 2 x 64 x 64 w a step of k. Elements from memory: 64 (1 + w), so 64 FLOPs an element with one weight and 85
//! with two: the roof of f32 arithmetic is reached where neighbouring blocks, which share their rows, find them in cache.
//! Where an expert has few rows, a lower tile computes fewer that are not there, for more reads a product: which is faster
//! is the cost model's to say (`tiling::flops`). A sum adds the same terms in the same order under every tiling.
//! Rows and columns beyond the edge repeat the last one, which costs no memory, and are not stored; steps beyond K are
//! zeros.

use super::{Args, Gemm, Side, Spot, Tile, weight_start};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Shared, Value};
use crate::tiling::{FMA_DEPTH, SIDE};
use crate::{DType, Machine};

/// Threads of a block.
pub(super) const THREADS: u32 = SIDE * SIDE;

/// Elements from one k to the next of a side in shared memory: four more than its lines, so that the threads that store one
/// line meet in four banks less often, and lines stay aligned to 16 bytes.
fn pitch(lines: u32) -> u32 {
    lines + 4
}

/// Steps of k in one slice: as many as shared memory holds of every side.
fn depth(spec: &Gemm, machine: &Machine) -> u32 {
    let sides = pitch(spec.tiling.rows) + spec.weights.len() as u32 * pitch(spec.tiling.columns);
    let bytes = sides * DType::F32.bytes() as u32;
    [FMA_DEPTH, 16, 8].into_iter().find(|depth| depth * bytes <= machine.shared_bytes).unwrap_or(4)
}

/// Shared memory of a tile: the rows, then each weight's columns.
pub(super) fn sides(spec: &Gemm, machine: &Machine) -> Vec<Side> {
    let depth = depth(spec, machine);
    let side = |name: String, lines: u32| Side { name, elem: DType::F32, len: depth * pitch(lines), align: Shared::ALIGN };
    let right = (0..spec.weights.len()).map(|i| side(format!("right{i}"), spec.tiling.columns));
    std::iter::once(side("left".to_string(), spec.tiling.rows)).chain(right).collect()
}

/// All of a tile.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    let (depth, tiling) = (depth(spec, machine), spec.tiling);
    let (each_row, each_column) = (tiling.rows / SIDE, tiling.columns / SIDE);
    let left = Lines { array: shared[0], lines: tiling.rows };
    let right: Vec<_> =
        shared[1..=spec.weights.len()].iter().map(|array| Lines { array: *array, lines: tiling.columns }).collect();
    let mine = Share { depth, step: k.bind("step", k.thread() % depth as i32), line: k.bind("line", k.thread() / depth as i32) };
    let row_starts = mine.lines(tiling.rows, |line| args.row_start(k, spec, tile.row + line.min(tile.rows - 1)));
    let weight_starts = mine.lines(tiling.columns, |line| weight_start(k, spec, tile, tile.column + line.min(tile.columns - 1)));
    let row = k.bind("first_row", k.thread() / SIDE as i32 * each_row as i32);
    let column = k.bind("first_column", k.thread() % SIDE as i32 * each_column as i32);
    // [weights, rows of the thread], each a vector along its columns.
    let zero = k.f32(0.0).splat(each_column);
    let sums: Vec<Vec<Var>> = right.iter().map(|_| (0..each_row).map(|_| k.var("sum", zero)).collect()).collect();
    k.for_step("slice", k.i32(0), k.i32(spec.k as i32), k.i32(depth as i32), |slice| {
        let x = mine.load(k, spec, args.rows.array(), &row_starts, slice);
        let ws: Vec<_> = args.weights.iter().map(|w| mine.load(k, spec, *w, &weight_starts, slice)).collect();
        // No thread reads the slice before any more.
        k.barrier();
        mine.store(k, left, &x);
        for (right, w) in right.iter().zip(&ws) {
            mine.store(k, *right, w);
        }
        k.barrier();
        k.for_range("step", k.i32(0), k.i32(depth as i32), |step| {
            let x = left.load(step, row, each_row);
            for (right, sums) in right.iter().zip(&sums) {
                let w = right.load(step, column, each_column);
                for (r, sum) in sums.iter().enumerate() {
                    let x = if each_row == 1 { x } else { x.lane(r as u32) };
                    sum.set(x.splat(each_column).fma(w, sum.get()));
                }
            }
        });
    });
    // All columns of the thread at once, where none can be beyond the edge alone.
    let lanes = if spec.n.is_multiple_of(u64::from(each_column)) { Args::even_lanes(spec, each_column) } else { 1 };
    let first = Spot::at(k, spec, tile.row + row, tile.column + column);
    for r in 0..each_row {
        k.when((row + r as i32).lt(tile.rows), || {
            for c in (0..each_column).step_by(lanes as usize) {
                let put = || {
                    let product = |sums: &Vec<Var<'k>>| {
                        let along = sums[r as usize].get();
                        if lanes == 1 { along.lane(c) } else { along }
                    };
                    let products: Vec<Value> = sums.iter().map(product).collect();
                    args.finish(k, spec, tile.expert, first.moved(k, spec, r, c), &products);
                };
                tile.when_column(k, spec, column, c, put);
            }
        });
    }
}

/// The lines of one side of the tile in shared memory, k outermost.
#[derive(Clone, Copy)]
struct Lines<'k> {
    array: Array<'k>,
    lines: u32,
}

impl<'k> Lines<'k> {
    /// So many lines' elements at a step of k, from line `first` on, a multiple of their number.
    fn load(self, step: Value<'k>, first: Value<'k>, lines: u32) -> Value<'k> {
        self.array.load_aligned(step * pitch(self.lines) as i32 + first, lines, lines * DType::F32.bytes() as u32)
    }
}

/// What a thread brings to shared memory: element `step` of every `THREADS / depth`-th line from `line` on.
#[derive(Clone, Copy)]
struct Share<'k> {
    depth: u32,
    step: Value<'k>,
    line: Value<'k>,
}

impl<'k> Share<'k> {
    /// `of` each of the thread's lines of a side that has so many.
    fn lines<T>(self, lines: u32, of: impl Fn(Value<'k>) -> T) -> Vec<T> {
        (0..lines).step_by((THREADS / self.depth) as usize).map(|line| of(self.line + line as i32)).collect()
    }

    /// The thread's elements of the slice, in f32; zeros beyond K.
    fn load(self, k: &'k Builder, spec: &Gemm, from: Array<'k>, starts: &[Value<'k>], slice: Value<'k>) -> Vec<Value<'k>> {
        let at = slice + self.step;
        let edge = (!spec.k.is_multiple_of(u64::from(self.depth))).then(|| k.bind("inside", at.lt(k.i32(spec.k as i32))));
        let at = k.bind("at", edge.map_or(at, |inside| inside.select(at, k.i32(0))).cast(DType::I64));
        let loaded: Vec<Value> = starts.iter().map(|start| from.load(*start + at).cast(DType::F32)).collect();
        loaded.into_iter().map(|x| edge.map_or(x, |inside| inside.select(x, 0.0))).collect()
    }

    /// Puts the thread's elements where the sums read them.
    fn store(self, k: &'k Builder, side: Lines<'k>, elements: &[Value<'k>]) {
        let store = || {
            for (line, x) in self.lines(side.lines, |line| line).into_iter().zip(elements) {
                side.array.store(self.step * pitch(side.lines) as i32 + line, *x);
            }
        };
        // In shallow slices there are more threads along the lines than there are lines.
        if side.lines < THREADS / self.depth { k.when(self.line.lt(side.lines as i32), store) } else { store() }
    }
}
