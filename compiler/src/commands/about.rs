//! What moec says about itself: codes, the schema, targets, completions.

use std::io::Write;

use clap::{CommandFactory, ValueEnum};
use moec::diagnostics::{Code, Diagnostic, Report, of_runtime, quote};
use moec::{hugging_face, plan, routing, spec};
use moec_runtime::{ErrorCode, package};

use super::Failure;
use crate::cli::{Cli, SchemaOf, Target};

/// `moec explain`.
pub(super) fn explain(code: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(id) = code else {
        for code in Code::ALL {
            writeln!(out, "{}  {}", code.id(), code.title())?;
        }
        for code in ErrorCode::ALL {
            writeln!(out, "{:<7}  {}", code.id(), code.title())?;
        }
        return Ok(());
    };
    if let Some(code) = ErrorCode::ALL.iter().find(|code| code.id().eq_ignore_ascii_case(id)) {
        let paragraph = wrapped(code.explanation(), 80);
        writeln!(out, "{}: {}\n\n{paragraph}\n\nReported as {}.", code.id(), code.title(), of_runtime(*code).id())?;
        return Ok(());
    }
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

/// `moec schema`.
pub(super) fn schema(of: SchemaOf, out: &mut dyn Write) -> Result<(), Failure> {
    let schema = match of {
        SchemaOf::Spec => spec::json_schema(),
        SchemaOf::Route => routing::json_schema(),
        SchemaOf::Plan => plan::json_schema(),
        SchemaOf::Manifest => package::json_schema(),
    };
    writeln!(out, "{schema:#}")?;
    Ok(())
}

/// `moec targets`.
pub(super) fn targets(out: &mut dyn Write) -> Result<(), Failure> {
    for target in Target::value_variants() {
        if let Some(value) = target.to_possible_value() {
            let help = value.get_help().map(|help| help.to_string()).unwrap_or_default();
            writeln!(out, "{:<15} {help}", value.get_name())?;
        }
    }
    Ok(())
}

/// `--preset list`.
pub(super) fn presets(out: &mut dyn Write) -> Result<(), Failure> {
    for name in hugging_face::presets() {
        writeln!(out, "{name}")?;
    }
    Ok(())
}

/// `moec man`.
pub(super) fn man(command: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
    let mut cli = Cli::command();
    // Gives the commands the global options and their full names.
    cli.build();
    let page = match command {
        None => cli,
        Some(name) => match cli.find_subcommand(name) {
            Some(command) => command.clone().name(format!("moec-{}", command.get_name())),
            None => {
                let names = cli.get_subcommands().map(clap::Command::get_name);
                let diagnostic = Diagnostic::new(Code::Usage, format!("there is no command {}", quote(name)));
                return Err(diagnostic.help(format!("one of {}", names.collect::<Vec<_>>().join(", "))).into());
            }
        },
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff)?;
    out.write_all(&roff)?;
    Ok(())
}

/// `moec completions`.
pub(super) fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<(), Failure> {
    // clap_complete panics where it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "moec", &mut script);
    out.write_all(&script)?;
    Ok(())
}
