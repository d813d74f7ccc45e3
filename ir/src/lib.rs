//! What a Mixture-of-Experts layer means (`graph`), which meanings are equal (`rewrite`), and how work is
//! cut up for a machine (`schedule`, `kernel`).
//!
//! Nothing here knows LLVM, CUDA, files or clocks.

pub mod dtype;
pub mod extent;
pub mod graph;
pub mod kernel;
pub mod machine;
pub mod rewrite;
pub mod schedule;

pub use dtype::DType;
pub use extent::{Dims, Extent, Round};
pub use machine::Machine;
