//! One entry of `[weights]`: a name, a list of candidate names, or a table with a layout.
//! Whether the layer has the tensor at all is `check`'s business.

use std::ops::Range;

use super::model::Word;
use super::section::{Meant, unknown_key};
use super::tree::{Entry, Kind, Value};
use super::weights::{EXPERT_INDEX, Layout, Tensor};
use crate::diagnostics::{Code, Diagnostic, nearest, quote};

/// What an entry says.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) names: Vec<String>,
    pub(super) layout: Layout,
    /// The number of experts of a flattened leading dimension, and its place.
    pub(super) experts: Option<(u64, Range<usize>)>,
}

const KEYS: [&str; 3] = ["name", "layout", "experts"];
const MOST_NAMES: usize = 16;
const LONGEST_NAME: usize = 512;

/// Reads the entry under this word of `[weights]`.
pub(super) fn read(word: &str, kind: &Kind, span: Range<usize>) -> Result<Recipe, Diagnostic> {
    match kind {
        Kind::Text(_) | Kind::List(_) => {
            let names = names(word, kind, span)?;
            Ok(Recipe { names, layout: Layout::Plain, experts: None })
        }
        Kind::Table(entries) => table(word, entries, span),
        Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Other(_) => {
            let expected = "a tensor name, a list of names or a table";
            let message = format!("weights.{word} takes {expected}, not {}", kind.type_name());
            Err(Diagnostic::new(Code::WrongType, message).at(span, format!("expected {expected}")))
        }
    }
}

fn table(word: &str, entries: &[Entry], span: Range<usize>) -> Result<Recipe, Diagnostic> {
    if let Some(unknown) = entries.iter().find(|entry| !KEYS.contains(&entry.key.as_str())) {
        let table = format!("weights.{word}");
        let meant = Meant::by_spelling(&unknown.key, KEYS.into_iter());
        return Err(unknown_key(&unknown.key, unknown.key_span.clone(), &table, meant, KEYS.into_iter()));
    }
    let entry = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let Some(name) = entry("name") else {
        return Err(Diagnostic::new(Code::MissingKey, format!("weights.{word} lacks `name`"))
            .at(span, "in this table")
            .help("name = \"the tensor's name in the checkpoint\""));
    };
    let names = names(word, &name.kind, name.span.clone())?;
    let layout = entry("layout").map_or(Ok(Layout::Plain), |value| layout(word, value))?;
    let experts = entry("experts").map(|value| experts(word, value)).transpose()?;
    Ok(Recipe { names, layout, experts })
}

fn layout(word: &str, value: &Value) -> Result<Layout, Diagnostic> {
    let Kind::Text(text) = &value.kind else {
        let message = format!("weights.{word}.layout takes a string, not {}", value.kind.type_name());
        return Err(Diagnostic::new(Code::WrongType, message).at(value.span.clone(), "expected a string"));
    };
    let legal = Tensor::from_word(word).map_or(&[][..], Tensor::layouts);
    if let Some(layout) = legal.iter().find(|layout| layout.word() == text) {
        return Ok(*layout);
    }
    let list: Vec<String> = legal.iter().map(|layout| format!("\"{}\"", layout.word())).collect();
    let diagnostic = Diagnostic::new(Code::IllegalLayout, format!("weights.{word} cannot have the layout {}", quote(text)))
        .help(format!("{word} can have {}", list.join(", ")));
    Err(match nearest(text, legal.iter().map(|layout| layout.word())) {
        Some(near) if !near.is_empty() => {
            let quoted = format!("\"{near}\"");
            diagnostic.at(value.span.clone(), format!("did you mean {quoted}?")).replaced_by(quoted)
        }
        Some(_) | None => diagnostic.at(value.span.clone(), "not a layout of this tensor"),
    })
}

fn experts(word: &str, value: &Value) -> Result<(u64, Range<usize>), Diagnostic> {
    let wrong = |code, message: String| Diagnostic::new(code, message).at(value.span.clone(), "");
    if !Tensor::from_word(word).is_some_and(Tensor::has_experts) {
        let message = format!("weights.{word} has no expert dimension that could be flattened");
        return Err(wrong(Code::IllegalLayout, message));
    }
    match &value.kind {
        Kind::Integer(digits) => match digits.parse() {
            Ok(experts) => Ok((experts, value.span.clone())),
            Err(_) => Err(wrong(Code::OutOfRange, format!("weights.{word}.experts is not a number of experts"))),
        },
        kind => Err(wrong(Code::WrongType, format!("weights.{word}.experts takes an integer, not {}", kind.type_name()))),
    }
}

/// One name or a list of candidates.
fn names(word: &str, kind: &Kind, span: Range<usize>) -> Result<Vec<String>, Diagnostic> {
    match kind {
        Kind::Text(text) => Ok(vec![name(word, text, span)?]),
        Kind::List(values) if values.is_empty() || values.len() > MOST_NAMES => {
            let message = format!("weights.{word} has {} candidate names, outside 1..={MOST_NAMES}", values.len());
            Err(Diagnostic::new(Code::OutOfRange, message).at(span, ""))
        }
        Kind::List(values) => values
            .iter()
            .map(|value| match &value.kind {
                Kind::Text(text) => name(word, text, value.span.clone()),
                kind => Err(not_a_name(word, kind, value.span.clone())),
            })
            .collect(),
        kind => Err(not_a_name(word, kind, span)),
    }
}

fn not_a_name(word: &str, kind: &Kind, span: Range<usize>) -> Diagnostic {
    let message = format!("a tensor name of weights.{word} is a string, not {}", kind.type_name());
    Diagnostic::new(Code::WrongType, message).at(span, "expected a string")
}

fn name(word: &str, text: &str, span: Range<usize>) -> Result<String, Diagnostic> {
    let wrong = |why: String| {
        let diagnostic = Diagnostic::new(Code::BadTensorName, format!("{} cannot be looked up", quote(text)));
        Err(diagnostic.at(span.clone(), why))
    };
    let has_experts = Tensor::from_word(word).is_some_and(Tensor::has_experts);
    let rest = text.replace(EXPERT_INDEX, "");
    if text.is_empty() {
        return wrong("the name is empty".to_string());
    }
    if text.len() > LONGEST_NAME {
        return wrong(format!("longer than {LONGEST_NAME} bytes"));
    }
    if text.chars().any(char::is_control) {
        return wrong("a control character".to_string());
    }
    if rest.contains(['{', '}']) {
        return wrong(format!("the only placeholder is {EXPERT_INDEX}, the expert's index"));
    }
    if rest.len() < text.len() && !has_experts {
        return wrong(format!("{word} is one tensor, not one an expert"));
    }
    Ok(text.to_string())
}
