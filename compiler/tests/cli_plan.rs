//! `moec plan`: the figures of kernels and layers, as tables, JSON and a picture.

use serde_json::Value;

use crate::cli_inspect::each_described;
use crate::command::{example, folder, moec_in, product, stderr, stdout};

fn plan(arguments: &[&str]) -> String {
    product(&moec_in(folder().path(), &[&["plan"], arguments].concat()))
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&plan(&[arguments, &["--json", "-"]].concat())).unwrap()
}

#[test]
fn tables() {
    let tiny = example("tiny.toml");
    insta::assert_snapshot!("gpu", plan(&[&tiny, "--target", "sm_90a", "--tokens", "1,300"]));
    // Two targets, at the token counts that the spec expects.
    insta::assert_snapshot!("several", plan(&[&tiny, "--target", "sm_80,x86-64-v4"]));
    insta::assert_snapshot!("experts", plan(&[&tiny, "--target", "x86-64-v3", "--entry", "experts", "--tokens", "7"]));
}

#[test]
fn presets_are_specs() {
    let text = plan(&["--preset", "qwen3-30b-a3b", "--target", "sm_90a", "--tokens", "16", "--quiet"]);
    assert!(text.starts_with("qwen3-30b-a3b on sm_90a: 132 processors, 4300 GB/s"), "{text}");
    assert!(plan(&["--preset", "list"]).lines().any(|line| line == "qwen3-30b-a3b"));
}

#[test]
fn json_is_what_its_schema_says_and_adds_up() {
    let schema: Value = serde_json::from_str(&product(&moec_in(folder().path(), &["schema", "plan"]))).unwrap();
    assert_eq!(schema, moec::plan::json_schema());
    let validator = jsonschema::validator_for(&schema).unwrap();
    for name in ["tiny.toml", "deepseek-v3.toml", "soft-moe-s16-128e.toml"] {
        let plan = json(&[&example(name), "--target", "sm_90a,x86-64-v4", "--tokens", "1,128,4096"]);
        let errors: Vec<String> = validator.iter_errors(&plan).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        assert_eq!(plan["version"], 1);
        let targets = plan["targets"].as_array().unwrap();
        assert_eq!(targets.len(), 2);
        for batch in targets.iter().flat_map(|target| target["batches"].as_array().unwrap()) {
            let ops = batch["ops"].as_array().unwrap();
            let number = |value: &Value| value.as_f64().unwrap();
            for figure in
                ["flops", "bytes", "time_us", "moving_us", "waiting_us", "caching_us", "computing_us", "serial_us", "launch_us"]
            {
                let sum: f64 = ops.iter().map(|op| number(&op["figures"][figure])).sum();
                let total = number(&batch["total"][figure]);
                assert!((sum - total).abs() <= 1e-9 * total, "{name}: {figure}: {sum}, {total}");
            }
            // Each launch has its time, and is there once.
            let launches: usize = ops.iter().map(|op| op["launches"].as_array().unwrap().len()).sum();
            let launching = if targets[0]["batches"].as_array().unwrap().contains(batch) { 1.0 } else { 5.0 };
            assert!((number(&batch["total"]["launch_us"]) - launching * launches as f64).abs() < 1e-6, "{name}");
            assert!(number(&batch["bound"]["time_us"]) <= number(&batch["total"]["time_us"]), "{name}");
        }
    }
}

/// T K pairs of all experts; of three of eight their part, rounded up, and in the bound down; a router groups none.
#[test]
fn rows_are_those_that_experts_get() {
    let tiny = example("tiny.toml");
    let of = |arguments: &[&str]| {
        let plan = json(&[&[&tiny, "--target", "x86-64-v3", "--tokens", "7", "--entry"], arguments].concat());
        plan["targets"][0]["batches"][0].clone()
    };
    let part = of(&["experts", "--local-experts", "3"]);
    assert_eq!((&of(&["experts"])["rows"], &part["rows"]), (&14.into(), &6.into()));
    // 7 * 2 * 3 / 8 = 5.25 pairs of three products; 3 (1 - (6/8)^7) = 2.6 experts: of each product 85 182 of 98 304 bytes.
    assert_eq!(part["bound"]["flops"][0]["flops"], 2 * 5 * 3 * 64 * 128);
    assert_eq!(part["bound"]["weight_bytes"], 3 * 85_182);
    assert_eq!(of(&["router"])["rows"], Value::Null);
    let text = plan(&[&tiny, "--target", "x86-64-v3", "--tokens", "7", "--entry", "router"]);
    assert!(text.lines().any(|line| line.starts_with("T = 7: regime 1") && !line.contains("rows")), "{text}");
}

/// H = 64, F = 128, E = 8, K = 2 in f32 at T = 1: two experts of three weights, and three of the shared one.
#[test]
fn the_bound_by_hand() {
    let plan = json(&[&example("tiny.toml"), "--target", "sm_90a", "--tokens", "1"]);
    let bound = &plan["targets"][0]["batches"][0]["bound"];
    assert_eq!(bound["weight_bytes"], 4 * (8 * 64 + 3 * 3 * 64 * 128));
    assert_eq!((&bound["input_bytes"], &bound["output_bytes"]), (&(4 * 64).into(), &(4 * 64).into()));
    assert_eq!(bound["flops"][0]["flops"], 2 * (8 * 64 + 3 * 3 * 64 * 128));
    assert_eq!((&bound["flops"][0]["dtype"], bound["flops"].as_array().unwrap().len()), (&"f32".into(), 1));
}

#[test]
fn registers_are_those_of_ptxas() {
    let Some(ptxas) = moec_codegen::Ptxas::find() else {
        println!("skipped: there is no ptxas");
        return;
    };
    let tiny = example("tiny.toml");
    let arguments = ["plan", &tiny, "--target", "sm_90a", "--tokens", "1", "--json", "-"];
    let variables = [("MOEC_PTXAS", ptxas.path().to_str().unwrap())];
    let output = crate::command::start(folder().path(), &arguments, &variables, "");
    let plan: Value = serde_json::from_str(&product(&output)).unwrap();
    let ops = plan["targets"][0]["batches"][0]["ops"].as_array().unwrap();
    for launch in ops.iter().flat_map(|op| op["launches"].as_array().unwrap()) {
        assert!((8..=255).contains(&launch["registers"].as_u64().unwrap()), "{launch}");
        assert_eq!(launch["spill_bytes"], 0);
    }
}

#[test]
fn the_picture_is_well_formed_and_always_the_same() {
    let tiny = example("tiny.toml");
    let draw = || plan(&[&tiny, "--target", "sm_90a", "--tokens", "1,16,128,4096", "--svg", "-"]);
    let svg = draw();
    assert_eq!(svg, draw());
    assert_eq!(elements_left_open(&svg), Vec::<String>::new());
    let plan = json(&[&tiny, "--target", "sm_90a", "--tokens", "1,16,128,4096"]);
    let dots: usize = plan["targets"][0]["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| batch["ops"].as_array().unwrap().iter().filter(|op| op["figures"]["flops"] != 0).count())
        .sum();
    assert_eq!((svg.matches("<circle ").count(), dots), (dots, 4 * 4));
    // Nothing leaves the picture, and no number is none.
    let places = svg.split("c").filter_map(|part| part.strip_prefix("x=\"")?.split('"').next()?.parse::<f64>().ok());
    assert!(places.clone().count() >= dots && places.into_iter().all(|x| (0.0..=480.0).contains(&x)));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

/// The elements of a picture that are not closed in the order in which they were opened.
fn elements_left_open(svg: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap().to_string();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    open
}

#[test]
fn what_may_be_wrong() {
    let tiny = example("tiny.toml");
    let mut said = String::new();
    for arguments in [
        &["--tokens", "1,0"][..],
        &["--tokens", "16,4097"],
        &["--tokens", "many"],
        &["--target", "sm_70"],
        &["--target", "sm_80,sm_90a", "--svg", "roofline.svg"],
        &["--json", "-", "--svg", "-"],
    ] {
        let output = moec_in(folder().path(), &[&["plan", &tiny, "--message-format", "short"], arguments].concat());
        assert!(stdout(&output).is_empty() && output.status.code() != Some(0));
        said += &format!("$ moec plan tiny.toml {}\n{}\n", arguments.join(" "), stderr(&output).replace(&tiny, "tiny.toml"));
    }
    insta::assert_snapshot!(said);
}

/// Every field and every word of the schema is described, in no language's terms.
#[test]
fn every_field_has_a_definition() {
    let mut described = 0;
    each_described(&moec::plan::json_schema(), &mut |place| {
        described += 1;
        let text = place["description"].as_str().unwrap_or_default();
        assert!(text.len() > 3 && text.ends_with('.'), "{place:#}");
        assert!(["None", "Some(", "::", "Vec", "[`"].iter().all(|word| !text.contains(word)), "{text}");
    });
    assert!(described > 45, "{described}");
}
