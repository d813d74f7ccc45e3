//! A host object to a shared object, by the system's C compiler driver. Loading it is the runtime's affair.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;

/// Links an x86-64 ELF object into a shared object that needs nothing: no libc, no start files, no path in it.
/// The driver is that of [`linker`].
///
/// # Errors
/// [`Error::NoLinker`] where the driver is not there, [`Error::Tool`] with what it prints where it refuses the object,
/// [`Error::Io`] where a temporary file cannot be written or read.
pub fn shared_object(name: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    link_with(&driver(), name, object)
}

/// The C compiler driver that links host objects: `MOEC_CC`, else `CC`, else `cc`, looked for on `PATH`. `None`: it is not
/// there.
pub fn linker() -> Option<PathBuf> {
    let (program, _) = words(&driver());
    which::which(program?).ok()
}

fn driver() -> OsString {
    let is_blank = |value: &OsStr| value.to_str().is_some_and(|value| value.trim().is_empty());
    let named = ["MOEC_CC", "CC"].iter().find_map(|name| std::env::var_os(name).filter(|value| !is_blank(value)));
    named.unwrap_or_else(|| "cc".into())
}

/// The program and its arguments, which may follow its name. What is not text has no spaces to part it at.
fn words(driver: &OsStr) -> (Option<OsString>, Vec<OsString>) {
    let mut words: Vec<OsString> = match driver.to_str() {
        Some(text) => text.split_whitespace().map(OsString::from).collect(),
        None => vec![driver.to_os_string()],
    };
    let program = (!words.is_empty()).then(|| words.remove(0));
    (program, words)
}

fn link_with(driver: &OsStr, name: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let shown = driver.to_string_lossy();
    let io = |what| move |source| Error::Io { what, source };
    let dir = tempfile::tempdir().map_err(io("creating a folder to link in"))?;
    fs::write(dir.path().join("kernels.o"), object).map_err(io("writing an object to link"))?;
    let (program, arguments) = words(driver);
    // By its whole path: the working directory of the driver is not ours.
    let program = program.and_then(|program| which::which(program).ok());
    let Some(program) = program else { return Err(Error::NoLinker { tried: shown.into_owned() }) };
    tracing::debug!(driver = %shown, name, bytes = object.len(), "linking");
    // Relative names and a working directory: the driver's arguments are the same on every machine.
    let output = Command::new(program)
        .args(arguments)
        .args(["-shared", "-nostdlib", "-Wl,--build-id=none", "-Wl,-soname,moec_kernels.so", "-Wl,-z,defs"])
        .args(["-Wl,-z,noexecstack", "-o", "kernels.so", "kernels.o"])
        .current_dir(dir.path())
        .output();
    let output = output.map_err(io("running the C compiler driver"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(Error::Tool { tool: shown.into_owned(), message });
    }
    fs::read(dir.path().join("kernels.so")).map_err(io("reading the linked object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_driver_is_the_environments_fault() {
        for driver in ["moec-no-such-driver -m64", "  "] {
            let error = link_with(OsStr::new(driver), "p", b"").expect_err("there is no such driver");
            assert!(matches!(error, Error::NoLinker { .. }) && error.is_environment(), "{error}");
        }
    }

    #[test]
    fn a_driver_that_fails_is_quoted() {
        let error = link_with(OsStr::new("cc"), "p", b"not an object").expect_err("not an object");
        assert!(matches!(&error, Error::Tool { message, .. } if !message.is_empty()), "{error}");
    }
}
