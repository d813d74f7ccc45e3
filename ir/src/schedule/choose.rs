//! `choose`: each expert takes, of every span, the tokens that it scores highest, as many as it has room for; ties go to
//! the earlier token. A radix select, eight bits a pass from the highest, by which nothing is moved and nothing sorted.
//!
//! ```text
//!   a block: a few experts of one span             scores [T, E]        a run of tokens a thread, down one column
//!
//!   four passes over the keys, whose order is that of the scores downwards:
//!     count    tokens_of_digit[d] = tokens whose digits so far are the threshold's, and whose next one is d
//!     narrow   the threshold's next digit: the one of the last token that there is room for
//!   place      runs count their tokens before the threshold and at it, and are added up; then every token has its row
//! ```
//!
//! How many tokens an expert takes does not depend on the scores, so rows, offsets and tiles are known at once:
//! `row = e * kept + span * room + rank`, where ranks are in the order of the tokens.
//!
//! No FLOPs; the scores are read six times (twice where there is room for all) and rows written once, 28 bytes a pair, and
//! 8 bytes a row. Counts are added up, and a token's row is its own thread's business: the same bits every run. A NaN comes
//! last, with minus infinity; both zeros tie. A span is the work of E / 4 blocks of a GPU, however long it is: one long span
//! leaves most of it idle, though for a small part of the time that the products of its tokens take.

use super::chunk::share;
use super::route::pick;
use crate::graph::Span;
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

/// What is chosen from.
pub(super) struct Choose {
    pub(super) name: String,
    pub(super) experts: u32,
    /// Rows of one M tile of the grouped GEMMs.
    pub(super) tile_rows: u32,
}

/// Values of a digit.
const DIGITS: u32 = 256;

/// Scores that a thread loads before it looks at them.
const AHEAD: i32 = 4;

/// Experts of a block. On a GPU half a sector of 32 bytes: a whole one would halve the blocks.
fn side(machine: &Machine) -> u32 {
    if machine.has_threads() { 4 } else { 1 }
}

fn threads(machine: &Machine) -> u32 {
    machine.block_threads.min(512)
}

/// Number of blocks; none where there are no tokens, in a single span either.
pub(super) fn grid(spec: &Choose, span: Span, machine: &Machine) -> Extent {
    span.count().min(Extent::Tokens) * u64::from(spec.experts.div_ceil(side(machine)))
}

/// Parameters: `scores`, then written: `row_of_pair`, `token_of_row`, `weight_of_row`, `offset_of_expert`,
/// `load_of_expert`, `kept_of_expert`, `tile_expert`, `tile_row`, `tile_count`; `tokens`, `span_tokens`, `capacity`.
pub(super) fn choose(spec: &Choose, machine: &Machine) -> Kernel {
    let (threads, side) = (threads(machine), side(machine));
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let scores = k.input("scores", DType::F32);
    let [row_of_pair, token_of_row] = ["row_of_pair", "token_of_row"].map(|n| k.output(n, DType::I32));
    let weight_of_row = k.output("weight_of_row", DType::F32);
    let tables = Tables {
        of_expert: ["offset_of_expert", "load_of_expert", "kept_of_expert"].map(|n| k.output(n, DType::I32)),
        of_tile: ["tile_expert", "tile_row", "tile_count"].map(|n| k.output(n, DType::I32)),
    };
    let [tokens, span_tokens, capacity] = ["tokens", "span_tokens", "capacity"].map(|n| k.scalar(n, DType::I32));

    let blocks_of_span = spec.experts.div_ceil(side) as i32;
    let span = k.bind("span", k.block() / blocks_of_span);
    let first_expert = k.bind("first_expert", k.block() % blocks_of_span * side as i32);
    let whole = k.bind("whole_spans", tokens / span_tokens);
    let room = k.bind("room", capacity.min(span_tokens));
    let kept = k.bind("kept", whole * room + capacity.min(tokens - whole * span_tokens));
    k.when(span.eq(0), || tables.fill(k, spec, (threads, side), first_expert, kept));

    let column = Column::of_thread(k, spec, (threads, side), (span, first_expert), (tokens, span_tokens));
    let search = Search::new(k, machine, (threads, side), column.e);
    // Where there is room for all, all keys come before the limit, and there is nothing to search for.
    let (limit, ties) = (k.var("limit", k.i32(i32::MIN)), k.var("ties", k.i32(0)));
    k.when(column.tokens.gt(capacity), || {
        search.begin(capacity);
        for shift in [24, 16, 8, 0] {
            search.count(&column, scores, shift);
            search.narrow(shift);
        }
        limit.set(search.threshold.load(column.e) ^ i32::MAX);
        ties.set(search.left.load(column.e));
    });
    let first_row = k.bind("first_row", (first_expert + column.e) * kept + span * room);
    let (limit, ties) = (k.bind("limit_here", limit.get()), k.bind("ties_here", ties.get()));
    let (before, at) = search.rank(&column, scores, limit);
    column.each(scores, |token, pair, score, key| {
        let (is_before, is_at) = (key.gt(limit), key.eq(limit));
        let taken = k.bind("taken", is_before | (is_at & at.get().lt(ties)));
        let row = k.bind("row", first_row + before.get() + at.get().min(ties));
        before.set(before.get() + is_before.select(k.i32(1), 0));
        at.set(at.get() + is_at.select(k.i32(1), 0));
        row_of_pair.store(pair, taken.select(row, -1));
        k.when(taken, || {
            token_of_row.store(row, token);
            weight_of_row.store(row, score);
        });
    });
    builder.finish()
}

/// What the grouped products must know of the rows.
struct Tables<'k> {
    /// Offset, load and kept.
    of_expert: [Array<'k>; 3],
    /// Expert and row of a tile, and the number of tiles.
    of_tile: [Array<'k>; 3],
}

impl<'k> Tables<'k> {
    /// By the blocks of the first span, each for its experts, of which every one has `kept` rows.
    fn fill(&self, k: &'k Builder, spec: &Choose, (threads, side): (u32, u32), first: Value<'k>, kept: Value<'k>) {
        let [offset, load, kept_of] = self.of_expert;
        let [tile_expert, tile_row, tile_count] = self.of_tile;
        let (experts, tile_rows) = (spec.experts as i32, spec.tile_rows as i32);
        let tiles = k.bind("tiles_of_expert", (kept + (tile_rows - 1)) / tile_rows);
        let last = k.bind("last_expert", (first + side as i32).min(experts));
        k.for_range("expert", first, last, |e| {
            k.when(k.thread().eq(0), || {
                offset.store(e, e * kept);
                // The load of an expert that chooses is what it took.
                load.store(e, kept);
                kept_of.store(e, kept);
            });
            share(k, "i", threads, tiles, |i| {
                tile_expert.store(e * tiles + i, e);
                tile_row.store(e * tiles + i, e * kept + i * tile_rows);
            });
        });
        k.when(k.thread().eq(0) & first.eq(0), || {
            offset.store(k.i32(experts), kept * experts);
            tile_count.store(k.i32(0), tiles * experts);
        });
    }
}

/// The scores that a thread looks at: a run of a span's tokens, by one expert.
struct Column<'k> {
    k: &'k Builder,
    /// The expert's place in the block.
    e: Value<'k>,
    /// The run's place among those of the span.
    run: Value<'k>,
    /// Tokens of the span; the last one may be short.
    tokens: Value<'k>,
    first_token: Value<'k>,
    begin: Value<'k>,
    end: Value<'k>,
    expert: Value<'k>,
    experts: i32,
}

impl<'k> Column<'k> {
    fn of_thread(
        k: &'k Builder,
        spec: &Choose,
        (threads, side): (u32, u32),
        (span, first_expert): (Value<'k>, Value<'k>),
        (tokens, span_tokens): (Value<'k>, Value<'k>),
    ) -> Column<'k> {
        let (runs, experts) = ((threads / side) as i32, spec.experts as i32);
        let e = k.bind("e", k.thread() % side as i32);
        let run = k.bind("run", k.thread() / side as i32);
        let expert = k.bind("expert", first_expert + e);
        let first_token = k.bind("first_token", span * span_tokens);
        let tokens = k.bind("tokens_here", span_tokens.min(tokens - first_token));
        let most = k.bind("tokens_of_run", (tokens + (runs - 1)) / runs);
        let begin = k.bind("begin", (run * most).min(tokens));
        // Beyond the last expert there is nothing to look at.
        let end = k.bind("end", expert.lt(experts).select((begin + most).min(tokens), begin));
        Column { k, e, run, tokens, first_token, begin, end, expert, experts }
    }

    /// Its tokens in order, each with its pair, its score and the score's key.
    fn each(&self, scores: Array<'k>, body: impl Fn(Value<'k>, Value<'k>, Value<'k>, Value<'k>)) {
        let k = self.k;
        k.for_step("i", self.begin, self.end, k.i32(AHEAD), |i| {
            let pair = |at: Value<'k>| (self.first_token + at) * self.experts + self.expert;
            let load = |ahead: i32| k.bind("score", scores.load(pair((i + ahead).min(self.end - 1))));
            let loaded: Vec<_> = (0..AHEAD).map(load).collect();
            for (ahead, score) in (0..AHEAD).zip(loaded) {
                let at = k.bind("at", i + ahead);
                k.when(at.lt(self.end), || body(self.first_token + at, pair(at), score, k.bind("key", pick::key(k, score))));
            }
        });
    }
}

/// The search for the key of the last token that an expert has room for, of all the block's experts at once.
struct Search<'k> {
    k: &'k Builder,
    threads: u32,
    side: u32,
    /// Lanes that add up together.
    lanes: u32,
    /// The thread's expert.
    e: Value<'k>,
    tokens_of_digit: Array<'k>,
    /// Of each expert: the digits so far, in the places that they have in a key.
    threshold: Array<'k>,
    /// Tokens to be taken of those whose digits are the threshold's.
    left: Array<'k>,
    /// Of each run: tokens before the threshold, and at it.
    tokens_of_run: [Array<'k>; 2],
}

impl<'k> Search<'k> {
    fn new(k: &'k Builder, machine: &Machine, (threads, side): (u32, u32), e: Value<'k>) -> Search<'k> {
        // One place more, for the sum.
        let of_each = |name: &str, n: u32| k.shared(name, DType::I32, (n + 1) * side);
        Search {
            k,
            threads,
            side,
            lanes: machine.warp_lanes,
            e,
            tokens_of_digit: of_each("tokens_of_digit", DIGITS),
            threshold: k.shared("threshold", DType::I32, side),
            left: k.shared("left", DType::I32, side),
            tokens_of_run: ["before_of_run", "at_of_run"].map(|name| of_each(name, threads / side)),
        }
    }

    fn begin(&self, wanted: Value<'k>) {
        let k = self.k;
        k.when(k.thread().lt(self.side as i32), || {
            self.threshold.store(self.e, k.i32(0));
            self.left.store(self.e, wanted);
        });
    }

    /// A key's digits, which order as unsigned numbers do: less where the score is more.
    fn digits(key: Value<'k>) -> Value<'k> {
        key ^ i32::MAX
    }

    /// Counts the tokens that may be the last one by their next digit.
    fn count(&self, column: &Column<'k>, scores: Array<'k>, shift: i32) {
        let k = self.k;
        let entries = k.i32(((DIGITS + 1) * self.side) as i32);
        share(k, "d", self.threads, entries, |d| self.tokens_of_digit.store(d, k.i32(0)));
        k.barrier();
        let threshold = k.bind("threshold_here", self.threshold.load(self.e));
        let known = (-1i32).checked_shl(shift as u32 + 8).unwrap_or(0);
        column.each(scores, |_, _, _, key| {
            let digits = k.bind("digits", Self::digits(key));
            k.when(((digits ^ threshold) & known).eq(0), || {
                let digit = digits.shr_unsigned(shift) & (DIGITS as i32 - 1);
                let at = k.bind("at_digit", Self::place(self.e, DIGITS, digit));
                if self.threads == 1 {
                    self.tokens_of_digit.store(at, self.tokens_of_digit.load(at) + 1);
                } else {
                    self.tokens_of_digit.atomic_add(at, k.i32(1));
                }
            });
        });
        k.barrier();
    }

    /// Finds the digit of the last token that there is room for.
    fn narrow(&self, shift: i32) {
        let k = self.k;
        self.each_expert(|e, lane| {
            let left = k.bind("left_here", self.left.load(e));
            self.add_up(self.tokens_of_digit, DIGITS, e, lane);
            k.warp_barrier();
            k.for_step("d", lane, k.i32(DIGITS as i32), k.i32(self.lanes as i32), |d| {
                let before = k.bind("before", self.tokens_of_digit.load(Self::place(e, DIGITS, d)));
                let after = k.bind("after", self.tokens_of_digit.load(Self::place(e, DIGITS, d + 1)));
                k.when(before.lt(left) & after.ge(left), || {
                    self.threshold.store(e, self.threshold.load(e) | (d << shift));
                    self.left.store(e, left - before);
                });
            });
        });
        k.barrier();
    }

    /// How many tokens of earlier runs are before the threshold, and at it.
    fn rank(&self, column: &Column<'k>, scores: Array<'k>, limit: Value<'k>) -> (Var<'k>, Var<'k>) {
        let k = self.k;
        let runs = self.threads / self.side;
        let here = k.bind("here", Self::place(self.e, runs, column.run));
        let [before, at] = ["before", "at"].map(|name| k.var(name, k.i32(0)));
        column.each(scores, |_, _, _, key| {
            before.set(before.get() + key.gt(limit).select(k.i32(1), 0));
            at.set(at.get() + key.eq(limit).select(k.i32(1), 0));
        });
        self.tokens_of_run.iter().zip([before, at]).for_each(|(of_run, count)| of_run.store(here, count.get()));
        k.barrier();
        self.each_expert(|e, lane| self.tokens_of_run.iter().for_each(|of_run| self.add_up(*of_run, runs, e, lane)));
        k.barrier();
        let [before, at] = self.tokens_of_run.map(|of_run| k.var("earlier", of_run.load(here)));
        (before, at)
    }

    /// The experts of the block, each by the lanes of one warp.
    fn each_expert(&self, body: impl FnOnce(Value<'k>, Value<'k>)) {
        let (k, lanes) = (self.k, self.lanes as i32);
        let lane = k.bind("lane", k.thread() % lanes);
        let warps = k.i32(self.threads as i32 / lanes);
        k.for_step("e", k.thread() / lanes, k.i32(self.side as i32), warps, |e| body(e, lane));
    }

    /// Where the `i`-th of an expert's `n` counts is.
    fn place(e: Value<'k>, n: u32, i: Value<'k>) -> Value<'k> {
        e * (n as i32 + 1) + i
    }

    /// Makes an expert's `n` counts the sums of those before them, with the sum of all at the end. The lanes meet afterwards.
    fn add_up(&self, counts: Array<'k>, n: u32, e: Value<'k>, lane: Value<'k>) {
        let (k, lanes) = (self.k, self.lanes as i32);
        let all = k.var("all", k.i32(0));
        k.for_step("from", k.i32(0), k.i32(n as i32), k.i32(lanes), |from| {
            let at = k.bind("at", Self::place(e, n, from + lane));
            // Of 1, 2, 4, ... neighbours: their sum, and that of those before the lane's own count.
            let (mut sum, mut earlier) = (k.bind("count", counts.load(at)), all.get());
            let mut mask = 1;
            while mask < self.lanes {
                let other = k.bind("other", k.shuffle(sum, mask));
                earlier = k.bind("earlier", earlier + (lane & mask as i32).ne(0).select(other, 0));
                sum = k.bind("sum", sum + other);
                mask *= 2;
            }
            counts.store(at, earlier);
            all.set(all.get() + sum);
        });
        k.when(lane.eq(0), || counts.store(Self::place(e, n, k.i32(n as i32)), all.get()));
    }
}
