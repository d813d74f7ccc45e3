//! What a layer asks of a device. No device lives here: see `host` and `cuda`; an emulator implements the same trait
//! elsewhere. Memory of a device is in `region`.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::Error;
use crate::package::{TargetKind, TensorMap};
pub use crate::region::Region;

/// A device with the kernels of one target loaded. All methods may be called from any thread; a device that is lost
/// answers with a sticky [`Error::Device`].
pub trait Device: Send + Sync + fmt::Debug {
    /// What to call it in a message: `NVIDIA H200`, `host, 8 threads`.
    fn name(&self) -> String;

    /// `bytes` (at least 1) of memory, at an address that is a multiple of [`crate::package::WORKSPACE_ALIGN`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; nothing is lost, and a smaller request may succeed.
    fn alloc(&self, bytes: u64) -> Result<u64, Error>;

    /// Gives back what `alloc` gave. A kernel that still runs on it keeps it until it ends.
    fn free(&self, address: u64);

    /// Writes `value` to every byte.
    ///
    /// # Errors
    /// [`Error::Device`] where the device fails or the range is not its own.
    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error>;

    /// Copies from host memory.
    ///
    /// # Errors
    /// As [`Device::fill`].
    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error>;

    /// Copies to host memory.
    ///
    /// # Errors
    /// As [`Device::fill`].
    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error>;

    /// Starts blocks of a kernel, after all that was started before, but for what [`Start::early`] allows. The
    /// kernel is trusted to stay inside its arguments; running two at once on memory that one of them writes is a race.
    ///
    /// # Errors
    /// [`Error::Device`] where it cannot start; [`Error::LaunchRange`] where the device has no such grid.
    fn launch(&self, start: Start, args: &[Argument]) -> Result<(), Error>;

    /// Waits for all that was started.
    ///
    /// # Errors
    /// [`Error::Device`] where any of it failed.
    fn sync(&self) -> Result<(), Error>;

    /// As [`Device::launch`] of each, one after another, on `stream` and on memory that regions keep, so that nothing has to be looked
    /// up: the host and the GPU allocate nothing here, take no lock and wait for nothing (on the host the caller's thread is one of
    /// those that work). By default this is [`Device::launch`], which has the device's own order alone.
    ///
    /// # Errors
    /// As [`Device::launch`], and [`Error::NoStream`] where the device has no such stream.
    fn enqueue(&self, launches: &dyn Launches, stream: Stream) -> Result<(), Error> {
        stream.default_only()?;
        (0..launches.count()).try_for_each(|launch| {
            let args: Vec<Argument> = (0..launches.args(launch)).map(|arg| launches.arg(launch, arg).argument()).collect();
            self.launch(launches.start(launch), &args)
        })
    }

    /// Whether its addresses are pointers of this process, so that it can work on memory of the process where it lies.
    fn shares_memory(&self) -> bool {
        false
    }

    /// What keeps the memory that [`Device::alloc`] gave at this address beyond [`Device::free`]; `None` where the device
    /// sees to that itself.
    fn keep(&self, address: u64) -> Option<Kept> {
        let _ = address;
        None
    }
}

/// Launches that follow each other, and what they are given. Threads of a device may ask at the same time.
pub trait Launches: Sync {
    /// How many launches there are.
    fn count(&self) -> usize;

    /// What a launch starts.
    fn start(&self, launch: usize) -> Start;

    /// How many arguments it has, at most [`PARAMS_MAX`](crate::package::PARAMS_MAX).
    fn args(&self, launch: usize) -> usize;

    /// One of them.
    fn arg(&self, launch: usize, arg: usize) -> Given<'_>;
}

/// What is started, but for its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Index of the kernel among the target's.
    pub kernel: usize,
    /// How many blocks, at least 1.
    pub blocks: u64,
    /// Whether it may begin before the launch before it on the same stream has ended, as its kernel was compiled for. A device may let
    /// it wait all the same.
    pub early: bool,
    /// Which blocks have work; none: all may have. A device may start the others all the same.
    pub working: Option<Working>,
}

/// The blocks of a launch that have work: the first ones, as many as a number in memory says when the launch begins, times `each`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Working {
    /// Index of the argument that is the memory, at least four bytes, of which the first are an i32.
    pub argument: usize,
    /// Blocks for each that is counted.
    pub each: u64,
    /// Whether blocks for one that is counted may begin when those of the launch before it for the same one, and for those before, have ended.
    /// A device may let them wait for all.
    pub follows: bool,
}

/// Keeps memory while it lives.
pub type Kept = Arc<dyn Any + Send + Sync>;

/// In which order work is done on a device: each launch on a stream after those before it on the same stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream(usize);

impl Stream {
    /// The device's own order; of a GPU the default stream of its primary context.
    pub const DEFAULT: Stream = Stream(0);

    /// A `CUstream` of the caller, of the primary context of the layer's GPU. Null is [`Stream::DEFAULT`].
    ///
    /// A graph may be captured from it, once the layer is bound: a run of a plan enqueues kernels and nothing else.
    ///
    /// # Safety
    /// The stream is valid while runs are given it. What a run was given (its regions, the bound layer) lives until the
    /// stream has done the run's work; where a graph was captured, until the graph is destroyed.
    #[must_use]
    #[allow(unsafe_code, reason = "that the stream is one cannot be checked")]
    pub unsafe fn cuda(stream: *mut c_void) -> Stream {
        Stream(stream.expose_provenance())
    }

    /// The stream as the driver takes it; null is the default stream.
    #[must_use]
    pub fn as_ptr(self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.0)
    }

    /// That this is the default stream, for devices that have no other.
    ///
    /// # Errors
    /// [`Error::NoStream`].
    pub fn default_only(self) -> Result<(), Error> {
        if self == Stream::DEFAULT { Ok(()) } else { Err(Error::NoStream) }
    }
}

/// An argument of a launch whose memory a region keeps.
#[derive(Clone, Copy, Debug)]
pub enum Given<'r> {
    /// A part of a region, within its length.
    Memory {
        /// Index into [`Manifest::buffers`](crate::package::Manifest::buffers).
        buffer: usize,
        /// The region, of the device that is asked.
        region: &'r Region,
        /// Bytes from the start of the region.
        offset: u64,
        /// The part's length.
        bytes: u64,
    },
    /// A tensor map of a part of a region.
    Map {
        /// Index into [`Manifest::buffers`](crate::package::Manifest::buffers).
        buffer: usize,
        /// The region, of the device that is asked.
        region: &'r Region,
        /// Bytes from the start of the region.
        offset: u64,
        /// The part's length.
        bytes: u64,
        /// The tensor, which lies in the part.
        map: Map,
    },
    /// A 32-bit scalar.
    I32(i32),
    /// A 64-bit scalar.
    I64(i64),
}

/// A tensor map, all but the address of its tensor: what the driver encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// What the kernel knows of it.
    pub of: TensorMap,
    /// Extents, outermost first, each 1 to 2^32.
    pub extents: [u64; 3],
    /// Bytes from one index to the next of the outer two dimensions: multiples of 16, below 2^40.
    pub strides: [u64; 2],
}

impl Given<'_> {
    /// The argument without what keeps it.
    #[must_use]
    pub fn argument(self) -> Argument {
        match self {
            Given::Memory { buffer, region, offset, bytes } => {
                Argument::Memory { buffer, address: region.address() + offset, bytes }
            }
            Given::Map { buffer, region, offset, bytes, map } => {
                Argument::Map { buffer, address: region.address() + offset, bytes, map }
            }
            Given::I32(value) => Argument::I32(value),
            Given::I64(value) => Argument::I64(value),
        }
    }

    /// Whether the argument is a scalar, or lies within a region of this device.
    #[must_use]
    pub fn is_held_by<D>(&self, device: &D) -> bool {
        match self {
            Given::Memory { region, offset, bytes, .. } | Given::Map { region, offset, bytes, .. } => {
                region.is_of(device) && offset.checked_add(*bytes).is_some_and(|end| end <= region.bytes())
            }
            Given::I32(_) | Given::I64(_) => true,
        }
    }
}

/// A kernel argument, its formula evaluated and its buffer placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A buffer.
    Memory {
        /// Index into [`Manifest::buffers`](crate::package::Manifest::buffers).
        buffer: usize,
        /// Where it starts.
        address: u64,
        /// Its length.
        bytes: u64,
    },
    /// A tensor map.
    Map {
        /// Index into [`Manifest::buffers`](crate::package::Manifest::buffers).
        buffer: usize,
        /// Where the part of memory starts that the tensor lies in, and the tensor.
        address: u64,
        /// The part's length.
        bytes: u64,
        /// The tensor.
        map: Map,
    },
    /// A 32-bit scalar.
    I32(i32),
    /// A 64-bit scalar.
    I64(i64),
}

impl Argument {
    /// The argument in 64 bits: an address (of a map that of its tensor), or a sign-extended scalar.
    #[must_use]
    pub fn word(self) -> u64 {
        match self {
            Argument::Memory { address, .. } | Argument::Map { address, .. } => address,
            Argument::I32(value) => i64::from(value).cast_unsigned(),
            Argument::I64(value) => value.cast_unsigned(),
        }
    }
}

/// A device opened on a package: which of the package's targets it runs.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The device, the target's kernels loaded.
    pub device: Arc<dyn Device>,
    /// Index into the manifest's targets.
    pub target: usize,
}

/// The most threads that a host device may be asked for. Every one is started and has a stack of its own, and more than a
/// machine has CPUs make nothing faster; the largest machines have fewer.
pub const MAX_THREADS: usize = 1024;

/// A device that this crate can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The CPU; the thread that runs a layer works too.
    Host {
        /// How many threads, 1 to [`MAX_THREADS`], that of the caller among them; others are [`Error::Threads`]. `None`: as
        /// many as rayon's pool has, shared by all layers of the process. Results do not depend on it. For threads of the
        /// caller see [`crate::host::open_on`].
        threads: Option<usize>,
    },
    /// An NVIDIA GPU.
    Cuda {
        /// Its number, as the driver counts.
        ordinal: u32,
    },
}

impl DeviceKind {
    /// The kind of target that it runs.
    #[must_use]
    pub fn target_kind(self) -> TargetKind {
        match self {
            DeviceKind::Host { .. } => TargetKind::Host,
            DeviceKind::Cuda { .. } => TargetKind::Gpu,
        }
    }
}

impl FromStr for DeviceKind {
    type Err = Error;

    /// `host`, `cuda` (the first) or `cuda:N`.
    fn from_str(name: &str) -> Result<DeviceKind, Error> {
        let unknown = || Error::UnknownDevice { name: name.into() };
        match name {
            "host" => Ok(DeviceKind::Host { threads: None }),
            "cuda" => Ok(DeviceKind::Cuda { ordinal: 0 }),
            _ => {
                let ordinal = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                Ok(DeviceKind::Cuda { ordinal: ordinal.parse().map_err(|_| unknown())? })
            }
        }
    }
}
