//! What measures a machine without threads in a block: loops that do nothing but read memory, or multiply and add in registers.
//!
//! ```text
//!   fill_memory   block b writes elements b n .. (b + 1) n      4 n bytes
//!   read_memory   block b adds them up, as four streams         4 n bytes, n FLOPs
//!   add_f32       n turns: each sum adds 4 products of vectors  2 FLOPs a product
//!   add_dots      the same of bf16, by dot products of pairs    4 FLOPs a sum of two products
//! ```
//!
//! Sums do not depend on each other, and there are as many as keep every unit busy while one waits for its own last product. They
//! begin with different numbers from memory and all of them are stored in the end, so that none can be left out or joined.

use crate::kernel::build::{Array, Var};
use crate::kernel::{Arg, Buffer, Builder, Given, Kernel, Launch, Program, Regime, Role, Value};
use crate::machine::Unit;
use crate::{DType, Extent, Facts, Machine};

/// The kernels that measure a machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// All of them. Each takes `memory`, `sums` of an element a block, and `n` (`I64`), but for [`FILL`], which takes a number in the
    /// place of `sums`.
    pub program: Program,
    /// Those that multiply.
    pub products: Vec<Products>,
}

/// A loop of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Products {
    /// Its kernel.
    pub kernel: usize,
    /// Type of the factors.
    pub elem: DType,
    /// FLOPs of a turn of a block.
    pub flops_a_turn: u64,
}

/// The kernel that writes memory.
pub const FILL: usize = 0;
/// The kernel that reads it.
pub const READ: usize = 1;
/// What the elements of a block are a multiple of, and the elements that loops of products take from memory at most.
pub const ELEMENTS: u64 = 1024;

/// Parts of a block's elements that are read side by side, two vectors of each at a time: in pages of 4 KiB a core reads four streams faster
/// than one (25 GB/s against 22 on a Zen 4 core; two cores 32 against 29), and layers read rows of weights so.
const STREAMS: u32 = 4;
/// Products that a sum adds in a turn, so that counting turns takes no part of the time.
const ROUNDS: u64 = 4;

/// The kernels, and launches of T small blocks.
///
/// # Panics
/// Where blocks have threads: they are measured by other means.
pub fn limits(machine: &Machine) -> Limits {
    assert!(!machine.has_threads(), "blocks of {} have threads", machine.name);
    let lanes = machine.vector_bytes / DType::F32.bytes() as u32;
    // 32 registers where vectors have 64 bytes, else 16; two of them have the factors.
    let sums = if machine.vector_bytes == 64 { 24 } else { 12 };
    let mut kernels = vec![fill(lanes), read(lanes), products("add_f32", (lanes, sums), DType::F32)];
    let flops = |each: u64| each * ROUNDS * u64::from(sums * lanes);
    let mut of_products = vec![Products { kernel: 2, elem: DType::F32, flops_a_turn: flops(2) }];
    if machine.rate(Unit::Dot, DType::BF16).is_some() {
        kernels.push(products("add_dots", (lanes, sums), DType::BF16));
        of_products.push(Products { kernel: 3, elem: DType::BF16, flops_a_turn: flops(4) });
    }
    let launches = (0..kernels.len()).map(|kernel| launch(kernel, &kernels[kernel])).collect();
    let buffer =
        |name: &str, role, extent| Buffer { name: name.to_string(), role, dtype: DType::F32, shape: vec![extent], observe: None };
    let program = Program {
        name: "limits".to_string(),
        facts: Facts::default(),
        buffers: vec![
            buffer("number", Role::Input, Extent::Const(1)),
            buffer("memory", Role::Workspace, Extent::Tokens * Extent::Const(ELEMENTS)),
            buffer("sums", Role::Output, Extent::Tokens),
        ],
        kernels,
        regimes: vec![Regime { tokens_up_to: None, tile_rows: None, launches }],
        ..Program::default()
    };
    Limits { program, products: of_products }
}

fn launch(index: usize, kernel: &Kernel) -> Launch {
    let given = |name: &str| match name {
        "number" => Given::Buffer(0),
        "memory" => Given::Buffer(1),
        "sums" => Given::Buffer(2),
        _ => Given::Scalar(Extent::Const(ELEMENTS)),
    };
    let args = kernel.params.iter().map(|param| Arg { param: param.name.clone(), given: given(&param.name) }).collect();
    Launch { kernel: index, grid: Extent::Tokens, early: false, working: None, args }
}

/// Where the block's elements begin, and where they end.
fn part<'k>(k: &'k Builder, n: Value<'k>) -> (Value<'k>, Value<'k>) {
    let start = k.bind("start", k.block().cast(DType::I64) * n);
    (start, k.bind("end", start + n))
}

fn fill(lanes: u32) -> Kernel {
    let k = Builder::new("fill_memory", 1);
    let (memory, number) = (k.output("memory", DType::F32), k.input("number", DType::F32));
    let n = k.scalar("n", DType::I64);
    let value = k.bind("value", number.load(k.i32(0)).splat(lanes));
    let (start, end) = part(&k, n);
    k.for_step("at", start, end, k.i64(i64::from(lanes)), |at| memory.store(at, value));
    k.finish()
}

fn read(lanes: u32) -> Kernel {
    let k = Builder::new("read_memory", 1);
    let (memory, stored) = (k.input("memory", DType::F32), k.output("sums", DType::F32));
    let n = k.scalar("n", DType::I64);
    let sums: Vec<Var> = (0..2 * STREAMS).map(|_| k.var("sum", k.f32(0.0).splat(lanes))).collect();
    let (start, _) = part(&k, n);
    let stream = k.bind("stream", n / STREAMS as i32);
    k.for_step("at", start, start + stream, k.i64(i64::from(2 * lanes)), |at| {
        let place = |i: u32| at + stream * (i / 2) as i32 + (i % 2 * lanes) as i32;
        let loaded: Vec<Value> = (0..2 * STREAMS).map(|i| memory.load_vector(place(i), lanes)).collect();
        sums.iter().zip(loaded).for_each(|(sum, loaded)| sum.set(sum.get() + loaded));
    });
    store(&k, stored, &sums);
    k.finish()
}

fn products(name: &str, (lanes, sums): (u32, u32), elem: DType) -> Kernel {
    let k = Builder::new(name, 1);
    let (memory, stored) = (k.input("memory", DType::F32), k.output("sums", DType::F32));
    let n = k.scalar("n", DType::I64);
    let width = if elem == DType::F32 { lanes } else { 2 * lanes };
    let factor = |at: u32| k.bind("factor", memory.load_vector(k.i32(at as i32), width).cast(elem));
    let (a, b) = (factor(0), factor(width));
    let sums: Vec<Var> = (0..sums).map(|i| k.var("sum", memory.load_vector(k.i32((i * lanes) as i32), lanes))).collect();
    k.for_range("turn", k.i64(0), n, |_| {
        for sum in (0..ROUNDS).flat_map(|_| &sums) {
            sum.set(if elem == DType::F32 { a.fma(b, sum.get()) } else { sum.get().dot(a, b) });
        }
    });
    store(&k, stored, &sums);
    k.finish()
}

/// The sum of all sums, to the block's place.
fn store<'k>(k: &'k Builder, stored: Array<'k>, sums: &[Var<'k>]) {
    let all = sums.iter().map(|sum| sum.get()).reduce(|a, b| a + b);
    all.into_iter().for_each(|all| stored.store(k.block(), all.reduce_add()));
}
