//! Products of four warps: what they read, what they sum, and what is under way.

use std::collections::BTreeMap;
use std::ops::Range;

use super::fragment::{LANES, group_sums, place_in_a, place_in_group_sums};
use super::interp::Run;
use super::memory::Memory;
use super::panels::{GROUP_ROWS, STEP};
use super::{Factor, Handle, Panels, Registers, Shared, arith};
use crate::DType;

/// Threads that compute a product together.
const THREADS: usize = 4 * LANES as usize;
/// Rows of the left factor whose sums a warp has.
const WARP_ROWS: u32 = 16;

/// The products and stores of boxes of a block that are not waited for, and what they have to do with its shared memory.
#[derive(Default)]
pub(super) struct Products {
    under_way: Vec<Product>,
    /// The bytes of arrays that stores of boxes read, and the threads that started them.
    stores: Vec<(u32, (usize, Range<usize>))>,
    /// How many each group of warps has started, by its first thread.
    started: BTreeMap<u32, u32>,
    /// For each byte of each array whether it was stored since the last fence.
    stored: Vec<Vec<bool>>,
}

struct Product {
    /// The first of its threads.
    first: u32,
    /// Its place among those of its threads.
    number: u32,
    sums: Sums,
    /// The bytes that it reads, with their arrays.
    reads: Vec<(usize, Range<usize>)>,
}

/// The sums of a product: of which array of each thread, from which element on, and how many.
#[derive(Clone, Copy, PartialEq)]
struct Sums {
    array: Handle<Registers>,
    at: u32,
    len: u32,
}

impl Sums {
    fn meets(&self, other: &Sums) -> bool {
        self.array == other.array && self.at < other.at + other.len && other.at < self.at + self.len
    }
}

impl Products {
    pub(super) fn of(shared: &[Memory]) -> Products {
        let stored = shared.iter().map(|memory| vec![false; memory.len()]).collect();
        Products { stored, ..Products::default() }
    }

    /// Whether all that was started has been waited for.
    pub(super) fn are_over(&self) -> bool {
        self.under_way.is_empty() && self.stores.is_empty()
    }

    /// These bytes of an array are going to change.
    pub(super) fn change(&self, array: Handle<Shared>, bytes: Range<usize>) -> Result<(), String> {
        let stores = self.stores.iter().map(|(_, bytes)| bytes);
        let mut read = self.under_way.iter().flat_map(|product| &product.reads).chain(stores);
        let meets = |(of, part): &(usize, Range<usize>)| *of == array.index() && part.start < bytes.end && bytes.start < part.end;
        if read.any(meets) {
            Err("changes what a product or a store under way reads: it is not waited for".to_string())
        } else {
            Ok(())
        }
    }

    /// A thread starts to store a box that has these bytes of an array. What was stored there is behind a fence.
    pub(super) fn read_by_store(&mut self, thread: u32, array: Handle<Shared>, bytes: Range<usize>) -> Result<(), String> {
        if let Some(byte) = bytes.clone().find(|byte| self.stored[array.index()][*byte]) {
            return Err(format!("byte {byte} of a box was stored, with no fence since"));
        }
        self.stores.push((thread, (array.index(), bytes)));
        Ok(())
    }

    /// These threads wait for what they store.
    pub(super) fn stores_are_over(&mut self, threads: &[u32]) {
        self.stores.retain(|(thread, _)| threads.binary_search(thread).is_err());
    }

    /// These bytes of an array were written, by a store or by a copy that its thread has waited for.
    pub(super) fn store(&mut self, array: usize, bytes: Range<usize>) {
        self.stored[array][bytes].fill(true);
    }

    /// These bytes of an array came by a bulk copy.
    pub(super) fn land(&mut self, array: usize, bytes: Range<usize>) {
        self.stored[array][bytes].fill(false);
    }

    /// What was stored is seen by products.
    pub(super) fn fence(&mut self) {
        self.stored.iter_mut().for_each(|stored| stored.fill(false));
    }
}

impl Run<'_> {
    pub(super) fn group_mma(
        &mut self,
        [columns, depth]: [u32; 2],
        (array, at): (Handle<Registers>, u32),
        (a, b): (&Factor, &Panels),
        active: &[u32],
    ) -> Result<(), String> {
        whole_groups(active)?;
        let elem = self.kernel.shared[b.array].elem;
        let b_at = self.eval(b.at, active)?;
        let (mut a_at, mut pairs) = (Vec::new(), Vec::new());
        match a {
            Factor::Shared(a) => a_at = self.eval(a.at, active)?,
            Factor::Pairs(of) => pairs = of.iter().map(|pair| self.eval(*pair, active)).collect::<Result<Vec<_>, _>>()?,
        }
        for (i, threads) in active.chunks(THREADS).enumerate() {
            let place = |why| format!("the warps from thread {} on: {why}", threads[0]);
            let of_group = i * THREADS..(i + 1) * THREADS;
            let mut reads = Vec::new();
            let right = self.factor(b, &b_at[of_group.clone()], (columns, depth), &mut reads).map_err(place)?;
            let left = match a {
                Factor::Shared(a) => self.factor(a, &a_at[of_group], (GROUP_ROWS, depth), &mut reads).map_err(place)?,
                Factor::Pairs(_) => of_pairs(&pairs, 2 * of_group.start, depth),
            };
            let sums = Sums { array, at, len: group_sums(columns) };
            self.sum(threads, sums, elem, (&left, &right)).map_err(place)?;
            let products = &mut self.here.products;
            let number = products.started.entry(threads[0]).or_default();
            products.under_way.push(Product { first: threads[0], number: *number, sums, reads });
            *number += 1;
        }
        match a {
            Factor::Pairs(_) => self.wait_products(0, active),
            Factor::Shared(_) => Ok(()),
        }
    }

    /// The rows of a factor, read from shared memory.
    fn factor(
        &self,
        of: &Panels,
        at: &[u64],
        (rows, depth): (u32, u32),
        reads: &mut Vec<(usize, Range<usize>)>,
    ) -> Result<Vec<Vec<u64>>, String> {
        if at.iter().any(|other| *other != at[0]) {
            return Err("they do not agree on where a factor lies".to_string());
        }
        let (memory, elem) = (&self.here.shared[of.array.index()], self.kernel.shared[of.array].elem);
        let elements = |end: u64| end.div_ceil(elem.bytes()) as usize;
        let end = of.parts(rows, depth).map(|part| part.end).max().map_or(0, elements);
        let first = super::interp::address(memory, elem, at[0], end, of.swizzle.align());
        let first = first.map_err(|why| format!("the factor from element {} on: {why}", at[0] as i64))?;
        reads
            .extend(of.parts(rows, depth).map(|part| (of.array.index(), first + part.start as usize..first + part.end as usize)));
        let mut factor = Vec::with_capacity(rows as usize);
        for row in 0..rows {
            let mut of_row = Vec::with_capacity(depth as usize);
            for k in 0..depth {
                let byte = of.swizzle.apply(first as u64 + of.byte(row, k)) as usize;
                memory.read(elem, byte, 1, &mut of_row)?;
                if self.here.products.stored[of.array.index()][byte] {
                    return Err(format!("byte {byte} of a factor was stored, with no fence since"));
                }
            }
            factor.push(of_row);
        }
        Ok(factor)
    }

    /// Each thread's part of the sums has changed, and is not to be touched.
    fn sum(&mut self, threads: &[u32], sums: Sums, elem: DType, (left, right): (&[Vec<u64>], &[Vec<u64>])) -> Result<(), String> {
        let of_threads = self.here.products.under_way.iter().filter(|product| product.first == threads[0]);
        if of_threads.clone().any(|product| product.sums != sums && product.sums.meets(&sums)) {
            return Err("some of the sums are those of another product under way".to_string());
        }
        for (i, thread) in (0..).zip(threads) {
            let (warp, lane) = (i / LANES, i % LANES);
            for sum in 0..sums.len {
                let (row, column) = place_in_group_sums(lane, sum);
                let (memory, byte) = self.register(sums.array, sums.at + sum, *thread);
                let before = memory.sum_at(byte)?;
                let (left, right) = (&left[(WARP_ROWS * warp + row) as usize], &right[column as usize]);
                memory.set_sum_at(byte, arith::add_products(elem, before, left, right));
            }
        }
        Ok(())
    }

    /// All but the last `left` products of these threads are over.
    pub(super) fn wait_products(&mut self, left: u32, active: &[u32]) -> Result<(), String> {
        whole_groups(active)?;
        for threads in active.chunks(THREADS) {
            let first = threads[0];
            let started = self.here.products.started.get(&first).copied().unwrap_or_default();
            let is_over = |product: &mut Product| product.first == first && product.number < started.saturating_sub(left);
            let over: Vec<Product> = self.here.products.under_way.extract_if(.., is_over).collect();
            for sums in over.iter().map(|product| product.sums) {
                // A later product may still add to them.
                if self.here.products.under_way.iter().any(|product| product.first == first && product.sums == sums) {
                    continue;
                }
                for thread in threads {
                    for sum in 0..sums.len {
                        let (memory, byte) = self.register(sums.array, sums.at + sum, *thread);
                        memory.settle_sum_at(byte);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The left factor, of elements of 16 bits, that the lanes have in pairs, of which those of the first lane begin at `first`.
fn of_pairs(pairs: &[Vec<u64>], first: usize, depth: u32) -> Vec<Vec<u64>> {
    let mut rows = vec![vec![0; depth as usize]; GROUP_ROWS as usize];
    for (i, of_lanes) in (0..).zip(pairs) {
        let (step, pair) = (i / 4, i % 4);
        for thread in 0..THREADS as u32 {
            let (row, k) = place_in_a(DType::BF16, thread % LANES, pair);
            let (row, k) = ((WARP_ROWS * (thread / LANES) + row) as usize, (STEP * step + k) as usize);
            let at = first + 2 * thread as usize;
            rows[row][k..k + 2].copy_from_slice(&of_lanes[at..at + 2]);
        }
    }
    rows
}

/// Active threads are in order, so the first and the last of four warps decide.
fn whole_groups(active: &[u32]) -> Result<(), String> {
    let whole = |threads: &[u32]| {
        threads.len() == THREADS
            && threads[0].is_multiple_of(THREADS as u32)
            && threads[THREADS - 1] == threads[0] + THREADS as u32 - 1
    };
    if active.chunks(THREADS).all(whole) { Ok(()) } else { Err("some lanes of four warps do not come here".to_string()) }
}
