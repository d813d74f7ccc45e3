//! What becomes of sums: the body, and the way of results to memory.

use super::super::{Args, Gemm, Rows, Spot, Tile};
use super::lines::{OfFour, corner, each_box, half, row_at};
use super::{FOUR_WARPS, LINES, LOADING, MULTIPLIERS, MULTIPLYING, Memory, PART};
use crate::kernel::build::{Array, Sums};
use crate::kernel::{Builder, Tiles, Value};
use crate::tiling::{GROUP_DEPTH, block_rows};

/// Puts the sums of four warps through the body, and stores what comes of them. The tile has so many lines.
pub(super) fn finish<'k>(
    k: &'k Builder,
    spec: &Gemm,
    args: &Args<'k>,
    memory: &Memory<'k>,
    (tile, part, lines): (Tile<'k>, OfFour<'k>, Value<'k>),
    sums: Sums<'k>,
) {
    let width = part.width;
    let blocks = half(spec) / LINES;
    let (warp, lane) = (k.bind("warp", k.thread() % FOUR_WARPS as i32 / 32), k.bind("lane", k.thread() % 32));
    let column = k.bind("column", part.column + warp * 16 + lane / 4);
    let line = k.bind("line", part.line(lane % 4 * 2));
    let columns = || (0..blocks).flat_map(|block| [(block, 0), (block, 8)]);
    let rows = || (0..width / 8).flat_map(|eight| [(eight, 0), (eight, 1)]);
    let place = |w: u32, (block, down): (u32, u32), (eight, next): (u32, u32)| {
        (w * blocks + block) * (width / 2) + 4 * eight + down / 4 + next
    };
    let products = |of_column: (u32, u32), of_row: (u32, u32)| -> Vec<_> {
        (0..spec.weights.len() as u32).map(|w| sums.load(place(w, of_column, of_row), 1)).collect()
    };
    let (Rows::Boxes(out), Some(staged)) = (args.out, memory.out) else {
        let row = part.lead.map_or(line, |lead| line - lead);
        let base = Spot::at(k, spec, tile.row + row, tile.column + column);
        // A branch for each row, and none for each element: a code generator may hold each address against those of all branches beside its own.
        for (eight, next) in rows() {
            k.when(row_at(tile, part.lead, line + (8 * eight + next) as i32).is_there, || {
                for (block, down) in columns() {
                    let (below, further) = (8 * eight + next, block * LINES + down);
                    tile.when_column(k, spec, column, further, || {
                        let spot = base.moved(k, spec, below, further);
                        args.finish(k, spec, tile.expert, spot, &products((block, down), (eight, next)));
                    });
                }
            });
        }
        return;
    };
    for (block, down) in columns() {
        let column = k.bind("column", column + (block * LINES + down) as i32);
        let inside = k.bind("inside", column.min(tile.columns - 1) + tile.column);
        for (eight, next) in rows() {
            let row = k.bind("row", row_at(tile, part.lead, line + (8 * eight + next) as i32).nearest);
            // What is beyond the edge is computed of what is inside, and not stored.
            let spot = Spot::at(k, spec, tile.row + row, inside);
            let value = args.value(k, spec, tile.expert, spot, &products((block, down), (eight, next)));
            sums.set(place(0, (block, down), (eight, next)), value);
        }
    }
    // What was there before is stored.
    k.when(stores(k), || k.wait_stores());
    k.barrier_of(MULTIPLIERS, MULTIPLYING);
    // Part p of a line lies at p ^ (line % 8): so eight lines are in all banks.
    let line = k.bind("line", part.line(lane % 8 + lane / 16 * 8));
    let in_line = (warp * 2 + lane / 8 % 2) ^ (line & 7);
    let of_block = (block_rows(spec.tiling) * GROUP_DEPTH) as i32;
    let first = part.column / LINES as i32 * of_block + line * GROUP_DEPTH as i32 + in_line * PART as i32;
    let first = k.bind("first", first);
    for (block, eight) in (0..blocks).flat_map(|block| (0..width / 8).step_by(2).map(move |eight| (block, eight))) {
        let pair = |eight: u32, down: u32| {
            let place = block * (width / 2) + 4 * eight + down / 4;
            sums.load(place, 2).cast(spec.out)
        };
        let pairs = [pair(eight, 0), pair(eight, 8), pair(eight + 1, 0), pair(eight + 1, 8)];
        staged.store_matrix(first + block as i32 * of_block + (8 * eight * GROUP_DEPTH) as i32, &pairs, true);
    }
    k.fence();
    k.barrier_of(MULTIPLIERS, MULTIPLYING);
    k.when(stores(k), || store(k, spec, args, (tile, part.lead, lines), (out, staged)));
}

/// Whether the thread stores results by boxes: the first that multiplies.
pub(super) fn stores<'k>(k: &'k Builder) -> Value<'k> {
    k.thread().eq((LOADING * 32) as i32)
}

/// Stores the results of a tile, which are in shared memory, by boxes.
fn store<'k>(
    k: &'k Builder,
    spec: &Gemm,
    args: &Args<'k>,
    (tile, lead, lines): (Tile<'k>, Option<Value<'k>>, Value<'k>),
    (out, staged): (Tiles, Array<'k>),
) {
    let rows = block_rows(spec.tiling);
    // Where no lines come before them a tile's rows end with the tensor or with a box: the first twin has whole ones.
    let lines = lead.map_or(tile.rows, |_| lines);
    for block in 0..spec.tiling.columns / LINES {
        let first = block * LINES;
        let boxes = || {
            let column = k.bind("column", tile.column + first as i32);
            each_box(k, spec.tiling, lines, &|line| {
                let at = k.i32(((block * rows + line) * GROUP_DEPTH) as i32);
                k.tile_store(out, corner(k, args, tile, lead, (line, column)), (staged, at));
            });
        };
        let is_inside = first == 0 || !spec.has_edge();
        if is_inside { boxes() } else { k.when(tile.columns.gt(first as i32), boxes) }
    }
}
