//! Runs a layer given as text twice, by the graph's interpreter and by its scheduled kernels, on the same numbers.

use std::collections::BTreeMap;

use moec_ir::graph::{self, Tensor, Type, Typed};
use moec_ir::kernel::{self, Program};
use moec_ir::schedule::schedule;
use moec_ir::{DType, Dims, Machine};

/// Numbers that are the same every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// One of `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    /// In -1..1, in steps of 2^-10: products of two are exact in f32, and ties occur.
    pub(crate) fn number(&mut self) -> f64 {
        (self.below(2049) as f64 - 1024.0) / 1024.0
    }

    /// One of several.
    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// What came out of a run, by the names of buffers.
pub(crate) struct Outcome {
    memory: BTreeMap<String, kernel::Memory>,
    program: Program,
}

impl Outcome {
    fn words(&self, name: &str) -> Vec<u32> {
        let bytes = self.memory[name].bytes_or(0xAB);
        bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Whether there is such a buffer.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.memory.contains_key(name)
    }

    /// An i32 buffer.
    pub(crate) fn ints(&self, name: &str) -> Vec<i32> {
        self.words(name).into_iter().map(|w| w as i32).collect()
    }

    /// A float buffer.
    pub(crate) fn floats(&self, name: &str) -> Vec<f64> {
        let buffer = self.program.buffers.iter().find(|b| b.name == name).expect("a buffer of that name");
        decode(buffer.dtype, &self.memory[name].bytes_or(0xAB))
    }
}

pub(crate) fn parse(text: &str) -> Typed {
    let graph = graph::parse(text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    graph::verify(graph.clone()).unwrap_or_else(|found| panic!("{}", graph::print_with_violations(&graph, &found)))
}

/// The layer's program, verified.
pub(crate) fn program(layer: &Typed, machine: &Machine) -> Program {
    let program = schedule(layer, machine).unwrap_or_else(|e| panic!("{}: {e}", machine.name));
    if let Err(found) = kernel::verify::verify(&program, machine) {
        panic!("{}: {}", machine.name, kernel::print_with_violations(&program, &found));
    }
    program
}

/// What the kernels make of `params`, by name with sigil.
pub(crate) fn run(layer: &Typed, machine: &Machine, dims: Dims, params: &BTreeMap<String, Tensor>) -> Outcome {
    run_program(layer, program(layer, machine), machine, dims, params)
}

/// As [`run`], the layer's program being at hand.
pub(crate) fn run_program(
    layer: &Typed,
    program: Program,
    machine: &Machine,
    dims: Dims,
    params: &BTreeMap<String, Tensor>,
) -> Outcome {
    let given = layer.graph().params.iter().map(|(param, ty)| {
        let Type::Tensor { dtype, .. } = ty else { panic!("a parameter is a tensor") };
        (param.bare().to_string(), encode(*dtype, &params[&param.0].data))
    });
    let memory = kernel::interp(&program, machine, dims, &given.collect()).unwrap_or_else(|e| panic!("{}: {e}", machine.name));
    Outcome { memory, program }
}

/// Numbers for every parameter, as its type can hold them.
pub(crate) fn params(layer: &Typed, dims: Dims, random: &mut Random) -> BTreeMap<String, Tensor> {
    let mut params = BTreeMap::new();
    for (param, ty) in &layer.graph().params {
        let Type::Tensor { shape, dtype } = ty else { panic!("a parameter is a tensor") };
        let extent = |dim: &graph::Dim| match dim {
            graph::Dim::Const(n) => *n as usize,
            graph::Dim::Tokens | graph::Dim::Pairs => dims.tokens as usize,
        };
        let shape: Vec<usize> = shape.iter().map(extent).collect();
        let draw = |_| match dtype {
            // Numbers of experts and of rows of tables, and some that are neither.
            DType::I32 => random.below(12) as f64 - 2.0,
            dtype => dtype.round(random.number()),
        };
        let data = (0..shape.iter().product()).map(draw).collect();
        params.insert(param.0.clone(), Tensor::new(shape, data));
    }
    params
}

/// The largest difference, relative to the largest number; none between two NaN.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().copied().filter(|x| x.is_finite()).fold(1e-30, |m: f64, x| m.max(x.abs()));
    let difference = |(a, b): (&f64, &f64)| if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() / largest };
    a.iter().zip(b).map(difference).fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}

fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    let bytes = |x: &f64| match dtype {
        DType::F32 => (*x as f32).to_le_bytes().to_vec(),
        DType::BF16 => (((*x as f32).to_bits() >> 16) as u16).to_le_bytes().to_vec(),
        DType::I32 => (*x as i32).to_le_bytes().to_vec(),
        DType::Bool | DType::I64 | DType::F16 => panic!("no parameters of {dtype} here"),
    };
    values.iter().flat_map(bytes).collect()
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F32 => bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
        DType::BF16 => {
            bytes.chunks(2).map(|b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))).collect()
        }
        DType::Bool | DType::I32 | DType::I64 | DType::F16 => panic!("no floats of {dtype} here"),
    }
}
