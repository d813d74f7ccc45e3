//! Runs moec as a user would, and settles what differs from machine to machine.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// moec, in the folder of the wrong specs, without ptxas.
pub(crate) fn moec(arguments: &[&str]) -> Output {
    moec_with_input(arguments, "")
}

pub(crate) fn moec_with_input(arguments: &[&str], input: &str) -> Output {
    start(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad_specs")), arguments, &[], input)
}

/// moec in this folder.
pub(crate) fn moec_in(folder: &Path, arguments: &[&str]) -> Output {
    start(folder, arguments, &[], "")
}

/// A folder that is not there and cannot be made.
pub(crate) const NO_FOLDER: &str = "/dev/null/none";

pub(crate) fn start(folder: &Path, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let mut child = spawn(folder, arguments, variables);
    // A command that reads no input may be gone before all of it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// moec under way; its input is open.
pub(crate) fn spawn(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_moec"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("MOEC_TARGET")
        .env_remove("CLICOLOR_FORCE")
        .env("MOEC_PTXAS", "")
        .env("MOEC_FATBINARY", "")
        // What is remembered of this machine is no part of what a test compares.
        .env("XDG_CACHE_HOME", NO_FOLDER)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a command that succeeded printed.
#[track_caller]
pub(crate) fn product(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

/// Where an example's spec is.
pub(crate) fn example(name: &str) -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/specs/").to_string() + name
}

/// Where a published block's spec (`toml`) or tensors (`safetensors`) are.
pub(crate) fn fixture(name: &str, extension: &str) -> String {
    format!("{}/../tests/fixtures/huggingface/{name}.{extension}", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The names in a folder, in order.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

pub(crate) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Text without what another machine or another optimiser would change: times, sizes of code, errors in the last place.
pub(crate) fn settled(text: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("time ") && line.contains(" a batch") {
            return "time        <time>".to_string();
        }
        if let Some((layer, _)) = line.split_once(", x86-64-v").filter(|_| line.starts_with("layer ")) {
            return format!("{layer}, <host>");
        }
        let words: Vec<&str> = line.split(' ').collect();
        let settled = words.iter().enumerate().map(|(at, word)| {
            let digits = word.trim_matches(['(', ')', ',']);
            let is_number = digits.parse::<f64>().is_ok();
            let next = words.get(at + 1).map_or("", |next| next.trim_end_matches(|c: char| !c.is_alphanumeric()));
            let is_size = is_number && ["B", "kB", "MB", "GB", "instructions", "expressions", "registers"].contains(&next);
            let is_error = is_number && at > 0 && ["error", "max/rms", "is"].contains(&words[at - 1]) && digits.contains("e-");
            if is_size || is_error { word.replace(digits, "<n>") } else { (*word).to_string() }
        });
        settled.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(|l| line(l) + "\n").collect()
}
