//! Wrong specs, one a file in `bad_specs/`, and what is said about each; and what no input may do to the parser.
//! Inputs too large to keep as files are in `hostile.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use annotate_snippets::Renderer;
use moec::diagnostics::{Exit, MessageFormat, Report, Source};
use moec::spec;
use proptest::prelude::*;

/// The files of a folder that end so, in the order of their names.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| endings.iter().any(|ending| path.extension().is_some_and(|extension| extension == *ending)));
    files.sort();
    files
}

/// The report on a wrong spec, with the file's name in the place of its path.
fn report(path: &Path) -> Report {
    let mut report = match spec::load(path) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(report) => report,
    };
    report.source.name = path.file_name().unwrap().to_str().unwrap().to_string();
    report
}

/// Every label lies on whole characters of the text, and every format can show it.
fn check_report(report: &Report) {
    assert!(!report.diagnostics.is_empty());
    for diagnostic in &report.diagnostics {
        for label in &diagnostic.labels {
            assert!(report.source.text.get(label.span.clone()).is_some(), "{diagnostic:?}");
        }
    }
    for format in [MessageFormat::Human, MessageFormat::Short, MessageFormat::Json] {
        report.write(&mut std::io::sink(), format, &Renderer::styled()).unwrap();
    }
}

#[test]
fn every_wrong_spec_has_its_diagnostics() {
    let files = files("tests/bad_specs", &["toml", "json"]);
    assert!(files.len() >= 45, "{}", files.len());
    for path in files {
        let report = report(&path);
        check_report(&report);
        assert_eq!(report.exit(), Exit::Input, "{}", path.display());
        assert!(report.diagnostics.iter().all(|diagnostic| !diagnostic.labels.is_empty()), "{} has no place", path.display());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "snapshots/bad_specs" }, {
            insta::assert_snapshot!(report.source.name.as_str(), report.to_text(MessageFormat::Human));
        });
    }
}

/// All three formats of one report, whole.
#[test]
fn formats() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_specs/top_k_above_experts.toml");
    let report = report(&path);
    insta::assert_snapshot!("short", report.to_text(MessageFormat::Short));
    let json: serde_json::Value = serde_json::from_str(&report.to_text(MessageFormat::Json)).unwrap();
    insta::assert_snapshot!("json", format!("{json:#}"));
}

/// Fixtures of published blocks and the example specs, as TOML and as JSON.
#[test]
fn correct_specs_are_accepted() {
    let fixtures = ["huggingface", "other"].map(|from| files(&format!("../tests/fixtures/{from}"), &["toml"])).concat();
    assert!(fixtures.len() >= 18, "{}", fixtures.len());
    for path in fixtures.iter().chain(&files("../examples/specs", &["toml"])) {
        let (spec, source) = spec::load(path).unwrap_or_else(|report| panic!("{}", report.to_text(MessageFormat::Human)));
        let tree: toml::Table = source.text.parse().unwrap();
        let json = Source { name: "spec.json".into(), text: serde_json::to_string_pretty(&tree).unwrap() };
        assert_eq!(spec::parse(&json).as_ref(), Ok(&spec), "{} as JSON", path.display());
        let marked = Source { name: "spec.json".into(), text: format!("\u{feff}{}", json.text) };
        assert_eq!(spec::parse(&marked).as_ref(), Ok(&spec), "{} as JSON with a byte order mark", path.display());
        let marked = Source { name: "spec.toml".into(), text: format!("\u{feff}{}", source.text.replace('\n', "\r\n")) };
        assert_eq!(spec::parse(&marked).as_ref(), Ok(&spec), "{} with a byte order mark", path.display());
    }
}

/// What one spec resolves to, whole: defaults, inheritance, tensors.
#[test]
fn resolved() {
    for name in ["deepseek-v3", "gpt-oss-20b", "switch-base-8"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/specs/{name}.toml"));
        let (spec, _) = spec::load(&path).unwrap();
        insta::assert_snapshot!(format!("resolved-{name}"), format!("{spec:#?}"));
    }
}

/// Every replacement that is suggested, in one file after the other, written into the file: what was reported there is gone.
#[test]
fn suggested_replacements_mend() {
    let mut mended = 0;
    for path in files("tests/bad_specs", &["toml", "json"]) {
        let report = report(&path);
        let replaced = report.diagnostics.iter().flat_map(|diagnostic| &diagnostic.labels).filter(|l| l.replacement.is_some());
        let places: Vec<_> = replaced.map(|label| label.span.clone()).collect();
        let spans = report.to_text(MessageFormat::Json);
        let spans = spans.lines().flat_map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            let of_children = object["children"].as_array().unwrap().iter().flat_map(|child| child["spans"].as_array().unwrap());
            let suggested: Vec<serde_json::Value> = of_children.cloned().collect();
            let primary = &object["spans"][0]["suggested_replacement"];
            assert_eq!(suggested.first().map(|span| &span["suggested_replacement"]), Some(primary).filter(|p| !p.is_null()));
            suggested
        });
        let mut spans: Vec<serde_json::Value> = spans.collect();
        assert_eq!(spans.len(), places.len(), "{}", path.display());
        if spans.is_empty() {
            continue;
        }
        let at = |span: &serde_json::Value, which: &str| span[which].as_u64().unwrap() as usize;
        // From the end on, so that places stay what they are.
        spans.sort_by_key(|span| std::cmp::Reverse(at(span, "byte_start")));
        let mut text = report.source.text.clone();
        for span in &spans {
            text.replace_range(at(span, "byte_start")..at(span, "byte_end"), span["suggested_replacement"].as_str().unwrap());
        }
        let source = Source { name: report.source.name.clone(), text };
        let kinds = |diagnostics: &[moec::diagnostics::Diagnostic]| {
            let here = diagnostics.iter().filter(|d| d.labels.iter().any(|label| label.replacement.is_some()));
            here.map(|diagnostic| diagnostic.message.clone()).collect::<Vec<_>>()
        };
        let after = spec::parse(&source).err().unwrap_or_default();
        assert_eq!(kinds(&after), [""; 0], "{}", source.text);
        mended += places.len();
    }
    assert!(mended >= 20, "{mended}");
}

fn parse_without_panic(name: &str, text: String) {
    let source = Source { name: name.into(), text };
    if let Err(diagnostics) = spec::parse(&source) {
        check_report(&Report { source, diagnostics });
    }
}

/// Values that fit somewhere, or nowhere.
const VALUES: [&str; 40] = [
    "0",
    "1",
    "2",
    "3",
    "8",
    "64",
    "-1",
    "1.5",
    "0.0",
    "-0.0",
    "1e9",
    "1e400",
    "nan",
    "-inf",
    "true",
    "false",
    "\"\"",
    "\"x\"",
    "\"softmax\"",
    "\"sigmoid\"",
    "\"sum\"",
    "\"none\"",
    "\"score\"",
    "\"topk_score\"",
    "\"row\"",
    "\"half_even\"",
    "\"T\"",
    "\"{e}\"",
    "[]",
    "[1, 2]",
    "[\"a\", \"b\"]",
    "[[1]]",
    "{}",
    "{ name = \"a\" }",
    "{ name = \"a\", layout = \"T\" }",
    "{ name = [\"a\"], experts = 8 }",
    "1979-05-27",
    "99999999999999999999",
    "4294967296",
    "0xff",
];

/// A table of keys that exist, with values from `VALUES`.
fn tables() -> impl Strategy<Value = String> {
    let schema = spec::json_schema();
    let properties = schema["properties"].as_object().unwrap().clone();
    let keys: Vec<(String, Vec<String>)> = properties
        .iter()
        .map(|(table, schema)| (table.clone(), schema["properties"].as_object().unwrap().keys().cloned().collect()))
        .collect();
    let table = proptest::sample::select(keys).prop_flat_map(|(table, keys)| {
        let entry = (proptest::sample::select(keys), proptest::sample::select(&VALUES[..]));
        proptest::collection::btree_map(entry.clone().prop_map(|(key, _)| key), entry.prop_map(|(_, value)| value), 0..12)
            .prop_map(move |entries| {
                let lines: Vec<String> = entries.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                (table.clone(), lines.join("\n"))
            })
    });
    proptest::collection::btree_map(table.clone().prop_map(|(name, _)| name), table.prop_map(|(_, lines)| lines), 1..8)
        .prop_map(|tables| tables.iter().map(|(name, lines)| format!("[{name}]\n{lines}\n")).collect::<String>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        parse_without_panic("bytes.toml", text.clone());
        parse_without_panic("bytes.json", text);
    }

    #[test]
    fn no_characters_of_the_grammar_panic(text in "[\\[\\]{}=\",.'#a-e0-9\\n\\\\ é:+_-]{0,200}") {
        parse_without_panic("grammar.toml", text.clone());
        parse_without_panic("grammar.json", text);
    }

    #[test]
    fn no_tree_of_known_keys_panics(text in tables()) {
        parse_without_panic("tree.toml", text);
    }

    /// A correct spec with a piece cut out and something else put in.
    #[test]
    fn no_damaged_spec_panics(at in 0usize..900, removed in 0usize..40, put in "[\\[\\]{}=\"a0.\\n-]{0,8}") {
        let mut text = include_str!("../../examples/specs/deepseek-v3.toml").to_string();
        let start = at.min(text.len());
        let end = (start + removed).min(text.len());
        text.replace_range(start..end, &put);
        parse_without_panic("damaged.toml", text);
    }
}
