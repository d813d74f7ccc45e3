//! What a caller is given of a scheduled layer: public names of buffers, and which of them are statistics.

use egg::Id;

use super::super::ScheduleError;
use super::Plan;
use super::value::Value;
use crate::Statistics;
use crate::facts::Count;
use crate::graph::{Attr, Losses, Node, OUTPUT, Op, Part, Type, is_output};

impl Plan<'_> {
    /// Gives the results their names.
    pub(super) fn name_results(&mut self) -> Result<(), ScheduleError> {
        let layer = self.layer;
        for (name, id) in layer.graph().results() {
            let value = &self.values[usize::from(id)];
            let buffer = match value {
                Value::Tensor(tensor) if name == OUTPUT && Some(tensor.buffer) == self.output => continue,
                Value::Updated(weight) if Some(*weight) == self.weight(name) => continue,
                Value::Tensor(tensor) | Value::PickWeights { weights: tensor, first: 0, .. } if !name.starts_with('@') => {
                    Some(tensor.buffer)
                }
                Value::Sums(buffer) if !name.starts_with('@') => Some(*buffer),
                Value::Tensor(_)
                | Value::PickWeights { .. }
                | Value::Sums(_)
                | Value::Updated(_)
                | Value::Picks(_)
                | Value::Routing(_)
                | Value::Slots(_) => None,
                Value::ExpertRows(_) | Value::PairWeights(_) | Value::Beside(_) | Value::List(_) | Value::Attr(_) => None,
            };
            let published = buffer.and_then(|buffer| match is_output(name) {
                true => self.buffers.give_out(buffer, name),
                false => self.buffers.publish(buffer, name),
            });
            published.ok_or_else(|| ScheduleError::Result { name: name.to_string(), what: layer.ty(id).to_string() })?;
        }
        Ok(())
    }

    /// The statistics among the results: those of the first routing that has any.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        let layer = self.layer;
        let count = |id: Id| -> Option<(Id, Count)> {
            let Node::Apply(Op::Part | Op::Item, operands) = layer.node(id) else { return None };
            match (layer.node(operands[0]), layer.node(operands[1])) {
                (Node::Apply(Op::Losses, of), Node::Attr(Attr::Num(n))) => match layer.node(of[1]) {
                    Node::Attr(Attr::Losses(rule)) => Some((of[0], loss(rule, *n)?)),
                    Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => None,
                },
                (_, Node::Attr(Attr::Part(part))) => Some((operands[0], counted(*part)?)),
                (_, _) => None,
            }
        };
        let counts: Vec<(&str, Id, Count)> =
            layer.graph().results().filter_map(|(name, id)| count(id).map(|(routing, count)| (name, routing, count))).collect();
        let routing = counts.first()?.1;
        let names = counts.into_iter().filter(|(_, of, _)| *of == routing).map(|(name, _, count)| (count, name.to_string()));
        let names: Vec<(Count, String)> = names.collect();
        let has = |wanted: Count| names.iter().any(|(count, _)| *count == wanted);
        match (layer.ty(routing), &self.values[usize::from(routing)]) {
            (Type::Routing { top_k, experts, rowless }, Value::Routing(scheduled)) if has(Count::Load) && has(Count::Kept) => {
                let by_sequence = scheduled.observed.as_ref().is_some_and(|observed| observed.span.is_sequence());
                Some(Statistics { top_k: *top_k, experts: *experts, rowless: *rowless, by_sequence, names })
            }
            (_, _) => None,
        }
    }
}

fn counted(part: Part) -> Option<Count> {
    match part {
        Part::Experts => Some(Count::Experts),
        Part::Rows => Some(Count::Rows),
        Part::Load => Some(Count::Load),
        Part::Kept => Some(Count::Kept),
        Part::Tokens => Some(Count::Tokens),
        Part::Probability => Some(Count::Probability),
        Part::Z => Some(Count::Z),
        Part::Counted => None,
    }
}

/// The n-th of what `losses` gives.
fn loss(rule: &Losses, n: u64) -> Option<Count> {
    let given = [Some(Count::Importance), rule.balance.map(|_| Count::AuxLoss), rule.z.map(|_| Count::ZLoss)];
    given.into_iter().flatten().nth(usize::try_from(n).ok()?)
}
