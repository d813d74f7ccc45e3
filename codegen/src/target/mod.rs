//! What differs between machines, as the methods of one trait. What is the same is in `lower`.

mod group;
mod host;
mod nvptx;
mod spelling;

use moec_ir::kernel::{Extreme, Hint, Index, Kernel, Panels, Place, Scope, Unary, Vote};
use moec_ir::machine::MachineKind;
use moec_ir::{DType, Machine, MatrixShape};

use crate::emit::File;
use crate::llvm::{Function, Ir, Pointer, Value};
use crate::{Error, Image};

/// A machine's spelling of what LLVM does not spell for all. `function` is the one that [`Target::declare`] gave.
pub(crate) trait Target {
    /// LLVM's name for the family.
    fn triple(&self) -> &'static str;

    /// LLVM's name for the model.
    fn cpu(&self) -> &str;

    /// Features of the model beyond its name.
    fn features(&self) -> String;

    /// LLVM's passes over what was written, in LLVM's words. In LLVM's own pipelines loops are not unrolled, beyond what the schedule
    /// has unrolled.
    fn passes(&self) -> &'static str;

    /// What LLVM is to write for [`Target::image`].
    fn file(&self) -> File;

    /// The image from what LLVM wrote.
    fn image(&self, program: &str, written: Vec<u8>) -> Result<Image, Error>;

    /// A function without a body whose first parameters are the kernel's. Global arrays are pointers.
    fn declare<'c>(&self, ir: &Ir<'c>, kernel: &Kernel, alone: &[bool]) -> Function<'c>;

    /// What the kernel's symbol needs besides the function with its body.
    fn finish<'c>(&self, ir: &Ir<'c>, kernel: &Kernel, function: Function<'c>);

    /// Memory for the arrays and barriers of the block.
    fn memory<'c>(&self, ir: &Ir<'c>, machine: &Machine, kernel: &Kernel, function: Function<'c>) -> Memory<'c>;

    /// Where this thread is.
    fn index<'c>(&self, ir: &Ir<'c>, function: Function<'c>, index: Index) -> Value<'c>;

    /// The threads of the scope meet.
    fn barrier(&self, ir: &Ir<'_>, scope: Scope);

    /// The value that the lane at distance `mask` has.
    fn shuffle<'c>(&self, ir: &Ir<'c>, elem: DType, value: Value<'c>, mask: u32) -> Value<'c>;

    /// What the lanes of the warp agree on.
    fn vote<'c>(&self, ir: &Ir<'c>, vote: Vote, value: Value<'c>) -> Value<'c>;

    /// The greatest or the least of the lanes of the warp.
    fn redux<'c>(&self, ir: &Ir<'c>, extreme: Extreme, value: Value<'c>) -> Value<'c>;

    /// LLVM's name of the threads among which an atomic operation is indivisible; `None`: all there are.
    fn atomic_scope(&self, place: Place) -> Option<&'static str>;

    /// What is at this address of global memory will be read soon.
    fn prefetch<'c>(&self, ir: &Ir<'c>, at: Pointer<'c>);

    /// A load of so many elements of global memory that tells caches what the hint says; `None`: an ordinary load does. `only_read`: nothing writes there while
    /// the kernel runs.
    fn hinted_load<'c>(
        &self,
        ir: &Ir<'c>,
        of: (DType, u32),
        at: Pointer<'c>,
        align: u32,
        hint: Hint,
        only_read: bool,
    ) -> Option<Value<'c>>;

    /// How the warps of a block wait for each other; `None`: a block is one thread.
    fn warps(&self) -> Option<&dyn Warps>;

    /// [`moec_ir::kernel::Expr::Dot`]: `acc` is f32, `a` and `b` are the bits of bf16. `None`: there is no such thing.
    fn dot<'c>(&self, ir: &Ir<'c>, acc: Value<'c>, a: Value<'c>, b: Value<'c>) -> Option<Value<'c>>;

    /// The bits of f32, rounded to the nearest bf16, ties to even, subnormals kept; any NaN of one. `None`: no instruction does that.
    fn to_bf16<'c>(&self, ir: &Ir<'c>, a: Value<'c>) -> Option<Value<'c>>;

    /// [`moec_ir::kernel::Stmt::Copy`]. `None`, as below: there is no such thing.
    fn copy<'c>(&self, ir: &Ir<'c>, to_from: [Pointer<'c>; 2], bytes: u32, live: Option<Value<'c>>) -> Option<()>;

    /// [`moec_ir::kernel::Unary::Exp2Approx`], [`moec_ir::kernel::Unary::ReciprocalApprox`] and [`moec_ir::kernel::Unary::RoundTf32`], lane by
    /// lane.
    fn own_unary<'c>(&self, ir: &Ir<'c>, op: Unary, a: Value<'c>) -> Option<Value<'c>>;

    /// [`moec_ir::kernel::Stmt::Commit`].
    fn commit(&self, ir: &Ir<'_>) -> Option<()>;

    /// [`moec_ir::kernel::Wait::Groups`]: until all but the last `left` have arrived.
    fn wait(&self, ir: &Ir<'_>, left: u32) -> Option<()>;

    /// [`moec_ir::kernel::Wait::Launches`]. Nothing is moved over it.
    fn wait_launches(&self, ir: &Ir<'_>) -> Option<()>;

    /// [`moec_ir::kernel::Stmt::AllowNext`].
    fn allow_next(&self, ir: &Ir<'_>) -> Option<()>;

    /// [`moec_ir::kernel::Stmt::LoadMatrix`]: so many words, as 32 bits, from the row that the lane names.
    fn load_matrix<'c>(&self, ir: &Ir<'c>, row: Pointer<'c>, matrices: usize, transposed: bool) -> Option<Vec<Value<'c>>>;

    /// [`moec_ir::kernel::Stmt::StoreMatrix`]: these pairs of 16-bit elements, to the row that the lane names.
    fn store_matrix<'c>(&self, ir: &Ir<'c>, row: Pointer<'c>, pairs: &[Value<'c>], transposed: bool) -> Option<()>;

    /// [`moec_ir::kernel::Stmt::Mma`]: the lane's sums afterwards. `of`: the shape, and the type of the factors' elements.
    fn mma<'c>(
        &self,
        ir: &Ir<'c>,
        of: (MatrixShape, DType),
        a: &[Value<'c>],
        b: &[Value<'c>],
        sums: &[Value<'c>],
    ) -> Option<Vec<Value<'c>>>;
}

/// A [`moec_ir::kernel::Stmt::GroupMma`].
pub(crate) struct GroupProduct<'c> {
    /// Type of the factors' elements.
    pub(crate) elem: DType,
    /// Columns of the right factor.
    pub(crate) columns: u32,
    /// The depth, in sixteens.
    pub(crate) steps: u32,
    /// The left factor.
    pub(crate) left: GroupFactor<'c>,
    /// The right factor, and where it begins.
    pub(crate) right: (Pointer<'c>, Panels),
}

/// The left factor of a product of four warps.
pub(crate) enum GroupFactor<'c> {
    /// The lane's pairs, four a step.
    Pairs(Vec<Value<'c>>),
    /// In shared memory, and where it begins.
    Shared(Pointer<'c>, Panels),
}

/// Where the memory of a block lies.
pub(crate) struct Memory<'c> {
    /// Its arrays, by handle.
    pub(crate) arrays: Vec<Pointer<'c>>,
    /// Its barriers, by handle; none where a block is one thread.
    pub(crate) mbarriers: Vec<Pointer<'c>>,
}

/// A machine's spelling of what the warps of a block do together without all of them.
pub(crate) trait Warps {
    /// The number of this thread's warp in its block, in a form that says that all of the warp agree on it.
    fn warp<'c>(&self, ir: &Ir<'c>, function: Function<'c>) -> Value<'c>;

    /// Each thread of these warps has `now` registers from here on, and had `before`.
    fn registers(&self, ir: &Ir<'_>, before: u32, now: u32);

    /// Begins the first phase of a stage. One thread says it, before [`Warps::begun`].
    fn begin<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, arrivals: u32);

    /// The stages that this thread has begun are so for copies too.
    fn begun(&self, ir: &Ir<'_>);

    /// This thread comes to a barrier of some threads, and goes on.
    fn arrive_at(&self, ir: &Ir<'_>, id: u8, count: u32);

    /// This thread arrives at a stage, and has it expect so many bytes.
    fn arrive<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, bytes: Option<Value<'c>>);

    /// This thread arrives at the same stage of the block with this number in the cluster. In the scope of its own block: a wider one would
    /// wait for all its stores to global memory, in a loop that has none.
    fn arrive_in_block<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, block: Value<'c>);

    /// This thread arrives at a stage when the copies are there that it has started.
    fn arrive_copied<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>);

    /// This thread starts a copy of so many bytes, which the phase of a stage expects.
    fn bulk_copy<'c>(&self, ir: &Ir<'c>, to: Pointer<'c>, from: Pointer<'c>, bytes: u32, stage: Pointer<'c>);

    /// This thread starts a copy of the box of a tensor that begins at these indices, outermost first, which the phase of a stage
    /// expects. The tensor's map lies where the pointer says. `blocks`: to the same place in the blocks of the cluster that it has a bit
    /// for, in the place of this one.
    fn tile_copy<'c>(
        &self,
        ir: &Ir<'c>,
        to: Pointer<'c>,
        from: (Pointer<'c>, [Value<'c>; 3]),
        stage: Pointer<'c>,
        blocks: Option<u16>,
    );

    /// This thread says that a tensor's map, which lies where the pointer says, is going to be used.
    fn prefetch_map<'c>(&self, ir: &Ir<'c>, map: Pointer<'c>);

    /// This thread starts to store a box of a tensor, which begins at these indices, outermost first, from here. The tensor's map lies
    /// where the pointer says.
    fn tile_store<'c>(&self, ir: &Ir<'c>, to: (Pointer<'c>, [Value<'c>; 3]), from: Pointer<'c>);

    /// [`moec_ir::kernel::Wait::Stores`].
    fn wait_stores(&self, ir: &Ir<'_>);

    /// The lane's sums of a product that this starts. `None`, as below: there is no such thing.
    fn group_mma<'c>(&self, ir: &Ir<'c>, product: &GroupProduct<'c>, sums: &[Value<'c>]) -> Option<Vec<Value<'c>>>;

    /// These sums, when all but the last `left` products are over.
    fn wait_products<'c>(&self, ir: &Ir<'c>, left: u32, sums: &[Value<'c>]) -> Option<Vec<Value<'c>>>;

    /// [`moec_ir::kernel::Stmt::Fence`].
    fn fence(&self, ir: &Ir<'_>) -> Option<()>;

    /// Whether the phase of a stage with this parity is over; it may wait a while for that.
    fn is_over<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, parity: Value<'c>) -> Value<'c>;
}

/// The target of a machine.
pub(crate) fn of(machine: &Machine) -> Box<dyn Target> {
    match machine.kind {
        MachineKind::Gpu { sm, ptx } => Box::new(nvptx::Nvptx { name: machine.name, sm, ptx }),
        MachineKind::Host { architecture, features } => Box::new(host::Host { architecture, features }),
    }
}
