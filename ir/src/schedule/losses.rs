//! `losses`: what routing costs in training, from the sums that `route` and `sort` leave. One block; nothing is read that
//! grows with T but the blocks' sums and, where first picks or sequences count, the picks.
//!
//! ```text
//!   a thread an expert:   importance[e] = sum_b probability_of_block[b, e]      term[e] = importance[e] * count[e]
//!   one thread:           aux_loss = c E / T^2 sum_e term[e]                    z_loss = c / T sum_b z_of_block[b]
//! ```
//!
//! Some E B FLOPs for B blocks of 16 tokens, 4 E B bytes, and 4 K T where picks are counted. Counts are added up as
//! integers and sums run in the order of blocks, experts and threads: the same bits every run.

use super::chunk::{cell, share};
use crate::graph::{Balance, Losses};
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

/// What is made of a routing.
pub(super) struct Loss {
    pub(super) name: String,
    pub(super) experts: u32,
    pub(super) top_k: u32,
    /// Whether tokens may be padding, whose picks are of no expert, -1.
    pub(super) masked: bool,
    /// Whether other picks are counted than those of which there is a load.
    pub(super) others: bool,
    pub(super) rule: Losses,
}

impl Loss {
    /// Whether `topk_experts` is read, rather than `load_of_expert`.
    pub(super) fn reads_picks(&self) -> bool {
        self.rule.balance.is_some_and(|(balance, _)| match balance {
            Balance::First | Balance::Sequences | Balance::SequencesFirst => true,
            Balance::Load => self.others,
            Balance::Importance => false,
        })
    }

    /// Numbers that are counted: a pick of no expert has one of its own, the last.
    fn slots(&self) -> u32 {
        self.experts + u32::from(self.masked)
    }

    /// How many of a token's picks count.
    fn choices(&self) -> u32 {
        match self.rule.balance {
            Some((Balance::First | Balance::SequencesFirst, _)) => 1,
            Some((Balance::Load | Balance::Sequences | Balance::Importance, _)) | None => self.top_k,
        }
    }

    /// Bytes of shared memory.
    pub(super) fn shared_bytes(&self, machine: &Machine) -> u64 {
        4 * (u64::from(threads(machine)) + 3 * u64::from(self.slots().next_multiple_of(4)))
    }
}

fn threads(machine: &Machine) -> u32 {
    machine.block_threads.min(512)
}

/// Number of blocks.
pub(super) fn grid() -> Extent {
    Extent::Tokens.min(Extent::Const(1))
}

/// Parameters: `probability_of_block`, `z_of_block`, `load_of_expert` or `topk_experts` (or those counted in their
/// place), `token_count` where tokens may be padding, then written: `importance`,
/// `aux_loss` and `z_loss` where they are asked for; `tokens`, `blocks`, `span_tokens`.
pub(super) fn losses(spec: &Loss, machine: &Machine) -> Kernel {
    let threads = threads(machine);
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let probability_of_block = k.input("probability_of_block", DType::F32);
    let z_of_block = k.input("z_of_block", DType::F32);
    let counted = k.input("counted", DType::I32);
    let token_count = spec.masked.then(|| k.input("token_count", DType::I32));
    let importance = k.output("importance", DType::F32);
    let aux_loss = spec.rule.balance.map(|(_, factor)| (k.output("aux_loss", DType::F32), factor.get()));
    let z_loss = spec.rule.z.map(|factor| (k.output("z_loss", DType::F32), factor.get() as f32));
    let [tokens, blocks, span_tokens] = ["tokens", "blocks", "span_tokens"].map(|n| k.scalar(n, DType::I32));
    let room = spec.experts.next_multiple_of(4);
    let [sum, term] = ["sum", "term"].map(|n| k.shared(n, DType::F32, room));
    let count = k.shared("count", DType::I32, spec.slots());
    let part = k.shared("part", DType::F32, threads);
    let (zero, experts) = (k.i32(0), k.i32(spec.experts as i32));

    // A compiler may read four neighbours at once, those of the last experts too that are none.
    k.when(k.thread().eq(0), || {
        (spec.experts..room).for_each(|e| [sum, term].iter().for_each(|array| array.store(k.i32(e as i32), k.f32(0.0))));
    });
    // What sums over tokens are divided by. Of nothing but padding they are 0.
    let real_tokens = token_count.map_or(tokens, |count| k.bind("real_tokens", count.load(zero).max(1)));
    // The blocks' sums of an expert, in their order.
    let probability = |e: Value<'_>, from: Value<'_>, to: Value<'_>| {
        let sum = k.var("probability", k.f32(0.0));
        k.for_range("block", from, to, |block| {
            sum.set(sum.get() + probability_of_block.load(cell(block, experts, e)));
        });
        sum.get()
    };
    // How often each expert stands among the first `choices` picks of these tokens.
    let tally = |first: Value<'_>, tokens: Value<'_>, choices: u32| {
        share(k, "e", threads, k.i32(spec.slots() as i32), |e| count.store(e, zero));
        k.barrier();
        share(k, "i", threads, tokens * choices as i32, |i| {
            let pair = (first + i / choices as i32) * spec.top_k as i32 + i % choices as i32;
            let e = counted.load(pair);
            let e = if spec.masked { k.bind("e", e.lt(0).select(experts, e)) } else { e };
            if threads == 1 { count.store(e, count.load(e) + 1) } else { count.atomic_add(e, k.i32(1)) }
        });
        k.barrier();
    };
    match spec.rule.balance.map(|(balance, _)| balance) {
        Some(Balance::Sequences | Balance::SequencesFirst) => {
            share(k, "e", threads, experts, |e| {
                sum.store(e, k.f32(0.0));
                term.store(e, k.f32(0.0));
            });
            let spans = k.bind("spans", (tokens + span_tokens - 1) / span_tokens);
            let blocks_of_span = k.bind("blocks_of_span", blocks / spans);
            let counted_spans = spec.masked.then(|| k.var("counted_spans", zero));
            k.for_range("span", zero, spans, |span| {
                let first = k.bind("first_token", span * span_tokens);
                let here = k.bind("tokens_here", span_tokens.min(tokens - first));
                tally(first, here, spec.choices());
                let here = counted_spans.map_or(here, |counted_spans| {
                    let real = k.bind("real_here", here - count.load(experts) / spec.choices() as i32);
                    counted_spans.set(counted_spans.get() + real.min(1));
                    k.bind("divisor", real.max(1))
                });
                // The thread that owns an expert reads its count here, before it clears it: no barrier is needed.
                share(k, "e", threads, experts, |e| {
                    let p = k.bind("p", probability(e, span * blocks_of_span, (span + 1) * blocks_of_span));
                    let share = k.bind("share", count.load(e).cast(DType::F32) / here.cast(DType::F32));
                    sum.store(e, sum.load(e) + p);
                    term.store(e, term.load(e) + p / here.cast(DType::F32) * share);
                });
                if spec.masked {
                    // All have read how many picks are of no expert.
                    k.barrier();
                }
            });
            let spans = counted_spans.map_or(spans, |counted_spans| counted_spans.get().max(1));
            finish(k, spec, (sum, importance), (term, aux_loss), threads, |sum| sum / spans.cast(DType::F32));
        }
        Some(Balance::Load | Balance::First | Balance::Importance) | None => {
            if spec.reads_picks() {
                tally(zero, tokens, spec.choices());
            }
            share(k, "e", threads, experts, |e| {
                let p = k.bind("p", probability(e, zero, blocks));
                let count = if spec.reads_picks() { count.load(e) } else { counted.load(e) };
                sum.store(e, p);
                term.store(e, p * count.cast(DType::F32));
            });
            let t = real_tokens.cast(DType::F32);
            finish(k, spec, (sum, importance), (term, aux_loss), threads, |sum| sum / t / t);
        }
    }
    if let Some((z_loss, factor)) = z_loss {
        let z = k.var("z", k.f32(0.0));
        share(k, "block", threads, blocks, |block| z.set(z.get() + z_of_block.load(block)));
        part.store(k.thread(), z.get());
        k.barrier();
        k.when(k.thread().eq(0), || {
            let z = k.var("z", k.f32(0.0));
            k.for_range("i", zero, k.i32(threads as i32), |i| z.set(z.get() + part.load(i)));
            z_loss.store(zero, z.get() / real_tokens.cast(DType::F32) * factor);
        });
    }
    builder.finish()
}

/// Writes the importance and the balance loss, once all terms are there.
fn finish<'k>(
    k: &'k Builder,
    spec: &Loss,
    (sum, importance): (Array<'k>, Array<'k>),
    (term, aux_loss): (Array<'k>, Option<(Array<'k>, f64)>),
    threads: u32,
    per_token: impl Fn(Value<'k>) -> Value<'k>,
) {
    let (zero, experts) = (k.i32(0), k.i32(spec.experts as i32));
    share(k, "e", threads, experts, |e| importance.store(e, sum.load(e)));
    k.barrier();
    let Some((aux_loss, factor)) = aux_loss else { return };
    let over = |each: &dyn Fn(Value<'k>) -> Value<'k>| {
        let total = k.var("total", k.f32(0.0));
        k.for_range("e", zero, experts, |e| total.set(total.get() + each(e)));
        total.get()
    };
    k.when(k.thread().eq(0), || {
        let loss = match spec.rule.balance {
            Some((Balance::Importance, _)) => {
                let mean = k.bind("mean", over(&|e| sum.load(e)) / spec.experts as f32);
                let variance = over(&|e| {
                    let apart = k.bind("apart", sum.load(e) / mean - 1.0);
                    apart * apart
                });
                let loss = variance * (factor / f64::from(spec.experts)) as f32;
                // Of nothing but padding there is no mean.
                if spec.masked { mean.gt(0.0).select(loss, 0.0) } else { loss }
            }
            Some((Balance::Load | Balance::First | Balance::Sequences | Balance::SequencesFirst, _)) | None => {
                per_token(over(&|e| term.load(e))) * (factor * f64::from(spec.experts)) as f32
            }
        };
        aux_loss.store(zero, loss);
    });
}
