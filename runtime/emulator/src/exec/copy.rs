//! `cp.async`: copies of 4, 8 or 16 bytes from global to shared memory that a lane waits for (PTX ISA 9.7.9.25.3).

use crate::exec::access::{Tally, wavefronts};
use crate::findings::at::At;
use crate::state::block::Block;
use crate::state::clocks::{COPIED, COPIES, PENDING, Stamp};
use crate::state::in_flight::{Arrival, Copied, Incoming};
use crate::state::place::{Place, Touch};
use crate::state::run::Cx;
use crate::state::warp::lanes;
use crate::text::ins::{Addr, Pred, Reg};

impl Block {
    pub(crate) fn copy_async(
        &mut self,
        cx: &mut Cx<'_>,
        at: At,
        (dst, src): (Addr, Addr),
        bytes: u8,
        src_bytes: Option<Reg>,
        ignore: Option<Pred>,
    ) {
        let At { w, mask, pc } = at;
        let targets = self.addresses(cx, at, dst);
        let sources = self.addresses(cx, at, src);
        if let Some(reg) = src_bytes {
            self.warps[w].need(reg, mask);
        }
        let ignored = ignore.map_or(0, |pred| self.warps[w].pred(pred, mask));
        let mut hint = usize::MAX;
        let mut tally = Tally::default();
        for lane in lanes(mask) {
            let wanted = match src_bytes {
                Some(reg) => (self.warps[w].lane(reg, lane) as u32).min(u32::from(bytes)),
                None if ignored >> lane & 1 == 1 => 0,
                None => u32::from(bytes),
            };
            let touch = Touch { w, lane, pc, bytes: u32::from(bytes), strength: 0 };
            if !self.check_shared(cx, touch, targets[lane]) {
                continue;
            }
            let at = targets[lane] as usize;
            let mut data = [0; 16];
            if wanted > 0 {
                tally.add(Place::Global(sources[lane]), lane);
            }
            if wanted == u32::from(bytes) {
                let mut out = [0; 32];
                self.read_place(cx, touch, Place::Global(sources[lane]), &mut hint, &mut out);
                data.copy_from_slice(&out[..16]);
            } else {
                // What is cut off is never read: it may lie outside the buffer.
                for byte in 0..wanted {
                    let mut out = [0; 32];
                    let one = Touch { bytes: 1, ..touch };
                    self.read_place(cx, one, Place::Global(sources[lane].wrapping_add(u64::from(byte))), &mut hint, &mut out);
                    data[byte as usize] = out[0];
                }
            }
            self.note_shared_write(cx, touch, at, None);
            self.stamp_words(at, usize::from(bytes), COPIES, PENDING, lane as u8);
            let group = self.agents.copy_groups[w][lane];
            self.agents.copies[w].push(Copied { lane: lane as u8, at, bytes, data, group });
            cx.counters.copy_bytes += u64::from(wanted);
        }
        tally.count(cx, u32::from(bytes), true, hint);
        let (targets, lanes): (Vec<u64>, Vec<u8>) = lanes(mask).map(|lane| (targets[lane], lane as u8)).unzip();
        let (passes, needed) = wavefronts(&targets, &lanes, bytes.into());
        cx.counters.wavefronts += passes;
        cx.counters.wavefronts_needed += needed;
    }

    /// Makes an agent the last writer of a range.
    pub(crate) fn stamp_words(&mut self, at: usize, bytes: usize, agent: u8, clock: u32, lane: u8) {
        let stamp = Stamp { block: self.number, clock, agent, lane, mask: 0xf, strength: 0 };
        for word in at / 4..(at + bytes).div_ceil(4) {
            self.shared.writes[word] = stamp.pack();
        }
    }

    fn land(&mut self, copy: &Copied) {
        let (at, bytes) = (copy.at, usize::from(copy.bytes));
        self.shared.data[at..at + bytes].copy_from_slice(&copy.data[..bytes]);
        self.shared.set_initialised(at, bytes);
    }

    /// Waits until at most `left` groups are under way; without a number, until nothing is.
    pub(crate) fn copy_wait(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, left: Option<Reg>) {
        let mut done = [0_u32; 32];
        for lane in lanes(mask) {
            let committed = &mut self.agents.copy_groups[w][lane];
            done[lane] = match left {
                Some(reg) => committed.saturating_sub(self.warps[w].regs[reg as usize][lane] as u32),
                None => {
                    *committed += 1;
                    *committed
                }
            };
        }
        let copies = std::mem::take(&mut self.agents.copies[w]);
        let clock = self.clock(w);
        let mut rest = Vec::new();
        for copy in copies {
            if mask >> copy.lane & 1 == 1 && copy.group < done[usize::from(copy.lane)] {
                self.land(&copy);
                self.stamp_words(copy.at, usize::from(copy.bytes), w as u8, clock, copy.lane);
                cx.progress += 1;
            } else {
                rest.push(copy);
            }
        }
        self.agents.copies[w] = rest;
    }

    /// Lets an mbarrier know when all copies so far of these lanes have landed.
    pub(crate) fn copy_arrive(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr, noinc: bool) {
        let At { w, mask, pc } = at;
        let addresses = self.addresses(cx, at, addr);
        for lane in lanes(mask) {
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            if !noinc {
                self.mbarrier_expect_one_more(key);
            }
            let copies = std::mem::take(&mut self.agents.copies[w]);
            let (mine, others) = copies.into_iter().partition(|copy| usize::from(copy.lane) == lane);
            self.agents.copies[w] = others;
            let incoming = Incoming::Copies(mine);
            self.agents.arrivals.push(Arrival { warp: w, lane, pc, mbarrier: key, incoming, spread: None });
        }
    }

    /// Copies that were bound to an mbarrier land: a thread that sees its phase complete sees them.
    pub(crate) fn land_all(&mut self, copies: &[Copied], agent: u8, clock: u32) {
        for copy in copies {
            self.land(copy);
            self.stamp_words(copy.at, usize::from(copy.bytes), agent, clock, COPIED);
        }
    }
}
