//! What every op computes, slowly and obviously, in f64: the definition of the graph and the oracle of every room below.
//!
//! `ops` says it of each op, with `picking`, `assigning`, `parts` and `arithmetic`; `values` are what ops take and give, and `observe`
//! is what is known of a token's scores beside its picks.

mod arithmetic;
mod assigning;
mod observe;
mod ops;
mod parts;
mod picking;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use egg::Id;

use super::{Dim, Node, Op, Type, Typed};
use crate::Dims;
use ops::{apply, eval};

pub use assigning::serve;
pub use observe::{Observation, Penalty};
pub use values::{NO_EXPERT, Numbers, Picks, Routing, Slots, Tensor, Value};

/// The value of every node of `graph`; the last one is the layer's output. `params` are by name with sigil (`%x`,
/// `@router`), their sizes those of the declared types at `dims`.
///
/// # Errors
/// A parameter without a value, or with one of another shape than its type has at `dims`.
pub fn interp(graph: &Typed, params: &BTreeMap<String, Tensor>, dims: Dims) -> Result<Vec<Value>, String> {
    interp_with(graph, params, dims, |_, value| value)
}

/// As [`interp`], where each node's value is what `edit` makes of it before others see it: what would follow, had a rounding
/// decided otherwise.
///
/// # Errors
/// As [`interp`].
pub fn interp_with(
    graph: &Typed,
    params: &BTreeMap<String, Tensor>,
    dims: Dims,
    mut edit: impl FnMut(Id, Value) -> Value,
) -> Result<Vec<Value>, String> {
    let mut values: Vec<Value> = Vec::with_capacity(graph.graph().nodes.len());
    for id in graph.graph().nodes.ids() {
        let value = value_of(graph, id, &values, params, dims)?;
        values.push(edit(id, value));
    }
    Ok(values)
}

/// The value of the node `wanted`, where `given` are the values of others. What it does not need is not computed, and no parameter
/// of that is asked for.
///
/// # Errors
/// As [`interp`].
pub fn interp_node(
    graph: &Typed,
    params: &BTreeMap<String, Tensor>,
    dims: Dims,
    wanted: Id,
    mut given: BTreeMap<Id, Value>,
) -> Result<Value, String> {
    let needed = needs(graph, wanted, |id| given.contains_key(&id));
    let mut values: Vec<Value> = Vec::with_capacity(usize::from(wanted));
    for id in (0..usize::from(wanted)).map(Id::from) {
        values.push(match given.remove(&id) {
            Some(value) => value,
            None if needed.contains(&id) => value_of(graph, id, &values, params, dims)?,
            None => Value::List(Vec::new()),
        });
    }
    given.remove(&wanted).map_or_else(|| value_of(graph, wanted, &values, params, dims), Ok)
}

/// The nodes that have to be computed for `wanted`, itself among them, where those are known that `is_given`.
pub fn needs(graph: &Typed, wanted: Id, is_given: impl Fn(Id) -> bool) -> BTreeSet<Id> {
    let mut needed = BTreeSet::new();
    let mut found = vec![wanted];
    while let Some(id) = found.pop() {
        if !is_given(id) && needed.insert(id) {
            found.extend(graph.node(id).operands());
        }
    }
    needed
}

/// The value of a node whose operands have theirs.
fn value_of(graph: &Typed, id: Id, values: &[Value], params: &BTreeMap<String, Tensor>, dims: Dims) -> Result<Value, String> {
    match graph.node(id) {
        Node::Param(p) => {
            let tensor = params.get(&p.0).ok_or_else(|| format!("no value for `{}`", p.0))?;
            let ty = graph.ty(id);
            if !tensor.fits(ty, dims) {
                return Err(format!("the value of `{}` has the shape {:?}, which is no {ty}", p.0, tensor.shape));
            }
            Ok(Value::Tensor(tensor.clone()))
        }
        // Rows of tokens are gathered: by definition, dispatched first.
        Node::Apply(Op::GroupedGemm, operands) if rows_are_tokens(graph.ty(operands[0])) => {
            let of = |i: usize| &values[usize::from(operands[i])];
            let rows = apply(Op::Dispatch, &[of(0), of(1)], dims)?;
            apply(Op::GroupedGemm, &[&rows, of(1), of(2), of(3), of(4)], dims)
        }
        node @ (Node::Hole(_) | Node::Attr(_) | Node::Apply(..)) => eval(node, values, &[], dims),
    }
}

fn rows_are_tokens(ty: &Type) -> bool {
    matches!(ty, Type::Tensor { shape, .. } if shape.first() == Some(&Dim::Tokens))
}
