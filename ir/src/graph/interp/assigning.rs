//! Which picks are kept, and what the kept and the dropped are for their tokens.

use super::picking::{descending, divisor};
use super::{NO_EXPERT, Picks, Routing, Tensor};
use crate::Dims;
use crate::graph::{Assignment, Priority, Renorm, Span};

pub(super) fn assign(picks: &Picks, rule: &Assignment, dims: Dims) -> Result<Routing, String> {
    let k = picks.top_k;
    let tokens = picks.expert_of_pair.len() / k;
    let (span, capacity, priority) = match rule {
        Assignment::Dropless => (tokens, usize::MAX, Priority::TokenMajor),
        Assignment::Capacity(c) => {
            let span = match c.span {
                Span::All => tokens,
                Span::Sequence => dims.sequence_tokens as usize,
                Span::Tokens(n) => usize::try_from(n).unwrap_or(usize::MAX),
            };
            let capacity = c.per_expert.at(dims).ok_or_else(|| format!("the capacity {} has no value", c.per_expert))?;
            (span, usize::try_from(capacity).unwrap_or(usize::MAX), c.priority)
        }
    };
    let mut rows_of_expert: Vec<Vec<usize>> = vec![Vec::new(); picks.experts + picks.rowless];
    for first in (0..tokens).step_by(span.max(1)) {
        let last = first.saturating_add(span).min(tokens);
        let ranked = match priority {
            Priority::ChoiceMajor | Priority::TokenMajor => Vec::new(),
            Priority::BatchPrioritized => {
                let best = picks.best_of_token.as_ref().ok_or("batch_prioritized needs a best_score")?;
                descending(&best[first..last])
            }
            Priority::Score => descending(&picks.weight_of_pair[first * k..last * k]),
        };
        let mut pairs = Vec::with_capacity((last - first) * k);
        serve(priority, last - first, k, ranked.into_iter(), |token, choice| pairs.push((first + token) * k + choice));
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

/// Gives `pair` each pair of some tokens with K picks, as a token and the place among its picks, in the order in which a capacity
/// serves them. `ranked` are, from the first served on, the tokens where these are served by their best score, the pairs `t * K + j`
/// where these are served by their weights, and otherwise not asked for.
pub fn serve(
    priority: Priority,
    tokens: usize,
    top_k: usize,
    ranked: impl Iterator<Item = usize> + Clone,
    mut pair: impl FnMut(usize, usize),
) {
    match priority {
        Priority::ChoiceMajor => (0..top_k).for_each(|choice| (0..tokens).for_each(|token| pair(token, choice))),
        Priority::TokenMajor => (0..tokens).for_each(|token| (0..top_k).for_each(|choice| pair(token, choice))),
        Priority::BatchPrioritized => (0..top_k).for_each(|choice| ranked.clone().for_each(|token| pair(token, choice))),
        Priority::Score => ranked.for_each(|at| pair(at / top_k, at % top_k)),
    }
}

/// The number for an expert, or for all.
pub(super) fn scale_of(s: &Tensor, expert: usize) -> f64 {
    s.data[if s.data.len() == 1 { 0 } else { expert }]
}

/// `y[t, n] = sum_j x[t, n] * weight(t, j)` over the pairs that count.
pub(super) fn input_of(x: &Tensor, r: &Routing, counts: impl Fn(usize) -> bool) -> Tensor {
    let (n, k) = (x.shape[1], r.picks.top_k);
    let mut y = vec![0.0; x.data.len()];
    for pair in (0..r.row_of_pair.len()).filter(|pair| counts(*pair)) {
        let row = pair / k * n..(pair / k + 1) * n;
        let kept = y[row.clone()].iter_mut().zip(&x.data[row]);
        kept.for_each(|(y, x)| *y += x * r.picks.weight_of_pair[pair]);
    }
    Tensor::new(x.shape.clone(), y)
}

pub(super) fn renorm_kept(r: &Routing, rule: Renorm) -> Routing {
    let mut y = r.clone();
    let k = r.picks.top_k;
    for (weights, rows) in y.picks.weight_of_pair.chunks_mut(k).zip(r.row_of_pair.chunks(k)) {
        let kept = || rows.iter().enumerate().filter(|(_, row)| row.is_some()).map(|(j, _)| j);
        let divisor = divisor(rule, &kept().map(|j| weights[j]).collect::<Vec<f64>>());
        kept().for_each(|j| weights[j] /= divisor);
    }
    y
}
