//! The order of things that the hardware leaves open, decided from a seed: the same seed gives the same run.

use crate::options::Schedule;

/// Instructions of one block before the next resident block has its turn.
const SLICE: u32 = 4096;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice { state: seed }
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A schedule at work.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    schedule: Schedule,
    dice: Dice,
}

impl Choices {
    pub(crate) fn new(schedule: Schedule, seed: u64) -> Choices {
        Choices { schedule, dice: Dice::new(seed) }
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.dice.roll() % count.max(1) as u64) as usize
    }

    /// The next warp among those that are able; `turn` is the one after the last.
    pub(crate) fn warp(&mut self, count: usize, turn: usize, able: impl Fn(usize) -> bool) -> Option<usize> {
        let start = match self.schedule {
            Schedule::RoundRobin => turn,
            Schedule::Random => self.below(count),
            // The same warp again, as long as it can; which one is first depends on the seed.
            Schedule::Adversarial => turn.saturating_sub(1),
        };
        (0..count).map(|step| (start + step) % count).find(|&index| able(index))
    }

    /// Instructions before another warp may run.
    pub(crate) fn quantum(&mut self) -> u32 {
        match self.schedule {
            Schedule::RoundRobin => 64,
            Schedule::Random => 1 + (self.dice.roll() % 64) as u32,
            Schedule::Adversarial => 4096,
        }
    }

    /// Instructions of one block before the next resident block has its turn. Blocks of a cluster meet at any place.
    pub(crate) fn slice(&mut self, in_cluster: bool) -> u32 {
        match self.schedule {
            Schedule::Random if in_cluster => 1 + (self.dice.roll() % u64::from(SLICE)) as u32,
            Schedule::Adversarial if in_cluster => 256 * SLICE,
            Schedule::RoundRobin | Schedule::Random | Schedule::Adversarial => SLICE,
        }
    }

    /// Whether an asynchronous operation completes now.
    pub(crate) fn deliver(&mut self) -> bool {
        match self.schedule {
            Schedule::RoundRobin => true,
            Schedule::Random => self.dice.roll().is_multiple_of(4),
            Schedule::Adversarial => false,
        }
    }

    /// Which of several asynchronous operations completes first.
    pub(crate) fn delivery(&mut self, count: usize) -> usize {
        match self.schedule {
            Schedule::RoundRobin => 0,
            Schedule::Random => self.below(count),
            Schedule::Adversarial => count.saturating_sub(1),
        }
    }

    /// Whether to run lanes out of their usual order.
    pub(crate) fn odd_group(&mut self) -> bool {
        self.schedule == Schedule::Random && self.dice.roll().is_multiple_of(8)
    }

    /// How many blocks are in flight together when nothing forces more.
    pub(crate) fn residents(&self) -> usize {
        if self.schedule == Schedule::Random { 3 } else { 1 }
    }

    /// Whether blocks run from the last to the first.
    pub(crate) fn reversed(&self) -> bool {
        self.schedule == Schedule::Adversarial
    }

    /// The order of the blocks.
    pub(crate) fn order(&mut self, blocks: &mut [u64]) {
        match self.schedule {
            Schedule::RoundRobin => {}
            Schedule::Random => {
                for index in (1..blocks.len()).rev() {
                    blocks.swap(index, self.below(index + 1));
                }
            }
            Schedule::Adversarial => blocks.reverse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of the published generator from seed 0.
    #[test]
    fn dice_are_the_published_ones() {
        let mut dice = Dice::new(0);
        assert_eq!(dice.roll(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(dice.roll(), 0x6e78_9e6a_a1b9_65f4);
    }
}
