//! One instruction as written to its typed form. Every modifier must be used up: what is left over is an error.

use crate::text::body::{Body, Resolved};
use crate::text::decode_async::decode_async;
use crate::text::decode_memory::decode_memory;
use crate::text::decode_warp::decode_warp;
use crate::text::form::Form;
use crate::text::ins::{Op, Reg, SINK};
use crate::text::module::{ParseError, Preset};
use crate::text::operand::OperandKind;
use crate::types::{Compare, Convert, FloatOp, FloatTest, FloatUnary, IntOp, IntUnary, Logic, MadOp, PermuteMode, Round, Ty};

/// Gives an instruction its typed form.
pub(crate) fn decode(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    if let Some(op) = decode_scalar(body, form)? {
        return Ok(op);
    }
    if let Some(op) = decode_float(body, form)? {
        return Ok(op);
    }
    if let Some(op) = decode_memory(body, form)? {
        return Ok(op);
    }
    if let Some(op) = decode_warp(body, form)? {
        return Ok(op);
    }
    decode_async(body, form)
}

fn int_binary(body: &mut Body<'_>, form: &mut Form<'_>, op: IntOp, ty: Ty) -> Result<Op, ParseError> {
    form.expect(3..=3)?;
    let d = form.dest(body, 0)?;
    let a = form.source(body, 1, ty)?;
    // Shift amounts are 32 bits wide whatever is shifted (PTX ISA 9.7.8.7).
    let b = form.source(body, 2, if matches!(op, IntOp::Shl | IntOp::Shr) { Ty::U32 } else { ty })?;
    let sat = form.take("sat");
    if sat && !(ty == Ty::S32 && matches!(op, IntOp::Add | IntOp::Sub)) {
        return Err(form.error("`.sat` is only for add and sub of s32"));
    }
    Ok(Op::Int { op, ty, sat, d, a, b })
}

/// Integers, bits, predicates, moves, conversions and branches.
fn decode_scalar(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Option<Op>, ParseError> {
    Ok(Some(match form.name {
        "add" | "sub" | "min" | "max" | "div" | "neg" | "abs" | "mul" | "mad" if leads_to_float(form) => return Ok(None),
        "addc" | "subc" => carry(body, form, true)?,
        "add" | "sub" | "div" | "rem" | "min" | "max" => {
            let op = match form.name {
                "add" => IntOp::Add,
                "sub" => IntOp::Sub,
                "div" => IntOp::Div,
                "rem" => IntOp::Rem,
                "min" => IntOp::Min,
                _ => IntOp::Max,
            };
            if form.has("cc") && matches!(op, IntOp::Add | IntOp::Sub) {
                return carry(body, form, false).map(Some);
            }
            let ty = integer(form)?;
            int_binary(body, form, op, ty)?
        }
        "mul" => {
            let op =
                form.need("`.lo`, `.hi` or `.wide`", &[("lo", IntOp::MulLo), ("hi", IntOp::MulHi), ("wide", IntOp::MulWide)])?;
            let ty = integer(form)?;
            if op == IntOp::MulWide && ty.bits() == 64 {
                return Err(form.bad_type(ty));
            }
            int_binary(body, form, op, ty)?
        }
        "and" | "or" | "xor" => {
            let ty = form.ty()?;
            form.expect(3..=3)?;
            if ty == Ty::Pred {
                let op = match form.name {
                    "and" => Logic::And,
                    "or" => Logic::Or,
                    _ => Logic::Xor,
                };
                let d = form.dest_pred(body, 0)?;
                return Ok(Some(Op::PredLogic { op, d, a: form.pred(body, 1)?, b: form.pred(body, 2)? }));
            }
            let op = match form.name {
                "and" => IntOp::And,
                "or" => IntOp::Or,
                _ => IntOp::Xor,
            };
            int_binary(body, form, op, ty)?
        }
        "shl" | "shr" => {
            let ty = integer(form)?;
            int_binary(body, form, if form.name == "shl" { IntOp::Shl } else { IntOp::Shr }, ty)?
        }
        "not" | "neg" | "abs" | "cnot" | "popc" | "clz" | "brev" | "bfind" => {
            let ty = form.ty()?;
            form.expect(2..=2)?;
            if ty == Ty::Pred && form.name == "not" {
                let mut a = form.pred(body, 1)?;
                a.negated = !a.negated;
                return Ok(Some(Op::PredMov { d: form.dest_pred(body, 0)?, a }));
            }
            if !ty.integral() {
                return Err(form.bad_type(ty));
            }
            let shift = form.take("shiftamt");
            let op = match form.name {
                "not" => IntUnary::Not,
                "neg" => IntUnary::Neg,
                "abs" => IntUnary::Abs,
                "cnot" => IntUnary::Cnot,
                "popc" => IntUnary::Popc,
                "clz" => IntUnary::Clz,
                "brev" => IntUnary::Brev,
                _ if shift => IntUnary::BfindShift,
                _ => IntUnary::Bfind,
            };
            Op::IntUnary { op, ty, d: form.dest(body, 0)?, a: form.source(body, 1, ty)? }
        }
        "mad" => {
            let op = form.need("`.lo`, `.hi` or `.wide`", &[("lo", MadOp::Lo), ("hi", MadOp::Hi), ("wide", MadOp::Wide)])?;
            let ty = integer(form)?;
            mad(body, form, op, ty)?
        }
        "sad" => {
            let ty = integer(form)?;
            mad(body, form, MadOp::Sad, ty)?
        }
        "shf" => {
            let right = form.need("`.l` or `.r`", &[("r", true), ("l", false)])?;
            let wrap = form.need("`.wrap` or `.clamp`", &[("wrap", true), ("clamp", false)])?;
            let [d, a, b, c] = quad(body, form, Ty::B32)?;
            Op::FunnelShift { right, wrap, d, a, b, c }
        }
        "lop3" => {
            expect_type(form, Ty::B32)?;
            form.expect(5..=5)?;
            let table = form.constant(4)? as u8;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, Ty::B32)?);
            Op::Lop3 { table, d, a, b: form.source(body, 2, Ty::B32)?, c: form.source(body, 3, Ty::B32)? }
        }
        "prmt" => {
            let mode = form.choose(&[
                ("f4e", PermuteMode::Forward4),
                ("b4e", PermuteMode::Backward4),
                ("rc8", PermuteMode::Replicate8),
                ("ecl", PermuteMode::EdgeLeft),
                ("ecr", PermuteMode::EdgeRight),
                ("rc16", PermuteMode::Replicate16),
            ]);
            let [d, a, b, c] = quad(body, form, Ty::B32)?;
            Op::Permute { mode: mode.unwrap_or(PermuteMode::Index), d, a, b, c }
        }
        "bfe" => {
            let ty = integer(form)?;
            form.expect(4..=4)?;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, ty)?);
            Op::Extract { ty, d, a, b: form.source(body, 2, Ty::U32)?, c: form.source(body, 3, Ty::U32)? }
        }
        "bfi" => {
            let ty = form.ty()?;
            form.expect(5..=5)?;
            let (d, a, b) = (form.dest(body, 0)?, form.source(body, 1, ty)?, form.source(body, 2, ty)?);
            Op::Insert { ty, d, a, b, c: form.source(body, 3, Ty::U32)?, e: form.source(body, 4, Ty::U32)? }
        }
        "dp4a" => {
            let (a_ty, b_ty) = (form.ty()?, form.ty()?);
            form.expect(4..=4)?;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, a_ty)?);
            let (b, c) = (form.source(body, 2, b_ty)?, form.source(body, 3, Ty::S32)?);
            Op::DotProduct { a_signed: a_ty.signed(), b_signed: b_ty.signed(), d, a, b, c }
        }
        "fns" => {
            let [d, a, b, c] = quad(body, form, Ty::B32)?;
            Op::FindNthSet { d, a, b, c }
        }
        "mov" => mov(body, form)?,
        "selp" => {
            let ty = form.ty()?;
            form.expect(4..=4)?;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, ty)?);
            Op::Select { d, a, b: form.source(body, 2, ty)?, p: form.pred(body, 3)? }
        }
        "slct" => {
            let ftz = form.take("ftz");
            let (ty, by) = (form.ty()?, form.ty()?);
            if !matches!(by, Ty::S32 | Ty::F32) {
                return Err(form.bad_type(by));
            }
            form.expect(4..=4)?;
            let (d, a) = (form.dest(body, 0)?, form.source(body, 1, ty)?);
            Op::Slct { by, ftz, d, a, b: form.source(body, 2, ty)?, c: form.source(body, 3, by)? }
        }
        "setp" | "set" => compare(body, form)?,
        "cvt" => convert(body, form)?,
        "cvta" => {
            let to = form.take("to");
            let space = form.space();
            expect_type(form, Ty::U64)?;
            form.expect(2..=2)?;
            Op::WindowAddress { space, to, d: form.dest(body, 0)?, a: form.source(body, 1, Ty::U64)? }
        }
        "isspacep" => {
            let space = form.space();
            form.expect(2..=2)?;
            Op::IsSpace { space, p: form.dest_pred(body, 0)?, a: form.source(body, 1, Ty::U64)? }
        }
        "bra" => {
            let _ = form.take("uni");
            form.expect(1..=1)?;
            match form.operands[0].kind {
                OperandKind::Name(name, 0) => body.branch_to(name, 0, form.operands[0].at),
                _ => return Err(form.error("expected a label")),
            }
            Op::Branch { target: 0 }
        }
        "brx" => {
            if !form.take("idx") {
                return Err(form.unknown());
            }
            let _ = form.take("uni");
            form.expect(2..=2)?;
            let index = form.source(body, 0, Ty::U32)?;
            let count = match form.operands[1].kind {
                OperandKind::Name(name, 0) => body.targets(name, form.operands[1].at)?,
                _ => return Err(form.error("expected a list of branch targets")),
            };
            Op::BranchIndex { index, targets: vec![0; count].into() }
        }
        "ret" => {
            let _ = form.take("uni");
            form.expect(0..=0)?;
            Op::Return
        }
        "exit" => {
            form.expect(0..=0)?;
            Op::Exit
        }
        "trap" => {
            form.expect(0..=0)?;
            Op::Trap
        }
        "brkpt" | "pmevent" => {
            form.expect(0..=1)?;
            Op::Nop
        }
        "nanosleep" => {
            let ty = form.ty()?;
            form.expect(1..=1)?;
            form.source(body, 0, ty)?;
            Op::Nop
        }
        "call" => call(body, form)?,
        _ => return Ok(None),
    }))
}

/// The forms of extended precision: the carry is a predicate of its own.
fn carry(body: &mut Body<'_>, form: &mut Form<'_>, reads: bool) -> Result<Op, ParseError> {
    let subtract = form.name.starts_with("sub");
    let (writes, ty) = (form.take("cc"), integer(form)?);
    form.expect(3..=3)?;
    let (d, a, b) = (form.dest(body, 0)?, form.source(body, 1, ty)?, form.source(body, 2, ty)?);
    Ok(Op::Carry { subtract, reads, writes, ty, cc: body.carry(), d, a, b })
}

/// Whether the instruction's first type is a float one, without using it up.
fn leads_to_float(form: &Form<'_>) -> bool {
    form.mods.iter().find_map(|(name, _)| Ty::parse(name)).is_some_and(Ty::floating)
}

fn integer(form: &mut Form<'_>) -> Result<Ty, ParseError> {
    let ty = form.ty()?;
    if ty.integral() && ty.bits() >= 16 { Ok(ty) } else { Err(form.bad_type(ty)) }
}

fn expect_type(form: &mut Form<'_>, wanted: Ty) -> Result<(), ParseError> {
    let ty = form.ty()?;
    let same = ty.bits() == wanted.bits() && ty.integral();
    if same { Ok(()) } else { Err(form.bad_type(ty)) }
}

fn quad(body: &mut Body<'_>, form: &mut Form<'_>, ty: Ty) -> Result<[Reg; 4], ParseError> {
    expect_type(form, ty)?;
    form.expect(4..=4)?;
    Ok([form.dest(body, 0)?, form.source(body, 1, ty)?, form.source(body, 2, ty)?, form.source(body, 3, Ty::U32)?])
}

fn mad(body: &mut Body<'_>, form: &mut Form<'_>, op: MadOp, ty: Ty) -> Result<Op, ParseError> {
    form.expect(4..=4)?;
    let third = match (op, ty) {
        (MadOp::Wide, Ty::U16) => Ty::U32,
        (MadOp::Wide, Ty::S16) => Ty::S32,
        (MadOp::Wide, Ty::U32) => Ty::U64,
        (MadOp::Wide, Ty::S32) => Ty::S64,
        (MadOp::Wide, _) => return Err(form.bad_type(ty)),
        (MadOp::Lo | MadOp::Hi | MadOp::Sad, _) => ty,
    };
    let (d, a, b) = (form.dest(body, 0)?, form.source(body, 1, ty)?, form.source(body, 2, ty)?);
    Ok(Op::Mad { op, ty, d, a, b, c: form.source(body, 3, third)? })
}

fn mov(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    let ty = form.ty()?;
    form.expect(2..=2)?;
    let bits = ty.bits() as u8;
    if ty == Ty::Pred {
        let d = form.dest_pred(body, 0)?;
        if let Ok(value) = form.constant(1) {
            // A predicate compared with itself: true or false, whatever it held.
            let (zero, one) = (body.preset(Preset::Value(0), form.at)?, body.preset(Preset::Value(1), form.at)?);
            let b = if value == 0 { one } else { zero };
            return Ok(Op::Setp { cmp: Compare::Eq, ty: Ty::U32, ftz: false, logic: None, p: d, q: SINK, a: zero, b });
        }
        return Ok(Op::PredMov { d, a: form.pred(body, 1)? });
    }
    if let OperandKind::Vector(_) = form.operands[0].kind {
        let (d, _) = form.dests(body, 0)?;
        if d.is_empty() || !usize::from(bits).is_multiple_of(d.len()) {
            return Err(form.error("the parts do not divide the value"));
        }
        return Ok(Op::Unpack { d, a: form.source(body, 1, ty)?, bits });
    }
    let d = form.dest(body, 0)?;
    match form.operands[1].kind {
        OperandKind::Vector(ref items) => {
            let count = items.len();
            if count == 0 || !usize::from(bits).is_multiple_of(count) {
                return Err(form.error("the parts do not divide the value"));
            }
            let part = match bits as usize / count {
                8 => Ty::B8,
                16 => Ty::B16,
                32 => Ty::B32,
                _ => return Err(form.error("the parts are not 8, 16 or 32 bits")),
            };
            Ok(Op::Pack { d, parts: form.sources(body, 1, part)?, bits })
        }
        OperandKind::Name("%clock" | "%clock_hi", 0) => Ok(Op::Clock { d, bits: 32, global: false }),
        OperandKind::Name("%clock64", 0) => Ok(Op::Clock { d, bits: 64, global: false }),
        OperandKind::Name("%globaltimer", 0) => Ok(Op::Clock { d, bits: 64, global: true }),
        OperandKind::Name("%globaltimer_lo" | "%globaltimer_hi", 0) => Ok(Op::Clock { d, bits: 32, global: true }),
        _ => Ok(Op::Mov { d, a: form.source(body, 1, ty)? }),
    }
}

fn compare(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    let cmp = form.need(
        "a comparison",
        &[
            ("eq", Compare::Eq),
            ("ne", Compare::Ne),
            ("lt", Compare::Lt),
            ("le", Compare::Le),
            ("gt", Compare::Gt),
            ("ge", Compare::Ge),
            ("lo", Compare::Lo),
            ("ls", Compare::Ls),
            ("hi", Compare::Hi),
            ("hs", Compare::Hs),
            ("equ", Compare::Equ),
            ("neu", Compare::Neu),
            ("ltu", Compare::Ltu),
            ("leu", Compare::Leu),
            ("gtu", Compare::Gtu),
            ("geu", Compare::Geu),
            ("num", Compare::Num),
            ("nan", Compare::Nan),
        ],
    )?;
    let logic = form.choose(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
    let ftz = form.take("ftz");
    let set = form.name == "set";
    let to = if set { form.ty()? } else { Ty::Pred };
    let ty = form.ty()?;
    if set && !matches!(to, Ty::U32 | Ty::S32 | Ty::B32 | Ty::F32) {
        return Err(form.bad_type(to));
    }
    let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    if (packed && set) || ty.bits() < 16 || matches!(ty, Ty::Tf32 | Ty::F32x2 | Ty::E4m3x2 | Ty::E5m2x2) {
        return Err(form.bad_type(ty));
    }
    let wanted = 3 + usize::from(logic.is_some());
    form.expect(wanted..=wanted)?;
    let (a, b) = (form.source(body, 1, ty)?, form.source(body, 2, ty)?);
    let logic = match logic {
        Some(logic) => Some((logic, form.pred(body, 3)?)),
        None => None,
    };
    if set {
        return Ok(Op::Set { cmp, ty, ftz, logic, to, d: form.dest(body, 0)?, a, b });
    }
    let (p, q) = match form.operands[0].kind {
        OperandKind::Pair(p, q) => {
            let p = if p == "_" { SINK } else { body.predicate(p, form.at)? };
            (p, if q == "_" { SINK } else { body.predicate(q, form.at)? })
        }
        _ => (form.dest_pred(body, 0)?, SINK),
    };
    Ok(Op::Setp { cmp, ty, ftz, logic, p, q, a, b })
}

fn convert(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    let pack = form.take("pack");
    let integral = form.choose(&[("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
    let round = form.round();
    let (ftz, satfinite) = (form.take("ftz"), form.take("satfinite"));
    let (sat, relu) = (form.take("sat"), form.take("relu"));
    let (to, from) = (form.ty()?, form.ty()?);
    if pack || to == Ty::Pred || from == Ty::Pred {
        return Err(form.unknown());
    }
    let how = Convert {
        to,
        from,
        round: integral.or(round).unwrap_or_default(),
        integral: integral.is_some(),
        ftz,
        sat,
        satfinite,
        relu,
        wide: 0,
    };
    if !crate::numbers::convert::supported(&how) {
        return Err(form.unknown());
    }
    let paired = crate::numbers::convert::takes_two(&how);
    form.expect(2 + usize::from(paired)..=2 + usize::from(paired))?;
    let (d, wide) = form.dest_wide(body, 0)?;
    let a = form.source(body, 1, from)?;
    let b = if paired { form.source(body, 2, from)? } else { a };
    Ok(Op::Convert { how: Convert { wide: wide as u8, ..how }, d, a, b })
}

/// PTX ISA 9.7.3 to 9.7.5: float arithmetic.
fn decode_float(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Option<Op>, ParseError> {
    let (binary, unary) = match form.name {
        "add" => (Some(FloatOp::Add), None),
        "sub" => (Some(FloatOp::Sub), None),
        "mul" => (Some(FloatOp::Mul), None),
        "div" => (Some(FloatOp::Div), None),
        "min" => (Some(FloatOp::Min), None),
        "max" => (Some(FloatOp::Max), None),
        "copysign" => (Some(FloatOp::CopySign), None),
        "neg" => (None, Some(FloatUnary::Neg)),
        "abs" => (None, Some(FloatUnary::Abs)),
        "rcp" => (None, Some(FloatUnary::Rcp)),
        "sqrt" => (None, Some(FloatUnary::Sqrt)),
        "rsqrt" => (None, Some(FloatUnary::Rsqrt)),
        "ex2" => (None, Some(FloatUnary::Ex2)),
        "lg2" => (None, Some(FloatUnary::Lg2)),
        "sin" => (None, Some(FloatUnary::Sin)),
        "cos" => (None, Some(FloatUnary::Cos)),
        "tanh" => (None, Some(FloatUnary::Tanh)),
        "fma" | "mad" => (None, None),
        "testp" => {
            let test = form.need(
                "a property",
                &[
                    ("finite", FloatTest::Finite),
                    ("infinite", FloatTest::Infinite),
                    ("number", FloatTest::Number),
                    ("notanumber", FloatTest::NotANumber),
                    ("normal", FloatTest::Normal),
                    ("subnormal", FloatTest::Subnormal),
                ],
            )?;
            let ty = form.ty()?;
            form.expect(2..=2)?;
            if !matches!(ty, Ty::F32 | Ty::F64) {
                return Err(form.bad_type(ty));
            }
            return Ok(Some(Op::TestFloat { test, ty, p: form.dest_pred(body, 0)?, a: form.source(body, 1, ty)? }));
        }
        _ => return Ok(None),
    };
    let mode = form.float_mode();
    let ty = form.ty()?;
    if !matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F32x2 | Ty::F64) {
        return Err(form.bad_type(ty));
    }
    if mode.round != Round::Nearest && !crate::numbers::float::rounds(ty, mode.round, form.name) {
        return Err(form.error(format!("the rounding of `{}` is not modelled", form.full)));
    }
    Ok(Some(if let Some(op) = binary {
        form.expect(3..=3)?;
        Op::Float { op, ty, mode, d: form.dest(body, 0)?, a: form.source(body, 1, ty)?, b: form.source(body, 2, ty)? }
    } else if let Some(op) = unary {
        form.expect(2..=2)?;
        Op::FloatUnary { op, ty, mode, d: form.dest(body, 0)?, a: form.source(body, 1, ty)? }
    } else {
        form.expect(4..=4)?;
        let (d, a) = (form.dest(body, 0)?, form.source(body, 1, ty)?);
        Op::Fma { ty, mode, d, a, b: form.source(body, 2, ty)?, c: form.source(body, 3, ty)? }
    }))
}

/// Only assertion failures can be called: code that is to run here has everything else inlined.
fn call(body: &mut Body<'_>, form: &mut Form<'_>) -> Result<Op, ParseError> {
    let _ = form.take("uni");
    for operand in &form.operands {
        let OperandKind::Name(name, 0) = operand.kind else { continue };
        if !matches!(body.resolve(name, 0, operand.at)?, Resolved::Function) {
            continue;
        }
        if matches!(name, "__assertfail" | "__assert_fail" | "abort") {
            return Ok(Op::Assert { function: name.into() });
        }
        return Err(ParseError::new(operand.at, format!("a call of `{name}` is not modelled")));
    }
    Err(form.unknown())
}
