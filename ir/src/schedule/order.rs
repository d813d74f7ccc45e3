//! `order`: the tokens or the pairs of each span, largest number first, ties to the lower index: the order of service where
//! the best scores of tokens or the weights of pairs decide. A stable radix sort, eight bits a pass from the lowest, each pass as `sort` does it.
//!
//! ```text
//!   begin   key_of_item[i] = its number as bits that order downwards       order = 0, 1, 2, ..
//!
//!   four passes, on the digit (key >> shift) & 255 of the items in the order so far:
//!     count   a block a chunk    items_of_chunk[c, d]
//!     scan    a block a span     place_of_chunk[c, d] = items of lesser digits, and of this one in earlier chunks
//!     place   a block a chunk    order'[place] = item
//! ```
//!
//! No FLOPs; some 20 bytes an item and 2 KiB a chunk in each pass. Counts are added up, and places are ranks: the
//! same order every run. A NaN comes last, with minus infinity; both zeros tie.

use super::chunk::{Chunk, cell, chunk_threads, chunks, chunks_of_span, share};
use super::rank::Ranks;
use super::route::pick;
use crate::graph::Span;
use crate::kernel::{Builder, Kernel};
use crate::tiling::chunk_items;
use crate::{DType, Extent, Machine};

/// What is ordered.
pub(super) struct Order {
    /// Tells the kernels of several sorts apart.
    pub(super) suffix: String,
    pub(super) span: Span,
    /// Items of a token: 1, itself, or K, its pairs.
    pub(super) of_token: u32,
}

/// Values of a digit.
pub(super) const DIGITS: u32 = 256;

/// What the key is shifted by, pass by pass.
pub(super) const SHIFTS: [u64; 4] = [0, 8, 16, 24];

impl Order {
    fn kernel(&self, step: &str, threads: u32) -> Builder {
        Builder::new(format!("order_{step}{}", self.suffix), threads)
    }

    /// Number of items.
    pub(super) fn items(&self) -> Extent {
        Extent::Tokens * u64::from(self.of_token)
    }

    /// Number of blocks of `begin`.
    pub(super) fn parts(&self, machine: &Machine) -> Extent {
        self.items().div_ceil(u64::from(chunk_items(machine)))
    }

    /// Number of blocks of `count` and `place`.
    pub(super) fn chunks(&self, machine: &Machine) -> Extent {
        chunks(self.span, self.of_token, machine)
    }

    /// Number of blocks of `scan`.
    pub(super) fn spans(&self) -> Extent {
        self.span.count()
    }
}

/// Parameters: `number_of_item`, `key_of_item` and `order` (written), `tokens`.
pub(super) fn begin(spec: &Order, machine: &Machine) -> Kernel {
    let threads = chunk_threads(machine);
    let builder = spec.kernel("begin", threads);
    let k = &builder;
    let number_of_item = k.input("number_of_item", DType::F32);
    let [key_of_item, order] = ["key_of_item", "order"].map(|n| k.output(n, DType::I32));
    let tokens = k.scalar("tokens", DType::I32);
    let most = chunk_items(machine) as i32;

    let first = k.bind("first", k.block() * most);
    let items = k.bind("items", (tokens * spec.of_token as i32 - first).min(most));
    share(k, "i", threads, items, |i| {
        let item = k.bind("item", first + i);
        let key = pick::key(k, number_of_item.load(item));
        // As an unsigned number less where the number is more.
        key_of_item.store(item, key ^ i32::MAX);
        order.store(item, item);
    });
    builder.finish()
}

/// Parameters: `order`, `key_of_item`, `items_of_chunk` (written), `shift`, `tokens`, `span_tokens`.
pub(super) fn count(spec: &Order, machine: &Machine) -> Kernel {
    let threads = chunk_threads(machine);
    let builder = spec.kernel("count", threads);
    let k = &builder;
    let [order, key_of_item] = ["order", "key_of_item"].map(|n| k.input(n, DType::I32));
    let items_of_chunk = k.output("items_of_chunk", DType::I32);
    let [shift, tokens, span_tokens] = ["shift", "tokens", "span_tokens"].map(|n| k.scalar(n, DType::I32));
    let counts = k.shared("counts", DType::I32, DIGITS);
    let digits = k.i32(DIGITS as i32);

    let chunk = Chunk::of_block(k, spec.of_token, machine, tokens, span_tokens);
    let first = k.bind("first_item", chunk.start() + chunk.first);
    share(k, "d", threads, digits, |d| counts.store(d, k.i32(0)));
    k.barrier();
    share(k, "i", threads, chunk.items, |i| {
        let d = k.bind("digit", key_of_item.load(order.load(first + i)).shr_unsigned(shift) & (DIGITS as i32 - 1));
        if threads == 1 { counts.store(d, counts.load(d) + 1) } else { counts.atomic_add(d, k.i32(1)) }
    });
    k.barrier();
    share(k, "d", threads, digits, |d| items_of_chunk.store(cell(k.block(), digits, d), counts.load(d)));
    builder.finish()
}

/// Parameters: `items_of_chunk`, `place_of_chunk` (written), `span_tokens`.
pub(super) fn scan(spec: &Order, machine: &Machine) -> Kernel {
    let threads = machine.block_threads.min(DIGITS);
    let builder = spec.kernel("scan", threads);
    let k = &builder;
    let items_of_chunk = k.input("items_of_chunk", DType::I32);
    let place_of_chunk = k.output("place_of_chunk", DType::I32);
    let span_tokens = k.scalar("span_tokens", DType::I32);
    let [items_of_digit, first_of_digit] = ["items_of_digit", "first_of_digit"].map(|n| k.shared(n, DType::I32, DIGITS));
    let (zero, digits) = (k.i32(0), k.i32(DIGITS as i32));

    let chunks = chunks_of_span(k, spec.of_token as i32, machine, span_tokens);
    let first = k.bind("first_chunk", k.block() * chunks);
    share(k, "d", threads, digits, |d| {
        let items = k.var("items", zero);
        k.for_range("part", zero, chunks, |part| {
            items.set(items.get() + items_of_chunk.load(cell(first + part, digits, d)));
        });
        items_of_digit.store(d, items.get());
    });
    k.barrier();
    k.when(k.thread().eq(0), || {
        let place = k.var("place", zero);
        k.for_range("d", zero, digits, |d| {
            first_of_digit.store(d, place.get());
            place.set(place.get() + items_of_digit.load(d));
        });
    });
    k.barrier();
    share(k, "d", threads, digits, |d| {
        let place = k.var("place", first_of_digit.load(d));
        k.for_range("part", zero, chunks, |part| {
            let chunk = k.bind("chunk", cell(first + part, digits, d));
            place_of_chunk.store(chunk, place.get());
            place.set(place.get() + items_of_chunk.load(chunk));
        });
    });
    builder.finish()
}

/// Parameters: `order`, `key_of_item`, `place_of_chunk`, `ordered` (written), `shift`, `tokens`, `span_tokens`.
pub(super) fn place(spec: &Order, machine: &Machine) -> Kernel {
    let threads = chunk_threads(machine);
    let builder = spec.kernel("place", threads);
    let k = &builder;
    let [order, key_of_item, place_of_chunk] = ["order", "key_of_item", "place_of_chunk"].map(|n| k.input(n, DType::I32));
    let ordered = k.output("ordered", DType::I32);
    let [shift, tokens, span_tokens] = ["shift", "tokens", "span_tokens"].map(|n| k.scalar(n, DType::I32));
    let ranks = Ranks::new(k, machine, threads, DIGITS, false, ["cursor", "digit_at", "place_at"]);
    let digits = k.i32(DIGITS as i32);

    let chunk = Chunk::of_block(k, spec.of_token, machine, tokens, span_tokens);
    let start = k.bind("start", chunk.start());
    let first = k.bind("first_item", start + chunk.first);
    share(k, "d", threads, digits, |d| ranks.next.store(d, place_of_chunk.load(cell(k.block(), digits, d))));
    ranks.places(
        chunk.items,
        |i| key_of_item.load(order.load(first + i)).shr_unsigned(shift) & (DIGITS as i32 - 1),
        |i, _, place| ordered.store(start + place, order.load(first + i)),
    );
    builder.finish()
}
