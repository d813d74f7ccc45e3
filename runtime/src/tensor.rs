//! A tensor in host memory, and the conversions between element types. No arithmetic and no views: kernels compute, this
//! carries bytes to and from them.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::error::Error;
use crate::package::DType;

/// A dense row-major tensor, little-endian as in files and on devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<u64>,
    bytes: Bytes,
}

/// The elements of a tensor: its own, or those of a file.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    Own(Vec<u8>),
    Mapped(Mapped),
}

/// A part of a mapped file, which stays mapped while this lives.
#[derive(Clone)]
pub(crate) struct Mapped {
    map: Arc<Mmap>,
    part: Range<usize>,
}

impl Mapped {
    /// This part of the map, if it has it.
    pub(crate) fn of(map: &Arc<Mmap>, part: Range<usize>) -> Option<Mapped> {
        map.get(part.clone()).is_some().then(|| Mapped { map: Arc::clone(map), part })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.part.clone()]
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("part", &self.part).finish_non_exhaustive()
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            Bytes::Mapped(part) => part,
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl Tensor {
    /// A tensor of these bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are not as many bytes as the shape and the dtype say.
    pub fn new(dtype: DType, shape: Vec<u64>, bytes: Vec<u8>) -> Result<Tensor, Error> {
        Tensor::of(dtype, shape, Bytes::Own(bytes))
    }

    /// As [`Tensor::new`], wherever the bytes are.
    pub(crate) fn of(dtype: DType, shape: Vec<u64>, bytes: Bytes) -> Result<Tensor, Error> {
        let needed = elements(&shape).and_then(|n| n.checked_mul(dtype.bytes()));
        if needed != Some(bytes.len() as u64) {
            return Err(Error::Shape {
                name: format!("a tensor of {} bytes", bytes.len()),
                expected: format!("as many {} elements as there are bytes for", dtype.name()),
                actual: format!("{shape:?}"),
            });
        }
        Ok(Tensor { dtype, shape, bytes })
    }

    /// A tensor of these values, rounded to `dtype` (an `i32` tensor truncates).
    ///
    /// # Errors
    /// [`Error::Shape`] where there are not as many values as the shape says.
    pub fn from_f32(dtype: DType, shape: Vec<u64>, values: &[f32]) -> Result<Tensor, Error> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(Tensor::new(DType::F32, shape, bytes)?.to_dtype(dtype))
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The elements' bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The part of a file that it is, if it is one.
    pub(crate) fn mapped(&self) -> Option<&Mapped> {
        match &self.bytes {
            Bytes::Own(_) => None,
            Bytes::Mapped(part) => Some(part),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] where the new shape has another number of elements.
    pub fn reshape(self, shape: Vec<u64>) -> Result<Tensor, Error> {
        Tensor::of(self.dtype, shape, self.bytes)
    }

    /// The tensor in another element type: rounded to nearest even; from float to `i32` truncated and saturated.
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        let bytes = if dtype == self.dtype {
            self.bytes.clone()
        } else if dtype == DType::I32 {
            // `as` saturates, and NaN becomes 0.
            Bytes::Own(self.to_f64().into_iter().flat_map(|value| (value as i32).to_le_bytes()).collect())
        } else {
            Bytes::Own(convert(&self.bytes, Stored::of(self.dtype), dtype).into_owned())
        };
        Tensor { dtype, shape: self.shape.clone(), bytes }
    }

    /// The elements, exactly.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        let halves = self.bytes.as_chunks::<2>().0;
        let words = self.bytes.as_chunks::<4>().0;
        match self.dtype {
            DType::F32 => words.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect(),
            DType::I32 => words.iter().map(|word| f64::from(i32::from_le_bytes(*word))).collect(),
            DType::F16 => halves.iter().map(|half| f64::from(f16::from_le_bytes(*half))).collect(),
            DType::Bf16 => halves.iter().map(|half| f64::from(bf16::from_le_bytes(*half))).collect(),
        }
    }

    /// The elements of an `i32` tensor.
    ///
    /// # Errors
    /// [`Error::DType`] where it is of another type.
    pub fn to_i32(&self) -> Result<Vec<i32>, Error> {
        if self.dtype != DType::I32 {
            return Err(Error::DType { name: "a tensor".into(), expected: DType::I32, actual: self.dtype });
        }
        Ok(self.bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect())
    }
}

/// The number of elements; `None` where it passes 64 bits.
pub(crate) fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent))
}

/// The element types that checkpoints have and a tensor can be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Stored {
    pub(crate) fn of(dtype: DType) -> Stored {
        match dtype {
            DType::F32 => Stored::F32,
            DType::F16 => Stored::F16,
            DType::Bf16 => Stored::Bf16,
            DType::I32 => Stored::I32,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stored::F64 => "f64",
            Stored::F32 => "f32",
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
            Stored::I64 => "i64",
            Stored::I32 => "i32",
            Stored::I16 => "i16",
            Stored::I8 => "i8",
            Stored::U64 => "u64",
            Stored::U32 => "u32",
            Stored::U16 => "u16",
            Stored::U8 => "u8",
            Stored::Bool => "bool",
        }
    }

    pub(crate) fn is_integer(self) -> bool {
        !matches!(self, Stored::F64 | Stored::F32 | Stored::F16 | Stored::Bf16)
    }

    /// The first element that an `i32` cannot hold; a float has none.
    pub(crate) fn first_outside_i32(self, bytes: &[u8]) -> Option<i128> {
        self.integers(bytes)?.find(|value| i32::try_from(*value).is_err())
    }

    /// The elements of an integer type.
    fn integers(self, bytes: &[u8]) -> Option<Box<dyn Iterator<Item = i128> + '_>> {
        type Integers<'b> = Box<dyn Iterator<Item = i128> + 'b>;
        fn each<'b, const N: usize, T: Into<i128> + 'b>(bytes: &'b [u8], load: fn([u8; N]) -> T) -> Integers<'b> {
            Box::new(bytes.as_chunks::<N>().0.iter().map(move |word| load(*word).into()))
        }
        match self {
            Stored::F64 | Stored::F32 | Stored::F16 | Stored::Bf16 => None,
            Stored::I64 => Some(each(bytes, i64::from_le_bytes)),
            Stored::I32 => Some(each(bytes, i32::from_le_bytes)),
            Stored::I16 => Some(each(bytes, i16::from_le_bytes)),
            Stored::I8 => Some(each(bytes, i8::from_le_bytes)),
            Stored::U64 => Some(each(bytes, u64::from_le_bytes)),
            Stored::U32 => Some(each(bytes, u32::from_le_bytes)),
            Stored::U16 => Some(each(bytes, u16::from_le_bytes)),
            Stored::U8 | Stored::Bool => Some(each(bytes, u8::from_le_bytes)),
        }
    }
}

/// `bytes` as elements of `to`; borrowed where nothing changes. Integers saturate.
pub(crate) fn convert(bytes: &[u8], from: Stored, to: DType) -> Cow<'_, [u8]> {
    if Stored::of(to) == from {
        return Cow::Borrowed(bytes);
    }
    match (from, from.integers(bytes)) {
        (_, Some(integers)) => rounded(integers.map(|value| value as f64), to),
        (Stored::F64, None) => convert_from(bytes, to, f64::from_le_bytes),
        (Stored::F16, None) => convert_from(bytes, to, |half| f64::from(f16::from_le_bytes(half))),
        (Stored::Bf16, None) => convert_from(bytes, to, |half| f64::from(bf16::from_le_bytes(half))),
        (_, None) => convert_from(bytes, to, |word| f64::from(f32::from_le_bytes(word))),
    }
    .into()
}

fn convert_from<const N: usize>(bytes: &[u8], to: DType, load: impl Fn([u8; N]) -> f64) -> Vec<u8> {
    rounded(bytes.as_chunks::<N>().0.iter().map(|chunk| load(*chunk)), to)
}

fn rounded(values: impl Iterator<Item = f64>, to: DType) -> Vec<u8> {
    match to {
        DType::F32 => values.flat_map(|value| (value as f32).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|value| f16::from_f32(round_to_odd(value)).to_le_bytes()).collect(),
        DType::Bf16 => values.flat_map(|value| bf16::from_f32(round_to_odd(value)).to_le_bytes()).collect(),
        DType::I32 => values.flat_map(|value| (value as i32).to_le_bytes()).collect(),
    }
}

/// `value` cut to f32 with its last bit set where anything was lost, so that a second rounding to 16 bits is right.
// Not `bf16::from_f64`: half 2.7 drops the low 32 bits of the mantissa first, and so takes near-ties for ties.
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || value.is_nan() {
        return near;
    }
    let towards_zero = if f64::from(near).abs() > value.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(towards_zero | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_rounded_once() {
        // Halfway between two bf16, and a little more: the little more must be seen, wherever in 52 bits it is.
        let tie = 1.0 + 2f64.powi(-8);
        for (value, expected) in [
            (tie, 1.0),
            (tie + 2f64.powi(-52), 1.0 + 2f64.powi(-7)),
            (tie + 2f64.powi(-22), 1.0 + 2f64.powi(-7)),
            (-tie - 2f64.powi(-52), -1.0 - 2f64.powi(-7)),
            (tie - 2f64.powi(-52), 1.0),
            (1e300, f64::INFINITY),
            (f64::NEG_INFINITY, f64::NEG_INFINITY),
            (0.0, 0.0),
        ] {
            let bytes = convert(&value.to_le_bytes(), Stored::F64, DType::Bf16).into_owned();
            assert_eq!(Tensor::new(DType::Bf16, vec![1], bytes).unwrap().to_f64(), [expected], "{value:e}");
        }
        let nan = Tensor::from_f32(DType::F16, vec![1], &[f32::NAN]).unwrap();
        assert!(nan.to_f64()[0].is_nan());
    }

    #[test]
    fn every_f16_and_bf16_survives_f32() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [DType::F16, DType::Bf16] {
            let all = Tensor::new(dtype, vec![1 << 16], bytes.clone()).unwrap();
            let back = all.to_dtype(DType::F32).to_dtype(dtype);
            for (a, b) in all.to_f64().iter().zip(back.to_f64()) {
                assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{a} {b}");
            }
        }
    }

    #[test]
    fn shapes_are_held_against_bytes() {
        assert!(Tensor::new(DType::F16, vec![2, 2], vec![0; 8]).is_ok());
        assert!(Tensor::new(DType::F16, vec![2, 2], vec![0; 9]).is_err());
        assert!(Tensor::new(DType::F16, vec![u64::MAX, u64::MAX], vec![0; 8]).is_err());
        assert!(Tensor::from_f32(DType::F32, vec![3], &[1.0]).is_err());
        assert!(Tensor::from_f32(DType::F32, vec![4], &[1.0; 4]).unwrap().reshape(vec![2, 2]).is_ok());
    }

    #[test]
    fn integers_convert_by_truncation() {
        let floats = Tensor::from_f32(DType::F32, vec![4], &[1.9, -1.9, 1e20, f32::NAN]).unwrap();
        assert_eq!(floats.to_dtype(DType::I32).to_i32().unwrap(), [1, -1, i32::MAX, 0]);
        assert!(floats.to_i32().is_err());
        let wide = convert(&(1i64 << 40).to_le_bytes(), Stored::I64, DType::I32).into_owned();
        assert_eq!(wide, i32::MAX.to_le_bytes());
        for (from, bytes, expected) in [
            (Stored::I8, &[0xff, 7][..], [-1, 7]),
            (Stored::U8, &[0xff, 7], [255, 7]),
            (Stored::Bool, &[1, 0], [1, 0]),
            (Stored::I16, &[0, 0x80, 1, 0], [-32768, 1]),
            (Stored::U16, &[0, 0x80, 1, 0], [32768, 1]),
            (Stored::U32, &[0xff, 0xff, 0xff, 0x7f, 2, 0, 0, 0], [i32::MAX, 2]),
        ] {
            let converted = Tensor::new(DType::I32, vec![2], convert(bytes, from, DType::I32).into_owned()).unwrap();
            assert_eq!((converted.to_i32().unwrap(), from.first_outside_i32(bytes)), (expected.to_vec(), None), "{from:?}");
        }
        assert_eq!(Stored::U64.first_outside_i32(&u64::MAX.to_le_bytes()), Some(i128::from(u64::MAX)));
        assert_eq!(Stored::U32.first_outside_i32(&[0, 0, 0, 0x80]), Some(1 << 31));
    }
}
