//! Tiles of [`Kind::Mma`]: their sizes, the warps that share one, and the stages that they go round.

use super::{Kind, MOST_SUMS, Product, Tiling};
use crate::machine::{Copier, Unit};
use crate::{DType, Machine, MatrixShape};

/// The shape of products of elements of 16 bits.
pub const MATRIX: MatrixShape = MatrixShape::M16N8K16;

/// The shape of the products of [`Kind::Mma`]: as many bytes along K whatever the elements are, those of f32 rounded to tf32.
pub fn mma_shape(elem: DType) -> MatrixShape {
    if elem == DType::F32 { MatrixShape::M16N8K8 } else { MATRIX }
}

/// Rows and columns of tiles, those for large batches first.
const SIZES: [[u32; 2]; 9] = [[128, 256], [128, 128], [128, 64], [64, 128], [64, 64], [32, 128], [32, 64], [16, 128], [16, 64]];

/// Rows of the highest tile.
pub(super) const MOST_ROWS: u32 = SIZES[0][0];

/// Warps of a block: the fewest whose threads have registers for the sums.
const WARPS: [u32; 2] = [4, 8];

/// Warps that a processor should have: two for each of its four schedulers, so that one multiplies while the other waits.
const WARPS_OF_PROCESSOR: u32 = 8;

/// Blocks beyond which a processor gains nothing from another.
const MOST_BLOCKS: u32 = 4;

/// Registers of a thread beside its sums and two sets of fragments: addresses, sizes, counters.
const OTHER_REGISTERS: u32 = 56;

/// Registers of a processor, of 4 bytes.
const REGISTERS: u32 = 65_536;

/// Bytes of a line of a stage, all banks' or half of them.
const LINES: [u32; 2] = [128, 64];

/// Stages of a block: with three one is multiplied, one has arrived, one is under way.
const STAGES: [u32; 3] = [4, 3, 2];

/// Stages of a block that [loads](Bringing::Loads): what is under way is in registers.
const STAGES_OF_LOADS: u32 = 2;

/// Further registers of a thread that copies 4 bytes, each of another line, or loads: ptxas 13.0 then spills none.
const LINE_REGISTERS: u32 = 24;

/// Registers of a thread.
const REGISTERS_OF_THREAD: u32 = 255;

/// Elements of 16 bytes, which a thread brings together.
pub fn mma_part(elem: DType) -> u32 {
    16 / elem.bytes() as u32
}

/// Bytes of shared memory that a processor keeps for each of its blocks.
const RESERVED: u32 = 1024;

/// How a block of [`Kind::Mma`] goes along K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// Elements along K of a stage: 64 or 32 of 16 bits, half as many of f32.
    pub depth: u32,
    /// Stages in shared memory.
    pub count: u32,
    /// Blocks that a processor has at a time.
    pub resident: u32,
}

/// The tiles of a product by matrices.
pub(super) fn by_matrices<'a>(of: &'a Product, machine: &'a Machine) -> impl Iterator<Item = Tiling> + 'a {
    let tilings = SIZES.into_iter().map(|[rows, columns]| Tiling { kind: Kind::Mma, rows, columns });
    tilings.filter(|tiling| has_matrices(*tiling, of, machine))
}

/// How lines come to the shared memory of [`Kind::Mma`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bringing {
    /// Copies of so many bytes, which go on beside the thread.
    Copies(u32),
    /// Loads of an element each, since lines begin at no multiple of more: stored when the products beside them are done.
    Loads,
}

/// Whether a product can be computed by matrices: rows and weights have one type that the machine has an instruction for, of f32 only where
/// they may be rounded, and a thread's registers and two stages fit the machine.
fn has_matrices(tiling: Tiling, of: &Product, machine: &Machine) -> bool {
    machine.rate(Unit::Matrix(mma_shape(of.rows)), of.rows).is_some()
        && (of.rows != DType::F32 || of.tf32)
        && of.weights.iter().all(|weight| *weight == of.rows)
        && mma_stages(tiling, of, machine).is_some()
}

/// How lines of K elements come to shared memory: by the longest copies, up to 16 bytes, that a thread has and lines are a multiple of.
pub fn mma_bringing(k: u64, elem: DType, machine: &Machine) -> Option<Bringing> {
    let widths = machine.copies(Copier::Thread).filter(|_| k > 0)?;
    let is_whole = |bytes: &u32| widths.has(*bytes) && (k % 8 * elem.bytes()).is_multiple_of(u64::from(*bytes));
    Some([16, 8, 4].into_iter().find(is_whole).map_or(Bringing::Loads, Bringing::Copies))
}

/// Parts of the turns in which a thread brings a stage, one beside each step of the stage but the last.
pub fn mma_turns(depth: u32, elem: DType) -> u32 {
    depth / mma_shape(elem).extents().2 - 1
}

/// Elements that a thread of so many warps loads in such a turn, at most.
pub fn mma_loaded(tiling: Tiling, of: &Product, depth: u32, warps: u32) -> u32 {
    let part = mma_part(of.rows);
    let together = 32 * warps / (depth / part);
    let parts = tiling.rows.div_ceil(together) + of.weights.len() as u32 * tiling.columns.div_ceil(together);
    part * parts.div_ceil(mma_turns(depth, of.rows))
}

/// Warps of a block of [`Kind::Mma`] with so many weights; none where no thread could have the sums, or some warps had no part.
pub fn mma_warps(tiling: Tiling, weights: usize) -> Option<u32> {
    let sums = u64::from(tiling.rows * tiling.columns) * weights as u64;
    WARPS.into_iter().find(|warps| sums <= u64::from(MOST_SUMS * 32 * warps) && of_warps(tiling, *warps).next().is_some())
}

/// Matrices of 16 rows, and of 8 columns, of the part of a tile that one of so many warps of [`Kind::Mma`] computes. They stand in rows and
/// columns such that each reads the least of shared memory.
pub fn warp_matrices(tiling: Tiling, weights: usize, warps: u32) -> [u32; 2] {
    of_warps(tiling, warps).min_by_key(|matrices| mma_loads(*matrices, weights)).unwrap_or_default()
}

/// The parts of a tile that so many warps can have. Columns are in twos, which one load brings.
fn of_warps(tiling: Tiling, warps: u32) -> impl Iterator<Item = [u32; 2]> {
    let (rows, columns, _) = MATRIX.extents();
    let (row_matrices, pairs) = (tiling.rows / rows, tiling.columns / (2 * columns));
    let down = [1, 2, 4, 8]
        .into_iter()
        .filter(move |down| *down <= warps && row_matrices.is_multiple_of(*down) && pairs.is_multiple_of(warps / down));
    down.map(move |down| [row_matrices / down, 2 * pairs * down / warps])
}

/// Loads of four matrices of 8 by 8 by which a warp gets its fragments for 16 elements of K.
pub fn mma_loads([row_matrices, column_matrices]: [u32; 2], weights: usize) -> u32 {
    row_matrices.saturating_add((weights as u32).saturating_mul(column_matrices.div_ceil(2)))
}

/// Bytes of shared memory for an element along K of a tile's lines.
fn lines(tiling: Tiling, of: &Product) -> u64 {
    (u64::from(tiling.rows) + of.weights.len() as u64 * u64::from(tiling.columns)) * of.rows.bytes()
}

/// Bytes that a block of [`Kind::Mma`] has in shared memory: its stages, and in the end its results in their place.
pub fn mma_shared_bytes(tiling: Tiling, of: &Product, Stages { depth, count, .. }: Stages) -> u64 {
    let results = u64::from(tiling.rows * tiling.columns) * DType::BF16.bytes();
    (u64::from(depth * count) * lines(tiling, of)).max(results)
}

/// The stages of [`Kind::Mma`] for so many weights, and the blocks that a processor has room for. Lines of 128 bytes where enough warps
/// are at work at a time, shorter ones where more blocks then have room or K ends in the first half of a line.
pub fn mma_stages(tiling: Tiling, of: &Product, machine: &Machine) -> Option<Stages> {
    let (weights, warps) = (of.weights.len(), mma_warps(tiling, of.weights.len())?);
    let [row_matrices, column_matrices] = warp_matrices(tiling, weights, warps);
    let sums = 4 * row_matrices * column_matrices * weights as u32;
    let fragments = 4 * mma_loads([row_matrices, column_matrices], weights);
    let (bringing, depth) = (mma_bringing(of.k, of.rows, machine)?, LINES[0] / of.rows.bytes() as u32);
    let more = match bringing {
        Bringing::Copies(4) => LINE_REGISTERS,
        Bringing::Copies(_) => 0,
        Bringing::Loads => LINE_REGISTERS + mma_loaded(tiling, of, depth, warps),
    };
    let registers = sums + 2 * fragments + OTHER_REGISTERS + more;
    let by_registers = (REGISTERS / (32 * warps * registers)).min(MOST_BLOCKS);
    if more > 0 && registers > REGISTERS_OF_THREAD {
        return None;
    }
    match bringing {
        Bringing::Copies(_) => by_copies(tiling, of, by_registers, machine),
        // Whole lines: the more elements a warp loads of one, the better.
        Bringing::Loads => {
            let of_resident = |resident: u32| Stages { depth, count: STAGES_OF_LOADS, resident };
            (1..=by_registers).rev().map(of_resident).find(|stages| fits(tiling, of, *stages, machine))
        }
    }
}

/// Whether the blocks that a processor has at a time have room for their stages.
fn fits(tiling: Tiling, of: &Product, stages: Stages, machine: &Machine) -> bool {
    let room = ((machine.shared_optin_bytes + RESERVED) / stages.resident - RESERVED).min(machine.shared_optin_bytes);
    mma_shared_bytes(tiling, of, stages) <= u64::from(room)
}

/// The stages where lines are copied, and registers allow so many blocks.
fn by_copies(tiling: Tiling, of: &Product, by_registers: u32, machine: &Machine) -> Option<Stages> {
    let warps = mma_warps(tiling, of.weights.len())?;
    let depths = LINES.map(|bytes| bytes / of.rows.bytes() as u32);
    let wanted = WARPS_OF_PROCESSOR.div_ceil(warps);
    let with = |depth: u32, least: u32, resident: u32| {
        let stages = STAGES.into_iter().filter(move |count| *count >= least);
        stages.map(move |count| Stages { depth, count, resident }).find(|stages| fits(tiling, of, *stages, machine))
    };
    let reaches = |depth: &u32| of.k.next_multiple_of(u64::from(*depth)) == of.k.next_multiple_of(u64::from(depths[1]));
    let many = |depth: u32| (wanted..=by_registers).rev().find_map(move |resident| with(depth, 3, resident));
    let few = (1..=by_registers.min(wanted)).rev().find_map(|resident| with(depths[1], 2, resident));
    depths.into_iter().filter(reaches).find_map(many).or(few)
}

#[cfg(test)]
mod tests {
    use super::super::{candidates, flops};
    use super::*;
    use crate::machine::{MACHINES, Rate};

    fn tile(rows: u32, columns: u32) -> Tiling {
        Tiling { kind: Kind::Mma, rows, columns }
    }

    #[test]
    fn matrices_by_hand() {
        const RATES: &[Rate] = &[
            Rate { unit: Unit::Vector, elem: DType::F32, flops_per_us: 1000 },
            Rate { unit: Unit::Matrix(MATRIX), elem: DType::BF16, flops_per_us: 16_000 },
        ];
        let of = Product { rows: DType::BF16, n: 256, k: 40, weights: vec![DType::BF16; 2], tf32: false };
        let waits = Machine { rates: RATES, processors: 1, memory_ps: 2_000_000, step_ps: 2_000_000, ..MACHINES[0].clone() };
        // Four warps of 64 rows and 16 columns of each weight: 16 products for four loads of rows and two of columns.
        assert_eq!((mma_warps(tile(64, 64), 2), warp_matrices(tile(64, 64), 2, 4)), (Some(4), [4, 2]));
        assert_eq!(mma_loads([4, 2], 2), 6);
        // Four tiles, K up to 64, at sixteen times the rate; a quarter of what shared memory takes is little. Two are on the processor at a
        // time: each waits for half of 2 us for its one stage, and the last two as long for their first bytes.
        let products = 2 * 64 * 64 * 64 * 2 / 16;
        let fast = Machine { shared_bytes_per_us: Some(1_000_000), ..waits.clone() };
        assert_eq!(flops(tile(64, 64), &of, [3, 1], &fast), 4 * (products + 4 * 4 + 1000) + 2 * 1000);
        // For 16 of K four warps read six times 512 bytes, and 192 lines of 32 are brought: a byte takes as long as a FLOP.
        let slow = Machine { shared_bytes_per_us: Some(1000), ..waits };
        let shared = 4 * (4 * 6 * 512 + 192 * 32);
        assert_eq!(flops(tile(64, 64), &of, [3, 1], &slow), 4 * (shared + products / 4 + 1000) + 2 * 1000);
        // Of an odd K a warp loads 32 elements from four lines: 16 bytes each beside those that it stores.
        let odd = Product { k: 41, ..of };
        let loaded = shared + 4 * 192 * 16 * 16;
        assert_eq!(flops(tile(64, 64), &odd, [3, 1], &slow), 4 * (loaded + products / 4 + 1000) + 2 * 1000);
    }

    #[test]
    fn warps_stand_where_they_read_least() {
        let of = |rows, columns, weights| {
            let warps = mma_warps(tile(rows, columns), weights)?;
            Some((warps, warp_matrices(tile(rows, columns), weights, warps)))
        };
        // 64 by 64 of one weight, or 64 by 32 of two, are 128 sums a thread.
        assert_eq!([of(128, 128, 1), of(128, 64, 2)], [Some((4, [4, 8])), Some((4, [4, 4]))]);
        assert_eq!([of(128, 256, 1), of(128, 128, 2)], [Some((8, [4, 8])), Some((8, [4, 4]))]);
        assert_eq!([of(16, 64, 1), of(16, 64, 2), of(32, 64, 2)], [Some((4, [1, 2])), Some((4, [1, 2])), Some((4, [2, 2]))]);
        // Eight warps have no 16 columns each of 64.
        assert_eq!([of(128, 256, 2), of(16, 64, 16), of(16, 64, 17)], [None, Some((4, [1, 2])), None]);
        assert_eq!([of(16, 128, 16), of(16, 128, 17)], [Some((8, [1, 2])), None]);
    }

    #[test]
    fn stages_fit_the_blocks_of_a_processor() {
        let [large, small] = ["sm_80", "sm_86"].map(|name| Machine::named(name).unwrap());
        let of = |rows, columns, weights, k| {
            [&large, &small].map(|machine| {
                let of = Product { rows: DType::BF16, n: 256, k, weights: vec![DType::BF16; weights], tf32: false };
                let Stages { depth, count, resident } = mma_stages(tile(rows, columns), &of, machine).unwrap();
                [depth, count, resident]
            })
        };
        // 32 KiB for 64 of K: three of them have no room twice in 164 KiB. Four or three halves have, in 164 and in 100.
        assert_eq!(of(128, 128, 1, 4096), [[32, 4, 2], [32, 3, 2]]);
        assert_eq!(of(128, 64, 2, 4096), [[32, 4, 2], [32, 3, 2]]);
        // Eight warps are enough in one block.
        assert_eq!(of(128, 128, 2, 4096), [[64, 3, 1], [32, 4, 1]]);
        // 16 KiB for 64 of K, three blocks by registers.
        assert_eq!(of(64, 64, 1, 4096), [[64, 3, 3], [64, 3, 2]]);
        // 64 sums, two times 24 of fragments, 56 others, 24 for addresses, and of 12 parts of 8 elements a third: two blocks of 224.
        assert_eq!(of(64, 128, 1, 511), [[64, 2, 2]; 2]);
        // 96 of K are three halves, and two whole lines.
        assert_eq!(of(64, 64, 1, 96)[0][0], 32);
        for machine in MACHINES.iter().filter(|machine| machine.has_threads()) {
            let product = Product { rows: DType::BF16, n: 256, k: 256, weights: vec![DType::BF16; 2], tf32: false };
            for tiling in by_matrices(&product, machine) {
                let stages = mma_stages(tiling, &product, machine).unwrap();
                let bytes = mma_shared_bytes(tiling, &product, stages) + u64::from(RESERVED);
                assert!(bytes * u64::from(stages.resident) <= u64::from(machine.shared_optin_bytes + RESERVED));
            }
        }
    }

    #[test]
    fn matrices_where_they_can_be() {
        let by_matrices_of = |of: &Product, machine: &Machine| by_matrices(of, machine).count();
        let by_matrices = |rows: DType, weights: Vec<DType>, k: u64, machine: &Machine| {
            let of = Product { rows, n: 64, k, weights, tf32: false };
            candidates(&of, machine).iter().filter(|tiling| tiling.kind == Kind::Mma).count()
        };
        let (bf16, f16, f32, gpu) = (DType::BF16, DType::F16, DType::F32, Machine::named("sm_80").unwrap());
        assert_eq!((by_matrices(bf16, vec![bf16], 64, &gpu), by_matrices(f16, vec![f16; 2], 64, &gpu)), (9, 8));
        assert_eq!((by_matrices(f32, vec![f32], 64, &gpu), by_matrices(bf16, vec![bf16, f16], 64, &gpu)), (0, 0));
        // Of f32 where they may be rounded; a line of 128 bytes has 32 of them.
        let rounded = Product { rows: f32, n: 64, k: 64, weights: vec![f32; 2], tf32: true };
        let odd = Product { k: 63, ..rounded.clone() };
        assert_eq!((by_matrices_of(&rounded, &gpu), by_matrices_of(&odd, &gpu)), (8, 5));
        let Stages { depth, count, resident } = mma_stages(tile(128, 128), &rounded, &gpu).unwrap();
        assert_eq!([depth, count, resident], [32, 3, 1]);
        // What is loaded, and addresses of many lines, take registers that the two largest tiles have not; more sums than registers in
        // the large tiles.
        assert_eq!((by_matrices(bf16, vec![bf16], 68, &gpu), by_matrices(bf16, vec![bf16], 66, &gpu)), (9, 7));
        assert_eq!(by_matrices(bf16, vec![bf16], 63, &gpu), 7);
        assert_eq!((by_matrices(bf16, vec![bf16; 5], 64, &gpu), by_matrices(bf16, vec![bf16; 12], 64, &gpu)), (5, 2));
        let without = Machine { rates: &[], ..gpu.clone() };
        assert_eq!(by_matrices(bf16, vec![bf16], 64, &without), 0);
        let without = Machine { copy_engines: &[], ..gpu.clone() };
        assert_eq!(by_matrices(bf16, vec![bf16], 64, &without), 0);
        assert_eq!(by_matrices(bf16, vec![bf16], 64, &Machine::named("x86-64-v4-bf16").unwrap()), 0);
        let [of_16, of_8, of_4] = [16, 8, 4].map(|bytes| Some(Bringing::Copies(bytes)));
        assert_eq!([64, 68, 66, 0].map(|k| mma_bringing(k, bf16, &gpu)), [of_16, of_8, of_4, None]);
        assert_eq!(mma_bringing(63, bf16, &gpu), Some(Bringing::Loads));
    }
}
