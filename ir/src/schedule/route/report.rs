//! What a body observes, summed over the tokens of a block: the probabilities of each expert and the squares of
//! logsumexp. The rows are read once more while they are in shared memory; no launch, and no array of T E in memory.
//!
//! ```text
//!   logits [M, E]   a row's lanes, once its picks are known:   max, then s[e] = exp(l[e] - max) in the place of l[e]
//!                   and of the row share = 1 / sum s,          z = (max + ln sum)^2
//!
//!      e ->         after all rows, a thread an expert:        probability_of_block[b, e] = sum_m s[m, e] * share[m]
//! ```
//!
//! E exponentials a token, 2 E where scores are no softmax; 4 E + 4 bytes a block. Sums run in the order of the tokens.

use super::super::math::{self, finite};
use super::Block;
use super::lanes::{At, Lanes};
use super::row::{Facts, Row};
use crate::DType;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Value};

/// What is kept of each row of a block.
pub(super) struct Report<'k> {
    /// What the row's scores are multiplied by.
    share: Array<'k>,
    z: Array<'k>,
}

/// Above this a z counts as 0.
const LARGEST_Z: f32 = (1u128 << 120) as f32;

impl<'k> Report<'k> {
    pub(super) fn new(k: &'k Builder, block: &Block) -> Report<'k> {
        let [share, z] = ["share", "z"].map(|name| k.shared(name, DType::F32, rows(block)));
        Report { share, z }
    }

    pub(super) fn shared_bytes(block: &Block) -> u64 {
        4 * 2 * u64::from(rows(block))
    }

    /// Writes the sums over the first `here` rows of this block.
    pub(super) fn sum(
        &self,
        lanes: &Lanes<'k>,
        (block, number): (&Block, Value<'k>),
        (scores, experts): (Array<'k>, u32),
        here: Value<'k>,
        [probability_of_block, z_of_block]: [Array<'k>; 2],
    ) {
        let k = lanes.k;
        let start = k.bind("start", number.cast(DType::I64) * k.i64(i64::from(experts)));
        let columns = |from: u32, to: u32, wide: u32| {
            let (from, step) = (k.thread() * wide as i32 + from as i32, (block.threads * wide) as i32);
            k.for_step("e", from, k.i32(to as i32), k.i32(step), |e| {
                let sum = k.var("sum", k.f32(0.0).splat(wide));
                k.for_range("m", k.i32(0), here, |m| {
                    let score = scores.load_vector(m * block.pitch as i32 + e, wide);
                    sum.set(score.fma(self.share.load(m).splat(wide), sum.get()));
                });
                probability_of_block.store(start + e.cast(DType::I64), sum.get());
            });
        };
        let whole = experts - experts % lanes.wide;
        columns(0, whole, lanes.wide);
        if whole < experts {
            columns(whole, experts, 1);
        }
        k.when(k.thread().eq(0), || {
            let sum = k.var("sum", k.f32(0.0));
            k.for_range("m", k.i32(0), here, |m| sum.set(sum.get() + self.z.load(m)));
            z_of_block.store(number, sum.get());
        });
    }
}

/// Room for a number a row, a multiple of 16 bytes.
fn rows(block: &Block) -> u32 {
    block.tokens.next_multiple_of(4)
}

impl<'k> Row<'_, 'k> {
    /// Puts zeros into the place of the logits of a row that counts for nothing.
    pub(super) fn report_nothing(&self, m: Value<'k>, report: &Report<'k>) {
        let (k, lanes) = (self.lanes.k, self.lanes);
        lanes.strips(k.i32(0), self.gating.spec.experts, &mut |at| self.put(at, k.f32(0.0).splat(lanes.wide)));
        lanes.once(|| [report.share, report.z].iter().for_each(|array| array.store(m, k.f32(0.0))));
    }

    /// Puts a score into the place of its logit.
    fn put(&self, at: &At<'k>, score: Value<'k>) {
        match at.live {
            Some(live) if self.lanes.wide == 1 => self.lanes.k.when(live, || self.logits.store(self.start + at.first, score)),
            Some(_) | None => self.logits.store(self.start + at.first, score),
        }
    }

    /// Puts the row's scores into the place of its logits, which are not read any more.
    pub(super) fn report(&self, m: Value<'k>, report: &Report<'k>, facts: &Facts<'k>) {
        let Some([logits, scores]) = self.gating.observe else { return };
        let (k, lanes, experts) = (self.lanes.k, self.lanes, self.gating.spec.experts);
        let wide = lanes.wide;
        let strips = |body: &mut dyn FnMut(&At<'k>)| lanes.strips(k.i32(0), experts, body);
        let is_softmax = self.gating.is_softmax_of(scores, logits);
        let replace = |at: &At<'k>, score: Value<'k>| {
            if at.live.is_some() {
                // Lanes without an element have read the last one.
                k.warp_barrier();
            }
            self.put(at, score);
        };
        let max = k.var("max", k.f32(f32::MIN).splat(wide));
        strips(&mut |at| max.set(max.get().max(at.or(finite(k, self.value(logits, at, facts)), k.f32(f32::MIN)))));
        let max = lanes.greatest(max.get());
        let sum = k.var("sum", k.f32(0.0).splat(wide));
        strips(&mut |at| {
            let term = k.bind("exp", math::exp(k, finite(k, self.value(logits, at, facts)) - max.splat(wide)));
            sum.set(sum.get() + at.or(term, k.f32(0.0)));
            if is_softmax {
                replace(at, term);
            }
        });
        let sum = lanes.sum(sum.get());
        let root = k.bind("logsumexp", max + math::ln(k, sum));
        let z = k.bind("z", root * root);
        let total = if is_softmax {
            sum
        } else {
            let total = k.var("total", k.f32(0.0).splat(wide));
            strips(&mut |at| {
                let most = k.f32(f32::MAX / experts as f32).splat(wide);
                // A NaN is not above 0.
                let score = self.value(scores, at, facts);
                let score = k.bind("score", score.gt(0.0).select(score.min(most), score.like(0)));
                total.set(total.get() + at.or(score, k.f32(0.0)));
                replace(at, score);
            });
            let total = lanes.sum(total.get());
            k.when(total.eq(0.0), || strips(&mut |at| self.put(at, k.f32(1.0).splat(wide))));
            k.bind("total", total.eq(0.0).select(k.f32(experts as f32), total))
        };
        lanes.once(|| {
            report.share.store(m, k.f32(1.0) / total);
            report.z.store(m, z.le(LARGEST_Z).select(z, k.f32(0.0)));
        });
    }
}
