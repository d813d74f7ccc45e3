//! `moec doctor`: what moec finds on this machine, and what it does without.
//! Nothing here decides where moec looks for ptxas and the C compiler: `moec-codegen` does.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use moec::diagnostics::{Code, Diagnostic, Report};
use moec_codegen::Ptxas;

use crate::cli::VERSION;
use crate::commands::Failure;

/// Prints one line a tool. Only the C compiler is needed; the rest is optional.
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
    match moec_codegen::linker() {
        Some(cc) => writeln!(out, "cc       {} ({})", version_of(&cc).unwrap_or_default(), cc.display())?,
        None => {
            writeln!(out, "cc       absent: host kernels cannot be linked")?;
            let diagnostic = Diagnostic::new(Code::ToolMissing, "there is no C compiler on this machine")
                .help("install one (Debian: `apt-get install gcc`), or name it by MOEC_CC");
            return Err(Report::from(diagnostic).into());
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
