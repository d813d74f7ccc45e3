//! What the cost of an op is made of: amounts of work, the times that they take, and which of these is the longest. The figures that
//! extraction adds up, for people.

use std::iter::Sum;
use std::ops::Add;

use super::cost::{Cost, Sizes, Workload, at};
use crate::Machine;
use crate::graph::{Node, Typed};
use crate::tiling::Feeding;

/// The work of an op for one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Kernels launched.
    pub launches: u64,
    /// Bytes from and to memory: operands, result, and weights once more where they do not stay in the cache.
    pub bytes: u64,
    /// Multiplications, additions and other arithmetic of the result.
    pub flops: u64,
    /// FLOPs that take as long at the machine's [rate in f32](Machine::vector_rate): faster units, rows that only fill a tile,
    /// processors without a block and reads of shared memory are in them.
    pub work: u64,
}

/// What is hidden counts one in so many, so that of two graphs that move the same bytes the one with less work wins.
const HIDDEN: u64 = 1_000;

/// The price of an op, or of several together, for one batch. Times are in picoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// What there is to do.
    pub amounts: Amounts,
    /// Time to move the bytes.
    pub moving: Cost,
    /// Time in which memory answers for the weights, where so few of their bytes are under way at a time.
    pub waiting: Cost,
    /// Time in which the last cache gives what tiles read, some of it more than once.
    pub caching: Cost,
    /// Time to do the work.
    pub computing: Cost,
    /// Of these, which go on at the same time: the longest, and a thousandth of what moving or computing hides.
    pub busy: Cost,
    /// Time of steps of which each waits for the one before.
    pub serial: Cost,
    /// Time of the launches.
    pub launching: Cost,
    /// The part of `busy` in which few blocks have all there is to do, with their processors' part of the bandwidth and of the rate.
    pub alone: Cost,
}

/// What takes most of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Bytes to move.
    Bandwidth,
    /// Few bytes under way at a time.
    Latency,
    /// Bytes that tiles read of the last cache.
    Cache,
    /// Work to do.
    Arithmetic,
    /// Bytes to move or work to do by few processors.
    Processor,
    /// Steps one after another.
    Serial,
    /// Launches.
    Launch,
}

impl Price {
    /// Of work that all processors share: `max(bytes / bandwidth, work / rate) + launches`.
    pub fn roofline(machine: &Machine, amounts: Amounts) -> Price {
        let (moving, computing) = (time(amounts.bytes, machine.bytes_per_us), time(amounts.work, machine.vector_rate()));
        Price {
            amounts,
            moving,
            waiting: 0,
            caching: 0,
            computing,
            busy: moving.max(computing).saturating_add(moving.min(computing) / HIDDEN),
            serial: 0,
            launching: machine.launch_ps.saturating_mul(amounts.launches),
            alone: 0,
        }
    }

    /// The same where tiles take so long to get what they read. Where that is the longest, computing is what it hides: all operands are
    /// among what is waited for.
    pub fn feeding(self, Feeding { waiting, ring, caching }: Feeding) -> Price {
        let products = self.computing.checked_div(ring.into()).unwrap_or(0);
        let waiting = waiting.saturating_add(products);
        let fed = waiting.max(caching);
        let is_longest = fed > self.moving.max(self.computing);
        let busy = if is_longest { fed.saturating_add(self.computing / HIDDEN) } else { self.busy };
        Price { waiting, caching, busy, ..self }
    }

    /// The same where so few processors work that moving and computing take so many times as long.
    pub(super) fn slower(self, times: u64) -> Price {
        let busy = self.busy.saturating_mul(times);
        Price {
            moving: self.moving.saturating_mul(times),
            waiting: self.waiting.saturating_mul(times),
            caching: self.caching.saturating_mul(times),
            computing: self.computing.saturating_mul(times),
            busy,
            alone: if times > 1 { busy } else { 0 },
            ..self
        }
    }

    /// All of the time: what extraction adds up.
    pub fn total(&self) -> Cost {
        self.busy.saturating_add(self.serial).saturating_add(self.launching)
    }

    /// What takes most of it; of equals the first in the order of [`Limit`].
    pub fn limit(&self) -> Limit {
        let busy = [(self.waiting, Limit::Latency), (self.caching, Limit::Cache), (self.computing, Limit::Arithmetic)];
        let first = (self.moving, Limit::Bandwidth);
        let (_, busy) = busy.into_iter().fold(first, |longest, next| if next.0 > longest.0 { next } else { longest });
        let (mut longest, mut limit) = (self.busy.saturating_sub(self.alone), busy);
        for (time, other) in [(self.alone, Limit::Processor), (self.serial, Limit::Serial), (self.launching, Limit::Launch)] {
            if time > longest {
                (longest, limit) = (time, other);
            }
        }
        limit
    }
}

/// Picoseconds of an amount at a rate.
pub(super) fn time(amount: u64, per_us: u64) -> Cost {
    u64::try_from(u128::from(amount) * 1_000_000 / u128::from(per_us.max(1))).unwrap_or(u64::MAX)
}

impl Add for Amounts {
    type Output = Amounts;

    fn add(self, other: Amounts) -> Amounts {
        Amounts {
            launches: self.launches.saturating_add(other.launches),
            bytes: self.bytes.saturating_add(other.bytes),
            flops: self.flops.saturating_add(other.flops),
            work: self.work.saturating_add(other.work),
        }
    }
}

/// One after the other.
impl Add for Price {
    type Output = Price;

    fn add(self, other: Price) -> Price {
        Price {
            amounts: self.amounts + other.amounts,
            moving: self.moving.saturating_add(other.moving),
            waiting: self.waiting.saturating_add(other.waiting),
            caching: self.caching.saturating_add(other.caching),
            computing: self.computing.saturating_add(other.computing),
            busy: self.busy.saturating_add(other.busy),
            serial: self.serial.saturating_add(other.serial),
            launching: self.launching.saturating_add(other.launching),
            alone: self.alone.saturating_add(other.alone),
        }
    }
}

impl Sum for Price {
    fn sum<I: Iterator<Item = Price>>(prices: I) -> Price {
        prices.fold(Price::default(), Add::add)
    }
}

/// What each node of a graph costs at a batch of so many tokens, in the order of the nodes: of a rewritten graph, whose ops are in ways
/// that are decided, prices that [`graph_cost`](super::graph_cost) is the sum of.
pub fn prices(graph: &Typed, machine: &Machine, tokens: u64) -> Vec<Price> {
    let sizes = Sizes::of(&Workload::of(graph, &[tokens]), tokens);
    let price = |node: &Node| match node {
        Node::Param(_) | Node::Hole(_) | Node::Attr(_) => Price::default(),
        Node::Apply(op, operands) => {
            let types: Vec<_> = operands.iter().map(|id| graph.ty(*id)).collect();
            at(*op, &types, machine, &sizes)
        }
    };
    graph.graph().nodes.as_ref().iter().map(price).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::machine::{Rate, Unit};

    /// Two bytes take 1 ns, a FLOP 1 ns, a launch 7 ns.
    fn of(launches: u64, bytes: u64, work: u64) -> Price {
        let rates = &[Rate { unit: Unit::Vector, elem: DType::F32, flops_per_us: 1_000 }];
        let machine = Machine { bytes_per_us: 2_000, rates, launch_ps: 7_000, ..crate::machine::MACHINES[0].clone() };
        Price::roofline(&machine, Amounts { launches, bytes, flops: work, work })
    }

    #[test]
    fn the_longest_is_what_limits() {
        // 10 bytes take 5 ns, 4 FLOPs 4 ns of which 4 ps are not hidden, a launch 7 ns.
        let small = of(1, 10, 4);
        assert_eq!((small.moving, small.computing, small.launching, small.total()), (5_000, 4_000, 7_000, 5_000 + 4 + 7_000));
        assert_eq!(small.limit(), Limit::Launch);
        assert_eq!((of(1, 100, 4).limit(), of(1, 10, 40).limit()), (Limit::Bandwidth, Limit::Arithmetic));
        assert_eq!(Price { serial: 7_001, ..small }.limit(), Limit::Serial);
        let alone = small.slower(10);
        assert_eq!((alone.limit(), alone.total()), (Limit::Processor, 50_040 + 7_000));
        assert_eq!(of(0, 0, 0), Price::default());
    }

    #[test]
    fn a_longer_body_costs_more_whatever_it_waits_for() {
        // 10 bytes take 5 ns, 8 or 9 FLOPs 8 or 9 ns, a launch 7 ns; waiting for memory, or for the cache, 20 ns.
        for feeding in [[20_000, 6_000], [6_000, 20_000]].map(|[waiting, caching]| Feeding { waiting, ring: 0, caching }) {
            let [short, long] = [8, 9].map(|work| of(1, 10, work).feeding(feeding).total());
            assert_eq!([short, long], [20_000 + 8 + 7_000, 20_000 + 9 + 7_000]);
        }
        // What is not the longest is hidden and costs nothing.
        assert_eq!(of(1, 10, 8).feeding(Feeding { waiting: 7_999, ring: 0, caching: 8_000 }).total(), of(1, 10, 8).total());
        assert_eq!(of(1, 10, 8).feeding(Feeding { waiting: 8_001, ring: 0, caching: 0 }).limit(), Limit::Latency);
        // Of a ring of two stages, each asked for when its product is over, half of the 8 ns of products is waited for too.
        let ring = |waiting| of(1, 10, 8).feeding(Feeding { waiting, ring: 2, caching: 0 });
        assert_eq!([3_999, 4_001].map(|waiting| ring(waiting).limit()), [Limit::Arithmetic, Limit::Latency]);
    }

    #[test]
    fn long_times_are_exact() {
        // 10^17 bytes at 4300 GB/s: 23255.8 s. A thousand times the bytes is more than a u64 has.
        assert_eq!(time(100_000_000_000_000_000, 4_300_000), 23_255_813_953_488_372);
        assert_eq!((time(u64::MAX, 1_000_000), time(u64::MAX, 999_999), time(7, 0)), (u64::MAX, u64::MAX, 7_000_000));
    }

    #[test]
    fn a_sum_is_one_after_the_other() {
        let (moves, computes) = (of(1, 100, 4), of(0, 10, 40));
        let both = moves + computes;
        // One block alone is not what limits all that comes after it.
        let alone = of(0, 10, 4).slower(2);
        assert_eq!((alone.limit(), (alone + moves).limit()), (Limit::Processor, Limit::Bandwidth));
        assert_eq!(both.total(), moves.total() + computes.total());
        assert_eq!(both.amounts, Amounts { launches: 1, bytes: 110, flops: 44, work: 44 });
        assert_eq!([moves, computes].into_iter().sum::<Price>(), both);
        // Nothing wraps.
        let huge = Price { busy: u64::MAX, ..both };
        assert_eq!((huge + huge).total(), u64::MAX);
    }
}
