//! What the launch behind this one reads first: blocks that have no more tiles ask for it, so that it is in the last cache when that
//! launch begins. Between two launches memory would else have nothing to do: the first one's blocks end at different times, and those of the
//! second must have waited for it before they know that rows are there.
//!
//! **Bytes.** No more are read than that launch reads. A block asks for what the block of its number will load in the first turn of its
//! first tile: of each line of a weight `stream_steps x 256` bytes, some 13 MB of 50 for all blocks of an H200.

use super::{Gemm, Table, each_part, weight_name, weight_start};
use crate::DType;
use crate::kernel::build::Array;
use crate::kernel::{Builder, Value};
use crate::tiling::{STREAM_DEPTH, STREAM_THREADS, stream_steps};

/// Bytes that memory gives at a time.
const LINE: u64 = 128;

/// The parameters of a part of the next launch.
pub(super) struct Ahead<'k> {
    table: Table<'k>,
    weights: Vec<Array<'k>>,
}

impl<'k> AsRef<Table<'k>> for Ahead<'k> {
    fn as_ref(&self) -> &Table<'k> {
        &self.table
    }
}

/// What a kernel calls a parameter of the next launch's that it is given for this.
pub(crate) fn param(name: &str) -> String {
    format!("next_{name}")
}

/// The end of a block's work, which asks for the first tile of the block of this number of the next launch.
pub(super) struct End<'a, 'k> {
    specs: &'a [&'a Gemm<'a>],
    parts: Vec<Ahead<'k>>,
    /// Blocks of all of its parts but the last.
    of_parts: Vec<Value<'k>>,
}

impl<'a, 'k> End<'a, 'k> {
    pub(super) fn declare(k: &'k Builder, specs: &'a [&'a Gemm<'a>]) -> End<'a, 'k> {
        let declare = |spec: &&Gemm| {
            let name = |name: &str| param(&spec.param(name));
            let table = Table::declare(k, spec, &name);
            let weights = (0..).zip(&spec.weights).map(|(i, elem)| k.input(&name(&weight_name(i)), *elem)).collect();
            Ahead { table, weights }
        };
        let parts = specs.iter().map(declare).collect();
        let but_last = &specs[..specs.len().saturating_sub(1)];
        let of_parts = but_last.iter().map(|spec| k.scalar(&param(&spec.param("blocks")), DType::I32)).collect();
        End { specs, parts, of_parts }
    }

    pub(super) fn ask(&self, k: &'k Builder) {
        let parts: Vec<_> = self.specs.iter().copied().zip(&self.parts).collect();
        each_part(k, &parts, &self.of_parts, k.block(), &|spec, ahead, tile| {
            let elements = u64::from(STREAM_DEPTH) * u64::from(stream_steps(spec.tiling, spec.weights.len(), spec.k));
            let of_line = LINE / spec.rows.bytes();
            let lines_of_memory = elements.min(spec.k).div_ceil(of_line) as u32;
            let items = spec.tiling.columns * lines_of_memory;
            for first in (0..items).step_by(STREAM_THREADS as usize) {
                let item = k.bind("item", k.thread() + first as i32);
                let column = k.bind("column", item / lines_of_memory as i32);
                k.when(column.lt(tile.columns), || {
                    let along = (item % lines_of_memory as i32 * of_line as i32).cast(DType::I64);
                    let at = k.bind("at", weight_start(k, spec, tile, tile.column + column) + along);
                    ahead.weights.iter().for_each(|weight| weight.prefetch(at));
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{BodyBuilder, Node};
    use crate::kernel::{Argument, Block, Expr, Handle, Memory, Place, Stmt, interp_kernel};
    use crate::schedule::math::Accuracy;
    use crate::tiling::Kind;
    use crate::{Extent, Machine, Tiling};

    /// In place of asking for an element it is counted.
    fn counting(block: &mut Block, counts: u32, one: Handle<Expr>) {
        for stmt in block {
            if let Stmt::Prefetch { offset, .. } = *stmt {
                *stmt = Stmt::AtomicAdd { local: None, to: Place::Param(counts), offset, value: one };
            } else if let Stmt::If { then, .. } = stmt {
                counting(then, counts, one);
            }
        }
    }

    /// Experts of 1, 2, 0 and 9 rows are three tiles of the sort, and tiles of 8 rows two parts of each, of which the second of the last
    /// alone has a row. 40 columns are three blocks. 136 of K are three times 128 bytes of bf16.
    #[test]
    fn each_block_asks_for_its_first_tile() {
        const K: usize = 136;
        let machine = Machine::named("sm_90a").unwrap();
        let mut body = BodyBuilder::default();
        let root = body.add(Node::Hole(0));
        let body = body.finish(root);
        let spec = Gemm {
            part: 0,
            n: 40,
            k: K as u64,
            experts: Some(4),
            gather: false,
            pairs: Extent::Const(12),
            rows_of_expert: None,
            rows: DType::BF16,
            weights: vec![DType::BF16],
            operands: Vec::new(),
            body: &body,
            out: DType::BF16,
            tiling: Tiling { kind: Kind::Stream, rows: 8, columns: 16 },
            sorted_rows: 64,
            accuracy: Accuracy::of(DType::BF16, &machine),
        };
        let k = Builder::new("end", STREAM_THREADS);
        let specs = [&spec];
        End::declare(&k, &specs).ask(&k);
        let _ = k.output("counts", DType::I32);
        let mut kernel = k.finish();
        let counts = kernel.params.len() as u32 - 1;
        let one = kernel.exprs.iter().find_map(|(one, expr)| (*expr == Expr::Int(1, DType::I32)).then_some(one)).unwrap();
        counting(&mut kernel.body, counts, one);
        let asked = |blocks: u64| {
            let ints = |values: &[i32]| Memory::from(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            let elements = 4 * 40 * K;
            let mut memory = vec![ints(&[0, 1, 3]), ints(&[0, 1, 3]), ints(&[3]), ints(&[0, 1, 3, 3, 12])];
            memory.push(Memory::from(vec![0; 2 * elements]));
            memory.push(ints(&vec![0; elements]));
            let mut args: Vec<Argument> = (0..4).map(Argument::Buffer).collect();
            args.extend([Argument::Scalar(2), Argument::Buffer(4), Argument::Buffer(5)]);
            interp_kernel(&kernel, &machine, blocks, &args, &mut memory).unwrap();
            let counts = memory[5].bytes().unwrap();
            let counts: Vec<u8> = counts.chunks(4).map(|bytes| bytes[0]).collect();
            // Of each line of each expert.
            counts
                .chunks(K)
                .map(|line| (0..K).filter(|at| line[*at] > 0).map(|at| (at, line[at])).collect())
                .collect::<Vec<Vec<_>>>()
        };
        let line = |times: u8| if times == 0 { Vec::new() } else { [0, 64, 128].map(|at| (at, times)).to_vec() };
        let lines = |of: [[u8; 3]; 4]| -> Vec<_> {
            of.iter().flat_map(|blocks| (0..40).map(move |column| blocks[column / 16])).map(line).collect()
        };
        // Blocks 3 and 4 are parts without rows.
        assert_eq!(asked(18), lines([[1, 1, 1], [1, 1, 1], [0; 3], [2, 2, 2]]));
        assert_eq!(asked(7), lines([[1, 1, 0], [1, 0, 0], [0; 3], [2, 0, 0]]));
        // More blocks than there are tiles.
        assert_eq!(asked(30), asked(18));
    }
}
