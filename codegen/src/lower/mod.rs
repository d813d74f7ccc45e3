//! A kernel as an LLVM function, the same way for every machine. How a machine spells things is in `target`.

mod convert;
mod expr;
mod group;
mod matrix;
mod stmt;
mod sync;

use std::collections::BTreeSet;

use moec_ir::kernel::{Block, Expr, Handle, Kernel, Local, ParamKind, Place, Stmt, Ty, layout};
use moec_ir::{DType, Machine};

use crate::Error;
use crate::llvm::{At, Function, Ir, Pointer, Type, Value};
use crate::target::Target;

/// A kernel on its way into a function.
struct Lowering<'a, 'c> {
    ir: &'a Ir<'c>,
    target: &'a dyn Target,
    machine: &'a Machine,
    kernel: &'a Kernel,
    /// Of each parameter, whether nothing else changes its memory.
    alone: &'a [bool],
    function: Function<'c>,
    /// Addresses of the block's arrays, by handle.
    shared: Vec<Pointer<'c>>,
    /// Addresses of the elements of the thread's arrays, by handle: each is a variable, so that LLVM makes a register of it.
    registers: Vec<Vec<Pointer<'c>>>,
    /// Addresses of the block's barriers, by handle.
    mbarriers: Vec<Pointer<'c>>,
    /// The number of the thread's warp, where warps have roles: a value of which LLVM and ptxas know that a warp agrees on it.
    warp: Option<Value<'c>>,
    /// The sums of products that may be under way at each wait for them.
    under_way: group::UnderWay,
    /// What each local stands for once it is bound, by handle.
    locals: Vec<Option<Bound<'c>>>,
    /// The type of each expression, by handle.
    types: Vec<Ty>,
    /// Whether an expression reads a variable, whose value holds only until the statement ends; by handle.
    changing: Vec<bool>,
    /// Values of expressions that dominate the place being written, by handle.
    known: Vec<Option<Value<'c>>>,
    /// The unchanging expressions in `known`, oldest first: a block forgets its own when it ends.
    lasting: Vec<Handle<Expr>>,
    /// The changing expressions in `known`: a statement forgets them when it ends.
    passing: Vec<Handle<Expr>>,
}

/// What a local stands for.
#[derive(Clone, Copy)]
enum Bound<'c> {
    Value(Value<'c>),
    Variable(Pointer<'c>),
}

/// Writes the kernel into the module, of which some parameters are [alone](moec_ir::kernel::Program::alone).
pub(crate) fn kernel(ir: &Ir<'_>, target: &dyn Target, machine: &Machine, kernel: &Kernel, alone: &[bool]) -> Result<(), Error> {
    let malformed = |why| Error::Malformed { kernel: kernel.name.clone(), why };
    check(kernel, machine)?;
    if ir.module.get_function(&ir.symbol(&kernel.name)).is_some() {
        return Err(malformed("another kernel has its name".to_string()));
    }
    let types = kernel.types().into_iter().collect::<Result<_, _>>().map_err(malformed)?;
    let function = target.declare(ir, kernel, alone);
    ir.at(ir.block(function, "entry"));
    let memory = target.memory(ir, machine, kernel, function);
    let registers = kernel.registers.iter().map(|(_, array)| {
        let element = |i| ir.variable(function, elem(ir, array.elem), 0, &format!("{}.{i}", array.name));
        (0..array.len).map(element).collect()
    });
    let mut under_way = group::UnderWay::new();
    group::under_way(&kernel.body, BTreeSet::new(), &mut under_way);
    let mut lowering = Lowering {
        ir,
        target,
        machine,
        kernel,
        alone,
        function,
        shared: memory.arrays,
        mbarriers: memory.mbarriers,
        registers: registers.collect(),
        warp: None,
        under_way,
        locals: vec![None; kernel.locals.len()],
        changing: changing(kernel),
        types,
        known: vec![None; kernel.exprs.len()],
        lasting: Vec::new(),
        passing: Vec::new(),
    };
    lowering.number_warps()?;
    lowering.begin_mbarriers()?;
    lowering.block(&kernel.body)?;
    ir.ret();
    target.finish(ir, kernel, function);
    Ok(())
}

/// The type of an element, in registers and in memory. The 16-bit floats are carried as their bits: what they mean
/// matters only where they are converted, and no target's idea of them gets in the way.
pub(crate) fn elem<'c>(ir: &Ir<'c>, elem: DType) -> Type<'c> {
    match elem {
        DType::Bool => ir.int(1),
        DType::F16 | DType::BF16 => ir.int(16),
        DType::I32 => ir.int(32),
        DType::I64 => ir.int(64),
        DType::F32 => ir.f32(),
    }
}

/// Names and types of the kernel's parameters.
pub(crate) fn params<'k, 'c>(ir: &Ir<'c>, kernel: &'k Kernel, pointer: Type<'c>) -> Vec<(&'k str, Type<'c>)> {
    let ty = |kind| match kind {
        ParamKind::Buffer { .. } => pointer,
        ParamKind::Scalar(of) => elem(ir, of),
        // Where the map itself lies among the parameters.
        ParamKind::TensorMap(_) => ir.pointer(0),
    };
    kernel.params.iter().map(|p| (p.name.as_str(), ty(p.kind))).collect()
}

/// What holds of the kernel's parameters wherever they are: distinct arrays do not overlap if one is written (which is
/// what LLVM's `noalias` means), and only those declared so are written. Nothing is promised of memory that launches before this
/// one may still write, or that threads hand to each other: LLVM would move loads and stores of it over the wait for them.
pub(crate) fn mark_params<'c>(ir: &Ir<'c>, kernel: &Kernel, alone: &[bool], function: Function<'c>) {
    for ((i, param), alone) in (0..).zip(&kernel.params).zip(alone) {
        let at = At::Param(i);
        match param.kind {
            ParamKind::Buffer { .. } if !alone => {}
            ParamKind::Buffer { write, .. } => {
                ir.mark(function, at, "noalias");
                if !write {
                    ir.mark(function, at, "readonly");
                }
            }
            ParamKind::Scalar(_) | ParamKind::TensorMap(_) => {}
        }
    }
}

fn check(kernel: &Kernel, machine: &Machine) -> Result<(), Error> {
    let unsupported = |what: String| Err(Error::Unsupported { kernel: kernel.name.clone(), what, machine: machine.name });
    if kernel.threads > machine.block_threads {
        return unsupported(format!("blocks of {} threads", kernel.threads));
    }
    let of_bools = kernel.params.iter().any(|p| matches!(p.kind, ParamKind::Buffer { elem: DType::Bool, .. }));
    if of_bools || kernel.shared.iter().any(|(_, s)| s.elem == DType::Bool) {
        return unsupported("arrays of bool".to_string());
    }
    if kernel.cluster > machine.cluster_blocks {
        return unsupported(format!("clusters of {} blocks", kernel.cluster));
    }
    if !machine.tensor_maps && kernel.params.iter().any(|p| matches!(p.kind, ParamKind::TensorMap(_))) {
        return unsupported("tensor maps".to_string());
    }
    let (bytes, limit) = (layout(kernel).bytes, u64::from(machine.shared_optin_bytes));
    if bytes > limit {
        return Err(Error::Shared { kernel: kernel.name.clone(), bytes, limit, machine: machine.name });
    }
    Ok(())
}

/// Which expressions read a variable.
fn changing(kernel: &Kernel) -> Vec<bool> {
    let mut variable = vec![false; kernel.locals.len()];
    note_variables(&kernel.body, &mut variable);
    let mut changing: Vec<bool> = Vec::with_capacity(kernel.exprs.len());
    for (_, expr) in kernel.exprs.iter() {
        let reads = matches!(expr, Expr::Local(local) if variable[local.index()]);
        changing.push(reads || expr.operands().any(|o| changing[o.index()]));
    }
    changing
}

fn note_variables(block: &Block, variable: &mut [bool]) {
    for stmt in block {
        if let Stmt::Var { local, .. } = stmt {
            variable[local.index()] = true;
        }
        stmt.blocks().for_each(|inner| note_variables(inner, variable));
    }
}

impl<'c> Lowering<'_, 'c> {
    fn ty(&self, ty: Ty) -> Type<'c> {
        self.ir.lanes_of(elem(self.ir, ty.elem), ty.lanes)
    }

    fn local(&self, local: Handle<Local>) -> &Local {
        &self.kernel.locals[local]
    }

    /// The address of an array and the type of its elements.
    fn array(&self, place: Place) -> Result<(Pointer<'c>, DType), Error> {
        let elem = self.kernel.elem(place).ok_or_else(|| self.malformed(format!("there is no array {place:?}")))?;
        let array = match place {
            Place::Shared(shared) => self.shared[shared.index()],
            Place::Param(i) => self.function.get_params()[i as usize].into_pointer_value(),
            Place::Registers(_) => return Err(self.malformed("an array of registers has no address".to_string())),
        };
        Ok((array, elem))
    }

    /// Whether nothing writes the array while the kernel runs.
    fn only_reads(&self, place: Place) -> bool {
        match place {
            Place::Param(i) => match self.kernel.params[i as usize].kind {
                ParamKind::Buffer { write, .. } => !write && self.alone[i as usize],
                ParamKind::Scalar(_) | ParamKind::TensorMap(_) => false,
            },
            Place::Shared(_) | Place::Registers(_) => false,
        }
    }

    fn malformed(&self, why: String) -> Error {
        Error::Malformed { kernel: self.kernel.name.clone(), why }
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported { kernel: self.kernel.name.clone(), what: what.to_string(), machine: self.machine.name }
    }
}
