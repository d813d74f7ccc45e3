//! What a graph of routing says, in the forms that the filter computes. Keys of a spec are read by `import` alone. A form that is not
//! found here is no error: the interpreter decides then, and gives the scores.

use egg::Id;
use moec_ir::DType;
use moec_ir::graph::{Assignment, Attr, Dim, Groups, Node, Op, Pointwise, Priority, Type, Typed, needs};

use super::score::Score;
use crate::import::{CORRECTION_BIAS, PROBABILITY, SCORE};
use crate::picker::{Picker, picker};

/// A routing mode: nodes of its graph, and what is known of them.
#[derive(Clone, Debug)]
pub(super) struct Mode {
    /// Columns of the router.
    pub(super) columns: usize,
    /// The first of them, which compete.
    pub(super) experts: usize,
    /// Picks of a token among these.
    pub(super) top_k: usize,
    /// What picks them.
    pub(super) picker: Id,
    /// The picks that a capacity serves: the first `top_k` of each token are those of `picker`, in its order.
    pub(super) picks: Id,
    /// The order in which it serves them.
    pub(super) priority: Priority,
    /// The probabilities of all columns.
    pub(super) probability: Id,
    /// The scores of all columns, by which experts would choose.
    pub(super) score: Id,
    /// How both are made of the recorded logits, if the filter can make them.
    pub(super) scores: Option<Scores>,
    /// What is picked by, if the filter can tell.
    pub(super) keys: Option<Keys>,
    /// What a pick weighs at first; `None`: the filter cannot tell what weights become.
    pub(super) weights: Option<Of>,
}

/// From recorded logits to scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scores {
    pub(super) logits: Logits,
    /// `None`: the logits are the scores, and their softmax the probabilities.
    pub(super) score: Option<Score>,
}

/// From recorded logits to those that are scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Logits {
    /// Rounded to that first, ..
    pub(super) rounded_to: Option<DType>,
    /// .. then multiplied by this, ..
    pub(super) scale: f64,
    /// .. then `tanh(x / cap) * cap`.
    pub(super) cap: Option<f64>,
}

/// What a number of a column is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Logit,
    Score,
}

/// What is picked by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Keys {
    pub(super) of: Of,
    /// With the correction bias.
    pub(super) is_biased: bool,
    pub(super) groups: Option<Groups>,
}

impl Mode {
    /// `None`: the graph assigns no picks of logits.
    pub(super) fn of(graph: &Typed) -> Option<Mode> {
        let nodes = graph.graph().nodes.items();
        let (assigned, rule) = nodes.rev().find_map(|(_, node)| match node {
            Node::Apply(Op::Assign, operands) => Some((operands[0], operands[1])),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
        })?;
        let priority = match graph.node(rule) {
            Node::Attr(Attr::Assignment(Assignment::Capacity(capacity))) => capacity.priority,
            Node::Attr(_) | Node::Apply(..) | Node::Param(_) | Node::Hole(_) => Priority::ChoiceMajor,
        };
        let (probability, score) = (graph.graph().result(PROBABILITY)?, graph.graph().result(SCORE)?);
        let Type::Tensor { shape, .. } = graph.ty(score) else { return None };
        let [_, Dim::Const(columns)] = shape[..] else { return None };
        // What is observed of picks, or counted beside them, changes none.
        let mut picks = assigned;
        while let Node::Apply(Op::Observe | Op::Counted, _) = graph.node(picks) {
            picks = picks_under(graph, picks)?;
        }
        let picked = chain(graph, picks);
        let picker = *picked.last()?;
        let Type::Picks { top_k, experts, .. } = graph.ty(picker) else { return None };
        let is_ranked_by_score = picked.iter().all(|id| match graph.node(*id) {
            Node::Apply(Op::BestScore, operands) => operands[1] == score,
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => true,
        });
        let scores = scores(graph, score).filter(|scores| {
            let probabilities = Scores { score: Some(scores.score.unwrap_or(Score::Softmax)), ..*scores };
            self::scores(graph, probability) == Some(probabilities)
        });
        let (keys, first) = scores.and_then(|scores| keys(graph, picker, scores)).filter(|_| is_ranked_by_score).unzip();
        let needs_logits = needs(graph, picks, |id| id == picker).into_iter().any(|id| is_param(graph, id, LOGITS));
        let [columns, experts, top_k] = [columns, *experts, *top_k].map(|n| n as usize);
        let weights = first.flatten().filter(|_| !needs_logits);
        Some(Mode { columns, experts, top_k, picker, picks, priority, probability, score, scores, keys, weights })
    }

    /// Whether the order of service depends on the weights.
    pub(super) fn is_by_weight(&self) -> bool {
        match self.priority {
            Priority::Score => true,
            Priority::ChoiceMajor | Priority::TokenMajor | Priority::BatchPrioritized => false,
        }
    }

    /// Whether it depends on each token's best score.
    pub(super) fn is_by_best(&self) -> bool {
        match self.priority {
            Priority::BatchPrioritized => true,
            Priority::ChoiceMajor | Priority::TokenMajor | Priority::Score => false,
        }
    }
}

impl Logits {
    /// The logit of one that is rounded already, as the interpreter has it.
    pub(super) fn exact(&self, base: f32) -> f64 {
        let x = f64::from(base) * self.scale;
        self.cap.map_or(x, |cap| (x * (1.0 / cap)).tanh() * cap)
    }
}

/// The recorded logits.
pub(super) const LOGITS: &str = "%logits";

fn is_param(graph: &Typed, id: Id, name: &str) -> bool {
    matches!(graph.node(id), Node::Param(param) if param.0 == name)
}

/// The picks that a node makes picks of.
fn picks_under(graph: &Typed, id: Id) -> Option<Id> {
    graph.node(id).operands().iter().copied().find(|id| matches!(graph.ty(*id), Type::Picks { .. }))
}

/// Picks, and those under them down to what picks.
fn chain(graph: &Typed, picks: Id) -> Vec<Id> {
    std::iter::successors(Some(picks), |id| picks_under(graph, *id)).collect()
}

/// What is picked by, and what a pick weighs at first, where that is one of these.
fn keys(graph: &Typed, picked_by: Id, of: Scores) -> Option<(Keys, Option<Of>)> {
    let Picker { keys, groups, scores: first, .. } = picker(graph).filter(|picker| picker.picks == picked_by)?;
    let (keys, is_biased) = match graph.node(keys) {
        Node::Apply(Op::Pointwise(Pointwise::Add), operands) if is_param(graph, operands[1], CORRECTION_BIAS) => {
            (operands[0], true)
        }
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => (keys, false),
    };
    let made_of = |id: Id| match scores(graph, id)? {
        Scores { logits, score: None } => (logits == of.logits).then_some(Of::Logit),
        scores => (scores == of).then_some(Of::Score),
    };
    Some((Keys { of: made_of(keys)?, is_biased, groups }, first.and_then(made_of)))
}

/// How a row of scores is made of the recorded logits, all columns or the first of them.
fn scores(graph: &Typed, id: Id) -> Option<Scores> {
    let mut id = id;
    if let Node::Apply(Op::Leading, operands) = graph.node(id) {
        id = operands[0];
    }
    let (score, of) = match graph.node(id) {
        Node::Apply(Op::Softmax, operands) => (Some(Score::Softmax), operands[0]),
        Node::Apply(Op::Pointwise(Pointwise::Sigmoid), operands) => (Some(Score::Sigmoid), operands[0]),
        Node::Apply(Op::Pointwise(Pointwise::SqrtSoftplus), operands) => (Some(Score::SqrtSoftplus), operands[0]),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => (None, id),
    };
    Some(Scores { logits: logits(graph, of)?, score })
}

/// One step from a recorded logit.
#[derive(Clone, Copy)]
enum Step {
    Cast(DType),
    Scale(f64),
    Tanh,
}

fn logits(graph: &Typed, id: Id) -> Option<Logits> {
    let mut steps = Vec::new();
    let mut id = id;
    while !is_param(graph, id, LOGITS) {
        let Node::Apply(op, operands) = graph.node(id) else { return None };
        let constant = operands.get(1).map(|id| graph.node(*id));
        steps.push(match (op, constant) {
            (Op::Pointwise(Pointwise::Cast), Some(Node::Attr(Attr::DType(dtype)))) => Step::Cast(*dtype),
            (Op::Pointwise(Pointwise::Scale), Some(Node::Attr(Attr::Real(scale)))) => Step::Scale(scale.get()),
            (Op::Pointwise(Pointwise::Tanh), None) => Step::Tanh,
            (_, _) => return None,
        });
        id = operands[0];
    }
    steps.reverse();
    let (rounded_to, steps) = match &steps[..] {
        [Step::Cast(dtype @ (DType::F32 | DType::F16 | DType::BF16)), Step::Cast(DType::F32), steps @ ..] => {
            (Some(*dtype), steps)
        }
        steps => (None, steps),
    };
    let (before, cap) = match steps {
        [before @ .., Step::Scale(inner), Step::Tanh, Step::Scale(cap)] if *inner == 1.0 / cap => (before, Some(*cap)),
        // A factor of 1 is not said.
        [before @ .., Step::Tanh] => (before, Some(1.0)),
        steps => (steps, None),
    };
    match before {
        [] => Some(Logits { rounded_to, scale: 1.0, cap }),
        [Step::Scale(scale)] => Some(Logits { rounded_to, scale: *scale, cap }),
        _ => None,
    }
}
