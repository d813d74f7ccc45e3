//! What an op costs on a machine: a roofline, `max(bytes / bandwidth, flops / rate) + serial steps + launches`, in picoseconds. The only
//! numbers of the rewriting, and the report of `--why`.
//!
//! Approximate and saturating: it is better to lose some precision than to lose the order by wrapping.

use egg::Id;

use super::price::{Amounts, Price};
use super::route_cost::{experts_of, picking, ranked, route, sorting_of};
use super::spread::Spread;
use crate::graph::{Assignment, Attr, Dim, Node, Op, Pointwise, Priority, Type, Typed, infer_body};
use crate::tiling::{self, Feeding, Kind, Product};
use crate::{DType, Dims, Extent, Machine, Sorting};

/// Picoseconds.
pub type Cost = u64;

/// The batches that a layer is priced at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Token counts, each as likely as the others.
    pub tokens: Vec<u64>,
    /// Pairs that are kept, or slots; a batch is priced as one sequence.
    pub pairs: Extent,
    /// Which experts they are of.
    pub spread: Spread,
}

impl Workload {
    /// The workload of a layer at these token counts.
    pub fn of(graph: &Typed, tokens: &[u64]) -> Workload {
        let pairs = |id| {
            let Node::Apply(_, operands) = graph.node(id) else { return None };
            let rule = |operand: &Id| {
                let Type::Attr(Attr::Assignment(rule)) = graph.ty(*operand) else { return None };
                Some(rule)
            };
            match (graph.ty(id), graph.node(id)) {
                // Of the experts that a map numbers, those that are here have their part.
                (Type::Routing { top_k, experts, .. }, Node::Apply(Op::Given, _)) => {
                    let given = Extent::Tokens * *top_k;
                    Some(match mapped(graph, operands[2]) {
                        Some(all) if all > *experts => (given * *experts).div_ceil(all),
                        Some(_) | None => given,
                    })
                }
                (Type::Slots { experts, slots }, _) => Some(Extent::Const(experts.saturating_mul(*slots))),
                (Type::Routing { top_k, experts, .. }, _) => Some(operands.iter().find_map(rule)?.most_pairs(*top_k, *experts)),
                (Type::Tensor { .. } | Type::Picks { .. } | Type::List(_) | Type::Attr(_), _) => None,
            }
        };
        let pairs = graph.graph().nodes.ids().filter_map(pairs).reduce(Extent::max);
        let mut spreads = graph.graph().nodes.ids().filter_map(|id| match (graph.ty(id), graph.node(id)) {
            (Type::Routing { top_k, experts, .. }, Node::Apply(Op::Given, operands)) => {
                Some(Spread::Picks { top_k: *top_k, of: mapped(graph, operands[2]).unwrap_or(*experts).max(*experts) })
            }
            (Type::Routing { top_k, experts, rowless }, _) => {
                Some(Spread::Picks { top_k: *top_k, of: experts.saturating_add(*rowless) })
            }
            (Type::Tensor { .. } | Type::Picks { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_), _) => None,
        });
        let spread = spreads.next_back().unwrap_or(Spread::Even);
        Workload { tokens: tokens.to_vec(), pairs: pairs.unwrap_or(Extent::Tokens), spread }
    }
}

/// The numbers that the map of a `given` has, if it has one.
fn mapped(graph: &Typed, maps: Id) -> Option<u64> {
    match graph.ty(maps) {
        Type::List(maps) => match maps.first()? {
            Type::Tensor { shape, .. } => match shape.first()? {
                Dim::Const(ids) => Some(*ids),
                Dim::Tokens | Dim::Pairs => None,
            },
            Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => None,
        },
        Type::Tensor { .. } | Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::Attr(_) => None,
    }
}

/// The cost of computing `node` from operands of these types, summed over the workload.
pub fn cost(node: &Node, types: &[&Type], machine: &Machine, workload: &Workload) -> Cost {
    match node {
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) => 0,
        Node::Apply(op, _) => {
            let of = |tokens: &u64| at(*op, types, machine, &Sizes::of(workload, *tokens)).total();
            workload.tokens.iter().fold(0, |sum: u64, tokens| sum.saturating_add(of(tokens)))
        }
    }
}

/// The price at one token count.
pub(super) fn at(op: Op, types: &[&Type], machine: &Machine, sizes: &Sizes) -> Price {
    let (types, way) = match types {
        [types @ .., Type::Attr(way)] if way.is_way_of(op) => (types, Some(way)),
        types => (types, None),
    };
    let all_bytes: u64 = types.iter().map(|t| sizes.bytes(t)).fold(0, u64::saturating_add);
    let (mut serial, mut useful): (Cost, Option<u64>) = (0, None);
    let mut feeding = Feeding::default();
    let (launches, bytes, work) = match op {
        // Views: read where they are used.
        Op::List | Op::ExpertRows | Op::PairWeights | Op::PickWeights | Op::Part | Op::Flatten | Op::Slots | Op::Item => {
            return Price::default();
        }
        // Not of a batch.
        Op::BiasUpdate => return Price::default(),
        // Rows of a weight: once, when it is bound.
        Op::RmsNorm if matches!(types.first(), Some(Type::Tensor { shape, .. }) if matches!(shape.first(), Some(Dim::Const(_)))) =>
        {
            return Price::default();
        }
        // Values that are no parts have launches of their own.
        Op::Launch => (u64::from(types.iter().any(|ty| matches!(ty, Type::List(_)))), 0, 0),
        Op::Gemm if is_rowwise(types) => return Price { serial: NEVER, ..Price::default() },
        Op::Route => return route(op, types, way, machine, sizes),
        Op::Gemm if gives_picks(op, types) => return route(op, types, way, machine, sizes),
        Op::Gemm | Op::GroupedGemm | Op::Combine | Op::RmsNorm | Op::SoftDispatch | Op::SoftCombine => {
            let body = infer_body(op, types).unwrap_or_default();
            let result = body.last().map_or(0, |t| sizes.bytes(t));
            let (products, read_again) = match (way, product(op, types)) {
                (Some(Attr::Tiling(tiling) | Attr::Beside(tiling)), Some(product)) => {
                    let [rows, groups] = sizes.rows(op, types);
                    let weights = weight_bytes(op, types, sizes, tiling.kind);
                    let of_group = weights / groups.min(rows).max(1);
                    let passes = tiling::passes(*tiling, [rows, groups], of_group, machine);
                    let flops = tiling::flops(*tiling, &product, [rows, groups], machine);
                    serial = tiling::meeting_ps(*tiling, machine);
                    feeding = tiling::feeding(*tiling, &product, [rows, groups], weights.saturating_mul(passes), machine);
                    // What is touched is counted as the caller has it.
                    let more = weights.saturating_sub(weight_bytes(op, types, sizes, Kind::Fma));
                    (flops, weights.saturating_mul(passes - 1).saturating_add(more))
                }
                (_, _) => (product_flops(op, types, sizes), 0),
            };
            let of_body = body_flops(op, types, &body, sizes);
            useful = Some(of_body.saturating_add(product_flops(op, types, sizes)));
            let flops = of_body.saturating_add(products);
            let bytes = touched(op, types, sizes).saturating_add(read_again).saturating_add(result);
            let own = u64::from(!matches!(way, Some(Attr::Beside(_))));
            (own, bytes, flops)
        }
        Op::Assign => {
            let picks = types.first().map_or(0, |picks| sizes.elements(picks));
            serial = Sorting::Spread.serial_ps(picks, experts_of(types), machine);
            (3 + ordering(types), all_bytes.saturating_mul(3).saturating_add(ranked(types, picks, sizes.tokens)), 0)
        }
        Op::Given => {
            let sorting = sorting_of(way);
            serial = sorting.serial_ps(types.first().map_or(0, |ids| sizes.elements(ids)), experts_of(types), machine);
            (sorting.launches(), all_bytes.saturating_mul(3), 0)
        }
        Op::TopK | Op::SparseMixer => {
            serial = picking(types, sizes, machine);
            (1, all_bytes.saturating_mul(2), all_bytes.saturating_mul(weight(op)))
        }
        // The kernel that picks writes them.
        Op::Picked if matches!(types.first(), Some(Type::Picks { .. })) => return Price::default(),
        Op::Picked => (1, all_bytes.saturating_mul(2), sizes.pairs),
        Op::HashPicks | Op::Observe => (1, all_bytes.saturating_mul(2), all_bytes.saturating_mul(weight(op))),
        Op::AllExperts => (1, all_bytes.saturating_mul(2), 0),
        Op::GroupLimit | Op::Renorm | Op::Dispatch | Op::Softmax | Op::Pointwise(_) => {
            (1, all_bytes.saturating_mul(2), all_bytes.saturating_mul(weight(op)))
        }
        Op::Leading | Op::Joint | Op::ExpertScale | Op::BestScore | Op::Counted | Op::WithoutRows => {
            (1, all_bytes.saturating_mul(2), all_bytes.saturating_mul(weight(op)))
        }
        // Twice over the tokens: what each run of them has, then what all have.
        Op::TokenSoftmax => (2, all_bytes.saturating_mul(3), all_bytes.saturating_mul(weight(op))),
        // A token reads where its picks are and their weights, and writes these again.
        Op::RenormKept => (1, all_bytes.saturating_mul(2), sizes.pairs.saturating_mul(weight(op))),
        // Sums of the blocks of 16 tokens, and a number a pair.
        Op::Losses => (1, all_bytes, sizes.pairs),
        Op::DroppedInput | Op::IdentityInput | Op::Jitter => (1, all_bytes.saturating_mul(2), all_bytes),
        Op::Within => (1, all_bytes.saturating_mul(2), all_bytes),
    };
    let amounts = Amounts { launches, bytes, flops: useful.unwrap_or(work), work };
    Price { serial, ..Price::roofline(machine, amounts).feeding(feeding) }
}

/// What a product multiplies, where it is one with kernels of its own: all but those that give picks.
pub(super) fn product(op: Op, types: &[&Type]) -> Option<Product> {
    if !op.is_product() || is_rowwise(types) || gives_picks(op, types) {
        return None;
    }
    let (Type::Tensor { dtype, shape }, Type::List(ws)) = (types.first()?, types.get(op.operand_list()? - 1)?) else {
        return None;
    };
    let (Type::Tensor { shape: w, .. }, Dim::Const(k)) = (ws.first()?, *shape.last()?) else { return None };
    let Dim::Const(n) = *w.get(w.len().checked_sub(2)?)? else { return None };
    let weights = ws.iter().map(|w| if let Type::Tensor { dtype, .. } = w { Some(*dtype) } else { None });
    let rounds = match op.body().and_then(|body| types.get(body)) {
        Some(Type::Attr(Attr::Body(body))) => body.rounds_factors(ws.len()),
        Some(_) | None => false,
    };
    Some(Product { rows: *dtype, n, k, weights: weights.collect::<Option<_>>()?, tf32: rounds && *dtype == DType::F32 })
}

/// What no kernel computes must not be the cheapest.
pub(super) const NEVER: Cost = 1 << 60;

/// What an op that no kernel computes by itself adds to the price of a graph while there is a choice: more than a batch of any size
/// costs. Some thousand of them fit a sum.
pub(super) const UNFUSED: Cost = 1 << 50;

/// Whether a kernel computes the op by itself. Others must have become part of one (`schedule::ScheduleError::Unfused`).
pub(super) fn has_kernel(op: Op, types: &[&Type]) -> bool {
    let first = types.first().copied();
    match op {
        Op::Gemm | Op::GroupedGemm | Op::Combine | Op::RmsNorm | Op::SoftDispatch | Op::SoftCombine => {
            match op.body().and_then(|body| types.get(body)) {
                Some(Type::Attr(Attr::Body(body))) => {
                    body.is_pointwise() || (gives_picks(op, types) && !body.has(Op::AllExperts))
                }
                Some(_) | None => true,
            }
        }
        Op::Softmax | Op::Pointwise(Pointwise::MaskTokens) => matches!(first, Some(Type::Tensor { .. })),
        Op::ExpertScale => matches!(first, Some(Type::Routing { .. })),
        Op::Leading | Op::Joint | Op::WithoutRows | Op::TopK | Op::AllExperts | Op::SparseMixer | Op::HashPicks => false,
        Op::GroupLimit | Op::Renorm | Op::Observe | Op::Counted | Op::BestScore | Op::Assign | Op::Dispatch => false,
        Op::Pointwise(_) => false,
        Op::List
        | Op::Route
        | Op::ExpertRows
        | Op::PairWeights
        | Op::PickWeights
        | Op::RenormKept
        | Op::Losses
        | Op::Part
        | Op::BiasUpdate => true,
        Op::DroppedInput | Op::IdentityInput | Op::Flatten | Op::Slots | Op::TokenSoftmax | Op::Jitter | Op::Within => true,
        Op::Launch | Op::Item | Op::Given | Op::Picked => true,
    }
}

/// Whether a gemm gives rows of softmax: whole rows are at hand only in a route, which gives picks.
fn is_rowwise(types: &[&Type]) -> bool {
    match types.last() {
        Some(Type::Attr(Attr::Body(body))) if body.has(Op::Softmax) => {
            infer_body(Op::Gemm, types).is_ok_and(|types| matches!(types.last(), Some(Type::Tensor { .. })))
        }
        Some(_) | None => false,
    }
}

/// Whether a gemm gives picks: its kernel is that of a route, without the sort.
fn gives_picks(op: Op, types: &[&Type]) -> bool {
    match types.last() {
        Some(Type::Attr(Attr::Body(body))) if op == Op::Gemm && !body.is_pointwise() => {
            infer_body(op, types).is_ok_and(|types| matches!(types.last(), Some(Type::Picks { .. })))
        }
        Some(_) | None => false,
    }
}

pub(super) struct Sizes {
    pub(super) tokens: u64,
    pub(super) pairs: u64,
    spread: Spread,
}

impl Sizes {
    pub(super) fn of(workload: &Workload, tokens: u64) -> Sizes {
        let dims = Dims { tokens, sequence_tokens: tokens };
        Sizes { tokens, pairs: workload.pairs.at(dims).unwrap_or(u64::MAX), spread: workload.spread }
    }

    /// How many of so many experts have rows.
    pub(super) fn hit(&self, experts: u64) -> u64 {
        self.spread.hit(experts, self.tokens).min(self.pairs)
    }

    /// The rows of a product, and how many groups they are in.
    fn rows(&self, op: Op, types: &[&Type]) -> [u64; 2] {
        match (op, types.get(1)) {
            (Op::GroupedGemm, Some(Type::Routing { experts, .. } | Type::Slots { experts, .. })) => {
                [self.pairs, self.hit(*experts)]
            }
            (_, _) => [self.tokens, 1],
        }
    }

    pub(super) fn dim(&self, dim: Dim) -> u64 {
        match dim {
            Dim::Const(n) => n,
            Dim::Tokens => self.tokens,
            Dim::Pairs => self.pairs,
        }
    }

    pub(super) fn elements(&self, ty: &Type) -> u64 {
        match ty {
            Type::Tensor { shape, .. } => shape.iter().map(|d| self.dim(*d)).fold(1, u64::saturating_mul),
            Type::Picks { top_k, .. } | Type::Routing { top_k, .. } => self.tokens.saturating_mul(*top_k),
            Type::List(types) => types.iter().map(|t| self.elements(t)).fold(0, u64::saturating_add),
            Type::Attr(_) | Type::Slots { .. } => 0,
        }
    }

    pub(super) fn bytes(&self, ty: &Type) -> u64 {
        match ty {
            Type::Tensor { dtype, .. } => self.elements(ty).saturating_mul(dtype.bytes()),
            Type::Picks { .. } => self.elements(ty).saturating_mul(8),
            Type::Routing { .. } => self.elements(ty).saturating_mul(16),
            Type::List(types) => types.iter().map(|t| self.bytes(t)).fold(0, u64::saturating_add),
            Type::Attr(_) | Type::Slots { .. } => 0,
        }
    }
}

/// Bytes that a fused op reads: of grouped weights only those of the experts that are hit.
pub(super) fn touched(op: Op, types: &[&Type], sizes: &Sizes) -> u64 {
    let weight_list = op.operand_list().map(|list| list - 1).filter(|_| op == Op::GroupedGemm);
    let of = |(i, ty): (usize, &&Type)| match ty {
        Type::List(ws) if Some(i) == weight_list => ws.iter().map(|w| expert_bytes(w, sizes)).fold(0, u64::saturating_add),
        ty => sizes.bytes(ty),
    };
    types.iter().enumerate().map(of).fold(0, u64::saturating_add)
}

/// Bytes of the weights that a product reads, once, as they lie for a kind of tile.
fn weight_bytes(op: Op, types: &[&Type], sizes: &Sizes, kind: Kind) -> u64 {
    let Some(Type::List(ws)) = op.operand_list().and_then(|list| types.get(list - 1)) else { return 0 };
    let of = |w: &Type| {
        let w = match w {
            Type::Tensor { shape, dtype } => &Type::Tensor { shape: shape.clone(), dtype: tiling::stored(*dtype, kind) },
            Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => w,
        };
        if op == Op::GroupedGemm { expert_bytes(w, sizes) } else { sizes.bytes(w) }
    };
    ws.iter().map(of).fold(0, u64::saturating_add)
}

/// Launches before a sort that find the order of service: one, and four passes of three.
pub(super) fn ordering(types: &[&Type]) -> u64 {
    match types.last() {
        Some(Type::Attr(Attr::Assignment(Assignment::Capacity(c)))) => match c.priority {
            Priority::ChoiceMajor | Priority::TokenMajor => 0,
            Priority::BatchPrioritized | Priority::Score => 13,
        },
        Some(_) | None => 0,
    }
}

pub(super) fn expert_bytes(w: &Type, sizes: &Sizes) -> u64 {
    match w {
        Type::Tensor { shape, .. } => {
            let experts = shape.first().map_or(1, |d| sizes.dim(*d)).max(1);
            (sizes.bytes(w) / experts).saturating_mul(sizes.hit(experts))
        }
        ty => sizes.bytes(ty),
    }
}

pub(super) fn product_flops(op: Op, types: &[&Type], sizes: &Sizes) -> u64 {
    let Some(list) = op.operand_list() else { return 0 };
    let (rows, ws) = match (op, types) {
        (Op::Combine, [rows, ..]) => return sizes.elements(rows),
        (Op::SoftDispatch | Op::SoftCombine, [x, weights, ..]) => return mixing_flops(x, weights, sizes),
        (Op::RmsNorm, [x, ..]) => return sizes.elements(x).saturating_mul(4),
        (Op::GroupedGemm, types) => (sizes.pairs, types[list - 1]),
        (_, types) => (sizes.tokens, types[list - 1]),
    };
    let Type::List(ws) = ws else { return 0 };
    ws.iter()
        .map(|w| match w {
            Type::Tensor { shape, .. } => {
                let inner = shape.iter().rev().take(2).map(|d| sizes.dim(*d)).fold(2, u64::saturating_mul);
                inner.saturating_mul(rows)
            }
            Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => 0,
        })
        .fold(0, u64::saturating_add)
}

/// A multiplication and an addition for each weight and column.
fn mixing_flops(rows: &Type, weights: &Type, sizes: &Sizes) -> u64 {
    match rows {
        Type::Tensor { shape, .. } => {
            let columns = shape.last().map_or(1, |dim| sizes.dim(*dim));
            sizes.elements(weights).saturating_mul(columns).saturating_mul(2)
        }
        Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => 0,
    }
}

/// Arithmetic of the body: each node's elements times the weight of its op. What is observed is read in a pass of its own,
/// the weight of `observe`, and shares nothing with the picks.
pub(super) fn body_flops(op: Op, types: &[&Type], body_types: &[Type], sizes: &Sizes) -> u64 {
    let Some(Type::Attr(Attr::Body(body))) = op.body().and_then(|i| types.get(i).copied()) else { return 0 };
    let nodes = body.nodes();
    let mut needed = vec![false; nodes.len()];
    needed.iter_mut().last().into_iter().for_each(|root| *root = true);
    for (i, node) in nodes.iter().enumerate().rev().filter(|(_, node)| !node.operands().is_empty()) {
        let observed = if matches!(node, Node::Apply(Op::Observe, _)) { 2 } else { 0 };
        let used = if needed[i] { &node.operands()[observed..] } else { &[] };
        used.iter().for_each(|operand| needed[usize::from(*operand)] = true);
    }
    nodes
        .iter()
        .zip(body_types)
        .zip(needed)
        .filter(|(_, needed)| *needed)
        .map(|((node, ty), _)| match node {
            Node::Apply(inner, operands) => {
                // A pick looks at all keys.
                let read = operands.iter().map(|c| sizes.elements(&body_types[usize::from(*c)])).max().unwrap_or(0);
                sizes.elements(ty).max(read).saturating_mul(weight(*inner))
            }
            Node::Param(_) | Node::Hole(_) | Node::Attr(_) => 0,
        })
        .fold(0, u64::saturating_add)
}

/// Rough FLOPs an element.
fn weight(op: Op) -> u64 {
    match op {
        Op::List | Op::ExpertRows | Op::PairWeights | Op::DroppedInput | Op::IdentityInput | Op::Jitter => 0,
        Op::Dispatch | Op::Assign | Op::Losses | Op::Part | Op::BiasUpdate | Op::Given | Op::Picked => 0,
        // A pick is looked up, or known by its number.
        Op::AllExperts | Op::HashPicks | Op::WithoutRows | Op::Leading | Op::Joint | Op::PickWeights | Op::Counted => 0,
        Op::Gemm | Op::GroupedGemm | Op::Route | Op::Combine | Op::RmsNorm => 0,
        Op::Flatten | Op::Slots | Op::SoftDispatch | Op::SoftCombine | Op::Launch | Op::Item => 0,
        Op::ExpertScale | Op::BestScore | Op::Within => 1,
        Op::Renorm | Op::RenormKept => 2,
        Op::TopK | Op::GroupLimit => 4,
        Op::Observe | Op::Softmax => 16,
        Op::SparseMixer => 24,
        Op::TokenSoftmax => 32,
        Op::Pointwise(op) => match op {
            Pointwise::Tf32 => 0,
            Pointwise::Cast | Pointwise::Scale | Pointwise::Offset | Pointwise::AtMost | Pointwise::AtLeast => 1,
            Pointwise::Relu | Pointwise::Square | Pointwise::Add | Pointwise::Mul | Pointwise::MaskTokens => 1,
            Pointwise::Sigmoid | Pointwise::Silu => 16,
            Pointwise::Gelu | Pointwise::GeluTanh | Pointwise::Tanh | Pointwise::SqrtSoftplus => 24,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::graph::Body;
    use crate::machine::{Rate, Unit};

    const ONE: Rate = Rate { unit: Unit::Vector, elem: DType::F32, flops_per_us: 1_000 };

    /// A byte takes 1 ns, a FLOP 1 ns, a launch nothing.
    fn slow() -> Machine {
        Machine { bytes_per_us: 1_000, rates: &[ONE], launch_ps: 0, step_ps: 0, ..crate::machine::MACHINES[0].clone() }
    }

    fn gemm(m: Dim, n: u64, k: u64, dtype: DType, body: Body) -> [Type; 4] {
        let x = Type::tensor(&[m, Dim::Const(k)], dtype);
        let w = Type::tensor(&[Dim::Const(n), Dim::Const(k)], dtype);
        [x, Type::List(vec![w]), Type::List(vec![]), Type::Attr(Attr::Body(body))]
    }

    /// K of eight experts a token.
    fn workload(tokens: &[u64], top_k: u64) -> Workload {
        Workload { tokens: tokens.to_vec(), pairs: Extent::Tokens * top_k, spread: Spread::Picks { top_k, of: 8 } }
    }

    fn price(op: Op, types: &[Type], machine: &Machine, tokens: &[u64], top_k: u64) -> Cost {
        let types: Vec<&Type> = types.iter().collect();
        let operands: Vec<egg::Id> = (0..types.len()).map(egg::Id::from).collect();
        cost(&Node::apply(op, &operands), &types, machine, &workload(tokens, top_k))
    }

    #[test]
    fn a_gemm_by_hand() {
        let types = gemm(Dim::Tokens, 3, 5, DType::BF16, Body::identity());
        // T = 2. Bytes: x 2*5*2, w 3*5*2, y 2*3*4: 74. FLOPs: 2*2*3*5 = 60. The hidden 60 ns count a thousandth.
        assert_eq!(price(Op::Gemm, &types, &slow(), &[2], 1), 74_000 + 60);
        // Memory ten times as fast: computing is what takes time.
        assert_eq!(price(Op::Gemm, &types, &Machine { bytes_per_us: 10_000, ..slow() }, &[2], 1), 60_000 + 7);
        // A launch, and the sum over the workload.
        let machine = Machine { launch_ps: 7, ..slow() };
        assert_eq!(price(Op::Gemm, &types, &machine, &[2, 2], 1), 2 * (74_000 + 60 + 7));
        // Silu of 2*3 sums at 16 each: 96 FLOPs more.
        let types = gemm(Dim::Tokens, 3, 5, DType::BF16, Body::identity().then(Pointwise::Silu, &[]));
        assert_eq!(price(Op::Gemm, &types, &slow(), &[2], 1), 156_000 + 74);
    }

    #[test]
    fn a_grouped_gemm_reads_only_the_experts_that_pairs_hit() {
        let routing = Type::Routing { top_k: 2, experts: 8, rowless: 0 };
        let [rows, _, vs, body] = gemm(Dim::Pairs, 3, 5, DType::F32, Body::identity());
        let w = Type::tensor(&[Dim::Const(8), Dim::Const(3), Dim::Const(5)], DType::F32);
        let types = [rows, routing, Type::List(vec![w]), vs, body];
        // T = 1, P = 2. Bytes: rows 2*5*4, routing 2*16, two of eight experts 2*3*5*4, y 2*3*4. FLOPs: 2*2*3*5.
        assert_eq!(price(Op::GroupedGemm, &types, &slow(), &[1], 2), (40 + 32 + 120 + 24) * 1_000 + 60);
        // T = 16, P = 32: all experts.
        assert_eq!(price(Op::GroupedGemm, &types, &slow(), &[16], 2), (640 + 512 + 480 + 384) * 1_000 + 960);
    }

    #[test]
    fn a_mixture_by_hand() {
        let x = Type::tensor(&[Dim::Tokens, Dim::Const(5)], DType::BF16);
        let weights = Type::tensor(&[Dim::Tokens, Dim::Const(6)], DType::F32);
        let (slots, vs) = (Type::Slots { experts: 2, slots: 3 }, Type::List(vec![]));
        let types = [&x, &weights, &slots, &vs, &Type::Attr(Attr::Body(Body::identity()))];
        let node = Node::apply(Op::SoftDispatch, &[0usize, 1, 2, 3, 4].map(egg::Id::from));
        let workload = Workload { tokens: vec![4], pairs: Extent::Const(6), spread: Spread::Even };
        // T = 4. Bytes: x 4*5*2, weights 4*6*4, six slots 6*5*4. FLOPs: 2*4*6*5.
        assert_eq!(cost(&node, &types, &slow(), &workload), (40 + 96 + 120) * 1_000 + 240);
    }

    #[test]
    fn rows_of_softmax_are_never_the_cheapest() {
        let types = gemm(Dim::Tokens, 3, 5, DType::F32, Body::identity().then(Op::Softmax, &[]));
        assert_eq!(price(Op::Gemm, &types, &slow(), &[1], 1), NEVER);
    }

    #[test]
    fn views_cost_nothing() {
        for op in [Op::List, Op::PairWeights, Op::PickWeights, Op::ExpertRows] {
            assert_eq!(price(op, &[Type::Routing { top_k: 2, experts: 8, rowless: 0 }], &slow(), &[1 << 40], 2), 0);
        }
    }

    #[test]
    fn a_capacity_costs_more_than_none() {
        let picks = Type::Picks { top_k: 2, experts: 8, rowless: 0, repeats: false, ranked: true, masked: false };
        let rule = |rule| [picks.clone(), Type::Attr(Attr::Assignment(rule))];
        let capacity = |priority| {
            let (per_expert, span) = (Extent::Tokens, crate::graph::Span::All);
            Assignment::Capacity(crate::graph::Capacity { per_expert, span, priority })
        };
        let of = |assignment| price(Op::Assign, &rule(assignment), &slow(), &[64], 2);
        assert!(of(capacity(Priority::TokenMajor)) > of(Assignment::Dropless));
        assert!(of(capacity(Priority::BatchPrioritized)) > of(capacity(Priority::ChoiceMajor)));
        assert!(of(capacity(Priority::Score)) > of(capacity(Priority::BatchPrioritized)));
    }

    #[test]
    fn a_choice_costs_less_than_a_sort_of_all_pairs() {
        let route = |body: Body, priority: Option<Priority>| {
            let (per_expert, span) = (8.into(), crate::graph::Span::All);
            let capacity = |priority| Assignment::Capacity(crate::graph::Capacity { per_expert, span, priority });
            let [x, ws, vs, body] = gemm(Dim::Tokens, 8, 5, DType::F32, body);
            [x, ws, vs, body, Type::Attr(Attr::Assignment(priority.map_or(Assignment::Dropless, capacity)))]
        };
        let all = || Body::identity().then(Op::AllExperts, &[]);
        let mixed = || Body::identity().then(Op::SparseMixer, &[Attr::Real(0.0.into()), Attr::Num(8)]);
        let of = |types: &[Type]| {
            price(Op::Route, types, &Machine { rates: &[Rate { flops_per_us: u64::MAX, ..ONE }], ..slow() }, &[64], 8)
        };
        assert!(of(&route(all(), Some(Priority::Score))) > of(&route(all(), None)));
        assert!(of(&route(all(), Some(Priority::Score))) < of(&route(mixed(), Some(Priority::Score))));
        let machine = Machine { launch_ps: 1_000_000_000, ..slow() };
        let launches = |types: &[Type]| price(Op::Route, types, &machine, &[64], 8) / machine.launch_ps;
        assert_eq!(launches(&route(all(), Some(Priority::Score))), 2);
        assert_eq!(launches(&route(all(), None)), 4);
    }

    #[test]
    fn costs_saturate() {
        let huge = 1_000_000_000_000_000_000;
        let types = gemm(Dim::Tokens, huge, huge, DType::F32, Body::identity().then(Pointwise::Silu, &[]));
        for machine in crate::machine::MACHINES {
            let price = price(Op::Gemm, &types, &machine, &[huge, huge], huge);
            assert!(price > u64::MAX / 1_000_000, "{price}");
        }
        assert_eq!(price(Op::Gemm, &types, &slow(), &[huge, huge, huge], huge), u64::MAX);
    }
}
