//! What ops take and give: arrays of f64, picks, routings and slots.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Observation;
use crate::Dims;
#[cfg(doc)]
use crate::graph::Op;
use crate::graph::{Attr, Dim, Type};

/// A dense row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// As many as the product of the shape.
    pub data: Numbers,
}

/// The numbers of a tensor. Clones share them until one is written to, so that a weight of a layer is in memory once.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers(Arc<Vec<f64>>);

impl Numbers {
    /// Whether both are the same memory.
    pub fn is_shared_with(&self, other: &Numbers) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Vec<f64>> for Numbers {
    fn from(numbers: Vec<f64>) -> Numbers {
        Numbers(Arc::new(numbers))
    }
}

impl Deref for Numbers {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.0
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut [f64] {
        Arc::<Vec<f64>>::make_mut(&mut self.0)
    }
}

impl<'n> IntoIterator for &'n Numbers {
    type Item = &'n f64;
    type IntoIter = std::slice::Iter<'n, f64>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: AsRef<[f64]> + ?Sized> PartialEq<T> for Numbers {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// For each token its experts, best first, and their weights: both `[T, K]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Picks {
    /// K.
    pub top_k: usize,
    /// E.
    pub experts: usize,
    /// Experts from number E on whose pairs get no rows.
    pub rowless: usize,
    /// Expert of pair `t * K + j`; [`NO_EXPERT`]: the token is padding.
    pub expert_of_pair: Vec<usize>,
    /// Its weight.
    pub weight_of_pair: Vec<f64>,
    /// What `best_score` says of each token: by this, and no weight, `batch_prioritized` goes.
    pub best_of_token: Option<Vec<f64>>,
    /// The experts that `losses` counts, `[T, K]`; `None`: these.
    pub counted: Option<Vec<usize>>,
    /// What `observe` says of each token.
    pub observed: Option<Observation>,
}

/// The expert of a token that is padding.
pub const NO_EXPERT: usize = usize::MAX;

/// Picks with the grouped rows: the kept pairs by expert, then, here, by priority.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// All picks, also those that were dropped.
    pub picks: Picks,
    /// Row of pair `t * K + j`; `None`: dropped, or its expert has no rows.
    pub row_of_pair: Vec<Option<usize>>,
    /// Pair of each row.
    pub pair_of_row: Vec<usize>,
}

/// Rows that no token decides: see [`Op::Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// E.
    pub experts: usize,
    /// Of each expert and sequence.
    pub slots: usize,
    /// Tokens of a sequence, at least 1; the last one may be shorter.
    pub sequence_tokens: usize,
    /// Number of sequences.
    pub sequences: usize,
}

/// The value of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An array.
    Tensor(Tensor),
    /// Experts and weights.
    Picks(Picks),
    /// Picks and grouped rows.
    Routing(Routing),
    /// Rows of experts that no token decides.
    Slots(Slots),
    /// Several values.
    List(Vec<Value>),
    /// A constant.
    Attr(Attr),
}

impl Routing {
    pub(super) fn tokens(&self) -> usize {
        self.row_of_pair.len() / self.picks.top_k
    }

    /// Whether the expert of a pair is one with rows.
    pub(super) fn has_rows(&self, pair: usize) -> bool {
        self.picks.expert_of_pair[pair] < self.picks.experts
    }
}

impl Slots {
    pub(super) fn rows(&self) -> usize {
        self.experts * self.sequences * self.slots
    }

    /// `f(token, slot, row)` for each token and each slot of its sequence.
    pub(super) fn each(&self, tokens: usize, mut f: impl FnMut(usize, usize, usize)) {
        for t in 0..tokens {
            for i in 0..self.experts * self.slots {
                f(t, i, (i / self.slots * self.sequences + t / self.sequence_tokens) * self.slots + i % self.slots);
            }
        }
    }
}

/// The expert of each row of a grouping.
pub(super) fn expert_of_row(grouping: &Value) -> Result<Vec<usize>, String> {
    match grouping {
        Value::Routing(r) => Ok(r.pair_of_row.iter().map(|pair| r.picks.expert_of_pair[*pair]).collect()),
        Value::Slots(slots) => Ok((0..slots.rows()).map(|row| row / (slots.sequences * slots.slots)).collect()),
        Value::Tensor(_) | Value::Picks(_) | Value::List(_) | Value::Attr(_) => Err("neither a routing nor slots".to_string()),
    }
}

/// Two groupings of one layer have the same types, but not the same rows.
pub(super) fn accepts(wanted: usize, rows: &Tensor) -> Result<(), String> {
    let given = rows.shape[0];
    if given == wanted { Ok(()) } else { Err(format!("{given} rows of another grouping for {wanted}")) }
}

impl Picks {
    /// No token's picks.
    pub(super) fn none(top_k: usize, experts: usize) -> Picks {
        let (expert_of_pair, weight_of_pair) = (Vec::new(), Vec::new());
        Picks { top_k, experts, rowless: 0, expert_of_pair, weight_of_pair, best_of_token: None, counted: None, observed: None }
    }

    /// E, with the experts without rows.
    pub(super) fn columns(&self) -> usize {
        self.experts + self.rowless
    }

    /// Whether a token has no expert.
    pub fn is_padding(&self, token: usize) -> bool {
        self.expert_of_pair[token * self.top_k] == NO_EXPERT
    }

    pub(super) fn map_rows(&self, f: impl Fn(&mut [f64])) -> Picks {
        let mut picks = self.clone();
        picks.weight_of_pair.chunks_mut(self.top_k).for_each(f);
        picks
    }
}

impl Tensor {
    /// Of numbers as many as the product of the shape.
    pub fn new(shape: Vec<usize>, data: Vec<f64>) -> Tensor {
        Tensor { shape, data: data.into() }
    }

    /// Whether it is a value of that type.
    pub(super) fn fits(&self, ty: &Type, dims: Dims) -> bool {
        let Type::Tensor { shape, .. } = ty else { return false };
        let fits = |(dim, n): (&Dim, &usize)| match dim {
            Dim::Const(wanted) => *wanted == *n as u64,
            Dim::Tokens => dims.tokens == *n as u64,
            Dim::Pairs => true,
        };
        let elements = self.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        self.shape.len() == shape.len() && shape.iter().zip(&self.shape).all(fits) && elements == Some(self.data.len())
    }

    pub(super) fn map(&self, f: impl Fn(f64) -> f64) -> Tensor {
        Tensor::new(self.shape.clone(), self.data.iter().map(|x| f(*x)).collect())
    }
}

pub(super) fn tensor(v: &Value) -> Result<&Tensor, String> {
    match v {
        Value::Tensor(t) => Ok(t),
        Value::Picks(_) | Value::Routing(_) | Value::Slots(_) | Value::List(_) | Value::Attr(_) => {
            Err("not a tensor".to_string())
        }
    }
}
