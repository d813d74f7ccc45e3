//! The results as lines, as a table, and as JSON.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::driver::Gpu;
use crate::job::{Row, Sizes, Status, Step};
use crate::run::BY;

/// Everything that was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) gpu: Gpu,
    /// How long it took.
    pub(crate) seconds: f64,
    pub(crate) rows: Vec<Row>,
}

/// The middle one; of an even number the lower of the two.
pub(crate) fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len().saturating_sub(1) / 2).copied()
}

/// What the results are of.
pub(crate) fn heading(gpu: &Gpu, date: &str) -> String {
    format!(
        "{}, compute capability {}.{}, {} processors, {:.0} GB, driver of CUDA {}.{}{}{}{}{date}",
        gpu.name,
        gpu.capability / 10,
        gpu.capability % 10,
        gpu.processors,
        gpu.memory_bytes as f64 / 1e9,
        gpu.cuda / 1000,
        gpu.cuda % 1000 / 10,
        if gpu.driver.is_empty() { "" } else { ", " },
        gpu.driver,
        if date.is_empty() { "" } else { ", " },
    )
}

/// A row, as it is printed when it is there.
pub(crate) fn line(row: &Row) -> String {
    let mut line = format!("{:<8} {:<9} {}", row.status.name(), row.step.name(), row.name);
    // Writing to a string cannot fail.
    if row.tokens > 0 {
        let _ = write!(line, ", T = {}", row.tokens);
    }
    if !row.by.is_empty() {
        let _ = write!(line, ", {}", row.by);
    }
    for (time, what) in [(row.us, "us"), (row.graph_us, "us by a graph")] {
        if let Some(time) = time {
            let _ = write!(line, ", {time:.1} {what}");
        }
    }
    if row.detail.is_empty() { line } else { line + ": " + &row.detail }
}

/// The least of the two times of a row.
fn best(row: &Row) -> Option<f64> {
    row.us.into_iter().chain(row.graph_us).min_by(f64::total_cmp)
}

/// What was checked, what is wrong, and the times.
pub(crate) fn table(results: &Results, layers: &[(String, Sizes)]) -> String {
    let mut text = heading(&results.gpu, &results.date) + "\n\n";
    text += &format!("{:<10} {:>7} {:>7} {:>7}\n", "step", "ok", "failed", "skipped");
    for step in [Step::Case, Step::Matrix, Step::Sanitize, Step::Sample, Step::Repeat, Step::Graph, Step::Time] {
        let count = |status| results.rows.iter().filter(|row| row.step == step && row.status == status).count();
        let (ok, failed, skipped) = (count(Status::Ok), count(Status::Failed), count(Status::Skipped));
        text += &format!("{:<10} {ok:>7} {failed:>7} {skipped:>7}\n", step.name());
    }
    text += &format!(
        "\nMicroseconds, medians; `graph`: replays of a CUDA graph.\n{:<20} {:>6} {:>10} {:>10}",
        "layer", "T", "moec", "graph"
    );
    for by in &BY[1..] {
        text += &format!(" {by:>10}");
    }
    text += &format!(" {:>8} {:>7}\n", "TFLOP/s", "TB/s");
    let times = |name: &str, tokens: u64, by: &str| {
        results.rows.iter().find(|row| row.step == Step::Time && row.name == name && row.tokens == tokens && row.by == by)
    };
    let mine = results.rows.iter().filter(|row| row.step == Step::Time && row.by == BY[0]);
    for row in mine {
        let cell = |time: Option<f64>, status: Status| match (time, status) {
            (Some(time), Status::Ok | Status::Skipped) => format!("{time:.1}"),
            (_, Status::Failed) => "failed".to_string(),
            (None, Status::Ok | Status::Skipped) => "-".to_string(),
        };
        text += &format!(
            "{:<20} {:>6} {:>10} {:>10}",
            row.name,
            row.tokens,
            cell(row.us, row.status),
            cell(row.graph_us, row.status)
        );
        for by in &BY[1..] {
            let of_peer = times(&row.name, row.tokens, by).map_or("-".to_string(), |peer| cell(best(peer), peer.status));
            text += &format!(" {of_peer:>10}");
        }
        let rates = best(row).filter(|us| *us > 0.0).zip(layers.iter().find(|(name, _)| *name == row.name));
        let (tflops, tbytes) = rates.map_or(("-".to_string(), "-".to_string()), |(us, (_, sizes))| {
            let bytes = sizes.expert_bytes as f64 * sizes.hit(row.tokens) + sizes.other_bytes as f64;
            (format!("{:.1}", (sizes.token_flops * row.tokens) as f64 / us / 1e6), format!("{:.2}", bytes / us / 1e6))
        });
        text += &format!(" {tflops:>8} {tbytes:>7}\n");
    }
    for (status, title) in [(Status::Failed, "Failed"), (Status::Skipped, "Skipped")] {
        let of_status: Vec<&Row> = results.rows.iter().filter(|row| row.status == status).collect();
        if !of_status.is_empty() {
            text += &format!("\n{title}:\n");
            of_status.iter().for_each(|row| text += &format!("  {}\n", line(row)));
        }
    }
    text + &format!("\n{:.0} s\n", results.seconds)
}

impl Sizes {
    /// The part of the experts that a batch hits, if tokens pick by chance.
    fn hit(&self, tokens: u64) -> f64 {
        1.0 - (1.0 - self.top_k as f64 / self.experts.max(1) as f64).powf(tokens as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_what_there_is() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.0));
    }
}
