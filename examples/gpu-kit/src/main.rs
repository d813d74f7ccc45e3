//! Checks and times compiled layers on a machine with an NVIDIA GPU: no compiler, no LLVM, no CUDA toolkit.
//!
//! ```text
//! check_gpu run KIT [--seconds N] [--out FOLDER] [--date TEXT]     everything, as rows, a table and a JSON
//! check_gpu serve KIT                                              a worker: a job a line on stdin, an answer a line on stdout
//! check_gpu sample KIT LAYER TOKENS                                on this CPU: a layer of real size against the definition
//! check_gpu probe list | NAME                                      the matrix instructions that are tried, as PTX
//! ```
//!
//! `make gpu-kit` makes a `KIT`; its script `run` is the first of these. Exit code 0: all that was checked is right; 1: something
//! is wrong; 2: usage; 3: there is no GPU.
//!
//! ```text
//! cases/NAME.moec                    a small layer; NAME.TYPE.moec is the same layer in another element type
//! cases/NAME.safetensors             its weights (`w.`), inputs (`in.`) and published result (`out.hidden`)
//! cases/NAME.TARGET.safetensors      what the emulator made of it
//! layers/NAME.moec, NAME.graph       a layer of real size and its definition
//! peers.py                           what it is timed beside
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

mod crew;
mod driver;
mod job;
mod matrix;
mod numbers;
mod reference;
mod report;
mod run;
mod subject;
mod worker;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use moec_runtime::DeviceKind;

use crate::job::Status;
use crate::subject::{Missing, Subject};

const USAGE: &str = "usage: check_gpu run KIT [--seconds N] [--out FOLDER] [--date TEXT] | serve KIT \
                     | sample KIT LAYER TOKENS | probe list|NAME";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["run", kit, ref flags @ ..] => match options(Path::new(kit), flags) {
            Some(options) => run::run(&options),
            None => usage(),
        },
        ["serve", kit] => match worker::serve(Path::new(kit)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        ["sample", kit, layer, tokens] => tokens.parse().map_or_else(|_| usage(), |tokens| sample(Path::new(kit), layer, tokens)),
        ["probe", name] => probe(name),
        _ => usage(),
    }
}

/// The names of the probes, or the text of one.
fn probe(name: &str) -> ExitCode {
    let all = matrix::probes();
    if name == "list" {
        all.iter().for_each(|probe| println!("{}", probe.name()));
        return ExitCode::SUCCESS;
    }
    match all.iter().find(|probe| probe.name() == name) {
        Some(probe) => {
            print!("{}", probe.ptx());
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("error: there is no probe {name}; `check_gpu probe list` has their names");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// The flags, each at most once needed; the last one counts.
fn options(kit: &Path, flags: &[&str]) -> Option<run::Options> {
    let mut options = run::Options { kit: kit.to_path_buf(), seconds: 570.0, out: kit.join("results"), date: String::new() };
    let (pairs, rest) = flags.as_chunks::<2>();
    for [flag, value] in pairs {
        match *flag {
            "--seconds" => options.seconds = value.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)?,
            "--out" => options.out = PathBuf::from(value),
            "--date" => options.date = (*value).to_string(),
            _ => return None,
        }
    }
    rest.is_empty().then_some(options)
}

/// What a worker does on a GPU, with the host's kernels: that the definition and the numbers agree with a layer that is known to
/// work.
fn sample(kit: &Path, layer: &str, tokens: u64) -> ExitCode {
    let compared = || -> Result<job::Answer, Missing> {
        let subject = Subject::load(kit, layer, DeviceKind::Host { threads: None })?;
        let (inputs, dims) = subject.inputs(tokens, 0)?;
        let run = subject.bound.run(&inputs, dims)?;
        worker::compare_sampled(&subject, &inputs[0], &run, dims)
    };
    let answer = compared().unwrap_or_else(job::Answer::from);
    println!("{} {}", answer.status.name(), answer.detail);
    if answer.status == Status::Ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
