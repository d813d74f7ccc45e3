//! Atomic operations: one lane after the other, each at once.

use crate::checks::race::strength;
use crate::exec::access::from_bytes;
use crate::exec::order::Strong;
use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::numbers::float;
use crate::state::block::Block;
use crate::state::place::{Place, Touch};
use crate::state::run::Cx;
use crate::state::warp::lanes;
use crate::text::ins::{Atomic, AtomicOp};
use crate::types::{FloatMode, FloatOp, Space, Ty};

/// The new value of a memory cell.
pub(crate) fn apply(op: AtomicOp, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let bits = ty.bits();
    let trim = |value: u64| value << (64 - bits) >> (64 - bits);
    let sign = |value: u64| (value as i64) << (64 - bits) >> (64 - bits);
    match op {
        AtomicOp::Add if ty.floating() => float::binary(FloatOp::Add, ty, FloatMode::default(), old, a),
        AtomicOp::Add => trim(old.wrapping_add(a)),
        AtomicOp::Min if ty.signed() => trim(sign(old).min(sign(a)) as u64),
        AtomicOp::Min => trim(old).min(trim(a)),
        AtomicOp::Max if ty.signed() => trim(sign(old).max(sign(a)) as u64),
        AtomicOp::Max => trim(old).max(trim(a)),
        AtomicOp::And => old & a,
        AtomicOp::Or => old | a,
        AtomicOp::Xor => old ^ a,
        AtomicOp::Exch => trim(a),
        AtomicOp::Cas => {
            if trim(old) == trim(a) {
                trim(b)
            } else {
                old
            }
        }
        AtomicOp::Inc => {
            if old >= trim(a) {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Dec => {
            if old == 0 || old > trim(a) {
                trim(a)
            } else {
                old - 1
            }
        }
    }
}

impl Block {
    pub(crate) fn atomic(&mut self, cx: &mut Cx<'_>, at: At, atomic: &Atomic) {
        let At { w, mask, pc } = at;
        let element = atomic.ty.bytes();
        let bytes = element * atomic.a.len() as u32;
        let addresses = self.addresses(cx, at, atomic.addr);
        for &reg in &atomic.a {
            self.warps[w].need(reg, mask);
        }
        if atomic.op == AtomicOp::Cas {
            self.warps[w].need(atomic.b, mask);
        }
        if cx.options.deterministic && atomic.ty.floating() {
            self.finding(cx, at, FindingKind::FloatAtomic, || "the order of float atomics decides the result's bits".to_owned());
        }
        let Atomic { space, order, scope, .. } = *atomic;
        self.synchronise(cx, at, &addresses, Strong { space, reads: true, writes: true, order, scope });
        let mut hint = usize::MAX;
        // An atomic without a result is still strong (PTX ISA 8.2).
        let strength = strength(atomic.order, atomic.scope).max(1);
        let reversed = cx.options.schedule == crate::options::Schedule::Adversarial;
        let order: Vec<usize> = if reversed {
            let mut order: Vec<usize> = lanes(mask).collect();
            order.reverse();
            order
        } else {
            lanes(mask).collect()
        };
        let (mut global, mut shared) = (0, 0);
        for lane in order {
            let place = match atomic.space {
                Space::Shared | Space::SharedCluster => Place::Shared(addresses[lane]),
                Space::Global => Place::Global(addresses[lane]),
                _ => crate::state::place::generic(addresses[lane]),
            };
            match place {
                Place::Global(_) => global += 1,
                Place::Shared(_) => shared += 1,
                Place::Local(_) | Place::Param(_) => {
                    self.finding(cx, at.lane(lane), FindingKind::WrongSpace, || {
                        "atomics work on global and shared memory only".to_owned()
                    });
                    continue;
                }
            }
            let touch = Touch { w, lane, pc, bytes, strength };
            let mut data = [0; 32];
            self.read_place(cx, touch, place, &mut hint, &mut data);
            let mut new = data;
            for (index, &reg) in atomic.a.iter().enumerate() {
                let range = index * element as usize..(index + 1) * element as usize;
                let old = from_bytes(&data[range.clone()]);
                let warp = &self.warps[w];
                let value = apply(atomic.op, atomic.ty, old, warp.lane(reg, lane), warp.lane(atomic.b, lane));
                new[range.clone()].copy_from_slice(&value.to_le_bytes()[..element as usize]);
            }
            for (index, &reg) in atomic.d.iter().enumerate() {
                let old = from_bytes(&data[index * element as usize..(index + 1) * element as usize]);
                self.warps[w].set_lane(reg, lane, old);
            }
            self.write_place(cx, touch, place, &mut hint, &new[..bytes as usize]);
        }
        for &reg in &atomic.d {
            self.warps[w].wrote(reg, mask);
        }
        for (lanes, traffic) in [(global, &mut cx.counters.global), (shared, &mut cx.counters.shared)] {
            traffic.atomics += u64::from(lanes > 0);
            traffic.read_bytes += lanes * u64::from(bytes);
            traffic.written_bytes += lanes * u64::from(bytes);
        }
    }
}
