//! mbarrier objects: arrivals, expected bytes and phases (PTX ISA 9.7.13.15).

use crate::exec::access::{Place, Touch, generic};
use crate::exec::block::Block;
use crate::findings::finding::FindingKind;
use crate::launch::Cx;
use crate::state::clocks::{FIRST_MBARRIER, Knowledge, MBARRIER_WORD, MBARRIERS, PENDING};
use crate::state::warp::lanes;
use crate::text::ins::{Addr, Arrive, MbarrierTest, Reg};

/// Arrivals that one phase can expect (PTX ISA 9.7.13.15.2).
const COUNT_LIMIT: i64 = (1 << 20) - 1;

/// The state of one mbarrier.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    /// Arrivals that the next phase expects.
    expected: i64,
    /// Arrivals that this phase still misses.
    pending: i64,
    /// Bytes that this phase still misses.
    bytes: i64,
    phase: u32,
    /// What the threads that arrived in this phase had seen.
    joined: Knowledge,
    /// What is seen through the phases that are complete.
    complete: Knowledge,
    /// Stands for the data that comes with this barrier's phases.
    pub(crate) agent: u8,
    /// The warp that made it, and its clock then.
    maker: usize,
    made: u32,
}

impl Mbarrier {
    fn settle(&mut self) -> bool {
        let done = self.pending == 0 && self.bytes == 0;
        if done {
            self.phase += 1;
            self.pending = self.expected;
            let joined = std::mem::take(&mut self.joined);
            self.complete.join(&joined);
        }
        done
    }

    fn token(&self) -> u64 {
        (self.pending.max(0) as u64) << 32 | u64::from(self.phase)
    }
}

impl Block {
    /// The place of an mbarrier, or a report of why there is none.
    fn mbarrier_place(&mut self, cx: &mut Cx<'_>, w: usize, lane: usize, pc: u32, address: u64) -> Option<u32> {
        let offset = match generic(address) {
            Place::Shared(offset) => offset,
            _ => address,
        };
        let touch = Touch { w, lane, pc, bytes: 8, strength: 0 };
        self.check_shared(cx, touch, offset).then_some(offset as u32)
    }

    /// An mbarrier that exists and whose making comes before.
    pub(crate) fn mbarrier_at(&mut self, cx: &mut Cx<'_>, w: usize, lane: usize, pc: u32, address: u64) -> Option<u32> {
        let key = self.mbarrier_place(cx, w, lane, pc, address)?;
        let Some(found) = self.agents.mbarriers.get(&key) else {
            self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                format!("there is no mbarrier at byte {key} of shared memory")
            });
            return None;
        };
        let (maker, made) = (found.maker, found.made);
        if maker != w && self.knowledge[w].seen[maker] < made {
            self.finding(cx, w, pc, 1 << lane, FindingKind::SharedRace, || {
                format!("the mbarrier at byte {key} is used without an order after its initialisation by warp {maker}")
            });
        }
        Some(key)
    }

    /// Whether an asynchronous copy of this warp may count on an mbarrier.
    pub(crate) fn mbarrier_fenced(&self, w: usize, key: u32) -> bool {
        self.agents.mbarriers.get(&key).is_none_or(|found| self.knowledge[w].fenced[found.maker] >= found.made)
    }

    pub(crate) fn mbarrier_adjust(&mut self, key: u32, by: i64) {
        if let Some(found) = self.agents.mbarriers.get_mut(&key) {
            found.pending += by;
        }
    }

    pub(crate) fn mbarrier_init(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, pc: u32, addr: Addr, count: Reg) {
        let addresses = self.addresses(cx, w, mask, pc, addr);
        self.warps[w].need(count, mask);
        for lane in lanes(mask) {
            let expected = i64::from(self.warps[w].lane(count, lane) as u32);
            let Some(key) = self.mbarrier_place(cx, w, lane, pc, addresses[lane]) else { continue };
            if !(1..=COUNT_LIMIT).contains(&expected) {
                self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                    format!("an mbarrier cannot expect {expected} arrivals")
                });
            }
            if self.agents.mbarriers.contains_key(&key) {
                self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                    format!("the mbarrier at byte {key} is initialised while it is in use")
                });
            } else {
                let touch = Touch { w, lane, pc, bytes: 8, strength: 0 };
                self.note_shared_write(cx, touch, key as usize, None);
            }
            let agent = FIRST_MBARRIER + (self.agents.mbarriers_made % MBARRIERS) as u8;
            self.agents.mbarriers_made += 1;
            let made = self.clock(w);
            let (joined, complete) = (Knowledge::default(), Knowledge::default());
            let mbarrier = Mbarrier { expected, pending: expected, bytes: 0, phase: 0, joined, complete, agent, maker: w, made };
            self.agents.mbarriers.insert(key, mbarrier);
            // Ordinary instructions that touch these bytes are reported.
            self.shared.forget(key as usize, 8);
            self.shared.set_initialised(key as usize, 8);
            self.stamp_words(key as usize, 8, MBARRIER_WORD, PENDING, 0);
            cx.progress += 1;
        }
        // The next phase of this warp comes after the initialisation: a fence can tell them apart.
        self.tick(w);
    }

    pub(crate) fn mbarrier_invalidate(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, pc: u32, addr: Addr) {
        let addresses = self.addresses(cx, w, mask, pc, addr);
        for lane in lanes(mask) {
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            self.agents.mbarriers.remove(&key);
            self.stamp_words(key as usize, 8, w as u8, self.clock(w), lane as u8);
            cx.progress += 1;
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn mbarrier_arrive(
        &mut self,
        cx: &mut Cx<'_>,
        w: usize,
        mask: u32,
        pc: u32,
        how: Arrive,
        addr: Addr,
        count: Option<Reg>,
        d: Reg,
    ) {
        let addresses = self.addresses(cx, w, mask, pc, addr);
        if let Some(count) = count {
            self.warps[w].need(count, mask);
        }
        for lane in lanes(mask) {
            let number = count.map_or(1, |reg| i64::from(self.warps[w].lane(reg, lane) as u32));
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            let known = self.knowledge[w].clone();
            let Some(found) = self.agents.mbarriers.get_mut(&key) else { continue };
            let token = found.token();
            found.joined.join(&known);
            let arrivals = match how {
                Arrive::ExpectTx => {
                    found.bytes += number;
                    1
                }
                Arrive::Drop => {
                    found.expected -= number;
                    number
                }
                Arrive::Plain | Arrive::NoComplete => number,
            };
            found.pending -= arrivals;
            let over = found.pending < 0;
            let completed = !over && found.settle();
            cx.counters.mbarrier_arrivals += 1;
            cx.progress += 1;
            self.warps[w].set_lane(d, lane, token);
            if over {
                self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                    format!("more arrivals at the mbarrier at byte {key} than its phase expects")
                });
                cx.report.stop();
            } else if completed && how == Arrive::NoComplete {
                self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                    "`.noComplete` completed the phase".to_owned()
                });
            }
        }
        self.warps[w].wrote(d, mask);
        self.tick(w);
    }

    /// `expect_tx` (sign 1) and `complete_tx` (sign -1).
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn mbarrier_expect(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, pc: u32, addr: Addr, bytes: Reg, sign: i64) {
        let addresses = self.addresses(cx, w, mask, pc, addr);
        self.warps[w].need(bytes, mask);
        for lane in lanes(mask) {
            let number = sign * i64::from(self.warps[w].lane(bytes, lane) as u32);
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            self.mbarrier_bytes(cx, w, lane, pc, key, number);
        }
    }

    /// Adds to the bytes that a phase waits for, or takes from them.
    pub(crate) fn mbarrier_bytes(&mut self, cx: &mut Cx<'_>, w: usize, lane: usize, pc: u32, key: u32, number: i64) {
        let Some(found) = self.agents.mbarriers.get_mut(&key) else { return };
        found.bytes += number;
        let bytes = found.bytes;
        cx.progress += 1;
        if bytes.abs() > COUNT_LIMIT {
            self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                format!("the mbarrier at byte {key} counts {bytes} bytes, more than 2^20 - 1")
            });
        } else if number < 0 {
            found.settle();
        }
    }

    /// What came with an mbarrier's phase is visible to a thread that sees the phase complete. Returns agent and clock.
    pub(crate) fn mbarrier_data(&mut self, key: u32) -> Option<(u8, u32)> {
        let found = self.agents.mbarriers.get_mut(&key)?;
        let agent = found.agent;
        let clock = found.joined.seen[usize::from(agent)].max(found.complete.seen[usize::from(agent)]) + 1;
        let clock = clock.min(PENDING - 1);
        found.joined.seen[usize::from(agent)] = clock;
        Some((agent, clock))
    }

    /// One arrival from an asynchronous agent.
    pub(crate) fn mbarrier_agent_arrives(&mut self, cx: &mut Cx<'_>, w: usize, lane: usize, pc: u32, key: u32) {
        let known = self.knowledge[w].clone();
        let Some(found) = self.agents.mbarriers.get_mut(&key) else { return };
        found.joined.join(&known);
        found.pending -= 1;
        let over = found.pending < 0;
        if !over {
            found.settle();
        }
        cx.counters.mbarrier_arrivals += 1;
        cx.progress += 1;
        if over {
            self.finding(cx, w, pc, 1 << lane, FindingKind::MbarrierMisuse, || {
                format!("more arrivals at the mbarrier at byte {key} than its phase expects")
            });
            cx.report.stop();
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn mbarrier_test(
        &mut self,
        cx: &mut Cx<'_>,
        w: usize,
        mask: u32,
        pc: u32,
        addr: Addr,
        test: MbarrierTest,
        p: Reg,
    ) {
        let addresses = self.addresses(cx, w, mask, pc, addr);
        let (MbarrierTest::Parity(reg) | MbarrierTest::State(reg)) = test;
        self.warps[w].need(reg, mask);
        let mut holds = 0;
        let mut last = None;
        for lane in lanes(mask) {
            let value = self.warps[w].lane(reg, lane);
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            let Some(found) = self.agents.mbarriers.get(&key) else { continue };
            let complete = match test {
                // True once the phase of this parity is over: the current one then has the other parity.
                MbarrierTest::Parity(_) => u64::from(found.phase & 1) != value & 1,
                MbarrierTest::State(_) => found.phase != value as u32,
            };
            if complete {
                holds |= 1 << lane;
                if last != Some(key) {
                    let learnt = found.complete.clone();
                    self.knowledge[w].join(&learnt);
                    last = Some(key);
                }
            }
        }
        self.warps[w].set_pred(p, mask, holds);
    }
}
