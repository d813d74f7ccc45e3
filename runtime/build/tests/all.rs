//! What a build script is told, with a script in the place of moec. `examples/engines/rust` is the same with moec itself.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use moec_build::{Built, Error, Spec};

/// A folder with a spec, an `OUT_DIR`, and a moec in `bin/` that writes down how it was called.
struct Machine {
    folder: tempfile::TempDir,
    variables: HashMap<&'static str, OsString>,
}

const MOEC: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$2" in *wrong*) echo "error[MOE0103]: router.mode cannot be this" >&2; exit 1 ;; esac
while [ "$1" != --out-dir ]; do shift; done
echo library > "$2/libtiny_layer.a"
echo module > "$2/tiny_layer.rs"
echo cudarc > "$2/tiny_layer_cudarc.rs"
"#;

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("bin")).unwrap();
        fs::create_dir_all(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("moe.toml"), "[moe]\nname = \"tiny-layer\"\n").unwrap();
        let moec = folder.path().join("bin/moec");
        fs::write(&moec, MOEC).unwrap();
        fs::set_permissions(&moec, fs::Permissions::from_mode(0o755)).unwrap();
        let mut machine = Machine { folder, variables: HashMap::new() };
        for (name, value) in
            [("CARGO_CFG_TARGET_ARCH", "x86_64"), ("CARGO_CFG_TARGET_OS", "linux"), ("TARGET", "x86_64-unknown-linux-gnu")]
        {
            machine.variables.insert(name, value.into());
        }
        machine.set("OUT_DIR", "out");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A variable that names something in the folder.
    fn set(&mut self, name: &'static str, path: &str) {
        let path = self.path(path);
        self.variables.insert(name, path.into());
    }

    fn compile(&self, spec: Spec) -> Result<(Built, String), Error> {
        let mut told = Vec::new();
        let built = spec.compile_with(&|name| self.variables.get(name).cloned(), &mut told)?;
        Ok((built, String::from_utf8(told).unwrap()))
    }

    fn spec(&self) -> Spec {
        Spec::new(self.path("moe.toml"))
    }

    /// How moec was called.
    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path("bin/calls")).unwrap_or_default().lines().map(str::to_string).collect()
    }
}

#[test]
fn cargo_is_told_what_to_link_and_when_to_run_again() {
    let mut machine = Machine::new();
    machine.set("PATH", "bin");
    let (built, told) = machine.compile(machine.spec().target("sm_90a").target("x86-64-v3")).unwrap();
    assert_eq!(built.prefix, "tiny_layer");
    assert_eq!(built.module, machine.path("out/tiny_layer.rs"));
    assert_eq!(fs::read_to_string(&built.module).unwrap(), "module\n");
    assert_eq!(fs::read_to_string(&built.archive).unwrap(), "library\n");
    let folder = built.archive.parent().unwrap();
    assert!(folder.starts_with(machine.path("out")), "{folder:?}");
    for line in [
        format!("cargo::rerun-if-changed={}", machine.path("moe.toml").display()),
        format!("cargo::rerun-if-changed={}", machine.path("bin/moec").display()),
        "cargo::rerun-if-env-changed=MOEC".to_string(),
        "cargo::rerun-if-env-changed=MOEC_PREBUILT_DIR".to_string(),
        format!("cargo::rustc-link-search=native={}", folder.display()),
        "cargo::rustc-link-lib=static=tiny_layer".to_string(),
    ] {
        assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
    }
    let [call] = &machine.calls()[..] else { panic!("{:?}", machine.calls()) };
    assert!(call.contains("--target sm_90a,x86-64-v3 --emit rust,staticlib"), "{call}");
}

#[test]
fn without_a_target_it_is_the_host() {
    let mut machine = Machine::new();
    machine.set("MOEC", "bin/moec");
    let layer = machine.compile(machine.spec()).unwrap().0.archive;
    let experts = machine.compile(machine.spec().entry("experts")).unwrap().0.archive;
    // One build script may have both.
    assert!(layer != experts && layer.is_file() && experts.is_file(), "{layer:?} {experts:?}");
    assert!(machine.calls()[0].contains("--target host --emit"), "{:?}", machine.calls());
    assert!(machine.calls()[1].contains("--target host --entry experts --emit"), "{:?}", machine.calls());
}

/// The module has one name, whether cudarc is in it or not.
#[test]
fn a_module_for_cudarc() {
    let mut machine = Machine::new();
    machine.set("MOEC", "bin/moec");
    let (built, _) = machine.compile(machine.spec().target("sm_90a").cudarc()).unwrap();
    assert_eq!(built.module, machine.path("out/tiny_layer.rs"));
    assert_eq!(fs::read_to_string(&built.module).unwrap(), "cudarc\n");
    assert!(machine.calls()[0].contains("--target sm_90a --emit rust-cudarc,staticlib"), "{:?}", machine.calls());
}

/// A second run leaves nothing of the first: a layer may have been renamed.
#[test]
fn what_an_earlier_run_left_is_removed() {
    let mut machine = Machine::new();
    machine.set("MOEC", "bin/moec");
    let (built, _) = machine.compile(machine.spec()).unwrap();
    fs::write(built.archive.with_file_name("libold.a"), "").unwrap();
    assert_eq!(machine.compile(machine.spec()).unwrap().0, built);
}

#[test]
fn what_one_machine_keeps_another_uses_without_moec() {
    let mut machine = Machine::new();
    machine.set("MOEC", "bin/moec");
    machine.set("MOEC_PREBUILT_DIR", "kept");
    let (built, _) = machine.compile(machine.spec()).unwrap();
    assert!(built.archive.starts_with(machine.path("kept")), "{built:?}");

    machine.variables.remove("MOEC");
    fs::remove_file(machine.path("out/tiny_layer.rs")).unwrap();
    let (again, told) = machine.compile(machine.spec()).unwrap();
    assert_eq!(again, built);
    assert!(built.module.is_file() && told.contains("static=tiny_layer"), "{told}");
    assert_eq!(machine.calls().len(), 1);

    // It is of one spec, one list of targets and one kind of module.
    let stale = |result: Result<(Built, String), Error>| matches!(result, Err(Error::Stale { .. }));
    assert!(stale(machine.compile(machine.spec().target("x86-64-v4"))));
    assert!(stale(machine.compile(machine.spec().entry("experts"))));
    assert!(stale(machine.compile(machine.spec().cudarc())));
    fs::write(machine.path("moe.toml"), "[moe]\nname = \"another\"\n").unwrap();
    assert!(stale(machine.compile(machine.spec())));
}

#[test]
fn errors_say_what_to_do() {
    let error = |machine: &Machine, spec: Spec| machine.compile(spec).unwrap_err();
    let says = |error: &Error, words: &[&str]| {
        // What cargo shows of a build script's `main` is Debug.
        let text = format!("{error:?}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let mut machine = Machine::new();
    says(&error(&machine, machine.spec()), &["no moec in PATH", "MOEC_PREBUILT_DIR", "cargo build --release --package moec"]);
    machine.set("MOEC", "absent");
    says(&error(&machine, machine.spec()), &["absent", "is no file"]);
    machine.set("MOEC", "bin/moec");
    says(&error(&machine, Spec::new("absent.toml")), &["absent.toml", "Cargo.toml"]);
    let wrong = machine.path("wrong.toml");
    fs::write(&wrong, "").unwrap();
    says(&error(&machine, Spec::new(&wrong)), &["wrong.toml", "error[MOE0103]: router.mode cannot be this"]);
    machine.variables.insert("CARGO_CFG_TARGET_ARCH", "aarch64".into());
    machine.variables.insert("TARGET", "aarch64-apple-darwin".into());
    says(&error(&machine, machine.spec()), &["aarch64-apple-darwin", "x86-64 Linux"]);
    machine.variables.remove("OUT_DIR");
    assert_eq!(error(&machine, machine.spec()), Error::NoBuildScript);
}

/// Specs of one name in two folders do not overwrite each other.
#[test]
fn folders_follow_the_paths_of_specs() {
    let mut machine = Machine::new();
    machine.set("MOEC", "bin/moec");
    let libraries: Vec<PathBuf> = ["a", "b"]
        .map(|folder| {
            fs::create_dir(machine.path(folder)).unwrap();
            let spec = machine.path(folder).join("moe.toml");
            fs::write(&spec, "").unwrap();
            machine.compile(Spec::new(spec)).unwrap().0.archive
        })
        .into();
    assert_ne!(libraries[0], libraries[1]);
    assert!(libraries.iter().all(|library| Path::is_file(library)));
}
