//! How weights lie in panels, and the kernel that puts them there once, when they are bound.
//!
//! ```text
//!   [experts, parts of K, panels of columns, lines of a part, columns of a panel, elements of a line]
//!
//!    part 0                          part 1
//!   +--------+--------+-- .. --+    +--------+-- ..      a part: OUTER_DEPTH elements of K, the last one may have fewer
//!   | panel  | panel  |        |    | panel  |           a panel: the columns of one vector of f32
//!   | 0      | 1      |        |    | 0      |           a line: one element of K of each column; of bf16 two
//!   +--------+--------+-- .. --+    +--------+-- ..
//! ```
//!
//! A tile of [`Kind::Packed`](crate::tiling::Kind::Packed) goes through the panels of a part, then to the next part: it reads memory
//! in order, and a line is what it multiplies at a time. Columns behind the last one are copies of it, which no result depends on. An element
//! of K behind the last one is 0.
//!
//! Bytes: the weights are read and written once.

use super::super::halves::widened;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::tiling::{OUTER_DEPTH, Panels};
use crate::{DType, Extent, Machine, tiling};

/// Elements of 32 bits of each column that are transposed together, and the most columns.
const SQUARE: u32 = 8;

/// Columns whose weights are transposed together: those of a panel, where it has fewer.
pub(super) fn square_columns(lanes: u32) -> u32 {
    SQUARE.min(lanes)
}

/// A weight to put in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pack {
    /// Number of experts; 1 if dense.
    pub experts: u64,
    /// Columns of an expert.
    pub n: u64,
    /// Elements of K of a column.
    pub k: u64,
    /// Element type of the weight.
    pub weight: DType,
    /// Element type in the panels: the same, or f32.
    pub out: DType,
}

impl Pack {
    /// How the panels lie.
    fn panels(&self, machine: &Machine) -> Panels {
        tiling::panels(self.out, [self.n, self.k], machine)
    }

    /// The shape of all of them.
    pub(crate) fn shape(&self, machine: &Machine) -> Vec<Extent> {
        let Panels { n, k, .. } = self.panels(machine);
        [self.experts, n, k].map(Extent::from).to_vec()
    }

    /// A block a panel.
    pub(crate) fn grid(&self, machine: &Machine) -> Extent {
        let Panels { n, columns, .. } = self.panels(machine);
        Extent::from(self.experts) * (n / u64::from(columns))
    }
}

/// Where a panel of a part starts (`I64`), in elements: of an expert if there are some (`I32`), of the part at `start` (`I64`), the columns
/// from `column` on (`I32`).
pub(super) fn start<'k>(
    k: &'k Builder,
    panels: Panels,
    expert: Option<Value<'k>>,
    part: Value<'k>,
    column: Value<'k>,
) -> Value<'k> {
    let (n, depth) = (k.i64(panels.n as i64), k.i64(OUTER_DEPTH.into()));
    let depth = (k.i64(panels.k as i64) - part).min(depth);
    let within = n * part + column.cast(DType::I64) * depth;
    let of_expert = expert.map(|expert| expert.cast(DType::I64) * k.i64((panels.n * panels.k) as i64));
    k.bind("panel", of_expert.map_or(within, |of_expert| of_expert + within))
}

/// Elements of each column that are transposed together.
pub(super) fn square_depth(elem: DType) -> u32 {
    if in_pairs(elem) { 2 * SQUARE } else { SQUARE }
}

/// Whether elements of this type are transposed in pairs.
fn in_pairs(elem: DType) -> bool {
    elem == DType::BF16
}

/// Some columns of a weight, which start at `starts`, from element `at` on (`I64`), transposed: lines of these columns in order. As numbers
/// in f32, or where `pairs` as two elements of K together in 32 bits.
pub(super) fn square<'k>(k: &'k Builder, weights: Array<'k>, starts: &[Value<'k>], at: Value<'k>, pairs: bool) -> Vec<Value<'k>> {
    let elem = weights.elem();
    let depth = square_depth(elem);
    let mut lines: Vec<Value> = starts
        .iter()
        .map(|start| {
            let line = weights.load_vector(*start + at, depth);
            if in_pairs(elem) { line.bitcast(DType::I32) } else { line.cast(DType::F32) }
        })
        .collect();
    while lines.len() > 1 {
        lines = lines.chunks(2).map(|two| two[0].concat(two[1])).collect();
    }
    let columns = starts.len() as u32;
    let square = k.bind("square", lines[0].transpose(columns));
    let of = |square: Value<'k>| (0..SQUARE).map(move |line| square.lanes(line * columns, columns));
    if !in_pairs(elem) || pairs {
        return of(square).collect();
    }
    let [even, odd] = widened(square);
    of(even).zip(of(odd)).flat_map(|(even, odd)| [even, odd]).collect()
}

/// The kernel. Parameters: `weights`, `panels`.
pub(crate) fn pack(name: &str, spec: &Pack, machine: &Machine) -> Kernel {
    let k = Builder::new(name, 1);
    let (weights, out) = (k.input("weights", spec.weight), k.output("panels", spec.out));
    panel(&k, spec, spec.panels(machine), weights, out);
    k.finish()
}

/// The block's panel.
fn panel<'k>(k: &'k Builder, spec: &Pack, panels: Panels, weights: Array<'k>, out: Array<'k>) {
    let of_expert = k.i32((panels.n / u64::from(panels.columns)) as i32);
    let (expert, panel) = (k.bind("expert", k.block() / of_expert), k.bind("panel", k.block() % of_expert));
    let column = k.bind("column", panel * panels.columns as i32);
    let starts: Vec<Value> = (0..panels.columns)
        .map(|c| {
            let inside = (column + c as i32).min((spec.n - 1) as i32);
            let line = expert.cast(DType::I64) * k.i64(spec.n as i64) + inside.cast(DType::I64);
            k.bind("from", line * k.i64(spec.k as i64))
        })
        .collect();
    let (depth, step) = (k.i64(OUTER_DEPTH.into()), square_depth(spec.weight));
    let [of_line, columns] = [panels.of_line, panels.columns].map(i64::from);
    k.for_step("part", k.i64(0), k.i64(spec.k as i64), depth, |part| {
        let to = start(k, panels, Some(expert), part, column);
        let end = k.bind("end", (part + depth).min(k.i64(spec.k as i64)));
        let whole = k.bind("whole", part + ((end - part) & -(step as i32)));
        // Where the line of an element is.
        let line = |at: Value<'k>| k.bind("line", to + (at - part) * k.i64(columns));
        k.for_step("at", part, whole, k.i64(step.into()), |at| {
            let to = line(at);
            let together = square_columns(panels.columns) as usize;
            for (first, starts) in (0..).step_by(together).zip(starts.chunks(together)) {
                let squares = square(k, weights, starts, at, of_line == 2);
                for (i, of_line) in (0..).zip(squares) {
                    let lanes = if panels.of_line == 2 { of_line.bitcast(spec.out) } else { of_line.cast(spec.out) };
                    out.store(to + k.i64(i64::from(panels.of_line) * (i * columns + first)), lanes);
                }
            }
        });
        if !spec.k.is_multiple_of(step.into()) {
            k.for_step("at", whole, end, k.i64(of_line), |at| {
                let to = line(at);
                for (c, start) in (0..).zip(&starts) {
                    let of_column = to + k.i64(c * of_line);
                    out.store(of_column, weights.load(*start + at).cast(spec.out));
                    if of_line == 2 {
                        let second = k.var("second", k.f32(0.0));
                        k.when((at + 1).lt(end), || second.set(weights.load(*start + at + 1).cast(DType::F32)));
                        out.store(of_column + 1, second.get().cast(spec.out));
                    }
                }
            });
        }
    });
}
