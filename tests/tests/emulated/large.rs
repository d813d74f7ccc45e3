//! Single blocks of layers of real size, on memory of which only what is touched exists: offsets beyond 2^31 elements and
//! bytes, at the largest batch.

use libtest_mimic::Failed;
use moec::emulate::{Request, check};
use moec::import::Entry;
use moec::pipeline::{compile, lower};
use moec::spec::Mode;
use moec_ir::rewrite::choices;
use moec_runtime::emulator::{Place, Sample};
use moec_runtime::package::Dims;
use moec_tests::trials::Case;
use moec_tests::{Example, examples, machine};

const TOKENS: u64 = 65_536;
/// Rows and columns of a tile of the grouped GEMMs.
const TILE: u64 = 64;

pub(crate) fn cases() -> Vec<Case> {
    let named = |name: &str| examples().into_iter().find(|example| example.name == name);
    let large = ["mixtral-8x7b", "deepseek-v3"].into_iter().filter_map(named);
    let case = |example: Example, check: fn(&Example) -> Result<(), Failed>| {
        let spec = example.spec.clone();
        let case = Case::new(format!("{}::last_blocks_at_full_size", example.name), &spec, move || check(&example));
        case.of_kind("full size")
    };
    let soft = examples().into_iter().filter(|example| matches!(example.spec.router.mode, Mode::Soft(_)));
    let routed = large.map(|example| case(example, last_blocks));
    routed.chain(soft.take(1).map(|example| case(example, last_blocks_of_slots))).collect()
}

/// As many slots as there may be at this batch, in short sequences: 2^23 rows of slots.
fn last_blocks_of_slots(example: &Example) -> Result<(), Failed> {
    const ROW_TOKENS: u64 = 64;
    const SLOTS: u64 = 64;
    let mut example = example.clone();
    if let Mode::Soft(soft) = &mut example.spec.router.mode {
        soft.slots = SLOTS;
    }
    let spec = &example.spec;
    let all_slots = spec.experts * SLOTS;
    let request = Request {
        target: "sm_90a".to_string(),
        batches: vec![Dims { tokens: TOKENS, sequence_tokens: ROW_TOKENS }],
        seed: 1,
        schedules: 1,
        sample: Sample::Only(vec![Place::Last]),
    };
    let package = compile(spec, Entry::Layer, &example.text, &[machine("sm_90a")], &moec_codegen::Options::default())?;
    let outcomes = check(&package, None, &request)?;
    let outcome = outcomes.first().ok_or("no outcome")?;
    if let Some((_, finding)) = outcome.findings.first() {
        return Err(finding.to_string().into());
    }
    let rows = TOKENS / ROW_TOKENS * all_slots;
    assert!(rows * spec.hidden > 1 << 31 && TOKENS * all_slots * 4 >= 1 << 31, "the offsets are not large");
    let gemm = format!("{}_gemm", moec_codegen::symbol::identifier(&spec.name));
    let terms = [
        (gemm.as_str(), spec.hidden),
        ("soft_dispatch", ROW_TOKENS),
        ("grouped_gemm_up", spec.hidden),
        ("grouped_gemm_down", spec.expert.intermediate),
        ("soft_combine", all_slots),
    ];
    for (name, terms) in terms {
        let launch = outcome.launches.iter().find(|launch| launch.symbol.contains(name)).ok_or(name)?;
        let counters = &launch.report.counters;
        let flops = counters.scalar_flops + counters.mma_flops + counters.wgmma_flops;
        if flops < 2 * TILE * TILE * terms {
            return Err(format!("{name} was idle: {flops} operations").into());
        }
    }
    Ok(())
}

fn last_blocks(example: &Example) -> Result<(), Failed> {
    let spec = &example.spec;
    // Each row of pairs is in a tile, so there are at least so many tiles; beyond it blocks may be idle.
    let lowered = lower(spec, Entry::Layer, &machine("sm_90a"))?;
    let tiling = |name: &str| {
        let choices = choices(lowered.rewritten.at(TOKENS), &machine("sm_90a"), TOKENS);
        let chosen = choices.into_iter().find(|choice| choice.op.starts_with("grouped_gemm") && choice.op.contains(name))?;
        let way = &chosen.ways.first()?.0;
        let (rows, columns) = way.split_once('(')?.1.trim_start_matches(|c: char| !c.is_ascii_digit()).split_once(" by ")?;
        Some([rows.parse::<u64>().ok()?, columns.trim_end_matches(')').parse::<u64>().ok()?])
    };
    let rows_of_pairs = TOKENS * spec.router.top_k;
    let last = |name: &str, width: u64| {
        let [rows, columns] = tiling(name).ok_or("no tiling")?;
        Ok::<_, Failed>(Place::At(rows_of_pairs / rows * width.div_ceil(columns) - 1))
    };
    let request = Request {
        target: "sm_90a".to_string(),
        batches: vec![Dims::tokens(TOKENS)],
        seed: 1,
        schedules: 1,
        sample: Sample::Only(vec![last("@gate", spec.expert.intermediate)?, last("@down", spec.hidden)?, Place::Last]),
    };
    let package = compile(spec, Entry::Layer, &example.text, &[machine("sm_90a")], &moec_codegen::Options::default())?;
    let outcomes = check(&package, None, &request)?;
    let outcome = outcomes.first().ok_or("no outcome")?;
    if let Some((_, finding)) = outcome.findings.first() {
        return Err(finding.to_string().into());
    }
    assert!(rows_of_pairs * spec.hidden.max(spec.expert.intermediate) * 2 > 1 << 31, "the offsets are not large");
    for launch in outcome.launches.iter().filter(|launch| launch.symbol.contains("grouped_gemm")) {
        let of_a_block = 2 * TILE * TILE * spec.hidden.min(spec.expert.intermediate);
        let flops = launch.report.counters.scalar_flops + launch.report.counters.mma_flops + launch.report.counters.wgmma_flops;
        if flops < of_a_block {
            return Err(format!("{} was idle: {flops} operations", launch.symbol).into());
        }
    }
    Ok(())
}
