//! A process that serves a port by a loop, by a set or by a task: round trips to it while its other
//! ports are idle, and while one of them is flooded by a third process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use messageport::{EventLoop, MessageChannel, MessageEvent, MessagePort, PortSet, Worker};
use messageport::{Format, parent_port};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::child::{self, Job};
use super::message::{Outgoing, assert_echo};
use super::ports::Mode;
use super::workload::{RoundTrip, Subject, Trips};

/// How the other process serves its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    Loop,
    Set,
    #[cfg(feature = "tokio")]
    Task,
}

impl Front {
    pub const ALL: &'static [Front] = &[
        Front::Loop,
        Front::Set,
        #[cfg(feature = "tokio")]
        Front::Task,
    ];

    /// What its round trips are called while all else is idle, and while another port is flooded.
    pub fn variants(self) -> [&'static str; 2] {
        match self {
            Front::Loop => ["loop", "loop-flooded"],
            Front::Set => ["set", "set-flooded"],
            #[cfg(feature = "tokio")]
            Front::Task => ["task", "task-flooded"],
        }
    }

    /// What its round trips are called while neither side sleeps.
    pub fn awake(self) -> &'static str {
        match self {
            Front::Loop => "loop-awake",
            Front::Set => "set-awake",
            #[cfg(feature = "tokio")]
            Front::Task => "task-awake",
        }
    }
}

/// Round trips to a port of a front, flooded or not. The flood comes from a process on our core,
/// which runs while we wait.
pub fn round_trips(cores: (usize, usize), front: Front, count: u64) -> [Subject; 2] {
    let (ours, theirs) = cores;
    front.variants().map(|variant| {
        let is_flooded = variant.ends_with("flooded");
        let flooder = if is_flooded { ours.to_string() } else { "none".to_owned() };
        let role = format!("front-echo:{}:0:{flooder}", front.variants()[0]);
        Subject::new(variant, BYTES, count, move || Trips(Served::start(&role, theirs, is_flooded)))
    })
}

/// Round trips to a port of a front, by a side that looks for a while before it sleeps.
pub fn awake(core: usize, front: Front, count: u64) -> Subject {
    let role = format!("front-echo:{}:0:none", front.variants()[0]);
    Subject::new(front.awake(), BYTES, count, move || {
        let served = Served::start(&role, core, false);
        Trips(Served { sleeps: false, ..served })
    })
}

/// Round trips to a port of a loop that has so many idle ones beside it, started or not.
pub fn round_trip_beside(
    core: usize,
    variant: &'static str,
    idle: usize,
    is_started: bool,
    count: u64,
) -> (Subject, usize) {
    let idle = idle.min(most_pairs());
    let front = if is_started { "loop" } else { UNSTARTED };
    let role = format!("front-echo:{front}:{idle}:none");
    let subject =
        Subject::new(variant, BYTES, count, move || Trips(Served::start(&role, core, false)));
    (subject, idle)
}

/// Nanoseconds of the processor that a loop with so many idle ports takes while it sleeps for
/// `time`; asserts before and after that it answers.
pub fn cost_of_idling(core: usize, idle: usize, time: Duration) -> u64 {
    child::arm_deadline();
    let role = format!("front-echo:loop:{}:none", idle.min(most_pairs()));
    let mut served = Served::start(&role, core, false);
    served.check();
    // It may still be on its way to sleep.
    std::thread::sleep(Duration::from_millis(20));
    let before = processor_time(served.worker.id());
    std::thread::sleep(time);
    let after = processor_time(served.worker.id());
    served.check();
    after - before
}

/// What a process has run for, in nanoseconds: the first field.
fn processor_time(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/schedstat")).expect("a process");
    let first = text.split_whitespace().next().expect("three numbers");
    first.parse().expect("a number")
}

/// The near side: a port to a process that serves it among others.
struct Served {
    worker: Worker,
    message: Outgoing,
    is_flooded: bool,
    /// Whether this side sleeps at once.
    sleeps: bool,
}

impl Served {
    fn start(role: &str, core: usize, is_flooded: bool) -> Self {
        let worker = Worker::spawn(child::command(role, core, BYTES, &[]));
        let worker = worker.expect("starting this executable again");
        Self { worker, message: Outgoing::new(BYTES), is_flooded, sleeps: true }
    }

    /// Messages of the flood that the other process has taken so far, all of them right.
    fn flood(&self) -> u64 {
        let port = self.worker.port();
        port.post_text("how many?").expect("posting to a worker that lives");
        let event = port.recv().expect("an answer");
        let digits = std::str::from_utf8(event.bytes()).expect("digits");
        digits.parse().expect("a number")
    }
}

impl RoundTrip for Served {
    fn check(&mut self) {
        let port = self.worker.port();
        assert_echo(BYTES, |message| {
            port.post_bytes(message).expect("posting to a worker that lives");
            port.recv().expect("an answer").bytes().to_vec()
        });
        if self.is_flooded {
            let before = self.flood();
            while self.flood() < before + 10_000 {
                std::thread::yield_now();
            }
        } else {
            assert_eq!(self.flood(), 0);
        }
    }

    #[inline]
    fn round_trip(&mut self) {
        let port = self.worker.port();
        port.post_bytes(self.message.next()).expect("posting to a worker that lives");
        let event = match self.sleeps {
            true => ASLEEP.receive(port),
            false => port.recv(),
        };
        let event = event.expect("an answer");
        self.message.confirm(event.bytes());
    }

    fn peer(&self) -> u32 {
        self.worker.id()
    }
}

/// Posts as fast as there is room, for as long as the peer listens. It gives the core up at once to
/// the measuring process; otherwise p99 would be the slice of time that the scheduler leaves us.
pub fn serve_flood(job: Job) {
    let nothing = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure, which outlives the call.
    let answer = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing) };
    assert_eq!(answer, 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
    let port = parent_port().expect("a port to the parent");
    let mut message = Outgoing::new(job.bytes);
    while port.post_bytes_timeout(message.next(), Duration::MAX).is_ok() {}
}

/// Plays the other side of [`Served`].
pub fn serve_echo(job: Job) {
    let words: Vec<&str> = job.role.split(':').collect();
    let [_, front, idle, flooder] = words[..] else { panic!("a role of four words") };
    let flood = flooder.parse().ok().map(|core| {
        let worker = Worker::spawn(child::command("front-flood", core, job.bytes, &[]));
        worker.expect("starting this executable again")
    });
    // The flooder is killed with this process.
    let flood = flood.map(|worker| worker.into_parts().0);
    let echo = parent_port().expect("a port to the parent");
    match front {
        "loop" => by_loop(echo, flood, idle.parse().expect("a number of ports"), true),
        UNSTARTED => by_loop(echo, flood, idle.parse().expect("a number of ports"), false),
        "set" => by_set(echo, flood),
        #[cfg(feature = "tokio")]
        "task" => by_task(echo, flood),
        other => panic!("no front is called {other}"),
    }
}

/// Counts the messages of a flood, each of which has to be the next.
#[derive(Clone, Default)]
struct Tide(Arc<AtomicU64>);

impl Tide {
    fn take(&self, bytes: &[u8]) {
        let number = self.0.load(Relaxed) + 1;
        assert_eq!(super::message::touch(bytes), number, "number of a message of the flood");
        self.0.store(number, Relaxed);
    }

    fn answer(&self) -> String {
        self.0.load(Relaxed).to_string()
    }
}

/// Answers a message: bytes with the same bytes, a text with what was taken of the flood.
fn answer(port: &MessagePort, event: &MessageEvent<'_>, tide: &Tide) {
    // The other side may be gone by now, which ends this process.
    let _ = match event.format() {
        Format::Text => port.post_bytes(tide.answer().as_bytes()),
        _ => port.post_bytes(event.bytes()),
    };
}

fn by_loop(echo: MessagePort, flood: Option<MessagePort>, idle: usize, is_started: bool) {
    let tide = Tide::default();
    let mut event_loop = EventLoop::new().expect("a loop");
    let far = idle_ports(idle, is_started, &mut event_loop);
    if let Some(flood) = flood {
        let tide = tide.clone();
        flood.on_listener_failure(|_, _| std::process::abort());
        flood.on_message(move |event| tide.take(event.message().expect("a message").bytes()));
        event_loop.add(flood).expect("room for a port");
    }
    echo.on_message(move |event| {
        answer(event.port(), event.message().expect("a message"), &tide);
    });
    let handle = event_loop.handle();
    echo.on_close(move |_| handle.stop());
    event_loop.add(echo).expect("room for a port");
    event_loop.run().expect("the loop waits");
    drop(far);
}

/// Adds ports to which nothing is posted; returns their peers.
fn idle_ports(count: usize, is_started: bool, event_loop: &mut EventLoop) -> Vec<MessagePort> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    let add = |_| {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        if is_started {
            port2.on_message(|_| panic!("no process posts here") as ());
        }
        event_loop.add(port2).expect("room for a port");
        port1
    };
    (0..count).map(add).collect()
}

/// A pair takes five descriptors.
fn most_pairs() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    (most / 6) as usize
}

fn by_set(echo: MessagePort, flood: Option<MessagePort>) {
    let tide = Tide::default();
    let mut set = PortSet::new().expect("a set");
    flood.map(|flood| set.add(flood).expect("room for a port"));
    let echo = set.add(echo).expect("room for a port");
    loop {
        match set.recv().expect("the set waits") {
            (id, Ok(event)) if id == echo => {
                answer(set.get(id).expect("a member"), &event, &tide);
            }
            (_, Ok(event)) => tide.take(event.bytes()),
            (_, Err(_)) => return,
        }
    }
}

#[cfg(feature = "tokio")]
fn by_task(echo: MessagePort, flood: Option<MessagePort>) {
    let tide = Tide::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        if let Some(flood) = flood {
            let tide = tide.clone();
            let mut flood = flood.into_async().expect("a reactor");
            tokio::spawn(async move {
                while let Ok(message) = flood.recv().await {
                    tide.take(message.bytes());
                }
            });
        }
        let mut echo = echo.into_async().expect("a reactor");
        let served = tokio::spawn(async move {
            while let Ok(message) = echo.recv().await {
                let bytes = match message.format() {
                    Format::Text => tide.answer().into_bytes(),
                    _ => message.bytes().to_vec(),
                };
                if echo.post_bytes(&bytes).await.is_err() {
                    return;
                }
            }
        });
        served.await.expect("a task that is content");
    });
}

pub const BYTES: usize = 64;
/// The word of a role for a loop whose idle ports are not started.
const UNSTARTED: &str = "loop-unstarted";
const ASLEEP: Mode =
    Mode { is_trusted: false, is_asleep: true, is_typed: false, is_returned: false };
