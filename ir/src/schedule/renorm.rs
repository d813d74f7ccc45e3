//! `renorm_kept`, `expert_scale` and `picked`: the weights of a token's kept picks, once `sort` has said which are kept.
//!
//! ```text
//!   token t:   row_of_pair[t, 0..K] = 17, -1, 3          (-1: dropped)
//!
//!   weight[17] --+            +--> renormed[17] = weight[17] / divisor
//!                +--> divisor |
//!   weight[ 3] --+            +--> renormed[ 3] = weight[ 3] / divisor
//! ```
//!
//! 2 T K FLOPs; 16 bytes a pair. A token is one thread's, and its sum runs in the order of its picks: the same bits every
//! run. A row is one token's, so that every row is written once.

use super::math;
use crate::graph::{Eps, Norm, Renorm};
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

/// Tokens of a block: a thread's each on a GPU; on the host enough to be worth handing out.
fn block_tokens(machine: &Machine) -> u32 {
    if machine.has_threads() { threads(machine) } else { 256 }
}

fn threads(machine: &Machine) -> u32 {
    machine.block_threads.min(256)
}

/// Number of blocks.
pub(super) fn grid(machine: &Machine) -> Extent {
    Extent::Tokens.div_ceil(u64::from(block_tokens(machine)))
}

/// The pairs of one kernel's tokens.
struct Pairs<'k> {
    k: &'k Builder,
    top_k: i32,
    row_of_pair: Array<'k>,
    weight_of_row: Array<'k>,
}

impl<'k> Pairs<'k> {
    fn new(k: &'k Builder, top_k: u32) -> Pairs<'k> {
        let (row_of_pair, weight_of_row) = (k.input("row_of_pair", DType::I32), k.input("weight_of_row", DType::F32));
        Pairs { k, top_k: top_k as i32, row_of_pair, weight_of_row }
    }

    /// Every token that is this thread's.
    fn each_token(&self, machine: &Machine, tokens: Value<'k>, body: impl FnOnce(Value<'k>)) {
        let (k, most) = (self.k, block_tokens(machine) as i32);
        let first = k.bind("first", k.block() * most);
        let last = k.bind("last", (first + most).min(tokens));
        k.for_step("token", first + k.thread(), last, k.i32(threads(machine) as i32), body);
    }

    /// Every pair of a token, and its row.
    fn each(&self, token: Value<'k>, body: impl FnOnce(Value<'k>, Value<'k>)) {
        let (k, from) = (self.k, token * self.top_k);
        k.for_range("pair", from, from + self.top_k, |pair| body(pair, self.row_of_pair.load(pair)));
    }

    /// Every kept pair of a token, its row and its weight.
    fn each_kept(&self, token: Value<'k>, body: impl FnOnce(Value<'k>, Value<'k>, Value<'k>)) {
        self.each(token, |pair, row| self.k.when(row.ge(0), || body(pair, row, self.weight_of_row.load(row))));
    }

    /// A sum over the kept weights of a token.
    fn sum(&self, token: Value<'k>, of: impl Fn(Value<'k>) -> Value<'k>) -> Value<'k> {
        let sum = self.k.var("sum", self.k.f32(0.0));
        self.each_kept(token, |_, _, weight| sum.set(sum.get() + of(weight)));
        self.k.bind("sum", sum.get())
    }

    fn norm(&self, token: Value<'k>, norm: Norm) -> Value<'k> {
        let k = self.k;
        match norm {
            Norm::Sum => self.sum(token, |weight| weight),
            Norm::P(p) if p.get() == 1.0 => self.sum(token, Value::abs),
            Norm::P(p) => {
                let largest = k.var("largest", k.f32(0.0));
                self.each_kept(token, |_, _, weight| largest.set(largest.get().max(weight.abs())));
                // Shares of the largest: no power leaves the range.
                let unit = k.bind("unit", largest.get().eq(0.0).select(k.f32(1.0), largest.get()));
                let sum = self.sum(token, |weight| math::power(k, weight.abs() / unit, p.get()));
                unit * math::power(k, sum, 1.0 / p.get())
            }
        }
    }
}

/// Parameters: `row_of_pair`, `weight_of_row`, `renormed` (written), `tokens`.
pub(super) fn renorm_kept(name: &str, top_k: u32, rule: Renorm, machine: &Machine) -> Kernel {
    let builder = Builder::new(name, threads(machine));
    let k = &builder;
    let pairs = Pairs::new(k, top_k);
    let renormed = k.output("renormed", DType::F32);
    let tokens = k.scalar("tokens", DType::I32);
    pairs.each_token(machine, tokens, |token| {
        let (norm, eps) = (pairs.norm(token, rule.norm), rule.eps.get() as f32);
        let divisor = match rule.mode {
            Eps::Add => norm + eps,
            Eps::Clamp => norm.max(eps),
        };
        // Nothing but zeros: they stay.
        let divisor = k.bind("divisor", divisor.eq(0.0).select(k.f32(1.0), divisor));
        pairs.each_kept(token, |_, row, weight| renormed.store(row, weight / divisor));
    });
    builder.finish()
}

/// By what weights are scaled.
pub(super) struct ExpertScale {
    pub(super) top_k: u32,
    /// Whether experts were picked; else all are, in their order.
    pub(super) picked: bool,
    pub(super) scale: DType,
    /// Whether there is a single number.
    pub(super) of_all: bool,
}

/// Parameters: `row_of_pair`, `weight_of_row`, `topk_experts` unless all are picked, `scale_of_expert`, `scaled` (written),
/// `tokens`.
pub(super) fn expert_scale(name: &str, spec: &ExpertScale, machine: &Machine) -> Kernel {
    let builder = Builder::new(name, threads(machine));
    let k = &builder;
    let pairs = Pairs::new(k, spec.top_k);
    let topk_experts = spec.picked.then(|| k.input("topk_experts", DType::I32));
    let scale_of_expert = k.input("scale_of_expert", spec.scale);
    let scaled = k.output("scaled", DType::F32);
    let tokens = k.scalar("tokens", DType::I32);
    pairs.each_token(machine, tokens, |token| {
        pairs.each_kept(token, |pair, row, weight| {
            let expert = match topk_experts {
                _ if spec.of_all => k.i32(0),
                Some(experts) => experts.load(pair),
                None => pair - token * spec.top_k as i32,
            };
            let scale = scale_of_expert.load(expert).cast(DType::F32);
            scaled.store(row, weight * scale);
        });
    });
    builder.finish()
}

/// Which picks are told, and how.
pub(super) struct Picked {
    pub(super) top_k: u32,
    /// Those with rows; picks of the numbers from here on are kept without.
    pub(super) experts: u32,
    /// What weights are multiplied by.
    pub(super) factor: f32,
}

/// Parameters: `row_of_pair`, `weight_of_row`, `topk_experts`, `topk_weights`, then written: `topk_ids`, `factored`; `tokens`.
pub(super) fn picked(name: &str, spec: &Picked, machine: &Machine) -> Kernel {
    let builder = Builder::new(name, threads(machine));
    let k = &builder;
    let pairs = Pairs::new(k, spec.top_k);
    let (topk_experts, topk_weights) = (k.input("topk_experts", DType::I32), k.input("topk_weights", DType::F32));
    let (topk_ids, factored) = (k.output("topk_ids", DType::I32), k.output("factored", DType::F32));
    let tokens = k.scalar("tokens", DType::I32);
    pairs.each_token(machine, tokens, |token| {
        pairs.each(token, |pair, row| {
            let (expert, weight) = (k.bind("expert", topk_experts.load(pair)), k.var("weight", k.f32(0.0)));
            let is_rowless = k.bind("is_rowless", expert.ge(spec.experts as i32));
            k.when(row.ge(0), || weight.set(pairs.weight_of_row.load(row)));
            k.when(is_rowless, || weight.set(topk_weights.load(pair)));
            topk_ids.store(pair, (row.ge(0) | is_rowless).select(expert, -1));
            factored.store(pair, weight.get() * spec.factor);
        });
    });
    builder.finish()
}
