//! `sort`: the (token, expert) pairs in the order of the grouped rows, by expert and then by priority, each expert
//! taking no more than its capacity, and some experts nothing. A stable counting sort in three kernels, or in one for a batch that
//! is small and one span; which experts were picked is not decided here.
//!
//! ```text
//!           span 0                         span 1           tokens that share a capacity (dropless: all, with room for all)
//!   [ chunk 0 | chunk 1 | chunk 2 ] [ chunk 3 | chunk 4 | chunk 5 ]       pairs in the order of priority
//!
//!   count   a block a chunk    pairs_of_chunk[c, e]
//!   scan    one block          rank_of_chunk[c, e] = pairs of e in earlier chunks of the span
//!                              rows_before_span[s, e], offset_of_expert[e], load, kept, and the tiles of the grouped GEMMs
//!   place   a block a chunk    row = offset_of_expert[e] + rows_before_span[s, e] + rank, dropped (-1) at the capacity
//! ```
//!
//! No FLOPs; 24 bytes a pair, and 16 E bytes a chunk. Nothing depends on the order in which threads run: counts are
//! added up, and rows are [ranks](super::rank). Pairs are numbered in i32.

use super::chunk::{Chunk, cell, chunk_threads, chunks, chunks_of_span, share};
use super::rank::{self, Ranks};
use crate::graph::{Priority, Span};
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::tiling::chunk_items;
use crate::{DType, Extent, Machine};

/// Chunks whose counts are read side by side.
const SIDE: i32 = 8;

/// What is sorted.
pub(super) struct Sort {
    /// Tells the kernels of several sorts apart.
    pub(super) suffix: String,
    pub(super) experts: u32,
    /// How many of them, the last, have no rows.
    pub(super) rowless: u32,
    pub(super) top_k: u32,
    pub(super) of: Pairs,
    /// Whether tokens may be padding, whose pairs are of no expert, -1: none is counted or has a row.
    pub(super) masked: bool,
    pub(super) span: Span,
    pub(super) priority: Priority,
    /// Rows of one M tile of the grouped GEMMs.
    pub(super) tile_rows: u32,
}

/// The experts of the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// Those that were picked.
    Picked,
    /// Every token has a pair with each expert, in their order.
    All,
    /// Those that a caller gives, by numbers of which those from 0 to below this are known, through a map or not. Others are of no
    /// expert.
    Given { ids: u32, mapped: bool },
}

impl Sort {
    /// Number of chunks.
    pub(super) fn chunks(&self, machine: &Machine) -> Extent {
        chunks(self.span, self.top_k, machine)
    }

    /// The room that expert `e` has, where those with rows have `capacity`.
    fn room<'k>(&self, k: &'k Builder, e: Value<'k>, capacity: Value<'k>) -> Value<'k> {
        if self.rowless == 0 {
            return capacity;
        }
        k.bind("room", e.lt((self.experts - self.rowless) as i32).select(capacity, 0))
    }

    /// Whether a pair may be of no expert.
    fn lacks_experts(&self) -> bool {
        match self.of {
            Pairs::Picked | Pairs::All => self.masked,
            Pairs::Given { .. } => true,
        }
    }

    /// What is done for expert `e`, if there is one.
    fn with_expert<'k>(&self, k: &'k Builder, e: Value<'k>, body: impl FnOnce()) {
        if self.lacks_experts() { k.when(e.ge(0), body) } else { body() }
    }

    fn kernel(&self, step: &str, threads: u32) -> Builder {
        Builder::new(format!("sort_{step}{}", self.suffix), threads)
    }
}

/// The order of service.
#[derive(Clone, Copy)]
enum Turns<'k> {
    ChoiceMajor,
    TokenMajor,
    /// By choice, the tokens of each span in this order.
    Tokens(Array<'k>),
    /// The pairs of each span in this order.
    Pairs(Array<'k>),
}

impl<'k> Turns<'k> {
    /// The parameter `order` too, where weights decide.
    fn of(k: &'k Builder, priority: Priority) -> Turns<'k> {
        let order = || k.input("order", DType::I32);
        match priority {
            Priority::ChoiceMajor => Turns::ChoiceMajor,
            Priority::TokenMajor => Turns::TokenMajor,
            Priority::BatchPrioritized => Turns::Tokens(order()),
            Priority::Score => Turns::Pairs(order()),
        }
    }

    /// The number `t * K + j` of the chunk's `i`-th pair.
    fn pair(self, k: &'k Builder, top_k: u32, chunk: &Chunk<'k>, i: Value<'k>) -> Value<'k> {
        let (at, top_k) = (chunk.first + i, top_k as i32);
        let (first, tokens) = (chunk.first_token, chunk.span_tokens);
        let pair = match self {
            Turns::TokenMajor => first * top_k + at,
            Turns::ChoiceMajor => (first + at % tokens) * top_k + at / tokens,
            Turns::Tokens(order) => order.load(first + at % tokens) * top_k + at / tokens,
            Turns::Pairs(order) => order.load(first * top_k + at),
        };
        k.bind("pair", pair)
    }
}

/// The expert of a pair.
#[derive(Clone, Copy)]
enum Experts<'k> {
    /// As they were picked.
    Picked(Array<'k>),
    /// Of E that each token has, in their order; of none where its number in the mask is 0.
    All(i32, Option<Array<'k>>),
    /// As a caller has them: of these, the ids from 0 to below `known` are experts, or places in a map whose numbers below `experts` are.
    Given { ids: Array<'k>, known: i32, map: Option<Array<'k>>, experts: i32 },
}

impl<'k> Experts<'k> {
    /// The parameter `topk_experts`, where experts were picked, `mask`, where all are and there is one, `topk_ids` and `expert_map`, where
    /// they are given.
    fn of(k: &'k Builder, sort: &Sort) -> Experts<'k> {
        match sort.of {
            Pairs::Picked => Experts::Picked(k.input("topk_experts", DType::I32)),
            Pairs::All => Experts::All(sort.experts as i32, sort.masked.then(|| k.input("mask", DType::I32))),
            Pairs::Given { ids, mapped } => Experts::Given {
                ids: k.input("topk_ids", DType::I32),
                known: ids as i32,
                map: mapped.then(|| k.input("expert_map", DType::I32)),
                experts: sort.experts as i32,
            },
        }
    }

    fn of_pair(self, k: &'k Builder, pair: Value<'k>) -> Value<'k> {
        match self {
            Experts::Given { ids, known, map, experts } => {
                let id = k.bind("id", ids.load(pair));
                let is_known = k.bind("is_known", id.ge(0) & id.lt(known));
                let Some(map) = map else { return is_known.select(id, -1) };
                let local = k.bind("local", map.load(is_known.select(id, 0)));
                (is_known & local.ge(0) & local.lt(experts)).select(local, -1)
            }
            Experts::Picked(experts) => experts.load(pair),
            Experts::All(experts, None) => pair % experts,
            Experts::All(experts, Some(mask)) => mask.load(pair / experts).ne(0).select(pair % experts, -1),
        }
    }
}

/// Parameters: those of [`Experts::of`], `order` where weights decide, `pairs_of_chunk` (written), `tokens`, `span_tokens`.
pub(super) fn count(sort: &Sort, machine: &Machine) -> Kernel {
    let threads = chunk_threads(machine);
    let builder = sort.kernel("count", threads);
    let k = &builder;
    let experts_of = Experts::of(k, sort);
    let turns = Turns::of(k, sort.priority);
    let pairs_of_chunk = k.output("pairs_of_chunk", DType::I32);
    let (tokens, span_tokens) = (k.scalar("tokens", DType::I32), k.scalar("span_tokens", DType::I32));
    let counts = k.shared("counts", DType::I32, sort.experts);
    let experts = k.i32(sort.experts as i32);

    let chunk = Chunk::of_block(k, sort.top_k, machine, tokens, span_tokens);
    share(k, "e", threads, experts, |e| counts.store(e, k.i32(0)));
    k.barrier();
    share(k, "i", threads, chunk.items, |i| {
        let e = experts_of.of_pair(k, turns.pair(k, sort.top_k, &chunk, i));
        sort.with_expert(
            k,
            e,
            || {
                if threads == 1 { counts.store(e, counts.load(e) + 1) } else { counts.atomic_add(e, k.i32(1)) }
            },
        );
    });
    k.barrier();
    share(k, "e", threads, experts, |e| pairs_of_chunk.store(cell(k.block(), experts, e), counts.load(e)));
    builder.finish()
}

/// What is written of the experts' rows and of the tiles that these are cut into.
struct Tables<'k> {
    offset_of_expert: Array<'k>,
    load_of_expert: Array<'k>,
    kept_of_expert: Array<'k>,
    tile_expert: Array<'k>,
    tile_row: Array<'k>,
    tile_count: Array<'k>,
    /// Where tokens may be padding: the others.
    token_count: Option<Array<'k>>,
    /// Of the block: each expert's kept pairs, then its first row; its first tile.
    first_row: Array<'k>,
    first_tile: Array<'k>,
}

impl<'k> Tables<'k> {
    /// The load of an expert that wants so many pairs, and what it keeps of them.
    fn store_load(&self, k: &'k Builder, sort: &Sort, e: Value<'k>, load: Value<'k>, kept: Value<'k>) {
        // Where experts choose, the load is what they took.
        self.load_of_expert.store(e, if sort.of == Pairs::All { kept } else { load });
        self.kept_of_expert.store(e, kept);
        self.first_row.store(e, kept);
        if let (Some(token_count), Pairs::All) = (self.token_count, sort.of) {
            // Every token that is no padding counts for each expert.
            k.when(e.eq(0), || token_count.store(k.i32(0), load));
        }
    }

    /// The rest, once the load of all experts is there.
    fn store_tiles(&self, k: &'k Builder, sort: &Sort, machine: &Machine, threads: u32) {
        let tile_rows = sort.tile_rows as i32;
        let (zero, experts) = (k.i32(0), k.i32(sort.experts as i32));
        let tiles_of = |kept: Value<'k>| (kept + (tile_rows - 1)) / tile_rows;
        k.barrier();
        // Each thread has some experts beside each other: what they have together, and behind what those before have.
        let each = sort.experts.div_ceil(threads) as i32;
        let first = k.bind("first", k.thread() * each);
        let end = k.bind("end", (first + each).min(experts));
        let counted = self.token_count.filter(|_| sort.of == Pairs::Picked);
        let [row, tile, pairs] = ["row", "tile", "pairs"].map(|name| k.var(name, zero));
        if threads > 1 {
            k.for_range("e", first, end, |e| {
                let kept = self.first_row.load(e);
                row.set(row.get() + kept);
                tile.set(tile.get() + tiles_of(kept));
                counted.iter().for_each(|_| pairs.set(pairs.get() + self.load_of_expert.load(e)));
            });
            let sums = [row.get(), tile.get(), pairs.get()];
            let sums = rank::before(k, machine, threads, "sums", if counted.is_some() { &sums } else { &sums[..2] });
            [row, tile, pairs].iter().zip(sums).for_each(|(sum, [before, _])| sum.set(before));
        }
        k.for_range("e", first, end, |e| {
            let kept = self.first_row.load(e);
            self.offset_of_expert.store(e, row.get());
            self.first_row.store(e, row.get());
            self.first_tile.store(e, tile.get());
            row.set(row.get() + kept);
            tile.set(tile.get() + tiles_of(kept));
            counted.iter().for_each(|_| pairs.set(pairs.get() + self.load_of_expert.load(e)));
            k.when(e.eq(sort.experts as i32 - 1), || {
                self.offset_of_expert.store(experts, row.get());
                self.tile_count.store(zero, tile.get());
                counted.iter().for_each(|count| count.store(zero, pairs.get() / sort.top_k as i32));
            });
        });
        k.barrier();
        share(k, "e", threads, experts, |e| {
            let (kept, row, tile) = (self.kept_of_expert.load(e), self.first_row.load(e), self.first_tile.load(e));
            k.for_range("i", zero, tiles_of(kept), |i| {
                self.tile_expert.store(tile + i, e);
                self.tile_row.store(tile + i, row + i * tile_rows);
            });
        });
    }
}

/// Where the pairs of a chunk go.
struct Places<'k> {
    experts_of: Experts<'k>,
    turns: Turns<'k>,
    topk_weights: Array<'k>,
    row_of_pair: Array<'k>,
    token_of_row: Array<'k>,
    weight_of_row: Array<'k>,
    /// Of the block: each expert's first row beyond its capacity.
    limit: Array<'k>,
    ranks: Ranks<'k>,
}

impl<'k> Places<'k> {
    /// Gives the chunk's pairs rows and stores them.
    fn place(&self, k: &'k Builder, sort: &Sort, chunk: &Chunk<'k>) {
        let pair_at = |i: Value<'k>| self.turns.pair(k, sort.top_k, chunk, i);
        self.ranks.places(
            chunk.items,
            |i| self.experts_of.of_pair(k, pair_at(i)),
            |i, e, place| {
                let (pair, row) = (pair_at(i), k.var("row", k.i32(-1)));
                sort.with_expert(k, e, || row.set(place.lt(self.limit.load(e)).select(place, -1)));
                self.row_of_pair.store(pair, row.get());
                k.when(row.get().ge(0), || {
                    self.token_of_row.store(row.get(), pair / sort.top_k as i32);
                    self.weight_of_row.store(row.get(), self.topk_weights.load(pair));
                });
            },
        );
    }
}

/// Parameters: `pairs_of_chunk`, then written: `rank_of_chunk`, `rows_before_span`, `offset_of_expert`, `load_of_expert`,
/// `kept_of_expert`, `tile_expert`, `tile_row`, `tile_count` and, where tokens may be padding, `token_count`, the others;
/// `tokens`, `span_tokens`, `capacity`.
pub(super) fn scan(sort: &Sort, machine: &Machine) -> Kernel {
    let threads = chunk_threads(machine).min(sort.experts.next_multiple_of(machine.warp_lanes));
    let builder = sort.kernel("scan", threads);
    let k = &builder;
    let pairs_of_chunk = k.input("pairs_of_chunk", DType::I32);
    let [rank_of_chunk, rows_before_span, offset_of_expert, load_of_expert, kept_of_expert] =
        ["rank_of_chunk", "rows_before_span", "offset_of_expert", "load_of_expert", "kept_of_expert"]
            .map(|n| k.output(n, DType::I32));
    let [tile_expert, tile_row, tile_count] = ["tile_expert", "tile_row", "tile_count"].map(|n| k.output(n, DType::I32));
    let token_count = sort.masked.then(|| k.output("token_count", DType::I32));
    let [tokens, span_tokens, capacity] = ["tokens", "span_tokens", "capacity"].map(|n| k.scalar(n, DType::I32));
    let [first_row, first_tile] = ["first_row", "first_tile"].map(|n| k.shared(n, DType::I32, sort.experts));
    let tables = Tables {
        offset_of_expert,
        load_of_expert,
        kept_of_expert,
        tile_expert,
        tile_row,
        tile_count,
        token_count,
        first_row,
        first_tile,
    };
    let (zero, experts) = (k.i32(0), k.i32(sort.experts as i32));

    let chunks_of_span = chunks_of_span(k, sort.top_k as i32, machine, span_tokens);
    let spans = k.bind("spans", (tokens + span_tokens - 1) / span_tokens);
    share(k, "e", threads, experts, |e| {
        let (load, kept, room) = (k.var("load", zero), k.var("kept", zero), sort.room(k, e, capacity));
        k.for_range("span", zero, spans, |span| {
            rows_before_span.store(cell(span, experts, e), kept.get());
            let first = k.bind("first_chunk", span * chunks_of_span);
            let rank = ranks_of_chunks(k, threads, (first, chunks_of_span), (experts, e), [pairs_of_chunk, rank_of_chunk]);
            load.set(load.get() + rank);
            kept.set(kept.get() + rank.min(room));
        });
        tables.store_load(k, sort, e, load.get(), kept.get());
    });
    tables.store_tiles(k, sort, machine, threads);
    builder.finish()
}

/// Stores how many pairs of expert `e` there are in earlier chunks, of so many from the first on, and gives those of all.
fn ranks_of_chunks<'k>(
    k: &'k Builder,
    threads: u32,
    (first, chunks): (Value<'k>, Value<'k>),
    (experts, e): (Value<'k>, Value<'k>),
    [pairs_of_chunk, rank_of_chunk]: [Array<'k>; 2],
) -> Value<'k> {
    // Some side by side, so that no read waits for another.
    let side = if threads == 1 { 1 } else { SIDE };
    let chunk_of = |part: Value<'k>| k.bind("chunk", cell(first + part, experts, e));
    let rank = k.var("rank", k.i32(0));
    k.for_step("part", k.i32(0), chunks, k.i32(side), |part| {
        let parts: Vec<_> = (0..side).map(|i| if i == 0 { part } else { k.bind("part", part + i) }).collect();
        let read =
            |(i, part): (usize, &Value<'k>)| pairs_of_chunk.load(chunk_of(if i == 0 { *part } else { part.min(chunks - 1) }));
        let pairs: Vec<_> = parts.iter().enumerate().map(read).collect();
        for (i, (part, pairs)) in parts.into_iter().zip(pairs).enumerate() {
            let write = || {
                rank_of_chunk.store(chunk_of(part), rank.get());
                rank.set(rank.get() + pairs);
            };
            if i == 0 { write() } else { k.when(part.lt(chunks), write) }
        }
    });
    rank.get()
}

/// Parameters: those of [`Experts::of`], `order` where weights decide, `topk_weights`, `rank_of_chunk`, `rows_before_span`,
/// `offset_of_expert`, then written: `row_of_pair`, `token_of_row`, `weight_of_row`; `tokens`, `span_tokens`, `capacity`.
pub(super) fn place(sort: &Sort, machine: &Machine) -> Kernel {
    let threads = chunk_threads(machine);
    let builder = sort.kernel("place", threads);
    let k = &builder;
    let experts_of = Experts::of(k, sort);
    let turns = Turns::of(k, sort.priority);
    let topk_weights = k.input("topk_weights", DType::F32);
    let [rank_of_chunk, rows_before_span, offset_of_expert] =
        ["rank_of_chunk", "rows_before_span", "offset_of_expert"].map(|n| k.input(n, DType::I32));
    let [row_of_pair, token_of_row] = ["row_of_pair", "token_of_row"].map(|n| k.output(n, DType::I32));
    let weight_of_row = k.output("weight_of_row", DType::F32);
    let [tokens, span_tokens, capacity] = ["tokens", "span_tokens", "capacity"].map(|n| k.scalar(n, DType::I32));
    let limit = k.shared("limit", DType::I32, sort.experts);
    let ranks = Ranks::new(k, machine, threads, sort.experts, sort.lacks_experts(), ["cursor", "expert_at", "row_at"]);
    let places = Places { experts_of, turns, topk_weights, row_of_pair, token_of_row, weight_of_row, limit, ranks };
    let experts = k.i32(sort.experts as i32);

    let chunk = Chunk::of_block(k, sort.top_k, machine, tokens, span_tokens);
    share(k, "e", threads, experts, |e| {
        let first = k.bind("first_row", offset_of_expert.load(e) + rows_before_span.load(cell(chunk.span, experts, e)));
        ranks.next.store(e, first + rank_of_chunk.load(cell(k.block(), experts, e)));
        limit.store(e, first + sort.room(k, e, capacity));
    });
    places.place(k, sort, &chunk);
    builder.finish()
}

/// All of it by one block, chunk after chunk, where the batch is one span. Parameters: those of [`Experts::of`], `order` where weights decide, `topk_weights`; `tokens`; those of [`of_block`].
pub(super) fn in_one_block(sort: &Sort, machine: &Machine) -> Kernel {
    let builder = Builder::new(format!("sort{}", sort.suffix), chunk_threads(machine));
    let k = &builder;
    let experts_of = Experts::of(k, sort);
    let turns = Turns::of(k, sort.priority);
    let topk_weights = k.input("topk_weights", DType::F32);
    block(k, sort, machine, (experts_of, turns), topk_weights, None);
    builder.finish()
}

/// What a block has routed.
pub(super) struct Picks<'k> {
    /// None: all experts.
    pub(super) topk_experts: Option<Array<'k>>,
    pub(super) topk_weights: Array<'k>,
    /// Which tokens are no padding, where some may be.
    pub(super) mask: Option<Array<'k>>,
    pub(super) tokens: Value<'k>,
}

/// What a block of [`chunk_threads`] does after it has routed all tokens, in an order of service that no weight decides. Parameters,
/// written: `offset_of_expert`, `load_of_expert`, `kept_of_expert`, `tile_expert`, `tile_row`, `tile_count`, `row_of_pair`,
/// `token_of_row`, `weight_of_row` and, where tokens may be padding, `token_count`; `capacity`.
pub(super) fn of_block<'k>(k: &'k Builder, sort: &Sort, machine: &Machine, picks: Picks<'k>) {
    let experts_of = picks.topk_experts.map_or(Experts::All(sort.experts as i32, picks.mask), Experts::Picked);
    block(k, sort, machine, (experts_of, Turns::of(k, sort.priority)), picks.topk_weights, Some(picks.tokens));
}

fn block<'k>(
    k: &'k Builder,
    sort: &Sort,
    machine: &Machine,
    (experts_of, turns): (Experts<'k>, Turns<'k>),
    topk_weights: Array<'k>,
    tokens: Option<Value<'k>>,
) {
    let threads = chunk_threads(machine);
    let [offset_of_expert, load_of_expert, kept_of_expert] =
        ["offset_of_expert", "load_of_expert", "kept_of_expert"].map(|n| k.output(n, DType::I32));
    let [tile_expert, tile_row, tile_count] = ["tile_expert", "tile_row", "tile_count"].map(|n| k.output(n, DType::I32));
    let [row_of_pair, token_of_row] = ["row_of_pair", "token_of_row"].map(|n| k.output(n, DType::I32));
    let weight_of_row = k.output("weight_of_row", DType::F32);
    let token_count = sort.masked.then(|| k.output("token_count", DType::I32));
    let tokens = tokens.unwrap_or_else(|| k.scalar("tokens", DType::I32));
    let capacity = k.scalar("capacity", DType::I32);
    let [first_tile, counts] = ["first_tile", "counts"].map(|n| k.shared(n, DType::I32, sort.experts));
    let ranks = Ranks::new(k, machine, threads, sort.experts, sort.lacks_experts(), ["first_row", "expert_at", "row_at"]);
    let tables = Tables {
        offset_of_expert,
        load_of_expert,
        kept_of_expert,
        tile_expert,
        tile_row,
        tile_count,
        token_count,
        // Rows are given out from the first one on.
        first_row: ranks.next,
        first_tile,
    };
    // The counts are read before there are limits.
    let limit = counts;
    let places = Places { experts_of, turns, topk_weights, row_of_pair, token_of_row, weight_of_row, limit, ranks };
    let (zero, experts) = (k.i32(0), k.i32(sort.experts as i32));

    let pairs = k.bind("pairs", tokens * sort.top_k as i32);
    share(k, "e", threads, experts, |e| counts.store(e, zero));
    k.barrier();
    share(k, "pair", threads, pairs, |pair| {
        let e = experts_of.of_pair(k, pair);
        let add = || if threads == 1 { counts.store(e, counts.load(e) + 1) } else { counts.atomic_add(e, k.i32(1)) };
        sort.with_expert(k, e, add);
    });
    k.barrier();
    share(k, "e", threads, experts, |e| {
        let load = counts.load(e);
        tables.store_load(k, sort, e, load, k.bind("kept", load.min(sort.room(k, e, capacity))));
    });
    tables.store_tiles(k, sort, machine, threads);
    share(k, "e", threads, experts, |e| limit.store(e, ranks.next.load(e) + sort.room(k, e, capacity)));
    let most = chunk_items(machine) as i32;
    k.for_range("chunk", zero, (pairs + (most - 1)) / most, |chunk| {
        let chunk = Chunk::of_batch(k, sort.top_k, machine, tokens, chunk);
        places.place(k, sort, &chunk);
    });
}
