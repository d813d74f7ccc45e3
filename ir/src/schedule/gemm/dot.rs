//! A tile of products of few rows on a GPU: a warp some columns, its lanes along K.
//!
//! ```text
//!                    columns c, c + 1       for each slice of K of 32 vectors of 16 bytes:
//!                     |  |                    lane i loads vector i of each column's weights and of each row,
//!   rows  r0 ---->    x  x                    and adds their products to sums of its own;
//!         ..          x  x                  at the end the lanes' sums are added, lane i and lane i + 16 first,
//!         r3 ---->    x  x                  and one lane stores each.
//! ```
//!
//! FLOPs: 2 x 4 x 2 w a step of k and warp. A lane loads 4 + 2 w vectors for 8 w products of vectors. Weights come from memory once,
//! 512 bytes of a column at a time; rows come from cache. With one row an expert this reads what a product must read, where a tile of
//! 16 rows computes 16 times what it is asked for. There is no shared memory and no barrier.

use super::{Args, Gemm, Spot, Tile, weight_start};
use crate::DType;
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Value};
use crate::tiling::{DOT_COLUMNS_OF_WARP, DOT_THREADS, dot_elements};

/// Threads of a warp.
const LANES: u32 = 32;

/// All of a tile.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>) {
    let (height, width) = (spec.tiling.rows, DOT_COLUMNS_OF_WARP);
    debug_assert_eq!(spec.tiling.columns, width * DOT_THREADS / LANES);
    let lane = k.bind("lane", k.thread() % LANES as i32);
    let first = k.bind("first_column", k.thread() / LANES as i32 * width as i32);
    // Rows and columns beyond the edge repeat the last one, and are not stored.
    let rows: Vec<Value> = (0..height).map(|r| args.row_start(k, spec, tile.row + k.i32(r as i32).min(tile.rows - 1))).collect();
    let starts: Vec<Value> =
        (0..width).map(|c| weight_start(k, spec, tile, tile.column + (first + c as i32).min(tile.columns - 1))).collect();
    // One line of K a weight and column.
    let lines: Vec<(Array, Value)> = args.weights.iter().flat_map(|w| starts.iter().map(|start| (*w, *start))).collect();
    let elements = dot_elements(spec.rows, &spec.weights) as u32;
    let zero = k.f32(0.0).splat(elements);
    let partial: Vec<Var> = (0..rows.len() * lines.len()).map(|_| k.var("partial", zero)).collect();
    let slice = k.i32((LANES * elements) as i32);
    k.for_step("at", lane * elements as i32, k.i32(spec.k as i32), slice, |at| {
        let at = at.cast(DType::I64);
        let vector = |from: Array<'k>, start: Value<'k>| {
            let bytes = elements * from.elem().bytes() as u32;
            from.load_aligned(start + at, elements, bytes).cast(DType::F32)
        };
        let ws: Vec<Value> = lines.iter().map(|(w, start)| vector(*w, *start)).collect();
        for (start, partial) in rows.iter().zip(partial.chunks(lines.len())) {
            let x = vector(args.rows.array(), *start);
            for (w, sum) in ws.iter().zip(partial) {
                sum.set(x.fma(*w, sum.get()));
            }
        }
    });
    let total = |sum: &Var<'k>| {
        let own = k.bind("sum", sum.get().reduce_add());
        [16, 8, 4, 2, 1].into_iter().fold(own, |sum, mask| k.bind("sum", sum + k.shuffle(sum, mask)))
    };
    let totals: Vec<Value> = partial.iter().map(total).collect();
    // Lane i has the i-th place of the warp's rectangle.
    let (row, column) = (k.bind("row", lane / width as i32), k.bind("column", lane % width as i32));
    let of_place = |weight: usize, place: u32| {
        let (r, c) = ((place / width) as usize, (place % width) as usize);
        totals[r * lines.len() + weight * starts.len() + c]
    };
    let of_lane = |weight: usize| {
        let others = (1..height * width).map(|place| (place, of_place(weight, place)));
        let value = others.fold(of_place(weight, 0), |value, (place, sum)| lane.eq(place as i32).select(sum, value));
        k.bind("product", value)
    };
    let products: Vec<Value> = (0..args.weights.len()).map(of_lane).collect();
    let column = k.bind("column", first + column);
    k.when(row.lt(tile.rows.min(height as i32)) & column.lt(tile.columns), || {
        args.finish(k, spec, tile.expert, Spot::at(k, spec, tile.row + row, tile.column + column), &products);
    });
}
