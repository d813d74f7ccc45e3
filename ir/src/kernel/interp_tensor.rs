//! What copies of boxes of tensors bring, and stores of boxes write.

use super::interp::{Run, address};
use super::interp_blocks::Sent;
use super::memory::Memory;
use super::{Expr, Handle, Mbarrier, Place, Shared, Tensor, TensorMap};

impl Run<'_> {
    /// As a bulk copy: the bytes are read and counted now, and known in shared memory when the phase is over.
    pub(super) fn tile_copy(
        &mut self,
        (to, at): (Handle<Shared>, Handle<Expr>),
        (from, corner): (u32, [Handle<Expr>; 3]),
        (barrier, stage, to_all): (Handle<Mbarrier>, Handle<Expr>, bool),
        active: &[u32],
    ) -> Result<(), String> {
        let (targets, stages) = (self.eval(at, active)?, self.eval(stage, active)?);
        let [a, b, c] = corner.map(|index| self.eval(index, active));
        let corners = [a?, b?, c?];
        for (i, thread) in active.iter().enumerate() {
            let corner = [0, 1, 2].map(|axis: usize| corners[axis][i] as i64);
            let (map, tensor, memory) = self.tensor(from)?;
            let read = box_of(&map, &tensor, memory, corner);
            let bytes = read.map_err(|why| format!("thread {thread}, the box at {corner:?}: {why}"))?;
            let (memory, elem) = self.array(Place::Shared(to))?;
            let at = address(memory, elem, targets[i], map.elements() as usize, map.swizzle.align());
            let at = at.map_err(|why| format!("thread {thread}, to element {}: {why}", targets[i] as i64))?;
            if to_all {
                self.send_to_others(Sent::Bytes { to, at, bytes: bytes.clone(), barrier, stage: stages[i] });
            }
            self.fly((to, at), bytes, (barrier, stages[i])).map_err(|why| format!("thread {thread}, {why}"))?;
        }
        self.land();
        Ok(())
    }

    /// The bytes are read and written now; until the thread has waited the shared memory may not change.
    pub(super) fn tile_store(
        &mut self,
        (to, corner): (u32, [Handle<Expr>; 3]),
        (from, at): (Handle<Shared>, Handle<Expr>),
        active: &[u32],
    ) -> Result<(), String> {
        let places = self.eval(at, active)?;
        let [a, b, c] = corner.map(|index| self.eval(index, active));
        let corners = [a?, b?, c?];
        for (i, thread) in active.iter().enumerate() {
            let corner = [0, 1, 2].map(|axis: usize| corners[axis][i] as i64);
            let place = |why: String| format!("thread {thread}, the box at {corner:?}: {why}");
            let (map, tensor, _) = self.tensor(to)?;
            let (memory, elem) = self.array(Place::Shared(from))?;
            let at = address(memory, elem, places[i], map.elements() as usize, map.swizzle.align()).map_err(place)?;
            let bytes = at..at + map.bytes() as usize;
            let mut stored = Vec::new();
            for (byte, index) in elements(&map, corner) {
                if let Some(element) = tensor.element(index) {
                    let mut read = Vec::new();
                    memory.read(elem, at + byte, 1, &mut read).map_err(place)?;
                    stored.push((element as usize * elem.bytes() as usize, read[0]));
                }
            }
            self.here.products.read_by_store(*thread, from, bytes).map_err(place)?;
            let memory = self.tensor_memory(to)?;
            for (at, value) in stored {
                memory.write(map.elem, at, &[value]).map_err(place)?;
            }
        }
        Ok(())
    }
}

/// The elements of a box: the byte of each from the box's first on, as they lie in shared memory, and its indices in the tensor.
fn elements(map: &TensorMap, [outer, row, column]: [i64; 3]) -> impl Iterator<Item = (usize, [i64; 3])> {
    let [outers, rows, columns] = map.tile.map(i64::from);
    let (swizzle, bytes) = (map.swizzle, map.elem.bytes());
    let lines = (0..outers * rows).map(move |i| [outer + i / rows, row + i % rows]);
    let each = lines.flat_map(move |[outer, row]| (0..columns).map(move |j| [outer, row, column + j]));
    // Elements do not straddle the parts that a swizzle moves.
    (0u64..).zip(each).map(move |(place, index)| (swizzle.apply(place * bytes) as usize, index))
}

/// The bytes of a box as they lie in shared memory, from a multiple of its alignment on; zeros for what is outside the tensor.
fn box_of(map: &TensorMap, tensor: &Tensor, memory: &Memory, corner: [i64; 3]) -> Result<Vec<u8>, String> {
    let element_bytes = map.elem.bytes() as usize;
    let mut bytes = vec![0; map.bytes() as usize];
    for (to, index) in elements(map, corner) {
        if let Some(element) = tensor.element(index) {
            let mut read = Vec::new();
            memory.read(map.elem, element as usize * element_bytes, 1, &mut read)?;
            bytes[to..to + element_bytes].copy_from_slice(&read[0].to_le_bytes()[..element_bytes]);
        }
    }
    Ok(bytes)
}
