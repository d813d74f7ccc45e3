//! Whose memory is whose while a kernel runs: what it does before it waits for the launches before it, and what its threads hand to each
//! other.

use std::collections::BTreeSet;

use super::{Kernel, ParamKind, Stmt, Wait};

impl Kernel {
    /// The statements in front of the wait for the launches before it; none: it does not wait for them.
    pub fn before_launches(&self) -> Option<&[Stmt]> {
        let waits = self.body.iter().position(|stmt| *stmt == Stmt::Wait(Wait::Launches))?;
        self.body.get(..waits)
    }

    /// The parameters whose memory is read or written before that wait, by position.
    pub fn reached_early(&self) -> BTreeSet<u32> {
        reached(self.before_launches().unwrap_or_default()).into_iter().map(|(param, _)| param).collect()
    }

    /// Whether nothing but a thread itself changes what it reads of a parameter's memory while the kernel runs. Launches before it may do
    /// so until it has waited for them, and other threads where the kernel both writes and reads it.
    pub fn has_alone(&self, param: u32) -> bool {
        let settled = self.before_launches().is_none() || self.reached_early().contains(&param);
        let written = match self.params.get(param as usize).map(|param| param.kind) {
            Some(ParamKind::Buffer { write, .. }) => write,
            Some(ParamKind::Scalar(_) | ParamKind::TensorMap(_)) | None => false,
        };
        let others = self.threads > 1 || self.cluster > 1;
        settled && !(others && written && reached(&self.body).contains(&(param, false)))
    }
}

/// The parameters whose memory statements reach, by position, and whether they write.
fn reached(block: &[Stmt]) -> BTreeSet<(u32, bool)> {
    let inner = |stmt: &Stmt| stmt.blocks().flat_map(|block| reached(block)).collect::<BTreeSet<_>>();
    block.iter().flat_map(|stmt| stmt.reaches().into_iter().chain(inner(stmt))).collect()
}
