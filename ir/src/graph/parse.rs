//! Text to graphs. Types are read and checked, not trusted; whether the graph is well typed is for `verify` to say.

use std::collections::HashMap;

use egg::Id;
use thiserror::Error;

use super::attr::{
    Assignment, Attr, Balance, Capacity, Eps, GroupMask, GroupScore, Groups, Losses, Norm, Priority, Real, Renorm, Span,
};
use super::{Body, BodyBuilder, Builder, Dim, Graph, Node, OUTPUT, Op, Regime, Type, infer};
use crate::tiling::Kind;
use crate::{DType, Extent, Facts, Sorting, Tiling};

/// Parameters, lines and body nodes that a graph may have; a layer has some dozens.
const MOST_NODES: usize = 1 << 10;

/// Why a text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Byte offset in the text.
    pub offset: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What was expected or is wrong.
    pub message: String,
}

/// Reads what [`print`](super::print()) writes.
///
/// # Errors
/// The first place that is no text of a graph, names what is not defined, or writes a type other than the inferred one.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    located(text, |p| {
        let (_, graph) = p.layer(false)?;
        p.end()?;
        Ok(graph)
    })
}

/// Reads what [`print_regimes`](super::print_regimes()) writes, and what [`print`](super::print()) does: the graphs of one layer
/// for all batches, each with its bound.
///
/// # Errors
/// Where the text is not that of graphs, or they are not of one layer, or their bounds do not ascend to a last graph without one.
pub fn parse_regimes(text: &str) -> Result<Vec<Regime<Graph>>, ParseError> {
    located(text, |p| {
        let mut regimes: Vec<Regime<Graph>> = Vec::new();
        loop {
            p.skip();
            let start = p.at;
            let (tokens_up_to, graph) = p.layer(true)?;
            if let Some(before) = regimes.last() {
                let own = |graph: &Graph| (graph.name.clone(), graph.params.clone(), graph.results.clone(), graph.facts.clone());
                let wrong = if own(&graph) != own(&before.graph) {
                    Some("the graphs of one layer have the same name, parameters, facts and results")
                } else if tokens_up_to.is_some_and(|bound| before.tokens_up_to.is_some_and(|below| bound <= below)) {
                    Some("the bounds of the graphs of a layer ascend")
                } else {
                    None
                };
                if let Some(wrong) = wrong {
                    p.at = start;
                    return Err(wrong.to_string());
                }
            }
            regimes.push(Regime { tokens_up_to, graph });
            if tokens_up_to.is_none() {
                p.end()?;
                return Ok(regimes);
            }
        }
    })
}

fn located<T>(text: &str, read: impl FnOnce(&mut Parser<'_>) -> Parsed<T>) -> Result<T, ParseError> {
    let mut p = Parser { text, at: 0, nodes: 0, builder: Builder::default(), types: Vec::new(), names: HashMap::new() };
    read(&mut p).map_err(|message| {
        let before = &text[..p.at];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        ParseError {
            offset: p.at,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message,
        }
    })
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    nodes: usize,
    builder: Builder,
    /// The type of each node of the builder, if it has one.
    types: Vec<Option<Type>>,
    /// `%x`, `@router` and `%0` to their values.
    names: HashMap<&'t str, Id>,
}

type Parsed<T> = Result<T, String>;

impl<'t> Parser<'t> {
    /// A graph and its bound, if it has one where it may.
    fn layer(&mut self, may_be_bounded: bool) -> Parsed<(Option<u64>, Graph)> {
        (self.nodes, self.builder) = (0, Builder::default());
        self.types.clear();
        self.names.clear();
        self.word("layer")?;
        let name = self.sigil('@')?.trim_start_matches('@').to_string();
        let mut params: HashMap<&str, Type> = HashMap::new();
        self.expect("(")?;
        while !self.eat(")") {
            if !params.is_empty() {
                self.expect(",")?;
            }
            let param = if self.peek('%') { self.sigil('%')? } else { self.sigil('@')? };
            self.expect(":")?;
            let ty = self.ty()?;
            if params.insert(param, ty.clone()).is_some() {
                return Err(format!("`{param}` is declared twice"));
            }
            self.count()?;
            let id = self.builder.param(param, ty.clone());
            self.types.push(Some(ty));
            self.names.insert(param, id);
        }
        self.expect("->")?;
        self.skip();
        let start = self.at;
        let written = if self.eat("?") { None } else { Some(self.ty()?) };
        let tokens_up_to = if may_be_bounded && self.eat("up_to") { Some(self.number()?) } else { None };
        self.expect("{")?;
        let facts = self.facts()?;
        loop {
            if self.eat("return") {
                let results = self.results()?;
                if let (Some(written), Some(ty)) = (written, &self.types[usize::from(results[0].1)])
                    && written != *ty
                {
                    self.at = start;
                    return Err(format!("the type of the result is {ty}, not {written}"));
                }
                self.expect("}")?;
                return Ok((tokens_up_to, std::mem::take(&mut self.builder).finish_with(&name, results, facts)));
            }
            self.line()?;
        }
    }

    /// `%3`, or `y = %3, stats.load = %4`.
    fn results(&mut self) -> Parsed<Vec<(String, Id)>> {
        let mut results = Vec::new();
        loop {
            let start = self.at;
            let name = if self.peek('@') { self.sigil('@')?.to_string() } else { self.dotted()?.to_string() };
            if !name.is_empty() && self.eat("=") {
                results.push((name, self.value()?));
            } else if results.is_empty() {
                self.at = start;
                return Ok(vec![(OUTPUT.to_string(), self.value()?)]);
            } else {
                return Err("expected `=`".to_string());
            }
            self.count()?;
            if !self.eat(",") {
                return Ok(results);
            }
        }
    }

    /// The lines of facts, where there are some.
    fn facts(&mut self) -> Parsed<Facts> {
        self.skip();
        let (facts, rest) = Facts::parse_prefix(&self.text[self.at..]).ok_or("expected facts of the layer")?;
        self.at = self.text.len() - rest.len();
        Ok(facts)
    }

    fn end(&mut self) -> Parsed<()> {
        self.skip();
        if self.at < self.text.len() { Err("expected the end of the text".to_string()) } else { Ok(()) }
    }

    /// `%0 = op a, b { body } : type`
    fn line(&mut self) -> Parsed<()> {
        let name = self.sigil('%')?;
        self.expect("=")?;
        let op = self.op()?;
        let mut operands = Vec::new();
        if self.peek('%') || self.peek('@') || self.peek('[') || self.peeks_digit() {
            loop {
                operands.push(self.operand()?);
                if !self.eat(",") {
                    break;
                }
                if op.operand_list() == Some(operands.len()) && !self.peek('[') {
                    operands.push(self.add(Node::apply(Op::List, &[]))?);
                }
            }
        }
        if let Some(list) = op.operand_list() {
            if operands.len() == list {
                operands.push(self.add(Node::apply(Op::List, &[]))?);
            }
            let body = if self.eat("{") { self.body()? } else { Body::identity() };
            let body = self.add(Node::Attr(Attr::Body(body)))?;
            let place = (list + 1).min(operands.len());
            operands.insert(place, body);
        }
        let id = self.add(Node::apply(op, &operands))?;
        self.expect(":")?;
        if !self.eat("?") {
            let start = self.at;
            let written = self.ty()?;
            let inferred = self.types[usize::from(id)].clone();
            if let Some(ty) = inferred.filter(|ty| *ty != written) {
                self.at = start;
                self.skip();
                return Err(format!("the type of `{name}` is {ty}, not {written}"));
            }
        }
        if self.names.insert(name, id).is_some() {
            return Err(format!("`{name}` is defined twice"));
        }
        Ok(())
    }

    fn operand(&mut self) -> Parsed<Id> {
        if self.peek('%') || self.peek('@') {
            return self.value();
        }
        if self.eat("[") {
            let mut items = Vec::new();
            while !self.eat("]") {
                if !items.is_empty() {
                    self.expect(",")?;
                }
                items.push(self.value()?);
            }
            return self.add(Node::apply(Op::List, &items));
        }
        let attr = self.attr()?;
        self.add(Node::Attr(attr))
    }

    fn value(&mut self) -> Parsed<Id> {
        let start = self.at;
        let name = if self.peek('%') { self.sigil('%')? } else { self.sigil('@')? };
        self.names.get(name).copied().ok_or_else(|| {
            self.at = start;
            self.skip();
            format!("`{name}` is not defined before this")
        })
    }

    /// Lines `a = op ..`, separated by `;` or nothing, up to `yield .. }`.
    fn body(&mut self) -> Parsed<Body> {
        let mut body = BodyBuilder::default();
        let mut names: HashMap<&str, Id> = HashMap::new();
        loop {
            self.eat(";");
            if self.eat("yield") {
                let root = if self.peek('$') { self.body_value(&mut body, &names)? } else { self.body_call(&mut body, &names)? };
                self.eat(";");
                self.expect("}")?;
                return Ok(body.finish(root));
            }
            let name = self.ident()?;
            self.expect("=")?;
            let id = self.body_call(&mut body, &names)?;
            if names.insert(name, id).is_some() {
                return Err(format!("`{name}` is defined twice"));
            }
        }
    }

    fn body_call(&mut self, body: &mut BodyBuilder, names: &HashMap<&str, Id>) -> Parsed<Id> {
        self.count()?;
        let op = self.op()?;
        let mut operands = vec![self.body_value(body, names)?];
        while self.eat(",") {
            operands.push(self.body_value(body, names)?);
        }
        Ok(body.add(Node::apply(op, &operands)))
    }

    fn body_value(&mut self, body: &mut BodyBuilder, names: &HashMap<&str, Id>) -> Parsed<Id> {
        if self.peek('$') {
            let hole = self.sigil('$')?;
            let index = hole[1..].parse().map_err(|_| format!("`{hole}` is not a hole"))?;
            return Ok(body.add(Node::Hole(index)));
        }
        let start = self.at;
        if let Ok(name) = self.ident()
            && let Some(id) = names.get(name)
        {
            return Ok(*id);
        }
        self.at = start;
        let attr = self.attr()?;
        Ok(body.add(Node::Attr(attr)))
    }

    fn attr(&mut self) -> Parsed<Attr> {
        let start = self.at;
        if self.eat("groups(") {
            let groups = self.number()?;
            self.expect(",")?;
            self.word("keep")?;
            let keep = self.number()?;
            self.expect(",")?;
            let score = self.one_of(&[("top2_sum", GroupScore::Top2Sum), ("max", GroupScore::Max)])?;
            self.expect(",")?;
            let mask = self.one_of(&[("-inf", GroupMask::NegInf), ("zero", GroupMask::Zero)])?;
            self.expect(")")?;
            return Ok(Attr::Groups(Groups { groups, keep, score, mask }));
        }
        let of_sum = self.eat("sum(");
        if of_sum || self.eat("norm(") {
            let norm = if of_sum { Norm::Sum } else { Norm::P(self.real()?) };
            if !of_sum {
                self.expect(",")?;
            }
            let mode = self.one_of(&[("add", Eps::Add), ("clamp", Eps::Clamp)])?;
            let eps = self.real()?;
            self.expect(")")?;
            return Ok(Attr::Renorm(Renorm { norm, mode, eps }));
        }
        if self.eat("capacity(") {
            let (per_expert, rest) = Extent::parse_prefix(&self.text[self.at..]).ok_or("expected a formula over T and S")?;
            self.at = self.text.len() - rest.len();
            self.expect(",")?;
            let span = self.span()?;
            self.expect(",")?;
            let priority = self.one_of(&[
                ("choice_major", Priority::ChoiceMajor),
                ("token_major", Priority::TokenMajor),
                ("batch_prioritized", Priority::BatchPrioritized),
                ("score", Priority::Score),
            ])?;
            self.expect(")")?;
            return Ok(Attr::Assignment(Assignment::Capacity(Capacity { per_expert, span, priority })));
        }
        if let Some(tiling) = self.tiling()? {
            return Ok(Attr::Tiling(tiling));
        }
        if self.eat("beside(") {
            let tiling = self.tiling()?.ok_or("expected a tiling")?;
            self.expect(")")?;
            return Ok(Attr::Beside(tiling));
        }
        if self.eat("sort(") {
            let words = [
                ("spread", Sorting::Spread),
                ("block", Sorting::Block),
                ("routed", Sorting::Routed),
                ("cluster", Sorting::Cluster),
            ];
            let sorting = self.one_of(&words)?;
            self.expect(")")?;
            return Ok(Attr::Sorting(sorting));
        }
        if self.eat("span(") {
            let span = self.span()?;
            self.expect(")")?;
            return Ok(Attr::Span(span));
        }
        if self.eat("training(") {
            let losses = self.losses()?;
            self.expect(")")?;
            return Ok(Attr::Losses(losses));
        }
        self.plain().inspect_err(|_| self.at = start)
    }

    fn real(&mut self) -> Parsed<Real> {
        match self.plain()? {
            Attr::Real(x) => Ok(x),
            other => Err(format!("expected a real number, found {other}")),
        }
    }

    /// `tile(64 by 64)`, if one stands here.
    fn tiling(&mut self) -> Parsed<Option<Tiling>> {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| self.eat(&format!("{}(", kind.word()))) else { return Ok(None) };
        let rows = self.extent_of_tile()?;
        self.word("by")?;
        let columns = self.extent_of_tile()?;
        self.expect(")")?;
        Ok(Some(Tiling { kind, rows, columns }))
    }

    fn extent_of_tile(&mut self) -> Parsed<u32> {
        match u32::try_from(self.number()?) {
            Ok(0) => Err("a tile has rows and columns".to_string()),
            Ok(n) => Ok(n),
            Err(_) => Err("too many for a tile".to_string()),
        }
    }

    /// `load 0.01, z 0.001`, or one of the two.
    fn losses(&mut self) -> Parsed<Losses> {
        let names = [
            ("z", None),
            ("load", Some(Balance::Load)),
            ("first", Some(Balance::First)),
            ("sequences", Some(Balance::Sequences)),
            ("sequences_first", Some(Balance::SequencesFirst)),
            ("importance", Some(Balance::Importance)),
        ];
        let Some(balance) = self.one_of(&names)? else {
            return Ok(Losses { balance: None, z: Some(self.real()?) });
        };
        let balance = Some((balance, self.real()?));
        if !self.eat(",") {
            return Ok(Losses { balance, z: None });
        }
        self.word("z")?;
        Ok(Losses { balance, z: Some(self.real()?) })
    }

    fn span(&mut self) -> Parsed<Span> {
        if !self.peeks_digit() {
            return self.one_of(&[("all", Span::All), ("sequence", Span::Sequence)]);
        }
        match self.number()? {
            0 => Err("a span has tokens".to_string()),
            n => Ok(Span::Tokens(n)),
        }
    }

    /// Numbers, element types and `dropless`.
    fn plain(&mut self) -> Parsed<Attr> {
        self.skip();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+'))).unwrap_or(rest.len());
        let attr = rest[..len].parse::<Attr>().map_err(|_| "expected a value or an attribute".to_string())?;
        self.at += len;
        Ok(attr)
    }

    /// `tensor<T x 64 x f32>`, or a list of such.
    fn ty(&mut self) -> Parsed<Type> {
        if self.eat("[") {
            let mut types = Vec::new();
            while !self.eat("]") {
                if !types.is_empty() {
                    self.expect(",")?;
                }
                self.count()?;
                types.push(self.tensor_ty()?);
            }
            return Ok(Type::List(types));
        }
        self.tensor_ty()
    }

    /// A type that is no list.
    fn tensor_ty(&mut self) -> Parsed<Type> {
        let kind = self.ident()?;
        self.expect("<")?;
        let ty = match kind {
            "tensor" => {
                let mut shape = Vec::new();
                loop {
                    self.skip();
                    let rest = &self.text[self.at..];
                    if rest.starts_with(|c: char| c.is_ascii_digit()) {
                        shape.push(Dim::Const(self.number()?));
                    } else {
                        match self.ident()? {
                            "T" => shape.push(Dim::Tokens),
                            "P" => shape.push(Dim::Pairs),
                            name => break Type::Tensor { shape, dtype: name.parse::<DType>()? },
                        }
                    }
                    self.word("x")?;
                    if shape.len() > 8 {
                        return Err("more than 8 dimensions".to_string());
                    }
                }
            }
            "picks" | "routing" => {
                self.word("T")?;
                self.word("x")?;
                let top_k = self.number()?;
                self.word("of")?;
                let experts = self.number()?;
                let rowless = if self.eat("+") { self.number()? } else { 0 };
                if kind == "routing" {
                    Type::Routing { top_k, experts, rowless }
                } else {
                    let (mut repeats, mut ranked, mut masked) = (false, false, false);
                    while self.eat(",") {
                        match self.ident()? {
                            "repeats" if !repeats && !ranked && !masked => repeats = true,
                            "ranked" if !ranked && !masked => ranked = true,
                            "masked" if !masked => masked = true,
                            word => return Err(format!("`{word}` says nothing about picks")),
                        }
                    }
                    Type::Picks { top_k, experts, rowless, repeats, ranked, masked }
                }
            }
            "slots" => {
                let experts = self.number()?;
                self.word("x")?;
                Type::Slots { experts, slots: self.number()? }
            }
            _ => return Err(format!("`{kind}` is not a type")),
        };
        self.expect(">")?;
        Ok(ty)
    }

    fn op(&mut self) -> Parsed<Op> {
        let start = self.at;
        let name = self.ident()?;
        match Op::named(name) {
            Some(op) if op != Op::List => Ok(op),
            Some(_) | None => {
                self.at = start;
                self.skip();
                Err(format!("`{name}` is not an op"))
            }
        }
    }

    fn add(&mut self, node: Node) -> Parsed<Id> {
        self.count()?;
        let id = self.builder.add(node.clone());
        if usize::from(id) == self.types.len() {
            let typed = node.operands().iter().all(|c| self.types[usize::from(*c)].is_some());
            let missing = Type::List(Vec::new());
            let types = &self.types;
            let ty = typed.then(|| infer(&node, |c| types[usize::from(c)].as_ref().unwrap_or(&missing), |_| None).ok());
            self.types.push(ty.flatten());
        }
        Ok(id)
    }

    fn count(&mut self) -> Parsed<()> {
        self.nodes += 1;
        if self.nodes > MOST_NODES { Err(format!("more than {MOST_NODES} nodes")) } else { Ok(()) }
    }

    // Tokens. `//` starts a comment.

    fn skip(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn peek(&mut self, c: char) -> bool {
        self.skip();
        self.text[self.at..].starts_with(c)
    }

    fn peeks_digit(&mut self) -> bool {
        self.skip();
        self.text[self.at..].starts_with(|c: char| c.is_ascii_digit())
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let rest = &self.text[self.at..];
        let word = token.ends_with(|c: char| c.is_ascii_alphanumeric());
        let found = rest.strip_prefix(token).is_some_and(|after| !word || !after.starts_with(is_name));
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}`")) }
    }

    fn word(&mut self, word: &str) -> Parsed<()> {
        self.expect(word)
    }

    fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Parsed<T> {
        let names: Vec<String> = choices.iter().map(|(n, _)| format!("`{n}`")).collect();
        choices.iter().find(|(n, _)| self.eat(n)).map(|(_, v)| *v).ok_or_else(|| format!("expected {}", names.join(" or ")))
    }

    fn ident(&mut self) -> Parsed<&'t str> {
        self.skip();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        if len == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("expected a name".to_string());
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// Names joined by dots: `stats.load`.
    fn dotted(&mut self) -> Parsed<&'t str> {
        self.skip();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !(is_name(c) || c == '.')).unwrap_or(rest.len());
        self.at += len;
        Ok(&rest[..len])
    }

    fn sigil(&mut self, sigil: char) -> Parsed<&'t str> {
        self.skip();
        let rest = &self.text[self.at..];
        let name = rest.strip_prefix(sigil).ok_or_else(|| format!("expected a name with `{sigil}`"))?;
        let len = name.find(|c: char| !(is_name(c) || matches!(c, '.' | '-'))).unwrap_or(name.len());
        if len == 0 && sigil != '@' {
            return Err(format!("expected a name after `{sigil}`"));
        }
        self.at += 1 + len;
        Ok(&rest[..1 + len])
    }

    fn number(&mut self) -> Parsed<u64> {
        self.skip();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest[..len].parse().map_err(|_| "expected a number".to_string())?;
        self.at += len;
        Ok(number)
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
