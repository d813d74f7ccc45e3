//! `mask_tokens` by itself: rows, of which those of padding are zeros. (Beside a product or in a route it is one load a token.)
//!
//! ```text
//!   mask[t] = 0 -->  out[t, 0..N] = 0, whatever x is          else -->  out[t, 0..N] = x[t, 0..N]
//! ```
//!
//! No FLOPs; x is read once where it counts, as much written. On a GPU a block is a token; on the host a few.
//!
//! `within`: such a mask, of the tokens whose ids are numbers of a vocabulary. 8 or 12 bytes a token, a thread each.

use super::chunk::row_block_tokens;
use crate::kernel::{Builder, Kernel};
use crate::{DType, Extent, Machine};

/// What is masked.
pub(super) struct MaskTokens {
    pub(super) name: String,
    pub(super) n: u32,
    /// Element type of the rows.
    pub(super) x: DType,
}

/// Parameters: `x`, `mask`, `out` (written), `tokens`.
pub(super) fn mask_tokens(spec: &MaskTokens, machine: &Machine) -> Kernel {
    let threads = machine.block_threads.min(256);
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let x = k.input("x", spec.x);
    let mask = k.input("mask", DType::I32);
    let out = k.output("out", spec.x);
    let tokens = k.scalar("tokens", DType::I32);
    let (most, n) = (row_block_tokens(machine) as i32, k.i32(spec.n as i32));

    let first = k.bind("first", k.block() * most);
    k.for_range("token", first, (first + most).min(tokens), |token| {
        let is_token = k.bind("is_token", mask.load(token).ne(0));
        let start = k.bind("start", token.cast(DType::I64) * k.i64(i64::from(spec.n)));
        k.for_step("n", k.thread(), n, k.i32(threads as i32), |at| {
            let offset = k.bind("offset", start + at.cast(DType::I64));
            let y = x.load(offset).cast(DType::F32);
            out.store(offset, is_token.select(y, 0.0).cast(spec.x));
        });
    });
    builder.finish()
}

/// Which ids are within a vocabulary.
pub(super) struct Within {
    pub(super) name: String,
    /// How many ids there are, from 0.
    pub(super) n: i32,
    /// Whether a mask says besides which tokens are padding.
    pub(super) masked: bool,
}

fn within_threads(machine: &Machine) -> u32 {
    machine.block_threads.min(256)
}

/// Tokens of a block: on a GPU one a thread.
fn within_tokens(machine: &Machine) -> u32 {
    if machine.has_threads() { within_threads(machine) } else { 1024 }
}

/// Number of blocks of [`within`].
pub(super) fn within_blocks(machine: &Machine) -> Extent {
    Extent::Tokens.div_ceil(u64::from(within_tokens(machine)))
}

/// Parameters: `ids`, where there is one `mask`, `out` (written), `tokens`.
pub(super) fn within(spec: &Within, machine: &Machine) -> Kernel {
    let (threads, most) = (within_threads(machine), within_tokens(machine) as i32);
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let ids = k.input("ids", DType::I32);
    let mask = spec.masked.then(|| k.input("mask", DType::I32));
    let out = k.output("out", DType::I32);
    let tokens = k.scalar("tokens", DType::I32);

    let first = k.bind("first", k.block() * most);
    let last = (first + most).min(tokens);
    k.for_step("token", first + k.thread(), last, k.i32(threads as i32), |token| {
        let id = k.bind("id", ids.load(token));
        let is_within = id.ge(0) & id.lt(spec.n);
        let is_token = match mask {
            Some(mask) => is_within & mask.load(token).ne(0),
            None => is_within,
        };
        out.store(token, is_token.select(k.i32(1), 0));
    });
    builder.finish()
}
