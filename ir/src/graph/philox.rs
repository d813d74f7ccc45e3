//! Philox4x32-10: random numbers that depend on a key and a counter alone, so that any element's can be had by itself.
//! Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// What the two halves of a counter are multiplied by.
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What is added to the key after each round.
pub const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds.
pub const ROUNDS: u32 = 10;

/// Four random words for this counter under this key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut low, mut high]) = (counter, key);
    for _ in 0..ROUNDS {
        let (first, second) = (u64::from(a) * u64::from(MULTIPLIERS[0]), u64::from(c) * u64::from(MULTIPLIERS[1]));
        [a, b, c, d] = [(second >> 32) as u32 ^ b ^ low, second as u32, (first >> 32) as u32 ^ d ^ high, first as u32];
        (low, high) = (low.wrapping_add(KEY_STEPS[0]), high.wrapping_add(KEY_STEPS[1]));
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers that come with the authors' library (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        let answers = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in answers {
            assert_eq!(philox(counter, key), words);
        }
    }
}
