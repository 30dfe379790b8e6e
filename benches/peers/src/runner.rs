//! One measurement of one subject, in a process of its own.
//!
//! A subject that hangs, crashes or spoils its process spoils nothing else: the comparison gives
//! each measurement a fresh process, reads its figures from one line of its standard output, and
//! ends it when its time is over.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::harness::clock::Clock;
use crate::harness::local::Timed;
use crate::harness::machine::{Machine, Probe, Switches};
use crate::harness::workload::{Workload, run_and_count};
use crate::harness::{child, lines, machine};
use crate::peers::{crossbar, iceoryx};
use crate::rows::{self, Work};
use crate::subjects::{self, Answer, Site};

/// What one measurement says. Times are nanoseconds an operation.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The median where single operations were timed, else the mean.
    pub figure: f64,
    pub mean: f64,
    /// Messages that the receiver of a one-way transfer took in a row.
    pub in_a_row: Option<f64>,
    /// Times at [`QUANTILES`], where single operations were timed.
    pub quantiles: Vec<f64>,
    /// What was probed of the two cores before and after.
    pub probes: Option<(Probe, Probe)>,
    pub switches: Switches,
    /// Operations that the switches belong to.
    pub count: u64,
}

impl Figures {
    /// Writes the figures as one line.
    pub fn to_line(&self) -> String {
        let list = |values: &[f64]| {
            let words: Vec<String> = values.iter().map(f64::to_string).collect();
            words.join(",")
        };
        let probes = self.probes.map_or(String::new(), |(before, after)| {
            list(&[before.line, before.record, after.line, after.record])
        });
        let Self { figure, mean, in_a_row, quantiles, switches, count, .. } = self;
        let row = in_a_row.map(|value| value.to_string()).unwrap_or_default();
        let (voluntary, involuntary) = (switches.voluntary, switches.involuntary);
        let quantiles = list(quantiles);
        let counts = format!("{voluntary};{involuntary};{count}");
        format!("{MARK}{figure};{mean};{row};{quantiles};{probes};{counts}")
    }

    /// Reads what `to_line` wrote; `None` for anything else.
    pub fn of_line(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix(MARK)?.split(';').collect();
        let [figure, mean, row, quantiles, probes, voluntary, involuntary, count] = words[..]
        else {
            return None;
        };
        let list = |word: &str| -> Option<Vec<f64>> {
            word.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
        };
        let probes = match list(probes)?[..] {
            [line, record, line_after, record_after] => {
                Some((Probe { line, record }, Probe { line: line_after, record: record_after }))
            }
            _ => None,
        };
        let switches =
            Switches { voluntary: voluntary.parse().ok()?, involuntary: involuntary.parse().ok()? };
        Some(Self {
            figure: figure.parse().ok()?,
            mean: mean.parse().ok()?,
            in_a_row: list(row)?.first().copied(),
            quantiles: list(quantiles)?,
            probes,
            switches,
            count: count.parse().ok()?,
        })
    }
}

/// What a runner is asked to do.
pub struct Task {
    pub row: String,
    pub subject: String,
    pub is_quick: bool,
    pub directory: String,
}

impl Task {
    /// The words of [`TASK`].
    pub fn to_text(&self) -> String {
        let Self { row, subject, is_quick, directory } = self;
        let parent = std::process::id();
        format!("{parent} {row} {subject} {is_quick} {directory}")
    }

    fn of_text(text: &str) -> (u32, Self) {
        let mut words = text.splitn(5, ' ');
        let mut word = || words.next().expect("a task of five words").to_owned();
        let parent = word().parse().expect("a process id");
        let (row, subject, is_quick) = (word(), word(), word() == "true");
        (parent, Self { row, subject, is_quick, directory: word() })
    }
}

/// Does what the environment asks for, if it asks for something; then returns true.
pub fn serve() -> bool {
    let Ok(text) = std::env::var(TASK) else {
        return false;
    };
    let (parent, task) = Task::of_text(&text);
    child::die_with(parent);
    let figures = run(&task);
    println!("{}", figures.to_line());
    // Threads of subjects, and whatever a peer left behind, end here.
    std::process::exit(0);
}

fn run(task: &Task) -> Figures {
    let machine = Machine::detect();
    let (ours, core) = machine.pair.expect("two cores");
    machine::pin(ours);
    let effort = if task.is_quick { QUICK } else { FULL };
    let site = Site { core, directory: task.directory.clone() };
    let rows = rows::all();
    let row = rows.iter().find(|row| row.id == task.row).expect("a row of that name");
    let entries = subjects::all();
    let entry = entries.iter().find(|entry| entry.name == task.subject);
    let entry = entry.expect("a subject of that name");
    match ((entry.answer)(row.work, &site), row.work) {
        (Answer::Runs(subject), _) => measure(&machine, || (subject.start)(), &effort),
        (Answer::Makes(make), Work::Create) => {
            let directory = site.directory.clone();
            let mut number = 0;
            let timed = Timed(move || {
                number += 1;
                let start = Instant::now();
                let ends = make(number);
                let elapsed = start.elapsed();
                drop(ends);
                remove_channels(&directory);
                elapsed
            });
            measure(&machine, || Box::new(timed), &effort)
        }
        (Answer::Makes(make), Work::Memory) => {
            footprint(&make, |before, after| after.bytes.saturating_sub(before.bytes), &site)
        }
        (Answer::Makes(make), _) => footprint(
            &make,
            |before, after| after.descriptors.saturating_sub(before.descriptors),
            &site,
        ),
        (Answer::Lacks(_) | Answer::Absent, _) => panic!("{} has no such row", entry.name),
    }
}

/// How much is done for one figure.
struct Effort {
    /// Wall time of each of the two passes.
    pass: Duration,
    /// Round trips that classify the core pair.
    probe_trips: u64,
}

const FULL: Effort = Effort { pass: Duration::from_millis(60), probe_trips: 5_000 };
const QUICK: Effort = Effort { pass: Duration::from_millis(15), probe_trips: 1_000 };

/// Measures between two looks at the core pair.
fn measure(
    machine: &Machine,
    start: impl FnOnce() -> Box<dyn Workload>,
    effort: &Effort,
) -> Figures {
    child::arm_deadline();
    let before = lines::probe(machine, effort.probe_trips);
    let mut figures = measure_workload(start(), effort);
    let after = lines::probe(machine, effort.probe_trips);
    figures.probes = before.zip(after);
    figures
}

fn measure_workload(mut workload: Box<dyn Workload>, effort: &Effort) -> Figures {
    let clock = Clock::new();
    workload.check();
    let count = count_for(workload.as_mut(), effort.pass);
    let before = Switches::of_both(workload.peer());
    let (mean, in_a_row) = run_and_count(workload.as_mut(), count);
    let samples = count.min(MOST_SAMPLES);
    let ticks = workload.sample(samples, &clock);
    let switches = Switches::of_both(workload.peer()).since(before);
    let quantiles = ticks.as_ref().map(|ticks| quantiles(ticks, &clock)).unwrap_or_default();
    Figures {
        figure: quantiles.first().copied().unwrap_or(mean),
        mean,
        in_a_row,
        quantiles,
        probes: None,
        switches,
        count: if ticks.is_some() { count + samples } else { count },
    }
}

/// Operations that take about as long as a pass: whole bursts, found by growing. The faster of two
/// tries counts, or a slice of time that the kernel gave to another process would end the search.
fn count_for(workload: &mut dyn Workload, pass: Duration) -> u64 {
    let mut count = LEAST;
    loop {
        let mut time = || {
            let start = Instant::now();
            workload.run(count);
            start.elapsed()
        };
        let first = time();
        if first * 4 >= pass {
            let elapsed = first.min(time());
            if elapsed * 4 >= pass {
                let wanted = count as f64 * pass.as_secs_f64() / elapsed.as_secs_f64();
                let wanted = (wanted as u64).max(LEAST);
                let bursts = wanted / rows::BURST * rows::BURST;
                return if bursts > 0 { bursts } else { wanted };
            }
        }
        count *= 4;
    }
}

fn quantiles(ticks: &[u64], clock: &Clock) -> Vec<f64> {
    let mut histogram = Histogram::<u64>::new(SIGNIFICANT_DIGITS).expect("a valid precision");
    for &tick in ticks {
        // Tenths of a nanosecond: whole ones would round a bounced line to a percent.
        let tenths = (clock.ns(tick) * 10.0).round() as u64;
        histogram.record(tenths.max(1)).expect("the histogram resizes itself");
    }
    let at = |quantile: &f64| histogram.value_at_quantile(*quantile) as f64 / 10.0;
    QUANTILES.iter().map(at).collect()
}

/// What channels occupy now.
struct Occupied {
    bytes: u64,
    descriptors: u64,
}

/// Makes idle channels and returns what one of them occupies.
fn footprint(
    make: &dyn Fn(u64) -> Box<dyn std::any::Any>,
    difference: fn(&Occupied, &Occupied) -> u64,
    site: &Site,
) -> Figures {
    // What the first ones bring about (a node, an allocator's arena) is not theirs alone.
    let first: Vec<_> = (0..IDLE_FIRST).map(make).collect();
    let before = occupied(&site.directory);
    let idle: Vec<_> = (IDLE_FIRST..IDLE_FIRST + IDLE).map(make).collect();
    let after = occupied(&site.directory);
    drop((first, idle));
    let each = difference(&before, &after) as f64 / IDLE as f64;
    Figures { figure: each, mean: each, count: IDLE, ..Figures::default() }
}

/// Memory of this process' own, of its memfds, and of all files of the private directory.
fn occupied(directory: &str) -> Occupied {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let own = own.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let mut bytes = own.expect("RssAnon in kB") * 1024;
    let mut seen = HashSet::new();
    let list = fs::read_dir("/proc/self/fd").expect("/proc/self/fd");
    let list: Vec<_> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
    for path in &list {
        let target = fs::read_link(path).unwrap_or_default();
        if !target.to_string_lossy().starts_with("/memfd:") {
            continue;
        }
        if let Ok(metadata) = fs::metadata(path)
            && seen.insert(metadata.ino())
        {
            bytes += metadata.blocks() * BLOCK;
        }
    }
    bytes += blocks_below(Path::new(directory));
    let [pool, bus] = crossbar::prefixes(directory);
    let prefixes = [iceoryx::prefix(directory), pool, bus];
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            bytes += entry.metadata().map_or(0, |metadata| metadata.blocks() * BLOCK);
        }
    }
    Occupied { bytes, descriptors: list.len() as u64 }
}

fn blocks_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => blocks_below(&entry.path()),
            Ok(metadata) => metadata.blocks() * BLOCK,
            Err(_) => 0,
        })
        .sum()
}

/// Files of channels that were dropped, which some peers leave to their users.
fn remove_channels(directory: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("channel") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Environment variable with the runner's task. Not meant to be set by hand.
pub const TASK: &str = "MESSAGEPORT_PEERS_TASK";
/// The quantiles that are kept of a distribution, the median first.
pub const QUANTILES: [f64; 8] = [0.5, 0.1, 0.25, 0.75, 0.9, 0.99, 0.999, 0.9999];
/// Where p99 stands among them.
pub const P99: usize = 5;
/// What a line of figures begins with.
const MARK: &str = "figures: ";
const SIGNIFICANT_DIGITS: u8 = 3;
const MOST_SAMPLES: u64 = 200_000;
/// Operations of the first estimate.
const LEAST: u64 = 2;
const IDLE_FIRST: u64 = 4;
const IDLE: u64 = 32;
/// Unit of `st_blocks`, whatever the file system's own is.
const BLOCK: u64 = 512;
