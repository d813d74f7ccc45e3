//! `moec import`: a Hugging Face config in, a spec out; what was assumed, and whether a checkpoint fits, to stderr.

use std::io::Write;
use std::path::Path;

use moec::diagnostics::{Report, Source};
use moec::hugging_face::{self, Block, Checked, Unread, not_carried, preset, read_header};
use moec::spec::{self, MAX_BYTES, read_text};

use super::{Failure, Notes};
use crate::cli::Import;
use crate::files::{bytes_text, write_or_print};

/// Imports a config and writes the spec.
pub(super) fn import(arguments: &Import, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    let block = match (&arguments.preset, &arguments.config) {
        (Some(name), _) => preset(name, arguments.layer)?,
        (None, path) => read_config(path.as_deref().unwrap_or(Path::new("-")), arguments)?,
    };
    let checked = match &arguments.check {
        Some(path) => Some(check(&block, path, arguments.tensor_prefix.as_deref(), notes)?),
        None => None,
    };
    let written = Source { name: "<imported spec>".to_string(), text: block.spec(checked.as_ref()) };
    block.assumed().iter().for_each(|assumed| notes.say(&format!("note: assumed: {assumed}")));
    say_unread(block.unread(), notes);
    let later = not_carried(&written).map_err(|diagnostics| Report { source: written.clone(), diagnostics })?;
    notes.warn(&written, spec::warnings(&written))?;
    later.iter().for_each(|message| notes.say(&format!("note: `moec check` refuses the spec today: {message}")));
    write_or_print(&arguments.output, written.text.as_bytes(), true, out)?;
    if arguments.output != Path::new("-") {
        notes.say(&format!("wrote {} ({})", arguments.output.display(), bytes_text(written.text.len() as u64)));
    }
    Ok(())
}

/// What the config says that the spec does not.
fn say_unread(unread: &Unread, notes: Notes) {
    unread.allowed.iter().for_each(|field| notes.say(&format!("note: left out as asked: {field}")));
    unread.needless.iter().for_each(|field| notes.say(&format!("note: --allow-unread is not needed for {field}")));
    if !unread.others.is_empty() {
        notes.say(&format!("note: fields of which nothing is known, none of them of the layer: {}", unread.others.join(", ")));
    }
}

fn read_config(path: &Path, arguments: &Import) -> Result<Block, Report> {
    let source = read_text(path, MAX_BYTES, "a config.json is a few kilobytes; a checkpoint is named by `--check`")?;
    match hugging_face::import_allowing(&source, arguments.layer, &arguments.allow_unread) {
        Ok(block) => Ok(block),
        Err(diagnostic) => Err(Report { source, diagnostics: vec![diagnostic] }),
    }
}

fn check(block: &Block, path: &Path, prefix: Option<&str>, notes: Notes) -> Result<Checked, Report> {
    let name = path.display().to_string();
    let failed = |diagnostics| Report { source: Source { name: name.clone(), text: String::new() }, diagnostics };
    let header = read_header(path)?;
    let checked = hugging_face::check(block, &header, prefix).map_err(failed)?;
    let Checked { tensors, shapes, prefix, .. } = &checked;
    let below = if prefix.is_empty() { String::new() } else { format!(" below `{prefix}`") };
    let compared = match shapes {
        shapes if shapes == tensors => "all of the right shape".to_string(),
        0 => "their shapes unknown: the files that the index names are not beside it".to_string(),
        shapes => format!("{shapes} of them of the right shape, the others' shapes unknown"),
    };
    notes.say(&format!("{name}: ok: {tensors} tensors{below}, {compared}"));
    Ok(checked)
}
