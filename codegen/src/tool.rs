//! NVIDIA's programs, each of which may be absent: where one is found, and how it is run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// A program.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// The variable of the environment that names one.
    pub(crate) variable: &'static str,
    /// What is said to have failed where it does not start.
    pub(crate) running: &'static str,
}

/// What the environment names; `Some(None)` where it says that there is none, which it does by nothing.
pub(crate) fn named(tool: &Tool) -> Option<Option<PathBuf>> {
    let given = std::env::var_os(tool.variable)?;
    Some((!given.is_empty()).then(|| PathBuf::from(given)))
}

/// The first of: the folder `.tools` of the checkout in whose `target` the executable was built; `CUDA_HOME/bin`; `PATH`.
pub(crate) fn found(tool: &Tool) -> Option<PathBuf> {
    let executable = std::env::current_exe().ok();
    let tools = executable.as_deref().and_then(tools_beside).and_then(|tools| search(&tools, tool.name, 6));
    let home = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin").join(tool.name));
    tools.or(home.filter(|path| path.is_file())).or_else(|| which::which(tool.name).ok())
}

/// The version of the one at `path`, as `13.0.88`.
pub(crate) fn version(tool: &Tool, path: &Path) -> Result<String, Error> {
    let text = run(tool, path, Path::new("."), &["--version"])?.0;
    let version = text.split_whitespace().find_map(|word| word.strip_prefix('V').filter(|v| v.contains('.')));
    Ok(version.unwrap_or(text.trim()).to_string())
}

/// What it prints, in the folder `dir`.
pub(crate) fn run(tool: &Tool, path: &Path, dir: &Path, args: &[&str]) -> Result<(String, String), Error> {
    // The working directory of the child is not ours: a relative path would miss.
    let path = if path.components().count() > 1 { fs::canonicalize(path) } else { Ok(path.to_path_buf()) };
    let output = path.and_then(|path| Command::new(path).args(args).current_dir(dir).output());
    let output = output.map_err(|source| Error::Io { what: tool.running, source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if !output.status.success() {
        return Err(Error::Tool { tool: tool.name.to_string(), message: format!("{out}{err}").trim().to_string() });
    }
    Ok((out, err))
}

/// `ROOT/.tools` of an executable `ROOT/target/...`: where `make setup` puts what moec is built and tested with.
fn tools_beside(executable: &Path) -> Option<PathBuf> {
    let target = executable.ancestors().find(|folder| folder.file_name() == Some(OsStr::new("target")))?;
    Some(target.parent()?.join(".tools"))
}

/// The first file of that name under `dir`, in the order of names, at most `depth` folders down.
fn search(dir: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let here = entries.iter().find(|p| p.file_name() == Some(OsStr::new(name)) && p.is_file()).cloned();
    here.or_else(|| entries.iter().filter(|p| depth > 0 && p.is_dir()).find_map(|p| search(p, name, depth - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_those_of_the_checkout_that_built_the_executable() {
        let beside = |path: &str| tools_beside(Path::new(path));
        assert_eq!(beside("/opt/a/moec/target/debug/moec"), Some("/opt/a/moec/.tools".into()));
        assert_eq!(beside("/opt/a/moec/target/debug/deps/ptxas-1"), Some("/opt/a/moec/.tools".into()));
        assert_eq!(beside("/opt/a/.cargo/bin/moec"), None);
        assert_eq!(beside("/usr/bin/moec"), None);
    }
}
