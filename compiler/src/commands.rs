//! What each command does, in terms of the library: the product to `out`, everything else into the error.
//! Flags and their help are in `cli`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{CommandFactory, ValueEnum};
use moec::diagnostics::{Code, Diagnostic, Report, quote};
use moec::spec;

use crate::cli::{Cli, Command, Target};
use crate::doctor;

/// Why a command did not succeed.
pub(crate) enum Failure {
    /// Something to tell the user.
    Report(Report),
    /// The product could not be written.
    Output(io::Error),
}

impl From<Report> for Failure {
    fn from(report: Report) -> Failure {
        Failure::Report(report)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Runs a command.
pub(crate) fn run(command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Compile(_) => Err(not_wired("compile")),
        Command::Check { specs } => check(specs, out),
        Command::Opt(_) => Err(not_wired("opt")),
        Command::Run(_) => Err(not_wired("run")),
        Command::Inspect { .. } => Err(not_wired("inspect")),
        Command::Explain { code, list: _ } => explain(code.as_deref(), out),
        Command::Schema => schema(out),
        Command::Targets => targets(out),
        Command::Doctor => doctor::doctor(out),
        Command::Completions { shell } => completions(*shell, out),
    }
}

/// Stands where the pipeline is called.
fn not_wired(command: &str) -> Failure {
    Report::from(Diagnostic::new(Code::Bug, format!("`moec {command}` is not wired yet"))).into()
}

/// Checks every spec, and fails with the diagnostics of the first wrong one.
fn check(specs: &[PathBuf], out: &mut dyn Write) -> Result<(), Failure> {
    for path in specs {
        let (spec, source) = spec::load(path)?;
        let dropping = if spec.capacity.is_some() { "with capacity" } else { "dropless" };
        let shared = spec.shared.map_or(String::new(), |shared| format!(", shared {}", shared.ffn));
        writeln!(
            out,
            "{}: ok: hidden {}, {} experts of {}, top {}{shared}, {dropping}, {}",
            source.name,
            spec.hidden,
            spec.experts,
            spec.expert.ffn,
            spec.router.top_k,
            spec::Word::word(spec.numerics.dtype),
        )?;
    }
    Ok(())
}

fn explain(code: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(id) = code else {
        for code in Code::ALL {
            writeln!(out, "{}  {}", code.id(), code.title())?;
        }
        return Ok(());
    };
    let Some(code) = Code::from_id(id) else {
        let diagnostic = Diagnostic::new(Code::UnknownCode, format!("there is no diagnostic code {}", quote(id)))
            .help("`moec explain --list` prints all of them");
        return Err(Report::from(diagnostic).into());
    };
    writeln!(out, "{}: {}\n\n{}", code.id(), code.title(), wrapped(code.explanation(), 80))?;
    Ok(())
}

/// Text broken at spaces into lines of at most `columns`.
fn wrapped(text: &str, columns: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > columns {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}

fn schema(out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{:#}", spec::json_schema())?;
    Ok(())
}

fn targets(out: &mut dyn Write) -> Result<(), Failure> {
    for target in Target::value_variants() {
        if let Some(value) = target.to_possible_value() {
            let help = value.get_help().map(|help| help.to_string()).unwrap_or_default();
            writeln!(out, "{:<10} {help}", value.get_name())?;
        }
    }
    Ok(())
}

fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<(), Failure> {
    // clap_complete panics where it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "moec", &mut script);
    out.write_all(&script)?;
    Ok(())
}
