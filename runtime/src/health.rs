//! What a load says about routing: how evenly it is spread, which experts are hot and which are cold. The same measure for
//! counted loads and for summed probabilities.

use serde::Serialize;

/// Above how much of the mean an expert is hot where nothing limits it: the capacity factor that Switch trains with.
pub const USUAL_CAPACITY_FACTOR: f64 = 1.25;
/// Below how much of the mean an expert is cold.
pub const COLD: f64 = 0.1;

/// How a load is spread over the experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// Load of an expert if all had the same.
    pub mean: f64,
    /// Mean squared distance from the mean.
    pub variance: f64,
    /// The largest load.
    pub largest: f64,
    /// Experts with more than the capacity factor times the mean, by index.
    pub hot: Vec<usize>,
    /// Experts with less than [`COLD`] times the mean, by index.
    pub cold: Vec<usize>,
}

impl Health {
    /// Of the load of each expert: pairs that picked it, or its router probabilities summed over the tokens. Without
    /// experts, and without load, nothing is hot or cold.
    #[must_use]
    pub fn of(load: &[f64], capacity_factor: f64) -> Health {
        let count = load.len().max(1) as f64;
        let mean = load.iter().sum::<f64>() / count;
        let variance = load.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let where_load = |is: &dyn Fn(f64) -> bool| (0..load.len()).filter(|e| is(load[*e])).collect();
        Health {
            mean,
            variance,
            largest: load.iter().copied().fold(0.0, f64::max),
            hot: where_load(&|x| x > capacity_factor * mean),
            cold: where_load(&|x| x < COLD * mean),
        }
    }

    /// Standard deviation over mean: 0 where all have the same, whatever the number of tokens.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.mean > 0.0 { self.variance.sqrt() / self.mean } else { 0.0 }
    }
}

/// Entropy of a distribution, given up to a factor, as a share of that of the even one: 1 is even, 0 is all on one.
#[must_use]
pub fn entropy_share(load: &[f64]) -> f64 {
    let total: f64 = load.iter().sum();
    if load.len() < 2 || total <= 0.0 {
        return 1.0;
    }
    let nats: f64 = load.iter().filter(|x| **x > 0.0).map(|x| -(x / total) * (x / total).ln()).sum();
    nats / (load.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_by_hand() {
        let health = Health::of(&[10.0, 0.0, 1.0, 5.0], 1.25);
        assert_eq!((health.mean, health.variance, health.largest), (4.0, (36.0 + 16.0 + 9.0 + 1.0) / 4.0, 10.0));
        assert_eq!((health.hot, health.cold), (vec![0], vec![1]), "5 = 1.25 * 4 is not above it, 1 not below 0.4");
        assert_eq!(health.variance.sqrt() / 4.0, Health::of(&[10.0, 0.0, 1.0, 5.0], 1.25).spread());
    }

    #[test]
    fn nothing_is_neither_hot_nor_cold() {
        for load in [&[][..], &[0.0, 0.0]] {
            let health = Health::of(load, 1.25);
            assert_eq!((health.spread(), health.hot.len(), health.cold.len()), (0.0, 0, 0));
        }
    }

    #[test]
    fn entropy_of_even_and_of_one() {
        assert!((entropy_share(&[3.0; 8]) - 1.0).abs() < 1e-12);
        assert_eq!(entropy_share(&[0.0, 7.0, 0.0]), 0.0);
        assert!((entropy_share(&[1.0, 1.0, 0.0, 0.0]) - 0.5).abs() < 1e-12);
    }
}
