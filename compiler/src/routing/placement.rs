//! Which experts lie on which device, so that each has as much to do, by the pairs that a trace had.

use super::measure::short;
use super::report::Placement;

/// Places experts on `ranks` devices, equally many on each, so that the busiest has as little as can be found. Two placements are bettered by
/// exchanges of two experts, as long as one lessens the load of the busiest device: that in the order of experts, and the largest load
/// first, each to the device that has least.
///
/// `loads` are the pairs of each expert, as many as a multiple of `ranks`.
pub(super) fn placement(loads: &[u64], ranks: usize) -> Placement {
    let each = loads.len() / ranks;
    let total: u64 = loads.iter().sum();
    let mean = total as f64 / ranks as f64;
    let of_mean = |pairs: u64| if total == 0 { 1.0 } else { short(pairs as f64 / mean) };
    let largest_first = {
        let mut experts: Vec<usize> = (0..loads.len()).collect();
        experts.sort_by(|a, b| loads[*b].cmp(&loads[*a]).then(a.cmp(b)));
        experts
    };
    let in_order = Devices::in_order(loads, ranks);
    let busiest_in_order = of_mean(in_order.busiest());
    let (a, b) = (Devices::to_the_least(loads, ranks, &largest_first).bettered(), in_order.bettered());
    let best = if b.busiest() < a.busiest() { b } else { a };
    let mut devices = best.experts.clone();
    devices.iter_mut().for_each(|device| device.sort_unstable());
    // Equal placements are one: devices in the order of their first experts.
    devices.sort_unstable();
    // The largest expert has the least others beside it, and one device at least has the mean.
    let beside: u64 = largest_first.iter().rev().take(each - 1).map(|expert| loads[*expert]).sum();
    let largest = largest_first.first().map_or(0, |expert| loads[*expert]);
    Placement {
        ranks,
        experts_per_rank: each,
        busiest_in_order,
        busiest: of_mean(best.busiest()),
        least_busiest: of_mean(total.div_ceil(ranks as u64).max(largest + beside)),
        pairs_per_rank: devices.iter().map(|device| device.iter().map(|expert| loads[*expert]).sum()).collect(),
        expert_of_place: devices.concat(),
    }
}

/// A placement under way.
struct Devices<'l> {
    loads: &'l [u64],
    /// Of each device.
    experts: Vec<Vec<usize>>,
}

/// The rank of a device, and the place of an expert there.
type Place = (usize, usize);

impl<'l> Devices<'l> {
    fn in_order(loads: &'l [u64], ranks: usize) -> Devices<'l> {
        let each = loads.len() / ranks;
        Devices { loads, experts: (0..ranks).map(|rank| (rank * each..(rank + 1) * each).collect()).collect() }
    }

    /// Each expert, in this order, to the device that has least of those with room.
    fn to_the_least(loads: &'l [u64], ranks: usize, order: &[usize]) -> Devices<'l> {
        let each = loads.len() / ranks;
        let mut devices = Devices { loads, experts: vec![Vec::new(); ranks] };
        for expert in order {
            let pairs = devices.pairs();
            let least = (0..ranks).filter(|rank| devices.experts[*rank].len() < each).min_by_key(|rank| pairs[*rank]);
            if let Some(rank) = least {
                devices.experts[rank].push(*expert);
            }
        }
        devices
    }

    /// Of each device.
    fn pairs(&self) -> Vec<u64> {
        self.experts.iter().map(|device| device.iter().map(|expert| self.loads[*expert]).sum()).collect()
    }

    fn busiest(&self) -> u64 {
        self.pairs().into_iter().max().unwrap_or(0)
    }

    /// After exchanges, until none lessens the load of the busiest device.
    fn bettered(mut self) -> Devices<'l> {
        while let Some((a, b)) = self.exchange() {
            let (one, other) = (self.experts[a.0][a.1], self.experts[b.0][b.1]);
            self.experts[a.0][a.1] = other;
            self.experts[b.0][b.1] = one;
        }
        self
    }

    /// The exchange between the busiest device and another one that leaves the larger of both loads least; `None`: none lessens it.
    fn exchange(&self) -> Option<(Place, Place)> {
        let (loads, pairs) = (self.loads, self.pairs());
        let busiest = (0..pairs.len()).max_by_key(|rank| (pairs[*rank], usize::MAX - rank))?;
        let mut best: Option<(u64, (Place, Place))> = None;
        for (at, expert) in self.experts[busiest].iter().enumerate() {
            for (rank, device) in self.experts.iter().enumerate().filter(|(rank, _)| *rank != busiest) {
                for (other_at, other) in device.iter().enumerate().filter(|(_, other)| loads[**other] < loads[*expert]) {
                    let moved = loads[*expert] - loads[*other];
                    let larger = (pairs[busiest] - moved).max(pairs[rank] + moved);
                    if larger < best.map_or(pairs[busiest], |(larger, _)| larger) {
                        best = Some((larger, ((busiest, at), (rank, other_at))));
                    }
                }
            }
        }
        best.map(|(_, places)| places)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In their order 24 and 10; 17 is the mean, of which both have one: 9, 5, 2, 1 and 7, 6, 4, 0.
    #[test]
    fn by_hand() {
        let found = placement(&[9, 7, 6, 2, 5, 4, 1, 0], 2);
        assert_eq!((found.busiest_in_order, found.busiest, found.least_busiest), (short(24.0 / 17.0), 1.0, 1.0));
        assert_eq!(found.pairs_per_rank, [17, 17]);
        // One expert has more than the mean: nothing helps.
        let found = placement(&[1, 1, 1, 97], 2);
        assert_eq!((found.busiest_in_order, found.busiest, found.least_busiest), (1.96, 1.96, 1.96));
        let found = placement(&[0; 6], 3);
        assert_eq!((found.busiest, found.least_busiest, &found.expert_of_place[..]), (1.0, 1.0, &[0, 1, 2, 3, 4, 5][..]));
    }

    /// Where the largest load first ends in more than the order of experts has.
    #[test]
    fn no_worse_than_in_order() {
        let found = placement(&[800, 61, 513, 72, 155, 187, 686, 399], 2);
        assert!(found.busiest <= found.busiest_in_order, "{found:?}");
    }

    /// The best of all placements of few experts, by trying them.
    fn best(loads: &[u64], ranks: usize) -> u64 {
        fn place(loads: &[u64], devices: &mut [(u64, usize)], each: usize) -> u64 {
            let Some((load, rest)) = loads.split_first() else { return devices.iter().map(|device| device.0).max().unwrap_or(0) };
            let mut least = u64::MAX;
            for rank in 0..devices.len() {
                if devices[rank].1 < each {
                    devices[rank] = (devices[rank].0 + load, devices[rank].1 + 1);
                    least = least.min(place(rest, devices, each));
                    devices[rank] = (devices[rank].0 - load, devices[rank].1 - 1);
                }
            }
            least
        }
        place(loads, &mut vec![(0, 0); ranks], loads.len() / ranks)
    }

    proptest! {
        #[test]
        fn each_expert_has_one_place(each in 1_usize..5, ranks in 1_usize..5, loads in proptest::collection::vec(0_u64..1000, 16)) {
            let loads = &loads[..each * ranks];
            let found = placement(loads, ranks);
            let mut experts = found.expert_of_place.clone();
            experts.sort_unstable();
            prop_assert_eq!(experts, (0..loads.len()).collect::<Vec<_>>());
            for (rank, device) in found.expert_of_place.chunks(each).enumerate() {
                prop_assert_eq!(device.iter().map(|expert| loads[*expert]).sum::<u64>(), found.pairs_per_rank[rank]);
            }
            prop_assert!(found.least_busiest <= found.busiest + 1e-5 && found.busiest <= found.busiest_in_order + 1e-5);
            if loads.len() <= 8 && loads.iter().sum::<u64>() > 0 {
                let mean = loads.iter().sum::<u64>() as f64 / ranks as f64;
                let best = best(loads, ranks) as f64 / mean;
                prop_assert!(found.least_busiest <= best + 1e-5 && best <= found.busiest + 1e-5);
                prop_assert!(found.busiest <= best * 4.0 / 3.0 + 1e-5, "{} of {best}", found.busiest);
            }
        }
    }
}
