//! Kernels and programs from text. What `print` prints comes back equal.
//!
//! Only names are resolved here: whether the program makes sense is the verifier's business.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use super::lex::{Lexeme, Token, lex};
use super::print::{extreme_word, hint_word, role, vote_word};
use super::{
    Arena, Arg, Block, Buffer, Expr, Given, Handle, Kernel, Launch, Local, Param, ParamKind, Place, Program, Regime, Role,
};
use super::{Extreme, Hint, Mbarrier, Registers, Shared, Stmt, TensorMap, Ty, Vote, Working};
use crate::{DType, Extent, Facts, Statistics};

/// Why a text is not a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The bytes at fault.
    pub span: Range<usize>,
    /// Line of the first, from 1.
    pub line: usize,
    /// Column of the first, in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Brackets in brackets; the printer needs far fewer.
const BRACKETS: usize = 96;
/// Blocks in blocks; the verifier allows fewer.
const BLOCKS: usize = 80;

type Wrong = (Range<usize>, String);
pub(super) type Parsed<T> = Result<T, Wrong>;

/// The program that `text` says. Expressions are shared where they are equal, and in the order written.
///
/// # Errors
/// The first place that is no text of a program. Whether the program is valid is the question of [`super::verify()`].
pub fn parse(text: &str) -> Result<Program, ParseError> {
    whole(text, |parser| parser.program())
}

/// The kernel that `text` says.
///
/// # Errors
/// The first place that is no text of a kernel.
pub fn parse_kernel(text: &str) -> Result<Kernel, ParseError> {
    whole(text, |parser| parser.kernel())
}

fn whole<'t, T>(text: &'t str, rule: impl FnOnce(&mut Parser<'t>) -> Parsed<T>) -> Result<T, ParseError> {
    let parsed = lex(text).and_then(|lexemes| {
        let mut parser = Parser { text, lexemes, at: 0, brackets: 0, blocks: 0, kernel: Reading::default() };
        let parsed = rule(&mut parser)?;
        if parser.peek().token == Token::End { Ok(parsed) } else { Err(parser.wrong("nothing more is expected")) }
    });
    parsed.map_err(|(span, message)| {
        let before = &text[..span.start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        ParseError { span, line, column, message }
    })
}

/// What the names of the kernel being read stand for.
#[derive(Default)]
pub(super) struct Reading {
    params: Vec<Param>,
    shared: Arena<Shared>,
    registers: Arena<Registers>,
    pub(super) mbarriers: Arena<Mbarrier>,
    locals: Arena<Local>,
    pub(super) exprs: Arena<Expr>,
    pub(super) known: HashMap<Expr, Handle<Expr>>,
    names: HashMap<String, Named>,
    /// Of the statement being read.
    pub(super) defs: Vec<Handle<Expr>>,
}

#[derive(Clone, Copy)]
pub(super) enum Named {
    Param(u32),
    Shared(Handle<Shared>),
    Registers(Handle<Registers>),
    Mbarrier(Handle<Mbarrier>),
    Local(Handle<Local>),
}

pub(super) struct Parser<'t> {
    text: &'t str,
    lexemes: Vec<Lexeme>,
    at: usize,
    brackets: usize,
    blocks: usize,
    pub(super) kernel: Reading,
}

/// Words.
impl<'t> Parser<'t> {
    pub(super) fn peek(&self) -> &Lexeme {
        // The last lexeme is the end, and the parser never goes past it.
        &self.lexemes[self.at.min(self.lexemes.len() - 1)]
    }

    pub(super) fn spelt(&self) -> &'t str {
        &self.text[self.peek().span.clone()]
    }

    pub(super) fn next(&mut self) -> Lexeme {
        let lexeme = self.peek().clone();
        self.at += usize::from(lexeme.token != Token::End);
        lexeme
    }

    pub(super) fn wrong(&self, message: impl Into<String>) -> Wrong {
        (self.peek().span.clone(), message.into())
    }

    /// Whether the next word or sign is this one.
    pub(super) fn is(&self, what: &str) -> bool {
        matches!(self.peek().token, Token::Word | Token::Sign) && self.spelt() == what
    }

    /// Passes it, if it is next.
    pub(super) fn take(&mut self, what: &str) -> bool {
        let is = self.is(what);
        self.at += usize::from(is);
        is
    }

    pub(super) fn expect(&mut self, what: &str) -> Parsed<()> {
        if self.take(what) { Ok(()) } else { Err(self.wrong(format!("expected `{what}`"))) }
    }

    pub(super) fn word(&mut self, what: &str) -> Parsed<&'t str> {
        let word = self.spelt();
        if self.peek().token != Token::Word {
            return Err(self.wrong(format!("expected {what}")));
        }
        self.at += 1;
        Ok(word)
    }

    /// A word that `meaning` knows.
    pub(super) fn known<T>(&mut self, what: &str, meaning: impl FnOnce(&str) -> Option<T>) -> Parsed<T> {
        let at = self.wrong(format!("expected {what}"));
        meaning(self.word(what)?).ok_or(at)
    }

    pub(super) fn name(&mut self, sigil: char) -> Parsed<String> {
        match self.peek().token.clone() {
            Token::Name(its, name) if its == sigil => {
                self.at += 1;
                Ok(name)
            }
            Token::Name(..) | Token::Word | Token::Text(_) | Token::Def(_) | Token::Number | Token::Sign | Token::End => {
                Err(self.wrong(format!("expected a name with `{sigil}`")))
            }
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Parsed<T> {
        let number = self.spelt().parse().ok().filter(|_| self.peek().token == Token::Number);
        let number = number.ok_or_else(|| self.wrong(format!("expected {what}")))?;
        self.at += 1;
        Ok(number)
    }

    pub(super) fn dtype(&mut self) -> Parsed<DType> {
        self.known("an element type", |word| word.parse().ok())
    }

    /// Items up to `close`, with commas between.
    pub(super) fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while !self.take(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// Programs.
impl<'t> Parser<'t> {
    fn program(&mut self) -> Parsed<Program> {
        self.expect("program")?;
        let mut program = Program { name: self.name('@')?, ..Program::default() };
        // Kernels come after the launches that name them.
        let mut launched: Vec<(String, Wrong)> = Vec::new();
        self.expect("{")?;
        program.facts = self.read("facts of the layer", Facts::parse_prefix)?;
        while !self.take("}") {
            if self.is("statistics") {
                program.statistics = self.read("statistics", Statistics::parse_prefix)?;
            } else if self.take("buffer") {
                program.buffers.push(self.buffer()?);
            } else if self.take("prepare") {
                program.prepare = self.launches(&program.buffers, &mut launched)?;
            } else if self.take("update") {
                program.update = self.launches(&program.buffers, &mut launched)?;
                self.expect("}")?;
                break;
            } else {
                self.expect("regime")?;
                let tokens_up_to = if self.take("up_to") { Some(self.number("a number of tokens")?) } else { None };
                let tile_rows = if self.take("tile_rows") { Some(self.number("a number of rows")?) } else { None };
                let launches = self.launches(&program.buffers, &mut launched)?;
                program.regimes.push(Regime { tokens_up_to, tile_rows, launches });
            }
        }
        while self.peek().token != Token::End {
            program.kernels.push(self.kernel()?);
        }
        let of_regimes = program.regimes.iter_mut().flat_map(|regime| &mut regime.launches);
        let launches = program.prepare.iter_mut().chain(of_regimes).chain(&mut program.update);
        for (launch, (name, unknown)) in launches.zip(launched) {
            launch.kernel = program.kernels.iter().position(|kernel| kernel.name == name).ok_or(unknown)?;
        }
        Ok(program)
    }

    /// `{ launch .. }`, and the names of the kernels.
    fn launches(&mut self, buffers: &[Buffer], launched: &mut Vec<(String, Wrong)>) -> Parsed<Vec<Launch>> {
        let mut launches = Vec::new();
        self.expect("{")?;
        while !self.take("}") {
            self.expect("launch")?;
            let unknown = self.wrong("there is no such kernel");
            launched.push((self.name('@')?, unknown));
            self.expect("(")?;
            let args = self.list(")", |parser| parser.arg(buffers))?;
            self.expect("grid")?;
            let (grid, early) = (self.extent()?, self.take("early"));
            let working = if self.take("working") { Some(self.working(buffers)?) } else { None };
            launches.push(Launch { kernel: 0, grid, early, working, args });
        }
        Ok(launches)
    }

    /// `%buffer * extent`, and perhaps `follows`.
    fn working(&mut self, buffers: &[Buffer]) -> Parsed<Working> {
        let unknown = self.wrong("there is no such buffer");
        let name = self.name('%')?;
        let buffer = buffers.iter().position(|buffer| buffer.name == name).ok_or(unknown)?;
        self.expect("*")?;
        Ok(Working { buffer, each: self.extent()?, follows: self.take("follows") })
    }

    fn buffer(&mut self) -> Parsed<Buffer> {
        let name = self.name('%')?;
        self.expect(":")?;
        let roles = [Role::Input, Role::Output, Role::Weight, Role::Prepared, Role::Workspace];
        let role = self.known("a role", |word| roles.into_iter().find(|of| role(*of) == word))?;
        let dtype = self.dtype()?;
        self.expect("[")?;
        let shape = self.list("]", Self::extent)?;
        let mut observe = None;
        if self.take("observe") {
            let Token::Text(public) = self.next().token else {
                return Err(self.wrong("`observe` is followed by a name in quotes"));
            };
            observe = Some(public);
        }
        Ok(Buffer { name, role, dtype, shape, observe })
    }

    /// `%param = %buffer`, `%param = extent` or `%param = view ..`; `%buffer` alone, where both have one name.
    fn arg(&mut self, buffers: &[Buffer]) -> Parsed<Arg> {
        let buffer =
            |name: &str, unknown: Wrong| buffers.iter().position(|buffer| buffer.name == name).map(Given::Buffer).ok_or(unknown);
        let unknown = self.wrong("there is no such buffer");
        let param = self.name('%')?;
        if !self.take("=") {
            let given = buffer(&param, unknown)?;
            return Ok(Arg { param, given });
        }
        let unknown = self.wrong("there is no such buffer");
        let given = if self.take("view") {
            Given::TensorMap(self.view(buffers)?)
        } else if matches!(self.peek().token, Token::Name('%', _)) {
            buffer(&self.name('%')?, unknown)?
        } else {
            Given::Scalar(self.extent()?)
        };
        Ok(Arg { param, given })
    }

    /// As [`Extent`] itself reads it.
    pub(super) fn extent(&mut self) -> Parsed<Extent> {
        self.read("a formula", Extent::parse_prefix)
    }

    /// What `read` makes of the text from here on, up to the end of a word.
    fn read<T>(&mut self, what: &str, read: impl Fn(&'t str) -> Option<(T, &'t str)>) -> Parsed<T> {
        let wrong = self.wrong(format!("expected {what}"));
        let (read, rest) = read(&self.text[wrong.0.start..]).ok_or_else(|| wrong.clone())?;
        let end = self.text.len() - rest.len();
        let mut last = wrong.0.start;
        while self.peek().token != Token::End && self.peek().span.start < end {
            last = self.next().span.end;
        }
        if last == end { Ok(read) } else { Err(wrong) }
    }

    pub(super) fn deeper<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.brackets == BRACKETS {
            return Err(self.wrong(format!("brackets are nested more than {BRACKETS} deep")));
        }
        self.brackets += 1;
        let parsed = rule(self);
        self.brackets -= 1;
        parsed
    }
}

/// Kernels.
impl Parser<'_> {
    fn kernel(&mut self) -> Parsed<Kernel> {
        self.expect("kernel")?;
        let name = self.name('@')?;
        self.kernel = Reading::default();
        self.expect("(")?;
        self.list(")", Self::param)?;
        self.expect("threads")?;
        let threads = self.number("a number of threads")?;
        let cluster = if self.take("cluster") { self.number("a number of blocks")? } else { 1 };
        let resident = if self.take("resident") { self.number("a number of blocks")? } else { 1 };
        self.expect("{")?;
        while self.take("shared") {
            let (name, elem, len) = self.array(Named::Shared(Handle::new(self.kernel.shared.len())))?;
            let align = if self.take("align") { self.number("an alignment")? } else { Shared::ALIGN };
            self.kernel.shared.push(Shared { name, elem, len, align });
        }
        while self.take("registers") {
            let (name, elem, len) = self.array(Named::Registers(Handle::new(self.kernel.registers.len())))?;
            self.kernel.registers.push(Registers { name, elem, len });
        }
        while self.take("mbarrier") {
            self.mbarrier()?;
        }
        let body = self.block()?;
        let Reading { params, shared, registers, mbarriers, locals, exprs, .. } = std::mem::take(&mut self.kernel);
        Ok(Kernel { name, threads, cluster, resident, params, shared, registers, mbarriers, locals, exprs, body })
    }

    /// `%name: elem[len]`
    fn array(&mut self, named: Named) -> Parsed<(String, DType, u32)> {
        let name = self.declare(named)?;
        self.expect(":")?;
        let elem = self.dtype()?;
        self.expect("[")?;
        let len = self.number("a number of elements")?;
        self.expect("]")?;
        Ok((name, elem, len))
    }

    fn param(&mut self) -> Parsed<()> {
        let name = self.declare(Named::Param(self.kernel.params.len() as u32))?;
        self.expect(":")?;
        let kind = if self.take("*") {
            let write = self.take("mut");
            ParamKind::Buffer { elem: self.dtype()?, write }
        } else if self.take("map") {
            ParamKind::TensorMap(self.tensor_map()?)
        } else {
            ParamKind::Scalar(self.dtype()?)
        };
        self.kernel.params.push(Param { name, kind });
        Ok(())
    }

    /// A name that nothing has yet, without the number that made it unique.
    pub(super) fn declare(&mut self, named: Named) -> Parsed<String> {
        let taken = self.wrong("the name is taken");
        let name = self.name('%')?;
        let base = unnumbered(&name).to_string();
        if self.kernel.names.insert(name, named).is_some() { Err(taken) } else { Ok(base) }
    }

    /// `%a: f32x4`. A local that is there already is bound again, which the verifier refuses.
    pub(super) fn typed(&mut self) -> Parsed<Handle<Local>> {
        let differs = self.wrong("the name is taken, by something else");
        let name = self.name('%')?;
        self.expect(":")?;
        let ty = self.ty()?;
        match self.kernel.names.get(&name) {
            Some(Named::Local(local)) if self.kernel.locals[*local].ty == ty => Ok(*local),
            Some(Named::Local(_) | Named::Param(_) | Named::Shared(_) | Named::Registers(_) | Named::Mbarrier(_)) => Err(differs),
            None => {
                let local = self.kernel.locals.push(Local { name: unnumbered(&name).to_string(), ty });
                self.kernel.names.insert(name, Named::Local(local));
                Ok(local)
            }
        }
    }

    fn ty(&mut self) -> Parsed<Ty> {
        self.known("a type", |word| match word.split_once('x') {
            None => Some(Ty::scalar(word.parse().ok()?)),
            Some((elem, lanes)) => Some(Ty::vector(elem.parse().ok()?, lanes.parse().ok()?)),
        })
    }

    /// Up to its closing bracket.
    pub(super) fn block(&mut self) -> Parsed<Block> {
        if self.blocks == BLOCKS {
            return Err(self.wrong(format!("blocks are nested more than {BLOCKS} deep")));
        }
        self.blocks += 1;
        let mut block = Vec::new();
        while !self.take("}") {
            block.push(self.stmt()?);
        }
        self.blocks -= 1;
        Ok(block)
    }

    fn stmt(&mut self) -> Parsed<Stmt> {
        self.kernel.defs.clear();
        while self.take("def") {
            let next = self.wrong(format!("expected `${}`", self.kernel.defs.len()));
            if self.next().token != Token::Def(self.kernel.defs.len()) {
                return Err(next);
            }
            self.expect("=")?;
            let value = self.expr()?;
            self.kernel.defs.push(value);
        }
        let unknown = self.wrong("expected a statement");
        match self.word("a statement")? {
            "let" => self.typed_and_value().map(|(local, value)| Stmt::Let { local, value }),
            "var" => self.typed_and_value().map(|(local, value)| Stmt::Var { local, value }),
            "set" => {
                let local = self.local()?;
                self.expect("=")?;
                Ok(Stmt::Set { local, value: self.expr()? })
            }
            "load" => {
                let local = self.typed()?;
                self.expect("=")?;
                let (from, offset) = self.element()?;
                let align = self.align(from)?;
                let said =
                    [Hint::Keep, Hint::Stream].into_iter().find(|hint| hint_word(*hint).is_some_and(|word| self.take(word)));
                Ok(Stmt::Load { local, from, offset, align, hint: said.unwrap_or(Hint::None) })
            }
            "store" => {
                let (to, offset) = self.element()?;
                self.expect("=")?;
                let value = self.expr()?;
                Ok(Stmt::Store { to, offset, value, align: self.align(to)? })
            }
            "atomic" => {
                let array = self.lexemes.get(self.at + 1).is_some_and(|after| &self.text[after.span.clone()] == "[");
                let local = if array { None } else { Some(self.typed()?) };
                if !array {
                    self.expect("=")?;
                }
                let (to, offset) = self.element()?;
                self.expect("+=")?;
                Ok(Stmt::AtomicAdd { local, to, offset, value: self.expr()? })
            }
            "shuffle" => {
                let (local, value) = self.typed_and_value()?;
                self.expect("mask")?;
                Ok(Stmt::Shuffle { local, value, mask: self.number("a mask")? })
            }
            "vote" => {
                let local = self.typed()?;
                self.expect("=")?;
                let votes = [Vote::Any, Vote::All, Vote::Ballot];
                let vote = self.known("`any`, `all` or `ballot`", |word| votes.into_iter().find(|v| vote_word(*v) == word))?;
                Ok(Stmt::Vote { local, vote, value: self.expr()? })
            }
            "redux" => {
                let local = self.typed()?;
                self.expect("=")?;
                let extremes = [Extreme::Max, Extreme::Min];
                let extreme = self.known("`max` or `min`", |word| extremes.into_iter().find(|x| extreme_word(*x) == word))?;
                Ok(Stmt::Redux { local, extreme, value: self.expr()? })
            }
            "barrier" => self.scope().map(Stmt::Barrier),
            "barrier_arrive" => self.barrier_arrive(),
            "roles" => self.roles(),
            "arrive" => self.arrive(),
            "wait" => self.wait(),
            "bulk_copy" => self.bulk_copy(),
            "tile_copy" => self.tile_copy(),
            "tile_store" => self.tile_store(),
            "prefetch" => self.prefetch(),
            "for" => {
                let local = self.typed()?;
                self.expect("in")?;
                let start = self.expr()?;
                self.expect("..")?;
                let end = self.expr()?;
                let one = Expr::Int(1, self.kernel.locals[local].ty.elem);
                let step = if self.take("step") { self.expr()? } else { self.kernel.expr(one) };
                self.expect("{")?;
                Ok(Stmt::For { local, start, end, step, body: self.block()? })
            }
            "if" => {
                let cond = self.expr()?;
                self.expect("{")?;
                let then = self.block()?;
                let otherwise = if self.take("else") { self.expect("{").and_then(|()| self.block())? } else { Vec::new() };
                Ok(Stmt::If { cond, then, otherwise })
            }
            "copy" => self.copy(),
            "commit" => Ok(Stmt::Commit),
            "load_matrix" => self.load_matrix(),
            "store_matrix" => self.store_matrix(),
            "mma" => self.mma(),
            "group_mma" => self.group_mma(),
            "fence" => Ok(Stmt::Fence),
            "allow_next" => Ok(Stmt::AllowNext),
            _ => Err(unknown),
        }
    }

    fn typed_and_value(&mut self) -> Parsed<(Handle<Local>, Handle<Expr>)> {
        let local = self.typed()?;
        self.expect("=")?;
        Ok((local, self.expr()?))
    }

    pub(super) fn named(&mut self) -> Parsed<Named> {
        let unknown = self.wrong("nothing has this name");
        let name = self.name('%')?;
        self.kernel.names.get(&name).copied().ok_or(unknown)
    }

    fn local(&mut self) -> Parsed<Handle<Local>> {
        let not = self.wrong("this is not a local");
        match self.named()? {
            Named::Local(local) => Ok(local),
            Named::Param(_) | Named::Shared(_) | Named::Registers(_) | Named::Mbarrier(_) => Err(not),
        }
    }

    /// `%x[offset]`
    pub(super) fn element(&mut self) -> Parsed<(Place, Handle<Expr>)> {
        let not = self.wrong("this is not an array");
        let place = match self.named()? {
            Named::Param(i) => Place::Param(i),
            Named::Shared(h) => Place::Shared(h),
            Named::Registers(h) => Place::Registers(h),
            Named::Mbarrier(_) | Named::Local(_) => return Err(not),
        };
        self.expect("[")?;
        let offset = self.expr()?;
        self.expect("]")?;
        Ok((place, offset))
    }

    /// What is said, or else the bytes of an element.
    fn align(&mut self, place: Place) -> Parsed<u32> {
        if self.take("align") {
            return self.number("an alignment");
        }
        let elem = match place {
            Place::Shared(shared) => self.kernel.shared[shared].elem,
            Place::Registers(registers) => self.kernel.registers[registers].elem,
            Place::Param(i) => match self.kernel.params[i as usize].kind {
                ParamKind::Buffer { elem, .. } | ParamKind::Scalar(elem) | ParamKind::TensorMap(TensorMap { elem, .. }) => elem,
            },
        };
        Ok(elem.bytes() as u32)
    }
}

fn unnumbered(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((base, number)) if number.bytes().all(|b| b.is_ascii_digit()) => base,
        Some(_) | None => name,
    }
}
