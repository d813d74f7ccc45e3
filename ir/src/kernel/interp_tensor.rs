//! What copies of boxes of tensors bring.

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
}

/// The bytes of a box as they lie in shared memory, from a multiple of its alignment on; zeros for what is outside the tensor.
fn box_of(map: &TensorMap, tensor: &Tensor, memory: &Memory, [outer, row, column]: [i64; 3]) -> Result<Vec<u8>, String> {
    let [outers, rows, columns] = map.tile.map(i64::from);
    let element_bytes = map.elem.bytes() as usize;
    let mut bytes = vec![0; map.bytes() as usize];
    let mut place = 0;
    for i in 0..outers * rows {
        for j in 0..columns {
            if let Some(element) = tensor.element([outer + i / rows, row + i % rows, column + j]) {
                let mut read = Vec::new();
                memory.read(map.elem, element as usize * element_bytes, 1, &mut read)?;
                // Elements do not straddle the parts that a swizzle moves.
                let to = map.swizzle.apply(place) as usize;
                bytes[to..to + element_bytes].copy_from_slice(&read[0].to_le_bytes()[..element_bytes]);
            }
            place += map.elem.bytes();
        }
    }
    Ok(bytes)
}
