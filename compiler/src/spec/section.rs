//! Reads one table of the spec against its row of the key tables: unknown keys, types, ranges, words.
//! What two keys say about each other is `check`'s business.

use std::ops::Range;

use super::aliases;
use super::capacity::Ratio;
use super::keys::{Choice, Fallback, Key, Sign, TABLES, Table, Takes};
use super::recipe::{self, Recipe};
use super::tree::{Entry, Kind, Value};
use crate::diagnostics::{Code, Diagnostic, nearest, quote};

/// A table whose keys have been read.
pub(super) struct Section {
    pub(super) table: &'static Table,
    /// The place of the table's name; 0..0 where the spec does not have the table.
    pub(super) header: Range<usize>,
    fields: Vec<Field>,
    /// Keys that an unknown one was probably meant to be: they are not reported as missing too.
    misspelt: Vec<&'static str>,
}

/// One key that was given, and what it says; `None` where that is wrong and has been reported.
pub(super) struct Field {
    pub(super) key: &'static Key,
    pub(super) key_span: Range<usize>,
    pub(super) span: Range<usize>,
    value: Option<Read>,
}

/// Whether a word is written as it is today.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    Current,
    Old,
}

/// What a key says.
enum Read {
    Text(String),
    Boolean(bool),
    Integer(u64),
    Integers(Vec<(u64, Range<usize>)>),
    Number(f64),
    Ratio(Ratio),
    Word(&'static Choice, Spelling),
    Recipe(Recipe),
}

impl Section {
    /// A table that the spec does not have: every key holds its default.
    pub(super) fn absent(table: &'static Table) -> Section {
        Section { table, header: 0..0, fields: Vec::new(), misspelt: Vec::new() }
    }

    /// Reads every entry of the table, and reports what is wrong with each alone.
    pub(super) fn read(table: &'static Table, header: Range<usize>, entries: &[Entry], wrong: &mut Vec<Diagnostic>) -> Section {
        let mut section = Section { header, ..Section::absent(table) };
        for entry in entries {
            let Some(key) = table.keys.iter().find(|key| key.name == entry.key) else {
                let names = table.keys.iter().map(|key| key.name);
                let meant = Meant::by(&entry.key, table.name, names.clone());
                match meant {
                    Meant::Here(name) | Meant::Switched(name, _) => section.misspelt.push(name),
                    Meant::Elsewhere(..) | Meant::Unknown => {}
                }
                wrong.push(unknown_key(&entry.key, entry.key_span.clone(), table.name, meant, names));
                continue;
            };
            let place = Place { table: table.name, key };
            let value = match place.read(&entry.value) {
                Ok(value) => Some(value),
                Err(diagnostic) => {
                    wrong.push(diagnostic);
                    None
                }
            };
            section.fields.push(Field { key, key_span: entry.key_span.clone(), span: entry.value.span.clone(), value });
        }
        for key in table.keys.iter().filter(|key| matches!(key.default, Fallback::Required)) {
            section.require(key.name, wrong);
        }
        section
    }

    /// Reports the key where it is neither given nor misspelt.
    pub(super) fn require(&self, name: &str, wrong: &mut Vec<Diagnostic>) {
        let Some(key) = self.table.keys.iter().find(|key| key.name == name) else { return };
        if self.given(name).is_none() && !self.misspelt.contains(&name) {
            wrong.push(
                Diagnostic::new(Code::MissingKey, format!("[{}] lacks `{name}`", self.table.name))
                    .at(self.header.clone(), "in this table")
                    .help(format!("{name}: {}", key.doc)),
            );
        }
    }

    /// The key where it was given.
    pub(super) fn given(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key.name == name)
    }

    /// Every key that was given.
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What the key says, or what its absence means; `None` where it is wrong, or has no default.
    fn value<T>(&self, name: &str, said: impl Fn(&Read) -> Option<T>, unsaid: impl Fn(Fallback) -> Option<T>) -> Option<T> {
        match self.given(name) {
            Some(field) => field.value.as_ref().and_then(said),
            None => self.table.keys.iter().find(|key| key.name == name).and_then(|key| unsaid(key.default)),
        }
    }

    /// The key's text; empty where it is absent.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let said = |read: &Read| if let Read::Text(text) = read { Some(text.clone()) } else { None };
        self.value(name, said, |_| Some(String::new()))
    }

    /// The key's boolean, or its default.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        let said = |read: &Read| if let Read::Boolean(value) = read { Some(*value) } else { None };
        self.value(name, said, |unsaid| if let Fallback::Boolean(value) = unsaid { Some(value) } else { None })
    }

    /// The key's integer, or its default.
    pub(super) fn integer(&self, name: &str) -> Option<u64> {
        let said = |read: &Read| if let Read::Integer(value) = read { Some(*value) } else { None };
        self.value(name, said, |unsaid| if let Fallback::Integer(value) = unsaid { Some(value) } else { None })
    }

    /// The key's integers and their places, or its default without places.
    pub(super) fn integers(&self, name: &str) -> Option<Vec<(u64, Range<usize>)>> {
        let said = |read: &Read| if let Read::Integers(values) = read { Some(values.clone()) } else { None };
        let unplaced = |values: &[u64]| values.iter().map(|value| (*value, 0..0)).collect();
        self.value(name, said, |unsaid| if let Fallback::Integers(values) = unsaid { Some(unplaced(values)) } else { None })
    }

    /// The key's number, or its default.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        let said = |read: &Read| if let Read::Number(value) = read { Some(*value) } else { None };
        self.value(name, said, |unsaid| if let Fallback::Number(value) = unsaid { Some(value) } else { None })
    }

    /// The key's exact fraction.
    pub(super) fn ratio(&self, name: &str) -> Option<Ratio> {
        let said = |read: &Read| if let Read::Ratio(ratio) = read { Some(*ratio) } else { None };
        self.value(name, said, |_| None)
    }

    /// The key's number of bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<u64> {
        self.value(name, |read| if let Read::Integer(bytes) = read { Some(*bytes) } else { None }, |_| None)
    }

    /// The key's word, or its default.
    pub(super) fn word(&self, name: &str) -> Option<&'static str> {
        let said = |read: &Read| if let Read::Word(choice, _) = read { Some(choice.word) } else { None };
        self.value(name, said, |unsaid| if let Fallback::Word(word) = unsaid { Some(word) } else { None })
    }
}

/// Units of bytes, by the names that a spec has.
const BYTE_UNITS: [(&str, u64); 7] =
    [("B", 1), ("kB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
/// What such a text is, as a pattern of JSON Schema.
pub(super) const BYTES_PATTERN: &str = "^[0-9]+ *(B|kB|MB|GB|KiB|MiB|GiB)$";
/// A pebibyte: no device has as much.
const MOST_BYTES: u64 = 1 << 50;

impl Read {
    fn repeats(&self, default: Fallback) -> bool {
        match (self, default) {
            (Read::Boolean(value), Fallback::Boolean(default)) => *value == default,
            (Read::Integer(value), Fallback::Integer(default)) => *value == default,
            (Read::Number(value), Fallback::Number(default)) => *value == default,
            (Read::Word(choice, _), Fallback::Word(default)) => choice.word == default,
            _ => false,
        }
    }
}

impl Field {
    /// Whether it says what its absence would mean, or something wrong, which has been reported.
    pub(super) fn repeats_default(&self) -> bool {
        self.value.as_ref().is_none_or(|value| value.repeats(self.key.default))
    }

    /// The word that it has in its old spelling: that, and today's.
    pub(super) fn old_word(&self) -> Option<(&'static str, &'static str)> {
        match &self.value {
            Some(Read::Word(choice, Spelling::Old)) => Some((choice.old?, choice.word)),
            Some(_) | None => None,
        }
    }

    /// The recipe of a `[weights]` entry.
    pub(super) fn recipe(&self) -> Option<&Recipe> {
        if let Some(Read::Recipe(recipe)) = &self.value { Some(recipe) } else { None }
    }
}

/// A key of a table, as messages name it.
struct Place {
    table: &'static str,
    key: &'static Key,
}

impl Place {
    fn name(&self) -> String {
        format!("{}.{}", self.table, self.key.name)
    }

    /// The value, if it is one that the key takes.
    fn read(&self, value: &Value) -> Result<Read, Diagnostic> {
        match (self.key.takes, &value.kind) {
            (Takes::Text, Kind::Text(text)) => self.text(text, value).map(Read::Text),
            (Takes::Boolean, Kind::Bool(value)) => Ok(Read::Boolean(*value)),
            (Takes::Integer(min, max) | Takes::WordOrInteger(_, min, max), Kind::Integer(digits)) => {
                self.integer(digits, min, max, value).map(Read::Integer)
            }
            (Takes::Bytes, Kind::Integer(digits)) => self.integer(digits, 1, MOST_BYTES, value).map(Read::Integer),
            (Takes::Bytes, Kind::Text(text)) => self.bytes(text, value).map(Read::Integer),
            (Takes::Integers(min, max), Kind::List(values)) => self.integers(values, min, max, value),
            (Takes::Number(sign), Kind::Integer(text) | Kind::Float(text)) => self.number(text, sign, value).map(Read::Number),
            (Takes::Ratio, Kind::Integer(text) | Kind::Float(text)) => self.ratio(text, value),
            (Takes::Word(choices) | Takes::WordOrInteger(choices, ..), Kind::Text(word)) => self.word(word, choices, value),
            (Takes::Stored, kind) => recipe::read(self.key.name, kind, value.span.clone()).map(Read::Recipe),
            (takes, kind) => Err(self.wrong_type(takes, kind, value)),
        }
    }

    fn wrong_type(&self, takes: Takes, kind: &Kind, value: &Value) -> Diagnostic {
        let expected = match takes {
            Takes::Text | Takes::Word(_) => "a string",
            Takes::Boolean => "true or false",
            Takes::Integer(..) => "an integer",
            Takes::Integers(..) => "a list of integers",
            Takes::Bytes => "a number of bytes or a text such as \"256 MB\"",
            Takes::Number(_) | Takes::Ratio => "a number",
            Takes::WordOrInteger(..) => "a string or an integer",
            Takes::Stored => "a tensor name, a list of names or a table",
        };
        let message = format!("{} takes {expected}, not {}", self.name(), kind.type_name());
        let diagnostic = Diagnostic::new(Code::WrongType, message).at(value.span.clone(), format!("expected {expected}"));
        match (takes, kind) {
            (Takes::Integer(..), Kind::Float(text)) if text.contains(['e', 'E']) => {
                diagnostic.help("write the integer with all its digits; `_` may separate them")
            }
            (Takes::Word(choices), _) => diagnostic.help(format!("one of {}", words(choices))),
            (Takes::Integer(..) | Takes::Number(_) | Takes::Ratio, Kind::Text(text)) if text.parse::<f64>().is_ok() => {
                diagnostic.help(format!("without quotes: {} = {text}", self.key.name)).replaced_by(text)
            }
            (Takes::Integer(..), Kind::Float(text)) => match text.split_once('.') {
                Some((whole, zeros)) if zeros.bytes().all(|b| b == b'0') => {
                    diagnostic.help(format!("write {} = {whole}", self.key.name)).replaced_by(whole)
                }
                Some(_) | None => diagnostic,
            },
            _ => diagnostic,
        }
    }

    /// A name that is safe in file and symbol names.
    fn text(&self, text: &str, value: &Value) -> Result<String, Diagnostic> {
        const LONGEST: usize = 64;
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let wrong = |message: String, label: String| {
            Err(Diagnostic::new(Code::BadName, message)
                .at(value.span.clone(), label)
                .help("letters, digits, `.`, `_` and `-`, since the name becomes file and symbol names"))
        };
        if let Some(c) = text.chars().find(|c| !is_legal(*c)) {
            return wrong(
                format!("{} cannot be {}", self.name(), quote(text)),
                format!("{} is not allowed", quote(&c.to_string())),
            );
        }
        if text.len() > LONGEST {
            return wrong(format!("{} is {} characters long", self.name(), text.len()), format!("at most {LONGEST}"));
        }
        Ok(text.to_string())
    }

    fn integer(&self, digits: &str, min: u64, max: u64, value: &Value) -> Result<u64, Diagnostic> {
        let number = digits.strip_prefix('+').unwrap_or(digits).parse::<u64>().ok();
        number.filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            let message = format!("{} is {}, outside {min}..={max}", self.name(), shortened(digits));
            Diagnostic::new(Code::OutOfRange, message).at(value.span.clone(), format!("expected {min} to {max}"))
        })
    }

    /// `256 MB`: a number and a unit, decimal or binary.
    fn bytes(&self, text: &str, value: &Value) -> Result<u64, Diagnostic> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = text[split..].trim_start();
        let unit = BYTE_UNITS.iter().find(|(name, _)| *name == unit);
        let bytes = unit.and_then(|(_, bytes)| text[..split].parse::<u64>().ok()?.checked_mul(*bytes));
        bytes.filter(|bytes| (1..=MOST_BYTES).contains(bytes)).ok_or_else(|| {
            let message = format!("{} cannot be {}", self.name(), quote(text));
            let units: Vec<&str> = BYTE_UNITS.iter().map(|(name, _)| *name).collect();
            Diagnostic::new(Code::UnknownWord, message)
                .at(value.span.clone(), "expected a whole number and a unit, such as \"256 MB\"")
                .help(format!("units are {}", units.join(", ")))
        })
    }

    fn integers(&self, values: &[Value], min: u64, max: u64, whole: &Value) -> Result<Read, Diagnostic> {
        const MOST: usize = 16;
        if values.is_empty() || values.len() > MOST {
            let message = format!("{} has {} entries, outside 1..={MOST}", self.name(), values.len());
            return Err(Diagnostic::new(Code::OutOfRange, message).at(whole.span.clone(), ""));
        }
        let integer = |value: &Value| match &value.kind {
            Kind::Integer(digits) => Ok((self.integer(digits, min, max, value)?, value.span.clone())),
            kind => Err(self.wrong_type(Takes::Integer(min, max), kind, value)),
        };
        values.iter().map(integer).collect::<Result<_, _>>().map(Read::Integers)
    }

    /// A number that an f32 can hold.
    fn number(&self, text: &str, sign: Sign, value: &Value) -> Result<f64, Diagnostic> {
        let wrong = |code, message: String, expected: &str| Diagnostic::new(code, message).at(value.span.clone(), expected);
        const LONGEST: usize = 400;
        if text.len() > LONGEST {
            let message = format!("{} is a number of {} characters", self.name(), text.len());
            return Err(wrong(Code::OutOfRange, message, "expected a number that an f32 can hold"));
        }
        let number = text.parse::<f64>().unwrap_or(f64::NAN);
        let is_written_finite = !text.contains("inf") && !text.contains("nan");
        if !is_written_finite {
            return Err(wrong(Code::NotFinite, format!("{} is {}", self.name(), shortened(text)), "expected a finite number"));
        }
        let in_sign = match sign {
            Sign::Positive => number > 0.0,
            Sign::NonNegative => number >= 0.0,
            Sign::Any => true,
        };
        let expected = match sign {
            Sign::Positive => "expected a number above 0",
            Sign::NonNegative => "expected 0 or more",
            Sign::Any => "expected a number that an f32 can hold",
        };
        let is_nonzero_text = text.split(['e', 'E']).next().is_some_and(|m| m.bytes().any(|b| (b'1'..=b'9').contains(&b)));
        let is_representable = number.abs() <= f64::from(f32::MAX) && (is_nonzero_text == (number as f32 != 0.0));
        match (in_sign, is_representable) {
            (true, true) => Ok(number),
            (true, false) => {
                let message = format!("{} is {}, which an f32 cannot hold", self.name(), shortened(text));
                Err(wrong(Code::OutOfRange, message, "expected a number that an f32 can hold"))
            }
            (false, _) => Err(wrong(Code::OutOfRange, format!("{} is {}", self.name(), shortened(text)), expected)),
        }
    }

    /// A positive decimal, kept exactly.
    fn ratio(&self, text: &str, value: &Value) -> Result<Read, Diagnostic> {
        let number = self.number(text, Sign::Positive, value)?;
        const MOST: f64 = 1e6;
        if number > MOST {
            let message = format!("{} is {}, above {MOST}", self.name(), shortened(text));
            return Err(Diagnostic::new(Code::OutOfRange, message).at(value.span.clone(), ""));
        }
        Ratio::from_decimal(text).map(Read::Ratio).ok_or_else(|| {
            let message = format!("{} cannot be kept exactly", self.name());
            Diagnostic::new(Code::InexactRatio, message)
                .at(value.span.clone(), "more digits than a fraction of two 64-bit integers holds")
        })
    }

    fn word(&self, word: &str, choices: &'static [Choice], value: &Value) -> Result<Read, Diagnostic> {
        let Some(choice) = choices.iter().find(|choice| choice.word == word || choice.old == Some(word)) else {
            let message = format!("{} cannot be {}", self.name(), quote(word));
            let diagnostic = Diagnostic::new(Code::UnknownWord, message);
            let is_choice = |ours: &str| choices.iter().any(|choice| choice.word == ours);
            let alias = aliases::word_of(self.key.name, word).filter(|(ours, _)| is_choice(ours));
            let near = || nearest(word, choices.iter().map(|choice| choice.word)).map(|near| (near, ""));
            return Err(match alias.or_else(near) {
                Some((meant, "")) => diagnostic
                    .at(value.span.clone(), format!("did you mean \"{meant}\"?"))
                    .replaced_by(format!("\"{meant}\""))
                    .help(format!("one of {}", words(choices))),
                Some((meant, beside)) => diagnostic
                    .at(value.span.clone(), format!("did you mean \"{meant}\", with {beside}?"))
                    .help(format!("one of {}", words(choices))),
                None => diagnostic.at(value.span.clone(), format!("expected one of {}", words(choices))),
            });
        };
        Ok(Read::Word(choice, if choice.word == word { Spelling::Current } else { Spelling::Old }))
    }
}

/// The words of a key, for a help line.
fn words(choices: &[Choice]) -> String {
    choices.iter().map(|choice| format!("\"{}\"", choice.word)).collect::<Vec<_>>().join(", ")
}

/// A number's text, cut where it is absurdly long.
fn shortened(text: &str) -> String {
    match text.get(..40) {
        Some(start) if text.len() > 44 => format!("{start}..."),
        Some(_) | None => text.to_string(),
    }
}

/// What a key that is not there was probably meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// This name, of the same table.
    Here(&'static str),
    /// This name of the same table, with this value in the place of a switch.
    Switched(&'static str, &'static str),
    /// A key of another table: its table, its name, and its value in the place of a switch, else nothing.
    Elsewhere(&'static str, &'static str, &'static str),
    Unknown,
}

impl Meant {
    /// By another library's name for a key of this table, by the key of this name in another table, by another library's name
    /// for one there, or by the spelling.
    pub(super) fn by(name: &str, table: &str, valid: impl Iterator<Item = &'static str>) -> Meant {
        let mut keys = TABLES.iter().flat_map(|other| other.keys.iter().map(|key| (other.name, key.name)));
        match (aliases::key(name, table), keys.find(|(_, key)| *key == name)) {
            (Some((of, key, "")), _) if of == table => Meant::Here(key),
            (Some((of, key, value)), _) if of == table => Meant::Switched(key, value),
            (_, Some((of, key))) => Meant::Elsewhere(of, key, ""),
            (Some((of, key, value)), None) => Meant::Elsewhere(of, key, value),
            (None, None) => Meant::by_spelling(name, valid),
        }
    }

    pub(super) fn by_spelling(name: &str, valid: impl Iterator<Item = &'static str>) -> Meant {
        nearest(name, valid).map_or(Meant::Unknown, Meant::Here)
    }
}

/// A key that no table row names.
pub(super) fn unknown_key<'a>(
    name: &str,
    span: Range<usize>,
    table: &str,
    meant: Meant,
    valid: impl Iterator<Item = &'a str>,
) -> Diagnostic {
    let message = match table {
        "" => format!("there is no table or key {} at the top of a spec", quote(name)),
        table => format!("there is no key {} in [{table}]", quote(name)),
    };
    let list = valid.collect::<Vec<_>>().join(", ");
    let diagnostic = Diagnostic::new(Code::UnknownKey, message).help(format!("valid here: {list}"));
    match meant {
        Meant::Here(key) => diagnostic.at(span, format!("did you mean `{key}`?")).replaced_by(key),
        Meant::Switched(key, value) => diagnostic.at(span, format!("did you mean `{key} = {value}`?")),
        Meant::Elsewhere(of, key, _) if key == name => diagnostic.at(span, format!("`{key}` belongs in [{of}]")),
        Meant::Elsewhere(of, key, "") => diagnostic.at(span, format!("this is `{key}` of [{of}]")),
        Meant::Elsewhere(of, key, value) => diagnostic.at(span, format!("this is `{key} = {value}` of [{of}]")),
        Meant::Unknown => diagnostic.at(span, "unknown"),
    }
}
