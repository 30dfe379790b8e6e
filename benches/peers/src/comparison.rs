//! All measurements: rows one after the other, subjects of a row in turns.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::machine::{Distance, Machine};
use crate::harness::measure::{Effort, Run, Series, calmest};
use crate::harness::report::usual_distance;
use crate::peers::crossbar;
use crate::private::Private;
use crate::rows::{self, Row, Unit, Work};
use crate::runner::{self, Figures, P99, Task};
use crate::subjects::{self, Answer, Entry, Kind, Promises, Site};
use crate::table;

/// What is to be compared.
pub struct Comparison {
    pub machine: Machine,
    pub is_quick: bool,
    /// Words of which a row's id contains one; all rows where there is none.
    pub rows: Vec<String>,
    pub only: Vec<String>,
    pub repetitions: u32,
    /// With which our subjects are measured once more, in turns.
    pub other: Option<OtherProfile>,
}

/// This package, built with another profile.
#[derive(Clone)]
pub struct OtherProfile {
    pub name: &'static str,
    pub program: PathBuf,
}

/// One subject in one row.
pub struct Cell {
    pub name: &'static str,
    pub kind: Kind,
    pub promises: Promises,
    pub about: &'static str,
    /// The profile of a subject that is not of this executable's.
    pub other: Option<OtherProfile>,
    /// Why it cannot do this row.
    pub lacks: Option<&'static str>,
    /// Why a measurement failed.
    pub failure: Option<String>,
    /// Distribution of each run that was kept.
    pub quantiles: Vec<Vec<f64>>,
}

impl Cell {
    /// The subject's name, with its profile if that is another one.
    pub fn full_name(&self) -> String {
        match &self.other {
            Some(other) => format!("{}@{}", self.name, other.name),
            None => self.name.to_owned(),
        }
    }
}

impl OtherProfile {
    /// Builds it beside this executable, so that both are of the same sources.
    pub fn build(name: String) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let (file, target) = (own.file_name(), own.parent().and_then(Path::parent));
        let (Some(file), Some(target)) = (file, target) else {
            return Err(format!("{} is not in a directory of cargo's", own.display()));
        };
        if name == table::profile() {
            return Err(format!("this executable is of the profile {name} itself"));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--locked", "--profile", &name]).arg("--target-dir").arg(target);
        command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let status = command.status().map_err(|error| format!("cargo: {error}"))?;
        let program = target.join(&name).join(file);
        if !status.success() || !program.exists() {
            return Err(format!("cargo build --profile {name} made no {}", program.display()));
        }
        Ok(Self { name: name.leak(), program })
    }
}

/// One row with all its subjects; `series` has an element for each cell.
pub struct RowResult {
    pub row: Row,
    pub cells: Vec<Cell>,
    pub series: Vec<Series>,
}

impl Comparison {
    /// Measures everything, printing each row as soon as it is done.
    pub fn run(&self) -> Vec<RowResult> {
        let private = Arc::new(Private::new());
        let group = Arc::new(AtomicI32::new(0));
        end_well(&private, &group);
        let (_, core) = self.machine.pair.expect("asked before");
        let site = Site { core, directory: private.path().to_owned() };
        let rows: Vec<Row> = rows::all().into_iter().filter(|row| self.is_wanted(row)).collect();
        let mut results: Vec<RowResult> =
            rows.into_iter().map(|row| self.prepare(row, &site)).collect();
        let count: usize = results
            .iter()
            .map(|result| result.cells.iter().filter(|cell| cell.lacks.is_none()).count())
            .sum();
        let progress = ProgressBar::new(count as u64 * u64::from(self.repetitions));
        let style = ProgressStyle::with_template("{pos}/{len} {msg} ({elapsed})");
        progress.set_style(style.expect("a valid template"));
        for result in &mut results {
            for _ in 0..self.repetitions {
                for index in 0..result.cells.len() {
                    if result.cells[index].lacks.is_some() {
                        continue;
                    }
                    let text = format!("{} {}", result.row.id, result.cells[index].full_name());
                    progress.set_message(text);
                    self.repeat(result, index, &private, &group);
                    progress.inc(1);
                }
            }
            progress.suspend(|| table::print(result));
        }
        progress.finish_and_clear();
        // The handler keeps it alive, so that it is not dropped.
        private.remove();
        results
    }

    fn is_wanted(&self, row: &Row) -> bool {
        if self.rows.is_empty() {
            return !self.is_quick || row.is_quick;
        }
        self.rows.iter().any(|word| row.id.contains(word.as_str()))
    }

    fn prepare(&self, row: Row, site: &Site) -> RowResult {
        let mut cells = Vec::new();
        for Entry { name, kind, promises, about, answer } in subjects::all() {
            let is_wanted = kind == Kind::Limit
                || self.only.is_empty()
                || self.only.iter().any(|word| name.contains(word.as_str()));
            let lacks = match answer(row.work, site) {
                Answer::Absent => continue,
                Answer::Lacks(reason) => Some(reason),
                Answer::Runs(_) | Answer::Makes(_) => None,
            };
            if is_wanted {
                let new = |kind, other| {
                    let (failure, quantiles) = (None, Vec::new());
                    Cell { name, kind, promises, about, other, lacks, failure, quantiles }
                };
                cells.push(new(kind, None));
                let is_repeated = kind == Kind::Ours && row.unit() == Unit::Time;
                if let Some(other) = self.other.as_ref().filter(|_| is_repeated) {
                    cells.push(new(Kind::Otherwise, Some(other.clone())));
                }
            }
        }
        let new = |cell: &Cell| Series {
            variant: cell.full_name(),
            bytes: row.work.bytes(),
            runs: Vec::new(),
        };
        let series = cells.iter().map(new).collect();
        RowResult { row, cells, series }
    }

    /// Measures once, and again a few times if a core was taken away or moved meanwhile; keeps the
    /// least disturbed run.
    fn repeat(&self, result: &mut RowResult, index: usize, private: &Private, group: &AtomicI32) {
        let cell = &mut result.cells[index];
        let task = Task {
            row: result.row.id.clone(),
            subject: cell.name.to_owned(),
            is_quick: self.is_quick,
            directory: private.path().to_owned(),
        };
        // The footprint of a channel is no matter of time.
        let is_timed = !matches!(result.row.work, Work::Memory | Work::Descriptors);
        let effort = if self.is_quick || !is_timed { Effort::QUICK } else { EFFORT };
        let limit = self.time_limit(&result.row);
        let usual = usual_distance(&result.series);
        let best = calmest(&effort, usual, || {
            let measured = measure(&task, cell.other.as_ref(), limit, group);
            private.clear();
            match measured {
                Ok(figures) => Some((run_of(&figures), figures.quantiles)),
                Err(reason) => {
                    cell.failure = Some(reason);
                    None
                }
            }
        });
        if let Some((run, quantiles)) = best {
            result.series[index].runs.push(run);
            cell.quantiles.push(quantiles);
        }
    }

    /// Long enough on a machine that does something else as well: large payloads are written a
    /// dozen times, page by page.
    fn time_limit(&self, row: &Row) -> Duration {
        let payload = Duration::from_secs(row.work.bytes() as u64 >> 22);
        Duration::from_secs(if self.is_quick { 40 } else { 60 }) + payload
    }
}

fn run_of(figures: &Figures) -> Run {
    let tail = |at: usize| figures.quantiles.get(at).copied();
    Run {
        figure: figures.figure,
        tail: tail(P99).zip(tail(P99 + 1)),
        mean: figures.mean,
        in_a_row: figures.in_a_row,
        probe: figures.probes.map(|(before, _)| before),
        distance: Distance::of(
            figures.probes.map(|(before, _)| before),
            figures.probes.map(|(_, after)| after),
        ),
        switches: figures.switches,
        count: figures.count,
    }
}

/// Runs one task in a process of its own; ends it, and all it started, once its time is over.
fn measure(
    task: &Task,
    other: Option<&OtherProfile>,
    limit: Duration,
    group: &AtomicI32,
) -> Result<Figures, String> {
    let own = || std::env::current_exe().expect("path of this executable");
    let mut command = Command::new(other.map_or_else(own, |other| other.program.clone()));
    command.env(runner::TASK, task.to_text()).env("TMPDIR", &task.directory);
    command.env(crossbar::REGISTRY.0, format!("{}/{}", task.directory, crossbar::REGISTRY.1));
    #[cfg(feature = "aeron")]
    command.env(crate::peers::aeron::THREADING.0, crate::peers::aeron::THREADING.1);
    let errors = format!("{}/errors", task.directory);
    let file = File::create(&errors).map_err(|error| format!("{errors}: {error}"))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("starting a runner: {error}"))?;
    let id = Pid::from_raw(child.id().cast_signed());
    group.store(id.as_raw(), SeqCst);
    let output = read_all(child.stdout.take().expect("a pipe"), limit);
    // Also when it has ended: its children are in the same group.
    let _ = killpg(id, Signal::SIGKILL);
    let status = child.wait().map_err(|error| format!("waiting for a runner: {error}"))?;
    group.store(0, SeqCst);
    let Some(output) = output else {
        return Err(format!("did not end within {} s", limit.as_secs()));
    };
    output.lines().find_map(Figures::of_line).ok_or_else(|| {
        let text = std::fs::read_to_string(&errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        // The first panic says what went wrong; without one, the last line is the best there is.
        let said = lines.iter().position(|line| line.contains("panicked at"));
        let from = said.unwrap_or(lines.len().saturating_sub(1));
        let last = lines[from..lines.len().min(from + 3)].join(" ");
        format!("{status}: {last}")
    })
}

/// Reads until every process has closed the pipe; `None` once the time is over.
///
/// It sleeps in the kernel meanwhile: a look at the child every few milliseconds would take a core
/// from what is measured.
fn read_all(mut pipe: impl Read + AsFd, limit: Duration) -> Option<String> {
    let end = Instant::now() + limit;
    let mut output = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut wanted = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wanted, timeout).unwrap_or(0) == 0 {
            if Instant::now() >= end {
                return None;
            }
            continue;
        }
        match pipe.read(&mut part) {
            Ok(0) | Err(_) => return Some(String::from_utf8_lossy(&output).into_owned()),
            Ok(read) => output.extend_from_slice(&part[..read]),
        }
        // A child of the runner may hold the pipe for a moment longer than the runner itself.
        let text = String::from_utf8_lossy(&output);
        if text.ends_with('\n') && text.lines().any(|line| Figures::of_line(line).is_some()) {
            return Some(text.into_owned());
        }
    }
}

/// Leaves nothing behind when the user ends the comparison.
fn end_well(private: &Arc<Private>, group: &Arc<AtomicI32>) {
    let (private, group) = (Arc::clone(private), Arc::clone(group));
    let once = Mutex::new(());
    let handler = move || {
        let _only_once = once.lock();
        let id = group.load(SeqCst);
        if id != 0 {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        private.remove();
        std::process::exit(130);
    };
    ctrlc::set_handler(handler).expect("handlers of SIGINT and SIGTERM");
}

/// Measurements that failed.
pub struct Failures {
    /// One line each: row, subject and reason.
    pub lines: Vec<String>,
    /// How many of them are not another library's: this crate's, and what the harness itself does.
    pub own: usize,
}

impl Failures {
    pub fn of(results: &[RowResult]) -> Self {
        let mut failures = Self { lines: Vec::new(), own: 0 };
        for RowResult { row, cells, .. } in results {
            for cell in cells {
                let Some(reason) = &cell.failure else { continue };
                failures.lines.push(format!("{}, {}: {reason}", row.id, cell.full_name()));
                failures.own += usize::from(!cell.kind.is_foreign());
            }
        }
        failures
    }
}

/// Fewer tries than a benchmark of the crate alone makes: there are hundreds of measurements.
const EFFORT: Effort = Effort { attempts: 2, attempts_at_pair: 6, ..Effort::FULL };
