//! The instructions of NVIDIA GPUs that LLVM has no word of its own for: one row each.

use moec_ir::{DType, MatrixShape};

use crate::llvm::{Ir, Type, Value};

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    ThreadIndex,
    BlockIndex,
    BlockBarrier,
    WarpBarrier,
    ThreadsBarrier,
    ThreadsArrive,
    ClusterArrive,
    ClusterWait,
    FirstLane,
    FewerRegisters,
    MoreRegisters,
    MbarrierInit,
    MbarrierFence,
    MbarrierArrive,
    MbarrierArriveInBlock,
    OfBlock,
    MbarrierExpect,
    MbarrierCopied,
    MbarrierTry,
    BulkCopy,
    TileCopy,
    TileCopyInBlock,
    MapPrefetch,
    TileStore,
    StoresCommit,
    StoresWait,
    ProxyFence,
    ShuffleInt,
    ShuffleFloat,
    VoteAny,
    VoteAll,
    VoteBallot,
    ReduxMax,
    ReduxMin,
    Exp2,
    Reciprocal,
    RoundTf32,
    Copy4,
    Copy8,
    Copy16,
    /// Of fewer bytes than that, filled with zeros.
    Copy4OrLess,
    Copy8OrLess,
    Copy16OrLess,
    CommitCopies,
    WaitCopies,
    WaitLaunches,
    AllowNext,
    LoadMatrix1,
    LoadMatrix2,
    LoadMatrix4,
    LoadMatrix1Transposed,
    LoadMatrix2Transposed,
    LoadMatrix4Transposed,
    StoreMatrix1,
    StoreMatrix2,
    StoreMatrix4,
    StoreMatrix1Transposed,
    StoreMatrix2Transposed,
    StoreMatrix4Transposed,
    Mma16x8x16OfBf16,
    Mma16x8x16OfF16,
    Mma16x8x8OfBf16,
    Mma16x8x8OfF16,
    Mma16x8x8OfTf32,
}

/// What is known of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// LLVM's intrinsic.
    name: &'static str,
    /// The least architecture that has it: 80, 90, ...
    pub(super) sm: u32,
    /// The least PTX version that has it, times ten.
    pub(super) ptx: u32,
    /// The section of the PTX ISA that says what it does.
    section: &'static str,
    /// All lanes of the warp take part at once.
    convergent: bool,
    /// LLVM has one for each type of the first argument, and address space.
    by_type: bool,
}

const fn row(name: &'static str, sm: u32, ptx: u32, section: &'static str) -> Row {
    Row { name, sm, ptx, section, convergent: false, by_type: false }
}

const fn convergent(name: &'static str, sm: u32, ptx: u32, section: &'static str) -> Row {
    Row { name, sm, ptx, section, convergent: true, by_type: false }
}

const fn load_matrix(name: &'static str) -> Row {
    Row { by_type: true, ..convergent(name, 75, 65, "9.7.14.5.15 ldmatrix") }
}

const fn store_matrix(name: &'static str) -> Row {
    Row { by_type: true, ..convergent(name, 90, 78, "9.7.14.5.16 stmatrix") }
}

impl Instruction {
    pub(super) const fn row(self) -> Row {
        match self {
            Instruction::ThreadIndex => row("llvm.nvvm.read.ptx.sreg.tid.x", 0, 10, "10.1 %tid"),
            Instruction::BlockIndex => row("llvm.nvvm.read.ptx.sreg.ctaid.x", 0, 10, "10.6 %ctaid"),
            Instruction::BlockBarrier => row("llvm.nvvm.barrier.cta.sync.aligned.all", 0, 10, "9.7.13.1 bar.sync"),
            Instruction::WarpBarrier => row("llvm.nvvm.bar.warp.sync", 30, 60, "9.7.13.2 bar.warp.sync"),
            Instruction::ThreadsBarrier => row("llvm.nvvm.barrier.cta.sync.aligned.count", 20, 20, "9.7.13.1 bar.sync"),
            Instruction::ThreadsArrive => row("llvm.nvvm.barrier.cta.arrive.aligned.count", 20, 20, "9.7.13.1 bar.arrive"),
            Instruction::ClusterArrive => row("llvm.nvvm.barrier.cluster.arrive.aligned", 90, 78, "9.7.13.3 barrier.cluster"),
            Instruction::ClusterWait => row("llvm.nvvm.barrier.cluster.wait.aligned", 90, 78, "9.7.13.3 barrier.cluster"),
            Instruction::FirstLane => row("llvm.nvvm.shfl.sync.idx.i32", 30, 60, "9.7.9.6 shfl.sync"),
            Instruction::FewerRegisters => row("llvm.nvvm.setmaxnreg.dec.sync.aligned.u32", 90, 80, "9.7.19.5 setmaxnreg"),
            Instruction::MoreRegisters => row("llvm.nvvm.setmaxnreg.inc.sync.aligned.u32", 90, 80, "9.7.19.5 setmaxnreg"),
            Instruction::MbarrierInit => row("llvm.nvvm.mbarrier.init.shared", 80, 70, "9.7.13.15.9 mbarrier.init"),
            Instruction::MbarrierFence => {
                row("llvm.nvvm.fence.mbarrier_init.release.cluster", 90, 80, "9.7.13.4 fence.mbarrier_init")
            }
            Instruction::MbarrierArrive => {
                row("llvm.nvvm.mbarrier.arrive.scope.cta.space.cta", 90, 80, "9.7.13.15.13 mbarrier.arrive")
            }
            Instruction::MbarrierArriveInBlock => {
                row("llvm.nvvm.mbarrier.arrive.scope.cta.space.cluster", 90, 80, "9.7.13.15.13 mbarrier.arrive")
            }
            Instruction::OfBlock => row("llvm.nvvm.mapa.shared.cluster", 90, 78, "9.7.9.24 mapa"),
            Instruction::MbarrierExpect => {
                row("llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta", 90, 80, "9.7.13.15.13 mbarrier.arrive.expect_tx")
            }
            Instruction::MbarrierCopied => {
                row("llvm.nvvm.cp.async.mbarrier.arrive.noinc.shared", 80, 70, "9.7.13.15.15 cp.async.mbarrier.arrive")
            }
            Instruction::MbarrierTry => {
                row("llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta", 90, 80, "9.7.13.15.16 mbarrier.try_wait.parity")
            }
            Instruction::BulkCopy => {
                row("llvm.nvvm.cp.async.bulk.global.to.shared.cluster", 90, 80, "9.7.9.25.4.1 cp.async.bulk")
            }
            Instruction::TileCopy => {
                row("llvm.nvvm.cp.async.bulk.tensor.g2s.tile.3d", 90, 80, "9.7.9.27.1.2 cp.async.bulk.tensor")
            }
            // To the block's own memory: the other form costs a stack on sm_120a (ptxas 13.0).
            Instruction::TileCopyInBlock => {
                row("llvm.nvvm.cp.async.bulk.tensor.g2s.cta.tile.3d", 90, 86, "9.7.9.27.1.2 cp.async.bulk.tensor")
            }
            Instruction::MapPrefetch => {
                Row { by_type: true, ..row("llvm.nvvm.prefetch.tensormap", 90, 80, "9.7.9.15 prefetch.tensormap") }
            }
            Instruction::TileStore => {
                row("llvm.nvvm.cp.async.bulk.tensor.s2g.tile.3d", 90, 80, "9.7.9.27.1.2 cp.async.bulk.tensor")
            }
            Instruction::StoresCommit => {
                row("llvm.nvvm.cp.async.bulk.commit.group", 90, 80, "9.7.9.25.4.4 cp.async.bulk.commit_group")
            }
            Instruction::StoresWait => {
                row("llvm.nvvm.cp.async.bulk.wait.group.read", 90, 80, "9.7.9.25.4.5 cp.async.bulk.wait_group")
            }
            Instruction::ProxyFence => row("llvm.nvvm.fence.proxy.async.shared_cta", 90, 80, "9.7.13.4 fence.proxy.async"),
            Instruction::ShuffleInt => row("llvm.nvvm.shfl.sync.bfly.i32", 30, 60, "9.7.9.6 shfl.sync"),
            Instruction::ShuffleFloat => row("llvm.nvvm.shfl.sync.bfly.f32", 30, 60, "9.7.9.6 shfl.sync"),
            Instruction::VoteAny => row("llvm.nvvm.vote.any.sync", 30, 60, "9.7.13.8 vote.sync"),
            Instruction::VoteAll => row("llvm.nvvm.vote.all.sync", 30, 60, "9.7.13.8 vote.sync"),
            Instruction::VoteBallot => row("llvm.nvvm.vote.ballot.sync", 30, 60, "9.7.13.8 vote.sync"),
            Instruction::ReduxMax => row("llvm.nvvm.redux.sync.max", 80, 70, "9.7.13.11 redux.sync"),
            Instruction::ReduxMin => row("llvm.nvvm.redux.sync.min", 80, 70, "9.7.13.11 redux.sync"),
            Instruction::Exp2 => Row { by_type: true, ..row("llvm.nvvm.ex2.approx.ftz", 20, 14, "9.7.3.19 ex2.approx.ftz.f32") },
            Instruction::Reciprocal => row("llvm.nvvm.rcp.approx.ftz.f", 20, 14, "9.7.3.13 rcp.approx.ftz.f32"),
            Instruction::RoundTf32 => row("llvm.nvvm.f2tf32.rna", 80, 70, "9.7.9.22 cvt.rna.tf32.f32"),
            Instruction::Copy4 => row("llvm.nvvm.cp.async.ca.shared.global.4", 80, 70, "9.7.9.25.3 cp.async"),
            Instruction::Copy8 => row("llvm.nvvm.cp.async.ca.shared.global.8", 80, 70, "9.7.9.25.3 cp.async"),
            Instruction::Copy16 => row("llvm.nvvm.cp.async.cg.shared.global.16", 80, 70, "9.7.9.25.3 cp.async"),
            Instruction::Copy4OrLess => row("llvm.nvvm.cp.async.ca.shared.global.4.s", 80, 70, "9.7.9.25.3 cp.async"),
            Instruction::Copy8OrLess => row("llvm.nvvm.cp.async.ca.shared.global.8.s", 80, 70, "9.7.9.25.3 cp.async"),
            Instruction::Copy16OrLess => row("llvm.nvvm.cp.async.cg.shared.global.16.s", 80, 70, "9.7.9.25.3 cp.async"),
            Instruction::CommitCopies => row("llvm.nvvm.cp.async.commit.group", 80, 70, "9.7.9.25.3 cp.async.commit_group"),
            Instruction::WaitCopies => row("llvm.nvvm.cp.async.wait.group", 80, 70, "9.7.9.25.3 cp.async.wait_group"),
            Instruction::WaitLaunches => row("llvm.nvvm.griddepcontrol.wait", 90, 78, "9.7.13.13 griddepcontrol"),
            Instruction::AllowNext => row("llvm.nvvm.griddepcontrol.launch.dependents", 90, 78, "9.7.13.13 griddepcontrol"),
            Instruction::LoadMatrix1 => load_matrix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x1.b16"),
            Instruction::LoadMatrix2 => load_matrix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.b16"),
            Instruction::LoadMatrix4 => load_matrix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16"),
            Instruction::LoadMatrix1Transposed => load_matrix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x1.trans.b16"),
            Instruction::LoadMatrix2Transposed => load_matrix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16"),
            Instruction::LoadMatrix4Transposed => load_matrix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16"),
            Instruction::StoreMatrix1 => store_matrix("llvm.nvvm.stmatrix.sync.aligned.m8n8.x1.b16"),
            Instruction::StoreMatrix2 => store_matrix("llvm.nvvm.stmatrix.sync.aligned.m8n8.x2.b16"),
            Instruction::StoreMatrix4 => store_matrix("llvm.nvvm.stmatrix.sync.aligned.m8n8.x4.b16"),
            Instruction::StoreMatrix1Transposed => store_matrix("llvm.nvvm.stmatrix.sync.aligned.m8n8.x1.trans.b16"),
            Instruction::StoreMatrix2Transposed => store_matrix("llvm.nvvm.stmatrix.sync.aligned.m8n8.x2.trans.b16"),
            Instruction::StoreMatrix4Transposed => store_matrix("llvm.nvvm.stmatrix.sync.aligned.m8n8.x4.trans.b16"),
            Instruction::Mma16x8x16OfBf16 => convergent("llvm.nvvm.mma.m16n8k16.row.col.bf16", 80, 70, "9.7.14.5.14 mma"),
            Instruction::Mma16x8x16OfF16 => convergent("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", 80, 70, "9.7.14.5.14 mma"),
            Instruction::Mma16x8x8OfBf16 => convergent("llvm.nvvm.mma.m16n8k8.row.col.bf16", 80, 70, "9.7.14.5.14 mma"),
            Instruction::Mma16x8x8OfTf32 => convergent("llvm.nvvm.mma.m16n8k8.row.col.tf32", 80, 70, "9.7.14.5.14 mma"),
            Instruction::Mma16x8x8OfF16 => convergent("llvm.nvvm.mma.m16n8k8.row.col.f32.f32", 75, 65, "9.7.14.5.14 mma"),
        }
    }

    /// The copy of so many bytes, or of none of them.
    pub(super) const fn copy(bytes: u32, may_be_none: bool) -> Option<Instruction> {
        match (bytes, may_be_none) {
            (4, false) => Some(Instruction::Copy4),
            (8, false) => Some(Instruction::Copy8),
            (16, false) => Some(Instruction::Copy16),
            (4, true) => Some(Instruction::Copy4OrLess),
            (8, true) => Some(Instruction::Copy8OrLess),
            (16, true) => Some(Instruction::Copy16OrLess),
            (_, _) => None,
        }
    }

    /// The load of so many matrices.
    pub(super) const fn load_matrix(matrices: usize, transposed: bool) -> Option<Instruction> {
        match (matrices, transposed) {
            (1, false) => Some(Instruction::LoadMatrix1),
            (2, false) => Some(Instruction::LoadMatrix2),
            (4, false) => Some(Instruction::LoadMatrix4),
            (1, true) => Some(Instruction::LoadMatrix1Transposed),
            (2, true) => Some(Instruction::LoadMatrix2Transposed),
            (4, true) => Some(Instruction::LoadMatrix4Transposed),
            (_, _) => None,
        }
    }

    /// The store of so many matrices.
    pub(super) const fn store_matrix(matrices: usize, transposed: bool) -> Option<Instruction> {
        match (matrices, transposed) {
            (1, false) => Some(Instruction::StoreMatrix1),
            (2, false) => Some(Instruction::StoreMatrix2),
            (4, false) => Some(Instruction::StoreMatrix4),
            (1, true) => Some(Instruction::StoreMatrix1Transposed),
            (2, true) => Some(Instruction::StoreMatrix2Transposed),
            (4, true) => Some(Instruction::StoreMatrix4Transposed),
            (_, _) => None,
        }
    }

    /// The product of matrices of this shape with elements of this type.
    pub(super) const fn mma(shape: MatrixShape, elem: DType) -> Option<Instruction> {
        match (shape, elem) {
            (MatrixShape::M16N8K16, DType::BF16) => Some(Instruction::Mma16x8x16OfBf16),
            (MatrixShape::M16N8K16, DType::F16) => Some(Instruction::Mma16x8x16OfF16),
            (MatrixShape::M16N8K8, DType::BF16) => Some(Instruction::Mma16x8x8OfBf16),
            (MatrixShape::M16N8K8, DType::F16) => Some(Instruction::Mma16x8x8OfF16),
            (MatrixShape::M16N8K8, DType::F32) => Some(Instruction::Mma16x8x8OfTf32),
            (MatrixShape::M16N8K16, DType::F32) => None,
            (MatrixShape::M16N8K16 | MatrixShape::M16N8K8, DType::Bool | DType::I32 | DType::I64) => None,
        }
    }

    /// Issues it; gives its result if it has one.
    pub(super) fn issue<'c>(self, ir: &Ir<'c>, args: &[Value<'c>]) -> Option<Value<'c>> {
        let row = self.row();
        let overloads: Vec<Type<'c>> = args.iter().take(usize::from(row.by_type)).map(|arg| arg.get_type()).collect();
        if row.convergent { ir.convergent(row.name, &overloads, args) } else { ir.intrinsic(row.name, &overloads, args) }
    }

    /// Issues it for its result.
    pub(super) fn value<'c>(self, ir: &Ir<'c>, args: &[Value<'c>]) -> Value<'c> {
        let Row { name, section, .. } = self.row();
        self.issue(ir, args).unwrap_or_else(|| panic!("{name} ({section}) gives a value"))
    }
}
