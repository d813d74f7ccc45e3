//! What waits for ever, and what is left behind: lanes that cannot meet, copies that no thread has waited for, registers that
//! were read before they were written.

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::run::Cx;
use crate::state::warp::{GroupState, Missing};
use crate::text::ins::Op;

impl Block {
    /// Lanes stand at different instructions, each of which waits for the others.
    pub(crate) fn report_parked(&mut self, cx: &mut Cx<'_>, w: usize) {
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
        self.finding(cx, At { w, mask: first.mask, pc: first.pc }, FindingKind::DivergentBarrier, || {
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

    /// Reports the register that the last instruction missed, if any.
    pub(crate) fn report_missing(&mut self, cx: &mut Cx<'_>, w: usize, pc: u32) {
        let Some((missing, mask)) = self.warps[w].missing.take() else { return };
        let entry = cx.entry;
        let name = match missing {
            Missing::Register(reg) => entry.register_names.get(reg as usize),
            Missing::Predicate(reg) => entry.predicate_names.get(reg as usize),
        };
        let name = name.cloned().unwrap_or_default();
        self.finding(cx, At { w, mask, pc }, FindingKind::UninitialisedRegister, || format!("`{name}` was never written"));
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
                    (GroupState::Ready, Some(Op::ClusterWait)) => "waits at the cluster's barrier".to_owned(),
                    (GroupState::Ready, _) => "runs in circles".to_owned(),
                };
                out.push((w, group.pc, group.mask, what));
            }
        }
        out
    }

    /// Nothing asynchronous may outlive the thread that has to wait for it.
    pub(crate) fn check_abandoned(&mut self, cx: &mut Cx<'_>, at: At) {
        let At { w, mask, .. } = at;
        let lanes_of = |lanes: &mut dyn Iterator<Item = u8>| lanes.fold(0_u32, |set, lane| set | 1 << lane) & mask;
        let copies = lanes_of(&mut self.agents.copies[w].iter().map(|copy| copy.lane));
        let stores = lanes_of(&mut self.agents.outgoing.iter().filter(|store| store.warp == w).map(|store| store.lane as u8));
        let wgmma = if self.agents.wgmma[w].abandon() { mask } else { 0 };
        for (lanes, what) in [(copies, "`cp.async`"), (stores, "bulk copy"), (wgmma, "wgmma")] {
            if lanes != 0 {
                self.finding(cx, at.of(lanes), FindingKind::Abandoned, || {
                    format!("a {what} of these lanes was never waited for")
                });
            }
        }
    }
}
