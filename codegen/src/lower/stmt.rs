//! Statements as LLVM instructions, in order: one arm a variant.

use moec_ir::DType;
use moec_ir::kernel::{Block, Expr, Handle, Local, Place, Scope, Stmt, Wait};

use super::{Bound, Lowering, elem};
use crate::Error;
use crate::llvm::{self, IntPredicate, Op, Pointer, Value};

impl<'c> Lowering<'_, 'c> {
    /// Statements in order. What they evaluate is forgotten at the end, for it does not dominate what follows.
    pub(super) fn block(&mut self, block: &Block) -> Result<(), Error> {
        let outside = self.lasting.len();
        for stmt in block {
            self.stmt(stmt)?;
            self.forget_passing();
        }
        for expr in self.lasting.drain(outside..) {
            self.known[expr.index()] = None;
        }
        Ok(())
    }

    /// A statement has read variables as they were before it.
    pub(super) fn forget_passing(&mut self) {
        for expr in self.passing.drain(..) {
            self.known[expr.index()] = None;
        }
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), Error> {
        let ir = self.ir;
        match stmt {
            Stmt::Let { local, value } => {
                let value = self.expr(*value)?;
                self.bind(*local, value);
            }
            Stmt::Var { local, value } => {
                let value = self.expr(*value)?;
                let at = ir.variable(self.function, value.get_type(), 0, &self.local(*local).name);
                ir.store(value, at, 0);
                self.locals[local.index()] = Some(Bound::Variable(at));
            }
            Stmt::Set { local, value } => {
                let value = self.expr(*value)?;
                match self.locals[local.index()] {
                    Some(Bound::Variable(at)) => ir.store(value, at, 0),
                    Some(Bound::Value(_)) | None => {
                        return Err(self.malformed(format!("`{}` is not a variable", self.local(*local).name)));
                    }
                }
            }
            Stmt::Load { local, from: Place::Registers(array), offset, align: _, hint: _ } => {
                let value = self.load_registers(*array, *offset, self.local(*local).ty.lanes)?;
                self.locals[local.index()] = Some(Bound::Value(value));
            }
            Stmt::Store { to: Place::Registers(array), offset, value, align: _ } => {
                let value = self.expr(*value)?;
                self.store_registers(*array, *offset, value)?;
            }
            Stmt::Load { local, from, offset, align, hint } => {
                let at = self.element(*from, *offset)?;
                let Local { name, ty } = self.local(*local);
                let of = (ty.elem, ty.lanes);
                let hinted = self.target.hinted_load(ir, of, at, *align, *hint, self.only_reads(*from));
                let value = hinted.unwrap_or_else(|| ir.load(self.ty(*ty), at, *align, name));
                self.locals[local.index()] = Some(Bound::Value(value));
            }
            Stmt::Store { to, offset, value, align } => {
                let at = self.element(*to, *offset)?;
                let value = self.expr(*value)?;
                ir.store(value, at, *align);
            }
            Stmt::AtomicAdd { local, to, offset, value } => {
                let at = self.element(*to, *offset)?;
                let value = self.expr(*value)?;
                let old = ir.atomic_add(at, value, self.target.atomic_scope(*to));
                if let Some(local) = local {
                    self.bind(*local, old);
                }
            }
            Stmt::Shuffle { local, value, mask } => {
                self.needs_whole_warps()?;
                let elem = self.types[value.index()].elem;
                let value = self.expr(*value)?;
                self.bind(*local, self.target.shuffle(ir, elem, value, *mask));
            }
            Stmt::Vote { local, vote, value } => {
                self.needs_whole_warps()?;
                let value = self.expr(*value)?;
                self.bind(*local, self.target.vote(ir, *vote, value));
            }
            Stmt::Redux { local, extreme, value } => {
                self.needs_whole_warps()?;
                let value = self.expr(*value)?;
                self.bind(*local, self.target.redux(ir, *extreme, value));
            }
            Stmt::Barrier(scope) => {
                match scope {
                    Scope::Warp => self.needs_whole_warps()?,
                    Scope::Threads { .. } => self.warps("barriers of some threads").map(|_| ())?,
                    Scope::Block => {}
                    Scope::Cluster if self.machine.cluster_blocks == 1 => return Err(self.unsupported("clusters of blocks")),
                    Scope::Cluster => {}
                }
                self.target.barrier(ir, *scope);
            }
            Stmt::BarrierArrive { id, count } => self.warps("barriers of some threads")?.arrive_at(ir, *id, *count),
            Stmt::Roles(roles) => self.roles(roles)?,
            Stmt::Arrive { barrier, stage, arrival } => self.arrive(*barrier, *stage, *arrival)?,
            Stmt::BulkCopy { to, at, from, offset, bytes, barrier, stage } => {
                let to = self.element(Place::Shared(*to), *at)?;
                let from = self.element(Place::Param(*from), *offset)?;
                let stage = self.stage(*barrier, *stage)?;
                self.warps("bulk copies")?.bulk_copy(ir, to, from, *bytes, stage);
            }
            Stmt::TileCopy { to, at, from, corner, barrier, stage, to_all } => {
                let to = self.element(Place::Shared(*to), *at)?;
                let map = self.function.get_params()[*from as usize].into_pointer_value();
                let [outer, row, column] = corner.map(|index| self.expr(index));
                let corner = [outer?, row?, column?];
                let stage = self.stage(*barrier, *stage)?;
                if *to_all && !self.machine.shared_boxes {
                    return Err(self.unsupported("copies to all blocks of a cluster"));
                }
                // A cluster has 16 blocks at most.
                let blocks = to_all.then(|| (1_u32.checked_shl(self.kernel.cluster).unwrap_or(0).wrapping_sub(1)) as u16);
                self.warps("copies of boxes")?.tile_copy(ir, to, (map, corner), stage, blocks);
            }
            Stmt::TileStore { to, corner, from, at } => {
                let from = self.element(Place::Shared(*from), *at)?;
                let map = self.function.get_params()[*to as usize].into_pointer_value();
                let [outer, row, column] = corner.map(|index| self.expr(index));
                self.warps("stores of boxes")?.tile_store(ir, (map, [outer?, row?, column?]), from);
            }
            Stmt::Wait(Wait::Stores) => self.warps("stores of boxes")?.wait_stores(ir),
            Stmt::Prefetch { from, offset } => {
                let at = self.element(Place::Param(*from), *offset)?;
                self.target.prefetch(ir, at);
            }
            Stmt::Wait(Wait::Phase { barrier, stage, phase }) => self.wait(*barrier, *stage, *phase)?,
            Stmt::For { local, start, end, step, body } => self.for_loop(*local, [*start, *end, *step], body)?,
            Stmt::If { cond, then, otherwise } => self.branch(*cond, then, otherwise)?,
            Stmt::Copy { to, at, from, offset, bytes, live } => self.copy([*to, *from], [*at, *offset], *bytes, *live)?,
            Stmt::Commit => self.target.commit(ir).ok_or_else(|| self.unsupported("a group of copies"))?,
            Stmt::Wait(Wait::Groups(left)) => {
                self.target.wait(ir, *left).ok_or_else(|| self.unsupported("a wait for copies"))?;
            }
            Stmt::StoreMatrix { to, offset, pairs, transposed } => self.store_matrix((*to, *offset), pairs, *transposed)?,
            Stmt::LoadMatrix { locals, from, offset, transposed } => self.load_matrix(locals, *from, *offset, *transposed)?,
            Stmt::Mma { shape, sums, at, a, b } => self.mma(*shape, (*sums, *at), a, b)?,
            Stmt::GroupMma { columns, depth, sums, at, a, b } => self.group_mma([*columns, *depth], (*sums, *at), a, b)?,
            Stmt::Wait(Wait::Products(left)) => self.wait_products(stmt, *left)?,
            Stmt::Wait(Wait::Launches) => self.target.wait_launches(ir).ok_or_else(|| self.unsupported("a wait for launches"))?,
            Stmt::AllowNext => self.target.allow_next(ir).ok_or_else(|| self.unsupported("permission for the next launch"))?,
            Stmt::Fence => self.fence()?,
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, local: Handle<Local>, value: Value<'c>) {
        llvm::name(value, &self.local(local).name);
        self.locals[local.index()] = Some(Bound::Value(value));
    }

    /// The address of an element of an array.
    pub(super) fn element(&mut self, place: Place, offset: Handle<Expr>) -> Result<Pointer<'c>, Error> {
        let (array, of) = self.array(place)?;
        let offset = self.offset(offset)?;
        Ok(self.ir.element(elem(self.ir, of), array, offset))
    }

    /// An element's index, with 64 bits.
    pub(super) fn offset(&mut self, offset: Handle<Expr>) -> Result<Value<'c>, Error> {
        let value = self.expr(offset)?;
        Ok(match self.types[offset.index()].elem {
            DType::I64 => value,
            DType::I32 => self.ir.cast(Op::SExt, value, self.ir.int(64)),
            other @ (DType::Bool | DType::F16 | DType::BF16 | DType::F32) => {
                return Err(self.malformed(format!("an offset cannot be {other}")));
            }
        })
    }

    /// Lanes talk only where every lane of the warp exists.
    pub(super) fn needs_whole_warps(&self) -> Result<(), Error> {
        if self.kernel.threads.is_multiple_of(self.machine.warp_lanes) {
            return Ok(());
        }
        Err(self.unsupported("exchanges in a warp that is not whole"))
    }

    /// `i < end` is tested before every turn; `i + step` of the last turn must still be an integer of the type.
    fn for_loop(&mut self, local: Handle<Local>, bounds: [Handle<Expr>; 3], body: &Block) -> Result<(), Error> {
        let ir = self.ir;
        let [start, end, step] = bounds.map(|bound| self.expr(bound));
        let (start, end, step) = (start?, end?, step?);
        // The body changes variables; the bounds are evaluated and what they read is of no further use.
        self.forget_passing();
        let name = self.local(local).name.clone();
        let before = ir.current();
        let [test, turn, done] = ["loop", "body", "done"].map(|part| ir.block(self.function, &format!("{name}.{part}")));
        ir.jump(test);

        ir.at(test);
        let i = ir.phi(start.get_type(), &name);
        ir.branch(ir.int_compare(IntPredicate::SLT, i.as_basic_value(), end), turn, done);

        ir.at(turn);
        self.locals[local.index()] = Some(Bound::Value(i.as_basic_value()));
        self.block(body)?;
        let next = ir.add_no_wrap(i.as_basic_value(), step, &format!("{name}.next"));
        i.add_incoming(&[(&start, before), (&next, ir.current())]);
        ir.jump(test);

        ir.at(done);
        Ok(())
    }

    fn branch(&mut self, cond: Handle<Expr>, then: &Block, otherwise: &Block) -> Result<(), Error> {
        let ir = self.ir;
        let cond = self.expr(cond)?;
        self.forget_passing();
        let (yes, after) = (ir.block(self.function, "then"), ir.block(self.function, "after"));
        let no = if otherwise.is_empty() { after } else { ir.block(self.function, "else") };
        ir.branch(cond, yes, no);
        for (at, block) in [(yes, then), (no, otherwise)] {
            if at != after {
                ir.at(at);
                self.block(block)?;
                ir.jump(after);
            }
        }
        ir.at(after);
        Ok(())
    }
}
