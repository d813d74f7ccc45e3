//! Tells the compiler which commit it is built from, for `moec --version`. A source tree that is no checkout of its own has
//! none, and is built all the same.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let Some(commit) = commit() else { return };
    println!("cargo::rustc-env=MOEC_COMMIT={commit}");
    // What changes with every commit and every checkout. A path that is not there would run this again every time.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| root().join(path).exists()) {
            println!("cargo::rerun-if-changed={}", root().join(path).display());
        }
    }
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
