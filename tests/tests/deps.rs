//! Which crate may depend on which. `cargo tree` says which does; ARCHITECTURE.md says why.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
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

const CRATES: [&str; 6] = ["moec", "moec-build", "moec-codegen", "moec-ir", "moec-runtime", "ptx-emulator"];

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

/// A build script waits for what it links: the compiler is a program that it runs.
#[test]
fn build_scripts_link_nothing() {
    assert_eq!(linked("moec-build", &[]), BTreeSet::new());
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

/// A spec is read, checked and lowered to kernels without LLVM: tests of a lowering do not build it.
#[test]
fn lowering_needs_no_llvm() {
    let without = ["--no-default-features"];
    assert!(!linked("moec", &without).contains("llvm-sys") && !linked("moec-codegen", &without).contains("llvm-sys"));
    let example = linked("snapshot-your-lowering", &["--edges", "dev,build"]);
    assert!(example.contains("moec") && !example.contains("inkwell") && !example.contains("llvm-sys"), "{example:?}");
}

/// LLVM is linked in one of two ways; llvm-sys refuses both together.
#[test]
fn llvm_is_linked_in_one_way() {
    let ways = |features: &[&str]| -> Vec<&str> {
        let arguments =
            ["tree", "--offline", "--edges", "features", "--prefix", "none", "--package", "moec", "--invert", "llvm-sys"];
        let output = Command::new(env!("CARGO")).args(arguments).args(features).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        ["prefer-dynamic", "force-dynamic", "prefer-static", "force-static"]
            .into_iter()
            .filter(|way| text.contains(&format!("llvm-sys feature \"{way}\"")))
            .collect()
    };
    assert_eq!(ways(&[]), ["prefer-dynamic"]);
    assert_eq!(ways(&["--no-default-features", "--features", "static"]), ["force-static"]);
    assert_eq!(ways(&["--workspace"]), ["prefer-dynamic"]);
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
    // The manifest's schema is for the compiler to print.
    assert!(all.contains("schemars") && !linked("moec-runtime", &[]).contains("schemars"));
}

/// What checks a machine with a GPU needs neither LLVM there nor the compiler: it has what the compiler is compared with.
#[test]
fn the_gpu_kit_links_no_compiler() {
    assert_eq!(rooms("moec-gpu-kit", &[]), ["moec-ir", "moec-runtime", "ptx-emulator"]);
    assert!(!linked("moec-gpu-kit", &[]).contains("inkwell"));
}

/// Meaning is not serialised: what is read back has its own text form.
#[test]
fn the_ir_is_not_a_file_format() {
    let linked = linked("moec-ir", &[]);
    assert!(["serde", "serde_json", "libloading", "rayon"].iter().all(|name| !linked.contains(*name)), "{linked:?}");
}

/// Whether the allowed licences are enough for an expression such as `(MIT OR Apache-2.0) AND Unicode-3.0`.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let parts = |of: &str, by: &str| -> Option<Vec<String>> {
        let (mut parts, mut depth) = (vec![String::new()], 0);
        for word in of.replace('(', "( ").replace(')', " )").split_whitespace() {
            depth += i32::from(word == "(") - i32::from(word == ")");
            match (word == by && depth == 0, parts.last_mut()) {
                (true, _) | (false, None) => parts.push(String::new()),
                (false, Some(part)) => *part += &format!(" {word}"),
            }
        }
        (parts.len() > 1).then_some(parts)
    };
    let text = expression.trim().replace('/', " OR ");
    if let Some(all) = parts(&text, "AND") {
        return all.iter().all(|part| is_allowed(part, allowed));
    }
    if let Some(any) = parts(&text, "OR") {
        return any.iter().any(|part| is_allowed(part, allowed));
    }
    match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(inner) => is_allowed(inner, allowed),
        None => allowed.contains(&text.as_str()),
    }
}

#[test]
fn licences_are_read_as_spdx_says() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"];
    for yes in ["MIT", "GPL-3.0 OR MIT", "Unlicense/MIT", "(MIT OR Zlib) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"] {
        assert!(is_allowed(yes, &allowed), "{yes}");
    }
    for no in ["GPL-3.0", "MIT AND GPL-3.0", "(Zlib OR GPL-3.0) AND MIT", "ISC/Zlib", ""] {
        assert!(!is_allowed(no, &allowed), "{no}");
    }
}

/// What deny.toml says, without cargo-deny: licences, sources, and crates that are there in one version but for those it names.
#[test]
fn dependencies_are_what_deny_toml_allows() {
    let deny: toml::Table = std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let list = |table: &str, key: &str| deny[table][key].as_array().unwrap().clone();
    let licences = list("licenses", "allow");
    let licences: Vec<&str> = licences.iter().map(|licence| licence.as_str().unwrap()).collect();
    let registries = list("sources", "allow-registry");
    let skipped = list("bans", "skip");
    let skipped: BTreeSet<&str> = skipped.iter().map(|skip| skip["crate"].as_str().unwrap()).collect();
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let (mut versions, mut used) = (BTreeMap::<String, Vec<String>>::new(), BTreeSet::new());
    for package in lock["package"].as_array().unwrap() {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_string();
        let (name, version, source) = (text("name"), text("version"), text("source"));
        if source.is_empty() {
            continue; // Of this repository.
        }
        let registry = registries.iter().any(|registry| source.strip_prefix("registry+") == registry.as_str());
        assert!(registry, "{name}: {source}");
        let of = |skip: &&&str| {
            let (crate_name, of) = skip.split_once(':').unwrap_or((skip, ""));
            crate_name == name && (version == of || version.starts_with(&format!("{of}.")))
        };
        match skipped.iter().find(of) {
            Some(skip) => used.extend([*skip]),
            None => versions.entry(name).or_default().push(version),
        }
    }
    let twice: Vec<_> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(twice.is_empty(), "in several versions: {twice:?}");
    assert_eq!(used, skipped, "deny.toml names what is there");

    // What a crate says of itself is read of those for this system: others are not there on a machine that has only built this.
    let rustc = Command::new("rustc").arg("-vV").current_dir(root()).output().unwrap();
    let host = String::from_utf8(rustc.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1", "--all-features", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| !package["source"].is_null()) {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &licences), "{}: {licence}", package["name"]);
    }
}
