//! The formulas of a manifest as a list of operations, each done once: what a launcher evaluates for each batch.

use std::collections::HashMap;

use moec_runtime::package::{Extent, Round, WORKSPACE_ALIGN};

use super::Refused;

/// A value: 0 is T, 1 is S, those after them are made by operations, in order.
pub(super) type Value = u32;

const TOKENS: Value = 0;
const SEQUENCE_TOKENS: Value = 1;
/// The value of the first operation.
pub(super) const FIRST: Value = 2;

/// An operation on values before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Const(i64),
    Add(Value, Value),
    Mul(Value, Value),
    Div(Value, Value, Round),
    Min(Value, Value),
    Max(Value, Value),
    /// The next multiple of [`WORKSPACE_ALIGN`].
    Align(Value),
}

const ALIGN: i128 = WORKSPACE_ALIGN as i128;

/// What stands for an operation.
enum Simpler {
    Constant(i64),
    Operand(Value),
}

/// A quotient of numbers that are not negative, as the launcher computes it.
fn divided(a: i128, b: i128, round: Round) -> i128 {
    let (quotient, rest) = (a / b, a % b);
    let is_up = match round {
        Round::Floor => false,
        Round::Ceil => rest > 0,
        Round::HalfEven => rest * 2 > b || (rest * 2 == b && quotient % 2 == 1),
    };
    quotient + i128::from(is_up)
}

/// Operations, each of them once, with what their values are between.
#[derive(Clone, Debug)]
pub(super) struct Formulas {
    ops: Vec<Op>,
    bounds: Vec<(i128, i128)>,
    known: HashMap<Op, Value>,
}

impl Formulas {
    /// Of batches of up to so many tokens.
    pub(super) fn new(max_tokens: u64) -> Formulas {
        let batch = (1, i128::from(max_tokens.max(1)));
        Formulas { ops: Vec::new(), bounds: vec![batch; FIRST as usize], known: HashMap::new() }
    }

    /// Those before `from` are left out.
    pub(super) fn ops(&self, from: usize) -> &[Op] {
        &self.ops[from..]
    }

    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn constant(&mut self, value: u64) -> Result<Value, Refused> {
        let value = i64::try_from(value).map_err(|_| Refused::Formula(format!("{value} has more than 63 bits")))?;
        self.value(Op::Const(value))
    }

    /// The value of an operation that every batch can do.
    pub(super) fn value(&mut self, op: Op) -> Result<Value, Refused> {
        if let Some(value) = self.known.get(&op) {
            return Ok(*value);
        }
        match self.simpler(op) {
            Some(Simpler::Constant(value)) => return self.value(Op::Const(value)),
            Some(Simpler::Operand(value)) => return Ok(value),
            None => {}
        }
        let of = |value: Value| self.bounds[value as usize];
        let (least, most) = match op {
            Op::Const(value) => (i128::from(value), i128::from(value)),
            Op::Add(a, b) => (of(a).0 + of(b).0, of(a).1 + of(b).1),
            Op::Mul(a, b) => (of(a).0 * of(b).0, of(a).1 * of(b).1),
            Op::Div(_, b, _) if of(b).0 <= 0 => return Err(Refused::Formula("a division by 0".to_string())),
            // Rounded either way.
            Op::Div(a, b, _) => (of(a).0 / of(b).1, of(a).1.div_euclid(of(b).0) + 1),
            Op::Min(a, b) => (of(a).0.min(of(b).0), of(a).1.min(of(b).1)),
            Op::Max(a, b) => (of(a).0.max(of(b).0), of(a).1.max(of(b).1)),
            Op::Align(a) => (of(a).0, of(a).1 + ALIGN - 1),
        };
        if least < 0 || most > i128::from(i64::MAX) {
            return Err(Refused::Formula(format!("a formula between {least} and {most}")));
        }
        let value = FIRST + self.ops.len() as Value;
        self.ops.push(op);
        self.bounds.push((least, most));
        self.known.insert(op, value);
        Ok(value)
    }

    /// What need not be done for each batch: operations on constants, and those that always give one of their operands.
    fn simpler(&self, op: Op) -> Option<Simpler> {
        let of = |value: Value| self.bounds[value as usize];
        let constant = |value: Value| (of(value).0 == of(value).1).then_some(of(value).0);
        let both = |a: Value, b: Value| Some((constant(a)?, constant(b)?));
        let folded = |value: i128| i64::try_from(value).ok().map(Simpler::Constant);
        match op {
            Op::Const(_) => None,
            Op::Add(a, b) => match (constant(a), constant(b)) {
                (Some(a), Some(b)) => folded(a + b),
                (Some(0), None) => Some(Simpler::Operand(b)),
                (None, Some(0)) => Some(Simpler::Operand(a)),
                (Some(_) | None, _) => None,
            },
            Op::Mul(a, b) => match (constant(a), constant(b)) {
                (Some(a), Some(b)) => folded(a * b),
                (Some(1), None) => Some(Simpler::Operand(b)),
                (None, Some(1)) => Some(Simpler::Operand(a)),
                (Some(_) | None, _) => None,
            },
            Op::Div(a, b, round) => both(a, b).filter(|(a, b)| *a >= 0 && *b > 0).and_then(|(a, b)| folded(divided(a, b, round))),
            // An operand that is never the other side of the other one.
            Op::Min(a, b) if of(a).1 <= of(b).0 => Some(Simpler::Operand(a)),
            Op::Min(a, b) if of(b).1 <= of(a).0 => Some(Simpler::Operand(b)),
            Op::Max(a, b) if of(a).0 >= of(b).1 => Some(Simpler::Operand(a)),
            Op::Max(a, b) if of(b).0 >= of(a).1 => Some(Simpler::Operand(b)),
            Op::Min(..) | Op::Max(..) => None,
            Op::Align(a) => constant(a).and_then(|a| folded((a + ALIGN - 1) / ALIGN * ALIGN)),
        }
    }

    /// A formula's value; `tokens` in the place of T, where it is given.
    pub(super) fn extent(&mut self, extent: &Extent, tokens: Option<u64>) -> Result<Value, Refused> {
        let mut two = |a: &Extent, b: &Extent| Ok::<_, Refused>((self.extent(a, tokens)?, self.extent(b, tokens)?));
        match extent {
            Extent::Const(value) => match u64::try_from(*value) {
                Ok(value) => self.constant(value),
                Err(_) => Err(Refused::Formula(format!("the number {value}"))),
            },
            Extent::Tokens => tokens.map_or(Ok(TOKENS), |tokens| self.constant(tokens)),
            Extent::SequenceTokens => Ok(SEQUENCE_TOKENS),
            Extent::Add(a, b) => {
                let (a, b) = two(a, b)?;
                self.value(Op::Add(a, b))
            }
            Extent::Sub(..) => Err(Refused::Formula("a difference".to_string())),
            Extent::Mul(a, b) => {
                let (a, b) = two(a, b)?;
                self.value(Op::Mul(a, b))
            }
            Extent::Div(a, b, round) => {
                let (a, b) = two(a, b)?;
                self.value(Op::Div(a, b, *round))
            }
            Extent::Min(a, b) => {
                let (a, b) = two(a, b)?;
                self.value(Op::Min(a, b))
            }
            Extent::Max(a, b) => {
                let (a, b) = two(a, b)?;
                self.value(Op::Max(a, b))
            }
        }
    }

    /// The product of an element's bytes and all extents of a shape.
    pub(super) fn bytes(&mut self, element: u64, shape: &[Extent], tokens: Option<u64>) -> Result<Value, Refused> {
        let element = self.constant(element)?;
        shape.iter().try_fold(element, |product, extent| {
            let extent = self.extent(extent, tokens)?;
            self.value(Op::Mul(product, extent))
        })
    }
}
