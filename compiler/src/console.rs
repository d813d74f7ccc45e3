//! stderr: how a failure is said, in colour or not, and what is said when moec itself breaks.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use annotate_snippets::Renderer;
use clap::{ColorChoice, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use moec::diagnostics::{Code, Diagnostic, Exit, MessageFormat, Report, printable};

use crate::cli::{Cli, VERSION};
use crate::commands::Failure;

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

/// A product for people: what files of strangers have in their names cannot change what a terminal shows.
pub(crate) struct Printable<'o>(pub(crate) &'o mut dyn Write);

impl Write for Printable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(printable(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A line about what was done, beside the product.
pub(crate) fn note(text: &str, format: MessageFormat) {
    let text = &*printable(text);
    let mut stderr = io::stderr().lock();
    // Where stderr cannot be written there is nowhere left to say so.
    let _ = match format {
        MessageFormat::Human | MessageFormat::Short => writeln!(stderr, "{text}"),
        MessageFormat::Json => {
            let object = serde_json::json!({
                "$message_type": "diagnostic", "message": text.strip_prefix("note: ").unwrap_or(text), "code": null, "level": "note", "spans": [], "children": [],
                "rendered": format!("{text}\n"),
            });
            writeln!(stderr, "{object}")
        }
    };
}

/// What is under way, drawn on stderr once it has taken half a second; gone when it is dropped.
pub(crate) struct Progress(ProgressBar);

/// How long nothing is drawn: most commands are over by then.
const SILENCE: Duration = Duration::from_millis(500);
/// How often it is drawn anew.
const TICK: Duration = Duration::from_millis(100);

impl Progress {
    /// Something whose end is not known: `what`, and the seconds that it has taken.
    pub(crate) fn of(what: &'static str, cli: &Cli) -> Progress {
        Progress::drawn("{spinner} {msg}  {elapsed}", what, None, cli)
    }

    /// `total` steps.
    pub(crate) fn of_steps(what: &'static str, total: u64, cli: &Cli) -> Progress {
        Progress::drawn("{msg} [{bar:40}] {pos} of {len}  {elapsed}", what, Some(total), cli)
    }

    /// `total` bytes.
    pub(crate) fn of_bytes(what: &'static str, total: u64, cli: &Cli) -> Progress {
        Progress::drawn("{msg} [{bar:40}] {decimal_bytes} of {decimal_total_bytes}  {elapsed}", what, Some(total), cli)
    }

    /// So many steps or bytes are done.
    pub(crate) fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// One more step is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    fn drawn(template: &str, what: &'static str, total: Option<u64>, cli: &Cli) -> Progress {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        bar.set_style(style.progress_chars("##-"));
        bar.set_message(what);
        if cli.message_format == MessageFormat::Human && !cli.quiet && io::stderr().is_terminal() {
            let waiting = bar.downgrade();
            thread::spawn(move || {
                thread::sleep(SILENCE);
                if let Some(bar) = waiting.upgrade() {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(TICK);
                }
            });
        }
        Progress(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `--verbose`: what the stages say of themselves, as notes.
pub(crate) fn say_stages(format: MessageFormat) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .without_time()
        .with_ansi(false)
        .with_level(false)
        .with_writer(move || NoteWriter(format));
    // It is the first one, and the only one.
    let _ = subscriber.try_init();
}

/// Makes a note of every event.
struct NoteWriter(MessageFormat);

impl Write for NoteWriter {
    /// An event is written at once, with the end of its line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        note(String::from_utf8_lossy(event).trim_end(), self.0);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    let (version, arguments) = (VERSION.as_str(), env::args_os().collect::<Vec<_>>());
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
}
