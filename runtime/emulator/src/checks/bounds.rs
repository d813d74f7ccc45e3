//! Whether an access lies in what there is, aligned and in the right space.

use std::ops::Range;

use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::place::{Place, Touch, WINDOW, generic, of_other};
use crate::state::run::Cx;

impl Block {
    /// Bounds and alignment of a global access. Returns the allocation.
    #[inline]
    pub(crate) fn check_global(&mut self, cx: &mut Cx<'_>, touch: Touch, address: u64, hint: &mut usize) -> Option<usize> {
        if !cx.memory.inside(*hint, address, touch.bytes) {
            let index = cx.memory.locate(address).filter(|&index| cx.memory.inside(index, address, touch.bytes));
            let Some(index) = index else {
                let kind = if address < 1 << 16 {
                    FindingKind::NullPointer
                } else if !matches!(generic(address), Place::Global(_)) {
                    FindingKind::WrongSpace
                } else {
                    FindingKind::OutOfBounds
                };
                let message = cx.memory.describe(address);
                self.finding(cx, touch.at(), kind, || format!("{} bytes at {message}", touch.bytes));
                return None;
            };
            *hint = index;
        }
        self.check_aligned(cx, touch, address).then_some(*hint)
    }

    fn check_aligned(&mut self, cx: &mut Cx<'_>, touch: Touch, address: u64) -> bool {
        let fine = address & (u64::from(touch.bytes.next_power_of_two()) - 1) == 0;
        if !fine {
            self.finding(cx, touch.at(), FindingKind::Misaligned, || {
                format!("address {address:#x} is not a multiple of {}", touch.bytes)
            });
        }
        fine
    }

    pub(crate) fn check_shared(&mut self, cx: &mut Cx<'_>, touch: Touch, offset: u64) -> bool {
        if self.shared.holds(offset, touch.bytes) {
            return self.check_aligned(cx, touch, offset);
        }
        if self.place.cluster > 1
            && let Some((rank, _)) = of_other(offset)
        {
            self.finding(cx, touch.at(), FindingKind::Undefined, || {
                format!("of the memory of block {rank} of the cluster, arrivals and copies to several blocks are modelled alone")
            });
            return false;
        }
        let size = self.shared.data.len();
        let kind = match generic(offset) {
            Place::Global(address) if address < WINDOW => FindingKind::OutOfBounds,
            _ => FindingKind::WrongSpace,
        };
        self.finding(cx, touch.at(), kind, || format!("{} bytes at byte {offset} of {size} bytes of shared memory", touch.bytes));
        false
    }

    /// Local memory of a lane, as an index into that of its warp.
    pub(crate) fn check_local(&mut self, cx: &mut Cx<'_>, touch: Touch, offset: u64) -> Option<usize> {
        let size = u64::from(cx.entry.local_bytes);
        if offset.checked_add(u64::from(touch.bytes)).is_none_or(|end| end > size) {
            self.finding(cx, touch.at(), FindingKind::OutOfBounds, || format!("byte {offset} of {size} bytes of local memory"));
            return None;
        }
        let fine = self.check_aligned(cx, touch, offset);
        fine.then_some(touch.lane * size as usize + offset as usize)
    }

    /// Bytes of the launch's parameters, as a range of them.
    pub(crate) fn check_param(&mut self, cx: &mut Cx<'_>, touch: Touch, offset: u64) -> Option<Range<usize>> {
        let size = cx.args.len();
        let end = offset.checked_add(u64::from(touch.bytes)).filter(|end| *end <= size as u64);
        if end.is_none() {
            self.finding(cx, touch.at(), FindingKind::OutOfBounds, || format!("byte {offset} of {size} bytes of parameters"));
        }
        end.map(|end| offset as usize..end as usize)
    }
}
