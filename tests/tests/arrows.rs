//! Which room of a crate may name which: what the arrows inside `ir` and inside the emulator are. ARCHITECTURE.md says why.

use std::collections::BTreeSet;
use std::fs;

use moec_tests::{files_under, root};

/// A room, and the rooms that it may name beside itself.
type Arrows = (&'static str, &'static [&'static str]);

/// What a graph means depends on no other room but that of the ways that its ops can have, what a kernel does on none; only `schedule`
/// knows both. What a cut costs is asked by those that choose and by those that cut.
const IR: [Arrows; 5] = [
    ("tiling", &[]),
    ("graph", &["tiling"]),
    ("kernel", &[]),
    ("rewrite", &["graph", "tiling"]),
    ("schedule", &["graph", "kernel", "tiling"]),
];

/// Each room names those before it.
const EMULATOR: [Arrows; 6] = [
    ("numbers", &[]),
    ("text", &["numbers"]),
    ("findings", &["text"]),
    ("state", &["numbers", "text", "findings"]),
    ("checks", &["text", "findings", "state"]),
    ("exec", &["numbers", "text", "findings", "state", "checks"]),
];

/// The first parts of the paths into its own crate that a text has: `crate::graph::Op` and `crate::{graph, kernel::Stmt}` alike.
fn named(text: &str) -> BTreeSet<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let end = |path: &str| path.find(is_end).unwrap_or(path.len());
    for line in code {
        for rest in line.split("crate::").skip(1) {
            match rest.strip_prefix('{') {
                None => drop(names.insert(&rest[..end(rest)])),
                Some(group) => names.extend(group.split(',').map(str::trim_start).map(|path| &path[..end(path)])),
            }
        }
    }
    names
}

/// Every folder of the crate is a room of the list, and names no room that the list does not allow.
#[track_caller]
fn hold(source: &str, arrows: &[Arrows]) {
    let source = root().join(source);
    let entries = fs::read_dir(&source).expect("a folder").map(|entry| entry.expect("an entry").path());
    let folders: BTreeSet<String> = entries
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    let rooms: BTreeSet<String> = arrows.iter().map(|(room, _)| (*room).to_string()).collect();
    assert_eq!(folders, rooms, "the rooms of {}", source.display());
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in files_under(&source).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let inside = path.strip_prefix(&source).expect("it lies there");
        let mut parts = inside.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let (first, rest) = (parts.next().unwrap_or_default(), parts.next());
        // A file beside the rooms is shared by them, so it names none; but what puts them together is no part of them.
        let allowed: &[&str] = match arrows.iter().find(|(room, _)| rest.is_some() && *room == first) {
            Some((_, allowed)) => allowed,
            None if ["lib.rs", "launch.rs", "fuzz.rs"].contains(&first.as_str()) => continue,
            None => &[],
        };
        let text = fs::read_to_string(&path).expect("a text");
        for name in named(&text).into_iter().filter(|name| rooms.contains(*name) && *name != first) {
            seen += 1;
            if !allowed.contains(&name) {
                wrong.push(format!("{}: {name}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "files that name a room that they must not know:\n  {}", wrong.join("\n  "));
    assert!(seen > 10, "the search found {seen} paths");
}

#[test]
fn the_rooms_of_the_ir() {
    hold("ir/src", &IR);
}

#[test]
fn the_rooms_of_the_emulator() {
    hold("runtime/emulator/src", &EMULATOR);
}

#[test]
fn paths_are_found() {
    let text =
        "use crate::graph::{Op, Type};\nuse crate::{kernel::Stmt, DType};\n// crate::rewrite\nlet x = crate::schedule::f();";
    assert_eq!(named(text), BTreeSet::from(["DType", "graph", "kernel", "schedule"]));
}
