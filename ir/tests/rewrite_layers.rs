//! Whole layers (`tests/text/graph/layer_*.moe`) through the rewriting: equal under the interpreter, only ops that
//! `schedule` takes, the same every time, and snapshots of what becomes of them.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use moec_ir::graph::{Node, Op, Typed, parse, print};
use moec_ir::rewrite::{Batches, Rewritten, rewrite, why};
use moec_ir::{Dims, Machine};

use crate::oracle::{Numbers, inputs, output, same, typed};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/text/graph");
const MACHINES: [&str; 3] = ["sm_90a", "sm_80", "x86-64-v4"];
const TOKENS: [u64; 3] = [1, 64, 4096];

/// One graph for all.
fn batches() -> Batches {
    Batches::together(&TOKENS)
}

fn text(layer: &str) -> String {
    std::fs::read_to_string(Path::new(FOLDER).join(format!("layer_{layer}.moe"))).unwrap_or_else(|why| panic!("{layer}: {why}"))
}

/// Every layer as it stands in its file, and in f32.
fn layers() -> Vec<(String, Typed)> {
    let files = std::fs::read_dir(FOLDER).expect("the folder of graphs").map(|entry| entry.expect("a file").file_name());
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.to_str()?.strip_prefix("layer_")?.strip_suffix(".moe")?.to_string())).collect();
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    let of = |name: &String| {
        let text = text(name);
        [(name.clone(), typed(&text)), (format!("{name} in f32"), typed(&text.replace("bf16", "f32")))]
    };
    names.iter().flat_map(of).collect()
}

fn machine(name: &str) -> Machine {
    Machine::named(name).unwrap_or_else(|| panic!("no machine {name}"))
}

/// Each layer with what each machine makes of it.
static REWRITTEN: LazyLock<Vec<(String, Typed, Rewritten)>> = LazyLock::new(|| {
    let on = |(name, layer): (String, Typed)| {
        MACHINES.map(|m| (format!("{name} on {m}"), layer.clone(), rewrite(&layer, &machine(m), &batches())))
    };
    layers().into_iter().flat_map(on).collect()
});

#[test]
fn files_round_trip() {
    for entry in std::fs::read_dir(FOLDER).expect("the folder of graphs") {
        let path = entry.expect("a file").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("layer_")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a text");
        let printed = print(typed(&text).graph());
        if std::env::var_os("MOEC_BLESS").is_some() {
            std::fs::write(&path, &printed).expect("a file to write");
        } else {
            assert_eq!(printed, text);
        }
    }
}

#[test]
fn equal_under_the_interpreter() {
    for (name, layer, result) in &*REWRITTEN {
        for (tokens, sequence_tokens, seed) in [(0, 0, 0), (1, 1, 1), (7, 7, 2), (12, 4, 3), (12, 4, 4)] {
            let dims = Dims { tokens, sequence_tokens };
            for numbers in [Numbers::Smooth, Numbers::Ties] {
                let params = inputs(layer, dims, seed, numbers);
                // The same sums rounded at the same places: in bf16 a last bit may differ where the f64 sums do.
                let tolerance = if name.contains("f32") { 1e-6 } else { 1e-2 };
                same(layer, result.at(1), &params, dims, tolerance)
                    .unwrap_or_else(|why| panic!("{name}, T = {tokens}, {numbers:?}: {why}"));
            }
        }
    }
}

#[test]
fn a_capacity_drops_the_same_pairs() {
    let layer = typed(&text("switch"));
    let result = rewrite(&layer, &machine("sm_80"), &batches());
    let dims = Dims { tokens: 21, sequence_tokens: 7 };
    let params = inputs(&layer, dims, 5, Numbers::Smooth);
    let rows = |graph: &Typed| -> Vec<bool> {
        output(graph, &params, dims).data.chunks(16).map(|row| row.iter().all(|y| *y == 0.0)).collect()
    };
    let dropped = rows(&layer);
    assert_eq!(dropped, rows(result.at(1)));
    assert!(dropped.contains(&true) && dropped.contains(&false), "{dropped:?}");
}

#[test]
fn the_search_ends_by_itself() {
    for (name, _, result) in &*REWRITTEN {
        assert!(result.saturated, "{name} does not saturate");
        assert!(result.exact, "{name}: extraction met its limit");
        assert!(result.after < result.before, "{name} got no cheaper");
    }
}

#[test]
fn a_second_rewriting_changes_nothing() {
    for (name, _, result) in &*REWRITTEN {
        let machine = machine(name.rsplit(' ').next().unwrap_or_default());
        let again = rewrite(result.at(1), &machine, &batches());
        assert_eq!(print(again.at(1).graph()), print(result.at(1).graph()), "{name}");
        assert_eq!(again.after, result.after, "{name}");
    }
}

#[test]
fn only_what_schedule_takes() {
    for (name, layer, result) in &*REWRITTEN {
        let mut routes = 0;
        for node in result.at(1).graph().nodes.as_ref() {
            match node {
                Node::Param(_) | Node::Attr(_) => {}
                Node::Apply(op, _) => match op {
                    Op::Route => routes += 1,
                    Op::List | Op::Gemm | Op::GroupedGemm | Op::Combine | Op::ExpertRows | Op::PairWeights => {}
                    Op::RmsNorm | Op::Flatten | Op::Slots | Op::SoftDispatch | Op::SoftCombine | Op::Launch | Op::Item => {}
                    Op::Softmax | Op::TokenSoftmax if name.contains("soft_moe") => {}
                    op => panic!("{name}: {} is left over\n{}", op.name(), print(result.at(1).graph())),
                },
                Node::Hole(_) => panic!("{name}: a hole outside a body"),
            }
        }
        assert_eq!(routes, if name.contains("soft_moe") { 0 } else { 1 }, "{name}");
        let grouped = |graph: &Typed| count(graph, Op::GroupedGemm);
        let gated = ["switch", "relu2", "soft_moe"].iter().any(|plain| name.contains(plain));
        assert_eq!(grouped(result.at(1)), 2, "{name}");
        assert_eq!(grouped(layer), if gated { 2 } else { 3 }, "{name}");
    }
}

fn count(graph: &Typed, wanted: Op) -> usize {
    graph.graph().nodes.as_ref().iter().filter(|node| matches!(node, Node::Apply(op, _) if *op == wanted)).count()
}

#[test]
fn the_same_text_every_time() {
    for (name, layer) in layers() {
        let run = || print(rewrite(&layer, &machine("sm_90a"), &batches()).at(1).graph());
        let first = run();
        assert!((0..3).all(|_| run() == first), "{name}");
        assert_eq!(print(&parse(&first).unwrap_or_else(|why| panic!("{name}: {why}"))), first);
    }
}

/// The rewritten text, and the rules that it could not do without.
fn report(layer: &str) -> String {
    let (layer, machine) = (typed(&text(layer)), machine("sm_90a"));
    let result = rewrite(&layer, &machine, &batches());
    let mut out = print(result.at(1).graph());
    for reason in why(&layer, &result, &machine, &batches()) {
        out += &format!("round {}: {}\n", reason.round, reason.rule);
    }
    out
}

macro_rules! snapshots {
    ($($layer:ident),*) => {
        $(#[test]
        fn $layer() {
            insta::assert_snapshot!(stringify!($layer), report(stringify!($layer)));
        })*
    };
}

snapshots!(mixtral, qwen2_moe, deepseek_v3, deepseek_v2, gpt_oss, switch, relu2, gshard, soft_moe);

/// DeepSeek-V3 at its real size.
fn large() -> Typed {
    let sizes = [
        ("24", "256"),
        ("<16 x", "<7168 x"),
        (" 16 x", " 7168 x"),
        ("<12 x", "<2048 x"),
        (" 12 x", " 2048 x"),
        ("groups(4, keep 2", "groups(8, keep 4"),
        (", 4 :", ", 8 :"),
    ];
    typed(&sizes.iter().fold(untyped(&text("deepseek_v3")), |text, (small, large)| text.replace(small, large)))
}

/// The bound is for a loaded machine and a debug build of this crate.
#[test]
fn a_large_layer_is_rewritten_at_once() {
    let layer = large();
    let start = Instant::now();
    let result = rewrite(&layer, &machine("sm_90a"), &Batches { together: false, most: 1 << 16, ..batches() });
    let took = start.elapsed();
    assert!(result.saturated && result.exact);
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("rewriting DeepSeek-V3 takes {took:?}");
}

/// The text with the types of its lines left to be inferred.
fn untyped(text: &str) -> String {
    let line = |line: &str| match (line.trim_start().starts_with(['%', '}']), line.rsplit_once(" : ")) {
        (true, Some((call, _))) => format!("{call} : ?\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}
