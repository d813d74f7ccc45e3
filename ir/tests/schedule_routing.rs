//! The kernels `route` and `sort` against the graph's interpreter, on many small configurations: what is picked, with what
//! weight, and where each pair goes.

use std::collections::BTreeMap;

use crate::layer::{Random, distance, params, parse, program, run, run_program};
use moec_ir::graph::{Attr, Balance, Losses, NO_EXPERT, Observation, Span, Tensor, Typed, Value, interp};
use moec_ir::kernel::Program;
use moec_ir::{Dims, Machine};

/// A layer whose routing is in question; what follows it is as small as can be.
struct Case {
    experts: usize,
    /// How many of them, the last, have no rows: the body says so.
    rowless: usize,
    top_k: usize,
    hidden: usize,
    dims: Dims,
    /// Operands of the body, and its lines up to the picks.
    vectors: usize,
    /// Their lengths, where they are not one for each expert.
    lengths: Vec<usize>,
    /// Rows of a table after them, and then the tokens' ids; 0: neither.
    vocabulary: usize,
    body: String,
    assignment: String,
    /// The rule of a `renorm_kept` after it, and then an `expert_scale`.
    renorm: Option<&'static str>,
    /// The scores in the body of which the best decides, and of how many picks, where tokens are served by it.
    best: (String, usize),
    /// The logits and scores in the body that are observed.
    observed: Option<[String; 2]>,
    losses: Option<Losses>,
    /// Whether a mask says which tokens are padding.
    masked: bool,
}

impl Case {
    /// Whether experts choose.
    fn takes_all(&self) -> bool {
        self.body.contains("all_experts")
    }

    /// Whether tokens are served by their best score.
    fn is_ranked(&self) -> bool {
        self.assignment.contains("batch_prioritized")
    }

    fn layer(&self) -> Typed {
        let mut body = self.body.clone();
        if self.is_ranked() {
            let (scores, count) = &self.best;
            body = format!("{}\n    yield best_score chosen, {scores}, {count}", body.replace("    yield", "    chosen ="));
        }
        let operands = 1 + self.vectors + if self.vocabulary > 0 { 2 } else { 0 };
        if self.masked {
            body = format!("{}\n    yield mask_tokens unmasked, ${operands}", body.replace("    yield", "    unmasked ="));
        }
        if let Some([logits, scores]) = &self.observed {
            let span = if self.losses.and_then(|losses| losses.balance).is_some_and(|(by, _)| by.is_by_sequence()) {
                Attr::Span(Span::Sequence)
            } else {
                Attr::Span(Span::All)
            };
            body = format!("{}\n    yield observe {logits}, {scores}, picks, {span}", body.replace("    yield", "    picks ="));
        }
        let Case { experts, rowless, top_k, hidden, assignment, .. } = self;
        let with_rows = experts - rowless;
        let of = if *rowless > 0 { format!("{with_rows} + {rowless}") } else { experts.to_string() };
        let mut names: Vec<String> = (0..self.vectors).map(|i| format!("@v{i}")).collect();
        let length = |i: usize| self.lengths.get(i).unwrap_or(experts);
        let mut declared: String = names.iter().enumerate().map(|(i, v)| format!(", {v}: tensor<{} x f32>", length(i))).collect();
        if self.vocabulary > 0 {
            names.extend(["@table", "%ids"].map(String::from));
            declared += &format!(", @table: tensor<{} x {top_k} x i32>, %ids: tensor<T x i32>", self.vocabulary);
        }
        if self.masked {
            names.push("%mask".to_string());
            declared += ", %mask: tensor<T x i32>";
        }
        let operands = if names.is_empty() { String::new() } else { format!(" [{}],", names.join(", ")) };
        let ty = format!("routing<T x {top_k} of {of}>");
        let renorm =
            self.renorm.map(|rule| format!("  %1 = renorm_kept %0, {rule} : {ty}\n  %kept = expert_scale %1, @scale : {ty}"));
        let routing = if renorm.is_some() { "%kept" } else { "%0" };
        let mut renorm = renorm.unwrap_or_default();
        let mut results = "%y".to_string();
        if let Some(losses) = self.losses {
            let count = 1 + usize::from(losses.balance.is_some()) + usize::from(losses.z.is_some());
            renorm += &format!("\n  %trained = losses {routing}, {} : ?", Attr::Losses(losses));
            results = "y = %y".to_string();
            for i in 0..count {
                renorm += &format!("\n  %loss{i} = item %trained, {i} : ?");
                results += &format!(", loss.{i} = %loss{i}");
            }
        }
        parse(&format!(
            "layer @case(%x: tensor<T x {hidden} x f32>, @router: tensor<{experts} x {hidden} x f32>, \
             @w: tensor<{with_rows} x 1 x {hidden} x f32>, @scale: tensor<{experts} x f32>{declared}) -> tensor<T x 1 x f32> {{
  %0 = route %x, [@router],{operands} {assignment} {{
{body}
  }} : routing<T x {top_k} of {of}>
{renorm}
  %w = pair_weights {routing} : tensor<P x 1 x f32>
  %g = grouped_gemm %x, {routing}, [@w], [%w] {{ yield mul $0, $1 }} : tensor<P x 1 x f32>
  %y = combine %g, {routing} : tensor<T x 1 x f32>
  return {results}
}}
"
        ))
    }

    /// A value of the body by the f64 interpreter.
    fn row(&self, name: &str, given: &BTreeMap<String, Tensor>) -> Tensor {
        let lines: Vec<&str> = self.body.lines().collect();
        let place = lines.iter().position(|line| line.trim().starts_with(&format!("{name} = ")));
        let body = place.map(|i| format!("{{\n{}\n}}", lines[..=i].join("\n").replace(&format!("    {name} ="), "    yield")));
        let names: Vec<String> = (0..self.vectors).map(|i| format!("@v{i}")).collect();
        let Case { experts, hidden, .. } = self;
        let declared: String = names.iter().map(|v| format!(", {v}: tensor<{experts} x f32>")).collect();
        let layer = parse(&format!(
            "layer @row(%x: tensor<T x {hidden} x f32>, @router: tensor<{experts} x {hidden} x f32>{declared}) -> ? {{
  %0 = gemm %x, [@router], [{}] {} : ?
  return %0
}}
",
            names.join(", "),
            body.unwrap_or_default()
        ));
        match interp(&layer, given, self.dims).expect("a value").pop() {
            Some(Value::Tensor(row)) => row,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn random(random: &mut Random) -> Case {
        let tokens = random.one(&[1usize, 2, 7, 16, 17, 33]);
        let rows: Vec<usize> = (1..=tokens).filter(|s| tokens.is_multiple_of(*s)).collect();
        let dims = Dims { tokens: tokens as u64, sequence_tokens: random.one(&rows) as u64 };
        let (groups, size) = random.one(&[(1, 1 + random.0 as usize % 70), (2, 9), (4, 8), (8, 1), (3, 23), (2, 33)]);
        let experts = groups * size;
        let keep = 1 + random.below(groups);
        let top_k = 1 + random.below(8.min(keep * size));
        let mut lines = Vec::new();
        let mut vectors = 0;
        let mut row = "$0".to_string();
        let value = |lines: &mut Vec<String>, text: String| {
            let name = format!("{}", char::from(b'a' + lines.len() as u8));
            lines.push(format!("    {name} = {text}"));
            name
        };
        if random.below(3) == 0 {
            vectors += 1;
            row = value(&mut lines, format!("add {row}, $1"));
        }
        let logits = row.clone();
        match random.below(6) {
            4 => row = value(&mut lines, format!("sqrt_softplus {row}")),
            5 => row = value(&mut lines, format!("tanh {row}")),
            0 => row = value(&mut lines, format!("softmax {row}")),
            1 => row = value(&mut lines, format!("sigmoid {row}")),
            2 => row = value(&mut lines, format!("scale {row}, 0.5")),
            _ => {}
        }
        let observed = (random.below(2) == 0).then(|| [logits, row.clone()]);
        let scores = row.clone();
        let mut keys = row.clone();
        if random.below(2) == 0 {
            vectors += 1;
            keys = value(&mut lines, format!("add {keys}, ${vectors}"));
        }
        if groups > 1 {
            let (score, mask) = (random.one(&["top2_sum", "max"]), random.one(&["-inf", "zero"]));
            keys = value(&mut lines, format!("group_limit {keys}, groups({groups}, keep {keep}, {score}, {mask})"));
        }
        let pick = match random.below(5) {
            0 => format!("sparse_mixer {row}, 0.3, {top_k}"),
            _ => format!("top_k {row}, {keys}, {top_k}"),
        };
        let mut picks = value(&mut lines, pick);
        match random.below(6) {
            4 => picks = value(&mut lines, format!("renorm {picks}, norm(2.0, clamp 1e-12)")),
            5 => picks = value(&mut lines, format!("renorm {picks}, norm(0.7, add 0.001)")),
            0 => picks = value(&mut lines, format!("softmax {picks}")),
            1 => picks = value(&mut lines, format!("renorm {picks}, sum(clamp 1e-12)")),
            2 => picks = value(&mut lines, format!("renorm {picks}, sum(add 0.001)")),
            _ => {}
        }
        if random.below(3) == 0 {
            vectors += 1;
            picks = value(&mut lines, format!("expert_scale {picks}, ${vectors}"));
        }
        if random.below(2) == 0 {
            value(&mut lines, format!("scale {picks}, 2.5"));
        }
        if let Some(last) = lines.last_mut() {
            *last = format!("    yield {}", last.split(" = ").nth(1).unwrap_or_default());
        }
        // Weights and scores that f32 rounds or saturates are not in the order that they have in f64.
        let exact = !["softmax", "sigmoid", "renorm"].iter().any(|op| lines.iter().any(|line| line.contains(op)));
        let assignment = match random.below(3) {
            0 => "dropless".to_string(),
            _ => {
                let capacity = random.one(&["1", "3", "ceil((T * 2) / 8)", "S", "floor(S / 2)", "0"]);
                let span = random.one(&["all", "sequence", "3", "16", "4000000000"]);
                let priorities = ["choice_major", "token_major", "batch_prioritized", "score"];
                let priority = random.one(&priorities[..if exact { 4 } else { 3 }]);
                format!("capacity({capacity}, {span}, {priority})")
            }
        };
        let hidden = random.one(&[1usize, 3, 8, 33, 40]);
        // Sums of either sign: the bound keeps them away from 0.
        let renorm = random.one(&[None, Some("sum(clamp 0.5)"), Some("norm(2.0, add 0.5)")]);
        Case {
            experts,
            rowless: 0,
            top_k,
            hidden,
            dims,
            vectors,
            lengths: vec![],
            vocabulary: 0,
            body: lines.join("\n"),
            assignment,
            renorm,
            best: (if exact { [scores, "$0".to_string()][tokens % 2].clone() } else { "$0".to_string() }, 1 + tokens % top_k),
            observed,
            losses: None,
            masked: false,
        }
    }

    /// The same with padding among the tokens, whose rows are no numbers.
    fn with_padding(&self, given: &BTreeMap<String, Tensor>, random: &mut Random) -> (Case, BTreeMap<String, Tensor>) {
        let tokens = self.dims.tokens as usize;
        let mask: Vec<f64> = (0..tokens).map(|_| random.one(&[0.0, 1.0, 1.0, -3.0])).collect();
        let mut given = given.clone();
        let rows = given.get_mut("%x").expect("rows").data.chunks_mut(self.hidden).zip(&mask);
        rows.filter(|(_, mask)| **mask == 0.0).for_each(|(row, _)| row.fill(random.one(&[f64::NAN, f64::INFINITY])));
        given.insert("%mask".to_string(), Tensor::new(vec![tokens], mask));
        let (body, assignment) = (self.body.clone(), self.assignment.clone());
        let (observed, lengths) = (self.observed.clone(), self.lengths.clone());
        (Case { body, assignment, observed, lengths, best: self.best.clone(), masked: true, ..*self }, given)
    }
}

/// Both kinds of machine, and the host's three levels of vectors.
const MACHINES: [&str; 4] = ["sm_80", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"];

fn machines() -> impl Iterator<Item = Machine> {
    MACHINES.into_iter().filter_map(Machine::named)
}

/// The layer's programs, with the first machine of those that have the same one: it would compute the same.
fn programs(layer: &Typed) -> Vec<(Machine, Program)> {
    let mut programs: Vec<(Machine, Program)> = Vec::new();
    for machine in machines() {
        let program = program(layer, &machine);
        if !programs.iter().any(|(of, known)| of.is_gpu() == machine.is_gpu() && *known == program) {
            programs.push((machine, program));
        }
    }
    programs
}

/// Whether numbers other than NaN and infinities are at stake.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    Finite,
    Any,
}

/// Runs and compares. Of weights that are no finite numbers by definition, the kernels make some number.
fn check(case: &Case, given: &BTreeMap<String, Tensor>, numbers: Numbers) {
    let layer = case.layer();
    let expected = interp(&layer, given, case.dims).expect("the interpreter runs every graph");
    let Some(Value::Routing(routing)) = expected.iter().find(|v| matches!(v, Value::Routing(_))) else { panic!("no routing") };
    for (machine, program) in programs(&layer) {
        let about = format!("{} {:?} {} {}\n{}", machine.name, case.dims, case.experts, case.assignment, case.body);
        let out = run_program(&layer, program, &machine, case.dims, given);
        let expert = |e: &usize| if *e == NO_EXPERT { -1 } else { *e as i32 };
        let picked: Vec<i32> = routing.picks.expert_of_pair.iter().map(expert).collect();
        let tokens = picked.iter().step_by(case.top_k).filter(|e| **e >= 0).count();
        if !case.takes_all() {
            assert!(out.ints("topk_experts") == picked, "{about}: topk_experts");
        }
        let mut pair_of_row = routing.pair_of_row.clone();
        if case.takes_all() && case.assignment.contains("score") && !case.masked {
            // Rows of an expert are in the order of the tokens.
            pair_of_row.sort_by_key(|pair| (routing.picks.expert_of_pair[*pair], *pair));
        }
        let mut rows = vec![-1; picked.len()];
        pair_of_row.iter().enumerate().for_each(|(row, pair)| rows[*pair] = row as i32);
        assert!(out.ints("row_of_pair") == rows, "{about}: row_of_pair");
        let of_pair: Vec<i32> = pair_of_row.iter().map(|p| (*p / case.top_k) as i32).collect();
        assert!(out.ints("token_of_row")[..of_pair.len()] == of_pair, "{about}: token_of_row");
        let count = |kept: bool| -> Vec<i32> {
            let mut counts = vec![0; case.experts];
            for (e, row) in picked.iter().zip(&rows).filter(|(e, _)| **e >= 0) {
                counts[*e as usize] += i32::from(!kept || *row >= 0);
            }
            counts
        };
        assert!(out.ints("load_of_expert") == count(case.takes_all()), "{about}: load_of_expert");
        assert!(out.ints("kept_of_expert") == count(true), "{about}: kept_of_expert");
        if case.masked {
            assert_eq!(out.ints("token_count"), [tokens as i32], "{about}: token_count");
        }
        let mut weights = out.floats("topk_weights");
        if numbers == Numbers::Any && !case.takes_all() {
            assert!(weights.iter().all(|w| !w.is_nan()), "{about}\n{weights:?}");
            let defined = routing.picks.weight_of_pair.iter();
            weights.iter_mut().zip(defined).filter(|(_, w)| !w.is_finite()).for_each(|(mine, w)| *mine = *w);
        }
        let error = distance(&weights, &routing.picks.weight_of_pair);
        assert!(error < 1e-6, "{about}\n{error} {weights:?} {:?}", routing.picks.weight_of_pair);
        if let Some(best) = &routing.picks.best_of_token {
            assert!(distance(&out.floats("best_of_token"), best) < 1e-6, "{about}: best_of_token");
        }
        if let Some([logits, scores]) = &case.observed {
            let expected = Observation::of(&case.row(logits, given), &case.row(scores, given), &routing.picks);
            let sums =
                |per_row: &[f64], n: usize| -> Vec<f64> { (0..n).map(|e| per_row.iter().skip(e).step_by(n).sum()).collect() };
            let (probability, z) = (out.floats("probability_of_block"), out.floats("z_of_block"));
            let (wanted, all_z) = (sums(&expected.probability.data, case.experts), sums(&expected.z.data, 1));
            let apart = (distance(&sums(&probability, case.experts), &wanted), distance(&sums(&z, 1), &all_z));
            assert!(apart.0 < 2e-6 && apart.1 < 2e-6, "{about}\nprobability and z are {apart:?} apart");
            assert!((wanted.iter().sum::<f64>() - tokens as f64).abs() < 1e-9, "{about}: every row sums to one");
        }
        if numbers == Numbers::Finite {
            let y = layer.graph().result("y").expect("an output");
            let Value::Tensor(y) = &expected[usize::from(y)] else { panic!("no result") };
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
        check(&case, &given, Numbers::Finite);
        let (masked, given) = case.with_padding(&given, &mut random);
        check(&masked, &given, Numbers::Finite);
    }
}

/// Enough to meet every pair of choices.
const CASES: usize = 80;

fn case(experts: usize, top_k: usize, tokens: u64, body: &str, assignment: &str) -> Case {
    let dims = Dims { tokens, sequence_tokens: tokens };
    let vectors = body.matches("$1").count().min(1);
    let (body, assignment) = (format!("    {body}"), assignment.to_string());
    Case {
        experts,
        rowless: 0,
        top_k,
        hidden: 1,
        dims,
        vectors,
        lengths: vec![],
        vocabulary: 0,
        body,
        assignment,
        renorm: None,
        best: ("$0".to_string(), top_k),
        observed: None,
        losses: None,
        masked: false,
    }
}

/// Few different logits: the lowest index wins.
#[test]
fn ties() {
    let mut random = Random(11);
    for (experts, top_k) in [(1, 1), (5, 5), (33, 4), (64, 8), (70, 64)] {
        let case = case(experts, top_k, 5, &format!("yield top_k $0, $0, {top_k}"), "dropless");
        let mut given = params(&case.layer(), case.dims, &mut random);
        for name in ["%x", "@router"] {
            let data = &mut given.get_mut(name).unwrap().data;
            data.iter_mut().for_each(|x| *x = random.one(&[-1.0, 0.5, 1.0]));
        }
        check(&case, &given, Numbers::Finite);
    }
}

/// What is no number is never picked while another expert is left; a row of nothing else picks the first experts.
#[test]
fn not_numbers() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let bodies = [
        ("a = add $0, $1\n    b = softmax a\n    c = top_k b, b, K\n    yield renorm c, sum(add 0.0)", Some(["a", "b"])),
        ("a = add $0, $1\n    s = softmax a\n    b = top_k a, a, K\n    yield softmax b", Some(["a", "s"])),
        (
            "a = sigmoid $0\n    b = add a, $1\n    c = group_limit b, groups(4, keep 2, top2_sum, -inf)\n    d = top_k a, c, K\n    yield renorm d, sum(add 1e-20)",
            Some(["$0", "a"]),
        ),
        ("a = add $0, $1\n    s = sqrt_softplus a\n    yield sparse_mixer a, 0.25, K", Some(["a", "s"])),
        (
            "a = add $0, $1\n    b = sigmoid a\n    c = top_k b, b, K\n    e = renorm c, sum(add 0.0)\n    yield scale e, 2.5",
            Some(["a", "b"]),
        ),
    ];
    let patterns =
        [vec![nan], vec![inf], vec![-inf], vec![nan, 0.5, -inf], vec![inf, nan, -0.25], vec![1.0, inf, -inf, nan, 0.0]];
    let mut random = Random(5);
    for (body, observed) in bodies {
        for pattern in &patterns {
            for top_k in [1, 3, 8] {
                let mut case = case(8, top_k, 4, &body.replace('K', &top_k.to_string()), "dropless");
                case.observed = observed.map(|names| names.map(String::from));
                let mut given = params(&case.layer(), case.dims, &mut random);
                let x = &mut given.get_mut("%x").unwrap().data;
                (x[0], x[1]) = (nan, inf);
                let router = &mut given.get_mut("@router").unwrap().data;
                router.iter_mut().for_each(|w| *w += 2.0);
                let v = &mut given.get_mut("@v0").unwrap().data;
                v.iter_mut().zip(pattern.iter().cycle()).for_each(|(v, pattern)| *v = *pattern);
                check(&case, &given, Numbers::Any);
            }
        }
    }
}

/// More pairs than a chunk: ranks go on from chunk to chunk, and start again with each span.
#[test]
fn many_chunks() {
    let mut random = Random(13);
    for (tokens, sequence_tokens, assignment) in [
        (2100, 2100, "dropless"),
        (2100, 700, "capacity(150, sequence, choice_major)"),
        (2100, 700, "capacity(150, sequence, token_major)"),
        (2100, 2100, "capacity(500, all, choice_major)"),
        (2100, 2100, "capacity(150, 400, choice_major)"),
        (2100, 2100, "capacity(500, all, batch_prioritized)"),
        (2100, 2100, "capacity(500, all, score)"),
        (2100, 700, "capacity(150, sequence, batch_prioritized)"),
        (2100, 700, "capacity(150, sequence, score)"),
        (2100, 2100, "capacity(60, 400, score)"),
        (2100, 2100, "capacity(60, 400, batch_prioritized)"),
    ] {
        let mut case = case(5, 2, tokens, "yield top_k $0, $0, 2", assignment);
        case.dims.sequence_tokens = sequence_tokens;
        let mut given = params(&case.layer(), case.dims, &mut random);
        // No zeros: whether -0.0 is less is another test's question.
        given.get_mut("%x").unwrap().data.iter_mut().for_each(|x| *x += 1.5);
        check(&case, &given, Numbers::Finite);
        let (masked, given) = case.with_padding(&given, &mut random);
        check(&masked, &given, Numbers::Finite);
    }
}

/// Experts choose: each keeps its capacity of every span, ties to the earlier token, whatever the scores.
#[test]
fn expert_choice() {
    let mut random = Random(29);
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for (experts, tokens, sequence_tokens, assignment) in [
        (1, 1, 1, "capacity(1, all, score)"),
        (5, 33, 33, "capacity(7, all, score)"),
        (33, 34, 17, "capacity(4, sequence, score)"),
        (40, 20, 20, "capacity(ceil((T * 3) / 40), 7, score)"),
        (7, 40, 8, "capacity(100, sequence, score)"),
        (3, 12, 12, "capacity(0, all, score)"),
        (70, 3, 3, "capacity(1, all, score)"),
        (6, 21, 7, "dropless"),
        (6, 21, 7, "capacity(4, sequence, token_major)"),
        (6, 21, 7, "capacity(4, 5, choice_major)"),
        (2, 2100, 2100, "capacity(600, all, score)"),
        (2, 2100, 700, "capacity(77, sequence, score)"),
    ] {
        for body in ["yield all_experts $0", "a = all_experts $0\n    b = expert_scale a, $1\n    yield scale b, 0.5"] {
            let mut case = case(experts, experts, tokens, body, assignment);
            case.dims.sequence_tokens = sequence_tokens;
            for numbers in [Numbers::Finite, Numbers::Any] {
                if body.contains("scale") && (numbers == Numbers::Any || tokens > 1000) {
                    continue; // What is no number, and many tokens, are other matters than the ops.
                }
                let mut given = params(&case.layer(), case.dims, &mut random);
                // Few different scores, and none of them a small number that the weight of another pair hides.
                let x = &mut given.get_mut("%x").unwrap().data;
                x.iter_mut().for_each(|x| *x = random.one(&[-1.0, 0.5, 1.0, 2.0, 3.0]));
                if numbers == Numbers::Any {
                    x.iter_mut().step_by(3).for_each(|x| *x = random.one(&[nan, inf, -inf, 0.0]));
                }
                given.get_mut("@router").unwrap().data.iter_mut().for_each(|w| *w = random.one(&[-1.0, 0.5, 1.0]));
                check(&case, &given, numbers);
                let (masked, given) = case.with_padding(&given, &mut random);
                check(&masked, &given, numbers);
            }
        }
    }
}

/// With logits of one product each, every machine gives every weight the same bits.
#[test]
fn machines_agree_to_the_bit() {
    let mut random = Random(19);
    for body in [
        "a = softmax $0\n    b = top_k a, a, 8\n    yield renorm b, sum(add 0.0)",
        "a = top_k $0, $0, 8\n    yield softmax a",
        "yield sparse_mixer $0, 0.3, 8",
        "a = sqrt_softplus $0\n    b = top_k a, a, 8\n    yield renorm b, norm(1.5, add 0.0)",
        "a = sigmoid $0\n    b = top_k a, a, 8\n    yield renorm b, sum(add 1e-20)",
    ] {
        for experts in [8, 60, 256] {
            let case = case(experts, 8, 17, body, "dropless");
            let given = params(&case.layer(), case.dims, &mut random);
            let weights = |m: Machine| run(&case.layer(), &m, case.dims, &given).floats("topk_weights");
            let all: Vec<Vec<f64>> = machines().map(weights).collect();
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{experts} {body}");
        }
    }
}

/// Losses of whole batches and of sequences, the last of which may be short, by one block on every machine.
#[test]
fn losses_beside_the_output() {
    let mut random = Random(29);
    for (tokens, sequence_tokens) in [(1, 1), (37, 5), (64, 16), (530, 530)] {
        for (balance, z) in [
            (Some(Balance::Load), Some(0.25)),
            (Some(Balance::First), None),
            (Some(Balance::Sequences), Some(2.0)),
            (Some(Balance::SequencesFirst), None),
            (Some(Balance::Importance), None),
            (None, Some(0.5)),
        ] {
            let mut case = case(40, 3, tokens, "s = sigmoid $0\n    yield top_k s, s, 3", "capacity(20, sequence, choice_major)");
            case.dims.sequence_tokens = sequence_tokens;
            case.observed = Some(["$0", "s"].map(String::from));
            let rule = Losses { balance: balance.map(|balance| (balance, 0.5.into())), z: z.map(f64::into) };
            case.losses = Some(rule);
            let given = params(&case.layer(), case.dims, &mut random);
            let (masked, with_padding) = case.with_padding(&given, &mut random);
            let mut nothing_else = with_padding.clone();
            nothing_else.get_mut("%mask").expect("a mask").data.fill(0.0);
            check_losses(&case, &given, &rule);
            check_losses(&masked, &with_padding, &rule);
            check_losses(&masked, &nothing_else, &rule);
        }
    }
}

fn check_losses(case: &Case, given: &BTreeMap<String, Tensor>, rule: &Losses) {
    check(case, given, Numbers::Finite);
    let layer = case.layer();
    let values = interp(&layer, given, case.dims).expect("the interpreter runs every graph");
    let Some(Value::Routing(routing)) = values.iter().find(|v| matches!(v, Value::Routing(_))) else { panic!("no routing") };
    let observation = Observation::of(&case.row("$0", given), &case.row("s", given), &routing.picks);
    let expected = observation.losses(&routing.picks, rule, case.dims);
    for (machine, program) in programs(&layer) {
        let out = run_program(&layer, program, &machine, case.dims, given);
        let about = format!("{} {:?} {rule:?} {}", machine.name, case.dims, case.masked);
        if let Some(counted) = &routing.picks.counted {
            let counted: Vec<i32> = counted.iter().map(|e| if *e == NO_EXPERT { -1 } else { *e as i32 }).collect();
            assert_eq!(out.ints("counted_experts"), counted, "{about}");
        }
        for (name, wanted) in [("aux_loss", expected.balance), ("z_loss", expected.z)] {
            if let Some(wanted) = wanted {
                let is = out.floats(name)[0];
                assert!((is - wanted).abs() < 1e-5 * wanted.abs().max(1e-2), "{about}: {name} is {is}, not {wanted}");
            }
        }
    }
}

/// With a selection bias and groups, losses that count the picks without either.
#[test]
fn losses_of_other_picks() {
    let mut random = Random(43);
    let bodies = [
        "s = sigmoid $0\n    a = add s, $1\n    b = group_limit a, groups(5, keep 2, top2_sum, -inf)\n    c = top_k s, b, 3\n    \
         d = renorm c, sum(add 1e-20)\n    e = top_k s, s, 3\n    yield counted d, e",
        "s = scale $0, 0.5\n    a = add s, $1\n    b = top_k $0, $0, 4\n    c = scale b, 0.5\n    d = top_k s, a, 4\n    \
         e = softmax d\n    yield counted e, c",
    ];
    for (body, top_k) in bodies.into_iter().zip([3, 4]) {
        for (tokens, sequence_tokens) in [(1, 1), (37, 5), (64, 16)] {
            for balance in [Balance::Load, Balance::First, Balance::Sequences, Balance::SequencesFirst, Balance::Importance] {
                let mut case = case(40, top_k, tokens, body, "capacity(20, sequence, choice_major)");
                (case.dims.sequence_tokens, case.hidden) = (sequence_tokens, 3);
                case.observed = Some(["$0", "s"].map(String::from));
                let rule = Losses { balance: Some((balance, 0.5.into())), z: None };
                case.losses = Some(rule);
                let given = params(&case.layer(), case.dims, &mut random);
                let (masked, with_padding) = case.with_padding(&given, &mut random);
                check_losses(&case, &given, &rule);
                check_losses(&masked, &with_padding, &rule);
            }
        }
    }
}

/// Tokens of which some picks are kept, and some none.
#[test]
fn renormalised_over_what_was_kept() {
    let mut random = Random(23);
    for (rule, assignment) in [
        ("sum(add 0.0)", "capacity(40, all, token_major)"),
        ("sum(add 1e-20)", "capacity(9, sequence, choice_major)"),
        ("sum(clamp 1e-7)", "capacity(0, all, choice_major)"),
        ("sum(add 0.25)", "dropless"),
        ("norm(1.0, add 0.0)", "capacity(9, sequence, choice_major)"),
        ("norm(2.0, add 1e-20)", "capacity(9, sequence, score)"),
        ("norm(3.5, clamp 1e-7)", "capacity(40, all, token_major)"),
    ] {
        let mut case = case(6, 3, 600, "a = softmax $0\n    yield top_k a, a, 3", assignment);
        (case.renorm, case.dims.sequence_tokens) = (Some(rule), 60);
        let given = params(&case.layer(), case.dims, &mut random);
        check(&case, &given, Numbers::Finite);
        let (masked, given) = case.with_padding(&given, &mut random);
        check(&masked, &given, Numbers::Finite);
    }
}

/// Experts that a table names: some twice for one token, some that there are none of, for ids that it has no row for.
#[test]
fn looked_up() {
    let mut random = Random(29);
    for (experts, top_k, vocabulary) in [(8, 2, 7), (5, 6, 1), (70, 8, 9), (3, 40, 10)] {
        for (body, assignment) in [
            ("yield hash_picks $0, $1, $2", "dropless"),
            (
                "a = softmax $0\n    b = hash_picks a, $1, $2\n    c = renorm b, sum(add 1e-20)\n    yield scale c, 1.5",
                "dropless",
            ),
            ("a = hash_picks $0, $1, $2\n    yield softmax a", "capacity(3, all, choice_major)"),
            ("a = sqrt_softplus $0\n    yield hash_picks a, $1, $2", "capacity(T, sequence, score)"),
        ] {
            let mut case = case(experts, top_k, 33, body, assignment);
            (case.vectors, case.vocabulary, case.hidden, case.dims.sequence_tokens) = (0, vocabulary, 8, 11);
            let given = params(&case.layer(), case.dims, &mut random);
            check(&case, &given, Numbers::Finite);
            let (masked, given) = case.with_padding(&given, &mut random);
            check(&masked, &given, Numbers::Finite);
        }
    }
}

/// Experts without rows: counted, never placed, whatever the room and the order of service.
#[test]
fn without_rows() {
    let mut random = Random(31);
    for (experts, rowless, top_k) in [(8, 3, 2), (40, 39, 4), (70, 6, 8)] {
        for assignment in
            ["dropless", "capacity(2, all, choice_major)", "capacity(3, sequence, score)", "capacity(2, 7, batch_prioritized)"]
        {
            let body = format!(
                "a = add $0, $1\n    b = top_k $0, a, {top_k}\n    c = scale b, 6.0\n    yield without_rows c, {rowless}"
            );
            let mut case = case(experts, top_k, 33, &body, assignment);
            (case.rowless, case.hidden, case.dims.sequence_tokens) = (rowless, 8, 11);
            let given = params(&case.layer(), case.dims, &mut random);
            check(&case, &given, Numbers::Finite);
            let (masked, given) = case.with_padding(&given, &mut random);
            check(&masked, &given, Numbers::Finite);
        }
    }
}

/// Shared columns beside those that compete, in one normalisation.
#[test]
fn joint() {
    let mut random = Random(37);
    let bodies = [
        "a = sigmoid $0\n    b = leading a, E\n    c = add b, $1\n    d = top_k b, c, K\n    e = joint d, a, N\n    yield renorm e, sum(add 0.0)",
        "a = softmax $0\n    b = leading a, E\n    c = top_k b, b, K\n    d = joint c, a, N\n    e = expert_scale d, $1\n    yield scale e, 2.0",
        "a = leading $0, E\n    b = group_limit a, groups(4, keep 2, max, -inf)\n    c = top_k a, b, K\n    d = joint c, $0, N\n    yield softmax d",
        "a = scale $0, 0.5\n    b = leading $0, E\n    c = top_k b, b, K\n    d = scale c, 0.5\n    e = joint d, a, N\n    yield renorm e, norm(2.0, add 0.5)",
    ];
    for (experts, joint, top_k) in [(8, 2, 2), (40, 9, 4), (64, 1, 6), (12, 40, 3)] {
        for (body, assignment) in bodies.iter().zip([
            "dropless",
            "capacity(2, all, choice_major)",
            "capacity(3, sequence, batch_prioritized)",
            "capacity(3, sequence, token_major)",
        ]) {
            let mut named = body.replace(", E", &format!(", {experts}")).replace(", K", &format!(", {top_k}"));
            named = named.replace(", N", &format!(", {joint}"));
            let mut case = case(experts + joint, top_k + joint, 33, &named, assignment);
            (case.rowless, case.hidden, case.dims.sequence_tokens) = (joint, 8, 11);
            case.best.1 = top_k;
            // Of the first body's operand the competing columns alone have a number.
            case.lengths = if body.contains("add b") { vec![experts] } else { vec![1; case.vectors] };
            let given = params(&case.layer(), case.dims, &mut random);
            check(&case, &given, Numbers::Finite);
            let (masked, given) = case.with_padding(&given, &mut random);
            check(&masked, &given, Numbers::Finite);
        }
    }
}

/// DeepSeek-V3's gating at its own size.
#[test]
fn group_limited() {
    let body = "a = sigmoid $0
    b = add a, $1
    c = group_limit b, groups(8, keep 4, top2_sum, -inf)
    d = top_k a, c, 8
    e = renorm d, sum(add 1e-20)
    yield scale e, 2.5";
    let mut random = Random(17);
    let mut case = case(256, 8, 3, body, "dropless");
    case.observed = Some(["$0", "a"].map(String::from));
    let given = params(&case.layer(), case.dims, &mut random);
    check(&case, &given, Numbers::Finite);
    let (masked, given) = case.with_padding(&given, &mut random);
    check(&masked, &given, Numbers::Finite);
}
