//! Roles of warps, and the barriers that are not of all threads.

use moec_ir::kernel::{Arrival, Binary, Expr, Handle, Index, Mbarrier, ParamKind, Scope, Stmt, WarpRole};

use super::Lowering;
use crate::Error;
use crate::llvm::{IntPredicate, Op, Pointer, Value};
use crate::target::Warps;

impl<'c> Lowering<'_, 'c> {
    /// How the target's warps wait for each other, if it has any.
    pub(super) fn warps(&self, what: &str) -> Result<&dyn Warps, Error> {
        self.needs_whole_warps()?;
        self.target.warps().ok_or_else(|| self.unsupported(what))
    }

    /// At the beginning all lanes of a warp are there to agree on its number.
    pub(super) fn number_warps(&mut self) -> Result<(), Error> {
        if self.kernel.body.iter().any(|stmt| matches!(stmt, Stmt::Roles(_))) {
            self.warp = Some(self.warps("roles of warps")?.warp(self.ir, self.function));
        }
        Ok(())
    }

    /// `thread / n`, if that is a matter of the warp's number alone.
    pub(super) fn of_warp(&self, op: Binary, [a, b]: [Handle<Expr>; 2]) -> Option<Value<'c>> {
        let (Binary::Div, Expr::Index(Index::Thread), Expr::Int(n, _)) = (op, self.kernel.exprs[a], self.kernel.exprs[b]) else {
            return None;
        };
        let lanes = i64::from(self.machine.warp_lanes);
        let warps = (n > 0 && n % lanes == 0).then_some(n / lanes)?;
        Some(self.ir.binary(Op::UDiv, self.warp?, self.ir.constant(self.ir.int(32), warps)))
    }

    /// One thread begins the first phase of every barrier, before any thread of the block, or of its cluster, goes on. What tensors look like
    /// comes near meanwhile: the first copy would wait for it, behind launches that this one waits for.
    pub(super) fn begin_mbarriers(&mut self) -> Result<(), Error> {
        let (ir, kernel, function) = (self.ir, self.kernel, self.function);
        if kernel.mbarriers.is_empty() {
            return Ok(());
        }
        if !self.machine.mbarriers {
            return Err(self.unsupported("mbarriers"));
        }
        let warps = self.warps("mbarriers")?;
        let thread = self.target.index(ir, function, Index::Thread);
        let (first, begun) = (ir.block(function, "first"), ir.block(function, "begun"));
        ir.branch(ir.int_compare(IntPredicate::EQ, thread, ir.constant(ir.int(32), 0)), first, begun);
        ir.at(first);
        for ((_, of), barrier) in kernel.mbarriers.iter().zip(&self.mbarriers) {
            for stage in 0..of.stages {
                let stage = ir.element(ir.int(64), *barrier, ir.constant(ir.int(64), i64::from(stage)));
                warps.begin(ir, stage, of.arrivals);
            }
        }
        warps.begun(ir);
        for (i, param) in kernel.params.iter().enumerate() {
            if let ParamKind::TensorMap(_) = param.kind {
                warps.prefetch_map(ir, function.get_params()[i].into_pointer_value());
            }
        }
        ir.jump(begun);
        ir.at(begun);
        // Other blocks of the cluster may come to them.
        self.target.barrier(ir, if kernel.cluster > 1 { Scope::Cluster } else { Scope::Block });
        Ok(())
    }

    /// A chain of branches on the warp's number.
    pub(super) fn roles(&mut self, roles: &[WarpRole]) -> Result<(), Error> {
        let (ir, function) = (self.ir, self.function);
        let at_launch = self.kernel.registers_at_launch();
        let warp = self.warp.ok_or_else(|| self.unsupported("roles of warps"))?;
        let after = ir.block(function, "roles.after");
        for role in roles {
            let (mine, other) = (ir.block(function, "role"), ir.block(function, "role.other"));
            let number = |n: u32| ir.constant(ir.int(32), i64::from(n));
            let place = ir.binary(Op::Sub, warp, number(role.warps.start));
            let count = number(role.warps.end.saturating_sub(role.warps.start));
            ir.branch(ir.int_compare(IntPredicate::ULT, place, count), mine, other);
            ir.at(mine);
            if let Some(registers) = role.registers {
                if !self.machine.role_registers {
                    return Err(self.unsupported("registers by role"));
                }
                self.warps("roles of warps")?.registers(ir, at_launch, registers);
            }
            self.block(&role.body)?;
            ir.jump(after);
            ir.at(other);
        }
        ir.jump(after);
        ir.at(after);
        Ok(())
    }

    pub(super) fn arrive(&mut self, barrier: Handle<Mbarrier>, stage: Handle<Expr>, arrival: Arrival) -> Result<(), Error> {
        let stage = self.stage(barrier, stage)?;
        match arrival {
            Arrival::Now => self.warps("mbarriers")?.arrive(self.ir, stage, None),
            Arrival::Expecting(bytes) => {
                let bytes = self.expr(bytes)?;
                self.warps("mbarriers")?.arrive(self.ir, stage, Some(bytes));
            }
            Arrival::Copied => self.warps("mbarriers")?.arrive_copied(self.ir, stage),
            Arrival::InBlock(block) => {
                let block = self.expr(block)?;
                self.warps("mbarriers")?.arrive_in_block(self.ir, stage, block);
            }
        }
        Ok(())
    }

    /// A loop: a machine's wait may end before the phase does. It tells phases apart by their parity.
    pub(super) fn wait(&mut self, barrier: Handle<Mbarrier>, stage: Handle<Expr>, phase: Handle<Expr>) -> Result<(), Error> {
        let (ir, function) = (self.ir, self.function);
        let stage = self.stage(barrier, stage)?;
        let phase = self.expr(phase)?;
        let parity = ir.binary(Op::And, phase, ir.constant(ir.int(32), 1));
        let (test, over) = (ir.block(function, "wait"), ir.block(function, "over"));
        ir.jump(test);
        ir.at(test);
        let is_over = self.warps("mbarriers")?.is_over(ir, stage, parity);
        ir.branch(is_over, over, test);
        ir.at(over);
        Ok(())
    }

    /// The address of a stage.
    pub(super) fn stage(&mut self, barrier: Handle<Mbarrier>, stage: Handle<Expr>) -> Result<Pointer<'c>, Error> {
        let at = self.offset(stage)?;
        let barrier = self.mbarriers.get(barrier.index()).copied();
        let barrier = barrier.ok_or_else(|| self.malformed("there is no such mbarrier".to_string()))?;
        Ok(self.ir.element(self.ir.int(64), barrier, at))
    }
}
