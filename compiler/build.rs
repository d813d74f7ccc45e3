//! Compiles the launcher that `moec` puts into libraries, so that making one needs no compiler; and tells the compiler which commit
//! it is built from, for `moec --version`. A source tree that is no checkout of its own has none, and is built all the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    launcher();
    let Some(commit) = commit() else { return };
    println!("cargo::rustc-env=MOEC_COMMIT={commit}");
    // What changes with every commit and every checkout. A path that is not there would run this again every time.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| root().join(path).exists()) {
            println!("cargo::rerun-if-changed={}", root().join(path).display());
        }
    }
}

/// Writes `launcher.o`: empty where moec cannot link libraries, since it knows none but x86-64 Linux's.
fn launcher() {
    let (launcher, include) = (root().join("runtime/launcher"), root().join("runtime/include"));
    println!("cargo::rerun-if-changed={}", launcher.display());
    println!("cargo::rerun-if-changed={}", include.display());
    let target = env::var("TARGET").unwrap_or_default();
    let is_linked = target.starts_with("x86_64-") && target.contains("-linux-");
    let object = if is_linked { compiled(&launcher, &include) } else { Vec::new() };
    let path = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("launcher.o");
    if let Err(error) = fs::write(&path, object) {
        println!("cargo::error=cannot write {}: {error}", path.display());
    }
}

/// An object that finds what is not its own through addresses that a loader fills in, and that needs libc alone.
fn compiled(launcher: &Path, include: &Path) -> Vec<u8> {
    const FLAGS: [&str; 9] = [
        "-fvisibility=hidden",
        "-fno-plt",
        "-fno-stack-protector",
        "-fno-asynchronous-unwind-tables",
        "-fcf-protection=none",
        "-U_FORTIFY_SOURCE",
        // Whatever CFLAGS say.
        "-fno-lto",
        "-march=x86-64",
        "-mtls-dialect=gnu",
    ];
    let mut build = cc::Build::new();
    build.file(launcher.join("library.c")).include(include).std("c11").opt_level(2).pic(true).debug(false).cargo_metadata(false);
    for flag in FLAGS {
        build.flag_if_supported(flag);
    }
    let objects = build.compile_intermediates();
    let read = objects.first().map(fs::read).unwrap_or_else(|| Ok(Vec::new()));
    read.unwrap_or_else(|error| {
        println!("cargo::error=cannot read the launcher's object: {error}");
        Vec::new()
    })
}

/// The repository's root, of which this crate is a folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// As many digits wherever it is built. A checkout of something else around the source says nothing about it.
fn commit() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let is_own = Path::new(&top).canonicalize().ok()? == root().canonicalize().ok()?;
    is_own.then(|| git(&["rev-parse", "--short=12", "HEAD"])).flatten()
}

/// What git says, if it is there and has an answer.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_string())
}
