//! The MoE block as a custom op of candle.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Module, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::block::{Batch, Layer, Memory, Weights};

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 96;
const EXPERTS: usize = 8;

/// The weights of one block, and memory for its runs.
pub struct Moe {
    layer: Arc<Layer>,
    router: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
    workspace: Mutex<Memory>,
}

impl Moe {
    /// The tensors have the names that Mixtral's checkpoints have; `layer` is shared by all blocks.
    pub fn new(layer: Arc<Layer>, max_tokens: usize, vb: VarBuilder) -> Result<Moe> {
        let experts = vb.pp("experts");
        let stacked = |name: &str, rows: usize, columns: usize| -> Result<Vec<f32>> {
            let expert = |e: usize| experts.pp(e).pp(name).get((rows, columns), "weight")?.flatten_all()?.to_vec1::<f32>();
            Ok((0..EXPERTS).map(expert).collect::<Result<Vec<Vec<f32>>>>()?.concat())
        };
        let bytes = layer.workspace_bytes(max_tokens, 0).map_err(Error::wrap)?;
        Ok(Moe {
            router: vb.pp("gate").get((EXPERTS, HIDDEN), "weight")?.flatten_all()?.to_vec1()?,
            gate: stacked("w1", INTERMEDIATE, HIDDEN)?,
            up: stacked("w3", INTERMEDIATE, HIDDEN)?,
            down: stacked("w2", HIDDEN, INTERMEDIATE)?,
            workspace: Mutex::new(Memory::new(bytes)),
            layer,
        })
    }
}

impl CustomOp1 for Moe {
    fn name(&self) -> &'static str {
        "moec-block"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (begin, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "moec-block" })?;
        let x = &storage.as_slice::<f32>()?[begin..end];
        let mut y = vec![0.0; x.len()];
        let weights = Weights { router: &self.router, gate: &self.gate, up: &self.up, down: &self.down };
        let mut workspace = self.workspace.lock().map_err(|_| Error::msg("a run has panicked"))?;
        self.layer.run(&weights, Batch { x, y: &mut y, sequence_tokens: 0 }, &mut workspace).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

impl Module for Moe {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        xs.contiguous()?.apply_op1_no_bwd(self)
    }
}
