//! A tile of products on the host: vectors along K, a rectangle of sums in registers.
//!
//! ```text
//!                weights: columns c0 .. c3    for each step of `lanes` along k:
//!                         |  |  |  |            load one vector a column, one a row,
//!   rows  r0 ---->        x  x  x  x            and add their products to the sums,
//!         ..                                    each of which is a vector of partial sums;
//!         r3 ---->        x  x  x  x            at the end a sum of its lanes.
//! ```
//!
//! A step loads `height + width` vectors for `height x width` products of vectors: 8 for 16 at 4 x 4, so that the two
//! load ports of a core are busy half of the time. K is taken in panels ([`tiling::host_panel`] elements of a row): those of the rows
//! stay in the first cache, that of the column block of the weights in the second, so that all rows of
//! the tile read it from memory once. Each sum adds the same terms in the same order whatever the height of its
//! rectangle, so that a row's bits do not depend on its place.
//!
//! The finished sums of the whole tile go to scratch; from there the body runs along the columns, vectors again.

use super::{Args, Gemm, Side, Spot, Tile, weight_start};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Shared, Value};
use crate::machine::Unit;
use crate::{DType, Machine, Tiling, tiling};

/// Rows of a rectangle of sums. Four streams of weights at two columns and two weights: taller rectangles reuse weights
/// more, but with fewer streams memory is not kept busy (measured: 8 rows, a fifth slower at 8 rows an expert).
const TALLEST: u32 = 4;
/// Elements along K that are taken at a time.
fn panel_elements(spec: &Gemm) -> u64 {
    tiling::host_panel(spec.rows)
}

/// How the sums of this kernel are made.
#[derive(Clone, Copy)]
struct Sums<'k> {
    /// Elements along K in one step.
    step: u32,
    /// Lanes of a sum: half of `step` where pairs are added, else `step`.
    lanes: u32,
    /// Sums that fit the registers beside what they are made of.
    most: u32,
    /// Finished sums: `[weights, rows, columns]` of the tile.
    done: Array<'k>,
    /// Extents of `done`.
    size: Tiling,
}

impl<'k> Sums<'k> {
    fn plan(spec: &Gemm, machine: &Machine, done: Array<'k>) -> Sums<'k> {
        let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
        let (unit, _) = tiling::host_unit(spec.rows, &spec.weights, machine);
        let pairs = unit == Unit::Dot;
        Sums {
            step: if pairs { 2 * lanes } else { lanes },
            lanes,
            // 32 registers where vectors have 64 bytes, else 16.
            most: if machine.vector_bytes == 64 { 16 } else { 8 },
            done,
            size: spec.tiling,
        }
    }

    /// Rows of the tallest rectangle.
    fn tallest(self, spec: &Gemm) -> u32 {
        power_of_two_up_to(self.most / spec.weights.len() as u32).min(TALLEST)
    }

    /// Columns of a rectangle of this height.
    fn width(self, spec: &Gemm, height: u32) -> u32 {
        power_of_two_up_to(self.most / (height * spec.weights.len() as u32)).min(4)
    }

    /// The products of one step, added to `sum`.
    fn accumulate(self, sum: Value<'k>, x: Value<'k>, w: Value<'k>) -> Value<'k> {
        if self.step > self.lanes { sum.dot(x, w) } else { x.cast(DType::F32).fma(w.cast(DType::F32), sum) }
    }

    /// Where the sum of `weights`, at `row` and `column` of the tile, is kept.
    fn place(self, weights: usize, row: Value<'k>, column: Value<'k>) -> Value<'k> {
        (row + (weights as u32 * self.size.rows) as i32) * self.size.columns as i32 + column
    }
}

/// The greatest power of two that is not above `n`, at least 1.
fn power_of_two_up_to(n: u32) -> u32 {
    1 << n.max(1).ilog2()
}

/// The tile that is being made.
#[derive(Clone, Copy)]
struct Cx<'a, 'k> {
    k: &'k Builder,
    spec: &'a Gemm<'a>,
    args: &'a Args<'k>,
    tile: Tile<'k>,
    sums: Sums<'k>,
}

/// A part of K (`I64`): whole steps from `start` to `whole`, single elements from there to `end`.
#[derive(Clone, Copy)]
struct Panel<'k> {
    start: Value<'k>,
    whole: Value<'k>,
    end: Value<'k>,
}

/// Scratch of a tile: its finished sums.
pub(super) fn sides(spec: &Gemm) -> Vec<Side> {
    let len = spec.weights.len() as u32 * spec.tiling.rows * spec.tiling.columns;
    vec![Side { name: "sums".to_string(), elem: DType::F32, len, align: Shared::ALIGN }]
}

/// All of a tile: for each panel, rectangles of each height below the tallest that there are rows left for, then of the
/// tallest. The low ones first: they bring the weights from memory at its full speed.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    let sums = Sums::plan(spec, machine, shared[0]);
    let cx = Cx { k, spec, args, tile, sums };
    let tallest = sums.tallest(spec);
    panels(cx, |panel| {
        for height in (0..tallest.ilog2()).map(|power| 1i32 << power) {
            k.when((tile.rows & height).ne(0), || {
                let row = k.bind("row", tile.rows & (-2 * height));
                rectangles(cx, panel, row, height as u32);
            });
        }
        let whole = tile.rows & -(tallest as i32);
        k.for_step("row", k.i32(0), whole, k.i32(tallest as i32), |row| rectangles(cx, panel, row, tallest));
    });
    k.for_range("row", k.i32(0), tile.rows, |row| {
        along(cx, Args::even_lanes(spec, sums.lanes), |column, lanes| {
            let product = |i| sums.done.load_vector(sums.place(i, row, column), lanes);
            let products: Vec<Value> = (0..spec.weights.len()).map(product).collect();
            args.finish(k, spec, tile.expert, Spot::at(k, spec, tile.row + row, tile.column + column), &products);
        });
    });
}

/// Whether the sums are made in more than one panel, each added to the sums so far.
fn is_cut(spec: &Gemm) -> bool {
    spec.k > panel_elements(spec)
}

/// `body` for each panel of K.
fn panels<'k>(cx: Cx<'_, 'k>, body: impl FnOnce(Panel<'k>)) {
    let Cx { k, spec, tile, sums, .. } = cx;
    let (whole, end) = (k.i64((spec.k - spec.k % u64::from(sums.step)) as i64), k.i64(spec.k as i64));
    if !is_cut(spec) {
        return body(Panel { start: k.i64(0), whole, end });
    }
    k.for_range("row", k.i32(0), tile.rows, |row| {
        along(cx, sums.lanes, |column, lanes| {
            for i in 0..spec.weights.len() {
                sums.done.store(sums.place(i, row, column), k.f32(0.0).splat(lanes));
            }
        });
    });
    let elements = k.i64(panel_elements(spec) as i64);
    k.for_step("panel", k.i64(0), end, elements, |start| {
        let next = start + elements;
        body(Panel { start, whole: k.bind("whole", next.min(whole)), end: k.bind("end", next.min(end)) });
    });
}

/// `body(column, lanes)` along the tile's columns, in steps of `lanes` and then one by one. The tile's columns are a
/// multiple of `lanes`, unless they end where N does.
fn along<'k>(cx: Cx<'_, 'k>, lanes: u32, body: impl Fn(Value<'k>, u32)) {
    let (k, end, step) = (cx.k, cx.tile.columns, lanes as i32);
    let divides = cx.spec.n.is_multiple_of(u64::from(lanes));
    let whole = if divides { end } else { k.bind("whole", end & -step) };
    k.for_step("column", k.i32(0), whole, k.i32(step), |column| body(column, lanes));
    if !divides {
        k.for_range("column", whole, end, |column| body(column, 1));
    }
}

/// `height` rows from `row` of the tile on, along all of its columns.
fn rectangles<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, row: Value<'k>, height: u32) {
    let starts: Vec<Value> = (0..height).map(|r| cx.args.row_start(cx.k, cx.spec, cx.tile.row + row + r as i32)).collect();
    along(cx, cx.sums.width(cx.spec, height), |column, width| rectangle(cx, panel, (row, &starts), (column, width)));
}

/// The sums of the rows that start at `rows` and of `width` columns from `column` on.
fn rectangle<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, (row, rows): (Value<'k>, &[Value<'k>]), (column, width): (Value<'k>, u32)) {
    let Cx { k, spec, args, tile, sums } = cx;
    let starts: Vec<Value> = (0..width).map(|c| weight_start(k, spec, tile, tile.column + column + c as i32)).collect();
    // One line of K a weight and column.
    let lines: Vec<(Array, Value)> = args.weights.iter().flat_map(|w| starts.iter().map(|start| (*w, *start))).collect();
    let zero = k.f32(0.0).splat(sums.lanes);
    let partial: Vec<Var> = (0..rows.len() * lines.len()).map(|_| k.var("partial", zero)).collect();
    k.for_step("k", panel.start, panel.whole, k.i64(i64::from(sums.step)), |at| {
        let ws: Vec<Value> = lines.iter().map(|(w, start)| w.load_vector(*start + at, sums.step)).collect();
        for (start, partial) in rows.iter().zip(partial.chunks(lines.len())) {
            let x = args.rows.array().load_vector(*start + at, sums.step);
            for (w, sum) in ws.iter().zip(partial) {
                sum.set(sums.accumulate(sum.get(), x, *w));
            }
        }
    });
    let totals: Vec<Var> = partial.iter().map(|sum| k.var("total", sum.get().reduce_add())).collect();
    if !spec.k.is_multiple_of(u64::from(sums.step)) {
        k.for_range("k", panel.whole, panel.end, |at| {
            let ws: Vec<Value> = lines.iter().map(|(w, start)| w.load(*start + at).cast(DType::F32)).collect();
            for (start, totals) in rows.iter().zip(totals.chunks(lines.len())) {
                let x = args.rows.array().load(*start + at).cast(DType::F32);
                for (w, total) in ws.iter().zip(totals) {
                    total.set(x.fma(*w, total.get()));
                }
            }
        });
    }
    for (at, total) in totals.iter().enumerate() {
        let (r, i, c) = (at / lines.len(), at % lines.len() / starts.len(), at % starts.len());
        let place = k.bind("place", sums.place(i, row + r as i32, column + c as i32));
        let before = is_cut(spec).then(|| sums.done.load(place));
        sums.done.store(place, before.map_or(total.get(), |before| before + total.get()));
    }
}
