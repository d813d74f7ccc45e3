//! What the right-hand side of a rule may ask of a match, and how it makes new nodes.

use egg::{Applier, EGraph, Id, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};

use super::{Rule, Typing};
use crate::graph::{Attr, Body, Node, Op, Type, infer};

type Graph = EGraph<Node, Typing>;

/// A rule whose two sides are patterns.
pub(super) fn pattern(name: &str, left: &str, right: &str) -> Rule {
    Rewrite::new(name, parsed(left), parsed(right)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// A rule whose right-hand side is made by a function of the match; `None`: it does not apply.
pub(super) fn computed(
    name: impl Into<String>,
    left: &str,
    right: impl Fn(&mut Match) -> Option<Id> + Send + Sync + 'static,
) -> Rule {
    let name = name.into();
    Rewrite::new(name.clone(), parsed(left), Computed(right)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn parsed(text: &str) -> Pattern<Node> {
    text.parse().unwrap_or_else(|why| panic!("the pattern {text}: {why}"))
}

struct Computed<F>(F);

impl<F: Fn(&mut Match) -> Option<Id> + Send + Sync> Applier<Node, Typing> for Computed<F> {
    fn apply_one(&self, graph: &mut Graph, class: Id, subst: &Subst, _: Option<&PatternAst<Node>>, _: Symbol) -> Vec<Id> {
        let mut found = Match { graph, subst, class, has_changed: false };
        if let Some(made) = (self.0)(&mut found) {
            found.unite(class, made);
        }
        if found.has_changed { vec![class] } else { Vec::new() }
    }
}

fn variable(name: &str) -> Var {
    name.parse().unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// A match: the e-graph and what the variables stand for.
pub(super) struct Match<'a> {
    graph: &'a mut Graph,
    subst: &'a Subst,
    class: Id,
    has_changed: bool,
}

impl Match<'_> {
    /// The class that a variable stands for.
    pub(super) fn class(&self, name: &str) -> Id {
        self.graph.find(self.subst[variable(name)])
    }

    /// The type of a variable's value.
    pub(super) fn ty(&self, name: &str) -> &Type {
        &self.graph[self.class(name)].data
    }

    /// The attribute that a variable stands for.
    pub(super) fn attr(&self, name: &str) -> Option<Attr> {
        match self.ty(name) {
            Type::Attr(attr) => Some(attr.clone()),
            Type::Tensor { .. } | Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) => None,
        }
    }

    /// The body that a variable stands for.
    pub(super) fn body(&self, name: &str) -> Option<Body> {
        match self.attr(name)? {
            Attr::Body(body) => Some(body),
            Attr::Num(_) | Attr::Real(_) | Attr::DType(_) | Attr::Groups(_) | Attr::Renorm(_) => None,
            Attr::Assignment(_) | Attr::Losses(_) | Attr::Span(_) | Attr::Part(_) => None,
            Attr::Tiling(_) | Attr::Beside(_) | Attr::Sorting(_) => None,
        }
    }

    /// The real number that a variable stands for.
    pub(super) fn real(&self, name: &str) -> Option<f64> {
        match self.attr(name)? {
            Attr::Real(x) => Some(x.get()),
            Attr::Num(_) | Attr::Body(_) | Attr::DType(_) | Attr::Groups(_) | Attr::Renorm(_) => None,
            Attr::Assignment(_) | Attr::Losses(_) | Attr::Span(_) | Attr::Part(_) => None,
            Attr::Tiling(_) | Attr::Beside(_) | Attr::Sorting(_) => None,
        }
    }

    /// The items of the list that a variable stands for.
    pub(super) fn list(&self, name: &str) -> Option<Vec<Id>> {
        self.graph[self.class(name)].nodes.iter().find_map(|node| match node {
            Node::Apply(Op::List, items) => Some(items.iter().map(|id| self.graph.find(*id)).collect()),
            Node::Param(_) | Node::Hole(_) | Node::Attr(_) | Node::Apply(..) => None,
        })
    }

    /// Whether the value can be had by this op.
    pub(super) fn is(&self, name: &str, op: Op) -> bool {
        self.has(self.class(name), op)
    }

    /// Whether the value that the rule matched can also be had by this op from these variables.
    pub(super) fn result_is(&self, op: Op, operands: &[&str]) -> bool {
        let operands: Vec<Id> = operands.iter().map(|v| self.class(v)).collect();
        self.graph.lookup(Node::apply(op, &operands)).is_some_and(|id| self.graph.find(id) == self.graph.find(self.class))
    }

    /// Says that two values are equal.
    pub(super) fn unite(&mut self, a: Id, b: Id) {
        self.has_changed |= self.graph.union(a, b);
    }

    /// Whether a class has a node of this op.
    pub(super) fn has(&self, class: Id, op: Op) -> bool {
        self.graph[class].nodes.iter().any(|node| matches!(node, Node::Apply(o, _) if *o == op))
    }

    /// Adds a constant.
    pub(super) fn constant(&mut self, attr: Attr) -> Id {
        self.graph.add(Node::Attr(attr))
    }

    /// Adds an op; `None` if it does not take these operands.
    pub(super) fn apply(&mut self, op: impl Into<Op>, operands: &[Id]) -> Option<Id> {
        let node = Node::apply(op, operands);
        infer(&node, |c| &self.graph[c].data, |_| None).ok()?;
        Some(self.graph.add(node))
    }
}
