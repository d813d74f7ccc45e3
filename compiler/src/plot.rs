//! Plots as inline SVG: axes, lines, areas and bars in a view box that scales with the page. Colours are classes, which the
//! page's style gives for light and dark, or a file's own. A label is put where no other text is, or not at all. What is plotted is
//! the business of `routing::figures` and `plan::roofline`.

use std::fmt::Write;

/// Size of every plot in its own units: text of 14 of them is readable at 400 and at 1280 pixels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 44.0;
/// A wide digit of that text, and a line of it.
const DIGIT: f64 = 8.9;
const LINE: f64 = 15.0;

/// An axis: its ends, its name, and how its numbers are written.
pub(crate) struct Axis<'a> {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) name: &'static str,
    pub(crate) write: &'a dyn Fn(f64) -> String,
}

impl Axis<'_> {
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
pub(crate) struct Plot<'a> {
    x: Axis<'a>,
    y: Axis<'a>,
    inside: String,
    /// Where there is text.
    texts: Vec<Area>,
}

/// Where a text stands: which point of its base line, and which of its ends is there.
#[derive(Clone, Copy)]
struct Spot {
    x: f64,
    y: f64,
    anchor: Anchor,
}

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// What a text covers, at most.
#[derive(Clone, Copy, Debug)]
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Area {
    fn of(text: &str, spot: Spot) -> Area {
        let width = DIGIT * text.chars().count() as f64;
        let left = match spot.anchor {
            Anchor::Start => spot.x,
            Anchor::Middle => spot.x - width / 2.0,
            Anchor::End => spot.x - width,
        };
        Area { left, right: left + width, top: spot.y - LINE + 3.0, bottom: spot.y + 3.0 }
    }

    fn meets(&self, other: &Area) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn is_inside(&self) -> bool {
        self.left >= 0.0 && self.right <= WIDTH && self.top >= 0.0 && self.bottom <= HEIGHT - BOTTOM
    }
}

/// How many labels of so many characters stand beside each other above a plot.
pub(crate) fn labels_in_a_row(characters: usize) -> usize {
    ((WIDTH - LEFT - RIGHT) / (DIGIT * (characters + 1) as f64)) as usize
}

/// The part of a plot's height that so many rows of labels take.
pub(crate) fn height_of_rows(rows: usize) -> f64 {
    LINE * rows as f64 / (HEIGHT - TOP - BOTTOM)
}

impl<'a> Plot<'a> {
    /// An empty plot with both axes.
    pub(crate) fn new(x: Axis<'a>, y: Axis<'a>) -> Plot<'a> {
        let mut plot = Plot { x, y, inside: String::new(), texts: Vec::new() };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in plot.y.ticks(5.0) {
            let (at, text) = (plot.y(tick), (plot.y.write)(tick));
            plot.add(format!("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/>", n(LEFT), n(right)));
            let spot = Spot { x: LEFT - 6.0, y: plot.y_at(tick) + 4.5, anchor: Anchor::End };
            plot.text(spot, "tick", &text);
        }
        for tick in plot.x.ticks(7.0) {
            let text = (plot.x.write)(tick);
            let spot = Spot { x: plot.x_at(tick), y: bottom + 17.0, anchor: Anchor::Middle };
            // A number beside another that is too near is left out.
            if !plot.texts.iter().any(|other| Area::of(&text, spot).meets(other)) {
                plot.text(spot, "tick", &text);
            }
        }
        plot.add(format!("<path class=\"axis\" d=\"M{} {}V{}H{}\"/>", n(LEFT), n(TOP), n(bottom), n(right)));
        let (x_name, y_name) = (plot.x.name, plot.y.name);
        plot.text(Spot { x: (LEFT + right) / 2.0, y: HEIGHT - 6.0, anchor: Anchor::Middle }, "name", x_name);
        plot.text(Spot { x: 4.0, y: 12.0, anchor: Anchor::Start }, "name", y_name);
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

    fn text(&mut self, spot: Spot, class: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        self.texts.push(Area::of(text, spot));
        let anchor = match spot.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, text) = (n(spot.x), n(spot.y), escape(text));
        self.add(format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    /// Puts a label at the first of the spots where there is room for it, and says where.
    fn label(&mut self, text: &str, spots: impl IntoIterator<Item = Spot>) -> Option<Spot> {
        let is_free = |spot: &Spot| {
            let area = Area::of(text, *spot);
            area.is_inside() && !self.texts.iter().any(|other| area.meets(other))
        };
        let spot = spots.into_iter().find(is_free)?;
        self.text(spot, "label", text);
        Some(spot)
    }

    /// A line through the points.
    pub(crate) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let path = self.path(points.iter().copied());
        self.add(format!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }

    /// What lies between two lines: `(x, low, high)`.
    pub(crate) fn area(&mut self, class: &str, points: &[(f64, f64, f64)]) {
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
    pub(crate) fn bar(&mut self, class: &str, (from, to): (f64, f64), y: f64, title: &str) {
        let (left, top) = (self.x_at(from), self.y_at(y));
        let (width, height) = ((self.x_at(to) - left).max(0.3), (HEIGHT - BOTTOM - top).max(0.0));
        let place = format!("x=\"{:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"{}\"", left, n(top), n(height));
        self.add(format!("<rect class=\"{class}\" {place}><title>{}</title></rect>", escape(title)));
    }

    /// The name of a bar above it, or further up with a line to it; whether there was room.
    pub(crate) fn name_bar(&mut self, x: f64, y: f64, name: &str) -> bool {
        const ROWS: i32 = 12;
        let (x, top) = (self.x_at(x), self.y_at(y));
        let spots = (0..ROWS).map(|row| Spot { x, y: top - 4.0 - LINE * f64::from(row), anchor: Anchor::Middle });
        let Some(spot) = self.label(name, spots) else { return false };
        if spot.y < top - LINE {
            let (x, from, to) = (n(x), n(spot.y + 3.0), n(top - 1.0));
            self.add(format!("<line class=\"leader\" x1=\"{x}\" x2=\"{x}\" y1=\"{from}\" y2=\"{to}\"/>"));
        }
        true
    }

    /// A dot, with what is said where the mouse is over it.
    pub(crate) fn dot(&mut self, class: &str, (x, y): (f64, f64), title: &str) {
        let (x, y) = (self.x(x), self.y(y));
        self.add(format!("<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"4\"><title>{}</title></circle>", escape(title)));
    }

    /// A name beside a point, if there is room on one of its sides.
    pub(crate) fn name_dot(&mut self, (x, y): (f64, f64), name: &str) {
        let (x, y) = (self.x_at(x), self.y_at(y));
        let beside = [(x + 7.0, Anchor::Start), (x - 7.0, Anchor::End)].map(|(x, anchor)| Spot { x, y: y + 4.5, anchor });
        let apart = [y - 8.0, y + 18.0].map(|y| Spot { x, y, anchor: Anchor::Middle });
        self.label(name, beside.into_iter().chain(apart));
    }

    /// A line across, with its name at one of its ends, rather above than below it, or the other way round.
    pub(crate) fn across(&mut self, class: &str, y: f64, is_above: bool, name: &str) {
        let (at, right) = (self.y(y), WIDTH - RIGHT);
        self.add(format!("<line class=\"line {class}\" x1=\"{}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/>", n(LEFT), n(right)));
        let y = self.y_at(y);
        let ends = [(right, Anchor::End), (LEFT + 6.0, Anchor::Start)];
        let shifts = if is_above { [-5.0, 14.0] } else { [14.0, -5.0] };
        let spots = shifts.into_iter().flat_map(|shift| ends.map(|(x, anchor)| Spot { x, y: y + shift, anchor }));
        self.label(name, spots);
    }

    /// A line upwards, with its name beside it, on the side that has room, as high as there is.
    pub(crate) fn upright(&mut self, class: &str, x: f64, name: &str) {
        const ROWS: i32 = 6;
        let (at, top) = (self.x(x), TOP);
        self.add(format!(
            "<line class=\"line {class}\" x1=\"{at}\" x2=\"{at}\" y1=\"{}\" y2=\"{}\"/>",
            n(top),
            n(HEIGHT - BOTTOM)
        ));
        let x = self.x_at(x);
        let sides = [(x + 5.0, Anchor::Start), (x - 5.0, Anchor::End)];
        let spots =
            (0..ROWS).flat_map(|row| sides.map(|(x, anchor)| Spot { x, y: top + 10.0 + (LINE + 1.0) * f64::from(row), anchor }));
        self.label(name, spots);
    }

    /// What is said where the mouse is over a stretch of the plot.
    pub(crate) fn hover(&mut self, (from, to): (f64, f64), title: &str) {
        let (left, right) = (self.x_at(from), self.x_at(to));
        let place = format!("x=\"{}\" y=\"{}\" width=\"{}\"", n(left), n(TOP), n((right - left).max(0.3)));
        let height = n(HEIGHT - TOP - BOTTOM);
        self.add(format!("<rect class=\"hover\" {place} height=\"{height}\"><title>{}</title></rect>", escape(title)));
    }

    /// The plot as one element; the description is for screen readers.
    pub(crate) fn svg(&self, id: &str, title: &str, description: &str) -> String {
        svg("", id, (WIDTH, HEIGHT), title, description, &self.inside)
    }

    /// The plot as a file of its own, with the style of its classes.
    pub(crate) fn file(&self, id: &str, title: &str, description: &str, style: &str) -> String {
        let inside =
            format!("<style>{style}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n{}", self.inside);
        svg(" xmlns=\"http://www.w3.org/2000/svg\"", id, (WIDTH, HEIGHT), title, description, &inside)
    }
}

/// Rows of two bars each, with their numbers: name, then for each bar its length from 0 to 1 and its text.
pub(crate) fn pairs_of_bars(
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
    svg("", id, (WIDTH, HEAD + ROW * rows.len() as f64), title, description, &inside)
}

fn svg(namespace: &str, id: &str, (width, height): (f64, f64), title: &str, description: &str, inside: &str) -> String {
    format!(
        "<svg{namespace} viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"{id}-title {id}-text\">\n<title id=\"{id}-title\">{}</title>\n\
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
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(from: f64, to: f64) -> Axis<'static> {
        Axis { from, to, name: "x", write: &|x| x.to_string() }
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
    /// Hot bars beside each other, lines and their names: no two texts meet, and the hottest have theirs.
    #[test]
    fn labels_never_meet() {
        let mut plot = Plot::new(axis(-0.5, 511.5), axis(0.0, 4.0));
        plot.across("limit", 1.25, true, "1.25 of the mean");
        plot.across("mean", 1.2, false, "mean");
        plot.upright("spec", 300.0, "spec 1.25");
        plot.upright("enough", 301.0, "enough 1.26");
        let named: Vec<bool> = (0..40).map(|i| plot.name_bar(100.0 + f64::from(i), 3.0, &(100 + i).to_string())).collect();
        assert!(named[0] && named[1] && named[2]);
        for (i, a) in plot.texts.iter().enumerate() {
            assert!(plot.texts[i + 1..].iter().all(|b| !a.meets(b)), "{a:?}");
        }
    }
}
