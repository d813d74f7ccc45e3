//! How the tokens are cut into spans, and a span's items (its tokens or its pairs) into chunks, a block each: what `sort`
//! and `order` share. How places are found in a chunk is in `rank`.

use crate::graph::Span;
use crate::kernel::{Builder, Value};
use crate::tiling::chunk_items;
use crate::{DType, Extent, Machine};

/// Number of chunks where a token has `of_token` items.
pub(super) fn chunks(span: Span, of_token: u32, machine: &Machine) -> Extent {
    span.count() * (span.tokens() * u64::from(of_token)).div_ceil(u64::from(chunk_items(machine)))
}

/// Threads of a chunk's block.
pub(super) fn chunk_threads(machine: &Machine) -> u32 {
    machine.block_threads.min(256)
}

/// The part of the batch that a block sorts.
pub(super) struct Chunk<'k> {
    pub(super) span: Value<'k>,
    pub(super) first_token: Value<'k>,
    /// Tokens of the span; the last one may be short.
    pub(super) span_tokens: Value<'k>,
    /// Its first item's place in the span.
    pub(super) first: Value<'k>,
    pub(super) items: Value<'k>,
    of_token: i32,
}

impl<'k> Chunk<'k> {
    /// The chunk of this block, where a token has `of_token` items.
    pub(super) fn of_block(
        k: &'k Builder,
        of_token: u32,
        machine: &Machine,
        tokens: Value<'k>,
        span_tokens: Value<'k>,
    ) -> Chunk<'k> {
        let (of_token, most) = (of_token as i32, chunk_items(machine) as i32);
        let chunks_of_span = chunks_of_span(k, of_token, machine, span_tokens);
        let span = k.bind("span", k.block() / chunks_of_span);
        let first = k.bind("first", (k.block() - span * chunks_of_span) * most);
        let first_token = k.bind("first_token", span * span_tokens);
        let span_tokens = k.bind("tokens_here", span_tokens.min(tokens - first_token));
        let items = k.bind("items", (span_tokens * of_token - first).min(most));
        Chunk { span, first_token, span_tokens, first, items, of_token }
    }

    /// One of those of a batch that is one span, where a token has `of_token` items.
    pub(super) fn of_batch(k: &'k Builder, of_token: u32, machine: &Machine, tokens: Value<'k>, chunk: Value<'k>) -> Chunk<'k> {
        let (of_token, most) = (of_token as i32, chunk_items(machine) as i32);
        let first = k.bind("first", chunk * most);
        let items = k.bind("items", (tokens * of_token - first).min(most));
        Chunk { span: k.i32(0), first_token: k.i32(0), span_tokens: tokens, first, items, of_token }
    }

    /// Where the span's items start.
    pub(super) fn start(&self) -> Value<'k> {
        self.first_token * self.of_token
    }
}

/// Chunks of one span.
pub(super) fn chunks_of_span<'k>(k: &'k Builder, of_token: i32, machine: &Machine, span_tokens: Value<'k>) -> Value<'k> {
    let most = chunk_items(machine) as i32;
    k.bind("chunks_of_span", (span_tokens * of_token + (most - 1)) / most)
}

/// `for i in thread..end` with the threads of the block taking turns.
pub(super) fn share<'k>(k: &'k Builder, name: &str, threads: u32, end: Value<'k>, body: impl FnOnce(Value<'k>)) {
    k.for_step(name, k.thread(), end, k.i32(threads as i32), body);
}

/// Where `[row, column]` is in an array `[.., columns]`.
pub(super) fn cell<'k>(row: Value<'k>, columns: Value<'k>, column: Value<'k>) -> Value<'k> {
    row.cast(DType::I64) * columns.cast(DType::I64) + column.cast(DType::I64)
}

/// Tokens of a block that does the same for each element of a row: on a GPU one, whose elements its threads share.
pub(super) fn row_block_tokens(machine: &Machine) -> u32 {
    if machine.has_threads() { 1 } else { 64 }
}

/// Number of such blocks.
pub(super) fn row_blocks(machine: &Machine) -> Extent {
    Extent::Tokens.div_ceil(u64::from(row_block_tokens(machine)))
}
