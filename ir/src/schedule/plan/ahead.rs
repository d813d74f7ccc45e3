//! What the launch behind that of a node reads: products whose rows the node makes.

use egg::Id;

use super::super::buffers::BufferId;
use super::super::gemm::{self, Gemm, next_param};
use super::super::math::Accuracy;
use super::value::Value;
use super::{Plan, arg, tokens};
use crate::graph::{Attr, Dim, Node, Op, Type};
use crate::kernel::Arg;
use crate::tiling::Kind;
use crate::{DType, Extent, Tiling};

/// A product of the next launch, and the arguments by which a kernel finds its tiles and weights, by their names in that launch.
pub(super) struct Next<'g> {
    pub(super) spec: Gemm<'g>,
    args: Vec<Arg>,
}

impl<'g> Plan<'g> {
    /// The products of the next launch, if it and the one under way are such tiles. None where their weights are not there yet.
    pub(super) fn next_streams(&self, kind: Kind) -> Vec<Next<'g>> {
        let products = if kind == Kind::Stream { self.next_products() } else { Vec::new() };
        let next = products.into_iter().map(|id| self.next_stream(id)).collect::<Option<Vec<_>>>();
        let mut next = next.unwrap_or_default();
        next.sort_by_key(|next| next.spec.experts.is_some());
        (0..).zip(&mut next).for_each(|(part, next)| next.spec.part = part);
        next
    }

    /// The products of the first launch that reads what the node under way makes.
    fn next_products(&self) -> Vec<Id> {
        let nodes = self.layer.graph().nodes.as_ref();
        let at = Id::from(self.values.len());
        let is_made = |id: &Id| match &nodes[usize::from(*id)] {
            _ if *id == at => true,
            Node::Apply(Op::Item, operands) => operands.first() == Some(&at),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => false,
        };
        let reads = |id: &Id| match &nodes[usize::from(*id)] {
            Node::Apply(Op::Gemm | Op::GroupedGemm, operands) => operands.first().is_some_and(is_made),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => false,
        };
        let later = || (self.values.len()..nodes.len()).map(Id::from);
        let Some(reader) = later().find(reads) else { return Vec::new() };
        let launches = later().filter_map(|id| match &nodes[usize::from(id)] {
            Node::Apply(Op::Launch, operands) => operands.contains(&reader).then_some(operands),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
        });
        let is_part = |id: &Id| self.way(*id).is_some_and(|(_, is_part)| is_part);
        let parts = launches.flatten().copied().filter(is_part).collect::<Vec<_>>();
        if parts.is_empty() { vec![reader] } else { parts }
    }

    /// How a product is cut, and whether it is a part of a launch.
    fn way(&self, id: Id) -> Option<(Tiling, bool)> {
        let Node::Apply(_, operands) = self.layer.node(id) else { return None };
        match self.layer.node(*operands.last()?) {
            Node::Attr(Attr::Tiling(tiling)) => Some((*tiling, false)),
            Node::Attr(Attr::Beside(tiling)) => Some((*tiling, true)),
            Node::Attr(_) | Node::Apply(..) | Node::Param(_) | Node::Hole(_) => None,
        }
    }

    fn next_stream(&self, id: Id) -> Option<Next<'g>> {
        let (tiling, _) = self.way(id).filter(|(tiling, _)| tiling.kind == Kind::Stream)?;
        let Node::Apply(op, operands) = self.layer.node(id) else { return None };
        let (rows, grouping, weights, body) = match (*op, &operands[..]) {
            (Op::GroupedGemm, [rows, grouping, weights, _, body, _]) => {
                (rows, self.values.get(usize::from(*grouping)), weights, body)
            }
            (Op::Gemm, [rows, weights, _, body, _]) => (rows, None, weights, body),
            (_, _) => return None,
        };
        let (Type::Tensor { dtype: rows, shape }, Node::Apply(Op::List, weights), Node::Attr(Attr::Body(body))) =
            (self.layer.ty(*rows), self.layer.node(*weights), self.layer.node(*body))
        else {
            return None;
        };
        let weights: Vec<(BufferId, DType, u64)> = weights.iter().map(|id| self.weight_ahead(*id)).collect::<Option<_>>()?;
        let (Some(Dim::Const(k)), Some((_, _, n))) = (shape.last(), weights.first()) else { return None };
        let (mut args, experts, pairs, rows_of_expert) = match grouping {
            None => (vec![tokens()], None, Extent::Tokens, None),
            Some(Value::Routing(routing)) => (routing.tables(), Some(routing.experts), routing.rows.clone(), None),
            Some(Value::Slots(slots)) => {
                let each = slots.rows_of_expert();
                let args = vec![arg("rows_of_expert", each.clone())];
                (args, Some(slots.experts), each.clone() * slots.experts, Some(each))
            }
            Some(Value::Tensor(_) | Value::ExpertRows(_) | Value::PairWeights(_) | Value::PickWeights { .. }) => return None,
            Some(Value::Picks(_) | Value::Sums(_) | Value::Updated(_) | Value::Beside(_) | Value::List(_) | Value::Attr(_)) => {
                return None;
            }
        };
        let spec = Gemm {
            part: 0,
            n: *n,
            k: *k,
            experts,
            gather: false,
            rows_of_expert,
            pairs,
            rows: *rows,
            weights: weights.iter().map(|(_, elem, _)| *elem).collect(),
            operands: Vec::new(),
            body,
            out: *rows,
            tiling,
            sorted_rows: self.sorted_rows(),
            accuracy: Accuracy::of(*rows, self.machine),
        };
        args.extend(weights.iter().enumerate().map(|(i, (buffer, ..))| arg(&gemm::weight_name(i), *buffer)));
        args.extend(gemm::parts(&spec).map(|parts| arg("parts", parts)));
        Some(Next { spec, args })
    }

    /// The buffer of a weight, which may be of a later node, its element type, and its lines.
    fn weight_ahead(&self, id: Id) -> Option<(BufferId, DType, u64)> {
        let Type::Tensor { shape, dtype } = self.layer.ty(id) else { return None };
        let [.., Dim::Const(n), _] = shape[..] else { return None };
        let buffer = match (self.values.get(usize::from(id)), self.layer.node(id)) {
            (Some(Value::Tensor(tensor)), _) => Some(tensor.buffer),
            (None, Node::Param(param)) => self.weight(&param.0),
            (_, _) => None,
        };
        Some((buffer?, *dtype, n))
    }
}

/// What the kernel in front of these products is given for them.
pub(super) fn next_args(next: &[Next<'_>]) -> Vec<Arg> {
    let but_last = &next[..next.len().saturating_sub(1)];
    let of_part = |next: &Next<'_>| {
        let named = |of: &Arg| Arg { param: next_param(&next.spec.param(&of.param)), ..of.clone() };
        next.args.iter().map(named).collect::<Vec<_>>()
    };
    let blocks = |next: &Next<'_>| arg(&next_param(&next.spec.param("blocks")), gemm::blocks(&next.spec));
    next.iter().flat_map(of_part).chain(but_last.iter().map(blocks)).collect()
}
