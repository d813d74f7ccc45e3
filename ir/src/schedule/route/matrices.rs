//! Logits by products of small matrices: the router goes from memory straight into left factors, tokens into right ones.
//!
//! ```text
//!   16 experts      k of a step: 32 of each of the warps that split H          8 tokens, twice
//!   +--------+      +------+------+
//!   |  left  |      |warp 0|warp 1| ..   sums[e, m] += router[e, k] * x[m, k]    lane 4 g + t has expert (token) g, elements
//!   | factor |      +------+------+                                              8 t .. 8 t + 8: 16 bytes
//!   +--------+      where there are few experts; else warps stand beside each other along the experts
//! ```
//!
//! As in streams of the grouped products ([`straight`](super::super::straight)) nothing goes through shared memory but the sums of warps that
//! split H, which are added in the order of the warps.
//!
//! **FLOPs and bytes.** 2 M E H FLOPs a block, exact products of 16-bit numbers added up in f32. The floor of few tokens is the router's
//! `2 E H` bytes; of many, those bytes a block from the second cache, `M` FLOPs a byte. A warp has up to eight steps under way: 64 KiB a block.

use super::super::chunk::share;
use super::super::straight::{EIGHT, PART, add_products, load_part};
use super::logits::{Matrices, start_of};
use super::{Block, Route};
use crate::kernel::build::Array;
use crate::kernel::{Builder, Hint, Value, fragment};
use crate::tiling::{LOGIT_DEPTH, LogitTiles};
use crate::{DType, Machine, tiling};

/// Experts of a left factor.
const SIXTEEN: u32 = 2 * EIGHT;
/// From one row to the next of the sums of a warp: the lanes of a store are in different banks, 8 experts of tokens 2 t.
const PITCH_PADDING: u32 = 4;

/// Bytes of shared memory beside the logits.
pub(super) fn shared_bytes(tiles: &LogitTiles, block: &Block) -> u64 {
    if tiles.warps_along == 1 { 0 } else { 4 * u64::from(tiles.warps_along * of_warps_along(tiles, block)) }
}

/// Elements from one row of the sums to the next.
fn pitch(tiles: &LogitTiles) -> u32 {
    tiles.warps_beside * tiles.factors * SIXTEEN + PITCH_PADDING
}

/// Sums of the warps that have the same run of H.
fn of_warps_along(tiles: &LogitTiles, block: &Block) -> u32 {
    block.tokens * pitch(tiles)
}

/// The products of elements `start..end` along H, for all experts and the tokens of the block: tells of each sum.
pub(super) fn products<'k>(
    k: &'k Builder,
    (spec, block, tiles): (&Route, &Block, &LogitTiles),
    m: &Matrices<'k>,
    [start, end]: [Value<'k>; 2],
    told: impl Fn(Value<'k>, Value<'k>, Value<'k>),
) {
    let work = Work::new(k, spec, block, tiles, m);
    let of_pass = tiles.warps_beside * tiles.factors * SIXTEEN;
    let inside = |row: Value<'k>, e: Value<'k>| row.lt(block.tokens as i32) & e.lt(spec.experts as i32);
    if tiles.warps_along == 1 {
        k.for_step("expert", k.i32(0), k.i32(spec.experts as i32), k.i32(of_pass as i32), |expert| {
            work.add(expert, [start, end], &|row, e, sum| k.when(inside(row, e), || told(row, e, sum)));
        });
        return;
    }
    // There are so few experts that one pass has them all.
    let pitch = pitch(tiles) as i32;
    let (along, of_warps) = (tiles.warps_along, of_warps_along(tiles, block));
    let sums = k.shared("logits_of_warps", DType::F32, along * of_warps);
    let place = k.bind("of_warp", work.warp_along * of_warps as i32);
    // No thread reads the sums of the tokens before any more.
    k.barrier();
    work.add(k.i32(0), [start, end], &|row, e, sum| {
        k.when(row.lt(block.tokens as i32), || sums.store(place + row * pitch + e, sum));
    });
    k.barrier();
    let experts = spec.experts as i32;
    share(k, "i", block.threads, k.i32(block.tokens as i32 * experts), |i| {
        let (row, e) = (k.bind("row", i / experts), k.bind("e", i % experts));
        let of = |warp: u32| sums.load(row * pitch + e + (warp * of_warps) as i32);
        told(row, e, (1..along).fold(of(0), |sum, warp| k.bind("sum", sum + of(warp))));
    });
}

/// What a warp multiplies.
struct Work<'a, 'k> {
    k: &'k Builder,
    spec: &'a Route<'a>,
    tiles: &'a LogitTiles,
    m: &'a Matrices<'k>,
    warp_beside: Value<'k>,
    warp_along: Value<'k>,
    /// The lane's line of eight; twice its column.
    line: Value<'k>,
    column: Value<'k>,
    /// Where the lane's elements are in a step.
    along: Value<'k>,
    /// Where the rows of its tokens start.
    rows: Vec<Value<'k>>,
}

impl<'a, 'k> Work<'a, 'k> {
    fn new(k: &'k Builder, spec: &'a Route, block: &Block, tiles: &'a LogitTiles, m: &'a Matrices<'k>) -> Work<'a, 'k> {
        let (warp, lane) = (k.bind("warp", k.thread() / 32), k.bind("lane", k.thread() % 32));
        let beside = tiles.warps_beside as i32;
        let (warp_beside, warp_along) = (k.bind("warp_beside", warp % beside), k.bind("warp_along", warp / beside));
        let (line, column) = (k.bind("line", lane / 4), k.bind("column", lane % 4 * 2));
        let along = k.bind("along", warp_along * LOGIT_DEPTH as i32 + lane % 4 * PART as i32);
        // Tokens beyond the last one repeat it, and are kept apart.
        let last = m.tokens - 1;
        let of_eight = |eight: u32| start_of(k, spec, (m.first + line + (eight * EIGHT) as i32).min(last));
        let rows = (0..block.tokens.div_ceil(EIGHT)).map(of_eight).collect();
        Work { k, spec, tiles, m, warp_beside, warp_along, line, column, along, rows }
    }

    /// The products of the warp's experts of those from `expert` on: tells of each sum that the lane has.
    fn add(&self, expert: Value<'k>, [start, end]: [Value<'k>; 2], told: &dyn Fn(Value<'k>, Value<'k>, Value<'k>)) {
        let (k, tiles) = (self.k, self.tiles);
        let first = k.bind("first_expert", expert + self.warp_beside * (tiles.factors * SIXTEEN) as i32);
        let last = self.spec.experts as i32 - 1;
        let of_eight = |eight: u32| start_of(k, self.spec, (first + self.line + (eight * EIGHT) as i32).min(last));
        let experts: Vec<Value> = (0..2 * tiles.factors).map(of_eight).collect();
        let eights = self.rows.len() as u32;
        let sums = k.sums("sums", fragment::SUMS * tiles.factors * eights);
        sums.clear(k, fragment::SUMS * tiles.factors * eights);
        k.for_step("h", start, end, k.i32(tiles.turn() as i32), |h| {
            let at = |step: u32| k.bind("at", h + self.along + (step * tiles.step()) as i32);
            let load = |from: Array<'k>, line: Value<'k>, at: Value<'k>| {
                let edge = (!tiles.is_whole).then(|| (at.lt(end), line));
                load_part(k, from, line + at.cast(DType::I64), edge, Hint::None)
            };
            let steps: Vec<[Vec<Value>; 2]> = (0..tiles.steps)
                .map(|step| {
                    let of = |from, lines: &[Value<'k>]| lines.iter().map(|line| load(from, *line, at(step))).collect();
                    [of(self.m.router, &experts), of(self.m.x, &self.rows)]
                })
                .collect();
            steps.iter().for_each(|[left, right]| add_products(sums, left, right));
        });
        for (factor, eight) in (0..tiles.factors).flat_map(|factor| (0..eights).map(move |eight| (factor, eight))) {
            for sum in 0..fragment::SUMS {
                let row = self.column + (eight * EIGHT + sum % 2) as i32;
                let e = first + self.line + (factor * SIXTEEN + sum / 2 * EIGHT) as i32;
                told(k.bind("m", row), k.bind("e", e), sums.get(factor * eights + eight, sum, 1));
            }
        }
    }
}

/// How the block's warps share the logits, where they can be computed so.
pub(super) fn tiles(spec: &Route, blocks: u32, machine: &Machine) -> Option<LogitTiles> {
    tiling::logit_tiles([spec.x, spec.router], [spec.hidden, spec.experts.into()], blocks, machine)
}
