//! The batches that a layer is run on: token counts around every size that a kernel is cut by, and tokens whose logits tie,
//! overflow or are no numbers.

use moec::import::{Entry, import};
use moec::random;
use moec::spec::{CapacityGroup, HashOob, Mode};
use moec_ir::graph::Type;
use moec_runtime::Tensor;
use moec_runtime::package::{DType, Dims};
use moec_tests::Example;

/// One batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// What is special about it.
    pub(crate) label: String,
    pub(crate) dims: Dims,
    /// In the layer's order, the tokens first.
    pub(crate) inputs: Vec<Tensor>,
    /// Whether its numbers are tame enough to be compared with other orders of the same sums.
    pub(crate) is_ordinary: bool,
}

/// Around the rows of a tile (64), a half-warp (16) and a warp's share; 129 has three tiles.
const SIZES: [u64; 10] = [0, 1, 2, 15, 16, 17, 63, 64, 65, 129];

/// Random tokens of every size; in sequences too where these have a capacity of their own.
pub(crate) fn of_every_size(example: &Example) -> Vec<Batch> {
    let mut batches: Vec<Batch> = SIZES.into_iter().map(|tokens| random_batch(example, Dims::tokens(tokens))).collect();
    if has_rows(example) {
        batches.extend(rows(example));
    }
    batches
}

/// Random tokens of a few sizes; in sequences too where these have a capacity of their own, and where experts choose so
/// many that a thread has several of a column.
pub(crate) fn of_some_sizes(example: &Example) -> Vec<Batch> {
    let mut batches: Vec<Batch> = [1, 17, 65].into_iter().map(|tokens| random_batch(example, Dims::tokens(tokens))).collect();
    if example.spec.router.mode == Mode::ExpertChoice {
        batches.push(random_batch(example, Dims::tokens(600)));
    }
    if has_rows(example) {
        batches.extend(rows(example));
    }
    batches
}

/// Random tokens, more than a half-warp.
pub(crate) fn of_one_size(example: &Example) -> Vec<Batch> {
    vec![random_batch(example, Dims::tokens(17))]
}

fn rows(example: &Example) -> [Batch; 2] {
    [(64, 16), (65, 13)].map(|(tokens, sequence_tokens)| random_batch(example, Dims { tokens, sequence_tokens }))
}

/// Whether sequences have a capacity of their own, or weights.
fn has_rows(example: &Example) -> bool {
    let capacity = example.spec.capacity.is_some_and(|capacity| capacity.group == CapacityGroup::Sequence);
    capacity || matches!(example.spec.router.mode, Mode::Soft(_))
}

fn random_batch(example: &Example, dims: Dims) -> Batch {
    let label = format!("{} tokens in rows of {}", dims.tokens, dims.sequence_tokens);
    Batch { label, dims, inputs: random_inputs(example, dims.tokens), is_ordinary: true }
}

/// Random tokens, and what else the layer reads of each.
pub(crate) fn random_inputs(example: &Example, tokens: u64) -> Vec<Tensor> {
    let rows = random::tokens(dtype(example), tokens, example.spec.hidden, 1 + tokens).unwrap();
    [vec![rows], mask(example, tokens), ids(example, tokens)].concat()
}

/// As [`of_some_sizes`], of a part of a layer. Given picks are of any expert, twice of one, and of none: -1 and numbers that no
/// expert has, with weights that are NaN. Of a map every third expert is here.
pub(crate) fn of_entry(example: &Example, entry: Entry) -> Vec<Batch> {
    let Entry::Experts { local } = entry else { return of_some_sizes(example) };
    let (spec, top_k) = (&example.spec, example.spec.picks());
    let integers = |shape: Vec<u64>, numbers: Vec<i32>| {
        Tensor::new(DType::I32, shape, numbers.into_iter().flat_map(i32::to_le_bytes).collect()).unwrap()
    };
    let here = |id: u64| if id.is_multiple_of(3) { (id / 3) as i32 } else { [-1, i32::MAX, i32::MIN][id as usize % 3] };
    let map = local.map(|_| integers(vec![spec.experts], (0..spec.experts).map(here).collect()));
    let experts = spec.experts as i32;
    let none = [-1, experts, i32::MAX, i32::MIN, experts + 7, -9];
    let batch = |tokens: u64| {
        let pairs = || 0..tokens * top_k;
        let is_none = |pair: u64| pair % 5 == 3;
        let twice = |pair: u64| if pair % 7 == 2 { pair - 1 } else { pair };
        let expert = |pair: u64| (twice(pair) * 11 % spec.experts) as i32;
        let id = |pair: u64| if is_none(pair) { none[pair as usize / 5 % none.len()] } else { expert(pair) };
        let weight = |pair: u64| if is_none(pair) { f32::NAN } else { (pair % 13) as f32 / 13.0 - 0.25 };
        let x = random::tokens(dtype(example), tokens, spec.expert.latent.unwrap_or(spec.hidden), 1 + tokens).unwrap();
        let ids = integers(vec![tokens, top_k], pairs().map(id).collect());
        let weights = Tensor::from_f32(DType::F32, vec![tokens, top_k], &pairs().map(weight).collect::<Vec<_>>()).unwrap();
        let inputs = [x, ids, weights].into_iter().chain(map.clone()).collect();
        Batch { label: format!("{tokens} tokens"), dims: Dims::tokens(tokens), inputs, is_ordinary: true }
    };
    [0, 1, 17, 65].into_iter().map(batch).collect()
}

/// Tokens that are hard on a router.
pub(crate) fn odd(example: &Example) -> Vec<Batch> {
    const TOKENS: u64 = 33;
    let plain = random::tokens(DType::F32, TOKENS, example.spec.hidden, 7).unwrap().to_f64();
    let hidden = example.spec.hidden as usize;
    let batch = |label: &str, is_ordinary: bool, edit: &dyn Fn(usize, usize, f32) -> f32| {
        let values = plain.iter().enumerate().map(|(i, x)| edit(i / hidden, i % hidden, *x as f32));
        let shape = vec![TOKENS, example.spec.hidden];
        let input = Tensor::from_f32(dtype(example), shape, &values.collect::<Vec<_>>()).unwrap();
        let inputs = [vec![input], mask(example, TOKENS), ids(example, TOKENS)].concat();
        Batch { label: label.to_string(), dims: Dims::tokens(TOKENS), inputs, is_ordinary }
    };
    vec![
        batch("every logit ties", true, &|_, _, _| 0.0),
        batch("every token goes to the same experts", true, &|_, h, _| plain[h] as f32),
        batch("some logits are NaN", false, &|t, h, x| if t % 3 == 0 && h == 5 { f32::NAN } else { x }),
        batch("every logit is NaN", false, &|_, _, _| f32::NAN),
        batch("logits are infinite", false, &|t, h, x| match (t % 4, h) {
            (0, 3) => f32::INFINITY,
            (1, 3) => f32::NEG_INFINITY,
            _ => x,
        }),
        batch("logits are huge", false, &|t, _, x| if t % 2 == 0 { x * 3e4 } else { x * -1e-30 }),
    ]
}

/// Which of so many tokens are padding, where the layer takes a mask: every fifth, never the first.
fn mask(example: &Example, tokens: u64) -> Vec<Tensor> {
    let is_token: Vec<f32> = (0..tokens).map(|token| f32::from(u8::from(token % 5 != 4))).collect();
    let mask = Tensor::from_f32(DType::I32, vec![tokens], &is_token).unwrap();
    if example.spec.tokens.mask { vec![mask] } else { vec![] }
}

/// The ids of so many tokens, where the layer takes them: those of the vocabulary in turn, and every sixth outside it where the
/// layer gives such a token no picks.
fn ids(example: &Example, tokens: u64) -> Vec<Tensor> {
    let Some(vocabulary) = example.spec.router.vocabulary else { return vec![] };
    let outside = [vocabulary as i32, -1, i32::MAX, i32::MIN, vocabulary as i32 + 5, -100];
    let id = |token: u64| match (example.spec.router.hash_oob, token % 6) {
        (HashOob::Drop, 3) => outside[token as usize / 6 % outside.len()],
        (HashOob::Drop | HashOob::Error, _) => (token * 5 % vocabulary) as i32,
    };
    let ids = (0..tokens).flat_map(|token| id(token).to_le_bytes()).collect();
    vec![Tensor::new(DType::I32, vec![tokens], ids).unwrap()]
}

/// The element type of the tokens.
fn dtype(example: &Example) -> DType {
    let graph = import(&example.spec, Entry::Layer).unwrap();
    let input = graph.params.iter().find(|(param, _)| param.is_input()).map(|(_, ty)| ty.clone());
    match input {
        Some(Type::Tensor { dtype: moec_ir::DType::F16, .. }) => DType::F16,
        Some(Type::Tensor { dtype: moec_ir::DType::BF16, .. }) => DType::Bf16,
        Some(_) | None => DType::F32,
    }
}
