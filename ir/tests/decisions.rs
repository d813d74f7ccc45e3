//! The ways in which ops can be computed: all give the same numbers, and what rewriting chose costs least in the model.

use moec_ir::graph::{Typed, print};
use moec_ir::rewrite::{Batches, Choice, choices, graph_cost, rewrite};
use moec_ir::schedule::schedule_regimes;
use moec_ir::{Dims, Machine};

use crate::layer::{Random, distance, params, parse, run};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/text/graph");

/// Every layer of the folder, as it stands there and in f32, with the bound of its rounding.
fn layers() -> Vec<(String, Typed, f64)> {
    let files = std::fs::read_dir(FOLDER).expect("the folder of graphs").map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> =
        files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("layer_"))).collect();
    files.sort();
    let of = |path: &std::path::PathBuf| {
        let (name, text) = (path.display().to_string(), std::fs::read_to_string(path).expect("a text"));
        [(name.clone(), parse(&text), 2e-2), (format!("{name} in f32"), parse(&text.replace("bf16", "f32")), 2e-6)]
    };
    files.iter().flat_map(of).collect()
}

fn machine(name: &str) -> Machine {
    Machine::named(name).unwrap_or_else(|| panic!("no machine {name}"))
}

/// The graph with one of its choices made otherwise.
fn forced(graph: &Typed, choices: &[Choice], which: usize, way: &str) -> Typed {
    let text = print(graph.graph());
    // Ways stand in the text in the order of the choices.
    let start = choices[..=which].iter().fold(0, |at, choice| {
        let chosen = &choice.ways[0].0;
        at + text[at..].find(chosen).expect("the way of an op in its text") + chosen.len()
    });
    let chosen = &choices[which].ways[0].0;
    parse(&format!("{}{way}{}", &text[..start - chosen.len()], &text[start..]))
}

#[test]
fn every_way_gives_the_same_numbers() {
    let dims = Dims { tokens: 12, sequence_tokens: 4 };
    let mut seen = 0;
    for (name, layer, bound) in layers() {
        let given = params(&layer, dims, &mut Random(11));
        for machine in [machine("sm_90a"), machine("x86-64-v4")] {
            let best = rewrite(&layer, &machine, &Batches::together(&[64])).at(64).clone();
            let expected = run(&best, &machine, dims, &given);
            let choices = choices(&best, &machine, 64);
            let others = choices.iter().enumerate().flat_map(|(i, choice)| choice.ways[1..].iter().map(move |way| (i, way)));
            for (i, (way, _)) in others {
                let what = format!("{name} on {}: {} by {way}", machine.name, choices[i].op);
                let other = run(&forced(&best, &choices, i, way), &machine, dims, &given);
                assert!(distance(&other.floats("y"), &expected.floats("y")) <= bound, "{what}");
                for rows in ["row_of_pair", "load_of_expert", "kept_of_expert"].into_iter().filter(|name| expected.has(name)) {
                    assert_eq!(other.ints(rows), expected.ints(rows), "{what}: {rows}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen} ways");
}

#[test]
fn what_is_chosen_costs_least() {
    for (name, layer, _) in layers() {
        for machine in ["sm_80", "sm_90a", "x86-64-v3"].map(machine) {
            for tokens in [1, 16, 256, 4096, 65536] {
                let best = rewrite(&layer, &machine, &Batches::together(&[tokens]));
                let choices = choices(best.at(tokens), &machine, tokens);
                for (i, choice) in choices.iter().enumerate() {
                    for (way, cost) in &choice.ways[1..] {
                        assert!(*cost >= choice.ways[0].1, "{name} on {}, T = {tokens}: {choice:?}", machine.name);
                        let whole = graph_cost(&forced(best.at(tokens), &choices, i, way), &machine, &[tokens]);
                        assert_eq!(whole - best.after, cost - choice.ways[0].1, "{name}: {way}");
                    }
                }
            }
        }
    }
}

/// Between two bounds one graph serves, and each regime's graph is no worse than one in a hundred anywhere.
#[test]
fn regimes_are_near_the_best_at_every_size() {
    for (name, layer, _) in layers() {
        for machine in ["sm_90a", "x86-64-v4"].map(machine) {
            let batches = Batches { expected: vec![1, 64, 4096], most: 1 << 16, together: false };
            let found = rewrite(&layer, &machine, &batches);
            assert!(found.saturated && found.exact && found.regimes.len() <= 4, "{name}: {} regimes", found.regimes.len());
            schedule_regimes(&found.regimes, &machine).unwrap_or_else(|error| panic!("{name} on {}: {error}", machine.name));
            let bounds: Vec<_> = found.regimes.iter().map(|regime| regime.tokens_up_to).collect();
            assert!(bounds.last() == Some(&None) && bounds.iter().rev().skip(1).rev().all(Option::is_some), "{name}: {bounds:?}");
            if found.regimes.len() == 4 {
                continue; // More may have been merged than costs little.
            }
            for tokens in [1, 2, 4, 8, 16, 32, 64, 128, 1024, 4096, 1 << 16] {
                let best = rewrite(&layer, &machine, &Batches::together(&[tokens])).after;
                let cost = graph_cost(found.at(tokens), &machine, &[tokens]);
                assert!(cost <= best + best / 100 + 1, "{name} on {}, T = {tokens}: {cost}, not {best}", machine.name);
            }
        }
    }
}
