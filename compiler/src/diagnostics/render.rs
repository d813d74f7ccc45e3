//! What a diagnostic looks like: as rustc prints it, on one line, or as one JSON object.
//! Where the text goes, and whether it is coloured, is for the caller to say.

use std::io::{self, Write};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::{Diagnostic, Label, Report, Severity, Source, printable};

/// `--message-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MessageFormat {
    /// The source line with the mistake marked.
    #[default]
    Human,
    /// One line a mistake.
    Short,
    /// One JSON object a line, with rustc's field names.
    Json,
}

/// A marked line longer than this is shown by its place only.
const LONGEST_LINE: usize = 400;
/// Further diagnostics of one report are counted, not printed, where people read them.
const MOST_DIAGNOSTICS: usize = 32;

impl Report {
    /// Writes every diagnostic.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut dyn Write, format: MessageFormat, renderer: &Renderer) -> io::Result<()> {
        let report = self.printable();
        let lines = Lines::of(&report);
        let printed = match format {
            MessageFormat::Human | MessageFormat::Short => MOST_DIAGNOSTICS.min(self.diagnostics.len()),
            MessageFormat::Json => self.diagnostics.len(),
        };
        for diagnostic in &report.diagnostics[..printed] {
            match format {
                MessageFormat::Human => writeln!(to, "{}\n", human(diagnostic, &lines, renderer))?,
                MessageFormat::Short => writeln!(to, "{}", short(diagnostic, &lines))?,
                MessageFormat::Json => writeln!(to, "{}", json_object(diagnostic, &lines))?,
            }
        }
        match self.diagnostics.len() - printed {
            0 => Ok(()),
            unprinted => writeln!(to, "error: and {unprinted} more like these"),
        }
    }

    /// The same with nothing in it that changes what a terminal shows: names and texts come from files of strangers. Of
    /// the source's text every character keeps its bytes, for places count them.
    fn printable(&self) -> Report {
        let mut report = self.clone();
        let escape = |text: &mut String| *text = printable(text).into_owned();
        escape(&mut report.source.name);
        for diagnostic in &mut report.diagnostics {
            let labels = diagnostic.labels.iter_mut().map(|label| &mut label.text);
            let texts = std::iter::once(&mut diagnostic.message).chain(&mut diagnostic.help).chain(&mut diagnostic.notes);
            texts.chain(labels).for_each(escape);
        }
        // The other control characters are shown as symbols by the renderer. This one has two bytes as they have.
        let shown = |c: char| if matches!(c, '\u{80}'..='\u{9f}') { '\u{b7}' } else { c };
        // They start with the byte C2: a text of a mebibyte is not walked through without need.
        if self.source.text.as_bytes().contains(&0xC2) {
            report.source.text = self.source.text.chars().map(shown).collect();
        }
        report
    }

    /// All of it as plain text, for tests and logs.
    pub fn to_text(&self, format: MessageFormat) -> String {
        let mut text = Vec::new();
        match self.write(&mut text, format, &Renderer::plain()) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => error.to_string(),
        }
    }
}

/// The rustc look.
fn human(diagnostic: &Diagnostic, lines: &Lines<'_>, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Warning => Level::WARNING,
        Severity::Error => Level::ERROR,
    };
    let mut group = level.primary_title(&diagnostic.message).id(diagnostic.code.id()).elements(Vec::<Origin>::new());
    if !diagnostic.labels.is_empty() {
        group = with_source(group, &diagnostic.labels, lines);
    } else if !lines.source.name.is_empty() {
        group = group.element(Origin::path(&lines.source.name));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help));
    }
    for note in &diagnostic.notes {
        group = group.element(Level::NOTE.message(note));
    }
    renderer.render(&[group])
}

/// Adds the marked lines, and only those: a report must not cost the size of the file once a diagnostic.
fn with_source<'a>(group: Group<'a>, labels: &'a [Label], lines: &Lines<'a>) -> Group<'a> {
    let rows = labels.iter().flat_map(|label| [lines.row(label.span.start), lines.row(label.span.end)]);
    let (first, last) = rows.fold((usize::MAX, 0), |(first, last), row| (first.min(row), last.max(row)));
    if labels.iter().any(|label| lines.widest(&label.span) > LONGEST_LINE) {
        let place = |label: &Label| {
            let (line, column) = lines.line_column(label.span.start);
            Origin::path(&lines.source.name).line(line).char_column(column)
        };
        return group.elements(labels.iter().map(place));
    }
    let range = lines.starts[first]..lines.end(last);
    let marked = |(at, label): (usize, &'a Label)| {
        let kind = if at == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let within = |at: usize| at.clamp(range.start, range.end) - range.start;
        let annotation = kind.span(within(label.span.start)..within(label.span.end));
        if label.text.is_empty() { annotation } else { annotation.label(&label.text) }
    };
    let snippet = Snippet::source(&lines.source.text[range.clone()])
        .path(&lines.source.name)
        .line_start(first + 1)
        .annotations(labels.iter().enumerate().map(marked));
    group.element(snippet)
}

/// `file:line:column: error[MOE0101]: message`.
fn short(diagnostic: &Diagnostic, lines: &Lines<'_>) -> String {
    let place = match (diagnostic.start(), lines.source.name.is_empty()) {
        (Some(start), _) => {
            let (line, column) = lines.line_column(start);
            format!("{}:{line}:{column}: ", lines.source.name)
        }
        (None, false) => format!("{}: ", lines.source.name),
        (None, true) => String::new(),
    };
    format!("{place}{}[{}]: {}", word(diagnostic.severity), diagnostic.code.id(), diagnostic.message)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// rustc's field names, so that editors read it as they read rustc.
fn json_object(diagnostic: &Diagnostic, lines: &Lines<'_>) -> Value {
    let spans = diagnostic.labels.iter().enumerate().map(|(at, label)| json_span(label, at == 0, lines));
    // Where rustc has it, and tools look for it: a child for each replacement, with the place that it is for.
    let replaced = diagnostic.labels.iter().filter(|label| label.replacement.is_some());
    let suggestions = replaced.map(|label| {
        let span = json_span(label, true, lines);
        json!({ "message": label.text, "code": null, "level": "help", "spans": [span], "children": [], "rendered": null })
    });
    let child = |level: &str, message: &String| json!({ "message": message, "code": null, "level": level, "spans": [], "children": [], "rendered": null });
    let help = diagnostic.help.iter().map(|help| child("help", help));
    let notes = diagnostic.notes.iter().map(|note| child("note", note));
    json!({
        "$message_type": "diagnostic",
        "message": diagnostic.message,
        "code": { "code": diagnostic.code.id(), "explanation": diagnostic.code.explanation() },
        "level": word(diagnostic.severity),
        "spans": spans.collect::<Vec<_>>(),
        "children": suggestions.chain(help).chain(notes).collect::<Vec<_>>(),
        "rendered": format!("{}\n", human(diagnostic, lines, &Renderer::plain())),
    })
}

/// One entry of `spans`.
fn json_span(label: &Label, is_primary: bool, lines: &Lines<'_>) -> Value {
    let (line_start, column_start) = lines.line_column(label.span.start);
    let (line_end, column_end) = lines.line_column(label.span.end);
    let marked = lines.source.text.get(label.span.clone()).unwrap_or_default();
    let replacement = label.replacement.as_ref().map(|text| match marked.starts_with('"') && !text.starts_with('"') {
        // A key of a JSON spec. What was a number in quotes is to lose them.
        true if text.parse::<f64>().is_err() => format!("\"{text}\""),
        true | false => text.clone(),
    });
    json!({
        "file_name": lines.source.name,
        "byte_start": label.span.start,
        "byte_end": label.span.end,
        "line_start": line_start,
        "line_end": line_end,
        "column_start": column_start,
        "column_end": column_end,
        "is_primary": is_primary,
        "label": if label.text.is_empty() { Value::Null } else { Value::from(label.text.as_str()) },
        "suggested_replacement": replacement,
        "suggestion_applicability": replacement.as_ref().map(|_| "MaybeIncorrect"),
    })
}

/// Where each line of a source starts, as far as a report points, so that places are found by bisection.
struct Lines<'a> {
    source: &'a Source,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(report: &'a Report) -> Lines<'a> {
        let labels = report.diagnostics.iter().flat_map(|diagnostic| &diagnostic.labels);
        let last = labels.map(|label| label.span.end).max().unwrap_or(0);
        let text = report.source.text.as_str();
        let after_newlines = text.get(..last).unwrap_or(text).match_indices('\n').map(|(at, _)| at + 1);
        Lines { source: &report.source, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// Index of the line that holds this byte.
    fn row(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).max(1) - 1
    }

    /// The byte after the line's last.
    fn end(&self, row: usize) -> usize {
        self.starts.get(row + 1).copied().unwrap_or_else(|| {
            let start = self.starts[row];
            self.source.text[start..].find('\n').map_or(self.source.text.len(), |length| start + length + 1)
        })
    }

    /// The longest line that the span touches, in bytes.
    fn widest(&self, span: &Range<usize>) -> usize {
        let rows = self.row(span.start)..=self.row(span.end);
        rows.map(|row| self.end(row) - self.starts[row]).max().unwrap_or(0)
    }

    /// Line and column of a byte, both from 1; columns count characters.
    fn line_column(&self, at: usize) -> (usize, usize) {
        let row = self.row(at);
        let line = &self.source.text[self.starts[row]..self.end(row)];
        let before = line.char_indices().take_while(|(offset, _)| self.starts[row] + offset < at).count();
        (row + 1, before + 1)
    }
}
