//! A tile of products on a GPU by products of small matrices: copies to shared memory run ahead of four or eight warps that
//! multiply.
//!
//! ```text
//!   stages (2 to 4)   left: rows of the tile    a stage: 64 (or 32) elements along k of every line, 128 (64) bytes;
//!  +-----+-----+      right: columns of each    copies fill the stage that was multiplied last, a part of it beside each step;
//!  | s+1 | s+2 |      of w weights              in the last step one wait and one barrier say that the next stage is there.
//!  +-----+-----+
//!  |  s: 16 k at a time                         warps (128 x 128, w = 2):  +----+----+----+----+  each 64 x 32 of every weight:
//!  v                                                                       | 0  | 1  | 2  | 3  |  4 x 4 products m16n8k16 for
//!  fragments of step k + 16, of the next stage too    load_matrix: 4 + 2 w +----+----+----+----+  4 + 2 w loads of four matrices
//!  are loaded while those of step k are multiplied    mma: 16 w            | 4  | 5  | 6  | 7  |
//!                                                                          +----+----+----+----+
//!  in the end: sums -> body -> 16-bit results in the place of the stages -> a barrier -> stores of 16 bytes, whole lines
//! ```
//!
//! A line lies in its bytes in an order that its number gives: 16-byte part `c` of line `l` is at `c ^ (l % 8)`, of lines of 64
//! bytes at `c ^ (l / 2 % 4)`. The eight rows of a matrix are then in all 32 banks, each bank once, and so are the copies of
//! eight neighbouring threads, and the results that eight rows of lanes store and eight threads load.
//!
//! The tile's size, the warps and where they stand, the stages and the blocks of a processor are [`tiling`](crate::tiling)'s:
//! which size is the cheapest the model says.
//!
//! **FLOPs and bytes of a tile of R x C**, 16 of k: `32 R C w` FLOPs from `32 (R + C w)` bytes; 85 FLOPs a byte with 128 x 128 of
//! two weights or 128 x 256 of one, 64 with 128 x 64 of two, 43 with 64 x 64 of two. **The floor** is the larger of the bytes
//! from DRAM, which are those of the weights of the experts hit, and the FLOPs at the rate of the matrix instruction. Eight row
//! tiles of an expert go through the columns together, so that it reads its weights `ceil(r / 8 R)` times from DRAM. The second
//! cache gives a tile all that it reads: at 5 TB/s, 85 FLOPs a byte feed 425 TFLOP/s.
//!
//! **How far from the floor**, by instructions of a warp for 16 of k at 64 x 32 of two weights (sm_80, ptxas 13.0): 32 products,
//! 8 loads of four matrices, 3 copies, 18 others. A quarter of a processor takes 8 clocks a product where it makes 256
//! multiply-adds a clock: its two warps take 512 clocks for theirs, in which they issue 122 instructions. Shared memory has 128
//! bytes a clock: the eight warps' loads take 256 of these 512 clocks, what is copied 96. So neither loads nor issue hold the
//! products up; a tile of 64 x 64 of two weights reads for 144 clocks while it multiplies for 128. Beyond that a tile waits for its first bytes and stores its results while only the other block of its processor
//! multiplies, if there is one, and the last tile of each expert is half empty in the mean. No time has been measured.
//!
//! **Lines that begin at no multiple of 4 bytes**, of an odd K, cannot be copied. A thread loads the 8 elements of a part one by one, to
//! registers, before the products of a step, and stores the part behind them: there are two stages, and what is under way is in registers. A
//! warp's load has elements of four lines, so that 8 loads of them take 32 slots of the first cache, where a copy takes 4: at 64 x 128 some 400
//! clocks for 16 of k beside 128 of products (sm_80), still a fifth of what multiply-adds take.
//!
//! **Factors in f32** are rounded to tf32 where the op says that they may be, each lane its own behind its load, to the nearest, ties away from
//! zero. A step is then 8 of k, of as many bytes: all else is the same.
//!
//! Rows and columns beyond the edge, and elements beyond K, are zeros that cost no traffic; where elements are loaded one by one, the last
//! line stands for those beyond the edge. A sum adds its products in order of k
//! under every tile's size, so that these give the same bits; [`Kind::Fma`](crate::tiling::Kind) rounds in another order.

use super::{Args, Gemm, Spot, Tile, each_part, weight_start};
use crate::kernel::build::{Array, Sums};
use crate::kernel::{Builder, Value, fragment};
use crate::tiling::{
    Bringing, MATRIX, Stages, mma_bringing, mma_loaded, mma_part, mma_shape, mma_shared_bytes, mma_stages, mma_turns, mma_warps,
    warp_matrices,
};
use crate::{DType, Machine, Tiling};

/// Elements of 16 bytes of results.
const RESULTS: u32 = 8;
/// Alignment of the stages: that of such a line.
const ALIGN: u32 = 128;

fn stages(spec: &Gemm, machine: &Machine) -> Stages {
    let Some(stages) = mma_stages(spec.tiling, &spec.product(), machine) else {
        unreachable!("`tiling::takes` says that there is room")
    };
    stages
}

fn bringing(spec: &Gemm, machine: &Machine) -> Bringing {
    let Some(bringing) = mma_bringing(spec.k, spec.rows, machine) else {
        unreachable!("`tiling::takes` says that lines come to shared memory")
    };
    bringing
}

/// Threads of a block that computes any of these parts, and blocks that a processor has at a time.
pub(super) fn block(parts: &[&Gemm], machine: &Machine) -> [u32; 2] {
    let warps = parts.iter().filter_map(|spec| mma_warps(spec.tiling, spec.weights.len())).max();
    let resident = parts.iter().map(|spec| stages(spec, machine).resident).min();
    [32 * warps.unwrap_or(1), resident.unwrap_or(1)]
}

/// The body of a kernel of these products: a tile a block. What a block has is as large as the part needs that needs most.
pub(super) fn blocks<'k>(k: &'k Builder, machine: &Machine, parts: &[(&Gemm, &Args<'k>)], of_parts: &[Value<'k>]) {
    let [(first, _), ..] = parts else { unreachable!("a launch has a part") };
    let elements = |spec: &Gemm| {
        let bytes = mma_shared_bytes(spec.tiling, &spec.product(), stages(spec, machine));
        (bytes / spec.rows.bytes()) as u32
    };
    let most = parts.iter().map(|(spec, _)| elements(spec)).max().unwrap_or(0);
    let array = k.shared_aligned("stages", first.rows, most, ALIGN);
    let loaded = |spec: &Gemm| match bringing(spec, machine) {
        Bringing::Copies(_) => 0,
        Bringing::Loads => mma_loaded(spec.tiling, &spec.product(), stages(spec, machine).depth, k.threads() / 32),
    };
    let loaded = parts.iter().map(|(spec, _)| loaded(spec)).max().filter(|most| *most > 0);
    let loaded = loaded.map(|most| k.registers("loaded", first.rows, most));
    let of_warp = |spec: &Gemm| {
        let [rows, columns] = matrices(k, spec);
        fragment::SUMS * rows * columns * spec.weights.len() as u32
    };
    let sums = k.sums("sums", parts.iter().map(|(spec, _)| of_warp(spec)).max().unwrap_or(0));
    each_part(k, parts, of_parts, k.block(), &|spec, args, of| tile(k, spec, machine, args, (array, loaded, sums), of));
}

/// Matrices of rows and of columns that a warp has sums of: of columns those that are not beyond N in every warp.
fn matrices(k: &Builder, spec: &Gemm) -> [u32; 2] {
    let [rows, columns] = warp_matrices(spec.tiling, spec.weights.len(), k.threads() / 32);
    [rows, spec.n.div_ceil(u64::from(MATRIX.extents().1)).min(u64::from(columns)) as u32]
}

/// All of a tile.
fn tile<'k>(
    k: &'k Builder,
    spec: &Gemm,
    machine: &Machine,
    args: &Args<'k>,
    (array, loaded, sums): (Array<'k>, Option<Array<'k>>, Sums<'k>),
    tile: Tile<'k>,
) {
    let Stages { depth, count, .. } = stages(spec, machine);
    let stride = (spec.tiling.rows + spec.weights.len() as u32 * spec.tiling.columns) * depth;
    let slices = spec.k.div_ceil(u64::from(depth)) as i32;
    let by = By::of(spec, machine, loaded);
    let bring = Bring::plan(k, spec, by, depth);
    let parts = bring.parts(k, spec, args, tile);
    // The parts of a turn beside a step.
    let turns = mma_turns(depth, spec.rows);
    let of_turn = |turn: u32| {
        let first = |turn: u32| parts.len() * turn as usize / turns as usize;
        &parts[first(turn)..first(turn + 1)]
    };
    // A group a stage, empty ones too: so that what is waited for is the same in every turn.
    for stage in 0..count - 1 {
        if (stage as i32) < slices {
            let (to, slice) = (k.i32((stage * stride) as i32), k.i32((stage * depth) as i32));
            for part in (0..turns).map(of_turn) {
                bring.start(k, spec, part, array, to, slice);
                bring.put(k, spec, part, array, to, slice);
            }
        }
        by.commit(k);
    }
    // What a thread brought it has seen, what others brought it sees behind the barrier.
    let arrive = || {
        by.wait(k, count - 2);
        k.barrier();
    };
    let warp = Warp::of(k, spec, depth);
    arrive();
    let held: Vec<_> = warp.load(k, spec, array, k.i32(0), 0).into_iter().map(|pair| k.var("held", pair)).collect();
    let (read, filled) = (k.var("read", k.i32(0)), k.var("filled", k.i32(((count - 1) * stride) as i32)));
    let after = |stage: Value<'k>| {
        let after = k.bind("after", stage + stride as i32);
        k.bind("next", after.eq((count * stride) as i32).select(k.i32(0), after))
    };
    k.for_range("slice", k.i32(0), k.i32(slices), |slice| {
        let ahead = k.bind("ahead", slice + (count - 1) as i32);
        let (stage, next) = (k.bind("stage", read.get()), after(read.get()));
        // Behind the last stage there is none: what is read once more is not used.
        let following = k.bind("following", (slice + 1).lt(slices).select(next, stage));
        let mut now: Vec<Value> = held.iter().map(|pair| pair.get()).collect();
        for step in 0..=turns {
            let then = if step < turns {
                let then = warp.load(k, spec, array, stage, step + 1);
                // The stage that was multiplied last is filled, a part of it beside each step.
                k.when(ahead.lt(slices), || {
                    bring.start(k, spec, of_turn(step), array, filled.get(), ahead * depth as i32);
                });
                then
            } else {
                by.commit(k);
                // No warp reads this stage any more, and the next has arrived.
                arrive();
                warp.load(k, spec, array, following, 0)
            };
            warp.multiply(k, spec, &now, sums);
            if step < turns && by.is_loads() {
                k.when(ahead.lt(slices), || {
                    bring.put(k, spec, of_turn(step), array, filled.get(), ahead * depth as i32);
                });
            }
            now = then;
        }
        held.iter().zip(now).for_each(|(held, pair)| held.set(pair));
        filled.set(stage);
        read.set(next);
    });
    warp.finish(k, spec, args, tile, array, sums);
}

/// In which order the so many parts of a line lie: part `c` of line `l` is at `c ^ order(l)`.
fn order(line: Value<'_>, parts: u32) -> Value<'_> {
    // Eight are in all 32 banks.
    let line = if parts == 8 { line } else { line >> 1 };
    line & (parts - 1) as i32
}

/// How elements come to shared memory.
#[derive(Clone, Copy)]
enum By<'k> {
    /// Copies of so many bytes.
    Copies(u32),
    /// Loads to these registers, those of a part together.
    Loads(Array<'k>),
}

impl<'k> By<'k> {
    fn of(spec: &Gemm, machine: &Machine, loaded: Option<Array<'k>>) -> By<'k> {
        match (bringing(spec, machine), loaded) {
            (Bringing::Copies(bytes), _) => By::Copies(bytes),
            (Bringing::Loads, Some(loaded)) => By::Loads(loaded),
            (Bringing::Loads, None) => unreachable!("a kernel with such a part has registers for it"),
        }
    }

    fn is_loads(self) -> bool {
        matches!(self, By::Loads(_))
    }

    /// Copies are waited for in groups.
    fn commit(self, k: &Builder) {
        if !self.is_loads() {
            k.commit();
        }
    }

    fn wait(self, k: &Builder, left: u32) {
        if !self.is_loads() {
            k.wait_copies(left);
        }
    }
}

/// What a thread brings: elements `along ..` of every `step`-th line from `line` on.
struct Bring<'k> {
    depth: u32,
    by: By<'k>,
    along: Value<'k>,
    line: Value<'k>,
    step: u32,
    /// Where the elements go, from the beginning of a stage.
    place: Value<'k>,
}

/// What a thread brings of a line for each stage.
struct Part<'k> {
    from: Array<'k>,
    /// Where the line starts: so many elements behind this.
    start: Value<'k>,
    further: u64,
    /// How far behind the thread's place its elements go.
    to: u32,
    /// Whether the line exists, where one that is copied may not: its elements are zeros that are not read.
    live: Option<Value<'k>>,
    /// Whether the tile has the line at all, where there are more threads than lines.
    wanted: Option<Value<'k>>,
}

impl<'k> Bring<'k> {
    fn plan(k: &'k Builder, spec: &Gemm, by: By<'k>, depth: u32) -> Bring<'k> {
        let part = mma_part(spec.rows);
        let elements = match by {
            By::Copies(bytes) => bytes / spec.rows.bytes() as u32,
            By::Loads(_) => part,
        };
        let of_line = depth / elements;
        let along = k.bind("along", k.thread() % of_line as i32 * elements as i32);
        let line = k.bind("line", k.thread() / of_line as i32);
        let place = ((along / part as i32) ^ order(line, depth / part)) * part as i32;
        let within = if elements < part { along % part as i32 } else { k.i32(0) };
        let place = k.bind("place", line * depth as i32 + place + within);
        Bring { depth, by, along, line, step: k.threads() / of_line, place }
    }

    /// The parts of a stage: of the rows, then of each weight's columns.
    fn parts(&self, k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>) -> Vec<Part<'k>> {
        let tiling = spec.tiling;
        if self.by.is_loads() {
            return self.loads(k, spec, args, tile);
        }
        let wanted = |lines: u32| (lines < self.step).then(|| k.bind("wanted", self.line.lt(lines as i32)));
        let lines = |lines: u32| (0..lines).step_by(self.step as usize);
        // Rows that are not there are not read; columns only where the last tile lacks some.
        let has_edge = spec.has_edge();
        let has_row: Vec<_> = lines(tiling.rows).map(|i| k.bind("has_row", (self.line + i as i32).lt(tile.rows))).collect();
        let has_column: Vec<_> = lines(tiling.columns)
            .map(|i| has_edge.then(|| k.bind("has_column", (self.line + i as i32).lt(tile.columns))))
            .collect();
        let further = |i: u32| u64::from(i) * spec.k;
        let first_row = (!spec.gather).then(|| args.row_start(k, spec, tile.row + self.line));
        let of_row = |(i, live): (u32, &Value<'k>)| {
            let gathered = || args.row_start(k, spec, tile.row + (self.line + i as i32).min(tile.rows - 1));
            let (start, further) = first_row.map_or_else(|| (gathered(), 0), |first| (first, further(i)));
            Part { from: args.rows.array(), start, further, to: i * self.depth, live: Some(*live), wanted: None }
        };
        let of_rows = wanted(tiling.rows);
        let rows: Vec<_> = lines(tiling.rows).zip(&has_row).map(of_row).map(|part| Part { wanted: of_rows, ..part }).collect();
        let (start, of_columns) = (weight_start(k, spec, tile, tile.column + self.line), wanted(tiling.columns));
        let columns = (0..).zip(&args.weights).flat_map(|(w, from)| {
            let first = tiling.rows + w * tiling.columns;
            lines(tiling.columns).zip(&has_column).map(move |(i, live)| {
                let to = (first + i) * self.depth;
                Part { from: *from, start, further: u64::from(i) * spec.k, to, live: *live, wanted: of_columns }
            })
        });
        rows.into_iter().chain(columns).collect()
    }

    /// The same where elements are loaded: for a line beyond the edge the last one.
    fn loads(&self, k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>) -> Vec<Part<'k>> {
        let side = |lines: u32, first: u32, from: Array<'k>, start: &dyn Fn(Value<'k>) -> Value<'k>| -> Vec<Part<'k>> {
            let wanted = (lines < self.step).then(|| k.bind("wanted", self.line.lt(lines as i32)));
            let of = |i: u32| {
                let start = start(self.line + i as i32);
                Part { from, start, further: 0, to: (first + i) * self.depth, live: None, wanted }
            };
            (0..lines).step_by(self.step as usize).map(of).collect()
        };
        let Tiling { rows, columns, .. } = spec.tiling;
        let row = |line: Value<'k>| args.row_start(k, spec, tile.row + line.min(tile.rows - 1));
        let column = |line: Value<'k>| weight_start(k, spec, tile, tile.column + line.min(tile.columns - 1));
        let of_weight = |(w, from): (u32, &Array<'k>)| side(columns, rows + w * columns, *from, &column);
        let of_weights = (0..).zip(&args.weights).flat_map(of_weight);
        side(rows, 0, args.rows.array(), &row).into_iter().chain(of_weights).collect()
    }

    /// Starts to bring some parts of a slice: copies to a stage, or loads to registers.
    fn start(&self, k: &'k Builder, spec: &Gemm, parts: &[Part<'k>], to: Array<'k>, stage: Value<'k>, slice: Value<'k>) {
        match self.by {
            By::Copies(bytes) => self.copy(k, spec, parts, bytes, (to, stage), slice),
            By::Loads(loaded) => self.load(k, spec, parts, loaded, slice),
        }
    }

    /// Loads the elements of parts; for one beyond K the last of the line.
    fn load(&self, k: &'k Builder, spec: &Gemm, parts: &[Part<'k>], loaded: Array<'k>, slice: Value<'k>) {
        for element in 0..mma_part(spec.rows) {
            let at = (slice + self.along + element as i32).min(spec.k as i32 - 1);
            let at = k.bind("at", at.cast(DType::I64));
            for (part, first) in parts.iter().zip((0..).step_by(mma_part(spec.rows) as usize)) {
                loaded.store(k.i32((first + element) as i32), part.from.load(part.start + at));
            }
        }
    }

    /// Stores parts that were loaded to their stage, with zeros beyond K. What was copied is there already.
    fn put(&self, k: &'k Builder, spec: &Gemm, parts: &[Part<'k>], to: Array<'k>, stage: Value<'k>, slice: Value<'k>) {
        let By::Loads(loaded) = self.by else { return };
        let zero = k.f32(0.0).cast(spec.rows);
        for element in 0..mma_part(spec.rows) {
            let inside = k.bind("inside", (slice + self.along + element as i32).lt(spec.k as i32));
            for first in (0..parts.len() as u32).map(|i| i * mma_part(spec.rows)) {
                let at = k.i32((first + element) as i32);
                loaded.store(at, inside.select(loaded.load(at), zero));
            }
        }
        let place = k.bind("to", stage + self.place);
        for (part, first) in parts.iter().zip((0..).step_by(mma_part(spec.rows) as usize)) {
            let store = || to.store_aligned(place + part.to as i32, loaded.load_vector(k.i32(first), mma_part(spec.rows)), 16);
            if let Some(wanted) = part.wanted { k.when(wanted, store) } else { store() }
        }
    }

    /// Starts copies of some parts of a slice to a stage.
    fn copy(
        &self,
        k: &'k Builder,
        spec: &Gemm,
        parts: &[Part<'k>],
        bytes: u32,
        (to, stage): (Array<'k>, Value<'k>),
        slice: Value<'k>,
    ) {
        let at = k.bind("at", (slice + self.along).cast(DType::I64));
        let place = k.bind("to", stage + self.place);
        let is_edge = !spec.k.is_multiple_of(u64::from(self.depth));
        let inside = is_edge.then(|| k.bind("inside", (slice + self.along).lt(spec.k as i32)));
        for part in parts {
            let live = [part.live, inside].into_iter().flatten().reduce(|a, b| a & b);
            let from = part.start + at;
            let from = if part.further == 0 { from } else { from + k.i64(part.further as i64) };
            let start = || to.copy_from(place + part.to as i32, part.from, from, bytes, live);
            if let Some(wanted) = part.wanted { k.when(wanted, start) } else { start() }
        }
    }
}

/// The part of a tile that a warp computes.
struct Warp<'k> {
    depth: u32,
    /// Of rows and of columns, without those that are beyond N in every warp.
    matrices: [u32; 2],
    lane: Value<'k>,
    row: Value<'k>,
    column: Value<'k>,
    /// Where the row that the lane names for a load is, of rows and of columns, from the beginning of a side; a step of 16 elements (8 of
    /// f32) further along k is at these `^ 16`.
    rows_at: Value<'k>,
    columns_at: Value<'k>,
}

impl<'k> Warp<'k> {
    fn of(k: &'k Builder, spec: &Gemm, depth: u32) -> Warp<'k> {
        let of_warp = warp_matrices(spec.tiling, spec.weights.len(), k.threads() / 32);
        let (rows, columns, _) = MATRIX.extents();
        let beside = (spec.tiling.columns / (of_warp[1] * columns)) as i32;
        let (warp, lane) = (k.bind("warp", k.thread() / 32), k.bind("lane", k.thread() % 32));
        let row = k.bind("first_row", warp / beside * (of_warp[0] * rows) as i32);
        let column = k.bind("first_column", warp % beside * (of_warp[1] * columns) as i32);
        // Lines of a warp begin at a multiple of 8.
        let of_part = mma_part(spec.rows);
        let place = |line: Value<'k>, part: Value<'k>| {
            k.bind("place", line * depth as i32 + ((part ^ order(lane % 8, depth / of_part)) * of_part as i32))
        };
        // Rows 0..8 and 8..16, then the same a part on. Columns 0..8, these a part on, then columns 8..16.
        let rows_at = place(row + lane % 16, lane / 16);
        let columns_at = place(column + lane % 8 + lane / 16 * 8, lane / 8 % 2);
        Warp { depth, matrices: matrices(k, spec), lane, row, column, rows_at, columns_at }
    }

    /// Products of one weight.
    fn products(&self) -> u32 {
        self.matrices[0] * self.matrices[1]
    }

    /// The lane's pairs for a step of a stage: of the rows, then of each weight's columns.
    fn load(&self, k: &'k Builder, spec: &Gemm, from: Array<'k>, stage: Value<'k>, step: u32) -> Vec<Value<'k>> {
        let (rows, columns, depth) = mma_shape(spec.rows).extents();
        let along = |at: Value<'k>| if step == 0 { at } else { at ^ (step * depth) as i32 };
        let lines = |line: u32| (line * self.depth) as i32;
        let rows_at = k.bind("rows_at", stage + along(self.rows_at));
        let mut pairs: Vec<_> = (0..self.matrices[0]).flat_map(|m| from.load_matrix(rows_at + lines(m * rows), 4)).collect();
        let columns_at = k.bind("columns_at", stage + along(self.columns_at));
        for w in 0..spec.weights.len() as u32 {
            let first = spec.tiling.rows + w * spec.tiling.columns;
            let of_columns = |n: u32| from.load_matrix(columns_at + lines(first + n * columns), 4);
            pairs.extend((0..self.matrices[1]).step_by(2).flat_map(of_columns));
        }
        pairs
    }

    /// Adds the products of a step to the sums: `[weight, row matrix, column matrix]`.
    fn multiply(&self, k: &'k Builder, spec: &Gemm, pairs: &[Value<'k>], sums: Sums<'k>) {
        let (shape, weights) = (mma_shape(spec.rows), spec.weights.len() as u32);
        let (pairs_of_a, pairs_of_b) = (fragment::pairs_of_a(shape, spec.rows), fragment::pairs_of_b(shape, spec.rows));
        let round = |x: &Value<'k>| if spec.rows == DType::F32 { k.bind("rounded", x.round_tf32()) } else { *x };
        let pairs: Vec<Value> = pairs.iter().map(round).collect();
        let (a, b) = pairs.split_at((pairs_of_a * self.matrices[0]) as usize);
        let of_weight = self.matrices[1].next_multiple_of(2);
        let b: Vec<_> = b.chunks(pairs_of_b as usize).collect();
        for (w, n) in (0..weights).flat_map(|w| (0..self.matrices[1]).map(move |n| (w, n))) {
            for (m, a) in (0..).zip(a.chunks(pairs_of_a as usize)) {
                sums.add_product(self.number(w, m, n), shape, a, b[(w * of_weight + n) as usize]);
            }
        }
    }

    fn number(&self, weight: u32, row_matrix: u32, column_matrix: u32) -> u32 {
        weight * self.products() + row_matrix * self.matrices[1] + column_matrix
    }

    /// Puts the lane's sums through the body, those of neighbouring columns together where none can be beyond the edge alone. Results
    /// of the rows' type go through shared memory, so that lines are stored whole, where their pitch is of whole parts.
    fn finish(&self, k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>, shared: Array<'k>, sums: Sums<'k>) {
        let (rows, columns, _) = MATRIX.extents();
        // Four lanes have 32 bytes of a row of f32, which memory takes as they are.
        let staged = spec.out == spec.rows && spec.out != DType::F32 && spec.n.is_multiple_of(u64::from(RESULTS));
        let lanes = if spec.n.is_multiple_of(2) { Args::even_lanes(spec, 2) } else { 1 };
        let row = k.bind("row", self.row + self.lane / 4);
        let column = k.bind("column", self.column + self.lane % 4 * 2);
        let first = Spot::at(k, spec, tile.row + row, tile.column + column);
        let results = Results { array: shared, pitch: spec.tiling.columns };
        let place = k.bind("place", results.at(row, self.column / RESULTS as i32) + self.lane % 4 * 2);
        let each_of_row = |m: u32, half: u32| {
            let down = m * rows + half * 8;
            for (n, part) in (0..self.matrices[1]).flat_map(|n| (0..2).step_by(lanes as usize).map(move |part| (n, part))) {
                let along = n * columns + part;
                let put = || {
                    let product = |w| sums.get(self.number(w, m, n), half * 2 + part, lanes);
                    let products: Vec<Value> = (0..spec.weights.len() as u32).map(product).collect();
                    let spot = first.moved(k, spec, down, along);
                    if staged {
                        let value = args.value(k, spec, tile.expert, spot, &products).cast(spec.out);
                        // The warp's columns are a power of two, and begin at a multiple of it.
                        let at = (place ^ (n * RESULTS) as i32) + (down * results.pitch + part) as i32;
                        shared.store_aligned(at, value, lanes * spec.out.bytes() as u32);
                    } else {
                        args.finish(k, spec, tile.expert, spot, &products);
                    }
                };
                tile.when_column(k, spec, column, along, put);
            }
        };
        if staged {
            // No warp reads a stage any more.
            k.barrier();
        }
        for (m, half) in (0..self.matrices[0]).flat_map(|m| [(m, 0), (m, 1)]) {
            k.when((row + (m * rows + half * 8) as i32).lt(tile.rows), || each_of_row(m, half));
        }
        if staged {
            k.barrier();
            results.store(k, spec, args, tile);
        }
    }
}

/// The results of a tile in shared memory.
#[derive(Clone, Copy)]
struct Results<'k> {
    array: Array<'k>,
    pitch: u32,
}

impl<'k> Results<'k> {
    /// Where a part of a row lies: part `p` of row `r` is at `p ^ (r % 8)`, so that eight rows of a part are in all banks.
    fn at(self, row: Value<'k>, part: Value<'k>) -> Value<'k> {
        row * self.pitch as i32 + ((part ^ (row & 7)) * RESULTS as i32)
    }

    /// Stores them, a part a thread.
    fn store(self, k: &'k Builder, spec: &Gemm, args: &Args<'k>, tile: Tile<'k>) {
        let (parts, bytes) = (self.pitch / RESULTS, RESULTS * spec.out.bytes() as u32);
        let (part, row) = (k.bind("part", k.thread() % parts as i32), k.bind("row", k.thread() / parts as i32));
        let column = k.bind("column", part * RESULTS as i32);
        let (from, spot) = (k.bind("from", self.at(row, part)), Spot::at(k, spec, tile.row + row, tile.column + column));
        // Threads are a multiple of eight rows apart, which lie in one order.
        let each = || {
            for next in (0..spec.tiling.rows).step_by((k.threads() / parts) as usize) {
                k.when((row + next as i32).lt(tile.rows), || {
                    let value = self.array.load_aligned(from + (next * self.pitch) as i32, RESULTS, bytes);
                    args.out.array().store_aligned(spot.moved(k, spec, next, 0).place, value, bytes);
                });
            }
        };
        tile.when_column(k, spec, column, 0, each);
    }
}
