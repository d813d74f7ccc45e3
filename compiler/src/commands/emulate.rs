//! `moec check --emulate`: layers of any size on the emulator, and what it saw, for people or as JSON.
//! How a layer is run there is in the library.

use std::io::Write;
use std::path::Path;

use moec::diagnostics::{Code, Diagnostic, MessageFormat, Report, Source};
use moec::emulate::{Agreement, CheckError, Outcome, Request, check_with, profile, schedules, work};
use moec::import::Entry;
use moec::pipeline;
use moec::spec::Spec;
use moec_codegen::Options;
use moec_runtime::emulator::{Counters, Emulated, Place, Sample};
use moec_runtime::package::{self, Dims, Manifest};
use moec_runtime::{Error, Package};
use serde_json::{Value, json};

use super::{Failure, Notes, check_entry, emulated_target, entry_of, gpu, is_package, load_preset, load_spec};
use crate::cli::{Check, Target};
use crate::files::{read, report_at, report_in};

/// Multiply-adds that the emulator does in a minute or so, every schedule and batch together.
const PATIENCE: u64 = 3 << 30;

/// Checks every layer, and fails with the first that something is wrong with.
pub(super) fn emulate(arguments: &Check, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(name) = &arguments.preset {
        let (spec, source) = load_preset(name, notes)?;
        let entry = entry_of(arguments.entry, (&spec, &source), notes)?;
        let opened = (compile((&spec, entry), &source, arguments, notes)?, Some((spec, entry, source.clone())));
        return emulate_one(Path::new(&source.name), opened, arguments, notes, out);
    }
    arguments.layers.iter().try_for_each(|path| emulate_one(path, open(path, arguments, notes)?, arguments, notes, out))
}

/// The package and, where there is one, the spec that it was compiled from, and as which entry.
type Opened = (Package, Option<(Spec, Entry, Source)>);

fn emulate_one(
    path: &Path,
    (package, given): Opened,
    arguments: &Check,
    notes: Notes,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let manifest = package.manifest();
    let (spec, source) = given.map(|(spec, entry, source)| ((spec, entry), source)).unzip();
    let batches = batches(manifest, &arguments.tokens.0).map_err(|error| match &source {
        Some(source) => report_in(source, Diagnostic::of_run(error, source)),
        None => report_at(path, error),
    })?;
    let sample = arguments.blocks.clone().unwrap_or_else(|| {
        let batches = batches.iter().map(|dims| work(manifest, *dims)).fold(0, u64::saturating_add);
        if batches.saturating_mul(u64::from(arguments.schedules)) <= PATIENCE {
            return Sample::All;
        }
        notes.say(
            "note: too large to run whole: blocks 0 and last of each kernel, on random content, without the reference; \
             `--blocks` chooses others",
        );
        Sample::Only(vec![Place::At(0), Place::Last])
    });
    let target = emulated_target(arguments.target, &package)?;
    let request =
        Request { target, batches, seed: arguments.seed, schedules: arguments.schedules as usize, sample: sample.clone() };
    let progress = notes.steps("emulating", request.batches.len() * request.schedules);
    let outcomes = check_with(&package, spec.as_ref().map(|(spec, entry)| (spec, *entry)), &request, &|| progress.step())
        .map_err(|error| match error {
            CheckError::Runtime(error) => report_at(path, error),
            CheckError::Reference(error) => report_at(path, error),
        })?;
    drop(progress);
    match notes.format() {
        MessageFormat::Human | MessageFormat::Short => print(manifest, &request, &outcomes, arguments.profile, out)?,
        MessageFormat::Json => {
            let batches: Vec<Value> = outcomes.iter().map(|outcome| to_json(outcome, arguments.profile)).collect();
            writeln!(out, "{}", json!({"layer": manifest.layer, "target": request.target, "batches": batches}))?;
        }
    }
    verdict(&outcomes).map_or(Ok(()), |diagnostic| Err(report_at(path, diagnostic).into()))
}

fn open(path: &Path, arguments: &Check, notes: Notes) -> Result<Opened, Report> {
    if path != Path::new("-") && is_package(path) {
        let package = package::read(&read(path)?).map_err(|error| report_at(path, error))?;
        check_entry(arguments.entry, &package).map_err(|diagnostic| report_at(path, diagnostic))?;
        return Ok((package, None));
    }
    let (spec, source) = load_spec(path, None, notes)?;
    let entry = entry_of(arguments.entry, (&spec, &source), notes)?;
    Ok((compile((&spec, entry), &source, arguments, notes)?, Some((spec, entry, source))))
}

fn compile((spec, entry): (&Spec, Entry), source: &Source, arguments: &Check, notes: Notes) -> Result<Package, Report> {
    let machine = gpu(arguments.target.unwrap_or(Target::Sm90a))?;
    let _progress = notes.progress("compiling");
    let compiled = pipeline::compile(spec, entry, &source.text, &[machine], &Options::default());
    compiled.map_err(|error| report_in(source, Diagnostic::of_spec(error, source)))
}

fn batches(manifest: &Manifest, tokens: &[u64]) -> Result<Vec<Dims>, Error> {
    let batch = |tokens: &u64| match *tokens <= manifest.max_tokens {
        true => Ok(Dims::tokens(*tokens)),
        false => Err(Error::TokensAboveMax { tokens: *tokens, max: manifest.max_tokens }),
    };
    tokens.iter().map(batch).collect()
}

fn print(
    manifest: &Manifest,
    request: &Request,
    outcomes: &[Outcome],
    with_profile: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let names = schedules(request.schedules, request.seed).into_iter().map(|(schedule, _)| schedule.name());
    let names = names.collect::<Vec<_>>().join(", ");
    writeln!(out, "{}, {}, {} on the emulator; {names}", manifest.layer, manifest.dtype.name(), request.target)?;
    for outcome in outcomes {
        let bits = if outcome.same_bits { "the same bits" } else { "OTHER BITS" };
        let ran: u64 = outcome.launches.iter().map(|launch| launch.report.counters.blocks).sum();
        let blocks: u64 = outcome.launches.iter().map(|launch| launch.blocks).sum();
        let error = outcome.agreement.as_ref().map_or(String::new(), |Agreement { difference, bound, tokens_apart, apart }| {
            let near = apart.iter().filter(|apart| apart.is_near_tie()).count();
            let near = if near > 0 { format!(" by {near} near ties") } else { String::new() };
            let elsewhere = match tokens_apart {
                Some(0) => ", the same experts".to_string(),
                Some(tokens) => format!(", {tokens} tokens elsewhere{near}"),
                None => String::new(),
            };
            format!(", error {:.1e} of the largest output (at most {bound:.0e}){elsewhere}", difference.of_largest)
        });
        writeln!(
            out,
            "  {:>6} tokens: {} launches, {ran} of {blocks} blocks, {} findings, {bits} under {} schedules{error}",
            outcome.dims.tokens,
            outcome.launches.len(),
            outcome.findings.len(),
            request.schedules,
        )?;
        for (schedule, finding) in &outcome.findings {
            writeln!(out, "    {finding} [{schedule}]")?;
        }
        if with_profile {
            print_profile(&outcome.launches, out)?;
        }
    }
    Ok(())
}

/// The columns of the table of counters.
fn columns(counters: &Counters) -> [(&'static str, String); 11] {
    let share =
        |part: u64, whole: u64| if whole == 0 { "-".into() } else { format!("{:.0}%", 100.0 * part as f64 / whole as f64) };
    let ratio = |part: u64, whole: u64| if whole == 0 { "-".into() } else { format!("{:.2}", part as f64 / whole as f64) };
    [
        ("blocks", counters.blocks.to_string()),
        ("lane ins", counters.lane_instructions().to_string()),
        ("lanes on", share(counters.lane_instructions(), 32 * counters.warp_instructions())),
        ("read B", counters.global.read_bytes.to_string()),
        ("written B", counters.global.written_bytes.to_string()),
        ("sectors used", share(counters.sectors_needed, counters.sectors)),
        ("shared B", (counters.shared.read_bytes + counters.shared.written_bytes).to_string()),
        ("bank passes", ratio(counters.wavefronts, counters.wavefronts_needed)),
        ("flops", (counters.scalar_flops + counters.mma_flops + counters.wgmma_flops).to_string()),
        ("barriers", counters.barriers.to_string()),
        ("partings", counters.divergent_branches.to_string()),
    ]
}

fn print_profile(launches: &[Emulated], out: &mut dyn Write) -> std::io::Result<()> {
    let kernels = profile(launches);
    let rows: Vec<Vec<String>> = kernels
        .iter()
        .map(|(symbol, counters)| {
            let cells = columns(counters).map(|(_, value)| value);
            [vec![symbol.clone()], cells.to_vec()].concat()
        })
        .collect();
    let head: Vec<String> =
        std::iter::once("kernel").chain(columns(&Counters::default()).map(|(name, _)| name)).map(String::from).collect();
    let width = |column: usize| rows.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
        writeln!(out, "    {:<width$}{}", row[0], cells.collect::<String>(), width = widths[0])?;
    }
    Ok(())
}

fn to_json(outcome: &Outcome, with_profile: bool) -> Value {
    // The emulator writes its own JSON; a text that is not would be a bug of its.
    let parsed = |text: String| serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
    let finding = |(schedule, finding): &(String, _)| {
        let mut object = parsed(moec_runtime::emulator::Finding::to_json(finding));
        object["schedule"] = json!(schedule);
        object
    };
    let kernels = |(symbol, counters): (String, Counters)| json!({"kernel": symbol, "counters": parsed(counters.to_json())});
    let mut object = json!({
        "tokens": outcome.dims.tokens,
        "findings": outcome.findings.iter().map(finding).collect::<Vec<_>>(),
        "same_bits": outcome.same_bits,
        "error": outcome.agreement.as_ref().map(|agreement| agreement.difference.of_largest),
        "bound": outcome.agreement.as_ref().map(|agreement| agreement.bound),
        "near_ties": outcome.agreement.as_ref().map(|agreement| agreement.apart.iter().filter(|apart| apart.is_near_tie()).count()),
        "tokens_apart": outcome.agreement.as_ref().and_then(|agreement| agreement.tokens_apart),
    });
    if with_profile {
        object["kernels"] = profile(&outcome.launches).into_iter().map(kernels).collect();
    }
    object
}

/// What is wrong with the batches, if anything.
fn verdict(outcomes: &[Outcome]) -> Option<Diagnostic> {
    let findings: usize = outcomes.iter().map(|outcome| outcome.findings.len()).sum();
    if findings > 0 {
        return Some(Diagnostic::new(Code::Emulated, format!("the emulator has {findings} findings")));
    }
    if let Some(outcome) = outcomes.iter().find(|outcome| !outcome.same_bits) {
        let message = format!("with {} tokens the bits depend on the schedule", outcome.dims.tokens);
        return Some(Diagnostic::new(Code::Emulated, message));
    }
    let far = outcomes.iter().filter_map(|outcome| outcome.agreement.as_ref()).find(|agreement| !agreement.is_close())?;
    if let Some(wrong) = far.apart.iter().find(|apart| !apart.is_near_tie()) {
        return Some(Diagnostic::new(Code::TooFarOff, format!("against the reference {wrong}")));
    }
    let message = format!("the error against the reference is {:.1e}, above {:.0e}", far.difference.of_largest, far.bound);
    Some(Diagnostic::new(Code::TooFarOff, message))
}
