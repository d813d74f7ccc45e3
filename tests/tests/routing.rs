//! What routing promises in every mode, whatever the tokens: on this CPU's kernels, which `emulated` holds the PTX to.
//!
//! * The experts of a token are experts, and none comes twice but in a table; tokens of numbers give numbers.
//! * Nothing is lost: every pair is kept or dropped, no expert takes more than its capacity of a span, and none takes
//!   less while a pair of its own is left. The order of service is that of the plain loops below.
//! * A token's result is a function of its own row and of which of its picks were kept. Without a capacity no other token
//!   can change a bit of it. With one, another token can only by taking a place, so never from another span, nor, where
//!   pairs are kept token by token, from behind.
//! * Where position does not decide (dropless, weights that differ), tokens in another order give the same in that order.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::sync::OnceLock;

use moec::import::Entry;
use moec::pipeline::{compile, this_host};
use moec::random;
use moec::spec::{Capacity, CapacityGroup, Mode, Priority, Spec};
use moec_codegen::Options;
use moec_runtime::package::{DType, Dims};
use moec_runtime::{Bound, DeviceKind, Layer, Tensor};
use moec_tests::Example;
use moec_tests::scaled::{counts_all_tokens, modes};
use rayon::prelude::*;

/// A mode's layer on this CPU.
struct Routed {
    name: String,
    spec: Spec,
    layer: Bound,
}

/// What is known of one batch afterwards.
struct Outcome {
    /// K.
    top_k: usize,
    /// `[T, K]`; K = E, in order, where experts choose.
    experts: Vec<usize>,
    weights: Vec<f32>,
    /// `[T, K]`; -1: not kept.
    rows: Vec<i32>,
    load: Vec<usize>,
    kept: Vec<usize>,
    /// The bits of each token's result.
    y: Vec<Vec<u32>>,
}

fn layers() -> &'static [Routed] {
    static LAYERS: OnceLock<Vec<Routed>> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let host = this_host().expect("an x86-64 CPU of level v3");
        let picks = |mode: &Mode| match mode {
            Mode::TokenChoice | Mode::ExpertChoice | Mode::Hash => true,
            // Nothing is picked.
            Mode::Soft(_) => false,
        };
        // Of padding `padding.rs` says more, of ids without experts `hash.rs`.
        let modes = modes().into_iter().filter(|mode| picks(&mode.spec.router.mode) && counts_all_tokens(&mode.spec));
        let modes: Vec<_> = modes.collect();
        let layer = |mode: &Example| {
            let package =
                compile(&mode.spec, Entry::Layer, &mode.text, std::slice::from_ref(&host), &Options::default()).unwrap();
            let weights = random::weights(package.manifest(), 3).unwrap();
            let layer = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap().bind(weights).unwrap();
            Routed { name: mode.name.clone(), spec: mode.spec.clone(), layer }
        };
        modes.par_iter().map(layer).collect()
    })
}

impl Routed {
    /// Those without rows too, after those with.
    fn experts(&self) -> usize {
        (self.spec.candidates() + self.spec.router.joint_shared) as usize
    }

    fn has_rows(&self, expert: usize) -> bool {
        expert < self.spec.experts as usize
    }

    /// Random tokens, edited by token and column.
    fn tokens(&self, dims: Dims, edit: impl Fn(usize, usize, f32) -> f32) -> Vec<f32> {
        let hidden = self.spec.hidden;
        let dtype = self.layer.layer().manifest().dtype;
        let plain = random::tokens(dtype, dims.tokens, hidden, 1 + dims.tokens).unwrap().to_f64();
        let of = |(i, x): (usize, &f64)| edit(i / hidden as usize, i % hidden as usize, *x as f32);
        plain.iter().enumerate().map(of).collect()
    }

    fn run(&self, dims: Dims, tokens: &[f32]) -> Outcome {
        let shape = vec![dims.tokens, self.spec.hidden];
        let input = Tensor::from_f32(self.layer.layer().manifest().dtype, shape, tokens).unwrap();
        let mut inputs = vec![input];
        if self.spec.router.mode == Mode::Hash {
            // What its first number says, so that ids move with tokens.
            let ids = tokens.chunks(self.spec.hidden as usize).map(|row| (row[0].to_bits() % 11) as i32);
            let bytes = ids.flat_map(i32::to_le_bytes).collect();
            inputs.push(Tensor::new(DType::I32, vec![dims.tokens], bytes).unwrap());
        }
        let run = self.layer.run(&inputs, dims).unwrap();
        let numbers = |name: &str| -> Vec<usize> {
            run.tensor(name).unwrap().to_i32().unwrap().into_iter().map(|n| usize::try_from(n).unwrap()).collect()
        };
        let top_k = self.spec.picks() as usize;
        let experts = match self.spec.router.mode {
            Mode::ExpertChoice => (0..dims.tokens as usize * top_k).map(|pair| pair % top_k).collect(),
            Mode::TokenChoice | Mode::Soft(_) | Mode::Hash => numbers("route.experts"),
        };
        let y = run.tensor("y").unwrap();
        // As f32 every type keeps what tells its numbers apart; all NaN are one.
        let bits = |y: &f64| if y.is_nan() { f32::NAN.to_bits() } else { (*y as f32).to_bits() };
        Outcome {
            top_k,
            experts,
            weights: run.tensor("route.weights").unwrap().to_f64().into_iter().map(|w| w as f32).collect(),
            rows: run.tensor("route.rows").unwrap().to_i32().unwrap(),
            load: numbers("stats.load"),
            kept: numbers("stats.kept"),
            y: y.to_f64().chunks(self.spec.hidden as usize).map(|row| row.iter().map(bits).collect()).collect(),
        }
    }

    /// The batches that say something about this mode.
    fn batches(&self) -> Vec<Dims> {
        let mut batches: Vec<Dims> = [1, 17, 65].map(Dims::tokens).into();
        if self.spec.capacity.is_some_and(|capacity| capacity.group == CapacityGroup::Sequence) {
            batches.extend([(64, 16), (65, 13), (5, 1)].map(|(tokens, sequence_tokens)| Dims { tokens, sequence_tokens }));
        }
        batches
    }

    /// The spans of the tokens, and what an expert takes of one of them.
    fn spans(&self, dims: Dims) -> (Vec<std::ops::Range<usize>>, usize) {
        let tokens = dims.tokens as usize;
        let Some(capacity) = &self.spec.capacity else { return (std::iter::once(0..tokens).collect(), usize::MAX) };
        let span = match capacity.group {
            CapacityGroup::All => dims.tokens,
            CapacityGroup::Sequence => dims.sequence_tokens,
            CapacityGroup::Tokens(n) => n,
        };
        let room = capacity.tokens_per_expert(span, self.spec.router.top_k, self.spec.experts);
        let spans = (0..tokens).step_by(span as usize).map(|first| first..(first + span as usize).min(tokens));
        (spans.collect(), usize::try_from(room).unwrap())
    }

    /// The order of service; none where nothing is dropped.
    fn order(&self) -> Option<Order> {
        let priority = |capacity: Capacity| match (self.spec.router.mode, capacity.priority) {
            (Mode::ExpertChoice, _) | (_, Priority::Score) => Order::Weight,
            (_, Priority::ChoiceMajor) => Order::Choice,
            (_, Priority::TokenMajor) => Order::Token,
            (_, Priority::BatchPrioritized) => Order::BestWeight,
        };
        self.spec.capacity.map(priority)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Choice,
    Token,
    Weight,
    BestWeight,
}

/// What is no number comes last, and zeros of either sign are one.
fn key(weight: f32) -> f32 {
    if weight.is_nan() { f32::NEG_INFINITY } else { weight + 0.0 }
}

impl Outcome {
    fn is_kept(&self, pair: usize) -> bool {
        self.rows[pair] >= 0
    }

    /// Which of a token's picks were kept.
    fn kept_of(&self, token: usize) -> Vec<bool> {
        (token * self.top_k..(token + 1) * self.top_k).map(|pair| self.is_kept(pair)).collect()
    }

    /// Pairs of a span in the order in which they are served.
    fn served(&self, span: std::ops::Range<usize>, order: Order) -> Vec<usize> {
        let k = self.top_k;
        let pairs = |tokens: &[usize]| (0..k).flat_map(|j| tokens.iter().map(move |t| t * k + j)).collect::<Vec<usize>>();
        let heaviest = |mut pairs: Vec<usize>| {
            pairs.sort_by(|a, b| key(self.weights[*b]).partial_cmp(&key(self.weights[*a])).unwrap().then(a.cmp(b)));
            pairs
        };
        match order {
            Order::Token => (span.start * k..span.end * k).collect(),
            Order::Choice => pairs(&span.collect::<Vec<usize>>()),
            Order::Weight => heaviest((span.start * k..span.end * k).collect()),
            Order::BestWeight => {
                let best = heaviest(span.map(|t| t * k).collect());
                pairs(&best.into_iter().map(|pair| pair / k).collect::<Vec<usize>>())
            }
        }
    }
}

/// Tokens that are hard on a router: what is special, and the edit of each element by token and column.
type Edit = (&'static str, fn(usize, usize, f32) -> f32);

const PLAIN: Edit = ("plain", |_, _, x| x);
const NOT_NUMBERS: Edit = ("some NaN", |t, h, x| if t % 3 == 0 && h == 5 { f32::NAN } else { x });
const INFINITE: Edit = ("infinite", |t, h, x| match (t % 4, h) {
    (0, 3) => f32::INFINITY,
    (1, 3) => f32::NEG_INFINITY,
    _ => x,
});
const EDITS: [Edit; 7] = [
    PLAIN,
    ("zeros", |_, _, _| 0.0),
    ("one token many times", |_, h, _| (h as f32).sin()),
    ("two tokens many times", |t, h, _| ((h + t % 2) as f32).cos()),
    NOT_NUMBERS,
    INFINITE,
    ("nothing but NaN", |_, _, _| f32::NAN),
];

#[test]
fn every_pair_is_kept_or_dropped_in_its_turn() {
    layers().par_iter().for_each(|routed| {
        for (dims, (label, edit)) in routed.batches().into_iter().flat_map(|dims| EDITS.map(|edit| (dims, edit))) {
            let out = routed.run(dims, &routed.tokens(dims, edit));
            let at = format!("{}: {label}, {dims:?}", routed.name);
            let (spans, room) = routed.spans(dims);
            let (pairs, experts) = (out.experts.len(), routed.experts());
            assert_eq!(pairs, dims.tokens as usize * out.top_k, "{at}");
            let mut wanted = vec![false; pairs];
            for span in spans {
                let mut left: Vec<usize> = (0..experts).map(|e| if routed.has_rows(e) { room } else { 0 }).collect();
                for pair in out.served(span.clone(), routed.order().unwrap_or(Order::Token)) {
                    let left = &mut left[out.experts[pair]];
                    wanted[pair] = *left > 0;
                    *left = left.saturating_sub(1);
                }
                if routed.spec.router.mode == Mode::ExpertChoice {
                    let full = |left: &usize| room - left == room.min(span.len());
                    assert!(left.iter().all(full), "{at}: an expert takes as many as there are");
                }
            }
            let is: Vec<bool> = (0..pairs).map(|pair| out.is_kept(pair)).collect();
            assert_eq!(is, wanted, "{at}: which pairs are kept");
            // Load and kept are counts of what was picked and what has a row.
            let count = |counts: &dyn Fn(usize) -> bool| -> Vec<usize> {
                (0..experts).map(|e| (0..pairs).filter(|pair| out.experts[*pair] == e && counts(*pair)).count()).collect()
            };
            let asked = |pair: usize| routed.spec.router.mode != Mode::ExpertChoice || is[pair];
            assert_eq!(out.load, count(&asked), "{at}: load");
            assert_eq!(out.kept, count(&|pair| is[pair]), "{at}: kept");
            // The rows are those of expert 0, then those of expert 1, ..., each given once.
            let mut rows: Vec<(i32, usize)> =
                (0..pairs).filter(|pair| is[*pair]).map(|p| (out.rows[p], out.experts[p])).collect();
            rows.sort_unstable();
            assert!(rows.iter().enumerate().all(|(i, (row, _))| *row == i as i32), "{at}: rows");
            assert!(rows.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{at}: rows by expert");
        }
    });
}

#[test]
fn experts_are_distinct_and_numbers_give_numbers() {
    layers().par_iter().for_each(|routed| {
        for (dims, (label, edit)) in routed.batches().into_iter().flat_map(|dims| EDITS.map(|edit| (dims, edit))) {
            let tokens = routed.tokens(dims, edit);
            let out = routed.run(dims, &tokens);
            for (t, picks) in out.experts.chunks(out.top_k).enumerate() {
                let at = format!("{}: {label}, {dims:?}, token {t}", routed.name);
                let distinct: BTreeSet<usize> = picks.iter().copied().collect();
                let repeats = routed.spec.router.mode == Mode::Hash;
                assert!(
                    (repeats || distinct.len() == picks.len()) && distinct.iter().all(|e| *e < routed.experts()),
                    "{at}: {picks:?}"
                );
                let hidden = routed.spec.hidden as usize;
                if tokens[t * hidden..][..hidden].iter().all(|x| x.is_finite()) {
                    assert!(out.y[t].iter().all(|y| f32::from_bits(*y).is_finite()), "{at}: {:?}", out.y[t]);
                }
            }
        }
    });
}

#[test]
fn a_token_changes_others_only_by_taking_a_place() {
    let taken = std::sync::atomic::AtomicUsize::new(0);
    layers().par_iter().for_each(|routed| {
        let dims = Dims { tokens: 33, sequence_tokens: 11 };
        let plain = routed.tokens(dims, PLAIN.1);
        let before = routed.run(dims, &plain);
        let (spans, _) = routed.spans(dims);
        let span_of = |t: usize| spans.iter().position(|span| span.contains(&t));
        for (odd, poison) in
            [(0, f32::NAN), (16, f32::NAN), (32, f32::NAN), (13, f32::INFINITY), (20, f32::NEG_INFINITY), (7, 3.5)]
        {
            let mut tokens = plain.clone();
            tokens[odd * routed.spec.hidden as usize + 5] = poison;
            let after = routed.run(dims, &tokens);
            for t in (0..33).filter(|t| *t != odd) {
                let at = format!("{}: token {t}, where token {odd} has {poison}", routed.name);
                let picks = t * before.top_k..(t + 1) * before.top_k;
                assert_eq!(before.experts[picks.clone()], after.experts[picks.clone()], "{at}: experts");
                let bits = |out: &Outcome| out.weights[picks.clone()].iter().map(|w| w.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&before), bits(&after), "{at}: weights");
                let is_out_of_reach = match routed.order() {
                    None => true,
                    Some(Order::Token) => span_of(t) != span_of(odd) || t < odd,
                    Some(Order::Choice | Order::Weight | Order::BestWeight) => span_of(t) != span_of(odd),
                };
                let same_places = before.kept_of(t) == after.kept_of(t);
                assert!(same_places || !is_out_of_reach, "{at}: kept");
                assert!(!same_places || before.y[t] == after.y[t], "{at}: {:?} {:?}", before.y[t], after.y[t]);
                taken.fetch_add(usize::from(!same_places), std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    assert!(taken.into_inner() > 0, "no token ever took another's place: nothing was tested");
}

/// Tokens of each span backwards.
#[test]
fn the_order_of_tokens_does_not_matter_where_position_does_not_decide() {
    let tested = std::sync::atomic::AtomicUsize::new(0);
    layers().par_iter().for_each(|routed| {
        let dims = Dims { tokens: 33, sequence_tokens: 11 };
        let hidden = routed.spec.hidden as usize;
        let (spans, _) = routed.spans(dims);
        let backwards: Vec<usize> = spans.iter().flat_map(|span| span.clone().rev()).collect();
        let plain = routed.tokens(dims, PLAIN.1);
        let out = routed.run(dims, &plain);
        // Weights by which a pair is preferred, of one span and expert.
        let differ = |items: &dyn Fn(usize) -> bool| {
            spans.iter().all(|span| {
                (0..routed.experts()).all(|e| {
                    let pairs =
                        (span.start * out.top_k..span.end * out.top_k).filter(|pair| items(*pair) && out.experts[*pair] == e);
                    let keys: Vec<u32> = pairs.map(|pair| key(out.weights[pair]).to_bits()).collect();
                    keys.iter().collect::<BTreeSet<_>>().len() == keys.len()
                })
            })
        };
        let applies = match routed.order() {
            None => true,
            Some(Order::Weight) => differ(&|_| true),
            Some(Order::BestWeight) => {
                let best: Vec<u32> = out.weights.iter().step_by(out.top_k).map(|w| key(*w).to_bits()).collect();
                best.iter().collect::<BTreeSet<_>>().len() == best.len()
            }
            Some(Order::Choice | Order::Token) => false,
        };
        if !applies {
            return;
        }
        tested.fetch_add(usize::from(routed.order().is_some()), std::sync::atomic::Ordering::Relaxed);
        let moved: Vec<f32> = backwards.iter().flat_map(|t| plain[t * hidden..][..hidden].to_vec()).collect();
        let after = routed.run(dims, &moved);
        for (place, t) in backwards.iter().enumerate() {
            assert_eq!(after.kept_of(place), out.kept_of(*t), "{}: kept of token {t}", routed.name);
            assert_eq!(after.y[place], out.y[*t], "{}: token {t}", routed.name);
        }
    });
    assert!(tested.into_inner() >= 4, "modes in which weights decide");
}
