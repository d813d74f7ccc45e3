//! Pointwise ops as arithmetic: the bodies of fused ops, whole or one op at a time.
//!
//! What looks along a row (`softmax`) is not pointwise: the route kernel has it. The functions are in `math`.

use egg::Id;

use super::math;
use crate::DType;
use crate::graph::{Attr, Body, Node, Op};
use crate::kernel::{Builder, Value};

/// An operand of a pointwise op.
#[derive(Clone, Copy)]
pub(crate) enum Term<'a, 'k> {
    /// Lanes of numbers.
    Value(Value<'k>),
    /// A constant.
    Attr(&'a Attr),
}

/// Whether [`pointwise`] can emit all of `body`.
pub(crate) fn is_pointwise(body: &Body) -> bool {
    body.nodes().iter().all(|node| match node {
        Node::Hole(_) | Node::Attr(_) => true,
        Node::Param(_) => false,
        Node::Apply(op, _) => is_pointwise_op(*op),
    })
}

/// Whether `op` computes each element from the same element of its operands.
pub(crate) fn is_pointwise_op(op: Op) -> bool {
    match op {
        Op::Cast | Op::Scale | Op::Offset | Op::AtMost | Op::AtLeast | Op::Add | Op::Mul | Op::MaskTokens => true,
        Op::Sigmoid | Op::Tanh | Op::SqrtSoftplus | Op::Silu | Op::Gelu | Op::GeluTanh | Op::Relu | Op::Square => true,
        Op::List | Op::Gemm | Op::GroupedGemm | Op::Route | Op::TopK | Op::SparseMixer | Op::GroupLimit | Op::Renorm => false,
        Op::AllExperts
        | Op::Leading
        | Op::Joint
        | Op::PickWeights
        | Op::Jitter
        | Op::Observe
        | Op::Counted
        | Op::BestScore
        | Op::Losses => false,
        Op::HashPicks | Op::WithoutRows | Op::Assign | Op::RenormKept | Op::DroppedInput | Op::IdentityInput => false,
        Op::Within => false,
        Op::Flatten | Op::Slots | Op::TokenSoftmax | Op::SoftDispatch | Op::SoftCombine => false,
        Op::Dispatch | Op::ExpertRows | Op::PairWeights | Op::Combine | Op::RmsNorm | Op::Softmax | Op::ExpertScale => false,
    }
}

/// Emits a body that [`is_pointwise`]: `hole` gives the values of the holes, f32 and all of the same lanes. The result
/// has the element type of the body's last cast, if it ends in one.
pub(crate) fn pointwise<'k>(k: &'k Builder, body: &Body, hole: &mut dyn FnMut(u32) -> Value<'k>) -> Value<'k> {
    let mut terms: Vec<Term<'_, 'k>> = Vec::with_capacity(body.nodes().len());
    for node in body.nodes() {
        let term = match node {
            Node::Hole(i) => Term::Value(k.bind("operand", hole(*i))),
            Node::Attr(attr) => Term::Attr(attr),
            Node::Apply(op, operands) => {
                let operands: Vec<_> = operands.iter().map(|id: &Id| terms[usize::from(*id)]).collect();
                Term::Value(k.bind(op.name(), pointwise_op(k, *op, &operands)))
            }
            Node::Param(p) => unreachable!("`{}` in a body: verify refuses it", p.0),
        };
        terms.push(term);
    }
    match terms.last() {
        Some(Term::Value(value)) => *value,
        Some(Term::Attr(_)) | None => unreachable!("a body without a value: verify refuses it"),
    }
}

/// Emits one op that [`is_pointwise_op`]: its operands in the graph's order, values of the same lanes.
pub(crate) fn pointwise_op<'k>(k: &'k Builder, op: Op, operands: &[Term<'_, 'k>]) -> Value<'k> {
    let value = |i: usize| match operands[i] {
        Term::Value(value) => value.cast(DType::F32),
        Term::Attr(attr) => unreachable!("`{}` of {attr}: verify refuses it", op.name()),
    };
    let real = || match operands[1] {
        Term::Attr(Attr::Real(c)) => c.get() as f32,
        Term::Attr(_) | Term::Value(_) => unreachable!("`{}` without a number: verify refuses it", op.name()),
    };
    match op {
        Op::Cast => match operands[1] {
            Term::Attr(Attr::DType(dtype)) => value(0).cast(*dtype),
            Term::Attr(_) | Term::Value(_) => unreachable!("a cast without a type: verify refuses it"),
        },
        Op::Scale => value(0) * real(),
        Op::Offset => value(0) + real(),
        Op::AtMost => value(0).min(real()),
        Op::AtLeast => value(0).max(real()),
        Op::Sigmoid => math::sigmoid(k, value(0)),
        Op::Tanh => math::tanh(k, value(0)),
        Op::SqrtSoftplus => math::sqrt_softplus(k, value(0)),
        Op::Silu => math::silu(k, value(0)),
        Op::Gelu => math::gelu(k, value(0)),
        Op::GeluTanh => math::gelu_tanh(k, value(0)),
        Op::Relu => value(0).max(0.0),
        Op::Square => value(0) * value(0),
        Op::MaskTokens => value(1).ne(0.0).select(value(0), 0.0),
        Op::Add => value(0) + value(1),
        Op::Mul => value(0) * value(1),
        Op::List | Op::Gemm | Op::GroupedGemm | Op::Route | Op::TopK | Op::SparseMixer | Op::GroupLimit | Op::Renorm => {
            unreachable!("`{}` is not pointwise", op.name())
        }
        Op::AllExperts
        | Op::Leading
        | Op::Joint
        | Op::PickWeights
        | Op::Jitter
        | Op::Observe
        | Op::Counted
        | Op::BestScore
        | Op::Losses => {
            unreachable!("`{}` is not pointwise", op.name())
        }
        Op::Flatten | Op::Slots | Op::TokenSoftmax | Op::SoftDispatch | Op::SoftCombine | Op::Within => {
            unreachable!("`{}` is not pointwise", op.name())
        }
        Op::HashPicks | Op::WithoutRows | Op::Assign | Op::RenormKept | Op::DroppedInput | Op::IdentityInput => {
            unreachable!("`{}` is not pointwise", op.name())
        }
        Op::Dispatch | Op::ExpertRows | Op::PairWeights | Op::Combine | Op::RmsNorm | Op::Softmax | Op::ExpertScale => {
            unreachable!("`{}` is not pointwise", op.name())
        }
    }
}
