//! Kernels that may begin before the launch before them has ended: what they do until they wait for it.

use std::collections::BTreeSet;

use super::{Block, Kernel, ParamKind, Stmt, Wait};

impl Kernel {
    /// The statements in front of the wait for the launches before it; none: it does not wait for them.
    pub fn before_launches(&self) -> Option<&[Stmt]> {
        let waits = self.body.iter().position(|stmt| *stmt == Stmt::Wait(Wait::Launches))?;
        self.body.get(..waits)
    }

    /// The parameters whose memory is read or written before that wait, by position.
    pub fn reached_early(&self) -> BTreeSet<u32> {
        let mut reached = BTreeSet::new();
        note(self.before_launches().unwrap_or_default(), &mut reached);
        reached
    }

    /// Whether nothing but a block changes what it reaches of a parameter's memory while it runs. Launches before it may do so until it
    /// has waited for them, and other blocks of its cluster where that may write the parameter.
    pub fn has_alone(&self, param: u32) -> bool {
        let handed_over = match self.params.get(param as usize).map(|param| param.kind) {
            Some(ParamKind::Buffer { write, .. }) => write && self.cluster > 1,
            Some(ParamKind::Scalar(_) | ParamKind::TensorMap(_)) | None => false,
        };
        !handed_over && (self.before_launches().is_none() || self.reached_early().contains(&param))
    }
}

fn note(block: &[Stmt], reached: &mut BTreeSet<u32>) {
    for stmt in block {
        reached.extend(stmt.reaches().map(|(param, _)| param));
        stmt.blocks().for_each(|inner: &Block| note(inner, reached));
    }
}
