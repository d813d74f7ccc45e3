//! The proof that a graph is well typed, which every later stage requires.

use egg::Id;

use super::{Graph, Node, Param, Type, infer, print};

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

    /// The last node: the result or, of several, their list.
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
    if types.is_empty() {
        return Err(vec![Violation { at: Id::from(0), message: "the graph is empty".to_string() }]);
    }
    let root = graph.nodes.root();
    let returned: Vec<(&str, Id)> = graph.results().collect();
    if returned.len() != graph.results.len() || returned.is_empty() {
        let message = format!("the graph has values for {} of {} results", returned.len(), graph.results.len());
        violations.push(Violation { at: root, message });
    }
    for (i, (name, id)) in returned.iter().enumerate() {
        if returned[..i].iter().any(|(known, _)| known == name) {
            violations.push(Violation { at: root, message: format!("two results have the name `{name}`") });
        }
        let Some(Some(ty)) = types.get(usize::from(*id)) else { continue };
        match name.strip_prefix('@').map(|_| graph.param(&Param((*name).to_string()))) {
            _ if !matches!(ty, Type::Tensor { .. }) => {
                violations.push(Violation { at: *id, message: format!("a layer returns a tensor, not {ty}") });
            }
            Some(weight) if weight != Some(ty) => {
                let message =
                    format!("`{name}` cannot become {ty}: it is {}", weight.map_or("no weight".to_string(), Type::to_string));
                violations.push(Violation { at: *id, message });
            }
            Some(_) | None => {}
        }
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
