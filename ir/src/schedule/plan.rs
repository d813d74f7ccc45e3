//! A program in the making: one arm for each op, which says what its kernel is given. What kernels do is in their files.

use std::borrow::Cow;

use super::buffers::{BufferId, Buffers, extent, unused};
use super::choose::{self, Choose};
use super::combine::{self, Columns, Combine, Spread};
use super::gemm::{self, Gemm, Operand};
use super::jitter::{self, Jitter};
use super::kept_input::{self, KeptInput};
use super::losses::{self, Loss};
use super::mix::{self, Into, Mix};
use super::normalise::{self, RmsNorm};
use super::order::{self, Order};
use super::renorm::{self, ExpertScale};
use super::route::{self, Route};
use super::softmax::{self, Softmax};
use super::sort::{self, Sort};
use super::{ScheduleError, body};
use crate::graph::{Assignment, Attr, Balance, Body, Capacity, Dim, Losses, Node, Op, Priority, Span, Type, Typed};
use crate::kernel::{Arg, Buffer, Kernel, Launch};
use crate::{DType, Extent, Machine, Round};

/// What a node of the graph is to the kernels that use it.
#[derive(Clone)]
enum Value<'g> {
    Tensor(Tensor),
    Routing(Routing),
    Slots(Slots),
    /// `expert_rows b routing`: read where it is used.
    ExpertRows(Tensor),
    /// `pair_weights routing`: read where it is used.
    PairWeights(Tensor),
    /// `pick_weights routing first`: columns of the weights of all picks, read where they are used.
    PickWeights {
        weights: Tensor,
        first: u64,
        top_k: u64,
    },
    List(Vec<Value<'g>>),
    Attr(&'g Attr),
}

/// A tensor in memory.
#[derive(Clone)]
struct Tensor {
    buffer: BufferId,
    dtype: DType,
    shape: Vec<Dim>,
    /// The grouping whose rows its rows are, if they are P.
    pairs_of: Option<Grouping>,
    /// What the graph calls it, if it is a parameter.
    name: Option<String>,
}

/// The pairs of a route in memory.
#[derive(Clone)]
struct Routing {
    /// Those with rows.
    experts: u64,
    top_k: u64,
    /// At most so many rows.
    rows: Extent,
    /// `None`: all experts, in their order.
    topk_experts: Option<BufferId>,
    /// Whether the rows have other weights than the picks.
    renormed: bool,
    /// Of dropped pairs too.
    topk_weights: BufferId,
    row_of_pair: BufferId,
    token_of_row: BufferId,
    weight_of_row: BufferId,
    offset_of_expert: BufferId,
    tile_expert: BufferId,
    tile_row: BufferId,
    tile_count: BufferId,
    /// Pairs that picked each expert.
    load_of_expert: BufferId,
    observed: Option<Observed>,
}

/// The sums of the blocks of a route.
#[derive(Clone)]
struct Observed {
    probability_of_block: BufferId,
    z_of_block: BufferId,
    blocks: Extent,
    /// The tokens whose sums are not mixed.
    span: Span,
}

/// Rows that no token decides.
#[derive(Clone, Copy, PartialEq)]
struct Slots {
    experts: u64,
    /// Of each expert, for each sequence.
    slots: u64,
}

/// What tells the rows of one grouping from those of another: where the pairs are, or how many slots there are.
#[derive(Clone, Copy, PartialEq)]
enum Grouping {
    Routing(BufferId),
    Slots(Slots),
}

impl Routing {
    fn grouping(&self) -> Grouping {
        Grouping::Routing(self.row_of_pair)
    }
}

impl Slots {
    /// Rows of one expert, all sequences together.
    fn rows_of_expert(self) -> Extent {
        Span::Row.count() * self.slots
    }
}

/// What was scheduled so far.
pub(super) struct Plan<'g> {
    layer: &'g Typed,
    machine: &'g Machine,
    /// Buffers of the parameters, in their order.
    params: Vec<Option<BufferId>>,
    output: BufferId,
    /// Of the nodes so far.
    values: Vec<Value<'g>>,
    buffers: Buffers,
    kernels: Vec<Kernel>,
    launches: Vec<Launch>,
}

impl<'g> Plan<'g> {
    pub(super) fn new(
        layer: &'g Typed,
        machine: &'g Machine,
        params: Vec<Option<BufferId>>,
        output: BufferId,
        buffers: Buffers,
    ) -> Plan<'g> {
        Plan { layer, machine, params, output, values: Vec::new(), buffers, kernels: Vec::new(), launches: Vec::new() }
    }

    pub(super) fn finish(self) -> (Vec<Buffer>, Vec<Kernel>, Vec<Launch>) {
        (self.buffers.into_list(), self.kernels, self.launches)
    }

    /// Schedules the next node. The last one writes the output.
    pub(super) fn add(&mut self, node: &'g Node, ty: &'g Type, last: bool) -> Result<(), ScheduleError> {
        check_extents(ty)?;
        let value = self.value(node, ty, last)?;
        self.values.push(value);
        Ok(())
    }

    fn value(&mut self, node: &'g Node, ty: &'g Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let (op, operands) = match node {
            Node::Param(param) => {
                let place = self.layer.graph().params.iter().position(|(p, _)| p == param);
                let buffer = place.and_then(|i| self.params[i]);
                return match (buffer, ty) {
                    (Some(buffer), Type::Tensor { shape, dtype }) => {
                        let name = Some(param.bare().to_string());
                        Ok(Value::Tensor(Tensor { buffer, dtype: *dtype, shape: shape.clone(), pairs_of: None, name }))
                    }
                    (_, ty) => Err(ScheduleError::Operand { op: "param", what: ty.to_string() }),
                };
            }
            Node::Attr(attr) => return Ok(Value::Attr(attr)),
            Node::Hole(_) => return Err(ScheduleError::Operand { op: "layer", what: "a hole outside a body".to_string() }),
            Node::Apply(op, operands) => (*op, operands),
        };
        let operands: Vec<Value<'g>> = operands.iter().map(|id| self.values[usize::from(*id)].clone()).collect();
        match op {
            Op::List => Ok(Value::List(operands)),
            Op::Route => self.route(&operands, ty),
            Op::Gemm | Op::GroupedGemm => self.gemm(op, &operands, ty, last),
            Op::Combine => self.combine(&operands, ty, last),
            Op::RmsNorm => self.rms_norm(&operands, ty, last),
            Op::ExpertRows => match &operands[..] {
                [Value::Tensor(rows), grouping] => match grouping_of(grouping) {
                    Some(of) => Ok(Value::ExpertRows(Tensor { pairs_of: Some(of), ..rows.clone() })),
                    None => Err(wrong(op, &operands)),
                },
                _ => Err(wrong(op, &operands)),
            },
            Op::PairWeights => match &operands[..] {
                [Value::Routing(routing)] => Ok(Value::PairWeights(Tensor {
                    buffer: routing.weight_of_row,
                    dtype: DType::F32,
                    shape: vec![Dim::Pairs, Dim::Const(1)],
                    pairs_of: Some(routing.grouping()),
                    name: None,
                })),
                _ => Err(wrong(op, &operands)),
            },
            Op::PickWeights => match &operands[..] {
                [Value::Routing(routing), Value::Attr(Attr::Num(first))] if !routing.renormed => {
                    let shape = vec![Dim::Tokens, Dim::Const(routing.top_k - first)];
                    let weights = Tensor { buffer: routing.topk_weights, dtype: DType::F32, shape, pairs_of: None, name: None };
                    Ok(Value::PickWeights { weights, first: *first, top_k: routing.top_k })
                }
                _ => Err(wrong(op, &operands)),
            },
            Op::RenormKept => self.renorm_kept(&operands),
            Op::Losses => self.losses(&operands),
            Op::DroppedInput | Op::IdentityInput => self.input_of(op, &operands, ty),
            Op::Flatten => match (&operands[..], ty) {
                ([Value::Tensor(w)], Type::Tensor { shape, .. }) => {
                    Ok(Value::Tensor(Tensor { shape: shape.clone(), ..w.clone() }))
                }
                _ => Err(wrong(op, &operands)),
            },
            Op::Slots => match ty {
                Type::Slots { experts, slots } => Ok(Value::Slots(Slots { experts: *experts, slots: *slots })),
                _ => Err(wrong(op, &operands)),
            },
            Op::Softmax if matches!(ty, Type::Tensor { .. }) => self.softmax(op, &operands, ty, last),
            Op::TokenSoftmax => self.softmax(op, &operands, ty, last),
            Op::SoftDispatch | Op::SoftCombine => self.mix(op, &operands, ty, last),
            Op::Jitter => self.jitter(&operands, ty),
            Op::ExpertScale if matches!(operands.first(), Some(Value::Routing(_))) => self.expert_scale(&operands),
            Op::Leading
            | Op::Joint
            | Op::WithoutRows
            | Op::TopK
            | Op::AllExperts
            | Op::SparseMixer
            | Op::HashPicks
            | Op::GroupLimit
            | Op::Renorm
            | Op::ExpertScale
            | Op::Observe
            | Op::Assign
            | Op::Softmax => Err(ScheduleError::Unfused { op: op.name(), rewrite: "the fusion of gating into `route`" }),
            Op::Dispatch => Err(ScheduleError::Unfused { op: op.name(), rewrite: "the gather of the first `grouped_gemm`" }),
            Op::Cast | Op::Scale | Op::Offset | Op::AtMost | Op::AtLeast | Op::Add | Op::Mul => Err(pointwise_alone(op)),
            Op::Sigmoid | Op::Tanh | Op::SqrtSoftplus | Op::Silu | Op::Gelu | Op::GeluTanh | Op::Relu | Op::Square => {
                Err(pointwise_alone(op))
            }
        }
    }

    /// `route` and `sort`: the picks of each token, then the pairs in the order of the grouped rows.
    fn route(&mut self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
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
        let spec = Route {
            name: self.kernel_name("route", &[router]),
            hidden: constant(x, 1),
            experts: experts as u32,
            top_k: top_k as u32,
            x: x.dtype,
            router: router.dtype,
            operands: vs.iter().map(|v| beside_logits(v, experts)).collect::<Result<_, _>>()?,
            body,
            span: self.observed_span(),
        };
        let kernel = route::route(&spec, self.machine)?;
        let pairs = || [Extent::Tokens, Extent::Const(top_k)];
        let picked = !body.has(Op::AllExperts);
        let topk_experts = picked.then(|| self.buffers.observed("topk_experts", "route.experts", DType::I32, pairs()));
        let topk_weights = self.buffers.observed("topk_weights", "route.weights", DType::F32, pairs());
        let mut args = vec![x.buffer.into(), router.buffer.into()];
        args.extend(vs.iter().map(|v| Arg::from(v.buffer)));
        args.extend(topk_experts.map(Arg::from));
        args.push(topk_weights.into());
        let observed = spec.observes().then(|| {
            let (b, blocks) = (&mut self.buffers, kernel.grid.clone());
            let by_expert = [blocks.clone(), Extent::Const(experts)];
            let probability_of_block = b.observed("probability_of_block", "stats.probability", DType::F32, by_expert);
            let z_of_block = b.observed("z_of_block", "stats.z", DType::F32, [blocks.clone()]);
            Observed { probability_of_block, z_of_block, blocks, span: spec.span }
        });
        if let Some(observed) = &observed {
            args.extend([observed.probability_of_block, observed.z_of_block].map(Arg::from));
        }
        args.push(tokens());
        args.extend((spec.span == Span::Row).then(|| Arg::Scalar(spec.span.tokens())));
        self.launch(kernel.kernel, kernel.grid, args);
        match (topk_experts, rule) {
            (None, Assignment::Capacity(capacity)) if capacity.priority == Priority::Score && *rowless == 0 => {
                Ok(Value::Routing(self.choose(rule, capacity, experts, topk_weights)))
            }
            (topk_experts, rule) => {
                let routing = self.sort(rule, [experts, *rowless], top_k, topk_experts, topk_weights)?;
                Ok(Value::Routing(Routing { observed, ..routing }))
            }
        }
    }

    /// The tokens whose sums must not be mixed: sequences, where a loss is made of each.
    fn observed_span(&self) -> Span {
        let by_sequence = self.layer.graph().nodes.as_ref().iter().any(|node| match node {
            Node::Attr(Attr::Losses(Losses { balance: Some((Balance::Sequences, _)), .. })) => true,
            Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => false,
        });
        if by_sequence { Span::Row } else { Span::All }
    }

    /// What a routing costs in training: the pairs are the same.
    fn losses(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let op = Op::Losses;
        let [Value::Routing(routing), Value::Attr(Attr::Losses(rule))] = operands else { return Err(wrong(op, operands)) };
        let Some(observed) = routing.observed.clone() else {
            return Err(ScheduleError::Operand { op: op.name(), what: "a routing whose picks are not observed".to_string() });
        };
        let (experts, top_k) = (routing.experts as u32, routing.top_k as u32);
        let spec = Loss { name: self.kernel_name(op.name(), &[]), experts, top_k, rule: *rule };
        let (bytes, limit) = (spec.shared_bytes(self.machine), u64::from(self.machine.shared_bytes));
        if bytes > limit {
            return Err(ScheduleError::Shared { op: op.name(), bytes, limit, machine: self.machine.name });
        }
        let Some(topk_experts) = routing.topk_experts else { return Err(wrong(op, operands)) };
        let counted = if spec.reads_picks() { topk_experts } else { routing.load_of_expert };
        let mut args: Vec<Arg> = [observed.probability_of_block, observed.z_of_block, counted].map(Arg::from).into();
        let b = &mut self.buffers;
        let one = || [Extent::Const(1)];
        args.push(b.observed("importance", "stats.importance", DType::F32, [Extent::Const(routing.experts)]).into());
        args.extend(rule.balance.map(|_| Arg::from(b.observed("aux_loss", "stats.aux_loss", DType::F32, one()))));
        args.extend(rule.z.map(|_| Arg::from(b.observed("z_loss", "stats.z_loss", DType::F32, one()))));
        args.extend([tokens(), Arg::Scalar(observed.blocks), Arg::Scalar(observed.span.tokens())]);
        self.launch(losses::losses(&spec, self.machine), losses::grid(), args);
        Ok(Value::Routing(routing.clone()))
    }

    /// Each expert takes the tokens that it scores highest.
    fn choose(&mut self, rule: &Assignment, capacity: &Capacity, experts: u64, scores: BufferId) -> Routing {
        let tile_rows = gemm::tile_rows(self.machine);
        let spec = Choose { name: self.kernel_name("choose", &[]), experts: experts as u32, tile_rows };
        let rows = rule.most_pairs(experts, experts);
        let (routing, [load_of_expert, kept_of_expert]) = self.rows([experts, 0], experts, rows, tile_rows, None, scores);
        let mut args: Vec<Arg> = [scores, routing.row_of_pair, routing.token_of_row, routing.weight_of_row].map(Arg::from).into();
        args.extend([routing.offset_of_expert, load_of_expert, kept_of_expert].map(Arg::from));
        args.extend([routing.tile_expert, routing.tile_row, routing.tile_count].map(Arg::from));
        let room = Arg::Scalar(capacity.per_expert.clone().min(Extent::Tokens));
        args.extend([tokens(), Arg::Scalar(capacity.span.tokens()), room]);
        self.launch(choose::choose(&spec, self.machine), choose::grid(&spec, capacity.span, self.machine), args);
        routing
    }

    /// The buffers of a routing, with those of the experts' load and of what they keep.
    fn rows(
        &mut self,
        [experts, rowless]: [u64; 2],
        top_k: u64,
        rows: Extent,
        tile_rows: u32,
        topk_experts: Option<BufferId>,
        topk_weights: BufferId,
    ) -> (Routing, [BufferId; 2]) {
        let (b, i32s) = (&mut self.buffers, DType::I32);
        let of_expert = || [Extent::Const(experts)];
        // Each expert that has a row has a tile that may be partly empty.
        let tiles =
            rows.clone().div(Extent::Const(u64::from(tile_rows)), Round::Floor) + rows.clone().min(Extent::Const(experts));
        let load_of_expert = b.observed("load_of_expert", "stats.load", i32s, of_expert());
        let kept_of_expert = b.observed("kept_of_expert", "stats.kept", i32s, of_expert());
        let routing = Routing {
            experts: experts - rowless,
            top_k,
            topk_experts,
            renormed: false,
            topk_weights,
            row_of_pair: b.observed("row_of_pair", "route.rows", i32s, [Extent::Tokens, Extent::Const(top_k)]),
            token_of_row: b.workspace("token_of_row", i32s, [rows.clone()]),
            weight_of_row: b.workspace("weight_of_row", DType::F32, [rows.clone()]),
            offset_of_expert: b.workspace("offset_of_expert", i32s, [Extent::Const(experts + 1)]),
            tile_expert: b.workspace("tile_expert", i32s, [tiles.clone()]),
            tile_row: b.workspace("tile_row", i32s, [tiles]),
            tile_count: b.workspace("tile_count", i32s, [Extent::Const(1)]),
            rows,
            load_of_expert,
            observed: None,
        };
        (routing, [load_of_expert, kept_of_expert])
    }

    fn sort(
        &mut self,
        rule: &Assignment,
        [experts, rowless]: [u64; 2],
        top_k: u64,
        topk_experts: Option<BufferId>,
        topk_weights: BufferId,
    ) -> Result<Routing, ScheduleError> {
        // Room for all pairs, which no expert has more of.
        let pairs = Extent::Tokens * top_k;
        let (span, priority, capacity) = match rule {
            Assignment::Dropless => (Span::All, Priority::TokenMajor, pairs.clone()),
            Assignment::Capacity(c) => (c.span, c.priority, c.per_expert.clone().min(pairs.clone())),
        };
        let spec = Sort {
            suffix: self.sort_suffix(),
            experts: experts as u32,
            rowless: rowless as u32,
            top_k: top_k as u32,
            all_experts: topk_experts.is_none(),
            span,
            priority,
            tile_rows: gemm::tile_rows(self.machine),
        };
        let (machine, i32s) = (self.machine, DType::I32);
        let (bytes, limit) = (spec.shared_bytes(machine), u64::from(machine.shared_bytes));
        if bytes > limit {
            return Err(ScheduleError::Shared { op: Op::Route.name(), bytes, limit, machine: machine.name });
        }
        let by_expert = |rows: Extent| [rows, Extent::Const(experts)];
        let order = self.order(span, priority, top_k as u32, topk_weights);
        let b = &mut self.buffers;
        let pairs_of_chunk = b.workspace("pairs_of_chunk", i32s, by_expert(spec.chunks(machine)));
        let rank_of_chunk = b.workspace("rank_of_chunk", i32s, by_expert(spec.chunks(machine)));
        let rows_before_span = b.workspace("rows_before_span", i32s, by_expert(span.count()));
        let rows = rule.most_pairs(top_k, experts - rowless);
        let (routing, [load_of_expert, kept_of_expert]) =
            self.rows([experts, rowless], top_k, rows, spec.tile_rows, topk_experts, topk_weights);
        let span_tokens = Arg::Scalar(span.tokens());
        let capacity = Arg::Scalar(capacity);
        let mut experts_by_priority: Vec<Arg> = topk_experts.map(Arg::from).into_iter().collect();
        experts_by_priority.extend(order.map(Arg::from));
        let mut count = experts_by_priority.clone();
        count.extend([pairs_of_chunk.into(), tokens(), span_tokens.clone()]);
        let mut scan: Vec<Arg> =
            [pairs_of_chunk, rank_of_chunk, rows_before_span, routing.offset_of_expert].map(Arg::from).into();
        scan.extend([load_of_expert, kept_of_expert, routing.tile_expert, routing.tile_row, routing.tile_count].map(Arg::from));
        scan.extend([tokens(), span_tokens.clone(), capacity.clone()]);
        let mut place = experts_by_priority;
        place.extend([topk_weights, rank_of_chunk, rows_before_span, routing.offset_of_expert].map(Arg::from));
        place.extend([routing.row_of_pair, routing.token_of_row, routing.weight_of_row].map(Arg::from));
        place.extend([tokens(), span_tokens, capacity]);
        self.launch(sort::count(&spec, machine), spec.chunks(machine), count);
        self.launch(sort::scan(&spec, machine), Extent::Tokens.min(Extent::Const(1)), scan);
        self.launch(sort::place(&spec, machine), spec.chunks(machine), place);
        Ok(routing)
    }

    /// The tokens or pairs of each span by weight, where the priority asks for that.
    fn order(&mut self, span: Span, priority: Priority, top_k: u32, topk_weights: BufferId) -> Option<BufferId> {
        let (of_token, stride) = match priority {
            Priority::ChoiceMajor | Priority::TokenMajor => return None,
            Priority::BatchPrioritized => (1, top_k),
            Priority::Score => (top_k, 1),
        };
        let (spec, machine) = (Order { suffix: self.sort_suffix(), span, of_token, stride }, self.machine);
        let (b, i32s) = (&mut self.buffers, DType::I32);
        let of_chunk = || [spec.chunks(machine), Extent::Const(u64::from(order::DIGITS))];
        let key_of_item = b.workspace("key_of_item", i32s, [spec.items()]);
        let [mut from, mut to] = ["order", "ordered"].map(|name| b.workspace(name, i32s, [spec.items()]));
        let items_of_chunk = b.workspace("items_of_chunk", i32s, of_chunk());
        let place_of_chunk = b.workspace("place_of_chunk", i32s, of_chunk());
        let span_tokens = Arg::Scalar(span.tokens());
        let begin = vec![topk_weights.into(), key_of_item.into(), from.into(), tokens()];
        self.launch(order::begin(&spec, machine), spec.parts(machine), begin);
        let first = self.kernels.len();
        self.kernels.extend([order::count(&spec, machine), order::scan(&spec, machine), order::place(&spec, machine)]);
        for shift in order::SHIFTS {
            let batch = [Arg::Scalar(Extent::Const(shift)), tokens(), span_tokens.clone()];
            let mut count: Vec<Arg> = [from, key_of_item, items_of_chunk].map(Arg::from).into();
            count.extend(batch.clone());
            let scan = vec![items_of_chunk.into(), place_of_chunk.into(), span_tokens.clone()];
            let mut place: Vec<Arg> = [from, key_of_item, place_of_chunk, to].map(Arg::from).into();
            place.extend(batch);
            let pass = [(spec.chunks(machine), count), (spec.spans(), scan), (spec.chunks(machine), place)];
            let launch = |(i, (grid, args))| Launch { kernel: first + i, grid, args };
            self.launches.extend(pass.into_iter().enumerate().map(launch));
            (from, to) = (to, from);
        }
        Some(from)
    }

    /// The same pairs under other weights.
    fn renorm_kept(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let [Value::Routing(routing), Value::Attr(Attr::Renorm(rule))] = operands else {
            return Err(wrong(Op::RenormKept, operands));
        };
        let (name, machine) = (self.kernel_name("renorm_kept", &[]), self.machine);
        let renormed = self.buffers.workspace("weight_of_row", DType::F32, [routing.rows.clone()]);
        let args = vec![routing.row_of_pair.into(), routing.weight_of_row.into(), renormed.into(), tokens()];
        self.launch(renorm::renorm_kept(&name, routing.top_k as u32, *rule, machine), renorm::grid(machine), args);
        Ok(Value::Routing(Routing { weight_of_row: renormed, renormed: true, ..routing.clone() }))
    }

    /// The same pairs under other weights.
    fn expert_scale(&mut self, operands: &[Value<'g>]) -> Result<Value<'g>, ScheduleError> {
        let [Value::Routing(routing), Value::Tensor(scale)] = operands else { return Err(wrong(Op::ExpertScale, operands)) };
        let (name, machine) = (self.kernel_name("expert_scale", &[scale]), self.machine);
        let picked = routing.topk_experts.is_some();
        let spec = ExpertScale { top_k: routing.top_k as u32, picked, scale: scale.dtype, of_all: constant(scale, 0) == 1 };
        let scaled = self.buffers.workspace("weight_of_row", DType::F32, [routing.rows.clone()]);
        let mut args: Vec<Arg> = [routing.row_of_pair, routing.weight_of_row].map(Arg::from).into();
        args.extend(routing.topk_experts.map(Arg::from));
        args.extend([scale.buffer.into(), scaled.into(), tokens()]);
        self.launch(renorm::expert_scale(&name, &spec, machine), renorm::grid(machine), args);
        Ok(Value::Routing(Routing { weight_of_row: scaled, renormed: true, ..routing.clone() }))
    }

    /// What tokens keep of themselves: `dropped_input` and `identity_input`.
    fn input_of(&mut self, op: Op, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(x), Value::Routing(routing)] = operands else { return Err(wrong(op, operands)) };
        let spec = KeptInput {
            name: self.kernel_name(op.name(), &[]),
            picks: if op == Op::DroppedInput { kept_input::Picks::Dropped } else { kept_input::Picks::Rowless },
            n: constant(x, 1) as u32,
            experts: routing.experts as u32,
            top_k: routing.top_k as u32,
            picked: routing.topk_experts.is_some(),
            x: x.dtype,
        };
        let result = self.result(op, &spec.name, ty, None, false)?;
        let mut args = vec![Arg::from(x.buffer)];
        args.extend(routing.topk_experts.map(Arg::from));
        args.extend([routing.row_of_pair, routing.topk_weights, result.buffer].map(Arg::from));
        args.push(tokens());
        self.launch(kept_input::kept_input(&spec, self.machine), kept_input::grid(self.machine), args);
        Ok(Value::Tensor(result))
    }

    /// What the router sees of the tokens in training.
    fn jitter(&mut self, operands: &[Value<'g>], ty: &Type) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(x), Value::Tensor(seed), Value::Attr(Attr::Real(eps))] = operands else {
            return Err(wrong(Op::Jitter, operands));
        };
        let spec = Jitter { name: self.kernel_name("jitter", &[]), n: constant(x, 1) as u32, eps: eps.get() as f32, x: x.dtype };
        let result = self.result(Op::Jitter, &spec.name, ty, None, false)?;
        let args = vec![x.buffer.into(), seed.buffer.into(), result.buffer.into(), tokens()];
        self.launch(jitter::jitter(&spec, self.machine), jitter::grid(self.machine), args);
        Ok(Value::Tensor(result))
    }

    /// `gemm` and `grouped_gemm`.
    fn gemm(&mut self, op: Op, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
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
        let grouping = routing.map(Routing::grouping).or(slots.map(Grouping::Slots));
        check_pointwise(op, body)?;
        let weights = ws.iter().map(|w| tensor(op, w)).collect::<Result<Vec<_>, _>>()?;
        let gathered = routing.is_some() && rows.shape.first() == Some(&Dim::Tokens);
        if grouping.is_none() && rows.shape.first() != Some(&Dim::Tokens) {
            return Err(ScheduleError::Operand { op: op.name(), what: "rows that are not the tokens".to_string() });
        }
        let name = self.kernel_name(op.name(), &weights);
        same_pairs(op, rows, grouping)?;
        let most_rows = slots.map(|slots| slots.rows_of_expert() * slots.experts);
        let most_rows = most_rows.or(routing.map(|routing| routing.rows.clone()));
        let result = self.result(op, &name, ty, grouping.zip(most_rows.clone()), last)?;
        let columns = weights.first().map_or(0, |w| constant(w, w.shape.len() - 2));
        check_result(op, &result, columns)?;
        let mut holes = Vec::new();
        let mut args = vec![Arg::from(rows.buffer)];
        if let Some(routing) = routing {
            args.extend(gathered.then_some(routing.token_of_row.into()));
            args.extend([routing.tile_expert, routing.tile_row, routing.tile_count, routing.offset_of_expert].map(Arg::from));
        }
        args.extend(weights.iter().map(|w| Arg::from(w.buffer)));
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
            args.push(tensor.buffer.into());
        }
        args.push(result.buffer.into());
        args.extend(grouping.is_none().then(tokens));
        args.extend(slots.map(|slots| Arg::Scalar(slots.rows_of_expert())));
        let spec = Gemm {
            name,
            n: columns,
            k: constant(rows, 1),
            experts: routing.map(|r| r.experts).or(slots.map(|slots| slots.experts)),
            gather: gathered,
            rows_of_expert: slots.map(Slots::rows_of_expert),
            pairs: most_rows.unwrap_or(Extent::Tokens),
            rows: rows.dtype,
            weights: weights.iter().map(|w| w.dtype).collect(),
            operands: holes,
            body,
            out: result.dtype,
        };
        let tiled = gemm::gemm(&spec, self.machine);
        self.launch(tiled.kernel, tiled.grid, args);
        Ok(Value::Tensor(result))
    }

    fn combine(&mut self, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
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
        let mut args = vec![rows.buffer.into(), routing.row_of_pair.into()];
        args.extend(vs.iter().map(|(_, v)| Arg::from(v.buffer)));
        args.extend([result.buffer.into(), tokens()]);
        self.launch(combine::combine(&spec, self.machine), combine::grid(&spec, self.machine), args);
        Ok(Value::Tensor(result))
    }

    fn rms_norm(&mut self, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let op = Op::RmsNorm;
        let [Value::Tensor(x), Value::Attr(Attr::Real(eps)), Value::List(vs), Value::Attr(Attr::Body(body))] = operands else {
            return Err(wrong(op, operands));
        };
        check_pointwise(op, body)?;
        let (rows, grid, named) = match x.shape.first() {
            Some(Dim::Tokens) => (Extent::Tokens, normalise::grid(Extent::Tokens), vec![]),
            Some(Dim::Const(n)) => {
                let rows = Extent::Const(*n);
                // Nothing is launched without tokens.
                (rows.clone(), normalise::grid(rows) * Extent::Tokens.min(Extent::Const(1)), vec![x])
            }
            Some(Dim::Pairs) | None => {
                let what = "rows that are neither the tokens nor a weight's".to_string();
                return Err(ScheduleError::Operand { op: op.name(), what });
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
        let mut args = vec![Arg::from(x.buffer)];
        args.extend(vs.iter().map(|(_, v)| Arg::from(v.buffer)));
        args.extend([result.buffer.into(), Arg::Scalar(rows)]);
        self.launch(normalise::rms_norm(&spec, self.machine), grid, args);
        Ok(Value::Tensor(result))
    }

    /// `softmax` and `token_softmax` with kernels of their own.
    fn softmax(&mut self, op: Op, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
        let [Value::Tensor(x)] = operands else { return Err(wrong(op, operands)) };
        if !matches!(x.shape[..], [Dim::Tokens, _]) {
            return Err(ScheduleError::Operand { op: op.name(), what: "rows that are not the tokens".to_string() });
        }
        let spec = Softmax { name: self.kernel_name(op.name(), &[]), n: constant(x, 1) as u32 };
        let result = match self.public_name() {
            Some(public) if !last => {
                let shape = [Extent::Tokens, Extent::Const(constant(x, 1))];
                let name = format!("{}_out", spec.name.trim_start_matches("moec_"));
                let buffer = self.buffers.observed(&name, public, DType::F32, shape);
                Tensor { buffer, dtype: DType::F32, shape: x.shape.clone(), pairs_of: None, name: None }
            }
            Some(_) | None => self.result(op, &spec.name, ty, None, last)?,
        };
        if op == Op::Softmax {
            let args = vec![x.buffer.into(), result.buffer.into(), tokens()];
            self.launch(softmax::softmax(&spec, self.machine), softmax::grid(), args);
            return Ok(Value::Tensor(result));
        }
        let of_run = || [softmax::runs(), Extent::Const(constant(x, 1))];
        let max_of_run = self.buffers.workspace("max_of_run", DType::F32, of_run());
        let sum_of_run = self.buffers.workspace("sum_of_run", DType::F32, of_run());
        let batch = [tokens(), sequence_tokens()];
        let mut args: Vec<Arg> = [x.buffer, max_of_run, sum_of_run].map(Arg::from).into();
        args.extend(batch.clone());
        self.launch(softmax::run_sums(&spec, self.machine), softmax::token_grid(&spec), args);
        let mut args: Vec<Arg> = [x.buffer, max_of_run, sum_of_run, result.buffer].map(Arg::from).into();
        args.extend(batch);
        self.launch(softmax::token_weights(&spec, self.machine), softmax::token_grid(&spec), args);
        Ok(Value::Tensor(result))
    }

    /// What a caller calls the weights that are scheduled now, by the op that mixes with them.
    fn public_name(&self) -> Option<&'static str> {
        let weights = self.values.len();
        self.layer.graph().nodes.as_ref().iter().find_map(|node| match node {
            Node::Apply(Op::SoftDispatch, operands) if usize::from(operands[1]) == weights => Some("soft.dispatch"),
            Node::Apply(Op::SoftCombine, operands) if usize::from(operands[1]) == weights => Some("soft.combine"),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
        })
    }

    /// `soft_dispatch` and `soft_combine`.
    fn mix(&mut self, op: Op, operands: &[Value<'g>], ty: &Type, last: bool) -> Result<Value<'g>, ScheduleError> {
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
            return Err(ScheduleError::Operand { op: op.name(), what: "columns for a few neighbours each".to_string() });
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
        let mut args: Vec<Arg> = [rows.buffer, weights.buffer].map(Arg::from).into();
        args.extend(vs.iter().map(|(_, v)| Arg::from(v.buffer)));
        args.extend([result.buffer.into(), tokens(), sequence_tokens()]);
        self.launch(mix::mix(&spec, self.machine), mix::grid(&spec), args);
        Ok(Value::Tensor(result))
    }

    /// Where the tensor that a kernel makes goes: the output, or new workspace.
    fn result(
        &mut self,
        op: Op,
        kernel: &str,
        ty: &Type,
        rows: Option<(Grouping, Extent)>,
        last: bool,
    ) -> Result<Tensor, ScheduleError> {
        let Type::Tensor { shape, dtype } = ty else {
            return Err(ScheduleError::Operand { op: op.name(), what: format!("a body that makes {ty}") });
        };
        let most = rows.as_ref().map_or(&Extent::Tokens, |(_, most)| most);
        let extents: Vec<Extent> = shape.iter().map(|dim| extent(*dim, most)).collect();
        let buffer = if last {
            self.output
        } else {
            self.buffers.workspace(&format!("{}_out", kernel.trim_start_matches("moec_")), *dtype, extents)
        };
        let pairs_of = rows.map(|(grouping, _)| grouping);
        Ok(Tensor { buffer, dtype: *dtype, shape: shape.clone(), pairs_of, name: None })
    }

    fn launch(&mut self, kernel: Kernel, grid: Extent, args: Vec<Arg>) {
        self.launches.push(Launch { kernel: self.kernels.len(), grid, args });
        self.kernels.push(kernel);
    }

    /// `moec_<family>_<weights>`, with a number where another kernel has that name.
    fn kernel_name(&self, family: &str, weights: &[&Tensor]) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let of_weight =
            |w: &&Tensor| w.name.iter().flat_map(|name| "_".chars().chain(name.chars().map(legal))).collect::<String>();
        let weights: String = weights.iter().map(of_weight).collect::<String>().chars().take(NAME_CHARS).collect();
        unused(&format!("moec_{family}{weights}"), |name| self.kernels.iter().any(|kernel| kernel.name == name))
    }

    /// Tells the kernels of a second sort from those of the first.
    fn sort_suffix(&self) -> String {
        let named = unused("moec_sort_count", |name| self.kernels.iter().any(|kernel| kernel.name == name));
        named.trim_start_matches("moec_sort_count").to_string()
    }
}

fn check_pointwise(op: Op, body: &Body) -> Result<(), ScheduleError> {
    if body::is_pointwise(body) {
        return Ok(());
    }
    let strange = body.nodes().iter().find_map(|node| match node {
        Node::Apply(inner, _) if !body::is_pointwise_op(*inner) => Some(*inner),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    });
    strange.map_or(Ok(()), |inner| Err(ScheduleError::Body { op: inner.name(), inside: op.name() }))
}

/// A kernel's sizes are small enough to count in i32, and there is something to count.
fn check_extents(ty: &Type) -> Result<(), ScheduleError> {
    let wrong = |what: &'static str, value: u64, most: u64| Err(ScheduleError::Extent { what, value, most });
    match ty {
        Type::Tensor { shape, .. } => shape.iter().try_for_each(|dim| match dim {
            Dim::Const(n) if !(1..=MOST_EXTENT).contains(n) => wrong("a dimension", *n, MOST_EXTENT),
            Dim::Const(_) | Dim::Tokens | Dim::Pairs => Ok(()),
        }),
        Type::Slots { experts, slots } if experts.saturating_mul(*slots) > MOST_EXTENT => {
            wrong("the slots of all experts", experts.saturating_mul(*slots), MOST_EXTENT)
        }
        Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => Ok(()),
    }
}

/// What a body makes must have a number for each of its op's.
fn check_result(op: Op, result: &Tensor, columns: u64) -> Result<(), ScheduleError> {
    if result.shape.len() == 2 && constant(result, 1) == columns {
        return Ok(());
    }
    Err(ScheduleError::Operand { op: op.name(), what: "a body that makes something of another shape".to_string() })
}

/// What a value groups rows by.
fn grouping_of(value: &Value<'_>) -> Option<Grouping> {
    match value {
        Value::Routing(routing) => Some(routing.grouping()),
        Value::Slots(slots) => Some(Grouping::Slots(*slots)),
        Value::Tensor(_) | Value::ExpertRows(_) | Value::PairWeights(_) | Value::PickWeights { .. } => None,
        Value::List(_) | Value::Attr(_) => None,
    }
}

/// Rows have a number in one grouping only.
fn same_pairs(op: Op, tensor: &Tensor, grouping: Option<Grouping>) -> Result<(), ScheduleError> {
    match tensor.pairs_of {
        Some(of) if grouping != Some(of) => {
            let what = match of {
                Grouping::Routing(_) => "the pairs of another routing",
                Grouping::Slots(_) => "the slots of another grouping",
            };
            Err(ScheduleError::Operand { op: op.name(), what: what.to_string() })
        }
        Some(_) | None => Ok(()),
    }
}

fn tensor<'v>(op: Op, value: &'v Value<'_>) -> Result<&'v Tensor, ScheduleError> {
    match value {
        Value::Tensor(tensor) => Ok(tensor),
        Value::ExpertRows(_)
        | Value::PairWeights(_)
        | Value::PickWeights { .. }
        | Value::Routing(_)
        | Value::Slots(_)
        | Value::List(_)
        | Value::Attr(_) => Err(wrong(op, std::slice::from_ref(value))),
    }
}

/// What `route` takes beside its logits.
fn beside_logits(v: &Tensor, experts: u64) -> Result<route::Operand, ScheduleError> {
    match v.shape[..] {
        [Dim::Const(n)] if n <= experts => Ok(route::Operand::Vector { dtype: v.dtype, len: n as u32 }),
        [Dim::Const(rows), Dim::Const(_)] if v.dtype == DType::I32 => Ok(route::Operand::Table { rows: rows as u32 }),
        [Dim::Tokens] if v.dtype == DType::I32 => Ok(route::Operand::Ids),
        _ => {
            let shape: Vec<String> = v.shape.iter().map(ToString::to_string).collect();
            Err(ScheduleError::Operand { op: Op::Route.name(), what: format!("[{}] beside its logits", shape.join(", ")) })
        }
    }
}

fn wrong(op: Op, operands: &[Value<'_>]) -> ScheduleError {
    let what: Vec<Cow<'_, str>> = operands
        .iter()
        .map(|value| match value {
            Value::Tensor(_) => "a tensor".into(),
            Value::Routing(_) => "a routing".into(),
            Value::Slots(_) => "slots".into(),
            Value::ExpertRows(_) => "the rows of experts".into(),
            Value::PairWeights(_) => "the weights of pairs".into(),
            Value::PickWeights { .. } => "the weights of picks".into(),
            Value::List(list) => format!("a list of {}", list.len()).into(),
            Value::Attr(attr) => attr.to_string().into(),
        })
        .collect();
    ScheduleError::Operand { op: op.name(), what: what.join(", ") }
}

/// The largest extent of one dimension: kernels count in i32 along a row, with room for a tile more.
const MOST_EXTENT: u64 = 1 << 30;
/// Most characters that the names of the weights give to a kernel's.
const NAME_CHARS: usize = 48;

fn pointwise_alone(op: Op) -> ScheduleError {
    ScheduleError::Unfused { op: op.name(), rewrite: "the body of the `gemm`, `grouped_gemm` or `combine` before it" }
}

fn tokens() -> Arg {
    Arg::Scalar(Extent::Tokens)
}

fn sequence_tokens() -> Arg {
    Arg::Scalar(Span::Row.tokens())
}

/// The extent of a dimension that is known; types were checked.
fn constant(tensor: &Tensor, dim: usize) -> u64 {
    match tensor.shape.get(dim) {
        Some(Dim::Const(n)) => *n,
        Some(Dim::Tokens | Dim::Pairs) | None => 0,
    }
}

/// What is read beside `[M, N]`, and how it lies over it.
fn beside<'v>(op: Op, value: &'v Value<'_>, columns: u64) -> Result<(Spread, &'v Tensor), ScheduleError> {
    // Columns divide N: types were checked.
    let each = |n: u64| (n > 1).then(|| (columns / n) as u32);
    if let Value::PickWeights { weights, first, top_k } = value {
        let each = each(constant(weights, 1));
        return Ok((Spread::Columns(Columns { pitch: *top_k as u32, first: *first as u32, each }), weights));
    }
    let v = tensor(op, value)?;
    let spread = match v.shape[..] {
        [Dim::Const(1)] => Spread::One,
        [_] => Spread::Row,
        [_, Dim::Const(n)] if n < columns || n == 1 => Spread::Columns(Columns { pitch: n as u32, first: 0, each: each(n) }),
        _ => Spread::Full,
    };
    Ok((spread, v))
}
