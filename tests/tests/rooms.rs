//! What a new variant asks for: the compiler leads to every room of `ir`, and of `codegen`, that has to know it. By day those are tried
//! that `codegen` has to spell, by night all are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use moec_tests::{files_under, root, trials};
use serde_json::Value;

struct Addition {
    what: &'static str,
    file: &'static str,
    /// The line before which it is added.
    before: &'static str,
    line: &'static str,
    /// The files of `ir/src` in which the compiler finds it missing.
    rooms: &'static [&'static str],
    /// Those of `codegen/src`, once `ir` knows it.
    spelt: &'static [&'static str],
}

const ADDITIONS: &[Addition] = &[
    Addition {
        what: "an op",
        file: "graph/op.rs",
        before: "    /// `top_k scores keys k`:",
        line: "    /// A dummy.\n    Dummy = whole(\"dummy\", 1),\n",
        rooms: &["graph/infer.rs", "graph/interp/ops.rs", "rewrite/cost.rs", "schedule/plan/mod.rs", "schedule/route/row.rs"],
        spelt: &[],
    },
    Addition {
        what: "a pointwise op",
        file: "graph/op.rs",
        before: "    /// `1 / (1 + exp(-x))`.",
        line: "    /// A dummy.\n    Dummy = by_row(\"dummy\", 1),\n",
        rooms: &["graph/infer.rs", "graph/interp/arithmetic.rs", "rewrite/cost.rs", "schedule/body.rs"],
        spelt: &[],
    },
    Addition {
        what: "a statement",
        file: "kernel/stmt.rs",
        before: "    /// Binds a variable, with its first value.",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/print.rs", "kernel/stmt.rs", "kernel/uniform.rs", "kernel/verify.rs"],
        spelt: &["lower/stmt.rs"],
    },
    Addition {
        what: "something to wait for",
        file: "kernel/stmt.rs",
        before: "    /// Until the launches before this one have ended,",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/print.rs", "kernel/stmt.rs", "kernel/verify.rs"],
        spelt: &["lower/stmt.rs"],
    },
    Addition {
        what: "a scope of barriers",
        file: "kernel/stmt.rs",
        before: "    /// The threads of all blocks of a cluster",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/parse_sync.rs", "kernel/print_sync.rs", "kernel/verify.rs"],
        spelt: &["lower/stmt.rs", "target/nvptx.rs"],
    },
    Addition {
        what: "an index",
        file: "kernel/expr.rs",
        before: "    /// Block in the grid.",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/print.rs", "kernel/uniform.rs"],
        spelt: &["target/host.rs", "target/nvptx.rs"],
    },
    Addition {
        what: "a capability of machines",
        file: "machine.rs",
        before: "    /// Streaming multiprocessors, or cores.",
        line: "    /// A dummy.\n    pub dummy: bool,\n",
        rooms: &["machine.rs"],
        spelt: &[],
    },
    Addition {
        what: "a kind of tile",
        file: "tiling/mod.rs",
        before: "    /// By dot products of a GPU's warp",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["schedule/gemm/mod.rs", "tiling/mod.rs", "tiling/work.rs"],
        spelt: &[],
    },
];

/// The crates `ir` and `codegen` without their tests, and a workspace that has no other.
fn copy(folder: &Path) {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let alone = workspace.lines().map(|line| match line.split_once(" = ") {
        Some((key @ ("members" | "default-members"), _)) => format!("{key} = [\"ir\", \"codegen\"]\n"),
        Some(_) | None => format!("{line}\n"),
    });
    fs::write(folder.join("Cargo.toml"), alone.collect::<String>()).unwrap();
    let sources = ["ir/src", "codegen/src", ".cargo"].into_iter().flat_map(|part| files_under(&root().join(part)));
    for file in sources.chain([root().join("Cargo.lock")]) {
        let to = folder.join(file.strip_prefix(root()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    for part in ["ir", "codegen"] {
        let manifest = fs::read_to_string(root().join(part).join("Cargo.toml")).unwrap();
        let (library, _) = manifest.split_once("[dev-dependencies]").unwrap();
        fs::write(folder.join(part).join("Cargo.toml"), library).unwrap();
    }
}

/// An error of the compiler.
struct Missing {
    /// The file, from the workspace on.
    file: String,
    /// Where an arm would make up for it, and that arm.
    arm: Option<(usize, String)>,
}

/// The compiler's errors in a crate and what it depends on, and all that it says.
fn check(folder: &Path, package: &str) -> (Vec<Missing>, String) {
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--package", package, "--message-format", "json"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", root().join("target/rooms"))
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let rendered = messages.iter().filter_map(|message| message["message"]["rendered"].as_str());
    let said = rendered.chain([&*String::from_utf8_lossy(&output.stderr)]).collect();
    let missing = messages.iter().filter_map(|message| {
        let message = &message["message"];
        let is_primary = |span: &&Value| span["is_primary"] == true;
        let at = message["spans"].as_array()?.iter().find(is_primary).filter(|_| message["level"] == "error")?;
        let children = message["children"].as_array()?.iter().filter_map(|child| child["spans"].as_array());
        let arm = children.flatten().find_map(|span| {
            // Whatever is missing, so that no name has to be in scope.
            let arm = span["suggested_replacement"].as_str().filter(|arm| arm.contains(" => "))?;
            let before: String = arm.chars().take_while(|c| *c == ',' || c.is_whitespace()).collect();
            Some((span["byte_start"].as_u64()? as usize, format!("{before}_ => unreachable!()")))
        });
        Some(Missing { file: at["file_name"].as_str()?.to_string(), arm })
    });
    (missing.collect(), said)
}

/// The files under this folder that have errors.
fn files(missing: &[Missing], under: &str) -> BTreeSet<String> {
    missing.iter().filter_map(|missing| missing.file.strip_prefix(under).map(str::to_string)).collect()
}

/// Makes up for what is missing.
fn fill(folder: &Path, missing: &[Missing]) {
    let mut arms: Vec<_> = missing.iter().filter_map(|missing| Some((&missing.file, missing.arm.as_ref()?))).collect();
    // The last place of a file first, so that the others stay where they are.
    arms.sort_by_key(|(_, (at, _))| std::cmp::Reverse(*at));
    for (file, (at, arm)) in arms {
        let mut text = fs::read_to_string(folder.join(file)).unwrap();
        text.insert_str(*at, arm);
        fs::write(folder.join(file), text).unwrap();
    }
}

#[test]
fn a_forgotten_room_is_a_compile_error() {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    let (missing, said) = check(folder.path(), "moec-codegen");
    assert!(missing.is_empty() && said.contains("Finished"), "{said}");
    let mut wrong = String::new();
    let all = std::env::var_os(trials::ALL).is_some();
    for Addition { what, file, before, line, rooms, spelt } in ADDITIONS.iter().filter(|of| all || !of.spelt.is_empty()) {
        let path = folder.path().join("ir/src").join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (above, below) = text.split_once(before).unwrap_or_else(|| panic!("{file} has no line {before}"));
        fs::write(&path, format!("{above}{line}{before}{below}")).unwrap();
        let mut expect = |(missing, said): &(Vec<Missing>, String), under: &str, rooms: &[&str]| {
            let found = files(missing, under);
            if found != rooms.iter().map(ToString::to_string).collect() {
                wrong += &format!("{what} is missed in {found:?} of {under}, not in {rooms:?}\n{said}\n");
            }
        };
        let found = check(folder.path(), "moec-ir");
        expect(&found, "ir/src/", rooms);
        if !spelt.is_empty() {
            fill(folder.path(), &found.0);
            let found = check(folder.path(), "moec-codegen");
            expect(&found, "ir/src/", &[]);
            expect(&found, "codegen/src/", spelt);
        }
        copy(folder.path());
    }
    assert!(wrong.is_empty(), "{wrong}");
}
