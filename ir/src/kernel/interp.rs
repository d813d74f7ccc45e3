//! What a program does, slowly and obviously: the definition of every statement, and the oracle of generated code.
//!
//! All threads of a block go through a statement before any goes on to the next, so a barrier that is missing does
//! not show here (the emulator's business). What a machine leaves undefined is a [`Fault`]. How threads go from one statement to
//! the next is in `agents`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::agents::{Frame, Next, Turns};
use super::interp_blocks::{Here, Sent};
use super::meetings::{Meeting, Waits};
use super::memory::Memory;
use super::print::text_at;
use super::verify::{verify_kernel, writes};
use super::{Arena, Binary, Expr, Given, Handle, Index, Kernel, Launch, Local, Location, ParamKind, Place, Program, Role};
use super::{Extreme, Registers, Scope, Stmt, Tensor, TensorMap, Ty, Violation, Vote, Wait, Working, arith, verify};
use crate::{DType, Dims, Machine};

/// What a kernel is given for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// One of the memories, by index.
    Buffer(usize),
    /// A number.
    Scalar(i64),
    /// A tensor in one of the memories, by index, which it must lie inside.
    TensorMap(usize, Tensor),
}

/// Something undefined that a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: Location,
    /// The printed line there.
    pub text: String,
    /// What happened.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  in `{}`", self.message, self.text)
    }
}

impl std::error::Error for Fault {}

/// More than this is refused, not allocated.
const LARGEST_BUFFER_BYTES: u64 = 1 << 33;

/// Runs the launches that serve `dims` and gives every output and workspace buffer as it is afterwards.
/// `given` has the bytes of every input and weight, by name.
///
/// # Errors
/// A [`Fault`] with its place: the first violation of [`super::verify()`], a buffer that is too large, not given or of other
/// bytes, a formula without a value, or the first undefined thing that a kernel does.
pub fn interp(
    program: &Program,
    machine: &Machine,
    dims: Dims,
    given: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, Memory>, Fault> {
    let fault = |at: Location, message: String| Fault { text: text_at(program, &at), at, message };
    verify(program, machine).map_err(|found| first(found, |at| text_at(program, at)))?;
    let mut memory = Vec::new();
    for (i, buffer) in program.buffers.iter().enumerate() {
        let wrong = |message: String| fault(Location::Buffer(i), message);
        let elements = buffer.shape.iter().try_fold(1u64, |all, extent| all.checked_mul(extent.at(dims)?));
        let bytes = elements.and_then(|elements| elements.checked_mul(buffer.dtype.bytes()));
        let bytes = bytes.filter(|bytes| *bytes <= LARGEST_BUFFER_BYTES).ok_or_else(|| wrong("it is too large".to_string()))?;
        memory.push(match buffer.role {
            Role::Output | Role::Workspace | Role::Prepared => Memory::unknown(bytes as usize),
            Role::Input | Role::Weight => match given.get(&buffer.name) {
                Some(given) if given.len() as u64 == bytes => Memory::from(given.clone()),
                Some(given) => return Err(wrong(format!("{} bytes are given, it has {bytes}", given.len()))),
                None => return Err(wrong("it is not given".to_string())),
            },
        });
    }
    let serves = |bound: Option<u64>| bound.is_none_or(|bound| dims.tokens <= bound);
    let prepare = program.prepare.iter().enumerate().map(|(i, launch)| (Location::Prepare(i), launch));
    let regime = program.regimes.iter().enumerate().find(|(_, regime)| serves(regime.tokens_up_to));
    let of_regime = regime
        .into_iter()
        .flat_map(|(i, regime)| regime.launches.iter().enumerate().map(move |(j, launch)| (Location::Launch(i, j), launch)));
    let launches: Vec<(Location, &Launch)> = prepare.chain(of_regime).collect();
    // A launch that follows another is interpreted with it.
    for together in launches.chunk_by(|_, (_, next)| next.follows()) {
        let calls =
            together.iter().map(|(at, launch)| called(dims, launch, &memory).map_err(|message| fault(at.clone(), message)));
        let calls = calls.collect::<Result<Vec<Call>, Fault>>()?;
        for (call, blocks) in in_turn(&calls) {
            let ((at, launch), call) = (&together[call], &calls[call]);
            let changing = changing(program, at, launch);
            let run = Run::new(launch.kernel, &program.kernels[launch.kernel], machine, &call.args, &mut memory);
            let ended = run.and_then(|run| run.early(&changing).working(call.working).grid(blocks));
            ended.map_err(|stop| fault(stop.at, stop.message))?;
        }
    }
    let written = |role| matches!(role, Role::Output | Role::Workspace);
    let named = program.buffers.iter().zip(memory).filter(|(buffer, _)| written(buffer.role));
    Ok(named.map(|(buffer, memory)| (buffer.name.clone(), memory)).collect())
}

/// A launch at one batch.
struct Call {
    args: Vec<Argument>,
    blocks: u64,
    /// How many of them have work.
    working: u64,
    /// How many of these are for one that is counted.
    each: u64,
}

fn called(dims: Dims, launch: &Launch, memory: &[Memory]) -> Result<Call, String> {
    let none = || "a formula has no value".to_string();
    let blocks = launch.grid.at(dims).ok_or_else(none)?;
    let args = launch.args.iter().map(|arg| match &arg.given {
        Given::Buffer(index) => Ok(Argument::Buffer(*index)),
        Given::Scalar(extent) => extent.at(dims).and_then(|n| i64::try_from(n).ok()).map(Argument::Scalar).ok_or_else(none),
        Given::TensorMap(view) => Ok(Argument::TensorMap(view.buffer, view.at(dims).ok_or_else(none)?)),
    });
    // Without blocks it does nothing, and a tensor may be empty that it is given.
    let args = if blocks == 0 { Vec::new() } else { args.collect::<Result<_, String>>()? };
    let (working, each) = match &launch.working {
        Some(working) if blocks > 0 => {
            (working_blocks(working, dims, &memory[working.buffer])?.min(blocks), working.each.at(dims).ok_or_else(none)?)
        }
        Some(_) | None => (blocks, blocks),
    };
    Ok(Call { args, blocks, working, each })
}

/// The blocks of launches of which each follows the one before it, as early as they may begin: for one that is counted those of all
/// launches, then for the next one; those without work at the end. Of one launch, all its blocks.
fn in_turn(calls: &[Call]) -> Vec<(usize, Range<u64>)> {
    if let [call] = calls {
        return if call.blocks == 0 { Vec::new() } else { vec![(0, 0..call.blocks)] };
    }
    let parts = |call: &Call| call.working.div_ceil(call.each.max(1));
    let most = calls.iter().map(parts).max().unwrap_or(0);
    let of_part = |part: u64| {
        let up_to = |call: &Call, part: u64| part.saturating_mul(call.each).min(call.working);
        calls.iter().enumerate().map(move |(i, call)| (i, up_to(call, part)..up_to(call, part + 1)))
    };
    let without_work = calls.iter().enumerate().map(|(i, call)| (i, call.working..call.blocks));
    (0..most).flat_map(of_part).chain(without_work).filter(|(_, blocks)| !blocks.is_empty()).collect()
}

/// How many blocks have work, by what was counted.
fn working_blocks(working: &Working, dims: Dims, counted: &Memory) -> Result<u64, String> {
    let mut count = Vec::new();
    counted.read(DType::I32, 0, 1, &mut count).map_err(|why| format!("blocks with work: {why}"))?;
    let count = count.first().and_then(|count| u64::try_from(*count as i64).ok());
    let blocks = count.and_then(|count| count.checked_mul(working.each.at(dims)?));
    blocks.ok_or_else(|| "the number of blocks with work has no value".to_string())
}

/// The buffers that launches write which have perhaps not ended when this one begins.
fn changing(program: &Program, at: &Location, launch: &Launch) -> Vec<usize> {
    let launches = match at {
        Location::Prepare(_) => &program.prepare,
        Location::Launch(regime, _) => &program.regimes[*regime].launches,
        Location::Program | Location::Buffer(_) | Location::Regime(_) => return Vec::new(),
        Location::Update(_) | Location::Kernel(_) | Location::Stmt(..) => return Vec::new(),
    };
    let changes = |buffer: &usize| launch.early && launches.iter().any(|launch| writes(program, launch, *buffer));
    (0..program.buffers.len()).filter(changes).collect()
}

/// Runs `blocks` blocks of one kernel, one after the other.
///
/// # Errors
/// A [`Fault`]: the first violation of [`verify_kernel`], or the first undefined thing that the kernel does.
pub fn interp_kernel(
    kernel: &Kernel,
    machine: &Machine,
    blocks: u64,
    args: &[Argument],
    memory: &mut [Memory],
) -> Result<(), Fault> {
    interp_early(kernel, machine, blocks, &[], args, memory)
}

/// As [`interp_kernel`], of a launch that begins before others have ended, which write the memories `changing`, by index: reading one
/// before the wait for these launches ([`Wait::Launches`]) is a fault.
///
/// # Errors
/// As [`interp_kernel`].
pub fn interp_early(
    kernel: &Kernel,
    machine: &Machine,
    blocks: u64,
    changing: &[usize],
    args: &[Argument],
    memory: &mut [Memory],
) -> Result<(), Fault> {
    let text = |at: &Location| super::print::text_in_kernel(kernel, at);
    verify_kernel(kernel, machine).map_err(|found| first(found, text))?;
    let stop = Run::new(0, kernel, machine, args, memory).and_then(|run| run.early(changing).grid(0..blocks));
    stop.map_err(|stop| Fault { text: text(&stop.at), at: stop.at, message: stop.message })
}

fn first(found: Vec<Violation>, text: impl Fn(&Location) -> String) -> Fault {
    let first = found.into_iter().next();
    let first = first.unwrap_or(Violation { at: Location::Program, message: "it is not valid".to_string() });
    Fault { text: text(&first.at), at: first.at, message: first.message }
}

/// A fault, before it is known what the line says.
pub(super) struct Stop {
    pub(super) at: Location,
    pub(super) message: String,
}

/// Verified, so every handle and type is what it should be.
pub(super) struct Run<'a> {
    pub(super) index: usize,
    pub(super) kernel: &'a Kernel,
    pub(super) warp_lanes: u32,
    args: &'a [Argument],
    memory: &'a mut [Memory],
    pub(super) types: Vec<Ty>,
    /// For every expression evaluated before: what it needs, in order, itself last.
    needs: Vec<Option<Rc<[Handle<Expr>]>>>,
    /// What every expression last gave: the lanes of the first active thread, of the next, ...
    values: Vec<Vec<u64>>,
    /// The block that goes on.
    pub(super) here: Here,
    /// Where the blocks of its cluster meet.
    pub(super) cluster: Meeting,
    /// What the block under way has sent to others, by their numbers in the cluster.
    pub(super) sent: Vec<(u32, Sent)>,
    /// Memories that launches write for which the block has not waited.
    changing: &'a [usize],
    /// The first block that has no work.
    working: u64,
}

impl<'a> Run<'a> {
    fn new(
        index: usize,
        kernel: &'a Kernel,
        machine: &Machine,
        args: &'a [Argument],
        memory: &'a mut [Memory],
    ) -> Result<Self, Stop> {
        let fits = |(param, arg): (&super::Param, &Argument)| match (param.kind, *arg) {
            (ParamKind::Buffer { .. }, Argument::Buffer(index)) => index < memory.len(),
            (ParamKind::Scalar(elem), Argument::Scalar(n)) => elem == DType::I64 || i32::try_from(n).is_ok(),
            (ParamKind::TensorMap(_), Argument::TensorMap(index, _)) => index < memory.len(),
            (ParamKind::Buffer { .. }, Argument::Scalar(_) | Argument::TensorMap(..)) => false,
            (ParamKind::Scalar(_), Argument::Buffer(_) | Argument::TensorMap(..)) => false,
            (ParamKind::TensorMap(_), Argument::Buffer(_) | Argument::Scalar(_)) => false,
        };
        let types: Result<Vec<Ty>, String> = kernel.types().into_iter().collect();
        let wrong = |message: String| Stop { at: Location::Kernel(index), message };
        if args.len() != kernel.params.len() || !kernel.params.iter().zip(args).all(fits) {
            return Err(wrong("the arguments do not fit the parameters".to_string()));
        }
        for (param, arg) in kernel.params.iter().zip(args) {
            if let (ParamKind::TensorMap(map), Argument::TensorMap(index, tensor)) = (param.kind, arg) {
                let elements = memory[*index].len() as u64 / map.elem.bytes();
                tensor.check(map.elem, elements).map_err(|why| wrong(format!("%{}: {why}", param.name)))?;
            }
        }
        Ok(Run {
            index,
            kernel,
            warp_lanes: machine.warp_lanes,
            args,
            memory,
            types: types.map_err(wrong)?,
            needs: vec![None; kernel.exprs.len()],
            values: vec![Vec::new(); kernel.exprs.len()],
            here: Here::default(),
            cluster: Meeting::default(),
            sent: Vec::new(),
            changing: &[],
            working: u64::MAX,
        })
    }

    /// Begins before the launches have ended that write these memories.
    fn early(self, changing: &'a [usize]) -> Self {
        Run { changing, ..self }
    }

    /// Has work for so many blocks.
    fn working(self, working: u64) -> Self {
        Run { working, ..self }
    }

    /// That the block under way may have an effect.
    fn has_work(&self) -> Result<(), String> {
        if u64::from(self.here.number) < self.working { Ok(()) } else { Err("writes, though the block has no work".to_string()) }
    }

    /// That no launch which has not been waited for writes this memory.
    fn settled(&self, memory: usize) -> Result<(), String> {
        let is_settled = self.here.waited || !self.changing.contains(&memory);
        if is_settled { Ok(()) } else { Err("touches what a launch before this one writes: it is not waited for".to_string()) }
    }

    /// What the threads do at this statement, except what is in the blocks inside it.
    pub(super) fn stmt(&mut self, stmt: &'a Stmt, active: &[u32]) -> Result<Next<'a>, String> {
        match stmt {
            Stmt::Let { local, value } | Stmt::Var { local, value } | Stmt::Set { local, value } => {
                let value = self.eval(*value, active)?;
                self.bind(*local, active, &value);
            }
            Stmt::Load { local, from, offset, align, hint: _ } => {
                let lanes = self.kernel.locals[*local].ty.lanes as usize;
                let offsets = self.eval(*offset, active)?;
                let mut loaded = Vec::with_capacity(active.len() * lanes);
                for (thread, offset) in active.iter().zip(offsets) {
                    let first = self.first_of(*from, *thread);
                    let (memory, elem) = self.array(*from)?;
                    let at = address(memory, elem, first.wrapping_add(offset), lanes, *align);
                    let read = at.and_then(|at| memory.read(elem, at, lanes, &mut loaded));
                    read.map_err(|why| format!("thread {thread}, element {}: {why}", offset as i64))?;
                }
                self.bind(*local, active, &loaded);
            }
            Stmt::Store { to, offset, value, align } => {
                let lanes = self.types[value.index()].lanes as usize;
                let (offsets, values) = (self.eval(*offset, active)?, self.eval(*value, active)?);
                for ((thread, offset), value) in active.iter().zip(offsets).zip(values.chunks(lanes)) {
                    let first = self.first_of(*to, *thread);
                    let written = self.store(*to, first.wrapping_add(offset), value, *align);
                    written.map_err(|why| format!("thread {thread}, element {}: {why}", offset as i64))?;
                }
            }
            Stmt::AtomicAdd { local, to, offset, value } => {
                let (offsets, values) = (self.eval(*offset, active)?, self.eval(*value, active)?);
                let mut before = Vec::with_capacity(active.len());
                for ((thread, offset), value) in active.iter().zip(offsets).zip(values) {
                    let (memory, elem) = self.array(*to)?;
                    let place = |why| format!("thread {thread}, element {}: {why}", offset as i64);
                    let align = elem.bytes() as u32;
                    let at = address(memory, elem, offset, 1, align).map_err(place)?;
                    memory.read(elem, at, 1, &mut before).map_err(place)?;
                    let old = before.last().copied().unwrap_or_default();
                    self.store(*to, offset, &[arith::binary(Binary::Add, elem, old, value)?], align).map_err(place)?;
                }
                local.iter().for_each(|local| self.bind(*local, active, &before));
            }
            Stmt::Shuffle { local, value, mask } => {
                self.whole_warps(active)?;
                let values = self.eval(*value, active)?;
                // The warps are whole: where a lane is among the active, its partner is as far away as in the block.
                let partner = |i: usize| i + (active[i] ^ mask) as usize - active[i] as usize;
                let taken: Vec<u64> = (0..active.len()).filter_map(|i| values.get(partner(i)).copied()).collect();
                self.bind(*local, active, &taken);
            }
            Stmt::Vote { local, vote, value } => {
                self.whole_warps(active)?;
                let truths = self.eval(*value, active)?;
                let warps = truths.chunks(self.warp_lanes as usize);
                let agreed = warps.flat_map(|warp| std::iter::repeat_n(agreed(*vote, warp), warp.len()));
                let agreed: Vec<u64> = agreed.collect();
                self.bind(*local, active, &agreed);
            }
            Stmt::Redux { local, extreme, value } => {
                self.whole_warps(active)?;
                let values = self.eval(*value, active)?;
                let of_warp = |warp: &[u64]| {
                    let numbers = warp.iter().map(|bits| *bits as i32);
                    let found = match extreme {
                        Extreme::Max => numbers.max(),
                        Extreme::Min => numbers.min(),
                    };
                    std::iter::repeat_n(i64::from(found.unwrap_or_default()) as u64, warp.len())
                };
                let bound: Vec<u64> = values.chunks(self.warp_lanes as usize).flat_map(of_warp).collect();
                self.bind(*local, active, &bound);
            }
            Stmt::Barrier(Scope::Warp) => self.whole_warps(active)?,
            Stmt::Barrier(Scope::Block) => self.whole_block(active)?,
            Stmt::Barrier(Scope::Cluster) => {
                self.whole_block(active)?;
                let count = self.kernel.cluster.saturating_mul(self.kernel.threads);
                return self.cluster.meet(count, active.len()).map(|meeting| Next::Wait(Waits::Cluster { meeting }));
            }
            Stmt::Barrier(Scope::Threads { id, count }) => {
                self.whole_warps(active)?;
                return self.here.meetings.meet(*id, *count, active.len()).map(Next::Wait);
            }
            Stmt::BarrierArrive { id, count } => {
                self.whole_warps(active)?;
                self.here.meetings.meet(*id, *count, active.len()).map(drop)?;
            }
            Stmt::Roles(roles) => return Ok(Next::Roles(roles)),
            Stmt::Arrive { barrier, stage, arrival } => self.arrive(*barrier, *stage, *arrival, active)?,
            Stmt::Wait(Wait::Phase { barrier, stage, phase }) => {
                return self.phases(*barrier, *stage, *phase, active).map(Next::Wait);
            }
            Stmt::BulkCopy { to, at, from, offset, bytes, barrier, stage } => {
                self.bulk_copy((*to, *at), (*from, *offset), *bytes, (*barrier, *stage), active)?;
            }
            Stmt::TileCopy { to, at, from, corner, barrier, stage, to_all } => {
                self.tile_copy((*to, *at), (*from, *corner), (*barrier, *stage, *to_all), active)?;
            }
            Stmt::TileStore { to, corner, from, at } => self.tile_store((*to, *corner), (*from, *at), active)?,
            Stmt::Wait(Wait::Stores) => self.here.products.stores_are_over(active),
            Stmt::Prefetch { from, offset } => {
                let offsets = self.eval(*offset, active)?;
                let (memory, elem) = self.array(Place::Param(*from))?;
                for (thread, offset) in active.iter().zip(offsets) {
                    let inside = address(memory, elem, offset, 1, elem.bytes() as u32);
                    inside.map_err(|why| format!("thread {thread}, element {}: {why}", offset as i64))?;
                }
            }
            Stmt::For { local, start, end, step, body } => {
                let signed = |values: Vec<u64>| values.into_iter().map(|n| n as i64);
                let next = signed(self.eval(*start, active)?).collect();
                let end = signed(self.eval(*end, active)?).collect();
                let step: Vec<i64> = signed(self.eval(*step, active)?).collect();
                if step.iter().any(|step| *step <= 0) {
                    return Err("the step is not positive".to_string());
                }
                let turns = Turns { local: *local, threads: active.to_vec(), next, end, step };
                return Ok(Next::Enter(Frame::of_loop(body, turns)));
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = self.eval(*cond, active)?;
                let those = |truth: u64| active.iter().zip(&cond).filter(move |(_, c)| **c == truth).map(|(thread, _)| *thread);
                return Ok(Next::Enter(Frame::of_if([then, otherwise], [those(1).collect(), those(0).collect()])));
            }
            Stmt::Copy { to, at, from, offset, bytes, live } => self.copy([*to, *from], [*at, *offset], *bytes, *live, active)?,
            Stmt::Commit => active.iter().for_each(|thread| self.here.copies.commit(*thread)),
            Stmt::Wait(Wait::Groups(left)) => {
                for thread in active {
                    for (array, bytes) in self.here.copies.wait(*thread, *left, &mut self.here.shared) {
                        self.here.products.store(array, bytes);
                    }
                }
            }
            Stmt::LoadMatrix { locals, from, offset, transposed } => {
                self.load_matrices(locals, (*from, *offset), *transposed, active)?;
            }
            Stmt::StoreMatrix { to, offset, pairs, transposed } => {
                self.store_matrices((*to, *offset), pairs, *transposed, active)?;
            }
            Stmt::Mma { shape, sums, at, a, b } => self.mma(*shape, (*sums, *at), [a, b], active)?,
            Stmt::GroupMma { columns, depth, sums, at, a, b } => {
                self.group_mma([*columns, *depth], (*sums, *at), (a, b), active)?;
            }
            Stmt::Wait(Wait::Products(left)) => self.wait_products(*left, active)?,
            Stmt::Fence => self.here.products.fence(),
            Stmt::Wait(Wait::Launches) => self.here.waited = true,
            Stmt::AllowNext => {}
        }
        Ok(Next::Statement)
    }

    pub(super) fn store(&mut self, to: Place, offset: u64, lanes: &[u64], align: u32) -> Result<(), String> {
        let (memory, elem) = self.array(to)?;
        let at = address(memory, elem, offset, lanes.len(), align)?;
        let bytes = at..at + lanes.len() * elem.bytes() as usize;
        if let Place::Shared(array) = to {
            self.here.products.change(array, bytes.clone())?;
            self.here.products.store(array.index(), bytes);
        }
        if let Place::Param(_) = to {
            self.has_work()?;
        }
        self.array(to)?.0.write(elem, at, lanes)
    }

    fn copy(
        &mut self,
        [to, from]: [Place; 2],
        [at, offset]: [Handle<Expr>; 2],
        bytes: u32,
        live: Option<Handle<Expr>>,
        active: &[u32],
    ) -> Result<(), String> {
        let (targets, sources) = (self.eval(at, active)?, self.eval(offset, active)?);
        let live = live.map_or_else(|| Ok(vec![1; active.len()]), |live| self.eval(live, active))?;
        let Place::Shared(array) = to else { return Err("a copy goes to shared memory".to_string()) };
        for (i, &thread) in active.iter().enumerate() {
            let place = |what: &str, element: u64| {
                let what = format!("thread {thread}, {what} element {}", element as i64);
                move |why: String| format!("{what}: {why}")
            };
            let (memory, elem) = self.array(from)?;
            let lanes = bytes as usize / elem.bytes() as usize;
            let mut copied = Vec::with_capacity(lanes);
            if live[i] == 1 {
                let from = address(memory, elem, sources[i], lanes, bytes).map_err(place("from", sources[i]))?;
                memory.read(elem, from, lanes, &mut copied).map_err(place("from", sources[i]))?;
            }
            copied.resize(lanes, 0);
            let copied: Vec<u8> = copied.iter().flat_map(|lane| lane.to_le_bytes()[..elem.bytes() as usize].to_vec()).collect();
            let (memory, elem) = self.array(to)?;
            let to = address(memory, elem, targets[i], lanes, bytes).map_err(place("to", targets[i]))?;
            let free = self.here.products.change(array, to..to + copied.len());
            let started = free.and_then(|()| self.here.copies.start(thread, &mut self.here.shared, (array.index(), to), copied));
            started.map_err(place("to", targets[i]))?;
        }
        Ok(())
    }

    /// Element `at` of the array of each of these threads.
    pub(super) fn of_registers(&self, array: Handle<Registers>, at: u32, threads: &[u32]) -> Result<Vec<u64>, String> {
        let elem = self.kernel.registers[array].elem;
        let mut values = Vec::with_capacity(threads.len());
        for thread in threads {
            let element = self.first_of(Place::Registers(array), *thread) as usize + at as usize;
            self.here.registers[array.index()].read(elem, element * elem.bytes() as usize, 1, &mut values)?;
        }
        Ok(values)
    }

    /// Where an element of the array of a thread lies.
    pub(super) fn register(&mut self, array: Handle<Registers>, at: u32, thread: u32) -> (&mut Memory, usize) {
        let element = self.first_of(Place::Registers(array), thread) as usize + at as usize;
        (&mut self.here.registers[array.index()], element * self.kernel.registers[array].elem.bytes() as usize)
    }

    pub(super) fn set_registers(
        &mut self,
        array: Handle<Registers>,
        at: u32,
        threads: &[u32],
        values: &[u64],
    ) -> Result<(), String> {
        let elem = self.kernel.registers[array].elem;
        for (thread, value) in threads.iter().zip(values) {
            let element = self.first_of(Place::Registers(array), *thread) as usize + at as usize;
            self.here.registers[array.index()].write(elem, element * elem.bytes() as usize, &[*value])?;
        }
        Ok(())
    }

    /// Where the array of this thread begins, of all that an array stands for.
    fn first_of(&self, place: Place, thread: u32) -> u64 {
        match place {
            Place::Registers(handle) => u64::from(thread) * u64::from(self.kernel.registers[handle].len),
            Place::Shared(_) | Place::Param(_) => 0,
        }
    }

    pub(super) fn array(&mut self, place: Place) -> Result<(&mut Memory, DType), String> {
        let elem = self.kernel.elem(place).ok_or("there is no such array")?;
        match place {
            Place::Shared(handle) => Ok((&mut self.here.shared[handle.index()], elem)),
            Place::Registers(handle) => Ok((&mut self.here.registers[handle.index()], elem)),
            Place::Param(i) => match self.args[i as usize] {
                Argument::Buffer(index) => {
                    self.settled(index)?;
                    Ok((&mut self.memory[index], elem))
                }
                Argument::Scalar(_) | Argument::TensorMap(..) => Err("this is not an array".to_string()),
            },
        }
    }

    /// What a parameter for a tensor map is given.
    pub(super) fn tensor(&self, param: u32) -> Result<(TensorMap, Tensor, &Memory), String> {
        let kind = self.kernel.params.get(param as usize).map(|param| param.kind);
        match (kind, self.args.get(param as usize)) {
            (Some(ParamKind::TensorMap(map)), Some(Argument::TensorMap(index, tensor))) => {
                self.settled(*index)?;
                Ok((map, *tensor, &self.memory[*index]))
            }
            (_, _) => Err("this is not a tensor map".to_string()),
        }
    }

    /// The memory that the tensor of such a parameter lies in.
    pub(super) fn tensor_memory(&mut self, param: u32) -> Result<&mut Memory, String> {
        self.has_work()?;
        match self.args.get(param as usize) {
            Some(Argument::TensorMap(index, _)) => Ok(&mut self.memory[*index]),
            Some(Argument::Buffer(_) | Argument::Scalar(_)) | None => Err("this is not a tensor map".to_string()),
        }
    }

    pub(super) fn bind(&mut self, local: Handle<Local>, active: &[u32], values: &[u64]) {
        let slot = &mut self.here.slots[local.index()];
        if slot.lanes == 1 {
            // As below, without a call to copy one word.
            for (thread, value) in active.iter().zip(values) {
                slot.values[*thread as usize] = *value;
                slot.bound[*thread as usize] = true;
            }
            return;
        }
        for (thread, value) in active.iter().zip(values.chunks(slot.lanes)) {
            let thread = *thread as usize;
            slot.values[thread * slot.lanes..(thread + 1) * slot.lanes].copy_from_slice(value);
            slot.bound[thread] = true;
        }
    }

    fn whole_block(&self, active: &[u32]) -> Result<(), String> {
        let all = active.len() == self.kernel.threads as usize;
        if all { Ok(()) } else { Err(format!("only {} threads come to the barrier", active.len())) }
    }

    pub(super) fn whole_warps(&self, active: &[u32]) -> Result<(), String> {
        let lanes = self.warp_lanes as usize;
        // Active threads are in order, so the first and the last of a warp decide.
        let first = |warp: &[u32]| warp[0] as usize / lanes * lanes;
        let whole = |warp: &[u32]| {
            warp.len() == lanes && warp[0] as usize == first(warp) && warp[lanes - 1] as usize == first(warp) + lanes - 1
        };
        if active.chunks(lanes).all(whole) { Ok(()) } else { Err("some lanes of a warp do not come here".to_string()) }
    }

    /// The lanes of every active thread, one after the other.
    pub(super) fn eval(&mut self, root: Handle<Expr>, active: &[u32]) -> Result<Vec<u64>, String> {
        let exprs = &self.kernel.exprs;
        let needs = self.needs[root.index()].get_or_insert_with(|| needs(exprs, root)).clone();
        for &handle in needs.iter() {
            // What the node gave before makes room for what it gives now.
            let mut values = std::mem::take(&mut self.values[handle.index()]);
            values.clear();
            self.value(&exprs[handle], handle, active, &mut values)?;
            self.values[handle.index()] = values;
        }
        Ok(std::mem::take(&mut self.values[root.index()]))
    }

    /// Of operands that have just been evaluated.
    fn value(&self, expr: &Expr, handle: Handle<Expr>, active: &[u32], into: &mut Vec<u64>) -> Result<(), String> {
        let every = |bits: u64| std::iter::repeat_n(bits, active.len());
        let of = |h: Handle<Expr>| &self.values[h.index()];
        let elem = |h: Handle<Expr>| self.types[h.index()].elem;
        let lanes = |h: Handle<Expr>| self.types[h.index()].lanes as usize;
        let zip = |a: Handle<Expr>, b: Handle<Expr>| of(a).iter().zip(of(b));
        match *expr {
            Expr::Bool(truth) => into.extend(every(u64::from(truth))),
            Expr::Int(n, _) => into.extend(every(n as u64)),
            Expr::Float(bits) => into.extend(every(u64::from(bits))),
            Expr::Index(Index::Thread) => into.extend(active.iter().map(|thread| u64::from(*thread))),
            Expr::Index(Index::Block) => into.extend(every(u64::from(self.here.number))),
            Expr::Param(i) => match self.args[i as usize] {
                Argument::Scalar(n) => into.extend(every(n as u64)),
                Argument::Buffer(_) | Argument::TensorMap(..) => return Err("a buffer is not a number".to_string()),
            },
            Expr::Local(local) => {
                let slot = &self.here.slots[local.index()];
                for thread in active.iter().map(|thread| *thread as usize) {
                    if !slot.bound[thread] {
                        return Err(format!("thread {thread} reads a local that it has not bound"));
                    }
                    match slot.lanes {
                        1 => into.push(slot.values[thread]),
                        lanes => into.extend_from_slice(&slot.values[thread * lanes..(thread + 1) * lanes]),
                    }
                }
            }
            Expr::Unary(op, a) => into.extend(of(a).iter().map(|x| arith::unary(op, elem(a), *x))),
            Expr::Binary(op, a, b) => {
                for (x, y) in zip(a, b) {
                    into.push(arith::binary(op, elem(a), *x, *y)?);
                }
            }
            Expr::Compare(op, a, b) => into.extend(zip(a, b).map(|(x, y)| arith::compare(op, elem(a), *x, *y))),
            Expr::Select(c, a, b) => {
                // One condition for all lanes, or one for each.
                let wide = lanes(a) / lanes(c);
                let conds = of(c).iter().flat_map(|c| std::iter::repeat_n(*c, wide));
                into.extend(conds.zip(zip(a, b)).map(|(c, (x, y))| if c == 1 { *x } else { *y }));
            }
            Expr::Fma(a, b, c) => into.extend(zip(a, b).zip(of(c)).map(|((x, y), z)| arith::fma(*x, *y, *z))),
            Expr::Dot { acc, a, b } => {
                let pairs = of(a).chunks_exact(2).zip(of(b).chunks_exact(2));
                into.extend(of(acc).iter().zip(pairs).map(|(acc, (x, y))| arith::dot(*acc, [x[0], x[1]], [y[0], y[1]])));
            }
            Expr::Cast(to, a) => into.extend(of(a).iter().map(|x| arith::cast(elem(a), to, *x))),
            Expr::Bitcast(to, a) => into.extend(arith::bitcast(elem(a), to, of(a))),
            Expr::Splat(n, a) => into.extend(of(a).iter().flat_map(|x| std::iter::repeat_n(*x, n as usize))),
            Expr::Concat(a, b) => {
                let pairs = of(a).chunks(lanes(a)).zip(of(b).chunks(lanes(b)));
                into.extend(pairs.flat_map(|(a, b)| a.iter().chain(b)));
            }
            Expr::Transpose(a, rows) => {
                let columns = lanes(a) / rows as usize;
                let matrices = of(a).chunks(lanes(a));
                into.extend(matrices.flat_map(|m| (0..columns).flat_map(move |column| m.iter().skip(column).step_by(columns))));
            }
            Expr::Extract(a, lane, some) => {
                let places = lane as usize..(lane + some) as usize;
                into.extend(of(a).chunks(lanes(a)).flat_map(|x| &x[places.clone()]));
            }
            Expr::Reduce(op, a) => {
                for x in of(a).chunks(lanes(a)) {
                    into.push(arith::reduce(op, elem(handle), x)?);
                }
            }
        }
        Ok(())
    }
}

fn needs(exprs: &Arena<Expr>, root: Handle<Expr>) -> Rc<[Handle<Expr>]> {
    let (mut found, mut rest) = (BTreeSet::from([root]), vec![root]);
    while let Some(handle) = rest.pop() {
        rest.extend(exprs[handle].operands().filter(|operand| found.insert(*operand)));
    }
    found.into_iter().collect()
}

/// The first byte of the lanes from element `offset` on, if all are inside and aligned as promised.
pub(super) fn address(memory: &Memory, elem: DType, offset: u64, lanes: usize, align: u32) -> Result<usize, String> {
    let elements = memory.len() / elem.bytes() as usize;
    let first = usize::try_from(offset as i64).ok().filter(|first| *first <= elements && lanes <= elements - *first);
    let first = first.ok_or_else(|| format!("outside an array of {elements} elements"))?;
    let at = first * elem.bytes() as usize;
    if at.is_multiple_of(align as usize) { Ok(at) } else { Err(format!("byte {at} is not at a multiple of {align}")) }
}

/// What a warp of these truths agrees on.
fn agreed(vote: Vote, warp: &[u64]) -> u64 {
    match vote {
        Vote::Any => u64::from(warp.contains(&1)),
        Vote::All => u64::from(!warp.contains(&0)),
        Vote::Ballot => {
            let bits = warp.iter().rev().fold(0u32, |bits, truth| bits << 1 | *truth as u32);
            i64::from(bits as i32) as u64
        }
    }
}
