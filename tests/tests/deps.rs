//! Which crate may depend on which. `cargo tree` says which does; ARCHITECTURE.md says why.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::process::Command;

use moec_tests::root;

/// What a crate links, itself left out.
fn linked(package: &str, features: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package])
        .args(features)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let all: BTreeSet<String> = names.map(str::to_string).collect();
    assert!(all.contains(package), "{text}");
    all.into_iter().filter(|name| name != package).collect()
}

const CRATES: [&str; 5] = ["moec", "moec-codegen", "moec-ir", "moec-runtime", "ptx-emulator"];

/// Of what a crate links, the crates of this repository.
fn rooms(package: &str, features: &[&str]) -> Vec<String> {
    let ours = |name: &String| CRATES.contains(&name.as_str()) || name.starts_with("moec");
    linked(package, features).into_iter().filter(ours).collect()
}

#[test]
fn the_ir_depends_on_no_room() {
    assert_eq!(rooms("moec-ir", &[]), [""; 0]);
}

#[test]
fn codegen_depends_on_the_ir_alone() {
    assert_eq!(rooms("moec-codegen", &[]), ["moec-ir"]);
}

/// Nor on the emulator, unless that device is asked for.
#[test]
fn the_runtime_depends_on_no_room() {
    assert_eq!(rooms("moec-runtime", &[]), [""; 0]);
    assert_eq!(rooms("moec-runtime", &["--features", "emulator"]), ["ptx-emulator"]);
}

#[test]
fn the_emulator_depends_on_nothing_at_all() {
    assert_eq!(linked("ptx-emulator", &[]), BTreeSet::new());
}

/// The emulator it reaches through the runtime, as a device.
#[test]
fn the_compiler_depends_on_the_three() {
    assert_eq!(rooms("moec", &["--depth", "1"]), ["moec-codegen", "moec-ir", "moec-runtime"]);
    assert_eq!(rooms("moec", &[]), ["moec-codegen", "moec-ir", "moec-runtime", "ptx-emulator"]);
}

/// One crate calls LLVM; only it and the crates that call it link LLVM.
#[test]
fn llvm_is_in_codegen() {
    let with_llvm: Vec<&str> = CRATES.into_iter().filter(|room| linked(room, &[]).contains("inkwell")).collect();
    assert_eq!(with_llvm, ["moec", "moec-codegen"]);
}

/// A machine that only runs packages builds neither the compiler's parts nor, where it does not ask for it, a GPU's.
#[test]
fn the_runtime_is_thin() {
    let all = linked("moec-runtime", &["--all-features"]);
    for heavy in ["inkwell", "llvm-sys", "egg", "clap", "toml", "annotate-snippets", "indicatif", "maud", "which", "zip"] {
        assert!(!all.contains(heavy), "moec-runtime links {heavy}");
    }
    assert!(all.contains("cudarc"));
    let host = linked("moec-runtime", &["--no-default-features", "--features", "host"]);
    assert!(!host.contains("cudarc") && host.contains("libloading"), "{host:?}");
    let neither = linked("moec-runtime", &["--no-default-features"]);
    assert!(!neither.contains("libloading"), "{neither:?}");
}

/// Meaning is not serialised: what is read back has its own text form.
#[test]
fn the_ir_is_not_a_file_format() {
    let linked = linked("moec-ir", &[]);
    assert!(["serde", "serde_json", "libloading", "rayon"].iter().all(|name| !linked.contains(*name)), "{linked:?}");
}
