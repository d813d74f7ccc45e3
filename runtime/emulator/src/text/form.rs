//! An instruction as written: opcode, modifiers and operands, each used up as it is understood.

use crate::text::body::{Body, Resolved};
use crate::text::ins::{Addr, Pred, Reg, SINK};
use crate::text::module::{ParseError, Position, Preset, Special};
use crate::text::operand::{AddressBase, Operand, OperandKind};
use crate::types::{FloatMode, Round, Space, Ty};

/// An opcode split at its dots, and its operands; keeps note of what has been used.
pub(crate) struct Form<'a> {
    pub(crate) full: &'a str,
    pub(crate) name: &'a str,
    pub(crate) at: Position,
    pub(crate) mods: Vec<(&'a str, bool)>,
    pub(crate) operands: Vec<Operand<'a>>,
}

impl<'a> Form<'a> {
    pub(crate) fn new(full: &'a str, at: Position, operands: Vec<Operand<'a>>) -> Form<'a> {
        let mut parts = full.split('.');
        let name = parts.next().unwrap_or("");
        Form { full, name, at, mods: parts.map(|part| (part, false)).collect(), operands }
    }

    /// Uses a modifier up if it is there.
    pub(crate) fn take(&mut self, wanted: &str) -> bool {
        match self.mods.iter_mut().find(|(name, used)| !used && *name == wanted) {
            Some((_, used)) => {
                *used = true;
                true
            }
            None => false,
        }
    }

    /// Whether a modifier is there, used or not.
    pub(crate) fn has(&self, wanted: &str) -> bool {
        self.mods.iter().any(|(name, _)| *name == wanted)
    }

    /// Uses up the first unused modifier that is in a closed list.
    pub(crate) fn choose<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        self.mods.iter_mut().filter(|(_, used)| !*used).find_map(|(name, used)| {
            let &(_, value) = choices.iter().find(|(choice, _)| choice == name)?;
            *used = true;
            Some(value)
        })
    }

    pub(crate) fn need<T: Copy>(&mut self, what: &str, choices: &[(&str, T)]) -> Result<T, ParseError> {
        self.choose(choices).ok_or_else(|| self.error(format!("`{}` needs {what}", self.full)))
    }

    /// The next modifier that is a type.
    pub(crate) fn next_type(&mut self) -> Option<Ty> {
        let (name, used) = self.mods.iter_mut().find(|(name, used)| !used && Ty::parse(name).is_some())?;
        *used = true;
        Ty::parse(name)
    }

    pub(crate) fn ty(&mut self) -> Result<Ty, ParseError> {
        self.next_type().ok_or_else(|| self.error(format!("`{}` needs a type", self.full)))
    }

    /// Uses up every modifier that starts so; they must be without effect.
    pub(crate) fn take_prefix(&mut self, prefix: &str) -> bool {
        let mut found = false;
        for (name, used) in &mut self.mods {
            if !*used && name.starts_with(prefix) {
                *used = true;
                found = true;
            }
        }
        found
    }

    /// A modifier that is not yet used and starts with the prefix.
    pub(crate) fn rest_of(&mut self, prefix: &str) -> Option<&'a str> {
        let (name, used) = self.mods.iter_mut().find(|(name, used)| !used && name.starts_with(prefix))?;
        *used = true;
        Some(&name[prefix.len()..])
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.at, message)
    }

    pub(crate) fn unknown(&self) -> ParseError {
        self.error(format!("instruction `{}` is not modelled", self.full))
    }

    pub(crate) fn bad_type(&self, ty: Ty) -> ParseError {
        self.error(format!("`{}` is not modelled for type {ty:?}", self.full))
    }

    pub(crate) fn expect(&self, counts: std::ops::RangeInclusive<usize>) -> Result<(), ParseError> {
        if counts.contains(&self.operands.len()) {
            return Ok(());
        }
        let wanted = if counts.start() == counts.end() {
            format!("{}", counts.start())
        } else {
            format!("{} to {}", counts.start(), counts.end())
        };
        Err(self.error(format!("`{}` takes {wanted} operands, not {}", self.full, self.operands.len())))
    }

    pub(crate) fn finish(&self) -> Result<(), ParseError> {
        match self.mods.iter().find(|(_, used)| !used) {
            Some((name, _)) => Err(self.error(format!("modifier `.{name}` of `{}` is not modelled", self.full))),
            None => Ok(()),
        }
    }

    fn operand(&self, index: usize) -> Result<&Operand<'a>, ParseError> {
        self.operands.get(index).ok_or_else(|| self.error(format!("`{}` needs more operands", self.full)))
    }

    /// A register that is written.
    pub(crate) fn dest(&self, body: &mut Body<'_>, index: usize) -> Result<Reg, ParseError> {
        dest(body, self.operand(index)?).map(|(slot, _)| slot)
    }

    /// A register that is written, and its width.
    pub(crate) fn dest_wide(&self, body: &mut Body<'_>, index: usize) -> Result<(Reg, u32), ParseError> {
        dest(body, self.operand(index)?)
    }

    pub(crate) fn dest_pred(&self, body: &mut Body<'_>, index: usize) -> Result<Reg, ParseError> {
        let operand = self.operand(index)?;
        match operand.kind {
            OperandKind::Name("_", 0) => Ok(SINK),
            OperandKind::Name(name, 0) => body.predicate(name, operand.at),
            _ => Err(ParseError::new(operand.at, "expected a predicate")),
        }
    }

    /// `d|p` or just `d`.
    pub(crate) fn dest_pair(&self, body: &mut Body<'_>, index: usize) -> Result<(Reg, Reg), ParseError> {
        let operand = self.operand(index)?;
        match operand.kind {
            OperandKind::Pair(d, p) => {
                let d = dest(body, &Operand { at: operand.at, kind: OperandKind::Name(d, 0) })?.0;
                let p = if p == "_" { SINK } else { body.predicate(p, operand.at)? };
                Ok((d, p))
            }
            _ => Ok((dest(body, operand)?.0, SINK)),
        }
    }

    /// A value of this type: register, constant, special register or address of a variable.
    pub(crate) fn source(&self, body: &mut Body<'_>, index: usize, ty: Ty) -> Result<Reg, ParseError> {
        source(body, self.operand(index)?, ty)
    }

    pub(crate) fn pred(&self, body: &mut Body<'_>, index: usize) -> Result<Pred, ParseError> {
        let operand = self.operand(index)?;
        match operand.kind {
            OperandKind::Name(name, 0) => Ok(Pred { slot: body.predicate(name, operand.at)?, negated: false }),
            OperandKind::Not(name) => Ok(Pred { slot: body.predicate(name, operand.at)?, negated: true }),
            _ => Err(ParseError::new(operand.at, "expected a predicate")),
        }
    }

    /// `{a, b}` or a lone register, as the destination.
    pub(crate) fn dests(&self, body: &mut Body<'_>, index: usize) -> Result<(Box<[Reg]>, u32), ParseError> {
        let operand = self.operand(index)?;
        let items = match &operand.kind {
            OperandKind::Vector(items) => items.as_slice(),
            _ => std::slice::from_ref(operand),
        };
        let mut wide = 0;
        let mut slots = Vec::with_capacity(items.len());
        for item in items {
            let (slot, bits) = dest(body, item)?;
            wide = wide.max(bits);
            slots.push(slot);
        }
        Ok((slots.into(), wide))
    }

    pub(crate) fn sources(&self, body: &mut Body<'_>, index: usize, ty: Ty) -> Result<Box<[Reg]>, ParseError> {
        let operand = self.operand(index)?;
        let items = match &operand.kind {
            OperandKind::Vector(items) => items.as_slice(),
            _ => std::slice::from_ref(operand),
        };
        items.iter().map(|item| source(body, item, ty)).collect()
    }

    /// A whole-number constant.
    pub(crate) fn constant(&self, index: usize) -> Result<u64, ParseError> {
        let operand = self.operand(index)?;
        match operand.kind {
            OperandKind::Integer(value) => Ok(value),
            _ => Err(ParseError::new(operand.at, "expected a constant")),
        }
    }

    pub(crate) fn address(&self, body: &mut Body<'_>, index: usize) -> Result<Addr, ParseError> {
        let (addr, coords) = self.address_and_coords(body, index)?;
        if coords.is_empty() { Ok(addr) } else { Err(self.error("this address takes no coordinates")) }
    }

    pub(crate) fn address_and_coords(&self, body: &mut Body<'_>, index: usize) -> Result<(Addr, Vec<Reg>), ParseError> {
        let operand = self.operand(index)?;
        let OperandKind::Address(base, offset, ref coords) = operand.kind else {
            return Err(ParseError::new(operand.at, "expected an address in brackets"));
        };
        let mut slots = Vec::with_capacity(coords.len());
        for coord in coords {
            slots.push(source(body, coord, Ty::S32)?);
        }
        let addr = match base {
            AddressBase::Absolute => Addr { base: body.preset(Preset::Value(offset as u64), operand.at)?, offset: 0 },
            AddressBase::Name(name) => match body.resolve(name, 0, operand.at)? {
                Resolved::Register { slot, .. } => Addr { base: slot, offset },
                Resolved::Address(preset) => Addr { base: body.preset(preset, operand.at)?, offset },
                Resolved::Predicate | Resolved::CallParam | Resolved::Function => {
                    return Err(ParseError::new(operand.at, format!("`{name}` is not an address")));
                }
            },
        };
        Ok((addr, slots))
    }

    /// Whether the address names a `.param` of a call sequence.
    pub(crate) fn call_param(&self, body: &mut Body<'_>, index: usize) -> bool {
        match self.operands.get(index).map(|operand| (&operand.kind, operand.at)) {
            Some((OperandKind::Address(AddressBase::Name(name), ..), at)) => {
                matches!(body.resolve(name, 0, at), Ok(Resolved::CallParam))
            }
            _ => false,
        }
    }

    pub(crate) fn space(&mut self) -> Space {
        self.choose(&[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::SharedCluster),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("const", Space::Const),
        ])
        .unwrap_or(Space::Generic)
    }

    pub(crate) fn float_mode(&mut self) -> FloatMode {
        // `.approx` and `.full` are computed to the nearest: closer to the truth than the hardware promises.
        let _ = self.take("approx") || self.take("full");
        FloatMode {
            ftz: self.take("ftz"),
            sat: self.take("sat"),
            relu: self.take("relu"),
            nan: self.take("NaN"),
            round: self.round().unwrap_or_default(),
        }
    }

    pub(crate) fn round(&mut self) -> Option<Round> {
        self.choose(&[
            ("rn", Round::Nearest),
            ("rna", Round::NearestAway),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ])
    }
}

fn dest(body: &mut Body<'_>, operand: &Operand<'_>) -> Result<(Reg, u32), ParseError> {
    match operand.kind {
        OperandKind::Name("_", 0) => Ok((SINK, 0)),
        OperandKind::Name(name, 0) => match body.resolve(name, 0, operand.at)? {
            Resolved::Register { slot, ty } => Ok((slot, ty.bits())),
            _ => Err(ParseError::new(operand.at, format!("`{name}` is not a register"))),
        },
        _ => Err(ParseError::new(operand.at, "expected a register")),
    }
}

pub(crate) fn source(body: &mut Body<'_>, operand: &Operand<'_>, ty: Ty) -> Result<Reg, ParseError> {
    let at = operand.at;
    let preset = match operand.kind {
        OperandKind::Integer(value) => {
            let narrowed = if ty.bits() >= 64 { value } else { value & ((1 << ty.bits()) - 1) };
            Preset::Value(narrowed)
        }
        OperandKind::Single(bits) if ty.bits() >= 32 => Preset::Value(u64::from(bits)),
        OperandKind::Double(bits) if ty == Ty::F64 || ty.bits() == 64 => Preset::Value(bits),
        OperandKind::Double(bits) if ty.bits() == 32 => Preset::Value(u64::from((f64::from_bits(bits) as f32).to_bits())),
        OperandKind::Name(name, offset) => {
            if let Some(special) = special(name) {
                Preset::Special(special)
            } else {
                match body.resolve(name, offset, at)? {
                    Resolved::Register { slot, .. } if offset == 0 => return Ok(slot),
                    Resolved::Address(preset) => preset,
                    _ => return Err(ParseError::new(at, format!("`{name}` cannot be used as a value here"))),
                }
            }
        }
        _ => return Err(ParseError::new(at, "expected a value")),
    };
    body.preset(preset, at)
}

/// PTX ISA 10, those that do not change while a thread runs.
fn special(name: &str) -> Option<Special> {
    let axis = |name: &str, stem: &str| match name.strip_prefix(stem)? {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::Nwarpid,
        "%smid" => Special::SmId,
        "%nsmid" => Special::Nsmid,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LanemaskEq,
        "%lanemask_le" => Special::LanemaskLe,
        "%lanemask_lt" => Special::LanemaskLt,
        "%lanemask_ge" => Special::LanemaskGe,
        "%lanemask_gt" => Special::LanemaskGt,
        "%cluster_ctarank" => Special::ClusterCtarank,
        "%cluster_nctarank" => Special::ClusterNctarank,
        "%is_explicit_cluster" => Special::IsExplicitCluster,
        "%dynamic_smem_size" => Special::DynamicSharedBytes,
        "%total_smem_size" => Special::TotalSharedBytes,
        _ => {
            if let Some(axis) = axis(name, "%tid") {
                Special::Tid(axis)
            } else if let Some(axis) = axis(name, "%ntid") {
                Special::Ntid(axis)
            } else if let Some(axis) = axis(name, "%ctaid") {
                Special::Ctaid(axis)
            } else if let Some(axis) = axis(name, "%nctaid") {
                Special::Nctaid(axis)
            } else if let Some(axis) = axis(name, "%cluster_ctaid") {
                Special::ClusterCtaid(axis)
            } else if let Some(axis) = axis(name, "%cluster_nctaid") {
                Special::ClusterNctaid(axis)
            } else if let Some(axis) = axis(name, "%clusterid") {
                Special::ClusterId(axis)
            } else {
                return axis(name, "%nclusterid").map(Special::NclusterId);
            }
        }
    })
}
