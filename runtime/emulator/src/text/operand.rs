//! One operand of an instruction as written, before its instruction gives it a meaning.

use crate::text::lexer::Kind;
use crate::text::module::{ParseError, Position};
use crate::text::parse::Parser;

#[derive(Clone, Debug)]
pub(crate) struct Operand<'a> {
    pub(crate) at: Position,
    pub(crate) kind: OperandKind<'a>,
}

#[derive(Clone, Debug)]
pub(crate) enum OperandKind<'a> {
    /// A register, symbol, label or `_`, with `+offset` for symbols.
    Name(&'a str, i64),
    Integer(u64),
    Single(u32),
    Double(u64),
    Not(&'a str),
    /// `a|b`
    Pair(&'a str, &'a str),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`, or `[base, {coordinates}]`
    Address(AddressBase<'a>, i64, Vec<Operand<'a>>),
    /// `(a, b)` of a call
    List,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum AddressBase<'a> {
    Name(&'a str),
    Absolute,
}

/// Reads one operand.
pub(crate) fn operand<'a>(parser: &mut Parser<'a>, depth: u32) -> Result<Operand<'a>, ParseError> {
    let token = parser.peek();
    let at = token.at;
    if depth > 2 {
        return Err(ParseError::new(at, "operands are nested too deeply"));
    }
    let kind = match token.kind {
        Kind::Punct(open @ (b'{' | b'(')) => {
            parser.bump();
            let close = if open == b'{' { b'}' } else { b')' };
            let mut items = Vec::new();
            if !parser.eat(close) {
                loop {
                    items.push(operand(parser, depth + 1)?);
                    if !parser.eat(b',') {
                        break;
                    }
                }
                parser.expect(close)?;
            }
            if open == b'{' { OperandKind::Vector(items) } else { OperandKind::List }
        }
        Kind::Punct(b'[') => {
            parser.bump();
            let base = match parser.peek().kind {
                Kind::Word(name) => {
                    parser.bump();
                    AddressBase::Name(name)
                }
                _ => AddressBase::Absolute,
            };
            let start = match base {
                AddressBase::Absolute => signed(parser)?,
                AddressBase::Name(_) => 0,
            };
            let offset = start.wrapping_add(offset(parser)?);
            let mut coords = Vec::new();
            if parser.eat(b',') {
                match operand(parser, depth + 1)? {
                    Operand { kind: OperandKind::Vector(items), .. } => coords = items,
                    other => return Err(ParseError::new(other.at, "expected coordinates in braces")),
                }
            }
            parser.expect(b']')?;
            OperandKind::Address(base, offset, coords)
        }
        Kind::Punct(b'!') => {
            parser.bump();
            OperandKind::Not(parser.word("a predicate")?.0)
        }
        Kind::Punct(b'-') | Kind::Integer(_) => OperandKind::Integer(signed(parser)? as u64),
        Kind::Single(bits) => {
            parser.bump();
            OperandKind::Single(bits)
        }
        Kind::Double(bits) => {
            parser.bump();
            OperandKind::Double(bits)
        }
        Kind::Word(name) => {
            parser.bump();
            if parser.eat(b'|') {
                OperandKind::Pair(name, parser.word("a predicate")?.0)
            } else {
                OperandKind::Name(name, offset(parser)?)
            }
        }
        _ => return Err(parser.unexpected("an operand")),
    };
    Ok(Operand { at, kind })
}

fn signed(parser: &mut Parser<'_>) -> Result<i64, ParseError> {
    let negative = parser.eat(b'-');
    let value = parser.integer()? as i64;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// `+16`, `+-16`, `-16` or nothing.
fn offset(parser: &mut Parser<'_>) -> Result<i64, ParseError> {
    let signed_follows = parser.eat(b'+') || parser.peek().kind == Kind::Punct(b'-');
    if signed_follows { signed(parser) } else { Ok(0) }
}
