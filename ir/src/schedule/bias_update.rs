//! `bias_update`: the correction bias after a batch, by how many pairs picked each expert. No loss, no gradient
//! (DeepSeek-V3, "auxiliary-loss-free load balancing", Wang et al. 2024).
//!
//! ```text
//!   load[0..E] --> total --+
//!                          +--> bias[e] += rate * sign(total - E * load[e])        sign(0) = 0
//!   load[e] --> E * -------+
//! ```
//!
//! One block: E loads are read twice, E biases read and written. The mean is never formed: the comparison is exact.

use super::chunk::share;
use crate::kernel::{Builder, Kernel};
use crate::{DType, Machine};

/// Parameters: `load`, `bias` (written).
pub(super) fn bias_update(experts: u32, rate: f32, machine: &Machine) -> Kernel {
    let threads = machine.block_threads.min(experts.next_multiple_of(machine.warp_lanes));
    let builder = Builder::new("bias_update", threads);
    let k = &builder;
    let load = k.input("load", DType::I32);
    let bias = k.output("bias", DType::F32);
    let of_thread = k.shared("load_of_thread", DType::I64, threads);
    let (zero, count) = (k.i64(0), k.i32(experts as i32));

    let sum = k.var("sum", zero);
    share(k, "e", threads, count, |e| sum.set(sum.get() + load.load(e).cast(DType::I64)));
    of_thread.store(k.thread(), sum.get());
    k.barrier();
    let total = k.var("total", zero);
    k.for_range("thread", k.i32(0), k.i32(threads as i32), |thread| total.set(total.get() + of_thread.load(thread)));
    share(k, "e", threads, count, |e| {
        let above = k.bind("above", total.get() - load.load(e).cast(DType::I64) * k.i64(i64::from(experts)));
        let step = above.gt(zero).select(k.f32(rate), above.lt(zero).select(k.f32(-rate), k.f32(0.0)));
        bias.store(e, bias.load(e) + step);
    });
    builder.finish()
}
