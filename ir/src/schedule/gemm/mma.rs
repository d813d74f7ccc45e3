//! A tile of products on a GPU by products of small matrices: copies to shared memory run ahead of four warps that multiply.
//!
//! ```text
//!   stages (3)       left: rows of the tile   a stage: 32 elements along k of every row and column, 64 bytes a line;
//!  +-----+-----+     right: 64 columns of     `copy` fills the stage that was multiplied last while the next is multiplied,
//!  | s+1 | s+2 |     each of w weights        `wait` and one barrier a stage say that its bytes are there.
//!  +-----+-----+
//!  |  s: 16 k at a time                       warps (64 rows):  +-------+-------+  each 32 x 32 of every weight:
//!  v                                                            |   0   |   1   |  2 x 4 products m16n8k16 for
//!  load_matrix: 2 of rows, 2 w of columns                       +-------+-------+  2 + 2 w loads of four matrices
//!  mma: 8 w                                                     |   2   |   3   |
//!                                                               +-------+-------+
//! ```
//!
//! A line lies in its 64 bytes in an order that its number gives: 16-byte part `c` of line `l` is at `c ^ (l / 2 % 4)`. The eight rows
//! of a matrix are then in all 32 banks, each bank once, and so are the copies of eight neighbouring threads.
//!
//! **FLOPs and bytes of a tile of 64 x 64**, a step of 32 along k: 2 x 64 x 64 x 32 w = 262,144 w FLOPs from 4,096 (1 + w) bytes,
//! 32 w / (1 + w) FLOPs a byte: 43 with two weights. The floor is the larger of the bytes from DRAM, which are those of the weights of
//! the experts hit, and the FLOPs at the rate of the matrix instruction. Neighbouring blocks share their rows; an expert with r
//! rows reads its weights `ceil(r / 64)` times from the second cache, which at 43 FLOPs a byte and 5 TB/s feeds 215 TFLOP/s.
//!
//! **How far from the floor**, by instructions of a warp for 16 steps of k, two weights: 16 products (2 clocks of a processor each
//! where it makes 1024 multiply-adds a clock: 32) and 6 loads of four matrices (4 clocks of shared memory each: 24), which overlap
//! only between the warps of several blocks; beside them a few additions, and a barrier in two such steps. So a third to a half of the
//! products' rate is what to expect; higher tiles read less for each product, and are the work of later kernels.
//!
//! Rows and columns beyond the edge, and elements beyond K, are zeros that cost no traffic. A sum adds its products in order of k under
//! every tile's size, so that these give the same bits; [`Kind::Fma`](crate::tiling::Kind) rounds in another order.

use super::{Args, Gemm, Side, Spot, Tile};
use crate::kernel::build::{Array, Sums};
use crate::kernel::{Builder, Value, fragment};
use crate::tiling::{MATRIX, MMA_DEPTH, MMA_THREADS, mma_copy_bytes, mma_stages, warp_matrices};
use crate::{DType, Machine};

/// Elements of a 16-byte part of a line.
const PART: u32 = 8;
/// Alignment of a side: that of a line of all 32 banks.
const ALIGN: u32 = 128;

/// Shared memory of a tile: the stages of the rows, then those of each weight's columns.
pub(super) fn sides(spec: &Gemm, machine: &Machine) -> Vec<Side> {
    let stages = stages(spec, machine);
    let side = |name: String, lines: u32| Side { name, elem: spec.rows, len: stages * lines * MMA_DEPTH, align: ALIGN };
    let right = (0..spec.weights.len()).map(|i| side(format!("right{i}"), spec.tiling.columns));
    std::iter::once(side("left".to_string(), spec.tiling.rows)).chain(right).collect()
}

fn stages(spec: &Gemm, machine: &Machine) -> u32 {
    mma_stages(spec.tiling, spec.weights.len(), machine).unwrap_or(2)
}

/// All of a tile.
pub(super) fn tile<'k>(k: &'k Builder, spec: &Gemm, machine: &Machine, args: &Args<'k>, shared: &[Array<'k>], tile: Tile<'k>) {
    let tiling = spec.tiling;
    let stages = stages(spec, machine);
    let left = Lines { array: shared[0], lines: tiling.rows };
    let right: Vec<_> =
        shared[1..=spec.weights.len()].iter().map(|array| Lines { array: *array, lines: tiling.columns }).collect();
    let bring = Bring::plan(k, spec, machine);
    let row_starts = bring.lines(tiling.rows, |line| args.row_start(k, spec, tile.row + line.min(tile.rows - 1)));
    let weight_starts =
        bring.lines(tiling.columns, |line| args.weight_start(k, spec, tile, tile.column + line.min(tile.columns - 1)));
    // Rows that are not there are not read; columns only where the last tile lacks some.
    let has_edge = !spec.n.is_multiple_of(u64::from(tiling.columns));
    let has_row = bring.lines(tiling.rows, |line| Some(k.bind("has_row", line.lt(tile.rows))));
    let has_column = bring.lines(tiling.columns, |line| has_edge.then(|| k.bind("has_column", line.lt(tile.columns))));
    let stage_of = |stage: Value<'k>, slice: Value<'k>| {
        let inside = bring.inside(k, spec, slice);
        bring.copy(k, left, args.rows, stage, slice, (&row_starts, &has_row), inside);
        for (right, weights) in right.iter().zip(&args.weights) {
            bring.copy(k, *right, *weights, stage, slice, (&weight_starts, &has_column), inside);
        }
    };

    let warp = Warp::of(k, spec);
    let sums = k.sums("sums", fragment::SUMS * warp.products() * right.len() as u32);
    let slices = spec.k.div_ceil(u64::from(MMA_DEPTH)) as i32;
    // A group a stage, empty ones too: so that what is waited for is the same in every turn.
    for stage in 0..stages as i32 - 1 {
        if stage < slices {
            stage_of(k.i32(stage), k.i32(stage * MMA_DEPTH as i32));
        }
        k.commit();
    }
    let (read, filled) = (k.var("read", k.i32(0)), k.var("filled", k.i32(stages as i32 - 1)));
    let next = |stage: Value<'k>| {
        let next = k.bind("next", stage + 1);
        next.eq(stages as i32).select(k.i32(0), next)
    };
    k.for_range("slice", k.i32(0), k.i32(slices), |slice| {
        k.wait_copies(stages - 2);
        // All copies of this stage have arrived, and no warp reads the stage that is filled next any more.
        k.barrier();
        let ahead = k.bind("ahead", slice + (stages as i32 - 1));
        k.when(ahead.lt(slices), || stage_of(filled.get(), ahead * MMA_DEPTH as i32));
        k.commit();
        warp.multiply(k, read.get(), left, &right, sums);
        read.set(next(read.get()));
        filled.set(next(filled.get()));
    });
    warp.finish(k, spec, args, tile, sums, right.len() as u32);
}

/// The lines of one side of the tile in shared memory, stage by stage, 32 elements each.
#[derive(Clone, Copy)]
struct Lines<'k> {
    array: Array<'k>,
    lines: u32,
}

impl<'k> Lines<'k> {
    /// Where a stage begins.
    fn stage(self, stage: Value<'k>) -> Value<'k> {
        stage * (self.lines * MMA_DEPTH) as i32
    }
}

/// In which order the parts of a line lie: part `c` of line `l` is at `c ^ order(l)`.
fn order(line: Value<'_>) -> Value<'_> {
    (line >> 1) & (MMA_DEPTH / PART - 1) as i32
}

/// What a thread copies: elements `along ..` of every `step`-th line from `line` on.
struct Bring<'k> {
    bytes: u32,
    along: Value<'k>,
    line: Value<'k>,
    step: u32,
    /// Where the elements go, from the beginning of the stage.
    place: Value<'k>,
}

impl<'k> Bring<'k> {
    fn plan(k: &'k Builder, spec: &Gemm, machine: &Machine) -> Bring<'k> {
        let bytes = mma_copy_bytes(spec.k, spec.rows, machine).unwrap_or(4);
        let elements = bytes / spec.rows.bytes() as u32;
        let copies = MMA_DEPTH / elements;
        let along = k.bind("along", k.thread() % copies as i32 * elements as i32);
        let line = k.bind("line", k.thread() / copies as i32);
        let part = ((along / PART as i32) ^ order(line)) * PART as i32;
        let within = if elements < PART { along % PART as i32 } else { k.i32(0) };
        let place = k.bind("place", line * MMA_DEPTH as i32 + part + within);
        Bring { bytes, along, line, step: MMA_THREADS / copies, place }
    }

    /// `of` each of the thread's lines of a side that has so many.
    fn lines<T>(&self, lines: u32, of: impl Fn(Value<'k>) -> T) -> Vec<T> {
        (0..lines).step_by(self.step as usize).map(|line| of(self.line + line as i32)).collect()
    }

    /// Whether the thread's elements of a slice are before K, where not all are.
    fn inside(&self, k: &'k Builder, spec: &Gemm, slice: Value<'k>) -> Option<Value<'k>> {
        let is_edge = !spec.k.is_multiple_of(u64::from(MMA_DEPTH));
        is_edge.then(|| k.bind("inside", (slice + self.along).lt(spec.k as i32)))
    }

    /// Starts the copies of a slice of a side to a stage.
    #[allow(clippy::too_many_arguments, reason = "a side is many things")]
    fn copy(
        &self,
        k: &'k Builder,
        to: Lines<'k>,
        from: Array<'k>,
        stage: Value<'k>,
        slice: Value<'k>,
        (starts, has_line): (&[Value<'k>], &[Option<Value<'k>>]),
        inside: Option<Value<'k>>,
    ) {
        let at = k.bind("at", (slice + self.along).cast(DType::I64));
        let place = k.bind("to", to.stage(stage) + self.place);
        let copy = || {
            for (i, (start, has_line)) in (0..).zip(starts.iter().zip(has_line)) {
                let live = [*has_line, inside].into_iter().flatten().reduce(|a, b| a & b);
                to.array.copy_from(place + i * (self.step * MMA_DEPTH) as i32, from, *start + at, self.bytes, live);
            }
        };
        // There may be more threads along the lines than lines.
        if to.lines < self.step { k.when(self.line.lt(to.lines as i32), copy) } else { copy() }
    }
}

/// The part of a tile that a warp computes.
struct Warp<'k> {
    /// Matrices of rows and of columns, without those that are beyond N in every warp.
    matrices: [u32; 2],
    lane: Value<'k>,
    row: Value<'k>,
    column: Value<'k>,
    /// Where the row that the lane names for a load is, of rows and of columns, from the beginning of a stage; 16 elements further
    /// along k are at these `^ 16`.
    rows_at: Value<'k>,
    columns_at: Value<'k>,
}

impl<'k> Warp<'k> {
    fn of(k: &'k Builder, spec: &Gemm) -> Warp<'k> {
        let [row_matrices, column_matrices] = warp_matrices(spec.tiling);
        let (rows, columns, _) = MATRIX.extents();
        let beside = (spec.tiling.columns / (column_matrices * columns)) as i32;
        let of_result = spec.n.div_ceil(u64::from(columns)).min(u64::from(column_matrices)) as u32;
        let (warp, lane) = (k.bind("warp", k.thread() / 32), k.bind("lane", k.thread() % 32));
        let row = k.bind("first_row", warp / beside * (row_matrices * rows) as i32);
        let column = k.bind("first_column", warp % beside * (column_matrices * columns) as i32);
        let place =
            |line: Value<'k>, part: Value<'k>| k.bind("place", line * MMA_DEPTH as i32 + ((part ^ order(lane)) * PART as i32));
        // Rows 0..8 and 8..16, then the same eight elements on. Columns 0..8, these eight elements on, then columns 8..16.
        let rows_at = place(row + lane % 16, lane / 16);
        let columns_at = place(column + lane % 8 + lane / 16 * 8, lane / 8 % 2);
        Warp { matrices: [row_matrices, of_result], lane, row, column, rows_at, columns_at }
    }

    /// Products of one weight.
    fn products(&self) -> u32 {
        self.matrices[0] * self.matrices[1]
    }

    /// Adds the products of a stage to the sums: `[weight, row matrix, column matrix]`.
    fn multiply(&self, k: &'k Builder, stage: Value<'k>, left: Lines<'k>, right: &[Lines<'k>], sums: Sums<'k>) {
        let (rows, columns, depth) = MATRIX.extents();
        let lines = |line: u32| (line * MMA_DEPTH) as i32;
        let stage = k.bind("stage", stage);
        k.for_step("step", k.i32(0), k.i32(MMA_DEPTH as i32), k.i32(depth as i32), |step| {
            let rows_at = k.bind("rows_at", left.stage(stage) + (self.rows_at ^ step));
            let a: Vec<_> = (0..self.matrices[0]).map(|m| left.array.load_matrix(rows_at + lines(m * rows), 4)).collect();
            for (w, right) in (0..).zip(right) {
                let columns_at = k.bind("columns_at", right.stage(stage) + (self.columns_at ^ step));
                for n in (0..self.matrices[1]).step_by(2) {
                    let b = right.array.load_matrix(columns_at + lines(n * columns), 4);
                    for (n, b) in (n..self.matrices[1]).zip(b.chunks(2)) {
                        for (m, a) in (0..).zip(&a) {
                            sums.add_product(self.number(w, m, n), MATRIX, a, b);
                        }
                    }
                }
            }
        });
    }

    fn number(&self, weight: u32, row_matrix: u32, column_matrix: u32) -> u32 {
        weight * self.products() + row_matrix * self.matrices[1] + column_matrix
    }

    /// Puts the lane's sums through the body, those of neighbouring columns together where none can be beyond the edge alone.
    fn finish(&self, k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>, sums: Sums<'k>, weights: u32) {
        let (rows, columns, _) = MATRIX.extents();
        let lanes = if spec.n.is_multiple_of(2) { Args::even_lanes(spec, 2) } else { 1 };
        let row = k.bind("row", self.row + self.lane / 4);
        let column = k.bind("column", self.column + self.lane % 4 * 2);
        let first = Spot::at(k, spec, tile.row + row, tile.column + column);
        let each_of_row = |m: u32, half: u32| {
            let down = m * rows + half * 8;
            for (n, part) in (0..self.matrices[1]).flat_map(|n| (0..2).step_by(lanes as usize).map(move |part| (n, part))) {
                let along = n * columns + part;
                let put = || {
                    let product = |w| sums.get(self.number(w, m, n), half * 2 + part, lanes);
                    let products: Vec<Value> = (0..weights).map(product).collect();
                    args.finish(k, spec, tile.expert, first.moved(k, spec, down, along), &products);
                };
                tile.when_column(k, spec, column, along, put);
            }
        };
        for (m, half) in (0..self.matrices[0]).flat_map(|m| [(m, 0), (m, 1)]) {
            k.when((row + (m * rows + half * 8) as i32).lt(tile.rows), || each_of_row(m, half));
        }
    }
}
