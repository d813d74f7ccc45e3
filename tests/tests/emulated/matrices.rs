//! Products by matrix instructions on the emulator: clean under every schedule, the bits of the kernel IR's interpreter where sums are
//! f32 multiply-adds in order, and within a bound of each element where they are the published models of tensor cores.

use libtest_mimic::Failed;
use moec::emulate::{options, schedules};
use moec_codegen::assembly;
use moec_ir::DType;
use moec_tests::trials;
use ptx_emulator::{Mutation, Numerics, Options, mutants};

use super::product::{Product, Shape, WHOLE};

/// Rows and columns beyond a whole tile.
const BEYOND: [usize; 2] = [6, 8];
/// A broken kernel may spin for ever.
const STEP_LIMIT: u64 = 1 << 24;
/// Every model of the instructions.
const MODELS: [Numerics; 4] = [Numerics::Plain, Numerics::Ampere, Numerics::Ada, Numerics::Hopper];

/// A product of so many terms, a tile and some rows and columns more.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    shape: Shape,
}

impl Tile {
    fn new(dtype: DType, k: usize, [rows, columns]: [usize; 2], weights: usize, out: DType) -> Tile {
        let shape = Shape { dtype, rows: rows + BEYOND[0], columns: columns + BEYOND[1], k, weights, out };
        Tile { rows, columns, shape }
    }

    fn way(self) -> String {
        format!("mma({} by {})", self.rows, self.columns)
    }
}

pub(crate) fn cases() -> Vec<trials::Case> {
    let f32s = |dtype, k, rows| Tile::new(dtype, k, [rows, 64], 1, DType::F32);
    let own = |dtype, k, tile, weights| Tile::new(dtype, k, tile, weights, dtype);
    let (bf16, f16) = (DType::BF16, DType::F16);
    let cases = [
        // Copies of 16 bytes over more slices than stages, of 8 and of 4 bytes in one or two.
        f32s(bf16, 200, 64),
        f32s(f16, 200, 32),
        f32s(bf16, 36, 16),
        f32s(f16, 30, 64),
        // Loads of an element, over several turns of the ring and in one.
        f32s(bf16, 263, 64),
        f32s(f16, 41, 16),
        own(bf16, 129, [64, 128], 1),
        own(f16, 195, [64, 64], 2),
        own(bf16, 71, [16, 64], 2),
        // Factors rounded to tf32: lines of 128 and of 64 bytes, whole and not, in copies of 16 and of 4 bytes.
        f32s(DType::F32, 100, 64),
        f32s(DType::F32, 37, 16),
        own(DType::F32, 72, [128, 128], 2),
        own(DType::F32, 131, [128, 64], 1),
        // Results that go through shared memory; four warps and eight; lines of 64 and of 128 bytes.
        own(bf16, 264, [128, 64], 1),
        own(f16, 136, [64, 128], 1),
        own(bf16, 200, [128, 128], 1),
        own(bf16, 200, [128, 128], 2),
        own(bf16, 104, [128, 256], 1),
        own(f16, 328, [32, 128], 2),
        own(bf16, 68, [16, 128], 1),
        own(f16, 48, [16, 64], 2),
    ];
    let of = |tile: Tile| {
        let Shape { dtype, k, weights, out, .. } = tile.shape;
        let name = format!("matrices::{dtype}_{k}_in_tiles_of_{}_by_{}_of_{weights}_to_{out}", tile.rows, tile.columns);
        let run = move || ["sm_80", "sm_90a"].into_iter().try_for_each(|target| check(tile, target));
        trials::Case::of_kernels(name, run).of_kind("matrices").of_kind(&format!("matrices of {dtype}"))
    };
    let broken = ["sm_80", "sm_90a"].map(|target| {
        let run = move || notice(own(bf16, 392, [64, 128], 2), target);
        trials::Case::of_kernels(format!("matrices::broken_on_{target}"), run).of_kind("matrices")
    });
    cases.into_iter().map(of).chain(broken).collect()
}

fn check(tile: Tile, target: &str) -> Result<(), Failed> {
    let plain = Product::new(tile.shape, &tile.way(), target, |n, _, _| (n * 2.0 - 1.0) * 1.25f64.powf(n * 7.0))?;
    let meant = plain.meant()?;
    for schedule in schedules(3, 7) {
        if plain.run(options(target, schedule))? != meant {
            return Err(format!("{schedule:?}: other bits than the kernel IR means").into());
        }
    }
    let whole = Product::new(tile.shape, &tile.way(), target, WHOLE)?;
    MODELS.into_iter().try_for_each(|numerics| plain.is_near(numerics).and_then(|()| whole.is_exact(numerics)))
}

/// Each wait and each barrier that is left out or weaker is noticed: by a check, or by other bits.
fn notice(tile: Tile, target: &str) -> Result<(), Failed> {
    let product = Product::new(tile.shape, &tile.way(), target, |n, _, _| n * 2.0 - 1.0)?;
    let meant = product.run(options(target, schedules(1, 7)[0]))?;
    let text = assembly(&product.program, &product.machine)?;
    let broken: Vec<_> = mutants(&text)?.into_iter().filter(|mutant| mutant.mutation != Mutation::OtherBarrier).collect();
    let mut wrong = if broken.len() < 6 { format!("only {} to break\n", broken.len()) } else { String::new() };
    for mutant in broken {
        let is_same = |schedule| {
            let options = Options { step_limit: STEP_LIMIT, ..options(target, schedule) };
            product.run_text(&mutant.text, options).is_ok_and(|given| given == meant)
        };
        if schedules(3, 7).into_iter().all(is_same) {
            wrong += &format!("not noticed: {mutant}\n");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}
