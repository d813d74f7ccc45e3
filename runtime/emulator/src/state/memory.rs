//! Global memory: named buffers with guard gaps, pages that come into being when touched, and a bit for every byte
//! that says whether it is written.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::state::clocks::Cell;

/// Bytes of a page. Small enough for many tiny buffers, large enough that hot loops stay on one.
pub(crate) const PAGE: u64 = 16 << 10;
/// The first buffer's address: far from zero, so that small offsets from a null pointer hit nothing.
const FIRST: u64 = 0x10_0000_0000;
/// At least this many bytes between two buffers belong to neither.
const GUARD: u64 = 64 << 10;
/// Addresses are multiples of this and of no more, as a driver may hand them out.
const ALIGN: u64 = 256;
/// The end of the addresses that buffers can have: below the windows of shared and local memory.
const LAST: u64 = 0x6fff_ffff_ffff;
/// Bytes that memory moves at least.
pub(crate) const SECTOR: usize = 32;
/// Buffers with more pages than this keep those that were touched in a map.
const TABLE_LIMIT: u64 = 1 << 14;

/// A buffer of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer(u32);

/// Produces the bytes of a buffer from the offset they start at.
pub type Procedure = Arc<dyn Fn(u64, &mut [u8]) + Send + Sync>;

/// What a buffer holds before it is written.
#[derive(Clone)]
pub enum Fill {
    /// This byte everywhere, and reading it is reported: it was never written.
    Uninitialised(u8),
    /// This byte everywhere, as real content.
    Byte(u8),
    /// Content made on demand, page by page: for buffers too large to exist.
    Procedure(Procedure),
}

impl fmt::Debug for Fill {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fill::Uninitialised(byte) => write!(out, "Uninitialised({byte:#04x})"),
            Fill::Byte(byte) => write!(out, "Byte({byte:#04x})"),
            Fill::Procedure(_) => out.write_str("Procedure"),
        }
    }
}

/// Why the host could not use a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The buffer was freed or belongs to another memory.
    NoSuchBuffer,
    /// The address belongs to no buffer.
    NoSuchAddress(u64),
    /// The range does not lie within the buffer.
    OutOfRange {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        bytes: u64,
        /// The buffer's size.
        size: u64,
    },
    /// There are no addresses left for so large a buffer.
    TooLarge(u64),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryError::NoSuchBuffer => out.write_str("no such buffer"),
            MemoryError::NoSuchAddress(address) => write!(out, "address {address:#x} belongs to no buffer"),
            MemoryError::OutOfRange { offset, bytes, size } => {
                write!(out, "bytes {offset} to {} of a buffer of {size} bytes", offset.saturating_add(*bytes))
            }
            MemoryError::TooLarge(bytes) => write!(out, "a buffer of {bytes} bytes does not fit the address space"),
        }
    }
}

impl std::error::Error for MemoryError {}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) data: Vec<u8>,
    /// One bit a byte.
    pub(crate) init: Vec<u8>,
    /// One cell for each 4 bytes; empty until a launch touches the page.
    pub(crate) cells: Vec<Cell>,
    /// The launch that the cells belong to.
    pub(crate) launch: u64,
    /// How each 4 bytes were used by the launches before that one that may still run with it; empty if they were not.
    pub(crate) before: Vec<Used>,
}

/// What launches did with 4 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) read: bool,
    pub(crate) written: bool,
}

impl Used {
    fn also(&mut self, other: Used) {
        self.read |= other.read;
        self.written |= other.written;
    }
}

/// What launches that may still run did with a part of a buffer, at most a page.
#[derive(Clone, Debug)]
struct Part {
    /// The last of them.
    launch: u64,
    used: Vec<Used>,
}

/// How launches that may still run used a buffer.
#[derive(Clone, Debug)]
pub struct Uses(Vec<(u64, Part)>);

impl Page {
    /// Makes the cells those of a launch, which begins when those from `chain` on may still run.
    #[inline]
    pub(crate) fn enter(&mut self, launch: u64, chain: u64) {
        if self.launch == launch {
            return;
        }
        if self.launch < chain {
            self.before.clear();
        } else {
            self.before = self.used();
        }
        self.launch = launch;
        self.cells.clear();
        self.cells.resize(self.data.len().div_ceil(4), Cell::default());
    }

    /// How the launch of the cells and those before it used each 4 bytes.
    fn used(&self) -> Vec<Used> {
        let mut all = self.before.clone();
        all.resize(self.data.len().div_ceil(4), Used::default());
        for (used, cell) in all.iter_mut().zip(&self.cells) {
            used.also(Used { read: !cell.read.is_none(), written: !cell.write.is_none() });
        }
        all
    }
}

/// The pages that exist.
#[derive(Debug)]
enum Pages {
    Table(Vec<Option<Box<Page>>>),
    Map(HashMap<u64, Box<Page>>),
}

impl Pages {
    fn new(count: u64) -> Pages {
        if count <= TABLE_LIMIT { Pages::Table((0..count).map(|_| None).collect()) } else { Pages::Map(HashMap::new()) }
    }

    /// By rising index.
    fn existing(&self) -> Vec<(u64, &Page)> {
        match self {
            Pages::Table(table) => (0..).zip(table).filter_map(|(index, page)| Some((index, page.as_deref()?))).collect(),
            Pages::Map(map) => {
                let mut pages: Vec<(u64, &Page)> = map.iter().map(|(index, page)| (*index, &**page)).collect();
                pages.sort_unstable_by_key(|(index, _)| *index);
                pages
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) name: String,
    pub(crate) base: u64,
    pub(crate) size: u64,
    fill: Fill,
    pages: Pages,
    /// How launches used the memory of pages that do not exist yet, as other buffers.
    inherited: HashMap<u64, Part>,
    pub(crate) freed: bool,
    pub(crate) read_only: bool,
}

impl Allocation {
    /// The page that holds this offset, which must be inside.
    pub(crate) fn page(&mut self, offset: u64) -> &mut Page {
        let (index, size, fill, inherited) = (offset / PAGE, self.size, &self.fill, &mut self.inherited);
        let make = || {
            let page = new_page(index * PAGE, size, fill);
            Box::new(match inherited.remove(&index) {
                Some(Part { launch, used }) => Page { launch, before: used, ..page },
                None => page,
            })
        };
        match &mut self.pages {
            Pages::Table(table) => table[index as usize].get_or_insert_with(make),
            Pages::Map(map) => map.entry(index).or_insert_with(make),
        }
    }
}

fn new_page(start: u64, size: u64, fill: &Fill) -> Page {
    let bytes = (size - start).min(PAGE) as usize;
    let (mut data, filled) = match fill {
        Fill::Uninitialised(byte) => (vec![*byte; bytes], 0),
        Fill::Byte(byte) => (vec![*byte; bytes], 0xff),
        Fill::Procedure(_) => (vec![0; bytes], 0xff),
    };
    if let Fill::Procedure(procedure) = fill {
        procedure(start, &mut data);
    }
    Page { data, init: vec![filled; bytes.div_ceil(8)], cells: Vec::new(), launch: 0, before: Vec::new() }
}

/// The device's memory. Buffers keep their content from launch to launch.
#[derive(Debug)]
pub struct Memory {
    allocations: Vec<Allocation>,
    next: u64,
    pub(crate) launches: u64,
    /// The last launch that began when all before it had ended.
    pub(crate) chain: u64,
    /// Where a module's variables are, by the module's fingerprint.
    pub(crate) modules: BTreeMap<u64, Vec<u64>>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Memory {
    /// A memory without buffers.
    pub fn new() -> Memory {
        Memory { allocations: Vec::new(), next: FIRST, launches: 0, chain: 0, modules: BTreeMap::new() }
    }

    /// Makes a buffer. The name is for reports. Nothing is allocated on the host until it is touched.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] where no addresses are left for it.
    pub fn alloc(&mut self, name: &str, bytes: u64, fill: Fill) -> Result<Buffer, MemoryError> {
        // An odd multiple of the alignment, so that nothing can count on more.
        let base = self.next.next_multiple_of(2 * ALIGN) + ALIGN;
        let end = base.checked_add(bytes).and_then(|end| end.checked_add(GUARD)).filter(|end| *end <= LAST);
        let end = end.ok_or(MemoryError::TooLarge(bytes))?;
        self.next = end;
        self.allocations.push(Allocation {
            name: name.to_owned(),
            base,
            size: bytes,
            fill,
            pages: Pages::new(bytes.div_ceil(PAGE)),
            inherited: HashMap::new(),
            freed: false,
            read_only: false,
        });
        Ok(Buffer(self.allocations.len() as u32 - 1))
    }

    /// A buffer with this content.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`], as [`Memory::alloc`].
    pub fn upload(&mut self, name: &str, content: &[u8]) -> Result<Buffer, MemoryError> {
        let buffer = self.alloc(name, content.len() as u64, Fill::Uninitialised(0))?;
        self.write(buffer, 0, content)?;
        Ok(buffer)
    }

    /// Gives a buffer up. Later uses of its addresses are reported by its name.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn free(&mut self, buffer: Buffer) -> Result<(), MemoryError> {
        let allocation = self.allocation_mut(buffer)?;
        allocation.freed = true;
        allocation.pages = Pages::new(0);
        allocation.inherited = HashMap::new();
        Ok(())
    }

    /// How launches that may still run when an early one begins used a buffer: for one that comes to lie where it is.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn uses(&self, buffer: Buffer) -> Result<Uses, MemoryError> {
        let pages = self.allocation(buffer)?.pages.existing();
        let recent = pages.into_iter().filter(|(_, page)| page.launch >= self.chain.max(1));
        Ok(Uses(recent.map(|(index, page)| (index * PAGE, Part { launch: page.launch, used: page.used() })).collect()))
    }

    /// Holds what a buffer is used for by early launches against how other ones used its memory, as another buffer: one of which
    /// byte `offset + n` lay where byte `n` of this one is. Before anything touches it.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn inherit(&mut self, buffer: Buffer, uses: &Uses, offset: i64) -> Result<(), MemoryError> {
        let Allocation { size, inherited, .. } = self.allocation_mut(buffer)?;
        for (start, part) in &uses.0 {
            let words = (0_i64..).step_by(4).zip(&part.used).filter(|(_, used)| used.read || used.written);
            for (byte, used) in words {
                // The bytes of a word there may be of two words here.
                let first = *start as i64 + byte - offset;
                for at in [first, first + 3].into_iter().filter_map(|at| u64::try_from(at).ok()).filter(|at| at < size) {
                    let words = (*size - at / PAGE * PAGE).min(PAGE).div_ceil(4) as usize;
                    let fresh = || Part { launch: part.launch, used: vec![Used::default(); words] };
                    let own = inherited.entry(at / PAGE).or_insert_with(fresh);
                    own.launch = own.launch.max(part.launch);
                    own.used[(at % PAGE / 4) as usize].also(*used);
                }
            }
        }
        Ok(())
    }

    fn allocation(&self, buffer: Buffer) -> Result<&Allocation, MemoryError> {
        self.allocations.get(buffer.0 as usize).filter(|found| !found.freed).ok_or(MemoryError::NoSuchBuffer)
    }

    fn allocation_mut(&mut self, buffer: Buffer) -> Result<&mut Allocation, MemoryError> {
        self.allocations.get_mut(buffer.0 as usize).filter(|found| !found.freed).ok_or(MemoryError::NoSuchBuffer)
    }

    /// The device address of a buffer.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn address(&self, buffer: Buffer) -> Result<u64, MemoryError> {
        self.allocation(buffer).map(|found| found.base)
    }

    /// The size of a buffer in bytes.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn size(&self, buffer: Buffer) -> Result<u64, MemoryError> {
        self.allocation(buffer).map(|found| found.size)
    }

    /// The buffer that an address lies in, and how far in.
    pub fn find(&self, address: u64) -> Option<(Buffer, u64)> {
        let index = self.locate(address)?;
        let found = &self.allocations[index];
        let offset = address - found.base;
        (!found.freed && offset < found.size.max(1)).then_some((Buffer(index as u32), offset))
    }

    /// Gives a buffer another name in reports.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn rename(&mut self, buffer: Buffer, name: &str) -> Result<(), MemoryError> {
        self.allocation_mut(buffer).map(|found| name.clone_into(&mut found.name))
    }

    /// The parts of a buffer that were touched, in order: where each starts, and its bytes.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn touched(&self, buffer: Buffer) -> Result<Vec<(u64, &[u8])>, MemoryError> {
        let pages = self.allocation(buffer)?.pages.existing();
        Ok(pages.into_iter().map(|(index, page)| (index * PAGE, page.data.as_slice())).collect())
    }

    /// Says whether kernels must not write to a buffer; [`Memory::write`] may.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn set_read_only(&mut self, buffer: Buffer, read_only: bool) -> Result<(), MemoryError> {
        self.allocation_mut(buffer).map(|found| found.read_only = read_only)
    }

    /// The bytes of all buffers that were not given up.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.allocations.iter().filter(|found| !found.freed).map(|found| found.size).fold(0, u64::saturating_add)
    }

    /// How many buffers there were, those that were given up included.
    pub(crate) fn buffers(&self) -> usize {
        self.allocations.len()
    }

    /// Of each buffer by its number: its name, and how many sectors a launch read and wrote.
    pub(crate) fn sectors_of(&self, launch: u64) -> impl Iterator<Item = (usize, &str, [u64; 2])> {
        let of = move |allocation: &Allocation| {
            let mut used = [0; 2];
            for (_, page) in allocation.pages.existing().into_iter().filter(|(_, page)| page.launch == launch) {
                for sector in page.cells.chunks(SECTOR / 4) {
                    used[0] += u64::from(sector.iter().any(|cell| !cell.read.is_none()));
                    used[1] += u64::from(sector.iter().any(|cell| !cell.write.is_none()));
                }
            }
            used
        };
        self.allocations.iter().enumerate().map(move |(number, found)| (number, found.name.as_str(), of(found)))
    }

    /// Puts bytes into a buffer; they count as initialised.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`], and [`MemoryError::OutOfRange`] where the range does not lie in the buffer.
    pub fn write(&mut self, buffer: Buffer, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let allocation = self.allocation_mut(buffer)?;
        check_range(allocation, offset, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let page = allocation.page(at);
            let start = (at % PAGE) as usize;
            let count = (page.data.len() - start).min(bytes.len() - done);
            page.data[start..start + count].copy_from_slice(&bytes[done..done + count]);
            for byte in start..start + count {
                page.init[byte / 8] |= 1 << (byte % 8);
            }
            done += count;
        }
        Ok(())
    }

    /// Reads bytes back.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`], and [`MemoryError::OutOfRange`] where the range does not lie in the buffer.
    pub fn read(&mut self, buffer: Buffer, offset: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let allocation = self.allocation_mut(buffer)?;
        check_range(allocation, offset, out.len() as u64)?;
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let page = allocation.page(at);
            let start = (at % PAGE) as usize;
            let count = (page.data.len() - start).min(out.len() - done);
            out[done..done + count].copy_from_slice(&page.data[start..start + count]);
            done += count;
        }
        Ok(())
    }

    /// The whole content of a buffer. Meant for buffers that fit the host.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn content(&mut self, buffer: Buffer) -> Result<Vec<u8>, MemoryError> {
        let mut out = vec![0; self.size(buffer)? as usize];
        self.read(buffer, 0, &mut out)?;
        Ok(out)
    }

    /// The first byte of a range that is not written yet.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`], and [`MemoryError::OutOfRange`] where the range does not lie in the buffer.
    pub fn first_uninitialised(&mut self, buffer: Buffer, offset: u64, bytes: u64) -> Result<Option<u64>, MemoryError> {
        let allocation = self.allocation_mut(buffer)?;
        check_range(allocation, offset, bytes)?;
        Ok((offset..offset + bytes).find(|&at| {
            let byte = (at % PAGE) as usize;
            allocation.page(at).init[byte / 8] >> (byte % 8) & 1 == 0
        }))
    }

    /// Forgets what a range holds: it has the byte everywhere, and reading it is reported again.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchBuffer`] where it was freed or is of another memory.
    pub fn poison(&mut self, buffer: Buffer, byte: u8) -> Result<(), MemoryError> {
        let allocation = self.allocation_mut(buffer)?;
        allocation.fill = Fill::Uninitialised(byte);
        allocation.pages = Pages::new(allocation.size.div_ceil(PAGE));
        Ok(())
    }

    /// Index of the last allocation that starts at or before the address.
    pub(crate) fn locate(&self, address: u64) -> Option<usize> {
        self.allocations.partition_point(|found| found.base <= address).checked_sub(1)
    }

    pub(crate) fn at(&mut self, index: usize) -> &mut Allocation {
        &mut self.allocations[index]
    }

    /// Whether an access lies wholly inside this allocation.
    #[inline]
    pub(crate) fn inside(&self, index: usize, address: u64, bytes: u32) -> bool {
        self.allocations
            .get(index)
            .is_some_and(|found| address >= found.base && address - found.base + u64::from(bytes) <= found.size && !found.freed)
    }

    /// The nearest buffer, for reports.
    pub(crate) fn describe(&self, address: u64) -> String {
        let Some(index) = self.locate(address) else {
            return format!("address {address:#x} is below every buffer");
        };
        let found = &self.allocations[index];
        let offset = address - found.base;
        if found.freed {
            format!("address {address:#x} is byte {offset} of `{}`, which was freed", found.name)
        } else if offset < found.size {
            format!("byte {offset} of `{}` ({} bytes)", found.name, found.size)
        } else if offset - found.size < GUARD {
            format!(
                "address {address:#x} is {} bytes past the end of `{}` ({} bytes)",
                offset - found.size,
                found.name,
                found.size
            )
        } else {
            format!("address {address:#x} belongs to no buffer")
        }
    }
}

fn check_range(allocation: &Allocation, offset: u64, bytes: u64) -> Result<(), MemoryError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= allocation.size => Ok(()),
        _ => Err(MemoryError::OutOfRange { offset, bytes, size: allocation.size }),
    }
}
