//! A round trip through ports that have moved, and among many other pairs: what it costs then.

use messageport::{MessageChannel, MessagePort, Worker, parent_port};
use std::process::Child;

use super::child::{self, Job};
use super::message::{Outgoing, assert_echo};
use super::pages;
use super::ports::{self, Mode};
use super::workload::{RoundTrip, Subject, Trips};

/// How often both ends have been posted from port to port before the first message.
pub const HOPS: [(&str, u32); 3] =
    [("after-1-hop", 1), ("after-10-hops", 10), ("after-1000-hops", 1_000)];

/// How many other pairs this process holds, each with a message in it.
pub const NEIGHBOURS: [(&str, usize); 3] =
    [("among-10-pairs", 10), ("among-1000-pairs", 1_000), ("among-3000-pairs", 3_000)];

struct Hopped {
    port: MessagePort,
    _others: Vec<MessageChannel>,
    child: Child,
    message: Outgoing,
}

/// Trusted bytes, spinning: what has nothing beside it to hide behind.
const MODE: Mode = Mode { is_trusted: true, is_asleep: false, is_typed: false, is_returned: false };

pub fn round_trip(
    core: usize,
    (variant, hops): (&'static str, u32),
    bytes: usize,
    count: u64,
) -> Subject {
    Subject::new(variant, bytes, count, move || {
        let role = format!("hopped-echo:{hops}");
        let worker = Worker::spawn(child::command(&role, core, bytes, &[]));
        let (port, child) = worker.expect("starting this executable again").into_parts();
        let (port, message) = (hop(port, hops), Outgoing::new(bytes));
        Trips(Hopped { port, _others: Vec::new(), child, message })
    })
}

/// The same without a hop, in a process with many other ports.
pub fn among_others(
    core: usize,
    (variant, others): (&'static str, usize),
    bytes: usize,
    count: u64,
) -> Subject {
    Subject::new(variant, bytes, count, move || {
        let worker = Worker::spawn(child::command("hopped-echo:0", core, bytes, &[]));
        let (port, child) = worker.expect("starting this executable again").into_parts();
        ports::trust(&port);
        let room = usize::try_from(pages::room_for_pairs()).expect("64-bit Linux");
        let others = others.min(room);
        let other = |_| {
            let channel = MessageChannel::new().expect("a channel");
            channel.port1.post_text("waits").expect("room");
            channel
        };
        let _others = (0..others).map(other).collect();
        Trips(Hopped { port, _others, child, message: Outgoing::new(bytes) })
    })
}

/// Plays the other side.
pub fn serve(job: Job) {
    let (_, hops) = job.role.split_once(':').expect("a role with a number");
    let hops = hops.parse().expect("a number of hops");
    let port = hop(parent_port().expect("a port to the parent"), hops);
    ports::echo_bytes(&port, MODE);
}

fn hop(mut port: MessagePort, hops: u32) -> MessagePort {
    let carrier = MessageChannel::new().expect("a channel");
    for _ in 0..hops {
        carrier.port1.post_text_with("hop", [port.into()]).expect("an open carrier");
        port = carrier.port2.recv().expect("a message").take_port().expect("a port");
    }
    ports::trust(&port);
    port
}

impl RoundTrip for Hopped {
    fn check(&mut self) {
        let port = &self.port;
        assert_echo(self.message.current().len(), |message| {
            port.post_bytes(message).expect("posting to a worker that lives");
            MODE.receive(port).expect("an answer").bytes().to_vec()
        });
    }

    #[inline]
    fn round_trip(&mut self) {
        self.port.post_bytes(self.message.next()).expect("posting to a worker that lives");
        let event = MODE.receive(&self.port).expect("an answer");
        self.message.confirm(event.bytes());
    }

    fn peer(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Hopped {
    fn drop(&mut self) {
        self.port.close();
        // It ends by itself then; if it does not, the alarm ends this process.
        let _ = self.child.wait();
    }
}
