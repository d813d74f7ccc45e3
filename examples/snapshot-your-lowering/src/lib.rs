//! A crate with a layer of its own, whose lowering its tests keep an eye on: see `tests/lowering.rs`.

/// The layer.
pub const SPEC: &str = include_str!("../layer.toml");
