//! The verifier on `tests/text/graph/verify_*.moe`: each file says, at the end of every line at fault, what is wrong.
//! `MOEC_BLESS=1` rewrites what they say.

use std::path::{Path, PathBuf};

use egg::{Id, RecExpr};
use moec_ir::graph::{
    Attr, BodyBuilder, Builder, Dim, Graph, Node, Op, Param, Pointwise, Type, Violation, parse, print, print_with_violations,
    verify,
};
use moec_ir::{DType, Facts};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/text/graph");

/// The graph with every violation at the end of its line.
fn annotated(graph: &Graph, found: &[Violation]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in print_with_violations(graph, found).lines() {
        match (line.trim_start().strip_prefix("// error: "), lines.last_mut()) {
            (Some(message), Some(last)) if last.contains(" // error: ") => last.push_str(&format!("; error: {message}")),
            (Some(message), Some(last)) => last.push_str(&format!(" // error: {message}")),
            (Some(_) | None, _) => lines.push(line.to_string()),
        }
    }
    lines.join("\n") + "\n"
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FOLDER).expect("the folder of graphs").map(|entry| entry.expect("a file").path());
    let is_test = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("verify_"));
    let mut files: Vec<PathBuf> = entries.filter(is_test).collect();
    files.sort();
    files
}

/// The violations of a file.
fn check(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let graph = parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let found = verify(graph.clone()).err().unwrap_or_default();
    let is = format!("// test: verify\n{}", annotated(&graph, &found));
    if std::env::var_os("MOEC_BLESS").is_some() {
        std::fs::write(path, &is).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    } else {
        assert_eq!(is, text, "{}", path.display());
    }
    found.into_iter().map(|violation| violation.message).collect()
}

/// What each error of `infer` says, in part.
const ERRORS: [&str; 46] = [
    "there is no item 2 of 2",
    "are not the logits and scores of",
    "needs a score for each expert",
    "jitter takes [T, N] and a seed",
    "does not have 7 columns",
    "does not have 5 columns and 2 more",
    "none is left with rows",
    "needs a table [V, K] and ids [T]",
    "a body gives floats or picks",
    "is no norm",
    "flatten takes [A, B, N]",
    "x 2 rows are too many",
    "are no slots",
    "needs slots, not",
    "needs a weight for each of 2 x 4 slots",
    "soft_dispatch takes [T, N]",
    "soft_combine takes [P, N]",
    "takes 2 operands, not 1",
    "x must have two dimensions",
    "x must be a tensor of floats",
    "rows must have two dimensions",
    "rows must be [T, K] or [P, K]",
    "needs a list of weights",
    "a weight must be a tensor",
    "does not fit an inner extent of",
    "does not fit 6 experts and an inner extent of",
    "differ",
    "scores and keys differ",
    "cannot pick",
    "does not fit 6 experts",
    "does not take",
    "needs a routing",
    "dispatch takes [T, N]",
    "needs one row for each of",
    "combine takes [P, N]",
    "does not broadcast to",
    "arithmetic is on f32 tensors and picks",
    "needs a tensor, not",
    "needs rows of f32 for each token",
    "the body uses `$",
    "cannot stand in a body",
    "the parameter `%p` must be a tensor of floats",
    "a layer returns a tensor",
    "b must be a tensor of floats",
    "the operand must be a tensor of floats",
    "the operand must have two dimensions",
];

#[test]
fn every_file_says_what_is_wrong_with_it() {
    let found: Vec<Vec<String>> = files().iter().map(|path| check(path)).collect();
    assert!(found.len() >= 20, "{} files", found.len());
    assert!(found.iter().any(Vec::is_empty), "a valid file too");
    assert!(found.iter().any(|violations| violations.len() >= 5), "all violations, never only the first");
    for error in ERRORS {
        assert!(found.iter().flatten().any(|message| message.contains(error)), "no file has: {error}");
    }
}

fn x() -> (Param, Type) {
    (Param("%x".to_string()), Type::tensor(&[Dim::Tokens, Dim::Const(4)], DType::F32))
}

fn square() -> Type {
    Type::tensor(&[Dim::Const(4), Dim::Const(4)], DType::F32)
}

fn messages(graph: Graph) -> Vec<String> {
    verify(graph).expect_err("violations").into_iter().map(|violation| violation.message).collect()
}

/// What text cannot say.
#[test]
fn graphs_that_no_text_makes() {
    let graph = |nodes: Vec<Node>| Graph {
        name: "g".to_string(),
        params: vec![x()],
        results: vec!["y".to_string()],
        facts: Facts::default(),
        nodes: RecExpr::from(nodes),
    };
    let param = |name: &str| Node::Param(Param(name.to_string()));
    assert_eq!(messages(graph(vec![])), ["the graph is empty"]);
    assert_eq!(messages(graph(vec![param("%y")])), ["`%y` is not a parameter of the layer"]);
    assert_eq!(messages(graph(vec![Node::Hole(3)])), ["`$3` stands outside a body"]);
    let forward = Node::apply(Pointwise::Relu, &[Id::from(1)]);
    assert_eq!(messages(graph(vec![forward, param("%x")])), ["an operand stands after its user"]);
    let itself = Node::apply(Pointwise::Relu, &[Id::from(1)]);
    assert_eq!(messages(graph(vec![param("%x"), itself])), ["an operand stands after its user"]);
    let attr = || Node::Attr(Attr::Num(1));
    assert_eq!(messages(graph(vec![attr()])), ["a layer returns a tensor, not 1"]);
    let list = Node::apply(Op::List, &[Id::from(0)]);
    let gemm = Node::apply(Op::Gemm, &[0, 2, 0, 1].map(Id::from));
    let found = messages(Graph { params: vec![(x().0, square())], ..graph(vec![param("%x"), attr(), list, gemm]) });
    assert_eq!(found, ["needs a list of operands and a body, not tensor<4 x 4 x f32> and 1"]);
}

#[test]
fn bodies_name_no_parameters_and_hold_no_lists() {
    let made = |make: &dyn Fn(&mut BodyBuilder) -> Id| {
        let mut body = BodyBuilder::default();
        let root = make(&mut body);
        let mut g = Builder::default();
        let (param, ty) = x();
        let x = g.param(&param.0, ty);
        let w = g.param("@w", Type::tensor(&[Dim::Const(8), Dim::Const(4)], DType::F32));
        let (ws, vs) = (g.apply(Op::List, &[w]), g.apply(Op::List, &[]));
        let y = g.apply_attr(Op::Gemm, &[x, ws, vs], Attr::Body(body.finish(root)));
        messages(g.finish("g", y))
    };
    let names = made(&|body| body.add(Node::Param(Param("@w".to_string()))));
    assert_eq!(names, ["the body names the parameter `@w`: it must be an operand"]);
    let lists = made(&|body| {
        let hole = body.add(Node::Hole(0));
        body.add(Node::apply(Op::List, &[hole]))
    });
    assert_eq!(lists, ["`list` cannot stand in a body"]);
}

/// A violation of what has no line of its own stands under the first line that names it.
#[test]
fn violations_stand_under_their_lines() {
    let text = "layer @a(%x: tensor<T x 4 x f32>, %p: picks<T x 2 of 8>) -> ? {
  %0 = relu %x : tensor<T x 4 x f32>
  %1 = assign %p, dropless : ?
  %2 = dispatch %0, %1 : ?
  return %2
}
";
    let graph = parse(text).expect("a graph");
    let found = verify(graph.clone()).expect_err("a violation");
    let printed = print_with_violations(&graph, &found);
    let wanted = "  %1 = assign %p, dropless : ?\n    // error: the parameter `%p` must be a tensor of floats or of i32, not picks<T x 2 of 8>\n";
    assert!(printed.contains(wanted), "{printed}");
    assert_eq!(print(&parse(&printed).expect("comments are no part of a graph")), print(&graph));
}
