//! Types: no symbolic algebra, only three kinds of extent.

use std::fmt;

use super::Attr;
use crate::DType;

/// The extent of one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// Known when the layer is compiled.
    Const(u64),
    /// T: tokens in the batch.
    Tokens,
    /// P: rows of a grouping: (token, expert) pairs that are kept, at most T times the picks of a token, or the slots of
    /// all sequences.
    Pairs,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// A dense row-major array.
    Tensor {
        /// Outermost first.
        shape: Vec<Dim>,
        /// Element type.
        dtype: DType,
    },
    /// For each token `top_k` of `experts` and `rowless`, each with a weight; best first, but for `all_experts`.
    Picks {
        /// K.
        top_k: u64,
        /// E.
        experts: u64,
        /// Experts from number E on whose pairs get no rows.
        rowless: u64,
        /// Whether a token may have an expert twice.
        repeats: bool,
        /// Whether each token has the number of `best_score`.
        ranked: bool,
        /// Whether a token may be padding, whose picks are of no expert.
        masked: bool,
    },
    /// Picks, and the kept pairs in the order of the grouped rows.
    Routing {
        /// K.
        top_k: u64,
        /// E.
        experts: u64,
        /// Experts from number E on whose pairs get no rows.
        rowless: u64,
    },
    /// Rows that no token decides, as many of each expert.
    Slots {
        /// E.
        experts: u64,
        /// Of each expert, for each sequence.
        slots: u64,
    },
    /// Several values.
    List(Vec<Type>),
    /// A constant; its value is part of the type.
    Attr(Attr),
}

impl Type {
    /// A tensor type.
    pub fn tensor(shape: &[Dim], dtype: DType) -> Type {
        Type::Tensor { shape: shape.to_vec(), dtype }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Tokens => f.write_str("T"),
            Dim::Pairs => f.write_str("P"),
        }
    }
}

/// Those with rows, and those without: `12 + 4`.
struct Experts(u64, u64);

impl fmt::Display for Experts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Experts(experts, 0) => write!(f, "{experts}"),
            Experts(experts, rowless) => write!(f, "{experts} + {rowless}"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor { shape, dtype } => {
                f.write_str("tensor<")?;
                for dim in shape {
                    write!(f, "{dim} x ")?;
                }
                write!(f, "{dtype}>")
            }
            Type::Picks { top_k, experts, rowless, repeats, ranked, masked } => {
                let words = [(repeats, ", repeats"), (ranked, ", ranked"), (masked, ", masked")];
                let words: String = words.into_iter().filter(|(is, _)| **is).map(|(_, word)| word).collect();
                write!(f, "picks<T x {top_k} of {}{words}>", Experts(*experts, *rowless))
            }
            Type::Routing { top_k, experts, rowless } => write!(f, "routing<T x {top_k} of {}>", Experts(*experts, *rowless)),
            Type::Slots { experts, slots } => write!(f, "slots<{experts} x {slots}>"),
            Type::List(types) => {
                f.write_str("[")?;
                for (i, ty) in types.iter().enumerate() {
                    write!(f, "{}{ty}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Type::Attr(attr) => write!(f, "{attr}"),
        }
    }
}
