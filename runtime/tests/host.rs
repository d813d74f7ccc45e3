//! The CPU as a device, with kernels from the system's C compiler; without one these tests say so and pass.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used)]

use crate::fixture;
use crate::fixture::{floats, w, x, y};
use crate::object::shared_object;
use moec_runtime::device::{Argument, MAX_THREADS, Start};
use moec_runtime::package::{Arg, Extent, Launch, Working};
use moec_runtime::{Batch, Bound, DeviceKind, Dims, Error, Layer, Package, Region};

fn bound(threads: Option<usize>) -> Option<Bound> {
    let package = fixture::package(shared_object()?);
    let layer = Layer::load(&package, DeviceKind::Host { threads }).unwrap();
    Some(layer.bind(vec![w()]).unwrap())
}

#[test]
fn results_do_not_depend_on_threads() {
    for threads in [Some(1), Some(2), Some(7), None] {
        let Some(bound) = bound(threads) else { return };
        for tokens in [1, 2, 3, 8, 9, 64, 999, 1000] {
            let run = bound.run(&[x(tokens)], Dims::tokens(tokens)).unwrap();
            assert_eq!(run.tensor("y").unwrap(), &y(tokens), "{threads:?} threads, {tokens} tokens");
            assert_eq!(run.tensor("load").unwrap().to_i32().unwrap(), [tokens as i32, -4], "the scalars' signs");
            assert!(run.elapsed.as_nanos() > 0);
        }
    }
}

/// The last launch has work for two blocks for each that the launch before it has counted: beyond these rows stay as they were.
#[test]
fn blocks_without_work_are_left_out() {
    let Some(object) = shared_object() else { return };
    for (counted, rows) in [(3, 6), (0, 0), (-3, 0), (1 << 30, 64)] {
        let mut manifest = fixture::manifest();
        let launches = &mut manifest.targets[1].regimes[1].launches;
        let [hidden, _] = [launches[1].args[4].clone(), launches[1].args[5].clone()];
        let count = Arg::ScalarI64(Extent::Const(counted));
        launches[1].args[5] = count.clone();
        let buffers = [0, 1, 4, 3].map(Arg::Buffer);
        let working = Some(Working { buffer: 3, each: Extent::Const(2), follows: false });
        launches.push(Launch { working, args: [&buffers[..], &[hidden, count]].concat(), ..launches[1].clone() });
        let package = Package::new(manifest, vec![fixture::PTX.into(), object.to_vec()]).unwrap();
        for threads in [1, 2, 8] {
            let layer = Layer::load(&package, DeviceKind::Host { threads: Some(threads) }).unwrap();
            let run = layer.bind(vec![w()]).unwrap().run(&[x(64)], Dims::tokens(64)).unwrap();
            // x of the fixture counts, and w is a half more than the column.
            let expected = (0..64 * 4).map(|i| if i / 4 < rows { i } else { 2 * i } as f32 + 0.5 + (i % 4) as f32);
            assert_eq!(run.tensor("y").unwrap(), &floats(&[64, 4], expected), "{counted}, {threads} threads");
        }
    }
}

/// None is started before the number is known to be sane.
#[test]
fn threads_are_bounded() {
    let package = fixture::package(b"not an object");
    for threads in [0, MAX_THREADS + 1, 100_000, usize::MAX] {
        let error = Layer::load(&package, DeviceKind::Host { threads: Some(threads) }).unwrap_err();
        assert_eq!(error, Error::Threads { threads, max: MAX_THREADS });
        assert_eq!((error.code(), error.blame().exit_code()), ("RT0314", 1));
    }
}

// Fault table, rows 12 and 13: an exact workspace suffices, and what it and the outputs held does not matter.
#[test]
fn dirty_memory_does_not_matter() {
    let Some(bound) = bound(Some(2)) else { return };
    let layer = bound.layer();
    let dims = Dims::tokens(37);
    for dirt in [0x00, 0xff, 0xab, 0x7f] {
        let mut batch = Batch {
            dims,
            inputs: vec![Region::of(layer.device(), x(37).bytes()).unwrap()],
            outputs: vec![Region::new(layer.device(), y(37).bytes().len() as u64).unwrap()],
            workspace: Region::new(layer.device(), layer.workspace_bytes(dims).unwrap()).unwrap(),
        };
        batch.workspace.fill(dirt).unwrap();
        batch.outputs[0].fill(dirt).unwrap();
        let elapsed = bound.launch(&mut batch).unwrap();
        assert_eq!(bound.collect(&batch, elapsed).unwrap().tensor("y").unwrap(), &y(37), "{dirt:#x}");
    }
}

// Fault table, row 19: one bound layer, several threads, a workspace each; inside rayon's pool, too.
#[test]
fn a_bound_layer_is_shared_between_threads() {
    use rayon::prelude::*;
    let Some(bound) = bound(None) else { return };
    let check = |tokens| assert_eq!(bound.run(&[x(tokens)], Dims::tokens(tokens)).unwrap().tensor("y").unwrap(), &y(tokens));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (1..20).for_each(|n| check(n * 10 + thread)));
        }
    });
    (1..100).into_par_iter().for_each(check);
}

// Fault table, row 35: two packages with the same symbols in one process, one unloaded before the other.
#[test]
fn two_packages_do_not_meet() {
    let (Some(one), Some(two)) = (bound(Some(1)), bound(Some(1))) else { return };
    drop(one);
    assert_eq!(two.run(&[x(3)], Dims::tokens(3)).unwrap().tensor("y").unwrap(), &y(3));
}

// Fault table, row 33.
#[test]
fn an_object_that_is_not_what_the_manifest_says_is_refused() {
    let Some(object) = shared_object() else { return };
    let refused = |package: &Package| {
        let error = Layer::load(package, DeviceKind::Host { threads: Some(1) }).unwrap_err();
        assert_eq!(error.code(), "RT0405");
        error.to_string()
    };
    let mut manifest = fixture::manifest();
    manifest.targets[1].kernels[1].symbol = "add_them".into();
    let package = Package::new(manifest, vec![fixture::PTX.into(), object.to_vec()]).unwrap();
    assert!(refused(&package).contains("no kernel `add_them`"));
    // The loader's reason, and no guess at another.
    let garbage = refused(&fixture::package(&[b'x'; 4096]));
    assert!(garbage.contains("dlopen failed: ") && garbage.contains("ELF") && !garbage.contains("TMPDIR"), "{garbage}");
    assert!(refused(&fixture::package(b"")).contains("cannot load"));
}

// Fault table, row 14.
#[test]
fn a_lesser_cpu_is_told_what_it_lacks() {
    let mut manifest = fixture::manifest();
    manifest.targets[1].cpu_features = vec!["avx1024".into()];
    let package = Package::new(manifest, vec![fixture::PTX.into(), Vec::new()]).unwrap();
    let error = Layer::load(&package, DeviceKind::Host { threads: None }).unwrap_err();
    assert_eq!(error, Error::CpuFeatures { target: "host".into(), missing: vec!["avx1024".into()] });
    let mut manifest = fixture::manifest();
    manifest.targets.pop();
    let package = Package::new(manifest, vec![fixture::PTX.into(), Vec::new()]).unwrap();
    let error = Layer::load(&package, DeviceKind::Host { threads: None }).unwrap_err();
    assert_eq!((error.code(), error.blame().exit_code()), ("RT0403", 3));
}

// Fault table, rows 11 and 17: an address that is not the device's, and more memory than there is, are errors.
#[test]
fn stray_addresses_are_errors() {
    let Some(bound) = bound(Some(1)) else { return };
    let device = bound.layer().device().clone();
    let mut bytes = [0; 8];
    let region = Region::new(&device, 64).unwrap();
    assert_eq!(region.address() % 256, 0);
    for address in [0, 1, region.address() + 57, region.address() - 1, u64::MAX] {
        assert_eq!(device.copy_out(address, &mut bytes).unwrap_err().code(), "RT0501", "{address:#x}");
        assert!(device.copy_in(address, &bytes).is_err());
        assert!(device.fill(address, 8, 0).is_err());
        assert!(
            device
                .launch(
                    Start { kernel: 0, blocks: 1, early: false, working: None },
                    &[Argument::Memory { buffer: 0, address, bytes: 8 }]
                )
                .is_err()
        );
    }
    assert!(device.launch(Start { kernel: 9, blocks: 1, early: false, working: None }, &[]).is_err());
    let address = region.address();
    drop(region);
    assert!(device.copy_out(address, &mut bytes).is_err(), "after it is freed");
    for too_much in [u64::MAX, 1 << 62] {
        assert_eq!(device.alloc(too_much), Err(Error::OutOfMemory { bytes: too_much }));
    }
    assert!(device.alloc(64).is_ok());
}
