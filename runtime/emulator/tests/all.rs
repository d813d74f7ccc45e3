//! The tests of this crate, a module a file: one program, which is linked once and spreads its tests over all cores.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod cluster;
mod early;
mod examples;
mod fragments;
mod fuzzing;
mod pair;
mod scalar;
mod statements;
mod tensor;
