//! The tests of this crate, a module a file: one program, which is linked once and spreads its tests over all cores.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arithmetic;
mod clusters;
mod early;
mod errors;
mod host;
mod ptx;
mod small_kernels;
mod text;
mod three_ways;
mod three_ways_group;
mod three_ways_tiles;
