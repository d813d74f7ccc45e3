//! `moec check`: whether specs are correct, and whether each machine has kernels for them. LLVM is not asked.

use std::io::Write;

use moec::diagnostics::Diagnostic;
use moec::pipeline;
use moec::spec::{Mode, Spec, Word};
use moec_ir::machine::MACHINES;
use rayon::prelude::*;

use super::{Failure, load_preset, load_spec};
use crate::cli::Check;
use crate::files::report_at;

/// Checks every spec, and fails with the diagnostics of the first wrong one.
pub(super) fn check(arguments: &Check, out: &mut dyn Write) -> Result<(), Failure> {
    let files = arguments.layers.iter().map(|path| load_spec(path, None));
    for loaded in arguments.preset.iter().map(|name| load_preset(name)).chain(files) {
        let (spec, source) = loaded?;
        MACHINES
            .par_iter()
            .try_for_each(|machine| pipeline::lower(&spec, machine).map(drop))
            .map_err(|error| report_at(source.name.as_ref(), Diagnostic::from(error)))?;
        writeln!(out, "{}: ok: {}", source.name, summary(&spec))?;
    }
    Ok(())
}

fn summary(spec: &Spec) -> String {
    let dropping = if spec.capacity.is_some() { "with capacity" } else { "dropless" };
    let choice = match spec.router.mode {
        Mode::TokenChoice | Mode::Soft(_) | Mode::Hash => format!("top {}", spec.router.top_k),
        Mode::ExpertChoice => "experts choose".to_string(),
    };
    let shared = spec.shared.map_or(String::new(), |shared| format!(", shared {}", shared.ffn));
    format!(
        "hidden {}, {} experts of {}, {choice}{shared}, {dropping}, {}",
        spec.hidden,
        spec.experts,
        spec.expert.ffn,
        spec.numerics.dtype.word(),
    )
}
