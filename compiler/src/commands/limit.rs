//! What a run of a layer has to do, how near its time is to the least that this machine needs for it, and where what was measured of
//! the machine is remembered.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

use moec::limits::{self, By, Least, Limits, Share};
use moec::spec::Tensor;
use moec_runtime::package::{Buffer, DType, Manifest, Role};

use super::report::{Measured, loads, real_tokens, time_text};
use super::run::{dim, integers};

/// The file of remembered limits; `None` where there is no folder for it.
pub(crate) fn remembered_at() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(folder.join("moec").join("limits.json"))
}

/// What is remembered of this machine for a run by so many threads.
pub(super) fn remembered(threads: usize) -> Option<(Limits, Share)> {
    let text = std::fs::read_to_string(remembered_at()?).ok()?;
    limits::find(&text, &limits::cpu(), threads)
}

/// What a run did, as far as that can be known.
pub(super) struct Work {
    /// Bytes of the weights of experts that were hit, and of all others, each once.
    pub(super) bytes: Option<f64>,
    /// FLOPs of the products of matrices.
    pub(super) flops: Option<f64>,
}

/// Counted by what was observed of the routing: not known of a batch that was cut, and of a mixture of tokens only the bytes.
pub(super) fn work(measured: &Measured<'_>) -> Work {
    let Measured { manifest, .. } = *measured;
    let has_experts = weights(manifest).any(is_of_experts);
    let (loads, _) = loads(measured);
    if has_experts && loads.is_empty() {
        let is_soft = dim(manifest, "slots") > 0;
        return Work { bytes: is_soft.then(|| bytes(manifest, 1.0)), flops: None };
    }
    let hit = loads.iter().filter(|load| **load > 0).count() as f64 / loads.len().max(1) as f64;
    let kept = integers(measured.run.tensor("stats.kept"));
    let pairs: usize = if kept.is_empty() { loads.iter().sum() } else { kept.iter().take(loads.len()).sum() };
    Work { bytes: Some(bytes(manifest, hit)), flops: Some(flops(manifest, pairs as f64, real_tokens(measured) as f64)) }
}

fn weights(manifest: &Manifest) -> impl Iterator<Item = &Buffer> {
    manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight)
}

fn is_of_experts(buffer: &Buffer) -> bool {
    Tensor::from_word(&buffer.name).is_some_and(Tensor::has_experts)
}

fn extents(buffer: &Buffer) -> Vec<f64> {
    buffer.shape.iter().map(|extent| extent.as_const().unwrap_or(0) as f64).collect()
}

/// Of experts the share that was hit, of the others all.
fn bytes(manifest: &Manifest, hit: f64) -> f64 {
    let of_buffer = |buffer: &Buffer| {
        let whole = extents(buffer).iter().product::<f64>() * buffer.dtype.bytes() as f64;
        if is_of_experts(buffer) { whole * hit } else { whole }
    };
    weights(manifest).map(of_buffer).sum()
}

/// A matrix of each expert multiplies a pair, any other a token. Tables of numbers multiply nothing, and biases are no products.
fn flops(manifest: &Manifest, pairs: f64, tokens: f64) -> f64 {
    let of_buffer = |buffer: &Buffer| match (&extents(buffer)[..], is_of_experts(buffer)) {
        _ if buffer.dtype == DType::I32 => 0.0,
        ([_, rows, columns], true) => 2.0 * rows * columns * pairs,
        ([rows, columns], false) => 2.0 * rows * columns * tokens,
        (_, _) => 0.0,
    };
    weights(manifest).map(of_buffer).sum()
}

/// How near a time is to the least that was measured for this work.
pub(super) fn print_limit(measured: &Measured<'_>, seconds: f64, work: &Work, out: &mut dyn Write) -> io::Result<()> {
    let Some(threads) = measured.threads else { return Ok(()) };
    let (Some(bytes), Some(flops)) = (work.bytes, work.flops) else {
        return writeln!(out, "limit       not known: what this layer multiplied is not counted");
    };
    let Some((limits, share)) = remembered(threads) else {
        return writeln!(out, "limit       not known: `moec doctor` measures what this machine can do");
    };
    let (target, dtype) = (measured.target, measured.manifest.dtype.name());
    match limits.least((target, dtype), share, limits::Work { bytes, flops }) {
        None => writeln!(out, "limit       not known: `moec doctor` has not measured {target}"),
        Some(least) => writeln!(out, "limit       {}", share_text(seconds, least)),
    }
}

/// `83% of this machine's: reading the weights at 30.1 GB/s takes 2.51 ms`.
fn share_text(seconds: f64, least: Least) -> String {
    let percent = 100.0 * least.seconds / seconds.max(1e-9);
    let (what, unit) = match least.by {
        By::Reading => ("reading the weights", "GB/s"),
        By::Products => ("multiplying", "GFLOP/s"),
    };
    let rate = least.rate as f64 / 1e9;
    format!("{percent:.0}% of this machine's: {what} at {rate:.1} {unit} takes {}", time_text(least.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_by_hand() {
        let least = |by, rate| Least { seconds: 2.5e-3, by, rate };
        let reading = share_text(3e-3, least(By::Reading, 30_140_000_000));
        assert_eq!(reading, "83% of this machine's: reading the weights at 30.1 GB/s takes 2.50 ms");
        let products = share_text(10e-3, least(By::Products, 458_000_000_000));
        assert_eq!(products, "25% of this machine's: multiplying at 458.0 GFLOP/s takes 2.50 ms");
    }
}
