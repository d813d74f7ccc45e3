//! Whether a program may be compiled: every violation, at the line where it is.
//!
//! After `Ok`, code generation does not panic and the machine can do what the program says. Offsets that are known only when
//! a kernel runs are not checked here (the interpreter checks them), nor are data races (the emulator does).

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use super::print::Names;
use super::uniform::{Agreement, agreements};
use super::verify_early::{wrong_early, wrong_followers};
use super::verify_tensor::wrong_view;
use super::{
    Arg, Binary, Block, Buffer, Expr, Given, Handle, Kernel, Launch, Local, Location, Param, ParamKind, Place, Program, Role,
    Working,
};
use super::{Extreme, Hint, MOST_THREADS, Scope, Shared, Stmt, Ty, Unary, Vote, Wait, layout};
use crate::machine::Unit;
use crate::{DType, Dims, Extent, Machine, MatrixShape};

/// Something that a valid program does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub at: Location,
    /// What is wrong, in a few words.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.at, self.message)
    }
}

/// A value may take this many of the machine's vector registers.
const VECTORS_IN_A_VALUE: u32 = 8;
/// Blocks in blocks.
const NESTING: usize = 64;

/// All that is wrong with `program` on `machine`.
///
/// # Errors
/// Every [`Violation`], in the order of buffers, launches and kernels.
pub fn verify(program: &Program, machine: &Machine) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    check_names(program, &mut found);
    check_buffers(program, &mut found);
    check_regimes(program, machine, &mut found);
    for (index, kernel) in program.kernels.iter().enumerate() {
        found.extend(check_kernel(index, kernel, machine));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// All that is wrong with a kernel that belongs to no program yet.
///
/// # Errors
/// Every [`Violation`], in the order of the kernel.
pub fn verify_kernel(kernel: &Kernel, machine: &Machine) -> Result<(), Vec<Violation>> {
    let found = check_kernel(0, kernel, machine);
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn check_names(program: &Program, found: &mut Vec<Violation>) {
    let observed = |i: usize, buffer: &'_ Buffer| buffer.observe.clone().map(|name| (Location::Buffer(i), name));
    let buffers = program.buffers.iter().enumerate();
    let kernels = program.kernels.iter().enumerate();
    unique("buffer", buffers.clone().map(|(i, buffer)| (Location::Buffer(i), buffer.name.clone())), found);
    unique("observed buffer", buffers.filter_map(|(i, buffer)| observed(i, buffer)), found);
    for (_, name) in program.statistics.iter().flat_map(|statistics| &statistics.names) {
        if !program.buffers.iter().any(|buffer| buffer.observe.as_ref() == Some(name)) {
            let message = format!("statistics name {name:?}, which no buffer is observed under");
            found.push(Violation { at: Location::Program, message });
        }
    }
    unique("kernel", kernels.clone().map(|(i, kernel)| (Location::Kernel(i), kernel.name.clone())), found);
    for (i, kernel) in kernels {
        let legal = kernel.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !legal || !kernel.name.starts_with(|c: char| c.is_ascii_lowercase()) {
            let message = "a kernel's name has a-z, 0-9 and _ only, a letter first".to_string();
            found.push(Violation { at: Location::Kernel(i), message });
        }
    }
}

fn unique(what: &str, named: impl Iterator<Item = (Location, String)>, found: &mut Vec<Violation>) {
    let mut seen = HashSet::new();
    for (at, name) in named {
        if !seen.insert(name.clone()) {
            found.push(Violation { at, message: format!("another {what} is named {name:?}") });
        }
    }
}

fn check_buffers(program: &Program, found: &mut Vec<Violation>) {
    for (i, buffer) in program.buffers.iter().enumerate() {
        let mut wrong = |message: String| found.push(Violation { at: Location::Buffer(i), message });
        if buffer.dtype == DType::Bool {
            wrong("bool lives in registers only".to_string());
        }
        for extent in buffer.shape.iter().filter(|extent| divides_by_zero(extent)) {
            wrong(format!("{extent} divides by zero"));
        }
        if buffer.role == Role::Prepared {
            if buffer.shape.iter().any(|extent| extent.depends_on_batch()) {
                wrong("what is prepared depends on the batch".to_string());
            }
            if !program.prepare.iter().any(|launch| writes(program, launch, i)) {
                wrong("no launch prepares it".to_string());
            }
        }
    }
}

/// Whether a launch writes the buffer.
pub(super) fn writes(program: &Program, launch: &Launch, buffer: usize) -> bool {
    let params = program.kernels.get(launch.kernel).map_or(&[][..], |kernel| &kernel.params);
    params.iter().zip(&launch.args).any(|(param, arg)| param.kind.is_written() && arg.buffer() == Some(buffer))
}

pub(super) fn divides_by_zero(extent: &Extent) -> bool {
    match extent {
        Extent::Const(_) | Extent::Tokens | Extent::SequenceTokens => false,
        Extent::Div(a, b, _) => **b == Extent::Const(0) || divides_by_zero(a) || divides_by_zero(b),
        Extent::Add(a, b) | Extent::Mul(a, b) | Extent::Min(a, b) | Extent::Max(a, b) => divides_by_zero(a) || divides_by_zero(b),
    }
}

fn check_regimes(program: &Program, machine: &Machine, found: &mut Vec<Violation>) {
    let early = |launches: &[Launch], locate: &dyn Fn(usize) -> Location| {
        let wrong = wrong_early(program, launches, machine).into_iter();
        let wrong = wrong.chain(wrong_followers(program, launches, machine));
        wrong.map(|(i, message)| Violation { at: locate(i), message }).collect::<Vec<_>>()
    };
    if program.regimes.is_empty() {
        found.push(Violation { at: Location::Program, message: "there is no regime".to_string() });
    }
    for (i, launch) in program.prepare.iter().enumerate() {
        let mut wrong = check_launch(program, launch, Stage::Prepare);
        if launch.formulas().any(Extent::depends_on_batch) {
            wrong.push("a preparation depends on the batch".to_string());
        }
        found.extend(wrong.into_iter().map(|message| Violation { at: Location::Prepare(i), message }));
    }
    found.extend(early(&program.prepare, &Location::Prepare));
    let mut below = None;
    for (i, regime) in program.regimes.iter().enumerate() {
        let mut wrong = |message: &str| found.push(Violation { at: Location::Regime(i), message: message.to_string() });
        let last = i + 1 == program.regimes.len();
        match regime.tokens_up_to {
            Some(_) if last => wrong("the last regime has no bound"),
            None if !last => wrong("only the last regime has no bound"),
            Some(bound) if below.is_some_and(|below| bound <= below) => wrong("regimes rise with the number of tokens"),
            Some(_) | None => {}
        }
        below = regime.tokens_up_to.or(below);
        for (j, launch) in regime.launches.iter().enumerate() {
            let at = Location::Launch(i, j);
            let wrong = check_launch(program, launch, Stage::Run);
            found.extend(wrong.into_iter().map(|message| Violation { at: at.clone(), message }));
        }
        found.extend(early(&regime.launches, &|j| Location::Launch(i, j)));
    }
    found.extend(early(&program.update, &Location::Update));
    for (i, launch) in program.update.iter().enumerate() {
        let mut wrong = check_launch(program, launch, Stage::Update);
        let prepares =
            |buffer: usize| program.prepare.iter().flat_map(|launch| &launch.args).any(|arg| arg.buffer() == Some(buffer));
        if let Some((_, buffer)) = program.buffers.iter().enumerate().find(|(i, _)| writes(program, launch, *i) && prepares(*i)) {
            wrong.push(format!("%{} is updated, though something was prepared from it", buffer.name));
        }
        found.extend(wrong.into_iter().map(|message| Violation { at: Location::Update(i), message }));
    }
}

/// When a launch is made, which says what it may read and write.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Prepare,
    Run,
    Update,
}

fn check_launch(program: &Program, launch: &Launch, stage: Stage) -> Vec<String> {
    let Some(kernel) = program.kernels.get(launch.kernel) else { return vec!["there is no such kernel".to_string()] };
    let mut wrong = Vec::new();
    if divides_by_zero(&launch.grid) {
        wrong.push("the grid divides by zero".to_string());
    }
    if matches!(launch.grid, Extent::Const(n) if n > i32::MAX as u64) {
        wrong.push("the grid has more blocks than an i32 counts".to_string());
    }
    // What depends on the batch is known when a run is planned.
    let blocks = launch.grid.at(Dims { tokens: 0, sequence_tokens: 0 }).filter(|_| !launch.grid.depends_on_batch());
    if let Some(blocks) = blocks.filter(|blocks| !blocks.is_multiple_of(u64::from(kernel.cluster.max(1)))) {
        wrong.push(format!("{blocks} blocks are not whole clusters of {}", kernel.cluster));
    }
    if launch.args.len() != kernel.params.len() {
        wrong.push(format!("{} arguments for {} parameters", launch.args.len(), kernel.params.len()));
    }
    wrong.extend(
        launch
            .working
            .iter()
            .filter_map(|working| wrong_count(program, launch, working))
            .map(|why| format!("blocks with work: {why}")),
    );
    let mut bound: BTreeMap<usize, bool> = BTreeMap::new();
    for (param, arg) in kernel.params.iter().zip(&launch.args) {
        wrong.extend(check_argument(program, param, arg, stage));
        let reached = match (param.kind, &arg.given) {
            (ParamKind::Buffer { write, .. }, Given::Buffer(index)) => Some((*index, write)),
            (ParamKind::TensorMap(map), Given::TensorMap(view)) => Some((view.buffer, map.write)),
            (ParamKind::Buffer { .. } | ParamKind::Scalar(_) | ParamKind::TensorMap(_), _) => None,
        };
        if let Some((index, write)) = reached {
            match bound.insert(index, write) {
                Some(written) if written || write => {
                    wrong.push(format!("%{}: the buffer is written through one parameter and bound to another", param.name));
                }
                Some(_) | None => {}
            }
        }
    }
    wrong
}

/// Why a machine cannot read how many blocks have work.
fn wrong_count(program: &Program, launch: &Launch, Working { buffer, each, follows: _ }: &Working) -> Option<String> {
    let Some(of) = program.buffers.get(*buffer) else { return Some("there is no such buffer".to_string()) };
    let wrong = [
        (divides_by_zero(each), format!("{each} divides by zero")),
        (of.dtype != DType::I32, format!("%{} has {}, not i32", of.name, of.dtype)),
        (!of.shape.iter().all(|extent| matches!(extent, Extent::Const(1..))), format!("%{} may be empty", of.name)),
        (!launch.args.iter().any(|arg| arg.given == Given::Buffer(*buffer)), format!("the kernel is not given %{}", of.name)),
        (writes(program, launch, *buffer), format!("the kernel writes %{}", of.name)),
    ];
    wrong.into_iter().find_map(|(is_wrong, why)| is_wrong.then_some(why))
}

fn check_argument(program: &Program, param: &Param, arg: &Arg, stage: Stage) -> Option<String> {
    let wrong = |why: String| Some(format!("%{}: {why}", param.name));
    if param.name != arg.param {
        return wrong(format!("it is given what is meant for %{}", arg.param));
    }
    match (param.kind, &arg.given) {
        (ParamKind::Buffer { .. }, Given::Scalar(_) | Given::TensorMap(_)) => wrong("the parameter is a buffer".to_string()),
        (ParamKind::Scalar(_), Given::Buffer(_) | Given::TensorMap(_)) => wrong("the parameter is a number".to_string()),
        (ParamKind::TensorMap(_), Given::Buffer(_) | Given::Scalar(_)) => wrong("the parameter is a tensor map".to_string()),
        (ParamKind::TensorMap(map), Given::TensorMap(view)) => {
            let role = program.buffers.get(view.buffer).map(|buffer| buffer.role);
            let misuse = role.and_then(|role| wrong_use(role, stage, map.write)).map(str::to_string);
            wrong_view(program, &map, view).or(misuse).and_then(wrong)
        }
        (ParamKind::Scalar(_), Given::Scalar(extent)) if divides_by_zero(extent) => wrong("divides by zero".to_string()),
        (ParamKind::Scalar(elem), Given::Scalar(Extent::Const(n))) => {
            let most = if elem == DType::I32 { i32::MAX as u64 } else { i64::MAX as u64 };
            if *n > most { wrong(format!("{n} does not fit {elem}")) } else { None }
        }
        (ParamKind::Scalar(_), Given::Scalar(_)) => None,
        (ParamKind::Buffer { elem, write }, Given::Buffer(index)) => match program.buffers.get(*index) {
            None => wrong("there is no such buffer".to_string()),
            Some(buffer) if buffer.dtype != elem => wrong(format!("the parameter has {elem}, the buffer {}", buffer.dtype)),
            Some(buffer) => wrong_use(buffer.role, stage, write).map(str::to_string).and_then(wrong),
        },
    }
}

/// Why a buffer of this role is not used so by a launch, if so.
fn wrong_use(role: Role, stage: Stage, write: bool) -> Option<&'static str> {
    match (role, stage) {
        (Role::Input, Stage::Run | Stage::Update) if write => Some("an input is not written"),
        (Role::Weight, Stage::Prepare | Stage::Run) if write => Some("a weight is not written"),
        (Role::Output, Stage::Update) if write => Some("an update has no output"),
        (Role::Prepared, Stage::Run | Stage::Update) if write => Some("what is prepared is not written"),
        (Role::Input | Role::Output | Role::Workspace, Stage::Prepare) => {
            Some("a preparation has weights and what it prepares alone")
        }
        (Role::Input | Role::Output | Role::Workspace, Stage::Run | Stage::Update) => None,
        (Role::Weight | Role::Prepared, Stage::Prepare | Stage::Run | Stage::Update) => None,
    }
}

fn check_kernel(index: usize, kernel: &Kernel, machine: &Machine) -> Vec<Violation> {
    let typed = kernel.types();
    let mut check = Check {
        kernel,
        machine,
        names: Names::of(kernel),
        agreements: agreements(kernel, machine.warp_lanes),
        types: typed.iter().map(|ty| ty.as_ref().ok().copied()).collect(),
        wrong: typed.into_iter().map(Result::err).collect(),
        bound: vec![None; kernel.locals.len()],
        at: Location::Kernel(index),
        named: BTreeMap::new(),
        role: None,
        roles: false,
        waited: false,
        found: Vec::new(),
    };
    check.header();
    check.block(index, &kernel.body, &mut Vec::new(), Agreement::Cluster);
    check.at = Location::Kernel(index);
    for why in std::mem::take(&mut check.wrong).into_iter().flatten() {
        check.say(format!("an expression that no statement uses: {why}"));
    }
    check.found
}

/// A local that has been bound.
#[derive(Clone, Copy, PartialEq)]
struct Bound {
    /// By [`Stmt::Var`].
    variable: bool,
    in_scope: bool,
}

pub(super) struct Check<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) machine: &'k Machine,
    pub(super) names: Names,
    agreements: Vec<Agreement>,
    types: Vec<Option<Ty>>,
    /// Why an expression has no type, until it is reported.
    wrong: Vec<Option<String>>,
    bound: Vec<Option<Bound>>,
    /// How many threads come to the named barriers so far, by number.
    pub(super) named: BTreeMap<u8, u32>,
    /// The warps of the role that is being checked.
    pub(super) role: Option<Range<u32>>,
    /// Whether the kernel has had its roles.
    pub(super) roles: bool,
    /// Whether it has waited for the launches before it.
    pub(super) waited: bool,
    pub(super) at: Location,
    found: Vec<Violation>,
}

impl Check<'_> {
    pub(super) fn say(&mut self, message: impl Into<String>) {
        self.found.push(Violation { at: self.at.clone(), message: message.into() });
    }

    pub(super) fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.say(otherwise());
        }
    }

    fn header(&mut self) {
        let (kernel, machine) = (self.kernel, self.machine);
        let threads = kernel.threads;
        self.require((1..=machine.block_threads).contains(&threads), || {
            format!("{} runs 1 to {} threads in a block, not {threads}", machine.name, machine.block_threads)
        });
        self.require(threads % machine.warp_lanes == 0, || {
            format!("{threads} threads are not whole warps of {} lanes", machine.warp_lanes)
        });
        let (cluster, most) = (kernel.cluster, machine.cluster_blocks);
        self.require(cluster.is_power_of_two() && cluster <= most, || match most {
            1 => format!("{} has no clusters of blocks", machine.name),
            most => format!("a cluster on {} is 1 to {most} blocks, a power of two, not {cluster}", machine.name),
        });
        let most = if machine.has_threads() { (MOST_THREADS / threads.max(1)).max(1) } else { 1 };
        self.require((1..=most).contains(&kernel.resident), || {
            format!(
                "a processor of {} has room for 1 to {most} blocks of {threads} threads, not {}",
                machine.name, kernel.resident
            )
        });
        for (i, param) in kernel.params.iter().enumerate() {
            let is_known = kernel.params[..i].iter().any(|before| before.name == param.name);
            self.require(!is_known, || format!("%{}: two parameters have this name", param.name));
            let legal = match param.kind {
                ParamKind::Buffer { elem, .. } => elem != DType::Bool,
                ParamKind::Scalar(elem) => elem.is_int(),
                ParamKind::TensorMap(map) => {
                    self.tensor_map(&param.name, &map);
                    map.elem != DType::Bool
                }
            };
            self.require(legal, || format!("%{}: a buffer has no bool, a number is i32 or i64", param.name));
        }
        for (_, shared) in kernel.shared.iter() {
            self.require(shared.elem != DType::Bool, || format!("%{}: bool lives in registers only", shared.name));
            self.require(shared.len > 0, || format!("%{}: an array has at least one element", shared.name));
            let aligns = Shared::ALIGN..=Shared::MOST_ALIGN;
            self.require(shared.align.is_power_of_two() && aligns.contains(&shared.align), || {
                let (least, most) = (aligns.start(), aligns.end());
                format!(
                    "%{}: a shared array is aligned to a power of two from {least} to {most}, not {}",
                    shared.name, shared.align
                )
            });
        }
        let (bytes, most) = (layout(kernel).bytes, machine.shared_optin_bytes);
        self.require(bytes <= u64::from(most), || format!("{bytes} bytes of shared arrays, but {} has {most}", machine.name));
        self.registers();
        self.mbarriers();
        self.last_meeting();
    }

    fn block(&mut self, index: usize, block: &Block, path: &mut Vec<usize>, control: Agreement) {
        let mut here = Vec::new();
        for (i, stmt) in block.iter().enumerate() {
            path.push(i);
            self.at = Location::Stmt(index, path.clone());
            self.stmt(stmt, control);
            let is_variable = matches!(stmt, Stmt::Var { .. });
            let bound: Vec<Handle<Local>> = stmt.binds().filter(|local| self.bind(*local, is_variable)).collect();
            let inner = match stmt {
                Stmt::For { .. } | Stmt::If { .. } => {
                    stmt.exprs().map(|h| self.agreement(h)).max().map_or(control, |a| a.max(control))
                }
                Stmt::Roles(_) => control.max(Agreement::Role),
                Stmt::Let { .. } | Stmt::Var { .. } | Stmt::Set { .. } | Stmt::Load { .. } | Stmt::Store { .. } => control,
                Stmt::AtomicAdd { .. } | Stmt::Shuffle { .. } | Stmt::Vote { .. } | Stmt::Redux { .. } | Stmt::Barrier(_) => {
                    control
                }
                Stmt::Copy { .. } | Stmt::Commit | Stmt::Wait(_) | Stmt::LoadMatrix { .. } | Stmt::Mma { .. } => control,
                Stmt::StoreMatrix { .. } => control,
                Stmt::GroupMma { .. } | Stmt::Fence | Stmt::BarrierArrive { .. } | Stmt::AllowNext => control,
                Stmt::Arrive { .. } | Stmt::BulkCopy { .. } | Stmt::TileCopy { .. } | Stmt::TileStore { .. } => control,
                Stmt::Prefetch { .. } => control,
            };
            // What a loop binds is seen in its body only.
            let loops = matches!(stmt, Stmt::For { .. });
            let deep = path.len() / 2 >= NESTING;
            self.require(!deep || stmt.blocks().next().is_none(), || format!("blocks are nested more than {NESTING} deep"));
            for (j, block) in stmt.blocks().enumerate().filter(|_| !deep) {
                path.push(j);
                let outside = self.role.clone();
                if let Stmt::Roles(roles) = stmt {
                    self.role = roles.get(j).map(|role| role.warps.clone());
                }
                self.block(index, block, path, inner);
                self.role = outside;
                path.pop();
            }
            path.pop();
            if loops {
                self.leave(bound);
            } else {
                here.extend(bound);
            }
        }
        self.leave(here);
    }

    fn leave(&mut self, locals: impl IntoIterator<Item = Handle<Local>>) {
        for local in locals {
            if let Some(Some(bound)) = self.bound.get_mut(local.index()) {
                bound.in_scope = false;
            }
        }
    }

    /// Whether there is such a local, which a statement binds.
    fn bind(&mut self, local: Handle<Local>, variable: bool) -> bool {
        let Some(slot) = self.bound.get_mut(local.index()) else {
            self.say("binds a local that is not the kernel's");
            return false;
        };
        let again = slot.is_some();
        *slot = Some(Bound { variable, in_scope: true });
        let ty = self.kernel.locals[local].ty;
        if again {
            self.say(format!("{} is bound a second time", self.names.local(local)));
        }
        let widest = self.machine.vector_bytes.saturating_mul(VECTORS_IN_A_VALUE);
        let legal = ty.lanes.is_power_of_two() && ty.lanes <= 64 && ty.elem.bytes() * u64::from(ty.lanes) <= u64::from(widest);
        self.require(legal, || format!("no values of type {ty}: lanes are a power of two, at most 64, in {widest} bytes"));
        true
    }

    fn stmt(&mut self, stmt: &Stmt, control: Agreement) {
        self.exprs(stmt);
        match *stmt {
            Stmt::Let { local, value } | Stmt::Var { local, value } => self.takes(local, self.ty(value)),
            Stmt::Set { local, value } => {
                let bound = self.bound.get(local.index()).copied().flatten();
                if bound != Some(Bound { variable: true, in_scope: true }) {
                    self.say(format!("{} is not a variable in scope", self.names.local(local)));
                }
                self.takes(local, self.ty(value));
            }
            Stmt::Load { local, from, offset, align, hint } => {
                let reached = hint == Hint::None || matches!(from, Place::Param(_));
                if !reached {
                    self.say(format!("{} is not in global memory, of which caches hold parts", self.names.place(from)));
                }
                let ty = self.kernel.locals.get(local).map(|local| local.ty);
                self.access(from, offset, ty, align);
            }
            Stmt::Store { to, offset, value, align } => {
                self.written(to);
                self.access(to, offset, self.ty(value), align);
            }
            Stmt::AtomicAdd { local, to, offset, value } => {
                self.written(to);
                let alone = matches!(to, Place::Registers(_));
                self.require(!alone, || "an atomic adds to memory that threads share".to_string());
                self.access(to, offset, self.ty(value), DType::I32.bytes() as u32);
                self.wants(value, "an atomic adds", |ty| ty == Ty::scalar(DType::I32), "i32");
                local.into_iter().for_each(|local| self.takes(local, Some(Ty::scalar(DType::I32))));
            }
            Stmt::Shuffle { local, value, mask } => {
                self.wants(
                    value,
                    "a shuffle moves",
                    |ty| ty.lanes == 1 && matches!(ty.elem, DType::I32 | DType::F32),
                    "i32 or f32",
                );
                self.takes(local, self.ty(value));
                let lanes = self.machine.warp_lanes;
                self.require(lanes == 1 || mask < lanes, || format!("a warp has {lanes} lanes, which mask {mask} leaves"));
                self.warp("a shuffle", control);
            }
            Stmt::Vote { local, vote, value } => {
                self.wants(value, "a vote is on", |ty| ty == Ty::scalar(DType::Bool), "bool");
                let elem = match vote {
                    Vote::Any | Vote::All => DType::Bool,
                    Vote::Ballot => DType::I32,
                };
                self.takes(local, Some(Ty::scalar(elem)));
                self.warp("a vote", control);
            }
            Stmt::Redux { local, value, extreme: Extreme::Max | Extreme::Min } => {
                self.wants(value, "a redux is of", |ty| ty == Ty::scalar(DType::I32), "i32");
                self.takes(local, Some(Ty::scalar(DType::I32)));
                self.warp("a redux", control);
            }
            Stmt::Barrier(Scope::Warp) => {
                self.require(control <= Agreement::Warp, || "a warp barrier where the lanes of a warp may part".to_string())
            }
            Stmt::Barrier(Scope::Block) => self
                .require(control <= Agreement::Block, || "a block barrier where the threads of the block may part".to_string()),
            Stmt::Barrier(Scope::Cluster) => {
                let clustered = self.kernel.cluster > 1;
                self.require(clustered, || "a cluster barrier, but the kernel's blocks are in no clusters".to_string());
                self.require(control <= Agreement::Cluster, || {
                    "a cluster barrier where the threads of the cluster may part".to_string()
                });
            }
            Stmt::Barrier(Scope::Threads { id, count }) => {
                self.threads_meet(id, count, control);
            }
            Stmt::BarrierArrive { id, count } => self.threads_arrive(id, count, control),
            Stmt::Roles(ref roles) => self.roles(roles),
            Stmt::Arrive { barrier, stage, arrival } => self.arrive(barrier, stage, arrival),
            Stmt::Wait(Wait::Phase { barrier, stage, phase }) => self.wait(barrier, stage, phase),
            Stmt::Wait(Wait::Launches) => self.wait_launches(),
            Stmt::AllowNext => self.allow_next(control),
            Stmt::BulkCopy { to, at, from, offset, bytes, barrier, stage } => {
                self.bulk_copy((to, at), (from, offset), bytes);
                self.stage(barrier, stage);
            }
            Stmt::TileCopy { to, at, from, corner, barrier, stage, to_all } => {
                self.tile_copy((to, at), from, corner);
                if to_all {
                    self.leaves_block("a copy to all blocks of a cluster");
                    let machine = self.machine;
                    self.require(machine.shared_boxes, || format!("{} has no copies to all blocks of a cluster", machine.name));
                }
                self.stage(barrier, stage);
            }
            Stmt::TileStore { to, corner, from, at } => self.tile_store(to, corner, (from, at)),
            Stmt::Wait(Wait::Stores) => self.needs_tensor_maps("a wait for stores of boxes"),
            Stmt::Prefetch { from, offset } => self.prefetch(from, offset),
            Stmt::For { local, start, end, step, .. } => {
                let integer = |ty: Ty| ty.lanes == 1 && ty.elem.is_int();
                self.wants(start, "a loop counts in", integer, "i32 or i64");
                for bound in [start, end, step] {
                    self.takes(local, self.ty(bound));
                }
                if let Some(Expr::Int(step, _)) = self.kernel.exprs.get(step) {
                    self.require(*step > 0, || format!("a step is positive, not {step}"));
                }
            }
            Stmt::If { cond, .. } => self.wants(cond, "a condition is", |ty| ty == Ty::scalar(DType::Bool), "bool"),
            Stmt::Copy { to, at, from, offset, bytes, live } => self.copy([to, from], [at, offset], bytes, live),
            Stmt::Commit => self.copies("a group of copies"),
            Stmt::Wait(Wait::Groups(_)) => self.copies("a wait for copies"),
            Stmt::LoadMatrix { ref locals, from, offset, transposed } => {
                self.load_matrix(locals, from, offset, transposed);
                self.warp("a matrix load", control);
            }
            Stmt::StoreMatrix { to, offset, ref pairs, transposed: _ } => {
                self.store_matrix(to, offset, pairs);
                self.warp("a matrix store", control);
            }
            Stmt::GroupMma { columns, depth, sums, at, ref a, ref b } => {
                self.group_mma([columns, depth], (sums, at), a, b);
                self.warp_group("a product of four warps", control);
            }
            Stmt::Wait(Wait::Products(_)) => {
                self.group_mma_unit("a wait for products of four warps");
                self.warp_group("a wait for products of four warps", control);
            }
            Stmt::Fence => self.needs_tensor_maps("a fence"),
            Stmt::Mma { shape, sums, at, ref a, ref b } => {
                self.mma(shape, (sums, at), a, b);
                self.warp("a product of matrices", control);
            }
        }
    }

    pub(super) fn ty(&self, handle: Handle<Expr>) -> Option<Ty> {
        self.types.get(handle.index()).copied().flatten()
    }

    pub(super) fn agreement(&self, handle: Handle<Expr>) -> Agreement {
        self.agreements.get(handle.index()).copied().unwrap_or(Agreement::Differs)
    }

    /// Everything that the statement evaluates: typed, possible on the machine, and of locals in scope.
    fn exprs(&mut self, stmt: &Stmt) {
        let mut rest: Vec<Handle<Expr>> = stmt.exprs().collect();
        let mut seen = HashSet::new();
        while let Some(handle) = rest.pop() {
            let Some(expr) = self.kernel.exprs.get(handle) else {
                self.say("an operand is not one of the kernel's expressions");
                continue;
            };
            if !seen.insert(handle) {
                continue;
            }
            // The operands of what is wrong are at fault themselves, or nothing is.
            let untyped = expr.operands().any(|h| h < handle && self.ty(h).is_none());
            if let Some(why) = self.wrong[handle.index()].take()
                && !untyped
            {
                self.say(why);
            }
            if let Some(message) = self.impossible(expr, self.ty(handle)) {
                self.say(message);
            }
            rest.extend(expr.operands().filter(|h| *h < handle));
        }
    }

    fn impossible(&self, expr: &Expr, ty: Option<Ty>) -> Option<String> {
        let constant = |h: Handle<Expr>| match self.kernel.exprs.get(h) {
            Some(&Expr::Int(n, elem)) => Some((n, elem)),
            Some(_) | None => None,
        };
        if let Expr::Local(local) = *expr {
            let in_scope = self.bound.get(local.index()).copied().flatten().is_some_and(|bound| bound.in_scope);
            return (!in_scope).then(|| format!("{} is not in scope", self.names.local(local)));
        }
        if let Expr::Dot { .. } = expr
            && self.machine.rate(Unit::Dot, DType::BF16).is_none()
        {
            return Some(format!("{} has no bf16 dot product", self.machine.name));
        }
        if let Expr::Unary(Unary::Exp2Approx | Unary::ReciprocalApprox, _) = expr
            && !self.machine.approximations
        {
            return Some(format!("{} has no approximations", self.machine.name));
        }
        if let Expr::Unary(Unary::RoundTf32, _) = expr
            && self.machine.rate(Unit::Matrix(MatrixShape::M16N8K8), DType::F32).is_none()
        {
            return Some(format!("{} has no tf32", self.machine.name));
        }
        if let Expr::Binary(op, _, right) = *expr
            && let Some((n, elem)) = constant(right)
        {
            let bits = elem.bytes() as i64 * 8;
            let shift = matches!(op, Binary::Shl | Binary::Shr | Binary::ShrUnsigned);
            if shift && !(0..bits).contains(&n) {
                return Some(format!("{elem} is not shifted by {n}"));
            }
            if matches!(op, Binary::Div | Binary::Rem) && n == 0 {
                return Some("divides by zero".to_string());
            }
        }
        let widest = u64::from(self.machine.vector_bytes) * u64::from(VECTORS_IN_A_VALUE);
        ty.filter(|ty| ty.elem.bytes() * u64::from(ty.lanes) > widest)
            .map(|ty| format!("a value of type {ty} is wider than {widest} bytes"))
    }

    /// `local` has the type that it is given.
    pub(super) fn takes(&mut self, local: Handle<Local>, given: Option<Ty>) {
        if let (Some(local), Some(given)) = (self.kernel.locals.get(local), given) {
            let ty = local.ty;
            self.require(ty == given, || format!("{given} for a local of type {ty}"));
        }
    }

    pub(super) fn wants(&mut self, value: Handle<Expr>, doing: &str, legal: impl Fn(Ty) -> bool, what: &str) {
        if let Some(ty) = self.ty(value) {
            self.require(legal(ty), || format!("{doing} {what}, not {ty}"));
        }
    }

    pub(super) fn written(&mut self, place: Place) {
        self.written_early(place);
        if let Place::Param(i) = place
            && let Some(ParamKind::Buffer { write: false, .. }) = self.kernel.params.get(i as usize).map(|param| param.kind)
        {
            self.say(format!("{} is only read: its parameter is not `*mut`", self.names.place(place)));
        }
    }

    /// `ty`: of what is loaded or stored.
    pub(super) fn access(&mut self, place: Place, offset: Handle<Expr>, ty: Option<Ty>, align: u32) {
        self.wants(offset, "an offset is", |ty| ty.lanes == 1 && ty.elem.is_int(), "i32 or i64");
        let Some(elem) = self.kernel.elem(place) else {
            self.say(format!("{} is not an array", self.names.place(place)));
            return;
        };
        let name = self.names.place(place).to_string();
        let bytes = elem.bytes() as u32;
        self.require(align.is_power_of_two() && align >= bytes, || {
            format!("an alignment is a power of two of at least the {bytes} bytes of {elem}, not {align}")
        });
        let Some(ty) = ty else { return };
        self.require(ty.elem == elem, || format!("{name} holds {elem}, not {}", ty.elem));
        let Some(&Expr::Int(n, _)) = self.kernel.exprs.get(offset) else {
            let named = !matches!(place, Place::Registers(_));
            return self.require(named, || format!("elements of {name} are registers, which constants name"));
        };
        let len = match place {
            Place::Registers(handle) => self.kernel.registers.get(handle).map_or(0, |registers| i64::from(registers.len)),
            Place::Shared(handle) => self.kernel.shared.get(handle).map_or(0, |shared| i64::from(shared.len)),
            Place::Param(_) => i64::MAX,
        };
        let inside = n >= 0 && n.checked_add(i64::from(ty.lanes)).is_some_and(|end| end <= len);
        self.require(inside, || format!("elements {n}.. of {name} are outside it"));
        let aligned = n.checked_mul(i64::from(bytes)).is_some_and(|at| at % i64::from(align.max(1)) == 0);
        self.require(aligned || !inside, || format!("element {n} is not at a multiple of {align} bytes"));
    }

    fn warp(&mut self, what: &str, control: Agreement) {
        let machine = self.machine;
        self.require(machine.warp_lanes > 1, || format!("{what} needs lanes, and {} has one", machine.name));
        self.require(control <= Agreement::Warp, || format!("{what} where the lanes of a warp may part"));
    }
}
