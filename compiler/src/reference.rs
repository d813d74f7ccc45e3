//! A layer in f64 by the graph's interpreter, and how far another result is from it.
//! Nothing here launches a kernel.

use std::collections::BTreeMap;

use moec_ir::graph::{self, Attr, Dim, Graph, Node, OUTPUT, Observation, Op, Penalty, Type, Typed, Value};
use moec_runtime::Run;
use moec_runtime::package::{self as file, Buffer, DType, Dims, Manifest, Role};

use crate::import::{EntryError, TOPK_IDS, TOPK_WEIGHTS};

/// What the interpreter says of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// The layer's output, `[T, H]`; of a router alone its weights, `[T, K]`.
    pub output: Vec<f64>,
    /// The experts of each token, as [`experts_of_tokens`] has them: none for soft routing.
    pub experts: Vec<usize>,
    /// K.
    pub top_k: usize,
    /// The grouped row of each pair, `[T, K]`; `None`: it has none.
    pub rows: Vec<Option<usize>>,
    /// What the graph observes of each token, where it has that as an op of its own.
    pub observation: Option<Observation>,
    /// The losses that the spec has, where it observes.
    pub penalty: Option<Penalty>,
}

/// Stands for an expert that did not choose the token.
pub const NOT_CHOSEN: usize = usize::MAX;

/// The experts of each token, `[T, K]`: its picks, best first, dropped ones included. Where experts choose K = E, and
/// [`NOT_CHOSEN`] stands for those that did not take the token.
pub fn experts_of_tokens(run: &Run) -> Vec<usize> {
    let ints = |name: &str| run.tensor(name).and_then(|tensor| Some((tensor.to_i32().ok()?, tensor.shape())));
    let number = |expert: i32| usize::try_from(expert).unwrap_or(usize::MAX);
    match (ints("route.experts").or_else(|| ints(TOPK_IDS)), ints("route.rows")) {
        (Some((experts, _)), _) => experts.into_iter().map(number).collect(),
        (None, Some((rows, shape))) => {
            let experts = shape.last().map_or(1, |experts| (*experts).max(1) as usize);
            rows.into_iter().enumerate().map(|(pair, row)| if row < 0 { NOT_CHOSEN } else { pair % experts }).collect()
        }
        (None, None) => Vec::new(),
    }
}

/// K of [`experts_of_tokens`]: the `top_k` of the package, or all experts where these choose and there is none.
pub fn picks_of_token(manifest: &Manifest) -> usize {
    let dim = |name: &str| manifest.dims.iter().find(|dim| dim.name == name).map(|dim| dim.value);
    dim("top_k").or_else(|| dim("experts")).unwrap_or(0) as usize
}

/// Whether tokens are paired with experts by the layer: soft routing has slots instead, and experts alone are given their pairs.
pub fn has_pairs(manifest: &Manifest) -> bool {
    let is_told = |buffer: &Buffer| buffer.observe.as_deref() == Some("route.rows");
    manifest.entry == file::Entry::Router || manifest.buffers.iter().any(is_told)
}

/// The output of numbers that are rounded, of which a router alone has one beside its ids.
#[must_use]
pub fn output(run: &Run) -> Option<&moec_runtime::Tensor> {
    run.outputs.iter().map(|(_, tensor)| tensor).find(|tensor| tensor.dtype() != DType::I32)
}

/// Whether the graph lets experts choose.
fn experts_choose(graph: &Graph) -> bool {
    let chooses = |node: &Node| match node {
        Node::Apply(op, _) => *op == Op::AllExperts,
        Node::Attr(Attr::Body(body)) => body.has(Op::AllExperts),
        Node::Attr(_) | Node::Param(_) | Node::Hole(_) => false,
    };
    graph.nodes.as_ref().iter().any(chooses)
}

/// Why there is no reference. Each is a bug: the graph came from a spec, and the tensors have been run already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the interpreter cannot run the layer: {0}")]
pub struct ReferenceError(String);

impl From<EntryError> for ReferenceError {
    fn from(error: EntryError) -> ReferenceError {
        ReferenceError(error.to_string())
    }
}

impl ReferenceError {
    pub(crate) fn new(why: String) -> ReferenceError {
        ReferenceError(why)
    }
}

/// The bytes that the interpreter has of a batch of `tokens`, weights included: it keeps the value of every node in f64, and
/// shares the numbers of a parameter with its caller.
/// Pairs are counted as if none were dropped. [`u64::MAX`] where that overflows or the graph is not well typed.
pub fn bytes(graph: &Graph, tokens: u64) -> u64 {
    let Ok(typed) = graph::verify(graph.clone()) else { return u64::MAX };
    let nodes = || (0..typed.graph().nodes.len()).map(|node| typed.ty(node.into()));
    let rows_a_token = nodes().map(|ty| match ty {
        Type::Picks { top_k, .. } | Type::Routing { top_k, .. } => *top_k,
        // The slots of a batch are at most as many in each sequence, of which each has a token.
        Type::Slots { experts, slots } => experts.saturating_mul(*slots),
        Type::Tensor { .. } | Type::List(_) | Type::Attr(_) => 0,
    });
    let pairs = tokens.saturating_mul(rows_a_token.max().unwrap_or(0));
    // What only names another value, or several, shares its numbers.
    let own = |node: &Node| !matches!(node, Node::Apply(Op::List | Op::Flatten | Op::Launch | Op::Item, _));
    let own = nodes().zip(typed.graph().nodes.as_ref()).filter(|(_, node)| own(node));
    let elements = own.map(|(ty, _)| elements(ty, tokens, pairs)).fold(0, u64::saturating_add);
    elements.saturating_mul(size_of::<f64>() as u64)
}

/// How many numbers the interpreter has of a value of this type.
fn elements(ty: &Type, tokens: u64, pairs: u64) -> u64 {
    match ty {
        Type::Tensor { shape, .. } => {
            let extent = |dim: &Dim| match dim {
                Dim::Const(n) => *n,
                Dim::Tokens => tokens,
                Dim::Pairs => pairs,
            };
            shape.iter().map(extent).fold(1, u64::saturating_mul)
        }
        // An expert and a weight each; of a routing also its row, and the pair of each row.
        Type::Picks { top_k, .. } => tokens.saturating_mul(*top_k).saturating_mul(2),
        Type::Routing { top_k, .. } => tokens.saturating_mul(*top_k).saturating_mul(5),
        Type::List(types) => types.iter().map(|ty| elements(ty, tokens, pairs)).fold(0, u64::saturating_add),
        Type::Slots { .. } | Type::Attr(_) => 0,
    }
}

/// Interprets `graph` on the tensors that a package with this manifest ran on: weights in the manifest's order, tokens of
/// any leading shape, inputs in the manifest's order too.
///
/// # Errors
/// [`ReferenceError`].
pub fn reference(
    graph: Graph,
    manifest: &Manifest,
    weights: &[moec_runtime::Tensor],
    inputs: &[moec_runtime::Tensor],
    dims: Dims,
) -> Result<Reference, ReferenceError> {
    reference_of(graph, &tensors(manifest, weights, inputs), dims)
}

/// As [`reference()`], of weights and inputs by name.
///
/// # Errors
/// [`ReferenceError`].
pub fn reference_of(
    graph: Graph,
    given: &BTreeMap<&str, &moec_runtime::Tensor>,
    dims: Dims,
) -> Result<Reference, ReferenceError> {
    let typed = verified(graph)?;
    let params = params(&typed, given, dims.tokens)?;
    let values = graph::interp(&typed, &params, ir_dims(dims)).map_err(ReferenceError)?;
    of_values(&typed, &values)
}

pub(crate) fn verified(graph: Graph) -> Result<Typed, ReferenceError> {
    graph::verify(graph).map_err(|wrong| ReferenceError(wrong.into_iter().map(|v| v.message).collect()))
}

pub(crate) fn ir_dims(dims: Dims) -> moec_ir::Dims {
    moec_ir::Dims { tokens: dims.tokens, sequence_tokens: dims.sequence_tokens }
}

/// Weights and inputs, both in the manifest's order, by name.
pub(crate) fn tensors<'t>(
    manifest: &'t Manifest,
    weights: &'t [moec_runtime::Tensor],
    inputs: &'t [moec_runtime::Tensor],
) -> BTreeMap<&'t str, &'t moec_runtime::Tensor> {
    let named = |role: Role| manifest.buffers.iter().filter(move |buffer| buffer.role == role).map(|buffer| buffer.name.as_str());
    named(Role::Weight).zip(weights).chain(named(Role::Input).zip(inputs)).collect()
}

/// What the values of a layer's nodes say.
pub(crate) fn of_values(typed: &Typed, values: &[Value]) -> Result<Reference, ReferenceError> {
    // What a caller has routed is no decision of the layer.
    let is_given = typed.graph().nodes.as_ref().iter().any(|node| matches!(node, Node::Apply(Op::Given, _)));
    let result = |name: &str| match typed.graph().result(name).map(|id| &values[usize::from(id)]) {
        Some(Value::Tensor(tensor)) => Some(tensor),
        Some(Value::Picks(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_)) | None => None,
    };
    let routed = values.iter().rev().find_map(|value| match value {
        Value::Routing(_) if is_given => None,
        Value::Routing(routing) if experts_choose(typed.graph()) => {
            let pairs = routing.picks.expert_of_pair.iter().zip(&routing.row_of_pair);
            let experts = pairs.map(|(expert, row)| row.map_or(NOT_CHOSEN, |_| *expert)).collect();
            Some((experts, routing.picks.top_k, routing.row_of_pair.clone()))
        }
        Value::Routing(routing) => Some((routing.picks.expert_of_pair.clone(), routing.picks.top_k, routing.row_of_pair.clone())),
        Value::Tensor(_) | Value::Picks(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => None,
    });
    // Of picks without rows those are kept that there are.
    let picked = |ids: &graph::Tensor| {
        let experts: Vec<usize> = ids.data.iter().map(|id| if *id < 0.0 { usize::MAX } else { *id as usize }).collect();
        let rows = experts.iter().map(|expert| (*expert != usize::MAX).then_some(0)).collect();
        (experts, ids.shape[1], rows)
    };
    let (experts, top_k, rows) = routed.or_else(|| result(TOPK_IDS).map(picked)).unwrap_or_default();
    let observation = values.iter().rev().find_map(|value| match value {
        Value::Routing(routing) => routing.picks.observed.clone(),
        Value::Tensor(_) | Value::Picks(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => None,
    });
    let [balance, z] = ["stats.aux_loss", "stats.z_loss"].map(|name| result(name).map(|loss| loss.data[0]));
    let penalty = (balance.is_some() || z.is_some()).then_some(Penalty { balance, z });
    let output = result(OUTPUT)
        .or_else(|| result(TOPK_WEIGHTS))
        .ok_or_else(|| ReferenceError("its result is not a tensor".to_string()))?;
    Ok(Reference { output: output.data.to_vec(), experts, top_k, rows, observation, penalty })
}

/// The graph's parameters by their names with sigil.
pub(crate) fn params(
    typed: &Typed,
    given: &BTreeMap<&str, &moec_runtime::Tensor>,
    tokens: u64,
) -> Result<BTreeMap<String, graph::Tensor>, ReferenceError> {
    let mut params = BTreeMap::new();
    for (param, ty) in &typed.graph().params {
        let tensor = given.get(param.bare()).ok_or_else(|| ReferenceError(format!("no tensor for `{}`", param.0)))?;
        let Type::Tensor { shape, .. } = ty else { return Err(ReferenceError(format!("`{}` is no tensor", param.0))) };
        // Of tokens in sequences the leading shape is another one.
        let extent = |dim: &Dim| match dim {
            Dim::Const(n) => *n as usize,
            Dim::Tokens | Dim::Pairs => tokens as usize,
        };
        params.insert(param.0.clone(), graph::Tensor::new(shape.iter().map(extent).collect(), tensor.to_f64()));
    }
    Ok(params)
}

/// How far a result is from what was expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The largest absolute difference, as a part of the largest absolute value expected.
    pub of_largest: f64,
    /// The same, as a part of the root mean square expected.
    pub of_rms: f64,
    /// The first element that is NaN on one side alone, or an infinity that is none, or of the other sign, there.
    pub one_sided: Option<usize>,
}

/// Compares two results of equal length over what is finite in the expected one. NaN equals NaN, and an infinity the one of its
/// sign; what is no finite number on one side alone is an infinite difference.
pub fn difference(actual: &[f64], expected: &[f64]) -> Difference {
    let is_one_sided = |(a, e): (&f64, &f64)| {
        let same = a == e || (a.is_nan() && e.is_nan());
        let both_finite = a.is_finite() && e.is_finite();
        !(same || both_finite)
    };
    let one_sided = actual.iter().zip(expected).position(is_one_sided);
    let finite = || actual.iter().zip(expected).filter(|(_, e)| e.is_finite());
    let error = finite().map(|(a, e)| (a - e).abs()).fold(0.0, f64::max);
    let error = if one_sided.is_some() { f64::INFINITY } else { error };
    let largest = finite().map(|(_, e)| e.abs()).fold(0.0, f64::max);
    let rms = (finite().map(|(_, e)| e * e).sum::<f64>() / finite().count().max(1) as f64).sqrt();
    let part = |of: f64| if error == 0.0 { 0.0 } else { error / of };
    Difference { of_largest: part(largest), of_rms: part(rms), one_sided }
}

/// Rows of so many numbers in which both have a NaN at one place.
pub fn rows_of_nan(actual: &[f64], expected: &[f64], width: usize) -> Vec<usize> {
    let rows = actual.chunks(width.max(1)).zip(expected.chunks(width.max(1))).enumerate();
    let both = |(a, e): (&[f64], &[f64])| a.iter().zip(e).any(|(a, e)| a.is_nan() && e.is_nan());
    rows.filter(|(_, rows)| both(*rows)).map(|(row, _)| row).collect()
}

/// The largest [`Difference::of_largest`] that the rounding of a layer explains. A factor in tf32 has as many bits as one in f16.
pub fn bound_of(manifest: &Manifest) -> f64 {
    if manifest.tf32 { bound(DType::F16) } else { bound(manifest.dtype) }
}

/// The largest [`Difference::of_largest`] that the rounding of this element type explains.
pub fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        DType::Bf16 => 3e-2,
        DType::I32 => 0.0,
    }
}

/// How many tokens have another set of experts in `a` than in `b`, both `[T, K]`.
pub fn expert_sets_apart(a: &[usize], b: &[usize], top_k: usize) -> usize {
    tokens_apart(a, b, top_k).len() + (a.len().abs_diff(b.len()) / top_k.max(1))
}

/// Which tokens have another set of experts in `a` than in `b`, both `[T, K]`.
pub(crate) fn tokens_apart(a: &[usize], b: &[usize], top_k: usize) -> Vec<usize> {
    let set = |picks: &[usize]| {
        let mut set = picks.to_vec();
        set.sort_unstable();
        set
    };
    let tokens = a.chunks(top_k.max(1)).zip(b.chunks(top_k.max(1))).enumerate();
    tokens.filter(|(_, (a, b))| set(a) != set(b)).map(|(token, _)| token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in a value that no value before it has, in bytes of f64.
    fn held<'v>(value: &'v Value, before: &mut Vec<&'v graph::Numbers>) -> u64 {
        let numbers = match value {
            Value::Tensor(tensor) if before.iter().any(|numbers| numbers.is_shared_with(&tensor.data)) => 0,
            Value::Tensor(tensor) => {
                before.push(&tensor.data);
                tensor.data.len()
            }
            Value::Picks(picks) => 2 * picks.expert_of_pair.len(),
            Value::Routing(routing) => 4 * routing.row_of_pair.len() + routing.pair_of_row.len(),
            Value::List(values) => return values.iter().map(|value| held(value, before)).sum(),
            Value::Slots(_) | Value::Attr(_) => 0,
        };
        numbers as u64 * 8
    }

    /// What is foreseen is what the interpreter then has: all of it, and no more where nothing is dropped.
    #[test]
    fn the_interpreters_memory_is_foreseen() {
        let tiny = include_str!("../../examples/specs/tiny.toml");
        let (before, after) = (tiny.split("[capacity]").next().unwrap(), tiny.split("[expert]").nth(1).unwrap());
        let dropless = format!("{before}[expert]{after}");
        for (text, tokens, is_dropless) in [(tiny.to_string(), 33, false), (dropless, 33, true)] {
            let source = crate::diagnostics::Source { name: "tiny.toml".into(), text };
            let graph = crate::import::import_layer(&crate::spec::parse(&source).unwrap());
            let typed = graph::verify(graph.clone()).unwrap();
            let shape = |ty: &Type| match ty {
                Type::Tensor { shape, .. } => {
                    shape.iter().map(|dim| if let Dim::Const(n) = dim { *n as usize } else { tokens }).collect()
                }
                _ => Vec::new(),
            };
            let zeros = |shape: Vec<usize>| {
                let numbers = vec![0.0; shape.iter().product()];
                graph::Tensor::new(shape, numbers)
            };
            let params: BTreeMap<String, graph::Tensor> =
                graph.params.iter().map(|(param, ty)| (param.0.clone(), zeros(shape(ty)))).collect();
            let dims = moec_ir::Dims { tokens: tokens as u64, sequence_tokens: tokens as u64 };
            let values = graph::interp(&typed, &params, dims).unwrap();
            let mut before = Vec::new();
            let held = values.iter().map(|value| held(value, &mut before)).sum::<u64>();
            let foreseen = bytes(&graph, tokens as u64);
            assert!(held <= foreseen && (held == foreseen || !is_dropless), "{held} {foreseen}");
        }
    }

    #[test]
    fn differences() {
        let exact = difference(&[1.0, -2.0], &[1.0, -2.0]);
        assert_eq!(exact, Difference { of_largest: 0.0, of_rms: 0.0, one_sided: None });
        // NaN and infinities where they are expected; the rest is held against what is finite.
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert_eq!(difference(&[nan, inf, -inf, 3.0, 2.0], &[nan, inf, -inf, 4.0, 2.0]).of_largest, 0.25);
        for (actual, expected) in
            [([1.0, nan], [1.0, 0.5]), ([1.0, 0.5], [1.0, nan]), ([0.0, inf], [0.0, -inf]), ([0.0, inf], [0.0, 1.0])]
        {
            let off = difference(&actual, &expected);
            assert_eq!((off.of_largest, off.one_sided), (inf, Some(1)), "{actual:?} {expected:?}");
        }
        assert_eq!(rows_of_nan(&[1.0, nan, 2.0, 3.0, nan, nan], &[1.0, nan, nan, 3.0, 0.0, nan], 2), [0, 2]);
        assert_eq!(difference(&[1.0, -1.0], &[1.0, -2.0]).of_largest, 0.5);
        assert_eq!(difference(&[f64::NAN], &[1.0]).of_largest, f64::INFINITY);
        assert_eq!(difference(&[1.0], &[0.0]).of_largest, f64::INFINITY);
        assert_eq!(difference(&[], &[]).of_rms, 0.0);
    }

    #[test]
    fn sets_are_compared_without_order() {
        assert_eq!(expert_sets_apart(&[0, 1, 2, 3], &[1, 0, 2, 3], 2), 0);
        assert_eq!(expert_sets_apart(&[0, 1, 2, 3], &[1, 0, 2, 4], 2), 1);
        assert_eq!(expert_sets_apart(&[], &[1, 0], 2), 1);
    }
}
