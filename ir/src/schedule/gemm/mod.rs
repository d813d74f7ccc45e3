//! Products of rows and weights, dense or grouped by expert, with the body of the fused op at the end: what a GEMM is
//! asked for, how its rows are cut into tiles, and what happens to a finished product.
//!
//! ```text
//!                       column block                  $i[m, n] = sum_k rows[m, k] * weights[i][e, n, k]
//!                  n ->  +--------+                   out[m, n] = body($0, $1, .., operands at m, n)
//!   rows [M, K]          | w[e,n] |  weights [E, N, K], K contiguous in both
//!  tile +----- k ------+ +--------+
//!   m   |  rows of one | |  out   |   one block makes one rectangle of `out`:
//!   |   |  expert only | | [M, N] |   `tile_rows` rows by a block of columns
//!   v   +--------------+ +--------+
//! ```
//!
//! FLOPs: 2 M N K a weight. Bytes at least: every weight of the experts hit once, rows once, out once; a tile reads its
//! expert's weights again, so that an expert with r rows reads them `ceil(r / tile_rows)` times, from cache where it
//! can. The floor is the larger of the two: bandwidth below some hundred rows an expert, arithmetic beyond.
//!
//! Several products can be [parts](together) of one launch: the blocks of one come after those of another, each with arguments of its
//! own, and what a block has in shared memory is there once.
//!
//! How the products are summed is the tiling's and the machine's: `host`, `gpu`, `dot`, `mma`, `group` (twins too) and `stream` each have one
//! function for it.

mod ahead;
mod dot;
mod gpu;
mod group;
mod host;
mod mma;
mod outer;
mod pack;
mod stream;
#[cfg(test)]
mod tests;

use super::buffers::BufferId;
use super::combine::Columns;
use super::math::Accuracy;
use super::{body, operand_name};
use crate::graph::Body;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Given, Kernel, Tiles, Value};
use crate::tiling::{DOT_THREADS, GROUP_THREADS, Kind, Product, ROW_TILES_TOGETHER, STREAM_BLOCKS, STREAM_THREADS};
use crate::{DType, Extent, Machine, Round, Tiling};
pub(crate) use ahead::param as next_param;
pub(crate) use pack::{Pack, pack};

/// Bytes to which every buffer is aligned.
const ALIGN: u32 = 16;

/// A GEMM to make a kernel for. See the picture above.
#[derive(Clone)]
pub(crate) struct Gemm<'a> {
    /// Its place among the parts of its kernel.
    pub part: usize,
    /// Columns of the result.
    pub n: u64,
    /// Length of the sums.
    pub k: u64,
    /// Number of experts, or `None`: dense over the T rows.
    pub experts: Option<u64>,
    /// Whether `rows` are the T tokens, from which the pairs are gathered.
    pub gather: bool,
    /// Grouped rows are at most so many.
    pub pairs: Extent,
    /// Rows of each expert, where all have as many; none: the sort kernel says how many.
    pub rows_of_expert: Option<Extent>,
    /// Element type of the rows.
    pub rows: DType,
    /// Element types of the weights, `[E, N, K]` or dense `[N, K]`.
    pub weights: Vec<DType>,
    /// What stands in the holes after the products.
    pub operands: Vec<Operand>,
    /// What is made of products and operands.
    pub body: &'a Body,
    /// Element type of the result, `[M, N]`.
    pub out: DType,
    /// How it is cut.
    pub tiling: Tiling,
    /// Rows of a tile of the sort, of which its tiles are parts.
    pub sorted_rows: u32,
    /// How exact the functions of the body are.
    pub accuracy: Accuracy,
}

/// What stands in a hole of the body, at row m of expert e and column n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// `b[e, n]`.
    ExpertRow(DType),
    /// `w[m]`, f32.
    PairWeight,
    /// `v[0]`.
    One(DType),
    /// `v[n]`.
    Row(DType),
    /// `v[m, ..]`, each column for some neighbours.
    Columns(DType, Columns),
    /// `v[m, n]`.
    Full(DType),
}

/// A kernel and its number of blocks.
pub(crate) struct Tiled {
    /// Parameters: rows, as [`rows`] says; if gathered `token_of_row`; if grouped by a sort `tile_expert`, `tile_row`, `tile_count`,
    /// `offset_of_expert`, and [`parts`] where a tile of the sort is cut; weights; operands; out, as [`out`] says; if not grouped by a sort the number
    /// of tokens, or of the rows of an expert. Of each part but the first, [under names of its own](Gemm::param); of each but the last
    /// `blocks`, as many as [`blocks`] says. Of persistent blocks also what [`counts`] says. Of parts of the next launch their tables,
    /// weights and `blocks`, under [`next_param`]'s names.
    pub kernel: Kernel,
    /// Blocks to launch, whatever the routing.
    pub grid: Extent,
    /// Those that have work are the first ones, so many for each tile of the sort; none: all may have.
    pub of_tile: Option<Extent>,
}

impl Gemm<'_> {
    /// What is multiplied.
    fn product(&self) -> Product {
        let tf32 = self.rows == DType::F32 && self.body.rounds_factors(self.weights.len());
        Product { rows: self.rows, n: self.n, k: self.k, weights: self.weights.clone(), tf32 }
    }

    /// Whether the last tile of a row has fewer columns than the others.
    fn has_edge(&self) -> bool {
        !self.n.is_multiple_of(u64::from(self.tiling.columns))
    }

    /// What its kernel calls one of its parameters.
    pub(crate) fn param(&self, name: &str) -> String {
        if self.part == 0 { name.to_string() } else { format!("{name}_{}", self.part + 1) }
    }
}

/// The kernel of these products on `machine`, which have one tiling and are numbered as [parts](Gemm::part). Their bodies must be
/// [pointwise](Body::is_pointwise). `next`: the parts of the launch behind it, where both are [`Kind::Stream`].
pub(crate) fn together(name: &str, parts: &[&Gemm], next: &[&Gemm], machine: &Machine) -> Tiled {
    let kind = parts.first().map(|spec| spec.tiling.kind);
    let [threads, resident] = match kind {
        Some(Kind::Group | Kind::Twin) => [GROUP_THREADS, 1],
        Some(Kind::Stream) => [STREAM_THREADS, STREAM_BLOCKS],
        Some(Kind::Dot) => [DOT_THREADS, 1],
        Some(Kind::Mma) => mma::block(parts, machine),
        Some(Kind::Fma) if machine.has_threads() => [gpu::THREADS, 1],
        Some(Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma) | None => [1, 1],
    };
    let k = Builder::new(name, threads).resident(resident).in_clusters(kind.map_or(1, Kind::blocks));
    let args: Vec<Args> = parts.iter().map(|spec| Args::declare(&k, spec)).collect();
    let last = parts.len().saturating_sub(1);
    let blocks: Vec<Value> = parts[..last].iter().map(|spec| k.scalar(&spec.param("blocks"), DType::I32)).collect();
    let with_args: Vec<_> = parts.iter().copied().zip(&args).collect();
    match kind {
        Some(Kind::Group | Kind::Twin) => group::blocks(&k, machine, &with_args, &blocks),
        Some(Kind::Stream) => stream::blocks(&k, &with_args, &blocks, &ahead::End::declare(&k, next)),
        Some(Kind::Mma) => mma::blocks(&k, machine, &with_args, &blocks),
        Some(Kind::Dot | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma) | None => {
            let shared = shared(&k, parts, machine);
            let tile = |spec: &Gemm, args: &Args<'_>, tile: Tile<'_>| one_tile(&k, spec, machine, args, &shared, tile);
            each_part(&k, &with_args, &blocks, k.block(), &tile);
        }
    }
    Tiled { kernel: k.finish(), grid: grid(parts, machine), of_tile: of_tile(parts, machine) }
}

/// Blocks for each tile of the sort, where those of one tile follow those of another: [`each_tile`] says so. GPUs start all blocks.
fn of_tile(parts: &[&Gemm], machine: &Machine) -> Option<Extent> {
    let [spec] = parts else { return None };
    let is_sorted = spec.experts.is_some() && spec.rows_of_expert.is_none();
    let in_order = match spec.tiling.kind {
        Kind::Dot | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma => !machine.has_threads(),
        Kind::Group | Kind::Twin | Kind::Stream | Kind::Mma => false,
    };
    let column_blocks = spec.n.div_ceil(u64::from(spec.tiling.columns));
    (is_sorted && in_order).then(|| self::parts(spec).unwrap_or(Extent::Const(1)) * column_blocks)
}

/// Tiles of these parts together, at most.
fn tile_bound(parts: &[&Gemm]) -> Extent {
    parts.iter().map(|spec| blocks(spec)).reduce(|a, b| a + b).unwrap_or(Extent::Const(0))
}

/// Blocks of a launch of these parts: one for each tile, or as many as are persistent.
fn grid(parts: &[&Gemm], machine: &Machine) -> Extent {
    let tiles = tile_bound(parts);
    match parts.first().map(|spec| spec.tiling.kind) {
        Some(kind @ (Kind::Group | Kind::Twin)) => group::grid(kind, tiles, machine),
        Some(Kind::Stream) => stream::grid(tiles, machine),
        Some(Kind::Dot | Kind::Mma | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma) | None => tiles,
    }
}

/// The numbers that the kernel of these parts is given beside those of its parts: tiles at most, and blocks, where blocks are persistent.
pub(crate) fn counts(parts: &[&Gemm], machine: &Machine) -> Vec<(&'static str, Extent)> {
    match parts.first().map(|spec| spec.tiling.kind) {
        Some(Kind::Group | Kind::Twin | Kind::Stream) => {
            vec![("tile_bound", tile_bound(parts)), ("block_count", grid(parts, machine))]
        }
        Some(Kind::Dot | Kind::Mma | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma) | None => Vec::new(),
    }
}

/// Blocks of one part.
pub(crate) fn blocks(spec: &Gemm) -> Extent {
    tiles(spec) * spec.n.div_ceil(u64::from(spec.tiling.columns))
}

/// A tile by all threads of the block.
fn one_tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    match spec.tiling.kind {
        Kind::Group | Kind::Twin | Kind::Stream | Kind::Mma => unreachable!("`together` has a function for all of their tiles"),
        Kind::Dot => dot::tile(k, spec, args, tile),
        Kind::Outer | Kind::Packed | Kind::Widened => outer::tile(k, spec, machine, args, shared, tile),
        Kind::Fma if machine.has_threads() => gpu::tile(k, spec, machine, args, shared, tile),
        Kind::Fma => host::tile(k, spec, machine, args, shared, tile),
    }
}

/// `inner` on the tile of number `number` of these parts, of which all but the last have so many tiles.
fn each_part<'k, A: AsRef<Table<'k>>>(
    k: &'k Builder,
    parts: &[(&Gemm, &A)],
    tiles: &[Value<'k>],
    number: Value<'k>,
    inner: &dyn Fn(&Gemm, &A, Tile<'k>),
) {
    let Some(((spec, args), others)) = parts.split_first() else { return };
    let own = || each_tile(k, spec, (*args).as_ref(), number, |tile| inner(spec, args, tile));
    let Some((first, tiles)) = tiles.split_first() else { return own() };
    k.branch(number.lt(*first), own, || each_part(k, others, tiles, k.bind("block", number - *first), inner));
}

/// An array that a tile has in shared memory.
struct Side {
    name: String,
    elem: DType,
    len: u32,
    align: u32,
}

/// The arrays of a block: as long as the part needs that needs most.
fn shared<'k>(k: &'k Builder, parts: &[&Gemm], machine: &Machine) -> Vec<Array<'k>> {
    let mut sides: Vec<Side> = Vec::new();
    for spec in parts {
        let own = match spec.tiling.kind {
            Kind::Dot | Kind::Group | Kind::Twin | Kind::Stream | Kind::Mma => Vec::new(),
            Kind::Outer | Kind::Packed | Kind::Widened => outer::sides(spec, machine),
            Kind::Fma if machine.has_threads() => gpu::sides(spec, machine),
            Kind::Fma => host::sides(spec, machine),
        };
        for (i, side) in own.into_iter().enumerate() {
            match sides.get_mut(i) {
                Some(known) => known.len = known.len.max(side.len),
                None => sides.push(side),
            }
        }
    }
    sides.iter().map(|side| k.shared_aligned(&side.name, side.elem, side.len, side.align)).collect()
}

/// An upper bound on the tiles: of each tile of the sort's as many parts as there may be, and every expert with a row may have
/// one that is not full.
fn tiles(spec: &Gemm) -> Extent {
    let rows = u64::from(spec.tiling.rows);
    if let (Some(experts), Some(each)) = (spec.experts, &spec.rows_of_expert) {
        return each.clone().div_ceil(rows) * experts;
    }
    match spec.experts {
        None => Extent::Tokens.div_ceil(rows),
        Some(experts) => {
            let of_sort = spec.pairs.clone().div(Extent::from(u64::from(spec.sorted_rows)), Round::Floor)
                + Extent::from(experts).min(spec.pairs.clone());
            parts(spec).map_or(of_sort.clone(), |parts| of_sort * parts)
        }
    }
}

/// Tiles that one of the sort's is cut into, as many as the rows of an expert can fill; none where it is one tile. An expert has
/// no more rows than there are pairs.
pub(crate) fn parts(spec: &Gemm) -> Option<Extent> {
    let (rows, sorted) = (spec.tiling.rows, spec.experts.is_some() && spec.rows_of_expert.is_none());
    let most = Extent::from(u64::from(spec.sorted_rows));
    (sorted && rows < spec.sorted_rows).then(|| spec.pairs.clone().min(most).div_ceil(u64::from(rows)))
}

impl<'k> AsRef<Table<'k>> for Args<'k> {
    fn as_ref(&self) -> &Table<'k> {
        &self.table
    }
}

/// The parameters of the kernel.
struct Args<'k> {
    rows: Rows<'k>,
    token_of_row: Option<Array<'k>>,
    table: Table<'k>,
    weights: Vec<Array<'k>>,
    /// The weights, where boxes of them are copied.
    maps: Vec<Tiles>,
    operands: Vec<Array<'k>>,
    out: Rows<'k>,
}

/// How a kernel reaches rows, of the left side or of the result.
#[derive(Clone, Copy)]
enum Rows<'k> {
    Array(Array<'k>),
    /// By boxes, see [`group`].
    Boxes(Tiles),
}

impl<'k> Rows<'k> {
    /// As an array, which it is for every kind but [`Kind::Group`] and [`Kind::Twin`].
    fn array(self) -> Array<'k> {
        match self {
            Rows::Array(array) => array,
            Rows::Boxes(_) => unreachable!("`group` alone has boxes of rows"),
        }
    }
}

/// The parameter of the i-th weight.
pub(crate) fn weight_name(i: usize) -> String {
    format!("weights{i}")
}

/// What the parameter of a weight is given.
pub(super) fn weight(spec: &Gemm, buffer: BufferId) -> Given {
    match spec.tiling.kind {
        Kind::Group | Kind::Twin => {
            let extents = [spec.experts.unwrap_or(1), spec.n, spec.k].map(Extent::from);
            buffer.view(extents, [spec.n * spec.k, spec.k].map(Extent::from))
        }
        Kind::Stream | Kind::Dot | Kind::Mma | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma => buffer.into(),
    }
}

/// What the parameter of the rows is given.
pub(super) fn rows(spec: &Gemm, buffer: BufferId) -> Given {
    if group::has_boxes_of_rows(spec) { boxes_of(spec, buffer, spec.k) } else { buffer.into() }
}

/// What the parameter of the result is given.
pub(super) fn out(spec: &Gemm, buffer: BufferId) -> Given {
    if group::has_boxes_of_results(spec) { boxes_of(spec, buffer, spec.n) } else { buffer.into() }
}

fn boxes_of(spec: &Gemm, buffer: BufferId, elements: u64) -> Given {
    let (extents, strides) = group::tensor(spec, elements);
    buffer.view(extents, strides)
}

/// Where the tiles are.
enum Table<'k> {
    /// One after another, up to this number of rows.
    Dense(Value<'k>),
    /// As many rows of each expert, one after another.
    Even(Value<'k>),
    /// As the sort kernel found them.
    Grouped {
        tile_expert: Array<'k>,
        tile_row: Array<'k>,
        tile_count: Array<'k>,
        offset_of_expert: Array<'k>,
        /// Tiles that one of these is cut into, where it is.
        parts: Option<Value<'k>>,
    },
}

impl<'k> Table<'k> {
    /// Its parameters, under these names.
    fn declare(k: &'k Builder, spec: &Gemm, name: &dyn Fn(&str) -> String) -> Table<'k> {
        let i32s = |of: &str| k.input(&name(of), DType::I32);
        let scalar = |of: &str| k.scalar(&name(of), DType::I32);
        match (spec.experts, &spec.rows_of_expert) {
            (None, _) => Table::Dense(scalar("tokens")),
            (Some(_), Some(_)) => Table::Even(scalar("rows_of_expert")),
            (Some(_), None) => Table::Grouped {
                tile_expert: i32s("tile_expert"),
                tile_row: i32s("tile_row"),
                tile_count: i32s("tile_count"),
                offset_of_expert: i32s("offset_of_expert"),
                parts: parts(spec).map(|_| scalar("parts")),
            },
        }
    }

    /// Row tiles, some of which may be empty.
    fn row_tiles(&self, k: &'k Builder, spec: &Gemm) -> Value<'k> {
        let rows = spec.tiling.rows as i32;
        match *self {
            Table::Dense(tokens) => (tokens + (rows - 1)) / rows,
            Table::Even(rows_of_expert) => (rows_of_expert + (rows - 1)) / rows * spec.experts.unwrap_or(1) as i32,
            Table::Grouped { tile_count, parts, .. } => {
                let of_sort = tile_count.load(k.i32(0));
                parts.map_or(of_sort, |parts| of_sort * parts)
            }
        }
    }
}

/// A rectangle of the result. Counts and places are `I32`.
#[derive(Clone, Copy)]
struct Tile<'k> {
    /// The expert whose weights these are; none if dense.
    expert: Option<Value<'k>>,
    /// First row.
    row: Value<'k>,
    /// Number of rows, at least one.
    rows: Value<'k>,
    /// First column.
    column: Value<'k>,
    /// Number of columns, at least one.
    columns: Value<'k>,
}

impl<'k> Tile<'k> {
    /// `then` where the result has the column that is `further` from a thread's first, `column` of the tile.
    fn when_column(self, k: &'k Builder, spec: &Gemm, column: Value<'k>, further: u32, then: impl FnOnce()) {
        if !spec.has_edge() {
            then();
        } else if u64::from(further) < spec.n {
            k.when((column + further as i32).lt(self.columns), then);
        }
    }
}

/// A place in the result, its row and its column, `I64`.
#[derive(Clone, Copy)]
struct Spot<'k> {
    row: Value<'k>,
    column: Value<'k>,
    /// Where it is in memory, in elements.
    place: Value<'k>,
}

impl<'k> Spot<'k> {
    /// The place at a row and a column (`I32`).
    fn at(k: &'k Builder, spec: &Gemm, row: Value<'k>, column: Value<'k>) -> Spot<'k> {
        let (row, column) = (row.cast(DType::I64), column.cast(DType::I64));
        Spot { row, column, place: k.bind("place", row * k.i64(spec.n as i64) + column) }
    }

    /// The place so many rows below and so many columns to the right: what is added is constant, so that instructions have it beside
    /// the address.
    fn moved(self, k: &'k Builder, spec: &Gemm, rows: u32, columns: u32) -> Spot<'k> {
        let further = |from: Value<'k>, by: u64| if by == 0 { from } else { from + k.i64(by as i64) };
        let (rows, columns) = (u64::from(rows), u64::from(columns));
        Spot {
            row: further(self.row, rows),
            column: further(self.column, columns),
            place: further(self.place, rows * spec.n + columns),
        }
    }
}

impl<'k> Args<'k> {
    fn declare(k: &'k Builder, spec: &Gemm) -> Args<'k> {
        let name = spec.param("rows");
        let rows = match group::has_boxes_of_rows(spec) {
            true => Rows::Boxes(k.tensor_map(&name, group::boxes(spec.tiling, spec.rows, false))),
            false => Rows::Array(k.input(&name, spec.rows)),
        };
        let token_of_row = spec.gather.then(|| k.input(&spec.param("token_of_row"), DType::I32));
        let table = || Table::declare(k, spec, &|name| spec.param(name));
        // Numbers come last.
        let sorted = (spec.experts.is_some() && spec.rows_of_expert.is_none()).then(table);
        let by_boxes = matches!(spec.tiling.kind, Kind::Group | Kind::Twin);
        let (mut weights, mut maps) = (Vec::new(), Vec::new());
        for (i, elem) in spec.weights.iter().enumerate() {
            let name = spec.param(&weight_name(i));
            if by_boxes { maps.push(k.tensor_map(&name, group::map(spec, i))) } else { weights.push(k.input(&name, *elem)) }
        }
        let operands = spec.operands.iter().enumerate().map(|(i, operand)| match operand {
            Operand::PairWeight => k.input(&spec.param(&operand_name(i)), DType::F32),
            Operand::ExpertRow(elem)
            | Operand::One(elem)
            | Operand::Row(elem)
            | Operand::Columns(elem, _)
            | Operand::Full(elem) => k.input(&spec.param(&operand_name(i)), *elem),
        });
        let operands = operands.collect();
        let name = spec.param("out");
        let out = match group::has_boxes_of_results(spec) {
            true => Rows::Boxes(k.tensor_map(&name, group::boxes(spec.tiling, spec.out, true))),
            false => Rows::Array(k.output(&name, spec.out)),
        };
        Args { rows, token_of_row, table: sorted.unwrap_or_else(table), weights, maps, operands, out }
    }

    /// Where row `row` (`I32`) of the left side starts, in elements.
    fn row_start(&self, k: &'k Builder, spec: &Gemm, row: Value<'k>) -> Value<'k> {
        let source = self.token_of_row.map_or(row, |token_of_row| token_of_row.load(row));
        k.bind("row_start", source.cast(DType::I64) * k.i64(spec.k as i64))
    }

    /// The most lanes, up to `lanes`, that [`finish`](Self::finish) can take at once.
    fn even_lanes(spec: &Gemm, lanes: u32) -> u32 {
        let is_even = |operand: &Operand| match operand {
            Operand::ExpertRow(_) | Operand::PairWeight | Operand::One(_) | Operand::Row(_) | Operand::Full(_) => true,
            Operand::Columns(_, columns) => columns.is_even(lanes),
        };
        if spec.operands.iter().all(is_even) { lanes } else { 1 }
    }

    /// Puts finished products, lanes along n, through the body and stores them from `at` on, a column that is a multiple of the lanes.
    fn finish(&self, k: &'k Builder, spec: &Gemm, expert: Option<Value<'k>>, at: Spot<'k>, products: &[Value<'k>]) {
        let result = self.value(k, spec, expert, at, products);
        self.out.array().store_aligned(at.place, result.cast(spec.out), aligned(spec, spec.out, products[0].ty().lanes));
    }

    /// What the body makes of finished products, f32: it is not rounded to the result's type yet.
    fn value(&self, k: &'k Builder, spec: &Gemm, expert: Option<Value<'k>>, at: Spot<'k>, products: &[Value<'k>]) -> Value<'k> {
        let lanes = products[0].ty().lanes;
        let Spot { row, column, place } = at;
        body::before_rounding(k, spec.body, spec.out, spec.accuracy, &mut |hole| {
            let Some(operand) = (hole as usize).checked_sub(products.len()) else { return products[hole as usize] };
            let from = self.operands[operand];
            let vector = |place: Value<'k>| from.load_aligned(place, lanes, aligned(spec, from.elem(), lanes));
            let loaded = match spec.operands[operand] {
                Operand::ExpertRow(_) => {
                    let expert = expert.unwrap_or_else(|| k.i32(0)).cast(DType::I64);
                    vector(expert * k.i64(spec.n as i64) + column)
                }
                Operand::One(_) => from.load(k.i32(0)).splat(lanes),
                Operand::Row(_) => vector(column),
                Operand::Full(_) => vector(place),
                Operand::PairWeight => from.load(row).splat(lanes),
                Operand::Columns(_, columns) => columns.load(k, from, row, column, lanes),
            };
            loaded.cast(DType::F32)
        })
    }
}

/// Where column `column` (`I32`) of the tile's weights starts, in elements.
fn weight_start<'k>(k: &'k Builder, spec: &Gemm, tile: Tile<'k>, column: Value<'k>) -> Value<'k> {
    let column = column.cast(DType::I64);
    let line = match tile.expert {
        Some(expert) => expert.cast(DType::I64) * k.i64(spec.n as i64) + column,
        None => column,
    };
    k.bind("weight_start", line * k.i64(spec.k as i64))
}

/// To how many bytes lanes along n are aligned: rows of the result, of operands like it and of experts follow each other, N elements
/// each.
fn aligned(spec: &Gemm, elem: DType, lanes: u32) -> u32 {
    let bytes = elem.bytes() as u32;
    if spec.n.is_multiple_of(u64::from(lanes)) { (lanes * bytes).min(ALIGN) } else { bytes }
}

/// Runs `inner` on the rectangle of this number of the part, if it has one. All threads of the block agree on the rectangle.
fn each_tile<'k>(k: &'k Builder, spec: &Gemm, table: &Table<'k>, number: Value<'k>, inner: impl FnOnce(Tile<'k>)) {
    let column_blocks = spec.n.div_ceil(u64::from(spec.tiling.columns)) as i32;
    match spec.tiling.kind {
        // Those of a row tile follow each other, so that its rows stay in cache.
        Kind::Dot | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma => {
            let index = k.bind("tile", number / column_blocks);
            rectangle(k, spec, table, index, number % column_blocks, inner);
        }
        // Those of some row tiles, so that weights stay there too. The last row tiles may be fewer.
        Kind::Group | Kind::Twin | Kind::Stream | Kind::Mma => {
            let tiles = k.bind("tiles", table.row_tiles(k, spec));
            k.when(number.lt(tiles * column_blocks), || {
                let together = ROW_TILES_TOGETHER as i32;
                let first = k.bind("first_tile", number / (column_blocks * together) * together);
                let rows = k.bind("row_tiles", (tiles - first).min(together));
                let within = k.bind("within", number - first * column_blocks);
                let index = k.bind("tile", first + within % rows);
                rectangle(k, spec, table, index, within / rows, inner);
            });
        }
    }
}

/// Runs `inner` on the rectangle of a row tile and a column block, if there is one.
fn rectangle<'k>(
    k: &'k Builder,
    spec: &Gemm,
    table: &Table<'k>,
    index: Value<'k>,
    column_block: Value<'k>,
    inner: impl FnOnce(Tile<'k>),
) {
    let most = spec.tiling;
    let column = k.bind("column", column_block * most.columns as i32);
    let columns = match spec.n % u64::from(most.columns) {
        0 => k.i32(most.columns as i32),
        _ => k.bind("columns", (k.i32(spec.n as i32) - column).min(most.columns as i32)),
    };
    let rows_up_to = |end: Value<'k>, row: Value<'k>| k.bind("tile_rows", (end - row).min(most.rows as i32));
    match *table {
        Table::Dense(tokens) => {
            let row = k.bind("row", index * most.rows as i32);
            inner(Tile { expert: None, row, rows: rows_up_to(tokens, row), column, columns });
        }
        Table::Even(rows_of_expert) => {
            let tiles_of_expert = k.bind("tiles_of_expert", (rows_of_expert + (most.rows - 1) as i32) / most.rows as i32);
            let expert = k.bind("expert", index / tiles_of_expert);
            let first = k.bind("first_row", expert * rows_of_expert);
            let row = k.bind("row", first + (index - expert * tiles_of_expert) * most.rows as i32);
            inner(Tile { expert: Some(expert), row, rows: rows_up_to(first + rows_of_expert, row), column, columns });
        }
        Table::Grouped { tile_expert, tile_row, tile_count, offset_of_expert, parts } => {
            let count = tile_count.load(k.i32(0));
            let (of_sort, part) = match (parts, most.kind) {
                (None, _) => (index, None),
                (Some(parts), Kind::Dot | Kind::Mma | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Fma) => {
                    (k.bind("tile_of_sort", index / parts), Some(index % parts))
                }
                // Blocks are as far apart as there are processors: all first parts come first, so that each block has its share of
                // those that have rows.
                (Some(_), Kind::Group | Kind::Twin | Kind::Stream) => {
                    (k.bind("tile_of_sort", index % count), Some(index / count))
                }
            };
            k.when(of_sort.lt(count), || {
                let (expert, row) = (tile_expert.load(of_sort), tile_row.load(of_sort));
                let end = offset_of_expert.load(expert + 1);
                let Some(part) = part else {
                    return inner(Tile { expert: Some(expert), row, rows: rows_up_to(end, row), column, columns });
                };
                let row = k.bind("row", row + part * most.rows as i32);
                k.when(row.lt(end), || {
                    inner(Tile { expert: Some(expert), row, rows: rows_up_to(end, row), column, columns });
                });
            });
        }
    }
}
