//! What can go wrong in this crate, as values. How it is shown to people is the caller's affair.

/// Why there is no object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel breaks a rule of the kernel IR that its verifier holds.
    #[error("kernel `{kernel}` is malformed: {why}")]
    Malformed {
        /// The kernel.
        kernel: String,
        /// The rule.
        why: String,
    },
    /// A kernel needs what the machine does not have.
    #[error("kernel `{kernel}` needs {what}, which {machine} does not have")]
    Unsupported {
        /// The kernel.
        kernel: String,
        /// The thing.
        what: String,
        /// The machine's name.
        machine: &'static str,
    },
    /// A kernel's shared arrays do not fit.
    #[error("kernel `{kernel}` needs {bytes} bytes of shared memory; a block on {machine} has {limit}")]
    Shared {
        /// The kernel.
        kernel: String,
        /// What it needs.
        bytes: u64,
        /// What there is.
        limit: u64,
        /// The machine's name.
        machine: &'static str,
    },
    /// LLVM refused.
    #[error("LLVM could not compile `{kernel}` for {machine}: {message}")]
    Llvm {
        /// The kernel, or the program where LLVM does not say which of its kernels it was.
        kernel: String,
        /// The machine's name.
        machine: &'static str,
        /// What LLVM said.
        message: String,
    },
    /// LLVM's object has what no kernel has.
    #[error("the object of `{program}` cannot be linked: it has {why}")]
    Link {
        /// The program.
        program: String,
        /// What it has.
        why: String,
    },
    /// The C compiler driver that `MOEC_CC` names is not there. The environment lacks something; the program is fine.
    #[error("`{tried}`, which MOEC_CC names to link host objects with, was not found")]
    NoLinker {
        /// What was looked for.
        tried: String,
    },
    /// An external tool refused its input.
    #[error("`{tool}` failed: {message}")]
    Tool {
        /// The tool.
        tool: String,
        /// What it printed.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the machine that compiles lacks something, rather than the program being at fault.
    pub fn is_environment(&self) -> bool {
        match self {
            Error::NoLinker { .. } | Error::Io { .. } => true,
            Error::Malformed { .. }
            | Error::Unsupported { .. }
            | Error::Shared { .. }
            | Error::Llvm { .. }
            | Error::Link { .. }
            | Error::Tool { .. } => false,
        }
    }
}
