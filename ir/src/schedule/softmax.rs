//! `softmax` along rows and `token_softmax` along the tokens of each sequence, with kernels of their own: the weights of soft
//! routing. (A route has its softmax in registers.)
//!
//! ```text
//!   softmax         x[t, 0..N] --> max --> sum of exp(x - max) --> out[t, 0..N]     a row: the lanes of a warp, or vectors
//!
//!   token_softmax   a sequence is cut into runs of 256 tokens; a block has a run and some columns
//!       runs        max_of_run[r, n], sum_of_run[r, n] = sum of exp(x[t, n] - max_of_run[r, n]) over the run
//!       weights     max and sum over the runs of the sequence, then out[t, n] = exp(x[t, n] - max) / sum
//! ```
//!
//! Some 32 T N FLOPs (two exponentials an element). Bytes: 4 T N read and as many written, `token_softmax` reads them once
//! more; what the passes of one kernel read again is in a cache. Sums run in one order, which depends on a token's place
//! in its sequence alone: sequences do not touch each other. A mask says which tokens are padding, one load a token and
//! column: those take no part.

use super::chunk::cell;
use super::math;
use super::row_loop::{self, RowLoop};
use crate::graph::Span;
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

/// A softmax of f32 rows or columns.
pub(super) struct Softmax {
    pub(super) name: String,
    /// Columns.
    pub(super) n: u32,
    /// Whether tokens may be padding, of which a `token_softmax` knows nothing.
    pub(super) masked: bool,
}

/// Parameters: `x`, `out` (written), `tokens`.
pub(super) fn softmax(spec: &Softmax, machine: &Machine) -> Kernel {
    let builder = Builder::new(&spec.name, row_loop::threads(machine));
    let k = &builder;
    let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
    let tokens = k.scalar("tokens", DType::I32);
    let lanes = RowLoop::widest(machine, spec.n, DType::F32.bytes());
    RowLoop::rows(k, machine, [spec.n, lanes], tokens, |row_loop, token| softmax_of_row(row_loop, token, x, out));
    builder.finish()
}

fn softmax_of_row<'k>(row_loop: &RowLoop<'_, 'k>, token: Value<'k>, x: Array<'k>, out: Array<'k>) {
    let (k, start) = (row_loop.k, row_loop.start(token));
    let load = |at: Value<'k>, lanes: u32| {
        let x = x.load_aligned(start + at.cast(DType::I64), lanes, row_loop.align(DType::F32, lanes));
        k.bind("x", math::finite(k, x))
    };
    let max = Parts::new(k, f32::MIN, row_loop.lanes);
    row_loop.each(&|at, lanes| {
        let part = max.of(lanes);
        part.set(part.get().max(load(at, lanes)));
    });
    let max = row_loop.of_all("all", max.wide.get().reduce_max().max(max.rest.get()), |a, b| a.max(b));
    let sum = Parts::new(k, 0.0, row_loop.lanes);
    row_loop.each(&|at, lanes| {
        let part = sum.of(lanes);
        part.set(part.get() + math::exp(k, load(at, lanes) - max.splat(lanes)));
    });
    let sum = row_loop.of_all("all", sum.wide.get().reduce_add() + sum.rest.get(), |a, b| a + b);
    row_loop.each(&|at, lanes| {
        let y = math::exp(k, load(at, lanes) - max.splat(lanes)) / sum.splat(lanes);
        out.store_aligned(start + at.cast(DType::I64), y, row_loop.align(DType::F32, lanes));
    });
}

/// What a thread has of a row, in as many lanes as it takes at once, and in one for what is left.
struct Parts<'k> {
    wide: Var<'k>,
    rest: Var<'k>,
}

impl<'k> Parts<'k> {
    fn new(k: &'k Builder, zero: f32, lanes: u32) -> Parts<'k> {
        Parts { wide: k.var("wide", k.f32(zero).splat(lanes)), rest: k.var("rest", k.f32(zero)) }
    }

    fn of(&self, lanes: u32) -> Var<'k> {
        if self.wide.get().ty().lanes == lanes { self.wide } else { self.rest }
    }
}

/// Tokens of a run.
const RUN: u32 = 256;
/// Columns of a block: a lane each on a GPU.
const COLUMNS: u32 = 32;
/// Warps of a block of `token_softmax`: each walks every eighth token.
const WALKERS: u32 = 8;

/// Number of runs of all sequences, the empty ones of a short last sequence included.
pub(super) fn runs() -> Extent {
    Span::Sequence.count() * Span::Sequence.tokens().div_ceil(u64::from(RUN))
}

/// Number of blocks of [`run_sums`] and [`token_weights`].
pub(super) fn token_grid(spec: &Softmax) -> Extent {
    runs() * u64::from(spec.n.div_ceil(COLUMNS))
}

/// Parameters: `x`, `mask` where there is one, then written: `max_of_run`, `sum_of_run`; `tokens`, `sequence_tokens`.
pub(super) fn run_sums(spec: &Softmax, machine: &Machine) -> Kernel {
    let builder = Builder::new(format!("{}_runs", spec.name), walkers(machine) * machine.warp_lanes);
    let k = &builder;
    let x = Tokens::declare(k, spec);
    let [max_of_run, sum_of_run] = ["max_of_run", "sum_of_run"].map(|name| k.output(name, DType::F32));
    let run = Run::of_block(k, spec, machine);
    run.each_column(&|column| {
        let max = run.greatest(column, run.tokens, &|token| run.of_token(x, token, column, |x| x, f32::MIN));
        let sum = run.sum(column, run.tokens, &|token| run.of_token(x, token, column, |x| math::exp(k, x - max), 0.0));
        run.once(column, || {
            let place = run.cell(run.number, column);
            max_of_run.store(place, max);
            sum_of_run.store(place, sum);
        });
    });
    builder.finish()
}

/// Parameters: `x`, `mask` where there is one, `max_of_run`, `sum_of_run`, `out` (written), `tokens`, `sequence_tokens`.
pub(super) fn token_weights(spec: &Softmax, machine: &Machine) -> Kernel {
    let builder = Builder::new(&spec.name, walkers(machine) * machine.warp_lanes);
    let k = &builder;
    let x = Tokens::declare(k, spec);
    let [max_of_run, sum_of_run] = ["max_of_run", "sum_of_run"].map(|name| k.input(name, DType::F32));
    let out = k.output("out", DType::F32);
    let run = Run::of_block(k, spec, machine);
    run.each_column(&|column| {
        let max = run.greatest(column, run.runs, &|i| run.load_run(max_of_run, i, column));
        let sum = run.sum(column, run.runs, &|i| {
            let scale = math::exp(k, run.load_run(max_of_run, i, column) - max);
            run.load_run(sum_of_run, i, column) * scale
        });
        run.walk(run.tokens, &|token| {
            let y = k.bind("y", run.of_token(x, token, column, |x| math::exp(k, x - max) / sum, 0.0));
            let store = || out.store(run.cell(run.first_token + token, column), y);
            match column.exists {
                Some(exists) => k.when(exists, store),
                None => store(),
            }
        });
    });
    builder.finish()
}

fn walkers(machine: &Machine) -> u32 {
    if machine.has_threads() { WALKERS } else { 1 }
}

/// The rows of the tokens, and which of these are no padding.
#[derive(Clone, Copy)]
struct Tokens<'k> {
    x: Array<'k>,
    mask: Option<Array<'k>>,
}

impl<'k> Tokens<'k> {
    fn declare(k: &'k Builder, spec: &Softmax) -> Tokens<'k> {
        Tokens { x: k.input("x", DType::F32), mask: spec.masked.then(|| k.input("mask", DType::I32)) }
    }
}

/// The part of the tokens that a block looks at, and where its sequence is.
struct Run<'a, 'k> {
    k: &'k Builder,
    machine: &'a Machine,
    n: u32,
    number: Value<'k>,
    first_token: Value<'k>,
    /// At least one: blocks of none do nothing.
    tokens: Value<'k>,
    /// Of its sequence: the first one's number, and how many are not empty.
    first_run: Value<'k>,
    runs: Value<'k>,
    first_column: Value<'k>,
    /// What each thread has of a maximum and of a sum; none where a thread works alone.
    parts: Option<[Array<'k>; 2]>,
}

/// Columns side by side: one on a GPU.
#[derive(Clone, Copy)]
struct Column<'k> {
    at: Value<'k>,
    lanes: u32,
    /// Whether it is not beyond the last one, which it repeats; none: it is not.
    exists: Option<Value<'k>>,
}

impl<'a, 'k> Run<'a, 'k> {
    /// The last two parameters too.
    fn of_block(k: &'k Builder, spec: &Softmax, machine: &'a Machine) -> Run<'a, 'k> {
        let (tokens, sequence_tokens) = (k.scalar("tokens", DType::I32), k.scalar("sequence_tokens", DType::I32));
        let column_blocks = spec.n.div_ceil(COLUMNS) as i32;
        let number = k.bind("run", k.block() / column_blocks);
        let first_column = k.bind("first_column", k.block() % column_blocks * COLUMNS as i32);
        let runs_of = |tokens: Value<'k>| (tokens + (RUN - 1) as i32) / RUN as i32;
        let runs_of_sequence = k.bind("runs_of_sequence", runs_of(sequence_tokens));
        let sequence = k.bind("sequence", number / runs_of_sequence);
        let first_run = k.bind("first_run", sequence * runs_of_sequence);
        let sequence_start = k.bind("sequence_start", sequence * sequence_tokens);
        let tokens_here = k.bind("tokens_here", sequence_tokens.min(tokens - sequence_start));
        let skipped = k.bind("skipped", (number - first_run) * RUN as i32);
        Run {
            k,
            machine,
            n: spec.n,
            number,
            first_token: k.bind("first_token", sequence_start + skipped),
            tokens: k.bind("run_tokens", (tokens_here - skipped).min(RUN as i32)),
            first_run,
            runs: k.bind("runs", runs_of(tokens_here)),
            first_column,
            parts: machine.has_threads().then(|| ["maxima", "sums"].map(|name| k.shared(name, DType::F32, WALKERS * COLUMNS))),
        }
    }

    /// `body` for the columns of the block, if the run has tokens.
    fn each_column(&self, body: &dyn Fn(Column<'k>)) {
        let (k, n) = (self.k, self.n as i32);
        k.when(self.tokens.gt(0), || {
            if self.machine.has_threads() {
                let at = k.bind("column", self.first_column + self.lane());
                let exists = (!self.n.is_multiple_of(COLUMNS)).then(|| k.bind("exists", at.lt(n)));
                return body(Column { at: k.bind("at", exists.map_or(at, |_| at.min(n - 1))), lanes: 1, exists });
            }
            let lanes = self.machine.vector_bytes / DType::F32.bytes() as u32;
            let end = k.bind("end", (self.first_column + COLUMNS as i32).min(n));
            // Blocks start at a multiple of the lanes.
            let whole = k.bind("whole", end & -(lanes as i32));
            k.for_step("column", self.first_column, whole, k.i32(lanes as i32), |at| body(Column { at, lanes, exists: None }));
            k.for_range("column", whole, end, |at| body(Column { at, lanes: 1, exists: None }));
        });
    }

    fn lane(&self) -> Value<'k> {
        self.k.thread() % COLUMNS as i32
    }

    fn walker(&self) -> Value<'k> {
        self.k.thread() / COLUMNS as i32
    }

    /// `body(i)` for `i` below `count`, the walkers taking turns.
    fn walk(&self, count: Value<'k>, body: &dyn Fn(Value<'k>)) {
        let k = self.k;
        if self.machine.has_threads() {
            k.for_step("i", self.walker(), count, k.i32(WALKERS as i32), body);
        } else {
            k.for_range("i", k.i32(0), count, body);
        }
    }

    fn greatest(&self, column: Column<'k>, count: Value<'k>, of: &dyn Fn(Value<'k>) -> Value<'k>) -> Value<'k> {
        let max = self.k.var("max", self.k.f32(f32::MIN).splat(column.lanes));
        self.walk(count, &|i| max.set(max.get().max(of(i))));
        self.of_all(self.parts.map(|[maxima, _]| maxima), max.get(), |a, b| a.max(b))
    }

    fn sum(&self, column: Column<'k>, count: Value<'k>, of: &dyn Fn(Value<'k>) -> Value<'k>) -> Value<'k> {
        let sum = self.k.var("sum", self.k.f32(0.0).splat(column.lanes));
        self.walk(count, &|i| sum.set(sum.get() + of(i)));
        self.of_all(self.parts.map(|[_, sums]| sums), sum.get(), |a, b| a + b)
    }

    /// What the walkers have of a column, joined in their order.
    fn of_all(&self, parts: Option<Array<'k>>, mine: Value<'k>, join: impl Fn(Value<'k>, Value<'k>) -> Value<'k>) -> Value<'k> {
        let k = self.k;
        let Some(parts) = parts else { return k.bind("all", mine) };
        parts.store(k.thread(), mine);
        k.barrier();
        let part = |walker: u32| parts.load(self.lane() + (walker * COLUMNS) as i32);
        k.bind("all", (1..WALKERS).fold(part(0), |all, walker| join(all, part(walker))))
    }

    /// What one walker does for all.
    fn once(&self, column: Column<'k>, body: impl FnOnce()) {
        if self.machine.has_threads() {
            let first = self.walker().eq(0);
            self.k.when(column.exists.map_or(first, |exists| first & exists), body);
        } else {
            body();
        }
    }

    /// What is made of token `token` of the run; `padding` where it is that.
    fn of_token(
        &self,
        tokens: Tokens<'k>,
        token: Value<'k>,
        column: Column<'k>,
        of: impl Fn(Value<'k>) -> Value<'k>,
        padding: f32,
    ) -> Value<'k> {
        let x = tokens.x.load_vector(self.cell(self.first_token + token, column), column.lanes);
        let value = of(self.k.bind("x", math::finite(self.k, x)));
        let Some(mask) = tokens.mask else { return value };
        let is_token = mask.load(self.first_token + token).splat(column.lanes).ne(0);
        is_token.select(value, padding)
    }

    /// What run `run` of the sequence has of the column.
    fn load_run(&self, from: Array<'k>, run: Value<'k>, column: Column<'k>) -> Value<'k> {
        from.load_vector(self.cell(self.first_run + run, column), column.lanes)
    }

    fn cell(&self, row: Value<'k>, column: Column<'k>) -> Value<'k> {
        cell(row, self.k.i32(self.n as i32), column.at)
    }
}
