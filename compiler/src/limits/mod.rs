//! What this machine can do at most, as moec measures it (`measure`), what of that is remembered from run to run (`memory`), and how long
//! a layer takes at least on such a machine. Where the file lies, and what is printed, is the commands' business.

#[cfg(feature = "llvm")]
mod measure;
mod memory;

use serde::{Deserialize, Serialize};

#[cfg(feature = "llvm")]
pub use self::measure::{TRIES, cpu, measure};
pub use self::memory::{find, remember};

/// What was measured of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The CPU's model, as the system names it.
    pub cpu: String,
    /// How many threads `all` are.
    pub threads: usize,
    /// Bytes of the caches that these threads have in front of memory.
    pub cache_bytes: u64,
    /// Reading memory, bytes a second.
    pub read: Rates,
    /// Multiplying and adding, FLOPs a second.
    pub products: Vec<Products>,
}

/// What one thread reaches, and what all do together, a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// One thread.
    pub one: u64,
    /// All threads.
    pub all: u64,
}

/// What products of a type reach, written for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Products {
    /// The target: its instructions are used, and no others.
    pub target: String,
    /// Type of the factors: `f32`, or `bf16` where the target has dot products of them. Sums are in f32.
    pub dtype: String,
    /// FLOPs a second.
    pub flops: Rates,
}

/// How many threads a run has of those that were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// One.
    One,
    /// All.
    All,
}

impl Rates {
    /// Of so many threads.
    #[must_use]
    pub fn of(self, share: Share) -> u64 {
        match share {
            Share::One => self.one,
            Share::All => self.all,
        }
    }
}

/// What a run has to do, however it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes of the weights that it needs, each once.
    pub bytes: f64,
    /// FLOPs of its products.
    pub flops: f64,
}

/// The least time of some work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Least {
    /// Seconds.
    pub seconds: f64,
    /// What takes them.
    pub by: By,
    /// How fast that is done, a second.
    pub rate: u64,
}

/// What bounds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Reading the weights from memory.
    Reading,
    /// The products.
    Products,
}

impl Limits {
    /// The highest rate of products of factors of this type on a target, FLOPs a second: those of other types than were measured are
    /// converted to f32, and so may those be that were. `None`: the target was not measured.
    #[must_use]
    pub fn peak(&self, target: &str, dtype: &str, share: Share) -> Option<u64> {
        let of_type = |products: &&Products| products.target == target && ["f32", dtype].contains(&products.dtype.as_str());
        self.products.iter().filter(of_type).map(|products| products.flops.of(share)).max()
    }

    /// The least time for this work: the longer of reading and multiplying, which can be done at the same time. Weights that fit the
    /// caches need not be read from memory. `None`: the target was not measured.
    #[must_use]
    pub fn least(&self, (target, dtype): (&str, &str), share: Share, work: Work) -> Option<Least> {
        let (peak, read) = (self.peak(target, dtype, share)?, self.read.of(share));
        let products = Least { seconds: work.flops / peak.max(1) as f64, by: By::Products, rate: peak };
        let reading = Least { seconds: work.bytes / read.max(1) as f64, by: By::Reading, rate: read };
        let is_cached = work.bytes <= self.cache_bytes as f64;
        Some(if is_cached || products.seconds >= reading.seconds { products } else { reading })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let products = |target: &str, dtype: &str, one: u64, all: u64| Products {
            target: target.into(),
            dtype: dtype.into(),
            flops: Rates { one: one * 1_000_000_000, all: all * 1_000_000_000 },
        };
        Limits {
            cpu: "a CPU".into(),
            threads: 2,
            cache_bytes: 32_000_000,
            read: Rates { one: 20_000_000_000, all: 30_000_000_000 },
            products: vec![
                products("x86-64-v3", "f32", 100, 200),
                products("x86-64-v4-bf16", "f32", 110, 220),
                products("x86-64-v4-bf16", "bf16", 230, 460),
            ],
        }
    }

    /// One layer of Qwen3-30B-A3B: 3 weights of 2048 by 768 an expert, in bf16 9 437 184 bytes; 9 437 184 FLOPs a pair.
    #[test]
    fn the_least_time_by_hand() {
        let least = |target, dtype, share, experts: f64, pairs: f64| {
            let work = Work { bytes: experts * 9_437_184.0, flops: pairs * 9_437_184.0 };
            let Least { seconds, by, rate } = limits().least((target, dtype), share, work).unwrap();
            ((seconds * 1e6).round(), by, rate / 1_000_000_000)
        };
        // One token, 8 experts: 75.5 MB at 30 GB/s, and 75.5 MFLOP at 460 GFLOP/s, which take 0.16 ms.
        assert_eq!(least("x86-64-v4-bf16", "bf16", Share::All, 8.0, 8.0), (2517.0, By::Reading, 30));
        assert_eq!(least("x86-64-v4-bf16", "bf16", Share::One, 8.0, 8.0), (3775.0, By::Reading, 20));
        // 512 tokens, all 128 experts: 1.208 GB at 30 GB/s are 40.3 ms, 38.65 GFLOP at 460 GFLOP/s 84.0 ms.
        assert_eq!(least("x86-64-v4-bf16", "bf16", Share::All, 128.0, 4096.0), (84032.0, By::Products, 460));
        // f16 is converted to f32, and so is bf16 where there are no dot products of it.
        assert_eq!(least("x86-64-v4-bf16", "f16", Share::All, 128.0, 4096.0), (175703.0, By::Products, 220));
        assert_eq!(least("x86-64-v3", "bf16", Share::All, 128.0, 4096.0), (193274.0, By::Products, 200));
        // 3 experts are 28.3 MB, which fit the caches: 0.28 MFLOP a thousandth of a pair.
        assert_eq!(least("x86-64-v3", "bf16", Share::One, 3.0, 3.0), (283.0, By::Products, 100));
    }

    #[test]
    fn a_target_that_was_not_measured() {
        assert_eq!(limits().least(("x86-64-v4", "f32"), Share::All, Work { bytes: 1e9, flops: 1e9 }), None);
    }
}
