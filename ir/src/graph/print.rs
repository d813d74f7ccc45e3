//! Graphs as text. Values are numbered in print order, so that an unrelated edit never renumbers the rest.

use egg::Id;

use super::{Attr, Body, Graph, Node, OUTPUT, Op, Regime, Type, infer};

/// The graph as text; [`parse`](super::parse()) reads it back. A type that cannot be inferred is printed as `?`.
pub fn print(graph: &Graph) -> String {
    print_annotated(graph, None, |_| String::new())
}

/// The graphs of a layer as text, each with its bound; [`parse_regimes`](super::parse_regimes()) reads it back.
pub fn print_regimes<'g>(regimes: impl IntoIterator<Item = Regime<&'g Graph>>) -> String {
    let texts = regimes.into_iter().map(|regime| print_annotated(regime.graph, regime.tokens_up_to, |_| String::new()));
    texts.collect::<Vec<_>>().join("\n")
}

/// As [`print`], with its bound, if it has one, and with `note(id)` after the line of each node.
pub(super) fn print_annotated(graph: &Graph, tokens_up_to: Option<u64>, note: impl Fn(Id) -> String) -> String {
    let types = types(graph);
    let show = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "?".to_string(), ToString::to_string);
    let mut out = format!("layer @{}(", graph.name);
    for (i, (param, ty)) in graph.params.iter().enumerate() {
        out += &format!("{}{}: {ty}", if i > 0 { ", " } else { "" }, param.0);
    }
    let bound = tokens_up_to.map_or(String::new(), |most| format!(" up_to {most}"));
    let results: Vec<(&str, Id)> = graph.results().collect();
    let first = results.first().and_then(|(_, id)| types.get(usize::from(*id)));
    out += &format!(") -> {}{bound} {{\n{}", show(first.unwrap_or(&None)), graph.facts);

    let mut names: Vec<String> = Vec::with_capacity(graph.nodes.len());
    let mut numbers = (0..).map(|n| format!("%{n}")).filter(|name| !graph.params.iter().any(|(p, _)| p.0 == *name));
    // What is wrong with an operand that has no line of its own stands under the line that names it.
    let mut notes = String::new();
    for (id, node) in graph.nodes.items() {
        let name = |c: Id| names.get(usize::from(c)).cloned().unwrap_or_else(|| "?".to_string());
        let text = match node {
            Node::Param(p) => p.0.clone(),
            Node::Hole(i) => format!("${i}"),
            Node::Attr(attr) => attr.to_string(),
            Node::Apply(Op::List, items) => list(items.iter().map(|c| name(*c))),
            Node::Apply(op, operands) => {
                let text = numbers.next().unwrap_or_default();
                out += &format!("  {text} = {}", call(graph, *op, operands, &name));
                out += &format!(" : {}\n", show(&types[usize::from(id)]));
                out += &std::mem::take(&mut notes);
                out += &note(id);
                names.push(text);
                continue;
            }
        };
        notes += &note(id);
        names.push(text);
    }
    let result = |(name, id): &(&str, Id)| {
        let value = names.get(usize::from(*id)).map_or("?", String::as_str);
        if results.len() == 1 && *name == OUTPUT { value.to_string() } else { format!("{name} = {value}") }
    };
    let returned: Vec<String> = results.iter().map(result).collect();
    out + &format!("  return {}\n{notes}}}\n", if returned.is_empty() { "?".to_string() } else { returned.join(", ") })
}

/// `op a, b, [..], attr { body }`. Empty operand lists and identity bodies are left out.
fn call(graph: &Graph, op: Op, operands: &[Id], name: &impl Fn(Id) -> String) -> String {
    let mut parts = Vec::new();
    let mut body = String::new();
    for (i, id) in operands.iter().enumerate() {
        match graph.nodes.as_ref().get(usize::from(*id)) {
            Some(Node::Attr(Attr::Body(b))) => {
                if !b.is_identity() {
                    body = format!(" {{\n    {}\n  }}", body_lines(b).join("\n    "));
                }
            }
            // The operands of the body stand after the weights: an empty list there says nothing.
            Some(Node::Apply(Op::List, items)) if items.is_empty() && op.operand_list() == Some(i) => {}
            Some(_) | None => parts.push(name(*id)),
        }
    }
    let separator = if parts.is_empty() { "" } else { " " };
    format!("{}{separator}{}{body}", op.name(), parts.join(", "))
}

/// `a = silu $0`, ..., `yield mul a, $1`.
pub(super) fn body_lines(body: &Body) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(body.nodes().len());
    let mut lines = Vec::new();
    let last = body.nodes().len().saturating_sub(1);
    for (i, node) in body.nodes().iter().enumerate() {
        let name = match node {
            Node::Param(p) => p.0.clone(),
            Node::Hole(i) => format!("${i}"),
            Node::Attr(attr) => attr.to_string(),
            Node::Apply(op, operands) => {
                let operands: Vec<&str> = operands.iter().map(|c| names[usize::from(*c)].as_str()).collect();
                let call = format!("{} {}", op.name(), operands.join(", "));
                let name = letters(lines.len());
                lines.push(if i == last { format!("yield {call}") } else { format!("{name} = {call}") });
                name
            }
        };
        if i == last && !matches!(node, Node::Apply(..)) {
            lines.push(format!("yield {name}"));
        }
        names.push(name);
    }
    lines
}

/// a, b, ..., z, a_1, b_1, ...: never `f16`, which is an element type.
fn letters(n: usize) -> String {
    let letter = char::from(b'a' + (n % 26) as u8);
    if n < 26 { letter.to_string() } else { format!("{letter}_{}", n / 26) }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// The type of every node that has one.
fn types(graph: &Graph) -> Vec<Option<Type>> {
    let mut types: Vec<Option<Type>> = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.as_ref() {
        let typed = node.operands().iter().all(|c| types.get(usize::from(*c)).is_some_and(Option::is_some));
        let missing = Type::List(Vec::new());
        let ty = typed
            .then(|| infer(node, |c| types[usize::from(c)].as_ref().unwrap_or(&missing), |p| graph.param(p).cloned()).ok())
            .flatten();
        types.push(ty);
    }
    types
}
