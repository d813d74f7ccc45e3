//! Libraries in other people's programs: the examples of engines do what their READMEs say. Those that take longer, or more to install, are
//! in `make test-engines` alone.
#![cfg(unix)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::command::{folder, moec_in, product, stderr, stdout};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Said past the harness, which keeps what a test that passes prints.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn light_engines_run_a_published_block() {
    let mut script = Command::new("bash");
    script.arg("scripts/test_engines.sh").args(["c", "cpp", "rust", "tvm-ffi"]);
    script.current_dir(ROOT).env("MOEC", env!("CARGO_BIN_EXE_moec")).env("MOEC_PTXAS", "");
    let Ok(output) = script.output() else {
        say("skipped: examples/engines: there is no bash");
        return;
    };
    let printed = stdout(&output);
    printed.lines().filter(|line| line.starts_with("skipped: ")).for_each(say);
    assert!(output.status.success(), "{printed}{}", stderr(&output));
    let said = printed.lines().filter(|line| line.starts_with("skipped: ") || line.contains(": ok, ")).count();
    assert_eq!(said, 4, "{printed}");
}

/// Modules of layers with token ids, with sequences, with bits in the place of bf16, for a GPU, and of the experts alone.
#[test]
fn rust_modules_compile() {
    let folder = folder();
    let read = |path: &str| std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let hash = read("tests/fixtures/huggingface/deepseek_v4_hash.toml").replacen("[router]\n", "[router]\nvocabulary = 64\n", 1);
    let specs = [
        (hash, "host", "layer"),
        (read("tests/fixtures/other/softmoe_vmoe.toml"), "host", "layer"),
        (read("examples/specs/olmoe-1b-7b.toml"), "sm_90a", "layer"),
        (read("tests/fixtures/huggingface/mixtral.toml"), "host", "experts"),
    ];
    let mut modules = String::new();
    for (index, (spec, target, entry)) in specs.iter().enumerate() {
        let name = format!("layer_{index}.rs");
        std::fs::write(folder.path().join("spec.toml"), spec).unwrap();
        product(&moec_in(
            folder.path(),
            &["compile", "spec.toml", "--target", target, "--entry", entry, "--emit", "rust", "-o", &name],
        ));
        modules += &format!("pub mod m{index} {{ include!(\"{name}\"); }}\n");
    }
    std::fs::write(folder.path().join("all.rs"), format!("#![deny(warnings)]\n{modules}")).unwrap();
    for edition in ["2021", "2024"] {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--crate-type", "lib", "--emit", "metadata", "--edition", edition, "all.rs"]).current_dir(folder.path());
        let Ok(output) = rustc.output() else {
            say("skipped: modules of layers: there is no rustc");
            return;
        };
        assert!(output.status.success(), "{edition}: {}", stderr(&output));
    }
}
