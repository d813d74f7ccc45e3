//! Something that happens, once, in order.

use std::ops::Range;

use super::{Expr, Handle, Local, Mbarrier, Panels, Registers, Shared};
use crate::MatrixShape;

/// Statements in order.
pub type Block = Vec<Stmt>;

/// One effect. A local is bound exactly once, before its uses, by the statement that names it; only a
/// [`Stmt::Var`] may be changed afterwards, by [`Stmt::Set`].
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Binds a value.
    Let {
        /// The name.
        local: Handle<Local>,
        /// Its value.
        value: Handle<Expr>,
    },
    /// Binds a variable, with its first value.
    Var {
        /// The name.
        local: Handle<Local>,
        /// Its first value.
        value: Handle<Expr>,
    },
    /// Changes a variable.
    Set {
        /// A local bound by [`Stmt::Var`].
        local: Handle<Local>,
        /// Its next value.
        value: Handle<Expr>,
    },
    /// Reads `lanes` consecutive elements (the local's type says how many) from element `offset` on.
    Load {
        /// The name bound.
        local: Handle<Local>,
        /// The array.
        from: Place,
        /// Element index, `I32` or `I64`.
        offset: Handle<Expr>,
        /// Bytes to which the address is known to be aligned; at least those of an element.
        align: u32,
        /// Whether caches should keep it: of global memory.
        hint: Hint,
    },
    /// Writes the lanes of a value to consecutive elements from `offset` on.
    Store {
        /// The array.
        to: Place,
        /// Element index, `I32` or `I64`.
        offset: Handle<Expr>,
        /// What is written; its element type is the array's.
        value: Handle<Expr>,
        /// Bytes to which the address is known to be aligned; at least those of an element.
        align: u32,
    },
    /// Adds to an `I32` element, indivisibly and in no order. Binds the value before, if asked.
    AtomicAdd {
        /// The name bound.
        local: Option<Handle<Local>>,
        /// The array.
        to: Place,
        /// Element index, `I32` or `I64`.
        offset: Handle<Expr>,
        /// `I32`.
        value: Handle<Expr>,
    },
    /// Binds the value that lane `lane ^ mask` of this warp has. All lanes of the warp take part. `I32` or `F32`.
    Shuffle {
        /// The name bound.
        local: Handle<Local>,
        /// What this lane gives.
        value: Handle<Expr>,
        /// It takes the value of lane `lane ^ mask`.
        mask: u32,
    },
    /// Binds what the lanes of this warp agree on. All lanes take part.
    Vote {
        /// The name bound: `Bool` for `Any` and `All`, `I32` (one bit a lane) for `Ballot`.
        local: Handle<Local>,
        /// How.
        vote: Vote,
        /// A `Bool`.
        value: Handle<Expr>,
    },
    /// Binds the greatest or the least value of the lanes of this warp. All lanes take part.
    Redux {
        /// The name bound, `I32`.
        local: Handle<Local>,
        /// Which.
        extreme: Extreme,
        /// `I32`.
        value: Handle<Expr>,
    },
    /// All threads of the scope wait for each other, and see each other's stores to shared and global memory.
    Barrier(Scope),
    /// The threads come to the barrier of some threads of this number ([`Scope::Threads`]) and go on without waiting: they are of those that
    /// the others wait for, who see what these stored before.
    BarrierArrive {
        /// 1 to 15.
        id: u8,
        /// How many threads come to it, these and those that wait.
        count: u32,
    },
    /// From here on, the warps of the block go different ways: each role's threads go through its statements in lock step, beside the
    /// other roles. All threads of the block then go on with what follows, without waiting for each other. Once in a kernel, and not
    /// inside another statement. Warps of no role do nothing.
    Roles(Vec<WarpRole>),
    /// Each thread that comes here arrives once at the phase of the barrier's stage that is under way. The phase is over when it has
    /// had its arrivals and every byte that it was told to expect; then the next one begins. What threads did before they arrived is
    /// seen by those that have waited for the phase.
    Arrive {
        /// The barrier.
        barrier: Handle<Mbarrier>,
        /// Which of its stages, `I32`.
        stage: Handle<Expr>,
        /// When, and what else the phase is told.
        arrival: Arrival,
    },
    /// The thread waits.
    Wait(Wait),
    /// For this block, the next launch may begin now if it is early ([`super::Launch::early`]): it does when all blocks have said so or have
    /// ended. All threads of the block come here. Saying it again changes nothing.
    AllowNext,
    /// Each thread that comes here starts a copy of consecutive bytes from global to shared memory, and goes on. They count towards
    /// those that the phase under way at the barrier's stage expects ([`Stmt::Arrive`]), and are there when that phase is over; until
    /// then nothing may touch them.
    BulkCopy {
        /// A shared array.
        to: Handle<Shared>,
        /// Its element index, `I32` or `I64`; the address is a multiple of 16 bytes.
        at: Handle<Expr>,
        /// A buffer parameter that the kernel only reads, by position, of the same element type.
        from: u32,
        /// Its element index, `I32` or `I64`; the address is a multiple of 16 bytes.
        offset: Handle<Expr>,
        /// How many bytes: a constant multiple of 16.
        bytes: u32,
        /// The barrier.
        barrier: Handle<Mbarrier>,
        /// Which of its stages, `I32`.
        stage: Handle<Expr>,
    },
    /// Each thread that comes here starts a copy of a box of a tensor to shared memory, and goes on. The bytes of the whole box count as
    /// those of a [`Stmt::BulkCopy`]; elements of the box that are outside the tensor arrive as zeros.
    TileCopy {
        /// A shared array, aligned as the map's swizzle needs it ([`super::Swizzle::align`]).
        to: Handle<Shared>,
        /// Where the box begins in it: an element index, `I32` or `I64`, at a multiple of that alignment.
        at: Handle<Expr>,
        /// A parameter for a tensor map, by position, of the same element type.
        from: u32,
        /// The indices of the first element of the box in the tensor, outermost first: `I32`, negative or beyond the end too.
        corner: [Handle<Expr>; 3],
        /// The barrier.
        barrier: Handle<Mbarrier>,
        /// Which of its stages, `I32`.
        stage: Handle<Expr>,
        /// Whether the box goes to the same place in every block of the cluster, where its bytes count at the same stage of each.
        to_all: bool,
    },
    /// Each thread that comes here starts to store a box of a tensor from shared memory, and goes on. What is stored is what the thread has
    /// seen there behind a [`Stmt::Fence`]; elements of the box that are outside the tensor are left out. Until the thread has waited
    /// ([`Wait::Stores`]) the bytes in shared memory may not change, and it waits before it ends. Of the tensor nothing may be read by the
    /// launch.
    TileStore {
        /// A parameter for a tensor map that is stored to, by position.
        to: u32,
        /// The indices of the first element of the box in the tensor, outermost first: `I32`, negative or beyond the end too.
        corner: [Handle<Expr>; 3],
        /// A shared array of the same element type, aligned as the map's swizzle needs it.
        from: Handle<Shared>,
        /// Where the box begins in it: an element index, `I32` or `I64`, at a multiple of that alignment.
        at: Handle<Expr>,
    },
    /// Says that an element of a buffer will be read soon, so that a machine may bring what is around it nearer.
    Prefetch {
        /// A buffer parameter that the kernel only reads, by position.
        from: u32,
        /// Element index, `I32` or `I64`.
        offset: Handle<Expr>,
    },
    /// `for local in (start..end).step_by(step)`: the bounds are evaluated once; the step is positive, and
    /// `end - 1 + step` is still an integer of the type.
    For {
        /// The induction variable: `I32` or `I64`, the type of the bounds.
        local: Handle<Local>,
        /// First value.
        start: Handle<Expr>,
        /// Exclusive bound.
        end: Handle<Expr>,
        /// Increment.
        step: Handle<Expr>,
        /// What is repeated.
        body: Block,
    },
    /// One of two.
    If {
        /// A `Bool` scalar.
        cond: Handle<Expr>,
        /// If true.
        then: Block,
        /// If false.
        otherwise: Block,
    },
    /// Starts a copy of `bytes` bytes from global to shared memory and goes on. The bytes are there after the thread has waited
    /// for the group of the copy ([`Stmt::Commit`], [`Stmt::Wait`]), for other threads after a barrier behind that wait; until
    /// then nothing may touch them. Where `live` is false the source is not read and zeros arrive.
    Copy {
        /// A shared array.
        to: Place,
        /// Its element index, `I32` or `I64`; the address is a multiple of `bytes`.
        at: Handle<Expr>,
        /// A buffer parameter that the kernel only reads, of the same element type.
        from: Place,
        /// Its element index, `I32` or `I64`; the address is a multiple of `bytes`.
        offset: Handle<Expr>,
        /// 4, 8 or 16.
        bytes: u32,
        /// A `Bool`; none: true.
        live: Option<Handle<Expr>>,
    },
    /// Makes one group of the thread's copies since its last group; it may be empty.
    Commit,
    /// Binds parts of matrices in shared memory of 8 rows by 8 elements of 16 bits, or 4 of `F32`: one a local, 1, 2 or 4 of them. Lane
    /// `8 i + r` says where row `r` of the i-th begins; what other lanes say is not looked at. A lane gets two neighbours, or one
    /// `F32`: see [`super::fragment`].
    /// All lanes of the warp take part.
    LoadMatrix {
        /// The names bound, of the array's element type in two lanes, or one of `F32`.
        locals: Vec<Handle<Local>>,
        /// A shared array of `F16`, `BF16` or `F32`.
        from: Place,
        /// Element index of a row, `I32` or `I64`; its address is a multiple of 16 bytes.
        offset: Handle<Expr>,
        /// Whether each matrix, of elements of 16 bits, is transposed on the way.
        transposed: bool,
    },
    /// The other way round: writes matrices of 8 rows by 8 elements, one a pair, 1, 2 or 4 of them. All lanes of the warp take part.
    StoreMatrix {
        /// A shared array of `F16` or `BF16`.
        to: Place,
        /// Element index of a row, `I32` or `I64`; its address is a multiple of 16 bytes.
        offset: Handle<Expr>,
        /// The lane's two neighbours of each matrix.
        pairs: Vec<Handle<Expr>>,
        /// Whether each matrix is transposed on the way.
        transposed: bool,
    },
    /// `sums += a * b`, matrices of the warp in fragments: see [`super::fragment`]. All lanes take part.
    Mma {
        /// Rows and columns of the sums, and the length of the products.
        shape: MatrixShape,
        /// An array of `F32`.
        sums: Handle<Registers>,
        /// The first of the elements that are the lane's part of the sums.
        at: u32,
        /// The lane's part of the left factor: pairs of `F16` or `BF16`, or numbers of `F32`, of which the bits of tf32 are looked at.
        a: Vec<Handle<Expr>>,
        /// The lane's part of the right factor, of the same type.
        b: Vec<Handle<Expr>>,
    },
    /// Starts `sums += a * b`, matrices of four warps whose first has a number that is a multiple of 4, and goes on: the left factor has
    /// 64 rows. All lanes of the four take part. It is a group of products by itself ([`Wait::Products`]); until the thread has waited
    /// for it, nothing but another such product may touch the sums, and nothing may write the factors in shared memory. Where the
    /// left factor is in registers, it is waited for at once. What ordinary stores and copies of a thread brought to shared memory
    /// is read by it behind a [`Stmt::Fence`] only.
    GroupMma {
        /// Columns of the right factor and of the sums: a multiple of 8, at most 256.
        columns: u32,
        /// The length of the products: a multiple of 16.
        depth: u32,
        /// An array of `F32`.
        sums: Handle<Registers>,
        /// The first of the elements that are the lane's part of the sums: see [`super::fragment::place_in_group_sums`].
        at: u32,
        /// The left factor.
        a: Factor,
        /// The right factor.
        b: Panels,
    },
    /// What this thread has seen of shared memory so far, its own stores and those of others behind a barrier, is seen by products of
    /// four warps and stores of boxes that are started behind this.
    Fence,
}

/// The left factor of a [`Stmt::GroupMma`].
#[derive(Clone, Debug, PartialEq)]
pub enum Factor {
    /// The lane's part of it: for each 16 of the depth four pairs of `F16` or `BF16`, as for a [`Stmt::Mma`] of depth 16.
    Pairs(Vec<Handle<Expr>>),
    /// In shared memory.
    Shared(Panels),
}

/// How a thread arrives at a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// Now.
    Now,
    /// Now, and copies are going to bring so many bytes in this phase, beyond those that it expects already; `I32`.
    Expecting(Handle<Expr>),
    /// When all copies are there that the thread has started ([`Stmt::Copy`]) and that are not bound to another arrival: those that
    /// have waited for the phase see what they brought. The thread goes on, and need not wait for them itself.
    Copied,
    /// Now, at the same stage of the block with this number in the cluster, `I32`. To other blocks it tells that what this thread has
    /// read is over, so that copies may come in its place, and nothing of what it stored: for that there is the cluster's barrier.
    InBlock(Handle<Expr>),
}

impl Arrival {
    /// The bytes that it tells the phase to expect.
    pub fn bytes(self) -> Option<Handle<Expr>> {
        match self {
            Arrival::Expecting(bytes) => Some(bytes),
            Arrival::Now | Arrival::Copied | Arrival::InBlock(_) => None,
        }
    }

    /// The number in the cluster of the block whose barrier it is at; none: it is the thread's own.
    pub fn block(self) -> Option<Handle<Expr>> {
        match self {
            Arrival::InBlock(block) => Some(block),
            Arrival::Now | Arrival::Copied | Arrival::Expecting(_) => None,
        }
    }
}

/// Some expressions, then lists of them.
type Evaluated<'s> = ([Option<Handle<Expr>>; 3], [&'s [Handle<Expr>]; 2]);

impl Stmt {
    /// The expressions that it evaluates, in the order written.
    pub fn exprs(&self) -> impl Iterator<Item = Handle<Expr>> {
        let (few, lists): Evaluated<'_> = match self {
            Stmt::Let { value, .. } | Stmt::Var { value, .. } | Stmt::Set { value, .. } => ([Some(*value), None, None], [&[]; 2]),
            Stmt::Shuffle { value, .. } | Stmt::Vote { value, .. } | Stmt::Redux { value, .. } => {
                ([Some(*value), None, None], [&[]; 2])
            }
            Stmt::Load { offset, .. } => ([Some(*offset), None, None], [&[]; 2]),
            Stmt::Store { offset, value, .. } | Stmt::AtomicAdd { offset, value, .. } => {
                ([Some(*offset), Some(*value), None], [&[]; 2])
            }
            Stmt::For { start, end, step, .. } => ([Some(*start), Some(*end), Some(*step)], [&[]; 2]),
            Stmt::If { cond, .. } => ([Some(*cond), None, None], [&[]; 2]),
            Stmt::Copy { at, offset, live, .. } => ([Some(*at), Some(*offset), *live], [&[]; 2]),
            Stmt::LoadMatrix { offset, .. } => ([Some(*offset), None, None], [&[]; 2]),
            Stmt::StoreMatrix { offset, pairs, .. } => ([Some(*offset), None, None], [pairs, &[]]),
            Stmt::Mma { a, b, .. } => ([None; 3], [a, b]),
            Stmt::GroupMma { a: Factor::Pairs(a), b, .. } => ([Some(b.at), None, None], [a, &[]]),
            Stmt::GroupMma { a: Factor::Shared(a), b, .. } => ([Some(a.at), Some(b.at), None], [&[]; 2]),
            Stmt::Arrive { stage, arrival, .. } => ([Some(*stage), arrival.bytes(), arrival.block()], [&[]; 2]),
            Stmt::Wait(Wait::Phase { stage, phase, .. }) => ([Some(*stage), Some(*phase), None], [&[]; 2]),
            Stmt::BulkCopy { at, offset, stage, .. } => ([Some(*at), Some(*offset), Some(*stage)], [&[]; 2]),
            Stmt::TileCopy { at, corner, stage, .. } => ([Some(*at), Some(*stage), None], [corner, &[]]),
            Stmt::TileStore { corner, at, .. } => ([Some(*at), None, None], [corner, &[]]),
            Stmt::Prefetch { offset, .. } => ([Some(*offset), None, None], [&[]; 2]),
            Stmt::Wait(Wait::Groups(_) | Wait::Products(_) | Wait::Stores | Wait::Launches) => ([None; 3], [&[]; 2]),
            Stmt::Barrier(_) | Stmt::Roles(_) | Stmt::Commit | Stmt::Fence | Stmt::AllowNext => ([None; 3], [&[]; 2]),
            Stmt::BarrierArrive { .. } => ([None; 3], [&[]; 2]),
        };
        few.into_iter().flatten().chain(lists.into_iter().flatten().copied())
    }

    /// The locals that it binds, in the order written.
    pub fn binds(&self) -> impl Iterator<Item = Handle<Local>> {
        let (one, several): (Option<Handle<Local>>, &[Handle<Local>]) = match self {
            Stmt::Let { local, .. } | Stmt::Var { local, .. } | Stmt::Load { local, .. } => (Some(*local), &[]),
            Stmt::Shuffle { local, .. } | Stmt::Vote { local, .. } | Stmt::Redux { local, .. } => (Some(*local), &[]),
            Stmt::For { local, .. } => (Some(*local), &[]),
            Stmt::AtomicAdd { local, .. } => (*local, &[]),
            Stmt::LoadMatrix { locals, .. } => (None, locals),
            Stmt::Set { .. } | Stmt::Store { .. } | Stmt::Barrier(_) | Stmt::If { .. } => (None, &[]),
            Stmt::Copy { .. } | Stmt::Commit | Stmt::Wait(_) | Stmt::AllowNext | Stmt::Mma { .. } => (None, &[]),
            Stmt::Roles(_) | Stmt::Arrive { .. } | Stmt::BulkCopy { .. } | Stmt::TileCopy { .. } => (None, &[]),
            Stmt::Prefetch { .. } | Stmt::GroupMma { .. } | Stmt::Fence | Stmt::BarrierArrive { .. } => (None, &[]),
            Stmt::StoreMatrix { .. } | Stmt::TileStore { .. } => (None, &[]),
        };
        one.into_iter().chain(several.iter().copied())
    }

    /// The blocks inside it: the body of a loop; what happens if true, then if false; the bodies of roles.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        let (few, roles): ([Option<&Block>; 2], &[WarpRole]) = match self {
            Stmt::For { body, .. } => ([Some(body), None], &[]),
            Stmt::If { then, otherwise, .. } => ([Some(then), Some(otherwise)], &[]),
            Stmt::Roles(roles) => ([None; 2], roles),
            Stmt::Let { .. } | Stmt::Var { .. } | Stmt::Set { .. } | Stmt::Load { .. } | Stmt::Store { .. } => ([None; 2], &[]),
            Stmt::AtomicAdd { .. } | Stmt::Shuffle { .. } | Stmt::Vote { .. } | Stmt::Redux { .. } => ([None; 2], &[]),
            Stmt::Barrier(_) | Stmt::Copy { .. } | Stmt::Commit | Stmt::LoadMatrix { .. } | Stmt::Mma { .. } => ([None; 2], &[]),
            Stmt::Arrive { .. } | Stmt::Wait(_) | Stmt::BulkCopy { .. } | Stmt::TileCopy { .. } => ([None; 2], &[]),
            Stmt::AllowNext | Stmt::StoreMatrix { .. } | Stmt::TileStore { .. } => ([None; 2], &[]),
            Stmt::Prefetch { .. } | Stmt::GroupMma { .. } | Stmt::Fence | Stmt::BarrierArrive { .. } => ([None; 2], &[]),
        };
        few.into_iter().flatten().chain(roles.iter().map(|role| &role.body))
    }

    /// The parameter whose memory it reads or writes itself, by position, and how.
    pub(super) fn reaches(&self) -> Option<(u32, Reach)> {
        let param = |place: Place, reach: Reach| match place {
            Place::Param(i) => Some((i, reach)),
            Place::Shared(_) | Place::Registers(_) => None,
        };
        match *self {
            Stmt::Load { from, .. } | Stmt::Copy { from, .. } | Stmt::LoadMatrix { from, .. } => param(from, Reach::Read),
            Stmt::BulkCopy { from, .. } | Stmt::TileCopy { from, .. } | Stmt::Prefetch { from, .. } => Some((from, Reach::Read)),
            Stmt::Store { to, .. } | Stmt::StoreMatrix { to, .. } => param(to, Reach::Write),
            Stmt::TileStore { to, .. } => Some((to, Reach::Write)),
            Stmt::AtomicAdd { to, .. } => param(to, Reach::Add),
            Stmt::Let { .. } | Stmt::Var { .. } | Stmt::Set { .. } | Stmt::Shuffle { .. } | Stmt::Vote { .. } => None,
            Stmt::Barrier(_) | Stmt::BarrierArrive { .. } | Stmt::Roles(_) | Stmt::Arrive { .. } | Stmt::Wait(_) => None,
            Stmt::AllowNext | Stmt::For { .. } | Stmt::If { .. } | Stmt::Commit | Stmt::Fence => None,
            Stmt::Mma { .. } | Stmt::GroupMma { .. } | Stmt::Redux { .. } => None,
        }
    }

    /// Whether it reaches into other blocks of the cluster.
    pub(super) fn leaves_block(&self) -> bool {
        match self {
            Stmt::Arrive { arrival, .. } => arrival.block().is_some(),
            Stmt::TileCopy { to_all, .. } => *to_all,
            Stmt::Let { .. } | Stmt::Var { .. } | Stmt::Set { .. } | Stmt::Load { .. } | Stmt::Store { .. } => false,
            Stmt::AtomicAdd { .. } | Stmt::Shuffle { .. } | Stmt::Vote { .. } | Stmt::Redux { .. } | Stmt::Commit => false,
            Stmt::Barrier(_) | Stmt::BarrierArrive { .. } | Stmt::Wait(_) | Stmt::AllowNext | Stmt::Fence => false,
            Stmt::BulkCopy { .. } | Stmt::TileStore { .. } | Stmt::Prefetch { .. } | Stmt::Copy { .. } => false,
            Stmt::LoadMatrix { .. } | Stmt::StoreMatrix { .. } | Stmt::Mma { .. } | Stmt::GroupMma { .. } => false,
            Stmt::For { .. } | Stmt::If { .. } | Stmt::Roles(_) => self.blocks().flatten().any(Stmt::leaves_block),
        }
    }

    /// Whether threads see by it what others did before, or show these what they did.
    pub(super) fn is_meeting(&self) -> bool {
        match self {
            Stmt::Barrier(_) | Stmt::BarrierArrive { .. } | Stmt::Arrive { .. } | Stmt::Wait(Wait::Phase { .. }) => true,
            Stmt::Wait(Wait::Groups(_) | Wait::Products(_) | Wait::Stores | Wait::Launches) | Stmt::AllowNext | Stmt::Fence => {
                false
            }
            Stmt::Let { .. } | Stmt::Var { .. } | Stmt::Set { .. } | Stmt::Load { .. } | Stmt::Store { .. } => false,
            Stmt::AtomicAdd { .. } | Stmt::Shuffle { .. } | Stmt::Vote { .. } | Stmt::Roles(_) | Stmt::Commit => false,
            Stmt::StoreMatrix { .. } | Stmt::Redux { .. } => false,
            Stmt::BulkCopy { .. } | Stmt::TileCopy { .. } | Stmt::Prefetch { .. } | Stmt::Copy { .. } => false,
            Stmt::TileStore { .. } => false,
            Stmt::For { .. } | Stmt::If { .. } | Stmt::LoadMatrix { .. } | Stmt::Mma { .. } | Stmt::GroupMma { .. } => false,
        }
    }
}

/// What a statement does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Read,
    Write,
    /// Both, indivisibly.
    Add,
}

/// An array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Global memory: a buffer parameter, by position.
    Param(u32),
    /// Memory of the block.
    Shared(Handle<Shared>),
    /// Registers of the thread. Their elements are named by constants.
    Registers(Handle<Registers>),
}

/// What is known of when a loaded element will be read again, by this thread or its neighbours. It changes no value. Of an NVIDIA GPU
/// it reaches the cache of the processor; a host has no use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hint {
    /// Nothing.
    None,
    /// Soon: caches should keep it before others.
    Keep,
    /// Never: caches need not keep it.
    Stream,
}

/// The threads that take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The lanes of a warp.
    Warp,
    /// Some threads of the block: whole warps, which come to a barrier of this number.
    Threads {
        /// 1 to 15. Barriers of one number have one count.
        id: u8,
        /// How many threads come to it; then all of them go on.
        count: u32,
    },
    /// The threads of a block.
    Block,
    /// The threads of all blocks of a cluster ([`super::Kernel::cluster`]).
    Cluster,
}

/// Warps of a block that have work of their own: see [`Stmt::Roles`].
#[derive(Clone, Debug, PartialEq)]
pub struct WarpRole {
    /// Which warps of the block.
    pub warps: Range<u32>,
    /// Registers that each of its threads may have from here on, where those are not what a thread of the kernel has.
    pub registers: Option<u32>,
    /// What each of its threads does.
    pub body: Block,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Until all but the last so many of its groups of copies have arrived: see [`Stmt::Commit`].
    Groups(u32),
    /// Until all but the last so many of the products that the thread has started with its warps are over: see [`Stmt::GroupMma`].
    Products(u32),
    /// Until what the thread's stores of boxes read may change: see [`Stmt::TileStore`].
    Stores,
    /// Until the launches before this one have ended, whose effects are seen from here on: see [`super::Launch::early`]. Where the launch
    /// is not early, they have ended when it begins.
    Launches,
    /// Until a phase is over: see [`Stmt::Arrive`]. The phases of each stage are numbered from 0; phase -1 is over from the start. A
    /// machine knows only whether a phase's number is odd, so a thread may not wait for a phase before its predecessor is over, nor
    /// after its successor is.
    Phase {
        /// The barrier.
        barrier: Handle<Mbarrier>,
        /// Which of its stages, `I32`.
        stage: Handle<Expr>,
        /// The number of the phase, `I32`.
        phase: Handle<Expr>,
    },
}

/// What a warp agrees on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vote {
    /// Whether it is true in some lane.
    Any,
    /// Whether it is true in every lane.
    All,
    /// In which lanes it is true.
    Ballot,
}

/// Which of a warp's values is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extreme {
    /// The greatest.
    Max,
    /// The least.
    Min,
}
