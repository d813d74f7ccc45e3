//! The body of a fused op: a small graph over the op's products and operands.

use std::collections::HashMap;
use std::fmt;

use egg::{Id, Language};

use super::build::depth_first;
use super::{Attr, Node, Op, Pointwise};

/// Nodes over holes `$0, $1, ...`, operands before users, the result last. Two bodies that compute the same by the same
/// ops are equal: nodes are shared and in depth-first order from the result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Body(Box<[Node]>);

impl Body {
    /// `$0`.
    pub fn identity() -> Body {
        Body(Box::new([Node::Hole(0)]))
    }

    /// Whether it is `$0`.
    pub fn is_identity(&self) -> bool {
        matches!(&*self.0, [Node::Hole(0)])
    }

    /// The nodes; the last one is the result.
    pub fn nodes(&self) -> &[Node] {
        &self.0
    }

    /// Whether one of its nodes is this op.
    pub fn has(&self, op: Op) -> bool {
        self.0.iter().any(|node| matches!(node, Node::Apply(other, _) if *other == op))
    }

    /// Whether it computes number by number: the end of a product that is computed in tiles.
    pub fn is_pointwise(&self) -> bool {
        self.0.iter().all(|node| match node {
            Node::Hole(_) | Node::Attr(_) => true,
            Node::Param(_) => false,
            Node::Apply(op, _) => matches!(op, Op::Pointwise(_)),
        })
    }

    /// Whether the factors of so many products, its first holes, may be rounded: it reads each as `tf32 $i` alone.
    pub fn rounds_factors(&self, products: usize) -> bool {
        let is_product = |id: &Id| matches!(self.0[usize::from(*id)], Node::Hole(hole) if (hole as usize) < products);
        let may = |node: &Node| match node {
            Node::Apply(Op::Pointwise(Pointwise::Tf32), _) => true,
            Node::Apply(_, operands) => !operands.iter().any(is_product),
            Node::Hole(_) | Node::Attr(_) | Node::Param(_) => true,
        };
        self.0.iter().all(may) && !is_product(&self.root())
    }

    /// The result's place among the nodes.
    pub fn root(&self) -> Id {
        Id::from(self.0.len().saturating_sub(1))
    }

    /// `op(self, attrs...)`.
    pub fn then(&self, op: impl Into<Op>, attrs: &[Attr]) -> Body {
        let mut b = BodyBuilder::default();
        let mut operands = vec![b.inline(self, Node::Hole)];
        for attr in attrs {
            operands.push(b.add(Node::Attr(attr.clone())));
        }
        let root = b.add(Node::apply(op, &operands));
        b.finish(root)
    }
}

/// Makes bodies: equal nodes are added once.
#[derive(Default)]
pub struct BodyBuilder {
    nodes: Vec<Node>,
    known: HashMap<Node, Id>,
}

impl BodyBuilder {
    /// Adds a node whose operands are already here.
    pub fn add(&mut self, node: Node) -> Id {
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        let id = Id::from(self.nodes.len());
        self.known.insert(node.clone(), id);
        self.nodes.push(node);
        id
    }

    /// Adds all of `body`, with each hole replaced. Returns where its result is.
    pub fn inline(&mut self, body: &Body, hole: impl Fn(u32) -> Node) -> Id {
        let mut place: Vec<Id> = Vec::with_capacity(body.0.len());
        for node in &body.0 {
            let id = match node {
                Node::Hole(i) => self.add(hole(*i)),
                Node::Param(_) | Node::Attr(_) | Node::Apply(..) => {
                    self.add(node.clone().map_children(|c| place[usize::from(c)]))
                }
            };
            place.push(id);
        }
        place.last().copied().unwrap_or_else(|| self.add(Node::Hole(0)))
    }

    /// The body whose result is `root`; nodes that it does not use are left out.
    pub fn finish(self, root: Id) -> Body {
        Body(depth_first(root, |id| &self.nodes[usize::from(id)]).into())
    }
}

/// One line: `{ a = silu $0; mul a, $1 }`.
impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = super::print::body_lines(self);
        write!(f, "{{ {} }}", lines.join("; "))
    }
}
