//! `moec opt` from outside: it does what `compile` does, one pass at a time, and shows mistakes under their lines.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use crate::command::{example, folder, moec_in, product, start, stderr, stdout, write};

/// The graph of the tiny example, and its folder.
fn tiny() -> tempfile::TempDir {
    let folder = folder();
    let kinds = ["compile", &example("tiny.toml"), "--target", "sm_90a", "--emit", "graph,rewritten,kernel", "--out-dir", "."];
    product(&moec_in(folder.path(), &kinds));
    folder
}

#[test]
fn passes_give_what_compile_gives() {
    let folder = tiny();
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let opt = |file: &str, passes: &str| {
        let batches = ["--tokens", "1,64,1024", "--max-tokens", "4096"];
        product(&moec_in(folder.path(), &[&["opt", file, "--pipeline", passes, "--target", "sm_90a"], &batches[..]].concat()))
    };
    assert_eq!(opt("tiny.graph", "verify"), text("tiny.graph"));
    assert_eq!(opt("tiny.graph", "rewrite"), text("tiny.sm_90a.rewritten.graph"));
    assert_eq!(opt("tiny.graph", "rewrite,verify,schedule,verify"), text("tiny.sm_90a.kernel"));
    assert_eq!(opt("tiny.sm_90a.rewritten.graph", "schedule"), text("tiny.sm_90a.kernel"));
    assert_eq!(opt("tiny.sm_90a.kernel", "verify"), text("tiny.sm_90a.kernel"));
}

#[test]
fn wrong_texts() {
    let folder = folder();
    let cases = [
        ("an_op", "layer @a(%x: tensor<T x 8 x f32>) -> ? {\n  // Misspelt.\n  %y = gemn %x : ?\n  return %y\n}\n", 1),
        (
            "a_shape",
            "layer @a(%x: tensor<T x 8 x f32>, @w: tensor<4 x 9 x f32>) -> ? {\n  // 9 is not 8.\n  %y = gemm %x, [@w] : ?\n  \
             return %y\n}\n",
            4,
        ),
        // Written in another order than it prints: shown as it prints.
        (
            "another_order",
            "layer @a(%x: tensor<T x 8 x f32>, @w: tensor<4 x 9 x f32>) -> ? {\n  %u = silu %x : ?\n  %y = gemm %x, [@w] : \
             ?\n  return %y\n}\n",
            4,
        ),
        ("a_kernel", "program @p {\n  buffer %x: nonsense f32[T]\n}\n", 1),
        ("a_regime", "program @p {\n  buffer %x: input f32[T]\n  buffer %x: output f32[T]\n}\n", 4),
        ("a_spec", "[moe]\nhidden = 1\n", 1),
        ("empty", "", 1),
    ];
    for (name, text, exit) in cases {
        write(folder.path(), name, text);
        let output = moec_in(folder.path(), &["opt", name, "--pipeline", "verify", "--target", "sm_80"]);
        assert_eq!(output.status.code(), Some(exit), "{name}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
        insta::assert_snapshot!(name, stderr(&output));
    }
}

/// The same kernels on a machine that cannot run them.
#[test]
fn every_violation_is_under_its_line() {
    let folder = tiny();
    let file = "tiny.sm_90a.kernel";
    let arguments = ["opt", file, "--pipeline", "verify", "--target", "x86-64-v3", "--message-format", "json"];
    let output = moec_in(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(4));
    let text = fs::read_to_string(folder.path().join(file)).unwrap();
    let said = stderr(&output);
    assert!(said.lines().count() > 5);
    for line in said.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        let at = object["spans"][0]["line_start"].as_u64().unwrap() as usize;
        let (message, line) = (object["message"].as_str().unwrap(), text.lines().nth(at - 1).unwrap());
        assert!(!message.contains("shuffle") || line.contains("shuffle"), "{message}: {line}");
        assert!(!message.contains("threads") || line.starts_with("kernel"), "{message}: {line}");
    }
}

#[test]
fn passes_in_an_order_that_cannot_be() {
    let folder = tiny();
    let output = moec_in(folder.path(), &["opt", "tiny.graph", "--pipeline", "rewrite,schedule,rewrite", "--target", "sm_80"]);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(stderr(&output));
    assert_eq!(moec_in(folder.path(), &["opt", "tiny.graph", "--pipeline", "bake"]).status.code(), Some(2));
    let unfused = moec_in(folder.path(), &["opt", "tiny.graph", "--pipeline", "schedule", "--target", "sm_80"]);
    assert_eq!(unfused.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&unfused));
}

#[test]
fn a_graph_from_stdin() {
    let folder = tiny();
    let text = fs::read_to_string(folder.path().join("tiny.graph")).unwrap();
    let output = start(folder.path(), &["opt", "-", "--pipeline", "verify"], &[], &text);
    assert_eq!(product(&output), text);
}
