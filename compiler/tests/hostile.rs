//! Inputs made so that moec runs out of time or memory: each is refused by the real binary within 100 ms and 64 MB.
//! The time is the best of three runs, in processor time; the memory is the data limit of the shell.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_millis(100);
/// Runs of which the fastest counts, at least and at most: a core that is shared is slower at times.
const RUNS: [usize; 2] = [3, 20];
const LIMIT_KIB: u32 = 64 * 1024;
const MIB: usize = 1 << 20;

/// Runs `moec check` on the file, with at most 64 MB of data; the processor time that it took, which other work on the
/// machine does not lengthen.
fn check(path: &Path) -> (Output, Duration) {
    let script = format!("ulimit -d {LIMIT_KIB}; \"$0\" check \"$1\"; code=$?; times >&2; exit $code");
    let mut output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_moec")])
        .arg(path)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // `times` prints two lines, user and system time of the shell and then of its children: `0m0.010s 0m0.000s`.
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let children = text.lines().last().unwrap();
    let seconds = children.split_whitespace().map(|time| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    });
    let time = Duration::from_secs_f64(seconds.sum());
    let said = text.lines().count() - 2;
    output.stderr = text.split_inclusive('\n').take(said).collect::<String>().into_bytes();
    (output, time)
}

/// The file is refused with one of moec's codes, in time.
fn assert_refused(path: &Path) {
    let mut runs: Vec<(Output, Duration)> = Vec::new();
    while runs.len() < RUNS[0] || (runs.len() < RUNS[1] && runs.iter().all(|(_, time)| *time >= LIMIT)) {
        runs.push(check(path));
    }
    let name = path.file_name().unwrap().to_string_lossy();
    for (output, _) in &runs {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.starts_with("error[MOE0"), "{name}: {stderr}");
        assert!(stderr.len() < 20_000, "{name}: {} bytes of diagnostics", stderr.len());
        assert!(output.stdout.is_empty(), "{name}");
    }
    let best = runs.iter().map(|(_, time)| *time).min().unwrap();
    assert!(best < LIMIT, "{name} took {best:?}");
}

/// `line(0)`, `line(1)`, ... up to a mebibyte.
fn lines(start: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = start.to_string();
    for number in 0.. {
        let next = line(number);
        if text.len() + next.len() > MIB {
            break;
        }
        text.push_str(&next);
    }
    text
}

#[test]
fn large_inputs_are_refused_in_time_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let cases: Vec<(&str, String)> = vec![
        ("brackets.toml", "[".repeat(100_000)),
        ("brackets.json", "[".repeat(100_000)),
        ("braces.toml", format!("a={}", "{a=".repeat(100_000))),
        ("braces.json", "{\"a\":".repeat(100_000)),
        ("dotted.toml", format!("a{}=1", ".a".repeat(400_000))),
        ("spaced-dots.toml", format!("a{}=1", " . a".repeat(200_000))),
        ("keys.toml", lines("", |n| format!("k{n}=1\n"))),
        ("keys-of-moe.toml", lines("[moe]\n", |n| format!("k{n}=1\n"))),
        ("few-wrong-keys.toml", lines("[moe]\n", |n| format!("k{n}=1\n"))[..16_000].to_string()),
        ("wide-wrong-keys.toml", lines("[moe]\n", |n| format!("{}{n}=1\n", "k".repeat(500)))),
        ("inline.toml", format!("moe={{{}}}", lines("", |n| format!("k{n}=1,")))),
        ("keys.json", format!("{{{}\"z\":1}}", lines("", |n| format!("\"k{n}\":1,")))),
        ("tables.toml", lines("", |n| format!("[a{n}]\n"))),
        ("lists-of-tables.toml", lines("", |_| "[[a]]\n".to_string())),
        ("deep-tables.toml", lines("", |n| format!("{}b{n}=1\n", "a.".repeat(30)))),
        ("list.toml", format!("[tokens]\nexpected=[{}1]", "1,".repeat(MIB / 2 - 20))),
        ("list.json", format!("{{\"moe\":[{}1]}}", "1,".repeat(MIB / 2 - 20))),
        ("equals.toml", "=".repeat(MIB)),
        ("quotes.toml", "\"".repeat(MIB)),
        ("backslashes.json", format!("{{\"a\":\"{}", "\\".repeat(MIB - 10))),
        ("control.toml", "\u{1}".repeat(MIB)),
        ("spaces.toml", " ".repeat(MIB)),
        ("newlines.toml", "\n".repeat(MIB)),
        ("comments.toml", "#\n".repeat(MIB / 2)),
        ("string.toml", format!("[moe]\nname=\"{}\"", "x".repeat(MIB - 20))),
        ("wide-string.toml", format!("[moe]\nname=\"{}\"", "層".repeat(MIB / 3 - 20))),
        ("key.toml", format!("[moe]\n{}=1", "x".repeat(MIB - 20))),
        ("word.toml", format!("[router]\nscore=\"{}\"", "s".repeat(MIB - 30))),
        ("integer.toml", format!("[moe]\nhidden={}", "9".repeat(MIB - 20))),
        ("fraction.toml", format!("[capacity]\nfactor=0.{}", "9".repeat(MIB - 40))),
        ("tensor.toml", format!("[weights]\ndown=\"{}\"", "{e}".repeat(MIB / 3 - 20))),
        ("too-large.toml", "# a comment\n".repeat(MIB / 12 + 1)),
    ];
    for (name, text) in &cases {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        assert_refused(&path);
    }
}

#[test]
fn a_hundred_megabytes_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("garbage.toml");
    let garbage: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&path, garbage.repeat(100)).unwrap();
    assert_refused(&path);
    assert_refused(&PathBuf::from("/dev/zero"));
}
