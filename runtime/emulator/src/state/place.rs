//! Where something happens: addresses and what they mean, and which lanes of which warp at which instruction.

use crate::findings::at::At;

/// Generic addresses of the windows; buffers lie below all of them.
pub(crate) const SHARED_WINDOW: u64 = 0x7400_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x7500_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x7600_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 1 << 32;

/// Addresses of shared memory have the rank of another block of the cluster, plus one, from this bit on.
const RANK: u32 = 27;

/// The address of a byte of shared memory in another block of the cluster.
pub(crate) fn in_other(address: u64, rank: u32) -> u64 {
    address + (u64::from(rank + 1) << RANK)
}

/// The rank of the other block whose shared memory an address means, and the offset there.
pub(crate) fn of_other(address: u64) -> Option<(u32, u64)> {
    let offset = match generic(address) {
        Place::Shared(offset) => offset,
        Place::Global(address) if address < WINDOW => address,
        Place::Global(_) | Place::Local(_) | Place::Param(_) => return None,
    };
    let rank = ((offset >> RANK) as u32).checked_sub(1)?;
    Some((rank, offset & ((1 << RANK) - 1)))
}

/// A place that an address was found to mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Global(u64),
    Shared(u64),
    Local(u64),
    Param(u64),
}

/// Where a generic address points (PTX ISA 5.1.8).
pub(crate) fn generic(address: u64) -> Place {
    for (window, place) in
        [(SHARED_WINDOW, Place::Shared as fn(u64) -> Place), (LOCAL_WINDOW, Place::Local), (PARAM_WINDOW, Place::Param)]
    {
        if (window..window + WINDOW).contains(&address) {
            return place(address - window);
        }
    }
    Place::Global(address)
}

/// What is being done to memory by one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    pub(crate) w: usize,
    pub(crate) lane: usize,
    pub(crate) pc: u32,
    pub(crate) bytes: u32,
    pub(crate) strength: u8,
}

impl Touch {
    /// The lane at its instruction.
    pub(crate) fn at(self) -> At {
        At { w: self.w, mask: 1 << self.lane, pc: self.pc }
    }
}
