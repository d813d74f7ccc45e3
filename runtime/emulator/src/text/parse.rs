//! PTX text to a [`Module`]: directives, declarations, scopes and labels. Instructions are `decode.rs`'s business.

use crate::text::body::{Body, Symbol, Symbols};
use crate::text::decode::decode;
use crate::text::form::Form;
use crate::text::ins::Pred;
use crate::text::lexer::{Kind, Token, tokens};
use crate::text::module::{Entry, Module, Param, ParseError, Position, Variable};
use crate::text::operand::{Operand, operand};
use crate::types::Ty;

/// Largest text that is read at all: no kernel comes near it.
const TEXT_LIMIT: usize = 64 << 20;
/// The `{ }` scopes open at once.
const SCOPE_LIMIT: usize = 64;
/// Bytes of one variable or of a parameter block.
const VARIABLE_LIMIT: u64 = 1 << 30;

/// Reads a PTX file. Anything that is not understood is an error with its place, never ignored.
///
/// # Errors
/// The first place that is not understood, or is beyond a limit on what is read.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    if text.len() > TEXT_LIMIT {
        return Err(ParseError::new(Position { line: 1, column: 1 }, "the text is larger than 64 MiB"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens, next: 0 };
    let mut module = Module {
        version: String::new(),
        target: String::new(),
        entries: Vec::new(),
        globals: Vec::new(),
        fingerprint: fingerprint(text.as_bytes()),
    };
    let mut symbols = Symbols::default();
    while parser.peek().kind != Kind::End {
        parser.top_level(&mut module, &mut symbols)?;
    }
    if module.version.is_empty() {
        return Err(ParseError::new(Position { line: 1, column: 1 }, "there is no `.version`"));
    }
    Ok(module)
}

/// FNV-1a.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

pub(crate) struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
}

/// A declared variable, before it has an address.
struct Declared {
    name: String,
    align: u64,
    /// `None` for `[]`.
    bytes: Option<u64>,
    initial: Vec<u8>,
}

impl<'a> Parser<'a> {
    pub(crate) fn peek(&self) -> Token<'a> {
        self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    pub(crate) fn peek_after(&self) -> Token<'a> {
        self.tokens[(self.next + 1).min(self.tokens.len() - 1)]
    }

    pub(crate) fn bump(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next = (self.next + 1).min(self.tokens.len());
        token
    }

    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek().kind == Kind::Punct(byte);
        if found {
            self.next += 1;
        }
        found
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<Token<'a>, ParseError> {
        let token = self.peek();
        if self.eat(byte) { Ok(token) } else { Err(self.unexpected(&format!("`{}`", byte as char))) }
    }

    pub(crate) fn unexpected(&self, wanted: &str) -> ParseError {
        let token = self.peek();
        let found = match token.kind {
            Kind::End => "the end of the text".to_owned(),
            _ => format!("`{}`", &self.text[token.start..token.end]),
        };
        ParseError::new(token.at, format!("expected {wanted}, found {found}"))
    }

    pub(crate) fn word(&mut self, wanted: &str) -> Result<(&'a str, Position), ParseError> {
        match self.peek().kind {
            Kind::Word(word) => Ok((word, self.bump().at)),
            _ => Err(self.unexpected(wanted)),
        }
    }

    pub(crate) fn integer(&mut self) -> Result<u64, ParseError> {
        match self.peek().kind {
            Kind::Integer(value) => {
                self.bump();
                Ok(value)
            }
            _ => Err(self.unexpected("a whole number")),
        }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek().kind == Kind::Word(word);
        if found {
            self.next += 1;
        }
        found
    }

    fn top_level(&mut self, module: &mut Module, symbols: &mut Symbols) -> Result<(), ParseError> {
        let token = self.peek();
        let Kind::Word(word) = token.kind else {
            return Err(self.unexpected("a directive"));
        };
        match word {
            ".version" => {
                self.bump();
                let start = self.peek();
                match self.bump().kind {
                    Kind::Double(_) | Kind::Integer(_) => {
                        module.version = self.text[start.start..start.end].to_owned();
                        Ok(())
                    }
                    _ => Err(ParseError::new(start.at, "expected a version such as 8.0")),
                }
            }
            ".target" => {
                self.bump();
                let (target, _) = self.word("a target such as sm_90a")?;
                module.target = target.to_owned();
                while self.eat(b',') {
                    self.word("a target option")?;
                }
                Ok(())
            }
            ".address_size" => {
                self.bump();
                match self.integer()? {
                    64 => Ok(()),
                    other => Err(ParseError::new(token.at, format!("address size {other} is not modelled, only 64"))),
                }
            }
            ".visible" | ".extern" | ".weak" | ".common" => {
                self.bump();
                Ok(())
            }
            ".entry" => {
                self.bump();
                let entry = self.entry(module, symbols)?;
                if module.entry(&entry.name).is_some() {
                    return Err(ParseError::new(token.at, format!("there are two entries `{}`", entry.name)));
                }
                module.entries.push(entry);
                Ok(())
            }
            ".func" => {
                self.bump();
                self.function(symbols)
            }
            ".global" | ".const" | ".shared" => {
                self.bump();
                let declared = self.variable()?;
                let bytes = match (word, declared.bytes) {
                    (".shared", None) => {
                        symbols.names.insert(declared.name, Symbol::Dynamic { align: declared.align });
                        return Ok(());
                    }
                    (_, Some(bytes)) => bytes,
                    (_, None) => {
                        return Err(ParseError::new(token.at, format!("`{}` has no size", declared.name)));
                    }
                };
                let symbol = if word == ".shared" {
                    Symbol::Shared { bytes, align: declared.align }
                } else {
                    module.globals.push(Variable {
                        name: declared.name.clone(),
                        bytes,
                        align: declared.align,
                        initial: declared.initial,
                        constant: word == ".const",
                    });
                    Symbol::Global(module.globals.len() as u32 - 1)
                };
                symbols.names.insert(declared.name, symbol);
                Ok(())
            }
            ".file" | ".loc" => {
                self.skip_line();
                Ok(())
            }
            ".section" => self.skip_section(),
            ".pragma" => self.skip_statement(),
            _ => Err(ParseError::new(token.at, format!("`{word}` is not modelled at module level"))),
        }
    }

    /// Debug directives have no closing mark but the end of their line.
    fn skip_line(&mut self) {
        let line = self.peek().at.line;
        while self.peek().kind != Kind::End && self.peek().at.line == line {
            self.bump();
        }
    }

    fn skip_section(&mut self) -> Result<(), ParseError> {
        let opened = self.bump().at;
        self.word("a section name")?;
        self.expect(b'{')?;
        while !self.eat(b'}') {
            if self.peek().kind == Kind::End {
                return Err(ParseError::new(opened, "section is never closed"));
            }
            self.bump();
        }
        Ok(())
    }

    fn skip_statement(&mut self) -> Result<(), ParseError> {
        while !self.eat(b';') {
            if self.peek().kind == Kind::End {
                return Err(self.unexpected("`;`"));
            }
            self.bump();
        }
        Ok(())
    }

    /// A declaration of an external function. A body would have to be called, and calls are not modelled.
    fn function(&mut self, symbols: &mut Symbols) -> Result<(), ParseError> {
        if self.peek().kind == Kind::Punct(b'(') {
            self.skip_parenthesis()?;
        }
        let (name, at) = self.word("a function name")?;
        if self.peek().kind == Kind::Punct(b'(') {
            self.skip_parenthesis()?;
        }
        while let Kind::Word(".noreturn") = self.peek().kind {
            self.bump();
        }
        if self.peek().kind == Kind::Punct(b'{') {
            let message = format!("function `{name}` has a body; calls are not modelled, inline it");
            return Err(ParseError::new(at, message));
        }
        self.eat(b';');
        symbols.names.insert(name.to_owned(), Symbol::Function);
        Ok(())
    }

    fn skip_parenthesis(&mut self) -> Result<(), ParseError> {
        self.expect(b'(')?;
        while !self.eat(b')') {
            if self.peek().kind == Kind::End {
                return Err(self.unexpected("`)`"));
            }
            self.bump();
        }
        Ok(())
    }

    /// `.align 4 .b8 name[16] = {1, 2};` after its space.
    fn variable(&mut self) -> Result<Declared, ParseError> {
        let mut align = None;
        let mut element = None;
        loop {
            let token = self.peek();
            match token.kind {
                Kind::Word(".align") => {
                    self.bump();
                    align = Some(self.alignment()?);
                }
                Kind::Word(".attribute") => {
                    return Err(ParseError::new(token.at, "variable attributes are not modelled"));
                }
                Kind::Word(word) if word.starts_with('.') => {
                    self.bump();
                    let ty = Ty::parse(&word[1..]).filter(|ty| *ty != Ty::Pred);
                    element = Some(ty.ok_or_else(|| ParseError::new(token.at, format!("`{word}` is not a type")))?);
                }
                _ => break,
            }
        }
        let (name, at) = self.word("a variable name")?;
        let element = element.ok_or_else(|| ParseError::new(at, format!("`{name}` has no type")))?;
        let mut bytes = Some(u64::from(element.bytes()));
        let mut dimensions = 0;
        while self.eat(b'[') {
            dimensions += 1;
            if self.eat(b']') {
                bytes = None;
                continue;
            }
            let extent = self.integer()?;
            self.expect(b']')?;
            bytes = bytes.and_then(|so_far| so_far.checked_mul(extent));
            if bytes.is_none_or(|total| total > VARIABLE_LIMIT) || dimensions > 4 {
                return Err(ParseError::new(at, format!("`{name}` is too large")));
            }
        }
        let mut initial = Vec::new();
        if self.eat(b'=') {
            let braced = self.eat(b'{');
            loop {
                self.initial_value(element, &mut initial)?;
                if !braced || !self.eat(b',') {
                    break;
                }
            }
            if braced {
                self.expect(b'}')?;
            }
            if bytes.is_none() {
                bytes = Some(initial.len() as u64);
            }
            if initial.len() as u64 > bytes.unwrap_or(0) {
                return Err(ParseError::new(at, format!("`{name}` has more initial values than elements")));
            }
        }
        self.expect(b';')?;
        let align = align.unwrap_or(u64::from(element.bytes()));
        Ok(Declared { name: name.to_owned(), align, bytes, initial })
    }

    fn alignment(&mut self) -> Result<u64, ParseError> {
        let at = self.peek().at;
        let align = self.integer()?;
        if align.is_power_of_two() && align <= 1 << 16 {
            Ok(align)
        } else {
            Err(ParseError::new(at, format!("alignment {align} is not a power of two up to 65536")))
        }
    }

    fn initial_value(&mut self, element: Ty, out: &mut Vec<u8>) -> Result<(), ParseError> {
        let negative = self.eat(b'-');
        let token = self.bump();
        let bits = match token.kind {
            Kind::Integer(value) if negative => value.wrapping_neg(),
            Kind::Integer(value) => value,
            Kind::Single(bits) if !negative => u64::from(bits),
            Kind::Double(bits) if !negative && element == Ty::F64 => bits,
            Kind::Double(bits) if !negative => u64::from((f64::from_bits(bits) as f32).to_bits()),
            _ => return Err(ParseError::new(token.at, "only numbers can initialise a variable here")),
        };
        out.extend_from_slice(&bits.to_le_bytes()[..element.bytes() as usize]);
        Ok(())
    }

    fn entry(&mut self, module: &Module, symbols: &Symbols) -> Result<Entry, ParseError> {
        let (name, _) = self.word("a kernel name")?;
        let mut body = Body::new(name, symbols, &module.target);
        if self.eat(b'(') && !self.eat(b')') {
            loop {
                self.param(&mut body)?;
                if !self.eat(b',') {
                    break;
                }
            }
            self.expect(b')')?;
        }
        self.tuning(&mut body)?;
        self.expect(b'{')?;
        body.open_scope();
        while !body.scopes.is_empty() {
            self.statement(&mut body)?;
        }
        body.finish()
    }

    fn param(&mut self, body: &mut Body<'_>) -> Result<(), ParseError> {
        let token = self.peek();
        if !self.eat_word(".param") {
            return Err(self.unexpected("`.param`"));
        }
        let (mut align, mut element, mut pointer) = (None, None, false);
        loop {
            match self.peek().kind {
                Kind::Word(".align") => {
                    self.bump();
                    let value = self.alignment()?;
                    // After `.ptr` this is the alignment of what is pointed at.
                    if !pointer {
                        align = Some(value);
                    }
                }
                Kind::Word(".ptr") => {
                    self.bump();
                    pointer = true;
                }
                Kind::Word(".global" | ".shared" | ".const" | ".local") if pointer => {
                    self.bump();
                }
                Kind::Word(word) if word.starts_with('.') => {
                    let ty = Ty::parse(&word[1..]).filter(|ty| *ty != Ty::Pred);
                    element = Some(ty.ok_or_else(|| self.unexpected("a type"))?);
                    self.bump();
                }
                _ => break,
            }
        }
        let (name, at) = self.word("a parameter name")?;
        let element = element.ok_or_else(|| ParseError::new(token.at, format!("`{name}` has no type")))?;
        let mut bytes = u64::from(element.bytes());
        if self.eat(b'[') {
            bytes = bytes.saturating_mul(self.integer()?);
            self.expect(b']')?;
        }
        let align = align.unwrap_or(u64::from(element.bytes()));
        let offset = (body.entry.param_bytes as u64).next_multiple_of(align);
        // PTX ISA 5.1.6: kernel parameters are limited to 32764 bytes.
        if offset.saturating_add(bytes) > 32764 {
            return Err(ParseError::new(at, "the parameters exceed 32764 bytes"));
        }
        body.entry.param_bytes = (offset + bytes) as usize;
        let param =
            Param { name: name.to_owned(), offset: offset as usize, bytes: bytes as usize, align: align as usize, pointer };
        body.entry.params.push(param);
        Ok(())
    }

    /// Performance directives between the parameters and the body.
    fn tuning(&mut self, body: &mut Body<'_>) -> Result<(), ParseError> {
        loop {
            let token = self.peek();
            match token.kind {
                Kind::Word(word @ (".maxntid" | ".reqntid" | ".reqnctapercluster")) => {
                    self.bump();
                    let mut extents = [1_u32; 3];
                    for (axis, extent) in extents.iter_mut().enumerate() {
                        if axis > 0 && !self.eat(b',') {
                            break;
                        }
                        *extent = self.integer()?.min(u64::from(u32::MAX)) as u32;
                    }
                    let total = extents.iter().fold(1_u32, |total, &extent| total.saturating_mul(extent));
                    match word {
                        ".maxntid" => body.entry.max_threads = Some(total),
                        ".reqntid" => body.entry.required_block = Some(extents),
                        // PTX ISA 11.7: of blocks that are neighbours along x.
                        _ if extents[1..] == [1, 1] && (1..=16).contains(&extents[0]) => body.entry.cluster = Some(extents[0]),
                        _ => {
                            let message = "clusters are modelled along x alone, of 1 to 16 blocks";
                            return Err(ParseError::new(token.at, message));
                        }
                    }
                }
                Kind::Word(".minnctapersm" | ".maxnreg" | ".maxclusterrank") => {
                    self.bump();
                    self.integer()?;
                }
                Kind::Word(".explicitcluster" | ".noreturn") => {
                    self.bump();
                }
                Kind::Word(".pragma") => self.skip_statement()?,
                _ => return Ok(()),
            }
        }
    }

    fn statement(&mut self, body: &mut Body<'_>) -> Result<(), ParseError> {
        let token = self.peek();
        match token.kind {
            Kind::Punct(b'{') => {
                self.bump();
                if body.scopes.len() >= SCOPE_LIMIT {
                    return Err(ParseError::new(token.at, "scopes are nested too deeply"));
                }
                body.open_scope();
                Ok(())
            }
            Kind::Punct(b'}') => {
                self.bump();
                body.scopes.pop();
                Ok(())
            }
            Kind::Punct(b';') => {
                self.bump();
                Ok(())
            }
            Kind::Punct(b'@') => self.instruction(body),
            Kind::Word(word) if self.peek_after().kind == Kind::Punct(b':') => {
                self.bump();
                self.bump();
                body.label(word, token.at)
            }
            Kind::Word(".reg") => self.registers(body),
            Kind::Word(space @ (".shared" | ".local" | ".param")) => {
                self.bump();
                let declared = self.variable()?;
                let bytes = declared.bytes.ok_or_else(|| ParseError::new(token.at, "the variable has no size"))?;
                body.place(space, declared.name, bytes, declared.align, token.at)
            }
            Kind::Word(".loc" | ".file") => {
                self.skip_line();
                Ok(())
            }
            Kind::Word(".pragma") => self.skip_statement(),
            Kind::Word(".branchtargets") => {
                self.bump();
                let mut targets = Vec::new();
                loop {
                    targets.push(self.word("a label")?.0.to_owned());
                    if !self.eat(b',') {
                        break;
                    }
                }
                self.expect(b';')?;
                body.branch_targets(targets, token.at)
            }
            Kind::Word(word) if word.starts_with('.') => {
                Err(ParseError::new(token.at, format!("`{word}` is not modelled in a function")))
            }
            Kind::Word(_) => self.instruction(body),
            _ => Err(self.unexpected("a statement")),
        }
    }

    /// `.reg .b32 %r<10>;` or `.reg .pred p, q;`
    fn registers(&mut self, body: &mut Body<'_>) -> Result<(), ParseError> {
        self.bump();
        let (word, at) = self.word("a register type")?;
        let ty = word.strip_prefix('.').and_then(Ty::parse);
        let ty = ty.ok_or_else(|| ParseError::new(at, format!("registers of type `{word}` are not modelled")))?;
        loop {
            let (name, _) = self.word("a register name")?;
            let count = if self.eat(b'<') {
                let count = self.integer()?;
                self.expect(b'>')?;
                Some(count)
            } else {
                None
            };
            body.declare(name, ty, count);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';').map(drop)
    }

    fn instruction(&mut self, body: &mut Body<'_>) -> Result<(), ParseError> {
        let start = self.peek().start;
        let mut guard = None;
        if self.eat(b'@') {
            let negated = self.eat(b'!');
            let (name, at) = self.word("a predicate")?;
            let slot = body.predicate(name, at)?;
            guard = Some(Pred { slot, negated });
        }
        let (opcode, at) = self.word("an instruction")?;
        let mut operands: Vec<Operand<'a>> = Vec::new();
        if self.peek().kind != Kind::Punct(b';') {
            loop {
                operands.push(operand(self, 0)?);
                if !self.eat(b',') {
                    break;
                }
            }
        }
        let end = self.expect(b';')?.end;
        let mut form = Form::new(opcode, at, operands);
        let op = decode(body, &mut form)?;
        form.finish()?;
        body.push(op, guard, opcode, at, (start, end))
    }
}
