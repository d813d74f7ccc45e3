//! What is computed of rows: those of tokens, of experts, of slots.

use std::rc::Rc;

use super::super::combine::{self, Combine, Spread};
use super::super::gemm::{self, Gemm, Operand};
use super::super::jitter::{self, Jitter};
use super::super::mask::{self, MaskTokens, Within};
use super::super::math::Accuracy;
use super::super::mix::{self, Into, Mix};
use super::super::normalise::{self, RmsNorm};
use super::super::softmax::{self, Softmax};
use super::super::{ScheduleError, chunk, row_loop};
use super::ahead::next_args;
use super::value::{Beside, Grouping, Routing, Slots, Tensor, Value, beside, constant, same_pairs, tensor, wrong};
use super::{Plan, arg, check_pointwise, check_result, operands_of, sequence_tokens, tokens};
use crate::graph::{Attr, Dim, Op, Pointwise, Type};
use crate::kernel::Arg;
use crate::machine::Pack;
use crate::tiling::{self, Product};
use crate::{DType, Extent};

impl<'g> Plan<'g> {
    /// What the router sees of the tokens in training.
    pub(super) fn jitter(&mut self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(x), Value::Tensor(seed), Value::Attr(Attr::Real(eps))] = operands else {
            return Err(wrong(Op::Jitter, operands));
        };
        let spec = Jitter { name: self.kernel_name("jitter", &[]), n: constant(x, 1) as u32, eps: eps.get() as f32, x: x.dtype };
        let result = self.result(Op::Jitter, &spec.name, ty, None, false)?;
        let args = vec![arg("x", x.buffer), arg("seed", seed.buffer), arg("out", result.buffer), tokens()];
        self.launch(jitter::jitter(&spec, self.machine), chunk::row_blocks(self.machine), args)?;
        Ok(Value::Tensor(result))
    }

    /// Rows of which those of padding are zeros.
    pub(super) fn mask_tokens(&mut self, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let op = Op::Pointwise(Pointwise::MaskTokens);
        let [Value::Tensor(x), Value::Tensor(of_tokens)] = operands else { return Err(wrong(op, operands)) };
        let spec = MaskTokens { name: self.kernel_name("mask_tokens", &[]), n: constant(x, 1) as u32, x: x.dtype };
        let result = self.result(op, &spec.name, ty, None, last)?;
        let args = vec![arg("x", x.buffer), arg("mask", of_tokens.buffer), arg("out", result.buffer), tokens()];
        self.launch(mask::mask_tokens(&spec, self.machine), chunk::row_blocks(self.machine), args)?;
        Ok(Value::Tensor(result))
    }

    /// Which tokens have an id of the vocabulary.
    pub(super) fn within(&mut self, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let (ids, n, of_tokens) = match operands {
            [Value::Tensor(ids), Value::Attr(Attr::Num(n))] => (ids, *n, None),
            [Value::Tensor(ids), Value::Attr(Attr::Num(n)), Value::Tensor(mask)] => (ids, *n, Some(mask)),
            _ => return Err(wrong(Op::Within, operands)),
        };
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        let spec = Within { name: self.kernel_name("within", &[]), n, masked: of_tokens.is_some() };
        let result = self.result(Op::Within, &spec.name, ty, None, last)?;
        let mask = of_tokens.map(|mask| arg("mask", mask.buffer));
        let args = [arg("ids", ids.buffer), arg("out", result.buffer), tokens()].into_iter().chain(mask).collect();
        self.launch(mask::within(&spec, self.machine), mask::within_blocks(self.machine), args)?;
        Ok(Value::Tensor(result))
    }

    /// `gemm` and `grouped_gemm`.
    pub(super) fn gemm(&mut self, op: Op, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let (operands, tiling, is_part) = match operands {
            [operands @ .., Value::Attr(Attr::Tiling(tiling))] => (operands, Some(*tiling), false),
            [operands @ .., Value::Attr(Attr::Beside(tiling))] => (operands, Some(*tiling), true),
            operands => (operands, None, false),
        };
        let (rows, routing, slots, ws, vs, body) = match operands {
            [Value::Tensor(rows), Value::List(ws), Value::List(vs), Value::Attr(Attr::Body(body))] => {
                (rows, None, None, ws, vs, body)
            }
            [Value::Tensor(rows), Value::Routing(routing), Value::List(ws), Value::List(vs), Value::Attr(Attr::Body(body))] => {
                (rows, Some(routing), None, ws, vs, body)
            }
            [Value::Tensor(rows), Value::Slots(slots), Value::List(ws), Value::List(vs), Value::Attr(Attr::Body(body))] => {
                (rows, None, Some(*slots), ws, vs, body)
            }
            _ => return Err(wrong(op, operands)),
        };
        // A part is a list of one.
        let ty = match ty {
            Type::List(part) if is_part => part.first().unwrap_or(ty),
            ty => ty,
        };
        let grouping = routing.map(Routing::grouping).or(slots.map(Grouping::Slots));
        check_pointwise(op, body)?;
        let weights = ws.iter().map(|w| tensor(op, w)).collect::<Result<Vec<_>, _>>()?;
        let gathered = routing.is_some() && rows.shape.first() == Some(&Dim::Tokens);
        if grouping.is_none() && rows.shape.first() != Some(&Dim::Tokens) {
            return Err(ScheduleError::Operand { op, what: "rows that are not the tokens".to_string() });
        }
        let name = self.kernel_name(op.name(), &weights);
        same_pairs(op, rows, grouping)?;
        let most_rows = slots.map(|slots| slots.rows_of_expert() * slots.experts);
        let most_rows = most_rows.or(routing.map(|routing| routing.rows.clone()));
        let result = self.result(op, &name, ty, grouping.zip(most_rows.clone()), last)?;
        let columns = weights.first().map_or(0, |w| constant(w, w.shape.len() - 2));
        check_result(op, &result, columns)?;
        let named: Vec<Tensor> = weights.iter().map(|w| (*w).clone()).collect();
        let mut holes = Vec::new();
        let mut beside_products = Vec::new();
        let mut args = Vec::new();
        if let Some(routing) = routing {
            args.extend(gathered.then(|| arg("token_of_row", routing.token_of_row)));
            args.extend(routing.tables());
        }
        for v in vs {
            let (hole, tensor) = match v {
                Value::ExpertRows(v) => (Operand::ExpertRow(v.dtype), v),
                Value::PairWeights(v) => (Operand::PairWeight, v),
                v => {
                    let (spread, v) = beside(op, v, columns)?;
                    let hole = match spread {
                        Spread::One => Operand::One(v.dtype),
                        Spread::Row => Operand::Row(v.dtype),
                        Spread::Columns(columns) => Operand::Columns(v.dtype, columns),
                        Spread::Full => Operand::Full(v.dtype),
                    };
                    (hole, v)
                }
            };
            same_pairs(op, tensor, grouping)?;
            holes.push(hole);
            beside_products.push(tensor);
        }
        args.extend(operands_of(beside_products));
        args.extend(grouping.is_none().then(tokens));
        args.extend(slots.map(|slots| arg("rows_of_expert", slots.rows_of_expert())));
        let k = constant(rows, 1);
        let weights: Vec<DType> = weights.iter().map(|w| w.dtype).collect();
        let experts = routing.map(|r| r.experts).or(slots.map(|slots| slots.experts));
        let tf32 = rows.dtype == DType::F32 && body.rounds_factors(weights.len());
        let product = Product { rows: rows.dtype, n: columns, k, weights: weights.clone(), tf32 };
        // What no rewriting has cut is cut for large batches.
        let tiling = tiling.unwrap_or_else(|| tiling::candidates(&product, self.machine)[0]);
        if !tiling::takes(tiling, &product, self.machine) {
            return Err(ScheduleError::Operand { op, what: format!("{tiling} on {}", self.machine.name) });
        }
        let weights: Vec<DType> = weights.into_iter().map(|weight| tiling::stored(weight, tiling.kind)).collect();
        let mut named = named;
        if tiling.kind.pack() != Pack::None {
            for (w, out) in named.iter_mut().zip(&weights) {
                let how = gemm::Pack { experts: experts.unwrap_or(1), n: columns, k, weight: w.dtype, out: *out };
                w.buffer = self.packed(op, w, how)?;
            }
        }
        let spec = Gemm {
            part: 0,
            n: columns,
            k,
            experts,
            gather: gathered,
            rows_of_expert: slots.map(Slots::rows_of_expert),
            pairs: most_rows.unwrap_or(Extent::Tokens),
            rows: rows.dtype,
            weights,
            operands: holes,
            body,
            out: result.dtype,
            tiling,
            sorted_rows: self.sorted_rows(),
            accuracy: Accuracy::of(result.dtype, self.machine),
        };
        args.extend([arg("rows", gemm::rows(&spec, rows.buffer)), arg("out", gemm::out(&spec, result.buffer))]);
        args.extend(named.iter().enumerate().map(|(i, w)| arg(&gemm::weight_name(i), gemm::weight(&spec, w.buffer))));
        args.extend(gemm::parts(&spec).map(|parts| arg("parts", parts)));
        let part = Beside { spec, args, result, weights: named };
        if is_part {
            return Ok(Value::Beside(Rc::new(part)));
        }
        let next = self.next_streams(tiling.kind);
        let specs: Vec<&Gemm> = next.iter().map(|next| &next.spec).collect();
        let tiled = gemm::together(&name, &[&part.spec], &specs, self.machine);
        let counts = gemm::counts(&[&part.spec], self.machine).into_iter().map(|(name, of)| arg(name, of));
        let before = self.launches.last().filter(|before| !self.machine.has_threads() && !before.follows());
        // All that a product of grouped rows has of another is in the rows of its tile.
        let follows = routing.zip(before).is_some_and(|(routing, before)| routing.tile_count.counts(before));
        self.launch(tiled.kernel, tiled.grid, part.args.into_iter().chain(counts).chain(next_args(&next)).collect())?;
        if let (Some(launch), Some(routing), Some(of_tile)) = (self.launches.last_mut(), routing, tiled.of_tile) {
            launch.working = Some(routing.tile_count.working(of_tile, follows));
        }
        Ok(Value::Tensor(part.result))
    }

    /// Parts by one launch, those of tokens before those of pairs: of the blocks of these some have no tile. Other values are there.
    pub(super) fn together(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let part = |value: &Value<'g>| match value {
            Value::Beside(part) => Some(Rc::clone(part)),
            Value::Tensor(_) | Value::ExpertRows(_) | Value::PairWeights(_) | Value::PickWeights { .. } => None,
            Value::Picks(_) | Value::Routing(_) | Value::Slots(_) | Value::Sums(_) | Value::Updated(_) => None,
            Value::List(_) | Value::Attr(_) => None,
        };
        let mut parts: Vec<Rc<Beside>> = operands.iter().filter_map(part).collect();
        parts.sort_by_key(|part| part.spec.experts.is_some());
        let mut tilings = parts.iter().map(|part| part.spec.tiling);
        let tiling = tilings.next();
        if tilings.any(|other| tiling != Some(other)) {
            return Err(ScheduleError::Operand { op: Op::Launch, what: "parts in several tilings".to_string() });
        }
        if !parts.is_empty() {
            let specs: Vec<Gemm> = (0..).zip(&parts).map(|(part, of)| Gemm { part, ..of.spec.clone() }).collect();
            let weights: Vec<&Tensor> = parts.iter().flat_map(|part| &part.weights).collect();
            let name = self.kernel_name(Op::Launch.name(), &weights);
            let mut args: Vec<Arg> = Vec::new();
            for (spec, part) in specs.iter().zip(&parts) {
                args.extend(part.args.iter().map(|arg| Arg { param: spec.param(&arg.param), ..arg.clone() }));
            }
            let last = specs.len() - 1;
            args.extend(specs[..last].iter().map(|spec| arg(&spec.param("blocks"), gemm::blocks(spec))));
            let specs: Vec<&Gemm> = specs.iter().collect();
            args.extend(gemm::counts(&specs, self.machine).into_iter().map(|(name, of)| arg(name, of)));
            let next = self.next_streams(parts[0].spec.tiling.kind);
            args.extend(next_args(&next));
            let next: Vec<&Gemm> = next.iter().map(|next| &next.spec).collect();
            let tiled = gemm::together(&name, &specs, &next, self.machine);
            self.launch(tiled.kernel, tiled.grid, args)?;
        }
        let made = |value: &Value<'g>| part(value).map_or_else(|| value.clone(), |part| Value::Tensor(part.result.clone()));
        Ok(Value::List(operands.iter().map(made).collect()))
    }

    pub(super) fn combine(&mut self, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(rows), Value::Routing(routing), Value::List(vs), Value::Attr(Attr::Body(body))] = operands else {
            return Err(wrong(Op::Combine, operands));
        };
        check_pointwise(Op::Combine, body)?;
        let columns = constant(rows, 1);
        let vs = vs.iter().map(|v| beside(Op::Combine, v, columns)).collect::<Result<Vec<_>, _>>()?;
        let name = self.kernel_name("combine", &[]);
        same_pairs(Op::Combine, rows, Some(routing.grouping()))?;
        let result = self.result(Op::Combine, &name, ty, None, last)?;
        check_result(Op::Combine, &result, columns)?;
        let spec = Combine {
            name,
            n: columns as u32,
            top_k: routing.top_k as u32,
            rows: rows.dtype,
            operands: vs.iter().map(|(spread, v)| (*spread, v.dtype)).collect(),
            body,
            out: result.dtype,
        };
        let mut args =
            vec![arg("rows", rows.buffer), arg("row_of_pair", routing.row_of_pair), arg("out", result.buffer), tokens()];
        args.extend(operands_of(vs.iter().map(|(_, v)| *v)));
        self.launch(combine::combine(&spec, self.machine), combine::grid(&spec, self.machine), args)?;
        Ok(Value::Tensor(result))
    }

    pub(super) fn rms_norm(&mut self, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let op = Op::RmsNorm;
        let [Value::Tensor(x), Value::Attr(Attr::Real(eps)), Value::List(vs), Value::Attr(Attr::Body(body))] = operands else {
            return Err(wrong(op, operands));
        };
        check_pointwise(op, body)?;
        let (rows, grid, named) = match x.shape.first() {
            Some(Dim::Tokens) => (Extent::Tokens, row_loop::grid(Extent::Tokens), vec![]),
            Some(Dim::Const(n)) => {
                let rows = Extent::Const(*n);
                (rows.clone(), self.constant_grid(row_loop::grid(rows)), vec![x])
            }
            Some(Dim::Pairs) | None => {
                let what = "rows that are neither the tokens nor a weight's".to_string();
                return Err(ScheduleError::Operand { op, what });
            }
        };
        let columns = constant(x, 1);
        let vs = vs.iter().map(|v| beside(op, v, columns)).collect::<Result<Vec<_>, _>>()?;
        let name = self.kernel_name(op.name(), &named);
        let result = self.result(op, &name, ty, None, last)?;
        check_result(op, &result, columns)?;
        let spec = RmsNorm {
            name,
            n: columns as u32,
            eps: eps.get() as f32,
            x: x.dtype,
            operands: vs.iter().map(|(spread, v)| (*spread, v.dtype)).collect(),
            body,
            out: result.dtype,
        };
        let mut args = vec![arg("x", x.buffer), arg("out", result.buffer), arg("row_count", rows)];
        args.extend(operands_of(vs.iter().map(|(_, v)| *v)));
        self.launch(normalise::rms_norm(&spec, self.machine), grid, args)?;
        Ok(Value::Tensor(result))
    }

    /// `softmax` and `token_softmax` with kernels of their own.
    pub(super) fn softmax(&mut self, op: Op, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let (x, of_tokens) = match operands {
            [Value::Tensor(x)] => (x, None),
            [Value::Tensor(x), Value::Tensor(mask)] => (x, Some(mask)),
            _ => return Err(wrong(op, operands)),
        };
        if !matches!(x.shape[..], [Dim::Tokens, _]) {
            return Err(ScheduleError::Operand { op, what: "rows that are not the tokens".to_string() });
        }
        let spec = Softmax { name: self.kernel_name(op.name(), &[]), n: constant(x, 1) as u32, masked: of_tokens.is_some() };
        let result = self.result(op, &spec.name, ty, None, last)?;
        if op == Op::Softmax {
            let args = vec![arg("x", x.buffer), arg("out", result.buffer), tokens()];
            self.launch(softmax::softmax(&spec, self.machine), row_loop::grid(Extent::Tokens), args)?;
            return Ok(Value::Tensor(result));
        }
        let of_run = || [softmax::runs(), Extent::Const(constant(x, 1))];
        let max_of_run = self.buffers.workspace("max_of_run", DType::F32, of_run());
        let sum_of_run = self.buffers.workspace("sum_of_run", DType::F32, of_run());
        let mut sums =
            vec![arg("x", x.buffer), arg("max_of_run", max_of_run), arg("sum_of_run", sum_of_run), tokens(), sequence_tokens()];
        sums.extend(of_tokens.map(|mask| arg("mask", mask.buffer)));
        let weights = sums.iter().cloned().chain([arg("out", result.buffer)]).collect();
        self.launch(softmax::run_sums(&spec, self.machine), softmax::token_grid(&spec), sums)?;
        self.launch(softmax::token_weights(&spec, self.machine), softmax::token_grid(&spec), weights)?;
        Ok(Value::Tensor(result))
    }

    /// `soft_dispatch` and `soft_combine`.
    pub(super) fn mix(&mut self, op: Op, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(rows), Value::Tensor(weights), Value::Slots(slots), Value::List(vs), Value::Attr(Attr::Body(body))] =
            operands
        else {
            return Err(wrong(op, operands));
        };
        check_pointwise(op, body)?;
        let columns = constant(rows, 1);
        let vs = vs.iter().map(|v| beside(op, v, columns)).collect::<Result<Vec<_>, _>>()?;
        let name = self.kernel_name(op.name(), &[]);
        let grouping = Grouping::Slots(*slots);
        same_pairs(op, rows, Some(grouping))?;
        if !vs.iter().all(|(spread, _)| mix::takes(*spread)) {
            return Err(ScheduleError::Operand { op, what: "columns for a few neighbours each".to_string() });
        }
        vs.iter().try_for_each(|(_, v)| same_pairs(op, v, Some(grouping)))?;
        let (into, of) = match op {
            Op::SoftDispatch => (Into::Slots, Some((grouping, slots.rows_of_expert() * slots.experts))),
            _ => (Into::Tokens, None),
        };
        let result = self.result(op, &name, ty, of, last)?;
        check_result(op, &result, columns)?;
        let spec = Mix {
            name,
            into,
            experts: slots.experts as u32,
            slots: slots.slots as u32,
            n: columns as u32,
            rows: rows.dtype,
            operands: vs.iter().map(|(spread, v)| (*spread, v.dtype)).collect(),
            body,
            out: result.dtype,
        };
        let mut args = vec![
            arg("rows", rows.buffer),
            arg("weights", weights.buffer),
            arg("out", result.buffer),
            tokens(),
            sequence_tokens(),
        ];
        args.extend(operands_of(vs.iter().map(|(_, v)| *v)));
        self.launch(mix::mix(&spec, self.machine), mix::grid(&spec), args)?;
        Ok(Value::Tensor(result))
    }
}
