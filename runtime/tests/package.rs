//! The file format: what is written is read back, and nothing else is.
#![allow(clippy::unwrap_used)]

use crate::fixture::{self, param};
use moec_runtime::package::{
    Arg, Buffer, DType, Dim, Dims, Extent, FORMAT_VERSION, ImageKind, Launch, MANIFEST_MAX_BYTES, Manifest, ParamKind, Regime,
    Role, Routing, Slice, Slots, Source, Stacked, TargetKind, WORKSPACE_ALIGN, Working, read, workspace, write,
};
use moec_runtime::{Error, Package};
use sha2::{Digest, Sha256};

fn images() -> Vec<Vec<u8>> {
    vec![fixture::PTX.into(), b"\x7fELF and so on".to_vec()]
}

/// A file with this manifest text, all hashes of the header right.
fn forge(json: &str, images: &[u8]) -> Vec<u8> {
    let mut file = b"moec.pkg".to_vec();
    file.extend(FORMAT_VERSION.to_le_bytes());
    file.extend((json.len() as u64).to_le_bytes());
    file.extend(Sha256::digest(json));
    file.extend(json.as_bytes());
    file.extend(images);
    file
}

#[test]
fn a_package_is_read_back() {
    let file = write(&fixture::manifest(), &images()).unwrap();
    let package = read(&file).unwrap();
    assert_eq!(package, Package::new(fixture::manifest(), images()).unwrap());
    assert_eq!(package.images(), images());
    assert_eq!(package.to_bytes().unwrap(), file, "the same package, other bytes");
    assert_eq!(package.manifest().images[1].offset, fixture::PTX.len() as u64);
}

/// Numbers that stand on the page for loaders in other languages.
#[test]
fn the_page_has_the_numbers_of_the_format() {
    let page = include_str!("../PACKAGE.md");
    let file = write(&fixture::manifest(), &images()).unwrap();
    let json = file.windows(2).position(|bytes| bytes == b"{\"").unwrap();
    for line in [
        format!("| 8 | 4 | format version, {FORMAT_VERSION}: "),
        format!("| 12 | 8 | N, the length of the manifest, at most {} MiB |", MANIFEST_MAX_BYTES >> 20),
        format!("| {json} | N | the manifest: JSON, UTF-8 |"),
        format!("a power of two up to {WORKSPACE_ALIGN}"),
    ] {
        assert!(page.contains(&line), "{line}");
    }
}

#[test]
fn the_deepest_formula_is_read_back() {
    let mut manifest = fixture::manifest();
    let deep = (0..32).fold(Extent::Tokens, |extent, _| extent + 1);
    manifest.targets[1].regimes[1].launches[0].args[3] = Arg::ScalarI64(deep);
    let file = write(&manifest, &images()).unwrap();
    assert_eq!(read(&file).unwrap().to_bytes().unwrap(), file);
}

#[test]
fn every_flipped_bit_is_rejected() {
    let file = write(&fixture::manifest(), &images()).unwrap();
    let mut flipped = file.clone();
    for index in 0..file.len() {
        for bit in 0..8 {
            flipped[index] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "bit {bit} of byte {index}");
            flipped[index] = file[index];
        }
    }
}

#[test]
fn every_other_length_is_rejected() {
    let mut file = write(&fixture::manifest(), &images()).unwrap();
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_err(), "the first {length} bytes");
    }
    file.push(0);
    assert_eq!(
        read(&file).unwrap_err().to_string().split("; fetch").next(),
        Some("the package is damaged: 1 bytes after the last image")
    );
}

/// The most memory that this process has had, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[test]
fn hostile_lengths_allocate_nothing() {
    let package = Package::new(fixture::manifest(), images()).unwrap();
    let json = serde_json::to_string(package.manifest()).unwrap();
    let bytes = images().concat();
    assert!(read(&forge(&json, &bytes)).is_ok());
    let before = peak_bytes();
    for length in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 32, bytes.len() as u64 + 1] {
        let mut header = forge(&json, &bytes);
        header[12..20].copy_from_slice(&length.to_le_bytes());
        assert!(read(&header).is_err());
        let second = &package.manifest().images[1];
        for field in ["length", "offset"] {
            let value = if field == "length" { second.length } else { second.offset };
            let hostile = json.replace(&format!("\"{field}\":{value}"), &format!("\"{field}\":{length}"));
            assert_ne!(hostile, json);
            assert!(matches!(read(&forge(&hostile, &bytes)), Err(Error::Damaged { .. })), "{field} {length}");
        }
    }
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        // The other tests of this binary run beside this one: they take a few megabytes.
        assert!(after - before < 256 << 20, "{} bytes more at the peak", after - before);
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let package = Package::new(fixture::manifest(), images()).unwrap();
    let json = serde_json::to_string(package.manifest()).unwrap();
    let bytes = images().concat();
    for (from, to) in [
        ("{\"compiler\"", "{\"surprise\":1,\"compiler\""),
        ("{\"name\":\"x\"", "{\"name\":\"x\",\"colour\":\"red\""),
        ("\"role\":\"input\"", "\"role\":\"inout\""),
        ("\"const\":4", "\"const\":4.5"),
        ("\"const\":4", "\"const\":99999999999999999999"),
        ("\"layer\":\"double\"", "\"layer\":\"double\",\"layer\":\"twice\""),
    ] {
        let edited = json.replacen(from, to, 1);
        assert_ne!(edited, json, "{from}");
        assert!(matches!(read(&forge(&edited, &bytes)), Err(Error::Manifest { .. })), "{to}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(&forge(&deep, &[])).is_err());
    let mut newer = forge(&json, &bytes);
    let (found, known) = (FORMAT_VERSION + 1, FORMAT_VERSION);
    newer[8..12].copy_from_slice(&found.to_le_bytes());
    assert_eq!(read(&newer), Err(Error::FormatVersion { found, known }));
    assert_eq!(read(b""), Err(Error::NotAPackage));
    assert_eq!(read(b"PK\x03\x04 a zip file, say"), Err(Error::NotAPackage));
}

/// The edited manifest is refused, with these words in the message.
fn check(expected: &str, edit: impl FnOnce(&mut Manifest)) {
    let mut manifest = fixture::manifest();
    edit(&mut manifest);
    let error = Package::new(manifest, images()).unwrap_err();
    assert_eq!(error.code(), "RT0104");
    assert!(error.to_string().contains(expected), "{error}\nshould say: {expected}");
}

#[test]
fn an_unsound_manifest_is_refused() {
    check("is 4611686018427387904, at most 2147483647", |m| m.dims[0].value = 1 << 62);
    check("`max_tokens` is 18446744073709551615, at most 2147483647", |m| m.max_tokens = u64::MAX);
    check("1 images are listed, 2 given", |m| drop(m.images.pop()));
    check("`spec_sha256`", |m| m.spec_sha256 = "F".repeat(64));
    check("two dims", |m| m.dims.push(Dim { name: "hidden".into(), value: 5 }));
    check("two buffers have one name", |m| m.buffers[2].name = "x".into());
    check("no buffer is an output", |m| m.buffers[4].role = Role::Workspace);
    check("alignment 24", |m| m.buffers[0].align = 24);
    check("alignment 512", |m| m.buffers[0].align = 512);
    check("weight `w`: an extent", |m| m.buffers[1].shape[0] = Extent::Tokens);
    check("weight `w`: an extent", |m| m.buffers[1].shape[0] = Extent::Const(0));
    check("`x` is observed", |m| m.buffers[0].observe = Some("x".into()));
    check("two buffers are observed", |m| m.buffers[2].observe = Some("load".into()));
    check("has no recipe", |m| m.weights.clear());
    check("two recipes", |m| m.weights.push(m.weights[0].clone()));
    check("without a source", |m| m.weights[0].pieces[0].sources.clear());
    check("does not cover", |m| m.weights[0].pieces.clear());
    check("does not cover", |m| {
        let again = m.weights[0].pieces[0].clone();
        m.weights[0].pieces.push(again);
    });
    check("does not cover", |m| {
        m.weights[0].pieces[0].into = Some(Slice { axis: 0, index: 1, parts: 2, interleaved: false });
    });
    check("axes [1] are not an order", |m| m.weights[0].pieces[0].sources[0].axes = vec![1]);
    check("part 2 of 2 along axis 0", |m| {
        m.weights[0].pieces[0].sources[0].slice = Some(Slice { axis: 0, index: 2, parts: 2, interleaved: false });
    });
    check("a slice of the experts' axis", |m| {
        let slice = Some(Slice { axis: 0, index: 0, parts: 2, interleaved: false });
        m.weights[0].pieces[0].sources[0] = Source { slice, ..Source::plain("w.{e}") };
    });
    let sources = |m: &mut Manifest, source: Source| m.weights[0].pieces[0].sources[0] = source;
    check("spare experts behind", |m| {
        let buffer = m.weights[0].buffer.clone();
        let shape = &mut m.buffers.iter_mut().find(|other| other.name == buffer).unwrap().shape;
        shape.push(shape[0].clone());
        sources(m, Source { spare: 2, axes: vec![1, 0], ..Source::plain("w") });
    });
    check("cannot be stacked", |m| sources(m, Source { stacked: Some(Stacked { axis: 0, parts: 1 }), ..Source::plain("w") }));
    check("cannot be stacked", |m| sources(m, Source { stacked: Some(Stacked { axis: 9, parts: 2 }), ..Source::plain("w") }));
    check("too few axes", |m| m.weights[0].pieces[0].sources[0].flattened = true);
    check("two targets", |m| m.targets[1].name = "sm_80".into());
    check("no image", |m| m.targets[0].images.clear());
    check("image 7, which is not there", |m| m.targets[0].images = vec![7]);
    check("another kind of machine", |m| m.targets[0].images = vec![1]);
    check("another kind of machine", |m| m.images[1].kind = ImageKind::Cubin);
    check("two kernels", |m| m.targets[1].kernels[1].symbol = "double_it".into());
    check("is not a symbol", |m| m.targets[1].kernels[1].symbol = "a b".into());
    check("is not a symbol", |m| m.targets[1].kernels[1].symbol = String::new());
    check("2000 threads", |m| m.targets[0].kernels[0].threads = 2000);
    check("not open-ended", |m| drop(m.targets[0].regimes.pop()));
    check("do not ascend", |m| m.targets[0].regimes[0].tokens_up_to = None);
    check("tiles without rows", |m| m.targets[0].regimes[0].tile_rows = Some(0));
    check("do not ascend", |m| {
        let again = m.targets[0].regimes[0].clone();
        m.targets[0].regimes.insert(0, again);
    });
    let deep = |depth| (0..depth).fold(Extent::Tokens, |extent, _| extent + 1);
    check("`x`: a formula is too deep", |m| m.buffers[0].shape[0] = deep(33));
    check("`double_it`: a formula is too deep", |m| m.targets[1].regimes[0].launches[0].grid = deep(100));
    check("launches kernel 9", |m| m.targets[0].regimes[0].launches[0].kernel = 9);
    check("takes 4 arguments, a launch gives 3", |m| drop(m.targets[1].regimes[0].launches[0].args.pop()));
    check("argument 0", |m| m.targets[1].regimes[0].launches[0].args[0] = Arg::Buffer(99));
    check("argument 2", |m| m.targets[1].regimes[0].launches[0].args[2] = Arg::ScalarI64(Extent::Tokens));
}

/// What comes before the first launch of a sequence is not known, and a host makes its launches one after another.
#[test]
fn early_launches_follow_others_on_a_gpu() {
    let mut sound = fixture::manifest();
    sound.targets[0].regimes[0].launches[1].early = true;
    assert!(moec_runtime::package::check(&sound).is_ok());
    let text = serde_json::to_string(&sound).unwrap();
    assert_eq!(text.matches("early").count(), 1, "{text}");
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), sound);
    check("the first launch of a sequence is early", |m| m.targets[0].regimes[1].launches[0].early = true);
    check("an early launch on the host", |m| m.targets[1].regimes[1].launches[1].early = true);
}

/// How many blocks have work is read out of a buffer that the launch is given, and that has such a number.
#[test]
fn blocks_with_work_are_counted_by_a_number_that_is_there() {
    let mut sound = fixture::manifest();
    assert!(!serde_json::to_string(&sound).unwrap().contains("working"));
    let by = |buffer: u32, each: Extent| Some(Working { buffer, each, follows: false });
    sound.targets[1].regimes[1].launches[1].working = by(3, Extent::Tokens);
    assert!(moec_runtime::package::check(&sound).is_ok());
    let text = serde_json::to_string(&sound).unwrap();
    assert!(text.contains(r#""working":{"buffer":3,"each":"tokens"}"#), "{text}");
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), sound);
    let refused =
        |why: &str, buffer: u32| check(why, |m| m.targets[1].regimes[1].launches[1].working = by(buffer, Extent::Tokens));
    // A launch follows one that has work by the same number, and that does not follow.
    let follows = |buffer: u32| Some(Working { buffer, each: Extent::Const(1), follows: true });
    let again = |m: &mut Manifest| {
        let launches = &mut m.targets[1].regimes[1].launches;
        launches.push(Launch { working: follows(3), ..launches[1].clone() });
    };
    again(&mut sound);
    assert!(moec_runtime::package::check(&sound).is_ok());
    let why = "of a sequence follows one that has no work by the same buffer, or follows another";
    check(why, again);
    check(why, |m| m.targets[1].regimes[1].launches[1].working = follows(3));
    check(why, |m| {
        m.targets[1].regimes[1].launches[1].working = by(3, Extent::Tokens);
        again(m);
        again(m);
    });
    refused("a launch of `add_it` has blocks with work by buffer 0, which it is not given", 0);
    refused("a launch of `add_it` has blocks with work by buffer 99, which it is not given", 99);
    refused("a launch of `add_it` has blocks with work by `w`, which is no i32 number", 1);
    for extent in [Extent::Tokens, Extent::Const(0)] {
        check("a launch of `add_it` has blocks with work by `counts`, which is no i32 number", |m| {
            m.buffers[3].shape = vec![extent.clone()];
            m.targets[1].regimes[1].launches[1].working = by(3, Extent::Const(1));
        });
    }
    check("a launch of `add_it`: a formula is too deep", |m| {
        let deep = (0..40).fold(Extent::Tokens, |deep, _| deep + 1);
        m.targets[1].regimes[1].launches[1].working = by(3, deep);
    });
    check("the preparation by `double_it` depends on the batch", |m| {
        let p = Buffer {
            name: "p".into(),
            role: Role::Prepared,
            dtype: DType::I32,
            shape: vec![Extent::Const(4)],
            ..m.buffers[1].clone()
        };
        m.buffers.push(p);
        let args = vec![Arg::Buffer(1), Arg::Buffer(5), Arg::ScalarI32(Extent::Const(4)), Arg::ScalarI64(Extent::Const(1))];
        let working = by(5, Extent::Tokens);
        m.targets[0].prepare = vec![Launch { kernel: 0, grid: Extent::Const(1), early: false, working, args }];
    });
}

/// Manifests that do not speak of clusters have none.
#[test]
fn clusters_are_small_and_of_gpus() {
    let mut sound = fixture::manifest();
    assert!(!serde_json::to_string(&sound).unwrap().contains("cluster"));
    sound.targets[0].kernels[1].cluster = 8;
    assert!(moec_runtime::package::check(&sound).is_ok());
    let text = serde_json::to_string(&sound).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), sound);
    for blocks in [0, 3, 16] {
        check(&format!("kernel `add_it`: clusters of {blocks} blocks"), |m| m.targets[0].kernels[1].cluster = blocks);
    }
    check("kernel `double_it`: clusters of 2 blocks", |m| m.targets[1].kernels[0].cluster = 2);
}

/// What is prepared depends on weights alone.
#[test]
fn a_preparation_has_weights_alone() {
    let prepared = |m: &mut Manifest| {
        m.buffers.push(Buffer { name: "p".into(), role: Role::Prepared, shape: vec![Extent::Const(4)], ..m.buffers[1].clone() });
        let args = vec![Arg::Buffer(1), Arg::Buffer(5), Arg::ScalarI32(Extent::Const(4)), Arg::ScalarI64(Extent::Const(1))];
        m.targets[0].prepare = vec![Launch { kernel: 0, grid: Extent::Const(1), early: false, working: None, args }];
    };
    let mut sound = fixture::manifest();
    prepared(&mut sound);
    assert!(moec_runtime::package::check(&sound).is_ok());
    let refused = |why: &str, edit: &dyn Fn(&mut Launch)| {
        check(why, |m| {
            prepared(m);
            edit(&mut m.targets[0].prepare[0]);
        });
    };
    refused("is not there when weights are bound", &|launch| launch.args[0] = Arg::Buffer(0));
    refused("is not there when weights are bound", &|launch| launch.args[1] = Arg::Buffer(2));
    refused("the preparation by `double_it` depends on the batch", &|launch| launch.grid = Extent::Tokens);
    refused("the preparation by `double_it` depends on the batch", &|launch| launch.args[3] = Arg::ScalarI64(Extent::Tokens + 1));
    check("nothing prepares `p`", |m| {
        prepared(m);
        m.targets[0].prepare.clear();
        m.targets[0].regimes[0].launches[1].args[1] = Arg::Buffer(5);
    });
    check("weight `p`: an extent", |m| {
        prepared(m);
        m.buffers[5].shape[0] = Extent::Tokens;
    });
}

/// Time that is spent before anything runs is bounded: where buffers lie takes time by the square of their number.
#[test]
fn regimes_and_workspace_are_few() {
    check("target `host` has 17 regimes, at most 16", |m| {
        let first = m.targets[1].regimes[0].clone();
        let more = (0..15).map(|i| Regime { tokens_up_to: Some(3 + i), ..first.clone() });
        m.targets[1].regimes.splice(1..1, more);
    });
    check("target `host`: 513 workspace buffers, at most 512", |m| {
        let tmp = m.buffers[2].clone();
        m.buffers.extend((0..511).map(|i| Buffer { name: format!("tmp{i}"), ..tmp.clone() }));
        let first = m.targets[1].regimes[1].launches[0].clone();
        let launches = (5..516)
            .map(|i| Launch { args: [vec![Arg::Buffer(2), Arg::Buffer(i)], first.args[2..].to_vec()].concat(), ..first.clone() });
        m.targets[1].regimes[1].launches.splice(1..1, launches);
    });
}

/// A bound is one of integers that a caller gives, a mask one of such integers of tokens.
#[test]
fn bounds_and_masks_are_those_of_numbers() {
    check("`x` has a bound, but no numbers", |m| m.buffers[0].below = Some(3));
    let integers = |m: &mut Manifest, name: &str, below: Option<u64>, mask: Option<&str>| {
        let (dtype, shape, mask) = (DType::I32, vec![Extent::Tokens], mask.map(str::to_string));
        m.buffers.push(Buffer { name: name.into(), dtype, shape, below, mask, ..m.buffers[0].clone() });
    };
    check("`ids` has a bound, but no numbers", |m| integers(m, "ids", Some(0), None));
    check("`ids` has a bound, but no numbers", |m| integers(m, "ids", Some(1 << 40), None));
    check("`ids` has the mask `mask`, which is no mask", |m| integers(m, "ids", Some(3), Some("mask")));
    check("`ids` has the mask `x`, which is no mask", |m| integers(m, "ids", Some(3), Some("x")));
    check("`ids` has the mask `mask`, which is no mask", |m| {
        integers(m, "mask", None, None);
        integers(m, "ids", None, Some("mask"));
    });
    let mut sound = fixture::manifest();
    integers(&mut sound, "ids", Some(3), Some("mask"));
    integers(&mut sound, "mask", None, None);
    assert!(Package::new(sound, images()).is_ok());
}

#[test]
fn ptx_is_held_to_the_manifest() {
    check("the PTX is for `sm_80`", |m| m.targets[0].name = "sm_90a".into());
    check("no entry `double`", |m| m.targets[0].kernels[0].symbol = "double".into());
    check("takes 5 parameters, in the PTX 4", |m| {
        m.targets[0].kernels[0].params.push(param(ParamKind::I32));
        for regime in &mut m.targets[0].regimes {
            regime.launches[0].args.push(Arg::ScalarI32(Extent::Tokens));
        }
    });
    for (ptx, expected) in [(vec![0xff, 0xfe], "not UTF-8"), (b".target sm_80\0".to_vec(), "NUL")] {
        let error = Package::new(fixture::manifest(), vec![ptx, Vec::new()]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn the_workspace_is_a_pure_monotone_function_of_the_dims() {
    let manifest = fixture::manifest();
    let host = manifest.targets.iter().find(|target| target.kind == TargetKind::Host).unwrap();
    // tmp is ceil(T / 3) * 3 rows of 16 bytes, counts 8 bytes, each rounded up to 256.
    let layout = workspace(&manifest, host, Dims::tokens(16)).unwrap();
    assert_eq!(layout.places.iter().map(|p| (p.buffer, p.offset, p.bytes)).collect::<Vec<_>>(), [(2, 256, 288), (3, 0, 8)]);
    assert_eq!(layout.bytes, 768);
    let mut before = 0;
    for tokens in 0..200 {
        let bytes = workspace(&manifest, host, Dims::tokens(tokens)).unwrap().bytes;
        assert!(bytes >= before);
        before = bytes;
    }
    assert!(workspace(&manifest, host, Dims::tokens(u64::MAX)).is_err());
    // A buffer that no launch of the target names takes no room.
    let mut larger = manifest.clone();
    let unused = Buffer { name: "unused".into(), ..larger.buffers[2].clone() };
    larger.buffers.push(unused);
    assert_eq!(workspace(&larger, host, Dims::tokens(16)).unwrap(), layout);
    assert_eq!(DType::Bf16.bytes(), 2);
}

/// Buffers that no launch uses at the same time share room; what a caller may read is in use to the end.
#[test]
fn workspace_is_used_again() {
    let mut manifest = fixture::manifest();
    // tmp (2) has ceil(T / 3) * 3 rows of 16 bytes, the others T rows.
    for name in ["b", "c", "d"] {
        let own = Buffer { name: name.into(), shape: vec![Extent::Tokens, Extent::Const(4)], ..manifest.buffers[2].clone() };
        manifest.buffers.push(own);
    }
    let [b, c, d] = [5, 6, 7];
    let target = manifest.targets[1].clone();
    let [first, last] = [0, 1].map(|at: usize| target.regimes[1].launches[at].clone());
    let numbers = || [Arg::ScalarI32(Extent::Const(4)), Arg::ScalarI64(Extent::Tokens)];
    let step = |from: u32, to: u32| Launch {
        args: [vec![Arg::Buffer(from), Arg::Buffer(to)], numbers().to_vec()].concat(),
        ..first.clone()
    };
    let end = Launch { args: [vec![Arg::Buffer(d)], last.args[1..].to_vec()].concat(), ..last };
    manifest.targets[1].regimes[1].launches = vec![step(0, 2), step(2, b), step(b, c), step(c, d), end];
    let layout = |manifest: &Manifest, tokens: u64| {
        let layout = workspace(manifest, &manifest.targets[1], Dims::tokens(tokens)).unwrap();
        (layout.places.iter().map(|p| (p.buffer, p.offset, p.bytes)).collect::<Vec<_>>(), layout.bytes)
    };
    // tmp, c and the counts, which the last launch writes, are never in use together, and neither are b and d.
    let places = vec![(2, 0, 288), (3, 0, 8), (5, 512, 256), (6, 0, 256), (7, 256, 256)];
    assert_eq!(layout(&manifest, 16), (places, 768));
    // Batches of the first regime have its places, and the length does not shrink beyond its largest batch.
    assert_eq!(layout(&manifest, 2), (vec![(2, 256, 48), (3, 0, 8)], 512));
    assert_eq!(layout(&manifest, 3).1, 512);
    manifest.targets[1].regimes[0].launches.insert(0, step(0, b));
    manifest.targets[1].regimes[0].launches.push(step(b, 2));
    manifest.buffers[5].shape[0] = Extent::Const(1000);
    assert_eq!(layout(&manifest, 2).1, 16_128 + 512);
    manifest.targets[1].regimes[1].launches = target.regimes[1].launches.clone();
    assert_eq!(layout(&manifest, 3), (vec![(2, 256, 48), (3, 0, 8)], 16_128 + 512));
    // What a caller may read keeps its place to the end.
    manifest.targets[1].regimes[1].launches = vec![step(0, 2), step(2, 6), step(6, 7)];
    assert_eq!(layout(&manifest, 16).0, [(2, 256, 288), (6, 0, 256), (7, 256, 256)]);
    manifest.buffers[2].observe = Some("tmp".into());
    assert_eq!(layout(&manifest, 16).0, [(2, 0, 288), (6, 512, 256), (7, 768, 256)]);
}

/// An order in which buffers lie well at the largest batch may suit no small one.
#[test]
fn the_order_of_buffers_suits_small_batches_too() {
    let mut manifest = fixture::manifest();
    let rows = [Extent::Const(1000), Extent::Tokens, Extent::Const(1000), Extent::Tokens * 2];
    for (name, rows) in ["a", "b", "c", "d"].into_iter().zip(rows) {
        let own = Buffer { name: name.into(), shape: vec![rows, Extent::Const(4)], ..manifest.buffers[2].clone() };
        manifest.buffers.push(own);
    }
    let [a, b, c, d] = [5, 6, 7, 8];
    let first = manifest.targets[1].regimes[1].launches[0].clone();
    let naming = |buffers: &[u32]| Launch { args: buffers.iter().map(|buffer| Arg::Buffer(*buffer)).collect(), ..first.clone() };
    manifest.targets[1].regimes[1].launches = vec![naming(&[0, a]), naming(&[a, b]), naming(&[b, c, d])];
    let layout = |tokens: u64| {
        let layout = workspace(&manifest, &manifest.targets[1], Dims::tokens(tokens)).unwrap();
        (layout.places.iter().map(|p| (p.buffer, p.offset, p.bytes)).collect::<Vec<_>>(), layout.bytes)
    };
    // Of rows of 16 bytes a thousand are 16128 bytes, rounded up. At T = 1000 d, which is 32000 bytes long, has room for a below it too, and
    // b and c can lie on both. At T = 3 d is 256 bytes long, and c would lie above a for nothing.
    let places = |d: u64, b: u64, rows: u64| vec![(5, 0, 16_000), (6, b, 16 * rows), (7, 0, 16_000), (8, d, 32 * rows)];
    assert_eq!(layout(3), (places(16_128, 16_384, 3), 16_384 + 256));
    assert_eq!(layout(1000), (places(16_128, 48_128, 1000), 48_128 + 16_128));
}

/// What statistics say of themselves is held against the buffers.
#[test]
fn statistics_name_buffers_that_fit() {
    let with = |edit: &dyn Fn(&mut Routing)| {
        let slots = Slots {
            load: "load".into(),
            kept: "load".into(),
            tokens: None,
            experts: None,
            rows: None,
            probability: None,
            z: None,
            importance: None,
            aux_loss: None,
            z_loss: None,
        };
        let (experts, rowless, top_k) = (2, 0, 1);
        let mut routing = Routing {
            slots,
            experts,
            rowless,
            top_k,
            joint_shared: 0,
            by_sequence: false,
            corrected: false,
            grouped: false,
            rows_at_capacity: None,
            capacity_factor: None,
        };
        edit(&mut routing);
        let mut manifest = fixture::manifest();
        manifest.targets[0].statistics = Some(routing);
        Package::new(manifest, images()).map(|package| package.to_bytes().map(|bytes| read(&bytes) == Ok(package)))
    };
    assert_eq!(with(&|_| ()), Ok(Ok(true)));
    assert_eq!(with(&|r| r.capacity_factor = Some([5, 4])), Ok(Ok(true)));
    let refused = |why: &str, edit: &dyn Fn(&mut Routing)| {
        let error = with(edit).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused("is observed as `kept`", &|r| r.slots.kept = "kept".into());
    refused("no i32 of 1 dimensions, the last of 3", &|r| r.experts = 3);
    refused("no i32 of 2 dimensions", &|r| r.slots.rows = Some("load".into()));
    refused("no i32 of 2 dimensions", &|r| r.slots.experts = Some("load".into()));
    refused("no f32 of 2 dimensions", &|r| r.slots.probability = Some("load".into()));
    refused("no f32 of 1 dimensions", &|r| r.slots.importance = Some("load".into()));
    refused("the last of 1", &|r| r.slots.aux_loss = Some("load".into()));
    refused("no f32 of 1 dimension is observed as `load`", &|r| r.slots.z = Some("load".into()));
    refused("no expert has rows", &|r| r.rowless = 2);
    refused("1 shared experts beside no pick", &|r| (r.joint_shared, r.rowless) = (1, 1));
    refused("a capacity factor of 0", &|r| r.capacity_factor = Some([1, 0]));
    refused("0 of 2 experts", &|r| r.top_k = 0);
    refused("too deep", &|r| r.rows_at_capacity = Some((0..40).fold(Extent::Tokens, |e, _| e + 1)));
}
