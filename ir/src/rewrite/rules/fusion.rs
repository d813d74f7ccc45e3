//! Fusion: what runs beside a product while it is still in registers, and what needs no buffer of its own.
//!
//! A fused op carries a body: a small graph over its products `$0, $1, ..` and further operands. Each rule moves one op
//! into the body of its producer, which saves a launch and a trip of the value through memory.

use egg::Id;

use crate::graph::{Attr, Body, BodyBuilder, Dim, Node, Op, Pointwise, Type};
use crate::rewrite::matching::{Match, computed, pattern};

use super::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        // Rows are read where they are: no dispatch buffer.
        pattern("fuse-dispatch-into-gather", "(grouped_gemm (dispatch ?x ?r) ?r ?ws ?vs ?f)", "(grouped_gemm ?x ?r ?ws ?vs ?f)"),
        // Logits, scores, picks and their places: one op, nothing of E columns in memory.
        pattern("fuse-assign-into-route", "(assign (gemm ?x ?ws ?vs ?f) ?a)", "(route ?x ?ws ?vs ?f ?a)"),
        // Scores and keys of one row: picked while both are in registers.
        computed("sink-top-k-into-gemm", "(top_k (gemm ?x ?ws ?vs ?f) (gemm ?x ?ws2 ?vs2 ?g) ?k)", |m| {
            let k = m.attr("?k")?;
            merge(m, Op::Gemm, 2, Op::TopK, &[k])
        }),
        // What is read of routing: summed while logits and scores are in registers.
        computed(
            "sink-observe-into-gemm",
            "(observe (gemm ?x ?ws ?vs ?f) (gemm ?x ?ws2 ?vs2 ?g) (gemm ?x ?ws3 ?vs3 ?h) ?s)",
            |m| {
                let span = m.attr("?s")?;
                merge(m, Op::Gemm, 3, Op::Observe, &[span])
            },
        ),
        computed("sink-counted-into-gemm", "(counted (gemm ?x ?ws ?vs ?f) (gemm ?x ?ws2 ?vs2 ?g))", |m| {
            merge(m, Op::Gemm, 2, Op::Counted, &[])
        }),
        computed("sink-best-score-into-gemm", "(best_score (gemm ?x ?ws ?vs ?f) (gemm ?x ?ws2 ?vs2 ?g) ?n)", |m| {
            let n = m.attr("?n")?;
            merge(m, Op::Gemm, 2, Op::BestScore, &[n])
        }),
        computed("sink-joint-into-gemm", "(joint (gemm ?x ?ws ?vs ?f) (gemm ?x ?ws2 ?vs2 ?g) ?n)", |m| {
            let n = m.attr("?n")?;
            merge(m, Op::Gemm, 2, Op::Joint, &[n])
        }),
        // One pass over x instead of two, and the products never leave the registers.
        computed("fuse-gate-up", "(mul (grouped_gemm ?x ?r ?ws ?vs ?f) (grouped_gemm ?x ?r ?ws2 ?vs2 ?g))", |m| {
            merge(m, Op::GroupedGemm, 2, Pointwise::Mul, &[])
        }),
        computed("fuse-dense-gate-up", "(mul (gemm ?x ?ws ?vs ?f) (gemm ?x ?ws2 ?vs2 ?g))", |m| {
            merge(m, Op::Gemm, 2, Pointwise::Mul, &[])
        }),
    ];
    let unary = [
        Pointwise::Silu,
        Pointwise::Gelu,
        Pointwise::GeluTanh,
        Pointwise::Relu,
        Pointwise::Square,
        Pointwise::Sigmoid,
        Pointwise::Tanh,
        Pointwise::SqrtSoftplus,
    ];
    let with_constant = [Pointwise::Scale, Pointwise::Offset, Pointwise::AtMost, Pointwise::AtLeast, Pointwise::Cast];
    for into in [Op::Gemm, Op::GroupedGemm, Op::Combine, Op::SoftDispatch, Op::SoftCombine, Op::RmsNorm] {
        rules.extend(unary.map(|op| sink(op, &[], into)));
        rules.extend(with_constant.map(|op| sink(op, &["?c"], into)));
        rules.extend([Pointwise::Add, Pointwise::Mul].map(|op| sink_with_operands(op, &["?b"], into)));
    }
    // What may be rounded are the factors of products.
    rules.extend([Op::Gemm, Op::GroupedGemm].map(|into| sink(Pointwise::Tf32, &[], into)));
    // Whole rows are at hand only where the router's logits are.
    rules.extend([Op::Softmax, Op::AllExperts].map(|op| sink(op, &[], Op::Gemm)));
    rules.extend([Op::GroupLimit, Op::Renorm].map(|op| sink(op, &["?c"], Op::Gemm)));
    rules.push(sink(Op::SparseMixer, &["?c", "?k"], Op::Gemm));
    rules.extend([Op::Leading, Op::WithoutRows].map(|op| sink(op, &["?n"], Op::Gemm)));
    rules.push(sink_with_operands(Op::ExpertScale, &["?b"], Op::Gemm));
    // One number a token beside what is written anyway, or beside its picks. Grouped rows are not the tokens'.
    rules.extend(
        [Op::Gemm, Op::Combine, Op::SoftCombine, Op::RmsNorm]
            .map(|into| sink_with_operands(Pointwise::MaskTokens, &["?b"], into)),
    );
    rules.push(sink_with_operands(Op::HashPicks, &["?table", "?ids"], Op::Gemm));
    rules
}

/// The operands of a fused op in the patterns below.
fn operands(op: Op) -> &'static [&'static str] {
    match op {
        Op::Gemm => &["?x", "?ws", "?vs", "?f"],
        Op::GroupedGemm => &["?x", "?r", "?ws", "?vs", "?f"],
        Op::Combine => &["?x", "?r", "?vs", "?f"],
        Op::SoftDispatch | Op::SoftCombine => &["?x", "?w", "?r", "?vs", "?f"],
        Op::RmsNorm => &["?x", "?eps", "?vs", "?f"],
        op => panic!("`{}` takes nothing in", op.name()),
    }
}

/// Whether a fused op has products, one for each of its weights.
fn has_weights(op: Op) -> bool {
    operands(op).contains(&"?ws")
}

/// The pattern of a fused op.
fn fused(op: Op) -> String {
    format!("({} {})", op.name(), operands(op).join(" "))
}

fn hyphens(op: Op) -> String {
    op.name().replace('_', "-")
}

/// `op (into .. f) c..` = `into .. (op f c..)`.
fn sink(op: impl Into<Op>, constants: &'static [&'static str], into: Op) -> Rule {
    let op = op.into();
    let name = format!("sink-{}-into-{}", hyphens(op), hyphens(into));
    computed(name, &format!("({} {} {})", op.name(), fused(into), constants.join(" ")), move |m| {
        if m.result_is(into, operands(into)) {
            return None; // The op does nothing here, and would do so for ever.
        }
        let constants = constants.iter().map(|c| m.attr(c)).collect::<Option<Vec<Attr>>>()?;
        let body = m.body("?f")?.then(op, &constants);
        let vs = m.list("?vs")?;
        with_body(m, into, "?ws", &vs, body)
    })
}

/// `op (into .. vs f) b ..` = `into .. (vs, b, ..) (op f $b ..)`: `b` is read beside the product.
fn sink_with_operands(op: impl Into<Op>, others: &'static [&'static str], into: Op) -> Rule {
    let op = op.into();
    let plural = if others.len() == 1 { "" } else { "s" };
    let name = format!("sink-{}-with-operand{plural}-into-{}", hyphens(op), hyphens(into));
    computed(name, &format!("({} {} {})", op.name(), fused(into), others.join(" ")), move |m| {
        // Grouped rows exist only as other products: what is read beside them is a view of a parameter or of the routing,
        // and that only where the expert of a row is known.
        let is_view = |b: &str| into == Op::GroupedGemm && (m.is(b, Op::ExpertRows) || m.is(b, Op::PairWeights));
        let is_product = |b: &&str| !is_view(b) && rows_are_pairs(m.ty(b));
        if m.result_is(into, operands(into)) || others.iter().any(is_product) {
            return None;
        }
        let mut vs = m.list("?vs")?;
        let products = if has_weights(into) { m.list("?ws")?.len() } else { 1 };
        let mut body = BodyBuilder::default();
        let mut given = vec![body.inline(&m.body("?f")?, Node::Hole)];
        for b in others {
            let place = position(&mut vs, m.class(b));
            given.push(body.add(Node::Hole((products + place) as u32)));
        }
        let root = body.add(Node::apply(op, &given));
        with_body(m, into, "?ws", &vs, body.finish(root))
    })
}

/// What the patterns of [`merge`] call the weights, operands and bodies of their fused ops.
const PARTS: [[&str; 3]; 3] = [["?ws", "?vs", "?f"], ["?ws2", "?vs2", "?g"], ["?ws3", "?vs3", "?h"]];

/// `op (into x ws vs f) (into x ws2 vs2 g) .. c..` = `into x (ws, ws2, ..) (vs, vs2, ..) (op f g .. c..)`.
fn merge(m: &mut Match, into: Op, parts: usize, op: impl Into<Op>, constants: &[Attr]) -> Option<Id> {
    let (mut ws, mut vs) = (Vec::new(), Vec::new());
    let mut bodies = Vec::new();
    for [weights, operands, f] in &PARTS[..parts] {
        let products: Vec<usize> = m.list(weights)?.iter().map(|w| position(&mut ws, *w)).collect();
        let operands: Vec<usize> = m.list(operands)?.iter().map(|v| position(&mut vs, *v)).collect();
        bodies.push((m.body(f)?, products, operands));
    }
    let mut body = BodyBuilder::default();
    let hole = |i: usize, products: &[usize], operands: &[usize]| match i.checked_sub(products.len()) {
        None => Node::Hole(products[i] as u32),
        Some(v) => Node::Hole((ws.len() + operands[v]) as u32),
    };
    let inline =
        |(f, products, operands): &(Body, Vec<usize>, Vec<usize>)| body.inline(f, |i| hole(i as usize, products, operands));
    let mut operands: Vec<Id> = bodies.iter().map(inline).collect();
    operands.extend(constants.iter().map(|c| body.add(Node::Attr(c.clone()))));
    let root = body.add(Node::apply(op, &operands));
    let ws = m.apply(Op::List, &ws)?;
    with_body_of(m, into, Some(ws), &vs, body.finish(root))
}

fn with_body(m: &mut Match, into: Op, ws: &str, vs: &[Id], body: Body) -> Option<Id> {
    let ws = has_weights(into).then(|| m.class(ws));
    with_body_of(m, into, ws, vs, body)
}

/// The fused op of the match with these weights, operands and body.
fn with_body_of(m: &mut Match, into: Op, ws: Option<Id>, vs: &[Id], body: Body) -> Option<Id> {
    let mut operands = vec![m.class("?x")];
    match into {
        Op::Gemm => {}
        Op::SoftDispatch | Op::SoftCombine => operands.extend([m.class("?w"), m.class("?r")]),
        Op::RmsNorm => operands.push(m.class("?eps")),
        _ => operands.push(m.class("?r")),
    }
    operands.extend(ws);
    operands.push(m.apply(Op::List, vs)?);
    operands.push(m.constant(Attr::Body(body)));
    m.apply(into, &operands)
}

/// The place of `item` in `list`, where it is put if it is not there.
fn position(list: &mut Vec<Id>, item: Id) -> usize {
    list.iter().position(|x| *x == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

fn rows_are_pairs(ty: &Type) -> bool {
    matches!(ty, Type::Tensor { shape, .. } if shape.first() == Some(&Dim::Pairs))
}
