//! What only training needs, on the host's kernels and on the emulated PTX: the bias that follows the load, noise on what
//! the router sees, and losses by their formulas in f64.

use std::sync::Arc;

use moec::diagnostics::Source;
use moec::emulate::options;
use moec::import::{Entry, import};
use moec::pipeline::{self, this_host};
use moec::reference::reference;
use moec::{random, spec};
use moec_runtime::emulator::{self, Emulator, Sample};
use moec_runtime::package::{DType, Dims, Role};
use moec_runtime::{Bound, DeviceKind, Layer, Package, Run, Tensor};
use moec_tests::machine;
use ptx_emulator::Schedule;

const TARGET: &str = "sm_80";
const RATE: f32 = 0.125;
const TOKENS: u64 = 50;
const HIDDEN: u64 = 24;

fn package(training: &str) -> Package {
    let text = format!(
        "[moe]\nhidden = {HIDDEN}\nexperts = 10\n[router]\ntop_k = 3\nscore = \"sigmoid\"\ncorrection_on = \"score\"\n\
         [capacity]\ntokens = 12\n[expert]\nintermediate = 16\n[numerics]\ndtype = \"f32\"\n[training]\n{training}\n"
    );
    let spec = spec::parse(&Source { name: "training".into(), text: text.clone() }).expect("a spec");
    let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
    pipeline::compile(&spec, Entry::Layer, &text, &machines, &moec_codegen::Options::default()).expect("a package")
}

/// The layer on the host, and on the emulator that watches it.
fn devices(package: &Package) -> (Layer, Layer, Arc<Emulator>) {
    let host = Layer::load(package, DeviceKind::Host { threads: Some(1) }).expect("a host");
    let options = options(TARGET, (Schedule::Adversarial, 5));
    let (opened, emulator) = emulator::open(package, Some(TARGET), options, Sample::All).expect("an emulator");
    (host, Layer::on(package, opened).expect("a target"), emulator)
}

fn bound(layer: &Layer) -> Bound {
    layer.bind(random::weights(layer.manifest(), 3).expect("weights")).expect("a bound layer")
}

fn tokens() -> Tensor {
    random::tokens(DType::F32, TOKENS, HIDDEN, 1).expect("tokens")
}

fn counts(run: &Run, name: &str) -> Vec<i32> {
    run.tensor(name).expect("an observed buffer").to_i32().expect("counts")
}

/// The formula of DeepSeek-V3, in f32 as the kernel.
fn moved(bias: &[f64], load: &[i32]) -> Vec<f64> {
    let mean = load.iter().map(|n| f64::from(*n)).sum::<f64>() / load.len() as f64;
    let step = |load: &i32| match mean.partial_cmp(&f64::from(*load)) {
        Some(std::cmp::Ordering::Greater) => RATE,
        Some(std::cmp::Ordering::Less) => -RATE,
        Some(std::cmp::Ordering::Equal) | None => 0.0,
    };
    bias.iter().zip(load).map(|(bias, load)| f64::from(*bias as f32 + step(load))).collect()
}

#[test]
fn the_bias_follows_the_load() {
    let (host, emulated, emulator) = devices(&package(&format!("bias_update_rate = {RATE}")));
    for layer in [host, emulated] {
        let layer = bound(&layer);
        let bias = || layer.weight("correction_bias").expect("a weight").to_f64();
        let before = bias();
        let mut batch = layer.batch(&[tokens()], Dims::tokens(TOKENS)).expect("memory");
        let elapsed = layer.launch(&mut batch).expect("a run");
        assert_eq!(bias(), before, "a run moves nothing");
        let load = counts(&layer.collect(&batch, elapsed).expect("a run"), "stats.load");
        let dropped: i32 = load.iter().map(|load| (load - 12).max(0)).sum();
        assert!(dropped > 0 && load.iter().sum::<i32>() == 150, "before anything is dropped: {load:?}");
        layer.update(&mut batch).expect("an update");
        let once = bias();
        assert_eq!(once, moved(&before, &load));
        // The sum of several batches is the caller's to make.
        let sum = [9, 9, 9, 8, 10, 9, 0, 18, 9, 9];
        let bytes = sum.iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
        let tensor = Tensor::new(DType::I32, vec![10], bytes).expect("a tensor");
        layer.overwrite(&mut batch, "stats.load", &tensor).expect("a place for it");
        layer.update(&mut batch).expect("an update");
        assert_eq!(bias(), moved(&once, &sum));
        let balanced = layer.run(&[tokens()], Dims::tokens(TOKENS)).expect("a run");
        assert_ne!(counts(&balanced, "stats.load"), load, "the next run routes by it");
        let none = layer.overwrite(&mut batch, "stats.lead", &tensor).expect_err("no such place");
        assert!(none.to_string().contains("`stats.load`"), "{none}");
        assert_eq!(layer.weight("bias").expect_err("no such weight").code(), "RT0313");
    }
    let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn without_a_rate_nothing_moves() {
    let (host, ..) = devices(&package(""));
    let layer = bound(&host);
    assert!(layer.layer().target().update.is_empty());
    let before = layer.weight("correction_bias").expect("a weight");
    let mut batch = layer.batch(&[tokens()], Dims::tokens(TOKENS)).expect("memory");
    layer.launch(&mut batch).expect("a run");
    layer.update(&mut batch).expect("nothing to do");
    assert_eq!(layer.weight("correction_bias").expect("a weight"), before);
}

#[test]
fn noise_is_what_the_seed_says() {
    let seed = |low: i32, high: i32| {
        Tensor::new(DType::I32, vec![2], [low, high].iter().flat_map(|n| n.to_le_bytes()).collect()).expect("a seed")
    };
    let runs = |training: &str, seeds: &[Tensor]| -> Vec<Run> {
        let (host, emulated, emulator) = devices(&package(training));
        let run =
            |layer: &Layer, seed: &Tensor| bound(layer).run(&[tokens(), seed.clone()], Dims::tokens(TOKENS)).expect("a run");
        let on_host: Vec<Run> = seeds.iter().map(|seed| run(&host, seed)).collect();
        let on_gpu = run(&emulated, &seeds[0]);
        let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(counts(&on_gpu, "route.experts"), counts(&on_host[0], "route.experts"));
        on_host
    };
    let [first, again, other, far] = &runs("jitter = 0.5", &[seed(1, 2), seed(1, 2), seed(2, 2), seed(1, 3)])[..] else {
        panic!("four runs")
    };
    assert_eq!(first.outputs, again.outputs);
    for other in [other, far] {
        assert_ne!(counts(first, "route.experts"), counts(other, "route.experts"));
    }
    // The least noise picks as no noise does: the experts see tokens without any.
    let (host, ..) = devices(&package(""));
    let plain = bound(&host).run(&[tokens()], Dims::tokens(TOKENS)).expect("a run");
    let [least] = &runs("jitter = 1e-7", &[seed(1, 2)])[..] else { panic!("a run") };
    assert_eq!(counts(least, "route.experts"), counts(&plain, "route.experts"));
    let (a, b) = (least.outputs[0].1.to_f64(), plain.outputs[0].1.to_f64());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
}

/// What the formulas are made of: `[T, E]` scores, the selection bias, and the picks of each token, by hand.
struct Routed {
    scores: Vec<Vec<f64>>,
    /// Shares of the row's sum: `s / sum s` for sigmoid, as Megatron-LM has it; softmax already sums to one.
    shares: Vec<Vec<f64>>,
    picks: Vec<Vec<usize>>,
}

const EXPERTS: usize = 12;
const PICKS: usize = 3;

/// The `n` largest, the lower index first.
fn largest(numbers: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*b].total_cmp(&numbers[*a]));
    order.truncate(n);
    order
}

/// Of `[T, H]` tokens: sigmoid or softmax scores; of four groups of three experts the two with the largest sums of two biased
/// scores, and in these the three largest biased scores.
fn routed(x: &[f64], router: &[f64], bias: &[f64], sigmoid: bool, grouped: bool) -> Routed {
    let mut all = Routed { scores: vec![], shares: vec![], picks: vec![] };
    for row in x.chunks(HIDDEN as usize) {
        let logit = |w: &[f64]| row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        let of = |l: f64| if sigmoid { 1.0 / (1.0 + (-l).exp()) } else { l.exp() };
        let scores: Vec<f64> = router.chunks(HIDDEN as usize).map(|w| of(logit(w))).collect();
        let sum: f64 = scores.iter().sum();
        let shares: Vec<f64> = scores.iter().map(|s| s / sum).collect();
        let scores = if sigmoid { scores } else { shares.clone() };
        let mut keys: Vec<f64> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
        if grouped {
            let worth = |group: &[f64]| largest(group, 2).iter().map(|e| group[*e]).sum::<f64>();
            let best = largest(&keys.chunks(3).map(worth).collect::<Vec<f64>>(), 2);
            (0..EXPERTS).filter(|e| !best.contains(&(e / 3))).for_each(|e| keys[e] = f64::NEG_INFINITY);
        }
        all.picks.push(largest(&keys, PICKS));
        all.scores.push(scores);
        all.shares.push(shares);
    }
    all
}

/// `E sum_e f_e P_e`: f the share of the tokens' picks that are of e, P the mean share of its probability.
fn balance(shares: &[Vec<f64>], picks: &[Vec<usize>]) -> f64 {
    let tokens = shares.len() as f64;
    let of_expert = |e: usize| {
        let f = picks.iter().flatten().filter(|pick| **pick == e).count() as f64 / tokens;
        f * shares.iter().map(|p| p[e]).sum::<f64>() / tokens
    };
    EXPERTS as f64 * (0..EXPERTS).map(of_expert).sum::<f64>()
}

/// The mean of the losses of sequences of `row` tokens.
fn by_row(shares: &[Vec<f64>], picks: &[Vec<usize>], row: usize) -> f64 {
    let losses: Vec<f64> = shares.chunks(row).zip(picks.chunks(row)).map(|(p, picks)| balance(p, picks)).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// DeepSeek-V3 counts the highest scores of all experts without the bias, and without groups (arXiv 2412.19437, equation 18),
/// and so does Megatron-LM in each of its losses (`compute_routing_scores_for_aux_loss`); mesh-tensorflow, flaxformer and Hugging Face Switch have a loss of
/// each row of a batch, and take the mean.
#[test]
fn losses_by_their_formulas() {
    const ROW: usize = 10;
    const COEFFICIENT: f64 = 0.5;
    let corrected = "score = \"sigmoid\"\ncorrection_on = \"score\"";
    let grouped = "score = \"sigmoid\"\ncorrection_on = \"score\"\ngroups = 4\ntopk_groups = 2\nrenorm = \"sum\"";
    let groups = "score = \"sigmoid\"\ngroups = 4\ntopk_groups = 2\ngroup_score = \"top2_sum\"\ngroup_mask = \"-inf\"";
    for (router, loss, unbiased) in [
        (corrected, "deepseek_sequence", true),
        (grouped, "deepseek_sequence", true),
        ("correction_on = \"score\"", "deepseek_sequence", true),
        ("score = \"sigmoid\"", "deepseek_sequence", false),
        ("", "switch\"\naux_group = \"sequence", false),
        ("", "gshard\"\naux_group = \"sequence", false),
        (groups, "deepseek_sequence", false),
        (corrected, "megatron\"\naux_group = \"sequence", true),
        (corrected, "megatron", true),
        (grouped, "megatron", true),
        (groups, "megatron", true),
        ("", "megatron", false),
        (corrected, "deepspeed_topk", false),
        ("", "gshard\"\naux_group = \"all", false),
    ] {
        let text = format!(
            "[moe]\nhidden = {HIDDEN}\nexperts = {EXPERTS}\n[router]\ntop_k = {PICKS}\n{router}\n[expert]\nintermediate = 16\n\
             [numerics]\ndtype = \"f32\"\n[training]\naux_loss = \"{loss}\"\naux_coef = {COEFFICIENT}\n"
        );
        let spec = spec::parse(&Source { name: "losses".into(), text: text.clone() }).expect("a spec");
        let machines = [machine(TARGET), this_host().expect("an x86-64 CPU of level v3")];
        let package =
            pipeline::compile(&spec, Entry::Layer, &text, &machines, &moec_codegen::Options::default()).expect("a package");
        let (host, emulated, emulator) = devices(&package);
        let weights = random::weights(host.manifest(), 3).expect("weights");
        let named = || host.manifest().buffers.iter().filter(|buffer| buffer.role == Role::Weight);
        let weight = |name: &str| named().position(|buffer| buffer.name == name).map(|at| weights[at].to_f64());
        let (matrix, bias) = (weight("router").expect("a router"), weight("correction_bias"));
        let bias = bias.unwrap_or_else(|| vec![0.0; EXPERTS]);
        let x = tokens().to_f64();
        let routed = routed(&x, &matrix, &bias, router.contains("sigmoid"), router.contains("groups"));
        let counted: Vec<Vec<usize>> = match unbiased {
            true => routed.scores.iter().map(|row| largest(row, PICKS)).collect(),
            false => routed.picks.clone(),
        };
        if unbiased {
            assert_ne!(counted, routed.picks, "the bias or groups change a pick, or nothing is tested");
        }
        let first: Vec<Vec<usize>> = counted.iter().map(|picks| picks[..1].to_vec()).collect();
        let expected = COEFFICIENT
            * match loss {
                "deepseek_sequence" | "megatron\"\naux_group = \"sequence" => {
                    by_row(&routed.shares, &counted, ROW) / PICKS as f64
                }
                "switch\"\naux_group = \"sequence" => by_row(&routed.shares, &counted, ROW),
                "gshard\"\naux_group = \"sequence" => by_row(&routed.shares, &first, ROW),
                "megatron" | "deepspeed_topk" => balance(&routed.shares, &counted) / PICKS as f64,
                _ => balance(&routed.shares, &first),
            };
        let dims = Dims { tokens: TOKENS, sequence_tokens: ROW as u64 };
        let graph = reference(import(&spec, Entry::Layer).unwrap(), host.manifest(), &weights, &[tokens()], dims)
            .expect("an interpretation");
        let interpreted = graph.penalty.and_then(|penalty| penalty.balance).expect("a balance loss");
        assert!((interpreted - expected).abs() < 1e-9, "{loss}: {interpreted}, not {expected}");
        for layer in [host, emulated] {
            let run = layer.bind(weights.clone()).expect("bound").run(&[tokens()], dims).expect("a run");
            let is = run.tensor("stats.aux_loss").expect("a loss").to_f64()[0];
            assert!((is - expected).abs() < 2e-6 * expected, "{router} {loss}: {is}, not {expected}");
            let picks: Vec<usize> = counts(&run, "route.experts").iter().map(|e| *e as usize).collect();
            assert_eq!(picks, routed.picks.concat(), "{router} {loss}: what is counted changes no pick");
            let others = run.tensor("route.counted").map(|_| counts(&run, "route.counted"));
            assert_eq!(others.is_some(), unbiased, "{router} {loss}");
            if let Some(others) = others {
                assert!(others.iter().map(|e| *e as usize).eq(counted.concat()), "{router} {loss}");
            }
        }
        let findings: Vec<_> = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings).collect();
        assert!(findings.is_empty(), "{findings:?}");
    }
}
