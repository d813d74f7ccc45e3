//! Rows of a trace in memory, and which of them are tokens.

use std::io::{self, Read};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::Dtype;

/// Lanes that rows are padded to, so that no loop over experts has a rest.
pub(super) const LANES: usize = 16;

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F64,
    F32,
    F16,
    Bf16,
}

impl Float {
    pub(super) fn of(dtype: Dtype) -> Option<Float> {
        match dtype {
            Dtype::F64 => Some(Float::F64),
            Dtype::F32 => Some(Float::F32),
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::Bf16),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Float::F64 => 8,
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }
}

/// What a row is, by what is recorded of it and by the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKind {
    /// Finite, and not all zero.
    Token,
    /// The mask says so.
    Padding,
    /// It has a NaN.
    Nan,
    /// It has an infinity and no NaN.
    Infinite,
    /// Every element is zero: what padding gives in a router without bias.
    Zero,
}

impl RowKind {
    /// Of a row in f32.
    fn of(row: &[f32]) -> RowKind {
        const LARGEST: u32 = f32::MAX.to_bits();
        const INFINITE: u32 = f32::INFINITY.to_bits();
        // Without its sign a float is as large as its bits are, and a NaN larger than all.
        let magnitude = |x: f32| x.to_bits() & 0x7fff_ffff;
        let mut largest = [0u32; LANES];
        let (whole, rest) = row.as_chunks::<LANES>();
        for x in whole {
            for lane in 0..LANES {
                largest[lane] = largest[lane].max(magnitude(x[lane]));
            }
        }
        let largest = largest.into_iter().chain(rest.iter().map(|x| magnitude(*x))).fold(0, u32::max);
        match largest {
            0 => RowKind::Zero,
            1..=LARGEST => RowKind::Token,
            INFINITE => RowKind::Infinite,
            _ => RowKind::Nan,
        }
    }

    /// Of a row that f32 may not hold.
    fn of_wide(row: impl Iterator<Item = f64>) -> RowKind {
        row.fold(RowKind::Zero, |kind, x| match (kind, x) {
            (RowKind::Nan, _) => RowKind::Nan,
            (_, x) if x.is_nan() => RowKind::Nan,
            (RowKind::Infinite, _) => RowKind::Infinite,
            (_, x) if x.is_infinite() => RowKind::Infinite,
            (kind, 0.0) => kind,
            (_, _) => RowKind::Token,
        })
    }
}

/// Rows in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// How many.
    pub(super) count: usize,
    /// Elements of a row.
    pub(super) width: usize,
    /// Row after row in f32, each padded with minus infinity to [`Rows::stride`].
    pub(super) values: Vec<f32>,
    /// Row after row as they were stored, unpadded, where f32 does not hold every one of them.
    pub(super) wide: Vec<f64>,
    /// What each row is.
    pub(super) kinds: Vec<RowKind>,
}

impl Rows {
    /// Where the next row begins in `values`.
    pub(super) fn stride(&self) -> usize {
        stride(self.width)
    }

    /// One row, padded.
    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.stride()..][..self.stride()]
    }

    /// One row as it was stored.
    pub(super) fn exact(&self, index: usize) -> Vec<f64> {
        match self.wide.is_empty() {
            true => self.row(index)[..self.width].iter().map(|x| f64::from(*x)).collect(),
            false => self.wide[index * self.width..][..self.width].to_vec(),
        }
    }

    /// Rows of these values, all of them tokens.
    #[cfg(test)]
    pub(super) fn of(width: usize, values: &[f64]) -> Rows {
        let mut rows = Rows { count: values.len() / width.max(1), width, ..Rows::default() };
        rows.values = vec![f32::NEG_INFINITY; rows.count * rows.stride()];
        for (padded, row) in rows.values.chunks_exact_mut(stride(width)).zip(values.chunks_exact(width)) {
            padded.iter_mut().zip(row).for_each(|(y, x)| *y = *x as f32);
        }
        rows.keep_wide(values.iter().copied());
        rows.kinds = vec![RowKind::Token; rows.count];
        rows
    }

    fn keep_wide(&mut self, values: impl Iterator<Item = f64> + Clone) {
        self.wide.clear();
        let is_exact = |x: f64| f64::from(x as f32) == x || x.is_nan();
        if !values.clone().all(is_exact) {
            self.wide.extend(values);
        }
    }

    /// Finds out again what rows are that were tokens before: a product of finite numbers may be none.
    pub(super) fn classify(&mut self, before: &[RowKind]) {
        let (width, stride) = (self.width, self.stride());
        let rows = self.values.chunks_exact(stride).zip(before);
        self.kinds.clear();
        self.kinds.extend(rows.map(|(row, before)| match before {
            RowKind::Token => RowKind::of(&row[..width]),
            other => *other,
        }));
    }

    /// Reads and decodes `count` rows; `bytes` is scratch.
    pub(super) fn read(&mut self, reader: &mut dyn Read, count: usize, float: Float, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(count * self.width * float.bytes(), 0);
        reader.read_exact(bytes)?;
        self.decode(bytes, float);
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8], float: Float) {
        let (width, stride) = (self.width, self.stride());
        self.count = bytes.len() / (width * float.bytes());
        self.values.resize(self.count * stride, f32::NEG_INFINITY);
        self.wide.clear();
        self.kinds.clear();
        let rows = self.values.chunks_exact_mut(stride).zip(bytes.chunks_exact(width * float.bytes()));
        // While a row is in the cache of its core.
        let kinds = &mut self.kinds;
        match float {
            Float::F32 => rows.for_each(|(y, x)| {
                y.iter_mut().zip(x.as_chunks::<4>().0).for_each(|(y, x)| *y = f32::from_le_bytes(*x));
                kinds.push(RowKind::of(&y[..width]));
            }),
            Float::Bf16 => rows.for_each(|(y, x)| {
                let wide = |x: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16);
                y.iter_mut().zip(x.as_chunks::<2>().0).for_each(|(y, x)| *y = wide(*x));
                kinds.push(RowKind::of(&y[..width]));
            }),
            Float::F16 => {
                let mut halves = vec![f16::ZERO; width];
                rows.for_each(|(y, x)| {
                    halves.iter_mut().zip(x.as_chunks::<2>().0).for_each(|(y, x)| *y = f16::from_le_bytes(*x));
                    halves.convert_to_f32_slice(&mut y[..width]);
                    kinds.push(RowKind::of(&y[..width]));
                });
            }
            Float::F64 => {
                rows.for_each(|(y, x)| {
                    let exact = x.as_chunks::<8>().0.iter().map(|x| f64::from_le_bytes(*x));
                    y.iter_mut().zip(exact.clone()).for_each(|(y, x)| *y = x as f32);
                    kinds.push(RowKind::of_wide(exact));
                });
                self.keep_wide(bytes.as_chunks::<8>().0.iter().map(|x| f64::from_le_bytes(*x)));
            }
        }
    }
}

/// The padded width.
pub(super) fn stride(width: usize) -> usize {
    width.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_is_read_exactly() {
        let mut rows = Rows { width: 3, ..Rows::default() };
        let values = [1.5f32, -2.0, f32::INFINITY];
        let check = |rows: &Rows| {
            assert_eq!((rows.count, &rows.row(0)[..3]), (1, &values[..]));
            assert_eq!(rows.kinds, [RowKind::Infinite]);
            assert!(rows.row(0)[3..].iter().all(|x| *x == f32::NEG_INFINITY) && rows.wide.is_empty());
        };
        rows.decode(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), Float::F32);
        check(&rows);
        rows.decode(&values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>(), Float::F16);
        check(&rows);
        rows.decode(&values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>(), Float::Bf16);
        check(&rows);
        rows.decode(&values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect::<Vec<u8>>(), Float::F64);
        check(&rows);
        let wide = [1.0f64 + 1e-12, 1.0, -1e300];
        rows.decode(&wide.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), Float::F64);
        assert_eq!((rows.exact(0), rows.row(0)[0]), (wide.to_vec(), 1.0));
        assert_eq!(rows.kinds, [RowKind::Token], "finite in f64");
    }

    #[test]
    fn kinds_of_rows() {
        let nan = f32::NAN;
        let infinite = f32::INFINITY;
        for width in [1, 3, 16, 17, 40] {
            let row = |place: usize, x: f32| {
                let mut row = vec![0.0f32; width];
                row[place] = x;
                row
            };
            for place in [0, width / 2, width - 1] {
                for (x, expected) in [
                    (0.0, RowKind::Zero),
                    (-0.0, RowKind::Zero),
                    (1e-45, RowKind::Token),
                    (f32::MIN, RowKind::Token),
                    (infinite, RowKind::Infinite),
                    (-infinite, RowKind::Infinite),
                    (nan, RowKind::Nan),
                    (-nan, RowKind::Nan),
                ] {
                    let row = row(place, x);
                    assert_eq!(RowKind::of(&row), expected, "{x} at {place} of {width}");
                    assert_eq!(RowKind::of_wide(row.iter().map(|x| f64::from(*x))), expected, "{x} at {place} of {width}");
                }
            }
        }
        assert_eq!(RowKind::of(&[infinite, nan, 1.0]), RowKind::Nan);
        assert_eq!(RowKind::of_wide([f64::INFINITY, f64::NAN].into_iter()), RowKind::Nan);
        assert_eq!(RowKind::of_wide([1e300, 0.0].into_iter()), RowKind::Token);
    }
}
