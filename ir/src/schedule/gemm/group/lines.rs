//! The lines of a tile: which rows they are, where boxes of them lie, and which four warps multiply which.

use super::super::{Args, Gemm, Table, Tile};
use super::{FOUR_WARPS, LINES, LOADING, MULTIPLYING, PART};
use crate::kernel::{Builder, Swizzle, TensorMap, Value};
use crate::tiling::{GROUP_DEPTH, Kind, block_rows, group_widths};
use crate::{DType, Extent, Tiling};

/// What the kernel knows of rows of which it copies or stores boxes: as many as the narrowest product has, of 128 bytes.
pub(in super::super) fn boxes(tiling: Tiling, elem: DType, write: bool) -> TensorMap {
    TensorMap { elem, tile: [1, box_rows(tiling), GROUP_DEPTH], swizzle: Swizzle::Bytes128, write }
}

/// Extents and strides of the tensor of which these are boxes, of so many elements a row: the rows of the tokens, those of each expert,
/// or from each row on those below it.
pub(in super::super) fn tensor(spec: &Gemm, elements: u64) -> ([Extent; 3], [Extent; 2]) {
    let (tokens, row) = (Extent::Tokens, || Extent::from(elements));
    match (spec.experts, &spec.rows_of_expert) {
        (None, _) => ([Extent::from(1), tokens, row()], [row(), row()]),
        (Some(experts), Some(each)) => ([Extent::from(experts), each.clone(), row()], [each.clone() * elements, row()]),
        (Some(_), None) => {
            let lines = Extent::from(u64::from(box_rows(spec.tiling)));
            ([spec.pairs.clone().max(Extent::from(1)), lines, row()], [row(), row()])
        }
    }
}

/// Rows of a box.
fn box_rows(tiling: Tiling) -> u32 {
    group_widths(tiling)[0]
}

fn is_group(spec: &Gemm) -> bool {
    matches!(spec.tiling.kind, Kind::Group | Kind::Twin)
}

/// Whether the rows come by boxes: those that are not gathered. Lines of every such product are whole copies of 16 bytes
/// ([`tiling::takes`]).
pub(in super::super) fn has_boxes_of_rows(spec: &Gemm) -> bool {
    is_group(spec) && !spec.gather
}

/// Whether the results are stored by boxes: those of 16 bits in lines of whole 16 bytes.
pub(in super::super) fn has_boxes_of_results(spec: &Gemm) -> bool {
    is_group(spec) && spec.out.bytes() == DType::BF16.bytes() && spec.n.is_multiple_of(u64::from(PART))
}

/// What the twin in this place has of a tile: one half of its rows, of which the first has whole boxes. One that has none stands at the
/// tile's first, for what it brings to the other.
pub(super) fn part_of<'k>(k: &'k Builder, tiling: Tiling, tile: Tile<'k>, place: Option<Value<'k>>) -> Tile<'k> {
    let Some(place) = place else { return tile };
    let of_box = box_rows(tiling) as i32;
    let half = k.bind("half", ((tile.rows + (2 * of_box - 1)) / (2 * of_box) * of_box).min(tile.rows));
    let before = k.bind("before", (half * place).min(tile.rows - 1));
    let rows = k.bind("rows", place.eq(0).select(half, tile.rows - half));
    Tile { row: k.bind("row", tile.row + before), rows, ..tile }
}

/// The lines before a tile's first row, of so many that are multiplied; none: it is the first line.
pub(super) fn lead<'k>(k: &'k Builder, args: &Args<'k>, tile: Tile<'k>, lines: Value<'k>) -> Option<Value<'k>> {
    match args.table {
        Table::Grouped { .. } => Some(k.bind("lead", lines - tile.rows)),
        Table::Dense(_) | Table::Even(_) => None,
    }
}

/// A row of a block's tile.
pub(super) struct Row<'k> {
    /// Whether there is one.
    pub(super) is_there: Value<'k>,
    /// Its number, or that of the nearest. One of twins may have none.
    pub(super) nearest: Value<'k>,
}

/// The row at this line of a tile.
pub(super) fn row_at<'k>(tile: Tile<'k>, lead: Option<Value<'k>>, line: Value<'k>) -> Row<'k> {
    match lead {
        Some(lead) => Row { is_there: line.ge(lead), nearest: (line - lead).max(0) },
        None => Row { is_there: line.lt(tile.rows), nearest: line.min((tile.rows - 1).max(0)) },
    }
}

/// Where the box begins in its tensor whose first line is this one of a tile, and its first column this one.
pub(super) fn corner<'k>(
    k: &'k Builder,
    args: &Args<'k>,
    tile: Tile<'k>,
    lead: Option<Value<'k>>,
    (line, column): (u32, Value<'k>),
) -> [Value<'k>; 3] {
    let line = line as i32;
    match (&args.table, lead) {
        (Table::Even(rows_of_expert), _) => {
            let expert = tile.expert.unwrap_or_else(|| k.i32(0));
            [expert, tile.row - expert * *rows_of_expert + line, column]
        }
        (Table::Dense(_) | Table::Grouped { .. }, None) => [k.i32(0), tile.row + line, column],
        (Table::Dense(_) | Table::Grouped { .. }, Some(lead)) => {
            let from_row = k.bind("from_row", k.i32(line) - lead);
            [tile.row + from_row.max(0), from_row.min(0), column]
        }
    }
}

/// Columns of a weight that four warps multiply.
pub(super) fn half(spec: &Gemm) -> u32 {
    spec.tiling.columns / (MULTIPLYING / FOUR_WARPS)
}

/// How a tile is shared by the warps that multiply: by columns, or by rows where it has no more columns than four of them take.
pub(super) struct Share<'k> {
    /// Whether it is by rows, where there is such a tile.
    by_rows: Option<Value<'k>>,
    /// Rows that four warps have, at most.
    pub(super) rows: Value<'k>,
}

/// The part of a tile that four warps multiply.
#[derive(Clone, Copy)]
pub(super) struct OfFour<'k> {
    /// Its lines, in a width that has them.
    pub(super) width: u32,
    /// Its first line, of the tile; none: that of the tile.
    pub(super) line: Option<Value<'k>>,
    /// The tile's lines before its first row, where there may be such.
    pub(super) lead: Option<Value<'k>>,
    /// Its first column, of the tile.
    pub(super) column: Value<'k>,
}

impl<'k> Share<'k> {
    pub(super) fn of(k: &'k Builder, spec: &Gemm, tile: Tile<'k>) -> Share<'k> {
        let by_rows = may_share_rows(spec).then(|| k.bind("by_rows", tile.columns.le(half(spec) as i32)));
        let rows = by_rows.map_or(tile.rows, |by_rows| k.bind("rows", by_rows.select((tile.rows + 1) / 2, tile.rows)));
        Share { by_rows, rows }
    }

    /// Lines of the tile, where four warps have these.
    pub(super) fn lines(&self, k: &'k Builder, width: u32) -> Value<'k> {
        self.by_rows.map_or(k.i32(width as i32), |by_rows| by_rows.select(k.i32(2 * width as i32), k.i32(width as i32)))
    }

    pub(super) fn of_group(&self, k: &'k Builder, spec: &Gemm, width: u32, lead: Option<Value<'k>>) -> OfFour<'k> {
        let (group, none) = (group(k), k.i32(0));
        let column = group * half(spec) as i32;
        let by_rows = |is: Value<'k>| (k.bind("first_line", is.select(group * width as i32, none)), is.select(none, column));
        let (line, column) = self.by_rows.map(by_rows).map_or((None, column), |(line, column)| (Some(line), column));
        OfFour { width, line, lead, column: k.bind("first_column", column) }
    }
}

impl<'k> OfFour<'k> {
    /// A line of the tile, of one of these.
    pub(super) fn line(self, of: Value<'k>) -> Value<'k> {
        self.line.map_or(of, |first| first + of)
    }
}

/// Whether the last tile may have no more columns than four warps take.
fn may_share_rows(spec: &Gemm) -> bool {
    (1..=u64::from(half(spec))).contains(&(spec.n % u64::from(spec.tiling.columns)))
}

/// Sums of a thread, of so many rows.
pub(super) fn sums_of(spec: &Gemm, width: u32) -> u32 {
    spec.weights.len() as u32 * half(spec) / LINES * (width / 2)
}

/// `then` with the narrowest of these widths that has so many rows.
pub(super) fn by_width<'k>(k: &'k Builder, widths: &[u32], rows: Value<'k>, then: &dyn Fn(u32)) {
    match widths {
        [] => {}
        [last] => then(*last),
        [width, wider @ ..] => k.branch(rows.le(*width as i32), || then(*width), || by_width(k, wider, rows, then)),
    }
}

/// The number of the four warps among those that multiply.
pub(super) fn group<'k>(k: &'k Builder) -> Value<'k> {
    k.bind("group", k.thread() / FOUR_WARPS as i32 - (LOADING * 32 / FOUR_WARPS) as i32)
}

/// `then` for the first line of each box of so many lines.
pub(super) fn each_box<'k>(k: &'k Builder, tiling: Tiling, lines: Value<'k>, then: &dyn Fn(u32)) {
    for line in (0..block_rows(tiling)).step_by(box_rows(tiling) as usize) {
        k.when(lines.gt(line as i32), || then(line));
    }
}
