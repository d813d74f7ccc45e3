//! Expressions from text: operators bind as in Rust, everything else is a call. Statements are the parser's.

use super::lex::Token;
use super::parse::{Named, Parsed, Parser, Reading};
use super::print::{COMPARE, COMPARES, SIGNS, UNARY};
use super::{Binary, Compare, Expr, Handle, Index, Reduce, Unary};
use crate::DType;

impl Reading {
    /// Equal expressions are one.
    pub(super) fn expr(&mut self, expr: Expr) -> Handle<Expr> {
        *self.known.entry(expr).or_insert_with(|| self.exprs.push(expr))
    }
}

impl Parser<'_> {
    pub(super) fn expr(&mut self) -> Parsed<Handle<Expr>> {
        self.infix(COMPARE)
    }

    /// Operators that bind at least as tightly as `least`.
    fn infix(&mut self, least: u8) -> Parsed<Handle<Expr>> {
        self.deeper(|parser| {
            let mut left = parser.prefix()?;
            let mut compared = false;
            loop {
                if let Some((op, tight)) = parser.sign().filter(|(_, tight)| *tight >= least && !compared) {
                    parser.next();
                    let right = parser.infix(tight + 1)?;
                    left = parser.kernel.expr(Expr::Binary(op, left, right));
                } else if let Some(op) = parser.comparison().filter(|_| least <= COMPARE && !compared) {
                    parser.next();
                    let right = parser.infix(COMPARE + 1)?;
                    left = parser.kernel.expr(Expr::Compare(op, left, right));
                    compared = true;
                } else {
                    return Ok(left);
                }
            }
        })
    }

    fn sign(&self) -> Option<(Binary, u8)> {
        SIGNS.iter().find(|(_, sign, _)| self.is(sign)).map(|(op, _, tight)| (*op, *tight))
    }

    fn comparison(&self) -> Option<Compare> {
        COMPARES.iter().find(|(_, sign)| self.is(sign)).map(|(op, _)| *op)
    }

    fn prefix(&mut self) -> Parsed<Handle<Expr>> {
        let op = match (self.is("-"), self.is("!")) {
            (true, _) => Unary::Neg,
            (_, true) => Unary::Not,
            (false, false) => return self.operand(),
        };
        self.next();
        if op == Unary::Neg && self.peek().token == Token::Number {
            return self.constant("-");
        }
        let value = self.infix(UNARY)?;
        Ok(self.kernel.expr(Expr::Unary(op, value)))
    }

    fn operand(&mut self) -> Parsed<Handle<Expr>> {
        match self.peek().token.clone() {
            Token::Number => self.constant(""),
            Token::Name('%', _) => {
                let not = self.wrong("an array is not a value: load an element");
                let expr = match self.named()? {
                    Named::Param(i) => Expr::Param(i),
                    Named::Local(local) => Expr::Local(local),
                    Named::Shared(_) | Named::Registers(_) | Named::Mbarrier(_) => return Err(not),
                };
                Ok(self.kernel.expr(expr))
            }
            Token::Def(i) => {
                let def = self.kernel.defs.get(i).copied().ok_or_else(|| self.wrong("this statement defines no such thing"))?;
                self.next();
                Ok(def)
            }
            Token::Word => self.call(),
            Token::Sign if self.is("(") => {
                self.next();
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign | Token::Name(..) | Token::Text(_) | Token::End => Err(self.wrong("expected a value")),
        }
    }

    /// A number, behind `minus` or nothing.
    fn constant(&mut self, minus: &str) -> Parsed<Handle<Expr>> {
        let spelt = self.spelt();
        let wrong = self.wrong("not a number that fits");
        let expr = if spelt.contains('.') || spelt.contains('e') {
            let number: Option<f32> = format!("{minus}{spelt}").parse().ok();
            number.filter(|number| number.is_finite()).map(|number| Expr::Float(number.to_bits()))
        } else {
            let long = spelt.strip_suffix("i64");
            let digits = long.or(spelt.strip_suffix("i32")).unwrap_or(spelt);
            let number: Option<i64> = format!("{minus}{digits}").parse().ok();
            number.map(|number| Expr::Int(number, if long.is_some() { DType::I64 } else { DType::I32 }))
        };
        self.next();
        expr.map(|expr| self.kernel.expr(expr)).ok_or(wrong)
    }

    fn call(&mut self) -> Parsed<Handle<Expr>> {
        let unknown = self.wrong("there is no such function");
        let word = self.word("a value")?;
        let leaf = match word {
            "true" => Some(Expr::Bool(true)),
            "false" => Some(Expr::Bool(false)),
            "thread" => Some(Expr::Index(Index::Thread)),
            "block" => Some(Expr::Index(Index::Block)),
            _ => None,
        };
        if let Some(leaf) = leaf {
            return Ok(self.kernel.expr(leaf));
        }
        self.expect("(")?;
        let expr = match word {
            "bits" => {
                let hex = self.spelt().strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
                let bits = hex.ok_or_else(|| self.wrong("expected 32 bits, as `0x7fc00000`"))?;
                self.next();
                Expr::Float(bits)
            }
            "abs" => Expr::Unary(Unary::Abs, self.expr()?),
            "floor" => Expr::Unary(Unary::Floor, self.expr()?),
            "sqrt" => Expr::Unary(Unary::Sqrt, self.expr()?),
            "count_ones" => Expr::Unary(Unary::CountOnes, self.expr()?),
            "exp2_approx" => Expr::Unary(Unary::Exp2Approx, self.expr()?),
            "reciprocal_approx" => Expr::Unary(Unary::ReciprocalApprox, self.expr()?),
            "round_tf32" => Expr::Unary(Unary::RoundTf32, self.expr()?),
            "min" => self.two().map(|(a, b)| Expr::Binary(Binary::Min, a, b))?,
            "max" => self.two().map(|(a, b)| Expr::Binary(Binary::Max, a, b))?,
            "select" => self.three().map(|(c, a, b)| Expr::Select(c, a, b))?,
            "fma" => self.three().map(|(a, b, c)| Expr::Fma(a, b, c))?,
            "dot" => self.three().map(|(acc, a, b)| Expr::Dot { acc, a, b })?,
            "splat" => self.and_number().map(|(a, lanes)| Expr::Splat(lanes, a))?,
            "concat" => self.two().map(|(a, b)| Expr::Concat(a, b))?,
            "transpose" => self.and_number().map(|(a, rows)| Expr::Transpose(a, rows))?,
            "lane" => self.and_number().map(|(a, lane)| Expr::Extract(a, lane, 1))?,
            "lanes" => {
                let (a, lane) = self.and_number()?;
                self.expect(",")?;
                Expr::Extract(a, lane, self.number("a number of lanes")?)
            }
            "sum" => Expr::Reduce(Reduce::Add, self.expr()?),
            "greatest" => Expr::Reduce(Reduce::Max, self.expr()?),
            _ => {
                let cast = word.parse().ok();
                let bitcast = word.strip_prefix("bits_").and_then(|elem| elem.parse().ok());
                match (cast, bitcast) {
                    (Some(elem), _) => Expr::Cast(elem, self.expr()?),
                    (None, Some(elem)) => Expr::Bitcast(elem, self.expr()?),
                    (None, None) => return Err(unknown),
                }
            }
        };
        self.expect(")")?;
        Ok(self.kernel.expr(expr))
    }

    fn two(&mut self) -> Parsed<(Handle<Expr>, Handle<Expr>)> {
        let a = self.expr()?;
        self.expect(",")?;
        Ok((a, self.expr()?))
    }

    fn three(&mut self) -> Parsed<(Handle<Expr>, Handle<Expr>, Handle<Expr>)> {
        let (a, b) = self.two()?;
        self.expect(",")?;
        Ok((a, b, self.expr()?))
    }

    fn and_number(&mut self) -> Parsed<(Handle<Expr>, u32)> {
        let a = self.expr()?;
        self.expect(",")?;
        Ok((a, self.number("a number of lanes")?))
    }
}
