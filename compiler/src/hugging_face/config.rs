//! A `config.json` as fields: nested tables, nulls, numbers of either spelling, lists with one entry a layer, and the
//! defaults that a `model_type` has for a field that is not there. What the fields mean is in `layer`; every field that is
//! looked up is marked as read, and `account` asks about the others.

use std::collections::BTreeSet;
use std::ops::Range;

use super::files::Files;
use super::rules::{Fallback, Model, ToldBy};
use crate::diagnostics::{Code, Diagnostic, quote};
use crate::spec::{Entry, Kind, Value};

/// The largest number that any field can mean.
const MOST: u64 = (1 << 31) - 1;

/// The fields of one layer of one config.
pub(super) struct Config<'a> {
    /// The tables to look in, in order.
    scopes: Vec<&'a [Entry]>,
    pub(super) model: &'static Model,
    pub(super) files: &'static Files,
    /// The `model_type` that decided.
    pub(super) model_type: &'a str,
    /// The layer that was asked for.
    pub(super) layer: Option<u64>,
    /// What was taken that the file does not say, a sentence each.
    pub(super) assumed: Vec<String>,
    /// Fields that are left out where no rule reads them, or where they say other than the one that is read.
    pub(super) allowed: &'a [String],
    /// The places of the keys that were read.
    read: BTreeSet<usize>,
}

/// The table of the model that thinks, where another one talks.
const THINKER: &str = "thinker_config";

/// Whether the file has two models, of which one thinks and one talks.
pub(super) fn has_thinker(entries: &[Entry]) -> bool {
    table(entries, THINKER).is_some()
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
/// Of a file with a model that thinks and one that talks, the first is meant.
pub(super) fn scopes(entries: &[Entry]) -> Vec<&[Entry]> {
    let thinker = table(entries, THINKER);
    let texts = ["text_config", "language_config", "llm_config"];
    let inner = texts.into_iter().find_map(|name| table(thinker.unwrap_or(entries), name));
    let tables = [inner, thinker, Some(entries)].into_iter().flatten();
    tables.flat_map(|outer| std::iter::once(outer).chain(table(outer, "ffn_config"))).collect()
}

impl ToldBy {
    /// Whether a config of this type is of the generation that the row is for. A type that only this generation has is.
    pub(super) fn tells(&self, model_type: &str, scopes: &[&[Entry]]) -> bool {
        let entries = || scopes.iter().flat_map(|scope| scope.iter());
        let is_class = |entry: &Entry| self.architectures.iter().any(|name| names_class(Some(entry), name));
        let mut classes = entries().filter(|entry| entry.key == "architectures");
        self.types.contains(&model_type)
            || classes.any(is_class)
            || entries().any(|entry| self.fields.contains(&entry.key.as_str()) && !is_null(&entry.value))
    }
}

/// Whether `architectures` has this class.
pub(super) fn names_class(architectures: Option<&Entry>, name: &str) -> bool {
    let is_named = |value: &Value| value.kind == Kind::Text(name.to_string());
    architectures.is_some_and(|entry| match &entry.value.kind {
        Kind::List(values) => values.iter().any(is_named),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Table(_) | Kind::Other(_) => {
            is_named(&entry.value)
        }
    })
}

/// The table of this name.
fn table<'a>(entries: &'a [Entry], name: &str) -> Option<&'a [Entry]> {
    entries.iter().find(|entry| entry.key == name).and_then(|entry| match &entry.value.kind {
        Kind::Table(entries) => Some(entries.as_slice()),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::List(_) | Kind::Other(_) => None,
    })
}

impl<'a> Config<'a> {
    pub(super) fn new(
        scopes: Vec<&'a [Entry]>,
        found: &super::Rows<'a>,
        layer: Option<u64>,
        allowed: &'a [String],
    ) -> Config<'a> {
        let super::Rows { model, files, model_type, .. } = *found;
        Config { scopes, model, files, model_type, layer, assumed: Vec::new(), allowed, read: BTreeSet::new() }
    }

    /// Every entry of this name, those of the inner tables first, were they null. They are read by that.
    fn entries(&mut self, name: &str) -> Vec<&'a Entry> {
        let entries = self.scopes.iter().flat_map(|scope| scope.iter());
        let found: Vec<&Entry> = entries.filter(|entry| entry.key == name).collect();
        // What an outer table says otherwise is not what was read.
        let first = found.iter().find(|entry| !is_null(&entry.value)).or(found.first());
        let alike = found.iter().filter(|entry| first.is_none_or(|first| is_null(&entry.value) || is_same(first, entry)));
        self.read.extend(alike.map(|entry| entry.key_span.start));
        found
    }

    /// The field itself, whole, where it is there and not null.
    pub(super) fn entry(&mut self, name: &str) -> Option<&'a Entry> {
        self.entries(name).into_iter().find(|entry| !is_null(&entry.value))
    }

    /// Whether a rule has read it.
    pub(super) fn is_read(&self, entry: &Entry) -> bool {
        self.read.contains(&entry.key_span.start)
    }

    /// Whether these entries are those of a table that fields are looked for in.
    pub(super) fn is_scope(&self, entries: &[Entry]) -> bool {
        self.scopes.iter().any(|scope| std::ptr::eq(scope.as_ptr(), entries.as_ptr()))
    }

    /// Whether the file has it, and not null. It is not read by that.
    pub(super) fn has(&self, name: &str) -> bool {
        self.scopes.iter().flat_map(|scope| scope.iter()).any(|entry| entry.key == name && !is_null(&entry.value))
    }

    /// Whether `--allow-unread` names it.
    pub(super) fn is_allowed(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed.rsplit('.').next() == Some(name))
    }

    /// The first of these fields that the file has; of a list, the entry of the layer. Fields that mean the same and say
    /// different things are an error: which of them the model's code would take is not known.
    pub(super) fn find(&mut self, names: &[&str]) -> Result<Found<'a>, Diagnostic> {
        let mut found: Option<&'a Entry> = None;
        let mut is_null = false;
        for name in names {
            is_null |= !self.entries(name).is_empty();
            let Some(entry) = self.entry(name) else { continue };
            match found {
                None => found = Some(entry),
                Some(first) if is_same(first, entry) => {}
                Some(_) if self.is_allowed(name) => {
                    self.read.remove(&entry.key_span.start);
                }
                Some(first) => return Err(disagree(first, entry)),
            }
        }
        match found {
            Some(entry) => Ok(match self.of_layer(entry)? {
                value if value.kind == Kind::Other("null") => Found::Null,
                value => Found::Value(entry, value),
            }),
            None if is_null => Ok(Found::Null),
            None => Ok(Found::Absent),
        }
    }

    /// The value, or of a list with one entry a layer the layer's.
    pub(super) fn of_layer<'e>(&self, entry: &'e Entry) -> Result<&'e Value, Diagnostic> {
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
        self.assumed.push(format!("{name} = {value}: not in the config; the default of `{}`", self.model_type));
        Some(*value)
    }

    /// Says what is taken where the file says `null`, or nothing and no class has a default.
    fn instead(&mut self, names: &[&str], taken: Fallback) {
        let null = names.iter().find(|name| !self.entries(name).is_empty());
        let said = null.or(names.first()).map(|name| (name, if null.is_some() { "null" } else { "not" }));
        self.assumed.extend(said.map(|(name, how)| format!("{name} = {taken}: {how} in the config")));
    }

    /// An integer, or this one.
    pub(super) fn integer_or(&mut self, names: &[&str], otherwise: u64) -> Result<u64, Diagnostic> {
        let value = self.integer(names)?;
        Ok(value.unwrap_or_else(|| {
            self.instead(names, Fallback::Integer(otherwise));
            otherwise
        }))
    }

    /// A finite number, or this one.
    pub(super) fn number_or(&mut self, names: &[&str], otherwise: f64) -> Result<f64, Diagnostic> {
        let value = self.number(names)?;
        Ok(value.unwrap_or_else(|| {
            self.instead(names, Fallback::Number(otherwise));
            otherwise
        }))
    }

    /// A boolean, or this one.
    pub(super) fn flag_or(&mut self, names: &[&str], otherwise: bool) -> Result<bool, Diagnostic> {
        let value = self.flag(names)?;
        Ok(value.unwrap_or_else(|| {
            self.instead(names, Fallback::Flag(otherwise));
            otherwise
        }))
    }

    /// A word and its place, or this one, whose place is empty.
    pub(super) fn word_or(&mut self, names: &[&str], otherwise: &'static str) -> Result<(&'a str, Range<usize>), Diagnostic> {
        let value = self.word(names)?;
        Ok(value.unwrap_or_else(|| {
            self.instead(names, Fallback::Word(otherwise));
            (otherwise, 0..0)
        }))
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
                Kind::Table(entries) => match named(entries) {
                    Some((text, rest)) => {
                        let is_said = |entry: &&Entry| !rest.iter().any(|other| other.key == entry.key);
                        self.read.extend(entries.iter().filter(is_said).map(|entry| entry.key_span.start));
                        Ok(Some((text, value.span.clone())))
                    }
                    None => Err(wrong_type(entry, value, "a string", &value.kind)),
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

fn is_null(value: &Value) -> bool {
    value.kind == Kind::Other("null")
}

/// The word of a table such as `{"name": "silu"}`, and what else it has; of gelu, `"approximate": "tanh"` makes another one.
pub(super) fn named(entries: &[Entry]) -> Option<(&str, Vec<&Entry>)> {
    let text = |key: &str| match entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value.kind) {
        Some(Kind::Text(text)) => Some(text.as_str()),
        Some(_) | None => None,
    };
    let (word, said): (&str, &[&str]) = match (text("name")?, text("approximate")) {
        ("gelu", Some("tanh")) => ("gelu_tanh", &["name", "approximate"]),
        ("gelu", Some("none")) => ("gelu", &["name", "approximate"]),
        (name, _) => (name, &["name"]),
    };
    Some((word, entries.iter().filter(|entry| !said.contains(&entry.key.as_str()) && !is_null(&entry.value)).collect()))
}

/// Whether two fields say the same; numbers may be spelt differently.
fn is_same(a: &Entry, b: &Entry) -> bool {
    match (&a.value.kind, &b.value.kind) {
        (Kind::Integer(a) | Kind::Float(a), Kind::Integer(b) | Kind::Float(b)) => a.parse::<f64>() == b.parse::<f64>(),
        (a, b) => without_places(a) == without_places(b),
    }
}

/// A value whose places are all the same, so that two of them can be compared.
fn without_places(kind: &Kind) -> Kind {
    let value = |value: &Value| Value { span: 0..0, kind: without_places(&value.kind) };
    match kind {
        Kind::List(values) => Kind::List(values.iter().map(value).collect()),
        Kind::Table(entries) => Kind::Table(
            entries.iter().map(|entry| Entry { key: entry.key.clone(), key_span: 0..0, value: value(&entry.value) }).collect(),
        ),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Other(_) => kind.clone(),
    }
}

/// Two fields for one thing.
fn disagree(first: &Entry, second: &Entry) -> Diagnostic {
    let message = format!("{} and {} mean the same and differ", quote(&first.key), quote(&second.key));
    Diagnostic::new(Code::FieldsDisagree, message)
        .at(first.value.span.clone(), "this")
        .also(second.value.span.clone(), "or this")
        .help(format!("`--allow-unread {}` takes the first of them", second.key))
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
