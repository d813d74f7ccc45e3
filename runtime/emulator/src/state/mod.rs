//! What there is while a launch runs: memory, registers, clocks. Data, with the operations that keep it consistent.

pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod clocks;
pub(crate) mod cluster;
pub(crate) mod in_flight;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod place;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod tensor_map;
pub(crate) mod warp;
pub(crate) mod wgmma;
