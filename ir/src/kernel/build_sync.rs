//! Roles and what they wait at, as schedules write them.

use std::ops::Range;

use super::build::Array;
use super::{Arrival, Builder, Handle, Mbarrier, ParamKind, Place, Scope, Stmt, TensorMap, Value, Wait, WarpRole};

/// A barrier that counts arrivals and bytes.
#[derive(Clone, Copy)]
pub struct Stages<'k> {
    kernel: &'k Builder,
    barrier: Handle<Mbarrier>,
}

/// A tensor in global memory whose boxes are copied.
#[derive(Clone, Copy)]
pub struct Tiles {
    param: u32,
}

/// Warps with work of their own, before it is written.
pub struct Part<'k> {
    /// Which warps of the block.
    pub warps: Range<u32>,
    /// Registers of each of their threads, where they are not those of the kernel: see [`WarpRole::registers`].
    pub registers: Option<u32>,
    /// Writes what they do.
    pub body: Box<dyn FnOnce() + 'k>,
}

impl Builder {
    /// A barrier whose phases need so many arrivals, in so many stages.
    pub fn mbarrier(&self, name: &str, arrivals: u32, stages: u32) -> Stages<'_> {
        let barrier = self.mbarriers.borrow_mut().push(Mbarrier { name: name.to_string(), arrivals, stages });
        Stages { kernel: self, barrier }
    }

    /// A tensor in global memory that is only read, or only written, by boxes.
    pub fn tensor_map(&self, name: &str, map: TensorMap) -> Tiles {
        Tiles { param: self.param(name, ParamKind::TensorMap(map)) }
    }

    /// The thread starts to store the box at element `at` of a shared array, whose first element in the tensor is at `corner`: see
    /// [`Stmt::TileStore`].
    pub fn tile_store<'k>(&'k self, to: Tiles, corner: [Value<'k>; 3], (from, at): (Array<'k>, Value<'k>)) {
        let Place::Shared(from) = from.place else { panic!("a box is stored from a shared array") };
        self.emit(Stmt::TileStore { to: to.param, corner: corner.map(|index| index.expr), from, at: at.expr });
    }

    /// The thread waits for its stores of boxes to have read what they store: see [`Wait::Stores`].
    pub fn wait_stores(&self) {
        self.emit(Stmt::Wait(Wait::Stores));
    }

    /// The warps of the block go different ways: see [`Stmt::Roles`].
    pub fn roles<'k>(&'k self, parts: Vec<Part<'k>>) {
        let role = |part: Part<'k>| WarpRole { warps: part.warps, registers: part.registers, body: self.block_of(part.body) };
        let roles = parts.into_iter().map(role).collect();
        self.emit(Stmt::Roles(roles));
    }

    /// Waits for the launches before this one, which may be early: see [`Wait::Launches`].
    pub fn wait_launches(&self) {
        self.emit(Stmt::Wait(Wait::Launches));
    }

    /// The next launch may begin if it is early: see [`Stmt::AllowNext`].
    pub fn allow_next(&self) {
        self.emit(Stmt::AllowNext);
    }

    /// Threads come to the barrier `id`, to which `count` come, and go on: see [`Stmt::BarrierArrive`].
    pub fn arrive_at(&self, id: u8, count: u32) {
        self.emit(Stmt::BarrierArrive { id, count });
    }

    /// `count` threads of the block meet at the barrier `id`: see [`Scope::Threads`].
    pub fn barrier_of(&self, id: u8, count: u32) {
        self.emit(Stmt::Barrier(Scope::Threads { id, count }));
    }
}

impl<'k> Array<'k> {
    /// An element of it will be read soon: see [`Stmt::Prefetch`].
    pub fn prefetch(self, offset: Value<'k>) {
        let Place::Param(from) = self.place else { panic!("shared memory is near already") };
        self.kernel.emit(Stmt::Prefetch { from, offset: offset.expr });
    }
}

impl<'k> Stages<'k> {
    /// The thread arrives at the phase of a stage that is under way.
    pub fn arrive(self, stage: Value<'k>) {
        self.kernel.emit(Stmt::Arrive { barrier: self.barrier, stage: stage.expr, arrival: Arrival::Now });
    }

    /// The thread arrives, and has the phase expect so many bytes more.
    pub fn arrive_expecting(self, stage: Value<'k>, bytes: Value<'k>) {
        let arrival = Arrival::Expecting(bytes.expr);
        self.kernel.emit(Stmt::Arrive { barrier: self.barrier, stage: stage.expr, arrival });
    }

    /// The thread arrives when the copies are there that it has started: see [`Arrival::Copied`].
    pub fn arrive_copied(self, stage: Value<'k>) {
        self.kernel.emit(Stmt::Arrive { barrier: self.barrier, stage: stage.expr, arrival: Arrival::Copied });
    }

    /// The thread arrives at a stage of the block with this number in the cluster.
    pub fn arrive_in_block(self, stage: Value<'k>, block: Value<'k>) {
        let arrival = Arrival::InBlock(block.expr);
        self.kernel.emit(Stmt::Arrive { barrier: self.barrier, stage: stage.expr, arrival });
    }

    /// The thread starts a copy of `bytes` bytes from element `offset` of a buffer to element `at` of a shared array, which the phase of
    /// a stage that is under way expects: see [`Stmt::BulkCopy`].
    pub fn bulk_copy(
        self,
        stage: Value<'k>,
        (to, at): (Array<'k>, Value<'k>),
        (from, offset): (Array<'k>, Value<'k>),
        bytes: u32,
    ) {
        let (Place::Shared(to), Place::Param(from)) = (to.place, from.place) else {
            panic!("a bulk copy goes from a buffer to a shared array")
        };
        let (at, offset, stage) = (at.expr, offset.expr, stage.expr);
        self.kernel.emit(Stmt::BulkCopy { to, at, from, offset, bytes, barrier: self.barrier, stage });
    }

    /// The thread starts a copy of the box of a tensor whose first element is at `corner`, to element `at` of a shared array, which the
    /// phase of a stage that is under way expects: see [`Stmt::TileCopy`].
    pub fn tile_copy(self, stage: Value<'k>, (to, at): (Array<'k>, Value<'k>), from: Tiles, corner: [Value<'k>; 3]) {
        let Place::Shared(to) = to.place else { panic!("a box is copied to a shared array") };
        let (at, corner, stage) = (at.expr, corner.map(|index| index.expr), stage.expr);
        self.kernel.emit(Stmt::TileCopy { to, at, from: from.param, corner, barrier: self.barrier, stage, to_all: false });
    }

    /// The same, to every block of the cluster.
    pub fn tile_copy_to_all(self, stage: Value<'k>, (to, at): (Array<'k>, Value<'k>), from: Tiles, corner: [Value<'k>; 3]) {
        let Place::Shared(to) = to.place else { panic!("a box is copied to a shared array") };
        let (at, corner, stage) = (at.expr, corner.map(|index| index.expr), stage.expr);
        self.kernel.emit(Stmt::TileCopy { to, at, from: from.param, corner, barrier: self.barrier, stage, to_all: true });
    }

    /// The thread waits until a phase of a stage is over: see [`Wait::Phase`].
    pub fn wait(self, stage: Value<'k>, phase: Value<'k>) {
        self.kernel.emit(Stmt::Wait(Wait::Phase { barrier: self.barrier, stage: stage.expr, phase: phase.expr }));
    }
}
