//! The least time that a layer takes on a machine, however it is computed, if its router picks by chance.

use super::cost::{Cost, Sizes, Workload, product_flops};
use super::price::time;
use super::spread::Spread;
use crate::graph::{Node, Op, Pointwise, Type, Typed, is_output};
use crate::{DType, Extent, Machine};

/// What a layer moves and computes for one batch without padding, in the mean over routings by chance (its [`Spread`]), and how
/// long that takes at least: `max(bytes / bandwidth, FLOPs of each type / the best rate for it)`.
///
/// It is no bound of every routing: one that hits fewer experts moves less, one that drops more pairs computes less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Bytes of the weights. Of those of E experts `E (1 - (1 - K / N)^T)` are hit in the mean, of N that picks may be of; this
    /// is not rounded to whole experts.
    pub weight_bytes: u64,
    /// Bytes of the inputs, each read once.
    pub input_bytes: u64,
    /// Bytes of the outputs, each written once.
    pub output_bytes: u64,
    /// FLOPs of the products by the element type of their factors; f32 where these differ. E experts have `T K E / N` pairs in
    /// the mean, rounded down; with a capacity as many of them as it may keep, which is more than it keeps by chance.
    pub flops: Vec<(DType, u64)>,
    /// Picoseconds to move the bytes at the machine's bandwidth.
    pub moving: Cost,
    /// Picoseconds of the FLOPs at the best rate that the machine has for their type, of the type that takes longest: units of
    /// different types can work at the same time.
    pub computing: Cost,
}

impl Bound {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.input_bytes).saturating_add(self.output_bytes)
    }

    /// Picoseconds.
    pub fn time(&self) -> Cost {
        self.moving.max(self.computing)
    }
}

/// The bound of a layer, of its graph before it is rewritten.
pub fn bound(graph: &Typed, machine: &Machine, tokens: u64) -> Bound {
    let workload = Workload::of(graph, &[tokens]);
    let (most, spread) = (Sizes::of(&workload, tokens), workload.spread);
    let pairs = Extent::Const(mean_pairs(graph, spread, tokens).map_or(most.pairs, |mean| mean.min(most.pairs)));
    let sizes = Sizes::of(&Workload { pairs, ..workload }, tokens);
    let layer = graph.graph();
    let rounds = layer.has(Pointwise::Tf32.into());
    let mut flops: Vec<(DType, u64)> = Vec::new();
    for node in layer.nodes.as_ref() {
        let Node::Apply(op, operands) = node else { continue };
        let types: Vec<&Type> = operands.iter().map(|id| graph.ty(*id)).collect();
        let Some(dtype) = factors(*op, &types) else { continue };
        let of_node = product_flops(*op, &types, &sizes);
        match flops.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, sum)) => *sum = sum.saturating_add(of_node),
            None => flops.push((dtype, of_node)),
        }
    }
    let parameter_bytes = |inputs: bool| {
        let params = layer.params.iter().filter(|(param, _)| param.is_input() == inputs);
        params.map(|(param, ty)| read(graph, &Node::Param(param.clone()), ty, (&most, spread))).fold(0, u64::saturating_add)
    };
    let (weight_bytes, input_bytes) = (parameter_bytes(false), parameter_bytes(true));
    let outputs = layer.results().filter(|(name, _)| is_output(name));
    let output_bytes = outputs.map(|(_, id)| most.bytes(graph.ty(id))).fold(0, u64::saturating_add);
    let bytes = weight_bytes.saturating_add(input_bytes).saturating_add(output_bytes);
    let computing = flops.iter().map(|(dtype, flops)| time(*flops, machine.best_rate(*dtype, rounds))).max().unwrap_or(0);
    Bound { weight_bytes, input_bytes, output_bytes, flops, moving: time(bytes, machine.bytes_per_us), computing }
}

/// Pairs that experts here get of so many tokens in the mean: `T K E / N`, rounded down. `None`: no token picks experts.
fn mean_pairs(graph: &Typed, spread: Spread, tokens: u64) -> Option<u64> {
    let experts = graph.graph().nodes.ids().filter_map(|id| match graph.ty(id) {
        Type::Routing { experts, .. } => Some(*experts),
        Type::Tensor { .. } | Type::Picks { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => None,
    });
    match (spread, experts.max()) {
        (Spread::Picks { top_k, of }, Some(experts)) => {
            let picks = u128::from(tokens) * u128::from(top_k);
            Some(u64::try_from(picks.saturating_mul(experts.into()) / u128::from(of.max(1))).unwrap_or(u64::MAX))
        }
        (Spread::Picks { .. } | Spread::Even, _) => None,
    }
}

/// The type of what a product multiplies.
fn factors(op: Op, types: &[&Type]) -> Option<DType> {
    let dtype = |ty: &Type| match ty {
        Type::Tensor { dtype, .. } => Some(*dtype),
        Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => None,
    };
    let (rows, weights) = match op {
        Op::Gemm | Op::GroupedGemm => match types.get(op.operand_list()? - 1)? {
            Type::List(weights) => (types.first()?, weights.iter().map(dtype).collect::<Option<Vec<_>>>()?),
            _ => return None,
        },
        Op::SoftDispatch | Op::SoftCombine => (types.first()?, vec![dtype(types.get(1)?)?]),
        _ => return None,
    };
    let rows = dtype(rows)?;
    Some(if weights.iter().all(|weight| *weight == rows) { rows } else { DType::F32 })
}

/// Bytes of a parameter that a batch reads at least: the most that one use needs of it.
fn read(graph: &Typed, param: &Node, ty: &Type, (sizes, spread): (&Sizes, Spread)) -> u64 {
    // There are no more experts hit than pairs.
    let of_hit = || spread.hit_bytes(sizes.bytes(ty), sizes.tokens).min(row_bytes(ty, sizes).saturating_mul(sizes.pairs));
    let is_it = |id: &egg::Id| graph.node(*id) == param;
    let in_list = |id: &egg::Id| match graph.node(*id) {
        Node::Apply(Op::List, items) => items.iter().any(is_it),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => false,
    };
    let of_use = |node: &Node| match node {
        Node::Apply(op, operands) => {
            let weights = op.operand_list().and_then(|list| operands.get(list - 1));
            match op {
                Op::GroupedGemm if weights.is_some_and(in_list) => Some(of_hit()),
                Op::ExpertRows if operands.first().is_some_and(is_it) => Some(of_hit()),
                // A row a token.
                Op::HashPicks if operands.get(1).is_some_and(is_it) => Some(row_bytes(ty, sizes).saturating_mul(sizes.tokens)),
                // What weights become after a batch is not of the batch.
                Op::BiasUpdate | Op::List => None,
                _ => operands.iter().any(|id| is_it(id) || in_list(id)).then(|| sizes.bytes(ty)),
            }
        }
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    };
    graph.graph().nodes.as_ref().iter().filter_map(of_use).max().unwrap_or(0).min(sizes.bytes(ty))
}

/// Bytes of one row, of a weight of experts those of one.
fn row_bytes(ty: &Type, sizes: &Sizes) -> u64 {
    match ty {
        Type::Tensor { shape, .. } => sizes.bytes(ty) / shape.first().map_or(1, |dim| sizes.dim(*dim)).max(1),
        Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => 0,
    }
}
