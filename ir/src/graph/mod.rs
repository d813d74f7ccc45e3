//! What a layer means: pure tensor values over a closed set of ops, with no memory, no machine and no order.
//!
//! A [`Graph`] is an egg expression over [`Node`]: the IR *is* the rewriting language. [`infer()`] types each op,
//! [`verify()`] proves a whole graph well typed ([`Typed`]), [`interp()`] says in f64 what it computes, [`print()`]
//! and [`parse()`] are its text form.

mod attr;
mod body;
mod build;
mod cuts;
mod infer;
mod interp;
mod op;
mod parse;
pub mod philox;
mod print;
mod types;
mod verify;

pub use attr::{
    Assignment, Attr, Balance, Capacity, Eps, GroupMask, GroupScore, Groups, Losses, Norm, Part, Priority, Real, Renorm, Span,
};
pub use body::{Body, BodyBuilder};
pub use build::Builder;
pub(crate) use build::depth_first;
pub use cuts::{Cuts, cuts};
pub use infer::{infer, infer_body};
pub use interp::{
    NO_EXPERT, Numbers, Observation, Penalty, Picks, Routing, Slots, Tensor, Value, interp, interp_node, interp_with, needs,
    serve,
};
pub use op::{Node, Op, Param, Pointwise};
pub use parse::{ParseError, parse, parse_regimes};
pub use print::{print, print_regimes};
pub use types::{Dim, Type};
pub use verify::{Typed, Violation, print_with_violations, verify};

use egg::{Id, RecExpr};

use crate::Facts;

/// The name of the result that is the layer's output.
pub const OUTPUT: &str = "y";

/// Whether a result of that name is an output: memory that a caller gives. The names of what a caller may read of a run besides have
/// a point (`stats.load`), those of what weights become a sigil.
#[must_use]
pub fn is_output(name: &str) -> bool {
    !name.contains('.') && !name.starts_with('@')
}

/// A layer as a value: parameters in, tensors out.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The layer's name.
    pub name: String,
    /// Inputs (`%x`) and weights (`@router`), in the order a caller gives them.
    pub params: Vec<(Param, Type)>,
    /// Names of the results. A result with the name of a weight (`@correction_bias`) is what that weight becomes after the batch.
    pub results: Vec<String>,
    /// What the layer says of itself; no value depends on it.
    pub facts: Facts,
    /// Operands before users; the last one is the result or, of several, their [`Op::List`].
    pub nodes: RecExpr<Node>,
}

impl Graph {
    /// The declared type of a parameter.
    pub fn param(&self, name: &Param) -> Option<&Type> {
        self.params.iter().find(|(p, _)| p == name).map(|(_, t)| t)
    }

    /// Whether one of its nodes is this op.
    pub fn has(&self, op: Op) -> bool {
        self.nodes.as_ref().iter().any(|node| matches!(node, Node::Apply(other, _) if *other == op))
    }

    /// The results, by name.
    pub fn results(&self) -> impl Iterator<Item = (&str, Id)> {
        let root = self.nodes.root();
        let ids: &[Id] = match &self.nodes[root] {
            Node::Apply(Op::List, items) if self.results.len() > 1 => items,
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => &[],
        };
        let one = (self.results.len() == 1).then_some(root);
        self.results.iter().map(String::as_str).zip(ids.iter().copied().chain(one))
    }

    /// The result of that name.
    pub fn result(&self, name: &str) -> Option<Id> {
        self.results().find(|(known, _)| *known == name).map(|(_, id)| id)
    }
}

/// A graph with the batches that it serves: those of more tokens than the regime before it takes, up to its own bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Regime<G> {
    /// Largest token count that it serves; `None`: any.
    pub tokens_up_to: Option<u64>,
    /// The graph, [`Graph`] or [`Typed`].
    pub graph: G,
}
