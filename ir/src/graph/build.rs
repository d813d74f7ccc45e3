//! Builds graphs node by node; equal nodes are added once.

use std::collections::HashMap;

use egg::{Id, Language, RecExpr};

use super::{Attr, Body, Graph, Node, OUTPUT, Op, Param, Type};
use crate::Facts;

/// A graph being built.
#[derive(Default)]
pub struct Builder {
    params: Vec<(Param, Type)>,
    nodes: RecExpr<Node>,
    known: HashMap<Node, Id>,
}

impl Builder {
    /// Declares a parameter (with its sigil: `%x`, `@router`) and gives its value.
    pub fn param(&mut self, name: &str, ty: Type) -> Id {
        let param = Param(name.to_string());
        if !self.params.iter().any(|(p, _)| *p == param) {
            self.params.push((param.clone(), ty));
        }
        self.add(Node::Param(param))
    }

    /// Adds a node.
    pub fn add(&mut self, node: Node) -> Id {
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        let id = self.nodes.add(node.clone());
        self.known.insert(node, id);
        id
    }

    /// Adds an op.
    pub fn apply(&mut self, op: impl Into<Op>, operands: &[Id]) -> Id {
        self.add(Node::apply(op, operands))
    }

    /// Adds an op whose last operand is an attribute.
    pub fn apply_attr(&mut self, op: impl Into<Op>, operands: &[Id], attr: Attr) -> Id {
        let attr = self.add(Node::Attr(attr));
        self.apply(op, &[operands, &[attr]].concat())
    }

    /// `gemm x [w] [] {$0}`.
    pub fn gemm(&mut self, x: Id, w: Id) -> Id {
        let (ws, vs) = (self.apply(Op::List, &[w]), self.apply(Op::List, &[]));
        self.apply_attr(Op::Gemm, &[x, ws, vs], Attr::Body(Body::identity()))
    }

    /// `grouped_gemm rows routing [w] [] {$0}`.
    pub fn grouped_gemm(&mut self, rows: Id, routing: Id, w: Id) -> Id {
        let (ws, vs) = (self.apply(Op::List, &[w]), self.apply(Op::List, &[]));
        self.apply_attr(Op::GroupedGemm, &[rows, routing, ws, vs], Attr::Body(Body::identity()))
    }

    /// `combine rows routing [] {$0}`.
    pub fn combine(&mut self, rows: Id, routing: Id) -> Id {
        let vs = self.apply(Op::List, &[]);
        self.apply_attr(Op::Combine, &[rows, routing, vs], Attr::Body(Body::identity()))
    }

    /// `slots experts n`.
    pub fn slots(&mut self, experts: u64, slots: u64) -> Id {
        let experts = self.add(Node::Attr(Attr::Num(experts)));
        self.apply_attr(Op::Slots, &[experts], Attr::Num(slots))
    }

    /// `soft_dispatch x weights slots [] {$0}`.
    pub fn soft_dispatch(&mut self, x: Id, weights: Id, slots: Id) -> Id {
        let vs = self.apply(Op::List, &[]);
        self.apply_attr(Op::SoftDispatch, &[x, weights, slots, vs], Attr::Body(Body::identity()))
    }

    /// `soft_combine rows weights slots [] {$0}`.
    pub fn soft_combine(&mut self, rows: Id, weights: Id, slots: Id) -> Id {
        let vs = self.apply(Op::List, &[]);
        self.apply_attr(Op::SoftCombine, &[rows, weights, slots, vs], Attr::Body(Body::identity()))
    }

    /// `rms_norm x eps [] {$0}`.
    pub fn rms_norm(&mut self, x: Id, eps: f64) -> Id {
        let (eps, vs) = (self.add(Node::Attr(Attr::Real(eps.into()))), self.apply(Op::List, &[]));
        self.apply_attr(Op::RmsNorm, &[x, eps, vs], Attr::Body(Body::identity()))
    }

    /// The graph whose one result, the output, is `root`; nodes that it does not use are left out.
    pub fn finish(self, name: &str, root: Id) -> Graph {
        self.finish_with(name, vec![(OUTPUT.to_string(), root)], Facts::default())
    }

    /// The graph with these results, at least one; nodes that they do not use are left out.
    pub fn finish_with(mut self, name: &str, results: Vec<(String, Id)>, facts: Facts) -> Graph {
        let (names, ids): (Vec<String>, Vec<Id>) = results.into_iter().unzip();
        let root = if let [one] = ids[..] { one } else { self.apply(Op::List, &ids) };
        let nodes = depth_first(root, |id| &self.nodes[id]).into();
        Graph { name: name.to_string(), params: self.params, results: names, facts, nodes }
    }
}

/// What `root` needs, operands before users, in depth-first order. No recursion: a text may be a chain of any length.
pub(crate) fn depth_first<'n>(root: Id, node: impl Fn(Id) -> &'n Node) -> Vec<Node> {
    let mut out = Vec::new();
    let mut place: HashMap<Id, Id> = HashMap::new();
    let mut path = vec![(root, 0)];
    while let Some((at, visited)) = path.pop() {
        if place.contains_key(&at) {
            continue;
        }
        match node(at).operands().get(visited) {
            Some(operand) => path.extend([(at, visited + 1), (*operand, 0)]),
            None => {
                out.push(node(at).clone().map_children(|c| place[&c]));
                place.insert(at, Id::from(out.len() - 1));
            }
        }
    }
    out
}
