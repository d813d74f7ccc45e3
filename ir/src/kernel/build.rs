//! What `schedule` writes kernels with: values with operators, statements in order, scopes as closures.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops;

use super::expr::infer;
use super::{
    Arena, Binary, Block, Compare, Expr, Extreme, Factor, Handle, Hint, Index, Kernel, Local, Mbarrier, Panels, Param, ParamKind,
    Place, Reduce, Registers, Scope, Shared, Stmt, Swizzle, Ty, Unary, Vote, Wait, fragment,
};
use crate::{DType, MatrixShape};

/// A kernel being written. Ill-typed arithmetic is a bug in a schedule and panics where it is written.
pub struct Builder {
    name: String,
    threads: u32,
    cluster: u32,
    resident: u32,
    params: RefCell<Vec<Param>>,
    shared: RefCell<Arena<Shared>>,
    registers: RefCell<Arena<Registers>>,
    pub(super) mbarriers: RefCell<Arena<Mbarrier>>,
    locals: RefCell<Arena<Local>>,
    exprs: RefCell<Exprs>,
    /// The blocks that are open, outermost first.
    open: RefCell<Vec<Block>>,
}

#[derive(Default)]
struct Exprs {
    arena: Arena<Expr>,
    types: Vec<Ty>,
    known: HashMap<Expr, Handle<Expr>>,
}

/// A pure value of the kernel being written.
#[derive(Clone, Copy)]
pub struct Value<'k> {
    kernel: &'k Builder,
    pub(super) expr: Handle<Expr>,
}

/// A variable: read with [`Var::get`], changed with [`Var::set`].
#[derive(Clone, Copy)]
pub struct Var<'k> {
    kernel: &'k Builder,
    local: Handle<Local>,
}

/// An array that can be loaded from and stored to.
#[derive(Clone, Copy)]
pub struct Array<'k> {
    pub(super) kernel: &'k Builder,
    pub(super) place: Place,
    elem: DType,
}

impl Builder {
    /// A kernel of blocks of `threads` threads.
    pub fn new(name: impl Into<String>, threads: u32) -> Builder {
        Builder {
            name: name.into(),
            threads,
            cluster: 1,
            resident: 1,
            params: RefCell::default(),
            shared: RefCell::default(),
            registers: RefCell::default(),
            mbarriers: RefCell::default(),
            locals: RefCell::default(),
            exprs: RefCell::default(),
            open: RefCell::new(vec![Vec::new()]),
        }
    }

    /// The same, of clusters of so many blocks.
    pub fn in_clusters(self, cluster: u32) -> Builder {
        Builder { cluster, ..self }
    }

    /// The same, of which a processor has room for so many blocks at a time.
    pub fn resident(self, blocks: u32) -> Builder {
        Builder { resident: blocks, ..self }
    }

    /// The kernel as written.
    pub fn finish(self) -> Kernel {
        let body = self.open.into_inner().pop().unwrap_or_default();
        Kernel {
            name: self.name,
            threads: self.threads,
            cluster: self.cluster,
            resident: self.resident,
            params: self.params.into_inner(),
            shared: self.shared.into_inner(),
            registers: self.registers.into_inner(),
            mbarriers: self.mbarriers.into_inner(),
            locals: self.locals.into_inner(),
            exprs: self.exprs.into_inner().arena,
            body,
        }
    }

    // Parameters and arrays.

    /// An array in global memory that is only read.
    pub fn input(&self, name: &str, elem: DType) -> Array<'_> {
        self.buffer(name, elem, false)
    }

    /// An array in global memory that is written (and may be read).
    pub fn output(&self, name: &str, elem: DType) -> Array<'_> {
        self.buffer(name, elem, true)
    }

    fn buffer(&self, name: &str, elem: DType, write: bool) -> Array<'_> {
        let index = self.param(name, ParamKind::Buffer { elem, write });
        Array { kernel: self, place: Place::Param(index), elem }
    }

    /// A number given at launch.
    pub fn scalar(&self, name: &str, elem: DType) -> Value<'_> {
        let index = self.param(name, ParamKind::Scalar(elem));
        self.expr(Expr::Param(index))
    }

    pub(super) fn param(&self, name: &str, kind: ParamKind) -> u32 {
        let mut params = self.params.borrow_mut();
        params.push(Param { name: name.to_string(), kind });
        params.len() as u32 - 1
    }

    /// An array shared by the block.
    pub fn shared(&self, name: &str, elem: DType, len: u32) -> Array<'_> {
        self.shared_aligned(name, elem, len, Shared::ALIGN)
    }

    /// An array shared by the block at a multiple of `align` bytes.
    pub fn shared_aligned(&self, name: &str, elem: DType, len: u32, align: u32) -> Array<'_> {
        let shared = self.shared.borrow_mut().push(Shared { name: name.to_string(), elem, len, align });
        Array { kernel: self, place: Place::Shared(shared), elem }
    }

    // Values.

    fn expr(&self, expr: Expr) -> Value<'_> {
        let known = self.exprs.borrow().known.get(&expr).copied();
        let handle = known.unwrap_or_else(|| {
            let ty = self.infer(&expr).unwrap_or_else(|why| panic!("{}: {expr:?}: {why}", self.name));
            let mut exprs = self.exprs.borrow_mut();
            exprs.types.push(ty);
            let handle = exprs.arena.push(expr);
            exprs.known.insert(expr, handle);
            handle
        });
        Value { kernel: self, expr: handle }
    }

    fn infer(&self, expr: &Expr) -> Result<Ty, String> {
        let (exprs, locals, params) = (self.exprs.borrow(), self.locals.borrow(), self.params.borrow());
        let param = |i: u32| match params.get(i as usize)?.kind {
            ParamKind::Scalar(elem) => Some(elem),
            ParamKind::Buffer { .. } | ParamKind::TensorMap(_) => None,
        };
        infer(expr, |h| locals.get(h).map(|l| l.ty), param, |h| exprs.types.get(h.index()).copied())
    }

    /// An `I32` constant.
    pub fn i32(&self, n: i32) -> Value<'_> {
        self.expr(Expr::Int(i64::from(n), DType::I32))
    }

    /// An `I64` constant.
    pub fn i64(&self, n: i64) -> Value<'_> {
        self.expr(Expr::Int(n, DType::I64))
    }

    /// An `F32` constant.
    pub fn f32(&self, x: f32) -> Value<'_> {
        self.expr(Expr::Float(x.to_bits()))
    }

    /// A truth.
    pub fn bool(&self, b: bool) -> Value<'_> {
        self.expr(Expr::Bool(b))
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// This thread's number in its block (`I32`); the constant 0 where a block has one thread.
    pub fn thread(&self) -> Value<'_> {
        if self.threads == 1 { self.i32(0) } else { self.expr(Expr::Index(Index::Thread)) }
    }

    /// This block's number in the grid (`I32`).
    pub fn block(&self) -> Value<'_> {
        self.expr(Expr::Index(Index::Block))
    }

    // Statements.

    pub(super) fn emit(&self, stmt: Stmt) {
        if let Some(block) = self.open.borrow_mut().last_mut() {
            block.push(stmt);
        }
    }

    fn local(&self, name: &str, ty: Ty) -> Handle<Local> {
        self.locals.borrow_mut().push(Local { name: name.to_string(), ty })
    }

    fn read(&self, local: Handle<Local>) -> Value<'_> {
        self.expr(Expr::Local(local))
    }

    pub(super) fn block_of(&self, body: impl FnOnce()) -> Block {
        self.open.borrow_mut().push(Vec::new());
        body();
        self.open.borrow_mut().pop().unwrap_or_default()
    }

    /// Evaluates `value` here and names it.
    pub fn bind<'k>(&'k self, name: &str, value: Value<'k>) -> Value<'k> {
        let local = self.local(name, value.ty());
        self.emit(Stmt::Let { local, value: value.expr });
        self.read(local)
    }

    /// A variable.
    pub fn var<'k>(&'k self, name: &str, value: Value<'k>) -> Var<'k> {
        let local = self.local(name, value.ty());
        self.emit(Stmt::Var { local, value: value.expr });
        Var { kernel: self, local }
    }

    /// `for name in (start..end).step_by(step)`. The bounds share one integer type.
    pub fn for_step<'k>(&'k self, name: &str, start: Value<'k>, end: Value<'k>, step: Value<'k>, body: impl FnOnce(Value<'k>)) {
        let local = self.local(name, start.ty());
        let body = self.block_of(|| body(self.read(local)));
        self.emit(Stmt::For { local, start: start.expr, end: end.expr, step: step.expr, body });
    }

    /// `for name in start..end`.
    pub fn for_range<'k>(&'k self, name: &str, start: Value<'k>, end: Value<'k>, body: impl FnOnce(Value<'k>)) {
        self.for_step(name, start, end, start.like(1), body);
    }

    /// `if cond { then }`.
    pub fn when<'k>(&'k self, cond: Value<'k>, then: impl FnOnce()) {
        let then = self.block_of(then);
        self.emit(Stmt::If { cond: cond.expr, then, otherwise: Vec::new() });
    }

    /// `if cond { then } else { otherwise }`.
    pub fn branch<'k>(&'k self, cond: Value<'k>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        let (then, otherwise) = (self.block_of(then), self.block_of(otherwise));
        self.emit(Stmt::If { cond: cond.expr, then, otherwise });
    }

    /// All threads of the block meet. Nothing where a block has one thread.
    pub fn barrier(&self) {
        if self.threads > 1 {
            self.emit(Stmt::Barrier(Scope::Block));
        }
    }

    /// All threads of the cluster's blocks meet.
    pub fn cluster_barrier(&self) {
        self.emit(Stmt::Barrier(Scope::Cluster));
    }

    /// All lanes of the warp meet. Nothing where a block has one thread.
    pub fn warp_barrier(&self) {
        if self.threads > 1 {
            self.emit(Stmt::Barrier(Scope::Warp));
        }
    }

    /// An array of each thread, whose elements are registers: constants name them.
    pub fn registers(&self, name: &str, elem: DType, len: u32) -> Array<'_> {
        self.array_of(self.new_registers(name, elem, len), elem)
    }

    fn new_registers(&self, name: &str, elem: DType, len: u32) -> Handle<Registers> {
        self.registers.borrow_mut().push(Registers { name: name.to_string(), elem, len })
    }

    fn array_of(&self, registers: Handle<Registers>, elem: DType) -> Array<'_> {
        Array { kernel: self, place: Place::Registers(registers), elem }
    }

    /// An array of `len` sums of `F32` of each thread, all zero.
    pub fn sums(&self, name: &str, len: u32) -> Sums<'_> {
        let registers = self.new_registers(name, DType::F32, len);
        let sums = Sums { array: self.array_of(registers, DType::F32), registers };
        sums.clear(self, len);
        sums
    }

    /// The thread's copies so far are a group.
    pub fn commit(&self) {
        self.emit(Stmt::Commit);
    }

    /// Waits for the thread's copies, but for its last `left` groups.
    pub fn wait_copies(&self, left: u32) {
        self.emit(Stmt::Wait(Wait::Groups(left)));
    }

    /// What is in shared memory is seen by products of four warps: see [`Stmt::Fence`].
    pub fn fence(&self) {
        self.emit(Stmt::Fence);
    }

    /// Waits for the products of four warps, but for the last `left`.
    pub fn wait_products(&self, left: u32) {
        self.emit(Stmt::Wait(Wait::Products(left)));
    }

    /// The value that lane `lane ^ mask` has.
    pub fn shuffle<'k>(&'k self, value: Value<'k>, mask: u32) -> Value<'k> {
        let local = self.local("shuffled", value.ty());
        self.emit(Stmt::Shuffle { local, value: value.expr, mask });
        self.read(local)
    }

    /// The greatest or the least value of the warp's lanes.
    pub fn redux<'k>(&'k self, extreme: Extreme, value: Value<'k>) -> Value<'k> {
        let local = self.local("extreme", value.ty());
        self.emit(Stmt::Redux { local, extreme, value: value.expr });
        self.read(local)
    }

    /// What the lanes of the warp agree on.
    pub fn vote<'k>(&'k self, vote: Vote, value: Value<'k>) -> Value<'k> {
        let elem = match vote {
            Vote::Any | Vote::All => DType::Bool,
            Vote::Ballot => DType::I32,
        };
        let local = self.local("vote", Ty::scalar(elem));
        self.emit(Stmt::Vote { local, vote, value: value.expr });
        self.read(local)
    }
}

impl<'k> Array<'k> {
    /// Type of an element.
    pub fn elem(self) -> DType {
        self.elem
    }

    /// One element.
    pub fn load(self, offset: Value<'k>) -> Value<'k> {
        self.load_vector(offset, 1)
    }

    /// `lanes` consecutive elements, aligned as one element is.
    pub fn load_vector(self, offset: Value<'k>, lanes: u32) -> Value<'k> {
        self.load_aligned(offset, lanes, self.elem.bytes() as u32)
    }

    /// `lanes` consecutive elements from an address known to be a multiple of `align` bytes.
    pub fn load_aligned(self, offset: Value<'k>, lanes: u32, align: u32) -> Value<'k> {
        self.load_hinted(offset, lanes, align, Hint::None)
    }

    /// As [`Array::load_aligned`], with what is known of when it is read again.
    pub fn load_hinted(self, offset: Value<'k>, lanes: u32, align: u32, hint: Hint) -> Value<'k> {
        let local = self.kernel.local("loaded", Ty::vector(self.elem, lanes));
        self.kernel.emit(Stmt::Load { local, from: self.place, offset: offset.expr, align, hint });
        self.kernel.read(local)
    }

    /// Stores every lane of `value`, aligned as one element is. `value` has the array's element type.
    pub fn store(self, offset: Value<'k>, value: Value<'k>) {
        self.store_aligned(offset, value, self.elem.bytes() as u32);
    }

    /// Stores every lane of `value` at an address known to be a multiple of `align` bytes.
    pub fn store_aligned(self, offset: Value<'k>, value: Value<'k>, align: u32) {
        self.kernel.emit(Stmt::Store { to: self.place, offset: offset.expr, value: value.expr, align });
    }

    /// Starts a copy of `bytes` bytes from element `offset` of `from` on to element `at` of this shared array on; of zeros where
    /// `live` is false.
    pub fn copy_from(self, at: Value<'k>, from: Array<'k>, offset: Value<'k>, bytes: u32, live: Option<Value<'k>>) {
        let (to, from) = (self.place, from.place);
        let live = live.map(|live| live.expr);
        self.kernel.emit(Stmt::Copy { to, at: at.expr, from, offset: offset.expr, bytes, live });
    }

    /// The lane's pairs of `count` matrices: see [`Stmt::LoadMatrix`].
    pub fn load_matrix(self, row: Value<'k>, count: u32) -> Vec<Value<'k>> {
        let k = self.kernel;
        let word = Ty::vector(self.elem, fragment::elements_of_word(self.elem));
        let locals: Vec<_> = (0..count).map(|_| k.local("pair", word)).collect();
        k.emit(Stmt::LoadMatrix { locals: locals.clone(), from: self.place, offset: row.expr, transposed: false });
        locals.into_iter().map(|local| k.read(local)).collect()
    }

    /// Writes the lane's pairs of matrices: see [`Stmt::StoreMatrix`].
    pub fn store_matrix(self, row: Value<'k>, pairs: &[Value<'k>], transposed: bool) {
        let pairs = pairs.iter().map(|pair| pair.expr).collect();
        self.kernel.emit(Stmt::StoreMatrix { to: self.place, offset: row.expr, pairs, transposed });
    }

    /// Panels of this shared array that a product of four warps reads, from element `at` on: see [`Panels`].
    pub fn panels(self, at: Value<'k>, lines: u32, swizzle: Swizzle, transposed: bool) -> Panels {
        let Place::Shared(array) = self.place else { panic!("a factor lies in shared memory") };
        Panels { array, at: at.expr, lines, swizzle, transposed }
    }

    /// Adds to an element, indivisibly.
    pub fn atomic_add(self, offset: Value<'k>, value: Value<'k>) {
        self.kernel.emit(Stmt::AtomicAdd { local: None, to: self.place, offset: offset.expr, value: value.expr });
    }
}

/// Sums of products of matrices: a warp's lanes have them together, [`fragment::SUMS`] a product each.
#[derive(Clone, Copy)]
pub struct Sums<'k> {
    array: Array<'k>,
    registers: Handle<Registers>,
}

impl<'k> Sums<'k> {
    /// Adds a product to the `i`-th sums.
    pub fn add_product(self, i: u32, shape: MatrixShape, a: &[Value<'k>], b: &[Value<'k>]) {
        let exprs = |pairs: &[Value<'k>]| pairs.iter().map(|pair| pair.expr).collect();
        let at = fragment::SUMS * i;
        self.array.kernel.emit(Stmt::Mma { shape, sums: self.registers, at, a: exprs(a), b: exprs(b) });
    }

    /// Starts a product of four warps, whose sums are the elements from `at` on: see [`Stmt::GroupMma`].
    pub fn start_group_product(self, at: u32, [columns, depth]: [u32; 2], a: Factor, b: Panels) {
        self.array.kernel.emit(Stmt::GroupMma { columns, depth, sums: self.registers, at, a, b });
    }

    /// The lane's parts `part ..` of the `i`-th sums, as many as `lanes`.
    pub fn get(self, i: u32, part: u32, lanes: u32) -> Value<'k> {
        self.load(fragment::SUMS * i + part, lanes)
    }

    /// Its elements `at ..`, as many as `lanes`.
    pub fn load(self, at: u32, lanes: u32) -> Value<'k> {
        self.array.load_vector(self.array.kernel.i32(at as i32), lanes)
    }

    /// Puts a value in the place of element `at`, and its lanes in those behind it.
    pub fn set(self, at: u32, value: Value<'k>) {
        self.array.store(self.array.kernel.i32(at as i32), value);
    }

    /// The first `len` elements are zero again.
    pub fn clear(self, k: &'k Builder, len: u32) {
        let lanes = [16, 8, 4, 2].into_iter().find(|lanes| len.is_multiple_of(*lanes)).unwrap_or(1);
        (0..len).step_by(lanes as usize).for_each(|at| self.set(at, k.f32(0.0).splat(lanes)));
    }
}

impl<'k> Var<'k> {
    /// Its value where this is used: bind it if the variable changes before that.
    pub fn get(self) -> Value<'k> {
        self.kernel.read(self.local)
    }

    /// Changes it.
    pub fn set(self, value: Value<'k>) {
        self.kernel.emit(Stmt::Set { local: self.local, value: value.expr });
    }
}

impl<'k> Value<'k> {
    /// Its type.
    pub fn ty(self) -> Ty {
        self.kernel.exprs.borrow().types[self.expr.index()]
    }

    /// The integer `n`, or the float `n`, with this value's type.
    pub fn like(self, n: i32) -> Value<'k> {
        let k = self.kernel;
        let ty = self.ty();
        let scalar = match ty.elem {
            DType::F32 => k.f32(n as f32),
            DType::I64 => k.i64(i64::from(n)),
            DType::I32 => k.i32(n),
            DType::Bool | DType::F16 | DType::BF16 => panic!("{}: no constant of type {ty}", k.name),
        };
        scalar.splat(ty.lanes)
    }

    fn unary(self, op: Unary) -> Value<'k> {
        self.kernel.expr(Expr::Unary(op, self.expr))
    }

    fn binary(self, op: Binary, other: impl Operand<'k>) -> Value<'k> {
        let other = other.value(self);
        // A schedule is written for all sizes at once: what a size makes trivial is not worth a reader's time.
        match (op, self.int(), other.int()) {
            (Binary::Add | Binary::Sub | Binary::Shl | Binary::Shr | Binary::ShrUnsigned, _, Some(0)) => self,
            (Binary::Add, Some(0), _) => other,
            (Binary::Mul | Binary::Div, _, Some(1)) | (Binary::Mul, Some(0), _) => self,
            (Binary::Mul, Some(1), _) | (Binary::Mul, _, Some(0)) => other,
            (_, _, _) => self.kernel.expr(Expr::Binary(op, self.expr, other.expr)),
        }
    }

    /// The value of an integer constant.
    fn int(self) -> Option<i64> {
        if let Expr::Int(n, _) = self.kernel.exprs.borrow().arena[self.expr] { Some(n) } else { None }
    }

    fn compare(self, op: Compare, other: impl Operand<'k>) -> Value<'k> {
        self.kernel.expr(Expr::Compare(op, self.expr, other.value(self).expr))
    }

    /// `self == other`.
    pub fn eq(self, other: impl Operand<'k>) -> Value<'k> {
        self.compare(Compare::Eq, other)
    }
    /// `self != other`.
    pub fn ne(self, other: impl Operand<'k>) -> Value<'k> {
        self.compare(Compare::Ne, other)
    }
    /// `self < other`.
    pub fn lt(self, other: impl Operand<'k>) -> Value<'k> {
        self.compare(Compare::Lt, other)
    }
    /// `self <= other`.
    pub fn le(self, other: impl Operand<'k>) -> Value<'k> {
        self.compare(Compare::Le, other)
    }
    /// `self > other`.
    pub fn gt(self, other: impl Operand<'k>) -> Value<'k> {
        self.compare(Compare::Gt, other)
    }
    /// `self >= other`.
    pub fn ge(self, other: impl Operand<'k>) -> Value<'k> {
        self.compare(Compare::Ge, other)
    }
    /// [`Binary::Min`].
    pub fn min(self, other: impl Operand<'k>) -> Value<'k> {
        self.binary(Binary::Min, other)
    }
    /// [`Binary::Max`].
    pub fn max(self, other: impl Operand<'k>) -> Value<'k> {
        self.binary(Binary::Max, other)
    }
    /// [`Binary::ShrUnsigned`].
    pub fn shr_unsigned(self, other: impl Operand<'k>) -> Value<'k> {
        self.binary(Binary::ShrUnsigned, other)
    }
    /// [`Unary::Abs`].
    pub fn abs(self) -> Value<'k> {
        self.unary(Unary::Abs)
    }
    /// [`Unary::Floor`].
    pub fn floor(self) -> Value<'k> {
        self.unary(Unary::Floor)
    }
    /// [`Unary::CountOnes`].
    pub fn count_ones(self) -> Value<'k> {
        self.unary(Unary::CountOnes)
    }
    /// [`Unary::Exp2Approx`].
    pub fn exp2_approx(self) -> Value<'k> {
        self.unary(Unary::Exp2Approx)
    }
    /// [`Unary::ReciprocalApprox`].
    pub fn reciprocal_approx(self) -> Value<'k> {
        self.unary(Unary::ReciprocalApprox)
    }
    /// [`Unary::RoundTf32`].
    pub fn round_tf32(self) -> Value<'k> {
        self.unary(Unary::RoundTf32)
    }
    /// [`Unary::Sqrt`].
    pub fn sqrt(self) -> Value<'k> {
        self.unary(Unary::Sqrt)
    }

    /// `self * factor + addend`, rounded once.
    pub fn fma(self, factor: impl Operand<'k>, addend: impl Operand<'k>) -> Value<'k> {
        self.kernel.expr(Expr::Fma(self.expr, factor.value(self).expr, addend.value(self).expr))
    }

    /// `self + sum of products of pairs`: see [`Expr::Dot`].
    pub fn dot(self, a: Value<'k>, b: Value<'k>) -> Value<'k> {
        self.kernel.expr(Expr::Dot { acc: self.expr, a: a.expr, b: b.expr })
    }

    /// `if self { a } else { b }`.
    pub fn select(self, a: Value<'k>, b: impl Operand<'k>) -> Value<'k> {
        self.kernel.expr(Expr::Select(self.expr, a.expr, b.value(a).expr))
    }

    /// The same number in another type.
    pub fn cast(self, elem: DType) -> Value<'k> {
        if self.ty().elem == elem { self } else { self.kernel.expr(Expr::Cast(elem, self.expr)) }
    }

    /// The same bits in another type: see [`Expr::Bitcast`].
    pub fn bitcast(self, elem: DType) -> Value<'k> {
        self.kernel.expr(Expr::Bitcast(elem, self.expr))
    }

    /// This scalar in every one of `lanes` lanes.
    pub fn splat(self, lanes: u32) -> Value<'k> {
        if lanes == 1 { self } else { self.kernel.expr(Expr::Splat(lanes, self.expr)) }
    }

    /// These lanes, then those of `other`.
    pub fn concat(self, other: Value<'k>) -> Value<'k> {
        self.kernel.expr(Expr::Concat(self.expr, other.expr))
    }

    /// The lanes of a matrix of so many rows, column after column.
    pub fn transpose(self, rows: u32) -> Value<'k> {
        self.kernel.expr(Expr::Transpose(self.expr, rows))
    }

    /// One lane.
    pub fn lane(self, lane: u32) -> Value<'k> {
        self.lanes(lane, 1)
    }

    /// So many lanes from one on.
    pub fn lanes(self, lane: u32, lanes: u32) -> Value<'k> {
        if self.ty().lanes == lanes { self } else { self.kernel.expr(Expr::Extract(self.expr, lane, lanes)) }
    }

    /// The sum of the lanes.
    pub fn reduce_add(self) -> Value<'k> {
        self.reduce(Reduce::Add)
    }

    /// The greatest of the lanes.
    pub fn reduce_max(self) -> Value<'k> {
        self.reduce(Reduce::Max)
    }

    fn reduce(self, op: Reduce) -> Value<'k> {
        if self.ty().lanes == 1 { self } else { self.kernel.expr(Expr::Reduce(op, self.expr)) }
    }
}

/// What can stand on the right of an operator: a value, or a number that takes the left side's type.
pub trait Operand<'k> {
    /// The operand, typed like `left`.
    fn value(self, left: Value<'k>) -> Value<'k>;
}

impl<'k> Operand<'k> for Value<'k> {
    fn value(self, _: Value<'k>) -> Value<'k> {
        self
    }
}

impl<'k> Operand<'k> for i32 {
    fn value(self, left: Value<'k>) -> Value<'k> {
        left.like(self)
    }
}

impl<'k> Operand<'k> for f32 {
    fn value(self, left: Value<'k>) -> Value<'k> {
        left.kernel.f32(self).splat(left.ty().lanes)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident,)*) => {$(
        impl<'k, R: Operand<'k>> ops::$trait<R> for Value<'k> {
            type Output = Value<'k>;
            fn $method(self, other: R) -> Value<'k> {
                self.binary(Binary::$op, other)
            }
        }
    )*};
}
operators! {
    Add add Add, Sub sub Sub, Mul mul Mul, Div div Div, Rem rem Rem, Shl shl Shl, Shr shr Shr,
    BitAnd bitand And, BitOr bitor Or, BitXor bitxor Xor,
}

impl<'k> ops::Neg for Value<'k> {
    type Output = Value<'k>;
    fn neg(self) -> Value<'k> {
        self.unary(Unary::Neg)
    }
}

impl<'k> ops::Not for Value<'k> {
    type Output = Value<'k>;
    fn not(self) -> Value<'k> {
        self.unary(Unary::Not)
    }
}
