//! The report as one page: no script, nothing from elsewhere, the same bytes for the same report. The plots are in `figures`.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figures::{self, grouped, times_text};
use super::report::{ExpertShare, Mode, Point, Report, Reports, Spread, Stretch};
use super::sweep::Band;
use super::text::{
    NOTHING_RECOMMENDED, capacity_text, choice_text, factor_text, layer_name, left_out, mode_name, percent, recommended_factor,
    recommended_take, shares, verdict, worst,
};

/// Colours are of Okabe and Ito's palette, lighter ones on dark; lines differ in their dashes too.
const STYLE: &str = include_str!("page.css");

/// The whole page: of several layers a table and plots of all of them, and each in full.
#[must_use]
pub fn html(reports: &Reports) -> String {
    let name = reports.layers.first().map_or("", |report| &report.layer);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { "Routing of " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    @if let [report] = &reports.layers[..] {
                        (header(report)) (whole(report, ""))
                    } @else {
                        (layers(reports))
                    }
                }
            }
        }
    };
    page.into_string() + "\n"
}

fn layers(reports: &Reports) -> Markup {
    let worst = worst(reports).map(layer_name);
    html! {
        @if let Some(first) = reports.layers.first() {
            header {
                p.over { "moec route" }
                h1 { (first.layer) }
                p { (reports.layers.len()) " layers, each by itself. " (first.router.experts) " experts, " (choice_text(first)) ", " (first.router.score) "." }
                p.muted { (rule(first)) }
            }
        }
        (figures::layers(reports))
        section { h2 { "Layers in numbers" } (layer_table(reports)) }
        @for (at, report) in reports.layers.iter().enumerate() {
            details.layer id={ "layer-" (at) } open[worst == Some(layer_name(report))] {
                summary { "Layer " (layer_name(report)) ": " (percent(report.drop.rate)) " dropped" }
                p { (read(report)) }
                (whole(report, &format!("layer-{at}-")))
            }
        }
    }
}

/// Everything about one layer; `id` is what names in the page begin with.
fn whole(report: &Report, id: &str) -> Markup {
    html! {
        (tiles(report)) (figures::plots(report, id)) (mode_table(report)) (experts(report))
        (folded("Every capacity factor", sweep_table(report)))
        (folded("Every batch", batch_table(report)))
        (footer(report))
    }
}

fn header(report: &Report) -> Markup {
    html! {
        header {
            p.over { "moec route" }
            h1 { (report.layer) }
            p { (report.router.experts) " experts, " (choice_text(report)) ", " (report.router.score) ". " (read(report)) }
            p.muted { (rule(report)) }
        }
    }
}

fn rule(report: &Report) -> String {
    let router = &report.router;
    let beside = match router.mode {
        "expert_choice" => format!("; loads and capacities are of tokens that choose {} beside them", router.top_k),
        _ => String::new(),
    };
    format!("{}, group {}, priority {}{beside}", router.formula, router.group, router.priority)
}

/// What was read, and what was not counted.
fn read(report: &Report) -> String {
    let trace = &report.trace;
    let count = |n: u64, one: &str, many: &str| format!("{} {}", grouped(n), if n == 1 { one } else { many });
    let tokens = count(trace.tokens, "token", "tokens");
    let left_out = left_out(report).map_or(String::new(), |said| format!(" Not counted: {said}."));
    format!("{tokens} of {} in {}.{left_out}", trace.source, count(trace.batches, "batch", "batches"))
}

/// What has to be known, in large.
fn tiles(report: &Report) -> Markup {
    let Report { drop, recommendation, load, .. } = report;
    let class = match drop.band {
        Band::Negligible if drop.least_rate < 0.01 => "good",
        Band::Negligible | Band::Measurable => "fair",
        Band::Significant | Band::Collapse => "poor",
    };
    let tile = |class: &str, name: &str, value: String, lines: &[String]| {
        html! { div class={ "tile " (class) } { h2 { (name) } p.value { (value) } @for line in lines { p { (line) } } } }
    };
    let dropped = match drop.capacity {
        None if report.router.is_dropless => vec!["The layer is dropless.".to_string()],
        None => vec!["There are no tokens.".to_string()],
        Some(capacity) => vec![
            format!("C = {}: {}", capacity_text(capacity), verdict(report)),
            format!("{} of the tokens reach no expert", percent(drop.token_rate)),
            format!("Advice: {}.", drop.advice),
        ],
    };
    let enough = match recommendation {
        None => vec![format!("{NOTHING_RECOMMENDED}.")],
        Some(recommendation) => vec![
            format!("drops {}, at most {} asked for", percent(recommendation.rate), percent(recommendation.target)),
            format!("C = {}", recommendation.capacity.map_or("0".to_string(), capacity_text)),
            format!("{}.", recommendation.text),
        ],
    };
    let times = if load.mean > 0.0 { load.largest / load.mean } else { 0.0 };
    let balance =
        vec![format!("spread {:.2}, entropy_share {}", load.spread, percent(load.entropy_share)), "over all batches".into()];
    let hot = vec![
        format!("hot: above {} of the mean", times_text(load.hot_above)),
        "cold: below a tenth of the mean; dead: no pick".to_string(),
    ];
    let (dropped_name, factor_name) = match report.router.mode {
        "expert_choice" => ("Unchosen tokens", "Enough capacity factor if tokens chose"),
        _ => ("Dropped pairs", "Enough capacity factor"),
    };
    let numbers = format!("{}, {}, {}", load.hot.len(), load.cold.len(), load.dead.len());
    html! {
        section.tiles aria-label="Summary" {
            (tile(class, dropped_name, percent(drop.rate), &dropped))
            (tile("", factor_name, recommended_factor(report), &enough))
            (tile("", "Busiest expert", times_text(times), &balance))
            (tile("", "Hot, cold and dead experts", numbers, &hot))
        }
    }
}

/// A table that scrolls in its own box where the page is narrow.
fn table(name: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(name) {
            table {
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn folded(summary: &str, table: Markup) -> Markup {
    html! { section { details { summary { (summary) } (table) } } }
}

fn layer_table(reports: &Reports) -> Markup {
    let heads = ["layer", "tokens", "left_out", "rate", "least_rate", "band", "spread", "hot", "cold", "dead", "factor", "take"];
    let row = |report: &Report| {
        vec![
            layer_name(report).to_string(),
            grouped(report.trace.tokens),
            grouped(report.trace.left_out.total()),
            percent(report.drop.rate),
            percent(report.drop.least_rate),
            band(Some(report.drop.band)),
            format!("{:.2}", report.load.spread),
            report.load.hot.len().to_string(),
            report.load.cold.len().to_string(),
            report.load.dead.len().to_string(),
            recommended_factor(report),
            recommended_take(report).to_string(),
        ]
    };
    table("Layers", &heads, reports.layers.iter().map(row))
}

fn band(band: Option<Band>) -> String {
    band.map_or("-", |band| band.title().split(" (").next().unwrap_or_default()).to_string()
}

fn mode_table(report: &Report) -> Markup {
    let heads = [
        "kind",
        "capacity",
        "drop_rate",
        "least_drop_rate",
        "token_drop_rate",
        "band",
        "waste",
        "busiest",
        "cost",
        "padded_cost",
        "mixing",
    ];
    let row = |mode: &Mode| {
        vec![
            mode_name(mode) + if mode.is_spec { " *" } else { "" },
            mode.capacity.map_or("-".to_string(), capacity_text),
            mode.drop_rate.map_or("-".to_string(), percent),
            mode.least_drop_rate.map_or("-".to_string(), percent),
            percent(mode.token_drop_rate),
            band(mode.band),
            percent(mode.waste),
            times_text(mode.busiest),
            times_text(mode.cost),
            times_text(mode.padded_cost),
            mode.mixing.map_or("-".to_string(), times_text),
        ]
    };
    html! {
        section {
            h2 { "Modes in numbers" }
            (table("Routing modes", &heads, report.modes.iter().map(row)))
            p.muted {
                "busiest: rows of the busiest expert over the mean, batch by batch: how long the others wait for it. cost and "
                "padded_cost: rows without and with padding, over those of dropless routing. mixing: what soft routing spends on "
                "mixing tokens into slots and back, over the experts' own multiply-adds. * is the spec. Names are those of the "
                "JSON report, which `moec schema route` defines."
            }
        }
    }
}

fn experts(report: &Report) -> Markup {
    let list = |name: &str, what: &str, list: &[String]| {
        let numbers = if list.is_empty() { "none".to_string() } else { list.join(", ") };
        html! { dt { (name) " " span.muted { (what) } } dd { (numbers) } }
    };
    let (load, probability) = (&report.load, &report.probability);
    let above = format!("above {} of the mean, by heat, with their share", times_text(load.hot_above));
    let named = |list: &[ExpertShare]| shares(list);
    let numbers = |list: &[usize]| list.iter().map(usize::to_string).collect::<Vec<String>>();
    let heads = ["of an expert", "mean", "limit", "largest", "variance", "spread", "entropy_share"];
    let rows = [spread("load", load), spread("probability", probability)];
    html! {
        section {
            h2 { "Experts" }
            dl {
                (list("hot by load", &above, &named(&load.hot)))
                (list("cold by load", "below a tenth of the mean", &named(&load.cold)))
                (list("dead by load", "without a pick", &numbers(&load.dead)))
                (list("hot by probability", &above, &named(&probability.hot)))
                (list("cold by probability", "below a tenth of the mean", &named(&probability.cold)))
            }
            (table("Spread over the experts", &heads, rows.into_iter()))
        }
    }
}

fn spread<T>(name: &str, spread: &Spread<T>) -> Vec<String> {
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

fn sweep_table(report: &Report) -> Markup {
    let heads = ["factor", "capacity", "drop_rate", "least_drop_rate", "token_drop_rate", "waste", ""];
    let row = |point: &Point| {
        let mark = match (point.is_spec, point.is_recommended) {
            (true, true) => "spec, enough",
            (true, false) => "spec",
            (false, true) => "enough",
            (false, false) => "",
        };
        vec![
            factor_text(point.factor),
            point.capacity.map_or("-".to_string(), capacity_text),
            percent(point.drop_rate),
            percent(point.least_drop_rate),
            percent(point.token_drop_rate),
            percent(point.waste),
            mark.to_string(),
        ]
    };
    table("Capacity factors", &heads, report.sweep.iter().map(row))
}

fn batch_table(report: &Report) -> Markup {
    let heads = ["first", "batches", "tensor", "last_tensor", "tokens", "drop_rate", "hottest", "largest of_mean"];
    let row = |stretch: &Stretch| {
        vec![
            stretch.first.to_string(),
            stretch.batches.to_string(),
            stretch.tensor.clone(),
            stretch.last_tensor.clone(),
            grouped(stretch.tokens),
            percent(stretch.drop_rate),
            stretch.hottest.to_string(),
            times_text(stretch.quantiles[4]),
        ]
    };
    table("Batches", &heads, report.over_batches.iter().map(row))
}

fn footer(report: &Report) -> Markup {
    let trace = &report.trace;
    html! {
        footer {
            p.muted {
                (grouped(trace.pairs)) " pairs of " (grouped(trace.tokens)) " tokens; " (grouped(trace.spans))
                " spans share a capacity each; the longest batch has " (grouped(trace.longest_batch))
                " tokens; the graph's interpreter decided the picks of " (grouped(trace.interpreted_tokens)) ". Made by moec "
                (env!("CARGO_PKG_VERSION")) "."
            }
        }
    }
}
