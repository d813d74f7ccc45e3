//! Where a result was routed otherwise than the f64 interpreter does: whether the scores that decided it are nearer to each
//! other than f32, or the layer's type, can tell apart. Such a near tie is no error of a kernel; any other pick or drop is one.
//!
//! ```text
//!   picks   of a token: the least shift of all keys, up for those picked and down for the others, after which the
//!           interpreter picks the same      margin = twice the shift, the distance of the two keys that decided; the
//!           larger of both sides': one of them may be the interpreter's own
//!   order   of a token's picks, where choices are served in turn: margin = the largest distance of a pick's key to a
//!           larger one that is listed after it
//!   drops   of an expert, had its tokens picked as here: margin = the largest distance, in the score by which pairs are
//!           served, of a pair that was kept to one before it that was not
//! ```

use std::collections::{BTreeMap, BTreeSet};

use egg::Id;
use moec_ir::graph::{self, Assignment, Attr, Builder, Dim, Groups, Node, Op, Priority, Span, Type, Typed, Value};
use moec_ir::{DType, Dims as IrDims};
use moec_runtime::package::Dims;
use moec_runtime::{Run, Tensor};

use crate::import::{Entry, TOPK_IDS, element, import, import_logits, import_routing};
use crate::picker::{Picker, picker};
use crate::reference::{Reference, ReferenceError, experts_of_tokens, ir_dims, of_values, params, tokens_apart, verified};
use crate::spec::{Mode, RouterDType, Score, Spec};

/// A layer, its tensors by name and a batch.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// What the layer computes.
    pub spec: &'a Spec,
    /// Which part of it.
    pub entry: Entry,
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
    /// The tokens that an expert keeps of those that pick it.
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
/// been decided as here, every weight still its own score's. And what was decided otherwise.
///
/// # Errors
/// [`ReferenceError`].
pub fn judged(batch: &Given<'_>, run: &Run, reference: Reference) -> Result<(Reference, Vec<Apart>), ReferenceError> {
    let here = Routed::of_run(run);
    if here.pairs() == Routed::of(&reference).pairs() {
        return Ok((reference, Vec::new()));
    }
    let typed = verified(import(batch.spec, batch.entry)?)?;
    let lists = [&here.experts[..], &reference.experts];
    let mut apart = decisions(batch, lists, reference.top_k.max(1), choices_are_served_in_turn(&typed))?;
    if !apart.iter().all(Apart::is_near_tie) {
        return Ok((reference, apart));
    }
    // Drops that follow from the picks are no decision: they are judged by what would follow from those of here.
    let given = params(&typed, &batch.tensors, batch.dims.tokens)?;
    let picker = picker(&typed);
    let (mut scores, mut dropped) = (None, Ok(Vec::new()));
    let as_here = |id: Id, value: Value| match (value, typed.node(id)) {
        (Value::Tensor(tensor), _) if picker.as_ref().is_some_and(|picker| picker.scores == Some(id)) => {
            scores = Some(tensor.clone());
            Value::Tensor(tensor)
        }
        (Value::Picks(picks), _) if picker.as_ref().is_some_and(|picker| picker.picks == id) => {
            Value::Picks(with_experts(picks, &here.experts, scores.as_ref()))
        }
        (Value::Routing(routing), Node::Apply(Op::Assign, operands)) => {
            dropped = drops(batch, &here.kept, &routing, typed.node(operands[1]));
            let are_near = dropped.as_ref().is_ok_and(|drops| drops.iter().all(Apart::is_near_tie));
            Value::Routing(if are_near { with_kept(routing, &here.kept) } else { routing })
        }
        (value, _) => value,
    };
    let values = graph::interp_with(&typed, &given, ir_dims(batch.dims), as_here).map_err(ReferenceError::new)?;
    apart.extend(dropped?);
    Ok((of_values(&typed, &values)?, apart))
}

/// Tokens with other experts `here` than `there`, both `[T, K]`, in whatever order, and how near that was. Only where tokens
/// pick by scores can it have been near.
///
/// # Errors
/// [`ReferenceError`].
pub fn picks(batch: &Given<'_>, here: &[usize], there: &[usize], top_k: usize) -> Result<Vec<Apart>, ReferenceError> {
    decisions(batch, [here, there], top_k, false)
}

/// Tokens with other experts in the first of two lists `[T, K]` than in the second, or in another order if that is asked.
fn decisions(
    batch: &Given<'_>,
    [here, there]: [&[usize]; 2],
    top_k: usize,
    in_order: bool,
) -> Result<Vec<Apart>, ReferenceError> {
    let tokens: Vec<usize> = match in_order {
        true => {
            let lists = here.chunks(top_k).zip(there.chunks(top_k)).enumerate();
            lists.filter(|(_, (here, there))| here != there).map(|(token, _)| token).collect()
        }
        false => tokens_apart(here, there, top_k),
    };
    if tokens.is_empty() || batch.spec.router.mode == Mode::ExpertChoice {
        return Ok(Vec::new()); // Where experts choose, a difference in what they took is one of drops.
    }
    let routed = (batch.spec.router.top_k as usize).min(top_k);
    let of = |experts: &[usize], token: usize| experts[token * top_k..][..routed].to_vec();
    let [here, there] = [here, there].map(|side| tokens.iter().map(|token| of(side, *token)).collect::<Vec<_>>());
    let nearness: Vec<(f64, f64)> = match batch.spec.router.mode {
        Mode::TokenChoice => {
            let keys = Keys::of(batch, &tokens)?;
            let (of_here, of_there) = (keys.margins(&here)?, keys.margins(&there)?);
            let orders = if in_order { keys.inversions(&here, &of_here)? } else { vec![0.0; tokens.len()] };
            // Either side may be the one that picks as the interpreter does: the other one's margin is what counts.
            let margins = of_here.into_iter().zip(of_there).zip(orders).map(|((here, there), order)| here.max(there).max(order));
            margins.zip(keys.told).collect()
        }
        Mode::ExpertChoice | Mode::Hash | Mode::Soft(_) => vec![(f64::INFINITY, 0.0); tokens.len()],
    };
    let decisions = tokens.into_iter().zip(here.into_iter().zip(there));
    let decisions = decisions.map(|(token, (here, there))| Decision::Pick { token, here, there });
    Ok(decisions.zip(nearness).map(|(decision, (margin, told))| Apart { decision, margin, told }).collect())
}

/// How tokens were routed, pair by pair `[T, K]`.
struct Routed {
    top_k: usize,
    experts: Vec<usize>,
    kept: Vec<bool>,
}

impl Routed {
    fn of_run(run: &Run) -> Routed {
        // Of picks without rows those are kept that there are.
        let rows = run.tensor("route.rows").or_else(|| run.tensor(TOPK_IDS).filter(|_| run.tensor("route.experts").is_none()));
        let top_k = rows.and_then(|rows| rows.shape().last().copied()).unwrap_or(1).max(1) as usize;
        let rows = rows.and_then(|rows| rows.to_i32().ok()).unwrap_or_default();
        Routed { top_k, experts: experts_of_tokens(run), kept: rows.into_iter().map(|row| row >= 0).collect() }
    }

    fn of(reference: &Reference) -> Routed {
        let kept = reference.rows.iter().map(Option::is_some).collect();
        Routed { top_k: reference.top_k.max(1), experts: reference.experts.clone(), kept }
    }

    /// Each token with each of its experts, in order of these, and whether it was kept.
    fn pairs(&self) -> Vec<(usize, usize, bool)> {
        let pairs = self.experts.iter().zip(&self.kept).enumerate();
        let mut pairs: Vec<_> = pairs.map(|(pair, (expert, kept))| (pair / self.top_k, *expert, *kept)).collect();
        pairs.sort_unstable();
        pairs
    }
}

/// The same picks, of other experts `[T, K]` for all tokens but padding: each weight is the expert's own score. Those of
/// `sparse_mixer` are of the place in the list, at which nearly equal logits weigh nearly the same.
fn with_experts(mut picks: graph::Picks, experts: &[usize], scores: Option<&graph::Tensor>) -> graph::Picks {
    let (k, columns) = (picks.top_k, picks.experts);
    let tokens = picks.expert_of_pair.len() / k.max(1);
    for (token, experts) in experts.chunks((experts.len() / tokens.max(1)).max(1)).enumerate() {
        let listed = (token * k..(token + 1) * k).zip(experts).filter(|(_, expert)| **expert < columns);
        for (pair, expert) in listed {
            picks.expert_of_pair[pair] = *expert;
            if let Some(scores) = scores {
                picks.weight_of_pair[pair] = scores.data[token * columns + expert];
            }
        }
    }
    picks
}

/// The same picks, of which these pairs have rows.
fn with_kept(mut routing: graph::Routing, kept: &[bool]) -> graph::Routing {
    let mut pairs: Vec<usize> = (0..kept.len()).filter(|pair| kept[*pair]).collect();
    pairs.sort_by_key(|pair| (routing.picks.expert_of_pair[*pair], *pair));
    routing.row_of_pair.fill(None);
    pairs.iter().enumerate().for_each(|(row, pair)| routing.row_of_pair[*pair] = Some(row));
    routing.pair_of_row = pairs;
    routing
}

/// Whether the place of an expert in a token's list has a part in which pairs are dropped.
fn choices_are_served_in_turn(typed: &Typed) -> bool {
    typed.graph().nodes.as_ref().iter().any(|node| match node {
        Node::Attr(Attr::Assignment(Assignment::Capacity(capacity))) => match capacity.priority {
            Priority::ChoiceMajor | Priority::BatchPrioritized => true,
            Priority::TokenMajor | Priority::Score => false,
        },
        Node::Attr(_) | Node::Apply(..) | Node::Param(_) | Node::Hole(_) => false,
    })
}

/// By what a pair is served: the least number first, and of one number the highest score. A rounding is in the score alone.
fn claim(picks: &graph::Picks, priority: Priority, pair: usize) -> (usize, f64) {
    let (token, choice) = (pair / picks.top_k, pair % picks.top_k);
    let (number, score) = match priority {
        Priority::Score => (0, picks.weight_of_pair[pair]),
        Priority::BatchPrioritized => (choice, picks.best_of_token.as_ref().map_or(f64::NEG_INFINITY, |best| best[token])),
        Priority::ChoiceMajor => (choice * (picks.expert_of_pair.len() / picks.top_k) + token, 0.0),
        Priority::TokenMajor => (pair, 0.0),
    };
    (number, if score.is_nan() { f64::NEG_INFINITY } else { score })
}

/// What experts kept otherwise, pair by pair, than their routing by this rule says, and how near that was.
fn drops(batch: &Given<'_>, kept: &[bool], there: &graph::Routing, rule: &Node) -> Result<Vec<Apart>, ReferenceError> {
    let picks = &there.picks;
    let all = (Span::All, Priority::TokenMajor);
    let (span, priority) = match rule {
        Node::Attr(Attr::Assignment(Assignment::Capacity(capacity))) => (capacity.span, capacity.priority),
        Node::Attr(_) | Node::Apply(..) | Node::Param(_) | Node::Hole(_) => all,
    };
    let span_tokens = match span {
        Span::All => batch.dims.tokens,
        Span::Sequence => batch.dims.sequence_tokens,
        Span::Tokens(tokens) => tokens,
    };
    // By expert and span, the pairs that either side kept alone.
    let mut alone: BTreeMap<(usize, u64), [Vec<usize>; 2]> = BTreeMap::new();
    for (pair, (here, row)) in kept.iter().zip(&there.row_of_pair).enumerate() {
        if *here != row.is_some() {
            let span = (pair / picks.top_k) as u64 / span_tokens.max(1);
            alone.entry((picks.expert_of_pair[pair], span)).or_default()[usize::from(row.is_some())].push(pair);
        }
    }
    let tokens = |pairs: &[usize]| pairs.iter().map(|pair| pair / picks.top_k).collect::<Vec<usize>>();
    let decided: BTreeSet<usize> = alone.values().flatten().flat_map(|pairs| tokens(pairs)).collect();
    if decided.is_empty() {
        return Ok(Vec::new());
    }
    let decided: Vec<usize> = decided.into_iter().collect();
    let slack: BTreeMap<usize, f64> = decided.iter().copied().zip(Logits::of(batch, &decided)?.slack).collect();
    let router = &batch.spec.router;
    let rounding = |pair: &usize| {
        let (slack, (_, score)) = (slack[&(pair / picks.top_k)], claim(picks, priority, *pair));
        let size = if score.is_finite() { score.abs() } else { 0.0 };
        match (priority, router.score) {
            (Priority::BatchPrioritized, _) => key_rounding(slack, size),
            // A logit that is a weight moves by itself; other scores, and the sum that they are a share of, in proportion.
            (_, Score::Identity) => router.scale * slack + 32.0 * unit(DType::F32) * size,
            (_, Score::Softmax | Score::Sigmoid | Score::SqrtSoftplus) => {
                (4.0 * slack + 32.0 * unit(DType::F32)) * size + f64::from(f32::MIN_POSITIVE)
            }
        }
    };
    let apart = |((expert, _), [here, there]): ((usize, u64), [Vec<usize>; 2])| {
        let distance = |kept: &usize, passed_over: &usize| {
            let [(a, worse), (b, better)] = [kept, passed_over].map(|pair| claim(picks, priority, *pair));
            if a == b { (better - worse).max(0.0) } else { f64::INFINITY }
        };
        let distances = here.iter().flat_map(|kept| there.iter().map(move |passed_over| distance(kept, passed_over)));
        // One kept too many, or too few, is none that a score could have decided.
        let margin = if here.len() == there.len() { distances.fold(0.0, f64::max) } else { f64::INFINITY };
        let told = 2.0 * here.iter().chain(&there).map(rounding).fold(0.0, f64::max);
        Apart { decision: Decision::Drop { expert, here: tokens(&here), there: tokens(&there) }, margin, told }
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

/// How far f32 may be from a key of that size, its logit off by the slack: no score function changes faster than its logit, and
/// a key is rounded a few times, the bias among them.
fn key_rounding(slack: f64, size: f64) -> f64 {
    slack + 8.0 * unit(DType::F32) * size
}

/// Logits of some tokens in f64.
struct Logits {
    values: graph::Tensor,
    /// Of each token, how far f32 may be from the farthest of them, once they are scaled.
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
        let dims = IrDims { tokens: rows.len() as u64, sequence_tokens: rows.len() as u64 };
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
                if spec.router.dtype == RouterDType::Model {
                    off += 2.0 * own * logit.abs();
                }
                off
            };
            let row = &values.data[i * values.shape[1]..][..values.shape[1]];
            let off = router.data.chunks(hidden).zip(row).map(of_expert).filter(|off| off.is_finite()).fold(0.0, f64::max);
            spec.router.logit_scale.max(1.0) * off
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
        let dims = IrDims { tokens: tokens.len() as u64, sequence_tokens: tokens.len() as u64 };
        let values = graph::interp(&typed, &given, dims).map_err(ReferenceError::new)?;
        let Picker { keys, groups, .. } = picker(&typed).ok_or_else(|| ReferenceError::new("nothing picks".to_string()))?;
        let Value::Tensor(keys) = &values[usize::from(keys)] else {
            return Err(ReferenceError::new("keys that are no tensor".to_string()));
        };
        let rows: Vec<Vec<f64>> = keys.data.chunks(keys.shape[1]).map(<[f64]>::to_vec).collect();
        let told = rows.iter().zip(slack).map(|(row, slack)| {
            let largest = row.iter().filter(|key| key.is_finite()).fold(0.0, |most: f64, key| most.max(key.abs()));
            2.0 * key_rounding(slack, largest)
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
        // What is picked without any move is no distance at all.
        for (i, picks) in self.picks_as(wanted, &below)?.into_iter().enumerate() {
            above[i] = if picks { 0.0 } else { above[i] };
        }
        for _ in 0..HALVINGS {
            let middle: Vec<f64> = below.iter().zip(&above).map(|(below, above)| (below + above) / 2.0).collect();
            for (i, picks) in self.picks_as(wanted, &middle)?.into_iter().enumerate() {
                *if picks { &mut above[i] } else { &mut below[i] } = middle[i];
            }
        }
        Ok(above.into_iter().zip(reached).map(|(margin, reached)| if reached { margin } else { f64::INFINITY }).collect())
    }

    /// Of the experts that each token lists, picked once its keys are moved by that distance: the largest distance of a key to a
    /// larger one that is listed after it.
    fn inversions(&self, listed: &[Vec<usize>], distances: &[f64]) -> Result<Vec<f64>, ReferenceError> {
        let picks = self.picks(listed, distances)?;
        let (k, experts, keys) = (picks.top_k, &picks.expert_of_pair, &picks.weight_of_pair);
        let inversion = |(token, listed): (usize, &Vec<usize>)| {
            let pairs = || token * k..(token + 1) * k;
            let (mut least, mut largest) = (f64::INFINITY, 0.0f64);
            for pair in listed.iter().filter_map(|expert| pairs().find(|pair| experts[*pair] == *expert)) {
                let key = if keys[pair].is_nan() { f64::NEG_INFINITY } else { keys[pair] };
                largest = largest.max(key - least); // Of two infinities of one sign, NaN, which is none.
                least = least.min(key);
            }
            largest
        };
        Ok(listed.iter().enumerate().map(inversion).collect())
    }

    /// Whether each token picks as wanted, in any order, once its keys are moved by that distance.
    fn picks_as(&self, wanted: &[Vec<usize>], distances: &[f64]) -> Result<Vec<bool>, ReferenceError> {
        let picks = self.picks(wanted, distances)?;
        let set = |experts: &[usize]| experts.iter().copied().collect::<BTreeSet<usize>>();
        Ok(picks.expert_of_pair.chunks(picks.top_k).zip(wanted).map(|(is, wanted)| set(is) == set(wanted)).collect())
    }

    /// What each token picks, its keys as weights, once those of the wanted experts are moved up and all others down, apart by
    /// that distance.
    fn picks(&self, wanted: &[Vec<usize>], distances: &[f64]) -> Result<graph::Picks, ReferenceError> {
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
        let dims = IrDims { tokens: tokens as u64, sequence_tokens: tokens as u64 };
        let values = graph::interp(&typed, &given, dims).map_err(ReferenceError::new)?;
        let picks = values.into_iter().find_map(|value| match value {
            Value::Picks(picks) => Some(picks),
            Value::Tensor(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => None,
        });
        picks.ok_or_else(|| ReferenceError::new("no picks".to_string()))
    }
}

/// Moves the keys of `up` up, and all others down.
fn shift(row: &mut [f64], up: &[usize], by: f64) {
    row.iter_mut().enumerate().for_each(|(expert, key)| *key += if up.contains(&expert) { by } else { -by });
}

/// In words: what was decided, and by how much.
impl std::fmt::Display for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.decision {
            Decision::Pick { token, here, there } => write!(f, "token {token} picks experts {here:?}, not {there:?}: ")?,
            Decision::Drop { expert, here, there } => write!(f, "expert {expert} keeps tokens {here:?}, not {there:?}: ")?,
        }
        if self.margin.is_infinite() {
            return f.write_str("no score decides that");
        }
        write!(f, "their scores are {:.1e} apart, and roundings explain {:.1e}", self.margin, self.told)
    }
}
