//! The words of a kernel's text. What they say together is the parser's.

use std::ops::Range;

/// A word, with the text that it stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `let`, `f32x4`.
    Word,
    /// `%x`, `@k`, `%"a b"`: the name without sigil and quotes.
    Name(char, String),
    /// `"text"`, unescaped.
    Text(String),
    /// `$0`.
    Def(usize),
    /// `12`, `12i64`, `1.5`, `0x7f`.
    Number,
    /// `+`, `<=`, `..`
    Sign,
    /// Where the text ends.
    End,
}

/// A token and where it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) span: Range<usize>,
}

/// Longest first.
const SIGNS: [&str; 31] = [
    ">>>", "<<", ">>", "<=", ">=", "==", "!=", "+=", "..", "{", "}", "(", ")", "[", "]", ",", ":", "=", "*", "+", "-", "/", "%",
    "&", "|", "^", "!", "<", ">", "?", ";",
];

/// The words of `text`, [`Token::End`] last, or what is none and where.
pub(super) fn lex(text: &str) -> Result<Vec<Lexeme>, (Range<usize>, String)> {
    let mut lexemes = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let skipped = rest.len() - rest.trim_start().len();
        if skipped > 0 {
            at += skipped;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.is_empty() {
            lexemes.push(Lexeme { token: Token::End, span: at..at });
            return Ok(lexemes);
        } else {
            let (token, len) = token(rest).map_err(|(len, why)| (at..at + len, why))?;
            lexemes.push(Lexeme { token, span: at..at + len });
            at += len;
        }
    }
}

/// The token at the start of `rest`, which is not empty, and its bytes.
fn token(rest: &str) -> Result<(Token, usize), (usize, String)> {
    let first = rest.chars().next().unwrap_or(' ');
    let second = rest[first.len_utf8()..].chars().next().unwrap_or(' ');
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    match first {
        '"' => quoted(rest).map(|(text, len)| (Token::Text(text), len)),
        '%' | '@' if second == '"' => quoted(&rest[1..]).map(|(name, len)| (Token::Name(first, name), len + 1)),
        '%' | '@' if starts(second) => {
            let name = dotted(&rest[1..]);
            Ok((Token::Name(first, name.to_string()), 1 + name.len()))
        }
        '$' if second.is_ascii_digit() => {
            let digits = word(&rest[1..]);
            let number = digits.parse().map_err(|_| (1 + digits.len(), "not the number of a definition".to_string()))?;
            Ok((Token::Def(number), 1 + digits.len()))
        }
        c if c.is_ascii_digit() => Ok((Token::Number, number(rest))),
        c if starts(c) => Ok((Token::Word, word(rest).len())),
        c => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => Ok((Token::Sign, sign.len())),
            None => Err((c.len_utf8(), format!("{c:?} has no place here"))),
        },
    }
}

fn word(rest: &str) -> &str {
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    &rest[..end]
}

/// Words with single dots between.
fn dotted(rest: &str) -> &str {
    let mut end = word(rest).len();
    while let Some(more) = rest[end..].strip_prefix('.').map(word).filter(|more| !more.is_empty()) {
        end += 1 + more.len();
    }
    &rest[..end]
}

/// Bytes of the number, its suffix included: `1..2` starts with `1`.
fn number(rest: &str) -> usize {
    let mut end = word(rest).len();
    let digit = |at: usize| rest[at..].starts_with(|c: char| c.is_ascii_digit());
    if rest[end..].starts_with('.') && digit(end + 1) {
        end += 1 + word(&rest[end + 1..]).len();
    }
    let exponent = rest[..end].ends_with('e') && !rest.starts_with("0x");
    if exponent && rest[end..].starts_with(['-', '+']) && digit(end + 1) {
        end += 1 + word(&rest[end + 1..]).len();
    }
    end
}

fn quoted(rest: &str) -> Result<(String, usize), (usize, String)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((text, at + 1)),
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                Some((_, 'u')) => {
                    let code: String = chars.by_ref().map(|(_, c)| c).take_while(|c| *c != '}').take(8).collect();
                    let code = code.strip_prefix('{').and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    let escaped = code.and_then(char::from_u32).ok_or_else(|| (at + 1, "not a character".to_string()))?;
                    text.push(escaped);
                }
                Some(_) | None => return Err((at + 1, r#"`\` comes before `"`, `\` or `u{..}` only"#.to_string())),
            },
            '\n' => break,
            c => text.push(c),
        }
    }
    Err((rest.lines().next().map_or(1, str::len), "the quote does not end".to_string()))
}
