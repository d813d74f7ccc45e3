//! `moec compile` from outside: which files it writes, what it says, and when it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;

use crate::command::{example, folder, moec_in, names_in, product, settled, start, stderr, stdout, write};

#[test]
fn a_package_is_what_it_writes() {
    let folder = folder();
    let output = moec_in(folder.path(), &["compile", &example("tiny.toml"), "--target", "sm_80,sm_90a"]);
    assert_eq!(product(&output), "");
    assert_eq!(names_in(folder.path()), ["tiny.moec"]);
    insta::assert_snapshot!(settled(&stderr(&output)));
}

#[test]
fn every_stage_has_its_name() {
    let folder = folder();
    let kinds = "graph,rewritten,kernel,llvm,ptx,shared-object,manifest,package,c,header,obj,staticlib,cdylib";
    let arguments = ["compile", &example("tiny.toml"), "--target", "sm_80,x86-64-v3", "--emit", kinds, "--out-dir", "out"];
    product(&moec_in(folder.path(), &arguments));
    insta::assert_snapshot!(names_in(&folder.path().join("out")).join("\n"));
    let text = |name: &str| fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    assert!(text("tiny.graph").starts_with("layer @tiny("));
    assert!(text("tiny.sm_80.kernel").starts_with("program @tiny {"));
    assert!(text("tiny.sm_80.ptx").contains(".target sm_80"));
    assert!(text("tiny.x86-64-v3.ll").contains("define"));
    let manifest: serde_json::Value = serde_json::from_str(&text("tiny.manifest.json")).unwrap();
    assert_eq!(manifest["targets"].as_array().unwrap().len(), 2);
}

#[test]
fn one_file_goes_where_it_is_told() {
    let folder = folder();
    let spec = example("tiny.toml");
    let printed = moec_in(folder.path(), &["compile", &spec, "--emit", "graph", "-o", "-"]);
    assert_eq!(stderr(&printed), "");
    product(&moec_in(folder.path(), &["compile", &spec, "--emit", "graph", "-o", "named.txt"]));
    assert_eq!(fs::read_to_string(folder.path().join("named.txt")).unwrap(), product(&printed));
    let package = moec_in(folder.path(), &["compile", &spec, "--target", "sm_80", "-o", "-"]);
    assert!(package.stdout.starts_with(b"moec.pkg"));
    assert_eq!(names_in(folder.path()), ["named.txt"]);
}

#[test]
fn the_host_is_a_target() {
    let folder = folder();
    let output = moec_in(folder.path(), &["compile", &example("tiny.toml"), "--emit", "kernel", "-o", "-"]);
    assert!(product(&output).starts_with("program @tiny {"));
    let twice = ["compile", &example("tiny.toml"), "--target", "sm_80,sm_80", "--emit", "kernel", "-o", "-"];
    assert!(product(&moec_in(folder.path(), &twice)).starts_with("program @tiny {"), "the same machine counts once");
}

#[test]
fn the_same_spec_gives_the_same_bytes() {
    let folder = folder();
    let spec = example("tiny.toml");
    let compile = |threads: &str| {
        let arguments = ["compile", &spec, "--target", "sm_80,sm_90a,x86-64-v3", "-o", "-"];
        let output = start(folder.path(), &arguments, &[("RAYON_NUM_THREADS", threads)], "");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output.stdout
    };
    let first = compile("1");
    assert!(first == compile("1"), "twice");
    assert!(first == compile("2"), "on two threads");
}

#[test]
fn a_spec_without_a_name_takes_its_files() {
    let folder = folder();
    let text = fs::read_to_string(example("tiny.toml")).unwrap().replace("name = \"tiny\"", "");
    write(folder.path(), "my layer.toml", &text);
    let named = moec_in(folder.path(), &["compile", "my layer.toml", "--emit", "graph", "-o", "-"]);
    assert!(product(&named).starts_with("layer @mylayer("));
    let unnamed = start(folder.path(), &["compile", "-", "--emit", "graph", "-o", "-"], &[], &text);
    assert!(product(&unnamed).starts_with("layer @layer("));
}

#[test]
fn why() {
    let folder = folder();
    let arguments = ["compile", &example("tiny.toml"), "--target", "sm_90a", "--emit", "graph", "-o", "-", "--why"];
    let output = moec_in(folder.path(), &arguments);
    assert!(product(&output).starts_with("layer @tiny("));
    let said = stderr(&output);
    assert!(said.starts_with("tiny for sm_90a: ") && said.contains(" -> "), "{said}");
    for rule in ["fuse-dispatch-into-gather", "fuse-gate-up", "fuse-assign-into-route"] {
        assert!(said.lines().any(|line| line.trim_end().ends_with(rule)), "{rule} in {said}");
    }
}

#[test]
fn what_does_not_go_together() {
    let folder = folder();
    let spec = example("tiny.toml");
    let cases: [(&[&str], i32); 7] = [
        (&["--emit", "graph,kernel", "-o", "x"], 2),
        (&["--emit", "kernel", "--target", "sm_80,sm_90a", "-o", "x"], 2),
        (&["--emit", "ptx", "--target", "x86-64-v3"], 2),
        (&["--emit", "shared-object", "--target", "sm_80"], 2),
        (&["-o", "x", "--out-dir", "y"], 2),
        (&["--emit", "cubin", "--target", "sm_80"], 3),
        (&["--emit", "graph", "-o", "no/such/folder/x"], 3),
    ];
    let mut said = String::new();
    for (flags, exit) in cases {
        let output = moec_in(folder.path(), &[&["compile", &spec], flags].concat());
        assert_eq!(output.status.code(), Some(exit), "{flags:?}");
        assert_eq!(stdout(&output), "");
        said += &stderr(&output).replace(&spec, "tiny.toml");
    }
    assert!(names_in(folder.path()).is_empty(), "{:?}", names_in(folder.path()));
    insta::assert_snapshot!(said);
}

#[test]
fn a_wrong_spec_is_shown_and_nothing_written() {
    let folder = folder();
    let text = fs::read_to_string(example("tiny.toml")).unwrap().replace("top_k = 2", "top_k = 9");
    write(folder.path(), "wrong.toml", text);
    let output = moec_in(folder.path(), &["compile", "wrong.toml"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output));
    assert_eq!(names_in(folder.path()), ["wrong.toml"]);
}

#[test]
fn an_old_file_is_replaced_whole() {
    let folder = folder();
    write(folder.path(), "tiny.graph", "x".repeat(1 << 20));
    product(&moec_in(folder.path(), &["compile", &example("tiny.toml"), "--emit", "graph"]));
    let text = fs::read_to_string(folder.path().join("tiny.graph")).unwrap();
    assert!(text.starts_with("layer") && text.len() < 1 << 20);
    assert_eq!(names_in(folder.path()), ["tiny.graph"], "no temporary is left");
}

#[test]
fn notes_as_json_lines() {
    let folder = folder();
    let arguments = ["compile", &example("tiny.toml"), "--target", "sm_80", "--message-format", "json"];
    let output = moec_in(folder.path(), &arguments);
    for line in stderr(&output).lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["level"], "note");
    }
    assert!(!output.stderr.is_empty());
}

#[test]
fn a_closed_pipe_is_quiet() {
    let script = "{ \"$0\" compile \"$1\" --emit kernel -o -; echo $? >&2; } | head -1";
    let output =
        Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_moec"), &example("deepseek-v3.toml")]).output().unwrap();
    assert_eq!(stderr(&output).trim(), "0");
}

/// What `check` accepts has kernels for every machine.
#[test]
fn check_looks_as_far_as_the_kernels() {
    let folder = folder();
    let specs = fs::read_dir(example("")).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    let mut arguments = vec!["check".to_string()];
    arguments.extend(specs);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = moec_in(folder.path(), &arguments);
    assert_eq!(product(&output).lines().count(), arguments.len() - 1);
}

/// What only a later stage finds out is said at the keys of the spec, by every command that compiles one.
#[test]
fn errors_of_later_stages_have_places() {
    let folder = folder();
    let layer = |experts: u32, max: u32| {
        format!(
            "[moe]\nname = \"late\"\nhidden = 8\nexperts = {experts}\n[router]\ntop_k = 2\nscore = \"softmax\"\norder = \"score_topk\"\n\
             [expert]\nintermediate = 8\nactivation = \"silu\"\n[training]\naux_loss = \"megatron\"\naux_coef = 0.5\n\
             [tokens]\nmax = {max}\n[numerics]\ndtype = \"f32\"\n"
        )
    };
    write(folder.path(), "many.toml", layer(4096, 64));
    write(folder.path(), "few.toml", layer(4, 64));
    for (arguments, place) in [
        (["check", "many.toml", "-q"].as_slice(), "many.toml:13:12"),
        (&["compile", "many.toml", "-q", "--target", "sm_80"], "many.toml:13:12"),
        (&["compile", "many.toml", "-q", "--target", "sm_80", "--emit", "kernel", "-o", "-"], "many.toml:13:12"),
        (&["run", "many.toml", "-q", "--device", "emulator", "--target", "sm_80"], "many.toml:13:12"),
        (&["check", "many.toml", "-q", "--emulate", "--target", "sm_80"], "many.toml:13:12"),
        (&["run", "few.toml", "-q", "--tokens", "65"], "few.toml:16:7"),
        (&["check", "few.toml", "-q", "--emulate", "--target", "sm_80", "--tokens", "65"], "few.toml:16:7"),
    ] {
        let output = moec_in(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(&format!("--> {place}")), "{arguments:?}: {}", stderr(&output));
    }
    let check = moec_in(folder.path(), &["check", "many.toml", "-q"]);
    insta::assert_snapshot!(stderr(&check));
}

/// What bounds the workspace is said before anything runs, and a batch that needs more is run in parts.
#[test]
fn a_workspace_is_bounded() {
    let folder = folder();
    let spec = |name: &str, limit: &str, capacity: &str| {
        let text = format!(
            "[moe]\nname = \"room\"\nhidden = 64\nexperts = 4\n[router]\ntop_k = 2\nscore = \"softmax\"\norder = \"score_topk\"\nrenorm \
             = \"sum\"\n[expert]\nintermediate = 32\nactivation = \"silu\"\ngated = true\n{capacity}[tokens]\nmax = 4096\nworkspace = \
             {limit}\n"
        );
        fs::write(folder.path().join(name), text).unwrap();
    };
    spec("room.toml", "\"256 KiB\"", "");
    spec("little.toml", "1000", "");
    spec("shared.toml", "\"32 KiB\"", "[capacity]\ntokens = 64\npriority = \"token_major\"\ndropped = \"zero\"\n");
    let refused = |name: &str| {
        let output = moec_in(folder.path(), &["compile", name, "--target", "x86-64-v3", "-o", "refused.moec"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output)
    };
    insta::assert_snapshot!([refused("little.toml"), refused("shared.toml")].join("\n"));
    product(&moec_in(folder.path(), &["compile", "room.toml", "--target", "host", "-o", "room.moec"]));
    let manifest: serde_json::Value =
        serde_json::from_str(&product(&moec_in(folder.path(), &["inspect", "room.moec", "--manifest"]))).unwrap();
    assert_eq!((&manifest["cuts"], &manifest["workspace_limit"]), (&"tokens".into(), &(256 * 1024).into()));
    let run = product(&moec_in(folder.path(), &["run", "room.moec", "--tokens", "4096"]));
    insta::assert_snapshot!(settled(&run));
}
