//! Roles and what they wait at from text. What `print_sync` prints comes back equal.

use super::parse::{Named, Parsed, Parser};
use super::{Arrival, Expr, Handle, Mbarrier, Place, Scope, Stmt, Wait, WarpRole};

impl Parser<'_> {
    /// `%full arrivals 1 stages 4`
    pub(super) fn mbarrier(&mut self) -> Parsed<()> {
        let name = self.declare(Named::Mbarrier(Handle::new(self.kernel.mbarriers.len())))?;
        self.expect("arrivals")?;
        let arrivals = self.number("a number of arrivals")?;
        self.expect("stages")?;
        let stages = self.number("a number of stages")?;
        self.kernel.mbarriers.push(Mbarrier { name, arrivals, stages });
        Ok(())
    }

    /// `warp`, `block`, `cluster` or `threads 128 id 1`
    pub(super) fn scope(&mut self) -> Parsed<Scope> {
        let scopes = |word: &str| match word {
            "warp" => Some(Scope::Warp),
            "block" => Some(Scope::Block),
            "cluster" => Some(Scope::Cluster),
            "threads" => Some(Scope::Threads { id: 0, count: 0 }),
            _ => None,
        };
        match self.known("`warp`, `threads`, `block` or `cluster`", scopes)? {
            Scope::Threads { .. } => {
                let count = self.number("a number of threads")?;
                self.expect("id")?;
                Ok(Scope::Threads { id: self.number("the number of a barrier")?, count })
            }
            scope @ (Scope::Warp | Scope::Block | Scope::Cluster) => Ok(scope),
        }
    }

    /// `threads 128 id 1`
    pub(super) fn barrier_arrive(&mut self) -> Parsed<Stmt> {
        let not = self.wrong("threads arrive at a barrier of some threads");
        match self.scope()? {
            Scope::Threads { id, count } => Ok(Stmt::BarrierArrive { id, count }),
            Scope::Warp | Scope::Block | Scope::Cluster => Err(not),
        }
    }

    /// `warps 0..1 registers 40 { .. } and warps 1..4 { .. }`; there may be none.
    pub(super) fn roles(&mut self) -> Parsed<Stmt> {
        let mut roles = Vec::new();
        while self.take(if roles.is_empty() { "warps" } else { "and" }) {
            if !roles.is_empty() {
                self.expect("warps")?;
            }
            let start = self.number("the number of a warp")?;
            self.expect("..")?;
            let warps = start..self.number("the number of a warp")?;
            let registers = if self.take("registers") { Some(self.number("a number of registers")?) } else { None };
            self.expect("{")?;
            roles.push(WarpRole { warps, registers, body: self.block()? });
        }
        Ok(Stmt::Roles(roles))
    }

    /// `%full[stage]`, `%full[stage] bytes 1024`, `%full[stage] copied` or `%full[stage] in_block 1`
    pub(super) fn arrive(&mut self) -> Parsed<Stmt> {
        let (barrier, stage) = self.stage()?;
        let arrival = if self.take("bytes") {
            Arrival::Expecting(self.expr()?)
        } else if self.take("copied") {
            Arrival::Copied
        } else if self.take("in_block") {
            Arrival::InBlock(self.expr()?)
        } else {
            Arrival::Now
        };
        Ok(Stmt::Arrive { barrier, stage, arrival })
    }

    /// `groups 1`, `products 1`, `stores`, `launches` or `%full[stage] phase number`
    pub(super) fn wait(&mut self) -> Parsed<Stmt> {
        if self.take("groups") {
            return Ok(Stmt::Wait(Wait::Groups(self.number("a number of groups")?)));
        }
        if self.take("products") {
            return Ok(Stmt::Wait(Wait::Products(self.number("a number of products")?)));
        }
        if self.take("stores") {
            return Ok(Stmt::Wait(Wait::Stores));
        }
        if self.take("launches") {
            return Ok(Stmt::Wait(Wait::Launches));
        }
        let (barrier, stage) = self.stage()?;
        self.expect("phase")?;
        Ok(Stmt::Wait(Wait::Phase { barrier, stage, phase: self.expr()? }))
    }

    /// `%to[at] = %from[offset] bytes 128 on %full[stage]`
    pub(super) fn bulk_copy(&mut self) -> Parsed<Stmt> {
        let not = self.wrong("a bulk copy goes to a shared array");
        let (Place::Shared(to), at) = self.element()? else { return Err(not) };
        self.expect("=")?;
        let (from, offset) = self.global()?;
        self.expect("bytes")?;
        let bytes = self.number("a number of bytes")?;
        self.expect("on")?;
        let (barrier, stage) = self.stage()?;
        Ok(Stmt::BulkCopy { to, at, from, offset, bytes, barrier, stage })
    }

    /// `%from[offset]`
    pub(super) fn prefetch(&mut self) -> Parsed<Stmt> {
        self.global().map(|(from, offset)| Stmt::Prefetch { from, offset })
    }

    /// An element of global memory.
    fn global(&mut self) -> Parsed<(u32, Handle<Expr>)> {
        let not = self.wrong("this is not in global memory");
        let (Place::Param(from), offset) = self.element()? else { return Err(not) };
        Ok((from, offset))
    }

    pub(super) fn stage(&mut self) -> Parsed<(Handle<Mbarrier>, Handle<Expr>)> {
        let not = self.wrong("this is not an mbarrier");
        let Named::Mbarrier(barrier) = self.named()? else { return Err(not) };
        self.expect("[")?;
        let stage = self.expr()?;
        self.expect("]")?;
        Ok((barrier, stage))
    }
}
