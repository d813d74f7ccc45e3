//! `[capacity]`: how many tokens an expert takes, in exact integers.
//! Which tokens those are is the graph's business; reading the keys is `resolve`'s.

use super::model::words;

/// The capacity rule of a layer that may drop tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The number before `min` and `multiple_of`.
    pub size: CapacitySize,
    /// At least this many; 0 is no minimum.
    pub min: u64,
    /// Then rounded up to a multiple of this; 1 is no rounding.
    pub multiple_of: u64,
    /// The tokens that share one capacity.
    pub group: CapacityGroup,
    /// The order of service.
    pub priority: Priority,
    /// `router.renorm` is applied to the picks of a token that were not dropped, and not before.
    pub renorm_after_drop: bool,
    /// What a dropped assignment contributes.
    pub dropped: Dropped,
    /// Shape of the buffers, which never changes the output: rows are packed whatever it says.
    pub pad: Pad,
}

/// How the capacity of an expert follows from S, the tokens of one capacity group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacitySize {
    /// `round(factor * S * (K if count_k else 1) / E)`.
    Factor {
        /// The capacity factor, exactly as written.
        factor: Ratio,
        /// Whether K counts.
        count_k: bool,
        /// What happens to a fraction of a token.
        round: Round,
    },
    /// An absolute number of tokens.
    Tokens(u64),
    /// `round(fraction * S)`.
    Fraction {
        /// The fraction, exactly as written.
        fraction: Ratio,
        /// What happens to a fraction of a token.
        round: Round,
    },
}

/// `capacity.group`: the tokens that S counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityGroup {
    /// The whole batch.
    All,
    /// One sequence, a row of `[B, S, H]`; the whole batch for `[T, H]`.
    Sequence,
    /// Runs of this many tokens, by which C is computed for the last one too, which may be shorter.
    Tokens(u64),
}

words! {
    /// `capacity.round`.
    Round {
        /// Up.
        Ceil = "ceil",
        /// Down.
        Floor = "floor",
        /// To the nearest, halves to the even neighbour.
        HalfEven = "half_even",
    }
}
words! {
    /// `capacity.priority`.
    Priority {
        /// Every token's first choice, in token order, before any second choice.
        ChoiceMajor = "choice_major",
        /// All choices of the first token, then of the second.
        TokenMajor = "token_major",
        /// Each expert keeps its heaviest weights, ties to the earlier pair (Megatron's `probs`).
        Score = "score",
        /// As `ChoiceMajor`, with tokens ordered by the weight of their first choice (V-MoE, NLLB).
        BatchPrioritized = "batch_prioritized",
    }
}
words! {
    /// `capacity.dropped`.
    Dropped {
        /// Nothing: the residual is outside the layer.
        Zero = "zero",
        /// The token's input times the weight (transformers' Switch before its PR 37123).
        Input = "input",
    }
}
words! {
    /// `capacity.pad`.
    Pad {
        /// Buffers hold the kept pairs and no more.
        None = "none",
        /// Every expert's buffer holds its capacity.
        ToCapacity = "to_capacity",
    }
}

/// An exact non-negative fraction in lowest terms; the denominator is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Above the line.
    pub numerator: u64,
    /// Below it.
    pub denominator: u64,
}

impl Ratio {
    /// The exact value of a decimal text such as `1.25`, `2` or `1e-1`; `None` where it is not one, is negative, or
    /// needs more than 64 bits.
    pub fn from_decimal(text: &str) -> Option<Ratio> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let numerator: u64 = digits.parse().ok()?;
        let places = i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
        let power = |n: i64| 10u64.checked_pow(u32::try_from(n).ok()?);
        let (numerator, denominator) = match (numerator, places) {
            (0, _) => (0, 1),
            (n, 0..) => (n.checked_mul(power(places)?)?, 1),
            (n, _) => (n, power(-places)?),
        };
        let divisor = greatest_common_divisor(numerator, denominator);
        Some(Ratio { numerator: numerator / divisor, denominator: denominator / divisor })
    }
}

impl Capacity {
    /// C, the tokens that one expert takes out of a group of `group_tokens`.
    ///
    /// Exact: the products stay below 2^128 within the spec's limits, and a result above `u64::MAX` saturates.
    pub fn tokens_per_expert(&self, group_tokens: u64, top_k: u64, experts: u64) -> u64 {
        let tokens = u128::from(group_tokens);
        let size = match self.size {
            CapacitySize::Factor { factor, count_k, round } => {
                let choices = if count_k { u128::from(top_k) } else { 1 };
                let above = u128::from(factor.numerator).saturating_mul(tokens).saturating_mul(choices);
                divide(above, u128::from(factor.denominator) * u128::from(experts.max(1)), round)
            }
            CapacitySize::Tokens(tokens) => u128::from(tokens),
            CapacitySize::Fraction { fraction, round } => {
                let above = u128::from(fraction.numerator).saturating_mul(tokens);
                divide(above, u128::from(fraction.denominator), round)
            }
        };
        let size = size.max(u128::from(self.min));
        let size = size.div_ceil(u128::from(self.multiple_of.max(1))) * u128::from(self.multiple_of.max(1));
        u64::try_from(size).unwrap_or(u64::MAX)
    }
}

/// `above / below` with the asked rounding.
fn divide(above: u128, below: u128, round: Round) -> u128 {
    let (quotient, rest) = (above / below, above % below);
    match round {
        Round::Floor => quotient,
        Round::Ceil => quotient + u128::from(rest > 0),
        Round::HalfEven => {
            let up = match (rest.saturating_mul(2)).cmp(&below) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => quotient % 2 == 1,
                std::cmp::Ordering::Greater => true,
            };
            quotient + u128::from(up)
        }
    }
}

/// Euclid. At least 1, so that it can be divided by.
fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(text: &str) -> Option<(u64, u64)> {
        Ratio::from_decimal(text).map(|r| (r.numerator, r.denominator))
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(ratio("1.25"), Some((5, 4)));
        assert_eq!(ratio("2"), Some((2, 1)));
        assert_eq!(ratio("0.1"), Some((1, 10)));
        assert_eq!(ratio("1e-1"), Some((1, 10)));
        assert_eq!(ratio("12.50e1"), Some((125, 1)));
        assert_eq!(ratio("0.0e400"), Some((0, 1)));
        assert_eq!(ratio("1e400"), None);
        assert_eq!(ratio("0.00000000000000000000000000001"), None);
        assert_eq!(ratio("-1"), None);
        assert_eq!(ratio("nan"), None);
        assert_eq!(ratio(""), None);
        assert_eq!(ratio("."), None);
    }

    /// The six capacities that implementations give for the same S = 37, E = 8, K = 2, factor 1.25.
    #[test]
    fn published_roundings() {
        let capacity = |count_k, round, multiple_of| Capacity {
            size: CapacitySize::Factor { factor: Ratio { numerator: 5, denominator: 4 }, count_k, round },
            min: 4,
            multiple_of,
            group: CapacityGroup::All,
            priority: Priority::ChoiceMajor,
            renorm_after_drop: false,
            dropped: Dropped::Zero,
            pad: Pad::None,
        };
        let tokens = |count_k, round, multiple_of| capacity(count_k, round, multiple_of).tokens_per_expert(37, 2, 8);
        assert_eq!(tokens(false, Round::Floor, 1), 5, "mesh-tensorflow");
        assert_eq!(tokens(false, Round::HalfEven, 1), 6, "flaxformer");
        assert_eq!(tokens(true, Round::Ceil, 4), 12, "V-MoE");
        assert_eq!(tokens(true, Round::Floor, 1), 11, "MegaBlocks");
        assert_eq!(capacity(false, Round::Floor, 1).tokens_per_expert(1, 2, 8), 4, "the minimum");
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        assert_eq!(divide(5, 2, Round::HalfEven), 2);
        assert_eq!(divide(7, 2, Round::HalfEven), 4);
    }
}
