//! The spec as a tree of keys and values, each with its place: what TOML and JSON have in common.
//! What the keys mean is not known here.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Code, Diagnostic};

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub(crate) span: Range<usize>,
    pub(crate) kind: Kind,
}

/// What a value is. Numbers keep their decimal text: a capacity factor is read exactly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Text(String),
    Bool(bool),
    /// Digits with an optional minus sign.
    Integer(String),
    /// A text that `f64` parses, `nan` and `inf` included.
    Float(String),
    List(Vec<Value>),
    Table(Vec<Entry>),
    /// A date or a JSON null: no key takes one.
    Other(&'static str),
}

/// One `key = value`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: Value,
}

impl Kind {
    /// How a message names the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Kind::Text(_) => "a string",
            Kind::Bool(_) => "a boolean",
            Kind::Integer(_) => "an integer",
            Kind::Float(_) => "a float",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
            Kind::Other(name) => name,
        }
    }
}

/// Parses TOML. The parser stops at its first error, which is the one worth reading.
pub(crate) fn from_toml(text: &str) -> Result<Vec<Entry>, Diagnostic> {
    match DeTable::parse(text) {
        Ok(table) => Ok(entries(table.get_ref())),
        Err(error) => {
            let message = error.message().lines().next().unwrap_or("malformed").to_string();
            let diagnostic = Diagnostic::new(Code::TomlSyntax, format!("malformed TOML: {message}"));
            let span = error.span().unwrap_or(0..0);
            Err(diagnostic.at(on_characters(text, span), ""))
        }
    }
}

/// The table's entries in the order of the text.
fn entries(table: &DeTable<'_>) -> Vec<Entry> {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        Entry { key: key.get_ref().to_string(), key_span: key.span(), value: from_toml_value(value) }
    };
    let mut entries: Vec<Entry> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

fn from_toml_value(value: &Spanned<DeValue<'_>>) -> Value {
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Boolean(value) => Kind::Bool(*value),
        DeValue::Integer(integer) if integer.radix() == 10 => Kind::Integer(integer.as_str().to_string()),
        DeValue::Integer(integer) => {
            // 2^128 and more saturates: it is far outside every range, and is reported as such.
            let value = u128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(u128::MAX);
            Kind::Integer(value.to_string())
        }
        DeValue::Float(float) => Kind::Float(float.as_str().to_string()),
        DeValue::Datetime(_) => Kind::Other("a date"),
        DeValue::Array(values) => Kind::List(values.iter().map(from_toml_value).collect()),
        DeValue::Table(table) => Kind::Table(entries(table)),
    };
    Value { span: value.span(), kind }
}

/// Widens a span to whole characters inside the text: no renderer may be handed half of one.
pub(crate) fn on_characters(text: &str, span: Range<usize>) -> Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}
