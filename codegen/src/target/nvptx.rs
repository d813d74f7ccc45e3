//! NVIDIA GPUs: a kernel is a PTX entry, a block's arrays are static shared memory, lanes talk by intrinsics.
//! Assembling the PTX is in `ptxas`.

use inkwell::module::Linkage;
use moec_ir::DType;
use moec_ir::kernel::{Index, Kernel, Place, Scope, Shared, Vote};

use super::Target;
use crate::emit::File;
use crate::llvm::{self, At, Function, Ir, Pointer, Type, Value};
use crate::{Error, Image, lower};

/// A GPU architecture and the least PTX version that knows it.
pub(crate) struct Nvptx {
    pub(crate) name: &'static str,
    /// Times ten.
    pub(crate) ptx: u32,
}

/// LLVM's `ptx_kernel`.
const PTX_KERNEL: u32 = 71;
/// LLVM's address spaces for NVPTX.
const GLOBAL: u16 = 1;
const SHARED: u16 = 3;
/// Alignment of shared arrays: the widest access.
const SHARED_ALIGN: u32 = 16;
/// Every lane of the warp.
const ALL_LANES: i64 = -1;
/// `shfl.sync`'s clamp and segment mask for a butterfly over the whole warp.
const WHOLE_WARP: i64 = 0x1f;

/// The instructions that LLVM has no word of its own for.
#[derive(Clone, Copy, Debug)]
enum Instruction {
    ThreadIndex,
    BlockIndex,
    BlockBarrier,
    WarpBarrier,
    ShuffleInt,
    ShuffleFloat,
    VoteAny,
    VoteAll,
    VoteBallot,
}

impl Instruction {
    /// LLVM's spelling, and the section of the PTX ISA that says what it does.
    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Instruction::ThreadIndex => ("llvm.nvvm.read.ptx.sreg.tid.x", "10.1 %tid"),
            Instruction::BlockIndex => ("llvm.nvvm.read.ptx.sreg.ctaid.x", "10.6 %ctaid"),
            Instruction::BlockBarrier => ("llvm.nvvm.barrier.cta.sync.aligned.all", "9.7.13.1 bar.sync"),
            Instruction::WarpBarrier => ("llvm.nvvm.bar.warp.sync", "9.7.13.2 bar.warp.sync"),
            Instruction::ShuffleInt => ("llvm.nvvm.shfl.sync.bfly.i32", "9.7.9.6 shfl.sync"),
            Instruction::ShuffleFloat => ("llvm.nvvm.shfl.sync.bfly.f32", "9.7.9.6 shfl.sync"),
            Instruction::VoteAny => ("llvm.nvvm.vote.any.sync", "9.7.13.8 vote.sync"),
            Instruction::VoteAll => ("llvm.nvvm.vote.all.sync", "9.7.13.8 vote.sync"),
            Instruction::VoteBallot => ("llvm.nvvm.vote.ballot.sync", "9.7.13.8 vote.sync"),
        }
    }

    /// Issues it; gives its result if it has one.
    fn issue<'c>(self, ir: &Ir<'c>, args: &[Value<'c>]) -> Option<Value<'c>> {
        let (name, _section) = self.row();
        ir.intrinsic(name, &[], args)
    }

    /// Issues it for its result.
    fn value<'c>(self, ir: &Ir<'c>, args: &[Value<'c>]) -> Value<'c> {
        let (name, section) = self.row();
        self.issue(ir, args).unwrap_or_else(|| panic!("{name} ({section}) gives a value"))
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

    fn file(&self) -> File {
        File::Assembly
    }

    fn image(&self, _: &str, written: Vec<u8>) -> Result<Image, Error> {
        Ok(Image::Ptx(String::from_utf8_lossy(&written).into_owned()))
    }

    fn declare<'c>(&self, ir: &Ir<'c>, kernel: &Kernel) -> Function<'c> {
        let params = lower::params(ir, kernel, ir.pointer(GLOBAL));
        let function = ir.function(&kernel.name, &params);
        function.set_call_conventions(PTX_KERNEL);
        ir.mark(function, At::Function, "nounwind");
        ir.set(function, "nvvm.maxntid", &kernel.threads.to_string());
        // Without it ptxas aims at several blocks a processor, and spills registers that one block could have.
        ir.set(function, "nvvm.minctasm", "1");
        lower::mark_params(ir, kernel, function);
        function
    }

    fn finish<'c>(&self, _: &Ir<'c>, _: &Kernel, _: Function<'c>) {}

    fn shared<'c>(&self, ir: &Ir<'c>, kernel: &Kernel, _: Function<'c>, shared: &Shared, elem: Type<'c>) -> Pointer<'c> {
        let ty = llvm::array(elem, shared.len);
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = format!("{}_{}", kernel.name, shared.name).chars().map(plain).collect();
        let global = ir.module.add_global(ty, Some(SHARED.into()), &name);
        global.set_linkage(Linkage::Internal);
        global.set_initializer(&ty.into_array_type().get_undef());
        global.set_alignment(SHARED_ALIGN);
        global.as_pointer_value()
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

    fn atomic_scope(&self, place: Place) -> Option<&'static str> {
        match place {
            Place::Param(_) => Some("device"),
            Place::Shared(_) => Some("block"),
        }
    }

    fn dot<'c>(&self, _: &Ir<'c>, _: Value<'c>, _: Value<'c>, _: Value<'c>) -> Option<Value<'c>> {
        None
    }
}

fn word<'c>(ir: &Ir<'c>, n: i64) -> Value<'c> {
    ir.constant(ir.int(32), n)
}
