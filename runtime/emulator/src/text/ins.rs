//! Typed instructions: what the parser makes and the interpreter executes. All operands are register slots;
//! constants and special registers have slots of their own that are filled before the first instruction.

use crate::text::module::Position;
use crate::types::{
    Compare, Convert, FloatMode, FloatOp, FloatTest, FloatUnary, IntOp, IntUnary, Logic, MadOp, MmaTy, Order, PermuteMode, Scope,
    Space, Ty,
};

/// A slot of a warp's 64-bit registers.
pub(crate) type Reg = u32;

/// The `_` operand: a result that is not used.
pub(crate) const SINK: Reg = u32::MAX;

/// A predicate read, perhaps negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pred {
    pub(crate) slot: Reg,
    pub(crate) negated: bool,
}

/// One instruction with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct Ins {
    pub(crate) op: Op,
    pub(crate) guard: Option<Pred>,
    pub(crate) at: Position,
    /// Index of the full spelling in `Entry::opcodes`.
    pub(crate) opcode: u16,
    /// Byte range of the statement, guard and `;` included, for the mutation tool.
    pub(crate) span: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addr {
    pub(crate) base: Reg,
    pub(crate) offset: i64,
}

/// A load or a store of `regs.len()` elements.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    pub(crate) regs: Box<[Reg]>,
    pub(crate) addr: Addr,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
    /// Width of the destination register of a load.
    pub(crate) wide: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub(crate) op: AtomicOp,
    pub(crate) ty: Ty,
    pub(crate) space: Space,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
    pub(crate) addr: Addr,
    /// The old values; empty for `red`. More than one only for vector float atomics.
    pub(crate) d: Box<[Reg]>,
    pub(crate) a: Box<[Reg]>,
    /// The second operand of `cas`.
    pub(crate) b: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReduceOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// What `bar` does with the arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// `bar.red`: the predicate in, the result out.
    Reduce {
        op: BarrierReduce,
        d: Reg,
        p: Pred,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierReduce {
    Popc,
    And,
    Or,
}

/// Operands of `mma.sync` (PTX ISA 9.7.14).
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub(crate) n: u8,
    pub(crate) k: u16,
    pub(crate) a_ty: MmaTy,
    pub(crate) b_ty: MmaTy,
    pub(crate) d_ty: Ty,
    pub(crate) saturate: bool,
    pub(crate) d: Box<[Reg]>,
    pub(crate) a: Box<[Reg]>,
    pub(crate) b: Box<[Reg]>,
    pub(crate) c: Box<[Reg]>,
}

/// Operands of `wgmma.mma_async` (PTX ISA 9.7.15).
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub(crate) n: u16,
    pub(crate) k: u16,
    pub(crate) a_ty: MmaTy,
    pub(crate) b_ty: MmaTy,
    pub(crate) d_ty: Ty,
    pub(crate) d: Box<[Reg]>,
    pub(crate) a: WgmmaA,
    pub(crate) b_desc: Reg,
    /// The `scale-d` predicate: false means that the old accumulator is not added.
    pub(crate) scale_d: Pred,
    pub(crate) negate_a: bool,
    pub(crate) negate_b: bool,
    pub(crate) transpose_a: bool,
    pub(crate) transpose_b: bool,
    pub(crate) saturate: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum WgmmaA {
    Registers(Box<[Reg]>),
    Descriptor(Reg),
}

/// How far an arrival reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The mbarrier may be another block's.
    pub(crate) cluster: bool,
    /// What it tells is for threads of the cluster.
    pub(crate) wide: bool,
}

/// What an mbarrier arrival does (PTX ISA 9.7.13.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrive {
    Plain,
    /// Adds to the expected bytes of the phase, then arrives.
    ExpectTx,
    Drop,
    NoComplete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierTest {
    Parity(Reg),
    State(Reg),
}

/// A bulk or tensor copy between global and shared memory.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub(crate) direction: Direction,
    /// Destination (shared or global) and source of a plain copy.
    pub(crate) dst: Addr,
    pub(crate) src: Addr,
    /// Bytes of a plain copy.
    pub(crate) bytes: Reg,
    /// Tensor copies: the map is at `src` (loads) or `dst` (stores) and these are the coordinates.
    pub(crate) coords: Option<Box<[Reg]>>,
    pub(crate) mbarrier: Option<Addr>,
    /// Which blocks of the cluster it goes to, one bit each; without, to the block itself.
    pub(crate) blocks: Option<Reg>,
    pub(crate) reduce: Option<(AtomicOp, Ty)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToShared,
    ToGlobal,
}

/// Everything that the interpreter can do.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Accepted, and without effect in this model.
    Nop,
    /// A hint of what will be read: its address is judged, and nothing else happens.
    Prefetch {
        space: Space,
        addr: Addr,
    },
    Mov {
        d: Reg,
        a: Reg,
    },
    Pack {
        d: Reg,
        parts: Box<[Reg]>,
        bits: u8,
    },
    Unpack {
        d: Box<[Reg]>,
        a: Reg,
        bits: u8,
    },
    Int {
        op: IntOp,
        ty: Ty,
        sat: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    Mad {
        op: MadOp,
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    IntUnary {
        op: IntUnary,
        ty: Ty,
        d: Reg,
        a: Reg,
    },
    /// `add.cc`, `addc`, `sub.cc`, `subc`: the carry is a predicate slot.
    Carry {
        subtract: bool,
        reads: bool,
        writes: bool,
        ty: Ty,
        cc: Reg,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    FunnelShift {
        right: bool,
        wrap: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Lop3 {
        table: u8,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Permute {
        mode: PermuteMode,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Extract {
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Insert {
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        e: Reg,
    },
    DotProduct {
        a_signed: bool,
        b_signed: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    FindNthSet {
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Float {
        op: FloatOp,
        ty: Ty,
        mode: FloatMode,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    Fma {
        ty: Ty,
        mode: FloatMode,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    FloatUnary {
        op: FloatUnary,
        ty: Ty,
        mode: FloatMode,
        d: Reg,
        a: Reg,
    },
    TestFloat {
        test: FloatTest,
        ty: Ty,
        p: Reg,
        a: Reg,
    },
    Setp {
        cmp: Compare,
        ty: Ty,
        ftz: bool,
        logic: Option<(Logic, Pred)>,
        p: Reg,
        q: Reg,
        a: Reg,
        b: Reg,
    },
    Set {
        cmp: Compare,
        ty: Ty,
        ftz: bool,
        logic: Option<(Logic, Pred)>,
        to: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    Select {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
    },
    Slct {
        by: Ty,
        ftz: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    PredLogic {
        op: Logic,
        d: Reg,
        a: Pred,
        b: Pred,
    },
    PredMov {
        d: Reg,
        a: Pred,
    },
    Convert {
        how: Convert,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    /// `cvta`: adds (or with `to` subtracts) the window of the space.
    WindowAddress {
        space: Space,
        to: bool,
        d: Reg,
        a: Reg,
    },
    IsSpace {
        space: Space,
        p: Reg,
        a: Reg,
    },
    Clock {
        d: Reg,
        bits: u8,
        global: bool,
    },
    ActiveMask {
        d: Reg,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Branch {
        target: u32,
    },
    BranchIndex {
        index: Reg,
        targets: Box<[u32]>,
    },
    Return,
    Exit,
    Trap,
    /// A call of an assertion failure: ends the launch with a finding that names it.
    Assert {
        function: Box<str>,
    },
    Barrier {
        kind: BarrierKind,
        aligned: bool,
        id: Reg,
        count: Option<Reg>,
    },
    WarpSync {
        mask: Reg,
    },
    Fence {
        order: Order,
        scope: Scope,
    },
    FenceProxyAsync,
    FenceMbarrierInit,
    Shuffle {
        mode: ShuffleMode,
        d: Reg,
        p: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        mask: Reg,
    },
    Vote {
        mode: VoteMode,
        d: Reg,
        p: Pred,
        mask: Reg,
    },
    Match {
        all: bool,
        ty: Ty,
        d: Reg,
        p: Reg,
        a: Reg,
        mask: Reg,
    },
    Redux {
        op: ReduceOp,
        ty: Ty,
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    Elect {
        d: Reg,
        p: Reg,
        mask: Reg,
    },
    CopyAsync {
        dst: Addr,
        src: Addr,
        bytes: u8,
        src_bytes: Option<Reg>,
        ignore: Option<Pred>,
    },
    CopyCommit,
    CopyWait {
        left: Option<Reg>,
    },
    CopyArrive {
        mbarrier: Addr,
        noinc: bool,
    },
    LoadMatrix {
        d: Box<[Reg]>,
        transpose: bool,
        addr: Addr,
    },
    StoreMatrix {
        a: Box<[Reg]>,
        transpose: bool,
        addr: Addr,
    },
    MoveMatrix {
        d: Reg,
        a: Reg,
    },
    Mma(Box<Mma>),
    MbarrierInit {
        addr: Addr,
        count: Reg,
    },
    MbarrierInvalidate {
        addr: Addr,
    },
    MbarrierArrive {
        how: Arrive,
        reach: Reach,
        addr: Addr,
        count: Option<Reg>,
        d: Reg,
    },
    MbarrierExpect {
        addr: Addr,
        bytes: Reg,
    },
    MbarrierComplete {
        addr: Addr,
        bytes: Reg,
    },
    MbarrierTest {
        addr: Addr,
        test: MbarrierTest,
        /// In the scope of the cluster, or a wider one.
        wide: bool,
        p: Reg,
    },
    MbarrierPending {
        d: Reg,
        a: Reg,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        left: Reg,
    },
    WgmmaFence,
    Wgmma(Box<Wgmma>),
    WgmmaCommit,
    WgmmaWait {
        left: Reg,
    },
    SetMaxRegisters,
    MapAddress {
        d: Reg,
        a: Reg,
        rank: Reg,
    },
    ClusterRank {
        d: Reg,
        a: Reg,
    },
    ClusterArrive,
    ClusterWait,
    GridDependencyWait,
}
