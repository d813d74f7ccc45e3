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
//! the tile read it from memory once. While a rectangle is made, the lines of the columns behind it are asked for. Each sum adds the same
//! terms in the same order whatever the height of its rectangle, so that a row's bits do not depend on its place.
//!
//! What a step multiplies is said by [`HostStep`]. The finished sums of the whole tile go to scratch; from there the body runs along the columns,
//! vectors again.

use super::super::halves::{halves, widened};
use super::{Args, Gemm, Side, Spot, Tile, weight_start};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Shared, Value};
use crate::tiling::HostStep;
use crate::{DType, Machine, Tiling, tiling};

/// Bytes that come from memory together.
pub(super) const CACHE_LINE: u32 = 64;

/// Elements along K that are taken at a time.
fn panel_elements(spec: &Gemm) -> u64 {
    tiling::host_panel(spec.rows)
}

/// How the sums of this kernel are made.
#[derive(Clone, Copy)]
struct Sums<'k> {
    step: HostStep,
    /// Lanes of a sum.
    lanes: u32,
    /// Finished sums: `[weights, rows, columns]` of the tile.
    done: Array<'k>,
}

impl<'k> Sums<'k> {
    /// Elements along K in one step.
    fn elements(self) -> u32 {
        self.step.elements(self.lanes)
    }
}

/// The tile that is being made.
#[derive(Clone, Copy)]
struct Cx<'a, 'k> {
    k: &'k Builder,
    spec: &'a Gemm<'a>,
    machine: &'a Machine,
    args: &'a Args<'k>,
    tile: Tile<'k>,
    sums: Sums<'k>,
    /// Rows of a rectangle, of [`HostStep::Halves`]: `[rows, 2, half a panel]`, even elements and odd ones.
    factors: Option<Array<'k>>,
}

/// A part of K (`I64`): whole steps from `start` to `whole`, single elements from there to `end`.
#[derive(Clone, Copy)]
struct Panel<'k> {
    start: Value<'k>,
    whole: Value<'k>,
    end: Value<'k>,
}

/// Scratch of a tile: its finished sums, and rows.
pub(super) fn sides(spec: &Gemm, machine: &Machine) -> Vec<Side> {
    let side = |name: &str, len| Side { name: name.to_string(), elem: DType::F32, len, align: Shared::ALIGN };
    let sums = side("sums", spec.weights.len() as u32 * spec.tiling.rows * spec.tiling.columns);
    let factors = match tiling::host_step(spec.rows, &spec.weights, machine) {
        HostStep::Halves => Some(side("factors", tallest(spec, machine) * panel_elements(spec) as u32)),
        HostStep::Numbers | HostStep::Pairs => None,
    };
    [sums].into_iter().chain(factors).collect()
}

/// Rows of the tallest rectangle.
fn tallest(spec: &Gemm, machine: &Machine) -> u32 {
    let [tallest, _] = tiling::host_rectangle(tiling::MOST_ROWS.into(), spec.weights.len(), machine);
    tallest as u32
}

/// All of a tile: for each panel, rectangles of each height below the tallest that there are rows left for, then of the
/// tallest. The low ones first: they bring the weights from memory at its full speed.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    let sums = Sums { step: tiling::host_step(spec.rows, &spec.weights, machine), lanes, done: shared[0] };
    let cx = Cx { k, spec, machine, args, tile, sums, factors: shared.get(1).copied() };
    let tallest = tallest(spec, machine);
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
    finish(k, spec, args, tile, shared[0], sums.lanes);
}

/// Puts the sums of a tile, `[weights, rows, columns]` of its tiling, to zero, up to a multiple of so many columns.
pub(super) fn clear<'k>(k: &'k Builder, spec: &Gemm, done: Array<'k>, tile: Tile<'k>, columns: u32) {
    for i in 0..spec.weights.len() {
        k.for_range("row", k.i32(0), tile.rows, |row| {
            k.for_step("column", k.i32(0), tile.columns, k.i32(columns as i32), |column| {
                done.store(place(spec.tiling, i, row, column), k.f32(0.0).splat(columns));
            });
        });
    }
}

/// The body of all finished sums of a tile, in vectors of at most so many lanes.
pub(super) fn finish<'k>(k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>, done: Array<'k>, lanes: u32) {
    k.for_range("row", k.i32(0), tile.rows, |row| {
        along(k, spec, tile, Args::even_lanes(spec, lanes), |column, lanes| {
            let product = |i| done.load_vector(place(spec.tiling, i, row, column), lanes);
            let products: Vec<Value> = (0..spec.weights.len()).map(product).collect();
            args.finish(k, spec, tile.expert, Spot::at(k, spec, tile.row + row, tile.column + column), &products);
        });
    });
}

/// Where the sum of a weight, at `row` and `column` of a tile of this size, is kept.
pub(super) fn place<'k>(size: Tiling, weight: usize, row: Value<'k>, column: Value<'k>) -> Value<'k> {
    (row + (weight as u32 * size.rows) as i32) * size.columns as i32 + column
}

/// Whether the sums are made in more than one panel, each added to the sums so far.
fn is_cut(spec: &Gemm) -> bool {
    spec.k > panel_elements(spec)
}

/// `body` for each panel of K.
fn panels<'k>(cx: Cx<'_, 'k>, body: impl FnOnce(Panel<'k>)) {
    let Cx { k, spec, tile, sums, .. } = cx;
    let (whole, end) = (k.i64((spec.k - spec.k % u64::from(sums.elements())) as i64), k.i64(spec.k as i64));
    if !is_cut(spec) {
        return body(Panel { start: k.i64(0), whole, end });
    }
    clear(k, spec, sums.done, tile, sums.lanes);
    let elements = k.i64(panel_elements(spec) as i64);
    k.for_step("panel", k.i64(0), end, elements, |start| {
        let next = start + elements;
        body(Panel { start, whole: k.bind("whole", next.min(whole)), end: k.bind("end", next.min(end)) });
    });
}

/// `body(column, lanes)` along the tile's columns, in steps of `lanes` and then one by one. The tile's columns are a
/// multiple of `lanes`, unless they end where N does.
fn along<'k>(k: &'k Builder, spec: &Gemm, tile: Tile<'k>, lanes: u32, body: impl Fn(Value<'k>, u32)) {
    let (end, step) = (tile.columns, lanes as i32);
    let divides = spec.n.is_multiple_of(u64::from(lanes));
    let whole = if divides { end } else { k.bind("whole", end & -step) };
    k.for_step("column", k.i32(0), whole, k.i32(step), |column| body(column, lanes));
    if !divides {
        k.for_range("column", whole, end, |column| body(column, 1));
    }
}

/// `height` rows from `row` of the tile on, along all of its columns.
fn rectangles<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, row: Value<'k>, height: u32) {
    let starts: Vec<Value> = (0..height).map(|r| cx.args.row_start(cx.k, cx.spec, cx.tile.row + row + r as i32)).collect();
    if let Some(factors) = cx.factors {
        (0..).zip(&starts).for_each(|(r, start)| halve(cx, panel, factors, r, *start));
    }
    let [_, width] = tiling::host_rectangle(height.into(), cx.spec.weights.len(), cx.machine);
    along(cx.k, cx.spec, cx.tile, width as u32, |column, width| rectangle(cx, panel, (row, &starts), (column, width)));
}

/// Where the even elements of a row of a rectangle lie in scratch, or the odd ones, from an even element of the panel on.
fn half_place<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, row: u32, half: u32, at: Value<'k>) -> Value<'k> {
    let start = panel_elements(cx.spec) * u64::from(2 * row + half) / 2;
    (at - panel.start) / 2 + cx.k.i64(start as i64)
}

/// Puts a row's whole steps to scratch, even elements and odd ones apart.
fn halve<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, factors: Array<'k>, row: u32, start: Value<'k>) {
    let (k, lanes) = (cx.k, cx.sums.lanes);
    k.for_step("at", panel.start, panel.whole, k.i64((2 * lanes).into()), |at| {
        for (half, elements) in (0..).zip(halves(k, cx.args.rows.array(), start + at, lanes)) {
            factors.store(half_place(cx, panel, row, half, at), elements);
        }
    });
}

/// A vector of numbers of 32 bits for each part of a step: of weights.
fn parts_of_weights<'k>(cx: Cx<'_, 'k>, step: Value<'k>) -> Vec<Value<'k>> {
    match cx.sums.step {
        HostStep::Numbers => vec![step.cast(DType::F32)],
        HostStep::Pairs => vec![step],
        HostStep::Halves => widened(step.bitcast(DType::I32)).to_vec(),
    }
}

/// The same of a row, which starts at `start`.
fn parts_of_row<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, row: u32, start: Value<'k>, at: Value<'k>) -> Vec<Value<'k>> {
    let whole = || cx.args.rows.array().load_vector(start + at, cx.sums.elements());
    match (cx.sums.step, cx.factors) {
        (HostStep::Pairs, _) => vec![whole()],
        (HostStep::Numbers, _) | (HostStep::Halves, None) => vec![whole().cast(DType::F32)],
        (HostStep::Halves, Some(factors)) => {
            (0..2).map(|half| factors.load_vector(half_place(cx, panel, row, half, at), cx.sums.lanes)).collect()
        }
    }
}

/// The sums of the rows that start at `rows` and of `width` columns from `column` on.
fn rectangle<'k>(cx: Cx<'_, 'k>, panel: Panel<'k>, (row, rows): (Value<'k>, &[Value<'k>]), (column, width): (Value<'k>, u32)) {
    let Cx { k, spec, args, tile, sums, .. } = cx;
    let starts: Vec<Value> = (0..width).map(|c| weight_start(k, spec, tile, tile.column + column + c as i32)).collect();
    // One line of K a weight and column.
    let lines: Vec<(Array, Value)> = args.weights.iter().flat_map(|w| starts.iter().map(|start| (*w, *start))).collect();
    let next = (0..width).map(|c| (tile.column + column + (width + c) as i32).min((spec.n - 1) as i32));
    let next: Vec<Value> = next.map(|column| weight_start(k, spec, tile, column)).collect();
    let next: Vec<(Array, Value)> = args.weights.iter().flat_map(|w| next.iter().map(|start| (*w, *start))).collect();
    let zero = k.f32(0.0).splat(sums.lanes);
    let partial: Vec<Var> = (0..rows.len() * lines.len()).map(|_| k.var("partial", zero)).collect();
    let elements = sums.elements();
    let step = |at: Value<'k>| {
        let ws: Vec<Vec<Value>> =
            lines.iter().map(|(w, start)| parts_of_weights(cx, w.load_vector(*start + at, elements))).collect();
        for ((r, start), partial) in (0..).zip(rows).zip(partial.chunks(lines.len())) {
            let xs = parts_of_row(cx, panel, r, *start, at);
            for (w, sum) in ws.iter().zip(partial) {
                for (x, w) in xs.iter().zip(w) {
                    sum.set(if sums.step == HostStep::Pairs { sum.get().dot(*x, *w) } else { x.fma(*w, sum.get()) });
                }
            }
        }
    };
    // A turn takes whole cache lines of the weights, where panels end with them.
    let bytes = args.weights.iter().map(|w| w.elem().bytes() as u32).fold(1, u32::max);
    let steps = (CACHE_LINE / (bytes * elements)).max(1);
    let steps = if spec.k.is_multiple_of((steps * elements).into()) { steps } else { 1 };
    k.for_step("k", panel.start, panel.whole, k.i64((steps * elements).into()), |at| {
        next.iter().for_each(|(w, start)| w.prefetch(*start + at));
        (0..steps).for_each(|further| step(at + k.i64((further * elements).into())));
    });
    let totals: Vec<Var> = partial.iter().map(|sum| k.var("total", sum.get().reduce_add())).collect();
    if !spec.k.is_multiple_of(u64::from(elements)) {
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
        let place = k.bind("place", place(spec.tiling, i, row + r as i32, column + c as i32));
        let before = is_cut(spec).then(|| sums.done.load(place));
        sums.done.store(place, before.map_or(total.get(), |before| before + total.get()));
    }
}
