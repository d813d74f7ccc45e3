//! The rules of products of four warps.

use std::cmp::Reverse;

use super::fragment::group_sums;
use super::panels::{GROUP_ROWS, STEP};
use super::uniform::Agreement;
use super::verify::Check;
use super::{Factor, Handle, Panels, Place, Registers, Ty};
use crate::DType;
use crate::machine::Unit;

/// Warps that compute a product together.
const WARPS: u32 = 4;
/// Columns of a product, in eights.
const MOST_COLUMNS: u32 = 256;
/// The greatest depth of a product.
const MOST_DEPTH: u32 = 256;

impl Check<'_> {
    /// Whether the machine has such products.
    pub(super) fn group_mma_unit(&mut self, what: &str) {
        let machine = self.machine;
        self.require(machine.has_groups(), || format!("{what}: {} has no such products", machine.name));
    }

    /// Whole groups of four warps come here.
    pub(super) fn warp_group(&mut self, what: &str, control: Agreement) {
        let (group, come) = (WARPS * self.machine.warp_lanes, self.together(control));
        let begins = self.role.as_ref().map_or(0, |role| role.start);
        let whole = self.role.is_some() || self.kernel.threads.is_multiple_of(group);
        let holds = come > 0 && come.is_multiple_of(group) && begins.is_multiple_of(WARPS) && whole;
        self.require(holds, || format!("{what} where its warps may part"));
    }

    pub(super) fn group_mma(&mut self, [columns, depth]: [u32; 2], (sums, at): (Handle<Registers>, u32), a: &Factor, b: &Panels) {
        self.group_mma_unit("a product of four warps");
        let of_columns = (8..=MOST_COLUMNS).contains(&columns) && columns.is_multiple_of(8);
        self.require(of_columns, || format!("a product has 8 to {MOST_COLUMNS} columns in eights, not {columns}"));
        let of_depth = (STEP..=MOST_DEPTH).contains(&depth) && depth.is_multiple_of(STEP);
        self.require(of_depth, || format!("a product has a depth of {STEP} to {MOST_DEPTH} in sixteens, not {depth}"));
        if !of_columns || !of_depth {
            return;
        }
        let elem = self.kernel.elem(Place::Shared(b.array));
        if let Some(elem) = elem {
            let (machine, is_one) = (self.machine, self.machine.rate(Unit::Group, elem).is_some());
            self.require(is_one || !machine.has_groups(), || format!("{} has no product of four warps of {elem}", machine.name));
        }
        self.panels(b, columns, depth);
        match a {
            Factor::Shared(a) => {
                let of_a = self.kernel.elem(Place::Shared(a.array));
                if let (Some(a), Some(b)) = (of_a, elem) {
                    self.require(a == b, || format!("a product of {a} and {b}"));
                }
                self.panels(a, GROUP_ROWS, depth);
            }
            Factor::Pairs(pairs) => {
                let expected = depth / STEP * 4;
                self.require(pairs.len() == expected as usize, || {
                    format!("a lane's part of a factor of depth {depth} is {expected} pairs, not {}", pairs.len())
                });
                for pair in pairs {
                    let elem = elem.unwrap_or(DType::BF16);
                    self.wants(*pair, "the factors are pairs of", |ty| ty == Ty::vector(elem, 2), &format!("{elem}"));
                }
            }
        }
        let name = self.names.place(Place::Registers(sums)).to_string();
        let array = self.kernel.registers.get(sums).map(|array| (array.elem, array.len));
        self.require(array.is_some_and(|(elem, _)| elem == DType::F32), || format!("{name} is no array of registers of f32"));
        let end = at.checked_add(group_sums(columns));
        let inside = array.is_some_and(|(_, len)| end.is_some_and(|end| end <= len));
        self.require(inside, || format!("elements {at}.. of {name} are outside it"));
    }

    /// A factor of so many rows in shared memory.
    fn panels(&mut self, of: &Panels, rows: u32, depth: u32) {
        let lines = of.extents(rows, depth).0;
        self.require(of.lines >= lines && of.lines.is_multiple_of(8), || {
            format!("a panel has a multiple of 8 lines, and at least {lines}, not {}", of.lines)
        });
        self.holds_tiles(of.array, of.swizzle);
        let agree = self.agreement(of.at) <= Agreement::Warps(Reverse(WARPS));
        self.require(agree, || "where a factor lies, four warps may not agree on".to_string());
        let place = Place::Shared(of.array);
        let Some(elem) = self.kernel.elem(place) else { return };
        let end = of.parts(rows, depth).map(|part| part.end).max().unwrap_or_default();
        let lanes = u32::try_from(end / elem.bytes()).unwrap_or(u32::MAX);
        self.access(place, of.at, Some(Ty::vector(elem, lanes)), of.swizzle.align());
    }
}
