//! Memory of the host device. Large memory is in large pages, and what is copied into it by all threads lies on the nodes of all:
//! a page is placed where the thread runs that first writes it.
#![allow(unsafe_code, reason = "memory is addresses")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{self, NonNull};

use memmap2::MmapMut;

use super::parallel::Parallel;
use super::together::{self, Blocks};
use crate::error::Error;
use crate::package::WORKSPACE_ALIGN;

/// From so many bytes on memory is large.
const LARGE: usize = 4 << 20;
/// A large page, where the system has them; what one thread copies at a time.
const PAGE: usize = 2 << 20;

/// One allocation, zeroed. Regions and launches share it, so that freeing it under them only lets go of it.
#[derive(Debug)]
pub(super) struct Block {
    start: NonNull<u8>,
    bytes: usize,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Heap(Layout),
    /// Pages of its own, a large page longer than the block, which begins at the first multiple of that.
    Pages(#[expect(dead_code, reason = "keeps the memory")] MmapMut),
}

// SAFETY: a block is memory, not tied to a thread. Access to its bytes is ordered by the users of `Device`: copies go
// through `&mut Region` or `&Region`, and `Device::launch` leaves races between launches to its caller.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// At least 1 byte; `None` where there is no room.
    pub(super) fn new(bytes: usize) -> Option<Block> {
        if bytes >= LARGE {
            return Block::of_pages(bytes);
        }
        let layout = Layout::from_size_align(bytes, WORKSPACE_ALIGN as usize).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Block { start, bytes, owner: Owner::Heap(layout) })
    }

    fn of_pages(bytes: usize) -> Option<Block> {
        let mut pages = MmapMut::map_anon(bytes.checked_add(PAGE)?).ok()?;
        // A system without large pages has small ones.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        let first = pages.as_mut_ptr();
        let start = NonNull::new(first.wrapping_add(first.align_offset(PAGE)))?;
        Some(Block { start, bytes, owner: Owner::Pages(pages) })
    }

    /// Where it starts: a multiple of [`WORKSPACE_ALIGN`].
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match self.owner {
            // SAFETY: `start` came from `alloc_zeroed` with this layout, and a block is dropped once.
            Owner::Heap(layout) => unsafe { dealloc(self.start.as_ptr(), layout) },
            Owner::Pages(_) => {}
        }
    }
}

/// Copies `from` to `to`, where it is large by all threads. The ranges may overlap.
///
/// # Errors
/// [`Error::Device`] where `parallel` called nothing.
///
/// # Safety
/// `from.len()` bytes at `to` are memory that nothing else uses meanwhile.
pub(super) unsafe fn copy(parallel: &dyn Parallel, to: *mut u8, from: &[u8]) -> Result<(), Error> {
    let overlap = to.addr().abs_diff(from.as_ptr().addr()) < from.len();
    if from.len() < LARGE || overlap {
        // SAFETY: as the caller promises; `copy` allows the ranges to overlap.
        unsafe { to.copy_from(from.as_ptr(), from.len()) };
        return Ok(());
    }
    let pieces = Pieces { to: to.expose_provenance(), from };
    together::run(parallel, &pieces, 1, pieces.count(0))
}

/// A copy in pieces of a page.
struct Pieces<'f> {
    /// An address whose provenance is exposed.
    to: usize,
    from: &'f [u8],
}

impl Blocks for Pieces<'_> {
    fn count(&self, _: usize) -> u64 {
        self.from.len().div_ceil(PAGE) as u64
    }

    fn run(&self, _: usize, shares: &mut dyn Iterator<Item = (u64, u64)>) {
        for (begin, end) in shares {
            let bytes = begin as usize * PAGE..self.from.len().min(end as usize * PAGE);
            let to = ptr::with_exposed_provenance_mut::<u8>(self.to + bytes.start);
            // SAFETY: the piece lies in the range of `copy`, which does not overlap `from`, and no other share has it.
            unsafe { to.copy_from_nonoverlapping(self.from[bytes.clone()].as_ptr(), bytes.len()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::threads::Threads;
    use super::*;

    fn bytes(block: &Block) -> &[u8] {
        // SAFETY: all of it was zeroed at least.
        unsafe { std::slice::from_raw_parts(block.start(), block.bytes()) }
    }

    #[test]
    fn memory_is_aligned_and_zeroed() {
        for (size, align) in
            [(1, WORKSPACE_ALIGN as usize), (LARGE - 1, WORKSPACE_ALIGN as usize), (LARGE, PAGE), (LARGE + 7, PAGE)]
        {
            let block = Block::new(size).unwrap();
            assert!(block.start().addr().is_multiple_of(align), "{size}");
            assert!(block.bytes() == size && bytes(&block).iter().all(|byte| *byte == 0), "{size}");
        }
        for none in [0, isize::MAX as usize, usize::MAX] {
            assert!(Block::new(none).is_none(), "{none}");
        }
    }

    #[test]
    fn pieces_make_the_whole() {
        let from: Vec<u8> = (0..LARGE + PAGE + 12_345).map(|i| ((i * 2_654_435_761) >> 16) as u8).collect();
        for threads in [1, 2, 5] {
            let threads = Threads::new(threads).unwrap();
            for size in [1, LARGE - 1, LARGE, LARGE + 1, from.len()] {
                let block = Block::new(from.len()).unwrap();
                // SAFETY: the block is as long, and this test's own.
                unsafe { copy(&threads, block.start(), &from[..size]) }.unwrap();
                assert!(bytes(&block)[..size] == from[..size], "{size}");
                assert!(bytes(&block)[size..].iter().all(|byte| *byte == 0), "{size}");
            }
        }
        let block = Block::new(from.len()).unwrap();
        let threads = Threads::new(2).unwrap();
        // SAFETY: the ranges lie in the block, and are bytes.
        unsafe {
            copy(&threads, block.start(), &from).unwrap();
            let within = std::slice::from_raw_parts(block.start(), from.len() - 1);
            copy(&threads, block.start().add(1), within).unwrap();
        }
        assert!(bytes(&block)[1..] == from[..from.len() - 1], "an overlap");
    }
}
