//! Bulk and tensor copies, and how anything asynchronous arrives in shared memory (PTX ISA 9.7.9.25.4 and .5).

use crate::checks::race::PENDING_READ;
use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::clocks::{BULK, PENDING, UNKNOWN};
use crate::state::in_flight::{Arrival, Incoming, Outgoing, Piece, Spread};
use crate::state::memory::SECTOR;
use crate::state::place::{Place, Touch, generic};
use crate::state::run::Cx;
use crate::state::shared::Read;
use crate::state::tensor_map::TensorMap;
use crate::state::warp::lanes;
use crate::text::ins::{AtomicOp, Bulk, Direction, Reg};
use crate::types::Ty;

/// Bytes that one bulk copy may move: beyond any shared memory.
const BULK_LIMIT: u64 = 1 << 20;

/// Counts the sectors of a box. Its rows are some way apart, so that only neighbours share one.
fn count_box(cx: &mut Cx<'_>, pieces: &[Piece], is_read: bool) {
    let there = || pieces.iter().filter_map(|piece| Some((piece.global?, u64::from(piece.bytes))));
    let Some((first, _)) = there().next() else { return };
    let mut sectors: Vec<u64> = there().map(|(address, _)| address / SECTOR as u64).collect();
    sectors.dedup();
    let bytes: u64 = there().map(|(_, bytes)| bytes).sum();
    let touched = sectors.len() as u64;
    if let Some(buffer) = cx.memory.locate(first) {
        cx.count_sectors(buffer, is_read, touched, bytes.div_ceil(SECTOR as u64).min(touched));
    }
}

impl Block {
    fn shared_offset(address: u64) -> u64 {
        match generic(address) {
            Place::Shared(offset) => offset,
            _ => address,
        }
    }

    pub(crate) fn bulk(&mut self, cx: &mut Cx<'_>, at: At, bulk: &Bulk) {
        let At { w, mask, pc } = at;
        let targets = self.addresses(cx, at, bulk.dst);
        let sources = self.addresses(cx, at, bulk.src);
        let mbarriers = bulk.mbarrier.map(|addr| self.addresses(cx, at, addr));
        self.warps[w].need(bulk.bytes, mask);
        if let Some(blocks) = bulk.blocks {
            self.warps[w].need(blocks, mask);
        }
        for &reg in bulk.coords.iter().flat_map(|coords| coords.iter()) {
            self.warps[w].need(reg, mask);
        }
        for lane in lanes(mask) {
            let to_shared = bulk.direction == Direction::ToShared;
            let (shared, global) = if to_shared { (targets[lane], sources[lane]) } else { (sources[lane], targets[lane]) };
            let shared = Self::shared_offset(shared);
            let pieces = match &bulk.coords {
                Some(coords) => self.tensor_pieces(cx, (w, lane, pc), shared, global, coords),
                None => self.plain_pieces(cx, (w, lane, pc), shared, global, bulk.bytes),
            };
            let Some(pieces) = pieces else { continue };
            for piece in &pieces {
                if let Some(address) = piece.global {
                    let touch = Touch { w, lane, pc, bytes: piece.bytes.into(), strength: 0 };
                    self.judge_early_copy(cx, touch, address, !to_shared);
                }
            }
            count_box(cx, &pieces, to_shared);
            cx.counters.bulk_bytes += pieces.iter().map(|piece| u64::from(piece.bytes)).sum::<u64>();
            if let Some(mbarriers) = &mbarriers {
                let spread = match bulk.blocks {
                    Some(blocks) => match self.spread(cx, at.lane(lane), blocks) {
                        Some(spread) => Some(spread),
                        None => continue,
                    },
                    None => None,
                };
                self.start_incoming(cx, (w, lane, pc), (mbarriers[lane], spread), pieces);
            } else {
                self.start_outgoing(cx, (w, lane, pc), pieces, bulk.reduce);
            }
        }
    }

    fn bad(&self, cx: &mut Cx<'_>, (w, lane, pc): (usize, usize, u32), message: String) {
        self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::BadDescriptor, || message);
    }

    /// Pieces of 16 bytes of a copy without a map.
    fn plain_pieces(
        &mut self,
        cx: &mut Cx<'_>,
        at: (usize, usize, u32),
        shared: u64,
        global: u64,
        bytes: Reg,
    ) -> Option<Vec<Piece>> {
        let (w, lane, pc) = at;
        let bytes = u64::from(self.warps[w].lane(bytes, lane) as u32);
        if !bytes.is_multiple_of(16) || !shared.is_multiple_of(16) || !global.is_multiple_of(16) {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::Misaligned, || {
                format!("{bytes} bytes between shared {shared:#x} and global {global:#x}: not all multiples of 16")
            });
            return None;
        }
        if bytes > BULK_LIMIT || !self.shared.holds(shared, bytes as u32) {
            let size = self.shared.data.len();
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::OutOfBounds, || {
                format!("{bytes} bytes at byte {shared} of {size} bytes of shared memory")
            });
            return None;
        }
        let piece =
            |step: u64| Piece { shared: (shared + 16 * step) as usize, bytes: 16, global: Some(global.wrapping_add(16 * step)) };
        Some((0..bytes / 16).map(piece).collect())
    }

    /// Reads the tensor map that a generic address names.
    fn tensor_map(&mut self, cx: &mut Cx<'_>, at: (usize, usize, u32), address: u64) -> Option<TensorMap> {
        let (w, lane, pc) = at;
        if !address.is_multiple_of(64) && !matches!(generic(address), Place::Global(_)) {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::Misaligned, || {
                "a tensor map must lie at a multiple of 64".to_owned()
            });
            return None;
        }
        let mut bytes = [0; 128];
        let mut hint = usize::MAX;
        for part in 0..16 {
            let touch = Touch { w, lane, pc, bytes: 8, strength: 0 };
            let mut out = [0; 32];
            self.read_place(cx, touch, generic(address.wrapping_add(8 * part)), &mut hint, &mut out);
            bytes[8 * part as usize..8 * part as usize + 8].copy_from_slice(&out[..8]);
        }
        match TensorMap::decode(&bytes) {
            Ok(map) => Some(map),
            Err(error) => {
                self.bad(cx, at, error.to_string());
                None
            }
        }
    }

    /// The pieces of a box: one for each 16 bytes of shared memory, or one for each element at the tensor's edge.
    fn tensor_pieces(
        &mut self,
        cx: &mut Cx<'_>,
        at: (usize, usize, u32),
        shared: u64,
        map: u64,
        coords: &[Reg],
    ) -> Option<Vec<Piece>> {
        let (w, lane, pc) = at;
        let map = self.tensor_map(cx, at, map)?;
        if map.extents.len() != coords.len() {
            self.bad(cx, at, format!("{} coordinates for a tensor map of rank {}", coords.len(), map.extents.len()));
            return None;
        }
        let bytes = map.box_bytes();
        if !shared.is_multiple_of(128) {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::Misaligned, || {
                format!("a tensor copy needs shared memory at a multiple of 128, not byte {shared}")
            });
            return None;
        }
        if bytes > BULK_LIMIT || !self.shared.holds(shared, bytes as u32) {
            let size = self.shared.data.len();
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::OutOfBounds, || {
                format!("a box of {bytes} bytes at byte {shared} of {size} bytes of shared memory")
            });
            return None;
        }
        let start: Vec<i64> = coords.iter().map(|&reg| i64::from(self.warps[w].lane(reg, lane) as i32)).collect();
        let element = u64::from(map.element_bytes);
        let inner = u64::from(map.box_extents[0]);
        let rows = map.box_extents[1..].iter().map(|&extent| u64::from(extent)).product::<u64>();
        let mut pieces = Vec::with_capacity((bytes / 16) as usize);
        for row in 0..rows {
            let mut rest = row;
            let mut inside = true;
            let mut base = map.address;
            let outer = start.iter().zip(&map.extents).zip(&map.box_extents).skip(1).zip(&map.strides);
            for (((&first, &limit), &extent), &stride) in outer {
                let index = first + (rest % u64::from(extent)) as i64;
                rest /= u64::from(extent);
                inside &= index >= 0 && (index as u64) < limit;
                base = base.wrapping_add((index as u64).wrapping_mul(stride));
            }
            for chunk in 0..inner * element / 16 {
                // A 16-byte unit stays whole under every swizzle.
                let linear = shared + row * inner * element + 16 * chunk;
                let to = map.swizzle.apply(linear) as usize;
                let per = 16 / element;
                let first = start[0] + (chunk * per) as i64;
                let whole = first >= 0 && first as u64 + per <= map.extents[0];
                let from = base.wrapping_add((first as u64).wrapping_mul(element));
                if inside && whole && from.is_multiple_of(16) {
                    pieces.push(Piece { shared: to, bytes: 16, global: Some(from) });
                    continue;
                }
                for index in 0..per {
                    let column = first + index as i64;
                    let there = inside && column >= 0 && (column as u64) < map.extents[0];
                    let from = base.wrapping_add((column as u64).wrapping_mul(element));
                    let shared = to + (index * element) as usize;
                    pieces.push(Piece { shared, bytes: element as u8, global: there.then_some(from) });
                }
            }
        }
        Some(pieces)
    }

    fn start_incoming(
        &mut self,
        cx: &mut Cx<'_>,
        at: (usize, usize, u32),
        (mbarrier, spread): (u64, Option<Box<Spread>>),
        pieces: Vec<Piece>,
    ) {
        let (w, lane, pc) = at;
        let own = spread.as_ref().is_none_or(|spread| spread.own);
        let key = if own {
            let Some(key) = self.mbarrier_at(cx, w, lane, pc, mbarrier) else { return };
            if !self.mbarrier_fenced(w, key) {
                self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::MissingProxyFence, || {
                    format!("no fence makes the initialisation of the mbarrier at byte {key} visible to asynchronous copies")
                });
            }
            for piece in &pieces {
                let touch = Touch { w, lane, pc, bytes: u32::from(piece.bytes), strength: 0 };
                self.note_shared_write(cx, touch, piece.shared, None);
            }
            for piece in &pieces {
                self.stamp_words(piece.shared, usize::from(piece.bytes), BULK, PENDING, lane as u8);
            }
            key
        } else {
            Self::shared_offset(mbarrier) as u32
        };
        self.agents.arrivals.push(Arrival { warp: w, lane, pc, mbarrier: key, incoming: Incoming::Bulk(pieces), spread });
        cx.progress += 1;
    }

    /// An operation towards shared memory completes.
    pub(crate) fn arrived(&mut self, cx: &mut Cx<'_>, arrival: Arrival) {
        let Arrival { warp: w, lane, pc, mbarrier, incoming, spread } = arrival;
        if let (Some(spread), Incoming::Bulk(pieces)) = (&spread, &incoming) {
            self.send_pieces(cx, spread, mbarrier, pieces);
            if !spread.own {
                return;
            }
        }
        let data = self.mbarrier_data(mbarrier);
        let Some((agent, clock)) = data else {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::MbarrierMisuse, || {
                format!("the mbarrier at byte {mbarrier} is gone before the copy that it tracks has arrived")
            });
            return;
        };
        match incoming {
            Incoming::Copies(copies) => {
                self.land_all(&copies, agent, clock);
                self.mbarrier_agent_arrives(cx, w, lane, pc, mbarrier);
            }
            Incoming::Bulk(pieces) => {
                let mut hint = usize::MAX;
                let mut total = 0;
                for piece in &pieces {
                    let bytes = usize::from(piece.bytes);
                    let mut out = [0; 32];
                    if let Some(address) = piece.global {
                        let touch = Touch { w, lane, pc, bytes: u32::from(piece.bytes), strength: 0 };
                        self.read_place(cx, touch, Place::Global(address), &mut hint, &mut out);
                    }
                    self.shared.data[piece.shared..piece.shared + bytes].copy_from_slice(&out[..bytes]);
                    self.shared.set_initialised(piece.shared, bytes);
                    self.stamp_words(piece.shared, bytes, agent, clock, UNKNOWN);
                    total += bytes as i64;
                }
                self.mbarrier_bytes(cx, w, lane, pc, mbarrier, -total);
            }
        }
    }

    fn start_outgoing(&mut self, cx: &mut Cx<'_>, at: (usize, usize, u32), pieces: Vec<Piece>, reduce: Option<(AtomicOp, Ty)>) {
        let (w, lane, pc) = at;
        if cx.options.deterministic && reduce.is_some_and(|(_, ty)| ty.floating()) {
            self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::FloatAtomic, || {
                "the order of float reductions decides the result's bits".to_owned()
            });
        }
        let reader = 2 * self.warps.len() as u8;
        for piece in &pieces {
            let bytes = usize::from(piece.bytes);
            let touch = Touch { w, lane, pc, bytes: u32::from(piece.bytes), strength: 0 };
            let mut clean = true;
            for word in piece.shared / 4..(piece.shared + bytes).div_ceil(4) {
                let mask = crate::state::shared::byte_mask(piece.shared, bytes, word);
                clean &= self.async_read(cx, touch, word, mask);
                self.shared.note_read(word, Read { reader, clock: PENDING_READ, mask: 0xf, lane: UNKNOWN });
            }
            if clean && !self.shared.initialised(piece.shared, bytes) {
                let from = piece.shared;
                self.finding(cx, At { w, mask: 1 << lane, pc }, FindingKind::UninitialisedShared, || {
                    format!("byte {from} of shared memory")
                });
            }
        }
        let group = self.agents.bulk_groups[w][lane];
        self.agents.outgoing.push(Outgoing { warp: w, lane, pc, group, delivered: false, pieces, reduce });
        cx.progress += 1;
    }

    /// A copy out of shared memory is carried out.
    pub(crate) fn send(&mut self, cx: &mut Cx<'_>, index: usize) {
        let store = &mut self.agents.outgoing[index];
        store.delivered = true;
        let (w, lane, pc, reduce) = (store.warp, store.lane, store.pc, store.reduce);
        let pieces = store.pieces.clone();
        let mut hint = usize::MAX;
        for piece in pieces {
            let Some(address) = piece.global else { continue };
            let bytes = usize::from(piece.bytes);
            let mut data = [0; 16];
            data[..bytes].copy_from_slice(&self.shared.data[piece.shared..piece.shared + bytes]);
            let strength = if reduce.is_some() { 2 } else { 0 };
            let touch = Touch { w, lane, pc, bytes: u32::from(piece.bytes), strength };
            if let Some((op, ty)) = reduce {
                let mut old = [0; 32];
                self.read_place(cx, touch, Place::Global(address), &mut hint, &mut old);
                let width = ty.bytes() as usize;
                for start in (0..bytes).step_by(width) {
                    let range = start..start + width;
                    let before = crate::exec::access::from_bytes(&old[range.clone()]);
                    let by = crate::exec::access::from_bytes(&data[range.clone()]);
                    let after = crate::exec::atomics::apply(op, ty, before, by, by);
                    data[range].copy_from_slice(&after.to_le_bytes()[..width]);
                }
            }
            self.write_place(cx, touch, Place::Global(address), &mut hint, &data[..bytes]);
        }
    }

    /// Waits until at most `left` groups of these lanes are under way.
    pub(crate) fn bulk_wait(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, left: Reg) {
        let mut done = [0_u32; 32];
        for lane in lanes(mask) {
            let left = self.warps[w].regs[left as usize][lane] as u32;
            done[lane] = self.agents.bulk_groups[w][lane].saturating_sub(left);
        }
        let reader = 2 * self.warps.len() as u8;
        let clock = self.clock(w);
        let mut index = 0;
        while index < self.agents.outgoing.len() {
            let store = &self.agents.outgoing[index];
            let over = store.warp == w && mask >> store.lane & 1 == 1 && store.group < done[store.lane];
            if !over {
                index += 1;
                continue;
            }
            if !store.delivered {
                self.send(cx, index);
            }
            let store = self.agents.outgoing.remove(index);
            for piece in store.pieces {
                for word in piece.shared / 4..(piece.shared + usize::from(piece.bytes)).div_ceil(4) {
                    self.shared.settle_read(word, reader, PENDING_READ, Some(clock));
                    self.agents.bulk_readers[word] = w as u8;
                }
            }
            cx.progress += 1;
        }
    }
}
