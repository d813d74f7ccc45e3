//! A product alone, in one way to compute it, on the emulator: its operands, what it means, and how far off a result is.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use moec::emulate::{options, schedules};
use moec_codegen::assembly;
use moec_codegen::symbol::symbol;
use moec_ir::kernel::{self, Given, ParamKind, Program, Role, interp, layout};
use moec_ir::{DType, Dims, Machine, graph, schedule};
use moec_runtime::{Tensor, package};
use moec_tests::machine;
use ptx_emulator::{Arg, Buffer, Fill, Launch, Memory, Numerics, Options, Swizzle, TensorMap, launch, parse};

/// What is multiplied.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Terms of a sum.
    pub(super) k: usize,
    /// One or two, whose products are added.
    pub(super) weights: usize,
    /// Element type of the result.
    pub(super) out: DType,
}

/// How numbers are distributed: an element from a number in 0..1 that is another for each, where the element is along k as a part of K, and
/// whether it is of the weights.
pub(super) type Numbers = fn(f64, f64, bool) -> f64;

/// Whole numbers, whose sums are exact however they are added.
pub(super) const WHOLE: Numbers = |n, _, _| (n * 9.0).floor() - 4.0;

/// A product, its operands, and the sums in f64.
pub(super) struct Product {
    pub(super) program: Program,
    pub(super) machine: Machine,
    target: String,
    given: BTreeMap<String, Vec<u8>>,
    /// Of each element the sum, and the sum of the terms' magnitudes.
    sums: Vec<(f64, f64)>,
    shape: Shape,
}

impl Product {
    /// In a way such as `mma(16 by 64)`, on a target's machine.
    pub(super) fn new(shape: Shape, way: &str, target: &str, of: Numbers) -> Result<Product, Failed> {
        let Shape { dtype, rows, columns, k, weights, out } = shape;
        let names = &["w0", "w1"][..weights];
        let params: String = names.iter().map(|name| format!(", @{name}: tensor<{columns} x {k} x {dtype}>")).collect();
        let operands: Vec<String> = names.iter().map(|name| format!("@{name}")).collect();
        let body = match (weights, out) {
            (1, DType::F32) if dtype == DType::F32 => " {\n    yield tf32 $0\n  }".to_string(),
            (_, out) if dtype == DType::F32 => {
                format!(" {{\n    a = tf32 $0\n    b = tf32 $1\n    c = add a, b\n    yield cast c, {out}\n  }}")
            }
            (1, DType::F32) => String::new(),
            (1, out) => format!(" {{\n    yield cast $0, {out}\n  }}"),
            (_, out) => format!(" {{\n    a = add $0, $1\n    yield cast a, {out}\n  }}"),
        };
        let text = format!(
            "layer @product(%x: tensor<T x {k} x {dtype}>{params}) -> tensor<T x {columns} x {out}> {{\n  \
             %0 = gemm %x, [{}], {way}{body} : tensor<T x {columns} x {out}>\n  return %0\n}}\n",
            operands.join(", ")
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
        let x = numbers(rows, false);
        let w: Vec<Vec<f64>> = names.iter().map(|_| numbers(columns, true)).collect();
        let sum = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            let terms = w.iter().flat_map(|w| w[column * k..][..k].iter().zip(&x[row * k..][..k]));
            terms.map(|(w, x)| w * x).fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + f64::abs(term)))
        };
        let sums = (0..rows * columns).map(sum).collect();
        let mut given = BTreeMap::new();
        for buffer in &program.buffers {
            match buffer.role {
                Role::Input => given.insert(buffer.name.clone(), encode(dtype, &x)?),
                Role::Weight => {
                    let i = names.iter().position(|name| *name == buffer.name).ok_or("an unknown weight")?;
                    given.insert(buffer.name.clone(), encode(dtype, &w[i])?)
                }
                Role::Output | Role::Prepared | Role::Workspace => None,
            };
        }
        Ok(Product { program, machine, target: target.to_string(), given, sums, shape })
    }

    fn dims(&self) -> Dims {
        Dims { tokens: self.shape.rows as u64, sequence_tokens: self.shape.rows as u64 }
    }

    /// The bytes that the kernel IR means.
    pub(super) fn meant(&self) -> Result<Vec<u8>, Failed> {
        let memory = interp(&self.program, &self.machine, self.dims(), &self.given)?;
        let is_output = |name: &str| self.program.buffers.iter().any(|of| of.name == name && of.role == Role::Output);
        let (_, meant) = memory.iter().find(|(name, _)| is_output(name)).ok_or("no output")?;
        Ok(meant.bytes().ok_or("not all is written")?.to_vec())
    }

    /// Under the first schedule, by a model of the instructions that multiply.
    pub(super) fn run_by(&self, numerics: Numerics) -> Result<Vec<u8>, Failed> {
        self.run(Options { numerics, ..options(&self.target, schedules(1, 7)[0]) })
    }

    /// Each element is within what rounding explains.
    pub(super) fn is_near(&self, numerics: Numerics) -> Result<(), Failed> {
        let worst = self.worst(numerics, &self.run_by(numerics)?);
        if worst.is_nan() || worst > 1.0 {
            return Err(format!("{numerics:?}: an element is {worst} times as far off as the bound allows").into());
        }
        Ok(())
    }

    /// Of whole numbers each element is exact, but for its own rounding.
    pub(super) fn is_exact(&self, numerics: Numerics) -> Result<(), Failed> {
        let sums: Vec<f64> = self.sums.iter().map(|(sum, _)| self.shape.out.round(*sum)).collect();
        let is_same = self.run_by(numerics)? == encode(self.shape.out, &sums)?;
        if is_same { Ok(()) } else { Err(format!("{numerics:?}: whole numbers are not exact").into()) }
    }

    /// How far off the element is that is furthest, as a part of what rounding explains: each step of a fused sum cuts its terms off below the
    /// largest, and the sum so far; sums of several weights are added; then the result is rounded to its type.
    fn worst(&self, numerics: Numerics, bytes: &[u8]) -> f64 {
        // tf32 has half as many terms in the bytes of a step.
        let is_rounded = self.shape.dtype == DType::F32;
        let steps = |depth: usize, fraction: i32| {
            let depth = if is_rounded { depth / 2 } else { depth };
            let cut = (depth as f64 + 1.0) * 2f64.powi(-fraction) + 2f64.powi(-23);
            self.shape.k.div_ceil(depth) as f64 * cut
        };
        let of_sum = match numerics {
            Numerics::Plain => self.shape.k as f64 * 2f64.powi(-23),
            Numerics::Ampere | Numerics::Ada => steps(8, 24),
            Numerics::Hopper => steps(16, 25),
        };
        // Two factors of each term.
        let of_factors = if is_rounded { 2f64.powi(-10) + 2f64.powi(-22) } else { 0.0 };
        let relative = of_factors + of_sum + (self.shape.weights - 1) as f64 * 2f64.powi(-23);
        let rounding = match self.shape.out {
            DType::BF16 => 2f64.powi(-8),
            DType::F16 => 2f64.powi(-11),
            DType::F32 | DType::I32 | DType::I64 | DType::Bool => 0.0,
        };
        let shape = vec![self.shape.rows as u64, self.shape.columns as u64];
        let given =
            Tensor::new(package_type(self.shape.out), shape, bytes.to_vec()).map(|tensor| tensor.to_f64()).unwrap_or_default();
        let ratios = given.iter().zip(&self.sums).map(|(y, (sum, magnitude))| {
            let most = rounding * sum.abs() + relative * magnitude;
            // An element that is exact may be allowed nothing.
            if y == sum { 0.0 } else { (y - sum).abs() / most }
        });
        // A maximum would pass over what is no number.
        ratios.fold(0.0, |worst, ratio| if ratio <= worst { worst } else { ratio })
    }

    /// The bytes of the output: clean, and without a conflict between banks of shared memory.
    pub(super) fn run(&self, options: Options) -> Result<Vec<u8>, Failed> {
        self.run_text(&assembly(&self.program, &self.machine)?, options)
    }

    /// The same of this PTX.
    pub(super) fn run_text(&self, text: &str, options: Options) -> Result<Vec<u8>, Failed> {
        let module = parse(text)?;
        let [of_layer] = &self.program.regimes[0].launches[..] else { return Err("not one launch".into()) };
        let kernel = &self.program.kernels[of_layer.kernel];
        let dims = self.dims();
        let (mut memory, mut args, mut output) = (Memory::new(), Vec::new(), None);
        let mut placed = |memory: &mut Memory, index: usize| -> Result<Buffer, Failed> {
            let buffer = &self.program.buffers[index];
            Ok(match self.given.get(&buffer.name) {
                Some(content) => memory.upload(&buffer.name, content)?,
                None => {
                    let bytes = (self.sums.len() as u64) * self.shape.out.bytes();
                    *output.insert(memory.alloc(&buffer.name, bytes, Fill::Uninitialised(0xff))?)
                }
            })
        };
        for arg in &of_layer.args {
            args.push(match &arg.given {
                Given::Scalar(extent) => Arg::I32(extent.at(dims).ok_or("no value")? as i32),
                Given::TensorMap(view) => {
                    let buffer = placed(&mut memory, view.buffer)?;
                    let param = kernel.params.iter().find(|param| param.name == arg.param).ok_or("no parameter")?;
                    let ParamKind::TensorMap(map) = param.kind else { return Err("the parameter is no map".into()) };
                    Arg::Bytes(encoded(map, view.at(dims).ok_or("no extents")?, memory.address(buffer)?)?)
                }
                Given::Buffer(index) => Arg::Buffer(placed(&mut memory, *index)?),
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

fn package_type(dtype: DType) -> package::DType {
    match dtype {
        DType::BF16 => package::DType::Bf16,
        DType::F16 => package::DType::F16,
        DType::F32 | DType::I32 | DType::I64 | DType::Bool => package::DType::F32,
    }
}

fn encode(dtype: DType, numbers: &[f64]) -> Result<Vec<u8>, Failed> {
    let numbers: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
    Ok(Tensor::from_f32(package_type(dtype), vec![numbers.len() as u64], &numbers)?.bytes().to_vec())
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
