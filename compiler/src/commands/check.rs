//! `moec check`: whether specs are correct, and whether each machine has kernels for them. LLVM is not called.

use std::io::Write;

use moec::diagnostics::Diagnostic;
use moec::pipeline;
use moec::spec::{Mode, Soft, Spec, Word};
use moec_ir::machine::MACHINES;
use rayon::prelude::*;

use super::{Failure, Notes, entry_of, load_preset, load_spec};
use crate::cli::Check;
use crate::files::report_in;

/// Checks every spec, and fails with the diagnostics of the first wrong one.
pub(super) fn check(arguments: &Check, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    let files = arguments.layers.iter().map(|path| load_spec(path, None, notes));
    for loaded in arguments.preset.iter().map(|name| load_preset(name, notes)).chain(files) {
        let (spec, source) = loaded?;
        let entry = entry_of(arguments.entry, (&spec, &source), notes)?;
        MACHINES
            .par_iter()
            .try_for_each(|machine| pipeline::lower(&spec, entry, machine).map(drop))
            .map_err(|error| report_in(&source, Diagnostic::of_spec(error, &source)))?;
        writeln!(out, "{}: ok: {}", source.name, summary(&spec))?;
    }
    Ok(())
}

fn summary(spec: &Spec) -> String {
    let dropping = if spec.capacity.is_some() { "with capacity" } else { "dropless" };
    let (routing, dropping) = match spec.router.mode {
        Mode::Soft(Soft { slots: 1, .. }) => ("1 slot each".to_string(), "soft"),
        Mode::Soft(soft) => (format!("{} slots each", soft.slots), "soft"),
        Mode::ExpertChoice => ("experts choose".to_string(), dropping),
        Mode::TokenChoice | Mode::Hash => (format!("top {}", spec.router.top_k), dropping),
    };
    let shared = spec.shared.map_or(String::new(), |shared| format!(", shared {}", shared.intermediate));
    let unread = if spec.unread.is_empty() { String::new() } else { format!("; unread: {}", spec.unread.join(", ")) };
    format!(
        "hidden {}, {} experts of {}, {routing}{shared}, {dropping}, {}{unread}",
        spec.hidden,
        spec.experts,
        spec.expert.intermediate,
        spec.numerics.dtype.word(),
    )
}
