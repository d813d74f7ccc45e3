//! NVIDIA's assembler, an external program that may be absent: where it is found, how it is run, what it reports.
//! It is never copied into a package; without it a package holds PTX.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Image, Object, Usage};

/// A `ptxas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptxas {
    path: PathBuf,
}

impl Ptxas {
    /// The one at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Ptxas {
        Ptxas { path: path.into() }
    }

    /// The first of: `MOEC_PTXAS`; the folder `.tools` of the checkout in whose `target` the executable was built;
    /// `CUDA_HOME/bin`; `PATH`. `MOEC_PTXAS` set to nothing means none.
    ///
    /// The current directory is not looked at: it may be a stranger's, and what is found is run.
    pub fn find() -> Option<Ptxas> {
        if let Some(given) = std::env::var_os("MOEC_PTXAS") {
            return (!given.is_empty()).then(|| Ptxas::at(given));
        }
        let executable = std::env::current_exe().ok();
        let tools = executable.as_deref().and_then(tools_beside).and_then(|tools| search(&tools, 6));
        let home = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin").join("ptxas"));
        tools.or(home.filter(|path| path.is_file())).or_else(|| which::which("ptxas").ok()).map(Ptxas::at)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, as `13.0.88`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be started, [`Error::Tool`] where it fails.
    pub fn version(&self) -> Result<String, Error> {
        let text = self.run(Path::new("."), &["--version"])?.0;
        let version = text.split_whitespace().find_map(|word| word.strip_prefix('V').filter(|v| v.contains('.')));
        Ok(version.unwrap_or(text.trim()).to_string())
    }

    /// The cubin of an object with PTX, with what its kernels occupy.
    ///
    /// # Errors
    /// [`Error::Tool`] with what it prints where it refuses the PTX, [`Error::Io`] where it cannot be started or a temporary file
    /// fails.
    pub fn assemble(&self, object: &Object) -> Result<Object, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let dir = tempfile::tempdir().map_err(io("creating a folder to assemble in"))?;
        fs::write(dir.path().join("kernels.ptx"), object.image.bytes()).map_err(io("writing PTX to assemble"))?;
        let arch = format!("-arch={}", object.target);
        tracing::debug!(arch, ptxas = %self.path.display(), "assembling");
        let (out, err) = self.run(dir.path(), &["-v", &arch, "-o", "kernels.cubin", "kernels.ptx"])?;
        let log = format!("{out}{err}");
        let cubin = fs::read(dir.path().join("kernels.cubin")).map_err(io("reading the cubin"))?;
        let mut kernels = object.kernels.clone();
        for (name, usage) in usages(&log) {
            for kernel in kernels.iter_mut().filter(|k| k.symbol == name) {
                kernel.usage = Some(usage);
            }
        }
        Ok(Object { target: object.target.clone(), image: Image::Cubin(cubin), kernels, warnings: warnings(&log) })
    }

    fn run(&self, dir: &Path, args: &[&str]) -> Result<(String, String), Error> {
        // The working directory of the child is not ours: a relative path would miss.
        let path = if self.path.components().count() > 1 { fs::canonicalize(&self.path) } else { Ok(self.path.clone()) };
        let output = path.and_then(|path| Command::new(path).args(args).current_dir(dir).output());
        let output = output.map_err(|source| Error::Io { what: "running ptxas", source })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        if !output.status.success() {
            return Err(Error::Tool { tool: "ptxas".to_string(), message: format!("{out}{err}").trim().to_string() });
        }
        Ok((out, err))
    }
}

/// `ROOT/.tools` of an executable `ROOT/target/...`: where `make setup` puts what moec is built and tested with.
fn tools_beside(executable: &Path) -> Option<PathBuf> {
    let target = executable.ancestors().find(|folder| folder.file_name() == Some(OsStr::new("target")))?;
    Some(target.parent()?.join(".tools"))
}

/// The first file called `ptxas` under `dir`, in the order of names, at most `depth` folders down.
fn search(dir: &Path, depth: u32) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let here = entries.iter().find(|p| p.file_name() == Some(OsStr::new("ptxas")) && p.is_file()).cloned();
    here.or_else(|| entries.iter().filter(|p| depth > 0 && p.is_dir()).find_map(|p| search(p, depth - 1)))
}

/// What each kernel occupies, from the log of `ptxas -v`.
fn usages(log: &str) -> Vec<(String, Usage)> {
    let mut usages: Vec<(String, Usage)> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next()) {
            usages.push((name.to_string(), Usage::default()));
        }
        let Some((_, usage)) = usages.last_mut() else { continue };
        for part in line.split([',', ':']) {
            let mut words = part.split_whitespace();
            let number = words.find_map(|word| word.parse::<u32>().ok());
            let Some(number) = number else { continue };
            match words.collect::<Vec<_>>().join(" ").as_str() {
                "registers" => usage.registers = number,
                "bytes stack frame" => usage.stack_bytes = number,
                "bytes spill stores" => usage.spill_stores = number,
                "bytes spill loads" => usage.spill_loads = number,
                "bytes smem" => usage.shared_bytes = number,
                _ => {}
            }
        }
    }
    usages
}

/// Warnings, and the notes that products of four warps wait for each other, which ptxas counts as information.
fn warnings(log: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains("warning") || line.contains("(C75")).map(|line| line.trim().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by ptxas 13.0.88.
    const LOG: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 24 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 4.178 ms
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas warning : something
ptxas info    : (C7519) Potential Performance Loss: wgmma.mma_async instructions are serialized
";

    #[test]
    fn the_log_is_read() {
        let a = Usage { registers: 40, stack_bytes: 24, spill_stores: 8, spill_loads: 12, shared_bytes: 1024 };
        let b = Usage { registers: 8, ..Usage::default() };
        assert_eq!(usages(LOG), [("a".to_string(), a), ("b".to_string(), b)]);
        let serialized = "ptxas info    : (C7519) Potential Performance Loss: wgmma.mma_async instructions are serialized";
        assert_eq!(warnings(LOG), ["ptxas warning : something", serialized]);
    }

    #[test]
    fn tools_are_those_of_the_checkout_that_built_the_executable() {
        let beside = |path: &str| tools_beside(Path::new(path));
        assert_eq!(beside("/opt/a/moec/target/debug/moec"), Some("/opt/a/moec/.tools".into()));
        assert_eq!(beside("/opt/a/moec/target/debug/deps/ptxas-1"), Some("/opt/a/moec/.tools".into()));
        assert_eq!(beside("/opt/a/.cargo/bin/moec"), None);
        assert_eq!(beside("/usr/bin/moec"), None);
    }

    #[test]
    fn an_absent_ptxas_is_the_environments_fault() {
        let error = Ptxas::at("no/such/ptxas").version().expect_err("there is none");
        assert!(error.is_environment(), "{error}");
    }
}
