//! A tile of products of few rows on a GPU: weights go from memory straight into the factors of small matrix products.
//!
//! ```text
//!   8 columns of a weight            k of a step: 32 of each of four warps
//!   +--------+                 +------+------+------+------+
//!   |  left  | 16 lines of k   |warp 0|warp 1|warp 2|warp 3|   sums[line, row] += weights[line, k] * rows[row, k]
//!   | factor |                 +------+------+------+------+
//!   +--------+                  lane 4 g + t has line g, elements 8 t .. 8 t + 8: 16 bytes
//!   8 columns more, or the
//!   same of the next weight      at the end:  shared memory, a barrier, the warps' sums added in the order of the warps, the body
//! ```
//!
//! Which k is where in both factors is in [`straight`](super::super::straight). Nothing goes through shared memory on the way, and no warp waits for another before the end. Some
//! steps are loaded together, and while they are under way other warps multiply.
//!
//! **FLOPs and bytes.** What a product of few rows must read is the weights of the experts hit, once: 2 w K N bytes an expert of 16-bit
//! weights, read here 16 bytes a lane, 64 of a line, and the other half of its 128 by the next warp. Rows are read by every block of
//! columns from the second cache: `rows / 16` of the weights' bytes for one left factor a warp, half of it for two. The floor is the
//! weights' bytes at the bandwidth of memory. That takes some 30 KiB under way a processor on an H200 (4.3 TB/s, 0.8 us); two blocks
//! have [57 or more](crate::tiling::stream_steps). The products are far below the rate of the instruction: 16 x 8 x 16 for each 512 bytes.
//!
//! Blocks are persistent, as those of [`Kind::Group`](crate::tiling::Kind), so that none is launched for rows that are not there. Each
//! sum has its terms in the same order in tiles of every size.

use super::super::straight::{EIGHT, PART, add_products, load_part};
use super::ahead::End;
use super::{Args, Gemm, Spot, Tile, each_part, weight_start};
use crate::kernel::build::{Array, Sums};
use crate::kernel::{Builder, Hint, Value, fragment};
use crate::tiling::{STREAM_BLOCKS, STREAM_DEPTH, STREAM_THREADS, stream_factors, stream_steps};
use crate::{DType, Extent, Machine};

const WARPS: u32 = STREAM_THREADS / 32;
/// Elements along k of a warp in a step.
const DEPTH: u32 = STREAM_DEPTH / WARPS;
/// Banks of shared memory, of an f32 each.
const BANKS: u32 = 32;
/// Columns that a thread puts through the body together, at most.
const MOST_LANES: u32 = 4;

/// The blocks of such products: as many as processors have at a time, each for tiles as far apart as there are blocks.
pub(super) fn grid(tiles: Extent, machine: &Machine) -> Extent {
    tiles.min(Extent::from(u64::from(machine.processors * STREAM_BLOCKS)))
}

/// The body of a kernel of these products.
pub(super) fn blocks<'k>(k: &'k Builder, parts: &[(&Gemm, &Args<'k>)], of_parts: &[Value<'k>], end: &End<'_, 'k>) {
    let most = |of: &dyn Fn(&Gemm) -> u32| parts.iter().map(|(spec, _)| of(spec)).max().unwrap_or(0);
    let sums = k.sums("sums", most(&|spec| fragment::SUMS * products(spec)));
    let of_warps = k.shared_aligned("of_warps", DType::F32, most(&|spec| WARPS * of_warp(spec)), 16);
    let (tiles, count) = (k.scalar("tile_bound", DType::I32), k.scalar("block_count", DType::I32));
    k.for_step("tile", k.block(), tiles, count, |tile| {
        each_part(k, parts, of_parts, tile, &|spec, args, tile| {
            multiply(k, spec, args, tile, sums);
            // What the tile before had there has been added.
            k.barrier();
            put(k, spec, sums, of_warps);
            k.barrier();
            finish(k, spec, args, tile, of_warps);
        });
    });
    end.ask(k);
}

/// Left factors of a warp.
fn factors(spec: &Gemm) -> u32 {
    stream_factors(spec.tiling, spec.weights.len()).unwrap_or(1)
}

/// Products of a warp for each 16 along k.
fn products(spec: &Gemm) -> u32 {
    factors(spec) * spec.tiling.rows / EIGHT
}

/// From one row to the next of the sums in shared memory. The lanes of a store are then in different banks: 8 columns of rows 2 t,
/// which are 8 banks apart. Loads are of [rows that are](row_of).
fn pitch(spec: &Gemm) -> u32 {
    spec.tiling.columns + 4
}

/// The row that is the `turn`th to be loaded: of those that the 32 banks have at once, eight divided by their number apart, so that they are
/// in different ones.
fn row_of<'k>(k: &'k Builder, spec: &Gemm, turn: Value<'k>) -> Value<'k> {
    let at_once = (BANKS / spec.tiling.columns).clamp(1, EIGHT) as i32;
    let (eight, turn) = (turn & !(EIGHT as i32 - 1), turn & (EIGHT as i32 - 1));
    k.bind("row", eight + turn % at_once * (EIGHT as i32 / at_once) + turn / at_once)
}

/// Sums of a warp in shared memory: `[weight, row, column]`.
fn of_warp(spec: &Gemm) -> u32 {
    spec.weights.len() as u32 * spec.tiling.rows * pitch(spec)
}

/// The weight, and the first of its columns in the tile, of eight lines of the left factors.
fn eight_lines(spec: &Gemm, number: u32) -> (u32, u32) {
    let of_weight = spec.tiling.columns / EIGHT;
    (number / of_weight, number % of_weight * EIGHT)
}

/// Sums the warp's products of the tile.
fn multiply<'k>(k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>, sums: Sums<'k>) {
    sums.clear(k, fragment::SUMS * products(spec));
    let (warp, lane) = (k.bind("warp", k.thread() / 32), k.bind("lane", k.thread() % 32));
    let line = k.bind("line", lane / 4);
    let along = k.bind("along", warp * DEPTH as i32 + lane % 4 * PART as i32);
    let along_line = k.bind("along_line", along.cast(DType::I64));
    let from = |start: Value<'k>| k.bind("start", start + along_line);
    // Rows and columns beyond the edge repeat the last one, and are not stored.
    let weights: Vec<(Array, Value)> = (0..2 * factors(spec))
        .map(|eight| {
            let (weight, column) = eight_lines(spec, eight);
            let column = tile.column + (line + column as i32).min(tile.columns - 1);
            (args.weights[weight as usize], from(weight_start(k, spec, tile, column)))
        })
        .collect();
    let rows: Vec<Value> = (0..spec.tiling.rows / EIGHT)
        .map(|eight| from(args.row_start(k, spec, tile.row + (line + (eight * EIGHT) as i32).min(tile.rows - 1))))
        .collect();
    // Of some steps from `at` on, all that they read and then all of their products. Some lanes are beyond K in the last one.
    let of_steps = |at: Value<'k>, steps: &[Option<Value<'k>>]| {
        // What lanes beyond K load is not used. Of weights, which no cache keeps, it is the beginning of the tile: one sector for all
        // lanes. Of rows it is the beginning of the line, which the first cache has.
        let tile_start = steps.iter().any(Option::is_some).then(|| weight_start(k, spec, tile, tile.column));
        let load = |from: Array<'k>, start: Value<'k>, beyond: Option<Value<'k>>, step: usize, hint: Hint| {
            let place = start + at + k.i64(i64::from(STREAM_DEPTH) * step as i64);
            let edge = steps[step].map(|inside| (inside, beyond.unwrap_or(start - along_line)));
            load_part(k, from, place, edge, hint)
        };
        let left: Vec<Vec<Value>> = (0..steps.len())
            .map(|step| weights.iter().map(|(from, start)| load(*from, *start, tile_start, step, Hint::Stream)).collect())
            .collect();
        for (step, left) in left.iter().enumerate() {
            let right: Vec<Value> = rows.iter().map(|start| load(args.rows.array(), *start, None, step, Hint::None)).collect();
            add_products(sums, left, &right);
        }
    };
    let depth = i64::from(STREAM_DEPTH);
    let (length, together) = (spec.k as i64, stream_steps(spec.tiling, spec.weights.len(), spec.k));
    let of_turn = depth * i64::from(together);
    let whole = length / of_turn * of_turn;
    k.for_step("at", k.i64(0), k.i64(whole), k.i64(of_turn), |at| of_steps(at, &vec![None; together as usize]));
    let left_over: Vec<Option<Value>> = (whole..length)
        .step_by(depth as usize)
        .map(|at| (at + depth > length).then(|| k.bind("inside", along.lt((length - at) as i32))))
        .collect();
    if !left_over.is_empty() {
        of_steps(k.i64(whole), &left_over);
    }
}

/// Puts the warp's sums where all threads can read them.
fn put<'k>(k: &'k Builder, spec: &Gemm, sums: Sums<'k>, of_warps: Array<'k>) {
    let (warp, lane) = (k.bind("warp", k.thread() / 32), k.bind("lane", k.thread() % 32));
    let pitch = pitch(spec);
    let first = k.bind("first", warp * of_warp(spec) as i32 + lane % 4 * (2 * pitch) as i32 + lane / 4);
    let row_eights = spec.tiling.rows / EIGHT;
    for (factor, row_eight) in (0..factors(spec)).flat_map(|factor| (0..row_eights).map(move |eight| (factor, eight))) {
        for sum in 0..fragment::SUMS {
            let (weight, column) = eight_lines(spec, 2 * factor + sum / 2);
            let row = weight * spec.tiling.rows + row_eight * EIGHT + sum % 2;
            of_warps.store(first + (row * pitch + column) as i32, sums.get(factor * row_eights + row_eight, sum, 1));
        }
    }
}

/// Adds the warps' sums, in the order of the warps, puts them through the body, and stores what comes of them.
fn finish<'k>(k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>, of_warps: Array<'k>) {
    let lanes = [MOST_LANES, 2, 1]
        .into_iter()
        .find(|lanes| spec.n.is_multiple_of(u64::from(*lanes)) && Args::even_lanes(spec, *lanes) == *lanes);
    let lanes = lanes.unwrap_or(1);
    let (pitch, across) = (pitch(spec), spec.tiling.columns / lanes);
    let items = spec.tiling.rows * across;
    for first in (0..items).step_by(STREAM_THREADS as usize) {
        let item = k.bind("item", k.thread() + first as i32);
        let turn = k.bind("turn", item / across as i32);
        let (row, column) = (row_of(k, spec, turn), k.bind("column", item % across as i32 * lanes as i32));
        let is_there = row.lt(tile.rows) & column.lt(tile.columns);
        k.when(is_there, || {
            let from = k.bind("from", row * pitch as i32 + column);
            let product = |weight: u32| {
                let of = |warp: u32| {
                    let at = from + (warp * of_warp(spec) + weight * spec.tiling.rows * pitch) as i32;
                    of_warps.load_aligned(at, lanes, lanes * DType::F32.bytes() as u32)
                };
                (1..WARPS).fold(of(0), |sum, warp| k.bind("sum", sum + of(warp)))
            };
            let products: Vec<Value> = (0..spec.weights.len() as u32).map(product).collect();
            args.finish(k, spec, tile.expert, Spot::at(k, spec, tile.row + row, tile.column + column), &products);
        });
    }
}
