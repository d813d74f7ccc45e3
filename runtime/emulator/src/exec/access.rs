//! Loads and stores of a warp: where they go, whether they may, and what they cost.

use crate::checks::race::strength;
use crate::exec::order::Strong;
use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::memory::{PAGE, SECTOR};
use crate::state::place::{Place, Touch, generic};
use crate::state::run::Cx;
use crate::state::shared::{Read, byte_mask};
use crate::state::warp::{LANES, lanes};
use crate::text::ins::{Access, Addr};
use crate::types::{Space, Ty};

impl Block {
    /// The address of a lane; values that wrapped on their way here are reported.
    pub(crate) fn addresses(&mut self, cx: &mut Cx<'_>, at: At, addr: Addr) -> [u64; LANES] {
        let At { w, mask, .. } = at;
        let warp = &mut self.warps[w];
        warp.need(addr.base, mask);
        let mut out = warp.regs[addr.base as usize];
        if addr.offset != 0 {
            for address in &mut out {
                *address = address.wrapping_add_signed(addr.offset);
            }
        }
        if warp.any_wrap {
            let wrap = warp.wrap(addr.base);
            let wrapped = (wrap.signed | wrap.unsigned) & mask;
            if wrapped != 0 {
                self.finding(cx, at.of(wrapped), FindingKind::AddressWrap, || {
                    "a 32-bit calculation wrapped around on its way into this address".to_owned()
                });
            }
        }
        out
    }

    fn place(&self, space: Space, address: u64) -> Place {
        match space {
            Space::Generic => generic(address),
            Space::Global | Space::Const => Place::Global(address),
            Space::Shared => Place::Shared(address),
            // The addresses of the block's own memory are the same.
            Space::SharedCluster => Place::Shared(address),
            Space::Local => Place::Local(address),
            Space::Param => Place::Param(address),
        }
    }

    pub(crate) fn load(&mut self, cx: &mut Cx<'_>, at: At, access: &Access) {
        let At { w, mask, pc } = at;
        let element = access.ty.bytes();
        let bytes = element * access.regs.len() as u32;
        let addresses = self.addresses(cx, at, access.addr);
        let mut tally = Tally::default();
        let mut hint = usize::MAX;
        let strength = strength(access.order, access.scope);
        // Place, lane and repetitions of the last shared load that went the short way.
        let mut last = (u64::MAX, 0, 0);
        for lane in lanes(mask) {
            let place = self.place(access.space, addresses[lane]);
            tally.add(place, lane);
            let touch = Touch { w, lane, pc, bytes, strength };
            if strength == 0
                && let Place::Shared(offset) = place
            {
                let again = if last.0 == offset { last.2 + 1 } else { 0 };
                if again > 1 {
                    // A third lane at one place is judged and remembered as the second was.
                    for &reg in &access.regs {
                        if let Some(values) = self.warps[w].regs.get_mut(reg as usize) {
                            values[lane] = values[last.1];
                        }
                    }
                    last = (offset, lane, again);
                    continue;
                }
                if self.load_shared(touch, offset, access) {
                    last = (offset, lane, again);
                    continue;
                }
            }
            last = (u64::MAX, 0, 0);
            let mut data = [0; 32];
            self.read_place(cx, touch, place, &mut hint, &mut data);
            for (index, &reg) in access.regs.iter().enumerate() {
                let start = index * element as usize;
                let value = from_bytes(&data[start..start + element as usize]);
                self.warps[w].set_lane(reg, lane, extend(value, access.ty, access.wide));
            }
        }
        for &reg in &access.regs {
            self.warps[w].wrote(reg, mask);
        }
        tally.count(cx, bytes, true, hint);
        if access.order.strong() {
            self.synchronise(cx, at, &addresses, Strong { reads: true, ..Strong::of(access) });
        }
    }

    /// The way of almost all weak shared loads: inside, aligned, written, and plainly after its writer. False, with
    /// nothing changed that matters, sends the lane the long way, which reports.
    #[inline]
    fn load_shared(&mut self, touch: Touch, offset: u64, access: &Access) -> bool {
        let bytes = touch.bytes as usize;
        let size = self.shared.data.len() as u64;
        if offset >= size || offset + bytes as u64 > size || offset & (bytes as u64 - 1) != 0 || !bytes.is_power_of_two() {
            return false;
        }
        let at = offset as usize;
        let known = &self.knowledge[touch.w].seen;
        let order = &self.warps[touch.w].order;
        let clock = known[touch.w];
        for word in at / 4..(at + bytes).div_ceil(4) {
            let write = self.shared.writes[word];
            let earlier = write.unpack();
            let ordered = if usize::from(earlier.agent) == touch.w {
                usize::from(earlier.lane) == touch.lane || earlier.clock <= order.full
            } else {
                earlier.clock <= known[usize::from(earlier.agent) % known.len()]
            };
            let mask = byte_mask(at, bytes, word);
            if write.is_none() || !ordered {
                return false;
            }
            self.shared.note_read(word, Read { reader: touch.w as u8, clock, mask, lane: touch.lane as u8 });
        }
        let written = if bytes <= 8 { self.shared.initialised_aligned(at, bytes) } else { self.shared.initialised(at, bytes) };
        if !written {
            return false;
        }
        let element = access.ty.bytes() as usize;
        let warp = &mut self.warps[touch.w];
        for (index, &reg) in access.regs.iter().enumerate() {
            let data = &self.shared.data[at + index * element..at + (index + 1) * element];
            let value = match *data {
                [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
                _ => extend(from_bytes(data), access.ty, access.wide),
            };
            let value = if element == 4 && access.wide > 32 { extend(value, access.ty, access.wide) } else { value };
            warp.set_lane(reg, touch.lane, value);
        }
        true
    }

    pub(crate) fn store(&mut self, cx: &mut Cx<'_>, at: At, access: &Access) {
        let At { w, mask, pc } = at;
        let element = access.ty.bytes();
        let bytes = element * access.regs.len() as u32;
        let addresses = self.addresses(cx, at, access.addr);
        for &reg in &access.regs {
            self.warps[w].need(reg, mask);
        }
        if access.order.strong() {
            self.synchronise(cx, at, &addresses, Strong { writes: true, ..Strong::of(access) });
        }
        let mut tally = Tally::default();
        let mut hint = usize::MAX;
        for lane in lanes(mask) {
            let place = self.place(access.space, addresses[lane]);
            tally.add(place, lane);
            let touch = Touch { w, lane, pc, bytes, strength: strength(access.order, access.scope) };
            let mut data = [0; 32];
            for (index, &reg) in access.regs.iter().enumerate() {
                let start = index * element as usize;
                let value = self.warps[w].lane(reg, lane).to_le_bytes();
                data[start..start + element as usize].copy_from_slice(&value[..element as usize]);
            }
            self.write_place(cx, touch, place, &mut hint, &data[..bytes as usize]);
        }
        tally.count(cx, bytes, false, hint);
    }

    /// Machines ignore a hint of what is in no buffer, but it is not what was meant. PTX gives those in shared memory no meaning.
    pub(crate) fn prefetch(&mut self, cx: &mut Cx<'_>, at: At, space: Space, addr: Addr) {
        let At { w, mask, pc } = at;
        let addresses = self.addresses(cx, at, addr);
        let mut hint = usize::MAX;
        for lane in lanes(mask) {
            let touch = Touch { w, lane, pc, bytes: 1, strength: 0 };
            match self.place(space, addresses[lane]) {
                Place::Global(address) => {
                    self.check_global(cx, touch, address, &mut hint);
                }
                Place::Local(offset) => {
                    self.check_local(cx, touch, offset);
                }
                Place::Param(offset) => {
                    self.check_param(cx, touch, offset);
                }
                Place::Shared(_) => {}
            }
        }
    }

    /// Reads up to 32 bytes from anywhere. What may not be read gives zeros.
    pub(crate) fn read_place(&mut self, cx: &mut Cx<'_>, touch: Touch, place: Place, hint: &mut usize, out: &mut [u8; 32]) {
        let bytes = touch.bytes as usize;
        match place {
            Place::Global(address) => {
                let Some(index) = self.check_global(cx, touch, address, hint) else { return };
                let allocation = cx.memory.at(index);
                let offset = address - allocation.base;
                let page = allocation.page(offset);
                let at = (offset % PAGE) as usize;
                out[..bytes].copy_from_slice(&page.data[at..at + bytes]);
                let written = if bytes <= 8 {
                    let wanted = ((1_u32 << bytes) - 1) << (at % 8);
                    u32::from(page.init[at / 8]) & wanted == wanted
                } else {
                    page.init[at / 8..(at + bytes) / 8].iter().all(|&bits| bits == 0xff)
                };
                if !written {
                    let message = cx.memory.describe(address);
                    self.finding(cx, touch.at(), FindingKind::UninitialisedGlobal, || message);
                }
                self.note_global_read(cx, touch, index, offset);
            }
            Place::Shared(offset) => {
                if !self.check_shared(cx, touch, offset) {
                    return;
                }
                let at = offset as usize;
                out[..bytes].copy_from_slice(&self.shared.data[at..at + bytes]);
                self.note_shared_read(cx, touch, at);
            }
            Place::Local(offset) => {
                let Some(at) = self.check_local(cx, touch, offset) else { return };
                let warp = &self.warps[touch.w];
                out[..bytes].copy_from_slice(&warp.local[at..at + bytes]);
                if !warp.local_init[at..at + bytes].iter().all(|&written| written) {
                    self.finding(cx, touch.at(), FindingKind::UninitialisedShared, || format!("byte {offset} of local memory"));
                }
            }
            Place::Param(offset) => {
                let Some(range) = self.check_param(cx, touch, offset) else { return };
                out[..bytes].copy_from_slice(&cx.args[range]);
            }
        }
    }

    /// Writes up to 32 bytes anywhere. What may not be written stays.
    pub(crate) fn write_place(&mut self, cx: &mut Cx<'_>, touch: Touch, place: Place, hint: &mut usize, data: &[u8]) {
        match place {
            Place::Global(address) => {
                let Some(index) = self.check_global(cx, touch, address, hint) else { return };
                let allocation = cx.memory.at(index);
                if allocation.read_only {
                    let message = cx.memory.describe(address);
                    self.finding(cx, touch.at(), FindingKind::ReadOnly, || message);
                    return;
                }
                let offset = address - allocation.base;
                self.note_global_write(cx, touch, index, offset, Some(data));
                let page = cx.memory.at(index).page(offset);
                let at = (offset % PAGE) as usize;
                let target = &mut page.data[at..at + data.len()];
                if *target != *data {
                    target.copy_from_slice(data);
                    cx.progress += 1;
                }
                if data.len() <= 8 {
                    page.init[at / 8] |= (((1_u32 << data.len()) - 1) << (at % 8)) as u8;
                } else {
                    page.init[at / 8..(at + data.len()) / 8].fill(0xff);
                }
            }
            Place::Shared(offset) => {
                if !self.check_shared(cx, touch, offset) {
                    return;
                }
                let at = offset as usize;
                self.note_shared_write(cx, touch, at, Some(data));
                let target = &mut self.shared.data[at..at + data.len()];
                if *target != *data {
                    target.copy_from_slice(data);
                    cx.progress += 1;
                }
                self.shared.set_initialised(at, data.len());
            }
            Place::Local(offset) => {
                let Some(at) = self.check_local(cx, touch, offset) else { return };
                let warp = &mut self.warps[touch.w];
                if warp.local[at..at + data.len()] != *data {
                    warp.local[at..at + data.len()].copy_from_slice(data);
                    cx.progress += 1;
                }
                warp.local_init[at..at + data.len()].fill(true);
            }
            Place::Param(_) => {
                self.finding(cx, touch.at(), FindingKind::ReadOnly, || "parameters cannot be written".to_owned());
            }
        }
    }
}

pub(crate) fn from_bytes(bytes: &[u8]) -> u64 {
    let mut out = [0; 8];
    out[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(out)
}

/// Sign- or zero-extends what was loaded to the width of the register (PTX ISA 9.4.1).
fn extend(value: u64, ty: Ty, wide: u8) -> u64 {
    let (bits, wide) = (ty.bits(), u32::from(wide).max(ty.bits()));
    if !ty.signed() || bits >= wide {
        return value;
    }
    let signed = (value as i64) << (64 - bits) >> (64 - bits);
    (signed as u64) << (64 - wide) >> (64 - wide)
}

/// The addresses of one warp-level access, for the counters.
#[derive(Default)]
pub(crate) struct Tally {
    global: usize,
    shared: usize,
    local: usize,
    addresses: [u64; LANES],
    /// Of the shared ones, the lanes.
    lanes: [u8; LANES],
}

impl Tally {
    #[inline]
    pub(crate) fn add(&mut self, place: Place, lane: usize) {
        match place {
            Place::Global(address) => {
                self.addresses[self.global] = address;
                self.global += 1;
            }
            Place::Shared(offset) => {
                self.addresses[LANES - 1 - self.shared] = offset;
                self.lanes[self.shared] = lane as u8;
                self.shared += 1;
            }
            Place::Local(_) => self.local += 1,
            Place::Param(_) => {}
        }
    }

    /// `buffer`: the number of that with the global addresses.
    pub(crate) fn count(&mut self, cx: &mut Cx<'_>, bytes: u32, read: bool, buffer: usize) {
        let counters = &mut cx.counters;
        for (lanes, traffic) in
            [(self.global, &mut counters.global), (self.shared, &mut counters.shared), (self.local, &mut counters.local)]
        {
            if lanes == 0 {
                continue;
            }
            let moved = lanes as u64 * u64::from(bytes);
            if read {
                traffic.loads += 1;
                traffic.read_bytes += moved;
            } else {
                traffic.stores += 1;
                traffic.written_bytes += moved;
            }
        }
        if self.global > 0 {
            let touched = &mut self.addresses[..self.global];
            touched.iter_mut().for_each(|address| *address /= SECTOR as u64);
            if !touched.is_sorted() {
                touched.sort_unstable();
            }
            let distinct = 1 + touched.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
            let needed = (self.global as u64 * u64::from(bytes)).div_ceil(SECTOR as u64).min(distinct);
            cx.count_sectors(buffer, read, distinct, needed);
        }
        if self.shared > 0 {
            let touched = &mut self.addresses[LANES - self.shared..];
            touched.reverse();
            let (passes, needed) = wavefronts(touched, &self.lanes[..self.shared], bytes);
            cx.counters.wavefronts += passes;
            cx.counters.wavefronts_needed += needed;
        }
    }
}

/// Passes over the 32 banks of 4 bytes, and those without conflicts: a warp is served in parts of so many neighbours that ask for at most
/// 128 bytes, whether or not all of them do, and a part needs as many passes as the most crowded bank has different words.
/// `offsets` are those of `lanes`, which rise.
pub(crate) fn wavefronts(offsets: &[u64], lanes: &[u8], bytes: u32) -> (u64, u64) {
    let per_part = (128 / bytes.max(4)).max(1) as u8;
    let (mut passes, mut needed, mut rest) = (0, 0, offsets);
    for neighbours in lanes.chunk_by(|a, b| a / per_part == b / per_part) {
        let (part, others) = rest.split_at(neighbours.len());
        rest = others;
        needed += 1;
        let step = u64::from(bytes.max(4) / 4);
        // No bank with two different words is by far the most common case.
        let mut banks = [u64::MAX; 32];
        let mut clash = false;
        for &offset in part {
            for word in offset / 4..offset / 4 + step {
                let bank = &mut banks[(word % 32) as usize];
                clash |= *bank != u64::MAX && *bank != word;
                *bank = word;
            }
        }
        if !clash {
            passes += 1;
            continue;
        }
        let mut words: Vec<u64> = part.iter().flat_map(|&offset| offset / 4..offset / 4 + step).collect();
        words.sort_unstable();
        words.dedup();
        let mut crowds = [0_u64; 32];
        for word in words {
            crowds[(word % 32) as usize] += 1;
        }
        passes += crowds.into_iter().max().unwrap_or(1);
    }
    (passes, needed)
}

#[cfg(test)]
mod tests {
    use super::wavefronts;

    /// The textbook cases of bank conflicts.
    #[test]
    fn banks_are_counted() {
        let all: Vec<u8> = (0..32).collect();
        let strided = |step: u64, bytes: u32| wavefronts(&(0..32).map(|lane| lane * step).collect::<Vec<u64>>(), &all, bytes);
        assert_eq!(strided(4, 4), (1, 1));
        assert_eq!(strided(0, 4), (1, 1));
        assert_eq!(strided(8, 4).0, 2);
        assert_eq!(strided(128, 4).0, 32);
        assert_eq!(strided(132, 4).0, 1);
        assert_eq!(strided(16, 16), (4, 4));
        assert_eq!(strided(2, 2), (1, 1));
        // Lanes 0 and 9 of 16 bytes each are in different parts, 0 and 7 in one.
        assert_eq!(wavefronts(&[0, 128], &[0, 9], 16), (2, 2));
        assert_eq!(wavefronts(&[0, 128], &[0, 7], 16), (2, 1));
        assert_eq!(wavefronts(&[0, 16], &[0, 7], 16), (1, 1));
    }
}
