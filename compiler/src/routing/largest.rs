//! The largest of a row of keys in f32, without a turn that a processor has to guess for each of them.

use super::rows::LANES;

/// The `wanted` largest of the first `width` keys and every other that is not below them, with their indices, largest first,
/// ties to the lower index. No key is NaN, and the padding is minus infinity.
pub(super) fn find_largest(keys: &[f32], width: usize, wanted: usize, folded: &mut Vec<f32>, found: &mut Vec<Candidate>) {
    // The largest of each of a few groups: the `wanted`-th of these is at most the `wanted`-th key.
    folded.clear();
    let max = |a: f32, b: f32| if a > b { a } else { b };
    let halves = |groups: usize| groups.is_multiple_of(2) && groups / 2 >= 2 * wanted;
    if halves(keys.len()) {
        let (low, high) = keys.split_at(keys.len() / 2);
        folded.extend(low.iter().zip(high).map(|(a, b)| max(*a, *b)));
    }
    while halves(folded.len()) {
        let half = folded.len() / 2;
        let (low, high) = folded.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(a, b)| *a = max(*a, *b));
        folded.truncate(half);
    }
    let least = if folded.len() > wanted { nth_largest(folded, wanted) } else { f32::NEG_INFINITY };
    found.clear();
    for (block, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
        let mut among = 0u32;
        for (lane, key) in keys.iter().enumerate() {
            among |= u32::from(*key >= least) << lane;
        }
        while among != 0 {
            let lane = among.trailing_zeros() as usize;
            among &= among - 1;
            let expert = block * LANES + lane;
            if expert < width {
                found.push(Candidate::of(keys[lane], expert));
            }
        }
    }
    found.sort_unstable();
}

/// An expert and its key as one number: the larger the key the less it is, and of equal keys the lower index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    fn of(key: f32, expert: usize) -> Candidate {
        // Plus zero: both zeros are one key.
        let bits = (key + 0.0).to_bits();
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Candidate(u64::from(!ascending) << 32 | expert as u64)
    }

    pub(super) fn expert(self) -> usize {
        self.0 as u32 as usize
    }
}

/// Of a few numbers by counting, which takes no turns that a processor has to guess.
fn nth_largest(values: &mut [f32], n: usize) -> f32 {
    const FEW: usize = 64;
    if values.len() > FEW {
        return *values.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1;
    }
    let mut at_least = [0u32; FEW];
    for y in values.iter() {
        at_least.iter_mut().zip(values.iter()).for_each(|(count, x)| *count += u32::from(y >= x));
    }
    let mut nth = f32::NEG_INFINITY;
    for (x, at_least) in values.iter().zip(at_least) {
        nth = if at_least as usize >= n && *x > nth { *x } else { nth };
    }
    nth
}

#[cfg(test)]
mod tests {
    use super::super::rows::stride;
    use super::super::select::tests::Numbers;
    use super::*;

    #[test]
    fn the_largest_of_a_row() {
        let mut numbers = Numbers(5);
        for width in [1usize, 7, 8, 60, 160, 256, 1000] {
            for wanted in [1, 2, 9, 40, width].map(|wanted| wanted.min(width)) {
                let mut keys: Vec<f32> = (0..width).map(|_| (numbers.normal() * 20.0).round() as f32).collect();
                keys.resize(stride(width), f32::NEG_INFINITY);
                let mut found = Vec::new();
                find_largest(&keys, width, wanted, &mut Vec::new(), &mut found);
                let mut order: Vec<usize> = (0..width).collect();
                order.sort_by(|a, b| keys[*b].partial_cmp(&keys[*a]).unwrap().then(a.cmp(b)));
                let found: Vec<usize> = found.into_iter().map(Candidate::expert).collect();
                assert!(found.len() >= wanted, "{width} {wanted}");
                assert_eq!(found, order[..found.len()], "{width} {wanted}");
                assert!(order.get(found.len()).is_none_or(|next| keys[*next] < keys[found[found.len() - 1]]));
            }
        }
    }
}
