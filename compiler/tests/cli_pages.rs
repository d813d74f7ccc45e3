//! What README.md and the pages beside the code show is what moec prints today: commands with their output, the spec, pictures.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use crate::command::{NO_FOLDER, folder, stdout};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PAGES: [(&str, &str); 5] = [
    ("README.md", include_str!("../../README.md")),
    ("compiler/README.md", include_str!("../README.md")),
    ("ir/README.md", include_str!("../../ir/README.md")),
    ("runtime/README.md", include_str!("../../runtime/README.md")),
    ("examples/python-loader/README.md", include_str!("../../examples/python-loader/README.md")),
];

/// The blocks of a page in this language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let opens = format!("\n```{language}\n");
    page.split(opens.as_str()).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// A script of `sh` in an empty folder that has the repository's examples and tests, with moec among the commands; `None` where
/// there is no `sh`. What it prints comes in the order of printing, stderr as well.
fn shell(script: &str) -> Option<Output> {
    let folder = folder();
    for shared in ["examples", "tests"] {
        std::os::unix::fs::symlink(Path::new(ROOT).join(shared), folder.path().join(shared)).unwrap();
    }
    let mut path = Path::new(env!("CARGO_BIN_EXE_moec")).parent().unwrap().as_os_str().to_owned();
    if let Some(inherited) = std::env::var_os("PATH") {
        path.push(OsString::from(":"));
        path.push(inherited);
    }
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec 2>&1\n{script}")]).current_dir(folder.path());
    command.env("PATH", path).env("MOEC_PTXAS", "").env_remove("MOEC_TARGET").env_remove("CLICOLOR_FORCE");
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("XDG_CACHE_HOME", NO_FOLDER);
    command.output().ok()
}

/// Whether the lines are those that were printed; a line `...` stands for any number of them. The error is the first line that is
/// not there.
fn is_excerpt<'l>(lines: &[&'l str], printed: &[&'l str]) -> Result<(), &'l str> {
    let (mut rest, mut may_skip) = (printed.iter(), false);
    for line in lines {
        if *line == "..." {
            may_skip = true;
            continue;
        }
        let found = if may_skip { rest.find(|next| *next == line) } else { rest.next().filter(|next| *next == line) };
        found.ok_or(*line)?;
        may_skip = false;
    }
    match rest.next() {
        Some(next) if !may_skip => Err(next),
        Some(_) | None => Ok(()),
    }
}

/// Each `console` block is run: its commands stand behind `$ `, what they print between them.
#[test]
fn commands_print_what_the_pages_show() {
    let mut wrong = String::new();
    let mut run = 0;
    for (name, page) in PAGES {
        for block in blocks(page, "console") {
            let (commands, lines): (Vec<&str>, Vec<&str>) =
                block.lines().map(str::trim_end).partition(|line| line.starts_with("$ "));
            let script: Vec<&str> = commands.iter().filter_map(|command| command.strip_prefix("$ ")).collect();
            let Some(output) = shell(&script.join("\n")) else {
                println!("skipped: there is no `sh` to run the commands of the pages");
                return;
            };
            let printed = stdout(&output);
            let printed: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
            if let Err(line) = is_excerpt(&lines, &printed) {
                wrong += &format!("{name}, {}:\n  at `{line}`; printed was\n{}\n\n", commands.join("\n"), printed.join("\n"));
            }
            run += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(run >= 8, "the pages have {run} blocks of commands");
}

#[test]
fn an_excerpt_is_in_order_and_says_where_it_leaves_out() {
    let printed = ["a", "b", "c"];
    for right in [&["a", "b", "c"][..], &["...", "b", "..."], &["a", "...", "c"], &["..."], &["a", "b", "..."]] {
        assert_eq!(is_excerpt(right, &printed), Ok(()), "{right:?}");
    }
    for (wrong, at) in
        [(&["a", "c"][..], "c"), (&["b", "c"], "b"), (&["a", "b"], "c"), (&["...", "b", "a"], "a"), (&["...", "d"], "d")]
    {
        assert_eq!(is_excerpt(wrong, &printed), Err(at), "{wrong:?}");
    }
}

/// The spec of the front page is the example of that name, but for the comment at its head.
#[test]
fn the_spec_of_the_front_page_is_an_example() {
    let example = include_str!("../../examples/specs/mixtral-8x7b.toml");
    let spec = &example[example.find("[moe]").unwrap()..];
    assert_eq!(blocks(PAGES[0].1, "toml"), [spec]);
}

/// `make pictures` would write the pictures that are there.
#[test]
fn the_pictures_are_what_moec_draws() {
    let script = Path::new(ROOT).join("scripts/pictures.py");
    let Ok(output) = Command::new("python3").arg(script).args([env!("CARGO_BIN_EXE_moec"), "--check"]).output() else {
        println!("skipped: there is no python3 to draw the pictures of README.md");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Plots and page of what was measured on CPUs say what the results say.
#[test]
fn the_page_of_speeds_is_made_of_the_results() {
    let script = Path::new(ROOT).join("scripts/bench_host.py");
    let Ok(output) = Command::new("python3").arg(script).arg("--check").env("PYTHONDONTWRITEBYTECODE", "1").output() else {
        println!("skipped: there is no python3 to make the page of speeds");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
