//! Parts of a routing as tensors, and what becomes of a bias.

use super::{NO_EXPERT, Observation, Picks, Routing, Tensor};
use crate::graph::Part;

/// What `observe` said of the tokens.
pub(super) fn observed(picks: &Picks) -> Result<&Observation, String> {
    picks.observed.as_ref().ok_or_else(|| "picks that are not observed".to_string())
}

/// A part of a routing as a tensor.
pub(super) fn part(routing: &Routing, part: Part) -> Result<Tensor, String> {
    let picks = &routing.picks;
    let (tokens, top_k) = (routing.tokens(), picks.top_k);
    let number = |expert: &usize| if *expert == NO_EXPERT { -1.0 } else { *expert as f64 };
    let lacks = || format!("picks without `{}`", part.word());
    let of_pick = |numbers: Vec<f64>| Tensor::new(vec![tokens, top_k], numbers);
    Ok(match part {
        Part::Experts => of_pick(picks.expert_of_pair.iter().map(number).collect()),
        Part::Rows => of_pick(routing.row_of_pair.iter().map(|row| row.map_or(-1.0, |row| row as f64)).collect()),
        Part::Load => count(picks, |_| true),
        Part::Kept => count(picks, |pair| routing.row_of_pair[pair].is_some()),
        Part::Tokens => Tensor::new(vec![1], vec![(0..tokens).filter(|token| !picks.is_padding(*token)).count() as f64]),
        Part::Counted => of_pick(picks.counted.as_ref().ok_or_else(lacks)?.iter().map(number).collect()),
        Part::Probability => observed(picks)?.of_expert(picks.columns()),
        Part::Z => Tensor::new(vec![1], vec![observed(picks)?.z.data.iter().sum()]),
    })
}

/// The picks that are kept, as experts and as weights times `c`: -1 and 0 in the place of the others.
pub(super) fn picked(picks: &Picks, is_kept: impl Fn(usize) -> bool, c: f64) -> [Tensor; 2] {
    let pairs = || picks.expert_of_pair.iter().zip(&picks.weight_of_pair).enumerate();
    let kept = || pairs().map(|(pair, (expert, weight))| (*expert != NO_EXPERT && is_kept(pair)).then_some((*expert, *weight)));
    let shape = vec![picks.expert_of_pair.len() / picks.top_k, picks.top_k];
    let experts = kept().map(|pick| pick.map_or(-1.0, |(expert, _)| expert as f64)).collect();
    let weights = kept().map(|pick| pick.map_or(0.0, |(_, weight)| weight * c)).collect();
    [Tensor::new(shape.clone(), experts), Tensor::new(shape, weights)]
}

/// The pairs of each expert that count.
fn count(picks: &Picks, counts: impl Fn(usize) -> bool) -> Tensor {
    let mut of_expert = vec![0.0; picks.columns()];
    let counted = picks.expert_of_pair.iter().enumerate().filter(|(pair, expert)| **expert != NO_EXPERT && counts(*pair));
    counted.for_each(|(_, expert)| of_expert[*expert] += 1.0);
    Tensor::new(vec![picks.columns()], of_expert)
}

/// `bias[e] + rate * sign(total - N load[e])`.
pub(super) fn bias_update(bias: &Tensor, routing: &Routing, rate: f64) -> Tensor {
    let load = count(&routing.picks, |_| true);
    let load = &load.data[..bias.data.len()];
    let (total, experts): (f64, f64) = (load.iter().sum(), load.len() as f64);
    let step = |(bias, load): (&f64, &f64)| {
        let above = total - load * experts;
        bias + rate
            * if above > 0.0 {
                1.0
            } else if above < 0.0 {
                -1.0
            } else {
                0.0
            }
    };
    Tensor::new(bias.shape.clone(), bias.data.iter().zip(load).map(step).collect())
}
