//! Seeded random tensors for runs without a checkpoint: the same seed gives the same bits on every machine and on any
//! number of threads. Nothing here is fit for cryptography, nor for statistics beyond "about normal".

use std::sync::Arc;

use half::{bf16, f16};
use moec_runtime::emulator::Procedure;
use moec_runtime::package::{Buffer, DType, Dims, Manifest, Role};
use moec_runtime::{Error, Tensor};
use rayon::prelude::*;

/// Elements that one stream of numbers fills. Part of the meaning of a seed.
const CHUNK: usize = 1 << 16;
/// Standard deviation of biases: small beside the products that they are added to.
const BIAS_SCALE: f32 = 0.1;

/// A weight for every weight buffer of the manifest, in its order, scaled by one over the root of its fan-in so that
/// activations neither vanish nor explode.
///
/// # Errors
/// [`Error::Extent`] where a shape has no value.
pub fn weights(manifest: &Manifest, seed: u64) -> Result<Vec<Tensor>, Error> {
    let weights = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    weights
        .map(|buffer| {
            let shape = buffer.shape.iter().map(|extent| extent.count(Dims::tokens(0))).collect::<Result<Vec<_>, _>>()?;
            random(manifest, buffer, shape, seed)
        })
        .collect()
}

/// A tensor for every input buffer of the manifest, in its order: tokens as [`tokens`] makes them, ids of the vocabulary, of
/// which about one in eight is outside it where the layer gives such a token no picks, seeds, a mask by which about one token
/// in eight is padding, and picks of which about one in eight is none; the first is never either. Of a map of experts the first
/// are here.
///
/// # Errors
/// [`Error::Extent`] where a shape has no value.
pub fn inputs(manifest: &Manifest, dims: Dims, seed: u64) -> Result<Vec<Tensor>, Error> {
    let inputs = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input);
    inputs
        .map(|buffer| {
            let shape = buffer.shape.iter().map(|extent| extent.count(dims)).collect::<Result<Vec<_>, _>>()?;
            random(manifest, buffer, shape, seed)
        })
        .collect()
}

fn random(manifest: &Manifest, buffer: &Buffer, shape: Vec<u64>, seed: u64) -> Result<Tensor, Error> {
    let stream = stream(seed, &buffer.name);
    if is_share(buffer) {
        let mut data = zeros(DType::F32, &shape)?;
        let words = data.as_chunks_mut::<4>().0.iter_mut().zip(0..);
        words.for_each(|(out, index)| *out = share(stream, index).to_le_bytes());
        return Tensor::new(DType::F32, shape, data);
    }
    if buffer.dtype != DType::I32 {
        return normal(buffer.dtype, shape, scale(buffer), stream);
    }
    let (integers, mut data) = (Integers::of(manifest, buffer), zeros(DType::I32, &shape)?);
    let words = data.as_chunks_mut::<4>().0.iter_mut().zip(0..);
    words.for_each(|(out, index)| *out = integers.at(stream, index).to_le_bytes());
    Tensor::new(DType::I32, shape, data)
}

/// Whether its numbers are weights of picks, which are parts of one.
fn is_share(buffer: &Buffer) -> bool {
    buffer.role == Role::Input && buffer.name == "topk_weights"
}

/// From 0 to below 1.
fn share(stream: u64, index: u64) -> f32 {
    (mix(stream ^ mix(index)) >> 40) as f32 / (1 << 24) as f32
}

/// What the integers of a buffer say.
#[derive(Clone, Copy)]
enum Integers {
    /// One of so many: token ids, experts in a weight; a seed may be any.
    Below(u64),
    /// Token ids of a vocabulary of so many, and ids outside it.
    Ids(u64),
    /// Whether tokens are no padding.
    Mask,
    /// The picks of each token, so many of experts of which none comes twice, and here and there none.
    Picks { experts: u64, top_k: u64 },
    /// Which of the experts are here: the first, as a checkpoint's are read.
    Here { experts: u64 },
}

/// Of so many tokens one is padding, of so many picks one is none, and of so many ids one is outside the vocabulary where such ids are let through.
const ODD: u64 = 8;

impl Integers {
    fn of(manifest: &Manifest, buffer: &Buffer) -> Integers {
        let count = |name: &str| manifest.dims.iter().find(|dim| dim.name == name).map_or(1, |dim| dim.value.max(1));
        match (buffer.role, buffer.name.as_str()) {
            (Role::Weight, _) => Integers::Below(count("experts")),
            (Role::Input, "token_mask") => Integers::Mask,
            (Role::Input, "topk_ids") => {
                let top_k = buffer.shape.last().and_then(|extent| extent.as_const()).map_or(1, i64::unsigned_abs);
                Integers::Picks { experts: count("experts"), top_k: top_k.max(1) }
            }
            (Role::Input, "expert_map") => Integers::Here { experts: count("local_experts") },
            (Role::Input, "token_ids") if buffer.below.is_none() => Integers::Ids(count("vocabulary")),
            (Role::Input, "token_ids") => Integers::Below(count("vocabulary")),
            (Role::Input | Role::Output | Role::Prepared | Role::Workspace, _) => Integers::Below(1 << 31),
        }
    }

    fn at(self, stream: u64, index: u64) -> i32 {
        let drawn = mix(stream ^ mix(index));
        let is_odd = index > 0 && drawn.is_multiple_of(ODD);
        match self {
            Integers::Below(below) => (drawn % below) as i32,
            Integers::Mask => i32::from(!is_odd),
            Integers::Picks { .. } if is_odd => -1,
            Integers::Picks { experts, top_k } => ((mix(stream ^ mix(index / top_k)) % experts + index % top_k) % experts) as i32,
            Integers::Here { experts } => {
                if index < experts {
                    index as i32
                } else {
                    -1
                }
            }
            Integers::Ids(vocabulary) if is_odd => {
                let any = (drawn >> 32) as i32;
                if u64::try_from(any).is_ok_and(|id| id < vocabulary) { !any } else { any }
            }
            Integers::Ids(vocabulary) => (mix(drawn) % vocabulary) as i32,
        }
    }
}

/// Tokens `[T, H]` with elements of about N(0, 1).
///
/// # Errors
/// [`Error::Shape`] where there is no such tensor.
pub fn tokens(dtype: DType, tokens: u64, hidden: u64, seed: u64) -> Result<Tensor, Error> {
    normal(dtype, vec![tokens, hidden], 1.0, stream(seed, "x"))
}

/// The standard deviation that a buffer's elements get.
fn scale(buffer: &Buffer) -> f32 {
    match buffer.role {
        Role::Weight if buffer.name.ends_with("bias") => BIAS_SCALE,
        Role::Weight => {
            let fan_in = buffer.shape.last().and_then(|extent| extent.as_const()).unwrap_or(1).max(1);
            1.0 / (fan_in as f32).sqrt()
        }
        Role::Input | Role::Output | Role::Prepared | Role::Workspace => 1.0,
    }
}

/// A buffer's elements as [`weights`] and [`inputs`] scale them, each from its index alone: for buffers too large to exist.
#[must_use]
pub fn content(manifest: &Manifest, buffer: &Buffer, seed: u64) -> Procedure {
    let (dtype, scale, stream) = (buffer.dtype, scale(buffer), stream(seed, &buffer.name));
    let (integers, is_share) = (Integers::of(manifest, buffer), is_share(buffer));
    Arc::new(move |offset, bytes| {
        let first = offset / dtype.bytes();
        let at = |index: usize| match is_share {
            true => share(stream, first + index as u64),
            false => about_normal(&mut (stream ^ mix(first + index as u64))) * scale,
        };
        match dtype {
            DType::F32 => bytes.as_chunks_mut::<4>().0.iter_mut().enumerate().for_each(|(i, out)| *out = at(i).to_le_bytes()),
            DType::F16 => {
                let halves = bytes.as_chunks_mut::<2>().0.iter_mut().enumerate();
                halves.for_each(|(i, out)| *out = f16::from_f32(at(i)).to_le_bytes());
            }
            DType::Bf16 => {
                let halves = bytes.as_chunks_mut::<2>().0.iter_mut().enumerate();
                halves.for_each(|(i, out)| *out = bf16::from_f32(at(i)).to_le_bytes());
            }
            DType::I32 => {
                let words = bytes.as_chunks_mut::<4>().0.iter_mut().enumerate();
                words.for_each(|(i, out)| *out = integers.at(stream, first + i as u64).to_le_bytes());
            }
        }
    })
}

/// The experts of each token as i32 `[T, K]`: `top_k` neighbours from a random one on, so that none comes twice.
#[must_use]
pub fn picks(experts: u64, top_k: u64, seed: u64) -> Procedure {
    let (experts, top_k, stream) = (experts.max(1), top_k.max(1), stream(seed, "picks"));
    Arc::new(move |offset, bytes| {
        for (i, out) in (offset / 4..).zip(bytes.as_chunks_mut::<4>().0) {
            let expert = (mix(stream ^ mix(i / top_k)) % experts + i % top_k) % experts;
            *out = (expert as i32).to_le_bytes();
        }
    })
}

/// A tensor with elements of about N(0, scale^2), drawn in the element type itself: a layer of gigabytes takes seconds.
fn normal(dtype: DType, shape: Vec<u64>, scale: f32, stream: u64) -> Result<Tensor, Error> {
    let mut data = zeros(dtype, &shape)?;
    data.par_chunks_mut(CHUNK * dtype.bytes() as usize).enumerate().for_each(|(index, chunk)| {
        let mut state = mix(stream ^ mix(index as u64));
        let mut next = || about_normal(&mut state) * scale;
        match dtype {
            DType::F32 => chunk.as_chunks_mut::<4>().0.iter_mut().for_each(|out| *out = next().to_le_bytes()),
            DType::F16 => chunk.as_chunks_mut::<2>().0.iter_mut().for_each(|out| *out = f16::from_f32(next()).to_le_bytes()),
            DType::Bf16 => chunk.as_chunks_mut::<2>().0.iter_mut().for_each(|out| *out = bf16::from_f32(next()).to_le_bytes()),
            DType::I32 => chunk.as_chunks_mut::<4>().0.iter_mut().for_each(|out| *out = (next() as i32).to_le_bytes()),
        }
    });
    Tensor::new(dtype, shape, data)
}

/// Bytes for a tensor.
fn zeros(dtype: DType, shape: &[u64]) -> Result<Vec<u8>, Error> {
    let bytes = shape.iter().try_fold(dtype.bytes(), |product, extent| product.checked_mul(*extent));
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or(Error::Extent { why: "a tensor overflows" })?;
    let mut data = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { bytes: bytes as u64 })?;
    data.resize(bytes, 0);
    Ok(data)
}

/// Of mean 0 and variance 1: the sum of four uniform numbers, which ends at 3.5 deviations and needs no logarithm.
fn about_normal(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = mix(*state);
    let sum: u32 = [0, 16, 32, 48].map(|shift| u32::from((bits >> shift) as u16)).iter().sum();
    // Each of the four is uniform below 2^16, of variance 2^32 / 12.
    (sum as f32 - 131_070.0) * (3f32.sqrt() / 65_536.0)
}

/// The finaliser of splitmix64.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of its own for each name under a seed (FNV-1a).
fn stream(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mix(seed ^ 0xcbf2_9ce4_8422_2325), |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_normal_and_the_same_every_time() {
        let draw = |seed| tokens(DType::F32, 300, 1000, seed).unwrap();
        let values = draw(1).to_f64();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    /// With what a layer takes, and of every number below eight at least one.
    #[test]
    fn ids_outside_the_vocabulary_are_those_that_are_let_through() {
        let ids = |integers: Integers| (0..1000).map(|i| integers.at(7, i)).collect::<Vec<i32>>();
        let is_within = |id: &&i32| (0..8).contains(*id);
        let let_through = ids(Integers::Ids(8));
        assert!((800..950).contains(&let_through.iter().filter(is_within).count()) && is_within(&&let_through[0]));
        for drawn in [let_through, ids(Integers::Below(8))] {
            assert!((0..8).all(|id| drawn.contains(&id)));
        }
        assert_eq!(ids(Integers::Below(8)).iter().filter(is_within).count(), 1000);
        assert!((50..200).contains(&ids(Integers::Ids(1 << 31)).iter().filter(|id| **id < 0).count()));
    }

    /// Experts of the layer, none twice in a token, and about one pick in eight none; weights are parts of one.
    #[test]
    fn picks_of_a_token_are_distinct() {
        let of = Integers::Picks { experts: 5, top_k: 3 };
        let drawn: Vec<i32> = (0..3000).map(|pair| of.at(7, pair)).collect();
        assert!((250..500).contains(&drawn.iter().filter(|id| **id == -1).count()) && drawn[0] >= 0);
        for picks in drawn.chunks(3) {
            let mut listed: Vec<i32> = picks.iter().copied().filter(|id| *id != -1).collect();
            assert!(listed.iter().all(|id| (0..5).contains(id)), "{picks:?}");
            let count = listed.len();
            listed.sort_unstable();
            listed.dedup();
            assert_eq!(listed.len(), count, "{picks:?}");
        }
        assert!((0..5).all(|id| drawn.contains(&id)));
        assert!((0..3000).all(|pair| (0.0..1.0).contains(&share(7, pair))));
        assert_eq!([0, 1, 2, 3, 4].map(|id| Integers::Here { experts: 3 }.at(7, id)), [0, 1, 2, -1, -1]);
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let draw = || normal(DType::Bf16, vec![3, 70_001], 0.5, 7).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(draw), draw());
    }

    #[test]
    fn a_shape_beyond_memory_is_an_error() {
        assert!(normal(DType::F32, vec![u64::MAX, 2], 1.0, 0).is_err());
        assert!(normal(DType::F32, vec![1 << 60], 1.0, 0).is_err());
    }
}
