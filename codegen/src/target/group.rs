//! `wgmma` of sm_90a as text: LLVM has no intrinsic for it. Each product is one piece of text, so that LLVM puts nothing between its
//! fence and its instructions.

use std::fmt::Write;

use moec_ir::DType;
use moec_ir::kernel::panels::STEP;
use moec_ir::kernel::{Panels, Swizzle};

use super::{GroupFactor, GroupProduct};
use crate::llvm::{Ir, Op, Pointer, Value};

/// Of a wait for all.
const WAIT_ALL: &str = "wgmma.wait_group.sync.aligned 0;\n";

/// PTX ISA 9.7.15.5.2. The operands: the sums, in and out, then the left factor and the right one of each step.
pub(super) fn product<'c>(ir: &Ir<'c>, of: &GroupProduct<'c>, sums: &[Value<'c>]) -> Option<Vec<Value<'c>>> {
    let elem = match of.elem {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::Bool | DType::I32 | DType::I64 | DType::F32 => return None,
    };
    let (n, columns) = (sums.len(), of.columns);
    let list = |from: usize, len: usize| (from..from + len).map(|i| format!("${i}")).collect::<Vec<_>>().join(", ");
    let (right, right_panels) = of.right;
    let (mut args, mut constraints) = (Vec::new(), Vec::new());
    let mut text = "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\nwgmma.fence.sync.aligned;\n".to_string();
    for step in 0..of.steps {
        let mut operand = |value: Value<'c>, constraint: &'static str| {
            args.push(value);
            constraints.push(constraint);
            2 * n + args.len() - 1
        };
        let (left, across_left) = match &of.left {
            GroupFactor::Shared(at, panels) => {
                let place = operand(descriptor(ir, *at, panels, step), "l");
                (format!("${place}"), Some(panels.transposed))
            }
            GroupFactor::Pairs(pairs) => {
                let pairs = pairs.iter().skip(4 * step as usize).take(4);
                let places: Vec<usize> = pairs.map(|pair| operand(ir.cast(Op::BitCast, *pair, ir.int(32)), "r")).collect();
                (format!("{{{}}}", list(places[0], places.len())), None)
            }
        };
        let right = operand(descriptor(ir, right, &right_panels, step), "l");
        let across = across_left.into_iter().chain([right_panels.transposed]).map(|across| format!(", {}", u8::from(across)));
        let _ = writeln!(
            text,
            "wgmma.mma_async.sync.aligned.m64n{columns}k{STEP}.f32.{elem}.{elem} {{{}}}, {left}, ${right}, p, 1, 1{};",
            list(0, n),
            across.collect::<String>()
        );
    }
    text += "wgmma.commit_group.sync.aligned;\n";
    if matches!(of.left, GroupFactor::Pairs(_)) {
        // LLVM does not know that registers are read until then, and may use them for something else.
        text += WAIT_ALL;
    }
    Some(passing(ir, &(text + "}"), sums, &args, &constraints))
}

/// PTX ISA 9.7.15.7.3.
pub(super) fn wait<'c>(ir: &Ir<'c>, left: u32, sums: &[Value<'c>]) -> Vec<Value<'c>> {
    passing(ir, &format!("wgmma.wait_group.sync.aligned {left};"), sums, &[], &[])
}

/// Text that changes these sums, and reads and writes memory.
fn passing<'c>(ir: &Ir<'c>, text: &str, sums: &[Value<'c>], args: &[Value<'c>], of_args: &[&str]) -> Vec<Value<'c>> {
    let outputs = sums.iter().map(|_| "=f".to_string());
    let inputs = (0..sums.len()).map(|i| i.to_string());
    let rest = of_args.iter().map(ToString::to_string).chain(["~{memory}".to_string()]);
    let constraints: Vec<String> = outputs.chain(inputs).chain(rest).collect();
    let args: Vec<Value<'c>> = sums.iter().chain(args).copied().collect();
    ir.assembly_of_warps(text, &constraints.join(","), &vec![ir.f32(); sums.len()], &args)
}

/// A matrix descriptor of shared memory, of a factor from this step on: PTX ISA 9.7.15.5.1.2.
fn descriptor<'c>(ir: &Ir<'c>, at: Pointer<'c>, of: &Panels, step: u32) -> Value<'c> {
    let line = u64::from(of.line_bytes());
    let eight_lines = 8 * line;
    // Along k: from one unit of 16 bytes to the next without a swizzle, from 8 rows to the next. Across k: from a panel to the next,
    // from 8 k to the next; without a swizzle the other way round.
    let (leading, stride) = match (of.transposed, of.swizzle) {
        (false, Swizzle::None) => (of.panel_bytes(), eight_lines),
        (false, Swizzle::Bytes32 | Swizzle::Bytes64 | Swizzle::Bytes128) => (0, eight_lines),
        (true, Swizzle::None) => (eight_lines, of.panel_bytes()),
        (true, Swizzle::Bytes32 | Swizzle::Bytes64 | Swizzle::Bytes128) => (of.panel_bytes(), eight_lines),
    };
    let mode: u64 = match of.swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes128 => 1,
        Swizzle::Bytes64 => 2,
        Swizzle::Bytes32 => 3,
    };
    let units = |bytes: u64| bytes >> 4 & 0x3fff;
    let fixed = units(leading) << 16 | units(stride) << 32 | mode << 62;
    let long = |n: u64| ir.constant(ir.int(64), n as i64);
    let begins = ir.cast(Op::PtrToInt, at.into(), ir.int(64));
    let begins = ir.binary(Op::And, ir.binary(Op::LShr, begins, long(4)), long(0x3fff));
    // Steps are added last, so that they have the rest together: the 14 bits of where a factor begins name all of a block's memory.
    let first = ir.binary(Op::Or, begins, long(fixed));
    ir.binary(Op::Add, first, long(of.byte(0, STEP * step) >> 4))
}
