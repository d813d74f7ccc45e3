//! What a run says about its routing: by the runtime from the kernels' slots, by the C header from the same slots, and by
//! hand in f64 from the picks and probabilities of the graph's interpreter.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice::from_ref;
use std::sync::OnceLock;

use moec::diagnostics::Source;
use moec::import::{Entry, import};
use moec::pipeline::{compile, this_host};
use moec::random;
use moec::reference::{Reference, bound, reference};
use moec::spec::{self, CapacitySize, Mode, RouterDType, Spec, Word};
use moec_codegen::Options;
use moec_runtime::package::{DType, Dims};
use moec_runtime::statistics::{AuxLoss, Counts, Figures};
use moec_runtime::{Checkpoint, DeviceKind, Health, Layer, Run, Statistics, Tensor, weights};
use moec_tests::scaled::{counts_all_tokens, modes};
use moec_tests::{Example, fixtures, skipped};
use tempfile::TempDir;

/// Numbers under their names, so that three ways to them can be compared.
type Named = Vec<(String, f64)>;

fn of_health(name: &str, health: &Health) -> Named {
    let Health { mean, variance, largest, hot, cold } = health;
    let counts = [("hot", hot.len()), ("cold", cold.len())].map(|(what, n)| (format!("{name}.{what}"), n as f64));
    let numbers = [("mean", *mean), ("variance", *variance), ("largest", *largest)];
    numbers.map(|(what, x)| (format!("{name}.{what}"), x)).into_iter().chain(counts).collect()
}

fn named(statistics: &Statistics) -> Named {
    let s = statistics;
    let mut list: Named = vec![
        ("pairs".into(), s.load.iter().sum::<u64>() as f64),
        ("kept".into(), s.kept.iter().sum::<u64>() as f64),
        ("dropped_pairs".into(), s.dropped_pairs as f64),
        ("dropped_tokens".into(), s.dropped_tokens.expect("rows") as f64),
        ("padded_rows".into(), s.padded_rows as f64),
        ("rows_below_capacity".into(), s.rows_below_capacity.unwrap_or(0) as f64),
        ("wasted_share".into(), s.wasted_share()),
    ];
    list.extend(of_health("load", &s.health));
    let p = s.probability.as_ref().expect("probabilities");
    list.extend(of_health("probability", &p.health));
    list.extend([("entropy".into(), p.entropy), ("z_loss".into(), p.z_loss)]);
    let losses = [AuxLoss::Switch, AuxLoss::Gshard, AuxLoss::DeepspeedTopk, AuxLoss::Importance];
    list.extend(losses.map(|loss| (format!("aux_{}", loss.name()), s.aux_loss(loss).expect("a loss"))));
    list.extend(p.importance.iter().enumerate().map(|(e, x)| (format!("importance[{e}]"), *x)));
    list
}

/// The same from the definitions (semantics.md 1c has the losses), one after the other.
fn by_hand(spec: &Spec, dims: Dims, tile_rows: u64, reference: &Reference) -> Named {
    let (tokens, experts, k) = (dims.tokens as usize, spec.experts as usize, spec.router.top_k as usize);
    let t = tokens.max(1) as f64;
    let observation = reference.observation.as_ref().expect("the graph observes");
    let p = |token: usize, e: usize| observation.probability.data[token * experts + e];
    let picks = |token: usize| &reference.experts[token * k..][..k];
    let kept_of = |e: usize| (0..tokens * k).filter(|i| reference.experts[*i] == e && reference.rows[*i].is_some()).count();
    let count = |is: &dyn Fn(usize) -> bool| (0..tokens).filter(|token| is(*token)).count() as f64;
    let load: Vec<f64> = (0..experts).map(|e| reference.experts.iter().filter(|pick| **pick == e).count() as f64).collect();
    let first: Vec<f64> = (0..experts).map(|e| count(&|token| picks(token)[0] == e)).collect();
    let kept: Vec<u64> = (0..experts).map(|e| kept_of(e) as u64).collect();
    let importance: Vec<f64> = (0..experts).map(|e| (0..tokens).map(|token| p(token, e)).sum()).collect();
    let (pairs, stayed) = (load.iter().sum::<f64>(), kept.iter().sum::<u64>());
    let padded: u64 = kept.iter().map(|n| n.div_ceil(tile_rows) * tile_rows - n).sum();
    // Only one mode pads: three tokens an expert from each run of seven.
    let at_capacity = if spec.name == "dropped_by_best_weight" { experts as u64 * 3 * dims.tokens.div_ceil(7) } else { stayed };
    let dropped = count(&|token| reference.rows[token * k..][..k].iter().all(Option::is_none));
    let factor = match spec.capacity.map(|capacity| capacity.size) {
        // C is the factor times T / E, or times the mean load, T K / E.
        Some(CapacitySize::Factor { factor, count_k, .. }) => {
            let of_even = factor.numerator as f64 / factor.denominator as f64;
            // Below the mean it is the usual one.
            Some(if count_k { of_even } else { of_even / k as f64 }).filter(|factor| *factor >= 1.0).unwrap_or(1.25)
        }
        Some(CapacitySize::Tokens(_) | CapacitySize::Fraction { .. }) | None => 1.25,
    };
    let mut list: Named = vec![
        ("pairs".into(), pairs),
        ("kept".into(), stayed as f64),
        ("dropped_pairs".into(), pairs - stayed as f64),
        ("dropped_tokens".into(), dropped),
        ("padded_rows".into(), padded as f64),
        ("rows_below_capacity".into(), (at_capacity - stayed) as f64),
        ("wasted_share".into(), padded as f64 / (padded + stayed).max(1) as f64),
    ];
    let spread = |name: &str, load: &[f64]| -> Named {
        let mean = load.iter().sum::<f64>() / experts as f64;
        let variance = load.iter().map(|x| x * x).sum::<f64>() / experts as f64 - mean * mean;
        let hot = load.iter().filter(|x| **x > factor * mean).count() as f64;
        let cold = load.iter().filter(|x| **x < 0.1 * mean).count() as f64;
        let largest = load.iter().copied().fold(0.0, f64::max);
        let list = [("mean", mean), ("variance", variance), ("largest", largest), ("hot", hot), ("cold", cold)];
        list.map(|(what, x)| (format!("{name}.{what}"), x)).to_vec()
    };
    list.extend(spread("load", &load));
    list.extend(spread("probability", &importance));
    let mean_of = |f: &dyn Fn(usize) -> f64| (0..tokens).map(f).sum::<f64>() / t;
    let mean_p: Vec<f64> = (0..experts).map(|e| mean_of(&|token| p(token, e))).collect();
    list.push(("entropy".into(), mean_p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()));
    list.push(("z_loss".into(), mean_of(&|token| observation.z.data[token])));
    let e_squared = (experts * experts) as f64;
    let mean_over_experts = |f: &dyn Fn(usize) -> f64| (0..experts).map(f).sum::<f64>() / experts as f64;
    list.push(("aux_switch".into(), e_squared * mean_over_experts(&|e| load[e] / t * mean_p[e])));
    list.push(("aux_gshard".into(), experts as f64 * (0..experts).map(|e| first[e] / t * mean_p[e]).sum::<f64>()));
    let over_picks: f64 = (0..experts).map(|e| importance[e] * load[e]).sum();
    list.push(("aux_deepspeed_topk".into(), experts as f64 / (k as f64 * t * t) * over_picks));
    let mean = importance.iter().sum::<f64>() / experts as f64;
    let variance = mean_over_experts(&|e| (importance[e] - mean).powi(2));
    list.push(("aux_importance".into(), if mean > 0.0 { variance / (mean * mean) } else { 0.0 }));
    list.extend(importance.iter().enumerate().map(|(e, x)| (format!("importance[{e}]"), *x)));
    list
}

/// DeepSeek's loss from its definition: of each sequence the mean probabilities times the experts' shares of its pairs.
fn by_sequence(spec: &Spec, dims: Dims, reference: &Reference) -> f64 {
    let (experts, k, row) = (spec.experts as usize, spec.router.top_k as usize, dims.sequence_tokens.max(1) as usize);
    let p = &reference.observation.as_ref().expect("the graph observes").probability.data;
    let loss = |tokens: std::ops::Range<usize>| -> f64 {
        let of_expert = |e: usize| {
            let f = reference.experts[tokens.start * k..tokens.end * k].iter().filter(|pick| **pick == e).count() as f64;
            let f = f * experts as f64 / (k * row) as f64;
            f * tokens.clone().map(|t| p[t * experts + e]).sum::<f64>() / row as f64
        };
        (0..experts).map(of_expert).sum()
    };
    let rows = dims.tokens as usize / row;
    (0..rows).map(|i| loss(i * row..(i + 1) * row)).sum::<f64>() / rows.max(1) as f64
}

/// Every number of one list is the other's, up to the error, relative to the number or to one.
#[track_caller]
fn same(what: &str, is: &[(String, f64)], wanted: &[(String, f64)], error: f64) {
    assert_eq!(is.len(), wanted.len(), "{what}");
    for ((name, a), (wanted_name, b)) in is.iter().zip(wanted) {
        assert!(name == wanted_name && (a - b).abs() <= error * b.abs().max(1.0), "{what}: {name} is {a}, not {wanted_name} {b}");
    }
}

struct Compiled {
    spec: Spec,
    layer: Layer,
    weights: Vec<Tensor>,
}

fn compiled(Example { name, text, spec }: Example) -> Compiled {
    let machine = this_host().expect("an x86-64 CPU of level v3");
    let package = compile(&spec, Entry::Layer, &text, from_ref(&machine), &Options::default())
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let layer = Layer::load(&package, DeviceKind::Host { threads: None }).expect("a layer");
    let weights = random::weights(layer.manifest(), 5).expect("weights");
    Compiled { spec, layer, weights }
}

impl Compiled {
    fn run(&self, inputs: &[Tensor], dims: Dims) -> (Run, Statistics) {
        let run = self.layer.bind(self.weights.clone()).expect("bound").run(inputs, dims).expect("a run");
        let statistics = self.layer.statistics(&run).expect("slots that fit").expect("statistics");
        (run, statistics)
    }

    fn tile_rows(&self, tokens: u64) -> u64 {
        u64::from(self.layer.target().regime(tokens).and_then(|regime| regime.tile_rows).expect("tiles"))
    }

    /// How far probabilities may be off: a few roundings, or those of logits that are rounded.
    fn error(&self) -> f64 {
        match self.spec.router.dtype {
            RouterDType::F32 => 1e-5,
            RouterDType::Model => bound(self.layer.manifest().dtype),
        }
    }

    fn check(&self, tokens: u64, sequence_tokens: u64) {
        let dims = Dims { tokens, sequence_tokens };
        let manifest = self.layer.manifest();
        let inputs = random::inputs(manifest, dims, tokens).expect("inputs");
        let (run, statistics) = self.run(&inputs, dims);
        let what = format!("{}, {tokens} tokens", self.spec.name);
        let expected = reference(import(&self.spec, Entry::Layer).unwrap(), manifest, &self.weights, &inputs, dims)
            .expect("an interpretation");
        let by_hand = by_hand(&self.spec, dims, self.tile_rows(dims.tokens), &expected);
        same(&what, &named(&statistics), &by_hand, self.error());
        if let Some(by_c) = by_c(&self.layer, &run) {
            same(&what, &by_c, &named(&statistics), 1e-13);
        }
        self.check_losses(&what, &run, &statistics, &by_hand, by_sequence(&self.spec, dims, &expected));
    }

    /// The device's own losses are the ones by hand times their coefficients, and so are the accessor's.
    fn check_losses(&self, what: &str, run: &Run, statistics: &Statistics, by_hand: &Named, by_sequence: f64) {
        let training = &self.spec.training;
        let of = |name: &str| by_hand.iter().find(|(own, _)| own == name).expect("a loss").1;
        let slot = |name: &str| run.tensor(name).map(|tensor| tensor.to_f64()[0]);
        let near = |is: f64, wanted: f64| (is - wanted).abs() <= self.error() * wanted.abs().max(1e-3);
        let is_run = run.dims.tokens > 0;
        let aux = training.aux_loss.map(|(loss, factor)| {
            let theirs = AuxLoss::ALL.into_iter().find(|own| own.name() == loss.word()).expect("the same names");
            let by_hand = match loss {
                spec::AuxLoss::Switch | spec::AuxLoss::Mixtral => of("aux_switch"),
                spec::AuxLoss::Gshard => of("aux_gshard"),
                spec::AuxLoss::DeepspeedTopk | spec::AuxLoss::Megatron | spec::AuxLoss::Megablocks => of("aux_deepspeed_topk"),
                spec::AuxLoss::DeepseekSequence => by_sequence,
                spec::AuxLoss::Importance => of("aux_importance"),
            };
            let accessor = statistics.aux_loss(theirs).expect("a loss");
            assert!(near(accessor, by_hand), "{what}: {} is {accessor}, not {by_hand}", loss.word());
            factor * by_hand
        });
        let z = training.z_coef.map(|factor| factor * of("z_loss"));
        for (name, wanted) in [("stats.aux_loss", aux), ("stats.z_loss", z)] {
            let (is, wanted) = (slot(name), wanted.filter(|_| is_run));
            let same = match (is, wanted) {
                (Some(is), Some(wanted)) => near(is, wanted),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            assert!(same, "{what}: {name} is {is:?}, not {wanted:?}");
        }
        let importance = run.tensor("stats.importance").map(Tensor::to_f64);
        assert_eq!(importance.is_some(), is_run && (aux.is_some() || z.is_some()), "{what}");
        for (e, p) in importance.unwrap_or_default().iter().enumerate() {
            assert!(near(*p, of(&format!("importance[{e}]"))), "{what}: importance[{e}] is {p}");
        }
    }
}

/// Reads the figures and slots as text, prints each statistic under its name.
const C: &str = r#"
#include "moec_statistics.h"
#include <stdio.h>
#include <stdlib.h>
static uint64_t count(void) {
    unsigned long long n = 0;
    if (scanf("%llu", &n) != 1) exit(1);
    return n;
}
static double number(void) {
    double x = 0;
    if (scanf("%lf", &x) != 1) exit(1);
    return x;
}
static int32_t *integers(void) {
    uint64_t n = count();
    int32_t *values = n ? malloc(n * sizeof *values) : NULL;
    for (uint64_t i = 0; i < n; i++) values[i] = (int32_t)number();
    return values;
}
static float *floats(uint64_t *n) {
    *n = count();
    float *values = *n ? malloc(*n * sizeof *values) : NULL;
    for (uint64_t i = 0; i < *n; i++) values[i] = (float)number();
    return values;
}
static void health(const char *name, const moec_health *h) {
    printf("%s.mean %.17g\n%s.variance %.17g\n%s.largest %.17g\n", name, h->mean, name, h->variance, name, h->largest);
    printf("%s.hot %llu\n%s.cold %llu\n", name, (unsigned long long)h->hot, name, (unsigned long long)h->cold);
}
int main(void) {
    moec_routing r;
    moec_statistics s;
    r.tokens = count(), r.experts = count(), r.rowless = count(), r.top_k = count(), r.joint_shared = count();
    r.tile_rows = count(), r.rows_at_capacity = count();
    r.capacity_factor = number();
    r.load = integers(), r.kept = integers(), r.real_tokens = integers(), r.picks = integers(), r.rows = integers();
    r.probability = floats(&r.probability_parts), r.z = floats(&r.z_parts);
    r.probability_parts /= r.experts;
    double *importance = malloc(r.experts * sizeof *importance);
    moec_statistics_of(&r, importance, &s);
#define COUNT(name) printf(#name " %llu\n", (unsigned long long)s.name)
#define NUMBER(name) printf(#name " %.17g\n", s.name)
    COUNT(pairs), COUNT(kept), COUNT(dropped_pairs), COUNT(dropped_tokens), COUNT(padded_rows), COUNT(rows_below_capacity);
    NUMBER(wasted_share);
    health("load", &s.load), health("probability", &s.probability);
    NUMBER(entropy), NUMBER(z_loss), NUMBER(aux_switch), NUMBER(aux_gshard), NUMBER(aux_deepspeed_topk), NUMBER(aux_importance);
    for (uint64_t e = 0; e < r.experts; e++) printf("importance[%llu] %.17g\n", (unsigned long long)e, importance[e]);
    return 0;
}
"#;

/// The C program, compiled once; `None`, said aloud, where there is no C compiler.
fn c_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, program) = (folder.path().join("main.c"), folder.path().join("main"));
        std::fs::write(&file, C).expect("a file");
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/include");
        let flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", include, "-o"];
        let Ok(built) = Command::new("cc").args(flags).arg(&program).arg(&file).arg("-lm").output() else {
            skipped("the C header", "there is no C compiler");
            return None;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some((folder, program))
    });
    built.as_ref().map(|(_, program)| program.as_path())
}

/// What the C header makes of a run's slots; `None` where there is no C compiler.
fn by_c(layer: &Layer, run: &Run) -> Option<Named> {
    let routing = layer.target().statistics.as_ref()?;
    by_c_of(
        &Figures::at(routing, layer.target().regime(run.dims.tokens), run.dims).expect("figures"),
        &Counts::of(&routing.slots, run),
    )
}

/// What it makes of these.
fn by_c_of(figures: &Figures, counts: &Counts) -> Option<Named> {
    let Figures { tokens, experts, rowless, top_k, joint_shared, tile_rows, rows_at_capacity, capacity_factor, .. } = *figures;
    let at_capacity = rows_at_capacity.unwrap_or(0);
    let sizes = [tokens, experts, rowless, top_k, joint_shared, tile_rows, at_capacity].map(|size| size.to_string());
    let mut words = vec![sizes.join(" "), format!("{capacity_factor:?}")];
    let none = (Vec::new(), Vec::new());
    let or_none = |slot| Option::as_ref(slot).unwrap_or(&none.0);
    for slot in [&counts.load, &counts.kept, or_none(&counts.tokens), or_none(&counts.experts), or_none(&counts.rows)] {
        words.push(slot.len().to_string());
        words.extend(slot.iter().map(i32::to_string));
    }
    for slot in [&counts.probability, &counts.z].map(|slot| slot.as_ref().unwrap_or(&none.1)) {
        words.push(slot.len().to_string());
        words.extend(slot.iter().map(|x| format!("{x:?}")));
    }
    let program = Command::new(c_program()?).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut program = program.expect("a program that starts");
    program.stdin.take().expect("its input").write_all(words.join(" ").as_bytes()).expect("a reader");
    let output = program.wait_with_output().expect("a program that ends");
    assert!(output.status.success());
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').expect("a name and a number");
        (name.to_string(), value.parse().expect("a number"))
    };
    Some(String::from_utf8(output.stdout).expect("text").lines().map(line).collect())
}

#[test]
fn every_mode_by_the_runtime_by_c_and_by_hand() {
    let picks = |spec: &Spec| match spec.router.mode {
        // Of padding `padding.rs` says more.
        Mode::TokenChoice | Mode::Hash => rowless(spec) == 0 && counts_all_tokens(spec),
        Mode::ExpertChoice | Mode::Soft(_) => false,
    };
    for mode in modes().into_iter().filter(|mode| picks(&mode.spec)) {
        let compiled = compiled(mode);
        for (tokens, sequence_tokens) in [(0, 0), (1, 1), (17, 17), (64, 16)] {
            compiled.check(tokens, sequence_tokens);
        }
    }
}

/// Where every expert sees every token there is nothing to say.
#[test]
fn soft_routing_has_none() {
    let modes: Vec<Example> = modes().into_iter().filter(|mode| matches!(mode.spec.router.mode, Mode::Soft(_))).collect();
    assert!(!modes.is_empty());
    for mode in modes {
        let compiled = compiled(mode);
        let inputs = random::inputs(compiled.layer.manifest(), Dims::tokens(3), 1).expect("inputs");
        let run = compiled.layer.bind(compiled.weights.clone()).expect("bound").run(&inputs, Dims::tokens(3)).expect("a run");
        assert_eq!(compiled.layer.statistics(&run), Ok(None));
    }
}

/// Experts without rows.
fn rowless(spec: &Spec) -> u64 {
    spec.router.identity_experts + spec.router.joint_shared
}

/// What experts without rows take is neither load nor dropped, and no balance counts them.
#[test]
fn experts_without_rows() {
    let modes: Vec<Example> =
        modes().into_iter().filter(|mode| rowless(&mode.spec) > 0 && counts_all_tokens(&mode.spec)).collect();
    assert!(modes.len() > 1);
    for mode in modes {
        let compiled = compiled(mode);
        let manifest = compiled.layer.manifest();
        for tokens in [0, 1, 17, 64] {
            let dims = Dims::tokens(tokens);
            let inputs = random::inputs(manifest, dims, tokens).expect("inputs");
            let (run, s) = compiled.run(&inputs, dims);
            let expected = reference(import(&compiled.spec, Entry::Layer).unwrap(), manifest, &compiled.weights, &inputs, dims)
                .expect("an interpretation");
            let with_rows = compiled.spec.experts as usize;
            let load = |e: usize| expected.experts.iter().filter(|pick| **pick == e).count() as u64;
            let load: Vec<u64> = (0..with_rows).map(load).collect();
            let others = expected.experts.iter().filter(|pick| **pick >= with_rows).count() as u64;
            let kept = expected.rows.iter().filter(|row| row.is_some()).count() as u64;
            let (k, routed) = (expected.top_k.max(1), compiled.spec.router.top_k as usize);
            let tokens_of = expected.experts.chunks(k).zip(expected.rows.chunks(k));
            // Every pick was of an expert with rows, and none found room.
            let lost = tokens_of
                .filter(|(picks, rows)| picks[..routed].iter().all(|e| *e < with_rows) && rows.iter().all(Option::is_none));
            let (dropped, lost) = (load.iter().sum::<u64>() - kept, lost.count() as u64);
            let what = format!("{}, {tokens} tokens", compiled.spec.name);
            assert_eq!(
                (&s.load, s.rowless_pairs, s.dropped_pairs, s.dropped_tokens),
                (&load, others, dropped, Some(lost)),
                "{what}"
            );
            assert_eq!((&s.probability, s.aux_loss(AuxLoss::Switch)), (&None, None), "{what}");
            if let Some(by_c) = by_c(&compiled.layer, &run) {
                let of = |name: &str| by_c.iter().find(|(own, _)| own == name).expect("a number").1;
                let theirs = ["pairs", "dropped_pairs", "dropped_tokens", "load.variance"].map(of);
                let load = load.iter().sum::<u64>() as f64;
                assert_eq!(theirs, [load, dropped as f64, lost as f64, s.health.variance], "{what}");
            }
        }
    }
}

/// Of a batch with padding, or ids that have no experts: what the runtime says, C says. That it is right `padding.rs` shows.
#[test]
fn padding_in_c() {
    for mode in
        modes().into_iter().filter(|mode| !counts_all_tokens(&mode.spec) && !matches!(mode.spec.router.mode, Mode::Soft(_)))
    {
        let compiled = compiled(mode);
        for dims in [Dims::tokens(0), Dims::tokens(1), Dims { tokens: 64, sequence_tokens: 16 }] {
            let inputs = random::inputs(compiled.layer.manifest(), dims, dims.tokens).expect("inputs");
            let (run, s) = compiled.run(&inputs, dims);
            let what = format!("{}, {dims:?}", compiled.spec.name);
            assert_eq!(s.tokens + s.padding_tokens.expect("a mask"), dims.tokens, "{what}");
            let Some(by_c) = by_c(&compiled.layer, &run) else { return };
            let of = |name: &str| by_c.iter().find(|(own, _)| own == name).expect("a number").1;
            let counts = [("pairs", s.load.iter().sum::<u64>()), ("dropped_pairs", s.dropped_pairs)];
            let lost = [("dropped_tokens", s.dropped_tokens.expect("rows")), ("padded_rows", s.padded_rows)];
            for (name, wanted) in counts.into_iter().chain(lost) {
                assert_eq!(of(name), wanted as f64, "{what}: {name}");
            }
            let Some(p) = &s.probability else { continue };
            let loss = |loss| s.aux_loss(loss).expect("a loss");
            let losses = [("aux_switch", loss(AuxLoss::Switch)), ("aux_gshard", loss(AuxLoss::Gshard)), ("z_loss", p.z_loss)];
            for (name, wanted) in losses {
                assert!((of(name) - wanted).abs() <= 1e-13 * wanted.abs().max(1.0), "{what}: {name}");
            }
        }
    }
}

/// Experts that choose have loads and rows; what tokens would have picked is not known.
#[test]
fn experts_that_choose() {
    let choose = |spec: &Spec| spec.router.mode == Mode::ExpertChoice && !spec.tokens.mask;
    let modes: Vec<Example> = modes().into_iter().filter(|mode| choose(&mode.spec)).collect();
    assert!(!modes.is_empty());
    for mode in modes {
        let compiled = compiled(mode);
        let manifest = compiled.layer.manifest();
        for tokens in [0, 1, 17, 64] {
            let dims = Dims::tokens(tokens);
            let inputs = random::inputs(manifest, dims, tokens).expect("inputs");
            let (run, s) = compiled.run(&inputs, dims);
            let expected = reference(import(&compiled.spec, Entry::Layer).unwrap(), manifest, &compiled.weights, &inputs, dims)
                .expect("an interpretation");
            let experts = compiled.spec.experts as usize;
            let kept = |e: usize| expected.rows.iter().skip(e).step_by(experts).filter(|row| row.is_some()).count() as u64;
            let kept: Vec<u64> = (0..experts).map(kept).collect();
            let alone = expected.rows.chunks(experts).filter(|rows| rows.iter().all(Option::is_none)).count() as u64;
            let what = format!("{}, {tokens} tokens", compiled.spec.name);
            assert_eq!((&s.kept, s.dropped_tokens), (&kept, Some(alone)), "{what}");
            assert_eq!((s.health.variance, s.health.hot.len()), (0.0, 0), "{what}: all have the same");
            assert_eq!((&s.first, &s.probability, s.aux_loss(AuxLoss::Switch)), (&None, &None, None), "{what}");
            if let Some(by_c) = by_c(&compiled.layer, &run) {
                let of = |name: &str| by_c.iter().find(|(own, _)| own == name).expect("a number").1;
                assert_eq!((of("kept"), of("dropped_tokens")), (kept.iter().sum::<u64>() as f64, alone as f64), "{what}");
                assert_eq!((of("entropy"), of("aux_switch"), of("load.variance")), (0.0, 0.0, s.health.variance), "{what}");
            }
        }
    }
}

#[test]
fn many_tokens() {
    let mode = |name: &str| modes().into_iter().find(|mode| mode.name == name).expect("a mode");
    for name in ["correction", "dropped_by_best_weight", "capacity_sequence_choices"] {
        compiled(mode(name)).check(4096, 512);
    }
}

/// Two blocks of one expert each, and an expert without tokens: the numbers computed by hand.
#[test]
fn a_batch_by_hand() {
    let figures = Figures {
        tokens: 4,
        sequence_tokens: 2,
        by_sequence: true,
        experts: 4,
        rowless: 0,
        top_k: 2,
        joint_shared: 0,
        corrected: false,
        grouped: false,
        tile_rows: 4,
        rows_at_capacity: Some(12),
        capacity_factor: 1.5,
    };
    let counts = Counts {
        load: vec![4, 3, 1, 0],
        kept: vec![3, 2, 1, 0],
        tokens: None,
        experts: Some(vec![0, 1, 0, 1, 1, 0, 0, 2]),
        rows: Some(vec![0, 3, 1, 4, -1, -1, 2, 5]),
        probability: Some(vec![1.0, 0.5, 0.5, 0.0, 1.0, 0.5, 0.5, 0.0]),
        z: Some(vec![5.0, 3.0]),
    };
    let s = Statistics::of(&figures, &counts).expect("statistics");
    assert_eq!((s.dropped_pairs, s.dropped_tokens, s.padded_rows, s.rows_below_capacity), (2, Some(1), 1 + 2 + 3, Some(6)));
    assert_eq!((&s.first, s.wasted_share(), s.dropped_share()), (&Some(vec![3, 1, 0, 0]), 0.5, 0.25));
    assert_eq!((s.health.mean, s.health.variance), (2.0, 2.5));
    assert_eq!((&s.health.hot, &s.health.cold), (&vec![0], &vec![3]), "above 3, below 0.2");
    let p = s.probability.as_ref().expect("probabilities");
    assert_eq!((&p.importance, p.health.mean, p.z_loss), (&vec![2.0, 1.0, 1.0, 0.0], 1.0, 2.0));
    assert!((p.entropy - 1.5 * std::f64::consts::LN_2).abs() < 1e-12 && (p.entropy_share - 0.75).abs() < 1e-12);
    let losses: Vec<f64> = AuxLoss::ALL.into_iter().map(|loss| s.aux_loss(loss).expect("a loss")).collect();
    // sum load p = 8 + 3 + 1, sum first p = 6 + 1; 4 / 16 of these; 3 / 4 in each sequence; variance of p is 1 / 2.
    let apart = losses.iter().zip([3.0, 3.0, 1.75, 1.5, 1.5, 1.5, 1.5, 0.5]).map(|(is, wanted)| (is - wanted).abs());
    assert!(apart.fold(0.0, f64::max) < 1e-12, "{losses:?}");
    let wrong = Counts { load: vec![1], ..counts };
    assert!(Statistics::of(&figures, &wrong).is_err());
}

/// Experts 0 and 1 have rows, 2 is the identity; or it is shared, and in every token's last column.
#[test]
fn lost_tokens_by_hand() {
    let figures = Figures {
        tokens: 5,
        sequence_tokens: 5,
        by_sequence: false,
        experts: 3,
        rowless: 1,
        top_k: 2,
        joint_shared: 0,
        corrected: false,
        grouped: false,
        tile_rows: 4,
        rows_at_capacity: None,
        capacity_factor: 1.25,
    };
    let lost = |figures: &Figures, experts: &[i32], rows: &[i32]| {
        let mut load = vec![0; 3];
        experts.iter().filter_map(|pick| usize::try_from(*pick).ok()).for_each(|pick| load[pick] += 1);
        let mut kept = vec![0; 3];
        experts.iter().zip(rows).filter(|(_, row)| **row >= 0).for_each(|(pick, _)| kept[*pick as usize] += 1);
        let (experts, rows) = (Some(experts.to_vec()), Some(rows.to_vec()));
        let counts = Counts { load, kept, experts, rows, ..Counts::default() };
        let lost = Statistics::of(figures, &counts).expect("statistics").dropped_tokens;
        if let Some(by_c) = by_c_of(figures, &counts) {
            let by_c = by_c.iter().find(|(name, _)| name == "dropped_tokens").expect("a number").1;
            assert_eq!(Some(by_c), lost.map(|lost| lost as f64));
        }
        lost
    };
    // Both kept; one kept; the identity and a drop; two drops; nothing picked.
    let (picks, rows) = ([0, 1, 1, 0, 2, 0, 1, 0, -1, -1], [0, 4, 5, -1, -1, -1, -1, -1, -1, -1]);
    assert_eq!(lost(&figures, &picks, &rows), Some(1));
    // One kept, one dropped, three times; a shared one beside each.
    let joint = Figures { joint_shared: 1, ..figures };
    let (picks, rows) = ([0, 2, 0, 2, 1, 2, 1, 2, 1, 2], [0, -1, -1, -1, 4, -1, 5, -1, -1, -1]);
    assert_eq!(lost(&joint, &picks, &rows), Some(2));
}

/// A layer of the keys in `router` and `rest`.
fn layer_of(router: &str, rest: &str) -> Compiled {
    let text = format!(
        "[moe]\nname = \"layer\"\nhidden = 32\nexperts = 8\n[router]\n{router}\n{rest}\n[expert]\nintermediate = 16\n\
         [numerics]\ndtype = \"f32\"\n"
    );
    let spec = spec::parse(&Source { name: "layer".into(), text: text.clone() }).expect("a spec");
    compiled(Example { name: "layer".into(), text, spec })
}

/// An expert above its capacity drops pairs and is hot, and no other expert is, whether K counts in the factor or not.
#[test]
fn hot_is_above_capacity() {
    for capacity in ["factor = 2.0\ncount_k = false", "factor = 1.0\ncount_k = true"] {
        let compiled = layer_of("top_k = 2", &format!("[capacity]\n{capacity}\nround = \"ceil\""));
        let dims = Dims::tokens(64);
        let inputs = random::inputs(compiled.layer.manifest(), dims, 0).expect("inputs");
        let (run, s) = compiled.run(&inputs, dims);
        // C = 2 64 / 8.
        let above: Vec<usize> = (0..8).filter(|e| s.load[*e] > 16).collect();
        assert!(!above.is_empty() && s.dropped_pairs > 0, "{:?}", s.load);
        assert_eq!(s.health.hot, above, "{capacity}: {:?}", s.load);
        if let Some(by_c) = by_c(&compiled.layer, &run) {
            let hot = by_c.iter().find(|(name, _)| name == "load.hot").expect("a number").1;
            assert_eq!(hot, above.len() as f64, "{capacity}");
        }
    }
    let compiled = layer_of("mode = \"expert_choice\"", "[capacity]\nfactor = 0.5\nround = \"ceil\"");
    let dims = Dims::tokens(64);
    let inputs = random::inputs(compiled.layer.manifest(), dims, 0).expect("inputs");
    let (_, s) = compiled.run(&inputs, dims);
    assert_eq!((&s.load, s.health.variance, s.health.hot.len()), (&vec![4; 8], 0.0, 0));
}

/// Megatron's losses count the highest scores, which are not known where a correction bias picks others, or where groups do;
/// DeepSeek's has its groups.
#[test]
fn losses_of_other_picks_are_not_known() {
    for (router, sequences, megatron) in [
        ("correction_on = \"score\"", false, false),
        ("groups = 4\ntopk_groups = 2\ngroup_score = \"max\"\ngroup_mask = \"-inf\"", true, false),
        ("correction_on = \"none\"", true, true),
    ] {
        let compiled = layer_of(&format!("top_k = 2\nscore = \"sigmoid\"\n{router}"), "");
        for tokens in [0, 17] {
            let dims = Dims::tokens(tokens);
            let inputs = random::inputs(compiled.layer.manifest(), dims, 0).expect("inputs");
            let (_, s) = compiled.run(&inputs, dims);
            let known = [AuxLoss::DeepseekSequence, AuxLoss::Megatron].map(|loss| s.aux_loss(loss).is_some());
            assert_eq!(known, [sequences, megatron], "{router}, {tokens} tokens");
            assert!(s.aux_loss(AuxLoss::DeepspeedTopk).is_some(), "{router}, {tokens} tokens");
        }
    }
}

/// At balance the losses are K, K, 1, 1, 1, 1, 1 and 0.
#[test]
fn balance() {
    let (tokens, experts, top_k) = (12u64, 6u64, 2u64);
    let figures = Figures {
        tokens,
        sequence_tokens: tokens,
        by_sequence: false,
        experts,
        rowless: 0,
        top_k,
        joint_shared: 0,
        corrected: false,
        grouped: false,
        tile_rows: 1,
        rows_at_capacity: None,
        capacity_factor: 1.25,
    };
    let experts_of = |t: u64| [t % experts, (t + 1) % experts].map(|e| e as i32);
    let counts = Counts {
        load: vec![4; 6],
        kept: vec![4; 6],
        tokens: None,
        experts: Some((0..tokens).flat_map(experts_of).collect()),
        rows: Some((0..24).collect()),
        probability: Some(vec![2.0; 6]),
        z: Some(vec![0.0]),
    };
    let s = Statistics::of(&figures, &counts).expect("statistics");
    let losses: Vec<f64> = AuxLoss::ALL.into_iter().map(|loss| s.aux_loss(loss).expect("a loss")).collect();
    assert_eq!(losses, [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!((s.health.hot.len(), s.health.cold.len(), s.rows_below_capacity), (0, 0, None));
}

/// Tokens whose logits are no numbers are even among the experts and no part of the z-loss; the others are as without them.
#[test]
fn a_token_that_is_no_number_spoils_no_other() {
    for name in ["gelu_with_bias", "correction"] {
        let compiled = compiled(modes().into_iter().find(|mode| mode.name == name).expect("a mode"));
        let (hidden, tokens) = (compiled.spec.hidden, 33);
        let values = random::tokens(DType::F32, tokens, hidden, 3).expect("tokens").to_f64();
        let x = |is_odd: bool| {
            let odd = |i: usize| if is_odd && i / hidden as usize == 20 { f32::NAN } else { values[i] as f32 };
            let values: Vec<f32> = (0..values.len()).map(odd).collect();
            Tensor::from_f32(compiled.layer.manifest().dtype, vec![tokens, hidden], &values).expect("tokens")
        };
        let of = |x: &Tensor| compiled.run(from_ref(x), Dims::tokens(tokens)).1.probability.expect("probabilities");
        let expected = reference(
            import(&compiled.spec, Entry::Layer).unwrap(),
            compiled.layer.manifest(),
            &compiled.weights,
            from_ref(&x(false)),
            Dims::tokens(tokens),
        );
        let plain = expected.expect("an interpretation").observation.expect("probabilities");
        let p = of(&x(true));
        let experts = compiled.spec.experts as usize;
        for (e, is) in p.importance.iter().enumerate() {
            let others = plain.probability.data.iter().skip(e).step_by(experts).enumerate().filter(|(t, _)| *t != 20);
            let wanted = others.map(|(_, p)| p).sum::<f64>() + 1.0 / experts as f64;
            assert!((is - wanted).abs() < 1e-4, "{name}: {is}, not {wanted}");
        }
        let others: f64 = plain.z.data.iter().enumerate().filter(|(t, _)| *t != 20).map(|(_, z)| z).sum();
        assert!((p.z_loss - others / tokens as f64).abs() < 1e-4 * others, "{name}: {}", p.z_loss);
    }
}

/// flaxformer's and mesh-tensorflow's own numbers, as published blocks gave them.
#[test]
fn published_losses() {
    let mut seen = 0;
    for fixture in fixtures() {
        let bytes = std::fs::read(&fixture.file).expect("the fixture");
        let checkpoint = Checkpoint::read(&bytes).expect("safetensors");
        let published = |name: &str| {
            checkpoint.names().contains(&name).then(|| checkpoint.tensor(name, DType::F32).expect(name).0.to_f64()[0])
        };
        let (aux, z) = (published("ref.aux_loss"), published("ref.z_loss"));
        if aux.is_none() && z.is_none() {
            continue;
        }
        let machine = this_host().expect("an x86-64 CPU of level v3");
        let package =
            compile(&fixture.spec, Entry::Layer, &fixture.text, from_ref(&machine), &Options::default()).expect("a package");
        let layer = Layer::load(&package, DeviceKind::Host { threads: None }).expect("a layer");
        let (weights, _) = weights::assemble(layer.manifest(), &checkpoint, "w.").expect("weights");
        let (x, _) = checkpoint.tensor("in.hidden", layer.manifest().dtype).expect("tokens");
        let dims = Dims::of_activations(x.shape()).expect("[T, H] or [B, S, H]");
        let run = layer.bind(weights).expect("bound").run(from_ref(&x), dims).expect("a run");
        let statistics = layer.statistics(&run).expect("slots that fit").expect("statistics");
        let near = |is: f64, wanted: f64| (is - wanted).abs() <= 2e-6 * wanted.abs();
        if let Some(aux) = aux {
            // mesh-tensorflow counts first picks; flaxformer every pick.
            let loss = if fixture.name.starts_with("mesh") { AuxLoss::Gshard } else { AuxLoss::Switch };
            let is = statistics.aux_loss(loss).expect("a loss");
            assert!(
                near(is, aux),
                "{}: {} is {is}, published {aux}; {:?}",
                fixture.name,
                loss.name(),
                AuxLoss::ALL.map(|l| statistics.aux_loss(l))
            );
            seen += 1;
        }
        if let (Some(z), Some(probability)) = (z, &statistics.probability) {
            let is = probability.z_loss;
            assert!(near(is, z), "{}: the z-loss is {is}, published {z}", fixture.name);
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen} published losses");
}
