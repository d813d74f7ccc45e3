//! Typed forms of loads, stores, atomics, fences and block barriers (PTX ISA 9.7.9, 9.7.13).

use crate::text::body::Body;
use crate::text::form::Form;
use crate::text::ins::{Access, Atomic, AtomicOp, BarrierKind, BarrierReduce, Op};
use crate::text::module::{ParseError, Preset};
use crate::text::operand::OperandKind;
use crate::types::{Order, Scope, Space, Ty};

const SCOPES: &[(&str, Scope)] = &[("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];

fn order(form: &mut Form<'_>) -> Option<Order> {
    form.choose(&[
        ("weak", Order::Weak),
        ("volatile", Order::Volatile),
        ("relaxed", Order::Relaxed),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
        ("acq_rel", Order::AcquireRelease),
        ("mmio", Order::Relaxed),
    ])
}

/// Cache and eviction hints, none of which changes a value. Says whether a cache-policy operand follows.
pub(crate) fn hints(form: &mut Form<'_>) -> bool {
    let policy = form.take("L2::cache_hint");
    form.take_prefix("L1::");
    form.take_prefix("L2::");
    for hint in ["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified"] {
        form.take(hint);
    }
    policy
}

pub(crate) fn decode_memory(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Option<Op>, ParseError> {
    Ok(Some(match form.name {
        "ld" | "ldu" | "st" => access(body, form)?,
        "atom" | "red" => {
            if form.take("async") {
                return Err(form.error(format!("`{}` is not modelled: clusters of more than one block", form.full)));
            }
            Op::Atomic(Box::new(atomic(body, form)?))
        }
        "prefetch" | "prefetchu" | "applypriority" | "discard" => {
            if form.name == "discard" {
                return Err(form.unknown());
            }
            let space = form.space();
            let _ = form.take("tensormap");
            hints(form);
            for level in ["L1", "L2"] {
                form.take(level);
            }
            form.expect(1..=2)?;
            Op::Prefetch { space, addr: form.address(body, 0)? }
        }
        "createpolicy" => {
            form.take_prefix("");
            form.expect(1..=4)?;
            let d = form.dest(body, 0)?;
            Op::Mov { d, a: body.preset(Preset::Value(0), form.at)? }
        }
        "membar" => {
            if form.take("proxy") {
                return Err(form.unknown());
            }
            let scope =
                form.need("a level", &[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys), ("gpu", Scope::Gpu)])?;
            form.expect(0..=0)?;
            Op::Fence { order: Order::SequentiallyConsistent, scope }
        }
        "fence" => fence(form)?,
        "bar" | "barrier" => barrier(body, form)?,
        _ => return Ok(None),
    }))
}

fn access(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    let load = form.name != "st";
    if form.take("async") {
        return Err(form.error(format!("`{}` is not modelled: clusters of more than one block", form.full)));
    }
    let order = order(form).unwrap_or(Order::Weak);
    let scope = form.choose(SCOPES).unwrap_or(Scope::Sys);
    let space = form.space();
    let policy = hints(form);
    let count = form.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1_usize);
    let ty = form.ty()?;
    if ty == Ty::Pred || ty.bits() as usize * count > 256 {
        return Err(form.bad_type(ty));
    }
    form.expect(2 + usize::from(policy)..=2 + usize::from(policy))?;
    let place = usize::from(load);
    if form.call_param(body, place) {
        return if load { Err(form.error("results of calls are not modelled")) } else { Ok(Op::Nop) };
    }
    if !load && matches!(space, Space::Param | Space::Const) {
        return Err(form.error("a kernel cannot store to this space"));
    }
    let addr = form.address(body, place)?;
    let (regs, wide) = if load { form.dests(body, 0)? } else { (form.sources(body, 1, ty)?, ty.bits()) };
    if regs.len() != count {
        return Err(form.error(format!("`{}` moves {count} registers, not {}", form.full, regs.len())));
    }
    if load && wide != 0 && wide < ty.bits() {
        return Err(form.error("the register is narrower than what is loaded"));
    }
    let access = Box::new(Access { space, ty, regs, addr, order, scope, wide: wide as u8 });
    Ok(if load { Op::Load(access) } else { Op::Store(access) })
}

fn atomic(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Atomic, ParseError> {
    let returns = form.name == "atom";
    // Without a qualifier it is relaxed, in the scope of the device (PTX ISA 9.7.13.5).
    let order = order(form).unwrap_or(Order::Relaxed);
    let scope = form.choose(SCOPES).unwrap_or(Scope::Gpu);
    let space = form.space();
    let policy = hints(form);
    let op = form.need(
        "an operation",
        &[
            ("add", AtomicOp::Add),
            ("min", AtomicOp::Min),
            ("max", AtomicOp::Max),
            ("and", AtomicOp::And),
            ("or", AtomicOp::Or),
            ("xor", AtomicOp::Xor),
            ("exch", AtomicOp::Exch),
            ("cas", AtomicOp::Cas),
            ("inc", AtomicOp::Inc),
            ("dec", AtomicOp::Dec),
        ],
    )?;
    // The rounding of `add.noftz.f16` is the only one there is.
    let _ = form.take("noftz") | form.take("rn");
    let count = form.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1_usize);
    let ty = form.ty()?;
    let float = ty.floating();
    let fine = match op {
        AtomicOp::Add => ty.bits() >= 32 || matches!(ty, Ty::F16 | Ty::Bf16),
        AtomicOp::Min | AtomicOp::Max => !float && ty.bits() >= 32 && !matches!(ty, Ty::B32 | Ty::B64),
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor | AtomicOp::Exch => !float && ty.bits() >= 32,
        AtomicOp::Cas => !float && ty.bits() >= 16,
        AtomicOp::Inc | AtomicOp::Dec => ty == Ty::U32,
    };
    if !fine || ty == Ty::Pred || matches!(ty, Ty::Tf32 | Ty::F32x2) || (count > 1 && !float) {
        return Err(form.bad_type(ty));
    }
    let first = usize::from(returns);
    let wanted = first + 2 + usize::from(op == AtomicOp::Cas) + usize::from(policy);
    form.expect(wanted..=wanted)?;
    let d = if returns { form.dests(body, 0)?.0 } else { Box::default() };
    let addr = form.address(body, first)?;
    let a = form.sources(body, first + 1, ty)?;
    if a.len() != count || (returns && d.len() != count) {
        return Err(form.error("the number of registers does not fit the vector"));
    }
    let b = if op == AtomicOp::Cas { form.source(body, first + 2, ty)? } else { a[0] };
    Ok(Atomic { op, ty, space, order, scope, addr, d, a, b })
}

fn fence(form: &mut Form<'_>) -> Result<Op, ParseError> {
    form.expect(0..=0)?;
    if form.take("mbarrier_init") {
        // Orders an mbarrier's initialisation before its use by others in the cluster.
        let _ = form.take("release") && form.take("cluster");
        return Ok(Op::FenceMbarrierInit);
    }
    if form.take("proxy") {
        if form.take("async") {
            form.space();
            return Ok(Op::FenceProxyAsync);
        }
        if form.take("async::generic") {
            return Err(form.error(format!("`{}` is not modelled", form.full)));
        }
        if form.take("alias") {
            return Ok(Op::Nop);
        }
        return Err(form.error(format!("`{}` is not modelled", form.full)));
    }
    let order = form
        .choose(&[
            ("sc", Order::SequentiallyConsistent),
            ("acq_rel", Order::AcquireRelease),
            ("acquire", Order::Acquire),
            ("release", Order::Release),
        ])
        .unwrap_or(Order::AcquireRelease);
    let scope = form.need("a scope", SCOPES)?;
    Ok(Op::Fence { order, scope })
}

fn barrier(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    if form.name == "barrier" && form.take("cluster") {
        let arrive = form.need("`.arrive` or `.wait`", &[("arrive", true), ("wait", false)])?;
        let _ = form.take("aligned") | form.take("release") | form.take("acquire") | form.take("relaxed");
        form.expect(0..=0)?;
        return Ok(if arrive { Op::ClusterArrive } else { Op::ClusterWait });
    }
    if form.name == "bar" && form.take("warp") {
        if !form.take("sync") {
            return Err(form.unknown());
        }
        form.expect(1..=1)?;
        return Ok(Op::WarpSync { mask: form.source(body, 0, Ty::B32)? });
    }
    let _ = form.take("cta");
    // `bar` is short for `barrier.aligned` (PTX ISA 9.7.13.1).
    let aligned = form.take("aligned") || form.name == "bar";
    if form.take("red") {
        let op =
            form.need("an operation", &[("popc", BarrierReduce::Popc), ("and", BarrierReduce::And), ("or", BarrierReduce::Or)])?;
        form.ty()?;
        form.expect(3..=4)?;
        let d = if op == BarrierReduce::Popc { form.dest(body, 0)? } else { form.dest_pred(body, 0)? };
        let last = form.operands.len() - 1;
        let p = form.pred(body, last)?;
        let id = form.source(body, 1, Ty::U32)?;
        let count = if last == 3 { Some(form.source(body, 2, Ty::U32)?) } else { None };
        return Ok(Op::Barrier { kind: BarrierKind::Reduce { op, d, p }, aligned, id, count });
    }
    let kind = form.need("`.sync`, `.arrive` or `.red`", &[("sync", BarrierKind::Sync), ("arrive", BarrierKind::Arrive)])?;
    form.expect(1..=2)?;
    let id = form.source(body, 0, Ty::U32)?;
    let count = if form.operands.len() == 2 { Some(form.source(body, 1, Ty::U32)?) } else { None };
    if kind == BarrierKind::Arrive && count.is_none() {
        return Err(form.error("`arrive` needs a number of threads"));
    }
    if matches!(form.operands[0].kind, OperandKind::Integer(id) if id > 15) {
        return Err(form.error("there are only barriers 0 to 15"));
    }
    Ok(Op::Barrier { kind, aligned, id, count })
}
