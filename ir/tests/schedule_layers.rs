//! Whole layers: every op of the normal form, scheduled for every machine, verified, run, and compared with the graph's
//! interpreter; and what has no program says why.

use crate::layer::{Random, distance, params, parse, program, run};
use moec_ir::graph::{Op, Tensor, Typed, Value, interp};
use moec_ir::kernel::{Buffer, Role, verify::verify};
use moec_ir::machine::MACHINES;
use moec_ir::rewrite::{Batches, rewrite};
use moec_ir::schedule::{ScheduleError, schedule};
use moec_ir::{Dims, Machine};

const MIXTRAL: &str = "\
layer @mixtral(%x: tensor<T x 40 x bf16>, @router: tensor<8 x 40 x bf16>, @gate: tensor<8 x 24 x 40 x bf16>, @up: tensor<8 x 24 x 40 x bf16>, @down: tensor<8 x 40 x 24 x bf16>) -> tensor<T x 40 x bf16> {
  %0 = route %x, [@router], dropless {
    a = top_k $0, $0, 2
    yield softmax a
  } : routing<T x 2 of 8>
  %1 = grouped_gemm %x, %0, [@gate, @up] {
    a = silu $0
    b = mul a, $1
    yield cast b, bf16
  } : tensor<P x 24 x bf16>
  %2 = pair_weights %0 : tensor<P x 1 x f32>
  %3 = grouped_gemm %1, %0, [@down], [%2] {
    a = mul $0, $1
    yield cast a, bf16
  } : tensor<P x 40 x bf16>
  %4 = combine %3, %0 {
    yield cast $0, bf16
  } : tensor<T x 40 x bf16>
  return %4
}
";

/// Biases everywhere, capacity, a shared expert behind a sigmoid gate, two layers of routing in one graph.
const EVERYTHING: &str = "\
layer @everything(%x: tensor<T x 12 x f32>, @router: tensor<6 x 12 x f32>, @router_bias: tensor<6 x f32>, @gate: tensor<6 x 10 x 12 x f32>, @gate_bias: tensor<6 x 10 x f32>, @down: tensor<6 x 12 x 10 x f32>, @down_bias: tensor<6 x 12 x f32>, @shared_gate: tensor<9 x 12 x f32>, @shared_up: tensor<9 x 12 x f32>, @shared_down: tensor<12 x 9 x f32>, @shared_gate_proj: tensor<1 x 12 x f32>, @output_bias: tensor<12 x f32>) -> tensor<T x 12 x f32> {
  %0 = route %x, [@router], [@router_bias], capacity(ceil((T * 2) / 6), sequence, choice_major) {
    a = add $0, $1
    b = softmax a
    c = top_k b, b, 3
    yield renorm c, sum(add 1e-20)
  } : routing<T x 3 of 6>
  %1 = expert_rows @gate_bias, %0 : tensor<P x 10 x f32>
  %2 = grouped_gemm %x, %0, [@gate], [%1] {
    a = add $0, $1
    yield gelu a
  } : tensor<P x 10 x f32>
  %3 = pair_weights %0 : tensor<P x 1 x f32>
  %4 = expert_rows @down_bias, %0 : tensor<P x 12 x f32>
  %5 = grouped_gemm %2, %0, [@down], [%3, %4] {
    a = add $0, $2
    yield mul a, $1
  } : tensor<P x 12 x f32>
  %6 = gemm %x, [@shared_gate, @shared_up] {
    a = silu $0
    yield mul a, $1
  } : tensor<T x 9 x f32>
  %7 = gemm %x, [@shared_gate_proj] {
    yield sigmoid $0
  } : tensor<T x 1 x f32>
  %8 = gemm %6, [@shared_down] : tensor<T x 12 x f32>
  %9 = combine %5, %0, [%8, %7, @output_bias] {
    a = mul $1, $2
    b = scale $0, 0.5
    c = add b, a
    yield add c, $3
  } : tensor<T x 12 x f32>
  %10 = route %9, [@router], dropless {
    yield top_k $0, $0, 1
  } : routing<T x 1 of 6>
  %11 = grouped_gemm %9, %10, [@gate] : tensor<P x 10 x f32>
  %12 = grouped_gemm %11, %10, [@down] : tensor<P x 12 x f32>
  %13 = combine %12, %10, [%9] {
    yield add $0, $1
  } : tensor<T x 12 x f32>
  %14 = part %0, experts : tensor<T x 3 x i32>
  %15 = pick_weights %0, 0 : tensor<T x 3 x f32>
  %16 = part %0, load : tensor<6 x i32>
  %17 = part %0, kept : tensor<6 x i32>
  %18 = part %0, rows : tensor<T x 3 x i32>
  %19 = part %10, load : tensor<6 x i32>
  return y = %13, route.experts = %14, route.weights = %15, stats.load = %16, stats.kept = %17, route.rows = %18, second.load = %19
}
";

/// Normalised rows, what is read beside them, and N columns that no vector divides, or all do.
const NORMED: &str = "\
layer @normed(%x: tensor<T x N x bf16>, @s: tensor<N x bf16>, @one: tensor<1 x N x f32>) -> tensor<T x N x f32> {
  %0 = gemm %x, [@one] : tensor<T x 1 x f32>
  %1 = rms_norm %x, 0.125, [@s, %0] {
    a = scale $0, 0.5
    b = mul a, $1
    yield mul b, $2
  } : tensor<T x N x f32>
  %2 = rms_norm %1, 0.0, [%1] {
    yield add $0, $1
  } : tensor<T x N x f32>
  return %2
}
";

/// Pairs that are dropped by weight, in runs of tokens, and what is left of them: other weights, and the tokens themselves.
const DROPPING: &str = "\
layer @dropping(%x: tensor<T x 12 x bf16>, @router: tensor<6 x 12 x bf16>, @w: tensor<6 x 12 x 12 x bf16>) -> tensor<T x 12 x f32> {
  %0 = route %x, [@router], capacity(2, 5, score) {
    a = sigmoid $0
    yield top_k a, a, 2
  } : routing<T x 2 of 6>
  %1 = renorm_kept %0, sum(add 0.0) : routing<T x 2 of 6>
  %2 = pair_weights %1 : tensor<P x 1 x f32>
  %3 = grouped_gemm %x, %1, [@w], [%2] {
    yield mul $0, $1
  } : tensor<P x 12 x f32>
  %4 = dropped_input %x, %1 : tensor<T x 12 x f32>
  %5 = combine %3, %1, [%4] {
    yield add $0, $1
  } : tensor<T x 12 x f32>
  return %5
}
";

/// Tokens that keep themselves where experts are the identity, and where others had no room.
const IDENTITIES: &str = "\
layer @identities(%x: tensor<T x 12 x bf16>, @router: tensor<9 x 12 x bf16>, @w: tensor<6 x 12 x 12 x bf16>) -> tensor<T x 12 x f32> {
  %0 = route %x, [@router], capacity(3, all, token_major) {
    a = sigmoid $0
    b = top_k a, a, 3
    yield without_rows b, 3
  } : routing<T x 3 of 6 + 3>
  %1 = pair_weights %0 : tensor<P x 1 x f32>
  %2 = grouped_gemm %x, %0, [@w], [%1] {
    yield mul $0, $1
  } : tensor<P x 12 x f32>
  %3 = identity_input %x, %0 : tensor<T x 12 x f32>
  %4 = dropped_input %x, %0 : tensor<T x 12 x f32>
  %5 = combine %2, %0, [%3, %4] {
    a = add $0, $1
    b = scale $2, 2.0
    yield add a, b
  } : tensor<T x 12 x f32>
  return %5
}
";

/// Shared experts, weighted apart, side by side in one product: F columns each; and columns beside sums and norms.
const JOINT: &str = "\
layer @joint(%x: tensor<T x 12 x bf16>, @router: tensor<8 x 12 x bf16>, @w: tensor<6 x 12 x 12 x bf16>, @gate: tensor<S x 12 x bf16>, @up: tensor<S x 12 x bf16>, @down: tensor<12 x S x bf16>) -> tensor<T x 12 x f32> {
  %0 = route %x, [@router], dropless {
    a = sigmoid $0
    b = leading a, 6
    c = top_k b, b, 3
    d = joint c, a, 2
    yield renorm d, sum(add 0.0)
  } : routing<T x 5 of 6 + 2>
  %1 = pair_weights %0 : tensor<P x 1 x f32>
  %2 = grouped_gemm %x, %0, [@w], [%1] {
    yield mul $0, $1
  } : tensor<P x 12 x f32>
  %3 = pick_weights %0, 3 : tensor<T x 2 x f32>
  %4 = gemm %x, [@gate, @up], [%3] {
    a = silu $0
    b = mul a, $1
    yield mul b, $2
  } : tensor<T x S x f32>
  %5 = gemm %4, [@down] : tensor<T x 12 x f32>
  %6 = combine %2, %0, [%5, %3] {
    a = add $0, $1
    yield add a, $2
  } : tensor<T x 12 x f32>
  %7 = rms_norm %6, 1.0, [%3] {
    yield mul $0, $1
  } : tensor<T x 12 x f32>
  return %7
}
";
/// Soft routing: E experts of N slots, H columns.
const SOFT: &str = "\
layer @soft(%x: tensor<T x H x bf16>, @slots: tensor<E x N x H x bf16>, @slot_scale: tensor<1 x f32>, @up: tensor<E x 10 x H x bf16>, @up_bias: tensor<E x 10 x bf16>, @down: tensor<E x H x 10 x bf16>, @beside: tensor<H x f32>) -> tensor<T x H x f32> {
  %0 = rms_norm %x, 1e-6 {
    yield scale $0, 0.25
  } : tensor<T x H x f32>
  %1 = flatten @slots : tensor<A x H x bf16>
  %2 = rms_norm %1, 1e-6 : tensor<A x H x f32>
  %3 = gemm %0, [%2], [@slot_scale] {
    yield mul $0, $1
  } : tensor<T x A x f32>
  %4 = token_softmax %3 : tensor<T x A x f32>
  %5 = slots E, N : slots<E x N>
  %6 = soft_dispatch %x, %4, %5 {
    yield cast $0, bf16
  } : tensor<P x H x bf16>
  %7 = expert_rows @up_bias, %5 : tensor<P x 10 x bf16>
  %8 = grouped_gemm %6, %5, [@up], [%7] {
    a = add $0, $1
    yield gelu a
  } : tensor<P x 10 x f32>
  %9 = grouped_gemm %8, %5, [@down] : tensor<P x H x f32>
  %10 = softmax %3 : tensor<T x A x f32>
  %11 = soft_combine %9, %10, %5, [@beside, @slot_scale, %0] {
    a = add $0, $1
    b = mul a, $2
    yield add b, $3
  } : tensor<T x H x f32>
  return y = %11, soft.dispatch = %4, soft.combine = %10
}
";

fn output<'v>(layer: &Typed, values: &'v [Value]) -> &'v Tensor {
    match &values[usize::from(layer.graph().result("y").expect("an output"))] {
        Value::Tensor(y) => y,
        other => panic!("the output is {other:?}"),
    }
}

fn soft(experts: u64, slots: u64, hidden: u64) -> String {
    let all = experts * slots;
    let sizes = [("E", experts), ("N", slots), ("H", hidden), ("A", all)];
    sizes.iter().fold(SOFT.to_string(), |text, (name, size)| {
        let size = size.to_string();
        [("<", " x"), ("x ", " x"), (" ", ","), (", ", " :"), ("x ", ">")].iter().fold(text, |text, (before, after)| {
            text.replace(&format!("{before}{name}{after}"), &format!("{before}{size}{after}"))
        })
    })
}

fn agrees(text: &str, tokens: &[(u64, u64)], tolerance: f64) {
    let layer = parse(text);
    let mut random = Random(3);
    for (tokens, sequence_tokens) in tokens {
        let dims = Dims { tokens: *tokens, sequence_tokens: *sequence_tokens };
        let given = params(&layer, dims, &mut random);
        let expected = interp(&layer, &given, dims).expect("the interpreter runs every graph");
        let y = output(&layer, &expected);
        for machine in ["sm_90a", "x86-64-v3", "x86-64-v4-bf16"].into_iter().filter_map(Machine::named) {
            let error = distance(&run(&layer, &machine, dims, &given).floats("y"), &y.data);
            assert!(error < tolerance, "{} T = {tokens}: {error}", machine.name);
        }
    }
}

/// A layer as it is imported, through the rewriting.
const IMPORTED: &str = "\
layer @imported(%x: tensor<T x 12 x f32>, @router: tensor<8 x 12 x f32>, @gate: tensor<8 x 10 x 12 x f32>, @up: tensor<8 x 10 x 12 x f32>, @down: tensor<8 x 12 x 10 x f32>) -> tensor<T x 12 x f32> {
  %0 = gemm %x, [@router] : tensor<T x 8 x f32>
  %1 = softmax %0 : tensor<T x 8 x f32>
  %2 = top_k %1, %1, 2 : picks<T x 2 of 8>
  %3 = renorm %2, sum(add 0.0) : picks<T x 2 of 8>
  %4 = assign %3, dropless : routing<T x 2 of 8>
  %5 = dispatch %x, %4 : tensor<P x 12 x f32>
  %6 = grouped_gemm %5, %4, [@gate] : tensor<P x 10 x f32>
  %7 = silu %6 : tensor<P x 10 x f32>
  %8 = grouped_gemm %5, %4, [@up] : tensor<P x 10 x f32>
  %9 = mul %7, %8 : tensor<P x 10 x f32>
  %10 = grouped_gemm %9, %4, [@down] : tensor<P x 12 x f32>
  %11 = pair_weights %4 : tensor<P x 1 x f32>
  %12 = mul %10, %11 : tensor<P x 12 x f32>
  %13 = combine %12, %4 : tensor<T x 12 x f32>
  return %13
}
";

#[test]
fn rewritten() {
    let layer = parse(IMPORTED);
    let dims = Dims { tokens: 21, sequence_tokens: 21 };
    let given = params(&layer, dims, &mut Random(23));
    let expected = interp(&layer, &given, dims).expect("the interpreter runs every graph");
    let y = output(&layer, &expected);
    for machine in ["sm_90a", "x86-64-v4"].into_iter().filter_map(Machine::named) {
        let rewritten = rewrite(&layer, &machine, &Batches::together(&[1, 64, 4096]));
        assert!(distance(&run(rewritten.at(21), &machine, dims, &given).floats("y"), &y.data) < 1e-5, "{}", machine.name);
    }
}

#[test]
fn mixtral() {
    agrees(MIXTRAL, &[(0, 0), (1, 1), (7, 7), (17, 17)], 8e-3);
}

#[test]
fn everything() {
    agrees(EVERYTHING, &[(0, 0), (1, 1), (12, 3), (33, 11)], 1e-5);
}

#[test]
fn normed() {
    for n in ["13", "40", "256", "1"] {
        agrees(&NORMED.replace("x N", &format!("x {n}")).replace("<N", &format!("<{n}")), &[(0, 0), (1, 1), (19, 19)], 1e-5);
    }
}

/// What the router sees is jittered, what the experts see is not.
const JITTERED: &str = "\
layer @jittered(%x: tensor<T x N x bf16>, %seed: tensor<2 x i32>, @router: tensor<8 x N x bf16>, @w: tensor<8 x N x N x bf16>) -> tensor<T x N x f32> {
  %0 = jitter %x, %seed, 0.25 : tensor<T x N x f32>
  %1 = route %0, [@router], dropless {
    yield top_k $0, $0, 2
  } : routing<T x 2 of 8>
  %2 = pair_weights %1 : tensor<P x 1 x f32>
  %3 = grouped_gemm %x, %1, [@w], [%2] {
    yield mul $0, $1
  } : tensor<P x N x f32>
  %4 = combine %3, %1 : tensor<T x N x f32>
  return %4
}
";

/// One number for all experts, beside the logits of all and of those that are picked.
const SCALED: &str = "\
layer @scaled(%x: tensor<T x 12 x f32>, @router: tensor<E x 12 x f32>, @one: tensor<1 x f32>, @w: tensor<E x 12 x 12 x f32>) -> tensor<T x 12 x f32> {
  %0 = route %x, [@router], [@one], CAPACITY {
    a = sigmoid $0
    b = mul a, $1
    c = PICK
    yield expert_scale c, $1
  } : routing<T x K of E>
  %1 = pair_weights %0 : tensor<P x 1 x f32>
  %2 = grouped_gemm %x, %0, [@w], [%1] {
    yield mul $0, $1
  } : tensor<P x 12 x f32>
  %3 = combine %2, %0 : tensor<T x 12 x f32>
  return %3
}
";

#[test]
fn scaled_by_one_number() {
    for (experts, top_k, capacity, pick) in [
        ("7", "7", "capacity(2, all, score)", "all_experts b"),
        ("33", "33", "dropless", "all_experts b"),
        ("33", "3", "dropless", "top_k b, b, 3"),
    ] {
        let sizes = [("<E", format!("<{experts}")), ("of E", format!("of {experts}")), ("x K", format!("x {top_k}"))];
        let text = sizes.iter().fold(SCALED.to_string(), |text, (from, to)| text.replace(from, to));
        agrees(&text.replace("CAPACITY", capacity).replace("PICK", pick), &[(0, 0), (1, 1), (33, 33)], 1e-5);
    }
}

#[test]
fn jittered() {
    for n in ["13", "40", "3"] {
        agrees(&JITTERED.replace("x N", &format!("x {n}")), &[(0, 0), (1, 1), (70, 7)], 1e-5);
    }
}

#[test]
fn dropping() {
    agrees(DROPPING, &[(0, 0), (1, 1), (12, 3), (33, 33)], 1e-5);
}

#[test]
fn identities() {
    agrees(IDENTITIES, &[(0, 0), (1, 1), (12, 3), (33, 33)], 1e-5);
}

#[test]
fn joint() {
    for shared in ["32", "18"] {
        agrees(
            &JOINT.replace("x S", &format!("x {shared}")).replace("<S", &format!("<{shared}")),
            &[(0, 0), (1, 1), (33, 33)],
            1e-5,
        );
    }
}

#[test]
fn soft_routing() {
    let few: &[(u64, u64)] = &[(0, 0), (1, 1), (12, 3), (13, 5), (70, 70)];
    agrees(&soft(5, 3, 12), few, 2e-2);
    agrees(&soft(7, 1, 13), few, 2e-2);
    // More rows of an expert than a tile has.
    agrees(&soft(2, 1, 5), &[(70, 1)], 2e-2);
    // More than a tile along every side, and more than a run of tokens.
    agrees(&soft(4, 20, 70), &[(67, 66)], 2e-2);
    agrees(&soft(3, 1, 4), &[(300, 300), (600, 299)], 2e-2);
}

/// Rows and columns of any numbers are distributions, those of the interpreter.
#[test]
fn softmax_of_any_numbers() {
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3e38, -3e38, 0.0, -0.0, 1.0, 80.0, 1e-40];
    for (op, n) in ["softmax", "token_softmax"].into_iter().flat_map(|op| [1, 3, 4, 33, 130].map(|n| (op, n))) {
        let ty = format!("tensor<T x {n} x f32>");
        let layer = parse(&format!("layer @l(%x: {ty}) -> {ty} {{\n  %0 = {op} %x : {ty}\n  return %0\n}}\n"));
        for (tokens, sequence_tokens) in [(0, 0), (1, 1), (21, 4), (270, 265)] {
            let dims = Dims { tokens, sequence_tokens };
            let mut random = Random(tokens + n);
            let data = (0..tokens * n).map(|_| if random.below(3) == 0 { random.one(&odd) } else { random.number() }).collect();
            let given = [("%x".to_string(), Tensor::new(vec![tokens as usize, n as usize], data))].into();
            let expected = interp(&layer, &given, dims).expect("the interpreter runs every graph");
            let y = output(&layer, &expected);
            for machine in ["sm_90a", "x86-64-v3"].into_iter().filter_map(Machine::named) {
                let is = run(&layer, &machine, dims, &given).floats("y");
                assert!(is.iter().all(|w| (0.0..=1.0).contains(w)), "{op} {n} T = {tokens} on {}", machine.name);
                assert!(distance(&is, &y.data) < 1e-6, "{op} {n} T = {tokens} on {}", machine.name);
            }
        }
    }
}

/// The weights are under their names; each column of a sequence and each row sums to one.
#[test]
fn soft_weights_sum_to_one() {
    let layer = parse(&soft(5, 3, 12));
    let dims = Dims { tokens: 23, sequence_tokens: 9 };
    let given = params(&layer, dims, &mut Random(5));
    for machine in ["sm_90a", "x86-64-v3"].into_iter().filter_map(Machine::named) {
        let public = |name: &str| {
            let program = program(&layer, &machine);
            let buffer = program.buffers.iter().find(|b| b.observe.as_deref() == Some(name)).expect("a buffer of that name");
            run(&layer, &machine, dims, &given).floats(&buffer.name)
        };
        let close = |sum: f64| assert!((sum - 1.0).abs() < 1e-6, "{}: {sum}", machine.name);
        for sequence in public("soft.dispatch").chunks(9 * 15) {
            (0..15).for_each(|slot| close(sequence.iter().skip(slot).step_by(15).sum()));
        }
        public("soft.combine").chunks(15).for_each(|row| close(row.iter().sum()));
    }
}

/// A sequence's bits do not depend on the others, whatever numbers these are.
#[test]
fn sequences_do_not_depend_on_each_other() {
    let layer = parse(&soft(5, 3, 12));
    let dims = |tokens: u64| Dims { tokens, sequence_tokens: 9 };
    let mut together = params(&layer, dims(27), &mut Random(6));
    together.get_mut("%x").unwrap().data[9 * 12..][..12].copy_from_slice(&[f64::NAN; 12]);
    together.get_mut("%x").unwrap().data[10 * 12] = f64::INFINITY;
    for machine in ["sm_90a", "x86-64-v3"].into_iter().filter_map(Machine::named) {
        let all = run(&layer, &machine, dims(27), &together).floats("y");
        assert!(all[9 * 12..][..9 * 12].iter().all(|y| y.is_nan()), "a NaN is in every slot of its sequence");
        for sequence in [0, 2] {
            let mut alone = together.clone();
            let x = alone.get_mut("%x").unwrap();
            *x = Tensor::new(vec![9, 12], x.data[sequence * 9 * 12..][..9 * 12].to_vec());
            let one = run(&layer, &machine, dims(9), &alone).floats("y");
            assert!(one.iter().all(|y| y.is_finite()), "{}", machine.name);
            assert_eq!(all[sequence * 9 * 12..][..9 * 12], one, "{}", machine.name);
        }
    }
}

/// A token's bits do not depend on the others in its batch, nor on its place.
#[test]
fn tokens_do_not_depend_on_each_other() {
    let layer = parse(MIXTRAL);
    let mut random = Random(9);
    let dims = |tokens: u64| Dims { tokens, sequence_tokens: tokens };
    let together = params(&layer, dims(19), &mut random);
    for machine in ["sm_90a", "x86-64-v3", "x86-64-v4-bf16"].into_iter().filter_map(Machine::named) {
        let all = run(&layer, &machine, dims(19), &together);
        for token in [0, 7, 18] {
            let mut alone = together.clone();
            let x = alone.get_mut("%x").unwrap();
            *x = Tensor::new(vec![1, 40], x.data[token * 40..][..40].to_vec());
            let one = run(&layer, &machine, dims(1), &alone);
            assert_eq!(all.floats("y")[token * 40..][..40], one.floats("y"), "{}", machine.name);
            assert_eq!(all.floats("topk_weights")[token * 2..][..2], one.floats("topk_weights"), "{}", machine.name);
        }
    }
}

/// Every machine, also those that are not run here; unlike launches and names are one thing.
#[test]
fn programs_are_valid_on_every_machine() {
    for machine in MACHINES {
        for text in [
            MIXTRAL.to_string(),
            EVERYTHING.to_string(),
            DROPPING.to_string(),
            NORMED.replace('N', "24"),
            soft(4, 3, 24),
            JITTERED.replace("x N", "x 24"),
        ] {
            let program = program(&parse(&text), &machine);
            assert_eq!(program.buffers.iter().filter(|b| b.role == Role::Output).count(), 1);
        }
    }
}

#[test]
fn names_and_observed_buffers() {
    let machine = Machine::named("sm_90a").unwrap();
    let program = program(&parse(EVERYTHING), &machine);
    let names: Vec<&str> = program.kernels.iter().map(|k| k.name.as_str()).collect();
    let observed: Vec<&str> = program.buffers.iter().filter_map(|b| b.observe.as_deref()).collect();
    let buffer = |b: &Buffer| {
        let shape: Vec<String> = b.shape.iter().map(ToString::to_string).collect();
        format!("{:?} {} {} [{}]", b.role, b.name, b.dtype, shape.join(", "))
    };
    // The second route's buffers are the first one's again, numbered.
    let buffers: Vec<String> = program.buffers.iter().filter(|b| !b.name.ends_with("_2")).map(buffer).collect();
    let text = format!("{}\n\n{}\n\n{}", names.join("\n"), observed.join(" "), buffers.join("\n"));
    insta::assert_snapshot!(text, @r"
    route_router
    sort_count
    sort_scan
    sort_place
    grouped_gemm_gate
    grouped_gemm_down
    gemm_shared_gate_shared_up
    gemm_shared_down
    gemm_shared_gate_proj
    combine
    route_router_2
    sort_count_2
    sort_scan_2
    sort_place_2
    grouped_gemm_gate_2
    grouped_gemm_down_2
    combine_2

    route.experts route.weights stats.load stats.kept route.rows second.load

    Input x f32 [T, 12]
    Weight router f32 [6, 12]
    Weight router_bias f32 [6]
    Weight gate f32 [6, 10, 12]
    Weight gate_bias f32 [6, 10]
    Weight down f32 [6, 12, 10]
    Weight down_bias f32 [6, 12]
    Weight shared_gate f32 [9, 12]
    Weight shared_up f32 [9, 12]
    Weight shared_down f32 [12, 9]
    Weight shared_gate_proj f32 [1, 12]
    Weight output_bias f32 [12]
    Output y f32 [T, 12]
    Workspace topk_experts i32 [T, 3]
    Workspace topk_weights f32 [T, 3]
    Workspace pairs_of_chunk i32 [(ceil(T / max(S, 1)) * ceil((max(S, 1) * 3) / 1024)), 6]
    Workspace rank_of_chunk i32 [(ceil(T / max(S, 1)) * ceil((max(S, 1) * 3) / 1024)), 6]
    Workspace rows_before_span i32 [ceil(T / max(S, 1)), 6]
    Workspace load_of_expert i32 [6]
    Workspace kept_of_expert i32 [6]
    Workspace row_of_pair i32 [T, 3]
    Workspace token_of_row i32 [min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6)))]
    Workspace weight_of_row f32 [min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6)))]
    Workspace offset_of_expert i32 [7]
    Workspace tile_expert i32 [(floor(min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6))) / 256) + min(min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6))), 6))]
    Workspace tile_row i32 [(floor(min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6))) / 256) + min(min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6))), 6))]
    Workspace tile_count i32 [1]
    Workspace grouped_gemm_gate_out f32 [min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6))), 10]
    Workspace grouped_gemm_down_out f32 [min((T * 3), (ceil(T / max(S, 1)) * (min(ceil((T * 2) / 6), max(S, 1)) * 6))), 12]
    Workspace gemm_shared_gate_shared_up_out f32 [T, 9]
    Workspace gemm_shared_down_out f32 [T, 12]
    Workspace gemm_shared_gate_proj_out f32 [T, 1]
    Workspace combine_out f32 [T, 12]
    Workspace grouped_gemm_gate_2_out f32 [T, 10]
    Workspace grouped_gemm_down_2_out f32 [T, 12]
    ");
}

/// An op that rewriting should have taken, named with what takes it; never a panic.
#[test]
fn what_has_no_program() {
    let machine = Machine::named("x86-64-v4").unwrap();
    let fails = |text: &str| schedule(&parse(text), &machine).unwrap_err();
    let layer = |lines: &str, result: &str| {
        format!(
            "layer @l(%x: tensor<T x 4 x f32>, @w: tensor<4 x 4 x f32>, @e: tensor<4 x 4 x 4 x f32>) -> {result} {{
  %0 = gemm %x, [@w] : tensor<T x 4 x f32>
{lines}
}}
"
        )
    };
    let t4 = "tensor<T x 4 x f32>";
    let alone = fails(&layer("  %1 = group_limit %0, groups(2, keep 1, max, -inf) : tensor<T x 4 x f32>\n  return %1", t4));
    assert_eq!(alone, ScheduleError::Unfused { op: Op::GroupLimit, rewrite: "the fusion of gating into `route`" });
    let alone = fails(&layer("  %1 = silu %0 : tensor<T x 4 x f32>\n  return %1", t4));
    assert_eq!(
        alone.to_string(),
        "no kernel computes `silu` by itself: the body of the `gemm`, `grouped_gemm` or `combine` before it should have taken it"
    );
    let body = fails(&layer("  %1 = gemm %0, [@w] {\n    yield softmax $0\n  } : tensor<T x 4 x f32>\n  return %1", t4));
    assert_eq!(body, ScheduleError::Body { op: Op::Softmax, inside: Op::Gemm });
    let pairs = "  %1 = route %0, [@w], dropless {\n    yield top_k $0, $0, 1\n  } : routing<T x 1 of 4>\n  %2 = grouped_gemm %0, %1, [@e] : tensor<P x 4 x f32>\n  return %2";
    assert!(matches!(fails(&layer(pairs, "tensor<P x 4 x f32>")), ScheduleError::Result { .. }));
    // Rows of one routing, weighted and combined by another.
    let other = "  %1 = route %0, [@w], dropless {\n    yield top_k $0, $0, 1\n  } : routing<T x 1 of 4>
  %2 = grouped_gemm %0, %1, [@e] : tensor<P x 4 x f32>
  %3 = route %0, [@w], dropless {\n    yield top_k $0, $0, 2\n  } : routing<T x 2 of 4>
  %4 = combine %2, %3 : tensor<T x 4 x f32>
  return %4";
    assert_eq!(fails(&layer(other, t4)).to_string(), "`combine` does not take the pairs of another routing");
    // Weights that are all experts' are no picks to be normalised, and no groups are left out of them.
    for (line, op) in [
        ("b = all_experts a\n    yield renorm b, sum(add 0.0)", Op::Renorm),
        ("b = group_limit a, groups(2, keep 1, max, zero)\n    yield all_experts b", Op::GroupLimit),
    ] {
        let route = format!(
            "  %1 = route %0, [@w], dropless {{\n    a = softmax $0\n    {line}\n  }} : routing<T x 4 of 4>
  %2 = grouped_gemm %0, %1, [@e] : tensor<P x 4 x f32>
  %3 = combine %2, %1 : {t4}
  return %3"
        );
        assert_eq!(fails(&layer(&route, t4)), ScheduleError::Body { op, inside: Op::Route });
    }
    // Weights that were renormalised have a place for kept pairs alone.
    let renormed = "  %1 = route %0, [@w], capacity(1, all, score) {\n    yield top_k $0, $0, 2\n  } : routing<T x 2 of 4>
  %2 = renorm_kept %1, sum(add 0.5) : routing<T x 2 of 4>
  %3 = pick_weights %2, 0 : tensor<T x 2 x f32>
  %4 = gemm %0, [@w], [%3] {\n    yield mul $0, $1\n  } : tensor<T x 4 x f32>
  return %4";
    assert_eq!(fails(&layer(renormed, t4)).to_string(), "`pick_weights` does not take a routing, 0");
    for n in [0, 1 << 31, u64::MAX] {
        let vast = format!(
            "layer @l(%x: tensor<T x {n} x f32>, @w: tensor<4 x {n} x f32>) -> {t4} {{\n  %0 = gemm %x, [@w] : {t4}\n  return %0\n}}\n"
        );
        assert!(matches!(fails(&vast), ScheduleError::Extent { .. }));
    }
    for shape in ["T", "4 x 4", "T x 4 x 4"] {
        let rows = format!(
            "layer @l(%x: tensor<{shape} x f32>) -> tensor<{shape} x f32> {{\n  %0 = softmax %x : tensor<{shape} x f32>\n  return %0\n}}\n"
        );
        assert_eq!(fails(&rows).to_string(), "`softmax` does not take rows that are not the tokens");
    }
    // Slots of one number, mixed as those of another.
    let slots = "  %1 = slots 4, 1 : slots<4 x 1>
  %2 = slots 2, 2 : slots<2 x 2>
  %3 = soft_dispatch %x, %0, %1 : tensor<P x 4 x f32>
  %4 = soft_combine %3, %0, %2 : tensor<T x 4 x f32>
  return %4";
    assert_eq!(fails(&layer(slots, t4)).to_string(), "`soft_combine` does not take the slots of another grouping");
    let rows = "  %1 = slots 4, 1 : slots<4 x 1>\n  %2 = soft_dispatch %x, %0, %1 : tensor<P x 4 x f32>\n  return %2";
    assert!(matches!(fails(&layer(rows, "tensor<P x 4 x f32>")), ScheduleError::Result { .. }));
    let param = "layer @l(%x: tensor<T x 4 x f32>) -> tensor<T x 4 x f32> {\n  return %x\n}\n";
    assert!(matches!(fails(param), ScheduleError::Result { .. }));
}

/// As many experts as are declared supported have a route on every machine; far too many are an error.
#[test]
fn experts_are_bounded_by_shared_memory() {
    let layer = |experts: u64| {
        parse(&format!(
            "layer @l(%x: tensor<T x 4 x f32>, @r: tensor<{experts} x 4 x f32>, @v: tensor<{experts} x f32>, @e: tensor<{experts} x 1 x 4 x f32>) -> tensor<T x 1 x f32> {{
  %0 = route %x, [@r], [@v], dropless {{
    a = sigmoid $0
    b = add a, $1
    yield top_k a, b, {}
  }} : routing<T x {} of {experts}>
  %1 = grouped_gemm %x, %0, [@e] : tensor<P x 1 x f32>
  %2 = combine %1, %0 : tensor<T x 1 x f32>
  return %2
}}
",
            experts.min(64),
            experts.min(64)
        ))
    };
    let choice = |experts: u64| {
        parse(&format!(
            "layer @l(%x: tensor<T x 4 x f32>, @r: tensor<{experts} x 4 x f32>, @e: tensor<{experts} x 1 x 4 x f32>) -> tensor<T x 1 x f32> {{
  %0 = route %x, [@r], capacity(2, sequence, score) {{
    a = softmax $0
    yield all_experts a
  }} : routing<T x {experts} of {experts}>
  %1 = grouped_gemm %x, %0, [@e] : tensor<P x 1 x f32>
  %2 = combine %1, %0 : tensor<T x 1 x f32>
  return %2
}}
"
        ))
    };
    for machine in MACHINES {
        for experts in [1, 3, 60, 257, 512, 4096] {
            program(&layer(experts), &machine);
            program(&choice(experts), &machine);
        }
        for experts in (4097..40_000).step_by(997).chain([1 << 30]) {
            match schedule(&layer(experts), &machine) {
                Ok(program) => assert_eq!(verify(&program, &machine), Ok(()), "{experts}"),
                Err(e) => assert!(matches!(e, ScheduleError::Shared { .. }), "{e}"),
            }
        }
    }
}
