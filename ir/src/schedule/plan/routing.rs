//! From tokens to the rows of the experts: `route` and what follows it.

use super::super::bias_update;
use super::super::buffers::BufferId;
use super::super::choose::{self, Choose};
use super::super::kept_input::{self, KeptInput};
use super::super::losses::{self, Loss};
use super::super::order::{self, Order};
use super::super::renorm::{self, ExpertScale};
use super::super::route::{self, Route, Then};
use super::super::sort::{self, Pairs, Sort};
use super::super::{ScheduleError, chunk};
use super::value::{Experts, Observed, Routing, Tensor, Value, beside_logits, constant, tensor, wrong};
use super::{Plan, arg, in_order, operands_of, tokens};
use crate::graph::{Assignment, Attr, Body, Capacity, Node, Op, Part, Pointwise, Priority, Span, Type};
use crate::kernel::{Arg, Launch};
use crate::{DType, Extent, Round, Sorting};

impl<'g> Plan<'g> {
    /// `route` and `sort`: the picks of each token, then the pairs in the order of the grouped rows.
    pub(super) fn route(&mut self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let (operands, sorting) = match operands {
            [operands @ .., Value::Attr(Attr::Sorting(sorting))] => (operands, *sorting),
            operands => (operands, Sorting::Spread),
        };
        let (
            [Value::Tensor(x), Value::List(ws), Value::List(vs), Value::Attr(body), Value::Attr(rule)],
            Type::Routing { top_k, experts, rowless },
        ) = (operands, ty)
        else {
            return Err(wrong(Op::Route, operands));
        };
        let (Attr::Body(body), Attr::Assignment(rule), [Value::Tensor(router)]) = (*body, *rule, &ws[..]) else {
            return Err(wrong(Op::Route, operands));
        };
        // The router has a column for each, with rows or without.
        let (top_k, experts) = (*top_k, *experts + *rowless);
        let vs = vs.iter().map(|v| tensor(Op::Route, v)).collect::<Result<Vec<_>, _>>()?;
        let family = match sorting {
            Sorting::Spread | Sorting::Block => "route",
            Sorting::Routed => "route_and_sort",
            Sorting::Cluster => "route_and_sort_together",
        };
        let spec = self.to_route(family, (x, router), &vs, body, [experts, top_k])?;
        let picked = !body.has(Op::AllExperts);
        let mask = mask_of(body, &vs);
        let sort = to_sort(self.sort_suffix(), rule, [experts, *rowless], top_k, [picked, mask.is_some()], self.sorted_rows());
        let one = || Extent::Tokens.min(Extent::Const(1));
        let cluster = u64::from(self.machine.cluster_blocks);
        // What comes after the picks, and of how many blocks a launch is that sorts.
        let (then, sorts) = match sorting {
            Sorting::Spread | Sorting::Block => (Then::End, None),
            Sorting::Routed => (Then::SortAlone(&sort.spec), Some(one())),
            Sorting::Cluster => (Then::SortTogether(&sort.spec), Some(one() * cluster)),
        };
        let kernel = route::route(&spec, then, self.machine)?;
        let Written { topk_experts, topk_weights, best_of_token, counted_experts, observed, mut args } =
            self.written(&spec, (x, router), &vs, kernel.grid.clone());
        if let Some(grid) = sorts {
            if let Priority::BatchPrioritized | Priority::Score = sort.spec.priority {
                return Err(ScheduleError::Operand { op: Op::Route, what: format!("{sorting} in an order of weights") });
            }
            let of = topk_experts.map_or(Experts::All, Experts::Picked);
            let (routing, written) = self.sorted(&sort, of, topk_weights);
            args.extend(written);
            args.push(arg("blocks", kernel.grid));
            args.extend((sorting == Sorting::Cluster).then(|| {
                let logits = [Extent::Const(cluster), Extent::Tokens, Extent::Const(experts)];
                arg("logits_of_block", self.buffers.workspace("logits_of_block", DType::F32, logits))
            }));
            self.launch(kernel.kernel, grid, args)?;
            return Ok(Value::Routing(Routing { observed, counted_experts, ..routing }));
        }
        self.launch(kernel.kernel, kernel.grid, args)?;
        match (topk_experts, rule) {
            (None, Assignment::Capacity(capacity)) if capacity.priority == Priority::Score && *rowless == 0 && mask.is_none() => {
                Ok(Value::Routing(self.choose(rule, capacity, experts, topk_weights)?))
            }
            (topk_experts, _) => {
                let numbers = (topk_weights, best_of_token);
                let experts_of_pairs = match (topk_experts, mask) {
                    (Some(experts), _) => (Experts::Picked(experts), vec![arg("topk_experts", experts)]),
                    (None, mask) => (Experts::All, mask.map(|mask| arg("mask", mask)).into_iter().collect()),
                };
                let routing = self.sort((Op::Route, &sort), sorting, experts_of_pairs, mask, numbers)?;
                Ok(Value::Routing(Routing { observed, counted_experts, ..routing }))
            }
        }
    }

    /// What is routed, to so many experts and with so many picks of a token.
    pub(super) fn to_route(
        &self,
        family: &str,
        (x, router): (&Tensor, &Tensor),
        vs: &[&Tensor],
        body: &'g Body,
        [experts, top_k]: [u64; 2],
    ) -> Result<Route<'g>, ScheduleError> {
        Ok(Route {
            name: self.kernel_name(family, &[router]),
            hidden: constant(x, 1),
            experts: experts as u32,
            top_k: top_k as u32,
            x: x.dtype,
            router: router.dtype,
            operands: vs.iter().map(|v| beside_logits(v, experts)).collect::<Result<_, _>>()?,
            body,
            span: observed_span(body),
        })
    }

    /// The buffers that a route of so many blocks writes, and its arguments.
    pub(super) fn written(&mut self, spec: &Route, (x, router): (&Tensor, &Tensor), vs: &[&Tensor], blocks: Extent) -> Written {
        let pairs = || [Extent::Tokens, Extent::Const(u64::from(spec.top_k))];
        let picked = !spec.body.has(Op::AllExperts);
        let topk_experts = picked.then(|| self.buffers.workspace("topk_experts", DType::I32, pairs()));
        let topk_weights = self.buffers.workspace("topk_weights", DType::F32, pairs());
        let mut args = vec![arg("x", x.buffer), arg("router", router.buffer), arg("topk_weights", topk_weights), tokens()];
        args.extend(operands_of(vs.iter().copied()));
        args.extend(topk_experts.map(|experts| arg("topk_experts", experts)));
        let best_of_token = spec.ranks().then(|| self.buffers.workspace("best_of_token", DType::F32, [Extent::Tokens]));
        args.extend(best_of_token.map(|best| arg("best_of_token", best)));
        let counted_experts = spec.counts_others().then(|| self.buffers.workspace("counted_experts", DType::I32, pairs()));
        args.extend(counted_experts.map(|counted| arg("counted_experts", counted)));
        let observed = spec.observes().then(|| {
            let b = &mut self.buffers;
            let by_expert = [blocks.clone(), Extent::Const(u64::from(spec.experts))];
            let probability_of_block = b.workspace("probability_of_block", DType::F32, by_expert);
            let z_of_block = b.workspace("z_of_block", DType::F32, [blocks.clone()]);
            Observed { probability_of_block, z_of_block, blocks, span: spec.span }
        });
        if let Some(observed) = &observed {
            args.push(arg("probability_of_block", observed.probability_of_block));
            args.push(arg("z_of_block", observed.z_of_block));
        }
        args.extend((spec.span == Span::Sequence).then(|| arg("span_tokens", spec.span.tokens())));
        Written { topk_experts, topk_weights, best_of_token, counted_experts, observed, args }
    }

    /// What a routing costs in training: the probabilities summed over all tokens, then the losses.
    pub(super) fn losses(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let op = Op::Losses;
        let [Value::Routing(routing), Value::Attr(Attr::Losses(rule))] = operands else { return Err(wrong(op, operands)) };
        let Some(observed) = routing.observed.clone() else {
            return Err(ScheduleError::Operand { op, what: "a routing whose picks are not observed".to_string() });
        };
        let (experts, top_k) = (routing.experts as u32, routing.top_k as u32);
        let (masked, others) = (routing.token_count.is_some(), routing.counted_experts);
        let name = self.kernel_name(op.name(), &[]);
        let spec = Loss { name, experts, top_k, masked, others: others.is_some(), rule: *rule };
        let (bytes, limit) = (spec.shared_bytes(self.machine), u64::from(self.machine.shared_bytes));
        if bytes > limit {
            return Err(ScheduleError::Shared { op, bytes, limit, machine: self.machine.name });
        }
        let Some(topk_experts) = routing.topk_experts(op)? else { return Err(wrong(op, operands)) };
        let counted = if spec.reads_picks() { others.unwrap_or(topk_experts) } else { routing.load_of_expert };
        let b = &mut self.buffers;
        let one = || [Extent::Const(1)];
        let importance = b.workspace("importance", DType::F32, [Extent::Const(routing.experts)]);
        let aux_loss = rule.balance.map(|_| b.workspace("aux_loss", DType::F32, one()));
        let z_loss = rule.z.map(|_| b.workspace("z_loss", DType::F32, one()));
        let mut args = vec![
            arg("probability_of_block", observed.probability_of_block),
            arg("z_of_block", observed.z_of_block),
            arg("counted", counted),
            arg("importance", importance),
            tokens(),
            arg("blocks", observed.blocks),
            arg("span_tokens", observed.span.tokens()),
        ];
        args.extend(routing.token_count.map(|count| arg("token_count", count)));
        args.extend(aux_loss.map(|loss| arg("aux_loss", loss)));
        args.extend(z_loss.map(|loss| arg("z_loss", loss)));
        self.launch(losses::losses(&spec, self.machine), losses::grid(), args)?;
        let sums = [Some(importance), aux_loss, z_loss].into_iter().flatten();
        Ok(Value::List(sums.map(Value::Sums).collect()))
    }

    /// A bias after the batch, in its own place.
    pub(super) fn bias_update(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let op = Op::BiasUpdate;
        let [Value::Tensor(bias), Value::Routing(routing), Value::Attr(Attr::Real(rate))] = operands else {
            return Err(wrong(op, operands));
        };
        if bias.name.is_none() {
            return Err(ScheduleError::Operand { op, what: "a bias that is no weight".to_string() });
        }
        let kernel = bias_update::bias_update(constant(bias, 0) as u32, rate.get() as f32, self.machine);
        let args = in_order(&kernel, vec![arg("load", routing.load_of_expert), arg("bias", bias.buffer)])?;
        self.update.push(Launch { kernel: self.kernels.len(), grid: Extent::Const(1), early: false, working: None, args });
        self.kernels.push(kernel);
        Ok(Value::Updated(bias.buffer))
    }

    /// A part of a routing.
    pub(super) fn part(&self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let [Value::Routing(routing), Value::Attr(Attr::Part(part))] = operands else { return Err(wrong(Op::Part, operands)) };
        let lacks = || ScheduleError::Operand { op: Op::Part, what: format!("`{}` of a routing without it", part.word()) };
        let buffer = match part {
            Part::Experts => routing.topk_experts(Op::Part)?,
            Part::Rows => Some(routing.row_of_pair),
            Part::Load => Some(routing.load_of_expert),
            Part::Kept => Some(routing.kept_of_expert),
            Part::Tokens => routing.token_count,
            Part::Counted => routing.counted_experts,
            // Partial sums: not of the shape of what they sum up to.
            Part::Probability => {
                return routing.observed.as_ref().map(|of| Value::Sums(of.probability_of_block)).ok_or_else(lacks);
            }
            Part::Z => return routing.observed.as_ref().map(|of| Value::Sums(of.z_of_block)).ok_or_else(lacks),
        };
        match (buffer, ty) {
            (Some(buffer), Type::Tensor { shape, dtype }) => {
                Ok(Value::Tensor(Tensor { buffer, dtype: *dtype, shape: shape.clone(), pairs_of: None, name: None }))
            }
            (_, _) => Err(lacks()),
        }
    }

    /// Each expert takes the tokens that it scores highest.
    pub(super) fn choose(
        &mut self,
        rule: &Assignment,
        capacity: &Capacity,
        experts: u64,
        scores: BufferId,
    ) -> Result<Routing, ScheduleError> {
        let tile_rows = self.sorted_rows();
        let spec = Choose { name: self.kernel_name("choose", &[]), experts: experts as u32, tile_rows };
        let rows = rule.most_pairs(experts, experts);
        let routing = self.rows([experts, 0], experts, rows, tile_rows, Experts::All, scores);
        let mut args = vec![
            arg("scores", scores),
            arg("row_of_pair", routing.row_of_pair),
            arg("token_of_row", routing.token_of_row),
            arg("weight_of_row", routing.weight_of_row),
            tokens(),
            arg("span_tokens", capacity.span.tokens()),
            arg("capacity", capacity.per_expert.clone().min(Extent::Tokens)),
        ];
        args.extend(tables(&routing));
        self.launch(choose::choose(&spec, self.machine), choose::grid(&spec, capacity.span, self.machine), args)?;
        Ok(routing)
    }

    /// The buffers of a routing.
    pub(super) fn rows(
        &mut self,
        [experts, rowless]: [u64; 2],
        top_k: u64,
        rows: Extent,
        tile_rows: u32,
        of: Experts,
        topk_weights: BufferId,
    ) -> Routing {
        let (b, i32s) = (&mut self.buffers, DType::I32);
        let of_expert = || [Extent::Const(experts)];
        // Each expert that has a row has a tile that may be partly empty.
        let tiles =
            rows.clone().div(Extent::Const(u64::from(tile_rows)), Round::Floor) + rows.clone().min(Extent::Const(experts));
        let load_of_expert = b.workspace("load_of_expert", i32s, of_expert());
        let kept_of_expert = b.workspace("kept_of_expert", i32s, of_expert());
        Routing {
            experts: experts - rowless,
            top_k,
            of,
            renormed: false,
            topk_weights,
            row_of_pair: b.workspace("row_of_pair", i32s, [Extent::Tokens, Extent::Const(top_k)]),
            token_of_row: b.workspace("token_of_row", i32s, [rows.clone()]),
            weight_of_row: b.workspace("weight_of_row", DType::F32, [rows.clone()]),
            offset_of_expert: b.workspace("offset_of_expert", i32s, [Extent::Const(experts + 1)]),
            tile_expert: b.workspace("tile_expert", i32s, [tiles.clone()]),
            tile_row: b.workspace("tile_row", i32s, [tiles]),
            tile_count: b.workspace("tile_count", i32s, [Extent::Const(1)]),
            rows,
            load_of_expert,
            kept_of_expert,
            observed: None,
            token_count: None,
            counted_experts: None,
        }
    }

    /// The buffers of what one block sorts, and the arguments that it writes to.
    fn sorted(&mut self, sort: &ToSort, of: Experts, topk_weights: BufferId) -> (Routing, Vec<Arg>) {
        let ToSort { spec, rows, capacity } = sort;
        let experts = [spec.experts, spec.rowless].map(u64::from);
        let routing = self.rows(experts, u64::from(spec.top_k), rows.clone(), spec.tile_rows, of, topk_weights);
        let token_count = spec.masked.then(|| self.buffers.workspace("token_count", DType::I32, [Extent::Const(1)]));
        let mut args = vec![arg("capacity", capacity.clone())];
        args.extend(places(&routing));
        args.extend(tables(&routing));
        args.extend(token_count.map(|count| arg("token_count", count)));
        (Routing { token_count, ..routing }, args)
    }

    pub(super) fn sort(
        &mut self,
        (op, sort): (Op, &ToSort),
        sorting: Sorting,
        (of, experts_of_pairs): (Experts, Vec<Arg>),
        mask: Option<BufferId>,
        (topk_weights, best_of_token): (BufferId, Option<BufferId>),
    ) -> Result<Routing, ScheduleError> {
        let ToSort { spec, rows, capacity } = sort;
        let (span, priority) = (spec.span, spec.priority);
        let [experts, rowless, top_k] = [spec.experts, spec.rowless, spec.top_k].map(u64::from);
        let (machine, i32s) = (self.machine, DType::I32);
        if !sorting.fits(experts, machine) {
            let (bytes, limit) = (sorting.shared_bytes(experts, machine), u64::from(machine.shared_bytes));
            return Err(ScheduleError::Shared { op, bytes, limit, machine: machine.name });
        }
        let by_expert = |rows: Extent| [rows, Extent::Const(experts)];
        let order = self.order(span, priority, spec.top_k, (topk_weights, best_of_token))?;
        let span_tokens = arg("span_tokens", span.tokens());
        let of_capacity = arg("capacity", capacity.clone());
        let mut experts_by_priority = experts_of_pairs;
        experts_by_priority.extend(order.map(|order| arg("order", order)));
        let pair_weights = arg("topk_weights", topk_weights);
        let one = Extent::Tokens.min(Extent::Const(1));
        match sorting {
            // A route that sorts is launched by itself.
            Sorting::Block | Sorting::Routed | Sorting::Cluster => {
                let (routing, written) = self.sorted(sort, of, topk_weights);
                let mut args = experts_by_priority;
                args.extend([pair_weights, tokens()]);
                args.extend(written);
                self.launch(sort::in_one_block(spec, machine), one, args)?;
                Ok(routing)
            }
            Sorting::Spread => {
                let b = &mut self.buffers;
                let pairs_of_chunk = b.workspace("pairs_of_chunk", i32s, by_expert(spec.chunks(machine)));
                let rank_of_chunk = b.workspace("rank_of_chunk", i32s, by_expert(spec.chunks(machine)));
                let rows_before_span = b.workspace("rows_before_span", i32s, by_expert(span.count()));
                let routing = self.rows([experts, rowless], top_k, rows.clone(), spec.tile_rows, of, topk_weights);
                let token_count = mask.map(|_| self.buffers.workspace("token_count", i32s, [Extent::Const(1)]));
                let mut count = experts_by_priority.clone();
                count.extend([arg("pairs_of_chunk", pairs_of_chunk), tokens(), span_tokens.clone()]);
                let rank_of_chunk = arg("rank_of_chunk", rank_of_chunk);
                let rows_before_span = arg("rows_before_span", rows_before_span);
                let mut scan = vec![arg("pairs_of_chunk", pairs_of_chunk), rank_of_chunk.clone(), rows_before_span.clone()];
                scan.extend([tokens(), span_tokens.clone(), of_capacity.clone()]);
                scan.extend(tables(&routing));
                scan.extend(token_count.map(|count| arg("token_count", count)));
                let mut place = experts_by_priority;
                place.extend([pair_weights, rank_of_chunk, rows_before_span, arg("offset_of_expert", routing.offset_of_expert)]);
                place.extend(places(&routing));
                place.extend([tokens(), span_tokens, of_capacity]);
                self.launch(sort::count(spec, machine), spec.chunks(machine), count)?;
                self.launch(sort::scan(spec, machine), one, scan)?;
                self.launch(sort::place(spec, machine), spec.chunks(machine), place)?;
                Ok(Routing { token_count, ..routing })
            }
        }
    }

    /// The tokens of each span by their best score or its pairs by weight, where the priority asks for that.
    pub(super) fn order(
        &mut self,
        span: Span,
        priority: Priority,
        top_k: u32,
        (topk_weights, best_of_token): (BufferId, Option<BufferId>),
    ) -> Result<Option<BufferId>, ScheduleError> {
        let no_best = || ScheduleError::Operand { op: Op::Route, what: "picks without a best score".to_string() };
        let (of_token, number_of_item) = match priority {
            Priority::ChoiceMajor | Priority::TokenMajor => return Ok(None),
            Priority::BatchPrioritized => (1, best_of_token.ok_or_else(no_best)?),
            Priority::Score => (top_k, topk_weights),
        };
        let (spec, machine) = (Order { suffix: self.sort_suffix(), span, of_token }, self.machine);
        let (b, i32s) = (&mut self.buffers, DType::I32);
        let of_chunk = || [spec.chunks(machine), Extent::Const(u64::from(order::DIGITS))];
        let key_of_item = b.workspace("key_of_item", i32s, [spec.items()]);
        let [mut from, mut to] = ["order", "ordered"].map(|name| b.workspace(name, i32s, [spec.items()]));
        let items_of_chunk = b.workspace("items_of_chunk", i32s, of_chunk());
        let place_of_chunk = b.workspace("place_of_chunk", i32s, of_chunk());
        let begin = vec![arg("number_of_item", number_of_item), arg("key_of_item", key_of_item), arg("order", from), tokens()];
        self.launch(order::begin(&spec, machine), spec.parts(machine), begin)?;
        let [key_of_item, span_tokens] = [arg("key_of_item", key_of_item), arg("span_tokens", span.tokens())];
        let [items_of_chunk, place_of_chunk] = [arg("items_of_chunk", items_of_chunk), arg("place_of_chunk", place_of_chunk)];
        let kernels = [order::count(&spec, machine), order::scan(&spec, machine), order::place(&spec, machine)];
        let [count_kernel, scan_kernel, place_kernel] = kernels.map(|kernel| self.kernel(kernel));
        for shift in order::SHIFTS {
            let digits = || {
                vec![arg("shift", Extent::Const(shift)), arg("order", from), key_of_item.clone(), tokens(), span_tokens.clone()]
            };
            let [mut count, mut place] = [digits(), digits()];
            count.push(items_of_chunk.clone());
            let scan = vec![items_of_chunk.clone(), place_of_chunk.clone(), span_tokens.clone()];
            place.extend([place_of_chunk.clone(), arg("ordered", to)]);
            self.launch_again(count_kernel, spec.chunks(machine), count)?;
            self.launch_again(scan_kernel, spec.spans(), scan)?;
            self.launch_again(place_kernel, spec.chunks(machine), place)?;
            (from, to) = (to, from);
        }
        Ok(Some(from))
    }

    /// The same pairs under other weights.
    pub(super) fn renorm_kept(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let [Value::Routing(routing), Value::Attr(Attr::Renorm(rule))] = operands else {
            return Err(wrong(Op::RenormKept, operands));
        };
        let (name, machine) = (self.kernel_name("renorm_kept", &[]), self.machine);
        let renormed = self.buffers.workspace("weight_of_row", DType::F32, [routing.rows.clone()]);
        let args = vec![
            arg("row_of_pair", routing.row_of_pair),
            arg("weight_of_row", routing.weight_of_row),
            arg("renormed", renormed),
            tokens(),
        ];
        self.launch(renorm::renorm_kept(&name, routing.top_k as u32, *rule, machine), renorm::grid(machine), args)?;
        Ok(Value::Routing(Routing { weight_of_row: renormed, renormed: true, ..routing.clone() }))
    }

    /// The same pairs under other weights.
    pub(super) fn expert_scale(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let [Value::Routing(routing), Value::Tensor(scale)] = operands else { return Err(wrong(Op::ExpertScale, operands)) };
        let (name, machine) = (self.kernel_name("expert_scale", &[scale]), self.machine);
        let topk_experts = routing.topk_experts(Op::ExpertScale)?;
        let picked = topk_experts.is_some();
        let spec = ExpertScale { top_k: routing.top_k as u32, picked, scale: scale.dtype, of_all: constant(scale, 0) == 1 };
        let scaled = self.buffers.workspace("weight_of_row", DType::F32, [routing.rows.clone()]);
        let mut args = vec![
            arg("row_of_pair", routing.row_of_pair),
            arg("weight_of_row", routing.weight_of_row),
            arg("scale_of_expert", scale.buffer),
            arg("scaled", scaled),
            tokens(),
        ];
        args.extend(topk_experts.map(|experts| arg("topk_experts", experts)));
        self.launch(renorm::expert_scale(&name, &spec, machine), renorm::grid(machine), args)?;
        Ok(Value::Routing(Routing { weight_of_row: scaled, renormed: true, ..routing.clone() }))
    }

    /// What tokens keep of themselves: `dropped_input` and `identity_input`.
    pub(super) fn input_of(&mut self, op: Op, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(x), Value::Routing(routing)] = operands else { return Err(wrong(op, operands)) };
        let topk_experts = routing.topk_experts(op)?;
        let spec = KeptInput {
            name: self.kernel_name(op.name(), &[]),
            picks: if op == Op::DroppedInput { kept_input::Picks::Dropped } else { kept_input::Picks::Rowless },
            n: constant(x, 1) as u32,
            experts: routing.experts as u32,
            top_k: routing.top_k as u32,
            picked: topk_experts.is_some(),
            masked: routing.token_count.is_some(),
            x: x.dtype,
        };
        let result = self.result(op, &spec.name, ty, None, false)?;
        let mut args = vec![
            arg("x", x.buffer),
            arg("row_of_pair", routing.row_of_pair),
            arg("topk_weights", routing.topk_weights),
            arg("out", result.buffer),
            tokens(),
        ];
        args.extend(topk_experts.map(|experts| arg("topk_experts", experts)));
        self.launch(kept_input::kept_input(&spec, self.machine), chunk::row_blocks(self.machine), args)?;
        Ok(Value::Tensor(result))
    }
}

/// The tokens whose sums are not mixed in what a body observes.
fn observed_span(body: &Body) -> Span {
    let of = |node: &Node| match node {
        Node::Apply(Op::Observe, operands) => match body.nodes()[usize::from(operands[3])] {
            Node::Attr(Attr::Span(span)) => Some(span),
            Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => None,
        },
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    };
    body.nodes().iter().find_map(of).unwrap_or(Span::All)
}

/// What a route writes, and all of its arguments.
pub(super) struct Written {
    pub(super) topk_experts: Option<BufferId>,
    pub(super) topk_weights: BufferId,
    pub(super) best_of_token: Option<BufferId>,
    pub(super) counted_experts: Option<BufferId>,
    pub(super) observed: Option<Observed>,
    pub(super) args: Vec<Arg>,
}

/// A sort to be scheduled, with the rows that there are at most and the room of an expert.
pub(super) struct ToSort {
    pub(super) spec: Sort,
    pub(super) rows: Extent,
    pub(super) capacity: Extent,
}

/// How the pairs of a route are sorted, whichever way.
pub(super) fn to_sort(
    suffix: String,
    rule: &Assignment,
    [experts, rowless]: [u64; 2],
    top_k: u64,
    [picked, masked]: [bool; 2],
    tile_rows: u32,
) -> ToSort {
    // Room for all pairs, which no expert has more of.
    let pairs = Extent::Tokens * top_k;
    let (span, priority, capacity) = match rule {
        Assignment::Dropless => (Span::All, Priority::TokenMajor, pairs.clone()),
        Assignment::Capacity(c) => (c.span, c.priority, c.per_expert.clone().min(pairs.clone())),
    };
    let spec = Sort {
        suffix,
        experts: experts as u32,
        rowless: rowless as u32,
        top_k: top_k as u32,
        of: if picked { Pairs::Picked } else { Pairs::All },
        masked,
        span,
        priority,
        tile_rows,
    };
    ToSort { spec, rows: rule.most_pairs(top_k, experts - rowless), capacity }
}

/// What is written of the pairs' rows.
fn places(routing: &Routing) -> [Arg; 3] {
    [
        arg("row_of_pair", routing.row_of_pair),
        arg("token_of_row", routing.token_of_row),
        arg("weight_of_row", routing.weight_of_row),
    ]
}

/// What is written of the experts' rows, and of the tiles that these are cut into.
fn tables(routing: &Routing) -> [Arg; 6] {
    [
        arg("offset_of_expert", routing.offset_of_expert),
        arg("load_of_expert", routing.load_of_expert),
        arg("kept_of_expert", routing.kept_of_expert),
        arg("tile_expert", routing.tile_expert),
        arg("tile_row", routing.tile_row),
        arg("tile_count", routing.tile_count),
    ]
}

/// The mask among the operands of a body that says which tokens are padding.
fn mask_of(body: &Body, operands: &[&Tensor]) -> Option<BufferId> {
    let of = |node: &Node| match node {
        Node::Apply(Op::Pointwise(Pointwise::MaskTokens), of) => Some(usize::from(of[1])),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    };
    match body.nodes()[body.nodes().iter().find_map(of)?] {
        // The router's products are hole 0.
        Node::Hole(hole) => operands.get((hole as usize).checked_sub(1)?).map(|mask| mask.buffer),
        Node::Apply(..) | Node::Param(_) | Node::Attr(_) => None,
    }
}
