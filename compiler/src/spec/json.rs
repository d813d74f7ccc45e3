//! JSON with places: RFC 8259 into the same tree that TOML gives.
//! It exists because serde_json gives a place to errors only, never to a key or a value.

use std::ops::Range;

use super::source::BYTE_ORDER_MARK;
use super::tree::{Entry, Kind, Value, on_characters};
use crate::diagnostics::{Code, Diagnostic, quote};

/// Parses a JSON object. The caller has checked that brackets do not nest too deeply.
pub(super) fn from_json(text: &str) -> Result<Vec<Entry>, Diagnostic> {
    let mut cursor = Cursor { text, at: if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 } };
    cursor.skip_space();
    let start = cursor.at;
    let value = cursor.value()?;
    cursor.skip_space();
    if cursor.at < text.len() {
        return Err(cursor.error(cursor.at, "more text after the end of the object"));
    }
    match value.kind {
        Kind::Table(entries) => Ok(entries),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::List(_) | Kind::Other(_) => {
            Err(cursor.error(start, "a spec is an object"))
        }
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn error(&self, at: usize, message: &str) -> Diagnostic {
        Diagnostic::new(Code::JsonSyntax, format!("malformed JSON: {message}")).at(on_characters(self.text, at..at + 1), "")
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Consumes `byte` where it is next.
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Result<Value, Diagnostic> {
        let start = self.at;
        if let Some(word) = self.word_of_python() {
            return Err(self.not_json(word));
        }
        let kind = match self.peek() {
            Some(b'{') => Kind::Table(self.object()?),
            Some(b'[') => Kind::List(self.list()?),
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) if self.text[start..].starts_with("true") => self.word("true", Kind::Bool(true)),
            Some(_) if self.text[start..].starts_with("false") => self.word("false", Kind::Bool(false)),
            Some(_) if self.text[start..].starts_with("null") => self.word("null", Kind::Other("null")),
            Some(_) => return Err(self.error(start, "a value was expected")),
            None => return Err(self.error(start, "the text ends where a value was expected")),
        };
        Ok(Value { span: start..self.at, kind })
    }

    /// What Python's `json` writes for numbers that JSON does not have.
    fn word_of_python(&self) -> Option<&'static str> {
        ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| self.text[self.at..].starts_with(word))
    }

    fn not_json(&self, word: &str) -> Diagnostic {
        let diagnostic = Diagnostic::new(Code::JsonSyntax, format!("malformed JSON: {word} is not JSON"));
        diagnostic
            .at(self.at..self.at + word.len(), "no number")
            .help("Python writes it for a float; JSON has finite numbers only")
    }

    fn word(&mut self, word: &str, kind: Kind) -> Kind {
        self.at += word.len();
        kind
    }

    fn object(&mut self) -> Result<Vec<Entry>, Diagnostic> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut keys: std::collections::BTreeMap<String, Range<usize>> = Default::default();
        self.at += 1;
        self.skip_space();
        if self.eat(b'}') {
            return Ok(entries);
        }
        loop {
            self.skip_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error(start, "a key in double quotes was expected"));
            }
            let key = self.string()?;
            let key_span = start..self.at;
            if let Some(first) = keys.insert(key.clone(), key_span.clone()) {
                let message = format!("malformed JSON: the key {} is given twice", quote(&key));
                return Err(Diagnostic::new(Code::JsonSyntax, message).at(key_span, "again").also(first, "first"));
            }
            self.skip_space();
            if !self.eat(b':') {
                return Err(self.error(self.at, "`:` was expected"));
            }
            self.skip_space();
            let value = self.value()?;
            entries.push(Entry { key, key_span, value });
            self.skip_space();
            if self.eat(b'}') {
                return Ok(entries);
            }
            if !self.eat(b',') {
                return Err(self.error(self.at, "`,` or `}` was expected"));
            }
        }
    }

    fn list(&mut self) -> Result<Vec<Value>, Diagnostic> {
        let mut values = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.eat(b']') {
            return Ok(values);
        }
        loop {
            self.skip_space();
            values.push(self.value()?);
            self.skip_space();
            if self.eat(b']') {
                return Ok(values);
            }
            if !self.eat(b',') {
                return Err(self.error(self.at, "`,` or `]` was expected"));
            }
        }
    }

    fn number(&mut self) -> Result<Kind, Diagnostic> {
        let start = self.at;
        self.eat(b'-');
        let whole = self.digits()?;
        if whole.len() > 1 && whole.starts_with('0') {
            return Err(self.error(start, "a number with a leading zero"));
        }
        let mut is_integer = true;
        if self.eat(b'.') {
            is_integer = false;
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            is_integer = false;
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        let text = self.text[start..self.at].to_string();
        Ok(if is_integer { Kind::Integer(text) } else { Kind::Float(text) })
    }

    fn digits(&mut self) -> Result<&str, Diagnostic> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.error(start, "a digit was expected"));
        }
        Ok(&self.text[start..self.at])
    }

    /// The string at the cursor, which stands on its opening quote. serde_json undoes the escapes.
    fn string(&mut self) -> Result<String, Diagnostic> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.error(start, "a string without an end")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        // A backslash before a character of several bytes may end the loop inside it: `get` refuses that.
        let raw = self.text.get(start..self.at).unwrap_or("");
        serde_json::from_str(raw).map_err(|_| self.error(start, "a string with a wrong escape or a control character"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_kinds() {
        let entries = from_json(r#" {"a": [1, -2.5e3, "x\n"], "b": {"c": null, "d": true}} "#).unwrap();
        assert_eq!(entries[0].key_span, 2..5);
        let Kind::List(list) = &entries[0].value.kind else { panic!("{entries:?}") };
        assert_eq!(list[1].kind, Kind::Float("-2.5e3".into()));
        assert_eq!(list[2].kind, Kind::Text("x\n".into()));
        assert_eq!(list[1].span, 11..17);
    }

    /// What Python writes is called by its name, at its place; other words are not taken for it.
    #[test]
    fn numbers_that_json_does_not_have() {
        for (text, span, word) in [
            (r#"{"a": NaN}"#, 6..9, "NaN"),
            (r#"{"a": [1, Infinity]}"#, 10..18, "Infinity"),
            ("\u{feff}{\"a\": -Infinity}", 9..18, "-Infinity"),
        ] {
            let error = from_json(text).unwrap_err();
            assert_eq!((&error.labels[0].span, &error.message), (&span, &format!("malformed JSON: {word} is not JSON")));
        }
        for text in [r#"{"a": Nope}"#, r#"{"a": -Inf}"#, r#"{"a": nan}"#] {
            assert!(!from_json(text).unwrap_err().message.contains("is not JSON"), "{text}");
        }
        assert!(from_json("\u{feff}{\"a\": 1}").is_ok() && from_json("{\"NaN\": \"NaN\"}").is_ok());
    }

    #[test]
    fn malformed() {
        for text in ["", "[1]", "{", "{\"a\"", "{\"a\":", "{\"a\":01}", "{\"a\":1,}", "{\"a\":1} x", "{\"a\":\"\\x\"}", "{a:1}"] {
            assert_eq!(from_json(text).unwrap_err().code, Code::JsonSyntax, "{text}");
        }
        let twice = from_json(r#"{"a": 1, "a": 2}"#).unwrap_err();
        assert_eq!(twice.labels[1].span, 1..4);
        assert!(from_json("{\"a\":\"\\é").is_err());
    }
}
