//! What reaches into other blocks of the cluster: arrivals at their mbarriers, and copies to several blocks (PTX ISA 9.7.8.23,
//! 9.7.9.25.5 and 9.7.13.15.13).

use crate::findings::at::At;
use crate::findings::finding::FindingKind;
use crate::state::block::Block;
use crate::state::clocks::UNKNOWN;
use crate::state::cluster::{Landing, Mail, Sender, Sent};
use crate::state::in_flight::{Piece, Spread};
use crate::state::place::{Place, Touch, in_other};
use crate::state::run::Cx;
use crate::state::warp::lanes;
use crate::text::ins::Reg;

impl Block {
    /// `mapa`: the same place in the memory of a block of the cluster.
    pub(crate) fn map_address(&mut self, cx: &mut Cx<'_>, at: At, d: Reg, a: Reg, rank: Reg) {
        let At { w, mask, .. } = at;
        let (_, own) = self.place.in_cluster();
        let blocks = self.place.cluster;
        let warp = &mut self.warps[w];
        warp.need(a, mask);
        warp.need(rank, mask);
        let mut absent = 0;
        for lane in lanes(mask) {
            let (address, rank) = (warp.lane(a, lane), warp.lane(rank, lane) as u32);
            absent |= u32::from(rank >= blocks) << lane;
            let mapped = if rank == own || rank >= blocks { address } else { in_other(address, rank) };
            warp.set_lane(d, lane, mapped);
        }
        warp.wrote(d, mask);
        if absent != 0 {
            self.finding(cx, at.of(absent), FindingKind::Undefined, || {
                format!("there is no such block in a cluster of {blocks}")
            });
        }
    }

    fn sender(&self, at: At) -> Sender {
        Sender { number: self.number, block: self.place.block, at, known: self.knowledge[at.w].clone() }
    }

    /// Something begins its way to another block.
    fn send_mail(&self, cx: &mut Cx<'_>, rank: u32, mail: Mail) {
        let (cluster, _) = self.place.in_cluster();
        cx.progress += 1;
        if let Some(under_way) = cx.clusters.get_mut(&cluster).and_then(|cluster| cluster.mail(rank)) {
            under_way.push(mail);
        } else {
            self.finding(cx, mail.from.at, FindingKind::BlockEnded, || format!("block {rank} of the cluster has ended"));
        }
    }

    /// A lane arrives at an mbarrier of another block.
    pub(crate) fn arrive_far(&mut self, cx: &mut Cx<'_>, at: At, (rank, offset): (u32, u64), sent: Sent) {
        let mail = Mail { from: self.sender(at), mbarrier: offset as u32, sent };
        self.send_mail(cx, rank, mail);
    }

    /// The blocks that a mask of a copy names.
    pub(crate) fn spread(&mut self, cx: &mut Cx<'_>, at: At, blocks: Reg) -> Option<Box<Spread>> {
        let named = lanes(at.mask).next().map_or(0, |lane| self.warps[at.w].lane(blocks, lane) as u32 & 0xffff);
        let (_, own) = self.place.in_cluster();
        let cluster = self.place.cluster;
        if named == 0 || named >> cluster != 0 {
            self.finding(cx, at, FindingKind::Undefined, || {
                format!("a copy to the blocks {named:#06b} of a cluster of {cluster}")
            });
            return None;
        }
        let others = (0..cluster).filter(|&rank| rank != own && named >> rank & 1 == 1).collect();
        Some(Box::new(Spread { own: named >> own & 1 == 1, others, from: self.sender(at) }))
    }

    /// Sends what a copy reads to the other blocks that it is for.
    pub(crate) fn send_pieces(&mut self, cx: &mut Cx<'_>, spread: &Spread, mbarrier: u32, pieces: &[Piece]) {
        let At { w, mask, pc } = spread.from.at;
        let lane = mask.trailing_zeros() as usize;
        let mut hint = usize::MAX;
        let mut landings = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let mut out = [0; 32];
            if let Some(address) = piece.global {
                let touch = Touch { w, lane, pc, bytes: piece.bytes.into(), strength: 0 };
                self.read_place(cx, touch, Place::Global(address), &mut hint, &mut out);
            }
            let mut data = [0; 16];
            data.copy_from_slice(&out[..16]);
            landings.push(Landing { shared: piece.shared, bytes: piece.bytes, data });
        }
        for &rank in &spread.others {
            let mail = Mail { from: spread.from.clone(), mbarrier, sent: Sent::Bytes(landings.clone()) };
            self.send_mail(cx, rank, mail);
        }
    }

    /// Takes in what other blocks have sent.
    pub(crate) fn collect(&mut self, cx: &mut Cx<'_>) {
        if self.place.cluster == 1 {
            return;
        }
        let (cluster, rank) = self.place.in_cluster();
        if let Some(mail) = cx.clusters.get_mut(&cluster).and_then(|cluster| cluster.mail(rank)) {
            self.agents.mail.append(mail);
        }
    }

    /// Something from another block arrives.
    pub(crate) fn received(&mut self, cx: &mut Cx<'_>, mail: Mail) {
        let Mail { from, mbarrier, sent } = mail;
        if !self.judge_remote_mbarrier(cx, &from, mbarrier, matches!(sent, Sent::Bytes(_))) {
            return;
        }
        cx.progress += 1;
        match sent {
            Sent::Arrival { how, number, tells } => {
                let Some(found) = self.agents.mbarriers.get_mut(&mbarrier) else { return };
                found.learn_of(from.number, &if tells { from.known.clone() } else { from.known.narrow() });
                let arrived = found.arrive(how, number);
                cx.counters.mbarrier_arrivals += 1;
                if arrived.is_over {
                    from.finding(cx, FindingKind::MbarrierMisuse, || {
                        format!("more arrivals at the mbarrier at byte {mbarrier} than its phase expects")
                    });
                    cx.report.stop();
                }
                let clock = |from: &Sender| from.known.seen[from.at.w];
                let key = (from.number, from.at.w, from.at.pc);
                if self.agents.met.get(&key).is_none_or(|before| clock(before) < clock(&from)) {
                    self.agents.met.insert(key, from);
                }
            }
            Sent::Bytes(landings) => {
                for landing in &landings {
                    self.judge_remote_write(cx, &from, landing);
                }
                let Some((agent, clock)) = self.mbarrier_data(mbarrier) else { return };
                let mut total = 0;
                for landing in &landings {
                    let bytes = usize::from(landing.bytes);
                    self.shared.data[landing.shared..landing.shared + bytes].copy_from_slice(&landing.data[..bytes]);
                    self.shared.set_initialised(landing.shared, bytes);
                    self.stamp_words(landing.shared, bytes, agent, clock, UNKNOWN);
                    total += bytes as i64;
                }
                let At { w, mask, pc } = from.at;
                self.mbarrier_bytes(cx, w, mask.trailing_zeros() as usize, pc, mbarrier, -total);
                self.agents.landed.insert(agent, (clock, from));
            }
        }
    }

    /// The block ends: what other blocks did to its memory must come before.
    pub(crate) fn leave(&mut self, cx: &mut Cx<'_>) {
        self.judge_end(cx);
        let (number, rank) = self.place.in_cluster();
        if cx.clusters.get_mut(&number).is_some_and(|cluster| cluster.leave(rank)) {
            cx.clusters.remove(&number);
        }
    }
}
