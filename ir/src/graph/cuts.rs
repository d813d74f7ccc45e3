//! Whether a batch can be cut: whether some of its tokens give what they give in the whole batch.

use super::{Assignment, Attr, Graph, Node, Op, Pointwise, Span};

/// Where a batch may be cut into parts that are run one after another, so that each token's output is that of the whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cuts {
    /// Between any two tokens: no token's output depends on another one.
    Tokens,
    /// Between sequences.
    Sequences,
    /// Nowhere.
    Nowhere,
}

/// Where a layer's batches may be cut. Statistics of a part are those of its tokens.
#[must_use]
pub fn cuts(graph: &Graph) -> Cuts {
    let of_node = |node: &Node| match node {
        Node::Apply(op, _) => of_op(*op),
        Node::Attr(attr) => of_attr(attr),
        Node::Param(_) | Node::Hole(_) => Cuts::Tokens,
    };
    graph.nodes.as_ref().iter().map(of_node).max().unwrap_or(Cuts::Tokens)
}

fn of_op(op: Op) -> Cuts {
    match op {
        // They add over all tokens, or number them.
        Op::Losses | Op::BiasUpdate | Op::Jitter => Cuts::Nowhere,
        Op::Slots | Op::TokenSoftmax | Op::SoftDispatch | Op::SoftCombine => Cuts::Sequences,
        Op::List | Op::Gemm | Op::GroupedGemm | Op::Route | Op::TopK | Op::AllExperts | Op::SparseMixer | Op::HashPicks => {
            Cuts::Tokens
        }
        Op::Leading | Op::Joint | Op::GroupLimit | Op::Renorm | Op::ExpertScale | Op::Observe | Op::Counted => Cuts::Tokens,
        Op::BestScore | Op::WithoutRows | Op::Within | Op::Assign | Op::Part | Op::RenormKept | Op::Dispatch => Cuts::Tokens,
        Op::ExpertRows | Op::PairWeights | Op::PickWeights | Op::DroppedInput | Op::IdentityInput | Op::Combine => Cuts::Tokens,
        Op::Flatten | Op::Launch | Op::Item | Op::RmsNorm | Op::Softmax | Op::Given | Op::Picked => Cuts::Tokens,
        Op::Pointwise(
            Pointwise::MaskTokens
            | Pointwise::Cast
            | Pointwise::Tf32
            | Pointwise::Scale
            | Pointwise::Offset
            | Pointwise::AtMost
            | Pointwise::AtLeast
            | Pointwise::Sigmoid
            | Pointwise::Tanh
            | Pointwise::SqrtSoftplus
            | Pointwise::Silu
            | Pointwise::Gelu
            | Pointwise::GeluTanh
            | Pointwise::Relu
            | Pointwise::Square
            | Pointwise::Add
            | Pointwise::Mul,
        ) => Cuts::Tokens,
    }
}

fn of_attr(attr: &Attr) -> Cuts {
    match attr {
        Attr::Assignment(Assignment::Capacity(capacity)) => match capacity.span {
            Span::Sequence => Cuts::Sequences,
            // A run would begin elsewhere.
            Span::All | Span::Tokens(_) => Cuts::Nowhere,
        },
        Attr::Assignment(Assignment::Dropless) => Cuts::Tokens,
        // Sums of what is observed are kept apart by a span; no output depends on them.
        Attr::Span(_) => Cuts::Tokens,
        Attr::Num(_) | Attr::Real(_) | Attr::DType(_) | Attr::Groups(_) | Attr::Renorm(_) | Attr::Losses(_) => Cuts::Tokens,
        Attr::Part(_) | Attr::Body(_) | Attr::Tiling(_) | Attr::Beside(_) | Attr::Sorting(_) => Cuts::Tokens,
    }
}
