//! Whether a run fits into memory. Refused in time is better than killed.

use moec::diagnostics::{Code, Diagnostic};
use moec::import::{Entry, import};
use moec::reference;
use moec::spec::Spec;
use moec_runtime::package::{Buffer, Dims, Manifest, Role, Target, workspace};

use crate::files::bytes_text;

/// What a run takes, by what it takes it for.
struct Needed {
    /// The weights, as the device has them.
    weights: u64,
    /// Tokens, outputs and what the kernels leave to each other.
    batch: u64,
    /// The weights once more, and everything that the interpreter has in f64.
    reference: u64,
}

/// The memory that a device computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This machine's.
    Host,
    /// Its own; the device reports when it is out of memory.
    Beside,
}

/// Refuses a run of this batch where it cannot fit into this machine's memory. `interpreted` is the entry of a spec that the
/// interpreter runs too.
pub(super) fn check(
    manifest: &Manifest,
    target: (&Target, Place),
    dims: Dims,
    interpreted: Option<(&Spec, Entry)>,
) -> Result<(), Diagnostic> {
    let Some(available) = available_memory() else { return Ok(()) };
    let needed = needed(manifest, target, dims, interpreted);
    let Needed { weights, batch, reference } = needed;
    let all = weights.saturating_add(batch).saturating_add(reference);
    if all <= available {
        return Ok(());
    }
    let parts = [("weights", weights), ("the batch", batch), ("the interpreter", reference)];
    let parts: Vec<String> =
        parts.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| format!("{} for {name}", bytes_text(*bytes))).collect();
    let message = format!("{} of memory are needed, and {} are free", bytes_text(all), bytes_text(available));
    let help = match parts_too_large(&needed, available) {
        [true, _] => "run a layer of the same keys with fewer or smaller experts",
        [false, true] => "run fewer tokens at a time",
        [false, false] => "leave `--reference` out, or run fewer tokens",
    };
    Err(Diagnostic::new(Code::NoDevice, message).help(help).note(format!("{}, at {} tokens", parts.join(", "), dims.tokens)))
}

/// Whether the weights alone are too large, and whether they are with the batch.
fn parts_too_large(needed: &Needed, available: u64) -> [bool; 2] {
    [needed.weights > available, needed.weights.saturating_add(needed.batch) > available]
}

fn needed(manifest: &Manifest, (target, place): (&Target, Place), dims: Dims, interpreted: Option<(&Spec, Entry)>) -> Needed {
    let sum = |wanted: fn(Role) -> bool| {
        let of_role = manifest.buffers.iter().filter(|buffer| wanted(buffer.role));
        of_role.map(|buffer| bytes(buffer, dims)).fold(0, u64::saturating_add)
    };
    let weights = sum(|role| role == Role::Weight || role == Role::Prepared);
    let tokens = sum(|role| role == Role::Input || role == Role::Output);
    // A batch whose sizes overflow is refused where it is laid out.
    let workspace = match place {
        Place::Host => workspace(manifest, target, dims).map_or(u64::MAX, |workspace| workspace.bytes),
        Place::Beside => 0,
    };
    let reference = interpreted.and_then(|(spec, entry)| import(spec, entry).ok()).map_or(0, |graph| {
        // The weights as they were read are kept for it.
        weights.saturating_add(reference::bytes(&graph, dims.tokens))
    });
    // Tokens and outputs are on the device, and beside it as they were read and as they are compared.
    Needed { weights, batch: workspace.saturating_add(tokens.saturating_mul(3)), reference }
}

fn bytes(buffer: &Buffer, dims: Dims) -> u64 {
    let extents = buffer.shape.iter().map(|extent| extent.eval(dims).map_or(u64::MAX, i64::unsigned_abs));
    extents.fold(buffer.dtype.bytes(), u64::saturating_mul)
}

/// What Linux says could be had without swapping.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
