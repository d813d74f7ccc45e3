//! A package's PTX on the emulator: seeded batches under several schedules, what the checks find, whether the bits agree
//! and how far the result is from the f64 interpreter. Nothing is printed here.

use std::sync::Arc;

use moec_ir::Machine;
use moec_ir::tiling::MOST_ROWS;
use moec_runtime::emulator::{self, Counters, Emulated, Emulator, Finding, Limits, Options, Procedure, Sample, Schedule};
use moec_runtime::layer::Batch;
use moec_runtime::package::{Buffer, DType, Dims, Extent, Manifest, Role};
use moec_runtime::{Bound, Error, Layer, Package, Region, Run, Tensor};
use rayon::prelude::*;

use crate::import::{Entry, import};
use crate::random;
use crate::reference::{
    self, Difference, Reference, ReferenceError, bound_of, difference, expert_sets_apart, experts_of_tokens, has_pairs,
    picks_of_token, tensors,
};
use crate::spec::Spec;
use crate::ties::{Apart, Given, judged};

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// A GPU target of the package.
    pub target: String,
    /// The batches.
    pub batches: Vec<Dims>,
    /// Seed of weights, tokens and schedules.
    pub seed: u64,
    /// How many schedules, at least one; see [`schedules`].
    pub schedules: usize,
    /// Which blocks run. Not all: tensors hold random content that is made where it is touched, so that layers of any size
    /// can be looked at, and there is no result to compare.
    pub sample: Sample,
}

/// What became of one batch.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its dimensions.
    pub dims: Dims,
    /// What the checks found, by the schedule under which they did.
    pub findings: Vec<(String, Finding)>,
    /// Whether every schedule gave the same bits.
    pub same_bits: bool,
    /// The result against the f64 interpreter, where there is one.
    pub agreement: Option<Agreement>,
    /// The launches under the first schedule.
    pub launches: Vec<Emulated>,
}

/// A result against the interpreter's.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// How far the outputs are apart.
    pub difference: Difference,
    /// The largest [`Difference::of_largest`] that rounding explains.
    pub bound: f64,
    /// Tokens with other experts, where experts are picked.
    pub tokens_apart: Option<usize>,
    /// What was routed otherwise, and how near that was, where that was asked.
    pub apart: Vec<Apart>,
}

impl Outcome {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.same_bits && self.agreement.as_ref().is_none_or(Agreement::is_close)
    }
}

impl Agreement {
    /// Whether rounding explains the difference.
    #[must_use]
    pub fn is_close(&self) -> bool {
        self.difference.of_largest <= self.bound && self.apart.iter().all(Apart::is_near_tie)
    }
}

/// Why a layer cannot be checked so.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The device refused.
    #[error(transparent)]
    Runtime(#[from] Error),
    /// The interpreter refused.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// The first `count` schedules: in turn, random, adversarial, and then random ones of other seeds.
#[must_use]
pub fn schedules(count: usize, seed: u64) -> Vec<(Schedule, u64)> {
    let more = (1..).map(|i| (Schedule::Random, seed.wrapping_add(i)));
    Schedule::ALL.into_iter().map(|schedule| (schedule, seed)).chain(more).take(count.max(1)).collect()
}

/// Options for a target of this name: its limits, and determinism promised.
#[must_use]
pub fn options(target: &str, schedule: (Schedule, u64)) -> Options {
    let (schedule, seed) = schedule;
    let limits = Machine::named(target).map_or(Limits::default(), |machine| Limits {
        shared_bytes: machine.shared_optin_bytes,
        block_threads: machine.block_threads,
        ..Limits::default()
    });
    // What does not end is found by the steps of a single warp; how many there are of all is a matter of size.
    Options { schedule, seed, limits, deterministic: true, step_limit: u64::MAX, ..Options::default() }
}

/// One batch on the emulator.
#[derive(Clone, Debug)]
pub struct Emulation {
    /// What it gave, unless a finding stopped it.
    pub run: Option<Run>,
    /// The launches, in order.
    pub launches: Vec<Emulated>,
}

impl Emulation {
    /// Everything that was found.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.launches.iter().flat_map(|launch| &launch.report.findings)
    }
}

/// Runs a batch; memory that is not written reads as `dirt` everywhere.
///
/// # Errors
/// Those of the runtime, but for a launch that a finding stopped.
pub fn emulate(
    package: &Package,
    target: &str,
    options: Options,
    weights: &[Tensor],
    inputs: &[Tensor],
    dims: Dims,
    dirt: u8,
) -> Result<Emulation, Error> {
    let (opened, emulator) = emulator::open(package, Some(target), options, Sample::All)?;
    let layer = Layer::on(package, opened)?;
    let bound = layer.bind(weights.to_vec())?;
    let mut batch = bound.batch(inputs, dims)?;
    batch.workspace.fill(dirt)?;
    batch.outputs.iter_mut().try_for_each(|output| output.fill(dirt))?;
    let (mut launches, elapsed) = launch(&bound, &mut batch, &emulator)?;
    if let (Some(_), Some(last)) = (elapsed, launches.last_mut()) {
        last.report.findings.extend(never_written(package.manifest(), &batch, &emulator));
    }
    let run = elapsed.map(|elapsed| bound.collect(&batch, elapsed)).transpose()?;
    Ok(Emulation { run, launches })
}

/// Of each output, the first byte that no launch wrote.
#[must_use]
pub fn never_written(manifest: &Manifest, batch: &Batch, emulator: &Emulator) -> Vec<Finding> {
    let outputs = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Output).zip(&batch.outputs);
    outputs.filter_map(|(buffer, region)| emulator.never_written(&buffer.name, region.address(), region.bytes())).collect()
}

/// The launches, and the time they took unless a finding stopped them.
fn launch(bound: &Bound, batch: &mut Batch, emulator: &Emulator) -> Result<(Vec<Emulated>, Option<std::time::Duration>), Error> {
    let launched = bound.launch(batch);
    let launches = emulator.take_launches();
    match launched {
        Ok(elapsed) => Ok((launches, Some(elapsed))),
        Err(_) if launches.iter().any(|launch| !launch.report.findings.is_empty()) => Ok((launches, None)),
        Err(error) => Err(error),
    }
}

/// Runs every batch under every schedule, and holds the results to each other and, where the spec and the entry are known and all
/// blocks run, to the interpreter.
///
/// # Errors
/// [`CheckError::Runtime`] where the package has no PTX for the target, or a batch does not fit it; [`CheckError::Reference`] where the
/// interpreter refuses the layer: a bug in moec.
pub fn check(package: &Package, spec: Option<(&Spec, Entry)>, request: &Request) -> Result<Vec<Outcome>, CheckError> {
    check_with(package, spec, request, &|| ())
}

/// As [`check`]; `ran` is called after each batch under each schedule, from any thread.
///
/// # Errors
/// As [`check`].
pub fn check_with(
    package: &Package,
    spec: Option<(&Spec, Entry)>,
    request: &Request,
    ran: &(dyn Fn() + Sync),
) -> Result<Vec<Outcome>, CheckError> {
    match &request.sample {
        Sample::All => check_all(package, spec, request, ran),
        Sample::Only(_) => check_sample(package, request, ran),
    }
}

fn check_all(
    package: &Package,
    spec: Option<(&Spec, Entry)>,
    request: &Request,
    ran: &(dyn Fn() + Sync),
) -> Result<Vec<Outcome>, CheckError> {
    let manifest = package.manifest();
    let weights = random::weights(manifest, request.seed)?;
    let inputs = |dims: Dims| random::inputs(manifest, dims, request.seed);
    let emulations = under_schedules(request, |dims, schedule| {
        let dirt = 0xAB;
        let options = options(&request.target, schedule);
        emulate(package, &request.target, options, &weights, &inputs(dims)?, dims, dirt).inspect(|_| ran())
    })?;
    let mut outcomes = Vec::new();
    for Runs { dims, runs: emulations } in emulations {
        let results: Vec<_> = emulations.iter().map(|(_, e)| e.run.as_ref().map(|run| (&run.outputs, &run.observed))).collect();
        let same_bits = results.windows(2).all(|pair| pair[0] == pair[1]);
        let run = emulations.first().and_then(|(_, emulation)| emulation.run.as_ref());
        let agreement = match (spec, run) {
            (Some((spec, entry)), Some(run)) => {
                let inputs = inputs(dims)?;
                let graph = import(spec, entry).map_err(ReferenceError::from)?;
                let reference = reference::reference(graph, manifest, &weights, &inputs, dims)?;
                let tokens_apart = agreement(manifest, run, &reference).tokens_apart;
                let given = Given { spec, entry, tensors: tensors(manifest, &weights, &inputs), dims };
                let (reference, apart) = judged(&given, run, reference)?;
                Some(Agreement { tokens_apart, apart, ..agreement(manifest, run, &reference) })
            }
            (Some(_) | None, _) => None,
        };
        let launches = emulations.into_iter().map(|(schedule, emulation)| (schedule, emulation.launches)).collect();
        outcomes.push(outcome(dims, launches, same_bits, agreement));
    }
    Ok(outcomes)
}

/// A result against the interpreter's.
#[must_use]
pub fn agreement(manifest: &Manifest, run: &Run, reference: &Reference) -> Agreement {
    let output = reference::output(run).map(Tensor::to_f64).unwrap_or_default();
    Agreement {
        difference: difference(&output, &reference.output),
        bound: bound_of(manifest),
        tokens_apart: has_pairs(manifest)
            .then(|| expert_sets_apart(&experts_of_tokens(run), &reference.experts, reference.top_k)),
        apart: Vec::new(),
    }
}

fn check_sample(package: &Package, request: &Request, ran: &(dyn Fn() + Sync)) -> Result<Vec<Outcome>, CheckError> {
    let sampled = under_schedules(request, |dims, schedule| sample(package, request, dims, schedule).inspect(|_| ran()))?;
    let outcome = |Runs { dims, runs }: Runs<Sampled>| {
        let same_bits = runs.windows(2).all(|pair| pair[0].1.fingerprint == pair[1].1.fingerprint);
        outcome(dims, runs.into_iter().map(|(schedule, run)| (schedule, run.launches)).collect(), same_bits, None)
    };
    Ok(sampled.into_iter().map(outcome).collect())
}

struct Sampled {
    launches: Vec<Emulated>,
    /// Of what was prepared, the outputs and the workspace.
    fingerprint: Vec<u64>,
}

/// Some blocks of a batch, on content that is made where it is touched.
fn sample(package: &Package, request: &Request, dims: Dims, schedule: (Schedule, u64)) -> Result<Sampled, Error> {
    let options = options(&request.target, schedule);
    let (opened, emulator) = emulator::open(package, Some(&request.target), options, request.sample.clone())?;
    let device = Arc::clone(&opened.device);
    let layer = Layer::on(package, opened)?;
    let manifest = package.manifest();
    let region = |role: Role| -> Result<Vec<Region>, Error> {
        let buffers = manifest.buffers.iter().enumerate().filter(|(_, buffer)| buffer.role == role);
        let region = |(index, buffer): (usize, &Buffer)| {
            // Of the size that the launch asks for; what overflows it refuses.
            let bytes = |bytes: u64, extent: &Extent| Ok::<u64, Error>(bytes.saturating_mul(extent.count(dims)?));
            if role != Role::Output {
                emulator.provide(index, random::content(manifest, buffer, request.seed));
            }
            Region::new(&device, buffer.shape.iter().try_fold(buffer.dtype.bytes(), bytes)?)
        };
        buffers.map(region).collect()
    };
    let bound = layer.bind_regions(region(Role::Weight)?)?;
    let mut fingerprint = Vec::new();
    for (_, region) in bound.prepared() {
        fingerprint.push(emulator.fingerprint(region.address(), region.bytes()));
    }
    let made = |(_, buffer): &(usize, &Buffer)| matches!(buffer.role, Role::Prepared | Role::Workspace);
    for (index, buffer) in manifest.buffers.iter().enumerate().filter(made) {
        let content: Option<Procedure> = match buffer.dtype {
            // Others would have to be what the launches before make of it.
            DType::I32 if buffer.observe.as_deref() == Some("route.experts") => {
                // Joint picks are counted, and stand for other experts here.
                let picks = buffer.shape.last().and_then(Extent::as_const).unwrap_or(1).unsigned_abs();
                Some(random::picks(manifest_dim(manifest, "experts"), picks, request.seed))
            }
            DType::I32 => None,
            DType::F32 | DType::F16 | DType::Bf16 => Some(random::content(manifest, buffer, request.seed)),
        };
        if let Some(content) = content {
            emulator.provide(index, content);
        }
    }
    let workspace = Region::new(&device, layer.workspace_bytes(dims)?)?;
    let mut batch = Batch { dims, inputs: region(Role::Input)?, outputs: region(Role::Output)?, workspace };
    let (launches, _) = launch(&bound, &mut batch, &emulator)?;
    let written = batch.outputs.iter().chain([&batch.workspace]);
    fingerprint.extend(written.map(|region| emulator.fingerprint(region.address(), region.bytes())));
    Ok(Sampled { launches, fingerprint })
}

/// A batch under every schedule, by the schedule's name.
struct Runs<T> {
    dims: Dims,
    runs: Vec<(String, T)>,
}

/// Every batch under every schedule, on all cores; in the order of the request.
fn under_schedules<T: Send>(
    request: &Request,
    run: impl Fn(Dims, (Schedule, u64)) -> Result<T, Error> + Sync,
) -> Result<Vec<Runs<T>>, Error> {
    let schedules = schedules(request.schedules, request.seed);
    let all = request.batches.iter().flat_map(|dims| schedules.iter().map(|schedule| (*dims, *schedule)));
    let all: Vec<_> = all.collect();
    let done: Result<Vec<T>, Error> = all.into_par_iter().map(|(dims, schedule)| run(dims, schedule)).collect();
    let mut done = done?.into_iter();
    let of_batch = |dims: &Dims| {
        let names = schedules.iter().map(|(schedule, seed)| match schedule {
            Schedule::RoundRobin => schedule.name().to_string(),
            Schedule::Random | Schedule::Adversarial => format!("{} {seed}", schedule.name()),
        });
        Runs { dims: *dims, runs: names.zip(done.by_ref()).collect() }
    };
    Ok(request.batches.iter().map(of_batch).collect())
}

fn outcome(dims: Dims, runs: Vec<(String, Vec<Emulated>)>, same_bits: bool, agreement: Option<Agreement>) -> Outcome {
    let found = |(schedule, launches): &(String, Vec<Emulated>)| {
        let findings = launches.iter().flat_map(|launch| launch.report.findings.clone());
        findings.map(|finding| (schedule.clone(), finding)).collect::<Vec<_>>()
    };
    let findings = runs.iter().flat_map(found).collect();
    let launches = runs.into_iter().next().map(|(_, launches)| launches).unwrap_or_default();
    Outcome { dims, findings, same_bits, agreement, launches }
}

/// The counters of each kernel over these launches, in the order of first launch.
#[must_use]
pub fn profile(launches: &[Emulated]) -> Vec<(String, Counters)> {
    let mut kernels: Vec<(String, Counters)> = Vec::new();
    for launch in launches {
        let counters = &launch.report.counters;
        match kernels.iter_mut().find(|(symbol, _)| *symbol == launch.symbol) {
            Some((_, all)) => all.add(counters),
            None => kernels.push((launch.symbol.clone(), counters.clone())),
        }
    }
    kernels
}

/// Multiply-adds of a batch, about: tiles are computed whole.
#[must_use]
pub fn work(manifest: &Manifest, dims: Dims) -> u64 {
    let tile_rows = u64::from(MOST_ROWS);
    let experts = manifest_dim(manifest, "experts").max(1);
    let slots = manifest_dim(manifest, "slots").saturating_mul(experts);
    let pairs = match slots {
        0 => dims.tokens.saturating_mul(picks_of_token(manifest) as u64),
        slots => slots.saturating_mul(dims.tokens.div_ceil(dims.sequence_tokens.max(1))),
    };
    let tiles = pairs.min(experts).saturating_add(pairs / tile_rows);
    let first = |buffer: &Buffer| buffer.shape.first().and_then(Extent::as_const).map_or(1, i64::unsigned_abs).max(1);
    let weights = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    let of_weight = |buffer: &Buffer| {
        let elements = buffer.shape.iter().map(|extent| extent.as_const().unwrap_or(0).unsigned_abs());
        let elements = elements.fold(1, u64::saturating_mul);
        match buffer.shape.len() {
            // Logits, and what is mixed by them into slots and back.
            3 if buffer.name == "slots" => elements.saturating_mul(3 * dims.tokens),
            3 => (elements / first(buffer)).saturating_mul(tiles * tile_rows),
            _ => elements.saturating_mul(dims.tokens),
        }
    };
    weights.map(of_weight).fold(0, u64::saturating_add)
}

fn manifest_dim(manifest: &Manifest, name: &str) -> u64 {
    manifest.dims.iter().find(|dim| dim.name == name).map_or(0, |dim| dim.value)
}
