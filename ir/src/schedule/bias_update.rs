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

use super::ScheduleError;
use super::chunk::share;
use crate::graph::{Param, Type, Typed};
use crate::kernel::{Arg, Builder, Given, Kernel, Launch, Program};
use crate::{DType, Extent, Machine};

/// The weight that is changed, and what it is changed by.
const BIAS: &str = "correction_bias";
const LOAD: &str = "stats.load";

/// The program with an update of its correction bias by `rate` for the load of the last run.
///
/// # Errors
/// [`ScheduleError::Operand`] where the layer routes without such a bias.
pub fn with_bias_update(program: Program, layer: &Typed, machine: &Machine, rate: f64) -> Result<Program, ScheduleError> {
    let bias = layer.graph().param(&Param(format!("@{BIAS}")));
    let buffer = |is: &dyn Fn(&crate::kernel::Buffer) -> bool| program.buffers.iter().position(is);
    let load = buffer(&|b| b.observe.as_deref() == Some(LOAD));
    let place = buffer(&|b| b.name == BIAS);
    let (Some(Type::Tensor { shape, .. }), Some(load), Some(place)) = (bias, load, place) else {
        return Err(ScheduleError::Operand { op: "bias_update", what: "a layer without a correction bias".to_string() });
    };
    let [crate::graph::Dim::Const(experts)] = shape[..] else {
        return Err(ScheduleError::Operand { op: "bias_update", what: "a bias that is no vector".to_string() });
    };
    let arg = |param: &str, buffer: usize| Arg { param: param.to_string(), given: Given::Buffer(buffer) };
    let args = vec![arg("load", load), arg("bias", place)];
    let launch = Launch { kernel: program.kernels.len(), grid: Extent::Const(1), args };
    let mut program = program;
    program.kernels.push(bias_update(experts as u32, rate as f32, machine));
    program.update.push(launch);
    Ok(program)
}

/// Parameters: `load`, `bias` (written).
fn bias_update(experts: u32, rate: f32, machine: &Machine) -> Kernel {
    let threads = machine.block_threads.min(experts.next_multiple_of(machine.warp_lanes));
    let builder = Builder::new("moec_bias_update", threads);
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
