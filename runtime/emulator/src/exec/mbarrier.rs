//! mbarrier objects: arrivals, expected bytes and phases (PTX ISA 9.7.13.15).

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::clocks::{FIRST_MBARRIER, MBARRIER_WORD, MBARRIERS, PENDING, Published};
use crate::state::cluster::Sent;
use crate::state::mbarrier::{Arrived, Mbarrier};
use crate::state::place::{Place, Touch, generic, of_other};
use crate::state::run::Cx;
use crate::state::warp::lanes;
use crate::text::ins::{Addr, Arrive, MbarrierTest, Reach, Reg};

/// Arrivals that one phase can expect (PTX ISA 9.7.13.15.2).
const COUNT_LIMIT: i64 = (1 << 20) - 1;

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
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::MbarrierMisuse, || {
                format!("there is no mbarrier at byte {key} of shared memory")
            });
            return None;
        };
        let (maker, made) = found.maker();
        if maker != w && self.knowledge[w].seen[maker] < made {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::SharedRace, || {
                format!("the mbarrier at byte {key} is used without an order after its initialisation by warp {maker}")
            });
        }
        Some(key)
    }

    /// Whether an asynchronous copy of this warp may count on an mbarrier.
    pub(crate) fn mbarrier_fenced(&self, w: usize, key: u32) -> bool {
        let is_fenced = |(maker, made): (usize, u32)| self.knowledge[w].fenced[maker] >= made;
        self.agents.mbarriers.get(&key).is_none_or(|found| is_fenced(found.maker()))
    }

    /// One more arrival is expected in this phase.
    pub(crate) fn mbarrier_expect_one_more(&mut self, key: u32) {
        if let Some(found) = self.agents.mbarriers.get_mut(&key) {
            found.expect_one_more();
        }
    }

    pub(crate) fn mbarrier_init(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr, count: Reg) {
        let At { w, mask, pc } = at;
        let addresses = self.addresses(cx, at, addr);
        self.warps[w].need(count, mask);
        for lane in lanes(mask) {
            let expected = i64::from(self.warps[w].lane(count, lane) as u32);
            let Some(key) = self.mbarrier_place(cx, w, lane, pc, addresses[lane]) else { continue };
            if !(1..=COUNT_LIMIT).contains(&expected) {
                self.finding(cx, at.lane(lane), FindingKind::MbarrierMisuse, || {
                    format!("an mbarrier cannot expect {expected} arrivals")
                });
            }
            if self.agents.mbarriers.contains_key(&key) {
                self.finding(cx, at.lane(lane), FindingKind::MbarrierMisuse, || {
                    format!("the mbarrier at byte {key} is initialised while it is in use")
                });
            } else {
                let touch = Touch { w, lane, pc, bytes: 8, strength: 0 };
                self.note_shared_write(cx, touch, key as usize, None);
            }
            let agent = FIRST_MBARRIER + (self.agents.mbarriers_made % MBARRIERS) as u8;
            self.agents.mbarriers_made += 1;
            let made = self.clock(w);
            let mbarrier = Mbarrier::new(expected, agent, (w, made));
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

    pub(crate) fn mbarrier_invalidate(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr) {
        let At { w, mask, pc } = at;
        let addresses = self.addresses(cx, at, addr);
        for lane in lanes(mask) {
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            self.agents.mbarriers.remove(&key);
            self.stamp_words(key as usize, 8, w as u8, self.clock(w), lane as u8);
            cx.progress += 1;
        }
    }

    pub(crate) fn mbarrier_arrive(
        &mut self,
        cx: &mut Cx<'_>,
        at: At,
        how: (Arrive, Reach),
        addr: Addr,
        count: Option<Reg>,
        d: Reg,
    ) {
        let At { w, mask, pc } = at;
        let (how, reach) = how;
        let addresses = self.addresses(cx, at, addr);
        if let Some(count) = count {
            self.warps[w].need(count, mask);
        }
        for lane in lanes(mask) {
            let number = count.map_or(1, |reg| i64::from(self.warps[w].lane(reg, lane) as u32));
            if let (true, Some((rank, offset))) = (reach.cluster, of_other(addresses[lane])) {
                self.arrive_far(cx, at.lane(lane), (rank, offset), Sent::Arrival { how, number, tells: reach.wide });
                continue;
            }
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, addresses[lane]) else { continue };
            let known = self.knowledge[w].clone();
            let Some(found) = self.agents.mbarriers.get_mut(&key) else { continue };
            found.learn(&known);
            let Arrived { token, is_over, completes } = found.arrive(how, number);
            cx.counters.mbarrier_arrivals += 1;
            cx.progress += 1;
            self.warps[w].set_lane(d, lane, token);
            if is_over {
                self.finding(cx, at.lane(lane), FindingKind::MbarrierMisuse, || {
                    format!("more arrivals at the mbarrier at byte {key} than its phase expects")
                });
                cx.report.stop();
            } else if completes && how == Arrive::NoComplete {
                self.finding(cx, at.lane(lane), FindingKind::MbarrierMisuse, || "`.noComplete` completed the phase".to_owned());
            }
        }
        self.warps[w].wrote(d, mask);
        self.tick(w);
    }

    /// `expect_tx` (sign 1) and `complete_tx` (sign -1).
    pub(crate) fn mbarrier_expect(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr, bytes: Reg, sign: i64) {
        let At { w, mask, pc } = at;
        let addresses = self.addresses(cx, at, addr);
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
        let bytes = found.add_bytes(number, COUNT_LIMIT);
        cx.progress += 1;
        if bytes.abs() > COUNT_LIMIT {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::MbarrierMisuse, || {
                format!("the mbarrier at byte {key} counts {bytes} bytes, more than 2^20 - 1")
            });
        }
    }

    /// What came with an mbarrier's phase is visible to a thread that sees the phase complete. Returns agent and clock.
    pub(crate) fn mbarrier_data(&mut self, key: u32) -> Option<(u8, u32)> {
        self.agents.mbarriers.get_mut(&key).map(Mbarrier::next_data)
    }

    /// One arrival from an asynchronous agent.
    pub(crate) fn mbarrier_agent_arrives(&mut self, cx: &mut Cx<'_>, w: usize, lane: usize, pc: u32, key: u32) {
        let known = self.knowledge[w].clone();
        let Some(found) = self.agents.mbarriers.get_mut(&key) else { return };
        found.learn(&known);
        let arrived = found.arrive(Arrive::Plain, 1);
        cx.counters.mbarrier_arrivals += 1;
        cx.progress += 1;
        if arrived.is_over {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::MbarrierMisuse, || {
                format!("more arrivals at the mbarrier at byte {key} than its phase expects")
            });
            cx.report.stop();
        }
    }

    pub(crate) fn mbarrier_test(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr, (test, wide): (MbarrierTest, bool), p: Reg) {
        let At { w, mask, pc } = at;
        let addresses = self.addresses(cx, at, addr);
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
                MbarrierTest::Parity(_) => u64::from(found.phase() & 1) != value & 1,
                MbarrierTest::State(_) => found.phase() != value as u32,
            };
            if complete {
                holds |= 1 << lane;
                if last != Some(key) {
                    let learnt = found.complete().clone();
                    let far = found.far_complete().iter();
                    let far: Published = far.map(|(block, of)| (*block, if wide { of.clone() } else { of.narrow() })).collect();
                    self.knowledge[w].join(&learnt);
                    self.knowledge[w].join_published(self.number, &far);
                    last = Some(key);
                }
            }
        }
        self.warps[w].set_pred(p, mask, holds);
    }
}
