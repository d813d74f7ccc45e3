//! The emulator as a device: a package's PTX, executed and checked on the CPU by `ptx-emulator`. The launch path is that of
//! a GPU. What the checks found is asked for afterwards; no finding is an error by itself.
//!
//! Every tensor that a launch names is an allocation of its own to the emulator, with guard gaps around it, although the
//! workspace is one region to the caller: a kernel that leaves its tensor is found out.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_emulator::{Arg, Buffer, Fill, Launch, Memory, Module, Swizzle, TensorMap, Uses, launch, parse};

use crate::device::{Argument, Device, Map, Opened, Start};
use crate::error::Error;
use crate::package::{self, DType, ImageKind, Manifest, Package, Role, Target, TargetKind, WORKSPACE_ALIGN};

pub use ptx_emulator::{
    Blocks, Counters, Finding, FindingKind, Limits, Moved, Numerics, Options, Procedure, Report, Schedule, Sectors,
};

/// How one launch went.
#[derive(Clone, Debug)]
pub struct Emulated {
    /// The kernel.
    pub symbol: String,
    /// Blocks of the launch, whether or not they ran.
    pub blocks: u64,
    /// What was found and counted.
    pub report: Report,
}

/// Which blocks of the launches run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sample {
    /// Every one.
    #[default]
    All,
    /// These, where there are so many. Launches that see workspace only, and integers in it, run whole: they are a small part
    /// of the work, and what they write tells others where to read.
    Only(Vec<Place>),
}

/// A block of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one of this number.
    At(u64),
    /// The last one.
    Last,
}

impl Sample {
    fn blocks(&self, total: u64) -> Blocks {
        let Sample::Only(places) = self else { return Blocks::All };
        let number = |place: &Place| match place {
            Place::At(number) => *number,
            Place::Last => total.saturating_sub(1),
        };
        let mut chosen: Vec<u64> = places.iter().map(number).filter(|number| *number < total).collect();
        chosen.sort_unstable();
        chosen.dedup();
        Blocks::Only(chosen)
    }
}

/// The device, and what its checks saw.
pub struct Emulator {
    module: Module,
    kernels: Vec<Kernel>,
    /// Name and role of the manifest's buffers.
    buffers: Vec<(String, Role)>,
    options: Options,
    sample: Sample,
    state: Mutex<State>,
}

struct Kernel {
    symbol: String,
    threads: u32,
    dynamic_shared_bytes: u32,
    /// Whether it is given weights, inputs or outputs, or nothing but floats.
    is_sampled: bool,
    /// Of a kernel of persistent blocks, which of its arguments are the number of tiles and that of blocks.
    tiles: Option<[usize; 2]>,
    /// Whether it is launched when weights are bound.
    prepares: bool,
    /// Whether it is launched by an update.
    updates: bool,
}

impl Kernel {
    /// Whether the manifest lets it read such buffers only.
    fn only_reads(&self, role: Role) -> bool {
        match role {
            Role::Input | Role::Weight => !self.updates,
            Role::Prepared => !self.prepares,
            Role::Output | Role::Workspace => false,
        }
    }
}

struct State {
    memory: Memory,
    /// The next address that `alloc` gives. Addresses are only names here: nothing lies at them.
    next: u64,
    /// The regions that `alloc` gave, by their address: length, and the byte that untouched memory holds.
    regions: BTreeMap<u64, (u64, u8)>,
    /// What the manifest's buffers hold where no launch and no copy has written them.
    contents: BTreeMap<usize, Procedure>,
    /// The tensors, by their address. None overlaps another.
    tensors: BTreeMap<u64, Tensor>,
    /// A hash of what was touched of workspace that was used again for another buffer; of samples alone.
    given_up: Option<u64>,
    /// The tensors that were given up since the last launch that was not early: where each was, and how it was used.
    former: Vec<(u64, Uses)>,
    launches: Vec<Emulated>,
}

#[derive(Clone, Copy)]
struct Tensor {
    bytes: u64,
    buffer: Buffer,
    /// The manifest's buffer that it is, once a launch has said so.
    of: Option<usize>,
}

/// What the manifest says of a buffer that a kernel is given.
struct Known<'m> {
    name: &'m str,
    only_read: bool,
    is_workspace: bool,
}

/// What untouched memory holds unless `fill` says otherwise.
const DIRT: u8 = 0xAB;

/// The package's PTX for `target` (the first GPU target where `None`), on an emulator with these options, which runs these
/// blocks.
///
/// # Errors
/// [`Error::NoImage`] where the package has no PTX for it, [`Error::LoadImage`] where the emulator cannot read it.
pub fn open(package: &Package, target: Option<&str>, options: Options, sample: Sample) -> Result<(Opened, Arc<Emulator>), Error> {
    let manifest = package.manifest();
    let ptx = |images: &[u32]| images.iter().find(|i| manifest.images[**i as usize].kind == ImageKind::Ptx).copied();
    let fits = |name: &str| target.is_none_or(|wanted| wanted == name);
    let found = manifest
        .targets
        .iter()
        .enumerate()
        .filter(|(_, t)| t.kind == TargetKind::Gpu && fits(&t.name))
        .find_map(|(index, t)| Some((index, ptx(&t.images)?)));
    let (index, image) = found.ok_or_else(|| Error::NoImage {
        device: "the emulator".into(),
        targets: manifest.targets.iter().map(|t| t.name.clone()).collect(),
        wanted: target.unwrap_or("PTX for a GPU").into(),
    })?;
    let text = String::from_utf8_lossy(&package.images()[image as usize]);
    let module = parse(&text)
        .map_err(|error| Error::LoadImage { why: format!("the emulator cannot read the PTX: {error}"), help: None })?;
    let kernels = kernels(manifest, &manifest.targets[index]);
    let buffers = manifest.buffers.iter().map(|buffer| (buffer.name.clone(), buffer.role)).collect();
    let state = State {
        memory: Memory::new(),
        next: WORKSPACE_ALIGN,
        regions: BTreeMap::new(),
        contents: BTreeMap::new(),
        tensors: BTreeMap::new(),
        given_up: (sample != Sample::All).then_some(0),
        former: Vec::new(),
        launches: Vec::new(),
    };
    let emulator = Arc::new(Emulator { module, kernels, buffers, options, sample, state: Mutex::new(state) });
    Ok((Opened { device: Arc::clone(&emulator) as Arc<dyn Device>, target: index }, emulator))
}

fn kernels(manifest: &Manifest, target: &Target) -> Vec<Kernel> {
    let kernel = |(index, kernel): (usize, &package::Kernel)| {
        let launches = || target.launches().filter(|launch| launch.kernel as usize == index);
        let given = || launches().flat_map(|launch| &launch.args).filter_map(package::Arg::buffer);
        let buffers = || given().map(|buffer| &manifest.buffers[buffer]);
        let is_inner = buffers().all(|buffer| buffer.role == Role::Workspace);
        let has_integers = buffers().any(|buffer| buffer.dtype == DType::I32);
        let place = |name: &str| kernel.params.iter().position(|param| param.name == name);
        let is_in = |launches: &[package::Launch]| launches.iter().any(|launch| launch.kernel as usize == index);
        Kernel {
            symbol: kernel.symbol.clone(),
            threads: kernel.threads,
            dynamic_shared_bytes: kernel.dynamic_shared_bytes,
            is_sampled: !(is_inner && has_integers),
            tiles: place("tile_bound").zip(place("block_count")).map(<[usize; 2]>::from),
            prepares: is_in(&target.prepare),
            updates: is_in(&target.update),
        }
    };
    target.kernels.iter().enumerate().map(kernel).collect()
}

impl Emulator {
    /// The launches since the last call, in order.
    pub fn take_launches(&self) -> Vec<Emulated> {
        std::mem::take(&mut self.state().launches)
    }

    /// Says what a buffer of the manifest holds from now on, until something writes it: bytes made when they are touched,
    /// for tensors that are too large to exist.
    pub fn provide(&self, buffer: usize, content: Procedure) {
        let mut state = self.state();
        state.contents.insert(buffer, content);
        let former: Vec<u64> = state.tensors.iter().filter(|(_, t)| t.of == Some(buffer)).map(|(start, _)| *start).collect();
        for tensor in former.iter().filter_map(|start| state.tensors.remove(start)).collect::<Vec<_>>() {
            // A buffer that is already gone needs no freeing.
            let _ = state.memory.free(tensor.buffer);
        }
    }

    /// A hash of all that was touched in a range, places and bytes; of a [`Sample::Only`] also of all workspace that was
    /// used again for another buffer since.
    pub fn fingerprint(&self, address: u64, bytes: u64) -> u64 {
        let state = self.state();
        let mut hash = DefaultHasher::new();
        for (start, tensor) in state.named(address, bytes) {
            (start - address.min(start)).hash(&mut hash);
            // A tensor that is listed is there.
            state.memory.touched(tensor.buffer).unwrap_or_default().hash(&mut hash);
        }
        state.given_up.hash(&mut hash);
        hash.finish()
    }

    /// The first byte of a range that no launch and no copy has written, as a finding: something that a caller reads back
    /// under `name` must be written. `None` too where the range is not memory of this device.
    #[must_use]
    pub fn never_written(&self, name: &str, address: u64, bytes: u64) -> Option<Finding> {
        if bytes == 0 {
            return None;
        }
        let mut state = self.state();
        let (buffer, offset) = state.tensor(address, bytes, None).ok()?;
        let at = state.memory.first_uninitialised(buffer, offset, bytes).ok()??;
        Some(Finding {
            kind: FindingKind::NeverWritten,
            kernel: name.to_owned(),
            at: Default::default(),
            opcode: String::new(),
            block: [0; 3],
            warp: 0,
            lanes: 0,
            message: format!("byte {} of {bytes} was not written by any launch", at - offset),
            count: 1,
        })
    }

    // A panic cannot leave the maps half-changed, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("options", &self.options).finish_non_exhaustive()
    }
}

impl State {
    /// The tensor that holds this range, and how far in it starts. Where there is none, one is made.
    fn tensor(&mut self, address: u64, bytes: u64, of: Option<usize>) -> Result<(Buffer, u64), Error> {
        if let Some((start, tensor)) = self.tensors.range(..=address).next_back()
            && address - start + bytes <= tensor.bytes
        {
            return Ok((tensor.buffer, address - start));
        }
        Ok((self.new_tensor(address, bytes, of)?, 0))
    }

    /// A tensor of its own for this range. Those that it overlaps are given up: the memory is used for something else.
    fn new_tensor(&mut self, address: u64, bytes: u64, of: Option<usize>) -> Result<Buffer, Error> {
        let dirt = self.region(address, bytes)?;
        for (start, tensor) in self.named(address, bytes) {
            self.tensors.remove(&start);
            if let Some(before) = self.given_up {
                let mut hash = DefaultHasher::new();
                (before, start, self.memory.touched(tensor.buffer).unwrap_or_default()).hash(&mut hash);
                self.given_up = Some(hash.finish());
            }
            self.former.push((start, self.memory.uses(tensor.buffer).map_err(refused)?));
            self.memory.free(tensor.buffer).map_err(refused)?;
        }
        let content = of.and_then(|of| self.contents.get(&of));
        let fill = content.map_or(Fill::Uninitialised(dirt), |content| Fill::Procedure(Arc::clone(content)));
        let buffer = self.memory.alloc(&format!("tensor@{address:#x}"), bytes, fill).map_err(refused)?;
        for (start, uses) in &self.former {
            self.memory.inherit(buffer, uses, address.cast_signed() - start.cast_signed()).map_err(refused)?;
        }
        self.tensors.insert(address, Tensor { bytes, buffer, of });
        Ok(buffer)
    }

    /// The address of a range that a kernel is given for a buffer of the manifest. Workspace that was another buffer is new:
    /// what the launches before left there is not known.
    fn given(&mut self, address: u64, bytes: u64, of: usize, known: &Known<'_>) -> Result<u64, Error> {
        let is_it = |tensor: &Tensor| tensor.bytes == bytes && tensor.of.is_none_or(|it| it == of);
        if known.is_workspace && !self.tensors.get(&address).is_some_and(is_it) {
            self.new_tensor(address, bytes, Some(of))?;
        }
        let (buffer, offset) = self.tensor(address, bytes, Some(of))?;
        if let Some(tensor) = self.tensors.get_mut(&address) {
            tensor.of.get_or_insert(of);
        }
        self.memory.rename(buffer, known.name).map_err(refused)?;
        self.memory.set_read_only(buffer, known.only_read).map_err(refused)?;
        Ok(self.memory.address(buffer).map_err(refused)? + offset)
    }

    /// What untouched memory of the region with this range holds.
    fn region(&self, address: u64, bytes: u64) -> Result<u8, Error> {
        let region = self.regions.range(..=address).next_back();
        let inside = region.filter(|(start, (len, _))| address.checked_add(bytes).is_some_and(|end| end <= *start + *len));
        inside.map(|(_, (_, fill))| *fill).ok_or_else(|| refused("the range is not memory of this device"))
    }

    /// The tensors that have a byte in a range.
    fn named(&self, address: u64, bytes: u64) -> Vec<(u64, Tensor)> {
        let before = self.tensors.range(..address).next_back().filter(|(start, tensor)| *start + tensor.bytes > address);
        let range = address..address.saturating_add(bytes);
        before.into_iter().chain(self.tensors.range(range)).map(|(start, tensor)| (*start, *tensor)).collect()
    }
}

impl Device for Emulator {
    fn name(&self) -> String {
        "the emulator".into()
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        let mut state = self.state();
        let address = state.next;
        let next = address.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(WORKSPACE_ALIGN));
        state.next = next.ok_or(Error::OutOfMemory { bytes })?;
        state.regions.insert(address, (bytes, DIRT));
        Ok(address)
    }

    fn free(&self, address: u64) {
        let mut state = self.state();
        if let Some((bytes, _)) = state.regions.remove(&address) {
            for (start, tensor) in state.named(address, bytes) {
                state.tensors.remove(&start);
                // A buffer that is already gone needs no freeing.
                let _ = state.memory.free(tensor.buffer);
            }
        }
    }

    /// What is filled counts as undefined still: `value` is what reading it by mistake gives.
    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        let mut state = self.state();
        state.region(address, bytes)?;
        for (_, tensor) in state.named(address, bytes) {
            state.memory.poison(tensor.buffer, value).map_err(refused)?;
        }
        if let Some((_, fill)) = state.regions.get_mut(&address) {
            *fill = value;
        }
        Ok(())
    }

    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        let mut state = self.state();
        let (buffer, offset) = state.tensor(address, from.len() as u64, None)?;
        state.memory.write(buffer, offset, from).map_err(refused)
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut state = self.state();
        let (buffer, offset) = state.tensor(address, into.len() as u64, None)?;
        state.memory.read(buffer, offset, into).map_err(refused)
    }

    fn launch(&self, Start { kernel, blocks, early, working: _ }: Start, args: &[Argument]) -> Result<(), Error> {
        let kernel = self.kernels.get(kernel).ok_or_else(|| refused("there is no such kernel"))?;
        let Kernel { symbol, threads, dynamic_shared_bytes, is_sampled, .. } = kernel;
        let is_sampled = *is_sampled && self.sample != Sample::All;
        // A sample is of blocks that compute a tile each: what they do does not depend on their number.
        let one_each = kernel.tiles.filter(|_| is_sampled).and_then(|[tiles, count]| match args.get(tiles) {
            Some(Argument::I32(tiles)) => Some((u64::try_from(*tiles).ok()?, count)),
            Some(Argument::I64(_) | Argument::Memory { .. } | Argument::Map { .. }) | None => None,
        });
        let blocks = one_each.map_or(blocks, |(tiles, _)| tiles);
        let grid = u32::try_from(blocks).ok().filter(|n| *n <= i32::MAX as u32);
        let value = i64::try_from(blocks).unwrap_or(i64::MAX);
        let grid = grid.ok_or_else(|| Error::LaunchRange { kernel: symbol.clone(), what: "the grid".into(), value })?;
        let mut state = self.state();
        let mut packed = Vec::with_capacity(args.len());
        let known = |buffer: usize| {
            let (name, role) = self.buffers.get(buffer).ok_or_else(|| refused("there is no such buffer"))?;
            Ok::<_, Error>(Known { name, only_read: kernel.only_reads(*role), is_workspace: *role == Role::Workspace })
        };
        for (i, arg) in args.iter().enumerate() {
            packed.push(match arg {
                Argument::I32(_) if one_each.is_some_and(|(_, count)| count == i) => Arg::I32(grid as i32),
                Argument::Memory { bytes: 0, .. } => Arg::U64(0),
                Argument::Memory { buffer, address, bytes } => {
                    Arg::U64(state.given(*address, *bytes, *buffer, &known(*buffer)?)?)
                }
                Argument::Map { buffer, address, bytes, map } => {
                    let address = state.given(*address, *bytes, *buffer, &known(*buffer)?)?;
                    Arg::Bytes(encoded(map, address).encode().map_err(refused)?.to_vec())
                }
                Argument::I32(value) => Arg::I32(*value),
                Argument::I64(value) => Arg::U64(value.cast_unsigned()),
            });
        }
        if !early {
            state.former.clear();
        }
        let entry = self.module.entry(symbol).ok_or_else(|| refused("the PTX has no such kernel"))?;
        let args = entry.pack(&state.memory, &packed).map_err(refused)?;
        let shape = Launch { grid: [grid, 1, 1], block: [*threads, 1, 1], shared_bytes: *dynamic_shared_bytes, early, args };
        let chosen = if is_sampled { self.sample.blocks(blocks) } else { Blocks::All };
        let options = Options { blocks: chosen, ..self.options.clone() };
        let report = launch(&self.module, symbol, &shape, &mut state.memory, &options).map_err(refused)?;
        let stopped = (!report.completed).then(|| report.findings.first().map(ToString::to_string).unwrap_or_default());
        state.launches.push(Emulated { symbol: symbol.clone(), blocks, report });
        match stopped {
            None => Ok(()),
            Some(why) => Err(Error::Device { call: "emulated launch", why, sticky: true }),
        }
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The map of a tensor at this address as the emulator has it: innermost dimension first.
fn encoded(map: &Map, address: u64) -> TensorMap {
    let Map { of: package::TensorMap { dtype, tile, swizzle }, extents: [outer, row, column], strides } = *map;
    TensorMap {
        element_bytes: dtype.bytes() as u8,
        address,
        extents: vec![column, row, outer],
        strides: vec![strides[1], strides[0]],
        box_extents: vec![tile[2], tile[1], tile[0]],
        swizzle: match swizzle {
            package::Swizzle::None => Swizzle::None,
            package::Swizzle::Bytes32 => Swizzle::Bytes32,
            package::Swizzle::Bytes64 => Swizzle::Bytes64,
            package::Swizzle::Bytes128 => Swizzle::Bytes128,
        },
    }
}

fn refused(why: impl fmt::Display) -> Error {
    Error::Device { call: "the emulator", why: why.to_string(), sticky: false }
}
