//! Picks by themselves: those of a router alone, those that a caller gives in the place of one, and those that it is given.

use super::super::ScheduleError;
use super::super::buffers::BufferId;
use super::super::renorm::{self, Picked};
use super::super::route::{self, Then};
use super::super::sort::{Pairs, Sort};
use super::routing::{ToSort, Written, to_sort};
use super::value::{Experts, Picks, Tensor, Value, constant, tensor, wrong};
use super::{Plan, arg, tokens};
use crate::graph::{Assignment, Attr, Dim, Op, Type};
use crate::{DType, Extent, Sorting};

impl<'g> Plan<'g> {
    /// What tokens pick, and no more: a product whose body picks.
    pub(super) fn picks(&mut self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let (
            [Value::Tensor(x), Value::List(ws), Value::List(vs), Value::Attr(Attr::Body(body))],
            Type::Picks { top_k, experts, rowless, .. },
        ) = (operands, ty)
        else {
            return Err(wrong(Op::Gemm, operands));
        };
        let [Value::Tensor(router)] = &ws[..] else { return Err(wrong(Op::Gemm, operands)) };
        let vs = vs.iter().map(|v| tensor(Op::Gemm, v)).collect::<Result<Vec<_>, _>>()?;
        let spec = self.to_route("route", (x, router), &vs, body, [*experts + *rowless, *top_k])?;
        let kernel = route::route(&spec, Then::End, self.machine)?;
        let Written { topk_experts, topk_weights, args, .. } = self.written(&spec, (x, router), &vs, kernel.grid.clone());
        let refused = || ScheduleError::Body { op: Op::AllExperts, inside: Op::Gemm };
        let picks = Picks { top_k: *top_k, topk_experts: topk_experts.ok_or_else(refused)?, topk_weights };
        self.launch(kernel.kernel, kernel.grid, args)?;
        Ok(Value::Picks(picks))
    }

    /// A routing that a caller has made.
    pub(super) fn given(&mut self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let op = Op::Given;
        let (operands, sorting) = match operands {
            [operands @ .., Value::Attr(Attr::Sorting(sorting))] => (operands, *sorting),
            operands => (operands, Sorting::Spread),
        };
        let ([Value::Tensor(ids), Value::Tensor(weights), Value::List(maps), _], Type::Routing { top_k, experts, .. }) =
            (operands, ty)
        else {
            return Err(wrong(op, operands));
        };
        let map = match &maps[..] {
            [] => None,
            [Value::Tensor(map)] => Some(map),
            _ => return Err(wrong(op, operands)),
        };
        if sorting.routes() {
            return Err(ScheduleError::Operand { op, what: format!("{sorting}: nothing is routed") });
        }
        let known = map.map_or(*experts, |map| constant(map, 0));
        let of = Pairs::Given { ids: u32::try_from(known).unwrap_or(u32::MAX), mapped: map.is_some() };
        let sort = to_sort(self.sort_suffix(), &Assignment::Dropless, [*experts, 0], *top_k, [true, false], self.sorted_rows());
        let sort = ToSort { spec: Sort { of, ..sort.spec }, ..sort };
        let mut args = vec![arg("topk_ids", ids.buffer)];
        args.extend(map.map(|map| arg("expert_map", map.buffer)));
        Ok(Value::Routing(self.sort((op, &sort), sorting, (Experts::Given, args), None, (weights.buffer, None))?))
    }

    /// Picks as tensors, once it is known which are kept.
    pub(super) fn picked(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let op = Op::Picked;
        let tensors = |top_k: u64, [ids, weights]: [BufferId; 2]| {
            let of_picks = |(buffer, dtype)| {
                let shape = vec![Dim::Tokens, Dim::Const(top_k)];
                Value::Tensor(Tensor { buffer, dtype, shape, pairs_of: None, name: None })
            };
            Ok(Value::List([(ids, DType::I32), (weights, DType::F32)].map(of_picks).to_vec()))
        };
        match operands {
            [Value::Picks(picks), Value::Attr(Attr::Real(c))] if c.get() == 1.0 => {
                tensors(picks.top_k, [picks.topk_experts, picks.topk_weights])
            }
            [Value::Routing(routing), Value::Attr(Attr::Real(c))] => {
                let Some(topk_experts) = routing.topk_experts(op)? else { return Err(wrong(op, operands)) };
                let name = self.kernel_name(op.name(), &[]);
                let (experts, top_k) = (routing.experts as u32, routing.top_k as u32);
                let spec = Picked { top_k, experts, factor: c.get() as f32 };
                let of_picks = || [Extent::Tokens, Extent::Const(routing.top_k)];
                let ids = self.buffers.workspace("picked_ids", DType::I32, of_picks());
                let factored = self.buffers.workspace("picked_weights", DType::F32, of_picks());
                let args = vec![
                    arg("row_of_pair", routing.row_of_pair),
                    arg("weight_of_row", routing.weight_of_row),
                    arg("topk_experts", topk_experts),
                    arg("topk_weights", routing.topk_weights),
                    arg("topk_ids", ids),
                    arg("factored", factored),
                    tokens(),
                ];
                self.launch(renorm::picked(&name, &spec, self.machine), renorm::grid(self.machine), args)?;
                tensors(routing.top_k, [ids, factored])
            }
            _ => Err(wrong(op, operands)),
        }
    }
}
