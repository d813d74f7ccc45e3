//! NVIDIA GPUs: a kernel is a PTX entry, a block's arrays are shared memory, lanes talk by instructions that `spelling` has.
//! Assembling the PTX is in `ptxas`.

use inkwell::module::Linkage;
use moec_ir::kernel::{Extreme, Hint, Index, Kernel, Mbarrier, ParamKind, Place, Scope, Unary, Vote, layout};
use moec_ir::{DType, Machine, MatrixShape};

use super::spelling::Instruction;
use super::{GroupProduct, Memory, Target, Warps, group};
use crate::emit::File;
use crate::llvm::{self, At, Function, Ir, Op, Pointer, Type, Value};
use crate::{Error, Image, lower};

/// A GPU architecture and the least PTX version that knows it.
pub(crate) struct Nvptx {
    pub(crate) name: &'static str,
    /// 80, 90, 120, ...
    pub(crate) sm: u32,
    /// Times ten.
    pub(crate) ptx: u32,
}

/// LLVM's `ptx_kernel`.
const PTX_KERNEL: u32 = 71;
/// LLVM's address spaces for NVPTX.
const GLOBAL: u16 = 1;
const SHARED: u16 = 3;
const PARAM: u16 = 101;
const CLUSTER: u16 = 7;
/// Bytes of a tensor map, and to which it is aligned: CUDA driver API, `CUtensorMap`.
const TENSOR_MAP_BYTES: u32 = 128;
const TENSOR_MAP_ALIGN: u32 = 64;
/// Every lane of the warp.
const ALL_LANES: i64 = -1;
/// A warp has two to the power of this many lanes.
const WARP_BITS: i64 = 5;
/// `shfl.sync`'s clamp and segment mask for a butterfly over the whole warp.
const WHOLE_WARP: i64 = 0x1f;

/// As text: LLVM's intrinsic for it is one of sm_90 and later only. PTX ISA 9.7.9.15.
const PREFETCH: &str = "prefetch.global.L2 [$0];";

/// What `default<O3>` does for such kernels, in half of its time: they call nothing, their loops and vectors are the schedule's,
/// and each pass goes over sums that the schedule has unrolled. Variables become values; comparisons and sums of indices simple;
/// loops are left by what follows them, without what does not change in them; those of few turns are unrolled, then those of small
/// bodies, of which the turns' loads are then under way together. What branches have in common is hoisted and not sunk: to be stored by the
/// same instruction, sums would have to be in the same registers (on the examples 0.3 % more instructions, and no spills).
const PASSES: &str = concat!(
    "function(nvvm-intr-range,sroa,early-cse<memssa>,simplifycfg<switch-range-to-icmp;keep-loops>,",
    "instcombine<no-verify-fixpoint>,correlated-propagation,reassociate,",
    "loop-mssa(loop-rotate,licm),simplifycfg<switch-range-to-icmp;keep-loops>,loop(indvars,loop-unroll-full),",
    "sroa,gvn,correlated-propagation,",
    "simplifycfg<switch-range-to-icmp;no-keep-loops;hoist-common-insts>,",
    "loop-unroll<O3>,instcombine<no-verify-fixpoint>,infer-alignment,loop-mssa(licm),",
    "simplifycfg<switch-range-to-icmp;no-keep-loops;hoist-common-insts>)",
);

impl Nvptx {
    /// The instruction, if the architecture and the PTX version have it.
    fn able(&self, instruction: Instruction) -> Option<Instruction> {
        let row = instruction.row();
        (self.sm >= row.sm && self.ptx >= row.ptx).then_some(instruction)
    }
}

impl Nvptx {
    /// Products of four warps are of this architecture alone.
    fn has_groups(&self) -> bool {
        self.sm == 90
    }
}

impl Target for Nvptx {
    fn triple(&self) -> &'static str {
        "nvptx64-nvidia-cuda"
    }

    fn cpu(&self) -> &str {
        self.name
    }

    fn features(&self) -> String {
        format!("+ptx{}", self.ptx)
    }

    fn passes(&self) -> &'static str {
        PASSES
    }

    fn file(&self) -> File {
        File::Assembly
    }

    fn image(&self, _: &str, written: Vec<u8>) -> Result<Image, Error> {
        Ok(Image::Ptx(String::from_utf8_lossy(&written).into_owned()))
    }

    fn declare<'c>(&self, ir: &Ir<'c>, kernel: &Kernel, alone: &[bool]) -> Function<'c> {
        let params = lower::params(ir, kernel, ir.pointer(GLOBAL));
        let function = ir.function(&ir.symbol(&kernel.name), &params);
        function.set_call_conventions(PTX_KERNEL);
        ir.mark(function, At::Function, "nounwind");
        ir.set(function, "nvvm.maxntid", &kernel.threads.to_string());
        // Without it ptxas aims at several blocks a processor, and spills registers that fewer could have.
        ir.set(function, "nvvm.minctasm", &kernel.resident.to_string());
        if kernel.cluster > 1 {
            ir.set(function, "nvvm.cluster_dim", &kernel.cluster.to_string());
        }
        lower::mark_params(ir, kernel, alone, function);
        for (i, param) in (0..).zip(&kernel.params) {
            if let ParamKind::TensorMap(_) = param.kind {
                ir.mark_by_value(function, i, llvm::array(ir.int(8), TENSOR_MAP_BYTES), TENSOR_MAP_ALIGN);
                // Without it LLVM copies the map to local memory, where copies cannot read it.
                ir.set_param(function, i, "nvvm.grid_constant");
            }
        }
        function
    }

    fn finish<'c>(&self, _: &Ir<'c>, _: &Kernel, _: Function<'c>) {}

    /// Static arrays, as far as a block has so much without asking for it; else parts of what the launch asks for.
    fn memory<'c>(&self, ir: &Ir<'c>, machine: &Machine, kernel: &Kernel, _: Function<'c>) -> Memory<'c> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let global = |ty: Type<'c>, name: &str, align: u32| {
            let name: String = format!("{}_{name}", ir.symbol(&kernel.name)).chars().map(plain).collect();
            let global = ir.module.add_global(ty, Some(SHARED.into()), &name);
            global.set_alignment(align);
            global
        };
        let layout = layout(kernel);
        if layout.dynamic_bytes(machine) > 0 {
            let all = global(llvm::array(ir.int(8), 0), "dynamic", layout.align).as_pointer_value();
            let offset = |bytes: &u64| ir.element(ir.int(8), all, ir.constant(ir.int(64), *bytes as i64));
            let (arrays, mbarriers) = (layout.offsets.iter().map(offset), layout.mbarriers.iter().map(offset));
            return Memory { arrays: arrays.collect(), mbarriers: mbarriers.collect() };
        }
        let array = |ty: Type<'c>, name: &str, align: u32| {
            let global = global(ty, name, align);
            global.set_linkage(Linkage::Internal);
            global.set_initializer(&ty.into_array_type().get_undef());
            global.as_pointer_value()
        };
        let arrays = kernel
            .shared
            .iter()
            .map(|(_, shared)| array(llvm::array(lower::elem(ir, shared.elem), shared.len), &shared.name, shared.align));
        let mbarriers =
            kernel.mbarriers.iter().map(|(_, of)| array(llvm::array(ir.int(64), of.stages), &of.name, Mbarrier::BYTES as u32));
        Memory { arrays: arrays.collect(), mbarriers: mbarriers.collect() }
    }

    fn index<'c>(&self, ir: &Ir<'c>, _: Function<'c>, index: Index) -> Value<'c> {
        let register = match index {
            Index::Thread => Instruction::ThreadIndex,
            Index::Block => Instruction::BlockIndex,
        };
        register.value(ir, &[])
    }

    fn barrier(&self, ir: &Ir<'_>, scope: Scope) {
        match scope {
            Scope::Block => Instruction::BlockBarrier.issue(ir, &[word(ir, 0)]),
            Scope::Warp => Instruction::WarpBarrier.issue(ir, &[word(ir, ALL_LANES)]),
            Scope::Cluster => {
                Instruction::ClusterArrive.issue(ir, &[]);
                Instruction::ClusterWait.issue(ir, &[])
            }
            Scope::Threads { id, count } => {
                Instruction::ThreadsBarrier.issue(ir, &[word(ir, i64::from(id)), word(ir, i64::from(count))])
            }
        };
    }

    fn shuffle<'c>(&self, ir: &Ir<'c>, elem: DType, value: Value<'c>, mask: u32) -> Value<'c> {
        let instruction = if elem.is_float() { Instruction::ShuffleFloat } else { Instruction::ShuffleInt };
        instruction.value(ir, &[word(ir, ALL_LANES), value, word(ir, i64::from(mask)), word(ir, WHOLE_WARP)])
    }

    fn vote<'c>(&self, ir: &Ir<'c>, vote: Vote, value: Value<'c>) -> Value<'c> {
        let instruction = match vote {
            Vote::Any => Instruction::VoteAny,
            Vote::All => Instruction::VoteAll,
            Vote::Ballot => Instruction::VoteBallot,
        };
        instruction.value(ir, &[word(ir, ALL_LANES), value])
    }

    fn redux<'c>(&self, ir: &Ir<'c>, extreme: Extreme, value: Value<'c>) -> Value<'c> {
        let instruction = match extreme {
            Extreme::Max => Instruction::ReduxMax,
            Extreme::Min => Instruction::ReduxMin,
        };
        instruction.value(ir, &[value, word(ir, ALL_LANES)])
    }

    fn prefetch<'c>(&self, ir: &Ir<'c>, at: Pointer<'c>) {
        ir.assembly(PREFETCH, "l", &[at.into()]);
    }

    /// As text: LLVM has no hint of its own that reaches the instruction. Parts as wide as the alignment allows.
    fn hinted_load<'c>(
        &self,
        ir: &Ir<'c>,
        (elem, lanes): (DType, u32),
        at: Pointer<'c>,
        align: u32,
        hint: Hint,
        only_read: bool,
    ) -> Option<Value<'c>> {
        // The older spelling is all that PTX before 7.4 has: PTX ISA 9.7.9.8.
        let hint = match (hint, self.ptx >= 74) {
            (Hint::None, _) => return None,
            (Hint::Keep, true) => ".L1::evict_last",
            (Hint::Keep, false) => ".ca",
            (Hint::Stream, true) => ".L1::no_allocate",
            (Hint::Stream, false) => ".cs",
        };
        let unchanging = if only_read { ".nc" } else { "" };
        let (ty, elem_bytes) = (lower::elem(ir, elem), elem.bytes() as u32);
        let bytes = elem_bytes * lanes;
        let part = bytes.min(align).min(16);
        // A register has an element, or two of those of 16 bits.
        let register = elem_bytes.max(part.min(4));
        let letter = match register {
            2 => 'h',
            4 => 'r',
            _ => 'l',
        };
        let count = part / register;
        let vector = if count > 1 { format!(".v{count}") } else { String::new() };
        let results: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let results = if count > 1 { format!("{{{}}}", results.join(", ")) } else { results.concat() };
        let text = format!("ld.global{unchanging}{hint}{vector}.b{} {results}, [${count}];", 8 * register);
        let constraints = format!("{}l", format!("={letter},").repeat(count as usize));
        let gives = vec![ir.int(8 * register); count as usize];
        let mut loaded = Vec::new();
        for i in 0..bytes / part {
            let at = ir.element(ir.int(8), at, ir.constant(ir.int(64), i64::from(i * part)));
            for register_value in ir.assembly_that_reads(&text, &constraints, &gives, at, only_read) {
                let of_register = register / elem_bytes;
                let elements = ir.cast(Op::BitCast, register_value, ir.lanes_of(ty, of_register));
                // One by one: of a vector of registers LLVM makes pairs that are known in half.
                loaded.extend((0..of_register).map(|lane| ir.extract(elements, lane)));
            }
        }
        Some(ir.vector(&loaded))
    }

    fn warps(&self) -> Option<&dyn Warps> {
        Some(self)
    }

    fn atomic_scope(&self, place: Place) -> Option<&'static str> {
        match place {
            Place::Param(_) => Some("device"),
            Place::Shared(_) | Place::Registers(_) => Some("block"),
        }
    }

    fn dot<'c>(&self, _: &Ir<'c>, _: Value<'c>, _: Value<'c>, _: Value<'c>) -> Option<Value<'c>> {
        None
    }

    /// PTX ISA 9.7.9.21, `cvt.rn.bf16x2.f32`: for pairs one instruction. Every NaN becomes the same one.
    fn to_bf16<'c>(&self, ir: &Ir<'c>, a: Value<'c>) -> Option<Value<'c>> {
        (self.sm >= 80 && self.ptx >= 70).then(|| {
            let rounded = ir.cast(Op::FPTrunc, a, ir.shaped(ir.bf16(), a));
            ir.cast(Op::BitCast, rounded, ir.shaped(ir.int(16), a))
        })
    }

    fn copy<'c>(&self, ir: &Ir<'c>, [to, from]: [Pointer<'c>; 2], bytes: u32, live: Option<Value<'c>>) -> Option<()> {
        let copy = self.able(Instruction::copy(bytes, live.is_some())?)?;
        let read = live.map(|live| ir.select(live, word(ir, i64::from(bytes)), word(ir, 0)));
        let args: Vec<Value<'c>> = [to.into(), from.into()].into_iter().chain(read).collect();
        copy.issue(ir, &args);
        Some(())
    }

    fn own_unary<'c>(&self, ir: &Ir<'c>, op: Unary, a: Value<'c>) -> Option<Value<'c>> {
        let instruction = match op {
            Unary::RoundTf32 => self.able(Instruction::RoundTf32)?,
            Unary::Exp2Approx => Instruction::Exp2,
            Unary::ReciprocalApprox => Instruction::Reciprocal,
            Unary::Neg | Unary::Not | Unary::Abs | Unary::Floor | Unary::Sqrt | Unary::CountOnes => return None,
        };
        // tf32 comes as bits.
        let of_lane = |lane: u32| ir.cast(Op::BitCast, instruction.value(ir, &[ir.extract(a, lane)]), ir.f32());
        Some(ir.vector(&(0..crate::llvm::lanes(a)).map(of_lane).collect::<Vec<_>>()))
    }

    fn commit(&self, ir: &Ir<'_>) -> Option<()> {
        self.able(Instruction::CommitCopies)?.issue(ir, &[]);
        Some(())
    }

    fn wait(&self, ir: &Ir<'_>, left: u32) -> Option<()> {
        self.able(Instruction::WaitCopies)?.issue(ir, &[word(ir, i64::from(left))]);
        Some(())
    }

    /// To LLVM it is a call that may read and write all memory but that of `noalias` parameters.
    fn wait_launches(&self, ir: &Ir<'_>) -> Option<()> {
        self.able(Instruction::WaitLaunches)?.issue(ir, &[]);
        Some(())
    }

    fn allow_next(&self, ir: &Ir<'_>) -> Option<()> {
        self.able(Instruction::AllowNext)?.issue(ir, &[]);
        Some(())
    }

    fn load_matrix<'c>(&self, ir: &Ir<'c>, row: Pointer<'c>, matrices: usize, transposed: bool) -> Option<Vec<Value<'c>>> {
        let loaded = self.able(Instruction::load_matrix(matrices, transposed)?)?.value(ir, &[row.into()]);
        Some((0..matrices as u32).map(|i| ir.field(loaded, i)).collect())
    }

    fn store_matrix<'c>(&self, ir: &Ir<'c>, row: Pointer<'c>, pairs: &[Value<'c>], transposed: bool) -> Option<()> {
        let store = self.able(Instruction::store_matrix(pairs.len(), transposed)?)?;
        let pairs = pairs.iter().map(|pair| ir.cast(Op::BitCast, *pair, ir.int(32)));
        let args: Vec<Value<'c>> = std::iter::once(row.into()).chain(pairs).collect();
        store.issue(ir, &args);
        Some(())
    }

    fn mma<'c>(
        &self,
        ir: &Ir<'c>,
        (shape, elem): (MatrixShape, DType),
        a: &[Value<'c>],
        b: &[Value<'c>],
        sums: &[Value<'c>],
    ) -> Option<Vec<Value<'c>>> {
        let mma = self.able(Instruction::mma(shape, elem)?)?;
        let pair = if elem == DType::F16 { ir.lanes_of(ir.f16(), 2) } else { ir.int(32) };
        let pairs = a.iter().chain(b).map(|bits| ir.cast(Op::BitCast, *bits, pair));
        let args: Vec<Value<'c>> = pairs.chain(sums.iter().copied()).collect();
        let after = mma.value(ir, &args);
        Some((0..sums.len() as u32).map(|i| ir.field(after, i)).collect())
    }
}

impl Warps for Nvptx {
    /// By a shuffle: from a division alone ptxas does not see that a warp agrees.
    fn warp<'c>(&self, ir: &Ir<'c>, function: Function<'c>) -> Value<'c> {
        let warp = ir.binary(Op::LShr, self.index(ir, function, Index::Thread), word(ir, WARP_BITS));
        Instruction::FirstLane.value(ir, &[word(ir, ALL_LANES), warp, word(ir, 0), word(ir, WHOLE_WARP)])
    }

    fn registers(&self, ir: &Ir<'_>, before: u32, now: u32) {
        let instruction = if now > before { Instruction::MoreRegisters } else { Instruction::FewerRegisters };
        instruction.issue(ir, &[word(ir, i64::from(now))]);
    }

    fn begin<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, arrivals: u32) {
        Instruction::MbarrierInit.issue(ir, &[stage.into(), word(ir, i64::from(arrivals))]);
    }

    fn begun(&self, ir: &Ir<'_>) {
        Instruction::MbarrierFence.issue(ir, &[]);
    }

    fn arrive_at(&self, ir: &Ir<'_>, id: u8, count: u32) {
        Instruction::ThreadsArrive.issue(ir, &[word(ir, i64::from(id)), word(ir, i64::from(count))]);
    }

    fn arrive<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, bytes: Option<Value<'c>>) {
        match bytes {
            Some(bytes) => Instruction::MbarrierExpect.issue(ir, &[stage.into(), bytes]),
            None => Instruction::MbarrierArrive.issue(ir, &[stage.into(), word(ir, 1)]),
        };
    }

    fn arrive_in_block<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, block: Value<'c>) {
        let there = Instruction::OfBlock.value(ir, &[stage.into(), block]);
        Instruction::MbarrierArriveInBlock.issue(ir, &[there, word(ir, 1)]);
    }

    /// One of the arrivals that the phase needs: without `noinc` it would need one more for it.
    fn arrive_copied<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>) {
        Instruction::MbarrierCopied.issue(ir, &[stage.into()]);
    }

    /// As a block of a cluster of one: that form is the older one.
    fn bulk_copy<'c>(&self, ir: &Ir<'c>, to: Pointer<'c>, from: Pointer<'c>, bytes: u32, stage: Pointer<'c>) {
        let to = ir.cast(Op::AddrSpaceCast, to.into(), ir.pointer(CLUSTER));
        let [all, hint, no] = [16, 64, 1].map(|bits| ir.constant(ir.int(bits), 0));
        Instruction::BulkCopy.issue(ir, &[to, stage.into(), from.into(), word(ir, i64::from(bytes)), all, hint, no, no]);
    }

    /// Indices go innermost first.
    fn tile_copy<'c>(
        &self,
        ir: &Ir<'c>,
        to: Pointer<'c>,
        (map, [outer, row, column]): (Pointer<'c>, [Value<'c>; 3]),
        stage: Pointer<'c>,
        blocks: Option<u16>,
    ) {
        let [all, hint, no] = [16, 64, 1].map(|bits| ir.constant(ir.int(bits), 0));
        if let (Some(copy), None) = (self.able(Instruction::TileCopyInBlock), blocks) {
            copy.issue(ir, &[to.into(), stage.into(), map.into(), column, row, outer, hint, no]);
            return;
        }
        let to = ir.cast(Op::AddrSpaceCast, to.into(), ir.pointer(CLUSTER));
        let to_blocks = ir.constant(ir.int(1), i64::from(blocks.is_some()));
        let all = blocks.map_or(all, |blocks| ir.constant(ir.int(16), i64::from(blocks)));
        let end = [all, hint, to_blocks, no, word(ir, 0)];
        let begin = [to, stage.into(), map.into(), column, row, outer];
        Instruction::TileCopy.issue(ir, &begin.into_iter().chain(end).collect::<Vec<_>>());
    }

    fn prefetch_map<'c>(&self, ir: &Ir<'c>, map: Pointer<'c>) {
        Instruction::MapPrefetch.issue(ir, &[ir.cast(Op::AddrSpaceCast, map.into(), ir.pointer(PARAM))]);
    }

    /// Indices go innermost first.
    fn tile_store<'c>(&self, ir: &Ir<'c>, (map, [outer, row, column]): (Pointer<'c>, [Value<'c>; 3]), from: Pointer<'c>) {
        let [hint, no] = [64, 1].map(|bits| ir.constant(ir.int(bits), 0));
        Instruction::TileStore.issue(ir, &[from.into(), map.into(), column, row, outer, hint, no]);
        // Without the end of its group it might not begin.
        Instruction::StoresCommit.issue(ir, &[]);
    }

    fn wait_stores(&self, ir: &Ir<'_>) {
        Instruction::StoresWait.issue(ir, &[word(ir, 0)]);
    }

    fn group_mma<'c>(&self, ir: &Ir<'c>, product: &GroupProduct<'c>, sums: &[Value<'c>]) -> Option<Vec<Value<'c>>> {
        self.has_groups().then(|| group::product(ir, product, sums)).flatten()
    }

    fn wait_products<'c>(&self, ir: &Ir<'c>, left: u32, sums: &[Value<'c>]) -> Option<Vec<Value<'c>>> {
        self.has_groups().then(|| group::wait(ir, left, sums))
    }

    fn fence(&self, ir: &Ir<'_>) -> Option<()> {
        self.able(Instruction::ProxyFence)?.issue(ir, &[]);
        Some(())
    }

    fn is_over<'c>(&self, ir: &Ir<'c>, stage: Pointer<'c>, parity: Value<'c>) -> Value<'c> {
        Instruction::MbarrierTry.value(ir, &[stage.into(), parity])
    }
}

fn word<'c>(ir: &Ir<'c>, n: i64) -> Value<'c> {
    ir.constant(ir.int(32), n)
}
