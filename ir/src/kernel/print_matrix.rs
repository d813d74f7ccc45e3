//! The text of matrices of a warp.

use crate::MatrixShape;

/// The first line of `mma`.
pub(super) fn mma(shape: MatrixShape, sums: &str, at: u32, a: &[String], b: &[String]) -> String {
    format!("mma {shape} {sums}[{at}] += ({}) * ({})", a.join(", "), b.join(", "))
}
