//! The text of copies under way and of matrices of a warp.

use super::Wait;
use crate::MatrixShape;

/// Behind `wait`.
pub(super) fn wait(wait: Wait) -> String {
    match wait {
        Wait::Groups(left) => format!("groups {left}"),
    }
}

/// The first line of `mma`.
pub(super) fn mma(shape: MatrixShape, sums: &str, at: u32, a: &[String], b: &[String]) -> String {
    format!("mma {shape} {sums}[{at}] += ({}) * ({})", a.join(", "), b.join(", "))
}
