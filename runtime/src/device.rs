//! What a layer asks of a device, and memory that lives on one. No device lives here: see `host` and `cuda`; an emulator
//! implements the same trait elsewhere.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::Error;
use crate::package::TargetKind;

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

    /// Starts `blocks` (at least 1) of the target's kernel at index `kernel`, after all that was started before. The
    /// kernel is trusted to stay inside its arguments; running two at once on memory that one of them writes is a race.
    ///
    /// # Errors
    /// [`Error::Device`] where it cannot start; [`Error::LaunchRange`] where the device has no such grid.
    fn launch(&self, kernel: usize, blocks: u64, args: &[Argument]) -> Result<(), Error>;

    /// Waits for all that was started.
    ///
    /// # Errors
    /// [`Error::Device`] where any of it failed.
    fn sync(&self) -> Result<(), Error>;
}

/// A kernel argument, its formula evaluated and its buffer placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A buffer.
    Memory {
        /// Where it starts.
        address: u64,
        /// Its length.
        bytes: u64,
    },
    /// A 32-bit scalar.
    I32(i32),
    /// A 64-bit scalar.
    I64(i64),
}

impl Argument {
    /// The argument in 64 bits: an address, or a sign-extended scalar.
    #[must_use]
    pub fn word(self) -> u64 {
        match self {
            Argument::Memory { address, .. } => address,
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
    /// The CPU; on `threads` of its own, or on rayon's global pool.
    Host {
        /// How many threads, 1 to [`MAX_THREADS`]; others are [`Error::Threads`]. Results do not
        /// depend on it.
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

/// Memory on a device, given back when dropped.
#[derive(Debug)]
pub struct Region {
    device: Arc<dyn Device>,
    address: u64,
    bytes: u64,
}

impl Region {
    /// `bytes` of memory on `device`, their content undefined; 0 bytes take none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(device: &Arc<dyn Device>, bytes: u64) -> Result<Region, Error> {
        let address = if bytes == 0 { 0 } else { device.alloc(bytes)? };
        Ok(Region { device: Arc::clone(device), address, bytes })
    }

    /// Memory on `device` that holds these bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn of(device: &Arc<dyn Device>, from: &[u8]) -> Result<Region, Error> {
        let mut region = Region::new(device, from.len() as u64)?;
        region.copy_in(0, from)?;
        Ok(region)
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it starts; 0 where it has no bytes.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Whether it lies on `device`.
    #[must_use]
    pub fn is_on(&self, device: &Arc<dyn Device>) -> bool {
        Arc::ptr_eq(&self.device, device)
    }

    /// Writes `value` to every byte.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn fill(&mut self, value: u8) -> Result<(), Error> {
        if self.bytes == 0 { Ok(()) } else { self.device.fill(self.address, self.bytes, value) }
    }

    /// Copies `from` to `offset` bytes from its start.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::Device`].
    pub fn copy_in(&mut self, offset: u64, from: &[u8]) -> Result<(), Error> {
        self.holds(offset, from.len() as u64)?;
        if from.is_empty() { Ok(()) } else { self.device.copy_in(self.address + offset, from) }
    }

    /// Copies what lies `offset` bytes from its start.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::Device`].
    pub fn copy_out(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.holds(offset, into.len() as u64)?;
        if into.is_empty() { Ok(()) } else { self.device.copy_out(self.address + offset, into) }
    }

    fn holds(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            end => Err(Error::TooShort { name: "region".into(), needed: end.unwrap_or(u64::MAX), actual: self.bytes }),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.bytes != 0 {
            self.device.free(self.address);
        }
    }
}
