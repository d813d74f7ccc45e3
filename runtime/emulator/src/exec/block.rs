//! One block: its warps, its barriers, and the order in which things happen in it.

use std::collections::HashMap;

use crate::exec::agents::Agents;
use crate::exec::schedule::Choices;
use crate::findings::finding::FindingKind;
use crate::launch::Cx;
use crate::state::clocks::{Knowledge, PENDING, Published, Stamp};
use crate::state::shared::Shared;
use crate::state::warp::{ALL, Group, GroupState, LANES, Missing, Placement, Warp, lanes};
use crate::text::ins::{BarrierKind, BarrierReduce, Op, Reg};
use crate::types::{Order, Scope};

/// Barriers of a block (PTX ISA 9.7.13.1).
pub(crate) const BARRIERS: usize = 16;

/// A block barrier in its current phase.
#[derive(Debug, Default)]
struct Barrier {
    /// Number of threads, where an arrival gave one.
    count: Option<u32>,
    /// Threads that arrived, as the hardware counts them.
    arrived: u32,
    arrivals: Vec<Arrival>,
    joined: Knowledge,
    popc: u32,
    any: bool,
    all: bool,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    warp: usize,
    mask: u32,
    waits: bool,
    reduce: Option<(BarrierReduce, Reg)>,
}

/// One resident block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) place: Placement,
    /// Counted from 1 in the order of starting.
    pub(crate) number: u32,
    pub(crate) warps: Vec<Warp>,
    pub(crate) knowledge: Vec<Knowledge>,
    /// What each warp knew at its last fence: what its relaxed writes publish.
    pub(crate) fenced: Vec<Option<Knowledge>>,
    /// The same for fences that reach beyond the block.
    pub(crate) fenced_wide: Vec<Option<Knowledge>>,
    /// What relaxed reads saw, to be learnt at the next fence.
    pub(crate) observed: Vec<Option<Knowledge>>,
    pub(crate) shared: Shared,
    /// What was released at addresses in shared memory.
    pub(crate) published: HashMap<u64, Published>,
    barriers: Vec<Barrier>,
    pub(crate) agents: Agents,
    turn: usize,
}

/// How a stretch of running ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to do.
    Running,
    /// No warp of the block can go on unless something outside it changes.
    Stuck,
    Finished,
}

impl Block {
    pub(crate) fn new(cx: &Cx<'_>, place: Placement, number: u32) -> Block {
        let threads = place.shape.iter().product::<u32>();
        let count = threads.div_ceil(LANES as u32);
        let warps: Vec<Warp> = (0..count).map(|index| Warp::new(cx.entry, index, &place, cx.globals)).collect();
        let mut knowledge = vec![Knowledge::default(); warps.len()];
        for (warp, known) in knowledge.iter_mut().enumerate() {
            known.seen[warp] = 1;
        }
        let asynchronous = cx.entry.asynchronous;
        let readers = if asynchronous { 2 * warps.len() + 1 } else { warps.len() };
        let bytes = place.dynamic_base + place.dynamic_bytes;
        Block {
            place,
            number,
            fenced: vec![None; warps.len()],
            fenced_wide: vec![None; warps.len()],
            observed: vec![None; warps.len()],
            knowledge,
            shared: Shared::new(bytes, readers),
            published: HashMap::new(),
            barriers: (0..BARRIERS).map(|_| Barrier::default()).collect(),
            agents: Agents::new(warps.len(), bytes.div_ceil(4) as usize, cx.entry.registers, cx.entry.wgmma),
            warps,
            turn: 0,
        }
    }

    /// The warp's own clock.
    pub(crate) fn clock(&self, warp: usize) -> u32 {
        self.knowledge[warp].seen[warp]
    }

    /// What the warp does from here on comes after what it published.
    pub(crate) fn tick(&mut self, warp: usize) {
        let clock = &mut self.knowledge[warp].seen[warp];
        *clock = (*clock + 1).min(PENDING - 1);
    }

    pub(crate) fn stamp(&self, warp: usize, lane: usize, mask: u8, strength: u8) -> Stamp {
        Stamp { block: self.number, clock: self.clock(warp), agent: warp as u8, lane: lane as u8, mask, strength }
    }

    pub(crate) fn finding(
        &self,
        cx: &mut Cx<'_>,
        warp: usize,
        pc: u32,
        lanes: u32,
        kind: FindingKind,
        message: impl FnOnce() -> String,
    ) {
        cx.report.add(cx.entry, kind, pc, self.place.block, warp as u32, lanes, message);
    }

    /// The instructions of the warp that took most.
    pub(crate) fn longest(&self) -> u64 {
        self.warps.iter().map(|warp| warp.steps).max().unwrap_or(0)
    }

    /// Runs for a while.
    pub(crate) fn run(&mut self, cx: &mut Cx<'_>, choices: &mut Choices, mut budget: u32) -> Progress {
        while budget > 0 {
            if cx.report.stopped() {
                return Progress::Stuck;
            }
            if self.agents.waiting() && choices.deliver() {
                self.deliver(cx, choices);
            }
            let Some(warp) = self.pick(cx, choices) else {
                if self.agents.waiting() {
                    self.deliver(cx, choices);
                    continue;
                }
                let finished = self.warps.iter().all(|warp| warp.groups.is_empty());
                return if finished { Progress::Finished } else { Progress::Stuck };
            };
            for _ in 0..choices.quantum().min(budget) {
                budget -= 1;
                if !self.step(cx, choices, warp) || cx.report.stopped() {
                    break;
                }
            }
        }
        Progress::Running
    }

    /// A warp that can do something.
    fn pick(&mut self, cx: &Cx<'_>, choices: &mut Choices) -> Option<usize> {
        let able = |warp: &Warp| {
            let spinning = warp.spin.spinning && warp.spin.progress == cx.progress;
            !spinning && warp.groups.iter().any(|group| !matches!(group.state, GroupState::Waiting { .. }))
        };
        let picked = choices.warp(self.warps.len(), self.turn, |index| able(&self.warps[index]))?;
        self.turn = picked + 1;
        Some(picked)
    }

    /// The group of a warp that runs next. None if none can; parked lanes that can never be joined are reported.
    pub(crate) fn choose_group(&mut self, cx: &mut Cx<'_>, choices: &mut Choices, w: usize) -> Option<usize> {
        let warp = &mut self.warps[w];
        if let [only] = warp.groups.as_slice()
            && only.state == GroupState::Ready
        {
            return Some(0);
        }
        warp.merge();
        // Lanes that run in circles give way to those that may end it.
        let spun = if warp.spin.progress == cx.progress { warp.spin.lanes } else { 0 };
        let free = |group: &Group| group.state == GroupState::Ready && group.mask & !spun != 0;
        let any_free = warp.groups.iter().any(free);
        let ready = |group: &Group| if any_free { free(group) } else { group.state == GroupState::Ready };
        let lowest =
            (0..warp.groups.len()).filter(|&index| ready(&warp.groups[index])).min_by_key(|&index| warp.groups[index].pc);
        if let Some(lowest) = lowest {
            // The lowest address first lets lanes meet again; but lanes that wait for other lanes must not starve them.
            warp.stretch += 1;
            let others = warp.groups.iter().filter(|group| ready(group)).count();
            if others > 1 && (warp.stretch > 256 || choices.odd_group()) {
                warp.stretch = if warp.stretch > 320 { 0 } else { warp.stretch };
                let skip = choices.below(others);
                return (0..warp.groups.len()).filter(|&index| ready(&warp.groups[index])).nth(skip).or(Some(lowest));
            }
            return Some(lowest);
        }
        if warp.groups.iter().any(|group| group.state == GroupState::Parked) {
            self.report_parked(cx, w);
        }
        None
    }

    /// Lanes stand at different instructions, each of which waits for the others.
    fn report_parked(&mut self, cx: &mut Cx<'_>, w: usize) {
        let groups = self.warps[w].groups.clone();
        let Some(first) = groups.iter().filter(|group| group.state == GroupState::Parked).min_by_key(|group| group.pc) else {
            return;
        };
        let entry = cx.entry;
        let place = |pc: u32| match entry.code.get(pc as usize) {
            Some(ins) => format!("line {} (`{}`)", ins.at.line, entry.opcodes[usize::from(ins.opcode)]),
            None => "the end".to_owned(),
        };
        let others: Vec<String> = groups
            .iter()
            .filter(|group| *group != first)
            .map(|group| format!("lanes {:#010x} are at {}", group.mask, place(group.pc)))
            .collect();
        let exited = self.warps[w].exited;
        self.finding(cx, w, first.pc, first.mask, FindingKind::DivergentBarrier, || {
            let mut message = "these lanes wait for lanes that cannot come".to_owned();
            for other in &others {
                message.push_str("; ");
                message.push_str(other);
            }
            if exited != 0 {
                message.push_str(&format!("; lanes {exited:#010x} have exited"));
            }
            message
        });
        cx.report.stop();
    }

    /// Ends lanes. Lanes that waited only for these may go on.
    pub(crate) fn exit(&mut self, cx: &mut Cx<'_>, w: usize, group: usize, mask: u32, pc: u32) {
        let warp = &mut self.warps[w];
        warp.exited |= mask;
        warp.groups[group].mask &= !mask;
        if warp.groups[group].mask == 0 {
            warp.groups.swap_remove(group);
        }
        for group in &mut warp.groups {
            if group.state == GroupState::Parked {
                group.state = GroupState::Ready;
            }
        }
        cx.progress += 1;
        self.check_abandoned(cx, w, mask, pc);
        // PTX ISA 9.7.12.6: exiting threads release barriers that wait for all.
        for id in 0..BARRIERS {
            self.complete_barrier(cx, id);
        }
    }

    /// Arrives at a block barrier. The lanes wait inside it if the kind says so.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn arrive(
        &mut self,
        cx: &mut Cx<'_>,
        w: usize,
        group: usize,
        mask: u32,
        pc: u32,
        (kind, id, count): (BarrierKind, u32, Option<u32>),
    ) {
        let warp = &mut self.warps[w];
        if id as usize >= BARRIERS {
            self.finding(cx, w, pc, mask, FindingKind::Undefined, || format!("there is no barrier {id}"));
            self.advance(w, group, mask, pc + 1);
            return;
        }
        let whole = mask == warp.live();
        let live = mask.count_ones();
        let (mut popc, mut any, mut all) = (0, false, true);
        let reduce = match kind {
            BarrierKind::Reduce { op, d, p } => {
                let holds = warp.pred(p, mask);
                popc = holds.count_ones();
                any = holds != 0;
                all = holds == mask;
                Some((op, d))
            }
            BarrierKind::Sync | BarrierKind::Arrive => None,
        };
        let waits = kind != BarrierKind::Arrive;
        if let Some(count) = count
            && (count == 0 || count % LANES as u32 != 0)
        {
            self.finding(cx, w, pc, mask, FindingKind::BarrierCount, || {
                format!("barrier {id} is given {count} threads, not a multiple of the warp size")
            });
        }
        let barrier = &self.barriers[id as usize];
        if !barrier.arrivals.is_empty() && barrier.count != count {
            let other = barrier.count;
            self.finding(cx, w, pc, mask, FindingKind::BarrierCount, || {
                let show = |count: Option<u32>| count.map_or("all".to_owned(), |count| count.to_string());
                format!("barrier {id} is used for {} threads here and for {} by others", show(count), show(other))
            });
        }
        if barrier.arrivals.iter().any(|arrival| arrival.warp == w && arrival.mask & mask != 0) {
            self.finding(cx, w, pc, mask, FindingKind::BarrierCount, || {
                format!("barrier {id} is reached a second time before its phase is complete")
            });
            cx.report.stop();
            return;
        }
        let barrier = &mut self.barriers[id as usize];
        if barrier.arrivals.is_empty() {
            barrier.count = count;
            barrier.all = true;
        }
        barrier.popc += popc;
        barrier.any |= any;
        barrier.all &= all;
        // A counted barrier counts whole warps (PTX ISA 9.7.13.1).
        barrier.arrived += if count.is_some() && whole { LANES as u32 } else { live };
        barrier.joined.join(&self.knowledge[w]);
        barrier.arrivals.push(Arrival { warp: w, mask, waits, reduce });
        let full = self.clock(w);
        let present = self.warps[w].live();
        self.warps[w].order.sync(mask, present, full);
        self.tick(w);
        cx.counters.barriers += 1;
        cx.progress += 1;
        let (over, expected) = match self.barriers[id as usize].count {
            Some(count) => (self.barriers[id as usize].arrived > count.saturating_add(31), count),
            None => (false, 0),
        };
        if over {
            let arrived = self.barriers[id as usize].arrived;
            self.finding(cx, w, pc, mask, FindingKind::BarrierCount, || {
                format!("{arrived} threads arrived at barrier {id}, which is for {expected}")
            });
        }
        if waits {
            let index = self.split(w, group, mask, pc);
            self.warps[w].groups[index].state = GroupState::Waiting { barrier: id as u8 };
        } else {
            self.advance(w, group, mask, pc + 1);
        }
        self.complete_barrier(cx, id as usize);
    }

    fn complete_barrier(&mut self, cx: &mut Cx<'_>, id: usize) {
        let barrier = &self.barriers[id];
        if barrier.arrivals.is_empty() {
            return;
        }
        let complete = match barrier.count {
            Some(count) => barrier.arrived >= count,
            None => {
                let here = |w: usize| barrier.arrivals.iter().filter(|a| a.warp == w).fold(0, |all, a| all | a.mask);
                self.warps.iter().enumerate().all(|(w, warp)| warp.live() & !here(w) == 0)
            }
        };
        if !complete {
            return;
        }
        let barrier = std::mem::take(&mut self.barriers[id]);
        cx.progress += 1;
        for arrival in &barrier.arrivals {
            let w = arrival.warp;
            if let Some((op, d)) = arrival.reduce {
                let warp = &mut self.warps[w];
                match op {
                    BarrierReduce::Popc => {
                        for lane in lanes(arrival.mask) {
                            warp.set_lane(d, lane, u64::from(barrier.popc));
                        }
                        warp.wrote(d, arrival.mask);
                    }
                    BarrierReduce::And => warp.set_pred(d, arrival.mask, if barrier.all { ALL } else { 0 }),
                    BarrierReduce::Or => warp.set_pred(d, arrival.mask, if barrier.any { ALL } else { 0 }),
                }
            }
            if !arrival.waits {
                continue;
            }
            self.knowledge[w].join(&barrier.joined);
            for group in &mut self.warps[w].groups {
                if group.state == (GroupState::Waiting { barrier: id as u8 }) && group.mask & arrival.mask != 0 {
                    group.state = GroupState::Ready;
                    group.pc += 1;
                }
            }
        }
    }

    /// Takes some lanes out of a group, so that they can go elsewhere. Returns their group.
    pub(crate) fn split(&mut self, w: usize, group: usize, mask: u32, pc: u32) -> usize {
        let groups = &mut self.warps[w].groups;
        if groups[group].mask == mask {
            return group;
        }
        groups[group].mask &= !mask;
        groups.push(Group { pc, mask, state: GroupState::Ready });
        groups.len() - 1
    }

    /// Moves some lanes of a group to another instruction.
    pub(crate) fn advance(&mut self, w: usize, group: usize, mask: u32, pc: u32) {
        let index = self.split(w, group, mask, pc);
        self.warps[w].groups[index].pc = pc;
    }

    /// Reports the register that the last instruction missed, if any.
    pub(crate) fn report_missing(&mut self, cx: &mut Cx<'_>, w: usize, pc: u32) {
        let Some((missing, mask)) = self.warps[w].missing.take() else { return };
        let entry = cx.entry;
        let name = match missing {
            Missing::Register(reg) => entry.register_names.get(reg as usize),
            Missing::Predicate(reg) => entry.predicate_names.get(reg as usize),
        };
        let name = name.cloned().unwrap_or_default();
        self.finding(cx, w, pc, mask, FindingKind::UninitialisedRegister, || format!("`{name}` was never written"));
    }

    /// One line for each warp that has not finished, for reports of deadlocks.
    pub(crate) fn standing(&self, cx: &Cx<'_>) -> Vec<(usize, u32, u32, String)> {
        let mut out = Vec::new();
        for (w, warp) in self.warps.iter().enumerate() {
            for group in &warp.groups {
                let what = match (group.state, cx.entry.code.get(group.pc as usize).map(|ins| &ins.op)) {
                    (GroupState::Waiting { barrier }, _) => format!("waits at barrier {barrier}"),
                    (GroupState::Parked, _) => "waits for lanes of its warp".to_owned(),
                    (GroupState::Ready, Some(Op::MbarrierTest { .. })) => "polls an mbarrier".to_owned(),
                    (GroupState::Ready, _) => "runs in circles".to_owned(),
                };
                out.push((w, group.pc, group.mask, what));
            }
        }
        out
    }

    /// A fence: what was observed is learnt, and what is known is what relaxed writes publish from now on.
    pub(crate) fn fence(&mut self, w: usize, order: Order, scope: Scope) {
        if order.acquires()
            && let Some(observed) = self.observed[w].take()
        {
            self.knowledge[w].join(&observed);
        }
        if order.releases() {
            let known = Some(self.knowledge[w].clone());
            if scope > Scope::Cta {
                self.fenced_wide[w].clone_from(&known);
            }
            self.fenced[w] = known;
            self.tick(w);
        }
    }
}
