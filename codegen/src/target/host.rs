//! The CPU: a block is one turn of a loop around the body, and its one thread is the whole warp.
//! Linking the object is in `link`.

use inkwell::module::Linkage;
use moec_ir::kernel::{Extreme, Hint, Index, Kernel, ParamKind, Place, Scope, Unary, Vote};
use moec_ir::machine::{AARCH64, Architecture, CpuFeature, X86_64_V3, X86_64_V4, vector_bytes};
use moec_ir::{DType, Machine, MatrixShape};

use super::{Memory, Target, Warps};
use crate::emit::File;
use crate::llvm::{self, At, Function, IntPredicate, Ir, Op, Pointer, Value};
use crate::{Error, Image, link, lower};

/// A CPU with these features.
pub(crate) struct Host {
    pub(crate) architecture: Architecture,
    pub(crate) features: &'static [CpuFeature],
}

/// LLVM's names of models by the features that they have, those with most first; the last one is every CPU of the architecture.
fn models(architecture: Architecture) -> &'static [(&'static str, &'static [CpuFeature])] {
    match architecture {
        Architecture::X86_64 => &[("x86-64-v4", X86_64_V4), ("x86-64-v3", X86_64_V3), ("x86-64", &[])],
        Architecture::Aarch64 => &[("generic", AARCH64)],
    }
}

/// Alignment of a block's arrays: a cache line, and the widest register.
const SHARED_ALIGN: u32 = 64;

impl Host {
    /// The model with most features of those that the CPU has all of.
    fn model(&self) -> (&'static str, &'static [CpuFeature]) {
        let models = models(self.architecture);
        let has_all = |(_, of): &&(&str, &[CpuFeature])| of.iter().all(|feature| self.features.contains(feature));
        *models.iter().find(has_all).unwrap_or(&models[models.len() - 1])
    }

    fn mark<'c>(&self, ir: &Ir<'c>, function: Function<'c>) {
        ir.mark(function, At::Function, "nounwind");
        // A loop that copies or clears must stay a loop: there is no libc to call.
        ir.set(function, "no-builtins", "");
        ir.set(function, "prefer-vector-width", &(vector_bytes(self.features) * 8).to_string());
    }
}

impl Target for Host {
    fn triple(&self) -> &'static str {
        match self.architecture {
            Architecture::X86_64 => "x86_64-unknown-linux-gnu",
            Architecture::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    fn cpu(&self) -> &str {
        self.model().0
    }

    fn features(&self) -> String {
        let (_, of_model) = self.model();
        let others = self.features.iter().filter(|feature| !of_model.contains(feature));
        others.map(|feature| format!("+{}", feature.llvm())).collect::<Vec<_>>().join(",")
    }

    /// The schedule unrolls where a CPU gains by it; more of it doubled the time of compiling, and no kernel got faster.
    fn passes(&self) -> &'static str {
        "default<O3>"
    }

    fn file(&self) -> File {
        File::Object
    }

    fn image(&self, program: &str, written: Vec<u8>) -> Result<Image, Error> {
        link::shared_object(program, &written).map(Image::SharedObject)
    }

    /// The body is a function of its own, inlined into the loop: as parameters, its arrays can be `noalias`.
    fn declare<'c>(&self, ir: &Ir<'c>, kernel: &Kernel, alone: &[bool]) -> Function<'c> {
        let mut params = lower::params(ir, kernel, ir.pointer(0));
        params.push(("block", ir.int(32)));
        let body = ir.function(&format!("{}.body", ir.symbol(&kernel.name)), &params);
        body.set_linkage(Linkage::Internal);
        ir.mark(body, At::Function, "alwaysinline");
        self.mark(ir, body);
        lower::mark_params(ir, kernel, alone, body);
        body
    }

    /// `void symbol(const uint64_t *args, uint64_t block_begin, uint64_t block_end)`
    fn finish<'c>(&self, ir: &Ir<'c>, kernel: &Kernel, body: Function<'c>) {
        let i64 = ir.int(64);
        let symbol = ir.function(&ir.symbol(&kernel.name), &[("args", ir.pointer(0)), ("block_begin", i64), ("block_end", i64)]);
        self.mark(ir, symbol);
        let params = symbol.get_params();
        let (args, begin, end) = (params[0].into_pointer_value(), params[1], params[2]);
        let (entry, test) = (ir.block(symbol, "entry"), ir.block(symbol, "blocks"));
        let (turn, done) = (ir.block(symbol, "block"), ir.block(symbol, "done"));

        ir.at(entry);
        let mut values = Vec::new();
        for (i, param) in kernel.params.iter().enumerate() {
            let slot = ir.element(i64, args, ir.constant(i64, i as i64));
            let ty = match param.kind {
                ParamKind::Buffer { .. } | ParamKind::TensorMap(_) => ir.pointer(0),
                ParamKind::Scalar(elem) => lower::elem(ir, elem),
            };
            values.push(ir.load(ty, slot, 8, &param.name));
        }
        ir.jump(test);

        ir.at(test);
        let block = ir.phi(i64, "block");
        let block_value = block.as_basic_value();
        ir.branch(ir.int_compare(IntPredicate::ULT, block_value, end), turn, done);

        ir.at(turn);
        values.push(ir.cast(Op::Trunc, block_value, ir.int(32)));
        ir.call(body, &values);
        let next = ir.binary(Op::Add, block_value, ir.constant(i64, 1));
        ir.jump(test);
        block.add_incoming(&[(&begin, entry), (&next, turn)]);

        ir.at(done);
        ir.ret();
    }

    fn memory<'c>(&self, ir: &Ir<'c>, _: &Machine, kernel: &Kernel, function: Function<'c>) -> Memory<'c> {
        let arrays = kernel.shared.iter().map(|(_, shared)| {
            let ty = llvm::array(lower::elem(ir, shared.elem), shared.len);
            ir.variable(function, ty, shared.align.max(SHARED_ALIGN), &shared.name)
        });
        Memory { arrays: arrays.collect(), mbarriers: Vec::new() }
    }

    fn index<'c>(&self, ir: &Ir<'c>, function: Function<'c>, index: Index) -> Value<'c> {
        match (index, function.get_last_param()) {
            (Index::Block, Some(block)) => block,
            (Index::Block, None) | (Index::Thread, _) => ir.constant(ir.int(32), 0),
        }
    }

    fn barrier(&self, _: &Ir<'_>, _: Scope) {}

    fn shuffle<'c>(&self, _: &Ir<'c>, _: DType, value: Value<'c>, _: u32) -> Value<'c> {
        value
    }

    fn vote<'c>(&self, ir: &Ir<'c>, vote: Vote, value: Value<'c>) -> Value<'c> {
        match vote {
            Vote::Any | Vote::All => value,
            Vote::Ballot => ir.cast(Op::ZExt, value, ir.int(32)),
        }
    }

    fn redux<'c>(&self, _: &Ir<'c>, _: Extreme, value: Value<'c>) -> Value<'c> {
        value
    }

    /// To the second cache, for reading: what is asked for early enough would leave the first before it is read.
    fn prefetch<'c>(&self, ir: &Ir<'c>, at: Pointer<'c>) {
        let [read, second, data] = [0, 2, 1].map(|n| ir.constant(ir.int(32), n));
        ir.intrinsic("llvm.prefetch", &[at.get_type().into()], &[at.into(), read, second, data]);
    }

    /// Loads that go past the caches gain nothing on memory that is cached.
    fn hinted_load<'c>(&self, _: &Ir<'c>, _: (DType, u32), _: Pointer<'c>, _: u32, _: Hint, _: bool) -> Option<Value<'c>> {
        None
    }

    fn warps(&self) -> Option<&dyn Warps> {
        None
    }

    fn atomic_scope(&self, _: Place) -> Option<&'static str> {
        None
    }

    /// By registers of 16 lanes, 8 or 4, on Arm of 4; fewer lanes are padded. Arm's instruction rounds other sums, and otherwise, than the
    /// definition does: see [`moec_ir::kernel::Expr::Dot`].
    fn dot<'c>(&self, ir: &Ir<'c>, acc: Value<'c>, a: Value<'c>, b: Value<'c>) -> Option<Value<'c>> {
        let has = |feature| self.features.contains(&feature);
        let n = llvm::lanes(acc);
        let width = match self.architecture {
            Architecture::X86_64 if has(CpuFeature::Avx512Bf16) => n.clamp(4, 16),
            Architecture::Aarch64 if has(CpuFeature::Bf16) => 4,
            Architecture::X86_64 | Architecture::Aarch64 => return None,
        };
        let mut parts: Vec<_> = (0..n.div_ceil(width))
            .map(|part| {
                let acc = slice(ir, acc, part * width, width);
                let bf16 = |v| ir.cast(Op::BitCast, slice(ir, v, part * width * 2, width * 2), ir.lanes_of(ir.bf16(), width * 2));
                let (a, b) = (bf16(a), bf16(b));
                match self.architecture {
                    Architecture::X86_64 => {
                        ir.value_of(&format!("llvm.x86.avx512bf16.dpbf16ps.{}", width * 32), &[], &[acc, a, b])
                    }
                    Architecture::Aarch64 => {
                        ir.value_of("llvm.aarch64.neon.bfdot", &[acc.get_type(), a.get_type()], &[acc, a, b])
                    }
                }
            })
            .collect();
        while parts.len() > 1 {
            parts = parts.chunks(2).map(|two| ir.concat(two[0], two[1])).collect();
        }
        Some(if n == 1 { ir.extract(parts[0], 0) } else { slice(ir, parts[0], 0, n) })
    }

    fn to_bf16<'c>(&self, _: &Ir<'c>, _: Value<'c>) -> Option<Value<'c>> {
        None
    }

    fn copy<'c>(&self, _: &Ir<'c>, _: [Pointer<'c>; 2], _: u32, _: Option<Value<'c>>) -> Option<()> {
        None
    }

    fn commit(&self, _: &Ir<'_>) -> Option<()> {
        None
    }

    fn wait(&self, _: &Ir<'_>, _: u32) -> Option<()> {
        None
    }

    fn wait_launches(&self, _: &Ir<'_>) -> Option<()> {
        None
    }

    fn allow_next(&self, _: &Ir<'_>) -> Option<()> {
        None
    }

    fn own_unary<'c>(&self, _: &Ir<'c>, _: Unary, _: Value<'c>) -> Option<Value<'c>> {
        None
    }

    fn store_matrix<'c>(&self, _: &Ir<'c>, _: Pointer<'c>, _: &[Value<'c>], _: bool) -> Option<()> {
        None
    }

    fn load_matrix<'c>(&self, _: &Ir<'c>, _: Pointer<'c>, _: usize, _: bool) -> Option<Vec<Value<'c>>> {
        None
    }

    fn mma<'c>(
        &self,
        _: &Ir<'c>,
        _: (MatrixShape, DType),
        _: &[Value<'c>],
        _: &[Value<'c>],
        _: &[Value<'c>],
    ) -> Option<Vec<Value<'c>>> {
        None
    }
}

/// Lanes `start..start + len` of a vector (or a scalar, as its only lane); those that it lacks repeat its last one.
fn slice<'c>(ir: &Ir<'c>, v: Value<'c>, start: u32, len: u32) -> Value<'c> {
    let n = llvm::lanes(v);
    if n == 1 {
        return ir.splat(len, v);
    }
    if start == 0 && len == n {
        return v;
    }
    let places: Vec<u32> = (start..start + len).map(|i| i.min(n - 1)).collect();
    ir.pick(v, v, &places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(features: &'static [CpuFeature]) -> (String, String) {
        asked_of(Architecture::X86_64, features)
    }

    fn asked_of(architecture: Architecture, features: &'static [CpuFeature]) -> (String, String) {
        let host = Host { architecture, features };
        (host.cpu().to_string(), host.features())
    }

    #[test]
    fn models_and_features_of_llvm() {
        use CpuFeature::*;
        let pair = |cpu: &str, features: &str| (cpu.to_string(), features.to_string());
        assert_eq!(asked(X86_64_V3), pair("x86-64-v3", ""));
        assert_eq!(asked(X86_64_V4), pair("x86-64-v4", ""));
        assert_eq!(asked(&[Avx2, Bmi1, Fma]), pair("x86-64", "+avx2,+bmi,+fma"));
        let client = [Avx2, Bmi1, Bmi2, F16c, Fma, Lzcnt, Movbe, AvxVnni];
        assert_eq!(asked(Box::leak(Box::new(client))), pair("x86-64-v3", "+avxvnni"));
        let server = [X86_64_V4, &[Avx512Bf16, Avx512Vnni, AmxTile, AmxBf16, AmxInt8]].concat();
        assert_eq!(asked(server.leak()), pair("x86-64-v4", "+avx512bf16,+avx512vnni,+amx-tile,+amx-bf16,+amx-int8"));
        assert_eq!(asked_of(Architecture::Aarch64, AARCH64), pair("generic", ""));
        assert_eq!(asked_of(Architecture::Aarch64, &[Neon, Bf16]), pair("generic", "+bf16"));
    }
}
