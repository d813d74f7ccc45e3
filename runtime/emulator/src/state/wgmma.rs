//! The wgmma of a warp that are under way, as data: which registers and which shared bytes are theirs.

use crate::text::ins::Reg;

/// What wrote a register last, as far as `wgmma.fence` depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Origin {
    #[default]
    Settled,
    /// Ordinary instructions, since the last fence.
    Ordinary,
    Wgmma,
}

/// The wgmma of one warp.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    committed: u32,
    /// Groups up to this one were waited for.
    done: u32,
    /// For each register the group that still owns it, or 0.
    owner: Vec<u32>,
    origin: Vec<Origin>,
    dirty: Vec<Reg>,
    /// The 16-byte units of shared memory that each instruction reads, with its group.
    records: Vec<(u32, Vec<u32>)>,
}

impl InFlight {
    pub(crate) fn new(registers: usize) -> InFlight {
        InFlight { owner: vec![0; registers], origin: vec![Origin::Settled; registers], ..InFlight::default() }
    }

    pub(crate) fn fence(&mut self) {
        for reg in self.dirty.drain(..) {
            let origin = &mut self.origin[reg as usize];
            if *origin == Origin::Ordinary {
                *origin = Origin::Settled;
            }
        }
    }

    /// Whether a wgmma that was not waited for owns the register.
    pub(crate) fn owns(&self, reg: Reg) -> bool {
        self.owner.get(reg as usize).is_some_and(|&owner| owner > self.done)
    }

    /// Whether an ordinary instruction wrote the register since the last fence.
    pub(crate) fn is_unfenced(&self, reg: Reg) -> bool {
        self.origin[reg as usize] == Origin::Ordinary
    }

    /// A move only renames: ptxas keeps accumulators in place, and LLVM ties operands with moves. False where the source is
    /// none.
    pub(crate) fn renames(&mut self, d: Reg, a: Reg) -> bool {
        let (d, a) = (d as usize, a as usize);
        let is_accumulator = self.origin.get(a) == Some(&Origin::Wgmma) && d < self.owner.len();
        if is_accumulator {
            self.owner[d] = self.owner[a];
            self.origin[d] = Origin::Wgmma;
        }
        is_accumulator
    }

    /// An ordinary instruction writes the register.
    pub(crate) fn write(&mut self, reg: Reg) {
        if (reg as usize) < self.origin.len() {
            self.origin[reg as usize] = Origin::Ordinary;
            self.owner[reg as usize] = 0;
            self.dirty.push(reg);
        }
    }

    /// An instruction starts: it sums into `d`, reads `a`, and reads these units of shared memory.
    pub(crate) fn start(&mut self, d: &[Reg], a: &[Reg], units: Vec<u32>) {
        let group = self.committed + 1;
        for &reg in d.iter().chain(a) {
            self.owner[reg as usize] = group;
        }
        for &reg in d {
            self.origin[reg as usize] = Origin::Wgmma;
        }
        self.records.push((group, units));
    }

    /// Closes a group.
    pub(crate) fn commit(&mut self) {
        self.committed += 1;
    }

    /// Groups up to this one were waited for.
    pub(crate) fn done(&self) -> u32 {
        self.done
    }

    /// How many groups are left where those up to `done` are over.
    pub(crate) fn behind(&self, done: u32) -> u32 {
        self.committed.saturating_sub(done)
    }

    /// All but the last `left` groups are over: gives the units of shared memory that they read. Only where the warp itself
    /// waited (`own`) are their registers free.
    pub(crate) fn settle(&mut self, left: u32, own: bool) -> Vec<u32> {
        let done = self.committed.saturating_sub(left).max(self.done);
        if own {
            self.done = done;
        }
        let records = std::mem::take(&mut self.records);
        let (over, rest): (Vec<_>, Vec<_>) = records.into_iter().partition(|(group, _)| *group <= done);
        self.records = rest;
        over.into_iter().flat_map(|(_, units)| units).collect()
    }

    /// The units of shared memory that are still read.
    pub(crate) fn units(&self) -> impl Iterator<Item = u32> + '_ {
        self.records.iter().flat_map(|(_, units)| units.iter().copied())
    }

    /// Whether something was never waited for; it is forgotten then.
    pub(crate) fn abandon(&mut self) -> bool {
        !std::mem::take(&mut self.records).is_empty()
    }
}
