//! Something that happens, once, in order.

use super::{Expr, Handle, Local, Shared};

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
    /// All threads of the scope wait for each other, and see each other's stores to shared and global memory.
    Barrier(Scope),
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
}

impl Stmt {
    /// The expressions that it evaluates, in the order written.
    pub fn exprs(&self) -> impl Iterator<Item = Handle<Expr>> {
        match *self {
            Stmt::Let { value, .. } | Stmt::Var { value, .. } | Stmt::Set { value, .. } => [Some(value), None, None],
            Stmt::Shuffle { value, .. } | Stmt::Vote { value, .. } => [Some(value), None, None],
            Stmt::Load { offset, .. } => [Some(offset), None, None],
            Stmt::Store { offset, value, .. } | Stmt::AtomicAdd { offset, value, .. } => [Some(offset), Some(value), None],
            Stmt::For { start, end, step, .. } => [Some(start), Some(end), Some(step)],
            Stmt::If { cond, .. } => [Some(cond), None, None],
            Stmt::Barrier(_) => [None; 3],
        }
        .into_iter()
        .flatten()
    }

    /// The local that it binds.
    pub fn binds(&self) -> Option<Handle<Local>> {
        match *self {
            Stmt::Let { local, .. } | Stmt::Var { local, .. } | Stmt::Load { local, .. } => Some(local),
            Stmt::Shuffle { local, .. } | Stmt::Vote { local, .. } | Stmt::For { local, .. } => Some(local),
            Stmt::AtomicAdd { local, .. } => local,
            Stmt::Set { .. } | Stmt::Store { .. } | Stmt::Barrier(_) | Stmt::If { .. } => None,
        }
    }

    /// The blocks inside it: the body of a loop; what happens if true, then if false.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        match self {
            Stmt::For { body, .. } => [Some(body), None],
            Stmt::If { then, otherwise, .. } => [Some(then), Some(otherwise)],
            Stmt::Let { .. } | Stmt::Var { .. } | Stmt::Set { .. } | Stmt::Load { .. } | Stmt::Store { .. } => [None; 2],
            Stmt::AtomicAdd { .. } | Stmt::Shuffle { .. } | Stmt::Vote { .. } | Stmt::Barrier(_) => [None; 2],
        }
        .into_iter()
        .flatten()
    }
}

/// An array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Global memory: a buffer parameter, by position.
    Param(u32),
    /// Memory of the block.
    Shared(Handle<Shared>),
}

/// The threads that take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The lanes of a warp.
    Warp,
    /// The threads of a block.
    Block,
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
