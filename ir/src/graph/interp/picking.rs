//! Which experts a token picks, and the weights of its picks.

use super::arithmetic::finite;
use super::{NO_EXPERT, Picks, Tensor};
use crate::graph::{Eps, GroupMask, GroupScore, Groups, Norm, Renorm};

/// Positions of `keys` from the largest to the least, ties to the lower index; a NaN is minus infinity.
pub(super) fn descending(keys: &[f64]) -> Vec<usize> {
    // Plus zero: the total order puts -0 below 0, which are a tie.
    let key = |i: usize| if keys[i].is_nan() { f64::NEG_INFINITY } else { keys[i] + 0.0 };
    let mut order: Vec<usize> = (0..keys.len()).collect();
    // No NaN is left, and both zeros are one key.
    order.sort_by(|a, b| key(*b).partial_cmp(&key(*a)).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b)));
    order
}

pub(super) fn top_k(scores: &Tensor, keys: &Tensor, k: usize) -> Picks {
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

pub(super) fn sparse_mixer(logits: &Tensor, jitter: f64, k: usize) -> Picks {
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

pub(super) fn hash_picks(scores: &Tensor, table: &Tensor, ids: &Tensor) -> Picks {
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

pub(super) fn joint(picks: &Picks, scores: &Tensor, n: usize) -> Picks {
    let (k, e) = (picks.top_k, picks.experts);
    let mut all = Picks { rowless: n, best_of_token: picks.best_of_token.clone(), ..Picks::none(k + n, e) };
    let rows = picks.expert_of_pair.chunks(k).zip(picks.weight_of_pair.chunks(k)).zip(scores.data.chunks(e + n));
    for ((experts, weights), scores) in rows {
        all.expert_of_pair.extend(experts.iter().copied().chain(e..e + n));
        all.weight_of_pair.extend(weights.iter().chain(&scores[e..]));
    }
    all
}

pub(super) fn group_limit(keys: &Tensor, groups: Groups) -> Tensor {
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
pub(super) fn p_norm(w: &[f64], p: f64) -> f64 {
    let largest = w.iter().fold(0.0f64, |most, w| most.max(w.abs()));
    let unit = if largest == 0.0 { 1.0 } else { largest };
    unit * w.iter().map(|w| (w.abs() / unit).powf(p)).sum::<f64>().powf(1.0 / p)
}

/// What weights of this sum are divided by.
pub(super) fn divisor(rule: Renorm, w: &[f64]) -> f64 {
    let norm = match rule.norm {
        Norm::Sum => w.iter().sum(),
        Norm::P(p) => p_norm(w, p.get()),
    };
    match rule.mode {
        Eps::Add => norm + rule.eps.get(),
        Eps::Clamp => norm.max(rule.eps.get()),
    }
}

/// What a caller has picked, by numbers of experts or through a map to these.
pub(super) fn given(ids: &Tensor, weights: &Tensor, map: Option<&Tensor>, experts: usize) -> Picks {
    // Integers, of which the negative ones have no place in a list.
    let below = |number: f64, end: usize| (number >= 0.0 && number < end as f64).then_some(number as usize);
    let expert = |id: &f64| match map {
        None => below(*id, experts),
        Some(map) => below(*id, map.data.len()).and_then(|id| below(map.data[id], experts)),
    };
    let expert_of_pair = ids.data.iter().map(|id| expert(id).unwrap_or(NO_EXPERT)).collect();
    Picks { expert_of_pair, weight_of_pair: weights.data.to_vec(), ..Picks::none(ids.shape[1], experts) }
}

pub(super) fn mask_picks(picks: &Picks, mask: &Tensor) -> Picks {
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
