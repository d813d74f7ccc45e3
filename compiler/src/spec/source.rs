//! From a path to a text that is safe to parse: size, encoding and nesting are checked here, before any parser runs.
//! What the text says is not looked at.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use moec_runtime::format::{FORMAT_BYTES, Format as FileFormat};

use crate::diagnostics::{Code, Diagnostic, Report, Source, quote};

/// The largest spec that is read.
pub const MAX_BYTES: u64 = 1 << 20;
/// The most brackets that may be open at once, and the most dots in one key.
pub const MAX_DEPTH: usize = 32;

/// The most lines, keys and values, and what separates them. Parsers need up to 50 bytes for each byte of such a text.
pub const MAX_PARTS: usize = 4096;

/// The two spellings of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Toml,
    Json,
}

/// JSON where the name ends in `.json`, or where standard input starts with a brace.
pub(super) fn format_of(source: &Source) -> Format {
    let is_json_name = Path::new(&source.name).extension().is_some_and(|extension| extension == "json");
    let text = source.text.trim_start_matches(BYTE_ORDER_MARK).trim_start();
    let starts_with_brace = source.name == STDIN && text.starts_with('{');
    if is_json_name || starts_with_brace { Format::Json } else { Format::Toml }
}

/// What editors on Windows put before UTF-8: skipped in every text that is read.
pub(super) const BYTE_ORDER_MARK: &str = "\u{feff}";

/// How diagnostics name standard input.
const STDIN: &str = "<stdin>";

/// Reads a spec's text of at most [`MAX_BYTES`] from a file, or from standard input where `path` is `-`.
///
/// # Errors
/// As [`read_text`].
pub fn read(path: &Path) -> Result<Source, Report> {
    let help = "a spec is a few kilobytes of TOML or JSON";
    read_text(path, MAX_BYTES, help)
}

/// Reads a text of at most `most_bytes` from a file, or from standard input where `path` is `-`. No more than the limit
/// is ever read. `help` says what would be right where there is more.
///
/// # Errors
/// The input cannot be read, is longer than the limit, is not UTF-8, or starts as a file of another format does.
pub fn read_text(path: &Path, most_bytes: u64, help: &str) -> Result<Source, Report> {
    let name = if path == Path::new("-") { STDIN.to_string() } else { path.display().to_string() };
    match read_bytes(path, most_bytes) {
        Ok((bytes, _)) if FileFormat::of(&bytes).is_some() => Err(not_text(name, &bytes, help)),
        Ok((_, length)) if length > most_bytes => Err(too_large(name, most_bytes, help)),
        Ok((bytes, _)) => decode(name, bytes),
        Err(error) => {
            let diagnostic = Diagnostic::new(Code::Unreadable, format!("cannot read {}: {error}", quote(&name)));
            Err(report(name, String::new(), diagnostic))
        }
    }
}

/// The bytes of the input, and how long it is. Of one that is longer than the limit only the first bytes, which say what it
/// is; its length may be more than is said.
fn read_bytes(path: &Path, most_bytes: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(most_bytes + 1).read_to_end(&mut bytes)?;
    } else {
        let file = File::open(path)?;
        let known_bytes = file.metadata()?.len();
        let wanted = if known_bytes > most_bytes { FORMAT_BYTES as u64 } else { most_bytes + 1 };
        file.take(wanted).read_to_end(&mut bytes)?;
        if known_bytes > most_bytes {
            return Ok((bytes, known_bytes));
        }
    }
    let length = bytes.len() as u64;
    Ok((bytes, length))
}

/// A file of another kind, which its first bytes name.
fn not_text(name: String, bytes: &[u8], help: &str) -> Report {
    let what = FileFormat::of(bytes).map_or("binary", FileFormat::name);
    let help = match FileFormat::of(bytes) {
        Some(FileFormat::Package) => "`moec run` and `moec inspect` take packages",
        Some(found @ (FileFormat::LfsPointer | FileFormat::Html)) => found.to_tensors(),
        Some(_) => "a checkpoint is named by `--weights`, and its config.json is what `moec import` makes a spec of",
        None => help,
    };
    let message = format!("{} is {what}, not the text that is wanted here", quote(&name));
    let diagnostic = Diagnostic::new(Code::UnknownFile, message).help(help);
    report(name, String::new(), diagnostic)
}

fn too_large(name: String, most_bytes: u64, help: &str) -> Report {
    let message = format!("{} is larger than {} MiB", quote(&name), most_bytes >> 20);
    let diagnostic = Diagnostic::new(Code::TooLarge, message).help(help);
    report(name, String::new(), diagnostic)
}

fn report(name: String, text: String, diagnostic: Diagnostic) -> Report {
    Report { source: Source { name, text }, diagnostics: vec![diagnostic] }
}

/// Bytes into text. The mark that some editors put before UTF-8 is no part of it.
fn decode(name: String, mut bytes: Vec<u8>) -> Result<Source, Report> {
    if bytes.starts_with(BYTE_ORDER_MARK.as_bytes()) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok(Source { name, text }),
        Err(error) => error,
    };
    let at = bytes.utf8_error().valid_up_to();
    let bytes = bytes.into_bytes();
    let message = format!("the byte 0x{:02x} at offset {at} is not UTF-8", bytes[at]);
    // Each wrong sequence becomes one replacement character, and what stands before the first keeps its place.
    let mut diagnostic = Diagnostic::new(Code::NotUtf8, message).at(at..at + '\u{fffd}'.len_utf8(), "not UTF-8");
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        diagnostic = diagnostic.help("this looks like UTF-16; save the file as UTF-8");
    }
    Err(report(name, String::from_utf8_lossy(&bytes).into_owned(), diagnostic))
}

/// What makes a text unfit for any parser: its length, a NUL, nesting.
pub(super) fn check_text(text: &str, format: Format) -> Result<(), Diagnostic> {
    if text.len() as u64 > MAX_BYTES {
        return Err(Diagnostic::new(Code::TooLarge, "the spec is larger than 1 MiB").at(0..0, ""));
    }
    if let Some(at) = text.find('\0') {
        return Err(Diagnostic::new(Code::ControlCharacter, "the text holds a NUL").at(at..at + 1, "NUL"));
    }
    match first_excess(text.as_bytes(), format) {
        Some((at, Excess::Depth)) => {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            Err(Diagnostic::new(Code::TooDeep, message).at(at..at + 1, format!("level {}", MAX_DEPTH + 1)))
        }
        Some((at, Excess::Parts)) => {
            let message = format!("more than {MAX_PARTS} lines, keys and values");
            Err(Diagnostic::new(Code::TooManyParts, message).at(at..at + 1, "one too many"))
        }
        None => Ok(()),
    }
}

/// What a text has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    Depth,
    Parts,
}

/// The first byte that goes below `MAX_DEPTH` or beyond `MAX_PARTS`. A dotted key nests as deeply as it has dots: a parser
/// that frees those tables by recursion would overflow.
fn first_excess(text: &[u8], format: Format) -> Option<(usize, Excess)> {
    let (mut at, mut brackets, mut dots, mut parts) = (0, 0usize, 0usize, 0usize);
    while at < text.len() {
        match text[at] {
            b'#' if format == Format::Toml => {
                at += text[at..].iter().position(|b| *b == b'\n').unwrap_or(text.len() - at);
                continue;
            }
            quote @ (b'"' | b'\'') if quote == b'"' || format == Format::Toml => {
                at = end_of_string(text, at, quote, format);
                continue;
            }
            b'[' | b'{' => (brackets, dots, parts) = (brackets + 1, 0, parts + 1),
            b']' | b'}' => (brackets, dots) = (brackets.saturating_sub(1), 0),
            b'.' => (dots, parts) = (dots + 1, parts + 1),
            b'\n' | b'=' | b',' | b':' => (dots, parts) = (0, parts + 1),
            _ => {}
        }
        if brackets > MAX_DEPTH || dots > MAX_DEPTH {
            return Some((at, Excess::Depth));
        }
        if parts > MAX_PARTS {
            return Some((at, Excess::Parts));
        }
        at += 1;
    }
    None
}

/// The offset after the string that starts at `start`. A string on one line that never ends ends with its line.
fn end_of_string(text: &[u8], start: usize, quote: u8, format: Format) -> usize {
    let is_multiline = format == Format::Toml && text[start..].starts_with(&[quote; 3]);
    let mut at = start + if is_multiline { 3 } else { 1 };
    while at < text.len() {
        match text[at] {
            b'\\' if quote == b'"' => at += 1,
            b'\n' if !is_multiline => return at,
            byte if byte == quote && !is_multiline => return at + 1,
            byte if byte == quote && text[at..].starts_with(&[quote; 3]) => return at + 3,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth_error(text: &str) -> Option<usize> {
        match first_excess(text.as_bytes(), Format::Toml) {
            Some((at, Excess::Depth)) => Some(at),
            Some((_, Excess::Parts)) | None => None,
        }
    }

    #[test]
    fn nesting_is_counted_outside_strings_and_comments() {
        assert_eq!(depth_error(&"[".repeat(32)), None);
        assert_eq!(depth_error(&"[".repeat(33)), Some(32));
        assert_eq!(depth_error(&format!("a = \"{}\"", "[".repeat(99))), None);
        assert_eq!(depth_error(&format!("a = '''\n{}\n'''", "[".repeat(99))), None);
        assert_eq!(depth_error(&format!("# {}", "[".repeat(99))), None);
        assert_eq!(depth_error(&format!("a = \"\\\"{}", "[".repeat(99))), None);
        assert_eq!(depth_error(&format!("a{} = 1", ".a".repeat(33))), Some(65));
        assert_eq!(depth_error(&"a = 1.5\n".repeat(99)), None);
    }

    #[test]
    fn parts_are_counted_outside_strings() {
        let parts_error = |text: &str| first_excess(text.as_bytes(), Format::Toml);
        assert_eq!(parts_error(&"\n".repeat(MAX_PARTS)), None);
        assert_eq!(parts_error(&"\n".repeat(MAX_PARTS + 1)), Some((MAX_PARTS, Excess::Parts)));
        assert_eq!(parts_error(&format!("a = \"{}\"", ",".repeat(9999))), None);
    }
}
