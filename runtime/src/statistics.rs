//! What a run says about its routing, from the slots that the kernels fill beside their work: summaries, made when the
//! caller calls for them. `include/moec_statistics.h` does the same in C. What makes an expert hot is in `health`.

use serde::Serialize;

use crate::error::Error;
use crate::health::{Health, USUAL_CAPACITY_FACTOR, entropy_share};
use crate::layer::Run;
use crate::package::{Dims, Regime, Routing, Slots};
use crate::tensor::Tensor;

/// The sizes that a run's statistics refer to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// T.
    pub tokens: u64,
    /// Tokens of a sequence, S.
    pub sequence_tokens: u64,
    /// Whether the partial sums over tokens keep sequences apart.
    pub by_sequence: bool,
    /// E, those without rows included.
    pub experts: u64,
    /// Of these, so many at the end have no rows.
    pub rowless: u64,
    /// Most picks of a token, K, the shared ones beside them included.
    pub top_k: u64,
    /// Of these, so many at the end are shared experts beside the picks.
    pub joint_shared: u64,
    /// Whether a correction bias had a part in the picks.
    pub corrected: bool,
    /// Whether groups limited the picks.
    pub grouped: bool,
    /// Rows of a tile of the grouped products.
    pub tile_rows: u64,
    /// Rows that an engine allocates which pads to capacity; `None` where none is asked for.
    pub rows_at_capacity: Option<u64>,
    /// What makes an expert hot.
    pub capacity_factor: f64,
}

impl Figures {
    /// Those of a layer for these dims, which `regime` serves.
    ///
    /// # Errors
    /// [`Error::Extent`].
    pub fn at(routing: &Routing, regime: Option<&Regime>, dims: Dims) -> Result<Figures, Error> {
        let at_capacity = routing.rows_at_capacity.as_ref();
        Ok(Figures {
            tokens: dims.tokens,
            sequence_tokens: dims.sequence_tokens,
            by_sequence: routing.by_sequence,
            experts: routing.experts,
            rowless: routing.rowless,
            top_k: routing.top_k,
            joint_shared: routing.joint_shared,
            corrected: routing.corrected,
            grouped: routing.grouped,
            tile_rows: u64::from(regime.and_then(|regime| regime.tile_rows).unwrap_or(1)),
            // Without tokens nothing is allocated, and a span without tokens divides by zero.
            rows_at_capacity: match at_capacity {
                Some(rows) => Some(if dims.tokens == 0 { 0 } else { rows.count(dims)? }),
                None => None,
            },
            capacity_factor: routing.capacity_factor.map_or(USUAL_CAPACITY_FACTOR, |[over, under]| over as f64 / under as f64),
        })
    }
}

/// What the slots hold, copied to the host: empty where there were no tokens, `None` where a layer lacks one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// `[E]`: pairs that picked each expert.
    pub load: Vec<i32>,
    /// `[E]`: of these, pairs that it had room for.
    pub kept: Vec<i32>,
    /// `[1]`: tokens that count: no padding, and none that `hash_oob = "drop"` gives no picks; `None` where all do.
    pub tokens: Option<Vec<i32>>,
    /// `[T, K]`: the experts of each token, best first; -1: it does not count.
    pub experts: Option<Vec<i32>>,
    /// `[T, K]`: the grouped row of each pair; -1: dropped.
    pub rows: Option<Vec<i32>>,
    /// `[.., E]`: router probabilities, in partial sums over the tokens.
    pub probability: Option<Vec<f64>>,
    /// `[..]`: `logsumexp(logits)^2`, in partial sums over the tokens.
    pub z: Option<Vec<f64>>,
}

impl Counts {
    /// The slots of a run.
    #[must_use]
    pub fn of(slots: &Slots, run: &Run) -> Counts {
        let integers = |name: &String| run.tensor(name).and_then(|tensor| tensor.to_i32().ok()).unwrap_or_default();
        let numbers = |name: &String| run.tensor(name).map(Tensor::to_f64).unwrap_or_default();
        Counts {
            load: integers(&slots.load),
            kept: integers(&slots.kept),
            tokens: slots.tokens.as_ref().map(integers),
            experts: slots.experts.as_ref().map(integers),
            rows: slots.rows.as_ref().map(integers),
            probability: slots.probability.as_ref().map(numbers),
            z: slots.z.as_ref().map(numbers),
        }
    }
}

/// How a batch was routed. A pair is a token with one of the experts that it picked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// T, without `padding_tokens`.
    pub tokens: u64,
    /// Tokens that are padding, and those that `hash_oob = "drop"` gives no picks: they count in nothing else here. `None` where
    /// the layer has neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding_tokens: Option<u64>,
    /// Most picks of a token, K.
    pub top_k: u64,
    /// Pairs that picked each expert that has rows.
    pub load: Vec<u64>,
    /// Of these, pairs that it had room for.
    pub kept: Vec<u64>,
    /// Pairs of experts without rows: identities, and shared ones beside the picks.
    pub rowless_pairs: u64,
    /// Tokens whose first pick each expert was; `None` where the layer does not say which pick is first.
    pub first: Option<Vec<u64>>,
    /// Pairs beyond the capacity of their expert.
    pub dropped_pairs: u64,
    /// Tokens that picked experts with rows alone and of which no pair was kept: an expert without rows is never lost.
    /// Where experts choose, tokens that no expert chose. `None` where the layer does not say which pairs were kept.
    pub dropped_tokens: Option<u64>,
    /// Rows of the tiles of the grouped products that are padding.
    pub padded_rows: u64,
    /// Rows that are padding in an engine's buffers of every expert's capacity; `None` where none is asked for.
    pub rows_below_capacity: Option<u64>,
    /// How the load is spread: its variance, and which experts are hot or cold.
    pub health: Health,
    /// What the router's probabilities say; `None` where the layer does not sum them.
    pub probability: Option<Probability>,
}

/// What the router's probabilities say of a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probability {
    /// The probabilities of each expert summed over the tokens: the tokens it is expected to get.
    pub importance: Vec<f64>,
    /// How these are spread: the mean is T / E, an expert is hot above the capacity factor times it.
    pub health: Health,
    /// Entropy of the mean probabilities, in nats; 0 without tokens.
    pub entropy: f64,
    /// That, as a share of `ln E`, the entropy of even ones.
    pub entropy_share: f64,
    /// The router z-loss: `logsumexp(logits)^2`, its mean over the tokens (ST-MoE, arXiv 2202.08906, equation 5).
    pub z_loss: f64,
    /// [`AuxLoss::DeepseekSequence`].
    #[serde(skip)]
    sequence_loss: Option<f64>,
    /// Whether the picks are those with the highest of them.
    #[serde(skip)]
    of_picks: bool,
}

/// A balance loss of one layer. T tokens that are no padding, K picks of each, E experts; `load` the pairs that picked an expert, before the
/// capacity; `p` the importance of an expert, its probabilities summed over the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuxLoss {
    /// `E sum load p / T^2`, K at balance (Switch, arXiv 2101.03961, equation 4; flaxformer).
    Switch,
    /// The same, as `load_balancing_loss_func` of transformers has it for one layer.
    Mixtral,
    /// `E sum first p / T^2`, 1 at balance: only first picks count (GShard, arXiv 2006.16668; DeepSpeed top-1 and top-2).
    Gshard,
    /// `E sum load p / (T^2 K)`, 1 at balance (DeepSpeed top-k).
    DeepspeedTopk,
    /// The same, of the highest scores: known where no correction bias and no groups have a part in the picks, else a layer that
    /// is asked for it has it in `stats.aux_loss` (Megatron-LM `aux_loss`).
    Megatron,
    /// The same, for one layer (MegaBlocks).
    Megablocks,
    /// The mean of that over sequences, 1 at balance; known where the probabilities are summed by sequence, and where the
    /// batch is one. It counts picks without a correction bias, so that where the layer has one it is not known from these
    /// figures: a layer that is asked for it has it in `stats.aux_loss` (DeepSeek-V2 `seq_aux`).
    DeepseekSequence,
    /// `variance(p) / mean(p)^2`, 0 at balance (the importance loss of arXiv 1701.06538; V-MoE).
    Importance,
}

impl AuxLoss {
    /// Every loss.
    pub const ALL: [AuxLoss; 8] = [
        AuxLoss::Switch,
        AuxLoss::Mixtral,
        AuxLoss::Gshard,
        AuxLoss::DeepspeedTopk,
        AuxLoss::Megatron,
        AuxLoss::Megablocks,
        AuxLoss::DeepseekSequence,
        AuxLoss::Importance,
    ];

    /// The name that specs use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AuxLoss::Switch => "switch",
            AuxLoss::Mixtral => "mixtral",
            AuxLoss::Gshard => "gshard",
            AuxLoss::DeepspeedTopk => "deepspeed_topk",
            AuxLoss::Megatron => "megatron",
            AuxLoss::Megablocks => "megablocks",
            AuxLoss::DeepseekSequence => "deepseek_sequence",
            AuxLoss::Importance => "importance",
        }
    }
}

impl Statistics {
    /// Of what the slots hold.
    ///
    /// # Errors
    /// [`Error::Count`] where the slots do not have the lengths that the figures need.
    pub fn of(figures: &Figures, counts: &Counts) -> Result<Statistics, Error> {
        let Figures { tokens, experts, top_k, .. } = *figures;
        let (e, k) = (experts as usize, (top_k as usize).max(1));
        let (of_experts, of_pairs) = if tokens == 0 { (0, 0) } else { (e, tokens as usize * k) };
        let length = |slot: &Option<Vec<i32>>| slot.as_ref().map_or(of_pairs, Vec::len);
        let rest = |slot: &Option<Vec<f64>>| slot.as_ref().map_or(0, |slot| slot.len() % e.max(1));
        for (what, actual, expected) in [
            ("numbers of tokens", counts.tokens.as_ref().map_or(1, Vec::len), usize::from(tokens > 0 || counts.tokens.is_none())),
            ("loads", counts.load.len(), of_experts),
            ("kept loads", counts.kept.len(), of_experts),
            ("picks", length(&counts.experts), of_pairs),
            ("rows of pairs", length(&counts.rows), of_pairs),
            ("probabilities beyond whole rows", rest(&counts.probability), 0),
        ] {
            if actual != expected {
                return Err(Error::Count { what, expected, actual });
            }
        }
        let real = |slot: &Vec<i32>| slot.first().map_or(0, |n| u64::try_from(*n).unwrap_or(0).min(tokens));
        let real = counts.tokens.as_ref().map(real);
        let padding_tokens = real.map(|real| tokens - real);
        let tokens = real.unwrap_or(tokens);
        let with_rows = e.saturating_sub(figures.rowless as usize);
        let of_experts = |counts: &[i32]| -> Vec<u64> {
            (0..with_rows).map(|i| counts.get(i).map_or(0, |n| u64::try_from(*n).unwrap_or(0))).collect()
        };
        let (load, kept) = (of_experts(&counts.load), of_experts(&counts.kept));
        let (all, stayed): (u64, u64) = (load.iter().sum(), kept.iter().sum());
        let tiled: u64 = kept.iter().map(|n| n.next_multiple_of(figures.tile_rows.max(1))).sum();
        // A pick without rows is never lost, and shared experts beside the picks are not picked.
        let can_be_lost = |token: usize| {
            let Some(picks) = &counts.experts else { return true };
            let picks = picks[token * k..][..k.saturating_sub(figures.joint_shared as usize)].iter();
            let mut picks = picks.filter_map(|pick| usize::try_from(*pick).ok()).peekable();
            picks.peek().is_some() && picks.all(|pick| pick < with_rows)
        };
        let is_dropped = |(token, rows): &(usize, &[i32])| rows.iter().all(|row| *row < 0) && can_be_lost(*token);
        let rowless: i64 = counts.load.iter().skip(with_rows).map(|n| i64::from(*n)).sum();
        // What experts choose from has no padding either; of picks it is known by its experts, which are none.
        let unchosen = if counts.experts.is_none() { padding_tokens.unwrap_or(0) } else { 0 };
        Ok(Statistics {
            tokens,
            padding_tokens,
            top_k,
            first: counts.experts.as_ref().map(|picks| first_picks(picks, e, k)),
            dropped_pairs: all.saturating_sub(stayed),
            dropped_tokens: counts.rows.as_ref().map(|rows| {
                let dropped = rows.chunks(k).enumerate().filter(is_dropped).count() as u64;
                dropped.saturating_sub(unchosen)
            }),
            rowless_pairs: u64::try_from(rowless).unwrap_or(0),
            padded_rows: tiled - stayed,
            rows_below_capacity: figures.rows_at_capacity.map(|rows| rows.saturating_sub(stayed)),
            health: Health::of(&load.iter().map(|n| *n as f64).collect::<Vec<f64>>(), figures.capacity_factor),
            probability: counts.probability.as_ref().map(|partial| Probability::of(figures, tokens, partial, counts)),
            load,
            kept,
        })
    }

    /// Dropped pairs, as a share of all.
    #[must_use]
    pub fn dropped_share(&self) -> f64 {
        self.dropped_pairs as f64 / self.load.iter().sum::<u64>().max(1) as f64
    }

    /// Rows that are padding, as a share of those of the tiles.
    #[must_use]
    pub fn wasted_share(&self) -> f64 {
        let rows = self.padded_rows + self.kept.iter().sum::<u64>();
        self.padded_rows as f64 / rows.max(1) as f64
    }

    /// A balance loss, without any coefficient; 0 without tokens, `None` where the layer lacks what it is made of.
    #[must_use]
    pub fn aux_loss(&self, loss: AuxLoss) -> Option<f64> {
        let importance = &self.probability.as_ref()?.importance;
        let tokens = self.tokens.max(1) as f64;
        let along = |counts: &[u64]| {
            let sum: f64 = counts.iter().zip(importance).map(|(n, p)| *n as f64 * p).sum();
            self.load.len() as f64 * sum / (tokens * tokens)
        };
        Some(match loss {
            AuxLoss::Switch | AuxLoss::Mixtral => along(&self.load),
            AuxLoss::Gshard => along(self.first.as_ref()?),
            AuxLoss::Megatron if !self.probability.as_ref()?.of_picks => return None,
            AuxLoss::DeepspeedTopk | AuxLoss::Megatron | AuxLoss::Megablocks => along(&self.load) / self.top_k.max(1) as f64,
            AuxLoss::DeepseekSequence => self.probability.as_ref()?.sequence_loss?,
            AuxLoss::Importance => self.probability.as_ref()?.health.spread().powi(2),
        })
    }
}

/// Tokens whose first pick each expert was.
fn first_picks(picks: &[i32], experts: usize, top_k: usize) -> Vec<u64> {
    let mut first = vec![0; experts];
    for pick in picks.iter().step_by(top_k) {
        if let Some(count) = usize::try_from(*pick).ok().and_then(|expert| first.get_mut(expert)) {
            *count += 1;
        }
    }
    first
}

impl Probability {
    fn of(figures: &Figures, tokens: u64, partial: &[f64], counts: &Counts) -> Probability {
        let mut importance = vec![0.0; figures.experts as usize];
        for part in partial.chunks(importance.len().max(1)) {
            importance.iter_mut().zip(part).for_each(|(sum, p)| *sum += p);
        }
        let share = entropy_share(&importance);
        let total: f64 = importance.iter().sum();
        Probability {
            health: Health::of(&importance, figures.capacity_factor),
            entropy: if total > 0.0 { share * (importance.len() as f64).ln() } else { 0.0 },
            entropy_share: share,
            z_loss: counts.z.iter().flatten().sum::<f64>() / tokens.max(1) as f64,
            of_picks: !figures.corrected && !figures.grouped,
            sequence_loss: counts.experts.as_ref().and_then(|picks| sequence_loss(figures, picks, partial)),
            importance,
        }
    }
}

/// The mean over sequences of `E sum load p / (S^2 K)`, S the tokens that are no padding; a sequence without any is none.
fn sequence_loss(figures: &Figures, picks: &[i32], partial: &[f64]) -> Option<f64> {
    let Figures { tokens, experts, top_k, sequence_tokens, .. } = *figures;
    if figures.corrected {
        return None;
    }
    if tokens == 0 {
        return Some(0.0);
    }
    let (e, k, row) = (experts as usize, top_k as usize, sequence_tokens.max(1) as usize);
    let sequences = tokens.div_ceil(sequence_tokens.max(1)) as usize;
    let parts = partial.len() / e;
    if parts == 0 || (sequences > 1 && !figures.by_sequence) || !parts.is_multiple_of(sequences) {
        return None;
    }
    let real = |picks: &[i32]| picks.iter().step_by(k).filter(|pick| **pick >= 0).count();
    let of_sequence = |(picks, parts): (&[i32], &[f64])| -> f64 {
        let mut p = vec![0.0; e];
        parts.chunks(e).for_each(|part| p.iter_mut().zip(part).for_each(|(sum, p)| *sum += p));
        let chosen = picks.iter().filter_map(|pick| p.get(usize::try_from(*pick).ok()?));
        chosen.sum::<f64>() / (real(picks) as f64).powi(2)
    };
    let parts = partial.chunks(parts / sequences * e);
    let losses: Vec<f64> = picks.chunks(row * k).zip(parts).filter(|(picks, _)| real(picks) > 0).map(of_sequence).collect();
    Some(experts as f64 * losses.iter().sum::<f64>() / (top_k as f64 * losses.len().max(1) as f64))
}
