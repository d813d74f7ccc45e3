//! How each effect is spelt on a machine: kernel programs to PTX and host objects, through LLVM.
//!
//! Nothing here knows what a kernel is for, decides how work is cut up, or launches anything.
//!
//! One lowering (`lower`) serves all machines; what differs is a method of `target::Target`. Floating-point
//! arithmetic means the same everywhere: round to nearest even, subnormals kept, and a product and a sum are fused
//! only where the program says so. Host code and PTX therefore give the same bits (a NaN's payload apart).
//!
//! Code generation is there with the feature `llvm`, which `dynamic` and `static` imply; the linker, NVIDIA's tools and the names of
//! symbols are there without.

#[cfg(feature = "llvm")]
mod compile;
#[cfg(feature = "llvm")]
mod emit;
mod error;
mod fatbinary;
pub mod link;
#[cfg(feature = "llvm")]
mod llvm;
#[cfg(feature = "llvm")]
mod lower;
mod object;
pub mod ptxas;
pub mod symbol;
#[cfg(feature = "llvm")]
mod target;
mod tool;

#[cfg(feature = "llvm")]
pub use compile::{assembly, codegen, llvm_text, llvm_version};
pub use error::Error;
pub use fatbinary::{FatImage, Fatbinary, Form};
pub use link::driver_in_use;
pub use object::{Image, KernelInfo, Object, Usage};
pub use ptxas::Ptxas;

/// What may be chosen by the caller. The default needs no tool.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// NVIDIA's assembler: with it GPU programs also give a cubin. See [`Ptxas::find`].
    pub ptxas: Option<Ptxas>,
}
