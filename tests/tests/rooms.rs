//! What a new variant asks for: the compiler leads to every room of `ir` that has to know it. By day a statement is tried, by night
//! all are. What `codegen` has to know is held by `tidy::matches_over_closed_enums_are_exhaustive`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use moec_tests::{files_under, root, trials};

struct Addition {
    what: &'static str,
    file: &'static str,
    /// The line before which it is added.
    before: &'static str,
    line: &'static str,
    /// The files of `ir/src` in which the compiler finds it missing.
    rooms: &'static [&'static str],
}

const ADDITIONS: &[Addition] = &[
    Addition {
        what: "an op",
        file: "graph/op.rs",
        before: "    /// `top_k scores keys k`:",
        line: "    /// A dummy.\n    Dummy = whole(\"dummy\", 1),\n",
        rooms: &["graph/infer.rs", "graph/interp/ops.rs", "rewrite/cost.rs", "schedule/plan/mod.rs", "schedule/route/row.rs"],
    },
    Addition {
        what: "a pointwise op",
        file: "graph/op.rs",
        before: "    /// `1 / (1 + exp(-x))`.",
        line: "    /// A dummy.\n    Dummy = by_row(\"dummy\", 1),\n",
        rooms: &["graph/infer.rs", "graph/interp/arithmetic.rs", "rewrite/cost.rs", "schedule/body.rs"],
    },
    Addition {
        what: "a statement",
        file: "kernel/stmt.rs",
        before: "    /// Binds a variable, with its first value.",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/print.rs", "kernel/stmt.rs", "kernel/uniform.rs", "kernel/verify.rs"],
    },
    Addition {
        what: "something to wait for",
        file: "kernel/stmt.rs",
        before: "    /// Until the launches before this one have ended,",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/print.rs", "kernel/stmt.rs", "kernel/verify.rs"],
    },
    Addition {
        what: "a scope of barriers",
        file: "kernel/stmt.rs",
        before: "    /// The threads of all blocks of a cluster",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/parse_sync.rs", "kernel/print_sync.rs", "kernel/verify.rs"],
    },
    Addition {
        what: "an index",
        file: "kernel/expr.rs",
        before: "    /// Block in the grid.",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["kernel/interp.rs", "kernel/print.rs", "kernel/uniform.rs"],
    },
    Addition {
        what: "a capability of machines",
        file: "machine.rs",
        before: "    /// Streaming multiprocessors, or cores.",
        line: "    /// A dummy.\n    pub dummy: bool,\n",
        rooms: &["machine.rs"],
    },
    Addition {
        what: "a kind of tile",
        file: "tiling.rs",
        before: "    /// By dot products of a GPU's warp",
        line: "    /// A dummy.\n    Dummy,\n",
        rooms: &["schedule/gemm/mod.rs", "tiling.rs"],
    },
];

/// The crate `ir`, and a workspace that has no other.
fn copy(folder: &Path) {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let alone = workspace.lines().map(|line| match line.split_once(" = ") {
        Some((key @ ("members" | "default-members"), _)) => format!("{key} = [\"ir\"]\n"),
        Some(_) | None => format!("{line}\n"),
    });
    fs::write(folder.join("Cargo.toml"), alone.collect::<String>()).unwrap();
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let ir = root().join("ir");
    for file in files_under(&ir) {
        let to = folder.join("ir").join(file.strip_prefix(&ir).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
}

/// The files of `ir/src` that have errors, and all that the compiler says.
fn check(folder: &Path) -> (BTreeSet<String>, String) {
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--package", "moec-ir", "--message-format", "short"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", root().join("target/rooms"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors = said.lines().filter(|line| line.contains(": error"));
    let files = errors.filter_map(|line| Some(line.split_once(".rs:")?.0.strip_prefix("ir/src/")?.to_string() + ".rs"));
    (files.collect(), said)
}

#[test]
fn a_forgotten_room_is_a_compile_error() {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    let (files, said) = check(folder.path());
    assert!(files.is_empty() && said.contains("Finished"), "{said}");
    let mut wrong = String::new();
    let all = std::env::var_os(trials::ALL).is_some();
    for Addition { what, file, before, line, rooms } in ADDITIONS.iter().filter(|of| all || of.what == "a statement") {
        let path = folder.path().join("ir/src").join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (above, below) = text.split_once(before).unwrap_or_else(|| panic!("{file} has no line {before}"));
        fs::write(&path, format!("{above}{line}{before}{below}")).unwrap();
        let (files, said) = check(folder.path());
        fs::write(&path, &text).unwrap();
        if files != rooms.iter().map(ToString::to_string).collect() {
            wrong += &format!("{what} is missed in {files:?}, not in {rooms:?}\n{said}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
