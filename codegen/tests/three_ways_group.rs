//! As `three_ways`, of products of four warps.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::program;
use crate::three_ways::Given::{self, Bytes, Map, Unwritten};
use crate::three_ways::{check, emulated, read};
use moec_codegen::{Options, assembly, codegen};
use moec_ir::Machine;
use moec_ir::kernel::{Swizzle, Tensor};
use ptx_emulator::{FindingKind, Schedule};

/// Values whose products and sums are rounded, as the bits of bf16.
fn value(i: usize) -> f32 {
    let bits = ((i * 7919 % 1009) as f32 / 1009.0 - 0.4).to_bits();
    f32::from_bits(bits & 0xffff_0000)
}

fn bf16(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// `rows` rows along k.
fn matrix(rows: usize, depth: usize, seed: usize) -> Vec<Vec<f32>> {
    (0..rows).map(|row| (0..depth).map(|k| value(seed + row * depth + k)).collect()).collect()
}

/// Sums of products in order of k, as the bits of f32; what is added to is 0.5.
fn products(a: &[Vec<f32>], b: &[Vec<f32>], times: usize) -> Vec<i32> {
    let sum = |a: &[f32], b: &[f32]| {
        let pairs = std::iter::repeat_n(a.iter().zip(b), times).flatten();
        pairs.fold(0.5, |sum: f32, (a, b)| sum + a * b).to_bits() as i32
    };
    a.iter().flat_map(|a| b.iter().map(move |b| sum(a, b))).collect()
}

/// A matrix in memory, rows along k or across it, whose lines are padded to 8 elements; and its tensor.
fn stored(matrix: &[Vec<f32>], across: bool) -> Given {
    let (rows, depth) = (matrix.len(), matrix[0].len());
    let (lines, len) = if across { (depth, rows) } else { (rows, depth) };
    let pitch = len.next_multiple_of(8);
    let element = |line: usize, i: usize| match (i < len, across) {
        (true, false) => matrix[line][i],
        (true, true) => matrix[i][line],
        (false, _) => f32::NAN,
    };
    let values = (0..lines).flat_map(|line| (0..pitch).map(move |i| element(line, i)));
    let tensor = Tensor { extents: [1, lines as u64, len as u64], strides: [0, pitch as u64] };
    Map(bf16(values), tensor)
}

/// The sums of a block of one group of warps, to `%y` of so many columns.
fn sums_out(columns: usize) -> String {
    let pair = |i: usize| {
        let (row, column) = (i % 2 * 8, i / 2 * 8);
        format!(
            "load %v{i}: f32x2 = %sums[{}]
             store %y[(thread / 32 * 16 + thread % 32 / 4 + {row}) * {columns} + {column} + thread % 4 * 2] = %v{i}\n",
            2 * i
        )
    };
    (0..columns / 4).map(pair).collect()
}

fn halves(columns: usize) -> String {
    (0..columns / 4).map(|i| format!("store %sums[{}] = splat(0.5, 2)\n", 2 * i)).collect()
}

/// A factor that copies of boxes bring: its parameter, its array, the copies, their bytes, and how it is named.
fn factor(name: &str, rows: usize, depth: usize, swizzle: Swizzle, across: bool) -> [String; 5] {
    let (lines, len) = if across { (depth, rows) } else { (rows, depth) };
    let width = swizzle.row_bytes().map_or(8, |bytes| bytes as usize / 2);
    // More lines than the factor has: panels are parts of larger tiles.
    let (panels, box_lines) = (len.div_ceil(width), lines.next_multiple_of(8) + 8);
    let said = swizzle.row_bytes().map(|bytes| format!(" swizzle {bytes}")).unwrap_or_default();
    let copy = |i: usize| format!("tile_copy %t{name}[{}] = %{name}[0, 0, {}] on %full[0]\n", i * box_lines * width, i * width);
    let transposed = if across { " transposed" } else { "" };
    [
        format!("%{name}: map bf16[1, {box_lines}, {width}]{said}"),
        format!("shared %t{name}: bf16[{}] align 1024", panels * box_lines * width),
        (0..panels).map(copy).collect(),
        (panels * box_lines * width * 2).to_string(),
        format!("%t{name}[0] lines {box_lines}{said}{transposed}"),
    ]
}

pub(crate) fn product(columns: usize, depth: usize, swizzle: Swizzle, across: [bool; 2]) -> String {
    let [a, array_a, copies_a, bytes_a, left] = factor("a", 64, depth, swizzle, across[0]);
    let [b, array_b, copies_b, bytes_b, right] = factor("b", columns, depth, swizzle, across[1]);
    format!(
        "kernel @group({a}, {b}, %y: *mut f32) threads 128 {{
           {array_a}
           {array_b}
           registers %sums: f32[{}]
           mbarrier %full arrivals 1 stages 1
           {}
           if thread == 0 {{
             arrive %full[0] bytes {bytes_a} + {bytes_b}
             {copies_a}
             {copies_b}
           }}
           wait %full[0] phase 0
           group_mma m64n{columns}k{depth} %sums[0] += {left} * {right}
           wait products 0
           {}
         }}",
        columns / 2,
        halves(columns),
        sums_out(columns)
    )
}

/// Every swizzle, each factor along k and across it, and panels in part.
#[test]
fn four_warps_multiply_what_boxes_bring() {
    let ways = [[false, false], [false, true], [true, false], [true, true]];
    for (swizzle, across) in Swizzle::ALL.into_iter().flat_map(|swizzle| ways.map(|across| (swizzle, across))) {
        let (columns, depth) = if across[1] { (72, 32) } else { (24, 80) };
        let (a, b) = (matrix(64, depth, 0), matrix(columns, depth, 5000));
        let given = [stored(&a, across[0]), stored(&b, across[1]), Unwritten(64 * columns)];
        let found = check(Machine::has_groups, 1, &given, &product(columns, depth, swizzle, across));
        assert_eq!(found, [products(&a, &b, 1)], "{swizzle:?} {across:?}");
    }
}

/// The left factor in registers, the right one stored by threads; then both in shared memory, two products under way at once.
fn from_registers(middle: &str) -> String {
    let (columns, depth) = (16, 32);
    let pairs = |i: usize| {
        let (step, row, k) = (i / 4, i % 2 * 8, i % 4 / 2 * 8);
        format!(
            "load %p{i}: bf16x2 = %a[(thread / 32 * 16 + thread % 32 / 4 + {row}) * {depth} + {step} * 16 + {k} + thread % 4 * 2] align 4\n"
        )
    };
    let named: Vec<String> = (0..8).map(|i| format!("%p{i}")).collect();
    format!(
        "kernel @registers_group(%a: *bf16, %b: *bf16, %y: *mut f32) threads 128 {{
           shared %ta: bf16[2048] align 128
           shared %tb: bf16[512] align 128
           registers %sums: f32[8]
           {}
           for %i: i32 in thread..512 step 128 {{
             load %v: bf16 = %b[%i]
             store %tb[%i % {depth} / 8 * 128 + %i / {depth} * 8 + %i % 8] = %v
           }}
           for %j: i32 in thread..2048 step 128 {{
             load %w: bf16 = %a[%j]
             store %ta[%j % {depth} / 8 * 512 + %j / {depth} * 8 + %j % 8] = %w
           }}
           {}
           {middle}
           group_mma m64n16k32 %sums[0] += ({}) * %tb[0] lines 16
           group_mma m64n16k32 %sums[0] += %ta[0] lines 64 * %tb[0] lines 16
           group_mma m64n16k32 %sums[0] += %ta[0] lines 64 * %tb[0] lines 16
           wait products 1
           wait products 0
           {}
         }}",
        halves(columns),
        (0..8).map(pairs).collect::<String>(),
        named.join(", "),
        sums_out(columns)
    )
}

#[test]
fn a_factor_may_be_in_registers() {
    let (a, b) = (matrix(64, 32, 11), matrix(16, 32, 40));
    let memory = |matrix: &[Vec<f32>]| Bytes(bf16(matrix.iter().flatten().copied()));
    let given = [memory(&a), memory(&b), Unwritten(1024)];
    let found = check(Machine::has_groups, 1, &given, &from_registers("fence\nbarrier block"));
    assert_eq!(found, [products(&a, &b, 3)]);
}

/// The emulator finds what is left out.
#[test]
fn products_without_a_fence_or_a_wait_are_found() {
    let (a, b) = (matrix(64, 32, 11), matrix(16, 32, 40));
    let memory = |matrix: &[Vec<f32>]| Bytes(bf16(matrix.iter().flatten().copied()));
    let given = [memory(&a), memory(&b), Unwritten(1024)];
    let whole = from_registers("fence\nbarrier block");
    for (change, kind) in [
        (("fence\n", ""), FindingKind::MissingProxyFence),
        (("barrier block", ""), FindingKind::SharedRace),
        (("wait products 0", ""), FindingKind::AsyncPending),
    ] {
        assert!(whole.contains(change.0), "{change:?}");
        let kernel = read(&whole.replace(change.0, change.1));
        let ptx = assembly(&program(vec![kernel.clone()]), &Machine::named("sm_90a").unwrap()).unwrap();
        let found = Schedule::ALL.map(|schedule| emulated(&kernel, &ptx, 1, &given, schedule).0);
        let kinds = found.iter().flat_map(|report| &report.findings).map(|finding| finding.kind);
        assert!(kinds.clone().any(|of| of == kind), "{change:?}: {:?}", kinds.collect::<Vec<_>>());
    }
}

/// Both factors come by copies of threads that a phase waits for; sums leave as pairs, transposed, by stores of matrices.
fn by_copies(fence: &str) -> String {
    let pairs: Vec<String> = (0..4).map(|i| format!("load %v{i}: f32x2 = %sums[{}]", 2 * i)).collect();
    format!(
        "kernel @by_copies(%a: *bf16, %b: *bf16, %y: *mut i32) threads 128 {{
           shared %ta: bf16[1024] align 128
           shared %tb: bf16[256] align 128
           shared %out: bf16[1024] align 128
           registers %sums: f32[8]
           mbarrier %full arrivals 128 stages 1
           {}
           copy %ta[thread % 2 * 512 + thread / 2 * 8] = %a[thread * 8] bytes 16
           if thread < 32 {{
             copy %tb[thread % 2 * 128 + thread / 2 * 8] = %b[thread * 8] bytes 16
           }}
           arrive %full[0] copied
           wait %full[0] phase 0
           {fence}
           group_mma m64n16k16 %sums[0] += %ta[0] lines 64 * %tb[0] lines 16
           wait products 0
           {}
           store_matrix %out[(thread % 8 + thread % 32 / 16 * 8) * 64 + thread / 32 * 16 + thread / 8 % 2 * 8] \
             = (bf16(%v0), bf16(%v1), bf16(%v2), bf16(%v3)) transposed
           barrier block
           for %i: i32 in thread..1024 step 128 {{
             load %o: bf16 = %out[%i]
             store %y[%i] = bits_i32(f32(%o))
           }}
         }}",
        halves(16),
        pairs.join("\n"),
    )
}

#[test]
fn copies_of_threads_bring_factors_and_matrices_are_stored() {
    let (a, b) = (matrix(64, 16, 3), matrix(16, 16, 77));
    let memory = |matrix: &[Vec<f32>]| Bytes(bf16(matrix.iter().flatten().copied()));
    let given = [memory(&a), memory(&b), Unwritten(1024)];
    let rounded = |bits: i32| {
        let bits = bits as u32;
        ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000) as i32
    };
    // Columns of the product are rows of what leaves.
    let sums = products(&a, &b, 1);
    let expected: Vec<i32> = (0..1024).map(|i| rounded(sums[i % 64 * 16 + i / 64])).collect();
    assert_eq!(check(Machine::has_groups, 1, &given, &by_copies("fence")), [expected]);
    let kernel = read(&by_copies(""));
    let ptx = assembly(&program(vec![kernel.clone()]), &Machine::named("sm_90a").unwrap()).unwrap();
    let found = Schedule::ALL.map(|schedule| emulated(&kernel, &ptx, 1, &given, schedule).0);
    let kinds: Vec<_> = found.iter().flat_map(|report| &report.findings).map(|finding| finding.kind).collect();
    assert!(kinds.contains(&FindingKind::MissingProxyFence), "{kinds:?}");
}

#[test]
fn machines_without_such_products_say_so() {
    let refused = |text: &str, machine: &str| {
        codegen(&program(vec![read(text)]), &Machine::named(machine).unwrap(), &Options::default()).unwrap_err().to_string()
    };
    let whole = from_registers("fence\nbarrier block");
    for machine in ["sm_100a", "sm_120a"] {
        let without = whole.replace("fence\n", "");
        let said = format!("kernel `registers_group` needs products of four warps, which {machine} does not have");
        assert_eq!(refused(&without, machine), said);
    }
    let fence = "kernel @k() threads 1 { fence }";
    assert_eq!(refused(fence, "x86-64-v3"), "kernel `k` needs fences, which x86-64-v3 does not have");
}
