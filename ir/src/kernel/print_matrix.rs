//! The text of matrices of a warp.

use super::Panels;
use super::print_tensor::swizzle;
use crate::MatrixShape;

/// The first line of `mma`.
pub(super) fn mma(shape: MatrixShape, sums: &str, at: u32, a: &[String], b: &[String]) -> String {
    format!("mma {shape} {sums}[{at}] += ({}) * ({})", a.join(", "), b.join(", "))
}

/// A factor in shared memory, from element `at` of the array of this name on.
pub(super) fn panels(array: &str, at: &str, of: &Panels) -> String {
    let transposed = if of.transposed { " transposed" } else { "" };
    format!("{array}[{at}] lines {}{}{transposed}", of.lines, swizzle(of.swizzle))
}
