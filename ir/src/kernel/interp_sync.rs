//! What threads do at mbarriers, and copies that are under way until a phase is over.

use super::interp::{Run, address};
use super::interp_blocks::Sent;
use super::meetings::Waits;
use super::{Arrival, Expr, Handle, Mbarrier, Place, Shared};

/// A copy that is under way: what it brings, to which byte of which array, and the phase at whose end it is there.
pub(super) struct Flight {
    bytes: Vec<u8>,
    to: Handle<Shared>,
    at: usize,
    /// Whether a thread's copy brings it: products see that behind a fence only.
    of_thread: bool,
    barrier: Handle<Mbarrier>,
    stage: usize,
    phase: i64,
}

impl Run<'_> {
    pub(super) fn arrive(
        &mut self,
        barrier: Handle<Mbarrier>,
        stage: Handle<Expr>,
        arrival: Arrival,
        active: &[u32],
    ) -> Result<(), String> {
        let stages = self.eval(stage, active)?;
        let bytes = arrival.bytes().map(|bytes| self.eval(bytes, active)).transpose()?;
        let blocks = arrival.block().map(|block| self.eval(block, active)).transpose()?;
        for (i, (thread, stage)) in active.iter().zip(stages).enumerate() {
            let elsewhere = blocks.as_ref().map(|blocks| blocks[i] as i64).filter(|block| *block != i64::from(self.number()));
            if let Some(block) = elsewhere {
                let sent = self.send(block, Sent::Arrival { barrier, stage });
                sent.map_err(|why| format!("thread {thread}: {why}"))?;
                continue;
            }
            let bytes = bytes.as_ref().map_or(0, |bytes| bytes[i] as i64);
            if arrival == Arrival::Copied {
                self.bind_copies(*thread, (barrier, stage as i64)).map_err(|why| format!("thread {thread}: {why}"))?;
            }
            let arrived = self.here.meetings.arrive(barrier, stage as i64, bytes);
            arrived.map_err(|why| format!("thread {thread}: {why}"))?;
        }
        self.land();
        Ok(())
    }

    /// The copies of the thread that are under way are there when the phase under way at the stage is over.
    fn bind_copies(&mut self, thread: u32, (barrier, stage): (Handle<Mbarrier>, i64)) -> Result<(), String> {
        let phase = self.here.meetings.come(barrier, stage, 0)?;
        for (to, at, bytes) in self.here.copies.take(thread) {
            let (to, stage) = (Handle::new(to), stage as usize);
            self.here.flights.push(Flight { bytes, to, at, of_thread: true, barrier, stage, phase });
        }
        Ok(())
    }

    /// What the threads wait for.
    pub(super) fn phases(
        &mut self,
        barrier: Handle<Mbarrier>,
        stage: Handle<Expr>,
        phase: Handle<Expr>,
        active: &[u32],
    ) -> Result<Waits, String> {
        let (stages, numbers) = (self.eval(stage, active)?, self.eval(phase, active)?);
        let mut phases = Vec::new();
        for ((thread, stage), phase) in active.iter().zip(stages).zip(numbers) {
            let of = self.here.meetings.phase(barrier, stage as i64, phase as i64);
            phases.push(of.map_err(|why| format!("thread {thread}: {why}"))?);
        }
        phases.sort_unstable();
        phases.dedup();
        Ok(Waits::Phases { barrier, phases })
    }

    /// The bytes are read now and counted now, and known in shared memory when the phase is over.
    pub(super) fn bulk_copy(
        &mut self,
        (to, at): (Handle<Shared>, Handle<Expr>),
        (from, offset): (u32, Handle<Expr>),
        bytes: u32,
        (barrier, stage): (Handle<Mbarrier>, Handle<Expr>),
        active: &[u32],
    ) -> Result<(), String> {
        let [at, offset, stage] = [at, offset, stage].map(|of| self.eval(of, active));
        let (targets, sources, stages) = (at?, offset?, stage?);
        for (i, thread) in active.iter().enumerate() {
            let place = |what: &'static str, element: u64| {
                move |why: String| format!("thread {thread}, {what} element {}: {why}", element as i64)
            };
            let (memory, elem) = self.array(Place::Param(from))?;
            let (len, align, mut lanes) = ((u64::from(bytes) / elem.bytes()) as usize, BULK_ALIGN, Vec::new());
            let source = address(memory, elem, sources[i], len, align);
            let read = source.and_then(|at| memory.read(elem, at, len, &mut lanes));
            read.map_err(place("from", sources[i]))?;
            let (memory, _) = self.array(Place::Shared(to))?;
            let at = address(memory, elem, targets[i], len, align).map_err(place("to", targets[i]))?;
            let bytes = lanes.iter().flat_map(|lane| lane.to_le_bytes()[..elem.bytes() as usize].to_vec()).collect();
            self.fly((to, at), bytes, (barrier, stages[i])).map_err(|why| format!("thread {thread}, {why}"))?;
        }
        self.land();
        Ok(())
    }

    /// These bytes are under way to byte `at` of the array, and belong to the phase under way at the stage.
    pub(super) fn fly(
        &mut self,
        (to, at): (Handle<Shared>, usize),
        bytes: Vec<u8>,
        (barrier, stage): (Handle<Mbarrier>, u64),
    ) -> Result<(), String> {
        let (memory, elem) = self.array(Place::Shared(to))?;
        let element = at / elem.bytes() as usize;
        let place = |why: String| format!("to element {element}: {why}");
        memory.expect_at(at, bytes.len()).map_err(place)?;
        self.here.products.change(to, at..at + bytes.len()).map_err(place)?;
        let come = self.here.meetings.come(barrier, stage as i64, bytes.len() as u32);
        let phase = come.map_err(place)?;
        self.here.flights.push(Flight { bytes, to, at, of_thread: false, barrier, stage: stage as usize, phase });
        Ok(())
    }

    /// Copies whose phase is over are there.
    pub(super) fn land(&mut self) {
        let (shared, meetings, products) = (&mut self.here.shared, &self.here.meetings, &mut self.here.products);
        self.here.flights.retain(|of| {
            let over = meetings.over(of.barrier, of.stage) > of.phase;
            if over {
                shared[of.to.index()].arrive_at(of.at, &of.bytes);
                let bytes = of.at..of.at + of.bytes.len();
                if of.of_thread { products.store(of.to.index(), bytes) } else { products.land(of.to.index(), bytes) }
            }
            !over
        });
    }
}

/// The alignment of both ends of a bulk copy, in bytes.
const BULK_ALIGN: u32 = 16;
