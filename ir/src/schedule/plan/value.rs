//! What nodes of a graph are to the kernels that use them, and what a kernel takes.

use std::borrow::Cow;
use std::rc::Rc;

use super::super::buffers::BufferId;
use super::super::combine::{Columns, Spread};
use super::super::gemm::Gemm;
use super::super::{ScheduleError, route};
use super::arg;
use crate::graph::{Attr, Dim, Op, Span};
use crate::kernel::Arg;
use crate::{DType, Extent};

/// What a node of the graph is to the kernels that use it.
#[derive(Clone)]
pub(super) enum Value<'g> {
    Tensor(Tensor),
    /// What tokens pick, without rows.
    Picks(Picks),
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
    /// Sums that only a caller reads, perhaps in parts.
    Sums(BufferId),
    /// What a weight becomes after a batch: its own memory.
    Updated(BufferId),
    /// A product that a launch will make beside others.
    Beside(Rc<Beside<'g>>),
    List(Vec<Value<'g>>),
    Attr(&'g Attr),
}

/// A product of a launch: its kernel's part, the arguments of this by name, where the result will be, and the weights.
pub(super) struct Beside<'g> {
    pub(super) spec: Gemm<'g>,
    pub(super) args: Vec<Arg>,
    pub(super) result: Tensor,
    pub(super) weights: Vec<Tensor>,
}

/// A tensor in memory.
#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) buffer: BufferId,
    pub(super) dtype: DType,
    pub(super) shape: Vec<Dim>,
    /// The grouping whose rows its rows are, if they are P.
    pub(super) pairs_of: Option<Grouping>,
    /// What the graph calls it, if it is a parameter.
    pub(super) name: Option<String>,
}

/// The picks of a route in memory, `[T, K]`.
#[derive(Clone)]
pub(super) struct Picks {
    pub(super) top_k: u64,
    pub(super) topk_experts: BufferId,
    pub(super) topk_weights: BufferId,
}

/// Where the experts of pairs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Experts {
    /// They were picked, and stand here.
    Picked(BufferId),
    /// Every token has all, in their order.
    All,
    /// A caller gives them, by other numbers or through a map: only the sort knows them.
    Given,
}

/// The pairs of a route in memory.
#[derive(Clone)]
pub(super) struct Routing {
    /// Those with rows.
    pub(super) experts: u64,
    pub(super) top_k: u64,
    /// At most so many rows.
    pub(super) rows: Extent,
    pub(super) of: Experts,
    /// Whether the rows have other weights than the picks.
    pub(super) renormed: bool,
    /// Of dropped pairs too.
    pub(super) topk_weights: BufferId,
    pub(super) row_of_pair: BufferId,
    pub(super) token_of_row: BufferId,
    pub(super) weight_of_row: BufferId,
    pub(super) offset_of_expert: BufferId,
    pub(super) tile_expert: BufferId,
    pub(super) tile_row: BufferId,
    pub(super) tile_count: BufferId,
    /// Pairs that picked each expert.
    pub(super) load_of_expert: BufferId,
    /// Pairs that each expert keeps.
    pub(super) kept_of_expert: BufferId,
    pub(super) observed: Option<Observed>,
    /// How many tokens are no padding, where some may be: `[1]`, i32.
    pub(super) token_count: Option<BufferId>,
    /// The picks that losses count, where they are not the token's own.
    pub(super) counted_experts: Option<BufferId>,
}

/// The sums of the blocks of a route.
#[derive(Clone)]
pub(super) struct Observed {
    pub(super) probability_of_block: BufferId,
    pub(super) z_of_block: BufferId,
    pub(super) blocks: Extent,
    /// The tokens whose sums are not mixed.
    pub(super) span: Span,
}

/// Rows that no token decides.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Slots {
    pub(super) experts: u64,
    /// Of each expert, for each sequence.
    pub(super) slots: u64,
}

/// What tells the rows of one grouping from those of another: where the pairs are, or how many slots there are.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Grouping {
    Routing(BufferId),
    Slots(Slots),
}

impl Routing {
    /// The tables by which a product finds its tiles.
    pub(super) fn tables(&self) -> Vec<Arg> {
        let tables = [
            ("tile_expert", self.tile_expert),
            ("tile_row", self.tile_row),
            ("tile_count", self.tile_count),
            ("offset_of_expert", self.offset_of_expert),
        ];
        tables.map(|(name, buffer)| arg(name, buffer)).to_vec()
    }

    pub(super) fn grouping(&self) -> Grouping {
        Grouping::Routing(self.row_of_pair)
    }

    /// The experts of the picks, for a kernel that asks; `None`: all, in their order.
    pub(super) fn topk_experts(&self, op: Op) -> Result<Option<BufferId>, ScheduleError> {
        match self.of {
            Experts::Picked(experts) => Ok(Some(experts)),
            Experts::All => Ok(None),
            Experts::Given => Err(ScheduleError::Operand { op, what: "a routing that a caller gives".to_string() }),
        }
    }
}

impl Slots {
    /// Rows of one expert, all sequences together.
    pub(super) fn rows_of_expert(self) -> Extent {
        Span::Sequence.count() * self.slots
    }
}

/// What a value groups rows by.
pub(super) fn grouping_of(value: &Value<'_>) -> Option<Grouping> {
    match value {
        Value::Routing(routing) => Some(routing.grouping()),
        Value::Slots(slots) => Some(Grouping::Slots(*slots)),
        Value::Tensor(_) | Value::Picks(_) | Value::ExpertRows(_) | Value::PairWeights(_) | Value::PickWeights { .. } => None,
        Value::Sums(_) | Value::Updated(_) | Value::Beside(_) | Value::List(_) | Value::Attr(_) => None,
    }
}

/// Rows have a number in one grouping only.
pub(super) fn same_pairs(op: Op, tensor: &Tensor, grouping: Option<Grouping>) -> Result<(), ScheduleError> {
    match tensor.pairs_of {
        Some(of) if grouping != Some(of) => {
            let what = match of {
                Grouping::Routing(_) => "the pairs of another routing",
                Grouping::Slots(_) => "the slots of another grouping",
            };
            Err(ScheduleError::Operand { op, what: what.to_string() })
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn tensor<'v>(op: Op, value: &'v Value<'_>) -> Result<&'v Tensor, ScheduleError> {
    match value {
        Value::Tensor(tensor) => Ok(tensor),
        Value::ExpertRows(_)
        | Value::PairWeights(_)
        | Value::PickWeights { .. }
        | Value::Picks(_)
        | Value::Routing(_)
        | Value::Slots(_)
        | Value::Sums(_)
        | Value::Updated(_)
        | Value::Beside(_)
        | Value::List(_)
        | Value::Attr(_) => Err(wrong(op, std::slice::from_ref(value))),
    }
}

/// What `route` takes beside its logits.
pub(super) fn beside_logits(v: &Tensor, experts: u64) -> Result<route::Operand, ScheduleError> {
    match v.shape[..] {
        [Dim::Const(n)] if n <= experts => Ok(route::Operand::Vector { dtype: v.dtype, len: n as u32 }),
        [Dim::Const(rows), Dim::Const(_)] if v.dtype == DType::I32 => Ok(route::Operand::Table { rows: rows as u32 }),
        [Dim::Tokens] if v.dtype == DType::I32 => Ok(route::Operand::OfTokens),
        _ => {
            let shape: Vec<String> = v.shape.iter().map(ToString::to_string).collect();
            Err(ScheduleError::Operand { op: Op::Route, what: format!("[{}] beside its logits", shape.join(", ")) })
        }
    }
}

pub(super) fn wrong(op: Op, operands: &[Value<'_>]) -> ScheduleError {
    let what: Vec<Cow<'_, str>> = operands
        .iter()
        .map(|value| match value {
            Value::Tensor(_) => "a tensor".into(),
            Value::Picks(_) => "picks".into(),
            Value::Routing(_) => "a routing".into(),
            Value::Slots(_) => "slots".into(),
            Value::ExpertRows(_) => "the rows of experts".into(),
            Value::PairWeights(_) => "the weights of pairs".into(),
            Value::PickWeights { .. } => "the weights of picks".into(),
            Value::Sums(_) => "sums that only a caller reads".into(),
            Value::Updated(_) => "an updated weight".into(),
            Value::Beside(_) => "a part of a launch".into(),
            Value::List(list) => format!("a list of {}", list.len()).into(),
            Value::Attr(attr) => attr.to_string().into(),
        })
        .collect();
    ScheduleError::Operand { op, what: what.join(", ") }
}

/// The extent of a dimension that is known; types were checked.
pub(super) fn constant(tensor: &Tensor, dim: usize) -> u64 {
    match tensor.shape.get(dim) {
        Some(Dim::Const(n)) => *n,
        Some(Dim::Tokens | Dim::Pairs) | None => 0,
    }
}

/// What is read beside `[M, N]`, and how it lies over it.
pub(super) fn beside<'v>(op: Op, value: &'v Value<'_>, columns: u64) -> Result<(Spread, &'v Tensor), ScheduleError> {
    // Columns divide N: types were checked.
    let each = |n: u64| (n > 1).then(|| (columns / n) as u32);
    if let Value::PickWeights { weights, first, top_k } = value {
        let each = each(constant(weights, 1));
        return Ok((Spread::Columns(Columns { pitch: *top_k as u32, first: *first as u32, each }), weights));
    }
    let v = tensor(op, value)?;
    let spread = match v.shape[..] {
        [Dim::Const(1)] => Spread::One,
        [Dim::Tokens] => Spread::Columns(Columns { pitch: 1, first: 0, each: None }),
        [_] => Spread::Row,
        [_, Dim::Const(n)] if n < columns || n == 1 => Spread::Columns(Columns { pitch: n as u32, first: 0, each: each(n) }),
        _ => Spread::Full,
    };
    Ok((spread, v))
}
