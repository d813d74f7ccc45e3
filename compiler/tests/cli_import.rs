//! `moec import` and `--preset` from outside: what goes to stdout, what to stderr, and the exit codes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crate::command;
use crate::command::{fixture, folder, moec_in, names_in, product, stderr, stdout};

/// moec, in the folder of the published configs.
fn moec(arguments: &[&str]) -> std::process::Output {
    moec_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hugging_face"), arguments)
}

#[test]
fn a_config_becomes_a_spec() {
    let output = moec(&["import", "deepseek_v3.config.json", "--layer", "3"]);
    insta::assert_snapshot!(product(&output) + "---\n" + &stderr(&output));
}

#[test]
fn a_spec_that_is_not_carried_yet_is_still_written() {
    let output = moec(&["import", "gemma4.config.json"]);
    let spec = product(&output);
    assert!(spec.contains("input_norm = \"rms\"\n"), "{spec}");
    assert!(
        stderr(&output).contains("`routed experts' input") || stderr(&output).contains("norms them apart"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_is_imported_compiles() {
    let folder = folder();
    let spec = folder.path().join("spec.toml");
    let arguments = ["import", "qwen3_moe.config.json", "-o", spec.to_str().unwrap()];
    let output = moec(&arguments);
    assert_eq!(product(&output), "");
    assert!(stderr(&output).contains("wrote "), "{}", stderr(&output));
    assert!(product(&moec_in(folder.path(), &["check", "spec.toml"])).starts_with("spec.toml: ok: hidden 32, 16 experts of 32"));
    assert_eq!(names_in(folder.path()), ["spec.toml"]);
}

/// The chain that a user walks: config and checkpoint in, the published block's output out.
#[test]
fn what_is_imported_runs_as_the_published_block() {
    let folder = folder();
    for (name, experts) in [("mixtral", "experts.gate_up_proj"), ("deepseek_v3", "experts.gate_up_proj"), ("dbrx_nonorm", "w1")] {
        let tensors = fixture(name, "safetensors");
        let read =
            |file: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hugging_face").join(file));
        let text = read(&format!("{name}.config.json")).unwrap().replace("\"dtype\": null", "\"dtype\": \"float32\"");
        command::write(folder.path(), "config.json", text);
        let spec = product(&moec_in(folder.path(), &["import", "config.json", "--check", &tensors]));
        assert!(spec.contains(experts) && spec.contains("dtype = \"f32\""), "{spec}");
        command::write(folder.path(), "spec.toml", spec);
        let input = format!("{tensors}:in.hidden");
        let arguments = ["run", "spec.toml", "--weights", &tensors, "--tensor-prefix", "w.", "--input", &input, "--reference"];
        let said = product(&moec_in(folder.path(), &arguments));
        let published = said.lines().find(|line| line.starts_with("out.hidden ")).unwrap();
        assert!(published.contains("(at most 2e-5)"), "{said}");
    }
}

#[test]
fn a_checkpoint_is_checked() {
    let output = moec(&["import", "mixtral.config.json", "--check", &fixture("mixtral", "safetensors")]);
    assert!(product(&output).contains("gate_up = \"experts.gate_up_proj\"\n"), "{}", stdout(&output));
    assert!(stderr(&output).contains("ok: 3 tensors below `w.`, all of the right type and shape"), "{}", stderr(&output));

    let output = moec(&["import", "mixtral.config.json", "--check", &fixture("olmoe", "safetensors")]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("`w.gate.weight` has the shape [16, 32], not [8, 32]"), "{}", stderr(&output));
}

#[test]
fn what_may_be_wrong() {
    let cases: [&[&str]; 6] = [
        &["import", "deepseek_v3.config.json", "--layer", "2"],
        &["import", "qwen2_moe.toml"],
        &["import", "headers.json"],
        &["import", "--preset", "mixtrl-8x7b"],
        &["import", "--preset", "jamba-v0.1", "--layer", "4"],
        &["import", "deepseek_v4_hash.config.json"],
    ];
    let said = cases.map(|arguments| {
        let output = moec(arguments);
        assert_eq!(stdout(&output), "");
        format!("$ moec {}\n{}exit code {}\n\n", arguments.join(" "), stderr(&output), output.status.code().unwrap())
    });
    insta::assert_snapshot!(said.concat());
}

#[test]
fn presets_stand_for_specs() {
    let names = product(&moec(&["import", "--preset", "list"]));
    assert_eq!(names.lines().count(), 23);
    for command in ["compile", "check"] {
        assert_eq!(product(&moec(&[command, "--preset", "list"])), names);
    }
    assert!(
        product(&moec(&["check", "--preset", "deepseek-v3"])).starts_with("<preset deepseek-v3>: ok: hidden 7168, 256 experts")
    );
    let graph = product(&moec(&["compile", "--preset", "mixtral-8x7b", "--emit", "graph", "-o", "-"]));
    assert!(graph.starts_with("layer @"), "{graph}");
    assert_eq!(moec(&["compile", "--preset", "mixtral"]).status.code(), Some(2));
    assert_eq!(moec(&["compile"]).status.code(), Some(2));
}
