//! The ways in which ops can be computed: all give the same numbers, and what rewriting chose costs least in the model.

use std::collections::BTreeMap;

use egg::Id;
use moec_ir::graph::{Attr, Builder, Node, Op, Type, Typed, verify};
use moec_ir::rewrite::{Batches, Choice, choices, graph_cost, rewrite};
use moec_ir::schedule::schedule_regimes;
use moec_ir::tiling::Kind;
use moec_ir::{Dims, Machine, Sorting, Tiling};

use crate::layer::{Random, distance, params, parse, run};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/text/graph");

/// Every layer of the folder, as it stands there and in f32, with the bound of its rounding.
pub(crate) fn layers() -> Vec<(String, Typed, f64)> {
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

/// The way that this text says.
fn way(text: &str) -> Option<Attr> {
    if let Some(tiling) = text.strip_prefix("beside(") {
        let Some(Attr::Tiling(tiling)) = way(tiling.strip_suffix(')')?) else { return None };
        return Some(Attr::Beside(tiling));
    }
    let sorting = Sorting::ALL.into_iter().find(|sorting| sorting.to_string() == text).map(Attr::Sorting);
    sorting.or_else(|| {
        let (word, extents) = text.strip_suffix(')')?.split_once('(')?;
        let (rows, columns) = extents.split_once(" by ")?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        Some(Attr::Tiling(Tiling { kind, rows: rows.parse().ok()?, columns: columns.parse().ok()? }))
    })
}

/// The graph with one of its choices made otherwise.
fn forced(graph: &Typed, choice: &Choice, text: &str) -> Typed {
    let mut forcing = Forcing { graph, choice, way: way(text), made: Builder::default(), known: BTreeMap::new() };
    assert!(forcing.way.is_some() || text == "apart", "{text} is no way");
    for (param, ty) in &graph.graph().params {
        forcing.made.param(&param.0, ty.clone());
    }
    let results = graph.graph().results().map(|(name, id)| (name.to_string(), forcing.value(id))).collect();
    verify(forcing.made.finish_with("forced", results, graph.graph().facts.clone())).unwrap_or_else(|found| panic!("{found:?}"))
}

struct Forcing<'g> {
    graph: &'g Typed,
    choice: &'g Choice,
    /// None: each op by itself, its way open.
    way: Option<Attr>,
    made: Builder,
    known: BTreeMap<Id, Id>,
}

impl Forcing<'_> {
    fn value(&mut self, id: Id) -> Id {
        if let Some(made) = self.known.get(&id) {
            return *made;
        }
        let node = self.graph.node(id);
        let made = match (node, self.choice.nodes.iter().position(|chosen| *chosen == self.product(id))) {
            (_, Some(place)) => self.chosen(place),
            (Node::Apply(op, operands), None) => {
                let operands: Vec<Id> = operands.iter().map(|operand| self.value(*operand)).collect();
                self.made.apply(*op, &operands)
            }
            (node, None) => self.made.add(node.clone()),
        };
        self.known.insert(id, made);
        made
    }

    /// What a value is an item for.
    fn product(&self, id: Id) -> Id {
        match self.graph.node(id) {
            Node::Apply(Op::Item, operands) => match (self.graph.node(operands[0]), self.graph.ty(operands[1])) {
                (Node::Apply(Op::Launch, parts), Type::Attr(Attr::Num(i))) => parts[*i as usize],
                _ => id,
            },
            _ => id,
        }
    }

    /// One of those that are forced.
    fn chosen(&mut self, place: usize) -> Id {
        let made: Vec<Id> = self.choice.nodes.iter().map(|id| self.op(*id)).collect();
        if !matches!(self.way, Some(Attr::Beside(_))) {
            return made[place];
        }
        let launch = self.made.apply(Op::Launch, &made);
        self.made.apply_attr(Op::Item, &[launch], Attr::Num(place as u64))
    }

    /// A forced op in the way that it is forced to.
    fn op(&mut self, id: Id) -> Id {
        let Node::Apply(op, operands) = self.graph.node(id) else { panic!("no op has a way") };
        let (_, open) = operands.split_last().expect("operands");
        let mut operands: Vec<Id> = open.iter().map(|operand| self.value(*operand)).collect();
        operands.extend(self.way.clone().map(|way| self.made.add(Node::Attr(way))));
        self.made.apply(*op, &operands)
    }
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
            let others = choices.iter().flat_map(|choice| choice.ways[1..].iter().map(move |(way, _)| (choice, way)));
            for (choice, way) in others {
                let what = format!("{name} on {}: {} by {way}", machine.name, choice.op);
                let other = run(&forced(&best, choice, way), &machine, dims, &given);
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
                for choice in &choices {
                    for (way, cost) in &choice.ways[1..] {
                        assert!(*cost >= choice.ways[0].1, "{name} on {}, T = {tokens}: {choice:?}", machine.name);
                        let whole = graph_cost(&forced(best.at(tokens), choice, way), &machine, &[tokens]);
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
