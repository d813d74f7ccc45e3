//! Weights of a mapped file are bound on the host where they lie. What memory that takes is asked of the system, so this
//! binary has one test; without a C compiler, or off Linux, it says so and passes.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fixture;
use crate::fixture::{HIDDEN, floats, w, x, y};
use crate::object::shared_object;
use moec_runtime::package::{Arg, Extent, Launch};
use moec_runtime::{Bound, Checkpoint, DeviceKind, Dims, Layer, Package, assemble};

/// Elements of the weight, of which the kernels read the first few: 64 MiB.
const ELEMENTS: u64 = 16 << 20;

/// The memory of this process that is of no file, in bytes; `None`, said aloud, where the system does not tell.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok();
    let bytes = status.and_then(|status| {
        let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    });
    if bytes.is_none() {
        skip();
    }
    bytes
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skip() {
    eprintln!("skipped: runtime/tests/mapped.rs needs Linux, which says what memory a process has");
}

/// A file with `w`, whose data starts `skew` bytes behind a multiple of 64. All but the first values are a hole.
fn checkpoint(folder: &Path, skew: usize) -> PathBuf {
    let mut header = format!(r#"{{"w":{{"dtype":"F32","shape":[{ELEMENTS}],"data_offsets":[0,{}]}}}}"#, ELEMENTS * 4);
    while (8 + header.len()) % 64 != skew {
        header.push(' ');
    }
    let path = folder.join(format!("{skew}.safetensors"));
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(w().bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + ELEMENTS * 4).unwrap();
    path
}

/// The layer with the weight of a file, and how much memory of no file that took.
fn bind(package: &Package, path: &Path) -> Option<(Bound, u64)> {
    let layer = Layer::load(package, DeviceKind::Host { threads: Some(2) }).unwrap();
    let before = anonymous_bytes()?;
    let (weights, notes) = assemble(layer.manifest(), &Checkpoint::open(path).unwrap(), "").unwrap();
    assert_eq!(notes, []);
    let bound = layer.bind(weights).unwrap();
    Some((bound, anonymous_bytes()?.saturating_sub(before)))
}

#[test]
fn a_large_weight_is_bound_where_it_lies() {
    let Some(object) = shared_object() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = fixture::manifest();
    manifest.buffers[1].shape = vec![Extent::Const(ELEMENTS as i64)];
    let package = |manifest| Package::new(manifest, vec![fixture::PTX.into(), object.to_vec()]).unwrap();
    // 16 is what the manifest asks for, 8 is what it does not get: that is copied.
    for (skew, copies) in [(0, false), (16, false), (8, true)] {
        let Some((bound, bytes)) = bind(&package(manifest.clone()), &checkpoint(folder.path(), skew)) else { return };
        if copies {
            assert!(bytes > ELEMENTS * 3, "{skew}: {bytes} bytes more");
        } else {
            assert!(bytes < ELEMENTS / 2, "{skew}: {bytes} bytes more");
        }
        assert_eq!(bound.run(&[x(9)], Dims::tokens(9)).unwrap().tensor("y").unwrap(), &y(9), "{skew}");
        assert_eq!(bound.weight("w").unwrap().bytes()[..16], *w().bytes());
    }
    // A weight that an update writes is not the file's: here the update is the first kernel, into the weight.
    let args = [Arg::Buffer(0), Arg::Buffer(1), Arg::ScalarI32(Extent::Const(HIDDEN as i64)), Arg::ScalarI64(Extent::Tokens)];
    manifest.targets[1].update =
        vec![Launch { kernel: 0, grid: Extent::Const(1), early: false, working: None, args: args.to_vec() }];
    let path = checkpoint(folder.path(), 0);
    let Some((bound, bytes)) = bind(&package(manifest), &path) else { return };
    assert!(bytes > ELEMENTS * 3, "{bytes} bytes more");
    let mut batch = bound.batch(&[x(1)], Dims::tokens(1)).unwrap();
    bound.update(&mut batch).unwrap();
    let first = |bytes: &[u8]| bytes[..16].to_vec();
    assert_eq!(first(bound.weight("w").unwrap().bytes()), floats(&[HIDDEN], [0.0, 2.0, 4.0, 6.0]).bytes());
    let (stored, _) = Checkpoint::open(&path).unwrap().tensor("w", moec_runtime::package::DType::F32).unwrap();
    assert_eq!(first(stored.bytes()), w().bytes(), "the file is as it was");
}
