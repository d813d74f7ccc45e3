//! Numbers made by counting: element i of a tensor is a function of the tensor's name and of i, so that gigabytes of weights need
//! no file, and any of them can be made again alone.

use std::thread;

use moec_runtime::package::DType;
use moec_runtime::{Error, Tensor};

/// How many values there are: evenly spaced ones, from -1 to 1 times the scale, rounded to the type.
const VALUES: usize = 1 << 16;
/// Elements made from one hash.
const LANES: u64 = 4;

/// The elements of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    seed: u64,
    dtype: DType,
    /// The bytes of each value, in the type.
    bytes: Vec<u8>,
    /// The same values, exactly.
    values: Vec<f64>,
}

impl Numbers {
    /// Elements with a variance of `variance`, up to rounding, for a tensor of that name. `set` tells apart tensors of one name.
    ///
    /// # Errors
    /// [`Error::DType`] where the type is of integers.
    pub(crate) fn new(name: &str, set: u64, dtype: DType, variance: f64) -> Result<Numbers, Error> {
        if dtype == DType::I32 {
            return Err(Error::DType { name: name.to_string(), expected: DType::F32, actual: dtype });
        }
        let most = (3.0 * variance).sqrt();
        let step = |i: usize| (most * (2.0 * (i as f64 + 0.5) / VALUES as f64 - 1.0)) as f32;
        let values: Vec<f32> = (0..VALUES).map(step).collect();
        let tensor = Tensor::from_f32(dtype, vec![VALUES as u64], &values)?;
        // FNV-1a, then mixed: names that differ little have seeds that differ much.
        let of_name =
            name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let seed = mix(of_name ^ set.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Ok(Numbers { seed, dtype, bytes: tensor.bytes().to_vec(), values: tensor.to_f64() })
    }

    fn hash(&self, group: u64) -> u64 {
        mix(self.seed.wrapping_add(group.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Which value element `i` has.
    fn index(hash: u64, i: u64) -> usize {
        (hash >> (16 * (i % LANES)) & 0xffff) as usize
    }

    /// Elements from `first` on, as bytes of the type.
    pub(crate) fn fill(&self, first: u64, into: &mut [u8]) {
        match self.dtype {
            DType::F32 | DType::I32 => self.fill_words::<4>(first, into),
            DType::F16 | DType::Bf16 => self.fill_words::<2>(first, into),
        }
    }

    fn fill_words<const N: usize>(&self, first: u64, into: &mut [u8]) {
        let (table, _) = self.bytes.as_chunks::<N>();
        let (words, _) = into.as_chunks_mut::<N>();
        let mut hash = self.hash(first / LANES);
        for (i, word) in (first..).zip(words) {
            if i % LANES == 0 {
                hash = self.hash(i / LANES);
            }
            *word = table[Numbers::index(hash, i)];
        }
    }

    /// As [`Numbers::fill`], by all threads of the machine.
    pub(crate) fn fill_by_all(&self, first: u64, into: &mut [u8]) {
        let width = self.dtype.bytes();
        let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
        let elements = (into.len() as u64 / width).div_ceil(threads).max(1);
        thread::scope(|scope| {
            for (part, chunk) in (0..).zip(into.chunks_mut((elements * width) as usize)) {
                scope.spawn(move || self.fill(first + part * elements, chunk));
            }
        });
    }

    /// Elements from `first` on, exactly, in the place of what `into` has.
    pub(crate) fn values(&self, first: u64, into: &mut [f64]) {
        let mut hash = self.hash(first / LANES);
        for (i, value) in (first..).zip(into) {
            if i % LANES == 0 {
                hash = self.hash(i / LANES);
            }
            *value = self.values[Numbers::index(hash, i)];
        }
    }
}

/// The last steps of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_made_alone() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let numbers = Numbers::new("gate", 0, dtype, 0.25).unwrap();
            let width = dtype.bytes() as usize;
            let mut all = vec![0; 1000 * width];
            numbers.fill(0, &mut all);
            let mut by_all = vec![0; 1000 * width];
            numbers.fill_by_all(0, &mut by_all);
            assert_eq!(all, by_all);
            let mut part = vec![0; 13 * width];
            numbers.fill(507, &mut part);
            assert_eq!(part, all[507 * width..520 * width]);
            let mut values = vec![0.0; 13];
            numbers.values(507, &mut values);
            assert_eq!(values, Tensor::new(dtype, vec![13], part).unwrap().to_f64());
        }
        assert!(Numbers::new("ids", 0, DType::I32, 1.0).is_err());
    }

    #[test]
    fn they_look_drawn_by_chance() {
        let of = |name, set| {
            let mut values = vec![0.0; 40_000];
            Numbers::new(name, set, DType::Bf16, 4.0).unwrap().values(0, &mut values);
            values
        };
        let (a, b, c) = (of("x", 0), of("x", 1), of("y", 0));
        let mean = |of: &dyn Fn(usize) -> f64| (0..a.len()).map(of).sum::<f64>() / a.len() as f64;
        assert!(mean(&|i| a[i]).abs() < 0.05 && (mean(&|i| a[i] * a[i]) - 4.0).abs() < 0.1);
        // Neither neighbours, nor rows, nor tensors go together.
        for other in
            [&|i: usize| a[(i + 1) % a.len()], &|i| a[(i + 2048) % a.len()], &|i| b[i], &|i| c[i]] as [&dyn Fn(usize) -> f64; 4]
        {
            assert!(mean(&|i| a[i] * other(i)).abs() < 0.1);
        }
    }
}
