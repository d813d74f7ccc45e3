//! Tensor maps as the driver encodes them. The call is looked up by its name: that it is there is a matter of the driver, not of the
//! CUDA version that cudarc was built for.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::device::Map;
use crate::error::Error;
use crate::package::{DType, Swizzle, TensorMap};

/// `CUtensorMap`: what a kernel is given by value.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub(super) struct Encoded([u64; 16]);

const CALL: &str = "cuTensorMapEncodeTiled";

/// The map, type, rank, address, extents, strides, box, element strides, interleave, swizzle, promotion, fill: CUDA driver API.
type Encode = unsafe extern "C" fn(
    *mut Encoded,
    u32,
    u32,
    *mut c_void,
    *const u64,
    *const u64,
    *const u32,
    *const u32,
    u32,
    u32,
    u32,
    u32,
) -> u32;

/// The driver's call.
#[derive(Debug)]
pub(super) struct Encoder {
    encode: Encode,
    // The call is code of it.
    _driver: Arc<libloading::Library>,
}

impl Encoder {
    pub(super) fn of(driver: Arc<libloading::Library>) -> Result<Encoder, Error> {
        // SAFETY: this is the call's type in all versions of the driver that have it.
        let encode = unsafe { driver.get::<Encode>(CALL) }.map(|encode| *encode);
        let encode = encode.map_err(|_| Error::NoDriver { why: format!("it has no {CALL}: it is older than CUDA 12.0") })?;
        Ok(Encoder { encode, _driver: driver })
    }

    /// The map of a tensor at this address.
    pub(super) fn encode<'m>(
        &self,
        map: &Map,
        address: u64,
        into: &'m mut MaybeUninit<Encoded>,
    ) -> Result<&'m mut Encoded, Error> {
        let Map { of: TensorMap { dtype, tile, swizzle }, extents, strides } = *map;
        let (mut extents, mut tile) = (extents, tile);
        extents.reverse();
        tile.reverse();
        let strides = [strides[1], strides[0]];
        let dtype = match dtype {
            DType::I32 => 3,
            DType::F16 => 6,
            DType::F32 => 7,
            DType::Bf16 => 9,
        };
        let swizzle = match swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes128 => 3,
        };
        // Lines of 256 bytes go to the second-level cache: rows are read whole.
        let (interleave, promotion, zeros) = (0, 3, 0);
        let tensor = std::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: three extents, two strides and a box of three are passed for rank 3; the driver looks at the address but does
        // not read there.
        let code = unsafe {
            let (to, ones) = (into.as_mut_ptr(), [1_u32; 3]);
            let (extents, strides, tile) = (extents.as_ptr(), strides.as_ptr(), tile.as_ptr());
            (self.encode)(to, dtype, 3, tensor, extents, strides, tile, ones.as_ptr(), interleave, swizzle, promotion, zeros)
        };
        match code {
            // SAFETY: the driver has written it.
            0 => Ok(unsafe { into.assume_init_mut() }),
            code => Err(Error::Device { call: CALL, why: format!("error {code}"), sticky: super::is_sticky(code) }),
        }
    }
}
