//! How our layer lowers, stage by stage. When a new version of moec changes it, the test fails and shows how; what is
//! accepted with `cargo insta review` is in the repository's history beside the version that it came with.
//!
//! moec promises that the text of a stage does not change within a version: not with the machine that compiles, the
//! number of threads or the day.

use moec::diagnostics::Source;
use moec::import::Entry;
use moec::ir::{Machine, graph, kernel};
use moec::pipeline::{Lowered, lower};
use snapshot_your_lowering::SPEC;

/// Our layer for an H100, up to the kernels. No GPU and no NVIDIA tool is needed for that.
fn lowered() -> Lowered {
    let source = Source { name: "layer.toml".to_string(), text: SPEC.to_string() };
    let spec = moec::spec::parse(&source).expect("our spec is correct");
    let machine = Machine::named("sm_90a").expect("moec compiles for sm_90a");
    lower(&spec, Entry::Layer, &machine).expect("our layer can be compiled")
}

/// What the layer means: close to the formulas of a paper, one op a line.
#[test]
fn graph() {
    insta::assert_snapshot!(graph::print(lowered().graph.graph()));
}

/// What is left after fusion: each op here is one kernel or a few.
#[test]
fn rewritten() {
    insta::assert_snapshot!(lowered().rewritten.to_string());
}

/// The kernels, every load and store in them, and how they are launched.
#[test]
fn kernels() {
    insta::assert_snapshot!(kernel::print(&lowered().program));
}

/// Not all has to be text: the number of launches is what a small batch pays for.
#[test]
fn a_small_batch_takes_fewer_launches() {
    let program = lowered().program;
    let launches: Vec<usize> = program.regimes.iter().map(|regime| regime.launches.len()).collect();
    assert_eq!(launches, [4, 5, 5, 7]);
}
