//! A tile of products on the host by outer products: vectors along the columns, each multiplied by one number of each row.
//!
//! ```text
//!                  panel [lines, vectors x lanes]         for each line:
//!                  +--------------------+                   load the vectors of the panel,
//!                  |  w w w w  w w w w  |                   and for each row one number in all lanes,
//!   factors        +--------------------+                   and add their products to the sums
//!   row r  x ----->   sums of row r
//!   ..                ..
//!   row r+5 x ---->   sums of row r+5
//! ```
//!
//! Twelve sums, two vectors of the panel and a number fit 16 registers; a step of 12 products has 2 loads of vectors and 6 of numbers, and
//! nothing else: factors are widened before. Where the machine has dot products of pairs, a line is two elements of K, pairs stand where
//! numbers do, and nothing is widened. K is taken in parts ([`tiling::OUTER_DEPTH`]). Of each part the rows are copied once for the
//! block, and the weights of a panel are transposed once for all of the tile's rows: the panel stays in the first cache, rows and finished
//! sums in the second. The vectors of a panel are those of all weights that are multiplied side by side.
//!
//! Weights are asked for one panel ahead, while the products of this one are made: a panel has lines of many rows of memory, which the
//! machine would not read ahead by itself.
//!
//! A sum adds the products of each part in order, and the parts in order, whatever the number of rows: a row's bits do not depend on
//! its place.

use super::host::{CACHE_LINE, clear, finish, place, widened};
use super::{Args, Gemm, Side, Tile, weight_start};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Shared, Value};
use crate::machine::Unit;
use crate::tiling::{OUTER_DEPTH, OUTER_ROWS};
use crate::{DType, Machine, tiling};

/// Lines that are one turn of the innermost loop.
const UNROLLED: u32 = 4;

/// Columns whose weights are transposed together, and elements of 32 bits of each.
const SQUARE: u32 = 8;

/// What a tile is made with.
#[derive(Clone, Copy)]
struct Cx<'a, 'k> {
    k: &'k Builder,
    spec: &'a Gemm<'a>,
    args: &'a Args<'k>,
    tile: Tile<'k>,
    /// Lanes of a vector of f32.
    lanes: u32,
    /// Elements of K in a line: 2 where pairs are multiplied.
    of_line: u32,
    /// Columns of each weight in a panel.
    columns: u32,
    /// Finished sums: `[weights, rows, columns]` of the tile.
    done: Array<'k>,
    /// Rows: `[rows, lines of a part]`, numbers or pairs.
    factors: Array<'k>,
    /// Weights: `[lines of a part, weights, columns]`, numbers or pairs.
    panel: Array<'k>,
}

/// A part of K: where it starts (`I64`), and its elements (`I32`).
#[derive(Clone, Copy)]
struct Part<'k> {
    start: Value<'k>,
    depth: Value<'k>,
}

impl Cx<'_, '_> {
    /// Lines of a whole part.
    fn lines(self) -> u32 {
        OUTER_DEPTH / self.of_line
    }

    /// Whether elements of this type are transposed in pairs.
    fn in_pairs(self, elem: DType) -> bool {
        elem == DType::BF16
    }

    /// Elements of each column that are transposed together.
    fn square_depth(self, elem: DType) -> u32 {
        if self.in_pairs(elem) { 2 * SQUARE } else { SQUARE }
    }
}

/// Elements of K in a line.
fn of_line(spec: &Gemm, machine: &Machine) -> u32 {
    match tiling::host_unit(spec.rows, &spec.weights, machine).0 {
        Unit::Dot => 2,
        Unit::Vector | Unit::Matrix(_) | Unit::Group => 1,
    }
}

fn line_elem(of_line: u32) -> DType {
    if of_line == 2 { DType::I32 } else { DType::F32 }
}

/// Scratch of a tile: its finished sums, its rows and a panel of weights.
pub(super) fn sides(spec: &Gemm, machine: &Machine) -> Vec<Side> {
    let (weights, [rows, columns]) = (spec.weights.len() as u32, [spec.tiling.rows, spec.tiling.columns]);
    let width = weights * tiling::outer_columns(spec.weights.len(), machine);
    let of_line = of_line(spec, machine);
    let (elem, lines) = (line_elem(of_line), OUTER_DEPTH / of_line);
    let side = |name: &str, elem, len| Side { name: name.to_string(), elem, len, align: Shared::ALIGN };
    vec![
        side("sums", DType::F32, weights * rows * columns),
        side("factors", elem, rows * lines),
        side("panel", elem, lines * width),
    ]
}

/// All of a tile.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    let columns = tiling::outer_columns(spec.weights.len(), machine);
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    let of_line = of_line(spec, machine);
    let cx = Cx { k, spec, args, tile, lanes, of_line, columns, done: shared[0], factors: shared[1], panel: shared[2] };
    // As many blocks of rows as the highest need, of heights that differ by one at most.
    let blocks = k.bind("blocks", (tile.rows + (OUTER_ROWS - 1) as i32) / OUTER_ROWS as i32);
    let low = k.bind("low", tile.rows / blocks);
    let of_high = k.bind("of_high", tile.rows % blocks * (low + 1));
    let heights: Vec<[Value; 2]> = (1..=OUTER_ROWS as i32)
        .map(|height| {
            let (is_low, is_high) = (low.eq(height), low.eq(height - 1));
            let start = k.bind("start", is_low.select(of_high, k.i32(0)));
            [start, k.bind("end", is_low.select(tile.rows, is_high.select(of_high, k.i32(0))))]
        })
        .collect();
    clear(k, spec, cx.done, tile, columns);
    let depth = k.i64(OUTER_DEPTH.into());
    k.for_step("part", k.i64(0), k.i64(spec.k as i64), depth, |start| {
        let part = Part { start, depth: k.bind("depth", (k.i64(spec.k as i64) - start).min(depth).cast(DType::I32)) };
        copy_rows(cx, part);
        k.for_step("column", k.i32(0), tile.columns, k.i32(columns as i32), |column| {
            pack(cx, part, column);
            let next = next_panel(cx, part, column);
            for (height, [start, end]) in (1..).zip(&heights) {
                k.for_step("row", *start, *end, k.i32(height as i32), |row| block(cx, part, (row, height), column, &next));
            }
        });
    });
    finish(k, spec, args, tile, cx.done, lanes);
}

/// The rows' elements of a part, as numbers or pairs.
fn copy_rows(cx: Cx<'_, '_>, part: Part<'_>) {
    let Cx { k, spec, args, tile, lanes, of_line, factors, .. } = cx;
    let (rows, step) = (args.rows.array(), lanes * of_line);
    let whole = k.bind("whole", part.depth & -(step as i32));
    k.for_range("row", k.i32(0), tile.rows, |row| {
        let from = k.bind("from", args.row_start(k, spec, tile.row + row) + part.start);
        let to = k.bind("to", row * cx.lines() as i32);
        k.for_step("at", k.i32(0), whole, k.i32(step as i32), |at| {
            let of_row = rows.load_vector(from + at.cast(DType::I64), step);
            factors
                .store(to + at / of_line as i32, if of_line == 2 { of_row.bitcast(DType::I32) } else { of_row.cast(DType::F32) });
        });
        if !spec.k.is_multiple_of(step.into()) {
            k.for_step("at", whole, part.depth, k.i32(of_line as i32), |at| {
                factors.store(to + at / of_line as i32, line_of(cx, rows, from, at, part.depth));
            });
        }
    });
}

/// The line at element `at` of those from `start` on, of which there are `depth`: a number, or a pair whose second may be missing.
fn line_of<'k>(cx: Cx<'_, 'k>, array: Array<'k>, start: Value<'k>, at: Value<'k>, depth: Value<'k>) -> Value<'k> {
    let k = cx.k;
    let number = |at: Value<'k>| array.load(start + at.cast(DType::I64)).cast(DType::F32);
    if cx.of_line == 1 {
        return number(at);
    }
    // The bits of a bf16 are the upper half of those of its f32.
    let pair = k.var("pair", number(at).bitcast(DType::I32).shr_unsigned(16));
    k.when((at + 1).lt(depth), || pair.set(pair.get() | number(at + 1).bitcast(DType::I32)));
    pair.get()
}

/// Where a line of a weight that a panel has starts, at a part of K: of columns beyond the tile's last those of the last.
fn line_start<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>) -> Value<'k> {
    let Cx { k, spec, tile, columns, .. } = cx;
    let is_whole = spec.n.is_multiple_of(columns.into());
    let inside = if is_whole { column } else { column.min(tile.columns - 1) };
    k.bind("from", weight_start(k, spec, tile, tile.column + inside) + part.start)
}

/// Eight columns of a weight from element `at` of a part on, transposed: lines of eight columns in order, each with its number among
/// those of the square.
fn square<'k>(cx: Cx<'_, 'k>, weights: Array<'k>, starts: &[Value<'k>], at: Value<'k>) -> Vec<Value<'k>> {
    let elem = weights.elem();
    let depth = cx.square_depth(elem);
    let mut lines: Vec<Value> = starts
        .iter()
        .map(|start| {
            let line = weights.load_vector(*start + at.cast(DType::I64), depth);
            if cx.in_pairs(elem) { line.bitcast(DType::I32) } else { line.cast(DType::F32) }
        })
        .collect();
    while lines.len() > 1 {
        lines = lines.chunks(2).map(|two| two[0].concat(two[1])).collect();
    }
    let square = cx.k.bind("square", lines[0].transpose(SQUARE));
    let of = |square: Value<'k>| (0..SQUARE).map(move |line| square.lanes(line * SQUARE, SQUARE));
    if !cx.in_pairs(elem) || cx.of_line == 2 {
        return of(square).collect();
    }
    let [even, odd] = widened(square);
    of(even).zip(of(odd)).flat_map(|(even, odd)| [even, odd]).collect()
}

/// The weights of a part, of a panel's columns from `column` on.
fn pack<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>) {
    let Cx { k, spec, args, of_line, columns, panel, .. } = cx;
    let width = (spec.weights.len() as u32 * columns) as i32;
    for (i, weights) in args.weights.iter().enumerate() {
        let step = cx.square_depth(weights.elem());
        // Two squares have whole cache lines.
        let squares = if spec.k.is_multiple_of((2 * step).into()) { 2 } else { 1 };
        let whole = k.bind("whole", part.depth & -(step as i32));
        for first in (0..columns).step_by(SQUARE as usize) {
            let place = (i as u32 * columns + first) as i32;
            let starts: Vec<Value> = (0..SQUARE).map(|c| line_start(cx, part, column + (first + c) as i32)).collect();
            k.for_step("at", k.i32(0), whole, k.i32((squares * step) as i32), |at| {
                for at in (0..squares).map(|square| at + (square * step) as i32) {
                    for (line, lanes) in (0..).zip(square(cx, *weights, &starts, at)) {
                        panel.store((at / of_line as i32 + line) * width + place, lanes);
                    }
                }
            });
            if !spec.k.is_multiple_of(step.into()) {
                k.for_step("at", whole, part.depth, k.i32(of_line as i32), |at| {
                    for (c, start) in (0..).zip(&starts) {
                        panel.store(at / of_line as i32 * width + (place + c), line_of(cx, *weights, *start, at, part.depth));
                    }
                });
            }
        }
    }
}

/// Eight rows of a weight's memory that are multiplied next: the array, and where the first of them starts, in elements.
type Next<'k> = (Array<'k>, Value<'k>);

/// What comes after the panel from `column` on: that of the columns behind it, or of the next part, or of the columns behind the tile. None
/// where weights are smaller than a panel.
fn next_panel<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>) -> Vec<Next<'k>> {
    let Cx { k, spec, args, tile, columns, .. } = cx;
    let last = (spec.n.checked_sub(columns.into()), spec.k.checked_sub(OUTER_DEPTH.into()));
    let (Some(last_column), Some(last_start)) = last else { return Vec::new() };
    let next = column + columns as i32;
    let (is_inside, is_last) = (next.lt(tile.columns), part.start.ge(k.i64(last_start as i64)));
    let otherwise = is_last.select(tile.columns, k.i32(0));
    let next = (tile.column + is_inside.select(next, otherwise)).min(last_column as i32);
    let start = part.start + k.i64(OUTER_DEPTH.into());
    let start = is_inside.select(part.start, is_last.select(k.i64(0), start)).min(k.i64(last_start as i64));
    let start = |first: u32| k.bind("next", weight_start(k, spec, tile, next + first as i32) + start);
    let starts: Vec<Value> = (0..columns).step_by(SQUARE as usize).map(start).collect();
    args.weights.iter().flat_map(|weights| starts.iter().map(|start| (*weights, *start))).collect()
}

/// Asks for a part of what is multiplied next, in each turn of the innermost loop.
fn ask<'k>(cx: Cx<'_, 'k>, next: &[Next<'k>], turn: Value<'k>) {
    let (k, turns) = (cx.k, cx.lines() / UNROLLED);
    // Of each eight rows as many turns as there are turns for one.
    let of_row = k.i64((turns / SQUARE).into());
    let piece = OUTER_DEPTH * SQUARE / turns;
    let row = k.bind("row", turn / of_row * k.i64(cx.spec.k as i64));
    let of_row = k.bind("of_row", turn % of_row * k.i64(piece.into()));
    for (weights, start) in next {
        let place = k.bind("ahead", *start + row + of_row);
        let line = CACHE_LINE / weights.elem().bytes() as u32;
        (0..piece).step_by(line as usize).for_each(|further| weights.prefetch(place + k.i64(further.into())));
    }
}

/// The products of `height` rows from `row` on and the panel of the columns from `column` on. Meanwhile `next` comes nearer.
fn block<'k>(cx: Cx<'_, 'k>, part: Part<'k>, (row, height): (Value<'k>, u32), column: Value<'k>, next: &[Next<'k>]) {
    let Cx { k, spec, lanes, of_line, columns, done, factors, panel, .. } = cx;
    let width = spec.weights.len() as u32 * columns;
    let vectors = (width / lanes) as usize;
    let from = k.bind("from", row.cast(DType::I64) * k.i64(cx.lines().into()));
    let zero = k.f32(0.0).splat(lanes);
    let partial: Vec<Var> = (0..height as usize * vectors).map(|_| k.var("partial", zero)).collect();
    let step = |at: Value<'k>| {
        let line = k.bind("line", at * k.i64(width.into()));
        let vector = |v: u32| panel.load_vector(line + k.i64(v.into()), lanes);
        let ws: Vec<Value> = (0..width).step_by(lanes as usize).map(vector).collect();
        for (r, sums) in (0..height).zip(partial.chunks(vectors)) {
            let x = factors.load(from + at + k.i64((r * cx.lines()).into())).splat(lanes);
            for (w, sum) in ws.iter().zip(sums) {
                let dot = || sum.get().dot(x.bitcast(DType::BF16), w.bitcast(DType::BF16));
                sum.set(if of_line == 2 { dot() } else { x.fma(*w, sum.get()) });
            }
        }
    };
    let lines = k.bind("lines", ((part.depth + (of_line - 1) as i32) / of_line as i32).cast(DType::I64));
    let whole = k.bind("whole", lines & -(UNROLLED as i32));
    k.for_step("line", k.i64(0), whole, k.i64(UNROLLED.into()), |at| {
        ask(cx, next, at / UNROLLED as i32);
        (0..UNROLLED).for_each(|further| step(at + k.i64(further.into())));
    });
    if !spec.k.is_multiple_of((UNROLLED * of_line).into()) {
        k.for_range("line", whole, lines, step);
    }
    for (at, sum) in partial.iter().enumerate() {
        let (r, v) = ((at / vectors) as i32, (at % vectors) as u32 * lanes);
        let column = column + (v % columns) as i32;
        let place = k.bind("place", place(spec.tiling, (v / columns) as usize, row + r, column).cast(DType::I64));
        done.store(place, done.load_vector(place, lanes) + sum.get());
    }
}
