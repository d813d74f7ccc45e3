//! `moec link`: packages in, a library out.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use moec::diagnostics::{Code, Diagnostic};
use moec::library::{self, Kind, Library};
use moec_runtime::{Package, package};

use super::compile::{File, write_files};
use super::{Failure, Notes};
use crate::cli::Link;
use crate::files::{read, report_at};

/// Links packages of one layer or of several.
pub(super) fn link(arguments: &Link, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    let kinds = kinds(arguments)?;
    let package =
        |path: &PathBuf| -> Result<Package, Failure> { Ok(package::read(&read(path)?).map_err(|error| report_at(path, error))?) };
    let packages = arguments.packages.iter().map(package).collect::<Result<Vec<_>, Failure>>()?;
    let library = Library::new(&packages).map_err(Diagnostic::from)?;
    let path = arguments.output.as_deref().filter(|path| *path != Path::new("-"));
    let name = path.and_then(Path::file_name).and_then(OsStr::to_str);
    let mut files = Vec::new();
    for kind in kinds {
        let made = library.files(kind, name).map_err(Diagnostic::from)?;
        files.extend(made.into_iter().map(|library::File { name, bytes }| File { name, bytes, is_text: kind.is_text() }));
    }
    write_files(arguments.output.as_deref(), arguments.out_dir.as_deref(), files, notes, out)
}

/// What was asked for, or what the suffix of the file says.
fn kinds(arguments: &Link) -> Result<Vec<Kind>, Diagnostic> {
    let mut kinds = Vec::new();
    for kind in &arguments.emit {
        if !kinds.contains(kind) {
            kinds.push(*kind);
        }
    }
    let suffix = |path: &Path| Kind::of_suffix(path.extension()?.to_str()?);
    match (&kinds[..], &arguments.output) {
        ([], Some(path)) => match suffix(path) {
            Some(kind) => Ok(vec![kind]),
            None => Err(Diagnostic::new(Code::UsageConflict, format!("the name {} does not say what to write", path.display()))
                .help("end it with .so, .a, .o, .c, .h, .rs, .py or .fatbin, or add `--emit cdylib`")),
        },
        ([], None) => Ok(vec![Kind::Shared]),
        (_, _) => Ok(kinds),
    }
}
