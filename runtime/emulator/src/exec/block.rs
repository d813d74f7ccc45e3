//! One block: its warps, its barriers, and the order in which things happen in it.

use crate::findings::at::At;
use crate::state::barrier::BARRIERS;

use crate::exec::schedule::Choices;
use crate::state::block::Block;
use crate::state::run::Cx;
use crate::state::warp::{Group, GroupState, Warp};

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
            self.collect(cx);
            if self.agents.waiting() && choices.deliver() {
                self.deliver(cx, choices);
            }
            let Some(warp) = self.pick(cx, choices) else {
                if self.agents.waiting() {
                    self.deliver(cx, choices);
                    continue;
                }
                let finished = self.warps.iter().all(|warp| warp.groups.is_empty());
                if !finished {
                    return Progress::Stuck;
                }
                self.leave(cx);
                return Progress::Finished;
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
        if self.warps[w].live() == 0 {
            let (cluster, rank) = self.place.in_cluster();
            if let Some(cluster) = cx.clusters.get_mut(&cluster) {
                cluster.end(rank, w);
            }
        }
        self.check_abandoned(cx, At { w, mask, pc });
        self.check_waited(cx, At { w, mask, pc });
        // PTX ISA 9.7.12.6: exiting threads release barriers that wait for all.
        for id in 0..BARRIERS {
            self.complete_barrier(cx, id);
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
}
