//! The emulator as a device: a package's PTX, executed and checked on the CPU by `ptx-emulator`. The launch path is that of
//! a GPU. What the checks found is asked for afterwards; no finding is an error by itself.
//!
//! Every tensor that a launch names is an allocation of its own to the emulator, with guard gaps around it, although the
//! workspace is one region to the caller: a kernel that leaves its tensor is found out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_emulator::{Arg, Buffer, Fill, Launch, Memory, Module, Report, launch, parse};

use crate::device::{Argument, Device, Opened};
use crate::error::Error;
use crate::package::{ImageKind, Package, TargetKind, WORKSPACE_ALIGN};

pub use ptx_emulator::{Blocks, Counters, Finding, FindingKind, Limits, Numerics, Options, Schedule};

/// How one launch went.
#[derive(Clone, Debug)]
pub struct Emulated {
    /// The kernel.
    pub symbol: String,
    /// What was found and counted.
    pub report: Report,
}

/// The device, and what its checks saw.
pub struct Emulator {
    module: Module,
    kernels: Vec<Kernel>,
    options: Options,
    state: Mutex<State>,
}

struct Kernel {
    symbol: String,
    threads: u32,
    dynamic_shared_bytes: u32,
}

struct State {
    memory: Memory,
    /// The next address that `alloc` gives. Addresses are only names here: nothing lies at them.
    next: u64,
    /// The regions that `alloc` gave, by their address: length, and the byte that untouched memory holds.
    regions: BTreeMap<u64, (u64, u8)>,
    /// The tensors that somebody named, by their address: length and where they really are.
    tensors: BTreeMap<u64, (u64, Buffer)>,
    launches: Vec<Emulated>,
}

/// What untouched memory holds unless `fill` says otherwise.
const DIRT: u8 = 0xAB;

/// The package's PTX for `target` (the first GPU target where `None`), on an emulator with these options.
///
/// # Errors
/// [`Error::NoImage`] where the package has no PTX for it, [`Error::LoadImage`] where the emulator cannot read it.
pub fn open(package: &Package, target: Option<&str>, options: Options) -> Result<(Opened, Arc<Emulator>), Error> {
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
    let module = parse(&text).map_err(|error| Error::LoadImage { why: format!("the emulator cannot read the PTX: {error}") })?;
    let kernels = manifest.targets[index].kernels.iter();
    let kernels = kernels
        .map(|k| Kernel { symbol: k.symbol.clone(), threads: k.threads, dynamic_shared_bytes: k.dynamic_shared_bytes })
        .collect();
    let state = State {
        memory: Memory::new(),
        next: WORKSPACE_ALIGN,
        regions: BTreeMap::new(),
        tensors: BTreeMap::new(),
        launches: Vec::new(),
    };
    let emulator = Arc::new(Emulator { module, kernels, options, state: Mutex::new(state) });
    Ok((Opened { device: Arc::clone(&emulator) as Arc<dyn Device>, target: index }, emulator))
}

impl Emulator {
    /// The launches since the last call, in order.
    pub fn take_launches(&self) -> Vec<Emulated> {
        std::mem::take(&mut self.state().launches)
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
    /// The tensor at this place, made if nobody named it before.
    fn tensor(&mut self, address: u64, bytes: u64) -> Result<Buffer, Error> {
        if let Some((known, buffer)) = self.tensors.get(&address)
            && *known >= bytes
        {
            return Ok(*buffer);
        }
        let fill = self.region(address, bytes)?;
        let name = format!("tensor@{address:#x}");
        let buffer = self.memory.alloc(&name, bytes, Fill::Uninitialised(fill)).map_err(refused)?;
        self.tensors.insert(address, (bytes, buffer));
        Ok(buffer)
    }

    /// What untouched memory of the region with this range holds.
    fn region(&self, address: u64, bytes: u64) -> Result<u8, Error> {
        let region = self.regions.range(..=address).next_back();
        let inside = region.filter(|(start, (len, _))| address.checked_add(bytes).is_some_and(|end| end <= *start + *len));
        inside.map(|(_, (_, fill))| *fill).ok_or_else(|| refused("the range is not memory of this device"))
    }

    /// The tensors that begin in a range.
    fn named(&self, address: u64, bytes: u64) -> Vec<(u64, u64, Buffer)> {
        let range = address..address.saturating_add(bytes);
        self.tensors.range(range).map(|(start, (len, buffer))| (*start, *len, *buffer)).collect()
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
            for (start, _, buffer) in state.named(address, bytes) {
                state.tensors.remove(&start);
                // A buffer that is already gone needs no freeing.
                let _ = state.memory.free(buffer);
            }
        }
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        let mut state = self.state();
        state.region(address, bytes)?;
        for (_, _, buffer) in state.named(address, bytes) {
            state.memory.poison(buffer, value).map_err(refused)?;
        }
        if let Some((_, fill)) = state.regions.get_mut(&address) {
            *fill = value;
        }
        Ok(())
    }

    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        let mut state = self.state();
        let buffer = state.tensor(address, from.len() as u64)?;
        state.memory.write(buffer, 0, from).map_err(refused)
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut state = self.state();
        let buffer = state.tensor(address, into.len() as u64)?;
        state.memory.read(buffer, 0, into).map_err(refused)
    }

    fn launch(&self, kernel: usize, blocks: u64, args: &[Argument]) -> Result<(), Error> {
        let Kernel { symbol, threads, dynamic_shared_bytes } =
            self.kernels.get(kernel).ok_or_else(|| refused("there is no such kernel"))?;
        let grid = u32::try_from(blocks).ok().filter(|n| *n <= i32::MAX as u32);
        let value = i64::try_from(blocks).unwrap_or(i64::MAX);
        let grid = grid.ok_or_else(|| Error::LaunchRange { kernel: symbol.clone(), what: "the grid".into(), value })?;
        let mut state = self.state();
        let mut packed = Vec::with_capacity(args.len());
        for arg in args {
            packed.push(match arg {
                Argument::Memory { bytes: 0, .. } => Arg::U64(0),
                Argument::Memory { address, bytes } => Arg::Buffer(state.tensor(*address, *bytes)?),
                Argument::I32(value) => Arg::I32(*value),
                Argument::I64(value) => Arg::U64(value.cast_unsigned()),
            });
        }
        let entry = self.module.entry(symbol).ok_or_else(|| refused("the PTX has no such kernel"))?;
        let args = entry.pack(&state.memory, &packed).map_err(refused)?;
        let shape = Launch { grid: [grid, 1, 1], block: [*threads, 1, 1], shared_bytes: *dynamic_shared_bytes, args };
        let report = launch(&self.module, symbol, &shape, &mut state.memory, &self.options).map_err(refused)?;
        let stopped = (!report.completed).then(|| report.findings.first().map(ToString::to_string).unwrap_or_default());
        state.launches.push(Emulated { symbol: symbol.clone(), report });
        match stopped {
            None => Ok(()),
            Some(why) => Err(Error::Device { call: "emulated launch", why, sticky: true }),
        }
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn refused(why: impl fmt::Display) -> Error {
    Error::Device { call: "the emulator", why: why.to_string(), sticky: false }
}
