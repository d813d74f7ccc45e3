//! Pointwise ops as arithmetic: the bodies of fused ops, whole or one op at a time.
//!
//! What looks along a row (`softmax`) is not pointwise: the route kernel has it. The functions are in `math`.

use egg::Id;

use super::math::{self, Accuracy};
use crate::DType;
use crate::graph::{Attr, Body, Node, Op, Pointwise};
use crate::kernel::{Builder, Value};

/// An operand of a pointwise op.
#[derive(Clone, Copy)]
pub(crate) enum Term<'a, 'k> {
    /// Lanes of numbers.
    Value(Value<'k>),
    /// A constant.
    Attr(&'a Attr),
}

/// Emits a body that is [pointwise](Body::is_pointwise): `hole` gives the values of the holes, f32 and all of the same lanes. The result
/// has the element type of the body's last cast, if it ends in one.
pub(crate) fn pointwise<'k>(
    k: &'k Builder,
    body: &Body,
    accuracy: Accuracy,
    hole: &mut dyn FnMut(u32) -> Value<'k>,
) -> Value<'k> {
    emitted(k, body.nodes(), body.nodes().len().saturating_sub(1), accuracy, hole)
}

/// The same in f32, of a body whose value is rounded to `to` afterwards: it is not rounded to that before.
pub(crate) fn before_rounding<'k>(
    k: &'k Builder,
    body: &Body,
    to: DType,
    accuracy: Accuracy,
    hole: &mut dyn FnMut(u32) -> Value<'k>,
) -> Value<'k> {
    let nodes = body.nodes();
    let rounds = |attr: &Id| matches!(&nodes[usize::from(*attr)], Node::Attr(Attr::DType(dtype)) if *dtype == to);
    let value = match nodes {
        [before @ .., Node::Apply(Op::Pointwise(Pointwise::Cast), operands)] => match operands.as_ref() {
            [of, attr] if rounds(attr) => emitted(k, before, usize::from(*of), accuracy, hole),
            _ => pointwise(k, body, accuracy, hole),
        },
        _ => pointwise(k, body, accuracy, hole),
    };
    value.cast(DType::F32)
}

/// Emits these nodes. The value of one of them.
fn emitted<'k>(
    k: &'k Builder,
    nodes: &[Node],
    root: usize,
    accuracy: Accuracy,
    hole: &mut dyn FnMut(u32) -> Value<'k>,
) -> Value<'k> {
    let mut terms: Vec<Term<'_, 'k>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let term = match node {
            Node::Hole(i) => Term::Value(k.bind("operand", hole(*i))),
            Node::Attr(attr) => Term::Attr(attr),
            Node::Apply(Op::Pointwise(op), operands) => {
                let operands: Vec<_> = operands.iter().map(|id: &Id| terms[usize::from(*id)]).collect();
                Term::Value(k.bind(op.name(), pointwise_op(k, *op, accuracy, &operands)))
            }
            Node::Apply(op, _) => unreachable!("`{}` in a body that is not pointwise", op.name()),
            Node::Param(p) => unreachable!("`{}` in a body: verify refuses it", p.0),
        };
        terms.push(term);
    }
    match terms.get(root) {
        Some(Term::Value(value)) => *value,
        Some(Term::Attr(_)) | None => unreachable!("a body without a value: verify refuses it"),
    }
}

/// Emits one op: its operands in the graph's order, values of the same lanes.
pub(crate) fn pointwise_op<'k>(k: &'k Builder, op: Pointwise, accuracy: Accuracy, operands: &[Term<'_, 'k>]) -> Value<'k> {
    let value = |i: usize| match operands[i] {
        Term::Value(value) => value.cast(DType::F32),
        Term::Attr(attr) => unreachable!("`{}` of {attr}: verify refuses it", op.name()),
    };
    let real = || match operands[1] {
        Term::Attr(Attr::Real(c)) => c.get() as f32,
        Term::Attr(_) | Term::Value(_) => unreachable!("`{}` without a number: verify refuses it", op.name()),
    };
    match op {
        Pointwise::Cast => match operands[1] {
            Term::Attr(Attr::DType(dtype)) => value(0).cast(*dtype),
            Term::Attr(_) | Term::Value(_) => unreachable!("a cast without a type: verify refuses it"),
        },
        Pointwise::Tf32 => value(0),
        Pointwise::Scale => value(0) * real(),
        Pointwise::Offset => value(0) + real(),
        Pointwise::AtMost => value(0).min(real()),
        Pointwise::AtLeast => value(0).max(real()),
        Pointwise::Sigmoid => math::sigmoid(k, value(0), accuracy),
        Pointwise::Tanh => math::tanh(k, value(0)),
        Pointwise::SqrtSoftplus => math::sqrt_softplus(k, value(0)),
        Pointwise::Silu => math::silu(k, value(0), accuracy),
        Pointwise::Gelu => math::gelu(k, value(0)),
        Pointwise::GeluTanh => math::gelu_tanh(k, value(0), accuracy),
        Pointwise::Relu => value(0).max(0.0),
        Pointwise::Square => value(0) * value(0),
        Pointwise::MaskTokens => value(1).ne(0.0).select(value(0), 0.0),
        Pointwise::Add => value(0) + value(1),
        Pointwise::Mul => value(0) * value(1),
    }
}
