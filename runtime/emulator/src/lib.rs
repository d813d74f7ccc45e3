//! Executes and checks PTX on the CPU: a parser, an interpreter of warps and blocks, and the checks of a memory
//! checker, a race detector and a profiler.
//!
//! It does not depend on what made the PTX, and it never says how long anything would take on a GPU.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod access;
mod agents;
mod arithmetic;
mod atomics;
mod block;
mod body;
mod bulk;
mod clocks;
mod convert;
mod copy;
mod counters;
mod decode;
mod decode_async;
mod decode_memory;
mod decode_warp;
mod exchange;
mod finding;
mod float;
mod form;
pub mod fuzz;
mod ins;
mod json;
mod launch;
mod lexer;
mod matrix;
mod mbarrier;
mod memory;
mod module;
mod mutate;
mod numerics;
mod operand;
mod parse;
mod race;
mod report;
mod schedule;
mod shared;
mod step;
mod tensor_map;
mod types;
mod warp;
mod wgmma;

pub use counters::{Counters, Executed, Traffic};
pub use finding::{Finding, FindingKind};
pub use launch::{Arg, Blocks, Launch, LaunchError, Limits, Options, launch};
pub use memory::{Buffer, Fill, Memory, MemoryError, Procedure};
pub use module::{Entry, Module, Param, ParseError, Position};
pub use mutate::{Mutant, Mutation, SyncPoint, mutants, sync_points};
pub use numerics::Numerics;
pub use parse::parse;
pub use report::Report;
pub use schedule::Schedule;
pub use tensor_map::{Swizzle, TensorMap, TensorMapError};
