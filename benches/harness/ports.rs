//! The crate itself as a subject of a round trip, between two processes.

use std::hint::spin_loop;
use std::os::fd::AsFd;

use messageport::{MessageEvent, MessagePort, RecvError, Worker, parent_port};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::child::{self, Job};
use super::message::{CHECKED, Outgoing, assert_echo};
use super::typed::{Document, Number, Order, Typed};
use super::workload::{RoundTrip, Subject, Trips};

/// How both sides of a round trip use their port.
#[derive(Clone, Copy)]
pub struct Mode {
    pub is_trusted: bool,
    /// Asleep on the port's descriptor rather than spinning on `try_recv`. Not in `recv`: between
    /// two ends that answer at once that soon stops sleeping.
    pub is_asleep: bool,
    /// Typed messages with checked access rather than bytes.
    pub is_typed: bool,
    /// Whether the answer to a typed message is the value that came, and not one of the other
    /// side's own with the same number.
    pub is_returned: bool,
}

impl Mode {
    fn variant(self) -> String {
        let trust = if self.is_trusted { "trusted" } else { "default" };
        let content = if self.is_typed { "typed" } else { "bytes" };
        let returned = if self.is_returned { "-returned" } else { "" };
        format!("{trust}-{content}{returned}")
    }

    fn role(self) -> String {
        let wait = if self.is_asleep { "asleep" } else { "spinning" };
        format!("port-echo:{}:{wait}", self.variant())
    }

    fn of_role(role: &str) -> Self {
        Self {
            is_trusted: role.contains("trusted"),
            is_asleep: role.contains("asleep"),
            is_typed: role.contains("typed"),
            is_returned: role.contains("returned"),
        }
    }

    #[inline]
    pub fn receive(self, port: &MessagePort) -> Result<MessageEvent<'_>, RecvError> {
        if self.is_asleep {
            // The first call has to come before the look after which this side sleeps.
            let _ = port.as_fd();
        }
        loop {
            if let Some(event) = port.try_recv()? {
                return Ok(event);
            }
            match self.is_asleep {
                true => sleep(port),
                false => spin_loop(),
            }
        }
    }
}

/// Sleeps until there may be a message.
pub fn sleep(port: &MessagePort) {
    let mut wanted = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
    poll(&mut wanted, PollTimeout::NONE).expect("poll");
}

/// Bytes there and back.
struct BytesEcho {
    worker: Worker,
    mode: Mode,
    message: Outgoing,
}

impl RoundTrip for BytesEcho {
    fn check(&mut self) {
        let port = self.worker.port();
        assert_echo(self.message.current().len(), |message| {
            port.post_bytes(message).expect("posting to a worker that lives");
            self.mode.receive(port).expect("an answer").bytes().to_vec()
        });
    }

    #[inline]
    fn round_trip(&mut self) {
        let port = self.worker.port();
        port.post_bytes(self.message.next()).expect("posting to a worker that lives");
        let event = self.mode.receive(port).expect("an answer");
        self.message.confirm(event.bytes());
    }

    fn peer(&self) -> u32 {
        self.worker.id()
    }
}

/// Typed messages there and back.
struct TypedEcho<T> {
    worker: Worker,
    mode: Mode,
    message: T,
}

impl<T: Typed> RoundTrip for TypedEcho<T> {
    fn check(&mut self) {
        let port = self.worker.port();
        for _ in 0..CHECKED {
            *self.message.number() += 1;
            port.post_message(&self.message).expect("posting to a worker that lives");
            let event = self.mode.receive(port).expect("an answer");
            assert_eq!(event.deserialize::<T>().expect("a valid answer"), self.message);
        }
    }

    #[inline]
    fn round_trip(&mut self) {
        let port = self.worker.port();
        *self.message.number() += 1;
        port.post_message(&self.message).expect("posting to a worker that lives");
        let event = self.mode.receive(port).expect("an answer");
        let answer = event.data::<T>().expect("a valid answer");
        assert_eq!(T::number_of(answer), *self.message.number());
    }

    fn peer(&self) -> u32 {
        self.worker.id()
    }
}

/// Plays the other side of [`BytesEcho`] or [`TypedEcho`].
pub fn serve_echo(job: Job) {
    let mode = Mode::of_role(&job.role);
    let port = parent_port().expect("a port to the parent");
    if mode.is_trusted {
        trust(&port);
    }
    match (mode.is_typed, job.bytes) {
        (false, _) => echo_bytes(&port, mode),
        (true, 64) if mode.is_returned => return_typed::<Order>(&port, mode),
        (true, 1024) if mode.is_returned => return_typed::<Document>(&port, mode),
        (true, 8) => echo_typed::<Number>(&port, mode),
        (true, 64) => echo_typed::<Order>(&port, mode),
        (true, 1024) => echo_typed::<Document>(&port, mode),
        (true, bytes) => panic!("no type of {bytes} bytes"),
    }
}

pub fn echo_bytes(port: &MessagePort, mode: Mode) {
    while let Ok(event) = mode.receive(port) {
        if port.post_bytes(event.bytes()).is_err() {
            return;
        }
    }
}

/// Answers with a message of our own, numbered as the one that came.
fn echo_typed<T: Typed>(port: &MessagePort, mode: Mode) {
    let mut answer = T::example();
    while let Ok(event) = mode.receive(port) {
        let number = T::number_of(event.data::<T>().expect("a valid message"));
        *answer.number() = number;
        if number <= CHECKED {
            assert_eq!(event.deserialize::<T>().expect("a valid message"), answer);
        }
        if port.post_message(&answer).is_err() {
            return;
        }
    }
}

/// Answers with the value that came.
fn return_typed<T: Typed>(port: &MessagePort, mode: Mode) {
    while let Ok(event) = mode.receive(port) {
        let value = event.deserialize::<T>().expect("a valid message");
        if port.post_message(&value).is_err() {
            return;
        }
    }
}

/// Round trips of every payload through ports that are used as `mode` says.
pub fn round_trips(core: usize, mode: Mode, bytes: &[usize], count: u64) -> Vec<Subject> {
    bytes.iter().map(|&bytes| round_trip(core, mode, bytes, count)).collect()
}

fn round_trip(core: usize, mode: Mode, bytes: usize, count: u64) -> Subject {
    match (mode.is_typed, bytes) {
        (false, _) => Subject::new(mode.variant(), bytes, count, move || {
            let worker = spawn(core, mode, bytes);
            Trips(BytesEcho { worker, mode, message: Outgoing::new(bytes) })
        }),
        (true, 8) => typed::<Number>(core, mode, bytes, count),
        (true, 64) => typed::<Order>(core, mode, bytes, count),
        (true, 1024) => typed::<Document>(core, mode, bytes, count),
        (true, bytes) => panic!("no type of {bytes} bytes"),
    }
}

fn typed<T: Typed>(core: usize, mode: Mode, bytes: usize, count: u64) -> Subject {
    Subject::new(mode.variant(), bytes, count, move || {
        Trips(TypedEcho { worker: spawn(core, mode, bytes), mode, message: T::example() })
    })
}

fn spawn(core: usize, mode: Mode, bytes: usize) -> Worker {
    let worker = Worker::spawn(child::command(&mode.role(), core, bytes, &[]));
    let worker = worker.expect("starting this executable again");
    if mode.is_trusted {
        trust(worker.port());
    }
    worker
}

/// Both ends are this benchmark's, which does the same on the other side.
pub fn trust(port: &MessagePort) {
    // SAFETY: only this executable holds ends of this pair, and it writes shared memory only
    // through the crate.
    unsafe { port.trust_peer() };
}
