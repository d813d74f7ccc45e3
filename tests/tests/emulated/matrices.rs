//! Products by matrix instructions on the emulator: clean under every schedule, the bits of the kernel IR's interpreter where sums are
//! f32 multiply-adds in order, and within a bound of each element where they are the published models of tensor cores: in each of the ways to
//! compute them, with as many terms as published layers have.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use moec::emulate::{options, schedules};
use moec_codegen::assembly;
use moec_codegen::symbol::symbol;
use moec_ir::kernel::{self, Given, ParamKind, Program, Role, interp, layout};
use moec_ir::{DType, Dims, Machine, graph, schedule};
use moec_runtime::{Tensor, package};
use moec_tests::machine;
use moec_tests::trials;
use ptx_emulator::{Arg, Fill, Launch, Memory, Numerics, Options, Swizzle, TensorMap, launch, parse};

/// A product of so many rows, columns, and terms of each sum.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    columns: usize,
    k: usize,
}

/// A whole tile of 64 rows and columns and ones that are not.
const FEW_TERMS: Shape = Shape { rows: 70, columns: 72, k: 0 };
/// A block of a product of the longest sums that a published layer has: few of its rows and columns, whole ones.
const MANY_TERMS: Shape = Shape { rows: 8, columns: 16, k: 14_336 };

/// By target, ways to compute a product by tensor cores, and the published model of these.
const WAYS: [(&str, &str, Numerics); 5] = [
    ("sm_80", "mma(16 by 64)", Numerics::Ampere),
    ("sm_90a", "mma(16 by 64)", Numerics::Hopper),
    ("sm_80", "stream(8 by 16)", Numerics::Ampere),
    ("sm_90a", "stream(8 by 16)", Numerics::Hopper),
    ("sm_90a", "group(64 by 128)", Numerics::Hopper),
];

pub(crate) fn cases() -> Vec<trials::Case> {
    // Copies of 16 bytes over more slices than stages, of 8 and of 4 bytes in one or two.
    let cases = [(DType::BF16, 200, 64), (DType::F16, 200, 32), (DType::BF16, 36, 16), (DType::F16, 30, 64)];
    let of = |(dtype, k, rows): (DType, usize, u32)| {
        let name = format!("matrices::{dtype}_{k}_in_tiles_of_{rows}");
        let run = move || ["sm_80", "sm_90a"].into_iter().try_for_each(|target| check(dtype, k, rows, target));
        trials::Case::of_kernels(name, run).of_kind("matrices").of_kind(&format!("matrices of {dtype}"))
    };
    let accurate = WAYS.into_iter().map(|(target, way, numerics)| {
        let name = format!("matrices::accurate_by_{}_on_{target}", way.replace(['(', ')', ' '], "_"));
        let run = move || [DType::BF16, DType::F16].into_iter().try_for_each(|dtype| check_sums(dtype, way, target, numerics));
        trials::Case::of_kernels(name.clone(), run).of_kind(&name)
    });
    cases.into_iter().map(of).chain(accurate).collect()
}

/// A product, its operands, and the sums in f64.
struct Case {
    program: Program,
    machine: Machine,
    given: BTreeMap<String, Vec<u8>>,
    /// Of each element the sum, and the sum of the terms' magnitudes.
    sums: Vec<(f64, f64)>,
    shape: Shape,
    /// Element type of the result.
    out: DType,
}

/// How numbers are distributed: an element from a number in 0..1 that is another for each, where the element is along k as a part of K, and
/// whether it is of the weights.
type Numbers = fn(f64, f64, bool) -> f64;

/// Numbers as of a normal distribution; ones of which few are by far the largest; ones of which the second half of a sum nearly cancels the
/// first.
const NUMBERS: [(&str, Numbers); 3] = [
    ("random", |n, _, _| normal(n)),
    ("heavy-tailed", |n, _, _| (0.02 / (n - 0.5)).clamp(-64.0, 64.0)),
    ("cancelling", |n, along, is_weight| {
        let here = 0.5 + (along * 2.0 * 1000.0).fract() + n / 64.0;
        if is_weight && along >= 0.5 { -here } else { here }
    }),
];

/// Of a number in 0..1 one that is distributed about as a normal one: the logistic distribution's quantile of the same variance.
fn normal(n: f64) -> f64 {
    let n = n.clamp(1e-6, 1.0 - 1e-6);
    (n / (1.0 - n)).ln() * 3f64.sqrt() / std::f64::consts::PI
}

/// Long sums by a published model of tensor cores, of all kinds of numbers: within the bound of each element. Shorter ones of one sign, where all
/// that is cut off adds up, and whose results are rounded to 16 bits.
fn check_sums(dtype: DType, way: &str, target: &str, numerics: Numerics) -> Result<(), Failed> {
    let long = NUMBERS.into_iter().map(|(name, numbers)| (name, numbers, MANY_TERMS, DType::F32));
    let of_one_sign: Numbers = |n, _, _| 0.5 + n;
    let short = ("of one sign", of_one_sign, Shape { k: MANY_TERMS.k / 8, ..MANY_TERMS }, dtype);
    for (name, numbers, shape, out) in long.chain([short]) {
        let case = case(dtype, shape, way, (target, out), numbers)?;
        let worst = case.worst(numerics, &case.run(Options { numerics, ..options(target, schedules(1, 7)[0]) })?);
        if worst.is_nan() || worst > 1.0 {
            return Err(format!("{dtype}, {name}: an element is {worst} times as far off as the bound allows").into());
        }
    }
    // A term that is missing is within the bound of such long sums.
    let shape = Shape { k: MANY_TERMS.k / 8 + 8, ..MANY_TERMS };
    check_whole(&case(dtype, shape, way, (target, DType::F32), WHOLE)?, target, numerics)
}

fn check(dtype: DType, k: usize, rows: u32, target: &str) -> Result<(), Failed> {
    let (way, shape) = (format!("mma({rows} by 64)"), Shape { k, ..FEW_TERMS });
    let case = |of: Numbers| case(dtype, shape, &way, (target, DType::F32), of);
    let plain = case(|n, _, _| (n * 2.0 - 1.0) * 1.25f64.powf(n * 7.0))?;
    let dims = plain.dims();
    let memory = interp(&plain.program, &plain.machine, dims, &plain.given)?;
    let (_, meant) = memory.iter().find(|(name, _)| is_output(&plain.program, name)).ok_or("no output")?;
    let meant = meant.bytes().ok_or("not all is written")?;
    for schedule in schedules(3, 7) {
        if plain.run(options(target, schedule))? != meant {
            return Err(format!("{schedule:?}: other bits than the kernel IR means").into());
        }
    }
    for numerics in [Numerics::Plain, Numerics::Ampere, Numerics::Ada, Numerics::Hopper] {
        let worst = plain.worst(numerics, &plain.run(Options { numerics, ..options(target, schedules(1, 7)[0]) })?);
        if worst.is_nan() || worst > 1.0 {
            return Err(format!("{numerics:?}: an element is {worst} times as far off as the bound allows").into());
        }
    }
    [Numerics::Plain, Numerics::Ampere, Numerics::Ada, Numerics::Hopper]
        .into_iter()
        .try_for_each(|numerics| check_whole(&case(WHOLE)?, target, numerics))
}

/// Whole numbers, whose sums are exact however they are added.
const WHOLE: Numbers = |n, _, _| (n * 9.0).floor() - 4.0;

fn check_whole(case: &Case, target: &str, numerics: Numerics) -> Result<(), Failed> {
    let exact: Vec<u8> = case.sums.iter().flat_map(|(sum, _)| (*sum as f32).to_le_bytes()).collect();
    let given = case.run(Options { numerics, ..options(target, schedules(1, 7)[0]) })?;
    if given == exact { Ok(()) } else { Err(format!("{numerics:?}: whole numbers are not exact").into()) }
}

fn case(dtype: DType, shape: Shape, way: &str, (target, out): (&str, DType), of: Numbers) -> Result<Case, Failed> {
    let Shape { rows, columns, k } = shape;
    let body = if out == DType::F32 { String::new() } else { format!(" {{\n    yield cast $0, {out}\n  }}") };
    let text = format!(
        "layer @product(%x: tensor<T x {k} x {dtype}>, @w: tensor<{columns} x {k} x {dtype}>) -> tensor<T x {columns} x {out}> {{\n  \
         %0 = gemm %x, [@w], {way}{body} : tensor<T x {columns} x {out}>\n  return %0\n}}\n"
    );
    let layer = graph::verify(graph::parse(&text)?).map_err(|wrong| format!("{wrong:?}"))?;
    let machine = machine(target);
    let program = schedule::schedule(&layer, &machine)?;
    let mut state = k as u64;
    let mut numbers = |lines: usize, is_weight: bool| -> Vec<f64> {
        let next = |i| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            dtype.round(of((state >> 40) as f64 / (1u64 << 24) as f64, (i % k) as f64 / k as f64, is_weight))
        };
        (0..lines * k).map(next).collect()
    };
    let (x, w) = (numbers(rows, false), numbers(columns, true));
    let sum = |i: usize| {
        let lines = x[i / columns * k..][..k].iter().zip(&w[i % columns * k..][..k]);
        lines.map(|(x, w)| x * w).fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + f64::abs(term)))
    };
    let sums = (0..rows * columns).map(sum).collect();
    let mut given = BTreeMap::new();
    for buffer in &program.buffers {
        match buffer.role {
            Role::Input => given.insert(buffer.name.clone(), encode(dtype, &x)?),
            Role::Weight => given.insert(buffer.name.clone(), encode(dtype, &w)?),
            Role::Output | Role::Prepared | Role::Workspace => None,
        };
    }
    Ok(Case { program, machine, given, sums, shape, out })
}

fn encode(dtype: DType, numbers: &[f64]) -> Result<Vec<u8>, Failed> {
    let package = if dtype == DType::BF16 { package::DType::Bf16 } else { package::DType::F16 };
    let numbers: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
    Ok(Tensor::from_f32(package, vec![numbers.len() as u64], &numbers)?.bytes().to_vec())
}

/// A map as a launch is given it: innermost dimension first.
fn encoded(map: kernel::TensorMap, tensor: kernel::Tensor, address: u64) -> Result<Vec<u8>, Failed> {
    let kernel::Tensor { extents: [outer, row, column], strides } = tensor;
    let map = TensorMap {
        element_bytes: map.elem.bytes() as u8,
        address,
        extents: vec![column, row, outer],
        strides: [strides[1], strides[0]].map(|elements| elements * map.elem.bytes()).into(),
        box_extents: map.tile.iter().rev().copied().collect(),
        swizzle: match map.swizzle {
            kernel::Swizzle::None => Swizzle::None,
            kernel::Swizzle::Bytes32 => Swizzle::Bytes32,
            kernel::Swizzle::Bytes64 => Swizzle::Bytes64,
            kernel::Swizzle::Bytes128 => Swizzle::Bytes128,
        },
    };
    Ok(map.encode()?.to_vec())
}

fn is_output(program: &Program, name: &str) -> bool {
    program.buffers.iter().any(|buffer| buffer.name == name && buffer.role == Role::Output)
}

impl Case {
    fn dims(&self) -> Dims {
        Dims { tokens: self.shape.rows as u64, sequence_tokens: self.shape.rows as u64 }
    }

    /// How far off the element is that is furthest, as a part of what rounding explains: each step of a fused sum cuts its terms off below the
    /// largest, and the sum so far; then the result is rounded to its type.
    fn worst(&self, numerics: Numerics, bytes: &[u8]) -> f64 {
        let steps = |depth: usize, fraction: i32| {
            let cut = (depth as f64 + 1.0) * 2f64.powi(-fraction) + 2f64.powi(-23);
            self.shape.k.div_ceil(depth) as f64 * cut
        };
        let relative = match numerics {
            Numerics::Plain => self.shape.k as f64 * 2f64.powi(-23),
            Numerics::Ampere | Numerics::Ada => steps(8, 24),
            Numerics::Hopper => steps(16, 25),
        };
        let (of_type, rounding) = match self.out {
            DType::BF16 => (package::DType::Bf16, 2f64.powi(-8)),
            DType::F16 => (package::DType::F16, 2f64.powi(-11)),
            DType::F32 | DType::I32 | DType::I64 | DType::Bool => (package::DType::F32, 0.0),
        };
        let shape = vec![self.shape.rows as u64, self.shape.columns as u64];
        let given = Tensor::new(of_type, shape, bytes.to_vec()).map(|tensor| tensor.to_f64()).unwrap_or_default();
        let ratios = given.iter().zip(&self.sums).map(|(y, (sum, magnitude))| {
            let most = rounding * sum.abs() + relative * magnitude;
            // An element that is exact may be allowed nothing.
            if y == sum { 0.0 } else { (y - sum).abs() / most }
        });
        // A maximum would pass over what is no number.
        ratios.fold(0.0, |worst, ratio| if ratio <= worst { worst } else { ratio })
    }

    /// The bytes of the output: clean, and without a conflict between banks of shared memory.
    fn run(&self, options: Options) -> Result<Vec<u8>, Failed> {
        let module = parse(&assembly(&self.program, &self.machine)?)?;
        let [of_layer] = &self.program.regimes[0].launches[..] else { return Err("not one launch".into()) };
        let kernel = &self.program.kernels[of_layer.kernel];
        let dims = self.dims();
        let (mut memory, mut args, mut output) = (Memory::new(), Vec::new(), None);
        for arg in &of_layer.args {
            args.push(match &arg.given {
                Given::Scalar(extent) => Arg::I32(extent.at(dims).ok_or("no value")? as i32),
                Given::TensorMap(view) => {
                    let name = &self.program.buffers[view.buffer].name;
                    let buffer = memory.upload(name, self.given.get(name).ok_or("no content")?)?;
                    let param = kernel.params.iter().find(|param| param.name == arg.param).ok_or("no parameter")?;
                    let ParamKind::TensorMap(map) = param.kind else { return Err("the parameter is no map".into()) };
                    Arg::Bytes(encoded(map, view.at(dims).ok_or("no extents")?, memory.address(buffer)?)?)
                }
                Given::Buffer(index) => {
                    let buffer = &self.program.buffers[*index];
                    Arg::Buffer(match self.given.get(&buffer.name) {
                        Some(content) => memory.upload(&buffer.name, content)?,
                        None => {
                            let bytes = (self.sums.len() as u64) * self.out.bytes();
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
        if counters.mma_flops + counters.wgmma_flops == 0 || counters.wavefronts != counters.wavefronts_needed {
            let (used, needed) = (counters.wavefronts, counters.wavefronts_needed);
            let flops = counters.mma_flops + counters.wgmma_flops;
            return Err(format!("{flops} FLOPs by matrices; {used} passes of shared memory for {needed}").into());
        }
        Ok(memory.content(output.ok_or("no output")?)?)
    }
}
