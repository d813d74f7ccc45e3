//! `soft_dispatch` and `soft_combine`: sums of rows by the weights of soft routing, and the body.
//!
//! ```text
//!                              columns 64
//!                           +--------------+        dispatch: i a slot, k the tokens of its sequence
//!                    k 32   |   rows[k]    |        combine:  i a token, k the slots of its sequence
//!                           +--------------+
//!             k 32                                  both through shared memory as f32, k outermost; thread (i, j) of
//!          +---------+      +--------------+        16 x 16 has rows 4i .. 4i + 4 and columns 4j .. 4j + 4: two reads
//!   i 64   | w(i, k) |      |  4 x 4 sums  |        of 16 bytes for 16 FMA. On the host 4 rows by 4 vectors of
//!          +---------+      +--------------+        columns in registers.
//! ```
//!
//! With N slots of all experts: 2 T N H FLOPs. Bytes: the T N weights for every 64 columns and the rows for every 64 sums,
//! 32 FLOPs a byte of f32, so that arithmetic is the roof where neighbouring blocks find them in cache. A dispatch has
//! N H / 4096 tiles a sequence, each as long as that: one long sequence alone does not fill a GPU.
//!
//! Each sum adds its products one after another, in f32, in the order of tokens or of slots: the same bits every
//! run, whatever the other sequences. A sequence is read by its own sums alone; in these a NaN or an infinity of
//! a row goes into every one, whatever its weight (`0 * NaN` is NaN).

use super::combine::Spread;
use super::math::Accuracy;
use super::{body, operand_name};
use crate::graph::{Body, Span};
use crate::kernel::build::{Array, Var};
use crate::kernel::{Builder, Kernel, Value};
use crate::schedule::chunk::cell;
use crate::{DType, Extent, Machine};

/// What is mixed.
pub(super) struct Mix<'a> {
    pub(super) name: String,
    pub(super) into: Into,
    pub(super) experts: u32,
    /// Of an expert and sequence.
    pub(super) slots: u32,
    /// Columns.
    pub(super) n: u32,
    /// Element type of the rows.
    pub(super) rows: DType,
    /// What stands in the holes after the sum.
    pub(super) operands: Vec<(Spread, DType)>,
    pub(super) body: &'a Body,
    pub(super) out: DType,
}

/// What a sum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Into {
    /// A slot, of the tokens of its sequence.
    Slots,
    /// A token, of the slots of its sequence.
    Tokens,
}

/// Sums of a tile along each side.
const TILE: u32 = 64;
/// Threads along a side of a tile on a GPU.
const SIDE: u32 = 16;
/// Rows, and columns, of a thread; rows of the host's rectangle of sums.
const EACH: u32 = TILE / SIDE;
/// Steps of k in one slice.
const DEPTH: u32 = 32;
/// Elements from one k to the next in shared memory: off by four, as in `gemm`.
const PITCH: u32 = TILE + 4;
/// Vectors of columns of the host's rectangle of sums.
const VECTORS: u32 = 4;

impl Mix<'_> {
    /// Slots of all experts.
    fn all_slots(&self) -> u32 {
        self.experts * self.slots
    }

    fn column_tiles(&self) -> u32 {
        self.n.div_ceil(TILE)
    }
}

/// Number of blocks.
pub(super) fn grid(spec: &Mix) -> Extent {
    let row_tiles = match spec.into {
        Into::Slots => Extent::Const(u64::from(spec.all_slots().div_ceil(TILE))),
        Into::Tokens => Span::Sequence.tokens().div_ceil(u64::from(TILE)),
    };
    Span::Sequence.count() * row_tiles * u64::from(spec.column_tiles())
}

/// Whether an operand can lie so over the rows: the widest vectors have one column.
pub(super) fn takes(spread: Spread) -> bool {
    const MOST_LANES: u32 = 16;
    match spread {
        Spread::One | Spread::Row | Spread::Full => true,
        Spread::Columns(columns) => columns.is_even(MOST_LANES),
    }
}

/// Parameters: `rows`, `weights`, the operands, `out` (written), `tokens`, `sequence_tokens`.
pub(super) fn mix(spec: &Mix, machine: &Machine) -> Kernel {
    let builder = Builder::new(&spec.name, if machine.has_threads() { SIDE * SIDE } else { 1 });
    let k = &builder;
    let args = Args {
        rows: k.input("rows", spec.rows),
        weights: k.input("weights", DType::F32),
        operands: spec.operands.iter().enumerate().map(|(i, (_, dtype))| k.input(&operand_name(i), *dtype)).collect(),
        out: k.output("out", spec.out),
    };
    let tile = Tile::of_block(k, spec);
    let cx = Cx { k, spec, args: &args, tile };
    // A last sequence that is shorter has fewer tiles.
    k.when(tile.rows.gt(0), || if machine.has_threads() { cx.in_shared_memory() } else { cx.in_registers(machine) });
    builder.finish()
}

struct Args<'k> {
    rows: Array<'k>,
    weights: Array<'k>,
    operands: Vec<Array<'k>>,
    out: Array<'k>,
}

/// A rectangle of sums, all of one sequence. Counts and places are `I32`.
#[derive(Clone, Copy)]
struct Tile<'k> {
    sequence: Value<'k>,
    sequences: Value<'k>,
    first_token: Value<'k>,
    /// First sum along i, in the sequence, and how many.
    row: Value<'k>,
    rows: Value<'k>,
    column: Value<'k>,
    columns: Value<'k>,
    /// Terms of a sum.
    terms: Value<'k>,
}

impl<'k> Tile<'k> {
    /// The last two parameters too.
    fn of_block(k: &'k Builder, spec: &Mix) -> Tile<'k> {
        let (tokens, sequence_tokens) = (k.scalar("tokens", DType::I32), k.scalar("sequence_tokens", DType::I32));
        let (column_tiles, all_slots) = (spec.column_tiles() as i32, k.i32(spec.all_slots() as i32));
        let row_tiles = match spec.into {
            Into::Slots => k.i32(spec.all_slots().div_ceil(TILE) as i32),
            Into::Tokens => k.bind("row_tiles", (sequence_tokens + (TILE - 1) as i32) / TILE as i32),
        };
        let index = k.bind("tile", k.block() / column_tiles);
        let column = k.bind("column", k.block() % column_tiles * TILE as i32);
        let sequence = k.bind("sequence", index / row_tiles);
        let row = k.bind("row", (index - sequence * row_tiles) * TILE as i32);
        let first_token = k.bind("first_token", sequence * sequence_tokens);
        let tokens_here = k.bind("tokens_here", sequence_tokens.min(tokens - first_token));
        let (sums, terms) = match spec.into {
            Into::Slots => (all_slots, tokens_here),
            Into::Tokens => (tokens_here, all_slots),
        };
        Tile {
            sequence,
            sequences: k.bind("sequences", (tokens + sequence_tokens - 1) / sequence_tokens),
            first_token,
            row,
            rows: k.bind("tile_rows", (sums - row).min(TILE as i32)),
            column,
            columns: k.bind("tile_columns", (k.i32(spec.n as i32) - column).min(TILE as i32)),
            terms,
        }
    }
}

#[derive(Clone, Copy)]
struct Cx<'a, 'k> {
    k: &'k Builder,
    spec: &'a Mix<'a>,
    args: &'a Args<'k>,
    tile: Tile<'k>,
}

impl<'k> Cx<'_, 'k> {
    /// The row of a slot of this sequence, in the order of the grouped rows.
    fn row_of_slot(self, slot: Value<'k>) -> Value<'k> {
        let (each, tile) = (self.spec.slots as i32, self.tile);
        let of_expert = slot / each * tile.sequences + tile.sequence;
        let row = if each == 1 { of_expert } else { of_expert * each + slot % each };
        self.k.bind("row_of_slot", row)
    }

    /// Where the weight of sum `row` of the tile and term `term` is.
    fn weight(self, row: Value<'k>, term: Value<'k>) -> Value<'k> {
        let row = self.tile.row + row;
        let (token, slot) = match self.spec.into {
            Into::Slots => (term, row),
            Into::Tokens => (row, term),
        };
        cell(self.tile.first_token + token, self.k.i32(self.spec.all_slots() as i32), slot)
    }

    /// Where the row of term `term` has this column of the tile.
    fn element(self, term: Value<'k>, column: Value<'k>) -> Value<'k> {
        let row = match self.spec.into {
            Into::Slots => self.tile.first_token + term,
            Into::Tokens => self.row_of_slot(term),
        };
        cell(row, self.k.i32(self.spec.n as i32), self.tile.column + column)
    }

    /// Puts a finished sum, lanes along the columns, through the body and stores it.
    fn finish(self, row: Value<'k>, column: Value<'k>, sum: Value<'k>) {
        let (k, lanes, column) = (self.k, sum.ty().lanes, self.tile.column + column);
        let row = match self.spec.into {
            Into::Slots => self.row_of_slot(self.tile.row + row),
            Into::Tokens => k.bind("token", self.tile.first_token + self.tile.row + row),
        };
        let place = k.bind("place", cell(row, k.i32(self.spec.n as i32), column));
        let y = body::pointwise(k, self.spec.body, Accuracy::Full, &mut |hole| match hole.checked_sub(1).map(|i| i as usize) {
            None => sum,
            Some(i) => {
                let from = self.args.operands[i];
                let loaded = match self.spec.operands[i].0 {
                    Spread::One => from.load(k.i32(0)).splat(lanes),
                    Spread::Row => from.load_vector(column, lanes),
                    Spread::Columns(columns) => columns.load(k, from, row, column, lanes),
                    Spread::Full => from.load_vector(place, lanes),
                };
                loaded.cast(DType::F32)
            }
        });
        self.args.out.store(place, y.cast(self.spec.out));
    }

    /// A tile of a GPU.
    fn in_shared_memory(self) {
        let (k, tile) = (self.k, self.tile);
        let [left, right] = ["left", "right"].map(|name| k.shared(name, DType::F32, DEPTH * PITCH));
        let row = k.bind("first_row", k.thread() / SIDE as i32 * EACH as i32);
        let column = k.bind("first_column", k.thread() % SIDE as i32 * EACH as i32);
        let sums: Vec<Var> = (0..EACH).map(|_| k.var("sum", k.f32(0.0).splat(EACH))).collect();
        // Neighbouring threads take neighbours in memory.
        let weights = match self.spec.into {
            Into::Slots => Share::along_lines(k),
            Into::Tokens => Share::along_steps(k),
        };
        let rows = Share::along_lines(k);
        k.for_step("slice", k.i32(0), tile.terms, k.i32(DEPTH as i32), |slice| {
            let ws =
                weights.load(slice, tile.terms, |step, line| self.args.weights.load(self.weight(line.min(tile.rows - 1), step)));
            let xs = rows.load(slice, tile.terms, |step, line| {
                self.args.rows.load(self.element(step, line.min(tile.columns - 1))).cast(DType::F32)
            });
            // No thread reads the slice before any more.
            k.barrier();
            weights.store(left, &ws);
            rows.store(right, &xs);
            k.barrier();
            k.for_range("step", k.i32(0), k.i32(DEPTH as i32), |step| {
                let four = |side: Array<'k>, first: Value<'k>| side.load_aligned(step * PITCH as i32 + first, EACH, 16);
                let (w, x) = (four(left, row), four(right, column));
                for (r, sum) in sums.iter().enumerate() {
                    sum.set(w.lane(r as u32).splat(EACH).fma(x, sum.get()));
                }
            });
        });
        for (r, sum) in sums.iter().enumerate() {
            for c in 0..EACH {
                let (row, column) = (row + r as i32, column + c as i32);
                k.when(row.lt(tile.rows) & column.lt(tile.columns), || self.finish(row, column, sum.get().lane(c)));
            }
        }
    }

    /// A tile of the host: rectangles of sums, those of four rows first.
    fn in_registers(self, machine: &Machine) {
        let (k, tile) = (self.k, self.tile);
        let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
        let columns = |rows: &[Value<'k>]| {
            let mut from = k.i32(0);
            for (vectors, lanes) in [(VECTORS, lanes), (1, lanes), (1, 1)] {
                let step = (vectors * lanes) as i32;
                let end = k.bind("end", from + (tile.columns - from) / step * step);
                k.for_step("column", from, end, k.i32(step), |column| self.rectangle(rows, column, vectors, lanes));
                from = end;
            }
        };
        let fours = k.bind("fours", tile.rows & -(EACH as i32));
        k.for_step("row", k.i32(0), fours, k.i32(EACH as i32), |row| {
            columns(&(0..EACH as i32).map(|r| k.bind("row", row + r)).collect::<Vec<_>>());
        });
        k.for_range("row", fours, tile.rows, |row| columns(&[row]));
    }

    fn rectangle(self, rows: &[Value<'k>], column: Value<'k>, vectors: u32, lanes: u32) {
        let k = self.k;
        let zero = k.f32(0.0).splat(lanes);
        let sums: Vec<Vec<Var>> = rows.iter().map(|_| (0..vectors).map(|_| k.var("sum", zero)).collect()).collect();
        k.for_range("term", k.i32(0), self.tile.terms, |term| {
            let at = k.bind("at", self.element(term, column));
            let xs: Vec<Value> =
                (0..vectors).map(|v| self.args.rows.load_vector(at + (v * lanes) as i32, lanes).cast(DType::F32)).collect();
            for (row, sums) in rows.iter().zip(&sums) {
                let w = self.args.weights.load(self.weight(*row, term)).splat(lanes);
                for (x, sum) in xs.iter().zip(sums) {
                    sum.set(w.fma(*x, sum.get()));
                }
            }
        });
        for (row, sums) in rows.iter().zip(&sums) {
            for (v, sum) in (0..vectors).zip(sums) {
                self.finish(*row, column + (v * lanes) as i32, sum.get());
            }
        }
    }
}

/// What a thread brings to shared memory of a slice of one side: of `DEPTH` steps along k and `TILE` lines, every
/// `SIDE x SIDE`-th element in the order in which they lie in memory.
struct Share<'k> {
    k: &'k Builder,
    /// Each element's step and line.
    places: Vec<(Value<'k>, Value<'k>)>,
}

impl<'k> Share<'k> {
    const ELEMENTS: u32 = DEPTH * TILE / (SIDE * SIDE);

    /// Lines are neighbours in memory.
    fn along_lines(k: &'k Builder) -> Share<'k> {
        let (step, line) = (k.bind("step", k.thread() / TILE as i32), k.bind("line", k.thread() % TILE as i32));
        let stride = (SIDE * SIDE / TILE) as i32;
        Share { k, places: (0..Self::ELEMENTS as i32).map(|i| (step + i * stride, line)).collect() }
    }

    /// Steps are neighbours in memory.
    fn along_steps(k: &'k Builder) -> Share<'k> {
        let (step, line) = (k.bind("step", k.thread() % DEPTH as i32), k.bind("line", k.thread() / DEPTH as i32));
        let stride = (SIDE * SIDE / DEPTH) as i32;
        Share { k, places: (0..Self::ELEMENTS as i32).map(|i| (step, line + i * stride)).collect() }
    }

    /// The elements of the slice from `slice` on, zeros beyond the last term.
    fn load(&self, slice: Value<'k>, terms: Value<'k>, of: impl Fn(Value<'k>, Value<'k>) -> Value<'k>) -> Vec<Value<'k>> {
        let load = |(step, line): &(Value<'k>, Value<'k>)| {
            let term = self.k.bind("term", slice + *step);
            let inside = term.lt(terms);
            (inside, of(self.k.bind("inside", term.min(terms - 1)), *line))
        };
        let loaded: Vec<(Value, Value)> = self.places.iter().map(load).collect();
        loaded.into_iter().map(|(inside, x)| self.k.bind("element", inside.select(x, 0.0))).collect()
    }

    /// Puts them where the sums read them.
    fn store(&self, side: Array<'k>, elements: &[Value<'k>]) {
        for ((step, line), x) in self.places.iter().zip(elements) {
            side.store(*step * PITCH as i32 + *line, *x);
        }
    }
}
