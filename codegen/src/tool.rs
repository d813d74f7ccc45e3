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

/// The first of: the folder `.tools` of the checkout in whose `target` the executable was built; NVIDIA's Python packages of the
/// environment that the executable is installed in; `CUDA_HOME/bin`; `PATH`.
pub(crate) fn found(tool: &Tool) -> Option<PathBuf> {
    let executable = std::env::current_exe().ok();
    let executable = executable.as_deref();
    let tools = executable.and_then(tools_beside).and_then(|tools| search(&tools, tool.name, 6));
    let package = || executable.and_then(|executable| packaged(executable, tool.name));
    let home = || std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin").join(tool.name));
    tools.or_else(package).or_else(|| home().filter(|path| path.is_file())).or_else(|| which::which(tool.name).ok())
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

/// The program `nvidia/*/bin/NAME` among the Python packages beside an executable `PREFIX/bin/...`: where `pip install moec[ptxas]` puts
/// it, in an environment, for a user, or in a folder of its own (`--target`).
fn packaged(executable: &Path, name: &str) -> Option<PathBuf> {
    let bin = executable.parent().filter(|folder| folder.file_name() == Some(OsStr::new("bin")))?;
    let prefix = bin.parent()?;
    let mut folders = vec![prefix.to_path_buf()];
    for lib in ["lib", "lib64"] {
        let pythons = entries(&prefix.join(lib));
        let of_python = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
        let pythons = pythons.iter().filter(of_python);
        folders.extend(pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages))));
    }
    let toolkits = folders.iter().flat_map(|folder| entries(&folder.join("nvidia")));
    toolkits.map(|toolkit| toolkit.join("bin").join(name)).find(|path| path.is_file())
}

/// What is in a folder, in the order of names; nothing, where it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

/// The first file of that name under `dir`, in the order of names, at most `depth` folders down.
fn search(dir: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let entries = entries(dir);
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

    #[test]
    fn tools_are_among_the_python_packages_beside_the_executable() {
        let prefix = tempfile::tempdir().expect("a folder");
        let file = |path: &str| {
            let path = prefix.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, "").expect("a file");
            path
        };
        let moec = file("bin/moec");
        assert_eq!(packaged(&moec, "ptxas"), None);
        file("lib/python3.9/site-packages/nvidia/cudnn/lib/ptxas");
        file("lib/other/site-packages/nvidia/cu13/bin/ptxas");
        assert_eq!(packaged(&moec, "ptxas"), None);
        for below in ["lib64/python3.9/site-packages", "lib/python3.12/dist-packages", "."] {
            let ptxas = file(&format!("{below}/nvidia/cu13/bin/ptxas"));
            assert_eq!(
                packaged(&moec, "ptxas").expect("found").canonicalize().expect("a file"),
                ptxas.canonicalize().expect("a file")
            );
        }
        assert_eq!(packaged(&moec, "fatbinary"), None);
        assert_eq!(packaged(&prefix.path().join("target/moec"), "ptxas"), None);
    }
}
