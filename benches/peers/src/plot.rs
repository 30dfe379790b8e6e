//! Two charts in one SVG: time of a message by size, and round trips by percentile.
//!
//! A chart shows a few subjects, each with its name at its line. The points of all subjects go to a
//! CSV file, from which the SVG can be drawn again.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::comparison::RowResult;
use crate::harness::report::{counted, median, usual_distance};
use crate::rows::{Work, long};
use crate::runner::QUANTILES;
use crate::subjects::{self, Kind};
use crate::table::summary;

/// One point of one subject.
pub struct Point {
    chart: String,
    subject: String,
    /// Bytes of a message, or a percentile.
    x: f64,
    /// Nanoseconds.
    y: f64,
}

/// What a chart shows, and how: the limit, the best peers, and ours.
struct Chart {
    name: &'static str,
    title: &'static str,
    subtitle: &'static str,
    /// The limit with its label.
    limit: (&'static str, &'static str),
    /// Whether it shows multiples of the limit. Times that grow with the size lie too close.
    is_multiple: bool,
    /// Ours, each with the class of its line.
    ours: &'static [(&'static str, &'static str)],
    /// Where a value of x goes, before it is scaled to the width.
    place: fn(f64) -> f64,
    /// The least value of x that is shown.
    first: f64,
    label: fn(f64) -> String,
}

const CHARTS: [Chart; 2] = [
    Chart {
        name: ONE_WAY,
        title: "One way: time of a message, as a multiple of memcpy, by its size",
        subtitle: "posted one by one, median; lower is faster; the three fastest other libraries; \
                   * messages of one length",
        limit: ("memcpy", "limit: memcpy"),
        is_multiple: true,
        ours: &[
            ("messageport-trusted", "ours trusted"),
            ("messageport-batch", "ours batch"),
            ("messageport", "ours"),
        ],
        place: f64::log2,
        first: 0.0,
        label: |x| long(x as usize),
    },
    Chart {
        name: ROUND_TRIP,
        title: "Round trip of 64 B by percentile, both processes polling",
        subtitle: "lower is faster; the three fastest other libraries; * messages of one length",
        limit: ("two-lines", "limit: two lines"),
        is_multiple: false,
        ours: &[("messageport-trusted", "ours trusted"), ("messageport", "ours")],
        place: |percentile| -(1.0 - percentile / 100.0).log10(),
        first: 50.0,
        label: |x| format!("p{x}"),
    },
];

/// A line of a chart.
struct Line {
    label: String,
    class: &'static str,
    /// In the order of x.
    points: Vec<(f64, f64)>,
}

/// Writes the SVG, and beside it a CSV file with all points.
pub fn draw(path: &Path, results: &[RowResult]) -> Result<(), String> {
    let points = points_of(results);
    fs::write(path, svg(&points)).map_err(|error| error.to_string())?;
    fs::write(path.with_extension(POINTS), csv(&points)).map_err(|error| error.to_string())
}

/// Draws the SVG again from the CSV file beside it.
pub fn redraw(path: &Path) -> Result<(), String> {
    let text =
        fs::read_to_string(path.with_extension(POINTS)).map_err(|error| error.to_string())?;
    let points = text.lines().skip(1).map(|line| parse(line).ok_or(format!("no point: {line}")));
    let points = points.collect::<Result<Vec<_>, _>>()?;
    fs::write(path, svg(&points)).map_err(|error| error.to_string())
}

fn parse(line: &str) -> Option<Point> {
    let mut fields = line.split(',');
    let mut next = || fields.next();
    let (chart, subject) = (next()?.to_owned(), next()?.to_owned());
    let (x, y) = (next()?.parse().ok()?, next()?.parse().ok()?);
    Some(Point { chart, subject, x, y })
}

fn csv(points: &[Point]) -> String {
    let mut text = "chart,subject,bytes or percentile,ns\n".to_owned();
    for Point { chart, subject, x, y } in points {
        let _ = writeln!(text, "{chart},{subject},{x},{}", (y * 10.0).round() / 10.0);
    }
    text
}

/// The medians of the messages one way, and the distributions of the round trips of 64 bytes.
fn points_of(results: &[RowResult]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut push = |chart: &str, subject: &str, x, y| {
        points.push(Point { chart: chart.to_owned(), subject: subject.to_owned(), x, y });
    };
    for result in results {
        let usual = usual_distance(&result.series);
        for (cell, series) in result.cells.iter().zip(&result.series) {
            match result.row.work {
                Work::OneWay { bytes, is_burst: false } => {
                    if let Some(summary) = summary(series, usual) {
                        push(ONE_WAY, cell.name, bytes as f64, summary.median);
                    }
                }
                Work::Trip { bytes: 64, is_asleep: false } => {
                    let kept = counted(series, usual);
                    let runs = series.runs.iter().zip(&cell.quantiles);
                    let runs: Vec<_> = runs
                        .filter(|(run, _)| kept.iter().any(|kept| std::ptr::eq(*kept, *run)))
                        .collect();
                    for (at, quantile) in QUANTILES.iter().enumerate() {
                        let values = runs.iter().filter_map(|(_, one)| one.get(at).copied());
                        let y = median(values);
                        if y.is_finite() {
                            let percentile = (quantile * 1e6).round() / 1e4;
                            push(ROUND_TRIP, cell.name, percentile, y);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    points
}

fn svg(points: &[Point]) -> String {
    let height = CHARTS.len() as f64 * HEIGHT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>Time of a message by its size, and round trips by percentile</title>\n\
         <style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    for (index, chart) in CHARTS.iter().enumerate() {
        let _ = writeln!(text, "<g transform=\"translate(0 {})\">", index as f64 * HEIGHT);
        chart.draw(points, &mut text);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

impl Chart {
    fn draw(&self, points: &[Point], text: &mut String) {
        let shown = self.lines(points);
        let _ = writeln!(text, "<text class=\"title\" x=\"{LEFT}\" y=\"30\">{}</text>", self.title);
        let all = || shown.iter().flat_map(|line| line.points.iter());
        let x = Scale::new(all().map(|point| (self.place)(point.0)), (LEFT, RIGHT), 0.0);
        let y = Scale::new(all().map(|point| point.1.log10()), (BOTTOM, TOP), 0.05);
        let (Some(x), Some(y)) = (x, y) else {
            let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"60\">not measured</text>");
            return;
        };
        let _ =
            writeln!(text, "<text class=\"note\" x=\"{LEFT}\" y=\"52\">{}</text>", self.subtitle);
        self.draw_grid(text, all().map(|point| point.0), (&x, &y));
        let place = |point: &(f64, f64)| (x.at((self.place)(point.0)), y.at(point.1.log10()));
        let mut labels = Vec::new();
        for Line { label, class, points } in &shown {
            let line: Vec<String> =
                points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(text, "<polyline class=\"{class}\" points=\"{}\"/>", line.join(" "));
            let (end, height) = place(&points[points.len() - 1]);
            labels.push((end, height, &**label, *class));
        }
        draw_labels(text, labels);
    }

    /// The lines with points, ours last, so that they lie on top.
    fn lines(&self, points: &[Point]) -> Vec<Line> {
        let (limit, label) = self.limit;
        let limits = self.points(points, limit);
        let shown = |point: &&Point| {
            if !self.is_multiple {
                return Some((point.x, point.y));
            }
            let limit = limits.iter().find(|limit| limit.x == point.x)?;
            Some((point.x, point.y / limit.y))
        };
        let line = |subject: &str, label: &str, class| Line {
            label: label.to_owned(),
            class,
            points: self.points(points, subject).iter().filter_map(shown).collect(),
        };
        let mut lines = vec![line(limit, label, "limit")];
        for ((subject, label), class) in self.best_peers(points).iter().zip(["a", "b", "c"]) {
            lines.push(line(subject, label, class));
        }
        for (subject, class) in self.ours {
            lines.push(line(subject, subject, class));
        }
        lines.retain(|line| !line.points.is_empty());
        lines
    }

    /// The three peers that are the fastest over all of x, with their labels: by the mean ratio to
    /// the fastest peer at each value of x that they have, of which they must have half.
    fn best_peers(&self, points: &[Point]) -> Vec<(String, String)> {
        let entries = subjects::all();
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let of_chart = || points.iter().filter(|point| point.chart == self.name);
        let mut names: Vec<&str> = of_chart().map(|point| &*point.subject).collect();
        names.sort_unstable();
        names.dedup();
        // Without its feature Aeron has no entry, but a file may have its points.
        names.retain(|name| find(name).is_none_or(|entry| entry.kind.is_peer()));
        let peers: Vec<Vec<&Point>> = names.iter().map(|name| self.points(points, name)).collect();
        let least = |x: f64| {
            let times = peers.iter().flatten().filter(|point| point.x == x).map(|point| point.y);
            times.fold(f64::INFINITY, f64::min)
        };
        let most = peers.iter().map(Vec::len).max().unwrap_or_default();
        let cost = |peer: &Vec<&Point>| {
            let ratios = peer.iter().map(|point| (point.y / least(point.x)).ln());
            let mean = ratios.sum::<f64>() / peer.len() as f64;
            if 2 * peer.len() < most { f64::INFINITY } else { mean }
        };
        let costs: Vec<f64> = peers.iter().map(cost).collect();
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by(|one, other| costs[*one].total_cmp(&costs[*other]));
        let label = |name: &str| {
            let is_fixed = find(name).is_some_and(|entry| entry.kind == Kind::FixedPeer);
            (name.to_owned(), format!("{name}{}", if is_fixed { "*" } else { "" }))
        };
        order.into_iter().take(3).map(|index| label(names[index])).collect()
    }

    /// The points of a subject in the order of x.
    fn points<'p>(&self, points: &'p [Point], subject: &str) -> Vec<&'p Point> {
        let is_shown = |point: &&Point| {
            point.chart == self.name && point.subject == subject && point.x >= self.first
        };
        let mut found: Vec<&Point> = points.iter().filter(is_shown).collect();
        found.sort_by(|one, other| one.x.total_cmp(&other.x));
        found
    }

    /// A line for 1, 2 and 5 of each power of ten, and a label below each value of x.
    fn draw_grid(
        &self,
        text: &mut String,
        xs: impl Iterator<Item = f64>,
        (x, y): (&Scale, &Scale),
    ) {
        let powers = y.least.floor() as i32..=y.most.floor() as i32;
        let values = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|one| one * 10_f64.powi(power)));
        for value in values.filter(|value| (y.least..=y.most).contains(&value.log10())) {
            let height = y.at(value.log10());
            let label = match value {
                _ if self.is_multiple => format!("{value}×"),
                _ if value < 1e3 => format!("{value} ns"),
                _ if value < 1e6 => format!("{} µs", value / 1e3),
                _ => format!("{} ms", value / 1e6),
            };
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{height:.1}\" \
                 y2=\"{height:.1}\"/>\
                 <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 10.0,
                height + 5.0
            );
        }
        let mut xs: Vec<f64> = xs.collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        for value in xs {
            let _ = writeln!(
                text,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x.at((self.place)(value)),
                BOTTOM + 24.0,
                (self.label)(value)
            );
        }
    }
}

/// Writes each name at the end of its line, at least [`SPACING`] from the next one.
fn draw_labels(text: &mut String, mut labels: Vec<(f64, f64, &str, &str)>) {
    labels.sort_by(|one, other| one.1.total_cmp(&other.1));
    let mut heights: Vec<f64> = labels.iter().map(|label| label.1).collect();
    for at in 1..heights.len() {
        heights[at] = heights[at].max(heights[at - 1] + SPACING);
    }
    let lowest = heights.last().copied().unwrap_or_default();
    if lowest > BOTTOM {
        let last = heights.len() - 1;
        heights[last] = BOTTOM;
        for at in (0..last).rev() {
            heights[at] = heights[at].min(heights[at + 1] - SPACING);
        }
    }
    for ((x, y, label, class), height) in labels.into_iter().zip(heights) {
        let _ = writeln!(
            text,
            "<polyline class=\"{class} lead\" points=\"{x:.1},{y:.1} {:.1},{height:.1}\"/>\
             <text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
            RIGHT + 18.0,
            RIGHT + 24.0,
            height + 5.0
        );
    }
}

/// Maps values to a side of the chart.
struct Scale {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// `None` without a value.
    fn new(
        values: impl Iterator<Item = f64>,
        (from, to): (f64, f64),
        margin: f64,
    ) -> Option<Scale> {
        let range = values.fold(None, |range: Option<(f64, f64)>, value| {
            Some(range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
        });
        let (least, most) = range?;
        Some(Scale { least: least - margin, most: most + margin, from, to })
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value - self.least) / (self.most - self.least).max(f64::MIN_POSITIVE);
        self.from + share * (self.to - self.from)
    }
}

/// The ending of the file with the points.
const POINTS: &str = "points.csv";
const ONE_WAY: &str = "one-way";
const ROUND_TRIP: &str = "round-trip";
const WIDTH: f64 = 960.0;
/// Of each chart.
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 760.0;
const TOP: f64 = 75.0;
const BOTTOM: f64 = 410.0;
/// Between two names.
const SPACING: f64 = 19.0;
const STYLE: &str = "
  text { font: 15px system-ui, sans-serif; fill: #1f2328; }
  text.title { font-weight: 600; font-size: 18px; }
  text.note, text.tick { font-size: 13px; fill: #59636e; }
  .page { fill: #ffffff; }
  .grid { stroke: #d1d9e0; }
  polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
  polyline.ours { stroke: #0969da; stroke-width: 3.5; }
  polyline.a { stroke: #bc4c00; }
  polyline.b { stroke: #1a7f37; }
  polyline.c { stroke: #8250df; }
  polyline.trusted { stroke-dasharray: 9 5; }
  polyline.batch { stroke-dasharray: 2 5; stroke-linecap: round; }
  polyline.limit { stroke: #59636e; stroke-dasharray: 5 4; }
  polyline.lead { stroke-width: 1; stroke-linecap: butt; stroke-dasharray: none; }
  text.ours { fill: #0969da; font-weight: 600; }
  text.a { fill: #bc4c00; }
  text.b { fill: #1a7f37; }
  text.c { fill: #8250df; }
  text.limit { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    text.note, text.tick, text.limit { fill: #9198a1; }
    .page { fill: #0d1117; }
    .grid { stroke: #3d444d; }
    polyline.ours { stroke: #4493f8; }
    polyline.a { stroke: #f0883e; }
    polyline.b { stroke: #3fb950; }
    polyline.c { stroke: #ab7df8; }
    polyline.limit { stroke: #9198a1; }
    text.ours { fill: #4493f8; }
    text.a { fill: #f0883e; }
    text.b { fill: #3fb950; }
    text.c { fill: #ab7df8; }
  }
";
