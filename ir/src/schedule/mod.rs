//! How work is cut up: each op of a rewritten layer becomes one kernel family, pure values become buffers.
//!
//! [`schedule`] chooses nothing that rewriting could choose: ops are taken one by one, in the graph's order, and an op
//! that no kernel computes by itself is an error. What a kernel does inside is in its file: `route`, `order`, `sort`, `choose`,
//! `renorm`, `gemm`, `combine`, `kept_input`, `normalise`, `jitter`, `mask`, `softmax`, `mix`, `losses`, `bias_update`. Grids
//! depend on T and S alone, never on the routing.
//!
//! Results of plain names (`y`) are outputs, in memory that the caller gives. The others a caller may read after a run, by their names.
//! `import` gives a layer these:
//!
//! | name                | type        | meaning                                                    |
//! |---------------------|-------------|------------------------------------------------------------|
//! | `route.experts`     | i32 `[T, K]`| the experts of each token, best first                      |
//! | `route.weights`     | f32 `[T, K]`| their weights, before what is done to those of kept pairs  |
//! | `route.counted`     | i32 `[T, K]`| the experts that losses count in their place, where they do |
//! | `route.rows`        | i32 `[T, K]`| grouped row of each pair, by expert; -1: it has none       |
//! | `stats.load`        | i32 `[E]`   | pairs that picked each expert                              |
//! | `stats.kept`        | i32 `[E]`   | of these, pairs that it had room for                       |
//! | `stats.tokens`      | i32 `[1]`   | tokens that are no padding, where some may be              |
//! | `stats.probability` | f32 `[B, E]`| the router's probabilities, summed over the tokens of each of B blocks |
//! | `stats.z`           | f32 `[B]`   | `logsumexp(logits)^2`, likewise                            |
//! | `stats.importance`  | f32 `[E]`   | these probabilities, summed over all tokens                |
//! | `stats.aux_loss`    | f32 `[1]`   | the balance loss times its factor                          |
//! | `stats.z_loss`      | f32 `[1]`   | the mean of z over the tokens, times its factor            |
//! | `soft.dispatch`     | f32 `[T, N]`| weight of each token in each slot, N of all experts        |
//! | `soft.combine`      | f32 `[T, N]`| weight of each slot in each token                          |
//!
//! Probabilities and z are there where the graph observes them, importance and losses where it asks for losses, `soft.dispatch`
//! and `soft.combine` in soft routing, which has none of the others.
//!
//! Where experts choose (`all_experts`) K = E and a token's experts are 0, 1, .. in this order: `route.weights` has their
//! scores, `route.rows` says which of them took the token, `stats.load` is what they took,
//! and there is no `route.experts`.
//!
//! E counts the experts without rows too, after those with: room for their pairs there is none. Those of `joint` come last
//! among a token's, and K counts them.
//!
//! Of a token that is padding, experts are -1, weights 0 and rows -1, and nothing else here counts it; `stats.tokens` stands
//! in the place of T in the losses.
//!
//! Sums over the tokens are there in parts, B of them, which the caller adds up.

mod bias_update;
mod body;
mod buffers;
mod choose;
mod chunk;
mod combine;
mod gemm;
mod halves;
mod jitter;
mod kept_input;
pub mod limits;
mod losses;
mod mask;
mod math;
mod mix;
mod normalise;
mod order;
mod plan;
mod rank;
mod regimes;
mod renorm;
mod route;
mod row_loop;
mod softmax;
mod sort;
mod straight;

use std::fmt;

use egg::Id;

use crate::graph::{Attr, Node, OUTPUT, Op, Pointwise, Regime, Type, Typed, is_output};
use crate::kernel::Program;
use crate::tiling;
use crate::{Extent, Machine};
use buffers::{BufferId, Buffers, extent};
use plan::Plan;

/// Why a well-typed layer has no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// An op that should have become part of another one.
    #[error("no kernel computes `{}` by itself: {rewrite} should have taken it", .op.name())]
    Unfused {
        /// The op.
        op: Op,
        /// The rewrite that takes it where it can be taken.
        rewrite: &'static str,
    },
    /// An op in a body that its kernel cannot compute there.
    #[error("`{}` cannot stand in the body of `{}`", .op.name(), .inside.name())]
    Body {
        /// The op.
        op: Op,
        /// The fused op.
        inside: Op,
    },
    /// An operand that a kernel does not take.
    #[error("`{}` does not take {what}", .op.name())]
    Operand {
        /// The op.
        op: Op,
        /// What it was given.
        what: String,
    },
    /// A node that no layer has outside of bodies.
    #[error("a layer does not take {what}")]
    Leaf {
        /// What it is.
        what: String,
    },
    /// More than a block has room for.
    #[error("`{}` needs {bytes} bytes of shared memory, but a block of {machine} has {limit}", .op.name())]
    Shared {
        /// The op.
        op: Op,
        /// What it needs.
        bytes: u64,
        /// What there is.
        limit: u64,
        /// Where.
        machine: &'static str,
    },
    /// A kernel that is not given what it takes: a mistake of this room.
    #[error("`{kernel}` and its launch do not agree on the argument `{param}`")]
    Wiring {
        /// The kernel's name.
        kernel: String,
        /// Name of the first parameter without an argument, or argument without a parameter.
        param: String,
    },
    /// What a caller may read after a run is not alike at all batch sizes.
    #[error("the graphs of the layer do not all give `{name}`, or not in one shape")]
    Public {
        /// The public name.
        name: String,
    },
    /// A size that kernels do not count to, or nothing to count.
    #[error("{what} is {value}: kernels take 1 to {most}")]
    Extent {
        /// Of what.
        what: Counted,
        /// How much.
        value: u64,
        /// The most there may be.
        most: u64,
    },
    /// A layer whose result no kernel writes.
    #[error(
        "the layer's result `{name}` is {what}, which no kernel writes: of the output only what a `gemm`, a `combine`, a `soft_combine`, an `rms_norm`, a `mask_tokens` or a softmax gives is written to the output"
    )]
    Result {
        /// Its name.
        name: String,
        /// What it is.
        what: String,
    },
}

/// What kernels count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Elements along one dimension.
    Dimension,
    /// Slots of soft routing.
    Slots,
    /// Experts of a token.
    Picks,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Dimension => "a dimension",
            Counted::Slots => "the slots of all experts",
            Counted::Picks => "the picks of a token",
        })
    }
}

/// The op whose kernels have such names (`route_router`); `None`: it is no kernel's of this room.
#[must_use]
pub fn op_of(kernel: &str) -> Option<Op> {
    /// Kernels that are one of several of an op.
    const PARTS: [(&str, Op); 4] =
        [("route_and_sort", Op::Route), ("sort", Op::Assign), ("order", Op::Assign), ("choose", Op::Assign)];
    let is_of = |name: &str| kernel.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    let named = Op::ALL.iter().map(|op| (op.name(), *op)).chain(PARTS).filter(|(name, _)| is_of(name));
    named.max_by_key(|(name, _)| name.len()).map(|(_, op)| op)
}

/// The parameter of the i-th operand of a body, from 0 on.
fn operand_name(i: usize) -> String {
    format!("v{}", i + 1)
}

/// Most (token, expert) pairs of a batch, dropped ones included, or (token, slot) pairs: kernels number them in i32. The caller
/// that bounds T keeps `T * K`, or T times the slots of all experts, below.
pub const MOST_PAIRS: u64 = 1 << 30;

/// The kernels of a layer and how they are launched. All programs that come out are valid: `kernel::verify` has nothing
/// to say. Nothing is launched for T = 0.
///
/// # Errors
/// [`ScheduleError`]: an op that a rewrite should have fused, operands or a result that no kernel has, sizes beyond what kernels
/// count or a block can share.
pub fn schedule(layer: &Typed, machine: &Machine) -> Result<Program, ScheduleError> {
    Ok(scheduled(layer, machine)?.0)
}

/// Of each launch of a layer's batches, in their order, the node that it is of: a shared launch is of its [`Op::Launch`].
///
/// # Errors
/// Those of [`schedule`].
pub fn launching_nodes(layer: &Typed, machine: &Machine) -> Result<Vec<Id>, ScheduleError> {
    Ok(scheduled(layer, machine)?.1)
}

fn scheduled(layer: &Typed, machine: &Machine) -> Result<(Program, Vec<Id>), ScheduleError> {
    let mut buffers = Buffers::default();
    let params = layer.graph().params.iter().map(|(param, ty)| buffers.param(param, ty)).collect();
    let output = output(layer, &mut buffers)?;
    let mut plan = Plan::new(layer, machine, tile_rows(layer, machine), params, output, buffers);
    let result = layer.graph().result(OUTPUT);
    let mut nodes = Vec::new();
    for (id, node) in layer.graph().nodes.items() {
        plan.add(node, layer.ty(id), Some(id) == result)?;
        nodes.resize(plan.launches(), id);
    }
    Ok((plan.finish()?, nodes))
}

/// As [`schedule`], of a layer that has a graph for each range of T: what regimes have in common is there once.
///
/// # Errors
/// Those of [`schedule`], and [`ScheduleError::Public`].
pub fn schedule_regimes(regimes: &[Regime<Typed>], machine: &Machine) -> Result<Program, ScheduleError> {
    let programs = regimes.iter().map(|regime| Ok((regime.tokens_up_to, schedule(&regime.graph, machine)?)));
    regimes::merged(programs.collect::<Result<_, _>>()?)
}

/// Rows of the highest tile of the grouped products.
fn tile_rows(layer: &Typed, machine: &Machine) -> Option<u32> {
    let of = |node: &Node| match node {
        Node::Apply(Op::GroupedGemm, operands) => match layer.node(*operands.last()?) {
            Node::Attr(Attr::Tiling(tiling) | Attr::Beside(tiling)) => Some(tiling.rows),
            Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => Some(tiling::most_rows(machine)),
        },
        Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => None,
    };
    layer.graph().nodes.as_ref().iter().filter_map(of).max()
}

/// The buffer of the layer's output, if that is one that a kernel writes entirely. A graph without it has others, which are the
/// buffers of the values that they name.
fn output(layer: &Typed, buffers: &mut Buffers) -> Result<Option<BufferId>, ScheduleError> {
    let result = |what: String| ScheduleError::Result { name: OUTPUT.to_string(), what };
    let Some(root) = layer.graph().result(OUTPUT) else {
        let has_others = layer.graph().results().any(|(name, _)| is_output(name));
        return if has_others { Ok(None) } else { Err(result("nothing".to_string())) };
    };
    let made = match layer.node(root) {
        Node::Apply(Op::Gemm | Op::Combine | Op::SoftCombine | Op::RmsNorm | Op::Pointwise(Pointwise::MaskTokens), _) => true,
        Node::Apply(Op::Softmax | Op::TokenSoftmax, _) => true,
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) => false,
        // Others have errors of their own, but for this one: rows beyond P would stay unwritten.
        Node::Apply(Op::GroupedGemm | Op::SoftDispatch | Op::DroppedInput | Op::IdentityInput, _) => false,
        Node::Apply(op, _) => !matches!(op, Op::Flatten | Op::Jitter | Op::Item),
    };
    match layer.ty(root) {
        Type::Tensor { shape, dtype } if made => {
            Ok(Some(buffers.output(*dtype, shape.iter().map(|dim| extent(*dim, &Extent::Tokens)).collect())))
        }
        ty => Err(result(ty.to_string())),
    }
}
