//! The plan for a terminal: of each target what its machine has, then a table a token count.

use super::report::{BatchPlan, Figures, LaunchPlan, LimitWord, MachineFacts, OpPlan, PackPlan, PackTime, Plan, TargetPlan};

/// Columns after that of the kernels: heads and widths.
const HEADS: [(&str, usize); 8] =
    [("grid", 7), ("block", 6), ("shared", 9), ("regs", 5), ("FLOPs", 9), ("bytes", 9), ("time us", 10), ("bound by", 0)];

/// The name of the row of the bound.
const BOUND: &str = "least by chance";

/// Everything as text.
#[must_use]
pub fn text(plan: &Plan) -> String {
    let targets: Vec<Vec<String>> = plan.targets.iter().map(|target| of_target(&plan.layer, target)).collect();
    // An empty line between targets.
    let lines = targets.join(&String::new());
    lines.iter().map(|line| line.trim_end().to_string() + "\n").collect()
}

fn of_target(layer: &str, plan: &TargetPlan) -> Vec<String> {
    let MachineFacts { processors, bandwidth_gbs, launch_us, .. } = plan.machine;
    let rates = rates(&plan.machine);
    let mut lines = vec![format!(
        "{layer} on {}: {processors} processors, {bandwidth_gbs} GB/s, {rates}, {launch_us} us a launch",
        plan.target
    )];
    for batch in &plan.batches {
        lines.push(String::new());
        lines.extend(of_batch(batch));
    }
    if !plan.packs.is_empty() {
        lines.push(String::new());
        lines.extend(of_packs(&plan.packs));
    }
    lines.push(String::new());
    lines.push(
        "Modelled, not measured. An op's launches are priced together; its figures stand at the first of them.".to_string(),
    );
    lines.push("grid: blocks launched, whatever the routing; those that get no rows end at once.".to_string());
    lines.push(
        "time: of each op the longer one of moving and computing, then steps that wait for each other, then launches."
            .to_string(),
    );
    lines.push(format!(
        "{BOUND}: max(bytes / bandwidth, FLOPs of a type / best rate for it), without launches, of inputs, outputs and"
    ));
    lines.push(
        "weights, each once, if picks fall by chance on N experts: E (1 - (1 - K / N)^T) of the E here are hit in the mean, by"
            .to_string(),
    );
    lines.push("T K E / N pairs. Where fewer are hit, a layer may take less.".to_string());
    if !plan.packs.is_empty() {
        lines.push(
            "pack: `host.pack`; * is what the spec asks for. own: bytes made of the weights and kept, in their place."
                .to_string(),
        );
        lines.push("In brackets the runs of such batches after which binding has paid for itself.".to_string());
    }
    lines
}

fn rates(machine: &MachineFacts) -> String {
    let rates: Vec<String> = machine.rates.iter().map(|rate| format!("{} {} TFLOP/s", rate.dtype, rate.tflops)).collect();
    rates.join(", ")
}

fn of_batch(batch: &BatchPlan) -> Vec<String> {
    let up_to = batch.tokens_up_to.map_or(String::new(), |most| format!(" (T <= {most})"));
    let rows = batch.rows.map_or(String::new(), |rows| format!(", {rows} rows"));
    let mut lines = vec![format!("T = {}: regime {}{up_to}{rows}", batch.tokens, batch.regime + 1)];
    let launches: usize = batch.ops.iter().map(|op| op.launches.len()).sum();
    let layer = format!("layer, {launches} {}", if launches == 1 { "launch" } else { "launches" });
    let rows: Vec<(String, String, [String; 8])> = batch.ops.iter().flat_map(of_op).collect();
    let longest =
        |of: fn(&(String, String, [String; 8])) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let name_width = longest(|row| &row.0).max(layer.len()).max(BOUND.len()) + 2;
    let way_width = longest(|row| &row.1).max("way".len());
    let line = |name: &str, way: &str, cells: &[String; 8]| {
        let cells = cells.iter().zip(HEADS).map(|(cell, (head, width))| match width {
            // The last column is words.
            0 => format!("  {cell:<0$}", head.len()),
            width => format!("{cell:>width$}"),
        });
        format!("{name:<name_width$}{way:<way_width$}") + &cells.collect::<String>()
    };
    lines.push(line("kernel", "way", &HEADS.map(|(head, _)| head.to_string())));
    lines.extend(rows.iter().map(|(name, way, cells)| line(name, way, cells)));
    let of_sums = |figures: [String; 4]| {
        let [flops, bytes, time, limit] = figures;
        let none = String::new;
        [none(), none(), none(), none(), flops, bytes, time, limit]
    };
    lines.push(line(&layer, "", &of_sums(of_figures(&batch.total))));
    let bound = &batch.bound;
    let flops: u64 = bound.flops.iter().map(|of| of.flops).fold(0, u64::saturating_add);
    let bytes = bound.weight_bytes.saturating_add(bound.input_bytes).saturating_add(bound.output_bytes);
    let share = 100.0 * bound.time_us / batch.total.time_us.max(f64::MIN_POSITIVE);
    let bound = [amount(flops, ""), amount(bytes, "B"), micros(bound.time_us), format!("{share:.1}% of the time")];
    lines.push(line(BOUND, "", &of_sums(bound)));
    lines
}

/// A line for each way in which weights can lie.
fn of_packs(packs: &[PackPlan]) -> Vec<String> {
    let times = |pack: &PackPlan| pack.batches.iter().map(of_pack_time).collect::<Vec<_>>();
    let counts: Vec<String> = packs[0].batches.iter().map(|batch| format!("T = {}, us", batch.tokens)).collect();
    let width = packs.iter().flat_map(times).chain(counts.clone()).map(|cell| cell.chars().count()).max().unwrap_or(0) + 2;
    let line = |name: &str, own: &str, bind: &str, times: &[String]| {
        format!("{name:<10}{own:>9}{bind:>12}") + &times.iter().map(|time| format!("{time:>width$}")).collect::<String>()
    };
    let of_pack = |pack: &PackPlan| {
        let name = format!("{}{}", pack.pack, if pack.asked { " *" } else { "" });
        let bind = if pack.moved_bytes > 0 { format!("{:.0}", pack.bind_us) } else { "-".to_string() };
        line(&name, &amount(pack.own_bytes, "B"), &bind, &times(pack))
    };
    [line("pack", "own", "bind, us", &counts)].into_iter().chain(packs.iter().map(of_pack)).collect()
}

fn of_pack_time(time: &PackTime) -> String {
    let runs = time.runs.map_or(String::new(), |runs| format!(" ({runs})"));
    format!("{}{runs}", micros(time.time_us))
}

/// A row a launch; of an op without launches, one by its own name.
fn of_op(op: &OpPlan) -> Vec<(String, String, [String; 8])> {
    let figures = of_figures(&op.figures);
    let way = op.way.clone().unwrap_or_default();
    let none = || ["-"; 4].map(str::to_string);
    let row = |at: usize, launch: &LaunchPlan| {
        let [flops, bytes, time, limit] = if at == 0 { figures.clone() } else { [const { String::new() }; 4] };
        let [grid, block, shared, registers] = of_launch(launch);
        let name = if at == 0 { launch.kernel.clone() } else { format!("  {}", launch.kernel) };
        let way = if at == 0 { way.clone() } else { String::new() };
        (name, way, [grid, block, shared, registers, flops, bytes, time, limit])
    };
    if op.launches.is_empty() {
        let ([grid, block, shared, registers], [flops, bytes, time, limit]) = (none(), figures);
        return vec![(op.op.clone(), way, [grid, block, shared, registers, flops, bytes, time, limit])];
    }
    op.launches.iter().enumerate().map(|(at, launch)| row(at, launch)).collect()
}

fn of_launch(launch: &LaunchPlan) -> [String; 4] {
    let registers = match (launch.registers, launch.spill_bytes) {
        (Some(registers), Some(1..)) => format!("{registers}!"),
        (Some(registers), _) => registers.to_string(),
        (None, _) => "-".to_string(),
    };
    [launch.grid.to_string(), launch.block.to_string(), amount(launch.shared_bytes, "B"), registers]
}

fn of_figures(figures: &Figures) -> [String; 4] {
    let time = micros(figures.time_us);
    [amount(figures.flops, ""), amount(figures.bytes, "B"), time, word(figures.limit).to_string()]
}

/// Microseconds, with a fraction where it matters.
fn micros(time: f64) -> String {
    if time < 10_000.0 { format!("{time:.2}") } else { format!("{time:.0}") }
}

pub(super) fn word(limit: LimitWord) -> &'static str {
    match limit {
        LimitWord::Bandwidth => "bandwidth",
        LimitWord::Latency => "latency",
        LimitWord::Cache => "cache",
        LimitWord::Arithmetic => "arithmetic",
        LimitWord::Processor => "few processors",
        LimitWord::Serial => "serial steps",
        LimitWord::Launch => "launch",
    }
}

/// 12, 12.3 k, 12.3 M, 12.3 G, 12.3 T, with a unit behind it.
pub(super) fn amount(amount: u64, unit: &str) -> String {
    let scales = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    match scales.into_iter().find(|(_, scale)| amount as f64 >= *scale) {
        Some((name, scale)) => format!("{:.1} {name}{unit}", amount as f64 / scale),
        None => format!("{amount} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let of = [0, 999, 1_000, 12_345_678, 1_520_000_000, 3_300_000_000_000].map(|n| amount(n, "B"));
        assert_eq!(of, ["0 B", "999 B", "1.0 kB", "12.3 MB", "1.5 GB", "3.3 TB"]);
        assert_eq!((amount(999, ""), amount(12_345, "")), ("999 ".to_string(), "12.3 k".to_string()));
    }
}
