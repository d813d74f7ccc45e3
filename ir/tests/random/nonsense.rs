//! Programs whose every handle, type and name is picked blindly.

use moec_ir::kernel::{
    Arena, Arg, Arrival, Binary, Block, Buffer, Compare, Expr, Extreme, Factor, Given, Handle, Hint, Index, Kernel, Launch,
    Local, Mbarrier, Panels, Param, ParamKind, Place, Program, Reduce, Regime, Registers, Role, Scope, Shared, Stmt, Swizzle,
    TensorMap, Ty, Unary, View, Vote, Wait, WarpRole, Working,
};
use moec_ir::{DType, Extent, MatrixShape};

use super::Random;

/// A program that is almost never valid, decided by `seed`.
pub(crate) fn nonsense(seed: u64) -> Program {
    let mut random = Random::new(seed);
    let r = &mut random;
    let mut buffers = Vec::new();
    for _ in 0..r.below(4) {
        let role = [Role::Input, Role::Output, Role::Weight, Role::Workspace, Role::Prepared][r.below(5)];
        let shape =
            vec![Extent::Div(Box::new(Extent::Tokens), Box::new(Extent::Const(r.below(2) as u64)), moec_ir::Round::Floor)];
        buffers.push(Buffer { name: name(r), role, dtype: dtype(r), shape, observe: Some(name(r)) });
    }
    let kernels = (0..r.below(3)).map(|_| kernel(r)).collect();
    let mut regimes = Vec::new();
    for _ in 0..r.below(3) {
        let launches = vec![launch(r)];
        let (tokens_up_to, tile_rows) = ([None, Some(4)][r.below(2)], [None, Some(16)][r.below(2)]);
        regimes.push(Regime { tokens_up_to, tile_rows, launches });
    }
    let prepare = (0..r.below(3)).map(|_| launch(r)).collect();
    let update = (0..r.below(2)).map(|_| launch(r)).collect();
    Program { name: name(r), buffers, kernels, regimes, prepare, update, ..Program::default() }
}

fn launch(r: &mut Random) -> Launch {
    let extent = |r: &mut Random| [Extent::Tokens, Extent::Const(r.next())][r.below(2)].clone();
    let given = |r: &mut Random| match r.below(3) {
        0 => Given::Buffer(r.below(4)),
        1 => Given::Scalar(Extent::Tokens),
        _ => {
            let (extents, strides) = ([extent(r), extent(r), extent(r)], [extent(r), extent(r)]);
            Given::TensorMap(View { buffer: r.below(4), extents, strides })
        }
    };
    let args = (0..r.below(4)).map(|_| Arg { param: name(r), given: given(r) }).collect();
    let working = (r.below(2) == 0).then(|| Working { buffer: r.below(4), each: extent(r), follows: r.below(2) == 0 });
    Launch { args, kernel: r.below(3), grid: Extent::Const(r.next()), early: r.below(2) == 0, working }
}

fn name(r: &mut Random) -> String {
    ["x", "y", "", "a b", "k", "é\"\n"][r.below(6)].to_string()
}

fn dtype(r: &mut Random) -> DType {
    DType::ALL[r.below(6)]
}

fn kernel(r: &mut Random) -> Kernel {
    let name = name(r);
    let (mut shared, mut registers, mut locals, mut exprs) = (Arena::new(), Arena::new(), Arena::new(), Arena::new());
    for _ in 0..r.below(3) {
        let align = [0, 3, 16, 128, 1 << 31][r.below(5)];
        shared.push(Shared { name: name.clone(), elem: dtype(r), len: [0, 1, u32::MAX][r.below(3)], align });
    }
    for _ in 0..r.below(3) {
        registers.push(Registers { name: name.clone(), elem: dtype(r), len: [0, 1, 8, u32::MAX][r.below(4)] });
    }
    for _ in 0..r.below(6) {
        let ty = Ty { elem: dtype(r), lanes: [0, 1, 1, 1, 3, 4, u32::MAX][r.below(7)] };
        locals.push(Local { name: name.clone(), ty });
    }
    let mut mbarriers = Arena::new();
    for _ in 0..r.below(3) {
        mbarriers.push(Mbarrier { name: name.clone(), arrivals: number(r), stages: number(r) });
    }
    let mut params = Vec::new();
    for _ in 0..r.below(4) {
        let tile = [number(r), number(r), number(r)];
        let kinds = [
            ParamKind::Scalar(dtype(r)),
            ParamKind::Buffer { elem: dtype(r), write: r.below(2) == 0 },
            ParamKind::TensorMap(TensorMap { elem: dtype(r), tile, swizzle: Swizzle::ALL[r.below(4)], write: r.below(2) == 0 }),
        ];
        params.push(Param { name: name.clone(), kind: kinds[r.below(3)] });
    }
    for _ in 0..r.below(24) {
        let expr = expr(r);
        exprs.push(expr);
    }
    let body = block(r, 3);
    let (threads, cluster) = ([0, 1, 32, 33, u32::MAX][r.below(5)], number(r));
    let resident = r.below(4) as u32;
    Kernel { name, threads, cluster, resident, params, shared, registers, mbarriers, locals, exprs, body }
}

fn number(r: &mut Random) -> u32 {
    [0, 1, 2, 32, 40, u32::MAX][r.below(6)]
}

fn e(r: &mut Random) -> Handle<Expr> {
    Handle::new(r.below(24))
}

fn expr(r: &mut Random) -> Expr {
    match r.below(17) {
        0 => Expr::Bool(true),
        1 | 2 => Expr::Int(r.next() as i64 >> r.below(64), dtype(r)),
        3 => Expr::Float(r.next() as u32),
        4 => Expr::Index([Index::Thread, Index::Block][r.below(2)]),
        5 => Expr::Param(r.below(4) as u32),
        6 | 7 => Expr::Local(Handle::new(r.below(6))),
        8 => Expr::Unary([Unary::Neg, Unary::Not, Unary::Sqrt][r.below(3)], e(r)),
        9 => Expr::Binary([Binary::Add, Binary::Div, Binary::Shl, Binary::Min, Binary::And][r.below(5)], e(r), e(r)),
        10 => Expr::Compare(Compare::Le, e(r), e(r)),
        11 => Expr::Select(e(r), e(r), e(r)),
        12 => Expr::Fma(e(r), e(r), e(r)),
        13 => Expr::Dot { acc: e(r), a: e(r), b: e(r) },
        14 => [Expr::Cast(dtype(r), e(r)), Expr::Bitcast(dtype(r), e(r))][r.below(2)],
        15 => {
            let (a, b, n) = (e(r), e(r), r.below(5) as u32);
            [Expr::Splat(r.next() as u32, a), Expr::Extract(a, n, r.below(3) as u32), Expr::Concat(a, b), Expr::Transpose(a, n)]
                [r.below(4)]
        }
        _ => Expr::Reduce([Reduce::Add, Reduce::Max][r.below(2)], e(r)),
    }
}

fn block(r: &mut Random, depth: usize) -> Block {
    (0..r.below(4)).map(|_| stmt(r, depth)).collect()
}

fn place(r: &mut Random) -> Place {
    let places =
        [Place::Param(r.below(4) as u32), Place::Shared(Handle::new(r.below(3))), Place::Registers(Handle::new(r.below(3)))];
    places[r.below(3)]
}

fn several<T>(r: &mut Random, of: fn(&mut Random) -> T) -> Vec<T> {
    (0..r.below(5)).map(|_| of(r)).collect()
}

fn stmt(r: &mut Random, depth: usize) -> Stmt {
    let local = Handle::new(r.below(6));
    let place = place(r);
    let align = [0, 3, 4, 1 << 31][r.below(4)];
    let inner = |r: &mut Random| if depth == 0 { Vec::new() } else { block(r, depth - 1) };
    let barrier = Handle::new(r.below(3));
    match r.below(26) {
        0 | 1 => Stmt::Let { local, value: e(r) },
        2 => Stmt::Var { local, value: e(r) },
        3 => Stmt::Set { local, value: e(r) },
        4 => Stmt::Load { local, from: place, offset: e(r), align, hint: [Hint::None, Hint::Keep, Hint::Stream][r.below(3)] },
        5 => Stmt::Store { to: place, offset: e(r), value: e(r), align },
        6 => Stmt::AtomicAdd { local: [None, Some(local)][r.below(2)], to: place, offset: e(r), value: e(r) },
        25 => Stmt::Redux { local, extreme: [Extreme::Max, Extreme::Min][r.below(2)], value: e(r) },
        7 => Stmt::Shuffle { local, value: e(r), mask: r.next() as u32 },
        8 => Stmt::Vote { local, vote: [Vote::Any, Vote::Ballot][r.below(2)], value: e(r) },
        9 => {
            let some = Scope::Threads { id: r.next() as u8, count: number(r) };
            let arrive = Stmt::BarrierArrive { id: r.next() as u8, count: number(r) };
            [Stmt::Barrier([Scope::Warp, some, Scope::Block, Scope::Cluster][r.below(4)]), arrive][r.below(2)].clone()
        }
        10 => Stmt::For { local, start: e(r), end: e(r), step: e(r), body: inner(r) },
        11 => Stmt::Copy {
            to: place,
            at: e(r),
            from: self::place(r),
            offset: e(r),
            bytes: [0, 2, 4, 16][r.below(4)],
            live: [None, Some(e(r))][r.below(2)],
        },
        12 => Stmt::Commit,
        13 => Stmt::Wait(Wait::Groups(r.next() as u32)),
        14 => {
            let locals = several(r, |r| Handle::new(r.below(6)));
            let load = Stmt::LoadMatrix { locals, from: place, offset: e(r), transposed: r.below(2) == 0 };
            let store = Stmt::StoreMatrix { to: place, offset: e(r), pairs: several(r, e), transposed: r.below(2) == 0 };
            [load, store][r.below(2)].clone()
        }
        15 => {
            let (shape, sums) = (MatrixShape::ALL[r.below(2)], Handle::new(r.below(3)));
            Stmt::Mma { shape, sums, at: [0, 4, u32::MAX][r.below(3)], a: several(r, e), b: several(r, e) }
        }
        16 => {
            let role = |r: &mut Random| WarpRole {
                warps: number(r)..number(r),
                registers: [None, Some(number(r))][r.below(2)],
                body: inner(r),
            };
            Stmt::Roles((0..r.below(3)).map(|_| role(r)).collect())
        }
        17 => {
            let arrival = [Arrival::Now, Arrival::Expecting(e(r)), Arrival::Copied, Arrival::InBlock(e(r))][r.below(4)];
            Stmt::Arrive { barrier, stage: e(r), arrival }
        }
        18 => Stmt::Wait(Wait::Phase { barrier, stage: e(r), phase: e(r) }),
        19 => {
            let (to, from, bytes) = (Handle::new(r.below(3)), r.below(4) as u32, number(r));
            Stmt::BulkCopy { to, at: e(r), from, offset: e(r), bytes, barrier, stage: e(r) }
        }
        20 => {
            let (to, from, corner) = (Handle::new(r.below(3)), r.below(4) as u32, [e(r), e(r), e(r)]);
            match r.below(3) {
                0 => Stmt::TileStore { to: from, corner, from: to, at: e(r) },
                to_all => Stmt::TileCopy { to, at: e(r), from, corner, barrier, stage: e(r), to_all: to_all == 1 },
            }
        }
        21 => {
            let panels = |r: &mut Random| Panels {
                array: Handle::new(r.below(3)),
                at: e(r),
                lines: number(r),
                swizzle: Swizzle::ALL[r.below(4)],
                transposed: r.below(2) == 0,
            };
            let a = if r.below(2) == 0 { Factor::Pairs(several(r, e)) } else { Factor::Shared(panels(r)) };
            let (columns, depth, sums, b) = (number(r), number(r), Handle::new(r.below(3)), panels(r));
            Stmt::GroupMma { columns, depth, sums, at: [0, 4, u32::MAX][r.below(3)], a, b }
        }
        22 => {
            let more = [
                Stmt::Fence,
                Stmt::AllowNext,
                Stmt::Wait(Wait::Launches),
                Stmt::Wait(Wait::Stores),
                Stmt::Wait(Wait::Products(r.next() as u32)),
            ];
            more[r.below(5)].clone()
        }
        23 => Stmt::Prefetch { from: r.below(4) as u32, offset: e(r) },
        _ => Stmt::If { cond: e(r), then: inner(r), otherwise: inner(r) },
    }
}
