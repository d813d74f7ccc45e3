//! `moec route` from outside: a report worked out by hand, published routers against their own picks, and everything that may
//! be wrong with a trace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use crate::command::{fixture, folder, moec_in, product, stderr, write};
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Tensor};
use serde_json::Value;

const SPEC: &str = r#"
[moe]
name = "by-hand"
hidden = 8
experts = 4
[router]
top_k = 2
[capacity]
factor = 1.0
count_k = true
round = "ceil"
[expert]
intermediate = 8
[numerics]
dtype = "f32"
"#;

/// Softmax of the logarithms gives eighths: each row sums to 8.
const EIGHTHS: [f32; 16] = [4.0, 2.0, 1.0, 1.0, 4.0, 2.0, 1.0, 1.0, 4.0, 1.0, 2.0, 1.0, 1.0, 4.0, 2.0, 1.0];

fn logarithms() -> Vec<f32> {
    EIGHTHS.iter().map(|x| x.ln()).collect()
}

fn tensor(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_f32(DType::F32, shape.to_vec(), values).unwrap()
}

fn trace(folder: &Path, name: &str, tensors: &[(&str, &Tensor)]) {
    write(folder, name, to_safetensors(tensors).unwrap());
}

/// A folder with the spec and a trace of one batch.
fn by_hand() -> tempfile::TempDir {
    let folder = folder();
    write(folder.path(), "spec.toml", SPEC);
    trace(folder.path(), "trace.safetensors", &[("logits", &tensor(&[4, 4], &logarithms()))]);
    folder
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = moec_in(folder, &[&["route"], arguments, &["--json", "-"]].concat());
    serde_json::from_str(&product(&output)).unwrap()
}

/// Of 3, 3, 2 and 0 pairs two devices have 6 and 2 in order, and 5 and 3 at best.
#[test]
fn experts_are_placed_on_devices() {
    let folder = by_hand();
    let arguments = ["spec.toml", "--logits", "trace.safetensors", "--ranks", "2"];
    let placement = &json(folder.path(), &arguments)["placement"];
    let expected = serde_json::json!({
        "ranks": 2, "experts_per_rank": 2, "busiest_in_order": 1.5, "busiest": 1.25, "least_busiest": 1.0, "pairs_per_rank": [5, 3],
        "expert_of_place": [0, 2, 1, 3]
    });
    assert_eq!(placement, &expected);
    let text = product(&moec_in(folder.path(), &[&["route"], &arguments[..]].concat()));
    let at = text.find("placement").unwrap();
    assert_eq!(
        text[at..].lines().take(4).collect::<Vec<_>>(),
        [
            "placement      2 ranks of 2 experts; the busiest has 1.50 of the mean with",
            "               experts in their order, 1.25 as placed (1.00 at least)",
            "  rank 0       5 pairs: experts 0 2",
            "  rank 1       3 pairs: experts 1 3",
        ]
    );
    let refused = moec_in(folder.path(), &["route", "spec.toml", "--logits", "trace.safetensors", "--ranks", "3"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("4 experts cannot be on 3 devices, equally many on each"), "{}", stderr(&refused));
}

/// Picks: 0 1, 0 1, 0 2, 1 2. In the order in which they are served, first choices first, expert 0 is wanted by tokens 0, 1 and
/// 2, expert 1 by 3, 0 and 1, expert 2 by 2 and 3, expert 3 by none. C = ceil(1.0 * 4 * 2 / 4) = 2 drops the third of each of
/// the first two: 2 of 8 pairs, and no token loses both.
#[test]
fn a_report_by_hand() {
    let folder = by_hand();
    let report = json(folder.path(), &["spec.toml", "--logits", "trace.safetensors"]);
    assert_eq!(report["load"]["per_expert"], serde_json::json!([3, 3, 2, 0]));
    // (1 + 1 + 0 + 4) / 4, its root over 2, and (2 * 3/8 ln 8/3 + 1/4 ln 4) / ln 4.
    assert_eq!((&report["load"]["variance"], &report["load"]["spread"]), (&1.5.into(), &0.612372.into()));
    assert_eq!(report["load"]["entropy_share"], 0.780639);
    let hot = |expert: u64| serde_json::json!({"expert": expert, "share": 0.375, "of_mean": 1.5});
    assert_eq!(report["load"]["hot"], serde_json::json!([hot(0), hot(1)]));
    assert_eq!((&report["load"]["cold"], &report["load"]["dead"]), (&serde_json::json!([]), &serde_json::json!([3])));
    // (3 * 4 + 1) / 8, (2 * 2 + 1 + 4) / 8, (2 * 1 + 2 * 2) / 8, 4 * 1 / 8: T / E = 1 in the mean.
    assert_eq!(report["probability"]["per_expert"], serde_json::json!([1.625, 1.125, 0.75, 0.5]));
    assert_eq!(report["probability"]["mean"], 1.0);
    let drop = &report["drop"];
    assert_eq!((&drop["dropped"], &drop["rate"], &drop["dropped_tokens"]), (&2.into(), &0.25.into(), &0.into()));
    assert_eq!((&drop["capacity"], &drop["band"]), (&serde_json::json!([2, 2]), &"collapse".into()));
    // 4 C = 8 pairs have room with another router.
    assert_eq!((&drop["least"], &drop["cause"]), (&0.into(), &"router".into()));
    // One percent of 8 pairs is none: C = 3, from the least factor above 1 on, holds 8 pairs in 12 rows.
    let enough = &report["recommendation"];
    assert_eq!((&enough["factor"], &enough["capacity"]), (&1.01.into(), &serde_json::json!([3, 3])));
    assert_eq!((&enough["rate"], &enough["waste"]), (&0.0.into(), &0.333333.into()));
    // 12 rows for 8 pairs, and three tiles of 64 rows.
    assert_eq!((&enough["padded_cost"], &enough["dropless_padded_cost"]), (&1.5.into(), &24.0.into()));
    assert_eq!((&enough["take"], &enough["balance"]), (&"factor".into(), &serde_json::json!([0, 1])));
    let at = |factor: f64| report["sweep"].as_array().unwrap().iter().find(|point| point["factor"] == factor).unwrap().clone();
    // C = 1 keeps one pair of each expert but the last: 5 of 8 are dropped, and token 1 is first nowhere. Any router drops 4.
    let half = at(0.5);
    assert_eq!(half["least_drop_rate"], 0.5);
    assert_eq!((&half["drop_rate"], &half["token_drop_rate"], &half["waste"]), (&0.625.into(), &0.25.into(), &0.25.into()));
    assert_eq!((&at(1.0)["is_spec"], &at(1.01)["is_recommended"]), (&true.into(), &true.into()));
    let mode = |kind: &str| report["modes"].as_array().unwrap().iter().find(|mode| mode["kind"] == kind).unwrap().clone();
    // Three experts of one tile of 64 rows each.
    assert_eq!((&mode("dropless")["padded_cost"], &mode("dropless")["busiest"]), (&24.0.into(), &1.5.into()));
    // Tokens 0 and 1, 3 and 0, 2 and 3, 0 and 1: every token is chosen.
    assert_eq!((&mode("expert_choice")["token_drop_rate"], &mode("expert_choice")["rows"]), (&0.0.into(), &8.into()));
    insta::assert_snapshot!("by_hand_json", serde_json::to_string_pretty(&report).unwrap());
    insta::assert_snapshot!(
        "by_hand_text",
        product(&moec_in(folder.path(), &["route", "spec.toml", "--logits", "trace.safetensors"]))
    );
}

/// Two batches are the same whether one tensor was cut, or two stand in one file, or in two.
#[test]
fn batches_are_cut_and_tensors_are_in_natural_order() {
    let folder = by_hand();
    let one = json(folder.path(), &["spec.toml", "--logits", "trace.safetensors", "--batch", "2"]);
    let rows = logarithms();
    let (first, last) = (tensor(&[1, 2, 4], &rows[..8]), tensor(&[2, 4], &rows[8..]));
    trace(folder.path(), "two.safetensors", &[("b.10", &last), ("b.9", &first), ("other", &tensor(&[3], &[0.0; 3]))]);
    let mut two = json(folder.path(), &["spec.toml", "--logits", "two.safetensors"]);
    assert_eq!((&one["trace"]["batches"], &one["trace"]["spans"]), (&2.into(), &2.into()));
    assert_eq!((&two["trace"]["tensors"], &two["trace"]["skipped_tensors"]), (&2.into(), &1.into()));
    let tensors = |report: &Value| {
        let stretches = report["over_batches"].as_array().unwrap().iter();
        stretches.map(|stretch| stretch["tensor"].as_str().unwrap().to_string()).collect::<Vec<String>>()
    };
    assert_eq!((tensors(&one), tensors(&two)), (vec!["logits".into(); 2], vec!["b.9".into(), "b.10".into()]));
    for part in ["trace", "over_batches"] {
        two[part] = one[part].clone();
    }
    assert_eq!(one, two);
    trace(folder.path(), "a.safetensors", &[("b", &first)]);
    trace(folder.path(), "b.safetensors", &[("b", &last)]);
    let mut files = json(folder.path(), &["spec.toml", "--logits", "a.safetensors", "b.safetensors"]);
    assert_eq!(files["trace"]["files"], 2);
    assert_eq!(tensors(&files), ["a.safetensors:b", "b.safetensors:b"]);
    for part in ["trace", "over_batches"] {
        files[part] = one[part].clone();
    }
    assert_eq!(one, files);
    let some = json(folder.path(), &["spec.toml", "--logits", "two.safetensors", "--tensor", "*.9"]);
    assert_eq!(some["trace"]["tokens"], 2);
}

#[test]
fn a_batch_keeps_its_rows_whole() {
    let folder = by_hand();
    write(folder.path(), "row.toml", SPEC.replace("[expert]", "group = \"sequence\"\n[expert]"));
    let rows = [logarithms(), logarithms(), logarithms()].concat();
    trace(folder.path(), "rows.safetensors", &[("logits", &tensor(&[3, 4, 4], &rows))]);
    for (batch, batches) in [("3", 3), ("4", 3), ("9", 2), ("12", 1)] {
        let report = json(folder.path(), &["row.toml", "--logits", "rows.safetensors", "--batch", batch]);
        let trace = &report["trace"];
        assert_eq!((&trace["batches"], &trace["spans"]), (&batches.into(), &3.into()), "{batch}");
        assert_eq!(report["drop"]["dropped"], 6);
    }
}

/// Pairs of each expert by the picks that a published block recorded; identity experts have none.
fn recorded_load(file: &[u8], experts: usize) -> Option<Vec<u64>> {
    let checkpoint = Checkpoint::read(file).unwrap();
    let (picks, _) = checkpoint.tensor("ref.topk_index", DType::I32).ok()?;
    let mut load = vec![0; experts];
    let picks = picks.to_i32().unwrap();
    for expert in picks.iter().filter(|expert| (**expert as usize) < experts) {
        load[*expert as usize] += 1;
    }
    Some(load)
}

/// The routers of published models: from their hidden states, and where they recorded logits from these too, each picks what
/// its own code picked.
#[test]
fn published_routers() {
    let specs = fs::read_dir(Path::new(&fixture("mixtral", "toml")).parent().unwrap()).unwrap();
    let mut names: Vec<String> = specs
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let folder = folder();
    let (mut from_hidden, mut from_logits) = (0, 0);
    for name in names {
        let (spec, tensors) = (fixture(&name, "toml"), fixture(&name, "safetensors"));
        // Not carried yet, and said so elsewhere.
        if moec_in(folder.path(), &["check", &spec]).status.code() != Some(0) {
            continue;
        }
        let weights = ["--weights", &tensors, "--tensor-prefix", "w."];
        let hidden = [&[spec.as_str(), "--hidden", &tensors, "--tensor", "in.hidden"][..], &weights].concat();
        let report = json(folder.path(), &hidden);
        let file = fs::read(&tensors).unwrap();
        let experts = report["router"]["experts"].as_u64().unwrap();
        let Some(expected) = recorded_load(&file, experts as usize) else { continue };
        assert_eq!(report["load"]["per_expert"], serde_json::json!(expected), "{name}");
        from_hidden += 1;
        let logits = [&[spec.as_str(), "--logits", &tensors, "--tensor", "ref.router_logits"][..], &weights].concat();
        // What laguna's code gives out is capped already, and inkling's lacks the shared columns.
        if !["laguna", "inkling"].contains(&name.as_str())
            && Checkpoint::read(&file).unwrap().tensor("ref.router_logits", DType::F32).is_ok()
        {
            let report = json(folder.path(), &logits);
            assert_eq!(report["load"]["per_expert"], serde_json::json!(expected), "{name} by its logits");
            from_logits += 1;
        }
    }
    assert!(from_hidden >= 30 && from_logits >= 20, "{from_hidden} {from_logits}");
}

/// flaxformer's block recorded the weight of each token at each expert: 0 where it was not chosen.
#[test]
fn published_expert_choice() {
    let other = fixture("", "").replace("huggingface/.", "other/flaxformer_expert_choice_cf1.");
    let (spec, tensors) = (other.clone() + "toml", other + "safetensors");
    let file = fs::read(&tensors).unwrap();
    let weights = Checkpoint::read(&file).unwrap().tensor("ref.probs_dense", DType::F32).unwrap().0.to_f64();
    let unchosen = weights.chunks(8).filter(|weights| weights.iter().all(|weight| *weight == 0.0)).count();
    assert!(unchosen > 0);
    let folder = folder();
    for source in [&["--logits", &tensors, "--tensor", "ref.router_logits"][..], &["--hidden", &tensors, "--tensor", "in.hidden"]]
    {
        let weights = ["--weights", &tensors, "--tensor-prefix", "w."];
        let report = json(folder.path(), &[&[spec.as_str()], source, &weights].concat());
        assert_eq!((&report["router"]["mode"], &report["drop"]["dropped"]), (&"expert_choice".into(), &unchosen.into()));
        let of_spec: Vec<&Value> = report["modes"].as_array().unwrap().iter().filter(|mode| mode["is_spec"] == true).collect();
        assert_eq!((of_spec.len(), &of_spec[0]["kind"]), (1, &"expert_choice".into()));
    }
    let arguments = ["route", &spec, "--logits", &tensors, "--tensor", "ref.router_logits"];
    insta::assert_snapshot!(product(&moec_in(folder.path(), &arguments)));
}

#[test]
fn the_page_is_one_file_and_always_the_same() {
    let folder = by_hand();
    let arguments = ["route", "spec.toml", "--logits", "trace.safetensors", "--html", "page.html"];
    let output = moec_in(folder.path(), &arguments);
    assert!(stderr(&output).starts_with("wrote page.html ("), "{}", stderr(&output));
    assert!(product(&output).starts_with("layer          by-hand, 4 experts"));
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    let printed = moec_in(folder.path(), &[&arguments[..5], &["-"]].concat());
    assert!(product(&printed) == page);
    for outside in ["http:", "https:", "<script", "src=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<figure>").count(), 4);
    assert_eq!(page.matches("<svg viewBox=\"0 0 480 300\" role=\"img\"").count(), 3);
    for element in ["html", "main", "section", "figure", "svg", "table", "div", "ul", "li", "p", "details", "dl", "text", "title"]
    {
        let opened = page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn nothing_to_count() {
    let folder = by_hand();
    trace(folder.path(), "empty.safetensors", &[("logits", &tensor(&[0, 4], &[])), ("rows", &tensor(&[3, 0, 4], &[]))]);
    let report = json(folder.path(), &["spec.toml", "--logits", "empty.safetensors", "--html", "page.html"]);
    assert_eq!((&report["trace"]["tokens"], &report["drop"]["rate"]), (&0.into(), &0.0.into()));
    assert_eq!(report["drop"]["band"], "negligible");
    assert_eq!(report["recommendation"], serde_json::Value::Null);
    assert!(report["sweep"].as_array().unwrap().iter().all(|point| point["is_recommended"] == false));
    // What has a capacity is not dropless for want of tokens.
    write(folder.path(), "dropless.toml", SPEC.replace("[capacity]\nfactor = 1.0\ncount_k = true\nround = \"ceil\"\n", ""));
    for (spec, is_dropless, text, tile) in [
        ("spec.toml", false, "drop           nothing: there are no tokens\n", "<p>There are no tokens.</p>"),
        ("dropless.toml", true, "drop           nothing: the layer is dropless\n", "<p>The layer is dropless.</p>"),
    ] {
        let arguments = ["route", spec, "--logits", "empty.safetensors", "--html"];
        let said = product(&moec_in(folder.path(), &[&arguments[..], &["page.html"]].concat()));
        assert!(said.contains(text), "{said}");
        assert!(product(&moec_in(folder.path(), &[&arguments[..], &["-"]].concat())).contains(tile));
        assert_eq!(json(folder.path(), &arguments[1..4])["router"]["is_dropless"], is_dropless);
    }
}

/// Logits 5 5 and 1 -1: both experts take token 0 by the logits themselves. By shares of each token, expert 0 would take token 1.
#[test]
fn experts_choose_by_logits_that_are_scores() {
    let folder = folder();
    let two = SPEC.replace("experts = 4", "experts = 2");
    let tokens = two.replace("top_k = 2", "top_k = 1\nscore = \"identity\"");
    let chosen = two.replace("top_k = 2", "mode = \"expert_choice\"\nscore = \"identity\"");
    write(folder.path(), "tokens.toml", tokens);
    write(folder.path(), "experts.toml", chosen.replace("factor = 1.0\ncount_k = true\nround = \"ceil\"", "tokens = 1"));
    trace(folder.path(), "trace.safetensors", &[("logits", &tensor(&[2, 2], &[5.0, 5.0, 1.0, -1.0]))]);
    let report = json(folder.path(), &["experts.toml", "--logits", "trace.safetensors"]);
    assert_eq!((&report["drop"]["dropped"], &report["drop"]["rate"]), (&1.into(), &0.5.into()));
    // Beside tokens that choose: C = 1 too.
    let report = json(folder.path(), &["tokens.toml", "--logits", "trace.safetensors"]);
    let mode = report["modes"].as_array().unwrap().iter().find(|mode| mode["kind"] == "expert_choice").unwrap();
    assert_eq!((&mode["rows"], &mode["token_drop_rate"]), (&2.into(), &0.5.into()));
}

/// Of four tokens two pick an identity expert. C = floor(0.25 * 4 / 2) = 0 drops both pairs of the others, and these two alone.
#[test]
fn a_token_of_an_identity_expert_is_not_lost() {
    let folder = folder();
    let spec = SPEC.replace("experts = 4", "experts = 2").replace("top_k = 2", "top_k = 1\nidentity_experts = 2");
    let spec =
        spec.replace("factor = 1.0\ncount_k = true\nround = \"ceil\"", "factor = 0.25\ncount_k = false\nround = \"floor\"");
    write(folder.path(), "spec.toml", spec);
    let picks = [2, 0, 3, 1].map(|pick| [0, 1, 2, 3].map(|expert| f32::from(u8::from(expert == pick)))).concat();
    trace(folder.path(), "trace.safetensors", &[("logits", &tensor(&[4, 4], &picks))]);
    let drop = &json(folder.path(), &["spec.toml", "--logits", "trace.safetensors"])["drop"];
    assert_eq!((&drop["capacity"], &drop["dropped"], &drop["rate"]), (&serde_json::json!([0, 0]), &2.into(), &1.0.into()));
    assert_eq!((&drop["dropped_tokens"], &drop["token_rate"]), (&2.into(), &0.5.into()));
}

#[test]
fn nan_and_infinities_are_routed_where_they_are_kept() {
    let folder = by_hand();
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
    let values = [odd, [f32::NAN; 4], [f32::INFINITY; 4], [0.0; 4]].concat();
    trace(folder.path(), "odd.safetensors", &[("logits", &tensor(&[4, 4], &values))]);
    let report = json(folder.path(), &["spec.toml", "--logits", "odd.safetensors"]);
    assert_eq!((&report["trace"]["tokens"], &report["drop"]["cause"]), (&0.into(), &"nothing".into()));
    let report = json(folder.path(), &["spec.toml", "--logits", "odd.safetensors", "--keep", "non-finite,zero"]);
    // The last row, of ties, is as finite as any.
    assert_eq!(report["trace"]["interpreted_tokens"], 3);
    // Softmax of the first row is 1 for expert 1 and 0 for the others: then the lowest index. Ties go to 0 and 1.
    assert_eq!(report["load"]["per_expert"], serde_json::json!([4, 4, 0, 0]));
    let probabilities = report["probability"]["per_expert"].as_array().unwrap();
    let sum: f64 = probabilities.iter().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 4.0).abs() < 1e-4, "{report}");
}

#[test]
fn a_correction_bias_has_to_come_from_somewhere() {
    let folder = folder();
    let spec = SPEC.replace("[capacity]", "correction_on = \"score\"\n[capacity]");
    write(folder.path(), "spec.toml", spec.replace("[numerics]", "[weights]\ncorrection_bias = \"gate.bias\"\n[numerics]"));
    let (logits, bias) = (tensor(&[4, 4], &logarithms()), tensor(&[4], &[0.0, 0.0, 0.0, 1.0]));
    trace(folder.path(), "trace.safetensors", &[("logits", &logits)]);
    trace(folder.path(), "both.safetensors", &[("logits", &logits), ("gate.bias", &bias)]);
    trace(folder.path(), "weights.safetensors", &[("gate.bias", &bias)]);
    let load = |arguments: &[&str]| json(folder.path(), arguments)["load"]["per_expert"].clone();
    // One more than any score: every token picks expert 3, and the best of the others.
    let corrected = serde_json::json!([3, 1, 0, 4]);
    assert_eq!(load(&["spec.toml", "--logits", "both.safetensors"]), corrected);
    assert_eq!(load(&["spec.toml", "--logits", "trace.safetensors", "--weights", "weights.safetensors"]), corrected);
    assert_eq!(load(&["spec.toml", "--logits", "trace.safetensors", "--no-correction"]), serde_json::json!([3, 3, 2, 0]));
    let output = moec_in(folder.path(), &["route", "spec.toml", "--logits", "trace.safetensors"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output));
}

/// Where no logits of experts decide, there is nothing to report on.
#[test]
fn routers_that_are_not_asked() {
    let folder = by_hand();
    let soft = SPEC.replace("top_k = 2", "mode = \"soft\"\nslots = 1\nnorm = \"l2\"\nnorm_eps = 1e-6");
    let soft = soft.replace("[capacity]\nfactor = 1.0\ncount_k = true\nround = \"ceil\"\n", "");
    write(folder.path(), "soft.toml", soft);
    write(folder.path(), "hash.toml", SPEC.replace("top_k = 2", "top_k = 2\nmode = \"hash\"\nvocabulary = 9"));
    let said = ["soft.toml", "hash.toml"].map(|spec| {
        let output = moec_in(folder.path(), &["route", spec, "--logits", "trace.safetensors"]);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    });
    insta::assert_snapshot!(said.concat());
    let output = moec_in(folder.path(), &["route", "spec.toml", "--logits", "trace.safetensors", "--top-k", "1"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

/// A safetensors file with this header, and this many bytes after it.
fn raw(header: &str, bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; bytes]].concat()
}

#[test]
fn what_may_be_wrong() {
    let folder = by_hand();
    let whole = fs::read(folder.path().join("trace.safetensors")).unwrap();
    let one =
        |shape: &str, end: u64| format!("{{\"logits\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}");
    let files = [
        ("empty", Vec::new()),
        ("no safetensors", b"[moe]\nname = 1".to_vec()),
        ("truncated", whole[..whole.len() - 4].to_vec()),
        ("longer", [&whole[..], &[0]].concat()),
        ("a header of 2^63 bytes", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat()),
        ("a header longer than the file", [&1000u64.to_le_bytes()[..], b"{}"].concat()),
        ("claims a terabyte", raw(&one("[68719476736,4]", 1 << 40), 64)),
        ("overflows", raw(&one("[18446744073709551615,18446744073709551615,4]", 64), 64)),
        ("less than its shape", raw(&one("[4,4]", 32), 32)),
        ("another width", raw(&one("[2,8]", 64), 64)),
        ("too many dimensions", raw(&one("[1,2,2,4]", 64), 64)),
        ("integers", raw(&one("[4,4]", 64).replace("F32", "I32"), 64)),
        ("nested", raw(&"[".repeat(100_000), 0)),
    ];
    let mut all = String::new();
    for (name, bytes) in files {
        write(folder.path(), "x.safetensors", bytes);
        let output = moec_in(folder.path(), &["route", "spec.toml", "--logits", "x.safetensors"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        all += &format!("# {name}\n{}\n", stderr(&output));
    }
    for arguments in [
        &["--logits", "absent.safetensors"][..],
        &["--logits", "trace.safetensors", "--tensor", "other"],
        &["--logits", "trace.safetensors", "--json", "-", "--html", "-"],
        &["--hidden", "trace.safetensors", "--weights", "trace.safetensors"],
        &["--hidden", "hidden.safetensors", "--weights", "trace.safetensors"],
    ] {
        trace(folder.path(), "hidden.safetensors", &[("x", &tensor(&[1, 8], &[0.0; 8]))]);
        let output = moec_in(folder.path(), &[&["route", "spec.toml"], arguments].concat());
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}");
        all += &format!("# {}\n{}\n", arguments.join(" "), stderr(&output));
    }
    insta::assert_snapshot!(all);
    for arguments in
        [&["spec.toml"][..], &["spec.toml", "--hidden", "x"], &["spec.toml", "--logits", "x", "--target-drop", "1.5"]]
    {
        assert_eq!(moec_in(folder.path(), &[&["route"], arguments].concat()).status.code(), Some(2), "{arguments:?}");
    }
}

/// 31 MB of logits, under a limit of 24 MB of data.
#[test]
fn a_trace_larger_than_memory() {
    const TOKENS: u64 = 120_000;
    let folder = folder();
    write(folder.path(), "spec.toml", SPEC.replace("experts = 4", "experts = 64"));
    let header = format!("{{\"x\":{{\"dtype\":\"F32\",\"shape\":[{TOKENS},64],\"data_offsets\":[0,{}]}}}}", TOKENS * 256);
    let values = (0..TOKENS * 64).flat_map(|i| ((i.wrapping_mul(0x9e37_79b9) >> 7) as u16 as f32 / 16384.0).to_le_bytes());
    let bytes: Vec<u8> = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(values).collect();
    write(folder.path(), "x.safetensors", bytes);
    let script = "ulimit -d 24576; \"$0\" route spec.toml --logits x.safetensors --batch 4096";
    let output = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_moec")])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(product(&output).contains("trace          120000 tokens of logits in 1 tensor, 30 batches"), "{output:?}");
}

mod damaged {
    use super::*;
    use moec::diagnostics::Source;
    use moec::routing::{Choice, Keep, Options, Trace, route};
    use moec::spec::Ratio;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the bytes are, there is a report or an error.
        #[test]
        fn traces(places in prop::collection::vec((0usize..400, any::<u8>()), 1..6), cut in 0usize..400) {
            let tensors = [("a.1", tensor(&[2, 2, 4], &logarithms())), ("a.2", tensor(&[4, 4], &logarithms()))];
            let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
            let mut bytes = to_safetensors(&tensors).unwrap();
            for (place, byte) in places {
                let length = bytes.len();
                bytes[place % length] = byte;
            }
            bytes.truncate(if cut % 3 == 0 { cut } else { bytes.len() });
            let folder = folder();
            let path = write(folder.path(), "x.safetensors", bytes);
            let spec = moec::spec::parse(&Source { name: "spec.toml".into(), text: SPEC.into() }).unwrap();
            if let Ok(trace) = Trace::open(&[path], &Choice { width: Some(4), ..Choice::default() }) {
                let target_drop = Ratio { numerator: 1, denominator: 100 };
                let options = Options { batch: 3, target_drop, top_k: None, keep: Keep::default(), has_experts: true, ranks: None };
                let report = route(&spec, &trace, &[], &options, |_| ()).unwrap();
                prop_assert!(moec::routing::html(&report).contains("</html>"));
            }
        }
    }
}
