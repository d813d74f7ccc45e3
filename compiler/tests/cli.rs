//! The command line from outside: exit codes, what goes to stdout and what to stderr.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;

use std::process::Command;

use command::{moec, moec_with_input, stderr, stdout};

const TINY: &str = include_str!("../../examples/specs/tiny.toml");

#[test]
fn check_says_ok_on_stdout() {
    let output = moec(&["check", "../../../examples/specs/tiny.toml", "../../../examples/specs/mixtral-8x7b.toml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
    insta::assert_snapshot!(stdout(&output));
}

#[test]
fn check_reads_stdin_in_both_spellings() {
    assert_eq!(moec_with_input(&["check", "-"], TINY).status.code(), Some(0));
    let json = r#"{"moe": {"hidden": 64, "experts": 8}, "router": {"top_k": 9}, "expert": {"intermediate": 8}}"#;
    let output = moec_with_input(&["check", "-"], json);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    insta::assert_snapshot!(stderr(&output));
}

#[test]
fn diagnostics_as_json_lines() {
    let output = moec(&["check", "many_mistakes.toml", "--message-format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let objects: Vec<serde_json::Value> = stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects.len() >= 10, "{}", objects.len());
    for object in objects {
        assert_eq!(object["level"], "error");
        assert!(object["spans"][0]["line_start"].as_u64().is_some(), "{object}");
        assert!(object["code"]["code"].as_str().is_some_and(|code| code.starts_with("MOE")), "{object}");
    }
}

/// 8 picks a token and a factor that does not count them: C = 3 for 16 at T = 128.
const FLOORED: &str = "[moe]\nhidden = 64\nexperts = 64\n[router]\ntop_k = 8\n[capacity]\nfactor = 1.25\ncount_k = false\nround = \"ceil\"\n\
                       [expert]\nintermediate = 8\n[tokens]\nexpected = [1, 128, 4096]\n";

#[test]
fn a_capacity_that_no_router_keeps_to_is_a_warning() {
    let output = moec_with_input(&["check", "-"], FLOORED);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("<stdin>: ok"), "{}", stdout(&output));
    insta::assert_snapshot!(stderr(&output));
    let json = moec_with_input(&["check", "-", "--message-format", "json"], FLOORED);
    let object: serde_json::Value = serde_json::from_str(stderr(&json).trim()).unwrap();
    assert_eq!((&object["level"], &object["code"]["code"]), (&"warning".into(), &"MOE1101".into()));
}

#[test]
fn warnings_are_denied_or_allowed() {
    let with = |level: &str| format!("{FLOORED}[lints]\ncapacity_floor = \"{level}\"\n");
    for (arguments, text, code, words) in [
        (&["check", "-", "--deny-warnings"][..], FLOORED.to_string(), 1, "error[MOE1101]"),
        (&["compile", "-", "--emit", "graph", "--deny-warnings"], FLOORED.to_string(), 1, "error[MOE1101]"),
        (&["check", "-", "--deny-warnings", "--allow", "MOE1101"], FLOORED.to_string(), 0, ""),
        (&["check", "-", "--allow", "1101"], FLOORED.to_string(), 0, ""),
        (&["check", "-", "--deny-warnings"], with("allow"), 0, ""),
        (&["check", "-"], with("deny"), 1, "error[MOE1101]"),
        (&["check", "-"], with("warn"), 0, "warning[MOE1101]"),
        (&["check", "-", "--allow", "MOE0101"], FLOORED.to_string(), 2, "MOE0101 is an error"),
        (&["check", "-", "--deny-warnings"], FLOORED.replace("count_k = false", "count_k = true"), 0, ""),
    ] {
        let output = moec_with_input(arguments, &text);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        match words {
            "" => assert_eq!(stderr(&output), "", "{arguments:?}"),
            words => assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output)),
        }
    }
}

#[test]
fn diagnostics_in_short() {
    let output = moec(&["check", "many_mistakes.toml", "--message-format", "short"]);
    insta::assert_snapshot!(stderr(&output));
}

#[test]
fn colour_is_asked_for() {
    let plain = moec(&["check", "empty.toml"]);
    assert!(!stderr(&plain).contains('\u{1b}'), "stderr is a pipe");
    let coloured = moec(&["check", "empty.toml", "--color", "always"]);
    assert!(stderr(&coloured).contains('\u{1b}'));
}

#[test]
fn an_absent_file() {
    let output = moec(&["check", "no-such-file.toml"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output));
}

#[test]
fn usage() {
    for arguments in [&["compile"][..], &["compile", "x", "--target", "sm_90"], &["bake"], &["run", "x", "--device", "tpu"], &[]]
    {
        let output = moec(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    let help = moec(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    insta::assert_snapshot!(stdout(&help));
}

#[test]
fn explain() {
    let output = moec(&["explain", "moe0308"]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(stdout(&output));
    assert_eq!(moec(&["explain", "MOE9999"]).status.code(), Some(2));
}

/// The codes are a promise: one that is renumbered or dropped shows here.
#[test]
fn codes() {
    insta::assert_snapshot!(stdout(&moec(&["explain", "--list"])));
}

#[test]
fn schema_is_json_and_lists_every_table() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&moec(&["schema"]))).unwrap();
    let tables = schema["properties"].as_object().unwrap();
    for table in ["moe", "router", "capacity", "expert", "shared", "weights", "tokens", "numerics"] {
        assert_eq!(tables[table]["additionalProperties"], false, "{table}");
    }
}

#[test]
fn targets() {
    insta::assert_snapshot!(stdout(&moec(&["targets"])));
}

#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = moec(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("moec"), "{shell}");
    }
}

#[test]
fn doctor_names_what_it_looks_for() {
    let output = moec(&["doctor"]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    for tool in ["llvm", "ptxas", "cc", "libcuda"] {
        assert!(stdout(&output).lines().any(|line| line.starts_with(tool)), "{tool}");
    }
}

/// `moec schema | head -1`: the reader leaves, and moec says nothing about it.
#[test]
fn a_closed_pipe_is_quiet() {
    let script = "{ \"$0\" schema; echo $? >&2; } | head -1";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_moec")]).output().unwrap();
    assert_eq!(stderr(&output).trim(), "0");
}
