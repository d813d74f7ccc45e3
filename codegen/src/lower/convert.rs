//! The same number in another type, to the same bits on every machine (a NaN's payload apart).

use moec_ir::DType;

use crate::llvm::{FloatPredicate, Ir, Op, Value};
use crate::target::Target;

/// `a`, which is of type `from`, as `to`. The pairs that the IR has no cast for were refused when it was typed.
pub(super) fn cast<'c>(ir: &Ir<'c>, target: &dyn Target, from: DType, to: DType, a: Value<'c>) -> Value<'c> {
    use DType::{BF16, Bool, F16, F32, I32, I64};
    let ty = ir.shaped(super::elem(ir, to), a);
    match (from, to) {
        (Bool, Bool) | (I32, I32) | (I64, I64) | (F16, F16) | (BF16, BF16) | (F32, F32) => a,
        (Bool, I32 | I64) => ir.cast(Op::ZExt, a, ty),
        (I32, I64) => ir.cast(Op::SExt, a, ty),
        (I64, I32) => ir.cast(Op::Trunc, a, ty),
        (I32 | I64, F32) => ir.cast(Op::SIToFP, a, ty),
        (F32, I32 | I64) => ir.value_of("llvm.fptosi.sat", &[ty, a.get_type()], &[a]),
        (F16, F32) => ir.cast(Op::FPExt, ir.cast(Op::BitCast, a, ir.shaped(ir.f16(), a)), ty),
        (F32, F16) => ir.cast(Op::BitCast, ir.cast(Op::FPTrunc, a, ir.shaped(ir.f16(), a)), ty),
        (BF16, F32) => widen(ir, a),
        (F32, BF16) => target.to_bf16(ir, a).unwrap_or_else(|| narrow(ir, a)),
        (Bool | I32 | I64 | F16 | BF16, F16 | BF16)
        | (Bool, F32)
        | (F16 | BF16, I32 | I64)
        | (I32 | I64 | F16 | BF16 | F32, Bool) => {
            unreachable!("`infer` refuses to cast {from} to {to}")
        }
    }
}

/// bf16 is the upper half of f32.
fn widen<'c>(ir: &Ir<'c>, a: Value<'c>) -> Value<'c> {
    let word = ir.shaped(ir.int(32), a);
    let bits = ir.binary(Op::Shl, ir.cast(Op::ZExt, a, word), ir.constant(word, 16));
    ir.cast(Op::BitCast, bits, ir.shaped(ir.f32(), a))
}

/// To the nearest, ties to even, subnormals kept; a NaN stays one, quietly. By integer arithmetic: the instruction that x86 has for
/// it flushes subnormals.
fn narrow<'c>(ir: &Ir<'c>, a: Value<'c>) -> Value<'c> {
    let word = ir.shaped(ir.int(32), a);
    let number = |n| ir.constant(word, n);
    let bits = ir.cast(Op::BitCast, a, word);
    let upper = ir.binary(Op::LShr, bits, number(16));
    let odd = ir.binary(Op::And, upper, number(1));
    let up = ir.binary(Op::Add, bits, ir.binary(Op::Add, odd, number(0x7fff)));
    let rounded = ir.binary(Op::LShr, up, number(16));
    let quiet = ir.binary(Op::Or, upper, number(0x40));
    let is_nan = ir.float_compare(FloatPredicate::UNO, a, a);
    ir.cast(Op::Trunc, ir.select(is_nan, quiet, rounded), ir.shaped(ir.int(16), a))
}
