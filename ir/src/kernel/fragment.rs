//! Which elements of a matrix a lane of a warp holds: PTX ISA 9.7.14.5, "Matrix Fragments for mma.m16n8k16" and those beside it.
//!
//! ```text
//!  A, m by k            B, k by n             sums, m by n          a matrix of LoadMatrix
//!  pair p of lane l     pair p of lane l      element i of lane l   lane l, transposed
//!  row    l/4 + 8(p%2)  column l/4            row    l/4 + 8(i/2)   row    l/4        2(l%4), +1
//!  from k 2(l%4)+8(p/2) from k 2(l%4)+8p      column 2(l%4) + i%2   columns 2(l%4)+1  column l/4
//! ```
//!
//! A pair has two neighbours along k. Of f32 there is one number in the place of a pair, and 4 along k in the place of 8 (9.7.14.5.6, "Matrix
//! Fragments for mma.m16n8k8" with tf32). So the matrices that [`super::Stmt::LoadMatrix`] binds are pairs of A where rows in memory are
//! rows of A, and pairs of B where rows in memory are columns of B.

use crate::{DType, MatrixShape};

/// Lanes of the warp that a fragment is spread over.
pub const LANES: u32 = 32;
/// Sums that a lane holds.
pub const SUMS: u32 = 4;

/// Elements of a pair: one where an element is as wide as two.
pub fn elements_of_word(elem: DType) -> u32 {
    if elem.bytes() < 4 { 2 } else { 1 }
}

/// Pairs of the left factor that a lane holds.
pub fn pairs_of_a(shape: MatrixShape, elem: DType) -> u32 {
    let (rows, _, depth) = shape.extents();
    rows * depth / (elements_of_word(elem) * LANES)
}

/// Pairs of the right factor that a lane holds.
pub fn pairs_of_b(shape: MatrixShape, elem: DType) -> u32 {
    let (_, columns, depth) = shape.extents();
    columns * depth / (elements_of_word(elem) * LANES)
}

/// Row of the left factor, and first k, of a pair.
pub fn place_in_a(elem: DType, lane: u32, pair: u32) -> (u32, u32) {
    (lane / 4 + 8 * (pair % 2), elements_of_word(elem) * (lane % 4 + 4 * (pair / 2)))
}

/// Column of the right factor, and first k, of a pair.
pub fn place_in_b(elem: DType, lane: u32, pair: u32) -> (u32, u32) {
    (lane / 4, elements_of_word(elem) * (lane % 4 + 4 * pair))
}

/// Row and column of a sum.
pub fn place_in_sums(lane: u32, sum: u32) -> (u32, u32) {
    (lane / 4 + 8 * (sum / 2), 2 * (lane % 4) + sum % 2)
}

/// Sums of a product of four warps that a lane holds, of so many columns.
pub fn group_sums(columns: u32) -> u32 {
    columns / 2
}

/// Row and column of a sum of a product of four warps, from the first row of the lane's warp on: PTX ISA 9.7.15.5.1.1. The left factor in
/// registers is spread as that of [`MatrixShape::M16N8K16`], the 16 rows of warp `w` of the four from `16 w` on.
pub fn place_in_group_sums(lane: u32, sum: u32) -> (u32, u32) {
    let (row, column) = place_in_sums(lane, sum % SUMS);
    (row, 8 * (sum / SUMS) + column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every element of each matrix is held once.
    #[test]
    fn fragments_are_partitions() {
        let f32s = (MatrixShape::M16N8K8, DType::F32);
        for (shape, elem) in MatrixShape::ALL.map(|shape| (shape, DType::BF16)).into_iter().chain([f32s]) {
            let (rows, columns, depth) = shape.extents();
            let lanes = |parts: u32| (0..LANES).flat_map(move |lane| (0..parts).map(move |part| (lane, part)));
            let pairs = |(line, k): (u32, u32)| (0..elements_of_word(elem)).map(move |i| (line, k + i));
            let whole =
                |lines: u32, along: u32| -> BTreeSet<_> { (0..lines).flat_map(|i| (0..along).map(move |j| (i, j))).collect() };
            let a: Vec<_> = lanes(pairs_of_a(shape, elem)).flat_map(|(lane, pair)| pairs(place_in_a(elem, lane, pair))).collect();
            let b: Vec<_> = lanes(pairs_of_b(shape, elem)).flat_map(|(lane, pair)| pairs(place_in_b(elem, lane, pair))).collect();
            let sums: Vec<_> = lanes(SUMS).map(|(lane, sum)| place_in_sums(lane, sum)).collect();
            for (held, whole) in [(a, whole(rows, depth)), (b, whole(columns, depth)), (sums, whole(rows, columns))] {
                assert_eq!(held.len(), whole.len(), "{shape}");
                assert_eq!(held.into_iter().collect::<BTreeSet<_>>(), whole, "{shape}");
            }
        }
    }
}
