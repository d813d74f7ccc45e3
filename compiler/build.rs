//! Compiles the launcher that `moec` puts into libraries, so that making one needs no compiler: for each architecture that there is a
//! C compiler for. And tells the compiler which commit it is built from, for `moec --version`. A source tree that is no checkout of its own has none, and is built all the same.

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

/// An architecture for which moec links libraries.
struct Architecture {
    /// As targets of Rust and names of files begin.
    name: &'static str,
    /// The target of Rust, by which `cc` finds a compiler on machines of other kinds.
    triple: &'static str,
    flags: &'static [&'static str],
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        name: "x86_64",
        triple: "x86_64-unknown-linux-gnu",
        flags: &["-fcf-protection=none", "-march=x86-64", "-mtls-dialect=gnu"],
    },
    Architecture {
        name: "aarch64",
        triple: "aarch64-unknown-linux-gnu",
        flags: &["-mbranch-protection=none", "-march=armv8-a", "-mno-outline-atomics", "-mtls-dialect=desc"],
    },
];

/// What all of them have: an object finds what is not its own through addresses that a loader fills in, and needs libc alone.
const FLAGS: [&str; 6] = [
    "-fvisibility=hidden",
    "-fno-plt",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-U_FORTIFY_SOURCE",
    // Whatever CFLAGS say.
    "-fno-lto",
];

/// Writes a launcher for each architecture. Empty where there is none: moec then says so when it is to link one.
fn launcher() {
    let (launcher, include) = (root().join("runtime/launcher"), root().join("runtime/include"));
    println!("cargo::rerun-if-changed={}", launcher.display());
    println!("cargo::rerun-if-changed={}", include.display());
    let [target, out] = ["TARGET", "OUT_DIR"].map(|name| env::var(name).unwrap_or_default());
    for of in &ARCHITECTURES {
        let is_own = target.starts_with(of.name) && target.contains("-linux-");
        if !is_own {
            println!("cargo::rerun-if-env-changed=CC_{}", of.triple.replace('-', "_"));
        }
        let compiled = compiled(of, is_own, &launcher, &include, Path::new(&out));
        // What others are compiled for is a gain where it is there; without its own launcher moec is broken.
        let object = compiled.unwrap_or_else(|error| {
            if is_own {
                println!("cargo::error=cannot compile the launcher: {error}");
            }
            Vec::new()
        });
        let path = Path::new(&out).join(format!("launcher-{}.o", of.name));
        if let Err(error) = fs::write(&path, object) {
            println!("cargo::error=cannot write {}: {error}", path.display());
        }
    }
}

fn compiled(of: &Architecture, is_own: bool, launcher: &Path, include: &Path, out: &Path) -> Result<Vec<u8>, String> {
    let mut build = cc::Build::new();
    if !is_own {
        build.target(of.triple).cargo_warnings(false);
    }
    build.file(launcher.join("library.c")).include(include).out_dir(out.join(of.name));
    build.std("c11").opt_level(2).pic(true).debug(false).cargo_metadata(false);
    for flag in FLAGS.iter().chain(of.flags) {
        build.flag_if_supported(flag);
    }
    let objects = build.try_compile_intermediates().map_err(|error| error.to_string())?;
    let object = objects.first().ok_or("there is no object")?;
    fs::read(object).map_err(|error| error.to_string())
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
