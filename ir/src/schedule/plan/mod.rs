//! A program in the making: one arm for each op, which says what its kernel is given. What kernels do is in their files.

mod ahead;
mod packed;
mod picks;
mod results;
mod routing;
mod rows;
mod value;

use super::buffers::{BufferId, Buffers, extent, unused};
use super::{Counted, ScheduleError, operand_name};
use crate::graph::{Attr, Body, Dim, Node, Op, Pointwise, Span, Type, Typed};
use crate::kernel::{Arg, Given, Kernel, Launch, Param, Program, Regime, Stmt, Wait};
use crate::machine::Unit;
use crate::tiling;
use crate::{DType, Extent, Machine};
use packed::Packed;
use value::{Grouping, Slots, Tensor, Value, constant, grouping_of, wrong};

/// What was scheduled so far.
pub(super) struct Plan<'g> {
    layer: &'g Typed,
    machine: &'g Machine,
    /// Rows of the highest tile of the grouped products, if there are such.
    tile_rows: Option<u32>,
    /// Buffers of the parameters, in their order.
    params: Vec<Option<BufferId>>,
    /// Where the layer's output goes, where it has one of its own.
    output: Option<BufferId>,
    /// Of the nodes so far.
    values: Vec<Value<'g>>,
    buffers: Buffers,
    kernels: Vec<Kernel>,
    launches: Vec<Launch>,
    /// Launches that make what depends on weights alone.
    prepare: Vec<Launch>,
    /// Launches that change weights after a batch.
    update: Vec<Launch>,
    /// Weights that were put in panels so far.
    packed: Vec<Packed>,
    /// Of each node so far, whether it depends on nothing but weights that stay as they are.
    constant: Vec<bool>,
    /// Whether the node under way does.
    is_preparing: bool,
}

impl<'g> Plan<'g> {
    pub(super) fn new(
        layer: &'g Typed,
        machine: &'g Machine,
        tile_rows: Option<u32>,
        params: Vec<Option<BufferId>>,
        output: Option<BufferId>,
        buffers: Buffers,
    ) -> Plan<'g> {
        let (values, constant, kernels, is_preparing) = (Vec::new(), Vec::new(), Vec::new(), false);
        let (launches, prepare, update, packed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Plan {
            layer,
            machine,
            tile_rows,
            params,
            output,
            values,
            constant,
            is_preparing,
            buffers,
            kernels,
            launches,
            prepare,
            update,
            packed,
        }
    }

    /// Rows by which the sort cuts those of an expert: of the highest tile, so that lower ones are parts of it.
    fn sorted_rows(&self) -> u32 {
        self.tile_rows.unwrap_or(tiling::MOST_ROWS)
    }

    /// The program, for batches of any size.
    pub(super) fn finish(mut self) -> Result<Program, ScheduleError> {
        self.name_results()?;
        self.launches.iter_mut().skip(1).for_each(|launch| launch.early = self.machine.early_launches);
        let statistics = self.statistics();
        let graph = self.layer.graph();
        Ok(Program {
            name: graph.name.clone(),
            facts: graph.facts.clone(),
            buffers: self.buffers.into_list(),
            kernels: self.kernels,
            statistics,
            prepare: self.prepare,
            regimes: vec![Regime { tokens_up_to: None, tile_rows: self.tile_rows, launches: self.launches }],
            update: self.update,
        })
    }

    /// Schedules the next node. The output is written where the caller has it.
    pub(super) fn add(&mut self, node: &'g Node, ty: &'g Type, is_output: bool) -> Result<(), ScheduleError> {
        check_extents(ty)?;
        self.is_preparing = !is_output && self.depends_on_weights_alone(node);
        let (buffers, launches) = (self.buffers.count(), self.launches.len());
        let value = self.value(node, ty, is_output)?;
        self.values.push(value);
        self.constant.push(self.is_preparing);
        if self.is_preparing {
            self.buffers.prepared_from(buffers);
            self.prepare.extend(self.launches.drain(launches..));
        }
        Ok(())
    }

    /// Launches of a batch so far.
    pub(super) fn launches(&self) -> usize {
        self.launches.len()
    }

    fn depends_on_weights_alone(&self, node: &Node) -> bool {
        match node {
            Node::Param(param) => !param.is_input() && !self.layer.graph().results.contains(&param.0),
            Node::Attr(_) => true,
            Node::Hole(_) => false,
            Node::Apply(_, operands) => operands.iter().all(|id| self.constant[usize::from(*id)]),
        }
    }

    /// So many blocks for rows that are there whatever the batch: none without tokens, but where a preparation is scheduled.
    fn constant_grid(&self, blocks: Extent) -> Extent {
        if self.is_preparing { blocks } else { blocks * Extent::Tokens.min(Extent::Const(1)) }
    }

    /// The buffer of the weight of this name (`@router`).
    fn weight(&self, name: &str) -> Option<BufferId> {
        let place = self.layer.graph().params.iter().position(|(param, _)| param.0 == name && !param.is_input());
        place.and_then(|i| self.params[i])
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
                    (_, ty) => Err(ScheduleError::Leaf { what: format!("a parameter that is {ty}") }),
                };
            }
            Node::Attr(attr) => return Ok(Value::Attr(attr)),
            Node::Hole(_) => return Err(ScheduleError::Leaf { what: "a hole outside a body".to_string() }),
            Node::Apply(op, operands) => (*op, operands),
        };
        let operands: Vec<Value<'g>> = operands.iter().map(|id| self.values[usize::from(*id)].clone()).collect();
        match op {
            Op::List => Ok(Value::List(operands)),
            Op::Route => self.route(&operands, ty),
            Op::Gemm if matches!(ty, Type::Picks { .. }) => self.picks(&operands, ty),
            Op::Given => self.given(&operands, ty),
            Op::Picked => self.picked(&operands),
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
            Op::Part => self.part(&operands, ty),
            Op::BiasUpdate => self.bias_update(&operands),
            Op::DroppedInput | Op::IdentityInput => self.input_of(op, &operands, ty),
            Op::Flatten => match (&operands[..], ty) {
                ([Value::Tensor(w)], Type::Tensor { shape, .. }) => {
                    Ok(Value::Tensor(Tensor { shape: shape.clone(), ..w.clone() }))
                }
                _ => Err(wrong(op, &operands)),
            },
            Op::Launch => self.together(&operands),
            Op::Item => match &operands[..] {
                [Value::List(items), Value::Attr(Attr::Num(i))] => {
                    usize::try_from(*i).ok().and_then(|i| items.get(i)).cloned().ok_or_else(|| wrong(op, &operands))
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
            Op::Within => self.within(&operands, ty, last),
            Op::Pointwise(Pointwise::MaskTokens) if matches!(ty, Type::Tensor { .. }) => self.mask_tokens(&operands, ty, last),
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
            | Op::Counted
            | Op::BestScore
            | Op::Pointwise(Pointwise::MaskTokens)
            | Op::Assign
            | Op::Softmax => Err(ScheduleError::Unfused { op, rewrite: "the fusion of gating into `route`" }),
            Op::Dispatch => Err(ScheduleError::Unfused { op, rewrite: "the gather of the first `grouped_gemm`" }),
            Op::Pointwise(op) => Err(pointwise_alone(op.into())),
        }
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
            return Err(ScheduleError::Operand { op, what: format!("a body that makes {ty}") });
        };
        let most = rows.as_ref().map_or(&Extent::Tokens, |(_, most)| most);
        let mut extents: Vec<Extent> = shape.iter().map(|dim| extent(*dim, most)).collect();
        let has_boxes = self.machine.rate(Unit::Group, *dtype).is_some();
        if let (Some((Grouping::Routing(_), _)), [pairs, ..], true) = (&rows, &mut extents[..], has_boxes) {
            // A box at the last row has lines behind it, none of which is touched.
            *pairs = pairs.clone() + u64::from(tiling::GROUP_BOX_ROWS);
        }
        let buffer = match self.output.filter(|_| last) {
            Some(output) => output,
            None => self.buffers.workspace(&format!("{}_out", kernel), *dtype, extents),
        };
        let pairs_of = rows.map(|(grouping, _)| grouping);
        Ok(Tensor { buffer, dtype: *dtype, shape: shape.clone(), pairs_of, name: None })
    }

    /// A kernel that is launched once, with arguments in any order.
    fn launch(&mut self, kernel: Kernel, grid: Extent, args: Vec<Arg>) -> Result<(), ScheduleError> {
        let kernel = self.kernel(kernel);
        self.launch_again(kernel, grid, args)
    }

    /// A kernel to launch. Where the machine has early launches it first waits for those before it, if there are any, and then allows the
    /// next one, whose blocks come as soon as there is room.
    fn kernel(&mut self, mut kernel: Kernel) -> usize {
        // What is prepared is launched by itself.
        if self.machine.early_launches && !self.is_preparing {
            let waits = (!self.launches.is_empty()).then_some(Stmt::Wait(Wait::Launches));
            kernel.body.splice(..0, waits.into_iter().chain([Stmt::AllowNext]));
        }
        self.kernels.push(kernel);
        self.kernels.len() - 1
    }

    /// A launch of a kernel that is there.
    fn launch_again(&mut self, kernel: usize, grid: Extent, args: Vec<Arg>) -> Result<(), ScheduleError> {
        let args = in_order(&self.kernels[kernel], args)?;
        self.launches.push(Launch { kernel, grid, early: false, working: None, args });
        Ok(())
    }

    /// `<family>_<weights>`, with a number where another kernel has that name.
    fn kernel_name(&self, family: &str, weights: &[&Tensor]) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let of_weight =
            |w: &&Tensor| w.name.iter().flat_map(|name| "_".chars().chain(name.chars().map(legal))).collect::<String>();
        let weights: String = weights.iter().map(of_weight).collect::<String>().chars().take(NAME_CHARS).collect();
        unused(&format!("{family}{weights}"), |name| self.kernels.iter().any(|kernel| kernel.name == name))
    }

    /// Tells the kernels of a second sort from those of the first.
    fn sort_suffix(&self) -> String {
        let suffix = |name: &str| name.trim_start_matches("sort").to_string();
        let is_of = |kernel: &Kernel, suffix: &str| {
            ["sort", "sort_count"].iter().any(|first| kernel.name.strip_prefix(first) == Some(suffix))
        };
        suffix(&unused("sort", |name| self.kernels.iter().any(|kernel| is_of(kernel, &suffix(name)))))
    }
}

fn check_pointwise(op: Op, body: &Body) -> Result<(), ScheduleError> {
    if body.is_pointwise() {
        return Ok(());
    }
    let strange = body.nodes().iter().find_map(|node| match node {
        Node::Apply(Op::Pointwise(_), _) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
        Node::Apply(inner, _) => Some(*inner),
    });
    strange.map_or(Ok(()), |inner| Err(ScheduleError::Body { op: inner, inside: op }))
}

/// A kernel's sizes are small enough to count in i32, and there is something to count.
fn check_extents(ty: &Type) -> Result<(), ScheduleError> {
    let wrong = |what: Counted, value: u64, most: u64| Err(ScheduleError::Extent { what, value, most });
    match ty {
        Type::Tensor { shape, .. } => shape.iter().try_for_each(|dim| match dim {
            Dim::Const(n) if !(1..=MOST_EXTENT).contains(n) => wrong(Counted::Dimension, *n, MOST_EXTENT),
            Dim::Const(_) | Dim::Tokens | Dim::Pairs => Ok(()),
        }),
        Type::Slots { experts, slots } if experts.saturating_mul(*slots) > MOST_EXTENT => {
            wrong(Counted::Slots, experts.saturating_mul(*slots), MOST_EXTENT)
        }
        Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => Ok(()),
    }
}

/// What a body makes must have a number for each of its op's.
fn check_result(op: Op, result: &Tensor, columns: u64) -> Result<(), ScheduleError> {
    if result.shape.len() == 2 && constant(result, 1) == columns {
        return Ok(());
    }
    Err(ScheduleError::Operand { op, what: "a body that makes something of another shape".to_string() })
}

/// The largest extent of one dimension: kernels count in i32 along a row, with room for a tile more.
const MOST_EXTENT: u64 = 1 << 30;
/// Most characters that the names of the weights give to a kernel's.
const NAME_CHARS: usize = 48;

fn pointwise_alone(op: Op) -> ScheduleError {
    ScheduleError::Unfused { op, rewrite: "the body of the `gemm`, `grouped_gemm` or `combine` before it" }
}

/// The arguments in the order of the kernel's parameters.
fn in_order(kernel: &Kernel, mut args: Vec<Arg>) -> Result<Vec<Arg>, ScheduleError> {
    let wrong = |param: &str| ScheduleError::Wiring { kernel: kernel.name.clone(), param: param.to_string() };
    let place = |arg: &Arg| kernel.params.iter().position(|param| param.name == arg.param);
    args.sort_by_key(|arg| place(arg).unwrap_or(usize::MAX));
    let is_apart = |(arg, param): (&Arg, &Param)| arg.param != param.name;
    match args.iter().zip(&kernel.params).find(|both| is_apart(*both)) {
        Some((_, param)) => Err(wrong(&param.name)),
        None if args.len() > kernel.params.len() => Err(wrong(&args[kernel.params.len()].param)),
        None if args.len() < kernel.params.len() => Err(wrong(&kernel.params[args.len()].name)),
        None => Ok(args),
    }
}

/// An argument, by the name of its parameter.
fn arg(param: &str, given: impl Into<Given>) -> Arg {
    Arg { param: param.to_string(), given: given.into() }
}

fn tokens() -> Arg {
    arg("tokens", Extent::Tokens)
}

fn sequence_tokens() -> Arg {
    arg("sequence_tokens", Span::Sequence.tokens())
}

/// The operands of a body, which its kernel calls `v1`, `v2`, ..
fn operands_of<'t>(tensors: impl IntoIterator<Item = &'t Tensor>) -> impl Iterator<Item = Arg> {
    tensors.into_iter().enumerate().map(|(i, tensor)| arg(&operand_name(i), tensor.buffer))
}
