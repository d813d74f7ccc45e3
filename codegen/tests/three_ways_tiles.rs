//! As `three_ways`, of kernels that copy or store boxes of tensors.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::program;
use crate::three_ways::Given::{Map, Number, Unwritten};
use crate::three_ways::{bytes, check, emulated, read};
use moec_codegen::{Options, assembly, codegen};
use moec_ir::Machine;
use moec_ir::kernel::{Argument, Memory, Swizzle, Tensor, interp_kernel};
use ptx_emulator::{FindingKind, Schedule};

fn with_tensor_maps(machine: &Machine) -> bool {
    machine.tensor_maps
}

/// A box of 2 by 5 rows of so many bytes, copied by one thread and read by all. Its corner moves with the block.
pub(crate) fn boxes(swizzle: Swizzle, row: i32) -> String {
    let (columns, elements) = (row / 4, 10 * row / 4);
    // Parts of 4 elements; the line of 128 bytes that an element is in has 32.
    let (bits, said) = match swizzle.row_bytes() {
        Some(bytes) => (bytes / 16 - 1, format!(" swizzle {bytes}")),
        None => (0, String::new()),
    };
    format!(
        "kernel @boxes(%x: map i32[2, 5, {columns}]{said}, %n: i32, %y: *mut i32) threads 32 {{
           shared %tile: i32[{elements}] align 1024
           mbarrier %full arrivals 1 stages 1
           for %i: i32 in 0..%n {{
             if thread == 0 {{
               arrive %full[0] bytes {bytes}
               tile_copy %tile[0] = %x[block - 1, block * 3 - 2, %i * 6 - 5] on %full[0]
             }}
             wait %full[0] phase %i
             for %j: i32 in thread..{elements} step 32 {{
               load %v: i32 = %tile[%j ^ (%j >> 5 & {bits}) << 2]
               store %y[(block * %n + %i) * {elements} + %j] = %v
             }}
             barrier warp
           }}
         }}",
        bytes = 4 * elements
    )
}

/// Rows of a box begin before, in and behind the tensor; what is outside is zero.
#[test]
fn boxes_of_a_tensor_arrive() {
    let x: Vec<i32> = (1..=256).collect();
    let tensor = Tensor { extents: [2, 7, 11], strides: [100, 12] };
    for (swizzle, row) in Swizzle::ALL.into_iter().zip([48, 32, 64, 128]) {
        let columns = row / 4;
        let text = boxes(swizzle, row);
        let found = check(with_tensor_maps, 3, &[Map(bytes(&x), tensor), Number(3), Unwritten(90 * columns as usize)], &text);
        let element = |at: i32| {
            let (copy, place) = (at / (10 * columns), at % (10 * columns));
            let (block, i) = (copy / 3, copy % 3);
            let (outer, row, column) = (place / (5 * columns), place / columns % 5, place % columns);
            let [outer, row, column] = [block - 1 + outer, block * 3 - 2 + row, i * 6 - 5 + column];
            let inside = (0..2).contains(&outer) && (0..7).contains(&row) && (0..11).contains(&column);
            // The array counts from 1.
            if inside { 1 + outer * 100 + row * 12 + column } else { 0 }
        };
        assert_eq!(found, [(0..90 * columns).map(element).collect::<Vec<i32>>()], "{swizzle:?}");
    }
}

/// A copy whose bytes are not waited for is found.
#[test]
fn a_box_is_waited_for() {
    let text = boxes(Swizzle::Bytes128, 128);
    let wait = "wait %full[0] phase %i";
    assert!(text.contains(wait));
    let kernel = read(&text.replace(wait, ""));
    let ptx = assembly(&program(vec![kernel.clone()]), &Machine::named("sm_90a").unwrap()).unwrap();
    let tensor = Tensor { extents: [2, 7, 11], strides: [100, 12] };
    let given = [Map(bytes(&[1; 256]), tensor), Number(1), Unwritten(320)];
    let found = Schedule::ALL.map(|schedule| emulated(&kernel, &ptx, 1, &given, schedule).0);
    let of_async = |kind: FindingKind| matches!(kind, FindingKind::AsyncPending | FindingKind::SharedRace);
    assert!(found.iter().any(|report| report.findings.iter().any(|finding| of_async(finding.kind))), "{}", found[0]);
}

/// Groups of 3, 4 and 1 rows of 40 elements, a block each, are stored by boxes of 4 rows. A box ends with the last row of its group: what is
/// before the first is outside the tensor, whose rows in a box are as far apart as boxes. In the second box columns are outside.
const GROUPS: &str = "kernel @groups(%y: map mut i32[1, 4, 32] swizzle 128) threads 32 {
  shared %tile: i32[128] align 1024
  let %rows: i32 = select(block == 0, 3, select(block == 1, 4, 1))
  let %first: i32 = select(block == 0, 0, select(block == 1, 3, 7))
  for %c: i32 in 0..2 {
    for %line: i32 in 0..4 {
      store %tile[%line * 32 + (thread ^ (%line << 2))] = block * 10000 + %c * 1000 + %line * 32 + thread
    }
    fence
    barrier warp
    if thread == 0 {
      tile_store %y[%first, %rows - 4, %c * 32] = %tile[0]
      wait stores
    }
    barrier warp
  }
}";

fn groups_tensor() -> Tensor {
    Tensor { extents: [8, 4, 40], strides: [40, 40] }
}

#[test]
fn boxes_are_stored() {
    // Room for the rows of a box at the last place, of which none is stored.
    let given = [Map(bytes(&[-1; 11 * 40]), groups_tensor())];
    let found = check(with_tensor_maps, 3, &given, GROUPS);
    let element = |at: i32| {
        let (row, column) = (at / 40, at % 40);
        let (block, line) = match row {
            0..3 => (0, row + 1),
            3..7 => (1, row - 3),
            7 => (2, 3),
            _ => return -1,
        };
        block * 10000 + column / 32 * 1000 + line * 32 + column % 32
    };
    assert_eq!(found, [(0..11 * 40).map(element).collect::<Vec<i32>>()]);
}

/// What each part of a store is for: without it something is found, by the interpreter and in the PTX.
#[test]
fn a_box_is_fenced_stored_and_waited_for() {
    let machine = Machine::named("sm_90a").unwrap();
    let given = [Map(bytes(&[-1; 11 * 40]), groups_tensor())];
    let of_ptx = |text: &str| {
        let kernel = read(text);
        let ptx = assembly(&program(vec![kernel.clone()]), &machine).unwrap();
        Schedule::ALL.map(|schedule| emulated(&kernel, &ptx, 3, &given, schedule).0)
    };
    let cases = [
        (GROUPS.replace("    fence\n", ""), "byte 0 of a box was stored, with no fence since", FindingKind::MissingProxyFence),
        (
            GROUPS.replace("      wait stores\n", ""),
            "changes what a product or a store under way reads: it is not waited for",
            FindingKind::AsyncPending,
        ),
        (
            GROUPS.replace("in 0..2", "in 0..1").replace("      wait stores\n", ""),
            "a product or a store under way is not waited for",
            FindingKind::Abandoned,
        ),
    ];
    for (text, fault, kind) in cases {
        let found = of_ptx(&text);
        assert!(found.iter().any(|report| report.findings.iter().any(|found| found.kind == kind)), "{text}: {}", found[0]);
        let (mut memory, tensor) = (vec![Memory::from(bytes(&[-1; 11 * 40]))], groups_tensor());
        let stop = interp_kernel(&read(&text), &machine, 3, &[Argument::TensorMap(0, tensor)], &mut memory).unwrap_err();
        assert!(stop.to_string().contains(fault), "{stop}");
    }
}

#[test]
fn machines_without_tensor_maps_say_so() {
    for (machine, threads) in [("sm_89", "threads 32"), ("x86-64-v3", "threads 1")] {
        let program = program(vec![read(&boxes(Swizzle::None, 32).replace("threads 32", threads))]);
        let error = codegen(&program, &Machine::named(machine).unwrap(), &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("kernel `boxes` needs tensor maps, which {machine} does not have"));
    }
}
