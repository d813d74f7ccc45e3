//! Memory whose bytes are known or not: what the interpreter reads and writes.

use std::ops::Range;

use crate::DType;

/// Bytes of which each is known or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    bytes: Vec<u8>,
    states: Vec<State>,
}

/// What is known of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unwritten,
    Known,
    /// A copy to it is under way.
    Expected,
    /// A product under way adds to it.
    Summed,
}

impl Memory {
    /// `len` bytes that are not written.
    pub fn unknown(len: usize) -> Memory {
        Memory { bytes: vec![0; len], states: vec![State::Unwritten; len] }
    }

    /// The bytes, if all are known.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.states.iter().all(|state| *state == State::Known).then_some(&self.bytes)
    }

    /// The bytes, with `other` in place of those that are not known.
    pub fn bytes_or(&self, other: u8) -> Vec<u8> {
        let or_other = |(byte, state): (&u8, &State)| if *state == State::Known { *byte } else { other };
        self.bytes.iter().zip(&self.states).map(or_other).collect()
    }

    /// Appends the lanes of `elem` from byte `at` on, which the caller has checked to be inside.
    pub(super) fn read(&self, elem: DType, at: usize, lanes: usize, onto: &mut Vec<u64>) -> Result<(), String> {
        let bytes = elem.bytes() as usize;
        let range = at..at + lanes * bytes;
        self.settled(range.clone())?;
        if self.states[range.clone()].contains(&State::Unwritten) {
            return Err("reads memory that is not written".to_string());
        }
        let lane = |chunk: &[u8]| {
            let mut lane = [0; 8];
            lane[..bytes].copy_from_slice(chunk);
            let lane = u64::from_le_bytes(lane);
            if elem == DType::I32 { i64::from(lane as i32) as u64 } else { lane }
        };
        onto.extend(self.bytes[range].chunks(bytes).map(lane));
        Ok(())
    }

    pub(super) fn write(&mut self, elem: DType, at: usize, lanes: &[u64]) -> Result<(), String> {
        let bytes = elem.bytes() as usize;
        self.settled(at..at + lanes.len() * bytes)?;
        for (i, lane) in lanes.iter().enumerate() {
            self.arrive_at(at + i * bytes, &lane.to_le_bytes()[..bytes]);
        }
        Ok(())
    }

    /// No copy to any of these bytes is under way.
    fn settled(&self, range: Range<usize>) -> Result<(), String> {
        let states = &self.states[range];
        if states.contains(&State::Expected) {
            return Err("touches memory that a copy under way will write: it is not waited for".to_string());
        }
        if states.contains(&State::Summed) {
            return Err("touches sums of a product under way: it is not waited for".to_string());
        }
        Ok(())
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The sum at this byte, of a product under way too.
    pub(super) fn sum_at(&self, at: usize) -> Result<u64, String> {
        let word = at..at + DType::F32.bytes() as usize;
        if self.states[word.clone()].contains(&State::Unwritten) {
            return Err("adds to sums that are not written".to_string());
        }
        Ok(self.bytes[word].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    /// The sum at this byte, of a product that is under way from now on.
    pub(super) fn set_sum_at(&mut self, at: usize, sum: u64) {
        let word = at..at + DType::F32.bytes() as usize;
        self.bytes[word.clone()].copy_from_slice(&sum.to_le_bytes()[..word.len()]);
        self.states[word].fill(State::Summed);
    }

    /// No product adds to the sum at this byte any more.
    pub(super) fn settle_sum_at(&mut self, at: usize) {
        self.states[at..at + DType::F32.bytes() as usize].fill(State::Known);
    }

    /// A copy to these bytes is under way.
    pub(super) fn expect_at(&mut self, at: usize, bytes: usize) -> Result<(), String> {
        self.settled(at..at + bytes)?;
        self.states[at..at + bytes].fill(State::Expected);
        Ok(())
    }

    /// These bytes are known from now on.
    pub(super) fn arrive_at(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.states[at..at + bytes.len()].fill(State::Known);
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Memory {
        Memory { states: vec![State::Known; bytes.len()], bytes }
    }
}
