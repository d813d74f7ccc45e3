//! Extents: the integer formulas of a manifest (shapes, grids, scalar arguments) over the launch dimensions.
//! No symbolic algebra and no simplification: a formula is built by the compiler and evaluated here.

use std::{fmt, ops};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The dimensions that are known only at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Tokens in the batch: T of `[T, H]`, `B * S` of `[B, S, H]`.
    pub tokens: u64,
    /// Tokens in a sequence: S of `[B, S, H]`, T of `[T, H]`. Divides `tokens`.
    pub sequence_tokens: u64,
}

impl Dims {
    /// A batch that is one sequence.
    #[must_use]
    pub fn tokens(tokens: u64) -> Dims {
        Dims { tokens, sequence_tokens: tokens }
    }

    /// The dimensions of activations shaped `[T, H]` or `[B, S, H]`.
    ///
    /// # Errors
    /// [`Error::Rank`] for any other rank, [`Error::Extent`] where `B * S` overflows.
    pub fn of_activations(shape: &[u64]) -> Result<Dims, Error> {
        match shape {
            [tokens, _] => Ok(Dims::tokens(*tokens)),
            [rows, sequence_tokens, _] => {
                let tokens = rows.checked_mul(*sequence_tokens).ok_or(Error::Extent { why: "B * S overflows" })?;
                Ok(Dims { tokens, sequence_tokens: *sequence_tokens })
            }
            _ => Err(Error::Rank { name: "activations".into(), actual: shape.to_vec() }),
        }
    }
}

/// How a division of two integers becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// Towards minus infinity.
    Floor,
    /// Towards plus infinity.
    Ceil,
    /// To the nearest; a tie goes to the even neighbour.
    HalfEven,
}

/// A small integer formula over T, the tokens of the batch, and S, those of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// A number fixed at compile time.
    Const(i64),
    /// T.
    Tokens,
    /// S.
    SequenceTokens,
    /// `a + b`
    Add(Box<Extent>, Box<Extent>),
    /// `a - b`
    Sub(Box<Extent>, Box<Extent>),
    /// `a * b`
    Mul(Box<Extent>, Box<Extent>),
    /// `round(a / b)`
    Div(Box<Extent>, Box<Extent>, Round),
    /// `min(a, b)`
    Min(Box<Extent>, Box<Extent>),
    /// `max(a, b)`
    Max(Box<Extent>, Box<Extent>),
}

impl Extent {
    /// `round(self / by)`
    #[must_use]
    pub fn div(self, by: impl Into<Extent>, round: Round) -> Extent {
        Extent::Div(Box::new(self), Box::new(by.into()), round)
    }

    /// `min(self, other)`
    #[must_use]
    pub fn min(self, other: impl Into<Extent>) -> Extent {
        Extent::Min(Box::new(self), Box::new(other.into()))
    }

    /// `max(self, other)`
    #[must_use]
    pub fn max(self, other: impl Into<Extent>) -> Extent {
        Extent::Max(Box::new(self), Box::new(other.into()))
    }

    /// The number, where the formula is nothing else.
    #[must_use]
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Extent::Const(value) => Some(*value),
            Extent::Tokens
            | Extent::SequenceTokens
            | Extent::Add(..)
            | Extent::Sub(..)
            | Extent::Mul(..)
            | Extent::Div(..)
            | Extent::Min(..)
            | Extent::Max(..) => None,
        }
    }

    /// Whether T or S occurs in it.
    #[must_use]
    pub fn depends_on_batch(&self) -> bool {
        match self {
            Extent::Const(_) => false,
            Extent::Tokens | Extent::SequenceTokens => true,
            Extent::Add(a, b)
            | Extent::Sub(a, b)
            | Extent::Mul(a, b)
            | Extent::Div(a, b, _)
            | Extent::Min(a, b)
            | Extent::Max(a, b) => a.depends_on_batch() || b.depends_on_batch(),
        }
    }

    /// Operations on the longest way from the formula to one of its leaves.
    pub(super) fn depth(&self) -> usize {
        match self {
            Extent::Const(_) | Extent::Tokens | Extent::SequenceTokens => 0,
            Extent::Add(a, b)
            | Extent::Sub(a, b)
            | Extent::Mul(a, b)
            | Extent::Div(a, b, _)
            | Extent::Min(a, b)
            | Extent::Max(a, b) => 1 + a.depth().max(b.depth()),
        }
    }

    /// The formula's value. Inner results may pass 64 bits; the last may not.
    ///
    /// ```
    /// use moec_runtime::package::{Dims, Extent, Round};
    /// // capacity = ceil(1.25 * S / 8)
    /// let capacity = (Extent::SequenceTokens * 5).div(4 * 8, Round::Ceil);
    /// assert_eq!(capacity.eval(Dims { tokens: 64, sequence_tokens: 32 }).unwrap(), 5);
    /// ```
    ///
    /// # Errors
    /// [`Error::Extent`] on overflow and on division by zero.
    pub fn eval(&self, dims: Dims) -> Result<i64, Error> {
        i64::try_from(self.wide(dims)?).map_err(|_| Error::Extent { why: "the result does not fit in 64 bits" })
    }

    /// The formula's value as a count.
    ///
    /// # Errors
    /// As [`Extent::eval`], and where the value is negative.
    pub fn count(&self, dims: Dims) -> Result<u64, Error> {
        u64::try_from(self.eval(dims)?).map_err(|_| Error::Extent { why: "a count is negative" })
    }

    fn wide(&self, dims: Dims) -> Result<i128, Error> {
        let value = match self {
            Extent::Const(value) => Some(i128::from(*value)),
            Extent::Tokens => Some(i128::from(dims.tokens)),
            Extent::SequenceTokens => Some(i128::from(dims.sequence_tokens)),
            Extent::Add(a, b) => a.wide(dims)?.checked_add(b.wide(dims)?),
            Extent::Sub(a, b) => a.wide(dims)?.checked_sub(b.wide(dims)?),
            Extent::Mul(a, b) => a.wide(dims)?.checked_mul(b.wide(dims)?),
            Extent::Div(a, b, round) => divide(a.wide(dims)?, b.wide(dims)?, *round)?,
            Extent::Min(a, b) => Some(a.wide(dims)?.min(b.wide(dims)?)),
            Extent::Max(a, b) => Some(a.wide(dims)?.max(b.wide(dims)?)),
        };
        value.ok_or(Error::Extent { why: "an intermediate result overflows" })
    }
}

/// `round(a / b)`; `None` on overflow.
fn divide(a: i128, b: i128, round: Round) -> Result<Option<i128>, Error> {
    if b == 0 {
        return Err(Error::Extent { why: "division by zero" });
    }
    // A positive divisor makes `div_euclid` the floor.
    let (a, b) = if b < 0 { (a.checked_neg(), b.checked_neg()) } else { (Some(a), Some(b)) };
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let (floor, rest) = (a.div_euclid(b), a.rem_euclid(b));
    let up = match round {
        Round::Floor => false,
        Round::Ceil => rest != 0,
        // rest against b - rest, not 2 * rest against b: that could overflow.
        Round::HalfEven => rest > b - rest || (rest == b - rest && floor % 2 != 0),
    };
    Ok(if up { floor.checked_add(1) } else { Some(floor) })
}

impl From<i64> for Extent {
    fn from(value: i64) -> Extent {
        Extent::Const(value)
    }
}

/// As the compiler prints its own: `ceil((T * 2) / 64)`.
impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Const(value) => write!(f, "{value}"),
            Extent::Tokens => f.write_str("T"),
            Extent::SequenceTokens => f.write_str("S"),
            Extent::Add(a, b) => write!(f, "({a} + {b})"),
            Extent::Sub(a, b) => write!(f, "({a} - {b})"),
            Extent::Mul(a, b) => write!(f, "({a} * {b})"),
            Extent::Min(a, b) => write!(f, "min({a}, {b})"),
            Extent::Max(a, b) => write!(f, "max({a}, {b})"),
            Extent::Div(a, b, Round::Floor) => write!(f, "floor({a} / {b})"),
            Extent::Div(a, b, Round::Ceil) => write!(f, "ceil({a} / {b})"),
            Extent::Div(a, b, Round::HalfEven) => write!(f, "half_even({a} / {b})"),
        }
    }
}

impl<R: Into<Extent>> ops::Add<R> for Extent {
    type Output = Extent;
    fn add(self, other: R) -> Extent {
        Extent::Add(Box::new(self), Box::new(other.into()))
    }
}

impl<R: Into<Extent>> ops::Sub<R> for Extent {
    type Output = Extent;
    fn sub(self, other: R) -> Extent {
        Extent::Sub(Box::new(self), Box::new(other.into()))
    }
}

impl<R: Into<Extent>> ops::Mul<R> for Extent {
    type Output = Extent;
    fn mul(self, other: R) -> Extent {
        Extent::Mul(Box::new(self), Box::new(other.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: Dims = Dims { tokens: 100, sequence_tokens: 25 };

    fn check(extent: Extent, expected: i64) {
        assert_eq!(extent.eval(DIMS).unwrap(), expected, "{extent:?}");
    }

    #[test]
    fn formulas_are_evaluated() {
        check(Extent::Tokens * 3 + 1, 301);
        check(Extent::Tokens - Extent::SequenceTokens, 75);
        check(Extent::SequenceTokens.min(7).max(3), 7);
        check(Extent::Tokens.div(Extent::SequenceTokens, Round::Floor), 4);
    }

    #[test]
    fn divisions_round_as_named() {
        for (a, b, floor, ceil, half_even) in [
            (7, 2, 3, 4, 4),
            (5, 2, 2, 3, 2),
            (8, 2, 4, 4, 4),
            (10, 4, 2, 3, 2),
            (11, 4, 2, 3, 3),
            (-5, 2, -3, -2, -2),
            (-7, 2, -4, -3, -4),
            (5, -2, -3, -2, -2),
            (0, 9, 0, 0, 0),
        ] {
            check(Extent::Const(a).div(b, Round::Floor), floor);
            check(Extent::Const(a).div(b, Round::Ceil), ceil);
            check(Extent::Const(a).div(b, Round::HalfEven), half_even);
        }
    }

    #[test]
    fn overflow_and_division_by_zero_are_errors() {
        let big = Extent::Const(i64::MAX);
        check(big.clone() * i64::MAX - big.clone() * i64::MAX + 5, 5);
        assert!((big.clone() + 1).eval(DIMS).is_err());
        assert!((big.clone() * i64::MAX * i64::MAX).eval(DIMS).is_err());
        assert!(big.div(Extent::Tokens - 100, Round::Ceil).eval(DIMS).is_err());
        assert!((Extent::Tokens - 101).count(DIMS).is_err());
        let least = Extent::Const(i64::MIN) * i64::MIN * 2 * -1;
        assert!(least.div(-1, Round::HalfEven).eval(DIMS).is_err());
    }

    #[test]
    fn dims_come_from_two_shapes() {
        assert_eq!(Dims::of_activations(&[7, 4]).unwrap(), Dims { tokens: 7, sequence_tokens: 7 });
        assert_eq!(Dims::of_activations(&[2, 7, 4]).unwrap(), Dims { tokens: 14, sequence_tokens: 7 });
        assert!(Dims::of_activations(&[4]).is_err());
        assert!(Dims::of_activations(&[u64::MAX, 2, 4]).is_err());
    }
}
