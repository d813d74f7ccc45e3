//! Typed forms of what a warp does together: shuffles, votes, matrix fragments (PTX ISA 9.7.9.6, 9.7.13, 9.7.14).

use crate::text::body::Body;
use crate::text::form::Form;
use crate::text::ins::{Mma, Op, ReduceOp, ShuffleMode, VoteMode};
use crate::text::module::ParseError;
use crate::types::{MmaTy, Ty};

pub(crate) fn decode_warp(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Option<Op>, ParseError> {
    Ok(Some(match form.name {
        "activemask" => {
            form.ty()?;
            form.expect(1..=1)?;
            Op::ActiveMask { d: form.dest(body, 0)? }
        }
        "shfl" => {
            sync(form)?;
            let mode = form.need(
                "a mode",
                &[
                    ("up", ShuffleMode::Up),
                    ("down", ShuffleMode::Down),
                    ("bfly", ShuffleMode::Butterfly),
                    ("idx", ShuffleMode::Index),
                ],
            )?;
            form.ty()?;
            form.expect(5..=5)?;
            let (d, p) = form.dest_pair(body, 0)?;
            let (a, b) = (form.source(body, 1, Ty::B32)?, form.source(body, 2, Ty::B32)?);
            let (c, mask) = (form.source(body, 3, Ty::B32)?, form.source(body, 4, Ty::B32)?);
            Op::Shuffle { mode, d, p, a, b, c, mask }
        }
        "vote" => {
            sync(form)?;
            let mode = form.need(
                "a mode",
                &[("all", VoteMode::All), ("any", VoteMode::Any), ("uni", VoteMode::Uniform), ("ballot", VoteMode::Ballot)],
            )?;
            form.ty()?;
            form.expect(3..=3)?;
            let d = if mode == VoteMode::Ballot { form.dest(body, 0)? } else { form.dest_pred(body, 0)? };
            Op::Vote { mode, d, p: form.pred(body, 1)?, mask: form.source(body, 2, Ty::B32)? }
        }
        "match" => {
            let all = form.need("`.any` or `.all`", &[("all", true), ("any", false)])?;
            sync(form)?;
            let ty = form.ty()?;
            form.expect(3..=3)?;
            let (d, p) = form.dest_pair(body, 0)?;
            Op::Match { all, ty, d, p, a: form.source(body, 1, ty)?, mask: form.source(body, 2, Ty::B32)? }
        }
        "redux" => {
            sync(form)?;
            let op = form.need(
                "an operation",
                &[
                    ("add", ReduceOp::Add),
                    ("min", ReduceOp::Min),
                    ("max", ReduceOp::Max),
                    ("and", ReduceOp::And),
                    ("or", ReduceOp::Or),
                    ("xor", ReduceOp::Xor),
                ],
            )?;
            let ty = form.ty()?;
            if !matches!(ty, Ty::U32 | Ty::S32 | Ty::B32) {
                return Err(form.bad_type(ty));
            }
            form.expect(3..=3)?;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, ty)?);
            Op::Redux { op, ty, d, a, mask: form.source(body, 2, Ty::B32)? }
        }
        "elect" => {
            sync(form)?;
            form.expect(2..=2)?;
            let (d, p) = form.dest_pair(body, 0)?;
            Op::Elect { d, p, mask: form.source(body, 1, Ty::B32)? }
        }
        "ldmatrix" | "stmatrix" => matrix(body, form)?,
        "movmatrix" => {
            sync(form)?;
            for word in ["aligned", "m8n8", "trans"] {
                if !form.take(word) {
                    return Err(form.unknown());
                }
            }
            form.ty()?;
            form.expect(2..=2)?;
            Op::MoveMatrix { d: form.dest(body, 0)?, a: form.source(body, 1, Ty::B32)? }
        }
        "mma" => Op::Mma(Box::new(mma(body, form)?)),
        _ => return Ok(None),
    }))
}

fn sync(form: &mut Form<'_>) -> Result<(), ParseError> {
    // The forms without `.sync` were removed with sm_70 (PTX ISA 9.7.9.5).
    if form.take("sync") { Ok(()) } else { Err(form.error(format!("`{}` needs `.sync`", form.full))) }
}

fn matrix(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    sync(form)?;
    if !form.take("aligned") || !form.take("m8n8") {
        return Err(form.unknown());
    }
    let count = form.need("`.x1`, `.x2` or `.x4`", &[("x1", 1_usize), ("x2", 2), ("x4", 4)])?;
    let transpose = form.take("trans");
    form.space();
    let ty = form.ty()?;
    if ty != Ty::B16 {
        return Err(form.bad_type(ty));
    }
    form.expect(2..=2)?;
    let load = form.name == "ldmatrix";
    let addr = form.address(body, usize::from(load))?;
    let regs = if load { form.dests(body, 0)?.0 } else { form.sources(body, 1, Ty::B32)? };
    if regs.len() != count {
        return Err(form.error(format!("`{}` moves {count} registers, not {}", form.full, regs.len())));
    }
    Ok(if load { Op::LoadMatrix { d: regs, transpose, addr } } else { Op::StoreMatrix { a: regs, transpose, addr } })
}

pub(crate) fn matrix_type(form: &Form<'_>, name: Option<&str>) -> Result<MmaTy, ParseError> {
    Ok(match name {
        Some("f16") => MmaTy::F16,
        Some("bf16") => MmaTy::Bf16,
        Some("tf32") => MmaTy::Tf32,
        Some("e4m3") => MmaTy::E4m3,
        Some("e5m2") => MmaTy::E5m2,
        Some("s8") => MmaTy::S8,
        Some("u8") => MmaTy::U8,
        _ => return Err(form.error(format!("the element types of `{}` are not modelled", form.full))),
    })
}

/// The last four parts of an `mma` are its types: D, A, B, C.
fn mma(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Mma, ParseError> {
    sync(form)?;
    for word in ["aligned", "row", "col"] {
        if !form.take(word) {
            return Err(form.error(format!("`{}` needs `.{word}`", form.full)));
        }
    }
    let parts: Vec<&str> = form.full.rsplit('.').take(4).collect();
    let &[c_name, b_name, a_name, d_name] = parts.as_slice() else {
        return Err(form.unknown());
    };
    let (a_ty, b_ty) = (matrix_type(form, Some(a_name))?, matrix_type(form, Some(b_name))?);
    let shapes: &[(&str, (u8, u16))] = match a_ty {
        MmaTy::F16 | MmaTy::Bf16 => &[("m16n8k16", (8, 16)), ("m16n8k8", (8, 8))],
        MmaTy::Tf32 => &[("m16n8k8", (8, 8)), ("m16n8k4", (8, 4))],
        MmaTy::E4m3 | MmaTy::E5m2 | MmaTy::S8 | MmaTy::U8 => &[("m16n8k32", (8, 32)), ("m16n8k16", (8, 16))],
    };
    let (n, k) = form.need("a shape that is modelled", shapes)?;
    let saturate = form.take("satfinite");
    for name in [d_name, a_name, b_name, c_name] {
        form.take(name);
    }
    let d_ty = Ty::parse(d_name).unwrap_or(Ty::Pred);
    let kinds_agree = a_ty == b_ty || (a_ty.integral() && b_ty.integral()) || (a_ty.bytes() == 1 && b_ty.bytes() == 1);
    let accumulates = match d_ty {
        Ty::F32 => !a_ty.integral(),
        Ty::F16 => a_ty == MmaTy::F16,
        Ty::S32 => a_ty.integral() && b_ty.integral(),
        _ => false,
    };
    if !kinds_agree || !accumulates || c_name != d_name || a_ty.integral() != b_ty.integral() {
        return Err(form.error(format!("the element types of `{}` are not modelled", form.full)));
    }
    form.expect(4..=4)?;
    let d = form.dests(body, 0)?.0;
    let (a, b) = (form.sources(body, 1, Ty::B32)?, form.sources(body, 2, Ty::B32)?);
    let c = form.sources(body, 3, Ty::B32)?;
    let a_regs = 16 * u32::from(k) * a_ty.bytes() / 128;
    let b_regs = 8 * u32::from(k) * b_ty.bytes() / 128;
    let d_regs = if d_ty == Ty::F16 { 2 } else { 4 };
    if (a.len() as u32, b.len() as u32) != (a_regs, b_regs) || d.len() != d_regs || c.len() != d_regs {
        return Err(form.error(format!("the fragments of `{}` have the wrong number of registers", form.full)));
    }
    Ok(Mma { n, k, a_ty, b_ty, d_ty, saturate, d, a, b, c })
}
