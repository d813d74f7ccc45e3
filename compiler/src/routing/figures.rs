//! The plots of a page, from the numbers of a report.

use maud::{Markup, PreEscaped, html};

use super::observe::tile_rows;
use super::report::{Mode, Report, Reports};
use super::text::{cut, factor_text, layer_name, mode_name, percent};
use crate::plot::{Axis, Plot, height_of_rows, labels_in_a_row, pairs_of_bars};

/// The four plots of one layer; `id` is what their names in the page begin with.
pub(super) fn plots(report: &Report, id: &str) -> Markup {
    html! {
        section.plots aria-label="Plots" {
            (sweep(report, id)) (modes(report, id)) (load(report, id)) (batches(report, id))
        }
    }
}

/// Of a legend, a mark's class and its name.
type Entry = (&'static str, String);

fn figure(title: &str, legend: &[Entry], svg: String, caption: &str) -> Markup {
    html! {
        figure {
            h2 { (title) }
            @if !legend.is_empty() {
                ul.legend {
                    @for (class, name) in legend {
                        li {
                            svg.mark viewBox="0 0 28 12" aria-hidden="true" {
                                @if class.starts_with("line") { line class=(class) x1="0" x2="28" y1="6" y2="6" {} }
                                @else { rect class=(class) x="6" width="16" height="12" {} }
                            }
                            (name)
                        }
                    }
                }
            }
            (PreEscaped(svg))
            figcaption { (caption) }
        }
    }
}

/// Capacity factor against drop and waste.
fn sweep(report: &Report, id: &str) -> Markup {
    let Report { sweep, drop, .. } = report;
    let (from, to) = (sweep.first().map_or(0.0, |point| point.factor), sweep.last().map_or(1.0, |point| point.factor));
    let highest = sweep.iter().map(|point| point.drop_rate.max(point.waste)).fold(0.1, f64::max);
    let x = Axis { from, to, name: "factor", write: &factor_text };
    let mut plot = Plot::new(x, Axis { from: 0.0, to: (highest * 10.0).ceil() / 10.0, name: "share", write: &percent_tick });
    let points = |f: &dyn Fn(usize) -> f64| (0..sweep.len()).map(|i| (sweep[i].factor, f(i))).collect::<Vec<_>>();
    plot.line("waste", &points(&|i| sweep[i].waste));
    plot.line("tokens", &points(&|i| sweep[i].token_drop_rate));
    plot.line("least", &points(&|i| sweep[i].least_drop_rate));
    plot.line("drop", &points(&|i| sweep[i].drop_rate));
    // Above the lines, so that the names can be read.
    if let Some(point) = sweep.iter().find(|point| point.is_spec) {
        plot.upright("marker", point.factor, &format!("spec {}", factor_text(point.factor)));
    }
    if let Some(recommendation) = &report.recommendation {
        let enough = recommendation.factor;
        plot.upright("marker", enough, &format!("enough {}", factor_text(enough)));
    }
    let description = format!(
        "Dropped pairs fall from {} at factor {} to {} at {}; empty rows rise to {}. The spec drops {}, and any router {}.",
        percent(sweep.first().map_or(0.0, |point| point.drop_rate)),
        factor_text(from),
        percent(sweep.last().map_or(0.0, |point| point.drop_rate)),
        factor_text(to),
        percent(sweep.last().map_or(0.0, |point| point.waste)),
        percent(drop.rate),
        percent(drop.least_rate),
    );
    let svg = plot.svg(&format!("{id}sweep"), "Capacity factor against drop and waste", &description);
    let legend = [
        ("line drop", "drop_rate: dropped pairs".to_string()),
        ("line least", "least_drop_rate: with any router".to_string()),
        ("line tokens", "token_drop_rate: tokens that lose every pick".to_string()),
        ("line waste", "waste: empty rows of buffers of C rows".to_string()),
    ];
    figure("Capacity", &legend, svg, "Every factor from one pass: a pair is dropped where its place in the queue is C or more.")
}

fn modes(report: &Report, id: &str) -> Markup {
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
    let id = format!("{id}modes");
    let svg = pairs_of_bars(&id, ["lost", "padded_cost"], ["fill-drop", "fill-waste"], &rows, (texts.0, &texts.1));
    let caption = format!(
        "Lost: pairs that are dropped; where experts choose, tokens that none chose. padded_cost: rows over those of dropless \
         routing, with padding to C, or to tiles of {} rows where there is no C. * is the spec.{}",
        tile_rows(),
        cut(report).map_or(String::new(), |cut| format!(" Expert choice and soft: {cut}."))
    );
    figure("Modes", &[], svg, &caption)
}

fn load(report: &Report, id: &str) -> Markup {
    const MOST_ROWS: usize = 5;
    let load = &report.load;
    let relative = |pairs: u64| if load.mean > 0.0 { pairs as f64 / load.mean } else { 0.0 };
    let experts = load.per_expert.len();
    let largest = load.per_expert.iter().map(|pairs| relative(*pairs)).fold(1.1, f64::max);
    // A limit far above all would leave no room for the bars.
    let has_limit = load.hot_above < 2.5 * largest;
    let highest = if has_limit { largest.max(load.hot_above * 1.1) } else { largest };
    // Room above the bars for the names of the hot ones.
    let rows = load.hot.len().div_ceil(labels_in_a_row(experts.to_string().len()));
    let room = height_of_rows(rows.min(MOST_ROWS) + 1);
    let x = Axis { from: -0.5, to: experts as f64 - 0.5, name: "expert", write: &whole };
    let y = Axis { from: 0.0, to: highest / (1.0 - room), name: "of_mean", write: &factor_text };
    let mut plot = Plot::new(x, y);
    let gap = if experts <= 64 { 0.1 } else { 0.0 };
    let is_hot = |expert: usize| load.hot.iter().any(|hot| hot.expert == expert);
    let is_cold = |expert: usize| load.cold.iter().any(|cold| cold.expert == expert);
    for (expert, pairs) in load.per_expert.iter().enumerate() {
        let class = match (is_hot(expert), is_cold(expert)) {
            (true, _) => "fill-hot",
            (false, true) => "fill-cold",
            (false, false) => "fill-plain",
        };
        let place = (expert as f64 - 0.5 + gap, expert as f64 + 0.5 - gap);
        let title = format!("expert {expert}: {} pairs, {} of the mean", grouped(*pairs), times_text(relative(*pairs)));
        plot.bar(class, place, relative(*pairs), &title);
    }
    plot.across("marker", 1.0, load.hot_above < 1.0, "mean");
    if has_limit {
        plot.across("limit", load.hot_above, load.hot_above >= 1.0, &format!("hot_above {}", factor_text(load.hot_above)));
    }
    let named = |hot: &&super::report::ExpertShare| plot.name_bar(hot.expert as f64, hot.of_mean, &hot.expert.to_string());
    let named = load.hot.iter().filter(named).count();
    let description = format!(
        "The busiest of {experts} experts has {} of the mean; {} are hot, {} cold and {} dead.",
        times_text(relative(load.largest as u64)),
        load.hot.len(),
        load.cold.len(),
        load.dead.len()
    );
    let svg = plot.svg(&format!("{id}load"), "Load per expert", &description);
    let legend = [("fill-hot", "hot".to_string()), ("fill-plain", "between".to_string()), ("fill-cold", "cold".to_string())];
    let unnamed = match load.hot.len() - named {
        0 => String::new(),
        n => format!(" {n} hot experts without a number here are in the list below."),
    };
    let caption = format!("Pairs that pick each expert, before any is dropped, over all batches.{unnamed}");
    figure("Load per expert", &legend, svg, &caption)
}

fn batches(report: &Report, id: &str) -> Markup {
    let stretches = &report.over_batches;
    // One batch is drawn as wide as two: there is no line through one point.
    let mut points: Vec<(f64, usize)> = stretches.iter().enumerate().map(|(i, s)| (s.first as f64, i)).collect();
    if let ([(x, i)], Some(only)) = (&points[..], stretches.first()) {
        let end = (x + only.batches as f64, *i);
        points.push(end);
    }
    let highest = stretches.iter().map(|s| s.quantiles[4]).fold(1.5, f64::max);
    let x = Axis { from: 0.0, to: points.last().map_or(1.0, |point| point.0), name: "batch", write: &whole };
    let y = Axis { from: 0.0, to: highest * 1.05, name: "pairs, in means of the batch", write: &factor_text };
    let mut plot = Plot::new(x, y);
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
    for pair in points.windows(2) {
        let stretch = &stretches[pair[0].1];
        plot.hover((pair[0].0, pair[1].0), &batch_name(stretch));
    }
    let description = match (stretches.first(), stretches.last()) {
        (Some(first), Some(last)) => format!(
            "The largest load goes from {} of the mean in the first batches to {} in the last.",
            times_text(first.quantiles[4]),
            times_text(last.quantiles[4])
        ),
        (_, _) => "There is no batch.".to_string(),
    };
    let svg = plot.svg(&format!("{id}batches"), "Load over batches", &description);
    let joined = stretches.first().map_or(1, |stretch| stretch.batches);
    let caption = match joined {
        1 => "Each batch by itself; the lines are the experts with the most pairs in all batches.".to_string(),
        n => format!("{n} batches a point; the lines are the experts with the most pairs in all batches."),
    };
    figure("Load over batches", &legend, svg, &caption)
}

/// The batches of a stretch and their tensors.
fn batch_name(stretch: &super::report::Stretch) -> String {
    let last = stretch.first + stretch.batches.max(1) - 1;
    let batches = if last == stretch.first { format!("batch {last}") } else { format!("batches {} to {last}", stretch.first) };
    let tensors = match stretch.tensor == stretch.last_tensor {
        true => stretch.tensor.clone(),
        false => format!("{} to {}", stretch.tensor, stretch.last_tensor),
    };
    format!("{batches}, {tensors}: {} dropped, expert {} hottest", percent(stretch.drop_rate), stretch.hottest)
}

/// A number of each layer, and how much of it is no fault.
struct OverLayers<'o> {
    id: &'o str,
    title: &'o str,
    of: &'static str,
    write: &'o dyn Fn(f64) -> String,
    value: fn(&Report) -> f64,
    within: fn(&Report) -> f64,
    class: &'o str,
    caption: &'o str,
}

/// Two plots over the layers.
pub(super) fn layers(reports: &Reports) -> Markup {
    let plots = [
        OverLayers {
            id: "layers-drop",
            title: "Drop by layer",
            of: "drop",
            write: &percent,
            value: |report| report.drop.rate,
            within: |report| report.drop.least_rate,
            class: "fill-drop",
            caption: "Dropped pairs as a share of all; grey: what any router would drop.",
        },
        OverLayers {
            id: "layers-busiest",
            title: "Busiest expert by layer",
            of: "of_mean",
            write: &factor_text,
            value: busiest,
            within: |report| busiest(report).min(report.load.hot_above),
            class: "fill-hot",
            caption: "Pairs of the busiest expert over the mean; grey: up to hot_above.",
        },
    ];
    html! { section.plots aria-label="Layers" { @for plot in &plots { (over_layers(&reports.layers, plot)) } } }
}

fn busiest(report: &Report) -> f64 {
    if report.load.mean > 0.0 { report.load.largest / report.load.mean } else { 0.0 }
}

fn over_layers(layers: &[Report], of: &OverLayers<'_>) -> Markup {
    // Longer names are in the table.
    const LONGEST: usize = 4;
    let name = |x: f64| match layers.get(x as usize) {
        Some(report) if x.fract() == 0.0 && x >= 0.0 && layer_name(report).len() <= LONGEST => layer_name(report).to_string(),
        Some(_) | None => String::new(),
    };
    let highest = layers.iter().map(of.value).fold(0.01, f64::max);
    let x = Axis { from: -0.5, to: layers.len() as f64 - 0.5, name: "layer", write: &name };
    let mut plot = Plot::new(x, Axis { from: 0.0, to: highest * 1.1, name: of.of, write: of.write });
    for (at, report) in layers.iter().enumerate() {
        let place = (at as f64 - 0.4, at as f64 + 0.4);
        let value = (of.value)(report);
        let title = format!("layer {}: {}", layer_name(report), (of.write)(value));
        plot.bar(of.class, place, value, &title);
        plot.bar("fill-plain", place, (of.within)(report), &title);
    }
    figure(of.title, &[], plot.svg(of.id, of.title, of.caption), of.caption)
}

/// 1.25 times.
pub(super) fn times_text(x: f64) -> String {
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
pub(super) fn grouped(n: u64) -> String {
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
