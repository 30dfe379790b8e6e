//! Walks over the points of an operation, and what is done to the process at each.

use crate::calls::{Refusal, Row, is_of_std, row_of};
use crate::common::census::{Census, has_no_children};
use crate::common::messages::{Rng, mix};
use crate::common::region::{AREA, HEADER, Region};
use crate::common::role::{command, say, skip};
use crate::common::watchdog::{progress, watch};
use crate::common::{wait_until, wanted};
use crate::subject::{REFUSED, SEED, Subject};
use crate::tracer::{Pace, Place, Tracee, fix_addresses};
use messageport::{ChannelBuilder, MessageChannel, MessagePort, Worker};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use std::fmt;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;

/// What is tested: one operation of one process, and the other processes around it.
pub struct Operation {
    /// Whether each instruction is a point, beside all system calls. Of others some are, in the long
    /// form.
    pub is_short: bool,
    /// The channel between the process and this one.
    pub channel: fn() -> ChannelBuilder,
    /// What the process does.
    pub subject: fn(Subject),
    /// What its partners do, all of which are played by this process.
    pub partner: fn(MessagePort, u64) -> Box<dyn Partner>,
}

/// The default channel.
pub fn plain() -> ChannelBuilder {
    MessageChannel::builder()
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was killed at a point of its operation.
    Killed,
    /// It did all that it had to do.
    Finished,
}

/// The other side of an operation.
pub trait Partner {
    /// The process is at the begin of its operation, and stands still.
    fn begin(&mut self) {}
    /// The process sleeps in the kernel. Called again and again.
    fn meanwhile(&mut self) {}
    /// The process stands still at a point of its operation. What is called here must return.
    fn carry_on(&mut self) {}
    /// The process has done its operation.
    fn after(&mut self) {}
    /// A call that an undisturbed operation makes: the one that wakes a sleeper.
    fn expected_call(&self) -> Option<&'static str> {
        None
    }
    /// Whether `carry_on` does all that the process could sleep for, so that no sleep after it may
    /// last until its time is up.
    fn ends_sleeps(&self) -> bool {
        false
    }
    /// The process has ended. Checks what must hold then.
    fn end(self: Box<Self>, fate: Fate);
}

/// A point of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// Before (even) or behind (odd) a system call, counted from 0.
    Call(u32),
    /// Behind so many instructions.
    Step(u32),
    /// At the call of this kind with this number, counted from 1.
    Nth(&'static Row, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    /// Stop, let the partners carry on, continue.
    Pause,
    Refuse(Errno),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    point: Point,
    action: Action,
    seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.point {
            Point::Call(number) => write!(f, "call {number}")?,
            Point::Step(number) => write!(f, "step {number}")?,
            Point::Nth(row, nth) => write!(f, "{} {nth}", row.name)?,
        }
        match self.action {
            Action::Kill => write!(f, " kill")?,
            Action::Pause => write!(f, " pause")?,
            Action::Refuse(errno) => write!(f, " {errno:?}")?,
        }
        write!(f, " seed {}", self.seed)
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        self.name == other.name
    }
}

impl Eq for Row {}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Replays one case: a line as a failure prints it.
const CASE: &str = "MESSAGEPORT_STEPS_CASE";
/// Runs at each call and at each change of shared bytes. The first run is also one at every
/// instruction of short operations, and has every refusal; the others have some instructions.
const RUNS: &str = "MESSAGEPORT_STEPS";
/// Calls of one kind that are refused in an operation.
const REFUSED_CALLS: u32 = 5;

/// The role of the tracer.
pub fn lead(test: &'static str, operation: &Operation) {
    let walk = Walk { test, operation, before: Census::take() };
    // Children of a killed process become ours, so that they can be counted.
    set_child_subreaper(true).expect("a process may adopt");
    fix_addresses();
    let wanted_case = std::env::var(CASE).ok();
    let (mut tried, mut passed_by, mut failed) = (0, 0, Vec::new());
    let seeds = match &wanted_case {
        Some(case) => seed_of(case)..=seed_of(case),
        None => 0..=wanted(RUNS, 1).saturating_sub(1),
    };
    for seed in seeds {
        let Some(recording) = walk.record(seed) else {
            return skip("ptrace(2) is refused here");
        };
        if is_long() {
            say(&format!("{test}, seed {seed}: {recording}"));
        }
        for case in walk.cases(&recording, seed) {
            if wanted_case.as_ref().is_none_or(|wanted| *wanted == case.to_string()) {
                // One that fails says so, and keeps none from being tried.
                let attempt = AssertUnwindSafe(|| walk.attempt(case, &recording));
                match catch_unwind(attempt) {
                    Ok(is_there) => passed_by += u32::from(!is_there),
                    Err(_) => failed.push(case.to_string()),
                }
                tried += 1;
                assert!(failed.len() < MOST_FAILURES, "too many fail: {failed:#?}");
            }
        }
    }
    assert!(failed.is_empty(), "{} of {tried} cases fail: {failed:#?}", failed.len());
    assert!(tried > 0, "there is no case {wanted_case:?}");
    if is_long() {
        say(&format!("{test}: {tried} runs, {passed_by} of them did not come by their point"));
    }
}

/// Whether every point is walked to. A case that is replayed may be any of these.
fn is_long() -> bool {
    [RUNS, CASE].iter().any(|variable| std::env::var_os(variable).is_some())
}

/// The last word of a case.
fn seed_of(case: &str) -> u64 {
    let seed = case.rsplit(' ').next().and_then(|word| word.parse().ok());
    seed.unwrap_or_else(|| panic!("{CASE} does not end with a seed: {case}"))
}

/// What one undisturbed walk has shown.
struct Recording {
    /// The calls, in order; `None` for those that are not refused.
    calls: Vec<Option<&'static Row>>,
    /// Where each instruction is, and what comes behind the last one.
    path: Vec<u64>,
    /// Counts of instructions behind which bytes that the processes share had changed.
    changes: Vec<u32>,
}

impl Recording {
    fn steps(&self) -> u32 {
        self.path.len().saturating_sub(1) as u32
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (calls, steps, changes) = (self.calls.len(), self.steps(), self.changes.len());
        write!(f, "{calls} calls, {steps} instructions, {changes} of them change shared bytes")
    }
}

struct Walk<'a> {
    test: &'static str,
    operation: &'a Operation,
    before: Census,
}

/// A process at the begin of its operation, and its partners.
struct Started {
    tracee: Tracee,
    partner: Box<dyn Partner>,
}

impl Walk<'_> {
    /// `None` where no process can be traced.
    fn start(&self, case: Option<Case>, seed: u64) -> Option<(Started, Option<Region>)> {
        let mut command = command(self.test, "subject");
        command.env(SEED, seed.to_string()).stdout(Stdio::null());
        if let Some(Case { point: Point::Nth(row, _), action: Action::Refuse(errno), .. }) = case {
            command.env(REFUSED, format!("{} {errno:?}", row.name));
        }
        let worker = Worker::spawn_with(command, (self.operation.channel)()).expect("a worker");
        let (port, child) = worker.into_parts();
        let region = case.is_none().then(|| Region::of(&port));
        let mut partner = (self.operation.partner)(port, seed);
        let tracee = Tracee::adopt(child.id())?;
        partner.begin();
        Some((Started { tracee, partner }, region))
    }

    fn finish(&self, started: Started, fate: Fate) {
        let Started { tracee, mut partner } = started;
        match fate {
            Fate::Killed => tracee.kill(),
            Fate::Finished => {
                partner.after();
                tracee.finish(&mut || partner.meanwhile());
            }
        }
        partner.end(fate);
        self.before.wait_for("the partner holds what it held before");
        // What it had started ends with it.
        wait_until("no process is left", reap);
        progress();
    }

    /// Walks once by calls, and once by instructions if each of them is a point.
    fn record(&self, seed: u64) -> Option<Recording> {
        let mut recording = Recording { calls: Vec::new(), path: Vec::new(), changes: Vec::new() };
        let (mut started, region) = self.start(None, seed)?;
        drop(region);
        loop {
            let Started { tracee, partner } = &mut started;
            match tracee.go(Pace::Calls, &mut || partner.meanwhile()) {
                Place::Call(registers) => {
                    let is_refusable = !is_of_std(&registers);
                    let row = row_of(&registers);
                    recording.calls.push(is_refusable.then_some(row));
                    let place = tracee.go(Pace::Calls, &mut || partner.meanwhile());
                    assert!(matches!(place, Place::Call(_)), "in {}: {place:?}", row.name);
                }
                Place::End => break,
                place => panic!("{place:?} in {:?}", recording.calls),
            }
        }
        let expected = started.partner.expected_call();
        self.finish(started, Fate::Finished);
        let mut made = recording.calls.iter().flatten().map(|row| row.name);
        assert!(expected.is_none_or(|name| made.any(|made| made == name)), "no {expected:?}");
        if self.operation.is_short || is_long() && seed == 0 {
            (recording.path, recording.changes) = self.record_steps(seed);
        }
        Some(recording)
    }

    /// Walks by instructions. The partners carry on at each of them.
    fn record_steps(&self, seed: u64) -> (Vec<u64>, Vec<u32>) {
        let _watch = watch("every instruction");
        let (mut started, region) = self.start(None, seed).expect("it could be traced before");
        let region = region.expect("a recording looks at it");
        let (mut path, mut changes) = (vec![started.tracee.instruction()], Vec::new());
        let mut bytes = shared_bytes(&region);
        started.tracee.bind(true);
        loop {
            let Started { tracee, partner } = &mut started;
            let place = tracee.go(Pace::Steps, &mut || partner.meanwhile());
            let steps = path.len() as u32;
            path.push(tracee.instruction());
            match place {
                Place::Step => {}
                Place::End => break,
                place => panic!("{place:?} behind {steps} instructions"),
            }
            let now = shared_bytes(&region);
            if now != bytes {
                changes.push(steps);
                bytes = now;
            }
            if steps.is_multiple_of(1024) {
                progress();
            }
        }
        drop(region);
        started.tracee.bind(false);
        self.finish(started, Fate::Finished);
        (path, changes)
    }

    fn cases(&self, recording: &Recording, seed: u64) -> Vec<Case> {
        let mut points: Vec<_> = (0..2 * recording.calls.len() as u32).map(Point::Call).collect();
        let steps = recording.steps();
        // Another message hardly changes the path: each instruction and each refusal is tried with
        // one, the calls and the changes of shared bytes with every one.
        let is_first = seed == 0;
        if is_first && is_long() && self.operation.is_short {
            points.extend((0..recording.path.len() as u32).map(Point::Step));
        } else if steps > 0 {
            let mut rng = Rng(mix(seed));
            let sample = (0..SAMPLE).map(|_| rng.below(u64::from(steps)) as u32);
            let changes = recording.changes.iter().copied();
            points.extend(sample.chain([0, steps]).chain(changes).map(Point::Step));
        }
        let mut cases = Vec::new();
        for point in points {
            for action in [Action::Kill, Action::Pause] {
                cases.push(Case { point, action, seed });
            }
        }
        let refused = is_first.then(|| refusals(&recording.calls));
        cases.extend(refused.into_iter().flatten().map(|(point, errno)| Case {
            point,
            action: Action::Refuse(errno),
            seed,
        }));
        if !is_long() {
            // These are tried always: each has its place in the code.
            let [again, many] = [Errno::EINTR, Errno::ETOOMANYREFS].map(Action::Refuse);
            let is_kept = |case: &Case| case.action == again || case.action == many;
            let (kept, mut others): (Vec<_>, Vec<_>) = cases.into_iter().partition(is_kept);
            let mut rng = Rng(seed);
            while others.len() > MOST_IN_SHORT {
                others.swap_remove(rng.below(others.len() as u64) as usize);
            }
            cases = [kept, others].concat();
        }
        cases
    }

    /// Whether the operation has come by that point.
    fn attempt(&self, case: Case, recording: &Recording) -> bool {
        let _shown = Shown { test: self.test, case };
        let _watch = watch(format!("{CASE}='{case}'"));
        let (mut started, _) = self.start(Some(case), case.seed).expect("it was traced before");
        let is_there = started.lead_to(case.point, recording);
        let fate = match case.action {
            Action::Kill if is_there => Fate::Killed,
            Action::Pause if is_there => {
                started.partner.carry_on();
                started.run_on();
                Fate::Finished
            }
            Action::Refuse(errno) if is_there => {
                let Point::Nth(row, _) = case.point else { unreachable!("calls are refused") };
                started.refuse(row.refusal, errno);
                Fate::Finished
            }
            _ => Fate::Finished,
        };
        self.finish(started, fate);
        is_there
    }
}

impl Started {
    /// Whether the operation has that point.
    fn lead_to(&mut self, point: Point, recording: &Recording) -> bool {
        let Started { tracee, partner } = self;
        let mut go = |tracee: &mut Tracee, pace| match tracee.go(pace, &mut || partner.meanwhile())
        {
            Place::Gone(status) => panic!("the subject has ended on its way: {status:?}"),
            place => place,
        };
        match point {
            Point::Step(count) => {
                let place = recording.path[count as usize];
                let before = &recording.path[..=count as usize];
                let times = before.iter().filter(|other| **other == place).count();
                tracee.run_to(place, times as u32, &mut || partner.meanwhile())
            }
            Point::Call(count) => {
                (0..=count).all(|_| matches!(go(tracee, Pace::Calls), Place::Call(_)))
            }
            Point::Nth(row, nth) => {
                let mut seen = 0;
                while let Place::Call(registers) = go(tracee, Pace::Calls) {
                    seen += u32::from(row_of(&registers) == row && !is_of_std(&registers));
                    if seen == nth {
                        return true;
                    }
                    if !matches!(go(tracee, Pace::Calls), Place::Call(_)) {
                        return false;
                    }
                }
                false
            }
        }
    }

    /// Before a call: makes it fail.
    fn refuse(&mut self, refusal: Refusal, errno: Errno) {
        let Started { tracee, partner } = self;
        if refusal == Refusal::Skip {
            tracee.skip_call();
        }
        let place = tracee.go(Pace::Calls, &mut || partner.meanwhile());
        assert!(matches!(place, Place::Call(_)), "behind the call: {place:?}");
        tracee.answer(errno);
        self.run_on();
    }

    /// Goes on to the end of the operation.
    fn run_on(&mut self) {
        let Started { tracee, partner } = self;
        let mut sleeps_for = None;
        loop {
            match tracee.go(Pace::Calls, &mut || partner.meanwhile()) {
                Place::End => return,
                Place::Gone(status) => panic!("the subject has ended: {status:?}"),
                // Before a call the kernel has put this there as its answer.
                Place::Call(registers) if registers.rax == -i64::from(libc::ENOSYS) as u64 => {
                    sleeps_for = tracee.sleep_before(&registers);
                }
                Place::Call(registers) => {
                    let is_over = sleeps_for.take().is_some() && registers.rax == 0;
                    assert!(!is_over || !partner.ends_sleeps(), "it slept, and was not woken");
                }
                Place::Step => {}
            }
        }
    }
}

/// Each call and each error, for the first calls of each kind.
fn refusals(calls: &[Option<&'static Row>]) -> impl Iterator<Item = (Point, Errno)> {
    let mut seen: Vec<(&'static Row, u32)> = Vec::new();
    for row in calls.iter().flatten().copied() {
        match seen.iter_mut().find(|(other, _)| *other == row) {
            Some((_, count)) => *count = (*count + 1).min(REFUSED_CALLS),
            None => seen.push((row, 1)),
        }
    }
    seen.into_iter().flat_map(|(row, count)| {
        let numbers = 1..=count;
        numbers.flat_map(move |nth| row.errors.iter().map(move |it| (Point::Nth(row, nth), *it)))
    })
}

/// What the processes share, as far as these operations write there.
fn shared_bytes(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + 2 * LOOKED_AT];
    let (header, areas) = bytes.split_at_mut(HEADER);
    // A bounded lane may be shorter than that.
    let read = |bytes: &mut [u8], place: usize| {
        region.file.read_at(bytes, place as u64).expect("a region can be read");
    };
    read(header, 0);
    let (first, second) = areas.split_at_mut(LOOKED_AT);
    read(first, AREA);
    read(second, AREA + region.limit());
    bytes
}

/// Whether every child has ended and is reaped.
fn reap() -> bool {
    while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
    {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            return false;
        }
    }
    has_no_children()
}

/// Says how to replay a case that fails.
struct Shown {
    test: &'static str,
    case: Case,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: {CASE}='{}' cargo test --test steps {}", self.case, self.test);
        }
    }
}

/// Instructions of an operation that are tried in the short form.
const SAMPLE: u32 = 24;
/// Cases that fail before a walk is given up.
const MOST_FAILURES: usize = 5;
/// Cases of an operation in the short form.
const MOST_IN_SHORT: usize = 80;
/// Bytes at the start of each area that are compared.
const LOOKED_AT: usize = 16 << 10;
