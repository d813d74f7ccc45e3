//! One instruction of one group of lanes.

use crate::exec::schedule::Choices;
use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::numbers::float;
use crate::state::block::Block;
use crate::state::place::{LOCAL_WINDOW, PARAM_WINDOW, Place, SHARED_WINDOW, generic, of_other};
use crate::state::run::Cx;
use crate::state::warp::{GroupState, LANES, lanes};
use crate::text::ins::{Op, Reg};
use crate::types::{FloatMode, FloatOp, IntOp, Logic, Space, Ty};

impl Block {
    /// Executes the next instruction of a warp. False means that the warp cannot go on for now.
    pub(crate) fn step(&mut self, cx: &mut Cx<'_>, choices: &mut Choices, w: usize) -> bool {
        let Some(g) = self.choose_group(cx, choices, w) else { return false };
        let group = self.warps[w].groups[g];
        let entry = cx.entry;
        let pc = group.pc;
        let Some(ins) = entry.code.get(pc as usize) else {
            self.exit(cx, w, g, group.mask, pc.saturating_sub(1));
            return true;
        };
        let mask = match ins.guard {
            Some(guard) => self.warps[w].pred(guard, group.mask),
            None => group.mask,
        };
        let counts = &mut cx.executed[pc as usize];
        counts.warps += 1;
        counts.lanes += u64::from(mask.count_ones());
        cx.steps += 1;
        self.warps[w].steps += 1;
        if cx.steps >= cx.options.step_limit || self.warps[w].steps >= cx.warp_step_limit {
            let (all, own) = (cx.steps, self.warps[w].steps);
            self.finding(cx, At { w, mask, pc }, FindingKind::StepLimit, || {
                format!("{own} steps of this warp, {all} of all: a loop without end? the options set the limits")
            });
            cx.report.stop();
            return false;
        }
        let ran = self.execute(cx, Issue { at: At { w, mask, pc }, g, group: group.mask }, &ins.op);
        if self.warps[w].missing.is_some() {
            self.report_missing(cx, w, pc);
        }
        ran
    }

    fn execute(&mut self, cx: &mut Cx<'_>, issue: Issue, op: &Op) -> bool {
        let Issue { at, g, group } = issue;
        let At { w, mask, pc } = at;
        match op {
            Op::Branch { target } => return self.branch(cx, issue, *target),
            Op::BranchIndex { index, targets } => {
                self.branch_index(cx, issue, *index, targets);
                return true;
            }
            Op::Return | Op::Exit => {
                if mask != group {
                    self.advance(w, g, group & !mask, pc + 1);
                }
                if mask != 0 {
                    let index = self.warps[w].groups.iter().position(|other| other.mask & mask != 0).unwrap_or(g);
                    self.exit(cx, w, index, mask, pc);
                }
                return true;
            }
            _ => {}
        }
        if mask == 0 {
            self.warps[w].groups[g].pc = pc + 1;
            return true;
        }
        if let Some(members) = members(op) {
            return self.together(cx, issue, members, op);
        }
        if !matches!(op, Op::Nop) {
            self.scalar(cx, at, op);
        }
        if let Some(group) = self.warps[w].groups.get_mut(g) {
            group.pc = pc + 1;
        }
        true
    }

    fn branch(&mut self, cx: &mut Cx<'_>, issue: Issue, target: u32) -> bool {
        let Issue { at: At { w, mask, pc }, g, group } = issue;
        let groups = &mut self.warps[w].groups;
        if mask == 0 {
            groups[g].pc = pc + 1;
            return true;
        }
        if mask == group {
            groups[g].pc = target;
        } else {
            cx.counters.divergent_branches += 1;
            groups[g].mask = mask;
            groups[g].pc = target;
            groups.push(crate::state::warp::Group { pc: pc + 1, mask: group & !mask, state: GroupState::Ready });
        }
        target > pc || !self.watch(cx, issue.at)
    }

    /// Looks for a loop that changes nothing: the same registers at the same backward branch, twice, with no memory
    /// written, no barrier passed and nothing delivered in between. Such a warp cannot get out by itself.
    fn watch(&mut self, cx: &Cx<'_>, at: At) -> bool {
        let At { w, mask, pc } = at;
        let spin = self.warps[w].spin;
        if spin.progress != cx.progress {
            self.warps[w].spin = crate::state::warp::Spin { progress: cx.progress, ..Default::default() };
            return false;
        }
        let steps = spin.steps + 1;
        let warp = &mut self.warps[w];
        warp.spin.steps = steps;
        // Honest loops without stores are common: look at two visits in a row, and ever more rarely.
        if steps < 32 || !(steps.is_power_of_two() || (steps - 1).is_power_of_two()) {
            return false;
        }
        let hash = warp.digest();
        if spin.hash == hash && spin.pc == pc {
            warp.spin.lanes |= mask;
            let spun = warp.spin.lanes;
            warp.spin.spinning = warp.groups.iter().all(|group| group.state != GroupState::Ready || group.mask & !spun == 0);
        }
        warp.spin.hash = hash;
        warp.spin.pc = pc;
        warp.spin.spinning
    }

    fn branch_index(&mut self, cx: &mut Cx<'_>, issue: Issue, index: Reg, targets: &[u32]) {
        let Issue { at, g, group } = issue;
        let At { w, mask, pc } = at;
        self.warps[w].need(index, mask);
        let values = self.warps[w].regs[index as usize];
        let mut rest = mask;
        if mask != group {
            self.advance(w, g, group & !mask, pc + 1);
        }
        let mut parts = 0;
        while rest != 0 {
            let value = values[rest.trailing_zeros() as usize];
            let same = lanes(rest).filter(|&lane| values[lane] == value).fold(0, |set, lane| set | 1 << lane);
            rest &= !same;
            parts += 1;
            let inside = self.warps[w].groups.iter().position(|other| other.mask & same != 0).unwrap_or(g);
            match usize::try_from(value).ok().and_then(|value| targets.get(value)) {
                Some(&target) => self.advance(w, inside, same, target),
                None => {
                    self.finding(cx, at.of(same), FindingKind::Undefined, || {
                        format!("target {value} of a list of {}", targets.len())
                    });
                    cx.report.stop();
                    return;
                }
            }
        }
        cx.counters.divergent_branches += u64::from(parts > 1);
    }

    /// Instructions that lanes execute together: the group waits until all that are named have come.
    fn together(&mut self, cx: &mut Cx<'_>, issue: Issue, members: Members, op: &Op) -> bool {
        let Issue { at, g, group } = issue;
        let At { w, mask, pc } = at;
        let mut g = g;
        if mask != group {
            // The lanes that the guard excludes go on alone.
            self.advance(w, g, group & !mask, pc + 1);
            g = self.warps[w].groups.iter().position(|other| other.mask & mask != 0).unwrap_or(g);
        }
        let live = self.warps[w].live();
        let named = match members {
            Members::Whole => [live; LANES],
            Members::Here => [mask; LANES],
            Members::Register(reg) => {
                self.warps[w].need(reg, mask);
                self.warps[w].regs[reg as usize].map(|value| value as u32)
            }
        };
        let mut rest = mask;
        let mut moved = false;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let wanted = named[first];
            let same = lanes(rest).filter(|&lane| named[lane] == wanted).fold(0_u32, |set, lane| set | 1 << lane);
            rest &= !same;
            let outside = same & !wanted;
            if outside != 0 {
                self.finding(cx, at.of(outside), FindingKind::BadMask, || {
                    format!("the member mask {wanted:#010x} leaves these lanes out")
                });
            }
            if wanted & live & !same != 0 {
                continue;
            }
            let inside = self.warps[w].groups.iter().position(|other| other.mask & same != 0).unwrap_or(g);
            moved = true;
            match *op {
                Op::Barrier { kind, id, count, .. } => {
                    let warp = &mut self.warps[w];
                    warp.need(id, same);
                    let id = warp.lane(id, first) as u32;
                    let count = count.map(|count| {
                        warp.need(count, same);
                        warp.lane(count, first) as u32
                    });
                    self.arrive(cx, at.of(same), inside, (kind, id, count));
                }
                _ => {
                    if self.scalar(cx, at.of(same), op) {
                        // Nothing to do until something else changes.
                        let spin = &mut self.warps[w].spin;
                        spin.progress = cx.progress;
                        spin.spinning = true;
                        return false;
                    } else {
                        let inside = self.warps[w].groups.iter().position(|other| other.mask & same != 0).unwrap_or(inside);
                        self.advance(w, inside, same, pc + 1);
                    }
                }
            }
        }
        if !moved {
            if let Some(group) = self.warps[w].groups.get_mut(g) {
                group.state = GroupState::Parked;
            }
            return true;
        }
        // Lanes that still wait for others stay behind.
        for group in &mut self.warps[w].groups {
            if group.pc == pc && group.mask & mask != 0 && group.state == GroupState::Ready {
                group.state = GroupState::Parked;
            }
        }
        true
    }

    /// Everything that only changes state. True: try the same instruction again later.
    fn scalar(&mut self, cx: &mut Cx<'_>, at: At, op: &Op) -> bool {
        let At { w, mask, .. } = at;
        if cx.entry.wgmma {
            self.check_pending(cx, at, op);
        }
        let warp = &mut self.warps[w];
        match *op {
            Op::Mov { d, a } => warp.mov(mask, d, a),
            Op::Pack { d, ref parts, bits } => warp.pack(mask, d, parts, bits),
            Op::Unpack { ref d, a, bits } => warp.unpack(mask, d, a, bits),
            Op::Int { op, ty, sat, d, a, b } => {
                if matches!(op, IntOp::Div | IntOp::Rem) {
                    let bits = ty.bits();
                    let zero =
                        lanes(mask).filter(|&lane| warp.lane(b, lane) << (64 - bits) == 0).fold(0, |set, lane| set | 1 << lane);
                    warp.int(mask, op, ty, sat, [d, a, b]);
                    if zero != 0 {
                        self.finding(cx, at.of(zero), FindingKind::DivideByZero, || "the divisor is zero".to_owned());
                    }
                } else {
                    warp.int(mask, op, ty, sat, [d, a, b]);
                }
            }
            Op::Mad { op, ty, d, a, b, c } => warp.mad(mask, op, ty, [d, a, b, c]),
            Op::IntUnary { op, ty, d, a } => warp.int_unary(mask, op, ty, d, a),
            Op::Carry { subtract, reads, writes, ty, cc, d, a, b } => {
                warp.carry(mask, subtract, (reads, writes), ty, [cc, d, a, b]);
            }
            Op::FunnelShift { right, wrap, d, a, b, c } => warp.funnel_shift(mask, right, wrap, [d, a, b, c]),
            Op::Lop3 { table, d, a, b, c } => warp.lop3(mask, table, [d, a, b, c]),
            Op::Permute { mode, d, a, b, c } => warp.permute(mask, mode, [d, a, b, c]),
            Op::Extract { ty, d, a, b, c } => warp.extract(mask, ty, [d, a, b, c]),
            Op::Insert { ty, d, a, b, c, e } => warp.insert(mask, ty, [d, a, b, c, e]),
            Op::DotProduct { a_signed, b_signed, d, a, b, c } => warp.dot_product(mask, a_signed, b_signed, [d, a, b, c]),
            Op::FindNthSet { d, a, b, c } => warp.find_nth_set(mask, [d, a, b, c]),
            Op::Float { op, ty, mode, d, a, b } => {
                cx.counters.scalar_flops += u64::from(mask.count_ones());
                match (ty, op) {
                    (Ty::F32, FloatOp::Add) if mode == FloatMode::default() => {
                        warp.map2(mask, d, a, b, |x, y| float::binary_f32(FloatOp::Add, FloatMode::default(), x, y));
                    }
                    (Ty::F32, FloatOp::Mul) if mode == FloatMode::default() => {
                        warp.map2(mask, d, a, b, |x, y| float::binary_f32(FloatOp::Mul, FloatMode::default(), x, y));
                    }
                    _ => warp.map2(mask, d, a, b, |x, y| float::binary(op, ty, mode, x, y)),
                }
            }
            Op::Fma { ty, mode, d, a, b, c } => {
                cx.counters.scalar_flops += 2 * u64::from(mask.count_ones());
                if ty == Ty::F32 && mode == FloatMode::default() {
                    warp.map3(mask, d, [a, b, c], |x, y, z| float::fma_f32(FloatMode::default(), x, y, z));
                } else {
                    warp.map3(mask, d, [a, b, c], |x, y, z| float::fma(ty, mode, x, y, z));
                }
            }
            Op::FloatUnary { op, ty, mode, d, a } => {
                cx.counters.scalar_flops += u64::from(mask.count_ones());
                warp.map1(mask, d, a, |x| float::unary(op, ty, mode, x));
            }
            Op::TestFloat { test, ty, p, a } => {
                let holds = warp.test2(mask, a, a, |x, _| float::test(test, ty, x));
                warp.set_pred(p, mask, holds);
            }
            Op::Setp { cmp, ty, ftz, logic, p, q, a, b } => {
                let holds = warp.compare(mask, cmp, ty, ftz, a, b);
                let (first, second) = warp.logic(mask, holds, logic);
                warp.set_pred(p, mask, first);
                warp.set_pred(q, mask, second);
            }
            Op::Set { cmp, ty, ftz, logic, to, d, a, b } => {
                let holds = warp.compare(mask, cmp, ty, ftz, a, b);
                let (first, _) = warp.logic(mask, holds, logic);
                let yes = if to == Ty::F32 { u64::from(1.0_f32.to_bits()) } else { 0xffff_ffff };
                for lane in lanes(mask) {
                    warp.set_lane(d, lane, if first >> lane & 1 == 1 { yes } else { 0 });
                }
                warp.wrote(d, mask);
            }
            Op::Select { d, a, b, p } => warp.select(mask, d, a, b, p),
            Op::Slct { by, ftz, d, a, b, c } => warp.map3(mask, d, [a, b, c], |x, y, z| {
                let first = if by == Ty::F32 { float::load_f32(z, ftz) >= 0.0 } else { z as i32 >= 0 };
                if first { x } else { y }
            }),
            Op::PredLogic { op, d, a, b } => {
                let (x, y) = (warp.pred(a, mask), warp.pred(b, mask));
                let value = match op {
                    Logic::And => x & y,
                    Logic::Or => x | y,
                    Logic::Xor => x ^ y,
                };
                warp.set_pred(d, mask, value);
            }
            Op::PredMov { d, a } => {
                let value = warp.pred(a, mask);
                warp.set_pred(d, mask, value);
            }
            Op::Convert { ref how, d, a, b } => warp.convert(mask, how, [d, a, b]),
            Op::WindowAddress { space, to, d, a } => {
                let window = match space {
                    Space::Shared | Space::SharedCluster => SHARED_WINDOW,
                    Space::Local => LOCAL_WINDOW,
                    Space::Param => PARAM_WINDOW,
                    Space::Generic | Space::Global | Space::Const => 0,
                };
                let wrap = warp.wrap(a);
                warp.map1(mask, d, a, |x| if to { x.wrapping_sub(window) } else { x.wrapping_add(window) });
                warp.taint(d, mask, wrap);
            }
            Op::IsSpace { space, p, a } => {
                let holds = warp.test2(mask, a, a, |x, _| {
                    matches!(
                        (space, generic(x)),
                        (Space::Shared | Space::SharedCluster, Place::Shared(_))
                            | (Space::Local, Place::Local(_))
                            | (Space::Param, Place::Param(_))
                            | (Space::Global | Space::Const, Place::Global(_))
                    )
                });
                warp.set_pred(p, mask, holds);
            }
            Op::Clock { d, bits, global } => {
                let now = if global { cx.steps * 2 } else { cx.steps };
                for lane in lanes(mask) {
                    warp.set_lane(d, lane, if bits == 32 { now & 0xffff_ffff } else { now });
                }
                warp.wrote(d, mask);
            }
            Op::ActiveMask { d } => {
                for lane in lanes(mask) {
                    warp.set_lane(d, lane, u64::from(mask));
                }
                warp.wrote(d, mask);
            }
            Op::Load(ref access) => self.load(cx, at, access),
            Op::Prefetch { space, addr } => self.prefetch(cx, at, space, addr),
            Op::Store(ref access) => self.store(cx, at, access),
            Op::Atomic(ref atomic) => self.atomic(cx, at, atomic),
            Op::Trap => {
                self.finding(cx, at, FindingKind::Trap, || "`trap` was executed".to_owned());
                cx.report.stop();
            }
            Op::Assert { ref function } => {
                self.finding(cx, at, FindingKind::Trap, || format!("`{function}` was called"));
                cx.report.stop();
            }
            Op::WarpSync { .. } => {
                let (present, clock) = (warp.live(), self.clock(w));
                self.warps[w].order.sync(mask, present, clock);
                self.tick(w);
            }
            Op::Fence { order, scope } => self.fence(w, order, scope),
            Op::Shuffle { mode, d, p, a, b, c, .. } => self.shuffle(cx, at, mode, [d, p, a, b, c]),
            Op::Vote { mode, d, p, .. } => self.vote(w, mask, mode, d, p),
            Op::Match { all, ty, d, p, a, .. } => self.match_lanes(w, mask, all, ty, [d, p, a]),
            Op::Redux { op, ty, d, a, .. } => self.reduce(w, mask, op, ty, d, a),
            Op::Elect { d, p, .. } => self.elect(w, mask, d, p),
            Op::MapAddress { d, a, rank } => self.map_address(cx, at, d, a, rank),
            Op::ClusterRank { d, a, .. } => {
                let (_, own) = self.place.in_cluster();
                warp.map1(mask, d, a, |address| of_other(address).map_or(own, |(rank, _)| rank).into());
            }
            Op::ClusterArrive | Op::ClusterWait => return self.cluster(cx, w, mask, matches!(op, Op::ClusterWait)),
            Op::GridDependencyWait => warp.waited |= mask,
            Op::Nop | Op::SetMaxRegisters => {}
            // What was written, or initialised, becomes visible to asynchronous copies and tensor cores.
            Op::FenceProxyAsync | Op::FenceMbarrierInit => self.knowledge[w].fence_proxy(),
            Op::Branch { .. } | Op::BranchIndex { .. } | Op::Return | Op::Exit | Op::Barrier { .. } => {}
            _ => return self.asynchronous(cx, at, op),
        }
        false
    }
}

/// An instruction that a group of lanes has come to: `at` are the lanes that its guard lets through.
#[derive(Clone, Copy)]
struct Issue {
    at: At,
    /// The group's index.
    g: usize,
    /// All lanes of the group.
    group: u32,
}

/// Which lanes an instruction needs to be there.
#[derive(Clone, Copy)]
enum Members {
    /// All that have not exited: `.aligned`.
    Whole,
    /// The threads that have arrived: barriers that threads reach one by one.
    Here,
    /// Those in a member mask.
    Register(Reg),
}

fn members(op: &Op) -> Option<Members> {
    match *op {
        Op::Barrier { aligned: true, .. }
        | Op::LoadMatrix { .. }
        | Op::StoreMatrix { .. }
        | Op::MoveMatrix { .. }
        | Op::Mma(_)
        | Op::WgmmaFence
        | Op::Wgmma(_)
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::SetMaxRegisters
        | Op::ClusterArrive
        | Op::ClusterWait => Some(Members::Whole),
        Op::Barrier { aligned: false, .. } => Some(Members::Here),
        Op::WarpSync { mask }
        | Op::Shuffle { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Elect { mask, .. } => Some(Members::Register(mask)),
        _ => None,
    }
}
