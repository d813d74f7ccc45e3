//! Random kernels, well-typed and not, and what must hold of each. A fuzz target calls the same `check`s.

mod kernels;
mod nonsense;

pub(crate) use kernels::program;
pub(crate) use nonsense::nonsense;

use std::collections::BTreeMap;

use moec_ir::kernel::{Program, interp, parse, print, print_with_violations, verify};
use moec_ir::{Dims, Machine};

/// A sequence of numbers that the seed decides.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Text comes back as it was, and what comes back means the same.
pub(crate) fn check(program: &Program, machine: &Machine, seed: u64) {
    let text = print(program);
    let found = verify(program, machine).err().unwrap_or_default();
    assert!(found.is_empty(), "{}", print_with_violations(program, &found));
    let normal = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(print(&normal), text);
    assert_eq!(parse(&print(&normal)).as_ref(), Ok(&normal), "{text}");
    let mut random = Random::new(seed);
    let dims = Dims { tokens: 3, sequence_tokens: 3 };
    let given = |(name, bytes): (&str, usize)| (name.to_string(), random.bytes(bytes));
    let given: BTreeMap<String, Vec<u8>> = kernels::GIVEN.into_iter().map(given).collect();
    let before = interp(program, machine, dims, &given);
    let after = interp(&normal, machine, dims, &given);
    assert_eq!(before.map_err(|fault| fault.message), after.map_err(|fault| fault.message), "{text}");
}

/// Nothing panics, and what is printed of an invalid program shows every violation.
pub(crate) fn check_nonsense(program: &Program, machine: &Machine) {
    let _ = parse(&print(program));
    let Err(found) = verify(program, machine) else { return };
    let text = print_with_violations(program, &found);
    assert_eq!(text.matches("error: ").count(), found.len(), "{text}");
    let fault = interp(program, machine, Dims { tokens: 1, sequence_tokens: 1 }, &BTreeMap::new());
    assert_eq!(fault.map_err(|fault| fault.message), Err(found[0].message.clone()));
}
