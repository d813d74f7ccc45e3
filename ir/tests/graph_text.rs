//! Graphs as text: what is printed is read back, what is not a graph is refused where it is wrong, and nothing panics.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use moec_ir::Machine;
use moec_ir::graph::{Node, Op, parse, print, print_with_violations, verify};
use moec_ir::rewrite::{Batches, rewrite};
use proptest::prelude::*;

use crate::graph_random;
use crate::oracle::{Random, typed};

#[test]
fn random_graphs_round_trip_and_are_rewritten_to_equal_ones() {
    let mut seen: BTreeSet<Op> = BTreeSet::new();
    for seed in 0..1600 {
        let graph = graph_random::graph(seed);
        graph_random::check(&graph, seed);
        seen.extend(graph.nodes.as_ref().iter().filter_map(|node| match node {
            Node::Apply(op, _) => Some(*op),
            Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
        }));
    }
    assert_eq!(seen, Op::ALL.iter().copied().collect(), "every op occurs in some graph");
}

/// Whatever the text: no panic, and a graph that is read is printed and read again as the same.
fn survives(text: &str) {
    if let Ok(graph) = parse(text) {
        if let Err(found) = verify(graph.clone()) {
            assert!(!found.is_empty(), "{text}");
            print_with_violations(&graph, &found);
        }
        let printed = print(&graph);
        assert_eq!(parse(&printed).map(|graph| print(&graph)).as_ref(), Ok(&printed), "{text}");
    }
}

/// What texts of graphs are made of.
const TOKENS: [&str; 52] = [
    "layer",
    "@a",
    "%x",
    "%0",
    "%1",
    "@w",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ":",
    "->",
    ",",
    ";",
    "=",
    "return",
    "yield",
    "tensor<",
    "T x 4 x f32>",
    "T x ",
    "P x ",
    "routing<T x 2 of 8>",
    "picks<T x 2 of 8, repeats>",
    "picks<T x 2 of 8, ranked>",
    "routing<T x 2 of 6 + 2>",
    "picks<",
    ">",
    "?",
    "gemm",
    "route",
    "top_k",
    "add",
    "scale",
    "grouped_gemm",
    "combine",
    "softmax",
    "$0",
    "$1",
    "1.0",
    "-1e300",
    "18446744073709551616",
    "bf16",
    "dropless",
    "groups(4, keep 2, max, -inf)",
    "sum(add 0.0)",
    "capacity(ceil((T * 2) / 3), all, token_major)",
    "training(sequences 0.01, z 0.001)",
    "capacity((((((",
    "// x\n",
    "é",
];

const SMALL: &str = "layer @small(%x: tensor<T x 4 x f32>, @w: tensor<8 x 4 x f32>) -> tensor<T x 8 x f32> {
  %0 = gemm %x, [@w] {
    a = scale $0, 0.5
    yield mul a, $0
  } : tensor<T x 8 x f32>
  %1 = group_limit %0, groups(4, keep 2, max, -inf) : tensor<T x 8 x f32>
  %2 = top_k %0, %1, 2 : picks<T x 2 of 8>
  %3 = assign %2, capacity(min(T, 4), all, choice_major) : routing<T x 2 of 8>
  %4 = dispatch %0, %3 : tensor<P x 8 x f32>
  %5 = combine %4, %3, [%0] {
    yield add $0, $1
  } : tensor<T x 8 x f32>
  return %5
}
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        survives(&String::from_utf8_lossy(&bytes));
        survives(&format!("layer @a({}", String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn token_soup(seed in any::<u64>(), length in 0usize..60) {
        let mut random = Random(seed);
        let soup: Vec<&str> = (0..length).map(|_| random.one(&TOKENS)).collect();
        survives(&soup.join(" "));
        survives(&format!("layer @a(%x: tensor<T x 4 x f32>, @w: tensor<8 x 4 x f32>) -> ? {{ %0 = {}", soup.join(" ")));
    }

    #[test]
    fn damaged_graphs(seed in any::<u64>()) {
        let mut random = Random(seed);
        let mut text: Vec<&str> = SMALL.split_inclusive(' ').collect();
        for _ in 0..1 + random.below(3) {
            let at = random.below(text.len());
            match random.below(3) {
                0 => drop(text.remove(at)),
                1 => text[at] = random.one(&TOKENS),
                _ => text.swap(at, seed as usize % (at + 1)),
            }
        }
        survives(&text.concat());
    }
}

#[test]
fn the_small_graph_is_one() {
    assert_eq!(print(typed(SMALL).graph()), SMALL);
}

fn chain(op: &str, length: usize) -> String {
    let lines: String = (0..length).map(|i| format!("  %v{} = {op} %v{i} : ?\n", i + 1)).collect();
    format!("layer @chain(%v0: tensor<T x 4 x f32>) -> ? {{\n{lines}  return %v{length}\n}}")
}

#[test]
fn long_and_deep_texts_are_answered_at_once() {
    let start = Instant::now();
    for opening in ["(", "[", "{", "layer", "tensor<", "%x = ", "capacity(", "min(", "// ", "@", "[[[", "é", "\n"] {
        let deep = opening.repeat(200_000);
        for prefix in ["", "layer @a(", "layer @a(%x: ", "layer @a() -> ? { %0 = assign ", "layer @a() -> ? { %0 = gemm %x { "] {
            assert!(parse(&format!("{prefix}{deep}")).is_err());
        }
        let capacity = format!("layer @a(%x: tensor<T x 4 x f32>) -> ? {{ %0 = assign %x, capacity({deep}");
        assert!(parse(&capacity).is_err());
    }
    let params: String = (0..50_000).map(|i| format!("%p{i}: tensor<T x 4 x f32>, ")).collect();
    assert!(parse(&format!("layer @a({params}")).is_err_and(|why| why.message == "more than 1024 nodes"));
    assert!(parse(&chain("silu", 100_000)).is_err_and(|why| why.message == "more than 1024 nodes"));
    let body: String = (0..100_000).map(|i| format!("b{i} = silu $0; ")).collect();
    let gemm = format!("layer @a(%x: tensor<T x 4 x f32>) -> ? {{ %0 = gemm %x, [%x] {{ {body}");
    assert!(parse(&gemm).is_err_and(|why| why.message == "more than 1024 nodes"));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn the_longest_chain_goes_all_the_way() {
    let layer = typed(&chain("silu", 1000));
    let text = print(layer.graph());
    assert_eq!(parse(&text).map(|graph| print(&graph)), Ok(text));
    let machine = Machine::named("sm_80").expect("a machine");
    assert_eq!(rewrite(&layer, &machine, &Batches::together(&[1])).at(1).graph(), layer.graph());
}

/// Bodies of many lines: no name of a value is an element type or an op.
#[test]
fn long_bodies_round_trip() {
    let adds: String = (0..900).map(|i| format!("v{} = offset v{i}, {i}.5; ", i + 1)).collect();
    let text = format!(
        "layer @a(%x: tensor<T x 4 x f32>, @w: tensor<8 x 4 x f32>) -> ? {{\n %0 = gemm %x, [@w] {{ v0 = silu $0; {adds} \
         yield cast v900, f16 }} : ?\n return %0\n}}"
    );
    let printed = print(typed(&text).graph());
    assert!(printed.contains("yield cast"), "{printed}");
    assert_eq!(parse(&printed).map(|graph| print(&graph)), Ok(printed));
}

/// A parameter may have the name that a line would get.
#[test]
fn numbers_that_parameters_have_are_left_to_them() {
    let text = "layer @a(%0: tensor<T x 4 x f32>, %2: tensor<T x 4 x f32>) -> tensor<T x 4 x f32> {
  %1 = add %0, %2 : tensor<T x 4 x f32>
  %3 = relu %1 : tensor<T x 4 x f32>
  return %3
}
";
    assert_eq!(print(typed(text).graph()), text);
}

/// Within `layer @a(%x: tensor<T x 4 x f32>, @w: tensor<8 x 4 x f32>) -> ? {` on line 1: what is wrong, and where.
const WRONG: [(&str, &str); 26] = [
    ("%0 = gem %x, [@w] : ?\nreturn %0 }", "2:6: `gem` is not an op"),
    ("%0 = list %x : ?\nreturn %0 }", "2:6: `list` is not an op"),
    ("%0 = relu %y : ?\nreturn %0 }", "2:11: `%y` is not defined before this"),
    ("%0 = relu %1 : ?\n%1 = relu %x : ?\nreturn %0 }", "2:11: `%1` is not defined before this"),
    ("%0 = relu %x : ?\n%0 = relu %x : ?\nreturn %0 }", "3:17: `%0` is defined twice"),
    ("%x = relu %x : ?\nreturn %x }", "2:17: `%x` is defined twice"),
    ("%0 = relu %x\nreturn %0 }", "3:1: expected `:`"),
    ("%0 = relu %x : tensor<T x 5 x f32>\nreturn %0 }", "2:16: the type of `%0` is tensor<T x 4 x f32>, not tensor<T x 5 x f32>"),
    ("%0 = relu %x : tensor<T x 4 x f33>\nreturn %0 }", "`f33` is not an element type"),
    ("%0 = relu %x : tenser<T x 4 x f32>\nreturn %0 }", "`tenser` is not a type"),
    ("%0 = relu %x : tensor<1 x 1 x 1 x 1 x 1 x 1 x 1 x 1 x 1 x f32>\nreturn %0 }", "more than 8 dimensions"),
    ("%0 = scale %x, twice : ?\nreturn %0 }", "2:16: expected a value or an attribute"),
    ("%0 = scale %x, inf : ?\nreturn %0 }", "2:16: expected a value or an attribute"),
    ("%0 = scale %x, nan : ?\nreturn %0 }", "2:16: expected a value or an attribute"),
    ("%0 = top_k %x, %x, 99999999999999999999 : ?\nreturn %0 }", "2:20: expected a value or an attribute"),
    ("%0 = group_limit %x, groups(2, keep 1, most, zero) : ?\nreturn %0 }", "2:40: expected `top2_sum` or `max`"),
    ("%0 = group_limit %x, groups(2, keep -1, max, zero) : ?\nreturn %0 }", "2:37: expected a number"),
    ("%0 = renorm %x, sum(add 1) : ?\nreturn %0 }", "expected a real number, found 1"),
    ("%0 = assign %x, capacity(T ^ 2, all, token_major) : ?\nreturn %0 }", "2:28: expected `,`"),
    ("%0 = assign %x, capacity(, all, token_major) : ?\nreturn %0 }", "2:26: expected a formula over T and S"),
    ("%0 = gemm %x, [@w] { yield relu $z } : ?\nreturn %0 }", "2:35: `$z` is not a hole"),
    ("%0 = gemm %x, [@w] { a = relu $0; a = relu $0; yield a } : ?\nreturn %0 }", "`a` is defined twice"),
    ("%0 = gemm %x, [@w] { yield relu b } : ?\nreturn %0 }", "2:33: expected a value or an attribute"),
    ("return %x", "2:10: expected `}`"),
    ("return %x } more", "2:13: expected the end of the text"),
    ("%é = relu %x : ?", "2:1: expected a name after `%`"),
];

#[test]
fn errors_say_where() {
    for (lines, wanted) in WRONG {
        let text = format!("layer @a(%x: tensor<T x 4 x f32>, @w: tensor<8 x 4 x f32>) -> ? {{\n{lines}");
        let error = parse(&text).expect_err(lines);
        assert!(error.to_string().contains(wanted), "{error}, not {wanted}: {lines}");
        assert!(text.is_char_boundary(error.offset) && error.line >= 2);
    }
    for (text, wanted) in [
        ("", "1:1: expected `layer`"),
        ("layers @a()", "1:1: expected `layer`"),
        ("layer a()", "1:7: expected a name with `@`"),
        ("layer @a(%x: tensor<T x 4 x f32>, %x: tensor<T x 4 x f32>) -> ? {", "`%x` is declared twice"),
        (
            "layer @a(%x: tensor<T x 4 x f32>) -> tensor<T x 5 x f32> { return %x }",
            "1:38: the type of the result is tensor<T x 4 x f32>, not tensor<T x 5 x f32>",
        ),
        ("// é\n/* é */ layer", "2:1: expected `layer`"),
        ("// é\n layer @é", "2:9: expected `(`"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.to_string().contains(wanted), "{error}, not {wanted}: {text}");
    }
}
