//! Every stage of every example spec as a snapshot, one folder a spec. Our own two levels stand there whole, LLVM's text
//! as it is before its optimiser, PTX as counts: what another LLVM prints differently is not ours.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fmt::Write;

use moec::import::Entry;
use moec::pipeline::{Lowered, compile, lower};
use moec_codegen::Options;
use moec_ir::{Machine, graph, kernel, rewrite};
use moec_tests::built::held_to_schema;
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, examples, machine, root};
use sha2::{Digest, Sha256};

/// A kernel or function longer than this is known by its hash and by what is counted in it.
const MOST_BYTES: usize = 10_000;

/// The spec whose kernels stand there whole: it is there to be read.
const WHOLE: &str = "tiny";

/// The specs whose LLVM text is short enough to read.
const SMALLEST: [&str; 2] = ["olmoe-1b-7b", "switch-base-8"];

const GPU: &str = "sm_90a";
const HOST: &str = "x86-64-v4";

/// A trial for each stage of each example.
pub(crate) fn family() -> Family {
    let case = |stage: &'static str, check: fn(&Example), example: &Example| {
        let example = example.clone();
        let spec = example.spec.clone();
        Case::new(format!("{}::{stage}", example.name), &spec, move || {
            check(&example);
            Ok(())
        })
    };
    let of = |example: &Example| {
        let mut cases = vec![
            case("graph_and_kernels", graph_and_kernels, example),
            case("ptx", ptx, example),
            case("manifest", manifest, example),
            case("arguments_keep_their_places", arguments_keep_their_places, example),
            case("launches_are_as_many_as_modelled", launches_are_as_many_as_modelled, example),
        ];
        if SMALLEST.contains(&example.name.as_str()) {
            cases.push(case("llvm", llvm, example));
        }
        cases
    };
    Family { name: "stages", one_in: 1, cases: examples().iter().flat_map(of).collect() }
}

/// Holds a stage of an example to its snapshot.
pub(crate) fn hold(example: &Example, stage: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("tests/snapshots").join(&example.name));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(stage, text));
}

fn lowered(example: &Example, name: &str) -> Lowered {
    lower(&example.spec, Entry::Layer, &machine(name)).unwrap_or_else(|error| panic!("{} on {name}: {error}", example.name))
}

fn graph_and_kernels(example: &Example) {
    for name in [GPU, HOST] {
        let lowered = lowered(example, name);
        // What a layer means does not depend on the machine: both are held to one snapshot.
        hold(example, "graph", &graph::print(lowered.graph.graph()));
        hold(example, &format!("rewritten.{name}"), &lowered.rewritten.to_string());
        let text = kernel::print(&lowered.program);
        let text = if example.name == WHOLE { text } else { outline(&text, "kernel ", |line| line.split_whitespace().next()) };
        hold(example, &format!("kernel.{name}"), &text);
    }
}

/// Two arguments of a launch that change places are refused, whatever their types.
fn arguments_keep_their_places(example: &Example) {
    for name in [GPU, HOST] {
        let program = lowered(example, name).program;
        let launches = program.prepare.iter().chain(program.regimes.iter().flat_map(|regime| &regime.launches));
        let launches = launches.map(|launch| launch.args.len());
        for (at, args) in launches.collect::<Vec<_>>().into_iter().enumerate() {
            for (i, j) in (0..args).flat_map(|i| (0..i).map(move |j| (i, j))) {
                let mut swapped = program.clone();
                let of_regimes = swapped.regimes.iter_mut().flat_map(|regime| &mut regime.launches);
                let launch = swapped.prepare.iter_mut().chain(of_regimes).nth(at).unwrap();
                launch.args.swap(i, j);
                assert!(kernel::verify(&swapped, &machine(name)).is_err(), "{name}: launch {at}, arguments {i} and {j}");
            }
        }
    }
}

/// Where moving and computing take no time, what a graph costs is its launches.
fn launches_are_as_many_as_modelled(example: &Example) {
    for name in [GPU, HOST] {
        let lowered = lowered(example, name);
        // A launch is made dearer by one: what the model then adds is the number of launches.
        let dearer = Machine { launch_ps: machine(name).launch_ps + 1, ..machine(name) };
        for (graph, kernels) in lowered.rewritten.regimes.iter().zip(&lowered.program.regimes) {
            assert_eq!(graph.tokens_up_to, kernels.tokens_up_to);
            let cost = |machine: &Machine| rewrite::graph_cost(&graph.graph, machine, &[64]);
            let modelled = cost(&dearer) - cost(&machine(name));
            assert_eq!(modelled, kernels.launches.len() as u64, "{name}");
        }
    }
}

/// The text, each part that begins with `head` as it is where it is short, else its head, a hash and how often which
/// statement stands in it.
fn outline(text: &str, head: &str, statement: fn(&str) -> Option<&str>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines() {
        if parts.is_empty() || line.starts_with(head) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let short = |part: String| if part.len() > MOST_BYTES { digest(&part, statement) } else { part };
    parts.into_iter().map(short).collect()
}

fn digest(part: &str, statement: fn(&str) -> Option<&str>) -> String {
    let sha256: String = Sha256::digest(part).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut digest = part.lines().next().unwrap_or_default().to_string();
    let _ = writeln!(digest, "\n  ... {} lines, SHA-256 {sha256}", part.lines().count());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in part.lines().skip(1).filter_map(statement).filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic())) {
        *counts.entry(word).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    digest + &format!("  ... {}\n}}\n\n", counts.join(", "))
}

fn llvm(example: &Example) {
    for name in [GPU, HOST] {
        let text = moec_codegen::llvm_text(&lowered(example, name).program, &machine(name)).unwrap();
        hold(example, &format!("llvm.{name}"), &outline(&text, "define ", opcode_of));
    }
}

/// LLVM's word for what a line does, whether or not it names the result.
fn opcode_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ")?;
    line.split_once(" = ").map_or(line, |(_, right)| right).split_whitespace().find(|word| *word != "tail")
}

/// What is counted in PTX: mnemonics that begin so.
const COUNTED: [&str; 13] = [
    "ld.global",
    "st.global",
    "ld.shared",
    "st.shared",
    "ld.local",
    "st.local",
    "atom.",
    "bar.sync",
    "shfl.sync",
    "vote.sync",
    "fma.rn",
    "div.rn",
    "cp.async",
];

fn ptx(example: &Example) {
    let text = moec_codegen::assembly(&lowered(example, GPU).program, &machine(GPU)).unwrap();
    hold(example, &format!("ptx.{GPU}"), &statistics(&text));
}

/// Version, target, and for each entry its parameters, its threads and its instructions by class.
fn statistics(ptx: &str) -> String {
    let mut out = String::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut params = 0;
    for line in ptx.lines().map(str::trim) {
        if [".version", ".target", ".maxntid"].iter().any(|head| line.starts_with(head)) {
            out.push_str(line);
            out.push('\n');
        } else if let Some(entry) = line.strip_prefix(".visible .entry ") {
            let _ = writeln!(out, "\n{}", entry.trim_end_matches('('));
            params = 0;
        } else if line.starts_with(".param ") {
            params += 1;
        } else if line == "{" {
            let _ = writeln!(out, "{params} params");
        } else if line == "}" {
            for class in COUNTED.iter().filter_map(|class| Some((class, counts.get(class)?))) {
                let _ = writeln!(out, "{} {}", class.0.trim_end_matches('.'), class.1);
            }
            counts.clear();
        } else {
            // A predicate may stand before the instruction.
            let word = line.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
            for class in COUNTED.iter().filter(|class| word.starts_with(**class)) {
                *counts.entry(class).or_default() += 1;
            }
        }
    }
    out
}

fn manifest(example: &Example) {
    let package = compile(&example.spec, Entry::Layer, &example.text, &[machine(GPU), machine(HOST)], &Options::default());
    let package = package.unwrap();
    held_to_schema(package.manifest());
    let mut json = serde_json::to_value(package.manifest()).unwrap();
    let redacted = || serde_json::Value::from("...");
    for key in ["compiler", "spec_sha256"] {
        json[key] = redacted();
    }
    for image in json["images"].as_array_mut().unwrap() {
        for key in ["offset", "length", "sha256"] {
            image[key] = redacted();
        }
    }
    hold(example, "manifest", &short(&json, 0));
}

/// JSON with an object or a list on one line where there is room for it: a launch is a line.
fn short(json: &serde_json::Value, indent: usize) -> String {
    let flat = json.to_string();
    if flat.len() + indent <= 160 {
        return flat;
    }
    let inner = " ".repeat(indent + 2);
    let (open, parts, close): (char, Vec<String>, char) = match json {
        serde_json::Value::Array(items) => ('[', items.iter().map(|item| short(item, indent + 2)).collect(), ']'),
        serde_json::Value::Object(fields) => {
            ('{', fields.iter().map(|(key, value)| format!("\"{key}\": {}", short(value, indent + 2))).collect(), '}')
        }
        _ => return flat,
    };
    let lines = parts.join(&format!(",\n{inner}"));
    format!("{open}\n{inner}{lines}\n{}{close}", " ".repeat(indent))
}
