//! `moec run`: a layer on weights and tokens, timed, and held against the f64 interpreter and against what the input file
//! says. How the report looks is in `report`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};
use moec::import::import;
use moec::reference::{Reference, expert_sets_apart, experts_of_tokens, has_pairs, reference};
use moec::spec::{Mode, Spec, drop_floor};
use moec::{pipeline, random, ties};
use moec_codegen::Options;
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_runtime::emulator::{self, Emulated, Emulator, Sample, Schedule};
use moec_runtime::package::{self, Dims, Dtype, Manifest, Role};
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, DeviceKind, Error, Layer, Package, Tensor, assemble};

use super::compare::{Comparison, Sides};
use super::report::{Measured, print, print_statistics, statistics_json};
use super::{Failure, Notes, emulated_target, gpu, is_package, load_preset, load_spec};
use crate::cli::{Device, Run, StatsFormat, Target};
use crate::files::{bytes_text, read, report_at, write};

/// Runs a layer and prints what happened.
pub(super) fn run(arguments: &Run, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    if arguments.output.as_deref() == Some(Path::new("-")) {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "standard output is the report's");
        return Err(diagnostic.help("name a file by `--output`").into());
    }
    if arguments.target.is_some() && arguments.device != Device::Emulator {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "`--target` chooses what the emulator runs");
        return Err(diagnostic.help("add `--device emulator`").into());
    }
    let (package, spec) = open(arguments, notes)?;
    let (layer, emulator) = load(arguments, &package).map_err(|error| report_at(&arguments.path(), error))?;
    let manifest = package.manifest();

    check_memory(manifest, arguments.reference).map_err(|diagnostic| report_at(&arguments.path(), diagnostic))?;
    let Input { tensors: inputs, dims, expected } = input(arguments, manifest, notes)?;
    let weights = weights(arguments, manifest, notes)?;
    let blame = arguments.input.as_ref().map_or_else(|| arguments.path(), |input| input.path.clone());
    let failed = |error: Error| report_at(&blame, error);

    // The interpreter needs the weights too, and the device's copy may be out of reach.
    let kept = kept_weights(arguments, spec.as_ref().filter(|_| expected.is_some()), manifest, &weights);
    let bound_layer = layer.bind(weights).map_err(failed)?;
    let mut batch = bound_layer.batch(&inputs, dims).map_err(failed)?;
    let first = bound_layer.launch(&mut batch);
    if let Some(emulator) = &emulator {
        findings(&emulator.take_launches(), out)?;
    }
    let warm_up = first.map_err(failed)?;
    // What the emulator takes says nothing of anything else.
    let repeat = if emulator.is_some() { 0 } else { arguments.repeat };
    let progress = notes.steps("running", repeat as usize);
    let mut times = Vec::new();
    for _ in 0..repeat {
        times.push(bound_layer.launch(&mut batch).map_err(failed)?);
        progress.step();
    }
    drop(progress);
    times.sort_unstable();
    let run = bound_layer.collect(&batch, times.get(times.len() / 2).copied().unwrap_or(warm_up)).map_err(failed)?;

    if let Some(path) = &arguments.output {
        let bytes = output_file(&run, inputs[0].shape()).map_err(failed)?;
        write(path, &bytes)?;
        notes.say(&format!("wrote {} ({})", path.display(), bytes_text(bytes.len() as u64)));
    }
    let output = run.outputs.first().map(|(_, tensor)| tensor.to_f64()).unwrap_or_default();
    let experts = experts_of_tokens(&run);
    let hidden = dim(manifest, "hidden") as usize;
    let mut tensors: BTreeMap<&str, &Tensor> = kept.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    tensors.extend(names(manifest, Role::Input).zip(&inputs));
    let batch = spec.as_ref().map(|spec| ties::Given { spec, tensors, dims });
    let mut comparisons = Vec::new();
    if let (true, Some(batch)) = (arguments.reference, &batch) {
        let _progress = notes.progress("interpreting in f64");
        let reference = by_interpreter(batch, manifest, &inputs)?;
        let apart = has_pairs(manifest).then(|| expert_sets_apart(&experts, &reference.experts, reference.top_k));
        let (reference, decisions) = ties::judged(batch, &run, reference).map_err(Diagnostic::from)?;
        let sides = Sides {
            name: "reference",
            output: &output,
            expected: &reference.output,
            hidden,
            tokens_apart: apart,
            apart: decisions,
            routed_there: false,
        };
        comparisons.push(Comparison::of(manifest, sides));
    }
    if let Some(expected) = &expected {
        // What published code calls picks has no joint shared experts behind them. Where experts choose there are none.
        let (top_k, picks) = (dim(manifest, "top_k") as usize, experts.len() / dims.tokens.max(1) as usize);
        let routed: Vec<usize> =
            experts.chunks(picks.max(1)).flat_map(|picks| &picks[..top_k.min(picks.len())]).copied().collect();
        let sets = expected.experts.as_ref().filter(|_| top_k > 0 && has_pairs(manifest));
        let decisions = match (sets, &batch) {
            (Some(sets), Some(batch)) => ties::picks(batch, &routed, sets, top_k).map_err(Diagnostic::from)?,
            (_, _) => Vec::new(),
        };
        let sides = Sides {
            name: "out.hidden",
            output: &output,
            expected: &expected.output,
            hidden,
            tokens_apart: sets.map(|sets| expert_sets_apart(&routed, sets, top_k)),
            apart: decisions,
            routed_there: true,
        };
        comparisons.push(Comparison::of(manifest, sides));
    }
    let measured =
        Measured { manifest, target: &layer.target().name, device: layer.device().name(), dims, times: &times, run: &run };
    let floor = spec.as_ref().map_or(0.0, |spec| drop_floor(spec, dims.tokens, dims.row_tokens));
    if floor > 0.0 {
        notes.say(&format!("note: the capacity drops at least {:.1} % of these picks, whatever the router", 100.0 * floor));
    }
    if emulator.is_some() {
        notes.say("note: emulated, every check on: no finding; times would say nothing of a GPU's");
    }
    let statistics = arguments.stats.map(|format| Ok((format, layer.statistics(&run)?))).transpose().map_err(failed)?;
    match statistics {
        Some((StatsFormat::Json, statistics)) => writeln!(out, "{}", statistics_json(statistics.as_ref()))?,
        Some((StatsFormat::Text, statistics)) => {
            print(&measured, &comparisons, out)?;
            print_statistics(&run, statistics.as_ref(), out)?;
        }
        None => print(&measured, &comparisons, out)?,
    }
    match comparisons.iter().find_map(Comparison::error) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn names(manifest: &Manifest, role: Role) -> impl Iterator<Item = &str> {
    manifest.buffers.iter().filter(move |buffer| buffer.role == role).map(|buffer| buffer.name.as_str())
}

/// Weights that are needed after the run, by name: all for the interpreter, else those that say how near `expected` picks were.
fn kept_weights(arguments: &Run, expected: Option<&Spec>, manifest: &Manifest, weights: &[Tensor]) -> BTreeMap<String, Tensor> {
    let of_router = expected.filter(|spec| spec.router.mode == Mode::TokenChoice).map(ties::weights).unwrap_or_default();
    let named = names(manifest, Role::Weight).zip(weights);
    let kept = named.filter(|(name, _)| arguments.reference || of_router.contains(*name));
    kept.map(|(name, tensor)| (name.to_string(), tensor.clone())).collect()
}

fn by_interpreter(batch: &ties::Given<'_>, manifest: &Manifest, inputs: &[Tensor]) -> Result<Reference, Diagnostic> {
    let weights: Vec<Tensor> =
        names(manifest, Role::Weight).filter_map(|name| batch.tensors.get(name)).map(|t| (*t).clone()).collect();
    Ok(reference(import(batch.spec), manifest, &weights, inputs, batch.dims)?)
}

/// The layer on its device, and the emulator where that is the device.
fn load(arguments: &Run, package: &Package) -> Result<(Layer, Option<Arc<Emulator>>), Diagnostic> {
    let kind = match arguments.device {
        Device::Host => DeviceKind::Host { threads: arguments.threads },
        Device::Cuda => DeviceKind::Cuda { ordinal: 0 },
        Device::Emulator => {
            let target = emulated_target(arguments.target, package)?;
            let options = moec::emulate::options(&target, (Schedule::default(), arguments.seed));
            let (opened, emulator) = emulator::open(package, Some(&target), options, Sample::All)?;
            return Ok((Layer::on(package, opened)?, Some(emulator)));
        }
    };
    Ok((Layer::load(package, kind)?, None))
}

/// Prints what the emulator found, which is an error.
fn findings(launches: &[Emulated], out: &mut dyn Write) -> Result<(), Failure> {
    let all: Vec<_> = launches.iter().flat_map(|launch| &launch.report.findings).collect();
    all.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
    if all.is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new(Code::Emulated, format!("the emulator has {} findings", all.len())).into())
}

/// The package and, where the argument was a spec, the spec.
fn open(arguments: &Run, notes: Notes) -> Result<(Package, Option<Spec>), Failure> {
    let path = &arguments.path();
    if arguments.preset.is_some() || path == Path::new("-") || !is_package(path) {
        let table = arguments.weights.as_deref().map(|path| (path, arguments.tensor_prefix.as_deref().unwrap_or("")));
        let (spec, source) = match &arguments.preset {
            Some(name) => load_preset(name, notes)?,
            None => load_spec(path, table, notes)?,
        };
        let _progress = notes.progress("compiling");
        let package = compile(&spec, &source, arguments).map_err(|error| report_at(source.name.as_ref(), error))?;
        return Ok((package, Some(spec)));
    }
    if arguments.reference {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "a package does not hold the spec that the interpreter needs");
        return Err(report_at(path, diagnostic.help("give the spec in the package's place")).into());
    }
    let package = package::read(&read(path)?).map_err(|error| report_at(path, error))?;
    Ok((package, None))
}

/// For a GPU, PTX for every architecture: which of them is there is known only to the driver.
fn compile(spec: &Spec, source: &Source, arguments: &Run) -> Result<Package, Diagnostic> {
    let machines: Vec<Machine> = match arguments.device {
        Device::Host => vec![super::machine(Target::Host)?],
        Device::Cuda => MACHINES.into_iter().filter(Machine::is_gpu).collect(),
        Device::Emulator => vec![gpu(arguments.target.unwrap_or(Target::Sm90a))?],
    };
    Ok(pipeline::compile(spec, &source.text, &machines, &Options::default())?)
}

/// The weights in the manifest's order.
fn weights(arguments: &Run, manifest: &Manifest, notes: Notes) -> Result<Vec<Tensor>, Report> {
    let Some(path) = &arguments.weights else {
        notes.say(&format!("note: no --weights: random ones, seed {}", arguments.seed));
        let _progress = notes.progress("making weights");
        return random::weights(manifest, arguments.seed).map_err(|error| report_at(&arguments.path(), error));
    };
    let progress = notes.progress("reading weights");
    let file = read(path)?;
    let prefix = arguments.tensor_prefix.as_deref().unwrap_or("");
    let assembled = Checkpoint::read(&file).and_then(|checkpoint| assemble(manifest, &checkpoint, prefix));
    let (weights, conversions) = assembled.map_err(|error| report_at(path, with_names(error, &file)))?;
    drop(progress);
    conversions.iter().for_each(|conversion| notes.say(&format!("note: {conversion}")));
    Ok(weights)
}

/// A tensor that was not found, nor one of a similar name: what the file has, and which flags change what is looked for.
fn with_names(error: Error, file: &[u8]) -> Diagnostic {
    let is_far = matches!(&error, Error::MissingTensor { near_matches, .. } if near_matches.is_empty());
    let diagnostic = Diagnostic::from(error);
    match Checkpoint::read(file) {
        Ok(checkpoint) if is_far => diagnostic
            .help("`--tensor-prefix` says what stands before each name, `[weights]` in the spec which names there are")
            .note(listed(&checkpoint)),
        Ok(_) | Err(_) => diagnostic,
    }
}

/// The names in a file, the first of them where there are many.
fn listed(checkpoint: &Checkpoint<'_>) -> String {
    const SHOWN: usize = 12;
    let names = checkpoint.names();
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quote(name)).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the file has {}{more}", shown.join(", "))
}

/// Tokens and, where the layer takes them, their ids; and what the same file says should come out.
struct Input {
    /// In the manifest's order: the tokens first, and never none.
    tensors: Vec<Tensor>,
    dims: Dims,
    expected: Option<Expected>,
}

struct Expected {
    output: Vec<f64>,
    experts: Option<Vec<usize>>,
}

fn input(arguments: &Run, manifest: &Manifest, notes: Notes) -> Result<Input, Report> {
    const RANDOM_TOKENS: u64 = 64;
    let wanted: Vec<_> = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input).collect();
    let Some(given) = &arguments.input else {
        let tokens = arguments.tokens.unwrap_or(RANDOM_TOKENS.min(manifest.max_tokens));
        if tokens > manifest.max_tokens {
            let error = Error::TokensAboveMax { tokens, max: manifest.max_tokens };
            return Err(report_at(&arguments.path(), error));
        }
        notes.say(&format!("note: no --input: {tokens} random tokens, seed {}", arguments.seed));
        let dims = Dims::tokens(tokens);
        let tensors = random::inputs(manifest, dims, arguments.seed);
        let tensors = tensors.map_err(|error| report_at(&arguments.path(), error))?;
        return Ok(Input { tensors, dims, expected: None });
    };
    let file = read(&given.path)?;
    let failed = |error: Error| report_at(&given.path, error);
    let checkpoint = Checkpoint::read(&file).map_err(failed)?;
    let tokens = match &given.tensor {
        Some(name) => name.as_str(),
        None => default_tensor(&checkpoint).map_err(|diagnostic| report_at(&given.path, diagnostic))?,
    };
    let random = random::inputs(manifest, Dims::tokens(0), arguments.seed).map_err(failed)?;
    let mut tensors = Vec::new();
    for (index, (buffer, random)) in wanted.into_iter().zip(random).enumerate() {
        // What goes with the tokens is under its own name, or under that of the published blocks.
        let published = Some(format!("in.{}", buffer.name)).filter(|name| checkpoint.has(name));
        let name = if index == 0 { tokens } else { published.as_deref().unwrap_or(&buffer.name) };
        if buffer.name == "seed" && !checkpoint.has(name) {
            notes.say(&format!("note: no `seed` in the file: the noise is that of --seed {}", arguments.seed));
            tensors.push(random);
            continue;
        }
        let (tensor, conversion) = checkpoint.tensor(name, buffer.dtype).map_err(failed)?;
        if let Some(conversion) = conversion {
            notes.say(&format!("note: {conversion}"));
        }
        tensors.push(tensor);
    }
    let dims = Dims::of_activations(tensors[0].shape()).map_err(failed)?;
    Ok(Input { expected: expected(&checkpoint, &tensors[0]), tensors, dims })
}

/// `in.hidden`, else the only tensor.
fn default_tensor<'c>(checkpoint: &'c Checkpoint<'_>) -> Result<&'c str, Diagnostic> {
    let names = checkpoint.names();
    match (names.contains(&"in.hidden"), &names[..]) {
        (true, _) => Ok("in.hidden"),
        (false, [only]) => Ok(only),
        (false, _) => Err(Diagnostic::new(Code::BadCheckpoint, "which tensor holds the tokens?")
            .help("name it: `--input FILE:TENSOR`")
            .note(listed(checkpoint))),
    }
}

/// `out.hidden` of the input's shape, and `ref.topk_index`, where the file has them.
fn expected(checkpoint: &Checkpoint<'_>, input: &Tensor) -> Option<Expected> {
    let has = |name: &str| checkpoint.names().contains(&name);
    let load = |name: &str, dtype| if has(name) { checkpoint.tensor(name, dtype).ok().map(|(tensor, _)| tensor) } else { None };
    let output = load("out.hidden", Dtype::F32).filter(|tensor| tensor.shape() == input.shape())?;
    let experts = load("ref.topk_index", Dtype::I32);
    Some(Expected { output: output.to_f64(), experts: experts.map(|tensor| integers(Some(&tensor))) })
}

/// The elements of an integer tensor; none where there is none.
pub(super) fn integers(tensor: Option<&Tensor>) -> Vec<usize> {
    let values = tensor.and_then(|tensor| tensor.to_i32().ok()).unwrap_or_default();
    values.into_iter().map(|value| usize::try_from(value).unwrap_or(usize::MAX)).collect()
}

/// A size that the manifest names.
pub(super) fn dim(manifest: &Manifest, name: &str) -> u64 {
    manifest.dims.iter().find(|dim| dim.name == name).map_or(0, |dim| dim.value)
}

/// `out.hidden` in the tokens' shape, and how the tokens were routed: to which experts, or who took them.
fn output_file(run: &moec_runtime::Run, shape: &[u64]) -> Result<Vec<u8>, Error> {
    let mut tensors: Vec<(&str, Tensor)> = Vec::new();
    if let Some((_, output)) = run.outputs.first() {
        tensors.push(("out.hidden", output.clone().reshape(shape.to_vec())?));
    }
    let routed = if run.tensor("route.experts").is_some() { "route.experts" } else { "route.rows" };
    for name in [routed, "route.weights", "soft.dispatch", "soft.combine"] {
        tensors.extend(run.tensor(name).map(|tensor| (name, tensor.clone())));
    }
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    to_safetensors(&named)
}

/// Refused in time is better than killed: the weights are in memory once, and where the interpreter runs once more, and
/// there three times in f64.
fn check_memory(manifest: &Manifest, with_reference: bool) -> Result<(), Diagnostic> {
    let weights = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    let needed = weights.map(|buffer| {
        let extents = buffer.shape.iter().map(|extent| extent.as_const().unwrap_or(0).unsigned_abs());
        let bytes = buffer.dtype.bytes();
        extents.fold(1, u64::saturating_mul).saturating_mul(if with_reference { 2 * bytes + 3 * 8 } else { bytes })
    });
    let needed = needed.fold(0, u64::saturating_add);
    match available_memory() {
        Some(available) if available < needed => {
            let (needed, available) = (bytes_text(needed), bytes_text(available));
            let why = if with_reference { "weights in f64" } else { "weights" };
            let message = format!("{needed} of memory are needed for {why}, and {available} are free");
            Err(Diagnostic::new(Code::NoDevice, message).help("run a layer of the same keys with fewer or smaller experts"))
        }
        Some(_) | None => Ok(()),
    }
}

/// What Linux says could be had without swapping.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `FILE` or `FILE:TENSOR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputArgument {
    path: PathBuf,
    tensor: Option<String>,
}

impl From<&str> for InputArgument {
    /// A file whose own name has a colon is meant whole, if it is there.
    fn from(text: &str) -> InputArgument {
        match text.rsplit_once(':') {
            Some((path, tensor)) if !path.is_empty() && !tensor.is_empty() && !Path::new(text).exists() => {
                InputArgument { path: path.into(), tensor: Some(tensor.into()) }
            }
            Some(_) | None => InputArgument { path: text.into(), tensor: None },
        }
    }
}
