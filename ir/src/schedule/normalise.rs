//! `rms_norm`: the rows of tokens, or of a weight, over their root mean square, and the body.
//!
//! ```text
//!   x[t, 0..N] --> sum of squares --> root = sqrt(sum / N + eps)      a row: the lanes of a warp, or a vector on the host
//!   x[t, n] / root --> $0[t, n] --> body($0, $1.., at t, n) --> out[t, n]
//! ```
//!
//! Some 4 T N FLOPs and the body; x is read twice, the second time from a cache. Sums run by lane and then across lanes,
//! in one order whatever T is.

use super::body;
use super::combine::{Spread, even_lanes};
use crate::graph::Body;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

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

/// Rows of a block: a warp has two, the host's thread all.
const TOKENS: u32 = 8;
/// Warps of a block.
const WARPS: u32 = 4;

/// Number of blocks.
pub(super) fn grid(rows: Extent) -> Extent {
    rows.div_ceil(u64::from(TOKENS))
}

/// Parameters: `x`, the operands, `out` (written), `tokens`: the number of rows.
pub(super) fn rms_norm(spec: &RmsNorm, machine: &Machine) -> Kernel {
    let warps = if machine.is_gpu() { WARPS } else { 1 };
    let builder = Builder::new(&spec.name, warps * machine.warp_lanes);
    let k = &builder;
    let x = k.input("x", spec.x);
    let operands = spec.operands.iter().enumerate().map(|(i, (_, dtype))| k.input(&format!("v{}", i + 1), *dtype)).collect();
    let out = k.output("out", spec.out);
    let tokens = k.scalar("tokens", DType::I32);
    let warp_lanes = machine.warp_lanes as i32;
    let (lane, warp) = (k.bind("lane", k.thread() % warp_lanes), k.bind("warp", k.thread() / warp_lanes));
    let rows = Rows { k, spec, machine, x, operands, out, lane };
    let first = k.bind("first_token", k.block() * TOKENS as i32);
    k.for_step("m", warp, k.i32(TOKENS as i32), k.i32(warps as i32), |m| {
        let token = k.bind("token", first + m);
        k.when(token.lt(tokens), || rows.row(token));
    });
    builder.finish()
}

struct Rows<'a, 'k> {
    k: &'k Builder,
    spec: &'a RmsNorm<'a>,
    machine: &'a Machine,
    x: Array<'k>,
    operands: Vec<Array<'k>>,
    out: Array<'k>,
    lane: Value<'k>,
}

impl<'k> Rows<'_, 'k> {
    fn row(&self, token: Value<'k>) {
        let (k, n) = (self.k, self.spec.n);
        let start = k.bind("start", token.cast(DType::I64) * k.i64(i64::from(n)));
        let squares = k.var("squares", k.f32(0.0).splat(self.lanes()));
        let rest = k.var("rest", k.f32(0.0));
        self.each(&|at, lanes| {
            let x = k.bind("x", self.load(self.x, start + at.cast(DType::I64), lanes));
            let sum = if lanes == self.lanes() { squares } else { rest };
            sum.set(x.fma(x, sum.get()));
        });
        let mut sum = k.bind("sum", squares.get().reduce_add() + rest.get());
        let mut mask = self.machine.warp_lanes / 2;
        while mask > 0 {
            sum = k.bind("sum", sum + k.shuffle(sum, mask));
            mask /= 2;
        }
        let root = k.bind("root", (sum / n as f32 + self.spec.eps).sqrt());
        self.each(&|at, lanes| self.emit(token, start, at, lanes, root));
    }

    /// Elements that a thread takes at once.
    fn lanes(&self) -> u32 {
        let (spec, machine) = (self.spec, self.machine);
        let lanes = if machine.is_gpu() {
            // An access of several elements is aligned to all of them, so they divide a row.
            let widest = machine.vector_bytes / spec.x.bytes().max(spec.out.bytes()) as u32;
            widest.min(1 << spec.n.trailing_zeros())
        } else {
            machine.vector_bytes / DType::F32.bytes() as u32
        };
        even_lanes(&spec.operands, lanes)
    }

    /// The thread's elements of a row: vectors, then what is left.
    fn each(&self, body: &dyn Fn(Value<'k>, u32)) {
        let (k, n, lanes) = (self.k, self.spec.n, self.lanes());
        let (whole, warp) = (n - n % lanes, self.machine.warp_lanes);
        let stride = k.i32((warp * lanes) as i32);
        k.for_step("n", self.lane * lanes as i32, k.i32(whole as i32), stride, |at| body(at, lanes));
        if whole < n {
            k.for_step("n", self.lane + whole as i32, k.i32(n as i32), k.i32(warp as i32), |at| body(at, 1));
        }
    }

    /// The most bytes that an address is known to be a multiple of.
    fn align(&self, dtype: DType, lanes: u32) -> u32 {
        let most = if self.machine.is_gpu() { self.machine.vector_bytes } else { 1 };
        (dtype.bytes() as u32 * lanes).min(most).max(dtype.bytes() as u32)
    }

    fn load(&self, from: Array<'k>, offset: Value<'k>, lanes: u32) -> Value<'k> {
        from.load_aligned(offset, lanes, self.align(from.elem(), lanes)).cast(DType::F32)
    }

    /// `out[token, at..at + lanes]`.
    fn emit(&self, token: Value<'k>, start: Value<'k>, at: Value<'k>, lanes: u32, root: Value<'k>) {
        let k = self.k;
        let here = k.bind("here", start + at.cast(DType::I64));
        let y = body::pointwise(k, self.spec.body, &mut |hole| match hole.checked_sub(1).map(|i| i as usize) {
            None => self.load(self.x, here, lanes) / root.splat(lanes),
            Some(i) => match self.spec.operands[i].0 {
                Spread::One => self.operands[i].load(k.i32(0)).cast(DType::F32).splat(lanes),
                Spread::Row => self.load(self.operands[i], at, lanes),
                Spread::Columns(columns) => columns.load(k, self.operands[i], token, at, lanes).cast(DType::F32),
                Spread::Full => self.load(self.operands[i], here, lanes),
            },
        });
        self.out.store_aligned(here, y.cast(self.spec.out), self.align(self.spec.out, lanes));
    }
}
