//! One layer on the emulator: clean under every schedule, the same bits whatever the schedule and the memory held before,
//! those of the kernel IR's interpreter, and the host's result but for the order of sums.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use moec::emulate::{agreement, emulate, options, schedules};
use moec::import::{Entry, import};
use moec::pipeline::{Lowered, this_host};
use moec::reference::{bound, bound_of, difference, output, reference};
use moec::spec::{Mode, RouterDType, Spec};
use moec::{package, random};
use moec_codegen::Image;
use moec_ir::Dims as IrDims;
use moec_ir::kernel::{self, Regime};
use moec_runtime::package::{DType, Dims, Manifest, Role};
use moec_runtime::{Checkpoint, DeviceKind, Layer, Package, Run, Tensor, weights};
use moec_tests::built::{built, force};
use moec_tests::scaled::counts_all_tokens;
use moec_tests::{Example, Fixture, inputs, machine};

use super::batches::Batch;

/// What memory that is not written holds under the first, second and third schedule: 0xFF is NaN in every float type.
const DIRT: [u8; 3] = [0x00, 0xff, 0x7f];

/// A layer, compiled for a GPU and for this CPU.
pub(super) struct Compiled {
    lowered: Lowered,
    package: Package,
    target: &'static str,
}

pub(super) fn compile(spec: &Spec, entry: Entry, text: &str, target: &'static str) -> Compiled {
    let machines = [machine(target), this_host().expect("an x86-64 CPU of level v3")];
    let built = built(spec, entry, &machines).unwrap();
    let package = package::package(spec, entry, text, &built).unwrap();
    let lowered = built.into_iter().next().unwrap().1;
    Compiled { lowered, package, target }
}

impl Compiled {
    pub(super) fn manifest(&self) -> &Manifest {
        self.package.manifest()
    }

    pub(super) fn package(&self) -> &Package {
        &self.package
    }

    /// How many graphs serve all batches.
    pub(super) fn regimes(&self) -> usize {
        self.lowered.program.regimes.len()
    }

    /// Which of the target's regimes serves so many tokens.
    fn regime(&self, tokens: u64) -> usize {
        let serves = |regime: &Regime| regime.tokens_up_to.is_none_or(|most| tokens <= most);
        self.lowered.program.regimes.iter().position(serves).unwrap()
    }

    /// The same kernels, of which this regime's serve every batch.
    fn with_only(&self, regime: usize) -> Compiled {
        let mut manifest = self.package.manifest().clone();
        let of_package = &mut manifest.targets[0].regimes;
        *of_package = vec![moec_runtime::package::Regime { tokens_up_to: None, ..of_package[regime].clone() }];
        let package = Package::new(manifest, self.package.images().to_vec()).unwrap();
        let mut lowered = self.lowered.clone();
        let of_program = &mut lowered.program.regimes;
        *of_program = vec![Regime { tokens_up_to: None, ..of_program[regime].clone() }];
        Compiled { lowered, package, target: self.target }
    }
}

/// The PTX of a layer without its header.
pub(crate) fn ptx_body(example: &Example, target: &'static str) -> String {
    let machines = [machine(target)];
    let built = built(&example.spec, Entry::Layer, &machines).unwrap();
    let image = built.iter().flat_map(|(_, _, objects)| objects).find(|object| matches!(object.image, Image::Ptx(_))).unwrap();
    let text = String::from_utf8_lossy(image.image.bytes()).into_owned();
    let is_header = |line: &&str| line.starts_with(".version") || line.starts_with(".target");
    text.lines().filter(|line| !is_header(line)).collect::<Vec<_>>().join("\n")
}

/// The layer with all products of a GPU in one way, such as `group(64 by 128)`, in a single regime.
pub(super) fn compile_in(way: &str, spec: &Spec, entry: Entry, text: &str, target: &'static str) -> Result<Compiled, Failed> {
    let machines = [machine(target), this_host().expect("an x86-64 CPU of level v3")];
    let mut built = built(spec, entry, &machines).unwrap();
    force(&mut built[0], way)?;
    let package = package::package(spec, entry, text, &built)?;
    let lowered = built.into_iter().next().unwrap().1;
    Ok(Compiled { lowered, package, target })
}

/// As [`check`], of kernels that compute all products in one way.
pub(crate) fn check_in(way: &str, example: &Example, target: &'static str, batches: &[Batch]) -> Result<(), Failed> {
    let compiled = compile_in(way, &example.spec, Entry::Layer, &example.text, target)?;
    let products =
        compiled.lowered.program.kernels.iter().filter(|kernel| kernel.name.contains("gemm") || kernel.name.contains("launch"));
    if products.clone().count() == 0
        || products.clone().any(|kernel| kernel.params.iter().all(|param| param.name != "block_count"))
    {
        return Err("a product is not by persistent blocks".into());
    }
    check_compiled(compiled, example, Entry::Layer, batches)
}

/// Holds every batch to the rules above.
pub(crate) fn check(example: &Example, entry: Entry, target: &'static str, batches: &[Batch]) -> Result<(), Failed> {
    check_compiled(compile(&example.spec, entry, &example.text, target), example, entry, batches)
}

fn check_compiled(compiled: Compiled, example: &Example, entry: Entry, batches: &[Batch]) -> Result<(), Failed> {
    let manifest = compiled.package.manifest();
    let weights = random::weights(manifest, 3)?;
    let host = Layer::load(&compiled.package, DeviceKind::Host { threads: Some(1) })?.bind(weights.clone())?;
    // What no batch is large or small enough for is run on one in the middle all the same.
    let regimes = 0..compiled.lowered.program.regimes.len();
    let unserved = regimes.filter(|regime| batches.iter().all(|batch| compiled.regime(batch.dims.tokens) != *regime));
    let forced: Vec<(String, Compiled)> =
        unserved.map(|regime| (format!(" by regime {regime}"), compiled.with_only(regime))).collect();
    let middle = &batches[batches.len() / 2..][..1];
    let own = batches.iter().map(|batch| ("", &compiled, batch));
    let others = forced.iter().flat_map(|(name, of)| middle.iter().map(move |batch| (name.as_str(), of, batch)));
    for (way, compiled, batch) in own.chain(others) {
        let at = |what: String| format!("{}{way}: {what}", batch.label);
        let run = emulated(compiled, &weights, &batch.inputs, batch.dims).map_err(at)?;
        if batch.dims.tokens == 0 {
            continue;
        }
        interpreted(compiled, &weights, batch, &run).map_err(at)?;
        let on_host = host.run(&batch.inputs, batch.dims)?;
        if batch.is_ordinary {
            near(&example.spec, manifest, &run, &on_host).map_err(at)?;
            let reference = reference(import(&example.spec, entry).unwrap(), manifest, &weights, &batch.inputs, batch.dims)?;
            let agreement = agreement(manifest, &run, &reference);
            if !agreement.is_close() || agreement.tokens_apart.is_some_and(|tokens| tokens > 0) {
                return Err(at(format!("against the f64 interpreter: {agreement:?}")).into());
            }
        } else {
            distinct(&example.spec, &run).map_err(at)?;
        }
    }
    Ok(())
}

/// A published block: its own weights, tokens and result.
pub(crate) fn check_fixture(fixture: &Fixture, target: &'static str) -> Result<(), Failed> {
    let compiled = compile(&fixture.spec, Entry::Layer, &fixture.text, target);
    let manifest = compiled.package.manifest();
    let bytes = std::fs::read(&fixture.file)?;
    let checkpoint = Checkpoint::read(&bytes)?;
    let (weights, _) = weights::assemble(manifest, &checkpoint, "w.")?;
    let x = inputs(manifest, &checkpoint);
    let (expected, _) = checkpoint.tensor("out.hidden", manifest.dtype)?;
    let dims = Dims::of_activations(x[0].shape())?;
    let reference = reference(import(&fixture.spec, Entry::Layer).unwrap(), manifest, &weights, &x, dims)?;
    // The kernels for this many tokens, and those for the most.
    let last = compiled.lowered.program.regimes.len() - 1;
    let of_last = (compiled.regime(dims.tokens) != last).then(|| compiled.with_only(last));
    for compiled in [Some(&compiled), of_last.as_ref()].into_iter().flatten() {
        let run = emulated(compiled, &weights, &x, dims)?;
        let agreement = agreement(manifest, &run, &reference);
        let error = difference(&run.outputs[0].1.to_f64(), &expected.to_f64()).of_largest;
        if error > bound(manifest.dtype) || !agreement.is_close() || agreement.tokens_apart.is_some_and(|tokens| tokens > 0) {
            return Err(format!("error {error:.1e} against the published block, {agreement:?}").into());
        }
    }
    Ok(())
}

/// The result under three schedules, each on memory with other dirt: clean, and the same every time.
fn emulated(compiled: &Compiled, weights: &[Tensor], inputs: &[Tensor], dims: Dims) -> Result<Run, String> {
    let mut first: Option<Run> = None;
    for (schedule, dirt) in schedules(DIRT.len(), 11).into_iter().zip(DIRT) {
        let options = options(compiled.target, schedule);
        let emulation = emulate(&compiled.package, compiled.target, options, weights, inputs, dims, dirt);
        let emulation = emulation.map_err(|error| error.to_string())?;
        if let Some(finding) = emulation.findings().next() {
            return Err(format!("{} {}: {finding}", schedule.0.name(), schedule.1));
        }
        let run = emulation.run.ok_or("a launch did not end, and there is no finding")?;
        match &first {
            None => first = Some(run),
            Some(first) if (&first.outputs, &first.observed) == (&run.outputs, &run.observed) => {}
            Some(_) => return Err(format!("other bits under {} {} and dirt {dirt:#x}", schedule.0.name(), schedule.1)),
        }
    }
    first.ok_or_else(|| "no schedule".to_string())
}

/// The kernel IR's interpreter gives the same bits, NaNs aside: their payload is the machine's business.
fn interpreted(compiled: &Compiled, weights: &[Tensor], batch: &Batch, run: &Run) -> Result<(), String> {
    let manifest = compiled.package.manifest();
    let named = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight).zip(weights);
    let mut given: BTreeMap<String, Vec<u8>> =
        named.map(|(buffer, tensor)| (buffer.name.clone(), tensor.bytes().to_vec())).collect();
    let inputs = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input).zip(&batch.inputs);
    given.extend(inputs.map(|(buffer, tensor)| (buffer.name.clone(), tensor.bytes().to_vec())));
    let dims = IrDims { tokens: batch.dims.tokens, sequence_tokens: batch.dims.sequence_tokens };
    let program = &compiled.lowered.program;
    let memory = kernel::interp(program, &machine(compiled.target), dims, &given).map_err(|fault| fault.to_string())?;
    for buffer in &program.buffers {
        let public = buffer.observe.as_deref().unwrap_or(&buffer.name);
        let (Some(emulated), Some(memory)) = (run.tensor(public), memory.get(&buffer.name)) else { continue };
        // Bytes that are not written differ between the two fills.
        let (zeros, ones) = (memory.bytes_or(0), memory.bytes_or(0xff));
        let width = emulated.dtype().bytes() as usize;
        let elements = emulated.bytes().chunks(width).zip(zeros.chunks(width).zip(ones.chunks(width)));
        for (i, (emulated_bytes, (zeros, ones))) in elements.enumerate() {
            let differ = zeros == ones && emulated_bytes != zeros;
            if differ && !(is_nan(emulated.dtype(), emulated_bytes) && is_nan(emulated.dtype(), zeros)) {
                return Err(format!("element {i} of `{public}` is {emulated_bytes:?}, the kernel IR means {zeros:?}"));
            }
        }
    }
    Ok(())
}

fn is_nan(dtype: DType, bytes: &[u8]) -> bool {
    Tensor::new(dtype, vec![1], bytes.to_vec()).is_ok_and(|tensor| tensor.to_f64()[0].is_nan())
}

/// The host's kernels add in another order: the same experts, weights to a few roundings, outputs to the type's bound.
/// Logits that are rounded to the type may be rounded the other way.
fn near(spec: &Spec, manifest: &Manifest, run: &Run, host: &Run) -> Result<(), String> {
    const FEW_ROUNDINGS: f64 = 4e-6;
    let weights_bound = match spec.router.dtype {
        RouterDType::F32 => FEW_ROUNDINGS,
        RouterDType::Model => bound(manifest.dtype),
    };
    let of = |run: &Run, name: &str| run.tensor(name).map(Tensor::to_f64).unwrap_or_default();
    for name in ["route.experts", "topk_ids", "route.rows", "stats.load", "stats.kept"] {
        if of(run, name) != of(host, name) {
            return Err(format!("`{name}` differs from the host's"));
        }
    }
    let experts = manifest.dims.iter().find(|dim| dim.name == "experts").map_or(1, |dim| dim.value as usize);
    for (name, columns) in [("stats.probability", experts), ("stats.z", 1), ("stats.importance", experts)] {
        // Blocks of tokens differ between the machines, their sums over all tokens do not.
        let sum = |of: Vec<f64>| -> Vec<f64> { (0..columns).map(|e| of.iter().skip(e).step_by(columns).sum()).collect() };
        let apart = difference(&sum(of(run, name)), &sum(of(host, name))).of_largest;
        if apart > weights_bound {
            return Err(format!("`{name}` is {apart:.1e} from the host's"));
        }
    }
    for name in ["stats.aux_loss", "stats.z_loss"] {
        let apart = difference(&of(run, name), &of(host, name)).of_largest;
        if apart > 10.0 * weights_bound {
            return Err(format!("`{name}` is {apart:.1e} from the host's"));
        }
    }
    let weights = difference(&of(run, "route.weights"), &of(host, "route.weights")).of_largest;
    for name in ["soft.dispatch", "soft.combine"] {
        let apart = difference(&of(run, name), &of(host, name)).of_largest;
        if apart > FEW_ROUNDINGS {
            return Err(format!("against the host: `{name}` {apart:.1e}"));
        }
    }
    let output = |run: &Run| output(run).map(Tensor::to_f64).unwrap_or_default();
    let outputs = difference(&output(run), &output(host)).of_largest;
    if weights > weights_bound || outputs > bound_of(manifest) {
        return Err(format!("against the host: weights {weights:.1e}, outputs {outputs:.1e}"));
    }
    Ok(())
}

/// Whatever the logits, the experts of a token are experts and, where no table names them, none comes twice.
fn distinct(spec: &Spec, run: &Run) -> Result<(), String> {
    let columns = (spec.candidates() + spec.router.joint_shared) as f64;
    let experts = run.tensor("route.experts").map(Tensor::to_f64).unwrap_or_default();
    for picks in experts.chunks(spec.picks().max(1) as usize) {
        if !counts_all_tokens(spec) && picks.iter().all(|e| *e == -1.0) {
            continue;
        }
        let mut sorted = picks.to_vec();
        sorted.sort_by(f64::total_cmp);
        if spec.router.mode != Mode::Hash {
            sorted.dedup();
        }
        if sorted.len() != picks.len() || sorted.iter().any(|e| *e < 0.0 || *e >= columns) {
            return Err(format!("the experts of a token are {picks:?}"));
        }
    }
    Ok(())
}
