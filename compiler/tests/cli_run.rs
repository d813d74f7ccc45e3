//! `moec run` from outside: published blocks against their own outputs, and everything that may be wrong with a run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use crate::command::{example, fixture, folder, moec_in, product, settled, start, stderr, stdout, write};
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Tensor};

/// Where `moec run` runs a published block against the file it came with.
fn run_fixture(folder: &Path, name: &str, more: &[&str]) -> std::process::Output {
    let (spec, tensors) = (fixture(name, "toml"), fixture(name, "safetensors"));
    let block = ["run", &spec, "--weights", &tensors, "--tensor-prefix", "w.", "--input", &tensors, "--repeat", "1"];
    moec_in(folder, &[&block[..], more].concat())
}

fn tensors(folder: &Path, name: &str, tensors: &[(&str, &Tensor)]) -> String {
    write(folder, name, to_safetensors(tensors).unwrap()).display().to_string()
}

fn zeros(dtype: DType, shape: &[u64]) -> Tensor {
    let elements: u64 = shape.iter().product();
    Tensor::from_f32(dtype, shape.to_vec(), &vec![0.0; elements as usize]).unwrap()
}

/// Above the bound the exit code is 4, so a success says that the error is below 2e-5.
#[test]
fn published_blocks() {
    let folder = folder();
    for name in ["mixtral", "switch_cap5", "switch_b2_cap3", "gpt_oss", "deepseek_v3", "qwen2_moe"] {
        let output = run_fixture(folder.path(), name, &["--reference"]);
        insta::assert_snapshot!(name, settled(&product(&output)));
        assert_eq!(stderr(&output), "");
    }
}

/// Where no expert is picked, the report says what is mixed, and the output has the weights.
#[test]
fn a_published_soft_block() {
    let folder = folder();
    let output = run_fixture(folder.path(), "../other/softmoe_vmoe", &["--reference", "--output", "y.safetensors"]);
    insta::assert_snapshot!(settled(&product(&output)));
    let y = fs::read(folder.path().join("y.safetensors")).unwrap();
    let y = Checkpoint::read(&y).unwrap();
    assert_eq!(y.names(), ["out.hidden", "soft.combine", "soft.dispatch"]);
    assert_eq!(y.tensor("soft.combine", DType::F32).unwrap().0.shape(), [74, 24]);
}

#[test]
fn more_published_blocks() {
    let folder = folder();
    let names = ["qwen3_moe", "olmoe", "granitemoe", "dbrx_nonorm", "jamba", "hunyuan_v1_moe", "switch_cap6", "switch_nodrop"];
    for name in [&names[..], &["glm4_moe", "dots1", "minimax", "ernie4_5_moe"]].concat() {
        let report = product(&run_fixture(folder.path(), name, &["--reference"]));
        assert!(report.contains("out.hidden  max error "), "{name}: {report}");
        assert!(report.contains("expert sets identical") && !report.contains("differ"), "{name}: {report}");
    }
}

/// Where experts are the identity, the report says how often.
#[test]
fn identity_experts() {
    let folder = folder();
    let report = product(&run_fixture(folder.path(), "longcat_flash", &["--reference"]));
    insta::assert_snapshot!("longcat_flash", settled(&report));
}

/// Experts by token id: the table's size is that of the stored one, the ids are in the file.
#[test]
fn token_ids() {
    let folder = folder();
    let report = product(&run_fixture(folder.path(), "deepseek_v4_hash", &["--reference"]));
    assert!(report.contains("out.hidden  max error ") && !report.contains("differ"), "{report}");
    let (spec, block) = (fixture("deepseek_v4_hash", "toml"), fixture("deepseek_v4_hash", "safetensors"));
    // Without the file the number of ids is not known.
    for arguments in [&["run", &spec][..], &["check", &spec], &["check", &spec, "--emulate"], &["compile", &spec]] {
        let output = moec_in(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = stderr(&output).replace(&spec, "deepseek_v4_hash.toml");
        insta::allow_duplicates! { insta::assert_snapshot!("no_vocabulary", said) };
    }
    let text = fs::read_to_string(&spec).unwrap().replace("top_k = 4\n", "top_k = 4\nvocabulary = 40\n");
    let known = write(folder.path(), "known.toml", &text).display().to_string();
    let random = product(&moec_in(folder.path(), &["run", &known, "--tokens", "33", "--repeat", "1", "--reference"]));
    assert!(random.contains("expert sets identical"), "{random}");
    product(&moec_in(folder.path(), &["check", &known, "--emulate", "--tokens", "9", "--schedules", "2"]));
    let rows = moec_in(folder.path(), &["run", &known, "--weights", &block, "--tensor-prefix", "w."]);
    assert_eq!(rows.status.code(), Some(1));
    assert!(stderr(&rows).contains("[50, 4]"), "{}", stderr(&rows));
    let ids = tensors(folder.path(), "x", &[("in.hidden", &zeros(DType::F32, &[5, 32]))]);
    let lacking = moec_in(folder.path(), &["run", &known, "--input", &ids]);
    assert!(stderr(&lacking).contains("looked for `token_ids`"), "{}", stderr(&lacking));
}

/// A file with tokens of zeros and their ids as i64, as PyTorch writes them.
fn with_ids(folder: &Path, ids: &[i64]) -> String {
    let (n, width) = (ids.len(), 32);
    let x = 4 * n * width;
    let header = format!(
        "{{\"in.hidden\":{{\"dtype\":\"F32\",\"shape\":[{n},{width}],\"data_offsets\":[0,{x}]}},\
         \"in.token_ids\":{{\"dtype\":\"I64\",\"shape\":[{n}],\"data_offsets\":[{x},{}]}}}}",
        x + 8 * n
    );
    let ids = ids.iter().flat_map(|id| id.to_le_bytes());
    let bytes = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(vec![0; x]).chain(ids);
    let path = folder.join("ids.safetensors");
    fs::write(&path, bytes.collect::<Vec<u8>>()).unwrap();
    path.display().to_string()
}

/// Under `hash_oob = "drop"` they are counted and named, under `"error"` refused.
#[test]
fn ids_outside_the_vocabulary() {
    let folder = folder();
    let text = fs::read_to_string(fixture("deepseek_v4_hash", "toml")).unwrap();
    let with = |keys: &str| {
        let text = text.replace("top_k = 4\n", &format!("top_k = 4\nvocabulary = 40\n{keys}"));
        write(folder.path(), "spec.toml", &text).display().to_string()
    };
    let ids = with_ids(folder.path(), &[7, -1, 39, 40, -100, 0, i64::from(i32::MAX)]);
    let run = |spec: &str| moec_in(folder.path(), &["run", spec, "--input", &ids, "--reference", "--repeat", "1"]);
    let refused = run(&with(""));
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("`token_ids` holds -1 in row 1: it must be from 0 to 39"), "{}", stderr(&refused));
    let report = product(&run(&with("hash_oob = \"drop\"\n")));
    assert!(report.contains("tokens      7, 4 of them outside the vocabulary\n"), "{report}");
    assert!(report.contains("dropped     0 of 12 (token, expert) pairs") && report.contains("expert sets identical"), "{report}");
    let random = with("hash_oob = \"drop\"\n");
    let masked = write(folder.path(), "masked.toml", &(fs::read_to_string(&random).unwrap() + "[tokens]\nmask = true\n"));
    for spec in [&random, &masked.display().to_string()] {
        let report = product(&moec_in(folder.path(), &["run", spec, "--tokens", "64", "--repeat", "1", "--reference"]));
        assert!(report.contains("outside the vocabulary") && report.contains("expert sets identical"), "{report}");
        product(&moec_in(folder.path(), &["check", spec, "--emulate", "--tokens", "33", "--schedules", "2"]));
    }
}

#[test]
fn the_output_keeps_the_inputs_shape() {
    let folder = folder();
    let output = run_fixture(folder.path(), "mixtral", &["--output", "y.safetensors"]);
    assert!(stderr(&output).starts_with("wrote y.safetensors"), "{}", stderr(&output));
    let (y, given) =
        (fs::read(folder.path().join("y.safetensors")).unwrap(), fs::read(fixture("mixtral", "safetensors")).unwrap());
    let (y, given) = (Checkpoint::read(&y).unwrap(), Checkpoint::read(&given).unwrap());
    assert_eq!(y.names(), ["out.hidden", "route.experts", "route.weights"]);
    let load = |file: &Checkpoint<'_>, name: &str, dtype| file.tensor(name, dtype).unwrap().0;
    let (y, expected) = (load(&y, "out.hidden", DType::F32), load(&given, "out.hidden", DType::F32));
    assert_eq!(y.shape(), [1, 19, 32]);
    let largest = expected.to_f64().iter().fold(0.0f64, |max, x| max.max(x.abs()));
    for (a, b) in y.to_f64().iter().zip(expected.to_f64()) {
        assert!((a - b).abs() <= 2e-5 * largest, "{a} {b}");
    }
}

#[test]
fn a_package_runs_as_its_spec_does() {
    let folder = folder();
    let run = |layer: &str, output: &str| {
        let arguments = ["run", layer, "--tokens", "100", "--seed", "3", "--repeat", "2", "--output", output];
        let run = moec_in(folder.path(), &arguments);
        (settled(&product(&run)), fs::read(folder.path().join(output)).unwrap())
    };
    product(&moec_in(folder.path(), &["compile", &example("tiny.toml")]));
    let of_spec = run(&example("tiny.toml"), "a");
    assert!(of_spec == run("tiny.moec", "b"));
    insta::assert_snapshot!(of_spec.0);
}

#[test]
fn bits_depend_on_the_seed_and_not_on_the_threads() {
    let folder = folder();
    let run = |seed: &str, threads: &str| {
        let arguments = ["run", &example("tiny.toml"), "--seed", seed, "--threads", threads, "--repeat", "1", "--output", "y"];
        product(&moec_in(folder.path(), &arguments));
        fs::read(folder.path().join("y")).unwrap()
    };
    let one = run("1", "1");
    assert!(one == run("1", "2"));
    assert!(one != run("2", "2"));
}

#[test]
fn other_float_types_are_converted_and_said() {
    let folder = folder();
    let text = fs::read_to_string(example("tiny.toml")).unwrap();
    for dtype in ["f16", "bf16"] {
        let spec = text.replace("dtype = \"f32\"", &format!("dtype = \"{dtype}\""));
        let spec = write(folder.path(), &format!("{dtype}.toml"), spec).display().to_string();
        let x = tensors(folder.path(), "x", &[("a", &zeros(DType::F32, &[2, 3, 64]))]);
        let output = moec_in(folder.path(), &["run", &spec, "--input", &x, "--repeat", "1", "--reference"]);
        assert!(product(&output).contains("tokens      6 in rows of 3"));
        let note = format!("note: `a` is f32, converted to {dtype}");
        assert!(stderr(&output).contains(&note), "{}", stderr(&output));
        // Random tokens, against the interpreter: within the type's own bound.
        product(&moec_in(folder.path(), &["run", &spec, "--tokens", "33", "--repeat", "1", "--reference"]));
    }
}

/// Lines for people, and one object for programs.
#[test]
fn statistics() {
    let folder = folder();
    let text = product(&run_fixture(folder.path(), "switch_b2_cap3", &["--stats"]));
    insta::assert_snapshot!(settled(&text));
    let json = product(&run_fixture(folder.path(), "switch_b2_cap3", &["--stats=json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let total = |name: &str| json[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(total("load") - total("kept"), json["dropped_pairs"].as_u64().unwrap());
    assert_eq!(total("first"), json["tokens"].as_u64().unwrap());
    assert!((json["probability"]["health"]["mean"].as_f64().unwrap() * total("load") as f64).is_finite());
    assert_eq!(json["aux_losses"].as_object().unwrap().len(), 7, "all but that of sequences, which are mixed here: {json}");
    let none = product(&moec_in(folder.path(), &["run", &example("tiny.toml"), "--tokens", "0", "--stats=json"]));
    let none: serde_json::Value = serde_json::from_str(&none).unwrap();
    assert_eq!((&none["tokens"], &none["aux_losses"]["switch"]), (&serde_json::json!(0), &serde_json::json!(0.0)));
}

/// The loss of rows is the mean of those that each row has by itself; the JSON has it under the name that the text has.
#[test]
fn a_loss_of_rows() {
    let folder = folder();
    let spec = "[moe]\nhidden = 8\nexperts = 4\n[router]\ntop_k = 2\n[expert]\nintermediate = 8\n[training]\n\
                aux_loss = \"switch\"\naux_coef = 0.5\naux_group = \"sequence\"\n[numerics]\ndtype = \"f32\"\n";
    write(folder.path(), "rows.toml", spec);
    let x: Vec<f32> = (0..2 * 6 * 8).map(|i| ((i * 37 + i / 8 * 11) % 23) as f32 / 11.0 - 1.0).collect();
    let stats = |name: &str, shape: &[u64], x: &[f32]| -> serde_json::Value {
        let file = tensors(folder.path(), name, &[("x", &Tensor::from_f32(DType::F32, shape.to_vec(), x).unwrap())]);
        let arguments = ["run", "rows.toml", "--input", &file, "--repeat", "1", "--stats=json"];
        serde_json::from_str(&product(&moec_in(folder.path(), &arguments))).unwrap()
    };
    let both = stats("both", &[2, 6, 8], &x);
    let row = |name: &str, x: &[f32]| stats(name, &[1, 6, 8], x)["aux_losses"]["switch"].as_f64().unwrap();
    let mean = (row("first", &x[..48]) + row("second", &x[48..])) / 2.0;
    let is = both["stats.aux_loss"].as_f64().unwrap();
    assert!((is - 0.5 * mean).abs() < 1e-5 * is, "{is} {mean}");
    // Over all tokens it is another number, and what was not asked for is not there.
    assert!((both["aux_losses"]["switch"].as_f64().unwrap() - mean).abs() > 1e-3 && both["stats.z_loss"].is_null(), "{both}");
}

/// Where experts choose, no token loses a pair, and there are no picks to compare with a file's.
#[test]
fn experts_that_choose() {
    let folder = folder();
    let name = "../other/flaxformer_expert_choice_cf1";
    let bytes = fs::read(fixture(name, "safetensors")).unwrap();
    let published = Checkpoint::read(&bytes).unwrap();
    let [x, y] = ["in.hidden", "out.hidden"].map(|name| published.tensor(name, DType::F32).unwrap().0);
    let picks = Tensor::new(DType::I32, vec![3, 1], vec![0; 12]).unwrap();
    let file = tensors(folder.path(), "x", &[("in.hidden", &x), ("out.hidden", &y), ("ref.topk_index", &picks)]);
    let (spec, weights) = (fixture(name, "toml"), fixture(name, "safetensors"));
    let run = ["run", &spec, "--weights", &weights, "--tensor-prefix", "w.", "--input", &file, "--stats"];
    let report = product(&moec_in(folder.path(), &run));
    let line = |name: &str| report.lines().find(|line| line.starts_with(name));
    assert!(line("out.hidden ").is_some_and(|line| !line.contains("expert sets")), "{report}");
    let alone = report.split("pairs; ").nth(1).unwrap().split(" by no expert").next().unwrap();
    assert_eq!((line("unchosen "), line("lost ")), (Some(&*format!("unchosen    {alone}")), None), "{report}");
}

#[test]
fn no_tokens() {
    let folder = folder();
    let x = tensors(folder.path(), "x", &[("in.hidden", &zeros(DType::F32, &[2, 0, 64]))]);
    for tokens in [&["--tokens", "0"][..], &["--input", &x, "--output", "y"]] {
        let spec = example("tiny.toml");
        let arguments = [&["run", &spec, "--reference"], tokens].concat();
        insta::allow_duplicates! {
            insta::assert_snapshot!(settled(&product(&moec_in(folder.path(), &arguments))).replace(" in rows of 0", ""));
        }
    }
    let y = fs::read(folder.path().join("y")).unwrap();
    assert_eq!(Checkpoint::read(&y).unwrap().tensor("out.hidden", DType::F32).unwrap().0.shape(), [2, 0, 64]);
}

#[test]
fn what_may_be_wrong() {
    let folder = folder();
    let (spec, mixtral) = (example("tiny.toml"), fixture("mixtral", "safetensors"));
    let x = |name: &str, shape: &[u64]| tensors(folder.path(), name, &[("a", &zeros(DType::F32, shape))]);
    let two = tensors(folder.path(), "two", &[("a", &zeros(DType::F32, &[1, 64])), ("b", &zeros(DType::F32, &[1, 64]))]);
    let (narrow, flat) = (x("narrow", &[5, 63]), x("flat", &[64]));
    let integers = tensors(folder.path(), "integers", &[("a", &zeros(DType::I32, &[1, 64]))]);
    write(folder.path(), "garbage", "garbage");
    let two_named = format!("{two}:c");
    product(&moec_in(folder.path(), &["compile", &spec, "--target", "sm_80", "-o", "gpu.moec"]));
    product(&moec_in(folder.path(), &["compile", &spec, "--target", "host", "-o", "host.moec"]));
    let damaged = fs::read(folder.path().join("host.moec")).unwrap();
    write(folder.path(), "damaged.moec", &damaged[..20]);
    let cases: [(&[&str], i32); 16] = [
        (&["absent.toml"], 1),
        (&["host.moec", "--input", "absent"], 1),
        (&["host.moec", "--weights", "absent"], 1),
        (&["host.moec", "--input", "garbage"], 1),
        (&["host.moec", "--input", &two], 1),
        (&["host.moec", "--input", &two_named], 1),
        (&["host.moec", "--input", &narrow], 1),
        (&["host.moec", "--input", &flat], 1),
        (&["host.moec", "--input", &integers], 1),
        (&["host.moec", "--weights", &mixtral], 1),
        (&[&spec, "--tokens", "4097"], 1),
        (&["damaged.moec"], 1),
        (&["gpu.moec"], 3),
        (&["host.moec", "--reference"], 2),
        (&[&spec, "--output", "-"], 2),
        (&["host.moec", "--output", "no/such/folder/y"], 3),
    ];
    let mut said = String::new();
    for (arguments, exit) in cases {
        let output = moec_in(folder.path(), &[&["run"], arguments].concat());
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        let text = stderr(&output).replace(&spec, "tiny.toml").replace(&mixtral, "mixtral.safetensors");
        said += &text.replace(folder.path().to_str().unwrap(), "folder");
    }
    insta::assert_snapshot!(said);
}

/// Terabytes of weights, which no machine has: refused before any are made.
#[test]
fn weights_beyond_memory() {
    let folder = folder();
    let spec = "[moe]\nhidden = 8192\nexperts = 4096\n[router]\nmode = \"token_choice\"\ntop_k = 2\nscore = \"softmax\"\norder = \
                \"score_topk\"\nrenorm = \"sum\"\n[expert]\nintermediate = 16384\nactivation = \"silu\"\ngated = true\n";
    write(folder.path(), "vast.toml", spec);
    let output = moec_in(folder.path(), &["run", "vast.toml"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("error[MOE0804]"), "{}", stderr(&output));
}

/// A file that claims another output: the report is printed, and the exit code says that it is wrong.
#[test]
fn an_error_above_the_bound() {
    let folder = folder();
    let given = fs::read(fixture("mixtral", "safetensors")).unwrap();
    let (x, _) = Checkpoint::read(&given).unwrap().tensor("in.hidden", DType::F32).unwrap();
    let file = tensors(folder.path(), "x", &[("in.hidden", &x), ("out.hidden", &x)]);
    let weights = fixture("mixtral", "safetensors");
    let arguments = ["run", &fixture("mixtral", "toml"), "--weights", &weights, "--tensor-prefix", "w.", "--input", &file];
    let output = moec_in(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(4));
    assert!(stdout(&output).lines().any(|line| line.starts_with("out.hidden  max error")));
    assert!(stderr(&output).contains("error[MOE0806]: the error against out.hidden is "), "{}", stderr(&output));
}

#[test]
fn a_spec_from_stdin() {
    let folder = folder();
    let text = fs::read_to_string(example("tiny.toml")).unwrap();
    let output = start(folder.path(), &["run", "-", "--repeat", "1"], &[], &text);
    assert!(product(&output).starts_with("layer       tiny, f32, "));
}

#[test]
fn a_gpu_without_a_driver() {
    let doctor = moec_in(Path::new("."), &["doctor", "--no-measure"]);
    if !stdout(&doctor).contains("libcuda   absent") {
        println!("skipped: this machine has a driver");
        return;
    }
    let output = moec_in(Path::new("."), &["run", &example("tiny.toml"), "--device", "cuda"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("error[MOE0804]: no NVIDIA driver"), "{}", stderr(&output));
}

/// 32 tokens of 2 picks in 8 experts of C = 1: 56 of 64 picks are dropped whatever the router does.
#[test]
fn what_every_router_drops_is_said() {
    let folder = folder();
    let spec = "[moe]\nhidden = 16\nexperts = 8\n[router]\ntop_k = 2\n[capacity]\ntokens = 1\n[expert]\nintermediate = 8\n\
                [tokens]\nexpected = [4]\n[numerics]\ndtype = \"f32\"\n";
    write(folder.path(), "floored.toml", spec);
    let run = |tokens| moec_in(folder.path(), &["run", "floored.toml", "--repeat", "1", "--tokens", tokens]);
    let output = run("32");
    assert!(stderr(&output).contains("drops at least 87.5 % of these picks"), "{}", stderr(&output));
    let output = run("4");
    assert!(!stderr(&output).contains("at least"), "4 tokens have 8 picks, and there are 8 places: {}", stderr(&output));
    // Where that is meant, in the spec or on the command line, it is not said again.
    let allowed = moec_in(folder.path(), &["run", "floored.toml", "--repeat", "1", "--tokens", "32", "--allow", "MOE1101"]);
    assert!(allowed.status.success() && !stderr(&allowed).contains("at least"), "{}", stderr(&allowed));
    write(folder.path(), "floored.toml", format!("{spec}[lints]\ncapacity_floor = \"allow\"\n"));
    let allowed = run("32");
    assert!(allowed.status.success() && !stderr(&allowed).contains("at least"), "{}", stderr(&allowed));
}

/// What `moec doctor` measured is what `moec run` holds its time against, where the file is whole and of this machine.
#[test]
fn runs_are_held_against_what_was_measured() {
    let folder = folder();
    let cache = folder.path().display().to_string();
    let moec = |arguments: &[&str]| start(folder.path(), arguments, &[("XDG_CACHE_HOME", &cache)], "");
    let run = |threads: &str| {
        let report = product(&moec(&["run", &example("tiny.toml"), "--repeat", "3", "--threads", threads]));
        report.lines().find(|line| line.starts_with("limit ")).unwrap_or_default().to_string()
    };
    let unknown = "limit       not known: `moec doctor` measures what this machine can do";
    assert_eq!(run("1"), unknown);
    let nowhere = product(&moec_in(folder.path(), &["doctor"]));
    assert!(nowhere.contains("GFLOP/s") && nowhere.contains("not remembered: cannot make "), "{nowhere}");
    let doctor = moec(&["doctor"]);
    let file = folder.path().join("moec").join("limits.json");
    let said = stdout(&doctor);
    assert!(said.contains("memory    read at ") && said.contains(&format!("remembered in {};", file.display())), "{said}");
    let text = fs::read_to_string(&file).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let limits = &json["machines"][0];
    let rate = |value: &serde_json::Value| value.as_u64().unwrap() as f64 / 1e9;
    for products in limits["products"].as_array().unwrap() {
        assert!(said.contains(&format!("{:.1} GFLOP/s by one thread", rate(&products["flops"]["one"]))), "{said}");
    }
    // The fastest memory and the fastest core of today are far below.
    assert!((0.1..10_000.0).contains(&rate(&limits["read"]["one"])), "{text}");
    assert!((1.0..10_000.0).contains(&rate(&limits["products"][0]["flops"]["one"])), "{text}");
    assert!(run("1").contains("% of this machine's: multiplying at "), "the weights fit every cache: {}", run("1"));
    // Other numbers of threads were not measured, other machines are not this one, and a broken file is none.
    assert_eq!(run("37"), unknown);
    let cpu = limits["cpu"].as_str().unwrap();
    for other in
        [text.replace(cpu, "another"), text.replace("\"version\": 1", "\"version\": 0"), text[..text.len() / 2].to_string()]
    {
        fs::write(&file, other).unwrap();
        assert_eq!(run("1"), unknown);
    }
}

/// A mixture of tokens has no pairs to count, and the emulator's time says nothing.
#[test]
fn runs_without_a_limit() {
    let line = |arguments: &[&str]| {
        let report = product(&moec_in(Path::new("."), &[&["run"], arguments].concat()));
        report.lines().find(|line| line.starts_with("limit ")).map(str::to_string)
    };
    let soft = fixture("../other/softmoe_vmoe", "toml");
    assert_eq!(
        line(&[&soft, "--tokens", "8", "--repeat", "1"]).as_deref(),
        Some("limit       not known: what this layer multiplied is not counted")
    );
    assert_eq!(line(&[&example("tiny.toml"), "--tokens", "4", "--device", "emulator"]), None);
}
