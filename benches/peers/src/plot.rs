//! Two charts in one SVG: time of a message by size, and round trips by percentile.
//!
//! A chart shows a few subjects, each with its name at its line. The points of all subjects go to a
//! CSV file, from which the SVG can be drawn again.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::comparison::RowResult;
use crate::harness::report::{counted, median, time, usual_distance};
use crate::rows::{Work, long};
use crate::runner::QUANTILES;
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

/// What a chart shows, and how.
struct Chart {
    name: &'static str,
    title: &'static str,
    subtitle: &'static str,
    /// Subjects with their labels and the class of their line.
    series: &'static [(&'static str, &'static str, &'static str)],
    /// Where a value of x goes, before it is scaled to the width.
    place: fn(f64) -> f64,
    /// The least value of x that is shown.
    first: f64,
    label: fn(f64) -> String,
}

const CHARTS: [Chart; 2] = [
    Chart {
        name: ONE_WAY,
        title: "One way: time of a message by its size",
        subtitle: "posted one by one, median; lower is faster; * messages of one length",
        series: &[
            ("memcpy", "memcpy", "limit"),
            ("ipc-channel", "ipc-channel", "c"),
            ("unix-stream", "Unix stream*", "d"),
            ("iceoryx2", "iceoryx2", "b"),
            ("ringfire", "ringfire*", "a"),
            ("messageport", "messageport", "ours"),
        ],
        place: f64::log2,
        first: 0.0,
        label: |x| long(x as usize),
    },
    Chart {
        name: ROUND_TRIP,
        title: "Round trip of 64 B by percentile, both processes polling",
        subtitle: "lower is faster; * messages of one length",
        series: &[
            ("two-lines", "two cache lines", "limit"),
            ("iceoryx2", "iceoryx2", "b"),
            ("ipmpsc", "ipmpsc", "d"),
            ("shmem-ipc", "shmem-ipc*", "c"),
            ("ringfire", "ringfire*", "a"),
            ("messageport", "messageport", "ours"),
        ],
        place: |percentile| -(1.0 - percentile / 100.0).log10(),
        first: 50.0,
        label: |x| format!("p{x}"),
    },
];

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
        let shown: Vec<(&str, &str, Vec<&Point>)> = self
            .series
            .iter()
            .map(|(name, label, class)| (*label, *class, self.points(points, name)))
            .filter(|(.., points)| !points.is_empty())
            .collect();
        let _ = writeln!(text, "<text class=\"title\" x=\"{LEFT}\" y=\"30\">{}</text>", self.title);
        let all = || shown.iter().flat_map(|(.., points)| points.iter());
        let x = Scale::new(all().map(|point| (self.place)(point.x)), (LEFT, RIGHT), 0.0);
        let y = Scale::new(all().map(|point| point.y.log10()), (BOTTOM, TOP), 0.05);
        let (Some(x), Some(y)) = (x, y) else {
            let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"60\">not measured</text>");
            return;
        };
        let _ =
            writeln!(text, "<text class=\"note\" x=\"{LEFT}\" y=\"52\">{}</text>", self.subtitle);
        self.draw_grid(text, all().map(|point| point.x), (&x, &y));
        let place = |point: &Point| (x.at((self.place)(point.x)), y.at(point.y.log10()));
        let mut labels = Vec::new();
        for (label, class, points) in &shown {
            let line: Vec<String> = points
                .iter()
                .map(|point| place(point))
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ = writeln!(text, "<polyline class=\"{class}\" points=\"{}\"/>", line.join(" "));
            let (end, height) = place(points[points.len() - 1]);
            labels.push((end, height, *label, *class));
        }
        draw_labels(text, labels);
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

    /// A line for each power of ten, and a label below each value of x.
    fn draw_grid(
        &self,
        text: &mut String,
        xs: impl Iterator<Item = f64>,
        (x, y): (&Scale, &Scale),
    ) {
        for power in y.least.ceil() as i32..=y.most.floor() as i32 {
            let (height, label) = (y.at(f64::from(power)), time(10_f64.powi(power)));
            let label = label.replace(".0 ", " ").replace("1000 ns", "1 µs");
            let label = label.replace("1000 µs", "1 ms");
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
const WIDTH: f64 = 930.0;
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
  polyline.d { stroke: #bf3989; }
  polyline.limit { stroke: #59636e; stroke-dasharray: 5 4; }
  polyline.lead { stroke-width: 1; stroke-dasharray: none; }
  text.ours { fill: #0969da; font-weight: 600; }
  text.a { fill: #bc4c00; }
  text.b { fill: #1a7f37; }
  text.c { fill: #8250df; }
  text.d { fill: #bf3989; }
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
    polyline.d { stroke: #f778ba; }
    polyline.limit { stroke: #9198a1; }
    text.ours { fill: #4493f8; }
    text.a { fill: #f0883e; }
    text.b { fill: #3fb950; }
    text.c { fill: #ab7df8; }
    text.d { fill: #f778ba; }
  }
";
