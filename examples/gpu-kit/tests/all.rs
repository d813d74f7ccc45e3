//! The tests of this crate, as one program.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod gpu_kit;
