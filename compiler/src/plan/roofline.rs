//! The plan of one target as a picture: FLOPs a byte against FLOP/s, both in powers of ten, under what memory and units allow. An op and
//! token count is a dot.

use super::report::TargetPlan;
use super::text::{amount, word};
use crate::plot::{Axis, Plot};

/// Classes of the dots of the first token counts; those of others have the last.
const BATCHES: usize = 6;

const STYLE: &str = "
svg { --page: #ffffff; --text: #1c2127; --muted: #57606a; --rule: #d3d9df;
  --c0: #0072b2; --c1: #c4550a; --c2: #00795a; --c3: #a0447e; --c4: #8a6100; --c5: #57606a; }
@media (prefers-color-scheme: dark) { svg { --page: #101418; --text: #e4e8ec; --muted: #9ba6b1; --rule: #343c45;
  --c0: #56b4e9; --c1: #e69f00; --c2: #2fc79c; --c3: #dd8fbd; --c4: #e6b94a; --c5: #9ba6b1; } }
.page { fill: var(--page) }
text { fill: var(--text); font: 14px system-ui, \"Segoe UI\", \"DejaVu Sans\", sans-serif }
.tick, .name { fill: var(--muted) }
.label { font-size: 11px; paint-order: stroke; stroke: var(--page); stroke-width: 3px; stroke-linejoin: round }
.grid { stroke: var(--rule) } .axis { fill: none; stroke: var(--muted) }
.line { fill: none; stroke: var(--muted); stroke-width: 1.5 } .vector { stroke-dasharray: 5 3 }
.batch-0 { fill: var(--c0) } .batch-1 { fill: var(--c1) } .batch-2 { fill: var(--c2) }
.batch-3 { fill: var(--c3) } .batch-4 { fill: var(--c4) } .batch-5 { fill: var(--c5) }
";

/// A dot of the picture.
struct Dot<'a> {
    op: &'a str,
    tokens: u64,
    class: String,
    /// FLOPs a byte and FLOP/s, as powers of ten.
    at: (f64, f64),
    title: String,
}

/// The roofline of one target as an SVG file. Ops without FLOPs, bytes or time are not in it.
#[must_use]
pub fn roofline(layer: &str, plan: &TargetPlan) -> String {
    let dots = dots(plan);
    let bandwidth = plan.machine.bandwidth_gbs * 1e9;
    let rates = rates(plan);
    let best = rates.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let slowest = rates.iter().map(|(_, rate)| *rate).fold(best, f64::min);
    // Whole powers of ten about all dots and about where the roofs bend.
    let xs = || dots.iter().map(|dot| dot.at.0).chain([best, slowest].map(|rate| (rate / bandwidth).log10()));
    let ys = || dots.iter().map(|dot| dot.at.1).chain([best, slowest].map(f64::log10));
    let low = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min).floor();
    let high = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max).floor() + 1.0;
    let (left, right, bottom, top) = (low(&mut xs()), high(&mut xs()), low(&mut ys()), high(&mut ys()));
    let x = Axis { from: left, to: right, name: "FLOPs a byte", write: &power };
    let mut plot = Plot::new(x, Axis { from: bottom, to: top, name: "FLOP/s", write: &power });
    let roof = |rate: f64| {
        let bend = (rate / bandwidth).log10();
        // A line that begins where the plot does.
        let from = (bottom - bandwidth.log10()).max(left);
        [(from, from + bandwidth.log10()), (bend, rate.log10()), (right, rate.log10())]
    };
    for (dtype, rate) in &rates {
        plot.line(if *rate < best { "vector" } else { "best" }, &roof(*rate));
        plot.name_dot(((rate / bandwidth).log10(), rate.log10()), dtype);
    }
    for dot in &dots {
        plot.dot(&dot.class, dot.at, &dot.title);
    }
    // The last token count is where most time goes.
    for dot in dots.iter().rev() {
        plot.name_dot(dot.at, &format!("{} T={}", dot.op, dot.tokens));
    }
    let title = format!("{layer} on {}", plan.target);
    let description = "Modelled FLOP/s of each op by its FLOPs a byte, below what bandwidth and arithmetic allow";
    plot.file("roofline", &title, description, STYLE)
}

/// Rates and the types that have them, each once.
fn rates(plan: &TargetPlan) -> Vec<(String, f64)> {
    let mut rates: Vec<(String, f64)> = Vec::new();
    for of in &plan.machine.rates {
        let rate = of.tflops * 1e12;
        match rates.iter_mut().find(|(_, known)| *known == rate) {
            Some((dtypes, _)) => *dtypes += &format!(", {}", of.dtype),
            None => rates.push((of.dtype.clone(), rate)),
        }
    }
    rates
}

fn dots(plan: &TargetPlan) -> Vec<Dot<'_>> {
    let of_batch = plan.batches.iter().enumerate().flat_map(|(at, batch)| batch.ops.iter().map(move |op| (at, batch.tokens, op)));
    of_batch
        .filter(|(_, _, op)| op.figures.flops > 0 && op.figures.bytes > 0 && op.figures.time_us > 0.0)
        .map(|(at, tokens, op)| {
            let (flops, bytes) = (op.figures.flops as f64, op.figures.bytes as f64);
            let rate = flops / (op.figures.time_us * 1e-6);
            let kernel = op.launches.first().map_or(op.op.as_str(), |launch| launch.kernel.as_str());
            let title = format!(
                "{kernel}, T = {tokens}: {}FLOP/s, {:.2} FLOPs a byte, {:.2} us, {}",
                amount(rate as u64, ""),
                flops / bytes,
                op.figures.time_us,
                word(op.figures.limit)
            );
            let op = op.op.split(' ').next().unwrap_or_default();
            let class = format!("batch-{}", at.min(BATCHES - 1));
            Dot { op, tokens, class, at: ((flops / bytes).log10(), rate.log10()), title }
        })
        .collect()
}

/// A power of ten where it is whole.
fn power(exponent: f64) -> String {
    let whole = exponent.round();
    if (exponent - whole).abs() > 1e-6 {
        return String::new();
    }
    match whole as i32 {
        0 => "1".to_string(),
        1 => "10".to_string(),
        2 => "100".to_string(),
        exponent => format!("1e{exponent}"),
    }
}
