//! Copies under way and matrices of a warp from text. What `print_matrix` prints comes back equal.

use super::parse::{Named, Parsed, Parser};
use super::{Factor, Handle, Panels, Place, Registers, Stmt};
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

    /// `%to[offset] = (pair, ..) transposed`
    pub(super) fn store_matrix(&mut self) -> Parsed<Stmt> {
        let (to, offset) = self.element()?;
        self.expect("=")?;
        self.expect("(")?;
        let pairs = self.list(")", Self::expr)?;
        Ok(Stmt::StoreMatrix { to, offset, pairs, transposed: self.take("transposed") })
    }

    /// `m64n128k64 %sums[0] += %a[at] lines 64 swizzle 128 * %b[at] lines 128 swizzle 128 transposed`, or `(a, ..)` in place of `%a[at] ..`
    pub(super) fn group_mma(&mut self) -> Parsed<Stmt> {
        let extents = |word: &str| {
            let (columns, depth) = word.strip_prefix("m64n")?.split_once('k')?;
            Some((columns.parse().ok()?, depth.parse().ok()?))
        };
        let (columns, depth) = self.known("a shape like m64n128k64", extents)?;
        let (sums, at) = self.sums()?;
        let a = if self.take("(") { Factor::Pairs(self.list(")", Self::expr)?) } else { Factor::Shared(self.panels()?) };
        self.expect("*")?;
        Ok(Stmt::GroupMma { columns, depth, sums, at, a, b: self.panels()? })
    }

    /// `%a[at] lines 64 swizzle 128 transposed`
    fn panels(&mut self) -> Parsed<Panels> {
        let not = self.wrong("a factor lies in a shared array");
        let (Place::Shared(array), at) = self.element()? else { return Err(not) };
        self.expect("lines")?;
        let lines = self.number("a number of lines")?;
        Ok(Panels { array, at, lines, swizzle: self.swizzle()?, transposed: self.take("transposed") })
    }

    /// `%sums[4] +=`
    fn sums(&mut self) -> Parsed<(Handle<Registers>, u32)> {
        let not = self.wrong("this is not an array of registers");
        let Named::Registers(sums) = self.named()? else { return Err(not) };
        self.expect("[")?;
        let at = self.number("the number of an element")?;
        self.expect("]")?;
        self.expect("+=")?;
        Ok((sums, at))
    }

    /// `m16n8k16 %sums[4] += (a, ..) * (b, ..)`
    pub(super) fn mma(&mut self) -> Parsed<Stmt> {
        let shape = self.known("a shape", |word| MatrixShape::ALL.into_iter().find(|shape| shape.to_string() == word))?;
        let (sums, at) = self.sums()?;
        self.expect("(")?;
        let a = self.list(")", Self::expr)?;
        self.expect("*")?;
        self.expect("(")?;
        let b = self.list(")", Self::expr)?;
        Ok(Stmt::Mma { shape, sums, at, a, b })
    }
}
