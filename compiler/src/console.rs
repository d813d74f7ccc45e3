//! stderr: how a failure is said, in colour or not, and what is said when moec itself breaks.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use annotate_snippets::Renderer;
use clap::{ColorChoice, ValueEnum};
use moec::diagnostics::{Code, Diagnostic, Exit, MessageFormat, Report};

use crate::cli::Cli;
use crate::commands::Failure;
use crate::files::bytes_text;

/// Writes why a command failed, and gives the exit code.
pub(crate) fn say(failure: Failure, cli: &Cli) -> Exit {
    let report = match failure {
        // The reader of the product has what it wanted: `moec schema | head`.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Exit::Ok,
        Failure::Output(error) => Diagnostic::new(Code::OutputFailed, format!("the output cannot be written: {error}")).into(),
        Failure::Report(report) => report,
    };
    say_report(&report, cli)
}

/// Writes warnings, or anything else that does not end the command.
pub(crate) fn warn(report: &Report, cli: &Cli) {
    say_report(report, cli);
}

/// Writes why a command line is not one, in the format that it asks for, or the help that it asked for.
pub(crate) fn say_usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // Where the help cannot be written its reader is gone.
        let _ = error.print();
        return Exit::Ok;
    }
    let format = format_of(env::args_os().skip(1));
    if format == MessageFormat::Human {
        let _ = error.print();
        return Exit::Usage;
    }
    let report = Report::from(usage(&error.render().to_string()));
    // Where stderr cannot be written there is nowhere left to say so.
    let _ = report.write(&mut io::stderr().lock(), format, &Renderer::plain());
    Exit::Usage
}

/// The `--message-format` of a command line that could not be read whole.
fn format_of(arguments: impl Iterator<Item = OsString>) -> MessageFormat {
    const FLAG: &str = "--message-format";
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let mut format = MessageFormat::default();
    while let Some(argument) = arguments.next() {
        let word = match argument.strip_prefix(FLAG).map(|rest| rest.strip_prefix('=')) {
            Some(Some(word)) => Some(word.to_string()),
            Some(None) if argument == FLAG => arguments.next(),
            Some(None) | None => None,
        };
        format = word.and_then(|word| MessageFormat::from_str(&word, false).ok()).unwrap_or(format);
    }
    format
}

/// What clap says, as a diagnostic: its first paragraph is the message, a tip the help, the usage a note.
fn usage(text: &str) -> Diagnostic {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut paragraphs = paragraphs.filter(|paragraph| !paragraph.is_empty());
    let first = paragraphs.next().unwrap_or_default();
    let diagnostic = Diagnostic::new(Code::Usage, first.strip_prefix("error: ").unwrap_or(&first));
    paragraphs.fold(diagnostic, |diagnostic, paragraph| match paragraph.strip_prefix("tip: ") {
        Some(tip) => diagnostic.help(tip),
        None => diagnostic.note(paragraph),
    })
}

/// A line about what was done, beside the product.
pub(crate) fn note(text: &str, format: MessageFormat) {
    let mut stderr = io::stderr().lock();
    // Where stderr cannot be written there is nowhere left to say so.
    let _ = match format {
        MessageFormat::Human | MessageFormat::Short => writeln!(stderr, "{text}"),
        MessageFormat::Json => {
            let object = serde_json::json!({
                "$message_type": "diagnostic", "message": text, "code": null, "level": "note", "spans": [], "children": [],
                "rendered": format!("{text}\n"),
            });
            writeln!(stderr, "{object}")
        }
    };
}

/// A bar on stderr while something long is read; nothing where stderr is no terminal. It is gone when it is dropped.
pub(crate) struct Progress {
    total: u64,
    drawn: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    /// A bar that is full at `total` bytes.
    pub(crate) fn of(total: u64, format: MessageFormat) -> Progress {
        Progress { total, drawn: None, is_terminal: format == MessageFormat::Human && io::stderr().is_terminal() }
    }

    /// Draws the bar, a few times a second.
    pub(crate) fn at(&mut self, bytes: u64) {
        const EVERY: Duration = Duration::from_millis(100);
        if !self.is_terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        // Where stderr cannot be written there is nowhere left to say so.
        let _ = write!(io::stderr().lock(), "\r{}", bar(bytes, self.total));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr().lock(), "\r{}\r", " ".repeat(bar(0, self.total).chars().count()));
        }
    }
}

fn bar(bytes: u64, total: u64) -> String {
    const WIDTH: u64 = 40;
    let part = |of: u64| (u128::from(bytes.min(total)) * u128::from(of) / u128::from(total.max(1))) as u64;
    let (full, empty) = (part(WIDTH), WIDTH - part(WIDTH));
    format!("{:>3} % [{}{}] {:>10}", part(100), "#".repeat(full as usize), "-".repeat(empty as usize), bytes_text(bytes))
}

fn say_report(report: &Report, cli: &Cli) -> Exit {
    let renderer = if is_coloured(cli.color) { Renderer::styled() } else { Renderer::plain() };
    // Where stderr cannot be written there is nowhere left to say so.
    let _ = report.write(&mut io::stderr().lock(), cli.message_format, &renderer);
    report.exit()
}

/// Whether stderr takes colours: the flag, then `NO_COLOR`, then `CLICOLOR_FORCE`, then whether it is a terminal.
fn is_coloured(choice: ColorChoice) -> bool {
    let is_set = |name: &str, off: &str| env::var_os(name).is_some_and(|value| !value.is_empty() && value != off);
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => !is_set("NO_COLOR", "") && (is_set("CLICOLOR_FORCE", "0") || io::stderr().is_terminal()),
    }
}

/// A panic is a bug in moec, whatever the input was. The process still ends with exit code 101.
pub(crate) fn report_bug(panic: &std::panic::PanicHookInfo<'_>) {
    let (version, arguments) = (env!("CARGO_PKG_VERSION"), env::args_os().collect::<Vec<_>>());
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error[{}]: this is a bug in moec {version}, not in your input", Code::Bug.id());
    let _ = writeln!(stderr, "  {panic}");
    let _ = writeln!(stderr, "  command line: {arguments:?}");
    let _ = writeln!(stderr, "  Please send this message and the spec. RUST_BACKTRACE=1 adds where it happened.");
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        let _ = writeln!(stderr, "{backtrace}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_found_in_any_command_line() {
        let of = |words: &str| format_of(words.split_whitespace().map(OsString::from));
        assert_eq!(of("bake --message-format json"), MessageFormat::Json);
        assert_eq!(of("--message-format=short bake"), MessageFormat::Short);
        assert_eq!(of("--message-format xml --message-formats=json bake --message-format"), MessageFormat::Human);
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0, 10), format!("  0 % [{}]        0 B", "-".repeat(40)));
        assert_eq!(bar(5, 10), format!(" 50 % [{}{}]        5 B", "#".repeat(20), "-".repeat(20)));
        assert_eq!(bar(11, 10), format!("100 % [{}]       11 B", "#".repeat(40)));
        assert_eq!(bar(0, 0), format!("  0 % [{}]        0 B", "-".repeat(40)));
    }
}
