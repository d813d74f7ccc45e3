//! Compiles a layer in a build script: runs the `moec` of the machine, links what it made, and leaves a Rust module to include.
//!
//! `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), moec_build::Error> {
//!     moec_build::Spec::new("moe.toml").target("host").compile()?;
//!     Ok(())
//! }
//! ```
//!
//! In the crate, for a layer whose name is `mixtral`:
//!
//! ```ignore
//! include!(concat!(env!("OUT_DIR"), "/mixtral.rs"));
//! let layer = mixtral::Layer::host(0)?;
//! ```
//!
//! What the module has, rustdoc shows of the crate that includes it. Variables of the environment:
//!
//! | variable | |
//! |---|---|
//! | `MOEC` | the moec to run; where absent it is looked for in `PATH` |
//! | `MOEC_PREBUILT_DIR` | with `MOEC`: where what was compiled is kept, too. Without: what is kept there is used, and no moec is run |
//!
//! This crate depends on no other, and does not link LLVM.

mod error;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

pub use error::Error;

/// A spec to compile.
#[derive(Clone, Debug)]
pub struct Spec {
    path: PathBuf,
    targets: Vec<String>,
    entry: Option<String>,
    cudarc: bool,
}

/// What was made of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The layer's name as an identifier: the module's name, and what the symbols begin with.
    pub prefix: String,
    /// The static library, which the crate is linked with.
    pub archive: PathBuf,
    /// The module, `OUT_DIR/<prefix>.rs`.
    pub module: PathBuf,
}

/// What the folder of a layer was compiled of.
const REQUEST: &str = "request.toml";

impl Spec {
    /// A spec file, by its path from the folder of the crate's `Cargo.toml`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Spec {
        Spec { path: path.into(), targets: Vec::new(), entry: None, cudarc: false }
    }

    /// Adds a target, as `moec compile --target` takes it: `sm_90a`, `x86-64-v3`. Where none is added it is `host`, the CPU of the machine
    /// that compiles.
    #[must_use]
    pub fn target(mut self, name: impl Into<String>) -> Spec {
        self.targets.push(name.into());
        self
    }

    /// The part of the layer to compile, as `moec compile --entry` takes it: `experts`, after a routing of the caller's, or `router`.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>) -> Spec {
        self.entry = Some(name.into());
        self
    }

    /// The module also takes streams and slices of cudarc: the crate depends on cudarc 0.19, with its feature `driver`.
    #[must_use]
    pub fn cudarc(mut self) -> Spec {
        self.cudarc = true;
        self
    }

    /// Compiles the layer, and tells cargo what to link and when to compile again.
    ///
    /// # Errors
    /// See [`Error`]: each says what to do.
    pub fn compile(self) -> Result<Built, Error> {
        self.compile_with(&|name| std::env::var_os(name), &mut std::io::stdout())
    }

    /// [`Spec::compile`] with these variables in the place of the process's, and what cargo is told written to `out`.
    ///
    /// # Errors
    /// As there.
    pub fn compile_with(self, variable: &dyn Fn(&str) -> Option<OsString>, out: &mut dyn Write) -> Result<Built, Error> {
        let text = |name: &str| variable(name).unwrap_or_default().to_string_lossy().into_owned();
        let out_dir = variable("OUT_DIR").map(PathBuf::from).ok_or(Error::NoBuildScript)?;
        if text("CARGO_CFG_TARGET_ARCH") != "x86_64" || text("CARGO_CFG_TARGET_OS") != "linux" {
            return Err(Error::OtherTarget { triple: text("TARGET") });
        }
        let spec = fs::read_to_string(&self.path).map_err(|why| Error::Spec { path: self.path.clone(), why: why.to_string() })?;
        let mut options = vec!["--target".to_string(), "host".to_string()];
        if !self.targets.is_empty() {
            options[1] = self.targets.join(",");
        }
        options.extend(self.entry.into_iter().flat_map(|name| ["--entry".to_string(), name]));
        let kinds = if self.cudarc { "rust-cudarc,staticlib" } else { "rust,staticlib" };
        let request = format!("# moec compile {} --emit {kinds}\n{spec}", options.join(" "));
        let mut told = format!("cargo::rerun-if-changed={}\n", self.path.display());
        for name in ["MOEC", "MOEC_PREBUILT_DIR", "MOEC_PTXAS", "MOEC_CC"] {
            told += &format!("cargo::rerun-if-env-changed={name}\n");
        }

        let named = variable("MOEC").filter(|path| !path.is_empty()).map(PathBuf::from);
        let prebuilt = variable("MOEC_PREBUILT_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        let folder = folder(prebuilt.as_deref().unwrap_or(&out_dir), &text("CARGO_PKG_NAME"), &self.path, &options);
        if let (None, Some(kept)) = (&named, &prebuilt) {
            told += &format!("cargo::rerun-if-changed={}\n", folder.display());
            if !fs::read_to_string(folder.join(REQUEST)).is_ok_and(|of| of == request) {
                return Err(Error::Stale { folder, kept: kept.clone() });
            }
        } else {
            let moec = match named {
                Some(path) if path.is_file() => path,
                Some(path) => return Err(Error::NoSuchCompiler { path }),
                None => in_path(&variable("PATH").unwrap_or_default()).ok_or(Error::NoCompiler)?,
            };
            told += &format!("cargo::rerun-if-changed={}\n", moec.display());
            run(&moec, &self.path, &options, kinds, &folder)?;
            write(&folder.join(REQUEST), request.as_bytes())?;
        }

        let (prefix, archive) = library(&folder)?;
        let module = out_dir.join(format!("{prefix}.rs"));
        let source = folder.join(if self.cudarc { format!("{prefix}_cudarc.rs") } else { format!("{prefix}.rs") });
        fs::copy(&source, &module).map_err(|why| Error::File { path: source, why: why.to_string() })?;
        told += &format!("cargo::rustc-link-search=native={}\ncargo::rustc-link-lib=static={prefix}\n", folder.display());
        out.write_all(told.as_bytes()).map_err(|why| Error::File { path: "stdout".into(), why: why.to_string() })?;
        Ok(Built { prefix, archive, module })
    }
}

/// Where the files of a package's spec are, for these options: `layers/moe/target-host` of `layers/moe.toml`.
fn folder(root: &Path, package: &str, spec: &Path, options: &[String]) -> PathBuf {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("parent".to_string()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    let parts: PathBuf = spec.components().filter_map(name).collect();
    root.join(package).join(parts.with_extension("")).join(options.join("").replace("--", "-").trim_start_matches('-'))
}

fn in_path(path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join("moec")).find(|moec| moec.is_file())
}

/// `moec compile` into an empty folder.
fn run(moec: &Path, spec: &Path, options: &[String], kinds: &str, folder: &Path) -> Result<(), Error> {
    let file = |why: std::io::Error| Error::File { path: folder.to_path_buf(), why: why.to_string() };
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(file)?;
    }
    fs::create_dir_all(folder).map_err(file)?;
    let mut command = Command::new(moec);
    command.arg("compile").arg(spec).args(options).args(["--emit", kinds, "--out-dir"]).arg(folder);
    let failed = |printed: String| Error::Failed { moec: moec.to_path_buf(), spec: spec.to_path_buf(), printed };
    let output = command.output().map_err(|why| failed(why.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())) }
}

/// The library in a folder, and its prefix.
fn library(folder: &Path) -> Result<(String, PathBuf), Error> {
    let file = |why: String| Error::File { path: folder.to_path_buf(), why };
    let entries = fs::read_dir(folder).map_err(|why| file(why.to_string()))?;
    let mut libraries = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let prefix = path.file_name()?.to_str()?.strip_prefix("lib")?.strip_suffix(".a")?.to_string();
        Some((prefix, path))
    });
    match (libraries.next(), libraries.next()) {
        (Some(library), None) => Ok(library),
        (None, _) => Err(file("it has no library lib*.a".to_string())),
        (Some(_), Some(_)) => Err(file("it has several libraries lib*.a".to_string())),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|why| Error::File { path: path.to_path_buf(), why: why.to_string() })
}
