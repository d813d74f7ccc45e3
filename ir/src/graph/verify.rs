//! The proof that a graph is well typed, which every later stage requires.

use egg::Id;

use super::{Graph, Node, Type, infer, print};

/// A graph that [`verify`] accepted, with the type of each node. If a room is given one, it succeeds or returns an error.
#[derive(Clone, Debug)]
pub struct Typed {
    graph: Graph,
    types: Vec<Type>,
}

impl Typed {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The type of a node.
    pub fn ty(&self, id: Id) -> &Type {
        &self.types[usize::from(id)]
    }

    /// A node.
    pub fn node(&self, id: Id) -> &Node {
        &self.graph.nodes[id]
    }

    /// The result.
    pub fn root(&self) -> Id {
        self.graph.nodes.root()
    }
}

/// Something wrong with one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub at: Id,
    /// What.
    pub message: String,
}

/// Types every node; all violations, never only the first. A node whose operands are wrong is not reported again.
///
/// # Errors
/// Every [`Violation`]: operands behind their users, types that no rule gives, a layer without a result.
pub fn verify(graph: Graph) -> Result<Typed, Vec<Violation>> {
    let mut types: Vec<Option<Type>> = Vec::with_capacity(graph.nodes.len());
    let mut violations = Vec::new();
    for (id, node) in graph.nodes.items() {
        if node.operands().iter().any(|c| *c >= id) {
            violations.push(Violation { at: id, message: "an operand stands after its user".to_string() });
        }
        let operands_typed = node.operands().iter().all(|c| types.get(usize::from(*c)).is_some_and(Option::is_some));
        let ty = if operands_typed {
            infer(
                node,
                |c| types[usize::from(c)].as_ref().unwrap_or(const { &Type::List(Vec::new()) }),
                |p| graph.param(p).cloned(),
            )
            .map_err(|message| violations.push(Violation { at: id, message }))
            .ok()
        } else {
            None
        };
        types.push(ty);
    }
    match types.last() {
        Some(Some(Type::Tensor { .. })) | Some(None) => {}
        Some(Some(ty)) => {
            violations.push(Violation { at: graph.nodes.root(), message: format!("a layer returns a tensor, not {ty}") });
        }
        None => return Err(vec![Violation { at: Id::from(0), message: "the graph is empty".to_string() }]),
    }
    match types.into_iter().collect::<Option<Vec<Type>>>() {
        Some(types) if violations.is_empty() => Ok(Typed { graph, types }),
        Some(_) | None => Err(violations),
    }
}

/// The printed graph with each violation under its line.
pub fn print_with_violations(graph: &Graph, violations: &[Violation]) -> String {
    print::print_annotated(graph, None, |id| {
        violations.iter().filter(|v| v.at == id).map(|v| format!("    // error: {}\n", v.message)).collect()
    })
}
