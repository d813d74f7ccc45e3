//! The rules of this project that a program can check. ARCHITECTURE.md says why they are there.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use moec_tests::{examples, files_under, root};

/// Rust files longer than this are two files.
const MOST_LINES: usize = 900;

/// A name that says nothing about what is inside.
const EMPTY_NAMES: [&str; 9] = ["util", "utils", "helper", "helpers", "common", "misc", "base", "manager", "core"];

/// A file of the repository, by its path from the root, with its text.
struct File {
    path: String,
    text: String,
}

/// Every text file that people write.
fn files(extensions: &[&str]) -> Vec<File> {
    let wanted = |path: &PathBuf| match path.extension() {
        Some(extension) => extensions.iter().any(|e| extension == *e),
        // In a worktree `.git` is a file, which says where the repository is.
        None => extensions.contains(&"") && !path.ends_with(".git"),
    };
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        Some(File { path: path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/"), text })
    };
    files_under(root()).into_iter().filter(wanted).filter_map(read).collect()
}

fn rust() -> Vec<File> {
    let files = files(&["rs"]);
    assert!(files.len() > 100, "the walk found {} files", files.len());
    files
}

/// Fails with everything that is wrong, not with the first.
#[track_caller]
fn none(what: &str, wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

/// Lines with one of the words, as `path:line: word`.
fn lines_with<'a>(files: &'a [File], words: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    files.iter().flat_map(move |file| {
        file.text.lines().enumerate().flat_map(move |(i, line)| {
            let found = words.iter().filter(move |word| line.contains(**word));
            found.map(move |word| format!("{}:{}: {word}", file.path, i + 1))
        })
    })
}

#[test]
fn every_file_says_what_lives_in_it() {
    let wrong = rust().into_iter().filter(|file| !file.text.starts_with("//! "));
    none("files that do not open with `//!`", wrong.map(|file| file.path));
}

#[test]
fn no_file_is_too_long() {
    let long = rust().into_iter().map(|file| (file.text.lines().count(), file.path)).filter(|(lines, _)| *lines > MOST_LINES);
    none("files that should be two", long.map(|(lines, path)| format!("{path}: {lines} lines, at most {MOST_LINES}")));
}

#[test]
fn every_name_says_something() {
    let is_empty = |part: &str| EMPTY_NAMES.contains(&part.trim_end_matches(".rs"));
    none("names that say nothing", rust().into_iter().map(|f| f.path).filter(|path| path.split('/').any(is_empty)));
}

#[test]
fn nothing_is_left_for_later() {
    // Spelt apart, so that this file may be searched too.
    let words = [
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("dbg", "!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("HA", "CK"),
        concat!("TO", "DO"),
    ];
    none("left for later", lines_with(&files(&["rs", "toml", "md", "sh", "py"]), &words));
}

#[test]
fn no_path_of_one_machine() {
    let folders =
        [concat!("/ro", "ot/"), concat!("/tm", "p/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Use", "rs/")];
    let all = files(&["rs", "toml", "md", "sh", "py", "snap", "kernel", "graph", "ptx", ""]);
    none("paths of one machine", lines_with(&all, &folders));
}

/// Whether the word stands in the line by itself, singular or plural, whatever its case.
fn has_word(line: &str, word: &str) -> bool {
    let line = line.to_lowercase();
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].strip_prefix('s').unwrap_or(&line[at + word.len()..]);
        !is_letter(line[..at].chars().next_back()) && !is_letter(after.chars().next())
    })
}

/// Of the lines that are searched, those that have one of the words by itself, as `path:line: word`.
fn by_word(files: &[File], words: &[&str], is_searched: fn(&str) -> bool) -> Vec<String> {
    let of_file = |file: &File| {
        let lines = file.text.lines().enumerate().filter(|(_, line)| is_searched(line));
        let found = lines.filter_map(|(i, line)| Some((i, words.iter().find(|word| has_word(line, word))?)));
        found.map(|(i, word)| format!("{}:{}: {word}", file.path, i + 1)).collect::<Vec<_>>()
    };
    files.iter().flat_map(of_file).collect()
}

/// A thing is no person: padding, a dropped pair, memory that is not written and a caller have words of their own.
#[test]
fn things_are_not_persons() {
    let words = [
        concat!("no", "body"),
        concat!("some", "body"),
        concat!("any", "body"),
        concat!("every", "body"),
        concat!("who", "ever"),
        concat!("never ", "heard"),
        concat!("never_", "heard"),
    ];
    let files = files(&["rs", "md", "h", "py", "sh"]);
    none("words for persons", by_word(&files, &words, |_| true));
}

/// Words that the files of a folder must not have, but for their headings.
#[track_caller]
fn free_of(folder: &str, words: &[&str]) {
    let files: Vec<File> = rust().into_iter().filter(|file| file.path.starts_with(folder)).collect();
    assert!(!files.is_empty(), "{folder} has no files");
    none(&format!("words that {folder} must not have"), by_word(&files, words, |line| !line.starts_with("//!")));
}

#[test]
fn codegen_names_no_expert() {
    free_of("codegen/src/", &["expert", "router", "token", "top_k", "moe"]);
}

#[test]
fn the_ir_does_not_name_llvm() {
    free_of("ir/src/schedule/", &["llvm", "ptx", "inkwell", "cuda"]);
    free_of("ir/src/graph/", &["llvm", "ptx", "inkwell", "cuda"]);
    free_of("ir/src/rewrite/", &["llvm", "ptx", "inkwell", "cuda"]);
}

/// What a kernel does follows from what the machine can do, not from its family.
#[test]
fn kernels_ask_for_capabilities() {
    for folder in ["ir/src/schedule/", "ir/src/rewrite/", "ir/src/tiling/"] {
        free_of(folder, &["is_gpu"]);
    }
}

#[test]
fn a_kernel_names_no_expert() {
    free_of("ir/src/kernel/", &["expert", "router", "top_k"]);
}

/// The lines of a match's arms that stand beside the wildcard in line `wild`, above it.
fn arms_above<'a>(lines: &'a [&'a str], wild: usize) -> impl Iterator<Item = &'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let here = indent(lines[wild]);
    let inside = lines[..wild].iter().rev().take_while(move |line| line.trim().is_empty() || indent(line) >= here);
    inside.filter(move |line| indent(line) == here).map(|line| line.trim_start())
}

/// A diagnostic that nothing reports is not there.
#[test]
fn every_code_is_reported() {
    let (table, others): (Vec<File>, Vec<File>) =
        rust().into_iter().filter(|file| file.path.starts_with("compiler/src/")).partition(|f| f.path.ends_with("/codes.rs"));
    let rows = table[0].text.lines().skip_while(|line| !line.starts_with("codes! {"));
    let names: Vec<&str> =
        rows.filter(|line| line.contains(", \"")).filter_map(|line| line.trim().split_once(" = ")).map(|(n, _)| n).collect();
    assert!(names.len() > 70, "the table has {} rows", names.len());
    let is_reported = |name: &str| {
        let word = format!("Code::{name}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        others.iter().any(|file| file.text.match_indices(&word).any(|(at, _)| ends(&file.text[at + word.len()..])))
    };
    none("codes that nothing reports", names.into_iter().filter(|name| !is_reported(name)).map(str::to_string));
}

/// A new way, machine, statement, expression, index or place is a compile error in every room that must know it: no match over
/// them has a wildcard.
#[test]
fn matches_over_closed_enums_are_exhaustive() {
    let folders = ["ir/src/", "codegen/src/"];
    let words = [
        "Kind::",
        "Sorting::",
        "MachineKind::",
        "CpuFeature::",
        "Unit::",
        "Copier::",
        "Widths::",
        "Stmt::",
        "Expr::",
        "Index::",
        "Place::",
        "Scope::",
        "Wait::",
        "MatrixShape::",
    ];
    let variant = |arm: &str| words.iter().any(|word| arm.trim_start_matches("| ").starts_with(word));
    let of_file = |file: File| {
        let lines: Vec<&str> = file.text.lines().collect();
        let wild = (0..lines.len()).filter(|i| lines[*i].trim_start().starts_with("_ =>"));
        let wrong = wild.filter(|i| arms_above(&lines, *i).any(variant));
        wrong.map(|i| format!("{}:{}", file.path, i + 1)).collect::<Vec<_>>()
    };
    let files = rust().into_iter().filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)));
    none("matches over closed enums with a wildcard", files.flat_map(of_file));
    let example = ["match stmt {", "    Stmt::If { .. } => {", "        1", "    }", "    _ => 2,", "}"];
    assert!(arms_above(&example, 4).any(variant), "what the test looks for is found");
}

/// Every example is snapshot at every stage, and nothing else is: a spec that went leaves nothing behind.
#[test]
fn every_example_has_its_snapshots() {
    let folder = root().join("tests/snapshots");
    let specs: BTreeSet<String> = examples().into_iter().map(|example| example.name).collect();
    assert!(specs.len() >= 8, "{specs:?}");
    let folders = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    assert_eq!(folders.collect::<BTreeSet<_>>(), specs);
    let stages = ["graph", "manifest"].map(str::to_string).into_iter();
    let stages = stages
        .chain(["sm_90a", "x86-64-v4"].into_iter().flat_map(|machine| ["rewritten", "kernel"].map(|s| format!("{s}.{machine}"))));
    let stages: Vec<String> = stages.chain(["ptx.sm_90a".to_string()]).collect();
    let absent = specs.iter().flat_map(|spec| stages.iter().map(move |stage| format!("{spec}/{stage}.snap")));
    none("snapshots that are not there", absent.filter(|path| !folder.join(path).is_file()));
}

/// An error of a kernel is one of its op: what a user is shown follows from that.
#[test]
fn every_kernel_is_of_an_op() {
    let mut kernels = BTreeSet::new();
    for example in examples() {
        for machine in ["sm_90a", "x86-64-v4"] {
            let path = root().join(format!("tests/snapshots/{}/kernel.{machine}.snap", example.name));
            let text = fs::read_to_string(path).unwrap();
            let named = text.lines().filter_map(|line| line.trim_start().strip_prefix("kernel @"));
            kernels.extend(named.filter_map(|rest| rest.split('(').next()).map(|name| name.trim().to_string()));
        }
    }
    assert!(kernels.len() > 20, "{kernels:?}");
    none("kernels of no op", kernels.into_iter().filter(|kernel| moec_ir::schedule::op_of(kernel).is_none()));
}

/// A crate has one program of tests, so a file that it does not name would not run.
#[test]
fn every_file_of_tests_runs() {
    let mut forgotten = Vec::new();
    let mut seen = 0;
    for crate_ in ["ir", "codegen", "runtime", "runtime/emulator", "runtime/build", "compiler", "tests"] {
        let folder = root().join(crate_).join("tests");
        let manifest = fs::read_to_string(root().join(crate_).join("Cargo.toml")).unwrap();
        let names = |entry: &PathBuf| entry.file_stem().unwrap().to_string_lossy().into_owned();
        let entries: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let is_file = |path: &&PathBuf| path.extension().is_some_and(|end| end == "rs");
        // A program is named in the manifest, by its path or by its name.
        let is_program = |name: &String| {
            manifest.contains(&format!("path = \"tests/{name}.rs\"")) || manifest.contains(&format!("\nname = \"{name}\"\n"))
        };
        let (programs, modules): (Vec<_>, Vec<_>) = entries.iter().filter(is_file).map(names).partition(is_program);
        let declared: String =
            programs.iter().map(|name| fs::read_to_string(folder.join(name).with_extension("rs")).unwrap()).collect();
        let folders = entries.iter().filter(|path| path.join("mod.rs").is_file()).map(names);
        let is_declared = |name: &String| declared.contains(&format!("\nmod {name};"));
        let wrong = modules.into_iter().chain(folders).inspect(|_| seen += 1).filter(|name| !is_declared(name));
        forgotten.extend(wrong.map(|name| format!("{crate_}/tests/{name}")));
    }
    assert!(seen > 50, "the walk found {seen} files");
    none("tests that no program names", forgotten);
}

/// What the pages name in backquotes exists, by its path from the root or from the page's folder.
#[test]
fn the_map_is_true() {
    let pages = files(&["md"]);
    assert!(pages.len() >= 10, "{}", pages.len());
    for page in &pages {
        let folder = root().join(&page.path).parent().unwrap().to_path_buf();
        let named = page.text.split('`').skip(1).step_by(2).filter(|name| is_path(name));
        let absent = named.filter(|name| !root().join(name).exists() && !folder.join(name).exists());
        none(&format!("{} names what is not there", page.path), absent.map(str::to_string));
    }
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rooms = ["ir", "codegen", "runtime", "compiler"].into_iter().flat_map(|crate_| {
        let folders = fs::read_dir(root().join(crate_).join("src")).unwrap().map(|entry| entry.unwrap().path());
        folders.filter(|path| path.is_dir()).map(|path| format!("`{}/`", path.strip_prefix(root()).unwrap().display()))
    });
    none("rooms that are not on the map", rooms.filter(|room| !text.contains(room.as_str())));
}

/// A link from one page to another leads to a file, and to a heading of it where it names one.
#[test]
fn every_link_leads_somewhere() {
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let is_right = |page: &File, link: &str| {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let file = if path.is_empty() { root().join(&page.path) } else { root().join(&page.path).parent().unwrap().join(path) };
        let has_heading = |text: String| text.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
        file.exists() && (heading.is_empty() || fs::read_to_string(file).is_ok_and(has_heading))
    };
    let mut seen = 0;
    for page in files(&["md"]) {
        let links = page.text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        let local: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
        seen += local.len();
        let wrong = local.into_iter().filter(|link| !is_right(&page, link));
        none(&format!("links of {}", page.path), wrong.map(str::to_string));
    }
    assert!(seen >= 10, "{seen}");
}

/// The front page is two screens, and leads to every page beside the code.
#[test]
fn the_front_page_is_short() {
    const TWO_SCREENS: usize = 130;
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = text.lines().count();
    assert!(lines <= TWO_SCREENS, "README.md has {lines} lines: depth belongs on the pages beside the code");
    let pages = ["compiler", "ir", "runtime", "examples"].map(|folder| format!("({folder}/README.md)"));
    none("pages that README.md does not lead to", pages.into_iter().filter(|page| !text.contains(page.as_str())));
}

/// The names that `Buffer::observe` documents are those that `import` gives results.
#[test]
fn observed_names_are_those_that_are_documented() {
    let families = ["route.", "soft.", "stats."];
    let is_name = |word: &&str| {
        let rest = families.iter().find_map(|family| word.strip_prefix(family));
        rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let import = rust().into_iter().filter(|file| file.path.starts_with("compiler/src/import/"));
    let observed: BTreeSet<String> =
        import.flat_map(|file| file.text.split('"').filter(is_name).map(str::to_string).collect::<Vec<_>>()).collect();
    assert!(observed.len() >= 12, "{observed:?}");
    let manifest = fs::read_to_string(root().join("runtime/src/package/manifest.rs")).unwrap();
    let field = manifest.find("pub observe:").unwrap();
    let comment = &manifest[manifest[..field].rfind("pub align").unwrap()..field];
    let documented: BTreeSet<String> = comment.split('`').filter(is_name).map(str::to_string).collect();
    assert_eq!(documented, observed);
}

/// Whether it is spelt as a path of this repository: its first part is there.
fn is_path(name: &str) -> bool {
    let is_plain = name.contains('/') && !name.contains(|c: char| c.is_whitespace() || "<>{}*:=$".contains(c));
    let first = name.split('/').next().unwrap_or_default();
    is_plain && !first.is_empty() && first != "target" && Path::new(root()).join(first).exists()
}
