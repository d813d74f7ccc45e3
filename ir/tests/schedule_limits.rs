//! The loops that measure a machine compute what they say, so that none of their work can be left out.

use std::collections::BTreeMap;

use moec_ir::kernel::{interp, verify};
use moec_ir::machine::MACHINES;
use moec_ir::schedule::limits::{ELEMENTS, READ, limits};
use moec_ir::{DType, Dims, Machine};

fn hosts() -> impl Iterator<Item = Machine> {
    MACHINES.into_iter().filter(|machine| !machine.is_gpu())
}

/// What each launch leaves in `sums`, of two blocks on memory full of 0.5, one launch at a time.
fn sums(machine: &Machine, kernel: usize) -> Vec<f64> {
    let mut program = limits(machine).program;
    program.regimes[0].launches.retain(|launch| launch.kernel == 0 || launch.kernel == kernel);
    let given = BTreeMap::from([("number".to_string(), 0.5f32.to_le_bytes().to_vec())]);
    let memory = interp(&program, machine, Dims { tokens: 2, sequence_tokens: 2 }, &given).unwrap();
    let bytes = memory["sums"].bytes().unwrap();
    bytes.chunks(4).map(|sum| f64::from(f32::from_le_bytes(sum.try_into().unwrap()))).collect()
}

#[test]
fn the_loops_break_no_rule() {
    for machine in hosts() {
        assert_eq!(verify(&limits(&machine).program, &machine), Ok(()), "{}", machine.name);
    }
}

#[test]
fn every_element_is_read_once() {
    for machine in hosts() {
        assert_eq!(sums(&machine, READ), [0.5 * ELEMENTS as f64; 2], "{}", machine.name);
    }
}

/// Each lane of each sum begins with 0.5 and adds 4 products of 0.25 a turn, or 4 times two of them; all lanes are added up. Powers
/// of two and small integers: no rounding.
#[test]
fn every_product_is_added() {
    let mut types = Vec::new();
    for machine in hosts() {
        for products in limits(&machine).products {
            let pairs = if products.elem == DType::BF16 { 2.0 } else { 1.0 };
            // AVX2: 12 sums of 8 lanes; AVX-512: 24 of 16; Arm: 12 of 4.
            let lanes = match machine.vector_bytes {
                64 => 24.0 * 16.0,
                bytes => 12.0 * f64::from(bytes / 4),
            };
            let lane = 0.5 + ELEMENTS as f64 * 4.0 * 0.25 * pairs;
            assert_eq!(sums(&machine, products.kernel), [lanes * lane; 2], "{}", machine.name);
            assert_eq!(products.flops_a_turn as f64, lanes * 4.0 * 2.0 * pairs, "{}", machine.name);
            types.push((machine.name, products.elem));
        }
    }
    let f32 = |names: &[&'static str]| names.iter().map(|name| (*name, DType::F32)).collect::<Vec<_>>();
    let x86 = [f32(&["x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"]), vec![("x86-64-v4-bf16", DType::BF16)]];
    let arm = [f32(&["aarch64", "aarch64-bf16"]), vec![("aarch64-bf16", DType::BF16)]];
    assert_eq!(types, [x86, arm].concat().concat());
}
