//! `moec doctor`: what moec finds on this machine, and what it does without.
//! Nothing here decides where moec looks for ptxas and another linker: `moec-codegen` does.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use moec::diagnostics::{Diagnostic, Report};
use moec_codegen::Ptxas;

use crate::cli::VERSION;
use crate::commands::Failure;

/// Prints one line a tool. None is needed.
pub(crate) fn doctor(out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "moec     {}", *VERSION)?;
    writeln!(out, "llvm     {}", moec_codegen::llvm_version())?;
    match moec::pipeline::this_host() {
        Some(machine) => writeln!(out, "host     {}", machine.name)?,
        None => writeln!(out, "host     below x86-64-v3: this CPU cannot run host kernels")?,
    }
    match Ptxas::find() {
        Some(ptxas) => match ptxas.version() {
            Ok(version) => writeln!(out, "ptxas    {version} ({})", ptxas.path().display())?,
            Err(error) => writeln!(out, "ptxas    {} does not run: {error}", ptxas.path().display())?,
        },
        None => writeln!(
            out,
            "ptxas    absent: packages hold PTX and no cubin; looked for at MOEC_PTXAS, in CUDA_HOME/bin and on PATH"
        )?,
    }
    match find_libcuda() {
        Some(path) => writeln!(out, "libcuda  {}", path.display())?,
        None => writeln!(out, "libcuda  absent: `--device cuda` is refused")?,
    }
    match moec_codegen::driver_in_use() {
        None => writeln!(out, "linker   moec's own; MOEC_CC names a C compiler to link with instead")?,
        Some((_, Some(cc))) => writeln!(out, "linker   {} ({}), by MOEC_CC", version_of(&cc).unwrap_or_default(), cc.display())?,
        Some((named, None)) => {
            let named = named.to_string_lossy();
            writeln!(out, "linker   absent: MOEC_CC names `{named}`, which was not found")?;
            let tried = named.into_owned();
            return Err(Report::from(Diagnostic::from(moec_codegen::Error::NoLinker { tried })).into());
        }
    }
    Ok(())
}

/// The NVIDIA driver's library, where the loader would look for it.
fn find_libcuda() -> Option<PathBuf> {
    let listed = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let standard = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib", "/usr/local/nvidia/lib64"];
    let folders = env::split_paths(&listed).chain(standard.map(PathBuf::from));
    folders.map(|folder| folder.join("libcuda.so.1")).find(|path| path.is_file())
}

/// The first line of what `--version` prints.
fn version_of(program: &PathBuf) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_string)
}
