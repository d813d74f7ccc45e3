//! `moec route` as a user runs it, on a trace of a million tokens and 256 experts that is made first and kept in the page
//! cache: the time from start to end, the least and the median of several runs, and the most memory. The bar for one core is
//! 2 s and 200 MB; `taskset -c 0 cargo bench --bench route` holds the command to one.

#![allow(clippy::print_stdout, reason = "the product is what it prints")]

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOKENS: u64 = 1_000_000;
const EXPERTS: u64 = 256;
const RUNS: usize = 7;

const SPEC: &str = r#"
[moe]
name = "a-million-tokens"
hidden = 4096
experts = 256
[router]
top_k = 8
score = "softmax"
renorm = "sum"
[capacity]
factor = 1.25
count_k = true
round = "ceil"
[expert]
intermediate = 2048
[tokens]
max = 1000000
"#;

/// Normal enough, each expert with an inclination of its own.
fn write_trace(path: &Path) -> io::Result<()> {
    let bytes = TOKENS * EXPERTS * 4;
    let header = format!("{{\"logits\":{{\"dtype\":\"F32\",\"shape\":[{TOKENS},{EXPERTS}],\"data_offsets\":[0,{bytes}]}}}}");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let inclined: Vec<f32> = (0..EXPERTS).map(|_| uniform() * 1.5).collect();
    for _ in 0..TOKENS {
        for inclined in &inclined {
            let logit = (uniform() + uniform() + uniform() + uniform()) * 1.732 + inclined;
            file.write_all(&logit.to_le_bytes())?;
        }
    }
    file.flush()
}

/// The command's time, and the most memory that Linux says it had.
fn run(spec: &Path, trace: &Path, more: &[&str]) -> io::Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_moec"))
        .arg("route")
        .arg(spec)
        .arg("--logits")
        .arg(trace)
        .args(more)
        .stdout(Stdio::null())
        .spawn()?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut most = 0;
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((started.elapsed(), most))
}

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (spec, trace) = (folder.join("route.toml"), folder.join("route.safetensors"));
    fs::write(&spec, SPEC)?;
    if fs::metadata(&trace).map_or(0, |metadata| metadata.len()) < TOKENS * EXPERTS * 4 {
        write_trace(&trace)?;
    }
    for (name, more) in [("one batch", &[][..]), ("batches of 4096", &["--batch", "4096"])] {
        let mut times = Vec::new();
        let mut most = 0;
        for _ in 0..RUNS {
            let (time, bytes) = run(&spec, &trace, more)?;
            times.push(time);
            most = most.max(bytes);
        }
        times.sort_unstable();
        let (least, median) = (times[0].as_secs_f64(), times[RUNS / 2].as_secs_f64());
        println!("{name}: {least:.2} s at least, {median:.2} s in the median of {RUNS}, {:.0} MB", most as f64 / 1e6);
    }
    Ok(())
}
