//! Which registers an instruction reads and writes.

use crate::text::ins::{MbarrierTest, Op, Reg, VoteMode};

impl Op {
    /// Calls back for each register of a scalar instruction, and says whether it is written.
    pub(crate) fn each_register(&self, mut each: impl FnMut(Reg, bool)) {
        let mut many = |reads: &[Reg], writes: &[Reg]| {
            reads.iter().for_each(|&reg| each(reg, false));
            writes.iter().for_each(|&reg| each(reg, true));
        };
        match *self {
            Op::Mov { d, a }
            | Op::IntUnary { d, a, .. }
            | Op::FloatUnary { d, a, .. }
            | Op::WindowAddress { d, a, .. }
            | Op::Redux { d, a, .. }
            | Op::Match { d, a, .. }
            | Op::MoveMatrix { d, a }
            | Op::MbarrierPending { d, a }
            | Op::MapAddress { d, a, .. }
            | Op::ClusterRank { d, a, .. } => many(&[a], &[d]),
            Op::Int { d, a, b, .. }
            | Op::Carry { d, a, b, .. }
            | Op::Float { d, a, b, .. }
            | Op::Set { d, a, b, .. }
            | Op::Select { d, a, b, .. }
            | Op::Convert { d, a, b, .. } => many(&[a, b], &[d]),
            Op::Mad { d, a, b, c, .. }
            | Op::FunnelShift { d, a, b, c, .. }
            | Op::Lop3 { d, a, b, c, .. }
            | Op::Permute { d, a, b, c, .. }
            | Op::Extract { d, a, b, c, .. }
            | Op::DotProduct { d, a, b, c, .. }
            | Op::FindNthSet { d, a, b, c }
            | Op::Fma { d, a, b, c, .. }
            | Op::Slct { d, a, b, c, .. }
            | Op::Shuffle { d, a, b, c, .. } => many(&[a, b, c], &[d]),
            Op::Insert { d, a, b, c, e, .. } => many(&[a, b, c, e], &[d]),
            Op::Setp { a, b, .. } => many(&[a, b], &[]),
            Op::TestFloat { a, .. } | Op::IsSpace { a, .. } => many(&[a], &[]),
            Op::Clock { d, .. } | Op::ActiveMask { d } | Op::Vote { d, mode: VoteMode::Ballot, .. } => {
                many(&[], &[d]);
            }
            Op::Elect { d, .. } => many(&[], &[d]),
            Op::Pack { d, ref parts, .. } => many(parts, &[d]),
            Op::Unpack { ref d, a, .. } => many(&[a], d),
            Op::Load(ref access) => many(&[access.addr.base], &access.regs),
            Op::Store(ref access) => {
                many(&[access.addr.base], &[]);
                many(&access.regs, &[]);
            }
            Op::Atomic(ref atomic) => {
                many(&[atomic.addr.base, atomic.b], &atomic.d);
                many(&atomic.a, &[]);
            }
            Op::Prefetch { addr, .. } => many(&[addr.base], &[]),
            Op::LoadMatrix { ref d, addr, .. } => many(&[addr.base], d),
            Op::StoreMatrix { ref a, addr, .. } => {
                many(&[addr.base], &[]);
                many(a, &[]);
            }
            Op::Mma(ref mma) => {
                many(&mma.a, &[]);
                many(&mma.b, &[]);
                many(&mma.c, &mma.d);
            }
            Op::MbarrierArrive { d, .. } => many(&[], &[d]),
            Op::MbarrierTest { test: MbarrierTest::Parity(reg) | MbarrierTest::State(reg), .. } => many(&[reg], &[]),
            Op::Vote { .. }
            | Op::Nop
            | Op::PredLogic { .. }
            | Op::PredMov { .. }
            | Op::Branch { .. }
            | Op::BranchIndex { .. }
            | Op::Return
            | Op::Exit
            | Op::Trap
            | Op::Assert { .. }
            | Op::Barrier { .. }
            | Op::WarpSync { .. }
            | Op::Fence { .. }
            | Op::FenceProxyAsync
            | Op::FenceMbarrierInit
            | Op::CopyAsync { .. }
            | Op::CopyCommit
            | Op::CopyWait { .. }
            | Op::CopyArrive { .. }
            | Op::MbarrierInit { .. }
            | Op::MbarrierInvalidate { .. }
            | Op::MbarrierExpect { .. }
            | Op::MbarrierComplete { .. }
            | Op::Bulk(_)
            | Op::BulkCommit
            | Op::BulkWait { .. }
            | Op::WgmmaFence
            | Op::Wgmma(_)
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. }
            | Op::SetMaxRegisters
            | Op::ClusterArrive
            | Op::ClusterWait
            | Op::GridDependencyWait => {}
        }
    }
}
