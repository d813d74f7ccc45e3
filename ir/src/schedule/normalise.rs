//! `rms_norm`: the rows of tokens, or of a weight, over their root mean square, and the body.
//!
//! ```text
//!   x[t, 0..N] --> sum of squares --> root = sqrt(sum / N + eps)      a row: the lanes of a warp, or a vector on the host
//!   x[t, n] / root --> $0[t, n] --> body($0, $1.., at t, n) --> out[t, n]
//! ```
//!
//! Some 4 T N FLOPs and the body; x is read twice, the second time from a cache. Sums run by lane and then across lanes,
//! in one order whatever T is.

use super::combine::{Spread, even_lanes};
use super::math::Accuracy;
use super::row_loop::{self, RowLoop};
use super::{body, operand_name};
use crate::graph::Body;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Machine};

/// What is normalised.
pub(super) struct RmsNorm<'a> {
    pub(super) name: String,
    pub(super) n: u32,
    pub(super) eps: f32,
    pub(super) x: DType,
    /// What stands in the holes after the normalised rows.
    pub(super) operands: Vec<(Spread, DType)>,
    pub(super) body: &'a Body,
    pub(super) out: DType,
}

/// Parameters: `x`, the operands, `out` (written), `tokens`: the number of rows.
pub(super) fn rms_norm(spec: &RmsNorm, machine: &Machine) -> Kernel {
    let builder = Builder::new(&spec.name, row_loop::threads(machine));
    let k = &builder;
    let x = k.input("x", spec.x);
    let operands = spec.operands.iter().enumerate().map(|(i, (_, dtype))| k.input(&operand_name(i), *dtype)).collect();
    let out = k.output("out", spec.out);
    let tokens = k.scalar("row_count", DType::I32);
    let arrays = Arrays { x, operands, out };
    let lanes = RowLoop::widest(machine, spec.n, spec.x.bytes().max(spec.out.bytes()));
    let lanes = even_lanes(&spec.operands, lanes);
    RowLoop::rows(k, machine, [spec.n, lanes], tokens, |row_loop, token| {
        Row { row_loop, spec, arrays: &arrays }.normalise(token)
    });
    builder.finish()
}

struct Arrays<'k> {
    x: Array<'k>,
    operands: Vec<Array<'k>>,
    out: Array<'k>,
}

struct Row<'a, 'k> {
    row_loop: &'a RowLoop<'a, 'k>,
    spec: &'a RmsNorm<'a>,
    arrays: &'a Arrays<'k>,
}

impl<'k> Row<'_, 'k> {
    fn normalise(&self, token: Value<'k>) {
        let (k, row_loop, n) = (self.row_loop.k, self.row_loop, self.spec.n);
        let start = row_loop.start(token);
        let squares = k.var("squares", k.f32(0.0).splat(row_loop.lanes));
        let rest = k.var("rest", k.f32(0.0));
        row_loop.each(&|at, lanes| {
            let x = k.bind("x", self.load(self.arrays.x, start + at.cast(DType::I64), lanes));
            let sum = if lanes == row_loop.lanes { squares } else { rest };
            sum.set(x.fma(x, sum.get()));
        });
        let sum = row_loop.of_all("sum", squares.get().reduce_add() + rest.get(), |a, b| a + b);
        let root = k.bind("root", (sum / n as f32 + self.spec.eps).sqrt());
        row_loop.each(&|at, lanes| self.emit(token, start, at, lanes, root));
    }

    fn load(&self, from: Array<'k>, offset: Value<'k>, lanes: u32) -> Value<'k> {
        from.load_aligned(offset, lanes, self.row_loop.align(from.elem(), lanes)).cast(DType::F32)
    }

    /// `out[token, at..at + lanes]`.
    fn emit(&self, token: Value<'k>, start: Value<'k>, at: Value<'k>, lanes: u32, root: Value<'k>) {
        let (k, arrays) = (self.row_loop.k, self.arrays);
        let here = k.bind("here", start + at.cast(DType::I64));
        let y = body::pointwise(k, self.spec.body, Accuracy::Full, &mut |hole| match hole.checked_sub(1).map(|i| i as usize) {
            None => self.load(arrays.x, here, lanes) / root.splat(lanes),
            Some(i) => match self.spec.operands[i].0 {
                Spread::One => arrays.operands[i].load(k.i32(0)).cast(DType::F32).splat(lanes),
                Spread::Row => self.load(arrays.operands[i], at, lanes),
                Spread::Columns(columns) => columns.load(k, arrays.operands[i], token, at, lanes).cast(DType::F32),
                Spread::Full => self.load(arrays.operands[i], here, lanes),
            },
        });
        arrays.out.store_aligned(here, y.cast(self.spec.out), self.row_loop.align(self.spec.out, lanes));
    }
}
