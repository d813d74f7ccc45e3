//! The batch in parts of some tokens, and what blocks do with them: a block a part, or all blocks of a cluster together.

use super::super::chunk::{cell, share};
use super::lanes::Lanes;
use super::report::Report;
use super::row::Row;
use super::{Block, Gating, LANES, Scratch, logits};
use crate::Machine;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Value};

/// What is read.
pub(super) struct Inputs<'a, 'k> {
    pub(super) x: Array<'k>,
    pub(super) router: Array<'k>,
    pub(super) operands: &'a [Array<'k>],
    pub(super) tokens: Value<'k>,
    /// Where a part keeps to a sequence.
    pub(super) span_tokens: Option<Value<'k>>,
}

/// What is written.
pub(super) struct Written<'k> {
    pub(super) topk_experts: Option<Array<'k>>,
    pub(super) topk_weights: Array<'k>,
    pub(super) best_of_token: Option<Array<'k>>,
    pub(super) counted_experts: Option<Array<'k>>,
    pub(super) observed: Option<[Array<'k>; 2]>,
}

pub(super) struct Parts<'a, 'k> {
    pub(super) k: &'k Builder,
    pub(super) machine: &'a Machine,
    pub(super) gating: &'a Gating<'a>,
    pub(super) block: &'a Block,
    pub(super) lanes: &'a Lanes<'k>,
    pub(super) of: Inputs<'a, 'k>,
    /// Of the block.
    pub(super) logits: Array<'k>,
    pub(super) scratch: Scratch<'k>,
    pub(super) report: Option<Report<'k>>,
    pub(super) written: Written<'k>,
}

impl<'k> Parts<'_, 'k> {
    /// Routes the tokens of a part.
    pub(super) fn route(&self, number: Value<'k>) {
        let staged = self.staged();
        let (first, tokens) = self.bounds(number);
        let matrices = self.matrices(first, tokens);
        logits::logits(self.k, self.gating.spec, self.machine, self.block, &matrices, self.logits);
        self.k.barrier();
        self.pick(number, (first, tokens), &staged);
    }

    /// Routes the tokens of so many parts by the blocks of one cluster: each multiplies a run of H for all of them, then it takes some parts.
    pub(super) fn route_together(&self, parts: Value<'k>, logits_of_block: Array<'k>) {
        let (k, block, spec, all) = (self.k, self.block, self.gating.spec, self.of.tokens);
        let (experts, blocks) = (spec.experts as i32, self.machine.cluster_blocks as i32);
        let place = |other: Value<'k>, token: Value<'k>, e: Value<'k>| cell(other * all + token, k.i32(experts), e);
        let staged = self.staged();
        k.for_range("part", k.i32(0), parts, |number| {
            let (first, tokens) = self.bounds(number);
            let of = (spec, self.machine, block);
            let run = (k.block(), self.machine.cluster_blocks);
            logits::part_of_logits(k, of, &self.matrices(first, tokens), run, |row, e, sum| {
                let token = k.bind("token", first + row);
                k.when(token.lt(tokens), || logits_of_block.store(place(k.block(), token, e), sum));
            });
        });
        k.cluster_barrier();
        k.for_step("part", k.block(), parts, k.i32(blocks), |number| {
            let (first, tokens) = self.bounds(number);
            let here = k.bind("logits_here", (tokens - first).min(block.tokens as i32) * experts);
            share(k, "i", block.threads, here, |i| {
                let (row, e) = (k.bind("row", i / experts), k.bind("e", i % experts));
                let parts: Vec<_> = (0..blocks).map(|other| logits_of_block.load(place(k.i32(other), first + row, e))).collect();
                let sum = parts.into_iter().reduce(|sum, part| sum + part).unwrap_or_else(|| k.f32(0.0));
                self.logits.store(row * block.pitch as i32 + e, sum);
            });
            k.barrier();
            self.pick(number, (first, tokens), &staged);
            // No thread begins the next part before all have left this one.
            k.barrier();
        });
    }

    fn staged(&self) -> Vec<Array<'k>> {
        self.lanes.stage(self.gating, self.block, self.of.operands, self.logits, &self.scratch)
    }

    /// The first token of a part, and where its span ends.
    fn bounds(&self, number: Value<'k>) -> (Value<'k>, Value<'k>) {
        let (k, block, tokens) = (self.k, self.block, self.of.tokens);
        match self.of.span_tokens {
            None => (k.bind("first_token", number * block.tokens as i32), tokens),
            Some(span_tokens) => {
                let blocks_of_span = k.bind("blocks_of_span", (span_tokens + (block.tokens as i32 - 1)) / block.tokens as i32);
                let span = k.bind("span", number / blocks_of_span);
                let place = (number - span * blocks_of_span) * block.tokens as i32;
                let first = k.bind("first_token", span * span_tokens + place);
                (first, k.bind("tokens_end", ((span + 1) * span_tokens).min(tokens)))
            }
        }
    }

    /// Picks for the tokens of a part, whose logits the block has.
    fn pick(&self, number: Value<'k>, (first, tokens): (Value<'k>, Value<'k>), staged: &[Array<'k>]) {
        let (k, block) = (self.k, self.block);
        let worker = k.bind("worker", k.thread() / LANES as i32);
        k.when(k.thread().lt((block.workers * LANES) as i32), || {
            k.for_step("m", worker, k.i32(block.tokens as i32), k.i32(block.workers as i32), |m| {
                let token = k.bind("token", first + m);
                k.when(token.lt(tokens), || self.row((m, token, worker), staged));
            });
        });
        if let (Some(report), Some(written)) = (&self.report, self.written.observed) {
            k.barrier();
            report.sum(
                self.lanes,
                (block, number),
                (self.logits, self.gating.spec.experts),
                k.bind("tokens_here", (tokens - first).min(block.tokens as i32)),
                written,
            );
        }
    }

    fn matrices(&self, first: Value<'k>, tokens: Value<'k>) -> logits::Matrices<'k> {
        logits::Matrices { x: self.of.x, router: self.of.router, first, tokens }
    }

    /// Routes a token, whose logits are the `m`-th row of the block's, by the lanes of a worker.
    fn row(&self, (m, token, worker): (Value<'k>, Value<'k>, Value<'k>), staged: &[Array<'k>]) {
        let (k, gating, to) = (self.k, self.gating, &self.written);
        let scratch = self.scratch.of(k, gating, self.block, worker);
        let start = k.bind("start", m * self.block.pitch as i32);
        let row = Row { lanes: self.lanes, gating, logits: self.logits, start, operands: staged, scratch };
        let route = || match (gating.picker, to.topk_experts) {
            (Some(picker), Some(topk_experts)) => {
                let facts = row.picks(picker, token, topk_experts, to.topk_weights, to.best_of_token);
                if let (Some(keys), Some(counted_experts)) = (gating.counted, to.counted_experts) {
                    row.counted(keys, token, counted_experts, &facts);
                }
                if let Some(report) = &self.report {
                    row.report(m, report, &facts);
                }
            }
            (_, _) => row.scores(token, to.topk_weights),
        };
        let Some(mask) = gating.mask else { return route() };
        let mask = staged[mask].load(token);
        k.when(mask.ne(0), route);
        k.when(mask.eq(0), || {
            row.no_picks(token, [to.topk_experts, to.counted_experts], to.topk_weights, to.best_of_token);
            self.report.iter().for_each(|report| row.report_nothing(m, report));
        });
    }
}
