//! Tensor maps, views and copies of boxes from text. What `print_tensor` prints comes back equal.

use super::parse::{Named, Parsed, Parser};
use super::{Buffer, Expr, Handle, Place, Stmt, Swizzle, TensorMap, View};

impl Parser<'_> {
    /// `bf16[1, 64, 64] swizzle 128`, behind `mut` if it is stored to
    pub(super) fn tensor_map(&mut self) -> Parsed<TensorMap> {
        let write = self.take("mut");
        let elem = self.dtype()?;
        self.expect("[")?;
        let tile = self.triple(|parser| parser.number("an extent"))?;
        Ok(TensorMap { elem, tile, swizzle: self.swizzle()?, write })
    }

    /// `swizzle 128`, or nothing.
    pub(super) fn swizzle(&mut self) -> Parsed<Swizzle> {
        if !self.take("swizzle") {
            return Ok(Swizzle::None);
        }
        let unknown = self.wrong("expected 32, 64 or 128 bytes");
        let bytes = self.number("a number of bytes")?;
        Swizzle::ALL.into_iter().find(|swizzle| swizzle.row_bytes() == Some(bytes)).ok_or(unknown)
    }

    /// `%buffer[8, T, 64] strides [T * 64, 64]`
    pub(super) fn view(&mut self, buffers: &[Buffer]) -> Parsed<View> {
        let unknown = self.wrong("there is no such buffer");
        let name = self.name('%')?;
        let buffer = buffers.iter().position(|buffer| buffer.name == name).ok_or(unknown)?;
        self.expect("[")?;
        let extents = self.triple(Self::extent)?;
        self.expect("strides")?;
        self.expect("[")?;
        let outer = self.extent()?;
        self.expect(",")?;
        let row = self.extent()?;
        self.expect("]")?;
        Ok(View { buffer, extents, strides: [outer, row] })
    }

    /// `%to[at] = %map[outer, row, column] on %full[stage]`, perhaps with `in_all_blocks`
    pub(super) fn tile_copy(&mut self) -> Parsed<Stmt> {
        let not = self.wrong("a copy goes to a shared array");
        let (Place::Shared(to), at) = self.element()? else { return Err(not) };
        self.expect("=")?;
        let not = self.wrong("this is not a tensor map");
        let Named::Param(from) = self.named()? else { return Err(not) };
        self.expect("[")?;
        let corner: [Handle<Expr>; 3] = self.triple(Self::expr)?;
        self.expect("on")?;
        let (barrier, stage) = self.stage()?;
        let to_all = self.take("in_all_blocks");
        Ok(Stmt::TileCopy { to, at, from, corner, barrier, stage, to_all })
    }

    /// `%map[outer, row, column] = %from[at]`
    pub(super) fn tile_store(&mut self) -> Parsed<Stmt> {
        let not = self.wrong("this is not a tensor map");
        let Named::Param(to) = self.named()? else { return Err(not) };
        self.expect("[")?;
        let corner: [Handle<Expr>; 3] = self.triple(Self::expr)?;
        self.expect("=")?;
        let not = self.wrong("a box is stored from a shared array");
        let (Place::Shared(from), at) = self.element()? else { return Err(not) };
        Ok(Stmt::TileStore { to, corner, from, at })
    }

    /// `a, b, c]`
    fn triple<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<[T; 3]> {
        let first = item(self)?;
        self.expect(",")?;
        let second = item(self)?;
        self.expect(",")?;
        let third = item(self)?;
        self.expect("]")?;
        Ok([first, second, third])
    }
}
