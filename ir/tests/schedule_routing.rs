//! The kernels `route` and `sort` against the graph's interpreter, on many small configurations: who is picked, with what
//! weight, and where each pair goes.

mod layer;

use layer::{Random, distance, params, parse, run};
use moec_ir::graph::{Tensor, Typed, Value, interp};
use moec_ir::{Dims, Machine};

/// A layer whose routing is in question; what follows it is as small as can be.
struct Case {
    experts: usize,
    top_k: usize,
    hidden: usize,
    dims: Dims,
    /// Operands of the body, and its lines up to the picks.
    vectors: usize,
    body: String,
    assignment: String,
}

impl Case {
    fn layer(&self) -> Typed {
        let Case { experts, top_k, hidden, body, assignment, .. } = self;
        let names: Vec<String> = (0..self.vectors).map(|i| format!("@v{i}")).collect();
        let declared: String = names.iter().map(|v| format!(", {v}: tensor<{experts} x f32>")).collect();
        let operands = if names.is_empty() { String::new() } else { format!(" [{}],", names.join(", ")) };
        parse(&format!(
            "layer @case(%x: tensor<T x {hidden} x f32>, @router: tensor<{experts} x {hidden} x f32>, \
             @w: tensor<{experts} x 1 x {hidden} x f32>{declared}) -> tensor<T x 1 x f32> {{
  %0 = route %x, [@router],{operands} {assignment} {{
{body}
  }} : routing<T x {top_k} of {experts}>
  %1 = grouped_gemm %x, %0, [@w] : tensor<P x 1 x f32>
  %2 = combine %1, %0 : tensor<T x 1 x f32>
  return %2
}}
"
        ))
    }

    fn random(random: &mut Random) -> Case {
        let tokens = random.one(&[1usize, 2, 7, 16, 17, 33]);
        let rows: Vec<usize> = (1..=tokens).filter(|s| tokens % s == 0).collect();
        let dims = Dims { tokens: tokens as u64, row_tokens: random.one(&rows) as u64 };
        let (groups, size) = random.one(&[(1, 1 + random.0 as usize % 70), (2, 9), (4, 8), (8, 1), (3, 23), (2, 33)]);
        let experts = groups * size;
        let keep = 1 + random.below(groups);
        let top_k = 1 + random.below(8.min(keep * size));
        let mut lines = Vec::new();
        let mut vectors = 0;
        let mut row = "$0".to_string();
        let mut value = |lines: &mut Vec<String>, text: String| {
            let name = format!("{}", char::from(b'a' + lines.len() as u8));
            lines.push(format!("    {name} = {text}"));
            name
        };
        if random.below(3) == 0 {
            vectors += 1;
            row = value(&mut lines, format!("add {row}, $1"));
        }
        match random.below(4) {
            0 => row = value(&mut lines, format!("softmax {row}")),
            1 => row = value(&mut lines, format!("sigmoid {row}")),
            2 => row = value(&mut lines, format!("scale {row}, 0.5")),
            _ => {}
        }
        let mut keys = row.clone();
        if random.below(2) == 0 {
            vectors += 1;
            keys = value(&mut lines, format!("add {keys}, ${vectors}"));
        }
        if groups > 1 {
            let (score, mask) = (random.one(&["top2_sum", "max"]), random.one(&["-inf", "zero"]));
            keys = value(&mut lines, format!("group_limit {keys}, groups({groups}, keep {keep}, {score}, {mask})"));
        }
        let mut picks = value(&mut lines, format!("top_k {row}, {keys}, {top_k}"));
        match random.below(4) {
            0 => picks = value(&mut lines, format!("softmax {picks}")),
            1 => picks = value(&mut lines, format!("renorm {picks}, sum(clamp 1e-12)")),
            2 => picks = value(&mut lines, format!("renorm {picks}, sum(add 0.001)")),
            _ => {}
        }
        if random.below(2) == 0 {
            value(&mut lines, format!("scale {picks}, 2.5"));
        }
        if let Some(last) = lines.last_mut() {
            *last = format!("    yield {}", last.split(" = ").nth(1).unwrap_or_default());
        }
        let assignment = match random.below(3) {
            0 => "dropless".to_string(),
            _ => {
                let capacity = random.one(&["1", "3", "ceil((T * 2) / 8)", "S", "floor(S / 2)", "0"]);
                let (span, priority) = (random.one(&["all", "row"]), random.one(&["choice_major", "token_major"]));
                format!("capacity({capacity}, {span}, {priority})")
            }
        };
        let hidden = random.one(&[1usize, 3, 8, 33, 40]);
        Case { experts, top_k, hidden, dims, vectors, body: lines.join("\n"), assignment }
    }
}

/// Both kinds of machine, and the host's three levels of vectors.
const MACHINES: [&str; 4] = ["sm_80", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"];

fn machines() -> impl Iterator<Item = Machine> {
    MACHINES.into_iter().filter_map(Machine::named)
}

/// Runs and compares. `exact`: weights are compared too.
fn check(case: &Case, given: &std::collections::BTreeMap<String, Tensor>, compare: &str) {
    let layer = case.layer();
    let expected = interp(&layer, given, case.dims).unwrap();
    let Some(Value::Routing(routing)) = expected.iter().find(|v| matches!(v, Value::Routing(_))) else { panic!("no routing") };
    for machine in machines() {
        let about = format!("{} {:?} {} {}\n{}", machine.name, case.dims, case.experts, case.assignment, case.body);
        let out = run(&layer, &machine, case.dims, given);
        let picked: Vec<i32> = routing.picks.expert_of_pair.iter().map(|e| *e as i32).collect();
        assert_eq!(out.ints("topk_experts"), picked, "{about}");
        let rows: Vec<i32> = routing.row_of_pair.iter().map(|r| r.map_or(-1, |r| r as i32)).collect();
        assert_eq!(out.ints("row_of_pair"), rows, "{about}");
        let of_pair: Vec<i32> = routing.pair_of_row.iter().map(|p| (*p / case.top_k) as i32).collect();
        assert_eq!(out.ints("token_of_row")[..of_pair.len()], of_pair, "{about}");
        let count = |kept: bool| -> Vec<i32> {
            let mut counts = vec![0; case.experts];
            for (e, row) in picked.iter().zip(&rows) {
                counts[*e as usize] += i32::from(!kept || *row >= 0);
            }
            counts
        };
        assert_eq!(out.ints("load_of_expert"), count(false), "{about}");
        assert_eq!(out.ints("kept_of_expert"), count(true), "{about}");
        if compare == "weights" {
            let error = distance(&out.floats("topk_weights"), &routing.picks.weight_of_pair);
            assert!(error < 1e-6, "{about}\n{error} {:?} {:?}", out.floats("topk_weights"), routing.picks.weight_of_pair);
            let Some(Value::Tensor(y)) = expected.last() else { panic!("no result") };
            assert!(distance(&out.floats("y"), &y.data) < 1e-5, "{about}");
        }
    }
}

#[test]
fn random_configurations() {
    let mut random = Random(7);
    for _ in 0..CASES {
        let case = Case::random(&mut random);
        let given = params(&case.layer(), case.dims, &mut random);
        check(&case, &given, "weights");
    }
}

/// Enough to meet every pair of choices.
const CASES: usize = 60;
