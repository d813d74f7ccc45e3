//! Weights that lie in panels: made once, whatever reads them.

use super::super::ScheduleError;
use super::super::buffers::BufferId;
use super::super::gemm::{self, Pack};
use super::value::Tensor;
use super::{Plan, arg};
use crate::graph::Op;

/// A weight that was put in panels.
pub(super) struct Packed {
    of: BufferId,
    how: Pack,
    /// Index of the kernel that does it.
    kernel: usize,
    panels: BufferId,
}

impl Plan<'_> {
    /// The panels of a weight of `op`. What makes them is launched when weights are bound.
    pub(super) fn packed(&mut self, op: Op, weight: &Tensor, how: Pack) -> Result<BufferId, ScheduleError> {
        if let Some(known) = self.packed.iter().find(|known| known.of == weight.buffer && known.how == how) {
            return Ok(known.panels);
        }
        if !self.buffers.is_constant(weight.buffer) {
            return Err(ScheduleError::Operand { op, what: "weights in panels that depend on the tokens".to_string() });
        }
        let (buffers, launches) = (self.buffers.count(), self.launches.len());
        let name = format!("{}_panels", weight.name.as_deref().unwrap_or("weight"));
        let panels = self.buffers.workspace(&name, how.out, how.shape(self.machine));
        let kernel = match self.packed.iter().find(|known| known.how == how) {
            Some(known) => known.kernel,
            None => {
                self.kernels.push(gemm::pack(&self.kernel_name("pack", &[]), &how, self.machine));
                self.kernels.len() - 1
            }
        };
        self.launch_again(kernel, how.grid(self.machine), vec![arg("weights", weight.buffer), arg("panels", panels)])?;
        self.buffers.prepared_from(buffers);
        self.prepare.extend(self.launches.drain(launches..));
        self.packed.push(Packed { of: weight.buffer, how, kernel, panels });
        Ok(panels)
    }
}
