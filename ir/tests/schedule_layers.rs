//! Whole layers: every op of the normal form, scheduled for every machine, verified, run, and compared with the graph's
//! interpreter; and what has no program says why.

mod layer;

use layer::{Random, distance, params, parse, program, run};
use moec_ir::graph::{Value, interp};
use moec_ir::kernel::Role;
use moec_ir::machine::MACHINES;
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
  %0 = route %x, [@router], [@router_bias], capacity(ceil((T * 2) / 6), row, choice_major) {
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
  return %13
}
";

fn agrees(text: &str, tokens: &[(u64, u64)], tolerance: f64) {
    let layer = parse(text);
    let mut random = Random(3);
    for (tokens, row_tokens) in tokens {
        let dims = Dims { tokens: *tokens, row_tokens: *row_tokens };
        let given = params(&layer, dims, &mut random);
        let expected = interp(&layer, &given, dims).unwrap();
        let Some(Value::Tensor(y)) = expected.last() else { panic!("no result") };
        for machine in ["sm_90a", "x86-64-v3", "x86-64-v4-bf16"].into_iter().filter_map(Machine::named) {
            let error = distance(&run(&layer, &machine, dims, &given).floats("y"), &y.data);
            assert!(error < tolerance, "{} T = {tokens}: {error}", machine.name);
        }
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

/// Every machine, also those that are not run here; unlike launches and names are one thing.
#[test]
fn programs_are_valid_on_every_machine() {
    for machine in MACHINES {
        for text in [MIXTRAL, EVERYTHING] {
            let program = program(&parse(text), &machine);
            assert_eq!(program.buffers.iter().filter(|b| b.role == Role::Output).count(), 1);
            assert!(program.kernels.iter().all(|k| k.name.starts_with("moec_")));
        }
    }
}

#[test]
fn names_and_observed_buffers() {
    let machine = Machine::named("sm_90a").unwrap();
    let program = program(&parse(EVERYTHING), &machine);
    let names: Vec<&str> = program.kernels.iter().map(|k| k.name.as_str()).collect();
    insta::assert_snapshot!(names.join("\n"), @"");
    let observed: Vec<&str> = program.buffers.iter().filter_map(|b| b.observe.as_deref()).collect();
    insta::assert_snapshot!(observed.join(" "), @"");
    let buffers: Vec<String> = program.buffers.iter().map(|b| {
        let shape: Vec<String> = b.shape.iter().map(ToString::to_string).collect();
        format!("{} {:?} {} [{}]", b.name, b.role, b.dtype, shape.join(", "))
    }).collect();
    insta::assert_snapshot!(buffers.join("\n"), @"");
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
    let alone = fails(&layer("  %1 = softmax %0 : tensor<T x 4 x f32>\n  return %1", t4));
    assert_eq!(alone, ScheduleError::Unfused { op: "softmax", rewrite: "the fusion of gating into `route`" });
    let alone = fails(&layer("  %1 = silu %0 : tensor<T x 4 x f32>\n  return %1", t4));
    assert_eq!(alone.to_string(), "no kernel computes `silu` by itself: the body of the `gemm`, `grouped_gemm` or `combine` before it should have taken it");
    let body = fails(&layer("  %1 = gemm %0, [@w] {\n    yield softmax $0\n  } : tensor<T x 4 x f32>\n  return %1", t4));
    assert_eq!(body, ScheduleError::Body { op: "softmax", inside: "gemm" });
    let pairs = "  %1 = route %0, [@w], dropless {\n    yield top_k $0, $0, 1\n  } : routing<T x 1 of 4>\n  %2 = grouped_gemm %0, %1, [@e] : tensor<P x 4 x f32>\n  return %2";
    assert!(matches!(fails(&layer(pairs, "tensor<P x 4 x f32>")), ScheduleError::Result { .. }));
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
    for machine in MACHINES {
        for experts in [1, 3, 60, 257, 512, 4096] {
            program(&layer(experts), &machine);
        }
        assert!(matches!(schedule(&layer(100_000), &machine), Err(ScheduleError::Shared { .. })));
    }
}
