//! The rules of tensor maps and of copies of boxes.

use super::verify::{Check, divides_by_zero};
use super::{Expr, Handle, ParamKind, Place, Program, Shared, Swizzle, Tensor, TensorMap, Ty, View};
use crate::{DType, Extent};

/// A row of a box has a multiple of this many bytes.
const ROW_BYTES: u64 = 16;

/// Why a parameter for such a map cannot be given that view, if so. What depends on the batch is looked at when it is known.
pub(super) fn wrong_view(program: &Program, map: &TensorMap, view: &View) -> Option<String> {
    let Some(buffer) = program.buffers.get(view.buffer) else { return Some("there is no such buffer".to_string()) };
    if buffer.dtype != map.elem {
        return Some(format!("the map has {}, the buffer {}", map.elem, buffer.dtype));
    }
    if let Some(formula) = view.formulas().find(|formula| divides_by_zero(formula)) {
        return Some(format!("{formula} divides by zero"));
    }
    let is_off = |stride: &&Extent| match stride {
        Extent::Const(n) => !n.checked_mul(map.elem.bytes()).is_some_and(|bytes| bytes.is_multiple_of(Tensor::ALIGN)),
        Extent::Tokens | Extent::SequenceTokens | Extent::Add(..) | Extent::Mul(..) => false,
        Extent::Div(..) | Extent::Min(..) | Extent::Max(..) => false,
    };
    if let Some(stride) = view.strides.iter().find(is_off) {
        return Some(format!("a stride of {stride} {} is no multiple of {} bytes", map.elem, Tensor::ALIGN));
    }
    None
}

impl Check<'_> {
    /// The declaration of a parameter for a tensor map.
    pub(super) fn tensor_map(&mut self, name: &str, map: &TensorMap) {
        self.needs_tensor_maps(&format!("%{name}"));
        let extents = 1..=TensorMap::MOST;
        self.require(map.tile.iter().all(|extent| extents.contains(extent)), || {
            format!("%{name}: an extent of a box is 1 to {}", TensorMap::MOST)
        });
        let row = map.row_bytes();
        match map.swizzle.row_bytes() {
            None => self.require(row.is_multiple_of(ROW_BYTES), || {
                format!("%{name}: a row of a box has a multiple of {ROW_BYTES} bytes, not {row}")
            }),
            Some(bytes) => self.require(row == u64::from(bytes), || {
                format!("%{name}: a row of a box that is swizzled by {bytes} bytes has these, not {row}")
            }),
        }
    }

    /// The machine copies and stores boxes of tensors.
    pub(super) fn needs_tensor_maps(&mut self, what: &str) {
        let machine = self.machine;
        self.require(machine.tensor_maps, || format!("{what}: {} has no tensor maps", machine.name));
    }

    /// A copy of a box, but for where it arrives.
    pub(super) fn tile_copy(&mut self, to: (Handle<Shared>, Handle<Expr>), from: u32, corner: [Handle<Expr>; 3]) {
        self.tile(to, from, corner, false);
    }

    /// A store of a box.
    pub(super) fn tile_store(&mut self, to: u32, corner: [Handle<Expr>; 3], from: (Handle<Shared>, Handle<Expr>)) {
        self.written(Place::Param(to));
        self.tile(from, to, corner, true);
    }

    /// A box of a tensor, and its place in shared memory.
    fn tile(&mut self, (array, at): (Handle<Shared>, Handle<Expr>), tensor: u32, corner: [Handle<Expr>; 3], write: bool) {
        for index in corner {
            self.wants(index, "an index into a tensor is", |ty| ty == Ty::scalar(DType::I32), "i32");
        }
        let place = Place::Shared(array);
        let name = self.names.place(Place::Param(tensor)).to_string();
        let Some(ParamKind::TensorMap(map)) = self.kernel.params.get(tensor as usize).map(|param| param.kind) else {
            return self.say(format!("{name} is not a tensor map"));
        };
        self.require(map.write == write, || {
            if write { format!("{name} is not stored to") } else { format!("{name} is stored to, and not read") }
        });
        let elem = self.kernel.elem(place);
        self.require(elem.is_none_or(|elem| elem == map.elem), || {
            let (from, to) = if write { (elem.unwrap_or(map.elem), map.elem) } else { (map.elem, elem.unwrap_or(map.elem)) };
            format!("a copy from {from} to {to}")
        });
        self.holds_tiles(array, map.swizzle);
        let lanes = u32::try_from(map.elements()).unwrap_or(u32::MAX);
        // One that differs was told above.
        self.access(place, at, elem.map(|elem| Ty::vector(elem, lanes)), map.swizzle.align());
    }

    /// The array can have boxes with this swizzle.
    pub(super) fn holds_tiles(&mut self, array: Handle<Shared>, swizzle: Swizzle) {
        let name = self.names.place(Place::Shared(array)).to_string();
        let align = self.kernel.shared.get(array).map_or(u32::MAX, |shared| shared.align);
        self.require(align >= swizzle.align(), || {
            format!("{name} is aligned to {align} bytes, and the box needs {}", swizzle.align())
        });
    }
}
