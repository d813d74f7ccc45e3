//! Typed instructions: what the parser makes and the interpreter executes. All operands are register slots;
//! constants and special registers have slots of their own that are filled before the first instruction.

use crate::module::Position;

/// A slot of a warp's 64-bit registers.
pub(crate) type Reg = u32;

/// The `_` operand: a result that nobody wants.
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

/// Scalar and packed types of PTX ISA 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ty {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    B8,
    B16,
    B32,
    B64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F32x2,
    F64,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
    Pred,
}

impl Ty {
    pub(crate) fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "tf32" => Ty::Tf32,
            "f32" => Ty::F32,
            "f32x2" => Ty::F32x2,
            "f64" => Ty::F64,
            "e4m3" => Ty::E4m3,
            "e5m2" => Ty::E5m2,
            "e4m3x2" => Ty::E4m3x2,
            "e5m2x2" => Ty::E5m2x2,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::U8 | Ty::S8 | Ty::B8 | Ty::E4m3 | Ty::E5m2 => 8,
            Ty::U16 | Ty::S16 | Ty::B16 | Ty::F16 | Ty::Bf16 | Ty::E4m3x2 | Ty::E5m2x2 => 16,
            Ty::U32 | Ty::S32 | Ty::B32 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 => 32,
            Ty::U64 | Ty::S64 | Ty::B64 | Ty::F32x2 | Ty::F64 => 64,
        }
    }

    pub(crate) fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Integers and untyped bits.
    pub(crate) fn integral(self) -> bool {
        !self.floating() && self != Ty::Pred
    }

    pub(crate) fn floating(self) -> bool {
        matches!(
            self,
            Ty::F16
                | Ty::F16x2
                | Ty::Bf16
                | Ty::Bf16x2
                | Ty::Tf32
                | Ty::F32
                | Ty::F32x2
                | Ty::F64
                | Ty::E4m3
                | Ty::E5m2
                | Ty::E4m3x2
                | Ty::E5m2x2
        )
    }
}

/// State spaces (PTX ISA 5.1). `Const` variables live among the global ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Shared,
    SharedCluster,
    Local,
    Param,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntOp {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadOp {
    Lo,
    Hi,
    Wide,
    Sad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntUnary {
    Neg,
    Abs,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
    Bfind,
    BfindShift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    CopySign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatUnary {
    Neg,
    Abs,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

/// The modifiers that float arithmetic shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FloatMode {
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
    /// `.NaN` of min and max: a NaN operand wins.
    pub(crate) nan: bool,
    pub(crate) round: Round,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Round {
    #[default]
    Nearest,
    /// Ties away from zero; only `cvt` to tf32 has it.
    NearestAway,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Lo,
    Ls,
    Hi,
    Hs,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatTest {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermuteMode {
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convert {
    pub(crate) to: Ty,
    pub(crate) from: Ty,
    pub(crate) round: Round,
    /// `.rni`, `.rzi`, `.rmi`, `.rpi`: round to an integral value.
    pub(crate) integral: bool,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) satfinite: bool,
    pub(crate) relu: bool,
    /// Width of the destination register, which may exceed that of `to`.
    pub(crate) wide: u8,
}

/// How strongly an access is ordered (PTX ISA 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    Volatile,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
    SequentiallyConsistent,
}

impl Order {
    pub(crate) fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcquireRelease | Order::SequentiallyConsistent)
    }

    pub(crate) fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcquireRelease | Order::SequentiallyConsistent)
    }

    /// Strong accesses may meet without being a data race.
    pub(crate) fn strong(self) -> bool {
        self != Order::Weak
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
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

/// Element types of matrix operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaTy {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl MmaTy {
    pub(crate) fn bytes(self) -> u32 {
        match self {
            MmaTy::F16 | MmaTy::Bf16 => 2,
            MmaTy::Tf32 => 4,
            MmaTy::E4m3 | MmaTy::E5m2 | MmaTy::S8 | MmaTy::U8 => 1,
        }
    }

    pub(crate) fn integral(self) -> bool {
        matches!(self, MmaTy::S8 | MmaTy::U8)
    }
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
    /// Accepted, and without effect in this model (hints, prefetches).
    Nop,
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
