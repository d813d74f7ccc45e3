//! Arrays of registers, copies under way and matrices of a warp as LLVM instructions.

use moec_ir::kernel::{Expr, Handle, Local, Place, Registers, fragment};
use moec_ir::{DType, MatrixShape};

use super::Lowering;
use crate::Error;
use crate::llvm::{Op, Pointer, Value};

impl<'c> Lowering<'_, 'c> {
    /// Elements of an array of registers, as many as there are lanes.
    pub(super) fn load_registers(&self, array: Handle<Registers>, offset: Handle<Expr>, lanes: u32) -> Result<Value<'c>, Error> {
        let elements = self.registers(array, offset, lanes)?;
        let ty = super::elem(self.ir, self.kernel.registers[array].elem);
        let load = |at: &Pointer<'c>| self.ir.load(ty, *at, 0, &self.kernel.registers[array].name);
        let loaded: Vec<Value<'c>> = elements.iter().map(load).collect();
        Ok(self.ir.vector(&loaded))
    }

    /// As many elements of an array of registers as the value has lanes.
    pub(super) fn store_registers(&self, array: Handle<Registers>, offset: Handle<Expr>, value: Value<'c>) -> Result<(), Error> {
        let elements = self.registers(array, offset, crate::llvm::lanes(value))?;
        (0..).zip(elements).for_each(|(lane, at)| self.ir.store(self.ir.extract(value, lane), *at, 0));
        Ok(())
    }

    fn registers(&self, array: Handle<Registers>, offset: Handle<Expr>, lanes: u32) -> Result<&[Pointer<'c>], Error> {
        let first = if let Expr::Int(n, _) = self.kernel.exprs[offset] { usize::try_from(n).ok() } else { None };
        let elements = &self.registers[array.index()];
        let named = first.and_then(|first| elements.get(first..first.checked_add(lanes as usize)?));
        named.ok_or_else(|| self.malformed("a register is named by a constant".to_string()))
    }

    pub(super) fn copy(
        &mut self,
        [to, from]: [Place; 2],
        [at, offset]: [Handle<Expr>; 2],
        bytes: u32,
        live: Option<Handle<Expr>>,
    ) -> Result<(), Error> {
        let (to, from) = (self.element(to, at)?, self.element(from, offset)?);
        let live = live.map(|live| self.expr(live)).transpose()?;
        self.target.copy(self.ir, [to, from], bytes, live).ok_or_else(|| self.unsupported("an asynchronous copy"))
    }

    pub(super) fn load_matrix(
        &mut self,
        locals: &[Handle<Local>],
        from: Place,
        offset: Handle<Expr>,
        transposed: bool,
    ) -> Result<(), Error> {
        self.needs_whole_warps()?;
        let row = self.element(from, offset)?;
        let loaded = self.target.load_matrix(self.ir, row, locals.len(), transposed);
        let loaded = loaded.ok_or_else(|| self.unsupported("a matrix load"))?;
        for (local, word) in locals.iter().zip(loaded) {
            self.bind(*local, self.ir.cast(Op::BitCast, word, self.ty(self.local(*local).ty)));
        }
        Ok(())
    }

    pub(super) fn store_matrix(
        &mut self,
        (to, offset): (Place, Handle<Expr>),
        pairs: &[Handle<Expr>],
        transposed: bool,
    ) -> Result<(), Error> {
        self.needs_whole_warps()?;
        let row = self.element(to, offset)?;
        let pairs = pairs.iter().map(|pair| self.expr(*pair)).collect::<Result<Vec<_>, _>>()?;
        self.target.store_matrix(self.ir, row, &pairs, transposed).ok_or_else(|| self.unsupported("a matrix store"))
    }

    pub(super) fn mma(
        &mut self,
        shape: MatrixShape,
        (sums, at): (Handle<Registers>, u32),
        a: &[Handle<Expr>],
        b: &[Handle<Expr>],
    ) -> Result<(), Error> {
        self.needs_whole_warps()?;
        let first = a.first().ok_or_else(|| self.malformed("a factor of no pairs".to_string()))?;
        let elem: DType = self.types[first.index()].elem;
        let a = a.iter().map(|pair| self.expr(*pair)).collect::<Result<Vec<_>, _>>()?;
        let b = b.iter().map(|pair| self.expr(*pair)).collect::<Result<Vec<_>, _>>()?;
        let elements = self.registers[sums.index()].get(at as usize..(at + fragment::SUMS) as usize);
        let elements = elements.ok_or_else(|| self.malformed("sums outside their array".to_string()))?;
        let before: Vec<Value<'c>> = elements.iter().map(|at| self.ir.load(self.ir.f32(), *at, 0, "sum")).collect();
        let after = self.target.mma(self.ir, (shape, elem), &a, &b, &before);
        let after = after.ok_or_else(|| self.unsupported("a product of matrices"))?;
        elements.iter().zip(after).for_each(|(at, sum)| self.ir.store(sum, *at, 0));
        Ok(())
    }
}
