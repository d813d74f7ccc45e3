//! The report for a terminal: 80 columns, most important first.

use super::report::{Mode, Point, Report, Spread};

/// The whole report as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut lines = facts(report);
    lines.push(String::new());
    lines.extend(sweep(report));
    lines.push(String::new());
    lines.extend(modes(report));
    lines.push(String::new());
    lines.extend(loads(&report.load));
    lines.iter().map(|line| line.trim_end().to_string() + "\n").collect()
}

fn facts(report: &Report) -> Vec<String> {
    let Report { router, trace, drop, recommendation, load, probability, .. } = report;
    let mut lines = Vec::new();
    let mut say = |name: &str, text: String| lines.push(format!("{name:<12}{text}"));
    say("layer", format!("{}, {} experts, {}, {}", report.layer, router.experts, who(report), router.score));
    say("capacity", router.formula.clone());
    say("", format!("group {}, priority {}", router.group, router.priority));
    let count = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let (tensors, batches) = (count(trace.tensors as u64, "tensor", "tensors"), count(trace.batches, "batch", "batches"));
    let tokens = count(trace.tokens, "token", "tokens");
    say("trace", format!("{tokens} of {} in {tensors}, {batches}", trace.source));
    let identity = (trace.tokens * router.top_k).saturating_sub(trace.pairs);
    if identity > 0 {
        let share = identity as f64 / (trace.tokens * router.top_k) as f64;
        say("", format!("{} of the picks are of identity experts, which need no room", percent(share)));
    }
    if trace.skipped_tensors > 0 {
        let skipped = count(trace.skipped_tensors as u64, "tensor", "tensors");
        say("", format!("{skipped} of another shape or type left out"));
    }
    cut(report).into_iter().for_each(|line| say("", line));
    let experts_choose = router.mode == "expert_choice";
    let what = match experts_choose {
        true => format!("{} tokens unchosen", trace.tokens),
        false => format!("{} pairs", trace.pairs),
    };
    let rate = format!("{} of {what}", percent(drop.rate));
    match drop.capacity {
        None if router.is_dropless => say("drop", "nothing: the layer is dropless".to_string()),
        None => say("drop", "nothing: there are no tokens".to_string()),
        Some(capacity) => {
            say("drop", format!("{rate} at C = {}: {}", capacity_text(capacity), drop.band.title()));
            if !experts_choose {
                say("", format!("{} of the tokens lose every pick", percent(drop.token_rate)));
            }
            say("advice", drop.advice.to_string());
        }
    }
    if experts_choose {
        say("beside it", format!("tokens that choose {}, of whom the figures below are", router.top_k));
    }
    let capacity = recommendation.capacity.map_or("0".to_string(), capacity_text);
    say(
        "recommend",
        format!(
            "factor {} (C = {capacity}) drops {}, at most {} asked for",
            factor_text(recommendation.factor),
            percent(recommendation.rate),
            percent(recommendation.target),
        ),
    );
    say("", format!("{} of its buffers are empty", percent(recommendation.waste)));
    say("balance", balance(load));
    say("probability", balance(probability));
    for (name, list, bound) in [
        ("hot", &load.hot, format!("above {} x mean", factor_text(load.hot_above))),
        ("cold", &load.cold, "below 0.1 x mean".to_string()),
    ] {
        let number = list.len();
        let of = if number == 0 { "no expert".to_string() } else { count(number as u64, "expert", "experts") };
        say(name, format!("{of} {bound}{}", indices(list)));
    }
    lines
}

/// That spans were cut, where they were.
pub(super) fn cut(report: &Report) -> Option<String> {
    let trace = &report.trace;
    let spans = if trace.cut_spans == 1 { "span is" } else { "spans are" };
    let of_choice = format!("experts choose from {} tokens at once: {} {spans} cut", trace.most_choice_tokens, trace.cut_spans);
    (trace.cut_spans > 0).then_some(of_choice)
}

/// Who chooses whom.
pub(super) fn who(report: &Report) -> String {
    match report.router.mode {
        "expert_choice" => "experts choose".to_string(),
        _ => format!("{} a token", report.router.top_k),
    }
}

fn balance<T>(spread: &Spread<T>) -> String {
    let largest = if spread.mean > 0.0 { spread.largest / spread.mean } else { 0.0 };
    format!(
        "mean {:.1}, largest {largest:.2} x, spread {:.2}, entropy {} of even",
        spread.mean,
        spread.spread,
        percent(spread.entropy_share)
    )
}

/// The first of them; a list of hundreds is in the JSON.
fn indices(list: &[usize]) -> String {
    const SHOWN: usize = 8;
    if list.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = list.iter().take(SHOWN).map(usize::to_string).collect();
    format!(": {}{}", shown.join(" "), if list.len() > SHOWN { " ..." } else { "" })
}

fn sweep(report: &Report) -> Vec<String> {
    // In means: what is asked for is nearly always among these.
    const SHOWN: [f64; 8] = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0];
    let even = report.router.even_factor as f64;
    let is_shown = |point: &&Point| {
        point.is_spec || point.is_recommended || SHOWN.iter().any(|shown| (shown * even - point.factor).abs() < 1e-9)
    };
    let mut lines = vec![format!("{:>8} {:>9}  {:>7} {:>7} {:>7}", "factor", "C", "drop", "tokens", "waste")];
    for point in report.sweep.iter().filter(is_shown) {
        let mark = match (point.is_spec, point.is_recommended) {
            (true, true) => "spec, recommended",
            (true, false) => "spec",
            (false, true) => "recommended",
            (false, false) => "",
        };
        lines.push(format!(
            "{:>8} {:>9}  {:>7} {:>7} {:>7}  {:<16} {mark}",
            factor_text(point.factor),
            point.capacity.map_or(String::new(), capacity_text),
            percent(point.drop_rate),
            percent(point.token_drop_rate),
            percent(point.waste),
            bar(point.drop_rate, 16),
        ));
    }
    lines
}

fn modes(report: &Report) -> Vec<String> {
    let heads = ["drop", "tokens", "waste", "busiest", "rows", "padded"].map(|head| format!("{head:>8}")).concat();
    let mut lines = vec![format!("{:<24}{heads}", "mode")];
    for mode in &report.modes {
        let spec = if mode.is_spec { " *" } else { "" };
        lines.push(format!(
            "{:<24}{:>8}{:>8}{:>8}{:>7.2}x{:>7.2}x{:>7.2}x",
            mode_name(mode) + spec,
            mode.drop_rate.map_or("-".to_string(), percent),
            percent(mode.token_drop_rate),
            percent(mode.waste),
            mode.busiest,
            mode.cost,
            mode.padded_cost,
        ));
    }
    lines.push("* the spec; tokens: no expert computes them; busiest: rows over the mean;".to_string());
    lines.push("rows, padded: computed, and with padding, over those of dropless routing".to_string());
    if let Some(mixing) = report.modes.iter().find_map(|mode| mode.mixing) {
        lines.push(format!("soft: mixing into slots and back costs {mixing:.2} x the experts' multiply-adds"));
    }
    lines
}

/// What a mode is called wherever it is shown.
pub(super) fn mode_name(mode: &Mode) -> String {
    match (mode.kind, mode.factor) {
        ("capacity", Some(factor)) => format!("token choice, {}", factor_text(factor)),
        ("capacity", None) => "token choice, own C".to_string(),
        ("dropless", _) => "token choice, dropless".to_string(),
        (kind, _) => kind.replace('_', " "),
    }
}

/// A bar an expert; of many experts the hottest and the coldest.
fn loads(load: &Spread<u64>) -> Vec<String> {
    const MOST_BARS: usize = 16;
    const SHOWN: usize = 6;
    const BAR: usize = 40;
    let mut order: Vec<usize> = (0..load.per_expert.len()).collect();
    let line = |expert: &usize| {
        let pairs = load.per_expert[*expert];
        let means = if load.mean > 0.0 { pairs as f64 / load.mean } else { 0.0 };
        let share = if load.largest > 0.0 { pairs as f64 / load.largest } else { 0.0 };
        format!("{expert:>8} {pairs:>10} {means:>6.2}x  {}", bar(share, BAR))
    };
    let mut lines = vec![format!("{:>8} {:>10} {:>7}", "expert", "pairs", "of mean")];
    if order.len() <= MOST_BARS {
        lines.extend(order.iter().map(line));
        return lines;
    }
    order.sort_by(|a, b| load.per_expert[*b].cmp(&load.per_expert[*a]).then(a.cmp(b)));
    lines.extend(order[..SHOWN].iter().map(line));
    lines.push(format!("{:>8}", "..."));
    lines.extend(order[order.len() - SHOWN..].iter().map(line));
    lines
}

/// As many blocks as the share of the width, in eighths of one.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// 1.25, 2, 0.5.
pub(super) fn factor_text(factor: f64) -> String {
    format!("{factor:.4}").trim_end_matches('0').trim_end_matches('.').to_string()
}

/// 12.3%, 0.45%, 0%.
pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent {
        0.0 => "0%".to_string(),
        p if p.abs() < 0.01 => "<0.01%".to_string(),
        p if p.abs() < 9.995 => format!("{p:.2}%"),
        p => format!("{p:.1}%"),
    }
}

/// One C, or the least and the largest.
pub(super) fn capacity_text((least, most): (u64, u64)) -> String {
    if least == most { least.to_string() } else { format!("{least}-{most}") }
}
