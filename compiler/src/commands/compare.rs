//! A run's output against another one: the interpreter's, or what the input file says should come out.

use std::collections::BTreeSet;
use std::io::{self, Write};

use moec::diagnostics::{Code, Diagnostic};
use moec::reference::{Difference, bound_of, difference, rows_of_nan};
use moec::ties::{Apart, Decision};
use moec_runtime::package::Manifest;

/// The output against another one.
pub(super) struct Comparison {
    name: &'static str,
    difference: Difference,
    /// The largest error, as a part of the largest output, that rounding explains.
    bound: f64,
    /// Tokens with other experts, where both sides say which.
    tokens_apart: Option<usize>,
    /// What was routed otherwise, and how near that was, where that is known.
    apart: Vec<Apart>,
    /// Rows with a NaN on both sides.
    rows_of_nan: Vec<usize>,
    /// Tokens whose rows are not compared: a near tie gave them other experts there.
    left_out: usize,
    /// The first element that is no number on one side alone: its row, its column, and both.
    one_sided: Option<[String; 4]>,
}

/// What is compared.
pub(super) struct Sides<'s> {
    pub(super) name: &'static str,
    pub(super) output: &'s [f64],
    pub(super) expected: &'s [f64],
    pub(super) columns: usize,
    pub(super) tokens_apart: Option<usize>,
    pub(super) apart: Vec<Apart>,
    /// Whether `expected` has tokens with near ties routed as they are there, so that their rows say nothing.
    pub(super) routed_there: bool,
}

impl Comparison {
    pub(super) fn of(manifest: &Manifest, sides: Sides<'_>) -> Comparison {
        let Sides { name, output, expected, columns, tokens_apart, apart, routed_there } = sides;
        let tied = |apart: &Apart| match &apart.decision {
            Decision::Pick { token, .. } if routed_there && apart.is_near_tie() => Some(*token),
            Decision::Pick { .. } | Decision::Drop { .. } => None,
        };
        let left_out: BTreeSet<usize> = apart.iter().filter_map(tied).collect();
        let width = columns.max(1);
        let rows = |values: &[f64]| -> Vec<f64> {
            let rows = values.chunks(width).enumerate().filter(|(row, _)| !left_out.contains(row));
            rows.flat_map(|(_, row)| row.to_vec()).collect()
        };
        let (compared, wanted) = (rows(output), rows(expected));
        let difference = difference(&compared, &wanted);
        // Rows are named as they are in the batch.
        let all: Vec<usize> = (0..output.len() / width).filter(|row| !left_out.contains(row)).collect();
        let one_sided = difference.one_sided.map(|at| {
            let row = all.get(at / width).copied().unwrap_or(at / width);
            [row.to_string(), (at % width).to_string(), format!("{}", compared[at]), format!("{}", wanted[at])]
        });
        let rows_of_nan = rows_of_nan(output, expected, width);
        let left_out = left_out.len();
        Comparison { name, difference, bound: bound_of(manifest), tokens_apart, apart, rows_of_nan, left_out, one_sided }
    }

    fn is_close(&self) -> bool {
        self.difference.of_largest <= self.bound
    }

    /// Prints what there is to say.
    pub(super) fn print(&self, tokens: u64, out: &mut dyn Write) -> io::Result<()> {
        let sets = match self.tokens_apart {
            Some(0) => ", expert sets identical".to_string(),
            Some(apart) => format!(", expert sets differ in {apart} of {tokens} tokens"),
            None => String::new(),
        };
        let left_out = if self.left_out > 0 { format!(", {} of them not compared", self.left_out) } else { String::new() };
        let (of_largest, of_rms) = (part_text(self.difference.of_largest), part_text(self.difference.of_rms));
        let (name, bound) = (self.name, self.bound);
        writeln!(
            out,
            "{name:<11} max error {of_largest} of the largest output (at most {bound:.0e}), max/rms {of_rms}{sets}{left_out}"
        )?;
        if !self.rows_of_nan.is_empty() {
            writeln!(
                out,
                "  NaN on both sides, not compared: {}",
                listed(self.rows_of_nan.iter().map(|row| format!("row {row}")))
            )?;
        }
        let near: Vec<&Apart> = self.apart.iter().filter(|apart| apart.is_near_tie()).collect();
        near.iter().take(SHOWN).try_for_each(|apart| writeln!(out, "  near tie: {apart}"))?;
        if near.len() > SHOWN {
            writeln!(out, "  and {} more near ties", near.len() - SHOWN)?;
        }
        Ok(())
    }

    /// Why it is no other result's rounding, if it is none.
    pub(super) fn error(&self) -> Option<Diagnostic> {
        let name = self.name;
        if let Some(wrong) = self.apart.iter().find(|apart| !apart.is_near_tie()) {
            let diagnostic = Diagnostic::new(Code::TooFarOff, format!("against {name} {wrong}"));
            let others = self.apart.iter().filter(|apart| !apart.is_near_tie()).count() - 1;
            let diagnostic =
                diagnostic.help("the same tokens and weights with `--device host` tell a kernel's error from another file's");
            return Some(if others > 0 { diagnostic.note(format!("{others} more were decided otherwise")) } else { diagnostic });
        }
        if let Some([row, column, here, there]) = &self.one_sided {
            let message = format!("row {row} has {here} in column {column}, where {name} has {there}");
            let diagnostic = Diagnostic::new(Code::TooFarOff, message);
            return Some(diagnostic.help("a NaN or an infinity on one side alone is no rounding: look at that row of the input"));
        }
        if self.is_close() {
            return None;
        }
        let Difference { of_largest, of_rms: _, one_sided: _ } = self.difference;
        let message = format!("the error against {name} is {of_largest:.1e}, above {:.0e}", self.bound);
        let diagnostic = Diagnostic::new(Code::TooFarOff, message);
        Some(match self.tokens_apart {
            Some(0) | None => {
                diagnostic.help("the same tokens and weights with `--device host` tell a kernel's error from a rounding")
            }
            Some(tokens) => diagnostic
                .help("run the spec in the package's place: then it is known how near the scores were")
                .note(format!("{tokens} tokens chose other experts: a near tie rounds either way")),
        })
    }
}

/// Near ties and rows that are named.
const SHOWN: usize = 8;

/// The first of some names, and how many more there are.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let first: Vec<String> = names.take(SHOWN).collect();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

/// 1.7e-7, and 0 where nothing is off.
fn part_text(part: f64) -> String {
    if part == 0.0 { "0".to_string() } else { format!("{part:.1e}") }
}
