//! The example program on a package that was just compiled: what it prints, and what it says where something is wrong.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use moec::diagnostics::Source;
use moec::import::Entry;
use moec::pipeline::{compile, this_host};
use moec_codegen::Options;
use moec_runtime::package::{Package, Role};
use moec_runtime::{Tensor, weights};

const TINY: &str = include_str!("../specs/tiny.toml");

fn tiny() -> Package {
    let source = Source { name: "tiny.toml".to_string(), text: TINY.to_string() };
    let spec = moec::spec::parse(&source).unwrap();
    compile(&spec, Entry::Layer, TINY, &[this_host().unwrap()], &Options::default()).unwrap()
}

fn run(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_run_package")).args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_string).collect()
}

/// The numbers of a line such as `stats.load: [1, 2]`.
fn numbers(line: &str) -> Vec<u64> {
    let inner = line.split('[').nth(1).unwrap().trim_end_matches(']');
    inner.split(", ").map(|number| number.parse().unwrap()).collect()
}

#[test]
fn a_package_runs_on_random_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.moec");
    fs::write(&path, tiny().to_bytes().unwrap()).unwrap();
    let said = lines(&run(&[&path]));
    assert!(said[0].starts_with("tiny on x86-64-") && said[0].contains(": 64 tokens in "), "{said:?}");
    assert!(said[1].starts_with("y: f32 [64, 64], mean magnitude 0."), "{said:?}");
    let (load, kept) = (numbers(&said[2]), numbers(&said[3]));
    assert_eq!((load.len(), load.iter().sum::<u64>()), (8, 64 * 2), "{said:?}");
    // A capacity of 1.25 * 64 * 2 / 8 pairs an expert.
    let expected: Vec<u64> = load.iter().map(|load| *load.min(&20)).collect();
    assert_eq!(kept, expected, "{said:?}");
    // All but the time is the same every time.
    assert_eq!(said[1..], lines(&run(&[&path]))[1..]);
}

#[test]
fn a_package_runs_on_a_checkpoint() {
    let (folder, package) = (tempfile::tempdir().unwrap(), tiny());
    let path = folder.path().join("tiny.moec");
    fs::write(&path, package.to_bytes().unwrap()).unwrap();
    // Zero weights: every token ties, the lower experts are picked, the output is zero.
    let buffers = package.manifest().buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    let tensors: Vec<(String, Tensor)> = buffers
        .map(|buffer| {
            let shape: Vec<u64> = buffer.shape.iter().map(|n| n.as_const().unwrap().try_into().unwrap()).collect();
            let zeros = vec![0.0; shape.iter().product::<u64>() as usize];
            (format!("layer.{}", buffer.name), Tensor::from_f32(buffer.dtype, shape, &zeros).unwrap())
        })
        .collect();
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let checkpoint = folder.path().join("zeros.safetensors");
    fs::write(&checkpoint, weights::to_safetensors(&named).unwrap()).unwrap();

    let said = lines(&run(&[&path, &checkpoint, Path::new("layer.")]));
    assert_eq!(said[1], "y: f32 [64, 64], mean magnitude 0.000000");
    assert_eq!(numbers(&said[2]), [64, 64, 0, 0, 0, 0, 0, 0]);
    assert_eq!(numbers(&said[3]), [20, 20, 0, 0, 0, 0, 0, 0]);

    let wrong = run(&[&path, &checkpoint, Path::new("no.")]);
    assert_eq!(wrong.status.code(), Some(1));
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(message.starts_with("error: ") && message.contains("no.router"), "{message}");
}

#[test]
fn what_is_not_a_package_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.toml");
    fs::write(&path, TINY).unwrap();
    let wrong = run(&[&path]);
    assert_eq!(wrong.status.code(), Some(1));
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(message.contains("not a moec package"), "{message}");
    assert_eq!(run(&[]).status.code(), Some(2));
}
