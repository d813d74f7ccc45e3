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

use std::collections::BTreeMap;

use egg::Id;

use super::{Dim, Node, Op, Type, Typed};
use crate::Dims;
use ops::{apply, eval};

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
    for node in graph.graph().nodes.as_ref() {
        let value = match node {
            Node::Param(p) => {
                let tensor = params.get(&p.0).ok_or_else(|| format!("no value for `{}`", p.0))?;
                let ty = graph.ty(Id::from(values.len()));
                if !tensor.fits(ty, dims) {
                    return Err(format!("the value of `{}` has the shape {:?}, which is no {ty}", p.0, tensor.shape));
                }
                Value::Tensor(tensor.clone())
            }
            // Rows of tokens are gathered: by definition, dispatched first.
            Node::Apply(Op::GroupedGemm, operands) if rows_are_tokens(graph.ty(operands[0])) => {
                let of = |i: usize| &values[usize::from(operands[i])];
                let rows = apply(Op::Dispatch, &[of(0), of(1)], dims)?;
                apply(Op::GroupedGemm, &[&rows, of(1), of(2), of(3), of(4)], dims)?
            }
            Node::Hole(_) | Node::Attr(_) | Node::Apply(..) => eval(node, &values, &[], dims)?,
        };
        values.push(edit(Id::from(values.len()), value));
    }
    Ok(values)
}

fn rows_are_tokens(ty: &Type) -> bool {
    matches!(ty, Type::Tensor { shape, .. } if shape.first() == Some(&Dim::Tokens))
}
