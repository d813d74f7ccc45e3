//! What is said to people about their input: one mistake a [`Diagnostic`], all mistakes of one file a [`Report`].
//! How a diagnostic looks is in `diagnostics/render.rs`; what its code means is in `diagnostics/codes.rs`.

mod blame;
mod codes;
mod failures;
mod render;

use std::borrow::Cow;
use std::ops::Range;

pub use codes::{Code, Exit, Severity};
pub use failures::of_runtime;
pub use render::MessageFormat;

/// One mistake: what is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code; `moec explain` has a paragraph for each.
    pub code: Code,
    /// That of the code, or an error where warnings are denied.
    pub severity: Severity,
    /// One line, without the code and without a full stop.
    pub message: String,
    /// The place at fault, then the others that the mistake involves: the other key, where two disagree. Empty where no
    /// place of a text is at fault.
    pub labels: Vec<Label>,
    /// What to write instead.
    pub help: Option<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A place in the source, in bytes, and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Byte range of the text.
    pub span: Range<usize>,
    /// Shown beside the marked text; may be empty.
    pub text: String,
    /// What to write in the place of the marked text, where that is all there is to mend.
    pub replacement: Option<String>,
}

impl Diagnostic {
    /// A mistake without a place.
    pub fn new(code: Code, message: impl Into<String>) -> Diagnostic {
        let severity = code.severity();
        Diagnostic { code, severity, message: message.into(), labels: Vec::new(), help: None, notes: Vec::new() }
    }

    /// A warning that counts as an error; an error as it is.
    pub fn denied(mut self) -> Diagnostic {
        self.severity = Severity::Error;
        self
    }

    /// What a command that ends with this diagnostic exits with.
    pub fn exit(&self) -> Exit {
        match (self.severity, self.code.severity()) {
            (Severity::Error, Severity::Warning) => Exit::Input,
            (Severity::Warning | Severity::Error, _) => self.code.exit(),
        }
    }

    /// The place at fault.
    pub fn at(mut self, span: Range<usize>, text: impl Into<String>) -> Diagnostic {
        self.labels.insert(0, Label { span, text: text.into(), replacement: None });
        self
    }

    /// What to write in the place at fault. A key or word in quotes gets a replacement in quotes where it is shown.
    pub fn replaced_by(mut self, text: impl Into<String>) -> Diagnostic {
        if let Some(label) = self.labels.first_mut() {
            label.replacement = Some(text.into());
        }
        self
    }

    /// Another place that the mistake involves.
    pub fn also(mut self, span: Range<usize>, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into(), replacement: None });
        self
    }

    /// Where the place at fault starts.
    pub fn start(&self) -> Option<usize> {
        self.labels.first().map(|label| label.span.start)
    }

    /// What to write instead.
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }

    /// What else is worth knowing.
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }
}

/// The text that diagnostics point into, under the name that people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// File name, or `<stdin>`; empty where there is no text.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Everything wrong with one input: the error value of every command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the diagnostics point into.
    pub source: Source,
    /// At least one.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The exit code of a command that ends with this report: that of its first diagnostic.
    pub fn exit(&self) -> Exit {
        self.diagnostics.first().map_or(Exit::Ok, Diagnostic::exit)
    }
}

impl From<Diagnostic> for Report {
    /// A report about something that is not a text.
    fn from(diagnostic: Diagnostic) -> Report {
        let source = Source { name: String::new(), text: String::new() };
        Report { source, diagnostics: vec![diagnostic] }
    }
}

/// A user's text in a message: in backquotes, control characters escaped, cut where it is long.
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut quoted = String::from("`");
    for (at, c) in text.chars().enumerate() {
        if at == LONGEST {
            quoted.push_str("...");
            break;
        }
        match c {
            '"' | '\'' | '\\' => quoted.push(c),
            c => quoted.extend(c.escape_debug()),
        }
    }
    quoted.push('`');
    quoted
}

/// Whether a character changes what a terminal shows of the others: control characters, and those that turn the direction of
/// writing.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text of a file, a package or a path as it may stand in a terminal: unprintable characters escaped as JSON escapes them,
/// but for line ends and tabs.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_kept = |c: char| !is_unprintable(c) || matches!(c, '\n' | '\t');
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let escape = |out: String, c: char| {
        if is_kept(c) { out + c.encode_utf8(&mut [0; 4]) } else { format!("{out}\\u{:04x}", u32::from(c)) }
    };
    Cow::Owned(text.chars().fold(String::with_capacity(text.len()), escape))
}

/// The candidate that a misspelt word most likely means, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let allowed = |candidate: &str| (candidate.len().max(word.len()) / 3).max(1);
    let lower = word.to_lowercase();
    let candidates: Vec<&str> = candidates.into_iter().collect();
    // Swaps of neighbours count once, and letter case does not.
    let distances = candidates.iter().map(|candidate| (strsim::osa_distance(&lower, &candidate.to_lowercase()), *candidate));
    match distances.min_by_key(|(distance, _)| *distance) {
        Some((0 | 1, near)) => Some(near),
        closest => abbreviated(word, &candidates)
            .or_else(|| closest.filter(|(distance, near)| *distance <= allowed(near)).map(|(_, near)| near)),
    }
}

/// The only candidate that starts with the word or, where there is none, the longest with which the word's first parts begin:
/// `inter` for `intermediate`, `gate_proj` for `gate`.
fn abbreviated<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const SHORTEST: usize = 3;
    if word.len() < SHORTEST {
        return None;
    }
    let word = word.to_lowercase();
    let starts_with_word = |candidate: &&&str| candidate.to_lowercase().starts_with(&word);
    let mut longer = candidates.iter().filter(starts_with_word);
    if let Some(only) = longer.next() {
        return longer.next().is_none().then_some(*only);
    }
    let starts_word = |candidate: &&&str| {
        let rest = word.strip_prefix(&candidate.to_lowercase());
        candidate.len() > SHORTEST && rest.is_some_and(|rest| rest.starts_with(['_', '-']))
    };
    candidates.iter().filter(starts_word).max_by_key(|candidate| candidate.len()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        assert_eq!(nearest("topk", ["top_k", "score"]), Some("top_k"));
        assert_eq!(nearest("exprets", ["experts", "hidden"]), Some("experts"));
        assert_eq!(nearest("Softmax", ["softmax", "sigmoid"]), Some("softmax"));
        assert_eq!(nearest("banana", ["experts", "hidden"]), None);
        assert_eq!(nearest(&"x".repeat(1000), ["experts"]), None);
        assert_eq!(nearest("", ["experts"]), None);
    }

    #[test]
    fn prefixes() {
        assert_eq!(nearest("topk", ["topk_groups", "top_k"]), Some("top_k"), "one letter is nearer than a prefix");
        assert_eq!(nearest("inter", ["interleave", "experts"]), Some("interleave"));
        assert_eq!(nearest("Inter", ["intermediate", "interleave"]), None, "which of the two?");
        assert_eq!(nearest("gate_proj", ["gate", "gate_up"]), Some("gate"));
        assert_eq!(nearest("gate_up_proj", ["gate", "gate_up"]), Some("gate_up"));
        assert_eq!(nearest("up_proj", ["up", "down"]), None, "too short to say");
    }

    #[test]
    fn printed_text_is_harmless() {
        assert_eq!(printable("a\u{1b}[31m\r\u{9b}\u{7f}\u{202e}"), "a\\u001b[31m\\u000d\\u009b\\u007f\\u202e");
        assert!(matches!(printable("a\n\té \u{1f600}"), Cow::Borrowed(_)));
    }

    #[test]
    fn quoted_text_is_harmless() {
        assert_eq!(quote("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert_eq!(quote(&"y".repeat(100)).len(), 65);
    }
}
