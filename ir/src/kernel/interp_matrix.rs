//! What copies under way and matrices of a warp do: the definition of their statements.

use std::ops::Range;

use super::fragment::{self, LANES, SUMS, place_in_a, place_in_b, place_in_sums};
use super::interp::Run;
use super::memory::Memory;
use super::{Expr, Handle, Local, Place, Registers, arith};
use crate::{DType, MatrixShape};

/// Bytes of a row of a matrix that is loaded.
const ROW_BYTES: usize = 16;
/// Rows, and elements of 16 bits of a row.
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

    /// The copies of a thread, which it need not wait for any more: to which byte of which array, and what they bring.
    pub(super) fn take(&mut self, thread: u32) -> Vec<(usize, usize, Vec<u8>)> {
        let of_thread = self.under_way.extract_if(.., |copy| copy.thread == thread);
        of_thread.map(|Copy { to: (array, at), bytes, .. }| (array, at, bytes)).collect()
    }

    /// All but the last `left` groups of the thread arrive: which bytes of which arrays.
    pub(super) fn wait(&mut self, thread: u32, left: u32, shared: &mut [Memory]) -> Vec<(usize, Range<usize>)> {
        let over = self.groups[thread as usize].saturating_sub(left);
        let arrives = |copy: &mut Copy| copy.thread == thread && copy.group < over;
        let mut arrived = Vec::new();
        for Copy { to: (array, at), bytes, .. } in self.under_way.extract_if(.., arrives) {
            shared[array].arrive_at(at, &bytes);
            arrived.push((array, at..at + bytes.len()));
        }
        arrived
    }
}

impl Run<'_> {
    pub(super) fn load_matrices(
        &mut self,
        locals: &[Handle<Local>],
        (from, offset): (Place, Handle<Expr>),
        transposed: bool,
        active: &[u32],
    ) -> Result<(), String> {
        self.whole_warps(active)?;
        let offsets = self.eval(offset, active)?;
        let (memory, elem) = self.array(from)?;
        let elements = ROW_BYTES / elem.bytes() as usize;
        let mut loaded = vec![Vec::with_capacity(elements / 4 * active.len()); locals.len()];
        for (warp, offsets) in active.chunks(LANES as usize).zip(offsets.chunks(LANES as usize)) {
            for (i, loaded) in loaded.iter_mut().enumerate() {
                let rows = 8 * i..8 * i + 8;
                let place = |why| format!("matrix {i} of the warp of thread {}: {why}", warp[0]);
                let rows = offsets[rows].iter().map(|offset| matrix_row(memory, elem, *offset));
                let rows: Vec<usize> = rows.collect::<Result<_, _>>().map_err(place)?;
                let pairs = load_matrix(memory, elem, &rows, transposed).map_err(place)?;
                loaded.extend(pairs);
            }
        }
        locals.iter().zip(&loaded).for_each(|(local, pairs)| self.bind(*local, active, pairs));
        Ok(())
    }

    pub(super) fn store_matrices(
        &mut self,
        (to, offset): (Place, Handle<Expr>),
        pairs: &[Handle<Expr>],
        transposed: bool,
        active: &[u32],
    ) -> Result<(), String> {
        self.whole_warps(active)?;
        let offsets = self.eval(offset, active)?;
        let pairs = pairs.iter().map(|pair| self.eval(*pair, active)).collect::<Result<Vec<_>, _>>()?;
        for (w, warp) in active.chunks(LANES as usize).enumerate() {
            let of_warp = w * LANES as usize;
            for (i, pairs) in pairs.iter().enumerate() {
                let lanes = &pairs[2 * of_warp..2 * (of_warp + LANES as usize)];
                for row in 0..SIDE {
                    // The element of column c of a row: of lane 4 row + c / 2, or of the other way round.
                    let element = |column: usize| {
                        let (line, along) = if transposed { (column, row) } else { (row, column) };
                        lanes[2 * (4 * line + along / 2) + along % 2]
                    };
                    let elements: Vec<u64> = (0..SIDE).map(element).collect();
                    let stored = self.store(to, offsets[of_warp + 8 * i + row], &elements, ROW_BYTES as u32);
                    stored.map_err(|why| format!("matrix {i} of the warp of thread {}: {why}", warp[0]))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn mma(
        &mut self,
        shape: MatrixShape,
        (sums, at): (Handle<Registers>, u32),
        [a, b]: [&[Handle<Expr>]; 2],
        active: &[u32],
    ) -> Result<(), String> {
        self.whole_warps(active)?;
        let elem = self.types[a[0].index()].elem;
        let a = a.iter().map(|pairs| self.eval(*pairs, active)).collect::<Result<Vec<_>, _>>()?;
        let b = b.iter().map(|pairs| self.eval(*pairs, active)).collect::<Result<Vec<_>, _>>()?;
        let word = fragment::elements_of_word(elem) as usize;
        for (w, warp) in active.chunks(LANES as usize).enumerate() {
            let lanes = word * w * LANES as usize..word * (w + 1) * LANES as usize;
            let of_warp = |pairs: &Vec<u64>| pairs[lanes.clone()].to_vec();
            let (a, b): (Vec<_>, Vec<_>) = (a.iter().map(of_warp).collect(), b.iter().map(of_warp).collect());
            let mut of_lanes = Vec::new();
            for i in 0..SUMS {
                of_lanes.push(self.of_registers(sums, at + i, warp)?);
            }
            multiply(shape, elem, &a, &b, &mut of_lanes);
            for (i, of_lanes) in (0..SUMS).zip(of_lanes) {
                self.set_registers(sums, at + i, warp, &of_lanes)?;
            }
        }
        Ok(())
    }
}

/// What the lanes of a warp get of a matrix, of rows that begin at these bytes: as [`fragment`] says.
fn load_matrix(memory: &Memory, elem: DType, rows: &[usize], transposed: bool) -> Result<Vec<u64>, String> {
    let (columns, word) = (ROW_BYTES / elem.bytes() as usize, fragment::elements_of_word(elem) as usize);
    let mut matrix = Vec::with_capacity(rows.len() * columns);
    for at in rows {
        memory.read(elem, *at, columns, &mut matrix)?;
    }
    let element = |row: usize, column: usize| matrix[row * columns + column];
    let of_lane = |lane: usize| {
        let (line, along) = (lane / 4, word * (lane % 4));
        (along..along + word).map(move |along| if transposed { element(along, line) } else { element(line, along) })
    };
    Ok((0..LANES as usize).flat_map(of_lane).collect())
}

/// The first byte of a row from element `offset` on, if all of it is inside and aligned.
fn matrix_row(memory: &Memory, elem: DType, offset: u64) -> Result<usize, String> {
    super::interp::address(memory, elem, offset, ROW_BYTES / elem.bytes() as usize, ROW_BYTES as u32)
}

/// The lanes' sums after `sums += a * b`: `a[p]` and `b[p]` have pair `p` of every lane, as do `sums` and the result sum `i`.
fn multiply(shape: MatrixShape, elem: DType, a: &[Vec<u64>], b: &[Vec<u64>], sums: &mut [Vec<u64>]) {
    let (rows, columns, depth) = shape.extents();
    let word = fragment::elements_of_word(elem) as usize;
    let lines = |pairs: &[Vec<u64>], lines: u32, place: fn(DType, u32, u32) -> (u32, u32)| {
        let mut matrix = vec![vec![0; depth as usize]; lines as usize];
        for (pair, of_lanes) in (0..).zip(pairs) {
            for (lane, elements) in (0..).zip(of_lanes.chunks(word)) {
                let (line, k) = place(elem, lane, pair);
                matrix[line as usize][k as usize..k as usize + word].copy_from_slice(elements);
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
