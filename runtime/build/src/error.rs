//! Why a layer could not be compiled in a build script, and what to do.

use std::fmt;
use std::path::PathBuf;

/// Why a layer could not be compiled. `Debug` prints what `Display` does, since that is what cargo shows of a build script's `main`.
#[derive(Clone, PartialEq, Eq)]
pub enum Error {
    /// `OUT_DIR` is not set.
    NoBuildScript,
    /// The crate is compiled for a machine that libraries of moec do not run on.
    OtherTarget {
        /// Cargo's `TARGET`.
        triple: String,
    },
    /// The spec cannot be read.
    Spec {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// There is no moec in `PATH`, and none is named.
    NoCompiler,
    /// `MOEC` names what is not there.
    NoSuchCompiler {
        /// What it names.
        path: PathBuf,
    },
    /// moec refused the spec, or did not run.
    Failed {
        /// The program.
        moec: PathBuf,
        /// The spec.
        spec: PathBuf,
        /// What it printed.
        printed: String,
    },
    /// What `MOEC_PREBUILT_DIR` has is not of this spec and these targets.
    Stale {
        /// Where the layer's files should be.
        folder: PathBuf,
        /// `MOEC_PREBUILT_DIR`.
        kept: PathBuf,
    },
    /// A file or folder of the output.
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoBuildScript => f.write_str("OUT_DIR is not set: call moec-build in a build script, which cargo runs"),
            Error::OtherTarget { triple } => write!(
                f,
                "moec-build makes libraries for x86-64 Linux, and this crate is compiled for `{triple}`: compile it for \
                 x86_64-unknown-linux-gnu, or leave the layer out there"
            ),
            Error::Spec { path, why } => write!(
                f,
                "cannot read the spec `{}`: {why}. The path begins at the folder of the crate's Cargo.toml",
                path.display()
            ),
            Error::NoCompiler => f.write_str(
                "there is no moec in PATH, and MOEC names none. Build it (cargo build --release --package moec) and name it by MOEC; or, \
                 on a machine that cannot have it, set MOEC_PREBUILT_DIR to a folder that a build with both variables has filled",
            ),
            Error::NoSuchCompiler { path } => {
                write!(f, "MOEC names `{}`, which is no file: name the moec to run, or unset it to look in PATH", path.display())
            }
            Error::Failed { moec, spec, printed } => {
                write!(f, "`{}` did not compile `{}`:\n{printed}", moec.display(), spec.display())
            }
            Error::Stale { folder, kept } => write!(
                f,
                "MOEC_PREBUILT_DIR is `{}`, and what is in `{}` is not of this spec and these targets: build the crate on a machine that \
                 has moec, with MOEC and the same MOEC_PREBUILT_DIR set, and take what that leaves there",
                kept.display(),
                folder.display()
            ),
            Error::File { path, why } => write!(f, "`{}`: {why}", path.display()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
