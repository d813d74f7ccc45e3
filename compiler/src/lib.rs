//! moec: an ahead-of-time compiler for Mixture-of-Experts layers. A spec goes in, a package of kernels comes out.
//! Kernels and instruction spellings are not here: `moec-ir` and `moec-codegen` know them.
//!
//! ```
//! use moec::diagnostics::Source;
//! use moec::import::Entry;
//! use moec::pipeline::{compile, this_host};
//! use moec_codegen::Options;
//! use moec_runtime::{Dims, Layer, Tensor, device::DeviceKind};
//!
//! let text = r#"
//! [moe]
//! name = "small"
//! hidden = 32
//! experts = 4
//!
//! [router]
//! mode = "token_choice"
//! top_k = 2
//! score = "softmax"
//! renorm = "sum"
//!
//! [expert]
//! intermediate = 16
//! activation = "silu"
//! gated = true
//! "#;
//! let source = Source { name: "small.toml".into(), text: text.into() };
//! let spec = moec::spec::parse(&source).expect("the spec is correct");
//! let machine = this_host().expect("an x86-64 CPU with AVX2");
//! let package = compile(&spec, Entry::Layer, text, &[machine], &Options::default())?;
//!
//! let layer = Layer::load(&package, DeviceKind::Host { threads: Some(1) })?;
//! let weights = moec::random::weights(package.manifest(), 1)?;
//! let dims = Dims::tokens(8);
//! let x = moec::random::inputs(package.manifest(), dims, 2)?;
//! let run = layer.bind(weights)?.run(&x, dims)?;
//! let (_, y): &(String, Tensor) = &run.outputs[0];
//! assert_eq!(y.shape(), [8, 32]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod diagnostics;
pub mod emulate;
mod facts;
pub mod hugging_face;
pub mod import;
pub mod library;
pub mod limits;
pub mod package;
mod picker;
pub mod pipeline;
pub mod plan;
mod plot;
pub mod random;
pub mod reference;
pub mod routing;
pub mod spec;
mod tensor_file;
pub mod ties;
pub mod vocabulary;

pub use moec_ir as ir;
