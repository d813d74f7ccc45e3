//! How pairs are sorted on a machine, and what of it is done one after another.

use std::fmt;

use super::ROUTE_TOKENS;
use crate::Machine;

/// How the pairs of a batch are put in the order of the grouped rows. All ways give the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sorting {
    /// Three launches: blocks count, one adds up, blocks place.
    Spread,
    /// One launch of one block.
    Block,
    /// No launch of its own: one block routes all tokens, and then sorts their pairs.
    Routed,
    /// Nor here: the blocks of one cluster route all tokens, and the first of them sorts. Their logits round in another order.
    Cluster,
}

impl fmt::Display for Sorting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sorting::Spread => "sort(spread)",
            Sorting::Block => "sort(block)",
            Sorting::Routed => "sort(routed)",
            Sorting::Cluster => "sort(cluster)",
        })
    }
}

impl Sorting {
    /// Every one, the one for large batches first.
    pub const ALL: [Sorting; 4] = [Sorting::Spread, Sorting::Block, Sorting::Routed, Sorting::Cluster];

    /// Whether the kernel that routes sorts too.
    pub fn routes(self) -> bool {
        match self {
            Sorting::Spread | Sorting::Block => false,
            Sorting::Routed | Sorting::Cluster => true,
        }
    }

    /// Launches that it takes.
    pub fn launches(self) -> u64 {
        match self {
            Sorting::Spread => 3,
            Sorting::Block => 1,
            Sorting::Routed | Sorting::Cluster => 0,
        }
    }

    /// Processors that route so many tokens before it: where blocks share nothing, each has [some](ROUTE_TOKENS).
    pub fn routers(self, tokens: u64, machine: &Machine) -> u64 {
        match self {
            Sorting::Spread | Sorting::Block => {
                tokens.div_ceil(ROUTE_TOKENS.into()).clamp(1, u64::from(machine.processors).max(1))
            }
            Sorting::Routed => 1,
            Sorting::Cluster => u64::from(machine.cluster_blocks),
        }
    }

    /// Blocks that share the elements along H.
    pub fn sharing(self, machine: &Machine) -> u32 {
        match self {
            Sorting::Spread | Sorting::Block | Sorting::Routed => 1,
            Sorting::Cluster => machine.cluster_blocks,
        }
    }

    /// Whether the machine has it, and a block the shared memory for it, for so many experts. One that routes too must leave half of the
    /// most to that.
    pub fn fits(self, experts: u64, machine: &Machine) -> bool {
        let most = match self {
            Sorting::Spread | Sorting::Block => u64::from(machine.shared_bytes),
            Sorting::Routed | Sorting::Cluster => u64::from(machine.shared_optin_bytes) / 2,
        };
        let has = self != Sorting::Cluster || machine.cluster_blocks > 1;
        has && self.shared_bytes(experts, machine) <= most
    }

    /// Shared memory of the block that needs most, for so many experts: where each gives out rows, by [warp](rank_warps), and the
    /// chunk's pairs.
    pub fn shared_bytes(self, experts: u64, machine: &Machine) -> u64 {
        let of_expert = match self {
            Sorting::Spread => 1,
            Sorting::Block | Sorting::Routed | Sorting::Cluster => 2,
        };
        let warps = u64::from(rank_warps(experts, machine));
        // Arrays start at multiples of 16 bytes. The sums of the warps are in the place of a warp's pairs.
        4 * (of_expert * experts.next_multiple_of(4) + (warps * experts).next_multiple_of(4) + ranked_items(machine))
    }

    /// Picoseconds of what is done one after another for so many pairs of so many experts, in steps of which each reads from shared
    /// memory what the one before has left there, or exchanges values between lanes.
    ///
    /// Where a block has threads, a chunk takes steps of its strips of 32 pairs, which warps share, and some more: a strip reads its
    /// experts, reads their next places when the strip before has stored these, and votes. Then the counts of the warps are added up,
    /// each item reads its place and that of its warp, and threads wait for each other between. In the end the rows of the experts are
    /// added up across lanes and warps. The blocks of a cluster meet twice. Of three launches the one between adds up the counts of the chunks. One thread alone
    /// goes through the pairs.
    pub fn serial_ps(self, pairs: u64, experts: u64, machine: &Machine) -> u64 {
        let chunk = u64::from(chunk_items(machine));
        let of_chunk = |pairs: u64| {
            let strips = pairs.div_ceil(u64::from(machine.warp_lanes * rank_warps(experts, machine)));
            if machine.has_threads() { strips.saturating_mul(STRIP_STEPS).saturating_add(CHUNK_STEPS) } else { pairs }
        };
        let end = if machine.has_threads() { SCAN_STEPS } else { 0 };
        let (whole, rest) = (pairs / chunk, pairs % chunk);
        let steps = match self {
            Sorting::Spread => {
                let chunks = pairs.div_ceil(chunk);
                let in_turn = chunks.div_ceil(u64::from(machine.processors).max(1));
                in_turn.saturating_mul(of_chunk(chunk.min(pairs))).saturating_add(chunks).saturating_add(end)
            }
            Sorting::Block | Sorting::Routed | Sorting::Cluster => {
                let meet = if self == Sorting::Cluster { 2 * MEETING_STEPS } else { 0 };
                let end = end + meet;
                let rest = if rest > 0 { of_chunk(rest) } else { 0 };
                whole.saturating_mul(of_chunk(chunk)).saturating_add(rest).saturating_add(end)
            }
        };
        steps.saturating_mul(machine.step_ps)
    }
}

/// Steps of a strip of a chunk: see [`Sorting::serial_ps`].
const STRIP_STEPS: u64 = 3;

/// Steps of a chunk beside those of its strips: two of counts, two of places, and four times threads wait for each other.
const CHUNK_STEPS: u64 = 8;

/// Steps in which the rows of all experts are added up: five across lanes, and some across warps.
const SCAN_STEPS: u64 = 10;

/// Steps in which the blocks of a cluster wait for each other and see what they have stored in the second cache: some 0.6 us (assumed).
pub(super) const MEETING_STEPS: u64 = 40;

/// Warps of a block that find the places of a chunk's items together, where the items have numbers below this: a power of two, each of
/// them with counts of its own in shared memory.
pub fn rank_warps(numbers: u64, machine: &Machine) -> u32 {
    let fits = |warps: &u32| 4 * ((u64::from(*warps) + 2) * numbers.next_multiple_of(4) + ranked_items(machine));
    let most = machine.block_threads.min(256) / machine.warp_lanes;
    (0..=most.ilog2()).rev().map(|power| 1 << power).find(|warps| fits(warps) <= u64::from(machine.shared_bytes)).unwrap_or(1)
}

/// Numbers and places of a chunk's items, and sums of the warps.
fn ranked_items(machine: &Machine) -> u64 {
    2 * u64::from(chunk_items(machine)) + if machine.has_threads() { 32 } else { 0 }
}

/// Most items of a chunk of a sort: on a GPU enough blocks to share the work, on the host what stays in the first-level cache.
pub fn chunk_items(machine: &Machine) -> u32 {
    if machine.has_threads() { 1024 } else { 4096 }
}
