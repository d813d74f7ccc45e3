//! The text of tensor maps and of the views that they are given.

use super::{Swizzle, TensorMap, View};

/// The type of a parameter.
pub(super) fn tensor_map(map: &TensorMap) -> String {
    let [outer, rows, columns] = map.tile;
    let write = if map.write { "mut " } else { "" };
    format!("map {write}{}[{outer}, {rows}, {columns}]{}", map.elem, swizzle(map.swizzle))
}

/// Behind what is swizzled.
pub(super) fn swizzle(of: Swizzle) -> String {
    of.row_bytes().map(|bytes| format!(" swizzle {bytes}")).unwrap_or_default()
}

/// What a parameter is given: a view of the buffer of this name.
pub(super) fn view(buffer: &str, view: &View) -> String {
    let ([a, b, c], [outer, row]) = (&view.extents, &view.strides);
    format!("view {buffer}[{a}, {b}, {c}] strides [{outer}, {row}]")
}
