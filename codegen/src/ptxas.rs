//! NVIDIA's assembler, an external program that may be absent: how it is run, what it reports.
//! It is never copied into a package; without it a package holds PTX.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tool::{self, Tool};
use crate::{Error, Image, Object, Usage};

const TOOL: Tool = Tool { name: "ptxas", variable: "MOEC_PTXAS", running: "running ptxas" };

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

    /// The first of: `MOEC_PTXAS`; the folder `.tools` of the checkout in whose `target` the executable was built; NVIDIA's Python
    /// packages beside the executable (`PREFIX/bin/moec` and `PREFIX/lib/python3*/site-packages/nvidia/*/bin/ptxas`); `CUDA_HOME/bin`;
    /// `PATH`. `MOEC_PTXAS` set to nothing means none.
    ///
    /// The current directory is not looked at: it may be a stranger's, and what is found is run.
    pub fn find() -> Option<Ptxas> {
        tool::named(&TOOL).unwrap_or_else(|| tool::found(&TOOL)).map(Ptxas::at)
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
        tool::version(&TOOL, &self.path)
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
        let (out, err) = tool::run(&TOOL, &self.path, dir.path(), &["-v", &arch, "-o", "kernels.cubin", "kernels.ptx"])?;
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
    fn an_absent_ptxas_is_the_environments_fault() {
        let error = Ptxas::at("no/such/ptxas").version().expect_err("there is none");
        assert!(error.is_environment(), "{error}");
    }
}
