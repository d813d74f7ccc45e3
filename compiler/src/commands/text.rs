//! Graph and kernel text as input of a command: which of the two a file holds, and mistakes shown under their lines.
//! The grammars and the rules are `moec_ir`'s.

use std::ops::Range;
use std::path::Path;

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};
use moec::spec;
use moec_ir::graph::{self, Graph, Regime};
use moec_ir::kernel::{self, Program};

/// The kernels of a large layer are some megabytes.
const MOST_BYTES: u64 = 64 << 20;

/// What a text says.
pub(super) enum Text {
    /// The graphs of a layer, each with the batches that it serves.
    Graph(Vec<Regime<Graph>>),
    Program(Box<Program>),
}

/// The text of a file, or of standard input where `path` is `-`.
pub(super) fn read(path: &Path) -> Result<Source, Report> {
    spec::read_text(path, MOST_BYTES, "graphs and kernels are a few megabytes of text at most")
}

/// The graph or the kernels in `source`; none where it starts as neither does.
pub(super) fn parse(source: &Source) -> Option<Result<Text, Diagnostic>> {
    let malformed = |at: Range<usize>, message: &str| {
        let diagnostic = Diagnostic::new(Code::TextSyntax, message);
        diagnostic.at(at, "").help("`moec compile --emit graph,kernel` writes what is read here")
    };
    match first_word(&source.text) {
        "layer" => {
            let parsed = graph::parse_regimes(&source.text).map(Text::Graph);
            Some(parsed.map_err(|error| malformed(word_at(&source.text, error.offset), &error.message)))
        }
        "program" => {
            let parsed = kernel::parse(&source.text).map(|program| Text::Program(Box::new(program)));
            Some(parsed.map_err(|error| malformed(error.span, &error.message)))
        }
        _ => None,
    }
}

/// As [`parse`], where nothing else will do.
pub(super) fn parse_or_refuse(source: Source) -> Result<(Text, Source), Report> {
    match parse(&source) {
        Some(Ok(text)) => Ok((text, source)),
        Some(Err(diagnostic)) => Err(Report { source, diagnostics: vec![diagnostic] }),
        None => {
            let start = source.text.split_whitespace().next().unwrap_or("");
            let message = format!("a graph starts with `layer` and kernels with `program`, not with {}", quote(start));
            let diagnostic = Diagnostic::new(Code::UnknownFile, message);
            let diagnostic = diagnostic.help("`moec compile SPEC --emit graph` writes a spec's graph");
            Err(Report { source, diagnostics: vec![diagnostic] })
        }
    }
}

/// The first word that is not in a comment.
fn first_word(text: &str) -> &str {
    let line = text.lines().map(str::trim).find(|line| is_significant(line)).unwrap_or("");
    let end = line.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(line.len());
    &line[..end]
}

fn is_significant(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("//")
}

/// The word or the sign at `at`.
fn word_at(text: &str, at: usize) -> Range<usize> {
    let rest = text.get(at..).unwrap_or("");
    let word = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '%' | '@' | '.'))).unwrap_or(rest.len());
    let length = if word == 0 { rest.chars().next().map_or(0, char::len_utf8) } else { word };
    at..at + length
}

/// What a graph breaks, each under its line of `source` where `source` has the printed graph's lines, else of the
/// printed graph.
pub(super) fn graph_report(graph: &Graph, violations: &[graph::Violation], source: &Source) -> Report {
    report(&graph::print_with_violations(graph, violations), "// error: ", source)
}

/// As [`graph_report`], of kernels.
pub(super) fn program_report(program: &Program, violations: &[kernel::Violation], source: &Source) -> Report {
    report(&kernel::print_with_violations(program, violations), "^ error: ", source)
}

fn report(annotated: &str, marker: &str, source: &Source) -> Report {
    let mut printed = String::new();
    let mut lines = 0usize;
    let mut found: Vec<(Option<usize>, &str)> = Vec::new();
    for line in annotated.lines() {
        if let Some(message) = line.trim_start().strip_prefix(marker) {
            found.push((lines.checked_sub(1), message));
        } else if let Some(message) = line.strip_prefix("error: ") {
            found.push((None, message));
        } else {
            lines += usize::from(is_significant(line.trim()));
            printed.push_str(line);
            printed.push('\n');
        }
    }
    let spans = spans_of_lines(&source.text, &printed);
    let source = match spans {
        Some(_) => source.clone(),
        None => Source { name: format!("{} (as moec prints it)", source.name), text: printed.clone() },
    };
    let spans = spans.or_else(|| spans_of_lines(&printed, &printed)).unwrap_or_default();
    let diagnostic = |(line, message): &(Option<usize>, &str)| {
        let diagnostic = Diagnostic::new(Code::BrokenRule, *message);
        match line.and_then(|line| spans.get(line)) {
            Some(span) => diagnostic.at(span.clone(), ""),
            None => diagnostic,
        }
    };
    Report { diagnostics: found.iter().map(diagnostic).collect(), source }
}

/// The bytes of `text` that stand for each line of `printed`, if the two are line by line the same but for the names of
/// values, spaces, comments and empty lines.
fn spans_of_lines(text: &str, printed: &str) -> Option<Vec<Range<usize>>> {
    let printed: Vec<&str> = printed.lines().filter(|line| is_significant(line.trim())).collect();
    let mut lines = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at + (line.len() - line.trim_start().len());
        if is_significant(line.trim()) {
            lines.push(start..start + line.trim().len());
        }
        at += line.len();
    }
    let same = lines.len() == printed.len()
        && lines.iter().zip(printed).all(|(span, line)| shape_of(&text[span.clone()]) == shape_of(line));
    same.then_some(lines)
}

/// A line without spaces, comments and the names of values.
fn shape_of(line: &str) -> String {
    let code = line.split("//").next().unwrap_or("");
    let mut shape = String::new();
    let mut in_name = false;
    for c in code.chars().filter(|c| !c.is_whitespace()) {
        in_name = c == '%' || (in_name && (c.is_alphanumeric() || c == '_'));
        if !in_name || c == '%' {
            shape.push(c);
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_matched_but_for_names_and_comments() {
        let printed = "layer @a(%x: t) {\n  %0 = f %x\n}\n";
        let text = "// a test\nlayer @a(%x: t) {\n\n    %value = f  %x // why\n}\n";
        let spans = spans_of_lines(text, printed).unwrap();
        assert_eq!(&text[spans[1].clone()], "%value = f  %x // why");
        assert!(spans_of_lines("layer @a(%x: t) {\n %0 = g %x\n}\n", printed).is_none());
        assert!(spans_of_lines("", printed).is_none());
    }

    #[test]
    fn first_words() {
        assert_eq!(first_word("\n// layer\n  program @x {"), "program");
        assert_eq!(first_word(""), "");
        assert_eq!(word_at("a = %b.c, d", 4), 4..8);
        assert_eq!(word_at("a", 1), 1..1);
    }
}
