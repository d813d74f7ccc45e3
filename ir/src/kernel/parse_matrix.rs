//! Copies under way and matrices of a warp from text. What `print_matrix` prints comes back equal.

use super::Stmt;
use super::parse::{Named, Parsed, Parser};
use crate::MatrixShape;

impl Parser<'_> {
    /// `%to[at] = %from[offset] bytes 16 live cond`
    pub(super) fn copy(&mut self) -> Parsed<Stmt> {
        let (to, at) = self.element()?;
        self.expect("=")?;
        let (from, offset) = self.element()?;
        self.expect("bytes")?;
        let bytes = self.number("a number of bytes")?;
        let live = if self.take("live") { Some(self.expr()?) } else { None };
        Ok(Stmt::Copy { to, at, from, offset, bytes, live })
    }

    /// `%a: bf16x2, %b: bf16x2 = %from[offset] transposed`
    pub(super) fn load_matrix(&mut self) -> Parsed<Stmt> {
        let locals = self.list("=", Self::typed)?;
        let (from, offset) = self.element()?;
        Ok(Stmt::LoadMatrix { locals, from, offset, transposed: self.take("transposed") })
    }

    /// `m16n8k16 %sums[4] += (a, ..) * (b, ..)`
    pub(super) fn mma(&mut self) -> Parsed<Stmt> {
        let shape = self.known("a shape", |word| MatrixShape::ALL.into_iter().find(|shape| shape.to_string() == word))?;
        let not = self.wrong("this is not an array of registers");
        let Named::Registers(sums) = self.named()? else { return Err(not) };
        self.expect("[")?;
        let at = self.number("the number of an element")?;
        self.expect("]")?;
        self.expect("+=")?;
        self.expect("(")?;
        let a = self.list(")", Self::expr)?;
        self.expect("*")?;
        self.expect("(")?;
        let b = self.list(")", Self::expr)?;
        Ok(Stmt::Mma { shape, sums, at, a, b })
    }
}
