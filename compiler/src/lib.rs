//! moec: an ahead-of-time compiler for Mixture-of-Experts layers. A spec goes in, a package of kernels comes out.
//! Kernels and instruction spellings are not here: `moec-ir` and `moec-codegen` know them.

pub mod diagnostics;
pub mod emulate;
pub mod hugging_face;
pub mod import;
pub mod package;
pub mod pipeline;
pub mod random;
pub mod reference;
pub mod routing;
pub mod spec;
mod tensor_file;
pub mod ties;
pub mod vocabulary;

pub use moec_ir as ir;
