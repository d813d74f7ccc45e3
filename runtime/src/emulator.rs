//! The emulator as a device: a package's PTX, executed and checked on the CPU by `ptx-emulator`. The launch path is that of
//! a GPU. What the checks found is asked for afterwards; no finding is an error by itself.
//!
//! Every tensor that a launch names is an allocation of its own to the emulator, with guard gaps around it, although the
//! workspace is one region to the caller: a kernel that leaves its tensor is found out.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_emulator::{Arg, Buffer, Fill, Launch, Memory, Module, Swizzle, TensorMap, launch, parse};

use crate::device::{Argument, Device, Map, Opened};
use crate::error::Error;
use crate::package::{self, DType, ImageKind, Manifest, Package, Role, Target, TargetKind, WORKSPACE_ALIGN};

pub use ptx_emulator::{Blocks, Counters, Finding, FindingKind, Limits, Numerics, Options, Procedure, Report, Schedule};

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
    /// What the manifest calls the tensor of each parameter.
    names: Vec<String>,
    /// Whether a parameter is given inputs and weights alone, which a layer does not write; an update does.
    only_read: Vec<bool>,
}

struct State {
    memory: Memory,
    /// The next address that `alloc` gives. Addresses are only names here: nothing lies at them.
    next: u64,
    /// The regions that `alloc` gave, by their address: length, and the byte that untouched memory holds.
    regions: BTreeMap<u64, (u64, u8)>,
    /// What tensors that are not there yet will hold, by their address.
    contents: BTreeMap<u64, Procedure>,
    /// The named tensors, by their address. None overlaps another.
    tensors: BTreeMap<u64, Tensor>,
    launches: Vec<Emulated>,
}

#[derive(Clone, Copy)]
struct Tensor {
    bytes: u64,
    buffer: Buffer,
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
    let state = State {
        memory: Memory::new(),
        next: WORKSPACE_ALIGN,
        regions: BTreeMap::new(),
        contents: BTreeMap::new(),
        tensors: BTreeMap::new(),
        launches: Vec::new(),
    };
    let emulator = Arc::new(Emulator { module, kernels, options, sample, state: Mutex::new(state) });
    Ok((Opened { device: Arc::clone(&emulator) as Arc<dyn Device>, target: index }, emulator))
}

fn kernels(manifest: &Manifest, target: &Target) -> Vec<Kernel> {
    let kernel = |(index, kernel): (usize, &package::Kernel)| {
        let launches: Vec<_> = target.launches().filter(|launch| launch.kernel as usize == index).collect();
        let given = |launch: &package::Launch, param: usize| manifest.buffers.get(launch.args.get(param)?.buffer()?);
        let name = |param: usize| {
            let mut names: Vec<&str> = launches.iter().filter_map(|launch| Some(given(launch, param)?.name.as_str())).collect();
            names.dedup();
            names.join("|")
        };
        let params = 0..kernel.params.len();
        let all = || launches.iter().flat_map(|launch| params.clone().filter_map(|param| given(launch, param)));
        let is_inner = all().all(|buffer| buffer.role == Role::Workspace);
        let has_integers = all().any(|buffer| buffer.dtype == DType::I32);
        let is_in = |launches: &[package::Launch]| launches.iter().any(|launch| launch.kernel as usize == index);
        let (is_update, prepares) = (is_in(&target.update), is_in(&target.prepare));
        let is_read = |param: usize| {
            let roles = launches.iter().filter_map(|launch| Some(given(launch, param)?.role));
            let is_read = |role: Role| match role {
                Role::Input | Role::Weight => true,
                Role::Prepared => !prepares,
                Role::Output | Role::Workspace => false,
            };
            !is_update && roles.clone().count() > 0 && roles.clone().all(is_read)
        };
        Kernel {
            symbol: kernel.symbol.clone(),
            threads: kernel.threads,
            dynamic_shared_bytes: kernel.dynamic_shared_bytes,
            is_sampled: !(is_inner && has_integers),
            names: params.clone().map(name).collect(),
            only_read: params.clone().map(is_read).collect(),
        }
    };
    target.kernels.iter().enumerate().map(kernel).collect()
}

impl Emulator {
    /// The launches since the last call, in order.
    pub fn take_launches(&self) -> Vec<Emulated> {
        std::mem::take(&mut self.state().launches)
    }

    /// Says what the tensor that starts at `address` holds from now on: bytes made when they are touched, for tensors that
    /// are too large to exist.
    pub fn provide(&self, address: u64, content: Procedure) {
        let mut state = self.state();
        state.contents.insert(address, content);
        if let Some(former) = state.tensors.remove(&address) {
            // A buffer that is already gone needs no freeing.
            let _ = state.memory.free(former.buffer);
        }
    }

    /// A hash of all that was touched in a range, places and bytes.
    pub fn fingerprint(&self, address: u64, bytes: u64) -> u64 {
        let state = self.state();
        let mut hash = DefaultHasher::new();
        for (start, tensor) in state.named(address, bytes) {
            (start - address.min(start)).hash(&mut hash);
            // A tensor that is listed is there.
            state.memory.touched(tensor.buffer).unwrap_or_default().hash(&mut hash);
        }
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
        let (buffer, offset) = state.tensor(address, bytes).ok()?;
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
    /// The tensor that holds this range, and how far in it starts. Where there is none, one is made, and those that it
    /// overlaps are given up: the caller uses the memory for something else.
    fn tensor(&mut self, address: u64, bytes: u64) -> Result<(Buffer, u64), Error> {
        if let Some((start, tensor)) = self.tensors.range(..=address).next_back()
            && address - start + bytes <= tensor.bytes
        {
            return Ok((tensor.buffer, address - start));
        }
        let dirt = self.region(address, bytes)?;
        for (start, tensor) in self.named(address, bytes) {
            self.tensors.remove(&start);
            self.memory.free(tensor.buffer).map_err(refused)?;
        }
        let fill = self.contents.get(&address).map_or(Fill::Uninitialised(dirt), |content| Fill::Procedure(Arc::clone(content)));
        let buffer = self.memory.alloc(&format!("tensor@{address:#x}"), bytes, fill).map_err(refused)?;
        self.tensors.insert(address, Tensor { bytes, buffer });
        Ok((buffer, 0))
    }

    /// The address of a range that a kernel is given, whose tensor is called this from now on.
    fn given(&mut self, address: u64, bytes: u64, name: &str, only_read: bool) -> Result<u64, Error> {
        let (buffer, offset) = self.tensor(address, bytes)?;
        self.memory.rename(buffer, name).map_err(refused)?;
        self.memory.set_read_only(buffer, only_read).map_err(refused)?;
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
            state.contents.retain(|start, _| *start < address || *start - address >= bytes);
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
        let (buffer, offset) = state.tensor(address, from.len() as u64)?;
        state.memory.write(buffer, offset, from).map_err(refused)
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut state = self.state();
        let (buffer, offset) = state.tensor(address, into.len() as u64)?;
        state.memory.read(buffer, offset, into).map_err(refused)
    }

    fn launch(&self, kernel: usize, blocks: u64, args: &[Argument]) -> Result<(), Error> {
        let Some(Kernel { symbol, threads, dynamic_shared_bytes, is_sampled, names, only_read }) = self.kernels.get(kernel)
        else {
            return Err(refused("there is no such kernel"));
        };
        let grid = u32::try_from(blocks).ok().filter(|n| *n <= i32::MAX as u32);
        let value = i64::try_from(blocks).unwrap_or(i64::MAX);
        let grid = grid.ok_or_else(|| Error::LaunchRange { kernel: symbol.clone(), what: "the grid".into(), value })?;
        let mut state = self.state();
        let mut packed = Vec::with_capacity(args.len());
        for ((arg, name), only_read) in args.iter().zip(names).zip(only_read) {
            packed.push(match arg {
                Argument::Memory { bytes: 0, .. } => Arg::U64(0),
                Argument::Memory { address, bytes } => Arg::U64(state.given(*address, *bytes, name, *only_read)?),
                Argument::Map { address, bytes, map } => {
                    let address = state.given(*address, *bytes, name, *only_read)?;
                    Arg::Bytes(encoded(map, address).encode().map_err(refused)?.to_vec())
                }
                Argument::I32(value) => Arg::I32(*value),
                Argument::I64(value) => Arg::U64(value.cast_unsigned()),
            });
        }
        let entry = self.module.entry(symbol).ok_or_else(|| refused("the PTX has no such kernel"))?;
        let args = entry.pack(&state.memory, &packed).map_err(refused)?;
        let shape = Launch { grid: [grid, 1, 1], block: [*threads, 1, 1], shared_bytes: *dynamic_shared_bytes, args };
        let chosen = if *is_sampled { self.sample.blocks(blocks) } else { Blocks::All };
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
