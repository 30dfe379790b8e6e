//! The table of a row, the legend, and the CSV file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::comparison::{Cell, RowResult};
use crate::harness::machine::Distance;
use crate::harness::measure::{Run, Series};
use crate::harness::report::{
    counted, describe_pair, in_a_row, median, print_aligned, ratio, time, usual_distance,
};
use crate::rows::Unit;
use crate::runner::QUANTILES;
use crate::subjects::{self, Promises};

/// The median, the least and the most of the runs that count.
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// Summarises the runs of a series that count.
pub fn summary(series: &Series, usual: Distance) -> Option<Summary> {
    let figures: Vec<f64> = counted(series, usual).iter().map(|run| run.figure).collect();
    let least = figures.iter().copied().reduce(f64::min)?;
    let most = figures.iter().copied().reduce(f64::max)?;
    Some(Summary { median: median(figures.into_iter()), least, most })
}

/// The fastest subject of a row that counts, by its median.
pub fn fastest(result: &RowResult, counts: impl Fn(&Cell) -> bool) -> Option<usize> {
    let usual = usual_distance(&result.series);
    let medians = result.cells.iter().zip(&result.series).enumerate();
    medians
        .filter(|(_, (cell, _))| counts(cell))
        .filter_map(|(index, (_, series))| Some((index, summary(series, usual)?.median)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(index, _)| index)
}

/// The ratio of two subjects of a row, as the median of the ratios inside each repetition.
pub fn ratio_of(result: &RowResult, index: usize, base: usize) -> Option<f64> {
    let usual = usual_distance(&result.series);
    let (one, base) = (&result.series[index], &result.series[base]);
    if one.runs.is_empty() || base.runs.is_empty() {
        return None;
    }
    Some(ratio(one, base, usual, |run| run.figure))
}

/// Writes a figure with its unit.
pub fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Time => time(value),
        Unit::Bytes if value >= 1024.0 => format!("{:.1} KiB", value / 1024.0),
        Unit::Bytes => format!("{value:.0} B"),
        Unit::Count => format!("{value:.0}"),
    }
}

/// Prints one row, the fastest first.
pub fn print(result: &RowResult) {
    let usual = usual_distance(&result.series);
    // A ratio to zero has no meaning.
    let is_timed = result.row.unit() == Unit::Time;
    println!("\n{}: {}", result.row.id, result.row.title);
    if is_timed {
        println!("{}", describe_pair(&result.series, usual));
    }
    let limit = result.cells.iter().position(|cell| cell.name == result.row.limit);
    let best = fastest(result, |cell| is_timed && cell.kind.is_peer());
    let has_tails = result.series.iter().any(|one| one.runs.iter().any(|run| run.tail.is_some()));
    let mut order: Vec<usize> = (0..result.cells.len()).collect();
    let rank = |index: &usize| {
        summary(&result.series[*index], usual).map_or(f64::INFINITY, |summary| summary.median)
    };
    order.sort_by(|one, other| rank(one).total_cmp(&rank(other)));
    let mut rows = vec![headings(result, limit, best, has_tails)];
    rows.extend(order.iter().map(|&index| line(result, index, (limit, best), usual, has_tails)));
    print_aligned(&rows);
    for cell in &result.cells {
        if let Some(reason) = cell.lacks {
            println!("{}: – ({reason})", cell.full_name());
        }
        if let Some(reason) = &cell.failure {
            println!("{}: failed: {reason}", cell.full_name());
        }
        if cell.lacks.is_none()
            && let Some(remark) = subjects::remark(cell.name)
        {
            println!("{}: {remark}", cell.name);
        }
    }
}

fn headings(
    result: &RowResult,
    limit: Option<usize>,
    best: Option<usize>,
    has_tails: bool,
) -> Vec<String> {
    let mut headings = vec!["subject", "kind", "length", "loss", "median", "least", "most"];
    if has_tails {
        headings.extend(["p99", "p99.9", "mean"]);
    }
    if result.row.is_throughput() {
        headings.extend(["M/s", "GB/s", "in a row"]);
    }
    let mut headings: Vec<String> = headings.into_iter().map(str::to_owned).collect();
    for base in [limit, best].into_iter().flatten() {
        headings.push(format!("/ {}", result.cells[base].name));
    }
    if result.row.unit() == Unit::Time {
        headings.extend(["line", "pair", "sleeps", "preempted", "runs"].map(str::to_owned));
    }
    headings
}

fn line(
    result: &RowResult,
    index: usize,
    (limit, best): (Option<usize>, Option<usize>),
    usual: Distance,
    has_tails: bool,
) -> Vec<String> {
    let (cell, series, unit) = (&result.cells[index], &result.series[index], result.row.unit());
    let Promises { length, loss } = cell.promises;
    let mut row: Vec<String> =
        [&*cell.full_name(), cell.kind.name(), length, loss].map(str::to_owned).into();
    let Some(Summary { median: middle, least, most }) = summary(series, usual) else {
        row.push("–".to_owned());
        return row;
    };
    row.extend([middle, least, most].map(|value| figure(unit, value)));
    let counted = counted(series, usual);
    let of = |value: fn(&Run) -> f64| median(counted.iter().map(|run| value(run)));
    if has_tails {
        let tail = |value: fn((f64, f64)) -> f64| {
            time(median(counted.iter().filter_map(|run| run.tail).map(value)))
        };
        row.extend([tail(|tail| tail.0), tail(|tail| tail.1), time(of(|run| run.mean))]);
    }
    if result.row.is_throughput() {
        row.push(format!("{:.3}", 1e3 / middle));
        row.push(format!("{:.2}", result.row.work.bytes() as f64 / middle));
        row.push(in_a_row(&counted));
    }
    for base in [limit, best].into_iter().flatten() {
        let ratio = ratio_of(result, index, base);
        row.push(ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")));
    }
    if unit == Unit::Time {
        row.push(time(median(counted.iter().filter_map(|run| Some(run.probe?.line)))));
        row.push(pair_of(&counted).to_owned());
        row.push(format!("{:.2}", of(|run| run.switches.voluntary as f64 / run.count as f64)));
        let preempted: u64 = counted.iter().map(|run| run.switches.involuntary).sum();
        row.push(preempted.to_string());
        row.push(format!("{}/{}", counted.len(), series.runs.len()));
    }
    row
}

/// The kind of core pair under which the counted runs were made.
fn pair_of(counted: &[&Run]) -> &'static str {
    let all = |wanted| counted.iter().all(|run| run.distance == wanted);
    match () {
        () if all(Distance::Core) => "one-core",
        () if all(Distance::Near) => "near",
        () if all(Distance::Far) => "far",
        () if all(Distance::Unknown) => "–",
        () => "mixed",
    }
}

/// Says what the columns mean and how each subject was used.
pub fn print_legend(results: &[RowResult]) {
    println!(
        "\nMedians over the runs on the usual kind of core pair, and of those over the undisturbed \
         ones if there were any (runs: how many of all). length: of a message; `one`: all as \
         long; `up to a place`: each takes as much as the longest; `stream`: no messages, cut by a \
         length that both sides know. loss: `overwrites`: a sender overtakes its receiver, which a \
         word of this harness prevents here. `/`: ratio of times, below 1 is faster. \
         in a row: messages that the receiver took before it found nothing once. line: round trip \
         of one cache line just before; pair: near cores share a cache. sleeps: \
         voluntary switches an operation, both sides; preempted: involuntary ones."
    );
    println!("Subjects:");
    let mut said: Vec<&str> = Vec::new();
    for cell in results.iter().flat_map(|result| &result.cells) {
        if !said.contains(&cell.name) {
            said.push(cell.name);
            println!("  {} ({}): {}", cell.name, cell.kind.name(), cell.about);
        }
    }
}

/// Writes every run of every subject, one line each.
pub fn write_csv(path: &Path, results: &[RowResult]) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    write!(file, "profile,row,bytes,subject,kind,length,loss,repetition,unit,figure,mean")?;
    for quantile in QUANTILES {
        write!(file, ",p{}", quantile * 100.0)?;
    }
    writeln!(file, ",in_a_row,line_ns,record_ns,pair,voluntary,involuntary,operations,missing")?;
    let profile = profile();
    for result in results {
        let (id, bytes) = (&result.row.id, result.row.work.bytes());
        let unit = match result.row.unit() {
            Unit::Time => "ns",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
        };
        for (cell, series) in result.cells.iter().zip(&result.series) {
            let kind = cell.kind.name().replace(',', "");
            let Promises { length, loss } = cell.promises;
            let profile = cell.other.as_ref().map_or(&*profile, |other| other.name);
            let begin = format!("{profile},{id},{bytes},{},{kind},{length},{loss}", cell.name);
            let missing = cell.failure.as_deref().or(cell.lacks);
            if let Some(reason) = missing {
                let dashes = ",".repeat(QUANTILES.len() + 10);
                writeln!(file, "{begin}{dashes},{}", quoted(reason))?;
            }
            for (index, (run, quantiles)) in series.runs.iter().zip(&cell.quantiles).enumerate() {
                write!(file, "{begin},{},{unit},{:.1},{:.1}", index + 1, run.figure, run.mean)?;
                for at in 0..QUANTILES.len() {
                    let value = quantiles.get(at).map(|value| format!("{value:.1}"));
                    write!(file, ",{}", value.unwrap_or_default())?;
                }
                let tenths = |value: Option<f64>| value.map(|value| format!("{value:.1}"));
                let tenths = |value| tenths(value).unwrap_or_default();
                let line = tenths(run.probe.map(|probe| probe.line));
                let record = tenths(run.probe.map(|probe| probe.record));
                let row = tenths(run.in_a_row);
                let (switches, count) = (run.switches, run.count);
                let (voluntary, involuntary) = (switches.voluntary, switches.involuntary);
                write!(file, ",{row},{line},{record},{}", run.distance)?;
                writeln!(file, ",{voluntary},{involuntary},{count},")?;
            }
        }
    }
    file.flush()
}

/// The profile with which this executable was built: cargo names its directory so.
pub fn profile() -> String {
    let path = std::env::current_exe().ok();
    let directory = path.as_ref().and_then(|path| path.parent()?.file_name());
    directory.map_or("unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "'").replace('\n', " "))
}
