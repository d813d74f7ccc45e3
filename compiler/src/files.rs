//! Files that commands read whole and write whole: a written file is either complete or not there.
//! What is in them is the commands' business.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};
use tempfile::NamedTempFile;

use crate::commands::Failure;
use crate::interrupt::Unfinished;

/// The whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Report> {
    fs::read(path).map_err(|error| {
        Diagnostic::new(Code::Unreadable, format!("cannot read {}: {error}", quote(&path.display().to_string()))).into()
    })
}

/// Writes `bytes` beside `path` and then gives them its name, so that no reader ever sees half of them. A symbolic link stays
/// one: what it points to is written, whether it was there or not. The name in between
/// cannot be guessed, and is gone if the process is told to stop.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Report> {
    let failed = |error: io::Error| {
        let message = format!("cannot write {}: {error}", quote(&path.display().to_string()));
        Report::from(Diagnostic::new(Code::OutputFailed, message))
    };
    if path.file_name().is_none() {
        return Err(failed(io::Error::other("not the name of a file")));
    }
    // A device or a pipe cannot be replaced by a file: it is written to as it stands.
    let replaced = fs::metadata(path).ok();
    if replaced.as_ref().is_some_and(|metadata| !metadata.is_file()) {
        return fs::write(path, bytes).map_err(failed);
    }
    let target = &target(path).map_err(failed)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replace = || {
        let (mut beside, _unfinished) = Unfinished::new(|| named_beside(folder))?;
        // Set before the file has content: the new file has the permissions of the old one.
        if let Some(replaced) = &replaced {
            beside.as_file().set_permissions(replaced.permissions())?;
        }
        beside.write_all(bytes)?;
        // A rename may reach the disk before what was written.
        beside.as_file().sync_all()?;
        beside.persist(target).map(drop).map_err(io::Error::from)
    };
    replace().map_err(failed)
}

/// What symbolic links at `path` come to, which need not be there.
fn target(path: &Path) -> io::Result<PathBuf> {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            // No link, or nothing yet.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// A new file in `folder`, with the permissions that any other new file has.
fn named_beside(folder: &Path) -> io::Result<NamedTempFile> {
    // Made here, so that an error does not end with a name that no user knows.
    let create = |path: &Path| File::options().write(true).create_new(true).open(path);
    tempfile::Builder::new().prefix(".moec-").suffix(".part").make_in(folder, create)
}

/// Writes to `path`, or to `out` where it is `-`. A terminal is spared what is not text.
pub(crate) fn write_or_print(path: &Path, bytes: &[u8], is_text: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if path != Path::new("-") {
        return Ok(write(path, bytes)?);
    }
    if !is_text && io::stdout().is_terminal() {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "a binary file is not written to a terminal")
            .help("redirect standard output, or name a file by `-o`");
        return Err(Report::from(diagnostic).into());
    }
    out.write_all(bytes)?;
    Ok(())
}

/// A diagnostic of a spec: where it has places, with the text that they are in.
pub(crate) fn report_in(source: &Source, diagnostic: Diagnostic) -> Report {
    match diagnostic.labels.is_empty() {
        true => report_at(source.name.as_ref(), diagnostic),
        false => Report { source: source.clone(), diagnostics: vec![diagnostic] },
    }
}

/// Diagnostics of a file that is not shown as text.
pub(crate) fn report_at(path: &Path, diagnostic: impl Into<Diagnostic>) -> Report {
    let source = Source { name: path.display().to_string(), text: String::new() };
    Report { source, diagnostics: vec![diagnostic.into()] }
}

/// 512 B, 3.4 kB, 1.2 GB.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.into_iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} B"),
    }
}

/// `owner/model`, as hubs name models; a path that ends as a file does is none.
pub(crate) fn is_hub_name(name: &str) -> bool {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_part = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_sign);
    let ends = [".json", ".toml", ".safetensors", ".bin", ".pt", ".gguf"];
    let is_file = ends.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    !is_file && name.split_once('/').is_some_and(|(owner, model)| is_part(owner) && is_part(model))
}
