//! Index and scalar arithmetic: no memory, no time. Evaluate it wherever you like.

use super::{Handle, Local};
use crate::DType;

/// The type of a value: `lanes` elements side by side in one register. One lane is a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    /// Element type.
    pub elem: DType,
    /// 1, or a power of two up to 64.
    pub lanes: u32,
}

impl Ty {
    /// One element.
    pub const fn scalar(elem: DType) -> Ty {
        Ty { elem, lanes: 1 }
    }

    /// `lanes` elements.
    pub const fn vector(elem: DType, lanes: u32) -> Ty {
        Ty { elem, lanes }
    }
}

impl std::fmt::Display for Ty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.lanes == 1 { write!(f, "{}", self.elem) } else { write!(f, "{}x{}", self.elem, self.lanes) }
    }
}

/// A pure value. Operands of arithmetic have one type, which is the result's, unless said otherwise.
/// `F16` and `BF16` are storage types: cast them to `F32` to compute (only [`Expr::Dot`] takes them as they are).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A `Bool`.
    Bool(bool),
    /// An `I32` or `I64`.
    Int(i64, DType),
    /// An `F32`, by its bits (so that NaN equals itself).
    Float(u32),
    /// Where this thread is (`I32`).
    Index(Index),
    /// The value of a scalar parameter, by position.
    Param(u32),
    /// The value of a local at the statement that uses the expression.
    Local(Handle<Local>),
    /// One operand.
    Unary(Unary, Handle<Expr>),
    /// Two operands.
    Binary(Binary, Handle<Expr>, Handle<Expr>),
    /// Two integers or floats; gives `Bool` lanes. Integers are signed; a comparison with NaN is false but for `Ne`.
    Compare(Compare, Handle<Expr>, Handle<Expr>),
    /// `if c { a } else { b }`, lane by lane; `c` is `Bool` with the lanes of `a` and `b`, or one lane.
    Select(Handle<Expr>, Handle<Expr>, Handle<Expr>),
    /// `a * b + c` with one rounding (`F32`).
    Fma(Handle<Expr>, Handle<Expr>, Handle<Expr>),
    /// `acc[i] + a[2i] * b[2i] + a[2i+1] * b[2i+1]`: `acc` is `F32` with n lanes, `a` and `b` are `BF16` with 2n.
    /// Needs a [`Unit::Dot`](crate::machine::Unit::Dot) of bf16. Its bits are those of x86-64: the second product is added first, each sum is
    /// rounded to nearest. 64-bit Arm adds the products to each other and then to `acc`, and rounds both sums to odd: of numbers that are
    /// no subnormals each sum is within a unit in the last place of the exact one, in the place of half a unit.
    Dot {
        /// Accumulator.
        acc: Handle<Expr>,
        /// Left factors.
        a: Handle<Expr>,
        /// Right factors.
        b: Handle<Expr>,
    },
    /// The same number in another type: integers wrap or sign-extend, `Bool` gives 0 or 1, int to float and
    /// between floats rounds to nearest even, `F32` to int truncates and saturates (NaN gives 0).
    Cast(DType, Handle<Expr>),
    /// The same bits in another type (`F32`, `I32`, `F16`, `BF16`): two lanes of 16 bits are one of 32, the first of them its low half.
    Bitcast(DType, Handle<Expr>),
    /// A scalar in every one of `n` lanes.
    Splat(u32, Handle<Expr>),
    /// The lanes of the first, then those of the second.
    Concat(Handle<Expr>, Handle<Expr>),
    /// The lanes of a matrix of so many rows, one row after another, column after column.
    Transpose(Handle<Expr>, u32),
    /// Lanes of a vector from one on, as many as the last number says.
    Extract(Handle<Expr>, u32, u32),
    /// All lanes of an `F32` or integer vector into one, as a balanced tree: (0+n/2), (1+n/2+1), ... halving each time.
    Reduce(Reduce, Handle<Expr>),
}

impl Expr {
    /// What it is computed from, left to right.
    pub fn operands(&self) -> impl Iterator<Item = Handle<Expr>> {
        match *self {
            Expr::Bool(_) | Expr::Int(..) | Expr::Float(_) | Expr::Index(_) | Expr::Param(_) | Expr::Local(_) => [None; 3],
            Expr::Unary(_, a)
            | Expr::Cast(_, a)
            | Expr::Bitcast(_, a)
            | Expr::Splat(_, a)
            | Expr::Transpose(a, _)
            | Expr::Extract(a, ..)
            | Expr::Reduce(_, a) => [Some(a), None, None],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) | Expr::Concat(a, b) => [Some(a), Some(b), None],
            Expr::Select(a, b, c) | Expr::Fma(a, b, c) | Expr::Dot { acc: a, a: b, b: c } => [Some(a), Some(b), Some(c)],
        }
        .into_iter()
        .flatten()
    }

    /// The same computation of other operands.
    pub fn map_operands(self, f: impl Fn(Handle<Expr>) -> Handle<Expr>) -> Expr {
        match self {
            Expr::Bool(_) | Expr::Int(..) | Expr::Float(_) | Expr::Index(_) | Expr::Param(_) | Expr::Local(_) => self,
            Expr::Unary(op, a) => Expr::Unary(op, f(a)),
            Expr::Binary(op, a, b) => Expr::Binary(op, f(a), f(b)),
            Expr::Compare(op, a, b) => Expr::Compare(op, f(a), f(b)),
            Expr::Select(c, a, b) => Expr::Select(f(c), f(a), f(b)),
            Expr::Fma(a, b, c) => Expr::Fma(f(a), f(b), f(c)),
            Expr::Dot { acc, a, b } => Expr::Dot { acc: f(acc), a: f(a), b: f(b) },
            Expr::Cast(elem, a) => Expr::Cast(elem, f(a)),
            Expr::Bitcast(elem, a) => Expr::Bitcast(elem, f(a)),
            Expr::Splat(lanes, a) => Expr::Splat(lanes, f(a)),
            Expr::Concat(a, b) => Expr::Concat(f(a), f(b)),
            Expr::Transpose(a, rows) => Expr::Transpose(f(a), rows),
            Expr::Extract(a, lane, lanes) => Expr::Extract(f(a), lane, lanes),
            Expr::Reduce(op, a) => Expr::Reduce(op, f(a)),
        }
    }
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Index {
    /// Thread in its block.
    Thread,
    /// Block in the grid.
    Block,
}

/// One operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unary {
    /// `-x` (integers wrap).
    Neg,
    /// Complement of the bits, or of the truth.
    Not,
    /// `|x|` (`F32`).
    Abs,
    /// Greatest integer not above x (`F32`).
    Floor,
    /// Square root, correctly rounded (`F32`).
    Sqrt,
    /// How many of the bits are one (integers).
    CountOnes,
    /// `2^x`, within `2^-22` of itself (`F32`); subnormal numbers are taken for zero, in x and in the result. The nearest number in the
    /// interpreter: bits that depend on it are a machine's own. Needs a machine with
    /// [`approximations`](crate::Machine::approximations).
    Exp2Approx,
    /// `1 / x`, in the same way.
    ReciprocalApprox,
    /// Rounded to tf32: to 10 bits of fraction, to the nearest, ties away from zero (`F32`). Needs a machine with products of tf32.
    RoundTf32,
}

/// Two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient: correctly rounded, or truncated for integers (a divisor of zero is undefined).
    Div,
    /// Remainder with the dividend's sign (integers).
    Rem,
    /// `if b < a { b } else { a }`: a NaN in `a` stays.
    Min,
    /// `if a < b { b } else { a }`: a NaN in `a` stays.
    Max,
    /// Bits, or truths.
    And,
    /// Bits, or truths.
    Or,
    /// Bits, or truths.
    Xor,
    /// Left shift by 0..bits.
    Shl,
    /// Right shift that keeps the sign.
    Shr,
    /// Right shift that brings in zeros.
    ShrUnsigned,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compare {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// Lanes into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reduce {
    /// Sum.
    Add,
    /// [`Binary::Max`].
    Max,
}

/// The type of `expr`, given the types of locals, scalar parameters and earlier expressions, or why it has none.
/// The only typing rule of each variant, for the builder and the verifier alike.
///
/// # Errors
/// The rule of the variant that the operands break, or an operand, local or parameter that is not there.
pub fn infer(
    expr: &Expr,
    local: impl Fn(Handle<Local>) -> Option<Ty>,
    param: impl Fn(u32) -> Option<DType>,
    operand: impl Fn(Handle<Expr>) -> Option<Ty>,
) -> Result<Ty, String> {
    use DType::{BF16, Bool, F16, F32, I32, I64};
    let of = |h: &Handle<Expr>| operand(*h).ok_or_else(|| "an operand is not defined before its use".to_string());
    let same = |a: Ty, b: Ty| if a == b { Ok(a) } else { Err(format!("operands differ: {a} and {b}")) };
    let want = |ok: bool, what: &str, ty: Ty| if ok { Ok(ty) } else { Err(format!("{what}, not {ty}")) };
    match expr {
        Expr::Bool(_) => Ok(Ty::scalar(Bool)),
        Expr::Int(n, elem) => match elem {
            I32 if i32::try_from(*n).is_err() => Err(format!("{n} does not fit i32")),
            I32 | I64 => Ok(Ty::scalar(*elem)),
            Bool | F16 | BF16 | F32 => Err(format!("an integer constant cannot be {elem}")),
        },
        Expr::Float(_) => Ok(Ty::scalar(F32)),
        Expr::Index(_) => Ok(Ty::scalar(I32)),
        Expr::Param(i) => param(*i).map(Ty::scalar).ok_or_else(|| format!("parameter {i} is not a scalar")),
        Expr::Local(h) => local(*h).ok_or_else(|| "unknown local".to_string()),
        Expr::Unary(op, a) => {
            let a = of(a)?;
            match op {
                Unary::Neg => want(a.elem == F32 || a.elem.is_int(), "needs f32 or an integer", a),
                Unary::CountOnes => want(a.elem.is_int(), "needs an integer", a),
                Unary::Not => want(a.elem == Bool || a.elem.is_int(), "needs bool or an integer", a),
                Unary::Abs | Unary::Floor | Unary::Sqrt | Unary::Exp2Approx | Unary::ReciprocalApprox | Unary::RoundTf32 => {
                    want(a.elem == F32, "needs f32", a)
                }
            }
        }
        Expr::Binary(op, a, b) => {
            let ty = same(of(a)?, of(b)?)?;
            match op {
                Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Min | Binary::Max => {
                    want(ty.elem == F32 || ty.elem.is_int(), "needs f32 or an integer", ty)
                }
                Binary::Rem | Binary::Shl | Binary::Shr | Binary::ShrUnsigned => want(ty.elem.is_int(), "needs an integer", ty),
                Binary::And | Binary::Or | Binary::Xor => {
                    want(ty.elem == Bool || ty.elem.is_int(), "needs bool or an integer", ty)
                }
            }
        }
        Expr::Compare(_, a, b) => {
            let ty = same(of(a)?, of(b)?)?;
            want(ty.elem == F32 || ty.elem.is_int(), "needs f32 or an integer", ty)?;
            Ok(Ty::vector(Bool, ty.lanes))
        }
        Expr::Select(c, a, b) => {
            let (c, ty) = (of(c)?, same(of(a)?, of(b)?)?);
            let fits = c.elem == Bool && (c.lanes == ty.lanes || c.lanes == 1);
            if fits { Ok(ty) } else { Err(format!("the condition must be bool with the lanes of {ty}, not {c}")) }
        }
        Expr::Fma(a, b, c) => {
            let ty = same(same(of(a)?, of(b)?)?, of(c)?)?;
            want(ty.elem == F32, "needs f32", ty)
        }
        Expr::Dot { acc, a, b } => {
            let (acc, ab) = (of(acc)?, same(of(a)?, of(b)?)?);
            let fits = acc.elem == F32 && ab == Ty::vector(BF16, acc.lanes * 2);
            if fits { Ok(acc) } else { Err(format!("needs f32 and twice the lanes of bf16, not {acc} and {ab}")) }
        }
        Expr::Cast(elem, a) => {
            let a = of(a)?;
            let small = |d: DType| matches!(d, F16 | BF16);
            let legal = match (a.elem, *elem) {
                (from, to) if from == to => true,
                (from, F32) => from != Bool,
                (F32, to) => to != Bool,
                (from, to) => !small(from) && !small(to) && to != Bool,
            };
            if legal { Ok(Ty::vector(*elem, a.lanes)) } else { Err(format!("cannot cast {a} to {elem}")) }
        }
        Expr::Bitcast(elem, a) => {
            let a = of(a)?;
            let has_bits = |elem: DType| match elem {
                F32 | I32 | F16 | BF16 => true,
                Bool | I64 => false,
            };
            let (bits, width) = (u64::from(a.lanes) * a.elem.bytes(), elem.bytes());
            let legal = has_bits(a.elem) && has_bits(*elem) && a.elem != *elem && bits.is_multiple_of(width);
            let lanes = u32::try_from(bits / width).ok().filter(|_| legal);
            lanes.map(|lanes| Ty::vector(*elem, lanes)).ok_or_else(|| format!("cannot reinterpret {a} as {elem}"))
        }
        Expr::Splat(lanes, a) => {
            let a = of(a)?;
            let legal = a.lanes == 1 && lanes.is_power_of_two() && (2..=64).contains(lanes);
            if legal { Ok(Ty::vector(a.elem, *lanes)) } else { Err(format!("cannot splat {a} to {lanes} lanes")) }
        }
        Expr::Concat(a, b) => {
            let ty = same(of(a)?, of(b)?)?;
            Ok(Ty::vector(ty.elem, ty.lanes.saturating_mul(2)))
        }
        Expr::Transpose(a, rows) => {
            let a = of(a)?;
            let legal = rows.is_power_of_two() && *rows > 1 && *rows < a.lanes;
            if legal { Ok(a) } else { Err(format!("{a} is no matrix of {rows} rows")) }
        }
        Expr::Extract(a, lane, lanes) => {
            let a = of(a)?;
            let inside = lanes.is_power_of_two() && lane.checked_add(*lanes).is_some_and(|end| end <= a.lanes);
            match lanes {
                _ if inside => Ok(Ty::vector(a.elem, *lanes)),
                1 => Err(format!("{a} has no lane {lane}")),
                lanes => Err(format!("{a} has no {lanes} lanes from {lane} on")),
            }
        }
        Expr::Reduce(_, a) => {
            let a = of(a)?;
            want(a.lanes > 1 && (a.elem == F32 || a.elem.is_int()), "needs a vector of f32 or integers", a)?;
            Ok(Ty::scalar(a.elem))
        }
    }
}
