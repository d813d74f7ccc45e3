//! Plots as inline SVG: axes, lines, areas and bars in a view box that scales with the page. Colours are classes, which the
//! page's style gives for light and dark. What is plotted is `html`'s business.

use std::fmt::Write;

/// Size of every plot in its own units: text of 14 of them is readable at 400 and at 1280 pixels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 44.0;

/// An axis: its ends, its name, and how its numbers are written.
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) name: &'static str,
    pub(super) write: fn(f64) -> String,
}

impl Axis {
    fn part(&self, x: f64) -> f64 {
        if self.to > self.from { ((x - self.from) / (self.to - self.from)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Round numbers between the ends, about `many`.
    fn ticks(&self, many: f64) -> Vec<f64> {
        let span = self.to - self.from;
        if span <= 0.0 {
            return vec![self.from];
        }
        let rough = span / many;
        let power = 10f64.powf(rough.log10().floor());
        let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough).unwrap_or(10.0);
        let first = (self.from / step - 1e-9).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|x| *x <= self.to + step * 1e-9).collect()
    }
}

/// A plot being drawn.
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    inside: String,
}

impl Plot {
    /// An empty plot with both axes.
    pub(super) fn new(x: Axis, y: Axis) -> Plot {
        let mut plot = Plot { x, y, inside: String::new() };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in plot.y.ticks(5.0) {
            let (at, text) = (plot.y(tick), (plot.y.write)(tick));
            plot.add(format!("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/>", n(LEFT), n(right)));
            plot.text(LEFT - 6.0, plot.y_at(tick) + 4.5, "end", "tick", &text);
        }
        for tick in plot.x.ticks(7.0) {
            let text = (plot.x.write)(tick);
            plot.text(plot.x_at(tick), bottom + 17.0, "middle", "tick", &text);
        }
        plot.add(format!("<path class=\"axis\" d=\"M{} {}V{}H{}\"/>", n(LEFT), n(TOP), n(bottom), n(right)));
        let (x_name, y_name) = (plot.x.name, plot.y.name);
        plot.text((LEFT + right) / 2.0, HEIGHT - 6.0, "middle", "name", x_name);
        plot.text(4.0, 12.0, "start", "name", y_name);
        plot
    }

    fn x_at(&self, x: f64) -> f64 {
        LEFT + self.x.part(x) * (WIDTH - LEFT - RIGHT)
    }

    fn y_at(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.part(y) * (HEIGHT - TOP - BOTTOM)
    }

    fn x(&self, x: f64) -> String {
        n(self.x_at(x))
    }

    fn y(&self, y: f64) -> String {
        n(self.y_at(y))
    }

    fn add(&mut self, element: String) {
        self.inside.push_str(&element);
        self.inside.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let text = escape(text);
        self.add(format!("<text class=\"{class}\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>", n(x), n(y)));
    }

    /// A line through the points.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let path = self.path(points.iter().copied());
        self.add(format!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }

    /// What lies between two lines: `(x, low, high)`.
    pub(super) fn area(&mut self, class: &str, points: &[(f64, f64, f64)]) {
        let there = points.iter().map(|(x, _, high)| (*x, *high));
        let back = points.iter().rev().map(|(x, low, _)| (*x, *low));
        let path = self.path(there.chain(back));
        self.add(format!("<path class=\"area {class}\" d=\"{path}Z\"/>"));
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (i, (x, y)) in points.enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(path, "{}{} {}", if i == 0 { "M" } else { "L" }, self.x(x), self.y(y));
        }
        path
    }

    /// A bar from the foot of the plot, with what is said where the mouse is over it.
    pub(super) fn bar(&mut self, class: &str, (from, to): (f64, f64), y: f64, title: &str) {
        let (left, top) = (self.x_at(from), self.y_at(y));
        let (width, height) = ((self.x_at(to) - left).max(0.3), (HEIGHT - BOTTOM - top).max(0.0));
        let place = format!("x=\"{:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"{}\"", left, n(top), n(height));
        self.add(format!("<rect class=\"{class}\" {place}><title>{}</title></rect>", escape(title)));
    }

    /// A line across, with its name at the right end, `shift` below it.
    pub(super) fn across(&mut self, class: &str, y: f64, shift: f64, name: &str) {
        let (at, right) = (self.y(y), WIDTH - RIGHT);
        self.add(format!("<line class=\"line {class}\" x1=\"{}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/>", n(LEFT), n(right)));
        self.text(right, self.y_at(y) + shift, "end", "label", name);
    }

    /// A line upwards, with its name beside the top, on the side that has room; `row` keeps neighbours' names apart.
    pub(super) fn upright(&mut self, class: &str, x: f64, row: u32, name: &str) {
        let (at, top) = (self.x(x), TOP);
        self.add(format!(
            "<line class=\"line {class}\" x1=\"{at}\" x2=\"{at}\" y1=\"{}\" y2=\"{}\"/>",
            n(top),
            n(HEIGHT - BOTTOM)
        ));
        let is_right = self.x.part(x) > 0.6;
        let (shift, anchor) = if is_right { (-5.0, "end") } else { (5.0, "start") };
        self.text(self.x_at(x) + shift, top + 10.0 + 16.0 * f64::from(row), anchor, "label", name);
    }

    /// The plot as one element; the description is for who cannot see it.
    pub(super) fn svg(&self, id: &str, title: &str, description: &str) -> String {
        svg(id, (WIDTH, HEIGHT), title, description, &self.inside)
    }
}

/// Rows of two bars each, with their numbers: name, then for each bar its length from 0 to 1 and its text.
pub(super) fn pairs_of_bars(
    id: &str,
    heads: [&str; 2],
    classes: [&str; 2],
    rows: &[(String, [(f64, String); 2])],
    (title, description): (&str, &str),
) -> String {
    const ROW: f64 = 30.0;
    const HEAD: f64 = 24.0;
    const NAME: f64 = 168.0;
    const BAR: f64 = 96.0;
    const PANEL: f64 = (WIDTH - NAME) / 2.0;
    let mut inside = String::new();
    let text = |x: f64, y: f64, class: &str, text: &str| {
        format!("<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>\n", n(x), n(y), escape(text))
    };
    for (panel, head) in heads.iter().enumerate() {
        inside += &text(NAME + PANEL * panel as f64, 14.0, "name", head);
    }
    for (i, (name, bars)) in rows.iter().enumerate() {
        let top = HEAD + ROW * i as f64;
        inside += &text(0.0, top + 17.0, "label", name);
        for (panel, (length, value)) in bars.iter().enumerate() {
            let (left, width) = (NAME + PANEL * panel as f64, BAR * length.clamp(0.0, 1.0));
            let place = format!("x=\"{}\" y=\"{}\" width=\"{}\" height=\"18\"", n(left), n(top + 3.0), n(width.max(0.5)));
            inside += &format!("<rect class=\"{}\" {place}/>\n", classes[panel]);
            inside += &text(left + width + 5.0, top + 17.0, "tick", value);
        }
    }
    svg(id, (WIDTH, HEAD + ROW * rows.len() as f64), title, description, &inside)
}

fn svg(id: &str, (width, height): (f64, f64), title: &str, description: &str, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"{id}-title {id}-text\">\n<title id=\"{id}-title\">{}</title>\n\
         <desc id=\"{id}-text\">{}</desc>\n{inside}</svg>\n",
        n(width),
        n(height),
        escape(title),
        escape(description),
    )
}

/// A coordinate: one decimal is a tenth of a pixel.
fn n(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_string)
}

/// Text that is nothing but text in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(from: f64, to: f64) -> Axis {
        Axis { from, to, name: "x", write: |x| x.to_string() }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(axis(0.0, 1.0).ticks(5.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(axis(0.25, 4.0).ticks(7.0), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(axis(0.0, 137.0).ticks(5.0), [0.0, 50.0, 100.0]);
        assert_eq!(axis(3.0, 3.0).ticks(5.0), [3.0]);
    }

    #[test]
    fn text_is_escaped_and_nothing_leaves_the_box() {
        let mut plot = Plot::new(axis(0.0, 1.0), axis(0.0, 1.0));
        plot.line("a", &[(0.0, -5.0), (2.0, 7.0)]);
        let svg = plot.svg("p", "<script>", "a & b");
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script>") && svg.contains("a &amp; b"));
        assert!(svg.contains("M56 256L468 20"), "{svg}");
    }
}
