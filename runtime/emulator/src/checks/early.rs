//! Launches that begin before those before them have ended (PTX ISA 9.7.13.13): what a thread does before `griddepcontrol.wait`
//! is held against all that these launches did, whenever they did it. By words of 4 bytes.

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::memory::PAGE;
use crate::state::place::{Place, Touch, generic};
use crate::state::run::Cx;

impl Block {
    /// Judges an access to global bytes.
    #[inline]
    pub(crate) fn judge_early(&mut self, cx: &mut Cx<'_>, touch: Touch, (index, offset): (usize, u64), writes: bool) {
        if self.warps[touch.w].waited >> touch.lane & 1 == 1 {
            return;
        }
        let (launch, chain) = (cx.launch, cx.chain);
        let page = cx.memory.at(index).page(offset);
        page.enter(launch, chain);
        let at = (offset % PAGE) as usize;
        let words = at / 4..(at + touch.bytes as usize).div_ceil(4);
        let used = words.filter_map(|word| page.before.get(word));
        if used.into_iter().any(|used| used.written || writes && used.read) {
            let place = format!("byte {offset} of `{}`", cx.memory.at(index).name);
            let (what, theirs) = if writes { ("written", "uses") } else { ("read", "writes") };
            self.finding(cx, touch.at(), FindingKind::EarlyAccess, || {
                format!("{place} is {what} before `griddepcontrol.wait`, and a launch before this one {theirs} it")
            });
        }
    }

    /// Judges an access that is made later, by a copy that a lane starts now.
    pub(crate) fn judge_early_copy(&mut self, cx: &mut Cx<'_>, touch: Touch, address: u64, writes: bool) {
        // What is not in memory is reported when it is touched.
        if let Some(index) = cx.memory.locate(address).filter(|index| cx.memory.inside(*index, address, touch.bytes))
            && matches!(generic(address), Place::Global(_))
        {
            let offset = address - cx.memory.at(index).base;
            self.judge_early(cx, touch, (index, offset), writes);
        }
    }

    /// Threads end. Launches behind this one wait for it alone, so it has to have waited for those before it.
    pub(crate) fn check_waited(&mut self, cx: &mut Cx<'_>, at: At) {
        let never = at.mask & !self.warps[at.w].waited;
        if never != 0 {
            self.finding(cx, at.of(never), FindingKind::EarlyAccess, || {
                "these threads of an early launch end without `griddepcontrol.wait`, so that launches behind it do not wait for \
                 those before it"
                    .to_owned()
            });
        }
    }
}
