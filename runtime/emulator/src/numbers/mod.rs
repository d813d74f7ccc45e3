//! Numbers in the formats of PTX: floats, conversions and the sums of tensor cores. No warp and no memory.

pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod numerics;
