//! `dropped_input` and `identity_input`: what a token keeps of itself, where experts had no room for it and where they are
//! the identity.
//!
//! ```text
//!   token t:   topk_experts[t, 0..K] = 5, 2, 9      row_of_pair[t, 0..K] = 17, -1, -1       (experts 8 and above: no rows)
//!
//!   dropped:   weights[t, 1] --+
//!                              +--> share --> out[t, n] = x[t, n] * share        (no such pick: 0, whatever x is)
//!   identity:  weights[t, 2] --+
//! ```
//!
//! T (K + N) FLOPs; reads x and 12 bytes a pair, writes T N f32. The share is summed in the order of the picks: the same
//! bits every run. On a GPU a block is a token; on the host a few.

use super::chunk::row_block_tokens;
use crate::kernel::{Builder, Kernel};
use crate::{DType, Machine};

/// The layer whose input is kept.
pub(super) struct KeptInput {
    pub(super) name: String,
    pub(super) picks: Picks,
    pub(super) n: u32,
    /// Those with rows; the numbers from here on are experts without.
    pub(super) experts: u32,
    pub(super) top_k: u32,
    /// Whether experts were picked; else all are, in their order.
    pub(super) picked: bool,
    /// Whether tokens may be padding, whose picks are of no expert, -1.
    pub(super) masked: bool,
    /// Element type of the tokens.
    pub(super) x: DType,
}

/// The picks that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picks {
    /// Of experts with rows, those that have none.
    Dropped,
    /// Of experts without rows, all.
    Rowless,
}

/// Parameters: `x`, `topk_experts` unless all are picked, `row_of_pair`, `topk_weights`, `out` (written), `tokens`.
pub(super) fn kept_input(spec: &KeptInput, machine: &Machine) -> Kernel {
    let threads = machine.block_threads.min(256);
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let x = k.input("x", spec.x);
    let topk_experts = spec.picked.then(|| k.input("topk_experts", DType::I32));
    let row_of_pair = k.input("row_of_pair", DType::I32);
    let topk_weights = k.input("topk_weights", DType::F32);
    let out = k.output("out", DType::F32);
    let tokens = k.scalar("tokens", DType::I32);
    let (most, top_k, n) = (row_block_tokens(machine) as i32, spec.top_k as i32, k.i32(spec.n as i32));

    let first = k.bind("first", k.block() * most);
    k.for_range("token", first, (first + most).min(tokens), |token| {
        let (share, any) = (k.var("share", k.f32(0.0)), k.var("any", k.bool(false)));
        k.for_range("pair", token * top_k, token * top_k + top_k, |pair| {
            let expert = topk_experts.map_or(pair - token * top_k, |experts| experts.load(pair));
            let counts = match spec.picks {
                Picks::Dropped => {
                    let has_rows = expert.lt(spec.experts as i32);
                    let has_rows = if spec.masked { has_rows & expert.ge(0) } else { has_rows };
                    has_rows & row_of_pair.load(pair).lt(0)
                }
                Picks::Rowless => expert.ge(spec.experts as i32),
            };
            k.when(counts, || {
                share.set(share.get() + topk_weights.load(pair));
                any.set(k.bool(true));
            });
        });
        let (share, any) = (k.bind("share", share.get()), k.bind("any", any.get()));
        let start = k.bind("start", token.cast(DType::I64) * k.i64(i64::from(spec.n)));
        k.for_step("n", k.thread(), n, k.i32(threads as i32), |at| {
            let offset = k.bind("offset", start + at.cast(DType::I64));
            let y = x.load(offset).cast(DType::F32) * share;
            out.store(offset, any.select(y, 0.0));
        });
    });
    builder.finish()
}
