//! The e-graph's analysis: a class's type. A rule that changes a type fails at the union.

use std::collections::BTreeMap;

use egg::{Analysis, DidMerge, EGraph, Id};

use crate::graph::{Node, Param, Type, infer};

/// The types of the layer's parameters, which type everything else.
#[derive(Clone, Debug, Default)]
pub struct Typing {
    /// By name with sigil.
    pub params: BTreeMap<Param, Type>,
}

impl Analysis<Node> for Typing {
    type Data = Type;

    fn make(egraph: &mut EGraph<Node, Self>, node: &Node, _: Id) -> Type {
        infer(node, |c| &egraph[c].data, |p| egraph.analysis.params.get(p).cloned())
            .unwrap_or_else(|why| panic!("a rule made an ill-typed node: {node}: {why}"))
    }

    fn merge(&mut self, a: &mut Type, b: Type) -> DidMerge {
        assert_eq!(*a, b, "a rule changed a type");
        DidMerge(false, false)
    }
}
