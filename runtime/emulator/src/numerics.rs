//! Arithmetic of the tensor cores.

/// How `mma` and `wgmma` add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Fused multiply-adds in f32, in order of k: fast.
    #[default]
    Plain,
    /// The published bit-level model of Ampere.
    Ampere,
    /// The published bit-level model of Ada.
    Ada,
    /// The published bit-level model of Hopper.
    Hopper,
}
