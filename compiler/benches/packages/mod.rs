//! What the benchmarks share: specs, and their packages for this CPU.
#![allow(dead_code, reason = "each benchmark is a crate of its own and uses a part")]

use std::path::PathBuf;

use moec::import::Entry;
use moec::pipeline::{compile, this_host};
use moec::spec::{self, Spec};
use moec_codegen::Options;
use moec_runtime::Package;

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
    compile(spec, Entry::Layer, text, std::slice::from_ref(&machine), &Options::default()).expect("a package")
}
