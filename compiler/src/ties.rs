//! Where a result was routed otherwise than the f64 interpreter does: whether the scores that decided it are nearer to each
//! other than f32, or the layer's type, can tell apart. Such a near tie is no error of a kernel; any other pick or drop is one.
//!
//! ```text
//!   picks   of a token: the least shift of all keys, up for those picked and down for the others, after which the
//!           interpreter picks the same      margin = twice the shift, the distance of the two keys that decided; the
//!           larger of both sides': one of them may be the interpreter's own
//!   drops   of an expert: what it kept there and not here, less what it kept here and not there      margin = their weights' distance
//! ```

use std::collections::{BTreeMap, BTreeSet};

use egg::Id;
use moec_ir::graph::{self, Assignment, Attr, Builder, Dim, Groups, Node, Op, Priority, Type, Typed, Value};
use moec_ir::{DType, Dims as IrDims};
use moec_runtime::package::Dims;
use moec_runtime::{Run, Tensor};

use crate::import::{element, import, import_logits, import_routing};
use crate::reference::{Reference, ReferenceError, experts_of_tokens, ir_dims, of_values, params, tokens_apart, verified};
use crate::spec::{CapacityGroup, Mode, RouterDtype, Spec};

/// A layer, its tensors by name and a batch.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// What the layer computes.
    pub spec: &'a Spec,
    /// Its inputs and at least the weights that [`weights`] names.
    pub tensors: BTreeMap<&'a str, &'a Tensor>,
    /// The batch's dimensions.
    pub dims: Dims,
}

/// What was decided otherwise, here and where it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// A token's experts.
    Pick {
        /// The token.
        token: usize,
        /// What it has here.
        here: Vec<usize>,
        /// What it has there.
        there: Vec<usize>,
    },
    /// The tokens that an expert keeps of those that want it.
    Drop {
        /// The expert.
        expert: usize,
        /// Tokens kept here alone.
        here: Vec<usize>,
        /// Tokens kept there alone.
        there: Vec<usize>,
    },
}

/// A decision, and how near it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Apart {
    /// What was decided otherwise.
    pub decision: Decision,
    /// How far apart the scores are that decided, in f64; infinite where no score could have.
    pub margin: f64,
    /// How far apart scores must be to be told apart.
    pub told: f64,
}

impl Apart {
    /// Whether a rounding decided.
    #[must_use]
    pub fn is_near_tie(&self) -> bool {
        self.margin <= self.told
    }
}

/// The names of the weights that say how near picks were.
#[must_use]
pub fn weights(spec: &Spec) -> BTreeSet<String> {
    let params = [import_logits(spec), import_routing(spec)].map(|graph| graph.params);
    params.into_iter().flatten().filter(|(param, _)| !param.is_input()).map(|(param, _)| param.bare().to_string()).collect()
}

/// The interpreter's result for a run: as it is where both route alike; where near ties alone were decided otherwise, had they
/// been decided as here. And what was decided otherwise.
///
/// # Errors
/// [`ReferenceError`].
pub fn judged(batch: &Given<'_>, run: &Run, reference: Reference) -> Result<(Reference, Vec<Apart>), ReferenceError> {
    let (here, k) = (Routed::of_run(run), reference.top_k.max(1));
    if here.kept == kept_pairs(&reference.experts, &reference.rows, k)
        && tokens_apart(&here.experts, &reference.experts, k).is_empty()
    {
        return Ok((reference, Vec::new()));
    }
    let mut apart = picks(batch, &here.experts, &reference.experts, k)?;
    if !apart.iter().all(Apart::is_near_tie) {
        return Ok((reference, apart));
    }
    // What follows from the picks that were made here is compared next.
    let typed = verified(import(batch.spec))?;
    let given = params(&typed, &batch.tensors, batch.dims.tokens)?;
    let shifts: Vec<(usize, Vec<usize>, f64)> = apart
        .iter()
        .filter_map(|apart| match &apart.decision {
            Decision::Pick { token, here, .. } => Some((*token, here.clone(), apart.told / 2.0)),
            Decision::Drop { .. } => None,
        })
        .collect();
    let keys = picker(&typed).map(|picker| picker.keys);
    let as_picked = |id: Id, value: Value| match value {
        Value::Tensor(mut tensor) if Some(id) == keys => {
            let columns = tensor.shape[1];
            shifts.iter().for_each(|(token, up, by)| shift(&mut tensor.data[token * columns..][..columns], up, *by));
            Value::Tensor(tensor)
        }
        value => value,
    };
    let interpreted = |edit: &dyn Fn(Id, Value) -> Value| {
        graph::interp_with(&typed, &given, ir_dims(batch.dims), edit).map_err(ReferenceError::new)
    };
    let values = interpreted(&as_picked)?;
    let routing = values.iter().find_map(|value| match value {
        Value::Routing(routing) => Some(routing.clone()),
        Value::Tensor(_) | Value::Picks(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => None,
    });
    let Some(routing) = routing else { return Ok((of_values(&typed, values, ir_dims(batch.dims))?, apart)) };
    let drops = drops(batch, &here, &routing)?;
    if drops.is_empty() || !drops.iter().all(Apart::is_near_tie) {
        apart.extend(drops);
        return Ok((of_values(&typed, values, ir_dims(batch.dims))?, apart));
    }
    apart.extend(drops);
    let kept: BTreeSet<(usize, usize)> = here.kept.iter().copied().collect();
    let as_kept = |id: Id, value: Value| match as_picked(id, value) {
        Value::Routing(routing) if matches!(typed.node(id), Node::Apply(Op::Assign, _)) => {
            Value::Routing(with_kept(routing, &kept))
        }
        value => value,
    };
    Ok((of_values(&typed, interpreted(&as_kept)?, ir_dims(batch.dims))?, apart))
}

/// Tokens with other experts `here` than `there`, both `[T, K]`, and how near that was. Only where tokens pick by scores can it
/// have been near.
///
/// # Errors
/// [`ReferenceError`].
pub fn picks(batch: &Given<'_>, here: &[usize], there: &[usize], top_k: usize) -> Result<Vec<Apart>, ReferenceError> {
    let tokens = tokens_apart(here, there, top_k);
    if tokens.is_empty() || batch.spec.router.mode == Mode::ExpertChoice {
        return Ok(Vec::new()); // Where experts choose, who took a token is a drop.
    }
    let routed = (batch.spec.router.top_k as usize).min(top_k);
    let of = |experts: &[usize], token: usize| experts[token * top_k..][..routed].to_vec();
    let known = if batch.spec.router.mode == Mode::TokenChoice { Some(Keys::of(batch, &tokens)?) } else { None };
    let [here_of, there_of] = [here, there].map(|side| tokens.iter().map(|token| of(side, *token)).collect::<Vec<_>>());
    let nearness: Vec<(f64, f64)> = match &known {
        // Either side may be the one that picks as the interpreter does: the other one's margin is what counts.
        Some(keys) => {
            let margins = keys.margins(&here_of)?.into_iter().zip(keys.margins(&there_of)?).map(|(a, b)| a.max(b));
            margins.zip(keys.told.iter().copied()).collect()
        }
        None => vec![(f64::INFINITY, 0.0); tokens.len()],
    };
    let decisions = tokens.into_iter().zip(here_of.into_iter().zip(there_of));
    let decisions = decisions.map(|(token, (here, there))| Decision::Pick { token, here, there });
    Ok(decisions.zip(nearness).map(|(decision, (margin, told))| Apart { decision, margin, told }).collect())
}

/// How a run routed its tokens.
struct Routed {
    experts: Vec<usize>,
    /// Tokens and experts of the pairs that were kept, in order.
    kept: Vec<(usize, usize)>,
}

impl Routed {
    fn of_run(run: &Run) -> Routed {
        let rows = run.tensor("route.rows");
        let top_k = rows.and_then(|rows| rows.shape().last().copied()).unwrap_or(1).max(1) as usize;
        let rows = rows.and_then(|rows| rows.to_i32().ok()).unwrap_or_default();
        let experts = experts_of_tokens(run);
        let rows: Vec<Option<usize>> = rows.into_iter().map(|row| usize::try_from(row).ok()).collect();
        Routed { kept: kept_pairs(&experts, &rows, top_k), experts }
    }
}

/// Tokens and experts of the pairs that have rows, in order.
fn kept_pairs(experts: &[usize], rows: &[Option<usize>], top_k: usize) -> Vec<(usize, usize)> {
    let pairs = experts.iter().zip(rows).enumerate().filter(|(_, (_, row))| row.is_some());
    let mut kept: Vec<(usize, usize)> = pairs.map(|(pair, (expert, _))| (pair / top_k, *expert)).collect();
    kept.sort_unstable();
    kept
}

/// The same picks, of which these pairs have rows.
fn with_kept(mut routing: graph::Routing, kept: &BTreeSet<(usize, usize)>) -> graph::Routing {
    let (k, experts) = (routing.picks.top_k, &routing.picks.expert_of_pair);
    let mut pairs: Vec<usize> = (0..experts.len()).filter(|pair| kept.contains(&(pair / k, experts[*pair]))).collect();
    pairs.sort_by_key(|pair| (experts[*pair], *pair));
    routing.row_of_pair.fill(None);
    pairs.iter().enumerate().for_each(|(row, pair)| routing.row_of_pair[*pair] = Some(row));
    routing.pair_of_row = pairs;
    routing
}

/// What experts kept otherwise than their routing says, and how near that was: only where weights decide it can have been.
fn drops(batch: &Given<'_>, here: &Routed, there: &graph::Routing) -> Result<Vec<Apart>, ReferenceError> {
    let (k, picks) = (there.picks.top_k, &there.picks);
    let there_kept = kept_pairs(&picks.expert_of_pair, &there.row_of_pair, k);
    let sets = [&here.kept, &there_kept].map(|kept| kept.iter().copied().collect::<BTreeSet<(usize, usize)>>());
    let span = match batch.spec.capacity.map(|capacity| capacity.group) {
        Some(CapacityGroup::Row) => batch.dims.row_tokens.max(1),
        Some(CapacityGroup::Tokens(n)) => n,
        Some(CapacityGroup::All) | None => batch.dims.tokens.max(1),
    };
    // By expert and span, what either kept alone.
    let mut alone: BTreeMap<(usize, usize), [Vec<usize>; 2]> = BTreeMap::new();
    for (side, other) in [(0, 1), (1, 0)] {
        for (token, expert) in sets[side].difference(&sets[other]) {
            alone.entry((*expert, token / span as usize)).or_default()[side].push(*token);
        }
    }
    let tokens: BTreeSet<usize> = alone.values().flatten().flatten().copied().collect();
    let tokens: Vec<usize> = tokens.into_iter().collect();
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let slack = Logits::of(batch, &tokens)?.slack.into_iter().fold(0.0, f64::max);
    let priority = batch.spec.capacity.map(|capacity| capacity.priority);
    let by = match (batch.spec.router.mode, priority) {
        (Mode::ExpertChoice, _) => Some(Priority::Score),
        (_, Some(crate::spec::Priority::Score)) => Some(Priority::Score),
        (_, Some(crate::spec::Priority::BatchPrioritized)) => Some(Priority::BatchPrioritized),
        (_, Some(crate::spec::Priority::ChoiceMajor | crate::spec::Priority::TokenMajor) | None) => None,
    };
    let rank = |token: usize, expert: usize| {
        let pair = (token * k..(token + 1) * k).find(|pair| picks.expert_of_pair[*pair] == expert)?;
        match by? {
            Priority::Score => Some(picks.weight_of_pair[pair]),
            Priority::BatchPrioritized => picks.best_of_token.as_ref().map(|best| best[token]),
            Priority::ChoiceMajor | Priority::TokenMajor => None,
        }
    };
    let apart = |((expert, _), [here, there]): ((usize, usize), [Vec<usize>; 2])| {
        let ranks = |tokens: &[usize]| tokens.iter().map(|token| rank(*token, expert)).collect::<Option<Vec<f64>>>();
        let (margin, told) = match (ranks(&here), ranks(&there)) {
            (Some(worse), Some(better)) if worse.len() == better.len() => {
                let least = worse.iter().copied().fold(f64::INFINITY, f64::min);
                let most = better.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                // Relative errors of a score and of the sum that it is a share of; a product's own.
                let size = most.abs().max(least.abs()) + batch.spec.router.scale;
                ((most - least).max(0.0), 2.0 * size * (4.0 * slack + 32.0 * unit(DType::F32)))
            }
            (_, _) => (f64::INFINITY, 0.0),
        };
        Apart { decision: Decision::Drop { expert, here, there }, margin, told }
    };
    Ok(alone.into_iter().map(apart).collect())
}

/// Half the distance from 1 to the next number of a type.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        DType::F32 | DType::Bool | DType::I32 | DType::I64 => 2f64.powi(-24),
    }
}

/// Logits of some tokens in f64.
struct Logits {
    values: graph::Tensor,
    /// Of each token, how far f32 may be from the farthest of them.
    slack: Vec<f64>,
}

impl Logits {
    fn of(batch: &Given<'_>, tokens: &[usize]) -> Result<Logits, ReferenceError> {
        let spec = batch.spec;
        let typed = verified(import_logits(spec))?;
        let mut given = params(&typed, &batch.tensors, batch.dims.tokens)?;
        // Noise is drawn by a token's place in the batch.
        let all: Vec<usize> = (0..batch.dims.tokens as usize).collect();
        let (rows, places) =
            if spec.training.jitter.is_some() { (&all[..], tokens.to_vec()) } else { (tokens, (0..tokens.len()).collect()) };
        if let Some(x) = given.get_mut("%x") {
            *x = selected(x, rows);
        }
        let dims = IrDims { tokens: rows.len() as u64, row_tokens: rows.len() as u64 };
        let values = graph::interp(&typed, &given, dims).map_err(ReferenceError::new)?;
        let tensor = |id: Id| match &values[usize::from(id)] {
            Value::Tensor(tensor) => Ok(tensor),
            Value::List(list) => match &list[..] {
                [Value::Tensor(tensor)] => Ok(tensor),
                _ => Err(ReferenceError::new("several routers".to_string())),
            },
            Value::Picks(_) | Value::Routing(_) | Value::Slots(_) | Value::Attr(_) => {
                Err(ReferenceError::new("a router that is no tensor".to_string()))
            }
        };
        let product = typed.graph().nodes.as_ref().iter().find_map(|node| match node {
            Node::Apply(Op::Gemm, operands) => Some((operands[0], operands[1])),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
        });
        let (x, router) = product.ok_or_else(|| ReferenceError::new("no router".to_string()))?;
        let (x, router, logits) = (tensor(x)?, tensor(router)?, tensor(typed.root())?);
        let values = selected(logits, &places);
        let hidden = router.shape[1];
        let (single, own) = (unit(DType::F32), unit(element(spec.numerics.dtype)));
        let slack = places.iter().enumerate().map(|(i, place)| {
            let x = &x.data[place * hidden..][..hidden];
            let of_expert = |(w, logit): (&[f64], &f64)| {
                let terms = || x.iter().zip(w).map(|(x, w)| (x * w).abs());
                // The error of a sum of n products grows as the root of n (Higham and Mary 2019, theorem 3.1).
                let mut off = (hidden as f64).sqrt() * single * terms().sum::<f64>() + 2.0 * single * logit.abs();
                if spec.router.input_norm.is_some() {
                    off += 2.0 * own * terms().map(|term| term * term).sum::<f64>().sqrt();
                }
                if spec.router.dtype == RouterDtype::Model {
                    off += 2.0 * own * logit.abs();
                }
                off
            };
            let row = &values.data[i * values.shape[1]..][..values.shape[1]];
            router.data.chunks(hidden).zip(row).map(of_expert).filter(|off| off.is_finite()).fold(0.0, f64::max)
        });
        Ok(Logits { slack: slack.collect(), values: values.clone() })
    }
}

/// Some rows of a matrix.
fn selected(matrix: &graph::Tensor, rows: &[usize]) -> graph::Tensor {
    let n = matrix.shape[1];
    let data = rows.iter().flat_map(|row| matrix.data[row * n..][..n].to_vec()).collect();
    graph::Tensor::new(vec![rows.len(), n], data)
}

/// The node that picks, by what.
struct Picker {
    /// The keys before any limit to groups.
    keys: Id,
    groups: Option<Groups>,
}

/// How a graph picks by keys, if it does.
fn picker(typed: &Typed) -> Option<Picker> {
    let keys = typed.graph().nodes.as_ref().iter().find_map(|node| match node {
        Node::Apply(Op::TopK, operands) => Some(operands[1]),
        Node::Apply(Op::SparseMixer, operands) => Some(operands[0]),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    })?;
    let Node::Apply(Op::GroupLimit, operands) = typed.node(keys) else { return Some(Picker { keys, groups: None }) };
    match typed.node(operands[1]) {
        Node::Attr(Attr::Groups(groups)) => Some(Picker { keys: operands[0], groups: Some(*groups) }),
        Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => None,
    }
}

/// What some tokens pick by.
struct Keys {
    rows: Vec<Vec<f64>>,
    groups: Option<Groups>,
    top_k: u64,
    /// Of each token, how far apart two keys must be to be told apart.
    told: Vec<f64>,
}

impl Keys {
    fn of(batch: &Given<'_>, tokens: &[usize]) -> Result<Keys, ReferenceError> {
        let Logits { values: logits, slack } = Logits::of(batch, tokens)?;
        let typed = verified(import_routing(batch.spec))?;
        let mut tensors = batch.tensors.clone();
        tensors.retain(|name, _| *name != "logits");
        let params = typed.graph().params.iter().filter(|(param, _)| param.bare() != "logits");
        let mut given = BTreeMap::from([("%logits".to_string(), logits)]);
        for (param, ty) in params {
            let (Some(tensor), Type::Tensor { shape, .. }) = (tensors.get(param.bare()), ty) else { continue };
            let extent = |dim: &Dim| match dim {
                Dim::Const(n) => *n as usize,
                Dim::Tokens | Dim::Pairs => tokens.len(),
            };
            let tensor = graph::Tensor::new(shape.iter().map(extent).collect(), tensor.to_f64());
            given.insert(param.0.clone(), tensor);
        }
        let dims = IrDims { tokens: tokens.len() as u64, row_tokens: tokens.len() as u64 };
        let values = graph::interp(&typed, &given, dims).map_err(ReferenceError::new)?;
        let Picker { keys, groups } = picker(&typed).ok_or_else(|| ReferenceError::new("nothing picks".to_string()))?;
        let Value::Tensor(keys) = &values[usize::from(keys)] else {
            return Err(ReferenceError::new("keys that are no tensor".to_string()));
        };
        let rows: Vec<Vec<f64>> = keys.data.chunks(keys.shape[1]).map(<[f64]>::to_vec).collect();
        // No score function changes faster than its logit; each key is rounded a few times, the bias among them.
        let told = rows.iter().zip(slack).map(|(row, slack)| {
            let largest = row.iter().filter(|key| key.is_finite()).fold(0.0, |most: f64, key| most.max(key.abs()));
            2.0 * (batch.spec.router.logit_scale.max(1.0) * slack + 8.0 * unit(DType::F32) * largest)
        });
        Ok(Keys { told: told.collect(), rows, groups, top_k: batch.spec.router.top_k })
    }

    /// The least distance, made by moving the keys, after which each token picks as `wanted`; infinite where none does.
    fn margins(&self, wanted: &[Vec<usize>]) -> Result<Vec<f64>, ReferenceError> {
        const HALVINGS: usize = 80;
        let spread = |row: &Vec<f64>| {
            let finite = || row.iter().copied().filter(|key| key.is_finite());
            2.0 * (finite().fold(f64::NEG_INFINITY, f64::max) - finite().fold(f64::INFINITY, f64::min)).max(0.0) + 1.0
        };
        let mut above: Vec<f64> = self.rows.iter().map(spread).collect();
        let reached = self.picks_as(wanted, &above)?;
        let mut below = vec![0.0; above.len()];
        for _ in 0..HALVINGS {
            let middle: Vec<f64> = below.iter().zip(&above).map(|(below, above)| (below + above) / 2.0).collect();
            for (i, picks) in self.picks_as(wanted, &middle)?.into_iter().enumerate() {
                *if picks { &mut above[i] } else { &mut below[i] } = middle[i];
            }
        }
        Ok(above.into_iter().zip(reached).map(|(margin, reached)| if reached { margin } else { f64::INFINITY }).collect())
    }

    /// Whether each token picks as wanted, once its keys are moved by that distance.
    fn picks_as(&self, wanted: &[Vec<usize>], distances: &[f64]) -> Result<Vec<bool>, ReferenceError> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let mut data = Vec::with_capacity(self.rows.len() * columns);
        for ((row, up), by) in self.rows.iter().zip(wanted).zip(distances) {
            let mut row = row.clone();
            shift(&mut row, up, by / 2.0);
            data.extend(row);
        }
        let mut g = Builder::default();
        let mut keys = g.param("%keys", Type::tensor(&[Dim::Tokens, Dim::Const(columns as u64)], DType::F32));
        if let Some(groups) = self.groups {
            keys = g.apply_attr(Op::GroupLimit, &[keys], Attr::Groups(groups));
        }
        let picks = g.apply_attr(Op::TopK, &[keys, keys], Attr::Num(self.top_k));
        // A graph gives a tensor; the picks are a value of it.
        let routing = g.apply_attr(Op::Assign, &[picks], Attr::Assignment(Assignment::Dropless));
        let of_pairs = g.apply(Op::PairWeights, &[routing]);
        let typed = verified(g.finish("keys", of_pairs))?;
        let tokens = self.rows.len();
        let given = BTreeMap::from([("%keys".to_string(), graph::Tensor::new(vec![tokens, columns], data))]);
        let dims = IrDims { tokens: tokens as u64, row_tokens: tokens as u64 };
        let values = graph::interp(&typed, &given, dims).map_err(ReferenceError::new)?;
        let picks = values.iter().find_map(|value| match value {
            Value::Picks(picks) => Some(picks),
            Value::Tensor(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => None,
        });
        let picks = picks.ok_or_else(|| ReferenceError::new("no picks".to_string()))?;
        let set = |experts: &[usize]| experts.iter().copied().collect::<BTreeSet<usize>>();
        Ok(picks.expert_of_pair.chunks(picks.top_k).zip(wanted).map(|(is, wanted)| set(is) == set(wanted)).collect())
    }
}

/// Moves the keys of `up` up, and all others down.
fn shift(row: &mut [f64], up: &[usize], by: f64) {
    row.iter_mut().enumerate().for_each(|(expert, key)| *key += if up.contains(&expert) { by } else { -by });
}

/// In words: who decided what, and by how much.
impl std::fmt::Display for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.decision {
            Decision::Pick { token, here, there } => {
                write!(f, "token {token} picks experts {here:?}, not {there:?}: their scores are {:.1e} apart", self.margin)?;
            }
            Decision::Drop { expert, here, there } => {
                write!(f, "expert {expert} keeps tokens {here:?}, not {there:?}: their weights are {:.1e} apart", self.margin)?;
            }
        }
        write!(f, ", and roundings explain {:.1e}", self.told)
    }
}
