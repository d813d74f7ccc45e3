//! What the benchmarks share: the example specs, and random weights and tokens fast enough for gigabytes of them.
// Each benchmark is a crate of its own and uses a part.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::path::PathBuf;

use moec::pipeline::{compile, this_host};
use moec::spec::{self, Spec};
use moec_codegen::Options;
use moec_runtime::package::{Dtype, Manifest, Role};
use moec_runtime::{Package, Tensor};

/// The spec at a path, and its text.
pub(crate) fn load(path: impl Into<PathBuf>) -> (Spec, String) {
    let path = path.into();
    let (spec, source) = spec::load(&path).unwrap_or_else(|_| panic!("{} is a correct spec", path.display()));
    (spec, source.text)
}

/// The names of the example specs, in order.
pub(crate) fn examples() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("a folder of specs");
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_string());
    let mut names: Vec<String> = files.filter_map(|file| stem(file.ok()?.path())).collect();
    names.sort();
    names
}

/// An example spec and its text.
pub(crate) fn example(name: &str) -> (Spec, String) {
    load(folder().join(format!("{name}.toml")))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/specs")
}

/// The package of a spec for this CPU.
pub(crate) fn host_package((spec, text): &(Spec, String)) -> Package {
    let machine = this_host().expect("an x86-64 CPU of level v3");
    compile(spec, text, std::slice::from_ref(&machine), &Options::default()).expect("a package")
}

/// Random weights at which a layer neither vanishes nor explodes.
pub(crate) fn random_weights(manifest: &Manifest) -> Vec<Tensor> {
    let buffers = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    let weight = |(buffer, seed): (&moec_runtime::package::Buffer, u64)| {
        let shape: Vec<u64> = buffer.shape.iter().filter_map(|n| n.as_const()?.try_into().ok()).collect();
        let halvings = shape.last().map_or(0, |inputs| inputs.ilog2() / 2);
        random(buffer.dtype, shape, halvings, seed)
    };
    buffers.zip(2..).map(weight).collect()
}

/// Values of both signs in `[1, 2)`, halved `halvings` times: bf16 from the bits of a splitmix64 generator.
pub(crate) fn random(dtype: Dtype, shape: Vec<u64>, halvings: u32, seed: u64) -> Tensor {
    let exponent = (127 - halvings as u16) << 7;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(2 * shape.iter().product::<u64>() as usize + 6);
    while bytes.len() + 6 < bytes.capacity() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Sign and mantissa of four values.
        let values = bits & 0x807f_807f_807f_807f | u64::from(exponent) * 0x0001_0001_0001_0001;
        bytes.extend_from_slice(&values.to_le_bytes());
    }
    bytes.truncate(2 * shape.iter().product::<u64>() as usize);
    Tensor::new(Dtype::Bf16, shape, bytes).expect("as many bytes as elements").to_dtype(dtype)
}

/// The element in the middle.
pub(crate) fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
