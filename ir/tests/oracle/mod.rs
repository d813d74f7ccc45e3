//! Graphs on random numbers: what the interpreter says of them, and whether two graphs agree.

use std::collections::BTreeMap;

use moec_ir::graph::{Dim, Tensor, Type, Typed, Value, interp, parse, print_with_violations, verify};
use moec_ir::{DType, Dims};

/// SplitMix64: a sequence of numbers that the seed decides.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// From -2 to 2.
    fn number(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 51) as f64 - 2.0
    }
}

/// Which numbers stand in the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Numbers {
    /// Any from -2 to 2.
    Smooth,
    /// -1, 0 and 1: ties, and sums of zero.
    Ties,
    /// Also infinities and NaN, in the inputs (`%`) but for `%x`: weights and hidden states are finite.
    Extreme,
}

impl Numbers {
    pub(crate) const ALL: [Numbers; 3] = [Numbers::Smooth, Numbers::Ties, Numbers::Extreme];

    fn draw(self, random: &mut Random, finite: bool) -> f64 {
        match self {
            Numbers::Smooth => random.number(),
            Numbers::Ties => random.one(&[-1.0, 0.0, 0.0, 1.0]),
            Numbers::Extreme if finite => random.number(),
            Numbers::Extreme => random.one(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.5, -0.5, 3.0]),
        }
    }
}

/// The graph of a text that must be one.
pub(crate) fn typed(text: &str) -> Typed {
    let graph = parse(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    verify(graph.clone()).unwrap_or_else(|found| panic!("{}", print_with_violations(&graph, &found)))
}

/// A value for each parameter, representable in its element type.
pub(crate) fn inputs(graph: &Typed, dims: Dims, seed: u64, numbers: Numbers) -> BTreeMap<String, Tensor> {
    let mut random = Random(seed);
    let value = |ty: &Type, finite: bool, random: &mut Random| {
        let Type::Tensor { shape, dtype } = ty else { panic!("a parameter of type {ty}") };
        let shape: Vec<usize> = shape
            .iter()
            .map(|dim| match dim {
                Dim::Const(n) => *n as usize,
                Dim::Tokens => dims.tokens as usize,
                Dim::Pairs => panic!("a parameter of type {ty}"),
            })
            .collect();
        let draw = |_| match dtype {
            // Numbers of experts and of rows of tables, and some that are neither.
            DType::I32 => random.below(12) as f64 - 2.0,
            dtype => dtype.round(numbers.draw(random, finite)),
        };
        let data = (0..shape.iter().product()).map(draw).collect();
        Tensor::new(shape, data)
    };
    let params = graph.graph().params.iter();
    params.map(|(p, ty)| (p.0.clone(), value(ty, !p.is_input() || p.0 == "%x", &mut random))).collect()
}

/// The layer's results.
fn results(graph: &Typed, params: &BTreeMap<String, Tensor>, dims: Dims) -> Vec<Tensor> {
    let values = interp(graph, params, dims).unwrap_or_else(|why| panic!("{why}"));
    let result = |(name, id): (&str, egg::Id)| match &values[usize::from(id)] {
        Value::Tensor(y) => y.clone(),
        other => panic!("the result {name} is {other:?}"),
    };
    graph.graph().results().map(result).collect()
}

/// The layer's output, its first result.
pub(crate) fn output(graph: &Typed, params: &BTreeMap<String, Tensor>, dims: Dims) -> Tensor {
    results(graph, params, dims).swap_remove(0)
}

/// Whether two graphs of the same parameters give the same results, relative to the largest finite number of each.
pub(crate) fn same(a: &Typed, b: &Typed, params: &BTreeMap<String, Tensor>, dims: Dims, tolerance: f64) -> Result<(), String> {
    let (given, found) = (results(a, params, dims), results(b, params, dims));
    given.iter().zip(&found).try_for_each(|(a, b)| alike(a, b, tolerance))
}

fn alike(a: &Tensor, b: &Tensor, tolerance: f64) -> Result<(), String> {
    if a.shape != b.shape {
        return Err(format!("the shapes {:?} and {:?}", a.shape, b.shape));
    }
    let largest = a.data.iter().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
    let agree = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * largest;
    match a.data.iter().zip(&b.data).position(|(a, b)| !agree(*a, *b)) {
        Some(at) => Err(format!("{} and {} at {at} of {:?}", a.data[at], b.data[at], a.shape)),
        None => Ok(()),
    }
}
