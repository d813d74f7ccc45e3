//! As `three_ways`, of kernels that copy boxes of tensors.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::program;
use crate::three_ways::Given::{Map, Number, Unwritten};
use crate::three_ways::{bytes, check, emulated, read};
use moec_codegen::{Options, assembly, codegen};
use moec_ir::Machine;
use moec_ir::kernel::{Swizzle, Tensor};
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

#[test]
fn machines_without_tensor_maps_say_so() {
    for (machine, threads) in [("sm_89", "threads 32"), ("x86-64-v3", "threads 1")] {
        let program = program(vec![read(&boxes(Swizzle::None, 32).replace("threads 32", threads))]);
        let error = codegen(&program, &Machine::named(machine).unwrap(), &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("kernel `boxes` needs tensor maps, which {machine} does not have"));
    }
}
