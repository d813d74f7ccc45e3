//! What there is while a launch runs: memory, registers, clocks. Data, with the operations that keep it consistent.

pub(crate) mod clocks;
pub(crate) mod memory;
pub(crate) mod shared;
pub(crate) mod tensor_map;
pub(crate) mod warp;
