//! Typed forms of asynchronous instructions: cp.async, mbarrier, bulk copies, wgmma (PTX ISA 9.7.9.25, 9.7.13.15, 9.7.15).

use crate::text::body::Body;
use crate::text::decode_memory::hints;
use crate::text::decode_warp::matrix_type;
use crate::text::form::Form;
use crate::text::ins::{Arrive, AtomicOp, Bulk, Direction, MbarrierTest, Op, Reach, SINK, Wgmma, WgmmaA};
use crate::text::module::{ParseError, Preset};
use crate::text::operand::OperandKind;
use crate::types::{MmaTy, Space, Ty};

pub(crate) fn decode_async(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    match form.name {
        "cp" => copy(body, form),
        "mbarrier" => mbarrier(body, form),
        "wgmma" => wgmma(body, form),
        "setmaxnreg" => {
            let _: bool = form.need("`.inc` or `.dec`", &[("inc", true), ("dec", false)])?;
            if !form.take("sync") || !form.take("aligned") {
                return Err(form.unknown());
            }
            form.ty()?;
            form.expect(1..=1)?;
            // PTX ISA 9.7.17.5: a multiple of 8 from 24 to 256.
            let count = form.constant(0)?;
            if !(24..=256).contains(&count) || count % 8 != 0 {
                return Err(form.error("the number of registers must be a multiple of 8 from 24 to 256"));
            }
            Ok(Op::SetMaxRegisters)
        }
        "griddepcontrol" => {
            let wait = form.need("`.wait` or `.launch_dependents`", &[("wait", true), ("launch_dependents", false)])?;
            form.expect(0..=0)?;
            Ok(if wait { Op::GridDependencyWait } else { Op::Nop })
        }
        "mapa" => {
            form.space();
            let ty = form.ty()?;
            form.expect(3..=3)?;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, ty)?);
            Ok(Op::MapAddress { d, a, rank: form.source(body, 2, Ty::U32)? })
        }
        "getctarank" => {
            form.space();
            let ty = form.ty()?;
            form.expect(2..=2)?;
            Ok(Op::ClusterRank { d: form.dest(body, 0)?, a: form.source(body, 1, ty)? })
        }
        "tcgen05" | "tensormap" | "multimem" | "wmma" | "clusterlaunchcontrol" => {
            Err(form.error(format!("`{}` is not modelled", form.full)))
        }
        _ => Err(form.unknown()),
    }
}

fn copy(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    if form.take("reduce") {
        if !form.take("async") || !form.take("bulk") {
            return Err(form.unknown());
        }
        return bulk(body, form, true);
    }
    if !form.take("async") {
        return Err(form.unknown());
    }
    if form.take("bulk") {
        return bulk(body, form, false);
    }
    if form.take("commit_group") {
        form.expect(0..=0)?;
        return Ok(Op::CopyCommit);
    }
    if form.take("wait_all") {
        form.expect(0..=0)?;
        return Ok(Op::CopyWait { left: None });
    }
    if form.take("wait_group") {
        form.expect(1..=1)?;
        return Ok(Op::CopyWait { left: Some(form.source(body, 0, Ty::U32)?) });
    }
    if form.take("mbarrier") {
        if !form.take("arrive") {
            return Err(form.unknown());
        }
        let noinc = form.take("noinc");
        form.space();
        form.ty()?;
        form.expect(1..=1)?;
        return Ok(Op::CopyArrive { mbarrier: form.address(body, 0)?, noinc });
    }
    let l2_only = form.need("`.ca` or `.cg`", &[("cg", true), ("ca", false)])?;
    let to = form.space();
    let from = form.space();
    if to != Space::Shared || from != Space::Global {
        return Err(form.error(format!("`{}` must copy from global to shared", form.full)));
    }
    let policy = hints(form);
    form.expect(3 + usize::from(policy)..=4 + usize::from(policy))?;
    let bytes = form.constant(2)?;
    if !matches!((l2_only, bytes), (true, 16) | (false, 4 | 8 | 16)) {
        return Err(form.error(format!("`{}` cannot copy {bytes} bytes", form.full)));
    }
    let (mut src_bytes, mut ignore) = (None, None);
    if form.operands.len() == 4 + usize::from(policy) {
        match form.pred(body, 3) {
            Ok(pred) => ignore = Some(pred),
            Err(_) => src_bytes = Some(form.source(body, 3, Ty::U32)?),
        }
    }
    let (dst, src) = (form.address(body, 0)?, form.address(body, 1)?);
    Ok(Op::CopyAsync { dst, src, bytes: bytes as u8, src_bytes, ignore })
}

/// `cp.async.bulk`, with or without a tensor map (PTX ISA 9.7.9.25.4 and .5).
fn bulk(body: &mut Body<'_>, form: &mut Form<'_>, reduce: bool) -> Result<Op, ParseError> {
    if form.take("commit_group") {
        form.expect(0..=0)?;
        return Ok(Op::BulkCommit);
    }
    if form.take("wait_group") {
        // `.read` waits for less; the reads of the source are what is judged here.
        let _ = form.take("read");
        form.expect(1..=1)?;
        return Ok(Op::BulkWait { left: form.source(body, 0, Ty::U32)? });
    }
    if form.take("prefetch") {
        form.take_prefix("");
        return Ok(Op::Nop);
    }
    let refused = ["im2col", "im2col::w", "im2col_no_offs", "tile::gather4", "tile::scatter4"];
    for modifier in refused.into_iter().chain(["cta_group::1", "cta_group::2", "cp_mask"]) {
        if form.take(modifier) {
            return Err(form.error(format!("`.{modifier}` of `{}` is not modelled", form.full)));
        }
    }
    let tensor = form.take("tensor");
    let rank = form.choose(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]).unwrap_or(0_usize);
    let to_shared = form.full.find(".shared").unwrap_or(usize::MAX) < form.full.find(".global").unwrap_or(usize::MAX);
    form.space();
    form.space();
    if form.full.matches(".shared::").count() > 1 || !form.full.contains("global") {
        return Err(form.error(format!("`{}` is not modelled: clusters of more than one block", form.full)));
    }
    let _ = form.take("tile");
    let tracked = form.take("mbarrier::complete_tx::bytes");
    let grouped = form.take("bulk_group");
    let spread = form.take("multicast::cluster");
    let policy = hints(form);
    if tracked != to_shared || grouped == to_shared || tensor != (rank > 0) || (spread && !to_shared) {
        return Err(form.unknown());
    }
    let reduce = if reduce {
        let op = form.need(
            "an operation",
            &[
                ("add", AtomicOp::Add),
                ("min", AtomicOp::Min),
                ("max", AtomicOp::Max),
                ("and", AtomicOp::And),
                ("or", AtomicOp::Or),
                ("xor", AtomicOp::Xor),
                ("inc", AtomicOp::Inc),
                ("dec", AtomicOp::Dec),
            ],
        )?;
        let _ = form.take("noftz");
        // A tensor map knows its own type.
        let ty = if tensor { Ty::B32 } else { form.ty()? };
        if tensor || to_shared {
            return Err(form.error(format!("`{}` is not modelled", form.full)));
        }
        Some((op, ty))
    } else {
        None
    };
    let direction = if to_shared { Direction::ToShared } else { Direction::ToGlobal };
    let sized = usize::from(!tensor);
    let wanted = 2 + sized + usize::from(to_shared) + usize::from(spread) + usize::from(policy);
    form.expect(wanted..=wanted)?;
    let (dst, dst_coords) = form.address_and_coords(body, 0)?;
    let (src, src_coords) = form.address_and_coords(body, 1)?;
    let zero = body.preset(Preset::Value(0), form.at)?;
    let bytes = if tensor { zero } else { form.source(body, 2, Ty::U32)? };
    let mbarrier = if to_shared { Some(form.address(body, 2 + sized)?) } else { None };
    let blocks = if spread { Some(form.source(body, 3 + sized, Ty::U16)?) } else { None };
    let coords = if to_shared { src_coords } else { dst_coords };
    if coords.len() != rank {
        return Err(form.error(format!("`{}` takes {rank} coordinates, not {}", form.full, coords.len())));
    }
    let coords = if tensor { Some(coords.into()) } else { None };
    Ok(Op::Bulk(Box::new(Bulk { direction, dst, src, bytes, coords, mbarrier, blocks, reduce })))
}

fn mbarrier(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    let what = form.need(
        "an operation",
        &[
            ("init", 0),
            ("inval", 1),
            ("arrive", 2),
            ("arrive_drop", 3),
            ("expect_tx", 4),
            ("complete_tx", 5),
            ("test_wait", 6),
            ("try_wait", 7),
            ("pending_count", 8),
        ],
    )?;
    let parity = form.take("parity");
    let expect = what == 2 && form.take("expect_tx");
    let no_complete = form.take("noComplete");
    for ignored in ["release", "acquire", "relaxed"] {
        form.take(ignored);
    }
    let wide = form.choose(&[("cta", false), ("cluster", true)]).unwrap_or(false);
    let reach = Reach { cluster: matches!(form.space(), Space::SharedCluster | Space::Generic), wide };
    form.ty()?;
    Ok(match what {
        0 => {
            form.expect(2..=2)?;
            Op::MbarrierInit { addr: form.address(body, 0)?, count: form.source(body, 1, Ty::U32)? }
        }
        1 => {
            form.expect(1..=1)?;
            Op::MbarrierInvalidate { addr: form.address(body, 0)? }
        }
        2 | 3 => {
            // The state is optional when the barrier may be another block's.
            let stateful = !matches!(form.operands.first().map(|first| &first.kind), Some(OperandKind::Address(..)));
            let first = usize::from(stateful);
            form.expect(first + 1..=first + 2)?;
            let d = if stateful { form.dest(body, 0)? } else { SINK };
            let addr = form.address(body, first)?;
            let count = if form.operands.len() == first + 2 { Some(form.source(body, first + 1, Ty::U32)?) } else { None };
            let how = match (what, expect, no_complete) {
                (2, true, _) => Arrive::ExpectTx,
                (2, _, true) => Arrive::NoComplete,
                (2, _, _) => Arrive::Plain,
                (_, _, false) => Arrive::Drop,
                _ => return Err(form.unknown()),
            };
            if count.is_none() && matches!(how, Arrive::ExpectTx | Arrive::NoComplete) {
                return Err(form.error(format!("`{}` needs a count", form.full)));
            }
            Op::MbarrierArrive { how, reach, addr, count, d }
        }
        4 => {
            form.expect(2..=2)?;
            Op::MbarrierExpect { addr: form.address(body, 0)?, bytes: form.source(body, 1, Ty::U32)? }
        }
        5 => {
            form.expect(2..=2)?;
            Op::MbarrierComplete { addr: form.address(body, 0)?, bytes: form.source(body, 1, Ty::U32)? }
        }
        6 | 7 => {
            // A time limit of `try_wait` may follow: this model never waits inside it.
            form.expect(3..=3 + usize::from(what == 7))?;
            let p = form.dest_pred(body, 0)?;
            let addr = form.address(body, 1)?;
            let test = if parity {
                MbarrierTest::Parity(form.source(body, 2, Ty::U32)?)
            } else {
                MbarrierTest::State(form.source(body, 2, Ty::B64)?)
            };
            Op::MbarrierTest { addr, test, wide, p }
        }
        _ => {
            form.expect(2..=2)?;
            Op::MbarrierPending { d: form.dest(body, 0)?, a: form.source(body, 1, Ty::B64)? }
        }
    })
}

fn wgmma(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    if body.architecture() != 90 {
        return Err(form.error("`wgmma` exists on sm_90a only"));
    }
    let what = form.need("an operation", &[("fence", 0), ("commit_group", 1), ("wait_group", 2), ("mma_async", 3)])?;
    if !form.take("sync") || !form.take("aligned") {
        return Err(form.error(format!("`{}` needs `.sync.aligned`", form.full)));
    }
    match what {
        0 => {
            form.expect(0..=0)?;
            return Ok(Op::WgmmaFence);
        }
        1 => {
            form.expect(0..=0)?;
            return Ok(Op::WgmmaCommit);
        }
        2 => {
            form.expect(1..=1)?;
            return Ok(Op::WgmmaWait { left: form.source(body, 0, Ty::U32)? });
        }
        _ => {}
    }
    if form.take("sp") {
        return Err(form.unknown());
    }
    let saturate = form.take("satfinite");
    let shape = form.rest_of("m64n").ok_or_else(|| form.unknown())?;
    let (n, k) = shape.split_once('k').ok_or_else(|| form.unknown())?;
    let (n, k) = (n.parse::<u16>().unwrap_or(0), k.parse::<u16>().unwrap_or(0));
    let parts: Vec<&str> = form.full.rsplit('.').take(3).collect();
    let &[b_name, a_name, d_name] = parts.as_slice() else {
        return Err(form.unknown());
    };
    let (a_ty, b_ty) = (matrix_type(form, Some(a_name))?, matrix_type(form, Some(b_name))?);
    for name in [d_name, a_name, b_name] {
        form.take(name);
    }
    let d_ty = Ty::parse(d_name).unwrap_or(Ty::Pred);
    let accumulates = match d_ty {
        Ty::F32 => !a_ty.integral(),
        Ty::F16 => matches!(a_ty, MmaTy::F16 | MmaTy::E4m3 | MmaTy::E5m2),
        Ty::S32 => a_ty.integral(),
        _ => false,
    };
    let step = if a_ty.integral() { n == 8 || n == 24 || n % 16 == 0 } else { n % 8 == 0 };
    let agree = a_ty == b_ty || (a_ty.bytes() == 1 && b_ty.bytes() == 1 && a_ty.integral() == b_ty.integral());
    if !accumulates || !agree || !(8..=256).contains(&n) || !step || u32::from(k) * a_ty.bytes() != 32 {
        return Err(form.error(format!("the shape or the types of `{}` are not modelled", form.full)));
    }
    // Integer wgmma has scale-d alone; floats have imm-scale-a and -b; 16-bit types also the transposes.
    form.expect(4..=8)?;
    let d = form.dests(body, 0)?.0;
    let per_thread = usize::from(n) / 2 / if d_ty == Ty::F16 { 2 } else { 1 };
    if d.len() != per_thread {
        return Err(form.error(format!("`{}` has {per_thread} accumulator registers, not {}", form.full, d.len())));
    }
    let a = match form.operands[1].kind {
        OperandKind::Vector(_) => {
            let regs = form.sources(body, 1, Ty::B32)?;
            if regs.len() != 4 {
                return Err(form.error("a fragment of A has 4 registers"));
            }
            WgmmaA::Registers(regs)
        }
        _ => WgmmaA::Descriptor(form.source(body, 1, Ty::B64)?),
    };
    let b_desc = form.source(body, 2, Ty::B64)?;
    let scale_d = form.pred(body, 3)?;
    let in_registers = matches!(a, WgmmaA::Registers(_));
    let wanted = if a_ty.integral() {
        4
    } else if a_ty.bytes() == 2 {
        if in_registers { 7 } else { 8 }
    } else {
        6
    };
    form.expect(wanted..=wanted)?;
    let scale = |index: usize| -> Result<bool, ParseError> {
        match form.constant(index)? as i64 {
            1 => Ok(false),
            -1 => Ok(true),
            _ => Err(form.error("a scale must be 1 or -1")),
        }
    };
    let (negate_a, negate_b) = if wanted >= 6 { (scale(4)?, scale(5)?) } else { (false, false) };
    let (transpose_a, transpose_b) = match wanted {
        7 => (false, form.constant(6)? != 0),
        8 => (form.constant(6)? != 0, form.constant(7)? != 0),
        _ => (false, false),
    };
    Ok(Op::Wgmma(Box::new(Wgmma {
        n,
        k,
        a_ty,
        b_ty,
        d_ty,
        d,
        a,
        b_desc,
        scale_d,
        negate_a,
        negate_b,
        transpose_a,
        transpose_b,
        saturate,
    })))
}
