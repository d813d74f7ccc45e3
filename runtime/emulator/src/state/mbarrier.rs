//! mbarriers, as data (PTX ISA 9.7.13.15).

use crate::state::clocks::{Knowledge, PENDING, Published};
use crate::text::ins::Arrive;

/// The state of one mbarrier.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    /// Arrivals that the next phase expects.
    expected: i64,
    /// Arrivals that this phase still misses.
    pending: i64,
    /// Bytes that this phase still misses.
    bytes: i64,
    phase: u32,
    /// What the threads that arrived in this phase had seen.
    joined: Knowledge,
    /// What is seen through the phases that are complete.
    complete: Knowledge,
    /// The same of threads of other blocks: seen by threads that wait in the scope of the cluster.
    far_joined: Published,
    far_complete: Published,
    /// Stands for the data that comes with this barrier's phases.
    agent: u8,
    /// The warp that made it, and its clock then.
    maker: usize,
    made: u32,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// The state before it, as the instruction returns it.
    pub(crate) token: u64,
    /// More arrived than the phase expects.
    pub(crate) is_over: bool,
    /// The phase is complete with it.
    pub(crate) completes: bool,
}

impl Mbarrier {
    /// One that expects so many arrivals, made by a warp at its clock.
    pub(crate) fn new(expected: i64, agent: u8, (maker, made): (usize, u32)) -> Mbarrier {
        let (joined, complete) = (Knowledge::default(), Knowledge::default());
        let (far_joined, far_complete) = (Published::new(), Published::new());
        let pending = expected;
        Mbarrier { expected, pending, bytes: 0, phase: 0, joined, complete, far_joined, far_complete, agent, maker, made }
    }

    /// The warp that made it, and its clock then.
    pub(crate) fn maker(&self) -> (usize, u32) {
        (self.maker, self.made)
    }

    /// Expects one more arrival in this phase.
    pub(crate) fn expect_one_more(&mut self) {
        self.pending += 1;
    }

    /// Threads that arrive know so much.
    pub(crate) fn learn(&mut self, known: &Knowledge) {
        self.joined.join(known);
    }

    /// Threads of another block that arrive know so much.
    pub(crate) fn learn_of(&mut self, block: u32, known: &Knowledge) {
        self.far_joined.entry(block).or_default().join(known);
    }

    /// Threads arrive: `number` of them, or one that expects as many bytes.
    pub(crate) fn arrive(&mut self, how: Arrive, number: i64) -> Arrived {
        let token = (self.pending.max(0) as u64) << 32 | u64::from(self.phase);
        let arrivals = match how {
            Arrive::ExpectTx => {
                self.bytes += number;
                1
            }
            Arrive::Drop => {
                self.expected -= number;
                number
            }
            Arrive::Plain | Arrive::NoComplete => number,
        };
        self.pending -= arrivals;
        let is_over = self.pending < 0;
        let completes = !is_over && self.settle();
        Arrived { token, is_over, completes }
    }

    /// Adds to the bytes that this phase waits for, or takes from them, and says how many there are then. Beyond the limit
    /// nothing is settled.
    pub(crate) fn add_bytes(&mut self, number: i64, limit: i64) -> i64 {
        self.bytes += number;
        let bytes = self.bytes;
        if number < 0 && bytes.abs() <= limit {
            self.settle();
        }
        bytes
    }

    /// The agent and the clock of what arrives next: it is visible to a thread that sees the phase complete.
    pub(crate) fn next_data(&mut self) -> (u8, u32) {
        let agent = usize::from(self.agent);
        let clock = (self.joined.seen[agent].max(self.complete.seen[agent]) + 1).min(PENDING - 1);
        self.joined.seen[agent] = clock;
        (self.agent, clock)
    }

    /// The current phase.
    pub(crate) fn phase(&self) -> u32 {
        self.phase
    }

    /// What is seen through the phases that are complete.
    pub(crate) fn complete(&self) -> &Knowledge {
        &self.complete
    }

    /// The same of threads of other blocks.
    pub(crate) fn far_complete(&self) -> &Published {
        &self.far_complete
    }

    fn settle(&mut self) -> bool {
        let done = self.pending == 0 && self.bytes == 0;
        if done {
            self.phase += 1;
            self.pending = self.expected;
            let joined = std::mem::take(&mut self.joined);
            self.complete.join(&joined);
            for (block, known) in std::mem::take(&mut self.far_joined) {
                self.far_complete.entry(block).or_default().join(&known);
            }
        }
        done
    }
}
