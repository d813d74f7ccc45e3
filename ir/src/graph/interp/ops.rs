//! What each op gives for its operands.

use egg::Id;

use super::arithmetic::{dot, gemm, jitter, map_rows, pointwise, softmax, token_softmax, within};
use super::assigning::{assign, input_of, renorm_kept, scale_of};
use super::parts::{bias_update, observed, part, picked};
use super::picking::{divisor, given, group_limit, hash_picks, joint, sparse_mixer, top_k};
use super::values::{accepts, expert_of_row, tensor};
use super::{NO_EXPERT, Observation, Penalty, Picks, Slots, Tensor, Value};
use crate::Dims;
use crate::graph::{Assignment, Attr, Body, Node, Op};

pub(super) fn eval(node: &Node, values: &[Value], holes: &[Value], dims: Dims) -> Result<Value, String> {
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

pub(super) fn apply_body(body: &Body, holes: Vec<Value>, dims: Dims) -> Result<Value, String> {
    let mut values = Vec::with_capacity(body.nodes().len());
    for node in body.nodes() {
        values.push(eval(node, &values, &holes, dims)?);
    }
    values.pop().ok_or_else(|| "an empty body".to_string())
}

pub(super) fn apply(op: Op, operands: &[&Value], dims: Dims) -> Result<Value, String> {
    use Value::{List, Picks as P, Routing as R, Tensor as T};
    let operands = match operands {
        [operands @ .., Value::Attr(attr @ Attr::Beside(_))] if attr.is_way_of(op) => {
            return Ok(List(vec![apply(op, operands, dims)?]));
        }
        [operands @ .., Value::Attr(attr)] if attr.is_way_of(op) => operands,
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
        Op::Given => match operands {
            [T(ids), T(weights), List(maps), Value::Attr(Attr::Num(experts))] => {
                let map = maps.first().map(tensor).transpose()?;
                R(assign(&given(ids, weights, map, *experts as usize), &Assignment::Dropless, dims)?)
            }
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
            [T(logits), T(scores), P(picks), Value::Attr(Attr::Span(_))] => {
                P(Picks { observed: Some(Observation::of(logits, scores, picks)), ..picks.clone() })
            }
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
            [R(r), Value::Attr(Attr::Losses(rule))] => {
                let observed = observed(&r.picks)?;
                let Penalty { balance, z } = observed.losses(&r.picks, rule, dims);
                let losses = [balance, z].into_iter().flatten().map(|loss| T(Tensor::new(vec![1], vec![loss])));
                List(std::iter::once(T(observed.of_expert(r.picks.columns()))).chain(losses).collect())
            }
            _ => return wrong(op),
        },
        Op::Picked => match operands {
            [P(picks), Value::Attr(Attr::Real(c))] => List(picked(picks, |_| true, c.get()).map(T).to_vec()),
            [R(r), Value::Attr(Attr::Real(c))] => {
                let is_kept = |pair: usize| r.row_of_pair[pair].is_some() || !r.has_rows(pair);
                List(picked(&r.picks, is_kept, c.get()).map(T).to_vec())
            }
            _ => return wrong(op),
        },
        Op::Part => match operands {
            [R(r), Value::Attr(Attr::Part(what))] => T(part(r, *what)?),
            _ => return wrong(op),
        },
        Op::BiasUpdate => match operands {
            [T(bias), R(r), Value::Attr(Attr::Real(rate))] => T(bias_update(bias, r, rate.get())),
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
        Op::Launch => {
            let of = |value: &&Value| match value {
                List(part) => part.clone(),
                value => vec![(*value).clone()],
            };
            List(operands.iter().flat_map(of).collect())
        }
        Op::Item => match operands {
            [List(list), Value::Attr(Attr::Num(i))] => match list.get(*i as usize) {
                Some(value) => value.clone(),
                None => return wrong(op),
            },
            _ => return wrong(op),
        },
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

pub(super) fn wrong(op: Op) -> Result<Value, String> {
    Err(format!("`{}` on values it does not take", op.name()))
}

/// Tokens of a sequence.
pub(super) fn sequence_tokens(dims: Dims) -> usize {
    usize::try_from(dims.sequence_tokens).unwrap_or(usize::MAX).max(1)
}
