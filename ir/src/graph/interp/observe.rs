//! What `observe` and `losses` give.

use super::arithmetic::finite;
use super::{NO_EXPERT, Picks, Tensor};
use crate::Dims;
use crate::graph::{Balance, Losses};

/// What `observe` says of each token.
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

impl Observation {
    /// `[E]`: the probabilities summed over the tokens.
    pub(super) fn of_expert(&self, experts: usize) -> Tensor {
        let of = |e: usize| self.probability.data.iter().skip(e).step_by(experts).sum();
        Tensor::new(vec![experts], (0..experts).map(of).collect())
    }

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
            let row = (dims.sequence_tokens as usize).max(1);
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

/// What `losses` gives, each where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// How uneven the experts' use is.
    pub balance: Option<f64>,
    /// How large the logits are.
    pub z: Option<f64>,
}
