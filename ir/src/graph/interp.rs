//! What every op computes, slowly and obviously, in f64: the definition of the graph and the oracle of every room below.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use egg::Id;

use super::philox::philox;
use super::{
    Assignment, Attr, Balance, Body, Dim, Eps, GroupMask, GroupScore, Groups, Losses, Node, Norm, Op, Pointwise, Priority,
    Renorm, Span, Type, Typed,
};
use crate::Dims;

/// A dense row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// As many as the product of the shape.
    pub data: Numbers,
}

/// The numbers of a tensor. Clones share them until one is written to, so that a weight of a layer is in memory once.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers(Arc<Vec<f64>>);

impl Numbers {
    /// Whether both are the same memory.
    pub fn is_shared_with(&self, other: &Numbers) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Vec<f64>> for Numbers {
    fn from(numbers: Vec<f64>) -> Numbers {
        Numbers(Arc::new(numbers))
    }
}

impl Deref for Numbers {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.0
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut [f64] {
        Arc::<Vec<f64>>::make_mut(&mut self.0)
    }
}

impl<'n> IntoIterator for &'n Numbers {
    type Item = &'n f64;
    type IntoIter = std::slice::Iter<'n, f64>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: AsRef<[f64]> + ?Sized> PartialEq<T> for Numbers {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// For each token its experts, best first, and their weights: both `[T, K]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Picks {
    /// K.
    pub top_k: usize,
    /// E.
    pub experts: usize,
    /// Experts from number E on whose pairs get no rows.
    pub rowless: usize,
    /// Expert of pair `t * K + j`; [`NO_EXPERT`]: the token is padding.
    pub expert_of_pair: Vec<usize>,
    /// Its weight.
    pub weight_of_pair: Vec<f64>,
    /// What `best_score` says of each token: by this, and no weight, `batch_prioritized` goes.
    pub best_of_token: Option<Vec<f64>>,
    /// The experts that `losses` counts, `[T, K]`; `None`: these.
    pub counted: Option<Vec<usize>>,
}

/// The expert of a token that is padding.
pub const NO_EXPERT: usize = usize::MAX;

/// Picks with the grouped rows: the kept pairs by expert, then, here, by priority.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// All picks, also those that were dropped.
    pub picks: Picks,
    /// Row of pair `t * K + j`; `None`: dropped, or its expert has no rows.
    pub row_of_pair: Vec<Option<usize>>,
    /// Pair of each row.
    pub pair_of_row: Vec<usize>,
}

/// What `observe` lets a caller read of each token.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// `[T, E]`: `scores / sum scores`. A score below 0 or NaN counts as 0, an infinite one as the greatest number of
    /// which E have a sum; where all are 0, each has `1 / E`: every row sums to one.
    pub probability: Tensor,
    /// `[T]`: `logsumexp(logits)^2`, the router z-loss of the token (ST-MoE, arXiv 2202.08906, equation 5), with NaN and
    /// infinities as in `softmax`. Beyond 2^120, where such a logit alone decides, it counts as 0.
    pub z: Tensor,
}

impl Observation {
    /// Of the logits and the scores, both `[T, E]`; zeros where the picks say that a token is padding.
    pub fn of(logits: &Tensor, scores: &Tensor, picks: &Picks) -> Observation {
        const LARGEST_Z: f64 = (1u128 << 120) as f64;
        let experts = logits.shape[1];
        let shares = |row: &mut [f64]| {
            row.iter_mut().for_each(|s| *s = if *s > 0.0 { s.min(f64::MAX / experts as f64) } else { 0.0 });
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|s| *s = if sum > 0.0 { *s / sum } else { 1.0 / experts as f64 });
        };
        let mut probability = scores.clone();
        probability.data.chunks_mut(experts).for_each(shares);
        let z = logits.data.chunks(experts).map(|row| {
            let max = row.iter().copied().map(finite).fold(f64::MIN, f64::max);
            let z = (max + row.iter().map(|x| (finite(*x) - max).exp()).sum::<f64>().ln()).powi(2);
            if z <= LARGEST_Z { z } else { 0.0 }
        });
        let mut z: Vec<f64> = z.collect();
        for token in (0..z.len()).filter(|token| picks.is_padding(*token)) {
            z[token] = 0.0;
            probability.data[token * experts..][..experts].fill(0.0);
        }
        Observation { probability, z: Tensor::new(vec![logits.shape[0]], z) }
    }
}

/// What `losses` lets a caller read, each where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// How uneven the experts' use is.
    pub balance: Option<f64>,
    /// How large the logits are.
    pub z: Option<f64>,
}

impl Observation {
    /// The losses of T tokens with K picks each, over E experts: the picks themselves, or those that are `counted` in their
    /// place. With `P[e]` the probabilities summed over the tokens and a factor c:
    ///
    /// * `load`: `c E / T^2 sum_e P[e] n[e]`, where `n[e]` pairs picked e (Switch, arXiv 2101.03961, equation 4);
    /// * `first`: the same, where e was the first pick of `n[e]` tokens (GShard, arXiv 2006.16668, algorithm 1);
    /// * `sequences`: the mean of `load` over sequences of S tokens (DeepSeek-V2, arXiv 2405.04434, equation 23; mesh and
    ///   flaxformer, whose groups are the rows of a batch);
    /// * `sequences_first`: the mean of `first` over them (mesh-tensorflow's `moe.py`);
    /// * `importance`: `c (standard deviation / mean)^2` of P (arXiv 1701.06538, equation 7);
    /// * `z`: `c` times the mean of z.
    ///
    /// Padding is no token: T and S count the others (Megatron-LM divides by them too), and a sequence of nothing else is
    /// none. All are 0 without tokens.
    pub fn losses(&self, picks: &Picks, losses: &Losses, dims: Dims) -> Penalty {
        let (tokens, experts) = (self.z.data.len(), picks.experts);
        let counted = picks.counted.as_ref().unwrap_or(&picks.expert_of_pair);
        let real = |span: std::ops::Range<usize>| span.filter(|token| !picks.is_padding(*token)).count();
        let along = |span: std::ops::Range<usize>, choices: usize| -> f64 {
            let p = |e: usize| span.clone().map(|t| self.probability.data[t * experts + e]).sum::<f64>();
            let p: Vec<f64> = (0..experts).map(p).collect();
            let chosen = span.clone().flat_map(|t| &counted[t * picks.top_k..][..choices]);
            let sum: f64 = chosen.filter(|e| **e != NO_EXPERT).map(|e| p[*e]).sum();
            experts as f64 * sum / (real(span) as f64).powi(2)
        };
        let by_sequence = |choices: usize| -> f64 {
            let row = (dims.row_tokens as usize).max(1);
            let rows = (0..tokens).step_by(row).map(|first| first..(first + row).min(tokens));
            let rows: Vec<_> = rows.filter(|row| real(row.clone()) > 0).collect();
            let count = rows.len() as f64;
            rows.into_iter().map(|row| along(row, choices)).sum::<f64>() / count
        };
        let balance = |balance| match balance {
            _ if real(0..tokens) == 0 => 0.0,
            Balance::Load => along(0..tokens, picks.top_k),
            Balance::First => along(0..tokens, 1),
            Balance::Sequences => by_sequence(picks.top_k),
            Balance::SequencesFirst => by_sequence(1),
            Balance::Importance => {
                let p: Vec<f64> = (0..experts).map(|e| self.probability.data.iter().skip(e).step_by(experts).sum()).collect();
                let mean = p.iter().sum::<f64>() / experts as f64;
                p.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / experts as f64 / (mean * mean)
            }
        };
        Penalty {
            balance: losses.balance.map(|(by, factor)| factor.get() * balance(by)),
            z: losses.z.map(|factor| factor.get() * self.z.data.iter().sum::<f64>() / real(0..tokens).max(1) as f64),
        }
    }
}

/// Rows that no token decides: see [`Op::Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// E.
    pub experts: usize,
    /// Of each expert and sequence.
    pub slots: usize,
    /// Tokens of a sequence, at least 1; the last one may be shorter.
    pub sequence_tokens: usize,
    /// Number of sequences.
    pub sequences: usize,
}

/// The value of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An array.
    Tensor(Tensor),
    /// Experts and weights.
    Picks(Picks),
    /// Picks and grouped rows.
    Routing(Routing),
    /// Rows of experts that no token decides.
    Slots(Slots),
    /// Several values.
    List(Vec<Value>),
    /// A constant.
    Attr(Attr),
}

/// The value of every node of `graph`; the last one is the layer's output. `params` are by name with sigil (`%x`,
/// `@router`), their sizes those of the declared types at `dims`.
pub fn interp(graph: &Typed, params: &BTreeMap<String, Tensor>, dims: Dims) -> Result<Vec<Value>, String> {
    interp_with(graph, params, dims, |_, value| value)
}

/// As [`interp`], where each node's value is what `edit` makes of it before others see it: what would follow, had a rounding
/// decided otherwise.
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

fn eval(node: &Node, values: &[Value], holes: &[Value], dims: Dims) -> Result<Value, String> {
    match node {
        Node::Param(p) => Err(format!("`{}` stands in a body", p.0)),
        Node::Hole(i) => holes.get(*i as usize).cloned().ok_or_else(|| format!("`${i}` stands for nothing")),
        Node::Attr(attr) => Ok(Value::Attr(attr.clone())),
        Node::Apply(op, operands) => {
            let operands: Vec<&Value> = operands.iter().map(|id: &Id| &values[usize::from(*id)]).collect();
            apply(*op, &operands, dims)
        }
    }
}

fn apply_body(body: &Body, holes: Vec<Value>, dims: Dims) -> Result<Value, String> {
    let mut values = Vec::with_capacity(body.nodes().len());
    for node in body.nodes() {
        values.push(eval(node, &values, &holes, dims)?);
    }
    values.pop().ok_or_else(|| "an empty body".to_string())
}

fn apply(op: Op, operands: &[&Value], dims: Dims) -> Result<Value, String> {
    use Value::{List, Picks as P, Routing as R, Tensor as T};
    let operands = match operands {
        // How it is cut changes no value.
        [operands @ .., Value::Attr(Attr::Tiling(_))] if op.is_product() => operands,
        operands => operands,
    };
    Ok(match op {
        Op::List => List(operands.iter().map(|v| (*v).clone()).collect()),
        Op::Gemm => {
            let [T(x), List(ws), List(vs), Value::Attr(Attr::Body(body))] = operands else { return wrong(op) };
            let products = ws.iter().map(|w| Ok(T(gemm(x, tensor(w)?)))).collect::<Result<Vec<_>, String>>()?;
            apply_body(body, [products, vs.clone()].concat(), dims)?
        }
        Op::GroupedGemm => {
            let [T(rows), grouping, List(ws), List(vs), Value::Attr(Attr::Body(body))] = operands else { return wrong(op) };
            let experts = expert_of_row(grouping)?;
            accepts(experts.len(), rows)?;
            let product = |w: &Value| {
                let w = tensor(w)?;
                let [_, n, k] = w.shape[..] else { return Err("grouped weights have three dimensions".to_string()) };
                let mut y = Vec::with_capacity(experts.len() * n);
                for (p, e) in experts.iter().enumerate() {
                    y.extend((0..n).map(|c| dot(&rows.data[p * k..][..k], &w.data[(e * n + c) * k..][..k])));
                }
                Ok(T(Tensor::new(vec![experts.len(), n], y)))
            };
            let products = ws.iter().map(product).collect::<Result<Vec<_>, String>>()?;
            apply_body(body, [products, vs.clone()].concat(), dims)?
        }
        Op::Route => {
            let [x, ws, vs, body, assignment] = operands else { return wrong(op) };
            let picks = apply(Op::Gemm, &[x, ws, vs, body], dims)?;
            apply(Op::Assign, &[&picks, assignment], dims)?
        }
        Op::TopK => match operands {
            [T(scores), T(keys), Value::Attr(Attr::Num(k))] => P(top_k(scores, keys, *k as usize)),
            _ => return wrong(op),
        },
        Op::AllExperts => {
            let [T(scores)] = operands else { return wrong(op) };
            let (pairs, experts) = (scores.data.len(), scores.shape[1]);
            let expert_of_pair = (0..pairs).map(|pair| pair % experts).collect();
            P(Picks { expert_of_pair, weight_of_pair: scores.data.to_vec(), ..Picks::none(experts, experts) })
        }
        Op::SparseMixer => {
            let [T(x), Value::Attr(Attr::Real(jitter)), Value::Attr(Attr::Num(k))] = operands else { return wrong(op) };
            P(sparse_mixer(x, jitter.get(), *k as usize))
        }
        Op::HashPicks => match operands {
            [T(scores), T(table), T(ids)] => P(hash_picks(scores, table, ids)),
            _ => return wrong(op),
        },
        Op::Leading => {
            let [T(x), Value::Attr(Attr::Num(n))] = operands else { return wrong(op) };
            let (columns, n) = (x.shape[1], *n as usize);
            let data = x.data.chunks(columns).flat_map(|row| row[..n].to_vec()).collect();
            T(Tensor::new(vec![x.shape[0], n], data))
        }
        Op::Joint => match operands {
            [P(picks), T(scores), Value::Attr(Attr::Num(n))] => P(joint(picks, scores, *n as usize)),
            _ => return wrong(op),
        },
        Op::GroupLimit => match operands {
            [T(keys), Value::Attr(Attr::Groups(groups))] => T(group_limit(keys, *groups)),
            _ => return wrong(op),
        },
        Op::Renorm => match operands {
            [P(picks), Value::Attr(Attr::Renorm(rule))] => P(picks.map_rows(|w| {
                let divisor = divisor(*rule, w);
                w.iter_mut().for_each(|w| *w /= divisor);
            })),
            _ => return wrong(op),
        },
        Op::ExpertScale => match operands {
            [P(picks), T(s)] => {
                let scaled = picks.weight_of_pair.iter().zip(&picks.expert_of_pair).map(|(w, e)| w * scale_of(s, *e)).collect();
                P(Picks { weight_of_pair: scaled, ..picks.clone() })
            }
            [R(r), T(s)] => {
                let mut y = r.clone();
                for pair in &r.pair_of_row {
                    y.picks.weight_of_pair[*pair] *= scale_of(s, r.picks.expert_of_pair[*pair]);
                }
                R(y)
            }
            _ => return wrong(op),
        },
        Op::Observe => match operands {
            [T(_), T(_), P(picks)] => P(picks.clone()),
            _ => return wrong(op),
        },
        Op::Counted => match operands {
            [P(picks), P(others)] => P(Picks { counted: Some(others.expert_of_pair.clone()), ..picks.clone() }),
            _ => return wrong(op),
        },
        Op::BestScore => {
            let [P(picks), T(scores), Value::Attr(Attr::Num(n))] = operands else { return wrong(op) };
            let (columns, number) = (scores.shape[1], |x: f64| if x.is_nan() { f64::NEG_INFINITY } else { x });
            let best = |(experts, scores): (&[usize], &[f64])| {
                experts[..*n as usize].iter().map(|e| number(scores[*e])).fold(f64::NEG_INFINITY, f64::max)
            };
            let tokens = picks.expert_of_pair.chunks(picks.top_k).zip(scores.data.chunks(columns));
            P(Picks { best_of_token: Some(tokens.map(best).collect()), ..picks.clone() })
        }
        Op::WithoutRows => {
            let [P(picks), Value::Attr(Attr::Num(n))] = operands else { return wrong(op) };
            P(Picks { experts: picks.experts - *n as usize, rowless: *n as usize, ..picks.clone() })
        }
        Op::Within => match operands {
            [T(ids), Value::Attr(Attr::Num(n))] => T(within(ids, *n, |_| true)),
            [T(ids), Value::Attr(Attr::Num(n)), T(mask)] => T(within(ids, *n, |t| mask.data[t] != 0.0)),
            _ => return wrong(op),
        },
        Op::Assign => match operands {
            [P(picks), Value::Attr(Attr::Assignment(rule))] => R(assign(picks, rule, dims)?),
            _ => return wrong(op),
        },
        Op::Losses => match operands {
            [R(r), Value::Attr(Attr::Losses(_))] => R(r.clone()),
            _ => return wrong(op),
        },
        Op::RenormKept => match operands {
            [R(r), Value::Attr(Attr::Renorm(rule))] => R(renorm_kept(r, *rule)),
            _ => return wrong(op),
        },
        Op::Dispatch => {
            let [T(x), R(r)] = operands else { return wrong(op) };
            let n = x.shape[1];
            let data = r.pair_of_row.iter().flat_map(|p| x.data[p / r.picks.top_k * n..][..n].to_vec()).collect();
            T(Tensor::new(vec![r.pair_of_row.len(), n], data))
        }
        Op::ExpertRows => {
            let [T(b), grouping] = operands else { return wrong(op) };
            let (n, experts) = (b.shape[1], expert_of_row(grouping)?);
            let data = experts.iter().flat_map(|e| b.data[e * n..][..n].to_vec()).collect();
            T(Tensor::new(vec![experts.len(), n], data))
        }
        Op::PairWeights => {
            let [R(r)] = operands else { return wrong(op) };
            let data: Vec<f64> = r.pair_of_row.iter().map(|p| r.picks.weight_of_pair[*p]).collect();
            T(Tensor::new(vec![data.len(), 1], data))
        }
        Op::PickWeights => {
            let [R(r), Value::Attr(Attr::Num(first))] = operands else { return wrong(op) };
            let (k, first) = (r.picks.top_k, *first as usize);
            let data = r.picks.weight_of_pair.chunks(k).flat_map(|weights| weights[first..].to_vec()).collect();
            T(Tensor::new(vec![r.tokens(), k - first], data))
        }
        Op::DroppedInput => match operands {
            [T(x), R(r)] => T(input_of(x, r, |pair| r.has_rows(pair) && r.row_of_pair[pair].is_none())),
            _ => return wrong(op),
        },
        Op::IdentityInput => {
            let [T(x), R(r)] = operands else { return wrong(op) };
            T(input_of(x, r, |pair| !r.has_rows(pair) && r.picks.expert_of_pair[pair] != NO_EXPERT))
        }
        Op::Jitter => match operands {
            [T(x), T(seed), Value::Attr(Attr::Real(eps))] => T(jitter(x, seed, eps.get())),
            _ => return wrong(op),
        },
        Op::Combine => {
            let [T(rows), R(r), List(vs), Value::Attr(Attr::Body(body))] = operands else { return wrong(op) };
            accepts(r.pair_of_row.len(), rows)?;
            let n = rows.shape[1];
            let mut sum = vec![0.0; r.tokens() * n];
            for (pair, row) in r.row_of_pair.iter().enumerate() {
                if let Some(row) = row {
                    let y = &mut sum[pair / r.picks.top_k * n..][..n];
                    y.iter_mut().zip(&rows.data[row * n..]).for_each(|(y, x)| *y += x);
                }
            }
            let sum = T(Tensor::new(vec![r.tokens(), n], sum));
            apply_body(body, [vec![sum], vs.clone()].concat(), dims)?
        }
        Op::Flatten => match operands {
            [T(w)] => T(Tensor { shape: vec![w.shape[0] * w.shape[1], w.shape[2]], data: w.data.clone() }),
            _ => return wrong(op),
        },
        Op::Slots => {
            let [Value::Attr(Attr::Num(experts)), Value::Attr(Attr::Num(slots))] = operands else { return wrong(op) };
            let sequence_tokens = sequence_tokens(dims);
            let sequences = (dims.tokens as usize).div_ceil(sequence_tokens);
            Value::Slots(Slots { experts: *experts as usize, slots: *slots as usize, sequence_tokens, sequences })
        }
        Op::TokenSoftmax => match operands {
            [T(x)] => T(token_softmax(x, |_| true, sequence_tokens(dims))),
            [T(x), T(mask)] => T(token_softmax(x, |t| mask.data[t] != 0.0, sequence_tokens(dims))),
            _ => return wrong(op),
        },
        Op::SoftDispatch => {
            let [T(x), T(weights), Value::Slots(slots), List(vs), Value::Attr(Attr::Body(body))] = operands else {
                return wrong(op);
            };
            let n = x.shape[1];
            let mut y = vec![0.0; slots.rows() * n];
            slots.each(x.shape[0], |t, i, row| {
                (0..n).for_each(|h| y[row * n + h] += weights.data[t * weights.shape[1] + i] * x.data[t * n + h]);
            });
            let y = T(Tensor::new(vec![slots.rows(), n], y));
            apply_body(body, [vec![y], vs.clone()].concat(), dims)?
        }
        Op::SoftCombine => {
            let [T(rows), T(weights), Value::Slots(slots), List(vs), Value::Attr(Attr::Body(body))] = operands else {
                return wrong(op);
            };
            accepts(slots.rows(), rows)?;
            let (tokens, n) = (weights.shape[0], rows.shape[1]);
            let mut y = vec![0.0; tokens * n];
            slots.each(tokens, |t, i, row| {
                (0..n).for_each(|h| y[t * n + h] += weights.data[t * weights.shape[1] + i] * rows.data[row * n + h]);
            });
            let y = T(Tensor::new(vec![tokens, n], y));
            apply_body(body, [vec![y], vs.clone()].concat(), dims)?
        }
        Op::RmsNorm => {
            let [x, Value::Attr(Attr::Real(eps)), List(vs), Value::Attr(Attr::Body(body))] = operands else { return wrong(op) };
            let rows = map_rows(x, |row| {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
                let root = (mean + eps.get()).sqrt();
                row.iter_mut().for_each(|x| *x /= root);
            })?;
            apply_body(body, [vec![rows], vs.clone()].concat(), dims)?
        }
        Op::Softmax => match operands {
            [x] => map_rows(x, softmax)?,
            _ => return wrong(op),
        },
        Op::Pointwise(op) => pointwise(op, operands)?,
    })
}

/// What computes number by number.
fn pointwise(op: Pointwise, operands: &[&Value]) -> Result<Value, String> {
    let of = |f: &dyn Fn(f64) -> f64| match operands {
        [x] => map(x, f),
        _ => wrong(op.into()),
    };
    let with = |f: &dyn Fn(f64, f64) -> f64| match operands {
        [x, Value::Attr(Attr::Real(c))] => map(x, |x| f(x, c.get())),
        _ => wrong(op.into()),
    };
    let both = |f: &dyn Fn(f64, f64) -> f64| match operands {
        [Value::Tensor(a), Value::Tensor(b)] => Ok(Value::Tensor(zip(a, b, f)?)),
        _ => wrong(op.into()),
    };
    match op {
        Pointwise::MaskTokens => match operands {
            [Value::Tensor(x), Value::Tensor(mask)] => Ok(Value::Tensor(mask_rows(x, mask))),
            [Value::Picks(picks), Value::Tensor(mask)] => Ok(Value::Picks(mask_picks(picks, mask))),
            _ => wrong(op.into()),
        },
        Pointwise::Cast => match operands {
            [Value::Tensor(x), Value::Attr(Attr::DType(dtype))] => Ok(Value::Tensor(x.map(|x| dtype.round(x)))),
            _ => wrong(op.into()),
        },
        Pointwise::Scale => with(&|x, c| x * c),
        Pointwise::Offset => with(&|x, c| x + c),
        Pointwise::AtMost => with(&|x, c| if c < x { c } else { x }),
        Pointwise::AtLeast => with(&|x, c| if x < c { c } else { x }),
        Pointwise::Sigmoid => of(&sigmoid),
        Pointwise::Tanh => of(&f64::tanh),
        Pointwise::SqrtSoftplus => of(&|x| (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt()),
        Pointwise::Silu => of(&|x| x * sigmoid(x)),
        Pointwise::Gelu => of(&|x| x / 2.0 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))),
        Pointwise::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            of(&|x| x / 2.0 * (1.0 + (c * (x + 0.044715 * x * x * x)).tanh()))
        }
        Pointwise::Relu => of(&|x| if x < 0.0 { 0.0 } else { x }),
        Pointwise::Square => of(&|x| x * x),
        Pointwise::Add => both(&|a, b| a + b),
        Pointwise::Mul => both(&|a, b| a * b),
    }
}

fn wrong(op: Op) -> Result<Value, String> {
    Err(format!("`{}` on values it does not take", op.name()))
}

fn mask_rows(x: &Tensor, mask: &Tensor) -> Tensor {
    let mut y = x.clone();
    let rows = y.data.chunks_mut(x.shape[1].max(1)).zip(&mask.data);
    rows.filter(|(_, mask)| **mask == 0.0).for_each(|(row, _)| row.fill(0.0));
    y
}

fn mask_picks(picks: &Picks, mask: &Tensor) -> Picks {
    let mut y = picks.clone();
    for (token, _) in mask.data.iter().enumerate().filter(|(_, mask)| **mask == 0.0) {
        let pairs = token * y.top_k..(token + 1) * y.top_k;
        y.expert_of_pair[pairs.clone()].fill(NO_EXPERT);
        y.counted.iter_mut().for_each(|counted| counted[pairs.clone()].fill(NO_EXPERT));
        y.best_of_token.iter_mut().for_each(|best| best[token] = f64::NEG_INFINITY);
        y.weight_of_pair[pairs].fill(0.0);
    }
    y
}

impl Routing {
    fn tokens(&self) -> usize {
        self.row_of_pair.len() / self.picks.top_k
    }

    /// Whether the expert of a pair is one with rows.
    fn has_rows(&self, pair: usize) -> bool {
        self.picks.expert_of_pair[pair] < self.picks.experts
    }
}

impl Slots {
    fn rows(&self) -> usize {
        self.experts * self.sequences * self.slots
    }

    /// `f(token, slot, row)` for each token and each slot of its sequence.
    fn each(&self, tokens: usize, mut f: impl FnMut(usize, usize, usize)) {
        for t in 0..tokens {
            for i in 0..self.experts * self.slots {
                f(t, i, (i / self.slots * self.sequences + t / self.sequence_tokens) * self.slots + i % self.slots);
            }
        }
    }
}

/// The expert of each row of a grouping.
fn expert_of_row(grouping: &Value) -> Result<Vec<usize>, String> {
    match grouping {
        Value::Routing(r) => Ok(r.pair_of_row.iter().map(|pair| r.picks.expert_of_pair[*pair]).collect()),
        Value::Slots(slots) => Ok((0..slots.rows()).map(|row| row / (slots.sequences * slots.slots)).collect()),
        Value::Tensor(_) | Value::Picks(_) | Value::List(_) | Value::Attr(_) => Err("neither a routing nor slots".to_string()),
    }
}

/// Two groupings of one layer have the same types, but not the same rows.
fn accepts(wanted: usize, rows: &Tensor) -> Result<(), String> {
    let given = rows.shape[0];
    if given == wanted { Ok(()) } else { Err(format!("{given} rows of another grouping for {wanted}")) }
}

/// Tokens of a sequence.
fn sequence_tokens(dims: Dims) -> usize {
    usize::try_from(dims.row_tokens).unwrap_or(usize::MAX).max(1)
}

impl Picks {
    /// No token's picks.
    fn none(top_k: usize, experts: usize) -> Picks {
        let (expert_of_pair, weight_of_pair) = (Vec::new(), Vec::new());
        Picks { top_k, experts, rowless: 0, expert_of_pair, weight_of_pair, best_of_token: None, counted: None }
    }

    /// Whether a token has no expert.
    pub fn is_padding(&self, token: usize) -> bool {
        self.expert_of_pair[token * self.top_k] == NO_EXPERT
    }

    fn map_rows(&self, f: impl Fn(&mut [f64])) -> Picks {
        let mut picks = self.clone();
        picks.weight_of_pair.chunks_mut(self.top_k).for_each(f);
        picks
    }
}

impl Tensor {
    /// Of numbers as many as the product of the shape.
    pub fn new(shape: Vec<usize>, data: Vec<f64>) -> Tensor {
        Tensor { shape, data: data.into() }
    }

    /// Whether it is a value of that type.
    fn fits(&self, ty: &Type, dims: Dims) -> bool {
        let Type::Tensor { shape, .. } = ty else { return false };
        let fits = |(dim, n): (&Dim, &usize)| match dim {
            Dim::Const(wanted) => *wanted == *n as u64,
            Dim::Tokens => dims.tokens == *n as u64,
            Dim::Pairs => true,
        };
        let elements = self.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        self.shape.len() == shape.len() && shape.iter().zip(&self.shape).all(fits) && elements == Some(self.data.len())
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Tensor {
        Tensor::new(self.shape.clone(), self.data.iter().map(|x| f(*x)).collect())
    }
}

fn map(x: &Value, f: impl Fn(f64) -> f64) -> Result<Value, String> {
    map_rows(x, |row| row.iter_mut().for_each(|x| *x = f(*x)))
}

fn map_rows(x: &Value, f: impl Fn(&mut [f64])) -> Result<Value, String> {
    match x {
        Value::Tensor(x) => {
            let mut y = x.clone();
            y.data.chunks_mut(x.shape.last().copied().unwrap_or(1).max(1)).for_each(f);
            Ok(Value::Tensor(y))
        }
        Value::Picks(picks) => Ok(Value::Picks(picks.map_rows(f))),
        Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => {
            Err("arithmetic is on tensors and picks".to_string())
        }
    }
}

fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Result<Tensor, String> {
    let n = a.shape.last().copied().unwrap_or(1).max(1);
    let of = |i: usize| match (a.shape == b.shape, b.shape.len()) {
        (true, _) => i,
        // A row, or one number.
        (false, 1) => i % n % b.data.len().max(1),
        (false, _) => i / n * b.shape[1] + i % n * b.shape[1] / n,
    };
    let other = |i: usize| b.data.get(of(i)).ok_or_else(|| format!("{:?} does not broadcast to {:?}", b.shape, a.shape));
    let data = a.data.iter().enumerate().map(|(i, x)| Ok(f(*x, *other(i)?))).collect::<Result<_, String>>()?;
    Ok(Tensor::new(a.shape.clone(), data))
}

fn tensor(v: &Value) -> Result<&Tensor, String> {
    match v {
        Value::Tensor(t) => Ok(t),
        Value::Picks(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => {
            Err("not a tensor".to_string())
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y[m, n] = sum_k x[m, k] * w[n, k]`.
fn gemm(x: &Tensor, w: &Tensor) -> Tensor {
    let (m, n, k) = (x.shape[0], w.shape[0], x.shape[1]);
    let data = (0..m * n).map(|i| dot(&x.data[i / n * k..][..k], &w.data[i % n * k..][..k])).collect();
    Tensor::new(vec![m, n], data)
}

/// Positions of `keys` from the largest to the least, ties to the lower index; a NaN is minus infinity.
fn descending(keys: &[f64]) -> Vec<usize> {
    // Plus zero: the total order puts -0 below 0, which are a tie.
    let key = |i: usize| if keys[i].is_nan() { f64::NEG_INFINITY } else { keys[i] + 0.0 };
    let mut order: Vec<usize> = (0..keys.len()).collect();
    // No NaN is left, and both zeros are one key.
    order.sort_by(|a, b| key(*b).partial_cmp(&key(*a)).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b)));
    order
}

fn top_k(scores: &Tensor, keys: &Tensor, k: usize) -> Picks {
    let e = scores.shape[1];
    let mut picks = Picks::none(k, e);
    for (scores, keys) in scores.data.chunks(e).zip(keys.data.chunks(e)) {
        for expert in descending(keys).into_iter().take(k) {
            picks.expert_of_pair.push(expert);
            picks.weight_of_pair.push(scores[expert]);
        }
    }
    picks
}

fn sparse_mixer(logits: &Tensor, jitter: f64, k: usize) -> Picks {
    let e = logits.shape[1];
    let mut picks = Picks::none(k, e);
    for row in logits.data.chunks(e) {
        let x: Vec<f64> = row.iter().copied().map(finite).collect();
        let order = descending(&x);
        for (i, expert) in order.iter().take(k).enumerate() {
            let best = x[*expert];
            let stays = |e: &&usize| (best - x[**e]) / x[**e].abs().max(best) <= 2.0 * jitter || x[**e] == best;
            picks.expert_of_pair.push(*expert);
            picks.weight_of_pair.push(1.0 / order[i..].iter().filter(stays).map(|e| (x[*e] - best).exp()).sum::<f64>());
        }
    }
    picks
}

fn hash_picks(scores: &Tensor, table: &Tensor, ids: &Tensor) -> Picks {
    let (e, rows, k) = (scores.shape[1], table.shape[0], table.shape[1]);
    let within = |x: f64, n: usize| x.clamp(0.0, (n - 1) as f64) as usize;
    let mut picks = Picks::none(k, e);
    for (scores, id) in scores.data.chunks(e).zip(&ids.data) {
        for entry in &table.data[within(*id, rows) * k..][..k] {
            let expert = within(*entry, e);
            picks.expert_of_pair.push(expert);
            picks.weight_of_pair.push(scores[expert]);
        }
    }
    picks
}

fn within(ids: &Tensor, n: u64, is_token: impl Fn(usize) -> bool) -> Tensor {
    let is_within = |(t, id): (usize, &f64)| f64::from(u8::from((0.0..n as f64).contains(id) && is_token(t)));
    let data: Vec<f64> = ids.data.iter().enumerate().map(is_within).collect();
    Tensor { shape: ids.shape.clone(), data: data.into() }
}

fn joint(picks: &Picks, scores: &Tensor, n: usize) -> Picks {
    let (k, e) = (picks.top_k, picks.experts);
    let mut all = Picks { rowless: n, best_of_token: picks.best_of_token.clone(), ..Picks::none(k + n, e) };
    let rows = picks.expert_of_pair.chunks(k).zip(picks.weight_of_pair.chunks(k)).zip(scores.data.chunks(e + n));
    for ((experts, weights), scores) in rows {
        all.expert_of_pair.extend(experts.iter().copied().chain(e..e + n));
        all.weight_of_pair.extend(weights.iter().chain(&scores[e..]));
    }
    all
}

fn group_limit(keys: &Tensor, groups: Groups) -> Tensor {
    let e = keys.shape[1];
    let size = e / groups.groups as usize;
    let mut y = keys.clone();
    for row in y.data.chunks_mut(e) {
        let worth: Vec<f64> = row
            .chunks(size)
            .map(|group| {
                let best: Vec<f64> = descending(group).into_iter().map(|i| group[i]).collect();
                match groups.score {
                    GroupScore::Top2Sum => best.iter().take(2).sum(),
                    GroupScore::Max => best[0],
                }
            })
            .collect();
        for masked in descending(&worth).into_iter().skip(groups.keep as usize) {
            row[masked * size..][..size].fill(match groups.mask {
                GroupMask::NegInf => f64::NEG_INFINITY,
                GroupMask::Zero => 0.0,
            });
        }
    }
    y
}

/// `(sum |w|^p)^(1/p)`, of the shares of the largest, so that no power leaves the range.
fn p_norm(w: &[f64], p: f64) -> f64 {
    let largest = w.iter().fold(0.0f64, |most, w| most.max(w.abs()));
    let unit = if largest == 0.0 { 1.0 } else { largest };
    unit * w.iter().map(|w| (w.abs() / unit).powf(p)).sum::<f64>().powf(1.0 / p)
}

/// The nearest finite number; the least one for NaN.
fn finite(x: f64) -> f64 {
    if x.is_nan() { f64::MIN } else { x.clamp(f64::MIN, f64::MAX) }
}

fn softmax(row: &mut [f64]) {
    let max = row.iter().copied().map(finite).fold(f64::MIN, f64::max);
    row.iter_mut().for_each(|x| *x = (finite(*x) - max).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// Each column of the tokens of a sequence that are no padding is a row of [`softmax`].
fn token_softmax(x: &Tensor, is_token: impl Fn(usize) -> bool, sequence_tokens: usize) -> Tensor {
    let (tokens, n) = (x.shape[0], x.shape[1]);
    let mut y = vec![0.0; x.data.len()];
    for first in (0..tokens).step_by(sequence_tokens) {
        let here: Vec<usize> = (first..first.saturating_add(sequence_tokens).min(tokens)).filter(|t| is_token(*t)).collect();
        let places = |column: usize| here.iter().map(move |t| t * n + column);
        for column in 0..n {
            let mut row: Vec<f64> = places(column).map(|at| x.data[at]).collect();
            softmax(&mut row);
            places(column).zip(row).for_each(|(at, weight)| y[at] = weight);
        }
    }
    Tensor::new(x.shape.clone(), y)
}

fn assign(picks: &Picks, rule: &Assignment, dims: Dims) -> Result<Routing, String> {
    let k = picks.top_k;
    let tokens = picks.expert_of_pair.len() / k;
    let (span, capacity, priority) = match rule {
        Assignment::Dropless => (tokens, usize::MAX, Priority::TokenMajor),
        Assignment::Capacity(c) => {
            let span = match c.span {
                Span::All => tokens,
                Span::Row => dims.row_tokens as usize,
                Span::Tokens(n) => usize::try_from(n).unwrap_or(usize::MAX),
            };
            let capacity = c.per_expert.at(dims).ok_or_else(|| format!("the capacity {} has no value", c.per_expert))?;
            (span, usize::try_from(capacity).unwrap_or(usize::MAX), c.priority)
        }
    };
    let mut rows_of_expert: Vec<Vec<usize>> = vec![Vec::new(); picks.experts + picks.rowless];
    for first in (0..tokens).step_by(span.max(1)) {
        let last = first.saturating_add(span).min(tokens);
        let pairs: Vec<usize> = match priority {
            Priority::ChoiceMajor => (0..k).flat_map(|j| (first..last).map(move |t| t * k + j)).collect(),
            Priority::TokenMajor => (first * k..last * k).collect(),
            Priority::BatchPrioritized => {
                let best = picks.best_of_token.as_ref().ok_or("batch_prioritized needs a best_score")?;
                let tokens = descending(&best[first..last]);
                (0..k).flat_map(|j| tokens.iter().map(move |t| (first + t) * k + j)).collect()
            }
            Priority::Score => {
                descending(&picks.weight_of_pair[first * k..last * k]).into_iter().map(|i| first * k + i).collect()
            }
        };
        let mut room = vec![capacity; picks.experts];
        room.resize(picks.experts + picks.rowless, 0);
        for pair in pairs.into_iter().filter(|pair| picks.expert_of_pair[*pair] != NO_EXPERT) {
            let expert = picks.expert_of_pair[pair];
            if room[expert] > 0 {
                room[expert] -= 1;
                rows_of_expert[expert].push(pair);
            }
        }
    }
    let pair_of_row = rows_of_expert.concat();
    let mut row_of_pair = vec![None; tokens * k];
    pair_of_row.iter().enumerate().for_each(|(row, pair)| row_of_pair[*pair] = Some(row));
    Ok(Routing { picks: picks.clone(), row_of_pair, pair_of_row })
}

/// The number for an expert, or for all.
fn scale_of(s: &Tensor, expert: usize) -> f64 {
    s.data[if s.data.len() == 1 { 0 } else { expert }]
}

/// `y[t, n] = sum_j x[t, n] * weight(t, j)` over the pairs that count.
fn input_of(x: &Tensor, r: &Routing, counts: impl Fn(usize) -> bool) -> Tensor {
    let (n, k) = (x.shape[1], r.picks.top_k);
    let mut y = vec![0.0; x.data.len()];
    for pair in (0..r.row_of_pair.len()).filter(|pair| counts(*pair)) {
        let row = pair / k * n..(pair / k + 1) * n;
        let kept = y[row.clone()].iter_mut().zip(&x.data[row]);
        kept.for_each(|(y, x)| *y += x * r.picks.weight_of_pair[pair]);
    }
    Tensor::new(x.shape.clone(), y)
}

fn jitter(x: &Tensor, seed: &Tensor, eps: f64) -> Tensor {
    let key = [0, 1].map(|i| seed.data[i] as i32 as u32);
    let n = x.shape[1];
    let factor = |i: usize| {
        let (token, column) = (i / n, i % n);
        let words = philox([(column / 4) as u32, token as u32, 0, 0], key);
        let unit = f64::from(words[column % 4] >> 8) / f64::from(1 << 24);
        1.0 + eps * (2.0 * unit - 1.0)
    };
    Tensor::new(x.shape.clone(), x.data.iter().enumerate().map(|(i, x)| x * factor(i)).collect())
}

fn renorm_kept(r: &Routing, rule: Renorm) -> Routing {
    let mut y = r.clone();
    let k = r.picks.top_k;
    for (weights, rows) in y.picks.weight_of_pair.chunks_mut(k).zip(r.row_of_pair.chunks(k)) {
        let kept = || rows.iter().enumerate().filter(|(_, row)| row.is_some()).map(|(j, _)| j);
        let divisor = divisor(rule, &kept().map(|j| weights[j]).collect::<Vec<f64>>());
        kept().for_each(|j| weights[j] /= divisor);
    }
    y
}

/// What weights of this sum are divided by.
fn divisor(rule: Renorm, w: &[f64]) -> f64 {
    let norm = match rule.norm {
        Norm::Sum => w.iter().sum(),
        Norm::P(p) => p_norm(w, p.get()),
    };
    match rule.mode {
        Eps::Add => norm + rule.eps.get(),
        Eps::Clamp => norm.max(rule.eps.get()),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
