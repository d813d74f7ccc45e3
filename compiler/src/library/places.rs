//! Where the buffers of launches lie: in the workspace by formulas of the batch, in prepared memory by numbers.

use moec_runtime::package::{self, Manifest, Regime, Role, Target};

use super::Refused;
use super::formulas::{Formulas, Op, Value};

/// Where a buffer of the workspace lies.
pub(super) struct Lies {
    pub(super) buffer: usize,
    pub(super) offset: Value,
    pub(super) bytes: Value,
}

/// Where the buffers of a launch lie.
#[derive(Clone, Copy)]
pub(super) struct Memory<'m> {
    pub(super) manifest: &'m Manifest,
    pub(super) target: &'m Target,
    pub(super) workspace: &'m [Lies],
    /// The buffer and its offset.
    pub(super) prepared: &'m [(usize, u64)],
}

/// Offsets and lengths of a regime's workspace, and its length: what [`package::workspace`] computes for one batch.
pub(super) fn stacked(
    manifest: &Manifest,
    target: &Target,
    regime: &Regime,
    formulas: &mut Formulas,
    tokens: Option<u64>,
) -> Result<(Vec<Lies>, Value), Refused> {
    let mut places = Vec::new();
    let mut ends: Vec<Value> = Vec::new();
    let nothing = formulas.constant(0)?;
    let mut length = nothing;
    for package::OnStack { buffer, on } in package::stack(manifest, target, regime) {
        let described = &manifest.buffers[buffer];
        let bytes = formulas.bytes(described.dtype.bytes(), &described.shape, tokens)?;
        let mut offset = nothing;
        for below in &on {
            offset = formulas.value(Op::Max(offset, ends[*below]))?;
        }
        let end = formulas.value(Op::Add(offset, bytes))?;
        let end = formulas.value(Op::Align(end))?;
        length = formulas.value(Op::Max(length, end))?;
        ends.push(end);
        places.push(Lies { buffer, offset, bytes });
    }
    Ok((places, length))
}

/// The offsets of what is prepared, and its length.
pub(super) fn prepared(manifest: &Manifest, target: &Target) -> Result<(Vec<(usize, u64)>, u64), Refused> {
    let named = |index: usize| target.launches().flat_map(|launch| &launch.args).any(|arg| arg.buffer() == Some(index));
    let (mut places, mut length) = (Vec::new(), 0u64);
    for (index, buffer) in manifest.buffers.iter().enumerate() {
        if buffer.role != Role::Prepared || !named(index) {
            continue;
        }
        places.push((index, length));
        let elements = buffer
            .shape
            .iter()
            .try_fold(buffer.dtype.bytes(), |product, extent| product.checked_mul(u64::try_from(extent.as_const()?).ok()?));
        let end = elements.and_then(|bytes| length.checked_add(bytes)?.checked_next_multiple_of(package::WORKSPACE_ALIGN));
        length = end.ok_or_else(|| Refused::Formula(format!("no length of `{}`", buffer.name)))?;
    }
    Ok((places, length))
}
