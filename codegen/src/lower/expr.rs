//! Expressions as LLVM values: one arm a variant. Conversions between types are in `convert`.

use moec_ir::DType;
use moec_ir::kernel::{Binary, Compare, Expr, Handle, Reduce, Unary};

use super::{Bound, Lowering, convert};
use crate::Error;
use crate::llvm::{self, FloatPredicate, IntPredicate, Ir, Op, Value};

impl<'c> Lowering<'_, 'c> {
    /// The value of an expression here. Not recursive: schedules unroll sums into very deep expressions.
    pub(super) fn expr(&mut self, expr: Handle<Expr>) -> Result<Value<'c>, Error> {
        let mut wanted = vec![expr];
        while let Some(&next) = wanted.last() {
            let before = wanted.len();
            if self.known[next.index()].is_none() {
                wanted.extend(self.kernel.exprs[next].operands().filter(|o| self.known[o.index()].is_none()));
                // Left to right: the last one wanted is evaluated first.
                wanted[before..].reverse();
            }
            if wanted.len() == before {
                wanted.pop();
                self.remember(next)?;
            }
        }
        self.known(expr)
    }

    /// Evaluates an expression whose operands are known, unless it is known itself.
    fn remember(&mut self, expr: Handle<Expr>) -> Result<(), Error> {
        if self.known[expr.index()].is_none() {
            self.known[expr.index()] = Some(self.evaluate(expr)?);
            if self.changing[expr.index()] { &mut self.passing } else { &mut self.lasting }.push(expr);
        }
        Ok(())
    }

    fn known(&self, expr: Handle<Expr>) -> Result<Value<'c>, Error> {
        self.known[expr.index()].ok_or_else(|| self.malformed(format!("expression {} has no value here", expr.index())))
    }

    fn evaluate(&self, expr: Handle<Expr>) -> Result<Value<'c>, Error> {
        let ir = self.ir;
        let elem = |h: Handle<Expr>| self.types[h.index()].elem;
        Ok(match self.kernel.exprs[expr] {
            Expr::Bool(b) => ir.constant(ir.int(1), i64::from(b)),
            Expr::Int(n, elem) => ir.constant(super::elem(ir, elem), n),
            // Through its bits, so that every NaN stays what it is.
            Expr::Float(bits) => ir.cast(Op::BitCast, ir.constant(ir.int(32), i64::from(bits)), ir.f32()),
            Expr::Index(index) => self.target.index(ir, self.function, index),
            Expr::Param(i) => self.function.get_params()[i as usize],
            Expr::Local(local) => match self.locals[local.index()] {
                Some(Bound::Value(value)) => value,
                Some(Bound::Variable(at)) => {
                    let local = self.local(local);
                    ir.load(self.ty(local.ty), at, 0, &local.name)
                }
                None => return Err(self.malformed(format!("`{}` is used before it is bound", self.local(local).name))),
            },
            Expr::Unary(op @ (Unary::Exp2Approx | Unary::ReciprocalApprox | Unary::RoundTf32), a) => {
                self.target.own_unary(ir, op, self.known(a)?).ok_or_else(|| self.unsupported("approximations, and tf32"))?
            }
            Expr::Unary(op, a) => unary(ir, op, elem(a), self.known(a)?),
            Expr::Binary(op, a, b) => match self.of_warp(op, [a, b]) {
                Some(value) => value,
                None => binary(ir, op, elem(a), self.known(a)?, self.known(b)?),
            },
            Expr::Compare(op, a, b) => compare(ir, op, elem(a), self.known(a)?, self.known(b)?),
            Expr::Select(c, a, b) => ir.select(self.known(c)?, self.known(a)?, self.known(b)?),
            Expr::Fma(a, b, c) => {
                let (a, b, c) = (self.known(a)?, self.known(b)?, self.known(c)?);
                ir.value_of("llvm.fma", &[a.get_type()], &[a, b, c])
            }
            Expr::Dot { acc, a, b } => self
                .target
                .dot(ir, self.known(acc)?, self.known(a)?, self.known(b)?)
                .ok_or_else(|| self.unsupported("a bf16 dot product"))?,
            Expr::Cast(to, a) => convert::cast(ir, self.target, elem(a), to, self.known(a)?),
            Expr::Bitcast(_, a) => ir.cast(Op::BitCast, self.known(a)?, self.ty(self.types[expr.index()])),
            Expr::Splat(n, a) => ir.splat(n, self.known(a)?),
            Expr::Concat(a, b) => join(ir, self.known(a)?, self.known(b)?),
            Expr::Transpose(a, rows) => transpose(ir, rows, self.known(a)?),
            Expr::Extract(a, lane, 1) => ir.extract(self.known(a)?, lane),
            Expr::Extract(a, lane, lanes) => {
                let a = self.known(a)?;
                ir.pick(a, a, &(lane..lane + lanes).collect::<Vec<_>>())
            }
            Expr::Reduce(op, a) => reduce(ir, op, elem(a), self.known(a)?),
        })
    }
}

/// Whether LLVM's float operations are meant. The 16-bit floats are never computed with.
fn is_float(elem: DType) -> bool {
    match elem {
        DType::F32 => true,
        DType::Bool | DType::I32 | DType::I64 | DType::F16 | DType::BF16 => false,
    }
}

fn unary<'c>(ir: &Ir<'c>, op: Unary, elem: DType, a: Value<'c>) -> Value<'c> {
    let ty = a.get_type();
    match op {
        Unary::Neg if is_float(elem) => ir.float_neg(a),
        Unary::Neg => ir.binary(Op::Sub, ir.constant(ty, 0), a),
        Unary::Not => ir.binary(Op::Xor, a, ir.constant(ty, -1)),
        Unary::Abs => ir.value_of("llvm.fabs", &[ty], &[a]),
        Unary::Floor => ir.value_of("llvm.floor", &[ty], &[a]),
        Unary::Sqrt => ir.value_of("llvm.sqrt", &[ty], &[a]),
        Unary::CountOnes => ir.value_of("llvm.ctpop", &[ty], &[a]),
        Unary::Exp2Approx | Unary::ReciprocalApprox | Unary::RoundTf32 => unreachable!("a target's own: `Target::own_unary`"),
    }
}

fn binary<'c>(ir: &Ir<'c>, op: Binary, elem: DType, a: Value<'c>, b: Value<'c>) -> Value<'c> {
    let by_type = |int, float| ir.binary(if is_float(elem) { float } else { int }, a, b);
    match op {
        Binary::Add => by_type(Op::Add, Op::FAdd),
        Binary::Sub => by_type(Op::Sub, Op::FSub),
        Binary::Mul => by_type(Op::Mul, Op::FMul),
        Binary::Div if is_float(elem) => ir.binary(Op::FDiv, a, b),
        Binary::Div => divide(ir, a, b),
        Binary::Rem => remainder(ir, a, b),
        Binary::Min => ir.select(compare(ir, Compare::Lt, elem, b, a), b, a),
        Binary::Max => ir.select(compare(ir, Compare::Lt, elem, a, b), b, a),
        Binary::And => ir.binary(Op::And, a, b),
        Binary::Or => ir.binary(Op::Or, a, b),
        Binary::Xor => ir.binary(Op::Xor, a, b),
        Binary::Shl => ir.binary(Op::Shl, a, b),
        Binary::Shr => ir.binary(Op::AShr, a, b),
        Binary::ShrUnsigned => ir.binary(Op::LShr, a, b),
    }
}

/// `a / b`, wrapping: LLVM leaves the least integer over -1 undefined and x86 traps. Folds away for constants.
fn divide<'c>(ir: &Ir<'c>, a: Value<'c>, b: Value<'c>) -> Value<'c> {
    let (minus_one, safe) = divisor(ir, b);
    let negated = ir.binary(Op::Sub, ir.constant(a.get_type(), 0), a);
    ir.select(minus_one, negated, ir.binary(Op::SDiv, a, safe))
}

/// `a % b`, which is 0 for -1: see [`divide`].
fn remainder<'c>(ir: &Ir<'c>, a: Value<'c>, b: Value<'c>) -> Value<'c> {
    let (_, safe) = divisor(ir, b);
    ir.binary(Op::SRem, a, safe)
}

/// Whether `b` is -1, and `b` with 1 in its place.
fn divisor<'c>(ir: &Ir<'c>, b: Value<'c>) -> (Value<'c>, Value<'c>) {
    let minus_one = ir.int_compare(IntPredicate::EQ, b, ir.constant(b.get_type(), -1));
    (minus_one, ir.select(minus_one, ir.constant(b.get_type(), 1), b))
}

fn compare<'c>(ir: &Ir<'c>, op: Compare, elem: DType, a: Value<'c>, b: Value<'c>) -> Value<'c> {
    let (int, float) = match op {
        Compare::Eq => (IntPredicate::EQ, FloatPredicate::OEQ),
        Compare::Ne => (IntPredicate::NE, FloatPredicate::UNE),
        Compare::Lt => (IntPredicate::SLT, FloatPredicate::OLT),
        Compare::Le => (IntPredicate::SLE, FloatPredicate::OLE),
        Compare::Gt => (IntPredicate::SGT, FloatPredicate::OGT),
        Compare::Ge => (IntPredicate::SGE, FloatPredicate::OGE),
    };
    if is_float(elem) { ir.float_compare(float, a, b) } else { ir.int_compare(int, a, b) }
}

/// Halves the lanes until one is left.
fn reduce<'c>(ir: &Ir<'c>, op: Reduce, elem: DType, a: Value<'c>) -> Value<'c> {
    let op = match op {
        Reduce::Add => Binary::Add,
        Reduce::Max => Binary::Max,
    };
    let mut whole = a;
    let mut lanes = llvm::lanes(a);
    while lanes > 1 {
        lanes /= 2;
        let half = |start| {
            let places: Vec<u32> = (start..start + lanes).collect();
            ir.pick(whole, whole, &places)
        };
        whole = binary(ir, op, elem, half(0), half(lanes));
    }
    ir.extract(whole, 0)
}

/// The lanes of `a`, then those of `b`.
fn join<'c>(ir: &Ir<'c>, a: Value<'c>, b: Value<'c>) -> Value<'c> {
    match llvm::lanes(a) {
        1 => ir.pick(ir.splat(2, a), ir.splat(2, b), &[0, 2]),
        _ => ir.concat(a, b),
    }
}

/// Lanes of a matrix of so many rows, column after column. One of 8 by 8 in steps that registers have instructions for: pairs of rows are
/// interleaved within 4 lanes, by one lane and then by two, and at last parts of 4 lanes change places.
fn transpose<'c>(ir: &Ir<'c>, rows: u32, a: Value<'c>) -> Value<'c> {
    let lanes = llvm::lanes(a);
    if (rows, lanes) != (8, 64) {
        let columns = lanes / rows;
        return ir.pick(a, a, &(0..lanes).map(|i| i % rows * columns + i / rows).collect::<Vec<_>>());
    }
    let pairs = |of: &[Value<'c>], by: usize, places: [[u32; 8]; 2]| -> Vec<Value<'c>> {
        let mut made = of.to_vec();
        for first in (0..8).filter(|row| row & by == 0) {
            let [low, high] = places.map(|places| ir.pick(of[first], of[first + by], &places));
            (made[first], made[first + by]) = (low, high);
        }
        made
    };
    let rows: Vec<Value<'c>> = (0..8).map(|row| ir.pick(a, a, &(row * 8..row * 8 + 8).collect::<Vec<_>>())).collect();
    // What is at row r after the first two steps belongs to column r with its lowest two bits changed: 0, 2, 1, 3.
    let by_one = pairs(&rows, 1, [[0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]]);
    let by_two = pairs(&by_one, 2, [[0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]]);
    let by_four = pairs(&by_two, 4, [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]);
    let order = [0, 2, 1, 3, 4, 6, 5, 7];
    let mut parts: Vec<Value<'c>> = order.map(|column| by_four[column]).to_vec();
    while parts.len() > 1 {
        parts = parts.chunks(2).map(|two| ir.concat(two[0], two[1])).collect();
    }
    parts[0]
}
