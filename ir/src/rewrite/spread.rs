//! How rows fall on experts, where nothing is known of the router but how many it picks.

/// How rows fall on experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Every expert has some.
    Even,
    /// A token has so many different ones of so many, each as likely as the others, and tokens do not know each other.
    Picks {
        /// K.
        top_k: u64,
        /// All that picks may be of, also those that are elsewhere.
        of: u64,
    },
}

/// A probability of one.
const ONE: u128 = 1 << 60;

impl Spread {
    /// How many of these experts get rows of so many tokens, in the mean: `E (1 - (1 - K / N)^T)`, rounded up.
    pub fn hit(self, experts: u64, tokens: u64) -> u64 {
        u64::try_from((u128::from(experts) * self.chance(tokens)).div_ceil(ONE)).unwrap_or(experts)
    }

    /// How many of the bytes of some experts are of those that get rows of so many tokens, in the mean: to the nearest byte, so
    /// that this may be bytes of a part of an expert.
    pub(super) fn hit_bytes(self, bytes: u64, tokens: u64) -> u64 {
        u64::try_from((u128::from(bytes) * self.chance(tokens) + ONE / 2) / ONE).unwrap_or(bytes)
    }

    /// How likely an expert gets a row of so many tokens, as a part of [`ONE`]: `1 - (1 - K / N)^T`.
    fn chance(self, tokens: u64) -> u128 {
        match self {
            Spread::Even => ONE,
            Spread::Picks { top_k, of } => {
                let (mut missed, mut power, mut exponent) =
                    (ONE, ONE - ONE * u128::from(top_k.min(of)) / u128::from(of.max(1)), tokens);
                while exponent > 0 {
                    if exponent % 2 == 1 {
                        missed = missed * power / ONE;
                    }
                    (power, exponent) = (power * power / ONE, exponent / 2);
                }
                ONE - missed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_hit_by_chance() {
        let of = |tokens: u64| Spread::Picks { top_k: 8, of: 128 }.hit(128, tokens);
        // 128 (1 - (15/16)^T): 8, 15.5, 82.4, 125.9.
        assert_eq!([0, 1, 2, 16, 64, 4096].map(of), [0, 8, 16, 83, 126, 128]);
        // Of 16 that are here, of 128: 16 / 128 of them.
        assert_eq!([1, 2, 64].map(|tokens| Spread::Picks { top_k: 8, of: 128 }.hit(16, tokens)), [1, 2, 16]);
        assert_eq!((Spread::Picks { top_k: 4, of: 4 }.hit(4, 1), Spread::Even.hit(7, 1)), (4, 7));
        assert_eq!(Spread::Picks { top_k: 1, of: 2 }.hit(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(Spread::Picks { top_k: 1, of: 0 }.hit(8, 4), 0);
    }

    #[test]
    fn bytes_are_of_parts_of_experts() {
        // 8 (1 - (3/4)^3) = 4.625 experts of 384 bytes.
        assert_eq!(Spread::Picks { top_k: 2, of: 8 }.hit_bytes(8 * 384, 3), 1776);
        assert_eq!((Spread::Even.hit_bytes(100, 1), Spread::Picks { top_k: 1, of: 2 }.hit_bytes(u64::MAX, 0)), (100, 0));
        assert_eq!(Spread::Picks { top_k: 1, of: 2 }.hit_bytes(u64::MAX, u64::MAX), u64::MAX);
    }
}
