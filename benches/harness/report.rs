//! The closing table: medians, and ratios to the limits of the same run.

use super::machine::{Distance, Machine};
use super::measure::{Run, Series};
use super::targets::Target;

/// What a group's table is about.
pub struct Report {
    /// First part of the benchmark's id.
    pub group: &'static str,
    pub title: &'static str,
    /// What every figure is divided by, one column each.
    pub baselines: Vec<Baseline>,
    /// What the project wants to reach.
    pub targets: Vec<Target>,
    /// Whether one operation moves one message one way, so that rates say something.
    pub is_throughput: bool,
    /// Whether one operation takes milliseconds, so that Criterion should ask for few.
    pub is_slow: bool,
}

/// A variant that others are compared with.
pub struct Baseline {
    variant: &'static str,
    /// Payload of the baseline; `None` takes the row's own.
    bytes: Option<usize>,
}

impl Baseline {
    /// Compares with the variant at the same payload.
    pub fn same(variant: &'static str) -> Self {
        Self { variant, bytes: None }
    }

    /// Compares with the variant at one payload, whatever the row's is.
    pub fn fixed(variant: &'static str, bytes: usize) -> Self {
        Self { variant, bytes: Some(bytes) }
    }

    fn find<'a>(&self, all: &'a [Series], row: &Series) -> Option<&'a Series> {
        let bytes = self.bytes.unwrap_or(row.bytes);
        all.iter().find(|series| series.variant == self.variant && series.bytes == bytes)
    }
}

impl Report {
    /// Prints the table of all series.
    pub fn print(&self, machine: &Machine, all: &[Series], quick: bool) {
        let usual = usual_distance(all);
        println!("\n{}: {}", self.group, self.title);
        println!("{machine}; {}", describe_pair(all, usual));
        let has_tails = all.iter().any(|series| series.runs.iter().any(|run| run.tail.is_some()));
        let mut rows = vec![self.headings(has_tails)];
        rows.extend(all.iter().map(|series| self.row(all, series, usual, has_tails)));
        print_aligned(&rows);
        println!(
            "medians over the runs on the usual kind of pair (* where there was none), and of \
             those over the undisturbed ones if there were any; `/` is a ratio of times, below 1 \
             is faster, in brackets that of the means; in a row: messages that the receiver took \
             before it found nothing once; sleeps: voluntary switches an operation, both sides; \
             preempted: involuntary ones"
        );
        if quick {
            println!("quick mode: too few operations for these figures to say anything");
        } else {
            self.print_bars(all, usual);
        }
    }

    fn print_bars(&self, all: &[Series], usual: Distance) {
        let find = |variant, bytes| {
            all.iter().find(|series| series.variant == variant && series.bytes == bytes)
        };
        for target in &self.targets {
            let (row, base) =
                (find(target.variant, target.bytes), find(target.base, target.base_bytes));
            let value: fn(&Run) -> f64 = match target.is_of_tails {
                true => |run| run.tail.map_or(f64::NAN, |(p99, _)| p99),
                false => |run| run.figure,
            };
            let ratio = row.zip(base).map(|(row, base)| ratio(row, base, usual, value));
            println!("{}", target.describe(ratio));
        }
    }

    fn headings(&self, has_tails: bool) -> Vec<String> {
        let mut headings = vec!["variant", "bytes", if has_tails { "p50" } else { "time" }];
        headings.extend(["least", "most"]);
        if has_tails {
            headings.extend(["p99", "p99.9", "mean"]);
        }
        if self.is_throughput {
            headings.extend(["M/s", "GB/s", "in a row"]);
        }
        let mut headings: Vec<String> = headings.into_iter().map(str::to_owned).collect();
        headings.extend(self.baselines.iter().map(|baseline| format!("/ {}", baseline.variant)));
        headings.extend(["sleeps", "preempted", "runs"].map(str::to_owned));
        headings
    }

    fn row(
        &self,
        all: &[Series],
        series: &Series,
        usual: Distance,
        has_tails: bool,
    ) -> Vec<String> {
        let counted = counted(series, usual);
        let of = |value: fn(&Run) -> f64| median(counted.iter().map(|run| value(run)));
        let figure = of(|run| run.figure);
        let figures = || counted.iter().map(|run| run.figure);
        let mut row = vec![series.variant.clone(), series.bytes.to_string(), time(figure)];
        row.push(time(figures().fold(f64::INFINITY, f64::min)));
        row.push(time(figures().fold(0.0, f64::max)));
        if has_tails {
            let tail = |index: usize| {
                let values = counted.iter().filter_map(|run| run.tail);
                median(values.map(|(p99, p999)| [p99, p999][index]))
            };
            row.extend([time(tail(0)), time(tail(1)), time(of(|run| run.mean))]);
        }
        if self.is_throughput {
            row.push(format!("{:.3}", 1e3 / figure));
            row.push(format!("{:.2}", series.bytes as f64 / figure));
            row.push(in_a_row(&counted));
        }
        for baseline in &self.baselines {
            let base = baseline.find(all, series);
            row.push(base.map_or("-".to_owned(), |base| ratios(series, base, usual)));
        }
        row.push(format!("{:.2}", of(|run| run.switches.voluntary as f64 / run.count as f64)));
        let preempted: u64 = counted.iter().map(|run| run.switches.involuntary).sum();
        row.push(preempted.to_string());
        let is_usual = counted.iter().all(|run| run.distance == usual);
        let flag = if is_usual { "" } else { "*" };
        row.push(format!("{}/{}{flag}", counted.len(), series.runs.len()));
        row
    }
}

/// The distance that most runs saw: only those are compared with each other.
pub fn usual_distance(all: &[Series]) -> Distance {
    let count = |distance| {
        let runs = all.iter().flat_map(|series| &series.runs);
        runs.filter(|run| run.distance == distance).count()
    };
    // The last of the greatest counts: near, as long as nothing was measured.
    let known = [Distance::Unknown, Distance::Far, Distance::Core, Distance::Near];
    known.into_iter().max_by_key(|distance| count(*distance)).expect("a list of four")
}

/// Says what kind of pair the table is about and how sure that is.
pub fn describe_pair(all: &[Series], usual: Distance) -> String {
    let runs = || all.iter().flat_map(|series| &series.runs);
    let probes = || runs().filter(|run| run.distance == usual).filter_map(|run| run.probe);
    let (line, record) =
        (median(probes().map(|probe| probe.line)), median(probes().map(|probe| probe.record)));
    let share = runs().filter(|run| run.distance == usual).count();
    let (line, record) = (time(line), time(record));
    format!("{usual} pair, line {line}, record {record} ({share} of {} runs)", runs().count())
}

/// The runs that count: on the usual kind of pair and undisturbed, as far as there are such runs.
pub fn counted(series: &Series, usual: Distance) -> Vec<&Run> {
    let runs = || series.runs.iter();
    let usual_runs = || runs().filter(|run| run.distance == usual);
    let calm: Vec<&Run> = usual_runs().filter(|run| run.switches.involuntary == 0).collect();
    let usual: Vec<&Run> = usual_runs().collect();
    [calm, usual].into_iter().find(|runs| !runs.is_empty()).unwrap_or_else(|| runs().collect())
}

/// Writes the ratio of the figures and, where a clock's reading is a good part of a single
/// operation, that of the means as well: no clock is contained in those.
fn ratios(series: &Series, base: &Series, usual: Distance) -> String {
    let figures = ratio(series, base, usual, |run| run.figure);
    let both = || series.runs.iter().chain(&base.runs);
    let clock_matters = both().all(|run| run.tail.is_some() && run.mean < CLOCK_MATTERS_BELOW_NS);
    if !clock_matters {
        return format!("{figures:.2}");
    }
    format!("{figures:.2} ({:.2})", ratio(series, base, usual, |run| run.mean))
}

/// Median of the ratios inside each repetition, of those repetitions in which both count; where
/// there is none, the ratio of the medians.
pub fn ratio(series: &Series, base: &Series, usual: Distance, value: fn(&Run) -> f64) -> f64 {
    let counts = |run: &Run| run.distance == usual && run.switches.involuntary == 0;
    let pairs = series.runs.iter().zip(&base.runs);
    let both = pairs.filter(|(run, base)| counts(run) && counts(base));
    let ratios: Vec<f64> = both.map(|(run, base)| value(run) / value(base)).collect();
    if ratios.is_empty() {
        let middle = |series| median(counted(series, usual).into_iter().map(value));
        return middle(series) / middle(base);
    }
    median(ratios.into_iter())
}

/// Middle of the values; not a number where there is none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// Writes how many messages were taken in a row.
pub fn in_a_row(runs: &[&Run]) -> String {
    let middle = median(runs.iter().filter_map(|run| run.in_a_row));
    if middle.is_nan() { "-".to_owned() } else { format!("{middle:.1}") }
}

/// Writes a time with three or four digits.
pub fn time(ns: f64) -> String {
    match ns {
        _ if ns.is_nan() => "-".to_owned(),
        _ if ns < 100.0 => format!("{ns:.1} ns"),
        _ if ns < 10_000.0 => format!("{ns:.0} ns"),
        _ if ns < 1e5 => format!("{:.1} µs", ns / 1e3),
        _ if ns < 1e7 => format!("{:.0} µs", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}

/// Prints rows with the first column to the left and the others to the right.
pub fn print_aligned(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        println!("{}", line.join("  ").trim_end());
    }
}

/// A reading takes some 20 ns: less than a percent of this.
const CLOCK_MATTERS_BELOW_NS: f64 = 5_000.0;
