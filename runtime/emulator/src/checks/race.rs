//! Whether two accesses are in order, and if not, what that is called.

use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::clocks::{BULK, COPIED, COPIES, MANY, MBARRIER_WORD, PENDING, Packed, Stamp, UNKNOWN, WARPS};
use crate::state::memory::PAGE;
use crate::state::place::Touch;
use crate::state::run::Cx;
use crate::state::shared::{Read, byte_mask};
use crate::types::{Order, Scope};

/// 0 for weak accesses, 1 for strong ones of the block, 2 for wider scopes (PTX ISA 8.7).
pub(crate) fn strength(order: Order, scope: Scope) -> u8 {
    if !order.strong() {
        0
    } else if scope == Scope::Cta {
        1
    } else {
        2
    }
}

fn agent_name(stamp: Stamp) -> String {
    match stamp.agent {
        BULK => "a bulk copy".to_owned(),
        COPIES => "a `cp.async`".to_owned(),
        MBARRIER_WORD => "an mbarrier".to_owned(),
        warp if usize::from(warp) < WARPS => match stamp.lane {
            MANY | UNKNOWN => format!("several lanes of warp {warp}"),
            lane => format!("lane {lane} of warp {warp}"),
        },
        _ => "an asynchronous agent".to_owned(),
    }
}

impl Block {
    /// Whether an earlier access comes before what this lane does now.
    fn conflict(&self, touch: Touch, earlier: Stamp, mask: u8) -> Option<FindingKind> {
        if earlier.mask & mask == 0 {
            return None;
        }
        let both_strong = earlier.strength.min(touch.strength);
        if earlier.block != self.number {
            if both_strong == 2 {
                return None;
            }
            let ordered = self.knowledge[touch.w].knows(earlier.block, usize::from(earlier.agent), earlier.clock);
            return (!ordered).then_some(FindingKind::GlobalRace);
        }
        if earlier.clock == PENDING {
            let object = earlier.agent == MBARRIER_WORD;
            return Some(if object { FindingKind::MbarrierMisuse } else { FindingKind::AsyncPending });
        }
        if both_strong > 0 {
            return None;
        }
        if usize::from(earlier.agent) == touch.w {
            let order = &self.warps[touch.w].order;
            let ordered = match earlier.lane {
                UNKNOWN => true,
                MANY => earlier.clock <= order.full || order.unsure(),
                lane => usize::from(lane) == touch.lane || order.ordered(touch.lane, usize::from(lane), earlier.clock),
            };
            return (!ordered).then_some(FindingKind::LaneRace);
        }
        let ordered = self.knowledge[touch.w].seen[usize::from(earlier.agent)] >= earlier.clock;
        (!ordered).then_some(FindingKind::SharedRace)
    }

    /// Judges an access against the last write of a shared word. `same` says that both write the same value.
    pub(crate) fn judge_shared_write(
        &mut self,
        cx: &mut Cx<'_>,
        touch: Touch,
        word: usize,
        write: Packed,
        mask: u8,
        same: Option<bool>,
    ) -> bool {
        let earlier = write.unpack();
        let Some(kind) = self.conflict(touch, earlier, mask) else { return true };
        // Lanes of one instruction may write the same value to the same place.
        if kind == FindingKind::LaneRace && same == Some(true) {
            return true;
        }
        let what = if same.is_some() { "written" } else { "read" };
        self.finding(cx, touch.at(), kind, || {
            format!("byte {} of shared memory is {what} while {} writes it", word * 4, agent_name(earlier))
        });
        false
    }

    /// Judges a write against all reads of a shared word.
    pub(crate) fn judge_shared_reads(&mut self, cx: &mut Cx<'_>, touch: Touch, word: usize, mask: u8) {
        let own = self.warps.len();
        let mut found: Option<(FindingKind, Read)> = None;
        for read in self.shared.reads_of(word, mask) {
            let reader = usize::from(read.reader);
            if reader < own {
                let earlier = Stamp {
                    block: self.number,
                    clock: read.clock,
                    agent: read.reader,
                    lane: read.lane,
                    mask: read.mask,
                    strength: 0,
                };
                if let Some(kind) = self.conflict(touch, earlier, mask) {
                    found = Some((kind, read));
                    break;
                }
            } else if read.clock == PENDING_READ {
                found = Some((FindingKind::AsyncPending, read));
                break;
            } else if reader < 2 * own {
                // A wgmma of warp `reader - own` that was waited for at that warp's clock.
                let warp = reader - own;
                if warp != touch.w && self.knowledge[touch.w].seen[warp] < read.clock {
                    found = Some((FindingKind::SharedRace, read));
                    break;
                }
            } else {
                let clock = read.clock;
                if self
                    .agents
                    .bulk_readers
                    .get(word)
                    .is_some_and(|&warp| usize::from(warp) != touch.w && self.knowledge[touch.w].seen[usize::from(warp)] < clock)
                {
                    found = Some((FindingKind::SharedRace, read));
                    break;
                }
            }
        }
        let Some((kind, read)) = found else { return };
        self.finding(cx, touch.at(), kind, || {
            let reader = usize::from(read.reader);
            let reader = if reader < own {
                format!("warp {reader}")
            } else if reader < 2 * own {
                format!("a wgmma of warp {}", reader - own)
            } else {
                "a bulk copy".to_owned()
            };
            format!("byte {} of shared memory is written while {reader} reads it", word * 4)
        });
    }

    /// A read of shared bytes by a lane: initialised, and in order with all writes.
    pub(crate) fn note_shared_read(&mut self, cx: &mut Cx<'_>, touch: Touch, at: usize) {
        let bytes = touch.bytes as usize;
        let written = if bytes <= 8 { self.shared.initialised_aligned(at, bytes) } else { self.shared.initialised(at, bytes) };
        let mut clean = true;
        let clock = self.clock(touch.w);
        for word in at / 4..(at + bytes).div_ceil(4) {
            let mask = byte_mask(at, bytes, word);
            let write = self.shared.writes[word];
            if !write.is_none() {
                clean &= self.judge_shared_write(cx, touch, word, write, mask, None);
            }
            let read = Read { reader: touch.w as u8, clock, mask, lane: touch.lane as u8 };
            if touch.strength == 0 {
                self.shared.note_read(word, read);
            }
        }
        // A race explains a missing initialisation better than the other way round.
        if !written && clean {
            self.finding(cx, touch.at(), FindingKind::UninitialisedShared, || format!("byte {at} of shared memory"));
        }
    }

    /// A write of shared bytes by a lane, in order with all earlier accesses.
    pub(crate) fn note_shared_write(&mut self, cx: &mut Cx<'_>, touch: Touch, at: usize, data: Option<&[u8]>) {
        let bytes = touch.bytes as usize;
        for word in at / 4..(at + bytes).div_ceil(4) {
            let mask = byte_mask(at, bytes, word);
            let write: Packed = self.shared.writes[word];
            if !write.is_none() {
                let same = data.map(|data| {
                    let start = at.max(word * 4);
                    let end = (at + bytes).min(word * 4 + 4);
                    self.shared.data[start..end] == data[start - at..end - at]
                });
                self.judge_shared_write(cx, touch, word, write, mask, same);
            }
            self.judge_shared_reads(cx, touch, word, mask);
            let stamp = self.stamp(touch.w, touch.lane, mask, touch.strength);
            self.shared.note_write(word, stamp);
        }
    }

    /// Whether the asynchronous proxy may read a word now; reports why not.
    pub(crate) fn async_read(&mut self, cx: &mut Cx<'_>, touch: Touch, word: usize, mask: u8) -> bool {
        let write = self.shared.writes[word];
        if write.is_none() {
            return true;
        }
        if !self.judge_shared_write(cx, touch, word, write, mask, None) {
            return false;
        }
        let earlier = write.unpack();
        let generic_proxy = usize::from(earlier.agent) < WARPS || earlier.agent == COPIES || earlier.lane == COPIED;
        if generic_proxy && self.knowledge[touch.w].fenced[usize::from(earlier.agent)] < earlier.clock {
            self.finding(cx, touch.at(), FindingKind::MissingProxyFence, || {
                format!(
                    "byte {} of shared memory was written by ordinary stores or copies, with no `fence.proxy.async` since",
                    word * 4
                )
            });
            return false;
        }
        true
    }

    /// A read of global bytes by a lane.
    pub(crate) fn note_global_read(&mut self, cx: &mut Cx<'_>, touch: Touch, index: usize, offset: u64) {
        self.judge_early(cx, touch, (index, offset), false);
        let (launch, chain, bytes) = (cx.launch, cx.chain, touch.bytes as usize);
        let stamp = self.stamp(touch.w, touch.lane, 0, touch.strength);
        let at = (offset % PAGE) as usize;
        let page = cx.memory.at(index).page(offset);
        page.enter(launch, chain);
        let mut found = None;
        for word in at / 4..(at + bytes).div_ceil(4) {
            let mask = byte_mask(at, bytes, word);
            let cell = &mut page.cells[word];
            if !cell.write.is_none() {
                let earlier = cell.write.unpack();
                if let Some(kind) = self.conflict(touch, earlier, mask) {
                    found = Some((kind, earlier));
                }
            }
            fold(&mut cell.read, Stamp { mask, ..stamp });
        }
        if let Some((kind, earlier)) = found {
            self.report_global(cx, touch, (index, offset), (kind, earlier), "read");
        }
    }

    /// A write of global bytes by a lane.
    pub(crate) fn note_global_write(&mut self, cx: &mut Cx<'_>, touch: Touch, index: usize, offset: u64, data: Option<&[u8]>) {
        self.judge_early(cx, touch, (index, offset), true);
        let (launch, chain, bytes) = (cx.launch, cx.chain, touch.bytes as usize);
        let stamp = self.stamp(touch.w, touch.lane, 0, touch.strength);
        let at = (offset % PAGE) as usize;
        let page = cx.memory.at(index).page(offset);
        page.enter(launch, chain);
        let mut found = None;
        for word in at / 4..(at + bytes).div_ceil(4) {
            let mask = byte_mask(at, bytes, word);
            let cell = &mut page.cells[word];
            for (earlier, wrote) in [(cell.write, true), (cell.read, false)] {
                if earlier.is_none() {
                    continue;
                }
                let earlier = earlier.unpack();
                let Some(kind) = self.conflict(touch, earlier, mask) else { continue };
                if kind == FindingKind::LaneRace && wrote {
                    let (start, end) = (at.max(word * 4), (at + bytes).min(word * 4 + 4));
                    if data.is_some_and(|data| page.data[start..end] == data[start - at..end - at]) {
                        continue;
                    }
                }
                found = Some((kind, earlier));
            }
            fold(&mut cell.write, Stamp { mask, ..stamp });
        }
        if let Some((kind, earlier)) = found {
            self.report_global(cx, touch, (index, offset), (kind, earlier), "written");
        }
    }

    fn report_global(
        &mut self,
        cx: &mut Cx<'_>,
        touch: Touch,
        (index, offset): (usize, u64),
        (kind, earlier): (FindingKind, Stamp),
        what: &str,
    ) {
        let kind = if kind == FindingKind::SharedRace { FindingKind::GlobalRace } else { kind };
        let allocation = cx.memory.at(index);
        let place = format!("byte {offset} of `{}`", allocation.name);
        let user = if earlier.block == self.number {
            format!("{} of this block", agent_name(earlier))
        } else {
            let block = cx.numbers.get(earlier.block as usize - 1).copied().unwrap_or_default();
            format!("{} of block ({}, {}, {})", agent_name(earlier), block[0], block[1], block[2])
        };
        self.finding(cx, touch.at(), kind, || format!("{place} is {what} without an order after its use by {user}"));
    }
}

/// The clock of a shared read that is still under way.
pub(crate) const PENDING_READ: u32 = PENDING;

/// Remembers the latest access; lanes of one warp at one time are folded together.
#[inline]
fn fold(into: &mut Packed, stamp: Stamp) {
    let new = stamp.pack();
    if *into == new {
        return;
    }
    let old = into.unpack();
    let same = old.block == stamp.block && old.agent == stamp.agent && old.clock == stamp.clock && !into.is_none();
    *into = if same && (old.lane != stamp.lane || old.mask != stamp.mask) {
        let lane = match (old.lane == stamp.lane, old.mask == stamp.mask) {
            (true, _) => stamp.lane,
            (false, true) if old.lane != UNKNOWN => MANY,
            (false, _) => UNKNOWN,
        };
        Stamp { lane, mask: old.mask | stamp.mask, strength: old.strength.min(stamp.strength), ..stamp }.pack()
    } else {
        new
    };
}
