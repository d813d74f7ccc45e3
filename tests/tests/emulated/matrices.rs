//! Products by matrix instructions on the emulator: clean under every schedule, the bits of the kernel IR's interpreter where sums are
//! f32 multiply-adds in order, and within a bound of each element where they are the published models of tensor cores.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use moec::emulate::{options, schedules};
use moec_codegen::assembly;
use moec_codegen::symbol::symbol;
use moec_ir::kernel::{Given, Program, Role, interp, layout};
use moec_ir::{DType, Dims, Machine, graph, schedule};
use moec_tests::machine;
use moec_tests::trials;
use ptx_emulator::{Arg, Fill, Launch, Memory, Numerics, Options, launch, parse};

/// Tokens: a whole tile of 64 rows and one that is not.
const TOKENS: usize = 70;
/// Columns: a whole tile of 64 and one that is not.
const COLUMNS: usize = 72;

pub(crate) fn cases() -> Vec<trials::Case> {
    // Copies of 16 bytes over more slices than stages, of 8 and of 4 bytes in one or two.
    let cases = [(DType::BF16, 200, 64), (DType::F16, 200, 32), (DType::BF16, 36, 16), (DType::F16, 30, 64)];
    let of = |(dtype, k, rows): (DType, usize, u32)| {
        let name = format!("matrices::{dtype}_{k}_in_tiles_of_{rows}");
        let run = move || ["sm_80", "sm_90a"].into_iter().try_for_each(|target| check(dtype, k, rows, target));
        trials::Case::of_kernels(name, run).of_kind("matrices").of_kind(&format!("matrices of {dtype}"))
    };
    cases.into_iter().map(of).collect()
}

/// A product, its operands, and the sums in f64.
struct Case {
    program: Program,
    machine: Machine,
    given: BTreeMap<String, Vec<u8>>,
    /// Of each element the sum, and the sum of the terms' magnitudes.
    sums: Vec<(f64, f64)>,
    k: usize,
}

fn check(dtype: DType, k: usize, rows: u32, target: &str) -> Result<(), Failed> {
    let plain = case(dtype, k, rows, target, |n| (n * 2.0 - 1.0) * 1.25f64.powf(n * 7.0))?;
    let dims = Dims { tokens: TOKENS as u64, sequence_tokens: TOKENS as u64 };
    let memory = interp(&plain.program, &plain.machine, dims, &plain.given)?;
    let (_, meant) = memory.iter().find(|(name, _)| is_output(&plain.program, name)).ok_or("no output")?;
    let meant = meant.bytes().ok_or("not all is written")?;
    for schedule in schedules(3, 7) {
        if plain.run(options(target, schedule))? != meant {
            return Err(format!("{schedule:?}: other bits than the kernel IR means").into());
        }
    }
    // Per element: steps of a fused sum, each of which cuts terms off below the largest, and the sum itself.
    let steps = |depth: usize, fraction: i32| {
        let cut = (depth as f64 + 1.0) * 2f64.powi(-fraction) + 2f64.powi(-23);
        plain.k.div_ceil(depth) as f64 * cut
    };
    let models = [
        (Numerics::Plain, plain.k as f64 * 2f64.powi(-23)),
        (Numerics::Ampere, steps(8, 24)),
        (Numerics::Ada, steps(8, 24)),
        (Numerics::Hopper, steps(16, 25)),
    ];
    for (numerics, relative) in models {
        let given = plain.run(Options { numerics, ..options(target, schedules(1, 7)[0]) })?;
        let given = given.chunks(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let ratios = given.zip(&plain.sums).map(|(y, (sum, magnitude))| (f64::from(y) - sum).abs() / (relative * magnitude));
        let worst = ratios.fold(0.0, f64::max);
        if worst.is_nan() || worst > 1.0 {
            return Err(format!("{numerics:?}: an element is {worst} times as far off as the bound allows").into());
        }
    }
    // Whole numbers are exact however they are added.
    let whole = case(dtype, k, rows, target, |n| (n * 9.0).floor() - 4.0)?;
    let exact: Vec<u8> = whole.sums.iter().flat_map(|(sum, _)| (*sum as f32).to_le_bytes()).collect();
    for numerics in [Numerics::Plain, Numerics::Ampere, Numerics::Ada, Numerics::Hopper] {
        if whole.run(Options { numerics, ..options(target, schedules(1, 7)[0]) })? != exact {
            return Err(format!("{numerics:?}: whole numbers are not exact").into());
        }
    }
    Ok(())
}

/// `of`: an element from a number in 0..1.
fn case(dtype: DType, k: usize, rows: u32, target: &str, of: impl Fn(f64) -> f64) -> Result<Case, Failed> {
    let text = format!(
        "layer @product(%x: tensor<T x {k} x {dtype}>, @w: tensor<{COLUMNS} x {k} x {dtype}>) -> tensor<T x {COLUMNS} x f32> {{\n  \
         %0 = gemm %x, [@w], mma({rows} by 64) : tensor<T x {COLUMNS} x f32>\n  return %0\n}}\n"
    );
    let layer = graph::verify(graph::parse(&text)?).map_err(|wrong| format!("{wrong:?}"))?;
    let machine = machine(target);
    let program = schedule::schedule(&layer, &machine)?;
    let mut state = k as u64;
    let mut numbers = |count: usize| -> Vec<f64> {
        let next = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            dtype.round(of((state >> 40) as f64 / (1u64 << 24) as f64))
        };
        (0..count).map(next).collect()
    };
    let (x, w) = (numbers(TOKENS * k), numbers(COLUMNS * k));
    let sum = |i: usize| {
        let terms = (0..k).map(|j| x[i / COLUMNS * k + j] * w[i % COLUMNS * k + j]);
        terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + f64::abs(term)))
    };
    let sums = (0..TOKENS * COLUMNS).map(sum).collect();
    let mut given = BTreeMap::new();
    for buffer in &program.buffers {
        match buffer.role {
            Role::Input => given.insert(buffer.name.clone(), encode(dtype, &x)?),
            Role::Weight => given.insert(buffer.name.clone(), encode(dtype, &w)?),
            Role::Output | Role::Prepared | Role::Workspace => None,
        };
    }
    Ok(Case { program, machine, given, sums, k })
}

fn encode(dtype: DType, numbers: &[f64]) -> Result<Vec<u8>, Failed> {
    let package = if dtype == DType::BF16 { moec_runtime::package::DType::Bf16 } else { moec_runtime::package::DType::F16 };
    let numbers: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
    Ok(moec_runtime::Tensor::from_f32(package, vec![numbers.len() as u64], &numbers)?.bytes().to_vec())
}

fn is_output(program: &Program, name: &str) -> bool {
    program.buffers.iter().any(|buffer| buffer.name == name && buffer.role == Role::Output)
}

impl Case {
    /// The bytes of the output: clean, and without a conflict between banks of shared memory.
    fn run(&self, options: Options) -> Result<Vec<u8>, Failed> {
        let module = parse(&assembly(&self.program, &self.machine)?)?;
        let [of_layer] = &self.program.regimes[0].launches[..] else { return Err("not one launch".into()) };
        let kernel = &self.program.kernels[of_layer.kernel];
        let dims = Dims { tokens: TOKENS as u64, sequence_tokens: TOKENS as u64 };
        let (mut memory, mut args, mut output) = (Memory::new(), Vec::new(), None);
        for arg in &of_layer.args {
            args.push(match &arg.given {
                Given::Scalar(extent) => Arg::I32(extent.at(dims).ok_or("no value")? as i32),
                Given::TensorMap(_) => return Err("the kernel takes no map".into()),
                Given::Buffer(index) => {
                    let buffer = &self.program.buffers[*index];
                    Arg::Buffer(match self.given.get(&buffer.name) {
                        Some(content) => memory.upload(&buffer.name, content)?,
                        None => {
                            let bytes = (TOKENS * COLUMNS * 4) as u64;
                            *output.insert(memory.alloc(&buffer.name, bytes, Fill::Uninitialised(0xff))?)
                        }
                    })
                }
            });
        }
        let symbol = symbol(&self.program, &self.machine, &kernel.name);
        let args = module.entry(&symbol).ok_or("no entry")?.pack(&memory, &args)?;
        let blocks = of_layer.grid.at(dims).ok_or("no grid")? as u32;
        let shared_bytes = layout(kernel).dynamic_bytes(&self.machine) as u32;
        let shape = Launch { grid: [blocks, 1, 1], block: [kernel.threads, 1, 1], shared_bytes, early: false, args };
        let report = launch(&module, &symbol, &shape, &mut memory, &options)?;
        if let Some(finding) = report.findings.first() {
            return Err(finding.to_string().into());
        }
        let counters = &report.counters;
        if counters.mma_flops == 0 || counters.wavefronts != counters.wavefronts_needed {
            let (used, needed) = (counters.wavefronts, counters.wavefronts_needed);
            return Err(format!("{} FLOPs by matrices; {used} passes of shared memory for {needed}", counters.mma_flops).into());
        }
        Ok(memory.content(output.ok_or("no output")?)?)
    }
}
