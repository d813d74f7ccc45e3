//! The blocks of a launch: one cluster after another, and the blocks of a cluster side by side.

use std::ops::Range;

use super::agents::Agents;
use super::interp::{Run, Stop};
use super::interp_group::Products;
use super::interp_matrix::Copies;
use super::interp_sync::Flight;
use super::meetings::{Meeting, Meetings};
use super::{Handle, Kernel, Local, Location, Mbarrier, Memory, Shared};
use crate::DType;

/// What reaches into another block of the cluster.
#[derive(Clone)]
pub(super) enum Sent {
    /// A thread arrives at a stage.
    Arrival { barrier: Handle<Mbarrier>, stage: u64 },
    /// These bytes are under way to byte `at` of an array, and belong to a stage.
    Bytes { to: Handle<Shared>, at: usize, bytes: Vec<u8>, barrier: Handle<Mbarrier>, stage: u64 },
}

/// What a block has for itself.
#[derive(Default)]
pub(super) struct Here {
    /// Its number in the grid.
    pub(super) number: u32,
    pub(super) shared: Vec<Memory>,
    /// Of all threads, one after another.
    pub(super) registers: Vec<Memory>,
    pub(super) copies: Copies,
    pub(super) meetings: Meetings,
    /// Bulk copies under way.
    pub(super) flights: Vec<Flight>,
    pub(super) products: Products,
    pub(super) slots: Vec<Slot>,
    /// Whether it has waited for the launches before.
    pub(super) waited: bool,
}

/// The values that the threads of a block gave a local.
pub(super) struct Slot {
    pub(super) lanes: usize,
    pub(super) values: Vec<u64>,
    pub(super) bound: Vec<bool>,
}

impl Here {
    /// At the start of a block.
    fn of(kernel: &Kernel, number: u32) -> Here {
        let shared: Vec<Memory> = kernel.shared.iter().map(|(_, shared)| scratch(shared.elem, shared.len, 1)).collect();
        let registers = kernel.registers.iter();
        Here {
            number,
            registers: registers.map(|(_, array)| scratch(array.elem, array.len, kernel.threads)).collect(),
            copies: Copies::of_threads(kernel.threads),
            meetings: Meetings::of(kernel),
            flights: Vec::new(),
            products: Products::of(&shared),
            slots: kernel.locals.iter().map(|(_, local)| slot(local, kernel.threads as usize)).collect(),
            waited: false,
            shared,
        }
    }
}

/// So many arrays, one after another.
fn scratch(elem: DType, len: u32, arrays: u32) -> Memory {
    Memory::unknown(len as usize * elem.bytes() as usize * arrays as usize)
}

fn slot(local: &Local, threads: usize) -> Slot {
    let lanes = local.ty.lanes as usize;
    Slot { lanes, values: vec![0; threads * lanes], bound: vec![false; threads] }
}

impl<'a> Run<'a> {
    /// All blocks, to their ends.
    pub(super) fn grid(mut self, blocks: Range<u64>) -> Result<(), Stop> {
        let stop = |message: String| Stop { at: Location::Kernel(self.index), message };
        let cluster = self.kernel.cluster.max(1);
        let number = |blocks: u64| u32::try_from(blocks).ok().filter(|blocks| *blocks <= i32::MAX as u32);
        let (Some(start), Some(end)) = (number(blocks.start), number(blocks.end)) else {
            return Err(stop("too many blocks".to_string()));
        };
        if let Some(blocks) = [start, end].into_iter().find(|blocks| !blocks.is_multiple_of(cluster)) {
            return Err(stop(format!("{blocks} blocks are not whole clusters of {cluster}")));
        }
        (start / cluster..end / cluster).try_for_each(|number| self.cluster(number * cluster..(number + 1) * cluster))
    }

    /// The blocks of a cluster, to their ends: each goes on as far as it gets, then the next.
    fn cluster(&mut self, blocks: Range<u32>) -> Result<(), Stop> {
        let kernel = self.kernel;
        self.cluster = Meeting::default();
        let mut under_way: Vec<(Here, Agents<'a>)> =
            blocks.map(|number| (Here::of(kernel, number), Agents::of(&kernel.body, kernel.threads))).collect();
        while !under_way.is_empty() {
            let mut moved = false;
            for i in 0..under_way.len() {
                let (here, agents) = &mut under_way[i];
                std::mem::swap(&mut self.here, here);
                let went = self.go_on(agents);
                std::mem::swap(&mut self.here, here);
                moved |= went.map_err(|stop| in_block(here.number, stop))?;
                let from = here.number;
                self.deliver(from, &mut under_way)?;
                let (here, agents) = &under_way[i];
                if agents.are_at_their_ends() && !here.products.are_over() {
                    let message = "a product or a store under way is not waited for".to_string();
                    return Err(in_block(here.number, Stop { at: Location::Kernel(self.index), message }));
                }
            }
            under_way.retain(|(_, agents)| !agents.are_at_their_ends());
            if !moved {
                return Err(self.deadlock(&under_way));
            }
        }
        Ok(())
    }

    /// The block's number in its cluster.
    pub(super) fn number(&self) -> u32 {
        self.here.number % self.kernel.cluster.max(1)
    }

    /// Something for the block with this number in the cluster.
    pub(super) fn send(&mut self, to: i64, sent: Sent) -> Result<(), String> {
        let blocks = self.kernel.cluster.max(1);
        let to = u32::try_from(to).ok().filter(|to| *to < blocks);
        let to = to.ok_or_else(|| format!("there is no such block in a cluster of {blocks}"))?;
        self.sent.push((to, sent));
        Ok(())
    }

    /// Something for each other block of the cluster.
    pub(super) fn send_to_others(&mut self, sent: Sent) {
        let (blocks, own) = (self.kernel.cluster.max(1), self.number());
        self.sent.extend((0..blocks).filter(|to| *to != own).map(|to| (to, sent.clone())));
    }

    /// What a block has sent is with the others. It went as far as it could, so they may be any way behind.
    fn deliver(&mut self, from: u32, under_way: &mut [(Here, Agents<'a>)]) -> Result<(), Stop> {
        for (to, sent) in std::mem::take(&mut self.sent) {
            let at = Location::Kernel(self.index);
            let stop = |why: String| Stop {
                at: at.clone(),
                message: format!("block {from} reaches into block {to} of its cluster: {why}"),
            };
            let blocks = self.kernel.cluster.max(1);
            let found = under_way.iter_mut().find(|(here, agents)| here.number % blocks == to && !agents.are_at_their_ends());
            let (here, _) = found.ok_or_else(|| stop("it has ended".to_string()))?;
            std::mem::swap(&mut self.here, here);
            let received = self.receive(sent);
            std::mem::swap(&mut self.here, here);
            received.map_err(stop)?;
        }
        Ok(())
    }

    fn receive(&mut self, sent: Sent) -> Result<(), String> {
        match sent {
            Sent::Arrival { barrier, stage } => self.here.meetings.arrive(barrier, stage as i64, 0)?,
            Sent::Bytes { to, at, bytes, barrier, stage } => self.fly((to, at), bytes, (barrier, stage))?,
        }
        self.land();
        Ok(())
    }

    /// What those blocks wait for that cannot go on.
    fn deadlock(&self, blocks: &[(Here, Agents<'a>)]) -> Stop {
        let why = blocks.iter().map(|(here, agents)| {
            let waits = agents.blocked(self.kernel, &here.meetings, &self.cluster);
            format!("block {}: deadlock: {}", here.number, waits.join("; "))
        });
        let message = why.collect::<Vec<_>>().join("; ");
        let path = blocks.first().map(|(_, agents)| agents.place()).unwrap_or_default();
        Stop { at: Location::Stmt(self.index, path), message }
    }
}

fn in_block(number: u32, stop: Stop) -> Stop {
    Stop { message: format!("block {number}: {}", stop.message), ..stop }
}
