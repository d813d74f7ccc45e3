//! `moec run` against the interpreter and against what a file says: NaN, near ties, and wrong results that are neither.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crate::command::{folder, moec_in, product, stderr, stdout, write};
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Tensor};

const HIDDEN: u64 = 4;

/// Experts of two logits apart by what the second column of the router says.
fn spec(folder: &Path, routing: &str) {
    let text = format!(
        "[moe]\nname = \"ties\"\nhidden = {HIDDEN}\nexperts = 3\n[router]\ntop_k = 1\nscore = \"sigmoid\"\n{routing}\n\
         [expert]\nintermediate = 2\n[numerics]\ndtype = \"f32\"\n"
    );
    write(folder, "ties.toml", text);
}

fn floats(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_f32(DType::F32, shape.to_vec(), values).unwrap()
}

fn integers(shape: &[u64], values: &[i32]) -> Tensor {
    Tensor::new(DType::I32, shape.to_vec(), values.iter().flat_map(|n| n.to_le_bytes()).collect()).unwrap()
}

fn file(folder: &Path, name: &str, tensors: &[(&str, &Tensor)]) {
    write(folder, name, to_safetensors(tensors).unwrap());
}

/// Logits `x0`, `x0 + x1` and `-x0`; each expert multiplies by a number of its own, about.
fn weights(folder: &Path) {
    let router = floats(&[3, HIDDEN], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0]);
    let inner: Vec<f32> = (0..24).map(|i| 0.25 + (i % 7) as f32 / 8.0).collect();
    let outer: Vec<f32> = (0..24).map(|i| (1 + i / 8) as f32 * (0.5 - (i % 3) as f32)).collect();
    let (inner, outer) = (floats(&[3, 2, HIDDEN], &inner), floats(&[3, HIDDEN, 2], &outer));
    file(folder, "w.safetensors", &[("router", &router), ("gate", &inner), ("up", &inner), ("down", &outer)]);
}

fn run(folder: &Path, more: &[&str]) -> std::process::Output {
    let input = ["run", "ties.toml", "--weights", "w.safetensors", "--input", "x.safetensors", "--repeat", "1"];
    moec_in(folder, &[&input[..], more].concat())
}

/// What the layer makes of `x`, to write expected files by.
fn output(folder: &Path) -> Vec<f32> {
    product(&run(folder, &["--output", "y.safetensors"]));
    let bytes = std::fs::read(folder.join("y.safetensors")).unwrap();
    let y = Checkpoint::read(&bytes).unwrap().tensor("out.hidden", DType::F32).unwrap().0;
    y.to_f64().into_iter().map(|y| y as f32).collect()
}

/// Two of three tokens: expert 0 or 1 is preferred by one in two to the thirtieth, and by a half.
const X: [f32; 12] = [1.0, 1.0 / (1u32 << 30) as f32, 0.5, 0.25, 1.0, 0.5, 0.5, 0.25, -1.0, 0.0, 0.5, 0.25];

#[test]
fn a_nan_on_both_sides_is_no_difference() {
    let folder = folder();
    let folder = folder.path();
    spec(folder, "");
    weights(folder);
    let mut x = X;
    x[9] = f32::NAN;
    file(folder, "x.safetensors", &[("in.hidden", &floats(&[3, HIDDEN], &x))]);
    let said = run(folder, &["--reference"]);
    let report = product(&said);
    assert!(report.contains("NaN on both sides, not compared: row 2\n"), "{report}");
    assert!(report.contains("reference   max error ") && !report.contains("max error NaN"), "{report}");
    // An expected file with a NaN in a row that is none, and with a number in the row that is.
    let y = output(folder);
    for (row, value, says) in [(1, f32::NAN, "row 1 has "), (2, 0.5, "row 2 has NaN")] {
        let mut wrong = y.clone();
        wrong[row * HIDDEN as usize] = value;
        let (x, wrong) = (floats(&[3, HIDDEN], &x), floats(&[3, HIDDEN], &wrong));
        file(folder, "x.safetensors", &[("in.hidden", &x), ("out.hidden", &wrong)]);
        let refused = run(folder, &[]);
        assert_eq!(refused.status.code(), Some(4), "{}", stdout(&refused));
        assert!(
            stderr(&refused).contains(says) && stderr(&refused).contains("in column 0, where out.hidden has"),
            "{}",
            stderr(&refused)
        );
    }
    let (x, y) = (floats(&[3, HIDDEN], &x), floats(&[3, HIDDEN], &y));
    file(folder, "x.safetensors", &[("in.hidden", &x), ("out.hidden", &y)]);
    assert!(product(&run(folder, &["--reference"])).matches("row 2\n").count() == 2);
}

/// In f64 token 0 prefers expert 1 by 1e-9, which f32 has no room for beside 1: the kernel's pick is the lower index.
#[test]
fn a_near_tie_is_no_error_and_a_wrong_pick_is_one() {
    let folder = folder();
    let folder = folder.path();
    spec(folder, "");
    weights(folder);
    let x = floats(&[3, HIDDEN], &X);
    file(folder, "x.safetensors", &[("in.hidden", &x)]);
    let report = product(&run(folder, &["--reference"]));
    assert!(report.contains("expert sets differ in 1 of 3 tokens"), "{report}");
    // sigmoid'(1) 2^-30 = 0.19661 * 9.3e-10.
    assert!(report.contains("near tie: token 0 picks experts [0], not [1]: their scores are 1.8e-10 apart"), "{report}");
    // The same of a file: its maker took the other expert, and its row is not compared.
    let mut y = output(folder);
    y[..HIDDEN as usize].fill(7.0);
    let expected = floats(&[3, HIDDEN], &y);
    let with = |picks: &[i32]| {
        let picks = integers(&[3, 1], picks);
        file(folder, "x.safetensors", &[("in.hidden", &x), ("out.hidden", &expected), ("ref.topk_index", &picks)]);
        run(folder, &[])
    };
    let tied = product(&with(&[1, 1, 2]));
    assert!(tied.contains("1 of them not compared") && tied.contains("near tie: token 0 picks experts [0], not [1]"), "{tied}");
    // A pick that is half a unit away, in a row that is right.
    let planted = with(&[1, 0, 2]);
    assert_eq!(planted.status.code(), Some(4), "{}", stdout(&planted));
    let said = stderr(&planted);
    // sigmoid(1.5) - sigmoid(1) = 0.0865.
    assert!(said.contains("token 1 picks experts [1], not [0]: their scores are 8.7e-2 apart"), "{said}");
    // A row that differs although the picks are the same.
    let off = with(&[0, 1, 2]);
    assert_eq!(off.status.code(), Some(4), "{}", stdout(&off));
    assert!(stderr(&off).contains("the error against out.hidden is"), "{}", stderr(&off));
}

/// Tokens 0 and 1 pick expert 1, which keeps one: in f64 the second, by less than f32 has room for.
#[test]
fn a_drop_by_a_near_tie() {
    let folder = folder();
    let folder = folder.path();
    weights(folder);
    let x = [1.0, 0.5, 0.5, 0.25, 1.0, 0.5 + 1.0 / (1u32 << 24) as f32, 0.25, 0.5, -1.0, 0.0, 0.5, 0.25];
    file(folder, "x.safetensors", &[("in.hidden", &floats(&[3, HIDDEN], &x))]);
    spec(folder, "[capacity]\ntokens = 1\npriority = \"score\"");
    let report = product(&run(folder, &["--reference"]));
    assert!(report.contains("expert sets identical"), "{report}");
    assert!(report.contains("near tie: expert 1 keeps tokens [0], not [1]"), "{report}");
    // By position the first is served, in f64 too.
    spec(folder, "[capacity]\ntokens = 1");
    assert!(!product(&run(folder, &["--reference"])).contains("near tie"));
}

/// Two rows of the router are a rounding apart: most tokens that pick one of them are near ties, and what a full expert drops
/// follows from how these were decided.
#[test]
fn near_ties_before_a_capacity() {
    const TOKENS: usize = 256;
    let folder = folder();
    let folder = folder.path();
    let expert = "[expert]\nintermediate = 8\n[tokens]\nexpected = [256]\n[numerics]\ndtype = \"f32\"\n";
    let layer = "[moe]\nname = \"ties\"\nhidden = 32\nexperts = 8\n[router]\ntop_k = 2\nscore = \"softmax\"\nrenorm = \"sum\"";
    for priority in ["choice_major", "token_major", "score", "batch_prioritized"] {
        let capacity = format!("[capacity]\nfactor = 1.0\ncount_k = true\nround = \"ceil\"\npriority = \"{priority}\"");
        write(folder, "ties.toml", format!("{layer}\n{capacity}\n{expert}"));
        let mut ties = 0;
        for seed in 1..=3 {
            // Knuth's linear congruential generator; its upper bits in [-1, 1).
            let mut state = seed;
            let mut draws = |n: usize| -> Vec<f32> {
                let mut draw = || {
                    state = 6364136223846793005u64.wrapping_mul(state).wrapping_add(1442695040888963407);
                    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
                };
                (0..n).map(|_| draw()).collect()
            };
            let mut router = draws(8 * 32);
            let (first, others) = router.split_at_mut(32);
            others.iter_mut().zip(first).for_each(|(twin, weight)| *twin = *weight * (1.0 + f32::EPSILON));
            let router = floats(&[8, 32], &router);
            let [gate, up] = [0, 1].map(|_| floats(&[8, 8, 32], &draws(8 * 8 * 32)));
            let down = floats(&[8, 32, 8], &draws(8 * 8 * 32));
            file(folder, "w.safetensors", &[("router", &router), ("gate", &gate), ("up", &up), ("down", &down)]);
            file(folder, "x.safetensors", &[("in.hidden", &floats(&[TOKENS as u64, 32], &draws(TOKENS * 32)))]);
            let report = product(&run(folder, &["--reference"]));
            let error = report.split("reference   max error ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            assert!(error.parse::<f64>().unwrap() < 1e-6, "{priority} {seed}\n{report}");
            let lines: Vec<&str> = report.lines().filter(|line| line.starts_with("  near tie: ")).collect();
            assert!(lines.iter().all(|line| line.contains(" apart, and roundings explain ")), "{report}");
            ties += lines.len();
        }
        assert!(ties > 0, "{priority}");
    }
}

/// The mask is found under its own name and under that of published blocks; without a file some tokens are padding.
#[test]
fn padding_rows() {
    let folder = folder();
    let folder = folder.path();
    weights(folder);
    spec(folder, "[capacity]\ntokens = 1\n[shared]\nintermediate = 2\n[tokens]\nmask = true");
    let shared = floats(&[2, HIDDEN], &[0.5; 8]);
    let bytes = std::fs::read(folder.join("w.safetensors")).unwrap();
    let w = Checkpoint::read(&bytes).unwrap();
    let routed: Vec<(&str, Tensor)> =
        ["router", "gate", "up", "down"].map(|name| (name, w.tensor(name, DType::F32).unwrap().0)).into();
    let down = floats(&[HIDDEN, 2], &[0.5; 8]);
    let mut all: Vec<(&str, &Tensor)> = routed.iter().map(|(name, tensor)| (*name, tensor)).collect();
    all.extend([("shared_gate", &shared), ("shared_up", &shared), ("shared_down", &down)]);
    file(folder, "w.safetensors", &all);
    let mut x = X;
    x[..4].fill(f32::NAN);
    let (x, mask) = (floats(&[3, HIDDEN], &x), integers(&[3], &[0, 1, 1]));
    for name in ["token_mask", "in.token_mask"] {
        file(folder, "x.safetensors", &[("in.hidden", &x), (name, &mask)]);
        let report = product(&run(folder, &["--reference"]));
        assert!(report.contains("tokens      3, 1 of them padding") && report.contains("dropped     0 of 2"), "{report}");
        assert!(!report.contains("NaN") && report.contains("expert sets identical"), "{report}");
        assert_eq!(output(folder)[..4], [0.0; 4]);
    }
    file(folder, "x.safetensors", &[("in.hidden", &x)]);
    let lacking = run(folder, &[]);
    assert!(lacking.status.code() != Some(0) && stderr(&lacking).contains("token_mask"), "{}", stderr(&lacking));
    let random = product(&moec_in(folder, &["run", "ties.toml", "--tokens", "64", "--repeat", "1", "--reference"]));
    assert!(random.contains("of them padding"), "{random}");
    product(&moec_in(folder, &["check", "ties.toml", "--emulate", "--tokens", "33", "--schedules", "2"]));
}
