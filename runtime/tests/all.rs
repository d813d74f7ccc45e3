//! The tests of this crate, a module a file: one program, which is linked once and spreads its tests over all cores.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoint;
mod cuda;
mod emulator;
mod errors;
mod fixture;
mod host;
mod layer;
mod mapped;
#[path = "fixture/mock.rs"]
mod mock;
#[path = "fixture/object.rs"]
mod object;
mod package;
mod plan;
mod schema;
mod tensor_maps;
mod weights;
