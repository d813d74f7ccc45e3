//! Well-typed kernels, written through the builder as a schedule would.

use std::cell::{Cell, RefCell};

use moec_ir::kernel::build::{Array, Var};
use moec_ir::kernel::{Arg, Buffer, Builder, Extreme, Given, Launch, Program, Regime, Role, Value, Vote};
use moec_ir::machine::Unit;
use moec_ir::{DType, Extent, Machine};

use super::Random;

const ELEMENTS: usize = 128;

/// The buffers that are given, and their bytes.
pub(crate) const GIVEN: [(&str, usize); 4] = [("a", 4 * ELEMENTS), ("b", 2 * ELEMENTS), ("c", 2 * ELEMENTS), ("d", 8 * ELEMENTS)];

/// A valid program for `machine`, decided by `seed`.
pub(crate) fn program(machine: &Machine, seed: u64) -> Program {
    let mut buffers = Vec::new();
    let all = [
        ("a", DType::F32, Role::Input),
        ("b", DType::BF16, Role::Weight),
        ("c", DType::F16, Role::Input),
        ("d", DType::I64, Role::Input),
        ("y", DType::F32, Role::Output),
        ("n", DType::I32, Role::Workspace),
    ];
    for (name, dtype, role) in all {
        buffers.push(Buffer { name: name.into(), role, dtype, shape: vec![Extent::from(ELEMENTS as u64)], observe: None });
    }
    let threads = if machine.is_gpu() { 64 } else { 1 };
    let k = Builder::new("random", threads);
    write(&k, machine, seed);
    let arg = |param: &str, given: Given| Arg { param: param.into(), given };
    let of_buffer = |(i, buffer): (usize, &Buffer)| arg(&buffer.name, Given::Buffer(i));
    let args = buffers.iter().enumerate().map(of_buffer).chain([arg("tokens", (Extent::Tokens * 5).into())]).collect();
    let launches = vec![Launch { kernel: 0, grid: Extent::Tokens.div_ceil(2), early: false, working: None, args }];
    let regimes = vec![Regime { tokens_up_to: None, tile_rows: None, launches }];
    Program { name: "random".into(), buffers, kernels: vec![k.finish()], regimes, ..Program::default() }
}

fn write(k: &Builder, machine: &Machine, seed: u64) {
    let read = vec![k.input("a", DType::F32), k.input("b", DType::BF16), k.input("c", DType::F16), k.input("d", DType::I64)];
    let written = vec![k.output("y", DType::F32), k.output("n", DType::I32)];
    let tokens = k.scalar("tokens", DType::I64);
    let tile = k.shared("tile", DType::F32, ELEMENTS as u32);
    let writer = Writer {
        k,
        random: RefCell::new(Random::new(seed)),
        lanes: machine.warp_lanes > 1,
        dot: machine.rate(Unit::Dot, DType::BF16).is_some(),
        values: RefCell::new(vec![tokens, k.block(), k.thread()]),
        vars: RefCell::default(),
        read,
        written: [written, vec![tile]].concat(),
        left: Cell::new(30),
    };
    // All of it is written first, so that nothing unknown is read later.
    if machine.is_gpu() {
        writer.fill(k.thread() * 2, 2);
    } else {
        k.for_step("i", k.i32(0), k.i32(ELEMENTS as i32), k.i32(8), |i| writer.fill(i, 8));
    }
    k.barrier();
    writer.block(3, true);
}

struct Writer<'k> {
    k: &'k Builder,
    random: RefCell<Random>,
    lanes: bool,
    dot: bool,
    values: RefCell<Vec<Value<'k>>>,
    vars: RefCell<Vec<Var<'k>>>,
    read: Vec<Array<'k>>,
    written: Vec<Array<'k>>,
    /// Statements.
    left: Cell<usize>,
}

impl<'k> Writer<'k> {
    fn below(&self, n: usize) -> usize {
        self.random.borrow_mut().below(n)
    }

    fn fill(&self, at: Value<'k>, lanes: u32) {
        for array in &self.written {
            array.store_aligned(at, at.like(3).cast(array.elem()).splat(lanes), 4);
        }
    }

    /// `together`: all threads come here.
    fn block(&self, depth: usize, together: bool) {
        let (values, vars) = (self.values.borrow().len(), self.vars.borrow().len());
        for _ in 0..=self.below(3 + 3 * depth) {
            if self.left.get() == 0 {
                break;
            }
            self.left.set(self.left.get() - 1);
            self.stmt(depth, together);
        }
        self.values.borrow_mut().truncate(values);
        self.vars.borrow_mut().truncate(vars);
    }

    fn stmt(&self, depth: usize, together: bool) {
        let k = self.k;
        let keep = |value: Value<'k>| self.values.borrow_mut().push(value);
        let (elem, lanes) = ([DType::F32, DType::I32, DType::I64, DType::Bool][self.below(4)], [1, 1, 2, 4][self.below(4)]);
        match self.below(14) {
            0 | 1 => keep(k.bind(["a", "same", "b c"][self.below(3)], self.value(elem, lanes, 4))),
            2 => {
                let var = k.var("var", self.value(elem, lanes, 2));
                keep(var.get());
                self.vars.borrow_mut().push(var);
            }
            3 => {
                let vars = self.vars.borrow();
                if let Some(var) = vars.get(self.below(vars.len())) {
                    let ty = var.get().ty();
                    var.set(self.value(ty.elem, ty.lanes, 3));
                }
            }
            4 | 5 => {
                let array = self.read[self.below(self.read.len())];
                let align = array.elem().bytes() as u32 * [1, lanes][self.below(2)];
                keep(array.load_aligned(self.offset(lanes), lanes, align));
            }
            6 => keep(self.written[self.below(3)].load_vector(self.offset(lanes), lanes)),
            7 | 8 => {
                let array = self.written[self.below(3)];
                array.store(self.offset(lanes), self.value(array.elem(), lanes, 5));
            }
            9 => self.written[1].atomic_add(self.offset(1), self.value(DType::I32, 1, 2)),
            10 if self.lanes && together => match self.below(5) {
                0 => keep(k.shuffle(self.value([DType::F32, DType::I32][self.below(2)], 1, 2), 1 << self.below(5))),
                1 => keep(k.vote([Vote::Any, Vote::All, Vote::Ballot][self.below(3)], self.value(DType::Bool, 1, 3))),
                2 => keep(k.redux([Extreme::Max, Extreme::Min][self.below(2)], self.value(DType::I32, 1, 3))),
                3 => k.barrier(),
                _ => k.warp_barrier(),
            },
            11 | 12 if depth > 0 => {
                let end = k.i32(self.below(4) as i32);
                let step = k.i32(1 + self.below(3) as i32);
                k.for_step("i", k.i32(0), end, step, |i| {
                    self.values.borrow_mut().push(i);
                    self.block(depth - 1, together);
                    self.values.borrow_mut().pop();
                });
            }
            _ if depth > 0 => {
                let cond = self.value(DType::Bool, 1, 3);
                if self.below(2) == 0 {
                    k.when(cond, || self.block(depth - 1, false));
                } else {
                    k.branch(cond, || self.block(depth - 1, false), || self.block(depth - 1, false));
                }
            }
            _ => {}
        }
    }

    /// A multiple of `lanes` inside every array.
    fn offset(&self, lanes: u32) -> Value<'k> {
        let elem = [DType::I32, DType::I64][self.below(2)];
        let any = self.value(elem, 1, 2) & (ELEMENTS as i32 / lanes as i32 - 1);
        any * lanes as i32
    }

    fn leaf(&self, elem: DType, lanes: u32) -> Value<'k> {
        let k = self.k;
        let values: Vec<Value<'k>> = self.values.borrow().iter().copied().filter(|v| v.ty().elem == elem).collect();
        let fits: Vec<Value<'k>> = values.iter().copied().filter(|v| v.ty().lanes == lanes).collect();
        if !fits.is_empty() && self.below(4) > 0 {
            return fits[self.below(fits.len())];
        }
        let n = self.random.borrow_mut().next();
        let scalar = match elem {
            DType::Bool => k.bool(n.is_multiple_of(2)),
            DType::I32 => k.i32(if n.is_multiple_of(4) { n as i32 } else { n as i32 % 64 }),
            DType::I64 => k.i64(if n.is_multiple_of(4) { n as i64 } else { n as i64 % 64 }),
            DType::F32 | DType::F16 | DType::BF16 => {
                k.f32(if n.is_multiple_of(8) { f32::from_bits(n as u32 >> 3) } else { n as i32 as f32 / 1e6 }).cast(elem)
            }
        };
        scalar.splat(lanes)
    }

    fn value(&self, elem: DType, lanes: u32, depth: usize) -> Value<'k> {
        if depth == 0 || self.below(5) == 0 {
            return self.leaf(elem, lanes);
        }
        let v = |elem: DType| self.value(elem, lanes, depth - 1);
        let same = || v(elem);
        match self.below(4) {
            0 => return v(DType::Bool).select(same(), same()),
            1 if lanes == 1 => return self.value(elem, 4, depth - 1).lane(self.below(4) as u32),
            2 if lanes > 1 => return self.value(elem, 1, depth - 1).splat(lanes),
            _ => {}
        }
        match elem {
            DType::Bool => {
                let a = v([DType::F32, DType::I32, DType::I64][self.below(3)]);
                let b = v(a.ty().elem);
                match self.below(8) {
                    0 => a.eq(b),
                    1 => a.ne(b),
                    2 => a.lt(b),
                    3 => a.ge(b),
                    4 => !same(),
                    5 => same() & same(),
                    6 => same() | same(),
                    _ => same() ^ same(),
                }
            }
            DType::I32 | DType::I64 => match self.below(17) {
                0 => same() + same(),
                1 => same() - same(),
                2 => same() * same(),
                3 => same() / 7,
                4 => same() % 3,
                5 => same().min(same()),
                6 => same().max(same()),
                7 => same() & same(),
                8 => same() | same(),
                9 => same() ^ same(),
                10 => same() << 5,
                11 => same() >> 3,
                12 => same().shr_unsigned(9),
                13 => !-same(),
                14 => same().count_ones(),
                15 if elem == DType::I32 => v(DType::F32).bitcast(elem),
                _ => v([DType::Bool, DType::I32, DType::I64, DType::F32][self.below(4)]).cast(elem),
            },
            DType::F16 | DType::BF16 => v(DType::F32).cast(elem),
            DType::F32 => match self.below(14) {
                0 => same() + same(),
                1 => same() - same(),
                2 => same() * same(),
                3 => same() / same(),
                4 => same().min(same()),
                5 => same().max(same()),
                6 => -same().abs(),
                7 => same().floor(),
                8 => same().sqrt(),
                9 => same().fma(same(), same()),
                10 if lanes == 1 => self.value(elem, 4, depth - 1).reduce_add(),
                11 if lanes == 1 => self.value(elem, 4, depth - 1).reduce_max(),
                12 if self.dot => {
                    let wide = || self.value(DType::BF16, lanes * 2, depth - 1);
                    same().dot(wide(), wide())
                }
                13 => v(DType::I32).bitcast(elem),
                _ => v([DType::I32, DType::I64, DType::F16, DType::BF16][self.below(4)]).cast(elem),
            },
        }
    }
}
