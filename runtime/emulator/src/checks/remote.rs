//! Whether what other blocks of the cluster do to a block's memory is in order: after the initialisation of the mbarrier, after
//! what the block did with the bytes before, and before the block ends.

use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::clocks::{COPIED, FIRST_MBARRIER, Knowledge, MBARRIER_WORD, PENDING};
use crate::state::cluster::{Landing, Sender};
use crate::state::run::Cx;
use crate::state::shared::byte_mask;

impl Sender {
    /// Something wrong with what it sent.
    pub(crate) fn finding(&self, cx: &mut Cx<'_>, kind: FindingKind, message: impl FnOnce() -> String) {
        cx.report.add(cx.entry, kind, self.block, self.at, message);
    }
}

impl Block {
    /// Whether there is an mbarrier for what came from another block. Of bytes, its initialisation was fenced.
    pub(crate) fn judge_remote_mbarrier(&self, cx: &mut Cx<'_>, from: &Sender, key: u32, bytes: bool) -> bool {
        let Some(found) = self.agents.mbarriers.get(&key) else {
            from.finding(cx, FindingKind::MbarrierMisuse, || {
                format!("there is no mbarrier at byte {key} of the other block's shared memory, or not yet")
            });
            return false;
        };
        let (maker, made) = found.maker();
        if !from.known.knows(self.number, maker, made) {
            from.finding(cx, FindingKind::SharedRace, || {
                format!("the other block's mbarrier at byte {key} is used without an order after its initialisation")
            });
        } else if bytes && from.known.foreign.get(&self.number).is_none_or(|sight| sight.fenced[maker] < made) {
            from.finding(cx, FindingKind::MissingProxyFence, || {
                format!("no fence makes the initialisation of the other block's mbarrier at byte {key} visible to copies")
            });
        }
        true
    }

    /// Whether bytes from another block come after what this block did with those in their place.
    pub(crate) fn judge_remote_write(&mut self, cx: &mut Cx<'_>, from: &Sender, landing: &Landing) {
        let (at, bytes) = (landing.shared, usize::from(landing.bytes));
        let own = self.warps.len();
        let mut found = None;
        for word in at / 4..(at + bytes).div_ceil(4) {
            let mask = byte_mask(at, bytes, word);
            let write = self.shared.writes[word].unpack();
            let by_copies = write.agent >= FIRST_MBARRIER && write.lane != COPIED;
            let knows = if by_copies { Knowledge::knows_over } else { Knowledge::knows };
            if write.mask & mask != 0 && !knows(&from.known, self.number, usize::from(write.agent), write.clock) {
                let kind = match (write.clock, write.agent) {
                    (PENDING, MBARRIER_WORD) => FindingKind::MbarrierMisuse,
                    (PENDING, _) => FindingKind::AsyncPending,
                    _ => FindingKind::SharedRace,
                };
                found = Some((kind, word, "written"));
            }
            for read in self.shared.reads_of(word, mask) {
                let reader = usize::from(read.reader);
                // Products of a warp are read until it has waited, and so are bulk copies until one has.
                let waited = if reader < 2 * own { reader % own } else { usize::from(self.agents.bulk_readers[word]) };
                if !from.known.knows_over(self.number, waited, read.clock) {
                    let pending = read.clock == PENDING;
                    found = Some((if pending { FindingKind::AsyncPending } else { FindingKind::SharedRace }, word, "read"));
                }
            }
        }
        if let Some((kind, word, what)) = found {
            from.finding(cx, kind, || {
                format!("byte {} of the other block's shared memory is {what} there without an order before this copy", word * 4)
            });
        }
    }

    /// Whether all that came from other blocks is in order before the end of this one.
    pub(crate) fn judge_end(&mut self, cx: &mut Cx<'_>) {
        let knows = |from: &Sender| {
            let (warp, number) = (from.at.w, from.number);
            self.knowledge.iter().any(|known| known.knows_over(number, warp, from.known.seen[warp]))
        };
        let met = self.agents.met.values().filter(|from| !knows(from));
        let landed = self
            .agents
            .landed
            .iter()
            .filter(|(agent, (clock, _))| !self.knowledge.iter().any(|known| known.seen[usize::from(**agent)] >= *clock));
        for from in met.chain(landed.map(|(_, (_, from))| from)) {
            from.finding(cx, FindingKind::BlockEnded, || {
                let [x, y, z] = self.place.block;
                format!("block ({x}, {y}, {z}) ends without an order after this")
            });
        }
    }
}
