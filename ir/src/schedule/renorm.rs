//! `renorm_kept`: the weights of a token's kept picks divided by their sum, once `sort` has said which are kept.
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

use crate::graph::{Eps, Renorm};
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

/// What is renormalised.
pub(super) struct RenormKept {
    pub(super) name: String,
    pub(super) top_k: u32,
    pub(super) rule: Renorm,
}

/// Tokens of a block: a thread's each on a GPU; on the host enough to be worth handing out.
fn block_tokens(machine: &Machine) -> u32 {
    if machine.is_gpu() { threads(machine) } else { 256 }
}

fn threads(machine: &Machine) -> u32 {
    machine.block_threads.min(256)
}

/// Number of blocks.
pub(super) fn grid(machine: &Machine) -> Extent {
    Extent::Tokens.div_ceil(u64::from(block_tokens(machine)))
}

/// Parameters: `row_of_pair`, `weight_of_row`, `renormed` (written), `tokens`.
pub(super) fn renorm_kept(spec: &RenormKept, machine: &Machine) -> Kernel {
    let builder = Builder::new(&spec.name, threads(machine));
    let k = &builder;
    let row_of_pair = k.input("row_of_pair", DType::I32);
    let weight_of_row = k.input("weight_of_row", DType::F32);
    let renormed = k.output("renormed", DType::F32);
    let tokens = k.scalar("tokens", DType::I32);
    let most = block_tokens(machine) as i32;

    let first = k.bind("first", k.block() * most);
    let last = k.bind("last", (first + most).min(tokens));
    k.for_step("token", first + k.thread(), last, k.i32(threads(machine) as i32), |token| {
        let kept = |body: &dyn Fn(Value<'_>)| {
            let (from, top_k) = (token * spec.top_k as i32, spec.top_k as i32);
            k.for_range("pair", from, from + top_k, |pair| {
                let row = row_of_pair.load(pair);
                k.when(row.ge(0), || body(row));
            });
        };
        let sum = k.var("sum", k.f32(0.0));
        kept(&|row| sum.set(sum.get() + weight_of_row.load(row)));
        let eps = spec.rule.eps.get() as f32;
        let divisor = match spec.rule.mode {
            Eps::Add => sum.get() + eps,
            Eps::Clamp => sum.get().max(eps),
        };
        // Nothing but zeros: they stay.
        let divisor = k.bind("divisor", divisor.eq(0.0).select(k.f32(1.0), divisor));
        kept(&|row| renormed.store(row, weight_of_row.load(row) / divisor));
    });
    builder.finish()
}
