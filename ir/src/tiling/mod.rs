//! How a product is cut into tiles on a machine, and what the cut costs. The cost model and the schedule both ask here and know
//! neither each other nor how a tile is computed.

mod matrices;
mod routing;
mod sorting;
mod work;

use std::fmt;

use crate::machine::{Pack, Unit};
use crate::{DType, Machine};
pub use matrices::{
    Bringing, MATRIX, Stages, mma_bringing, mma_loaded, mma_loads, mma_part, mma_shape, mma_shared_bytes, mma_stages, mma_turns,
    mma_warps, warp_matrices,
};
pub use routing::{
    LANE_KEYS, LOGIT_DEPTH, LogitTiles, ROUTE_SLICE, ROUTE_TOKENS, Routing, logit_tiles, pick_ps, route_bytes, run_of_block,
};
pub use sorting::{Sorting, chunk_items, rank_warps};
pub use work::{Feeding, feeding, flops, meeting_ps, passes};

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// By multiply-adds of single numbers, in f32: a GPU's thread has some sums, the host's has vectors of them.
    Fma,
    /// By products of small matrices, a warp each: [`Unit::Matrix`]. Their sums round in another order.
    Mma,
    /// By products of matrices that four warps compute together while others load for the next: [`Unit::Group`]. Blocks are persistent:
    /// each goes through many tiles. Their sums round as those of `Mma`.
    Group,
    /// As by `Group`, by two blocks together: each has half of the rows, and brings half of the weights to both. The same sums.
    Twin,
    /// By products of small matrices whose factors come straight from memory, for few rows. Blocks are persistent, and their warps split K.
    /// Their sums round in another order.
    Stream,
    /// By dot products of a GPU's warp, whose lanes split K among them. Their sums round in another order.
    Dot,
    /// By outer products on the host: the columns' weights are transposed, the rows' factors stand in all lanes. Their sums round in another
    /// order.
    Outer,
    /// As by `Outer`, of weights that lie in panels since they were bound. The same sums.
    Packed,
    /// As by `Packed`, of weights that were widened to f32 meanwhile.
    Widened,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] =
        [Kind::Fma, Kind::Mma, Kind::Group, Kind::Twin, Kind::Stream, Kind::Dot, Kind::Outer, Kind::Packed, Kind::Widened];

    /// The word before a tile's size.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Fma => "tile",
            Kind::Mma => "mma",
            Kind::Group => "group",
            Kind::Twin => "twin",
            Kind::Stream => "stream",
            Kind::Dot => "dot",
            Kind::Outer => "outer",
            Kind::Packed => "packed",
            Kind::Widened => "widened",
        }
    }

    /// How the weights lie that it multiplies.
    pub const fn pack(self) -> Pack {
        match self {
            Kind::Packed => Pack::Panels,
            Kind::Widened => Pack::F32,
            Kind::Fma | Kind::Mma | Kind::Group | Kind::Twin | Kind::Stream | Kind::Dot | Kind::Outer => Pack::None,
        }
    }

    /// Blocks that make a tile together, a cluster.
    pub const fn blocks(self) -> u32 {
        match self {
            Kind::Twin => 2,
            Kind::Fma | Kind::Mma | Kind::Group | Kind::Stream | Kind::Dot => 1,
            Kind::Outer | Kind::Packed | Kind::Widened => 1,
        }
    }
}

/// A rectangle of a product's result that one block makes, or some together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tiling {
    /// How it is computed.
    pub kind: Kind,
    /// Rows, all of one expert.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
}

impl fmt::Display for Tiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} by {})", self.kind.word(), self.rows, self.columns)
    }
}

/// What is multiplied: `[M, K]` rows and, for each of some weights, `[N, K]`, dense or of each expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Element type of the rows.
    pub rows: DType,
    /// N.
    pub n: u64,
    /// K.
    pub k: u64,
    /// Element types of the weights that are multiplied side by side.
    pub weights: Vec<DType>,
    /// Whether factors, which are f32, may be rounded to tf32.
    pub tf32: bool,
}

/// Rows of the highest tile of most machines: the sort cuts each expert's rows by these, or by those of a higher tile that the layer
/// has, and lower tiles are parts of what it cuts.
pub const MOST_ROWS: u32 = 64;

/// Rows of a machine's highest tile.
pub fn most_rows(machine: &Machine) -> u32 {
    let of_matrices = machine.has_matrices().then_some(matrices::MOST_ROWS);
    let of_groups = machine.has_groups().then_some(if has_twins(machine) { 2 * GROUP_ROWS[0] } else { GROUP_ROWS[0] });
    [of_matrices, of_groups].into_iter().flatten().fold(MOST_ROWS, u32::max)
}

/// Threads of a GPU's block: 16 by 16, each with as many rows and columns of the tile as every other.
pub const SIDE: u32 = 16;

/// Elements along K that a GPU's block of [`Kind::Fma`] has in shared memory, at most: a warp reads a whole line.
pub const FMA_DEPTH: u32 = 32;

/// Threads of a block of [`Kind::Dot`]: eight warps.
pub const DOT_THREADS: u32 = 256;

/// Rows of a tile of [`Kind::Dot`].
const DOT_ROWS: u32 = 4;

/// Columns that a warp of [`Kind::Dot`] computes.
pub const DOT_COLUMNS_OF_WARP: u32 = 2;

/// Threads of a block of [`Kind::Group`]: four warps that load, and two times four that multiply.
pub const GROUP_THREADS: u32 = 384;

/// Elements along K that a block of [`Kind::Group`] has in shared memory a stage: lines of 128 bytes.
pub const GROUP_DEPTH: u32 = 64;

/// Rows of a block of [`Kind::Group`] and [`Kind::Twin`]: any multiple of 64 up to 256 would do, since the least of its widths is a quarter.
const GROUP_ROWS: [u32; 2] = [128, 64];

/// Rows of the highest box of rows of [`Kind::Group`] and [`Kind::Twin`]: those of the narrowest product.
pub const GROUP_BOX_ROWS: u32 = GROUP_ROWS[0] / 4;

/// Threads of a block of [`Kind::Stream`]: four warps.
pub const STREAM_THREADS: u32 = 128;

/// Elements along K that the warps of [`Kind::Stream`] take together in a step: 32 each.
pub const STREAM_DEPTH: u32 = 128;

/// Blocks of [`Kind::Stream`] that a processor has at a time. With more, a thread has fewer registers than ptxas wants.
pub const STREAM_BLOCKS: u32 = 2;

/// Rows of a tile of [`Kind::Stream`].
const STREAM_ROWS: [u32; 2] = [16, 8];

/// Columns of a tile of [`Kind::Stream`].
const STREAM_COLUMNS: [u32; 3] = [32, 16, 8];

/// Left factors of a warp of [`Kind::Stream`], at most.
const STREAM_FACTORS: u32 = 2;

/// Registers that a thread of [`Kind::Stream`] has for sums and for what is under way: half of them, so that ptxas spills none.
const STREAM_REGISTERS: u32 = 128;

/// Stages of [`Kind::Group`] beyond which no more bytes need be under way.
const GROUP_STAGES: u32 = 6;

/// Row tiles of persistent blocks that go through the columns together: so often fewer times weights come from memory, and their rows are a
/// small part of the second cache.
pub const ROW_TILES_TOGETHER: u32 = 8;

/// Columns that two times four warps multiply together, 64 each.
const GROUP_COLUMNS: u32 = 128;

/// The stages that a block of [`Kind::Group`] goes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// How many.
    pub stages: u32,
    /// Weights that a stage has room for.
    pub weights: u32,
}

/// Sums that a thread of [`Kind::Mma`] or [`Kind::Group`] may have: half of its registers.
const MOST_SUMS: u32 = 128;

/// Bytes of the weights of a column block on the host: what stays in the second cache.
const HOST_BLOCK_BYTES: u64 = 256 * 1024;
/// Bytes of a row that the host takes at a time: four such rows leave most of the first cache to the weights, even where rows
/// are a power of two apart.
const HOST_PANEL_BYTES: u64 = 4096;

/// How a weight lies in panels: see `schedule::gemm::pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panels {
    /// Columns of a panel: lanes of a vector of f32.
    pub columns: u32,
    /// Elements of K that lie beside each other: a line has so many of each column.
    pub of_line: u32,
    /// Columns of a group, padded ones included.
    pub n: u64,
    /// Elements of K of a column, padded ones included.
    pub k: u64,
}

/// The panels of a weight of so many columns and such sums, of this element type.
pub fn panels(elem: DType, [n, k]: [u64; 2], machine: &Machine) -> Panels {
    let columns = machine.vector_bytes / DType::F32.bytes() as u32;
    // Pairs of bf16 are what dot products take, and each half is widened by one instruction.
    let of_line = if elem == DType::BF16 { 2 } else { 1 };
    let padded = |extent: u64, to: u32| extent.checked_next_multiple_of(to.into()).unwrap_or(extent);
    // A tile takes the columns of as many vectors at a time as it has of one weight.
    Panels { columns, of_line, n: padded(n, OUTER_VECTORS * columns), k: padded(k, of_line) }
}

/// Element type of a weight as a kind of tile reads it.
pub fn stored(weight: DType, kind: Kind) -> DType {
    match kind.pack() {
        Pack::F32 => DType::F32,
        Pack::None | Pack::Panels => weight,
    }
}

/// Rows of a block of [`Kind::Outer`], at most: with two vectors of weights each has two sums.
pub const OUTER_ROWS: u32 = 6;

/// Rows of a block of [`Kind::Packed`] that multiplies weights as they lie, though they are to be widened, at most: with one more the
/// vectors do not fit 16 registers.
pub const WIDENING_ROWS: u32 = 5;

/// Such blocks of a tile up to which each of them widens the weights: to widen them to scratch takes as long as to widen them twice.
pub const WIDENING_BLOCKS: u32 = 2;

/// Panels of weights that lie in memory as they are multiplied, which a tile of few rows takes side by side.
pub const WIDE_PANELS: u32 = 2;

/// Rows of such a tile, at most: with one more the sums do not fit 16 registers.
pub const WIDE_ROWS: u32 = 2;

/// Elements along K that a block of [`Kind::Outer`] takes at a time: their panel stays in the first cache.
pub const OUTER_DEPTH: u32 = 256;

/// Vectors of a panel of [`Kind::Outer`], of all weights together.
const OUTER_VECTORS: u32 = 2;

/// Columns of a tile of [`Kind::Outer`], of all weights together: its finished sums are a part of the second cache.
const OUTER_COLUMNS: u32 = 256;

/// Whether a product can be computed by outer products: its sums fit the registers.
fn has_outer(of: &Product, machine: &Machine) -> bool {
    !machine.has_threads() && (1..=OUTER_VECTORS as usize).contains(&of.weights.len())
}

/// Columns of each weight in a panel of [`Kind::Outer`].
pub fn outer_columns(weights: usize, machine: &Machine) -> u32 {
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    lanes * OUTER_VECTORS / weights.max(1) as u32
}

/// Elements along K that the host takes at a time.
pub fn host_panel(rows: DType) -> u64 {
    HOST_PANEL_BYTES / rows.bytes()
}

/// Rows of a rectangle of sums of [`Kind::Fma`] on the host. Four streams of weights at two columns and two weights: taller rectangles reuse
/// weights more, but with fewer streams memory is not kept busy (measured: 8 rows, a fifth slower at 8 rows an expert).
const HOST_TALLEST: u64 = 4;

/// Sums of such a rectangle that fit the registers beside what they are made of: there are 32 where vectors have 64 bytes, else 16.
fn host_sums(machine: &Machine) -> u64 {
    if machine.vector_bytes == 64 { 16 } else { 8 }
}

/// The greatest power of two that is not above `n`, at least 1.
fn power_of_two_up_to(n: u64) -> u64 {
    1 << n.max(1).ilog2()
}

/// Rows and columns of the rectangle of sums of [`Kind::Fma`] on the host that takes most of so many rows.
pub fn host_rectangle(rows: u64, weights: usize, machine: &Machine) -> [u64; 2] {
    let sums = host_sums(machine) / (weights as u64).max(1);
    let height = power_of_two_up_to(sums).min(HOST_TALLEST).min(power_of_two_up_to(rows));
    [height, power_of_two_up_to(sums / height).min(4)]
}

/// What computes [`Kind::Fma`] on the host, on which elements: dot products where the machine has them for the factors, which are of
/// one type, else multiply-adds in f32.
pub fn host_unit(rows: DType, weights: &[DType], machine: &Machine) -> (Unit, DType) {
    let has_dot = machine.rate(Unit::Dot, rows).is_some() && weights.iter().all(|weight| *weight == rows);
    if has_dot { (Unit::Dot, rows) } else { (Unit::Vector, DType::F32) }
}

/// What [`Kind::Fma`] multiplies in one step along K on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// A vector of numbers, each widened to f32.
    Numbers,
    /// Two vectors: a vector of bf16 holds even elements in the lower halves of 32 bits, and odd ones in the upper halves, so that each takes
    /// one instruction to widen. The rows lie in scratch in this order, as f32.
    Halves,
    /// Pairs of numbers, by dot products.
    Pairs,
}

impl HostStep {
    /// Elements along K in one step, where a vector has so many lanes of f32.
    pub fn elements(self, lanes: u32) -> u32 {
        match self {
            HostStep::Numbers => lanes,
            HostStep::Halves | HostStep::Pairs => 2 * lanes,
        }
    }
}

/// The steps of a product.
pub fn host_step(rows: DType, weights: &[DType], machine: &Machine) -> HostStep {
    match host_unit(rows, weights, machine).0 {
        Unit::Dot => HostStep::Pairs,
        Unit::Vector | Unit::Matrix(_) | Unit::Group if weights.iter().all(|weight| *weight == DType::BF16) => HostStep::Halves,
        Unit::Vector | Unit::Matrix(_) | Unit::Group => HostStep::Numbers,
    }
}

/// The tilings that a machine has kernels for, the one for large batches first.
pub fn candidates(of: &Product, machine: &Machine) -> Vec<Tiling> {
    if machine.has_threads() {
        let of_kind = |kind| [64, 32, 16].map(|rows| Tiling { kind, rows, columns: 64 });
        let by_matrices = matrices::by_matrices(of, machine);
        let kinds = [Kind::Group, Kind::Twin].into_iter().filter(|kind| kind.blocks() == 1 || has_twins(machine));
        let by_groups = kinds.flat_map(|kind| GROUP_ROWS.map(|rows| (kind, rows))).flat_map(|(kind, rows)| {
            let of_columns = |columns| Tiling { kind, rows: kind.blocks() * rows, columns };
            [2 * GROUP_COLUMNS, GROUP_COLUMNS].map(of_columns)
        });
        let by_groups = by_groups.filter(|tiling| has_groups(*tiling, of, machine));
        let by_streams =
            STREAM_ROWS.into_iter().flat_map(|rows| STREAM_COLUMNS.map(|columns| Tiling { kind: Kind::Stream, rows, columns }));
        let by_streams = by_streams.filter(|tiling| has_streams(*tiling, of, machine));
        let dot = Tiling { kind: Kind::Dot, rows: DOT_ROWS, columns: DOT_COLUMNS_OF_WARP * DOT_THREADS / machine.warp_lanes };
        let by_matrices = by_groups.chain(by_matrices).chain(by_streams);
        return by_matrices.chain(of_kind(Kind::Fma)).chain(has_dot(of).then_some(dot)).collect();
    }
    let weights: u64 = of.weights.iter().map(|w| w.bytes() * of.k.min(host_panel(of.rows))).sum();
    let sums = u64::from(MOST_ROWS) * of.weights.len() as u64 * DType::F32.bytes();
    let columns = match (HOST_BLOCK_BYTES / weights.max(1)).min(u64::from(machine.shared_bytes) / sums.max(1)) {
        0..32 => 16,
        32..64 => 32,
        64..128 => 64,
        128.. => 128,
    };
    let outer = |kind| Tiling { kind, rows: MOST_ROWS, columns: OUTER_COLUMNS / of.weights.len().max(1) as u32 };
    let fma = Tiling { kind: Kind::Fma, rows: MOST_ROWS, columns };
    if !has_outer(of, machine) {
        return vec![fma];
    }
    let are_alike = of.weights.windows(2).all(|two| two[0] == two[1]);
    match machine.pack {
        Pack::None => vec![outer(Kind::Outer), fma],
        Pack::Panels if !are_alike => vec![outer(Kind::Widened)],
        // Weights that lie so for one batch lie so for all: else they would be there twice.
        Pack::Panels => vec![outer(Kind::Packed)],
        Pack::F32 => vec![outer(Kind::Widened)],
    }
}

/// Whether a product can be computed in tiles of this size by its kernels on the machine, however weights are to lie there. The host's
/// tiles may be narrower than the best.
pub fn takes(tiling: Tiling, of: &Product, machine: &Machine) -> bool {
    let is_narrower = |best: &Tiling| {
        let columns = [16, 32, 64, 128].contains(&tiling.columns) && tiling.columns <= best.columns;
        !machine.has_threads() && columns && Tiling { columns: best.columns, ..tiling } == *best
    };
    let packed = Machine { pack: tiling.kind.pack(), ..machine.clone() };
    candidates(of, &packed).iter().any(|best| *best == tiling || is_narrower(best))
}

/// Elements of a vector of [`Kind::Dot`]: 16 bytes of the widest type.
pub fn dot_elements(rows: DType, weights: &[DType]) -> u64 {
    16 / weights.iter().map(|w| w.bytes()).chain([rows.bytes()]).max().unwrap_or(1)
}

/// Whether a product can be computed by dot products: K is in whole vectors, and a lane has registers for the sums.
fn has_dot(of: &Product) -> bool {
    let elements = dot_elements(of.rows, &of.weights);
    let sums = u64::from(DOT_ROWS * DOT_COLUMNS_OF_WARP) * of.weights.len() as u64 * elements;
    of.k > 0 && of.k.is_multiple_of(elements) && sums <= 128
}

/// Whether a product can be computed by groups of warps: rows and weights have one type that the machine has an instruction for, their
/// lines are whole copies of 16 bytes, and the tile's sums and two stages fit the machine.
fn has_groups(tiling: Tiling, of: &Product, machine: &Machine) -> bool {
    let weights = of.weights.len() as u32;
    let sums = weights.saturating_mul(tiling.columns / GROUP_COLUMNS * block_rows(tiling) / 2);
    machine.rate(Unit::Group, of.rows).is_some()
        && machine.tensor_maps
        && machine.matrix_stores
        && of.weights.iter().all(|weight| *weight == of.rows)
        && mma_bringing(of.k, of.rows, machine) == Some(Bringing::Copies(16))
        && sums <= MOST_SUMS
        && group_ring(tiling, of.weights.len(), machine).is_some()
}

/// Whether a product can be computed by streams of weights: rows and weights have one type that the machine has an instruction for, and
/// their lines are whole loads of 16 bytes.
fn has_streams(tiling: Tiling, of: &Product, machine: &Machine) -> bool {
    machine.rate(Unit::Matrix(MATRIX), of.rows).is_some()
        && of.weights.iter().all(|weight| *weight == of.rows)
        && of.k > 0
        && (of.k % 8 * of.rows.bytes()).is_multiple_of(16)
        && stream_factors(tiling, of.weights.len()).is_some()
}

/// Left factors of a warp of [`Kind::Stream`], of 16 columns of some weights each: none where they are not whole, or too many.
pub fn stream_factors(tiling: Tiling, weights: usize) -> Option<u32> {
    let columns = u32::try_from(weights).ok()?.checked_mul(tiling.columns)?;
    (columns.is_multiple_of(16) && (1..=STREAM_FACTORS).contains(&(columns / 16))).then_some(columns / 16)
}

/// Steps of [`Kind::Stream`] whose loads are under way together: as many as there are registers for, and turns of about as many.
pub fn stream_steps(tiling: Tiling, weights: usize, k: u64) -> u32 {
    let (factors, rows) = (stream_factors(tiling, weights).unwrap_or(1), tiling.rows / 8);
    let most = STREAM_REGISTERS.saturating_sub(4 * factors * rows) / (8 * factors + 4 * rows);
    let steps = k.div_ceil(STREAM_DEPTH.into()).max(1);
    steps.div_ceil(steps.div_ceil(most.max(1).into())) as u32
}

/// Whether two blocks can share what they load.
fn has_twins(machine: &Machine) -> bool {
    machine.cluster_blocks >= Kind::Twin.blocks() && machine.shared_boxes
}

/// Rows of a tile that one block has at most.
pub fn block_rows(tiling: Tiling) -> u32 {
    tiling.rows / tiling.kind.blocks()
}

/// The stages of [`Kind::Group`] and [`Kind::Twin`] for so many weights, with a tile of 16-bit results beside them.
pub fn group_ring(tiling: Tiling, weights: usize, machine: &Machine) -> Option<Ring> {
    let rows = u64::from(block_rows(tiling));
    let stage = (rows + weights as u64 * u64::from(tiling.columns)) * u64::from(GROUP_DEPTH) * 2;
    let result = rows * u64::from(tiling.columns) * 2;
    // Two mbarriers a stage, and what arrays are aligned to.
    let fits = |stages: &u32| u64::from(*stages) * (stage + 16) + result + 1024 <= u64::from(machine.shared_optin_bytes);
    (2..=GROUP_STAGES).rev().find(fits).map(|stages| Ring { stages, weights: weights as u32 })
}

/// The widths of the products of [`Kind::Group`] and [`Kind::Twin`], of which a block's part of a tile runs in the narrowest that has its
/// rows.
pub fn group_widths(tiling: Tiling) -> [u32; 3] {
    let rows = block_rows(tiling);
    [rows / 4, rows / 2, rows]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{MACHINES, Rate};

    fn product(n: u64, k: u64, weights: usize) -> Product {
        Product { rows: DType::F32, n, k, weights: vec![DType::F32; weights], tf32: false }
    }

    fn gpu(processors: u32) -> Machine {
        Machine { processors, ..crate::machine::MACHINES[0].clone() }
    }

    #[test]
    fn a_gpu_by_hand() {
        let of = product(128, 10, 1);
        // 3 rows in a tile of 16 x 64, twice along N, on two processors: 16 x 128 x 10 products. A thread makes 1 x 4 of them
        // from two vectors, which take as long as eight more.
        let low = Tiling { kind: Kind::Fma, rows: 16, columns: 64 };
        assert_eq!(flops(low, &of, [3, 1], &gpu(2)), 2 * 16 * 128 * 10 * (4 + 8) / 4);
        // Two of three processors: as if all worked.
        assert_eq!(flops(low, &of, [3, 1], &gpu(3)), 2 * 16 * 128 * 10 * (4 + 8) / 4 * 3 / 2);
        // 64 rows: 4 x 4 products a thread from two vectors.
        let high = Tiling { kind: Kind::Fma, rows: 64, columns: 64 };
        assert_eq!(flops(high, &of, [3, 1], &gpu(2)), 2 * 64 * 128 * 10 * (16 + 8) / 16);
        // Dot products of 3 rows of 4, 8 blocks: 128 columns in twos, K of 12 and the end of a sum of 32 lanes.
        let dot = Tiling { kind: Kind::Dot, rows: 4, columns: 16 };
        assert_eq!(flops(dot, &product(128, 12, 1), [3, 1], &gpu(2)), 2 * 4 * 128 * (8 + 6) / 8 * (12 + 20 * 32));
        // 40 rows of 5 experts are 8 of each: five tiles of either, two columns each.
        assert_eq!(flops(low, &of, [40, 5], &gpu(1)), 5 * 2 * 16 * 128 * 10 * (4 + 8) / 4);
        // No more experts than rows have any.
        assert_eq!(flops(low, &of, [2, 5], &gpu(1)), 2 * 2 * 16 * 128 * 10 * (4 + 8) / 4);
    }

    #[test]
    fn groups_of_warps_by_hand() {
        const RATES: &[Rate] = &[
            Rate { unit: Unit::Vector, elem: DType::F32, flops_per_us: 1000 },
            Rate { unit: Unit::Group, elem: DType::BF16, flops_per_us: 4000 },
        ];
        let machine = Machine { rates: RATES, ..gpu(1) };
        let of = Product { rows: DType::BF16, n: 256, k: 64, weights: vec![DType::BF16], tf32: false };
        let tiling = Tiling { kind: Kind::Group, rows: 64, columns: 256 };
        // 64 rows in 32 clocks of a product, as at the full rate; 10 rows in 16, whose 20 clocks are those of 40 rows. Four fifths of four
        // times the rate.
        let at_rate = |flops: u64| flops * 5 / (4 * 4);
        assert_eq!(flops(tiling, &of, [64, 1], &machine), at_rate(2 * 64 * 256 * 64));
        assert_eq!(flops(tiling, &of, [10, 1], &machine), at_rate(2 * 40 * 256 * 64));
        assert_eq!(flops(tiling, &of, [74, 1], &machine), at_rate(2 * (64 + 40) * 256 * 64));
        // A second tile of at most half of the columns is shared by rows: 32 rows of each in 24 clocks, as 48 rows take. Two blocks.
        let wide = |n| flops(tiling, &Product { n, ..of.clone() }, [64, 1], &machine);
        assert_eq!([384, 385].map(wide), [64 + 48, 64 + 64].map(|rows| at_rate(2 * rows * 256 * 64)));
        // Two groups of 2 rows in the mean have up to 4, which is one width.
        assert_eq!(flops(tiling, &of, [4, 2], &machine), 2 * flops(tiling, &of, [2, 1], &machine));
        // Twins have 37 rows each of 74, in 32 clocks; of 3 rows two, in the least width.
        let twin = Tiling { kind: Kind::Twin, rows: 128, columns: 256 };
        assert_eq!(flops(twin, &of, [74, 1], &machine), at_rate(2 * (2 * 64) * 256 * 64));
        assert_eq!(flops(twin, &of, [3, 1], &machine), at_rate(2 * (2 * 40) * 256 * 64));
        // Both have the weights once: 256 lines and 128 rows of 128 bytes, where two blocks by themselves take them twice.
        let fed = |tiling| feeding(tiling, &of, [128, 1], 0, &Machine { cache_bytes_per_us: Some(1_000_000), ..machine.clone() });
        assert_eq!([twin, tiling].map(|tiling| fed(tiling).caching), [(256 + 128) * 128, (2 * 256 + 128) * 128]);
        // One stage of K in a ring of three: two blocks, one after the other on one processor, wait for a third of what memory takes each.
        assert_eq!([twin, tiling].map(|tiling| (fed(tiling).waiting, fed(tiling).ring)), [(2 * machine.memory_ps / 3, 3); 2]);
        assert_eq!([twin, tiling].map(|tiling| meeting_ps(tiling, &machine)), [80 * machine.step_ps, 0]);
        // The weights of 8 row tiles come from memory together.
        let small = Machine { cache_bytes: 10, ..machine };
        assert_eq!([passes(tiling, [512, 1], 100, &small), passes(tiling, [513, 1], 100, &small)], [1, 2]);
    }

    #[test]
    fn streams_by_hand() {
        const RATES: &[Rate] = &[
            Rate { unit: Unit::Vector, elem: DType::F32, flops_per_us: 1000 },
            Rate { unit: Unit::Matrix(MATRIX), elem: DType::BF16, flops_per_us: 4000 },
        ];
        let machine = Machine { rates: RATES, memory_ps: 1000, cache_bytes_per_us: Some(1_000_000), ..gpu(1) };
        let of = |n, k, weights| Product { rows: DType::BF16, n, k, weights: vec![DType::BF16; weights], tf32: false };
        let [tall, low] = [16, 8].map(|rows| Tiling { kind: Kind::Stream, rows, columns: 16 });
        // Four steps of 128 of K, and a fifth for the beginning; a quarter of the time of f32. Five loads of 4 products are 5 / 32 of it.
        assert_eq!(flops(low, &of(32, 512, 2), [3, 1], &machine), 2 * 8 * 32 * 2 * 640 / 4);
        const FAST: &[Rate] = &[RATES[0], Rate { flops_per_us: 8000, ..RATES[1] }];
        let fast = Machine { rates: FAST, ..machine.clone() };
        assert_eq!(flops(low, &of(32, 512, 2), [3, 1], &fast), 2 * 8 * 32 * 2 * 640 * 5 / 32);
        // One left factor: 16 and 8 registers a step beside 8 and 4 sums.
        assert_eq!([tall, low].map(|tiling| stream_steps(tiling, 1, 1 << 20)), [7, 10]);
        // Twenty-two steps are three turns of eight, the last of which lacks two; six are one turn.
        assert_eq!([2816, 704, 8].map(|k| stream_steps(low, 1, k)), [8, 6, 1]);
        // 32 columns are two blocks of one left factor, each of which loads two vectors a thread in each of four steps. They run together.
        let bytes = 32 * 512 * 2;
        let Feeding { waiting, ring, caching } = feeding(low, &of(32, 512, 1), [3, 1], bytes, &machine);
        assert_eq!((waiting, ring), (bytes * 1000 / (2 * 2 * 4 * 16 * 128), 0));
        // The weights once, and three rows for both.
        assert_eq!(caching, (32 + 3 * 2) * 512 * 2);
        // Tiles of 16 columns of one weight, or of 16 and 8 of two.
        let takes = |columns, weights| takes(Tiling { columns, ..low }, &of(64, 64, weights), &machine);
        assert_eq!([8, 16, 32].map(|columns| takes(columns, 1)), [false, true, true]);
        assert_eq!([8, 16, 32].map(|columns| takes(columns, 2)), [true, true, false]);
        assert!(!super::takes(low, &of(64, 68, 1), &machine));
    }

    #[test]
    fn batches_without_rows_have_a_price() {
        for machine in MACHINES {
            let of = Product { rows: DType::BF16, n: 64, k: 64, weights: vec![DType::BF16], tf32: false };
            for tiling in candidates(&of, &machine) {
                assert!(
                    [[0, 0], [0, 8], [0, 1]].map(|rows| flops(tiling, &of, rows, &machine)).iter().all(|flops| *flops < u64::MAX)
                );
            }
        }
    }

    #[test]
    fn large_weights_come_from_memory_for_each_row_tile() {
        let tiling = Tiling { kind: Kind::Fma, rows: 16, columns: 64 };
        let machine = Machine { cache_bytes: 1000, ..gpu(2) };
        assert_eq!(passes(tiling, [100, 2], 500, &machine), 1);
        // 50 rows of each of two.
        assert_eq!(passes(tiling, [100, 2], 501, &machine), 4);
        assert_eq!(passes(tiling, [1, 8], 501, &machine), 1);
        assert_eq!(passes(tiling, [0, 8], 501, &machine), 1);
    }

    #[test]
    fn a_host_computes_what_is_there() {
        let host = Machine::named("x86-64-v3").unwrap();
        let of = product(100, 10, 2);
        let [outer, tiling] = candidates(&of, &host)[..] else { panic!("two tilings") };
        assert_eq!(tiling, Tiling { kind: Kind::Fma, rows: 64, columns: 128 });
        assert_eq!(outer, Tiling { kind: Kind::Outer, rows: 64, columns: 128 });
        // One block on two cores. Eight lanes are added in the time of 32 elements, and 8 products of vectors
        // need 6 vectors, each as long as two thirds of one: 3 / 2.
        assert_eq!(flops(tiling, &of, [3, 1], &host), 2 * (2 * 3 * 100 * (10 + 32) * 2) * 3 / 2);
        assert_eq!(flops(tiling, &of, [128, 1], &host), 2 * 128 * 100 * (10 + 32) * 2 * 3 / 2);
        // Of four rows at least. An element is packed in 5 / 8 of an instruction of 16 FLOPs, for each row tile, and 32 lines
        // more that begin a part, and 64 that wait for memory.
        assert_eq!(flops(outer, &of, [3, 1], &host), 2 * (2 * 4 * 100 * 10 + 100_u64.div_ceil(8) * 5 * 16 * 106) * 2);
        assert_eq!(flops(outer, &of, [128, 1], &host), (2 * 128 * 100 * 10 + 2 * 100_u64.div_ceil(8) * 5 * 16 * 106) * 2);
        // Of weights of bf16 two of these vectors are widened: 5 / 3.
        let narrow = Product { rows: DType::BF16, weights: vec![DType::BF16; 2], ..of.clone() };
        assert_eq!(flops(tiling, &narrow, [128, 1], &host), 2 * 128 * 100 * 2 * 5 / 3 * (10 + 32));
        // Packed they are widened by a block of up to 5 rows, in 3 of 16 elements' instructions, or once a tile, in 5.
        let packed = Tiling { kind: Kind::Packed, ..outer };
        assert_eq!(flops(packed, &narrow, [3, 1], &host), 2 * (2 * 3 * 100 + 100_u64.div_ceil(16) * 3 * 16) * 2 * 10);
        assert_eq!(flops(packed, &narrow, [8, 1], &host), 2 * (2 * 8 * 100 + 100_u64.div_ceil(16) * 6 * 16) * 2 * 10);
        assert_eq!(flops(packed, &narrow, [128, 1], &host), (2 * 128 * 100 + 2 * 100_u64.div_ceil(16) * 5 * 16) * 2 * 10);
        // Those of f32 are not, and one row takes as long as two.
        let widened = Tiling { kind: Kind::Widened, ..outer };
        assert_eq!(flops(widened, &narrow, [1, 1], &host), 2 * (2 * 2 * 100) * 2 * 10);
        assert_eq!(flops(packed, &of, [128, 1], &host), 2 * 128 * 100 * 2 * 10);
        // 16 products of 8 vectors, 4 / 3, and dot products of bf16 at five thirds of the rate.
        let host = Machine::named("x86-64-v4-bf16").unwrap();
        assert_eq!(flops(tiling, &of, [128, 1], &host), 2 * 128 * 100 * 2 * 4 / 3 * (10 + 64));
        assert_eq!(flops(tiling, &narrow, [128, 1], &host), 2 * 128 * 100 * 2 * 3 / 5 * 4 / 3 * (10 + 64));
        // Pairs are transposed only.
        assert_eq!(
            flops(outer, &narrow, [128, 1], &host),
            2 * 128 * 100 * 2 * 3 / 5 * 10 + 2 * 100_u64.div_ceil(16) * 5 * 16 * 2 * 106
        );
    }

    #[test]
    fn nothing_overflows() {
        let huge = 1 << 62;
        let of = |elem: DType, n, k, weights| Product { rows: elem, n, k, weights: vec![elem; weights], tf32: false };
        for (machine, elem) in crate::machine::MACHINES.iter().flat_map(|m| [(m, DType::F32), (m, DType::BF16)]) {
            for weights in [1, 3] {
                for tiling in candidates(&of(elem, huge, huge, weights), machine) {
                    assert!(most_rows(machine).is_multiple_of(tiling.rows));
                    assert!(flops(tiling, &of(elem, huge, huge, weights), [huge, huge], machine) > huge);
                    assert_eq!(flops(tiling, &of(elem, 64, 64, 1), [0, 8], machine), 0);
                }
            }
        }
    }
}
