//! One layer, every routing mode, the same tokens: what is dropped, how even the experts' work is, and what it costs.
//!
//! ```text
//! cargo run -p routing-modes          writes README.md and modes.svg beside layer.toml
//! ```
//!
//! A mode is one line of `layer.toml`. Each is compiled for this CPU and run; the numbers are counts of what its kernels
//! did, no times, so that they are the same everywhere.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use moec::diagnostics::Source;
use moec::import::Entry;
use moec::pipeline::{compile, this_host};
use moec::random;
use moec::spec::{self, Mode, Spec};
use moec_codegen::Options;
use moec_runtime::package::DType;
use moec_runtime::{DeviceKind, Dims, Health, Layer, Run, Tensor};

/// What a user calls a mode, the line of `layer.toml` that changes, and what it becomes.
const MODES: [(&str, &str, &str); 7] = [
    ("token choice, capacity 1.0", "factor = 1.25", "factor = 1.0"),
    ("token choice, capacity 1.25", "", ""),
    ("token choice, capacity 2.0", "factor = 1.25", "factor = 2.0"),
    ("token choice, dropless", "factor = 1.25", "fraction = 1.0"),
    ("hash of token ids", "mode = \"token_choice\"", "mode = \"hash\""),
    ("expert choice", "mode = \"token_choice\"", "mode = \"expert_choice\""),
    ("soft", "mode = \"token_choice\"", "mode = \"soft\""),
];
const LAYER: &str = include_str!("../layer.toml");

/// Sequences of the batch, and tokens of one.
const BATCH: [u64; 2] = [8, 256];
/// What tokens are about; the first is the most common.
const TOPICS: usize = 24;

/// What a mode made of the batch.
struct Outcome {
    title: &'static str,
    /// Share of the (token, expert) pairs that found no room; `None` where no pairs can be dropped.
    dropped: Option<f64>,
    /// Share of the tokens that no expert sees.
    unseen: f64,
    /// Rows of the busiest expert over the mean: how long the others wait for it.
    busiest: f64,
    /// Multiply-adds of the layer.
    cost: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let outcomes = MODES.iter().map(outcome).collect::<Result<Vec<_>, _>>()?;
    fs::write(folder.join("README.md"), page(&outcomes)?)?;
    fs::write(folder.join("modes.svg"), plot(&outcomes)?)?;
    Ok(())
}

/// `layer.toml` in this mode.
fn layer((_, line, becomes): &(&str, &str, &str)) -> String {
    LAYER.replacen(line, becomes, 1)
}

/// Compiles the mode for this CPU and runs the batch.
fn outcome(mode: &(&'static str, &str, &str)) -> Result<Outcome, Box<dyn Error>> {
    let source = Source { name: "layer.toml".to_string(), text: layer(mode) };
    let spec = spec::parse(&source).map_err(|wrong| format!("{}: {wrong:?}", mode.0))?;
    let host = this_host().ok_or("no x86-64 CPU of level v3")?;
    let package = compile(&spec, Entry::Layer, &source.text, &[host], &Options::default())?;
    let layer = Layer::load(&package, DeviceKind::Host { threads: None })?;

    // Weights are drawn by name: all modes have the same experts, and the same router where they have one.
    let bound = layer.bind(random::weights(layer.manifest(), 1)?)?;
    let (tokens, ids) = batch(&spec)?;
    let inputs = if spec.router.mode == Mode::Hash { vec![tokens, ids] } else { vec![tokens] };
    let run = bound.run(&inputs, Dims { tokens: BATCH[0] * BATCH[1], sequence_tokens: BATCH[1] })?;
    measured(mode.0, &spec, &run)
}

fn measured(title: &'static str, spec: &Spec, run: &Run) -> Result<Outcome, Box<dyn Error>> {
    let counts = |name: &str| -> Result<Vec<i32>, Box<dyn Error>> {
        Ok(run.tensor(name).ok_or_else(|| format!("{title}: no {name}"))?.to_i32()?)
    };
    let tokens = (BATCH[0] * BATCH[1]) as f64;
    let (hidden, experts) = (spec.hidden as f64, spec.experts as f64);
    let row = 3.0 * hidden * spec.expert.intermediate as f64;
    if let Mode::Soft(soft) = spec.router.mode {
        // Every token has logits for all slots, is mixed into them, and has them mixed back.
        let slots = experts * soft.slots as f64;
        let rows = BATCH[0] as f64 * slots;
        return Ok(Outcome { title, dropped: None, unseen: 0.0, busiest: 1.0, cost: rows * row + 3.0 * tokens * slots * hidden });
    }
    let (load, kept, rows) = (counts("stats.load")?, counts("stats.kept")?, counts("route.rows")?);
    let sum = |counts: &[i32]| counts.iter().map(|n| f64::from(*n)).sum::<f64>();
    let unseen = rows.chunks(spec.picks() as usize).filter(|rows| rows.iter().all(|row| *row < 0)).count();
    let kept_load: Vec<f64> = kept.iter().map(|n| f64::from(*n)).collect();
    let health = Health::of(&kept_load, 1.0);
    Ok(Outcome {
        title,
        dropped: (spec.router.mode != Mode::ExpertChoice).then(|| 1.0 - sum(&kept) / sum(&load)),
        unseen: unseen as f64 / tokens,
        busiest: health.largest / health.mean,
        cost: sum(&kept) * row + tokens * experts * hidden,
    })
}

/// Tokens about topics of which few are common, as text is, and an id for each.
fn batch(spec: &Spec) -> Result<(Tensor, Tensor), moec_runtime::Error> {
    let (tokens, hidden) = (BATCH[0] * BATCH[1], spec.hidden as usize);
    let topics = random::tokens(DType::F32, TOPICS as u64, spec.hidden, 2)?.to_f64();
    let own = random::tokens(DType::F32, tokens, spec.hidden, 3)?.to_f64();
    let weights: Vec<f64> = (1..=TOPICS).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    // A low-discrepancy sequence (the golden ratio's) in the place of dice.
    let unit = |i: usize, step: f64| ((i + 1) as f64 * step).fract();
    let topic = |token: usize| {
        let mut left = unit(token, 0.618_033_988_749_895) * total;
        weights.iter().position(|weight| (left -= weight, left <= 0.0).1).unwrap_or(0)
    };
    let value = |i: usize| (topics[topic(i / hidden) * hidden + i % hidden] + 0.6 * own[i]) as f32;
    let values: Vec<f32> = (0..tokens as usize * hidden).map(value).collect();
    // A word in twenty of a topic's.
    let id = |token: usize| (topic(token) * 21 + (unit(token, 0.754_877_666_246_693) * 20.0) as usize) as i32;
    let ids = (0..tokens as usize).flat_map(|token| id(token).to_le_bytes()).collect();
    Ok((Tensor::from_f32(DType::F32, vec![tokens, spec.hidden], &values)?, Tensor::new(DType::I32, vec![tokens], ids)?))
}

/// The page: what was changed, what came out.
fn page(outcomes: &[Outcome]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let [sequences, tokens] = BATCH;
    writeln!(
        text,
        "# Routing modes on the same tokens\n\n\
         [`layer.toml`](layer.toml) is one layer: 8 experts of 64 x 128, {sequences} sequences of {tokens} tokens. Every routing mode is\n\
         one line of it; `cargo run -p routing-modes` compiles each for this CPU, runs the batch, and writes this page. The tokens\n\
         are about {TOPICS} topics, of which few are common; the router is random, as one is before any training.\n\n\
         ![drop, balance and cost by mode](modes.svg)\n\n\
         | mode | the line | dropped | no expert | busiest | cost |\n|---|---|---|---|---|---|"
    )?;
    let dropless = cost_of_dropless(outcomes);
    for (outcome, (title, _, line)) in outcomes.iter().zip(MODES) {
        let line = if line.is_empty() { "as it is".to_string() } else { format!("`{line}`") };
        let (unseen, busiest, cost) = (percent(outcome.unseen), outcome.busiest, outcome.cost / dropless);
        let dropped = outcome.dropped.map_or("-".to_string(), percent);
        writeln!(text, "| {title} | {line} | {dropped} | {unseen} | {busiest:.2} x | {cost:.2} x |")?;
    }
    writeln!(
        text,
        "\n* **dropped**: (token, expert) pairs that found no room. Where experts choose, and where slots mix, there are none.\n\
         * **no expert**: tokens that no expert sees; the layer gives them zeros, and the residual around it themselves.\n\
         * **busiest**: rows of the busiest expert over the mean, after dropping: how long the others wait for it.\n\
         * **cost**: multiply-adds of experts, router and mixing, over those of dropless routing.\n\n\
         A capacity buys balance with tokens: the smaller, the more even and the more is dropped, much with a router as untrained as\n\
         this one. Dropless routing loses nothing and waits for the busiest expert. A table of token ids knows nothing of a token but\n\
         its id, and is as even as the words are common. Expert choice is even by construction and fills every row of its capacity\n\
         (hence its cost), but leaves out tokens that no expert ranks high; which it takes depends on later tokens of the\n\
         sequence, so decoders need care. Soft-MoE is even and drops nothing, looks at the whole sequence too, and pays for the mixing:\n\
         much here, where experts are small, and little where they are large.\n\n\
         For a trace of your own router, `moec route` has the same comparison from recorded logits, and every capacity between."
    )?;
    Ok(text)
}

fn cost_of_dropless(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().find(|outcome| outcome.title.ends_with("dropless")).map_or(1.0, |outcome| outcome.cost)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Three columns of bars, for light and dark pages.
fn plot(outcomes: &[Outcome]) -> Result<String, std::fmt::Error> {
    const LINE: f64 = 30.0;
    const TOP: f64 = 40.0;
    const WIDTH: f64 = 130.0;
    let dropless = cost_of_dropless(outcomes);
    type Column<'a> = (&'a str, f64, &'a dyn Fn(&Outcome) -> f64, &'a dyn Fn(f64) -> String);
    let times = |x: f64| format!("{x:.2} x");
    let columns: [Column; 3] = [
        ("dropped, or seen by no expert", 220.0, &|o| o.dropped.unwrap_or(o.unseen), &percent),
        ("busiest expert over the mean", 470.0, &|o| o.busiest, &times),
        ("cost over dropless", 690.0, &|o| o.cost / dropless, &times),
    ];
    let height = TOP + LINE * outcomes.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title>Drop, balance and cost by routing mode</title>\n\
         <style>text {{ fill: #24292f }} .drop {{ fill: #0072b2 }} .balance {{ fill: #d55e00 }} .cost {{ fill: #009e73 }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #d0d7de }} .drop {{ fill: #56b4e9 }} .balance {{ fill: #e69f00 }} }}</style>\n"
    );
    for ((heading, x, of, label), class) in columns.into_iter().zip(["drop", "balance", "cost"]) {
        writeln!(svg, "<text x=\"{x}\" y=\"22\" font-weight=\"600\" font-size=\"12\">{heading}</text>")?;
        let most = outcomes.iter().map(of).fold(f64::MIN_POSITIVE, f64::max);
        for (i, outcome) in outcomes.iter().enumerate() {
            let (value, y) = (of(outcome), TOP + LINE * i as f64);
            let width = WIDTH * value / most;
            writeln!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\"/>")?;
            writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{}</text>", x + width + 6.0, y + 14.0, label(value))?;
        }
    }
    for (i, outcome) in outcomes.iter().enumerate() {
        writeln!(svg, "<text x=\"0\" y=\"{}\">{}</text>", TOP + LINE * i as f64 + 14.0, outcome.title)?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(name: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a file of the example")
    }

    #[test]
    fn the_page_is_what_the_program_writes() {
        let outcomes: Vec<Outcome> = MODES.iter().map(|mode| outcome(mode).expect(mode.0)).collect();
        assert_eq!(page(&outcomes).expect("a page"), committed("README.md"), "`cargo run -p routing-modes` writes it");
        assert_eq!(plot(&outcomes).expect("a plot"), committed("modes.svg"), "`cargo run -p routing-modes` writes it");
        // What the page says of them.
        let of = |title: &str| outcomes.iter().find(|outcome| outcome.title == title).expect(title);
        let dropped = |title: &str| of(title).dropped.expect("pairs");
        let [one, more, two] = ["1.0", "1.25", "2.0"].map(|factor| dropped(&format!("token choice, capacity {factor}")));
        assert!(one > more && more > two && two > 0.0 && dropped("token choice, dropless") == 0.0);
        assert_eq!((of("expert choice").busiest, of("soft").busiest), (1.0, 1.0), "even by construction");
        assert!(of("expert choice").unseen > 0.0 && of("soft").cost > of("token choice, dropless").cost);
    }

    #[test]
    fn a_mode_is_one_line() {
        for mode in &MODES {
            let (text, lines) = (layer(mode), LAYER.lines());
            let changed = lines.zip(text.lines()).filter(|(before, after)| before != after).count();
            assert_eq!((changed, text.lines().count()), (usize::from(!mode.1.is_empty()), LAYER.lines().count()), "{}", mode.0);
        }
    }
}
