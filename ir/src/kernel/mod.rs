//! The kernel IR: how work is cut up. One kernel's effects, explicit and in order.
//!
//! Pure arithmetic ([`Expr`]) is kept apart from everything that happens ([`Stmt`]): an expression has no
//! memory and no time, so it may be evaluated wherever it is used. Loads are statements that bind a local.
//!
//! A kernel is written for one [`Machine`](crate::Machine): on a GPU a block is `threads` threads that share
//! arrays and meet at barriers; on the host a block is one iteration of a loop, `threads` is 1, shared arrays
//! are private scratch, barriers are nothing and vectors are wide. Nothing here knows what an expert is, nor
//! how an instruction is spelt.

mod agents;
pub mod arena;
mod arith;
pub mod build;
mod build_sync;
mod early;
pub mod expr;
pub mod fragment;
pub mod interp;
mod interp_blocks;
mod interp_group;
mod interp_matrix;
mod interp_sync;
mod interp_tensor;
mod layout;
mod lex;
mod meetings;
mod memory;
pub mod panels;
pub mod parse;
mod parse_expr;
mod parse_matrix;
mod parse_sync;
mod parse_tensor;
pub mod print;
mod print_matrix;
mod print_sync;
mod print_tensor;
pub mod stmt;
pub mod tensor;
mod uniform;
pub mod verify;
mod verify_early;
mod verify_group;
mod verify_matrix;
mod verify_sync;
mod verify_tensor;

pub use arena::{Arena, Handle};
pub use build::{Builder, Value};
pub use build_sync::{Part, Stages, Tiles};
pub use expr::{Binary, Compare, Expr, Index, Reduce, Ty, Unary};
pub use interp::{Argument, Fault, interp, interp_early, interp_kernel};
pub use layout::{Layout, layout};
pub use memory::Memory;
pub use panels::Panels;
pub use parse::{ParseError, parse};
pub use print::{Location, print, print_kernel, print_with_violations};
pub use stmt::{Arrival, Block, Extreme, Factor, Hint, Place, Scope, Stmt, Vote, Wait, WarpRole};
pub use tensor::{Swizzle, Tensor, TensorMap, View};
pub use verify::{Violation, verify};

use crate::{DType, Extent, Facts, Statistics};

/// Everything that a layer launches on one machine, and the memory it needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// The layer's name.
    pub name: String,
    /// What the layer says of itself.
    pub facts: Facts,
    /// Inputs, weights, outputs and workspace, in the order that arguments name them.
    pub buffers: Vec<Buffer>,
    /// The kernels.
    pub kernels: Vec<Kernel>,
    /// Which observed buffers are statistics of a run.
    pub statistics: Option<Statistics>,
    /// What is launched once, when the weights are bound: it makes what depends on nothing else.
    pub prepare: Vec<Launch>,
    /// Launch plans, by rising token count; the last one has no bound.
    pub regimes: Vec<Regime>,
    /// What is launched after a run where the caller asks for it: it may write weights.
    pub update: Vec<Launch>,
}

/// A tensor in global memory, dense and row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Its name, unique in the program.
    pub name: String,
    /// Its owner.
    pub role: Role,
    /// Element type.
    pub dtype: DType,
    /// Extent of every dimension, outermost first.
    pub shape: Vec<Extent>,
    /// The public name under which a caller may read it after a run (routing, statistics).
    pub observe: Option<String>,
}

/// The owner of a buffer, and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The caller's, read only.
    Input,
    /// The caller's, written entirely.
    Output,
    /// Bound once, read only but for [`Program::update`].
    Weight,
    /// Made from weights by [`Program::prepare`], read only after that; of constant shape.
    Prepared,
    /// Scratch: undefined before and after.
    Workspace,
}

/// The launches to make for a range of token counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Regime {
    /// Largest token count it serves; `None`: any.
    pub tokens_up_to: Option<u64>,
    /// Rows of the highest tile of its grouped products, which the rows of a group are padded to; `None`: it has no such products.
    pub tile_rows: Option<u32>,
    /// In order; each sees the effects of those before it.
    pub launches: Vec<Launch>,
}

/// One kernel launch, a pure function of the batch's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into [`Program::kernels`].
    pub kernel: usize,
    /// Number of blocks (one-dimensional), whole clusters of the kernel. Zero blocks: nothing is launched.
    pub grid: Extent,
    /// Whether it may begin before the launch before it has ended, as soon as that allows it ([`Stmt::AllowNext`]). Its kernel waits for
    /// the launches before it ([`Wait::Launches`]), and until then reads only what no launch of the run writes.
    pub early: bool,
    /// Which of the blocks have work, where a launch before it has counted that; none: all may have.
    pub working: Option<Working>,
    /// One for each parameter of the kernel, in their order.
    pub args: Vec<Arg>,
}

/// The blocks of a launch that have work: the first ones of its grid, as many as element 0 of a buffer says, times `each`. Those behind
/// them have no effect, so that a machine may leave them out.
#[derive(Clone, Debug, PartialEq)]
pub struct Working {
    /// Index into [`Program::buffers`]: i32, which the kernel is given and does not write.
    pub buffer: usize,
    /// Blocks for each that is counted.
    pub each: Extent,
    /// Whether blocks for one that is counted need no more of the launch before it than the blocks for the same one and for those before, so
    /// that they may begin when these have ended. That launch has work by the same buffer.
    pub follows: bool,
}

impl Launch {
    /// Whether its blocks may begin while those of the launch before it have not all ended: see [`Working::follows`].
    pub fn follows(&self) -> bool {
        self.working.as_ref().is_some_and(|working| working.follows)
    }

    /// The formulas in it.
    pub fn formulas(&self) -> impl Iterator<Item = &Extent> {
        let of_blocks = self.working.iter().map(|working| &working.each).chain([&self.grid]);
        self.args.iter().flat_map(Arg::formulas).chain(of_blocks)
    }
}

/// An argument. It names its parameter, so that two of one type cannot change places.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// Name of the parameter.
    pub param: String,
    /// What it is given.
    pub given: Given,
}

/// What a parameter is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// The address of a buffer: index into [`Program::buffers`].
    Buffer(usize),
    /// A number.
    Scalar(Extent),
    /// A tensor map of a buffer.
    TensorMap(View),
}

impl Arg {
    /// The buffer whose memory the kernel reaches by it: index into [`Program::buffers`].
    pub fn buffer(&self) -> Option<usize> {
        match self.given {
            Given::Buffer(buffer) | Given::TensorMap(View { buffer, .. }) => Some(buffer),
            Given::Scalar(_) => None,
        }
    }

    /// The formulas in it.
    pub fn formulas(&self) -> impl Iterator<Item = &Extent> {
        let (number, view) = match &self.given {
            Given::Buffer(_) => (None, None),
            Given::Scalar(extent) => (Some(extent), None),
            Given::TensorMap(view) => (None, Some(view)),
        };
        number.into_iter().chain(view.into_iter().flat_map(View::formulas))
    }
}

impl From<Extent> for Given {
    fn from(extent: Extent) -> Given {
        Given::Scalar(extent)
    }
}

/// Registers of a processor.
pub const REGISTERS: u32 = 65536;
/// The most registers that a thread can ask for.
const MOST_REGISTERS: u32 = 256;
/// The most threads of all blocks of a processor of a GPU, on every one of them.
const MOST_THREADS: u32 = 1536;

/// One kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// `<family>_<...>`, `[a-z0-9_]` only. Its symbol in an object is made of it.
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of a cluster, which run at the same time and can wait for each other; a power of two. 1: each for itself.
    pub cluster: u32,
    /// Blocks that a processor has room for at the same time, at least: a thread has no more registers than leave room for them.
    pub resident: u32,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Arrays shared by the threads of a block; uninitialised when the block starts.
    pub shared: Arena<Shared>,
    /// Arrays of each thread; uninitialised when it starts.
    pub registers: Arena<Registers>,
    /// Barriers that count arrivals and bytes; no phase of them is over when the block starts.
    pub mbarriers: Arena<Mbarrier>,
    /// Every name that a statement binds.
    pub locals: Arena<Local>,
    /// Every expression; operands come before their users.
    pub exprs: Arena<Expr>,
    /// What each thread does.
    pub body: Block,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// For people and for the printed form.
    pub name: String,
    /// What is passed.
    pub kind: ParamKind,
}

/// What is passed for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// The address of an array in global memory. Distinct parameters never overlap if one is `write`.
    Buffer {
        /// Type of an element.
        elem: DType,
        /// Whether the kernel stores to it.
        write: bool,
    },
    /// `I32` or `I64`.
    Scalar(DType),
    /// A tensor in global memory, which the kernel only reads, or only writes, by boxes.
    TensorMap(TensorMap),
}

impl ParamKind {
    /// Whether the kernel writes the memory that it names.
    pub fn is_written(self) -> bool {
        match self {
            ParamKind::Buffer { write, .. } | ParamKind::TensorMap(TensorMap { write, .. }) => write,
            ParamKind::Scalar(_) => false,
        }
    }
}

/// An array of the block.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// For people.
    pub name: String,
    /// Type of an element.
    pub elem: DType,
    /// Number of elements.
    pub len: u32,
    /// Bytes to which its address is aligned: a power of two from [`Shared::ALIGN`] to [`Shared::MOST_ALIGN`].
    pub align: u32,
}

impl Shared {
    /// The alignment of an array that needs none in particular: the widest access of a GPU.
    pub const ALIGN: u32 = 16;
    /// The greatest alignment, that of a tile in which 128-byte rows are swizzled.
    pub const MOST_ALIGN: u32 = 1024;
}

/// An array of registers of each thread. Only constants name its elements, so that all of it can be in registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Registers {
    /// For people.
    pub name: String,
    /// Type of an element.
    pub elem: DType,
    /// Number of elements.
    pub len: u32,
}

/// A barrier of the block at which threads arrive without waiting, with some stages that are alike: see [`Stmt::Arrive`].
#[derive(Clone, Debug, PartialEq)]
pub struct Mbarrier {
    /// For people.
    pub name: String,
    /// Arrivals that a phase needs, 1 to [`Mbarrier::MOST`].
    pub arrivals: u32,
    /// Number of stages, each of which has phases of its own.
    pub stages: u32,
}

impl Mbarrier {
    /// The most arrivals that a phase counts, and the most bytes that it expects.
    pub const MOST: u32 = (1 << 20) - 1;
    /// Bytes of shared memory that a stage takes.
    pub const BYTES: u64 = 8;
}

/// A name bound by [`Stmt::Let`], [`Stmt::Var`], a load, a loop, ... Private to a thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// For people; need not be unique.
    pub name: String,
    /// Its type.
    pub ty: Ty,
}

impl Kernel {
    /// Registers that a thread has when the kernel starts, at most: an even share of a processor's, in eights.
    pub fn registers_at_launch(&self) -> u32 {
        (REGISTERS / self.threads.saturating_mul(self.resident).max(1)).min(MOST_REGISTERS) / 8 * 8
    }

    /// Type of an element of the array, if there is such an array.
    pub fn elem(&self, place: Place) -> Option<DType> {
        match place {
            Place::Shared(handle) => self.shared.get(handle).map(|shared| shared.elem),
            Place::Registers(handle) => self.registers.get(handle).map(|registers| registers.elem),
            Place::Param(i) => match self.params.get(i as usize)?.kind {
                ParamKind::Buffer { elem, .. } => Some(elem),
                ParamKind::Scalar(_) | ParamKind::TensorMap(_) => None,
            },
        }
    }

    /// The type of every expression, in arena order, or why it has none: see [`expr::infer`].
    pub fn types(&self) -> Vec<Result<Ty, String>> {
        let mut types: Vec<Result<Ty, String>> = Vec::with_capacity(self.exprs.len());
        let scalar = |i: u32| match self.params.get(i as usize)?.kind {
            ParamKind::Scalar(elem) => Some(elem),
            ParamKind::Buffer { .. } | ParamKind::TensorMap(_) => None,
        };
        for (_, expr) in self.exprs.iter() {
            let operand = |h: Handle<Expr>| types.get(h.index())?.as_ref().ok().copied();
            types.push(expr::infer(expr, |h| self.locals.get(h).map(|local| local.ty), scalar, operand));
        }
        types
    }
}
