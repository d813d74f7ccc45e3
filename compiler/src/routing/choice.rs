//! Experts that choose: each takes the C tokens that it scores highest. The result is which tokens no expert chooses.
//!
//! The C-th highest of a column is not looked for among all of it. A sample of the rows brackets it; above the bracket a token
//! is chosen, below it is not, and the few in between are sorted. A bracket that missed is made endless and tried again, so
//! the sample decides how long it takes and never what comes out.

use super::rows::{LANES, stride};
use super::score::{Score, Sums};

/// Bytes of scores that are held at once; longer spans are cut into pieces.
const MOST_BYTES: usize = 64 << 20;
/// Rows of a sample: a sixteenth of the group, but no fewer and no more than these.
const LEAST_SAMPLE: usize = 1024;
const MOST_SAMPLE: usize = 4096;

/// One group of tokens that experts choose from, and what was chosen from earlier ones.
#[derive(Debug)]
pub(super) struct ExpertChoice {
    experts: usize,
    /// `[rows, stride]`.
    scores: Vec<f32>,
    covered: Vec<bool>,
    candidates: Vec<Vec<(f32, u32)>>,
    /// Tokens that no expert chose.
    pub(super) unchosen: u64,
    /// Tokens that experts chose, once for each expert.
    pub(super) rows: u64,
    /// The most tokens of one group.
    pub(super) most_tokens: u64,
}

/// Where the least chosen score of a column lies: at most `high`, at least `low`.
#[derive(Clone, Copy)]
struct Bracket {
    low: f32,
    high: f32,
}

const ENDLESS: Bracket = Bracket { low: f32::NEG_INFINITY, high: f32::INFINITY };

impl ExpertChoice {
    pub(super) fn new(experts: usize) -> ExpertChoice {
        ExpertChoice {
            experts,
            scores: Vec::new(),
            covered: Vec::new(),
            candidates: vec![Vec::new(); experts],
            unchosen: 0,
            rows: 0,
            most_tokens: (MOST_BYTES / (4 * stride(experts))) as u64,
        }
    }

    /// Takes a row: its logits without NaN, after scale and cap, and its scores as `score::scores` writes them; without a score the
    /// logits are what experts choose by. Columns beyond the experts choose no token.
    pub(super) fn push(&mut self, score: Option<Score>, logits: &[f32], scores: &[f32], sums: Sums) {
        let (logits, scores) = (&logits[..stride(self.experts)], &scores[..stride(self.experts)]);
        match score {
            Some(Score::Softmax) => {
                let factor = 1.0 / sums.sum;
                self.scores.extend(scores.iter().map(|score| score * factor));
            }
            // Plus zero: both zeros are one score. A row with a NaN has no infinity left either.
            None => self.scores.extend(logits.iter().map(|logit| logit.clamp(f32::MIN, f32::MAX) + 0.0)),
            Some(Score::Sigmoid | Score::SqrtSoftplus) => self.scores.extend_from_slice(scores),
        }
    }

    /// Tokens that wait to be chosen.
    pub(super) fn tokens(&self) -> u64 {
        (self.scores.len() / stride(self.experts)) as u64
    }

    /// Lets each expert take `capacity` of the tokens pushed since the last time.
    pub(super) fn choose(&mut self, capacity: u64) {
        let tokens = self.tokens() as usize;
        let take = usize::try_from(capacity).unwrap_or(usize::MAX).min(tokens);
        self.rows += (take * self.experts) as u64;
        let above = match take {
            0 => {
                self.covered.clear();
                self.covered.resize(tokens, false);
                self.candidates.iter_mut().for_each(Vec::clear);
                vec![0; self.experts]
            }
            take if take == tokens => Vec::new(),
            take => self.bracketed(take),
        };
        if above.is_empty() {
            self.scores.clear();
            return;
        }
        for (candidates, above) in self.candidates.iter_mut().zip(&above) {
            let left = take - *above as usize;
            if left > 0 && left < candidates.len() {
                candidates.select_nth_unstable_by(left - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            }
            candidates[..left].iter().for_each(|(_, token)| self.covered[*token as usize] = true);
        }
        self.unchosen += self.covered.iter().filter(|covered| !**covered).count() as u64;
        self.scores.clear();
    }

    /// Scans with brackets that hold: the number above each.
    fn bracketed(&mut self, take: usize) -> Vec<u32> {
        let mut brackets = self.brackets(take);
        loop {
            let above = self.scan(&brackets);
            let mut is_missed = false;
            for ((bracket, above), candidates) in brackets.iter_mut().zip(&above).zip(&self.candidates) {
                let above = *above as usize;
                if above > take || above + candidates.len() < take {
                    *bracket = ENDLESS;
                    is_missed = true;
                }
            }
            if !is_missed {
                return above;
            }
        }
    }

    /// A bracket of each expert's least chosen score, from some of the rows.
    fn brackets(&self, take: usize) -> Vec<Bracket> {
        let stride = stride(self.experts);
        let tokens = self.scores.len() / stride;
        let sample = (tokens / 16).clamp(LEAST_SAMPLE, MOST_SAMPLE).min(tokens);
        let rows: Vec<&[f32]> = (0..sample).map(|i| &self.scores[i * tokens / sample * stride..][..stride]).collect();
        let share = take as f64 / tokens as f64;
        let place = share * rows.len() as f64;
        // Four deviations of how many of the sample are among the chosen; none where the sample is all.
        let slack = if rows.len() == tokens { 0.0 } else { 4.0 * (place * (1.0 - share)).sqrt() + 2.0 };
        let (first, last) = (place - slack, place + slack);
        let bracket = |column: &mut Vec<f32>| {
            let mut ranked = |place: f64| {
                let place = (place as usize).min(column.len() - 1);
                *column.select_nth_unstable_by(place, |a, b| b.total_cmp(a)).1
            };
            Bracket {
                low: if last >= rows.len() as f64 { f32::NEG_INFINITY } else { ranked(last) },
                high: if first < 1.0 { f32::INFINITY } else { ranked(first - 1.0) },
            }
        };
        // A line of the cache is read once, for all the columns in it.
        let mut columns: [Vec<f32>; LANES] = Default::default();
        let mut brackets = Vec::with_capacity(stride);
        for block in (0..stride).step_by(LANES) {
            columns.iter_mut().for_each(Vec::clear);
            for row in &rows {
                columns.iter_mut().zip(&row[block..]).for_each(|(column, score)| column.push(*score));
            }
            brackets.extend(columns.iter_mut().map(bracket));
        }
        brackets.truncate(self.experts);
        brackets
    }

    /// Covers the tokens above the brackets, keeps those inside as candidates; gives the number above, by expert.
    fn scan(&mut self, brackets: &[Bracket]) -> Vec<u32> {
        let stride = stride(self.experts);
        // Padding is in no bracket.
        let padded = |f: fn(&Bracket) -> f32| {
            let mut bounds: Vec<f32> = brackets.iter().map(f).collect();
            bounds.resize(stride, f32::INFINITY);
            bounds
        };
        let (low, high) = (padded(|bracket| bracket.low), padded(|bracket| bracket.high));
        let mut above = vec![0u32; stride];
        self.candidates.iter_mut().for_each(Vec::clear);
        self.covered.clear();
        self.covered.resize(self.scores.len() / stride, false);
        for (token, row) in self.scores.chunks_exact(stride).enumerate() {
            let mut is_covered = [0u32; LANES];
            let lanes = row.as_chunks::<LANES>().0.iter().zip(low.as_chunks::<LANES>().0);
            let lanes = lanes.zip(high.as_chunks::<LANES>().0).zip(above.as_chunks_mut::<LANES>().0);
            for (block, (((row, low), high), above)) in lanes.enumerate() {
                let mut inside = 0u32;
                for lane in 0..LANES {
                    let is_above = u32::from(row[lane] > high[lane]);
                    above[lane] += is_above;
                    is_covered[lane] |= is_above;
                    inside |= (u32::from(row[lane] >= low[lane]) & !is_above) << lane;
                }
                while inside != 0 {
                    let lane = inside.trailing_zeros() as usize;
                    inside &= inside - 1;
                    if let Some(candidates) = self.candidates.get_mut(block * LANES + lane) {
                        candidates.push((row[lane], token as u32));
                    }
                }
            }
            self.covered[token] = is_covered.iter().fold(0, |any, covered| any | covered) != 0;
        }
        above.truncate(self.experts);
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted columns, obviously.
    fn unchosen(scores: &[f32], experts: usize, take: usize) -> u64 {
        let tokens = scores.len() / experts;
        let mut covered = vec![false; tokens];
        for expert in 0..experts {
            let mut order: Vec<usize> = (0..tokens).collect();
            order.sort_by(|a, b| scores[b * experts + expert].total_cmp(&scores[a * experts + expert]).then(a.cmp(b)));
            order.iter().take(take).for_each(|token| covered[*token] = true);
        }
        covered.iter().filter(|covered| !**covered).count() as u64
    }

    fn check(scores: &[f32], experts: usize, takes: &[u64]) {
        let mut choice = ExpertChoice::new(experts);
        for take in takes {
            let before = (choice.unchosen, choice.rows);
            for row in scores.chunks(experts) {
                let mut row = row.to_vec();
                row.resize(stride(experts), 0.0);
                choice.push(Some(Score::Sigmoid), &row, &row, Sums { sum: 1.0, largest: 0.0 });
            }
            let tokens = choice.tokens();
            choice.choose(*take);
            assert_eq!(choice.unchosen - before.0, unchosen(scores, experts, *take as usize), "{take} of {tokens}");
            assert_eq!(choice.rows - before.1, take.min(&tokens) * experts as u64);
        }
    }

    #[test]
    fn as_sorted_columns() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        let few: Vec<f32> = (0..50 * 5).map(|_| (next() * 8.0).floor()).collect();
        check(&few, 5, &[0, 1, 3, 10, 25, 49, 50, 51, u64::MAX]);
        let many: Vec<f32> = (0..20_000 * 3).map(|_| next()).collect();
        check(&many, 3, &[1, 100, 5000, 15_000, 19_999]);
        // A sample of every fourth row sees nothing of the rest: every bracket misses.
        let striped: Vec<f32> = (0..16_384 * 2).map(|i| if i / 2 % 4 == 0 { next() } else { 2.0 + next() }).collect();
        check(&striped, 2, &[10, 4000, 13_000]);
    }
}
