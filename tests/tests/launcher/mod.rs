//! Libraries that moec makes, from outside: programs of `tests/c/`, which have the C ABI's header and nothing else of moec.
//! `host` runs them on this CPU, `arm` on an emulated one, `gpu` against a driver that runs nothing, `rust` and `python` those of
//! `tests/rust/` and `tests/python/`; `xla` calls the handler of XLA's FFI. Where there is no C compiler they are skipped.

mod arm;
mod gpu;
mod host;
mod python;
mod rust;
mod xla;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use moec::import::Entry;
use moec::library::{ABI_HEADER, Kind, Library};
use moec_ir::Machine;
use moec_runtime::Package;
use moec_runtime::package::Manifest;
use moec_tests::built::compiled;
use moec_tests::{Fixture, fixtures, machine, root, skipped};

/// The two layers: published blocks with results, of as many tokens.
const LAYERS: [&str; 2] = ["mixtral", "qwen2_moe"];
/// Warnings of C and of C++ that are errors.
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Where the libraries are made; `None`, said aloud, where there is no C compiler.
fn room() -> Option<&'static Path> {
    static ROOM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        if !cfg!(target_os = "linux") || !starts("cc") {
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("launcher");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("moec_abi.h"), ABI_HEADER).unwrap();
        for (layer, machines) in LAYERS.iter().zip([vec![host(), machine("sm_80"), machine("sm_90a")], vec![host()]]) {
            put(&folder, &package(&block(layer), &machines));
        }
        put(&folder, &gpu::everything());
        Some(folder)
    });
    if ROOM.is_none() {
        skipped("launcher", "it needs Linux and `cc`, a C compiler");
    }
    ROOM.as_deref()
}

fn starts(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// That every CPU here can run, so that sizes in texts are those of any machine.
fn host() -> Machine {
    machine("x86-64-v3")
}

fn block(name: &str) -> Fixture {
    fixtures().into_iter().find(|fixture| fixture.name == name).unwrap_or_else(|| panic!("there is no block {name}"))
}

fn package(block: &Fixture, machines: &[Machine]) -> Package {
    compiled(&block.spec, Entry::Layer, &block.text, machines).unwrap()
}

/// The package under another name of its layer, and changed.
fn changed(package: &Package, name: &str, change: impl FnOnce(&mut Manifest)) -> Package {
    let mut manifest = package.manifest().clone();
    manifest.layer = name.to_string();
    change(&mut manifest);
    Package::new(manifest, package.images().to_vec()).unwrap()
}

/// Writes a layer's files.
fn put(folder: &Path, package: &Package) {
    put_kinds(folder, package, &[Kind::C, Kind::Header, Kind::Rust, Kind::RustCudarc, Kind::Object, Kind::Static, Kind::Shared]);
}

fn put_kinds(folder: &Path, package: &Package, kinds: &[Kind]) {
    let library = Library::new(std::slice::from_ref(package)).unwrap();
    for file in kinds.iter().flat_map(|kind| library.files(*kind, None).unwrap()) {
        fs::write(folder.join(file.name), file.bytes).unwrap();
    }
}

/// A compiler's run in the room, which succeeds; `@` stands for the folder `tests/c`.
#[track_caller]
fn compile(compiler: &str, out: &str, arguments: &[&str]) {
    let (room, sources) = (room().unwrap(), root().join("tests/c"));
    let arguments = arguments.iter().map(|argument| argument.replace('@', &sources.to_string_lossy()));
    let output = Command::new(compiler)
        .args(STRICT)
        .args(["-O1", "-g", "-I."])
        .args(arguments)
        .args(["-lpthread", "-o", out])
        .current_dir(room)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{compiler} of {out}: {told}");
}

/// A program of `tests/c/` in C11, with a library of each of these layers.
#[track_caller]
fn program(out: &str, source: &str, layers: &[&str], how: Linked) {
    let named = ["FIRST", "SECOND"].iter().zip(layers).map(|(place, layer)| format!("-D{place}={layer}"));
    let libraries = layers.iter().flat_map(|layer| match how {
        Linked::Static => vec![format!("lib{layer}.a")],
        Linked::Shared => vec![format!("lib{layer}.so"), "-Wl,-rpath,$ORIGIN".to_string()],
        Linked::Source => vec![format!("{layer}.c"), format!("{layer}.o")],
    });
    let all: Vec<String> = ["-std=c11".to_string(), format!("@/{source}")].into_iter().chain(named).chain(libraries).collect();
    compile("cc", out, &all.iter().map(String::as_str).collect::<Vec<_>>());
}

/// What a program is linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linked {
    Static,
    Shared,
    /// The launcher as C, and the object.
    Source,
}

/// What a program of the room says, which succeeds.
#[track_caller]
fn said(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let room = room().unwrap();
    let mut command = Command::new(room.join(program));
    let output =
        command.args(arguments).current_dir(room).env_remove("LD_LIBRARY_PATH").envs(environment.iter().copied()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}
