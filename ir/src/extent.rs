//! Counts that depend on the batch: grid sizes, buffer shapes and capacities as integer formulas.

use std::fmt;

/// The sizes that are known only at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Tokens in the batch, T.
    pub tokens: u64,
    /// Tokens of one sequence, S of `[B, S, H]`; equal to `tokens` for `[T, H]`.
    pub sequence_tokens: u64,
}

/// How a quotient becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Round {
    /// Towards zero.
    Floor,
    /// Away from zero.
    Ceil,
    /// To the nearest, a half to the even neighbour (Python's `round`).
    HalfEven,
}

/// A non-negative integer formula over [`Dims`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extent {
    /// A number.
    Const(u64),
    /// T.
    Tokens,
    /// S.
    SequenceTokens,
    /// Sum.
    Add(Box<Extent>, Box<Extent>),
    /// Product.
    Mul(Box<Extent>, Box<Extent>),
    /// Quotient.
    Div(Box<Extent>, Box<Extent>, Round),
    /// The lesser.
    Min(Box<Extent>, Box<Extent>),
    /// The greater.
    Max(Box<Extent>, Box<Extent>),
}

impl Extent {
    /// Whether T or S occurs in it.
    pub fn depends_on_batch(&self) -> bool {
        match self {
            Extent::Const(_) => false,
            Extent::Tokens | Extent::SequenceTokens => true,
            Extent::Add(a, b) | Extent::Mul(a, b) | Extent::Div(a, b, _) | Extent::Min(a, b) | Extent::Max(a, b) => {
                a.depends_on_batch() || b.depends_on_batch()
            }
        }
    }

    /// The value at `dims`, or `None` on overflow of `u64` or division by zero.
    pub fn at(&self, dims: Dims) -> Option<u64> {
        let two = |a: &Extent, b: &Extent| Some((a.at(dims)?, b.at(dims)?));
        match self {
            Extent::Const(n) => Some(*n),
            Extent::Tokens => Some(dims.tokens),
            Extent::SequenceTokens => Some(dims.sequence_tokens),
            Extent::Add(a, b) => two(a, b).and_then(|(a, b)| a.checked_add(b)),
            Extent::Mul(a, b) => two(a, b).and_then(|(a, b)| a.checked_mul(b)),
            Extent::Min(a, b) => two(a, b).map(|(a, b)| a.min(b)),
            Extent::Max(a, b) => two(a, b).map(|(a, b)| a.max(b)),
            Extent::Div(a, b, round) => {
                let (a, b) = two(a, b)?;
                let floor = a.checked_div(b)?;
                let rest = a % b;
                let up = match round {
                    Round::Floor => false,
                    Round::Ceil => rest > 0,
                    Round::HalfEven => rest > b - rest || (rest > 0 && rest == b - rest && floor % 2 == 1),
                };
                floor.checked_add(u64::from(up))
            }
        }
    }

    /// `ceil(self / by)`.
    pub fn div_ceil(self, by: u64) -> Extent {
        self.div(Extent::Const(by), Round::Ceil)
    }

    /// `self / by`, rounded as asked.
    pub fn div(self, by: Extent, round: Round) -> Extent {
        if by == Extent::Const(1) {
            return self;
        }
        match (self, by) {
            (Extent::Const(a), Extent::Const(b)) if b != 0 => {
                let e = Extent::Div(Box::new(Extent::Const(a)), Box::new(Extent::Const(b)), round);
                e.at(Dims { tokens: 0, sequence_tokens: 0 }).map_or(e, Extent::Const)
            }
            (a, b) => Extent::Div(Box::new(a), Box::new(b), round),
        }
    }

    /// A fraction `above / below` of `unit` that it is never less than, whatever the sizes; 0 where none is known.
    pub(crate) fn least_share(&self, unit: &Extent) -> (u128, u128) {
        const UNKNOWN: (u128, u128) = (0, 1);
        let times = |(above, below): (u128, u128), n: u64, by: u64| {
            let products = above.checked_mul(n.into()).zip(below.checked_mul(by.into()));
            products.filter(|(_, below)| *below > 0).unwrap_or(UNKNOWN)
        };
        let is_less = |a: (u128, u128), b: (u128, u128)| Some(a.0.checked_mul(b.1)? < b.0.checked_mul(a.1)?);
        match (self, unit) {
            (e, unit) if e == unit => (1, 1),
            (Extent::Const(n), Extent::Const(unit)) => times((1, 1), *n, *unit),
            (Extent::Mul(a, b), _) => match (&**a, &**b) {
                (Extent::Const(n), e) | (e, Extent::Const(n)) => times(e.least_share(unit), *n, 1),
                (_, _) => UNKNOWN,
            },
            (Extent::Div(a, b, round), _) => {
                let by = if b.is_const() { b.at(Dims { tokens: 0, sequence_tokens: 0 }) } else { None };
                let (above, below) = by.map_or(UNKNOWN, |by| times(a.least_share(unit), 1, by));
                match round {
                    Round::Ceil => (above, below),
                    // Of a whole number of units none is lost.
                    Round::Floor | Round::HalfEven => (above / below, 1),
                }
            }
            (Extent::Add(a, b) | Extent::Max(a, b) | Extent::Min(a, b), _) => {
                let (a, b) = (a.least_share(unit), b.least_share(unit));
                match is_less(a, b) {
                    Some(is_less) if is_less == matches!(self, Extent::Min(..)) => a,
                    Some(_) => b,
                    None => UNKNOWN,
                }
            }
            (Extent::Const(_) | Extent::Tokens | Extent::SequenceTokens, _) => UNKNOWN,
        }
    }

    /// Whether it depends on no size.
    fn is_const(&self) -> bool {
        match self {
            Extent::Const(_) => true,
            Extent::Tokens | Extent::SequenceTokens => false,
            Extent::Add(a, b) | Extent::Mul(a, b) | Extent::Div(a, b, _) | Extent::Min(a, b) | Extent::Max(a, b) => {
                a.is_const() && b.is_const()
            }
        }
    }

    /// The lesser of two.
    pub fn min(self, other: Extent) -> Extent {
        Extent::Min(Box::new(self), Box::new(other))
    }

    /// The greater of two.
    pub fn max(self, other: Extent) -> Extent {
        Extent::Max(Box::new(self), Box::new(other))
    }
}

impl From<u64> for Extent {
    fn from(n: u64) -> Extent {
        Extent::Const(n)
    }
}

impl<E: Into<Extent>> std::ops::Add<E> for Extent {
    type Output = Extent;
    fn add(self, other: E) -> Extent {
        match (self, other.into()) {
            (Extent::Const(0), e) | (e, Extent::Const(0)) => e,
            (a, b) => Extent::Add(Box::new(a), Box::new(b)),
        }
    }
}

impl<E: Into<Extent>> std::ops::Mul<E> for Extent {
    type Output = Extent;
    fn mul(self, other: E) -> Extent {
        match (self, other.into()) {
            (Extent::Const(1), e) | (e, Extent::Const(1)) => e,
            (a, b) => Extent::Mul(Box::new(a), Box::new(b)),
        }
    }
}

/// Printed fully bracketed: `ceil((T * 2) / 64)`.
impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Const(n) => write!(f, "{n}"),
            Extent::Tokens => f.write_str("T"),
            Extent::SequenceTokens => f.write_str("S"),
            Extent::Add(a, b) => write!(f, "({a} + {b})"),
            Extent::Mul(a, b) => write!(f, "({a} * {b})"),
            Extent::Min(a, b) => write!(f, "min({a}, {b})"),
            Extent::Max(a, b) => write!(f, "max({a}, {b})"),
            Extent::Div(a, b, round) => {
                let name = match round {
                    Round::Floor => "floor",
                    Round::Ceil => "ceil",
                    Round::HalfEven => "half_even",
                };
                write!(f, "{name}({a} / {b})")
            }
        }
    }
}

impl Extent {
    /// Reads the printed form from the start of `text`. Gives the formula and what follows it.
    pub fn parse_prefix(text: &str) -> Option<(Extent, &str)> {
        parse(text, 0)
    }
}

fn parse(text: &str, depth: usize) -> Option<(Extent, &str)> {
    const DEEPEST: usize = 32;
    type Join = fn(Box<Extent>, Box<Extent>) -> Extent;
    const FORMS: [(&str, &str, Join); 6] = [
        ("floor(", "/", |a, b| Extent::Div(a, b, Round::Floor)),
        ("ceil(", "/", |a, b| Extent::Div(a, b, Round::Ceil)),
        ("half_even(", "/", |a, b| Extent::Div(a, b, Round::HalfEven)),
        ("min(", ",", Extent::Min),
        ("max(", ",", Extent::Max),
        ("(", "+*", Extent::Add),
    ];
    let text = text.trim_start();
    if depth > DEEPEST {
        return None;
    }
    for (open, between, join) in FORMS {
        let Some(inner) = text.strip_prefix(open) else { continue };
        let (a, rest) = parse(inner, depth + 1)?;
        let rest = rest.trim_start();
        let operator = rest.chars().next().filter(|c| between.contains(*c))?;
        let (b, rest) = parse(&rest[1..], depth + 1)?;
        let rest = rest.trim_start().strip_prefix(')')?;
        let join = if operator == '*' { Extent::Mul } else { join };
        return Some((join(Box::new(a), Box::new(b)), rest));
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 0 {
        return Some((Extent::Const(text[..digits].parse().ok()?), &text[digits..]));
    }
    match text.chars().next()? {
        'T' => Some((Extent::Tokens, &text[1..])),
        'S' => Some((Extent::SequenceTokens, &text[1..])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_shares() {
        let tokens = || Extent::Tokens;
        let of = |e: Extent| e.least_share(&tokens());
        let is = |e: Extent, above: u128, below: u128| {
            let share = of(e.clone());
            assert_eq!(share.0 * below, above * share.1, "{e}: {share:?}");
            // And so it is.
            for n in [1, 2, 7, 64] {
                let value = e.at(Dims { tokens: n, sequence_tokens: 1 }).unwrap();
                assert!(u128::from(value) * share.1 >= u128::from(n) * share.0, "{e} at {n}");
            }
        };
        is(tokens(), 1, 1);
        is((tokens() * 5).div(Extent::Const(4) * 8, Round::Ceil), 5, 32);
        is((tokens() * 5).div(Extent::Const(4) * 8, Round::Floor), 0, 1);
        is((tokens() * 5).div(2.into(), Round::Floor), 2, 1);
        is((tokens() * 5).div(2.into(), Round::HalfEven), 2, 1);
        is((tokens() * 5).div(tokens(), Round::Ceil), 0, 1);
        is(tokens().div_ceil(3).max(tokens().div_ceil(2)), 1, 2);
        is(tokens().div_ceil(3).min(tokens().div_ceil(2)), 1, 3);
        is(tokens().div_ceil(3) + 5, 1, 3);
        is(Extent::Const(9) * 3, 0, 1);
        is(Extent::SequenceTokens, 0, 1);
        assert_eq!(Extent::Const(9).least_share(&Extent::Const(12)), (9, 12));
        assert_eq!(Extent::Const(9).least_share(&Extent::Const(0)), (0, 1));
        let vast = (0..4).fold(tokens(), |e, _| e.div_ceil(u64::MAX));
        assert_eq!(of(vast).0, 0);
    }

    #[test]
    fn rounding_of_quotients() {
        let q = |a, b, r| Extent::Const(a).div(Extent::Const(b), r);
        for (a, b, floor, ceil, even) in [(7, 2, 3, 4, 4), (5, 2, 2, 3, 2), (8, 2, 4, 4, 4), (10, 4, 2, 3, 2), (11, 4, 2, 3, 3)] {
            assert_eq!(q(a, b, Round::Floor), Extent::Const(floor));
            assert_eq!(q(a, b, Round::Ceil), Extent::Const(ceil));
            assert_eq!(q(a, b, Round::HalfEven), Extent::Const(even));
        }
    }

    #[test]
    fn text_round_trips() {
        let e = (Extent::SequenceTokens * 5).div(Extent::Const(32), Round::Floor).max(Extent::Const(4)).min(Extent::Tokens + 1);
        let text = format!("{e}, row");
        assert_eq!(Extent::parse_prefix(&text), Some((e, ", row")));
        assert_eq!(Extent::parse_prefix(&"(".repeat(100_000)), None);
    }

    #[test]
    fn overflow_and_zero_divisors_have_no_value() {
        let dims = Dims { tokens: u64::MAX, sequence_tokens: 0 };
        assert_eq!((Extent::Tokens * 2).at(dims), None);
        assert_eq!(Extent::Tokens.div(Extent::SequenceTokens, Round::Floor).at(dims), None);
    }
}
