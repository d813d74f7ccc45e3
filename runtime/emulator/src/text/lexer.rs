//! PTX text to tokens, each with its line, column and byte range. Comments and white space vanish here.

use crate::text::module::{ParseError, Position};

/// What a token is. A word keeps its dots: `ld.global.v4.b32`, `%tid.x` and `shared::cluster` are one word each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind<'a> {
    Word(&'a str),
    Integer(u64),
    /// The bits of a `0f` literal.
    Single(u32),
    /// The bits of a `0d` or decimal literal.
    Double(u64),
    Text(&'a str),
    Punct(u8),
    End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) at: Position,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    next: usize,
    line: u32,
    line_start: usize,
}

impl Cursor<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.next + ahead).copied().unwrap_or(0)
    }

    fn advance(&mut self) {
        if self.peek(0) == b'\n' {
            self.line += 1;
            self.line_start = self.next + 1;
        }
        self.next += 1;
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: (self.next - self.line_start) as u32 + 1 }
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => self.advance(),
                (b'/', b'/') => {
                    while self.next < self.bytes.len() && self.peek(0) != b'\n' {
                        self.next += 1;
                    }
                }
                (b'/', b'*') => {
                    let opened = self.position();
                    self.next += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        if self.next >= self.bytes.len() {
                            return Err(ParseError::new(opened, "comment is never closed"));
                        }
                        self.advance();
                    }
                    self.next += 2;
                }
                _ => return Ok(()),
            }
        }
    }
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.')
}

/// Splits a whole file into tokens; the last one is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut cursor = Cursor { text, bytes: text.as_bytes(), next: 0, line: 1, line_start: 0 };
    let mut out = Vec::with_capacity(text.len() / 4);
    loop {
        cursor.skip_blank()?;
        let (at, start) = (cursor.position(), cursor.next);
        let kind = match cursor.peek(0) {
            _ if start >= cursor.bytes.len() => Kind::End,
            byte if byte.is_ascii_digit() => number(&mut cursor)?,
            byte if starts_word(byte) => word(&mut cursor),
            b'"' => {
                cursor.next += 1;
                while !matches!(cursor.peek(0), b'"' | b'\n' | 0) {
                    cursor.next += 1;
                }
                if cursor.peek(0) != b'"' {
                    return Err(ParseError::new(at, "string is never closed"));
                }
                cursor.next += 1;
                Kind::Text(&text[start + 1..cursor.next - 1])
            }
            byte @ (b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'!' | b'|' | b'+'
            | b'-' | b'=' | b'*') => {
                cursor.next += 1;
                Kind::Punct(byte)
            }
            _ => {
                let shown: String = text[start..].chars().take(1).collect();
                return Err(ParseError::new(at, format!("`{}` is not PTX", shown.escape_default())));
            }
        };
        out.push(Token { kind, at, start, end: cursor.next });
        if kind == Kind::End {
            return Ok(out);
        }
    }
}

fn word<'a>(cursor: &mut Cursor<'a>) -> Kind<'a> {
    let start = cursor.next;
    cursor.next += 1;
    loop {
        if continues_word(cursor.peek(0)) {
            cursor.next += 1;
        } else if cursor.peek(0) == b':' && cursor.peek(1) == b':' && starts_word(cursor.peek(2)) {
            cursor.next += 2;
        } else {
            return Kind::Word(&cursor.text[start..cursor.next]);
        }
    }
}

/// PTX ISA 4.5: decimal, `0x`, octal with a leading 0, `0b`, an optional `U`; `0f` and `0d` are exact bits.
fn number<'a>(cursor: &mut Cursor<'a>) -> Result<Kind<'a>, ParseError> {
    let (at, start) = (cursor.position(), cursor.next);
    while cursor.peek(0).is_ascii_alphanumeric()
        || cursor.peek(0) == b'.'
        || (matches!(cursor.peek(0), b'+' | b'-') && exponent_before(cursor, start))
    {
        cursor.next += 1;
    }
    let text = &cursor.text[start..cursor.next];
    let wrong = || ParseError::new(at, format!("`{text}` is not a number"));
    let lower = text.to_ascii_lowercase();
    if let Some(bits) = lower.strip_prefix("0f") {
        return match bits.len() {
            8 => u32::from_str_radix(bits, 16).map(Kind::Single).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
    }
    if let Some(bits) = lower.strip_prefix("0d") {
        return match bits.len() {
            16 => u64::from_str_radix(bits, 16).map(Kind::Double).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let parsed = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16).ok()
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2).ok()
    } else if digits.contains('.') || digits.contains('e') {
        return digits.parse::<f64>().map(|value| Kind::Double(value.to_bits())).map_err(|_| wrong());
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8).ok()
    } else {
        digits.parse().ok()
    };
    parsed.map(Kind::Integer).ok_or_else(wrong)
}

/// `1.5e-3`: a sign belongs to the number only right after its exponent letter, and never in hexadecimal.
fn exponent_before(cursor: &Cursor<'_>, start: usize) -> bool {
    let so_far = &cursor.bytes[start..cursor.next];
    matches!(so_far.last(), Some(b'e' | b'E')) && so_far.contains(&b'.')
}
