//! The command line from outside: exit codes, what goes to stdout and what to stderr.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::command::{example, folder, moec, moec_in, moec_with_input, product, stderr, stdout, write};

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

/// One pick a token, ranked by its weight.
fn ranked(router: &str, capacity: &str) -> String {
    format!(
        "[moe]\nhidden = 64\nexperts = 8\n[router]\n{router}\n[capacity]\ntokens = 64\npriority = \"score\"\n{capacity}\n\
         [expert]\nintermediate = 8\n[tokens]\nexpected = [1, 128]\n"
    )
}

#[test]
fn a_ranking_of_equal_weights_is_a_warning() {
    let output = moec_with_input(&["check", "-"], &ranked("top_k = 1\nrenorm = \"sum\"", ""));
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(stderr(&output));
    // That these weights are all 1, and only these, `tests/tests/priority.rs` has by hand.
    for (router, capacity, warns) in [
        ("top_k = 1\norder = \"topk_score\"", "", true),
        ("top_k = 1\nscore = \"sigmoid\"\nrenorm = \"sum\"\nrenorm_eps = 1e-20\nscale = 2.5", "", true),
        ("top_k = 1\nrenorm = \"p\"\nrenorm_p = 2.0", "", true),
        ("mode = \"hash\"\nvocabulary = 9\ntop_k = 1\nrenorm = \"sum\"", "", true),
        ("top_k = 1\nrenorm = \"sum\"\nrenorm_eps = 0.125\nrenorm_eps_mode = \"clamp\"", "", true),
        ("top_k = 1\nrenorm = \"sum\"\nrenorm_eps = 0.25\nrenorm_eps_mode = \"clamp\"", "", false),
        ("top_k = 1\nrenorm = \"sum\"\nrenorm_eps = 0.5", "", false),
        ("top_k = 1\nrenorm = \"sum\"", "renorm_after_drop = true", false),
        ("top_k = 1\norder = \"topk_score\"\nscore = \"sigmoid\"", "", false),
        ("top_k = 1\nscore = \"identity\"\nrenorm = \"p\"\nrenorm_p = 2.0", "", false),
        ("top_k = 1", "", false),
        ("top_k = 2\nrenorm = \"sum\"", "", false),
        ("mode = \"expert_choice\"", "", false),
    ] {
        let output = moec_with_input(&["check", "-"], &ranked(router, capacity));
        let says = stderr(&output);
        assert_eq!((output.status.code(), says.contains("warning[MOE1113]")), (Some(0), warns), "{router} {capacity}: {says}");
        let allowed = ranked(router, capacity) + "[lints]\nequal_weights = \"allow\"\n";
        assert_eq!(stderr(&moec_with_input(&["check", "-", "--deny-warnings"], &allowed)), "", "{router} {capacity}");
    }
}

#[test]
fn a_word_of_an_earlier_version_is_read() {
    let spec = |group: &str| {
        format!(
            "[moe]\nhidden = 32\nexperts = 4\n[router]\ntop_k = 1\nscore = \"softmax\"\nrenorm = \"none\"\n[expert]\n\
             intermediate = 32\nactivation = \"silu\"\n[capacity]\nfactor = 2.0\nround = \"ceil\"\ngroup = \"{group}\"\n"
        )
    };
    let graph = |group: &str| moec_with_input(&["compile", "-", "--emit", "graph", "-o", "-"], &spec(group));
    let (old, new) = (graph("row"), graph("sequence"));
    assert_eq!((old.status.code(), &old.stdout), (Some(0), &new.stdout), "{}", stderr(&old));
    let warned = stderr(&old);
    assert!(
        warned.contains("warning[MOE1114]: group = \"row\" is an old word for \"sequence\"") && warned.contains("<stdin>:14:9"),
        "{warned}"
    );
    assert_eq!(stderr(&new), "");
    let refused = moec_with_input(&["check", "-", "--deny-warnings"], &spec("row"));
    assert_ne!(refused.status.code(), Some(0));
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

/// In whatever order the flags stand, and with the fields of every other diagnostic.
#[test]
fn usage_errors_as_json() {
    for arguments in [
        &["bake", "--message-format", "json"][..],
        &["--message-format=json", "run", "x", "--threads", "0"],
        &["run", "--message-format", "json"],
        &["check", "x", "--tokns", "3", "--message-format=json"],
        &["compile", "x", "--target", "sm_90", "--message-format", "json"],
    ] {
        let output = moec(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let object: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!((&object["code"]["code"], &object["level"]), (&"MOE0606".into(), &"error".into()), "{object}");
        let message = object["message"].as_str().unwrap();
        assert!(!message.starts_with("error") && !message.contains('\n') && message.len() > 10, "{object}");
    }
    let short = moec(&["bake", "--message-format", "short"]);
    assert_eq!(stderr(&short), "error[MOE0606]: unrecognized subcommand 'bake'\n");
}

/// `-q` hides what is no warning; `-v` adds what the stages do, as notes in every format.
#[test]
fn quiet_and_verbose() {
    let folder = folder();
    let tiny = example("tiny.toml");
    let compile = |more: &[&str]| {
        let output = moec_in(folder.path(), &[&["compile", &tiny, "--target", "sm_90a", "-o", "tiny.moec"], more].concat());
        assert_eq!(product(&output), "");
        stderr(&output)
    };
    assert!(compile(&[]).contains("wrote tiny.moec"));
    assert_eq!(compile(&["--quiet"]), "");
    let verbose = compile(&["-v"]);
    assert!(verbose.contains("scheduled machine=\"sm_90a\"") && verbose.contains("wrote tiny.moec"), "{verbose}");
    for line in compile(&["-v", "--message-format", "json"]).lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["level"], "note", "{line}");
    }
    assert_eq!(moec(&["compile", &tiny, "-q", "-v"]).status.code(), Some(2));
    // Errors are never hidden.
    let wrong = moec(&["check", "empty.toml", "-q"]);
    assert!(stderr(&wrong).contains("error[MOE0008]"), "{}", stderr(&wrong));
}

/// Nothing is drawn where stderr is no terminal; on one, what takes longer than half a second shows that it is still running.
#[test]
fn signs_of_life() {
    let folder = folder();
    let tiny = example("tiny.toml");
    let arguments = ["run", &tiny, "--tokens", "2048", "--repeat", "400"];
    let piped = moec_in(folder.path(), &arguments);
    assert!(!stderr(&piped).contains("running"), "{}", stderr(&piped));
    let words: Vec<String> = std::iter::once(env!("CARGO_BIN_EXE_moec")).chain(arguments).map(|w| format!("'{w}'")).collect();
    let on_terminal = |more: &str| {
        let command = format!("{} {more}", words.join(" "));
        let output = Command::new("script").args(["-qec", &command, "/dev/null"]).output();
        output.ok().filter(|output| output.status.success()).map(|output| stdout(&output))
    };
    let Some(shown) = on_terminal("") else {
        println!("skipped: `script`, which runs a command on a terminal, is not here");
        return;
    };
    assert!(shown.contains("running [") && shown.contains(" of 400"), "{shown}");
    assert!(on_terminal("-q").is_some_and(|shown| !shown.contains("running [")));
    assert!(on_terminal("--message-format short").is_some_and(|shown| !shown.contains("running [")));
}

/// What a report of a bug needs: the version, the commit where this is a checkout, and LLVM.
#[test]
fn version() {
    let version = product(&moec(&["--version"]));
    let inside =
        version.strip_prefix(concat!("moec ", env!("CARGO_PKG_VERSION"), " (")).unwrap().trim_end().strip_suffix(')').unwrap();
    let llvm = inside.rsplit(", ").next().unwrap();
    assert!(llvm.starts_with("LLVM 22."), "{version}");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let git = Command::new("git").args(["-C", root, "rev-parse", "--short=12", "HEAD"]).output();
    let is_checkout = Path::new(root).join(".git").exists();
    if let Some(git) = git.ok().filter(|git| git.status.success() && is_checkout) {
        assert_eq!(inside, format!("{}, {llvm}", stdout(&git).trim()));
    } else {
        assert_eq!(inside, llvm);
    }
    assert_eq!(product(&moec(&["-V"])), version);
    assert!(stdout(&moec(&["doctor", "--no-measure"])).contains(inside));
}

/// `moec man` has a page for moec and one for each command, with its options and its examples.
#[test]
fn man_pages() {
    let page = |command: &[&str]| product(&moec(&[&["man"], command].concat()));
    assert!(page(&[]).contains(".TH moec 1"));
    for command in commands() {
        let page = page(&[&command]);
        assert!(page.contains(&format!(".TH moec-{command} 1")) && page.contains("SYNOPSIS"), "{command}: {page}");
        assert!(page.contains("Example"), "{command}");
    }
    assert!(page(&["run"]).contains("threads"));
    assert_eq!(moec(&["man", "bake"]).status.code(), Some(2));
}

/// The commands that `--help` lists.
fn commands() -> BTreeSet<String> {
    let help = stdout(&moec(&["--help"]));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_string).collect()
}

/// The words that stand in backquotes on the page of the command line, from this line to the exit codes.
fn quoted_on_the_page(start: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let line = text.lines().skip_while(|line| !line.starts_with(start)).take_while(|line| !line.starts_with("Exit codes"));
    line.collect::<String>().split('`').skip(1).step_by(2).map(str::to_string).collect()
}

/// What the page lists is what there is.
#[test]
fn the_page_lists_every_target_and_command() {
    let targets = stdout(&moec(&["targets"]));
    let targets: BTreeSet<String> =
        targets.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect();
    assert_eq!(quoted_on_the_page("Targets: "), targets);
    let rows = quoted_on_the_page("| command |");
    let listed = rows.iter().filter_map(|row| row.strip_prefix("moec ")).filter_map(|row| row.split_whitespace().next());
    assert_eq!(listed.map(str::to_string).collect::<BTreeSet<_>>(), commands());
}

/// What a target's line promises is in the PTX that is written for it.
#[test]
fn targets_promise_no_instruction_that_kernels_do_not_use() {
    let folder = folder();
    for line in stdout(&moec(&["targets"])).lines().filter(|line| line.starts_with("sm_")) {
        let target = line.split_whitespace().next().unwrap();
        let arguments = ["compile", &example("mixtral-8x7b.toml"), "--target", target, "--emit", "ptx", "-o", "x.ptx"];
        product(&moec_in(folder.path(), &arguments));
        let ptx = std::fs::read_to_string(folder.path().join("x.ptx")).unwrap();
        for (word, instruction) in [
            ("wgmma", "wgmma."),
            ("tma", "cp.async.bulk.tensor"),
            ("tcgen05", "tcgen05."),
            ("mma", "mma."),
            ("tensor core", "mma."),
        ] {
            let is_promised = line.to_lowercase().contains(word);
            assert!(!is_promised || ptx.contains(instruction), "{line}: the kernels have no {instruction}");
        }
    }
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

/// Every code that a source file can print is explained, the runtime's as well.
#[test]
fn every_code_is_explained() {
    let listed = stdout(&moec(&["explain", "--list"]));
    let listed: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(listed.len() > 90, "{}", listed.len());
    for code in &listed {
        let text = product(&moec(&["explain", code]));
        assert!(text.starts_with(&format!("{code}: ")) && text.lines().count() >= 3, "{text}");
    }
    let mut printed = BTreeSet::new();
    for folder in ["src", "../runtime/src", "../codegen/src", "../runtime/emulator/src", "../ir/src"] {
        codes_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut printed);
    }
    assert!(printed.len() > 30, "{printed:?}");
    let unknown: Vec<&String> = printed.iter().filter(|code| !listed.contains(code.as_str())).collect();
    assert!(unknown.is_empty(), "not explained: {unknown:?}");
    assert!(product(&moec(&["explain", "rt0203"])).contains("Reported as MOE0802"));
}

/// Adds what looks like a code in the Rust files of a folder: capital letters and four digits, MOE9999 aside, which tests use
/// for a code that there is not.
fn codes_below(folder: &Path, codes: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes_below(&path, codes);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            codes.extend(words.filter(|word| is_code(word) && *word != "MOE9999").map(str::to_string));
        }
    }
}

fn is_code(word: &str) -> bool {
    let digits = word.strip_prefix("MOE").or_else(|| word.strip_prefix("RT"));
    digits.is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()))
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
        let script = stdout(&output);
        for word in commands().iter().map(String::as_str).chain(["threads", "sm_90a", "deny-warnings"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(moec(&["completions", "tcsh"]).status.code(), Some(2));
}

/// bash, called as it is when the tab key is pressed.
#[test]
fn bash_completes() {
    let folder = folder();
    write(folder.path(), "moec.bash", stdout(&moec(&["completions", "bash"])));
    let complete = |words: &str, at: usize| {
        let script = format!(
            "set -e; source ./moec.bash; COMP_WORDS=({words}); COMP_CWORD={at}; w=(${{COMP_WORDS[@]}}); \
             _moec moec \"${{w[{at}]}}\" \"${{w[{at} - 1]}}\" || true; echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &script]).current_dir(folder.path()).output().ok()?;
        assert!(output.status.success(), "{}", stderr(&output));
        Some(stdout(&output).trim().to_string())
    };
    let Some(commands) = complete("moec ch", 1) else {
        println!("skipped: there is no bash");
        return;
    };
    assert_eq!(commands, "check");
    assert_eq!(complete("moec run --thr", 2).as_deref(), Some("--threads"));
    assert_eq!(complete("moec compile --target sm_9", 3).as_deref(), Some("sm_90a"));
}

#[test]
fn doctor_names_what_it_looks_for() {
    let output = moec(&["doctor", "--no-measure"]);
    assert!(!stdout(&output).contains("GFLOP/s"), "{}", stdout(&output));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    for tool in ["llvm", "ptxas", "fatbinary", "linker", "libcuda"] {
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
