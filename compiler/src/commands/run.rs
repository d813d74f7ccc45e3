//! `moec run`: a layer on weights and tokens, timed, and held against the f64 interpreter and against what the input file
//! says. How the report looks is in `report`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};
use moec::emulate::never_written;
use moec::import::{Entry, import};
use moec::reference::{expert_sets_apart, experts_of_tokens, has_pairs, reference_of};
use moec::spec::{Mode, Spec, drop_floor};
use moec::{pipeline, random, ties};
use moec_codegen::Options;
use moec_ir::Machine;
use moec_ir::graph::OUTPUT;
use moec_ir::machine::MACHINES;
use moec_runtime::emulator::{self, Emulator, Finding, Sample, Schedule};
use moec_runtime::package::{self, DType, Dims, Manifest, Role};
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, DeviceKind, Error, Layer, Package, Tensor, assemble};

use super::compare::{Comparison, Sides};
use super::memory::{self, Place};
use super::report::{Measured, print, print_statistics, statistics_json};
use super::{
    Failure, Notes, check_entry, emulated_target, entry_of, gpu, is_package, load_preset, load_spec, open_checkpoint,
    report_weights,
};
use crate::cli::{Device, Run, StatsFormat, Target};
use crate::files::{bytes_text, read, report_at, report_in, write};

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
    let (package, given) = open(arguments, notes)?;
    let (spec, source) = given.map(|(spec, entry, source)| ((spec, entry), source)).unzip();
    let (layer, emulator) = load(arguments, &package).map_err(|error| report_at(&arguments.path(), error))?;
    let manifest = package.manifest();

    let given = arguments.input.as_ref().map(Given::open).transpose()?;
    let dims = dims(arguments, manifest, given.as_ref(), source.as_ref())?;
    let compiled = spec.as_ref().map(|(spec, entry)| (spec, *entry));
    let spec = spec.as_ref().map(|(spec, _)| spec);
    let interpreted = if arguments.reference { compiled } else { None };
    let place = if arguments.device == Device::Cuda { Place::Beside } else { Place::Host };
    memory::check(manifest, (layer.target(), place), dims, interpreted)
        .map_err(|diagnostic| report_at(&arguments.path(), diagnostic))?;
    let (inputs, expected) = inputs(arguments, manifest, dims, given.as_ref(), notes)?;
    let weights = weights(arguments, manifest, spec.zip(source.as_ref()), notes)?;
    check_map(arguments, manifest, &inputs)?;
    let blame = arguments.input.as_ref().map_or_else(|| arguments.path(), |input| input.path.clone());
    let failed = |error: Error| report_at(&blame, error);

    // The interpreter needs the weights too, and the device's copy may be out of reach.
    let kept = kept_weights(arguments, spec.filter(|_| expected.is_some()), manifest, &weights);
    let packing =
        (!layer.target().prepare.is_empty()).then(|| notes.steps("packing", weights.len() + layer.target().prepare.len()));
    let bound_layer = layer.bind_watched(weights, &mut |_, _| packing.iter().for_each(|bar| bar.step())).map_err(failed)?;
    drop(packing);
    let mut batch = bound_layer.batch(&inputs, dims).map_err(failed)?;
    let first = bound_layer.launch(&mut batch);
    if let Some(emulator) = &emulator {
        let launches = emulator.take_launches();
        let of_launches = launches.iter().flat_map(|launch| launch.report.findings.clone());
        let unwritten = if first.is_ok() { never_written(manifest, &batch, emulator) } else { Vec::new() };
        findings(&of_launches.chain(unwritten).collect::<Vec<_>>(), out)?;
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
    // What follows has no need of the device, and the interpreter much of memory.
    drop((batch, bound_layer));

    if let Some(path) = &arguments.output {
        let bytes = output_file(&run, inputs[0].shape()).map_err(failed)?;
        write(path, &bytes)?;
        notes.say(&format!("wrote {} ({})", path.display(), bytes_text(bytes.len() as u64)));
    }
    let tensor = moec::reference::output(&run);
    let output = tensor.map(Tensor::to_f64).unwrap_or_default();
    let experts = experts_of_tokens(&run);
    let columns = tensor.and_then(|tensor| tensor.shape().last().copied()).unwrap_or(0) as usize;
    let mut tensors: BTreeMap<&str, &Tensor> = kept.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    tensors.extend(names(manifest, Role::Input).zip(&inputs));
    let batch = compiled.map(|(spec, entry)| ties::Given { spec, entry, tensors, dims });
    let mut comparisons = Vec::new();
    if let (true, Some(batch)) = (arguments.reference, &batch) {
        let _progress = notes.progress("interpreting in f64");
        let graph = import(batch.spec, batch.entry).map_err(|error| Diagnostic::from(pipeline::Error::Entry(error)))?;
        let reference = reference_of(graph, &batch.tensors, batch.dims).map_err(Diagnostic::from)?;
        let apart = has_pairs(manifest).then(|| expert_sets_apart(&experts, &reference.experts, reference.top_k));
        let (reference, decisions) = ties::judged(batch, &run, reference).map_err(Diagnostic::from)?;
        let sides = Sides {
            name: "reference",
            output: &output,
            expected: &reference.output,
            columns,
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
            columns,
            tokens_apart: sets.map(|sets| expert_sets_apart(&routed, sets, top_k)),
            apart: decisions,
            routed_there: true,
        };
        comparisons.push(Comparison::of(manifest, sides));
    }
    let threads = arguments.threads.unwrap_or_else(rayon::current_num_threads);
    let measured = Measured {
        manifest,
        target: &layer.target().name,
        device: layer.device().name(),
        threads: (arguments.device == Device::Host).then_some(threads),
        dims,
        times: &times,
        run: &run,
    };
    let floor = spec
        .filter(|_| manifest.entry != package::Entry::Experts)
        .map_or(0.0, |spec| drop_floor(spec, dims.tokens, dims.sequence_tokens));
    let is_meant = |source| notes.allows(Code::CapacityFloor) || moec::spec::allows(source, Code::CapacityFloor);
    if floor > 0.0 && !source.as_ref().is_some_and(is_meant) {
        notes.say(&format!("note: the capacity drops at least {:.1} % of these picks, whatever the router", 100.0 * floor));
    }
    if emulator.is_some() {
        notes.say("note: emulated, every check on: no finding; times would say nothing of a GPU's");
    }
    let statistics = arguments.stats.map(|format| Ok((format, layer.statistics(&run)?))).transpose().map_err(failed)?;
    match statistics {
        Some((StatsFormat::Json, statistics)) => writeln!(out, "{}", statistics_json(&run, statistics.as_ref()))?,
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
fn findings(all: &[Finding], out: &mut dyn Write) -> Result<(), Failure> {
    all.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
    if all.is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new(Code::Emulated, format!("the emulator has {} findings", all.len())).into())
}

/// What a package was just compiled from.
type Compiled = (Spec, Entry, Source);

/// The package and, where the argument was a spec, the spec, its entry and its text.
fn open(arguments: &Run, notes: Notes) -> Result<(Package, Option<Compiled>), Failure> {
    let path = &arguments.path();
    if arguments.preset.is_some() || path == Path::new("-") || !is_package(path) {
        let table = arguments.weights.as_deref().map(|path| (path, arguments.tensor_prefix.as_deref().unwrap_or("")));
        let (spec, source) = match &arguments.preset {
            Some(name) => load_preset(name, notes)?,
            None => load_spec(path, table, notes)?,
        };
        let entry = entry_of(arguments.entry, (&spec, &source), notes)?;
        let _progress = notes.progress("compiling");
        let package = compile((&spec, entry), &source, arguments).map_err(|error| report_in(&source, error))?;
        return Ok((package, Some((spec, entry, source))));
    }
    if arguments.reference {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "a package does not hold the spec that the interpreter needs");
        return Err(report_at(path, diagnostic.help("give the spec in the package's place")).into());
    }
    let package = package::read(&read(path)?).map_err(|error| report_at(path, error))?;
    check_entry(arguments.entry, &package).map_err(|diagnostic| report_at(path, diagnostic))?;
    Ok((package, None))
}

/// For a GPU, PTX for every architecture: which of them is there is known only to the driver.
fn compile((spec, entry): (&Spec, Entry), source: &Source, arguments: &Run) -> Result<Package, Diagnostic> {
    let machines: Vec<Machine> = match arguments.device {
        Device::Host => vec![super::machine(Target::Host)?],
        Device::Cuda => MACHINES.into_iter().filter(Machine::is_gpu).collect(),
        Device::Emulator => vec![gpu(arguments.target.unwrap_or(Target::Sm90a))?],
    };
    pipeline::compile(spec, entry, &source.text, &machines, &Options::default())
        .map_err(|error| Diagnostic::of_spec(error, source))
}

/// The weights in the manifest's order.
fn weights(arguments: &Run, manifest: &Manifest, given: Option<(&Spec, &Source)>, notes: Notes) -> Result<Vec<Tensor>, Report> {
    let Some(path) = &arguments.weights else {
        notes.say(&format!("note: no --weights: random ones, seed {}", arguments.seed));
        let _progress = notes.progress("making weights");
        return random::weights(manifest, arguments.seed).map_err(|error| report_at(&arguments.path(), error));
    };
    let progress = notes.progress("reading weights");
    let checkpoint = open_checkpoint(path, notes)?;
    let prefix = arguments.tensor_prefix.as_deref().unwrap_or("");
    let assembled = assemble(manifest, &checkpoint, prefix);
    let wrong = |error: Error| report_weights(path, given, prefix, &error, with_names(error.clone(), &checkpoint));
    let (weights, conversions) = assembled.map_err(wrong)?;
    drop(progress);
    conversions.iter().for_each(|conversion| notes.say(&format!("note: {conversion}")));
    Ok(weights)
}

/// Of a checkpoint the first experts are read, where only some are here: a map must number these.
fn check_map(arguments: &Run, manifest: &Manifest, inputs: &[Tensor]) -> Result<(), Diagnostic> {
    let map = names(manifest, Role::Input).zip(inputs).find(|(name, _)| *name == "expert_map");
    let here = dim(manifest, "local_experts") as i32;
    let numbers = map.and_then(|(_, map)| map.to_i32().ok()).unwrap_or_default();
    let is_first = |(id, number): (i32, &i32)| if id < here { *number == id } else { !(0..here).contains(number) };
    if arguments.weights.is_none() || (0..).zip(&numbers).all(is_first) {
        return Ok(());
    }
    let message = format!("`expert_map` has other experts here than the first {here}, which are those read of `--weights`");
    Err(Diagnostic::new(Code::UsageConflict, message)
        .help("map the first experts to their own numbers and the others to -1; an engine binds the weights of any"))
}

/// A tensor that was not found, nor one of a similar name: what the file has, and which flags change what is looked for.
fn with_names(error: Error, checkpoint: &Checkpoint<'_>) -> Diagnostic {
    let is_far = matches!(&error, Error::MissingTensor { near_matches, .. } if near_matches.is_empty());
    let diagnostic = Diagnostic::from(error);
    if !is_far {
        return diagnostic;
    }
    diagnostic
        .help("`--tensor-prefix` says what stands before each name, `[weights]` in the spec which names there are")
        .note(listed(checkpoint))
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

/// What a file of tokens says should come out.
struct Expected {
    output: Vec<f64>,
    experts: Option<Vec<usize>>,
}

/// A file with tokens, and which of its tensors they are.
struct Given<'a> {
    path: &'a Path,
    checkpoint: Checkpoint<'static>,
    tokens: String,
}

impl Given<'_> {
    fn open(argument: &InputArgument) -> Result<Given<'_>, Report> {
        let path = argument.path.as_path();
        let checkpoint = Checkpoint::open(path).map_err(|error| report_at(path, error))?;
        let tokens = match &argument.tensor {
            Some(name) => name.clone(),
            None => default_tensor(&checkpoint).map_err(|diagnostic| report_at(path, diagnostic))?.to_string(),
        };
        Ok(Given { path, checkpoint, tokens })
    }
}

/// The size of the batch: known before anything of it is made.
fn dims(arguments: &Run, manifest: &Manifest, given: Option<&Given<'_>>, spec: Option<&Source>) -> Result<Dims, Report> {
    const RANDOM_TOKENS: u64 = 64;
    let (dims, path) = match given {
        Some(Given { path, checkpoint, tokens }) => {
            let dims = checkpoint.info(tokens).and_then(|info| Dims::of_activations(&info.shape));
            // The tensor is known here, and by its own name.
            let dims = dims.map_err(|error| match error {
                Error::Rank { actual, .. } => Error::Rank { name: tokens.clone(), actual },
                error => error,
            });
            (dims.map_err(|error| report_at(path, error))?, path.to_path_buf())
        }
        None => {
            let tokens = arguments.tokens.unwrap_or(RANDOM_TOKENS.min(manifest.max_tokens));
            (Dims::tokens(tokens), arguments.path())
        }
    };
    if dims.tokens <= manifest.max_tokens {
        return Ok(dims);
    }
    let error = Error::TokensAboveMax { tokens: dims.tokens, max: manifest.max_tokens };
    Err(match spec {
        Some(source) => report_in(source, Diagnostic::of_run(error, source)),
        None => report_at(&path, error),
    })
}

/// Tokens and, where the layer takes them, their ids, in the manifest's order: the tokens first, and never none. And what the
/// same file says should come out.
fn inputs(
    arguments: &Run,
    manifest: &Manifest,
    dims: Dims,
    given: Option<&Given<'_>>,
    notes: Notes,
) -> Result<(Vec<Tensor>, Option<Expected>), Report> {
    let Some(Given { path, checkpoint, tokens }) = given else {
        notes.say(&format!("note: no --input: {} random tokens, seed {}", dims.tokens, arguments.seed));
        let tensors = random::inputs(manifest, dims, arguments.seed);
        return Ok((tensors.map_err(|error| report_at(&arguments.path(), error))?, None));
    };
    let failed = |error: Error| report_at(path, error);
    let wanted = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input);
    let random = random::inputs(manifest, Dims::tokens(0), arguments.seed).map_err(failed)?;
    let mut tensors = Vec::new();
    for (index, (buffer, random)) in wanted.zip(random).enumerate() {
        // What goes with the tokens is under its own name, or under that of the published blocks.
        let published = Some(format!("in.{}", buffer.name)).filter(|name| checkpoint.has(name));
        let name = if index == 0 { tokens.as_str() } else { published.as_deref().unwrap_or(&buffer.name) };
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
    // What a block gives is what all of the layer gives.
    let expected = match manifest.entry {
        package::Entry::Layer => expected(checkpoint, &tensors[0]),
        package::Entry::Experts | package::Entry::Router => None,
    };
    Ok((tensors, expected))
}

/// `in.hidden`, else the only tensor.
fn default_tensor<'c>(checkpoint: &'c Checkpoint<'_>) -> Result<&'c str, Diagnostic> {
    // What goes with the tokens is found by its own name.
    const BESIDE: [&str; 6] = ["token_mask", "token_ids", "seed", "topk_ids", "topk_weights", "expert_map"];
    let mut names = checkpoint.names();
    names.retain(|name| !BESIDE.contains(&name.strip_prefix("in.").unwrap_or(name)));
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
    let output = load("out.hidden", DType::F32).filter(|tensor| tensor.shape() == input.shape())?;
    let experts = load("ref.topk_index", DType::I32);
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

/// `out.hidden` in the tokens' shape, other outputs under their own names, and how the tokens were routed: to which experts, or which experts took them.
fn output_file(run: &moec_runtime::Run, shape: &[u64]) -> Result<Vec<u8>, Error> {
    let mut tensors: Vec<(&str, Tensor)> = Vec::new();
    for (name, output) in &run.outputs {
        tensors.push(match name.as_str() {
            OUTPUT => ("out.hidden", output.clone().reshape(shape.to_vec())?),
            name => (name, output.clone()),
        });
    }
    let routed = if run.tensor("route.experts").is_some() { "route.experts" } else { "route.rows" };
    for name in [routed, "route.weights", "soft.dispatch", "soft.combine"] {
        tensors.extend(run.tensor(name).map(|tensor| (name, tensor.clone())));
    }
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    to_safetensors(&named)
}

/// `FILE` or `FILE:TENSOR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputArgument {
    path: PathBuf,
    tensor: Option<String>,
}

impl From<OsString> for InputArgument {
    /// A file whose own name has a colon is meant whole, if it is there. A tensor's name is text; that of a file may be any
    /// bytes.
    fn from(argument: OsString) -> InputArgument {
        match split(&argument) {
            Some((path, tensor)) if !Path::new(&argument).exists() => InputArgument { path, tensor: Some(tensor) },
            Some(_) | None => InputArgument { path: argument.into(), tensor: None },
        }
    }
}

/// At the last colon, where there is something on either side of it.
#[cfg(unix)]
fn split(argument: &OsString) -> Option<(PathBuf, String)> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bytes = argument.as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b':')?;
    let (path, tensor) = (&bytes[..at], str::from_utf8(&bytes[at + 1..]).ok()?);
    (!path.is_empty() && !tensor.is_empty()).then(|| (OsStr::from_bytes(path).into(), tensor.to_string()))
}

/// At the last colon, where there is something on either side of it.
#[cfg(not(unix))]
fn split(argument: &OsString) -> Option<(PathBuf, String)> {
    let (path, tensor) = argument.to_str()?.rsplit_once(':')?;
    (!path.is_empty() && !tensor.is_empty()).then(|| (path.into(), tensor.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_tensors() {
        let of = |text: &str| {
            let InputArgument { path, tensor } = InputArgument::from(OsString::from(text));
            (path.display().to_string(), tensor)
        };
        assert_eq!(of("a.safetensors:x"), ("a.safetensors".into(), Some("x".into())));
        assert_eq!(of("a:b:c"), ("a:b".into(), Some("c".into())));
        for whole in ["a.safetensors", "a:", ":x", ""] {
            assert_eq!(of(whole), (whole.into(), None));
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt;
            let argument = InputArgument::from(OsString::from_vec(b"\xff\xfe:x".to_vec()));
            assert_eq!((argument.path.into_os_string().into_vec(), argument.tensor), (b"\xff\xfe".to_vec(), Some("x".into())));
            let whole = InputArgument::from(OsString::from_vec(b"a:\xff".to_vec()));
            assert_eq!((whole.path.into_os_string().into_vec(), whole.tensor), (b"a:\xff".to_vec(), None));
        }
    }
}
