//! What a product costs under a tiling: work, bytes read again, and how long tiles take to get what they read.

use super::sorting::MEETING_STEPS;
use super::{
    Bringing, DOT_COLUMNS_OF_WARP, DOT_ROWS, DOT_THREADS, FMA_DEPTH, GROUP_DEPTH, HostStep, Kind, MATRIX, OUTER_DEPTH,
    OUTER_ROWS, Product, ROW_TILES_TOGETHER, SIDE, STREAM_BLOCKS, STREAM_DEPTH, STREAM_THREADS, Stages, Tiling, WIDENING_BLOCKS,
    WIDENING_ROWS, dot_elements, group_ring, group_widths, host_panel, host_rectangle, host_step, host_unit, mma_bringing,
    mma_loads, mma_shape, mma_stages, mma_turns, mma_warps, stored, stream_factors, stream_steps, warp_matrices,
};
use crate::machine::Unit;
use crate::{DType, Machine};

/// The part of the rate of [`Unit::Group`] that products of large matrices reach: about 780 of 989 TFLOP/s on an H200.
const GROUP_REACHES: [u128; 2] = [4, 5];

/// Lines of which a warp of [`Kind::Mma`] that [loads](Bringing::Loads) has elements: a lane has 8 of 64.
const LINES_OF_LOAD: u64 = 4;

/// Sizes of groups that stand for all.
const SIZES: u64 = 8;

/// The work of a product's arithmetic under a tiling, in FLOPs that take as long at the machine's full rate: the multiplications
/// and additions of `rows` rows in `groups` groups, and what the cut adds to them.
///
/// * **Tile quantisation.** A GPU's block computes all of its tile. The host computes the rows and columns that there are.
/// * **Wave quantisation.** Blocks are spread over the processors; the last round may leave some of them idle. Of twins each has half of the
///   rows, and takes as long as the one with more.
/// * **Operands from shared memory** (GPU). A thread reads a vector of each side for `rows / 16 x columns / 16` products a weight;
///   a vector takes the time of four scalar multiplications and additions. By dot products a lane loads a vector of each row and
///   column for all of theirs; a vector takes the time of one product of vectors, to load and to widen. By matrices a block takes
///   as long as shared memory is read and written, or as its products by the rate of the unit, whichever is longer, and a quarter of
///   the other, which is not hidden where published kernels have such tiles (`ir/tests/peers.rs`): see `mma_slots`.
///   By groups of warps, in twin blocks too, a product of n rows takes `max(n / 2, 16 + n / 4)` clocks: shared memory is read at 128 bytes a clock, 2048 of
///   the weights and 32 n of the rows. By streams the rate decides, or loads of a vector a lane:
///   one takes the time of an eighth of a product of matrices at the rate of vectors, which is that of a product of vectors.
/// * **The end of a sum** (dot products). The lanes' sums are added in some twenty steps each; on the host they take as long as four vectors,
///   for each part of K.
/// * **Vectors beside products** (host). A vector that is loaded for products, and one that is widened to f32, takes two thirds of the time of
///   a product of vectors: measured on Zen 4. By outer products weights are widened and transposed before, once a row tile: see
///   `pack_instructions`.
/// * **What no product hides** (matrices). A block that follows another waits for its first bytes, and where one stage follows another all
///   warps meet; the other blocks of the processor go on meanwhile.
/// * **The rate** of matrix instructions, in place of the machine's; a stage beyond K is computed whole. Of that of groups of warps
///   four fifths are reached.
pub fn flops(tiling: Tiling, of: &Product, [rows, groups]: [u64; 2], machine: &Machine) -> u64 {
    let (tile_rows, tile_columns, weights) = (u64::from(tiling.rows), u64::from(tiling.columns), of.weights.len() as u64);
    let (row_tiles, column_tiles) = (row_tiles(tile_rows, [rows, groups]), of.n.div_ceil(tile_columns));
    let of_tile = u64::from(tiling.kind.blocks());
    let blocks = row_tiles.saturating_mul(column_tiles).saturating_mul(of_tile);
    let step = |rows: u64, columns: u64| rows.saturating_mul(columns).saturating_mul(2).saturating_mul(weights);
    let whole = || step(row_tiles.saturating_mul(tile_rows), column_tiles * tile_columns);
    let scaled = |work: u64, by: u128, of: u128| u64::try_from(u128::from(work) * by / of.max(1)).unwrap_or(u64::MAX);
    let (useful, depth) = match tiling.kind {
        Kind::Dot => {
            let width = u64::from(DOT_COLUMNS_OF_WARP);
            let (products, reads) = (tile_rows * width * weights, tile_rows + width * weights);
            let ends = 20 * u64::from(machine.warp_lanes);
            (whole().saturating_mul(products + reads) / products.max(1), of.k.saturating_add(ends))
        }
        Kind::Mma => {
            let (Some([multiplied, shared]), Some(stages)) = (mma_slots(tiling, of, machine), mma_stages(tiling, of, machine))
            else {
                return u64::MAX;
            };
            let depth = of.k.checked_next_multiple_of(stages.depth.into()).unwrap_or(of.k);
            let processors = u64::from(machine.processors).max(1);
            let resident = u64::from(stages.resident).min(blocks.div_ceil(processors)).max(1);
            let slots = multiplied.max(shared) + multiplied.min(shared) / 4;
            // Picoseconds of a block, as FLOPs of its processor. What the first blocks wait for any kernel waits for.
            let waits =
                |ps: u64| u128::from(ps / resident) * u128::from(machine.vector_rate()) / u128::from(processors) / 1_000_000;
            let of_block = u128::from(depth) * slots / u128::from(mma_shape(of.rows).extents().2)
                + waits((depth / u64::from(stages.depth)).saturating_mul(machine.step_ps));
            let later = u128::from(blocks.saturating_sub(resident.saturating_mul(processors)));
            let work = of_block.saturating_mul(blocks.into()).saturating_add(later.saturating_mul(waits(machine.memory_ps)));
            (u64::try_from(work).unwrap_or(u64::MAX), 1)
        }
        Kind::Stream => {
            let Some(rate) = machine.rate(Unit::Matrix(MATRIX), of.rows) else { return u64::MAX };
            let factors = u128::from(stream_factors(tiling, of.weights.len()).unwrap_or(1));
            let eights = u128::from(tile_rows / 8);
            let (products, loads) = (2 * factors * eights, 2 * factors + eights);
            let at_rate = scaled(whole(), u128::from(machine.vector_rate()), u128::from(rate));
            // Of the first loads nothing is there yet, and the end is one of some ten steps.
            let depth = of.k.checked_next_multiple_of(STREAM_DEPTH.into()).unwrap_or(of.k).saturating_add(STREAM_DEPTH.into());
            (at_rate.max(scaled(whole(), loads, 8 * products)), depth)
        }
        Kind::Group | Kind::Twin => {
            let Some(rate) = machine.rate(Unit::Group, of.rows) else { return u64::MAX };
            let per_tile = |rows: u64| {
                let widths = group_widths(tiling).map(u64::from);
                let width = widths.into_iter().find(|width| rows <= *width).unwrap_or(widths[2]);
                let products = step((width / 2).max(16 + width / 4).saturating_mul(2), tile_columns);
                let [reached, of] = GROUP_REACHES;
                scaled(products, u128::from(machine.vector_rate()) * of, u128::from(rate) * reached)
            };
            // Of a column of tiles, each shared by so many groups of warps by rows. Rows of the blocks of a cluster are even, and each takes
            // as long as the one with more of them.
            let of_rows = |rows: u64, by: u64| {
                let last = if rows.is_multiple_of(tile_rows) { 0 } else { per_tile((rows % tile_rows).div_ceil(of_tile * by)) };
                let full = (rows / tile_rows).saturating_mul(per_tile(tile_rows / (of_tile * by)));
                full.saturating_add(last).saturating_mul(of_tile)
            };
            let groups = groups.min(rows).max(1);
            let of_column = |by: u64| match groups {
                1 => of_rows(rows, by),
                // Groups have from none to twice the mean: some of these sizes, as far apart as there are of them.
                _ => {
                    let most = rows.div_ceil(groups).saturating_mul(2);
                    let sizes = (0..SIZES).map(|i| of_rows((2 * i + 1).saturating_mul(most).div_ceil(2 * SIZES), by));
                    (sizes.fold(0, u64::saturating_add) / SIZES).saturating_mul(groups)
                }
            };
            let last = match of.n % tile_columns {
                0 => 0,
                rest if rest <= tile_columns / 2 => of_column(2),
                _ => of_column(1),
            };
            let work = of_column(1).saturating_mul(of.n / tile_columns).saturating_add(last);
            (work, of.k.checked_next_multiple_of(GROUP_DEPTH.into()).unwrap_or(of.k))
        }
        Kind::Outer | Kind::Packed | Kind::Widened => {
            let stored: Vec<DType> = of.weights.iter().map(|weight| stored(*weight, tiling.kind)).collect();
            let (unit, elem) = host_unit(of.rows, &stored, machine);
            let Some(rate) = machine.rate(unit, elem) else { return u64::MAX };
            // Of few rows a sum waits for itself: measured as long as four rows beside transposing, as two where weights are packed.
            let least = if tiling.kind == Kind::Outer { 4 } else { 2 };
            let (products, least) = (step(rows, of.n), step(groups.min(rows).saturating_mul(least), of.n));
            let at_rate = |products: u64| scaled(products, u128::from(machine.vector_rate()), u128::from(rate));
            let all = |instructions: &dyn Fn(DType) -> u64| {
                stored.iter().fold(0_u64, |sum, weight| sum.saturating_add(instructions(*weight))).saturating_mul(PACK_FLOPS)
            };
            if tiling.kind == Kind::Outer {
                let packed = all(&|weight| pack_instructions(weight, unit, of.n));
                let begun = PACK_BEGIN.saturating_mul(of.k.div_ceil(OUTER_DEPTH.into()));
                let begun = begun.saturating_add(PACK_COLD).saturating_add(of.k);
                let packing = row_tiles.saturating_mul(packed).saturating_mul(begun);
                (at_rate(products.max(least)).saturating_mul(of.k).saturating_add(packing), 1)
            } else {
                let of_tile = rows.div_ceil(row_tiles.max(1));
                let widened = row_tiles.saturating_mul(all(&|weight| widen_instructions(weight, unit, of.n, of_tile)));
                (at_rate(products).saturating_add(widened).max(at_rate(least)), of.k)
            }
        }
        Kind::Fma if machine.has_threads() => {
            let (each_row, each_column) = (tile_rows / u64::from(SIDE), tile_columns / u64::from(SIDE));
            let (products, reads) = (each_row * each_column * weights, 1 + weights);
            (whole().saturating_mul(products + 4 * reads) / products.max(1), of.k)
        }
        Kind::Fma => {
            let (unit, elem) = host_unit(of.rows, &of.weights, machine);
            let Some(rate) = machine.rate(unit, elem) else { return u64::MAX };
            let at_rate = scaled(step(rows, of.n), u128::from(machine.vector_rate()), u128::from(rate));
            let [height, width] = host_rectangle(rows.div_ceil(groups.max(1)), of.weights.len(), machine);
            let is_narrow = |elem: DType| u64::from(elem != DType::F32);
            let of_weights = |each: &dyn Fn(DType) -> u64| of.weights.iter().map(|weight| width * each(*weight)).sum::<u64>();
            let loaded = height + width * weights;
            let widened = match host_step(of.rows, &of.weights, machine) {
                HostStep::Numbers => height * is_narrow(of.rows) + of_weights(&is_narrow),
                HostStep::Halves => of_weights(&|_| 1),
                HostStep::Pairs => 0,
            };
            let (products, vectors) = (3 * height * width * weights.max(1), 2 * (loaded + widened));
            let slots = scaled(at_rate, u128::from(products + vectors), u128::from(products));
            let ends = 4 * u64::from(machine.vector_bytes) / DType::F32.bytes();
            (slots, of.k.saturating_add(ends * of.k.div_ceil(host_panel(of.rows))))
        }
    };
    let processors = u64::from(machine.processors).max(1);
    let waves = blocks.div_ceil(processors).saturating_mul(processors);
    let spread = u128::from(useful) * u128::from(waves) / u128::from(blocks.max(1));
    u64::try_from(spread).unwrap_or(u64::MAX).saturating_mul(depth)
}

/// FLOPs that an instruction of 8 lanes could make.
const PACK_FLOPS: u64 = 16;

/// Elements of K that are packed in the time in which eight columns of a part are begun.
const PACK_BEGIN: u64 = 32;

/// Elements of K that are packed in the time in which memory answers for the first part of a tile, which was not asked for before.
const PACK_COLD: u64 = 64;

/// Instructions that put a line of weights to a panel of [`Kind::Outer`], for each element of all of its columns: of 64 lanes of 32 bits
/// 8 loads, 24 that transpose, 8 stores; where these are pairs to be widened also 16 that widen and 8 stores more.
fn pack_instructions(weight: DType, unit: Unit, columns: u64) -> u64 {
    match (weight, unit) {
        (DType::BF16, Unit::Dot) => columns.div_ceil(16).saturating_mul(5),
        (DType::BF16, _) => columns.div_ceil(2),
        (DType::Bool | DType::I32 | DType::I64 | DType::F16 | DType::F32, _) => columns.div_ceil(8).saturating_mul(5),
    }
}

/// Instructions that widen a line of weights that lies in panels, for each element of all of its columns, for so many rows of a tile: of
/// 16 elements of bf16 a load and 2 that widen for each block of few rows, or a load, 2 that widen and 2 stores once. Others are widened as
/// they are loaded, or not at all.
fn widen_instructions(weight: DType, unit: Unit, columns: u64, rows: u64) -> u64 {
    match (weight, unit) {
        (DType::BF16, Unit::Vector | Unit::Matrix(_) | Unit::Group) => {
            let blocks = rows.div_ceil(WIDENING_ROWS.into());
            columns.div_ceil(16).saturating_mul(if blocks <= WIDENING_BLOCKS.into() { 3 * blocks } else { 5 })
        }
        (DType::F16, _) => columns.div_ceil(8).saturating_mul(rows.div_ceil(OUTER_ROWS.into())),
        (DType::BF16, Unit::Dot) | (DType::Bool | DType::I32 | DType::I64 | DType::F32, _) => 0,
    }
}

/// What a block of [`Kind::Mma`] takes for 32 bytes of K, in FLOPs at the machine's full rate: its products, and what shared memory gives
/// and takes for them. All warps read their fragments, and copies bring each line once. Where elements are loaded one by one, a load of a warp
/// takes the slots of 128 bytes of all the lines that it reads of, which go through the same port.
fn mma_slots(tiling: Tiling, of: &Product, machine: &Machine) -> Option<[u128; 2]> {
    let shape = mma_shape(of.rows);
    let (rate, shared) = (machine.rate(Unit::Matrix(shape), of.rows)?, machine.shared_bytes_per_us?);
    let (count, warps) = (of.weights.len(), mma_warps(tiling, of.weights.len())?);
    let (depth, lines) = (shape.extents().2, u64::from(tiling.rows) + count as u64 * u64::from(tiling.columns));
    let read = u64::from(warps * mma_loads(warp_matrices(tiling, count, warps), count) * 4 * 128);
    let elements = lines * u64::from(depth);
    let loaded = match mma_bringing(of.k, of.rows, machine)? {
        Bringing::Copies(_) => 0,
        Bringing::Loads => elements * LINES_OF_LOAD * 128 / 32,
    };
    let brought = elements * of.rows.bytes() + loaded;
    let products = 2 * u128::from(tiling.rows * tiling.columns * depth) * count as u128;
    let at = |amount: u128, per_us: u64| amount * u128::from(machine.vector_rate()) / u128::from(per_us.max(1));
    Some([at(products, rate), at(u128::from(read + brought), shared)])
}

/// Row tiles of all groups together. Groups are of any size, so that the last tile of each is half full in the mean; none has less than
/// one tile. A single group has the tiles that its rows take.
fn row_tiles(tile_rows: u64, [rows, groups]: [u64; 2]) -> u64 {
    let (full, groups) = (rows.div_ceil(tile_rows), groups.min(rows).max(1));
    if groups == 1 { full } else { full.saturating_add(groups / 2).max(groups) }
}

/// How often the weights of a group come from memory. The blocks of a row tile follow each other along the columns, so that the next
/// row tile finds weights in the cache where all of its group's are at most half of it. Those of products by matrices take some
/// [row tiles](ROW_TILES_TOGETHER) together.
pub fn passes(tiling: Tiling, [rows, groups]: [u64; 2], group_bytes: u64, machine: &Machine) -> u64 {
    let row_tiles = rows.div_ceil(groups.min(rows).max(1)).div_ceil(u64::from(tiling.rows)).max(1);
    let together = match tiling.kind {
        Kind::Group | Kind::Twin | Kind::Stream | Kind::Mma => u64::from(ROW_TILES_TOGETHER),
        Kind::Fma | Kind::Dot | Kind::Outer | Kind::Packed | Kind::Widened => 1,
    };
    if group_bytes <= machine.cache_bytes / 2 { 1 } else { row_tiles.div_ceil(together) }
}

/// How long tiles take to get what they read, picoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feeding {
    /// Memory answers for the weights, of which no more bytes are under way at a time than the blocks that run together have asked for.
    pub waiting: u64,
    /// The stages of a ring that is asked for a stage's next bytes when the product of those before is over: what memory takes and the
    /// product come one after the other, in as many stages at a time. 0: there is no such ring.
    pub ring: u32,
    /// The last cache gives what all tiles read, rows and weights: once for both twins.
    pub caching: u64,
}

/// That of a product under a tiling, whose weights are so many bytes from memory. On a host each core has what it reads in a cache of
/// its own.
pub fn feeding(tiling: Tiling, of: &Product, [rows, groups]: [u64; 2], bytes: u64, machine: &Machine) -> Feeding {
    let Some(cache) = machine.cache_bytes_per_us else { return Feeding::default() };
    let ps = |of: u128, by: u128| u64::try_from(of / by.max(1)).unwrap_or(u64::MAX);
    let (row_tiles, column_tiles) = (row_tiles(tiling.rows.into(), [rows, groups]), of.n.div_ceil(tiling.columns.into()));
    let blocks = row_tiles.saturating_mul(column_tiles).saturating_mul(tiling.kind.blocks().into());
    let [of_block, resident] = under_way(tiling, of, machine);
    let together = blocks.clamp(1, resident.saturating_mul(machine.processors.into()).max(1));
    let lines =
        row_tiles.saturating_mul(of.weights.len() as u64).saturating_mul(of.n).saturating_add(rows.saturating_mul(column_tiles));
    let read = u128::from(lines) * u128::from(of.k.saturating_mul(of.rows.bytes()));
    let ring = match tiling.kind {
        Kind::Group | Kind::Twin => group_ring(tiling, of.weights.len(), machine).map_or(0, |ring| ring.stages),
        Kind::Fma | Kind::Dot | Kind::Outer | Kind::Packed | Kind::Widened | Kind::Mma | Kind::Stream => 0,
    };
    // Tiles that share weights run together, and each waits for them.
    let bytes = if ring == 0 { bytes.into() } else { u128::from(row_tiles) * u128::from(weights_bytes(of)) };
    Feeding {
        waiting: ps(bytes * u128::from(machine.memory_ps), together.saturating_mul(of_block).into()),
        ring,
        caching: ps(read.saturating_mul(1_000_000), cache.into()),
    }
}

/// Picoseconds in which blocks that make tiles together wait for each other: when all have begun, and before one ends.
pub fn meeting_ps(tiling: Tiling, machine: &Machine) -> u64 {
    if tiling.kind.blocks() > 1 { 2 * MEETING_STEPS * machine.step_ps } else { 0 }
}

/// Bytes of the weights of one group.
fn weights_bytes(of: &Product) -> u64 {
    of.weights.iter().fold(0, |sum, weight| sum.saturating_add(of.n.saturating_mul(of.k).saturating_mul(weight.bytes())))
}

/// Bytes of weights that a block has asked memory for at a time, and blocks that a processor has at a time.
fn under_way(tiling: Tiling, of: &Product, machine: &Machine) -> [u64; 2] {
    let (weights, columns) = (of.weights.len() as u64, u64::from(tiling.columns));
    let lines = |depth: u32| weights.saturating_mul(columns).saturating_mul(depth.into()).saturating_mul(of.rows.bytes());
    match tiling.kind {
        // All stages, one product after.
        Kind::Group | Kind::Twin => {
            let stages = group_ring(tiling, of.weights.len(), machine).map_or(2, |ring| ring.stages);
            [lines(GROUP_DEPTH * stages) / u64::from(tiling.kind.blocks()), 1]
        }
        // All but the stage that is multiplied, or what is in registers.
        Kind::Mma => {
            let Some(Stages { depth, count, resident }) = mma_stages(tiling, of, machine) else { return [lines(1), 1] };
            let of_block = match mma_bringing(of.k, of.rows, machine) {
                Some(Bringing::Loads) => lines(depth) / u64::from(mma_turns(depth, of.rows)),
                Some(Bringing::Copies(_)) | None => lines(depth * (count - 1)),
            };
            [of_block, resident.into()]
        }
        Kind::Stream => {
            let factors = u64::from(stream_factors(tiling, of.weights.len()).unwrap_or(1));
            let loads = 2 * factors * u64::from(stream_steps(tiling, of.weights.len(), of.k));
            [loads * 16 * u64::from(STREAM_THREADS), STREAM_BLOCKS.into()]
        }
        // A vector of each column a lane. Beside its sums a thread has some 64 registers.
        Kind::Dot => {
            let sums = u64::from(DOT_ROWS * DOT_COLUMNS_OF_WARP) * weights.saturating_mul(dot_elements(of.rows, &of.weights));
            let resident = 65_536 / u64::from(DOT_THREADS) / sums.saturating_add(64);
            [weights.saturating_mul(u64::from(16 * DOT_COLUMNS_OF_WARP * DOT_THREADS)), resident.max(1)]
        }
        // A slice before it is put to shared memory.
        Kind::Fma | Kind::Outer | Kind::Packed | Kind::Widened => [lines(FMA_DEPTH), 4],
    }
}
