//! A layer at one batch size: what a run needs to know beside its memory, evaluated once. A run of a plan looks at the
//! memory and enqueues the launches; it allocates nothing, takes no lock and does not wait.

use std::sync::Arc;

use crate::device::{Device, Given, Launches, Map, Start, Stream, Working};
use crate::error::Error;
use crate::layer::{Bound, Layer, Shared, check_count};
use crate::package::{
    Arg, Dims, Extent, Kernel, Launch, ParamKind, Role, TensorMap, View, WORKSPACE_ALIGN, Workspace, byte_count, part,
};
use crate::region::Region;

/// Grids, scalar arguments, sizes and the places in the workspace, for one [`Dims`]. It has no state: threads may run one
/// plan at once, each on memory of its own.
///
/// ```no_run
/// # use moec_runtime::{Batch, Bound, Error, Stream};
/// # fn run(bound: &Bound, mut batch: Batch) -> Result<(), Error> {
/// let plan = bound.layer().plan(batch.dims)?;
/// for _ in 0..100 {
///     plan.run(bound, &mut batch.memory(), Stream::DEFAULT)?;
/// }
/// bound.layer().sync()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    shared: Arc<Shared>,
    dims: Dims,
    /// By the manifest's index; empty where there are no tokens, as are the launches.
    slots: Box<[Slot]>,
    inputs: usize,
    outputs: usize,
    workspace_bytes: u64,
    /// One, or where the batch is cut those that are alike and the last one.
    parts: Box<[Part]>,
    update: Box<[Call]>,
}

/// Parts of a batch that are alike, one after another.
#[derive(Clone, Debug)]
struct Part {
    /// Tokens of the batch before them.
    first: u64,
    /// Of each.
    tokens: u64,
    times: u64,
    slots: Box<[Slot]>,
    launches: Box<[Call]>,
}

/// The memory of one run, in the manifest's order; [`crate::Batch::memory`] lends that of a batch. Content of outputs and
/// workspace before a run does not matter.
#[derive(Debug)]
pub struct Memory<'m> {
    /// One region an input, at least as long as its shape.
    pub inputs: &'m [Region],
    /// One region an output, at least as long as its shape.
    pub outputs: &'m mut [Region],
    /// At least [`Plan::workspace`], its length and its alignment. Every run that may be under way at the same time has its
    /// own.
    pub workspace: &'m mut Region,
}

/// A buffer at these dims.
#[derive(Clone, Copy, Debug)]
struct Slot {
    bytes: u64,
    /// Of each token; 0 where the buffer is not one of tokens that the caller gives.
    token_bytes: u64,
    place: Place,
}

/// Where a run finds a buffer.
#[derive(Clone, Copy, Debug)]
enum Place {
    Input(usize),
    Output(usize),
    Weight(usize),
    Prepared(usize),
    /// Bytes from the start of the workspace.
    Workspace(u64),
    /// A workspace buffer that no launch of this target names.
    Nowhere,
}

/// A launch, all but the addresses evaluated. One of no blocks is left out.
#[derive(Clone, Debug)]
struct Call {
    start: Start,
    args: Box<[Word]>,
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Buffer(usize),
    Map(usize, Map),
    I32(i32),
    I64(i64),
}

impl Layer {
    /// What a run of this size needs, evaluated once.
    ///
    /// # Errors
    /// [`Error::TokensAboveMax`], [`Error::SequenceTokens`], [`Error::Extent`], [`Error::LaunchRange`], [`Error::Manifest`] where a grid
    /// is not whole clusters.
    pub fn plan(&self, dims: Dims) -> Result<Plan, Error> {
        Plan::new(&self.shared, dims)
    }

    /// As [`Layer::plan`], with at most so many bytes of workspace: a batch that needs more is run in parts, one after another, if its
    /// layer allows that (`cuts` in the manifest). The parts may be in another regime than the whole, and so round otherwise. Of a batch
    /// in parts nothing is observed. A run of it takes all of the bytes that it may, so that one workspace serves smaller batches too.
    ///
    /// # Errors
    /// Those of [`Layer::plan`], and [`Error::Workspace`] where the smallest part needs more.
    pub fn plan_within(&self, dims: Dims, workspace_bytes: u64) -> Result<Plan, Error> {
        Plan::within(&self.shared, dims, Some(workspace_bytes))
    }

    /// Waits for all that was started on the device, on whichever stream.
    ///
    /// # Errors
    /// [`Error::Device`] where any of it failed, [`Error::Poisoned`].
    pub fn sync(&self) -> Result<(), Error> {
        self.shared.ask(|device| device.sync())
    }
}

impl Plan {
    pub(crate) fn new(shared: &Arc<Shared>, dims: Dims) -> Result<Plan, Error> {
        Plan::within(shared, dims, None)
    }

    /// With at most as much workspace as the caller and the package allow.
    fn within(shared: &Arc<Shared>, dims: Dims, limit: Option<u64>) -> Result<Plan, Error> {
        shared.check_dims(dims)?;
        let (inputs, outputs) = (shared.buffers(Role::Input).len(), shared.buffers(Role::Output).len());
        let shared = Arc::clone(shared);
        if dims.tokens == 0 {
            let (slots, parts, update) = (Box::default(), Box::default(), Box::default());
            return Ok(Plan { shared, dims, slots, inputs, outputs, workspace_bytes: 0, parts, update });
        }
        let limit = limit.into_iter().chain(shared.manifest.workspace_limit).min().unwrap_or(u64::MAX);
        let of_part = part(&shared.manifest, shared.target(), dims, limit)?;
        let times = dims.tokens / of_part.tokens;
        let last = dims.tokens - times * of_part.tokens;
        let (first, bytes) = Part::new(&shared, of_part, 0, times)?;
        // Of a batch in parts not what they need, which is less for some longer ones: a workspace for the longest serves all.
        let workspace_bytes = if of_part.tokens < dims.tokens { limit } else { bytes };
        let rest = crate::package::of_part(shared.manifest.cuts, of_part, last);
        let rest = (last > 0).then(|| Part::new(&shared, rest, dims.tokens - last, 1)).transpose()?;
        let parts: Box<[Part]> = std::iter::once(first).chain(rest.map(|(part, _)| part)).collect();
        let slots = slots(&shared, Some((dims, &shared.workspace(dims)?)))?;
        let update = calls(&shared, &shared.target().update, dims)?;
        Ok(Plan { slots, inputs, outputs, workspace_bytes, parts, update, dims, shared })
    }

    /// In how many parts the batch is run; without tokens in none.
    #[must_use]
    pub fn parts(&self) -> u64 {
        self.parts.iter().map(|part| part.times).sum()
    }

    /// One of what is launched once, when weights are bound.
    pub(crate) fn preparation(shared: &Arc<Shared>, launch: usize) -> Result<Plan, Error> {
        let dims = Dims::tokens(0);
        let slots = slots(shared, None)?;
        let launches = calls(shared, std::slice::from_ref(&shared.target().prepare[launch]), dims)?;
        let part = Part { first: 0, tokens: 0, times: 1, slots: slots.clone(), launches };
        Ok(Plan {
            slots,
            inputs: 0,
            outputs: 0,
            workspace_bytes: 0,
            parts: Box::new([part]),
            update: Box::default(),
            dims,
            shared: Arc::clone(shared),
        })
    }

    /// The launch dimensions that it is for.
    #[must_use]
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// What a run needs of workspace: its length and its alignment, in bytes.
    #[must_use]
    pub fn workspace(&self) -> (u64, u64) {
        (self.workspace_bytes, WORKSPACE_ALIGN)
    }

    /// Runs the layer on this memory: looks at lengths, alignments and devices, then enqueues the launches on `stream`.
    /// Without tokens it looks at nothing and launches nothing.
    ///
    /// It allocates nothing, takes no lock, and may be called by several threads at once on different memory. On a GPU it
    /// returns as soon as the launches are enqueued: results are there once `stream` has done them, or after [`Layer::sync`],
    /// and the memory stays as it is until then. On the host it returns when they are done, and this thread does a part.
    ///
    /// # Errors
    /// Before anything is launched: [`Error::OtherLayer`], [`Error::Count`], [`Error::TooShort`], [`Error::Misaligned`],
    /// [`Error::WrongDevice`], [`Error::NoStream`], [`Error::Poisoned`]. After: [`Error::LaunchRange`] and
    /// [`Error::Device`]; what was enqueued before still uses the memory. On a GPU the failure of a kernel is told by a later
    /// call.
    pub fn run(&self, bound: &Bound, memory: &mut Memory<'_>, stream: Stream) -> Result<(), Error> {
        self.check(bound, memory)?;
        self.shared.ask(|device| self.launch(device.as_ref(), bound, memory, stream))
    }

    /// Runs the package's update, if it has one, after a run on this memory: see [`Bound::update`].
    ///
    /// # Errors
    /// Those of [`Plan::run`].
    pub fn update(&self, bound: &Bound, memory: &mut Memory<'_>, stream: Stream) -> Result<(), Error> {
        self.check(bound, memory)?;
        self.shared.ask(|device| self.launch_update(device.as_ref(), bound, memory, stream))
    }

    /// As [`Plan::run`] of memory that was looked at.
    pub(crate) fn launch(&self, on: &dyn Device, bound: &Bound, memory: &mut Memory<'_>, stream: Stream) -> Result<(), Error> {
        self.parts.iter().try_for_each(|part| {
            (0..part.times).try_for_each(|turn| {
                let from = Shift { slots: &part.slots, tokens: part.first + turn * part.tokens };
                on.enqueue(&Calls { calls: &part.launches, from, bound, memory }, stream)
            })
        })
    }

    /// As [`Plan::update`] of memory that was looked at.
    pub(crate) fn launch_update(
        &self,
        on: &dyn Device,
        bound: &Bound,
        memory: &mut Memory<'_>,
        stream: Stream,
    ) -> Result<(), Error> {
        // No layer that has one is cut.
        let from = Shift { slots: &self.slots, tokens: 0 };
        on.enqueue(&Calls { calls: &self.update, from, bound, memory }, stream)
    }

    /// What [`Plan::run`] looks at before it launches anything: that the weights are this layer's, and that the memory is long
    /// enough, aligned and on the device. It allocates nothing.
    ///
    /// # Errors
    /// [`Error::OtherLayer`], [`Error::Count`], [`Error::TooShort`], [`Error::Misaligned`], [`Error::WrongDevice`].
    pub fn check(&self, bound: &Bound, memory: &Memory<'_>) -> Result<(), Error> {
        if !Arc::ptr_eq(&self.shared, &bound.shared) {
            return Err(Error::OtherLayer);
        }
        if self.dims.tokens == 0 {
            return Ok(());
        }
        let shared = &self.shared;
        check_count("inputs", self.inputs, memory.inputs.len())?;
        check_count("outputs", self.outputs, memory.outputs.len())?;
        shared.check_region("workspace", memory.workspace, self.workspace_bytes, WORKSPACE_ALIGN)?;
        for (buffer, slot) in shared.manifest.buffers.iter().zip(&self.slots) {
            let region = match slot.place {
                Place::Input(index) => &memory.inputs[index],
                Place::Output(index) => &memory.outputs[index],
                Place::Weight(index) => &bound.weights[index],
                Place::Prepared(_) | Place::Workspace(_) | Place::Nowhere => continue,
            };
            shared.check_region(&buffer.name, region, slot.bytes, u64::from(buffer.align))?;
        }
        Ok(())
    }
}

impl Part {
    /// Parts of these dims, and the workspace that each needs.
    fn new(shared: &Shared, dims: Dims, first: u64, times: u64) -> Result<(Part, u64), Error> {
        let layout = shared.workspace(dims)?;
        let slots = slots(shared, Some((dims, &layout)))?;
        let launches = calls(shared, shared.launches(dims.tokens), dims)?;
        Ok((Part { first, tokens: dims.tokens, times, slots, launches }, layout.bytes))
    }
}

/// Where a part's buffers lie: the caller's behind those of so many tokens.
#[derive(Clone, Copy)]
struct Shift<'p> {
    slots: &'p [Slot],
    tokens: u64,
}

/// Launches of a plan on the memory of a run.
struct Calls<'r> {
    calls: &'r [Call],
    from: Shift<'r>,
    bound: &'r Bound,
    memory: &'r Memory<'r>,
}

impl Launches for Calls<'_> {
    fn count(&self) -> usize {
        self.calls.len()
    }

    fn start(&self, launch: usize) -> Start {
        self.calls[launch].start
    }

    fn args(&self, launch: usize) -> usize {
        self.calls[launch].args.len()
    }

    fn arg(&self, launch: usize, arg: usize) -> Given<'_> {
        let buffer = |buffer| self.from.given(buffer, self.bound, self.memory);
        match self.calls[launch].args[arg] {
            Word::Buffer(index) => buffer(index),
            Word::Map(index, map) => match buffer(index) {
                Given::Memory { buffer, region, offset, bytes } => Given::Map { buffer, region, offset, bytes, map },
                other @ (Given::Map { .. } | Given::I32(_) | Given::I64(_)) => other,
            },
            Word::I32(value) => Given::I32(value),
            Word::I64(value) => Given::I64(value),
        }
    }
}

impl Shift<'_> {
    fn given<'r>(self, buffer: usize, bound: &'r Bound, memory: &'r Memory<'_>) -> Given<'r> {
        let Slot { bytes, token_bytes, place } = self.slots[buffer];
        let shift = self.tokens * token_bytes;
        let (region, offset) = match place {
            Place::Input(index) => (&memory.inputs[index], shift),
            Place::Output(index) => (&memory.outputs[index], shift),
            Place::Weight(index) => (&bound.weights[index], 0),
            Place::Prepared(index) => (&bound.prepared[index], 0),
            Place::Workspace(offset) => (&*memory.workspace, offset),
            Place::Nowhere => (&*memory.workspace, 0),
        };
        Given::Memory { buffer, region, offset, bytes }
    }
}

/// Every buffer's length and place. `batch`: its dims and workspace; without one only weights and what is prepared of them are there.
fn slots(shared: &Shared, batch: Option<(Dims, &Workspace)>) -> Result<Box<[Slot]>, Error> {
    let (mut inputs, mut outputs, mut weights) = (0.., 0.., 0..);
    let mut prepared = shared.prepared().map(|buffer| buffer.name.as_str()).enumerate().peekable();
    let mut inside = batch.iter().flat_map(|(_, layout)| &layout.places).peekable();
    let slots = shared.manifest.buffers.iter().enumerate().map(|(index, buffer)| {
        let next = |numbers: &mut std::ops::RangeFrom<usize>| numbers.next().unwrap_or_default();
        let nowhere = Slot { bytes: 0, token_bytes: 0, place: Place::Nowhere };
        let (place, dims) = match (buffer.role, batch) {
            (Role::Weight, _) => {
                let place = Place::Weight(next(&mut weights));
                // What is released before the first run has no memory.
                if batch.is_some() && !shared.is_kept(index, shared.target().prepare.len()) {
                    return Ok(Slot { bytes: 0, token_bytes: 0, place });
                }
                (place, Dims::tokens(0))
            }
            (Role::Prepared, _) => match prepared.next_if(|(_, name)| *name == buffer.name) {
                Some((place, _)) => (Place::Prepared(place), Dims::tokens(0)),
                None => return Ok(nowhere),
            },
            (Role::Input, Some((dims, _))) => (Place::Input(next(&mut inputs)), dims),
            (Role::Output, Some((dims, _))) => (Place::Output(next(&mut outputs)), dims),
            (Role::Input | Role::Output, None) => return Ok(nowhere),
            // The layout is in the manifest's order.
            (Role::Workspace, _) => match inside.next_if(|place| place.buffer == index) {
                Some(place) => return Ok(Slot { bytes: place.bytes, token_bytes: 0, place: Place::Workspace(place.offset) }),
                None => return Ok(nowhere),
            },
        };
        let bytes = byte_count(buffer, dims)?;
        let is_of_tokens = matches!(place, Place::Input(_) | Place::Output(_)) && buffer.shape.first() == Some(&Extent::Tokens);
        Ok(Slot { bytes, token_bytes: if is_of_tokens { bytes / dims.tokens.max(1) } else { 0 }, place })
    });
    slots.collect()
}

/// The launches of some blocks. What comes before the first of them is not known, so that is not early, though one of no blocks may
/// have been in front of it.
fn calls(shared: &Shared, launches: &[Launch], dims: Dims) -> Result<Box<[Call]>, Error> {
    let calls = launches.iter().map(|launch| evaluate(shared, launch, dims));
    let mut calls: Box<[Call]> = calls.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|call| call.start.blocks > 0).collect();
    if let Some(first) = calls.first_mut() {
        first.start.early = false;
    }
    Ok(calls)
}

fn evaluate(shared: &Shared, launch: &Launch, dims: Dims) -> Result<Call, Error> {
    let kernel = launch.kernel as usize;
    let Kernel { symbol, params, cluster, .. } = &shared.target().kernels[kernel];
    let blocks = launch.grid.count(dims)?;
    if !blocks.is_multiple_of(u64::from(*cluster)) {
        return Err(Error::manifest(format!("kernel `{symbol}`: a grid of {blocks} blocks is not whole clusters of {cluster}")));
    }
    let args = launch.args.iter().zip(params).enumerate().map(|(index, (arg, param))| match arg {
        Arg::TensorMap(view) => match param.kind {
            ParamKind::TensorMap(of) => map(shared, of, view, dims, &format!("argument {index}"), symbol),
            // A sound manifest has a map for a map.
            ParamKind::Pointer | ParamKind::I32 | ParamKind::I64 => Ok(Word::Buffer(view.buffer as usize)),
        },
        Arg::Buffer(buffer) => Ok(Word::Buffer(*buffer as usize)),
        Arg::ScalarI32(extent) => {
            let value = extent.eval(dims)?;
            let narrow = i32::try_from(value);
            narrow.map(Word::I32).map_err(|_| Error::LaunchRange {
                kernel: symbol.clone(),
                what: format!("argument {index}"),
                value,
            })
        }
        Arg::ScalarI64(extent) => Ok(Word::I64(extent.eval(dims)?)),
    });
    let args = args.collect::<Result<_, Error>>()?;
    let working = launch.working.as_ref().map(|of| {
        // A sound manifest gives the kernel the buffer.
        let argument = launch.args.iter().position(|arg| *arg == Arg::Buffer(of.buffer)).unwrap_or_default();
        Ok::<_, Error>(Working { argument, each: of.each.count(dims)?, follows: of.follows })
    });
    Ok(Call { start: Start { kernel, blocks, early: launch.early, working: working.transpose()? }, args })
}

/// A tensor map, if the driver takes it and its tensor lies inside its buffer.
fn map(shared: &Shared, of: TensorMap, view: &View, dims: Dims, argument: &str, kernel: &str) -> Result<Word, Error> {
    let beyond = |what: &str, value: u64| Error::LaunchRange {
        kernel: kernel.to_owned(),
        what: format!("{what} of {argument}"),
        value: i64::try_from(value).unwrap_or(i64::MAX),
    };
    let [mut extents, mut strides] = [[0; 3], [0; 3]];
    for (extent, formula) in extents.iter_mut().zip(&view.extents) {
        *extent = formula.count(dims)?;
        if !(1..=1 << 32).contains(extent) {
            return Err(beyond("an extent", *extent));
        }
    }
    for (stride, formula) in strides.iter_mut().zip(&view.strides) {
        let elements = formula.count(dims)?;
        *stride = elements.saturating_mul(of.dtype.bytes());
        if *stride >= 1 << 40 || !stride.is_multiple_of(16) {
            return Err(beyond("a stride in bytes", *stride));
        }
    }
    strides[2] = of.dtype.bytes();
    // At most 2^74 together.
    let steps = extents.iter().zip(strides).map(|(extent, stride)| u128::from(extent - 1) * u128::from(stride));
    let end = steps.sum::<u128>() + u128::from(of.dtype.bytes());
    if end > u128::from(byte_count(&shared.manifest.buffers[view.buffer as usize], dims)?) {
        return Err(beyond("the last byte", u64::try_from(end).unwrap_or(u64::MAX)));
    }
    Ok(Word::Map(view.buffer as usize, Map { of, extents, strides: [strides[0], strides[1]] }))
}
