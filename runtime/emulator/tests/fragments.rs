//! Every element type of `mma`, and every layout of `wgmma`'s operands in shared memory.
//!
//! The layouts are written down here a second time, from PTX ISA 9.7.14.5 and from CUTLASS's canonical forms
//! (cute/arch/mma_sm90_desc.hpp), so that the crate is not compared with itself.

#![allow(clippy::unwrap_used)]

use ptx_emulator::{Arg, Fill, Launch, Memory, Numerics, Options, launch, parse};

/// A small whole number for each element.
fn a(row: usize, k: usize) -> i32 {
    (row * 5 + k * 3) as i32 % 7 - 3
}

fn b(column: usize, k: usize) -> i32 {
    (column * 2 + k * 7) as i32 % 5 - 2
}

fn expected(row: usize, column: usize, depth: usize) -> i32 {
    (0..depth).map(|k| a(row, k) * b(column, k)).sum()
}

/// The bits of a small whole number in each type.
fn bits(ty: &str, value: i32) -> u32 {
    let float = (value as f32).to_bits();
    let (sign, magnitude) = (float >> 31, value.unsigned_abs());
    // Exponent and leading fraction bits of 0, 1, 2, 3.
    let small = |bias: u32, fraction: u32, width: u32| match magnitude {
        0 => sign << (width - 1),
        1 => sign << (width - 1) | bias << fraction,
        2 => sign << (width - 1) | (bias + 1) << fraction,
        _ => sign << (width - 1) | (bias + 1) << fraction | 1 << (fraction - 1),
    };
    match ty {
        "bf16" => float >> 16,
        "tf32" => float,
        "f16" => small(15, 10, 16),
        "e4m3" => small(7, 3, 8),
        "e5m2" => small(15, 2, 8),
        _ => value as u32 & 0xff,
    }
}

fn run(text: &str, x: &[u8], out: u64, threads: u32, numerics: Numerics) -> Vec<u32> {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let x = memory.upload("x", x).unwrap();
    let y = memory.alloc("y", out, Fill::Uninitialised(0)).unwrap();
    let args = module.entries[0].pack(&memory, &[Arg::Buffer(x), Arg::Buffer(y)]).unwrap();
    let shape = Launch { grid: [1, 1, 1], block: [threads, 1, 1], shared_bytes: 0, early: false, args };
    let report = launch(&module, "k", &shape, &mut memory, &Options { numerics, ..Options::default() }).unwrap();
    assert!(report.clean(), "{report}");
    let bytes = memory.content(y).unwrap();
    bytes.chunks_exact(4).map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

const HEAD: &str = ".version 8.4\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y)\n{\n\
    .reg .pred %p<4>; .reg .b32 %r<60>; .reg .b64 %d<20>; .shared .align 1024 .b8 tile[16384];\n\
    ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; mov.u32 %r1, %tid.x;\n";

#[test]
fn every_type_of_mma_is_exact() {
    let cases = [
        ("m16n8k16", "f16", "f32", 16),
        ("m16n8k8", "f16", "f32", 8),
        ("m16n8k16", "bf16", "f32", 16),
        ("m16n8k8", "tf32", "f32", 8),
        ("m16n8k4", "tf32", "f32", 4),
        ("m16n8k32", "e4m3", "f32", 32),
        ("m16n8k32", "e5m2", "f32", 32),
        ("m16n8k32", "s8", "s32", 32),
        ("m16n8k16", "f16", "f16", 16),
    ];
    for (shape, ty, result, depth) in cases {
        let width = match ty {
            "tf32" => 4,
            "f16" | "bf16" => 2,
            _ => 1,
        };
        let per = 4 / width;
        let (a_regs, b_regs) = (16 * depth * width / 128, 8 * depth * width / 128);
        let mut x = Vec::new();
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            for reg in 0..a_regs {
                // PTX ISA: registers alternate between the upper and the lower 8 rows, then move along k.
                let row = group + if reg % 2 == 1 { 8 } else { 0 };
                let word = (0..per)
                    .fold(0, |word, e| word | bits(ty, a(row, thread * per + e + (reg / 2) * 4 * per)) << (8 * width * e));
                x.extend(word.to_le_bytes());
            }
            for reg in 0..b_regs {
                let word =
                    (0..per).fold(0, |word, e| word | bits(ty, b(group, thread * per + e + reg * 4 * per)) << (8 * width * e));
                x.extend(word.to_le_bytes());
            }
        }
        let regs =
            |first: usize, count: usize| (first..first + count).map(|reg| format!("%r{reg}")).collect::<Vec<_>>().join(", ");
        let d_regs = if result == "f16" { 2 } else { 4 };
        let mut text = format!("{HEAD}mul.wide.u32 %d3, %r1, {}; add.s64 %d4, %d1, %d3;\n", 4 * (a_regs + b_regs));
        for reg in 0..a_regs + b_regs {
            text += &format!("ld.global.b32 %r{}, [%d4+{}];\n", 10 + reg, 4 * reg);
        }
        for reg in 0..d_regs {
            text += &format!("mov.b32 %r{}, 0;\n", 40 + reg);
        }
        text += &format!(
            "mma.sync.aligned.{shape}.row.col.{result}.{ty}.{ty}.{result} {{{0}}}, {{{1}}}, {{{2}}}, {{{0}}};\n",
            regs(40, d_regs),
            regs(10, a_regs),
            regs(10 + a_regs, b_regs)
        );
        text += &format!("mul.wide.u32 %d5, %r1, {}; add.s64 %d6, %d2, %d5;\n", 4 * d_regs);
        for reg in 0..d_regs {
            text += &format!("st.global.b32 [%d6+{}], %r{};\n", 4 * reg, 40 + reg);
        }
        text += "ret;\n}\n";
        for numerics in [Numerics::Plain, Numerics::Ampere, Numerics::Hopper] {
            let found = run(&text, &x, 128 * d_regs as u64, 32, numerics);
            for lane in 0..32 {
                for index in 0..4 {
                    let (row, column) = (lane / 4 + 8 * (index / 2), 2 * (lane % 4) + index % 2);
                    let value = expected(row, column, depth);
                    let (word, wanted) = match result {
                        "s32" => (found[lane * 4 + index], value as u32),
                        "f32" => (found[lane * 4 + index], (value as f32).to_bits()),
                        _ => {
                            let half = found[lane * 2 + index / 2] >> (16 * (index % 2)) & 0xffff;
                            let leading = 31 - value.unsigned_abs().max(1).leading_zeros();
                            let fraction = (value.unsigned_abs() << (10 - leading)) & 0x3ff;
                            let sign = u32::from(value < 0) << 15;
                            (half, if value == 0 { 0 } else { sign | (15 + leading) << 10 | fraction })
                        }
                    };
                    assert_eq!(word, wanted, "{shape} {ty} {result} {numerics:?} [{row}, {column}]");
                }
            }
        }
    }
}

/// Where element (row, k) of an operand of 2-byte elements lies, before swizzling.
fn offset(row: usize, k: usize, span: usize, across: bool, leading: usize, stride: usize) -> usize {
    match (span, across) {
        // ((8, m), (T, 2)) : ((1T, SBO), (1, LBO))
        (0, false) => row % 8 * 16 + row / 8 * stride + k % 8 * 2 + k / 8 * leading,
        (_, false) => row % 8 * span + row / 8 * stride + k * 2,
        // ((T, 1, m), (8, k)) : ((1, T, SBO), (1T, LBO))
        (0, true) => row % 8 * 2 + row / 8 * stride + k % 8 * 16 + k / 8 * leading,
        // ((T, s, m), (8, k)) : ((1, T, LBO), (sT, SBO))
        (_, true) => row % (span / 2) * 2 + row / (span / 2) * leading + k % 8 * span + k / 8 * stride,
    }
}

fn swizzled(offset: usize, span: usize) -> usize {
    match span {
        32 => offset ^ (offset >> 7 & 1) << 4,
        64 => offset ^ (offset >> 7 & 3) << 4,
        128 => offset ^ (offset >> 7 & 7) << 4,
        _ => offset,
    }
}

#[test]
fn every_layout_of_wgmma_is_exact() {
    for (span, code) in [(0, 0_u64), (32, 3), (64, 2), (128, 1)] {
        for (across_a, across_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let n = 64;
            let strides = |across: bool| match (span, across) {
                (0, _) => (128, 256),
                (_, false) => (16, 8 * span),
                (_, true) => (16 * span, 8 * span),
            };
            let mut x = vec![0; 16384];
            let mut place = |base: usize, across: bool, ty: fn(usize, usize) -> i32| {
                let (leading, stride) = strides(across);
                for row in 0..64 {
                    for k in 0..16 {
                        let at = base + swizzled(offset(row, k, span, across, leading, stride), span);
                        x[at..at + 2].copy_from_slice(&(bits("bf16", ty(row, k)) as u16).to_le_bytes());
                    }
                }
                code << 62 | (stride as u64 >> 4) << 32 | (leading as u64 >> 4) << 16 | base as u64 >> 4
            };
            let (desc_a, desc_b) = (place(0, across_a, a), place(8192, across_b, b));
            let acc = (10..42).map(|reg| format!("%r{reg}")).collect::<Vec<_>>().join(", ");
            let mut text = format!("{HEAD}shl.b32 %r2, %r1, 7; cvt.u64.u32 %d3, %r2; add.s64 %d4, %d1, %d3;\n");
            text += "mov.u32 %r3, tile; add.u32 %r4, %r3, %r2;\n";
            for part in 0..8 {
                text += &format!(
                    "ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%d4+{0}]; st.shared.v4.b32 [%r4+{0}], {{%r5, %r6, %r7, %r8}};\n",
                    16 * part
                );
            }
            text += "fence.proxy.async.shared::cta;\nbar.sync 0;\nsetp.ne.u32 %p1, %r1, %r1;\n";
            text += "wgmma.fence.sync.aligned;\n";
            text += &format!(
                "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{acc}}}, {desc_a}, {desc_b}, %p1, 1, 1, {}, {};\n",
                u8::from(across_a),
                u8::from(across_b)
            );
            text += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
            text += "cvt.u64.u32 %d5, %r2; add.s64 %d6, %d2, %d5;\n";
            for reg in 0..32 {
                text += &format!("st.global.b32 [%d6+{}], %r{};\n", 4 * reg, 10 + reg);
            }
            text += "ret;\n}\n";
            let found = run(&text, &x, 16384, 128, Numerics::Plain);
            for thread in 0..128 {
                for index in 0..n / 2 {
                    let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (index / 2 % 2);
                    let column = 8 * (index / 4) + 2 * (thread % 4) + index % 2;
                    let wanted = (expected(row, column, 16) as f32).to_bits();
                    assert_eq!(
                        found[thread * 32 + index],
                        wanted,
                        "swizzle {span}, transposed {across_a} {across_b}, [{row}, {column}]"
                    );
                }
            }
        }
    }
}

/// All types, with A from shared memory and from registers; k contiguous, no swizzle.
#[test]
fn every_type_of_wgmma_is_exact() {
    let cases =
        [("bf16", 2, "f32"), ("f16", 2, "f32"), ("tf32", 4, "f32"), ("e4m3", 1, "f32"), ("e5m2", 1, "f32"), ("s8", 1, "s32")];
    for (ty, width, result) in cases {
        let (depth, per) = (32 / width, 4 / width);
        let lie = |row: usize, k: usize| row % 8 * 16 + row / 8 * 256 + k * width % 16 + k * width / 16 * 128;
        let mut x = vec![0; 16384];
        for row in 0..64 {
            for k in 0..depth {
                for (base, value) in [(0, a(row, k)), (2048, b(row, k))] {
                    let at = base + lie(row, k);
                    x[at..at + width].copy_from_slice(&bits(ty, value).to_le_bytes()[..width]);
                }
            }
        }
        for thread in 0..128 {
            for reg in 0..4 {
                let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (reg % 2);
                let word = (0..per)
                    .fold(0, |word, e| word | bits(ty, a(row, thread % 4 * per + e + reg / 2 * 4 * per)) << (8 * width * e));
                let at = 4096 + 16 * thread + 4 * reg;
                x[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        let desc = |base: u64| (256 >> 4) << 32 | (128 >> 4) << 16 | base >> 4;
        for in_registers in [false, true] {
            let acc = (10..18).map(|reg| format!("%r{reg}")).collect::<Vec<_>>().join(", ");
            let mut text = format!("{HEAD}shl.b32 %r2, %r1, 7; cvt.u64.u32 %d3, %r2; add.s64 %d4, %d1, %d3;\n");
            text += "mov.u32 %r3, tile; add.u32 %r4, %r3, %r2;\n";
            for part in 0..8 {
                text += &format!(
                    "ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%d4+{0}]; st.shared.v4.b32 [%r4+{0}], {{%r5, %r6, %r7, %r8}};\n",
                    16 * part
                );
            }
            text += "mul.wide.u32 %d7, %r1, 16; add.s64 %d8, %d1, %d7; ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%d8+4096];\n";
            text += "fence.proxy.async;\nbar.sync 0;\nsetp.ne.u32 %p1, %r1, %r1;\nwgmma.fence.sync.aligned;\n";
            let first = if in_registers { "{%r5, %r6, %r7, %r8}".to_owned() } else { desc(0).to_string() };
            let tail = match (width, ty, in_registers) {
                (2, _, true) => ", 1, 1, 0",
                (2, _, false) => ", 1, 1, 0, 0",
                (_, "s8", _) => "",
                _ => ", 1, 1",
            };
            text += &format!(
                "wgmma.mma_async.sync.aligned.m64n16k{depth}.{result}.{ty}.{ty} {{{acc}}}, {first}, {}, %p1{tail};\n",
                desc(2048)
            );
            text += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
            text += "mul.wide.u32 %d5, %r1, 32; add.s64 %d6, %d2, %d5;\n";
            for reg in 0..8 {
                text += &format!("st.global.b32 [%d6+{}], %r{};\n", 4 * reg, 10 + reg);
            }
            text += "ret;\n}\n";
            for numerics in [Numerics::Plain, Numerics::Hopper] {
                let found = run(&text, &x, 4096, 128, numerics);
                for thread in 0..128 {
                    for index in 0..8 {
                        let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (index / 2 % 2);
                        let column = 8 * (index / 4) + 2 * (thread % 4) + index % 2;
                        let value = expected(row, column, depth);
                        let wanted = if result == "s32" { value as u32 } else { (value as f32).to_bits() };
                        assert_eq!(found[thread * 8 + index], wanted, "{ty} {in_registers} {numerics:?} [{row}, {column}]");
                    }
                }
            }
        }
    }
}
