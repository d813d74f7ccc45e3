//! Tensor maps: what `cuTensorMapEncodeTiled` would make, in a form of this crate's own.

use std::fmt;

/// Marks the first bytes of an encoded map: the driver's own format is not public and not understood here.
const MAGIC: &[u8; 8] = b"PTXEMTM1";

/// How rows of a box are permuted in shared memory, in 16-byte units (CUDA driver API, `CUtensorMapSwizzle`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes of a row, or none.
    pub fn span(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }

    /// Where the byte at this shared-memory offset goes: bits 7 and up are XORed into bits 4 and up.
    pub fn apply(self, offset: u64) -> u64 {
        match self.span() {
            None => offset,
            Some(span) => offset ^ (offset >> 3 & (u64::from(span) - 16) & 0x70),
        }
    }
}

/// A tensor in global memory and the box that one copy moves. Dimension 0 is the contiguous one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_bytes: u8,
    /// The address of element 0; a multiple of 16.
    pub address: u64,
    /// Extents, 1 to 5 of them.
    pub extents: Vec<u64>,
    /// Bytes from one index to the next, for all dimensions but the first; multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of the box in each dimension, 1 to 256.
    pub box_extents: Vec<u32>,
    /// Permutation of the box in shared memory.
    pub swizzle: Swizzle,
}

/// Why a tensor map is refused, as the driver would refuse it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapError(String);

impl fmt::Display for TensorMapError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "tensor map: {}", self.0)
    }
}

impl std::error::Error for TensorMapError {}

impl TensorMap {
    /// The 128 bytes that a kernel takes as its parameter.
    ///
    /// # Errors
    /// The first rule of the driver that the map breaks: ranks, extents, strides, alignment, the swizzle of its box.
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check()?;
        let mut out = [0; 128];
        out[..8].copy_from_slice(MAGIC);
        out[8] = self.element_bytes;
        out[9] = self.extents.len() as u8;
        out[10] = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes128 => 3,
        };
        out[16..24].copy_from_slice(&self.address.to_le_bytes());
        for (axis, extent) in self.extents.iter().enumerate() {
            out[24 + 8 * axis..32 + 8 * axis].copy_from_slice(&extent.to_le_bytes());
        }
        for (axis, stride) in self.strides.iter().enumerate() {
            out[64 + 8 * axis..72 + 8 * axis].copy_from_slice(&stride.to_le_bytes());
        }
        for (axis, extent) in self.box_extents.iter().enumerate() {
            out[96 + 4 * axis..100 + 4 * axis].copy_from_slice(&extent.to_le_bytes());
        }
        Ok(out)
    }

    /// Reads an encoded map back.
    pub(crate) fn decode(bytes: &[u8; 128]) -> Result<TensorMap, TensorMapError> {
        let bad = || TensorMapError("these 128 bytes are not a tensor map of this emulator".to_owned());
        if &bytes[..8] != MAGIC {
            return Err(bad());
        }
        let rank = usize::from(bytes[9]);
        if !(1..=5).contains(&rank) {
            return Err(bad());
        }
        let word = |at: usize| {
            let mut out = [0; 8];
            out.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(out)
        };
        let map = TensorMap {
            element_bytes: bytes[8],
            address: word(16),
            extents: (0..rank).map(|axis| word(24 + 8 * axis)).collect(),
            strides: (1..rank).map(|axis| word(56 + 8 * axis)).collect(),
            box_extents: (0..rank)
                .map(|axis| {
                    let mut out = [0; 4];
                    out.copy_from_slice(&bytes[96 + 4 * axis..100 + 4 * axis]);
                    u32::from_le_bytes(out)
                })
                .collect(),
            swizzle: match bytes[10] {
                0 => Swizzle::None,
                1 => Swizzle::Bytes32,
                2 => Swizzle::Bytes64,
                3 => Swizzle::Bytes128,
                _ => return Err(bad()),
            },
        };
        map.check().map(|()| map)
    }

    /// CUDA driver API, `cuTensorMapEncodeTiled`.
    fn check(&self) -> Result<(), TensorMapError> {
        let rank = self.extents.len();
        let fail = |message: String| Err(TensorMapError(message));
        if !(1..=5).contains(&rank) || self.strides.len() + 1 != rank || self.box_extents.len() != rank {
            return fail(format!("{rank} extents, {} strides, {} box extents", self.strides.len(), self.box_extents.len()));
        }
        if !matches!(self.element_bytes, 1 | 2 | 4 | 8) {
            return fail(format!("elements of {} bytes", self.element_bytes));
        }
        if !self.address.is_multiple_of(16) {
            return fail(format!("address {:#x} is not a multiple of 16", self.address));
        }
        if let Some(extent) = self.extents.iter().find(|extent| **extent == 0 || **extent > 1 << 32) {
            return fail(format!("an extent of {extent}"));
        }
        if let Some(stride) = self.strides.iter().find(|stride| !stride.is_multiple_of(16) || **stride >= 1 << 40) {
            return fail(format!("a stride of {stride} bytes"));
        }
        if let Some(extent) = self.box_extents.iter().find(|extent| !(1..=256).contains(*extent)) {
            return fail(format!("a box extent of {extent}"));
        }
        let inner = self.box_extents[0] * u32::from(self.element_bytes);
        if !inner.is_multiple_of(16) {
            return fail(format!("the inner box extent is {inner} bytes, not a multiple of 16"));
        }
        match self.swizzle.span() {
            Some(span) if inner > span => fail(format!("the inner box extent is {inner} bytes, the swizzle's {span}")),
            _ => Ok(()),
        }
    }

    /// Bytes that one copy moves, elements outside the tensor included.
    pub fn box_bytes(&self) -> u64 {
        let elements: u64 = self.box_extents.iter().map(|&extent| u64::from(extent)).product();
        elements * u64::from(self.element_bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn maps_round_trip() {
        let map = TensorMap {
            element_bytes: 2,
            address: 0x1000,
            extents: vec![64, 100, 3],
            strides: vec![128, 12800],
            box_extents: vec![64, 8, 1],
            swizzle: Swizzle::Bytes128,
        };
        let bytes = map.encode().unwrap();
        assert_eq!(TensorMap::decode(&bytes), Ok(map));
        assert!(TensorMap::decode(&[0; 128]).is_err());
    }

    /// The 128-byte pattern as CUTLASS writes it: Swizzle<3, 4, 3>.
    #[test]
    fn swizzles_are_xor_patterns() {
        for offset in 0..4096_u64 {
            let (b32, b64) = (offset ^ ((offset >> 7 & 1) << 4), offset ^ ((offset >> 7 & 3) << 4));
            assert_eq!(Swizzle::Bytes128.apply(offset), offset ^ ((offset >> 7 & 7) << 4));
            assert_eq!(Swizzle::Bytes64.apply(offset), b64);
            assert_eq!(Swizzle::Bytes32.apply(offset), b32);
        }
    }
}
