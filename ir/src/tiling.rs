//! How a product is cut into tiles on a machine, and what the cut costs. The cost model and the schedule both ask here and know
//! neither each other nor how a tile is computed.

use std::fmt;

use crate::{DType, Machine};

/// A rectangle of a product's result that one block makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tiling {
    /// Rows, all of one expert.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
}

impl fmt::Display for Tiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile({} by {})", self.rows, self.columns)
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
}

/// Most rows of a tile: the sort cuts each expert's rows by it, and lower tiles are parts of these.
pub const MOST_ROWS: u32 = 64;

/// Threads of a GPU's block: 16 by 16, each with as many rows and columns of the tile as every other.
pub const SIDE: u32 = 16;

/// Bytes of the weights of a column block on the host: what stays in the second cache.
const HOST_BLOCK_BYTES: u64 = 256 * 1024;
/// Bytes of a row that the host takes at a time: four such rows leave most of the first cache to the weights, even where rows
/// are a power of two apart.
const HOST_PANEL_BYTES: u64 = 4096;

/// Elements along K that the host takes at a time.
pub fn host_panel(rows: DType) -> u64 {
    HOST_PANEL_BYTES / rows.bytes()
}

/// The tilings that a machine has kernels for, the one for large batches first.
pub fn candidates(of: &Product, machine: &Machine) -> Vec<Tiling> {
    if machine.is_gpu() {
        return [64, 32, 16].map(|rows| Tiling { rows, columns: 64 }).into();
    }
    let weights: u64 = of.weights.iter().map(|w| w.bytes() * of.k.min(host_panel(of.rows))).sum();
    let sums = u64::from(MOST_ROWS) * of.weights.len() as u64 * DType::F32.bytes();
    let columns = match (HOST_BLOCK_BYTES / weights.max(1)).min(u64::from(machine.shared_bytes) / sums.max(1)) {
        0..32 => 16,
        32..64 => 32,
        64..128 => 64,
        128.. => 128,
    };
    vec![Tiling { rows: MOST_ROWS, columns }]
}

/// The work of a product's arithmetic under a tiling, in FLOPs that take as long at the machine's full rate: the multiplications
/// and additions of `rows` rows in `groups` groups of equal size, and what the cut adds to them.
///
/// * **Tile quantisation.** A GPU's block computes all of its tile. The host computes the rows and columns that there are.
/// * **Wave quantisation.** Blocks are spread over the processors; the last round may leave some of them idle.
/// * **Operands from shared memory** (GPU). A thread reads a vector of each side for `rows / 16 x columns / 16` products a weight;
///   a vector takes the time of four scalar multiplications and additions.
pub fn flops(tiling: Tiling, of: &Product, [rows, groups]: [u64; 2], machine: &Machine) -> u64 {
    let (tile_rows, tile_columns, weights) = (u64::from(tiling.rows), u64::from(tiling.columns), of.weights.len() as u64);
    let groups = groups.min(rows).max(1);
    let (row_tiles, column_tiles) = (rows.div_ceil(groups).div_ceil(tile_rows), of.n.div_ceil(tile_columns));
    let blocks = groups.saturating_mul(row_tiles).saturating_mul(column_tiles);
    let step = |rows: u64, columns: u64| rows.saturating_mul(columns).saturating_mul(2).saturating_mul(weights);
    let useful = if machine.is_gpu() {
        let (each_row, each_column) = (tile_rows / u64::from(SIDE), tile_columns / u64::from(SIDE));
        let (products, reads) = (each_row * each_column * weights, 1 + weights);
        step(row_tiles.saturating_mul(tile_rows), column_tiles * tile_columns)
            .saturating_mul(groups)
            .saturating_mul(products + 4 * reads)
            / products.max(1)
    } else {
        step(rows, of.n)
    };
    let processors = u64::from(machine.processors).max(1);
    let waves = blocks.div_ceil(processors).saturating_mul(processors);
    let spread = u128::from(useful) * u128::from(waves) / u128::from(blocks.max(1));
    u64::try_from(spread).unwrap_or(u64::MAX).saturating_mul(of.k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(n: u64, k: u64, weights: usize) -> Product {
        Product { rows: DType::F32, n, k, weights: vec![DType::F32; weights] }
    }

    fn gpu(processors: u32) -> Machine {
        Machine { processors, ..crate::machine::MACHINES[0].clone() }
    }

    #[test]
    fn a_gpu_by_hand() {
        let of = product(128, 10, 1);
        // 3 rows in a tile of 16 x 64, twice along N, on two processors: 16 x 128 x 10 products. A thread makes 1 x 4 of them
        // from two vectors, which take as long as eight more.
        let low = Tiling { rows: 16, columns: 64 };
        assert_eq!(flops(low, &of, [3, 1], &gpu(2)), 2 * 16 * 128 * 10 * (4 + 8) / 4);
        // Two of three processors: as if all worked.
        assert_eq!(flops(low, &of, [3, 1], &gpu(3)), 2 * 16 * 128 * 10 * (4 + 8) / 4 * 3 / 2);
        // 64 rows: 4 x 4 products a thread from two vectors.
        let high = Tiling { rows: 64, columns: 64 };
        assert_eq!(flops(high, &of, [3, 1], &gpu(2)), 2 * 64 * 128 * 10 * (16 + 8) / 16);
        // 40 rows of 5 experts are 8 of each: five tiles of either, two columns each.
        assert_eq!(flops(low, &of, [40, 5], &gpu(1)), 5 * 2 * 16 * 128 * 10 * (4 + 8) / 4);
        // No more experts than rows have any.
        assert_eq!(flops(low, &of, [2, 5], &gpu(1)), 2 * 2 * 16 * 128 * 10 * (4 + 8) / 4);
    }

    #[test]
    fn a_host_computes_what_is_there() {
        let host = Machine::named("x86-64-v3").unwrap();
        let of = product(100, 10, 2);
        let [tiling] = candidates(&of, &host)[..] else { panic!("one tiling") };
        assert_eq!(tiling, Tiling { rows: 64, columns: 128 });
        // One block on two cores.
        assert_eq!(flops(tiling, &of, [3, 1], &host), 2 * (2 * 3 * 100 * 10 * 2));
        assert_eq!(flops(tiling, &of, [128, 1], &host), 2 * 128 * 100 * 10 * 2);
    }

    #[test]
    fn nothing_overflows() {
        let huge = 1 << 62;
        for machine in crate::machine::MACHINES {
            for tiling in candidates(&product(huge, huge, 3), &machine) {
                assert!(MOST_ROWS.is_multiple_of(tiling.rows));
                assert!(flops(tiling, &product(huge, huge, 3), [huge, huge], &machine) > huge);
                assert_eq!(flops(tiling, &product(64, 64, 1), [0, 8], &machine), 0);
            }
        }
    }
}
