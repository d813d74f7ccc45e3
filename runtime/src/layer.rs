//! A compiled layer on a device: binds weights, and makes, launches and reads back the memory of a run. What is launched is
//! a plan. The same code for every device; which kernels, in which order, with which grids stands in the manifest.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::device::{Device, DeviceKind, Opened, Stream};
use crate::error::Error;
use crate::package::{
    Arg, Buffer, Dims, Launch, Manifest, Package, Place, Role, Target, Workspace, byte_count, shape, workspace,
};
use crate::plan::{Memory, Plan};
use crate::region::Region;
use crate::statistics::{Counts, Figures, Statistics};
use crate::tensor::Tensor;

/// A package loaded on a device. Cheap to clone; all clones and all [`Bound`] layers share the device.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) manifest: Manifest,
    target: usize,
    device: Arc<dyn Device>,
    /// What a sticky error said; once there, nothing is asked of the device any more.
    lost: OnceLock<String>,
}

/// A layer with its weights on the device. Shared between threads freely: each run has its own [`Batch`].
#[derive(Clone, Debug)]
pub struct Bound {
    pub(crate) shared: Arc<Shared>,
    pub(crate) weights: Arc<[Region]>,
    /// What was prepared of them.
    pub(crate) prepared: Arc<[Region]>,
}

/// The memory of one run, in the manifest's order: the caller's own, or made by [`Bound::batch`]. Content of outputs and
/// workspace before a run does not matter.
#[derive(Debug)]
pub struct Batch {
    /// The launch dimensions.
    pub dims: Dims,
    /// One region an input, at least as long as its shape.
    pub inputs: Vec<Region>,
    /// One region an output, at least as long as its shape.
    pub outputs: Vec<Region>,
    /// At least [`Layer::workspace_bytes`], aligned to [`crate::package::WORKSPACE_ALIGN`].
    pub workspace: Region,
}

impl Batch {
    /// The memory, lent to a run of a plan.
    pub fn memory(&mut self) -> Memory<'_> {
        Memory { inputs: &self.inputs, outputs: &mut self.outputs, workspace: &mut self.workspace }
    }
}

/// One of a plan's launch sequences: [`Plan::launch`] or [`Plan::launch_update`].
type Launching = fn(&Plan, &dyn Device, &Bound, &mut Memory<'_>, Stream) -> Result<(), Error>;

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The outputs by buffer name, in the manifest's order.
    pub outputs: Vec<(String, Tensor)>,
    /// The observed workspace buffers by the name to ask for; none where there were no tokens.
    pub observed: Vec<(String, Tensor)>,
    /// From before the first launch until the device was done; copies are not in it.
    pub elapsed: Duration,
    /// The launch dimensions.
    pub dims: Dims,
}

impl Run {
    /// The output or observed tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.outputs.iter().chain(&self.observed).find(|(own, _)| own == name).map(|(_, tensor)| tensor)
    }
}

impl Layer {
    /// The package on a device of this kind. Loading runs nothing, but what is loaded is code.
    ///
    /// # Errors
    /// Those of [`crate::host::open`] and [`crate::cuda::open`]; [`Error::NotBuilt`] where this crate lacks the device.
    pub fn load(package: &Package, kind: DeviceKind) -> Result<Layer, Error> {
        let opened: Result<Opened, Error> = match kind {
            #[cfg(feature = "host")]
            DeviceKind::Host { threads } => crate::host::open(package, threads),
            #[cfg(not(feature = "host"))]
            DeviceKind::Host { .. } => Err(Error::NotBuilt { device: "host" }),
            #[cfg(feature = "cuda")]
            DeviceKind::Cuda { ordinal } => crate::cuda::open(package, ordinal),
            #[cfg(not(feature = "cuda"))]
            DeviceKind::Cuda { .. } => Err(Error::NotBuilt { device: "cuda" }),
        };
        opened.and_then(|opened| Layer::on(package, opened))
    }

    /// The package on a device that was opened on it.
    ///
    /// # Errors
    /// [`Error::Manifest`] where the package has no such target.
    pub fn on(package: &Package, Opened { device, target }: Opened) -> Result<Layer, Error> {
        let manifest = package.manifest().clone();
        if target >= manifest.targets.len() {
            return Err(Error::manifest(format!("there is no target {target}")));
        }
        Ok(Layer { shared: Arc::new(Shared { manifest, target, device, lost: OnceLock::new() }) })
    }

    /// What the package says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.shared.manifest
    }

    /// The target that runs here.
    #[must_use]
    pub fn target(&self) -> &Target {
        self.shared.target()
    }

    /// The device, to allocate [`Region`]s on.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.device
    }

    /// The bytes of workspace that a run needs: a pure function of the dims.
    ///
    /// # Errors
    /// [`Error::TokensAboveMax`], [`Error::SequenceTokens`], [`Error::Extent`].
    pub fn workspace_bytes(&self, dims: Dims) -> Result<u64, Error> {
        self.shared.check_dims(dims)?;
        Ok(self.shared.workspace(dims)?.bytes)
    }

    /// What the run says about its routing; `None` where no expert is picked.
    ///
    /// # Errors
    /// [`Error::Count`] where the run is another layer's, [`Error::Extent`].
    pub fn statistics(&self, run: &Run) -> Result<Option<Statistics>, Error> {
        let Some(routing) = &self.target().statistics else { return Ok(None) };
        Statistics::of(&Figures::at(routing, self.target().regime(run.dims.tokens), run.dims)?, &Counts::of(&routing.slots, run))
            .map(Some)
    }

    /// Copies the weights to the device, once. They come in the manifest's order, as [`crate::weights::assemble`] gives
    /// them, and each is dropped as soon as it is there. On the host a weight that is a part of a mapped file is not copied
    /// but used where it lies, if that is aligned and no update writes it; the file stays mapped until the layer is gone.
    ///
    /// Where the package prepares something of the weights, that is launched on the default stream and waited for. Weights that no run
    /// reads after that, such as those that were packed, are released.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::DType`], [`Error::Shape`], [`Error::NumberRange`], [`Error::OutOfMemory`],
    /// [`Error::Device`]; where something is prepared also [`Error::Extent`], [`Error::LaunchRange`], [`Error::Poisoned`].
    pub fn bind(&self, weights: Vec<Tensor>) -> Result<Bound, Error> {
        self.bind_watched(weights, &mut |_, _| ())
    }

    /// As [`Layer::bind`]; after each step `watch` is given how many are done, and of how many.
    ///
    /// # Errors
    /// Those of [`Layer::bind`].
    pub fn bind_watched(&self, weights: Vec<Tensor>, watch: &mut dyn FnMut(usize, usize)) -> Result<Bound, Error> {
        let shared = &self.shared;
        let buffers = shared.buffers(Role::Weight);
        check_count("weights", buffers.len(), weights.len())?;
        for (buffer, tensor) in buffers.iter().zip(&weights) {
            check_tensor(buffer, tensor, Dims::tokens(0))?;
            check_numbers(buffer, tensor, None)?;
        }
        let region = |(buffer, tensor): (&&Buffer, Tensor)| {
            shared.ask(|device| match tensor.mapped() {
                Some(part) if device.shares_memory() && shared.is_only_read(buffer) && is_aligned(part, buffer) => {
                    Ok(Region::mapped(device, part.clone()))
                }
                Some(_) | None => Region::of(device, tensor.bytes()),
            })
        };
        let steps = buffers.len() + shared.target().prepare.len();
        let mut regions = Vec::with_capacity(buffers.len());
        for given in buffers.iter().zip(weights) {
            regions.push(region(given)?);
            watch(regions.len(), steps);
        }
        Bound::prepare(shared, regions, &mut |done| watch(buffers.len() + done, steps))
    }

    /// The layer with weights that are on the device already, in the manifest's order: written there, not on the way by a stream of
    /// the caller's. Where the package prepares something of them, that is launched on the default stream and waited for, into
    /// memory of its own; so weights that change later are bound again, and nothing is bound while a graph is captured. Regions that
    /// no run reads after that are dropped.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::TooShort`], [`Error::Misaligned`], [`Error::WrongDevice`]; where something is prepared also
    /// [`Error::OutOfMemory`], [`Error::Device`], [`Error::Extent`], [`Error::LaunchRange`], [`Error::Poisoned`].
    pub fn bind_regions(&self, weights: Vec<Region>) -> Result<Bound, Error> {
        let shared = &self.shared;
        let buffers = shared.buffers(Role::Weight);
        check_count("weights", buffers.len(), weights.len())?;
        for (buffer, region) in buffers.iter().zip(&weights) {
            shared.check_region(&buffer.name, region, byte_count(buffer, Dims::tokens(0))?, u64::from(buffer.align))?;
        }
        Bound::prepare(shared, weights, &mut |_| ())
    }
}

impl Bound {
    /// The layer with these weights, and with what its package prepares of them, which is in memory of its own. After each of these
    /// launches `watch` is given how many are done.
    fn prepare(shared: &Arc<Shared>, weights: Vec<Region>, watch: &mut dyn FnMut(usize)) -> Result<Bound, Error> {
        let bytes: Vec<u64> = shared.prepared().map(|buffer| byte_count(buffer, Dims::tokens(0))).collect::<Result<_, _>>()?;
        let prepared =
            shared.ask(|device| bytes.into_iter().map(|bytes| Region::new(device, bytes)).collect::<Result<_, _>>())?;
        let mut bound = Bound { shared: Arc::clone(shared), weights: weights.into(), prepared };
        for launch in 0..shared.target().prepare.len() {
            let plan = Plan::preparation(shared, launch)?;
            shared.ask(|device| {
                let mut none = Region::new(device, 0)?;
                let mut memory = Memory { inputs: &[], outputs: &mut [], workspace: &mut none };
                let started = plan.launch(device.as_ref(), &bound, &mut memory, Stream::DEFAULT);
                // Wait in any case: what was started before a failure still uses the memory.
                let done = device.sync();
                started.and(done)
            })?;
            bound.release(launch + 1)?;
            watch(launch + 1);
        }
        Ok(bound)
    }

    /// Drops the weights that neither a run reads nor a preparation from launch `from` on.
    fn release(&mut self, from: usize) -> Result<(), Error> {
        let Bound { shared, weights, .. } = self;
        let Some(weights) = Arc::get_mut(weights) else { return Ok(()) };
        for (index, region) in shared.weight_indices().zip(weights) {
            if !shared.is_kept(index, from) && region.bytes() > 0 {
                *region = shared.ask(|device| Region::new(device, 0))?;
            }
        }
        Ok(())
    }

    /// What was prepared of the weights, in the manifest's order: each buffer that this target has of
    /// [`Role::Prepared`], and the memory that it is in.
    pub fn prepared(&self) -> impl Iterator<Item = (&Buffer, &Region)> {
        self.shared.prepared().zip(&*self.prepared)
    }

    /// The layer without its weights.
    #[must_use]
    pub fn layer(&self) -> Layer {
        Layer { shared: Arc::clone(&self.shared) }
    }

    /// Outputs and observed buffers for these inputs, in the manifest's order. An input may have its leading axes split:
    /// `[B, S, H]` for `[T, H]`.
    ///
    /// # Errors
    /// Those of [`Bound::batch`], [`Bound::launch`] and [`Bound::collect`].
    pub fn run(&self, inputs: &[Tensor], dims: Dims) -> Result<Run, Error> {
        let plan = Plan::new(&self.shared, dims)?;
        let mut batch = self.batch_for(&plan, inputs)?;
        let elapsed = self.launch_planned(&plan, &mut batch, Plan::launch)?;
        self.collect(&batch, elapsed)
    }

    /// Memory for a run, the inputs copied into it. It can be launched many times.
    ///
    /// # Errors
    /// [`Error::TokensAboveMax`], [`Error::SequenceTokens`], [`Error::Count`], [`Error::DType`], [`Error::Shape`],
    /// [`Error::NumberRange`], [`Error::Extent`], [`Error::LaunchRange`], [`Error::OutOfMemory`], [`Error::Device`],
    /// [`Error::Poisoned`].
    pub fn batch(&self, inputs: &[Tensor], dims: Dims) -> Result<Batch, Error> {
        self.batch_for(&Plan::new(&self.shared, dims)?, inputs)
    }

    /// As [`Bound::batch`], with the workspace of a plan.
    ///
    /// # Errors
    /// Those of [`Bound::batch`].
    pub fn batch_for(&self, plan: &Plan, inputs: &[Tensor]) -> Result<Batch, Error> {
        let (shared, dims) = (&self.shared, plan.dims());
        let buffers = shared.buffers(Role::Input);
        check_count("inputs", buffers.len(), inputs.len())?;
        let given = || buffers.iter().zip(inputs);
        given().try_for_each(|(buffer, tensor)| check_tensor(buffer, tensor, dims))?;
        for (buffer, tensor) in given() {
            let mask = given().find(|(other, _)| buffer.mask.as_ref() == Some(&other.name));
            check_numbers(buffer, tensor, mask.map(|(_, mask)| mask))?;
        }
        let (workspace_bytes, _) = plan.workspace();
        let output_bytes: Vec<u64> =
            shared.buffers(Role::Output).iter().map(|buffer| byte_count(buffer, dims)).collect::<Result<_, _>>()?;
        shared.ask(|device| {
            Ok(Batch {
                dims,
                inputs: inputs.iter().map(|tensor| Region::of(device, tensor.bytes())).collect::<Result<_, _>>()?,
                outputs: output_bytes.into_iter().map(|bytes| Region::new(device, bytes)).collect::<Result<_, _>>()?,
                workspace: Region::new(device, workspace_bytes)?,
            })
        })
    }

    /// Launches the layer on this memory and waits for it; the time that took. Without tokens it launches nothing and
    /// touches nothing.
    ///
    /// # Errors
    /// Before anything is launched: [`Error::Poisoned`], [`Error::TokensAboveMax`], [`Error::SequenceTokens`],
    /// [`Error::Count`], [`Error::TooShort`], [`Error::Misaligned`], [`Error::WrongDevice`], [`Error::Extent`],
    /// [`Error::LaunchRange`]. After: [`Error::Device`].
    pub fn launch(&self, batch: &mut Batch) -> Result<Duration, Error> {
        self.launch_planned(&Plan::new(&self.shared, batch.dims)?, batch, Plan::launch)
    }

    /// Launches the package's update, if it has one, after a run on this memory, and waits for it: the correction bias
    /// moves by the load of that run (`stats.load`). It writes a weight, which every clone of this layer shares: no run
    /// may be under way. To count several batches, or several devices, put the sum there with [`Bound::overwrite`].
    ///
    /// # Errors
    /// Those of [`Bound::launch`].
    pub fn update(&self, batch: &mut Batch) -> Result<Duration, Error> {
        self.launch_planned(&Plan::new(&self.shared, batch.dims)?, batch, Plan::launch_update)
    }

    /// One of the plan's launch sequences on this memory, waited for.
    fn launch_planned(&self, plan: &Plan, batch: &mut Batch, launch: Launching) -> Result<Duration, Error> {
        let mut memory = batch.memory();
        plan.check(self, &memory)?;
        if plan.dims().tokens == 0 {
            return Ok(Duration::ZERO);
        }
        self.shared.ask(|device| {
            let start = Instant::now();
            let started = launch(plan, device.as_ref(), self, &mut memory, Stream::DEFAULT);
            // Wait in any case: what was started before a failure still uses the batch's memory.
            let done = device.sync();
            started.and(done)?;
            Ok(start.elapsed())
        })
    }

    /// The outputs and observed buffers of a batch that was launched. Nothing is observed of one whose workspace is too short for the
    /// whole batch, as [`Bound::batch_for`] makes it for a plan in parts: its workspace has what the last part left.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::Device`], [`Error::Poisoned`].
    pub fn collect(&self, batch: &Batch, elapsed: Duration) -> Result<Run, Error> {
        let shared = &self.shared;
        let read = |buffer: &Buffer, region: &Region, offset: u64| {
            let bytes = byte_count(buffer, batch.dims)?;
            if offset.checked_add(bytes).is_none_or(|end| end > region.bytes()) {
                return Err(Error::TooShort { name: buffer.name.clone(), needed: bytes, actual: region.bytes() });
            }
            // As long as a region that is there, which on an emulator is no promise that there is memory.
            let mut host = zeroed(bytes)?;
            shared.ask(|_| region.copy_out(offset, &mut host))?;
            Tensor::new(buffer.dtype, shape(buffer, batch.dims)?, host)
        };
        let outputs = shared.buffers(Role::Output);
        check_count("outputs", outputs.len(), batch.outputs.len())?;
        let outputs = outputs.iter().zip(&batch.outputs);
        let outputs = outputs.map(|(buffer, region)| Ok((buffer.name.clone(), read(buffer, region, 0)?)));
        let outputs = outputs.collect::<Result<_, Error>>()?;
        let mut observed = Vec::new();
        let layout = if batch.dims.tokens > 0 { Some(shared.workspace(batch.dims)?) } else { None };
        // Of a batch in parts the workspace has the last one's.
        if let Some(layout) = layout.filter(|layout| layout.bytes <= batch.workspace.bytes()) {
            for place in layout.places {
                let buffer = &shared.manifest.buffers[place.buffer];
                if let Some(name) = &buffer.observe {
                    observed.push((name.clone(), read(buffer, &batch.workspace, place.offset)?));
                }
            }
        }
        Ok(Run { outputs, observed, elapsed, dims: batch.dims })
    }

    /// Puts a tensor in the place of an observed buffer of a batch that was launched.
    ///
    /// # Errors
    /// [`Error::NotObserved`], [`Error::DType`], [`Error::Shape`], [`Error::TooShort`], [`Error::Device`], [`Error::Poisoned`].
    pub fn overwrite(&self, batch: &mut Batch, observed: &str, tensor: &Tensor) -> Result<(), Error> {
        let shared = &self.shared;
        let places = shared.workspace(batch.dims)?.places;
        let buffer = |place: &Place| &shared.manifest.buffers[place.buffer];
        let names = || places.iter().filter_map(|place| buffer(place).observe.clone()).collect();
        let found = places.iter().find(|place| buffer(place).observe.as_deref() == Some(observed));
        let place = found.ok_or_else(|| Error::NotObserved { name: observed.to_owned(), known: names() })?;
        check_tensor(buffer(place), tensor, batch.dims)?;
        shared.ask(|_| batch.workspace.copy_in(place.offset, tensor.bytes()))
    }

    /// A weight as it is now on the device.
    ///
    /// # Errors
    /// [`Error::NoWeight`], [`Error::Released`], [`Error::Device`], [`Error::Poisoned`].
    pub fn weight(&self, name: &str) -> Result<Tensor, Error> {
        let shared = &self.shared;
        let buffers = shared.buffers(Role::Weight);
        let found = buffers.iter().zip(shared.weight_indices().zip(self.weights.iter())).find(|(buffer, _)| buffer.name == name);
        let (buffer, (index, region)) = found.ok_or_else(|| Error::NoWeight {
            name: name.to_owned(),
            known: buffers.iter().map(|buffer| buffer.name.clone()).collect(),
        })?;
        if !shared.is_kept(index, shared.target().prepare.len()) {
            return Err(Error::Released { name: name.to_owned() });
        }
        let mut host = zeroed(byte_count(buffer, Dims::tokens(0))?)?;
        shared.ask(|_| region.copy_out(0, &mut host))?;
        Tensor::new(buffer.dtype, shape(buffer, Dims::tokens(0))?, host)
    }
}

impl Shared {
    pub(crate) fn target(&self) -> &Target {
        &self.manifest.targets[self.target]
    }

    pub(crate) fn buffers(&self, role: Role) -> Vec<&Buffer> {
        self.manifest.buffers.iter().filter(|buffer| buffer.role == role).collect()
    }

    /// Where the weights are among the manifest's buffers, in their order.
    fn weight_indices(&self) -> impl Iterator<Item = usize> {
        let buffers = self.manifest.buffers.iter().enumerate();
        buffers.filter(|(_, buffer)| buffer.role == Role::Weight).map(|(index, _)| index)
    }

    /// Whether something needs this buffer when so many preparations are done: one of the others, a run or the update. A weight that
    /// nothing ever reads is kept, too.
    pub(crate) fn is_kept(&self, buffer: usize, prepared: usize) -> bool {
        let target = self.target();
        let names = |launches: &[Launch]| launches.iter().flat_map(|launch| &launch.args).any(|arg| arg.buffer() == Some(buffer));
        let of_runs = || target.regimes.iter().any(|regime| names(&regime.launches)) || names(&target.update);
        !names(&target.prepare[..prepared]) || names(&target.prepare[prepared..]) || of_runs()
    }

    /// What is prepared of the weights for this target, in the manifest's order.
    pub(crate) fn prepared(&self) -> impl Iterator<Item = &Buffer> {
        let args = self.target().prepare.iter().flat_map(|launch| &launch.args);
        let named: BTreeSet<usize> = args.filter_map(Arg::buffer).collect();
        let buffers = named.into_iter().map(|index| &self.manifest.buffers[index]);
        buffers.filter(|buffer| buffer.role == Role::Prepared)
    }

    pub(crate) fn workspace(&self, dims: Dims) -> Result<Workspace, Error> {
        workspace(&self.manifest, self.target(), dims)
    }

    /// Whether no update is given this weight, which nothing else may write.
    fn is_only_read(&self, weight: &Buffer) -> bool {
        let is_it = |arg: &Arg| arg.buffer().is_some_and(|index| self.manifest.buffers[index].name == weight.name);
        !self.target().update.iter().flat_map(|launch| &launch.args).any(is_it)
    }

    /// Asks the device, unless it is lost; notes it where this loses it.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Arc<dyn Device>) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(first) = self.lost.get() {
            return Err(Error::Poisoned { first: first.clone() });
        }
        question(&self.device).inspect_err(|error| {
            if let Error::Device { sticky: true, .. } = error {
                // Two threads may lose it at once: either failure is the first.
                let _ = self.lost.set(error.to_string());
            }
        })
    }

    pub(crate) fn check_dims(&self, Dims { tokens, sequence_tokens }: Dims) -> Result<(), Error> {
        if tokens > self.manifest.max_tokens {
            return Err(Error::TokensAboveMax { tokens, max: self.manifest.max_tokens });
        }
        if tokens > 0 && (sequence_tokens == 0 || !tokens.is_multiple_of(sequence_tokens)) {
            return Err(Error::SequenceTokens { tokens, sequence_tokens });
        }
        Ok(())
    }

    pub(crate) fn check_region(&self, name: &str, region: &Region, needed: u64, align: u64) -> Result<(), Error> {
        let name = || name.to_owned();
        if !region.is_on(&self.device) {
            return Err(Error::WrongDevice { name: name() });
        }
        if region.bytes() < needed {
            return Err(Error::TooShort { name: name(), needed, actual: region.bytes() });
        }
        if !region.address().is_multiple_of(align) {
            return Err(Error::Misaligned { name: name(), align });
        }
        Ok(())
    }

    pub(crate) fn launches(&self, tokens: u64) -> &[Launch] {
        self.target().regime(tokens).map_or(&[], |regime| &regime.launches)
    }
}

/// Host memory, if there is so much.
fn zeroed(bytes: u64) -> Result<Vec<u8>, Error> {
    let mut host = Vec::new();
    let length = usize::try_from(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
    host.try_reserve_exact(length).map_err(|_| Error::OutOfMemory { bytes })?;
    host.resize(length, 0);
    Ok(host)
}

pub(crate) fn check_count(what: &'static str, expected: usize, actual: usize) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Count { what, expected, actual }) }
}

/// Whether these bytes start where kernels need the buffer to.
fn is_aligned(bytes: &[u8], buffer: &Buffer) -> bool {
    bytes.as_ptr().addr().is_multiple_of(buffer.align as usize)
}

/// Integers that number something number one that there is, but for those in rows that are 0 in the mask.
fn check_numbers(buffer: &Buffer, tensor: &Tensor, mask: Option<&Tensor>) -> Result<(), Error> {
    let Some(below) = buffer.below else { return Ok(()) };
    let inner = buffer.shape.len().saturating_sub(1);
    let columns = tensor.shape().iter().rev().take(inner).product::<u64>().max(1);
    let mask = mask.map(Tensor::to_i32).transpose()?;
    let is_token = |row: u64| mask.as_ref().is_none_or(|mask| mask[row as usize] != 0);
    let is_outside = |value: i32| u64::try_from(value).map_or(true, |value| value >= below);
    let mut numbers = tensor.to_i32()?.into_iter().zip(0u64..).map(|(value, at)| (value, at / columns));
    match numbers.find(|(value, row)| is_outside(*value) && is_token(*row)) {
        None => Ok(()),
        Some((value, row)) => Err(Error::NumberRange { name: buffer.name.clone(), row, value, most: below - 1 }),
    }
}

/// A tensor for this buffer has its dtype and its shape, the leading axis whole or split.
fn check_tensor(buffer: &Buffer, tensor: &Tensor, dims: Dims) -> Result<(), Error> {
    if tensor.dtype() != buffer.dtype {
        return Err(Error::DType { name: buffer.name.clone(), expected: buffer.dtype, actual: tensor.dtype() });
    }
    let expected = shape(buffer, dims)?;
    let actual = tensor.shape();
    let inner = expected.len().saturating_sub(1);
    let fits = actual.len() >= expected.len() && {
        let (leading, trailing) = actual.split_at(actual.len() - inner);
        trailing == &expected[expected.len() - inner..]
            && leading.iter().try_fold(1u64, |product, n| product.checked_mul(*n)) == Some(expected.first().copied().unwrap_or(1))
    };
    if fits {
        return Ok(());
    }
    Err(Error::Shape { name: buffer.name.clone(), expected: format!("{expected:?}"), actual: format!("{actual:?}") })
}
