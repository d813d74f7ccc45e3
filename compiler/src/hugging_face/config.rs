//! A `config.json` as fields: nested tables, nulls, numbers of either spelling, lists with one entry a layer, and the
//! defaults that a `model_type` has for a field that is not there. What the fields mean is in `layer`.

use std::ops::Range;

use super::rules::{Fallback, Model};
use crate::diagnostics::{Code, Diagnostic, quote};
use crate::spec::{Entry, Kind, Value};

/// The largest number that any field can mean.
const MOST: u64 = (1 << 31) - 1;

/// The fields of one layer of one config.
pub(super) struct Config<'a> {
    /// The tables to look in, in order.
    scopes: Vec<&'a [Entry]>,
    pub(super) model: &'static Model,
    /// The layer that was asked for.
    pub(super) layer: Option<u64>,
    /// What was taken that the file does not say, a sentence each.
    pub(super) assumed: Vec<String>,
}

/// What a file says of a field.
pub(super) enum Found<'a> {
    /// This, for the layer that was asked for.
    Value(&'a Entry, &'a Value),
    /// `null`.
    Null,
    /// Nothing.
    Absent,
}

/// The tables in which fields are looked for: what a multimodal wrapper calls the text's, then the experts', then the file's.
pub(super) fn scopes(entries: &[Entry]) -> Vec<&[Entry]> {
    let inner = ["text_config", "language_config", "llm_config"].into_iter().find_map(|name| table(entries, name));
    let tables = [inner, Some(entries)].into_iter().flatten();
    tables.flat_map(|outer| std::iter::once(outer).chain(table(outer, "ffn_config"))).collect()
}

/// The table of this name.
fn table<'a>(entries: &'a [Entry], name: &str) -> Option<&'a [Entry]> {
    entries.iter().find(|entry| entry.key == name).and_then(|entry| match &entry.value.kind {
        Kind::Table(entries) => Some(entries.as_slice()),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::List(_) | Kind::Other(_) => None,
    })
}

impl<'a> Config<'a> {
    pub(super) fn new(scopes: Vec<&'a [Entry]>, model: &'static Model, layer: Option<u64>) -> Config<'a> {
        Config { scopes, model, layer, assumed: Vec::new() }
    }

    /// The field itself, whole, where it is there and not null.
    pub(super) fn entry(&self, name: &str) -> Option<&'a Entry> {
        let entries = self.scopes.iter().flat_map(|scope| scope.iter());
        entries.into_iter().find(|entry| entry.key == name && entry.value.kind != Kind::Other("null"))
    }

    /// Whether the field is in the file, were it null.
    fn is_null(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.iter().any(|entry| entry.key == name))
    }

    /// The first of these fields that the file has; of a list, the entry of the layer.
    pub(super) fn find(&self, names: &[&str]) -> Result<Found<'a>, Diagnostic> {
        match names.iter().find_map(|name| self.entry(name)) {
            Some(entry) => Ok(match self.of_layer(entry)? {
                value if value.kind == Kind::Other("null") => Found::Null,
                value => Found::Value(entry, value),
            }),
            None if names.iter().any(|name| self.is_null(name)) => Ok(Found::Null),
            None => Ok(Found::Absent),
        }
    }

    /// The value, or of a list with one entry a layer the layer's.
    fn of_layer(&self, entry: &'a Entry) -> Result<&'a Value, Diagnostic> {
        let Kind::List(values) = &entry.value.kind else { return Ok(&entry.value) };
        let Some(first) = values.first() else {
            return Err(wrong(Code::WrongType, entry, format!("{} is an empty list", quote(&entry.key)), ""));
        };
        match self.layer {
            Some(layer) => values.get(layer as usize).ok_or_else(|| {
                let message = format!("{} has {} entries, none for layer {layer}", quote(&entry.key), values.len());
                wrong(Code::OutOfRange, entry, message, "one entry a layer")
            }),
            None if values.iter().all(|value| value.kind == first.kind) => Ok(first),
            None => Err(needs_layer(entry)),
        }
    }

    /// What the model's class says where the file says nothing; it is an assumption, and said to be one.
    fn fallback(&mut self, names: &[&str]) -> Option<Fallback> {
        let (name, value) = self.model.defaults.iter().find(|(name, _)| names.contains(name))?;
        self.assumed.push(format!("{name} = {value}: not in the config; the default of `{}`", self.model.types[0]));
        Some(*value)
    }

    /// An integer; `None` where it is null, or absent without a default.
    pub(super) fn integer(&mut self, names: &[&str]) -> Result<Option<u64>, Diagnostic> {
        match self.find(names)? {
            Found::Value(entry, value) => integer(entry, value).map(Some),
            Found::Null => Ok(None),
            Found::Absent => Ok(match self.fallback(names) {
                Some(Fallback::Integer(value)) => Some(value),
                Some(Fallback::Number(_) | Fallback::Flag(_) | Fallback::Word(_)) | None => None,
            }),
        }
    }

    /// An integer that the layer cannot do without, at least 1.
    pub(super) fn required(&mut self, names: &[&str], what: &str) -> Result<u64, Diagnostic> {
        let Some(value) = self.integer(names)? else { return Err(missing(names, what)) };
        if value == 0 {
            let message = format!("{} is 0", quote(names[0]));
            let diagnostic = Diagnostic::new(Code::OutOfRange, message);
            let entry = names.iter().find_map(|name| self.entry(name));
            return Err(match entry {
                Some(entry) => diagnostic.at(entry.value.span.clone(), what),
                None => diagnostic,
            });
        }
        Ok(value)
    }

    /// A finite number; `None` where it is null, or absent without a default.
    pub(super) fn number(&mut self, names: &[&str]) -> Result<Option<f64>, Diagnostic> {
        match self.find(names)? {
            Found::Value(entry, value) => number(entry, value).map(Some),
            Found::Null => Ok(None),
            Found::Absent => Ok(match self.fallback(names) {
                Some(Fallback::Number(value)) => Some(value),
                Some(Fallback::Integer(value)) => Some(value as f64),
                Some(Fallback::Flag(_) | Fallback::Word(_)) | None => None,
            }),
        }
    }

    /// A boolean; `None` where it is null, or absent without a default.
    pub(super) fn flag(&mut self, names: &[&str]) -> Result<Option<bool>, Diagnostic> {
        match self.find(names)? {
            Found::Value(entry, value) => match &value.kind {
                Kind::Bool(flag) => Ok(Some(*flag)),
                kind => Err(wrong_type(entry, value, "a boolean", kind)),
            },
            Found::Null => Ok(None),
            Found::Absent => Ok(match self.fallback(names) {
                Some(Fallback::Flag(value)) => Some(value),
                Some(Fallback::Integer(_) | Fallback::Number(_) | Fallback::Word(_)) | None => None,
            }),
        }
    }

    /// A word and its place; `None` where it is null, or absent without a default.
    pub(super) fn word(&mut self, names: &[&str]) -> Result<Option<(&'a str, Range<usize>)>, Diagnostic> {
        match self.find(names)? {
            Found::Value(entry, value) => match &value.kind {
                Kind::Text(text) => Ok(Some((text, value.span.clone()))),
                // `"ffn_act_fn": {"name": "silu"}`.
                Kind::Table(entries) => match entries.iter().find(|inner| inner.key == "name").map(|inner| &inner.value.kind) {
                    Some(Kind::Text(text)) => Ok(Some((text, value.span.clone()))),
                    Some(_) | None => Err(wrong_type(entry, value, "a string", &value.kind)),
                },
                kind => Err(wrong_type(entry, value, "a string", kind)),
            },
            Found::Null => Ok(None),
            Found::Absent => Ok(match self.fallback(names) {
                Some(Fallback::Word(word)) => Some((word, 0..0)),
                Some(Fallback::Integer(_) | Fallback::Number(_) | Fallback::Flag(_)) | None => None,
            }),
        }
    }
}

/// The integer that a value says: `8` and `8.0` alike, since both are written.
pub(super) fn integer(entry: &Entry, value: &Value) -> Result<u64, Diagnostic> {
    let number = match &value.kind {
        Kind::Integer(digits) => digits.parse().ok(),
        Kind::Float(text) => text.parse::<f64>().ok().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as u64),
        kind => return Err(wrong_type(entry, value, "an integer", kind)),
    };
    number.filter(|number| *number <= MOST).ok_or_else(|| {
        let message = format!("{} is not an integer in 0..={MOST}", quote(&entry.key));
        Diagnostic::new(Code::OutOfRange, message).at(value.span.clone(), "")
    })
}

fn number(entry: &Entry, value: &Value) -> Result<f64, Diagnostic> {
    let (Kind::Integer(text) | Kind::Float(text)) = &value.kind else {
        return Err(wrong_type(entry, value, "a number", &value.kind));
    };
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => {
            let message = format!("{} is not a finite number", quote(&entry.key));
            Err(Diagnostic::new(Code::NotFinite, message).at(value.span.clone(), ""))
        }
    }
}

pub(super) fn wrong_type(entry: &Entry, value: &Value, expected: &str, found: &Kind) -> Diagnostic {
    let message = format!("{} takes {expected}, not {}", quote(&entry.key), found.type_name());
    Diagnostic::new(Code::WrongType, message).at(value.span.clone(), format!("expected {expected}"))
}

/// A mistake in the value of a field.
pub(super) fn wrong(code: Code, entry: &Entry, message: String, label: &str) -> Diagnostic {
    Diagnostic::new(code, message).at(entry.value.span.clone(), label)
}

/// A field that says different things of different layers, and no layer was asked for.
pub(super) fn needs_layer(entry: &Entry) -> Diagnostic {
    Diagnostic::new(Code::LayerNeeded, format!("{} differs from layer to layer", quote(&entry.key)))
        .at(entry.value.span.clone(), "one entry a layer")
        .help("`--layer N` says which layer is meant, counted from 0")
}

/// None of the fields is there.
pub(super) fn missing(names: &[&str], what: &str) -> Diagnostic {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    Diagnostic::new(Code::FieldMissing, format!("the config does not say {what}"))
        .help(format!("it is one of the fields {}", names.join(", ")))
}
