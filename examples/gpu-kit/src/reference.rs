//! A layer of real size at some of its tokens, in f64, by the definition of its graph. Weights of experts are made as they are
//! needed, a row at a time, so that nothing of the layer's size is in memory.
//!
//! ```text
//!   logits   those of the picks that are given get 2^-16 of the row's largest more, those of others as much less: where two
//! scores
//!            are nearer than that, either pick is right, and the result is the one for what was picked
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use egg::Id;
use moec_ir::Dims;
use moec_ir::graph::{self, Node, Op, Param, Tensor, Type, Typed, Value};

use crate::numbers::Numbers;

/// The part of a row's largest logit by which logits that decide may differ from those of the definition.
const TIE: f64 = 1.0 / 65536.0;

/// What the definition says of some tokens.
pub(crate) struct Reference {
    /// `[n, H]`.
    pub(crate) output: Vec<f64>,
    /// `[n, K]`.
    pub(crate) experts: Vec<usize>,
    /// `[n, K]`.
    pub(crate) weights: Vec<f64>,
}

/// The layer of a graph's text at the tokens whose rows are `x`, of which `picked` were the experts. `weights` are by the name of
/// the buffer; those of experts have three dimensions.
///
/// # Errors
/// Where the graph is none of a layer that picks experts for each token by itself, or is fused.
pub(crate) fn reference(
    text: &str,
    weights: &BTreeMap<String, Numbers>,
    x: Vec<f64>,
    picked: &[Vec<usize>],
) -> Result<Reference, String> {
    let graph = graph::parse(text).map_err(|error| error.to_string())?;
    let typed = graph::verify(graph).map_err(|wrong| format!("{wrong:?}"))?;
    let tokens = picked.len();
    let dims = Dims { tokens: tokens as u64, sequence_tokens: tokens as u64 };
    let result = |name: &str| typed.graph().result(name).ok_or_else(|| format!("the layer has no result {name}"));
    let wanted = [result(graph::OUTPUT)?, result("route.experts")?, result("route.weights")?];
    let needed: BTreeSet<Id> = wanted.iter().flat_map(|id| graph::needs(&typed, *id, |_| false)).collect();

    let mut inputs = BTreeMap::from([("%x".to_string(), matrix(tokens, x)?)]);
    let mut values: BTreeMap<Id, Value> = BTreeMap::new();
    for id in needed {
        let value = match typed.node(id) {
            Node::Param(_) if extents(&typed, id).len() == 3 => made_by_row(),
            Node::Param(Param(name)) if !inputs.contains_key(name) => {
                inputs.insert(name.clone(), whole(&typed, id, of(weights, name)?)?);
                graph::interp_node(&typed, &inputs, dims, id, BTreeMap::new())?
            }
            Node::Apply(Op::GroupedGemm, operands) => grouped(&typed, operands, &values, weights)?,
            node @ (Node::Param(_) | Node::Apply(..) | Node::Attr(_) | Node::Hole(_)) => {
                let given = node.operands().iter().map(|id| (*id, values[id].clone())).collect();
                let value = graph::interp_node(&typed, &inputs, dims, id, given)?;
                if is_logits(&typed, node) { nudged(value, picked)? } else { value }
            }
        };
        values.insert(id, value);
    }
    let numbers = |id: &Id| match &values[id] {
        Value::Tensor(tensor) => Ok(tensor.data.to_vec()),
        other => Err(format!("a result is {other:?}")),
    };
    let experts = numbers(&wanted[1])?.into_iter().map(|expert| expert as usize).collect();
    Ok(Reference { output: numbers(&wanted[0])?, experts, weights: numbers(&wanted[2])? })
}

fn matrix(rows: usize, data: Vec<f64>) -> Result<Tensor, String> {
    let columns = data.len().checked_div(rows).ok_or("there are no tokens")?;
    Ok(Tensor::new(vec![rows, columns], data))
}

fn of<'w>(weights: &'w BTreeMap<String, Numbers>, param: &str) -> Result<&'w Numbers, String> {
    weights.get(param.trim_start_matches('@')).ok_or_else(|| format!("the package has no weight for {param}"))
}

/// The constant extents of a tensor; none of others.
fn extents(typed: &Typed, id: Id) -> Vec<usize> {
    match typed.ty(id) {
        Type::Tensor { shape, .. } => {
            let constant = |dim: &graph::Dim| match dim {
                graph::Dim::Const(extent) => Some(*extent as usize),
                graph::Dim::Tokens | graph::Dim::Pairs => None,
            };
            shape.iter().map(constant).collect::<Option<_>>().unwrap_or_default()
        }
        Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => Vec::new(),
    }
}

/// Stands for a weight that is made a row at a time: only a grouped product may ask for it.
fn made_by_row() -> Value {
    Value::List(Vec::new())
}

fn whole(typed: &Typed, id: Id, numbers: &Numbers) -> Result<Tensor, String> {
    let shape = extents(typed, id);
    if shape.is_empty() {
        return Err("an input beside the tokens".to_string());
    }
    let mut data = vec![0.0; shape.iter().product()];
    numbers.values(0, &mut data);
    Ok(Tensor::new(shape, data))
}

/// The parameters that a list is of.
fn params(typed: &Typed, list: Id) -> Vec<(Id, &str)> {
    let param = |id: &Id| match typed.node(*id) {
        Node::Param(Param(name)) => Some((*id, name.as_str())),
        Node::Apply(..) | Node::Attr(_) | Node::Hole(_) => None,
    };
    typed.node(list).operands().iter().filter_map(param).collect()
}

/// Whether the node is the product of tokens and router.
fn is_logits(typed: &Typed, node: &Node) -> bool {
    match node {
        Node::Apply(Op::Gemm, operands) => params(typed, operands[1]).iter().any(|(_, name)| *name == "@router"),
        Node::Apply(..) | Node::Param(_) | Node::Attr(_) | Node::Hole(_) => false,
    }
}

fn nudged(logits: Value, picked: &[Vec<usize>]) -> Result<Value, String> {
    let Value::Tensor(Tensor { shape, mut data }) = logits else { return Err("logits are no tensor".to_string()) };
    let experts = shape.last().copied().unwrap_or_default().max(1);
    for (row, picked) in data.chunks_mut(experts).zip(picked) {
        let tie = TIE * row.iter().fold(0.0, |most: f64, logit| most.max(logit.abs()));
        for (expert, logit) in row.iter_mut().enumerate() {
            *logit += if picked.contains(&expert) { tie } else { -tie };
        }
    }
    Ok(Value::Tensor(Tensor { shape, data }))
}

/// `y[p, n] = sum_k rows[p, k] * w[expert of p, n, k]`, by all threads.
fn grouped(
    typed: &Typed,
    operands: &[Id],
    values: &BTreeMap<Id, Value>,
    weights: &BTreeMap<String, Numbers>,
) -> Result<Value, String> {
    let [rows, routing, factors, beside, ..] = operands else { return Err("a grouped product lacks operands".to_string()) };
    let (Value::Tensor(rows), Value::Routing(routing)) = (&values[rows], &values[routing]) else {
        return Err("a grouped product of no rows".to_string());
    };
    let factor = match (&params(typed, *factors)[..], typed.node(*beside).operands()) {
        ([(id, name)], []) => (*id, of(weights, name)?),
        _ => return Err("a grouped product is fused".to_string()),
    };
    let [_, columns, depth] = extents(typed, factor.0)[..] else { return Err("a factor of other dimensions".to_string()) };
    let expert_of_row: Vec<usize> = routing.pair_of_row.iter().map(|pair| routing.picks.expert_of_pair[*pair]).collect();
    if rows.data.len() != expert_of_row.len() * depth {
        return Err("a grouped product of rows that are not gathered".to_string());
    }
    let mut rows_of = BTreeMap::<usize, Vec<usize>>::new();
    expert_of_row.iter().enumerate().for_each(|(row, expert)| rows_of.entry(*expert).or_default().push(row));
    let pairs = expert_of_row.len();
    if pairs == 0 {
        return Err("a grouped product of no rows".to_string());
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // Columns outermost, so that a thread has a piece of its own.
    let mut by_column = vec![0.0; columns * pairs];
    let chunk = columns.div_ceil(threads);
    thread::scope(|scope| {
        for (first, part) in (0..).step_by(chunk).zip(by_column.chunks_mut(chunk * pairs)) {
            let (rows_of, rows, numbers) = (&rows_of, &rows.data, factor.1);
            scope.spawn(move || {
                let mut weight = vec![0.0; depth];
                for (column, sums) in (first..).zip(part.chunks_mut(pairs)) {
                    for (expert, of_expert) in rows_of {
                        numbers.values(((expert * columns + column) * depth) as u64, &mut weight);
                        for row in of_expert {
                            sums[*row] = rows[row * depth..][..depth].iter().zip(&weight).map(|(a, b)| a * b).sum();
                        }
                    }
                }
            });
        }
    });
    let data = (0..pairs * columns).map(|i| by_column[i % columns * pairs + i / columns]).collect::<Vec<f64>>();
    Ok(Value::Tensor(Tensor::new(vec![pairs, columns], data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was picked gains where scores are nearer than a rounding, and nowhere else.
    #[test]
    fn near_ties_go_to_what_was_picked() {
        let logits = |row: [f64; 4]| Value::Tensor(Tensor::new(vec![1, 4], row.to_vec()));
        let best = |value: Value| match value {
            Value::Tensor(tensor) => (0..4).max_by(|a, b| tensor.data[*a].total_cmp(&tensor.data[*b])),
            _ => None,
        };
        assert_eq!(best(nudged(logits([1.0, 1.0 - 1e-6, 0.5, -1.0]), &[vec![1]]).unwrap()), Some(1));
        assert_eq!(best(nudged(logits([1.0, 1.0 - 1e-3, 0.5, -1.0]), &[vec![1]]).unwrap()), Some(0));
    }
}
