//! The logits of a block's tokens, into shared memory: a small matrix product with both sides contiguous along H. What is
//! made of them is not here.
//!
//! Where the machine has products of small matrices of both sides' type, they are computed [so](super::matrices). Elsewhere:
//!
//! ```text
//!   host: rectangles of sums in registers, each a vector along H      GPU: slices of H through shared memory
//!
//!              e0 e1 e2 e3                                                      experts 64
//!        m0     v  v  v  v      v: lanes of partial sums,                 x  [m, 32]  router [64, 32]
//!        m1     v  v  v  v         added up at the end                    a warp has some tokens, a lane two
//!        ..                                                               experts; sums are four lanes along H
//! ```
//!
//! 2 M E H FLOPs a block. Every logit adds its products in one order, which depends on H, E and the machine alone.

use super::{Block, Route, matrices};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Value};
use crate::machine::Unit;
use crate::{DType, Machine, tiling};

/// What is multiplied, and where it goes.
pub(super) struct Matrices<'k> {
    pub(super) x: Array<'k>,
    pub(super) router: Array<'k>,
    /// The block's first token.
    pub(super) first: Value<'k>,
    pub(super) tokens: Value<'k>,
}

/// Bytes of shared memory beside the logits, where so many blocks share H.
pub(super) fn shared_bytes(spec: &Route, blocks: u32, machine: &Machine, block: &Block) -> u64 {
    match matrices::tiles(spec, blocks, machine) {
        Some(tiles) => matrices::shared_bytes(&tiles, block),
        None if machine.has_threads() => 4 * u64::from((block.tokens + EXPERTS) * PITCH),
        None => 0,
    }
}

/// All logits of the block, in rows a [pitch](Block::pitch) apart.
pub(super) fn logits<'k>(k: &'k Builder, spec: &Route, machine: &Machine, block: &Block, m: &Matrices<'k>, logits: Array<'k>) {
    if machine.has_threads() {
        let to = |row: Value<'k>, e: Value<'k>, sum: Value<'k>| logits.store(row * block.pitch as i32 + e, sum);
        part_of_logits(k, (spec, machine, block), m, (k.i32(0), 1), to);
    } else {
        in_registers(k, spec, machine, block, m, logits);
    }
}

/// The part of the block's logits that one of so many blocks with threads adds up, a run of H: tells of each by row and expert.
pub(super) fn part_of_logits<'k>(
    k: &'k Builder,
    (spec, machine, block): (&Route, &Machine, &Block),
    m: &Matrices<'k>,
    (number, blocks): (Value<'k>, u32),
    told: impl Fn(Value<'k>, Value<'k>, Value<'k>),
) {
    let tiles = matrices::tiles(spec, blocks, machine);
    let run = tiling::run_of_block(spec.hidden, blocks, tiles.map_or(DEPTH, |tiles| tiles.step())) as i32;
    let hidden = spec.hidden as i32;
    let bounds = match blocks {
        1 => [k.i32(0), k.i32(hidden)],
        _ => [number * run, ((number + 1) * run).min(hidden)].map(|bound| k.bind("bound", bound)),
    };
    match tiles {
        Some(tiles) => matrices::products(k, (spec, block, &tiles), m, bounds, told),
        None => in_slices(k, spec, block, m, bounds, told),
    }
}

/// `row * H`, as an offset.
pub(super) fn start_of<'k>(k: &'k Builder, spec: &Route, row: Value<'k>) -> Value<'k> {
    k.bind("row_start", row.cast(DType::I64) * k.i64(spec.hidden as i64))
}

// On the host.

/// Experts side by side in a rectangle.
const WIDTH: u32 = 4;

fn in_registers<'k>(k: &'k Builder, spec: &Route, machine: &Machine, block: &Block, m: &Matrices<'k>, logits: Array<'k>) {
    // 16 sums where there are 32 registers, 8 where there are 16.
    let height = if machine.vector_bytes == 64 { 4 } else { 2 };
    let here = k.bind("tokens_here", (m.tokens - m.first).min(block.tokens as i32));
    k.for_step("e", k.i32(0), k.i32(spec.experts as i32), k.i32(WIDTH as i32), |e| {
        let whole = k.bind("whole", here & -height);
        k.for_step("m", k.i32(0), whole, k.i32(height), |row| rectangle(k, spec, machine, (block, logits), m, (row, height), e));
        k.for_range("m", whole, here, |row| rectangle(k, spec, machine, (block, logits), m, (row, 1), e));
    });
}

/// `height` tokens from `row` on, by [`WIDTH`] experts from `e` on; the last expert again where there are no more.
fn rectangle<'k>(
    k: &'k Builder,
    spec: &Route,
    machine: &Machine,
    (block, logits): (&Block, Array<'k>),
    m: &Matrices<'k>,
    (row, height): (Value<'k>, i32),
    e: Value<'k>,
) {
    let (unit, _) = tiling::host_unit(m.x.elem(), &[m.router.elem()], machine);
    let pairs = unit == Unit::Dot;
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    let step = i64::from(if pairs { 2 * lanes } else { lanes });
    let rows: Vec<_> = (0..height).map(|i| start_of(k, spec, m.first + row + i)).collect();
    let columns: Vec<_> = (0..WIDTH as i32).map(|i| start_of(k, spec, (e + i).min(spec.experts as i32 - 1))).collect();
    let sums = |lanes: u32| -> Vec<Vec<Var<'k>>> {
        rows.iter().map(|_| columns.iter().map(|_| k.var("sum", k.f32(0.0).splat(lanes))).collect()).collect()
    };
    let (vectors, rest) = (sums(lanes), sums(1));
    let hidden = spec.hidden as i64;
    let whole = k.i64(hidden - hidden % step);
    let add =
        |sums: &[Vec<Var<'k>>], h: Value<'k>, lanes: u32, product: &dyn Fn(Value<'k>, Value<'k>, Value<'k>) -> Value<'k>| {
            let xs: Vec<_> = rows.iter().map(|start| m.x.load_vector(*start + h, lanes)).collect();
            for (c, start) in columns.iter().enumerate() {
                let w = m.router.load_vector(*start + h, lanes);
                for (x, sums) in xs.iter().zip(sums) {
                    sums[c].set(product(sums[c].get(), *x, w));
                }
            }
        };
    let fma = |sum: Value<'k>, x: Value<'k>, w: Value<'k>| x.cast(DType::F32).fma(w.cast(DType::F32), sum);
    k.for_step("h", k.i64(0), whole, k.i64(step), |h| {
        if pairs { add(&vectors, h, 2 * lanes, &|sum, x, w| sum.dot(x, w)) } else { add(&vectors, h, lanes, &fma) }
    });
    k.for_range("h", whole, k.i64(hidden), |h| add(&rest, h, 1, &fma));
    for (i, (vectors, rest)) in vectors.iter().zip(&rest).enumerate() {
        let at = k.bind("at", (row + i as i32) * block.pitch as i32 + e);
        for (c, (vector, rest)) in vectors.iter().zip(rest).enumerate() {
            logits.store(at + c as i32, vector.get().reduce_add() + rest.get());
        }
    }
}

// On a GPU.

/// Experts of a slice: two a lane.
const EXPERTS: u32 = tiling::ROUTE_SLICE[1];
/// Elements along H of a slice.
const DEPTH: u32 = tiling::ROUTE_SLICE[0];
/// Elements from one row of a slice to the next: reads of 16 bytes by eight lanes fall into all banks.
const PITCH: u32 = DEPTH + 4;
/// Elements along H that are added side by side.
const SIDE: u32 = 4;

fn in_slices<'k>(
    k: &'k Builder,
    spec: &Route,
    block: &Block,
    m: &Matrices<'k>,
    [start, end]: [Value<'k>; 2],
    told: impl Fn(Value<'k>, Value<'k>, Value<'k>),
) {
    let left = k.shared("x_slice", DType::F32, block.tokens * PITCH);
    let right = k.shared("router_slice", DType::F32, EXPERTS * PITCH);
    let (lane, warp) = (k.bind("lane", k.thread() % 32), k.bind("warp", k.thread() / 32));
    let warps = block.threads / 32;
    // A warp beyond the tokens repeats the last one, and keeps it to itself.
    let rows: Vec<_> = (0..block.tokens.div_ceil(warps)).map(|i| k.bind("m", warp + (i * warps) as i32)).collect();
    let (last_token, last_expert) = (m.tokens - 1, spec.experts as i32 - 1);
    k.for_step("expert", k.i32(0), k.i32(spec.experts as i32), k.i32(EXPERTS as i32), |expert| {
        let sums: Vec<[Var<'k>; 2]> = rows.iter().map(|_| [(); 2].map(|()| k.var("sum", k.f32(0.0).splat(SIDE)))).collect();
        // What a thread brings of the next slice is under way while it works on the one before.
        let x = Brought::new(k, spec, block, (m.x, left, block.tokens), |row| (m.first + row).min(last_token));
        let router = Brought::new(k, spec, block, (m.router, right, EXPERTS), |row| (expert + row).min(last_expert));
        k.when(start.lt(end), || [&x, &router].iter().for_each(|side| side.load(start)));
        k.for_step("h", start, end, k.i32(DEPTH as i32), |h| {
            // No thread reads the slice before any more.
            k.barrier();
            [&x, &router].iter().for_each(|side| side.store());
            k.barrier();
            k.when((h + DEPTH as i32).lt(end), || [&x, &router].iter().for_each(|side| side.load(h + DEPTH as i32)));
            k.for_step("step", k.i32(0), k.i32(DEPTH as i32), k.i32(SIDE as i32), |step| {
                let four = |side: Array<'k>, row: Value<'k>| side.load_aligned(row * PITCH as i32 + step, SIDE, 16);
                let ws = [four(right, lane), four(right, lane + 32)];
                for (row, sums) in rows.iter().zip(&sums) {
                    let x = four(left, row.min(block.tokens as i32 - 1));
                    sums.iter().zip(ws).for_each(|(sum, w)| sum.set(x.fma(w, sum.get())));
                }
            });
        });
        for (row, sums) in rows.iter().zip(&sums) {
            for (i, sum) in sums.iter().enumerate() {
                let e = k.bind("e", expert + lane + 32 * i as i32);
                let inside = e.le(last_expert) & row.lt(block.tokens as i32);
                k.when(inside, || told(*row, e, sum.get().reduce_add()));
            }
        }
    });
}

/// What a thread brings of each slice of so many rows: vectors, as f32.
struct Brought<'k> {
    k: &'k Builder,
    from: Array<'k>,
    to: Array<'k>,
    /// Elements of a vector.
    lanes: u32,
    hidden: i32,
    vectors: Vec<Vector<'k>>,
}

struct Vector<'k> {
    /// Whether there is such a vector; none: for all threads.
    live: Option<Value<'k>>,
    /// Where the row starts that it is of, its column in the slice, and where it goes.
    row_start: Value<'k>,
    column: Value<'k>,
    place: Value<'k>,
    value: Var<'k>,
}

impl<'k> Brought<'k> {
    fn new(
        k: &'k Builder,
        spec: &Route,
        block: &Block,
        (from, to, rows): (Array<'k>, Array<'k>, u32),
        row_of: impl Fn(Value<'k>) -> Value<'k>,
    ) -> Brought<'k> {
        let lanes = SIDE.min(1 << spec.hidden.trailing_zeros());
        let (of_row, all) = ((DEPTH / lanes) as i32, rows * DEPTH / lanes);
        let vector = |i: u32| {
            let number = k.bind("i", k.thread() + (i * block.threads) as i32);
            let (row, column) = (k.bind("row", number / of_row), k.bind("column", number % of_row * lanes as i32));
            Vector {
                live: ((i + 1) * block.threads > all).then(|| k.bind("live", number.lt(all as i32))),
                row_start: start_of(k, spec, row_of(row)),
                column,
                place: k.bind("place", row * PITCH as i32 + column),
                value: k.var("value", k.f32(0.0).splat(lanes)),
            }
        };
        let vectors = (0..all.div_ceil(block.threads)).map(vector).collect();
        Brought { k, from, to, lanes, hidden: spec.hidden as i32, vectors }
    }

    /// Columns `h..h + DEPTH`; zeros beyond H.
    fn load(&self, h: Value<'k>) {
        let k = self.k;
        for vector in &self.vectors {
            let at = k.bind("at", h + vector.column);
            let load = || {
                let offset = vector.row_start + at.cast(DType::I64);
                let align = self.lanes * self.from.elem().bytes() as u32;
                vector.value.set(self.from.load_aligned(offset, self.lanes, align).cast(DType::F32));
            };
            let inside = (self.hidden % DEPTH as i32 != 0).then(|| at.lt(self.hidden));
            match [vector.live, inside].into_iter().flatten().reduce(|a, b| a & b) {
                None => load(),
                Some(inside) => {
                    vector.value.set(k.f32(0.0).splat(self.lanes));
                    k.when(inside, load);
                }
            }
        }
    }

    fn store(&self) {
        for vector in &self.vectors {
            let store = || self.to.store_aligned(vector.place, vector.value.get(), self.lanes * 4);
            vector.live.map_or_else(store, |live| self.k.when(live, store));
        }
    }
}
