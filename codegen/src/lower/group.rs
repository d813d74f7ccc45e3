//! Products of four warps: sums are variables that pass through each product, and through each wait.

use moec_ir::kernel::panels::STEP;
use moec_ir::kernel::{Expr, Factor, Handle, Panels, Place, Registers, Stmt, fragment};

use super::Lowering;
use crate::Error;
use crate::llvm::{Pointer, Value};
use crate::target::{GroupFactor, GroupProduct};

impl<'c> Lowering<'_, 'c> {
    pub(super) fn group_mma(
        &mut self,
        [columns, depth]: [u32; 2],
        (sums, at): (Handle<Registers>, u32),
        a: &Factor,
        b: &Panels,
    ) -> Result<(), Error> {
        self.needs_whole_warps()?;
        let elem = self.kernel.elem(Place::Shared(b.array));
        let elem = elem.ok_or_else(|| self.malformed("there is no such array".to_string()))?;
        let left = match a {
            Factor::Shared(a) => GroupFactor::Shared(self.panels(a)?, *a),
            Factor::Pairs(pairs) => GroupFactor::Pairs(self.pairs(pairs)?),
        };
        let right = (self.panels(b)?, *b);
        let elements = self.registers[sums.index()].get(at as usize..(at + fragment::group_sums(columns)) as usize);
        let elements = elements.ok_or_else(|| self.malformed("sums outside their array".to_string()))?.to_vec();
        let before = self.sums(&elements);
        let product = GroupProduct { elem, columns, steps: depth / STEP, left, right };
        let after = self.warps("products of four warps")?.group_mma(self.ir, &product, &before);
        let after = after.ok_or_else(|| self.unsupported("products of four warps"))?;
        elements.iter().zip(after).for_each(|(at, sum)| self.ir.store(sum, *at, 0));
        Ok(())
    }

    /// Everything that products sum passes through: what is read behind the wait depends on it.
    pub(super) fn wait_products(&mut self, left: u32) -> Result<(), Error> {
        self.needs_whole_warps()?;
        let mut summed = Vec::new();
        sums_of(&self.kernel.body, &mut summed);
        let mut elements: Vec<Pointer<'c>> = Vec::new();
        for (sums, at, len) in summed {
            let of = self.registers[sums.index()].get(at as usize..(at + len) as usize).unwrap_or_default();
            elements.extend(of.iter().filter(|element| !elements.contains(element)).copied().collect::<Vec<_>>());
        }
        let before = self.sums(&elements);
        let after = self.warps("products of four warps")?.wait_products(self.ir, left, &before);
        let after = after.ok_or_else(|| self.unsupported("products of four warps"))?;
        elements.iter().zip(after).for_each(|(at, sum)| self.ir.store(sum, *at, 0));
        Ok(())
    }

    pub(super) fn fence(&mut self) -> Result<(), Error> {
        self.warps("a fence in front of products")?.fence(self.ir).ok_or_else(|| self.unsupported("a fence in front of products"))
    }

    fn sums(&self, elements: &[Pointer<'c>]) -> Vec<Value<'c>> {
        elements.iter().map(|at| self.ir.load(self.ir.f32(), *at, 0, "sum")).collect()
    }

    fn panels(&mut self, of: &Panels) -> Result<Pointer<'c>, Error> {
        self.element(Place::Shared(of.array), of.at)
    }

    fn pairs(&mut self, pairs: &[Handle<Expr>]) -> Result<Vec<Value<'c>>, Error> {
        pairs.iter().map(|pair| self.expr(*pair)).collect()
    }
}

/// The sums of every product in these statements: their array, the first element, and how many.
fn sums_of(block: &[Stmt], found: &mut Vec<(Handle<Registers>, u32, u32)>) {
    for stmt in block {
        if let Stmt::GroupMma { sums, at, columns, .. } = stmt {
            found.push((*sums, *at, fragment::group_sums(*columns)));
        }
        stmt.blocks().for_each(|block| sums_of(block, found));
    }
}
