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
//! Weights that were [packed](super::pack) lie in such panels. They are multiplied as they come from memory where nothing is to be widened,
//! or only for few rows; for more rows they are widened to scratch first. A tile of one row or two has too few sums to keep the machine busy,
//! as each waits for itself: it takes two panels side by side.
//!
//! Weights are asked for one panel ahead, while the products of this one are made, evenly: a panel has lines of many rows of memory, which
//! the machine would not read ahead by itself.
//!
//! A sum adds the products of each part in order, and the parts in order, whatever the number of rows: a row's bits do not depend on
//! its place.

use super::super::halves::widened;
use super::host::{CACHE_LINE, clear, finish, place};
use super::pack::{self, square, square_columns, square_depth};
use super::{Args, Gemm, Side, Tile, weight_start};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Shared, Value};
use crate::machine::{Pack, Unit};
use crate::tiling::{OUTER_DEPTH, OUTER_ROWS, Panels, WIDE_PANELS, WIDE_ROWS, WIDENING_BLOCKS, WIDENING_ROWS};
use crate::{DType, Machine, tiling};

/// Lines that are one turn of the innermost loop.
const UNROLLED: u32 = 4;

/// Bits behind the point of the part of a panel that a row of the tile stands for.
const PART_BITS: i32 = 24;

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
    weights: Weights<'k>,
}

/// How weights lie in memory, and a panel of them in scratch: `[lines of a part, weights, columns]`, numbers or pairs.
#[derive(Clone, Copy)]
enum Weights<'k> {
    /// As rows, which are transposed to the panel.
    Rows(Array<'k>),
    /// Packed, to be multiplied as they lie.
    Packed(Panels),
    /// Packed, to be widened, to the panel or by each block.
    Narrow(Panels, Array<'k>),
}

impl Weights<'_> {
    fn packed(self) -> Option<Panels> {
        match self {
            Weights::Rows(_) => None,
            Weights::Packed(packed) | Weights::Narrow(packed, _) => Some(packed),
        }
    }
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

/// How the weights lie, where they are packed: they are of one type.
fn packed(spec: &Gemm, machine: &Machine) -> Option<Panels> {
    match spec.tiling.kind.pack() {
        Pack::None => None,
        Pack::Panels | Pack::F32 => spec.weights.first().map(|weight| tiling::panels(*weight, [spec.n, spec.k], machine)),
    }
}

/// Scratch of a tile: its finished sums, its rows and, where it has one, a panel of weights.
pub(super) fn sides(spec: &Gemm, machine: &Machine) -> Vec<Side> {
    let (weights, [rows, columns]) = (spec.weights.len() as u32, [spec.tiling.rows, spec.tiling.columns]);
    let width = weights * tiling::outer_columns(spec.weights.len(), machine);
    let of_line = of_line(spec, machine);
    let (elem, lines) = (line_elem(of_line), OUTER_DEPTH / of_line);
    let side = |name: &str, elem, len| Side { name: name.to_string(), elem, len, align: Shared::ALIGN };
    let has_panel = packed(spec, machine).is_none_or(|packed| packed.of_line > of_line);
    let panel = has_panel.then(|| side("panel", elem, lines * width));
    let sides = [side("sums", DType::F32, weights * rows * columns), side("factors", elem, rows * lines)];
    sides.into_iter().chain(panel).collect()
}

/// All of a tile.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    let columns = tiling::outer_columns(spec.weights.len(), machine);
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    let of_line = of_line(spec, machine);
    let weights = match packed(spec, machine) {
        None => Weights::Rows(shared[2]),
        Some(packed) if packed.of_line > of_line => Weights::Narrow(packed, shared[2]),
        Some(packed) => Weights::Packed(packed),
    };
    let cx = Cx { k, spec, args, tile, lanes, of_line, columns, done: shared[0], factors: shared[1], weights };
    let heights = split(k, tile, heights_of(&weights));
    let of_row = k.bind("of_row", (k.i64((1 << PART_BITS) - 1) + tile.rows.cast(DType::I64)) / tile.rows.cast(DType::I64));
    clear(k, spec, cx.done, tile, columns);
    let depth = k.i64(OUTER_DEPTH.into());
    k.for_step("part", k.i64(0), k.i64(spec.k as i64), depth, |start| {
        let part = Part { start, depth: k.bind("depth", (k.i64(spec.k as i64) - start).min(depth).cast(DType::I32)) };
        copy_rows(cx, part);
        let first = weights.packed().map_or(k.i32(0), |packed| wide(cx, part, packed, of_row));
        k.for_step("column", first, tile.columns, k.i32(columns as i32), |column| {
            let rows = |heights: &Heights<'k>, panel: &Panel<'k>| {
                let next = Next { of_row, lines: next_panel(cx, part, column, columns) };
                for (height, [start, end]) in heights {
                    k.for_step("row", *start, *end, k.i32(*height as i32), |row| {
                        block(cx, part, (row, *height), column, panel, &next)
                    });
                }
            };
            match cx.weights {
                Weights::Rows(panel) => {
                    transpose(cx, part, column, panel);
                    rows(&heights, &Panel::Scratch(panel));
                }
                Weights::Packed(packed) => rows(&heights, &in_memory(cx, part, column, packed)),
                Weights::Narrow(packed, panel) => {
                    let is_low = tile.rows.le((WIDENING_BLOCKS * WIDENING_ROWS) as i32);
                    let as_it_lies = || rows(&split(k, tile, (1, WIDENING_ROWS)), &in_memory(cx, part, column, packed));
                    k.branch(is_low, as_it_lies, || {
                        widen(cx, part, column, packed, panel);
                        rows(&heights, &Panel::Scratch(panel));
                    });
                }
            }
        });
    });
    finish(k, spec, args, tile, cx.done, lanes);
}

/// The lowest and the highest block of rows that a tile is split into, whose weights are widened to scratch only where it has many.
fn heights_of(weights: &Weights) -> (u32, u32) {
    let fewest = match weights {
        Weights::Rows(_) | Weights::Packed(_) => 1,
        Weights::Narrow(..) => WIDENING_BLOCKS * WIDENING_ROWS + 1,
    };
    let lowest = (fewest..fewest + OUTER_ROWS).map(|rows| rows / rows.div_ceil(OUTER_ROWS)).min();
    (lowest.unwrap_or(1), OUTER_ROWS)
}

/// The products of a part of a tile of few rows, by several panels at a time; where in the tile the columns start that are left. These are
/// all where it has more rows.
fn wide<'k>(cx: Cx<'_, 'k>, part: Part<'k>, packed: Panels, of_row: Value<'k>) -> Value<'k> {
    let Cx { k, tile, .. } = cx;
    let columns = WIDE_PANELS * cx.columns;
    let cx = Cx { columns, ..cx };
    let whole = tile.columns & -(columns as i32);
    for height in 1..=WIDE_ROWS {
        k.when(tile.rows.eq(height as i32), || {
            k.for_step("column", k.i32(0), whole, k.i32(columns as i32), |column| {
                // What is behind the next panels is asked for: memory takes longer to answer than so few products take.
                let next = Next { of_row, lines: next_panel(cx, part, column, 2 * columns) };
                block(cx, part, (k.i32(0), height), column, &in_memory(cx, part, column, packed), &next);
            });
        });
    }
    k.bind("first", tile.rows.le(WIDE_ROWS as i32).select(whole, k.i32(0)))
}

/// Blocks of rows of a tile: how many rows one has, where the first of its rows is, and where the last one ends.
type Heights<'k> = Vec<(u32, [Value<'k>; 2])>;

/// As many blocks of rows as there are of the highest, of heights that differ by one at most. None is lower than the lowest.
fn split<'k>(k: &'k Builder, tile: Tile<'k>, (lowest, highest): (u32, u32)) -> Heights<'k> {
    let count = k.bind("blocks", (tile.rows + (highest - 1) as i32) / highest as i32);
    let low = k.bind("low", tile.rows / count);
    let of_high = k.bind("of_high", tile.rows % count * (low + 1));
    let of_height = |height: u32| {
        let (is_low, is_high) = (low.eq(height as i32), low.eq(height as i32 - 1));
        let start = k.bind("start", is_low.select(of_high, k.i32(0)));
        (height, [start, k.bind("end", is_low.select(tile.rows, is_high.select(of_high, k.i32(0))))])
    };
    (lowest..=highest).map(of_height).collect()
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
        // The other half of the last line of packed weights is 0.
        let of_memory = cx.weights.packed().map_or(of_line, |packed| packed.of_line);
        if of_memory > of_line && !spec.k.is_multiple_of(of_memory.into()) {
            k.when((part.depth % of_memory as i32).ne(0), || factors.store(to + part.depth, k.f32(0.0)));
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

/// Puts the weights of a part, of a panel's columns from `column` on, to scratch.
fn transpose<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>, panel: Array<'k>) {
    let Cx { k, spec, args, lanes, of_line, columns, .. } = cx;
    let width = (spec.weights.len() as u32 * columns) as i32;
    let together = square_columns(lanes);
    for (i, weights) in args.weights.iter().enumerate() {
        let step = square_depth(weights.elem());
        // Two squares have whole cache lines.
        let squares = if spec.k.is_multiple_of((2 * step).into()) { 2 } else { 1 };
        let whole = k.bind("whole", part.depth & -(step as i32));
        for first in (0..columns).step_by(together as usize) {
            let place = (i as u32 * columns + first) as i32;
            let starts: Vec<Value> = (0..together).map(|c| line_start(cx, part, column + (first + c) as i32)).collect();
            k.for_step("at", k.i32(0), whole, k.i32((squares * step) as i32), |at| {
                for at in (0..squares).map(|square| at + (square * step) as i32) {
                    for (line, lanes) in (0..).zip(square(k, *weights, &starts, at.cast(DType::I64), of_line == 2)) {
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

/// Where a block has its weights from.
enum Panel<'k> {
    /// A panel in scratch, as wide as all weights together.
    Scratch(Array<'k>),
    /// Packed panels, each of one vector of columns: the array, and where it starts, in elements.
    Packed(Panels, Vec<(Array<'k>, Value<'k>)>),
}

impl Panel<'_> {
    /// Lines of factors that a line of these is multiplied with.
    fn factors(&self, of_line: u32) -> u32 {
        match self {
            Panel::Scratch(_) => 1,
            Panel::Packed(packed, _) => packed.of_line / of_line,
        }
    }
}

/// The packed panels of a part, of the columns from `column` of the tile on.
fn in_memory<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>, packed: Panels) -> Panel<'k> {
    let Cx { k, args, tile, columns, .. } = cx;
    let vectors = (0..columns).step_by(packed.columns as usize);
    let start = |first: u32| pack::start(k, packed, tile.expert, part.start, tile.column + column + first as i32);
    let starts: Vec<Value> = vectors.map(start).collect();
    let of_weight = |weights: &Array<'k>| starts.iter().map(|start| (*weights, *start)).collect::<Vec<_>>();
    Panel::Packed(packed, args.weights.iter().flat_map(of_weight).collect())
}

/// Puts packed weights of a part, of the columns from `column` of the tile on, to scratch, as numbers.
fn widen<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>, packed: Panels, panel: Array<'k>) {
    let Cx { k, spec, lanes, of_line, columns, .. } = cx;
    let width = (spec.weights.len() as u32 * columns) as i32;
    let memory = in_memory(cx, part, column, packed);
    let step = memory.factors(of_line) as i32;
    let lines = k.bind("lines", (part.depth + (step - 1)) / step);
    k.for_range("line", k.i32(0), lines, |line| {
        for (further, vectors) in (0..).zip(vectors_of(cx, &memory, line.cast(DType::I64))) {
            let to = k.bind("to", (line * step + further) * width);
            (0..).zip(vectors).for_each(|(v, vector)| panel.store(to + v * lanes as i32, vector));
        }
    });
}

/// The vectors of line `at` (`I64`) of a panel, for each line of factors that they are multiplied with.
fn vectors_of<'k>(cx: Cx<'_, 'k>, panel: &Panel<'k>, at: Value<'k>) -> Vec<Vec<Value<'k>>> {
    let Cx { k, spec, lanes, of_line, columns, .. } = cx;
    match panel {
        Panel::Scratch(panel) => {
            let width = spec.weights.len() as u32 * columns;
            let line = k.bind("line", at * k.i64(width.into()));
            let vector = |v: u32| panel.load_vector(line + k.i64(v.into()), lanes);
            vec![(0..width).step_by(lanes as usize).map(vector).collect()]
        }
        Panel::Packed(packed, starts) => {
            let elements = packed.columns * packed.of_line;
            let place = k.bind("line", at * k.i64(elements.into()));
            let vectors: Vec<Value> =
                starts.iter().map(|(weights, start)| weights.load_vector(*start + place, elements)).collect();
            match (packed.of_line, of_line) {
                (2, 2) => vec![vectors.iter().map(|pairs| pairs.bitcast(DType::I32)).collect()],
                (2, _) => {
                    let halves: Vec<[Value; 2]> = vectors.iter().map(|pairs| widened(pairs.bitcast(DType::I32))).collect();
                    (0..2).map(|half| halves.iter().map(|of| of[half]).collect()).collect()
                }
                (_, _) => vec![vectors.iter().map(|numbers| numbers.cast(DType::F32)).collect()],
            }
        }
    }
}

/// What is multiplied next, to be asked for by all rows of the tile together.
struct Next<'k> {
    /// The part of it that a row asks for (`I64`), in units of `2^-PART_BITS`.
    of_row: Value<'k>,
    /// Arrays, and where in them, in elements. Of weights that are not packed the rows of memory of a square each, else panels.
    lines: Vec<(Array<'k>, Value<'k>)>,
}

/// What is multiplied `ahead` columns after the panel from `column` on: of this part, or of the next part, or of the columns behind the tile.
/// None where weights are smaller than a panel.
fn next_panel<'k>(cx: Cx<'_, 'k>, part: Part<'k>, column: Value<'k>, ahead: u32) -> Vec<(Array<'k>, Value<'k>)> {
    let Cx { k, spec, args, tile, lanes, columns, .. } = cx;
    let last = (spec.n.checked_sub(columns.into()), spec.k.checked_sub(OUTER_DEPTH.into()));
    let (Some(last_column), Some(last_start)) = last else { return Vec::new() };
    let next = column + ahead as i32;
    let (is_inside, is_last) = (next.lt(tile.columns), part.start.ge(k.i64(last_start as i64)));
    let is_here = is_inside | is_last;
    let next = (tile.column + is_here.select(next, next - tile.columns)).min(last_column as i32);
    let start = part.start + k.i64(OUTER_DEPTH.into());
    let start = is_inside.select(part.start, is_last.select(k.i64(0), start));
    let starts: Vec<Value> = match cx.weights.packed() {
        None => {
            let start = start.min(k.i64(last_start as i64));
            let start = |first: u32| k.bind("next", weight_start(k, spec, tile, next + first as i32) + start);
            (0..columns).step_by(square_columns(lanes) as usize).map(start).collect()
        }
        Some(packed) => {
            // A part that is not whole is followed by less than it is asked for.
            let start = start.min(k.i64((last_start / u64::from(OUTER_DEPTH) * u64::from(OUTER_DEPTH)) as i64));
            let start = |first: u32| pack::start(k, packed, tile.expert, start, next + first as i32);
            (0..columns).step_by(packed.columns as usize).map(start).collect()
        }
    };
    args.weights.iter().flat_map(|weights| starts.iter().map(|start| (*weights, *start))).collect()
}

/// Which lines of what is multiplied next a block of rows asks for, in parts of a line of `2^-PART_BITS` (`I64`).
struct Share<'k> {
    start: Value<'k>,
    /// From one line that it asks for to the next.
    step: Value<'k>,
}

/// Lines of memory of what is multiplied next, of each array.
fn next_lines(cx: Cx<'_, '_>, elem: DType) -> u32 {
    let columns = cx.weights.packed().map_or(square_columns(cx.lanes), |packed| packed.columns);
    OUTER_DEPTH * columns * elem.bytes() as u32 / CACHE_LINE
}

/// Asks for a part of what is multiplied next, in turn `turn` (`I64`) of so many of the innermost loop.
fn ask<'k>(cx: Cx<'_, 'k>, next: &Next<'k>, share: &Share<'k>, turn: Value<'k>, turns: u32) {
    let k = cx.k;
    for (weights, start) in &next.lines {
        let line = CACHE_LINE / weights.elem().bytes() as u32;
        let lines = next_lines(cx, weights.elem());
        // Both are powers of two: where there are fewer lines than turns, several turns ask for one line.
        let (of_turn, of_line) = (lines.div_ceil(turns), turns.div_ceil(lines));
        let turn = if of_line > 1 { turn / of_line as i32 } else { turn };
        for i in 0..of_turn {
            let number = turn * k.i64(of_turn.into()) + k.i64(i.into());
            let number = k.bind("line", (share.start + number * share.step).shr_unsigned(PART_BITS));
            let further = match cx.weights.packed() {
                None => {
                    let of_row = k.i64((OUTER_DEPTH / line).into());
                    number / of_row * k.i64(cx.spec.k as i64) + number % of_row * k.i64(line.into())
                }
                Some(_) => number * k.i64(line.into()),
            };
            weights.prefetch(k.bind("ahead", *start + further));
        }
    }
}

/// The products of `height` rows from `row` on and the panel of the columns from `column` on. Meanwhile `next` comes nearer.
fn block<'k>(
    cx: Cx<'_, 'k>,
    part: Part<'k>,
    (row, height): (Value<'k>, u32),
    column: Value<'k>,
    panel: &Panel<'k>,
    next: &Next<'k>,
) {
    let Cx { k, spec, lanes, of_line, columns, done, factors, .. } = cx;
    let vectors = (spec.weights.len() as u32 * columns / lanes) as usize;
    let from = k.bind("from", row.cast(DType::I64) * k.i64(cx.lines().into()));
    let zero = k.f32(0.0).splat(lanes);
    let partial: Vec<Var> = (0..height as usize * vectors).map(|_| k.var("partial", zero)).collect();
    let of_factors = panel.factors(of_line);
    let step = |at: Value<'k>| {
        for (further, ws) in (0..).zip(vectors_of(cx, panel, at)) {
            let line = at * k.i64(of_factors.into()) + k.i64(further);
            for (r, sums) in (0..height).zip(partial.chunks(vectors)) {
                let x = factors.load(from + line + k.i64((r * cx.lines()).into())).splat(lanes);
                for (w, sum) in ws.iter().zip(sums) {
                    let dot = || sum.get().dot(x.bitcast(DType::BF16), w.bitcast(DType::BF16));
                    sum.set(if of_line == 2 { dot() } else { x.fma(*w, sum.get()) });
                }
            }
        }
    };
    let of_step = of_line * of_factors;
    let lines = next_lines(cx, spec.weights[0]);
    let share = Share {
        start: k.bind("share", row.cast(DType::I64) * k.i64(lines.into()) * next.of_row),
        step: k.bind("share_step", k.i64(height.into()) * next.of_row),
    };
    let lines = k.bind("lines", ((part.depth + (of_step - 1) as i32) / of_step as i32).cast(DType::I64));
    let whole = k.bind("whole", lines & -(UNROLLED as i32));
    k.for_step("line", k.i64(0), whole, k.i64(UNROLLED.into()), |at| {
        ask(cx, next, &share, at / UNROLLED as i32, OUTER_DEPTH / (UNROLLED * of_step));
        (0..UNROLLED).for_each(|further| step(at + k.i64(further.into())));
    });
    if !spec.k.is_multiple_of((UNROLLED * of_step).into()) {
        k.for_range("line", whole, lines, step);
    }
    for (at, sum) in partial.iter().enumerate() {
        let (r, v) = ((at / vectors) as i32, (at % vectors) as u32 * lanes);
        let column = column + (v % columns) as i32;
        let place = k.bind("place", place(spec.tiling, (v / columns) as usize, row + r, column).cast(DType::I64));
        done.store(place, done.load_vector(place, lanes) + sum.get());
    }
}
