//! Products of four warps: sums are variables that pass through each product, and through each wait.

use std::collections::{BTreeSet, HashMap};

use moec_ir::kernel::panels::STEP;
use moec_ir::kernel::{Expr, Factor, Handle, Panels, Place, Registers, Stmt, Wait, fragment};

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

    /// The sums of products that may be under way pass through it: what is read behind the wait depends on it.
    pub(super) fn wait_products(&mut self, wait: &Stmt, left: u32) -> Result<(), Error> {
        self.needs_whole_warps()?;
        let mut elements: Vec<Pointer<'c>> = Vec::new();
        for Sums { array, at, len } in self.under_way.get(&std::ptr::from_ref(wait)).into_iter().flatten() {
            let of = self.registers[*array].get(*at as usize..(at + len) as usize).unwrap_or_default();
            elements.extend(of.iter().filter(|element| !elements.contains(element)).copied().collect::<Vec<_>>());
        }
        let before = self.sums(&elements);
        let after = self.warps("products of four warps")?.wait_products(self.ir, left, &before);
        let after = after.ok_or_else(|| self.unsupported("products of four warps"))?;
        elements.iter().zip(after).for_each(|(at, sum)| self.ir.store(sum, *at, 0));
        Ok(())
    }

    pub(super) fn fence(&mut self) -> Result<(), Error> {
        self.warps("fences")?.fence(self.ir).ok_or_else(|| self.unsupported("fences"))
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

/// Some elements of an array of registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sums {
    /// The array, by handle.
    array: usize,
    /// The first element.
    at: u32,
    len: u32,
}

/// For each wait for products, by its address, the sums of those that may be under way there.
pub(super) type UnderWay = HashMap<*const Stmt, BTreeSet<Sums>>;

/// What is under way at the waits of these statements, and in the end, if `before` is when they begin.
pub(super) fn under_way(block: &[Stmt], before: BTreeSet<Sums>, found: &mut UnderWay) -> BTreeSet<Sums> {
    let mut now = before;
    for stmt in block {
        if let Stmt::GroupMma { sums, at, columns, .. } = stmt {
            now.insert(Sums { array: sums.index(), at: *at, len: fragment::group_sums(*columns) });
        } else if let Stmt::Wait(Wait::Products(left)) = stmt {
            found.entry(std::ptr::from_ref(stmt)).or_default().extend(&now);
            if *left == 0 {
                now.clear();
            }
        } else if let Stmt::For { body, .. } = stmt {
            // What one turn leaves, the next one may wait for; a second turn leaves nothing that the first did not.
            for _ in 0..2 {
                now.extend(under_way(body, now.clone(), found));
            }
        } else {
            let ends: Vec<_> = stmt.blocks().map(|block| under_way(block, now.clone(), found)).collect();
            now = if ends.is_empty() { now } else { ends.into_iter().flatten().collect() };
        }
    }
    now
}
