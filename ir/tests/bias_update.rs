//! The update of the correction bias, against its formula worked out by hand; and what an update may write.

use crate::layer::parse;
use moec_ir::kernel::{self, Argument, Memory, Program, Role, interp_kernel};
use moec_ir::machine::MACHINES;
use moec_ir::schedule::schedule;
use moec_ir::{Extent, Machine};

const LAYER: &str = "\
layer @corrected(%x: tensor<T x 4 x f32>, @router: tensor<E x 4 x f32>, @correction_bias: tensor<E x f32>, @w: tensor<E x 4 x 4 x f32>) -> tensor<T x 4 x f32> {
  %0 = route %x, [@router], [@correction_bias], dropless {
    a = sigmoid $0
    b = add a, $1
    yield top_k a, b, 2
  } : routing<T x 2 of E>
  %1 = grouped_gemm %x, %0, [@w] : tensor<P x 4 x f32>
  %2 = combine %1, %0 : tensor<T x 4 x f32>
  %3 = bias_update @correction_bias, %0, RATE : tensor<E x f32>
  return y = %2, @correction_bias = %3
}
";

fn text(experts: usize, rate: f64) -> String {
    let experts = [format!("<{experts}"), format!("of {experts}")];
    LAYER.replace("<E", &experts[0]).replace("of E", &experts[1]).replace("RATE", &format!("{rate:?}"))
}

fn updated(machine: &Machine, experts: usize, rate: f64) -> Program {
    let program = schedule(&parse(&text(experts, rate)), machine).expect("a program");
    if let Err(found) = kernel::verify(&program, machine) {
        panic!("{}: {}", machine.name, kernel::print_with_violations(&program, &found));
    }
    program
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The bias after an update, from `bias` and `load`.
fn bias(machine: &Machine, bias: &[f32], load: &[i32], rate: f64) -> Vec<f32> {
    let program = updated(machine, load.len(), rate);
    let launch = &program.update[0];
    assert_eq!(launch.grid, Extent::Const(1));
    let mut memory = [Memory::from(load.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()), Memory::from(floats(bias))];
    let args = [Argument::Buffer(0), Argument::Buffer(1)];
    interp_kernel(&program.kernels[launch.kernel], machine, 1, &args, &mut memory)
        .unwrap_or_else(|e| panic!("{}: {e}", machine.name));
    memory[1].bytes_or(0xAB).chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn by_hand() {
    for machine in ["sm_80", "sm_90a", "x86-64-v3"].into_iter().filter_map(Machine::named) {
        // Mean 2: above it down, below it up, at it nothing.
        assert_eq!(bias(&machine, &[0.5, -1.0, 0.0, 0.25], &[3, 1, 2, 2], 0.125), [0.375, -0.875, 0.0, 0.25]);
        // Mean 10 / 3: no load is at it.
        assert_eq!(bias(&machine, &[0.0; 3], &[3, 3, 4], 0.5), [0.5, 0.5, -0.5]);
        assert_eq!(bias(&machine, &[1.0; 5], &[0; 5], 0.5), [1.0; 5], "no load, no update");
        assert_eq!(bias(&machine, &[1.0; 2], &[7, 3], 0.0), [1.0; 2], "no rate, no update");
        // Sums beyond i32.
        assert_eq!(bias(&machine, &[0.0; 4], &[i32::MAX, i32::MAX, i32::MAX, 0], 1.0), [-1.0, -1.0, -1.0, 1.0]);
    }
}

/// More experts than a block has threads, and a number of them that no lane count divides.
#[test]
fn many_experts() {
    for machine in ["sm_90a", "x86-64-v4"].into_iter().filter_map(Machine::named) {
        let load: Vec<i32> = (0..1037).map(|e| (e * 7919) % 1013).collect();
        let mean = load.iter().map(|n| f64::from(*n)).sum::<f64>() / 1037.0;
        let expected: Vec<f32> = load.iter().map(|n| (mean - f64::from(*n)).signum() as f32 * 0.25).collect();
        assert_eq!(bias(&machine, &[0.0; 1037], &load, 0.25), expected);
    }
}

#[test]
fn text_says_the_update() {
    for machine in MACHINES {
        let program = updated(&machine, 8, 0.001);
        let text = kernel::print(&program);
        assert!(
            text.contains("  update {\n    launch @bias_update(%load = %load_of_expert, %bias = %correction_bias) grid 1\n  }\n"),
            "{text}"
        );
        let again = kernel::parse(&text).expect("a program");
        assert_eq!((again.update == program.update, kernel::print(&again) == text), (true, true), "{text}");
    }
}

/// A run never writes a weight, an update never an output.
#[test]
fn only_an_update_writes_weights() {
    let machine = Machine::named("sm_80").expect("a machine");
    let message = |program: &Program| kernel::verify(program, &machine).expect_err("a violation")[0].message.clone();
    let mut program = updated(&machine, 8, 0.001);
    let launch = program.update.pop().expect("a launch");
    program.regimes[0].launches.push(launch.clone());
    assert_eq!(message(&program), "%bias: a weight is not written");
    program.regimes[0].launches.pop();
    program.update.push(launch);
    let bias = program.buffers.iter_mut().find(|b| b.name == "correction_bias").expect("a bias");
    bias.role = Role::Output;
    assert_eq!(message(&program), "%bias: an update has no output");
}

/// A weight becomes what is computed for it and nothing else, and only in its own place.
#[test]
fn a_weight_becomes_what_is_computed_for_it() {
    let machine = Machine::named("sm_80").expect("a machine");
    let wrong = |from: &str, to: &str| {
        let text = text(4, 0.5).replace(from, to);
        schedule(&parse(&text), &machine).expect_err("not in its own place").to_string()
    };
    let unwritten = "the layer's result `@correction_bias` is tensor<4 x f32>, which no kernel writes";
    assert!(
        wrong("return y = %2, @correction_bias = %3", "return y = %2, @correction_bias = @correction_bias")
            .starts_with(unwritten)
    );
    // Sums have the bias's type, and are still not its next value.
    let observed =
        text(4, 0.5).replace("    yield top_k a, b, 2", "    c = top_k a, b, 2\n    yield observe $0, a, c, span(all)");
    let sums = observed.replace("  %3 = bias_update @correction_bias, %0, 0.5 :", "  %3 = part %0, probability :");
    let sums = schedule(&parse(&sums), &machine).expect_err("sums").to_string();
    assert!(sums.starts_with(unwritten), "{sums}");
    let other = wrong("return y = %2, @correction_bias = %3", "return y = %2, bias = %3");
    assert!(other.starts_with("the layer's result `bias` is tensor<4 x f32>, which no kernel writes"), "{other}");
}
