//! How a factor of a product of four warps lies in shared memory: in panels, whose lines a copy of a box may have swizzled.
//!
//! ```text
//!  along k (not transposed)                      across k (transposed)
//!  a line is a row, a panel is some k            a line is one k, a panel is some rows
//!        k ->                                          rows ->
//!  row +--------+  +--------+                      k +--------+  +--------+
//!      | panel 0|  | panel 1|  ..                    | panel 0|  | panel 1|  ..
//!      +--------+  +--------+                        +--------+  +--------+
//! ```
//!
//! A line of a panel is as wide as the swizzle's rows, without one 16 bytes. Panels follow each other; all have as many lines.
//! A row is a row of the left factor, or a column of the right one. PTX ISA 9.7.15.5.1, "Shared Memory Matrix Layout".

use std::ops::Range;

use super::{Expr, Handle, Shared, Swizzle};

/// Bytes of an element of a factor.
const ELEMENT: u64 = 2;
/// Bytes of a line of a panel that is not swizzled.
const PLAIN: u32 = 16;
/// Rows of the left factor.
pub const GROUP_ROWS: u32 = 64;
/// The length of the products that one instruction adds.
pub const STEP: u32 = 16;

/// A factor in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panels {
    /// A shared array of `F16` or `BF16`, aligned as the swizzle needs it.
    pub array: Handle<Shared>,
    /// Where the factor's first line begins, in its first panel: an element index, `I32` or `I64`, at a multiple of
    /// [`Swizzle::align`]. The lanes of all four warps agree on it.
    pub at: Handle<Expr>,
    /// Lines of a panel, a multiple of 8: at least those that the factor has.
    pub lines: u32,
    /// How the lines are swizzled.
    pub swizzle: Swizzle,
    /// Whether lines go across k.
    pub transposed: bool,
}

impl Panels {
    /// Bytes of a line.
    pub fn line_bytes(&self) -> u32 {
        self.swizzle.row_bytes().unwrap_or(PLAIN)
    }

    /// Bytes from a panel to the next.
    pub fn panel_bytes(&self) -> u64 {
        u64::from(self.lines) * u64::from(self.line_bytes())
    }

    /// Lines that a factor of so many rows has, and elements across them.
    pub fn extents(&self, rows: u32, depth: u32) -> (u32, u32) {
        if self.transposed { (depth, rows) } else { (rows, depth) }
    }

    /// The byte, from the factor's first one on and before it is swizzled, of an element.
    pub fn byte(&self, row: u32, k: u32) -> u64 {
        let (line, across) = self.extents(row, k);
        let (across, line_bytes) = (u64::from(across) * ELEMENT, u64::from(self.line_bytes()));
        across / line_bytes * self.panel_bytes() + u64::from(line) * line_bytes + across % line_bytes
    }

    /// The bytes, from the factor's first one on, that a factor of so many rows has in each of its panels.
    pub fn parts(&self, rows: u32, depth: u32) -> impl Iterator<Item = Range<u64>> + use<> {
        let (lines, across) = self.extents(rows, depth);
        let panels = (u64::from(across) * ELEMENT).div_ceil(u64::from(self.line_bytes()));
        let (panel, part) = (self.panel_bytes(), u64::from(lines) * u64::from(self.line_bytes()));
        (0..panels).map(move |i| i * panel..i * panel + part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panels(lines: u32, swizzle: Swizzle, transposed: bool) -> Panels {
        Panels { array: Handle::new(0), at: Handle::new(0), lines, swizzle, transposed }
    }

    /// Worked out by hand: panels of 128 lines of 128 bytes have 16384 bytes, those of 24 lines of 16 bytes 384.
    #[test]
    fn elements_lie_in_panels() {
        let along = panels(128, Swizzle::Bytes128, false);
        assert_eq!([along.byte(0, 0), along.byte(3, 63), along.byte(3, 64)], [0, 3 * 128 + 126, 16384 + 3 * 128]);
        assert_eq!(along.parts(64, 80).collect::<Vec<_>>(), [0..8192, 16384..24576]);
        let across = panels(128, Swizzle::Bytes128, true);
        assert_eq!([across.byte(63, 3), across.byte(64, 3)], [3 * 128 + 126, 16384 + 3 * 128]);
        assert_eq!(across.parts(96, 16).collect::<Vec<_>>(), [0..2048, 16384..18432]);
        let plain = panels(24, Swizzle::None, false);
        assert_eq!([plain.byte(5, 7), plain.byte(5, 8)], [5 * 16 + 14, 384 + 5 * 16]);
    }

    /// No two elements share bytes, and all lie in the parts.
    #[test]
    fn elements_lie_apart() {
        for (swizzle, transposed) in Swizzle::ALL.into_iter().flat_map(|swizzle| [(swizzle, false), (swizzle, true)]) {
            let of = panels(72, swizzle, transposed);
            let mut bytes: Vec<u64> = (0..72).flat_map(|row| (0..32).map(move |k| swizzle.apply(of.byte(row, k)))).collect();
            bytes.sort_unstable();
            bytes.dedup();
            assert_eq!(bytes.len(), 72 * 32, "{of:?}");
            assert!(bytes.iter().all(|byte| of.parts(72, 32).any(|part| part.contains(byte))), "{of:?}");
        }
    }
}
