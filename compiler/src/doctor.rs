//! `moec doctor`: what moec finds on this machine, what it does without, and how fast the machine is.
//! Nothing here decides where moec looks for ptxas, fatbinary and another linker: `moec-codegen` does.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use moec::diagnostics::{Diagnostic, Report};
use moec::limits::{self, Limits, Products, Rates, TRIES};
use moec_codegen::{Fatbinary, Ptxas};

use crate::cli::VERSION;
use crate::commands::{Failure, remembered_at};
use crate::files::{bytes_text, write};

/// Prints one line a tool, none of which is needed, and what it measures of this machine where that is asked for.
pub(crate) fn doctor(measures: bool, out: &mut dyn Write) -> Result<(), Failure> {
    tools(out)?;
    if measures && moec::pipeline::this_host().is_some() { limits(out) } else { Ok(()) }
}

fn tools(out: &mut dyn Write) -> Result<(), Failure> {
    let mut say = |tool: &str, text: String| writeln!(out, "{tool:<10}{text}");
    say("moec", VERSION.to_string())?;
    say("llvm", moec_codegen::llvm_version())?;
    let host = moec::pipeline::this_host().map(|machine| machine.name);
    say("host", host.unwrap_or("below x86-64-v3: this CPU cannot run host kernels").to_string())?;
    let found = |path: &Path, version: Result<String, moec_codegen::Error>| match version {
        Ok(version) => format!("{version} ({})", path.display()),
        Err(error) => format!("{} does not run: {error}", path.display()),
    };
    let absent = "absent: packages hold PTX and no cubin; looked for at MOEC_PTXAS, among the Python packages beside moec, in CUDA_HOME/bin and \
                  on PATH";
    say("ptxas", Ptxas::find().map_or(absent.to_string(), |ptxas| found(ptxas.path(), ptxas.version())))?;
    let absent = "absent: `--emit fatbin` is refused; looked for at MOEC_FATBINARY, beside ptxas, among the Python packages beside moec, in \
                  CUDA_HOME/bin and on PATH";
    say("fatbinary", Fatbinary::find().map_or(absent.to_string(), |tool| found(tool.path(), tool.version())))?;
    let absent = "absent: `--device cuda` is refused";
    say("libcuda", find_libcuda().map_or(absent.to_string(), |path| path.display().to_string()))?;
    match moec_codegen::driver_in_use() {
        None => say("linker", "moec's own; MOEC_CC names a C compiler to link with instead".to_string())?,
        Some((_, Some(cc))) => {
            say("linker", format!("{} ({}), by MOEC_CC", version_of(&cc).unwrap_or_default(), cc.display()))?;
        }
        Some((named, None)) => {
            let tried = named.to_string_lossy().into_owned();
            say("linker", format!("absent: MOEC_CC names `{tried}`, which was not found"))?;
            return Err(Report::from(Diagnostic::from(moec_codegen::Error::NoLinker { tried })).into());
        }
    }
    Ok(())
}

/// Measures this machine, and remembers what it found.
fn limits(out: &mut dyn Write) -> Result<(), Failure> {
    let mut say = |what: &str, text: String| writeln!(out, "{what:<10}{text}");
    let measured = match limits::measure(TRIES) {
        Ok(measured) => measured,
        Err(error) => return Ok(say("limits", format!("not measured: {error}"))?),
    };
    let Limits { threads, cache_bytes, read, products, cpu: _ } = &measured;
    let rates = |Rates { one, all }: Rates, unit: &str| {
        let giga = |rate: u64| format!("{:.1} {unit}", rate as f64 / 1e9);
        format!("{} by one thread, {} by {threads}", giga(one), giga(all))
    };
    say("memory", format!("read at {}; {} of cache in front of it", rates(*read, "GB/s"), bytes_text(*cache_bytes)))?;
    for Products { target, dtype, flops } in products {
        say("products", format!("{dtype}, {target}: {}", rates(*flops, "GFLOP/s")))?;
    }
    let path = remembered_at();
    let remembered = match &path {
        None => "not remembered: neither XDG_CACHE_HOME nor HOME names a folder".to_string(),
        Some(path) => match remember(path, &measured) {
            Ok(()) => format!("remembered in {}", path.display()),
            Err(why) => format!("not remembered: {why}"),
        },
    };
    Ok(say("limits", format!("{remembered}; of {TRIES} tries the fastest counts"))?)
}

/// What other machines have there stays.
fn remember(path: &Path, measured: &Limits) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    let before = fs::read_to_string(path).unwrap_or_default();
    let first = |report: Report| report.diagnostics.first().map_or(String::new(), |diagnostic| diagnostic.message.clone());
    write(path, limits::remember(&before, measured).as_bytes()).map_err(first)
}

/// The NVIDIA driver's library, where the loader would look for it.
fn find_libcuda() -> Option<PathBuf> {
    let listed = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let standard = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/usr/local/nvidia/lib64",
    ];
    let folders = env::split_paths(&listed).chain(standard.map(PathBuf::from));
    folders.map(|folder| folder.join("libcuda.so.1")).find(|path| path.is_file())
}

/// The first line of what `--version` prints.
fn version_of(program: &PathBuf) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_string)
}
