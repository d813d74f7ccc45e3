//! The rules of roles and of what threads wait at.

use super::uniform::Agreement;
use super::verify::Check;
use super::{Arrival, Expr, Handle, Location, Mbarrier, ParamKind, Place, REGISTERS, Scope, Shared, Stmt, Ty, WarpRole};
use crate::DType;
use crate::machine::Copier;

/// Numbers of the named barriers; 0 is that of all threads of a block.
const NAMED: std::ops::RangeInclusive<u8> = 1..=15;
/// Warps that change their registers together.
const REGISTER_WARPS: u32 = 4;
/// Registers that a thread may be given, in eights.
const GIVEN_REGISTERS: std::ops::RangeInclusive<u32> = 24..=256;
/// Bulk copies go from and to multiples of this many bytes.
const BULK_ALIGN: u32 = 16;

impl Check<'_> {
    /// The declarations of barriers.
    pub(super) fn mbarriers(&mut self) {
        let (kernel, machine) = (self.kernel, self.machine);
        for (handle, barrier) in kernel.mbarriers.iter() {
            let name = self.names.mbarrier(handle).to_string();
            self.require(machine.mbarriers, || format!("{name}: {} has no mbarriers", machine.name));
            self.require((1..=Mbarrier::MOST).contains(&barrier.arrivals), || {
                format!("{name}: a phase needs 1 to {} arrivals, not {}", Mbarrier::MOST, barrier.arrivals)
            });
            self.require(barrier.stages > 0, || format!("{name}: a barrier has at least one stage"));
        }
    }

    /// The division of a block's warps.
    pub(super) fn roles(&mut self, roles: &[WarpRole]) {
        let machine = self.machine;
        let warps = self.kernel.threads / machine.warp_lanes;
        self.require(machine.warp_lanes > 1, || format!("roles need warps, and a block on {} is one thread", machine.name));
        let inside = matches!(&self.at, Location::Stmt(_, path) if path.len() > 1);
        self.require(!inside, || "roles begin inside another statement".to_string());
        let again = std::mem::replace(&mut self.roles, true);
        self.require(!again, || "a kernel has its roles once".to_string());
        self.require(!roles.is_empty(), || "there is no role".to_string());
        let mut before = 0;
        for role in roles {
            let of = &role.warps;
            self.require(of.start < of.end && of.end <= warps, || {
                format!("warps {}..{} are not some of the block's {warps}", of.start, of.end)
            });
            self.require(of.start >= before, || {
                format!("warps {}..{} do not come after those of the role before", of.start, of.end)
            });
            before = before.max(of.end);
            if let Some(registers) = role.registers {
                self.given_registers(role, registers);
            }
        }
        let given = roles.iter().any(|role| role.registers.is_some());
        let at_launch = self.kernel.registers_at_launch();
        let of_role = |role: &WarpRole| {
            let threads = u64::from(role.warps.end.saturating_sub(role.warps.start)) * u64::from(machine.warp_lanes);
            (threads, threads.saturating_mul(u64::from(role.registers.unwrap_or(at_launch))))
        };
        let sum = |sum: (u64, u64), of: (u64, u64)| (sum.0.saturating_add(of.0), sum.1.saturating_add(of.1));
        let (threads, taken) = roles.iter().map(of_role).fold((0, 0), sum);
        let others = u64::from(self.kernel.threads).saturating_sub(threads) * u64::from(at_launch);
        let all = taken.saturating_add(others);
        self.require(!given || all <= u64::from(REGISTERS), || {
            format!("the threads have {all} registers together, but a processor has {REGISTERS}")
        });
    }

    fn given_registers(&mut self, role: &WarpRole, registers: u32) {
        let machine = self.machine;
        self.require(machine.role_registers, || format!("{} gives all threads the same number of registers", machine.name));
        self.require(registers.is_multiple_of(8) && GIVEN_REGISTERS.contains(&registers), || {
            let (least, most) = (GIVEN_REGISTERS.start(), GIVEN_REGISTERS.end());
            format!("a thread is given {least} to {most} registers in eights, not {registers}")
        });
        let of = &role.warps;
        let whole = of.start.is_multiple_of(REGISTER_WARPS) && of.end.is_multiple_of(REGISTER_WARPS);
        self.require(whole, || {
            format!("registers are given to {REGISTER_WARPS} warps at a time, which {}..{} does not hold", of.start, of.end)
        });
    }

    /// How many threads come here as one, where threads part as `control` says.
    pub(super) fn together(&self, control: Agreement) -> u32 {
        let lanes = self.machine.warp_lanes;
        let aligned = |warps: u32| match &self.role {
            Some(role) => warps.min(1 << (role.start | role.end | 1 << 16).trailing_zeros()),
            None => warps,
        };
        match (control, &self.role) {
            (Agreement::Cluster | Agreement::Block | Agreement::Role, Some(role)) => {
                role.end.saturating_sub(role.start).saturating_mul(lanes)
            }
            (Agreement::Cluster | Agreement::Block, None) => self.kernel.threads,
            // What the roles left behind.
            (Agreement::Role, None) => lanes,
            (Agreement::Warps(warps), _) => aligned(warps.0).saturating_mul(lanes),
            (Agreement::Warp, _) => lanes,
            (Agreement::Differs, _) => 1,
        }
    }

    /// Threads come to a named barrier that others wait at.
    pub(super) fn threads_arrive(&mut self, id: u8, count: u32, control: Agreement) {
        let come = self.threads_meet(id, count, control);
        self.require(come != count, || format!("all {count} threads of barrier {id} arrive and none waits"));
    }

    /// A named barrier. How many threads come here as one.
    pub(super) fn threads_meet(&mut self, id: u8, count: u32, control: Agreement) -> u32 {
        let machine = self.machine;
        let (lanes, threads) = (machine.warp_lanes, self.kernel.threads);
        self.require(lanes > 1, || format!("some threads of a block meet, and a block on {} is one thread", machine.name));
        self.require(NAMED.contains(&id), || format!("a barrier of some threads has a number from 1 to 15, not {id}"));
        self.require(count > 0 && count.is_multiple_of(lanes), || {
            format!("{count} threads are not whole warps of {lanes} lanes")
        });
        self.require(count <= threads, || format!("a barrier of {count} threads, but the block has {threads}"));
        let known = *self.named.entry(id).or_insert(count);
        self.require(known == count, || format!("barrier {id} is one of {known} threads elsewhere, here of {count}"));
        let come = self.together(control);
        // The other roles may bring the rest.
        let of_roles = self.role.is_some() && control <= Agreement::Role && come <= count;
        self.require(come == count || of_roles, || match control {
            Agreement::Differs => format!("a barrier of {count} threads where the lanes of a warp may part"),
            Agreement::Cluster | Agreement::Block | Agreement::Role | Agreement::Warps(_) | Agreement::Warp => {
                format!("a barrier of {count} threads where {come} come as one")
            }
        });
        come
    }

    /// An arrival at an mbarrier.
    pub(super) fn arrive(&mut self, barrier: Handle<Mbarrier>, stage: Handle<Expr>, arrival: Arrival) {
        self.stage(barrier, stage);
        if arrival == Arrival::Copied {
            self.copies("an arrival of copies");
        }
        if let Some(block) = arrival.block() {
            self.leaves_block("an arrival in a block of the cluster");
            self.wants(block, "the number of a block in its cluster is", |ty| ty == Ty::scalar(DType::I32), "i32");
            if let Some(&Expr::Int(n, _)) = self.kernel.exprs.get(block) {
                let blocks = self.kernel.cluster;
                self.require((0..i64::from(blocks)).contains(&n), || format!("there is no block {n} in a cluster of {blocks}"));
            }
        }
        let Some(bytes) = arrival.bytes() else { return };
        self.wants(bytes, "a number of bytes is", |ty| ty == Ty::scalar(DType::I32), "i32");
        if let Some(&Expr::Int(n, _)) = self.kernel.exprs.get(bytes) {
            let most = i64::from(Mbarrier::MOST);
            self.require((0..=most).contains(&n), || format!("a phase expects 0 to {most} bytes, not {n}"));
        }
    }

    /// Something that reaches into other blocks.
    pub(super) fn leaves_block(&mut self, what: &str) {
        self.require(self.kernel.cluster > 1, || format!("{what}, but the kernel's blocks are in no clusters"));
    }

    /// A block that others reach into does not end before they do.
    pub(super) fn last_meeting(&mut self) {
        let body = &self.kernel.body;
        let meet = matches!(body.last(), Some(Stmt::Barrier(Scope::Cluster)));
        self.require(meet || !body.iter().any(Stmt::leaves_block), || {
            "a kernel that reaches into other blocks of its cluster ends with the cluster's barrier".to_string()
        });
    }

    /// A copy of consecutive bytes, but for where it arrives.
    pub(super) fn bulk_copy(&mut self, to: (Handle<Shared>, Handle<Expr>), from: (u32, Handle<Expr>), bytes: u32) {
        // A machine without has no mbarriers either, which is said where one is declared.
        if let Some(widths) = self.machine.copies(Copier::Bulk) {
            self.require(widths.has(bytes), || format!("a bulk copy moves {widths}, not {bytes}"));
        }
        let (to, from) = ((Place::Shared(to.0), to.1), (Place::Param(from.0), from.1));
        for (place, offset) in [to, from] {
            let ty = self.kernel.elem(place).map(|elem| Ty::vector(elem, bytes / elem.bytes() as u32));
            self.access(place, offset, ty, BULK_ALIGN);
        }
        let elems = [to, from].map(|(place, _)| self.kernel.elem(place));
        if let [Some(to), Some(from)] = elems {
            self.require(to == from, || format!("a copy from {from} to {to}"));
        }
        self.only_read(from.0);
    }

    /// A hint of what will be read.
    pub(super) fn prefetch(&mut self, from: u32, offset: Handle<Expr>) {
        let from = Place::Param(from);
        let elem = self.kernel.elem(from);
        self.access(from, offset, elem.map(Ty::scalar), elem.map_or(1, |elem| elem.bytes() as u32));
        self.only_read(from);
    }

    /// What is read at a time that the program does not say must not change meanwhile.
    fn only_read(&mut self, place: Place) {
        let Place::Param(i) = place else { return };
        if let Some(ParamKind::Buffer { write: true, .. }) = self.kernel.params.get(i as usize).map(|param| param.kind) {
            let name = self.names.place(place).to_string();
            self.say(format!("{name} is written: its parameter is `*mut`"));
        }
    }

    /// A wait for a phase of an mbarrier.
    pub(super) fn wait(&mut self, barrier: Handle<Mbarrier>, stage: Handle<Expr>, phase: Handle<Expr>) {
        self.stage(barrier, stage);
        self.wants(phase, "the number of a phase is", |ty| ty == Ty::scalar(DType::I32), "i32");
        if let Some(&Expr::Int(n, _)) = self.kernel.exprs.get(phase) {
            self.require(n >= -1, || format!("phases are numbered from 0, and -1 is over from the start; there is no phase {n}"));
        }
    }

    pub(super) fn stage(&mut self, barrier: Handle<Mbarrier>, stage: Handle<Expr>) {
        self.wants(stage, "the number of a stage is", |ty| ty == Ty::scalar(DType::I32), "i32");
        let Some(of) = self.kernel.mbarriers.get(barrier) else { return self.say("there is no such mbarrier") };
        let (stages, name) = (of.stages, self.names.mbarrier(barrier).to_string());
        if let Some(&Expr::Int(n, _)) = self.kernel.exprs.get(stage) {
            self.require((0..i64::from(stages)).contains(&n), || format!("{name} has {stages} stages and no stage {n}"));
        }
    }
}
