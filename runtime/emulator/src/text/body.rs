//! A kernel under construction: scopes and the names in them, memory layout, constants, and labels to come.

use std::collections::{BTreeMap, HashMap};

use crate::text::ins::{Ins, Op, Pred, Reg, SINK};
use crate::text::module::{Entry, ParseError, Position, Preset};
use crate::types::Ty;

/// Registers in use by one kernel, constants included.
const REGISTER_LIMIT: u32 = 1 << 16;

/// What a name at module level stands for.
#[derive(Clone, Debug)]
pub(crate) enum Symbol {
    Global(u32),
    Shared {
        bytes: u64,
        align: u64,
    },
    /// `.extern .shared name[]`
    Dynamic {
        align: u64,
    },
    Function,
}

/// The names of the module.
#[derive(Default)]
pub(crate) struct Symbols {
    pub(crate) names: HashMap<String, Symbol>,
}

/// One `{ }` and the names declared in it.
pub(crate) struct NameScope {
    id: u32,
    names: HashMap<String, Named>,
    /// `%r<10>` by its stem.
    ranges: HashMap<String, (Ty, u64)>,
}

#[derive(Clone, Debug)]
enum Named {
    Register {
        slot: Reg,
        ty: Ty,
    },
    Predicate(Reg),
    Shared(u32),
    Local(u32),
    /// A `.param` of a call sequence.
    CallParam,
    Targets(Vec<(String, Position)>),
}

/// What a name in an operand turned out to be.
pub(crate) enum Resolved {
    Register { slot: Reg, ty: Ty },
    Predicate,
    Address(Preset),
    CallParam,
    Function,
}

/// The kernel under construction.
pub(crate) struct Body<'m> {
    pub(crate) entry: Entry,
    symbols: &'m Symbols,
    target: &'m str,
    pub(crate) scopes: Vec<NameScope>,
    scope_ids: u32,
    placed: HashMap<String, u32>,
    presets: BTreeMap<Preset, Reg>,
    labels: HashMap<(u32, String), u32>,
    /// Branches whose label may come later: instruction, which of its targets, name, scopes, place.
    pending: Vec<(usize, usize, String, Vec<u32>, Position)>,
    opcodes: HashMap<String, u16>,
    carry: Option<Reg>,
    last_label: Option<String>,
}

impl<'m> Body<'m> {
    pub(crate) fn new(name: &str, symbols: &'m Symbols, target: &'m str) -> Body<'m> {
        let entry = Entry {
            name: name.to_owned(),
            params: Vec::new(),
            param_bytes: 0,
            shared_bytes: 0,
            shared_align: 16,
            max_threads: None,
            required_block: None,
            cluster: None,
            local_bytes: 0,
            code: Vec::new(),
            registers: 0,
            register_names: Vec::new(),
            predicates: 0,
            predicate_names: Vec::new(),
            preset: Vec::new(),
            opcodes: Vec::new(),
            asynchronous: false,
            wgmma: false,
        };
        Body {
            entry,
            symbols,
            target,
            scopes: Vec::new(),
            scope_ids: 0,
            placed: HashMap::new(),
            presets: BTreeMap::new(),
            labels: HashMap::new(),
            pending: Vec::new(),
            opcodes: HashMap::new(),
            carry: None,
            last_label: None,
        }
    }

    /// The number in the target: 90 for `sm_90a`.
    pub(crate) fn architecture(&self) -> u32 {
        self.target.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic).parse().unwrap_or(0)
    }

    pub(crate) fn open_scope(&mut self) {
        self.scopes.push(NameScope { id: self.scope_ids, names: HashMap::new(), ranges: HashMap::new() });
        self.scope_ids += 1;
    }

    pub(crate) fn declare(&mut self, name: &str, ty: Ty, count: Option<u64>) {
        let Some(scope) = self.scopes.last_mut() else { return };
        match count {
            Some(count) => {
                scope.ranges.insert(name.to_owned(), (ty, count));
            }
            // Slots are given out at the first use, so that unused declarations cost nothing.
            None => {
                scope.ranges.insert(name.to_owned(), (ty, u64::MAX));
            }
        }
    }

    pub(crate) fn place(&mut self, space: &str, name: String, bytes: u64, align: u64, at: Position) -> Result<(), ParseError> {
        let named = match space {
            ".shared" => Named::Shared(self.place_shared(bytes, align, at)?),
            ".local" => {
                let offset = u64::from(self.entry.local_bytes).next_multiple_of(align);
                // PTX ISA 5.1.5 leaves the size to the machine: 512 KiB a thread on every one of them.
                if offset + bytes > 512 << 10 {
                    return Err(ParseError::new(at, "local memory exceeds 512 KiB a thread"));
                }
                self.entry.local_bytes = (offset + bytes) as u32;
                Named::Local(offset as u32)
            }
            _ => Named::CallParam,
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name, named);
        }
        Ok(())
    }

    pub(crate) fn place_shared(&mut self, bytes: u64, align: u64, at: Position) -> Result<u32, ParseError> {
        let offset = u64::from(self.entry.shared_bytes).next_multiple_of(align);
        if offset + bytes > 16 << 20 {
            return Err(ParseError::new(at, "shared memory exceeds 16 MiB"));
        }
        self.entry.shared_bytes = (offset + bytes) as u32;
        self.entry.shared_align = self.entry.shared_align.max(align as u32);
        Ok(offset as u32)
    }

    pub(crate) fn label(&mut self, name: &str, at: Position) -> Result<(), ParseError> {
        let Some(scope) = self.scopes.last() else { return Ok(()) };
        let here = self.entry.code.len() as u32;
        self.last_label = Some(name.to_owned());
        if self.labels.insert((scope.id, name.to_owned()), here).is_some() {
            return Err(ParseError::new(at, format!("label `{name}` is defined twice")));
        }
        Ok(())
    }

    /// The list belongs to the label just before it.
    pub(crate) fn branch_targets(&mut self, targets: Vec<String>, at: Position) -> Result<(), ParseError> {
        let (Some(scope), Some(name)) = (self.scopes.last_mut(), self.last_label.take()) else {
            return Err(ParseError::new(at, "`.branchtargets` has no label"));
        };
        self.labels.remove(&(scope.id, name.clone()));
        scope.names.insert(name, Named::Targets(targets.into_iter().map(|target| (target, at)).collect()));
        Ok(())
    }

    fn lookup(&mut self, name: &str, at: Position) -> Result<Option<Named>, ParseError> {
        for index in (0..self.scopes.len()).rev() {
            if let Some(named) = self.scopes[index].names.get(name) {
                return Ok(Some(named.clone()));
            }
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let ranges = &self.scopes[index].ranges;
            let numbered = ranges
                .get(stem)
                .filter(|_| stem.len() < name.len())
                .filter(|(_, count)| *count != u64::MAX && name[stem.len()..].parse::<u64>().is_ok_and(|number| number < *count));
            let plain = ranges.get(name).filter(|(_, count)| *count == u64::MAX);
            if let Some(&(ty, _)) = numbered.or(plain) {
                let named = if ty == Ty::Pred {
                    Named::Predicate(self.fresh_predicate(name))
                } else {
                    Named::Register { slot: self.fresh(name, at)?, ty }
                };
                self.scopes[index].names.insert(name.to_owned(), named.clone());
                return Ok(Some(named));
            }
        }
        Ok(None)
    }

    pub(crate) fn fresh(&mut self, name: &str, at: Position) -> Result<Reg, ParseError> {
        if self.entry.registers >= REGISTER_LIMIT {
            return Err(ParseError::new(at, "the kernel uses more than 65536 registers"));
        }
        self.entry.registers += 1;
        self.entry.register_names.push(name.to_owned());
        Ok(self.entry.registers - 1)
    }

    pub(crate) fn fresh_predicate(&mut self, name: &str) -> Reg {
        self.entry.predicates += 1;
        self.entry.predicate_names.push(name.to_owned());
        self.entry.predicates - 1
    }

    /// The register that always holds this.
    pub(crate) fn preset(&mut self, preset: Preset, at: Position) -> Result<Reg, ParseError> {
        if let Some(&slot) = self.presets.get(&preset) {
            return Ok(slot);
        }
        let slot = self.fresh("constant", at)?;
        self.presets.insert(preset, slot);
        self.entry.preset.push((slot, preset));
        Ok(slot)
    }

    /// The condition code of `add.cc` and friends.
    pub(crate) fn carry(&mut self) -> Reg {
        if let Some(carry) = self.carry {
            return carry;
        }
        let slot = self.fresh_predicate("CC.CF");
        self.carry = Some(slot);
        slot
    }

    pub(crate) fn predicate(&mut self, name: &str, at: Position) -> Result<Reg, ParseError> {
        match self.lookup(name, at)? {
            Some(Named::Predicate(slot)) => Ok(slot),
            _ => Err(ParseError::new(at, format!("`{name}` is not a predicate"))),
        }
    }

    pub(crate) fn resolve(&mut self, name: &str, offset: i64, at: Position) -> Result<Resolved, ParseError> {
        match self.lookup(name, at)? {
            Some(Named::Register { slot, ty }) => return Ok(Resolved::Register { slot, ty }),
            Some(Named::Predicate(_)) => return Ok(Resolved::Predicate),
            Some(Named::Shared(base) | Named::Local(base)) => {
                return Ok(Resolved::Address(Preset::Value(i64::from(base).wrapping_add(offset) as u64)));
            }
            Some(Named::CallParam) => return Ok(Resolved::CallParam),
            Some(Named::Targets(_)) => return Err(ParseError::new(at, format!("`{name}` is not a value"))),
            None => {}
        }
        if let Some(param) = self.entry.params.iter().find(|param| param.name == name) {
            return Ok(Resolved::Address(Preset::Value((param.offset as i64).wrapping_add(offset) as u64)));
        }
        match self.symbols.names.get(name) {
            Some(&Symbol::Global(index)) => Ok(Resolved::Address(Preset::Global(index, offset))),
            Some(&Symbol::Dynamic { align }) => {
                self.entry.shared_align = self.entry.shared_align.max(align as u32);
                Ok(Resolved::Address(Preset::Dynamic(offset)))
            }
            Some(&Symbol::Shared { bytes, align }) => {
                let base = match self.placed.get(name) {
                    Some(&base) => base,
                    None => {
                        let base = self.place_shared(bytes, align, at)?;
                        self.placed.insert(name.to_owned(), base);
                        base
                    }
                };
                Ok(Resolved::Address(Preset::Value(i64::from(base).wrapping_add(offset) as u64)))
            }
            Some(Symbol::Function) => Ok(Resolved::Function),
            None => Err(ParseError::new(at, format!("`{name}` is not declared"))),
        }
    }

    /// Asks for `name`'s address to be filled in as target `index` of the next instruction.
    pub(crate) fn branch_to(&mut self, name: &str, index: usize, at: Position) {
        let scopes = self.scopes.iter().map(|scope| scope.id).collect();
        self.pending.push((self.entry.code.len(), index, name.to_owned(), scopes, at));
    }

    /// The labels of a `.branchtargets` list.
    pub(crate) fn targets(&mut self, name: &str, at: Position) -> Result<usize, ParseError> {
        let Some(Named::Targets(targets)) = self.lookup(name, at)? else {
            return Err(ParseError::new(at, format!("`{name}` is not a list of branch targets")));
        };
        let count = targets.len();
        for (index, (target, at)) in targets.into_iter().enumerate() {
            self.branch_to(&target, index, at);
        }
        Ok(count)
    }

    pub(crate) fn push(
        &mut self,
        op: Op,
        guard: Option<Pred>,
        opcode: &str,
        at: Position,
        span: (usize, usize),
    ) -> Result<(), ParseError> {
        let next = self.opcodes.len();
        let opcode = match self.opcodes.get(opcode) {
            Some(&index) => index,
            None => {
                let index = u16::try_from(next).map_err(|_| ParseError::new(at, "too many different opcodes"))?;
                self.opcodes.insert(opcode.to_owned(), index);
                self.entry.opcodes.push(opcode.to_owned());
                index
            }
        };
        self.entry.wgmma |= matches!(op, Op::Wgmma(_));
        self.entry.asynchronous |= matches!(op, Op::Bulk(_) | Op::Wgmma(_));
        self.entry.code.push(Ins { op, guard, at, opcode, span });
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Entry, ParseError> {
        for (pc, index, name, scopes, at) in std::mem::take(&mut self.pending) {
            let found = scopes.iter().rev().find_map(|&scope| self.labels.get(&(scope, name.clone())));
            let Some(&found) = found else {
                return Err(ParseError::new(at, format!("label `{name}` is not defined")));
            };
            match self.entry.code.get_mut(pc).map(|ins| &mut ins.op) {
                Some(Op::Branch { target }) => *target = found,
                Some(Op::BranchIndex { targets, .. }) => {
                    if let Some(target) = targets.get_mut(index) {
                        *target = found;
                    }
                }
                _ => return Err(ParseError::new(at, "only a branch can use a label")),
            }
        }
        debug_assert!(self.entry.preset.iter().all(|(slot, _)| *slot != SINK));
        Ok(self.entry)
    }
}
