//! What a Mixture-of-Experts layer means (`graph`), which meanings are equal (`rewrite`), and how work is
//! cut up for a machine (`schedule`, `kernel`).
//!
//! Nothing here knows LLVM, CUDA, files or clocks.
//!
//! A graph says what is computed; rewriting finds the cheapest equal graph of a machine; the schedule makes kernels of it.
//!
//! ```
//! use moec_ir::{Machine, graph, kernel, rewrite, schedule};
//!
//! let text = "
//! layer @halves(%x: tensor<T x 64 x f32>, @w: tensor<32 x 64 x f32>) -> tensor<T x 32 x f32> {
//!   %0 = gemm %x, [@w] : tensor<T x 32 x f32>
//!   %1 = scale %0, 0.5 : tensor<T x 32 x f32>
//!   return %1
//! }";
//! let layer = graph::verify(graph::parse(text)?).expect("the graph is well typed");
//! let machine = Machine::named("sm_90a").expect("moec compiles for sm_90a");
//! let batches = rewrite::Batches { expected: vec![64], most: 4096, together: false };
//! let best = rewrite::rewrite(&layer, &machine, &batches);
//! let program = schedule::schedule_regimes(&best.regimes, &machine)?;
//! // The scaling has become the end of the product: one kernel, one launch.
//! assert_eq!(program.regimes[0].launches.len(), 1);
//! println!("{}", kernel::print(&program));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod dtype;
pub mod extent;
pub mod facts;
pub mod graph;
pub mod kernel;
pub mod machine;
pub mod rewrite;
pub mod schedule;
pub mod tiling;

pub use dtype::DType;
pub use extent::{Dims, Extent, Round};
pub use facts::{Facts, RoutingFacts, Statistics};
pub use machine::{Machine, MatrixShape};
pub use tiling::{Sorting, Tiling};
