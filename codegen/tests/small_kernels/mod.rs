//! Small kernels, and how a test compiles and runs them. What they must give is in the tests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(unsafe_code, reason = "loading and calling what was compiled")]

use std::ffi::c_void;
use std::io::Write;

use moec_codegen::symbol::symbol;
use moec_codegen::{Image, Object, Options, codegen};
use moec_ir::kernel::verify::verify_kernel;
use moec_ir::kernel::{Builder, Extreme, Kernel, Program, Value, Vote};
use moec_ir::machine::MACHINES;
use moec_ir::{DType, Machine, MatrixShape};

/// A program of these kernels; what it launches is of no interest here.
pub fn program(kernels: Vec<Kernel>) -> Program {
    Program { name: "test".to_string(), kernels, ..Program::default() }
}

/// Every host machine that this CPU can be. Those that it cannot be are named on stderr.
pub fn hosts() -> Vec<Machine> {
    let v3 = ["avx2", "fma", "f16c", "bmi2"].iter().all(|f| detected(f));
    let v4 = v3 && ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"].iter().all(|f| detected(f));
    let able = |m: &Machine| match m.name {
        "x86-64-v3" => v3,
        "x86-64-v4" => v4,
        "x86-64-v4-bf16" => v4 && detected("avx512bf16"),
        _ => false,
    };
    let (hosts, absent): (Vec<_>, Vec<_>) = MACHINES.into_iter().filter(|m| !m.is_gpu()).partition(able);
    absent.iter().for_each(|m| skipped(m.name, "this CPU is less, or another"));
    hosts
}

fn detected(feature: &str) -> bool {
    match feature {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "bmi2" => is_x86_feature_detected!("bmi2"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512cd" => is_x86_feature_detected!("avx512cd"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512bf16" => is_x86_feature_detected!("avx512bf16"),
        other => panic!("unknown feature {other}"),
    }
}

/// Every GPU machine.
pub fn gpus() -> Vec<Machine> {
    MACHINES.into_iter().filter(Machine::is_gpu).collect()
}

/// Says, past the test harness's capture, that a check was left out.
pub fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}

/// A compiled host program.
pub struct Loaded {
    object: libloading::Library,
    prefix: String,
}

/// What is passed for a parameter.
pub enum Arg {
    Array(*mut c_void),
    Number(i64),
}

/// The array's address.
pub fn array<T>(slice: &mut [T]) -> Arg {
    Arg::Array(slice.as_mut_ptr().cast())
}

/// Holds that the IR's verifier accepts the kernels on this machine.
pub fn verified(program: &Program, machine: &Machine) {
    for kernel in &program.kernels {
        assert_eq!(verify_kernel(kernel, machine), Ok(()), "{} on {}", kernel.name, machine.name);
    }
}

/// Compiles for a host and loads the result.
pub fn load(program: &Program, machine: &Machine) -> Loaded {
    verified(program, machine);
    let objects = codegen(program, machine, &Options::default()).unwrap();
    let [Object { image: Image::SharedObject(bytes), .. }] = &objects[..] else { panic!("one shared object") };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.so");
    std::fs::write(&path, bytes).unwrap();
    // SAFETY: the library has no initialisers.
    Loaded { object: unsafe { libloading::Library::new(&path) }.unwrap(), prefix: symbol(program, machine, "") }
}

impl Arg {
    /// As the kernel receives it.
    pub fn word(&self) -> u64 {
        match self {
            Arg::Array(at) => *at as u64,
            Arg::Number(n) => *n as u64,
        }
    }
}

impl Loaded {
    /// Runs blocks `0..blocks` of a kernel.
    pub fn run(&self, kernel: &str, args: &[Arg], blocks: u64) {
        let words: Vec<u64> = args.iter().map(Arg::word).collect();
        self.run_words(kernel, &words, 0..blocks);
    }

    /// Runs some blocks of a kernel.
    pub fn run_words(&self, kernel: &str, args: &[u64], blocks: std::ops::Range<u64>) {
        type Entry = unsafe extern "C" fn(*const u64, u64, u64);
        // SAFETY: the symbol has this signature (`Image::SharedObject`), and the tests pass arrays that are long enough.
        unsafe {
            let entry: libloading::Symbol<'_, Entry> = self.object.get(format!("{}{kernel}", self.prefix)).unwrap();
            entry(args.as_ptr(), blocks.start, blocks.end);
        }
    }
}

/// Runs `output[i] = f(input[i])`, in vectors of `lanes`, on every host; gives each output with its machine's name.
pub fn map<A, B>(from: DType, to: DType, lanes: u32, input: &[A], f: impl Pure) -> Vec<(&'static str, Vec<B>)>
where
    A: Clone,
    B: Clone + Default,
{
    zip(from, to, lanes, input, input, |k, a, _| f(k, a))
}

/// A function of one value that a kernel evaluates.
pub trait Pure: for<'k> Fn(&'k Builder, Value<'k>) -> Value<'k> {}
impl<F: for<'k> Fn(&'k Builder, Value<'k>) -> Value<'k>> Pure for F {}

/// Runs `output[i] = f(a[i], b[i])`, as [`map`].
pub fn zip<A, B>(from: DType, to: DType, lanes: u32, a: &[A], b: &[A], f: impl Pure2) -> Vec<(&'static str, Vec<B>)>
where
    A: Clone,
    B: Clone + Default,
{
    let outputs = zip_all(from, to, lanes, a, b, &[f]).into_iter();
    outputs.flat_map(|(name, outputs)| outputs.into_iter().map(move |output| (name, output))).collect()
}

/// A function of two values that a kernel evaluates.
pub trait Pure2: for<'k> Fn(&'k Builder, Value<'k>, Value<'k>) -> Value<'k> {}
impl<F: for<'k> Fn(&'k Builder, Value<'k>, Value<'k>) -> Value<'k>> Pure2 for F {}

/// Runs several functions as [`zip`] does one; for each host, the output of each.
pub fn zip_all<A, B>(
    from: DType,
    to: DType,
    lanes: u32,
    a: &[A],
    b: &[A],
    functions: &[impl Pure2],
) -> Vec<(&'static str, Vec<Vec<B>>)>
where
    A: Clone,
    B: Clone + Default,
{
    assert_eq!(a.len() % lanes as usize, 0, "whole vectors");
    let kernel = |(i, f)| zip_kernel(&format!("zip_{i}"), from, to, lanes, f);
    let program = program(functions.iter().enumerate().map(kernel).collect());
    let run = |machine: Machine| {
        let loaded = load(&program, &machine);
        let run = |kernel: &Kernel| {
            let (mut a, mut b, mut output) = (a.to_vec(), b.to_vec(), vec![B::default(); a.len()]);
            let args = [array(&mut a), array(&mut b), array(&mut output), Arg::Number(a.len() as i64)];
            loaded.run(&kernel.name, &args, 1);
            output
        };
        (machine.name, program.kernels.iter().map(run).collect())
    };
    hosts().into_iter().map(run).collect()
}

/// `out[i] = f(a[i], b[i])` for `i < n`, in vectors of `lanes`, by one thread.
fn zip_kernel(name: &str, from: DType, to: DType, lanes: u32, f: &impl Pure2) -> Kernel {
    let k = Builder::new(name, 1);
    let (a, b, out) = (k.input("a", from), k.input("b", from), k.output("out", to));
    let n = k.scalar("n", DType::I32);
    k.for_step("i", k.i32(0), n, k.i32(lanes as i32), |i| {
        out.store(i, f(&k, a.load_vector(i, lanes), b.load_vector(i, lanes)));
    });
    k.finish()
}

/// `c[i] = a[i] + b[i]` for `block * width .. block * width + width`, in vectors of `lanes`, cut off at `n`.
pub fn vector_add(lanes: u32, threads: u32) -> Kernel {
    let k = Builder::new("vector_add", threads);
    let (a, b, c) = (k.input("a", DType::F32), k.input("b", DType::F32), k.output("c", DType::F32));
    let n = k.scalar("n", DType::I32);
    let place = k.bind("place", (k.block() * threads as i32 + k.thread()) * lanes as i32);
    let whole = (place + lanes as i32).le(n);
    k.branch(
        whole,
        || c.store(place, a.load_vector(place, lanes) + b.load_vector(place, lanes)),
        || k.for_range("i", place, n, |i| c.store(i, a.load(i) + b.load(i))),
    );
    k.finish()
}

/// `c[m, n] = sum over k of a[m, k] * b[k, n]`, rows of `lanes` a block, each product fused into its sum.
pub fn gemm_row(lanes: u32) -> Kernel {
    let k = Builder::new("gemm_row", 1);
    let (a, b, c) = (k.input("a", DType::F32), k.input("b", DType::F32), k.output("c", DType::F32));
    let depth = k.scalar("depth", DType::I64);
    let row = k.bind("row", k.block().cast(DType::I64));
    let sum = k.var("sum", k.f32(0.0).splat(lanes));
    k.for_range("k", k.i64(0), depth, |i| {
        let left = a.load(row * depth + i).splat(lanes);
        let right = b.load_vector(i * lanes as i32, lanes);
        sum.set(left.fma(right, sum.get()));
    });
    c.store(row * lanes as i32, sum.get());
    k.finish()
}

/// `out[block] = sum of in[block * threads + t]`, halving in shared memory.
pub fn block_sum(threads: u32) -> Kernel {
    let k = Builder::new("block_sum", threads);
    let (input, out) = (k.input("in", DType::F32), k.output("out", DType::F32));
    let part = k.shared("part", DType::F32, threads);
    let t = k.bind("t", k.thread());
    part.store(t, input.load(k.block() * threads as i32 + t));
    let mut half = threads as i32 / 2;
    while half > 0 {
        k.barrier();
        k.when(t.lt(half), || part.store(t, part.load(t) + part.load(t + half)));
        half /= 2;
    }
    k.barrier();
    k.when(t.eq(0), || out.store(k.block(), part.load(k.i32(0))));
    k.finish()
}

/// `out[block] =` where the greatest of 32 values is (the first of equals), by shuffles; `votes` gets a vote of each kind, and the
/// greatest and least number of a lane that has a positive one.
pub fn warp_argmax() -> Kernel {
    let k = Builder::new("warp_argmax", 32);
    let (input, out, votes) = (k.input("in", DType::F32), k.output("out", DType::I32), k.output("votes", DType::I32));
    let lane = k.bind("lane", k.thread());
    let (best, place) = (k.var("best", input.load(k.block() * 32 + lane)), k.var("place", lane));
    for mask in [16, 8, 4, 2, 1] {
        let (other, from) = (k.shuffle(best.get(), mask), k.shuffle(place.get(), mask));
        let mine = k.bind("mine", best.get());
        let better = k.bind("better", other.gt(mine) | (other.eq(mine) & from.lt(place.get())));
        best.set(better.select(other, mine));
        place.set(better.select(from, place.get()));
    }
    k.warp_barrier();
    let positive = k.bind("positive", best.get().gt(0.0));
    let (any, all, ballot) = (k.vote(Vote::Any, positive), k.vote(Vote::All, positive), k.vote(Vote::Ballot, positive));
    let is_positive = input.load(k.block() * 32 + lane).gt(0.0);
    let of_lane = |otherwise: i32| k.bind("of_lane", is_positive.select(lane - 20, otherwise));
    let [greatest, least] = [(Extreme::Max, i32::MIN), (Extreme::Min, i32::MAX)].map(|(which, or)| k.redux(which, of_lane(or)));
    k.when(lane.eq(0), || {
        out.store(k.block(), place.get());
        votes.store(k.i32(0), any.cast(DType::I32));
        votes.store(k.i32(1), all.cast(DType::I32));
        votes.store(k.i32(2), ballot);
        votes.store(k.i32(3), greatest);
        votes.store(k.i32(4), least);
    });
    k.finish()
}

/// `counts[in[i]] += 1`, through a count in shared memory.
pub fn histogram(threads: u32) -> Kernel {
    let k = Builder::new("histogram", threads);
    let (input, counts) = (k.input("in", DType::I32), k.output("counts", DType::I32));
    let near = k.shared("near", DType::I32, 16);
    let t = k.bind("t", k.thread());
    k.for_step("i", t, k.i32(16), k.i32(threads as i32), |i| near.store(i, k.i32(0)));
    k.barrier();
    near.atomic_add(input.load(k.block() * threads as i32 + t), k.i32(1));
    k.barrier();
    k.for_step("i", t, k.i32(16), k.i32(threads as i32), |i| counts.atomic_add(i, near.load(i)));
    k.finish()
}

/// Every float operation once.
pub fn float_ops() -> Kernel {
    let k = Builder::new("float_ops", 32);
    let (a, b, out) = (k.input("a", DType::F32), k.input("b", DType::F32), k.output("out", DType::F32));
    let i = k.bind("i", k.block() * 32 + k.thread());
    let (a, b) = (a.load(i), b.load(i));
    let sum = k.bind("sum", a * b + a);
    let rooted = k.bind("rooted", (sum / b).abs().sqrt().floor() - b * b);
    out.store(i, rooted.min(a).max(-b));
    k.finish()
}

/// Every conversion once, in vectors: bf16 and f16 to f32 and back.
pub fn conversions() -> Kernel {
    let k = Builder::new("conversions", 32);
    let (a, b) = (k.input("a", DType::BF16), k.input("b", DType::F16));
    let (c, d, e) = (k.output("c", DType::BF16), k.output("d", DType::F16), k.output("e", DType::I32));
    let i = k.bind("i", (k.block() * 32 + k.thread()) * 8);
    let (a, b) = (a.load_aligned(i, 8, 16).cast(DType::F32), b.load_aligned(i, 8, 16).cast(DType::F32));
    let product = k.bind("product", a * b);
    c.store_aligned(i, product.cast(DType::BF16), 16);
    d.store_aligned(i, product.cast(DType::F16), 16);
    e.store(i, product.reduce_add().cast(DType::I32));
    k.finish()
}

/// `out[i] = a[i] * b[i] + c[i]` in one rounding.
pub fn fused() -> Kernel {
    let k = Builder::new("fused", 32);
    let (a, b, out) = (k.input("a", DType::F32), k.input("b", DType::F32), k.output("out", DType::F32));
    let i = k.bind("i", k.thread());
    out.store(i, a.load(i).fma(b.load(i), out.load(i)));
    k.finish()
}

/// `c[m, n] = sum over k of a[m, k] * b[k, n]` in tiles of 64 x 64 by 256 threads, each 4 x 4, 16 of `k` at a time.
///
/// ```text
///          n ->                a: near_a[k, m]   b: near_b[k, n]
///      +----------+            thread t: rows 4 (t / 16) .. + 4, columns 4 (t % 16) .. + 4
///    m | 64 x 64  |
/// ```
pub fn gemm_tile() -> Kernel {
    let k = Builder::new("gemm_tile", 256);
    let (a, b, c) = (k.input("a", DType::F32), k.input("b", DType::F32), k.output("c", DType::F32));
    let (depth, width) = (k.scalar("depth", DType::I32), k.scalar("width", DType::I32));
    let (near_a, near_b) = (k.shared("near_a", DType::F32, 16 * 64), k.shared("near_b", DType::F32, 16 * 64));
    let t = k.bind("t", k.thread());
    let tiles = k.bind("tiles", width / 64);
    let (row, column) = (k.bind("row", k.block() / tiles * 64), k.bind("column", k.block() % tiles * 64));
    let (m, n) = (k.bind("m", t / 16 * 4), k.bind("n", t % 16 * 4));
    let sums: Vec<_> = (0..4).map(|i| k.var(&format!("sum{i}"), k.f32(0.0).splat(4))).collect();
    k.for_step("k", k.i32(0), depth, k.i32(16), |base| {
        let left = a.load_aligned((row + t / 4) * depth + base + t % 4 * 4, 4, 16);
        for i in 0..4 {
            near_a.store((t % 4 * 4 + i) * 64 + t / 4, left.lane(i as u32));
        }
        near_b.store_aligned(t / 16 * 64 + n, b.load_aligned((base + t / 16) * width + column + n, 4, 16), 16);
        k.barrier();
        for i in 0..16 {
            let left = near_a.load_aligned(m + i * 64, 4, 16);
            let right = near_b.load_aligned(n + i * 64, 4, 16);
            for (lane, sum) in (0..).zip(&sums) {
                sum.set(left.lane(lane).splat(4).fma(right, sum.get()));
            }
        }
        k.barrier();
    });
    for (i, sum) in (0..).zip(&sums) {
        c.store_aligned((row + m + i) * width + column + n, sum.get(), 16);
    }
    k.finish()
}

/// `y = a b` by a warp, 16 by 8 by 16: rows of `a` and columns of `b` lie along k. The last lanes store no sum.
pub fn matrix_product(elem: DType, shape: MatrixShape) -> Kernel {
    let k = Builder::new(format!("product_{elem}_{shape}"), 32);
    let (a, b, y) = (k.input("a", elem), k.input("b", elem), k.output("y", DType::F32));
    let (_, _, depth) = shape.extents();
    let (depth, bytes) = (depth as i32, elem.bytes() as u32);
    let (rows, columns) = (k.shared("rows", elem, 16 * depth as u32), k.shared("columns", elem, 8 * depth as u32));
    let at = k.bind("at", k.thread() * (depth / 4));
    columns.copy_from(at, b, at, depth as u32 / 4 * bytes, None);
    k.commit();
    let at = k.bind("at", k.thread() * (depth / 2));
    rows.copy_from(at, a, at, depth as u32 / 2 * bytes, Some(k.thread().lt(30)));
    k.commit();
    let sums = k.sums("sums", 4);
    k.wait_copies(1);
    k.wait_copies(0);
    k.warp_barrier();
    let lane = k.thread();
    // Lines of two matrices, or of one.
    let part = 16 / bytes as i32;
    let (mut a, b) = if depth > part {
        let a = rows.load_matrix(lane % 16 * depth + lane / 16 * part, 4);
        (a, columns.load_matrix(lane % 8 * depth + lane / 8 % 2 * part, 2))
    } else {
        (rows.load_matrix(lane % 16 * depth, 2), columns.load_matrix(lane % 8 * depth, 1))
    };
    if elem == DType::F32 {
        a.iter_mut().for_each(|x| *x = x.round_tf32());
    }
    sums.add_product(0, shape, &a, &b);
    for half in 0..2 {
        let sum = sums.get(0, 2 * half, 2);
        // Were the product moved in here, only some lanes would come to it.
        k.when(lane.lt(31 - half as i32), || y.store(lane / 4 * 8 + lane % 4 * 2 + half as i32 * 64, sum));
    }
    k.finish()
}

/// More shared memory than a block has without asking, its second array at a multiple of 128 bytes.
pub fn asks_for_memory() -> Kernel {
    let k = Builder::new("asks", 32);
    let y = k.output("y", DType::F32);
    let first = k.shared("first", DType::F32, 13_001);
    let second = k.shared_aligned("second", DType::F32, 32, 128);
    first.store(k.thread() + 12_969, k.f32(1.0));
    second.store(k.thread(), k.f32(2.0));
    k.barrier();
    y.store(k.thread(), first.load(k.i32(13_000) - k.thread()) + second.load(k.i32(31) - k.thread()));
    k.finish()
}
