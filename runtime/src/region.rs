//! Memory on a device: given by the device, lent by the caller, or a part of a mapped file.
#![allow(unsafe_code, reason = "memory of the caller is an address and a promise")]

use std::sync::Arc;

use crate::device::{Device, Kept};
use crate::error::Error;
use crate::tensor::Mapped;

/// Memory on a device. What the device gave is given back when this is dropped; what the caller lent is left alone.
#[derive(Debug)]
pub struct Region {
    device: Arc<dyn Device>,
    address: u64,
    bytes: u64,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    /// The device gave it and takes it back. Kernels may still find what `Kept` keeps if the device was told to free it by
    /// others.
    Device(#[expect(dead_code, reason = "keeps the memory")] Option<Kept>),
    Caller,
    /// A part of a file, which is only read.
    File(Mapped),
}

impl Region {
    /// `bytes` of memory on `device`, their content undefined; 0 bytes take none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(device: &Arc<dyn Device>, bytes: u64) -> Result<Region, Error> {
        let address = if bytes == 0 { 0 } else { device.alloc(bytes)? };
        Ok(Region { device: Arc::clone(device), address, bytes, owner: Owner::Device(device.keep(address)) })
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

    /// Memory of the caller: `bytes` from `address`, as the device counts addresses (on the host a pointer, on a GPU a
    /// device pointer). Nothing is allocated, copied or freed, now or when the region is dropped. A run checks that it is
    /// long enough and aligned.
    ///
    /// # Safety
    /// * While the region lives, and until the work is done that was started on it, the range is memory that `device` can
    ///   read: one allocation, its bytes initialised. Where the region is an output or a workspace, or is filled or copied
    ///   to, it can be written too.
    /// * Meanwhile nothing else writes it, and nothing else reads it while it is written.
    #[must_use]
    pub unsafe fn foreign(device: &Arc<dyn Device>, address: u64, bytes: u64) -> Region {
        Region { device: Arc::clone(device), address, bytes, owner: Owner::Caller }
    }

    /// A part of a mapped file where it lies. The device works on memory of this process and does not write it.
    pub(crate) fn mapped(device: &Arc<dyn Device>, part: Mapped) -> Region {
        let address = part.as_ptr().expose_provenance() as u64;
        Region { device: Arc::clone(device), address, bytes: part.len() as u64, owner: Owner::File(part) }
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

    /// As [`Region::is_on`], for a device that looks at what it is given.
    pub(crate) fn is_of<D>(&self, device: &D) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.device), device)
    }

    /// Writes `value` to every byte.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn fill(&mut self, value: u8) -> Result<(), Error> {
        match self.pointer() {
            _ if self.bytes == 0 => Ok(()),
            // SAFETY: the contract of `foreign`: `bytes` from the pointer can be written, and nothing else uses them.
            Some(start) => unsafe {
                start.write_bytes(value, self.bytes as usize);
                Ok(())
            },
            None => self.writable()?.fill(self.address, self.bytes, value),
        }
    }

    /// Copies `from` to `offset` bytes from its start.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::Device`].
    pub fn copy_in(&mut self, offset: u64, from: &[u8]) -> Result<(), Error> {
        self.holds(offset, from.len() as u64)?;
        match self.pointer() {
            _ if from.is_empty() => Ok(()),
            // SAFETY: as in `fill`, and the range lies within the region. `copy` allows the ranges to overlap.
            Some(start) => unsafe {
                start.add(offset as usize).copy_from(from.as_ptr(), from.len());
                Ok(())
            },
            None => self.writable()?.copy_in(self.address + offset, from),
        }
    }

    /// Copies what lies `offset` bytes from its start.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::Device`].
    pub fn copy_out(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.holds(offset, into.len() as u64)?;
        match (self.pointer(), &self.owner) {
            _ if into.is_empty() => Ok(()),
            // SAFETY: the contract of `foreign`: the bytes can be read, and nothing writes them meanwhile.
            (Some(start), _) => unsafe {
                start.add(offset as usize).copy_to(into.as_mut_ptr(), into.len());
                Ok(())
            },
            (None, Owner::File(part)) => {
                into.copy_from_slice(&part[offset as usize..][..into.len()]);
                Ok(())
            }
            (None, Owner::Device(_) | Owner::Caller) => self.device.copy_out(self.address + offset, into),
        }
    }

    /// Where memory of the caller starts that is memory of this process; the device knows what it gave itself, and the driver
    /// of a GPU its own.
    fn pointer(&self) -> Option<*mut u8> {
        match self.owner {
            Owner::Caller if self.device.shares_memory() => Some(std::ptr::with_exposed_provenance_mut(self.address as usize)),
            Owner::Caller | Owner::Device(_) | Owner::File(_) => None,
        }
    }

    /// The device, to write to.
    fn writable(&self) -> Result<&Arc<dyn Device>, Error> {
        match self.owner {
            Owner::Device(_) | Owner::Caller => Ok(&self.device),
            Owner::File(_) => {
                Err(Error::Device { call: "writing memory", why: "a mapped file is only read".into(), sticky: false })
            }
        }
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
        match self.owner {
            Owner::Device(_) if self.bytes != 0 => self.device.free(self.address),
            Owner::Device(_) | Owner::Caller | Owner::File(_) => {}
        }
    }
}
