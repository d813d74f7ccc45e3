//! What each agent has seen: vector clocks of the warps and asynchronous agents of a block, and the cells that store the
//! last writer and reader of each 4 bytes. The method is FastTrack's (Flanagan and Freund, PLDI 2009).

use std::collections::BTreeMap;
use std::rc::Rc;

/// The lane of an access by several lanes whose bytes overlap.
pub(crate) const MANY: u8 = 32;
/// The lane of accesses that cannot be told apart any more.
pub(crate) const UNKNOWN: u8 = 33;
/// The lane of a write by copies of threads (`cp.async`) that a phase of an mbarrier brought: the generic proxy's, though its agent is the
/// mbarrier's.
pub(crate) const COPIED: u8 = 34;
/// A clock that is never reached: the access is still under way.
pub(crate) const PENDING: u32 = (1 << 20) - 1;
/// Warps of a block; agents beyond are asynchronous.
pub(crate) const WARPS: usize = 32;
/// The agent of bulk copies.
pub(crate) const BULK: u8 = 32;
/// The agent of `cp.async`.
pub(crate) const COPIES: u8 = 33;
/// Owns the bytes of mbarrier objects.
pub(crate) const MBARRIER_WORD: u8 = 34;
/// The agents of the data that comes with mbarriers.
pub(crate) const FIRST_MBARRIER: u8 = 35;
/// How many there are; beyond it two barriers share one, which hides errors between them.
pub(crate) const MBARRIERS: u32 = 29;
/// Agents in all.
pub(crate) const AGENTS: usize = 64;

/// One access as a cell stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The block, counted from 1 in the order in which blocks start; 0 means never.
    pub(crate) block: u32,
    /// Own clock of the agent, 20 bits used.
    pub(crate) clock: u32,
    pub(crate) agent: u8,
    pub(crate) lane: u8,
    /// Which of the 4 bytes.
    pub(crate) mask: u8,
    /// 0 weak, 1 strong within the block, 2 strong within the device.
    pub(crate) strength: u8,
}

/// A [`Stamp`] in 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed(u64);

impl Stamp {
    #[inline]
    pub(crate) fn pack(self) -> Packed {
        Packed(
            u64::from(self.block & 0x3ff_ffff) << 38
                | u64::from(self.clock & 0xf_ffff) << 18
                | u64::from(self.agent) << 12
                | u64::from(self.lane) << 6
                | u64::from(self.mask) << 2
                | u64::from(self.strength),
        )
    }
}

impl Packed {
    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn unpack(self) -> Stamp {
        Stamp {
            block: (self.0 >> 38) as u32,
            clock: (self.0 >> 18 & 0xf_ffff) as u32,
            agent: (self.0 >> 12 & 0x3f) as u8,
            lane: (self.0 >> 6 & 0x3f) as u8,
            mask: (self.0 >> 2 & 0xf) as u8,
            strength: (self.0 & 3) as u8,
        }
    }
}

/// Last write and last read of 4 bytes of global memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) write: Packed,
    pub(crate) read: Packed,
}

/// What one agent has seen of all agents of its block.
pub(crate) type Vector = [u32; AGENTS];

/// What is known of another block: as of one's own.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) seen: Vector,
    pub(crate) fenced: Vector,
    pub(crate) over: Vector,
}

impl Default for Sight {
    fn default() -> Sight {
        Sight { seen: [0; AGENTS], fenced: [0; AGENTS], over: [0; AGENTS] }
    }
}

impl Sight {
    fn join(&mut self, seen: &Vector, fenced: &Vector, over: &Vector) {
        join_vector(&mut self.seen, seen);
        join_vector(&mut self.fenced, fenced);
        join_vector(&mut self.over, over);
    }
}

/// What is known of other blocks, by the number of the block.
pub(crate) type Foreign = Rc<BTreeMap<u32, Rc<Sight>>>;

/// What a warp knows.
#[derive(Clone, Debug)]
pub(crate) struct Knowledge {
    pub(crate) seen: Vector,
    /// Writes up to these clocks are visible to the asynchronous proxy.
    pub(crate) fenced: Vector,
    /// Reads of shared memory and what bulk copies wrote, up to these clocks, are over, whether or not ordinary stores are seen.
    pub(crate) over: Vector,
    pub(crate) foreign: Foreign,
}

impl Default for Knowledge {
    fn default() -> Knowledge {
        Knowledge { seen: [0; AGENTS], fenced: [0; AGENTS], over: [0; AGENTS], foreign: Rc::default() }
    }
}

fn join_vector(into: &mut Vector, from: &Vector) {
    for (mine, other) in into.iter_mut().zip(from) {
        *mine = (*mine).max(*other);
    }
}

fn join_foreign(into: &mut Foreign, from: &Foreign) {
    if Rc::ptr_eq(into, from) || from.is_empty() {
        return;
    }
    let map = Rc::make_mut(into);
    for (block, sight) in from.iter() {
        let mine = map.entry(*block).or_default();
        if !Rc::ptr_eq(mine, sight) {
            Rc::make_mut(mine).join(&sight.seen, &sight.fenced, &sight.over);
        }
    }
}

impl Knowledge {
    pub(crate) fn join(&mut self, other: &Knowledge) {
        join_vector(&mut self.seen, &other.seen);
        join_vector(&mut self.fenced, &other.fenced);
        join_vector(&mut self.over, &other.over);
        join_foreign(&mut self.foreign, &other.foreign);
    }

    /// `fence.proxy.async`: all that this warp has seen becomes visible to the other proxy.
    pub(crate) fn fence_proxy(&mut self) {
        let seen = self.seen;
        join_vector(&mut self.fenced, &seen);
    }

    /// Whether something that an agent of another block did at this clock comes before.
    pub(crate) fn knows(&self, block: u32, agent: usize, clock: u32) -> bool {
        clock != PENDING && self.foreign.get(&block).is_some_and(|sight| sight.seen[agent] >= clock)
    }

    /// Whether a read of shared memory by an agent of another block, or what a bulk copy wrote there, is over at this clock.
    pub(crate) fn knows_over(&self, block: u32, agent: usize, clock: u32) -> bool {
        clock != PENDING && self.foreign.get(&block).is_some_and(|sight| sight.seen[agent].max(sight.over[agent]) >= clock)
    }

    /// What an order in the scope of a block tells other blocks: what this agent has read is over, and what it wrote is not seen.
    pub(crate) fn narrow(&self) -> Knowledge {
        let mut over = self.over;
        join_vector(&mut over, &self.seen);
        Knowledge { over, ..Knowledge::default() }
    }

    /// Takes in what another block published.
    pub(crate) fn join_published(&mut self, own_block: u32, from: &Published) {
        for (block, knowledge) in from.iter() {
            if *block == own_block {
                join_vector(&mut self.seen, &knowledge.seen);
                join_vector(&mut self.fenced, &knowledge.fenced);
            } else {
                let map = Rc::make_mut(&mut self.foreign);
                Rc::make_mut(map.entry(*block).or_default()).join(&knowledge.seen, &knowledge.fenced, &knowledge.over);
            }
            let mut theirs = Rc::clone(&knowledge.foreign);
            if theirs.contains_key(&own_block) {
                Rc::make_mut(&mut theirs).remove(&own_block);
            }
            join_foreign(&mut self.foreign, &theirs);
        }
    }
}

/// What was released at one address, by block.
pub(crate) type Published = BTreeMap<u32, Knowledge>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_packing() {
        let stamp = Stamp { block: 0x3ff_fffe, clock: 0xf_fffe, agent: 33, lane: 31, mask: 0b1010, strength: 2 };
        assert_eq!(stamp.pack().unpack(), stamp);
        assert!(Stamp::default().pack().is_none());
    }

    #[test]
    fn knowledge_passes_through_other_blocks() {
        let mut first = Knowledge::default();
        first.seen[3] = 7;
        let mut second = Knowledge::default();
        second.join_published(2, &Published::from([(1, first)]));
        let mut third = Knowledge::default();
        third.join_published(3, &Published::from([(2, second)]));
        assert_eq!(third.foreign.get(&1).map(|sight| sight.seen[3]), Some(7));
    }
}
