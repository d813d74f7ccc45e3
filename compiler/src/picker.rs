//! Which node of a graph picks experts, and by what.

use egg::Id;
use moec_ir::graph::{Attr, Groups, Node, Op, Typed};

/// The node that picks, by what.
pub(crate) struct Picker {
    /// The keys before any limit to groups.
    pub(crate) keys: Id,
    pub(crate) groups: Option<Groups>,
    /// What is picked.
    pub(crate) picks: Id,
    /// Where the weight of a pick is its score, the scores.
    pub(crate) scores: Option<Id>,
}

/// How a graph picks by keys, if it does.
pub(crate) fn picker(typed: &Typed) -> Option<Picker> {
    let (picks, scores, keys) = typed.graph().nodes.as_ref().iter().enumerate().find_map(|(i, node)| match node {
        Node::Apply(Op::TopK, operands) => Some((Id::from(i), Some(operands[0]), operands[1])),
        Node::Apply(Op::SparseMixer, operands) => Some((Id::from(i), None, operands[0])),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    })?;
    let Node::Apply(Op::GroupLimit, operands) = typed.node(keys) else {
        return Some(Picker { keys, groups: None, picks, scores });
    };
    match typed.node(operands[1]) {
        Node::Attr(Attr::Groups(groups)) => Some(Picker { keys: operands[0], groups: Some(*groups), picks, scores }),
        Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => None,
    }
}
