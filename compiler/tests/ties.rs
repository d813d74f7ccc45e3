//! Near ties beside a capacity, by hand: which picks, orders and drops a rounding explains, and which are wrong.
//!
//! The router is the identity, so that a token is its own logits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use moec::diagnostics::Source;
use moec::import::{Entry, import};
use moec::pipeline::{compile, this_host};
use moec::random;
use moec::reference::{Reference, reference};
use moec::spec::{Spec, parse};
use moec::ties::{Apart, Decision, Given, judged};
use moec_codegen::Options;
use moec_runtime::package::{DType, Dims, Manifest, Role};
use moec_runtime::{Run, Tensor};

const EXPERTS: u64 = 4;

/// The distance of 1 to the next f32, of which softmax and products leave nothing that f32 could tell.
const ULP: f32 = f32::EPSILON;

struct Layer {
    spec: Spec,
    manifest: Manifest,
    weights: Vec<Tensor>,
}

impl Layer {
    /// Two of four experts, each with room for so many tokens.
    fn of(capacity: u64, priority: &str) -> Layer {
        let text = format!(
            "[moe]\nname = \"ties\"\nhidden = {EXPERTS}\nexperts = {EXPERTS}\n[router]\ntop_k = 2\nscore = \"softmax\"\n\
             renorm = \"sum\"\n[capacity]\ntokens = {capacity}\npriority = \"{priority}\"\n[expert]\nintermediate = 8\n\
             [numerics]\ndtype = \"f32\"\n"
        );
        let spec = parse(&Source { name: "ties.toml".into(), text: text.clone() }).unwrap();
        let package = compile(&spec, Entry::Layer, &text, &[this_host().unwrap()], &Options::default()).unwrap();
        let manifest = package.manifest().clone();
        let mut weights = random::weights(&manifest, 3).unwrap();
        let names = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
        let router = names.zip(&mut weights).find(|(buffer, _)| buffer.name == "router").unwrap().1;
        let identity: Vec<f32> = (0..EXPERTS * EXPERTS).map(|i| if i % (EXPERTS + 1) == 0 { 1.0 } else { 0.0 }).collect();
        *router = Tensor::from_f32(DType::F32, vec![EXPERTS, EXPERTS], &identity).unwrap();
        Layer { spec, manifest, weights }
    }

    /// What the interpreter makes of these logits, and what is said of a run that routed them so: each pick, and whether it
    /// was kept.
    fn judged(&self, logits: &[[f32; 4]], picks: &[[(i32, bool); 2]]) -> (Reference, Reference, Vec<Apart>) {
        let dims = Dims::tokens(logits.len() as u64);
        let x = Tensor::from_f32(DType::F32, vec![dims.tokens, EXPERTS], logits.as_flattened()).unwrap();
        let inputs = [x];
        let plain = reference(import(&self.spec, Entry::Layer).unwrap(), &self.manifest, &self.weights, &inputs, dims).unwrap();
        let integers = |of: &dyn Fn(&(i32, bool)) -> i32| {
            let bytes = picks.as_flattened().iter().flat_map(|pair| of(pair).to_le_bytes()).collect();
            Tensor::new(DType::I32, vec![dims.tokens, 2], bytes).unwrap()
        };
        // Only whether a pair has a row counts here.
        let (experts, rows) = (integers(&|(expert, _)| *expert), integers(&|(_, kept)| i32::from(*kept) - 1));
        let observed = vec![("route.experts".to_string(), experts), ("route.rows".to_string(), rows)];
        let run = Run { outputs: Vec::new(), observed, elapsed: Duration::ZERO, dims };
        let buffers = |role: Role| self.manifest.buffers.iter().filter(move |buffer| buffer.role == role);
        let named = buffers(Role::Weight).zip(&self.weights).chain(buffers(Role::Input).zip(&inputs));
        let tensors: BTreeMap<&str, &Tensor> = named.map(|(buffer, tensor)| (buffer.name.as_str(), tensor)).collect();
        let (seen, apart) = judged(&Given { spec: &self.spec, entry: Entry::Layer, tensors, dims }, &run, plain.clone()).unwrap();
        (plain, seen, apart)
    }
}

fn kept(reference: &Reference) -> Vec<bool> {
    reference.rows.iter().map(Option::is_some).collect()
}

/// Token 1 prefers expert 2 to 1 by less than f32 can tell.
const CHOICES: [[f32; 4]; 4] = [[0.0, 2.0, 1.0, -1.0], [2.0, 1.0, 1.0 + ULP, 0.0], [-1.0, 0.0, 2.0, 1.0], [-1.0, 1.0, 0.0, 2.0]];

/// In f64 token 1 comes second too late to expert 2, and token 3 has the second place of expert 1. Once token 1 picks expert 1 it
/// has that place: what token 3 loses follows.
#[test]
fn drops_that_follow_from_a_near_tie_are_none_of_their_own() {
    let layer = Layer::of(2, "choice_major");
    let here = [[(1, true), (2, true)], [(0, true), (1, true)], [(2, true), (3, true)], [(3, true), (1, false)]];
    let (plain, seen, apart) = layer.judged(&CHOICES, &here);
    assert_eq!(kept(&plain), [true, true, true, false, true, true, true, true]);
    assert_eq!(kept(&seen), here.as_flattened().iter().map(|(_, kept)| *kept).collect::<Vec<_>>());
    assert_eq!(seen.experts, [1, 2, 0, 1, 2, 3, 3, 1]);
    let [pick] = &apart[..] else { panic!("{apart:?}") };
    assert_eq!(pick.decision, Decision::Pick { token: 1, here: vec![0, 1], there: vec![0, 2] });
    // softmax(2, 1, 1, 0) is 0.197 at the second, and moves by its share of the distance.
    assert!(pick.is_near_tie() && (pick.margin / (0.197 * f64::from(ULP)) - 1.0).abs() < 0.01, "{pick}");
    // A token whose picks and drops are the same has the same result, to the last bit: no score was moved.
    let row = |reference: &Reference, token: usize| reference.output[token * 4..][..4].to_vec();
    assert!([0, 2].into_iter().all(|token| row(&seen, token) == row(&plain, token)));
    assert_ne!(row(&seen, 3), row(&plain, 3));

    // Beside it a drop too many, and one too few, are what they are.
    for (token, choice, expert) in [(2, 1, 3), (3, 1, 1)] {
        let mut wrong = here;
        wrong[token][choice].1 ^= true;
        let (_, _, apart) = layer.judged(&CHOICES, &wrong);
        let [tie, drop] = &apart[..] else { panic!("{apart:?}") };
        let (mine, theirs) = if wrong[token][choice].1 { (vec![token], vec![]) } else { (vec![], vec![token]) };
        assert!(tie.is_near_tie() && !drop.is_near_tie(), "{apart:?}");
        assert_eq!(drop.decision, Decision::Drop { expert, here: mine, there: theirs });
        assert!(drop.to_string().ends_with("no score decides that"), "{drop}");
    }
    // So is a pick that is a unit away, and an order of picks that lets a second choice come first.
    for list in [[(1, true), (0, true)], [(2, true), (1, true)]] {
        let mut wrong = here;
        wrong[0] = list;
        let (_, _, apart) = layer.judged(&CHOICES, &wrong);
        let far: Vec<&Apart> = apart.iter().filter(|apart| !apart.is_near_tie()).collect();
        let [Apart { decision: Decision::Pick { token: 0, .. }, margin, told }] = &far[..] else { panic!("{apart:?}") };
        assert!(margin.is_finite() && *margin > 1e4 * told, "{apart:?}");
    }
}

/// Two picks in another order: by a rounding, the place in the queue is another one.
#[test]
fn an_order_by_a_near_tie() {
    let layer = Layer::of(1, "choice_major");
    // Token 0 picks expert 2, then 1, by a rounding; token 1 picks expert 1, then 3.
    let logits = [[-1.0, 1.0, 1.0 + ULP, 0.0], [0.0, 2.0, -1.0, 1.0]];
    // As f64 has it each has its first choice; the other way round token 0 is before token 1 at expert 1.
    let here = [[(1, true), (2, true)], [(1, false), (3, true)]];
    let (plain, seen, apart) = layer.judged(&logits, &here);
    assert_eq!((plain.experts.as_slice(), kept(&plain)), (&[2, 1, 1, 3][..], vec![true, false, true, true]));
    assert_eq!((seen.experts.as_slice(), kept(&seen)), (&[1, 2, 1, 3][..], vec![true, true, false, true]));
    let [order] = &apart[..] else { panic!("{apart:?}") };
    assert_eq!(order.decision, Decision::Pick { token: 0, here: vec![1, 2], there: vec![2, 1] });
    assert!(order.is_near_tie() && order.margin > 0.0 && order.margin < f64::from(ULP), "{order}");
}

/// Best scores of tokens 0 and 1 are a rounding apart, that of token 2 is less.
#[test]
fn drops_of_batch_prioritized_are_judged_by_place_and_best_score() {
    let layer = Layer::of(1, "batch_prioritized");
    let logits = [[0.0, 2.0, 1.0, -1.0], [-1.0, 2.0 + 2.0 * ULP, 0.0, 1.0], [-1.0, 0.5, 1.0, -2.0]];
    let (plain, _, apart) = layer.judged(&logits, &[[(1, false), (2, false)], [(1, true), (3, true)], [(2, true), (1, false)]]);
    assert_eq!(kept(&plain), [false, false, true, true, true, false]);
    assert_eq!(apart, []);
    // The two change places at expert 1.
    let (_, seen, apart) = layer.judged(&logits, &[[(1, true), (2, false)], [(1, false), (3, true)], [(2, true), (1, false)]]);
    assert_eq!(kept(&seen), [true, false, false, true, true, false]);
    let [drop] = &apart[..] else { panic!("{apart:?}") };
    assert_eq!(drop.decision, Decision::Drop { expert: 1, here: vec![0], there: vec![1] });
    assert!(drop.is_near_tie() && drop.margin > 0.0, "{drop}");
    // A second choice never comes before a first one, however good its token's best score is.
    let (_, _, apart) = layer.judged(&logits, &[[(1, false), (2, true)], [(1, true), (3, true)], [(2, false), (1, false)]]);
    let [drop] = &apart[..] else { panic!("{apart:?}") };
    assert_eq!(drop.decision, Decision::Drop { expert: 2, here: vec![0], there: vec![2] });
    assert!(!drop.is_near_tie(), "{drop}");
    // A better token is not passed over for a worse one.
    let worse = [[0.0, 2.0, 1.0, -1.0], [-1.0, 1.5, 0.0, 1.0]];
    let (_, _, apart) = layer.judged(&worse, &[[(1, false), (2, true)], [(1, true), (3, true)]]);
    let [drop] = &apart[..] else { panic!("{apart:?}") };
    assert!(!drop.is_near_tie() && drop.margin > 0.1 && drop.margin < 0.3, "{drop}");
}

/// Weights sigmoid(1) = 0.731 and sigmoid(1.3) = 0.786 of two picks, renormalised; and twice the first, a rounding apart.
#[test]
fn drops_by_score_are_judged_by_the_weight() {
    let layer = Layer::of(1, "score");
    let here = [[(1, true), (2, true)], [(1, false), (3, true)]];
    let (_, _, apart) = layer.judged(&[[0.0, 2.0, 1.0, -1.0], [-1.0, 1.8, -2.0, 0.5]], &here);
    let [drop] = &apart[..] else { panic!("{apart:?}") };
    assert_eq!(drop.decision, Decision::Drop { expert: 1, here: vec![0], there: vec![1] });
    assert!(!drop.is_near_tie() && (drop.margin - 0.0548).abs() < 1e-3, "{drop}");
    let (_, seen, apart) = layer.judged(&[[0.0, 2.0, 1.0, -1.0], [-1.0, 2.0 + 2.0 * ULP, 0.0, 1.0]], &here);
    let [drop] = &apart[..] else { panic!("{apart:?}") };
    // sigmoid'(1) = 0.197.
    assert!(drop.is_near_tie() && (drop.margin / (0.197 * 2.0 * f64::from(ULP)) - 1.0).abs() < 0.01, "{drop}");
    assert_eq!(kept(&seen), [true, true, false, true]);
}
