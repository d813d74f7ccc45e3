//! A tile of products on a GPU by products of four warps: a block is persistent, and its warps have different work.
//!
//! ```text
//!             columns of the result, 128 or 256         four warps load, stage by stage (64 elements along k of every line):
//!            (all of each of w weights' columns)         * weights by boxes of a tensor map, as they lie in memory;
//!        +--------------------+--------------------+     * rows by copies of 16 bytes, wherever they come from.
//!  rows  |   four warps: the  |   four warps: the  |    two times four warps multiply, 64 columns by all rows at a time:
//!        |   first half of    |   second half of   |     sums[column, row] += weights[column, k] * rows[row, k]
//!        +--------------------+--------------------+    and then put their sums through the body.
//! ```
//!
//! Weights are the left factor, which has 64 lines, and rows the right one, which has a multiple of 8: so the side that routing makes
//! uneven is the one that can be narrow. A tile runs in the narrowest of a few widths that holds its rows; the sums are in order of k in
//! each. The last tile's columns may be no more than half of a tile's: all warps then have these, and half of the rows each. Products of
//! several weights side by side have their sums in the same thread, so that the body needs no exchange.
//!
//! A line has 128 bytes a stage, swizzled by address ([`Swizzle::Bytes128`]): boxes arrive so, and copies of a thread are put so.
//! Rows and columns beyond the edge, and elements beyond K, are zeros that cost no traffic.
//!
//! The sums lie across the result: neighbours of a lane are rows. 16-bit results go through shared memory, transposed on the way
//! ([`crate::kernel::Stmt::StoreMatrix`]), and are stored in rows, 16 bytes at a time. Meanwhile the other warps load for the next tile.
//!
//! **Twins** ([`Kind::Twin`]) are two blocks of a cluster that make a tile together. Each has half of its rows, and of every box of weights
//! it brings half of the columns to both. So the second cache gives weights once for both, and a stage is full when both have brought
//! their part and empty when the products of both are over: a warp that multiplies says so in both. Their turns are the same, also where
//! a tile has one row and the second twin none.
//!
//! **FLOPs and bytes of a stage** of 128 rows, two weights of 128 columns: 2 x 128 x 256 x 64 = 4.2 MFLOP from 49,152 bytes of shared
//! memory, 85 FLOPs a byte. A processor that makes 2048 multiply-adds a clock takes 1024 clocks for it, and reads 6 KiB for each
//! 64 x 128 x 16 product of 64 clocks: 96 of the 128 bytes that shared memory has a clock. Below 64 rows the reads decide: a product of
//! n rows takes max(n / 2, 16 + n / 4) clocks. The floor is the larger of the bytes of the weights of the experts hit, from DRAM, and
//! the FLOPs at the rate of the instruction. From the second cache the same stage takes its 49,152 bytes, 85 FLOPs a byte; those of
//! twins, 8.4 MFLOP together, 65,536 bytes, 128 FLOPs a byte.

use super::{Args, Gemm, Spot, Tile, each_part};
use crate::kernel::build::{Array, Sums, Var};
use crate::kernel::{Builder, Factor, Part, Stages, Swizzle, TensorMap, Value};
use crate::tiling::{self, GROUP_DEPTH, GROUP_THREADS, Kind, Ring, block_rows, group_widths};
use crate::{DType, Extent, Machine, Tiling};

/// Warps that load; those behind them multiply.
const LOADING: u32 = 4;
const WARPS: u32 = GROUP_THREADS / 32;
/// Threads that load, and those of four warps that multiply together.
const FOUR_WARPS: u32 = 128;
/// Threads that multiply.
const MULTIPLYING: u32 = GROUP_THREADS - 32 * LOADING;
/// Registers of a thread that loads, and of one that multiplies: those that the threads of a block have at launch, dealt out again.
const REGISTERS: [u32; 2] = [56, 224];
/// Lines of the left factor of a product.
const LINES: u32 = 64;
/// Elements of 16 bytes.
const PART: u32 = 8;
/// The number of the barrier of all threads that multiply.
const MULTIPLIERS: u8 = 1;

/// What the kernel knows of a weight, whose boxes are all columns of a tile that a block brings.
pub(super) fn map(spec: &Gemm, weight: usize) -> TensorMap {
    TensorMap {
        elem: spec.weights[weight],
        tile: [1, box_columns(spec.tiling), GROUP_DEPTH],
        swizzle: Swizzle::Bytes128,
        write: false,
    }
}

/// Columns that a block brings of each weight.
fn box_columns(tiling: Tiling) -> u32 {
    tiling.columns / tiling.kind.blocks()
}

/// The blocks of such products: one a processor, each, or each two together, for tiles as far apart as there are.
pub(super) fn grid(kind: Kind, tiles: Extent, machine: &Machine) -> Extent {
    let together = u64::from(kind.blocks());
    tiles.min(Extent::from((u64::from(machine.processors) / together).max(1))) * together
}

/// The memory of a block.
struct Memory<'k> {
    ring: Ring,
    /// Rows of the stages.
    left: Array<'k>,
    /// Weights of the stages.
    right: Array<'k>,
    /// Results, where they have 16 bits.
    out: Option<Array<'k>>,
    /// A phase of a stage: its bytes are there.
    full: Stages<'k>,
    /// A phase of a stage: the products that read it are over, in both twins.
    empty: Stages<'k>,
    /// Of twins, which one the block is.
    place: Option<Value<'k>>,
}

/// A stage, and how often all stages were used before it.
struct Turn<'k> {
    k: &'k Builder,
    stage: Var<'k>,
    round: Var<'k>,
    stages: u32,
}

impl<'k> Turn<'k> {
    fn first(k: &'k Builder, stages: u32) -> Turn<'k> {
        Turn { k, stage: k.var("stage", k.i32(0)), round: k.var("round", k.i32(0)), stages }
    }

    fn pass(&self) {
        let next = self.k.bind("next", self.stage.get() + 1);
        let wraps = self.k.bind("wraps", next.eq(self.stages as i32));
        self.stage.set(wraps.select(self.k.i32(0), next));
        self.round.set(self.round.get() + wraps.cast(DType::I32));
    }
}

/// The body of a kernel of these products.
pub(super) fn blocks<'k>(k: &'k Builder, machine: &Machine, parts: &[(&Gemm, &Args<'k>)], of_parts: &[Value<'k>]) {
    let [(first, _), ..] = parts else { unreachable!("a launch has a part") };
    let tiling = first.tiling;
    let weights = parts.iter().map(|(spec, _)| spec.weights.len()).max().unwrap_or(1);
    let Some(ring) = tiling::group_ring(tiling, weights, machine) else {
        unreachable!("`tiling::takes` says that there is room")
    };
    let array = |name: &str, elem: DType, len: u32| k.shared_aligned(name, elem, len, Swizzle::Bytes128.align());
    let rows = block_rows(tiling);
    let left = array("left", first.rows, ring.stages * rows * GROUP_DEPTH);
    let right = array("right", first.rows, ring.stages * ring.weights * tiling.columns * GROUP_DEPTH);
    let staged = parts.iter().map(|(spec, _)| spec.out).find(|out| out.bytes() == DType::BF16.bytes());
    let out = staged.map(|elem| array("staged", elem, rows * tiling.columns));
    // One thread says how many bytes the boxes have, and each arrives when its copies are there.
    let full = k.mbarrier("full", 1 + FOUR_WARPS, ring.stages);
    let blocks = tiling.kind.blocks();
    let empty = k.mbarrier("empty", blocks * MULTIPLYING / 32, ring.stages);
    let (tiles, count) = (k.scalar("tile_bound", DType::I32), k.scalar("block_count", DType::I32));
    let place = (blocks > 1).then(|| k.bind("place", k.block() % blocks as i32));
    let [first_tile, count] = [k.block(), count].map(|of| if blocks > 1 { of / blocks as i32 } else { of });
    let memory = &Memory { ring, left, right, out, full, empty, place };
    let of_block = |inner: &dyn Fn(&Gemm, &Args<'k>, Tile<'k>)| {
        let of_place = |spec: &Gemm, args: &Args<'k>, tile: Tile<'k>| inner(spec, args, part_of(k, tile, place));
        k.for_step("tile", first_tile, tiles, count, |tile| each_part(k, parts, of_parts, tile, &of_place));
    };
    let load = || {
        let turn = Turn::first(k, ring.stages);
        of_block(&|spec, args, tile| load(k, spec, args, memory, &turn, tile));
    };
    let multiply = || {
        let turn = Turn::first(k, ring.stages);
        let most = parts.iter().map(|(spec, _)| sums_of(spec, rows)).max().unwrap_or(0);
        let sums = k.sums("sums", most);
        of_block(&|spec, args, tile| {
            // All of them: what is not summed in this tile is of no further use.
            sums.clear(k, most);
            let share = Share::of(k, spec, tile);
            by_width(k, &group_widths(tiling), share.rows, &|width| {
                let of_group = share.of_group(k, spec, width);
                multiply(k, spec, memory, &turn, of_group, sums);
                finish(k, spec, args, memory, (tile, of_group), sums);
            });
        });
    };
    k.roles(vec![
        Part { warps: 0..LOADING, registers: Some(REGISTERS[0]), body: Box::new(load) },
        Part { warps: LOADING..WARPS, registers: Some(REGISTERS[1]), body: Box::new(multiply) },
    ]);
    if place.is_some() {
        // The other block may still bring weights here, or arrive.
        k.cluster_barrier();
    }
}

/// What the twin in this place has of a tile: one half of its rows, the first when they are odd one more. One that has none stands at
/// the tile's first, for what it brings to the other.
fn part_of<'k>(k: &'k Builder, tile: Tile<'k>, place: Option<Value<'k>>) -> Tile<'k> {
    let Some(place) = place else { return tile };
    let half = k.bind("half", (tile.rows + 1) / 2);
    let before = k.bind("before", (half * place).min(tile.rows - 1));
    let rows = k.bind("rows", place.eq(0).select(half, tile.rows - half));
    Tile { row: k.bind("row", tile.row + before), rows, ..tile }
}

/// The nearest to this row that a block has. One of twins may have none.
fn row_of<'k>(row: Value<'k>, tile: Tile<'k>, tiling: Tiling) -> Value<'k> {
    match tiling.kind {
        Kind::Twin => row.min((tile.rows - 1).max(0)),
        Kind::Group | Kind::Fma | Kind::Mma | Kind::Stream | Kind::Dot => row.min(tile.rows - 1),
    }
}

/// Columns of a weight that four warps multiply.
fn half(spec: &Gemm) -> u32 {
    spec.tiling.columns / (MULTIPLYING / FOUR_WARPS)
}

/// How a tile is shared by the warps that multiply: by columns, or by rows where it has no more columns than four of them take.
struct Share<'k> {
    /// Whether it is by rows, where there is such a tile.
    by_rows: Option<Value<'k>>,
    /// Rows that four warps have, at most.
    rows: Value<'k>,
}

/// The part of a tile that four warps multiply.
#[derive(Clone, Copy)]
struct OfFour<'k> {
    /// Its rows, in a width that has them.
    width: u32,
    /// Its first row, of the tile; none: that of the tile.
    row: Option<Value<'k>>,
    /// Its first column, of the tile.
    column: Value<'k>,
}

impl<'k> Share<'k> {
    fn of(k: &'k Builder, spec: &Gemm, tile: Tile<'k>) -> Share<'k> {
        let by_rows = may_share_rows(spec).then(|| k.bind("by_rows", tile.columns.le(half(spec) as i32)));
        let rows = by_rows.map_or(tile.rows, |by_rows| k.bind("rows", by_rows.select((tile.rows + 1) / 2, tile.rows)));
        Share { by_rows, rows }
    }

    /// Rows of the tile that are read, where four warps have these.
    fn read(&self, k: &'k Builder, width: u32) -> Value<'k> {
        self.by_rows.map_or(k.i32(width as i32), |by_rows| by_rows.select(k.i32(2 * width as i32), k.i32(width as i32)))
    }

    fn of_group(&self, k: &'k Builder, spec: &Gemm, width: u32) -> OfFour<'k> {
        let (group, none) = (group(k), k.i32(0));
        let column = group * half(spec) as i32;
        let by_rows = |is: Value<'k>| (k.bind("first_row", is.select(group * width as i32, none)), is.select(none, column));
        let (row, column) = self.by_rows.map(by_rows).map_or((None, column), |(row, column)| (Some(row), column));
        OfFour { width, row, column: k.bind("first_column", column) }
    }
}

impl<'k> OfFour<'k> {
    /// A row of the tile, of one of these.
    fn row(self, of: Value<'k>) -> Value<'k> {
        self.row.map_or(of, |first| first + of)
    }
}

/// Whether the last tile may have no more columns than four warps take.
fn may_share_rows(spec: &Gemm) -> bool {
    (1..=u64::from(half(spec))).contains(&(spec.n % u64::from(spec.tiling.columns)))
}

/// Sums of a thread, of so many rows.
fn sums_of(spec: &Gemm, width: u32) -> u32 {
    spec.weights.len() as u32 * half(spec) / LINES * (width / 2)
}

/// `then` with the narrowest of these widths that has so many rows.
fn by_width<'k>(k: &'k Builder, widths: &[u32], rows: Value<'k>, then: &dyn Fn(u32)) {
    match widths {
        [] => {}
        [last] => then(*last),
        [width, wider @ ..] => k.branch(rows.le(*width as i32), || then(*width), || by_width(k, wider, rows, then)),
    }
}

/// What the threads that load do for a tile.
fn load<'k>(k: &'k Builder, spec: &Gemm, args: &Args<'k>, memory: &Memory<'k>, turn: &Turn<'k>, tile: Tile<'k>) {
    let tiling = spec.tiling;
    let Memory { ring, left, right, full, empty, place: of_twins, .. } = *memory;
    let thread = k.thread();
    let parts = GROUP_DEPTH / PART;
    let (part, line) = (k.bind("part", thread % parts as i32), k.bind("line", thread / parts as i32));
    let step = FOUR_WARPS / parts;
    // A line's part p lies at p ^ (line % 8); the lines of a thread are a multiple of eight apart.
    let place = k.bind("place", line * GROUP_DEPTH as i32 + ((part ^ (line & 7)) * PART as i32));
    let lines = || (0..block_rows(tiling)).step_by(step as usize);
    let starts: Vec<_> = lines()
        .map(|first| {
            let start = args.row_start(k, spec, tile.row + row_of(line + first as i32, tile, tiling));
            k.bind("start", start + (part * PART as i32).cast(DType::I64))
        })
        .collect();
    let has_row: Vec<_> = lines().map(|first| k.bind("has_row", (line + first as i32).lt(tile.rows))).collect();
    let width = k.var("width", k.i32(block_rows(tiling) as i32));
    let share = Share::of(k, spec, tile);
    by_width(k, &group_widths(tiling), share.rows, &|narrowest| width.set(share.read(k, narrowest)));
    let width = k.bind("width", width.get());
    let expert = tile.expert.unwrap_or_else(|| k.i32(0));
    let stage_bytes = map(spec, 0).bytes() as i32 * (spec.weights.len() as u32 * tiling.kind.blocks()) as i32;
    // Of twins, each brings its columns to both.
    let first_column = of_twins.map(|place| k.bind("first_column", place * box_columns(tiling) as i32));
    let slices = spec.k.div_ceil(u64::from(GROUP_DEPTH)) as i32;
    k.for_range("slice", k.i32(0), k.i32(slices), |slice| {
        let stage = k.bind("stage", turn.stage.get());
        let along = k.bind("along", slice * GROUP_DEPTH as i32);
        empty.wait(stage, turn.round.get() - 1);
        k.when(thread.eq(0), || {
            full.arrive_expecting(stage, k.i32(stage_bytes));
            let begins = k.bind("begins", stage * (ring.weights * tiling.columns * GROUP_DEPTH) as i32);
            for (i, map) in (0..).zip(&args.maps) {
                let at = begins + (i * tiling.columns * GROUP_DEPTH) as i32;
                match first_column {
                    None => full.tile_copy(stage, (right, at), *map, [expert, tile.column, along]),
                    Some(first) => {
                        let at = at + first * GROUP_DEPTH as i32;
                        full.tile_copy_to_all(stage, (right, at), *map, [expert, tile.column + first, along]);
                    }
                }
            }
        });
        let begins = k.bind("begins", stage * (block_rows(tiling) * GROUP_DEPTH) as i32 + place);
        let is_edge = !spec.k.is_multiple_of(u64::from(GROUP_DEPTH));
        let inside = is_edge.then(|| k.bind("inside", (along + part * PART as i32).lt(spec.k as i32)));
        for ((first, start), has_row) in lines().zip(&starts).zip(&has_row) {
            let copy = || {
                let live = inside.map_or(*has_row, |inside| *has_row & inside);
                let at = begins + (first * GROUP_DEPTH) as i32;
                left.copy_from(at, args.rows, *start + along.cast(DType::I64), 16, Some(live));
            };
            // What a narrow tile does not read need not be there.
            if first == 0 { copy() } else { k.when(width.gt(first as i32), copy) }
        }
        full.arrive_copied(stage);
        turn.pass();
    });
}

/// The number of the four warps among those that multiply.
fn group<'k>(k: &'k Builder) -> Value<'k> {
    k.bind("group", k.thread() / FOUR_WARPS as i32 - (LOADING * 32 / FOUR_WARPS) as i32)
}

/// Sums the products of these four warps.
fn multiply<'k>(k: &'k Builder, spec: &Gemm, memory: &Memory<'k>, turn: &Turn<'k>, part: OfFour<'k>, sums: Sums<'k>) {
    let width = part.width;
    let tiling = spec.tiling;
    let Memory { ring, left, right, full, .. } = *memory;
    let rows_of_block = block_rows(tiling);
    // Of a warp one lane for each block that is to know.
    let lane = k.thread() % 32;
    let says = match memory.place {
        None => k.bind("is_first", lane.eq(0)),
        Some(_) => k.bind("says", lane.lt(tiling.kind.blocks() as i32)),
    };
    let over = |stage: Value<'k>| match memory.place {
        None => memory.empty.arrive(stage),
        Some(_) => memory.empty.arrive_in_block(stage, lane),
    };
    let column = k.bind("column", part.column * GROUP_DEPTH as i32);
    let first = part.row.map(|row| k.bind("first", row * GROUP_DEPTH as i32));
    let products: Vec<[u32; 2]> =
        (0..spec.weights.len() as u32).flat_map(|w| (0..half(spec) / LINES).map(move |block| [w, block])).collect();
    let before = k.var("before", k.i32(0));
    let slices = spec.k.div_ceil(u64::from(GROUP_DEPTH)) as i32;
    k.for_range("slice", k.i32(0), k.i32(slices), |slice| {
        let stage = k.bind("stage", turn.stage.get());
        full.wait(stage, turn.round.get());
        // Rows were copied by threads.
        k.fence();
        let of_stage = stage * (rows_of_block * GROUP_DEPTH) as i32;
        let at = first.map_or(of_stage, |first| of_stage + first);
        let rows = left.panels(at, rows_of_block, Swizzle::Bytes128, false);
        let begins = k.bind("begins", stage * (ring.weights * tiling.columns * GROUP_DEPTH) as i32 + column);
        for (i, [w, block]) in (0..).zip(&products) {
            let at = begins + ((w * tiling.columns + block * LINES) * GROUP_DEPTH) as i32;
            let weights = Factor::Shared(right.panels(at, tiling.columns, Swizzle::Bytes128, false));
            sums.start_group_product(i * (width / 2), [width, GROUP_DEPTH], weights, rows);
        }
        // Those of this stage go on while the next is waited for; those of the one before are over.
        k.wait_products(products.len() as u32);
        k.when(says & slice.gt(0), || over(before.get()));
        before.set(stage);
        turn.pass();
    });
    k.wait_products(0);
    k.when(says, || over(before.get()));
}

/// Puts the sums of four warps through the body, and stores what comes of them.
fn finish<'k>(
    k: &'k Builder,
    spec: &Gemm,
    args: &Args<'k>,
    memory: &Memory<'k>,
    (tile, part): (Tile<'k>, OfFour<'k>),
    sums: Sums<'k>,
) {
    let width = part.width;
    let blocks = half(spec) / LINES;
    let (warp, lane) = (k.bind("warp", k.thread() % FOUR_WARPS as i32 / 32), k.bind("lane", k.thread() % 32));
    let first = k.bind("first_column", part.column + warp * 16);
    let (column, row) = (k.bind("column", first + lane / 4), k.bind("row", part.row(lane % 4 * 2)));
    let staged = memory.out.filter(|staged| staged.elem() == spec.out);
    let columns = || (0..blocks).flat_map(|block| [(block, 0), (block, 8)]);
    let rows = || (0..width / 8).flat_map(|eight| [(eight, 0), (eight, 1)]);
    let place = |w: u32, (block, down): (u32, u32), (eight, next): (u32, u32)| {
        (w * blocks + block) * (width / 2) + 4 * eight + down / 4 + next
    };
    let products = |of_column: (u32, u32), of_row: (u32, u32)| -> Vec<_> {
        (0..spec.weights.len() as u32).map(|w| sums.load(place(w, of_column, of_row), 1)).collect()
    };
    let Some(staged) = staged else {
        let base = Spot::at(k, spec, tile.row + row, tile.column + column);
        // A branch for each row, and none for each element: a code generator may hold each address against those of all branches beside its own.
        for (eight, next) in rows() {
            k.when((row + (8 * eight + next) as i32).lt(tile.rows), || {
                for (block, down) in columns() {
                    let (below, further) = (8 * eight + next, block * LINES + down);
                    tile.when_column(k, spec, column, further, || {
                        let spot = base.moved(k, spec, below, further);
                        args.finish(k, spec, tile.expert, spot, &products((block, down), (eight, next)));
                    });
                }
            });
        }
        return;
    };
    // All have stored what they had there.
    k.barrier_of(MULTIPLIERS, MULTIPLYING);
    for (block, down) in columns() {
        let column = k.bind("column", column + (block * LINES + down) as i32);
        let inside = k.bind("inside", column.min(tile.columns - 1) + tile.column);
        for (eight, next) in rows() {
            let row = k.bind("row", row + (8 * eight + next) as i32);
            // What is beyond the edge is computed of what is inside, and not stored.
            let spot = Spot::at(k, spec, tile.row + row_of(row, tile, spec.tiling), inside);
            let value = args.value(k, spec, tile.expert, spot, &products((block, down), (eight, next)));
            sums.set(place(0, (block, down), (eight, next)), value.cast(DType::F32));
        }
    }
    let pitch = spec.tiling.columns as i32;
    // Part p of a row lies at p ^ (row % 8): so eight rows are in all banks.
    let at = |row: Value<'k>, part: Value<'k>| row * pitch + ((part ^ (row & 7)) * PART as i32);
    let (of_lane, of_part) =
        (k.bind("of_lane", part.row(lane % 8 + lane / 16 * 8)), k.bind("of_part", first / PART as i32 + lane / 8 % 2));
    for (block, eight) in (0..blocks).flat_map(|block| (0..width / 8).step_by(2).map(move |eight| (block, eight))) {
        let pair = |eight: u32, down: u32| {
            let place = block * (width / 2) + 4 * eight + down / 4;
            sums.load(place, 2).cast(spec.out)
        };
        let pairs = [pair(eight, 0), pair(eight, 8), pair(eight + 1, 0), pair(eight + 1, 8)];
        let row = k.bind("row", of_lane + (8 * eight) as i32);
        staged.store_matrix(at(row, of_part + (block * LINES / PART) as i32), &pairs, true);
    }
    k.barrier_of(MULTIPLIERS, MULTIPLYING);
    let rows = if part.row.is_some() { (2 * width).min(block_rows(spec.tiling)) } else { width };
    store(k, spec, args, (tile, rows), staged, at);
}

/// Stores the results of a tile, which are in shared memory.
fn store<'k>(
    k: &'k Builder,
    spec: &Gemm,
    args: &Args<'k>,
    (tile, rows): (Tile<'k>, u32),
    staged: Array<'k>,
    at: impl Fn(Value<'k>, Value<'k>) -> Value<'k>,
) {
    let lanes = [PART, 4, 2].into_iter().find(|lanes| spec.n.is_multiple_of(u64::from(*lanes))).unwrap_or(1);
    let bytes = lanes * spec.out.bytes() as u32;
    let parts = spec.tiling.columns / PART;
    let thread = k.bind("thread", k.thread() - (LOADING * 32) as i32);
    let (part, first) = (k.bind("part", thread % parts as i32), k.bind("first", thread / parts as i32));
    for next in (0..rows).step_by((MULTIPLYING / parts) as usize) {
        let row = k.bind("row", first + next as i32);
        let from = k.bind("from", at(row, part));
        for along in (0..PART).step_by(lanes as usize) {
            let column = k.bind("column", part * PART as i32 + along as i32);
            k.when(row.lt(tile.rows) & column.lt(tile.columns), || {
                let value = staged.load_aligned(from + along as i32, lanes, bytes);
                let spot = Spot::at(k, spec, tile.row + row, tile.column + column);
                args.out.store_aligned(spot.place, value, bytes);
            });
        }
    }
}
