//! Two plots in one SVG: throughput by size, and the distribution of round trips.

use std::fmt::Display;
use std::path::Path;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::comparison::RowResult;
use crate::harness::report::{counted, median, time, usual_distance};
use crate::rows::{Work, long};
use crate::runner::QUANTILES;
use crate::subjects::Kind;
use crate::table::summary;

/// A subject's points, in the order of x.
struct Curve {
    name: &'static str,
    kind: Kind,
    points: Vec<(f64, f64)>,
}

/// Draws what the results have of both plots.
pub fn draw(path: &Path, results: &[RowResult]) -> Result<(), String> {
    let area = SVGBackend::new(path, (WIDTH, 2 * HEIGHT)).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let (above, below) = area.split_vertically(HEIGHT);
    throughput(&above, results)?;
    latency(&below, results)?;
    area.present().map_err(text)?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// GB/s by size, both axes logarithmic.
fn throughput(area: &Area<'_>, results: &[RowResult]) -> Result<(), String> {
    let mut curves: Vec<Curve> = Vec::new();
    let mut sizes: Vec<f64> = Vec::new();
    for result in results {
        let Work::OneWay { bytes, is_burst: false } = result.row.work else { continue };
        let x = (bytes as f64).log2();
        sizes.push(x);
        let usual = usual_distance(&result.series);
        for (cell, series) in result.cells.iter().zip(&result.series) {
            let Some(summary) = summary(series, usual) else { continue };
            let y = (bytes as f64 / summary.median).log10();
            match curves.iter_mut().find(|curve| curve.name == cell.name) {
                Some(curve) => curve.points.push((x, y)),
                None => {
                    let points = vec![(x, y)];
                    curves.push(Curve { name: cell.name, kind: cell.kind, points });
                }
            }
        }
    }
    if curves.is_empty() {
        return nothing(area, "throughput: not measured");
    }
    let x = range(sizes.iter().copied(), 0.5);
    let y = range(values(&curves), 0.1);
    let mut chart = ChartBuilder::on(area)
        .caption("One way, one by one", TITLE)
        .margin(20)
        .margin_right(LEGEND)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("size of a message")
        .y_desc("GB/s")
        .x_label_formatter(&|x| long(2_f64.powf(*x).round() as usize))
        .y_label_formatter(&|y| significant(10_f64.powf(*y)))
        .light_line_style(WHITE)
        .draw()
        .map_err(text)?;
    curves_of(area, &mut chart, &curves)
}

/// Nanoseconds by percentile of the 64-byte round trip, both sides spinning.
fn latency(area: &Area<'_>, results: &[RowResult]) -> Result<(), String> {
    let wanted = Work::Trip { bytes: 64, is_asleep: false };
    let Some(result) = results.iter().find(|result| result.row.work == wanted) else {
        return nothing(area, "latency: not measured");
    };
    let usual = usual_distance(&result.series);
    let mut curves = Vec::new();
    for (cell, series) in result.cells.iter().zip(&result.series) {
        let kept = counted(series, usual);
        let of_kept = series.runs.iter().zip(&cell.quantiles);
        let distributions: Vec<&Vec<f64>> = of_kept
            .filter(|(run, _)| kept.iter().any(|kept| std::ptr::eq(*kept, *run)))
            .map(|(_, quantiles)| quantiles)
            .collect();
        let mut points: Vec<(f64, f64)> = QUANTILES
            .iter()
            .enumerate()
            .map(|(at, quantile)| {
                let values = distributions.iter().filter_map(|one| one.get(at).copied());
                (nines(*quantile), median(values).log10())
            })
            .filter(|(_, y)| y.is_finite())
            .collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        if !points.is_empty() {
            curves.push(Curve { name: cell.name, kind: cell.kind, points });
        }
    }
    if curves.is_empty() {
        return nothing(area, "latency: not measured");
    }
    let y = range(values(&curves), 0.1);
    let mut chart = ChartBuilder::on(area)
        .caption("Round trip of 64 B, both sides spinning", TITLE)
        .margin(20)
        .margin_right(LEGEND)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..4.1, y)
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .x_labels(5)
        .x_label_formatter(&|x| percentile(*x))
        .y_label_formatter(&|y| time(10_f64.powf(*y)))
        .light_line_style(WHITE)
        .draw()
        .map_err(text)?;
    curves_of(area, &mut chart, &curves)
}

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the curves, and their names to the right of the chart.
fn curves_of<'a>(area: &Area<'a>, chart: &mut Chart<'a>, curves: &[Curve]) -> Result<(), String> {
    for (index, Curve { name, kind, points }) in curves.iter().enumerate() {
        // Steps of the golden ratio keep neighbours apart. Ours stand out; limits are grey.
        let hue = (index as f64 * 0.618).fract();
        let (colour, width) = match kind {
            Kind::Limit | Kind::Reference => (RGBColor(150, 150, 150).to_rgba(), 1),
            Kind::Ours => (HSLColor(hue, 0.9, 0.4).to_rgba(), 3),
            _ => (HSLColor(hue, 0.6, 0.5).to_rgba(), 1),
        };
        let style = colour.stroke_width(width);
        let line = LineSeries::new(points.iter().copied(), style).point_size(2);
        chart.draw_series(line).map_err(text)?;
        let (x, y) = (WIDTH as i32 - LEGEND as i32 + 15, 50 + 18 * index as i32);
        let swatch = PathElement::new([(x, y + 6), (x + 18, y + 6)], style);
        area.draw(&swatch).map_err(text)?;
        let label = Text::new((*name).to_owned(), (x + 25, y), LABEL.into_font());
        area.draw(&label).map_err(text)?;
    }
    Ok(())
}

fn nothing(area: &Area<'_>, what: &str) -> Result<(), String> {
    area.draw(&Text::new(what.to_owned(), (20, 20), LABEL.into_font())).map_err(text)?;
    Ok(())
}

/// The words of an error, whose own type borrows the path.
fn text(error: impl Display) -> String {
    error.to_string()
}

fn values(curves: &[Curve]) -> impl Iterator<Item = f64> {
    curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1))
}

fn range(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        least = least.min(value);
        most = most.max(value);
    }
    least - margin..most + margin
}

/// Puts the median to 0.3, p90 to 1, p99 to 2 and so on.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// A number with two digits that say something.
fn significant(value: f64) -> String {
    let places = (1.0 - value.log10().floor()).clamp(0.0, 9.0);
    format!("{value:.*}", places as usize)
}

fn percentile(nines: f64) -> String {
    let text = format!("{:.3}", 100.0 * (1.0 - 10_f64.powf(-nines)));
    format!("p{}", text.trim_end_matches('0').trim_end_matches('.'))
}

const WIDTH: u32 = 1100;
const HEIGHT: u32 = 560;
/// Room for the names, to the right of each chart.
const LEGEND: u32 = 230;
const TITLE: (&str, u32) = ("sans-serif", 22);
const LABEL: (&str, u32) = ("sans-serif", 13);
