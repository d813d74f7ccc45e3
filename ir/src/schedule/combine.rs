//! `combine`: what the experts made of a token, summed in the order of its picks, and the body. Weights are not applied
//! here: they belong to the rows, or to the body.
//!
//! ```text
//!   token t:   row_of_pair[t, 0..K] = 17, -1, 3          (-1: dropped)
//!
//!   rows[17, n] --+
//!                 +--> $0[t, n] --> body($0, $1.., at t, n) --> out[t, n]        n: vectors side by side
//!   rows[ 3, n] --+
//! ```
//!
//! T K N additions in f32 and the body; reads P N elements of rows and each operand once, writes T N. One order of the
//! picks, no atomics: the same bits every run. On a GPU a block is a token's columns, a vector a thread; on the host a
//! few tokens. Where the rows are is read ahead of them, unless the picks are many: then most of them have no row, and
//! each is looked up where it is added.

use super::math::Accuracy;
use super::{body, operand_name};
use crate::graph::Body;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine};

/// What is combined.
pub(super) struct Combine<'a> {
    pub(super) name: String,
    pub(super) n: u32,
    pub(super) top_k: u32,
    /// Element type of the rows.
    pub(super) rows: DType,
    /// What stands in the holes after the sum.
    pub(super) operands: Vec<(Spread, DType)>,
    pub(super) body: &'a Body,
    pub(super) out: DType,
}

/// How an operand lies over `[M, N]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// `[1]`.
    One,
    /// `[N]`.
    Row,
    /// `[M, n]`.
    Columns(Columns),
    /// `[M, N]`.
    Full,
}

/// Columns, each for so many neighbours, in a matrix that may have others: at `[m, n]` stands
/// `v[m * pitch + first + n / each]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    /// Elements from one row to the next.
    pub pitch: u32,
    /// The first column's place in a row.
    pub first: u32,
    /// Neighbours that have one column; `None`: all have the first.
    pub each: Option<u32>,
}

impl Columns {
    /// Whether `lanes` neighbours, the first a multiple of `lanes`, have one column.
    pub(crate) fn is_even(self, lanes: u32) -> bool {
        self.each.is_none_or(|each| each.is_multiple_of(lanes))
    }

    /// The element for row `m` and column `n`, in each of `lanes`, which [are even](Self::is_even).
    pub(crate) fn load<'k>(self, k: &'k Builder, from: Array<'k>, m: Value<'k>, n: Value<'k>, lanes: u32) -> Value<'k> {
        let row = if self.pitch == 1 { m } else { m.cast(DType::I64) * k.i64(i64::from(self.pitch)) };
        let place = match (self.each, self.first) {
            (None, 0) => row,
            (each, first) => {
                let column = each.map_or(k.i32(0), |each| n.cast(DType::I32) / each as i32) + first as i32;
                k.bind("place", row.cast(DType::I64) + column.cast(DType::I64))
            }
        };
        from.load(place).splat(lanes)
    }
}

/// The most lanes, up to `lanes`, that all of these operands allow.
pub(super) fn even_lanes(operands: &[(Spread, DType)], lanes: u32) -> u32 {
    let is_even = |spread: Spread| match spread {
        Spread::One | Spread::Row | Spread::Full => true,
        Spread::Columns(columns) => columns.is_even(lanes),
    };
    if operands.iter().all(|(spread, _)| is_even(*spread)) { lanes } else { 1 }
}
/// Most picks whose rows a thread knows at once.
const MOST_ROWS: u32 = 16;

/// Tokens of a block on the host.
const HOST_TOKENS: u32 = 8;

/// Elements that a thread makes at once.
fn lanes(spec: &Combine, machine: &Machine) -> u32 {
    let lanes = if machine.has_threads() {
        // An access of several elements is aligned to all of them, so they divide a row.
        let widest = machine.vector_bytes / spec.rows.bytes().max(spec.out.bytes()) as u32;
        widest.min(1 << spec.n.trailing_zeros())
    } else {
        machine.vector_bytes / DType::F32.bytes() as u32
    };
    even_lanes(&spec.operands, lanes)
}

fn threads(spec: &Combine, machine: &Machine) -> u32 {
    (spec.n / lanes(spec, machine)).next_multiple_of(machine.warp_lanes).clamp(machine.warp_lanes, machine.block_threads.min(256))
}

/// Blocks side by side on one token's columns.
fn column_blocks(spec: &Combine, machine: &Machine) -> u32 {
    spec.n.div_ceil(lanes(spec, machine) * threads(spec, machine))
}

/// Number of blocks.
pub(super) fn grid(spec: &Combine, machine: &Machine) -> Extent {
    if machine.has_threads() {
        Extent::Tokens * u64::from(column_blocks(spec, machine))
    } else {
        Extent::Tokens.div_ceil(u64::from(HOST_TOKENS))
    }
}

/// Parameters: `rows`, `row_of_pair`, the operands, `out` (written), `tokens`.
pub(super) fn combine(spec: &Combine, machine: &Machine) -> Kernel {
    let threads = threads(spec, machine);
    let builder = Builder::new(&spec.name, threads);
    let k = &builder;
    let args = Args {
        rows: k.input("rows", spec.rows),
        row_of_pair: k.input("row_of_pair", DType::I32),
        operands: spec.operands.iter().enumerate().map(|(i, (_, dtype))| k.input(&operand_name(i), *dtype)).collect(),
        out: k.output("out", spec.out),
    };
    let tokens = k.scalar("tokens", DType::I32);
    let (n, step) = (k.i32(spec.n as i32), lanes(spec, machine));
    if machine.has_threads() {
        let blocks = column_blocks(spec, machine) as i32;
        let token = Token::load(k, spec, &args, k.block() / blocks);
        let at = k.bind("n", (k.block() % blocks * threads as i32 + k.thread()) * step as i32);
        k.when(at.lt(n), || emit(k, spec, &args, &token, at, step, machine.vector_bytes));
    } else {
        let first = k.bind("first", k.block() * HOST_TOKENS as i32);
        k.for_range("token", first, (first + HOST_TOKENS as i32).min(tokens), |token| {
            let token = Token::load(k, spec, &args, token);
            let whole = k.i32((spec.n - spec.n % step) as i32);
            k.for_step("n", k.i32(0), whole, k.i32(step as i32), |at| emit(k, spec, &args, &token, at, step, 1));
            k.for_range("n", whole, n, |at| emit(k, spec, &args, &token, at, 1, 1));
        });
    }
    builder.finish()
}

struct Args<'k> {
    rows: Array<'k>,
    row_of_pair: Array<'k>,
    operands: Vec<Array<'k>>,
    out: Array<'k>,
}

/// A token and where its rows are.
struct Token<'k> {
    number: Value<'k>,
    rows: Rows<'k>,
}

enum Rows<'k> {
    Known(Vec<Value<'k>>),
    /// From the place of its first pick on.
    From(Value<'k>),
}

impl<'k> Token<'k> {
    fn load(k: &'k Builder, spec: &Combine, args: &Args<'k>, number: Value<'k>) -> Token<'k> {
        let number = k.bind("token", number);
        let row = |j| args.row_of_pair.load(number * spec.top_k as i32 + j as i32);
        let rows = if spec.top_k <= MOST_ROWS {
            Rows::Known((0..spec.top_k).map(row).collect())
        } else {
            Rows::From(k.bind("first_pair", number * spec.top_k as i32))
        };
        Token { number, rows }
    }
}

/// `out[token, at..at + lanes]`, the addresses aligned to all lanes but to no more than `most` bytes.
fn emit<'k>(k: &'k Builder, spec: &Combine, args: &Args<'k>, token: &Token<'k>, at: Value<'k>, lanes: u32, most: u32) {
    let align = |dtype: DType| (dtype.bytes() as u32 * lanes).min(most).max(dtype.bytes() as u32);
    let offset = |row: Value<'k>| k.bind("offset", row.cast(DType::I64) * k.i64(i64::from(spec.n)) + at.cast(DType::I64));
    let load = |from: Array<'k>, offset| from.load_aligned(offset, lanes, align(from.elem())).cast(DType::F32);
    let sum = k.var("sum", k.f32(0.0).splat(lanes));
    let add = |row: Value<'k>| k.when(row.ge(0), || sum.set(sum.get() + load(args.rows, offset(row))));
    match &token.rows {
        Rows::Known(rows) => rows.iter().for_each(|row| add(*row)),
        Rows::From(first) => {
            k.for_range("pair", *first, *first + spec.top_k as i32, |pair| add(args.row_of_pair.load(pair)));
        }
    }
    let here = offset(token.number);
    let y = body::pointwise(k, spec.body, Accuracy::Full, &mut |hole| match hole.checked_sub(1).map(|i| i as usize) {
        None => sum.get(),
        Some(i) => match spec.operands[i].0 {
            Spread::One => args.operands[i].load(k.i32(0)).cast(DType::F32).splat(lanes),
            Spread::Row => load(args.operands[i], at),
            Spread::Columns(columns) => columns.load(k, args.operands[i], token.number, at, lanes).cast(DType::F32),
            Spread::Full => load(args.operands[i], here),
        },
    });
    args.out.store_aligned(here, y.cast(spec.out), align(spec.out));
}
