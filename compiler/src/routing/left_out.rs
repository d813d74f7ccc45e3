//! Rows that are no tokens: how many of which kind, and where the first of them are.

use schemars::JsonSchema;
use serde::Serialize;

use super::rows::RowKind;

/// Kinds of rows that count although they look like padding or damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Rows with NaN or infinities, as the layer routes them.
    pub non_finite: bool,
    /// Rows that are all zero.
    pub zero: bool,
}

/// What was left out so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    keep: Keep,
    padding: u64,
    nan: u64,
    infinite: u64,
    zero: u64,
    /// The row of the tensor that comes next.
    row: u64,
    first: Vec<(RowKind, Run)>,
}

/// Rows of one tensor, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) tensor: usize,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Rows of one kind that were left out, next to each other.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LeftOutRows {
    /// `nan`: with a NaN; `infinite`: with an infinity and no NaN; `zero`: all zero.
    pub kind: &'static str,
    /// The name of their tensor.
    pub tensor: String,
    /// The first of them, counted from 0: of `[B, S, E]` row `b S + s`.
    pub first: u64,
    /// The last of them.
    pub last: u64,
}

/// Rows of the trace that are no tokens: they are in no load, no capacity and no advice.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LeftOutFacts {
    /// Rows that the mask says are padding.
    pub padding: u64,
    /// Rows with a NaN.
    pub nan: u64,
    /// Rows with an infinity and no NaN.
    pub infinite: u64,
    /// Rows that are all zero, which is what padding gives in a router without bias.
    pub zero: u64,
    /// Where the first of them are that no mask left out.
    pub rows: Vec<LeftOutRows>,
}

impl LeftOutFacts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.padding + self.unasked()
    }

    /// Those that no mask left out.
    pub fn unasked(&self) -> u64 {
        self.nan + self.infinite + self.zero
    }

    /// `40 rows are left out: 40 with NaN (60 to 99 of l)`, without what the mask left out; `None`: there are none.
    pub fn said(&self) -> Option<String> {
        let kinds = [(self.nan, "with NaN"), (self.infinite, "with infinities"), (self.zero, "all zero")];
        let kinds: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect();
        let first = self.rows.first()?;
        let place =
            if first.first == first.last { first.first.to_string() } else { format!("{} to {}", first.first, first.last) };
        let more = if self.rows.len() > 1 { " and others" } else { "" };
        let count = if self.unasked() == 1 { "1 row is".to_string() } else { format!("{} rows are", self.unasked()) };
        Some(format!("{count} left out: {} (rows {place} of {}{more})", kinds.join(", "), first.tensor))
    }
}

impl LeftOut {
    pub(super) fn of(keep: Keep) -> LeftOut {
        LeftOut { keep, ..LeftOut::default() }
    }

    /// Whether such a row counts.
    pub(super) fn is_token(&self, kind: RowKind) -> bool {
        match kind {
            RowKind::Token => true,
            RowKind::Padding => false,
            RowKind::Nan | RowKind::Infinite => self.keep.non_finite,
            RowKind::Zero => self.keep.zero,
        }
    }

    /// The next rows are of another tensor.
    pub(super) fn begin(&mut self) {
        self.row = 0;
    }

    /// So many rows counted.
    pub(super) fn pass(&mut self, rows: u64) {
        self.row += rows;
    }

    /// So many rows of this kind did not.
    pub(super) fn add(&mut self, kind: RowKind, tensor: usize, rows: u64) {
        const MOST_RUNS: usize = 16;
        let run = Run { tensor, first: self.row, last: self.row + rows - 1 };
        self.row += rows;
        match kind {
            RowKind::Token => {}
            RowKind::Padding => self.padding += rows,
            RowKind::Nan => self.nan += rows,
            RowKind::Infinite => self.infinite += rows,
            RowKind::Zero => self.zero += rows,
        }
        let is_full = self.first.len() == MOST_RUNS;
        match self.first.last_mut() {
            Some((last_kind, last)) if *last_kind == kind && last.tensor == tensor && last.last + 1 == run.first => {
                last.last = run.last;
            }
            Some(_) | None if kind == RowKind::Padding || is_full => {}
            Some(_) | None => self.first.push((kind, run)),
        }
    }

    pub(super) fn facts(&self, names: &[&str]) -> LeftOutFacts {
        let rows = self.first.iter().map(|(kind, run)| LeftOutRows {
            kind: match kind {
                RowKind::Nan => "nan",
                RowKind::Infinite => "infinite",
                RowKind::Zero => "zero",
                RowKind::Token | RowKind::Padding => "padding",
            },
            tensor: names.get(run.tensor).map_or(String::new(), |name| name.to_string()),
            first: run.first,
            last: run.last,
        });
        LeftOutFacts { padding: self.padding, nan: self.nan, infinite: self.infinite, zero: self.zero, rows: rows.collect() }
    }
}
