//! `moec import`: a Hugging Face config in, a spec out; what was assumed, and whether a checkpoint fits, to stderr.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};
use moec::hugging_face::{self, Block, Checked, Unread, not_carried, preset};
use moec::spec::{self, MAX_BYTES, read_text};

use super::{Failure, Notes, open_checkpoint};
use crate::cli::Import;
use crate::files::{bytes_text, is_hub_name, write_or_print};

/// Imports a config and writes the spec.
pub(super) fn import(arguments: &Import, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    let block = match (&arguments.preset, &arguments.config) {
        (Some(name), _) => preset(name, arguments.layer)?,
        (None, path) => read_config(path.as_deref().unwrap_or(Path::new("-")), arguments, notes)?,
    };
    let checked = match &arguments.check {
        Some(path) => Some(check(&block, path, arguments, notes)?),
        None => None,
    };
    let written = Source { name: "<imported spec>".to_string(), text: block.spec(checked.as_ref()) };
    block.assumed().iter().for_each(|assumed| notes.say(&format!("note: assumed: {assumed}")));
    say_unread(block.unread(), checked.as_ref(), notes);
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
fn say_unread(unread: &Unread, checked: Option<&Checked>, notes: Notes) {
    unread.allowed.iter().for_each(|field| notes.say(&format!("note: left out as asked: {field}")));
    let name = |field: &str| field.split(": ").next().unwrap_or_default().to_string();
    let is_tensor = |field: &&String| checked.is_some_and(|checked| checked.is_allowed_by(&name(field)));
    let needless = unread.needless.iter().filter(|field| !is_tensor(field));
    needless.for_each(|name| notes.say(&format!("note: --allow-unread is not needed for {name}")));
    if !unread.others.is_empty() {
        notes.say(&format!("note: fields of which nothing is known, none of them of the layer: {}", unread.others.join(", ")));
    }
}

fn read_config(path: &Path, arguments: &Import, notes: Notes) -> Result<Block, Report> {
    let path = config_of(path)?;
    if Some(&*path) != arguments.config.as_deref() && &*path != Path::new("-") {
        notes.say(&format!("note: reading {}", path.display()));
    }
    let source = read_text(&path, MAX_BYTES, "a config.json is a few kilobytes; a checkpoint is named by `--check`")?;
    match hugging_face::import_allowing(&source, arguments.layer, &arguments.allow_unread) {
        Ok(block) => Ok(block),
        Err(diagnostic) => Err(Report { source, diagnostics: vec![diagnostic] }),
    }
}

/// The config that an argument means: of a folder the `config.json` in it. A hub's name of a model is answered with the
/// command that downloads its config.
fn config_of(path: &Path) -> Result<Cow<'_, Path>, Diagnostic> {
    const CONFIG: &str = "config.json";
    let shown = quote(&path.display().to_string());
    if path.is_dir() {
        let config = path.join(CONFIG);
        return match config.is_file() {
            true => Ok(Cow::Owned(config)),
            false => Err(Diagnostic::new(Code::Unreadable, format!("the folder {shown} has no {CONFIG}"))
                .help("it lies beside the checkpoint, and says what model that is")),
        };
    }
    if let Some(name) = path.to_str().filter(|name| !path.exists() && is_hub_name(name)) {
        let folder = name.rsplit('/').next().unwrap_or(name);
        let message = format!("there is no file {shown}; a model on a hub is downloaded first");
        return Err(Diagnostic::new(Code::Unreadable, message)
            .help(format!("`hf download {name} {CONFIG} --local-dir {folder}`, then `moec import {folder}/{CONFIG}`")));
    }
    Ok(Cow::Borrowed(path))
}

fn check(block: &Block, path: &Path, arguments: &Import, notes: Notes) -> Result<Checked, Report> {
    let name = path.display().to_string();
    let failed = |diagnostics| Report { source: Source { name: name.clone(), text: String::new() }, diagnostics };
    let checkpoint = open_checkpoint(path, notes)?;
    let prefix = arguments.tensor_prefix.as_deref();
    let checked = hugging_face::check(block, &checkpoint, prefix, &arguments.allow_unread).map_err(failed)?;
    let Checked { tensors, compared, prefix, absent, beside, .. } = &checked;
    let below = if prefix.is_empty() { String::new() } else { format!(" below `{prefix}`") };
    let of = match compared {
        compared if compared == tensors => "all of the right type and shape".to_string(),
        0 => "their types and shapes unknown".to_string(),
        compared => format!("{compared} of them of the right type and shape, the others' unknown"),
    };
    notes.say(&format!("{name}: ok: {tensors} tensors{below}, {of}"));
    let missing = |(file, count): (&String, &usize)| {
        let message = format!("not compared: {count} of the tensors are in {}, which is not beside the index", quote(file));
        Diagnostic::new(Code::NotCompared, message)
    };
    notes.warn(&Source { name: name.clone(), text: String::new() }, absent.iter().map(missing).collect())?;
    if !beside.is_empty() {
        let folders: Vec<String> = beside.iter().map(|(folder, count)| format!("{} ({count})", quote(folder))).collect();
        notes.say(&format!("note: at the layer, and no part of it: {}", folders.join(", ")));
    }
    checked.allowed.iter().for_each(|name| notes.say(&format!("note: not used, as asked: {}", quote(name))));
    Ok(checked)
}
