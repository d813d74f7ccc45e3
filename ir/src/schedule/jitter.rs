//! `jitter`: each element times a random factor of its own, drawn by its place and a seed.
//!
//! ```text
//!   counter (n / 4, t, 0, 0), key seed[0..2]  --> Philox --> four words: elements 4 (n / 4) .. of token t
//!   u = (word >> 8) / 2^24 in [0, 1)               out[t, n] = x[t, n] * (1 + eps * (2 u - 1))
//! ```
//!
//! Some 25 integer operations and 4 FLOPs an element; x is read once, T N f32 written. No state: the same seed gives the
//! same factors on every machine, whatever the grid.

use super::chunk::row_block_tokens;
use crate::graph::philox::{KEY_STEPS, MULTIPLIERS, ROUNDS};
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Machine};

/// What is jittered.
pub(super) struct Jitter {
    pub(super) name: String,
    pub(super) n: u32,
    pub(super) eps: f32,
    /// Element type of the tokens.
    pub(super) x: DType,
}

/// Words of one counter, and elements of one step.
const WORDS: u32 = 4;

/// Parameters: `x`, `seed`, `out` (written), `tokens`.
pub(super) fn jitter(spec: &Jitter, machine: &Machine) -> Kernel {
    let threads = machine.block_threads.min(256);
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let x = k.input("x", spec.x);
    let seed = k.input("seed", DType::I32);
    let out = k.output("out", DType::F32);
    let tokens = k.scalar("tokens", DType::I32);
    let (most, n) = (row_block_tokens(machine) as i32, k.i32(spec.n as i32));

    let key = [0, 1].map(|i| seed.load(k.i32(i)));
    let first = k.bind("first", k.block() * most);
    k.for_range("token", first, (first + most).min(tokens), |token| {
        let start = k.bind("start", token.cast(DType::I64) * k.i64(i64::from(spec.n)));
        let from = k.thread() * WORDS as i32;
        k.for_step("n", from, n, k.i32((threads * WORDS) as i32), |at| {
            let words = philox(k, [at / WORDS as i32, token, k.i32(0), k.i32(0)], key);
            for (i, word) in words.into_iter().enumerate() {
                let here = k.bind("n", at + i as i32);
                let jittered = || {
                    let unit = word.shr_unsigned(8).cast(DType::F32) * (1.0 / (1 << 24) as f32);
                    let offset = k.bind("offset", start + here.cast(DType::I64));
                    let factor = (unit * 2.0 - 1.0) * spec.eps + 1.0;
                    out.store(offset, x.load(offset).cast(DType::F32) * factor);
                };
                if spec.n.is_multiple_of(WORDS) { jittered() } else { k.when(here.lt(n), jittered) }
            }
        });
    });
    builder.finish()
}

/// As [`crate::graph::philox::philox`].
fn philox<'k>(k: &'k Builder, counter: [Value<'k>; 4], key: [Value<'k>; 2]) -> [Value<'k>; 4] {
    let [a, b, c, d] = counter.map(|word| k.var("word", word));
    let [low, high] = key.map(|word| k.var("key", word));
    let product = |word: Value<'k>, multiplier: u32| {
        let wide = word.cast(DType::I64) & k.i64(i64::from(u32::MAX));
        k.bind("product", wide * k.i64(i64::from(multiplier)))
    };
    let top = |product: Value<'k>| product.shr_unsigned(32).cast(DType::I32);
    k.for_range("round", k.i32(0), k.i32(ROUNDS as i32), |_| {
        let (first, second) = (product(a.get(), MULTIPLIERS[0]), product(c.get(), MULTIPLIERS[1]));
        let next = [top(second) ^ b.get() ^ low.get(), second.cast(DType::I32), top(first) ^ d.get() ^ high.get()];
        let next = next.map(|word| k.bind("next", word));
        [a, b, c].iter().zip(next).for_each(|(word, next)| word.set(next));
        d.set(first.cast(DType::I32));
        low.set(low.get() + KEY_STEPS[0] as i32);
        high.set(high.get() + KEY_STEPS[1] as i32);
    });
    [a, b, c, d].map(|word| word.get())
}
