//! Where the arrays of a block lie in its shared memory: the only formula for it.

use super::{Kernel, Mbarrier, Shared};
use crate::Machine;

/// The shared memory of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first byte of each array, by handle.
    pub offsets: Vec<u64>,
    /// The first byte of each barrier, by handle: behind the arrays.
    pub mbarriers: Vec<u64>,
    /// Bytes of all of it, a multiple of [`Shared::ALIGN`].
    pub bytes: u64,
    /// Bytes to which its start is aligned.
    pub align: u32,
}

/// The arrays of a block one after another, each at the next multiple of its alignment. Of any kernel, a wrong one too.
pub fn layout(kernel: &Kernel) -> Layout {
    let mut layout =
        Layout { offsets: Vec::with_capacity(kernel.shared.len()), mbarriers: Vec::new(), bytes: 0, align: Shared::ALIGN };
    let multiple = |bytes: u64, align: u32| bytes.next_multiple_of(u64::from(align.max(1)));
    for (_, shared) in kernel.shared.iter() {
        let at = multiple(layout.bytes, shared.align);
        layout.offsets.push(at);
        layout.bytes = multiple(at + u64::from(shared.len) * shared.elem.bytes(), Shared::ALIGN);
        layout.align = layout.align.max(shared.align);
    }
    for (_, barrier) in kernel.mbarriers.iter() {
        layout.mbarriers.push(layout.bytes);
        layout.bytes = multiple(layout.bytes + u64::from(barrier.stages) * Mbarrier::BYTES, Shared::ALIGN);
    }
    layout
}

impl Layout {
    /// Bytes that a launch has to ask for: all of them where the machine gives a block less without being asked, else none.
    pub fn dynamic_bytes(&self, machine: &Machine) -> u64 {
        if self.bytes > u64::from(machine.shared_bytes) { self.bytes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::kernel::Builder;

    #[test]
    fn arrays_follow_each_other_at_multiples_of_their_alignments() {
        let k = Builder::new("k", 32);
        k.shared("a", DType::BF16, 3);
        k.shared("b", DType::F32, 5);
        k.shared_aligned("c", DType::BF16, 64, 128);
        k.shared("d", DType::I32, 1);
        k.mbarrier("full", 1, 3);
        k.mbarrier("empty", 1, 2);
        // 6 bytes, 20 from 16 on, 128 from the next multiple of 128 on, 4; 24 and 16 for stages.
        let layout = layout(&k.finish());
        let expected = Layout { offsets: vec![0, 16, 128, 256], mbarriers: vec![272, 304], bytes: 320, align: 128 };
        assert_eq!(layout, expected);
        let machine = |shared_bytes| Machine { shared_bytes, ..crate::machine::MACHINES[0].clone() };
        assert_eq!((layout.dynamic_bytes(&machine(320)), layout.dynamic_bytes(&machine(319))), (0, 320));
    }
}
