//! The shared memory of one block: bytes, which of them were written, and which accesses conflict.

use crate::state::clocks::{AGENTS, MANY, Packed, Stamp, UNKNOWN};

/// Shared memory with its shadow.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) data: Vec<u8>,
    init: Vec<u8>,
    /// Last write of each 4 bytes.
    pub(crate) writes: Vec<Packed>,
    /// Last read of each 4 bytes by each reader: warps first, then asynchronous readers.
    reads: Vec<u32>,
    readers: usize,
}

/// A read in 32 bits: clock above, then bytes, then lane.
fn pack_read(clock: u32, mask: u8, lane: u8) -> u32 {
    clock << 10 | u32::from(mask) << 6 | u32::from(lane)
}

/// A read as it was remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) reader: u8,
    pub(crate) clock: u32,
    pub(crate) mask: u8,
    pub(crate) lane: u8,
}

fn unpack_read(reader: usize, bits: u32) -> Read {
    Read { reader: reader as u8, clock: bits >> 10, mask: (bits >> 6 & 0xf) as u8, lane: (bits & 0x3f) as u8 }
}

impl Shared {
    pub(crate) fn new(bytes: u32, readers: usize) -> Shared {
        let words = (bytes as usize).div_ceil(4);
        Shared {
            // A pattern that is neither zero nor a small number: results that depend on it are plainly wrong.
            data: vec![0xab; bytes as usize],
            init: vec![0; (bytes as usize).div_ceil(8)],
            writes: vec![Packed::default(); words],
            reads: vec![0; words * readers],
            readers: readers.min(AGENTS * 2),
        }
    }

    pub(crate) fn holds(&self, offset: u64, bytes: u32) -> bool {
        offset.checked_add(u64::from(bytes)).is_some_and(|end| end <= self.data.len() as u64)
    }

    pub(crate) fn initialised(&self, offset: usize, bytes: usize) -> bool {
        if offset.is_multiple_of(8) && bytes.is_multiple_of(8) {
            return self.init[offset / 8..(offset + bytes) / 8].iter().all(|&bits| bits == 0xff);
        }
        (offset..offset + bytes).all(|at| self.init[at / 8] >> (at % 8) & 1 == 1)
    }

    /// Whether up to 8 naturally aligned bytes were written: they share one byte of the map.
    #[inline]
    pub(crate) fn initialised_aligned(&self, offset: usize, bytes: usize) -> bool {
        let mask = ((1_u32 << bytes) - 1) << (offset % 8);
        u32::from(self.init[offset / 8]) & mask == mask
    }

    pub(crate) fn set_initialised(&mut self, offset: usize, bytes: usize) {
        if offset.is_multiple_of(bytes) && bytes <= 8 {
            self.init[offset / 8] |= (((1_u32 << bytes) - 1) << (offset % 8)) as u8;
            return;
        }
        for at in offset..offset + bytes {
            self.init[at / 8] |= 1 << (at % 8);
        }
    }

    /// Clears the accesses of a range: for what an mbarrier object occupies.
    pub(crate) fn forget(&mut self, offset: usize, bytes: usize) {
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            self.writes[word] = Packed::default();
            self.reads[word * self.readers..(word + 1) * self.readers].fill(0);
        }
    }

    /// Remembers a read by a reader. Reads of one warp at one clock are folded together.
    #[inline]
    pub(crate) fn note_read(&mut self, word: usize, read: Read) {
        let slot = &mut self.reads[word * self.readers + usize::from(read.reader)];
        let new = pack_read(read.clock, read.mask, read.lane);
        // Again, or one more of many lanes: nothing new.
        if *slot == new || *slot == (new & !0x3f | u32::from(MANY)) {
            return;
        }
        let old = unpack_read(0, *slot);
        *slot = if *slot != 0 && old.clock == read.clock && old.lane != read.lane {
            // Lanes that read the same bytes are many; lanes that read different bytes cannot be told apart.
            let lane = if old.mask == read.mask && old.lane != UNKNOWN { MANY } else { UNKNOWN };
            pack_read(read.clock, old.mask | read.mask, lane)
        } else if old.clock == read.clock {
            pack_read(read.clock, old.mask | read.mask, read.lane)
        } else {
            new
        };
    }

    /// Reads of a word that overlap these bytes.
    #[inline]
    pub(crate) fn reads_of(&self, word: usize, mask: u8) -> impl Iterator<Item = Read> + '_ {
        self.reads[word * self.readers..(word + 1) * self.readers]
            .iter()
            .enumerate()
            .filter(move |(_, bits)| **bits >> 6 & u32::from(mask) != 0)
            .map(|(reader, bits)| unpack_read(reader, *bits))
    }

    /// Sets the clock of a reader's pending read; with `None` the read is forgotten.
    pub(crate) fn settle_read(&mut self, word: usize, reader: u8, from: u32, to: Option<u32>) {
        let slot = &mut self.reads[word * self.readers + usize::from(reader)];
        let old = unpack_read(0, *slot);
        if *slot != 0 && old.clock == from {
            *slot = to.map_or(0, |clock| pack_read(clock, old.mask, old.lane));
        }
    }

    /// Remembers a write. Lanes that write different bytes of a word at one clock are folded together.
    #[inline]
    pub(crate) fn note_write(&mut self, word: usize, stamp: Stamp) {
        let old = self.writes[word].unpack();
        let same = old.agent == stamp.agent && old.clock == stamp.clock && old.mask & stamp.mask == 0 && old.mask != 0;
        let merged = if same {
            let lane = if old.lane == stamp.lane { stamp.lane } else { UNKNOWN };
            Stamp { mask: old.mask | stamp.mask, lane, ..stamp }
        } else {
            stamp
        };
        self.writes[word] = merged.pack();
    }
}

/// Which bytes of its word an access of `bytes` at `offset` covers, for the word that starts at `word * 4`.
#[inline]
pub(crate) fn byte_mask(offset: usize, bytes: usize, word: usize) -> u8 {
    let start = offset.max(word * 4) - word * 4;
    let end = (offset + bytes).min(word * 4 + 4) - word * 4;
    (((1_u32 << (end - start)) - 1) << start) as u8
}
