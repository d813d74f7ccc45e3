//! The state of one warp: 32 lanes of registers, where each lane is in the code, and what each lane has seen of the others.

use crate::text::ins::{Pred, Reg};
use crate::text::module::{Entry, Preset, Special};

pub(crate) const LANES: usize = 32;
pub(crate) const ALL: u32 = u32::MAX;

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

/// Lanes that run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) state: GroupState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    Ready,
    /// At an instruction that needs lanes which are not there yet.
    Parked,
    /// Inside a block barrier.
    Waiting {
        barrier: u8,
    },
}

/// Which lanes of a register hold the result of a 32-bit calculation that wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrap {
    /// Wrong if read as signed.
    pub(crate) signed: u32,
    /// Wrong if read as unsigned.
    pub(crate) unsigned: u32,
}

/// Orders among the lanes of one warp.
#[derive(Clone, Debug)]
pub(crate) struct LaneOrder {
    /// Accesses with this clock or an earlier one are ordered for every lane.
    pub(crate) full: u32,
    /// What `[lane]` knows of each other lane, through synchronisations of some lanes only.
    partial: Option<Box<[[u32; LANES]; LANES]>>,
}

impl LaneOrder {
    pub(crate) fn ordered(&self, me: usize, other: usize, clock: u32) -> bool {
        clock <= self.full || self.partial.as_ref().is_some_and(|known| known[me][other] >= clock)
    }

    /// Whether some lanes synchronised since: then what one lane of many did cannot be judged.
    pub(crate) fn unsure(&self) -> bool {
        self.partial.is_some()
    }

    /// `bar.warp.sync` over some of the lanes, at this clock.
    pub(crate) fn sync(&mut self, mask: u32, present: u32, clock: u32) {
        if mask & present == present {
            self.full = clock;
            self.partial = None;
            return;
        }
        let known = self.partial.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
        let mut joined = [0; LANES];
        for lane in lanes(mask) {
            for (all, one) in joined.iter_mut().zip(&known[lane]) {
                *all = (*all).max(*one);
            }
        }
        for lane in lanes(mask) {
            joined[lane] = clock;
        }
        for lane in lanes(mask) {
            known[lane] = joined;
        }
    }
}

/// One warp.
#[derive(Debug)]
pub(crate) struct Warp {
    pub(crate) regs: Vec<[u64; LANES]>,
    pub(crate) init: Vec<u32>,
    pub(crate) wraps: Vec<Wrap>,
    pub(crate) any_wrap: bool,
    pub(crate) preds: Vec<u32>,
    pub(crate) pred_init: Vec<u32>,
    pub(crate) groups: Vec<Group>,
    /// Lanes that exist: fewer than 32 in the last warp of an odd block.
    pub(crate) present: u32,
    pub(crate) exited: u32,
    /// Lanes for which the launches before this one have ended.
    pub(crate) waited: u32,
    pub(crate) local: Vec<u8>,
    pub(crate) local_init: Vec<bool>,
    pub(crate) order: LaneOrder,
    /// A register, or a predicate, that was read before it was written, and by which lanes.
    pub(crate) missing: Option<(Missing, u32)>,
    /// Steps since the schedule last chose another group.
    pub(crate) stretch: u32,
    pub(crate) spin: Spin,
    /// Instructions taken.
    pub(crate) steps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Register(Reg),
    Predicate(Reg),
}

/// Evidence that a warp runs in circles: the same registers at the same backward branch with nothing changed between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spin {
    /// Value of the block's progress counter when watching began.
    pub(crate) progress: u64,
    pub(crate) steps: u32,
    pub(crate) hash: u64,
    pub(crate) pc: u32,
    /// Lanes that were seen to run in circles since.
    pub(crate) lanes: u32,
    pub(crate) spinning: bool,
}

/// Where a block is in its grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) block: [u32; 3],
    pub(crate) grid: [u32; 3],
    pub(crate) shape: [u32; 3],
    pub(crate) linear: u64,
    pub(crate) dynamic_base: u32,
    pub(crate) dynamic_bytes: u32,
    /// Blocks of a cluster, along x.
    pub(crate) cluster: u32,
}

impl Placement {
    /// The number of its cluster, and its own in that.
    pub(crate) fn in_cluster(&self) -> (u64, u32) {
        let blocks = u64::from(self.cluster);
        (self.linear / blocks, (self.linear % blocks) as u32)
    }
}

impl Warp {
    pub(crate) fn new(entry: &Entry, index: u32, place: &Placement, globals: &[u64]) -> Warp {
        let threads = place.shape.iter().product::<u32>();
        let first = index * LANES as u32;
        let count = (threads - first).min(LANES as u32);
        let present = if count == 32 { ALL } else { (1 << count) - 1 };
        let registers = entry.registers as usize;
        let mut warp = Warp {
            regs: vec![[0; LANES]; registers],
            init: vec![0; registers],
            wraps: vec![Wrap::default(); registers],
            any_wrap: false,
            preds: vec![0; entry.predicates as usize],
            pred_init: vec![0; entry.predicates as usize],
            groups: vec![Group { pc: 0, mask: present, state: GroupState::Ready }],
            present,
            exited: 0,
            waited: ALL,
            local: vec![0xab; entry.local_bytes as usize * LANES],
            local_init: vec![false; entry.local_bytes as usize * LANES],
            order: LaneOrder { full: 0, partial: None },
            missing: None,
            stretch: 0,
            spin: Spin::default(),
            steps: 0,
        };
        for &(slot, preset) in &entry.preset {
            for lane in 0..LANES {
                warp.regs[slot as usize][lane] = preset_value(preset, first + lane as u32, entry, place, globals);
            }
            warp.init[slot as usize] = ALL;
        }
        warp
    }

    pub(crate) fn live(&self) -> u32 {
        self.present & !self.exited
    }

    /// The lanes in which a predicate holds; reading one that was never set is noted.
    #[inline]
    pub(crate) fn pred(&mut self, pred: Pred, mask: u32) -> u32 {
        let slot = pred.slot as usize;
        let missing = mask & !self.pred_init[slot];
        if missing != 0 {
            self.missing.get_or_insert((Missing::Predicate(pred.slot), missing));
            self.pred_init[slot] |= missing;
        }
        (if pred.negated { !self.preds[slot] } else { self.preds[slot] }) & mask
    }

    #[inline]
    pub(crate) fn set_pred(&mut self, slot: Reg, mask: u32, value: u32) {
        if let Some(pred) = self.preds.get_mut(slot as usize) {
            *pred = (*pred & !mask) | (value & mask);
            self.pred_init[slot as usize] |= mask;
        }
    }

    /// Notes a use of a register that these lanes never wrote.
    #[inline]
    pub(crate) fn need(&mut self, reg: Reg, mask: u32) {
        let missing = mask & !self.init[reg as usize];
        if missing != 0 {
            self.missing.get_or_insert((Missing::Register(reg), missing));
            self.init[reg as usize] |= missing;
        }
    }

    #[inline]
    pub(crate) fn lane(&self, reg: Reg, lane: usize) -> u64 {
        self.regs[reg as usize][lane]
    }

    #[inline]
    pub(crate) fn set_lane(&mut self, reg: Reg, lane: usize, value: u64) {
        if let Some(out) = self.regs.get_mut(reg as usize) {
            out[lane] = value;
        }
    }

    /// After the lanes of a register were written: they hold something, and nothing that wrapped.
    #[inline]
    pub(crate) fn wrote(&mut self, reg: Reg, mask: u32) {
        if let Some(init) = self.init.get_mut(reg as usize) {
            *init |= mask;
            if self.any_wrap {
                let wrap = &mut self.wraps[reg as usize];
                wrap.signed &= !mask;
                wrap.unsigned &= !mask;
            }
        }
    }

    #[inline]
    pub(crate) fn wrap(&self, reg: Reg) -> Wrap {
        self.wraps[reg as usize]
    }

    /// Adds to what is known to have wrapped in a register.
    pub(crate) fn taint(&mut self, reg: Reg, mask: u32, wrap: Wrap) {
        let (signed, unsigned) = (wrap.signed & mask, wrap.unsigned & mask);
        if signed | unsigned == 0 {
            return;
        }
        if let Some(out) = self.wraps.get_mut(reg as usize) {
            out.signed |= signed;
            out.unsigned |= unsigned;
            self.any_wrap = true;
        }
    }

    #[inline]
    pub(crate) fn map1(&mut self, mask: u32, d: Reg, a: Reg, f: impl Fn(u64) -> u64) {
        self.need(a, mask);
        let x = self.regs[a as usize];
        let Some(out) = self.regs.get_mut(d as usize) else { return };
        if mask == ALL {
            for lane in 0..LANES {
                out[lane] = f(x[lane]);
            }
        } else {
            for lane in lanes(mask) {
                out[lane] = f(x[lane]);
            }
        }
        self.wrote(d, mask);
    }

    #[inline]
    pub(crate) fn map2(&mut self, mask: u32, d: Reg, a: Reg, b: Reg, f: impl Fn(u64, u64) -> u64) {
        self.need(a, mask);
        self.need(b, mask);
        let (x, y) = (self.regs[a as usize], self.regs[b as usize]);
        let Some(out) = self.regs.get_mut(d as usize) else { return };
        if mask == ALL {
            for lane in 0..LANES {
                out[lane] = f(x[lane], y[lane]);
            }
        } else {
            for lane in lanes(mask) {
                out[lane] = f(x[lane], y[lane]);
            }
        }
        self.wrote(d, mask);
    }

    #[inline]
    pub(crate) fn map3(&mut self, mask: u32, d: Reg, [a, b, c]: [Reg; 3], f: impl Fn(u64, u64, u64) -> u64) {
        for reg in [a, b, c] {
            self.need(reg, mask);
        }
        let (x, y, z) = (self.regs[a as usize], self.regs[b as usize], self.regs[c as usize]);
        let Some(out) = self.regs.get_mut(d as usize) else { return };
        if mask == ALL {
            for lane in 0..LANES {
                out[lane] = f(x[lane], y[lane], z[lane]);
            }
        } else {
            for lane in lanes(mask) {
                out[lane] = f(x[lane], y[lane], z[lane]);
            }
        }
        self.wrote(d, mask);
    }

    /// The lanes for which a test of two registers holds.
    #[inline]
    pub(crate) fn test2(&mut self, mask: u32, a: Reg, b: Reg, f: impl Fn(u64, u64) -> bool) -> u32 {
        self.need(a, mask);
        self.need(b, mask);
        let (x, y) = (&self.regs[a as usize], &self.regs[b as usize]);
        let mut out = 0;
        for lane in 0..LANES {
            out |= u32::from(f(x[lane], y[lane])) << lane;
        }
        out & mask
    }

    /// Joins ready groups that stand at the same instruction.
    pub(crate) fn merge(&mut self) {
        let mut index = 0;
        while index < self.groups.len() {
            let mut other = index + 1;
            while other < self.groups.len() {
                let (a, b) = (self.groups[index], self.groups[other]);
                let waiting = |state| matches!(state, GroupState::Waiting { .. });
                if a.pc == b.pc && !waiting(a.state) && !waiting(b.state) {
                    self.groups[index].mask |= b.mask;
                    self.groups[index].state = GroupState::Ready;
                    self.groups.swap_remove(other);
                } else {
                    other += 1;
                }
            }
            index += 1;
        }
    }

    /// FNV over all registers and positions.
    pub(crate) fn digest(&self) -> u64 {
        let mix = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        let mut hash = 0xcbf2_9ce4_8422_2325;
        for group in &self.groups {
            hash = mix(mix(hash, group.pc.into()), group.mask.into());
        }
        for (values, &init) in self.regs.iter().zip(&self.init) {
            if init != 0 {
                hash = values.iter().fold(hash, |hash, &value| mix(hash, value));
            }
        }
        self.preds.iter().fold(hash, |hash, &value| mix(hash, value.into()))
    }
}

fn preset_value(preset: Preset, thread: u32, entry: &Entry, place: &Placement, globals: &[u64]) -> u64 {
    let lane = thread % LANES as u32;
    let [width, height, _] = place.shape;
    match preset {
        Preset::Value(value) => value,
        Preset::Global(index, offset) => globals.get(index as usize).copied().unwrap_or(0).wrapping_add_signed(offset),
        Preset::Dynamic(offset) => u64::from(place.dynamic_base).wrapping_add_signed(offset),
        Preset::Special(special) => u64::from(match special {
            Special::Tid(0) => thread % width,
            Special::Tid(1) => thread / width % height,
            Special::Tid(_) => thread / width / height,
            Special::Ntid(axis) => place.shape[usize::from(axis)],
            Special::ClusterId(0) => place.block[0] / place.cluster,
            Special::NclusterId(0) => place.grid[0] / place.cluster,
            Special::Ctaid(axis) | Special::ClusterId(axis) => place.block[usize::from(axis)],
            Special::Nctaid(axis) | Special::NclusterId(axis) => place.grid[usize::from(axis)],
            Special::LaneId => lane,
            Special::WarpId => thread / LANES as u32,
            Special::Nwarpid => place.shape.iter().product::<u32>().div_ceil(LANES as u32),
            // Blocks are dealt to the multiprocessors of an H100 in turn.
            Special::SmId => (place.linear % 132) as u32,
            Special::Nsmid => 132,
            Special::GridId => 1,
            Special::LanemaskEq => 1 << lane,
            Special::LanemaskLt => (1 << lane) - 1,
            Special::LanemaskLe => ((1_u64 << (lane + 1)) - 1) as u32,
            Special::LanemaskGe => !((1 << lane) - 1),
            Special::LanemaskGt => !((1_u64 << (lane + 1)) - 1) as u32,
            Special::ClusterCtaid(0) | Special::ClusterCtarank => place.in_cluster().1,
            Special::ClusterNctaid(0) | Special::ClusterNctarank => place.cluster,
            // Clusters lie along x.
            Special::ClusterCtaid(_) => 0,
            Special::ClusterNctaid(_) => 1,
            Special::IsExplicitCluster => u32::from(entry.cluster.is_some()),
            Special::DynamicSharedBytes => place.dynamic_bytes,
            Special::TotalSharedBytes => entry.shared_bytes + place.dynamic_bytes,
        }),
    }
}
