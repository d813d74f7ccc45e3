//! Executes and checks PTX on the CPU: a parser, an interpreter of warps and blocks, and the checks of a memory
//! checker, a race detector and a profiler.
//!
//! It does not depend on what made the PTX, and it never says how long anything would take on a GPU.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod checks;
mod exec;
mod findings;
pub mod fuzz;
mod launch;
mod numbers;
mod options;
mod state;
mod text;
mod types;

pub use findings::counters::{Counters, Executed, Moved, Sectors, Traffic};
pub use findings::finding::{Finding, FindingKind};
pub use findings::report::Report;
pub use launch::{Arg, Launch, LaunchError, launch};
pub use options::{Blocks, Limits, Numerics, Options, Schedule};
pub use state::memory::{Buffer, Fill, Memory, MemoryError, Procedure, Uses};
pub use state::tensor_map::{Swizzle, TensorMap, TensorMapError};
pub use text::module::{Entry, Module, Param, ParseError, Position};
pub use text::mutate::{Mutant, Mutation, SyncPoint, mutants, sync_points};
pub use text::parse::parse;
