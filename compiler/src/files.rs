//! Files that commands read whole and write whole: a written file is either complete or not there.
//! What is in them is the commands' business.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process;

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};

use crate::commands::Failure;

/// The whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Report> {
    fs::read(path).map_err(|error| {
        Diagnostic::new(Code::Unreadable, format!("cannot read {}: {error}", quote(&path.display().to_string()))).into()
    })
}

/// Writes `bytes` beside `path` and then gives them its name, so that no reader ever sees half of them.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Report> {
    let failed = |error: io::Error| {
        let message = format!("cannot write {}: {error}", quote(&path.display().to_string()));
        Report::from(Diagnostic::new(Code::OutputFailed, message))
    };
    let Some(name) = path.file_name() else { return Err(failed(io::Error::other("not the name of a file"))) };
    // A device or a pipe cannot be replaced by a file: it is written to as it stands.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return fs::write(path, bytes).map_err(failed);
    }
    let beside = path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), process::id()));
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        // What is left of it is of no use; where even that fails there is nothing to add.
        let _ = fs::remove_file(&beside);
        failed(error)
    })
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
