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
//! On a host tokens of bf16 are widened once for all experts, some of H at a time.
//!
//! 2 M E H FLOPs a block. Every logit adds its products in one order, which depends on H, E and the machine alone.

use super::super::halves::{halves, widened};
use super::{Block, Route, matrices};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Value};
use crate::tiling::HostStep;
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
        None if widens(spec, machine) => 4 * u64::from(block.tokens * HALVES_PITCH),
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

/// Elements along H of which all tokens of a block are widened at a time: they stay in the second cache.
const HALVES_DEPTH: u32 = 1024;

/// Elements from one of these tokens to the next: rows a power of two apart share the places of the first cache.
const HALVES_PITCH: u32 = HALVES_DEPTH + 32;

/// Whether tokens are widened before they are multiplied.
fn widens(spec: &Route, machine: &Machine) -> bool {
    tiling::host_step(spec.x, &[spec.router], machine) == HostStep::Halves
}

/// What a rectangle is made of.
#[derive(Clone, Copy)]
struct Cx<'a, 'k> {
    k: &'k Builder,
    spec: &'a Route<'a>,
    block: &'a Block,
    m: &'a Matrices<'k>,
    logits: Array<'k>,
    step: HostStep,
    lanes: u32,
    /// Tokens of the block, where they are widened: `[tokens, 2, half of a part]`, even elements and odd ones.
    tokens: Option<Array<'k>>,
}

/// A part of H (`I64`): whole steps from `start` to `whole`, single elements from there to `end`.
#[derive(Clone, Copy)]
struct Part<'k> {
    start: Value<'k>,
    whole: Value<'k>,
    end: Value<'k>,
}

impl<'k> Cx<'_, 'k> {
    /// Elements along H in a step.
    fn elements(self) -> u32 {
        self.step.elements(self.lanes)
    }

    /// Where an element of a token lies that was widened, of the even or the odd ones.
    fn half_place(self, row: Value<'k>, half: i32, part: Part<'k>, h: Value<'k>) -> Value<'k> {
        let start = (row * HALVES_PITCH as i32 + half * (HALVES_PITCH / 2) as i32).cast(DType::I64);
        start + (h - part.start) / 2
    }
}

fn in_registers<'k>(k: &'k Builder, spec: &Route, machine: &Machine, block: &Block, m: &Matrices<'k>, logits: Array<'k>) {
    let step = tiling::host_step(spec.x, &[spec.router], machine);
    let tokens = widens(spec, machine).then(|| k.shared("x_halves", DType::F32, block.tokens * HALVES_PITCH));
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    let cx = Cx { k, spec, block, m, logits, step, lanes, tokens };
    let here = k.bind("tokens_here", (m.tokens - m.first).min(block.tokens as i32));
    // 16 sums where there are 32 registers, 8 where there are 16.
    let height = if machine.vector_bytes == 64 { 4 } else { 2 };
    parts(cx, here, |part| {
        if let Some(tokens) = cx.tokens {
            k.for_range("m", k.i32(0), here, |row| widen(cx, part, row, tokens));
        }
        k.for_step("e", k.i32(0), k.i32(spec.experts as i32), k.i32(WIDTH as i32), |e| {
            let whole = k.bind("whole", here & -height);
            k.for_step("m", k.i32(0), whole, k.i32(height), |row| rectangle(cx, part, (row, height), e));
            k.for_range("m", whole, here, |row| rectangle(cx, part, (row, 1), e));
        });
    });
}

/// Whether H is taken in parts, each added to the logits so far.
fn is_cut(cx: Cx<'_, '_>) -> bool {
    cx.tokens.is_some() && cx.spec.hidden > HALVES_DEPTH.into()
}

/// `body` for each part of H.
fn parts<'k>(cx: Cx<'_, 'k>, here: Value<'k>, body: impl FnOnce(Part<'k>)) {
    let (k, hidden) = (cx.k, cx.spec.hidden as i64);
    let (whole, end) = (k.i64(hidden - hidden % i64::from(cx.elements())), k.i64(hidden));
    if !is_cut(cx) {
        return body(Part { start: k.i64(0), whole, end });
    }
    k.for_range("m", k.i32(0), here, |row| {
        let first = k.bind("first", row * cx.block.pitch as i32);
        let last = first + cx.spec.experts.next_multiple_of(WIDTH) as i32;
        k.for_range("e", first, last, |at| cx.logits.store(at, k.f32(0.0)));
    });
    k.for_step("part", k.i64(0), end, k.i64(HALVES_DEPTH.into()), |start| {
        let next = start + k.i64(HALVES_DEPTH.into());
        body(Part { start, whole: k.bind("whole", next.min(whole)), end: k.bind("end", next.min(end)) });
    });
}

/// Puts a token's whole steps of a part to scratch.
fn widen<'k>(cx: Cx<'_, 'k>, part: Part<'k>, row: Value<'k>, tokens: Array<'k>) {
    let start = start_of(cx.k, cx.spec, cx.m.first + row);
    cx.k.for_step("h", part.start, part.whole, cx.k.i64(cx.elements().into()), |h| {
        for (half, elements) in (0..).zip(halves(cx.k, cx.m.x, start + h, cx.lanes)) {
            tokens.store(cx.half_place(row, half, part, h), elements);
        }
    });
}

/// `height` tokens from `row` on, by [`WIDTH`] experts from `e` on; the last expert again where there are no more.
fn rectangle<'k>(cx: Cx<'_, 'k>, part: Part<'k>, (row, height): (Value<'k>, i32), e: Value<'k>) {
    let Cx { k, spec, block, m, logits, step, lanes, tokens } = cx;
    let rows: Vec<_> = (0..height).map(|i| start_of(k, spec, m.first + row + i)).collect();
    let last = spec.experts as i32 - 1;
    let columns: Vec<_> = (0..WIDTH as i32).map(|i| start_of(k, spec, (e + i).min(last))).collect();
    let sums = |lanes: u32| -> Vec<Vec<Var<'k>>> {
        rows.iter().map(|_| columns.iter().map(|_| k.var("sum", k.f32(0.0).splat(lanes))).collect()).collect()
    };
    let (vectors, rest) = (sums(lanes), sums(1));
    let elements = cx.elements();
    let of_token = |(i, start): (i32, &Value<'k>), h: Value<'k>| match (step, tokens) {
        (HostStep::Halves, Some(tokens)) => {
            (0..2).map(|half| tokens.load_vector(cx.half_place(row + i, half, part, h), lanes)).collect::<Vec<_>>()
        }
        (HostStep::Pairs, _) => vec![m.x.load_vector(*start + h, elements)],
        (HostStep::Halves | HostStep::Numbers, _) => vec![m.x.load_vector(*start + h, elements).cast(DType::F32)],
    };
    let of_expert = |start: Value<'k>, h: Value<'k>| {
        let line = m.router.load_vector(start + h, elements);
        match step {
            HostStep::Halves => widened(line.bitcast(DType::I32)).to_vec(),
            HostStep::Pairs => vec![line],
            HostStep::Numbers => vec![line.cast(DType::F32)],
        }
    };
    k.for_step("h", part.start, part.whole, k.i64(elements.into()), |h| {
        let xs: Vec<Vec<Value>> = (0..).zip(&rows).map(|token| of_token(token, h)).collect();
        for (c, start) in columns.iter().enumerate() {
            let w = of_expert(*start, h);
            for (x, sums) in xs.iter().zip(&vectors) {
                for (x, w) in x.iter().zip(&w) {
                    let sum = sums[c].get();
                    sums[c].set(if step == HostStep::Pairs { sum.dot(*x, *w) } else { x.fma(*w, sum) });
                }
            }
        }
    });
    k.for_range("h", part.whole, part.end, |h| {
        let xs: Vec<Value> = rows.iter().map(|start| m.x.load(*start + h).cast(DType::F32)).collect();
        for (c, start) in columns.iter().enumerate() {
            let w = m.router.load(*start + h).cast(DType::F32);
            xs.iter().zip(&rest).for_each(|(x, sums)| sums[c].set(x.fma(w, sums[c].get())));
        }
    });
    for (i, (vectors, rest)) in vectors.iter().zip(&rest).enumerate() {
        let at = k.bind("at", (row + i as i32) * block.pitch as i32 + e);
        for (c, (vector, rest)) in vectors.iter().zip(rest).enumerate() {
            let (place, sum) = (at + c as i32, vector.get().reduce_add() + rest.get());
            let before = is_cut(cx).then(|| logits.load(place));
            logits.store(place, before.map_or(sum, |before| before + sum));
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
