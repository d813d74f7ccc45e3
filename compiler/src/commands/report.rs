//! What `moec run` prints: a few lines on time, routing and errors. Nothing is computed here that is not shown.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use moec::reference::{NOT_CHOSEN, experts_of_tokens};
use moec_runtime::package::{Dims, Entry, Manifest, Role};
use moec_runtime::statistics::{AuxLoss, Statistics};
use moec_runtime::{Health, Run};
use serde_json::{Value, json};

use super::compare::Comparison;
use super::limit::{print_limit, work};
use super::run::{dim, integers};

/// One run.
pub(super) struct Measured<'r> {
    pub(super) manifest: &'r Manifest,
    pub(super) target: &'r str,
    pub(super) device: String,
    /// Of the host device.
    pub(super) threads: Option<usize>,
    pub(super) dims: Dims,
    /// Ascending; none where they would say nothing.
    pub(super) times: &'r [Duration],
    pub(super) run: &'r Run,
}

/// Prints the report.
pub(super) fn print(measured: &Measured<'_>, comparisons: &[Comparison], out: &mut dyn Write) -> io::Result<()> {
    let Measured { manifest, target, device, dims, .. } = measured;
    let rows = if dims.tokens == dims.sequence_tokens { String::new() } else { format!(" in rows of {}", dims.sequence_tokens) };
    writeln!(out, "layer       {}, {}, {} on {device}", manifest.layer, manifest.dtype.name(), target)?;
    let others = dims.tokens - real_tokens(measured);
    let others = if others > 0 { format!(", {others} of them {}", uncounted(manifest)) } else { String::new() };
    writeln!(out, "tokens      {}{rows}{others}", dims.tokens)?;
    print_time(measured, out)?;
    if dims.tokens > 0 {
        print_routing(measured, out)?;
    }
    comparisons.iter().try_for_each(|comparison| comparison.print(dims.tokens, out))
}

/// What the tokens are that routing does not count.
fn uncounted(manifest: &Manifest) -> &'static str {
    let input = |name: &str| manifest.buffers.iter().find(|buffer| buffer.role == Role::Input && buffer.name == name);
    // Ids without a bound have no picks where there is no such id, and are not refused.
    let drops = input("token_ids").is_some_and(|ids| ids.below.is_none());
    match (input("token_mask").is_some(), drops) {
        (true, true) => "padding or outside the vocabulary",
        (false, true) => "outside the vocabulary",
        (_, false) => "padding",
    }
}

/// Tokens that routing counts; all, where the layer does not say.
pub(super) fn real_tokens(measured: &Measured<'_>) -> u64 {
    let counted = integers(measured.run.tensor("stats.tokens"));
    counted.first().map_or(measured.dims.tokens, |n| (*n as u64).min(measured.dims.tokens))
}

fn print_time(measured: &Measured<'_>, out: &mut dyn Write) -> io::Result<()> {
    let Measured { dims, times, .. } = measured;
    if dims.tokens == 0 {
        return writeln!(out, "time        nothing was launched");
    }
    let Some(seconds) = times.get(times.len() / 2).map(Duration::as_secs_f64) else { return Ok(()) };
    let rate = |amount: f64| amount / seconds.max(1e-9);
    let work = work(measured);
    let bytes = work.bytes.map_or(String::new(), |bytes| format!(", {:.2} GB/s of weights", rate(bytes) / 1e9));
    let flops = work.flops.map_or(String::new(), |flops| format!(", {:.1} GFLOP/s", rate(flops) / 1e9));
    writeln!(
        out,
        "time        {} a batch (median of {}), {:.0} tokens/s{bytes}{flops}",
        time_text(seconds),
        times.len(),
        rate(dims.tokens as f64),
    )?;
    print_limit(measured, seconds, &work, out)
}

/// Pairs of each expert that has weights, and those of all the others.
pub(super) fn loads(measured: &Measured<'_>) -> (Vec<usize>, usize) {
    let experts = dim(measured.manifest, "experts") as usize;
    let mut loads = match measured.run.tensor("stats.load") {
        None => counted(&experts_of_tokens(measured.run), experts),
        loads => integers(loads),
    };
    let others = loads.split_off(loads.len().min(experts));
    (loads, others.into_iter().sum())
}

/// How often each of so many experts is picked; none of these where nothing is.
fn counted(picks: &[usize], experts: usize) -> Vec<usize> {
    let mut counts = vec![0; if picks.is_empty() { 0 } else { experts }];
    picks.iter().for_each(|pick| counts.get_mut(*pick).into_iter().for_each(|count| *count += 1));
    counts
}

fn print_routing(measured: &Measured<'_>, out: &mut dyn Write) -> io::Result<()> {
    // What a run observes is there unless its batch was cut.
    let is_observed = measured.manifest.buffers.iter().any(|buffer| buffer.observe.is_some());
    if is_observed && measured.run.observed.is_empty() && measured.dims.tokens > 0 {
        return writeln!(out, "routing     not known: the workspace is bounded, and this batch was run in parts");
    }
    let (loads, identity) = loads(measured);
    let has = |name: &str| measured.run.tensor(name).is_some();
    match measured.manifest.entry {
        Entry::Layer if !has("stats.load") => return print_mixing(measured, out),
        Entry::Layer | Entry::Router if has("route.experts") => print_dropped(measured, &loads, identity, out)?,
        Entry::Layer => print_chosen(measured, out)?,
        Entry::Experts => print_here(measured, &loads, out)?,
        Entry::Router => {}
    }
    let hit = loads.iter().filter(|load| **load > 0).count();
    let (least, most) = (loads.iter().min().copied().unwrap_or(0), loads.iter().max().copied().unwrap_or(0));
    let mean = loads.iter().sum::<usize>() as f64 / loads.len().max(1) as f64;
    writeln!(out, "experts     {hit} of {} hit; pairs an expert: {least} to {most}, mean {mean:.1}", loads.len())?;
    let lines = if !io::stdout().is_terminal() { load_numbers(&loads) } else { load_chart(&loads) };
    lines.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

/// What `--stats` adds; nothing where the layer picks no experts.
pub(super) fn print_statistics(run: &Run, statistics: Option<&Statistics>, out: &mut dyn Write) -> io::Result<()> {
    let Some(s) = statistics else {
        let why = match run.tensor("topk_ids") {
            None if run.observed.is_empty() => "nothing is observed of a batch in parts, or of a layer that picks no experts",
            Some(_) => "without a capacity a router alone counts nothing, unless [training] asks for sums",
            None => "no expert is picked",
        };
        return writeln!(out, "statistics  none: {why}");
    };
    let health = |health: &Health| {
        let Health { mean, variance, hot, cold, .. } = health;
        format!("mean {mean:.1}, variance {variance:.2}, {} hot, {} cold", hot.len(), cold.len())
    };
    match (s.dropped_tokens, &s.first) {
        (Some(lost), Some(_)) => writeln!(out, "lost        {lost} of {} tokens lost every pair", s.tokens)?,
        // Tokens picked no experts.
        (Some(alone), None) => writeln!(out, "unchosen    {alone} of {} tokens", s.tokens)?,
        (None, _) => {}
    }
    let rows = s.padded_rows + s.kept.iter().sum::<u64>();
    write!(out, "padding     {} of {rows} rows of the tiles, {:.1}%", s.padded_rows, 100.0 * s.wasted_share())?;
    match s.rows_below_capacity {
        Some(rows) => writeln!(out, "; {rows} below capacity")?,
        None => writeln!(out)?,
    }
    writeln!(out, "load        {}", health(&s.health))?;
    if let Some(p) = &s.probability {
        let share = 100.0 * p.entropy_share;
        writeln!(out, "probability {}, entropy {:.3} nats, {share:.1}% of even", health(&p.health), p.entropy)?;
        let loss = |loss: AuxLoss| s.aux_loss(loss).map(|value| format!("{} {value:.4}", loss.name()));
        // The others are one of these under another name.
        let losses = [AuxLoss::Switch, AuxLoss::Gshard, AuxLoss::Megatron, AuxLoss::DeepseekSequence, AuxLoss::Importance];
        let losses: Vec<String> = losses.into_iter().filter_map(loss).collect();
        writeln!(out, "losses      {}, z {:.4}", losses.join(", "), p.z_loss)?;
    }
    for name in ASKED_LOSSES {
        if let Some(value) = asked_loss(run, name) {
            writeln!(out, "{name:<11} {value:.4e}, times its coefficient")?;
        }
    }
    Ok(())
}

/// The losses of `[training]`, by the names under which a layer has them: over whichever tokens `aux_group` says.
const ASKED_LOSSES: [&str; 2] = ["stats.aux_loss", "stats.z_loss"];

/// One of them, times its coefficient, where the layer is asked for it.
fn asked_loss(run: &Run, name: &str) -> Option<f64> {
    run.tensor(name).and_then(|tensor| tensor.to_f64().first().copied())
}

/// All of the statistics; null where the layer picks nothing.
pub(super) fn statistics_json(run: &Run, statistics: Option<&Statistics>) -> Value {
    let Some(s) = statistics else { return Value::Null };
    let mut object = json!(s);
    let losses = AuxLoss::ALL.into_iter().filter_map(|loss| Some((loss.name().to_string(), json!(s.aux_loss(loss)?))));
    object["aux_losses"] = Value::Object(losses.collect());
    object["dropped_share"] = json!(s.dropped_share());
    object["wasted_share"] = json!(s.wasted_share());
    for name in ASKED_LOSSES {
        object[name] = json!(asked_loss(run, name));
    }
    object
}

/// What tokens picked and did not get, and what they picked of experts that are the identity.
fn print_dropped(measured: &Measured<'_>, loads: &[usize], identity: usize, out: &mut dyn Write) -> io::Result<()> {
    let pairs = real_tokens(measured) * dim(measured.manifest, "top_k");
    let kept: usize = integers(measured.run.tensor("stats.kept")).iter().sum();
    let dropped = loads.iter().sum::<usize>().saturating_sub(kept);
    let share = |of: usize| format!("{of} of {pairs} (token, expert) pairs, {:.1}%", 100.0 * of as f64 / pairs.max(1) as f64);
    writeln!(out, "dropped     {}", share(dropped))?;
    if dim(measured.manifest, "identity_experts") > 0 {
        writeln!(out, "identity    {}", share(identity))?;
    }
    Ok(())
}

/// What was given of experts that are here.
fn print_here(measured: &Measured<'_>, loads: &[usize], out: &mut dyn Write) -> io::Result<()> {
    let (here, pairs) = (loads.iter().sum::<usize>(), measured.dims.tokens * dim(measured.manifest, "top_k"));
    writeln!(out, "given       {here} of {pairs} picks are of experts that are here")
}

/// What tokens got of experts that choose.
fn print_chosen(measured: &Measured<'_>, out: &mut dyn Write) -> io::Result<()> {
    let experts = experts_of_tokens(measured.run);
    let of_token = experts.chunks(dim(measured.manifest, "experts").max(1) as usize);
    let counts: Vec<usize> = of_token.map(|experts| experts.iter().filter(|e| **e != NOT_CHOSEN).count()).collect();
    let padding = (measured.dims.tokens - real_tokens(measured)) as usize;
    let (pairs, tokens) = (counts.iter().sum::<usize>(), counts.len().saturating_sub(padding));
    let (most, mean) = (counts.iter().max().copied().unwrap_or(0), pairs as f64 / tokens.max(1) as f64);
    let alone = counts.iter().filter(|count| **count == 0).count().saturating_sub(padding);
    writeln!(
        out,
        "chosen      {pairs} (token, expert) pairs; {alone} of {tokens} tokens by no expert, at most by {most}, mean {mean:.1}"
    )
}

/// How many tokens a slot mixes, and how many slots a token: `exp` of the mean entropy of the weights.
fn print_mixing(measured: &Measured<'_>, out: &mut dyn Write) -> io::Result<()> {
    let Measured { manifest, dims, run, .. } = measured;
    let (experts, slots) = (dim(manifest, "experts"), dim(manifest, "slots"));
    let all = experts * slots;
    let weights = |name: &str| run.tensor(name).map(|tensor| tensor.to_f64()).unwrap_or_default();
    let in_slots: Vec<Vec<f64>> = weights("soft.dispatch")
        .chunks((dims.sequence_tokens * all).max(1) as usize)
        .flat_map(|sequence| (0..all as usize).map(|slot| sequence.iter().copied().skip(slot).step_by(all as usize).collect()))
        .collect();
    let of_slots = effective(in_slots.iter().map(Vec::as_slice));
    let combine = weights("soft.combine");
    let of_tokens = effective(combine.chunks(all.max(1) as usize));
    let tokens = dims.sequence_tokens;
    writeln!(
        out,
        "slots       {all} a sequence, {slots} an expert; a slot mixes {of_slots:.1} of {tokens} tokens, a token {of_tokens:.1} of {all} slots"
    )
}

/// `exp` of the mean entropy of distributions: how many equal parts they are like.
fn effective<'w>(distributions: impl Iterator<Item = &'w [f64]>) -> f64 {
    let entropy = |weights: &[f64]| weights.iter().filter(|w| **w > 0.0).map(|w| -w * w.ln()).sum::<f64>();
    // Of padding all weights are 0.
    let distributions = distributions.filter(|weights| weights.iter().any(|weight| *weight > 0.0));
    let (count, sum) = distributions.fold((0, 0.0), |(count, sum), weights| (count + 1, sum + entropy(weights)));
    (sum / f64::from(count.max(1))).exp()
}

/// Sixteen experts a line.
fn load_numbers(loads: &[usize]) -> Vec<String> {
    const PER_LINE: usize = 16;
    let width = loads.iter().max().map_or(1, |most| most.to_string().len());
    let line = |(at, loads): (usize, &[usize])| {
        let numbers: Vec<String> = loads.iter().map(|load| format!("{load:>width$}")).collect();
        format!("{:>4}: {}", at * PER_LINE, numbers.join(" "))
    };
    loads.chunks(PER_LINE).enumerate().map(line).collect()
}

/// A bar an expert; of many experts one character each, sixty-four a line.
fn load_chart(loads: &[usize]) -> Vec<String> {
    const MOST_BARS: usize = 16;
    const BAR: usize = 40;
    const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const PER_LINE: usize = 64;
    let most = loads.iter().max().copied().unwrap_or(0).max(1);
    if loads.len() <= MOST_BARS {
        let bar = |(expert, load): (usize, &usize)| format!("{expert:>4} {load:>6} {}", "█".repeat((load * BAR).div_ceil(most)));
        return loads.iter().enumerate().map(bar).collect();
    }
    let level = |load: &usize| LEVELS[(load * (LEVELS.len() - 1)).div_ceil(most)];
    let line = |(at, loads): (usize, &[usize])| format!("{:>4} {}", at * PER_LINE, loads.iter().map(level).collect::<String>());
    loads.chunks(PER_LINE).enumerate().map(line).collect()
}

/// 41.2 us, 3.10 ms, 1.20 s.
pub(super) fn time_text(seconds: f64) -> String {
    let units = [("s", 1.0), ("ms", 1e-3), ("us", 1e-6)];
    let (name, unit) = units.into_iter().find(|(_, unit)| seconds >= *unit).unwrap_or(("us", 1e-6));
    format!("{:.2} {name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_count_whole() {
        let of = |distributions: &[&[f64]]| effective(distributions.iter().copied());
        assert!((of(&[&[0.25; 4], &[0.0, 0.25, 0.25, 0.25, 0.25]]) - 4.0).abs() < 1e-12);
        assert_eq!(of(&[&[0.0, 1.0]]), 1.0);
        // The geometric mean of 1 and 4.
        assert!((of(&[&[1.0], &[0.25; 4]]) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn charts() {
        assert_eq!(
            load_chart(&[0, 1, 2]),
            ["   0      0 ", "   1      1 ████████████████████", &format!("   2      2 {}", "█".repeat(40))]
        );
        let many: Vec<usize> = (0..65).map(|i| i % 9).collect();
        let chart = load_chart(&many);
        assert_eq!(chart.len(), 2);
        assert!(chart[0].contains(" ▁▂▃▄▅▆▇█"));
        assert_eq!(load_numbers(&[1, 10, 3]), ["   0:  1 10  3"]);
        assert_eq!(load_chart(&[0, 0]).len(), 2);
    }
}
