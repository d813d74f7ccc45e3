//! The interpreter against numbers worked out by hand: every op has its test.

use std::collections::BTreeMap;

use moec_ir::Dims;
use moec_ir::graph::{
    Attr, Balance, Losses, NO_EXPERT, Node, Observation, Op, Penalty, Picks, Pointwise, Routing, Slots, Tensor, Value, interp,
    interp_node, parse, print_with_violations, verify,
};

#[path = "graph_interp/entries.rs"]
mod entries;
#[path = "graph_interp/launches.rs"]
mod launches;
#[path = "graph_interp/parts.rs"]
mod parts;
#[path = "graph_interp/ranks.rs"]
mod ranks;

use entries::{given, told_picks};
use launches::{item, launch};
use parts::{bias_update, losses, observe, part};
use ranks::{best_score, counted, mask_tokens, within};

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

/// One `#[test]` for each op, and the list of them.
macro_rules! definitions {
    ($($op:ident => $test:ident),*; $($pointwise:ident => $test_of_pointwise:ident),* $(,)?) => {
        const TESTED: &[Op] = &[$(Op::$op,)* $(Op::Pointwise(Pointwise::$pointwise)),*];
        mod each {
            $(#[test]
            fn $test() {
                super::$test();
            })*
            $(#[test]
            fn $test_of_pointwise() {
                super::$test_of_pointwise();
            })*
        }
    };
}

definitions! {
    List => list, Gemm => gemm, GroupedGemm => grouped_gemm, Route => route, TopK => top_k, AllExperts => all_experts,
    SparseMixer => sparse_mixer, HashPicks => hash_picks, Given => given, Leading => leading, Joint => joint, GroupLimit => group_limit,
    Renorm => renorm, ExpertScale => expert_scale, Observe => observe, Counted => counted, BestScore => best_score,
    WithoutRows => without_rows, Within => within, Assign => assign,
    Losses => losses, Picked => told_picks, Part => part, BiasUpdate => bias_update, RenormKept => renorm_kept,
    Dispatch => dispatch, ExpertRows => expert_rows, PairWeights => pair_weights, PickWeights => pick_weights,
    DroppedInput => dropped_input, IdentityInput => identity_input, Combine => combine, Flatten => flatten, Slots => slots,
    TokenSoftmax => token_softmax, SoftDispatch => soft_dispatch, SoftCombine => soft_combine, Launch => launch, Item => item,
    RmsNorm => rms_norm,
    Jitter => jitter, Softmax => softmax;
    MaskTokens => mask_tokens, Cast => cast, Tf32 => tf32,
    Scale => scale, Offset => offset, AtMost => at_most, AtLeast => at_least, Sigmoid => sigmoid, Tanh => tanh, SqrtSoftplus => sqrt_softplus,
    Silu => silu, Gelu => gelu, GeluTanh => gelu_tanh, Relu => relu,
    Square => square, Add => add, Mul => mul,
}

#[test]
fn every_op_has_a_test() {
    assert_eq!(TESTED, Op::ALL);
}

/// The recipe for an op in ARCHITECTURE.md: each file that it names says something of each op, so that no wildcard took one in.
#[test]
fn the_recipe_for_an_op_names_files_that_name_every_op() {
    macro_rules! files {
        ($($path:literal),*) => { [$(($path, include_str!(concat!("../../", $path)))),*] };
    }
    let of_ops = files!(
        "ir/src/graph/infer.rs",
        "ir/src/graph/interp/ops.rs",
        "ir/src/rewrite/cost.rs",
        "ir/src/schedule/plan/mod.rs",
        "ir/src/schedule/route/row.rs"
    );
    let of_pointwise = files!(
        "ir/src/graph/infer.rs",
        "ir/src/graph/interp/arithmetic.rs",
        "ir/src/rewrite/cost.rs",
        "ir/src/rewrite/rules/fusion.rs",
        "ir/src/schedule/body.rs"
    );
    let page = include_str!("../../ARCHITECTURE.md");
    let recipe = page.split("\n* ").find(|recipe| recipe.starts_with("**An op**")).expect("a recipe for an op");
    let is_named = |text: &str, name: &str| {
        let after = text.match_indices(name).map(|(at, _)| text[at + name.len()..].chars().next());
        after.flatten().any(|next| !next.is_alphanumeric())
    };
    let mut absent: Vec<String> = Vec::new();
    for op in Op::ALL {
        let (name, files) = match op {
            Op::Pointwise(op) => (format!("Pointwise::{op:?}"), of_pointwise),
            op => (format!("Op::{op:?}"), of_ops),
        };
        absent.extend(files.iter().filter(|(_, text)| !is_named(text, &name)).map(|(path, _)| format!("{name} in {path}")));
    }
    absent
        .extend(of_ops.iter().chain(&of_pointwise).filter(|(path, _)| !recipe.contains(path)).map(|(path, _)| path.to_string()));
    assert!(absent.is_empty(), "{absent:#?}");
}

/// Parameters `name: shape`, where the first extent of a `%` is T, in f32 but for tables, ids and seeds.
type Given<'a> = &'a [(&'a str, &'a [usize], &'a [f64])];

fn try_eval(op: Op, lines: &str, given: Given, dims: Dims) -> Result<Value, String> {
    let declare = |(name, shape, _): &(&str, &[usize], &[f64])| {
        let dtype = if ["@table", "@map", "%ids", "%mask", "@seed"].contains(name) { "i32" } else { "f32" };
        let dims: Vec<String> = shape.iter().map(|n| format!("{n} x ")).collect();
        let first = if name.starts_with('%') { "T x ".to_string() } else { dims[0].clone() };
        format!("{name}: tensor<{first}{}{dtype}>", dims[1..].concat())
    };
    let params: Vec<String> = given.iter().map(declare).collect();
    let graph = parse(&format!("layer @case({}) -> ? {{\n{lines}\nreturn %y\n}}", params.join(", "))).expect("a graph");
    let typed = verify(graph.clone()).unwrap_or_else(|found| panic!("{}", print_with_violations(&graph, &found)));
    let value = |(name, shape, data): &(&str, &[usize], &[f64])| (name.to_string(), Tensor::new(shape.to_vec(), data.to_vec()));
    let params: BTreeMap<String, Tensor> = given.iter().map(value).collect();
    let values = interp(&typed, &params, dims)?;
    let nodes = typed.graph().nodes.as_ref().iter().zip(values);
    let mut of_op = nodes.filter(|(node, _)| matches!(node, Node::Apply(found, _) if *found == op));
    Ok(of_op.next_back().expect("an op of that name").1)
}

/// The value of the last `op` of the lines, of which `%y` must be a tensor. T is that of the first parameter.
fn eval(op: impl Into<Op>, lines: &str, given: Given) -> Value {
    let tokens = given[0].1[0] as u64;
    try_eval(op.into(), lines, given, Dims { tokens, sequence_tokens: tokens }).expect("a value")
}

fn tensor(value: Value) -> Tensor {
    match value {
        Value::Tensor(tensor) => tensor,
        other => panic!("not a tensor: {other:?}"),
    }
}

fn picks(value: Value) -> Picks {
    match value {
        Value::Picks(picks) => picks,
        other => panic!("not picks: {other:?}"),
    }
}

fn routing(value: Value) -> Routing {
    match value {
        Value::Routing(routing) => routing,
        other => panic!("not a routing: {other:?}"),
    }
}

#[track_caller]
fn close(is: &[f64], wanted: &[f64]) {
    let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-13 * b.abs().max(1.0);
    assert!(is.len() == wanted.len() && is.iter().zip(wanted).all(|(a, b)| same(*a, *b)), "{is:?} is not {wanted:?}");
}

/// `%y` over one row of numbers.
#[track_caller]
fn pointwise(op: impl Into<Op> + Copy, constant: &str, x: &[f64], y: &[f64]) {
    let line = format!("%y = {} %x{constant} : ?", op.into().name());
    let value = tensor(eval(op, &line, &[("%x", &[1, x.len()], x)]));
    assert_eq!(value.shape, [1, x.len()]);
    close(&value.data, y);
}

fn list() {
    let given: Given = &[("%x", &[1, 1], &[2.0]), ("@w", &[1, 1], &[3.0]), ("@a", &[1], &[5.0]), ("@b", &[1], &[7.0])];
    let lines = "%y = gemm %x, [@w], [@b, @a] { a = add $0, $1 yield mul a, $2 } : ?";
    let item = |x: f64| Value::Tensor(Tensor::new(vec![1], vec![x]));
    assert_eq!(eval(Op::List, lines, given), Value::List(vec![item(7.0), item(5.0)]));
    assert_eq!(tensor(eval(Op::Gemm, lines, given)).data, [65.0]);
}

fn gemm() {
    let x: (&str, &[usize], &[f64]) = ("%x", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let w: (&str, &[usize], &[f64]) = ("@w", &[2, 3], &[1.0, 0.0, -1.0, 2.0, 1.0, 0.0]);
    let y = tensor(eval(Op::Gemm, "%y = gemm %x, [@w] : ?", &[x, w]));
    assert_eq!((y.shape, y.data.to_vec()), (vec![2, 2], vec![-2.0, 4.0, -2.0, 13.0]));
    let body = "%y = gemm %x, [@w, @w], [@b] { a = add $0, $2 yield mul a, $1 } : ?";
    let y = tensor(eval(Op::Gemm, body, &[x, w, ("@b", &[2], &[10.0, 20.0])]));
    assert_eq!(y.data, [-16.0, 96.0, -16.0, 429.0]);
    let y = tensor(eval(Op::Gemm, "%y = gemm %x, [@w] : ?", &[("%x", &[0, 3], &[]), w]));
    assert_eq!((y.shape, y.data.to_vec()), (vec![0, 2], vec![]));
}

/// Three tokens whose best experts are 1, 0, 1: the grouped rows are those of tokens 1, 0, 2.
const SCORES: (&str, &[usize], &[f64]) = ("%s", &[3, 2], &[0.1, 0.9, 0.6, 0.4, 0.2, 0.8]);
const ROUTE: &str = "%p = top_k %s, %s, 1 : ? %r = assign %p, dropless : ?";

fn grouped_gemm() {
    let given: Given = &[
        SCORES,
        ("%x", &[3, 2], &[1.0, 3.0, 3.0, 4.0, 5.0, 6.0]),
        ("@w", &[2, 1, 2], &[1.0, 1.0, 1.0, -1.0]),
        ("@b", &[2, 1], &[100.0, 200.0]),
    ];
    for rows in ["%rows = dispatch %x, %r : ? %y = grouped_gemm %rows, %r, [@w] : ?", "%y = grouped_gemm %x, %r, [@w] : ?"] {
        let y = tensor(eval(Op::GroupedGemm, &format!("{ROUTE} {rows}"), given));
        assert_eq!((y.shape, y.data.to_vec()), (vec![3, 1], vec![7.0, -2.0, -1.0]));
    }
    let bias = "%b = expert_rows @b, %r : ? %y = grouped_gemm %x, %r, [@w], [%b] { yield add $0, $1 } : ?";
    let y = tensor(eval(Op::GroupedGemm, &format!("{ROUTE} {bias}"), given));
    assert_eq!(y.data, [107.0, 198.0, 199.0]);
}

fn route() {
    let lines = "%r = route %x, [@w], dropless { a = top_k $0, $0, 2 yield scale a, 0.5 } : ? %y = pair_weights %r : ?";
    let given: Given = &[("%x", &[2, 1], &[1.0, -2.0]), ("@w", &[3, 1], &[2.0, 4.0, 8.0])];
    let r = routing(eval(Op::Route, lines, given));
    // Logits 2 4 8 and -4 -8 -16.
    assert_eq!(r.picks.expert_of_pair, [2, 1, 0, 1]);
    assert_eq!(r.picks.weight_of_pair, [4.0, 2.0, -2.0, -4.0]);
    assert_eq!(r.pair_of_row, [2, 1, 3, 0]);
    assert_eq!(r.row_of_pair, [Some(3), Some(1), Some(0), Some(2)]);
}

const OBSERVE: &str = "%r = assign %p, dropless : ? %y = pair_weights %r : ?";

#[track_caller]
fn picked(k: usize, scores: &[f64], keys: &[f64], experts: &[usize], weights: &[f64]) {
    let lines = format!("%p = top_k %s, %k, {k} : ? {OBSERVE}");
    let p = picks(eval(Op::TopK, &lines, &[("%s", &[1, scores.len()], scores), ("%k", &[1, keys.len()], keys)]));
    assert_eq!((p.top_k, p.experts, &p.expert_of_pair[..]), (k, scores.len(), experts));
    close(&p.weight_of_pair, weights);
}

fn top_k() {
    let scores = [0.5, NAN, 0.5, 0.9, -INF];
    picked(4, &scores, &scores, &[3, 0, 2, 1], &[0.9, 0.5, 0.5, NAN]);
    picked(5, &scores, &scores, &[3, 0, 2, 1, 4], &[0.9, 0.5, 0.5, NAN, -INF]);
    picked(2, &[1.0, 2.0, 3.0], &[9.0, 7.0, 8.0], &[0, 2], &[1.0, 3.0]);
    picked(3, &[0.0; 3], &[0.0; 3], &[0, 1, 2], &[0.0; 3]);
    // Zeros of either sign tie.
    picked(2, &[1.0, 2.0, 3.0], &[-0.0, 0.0, -1.0], &[0, 1], &[1.0, 2.0]);
    picked(1, &[1.0, 2.0], &[INF, INF], &[0], &[1.0]);
}

fn all_experts() {
    let scores = [0.5, NAN, -INF, 0.25, 2.0, 0.5];
    let p = picks(eval(Op::AllExperts, &format!("%p = all_experts %s : ? {OBSERVE}"), &[("%s", &[2, 3], &scores)]));
    assert_eq!((p.top_k, p.experts, &p.expert_of_pair[..]), (3, 3, &[0, 1, 2, 0, 1, 2][..]));
    close(&p.weight_of_pair, &scores);
}

#[track_caller]
fn mixed(jitter: f64, x: &[f64], experts: &[usize], weights: &[f64]) {
    let lines = format!("%p = sparse_mixer %s, {jitter:?}, {} : ? {OBSERVE}", experts.len());
    let p = picks(eval(Op::SparseMixer, &lines, &[("%s", &[1, x.len()], x)]));
    assert_eq!((p.top_k, p.experts, &p.expert_of_pair[..]), (experts.len(), x.len(), experts));
    close(&p.weight_of_pair, weights);
}

fn sparse_mixer() {
    let share = |rest: &[f64]| 1.0 / (1.0 + rest.iter().map(|x| x.exp()).sum::<f64>());
    // 3 is 1/4 below 4; 2 is 1/2 below 4 and 1/3 below 3; -1 is 5/4 below 4, 1 and more.
    mixed(0.01, &[3.0, 4.0, 2.0], &[1, 0], &[1.0, 1.0]);
    mixed(0.125, &[3.0, 4.0, 2.0], &[1, 0, 2], &[share(&[-1.0]), 1.0, 1.0]);
    mixed(0.25, &[3.0, 4.0, 2.0, -1.0], &[1, 0], &[share(&[-1.0, -2.0]), share(&[-1.0])]);
    // Ties to the lower index, zeros too; a negative maximum divides by the size of the other.
    mixed(0.0, &[5.0, 5.0, 1.0], &[0, 1], &[0.5, 1.0]);
    mixed(0.0, &[0.0, -0.0, -1.0], &[0, 1, 2], &[0.5, 1.0, 1.0]);
    mixed(0.25, &[-1.0, -2.0, -4.0], &[0, 1, 2], &[share(&[-1.0]), share(&[-2.0]), 1.0]);
    // No number is the least one.
    mixed(0.5, &[NAN, 1.0, INF, -INF], &[2, 1, 0, 3], &[1.0, 1.0, 0.5, 1.0]);
    mixed(0.5, &[NAN, NAN], &[0, 1], &[0.5, 1.0]);
}

fn hash_picks() {
    let scores: (&str, &[usize], &[f64]) = ("%x", &[4, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, NAN, 9.0, -INF, 11.0, 12.0]);
    let table: (&str, &[usize], &[f64]) = ("@table", &[2, 2], &[2.0, 0.0, 1.0, 1.0]);
    let of = |ids: &[f64], table: (&str, &[usize], &[f64])| {
        let lines = "%q = hash_picks %x, @table, %ids : ? %r = assign %q, dropless : ? %y = pair_weights %r : ?";
        picks(eval(Op::HashPicks, lines, &[scores, table, ("%ids", &[4], ids)]))
    };
    let found = of(&[0.0, 1.0, 1.0, 0.0], table);
    assert_eq!((found.top_k, found.experts, &found.expert_of_pair[..]), (2, 3, &[2, 0, 1, 1, 1, 1, 2, 0][..]));
    close(&found.weight_of_pair, &[3.0, 1.0, 5.0, 5.0, NAN, NAN, 12.0, -INF]);
    // Beyond the table, and entries beyond the experts: the nearest.
    assert_eq!(of(&[-7.0, 9.0, 1.0, 0.0], table).expert_of_pair, [2, 0, 1, 1, 1, 1, 2, 0]);
    let wild = ("@table", table.1, &[-1.0, 3.0, 2e9, -2e9][..]);
    assert_eq!(of(&[0.0, 1.0, 0.0, 1.0], wild).expert_of_pair, [0, 2, 2, 0, 0, 2, 2, 0]);
}

#[track_caller]
fn limited(rule: &str, keys: &[f64], left: &[f64]) {
    pointwise(Op::GroupLimit, &format!(", groups({rule})"), keys, left);
}

fn group_limit() {
    let keys = [1.0, 2.0, 5.0, -9.0, 3.0, 3.0, 0.0, 4.0];
    let none = -INF;
    // The largest keys: 2, 5, 3, 4. The sums of the two largest: 3, -4, 6, 4.
    limited("4, keep 2, max, -inf", &keys, &[none, none, 5.0, -9.0, none, none, 0.0, 4.0]);
    limited("4, keep 2, max, zero", &keys, &[0.0, 0.0, 5.0, -9.0, 0.0, 0.0, 0.0, 4.0]);
    limited("4, keep 2, top2_sum, -inf", &keys, &[none, none, none, none, 3.0, 3.0, 0.0, 4.0]);
    limited("2, keep 1, top2_sum, zero", &keys, &[1.0, 2.0, 5.0, -9.0, 0.0, 0.0, 0.0, 0.0]);
    limited("8, keep 2, top2_sum, zero", &keys, &[0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 4.0]);
    limited("1, keep 1, max, zero", &keys, &keys);
    // Ties to the lower group; a NaN is the least of its group, and a sum with it the least of all.
    limited("2, keep 1, max, zero", &[1.0, 2.0, 2.0, 1.0], &[1.0, 2.0, 0.0, 0.0]);
    limited("2, keep 1, max, -inf", &[NAN, 1.0, 0.5, 0.5], &[NAN, 1.0, none, none]);
    limited("2, keep 1, top2_sum, zero", &[NAN, 9.0, -1.0, -1.0], &[0.0, 0.0, -1.0, -1.0]);
}

fn renorm() {
    let of = |rule: &str, scores: &[f64]| {
        let rule = if rule.contains(',') { format!("norm({rule})") } else { format!("sum({rule})") };
        let lines = format!("%q = top_k %s, %s, 2 : ? %p = renorm %q, {rule} : ? {OBSERVE}");
        picks(eval(Op::Renorm, &lines, &[("%s", &[1, 2], scores)])).weight_of_pair
    };
    close(&of("add 0.0", &[3.0, 1.0]), &[0.75, 0.25]);
    close(&of("add 1.0", &[3.0, 1.0]), &[0.6, 0.2]);
    close(&of("clamp 8.0", &[3.0, 1.0]), &[0.375, 0.125]);
    close(&of("clamp 0.5", &[3.0, 1.0]), &[0.75, 0.25]);
    close(&of("clamp 0.5", &[1.0, -1.0]), &[2.0, -2.0]);
    close(&of("add 0.0", &[0.0, 0.0]), &[NAN, NAN]);
    close(&of("add 0.0", &[1.0, -1.0]), &[INF, -INF]);
    close(&of("1.0, add 0.0", &[3.0, -1.0]), &[0.75, -0.25]);
    close(&of("2.0, add 0.0", &[4.0, 3.0]), &[0.8, 0.6]);
    close(&of("2.0, add 5.0", &[4.0, 3.0]), &[0.4, 0.3]);
    close(&of("2.0, clamp 10.0", &[4.0, -3.0]), &[0.4, -0.3]);
    close(&of("0.5, add 0.0", &[4.0, 1.0]), &[4.0 / 9.0, 1.0 / 9.0]);
    close(&of("3.0, add 0.0", &[2e-200, 1e-200]), &[2.0 / 9f64.cbrt(), 1.0 / 9f64.cbrt()]);
    close(&of("2.0, add 0.0", &[0.0, 0.0]), &[NAN, NAN]);
}

fn expert_scale() {
    let lines = format!("%q = top_k %s, %s, 2 : ? %p = expert_scale %q, @s : ? {OBSERVE}");
    let given: Given = &[("%s", &[2, 3], &[0.1, 0.9, 0.6, 3.0, 2.0, 1.0]), ("@s", &[3], &[10.0, 2.0, -1.0])];
    close(&picks(eval(Op::ExpertScale, &lines, given)).weight_of_pair, &[1.8, -0.6, 30.0, 4.0]);
    // Picks 1 2 and 0 1; expert 1 has no room for the second token's.
    let lines_kept = "%q = top_k %s, %s, 2 : ? %a = assign %q, capacity(1, all, token_major) : ? %r = expert_scale %a, @s : ? \
                      %y = pair_weights %r : ?";
    close(&routing(eval(Op::ExpertScale, lines_kept, given)).picks.weight_of_pair, &[1.8, -0.6, 30.0, 2.0]);
    let given: Given = &[given[0], ("@s", &[1], &[-10.0])];
    close(&picks(eval(Op::ExpertScale, &lines, given)).weight_of_pair, &[-9.0, -6.0, -30.0, -20.0]);
    close(&routing(eval(Op::ExpertScale, lines_kept, given)).picks.weight_of_pair, &[-9.0, -6.0, -30.0, 2.0]);
}

fn flatten() {
    let w: (&str, &[usize], &[f64]) = ("@w", &[2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    let y = tensor(eval(Op::Flatten, "%w = flatten @w : ? %y = gemm %x, [%w] : ?", &[("%x", &[1, 1], &[1.0]), w]));
    assert_eq!((y.shape, y.data.to_vec()), (vec![4, 1], vec![1.0, 2.0, 3.0, 4.0]));
}

/// Three tokens in sequences of two: the last one has one.
const TWO_SEQUENCES: Dims = Dims { tokens: 3, sequence_tokens: 2 };

fn slots() {
    let given: Given = &[("%x", &[3, 1], &[0.0; 3]), ("@b", &[2, 1], &[7.0, 8.0]), ("@w", &[2, 1, 1], &[10.0, 100.0])];
    let rows = "%s = slots 2, 3 : ? %y = expert_rows @b, %s : ?";
    let of = |op, lines| try_eval(op, lines, given, TWO_SEQUENCES).expect("a value");
    assert_eq!(of(Op::Slots, rows), Value::Slots(Slots { experts: 2, slots: 3, sequence_tokens: 2, sequences: 2 }));
    let b = tensor(of(Op::ExpertRows, rows));
    assert_eq!(b.data, [[7.0; 6], [8.0; 6]].concat());
    let product =
        format!("{} %z = grouped_gemm %y, %s, [@w] : ?", rows.replace("%y", "%b")).replace("%y,", "%b,").replace("%z", "%y");
    assert_eq!(tensor(of(Op::GroupedGemm, &product)).data, [[70.0; 6], [800.0; 6]].concat());
    // No tokens, no sequences; more tokens in a sequence than there are: one.
    for (tokens, sequence_tokens, rows_of_all) in [(0, 0, 0), (0, 4, 0), (3, 9, 6), (3, 0, 18)] {
        let x = vec![0.0; tokens];
        let given: Given = &[("%x", &[tokens, 1], &x), ("@b", &[2, 1], &[7.0, 8.0])];
        let y = try_eval(Op::ExpertRows, rows, given, Dims { tokens: tokens as u64, sequence_tokens }).expect("a value");
        assert_eq!(tensor(y).shape, [rows_of_all, 1]);
    }
}

fn token_softmax() {
    let x = [0.0, NAN, 2f64.ln(), 0.0, 5.0, NAN];
    let y = try_eval(Op::TokenSoftmax, "%y = token_softmax %x : ?", &[("%x", &[3, 2], &x)], TWO_SEQUENCES).expect("a value");
    close(&tensor(y).data, &[1.0 / 3.0, 0.0, 2.0 / 3.0, 1.0, 1.0, 1.0]);
    // The second token is padding, and the third is all of its sequence.
    let given: Given = &[("%x", &[3, 2], &x), ("%mask", &[3], &[1.0, 0.0, 0.0])];
    let y = try_eval(Op::TokenSoftmax, "%y = token_softmax %x, %mask : ?", given, TWO_SEQUENCES).expect("a value");
    close(&tensor(y).data, &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    let x = [INF, -INF, 1.0, -INF];
    let y =
        try_eval(Op::TokenSoftmax, "%y = token_softmax %x : ?", &[("%x", &[2, 2], &x)], Dims { tokens: 2, sequence_tokens: 2 });
    close(&tensor(y.expect("a value")).data, &[1.0, 0.5, 0.0, 0.5]);
}

const MIXED: Given = &[
    ("%x", &[3, 2], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]),
    ("%w", &[3, 2], &[0.5, 1.0, 2.0, 0.0, 1.0, -1.0]),
    ("@b", &[1], &[4.0]),
];

fn soft_dispatch() {
    let of = |slots: &str, tail: &str| {
        let lines = format!("%s = slots {slots} : ? %y = soft_dispatch %x, %w, %s{tail} : ?");
        tensor(try_eval(Op::SoftDispatch, &lines, MIXED, TWO_SEQUENCES).expect("a value"))
    };
    // Of the first sequence 0.5 + 4 and 1, of the second 3 and -3: by expert, then by sequence, then by slot.
    let y = of("2, 1", "");
    assert_eq!((y.shape, y.data.to_vec()), (vec![4, 2], vec![4.5, 45.0, 3.0, 30.0, 1.0, 10.0, -3.0, -30.0]));
    assert_eq!(of("1, 2", "").data, [4.5, 45.0, 1.0, 10.0, 3.0, 30.0, -3.0, -30.0]);
    assert_eq!(of("1, 2", ", [@b] { yield mul $0, $1 }").data, [18.0, 180.0, 4.0, 40.0, 12.0, 120.0, -12.0, -120.0]);
}

fn soft_combine() {
    for slots in ["2, 1", "1, 2"] {
        let of = |tail: &str| {
            let mixed = format!("%s = slots {slots} : ? %d = soft_dispatch %x, %w, %s : ?");
            let lines = format!("{mixed} %y = soft_combine %d, %w, %s{tail} : ?");
            tensor(try_eval(Op::SoftCombine, &lines, MIXED, TWO_SEQUENCES).expect("a value"))
        };
        let y = of("");
        assert_eq!((y.shape, y.data.to_vec()), (vec![3, 2], vec![3.25, 32.5, 9.0, 90.0, 6.0, 60.0]));
        assert_eq!(of(", [%x] { yield add $0, $1 }").data, [4.25, 42.5, 11.0, 110.0, 9.0, 90.0]);
    }
}

fn rms_norm() {
    let given: Given = &[("%x", &[3, 2], &[1.0, 7.0, 0.0, 0.0, NAN, 1.0]), ("@s", &[2], &[10.0, 100.0])];
    close(&tensor(eval(Op::RmsNorm, "%y = rms_norm %x, 0.0 : ?", given)).data, &[0.2, 1.4, NAN, NAN, NAN, NAN]);
    let body = "%y = rms_norm %x, 11.0, [@s] { a = scale $0, 2.0 yield mul a, $1 } : ?";
    close(&tensor(eval(Op::RmsNorm, body, given)).data, &[20.0 / 6.0, 1400.0 / 6.0, 0.0, 0.0, NAN, NAN]);
}

/// The pairs of the grouped rows, of tokens that score experts so.
fn rows(top_k: usize, rule: &str, experts: usize, scores: &[f64], sequence_tokens: u64) -> Vec<usize> {
    let tokens = scores.len() / experts;
    let lines = format!(
        "%p = top_k %s, %s, {top_k} : ? %b = best_score %p, %s, 1 : ? %r = assign %b, {rule} : ? %y = pair_weights %r : ?"
    );
    let dims = Dims { tokens: tokens as u64, sequence_tokens };
    let r = routing(try_eval(Op::Assign, &lines, &[("%s", &[tokens, experts], scores)], dims).expect("a value"));
    for (pair, row) in r.row_of_pair.iter().enumerate() {
        assert_eq!(*row, r.pair_of_row.iter().position(|p| *p == pair));
    }
    r.pair_of_row
}

fn assign() {
    // Picks 0 1, 1 0, 0 1: pairs 0 .. 5.
    let scores = [9.0, 8.0, 0.0, 8.0, 9.0, 0.0, 9.0, 8.0, 0.0];
    let of = |rule: &str| rows(2, rule, 3, &scores, 3);
    assert_eq!(of("dropless"), [0, 3, 4, 1, 2, 5]);
    assert_eq!(of("capacity(3, all, token_major)"), [0, 3, 4, 1, 2, 5]);
    assert_eq!(of("capacity(2, all, token_major)"), [0, 3, 1, 2]);
    assert_eq!(of("capacity(1, all, token_major)"), [0, 1]);
    assert_eq!(of("capacity(0, all, token_major)"), [] as [usize; 0]);
    // First picks 0, 2, 4, then second picks 1, 3, 5; rows in the order of priority.
    assert_eq!(of("capacity(3, all, choice_major)"), [0, 4, 3, 2, 1, 5]);
    assert_eq!(of("capacity(2, all, choice_major)"), [0, 4, 2, 1]);
    assert_eq!(of("capacity(1, all, choice_major)"), [0, 2]);
    assert_eq!(of("capacity(floor((T * 2) / 3), all, choice_major)"), [0, 4, 2, 1]);

    // Two sequences of two tokens; experts 0 0 | 0 1.
    let scores = [9.0, 0.0, 9.0, 0.0, 9.0, 0.0, 0.0, 9.0];
    let of = |rule: &str| rows(1, rule, 2, &scores, 2);
    assert_eq!(of("capacity(1, sequence, token_major)"), [0, 2, 3]);
    assert_eq!(of("capacity(1, all, token_major)"), [0, 3]);
    assert_eq!(of("capacity(floor(S / 2), sequence, choice_major)"), [0, 2, 3]);
    assert_eq!(of("capacity(T, sequence, choice_major)"), [0, 1, 2, 3]);
    // Spans of three and of one token.
    assert_eq!(of("capacity(1, 3, token_major)"), [0, 3]);
    assert_eq!(of("capacity(2, 3, token_major)"), [0, 1, 3]);
    assert_eq!(of("capacity(2, 9, token_major)"), [0, 1, 3]);

    // First picks 0 0 0 1, weighing 3, NaN, 5, 3.5, and second picks 1 1 1 0, weighing 2, -inf, 4, 3.
    let scores = [3.0, 2.0, NAN, -INF, 5.0, 4.0, 3.0, 3.5];
    let of = |rule: &str| rows(2, rule, 2, &scores, 2);
    assert_eq!(of("capacity(4, all, batch_prioritized)"), [4, 0, 2, 7, 6, 5, 1, 3]);
    assert_eq!(of("capacity(2, all, batch_prioritized)"), [4, 0, 6, 5]);
    assert_eq!(of("capacity(1, sequence, batch_prioritized)"), [0, 4, 1, 6]);
    assert_eq!(of("capacity(4, all, score)"), [4, 0, 7, 2, 5, 6, 1, 3]);
    assert_eq!(of("capacity(2, all, score)"), [4, 0, 5, 6]);
    assert_eq!(of("capacity(1, sequence, score)"), [0, 4, 1, 5]);
    // Equal weights: the earlier token.
    assert_eq!(rows(1, "capacity(2, all, score)", 1, &[1.0, -0.0, 0.0, 1.0], 4), [0, 3]);
    assert_eq!(rows(1, "capacity(3, all, batch_prioritized)", 1, &[1.0, -0.0, 0.0, 1.0], 4), [0, 3, 1]);
    assert_eq!(rows(1, "dropless", 2, &[], 0), [] as [usize; 0]);
    assert_eq!(rows(1, "capacity(1, sequence, token_major)", 2, &[], 0), [] as [usize; 0]);
}

/// Tokens 0..5 by two experts that score them 3 1 2 NaN 2 and 0 0 -0 7 NaN.
#[test]
fn expert_choice() {
    let scores = [3.0, 0.0, 1.0, 0.0, 2.0, -0.0, NAN, 7.0, 2.0, NAN];
    let lines = |rule: &str| format!("%p = all_experts %s : ? %r = assign %p, {rule} : ? %y = pair_weights %r : ?");
    let kept = |rule: &str, sequence_tokens: u64| {
        let dims = Dims { tokens: 5, sequence_tokens };
        let r = routing(try_eval(Op::Assign, &lines(rule), &[("%s", &[5, 2], &scores)], dims).expect("a value"));
        let of = |e: usize| {
            let mut tokens: Vec<usize> = r.pair_of_row.iter().filter(|pair| *pair % 2 == e).map(|pair| pair / 2).collect();
            tokens.sort_unstable();
            tokens
        };
        [of(0), of(1)]
    };
    // Ties go to the earlier token, zeros of either sign tie, and what is no number comes last.
    assert_eq!(kept("capacity(2, all, score)", 5), [[0, 2], [0, 3]]);
    assert_eq!(kept("capacity(3, all, score)", 5), [[0, 2, 4], [0, 1, 3]]);
    assert_eq!(kept("capacity(9, all, score)", 5), [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
    // Tokens 0 1 2 and 3 4, each with room for one.
    assert_eq!(kept("capacity(1, 3, score)", 5), [[0, 4], [0, 3]]);
    assert_eq!(kept("capacity(1, sequence, score)", 1), [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
}

fn renorm_kept() {
    // Picks 0 1, 0 1, 1 0 with the weights 3 1, 3 1, 6 2; of each expert the first token's is kept, by choice.
    let scores = [3.0, 1.0, 3.0, 1.0, 2.0, 6.0];
    let of = |capacity: u64, rule: &str| {
        let lines = format!(
            "%p = top_k %s, %s, 2 : ? %a = assign %p, capacity({capacity}, all, choice_major) : ? \
             %r = renorm_kept %a, {rule} : ? %y = pair_weights %r : ?"
        );
        routing(eval(Op::RenormKept, &lines, &[("%s", &[3, 2], &scores)])).picks.weight_of_pair
    };
    close(&of(1, "sum(add 0.0)"), &[1.0, 1.0, 3.0, 1.0, 1.0, 2.0]);
    close(&of(1, "sum(add 1.0)"), &[0.75, 1.0, 3.0, 1.0, 6.0 / 7.0, 2.0]);
    close(&of(2, "sum(clamp 4.0)"), &[0.75, 0.25, 0.75, 1.0, 1.0, 2.0]);
    close(&of(3, "sum(add 0.0)"), &[0.75, 0.25, 0.75, 0.25, 0.75, 0.25]);
    close(
        &of(3, "norm(2.0, add 0.0)"),
        &[0.9f64.sqrt(), 0.1f64.sqrt(), 0.9f64.sqrt(), 0.1f64.sqrt(), 0.9f64.sqrt(), 0.1f64.sqrt()],
    );
    close(&of(1, "norm(2.0, add 0.0)"), &[1.0, 1.0, 3.0, 1.0, 1.0, 2.0]);
    close(&of(0, "sum(add 0.0)"), &[3.0, 1.0, 3.0, 1.0, 6.0, 2.0]);
}

fn dispatch() {
    let given: Given = &[SCORES, ("%x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let y = tensor(eval(Op::Dispatch, &format!("{ROUTE} %y = dispatch %x, %r : ?"), given));
    assert_eq!((y.shape, y.data.to_vec()), (vec![3, 2], vec![3.0, 4.0, 1.0, 2.0, 5.0, 6.0]));
}

fn expert_rows() {
    let given: Given = &[SCORES, ("@b", &[2, 2], &[1.0, 2.0, 3.0, 4.0])];
    let y = tensor(eval(Op::ExpertRows, &format!("{ROUTE} %y = expert_rows @b, %r : ?"), given));
    assert_eq!((y.shape, y.data.to_vec()), (vec![3, 2], vec![1.0, 2.0, 3.0, 4.0, 3.0, 4.0]));
}

fn pair_weights() {
    let y = tensor(eval(Op::PairWeights, &format!("{ROUTE} %y = pair_weights %r : ?"), &[SCORES]));
    assert_eq!((y.shape, y.data.to_vec()), (vec![3, 1], vec![0.6, 0.9, 0.8]));
}

fn dropped_input() {
    // Picks 0 1, 0 1, 1 0 with the weights 3 1, 3 1, 6 2.
    let scores = [3.0, 1.0, 3.0, 1.0, 2.0, 6.0];
    let of = |rule: &str| {
        let lines = format!("%p = top_k %s, %s, 2 : ? %r = assign %p, {rule} : ? %y = dropped_input %x, %r : ?");
        tensor(eval(Op::DroppedInput, &lines, &[("%s", &[3, 2], &scores), ("%x", &[3, 2], &[1.0, 2.0, 10.0, -1.0, 0.5, INF])]))
            .data
    };
    assert_eq!(of("capacity(1, all, choice_major)"), [1.0, 2.0, 40.0, -4.0, 1.0, INF]);
    assert_eq!(of("capacity(0, all, choice_major)"), [4.0, 8.0, 40.0, -4.0, 4.0, INF]);
    assert_eq!(of("dropless"), [0.0; 6]);
}

fn leading() {
    let x: (&str, &[usize], &[f64]) = ("%x", &[2, 3], &[1.0, NAN, 3.0, 4.0, 5.0, 6.0]);
    let y = tensor(eval(Op::Leading, "%y = leading %x, 2 : ?", &[x]));
    assert_eq!(y.shape, [2, 2]);
    close(&y.data, &[1.0, NAN, 4.0, 5.0]);
}

/// Scores of three experts and two shared ones.
const JOINT: (&str, &[usize], &[f64]) = ("%s", &[2, 5], &[1.0, 3.0, 2.0, 8.0, 6.0, 4.0, 0.0, 5.0, NAN, 9.0]);

fn joint() {
    let lines = "%l = leading %s, 3 : ? %p = top_k %l, %l, 2 : ? %q = joint %p, %s, 2 : ?";
    let of = |rest: &str| picks(eval(Op::Joint, &format!("{lines} {rest} %y = pair_weights %r : ?"), &[JOINT]));
    let found = of("%r = assign %q, dropless : ?");
    assert_eq!((found.top_k, found.experts, found.rowless), (4, 3, 2));
    assert_eq!(found.expert_of_pair, [1, 2, 3, 4, 2, 0, 3, 4]);
    close(&found.weight_of_pair, &[3.0, 2.0, 8.0, 6.0, 5.0, 4.0, NAN, 9.0]);
    // Normalised together, placed apart.
    let lines = format!("{lines} %n = renorm %q, sum(add 1.0) : ? %r = assign %n, dropless : ? %y = pair_weights %r : ?");
    let routed = routing(eval(Op::Assign, &lines, &[JOINT]));
    assert_eq!(routed.pair_of_row, [5, 0, 1, 4]);
    assert_eq!(routed.picks.weight_of_pair[..4], [0.15, 0.1, 0.4, 0.3]);
}

fn pick_weights() {
    let lines =
        "%l = leading %s, 3 : ? %p = top_k %l, %l, 2 : ? %q = joint %p, %s, 2 : ? %r = assign %q, capacity(0, all, score) : ?";
    let of = |first: usize| tensor(eval(Op::PickWeights, &format!("{lines} %y = pick_weights %r, {first} : ?"), &[JOINT]));
    assert_eq!(of(2).shape, [2, 2]);
    close(&of(2).data, &[8.0, 6.0, NAN, 9.0]);
    close(&of(0).data, &[3.0, 2.0, 8.0, 6.0, 5.0, 4.0, NAN, 9.0]);
}

fn without_rows() {
    // Picks 1 3 2, 0 3 1, of which 2 and 3 get no rows.
    let scores: (&str, &[usize], &[f64]) = ("%s", &[2, 4], &[1.0, 9.0, 5.0, 7.0, 9.0, 6.0, 1.0, 8.0]);
    let picked = "%p = top_k %s, %s, 3 : ? %q = without_rows %p, 2 : ?";
    let of = |rule: &str| {
        let lines = format!("{picked} %r = assign %q, {rule} : ? %y = pair_weights %r : ?");
        routing(eval(Op::Assign, &lines, &[scores]))
    };
    let dropless = of("dropless");
    assert_eq!((dropless.picks.experts, dropless.picks.rowless), (2, 2));
    assert_eq!(dropless.picks.expert_of_pair, [1, 3, 2, 0, 3, 1]);
    assert_eq!(dropless.pair_of_row, [3, 0, 5]);
    assert_eq!(dropless.row_of_pair, [Some(1), None, None, Some(0), None, Some(2)]);
    assert_eq!(of("capacity(1, all, token_major)").pair_of_row, [3, 0]);
    let found =
        picks(eval(Op::WithoutRows, &format!("{picked} %r = assign %q, dropless : ? %y = pair_weights %r : ?"), &[scores]));
    close(&found.weight_of_pair, &[9.0, 7.0, 5.0, 9.0, 8.0, 6.0]);
}

fn identity_input() {
    let scores: (&str, &[usize], &[f64]) = ("%s", &[3, 4], &[1.0, 9.0, 5.0, 7.0, 9.0, 6.0, 1.0, 8.0, 3.0, 2.0, 0.0, 1.0]);
    let of = |op: Op, rule: &str| {
        let picked = format!("%p = top_k %s, %s, 3 : ? %q = without_rows %p, 2 : ? %r = assign %q, {rule} : ?");
        let x: (&str, &[usize], &[f64]) = ("%x", &[3, 2], &[1.0, 2.0, 10.0, -1.0, INF, 0.5]);
        tensor(eval(op, &format!("{picked} %y = {} %x, %r : ?", op.name()), &[scores, x])).data
    };
    // Without rows are 3 and 2 of the first token, 3 of the second and of the third.
    for rule in ["dropless", "capacity(1, all, token_major)", "capacity(0, all, score)"] {
        assert_eq!(of(Op::IdentityInput, rule), [12.0, 24.0, 80.0, -8.0, INF, 0.5]);
    }
    // Never dropped: of the second token only the pick of 1, of the third 0 and 1.
    assert_eq!(of(Op::DroppedInput, "capacity(1, all, token_major)"), [0.0, 0.0, 60.0, -6.0, INF, 2.5]);
}

fn jitter() {
    // Philox of (column / 4, token, 0, 0): the known answer for a counter and a key of zeros, and three more of its words.
    let factor = |word: u32| 1.0 + 0.5 * (2.0 * f64::from(word >> 8) / 16_777_216.0 - 1.0);
    let x: Vec<f64> = (1..=10).map(f64::from).collect();
    let of = |seed: &[f64]| {
        let given: Given = &[("%x", &[2, 5], &x), ("@seed", &[2], seed)];
        tensor(eval(Op::Jitter, "%y = jitter %x, @seed, 0.5 : ?", given)).data
    };
    let y = of(&[0.0, 0.0]);
    for (i, word) in [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8].into_iter().enumerate() {
        assert_eq!(y[i], x[i] * factor(word));
    }
    assert_eq!(of(&[0.0, 0.0]), y);
    for other in [of(&[1.0, 0.0]), of(&[0.0, -1.0])] {
        assert!(y.iter().zip(&other).all(|(a, b)| a != b), "another seed, other factors");
    }
    assert!(y.iter().zip(&x).all(|(y, x)| (0.5..1.5).contains(&(y / x))));
    let distinct: std::collections::BTreeSet<u64> = y.iter().zip(&x).map(|(y, x)| (y / x).to_bits()).collect();
    assert_eq!(distinct.len(), 10, "every element has a factor of its own");
}

fn combine() {
    let given: Given = &[SCORES, ("%x", &[3, 1], &[10.0, 20.0, 30.0])];
    let combined = |picks: &str, tail: &str| {
        tensor(eval(Op::Combine, &format!("{picks} %d = dispatch %x, %r : ? %y = combine %d, %r{tail} : ?"), given)).data
    };
    assert_eq!(combined(ROUTE, ""), [10.0, 20.0, 30.0]);
    assert_eq!(combined(ROUTE, ", [%x] { a = add $0, $1 yield scale a, 0.5 }"), [10.0, 20.0, 30.0]);
    // Both picks of each token; then only two pairs an expert: of the last token none is left.
    let both = |rule: &str| format!("%p = top_k %s, %s, 2 : ? %r = assign %p, {rule} : ?");
    assert_eq!(combined(&both("dropless"), ""), [20.0, 40.0, 60.0]);
    assert_eq!(combined(&both("capacity(2, all, token_major)"), ""), [20.0, 40.0, 0.0]);
    assert_eq!(combined(&both("capacity(2, all, token_major)"), " { yield offset $0, 1.0 }"), [21.0, 41.0, 1.0]);
}

fn softmax() {
    let row = |x: &[f64], y: &[f64]| pointwise(Op::Softmax, "", x, y);
    row(&[0.0, 2f64.ln(), 4f64.ln()], &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]);
    row(&[1000.0, 1000.0], &[0.5, 0.5]);
    row(&[NAN, 0.0], &[0.0, 1.0]);
    row(&[INF, 1.0], &[1.0, 0.0]);
    row(&[INF, INF, 0.0, NAN], &[0.5, 0.5, 0.0, 0.0]);
    row(&[-INF, -INF], &[0.5, 0.5]);
    row(&[NAN, NAN, -INF, NAN], &[0.25; 4]);
    row(&[-7.0], &[1.0]);
    let lines = format!("%q = top_k %s, %s, 2 : ? %p = softmax %q : ? {OBSERVE}");
    let p = picks(eval(Op::Softmax, &lines, &[("%s", &[2, 3], &[3f64.ln(), 0.0, -9.0, 5.0, 5.0, 5.0])]));
    close(&p.weight_of_pair, &[0.75, 0.25, 0.5, 0.5]);
}

fn cast() {
    pointwise(Pointwise::Cast, ", bf16", &[1.00390625, 1.01171875, -3.25, NAN, INF], &[1.0, 1.015625, -3.25, NAN, INF]);
    pointwise(Pointwise::Cast, ", f16", &[65519.0, 65520.0, 1.0 / 3.0], &[65504.0, INF, 0.333251953125]);
    pointwise(Pointwise::Cast, ", f32", &[16777217.0, 1e39], &[16777216.0, INF]);
}

fn scale() {
    pointwise(Pointwise::Scale, ", -2.5", &[2.0, 0.0, INF, NAN], &[-5.0, 0.0, -INF, NAN]);
    let lines = format!("%q = top_k %s, %s, 2 : ? %p = scale %q, 4.0 : ? {OBSERVE}");
    assert_eq!(picks(eval(Pointwise::Scale, &lines, &[("%s", &[1, 2], &[1.0, 2.0])])).weight_of_pair, [8.0, 4.0]);
}

fn offset() {
    pointwise(Pointwise::Offset, ", 0.5", &[2.0, -0.5, INF, NAN], &[2.5, 0.0, INF, NAN]);
}

fn at_most() {
    pointwise(Pointwise::AtMost, ", 1.5", &[2.0, 1.5, -9.0, INF, -INF, NAN], &[1.5, 1.5, -9.0, 1.5, -INF, NAN]);
}

fn at_least() {
    pointwise(Pointwise::AtLeast, ", -1.5", &[2.0, -1.5, -9.0, INF, -INF, NAN], &[2.0, -1.5, -1.5, INF, -1.5, NAN]);
}

fn sigmoid() {
    pointwise(Pointwise::Sigmoid, "", &[0.0, 3f64.ln(), -(3f64.ln()), 1e4, -1e4], &[0.5, 0.75, 0.25, 1.0, 0.0]);
}

fn tanh() {
    pointwise(Pointwise::Tanh, "", &[0.0, 3f64.ln(), -(3f64.ln()), INF, -1e4, NAN], &[0.0, 0.8, -0.8, 1.0, -1.0, NAN]);
}

fn sqrt_softplus() {
    // exp(x) = 3, 1/3, 0.
    let (x, ln_4) = (3f64.ln(), 4f64.ln());
    pointwise(Pointwise::SqrtSoftplus, "", &[x, -x, -INF], &[ln_4.sqrt(), (ln_4 - x).sqrt(), 0.0]);
    pointwise(Pointwise::SqrtSoftplus, "", &[1e4, INF, NAN], &[100.0, INF, NAN]);
}

fn silu() {
    let x = 3f64.ln();
    pointwise(Pointwise::Silu, "", &[0.0, x, -x, 1e4, -1e4], &[0.0, 0.75 * x, -0.25 * x, 1e4, 0.0]);
}

fn gelu() {
    // x times the normal distribution function, from tables.
    let x = [0.0, 1.0, -1.0, 0.5, 3.0, 6.0, -6.0, 40.0, NAN];
    let y = [
        0.0,
        0.8413447460685429,
        -0.15865525393145707,
        0.34573123063700656,
        2.99595030590511,
        5.999999994080474,
        -5.919525870226e-9,
        40.0,
        NAN,
    ];
    pointwise(Pointwise::Gelu, "", &x, &y);
}

fn gelu_tanh() {
    let x = [0.0, 1.0, -1.0, 0.5, 3.0, 40.0];
    pointwise(
        Pointwise::GeluTanh,
        "",
        &x,
        &[0.0, 0.8411919906082768, -0.15880800939172324, 0.34571400982514394, 2.996362607918227, 40.0],
    );
}

/// What may be rounded is not.
fn tf32() {
    let x = 1.0 + 2f64.powi(-20);
    pointwise(Pointwise::Tf32, "", &[x, -x, INF, NAN], &[x, -x, INF, NAN]);
}

fn relu() {
    pointwise(Pointwise::Relu, "", &[2.0, -2.0, 0.0, INF, -INF, NAN], &[2.0, 0.0, 0.0, INF, 0.0, NAN]);
}

fn square() {
    pointwise(Pointwise::Square, "", &[3.0, -1.5, -INF, NAN], &[9.0, 2.25, INF, NAN]);
}

/// `x` with the same shape, a row and a column.
fn broadcast(op: Pointwise, same: &[f64], row: &[f64], column: &[f64], one: &[f64]) {
    let given: Given = &[
        ("%x", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
        ("%same", &[2, 2], &[10.0, 20.0, 30.0, 40.0]),
        ("@row", &[2], &[100.0, 200.0]),
        ("%column", &[2, 1], &[1000.0, 2000.0]),
        ("@one", &[1], &[5.0]),
    ];
    for (b, wanted) in [("%same", same), ("@row", row), ("%column", column), ("@one", one)] {
        assert_eq!(tensor(eval(op, &format!("%y = {} %x, {b} : ?", op.name()), given)).data, wanted);
    }
}

fn add() {
    broadcast(
        Pointwise::Add,
        &[11.0, 22.0, 33.0, 44.0],
        &[101.0, 202.0, 103.0, 204.0],
        &[1001.0, 1002.0, 2003.0, 2004.0],
        &[6.0, 7.0, 8.0, 9.0],
    );
}

fn mul() {
    broadcast(
        Pointwise::Mul,
        &[10.0, 40.0, 90.0, 160.0],
        &[100.0, 400.0, 300.0, 800.0],
        &[1000.0, 2000.0, 6000.0, 8000.0],
        &[5.0, 10.0, 15.0, 20.0],
    );
    // Two columns, each for three neighbours.
    let x: (&str, &[usize], &[f64]) = ("%x", &[2, 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    let y = tensor(eval(Pointwise::Mul, "%y = mul %x, %c : ?", &[x, ("%c", &[2, 2], &[10.0, 100.0, -1.0, 0.0])]));
    close(&y.data, &[10.0, 20.0, 30.0, 400.0, 500.0, 600.0, -7.0, -8.0, -9.0, 0.0, 0.0, 0.0]);
}

#[test]
fn attributes_are_their_own_values() {
    let graph = parse("layer @a(%x: tensor<T x 1 x f32>) -> ? { %y = scale %x, 2.0 : ? return %y }").expect("a graph");
    let x = BTreeMap::from([("%x".to_string(), Tensor::new(vec![1, 1], vec![3.0]))]);
    let typed = verify(graph).expect("well typed");
    let values = interp(&typed, &x, Dims { tokens: 1, sequence_tokens: 1 }).expect("values");
    assert!(values.contains(&Value::Attr(Attr::Real(2.0.into()))));
}

/// Of a routing only what is asked for: the weights of picks that were made elsewhere need no logits.
#[test]
fn a_node_by_itself() {
    let lines = "%s = sigmoid %x : ? %p = top_k %s, %s, 2 : ? %q = renorm %p, sum(add 0.0) : ? \
        %r = assign %q, dropless : ? %y = pair_weights %r : ?";
    let graph = parse(&format!("layer @a(%x: tensor<T x 3 x f32>) -> ? {{ {lines} return %y }}")).expect("a graph");
    let typed = verify(graph).expect("well typed");
    let id = |wanted: Op| {
        let is = |node: &Node| matches!(node, Node::Apply(op, _) if *op == wanted);
        typed.graph().nodes.items().find(|(_, node)| is(node)).expect("a node").0
    };
    let (dims, nothing) = (Dims { tokens: 1, sequence_tokens: 1 }, BTreeMap::new());
    let node = |given| interp_node(&typed, &nothing, dims, id(Op::Renorm), given);
    assert_eq!(node(BTreeMap::new()), Err("no value for `%x`".to_string()));
    let made = Picks {
        top_k: 2,
        experts: 3,
        rowless: 0,
        expert_of_pair: vec![2, 0],
        weight_of_pair: vec![3.0, 1.0],
        best_of_token: None,
        counted: None,
        observed: None,
    };
    let weighed = picks(node(BTreeMap::from([(id(Op::TopK), Value::Picks(made.clone()))])).expect("a value"));
    assert_eq!((weighed.expert_of_pair, weighed.weight_of_pair), (vec![2, 0], vec![0.75, 0.25]));
    let own = interp_node(&typed, &nothing, dims, id(Op::TopK), BTreeMap::from([(id(Op::TopK), Value::Picks(made.clone()))]));
    assert_eq!(own, Ok(Value::Picks(made)));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let fails = |lines: &str, given: Given, tokens: u64, why: &str| {
        let outcome = try_eval(Pointwise::Scale.into(), lines, given, Dims { tokens, sequence_tokens: tokens });
        assert!(outcome.as_ref().is_err_and(|found| found.contains(why)), "{outcome:?}");
    };
    let scale = "%y = scale %x, 2.0 : ?";
    fails(scale, &[("%x", &[2, 2], &[0.0; 4])], 3, "the value of `%x` has the shape [2, 2], which is no tensor<T x 2 x f32>");
    fails(scale, &[("%x", &[2, 2], &[0.0; 3])], 2, "the value of `%x`");
    // Rows of one routing with the places of another.
    let two = "%p = top_k %s, %s, 1 : ? %r = assign %p, dropless : ? %q = assign %p, capacity(1, all, token_major) : ? \
        %d = dispatch %s, %r : ? %z = combine %d, %q : ? %y = scale %z, 1.0 : ?";
    fails(two, &[("%s", &[3, 2], &[1.0; 6])], 3, "3 rows of another grouping for 1");
    let weights = "%p = top_k %s, %s, 1 : ? %r = assign %p, dropless : ? %q = assign %p, capacity(1, all, token_major) : ? \
        %d = dispatch %s, %r : ? %w = pair_weights %q : ? %z = mul %d, %w : ? %y = scale %z, 1.0 : ?";
    fails(weights, &[("%s", &[3, 2], &[1.0; 6])], 3, "[1, 1] does not broadcast to [3, 2]");
    for formula in ["(T * 18446744073709551615)", "floor(T / 0)"] {
        let lines = format!(
            "%p = top_k %s, %s, 1 : ? %r = assign %p, capacity({formula}, all, token_major) : ? \
            %d = dispatch %s, %r : ? %y = scale %d, 1.0 : ?"
        );
        fails(&lines, &[("%s", &[3, 2], &[1.0; 6])], 3, "has no value");
    }
}
