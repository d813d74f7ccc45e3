//! The report for a terminal: 80 columns, most important first. Labels and heads of columns are the names that fields have in
//! the JSON, so that `moec schema route` defines both.

use super::report::{Cause, ExpertShare, Mode, Placement, Point, Report, Reports, Spread, Take};

const COLUMNS: usize = 80;
/// Where the text of a label begins.
const INDENT: usize = 15;

/// Everything as text: of several layers a table, and the whole report of the one that drops most.
#[must_use]
pub fn text(reports: &Reports) -> String {
    let mut lines = Vec::new();
    if let [report] = &reports.layers[..] {
        lines = whole(report);
    } else {
        let worst = worst(reports);
        lines.extend(table(&LAYERS, &reports.layers.iter().collect::<Vec<&Report>>(), |_| String::new()));
        if let Some(report) = worst {
            lines.push(String::new());
            let which = format!("Layer {} in full, which drops most. `--layer N` shows another.", layer_name(report));
            lines.extend([which, String::new()]);
            lines.extend(whole(report));
        }
    }
    lines.push(String::new());
    lines.push("Names are those of the JSON report; `moec schema route` says what each means.".to_string());
    lines.iter().map(|line| line.trim_end().to_string() + "\n").collect()
}

/// The layer that drops most beyond what any router would, and of several the one with the busiest expert.
pub(super) fn worst(reports: &Reports) -> Option<&Report> {
    let busiest = |report: &Report| if report.load.mean > 0.0 { report.load.largest / report.load.mean } else { 0.0 };
    let badness = |report: &Report| (report.drop.rate - report.drop.least_rate, busiest(report));
    // The first of equals.
    reports.layers.iter().rev().max_by(|a, b| {
        let (a, b) = (badness(a), badness(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    })
}

/// What the layer of a report is called.
pub(super) fn layer_name(report: &Report) -> &str {
    report.trace.layer.as_deref().unwrap_or("-")
}

fn whole(report: &Report) -> Vec<String> {
    let mut lines = facts(report);
    lines.push(String::new());
    lines.extend(sweep(report));
    lines.push(String::new());
    lines.extend(modes(report));
    lines.push(String::new());
    lines.extend(loads(&report.load));
    if let Some(placement) = &report.placement {
        lines.push(String::new());
        lines.extend(placed(placement));
    }
    lines
}

/// One column of a table: the field that it shows, its width, and its text.
struct Column<R> {
    field: &'static str,
    width: usize,
    cell: fn(&R) -> String,
}

const fn column<R>(field: &'static str, width: usize, cell: fn(&R) -> String) -> Column<R> {
    Column { field, width, cell }
}

/// Heads and rows; a head that is too long is broken after its first word.
fn table<R>(columns: &[Column<R>], rows: &[&R], mark: impl Fn(&R) -> String) -> Vec<String> {
    let broken = |column: &Column<R>| match column.field.split_once('_') {
        Some((first, rest)) if column.field.len() >= column.width => (format!("{first}_"), rest),
        Some(_) | None => (String::new(), column.field),
    };
    let (mut above, mut below) = (String::new(), String::new());
    for column in columns {
        let (first, rest) = broken(column);
        above += &aligned(&first, column.width, above.is_empty());
        below += &aligned(rest, column.width, below.is_empty());
    }
    let mut lines: Vec<String> = [above, below].into_iter().filter(|line| !line.trim().is_empty()).collect();
    lines.extend(rows.iter().map(|row| {
        let mut line = String::new();
        for column in columns {
            line += &aligned(&(column.cell)(row), column.width, line.is_empty());
        }
        line + &mark(row)
    }));
    lines
}

/// The first column is a name, the others are numbers.
fn aligned(text: &str, width: usize, is_first: bool) -> String {
    if is_first { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

/// A label and its text, over as many lines as it takes.
fn labelled(label: &str, text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = format!("{label:<INDENT$}");
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, " ".repeat(INDENT)));
            is_empty = true;
        }
        line += if is_empty { "" } else { " " };
        line += word;
        is_empty = false;
    }
    lines.push(line);
    lines
}

fn facts(report: &Report) -> Vec<String> {
    let Report { router, trace, drop, recommendation, load, probability, .. } = report;
    let mut lines = Vec::new();
    let mut say = |label: &str, text: String| lines.extend(labelled(label, &text));
    say("layer", format!("{}, {} experts, {}, {}", report.layer, router.experts, choice_text(report), router.score));
    say("formula", router.formula.clone());
    say("", format!("group {}, priority {}", router.group, router.priority));
    let count = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let (tensors, batches) = (count(trace.tensors as u64, "tensor", "tensors"), count(trace.batches, "batch", "batches"));
    let tokens = count(trace.tokens, "token", "tokens");
    let layer = trace.layer.as_ref().map_or(String::new(), |layer| format!(", layer {layer}"));
    say("trace", format!("{tokens} of {} in {tensors}, {batches}{layer}", trace.source));
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
    left_out(report).into_iter().for_each(|line| say("left_out", line));
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
            say("drop", format!("{rate} at C = {}: {}", capacity_text(capacity), verdict(report)));
            if !experts_choose {
                say("", format!("{} of the tokens lose every pick", percent(drop.token_rate)));
            }
            say("advice", drop.advice.clone());
        }
    }
    if experts_choose {
        say("beside it", format!("the figures below are of tokens that choose {}", router.top_k));
    }
    match recommendation {
        None => say("recommendation", NOTHING_RECOMMENDED.to_string()),
        Some(recommendation) => {
            let capacity = recommendation.capacity.map_or("0".to_string(), capacity_text);
            say(
                "recommendation",
                format!(
                    "factor {} (C = {capacity}) drops {}, at most {} asked for",
                    factor_text(recommendation.factor),
                    percent(recommendation.rate),
                    percent(recommendation.target),
                ),
            );
            say("", recommendation.text.clone());
        }
    }
    say("load", balance(load));
    say("probability", balance(probability));
    let above = format!("above {} x mean", factor_text(load.hot_above));
    say("hot", experts(load.hot.len(), &above, &shares(&load.hot)));
    say("cold", experts(load.cold.len(), "below 0.1 x mean", &shares(&load.cold)));
    say("dead", experts(load.dead.len(), "without a pick", &load.dead.iter().map(usize::to_string).collect::<Vec<_>>()));
    lines
}

/// How bad the drop is, and how much of it is the capacity's.
pub(super) fn verdict(report: &Report) -> String {
    let drop = &report.drop;
    match drop.cause {
        Cause::Capacity => format!("too little room, any router drops {}", percent(drop.least_rate)),
        Cause::Both => format!("any router drops {}, the rest is {}", percent(drop.least_rate), drop.band.title()),
        Cause::Nothing | Cause::Router => drop.band.title().to_string(),
    }
}

/// Rows that are no tokens, where there are some.
pub(super) fn left_out(report: &Report) -> Option<String> {
    let (left_out, rows) = (&report.trace.left_out, report.trace.rows);
    let padding = format!("{} of {rows} rows are padding by the mask", left_out.padding);
    match (left_out.padding, left_out.said()) {
        (0, None) => None,
        (0, Some(said)) => Some(format!("{said}, of {rows} rows")),
        (_, None) => Some(padding),
        (_, Some(said)) => Some(format!("{padding}; {said}")),
    }
}

/// That spans were cut, where they were.
pub(super) fn cut(report: &Report) -> Option<String> {
    let trace = &report.trace;
    let spans = if trace.cut_spans == 1 { "span is" } else { "spans are" };
    let of_choice = format!("experts choose from {} tokens at once: {} {spans} cut", trace.most_choice_tokens, trace.cut_spans);
    (trace.cut_spans > 0).then_some(of_choice)
}

/// What chooses: the tokens their experts, or the experts their tokens.
pub(super) fn choice_text(report: &Report) -> String {
    match report.router.mode {
        "expert_choice" => "experts choose".to_string(),
        _ => format!("{} a token", report.router.top_k),
    }
}

fn balance<T>(spread: &Spread<T>) -> String {
    let largest = if spread.mean > 0.0 { spread.largest / spread.mean } else { 0.0 };
    format!(
        "mean {:.1}, largest {largest:.2} x, spread {:.2}, entropy_share {}",
        spread.mean,
        spread.spread,
        percent(spread.entropy_share)
    )
}

/// How many there are, and the first of them; a list of hundreds is in the JSON.
fn experts(number: usize, which: &str, list: &[String]) -> String {
    const SHOWN: usize = 8;
    let of = match number {
        0 => return format!("no expert {which}"),
        1 => "1 expert".to_string(),
        n => format!("{n} experts"),
    };
    let more = if list.len() > SHOWN { " ..." } else { "" };
    format!("{of} {which}: {}{more}", list.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "))
}

/// Experts with their shares.
pub(super) fn shares(list: &[ExpertShare]) -> Vec<String> {
    list.iter().map(|expert| format!("{} ({})", expert.expert, percent(expert.share))).collect()
}

/// Why there is no recommendation.
pub(super) const NOTHING_RECOMMENDED: &str = "nothing was routed, so nothing is recommended";

/// The recommended factor, or a dash.
pub(super) fn recommended_factor(report: &Report) -> String {
    report.recommendation.as_ref().map_or("-".to_string(), |recommendation| factor_text(recommendation.factor))
}

/// What is recommended to take, or a dash.
pub(super) fn recommended_take(report: &Report) -> &'static str {
    match report.recommendation.as_ref().map(|recommendation| recommendation.take) {
        Some(Take::Factor) => "factor",
        Some(Take::Dropless) => "dropless",
        None => "-",
    }
}

const LAYERS: [Column<Report>; 9] = [
    column("layer", 12, |report| layer_name(report).to_string()),
    column("tokens", 9, |report| report.trace.tokens.to_string()),
    column("rate", 8, |report| percent(report.drop.rate)),
    column("least_rate", 8, |report| percent(report.drop.least_rate)),
    column("spread", 8, |report| format!("{:.2}", report.load.spread)),
    column("hot", 6, |report| report.load.hot.len().to_string()),
    column("dead", 6, |report| report.load.dead.len().to_string()),
    column("factor", 9, recommended_factor),
    column("take", 10, |report| recommended_take(report).to_string()),
];

const SWEEP: [Column<Point>; 6] = [
    column("factor", 8, |point| factor_text(point.factor)),
    column("capacity", 10, |point| point.capacity.map_or(String::new(), capacity_text)),
    column("drop_rate", 10, |point| percent(point.drop_rate)),
    column("least_drop_rate", 10, |point| percent(point.least_drop_rate)),
    column("token_drop_rate", 10, |point| percent(point.token_drop_rate)),
    column("waste", 8, |point| percent(point.waste)),
];

fn sweep(report: &Report) -> Vec<String> {
    // In means: what is asked for is nearly always among these.
    const SHOWN: [f64; 8] = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0];
    const BAR: usize = 9;
    let even = report.router.even_factor as f64;
    let is_shown = |point: &&Point| {
        point.is_spec || point.is_recommended || SHOWN.iter().any(|shown| (shown * even - point.factor).abs() < 1e-9)
    };
    let mark = |point: &Point| {
        let mark = match (point.is_spec, point.is_recommended) {
            (true, true) => "spec, enough",
            (true, false) => "spec",
            (false, true) => "enough",
            (false, false) => "",
        };
        format!("  {:<BAR$} {mark}", bar(point.drop_rate, BAR))
    };
    table(&SWEEP, &report.sweep.iter().filter(is_shown).collect::<Vec<&Point>>(), mark)
}

const MODES: [Column<Mode>; 8] = [
    column("kind", 18, |mode| mode_name(mode) + if mode.is_spec { " *" } else { "" }),
    column("capacity", 10, |mode| mode.capacity.map_or("-".to_string(), capacity_text)),
    column("drop_rate", 10, |mode| mode.drop_rate.map_or("-".to_string(), percent)),
    column("token_drop_rate", 10, |mode| percent(mode.token_drop_rate)),
    column("waste", 8, |mode| percent(mode.waste)),
    column("busiest", 8, |mode| format!("{:.2}x", mode.busiest)),
    column("cost", 7, |mode| format!("{:.2}x", mode.cost)),
    column("padded_cost", 8, |mode| format!("{:.2}x", mode.padded_cost)),
];

fn modes(report: &Report) -> Vec<String> {
    let mut lines = table(&MODES, &report.modes.iter().collect::<Vec<&Mode>>(), |_| String::new());
    lines.push("* the spec".to_string());
    if let Some(mixing) = report.modes.iter().find_map(|mode| mode.mixing) {
        lines.push(format!("soft: mixing {mixing:.2}x, into slots and back, over the experts' multiply-adds"));
    }
    lines
}

/// What a mode is called wherever it is shown.
pub(super) fn mode_name(mode: &Mode) -> String {
    match (mode.kind, mode.factor) {
        ("capacity", Some(factor)) => format!("capacity {}", factor_text(factor)),
        ("capacity", None) => "capacity, own C".to_string(),
        (kind, _) => kind.to_string(),
    }
}

/// An expert's index, its pairs, its share, and that over the mean.
type Load = (usize, u64, f64, f64);

const LOADS: [Column<Load>; 4] = [
    column("expert", 8, |(expert, ..)| expert.to_string()),
    column("per_expert", 12, |(_, pairs, ..)| pairs.to_string()),
    column("share", 8, |(_, _, share, _)| percent(*share)),
    column("of_mean", 9, |(.., of_mean)| format!("{of_mean:.2}x")),
];

/// A bar an expert; of many experts the hottest and the coldest.
fn loads(load: &Spread<u64>) -> Vec<String> {
    const MOST_BARS: usize = 16;
    const SHOWN: usize = 6;
    const BAR: usize = 40;
    let total = load.per_expert.iter().sum::<u64>();
    let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let row = |expert: usize| -> Load {
        let pairs = load.per_expert[expert];
        (expert, pairs, over(pairs as f64, total as f64), over(pairs as f64, load.mean))
    };
    let mark = |(_, pairs, ..): &Load| format!("  {}", bar(over(*pairs as f64, load.largest), BAR));
    let mut rows: Vec<Load> = (0..load.per_expert.len()).map(row).collect();
    if rows.len() <= MOST_BARS {
        return table(&LOADS, &rows.iter().collect::<Vec<&Load>>(), mark);
    }
    rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let shown: Vec<&Load> = rows[..SHOWN].iter().chain(&rows[rows.len() - SHOWN..]).collect();
    let mut lines = table(&LOADS, &shown, mark);
    lines.insert(lines.len() - SHOWN, "...".to_string());
    lines
}

/// What each device has.
fn placed(placement: &Placement) -> Vec<String> {
    let Placement { ranks, experts_per_rank: each, busiest_in_order, busiest, least_busiest, .. } = placement;
    let text = format!(
        "{ranks} ranks of {each} experts; the busiest has {busiest_in_order:.2} of the mean with experts in their order, {busiest:.2} as \
         placed ({least_busiest:.2} at least)"
    );
    let mut lines = labelled("placement", &text);
    for (rank, experts) in placement.expert_of_place.chunks(*each).enumerate() {
        let experts: Vec<String> = experts.iter().map(usize::to_string).collect();
        let pairs = placement.pairs_per_rank[rank];
        lines.extend(labelled(&format!("  rank {rank}"), &format!("{pairs} pairs: experts {}", experts.join(" "))));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every property of the schema.
    fn properties(schema: &serde_json::Value, names: &mut Vec<String>) {
        match schema {
            serde_json::Value::Object(object) => {
                if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                    names.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| properties(value, names));
            }
            serde_json::Value::Array(array) => array.iter().for_each(|value| properties(value, names)),
            _ => {}
        }
    }

    #[test]
    fn every_column_and_label_is_a_field_with_a_definition() {
        let mut names = Vec::new();
        properties(&super::super::json_schema(), &mut names);
        let heads = LAYERS.iter().map(|column| column.field).chain(SWEEP.iter().map(|column| column.field));
        let heads = heads.chain(MODES.iter().map(|column| column.field)).chain(LOADS.iter().map(|column| column.field));
        let labels = ["layer", "formula", "trace", "left_out", "drop", "advice", "recommendation", "load", "probability"];
        for name in heads.chain(labels).chain(["hot", "cold", "dead"]) {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn long_texts_are_broken() {
        let lines = labelled("advice", &"word ".repeat(30));
        assert!(lines.len() == 3 && lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:?}");
        assert!(lines[0].starts_with("advice         word") && lines[1].starts_with("               word"));
    }
}
