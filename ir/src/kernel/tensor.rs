//! Views of buffers as tensors, of which copies take boxes, and how the rows of a box lie in shared memory.

use crate::{DType, Dims, Extent};

/// What a kernel knows of a tensor of which it copies or stores boxes. A tensor has three dimensions, the first the outermost one; of a matrix
/// the outer extent is 1. What else there is to know of it is given at launch: see [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Type of an element.
    pub elem: DType,
    /// Extents of a box, each 1 to [`TensorMap::MOST`].
    pub tile: [u32; 3],
    /// How the box lies in shared memory.
    pub swizzle: Swizzle,
    /// Whether the kernel stores boxes ([`super::Stmt::TileStore`]); otherwise it copies them ([`super::Stmt::TileCopy`]).
    pub write: bool,
}

/// Where the parts of 16 bytes of each row of a box lie, so that the same part of neighbouring rows is in other banks. What is
/// said is of addresses in shared memory, and of a box that begins at a multiple of [`Swizzle::align`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Swizzle {
    /// Row after row, each part where it is in the row.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Every one.
    pub const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

    /// Bytes of a row, where they are given.
    pub const fn row_bytes(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }

    /// Bytes after which the pattern repeats: a box begins at a multiple of these. Without a pattern, what copies need.
    pub const fn align(self) -> u32 {
        match self.row_bytes() {
            None => 128,
            Some(row) => 8 * row,
        }
    }

    /// Where the byte lies that would be `byte` bytes behind a multiple of [`Swizzle::align`] without a pattern: bits 4 to 6 of
    /// the address change with bits 7 to 9, as many of them as number the parts of a row (CUDA driver API, `CUtensorMapSwizzle`).
    pub const fn apply(self, byte: u64) -> u64 {
        match self.row_bytes() {
            None => byte,
            Some(row) => byte ^ (byte >> 3 & (row as u64 - 16)),
        }
    }
}

impl TensorMap {
    /// The greatest extent of a box.
    pub const MOST: u32 = 256;

    /// Elements of a box.
    pub fn elements(&self) -> u64 {
        self.tile.iter().fold(1, |all: u64, extent| all.saturating_mul(u64::from(*extent)))
    }

    /// Bytes of a box.
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.elem.bytes())
    }

    /// Bytes of a row of a box.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.tile[2]) * self.elem.bytes()
    }
}

/// A buffer seen as a tensor: what a parameter for a tensor map is given.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Index into [`super::Program::buffers`]; its first element is the tensor's.
    pub buffer: usize,
    /// Extents, outermost first.
    pub extents: [Extent; 3],
    /// Elements from one index to the next of the outer two dimensions; the elements of a row are neighbours. Dimensions may overlap.
    pub strides: [Extent; 2],
}

impl View {
    /// What is a formula.
    pub fn formulas(&self) -> impl Iterator<Item = &Extent> {
        self.extents.iter().chain(&self.strides)
    }

    /// The tensor for these sizes; none where a formula has no value.
    pub fn at(&self, dims: Dims) -> Option<Tensor> {
        let [a, b, c] = [0, 1, 2].map(|i: usize| self.extents[i].at(dims));
        let [outer, row] = [0, 1].map(|i: usize| self.strides[i].at(dims));
        Some(Tensor { extents: [a?, b?, c?], strides: [outer?, row?] })
    }
}

/// A view for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Extents, outermost first.
    pub extents: [u64; 3],
    /// Elements from one index to the next of the outer two dimensions.
    pub strides: [u64; 2],
}

impl Tensor {
    /// The greatest extent.
    const MOST: u64 = 1 << 32;
    /// A stride in bytes is a multiple of this, and so is the address.
    pub const ALIGN: u64 = 16;
    /// A stride has fewer bytes.
    const STRIDE: u64 = 1 << 40;

    /// The number of the element at these indices in the buffer, if they are inside.
    pub fn element(&self, at: [i64; 3]) -> Option<u64> {
        let index = |i: usize| u64::try_from(at[i]).ok().filter(|index| *index < self.extents[i]);
        Some(index(0)? * self.strides[0] + index(1)? * self.strides[1] + index(2)?)
    }

    /// Whether there can be such a map of a buffer of so many elements.
    ///
    /// # Errors
    /// What cannot be, in a few words.
    pub fn check(&self, elem: DType, elements: u64) -> Result<(), String> {
        if let Some(extent) = self.extents.iter().find(|extent| !(1..=Tensor::MOST).contains(*extent)) {
            return Err(format!("an extent of a tensor is 1 to 2^32, not {extent}"));
        }
        let bytes = |stride: &u64| stride.checked_mul(elem.bytes());
        let is_stride = |stride: &u64| bytes(stride).is_some_and(|n| n < Tensor::STRIDE && n.is_multiple_of(Tensor::ALIGN));
        if let Some(stride) = self.strides.iter().find(|stride| !is_stride(stride)) {
            return Err(format!("a stride is a multiple of 16 bytes below 2^40, not {stride} of {elem}"));
        }
        // At most 2^73 together.
        let steps = |i: usize| u128::from(self.extents[i] - 1);
        let last = steps(0) * u128::from(self.strides[0]) + steps(1) * u128::from(self.strides[1]) + steps(2);
        if last < u128::from(elements) {
            Ok(())
        } else {
            Err(format!("the last element of the tensor is {last}, and the buffer has {elements}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out from the pattern for rows of 128 bytes: part p of row r lies at p ^ (r % 8); for rows of 64 and 32 bytes the
    /// row of 128 bytes that a part is in counts, and the lower two bits or one of its number.
    #[test]
    fn parts_of_rows_change_places() {
        for byte in 0..2048 {
            let (line, part, rest) = (byte / 128, byte / 16 % 8, byte % 16);
            for (swizzle, bits) in Swizzle::ALL.into_iter().zip([0, 1, 3, 7]) {
                assert_eq!(swizzle.apply(byte), line * 128 + (part ^ (line & bits)) * 16 + rest, "{swizzle:?} {byte}");
            }
        }
        assert_eq!(Swizzle::ALL.map(Swizzle::align), [128, 256, 512, 1024]);
    }

    #[test]
    fn a_tensor_lies_inside_its_buffer() {
        let tensor = Tensor { extents: [2, 3, 5], strides: [32, 8] };
        assert_eq!(tensor.element([1, 2, 4]), Some(52));
        assert_eq!([[2, 0, 0], [0, 3, 0], [0, 0, 5], [-1, 0, 0]].map(|at| tensor.element(at)), [None; 4]);
        assert_eq!(tensor.check(DType::BF16, 53), Ok(()));
        let error = |tensor: Tensor, elem| tensor.check(elem, 52).unwrap_err();
        assert_eq!(error(tensor, DType::BF16), "the last element of the tensor is 52, and the buffer has 52");
        let strides = Tensor { strides: [32, 4], ..tensor };
        assert_eq!(error(strides, DType::BF16), "a stride is a multiple of 16 bytes below 2^40, not 4 of bf16");
        assert_eq!(error(Tensor { extents: [0, 1, 1], ..tensor }, DType::F32), "an extent of a tensor is 1 to 2^32, not 0");
    }
}
