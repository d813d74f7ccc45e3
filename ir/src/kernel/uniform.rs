//! Which values all threads of a block, of its cluster, or all lanes of a warp, agree on. Conservative: what is not proved differs.
//!
//! Loads of shared arrays are taken to agree where their addresses do, because a block free of data races reads one
//! value there between two barriers. Data races are not looked for here.

use std::cmp::Reverse;

use super::{Binary, Block, Compare, Expr, Extreme, Handle, Index, Kernel, Local, ParamKind, Place, Stmt, Vote};

/// Which threads agree on a value, or reach a statement together. Ordered: a mix agrees as far as its worst part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Agreement {
    /// All threads of all blocks of a cluster.
    Cluster,
    /// All threads of the block.
    Block,
    /// The threads of each role.
    Role,
    /// The threads of this many warps, the first of which has a number that is a multiple: a power of two, at least 2. Where there
    /// are roles, those of them that are in one role.
    Warps(Reverse<u32>),
    /// The lanes of each warp.
    Warp,
    /// Each thread for itself: the values differ, or may.
    Differs,
}

/// The agreement on every expression of a kernel, in arena order.
pub(super) fn agreements(kernel: &Kernel, warp_lanes: u32) -> Vec<Agreement> {
    if kernel.threads == 1 && kernel.cluster == 1 {
        return vec![Agreement::Cluster; kernel.exprs.len()];
    }
    let mut locals = vec![Agreement::Cluster; kernel.locals.len()];
    loop {
        let exprs = of_exprs(kernel, i64::from(warp_lanes.max(1)), &locals);
        let before = locals.clone();
        let mut walk = Walk { kernel, exprs: &exprs, locals: &mut locals };
        walk.block(&kernel.body, Agreement::Cluster);
        // Levels only rise, so this ends.
        if locals == before {
            return exprs;
        }
    }
}

fn of_exprs(kernel: &Kernel, warp_lanes: i64, locals: &[Agreement]) -> Vec<Agreement> {
    let mut known: Vec<Agreement> = Vec::with_capacity(kernel.exprs.len());
    for (_, expr) in kernel.exprs.iter() {
        let of = |h: Handle<Expr>| known.get(h.index()).copied().unwrap_or(Agreement::Differs);
        let of_operands = || expr.operands().map(of).max().unwrap_or(Agreement::Differs);
        // Without a wildcard: what a new expression agrees on has to be said here.
        let agreement = match *expr {
            Expr::Bool(_) | Expr::Int(..) | Expr::Float(_) | Expr::Param(_) => Agreement::Cluster,
            Expr::Index(Index::Block) if kernel.cluster == 1 => Agreement::Cluster,
            Expr::Index(Index::Block) => Agreement::Block,
            Expr::Index(Index::Thread) => Agreement::Differs,
            Expr::Local(h) => locals.get(h.index()).copied().unwrap_or(Agreement::Differs),
            Expr::Binary(..) | Expr::Compare(..) => of_parts(kernel, expr, warp_lanes).unwrap_or_else(of_operands),
            Expr::Unary(..) | Expr::Select(..) | Expr::Fma(..) => of_operands(),
            Expr::Dot { .. } | Expr::Cast(..) | Expr::Bitcast(..) => of_operands(),
            Expr::Splat(..) | Expr::Concat(..) | Expr::Transpose(..) => of_operands(),
            Expr::Extract(..) | Expr::Reduce(..) => of_operands(),
        };
        known.push(agreement);
    }
    known
}

/// The agreement on `thread / n`, `thread < n` or the like, with `n` a multiple of a warp's lanes, or of `block / n`, with one of a
/// cluster's blocks.
fn of_parts(kernel: &Kernel, expr: &Expr, warp_lanes: i64) -> Option<Agreement> {
    let of_index = |left: Handle<Expr>, right: Handle<Expr>| match (kernel.exprs.get(left), kernel.exprs.get(right)) {
        (Some(&Expr::Index(index)), Some(&Expr::Int(n, _))) => Some((index, n)),
        (_, _) => None,
    };
    let (index, n) = if let Expr::Binary(Binary::Div, a, b) | Expr::Compare(Compare::Lt | Compare::Ge, a, b) = *expr {
        of_index(a, b)?
    } else if let Expr::Binary(Binary::Shr | Binary::ShrUnsigned, a, b) = *expr {
        of_index(a, b).filter(|(_, n)| (0..31).contains(n)).map(|(index, n)| (index, 1 << n))?
    } else {
        return None;
    };
    let multiple = |of: i64| n > 0 && n % of == 0;
    match index {
        Index::Thread => multiple(warp_lanes).then(|| of_groups(n / warp_lanes)),
        Index::Block => multiple(i64::from(kernel.cluster.max(1))).then_some(Agreement::Cluster),
    }
}

/// The agreement of all groups of `warps` warps, or of the parts that all such groups have in common with groups of a power of two.
fn of_groups(warps: i64) -> Agreement {
    match warps.trailing_zeros() {
        0 => Agreement::Warp,
        n => Agreement::Warps(Reverse(1 << n.min(16))),
    }
}

struct Walk<'a> {
    kernel: &'a Kernel,
    exprs: &'a [Agreement],
    locals: &'a mut [Agreement],
}

impl Walk<'_> {
    fn of(&self, handle: Handle<Expr>) -> Agreement {
        self.exprs.get(handle.index()).copied().unwrap_or(Agreement::Differs)
    }

    fn raise(&mut self, local: Handle<Local>, to: Agreement) {
        if let Some(agreement) = self.locals.get_mut(local.index()) {
            *agreement = to.max(*agreement);
        }
    }

    /// `control`: which threads come here together.
    fn block(&mut self, block: &Block, control: Agreement) {
        for stmt in block {
            match *stmt {
                Stmt::Let { local, value } => self.raise(local, self.of(value)),
                // Threads that do not come here keep another value.
                Stmt::Var { local, value } | Stmt::Set { local, value } => self.raise(local, self.of(value).max(control)),
                Stmt::Load { local, from, offset, .. } => {
                    let agreement = match from {
                        // Each block has its own.
                        Place::Shared(_) => self.of(offset).max(Agreement::Block),
                        Place::Registers(_) => Agreement::Differs,
                        Place::Param(i) => match self.kernel.params.get(i as usize).map(|param| param.kind) {
                            Some(ParamKind::Buffer { write: false, .. }) => self.of(offset),
                            Some(ParamKind::Buffer { write: true, .. }) => Agreement::Differs,
                            Some(ParamKind::Scalar(_) | ParamKind::TensorMap(_)) | None => Agreement::Differs,
                        },
                    };
                    self.raise(local, agreement);
                }
                Stmt::AtomicAdd { local: Some(local), .. } => self.raise(local, Agreement::Differs),
                Stmt::Shuffle { local, value, .. } => self.raise(local, self.of(value)),
                Stmt::Vote { local, vote: Vote::Any | Vote::All | Vote::Ballot, value } => {
                    self.raise(local, self.of(value).min(Agreement::Warp));
                }
                Stmt::Redux { local, extreme: Extreme::Max | Extreme::Min, value } => {
                    self.raise(local, self.of(value).min(Agreement::Warp));
                }
                Stmt::For { local, start, end, step, ref body } => {
                    self.raise(local, self.of(start).max(self.of(step)));
                    let bounds = self.of(start).max(self.of(end)).max(self.of(step));
                    self.block(body, control.max(bounds));
                }
                Stmt::If { cond, ref then, ref otherwise } => {
                    let control = control.max(self.of(cond));
                    self.block(then, control);
                    self.block(otherwise, control);
                }
                // Each lane has another part of the matrices.
                Stmt::LoadMatrix { ref locals, .. } => locals.iter().for_each(|local| self.raise(*local, Agreement::Differs)),
                Stmt::Roles(ref roles) => roles.iter().for_each(|role| self.block(&role.body, control.max(Agreement::Role))),
                Stmt::AtomicAdd { local: None, .. } | Stmt::Store { .. } | Stmt::StoreMatrix { .. } => {}
                Stmt::Barrier(_) | Stmt::BarrierArrive { .. } | Stmt::AllowNext => {}
                Stmt::Copy { .. } | Stmt::Commit | Stmt::Wait(_) | Stmt::Mma { .. } | Stmt::GroupMma { .. } | Stmt::Fence => {}
                Stmt::Arrive { .. } | Stmt::BulkCopy { .. } | Stmt::TileCopy { .. } | Stmt::TileStore { .. } => {}
                Stmt::Prefetch { .. } => {}
            }
        }
    }
}
