//! The tests of the whole project that are no trials, a module a file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrows;
mod decisions;
mod deps;
mod entries;
mod hash;
mod launcher;
mod padding;
mod priority;
mod regimes;
mod rooms;
mod routing;
mod soft;
mod statistics;
mod tidy;
mod traffic;
mod training;
mod wheel;
