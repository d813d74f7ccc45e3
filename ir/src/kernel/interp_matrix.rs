//! What copies under way and matrices of a warp do: the definition of their statements.

use super::fragment::{self, place_in_a, place_in_b, place_in_sums};
use super::interp::Memory;
use super::{arith, fragment::LANES};
use crate::{DType, MatrixShape};

/// Bytes of a row of a matrix that is loaded.
const ROW_BYTES: usize = 16;
/// Rows, and elements of a row.
const SIDE: usize = 8;

/// The copies of a block that have not arrived.
#[derive(Default)]
pub(super) struct Copies {
    under_way: Vec<Copy>,
    /// Groups that each thread has made, by thread.
    groups: Vec<u32>,
}

struct Copy {
    thread: u32,
    /// Index of the shared array, and the first byte in it.
    to: (usize, usize),
    bytes: Vec<u8>,
    group: u32,
}

impl Copies {
    pub(super) fn of_threads(threads: u32) -> Copies {
        Copies { under_way: Vec::new(), groups: vec![0; threads as usize] }
    }

    /// The bytes leave for an array, which must not be touched from now on.
    pub(super) fn start(&mut self, thread: u32, shared: &mut [Memory], to: (usize, usize), bytes: Vec<u8>) -> Result<(), String> {
        shared[to.0].expect_at(to.1, bytes.len())?;
        self.under_way.push(Copy { thread, to, bytes, group: self.groups[thread as usize] });
        Ok(())
    }

    pub(super) fn commit(&mut self, thread: u32) {
        self.groups[thread as usize] += 1;
    }

    /// All but the last `left` groups of the thread arrive.
    pub(super) fn wait(&mut self, thread: u32, left: u32, shared: &mut [Memory]) {
        let arrived = self.groups[thread as usize].saturating_sub(left);
        let arrives = |copy: &mut Copy| copy.thread == thread && copy.group < arrived;
        for copy in self.under_way.extract_if(.., arrives) {
            shared[copy.to.0].arrive_at(copy.to.1, &copy.bytes);
        }
    }
}

/// The pairs that the lanes of a warp get of a matrix, of rows that begin at these bytes: as [`fragment`] says.
pub(super) fn load_matrix(memory: &Memory, elem: DType, rows: &[usize], transposed: bool) -> Result<Vec<[u64; 2]>, String> {
    let mut matrix = Vec::with_capacity(SIDE * SIDE);
    for at in rows {
        memory.read(elem, *at, SIDE, &mut matrix)?;
    }
    let element = |row: usize, column: usize| matrix[row * SIDE + column];
    let pair = |lane: usize| {
        let (line, along) = (lane / 4, 2 * (lane % 4));
        if transposed {
            [element(along, line), element(along + 1, line)]
        } else {
            [element(line, along), element(line, along + 1)]
        }
    };
    Ok((0..LANES as usize).map(pair).collect())
}

/// The first byte of a row from element `offset` on, if all of it is inside and aligned.
pub(super) fn matrix_row(memory: &Memory, elem: DType, offset: u64) -> Result<usize, String> {
    super::interp::address(memory, elem, offset, SIDE, ROW_BYTES as u32)
}

/// The lanes' sums after `sums += a * b`: `a[p]` and `b[p]` have pair `p` of every lane, as do `sums` and the result sum `i`.
pub(super) fn multiply(shape: MatrixShape, elem: DType, a: &[Vec<[u64; 2]>], b: &[Vec<[u64; 2]>], sums: &mut [Vec<u64>]) {
    let (rows, columns, depth) = shape.extents();
    let lines = |pairs: &[Vec<[u64; 2]>], lines: u32, place: fn(u32, u32) -> (u32, u32)| {
        let mut matrix = vec![vec![0; depth as usize]; lines as usize];
        for (pair, of_lanes) in (0..).zip(pairs) {
            for (lane, elements) in (0..).zip(of_lanes) {
                let (line, k) = place(lane, pair);
                matrix[line as usize][k as usize..k as usize + 2].copy_from_slice(elements);
            }
        }
        matrix
    };
    let (a, b) = (lines(a, rows, place_in_a), lines(b, columns, place_in_b));
    for (i, of_lanes) in (0..fragment::SUMS).zip(sums) {
        for (lane, sum) in (0..).zip(of_lanes) {
            let (row, column) = place_in_sums(lane, i);
            *sum = arith::add_products(elem, *sum, &a[row as usize], &b[column as usize]);
        }
    }
}
