//! A host object to a shared object, by the system's C compiler driver. Loading it is the runtime's affair.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use crate::Error;

/// Links an x86-64 ELF object into a shared object that needs nothing: no libc, no start files, no path in it.
/// The driver is `MOEC_CC`, else `CC`, else `cc`.
pub fn shared_object(name: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let driver = ["MOEC_CC", "CC"].iter().find_map(|v| std::env::var(v).ok().filter(|v| !v.trim().is_empty()));
    link_with(driver.as_deref().unwrap_or("cc"), name, object)
}

/// `driver` is a program with arguments, as `CC` may be.
fn link_with(driver: &str, name: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let io = |what| move |source| Error::Io { what, source };
    let dir = tempfile::tempdir().map_err(io("creating a folder to link in"))?;
    fs::write(dir.path().join("kernels.o"), object).map_err(io("writing an object to link"))?;
    let mut words = driver.split_whitespace();
    let Some(program) = words.next() else { return Err(Error::NoLinker { tried: driver.to_string() }) };
    tracing::debug!(driver, name, bytes = object.len(), "linking");
    // Relative names and a working directory: what the driver is told is the same on every machine.
    let output = Command::new(program)
        .args(words)
        .args(["-shared", "-nostdlib", "-Wl,--build-id=none", "-Wl,-soname,moec_kernels.so", "-Wl,-z,defs"])
        .args(["-Wl,-z,noexecstack", "-o", "kernels.so", "kernels.o"])
        .current_dir(dir.path())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(Error::NoLinker { tried: driver.to_string() }),
        Err(source) => return Err(Error::Io { what: "running the C compiler driver", source }),
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(Error::Tool { tool: driver.to_string(), message });
    }
    fs::read(dir.path().join("kernels.so")).map_err(io("reading the linked object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_driver_is_the_environments_fault() {
        for driver in ["moec-no-such-driver -m64", "  "] {
            let error = link_with(driver, "p", b"").expect_err("there is no such driver");
            assert!(matches!(error, Error::NoLinker { .. }) && error.is_environment(), "{error}");
        }
    }

    #[test]
    fn a_driver_that_fails_is_quoted() {
        let error = link_with("cc", "p", b"not an object").expect_err("not an object");
        assert!(matches!(&error, Error::Tool { message, .. } if !message.is_empty()), "{error}");
    }
}
