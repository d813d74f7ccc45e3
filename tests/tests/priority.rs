//! The order in which `[capacity] priority` serves tokens, by hand and by a model that is written from the definitions alone:
//! in the graph's interpreter, after rewriting, by the host's kernels and by emulated PTX.
//!
//! * `batch_prioritized`: tokens by the largest of their picks' scores among all columns, before any selection,
//!   renormalisation or scale; all first choices, then all second ones (V-MoE, arXiv 2106.05974, section 4.1; the
//!   `importance_scores` of Tutel).
//! * `score`: pairs by their weight as it multiplies the expert, renormalised and scaled (`routing_probs` of
//!   `apply_router_token_dropping` in Megatron-LM).

use moec::diagnostics::Source;
use moec::emulate::options;
use moec::import::Entry;
use moec::pipeline::{Lowered, build, this_host};
use moec::reference::reference;
use moec::spec::{self, Spec};
use moec::{package, random};
use moec_codegen::Options;
use moec_runtime::emulator::{self, Sample};
use moec_runtime::package::{DType, Dims, Role};
use moec_runtime::{DeviceKind, Layer, Tensor};
use moec_tests::{machine, trials};
use ptx_emulator::Schedule;

const TARGET: &str = "sm_80";

/// A layer for the emulator and for this CPU, and its graphs.
struct Built {
    name: String,
    spec: Spec,
    lowered: Lowered,
    host: Layer,
    emulated: Layer,
}

fn built(name: &str, text: &str) -> Built {
    let spec = spec::parse(&Source { name: name.into(), text: text.into() }).unwrap_or_else(|wrong| panic!("{wrong:?}\n{text}"));
    let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
    let mut stages = build(&spec, Entry::Layer, &machines, &Options::default()).expect("kernels");
    let package = package::package(&spec, Entry::Layer, text, &stages).expect("a package");
    let host = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).expect("a host");
    let of_emulator = options(TARGET, (Schedule::Adversarial, 5));
    let (opened, _) = emulator::open(&package, Some(TARGET), of_emulator, Sample::All).expect("an emulator");
    let emulated = Layer::on(&package, opened).expect("a target");
    Built { name: name.into(), spec, lowered: stages.swap_remove(0).1, host, emulated }
}

impl Built {
    /// Whether each pair `[T, K]` is kept: the same on all four ways.
    fn kept(&self, weights: &[Tensor], x: &Tensor, dims: Dims) -> Vec<bool> {
        let inputs = std::slice::from_ref(x);
        let of_graph = |graph: &moec_ir::graph::Typed| -> Vec<bool> {
            let reference = reference(graph.graph().clone(), self.host.manifest(), weights, inputs, dims);
            reference.expect("an interpretation").rows.iter().map(Option::is_some).collect()
        };
        let of_kernels = |layer: &Layer| -> Vec<bool> {
            let run = layer.bind(weights.to_vec()).expect("bound").run(inputs, dims).expect("a run");
            run.tensor("route.rows").expect("rows").to_i32().expect("i32").iter().map(|row| *row >= 0).collect()
        };
        let kept = of_graph(&self.lowered.graph);
        let ways = [of_graph(self.lowered.rewritten.at(dims.tokens)), of_kernels(&self.host), of_kernels(&self.emulated)];
        for (way, is) in ["the rewritten graph", "the host", "the emulator"].into_iter().zip(ways) {
            assert_eq!(is, kept, "{}: {way} serves in another order than the graph", self.name);
        }
        kept
    }

    /// A weight of this name as f64, and its place.
    fn weight(&self, weights: &[Tensor], name: &str) -> (usize, Vec<f64>) {
        let mut buffers = self.host.manifest().buffers.iter().filter(|buffer| buffer.role == Role::Weight);
        let at = buffers.position(|buffer| buffer.name == name).unwrap_or_else(|| panic!("no {name}"));
        (at, weights[at].to_f64())
    }
}

/// Of 16 experts the picks of token 0 have the probabilities 0.5 and 0.3, those of token 1 0.45 and 0.05; both pick experts
/// 0 and 1, which have room for one. By probability token 0 comes first (0.5 > 0.45), by what `renorm = "sum"` makes of it
/// token 1 would (0.625 < 0.9).
#[test]
fn the_best_score_by_hand() {
    let spread = |picks: [f64; 2]| {
        let rest = (1.0 - picks[0] - picks[1]) / 14.0;
        [picks.to_vec(), vec![rest; 14]].concat()
    };
    // A router that is the identity: the logits are the tokens, and softmax of logarithms gives the probabilities back.
    let x: Vec<f32> = [spread([0.5, 0.3]), spread([0.45, 0.05])].concat().iter().map(|p| p.ln() as f32).collect();
    let identity: Vec<f32> = (0..256).map(|i| if i % 17 == 0 { 1.0 } else { 0.0 }).collect();
    let first = [true, true, false, false];
    // Where weights decide, expert 0 takes the heavier of 0.625 and 0.9, expert 1 of 0.375 and 0.1; of the probabilities
    // themselves 0.5 and 0.45, 0.3 and 0.05.
    let by_weight = [false, true, true, false];
    for (priority, router, kept) in [
        ("batch_prioritized", "renorm = \"sum\"", first),
        ("batch_prioritized", "renorm = \"p\"\nrenorm_p = 2.0", first),
        ("batch_prioritized", "order = \"topk_score\"", first),
        ("batch_prioritized", "renorm = \"none\"\nscale = 2.5", first),
        ("score", "renorm = \"sum\"", by_weight),
        ("score", "order = \"topk_score\"", by_weight),
        ("score", "renorm = \"none\"", first),
    ] {
        let text = layer_text(16, 16, 2, router, &format!("tokens = 1\npriority = \"{priority}\""), "");
        let built = built(&format!("{priority}, {router}"), &text);
        let mut weights = random::weights(built.host.manifest(), 1).expect("weights");
        let (at, _) = built.weight(&weights, "router");
        weights[at] = Tensor::from_f32(DType::F32, vec![16, 16], &identity).expect("a router");
        let x = Tensor::from_f32(DType::F32, vec![2, 16], &x).expect("tokens");
        assert_eq!(built.kept(&weights, &x, Dims::tokens(2)), kept, "{}", built.name);
    }
}

/// One expert with one place, one pick: renormalised, or normalised together with nothing else, every weight is 1. The second
/// token's score is the higher one.
#[test]
fn a_single_pick_is_served_by_its_score() {
    let shared = "[shared]\nintermediate = 4\ncount = 1";
    for (router, rest, kept) in [
        ("score = \"sigmoid\"\nrenorm = \"sum\"", "", [false, true]),
        ("score = \"sigmoid\"\nrenorm = \"p\"\nrenorm_p = 3.0", "", [false, true]),
        ("score = \"sigmoid\"\njoint_shared = 1", shared, [false, true]),
        ("score = \"identity\"\nrenorm = \"sum\"", "", [false, true]),
        // The only expert's probability is 1: a tie, to the earlier token.
        ("renorm = \"sum\"", "", [true, false]),
    ] {
        let text = layer_text(1, 1, 1, router, "tokens = 1\npriority = \"batch_prioritized\"", rest);
        let built = built(router, &text);
        let mut weights = random::weights(built.host.manifest(), 1).expect("weights");
        let (at, router) = built.weight(&weights, "router");
        weights[at] = Tensor::from_f32(DType::F32, vec![router.len() as u64, 1], &vec![1.0; router.len()]).expect("a router");
        let x = Tensor::from_f32(DType::F32, vec![2, 1], &[0.5, 2.0]).expect("tokens");
        let is = built.kept(&weights, &x, Dims::tokens(2));
        // A joint pick never has a row.
        let routed: Vec<bool> = is.chunks(is.len() / 2).map(|picks| picks[0]).collect();
        assert_eq!(routed, kept, "{}", built.name);
    }
}

/// The router of a layer that the model below knows.
#[derive(Clone, Copy)]
struct Router {
    keys: &'static str,
    top_k: usize,
    joint: usize,
    sigmoid: bool,
    /// Scores of the selected logits alone.
    scores_selected: bool,
    /// Whether a bias takes part in the selection, of scores or of logits.
    corrected: Option<bool>,
    /// The p of the norm that weights are divided by.
    norm: Option<f64>,
    scale: f64,
    scaled_by_expert: bool,
}

const PLAIN: Router = Router {
    keys: "",
    top_k: 2,
    joint: 0,
    sigmoid: false,
    scores_selected: false,
    corrected: None,
    norm: None,
    scale: 1.0,
    scaled_by_expert: false,
};

const ROUTERS: [Router; 12] = [
    PLAIN,
    Router { keys: "renorm = \"sum\"", norm: Some(1.0), ..PLAIN },
    Router { keys: "renorm = \"p\"\nrenorm_p = 3.0", norm: Some(3.0), top_k: 3, ..PLAIN },
    Router { keys: "renorm = \"sum\"", norm: Some(1.0), top_k: 1, ..PLAIN },
    Router { keys: "score = \"sigmoid\"\nrenorm = \"sum\"\nscale = 2.5", norm: Some(1.0), scale: 2.5, sigmoid: true, ..PLAIN },
    Router { keys: "order = \"topk_score\"", scores_selected: true, top_k: 3, ..PLAIN },
    Router { keys: "order = \"topk_score\"", scores_selected: true, top_k: 1, ..PLAIN },
    Router { keys: "joint_shared = 2", joint: 2, norm: Some(1.0), ..PLAIN },
    Router { keys: "score = \"sigmoid\"\njoint_shared = 2", joint: 2, norm: Some(1.0), sigmoid: true, top_k: 1, ..PLAIN },
    Router {
        keys: "score = \"sigmoid\"\ncorrection_on = \"score\"\nrenorm = \"sum\"",
        corrected: Some(true),
        norm: Some(1.0),
        sigmoid: true,
        ..PLAIN
    },
    Router { keys: "correction_on = \"logit\"\norder = \"topk_score\"", corrected: Some(false), scores_selected: true, ..PLAIN },
    Router { keys: "renorm = \"sum\"\napply = \"input\"", norm: Some(1.0), scaled_by_expert: true, ..PLAIN },
];

const EXPERTS: usize = 6;
const HIDDEN: usize = 5;
const TOKENS: usize = 13;
const ROOM: usize = 2;

/// The scores of logits.
fn scores(sigmoid: bool, logits: &[f64]) -> Vec<f64> {
    if sigmoid {
        return logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect();
    }
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / sum).collect()
}

/// Positions by number, largest first, and how near two of different places are that decide something.
fn by_size(numbers: &[f64]) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*b].total_cmp(&numbers[*a]));
    let gap = order.windows(2).map(|pair| numbers[pair[0]] - numbers[pair[1]]).fold(f64::INFINITY, f64::min);
    (order, gap)
}

impl Router {
    /// Which pairs are kept, and by how little something was decided. `logits` are of all columns.
    fn model(&self, by_best: bool, logits: &[Vec<f64>], bias: &[f64], factors: &[f64]) -> (Vec<bool>, f64) {
        let (k, all) = (self.top_k, self.top_k + self.joint);
        let (mut nearest, mut experts, mut weights, mut best) = (f64::INFINITY, Vec::new(), Vec::new(), Vec::new());
        for row in logits {
            let of_all = scores(self.sigmoid, row);
            let selects = if self.scores_selected { row } else { &of_all };
            let corrected = |e: usize| match self.corrected {
                None => selects[e],
                Some(true) => of_all[e] + bias[e],
                Some(false) => row[e] + bias[e],
            };
            let (order, gap) = by_size(&(0..EXPERTS).map(corrected).collect::<Vec<f64>>());
            let picks = &order[..k];
            best.push(picks.iter().map(|e| of_all[*e]).fold(f64::MIN, f64::max));
            // The shared columns, after all of them, are picks of every token.
            let weighed: Vec<usize> = picks.iter().copied().chain(EXPERTS..EXPERTS + self.joint).collect();
            let picked: Vec<f64> = weighed.iter().map(|e| row[*e]).collect();
            let mut w =
                if self.scores_selected { scores(self.sigmoid, &picked) } else { weighed.iter().map(|e| of_all[*e]).collect() };
            if let Some(p) = self.norm {
                let norm = w.iter().map(|w| w.powf(p)).sum::<f64>().powf(1.0 / p);
                w.iter_mut().for_each(|w| *w /= norm);
            }
            w.iter_mut().for_each(|w| *w *= self.scale);
            if self.scaled_by_expert {
                w.iter_mut().zip(&weighed).for_each(|(w, e)| *w *= factors[*e]);
            }
            nearest = nearest.min(gap);
            experts.extend(weighed);
            weights.extend(w);
        }
        let tokens = logits.len();
        let pairs: Vec<usize> = if by_best {
            let (order, gap) = by_size(&best);
            nearest = nearest.min(gap);
            (0..all).flat_map(|j| order.iter().map(move |t| t * all + j)).collect()
        } else {
            let of = |e: usize| -> Vec<f64> {
                (0..tokens * all).filter(|pair| experts[*pair] == e).map(|pair| weights[pair]).collect()
            };
            let gaps = (0..EXPERTS).map(|e| by_size(&of(e)).1);
            nearest = gaps.fold(nearest, f64::min);
            by_size(&weights).0
        };
        let mut room = [ROOM; EXPERTS];
        let mut kept = vec![false; tokens * all];
        for pair in pairs.into_iter().filter(|pair| experts[*pair] < EXPERTS) {
            let room = &mut room[experts[pair]];
            (kept[pair], *room) = (*room > 0, room.saturating_sub(1));
        }
        (kept, nearest)
    }
}

/// `[T, H] x [R, H]^T`.
fn product(x: &[f64], router: &[f64]) -> Vec<Vec<f64>> {
    let row = |x: &[f64]| router.chunks(HIDDEN).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect();
    x.chunks(HIDDEN).map(row).collect()
}

fn layer_text(hidden: usize, experts: usize, top_k: usize, router: &str, capacity: &str, rest: &str) -> String {
    format!(
        "[moe]\nname = \"order\"\nhidden = {hidden}\nexperts = {experts}\n[router]\ntop_k = {top_k}\n{router}\n\
         [capacity]\n{capacity}\n[expert]\nintermediate = 4\ngated = false\nactivation = \"relu\"\n{rest}\n\
         [numerics]\ndtype = \"f32\"\n"
    )
}

#[test]
fn random_batches_by_brute_force() {
    // Of each router one batch by day.
    let enough = if std::env::var_os(trials::ALL).is_some() { 3 } else { 1 };
    let mut differs = 0;
    for router in ROUTERS {
        for priority in ["batch_prioritized", "score"] {
            let by_best = priority == "batch_prioritized";
            if !by_best && router.top_k == 1 && router.joint == 0 && (router.norm.is_some() || router.scores_selected) {
                continue; // Every weight is 1: see below.
            }
            let shared = format!("[shared]\nintermediate = 4\ncount = {}", router.joint);
            let scale = "[weights]\nper_expert_scale = \"per_expert_scale\"";
            let rest = [if router.joint > 0 { &shared } else { "" }, if router.scaled_by_expert { scale } else { "" }].join("\n");
            let capacity = format!("tokens = {ROOM}\npriority = \"{priority}\"");
            let text = layer_text(HIDDEN, EXPERTS, router.top_k, router.keys, &capacity, &rest);
            let built = built(&format!("{priority}, {} of {}", router.top_k, router.keys), &text);
            assert_eq!(built.spec.router.top_k as usize, router.top_k);
            let mut checked = 0;
            for seed in 0..12 {
                let weights = random::weights(built.host.manifest(), seed).expect("weights");
                let x = random::tokens(DType::F32, TOKENS as u64, HIDDEN as u64, 40 + seed).expect("tokens");
                let logits = product(&x.to_f64(), &built.weight(&weights, "router").1);
                let bias = router.corrected.map(|_| built.weight(&weights, "correction_bias").1).unwrap_or_default();
                let factors = if router.scaled_by_expert { built.weight(&weights, "per_expert_scale").1 } else { vec![] };
                let (kept, nearest) = router.model(by_best, &logits, &bias, &factors);
                if nearest < 1e-5 {
                    continue; // f32 may decide it the other way.
                }
                assert_eq!(built.kept(&weights, &x, Dims::tokens(TOKENS as u64)), kept, "{}, seed {seed}", built.name);
                differs += usize::from(kept != router.model(!by_best, &logits, &bias, &factors).0);
                checked += 1;
                if checked == enough {
                    break;
                }
            }
            assert_eq!(checked, enough, "{}: batches that f32 can decide", built.name);
        }
    }
    assert!(differs >= 7 * enough, "the two priorities keep other pairs: {differs}");
}

/// Where renormalisation makes every weight 1, `score` can only go by position: the first tokens of each expert.
#[test]
fn equal_weights_go_to_the_earlier_token() {
    for router in ["renorm = \"sum\"", "order = \"topk_score\""] {
        let text = layer_text(HIDDEN, EXPERTS, 1, router, &format!("tokens = {ROOM}\npriority = \"score\""), "");
        let built = built(router, &text);
        let weights = random::weights(built.host.manifest(), 1).expect("weights");
        let x = random::tokens(DType::F32, TOKENS as u64, HIDDEN as u64, 2).expect("tokens");
        let mut room = [ROOM; EXPERTS];
        let first = |row: &Vec<f64>| {
            let room = &mut room[by_size(row).0[0]];
            let is_kept = *room > 0;
            *room = room.saturating_sub(1);
            is_kept
        };
        let logits = product(&x.to_f64(), &built.weight(&weights, "router").1);
        let kept: Vec<bool> = logits.iter().map(first).collect();
        assert_eq!(built.kept(&weights, &x, Dims::tokens(TOKENS as u64)), kept, "{router}");
    }
}
