//! A tile of products on a GPU by products of four warps: a block is persistent, and its warps have different work.
//!
//! ```text
//!             columns of the result, 128 or 256         four warps load, stage by stage (64 elements along k of every line):
//!            (all of each of w weights' columns)         * weights by boxes of a tensor map, as they lie in memory;
//!        +--------------------+--------------------+     * rows by boxes, or where they are gathered by copies of 16 bytes.
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
//! **Rows of an expert by boxes.** A box of rows must not reach into the next expert's. Their tensor is `[pairs, lines of a box, K]`, in which
//! both outer strides are K: from a row, line l is the l-th below. A box that begins at a negative line has zeros first, and its last line
//! is where it should end. So the rows of a tile are the last lines of those that are multiplied, and `lead` lines come before them. The
//! same holds for results, of which boxes store the lines that are inside. Behind the last row memory goes on for a box
//! ([`tiling::GROUP_BOX_ROWS`]), so that the tensor lies inside of it.
//!
//! The sums lie across the result: neighbours of a lane are rows. 16-bit results go through shared memory, transposed on the way
//! ([`crate::kernel::Stmt::StoreMatrix`]), and are stored by boxes, which are read while the next tile is multiplied. Others are stored from
//! registers. Meanwhile the other warps load for the next tile.
//!
//! **Twins** ([`Kind::Twin`]) are two blocks of a cluster that make a tile together. Each has half of its rows, in whole boxes, and of
//! every box of weights it brings half of the columns to both. So the second cache gives weights once for both, and a stage is full when both have brought
//! their part and empty when the products of both are over: a warp that multiplies says so in both. Their turns are the same, also where
//! a tile has one row and the second twin none.
//!
//! **FLOPs and bytes of a stage** of 128 rows, two weights of 128 columns: 2 x 128 x 256 x 64 = 4.2 MFLOP from 49,152 bytes of shared
//! memory, 85 FLOPs a byte. A processor that makes 2048 multiply-adds a clock takes 1024 clocks for it, and reads 6 KiB for each
//! 64 x 128 x 16 product of 64 clocks: 96 of the 128 bytes that shared memory has a clock. Below 64 rows the reads decide: a product of
//! n rows takes max(n / 2, 16 + n / 4) clocks. The floor is the larger of the bytes of the weights of the experts hit, from DRAM, and
//! the FLOPs at the rate of the instruction. From the second cache the same stage takes its 49,152 bytes, 85 FLOPs a byte; those of
//! twins, 8.4 MFLOP together, 65,536 bytes, 128 FLOPs a byte.

mod finish;
mod lines;

use super::{Args, Gemm, Rows, Tile, each_part};
use crate::kernel::build::{Array, Sums, Var};
use crate::kernel::{Builder, Factor, Part, Stages, Swizzle, TensorMap, Value};
use crate::tiling::{self, GROUP_DEPTH, GROUP_THREADS, Kind, Ring, block_rows, group_widths};
use crate::{DType, Extent, Machine, Tiling};
use finish::{finish, stores};
use lines::{OfFour, Share, by_width, corner, each_box, half, lead, part_of, row_at, sums_of};
pub(super) use lines::{boxes, has_boxes_of_results, has_boxes_of_rows, tensor};

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
const _: () = assert!(LINES == GROUP_DEPTH, "the columns of a product are those of a box of 128 bytes of results");
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
    /// Rows of the stages: the right factor.
    rows: Array<'k>,
    /// Weights of the stages: the left factor.
    weights: Array<'k>,
    /// Results that boxes store: for each 64 columns the rows of a tile.
    out: Option<Array<'k>>,
    /// Whether every thread that loads arrives when a stage is full; else the one that asks for the boxes.
    all_arrive: bool,
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
    let of_rows = array("rows", first.rows, ring.stages * rows * GROUP_DEPTH);
    let of_weights = array("weights", first.rows, ring.stages * ring.weights * tiling.columns * GROUP_DEPTH);
    let staged = parts.iter().find(|(spec, _)| has_boxes_of_results(spec)).map(|(spec, _)| spec.out);
    let out = staged.map(|elem| array("staged", elem, rows * tiling.columns));
    // One thread says how many bytes the boxes have, and where there are copies of threads each arrives when its own are there.
    let all_arrive = parts.iter().any(|(spec, _)| !has_boxes_of_rows(spec));
    let full = k.mbarrier("full", if all_arrive { 1 + FOUR_WARPS } else { 1 }, ring.stages);
    let blocks = tiling.kind.blocks();
    let empty = k.mbarrier("empty", blocks * MULTIPLYING / 32, ring.stages);
    let (tiles, count) = (k.scalar("tile_bound", DType::I32), k.scalar("block_count", DType::I32));
    let place = (blocks > 1).then(|| k.bind("place", k.block() % blocks as i32));
    let [first_tile, count] = [k.block(), count].map(|of| if blocks > 1 { of / blocks as i32 } else { of });
    let memory = &Memory { ring, rows: of_rows, weights: of_weights, out, all_arrive, full, empty, place };
    let of_block = |inner: &dyn Fn(&Gemm, &Args<'k>, Tile<'k>)| {
        let of_place = |spec: &Gemm, args: &Args<'k>, tile: Tile<'k>| inner(spec, args, part_of(k, tiling, tile, place));
        k.for_step("tile", first_tile, tiles, count, |tile| each_part(k, parts, of_parts, tile, &of_place));
    };
    let load = || {
        let loads = || {
            let turn = Turn::first(k, ring.stages);
            of_block(&|spec, args, tile| load(k, spec, args, memory, &turn, tile));
        };
        if all_arrive { loads() } else { k.when(k.thread().eq(0), loads) }
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
                let lines = share.lines(k, width);
                let part = share.of_group(k, spec, width, lead(k, args, tile, lines));
                multiply(k, spec, memory, &turn, part, sums);
                finish(k, spec, args, memory, (tile, part, lines), sums);
            });
        });
        if staged.is_some() {
            k.when(stores(k), || k.wait_stores());
        }
    };
    k.roles(vec![
        Part { warps: 0..LOADING, registers: Some(REGISTERS[0]), body: Box::new(load) },
        Part { warps: LOADING..WARPS, registers: Some(REGISTERS[1]), body: Box::new(multiply) },
    ]);
    if place.is_some() {
        // The other block may still bring weights here, or arrive: all its arrivals are there when this is over.
        k.cluster_barrier();
    }
}

/// What the threads that load do for a tile.
fn load<'k>(k: &'k Builder, spec: &Gemm, args: &Args<'k>, memory: &Memory<'k>, turn: &Turn<'k>, tile: Tile<'k>) {
    let tiling = spec.tiling;
    let Memory { ring, full, empty, place: of_twins, .. } = *memory;
    let thread = k.thread();
    let lines = k.var("lines", k.i32(block_rows(tiling) as i32));
    let share = Share::of(k, spec, tile);
    by_width(k, &group_widths(tiling), share.rows, &|narrowest| lines.set(share.lines(k, narrowest)));
    let lines = k.bind("lines", lines.get());
    let lead = lead(k, args, tile, lines);
    let of_threads = match args.rows {
        Rows::Array(rows) => Some((rows, Copies::of(k, spec, args, (tile, lead, lines)))),
        Rows::Boxes(_) => None,
    };
    let expert = tile.expert.unwrap_or_else(|| k.i32(0));
    let of_weights = k.i32(map(spec, 0).bytes() as i32 * (spec.weights.len() as u32 * tiling.kind.blocks()) as i32);
    let line_bytes = (u64::from(GROUP_DEPTH) * spec.rows.bytes()) as i32;
    let stage_bytes = if of_threads.is_some() { of_weights } else { of_weights + lines * line_bytes };
    let stage_bytes = k.bind("stage_bytes", stage_bytes);
    // Of twins, each brings its columns to both.
    let first_column = of_twins.map(|place| k.bind("first_column", place * box_columns(tiling) as i32));
    let slices = spec.k.div_ceil(u64::from(GROUP_DEPTH)) as i32;
    k.for_range("slice", k.i32(0), k.i32(slices), |slice| {
        let stage = k.bind("stage", turn.stage.get());
        let along = k.bind("along", slice * GROUP_DEPTH as i32);
        empty.wait(stage, turn.round.get() - 1);
        let of_rows = k.bind("of_rows", stage * (block_rows(tiling) * GROUP_DEPTH) as i32);
        let by_boxes = || {
            full.arrive_expecting(stage, stage_bytes);
            let begins = k.bind("begins", stage * (ring.weights * tiling.columns * GROUP_DEPTH) as i32);
            for (i, map) in (0..).zip(&args.maps) {
                let at = begins + (i * tiling.columns * GROUP_DEPTH) as i32;
                match first_column {
                    None => full.tile_copy(stage, (memory.weights, at), *map, [expert, tile.column, along]),
                    Some(first) => {
                        let at = at + first * GROUP_DEPTH as i32;
                        full.tile_copy_to_all(stage, (memory.weights, at), *map, [expert, tile.column + first, along]);
                    }
                }
            }
            let Rows::Boxes(rows) = args.rows else { return };
            each_box(k, tiling, lines, &|line| {
                let at = of_rows + (line * GROUP_DEPTH) as i32;
                full.tile_copy(stage, (memory.rows, at), rows, corner(k, args, tile, lead, (line, along)));
            });
        };
        // Here is thread 0 alone, or all threads that load.
        if memory.all_arrive {
            k.when(thread.eq(0), by_boxes)
        } else {
            by_boxes()
        }
        match &of_threads {
            Some((rows, copies)) => {
                copies.start(k, spec, (*rows, memory.rows), of_rows, along, lines);
                full.arrive_copied(stage);
            }
            None if memory.all_arrive => full.arrive(stage),
            None => {}
        }
        turn.pass();
    });
}

/// The rows of a tile that a thread copies, 16 bytes of each a stage.
struct Copies<'k> {
    /// Which 16 bytes of a line.
    part: Value<'k>,
    /// Where those of its first line go, from the beginning of a stage on.
    place: Value<'k>,
    /// Of each of its lines where the row begins, and whether there is one.
    rows: Vec<(Value<'k>, Value<'k>)>,
}

impl<'k> Copies<'k> {
    /// Lines from one of a thread's to the next.
    const STEP: u32 = FOUR_WARPS / (GROUP_DEPTH / PART);

    fn of(
        k: &'k Builder,
        spec: &Gemm,
        args: &Args<'k>,
        (tile, lead, lines): (Tile<'k>, Option<Value<'k>>, Value<'k>),
    ) -> Copies<'k> {
        let parts = (GROUP_DEPTH / PART) as i32;
        let (part, line) = (k.bind("part", k.thread() % parts), k.bind("line", k.thread() / parts));
        // A line's part p lies at p ^ (line % 8); the lines of a thread are a multiple of eight apart.
        let place = k.bind("place", line * GROUP_DEPTH as i32 + ((part ^ (line & 7)) * PART as i32));
        let row = |first: u32| {
            // A line that is not read is taken for the last one that is.
            let row = row_at(tile, lead, (line + first as i32).min(lines - 1));
            let start = args.row_start(k, spec, tile.row + row.nearest);
            (k.bind("start", start + (part * PART as i32).cast(DType::I64)), k.bind("has_row", row.is_there))
        };
        let rows = (0..block_rows(spec.tiling)).step_by(Copies::STEP as usize).map(row).collect();
        Copies { part, place, rows }
    }

    /// Starts those of the lines that are read, of a stage that begins at element `begins`.
    fn start(
        &self,
        k: &'k Builder,
        spec: &Gemm,
        (from, to): (Array<'k>, Array<'k>),
        begins: Value<'k>,
        along: Value<'k>,
        lines: Value<'k>,
    ) {
        let begins = k.bind("begins", begins + self.place);
        let is_edge = !spec.k.is_multiple_of(u64::from(GROUP_DEPTH));
        let inside = is_edge.then(|| k.bind("inside", (along + self.part * PART as i32).lt(spec.k as i32)));
        for (i, (start, has_row)) in (0..).zip(&self.rows) {
            let first = i * Copies::STEP;
            let copy = || {
                let live = inside.map_or(*has_row, |inside| *has_row & inside);
                let at = begins + (first * GROUP_DEPTH) as i32;
                to.copy_from(at, from, *start + along.cast(DType::I64), 16, Some(live));
            };
            // What a narrow tile does not read need not be there.
            if first == 0 { copy() } else { k.when(lines.gt(first as i32), copy) }
        }
    }
}

/// Sums the products of these four warps.
fn multiply<'k>(k: &'k Builder, spec: &Gemm, memory: &Memory<'k>, turn: &Turn<'k>, part: OfFour<'k>, sums: Sums<'k>) {
    let width = part.width;
    let tiling = spec.tiling;
    let Memory { ring, full, .. } = *memory;
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
    let first = part.line.map(|line| k.bind("first", line * GROUP_DEPTH as i32));
    let products: Vec<[u32; 2]> =
        (0..spec.weights.len() as u32).flat_map(|w| (0..half(spec) / LINES).map(move |block| [w, block])).collect();
    let before = k.var("before", k.i32(0));
    let slices = spec.k.div_ceil(u64::from(GROUP_DEPTH)) as i32;
    k.for_range("slice", k.i32(0), k.i32(slices), |slice| {
        let stage = k.bind("stage", turn.stage.get());
        full.wait(stage, turn.round.get());
        // Rows were copied by threads.
        if !has_boxes_of_rows(spec) {
            k.fence();
        }
        let of_stage = stage * (rows_of_block * GROUP_DEPTH) as i32;
        let at = first.map_or(of_stage, |first| of_stage + first);
        let rows = memory.rows.panels(at, rows_of_block, Swizzle::Bytes128, false);
        let begins = k.bind("begins", stage * (ring.weights * tiling.columns * GROUP_DEPTH) as i32 + column);
        for (i, [w, block]) in (0..).zip(&products) {
            let at = begins + ((w * tiling.columns + block * LINES) * GROUP_DEPTH) as i32;
            let weights = Factor::Shared(memory.weights.panels(at, tiling.columns, Swizzle::Bytes128, false));
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
