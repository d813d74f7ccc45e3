//! The report as one page: no script, nothing from elsewhere, the same bytes for the same report. How plots are drawn is in
//! `plot`.

use super::observe::tile_rows;
use super::plot::{Axis, Plot, escape, pairs_of_bars};
use super::report::{Mode, Report, Spread};
use super::sweep::Band;
use super::text::{capacity_text, cut, factor_text, mode_name, percent, who};

/// The whole page.
#[must_use]
pub fn html(report: &Report) -> String {
    let title = format!("Routing of {}", report.layer);
    let body = [header(report), tiles(report), plots(report), mode_table(report), experts(report), sweep_table(report)].concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}{}</main>\n</body>\n</html>\n",
        escape(&title),
        footer(report),
    )
}

fn header(report: &Report) -> String {
    let (router, trace) = (&report.router, &report.trace);
    let count = |n: u64, one: &str, many: &str| format!("{} {}", grouped(n), if n == 1 { one } else { many });
    let layer = format!("{} experts, {}, {}", router.experts, who(report), router.score);
    let read =
        format!("{} of {} in {}", count(trace.tokens, "token", "tokens"), trace.source, count(trace.batches, "batch", "batches"));
    let beside = match router.mode {
        "expert_choice" => format!("; loads and capacities are of tokens that choose {} beside them", router.top_k),
        _ => String::new(),
    };
    let rule = format!("{}, group {}, priority {}{beside}", router.formula, router.group, router.priority);
    format!(
        "<header>\n<p class=\"over\">moec route</p>\n<h1>{}</h1>\n<p>{}</p>\n<p class=\"muted\">{}</p>\n</header>\n",
        escape(&report.layer),
        escape(&format!("{layer}. {read}.")),
        escape(&rule),
    )
}

/// What has to be known, in large.
fn tiles(report: &Report) -> String {
    let Report { drop, recommendation, load, .. } = report;
    let class = match drop.band {
        Band::Negligible => "good",
        Band::Measurable => "fair",
        Band::Significant | Band::Collapse => "poor",
    };
    let tile = |class: &str, name: &str, value: &str, lines: &[String]| {
        let lines: String = lines.iter().map(|line| format!("<p>{}</p>", escape(line))).collect();
        format!("<div class=\"tile {class}\"><h2>{name}</h2><p class=\"value\">{}</p>{lines}</div>\n", escape(value))
    };
    let dropped = match drop.capacity {
        None if report.router.is_dropless => vec!["The layer is dropless.".to_string()],
        None => vec!["There are no tokens.".to_string()],
        Some(capacity) => vec![
            format!("C = {}: {}", capacity_text(capacity), drop.band.title()),
            format!("{} of the tokens reach no expert", percent(drop.token_rate)),
            format!("Advice: {}.", drop.advice),
        ],
    };
    let enough = vec![
        format!("drops {}, at most {} asked for", percent(recommendation.rate), percent(recommendation.target)),
        format!(
            "C = {}, {} of its buffers empty",
            recommendation.capacity.map_or("0".to_string(), capacity_text),
            percent(recommendation.waste)
        ),
    ];
    let times = if load.mean > 0.0 { load.largest / load.mean } else { 0.0 };
    let balance = vec![
        format!("spread {:.2}, entropy {} of even", load.spread, percent(load.entropy_share)),
        "over the whole trace".into(),
    ];
    let hot =
        vec![format!("hot: above {} of the mean", times_text(load.hot_above)), "cold: below a tenth of the mean".to_string()];
    let (dropped_name, factor_name) = match report.router.mode {
        "expert_choice" => ("Unchosen tokens", "Capacity factor if tokens chose"),
        _ => ("Dropped pairs", "Capacity factor to take"),
    };
    let tiles = [
        tile(class, dropped_name, &percent(drop.rate), &dropped),
        tile("", factor_name, &factor_text(recommendation.factor), &enough),
        tile("", "Busiest expert", &times_text(times), &balance),
        tile("", "Hot and cold experts", &format!("{} and {}", load.hot.len(), load.cold.len()), &hot),
    ];
    format!("<section class=\"tiles\" aria-label=\"Summary\">\n{}</section>\n", tiles.concat())
}

fn plots(report: &Report) -> String {
    let figures = [sweep_plot(report), modes_plot(report), load_plot(report), batches_plot(report)];
    format!("<section class=\"plots\" aria-label=\"Plots\">\n{}</section>\n", figures.concat())
}

/// Of a legend, a mark's class and its name.
type Entry = (&'static str, String);

fn figure(title: &str, legend: &[Entry], svg: &str, caption: &str) -> String {
    let mark = |(class, name): &Entry| {
        let shape = if class.starts_with("line") {
            format!("<line class=\"{class}\" x1=\"0\" x2=\"28\" y1=\"6\" y2=\"6\"/>")
        } else {
            format!("<rect class=\"{class}\" x=\"6\" width=\"16\" height=\"12\"/>")
        };
        let mark = format!("<svg class=\"mark\" viewBox=\"0 0 28 12\" aria-hidden=\"true\">{shape}</svg>");
        format!("<li>{mark}{}</li>", escape(name))
    };
    let legend: String = legend.iter().map(mark).collect();
    let legend = if legend.is_empty() { legend } else { format!("<ul class=\"legend\">{legend}</ul>\n") };
    format!("<figure>\n<h2>{title}</h2>\n{legend}{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(caption))
}

/// Capacity factor against drop and waste.
fn sweep_plot(report: &Report) -> String {
    let Report { sweep, drop, .. } = report;
    let (from, to) = (sweep.first().map_or(0.0, |point| point.factor), sweep.last().map_or(1.0, |point| point.factor));
    let highest = sweep.iter().map(|point| point.drop_rate.max(point.waste)).fold(0.1, f64::max);
    let x = Axis { from, to, name: "capacity factor", write: factor_text };
    let y = Axis { from: 0.0, to: (highest * 10.0).ceil() / 10.0, name: "share", write: percent_tick };
    let mut plot = Plot::new(x, y);
    let points = |f: &dyn Fn(usize) -> f64| (0..sweep.len()).map(|i| (sweep[i].factor, f(i))).collect::<Vec<_>>();
    plot.line("waste", &points(&|i| sweep[i].waste));
    plot.line("tokens", &points(&|i| sweep[i].token_drop_rate));
    plot.line("drop", &points(&|i| sweep[i].drop_rate));
    // Above the lines, so that the names can be read.
    if let Some(point) = sweep.iter().find(|point| point.is_spec) {
        plot.upright("marker", point.factor, 0, &format!("spec {}", factor_text(point.factor)));
    }
    let enough = report.recommendation.factor;
    plot.upright("marker", enough, 1, &format!("to take {}", factor_text(enough)));
    let description = format!(
        "Dropped pairs fall from {} at factor {} to {} at {}; empty rows rise to {}. The spec drops {}.",
        percent(sweep.first().map_or(0.0, |point| point.drop_rate)),
        factor_text(from),
        percent(sweep.last().map_or(0.0, |point| point.drop_rate)),
        factor_text(to),
        percent(sweep.last().map_or(0.0, |point| point.waste)),
        percent(drop.rate),
    );
    let svg = plot.svg("sweep", "Capacity factor against drop and waste", &description);
    let legend = [
        ("line drop", "dropped pairs".to_string()),
        ("line tokens", "tokens that lose every pick".to_string()),
        ("line waste", "empty rows of buffers of C rows".to_string()),
    ];
    figure("Capacity", &legend, &svg, "Every factor from one pass: a pair is dropped where its place in the queue is C or more.")
}

fn modes_plot(report: &Report) -> String {
    let modes = &report.modes;
    let lost = |mode: &Mode| mode.drop_rate.unwrap_or(mode.token_drop_rate);
    let most_lost = modes.iter().map(lost).fold(0.01, f64::max);
    let most_rows = modes.iter().map(|mode| mode.padded_cost).fold(1.0, f64::max);
    let row = |mode: &Mode| {
        let padded = mode.padded_cost;
        let bars = [(lost(mode) / most_lost, percent(lost(mode))), (padded / most_rows, times_text(padded))];
        (mode_name(mode) + if mode.is_spec { " *" } else { "" }, bars)
    };
    let rows: Vec<_> = modes.iter().map(row).collect();
    let description: Vec<String> =
        rows.iter().map(|(name, [lost, rows])| format!("{name}: lost {}, rows {}", lost.1, rows.1)).collect();
    let texts = ("Routing modes: what is lost, and what it costs", description.join("; "));
    let svg = pairs_of_bars("modes", ["lost", "rows with padding"], ["fill-drop", "fill-waste"], &rows, (texts.0, &texts.1));
    figure(
        "Modes",
        &[],
        &svg,
        &format!(
            "Lost: pairs that are dropped; where experts choose, tokens that none chose. Rows: over those of dropless routing, \
             with padding to C, or to tiles of {} rows where there is no C. * is the spec.{}",
            tile_rows(),
            cut(report).map_or(String::new(), |cut| format!(" Expert choice and soft: {cut}."))
        ),
    )
}

fn load_plot(report: &Report) -> String {
    let load = &report.load;
    let relative = |pairs: u64| if load.mean > 0.0 { pairs as f64 / load.mean } else { 0.0 };
    let experts = load.per_expert.len();
    let largest = load.per_expert.iter().map(|pairs| relative(*pairs)).fold(1.1, f64::max);
    // A limit far above all would leave no room for the bars.
    let has_limit = load.hot_above < 2.5 * largest;
    let highest = if has_limit { largest.max(load.hot_above * 1.1) } else { largest };
    let x = Axis { from: -0.5, to: experts as f64 - 0.5, name: "expert", write: whole };
    let mut plot = Plot::new(x, Axis { from: 0.0, to: highest * 1.05, name: "pairs, in means", write: factor_text });
    let gap = if experts <= 64 { 0.1 } else { 0.0 };
    for (expert, pairs) in load.per_expert.iter().enumerate() {
        let class = match (load.hot.binary_search(&expert), load.cold.binary_search(&expert)) {
            (Ok(_), _) => "fill-hot",
            (_, Ok(_)) => "fill-cold",
            (Err(_), Err(_)) => "fill-plain",
        };
        let place = (expert as f64 - 0.5 + gap, expert as f64 + 0.5 - gap);
        let title = format!("expert {expert}: {} pairs, {} of the mean", grouped(*pairs), times_text(relative(*pairs)));
        plot.bar(class, place, relative(*pairs), &title);
    }
    plot.across("marker", 1.0, 14.0, "mean");
    if has_limit {
        plot.across("limit", load.hot_above, -5.0, &format!("{} of the mean", times_text(load.hot_above)));
    }
    let description = format!(
        "The busiest of {experts} experts has {} of the mean; {} are hot and {} cold.",
        times_text(relative(load.largest as u64)),
        load.hot.len(),
        load.cold.len()
    );
    let svg = plot.svg("load", "Load per expert", &description);
    let legend = [("fill-hot", "hot".to_string()), ("fill-plain", "between".to_string()), ("fill-cold", "cold".to_string())];
    figure("Load per expert", &legend, &svg, "Pairs that pick each expert, before any is dropped, over the whole trace.")
}

fn batches_plot(report: &Report) -> String {
    let stretches = &report.over_batches;
    // One batch is drawn as wide as two: there is no line through one point.
    let mut points: Vec<(f64, usize)> = stretches.iter().enumerate().map(|(i, s)| (s.first as f64, i)).collect();
    if let ([(x, i)], Some(only)) = (&points[..], stretches.first()) {
        let end = (x + only.batches as f64, *i);
        points.push(end);
    }
    let highest = stretches.iter().map(|s| s.quantiles[4]).fold(1.5, f64::max);
    let x = Axis { from: 0.0, to: points.last().map_or(1.0, |point| point.0), name: "batch", write: whole };
    let mut plot = Plot::new(x, Axis { from: 0.0, to: highest * 1.05, name: "pairs, in means of the batch", write: factor_text });
    let at = |quantile: usize| points.iter().map(|(x, i)| (*x, stretches[*i].quantiles[quantile])).collect::<Vec<_>>();
    let between = |low: usize, high: usize| {
        let (low, high) = (at(low), at(high));
        low.iter().zip(&high).map(|((x, low), (_, high))| (*x, *low, *high)).collect::<Vec<_>>()
    };
    plot.area("outer", &between(0, 4));
    plot.area("inner", &between(1, 3));
    plot.line("median", &at(2));
    let mut legend = vec![
        ("outer", "all experts".to_string()),
        ("inner", "the middle four fifths".to_string()),
        ("line median", "median".to_string()),
    ];
    let mut order: Vec<usize> = (0..report.load.per_expert.len()).collect();
    order.sort_by(|a, b| report.load.per_expert[*b].cmp(&report.load.per_expert[*a]).then(a.cmp(b)));
    let leaders = stretches.first().map_or(0, |stretch| stretch.leaders.len());
    for (leader, class) in ["line leader-1", "line leader-2", "line leader-3"].into_iter().enumerate().take(leaders) {
        let line: Vec<(f64, f64)> = points.iter().map(|(x, i)| (*x, stretches[*i].leaders[leader])).collect();
        plot.line(class.trim_start_matches("line "), &line);
        legend.push((class, format!("expert {}", order[leader])));
    }
    let description = match (stretches.first(), stretches.last()) {
        (Some(first), Some(last)) => format!(
            "The largest load goes from {} of the mean in the first batches to {} in the last.",
            times_text(first.quantiles[4]),
            times_text(last.quantiles[4])
        ),
        (_, _) => "There is no batch.".to_string(),
    };
    let svg = plot.svg("batches", "Load over batches", &description);
    let joined = stretches.first().map_or(1, |stretch| stretch.batches);
    let caption = match joined {
        1 => "Each batch by itself; the lines are the experts with the most pairs in the whole trace.".to_string(),
        n => format!("{n} batches a point; the lines are the experts with the most pairs in the whole trace."),
    };
    figure("Load over batches", &legend, &svg, &caption)
}

/// A table that scrolls in its own box where the page is narrow.
fn table(name: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escape(head))).collect();
    let row = |row: Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
            _ => format!("<td>{}</td>", escape(cell)),
        });
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = rows.map(row).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name}\">\n<table>\n<thead><tr>{head}</tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )
}

fn mode_table(report: &Report) -> String {
    let heads = ["mode", "C", "dropped pairs", "tokens lost", "band", "padding", "busiest", "rows", "with padding", "mixing"];
    let row = |mode: &Mode| {
        vec![
            mode_name(mode) + if mode.is_spec { " *" } else { "" },
            mode.capacity.map_or("-".to_string(), capacity_text),
            mode.drop_rate.map_or("-".to_string(), percent),
            percent(mode.token_drop_rate),
            mode.band.map_or("-", |band| band.title().split(" (").next().unwrap_or_default()).to_string(),
            percent(mode.waste),
            times_text(mode.busiest),
            times_text(mode.cost),
            times_text(mode.padded_cost),
            mode.mixing.map_or("-".to_string(), times_text),
        ]
    };
    let table = table("Routing modes", &heads, report.modes.iter().map(row));
    format!(
        "<section>\n<h2>Modes in numbers</h2>\n{table}<p class=\"muted\">Busiest: rows of the busiest expert over the mean, \
         batch by batch: how long the others wait for it. Rows, and with padding: over those of dropless routing. Mixing: what \
         soft routing spends on mixing tokens into slots and back, over the experts' own multiply-adds. * is the spec.</p>\n\
         </section>\n"
    )
}

fn experts(report: &Report) -> String {
    let list = |name: &str, what: &str, list: &[usize]| {
        let numbers: Vec<String> = list.iter().map(usize::to_string).collect();
        let numbers = if list.is_empty() { "none".to_string() } else { numbers.join(", ") };
        format!("<dt>{name} <span class=\"muted\">{what}</span></dt><dd>{numbers}</dd>\n")
    };
    let (load, probability) = (&report.load, &report.probability);
    let above = format!("above {} of the mean", times_text(load.hot_above));
    let lists = [
        list("Hot by pairs", &above, &load.hot),
        list("Cold by pairs", "below a tenth of the mean", &load.cold),
        list("Hot by probability", &above, &probability.hot),
        list("Cold by probability", "below a tenth of the mean", &probability.cold),
    ];
    let heads = ["of an expert", "mean", "limit", "largest", "variance", "spread", "entropy of even"];
    let rows = [numbers("pairs", load), numbers("probability", probability)];
    let table = table("Spread over the experts", &heads, rows.into_iter());
    format!("<section>\n<h2>Experts</h2>\n<dl>\n{}</dl>\n{table}</section>\n", lists.concat())
}

fn numbers<T>(name: &str, spread: &Spread<T>) -> Vec<String> {
    let number = |x: f64| if x >= 1e6 { format!("{x:.3e}") } else { format!("{x:.1}") };
    vec![
        name.to_string(),
        number(spread.mean),
        number(spread.limit),
        number(spread.largest),
        number(spread.variance),
        format!("{:.3}", spread.spread),
        percent(spread.entropy_share),
    ]
}

fn sweep_table(report: &Report) -> String {
    let heads = ["factor", "C", "dropped pairs", "tokens lost", "empty rows", ""];
    let rows = report.sweep.iter().map(|point| {
        let mark = match (point.is_spec, point.is_recommended) {
            (true, true) => "spec, to take",
            (true, false) => "spec",
            (false, true) => "to take",
            (false, false) => "",
        };
        vec![
            factor_text(point.factor),
            point.capacity.map_or("-".to_string(), capacity_text),
            percent(point.drop_rate),
            percent(point.token_drop_rate),
            percent(point.waste),
            mark.to_string(),
        ]
    });
    let table = table("Capacity factors", &heads, rows);
    format!("<section>\n<details>\n<summary>Every capacity factor</summary>\n{table}</details>\n</section>\n")
}

fn footer(report: &Report) -> String {
    let trace = &report.trace;
    let text = format!(
        "{} pairs of {} tokens; {} spans share a capacity each; the longest batch has {} tokens; the graph's \
         interpreter decided the picks of {}. Made by moec {}.",
        grouped(trace.pairs),
        grouped(trace.tokens),
        grouped(trace.spans),
        grouped(trace.longest_batch),
        grouped(trace.interpreted_tokens),
        env!("CARGO_PKG_VERSION"),
    );
    format!("<footer><p class=\"muted\">{}</p></footer>\n", escape(&text))
}

/// 1.25 times.
fn times_text(x: f64) -> String {
    if x >= 1e4 {
        return format!("{x:.0e} ×");
    }
    format!("{} ×", format!("{x:.2}").trim_end_matches('0').trim_end_matches('.'))
}

/// Nothing between two of what is counted.
fn whole(x: f64) -> String {
    if x.fract() == 0.0 { factor_text(x) } else { String::new() }
}

fn percent_tick(x: f64) -> String {
    format!("{:.0}%", 100.0 * x)
}

/// 1 234 567, with spaces that do not break.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Colours are of Okabe and Ito's palette, lighter ones on dark; lines differ in their dashes too.
const STYLE: &str = include_str!("page.css");
