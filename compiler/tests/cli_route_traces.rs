//! `moec route` on traces as people have them: padding, NaN, several layers, numpy's files, no spec; and what it makes of a
//! capacity that has too little room. The numbers are numpy's, as `route/make.py` prints them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crate::command::{folder, moec_in, product, stderr, write};
use moec_runtime::Tensor;
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use serde_json::{Value, json};

/// A router without a spec, as `make.py` has it.
const ROUTER: [&str; 4] = ["--top-k", "2", "--capacity-factor", "1.25"];
const LOAD: [u64; 8] = [10, 13, 11, 28, 12, 13, 10, 23];

fn here(name: &str) -> String {
    format!("{}/tests/route/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The report, and what was said on stderr.
#[track_caller]
fn report(arguments: &[&str]) -> (Value, String) {
    let folder = folder();
    let output = moec_in(folder.path(), &[&["route"], arguments, &["--json", "-"]].concat());
    let report: Value = serde_json::from_str(&product(&output)).unwrap();
    assert_valid(&report);
    (report, stderr(&output))
}

/// Every field of the report is in the schema, and is what the schema says.
#[track_caller]
fn assert_valid(report: &Value) {
    let schema = moec::routing::json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> = validator.iter_errors(report).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[track_caller]
fn assert_is_of_the_tokens(report: &Value) {
    assert_eq!(report["load"]["per_expert"], json!(LOAD));
    let drop = &report["drop"];
    assert_eq!((&drop["capacity"], &drop["dropped"]), (&json!([19, 19]), &13.into()));
    assert_eq!(report["trace"]["tokens"], 60);
}

#[test]
fn rows_that_are_no_tokens_are_left_out_and_named() {
    let rows = here("rows.safetensors");
    let of = |tensor: &str, more: &[&str]| {
        let arguments = ["--logits", rows.as_str(), "--tensor", tensor];
        report(&[&ROUTER[..], &arguments, more].concat())
    };
    let (tokens, said) = of("tokens", &[]);
    assert_is_of_the_tokens(&tokens);
    assert_eq!(said, "");
    for (tensor, kind) in [("nan", "with NaN"), ("infinite", "with infinities"), ("zero", "all zero")] {
        let (report, said) = of(tensor, &[]);
        assert_is_of_the_tokens(&report);
        let left_out = &report["trace"]["left_out"];
        assert_eq!((&left_out[tensor], &left_out["padding"]), (&40.into(), &0.into()));
        let place = json!([{"kind": tensor, "tensor": tensor, "first": 60, "last": 99}]);
        assert_eq!((&left_out["rows"], &report["trace"]["rows"]), (&place, &100.into()));
        let warned = format!("warning[MOE1102]: 40 rows are left out: 40 {kind} (rows 60 to 99 of {tensor}) of 100");
        assert!(said.starts_with(&warned), "{said}");
        // Nothing but the count of rows differs.
        for part in ["drop", "recommendation", "load", "sweep", "modes"] {
            assert_eq!(report[part], tokens[part], "{tensor} {part}");
        }
        let keep = if tensor == "zero" { "zero" } else { "non-finite" };
        let (kept, said) = of(tensor, &["--keep", keep]);
        assert_eq!((&kept["trace"]["tokens"], said.as_str()), (&100.into(), ""));
    }
    let folder = folder();
    let arguments = [&["route"][..], &ROUTER, &["--logits", &rows, "--tensor", "nan"]].concat();
    insta::assert_snapshot!(product(&moec_in(folder.path(), &arguments)));
    let denied = moec_in(folder.path(), &[&arguments[..], &["--deny-warnings"]].concat());
    assert_eq!(denied.status.code(), Some(1));
    let page = product(&moec_in(folder.path(), &[&arguments[..], &["--html", "-"]].concat()));
    assert!(page.contains("Not counted: 40 rows are left out: 40 with NaN (rows 60 to 99 of nan), of 100 rows."));
}

/// Padding between tokens, by masks in the trace and beside it, of every shape that has as many elements.
#[test]
fn a_mask_leaves_padding_out() {
    let (rows, mask, mixed) = (here("rows.safetensors"), here("mask.npy"), here("mixed.npy"));
    let beside = format!("{rows}:flat_mask");
    for arguments in [
        &["--logits", rows.as_str(), "--tensor", "mixed", "--mask", "mask"][..],
        &["--logits", &rows, "--tensor", "mixed", "--mask", "flat_mask"],
        &["--logits", &rows, "--tensor", "mixed", "--mask", &mask],
        &["--logits", &mixed, "--mask", &beside],
        &["--logits", &mixed, "--mask", &mask],
    ] {
        let (report, _) = report(&[&ROUTER[..], arguments].concat());
        assert_is_of_the_tokens(&report);
        let left_out = &report["trace"]["left_out"];
        assert_eq!((&left_out["padding"], &left_out["rows"]), (&40.into(), &json!([])), "{arguments:?}");
    }
    // Batches are cut by rows, and a row of padding alone is in none.
    let (cut, _) = report(&[&ROUTER[..], &["--logits", &mixed, "--mask", &mask, "--batch", "25"]].concat());
    assert_eq!((&cut["trace"]["batches"], &cut["trace"]["tokens"]), (&4.into(), &60.into()));
    assert_eq!(cut["load"]["per_expert"], json!(LOAD));
}

#[test]
fn masks_that_do_not_fit() {
    let (rows, additive, layers) = (here("rows.safetensors"), here("additive.npy"), here("layers.npz"));
    let folder = folder();
    let mut all = String::new();
    for arguments in [
        &["--logits", rows.as_str(), "--tensor", "tokens", "--mask", "mask"][..],
        &["--logits", &rows, "--tensor", "mixed", "--mask", "absent"],
        &["--logits", &rows, "--tensor", "mixed", "--mask", &additive],
        &["--logits", &rows, "--tensor", "mixed", "--mask", &layers],
    ] {
        let output = moec_in(folder.path(), &[&["route"], &ROUTER[..], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        all += &stderr(&output).replace(&here(""), "");
    }
    insta::assert_snapshot!(all);
}

/// The same three layers from every kind of file, by the words in their names and by patterns.
#[test]
fn layers_are_told_apart() {
    let names = ["layers.npz", "compressed.npz", "layers.safetensors"].map(here);
    let mut reports = Vec::new();
    for arguments in names.iter().map(|name| vec!["--logits", name.as_str()]).chain([
        vec!["--logits", names[0].as_str(), "--layer-pattern", "layer{N}.*"],
        vec!["--logits", names[0].as_str(), "--layer-pattern", "layer*.step_*"],
        vec!["--logits", names[0].as_str(), "--layer", "10,0,2"],
    ]) {
        let (report, said) = report(&[&ROUTER[..], &arguments].concat());
        assert!(said.contains("3 layers by the numbers in the tensors' names"), "{said}");
        reports.push(report);
    }
    assert!(reports.iter().all(|report| *report == reports[0]));
    let layers = reports[0]["layers"].as_array().unwrap();
    let facts =
        |layer: &Value| (layer["trace"]["layer"].clone(), layer["drop"]["dropped"].clone(), layer["load"]["per_expert"].clone());
    assert_eq!(facts(&layers[0]), ("0".into(), 34.into(), json!([54, 10, 9, 8, 9, 10, 6, 14])));
    assert_eq!(facts(&layers[1]), ("2".into(), 35.into(), json!([5, 7, 55, 6, 17, 12, 15, 3])));
    assert_eq!(facts(&layers[2]), ("10".into(), 26.into(), json!([13, 15, 46, 8, 6, 5, 15, 12])));
    let stretches = layers[1]["over_batches"].as_array().unwrap();
    assert_eq!((&stretches[0]["tensor"], &stretches[1]["tensor"]), (&"layer2.step_000".into(), &"layer2.step_001".into()));
    // One of them alone has the form of a report, and all together are said to be one.
    let (one, _) = report(&[&ROUTER[..], &["--logits", &names[0], "--layer", "2"]].concat());
    assert_eq!(one, layers[1]);
    let (all, _) = report(&[&ROUTER[..], &["--logits", &names[0], "--layer-pattern", "none"]].concat());
    assert_eq!((&all["drop"]["dropped"], &all["trace"]["layer"]), (&95.into(), &Value::Null));
    let folder = folder();
    let arguments = [&["route"][..], &ROUTER, &["--logits", &names[0], "--html", "page.html"]].concat();
    insta::assert_snapshot!(product(&moec_in(folder.path(), &arguments)));
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert_eq!(page.matches("<figure>").count(), 2 + 3 * 4);
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let number = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), number, "every id is one");
}

/// Numbers that may be layers are not added up without a word.
#[test]
fn numbers_that_may_be_layers_are_said() {
    let folder = folder();
    let logits = tensor(&[2, 4], &[3.0, 2.0, 1.0, 0.5, 3.0, 1.0, 2.0, 0.5]);
    let said = |names: [&str; 2]| {
        trace(folder.path(), "x.safetensors", &[(names[0], &logits), (names[1], &logits)]);
        let output = moec_in(folder.path(), &["route", "--top-k", "2", "--logits", "x.safetensors"]);
        product(&output);
        stderr(&output)
    };
    assert!(said(["logits.0", "logits.1"]).contains("taken for batches of one layer"));
    assert!(said(["train", "eval"]).contains("taken for batches of one layer"));
    assert!(said(["router_logits.0", "router_logits.1"]).contains("2 layers"));
    assert_eq!(said(["step_0", "step_1"]), "");
}

#[test]
fn files_that_are_no_traces() {
    let folder = folder();
    let mut all = String::new();
    let array = std::fs::read(here("mixed.npy")).unwrap();
    let archive = std::fs::read(here("compressed.npz")).unwrap();
    for (name, bytes) in [
        ("logits.pt", std::fs::read(here("logits.pt")).unwrap()),
        ("old.pth", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M".to_vec()),
        ("columns.npy", std::fs::read(here("columns.npy")).unwrap()),
        ("short.npy", array[..array.len() - 4].to_vec()),
        ("model.gguf", b"GGUF\x03\0\0\0\0\0\0\0".to_vec()),
        ("cut.npz", archive[..archive.len() / 2].to_vec()),
    ] {
        write(folder.path(), name, bytes);
        let output = moec_in(folder.path(), &["route", "--top-k", "2", "--logits", name]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        all += &format!("# {name}\n{}\n", stderr(&output));
    }
    insta::assert_snapshot!(all);
    // Damaged data, behind headers that are whole.
    for at in (60..archive.len() - 300).step_by(97) {
        let mut bytes = archive.clone();
        bytes[at] ^= 0x55;
        write(folder.path(), "damaged.npz", bytes);
        let output = moec_in(folder.path(), &["route", "--top-k", "2", "--logits", "damaged.npz"]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{at}: {}", stderr(&output));
    }
}

fn tensor(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_f32(DType::F32, shape.to_vec(), values).unwrap()
}

fn trace(folder: &Path, name: &str, tensors: &[(&str, &Tensor)]) {
    write(folder, name, to_safetensors(tensors).unwrap());
}

fn spec(experts: u64, top_k: u64, capacity: &str) -> String {
    format!(
        "[moe]\nname = \"x\"\nhidden = 8\nexperts = {experts}\n[router]\ntop_k = {top_k}\n{capacity}\n[expert]\nintermediate = 8\n"
    )
}

/// Logits of tokens that pick these experts.
fn picking(experts: usize, picks: impl Iterator<Item = Vec<usize>>) -> Tensor {
    let mut values = Vec::new();
    for picks in picks {
        values
            .extend((0..experts).map(|expert| picks.iter().position(|pick| *pick == expert).map_or(-1.0, |at| 9.0 - at as f32)));
    }
    tensor(&[(values.len() / experts) as u64, experts as u64], &values)
}

/// 1024 tokens pick 8 of 64 experts, each of them 128 times: C = ceil(1.25 * 1024 / 64) = 20 has room for 64 * 20 of 8192 pairs,
/// so that any router drops 84.375 %.
#[test]
fn an_even_router_is_not_blamed_for_the_capacity() {
    let folder = folder();
    let even = picking(64, (0..1024).map(|token| (0..8).map(|j| (token * 8 + j) % 64).collect()));
    trace(folder.path(), "even.safetensors", &[("x", &even)]);
    let path = folder.path().join("even.safetensors");
    let capacity = |count_k: bool| format!("[capacity]\nfactor = 1.25\ncount_k = {count_k}\nround = \"ceil\"");
    write(folder.path(), "spec.toml", spec(64, 8, &capacity(false)));
    write(folder.path(), "counting.toml", spec(64, 8, &capacity(true)));
    let of = |spec: &str| {
        let spec = folder.path().join(spec);
        report(&[spec.to_str().unwrap(), "--logits", path.to_str().unwrap()]).0
    };
    let report = of("spec.toml");
    let drop = &report["drop"];
    assert_eq!((&drop["rate"], &drop["least_rate"], &drop["dropped"]), (&0.84375.into(), &0.84375.into(), &6912.into()));
    assert_eq!((&drop["band"], &drop["cause"]), (&"negligible".into(), &"capacity".into()));
    assert_eq!(
        drop["advice"],
        "raise the capacity: C = 20, but S K / E = 128 pairs an expert with any router; factor 7.94 is room for all, \
         and 1.25 with `count_k = true` gives C = 160"
    );
    assert_eq!((&report["load"]["hot"], &report["load"]["hot_above"]), (&json!([]), &1.25.into()));
    // What is compared with the spec has as many slots.
    for mode in report["modes"].as_array().unwrap() {
        if mode["is_spec"] == true || mode["kind"] == "expert_choice" || mode["kind"] == "soft" {
            assert_eq!(mode["capacity"], json!([20, 20]), "{mode}");
        }
    }
    assert_eq!(of("counting.toml")["drop"]["cause"], "nothing");
    let output = moec_in(folder.path(), &["route", "spec.toml", "--logits", "even.safetensors"]);
    assert!(!product(&output).contains("collapse"), "{}", product(&output));
}

/// Ten experts, each token picks one, half of 100 tokens expert 7: C = 5 is room for half of the pairs, 7 has 45 too many, and
/// of the others (5 or 6 each) five have one: 45 + 5 dropped, of which 50 by any router. C = 8 holds 80: 42 dropped, 20 by any.
#[test]
fn capacity_and_router_share_the_blame() {
    let folder = folder();
    let others = [0, 1, 2, 3, 4, 5, 6, 8, 9];
    let skewed = picking(10, (0..100).map(|token| vec![if token % 2 == 0 { 7 } else { others[token / 2 % 9] }]));
    trace(folder.path(), "x.safetensors", &[("x", &skewed)]);
    let path = folder.path().join("x.safetensors");
    let of = |factor: &str| {
        report(&["--top-k", "1", "--capacity-factor", factor, "--logits", path.to_str().unwrap()]).0["drop"].clone()
    };
    let half = of("0.5");
    assert_eq!((&half["dropped"], &half["least"], &half["cause"]), (&50.into(), &50.into(), &"capacity".into()));
    let most = of("0.8");
    assert_eq!((&most["dropped"], &most["least"], &most["band"]), (&42.into(), &20.into(), &"collapse".into()));
    assert_eq!(most["cause"], "both");
    let router = of("1");
    assert_eq!((&router["dropped"], &router["least"], &router["cause"]), (&40.into(), &0.into(), &"router".into()));
}

/// 6400 tokens of which half pick expert 7 of 64: a factor that drops nothing has C = 3200 and pads 32 fold, tiles of 64 rows
/// hardly: 3200 + 63 * 64 rows for 6400 pairs.
#[test]
fn dropless_is_taken_where_it_costs_less() {
    let folder = folder();
    let skewed =
        picking(64, (0..6400).map(|token| vec![if token % 2 == 0 { 7 } else { [5, 11][token % 3 % 2] + token / 2 % 50 }]));
    trace(folder.path(), "x.safetensors", &[("x", &skewed)]);
    let path = folder.path().join("x.safetensors");
    let (report, _) =
        report(&["--top-k", "1", "--capacity-factor", "1.25", "--target-drop", "0", "--logits", path.to_str().unwrap()]);
    let recommendation = &report["recommendation"];
    assert_eq!((&recommendation["take"], &recommendation["balance"][0]), (&"dropless".into(), &7.into()));
    assert!(recommendation["padded_cost"].as_f64() > Some(30.0) && recommendation["dropless_padded_cost"].as_f64() < Some(1.7));
    let text = recommendation["text"].as_str().unwrap();
    assert!(text.contains(": take dropless, or balance expert"), "{text}");
    assert_eq!(report["load"]["hot"][0]["expert"], 7);
}

/// The command line says what a spec would.
#[test]
fn a_router_without_a_spec() {
    let rows = here("rows.safetensors");
    let folder = folder();
    let capacity = "score = \"sigmoid\"\nrenorm = \"sum\"\n[capacity]\nfactor = 1.25\ncount_k = true\nround = \"ceil\"\npriority = \"score\"";
    write(
        folder.path(),
        "spec.toml",
        spec(8, 2, capacity).replace("name = \"x\"", "name = \"router\"") + "[numerics]\ndtype = \"f32\"\n",
    );
    let spec = folder.path().join("spec.toml");
    let arguments = ["--logits", rows.as_str(), "--tensor", "tokens"];
    let (mut by_spec, _) = report(&[&[spec.to_str().unwrap()][..], &arguments].concat());
    let more = ["--score", "sigmoid", "--renorm", "sum", "--priority", "score"];
    let (without, _) = report(&[&ROUTER[..], &arguments, &more].concat());
    // How wide experts are is not known.
    assert_eq!(without["modes"][5]["mixing"], Value::Null);
    by_spec["modes"][5]["mixing"] = Value::Null;
    assert_eq!(by_spec, without);
    // The number of experts is in the shape; several shapes are ambiguous.
    trace(folder.path(), "two.safetensors", &[("a", &tensor(&[2, 4], &[1.0; 8])), ("b", &tensor(&[2, 8], &[1.0; 16]))]);
    let output = moec_in(folder.path(), &["route", "--top-k", "2", "--logits", "two.safetensors"]);
    assert!(
        stderr(&output).contains("\"a\" has 4 columns") || stderr(&output).contains("`a` has 4 columns"),
        "{}",
        stderr(&output)
    );
    for arguments in [&["--logits", rows.as_str()][..], &["spec.toml", "--logits", rows.as_str(), "--score", "softmax"]] {
        let output = moec_in(folder.path(), &[&["route"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
}

/// A bias for each layer, or a word.
#[test]
fn tensors_of_the_router_are_those_of_the_layer() {
    let folder = folder();
    let corrected = spec(4, 1, "correction_on = \"score\"") + "[weights]\ncorrection_bias = \"gate.bias\"\n";
    write(folder.path(), "spec.toml", corrected);
    let logits = tensor(&[2, 4], &[3.0, 2.0, 1.0, 0.5, 3.0, 1.0, 2.0, 0.5]);
    let bias = |expert: usize| tensor(&[4], &std::array::from_fn::<f32, 4, _>(|e| f32::from(u8::from(e == expert)) * 2.0));
    trace(folder.path(), "x.safetensors", &[("layers.0.x", &logits), ("layers.1.x", &logits)]);
    trace(folder.path(), "w.safetensors", &[("m.0.gate.bias", &bias(3)), ("m.1.gate.bias", &bias(1))]);
    let arguments = ["route", "spec.toml", "--logits", "x.safetensors", "--weights", "w.safetensors", "--tensor-prefix"];
    let output = moec_in(folder.path(), &[&arguments[..], &["m.{N}.", "--json", "-"]].concat());
    let report: Value = serde_json::from_str(&product(&output)).unwrap();
    let loads = [0, 1].map(|layer: usize| report["layers"][layer]["load"]["per_expert"].clone());
    assert_eq!(loads, [json!([0, 0, 0, 2]), json!([0, 2, 0, 0])]);
    let output = moec_in(folder.path(), &[&arguments[..], &["m.0."]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("{N}"), "{}", stderr(&output));
}

/// `moec schema route` is the schema that reports are held against here, and every field in it has a definition.
#[test]
fn every_field_has_a_definition() {
    let folder = folder();
    let schema: Value = serde_json::from_str(&product(&moec_in(folder.path(), &["schema", "route"]))).unwrap();
    assert_eq!(schema, moec::routing::json_schema());
    let mut number = 0;
    visit(&schema, &mut |name, property| {
        number += 1;
        let text = property["description"].as_str().unwrap_or_default();
        assert!(text.len() > 3 && text.ends_with('.'), "{name}: {property}");
    });
    assert!(number > 60, "{number}");
    let spec: Value = serde_json::from_str(&product(&moec_in(folder.path(), &["schema"]))).unwrap();
    assert!(spec["properties"]["moe"].is_object() || spec["$defs"].is_object());
}

fn visit(schema: &Value, each: &mut impl FnMut(&str, &Value)) {
    match schema {
        Value::Object(object) => {
            for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                each(name, property);
            }
            object.values().for_each(|value| visit(value, each));
        }
        Value::Array(array) => array.iter().for_each(|value| visit(value, each)),
        _ => {}
    }
}
