//! The three processes, and what each does with a frame.

use std::hint::black_box;
use std::time::{Duration, Instant};

use messageport::{MessageChannel, MessagePort, Worker, parent_port};

use crate::harness::child::{self, Job, Role};
use crate::links::{Input, Output, Way};
use crate::pages;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// Bytes of a frame.
    pub bytes: usize,
    /// Frames that are timed.
    pub frames: u64,
    pub repetitions: usize,
}

impl Size {
    /// 3840 by 2160 pixels of four bytes.
    pub const FULL: Size = Size { bytes: 3840 * 2160 * 4, frames: 30, repetitions: 5 };
    pub const QUICK: Size = Size { bytes: 1 << 20, frames: 5, repetitions: 1 };
}

/// What one run has shown.
pub struct Run {
    /// Frames a second.
    pub rate: f64,
    /// MiB of huge pages that the source had mapped while it wrote.
    pub huge_mib: u64,
}

/// Runs the pipeline once, as its source.
pub fn run(way: Way, (ours, other): (usize, usize), size: Size) -> Run {
    let total = WARM_UP + size.frames;
    let start = |role: &str, core| {
        let role = format!("{role}:{}:{total}", way.name());
        let command = child::command(&role, core, size.bytes, &[]);
        Worker::spawn_with(command, roomy()).expect("starting this executable again")
    };
    let (filter, sink) = (start(FILTER, other), start(SINK, ours));
    let give = |to: &MessagePort, port: MessagePort| {
        to.post_text_with("a link", [port.into()]).expect("a process that lives");
    };
    let first = roomy().build().expect("a channel");
    let second = roomy().build().expect("a channel");
    give(filter.port(), first.port2);
    give(filter.port(), second.port1);
    give(sink.port(), second.port2);
    let mut output = Output::new(way, size.bytes, first.port1);
    let mut huge_mib = 0;
    let mut frame = |number: u64| {
        output.write(|_, bytes| {
            bytes.fill(number as u8);
            if number == 0 {
                huge_mib = pages::huge_mib();
            }
        });
    };
    let finished = || sink.port().recv().expect("a sink that lives");
    (0..WARM_UP).for_each(&mut frame);
    finished();
    let began = Instant::now();
    (WARM_UP..total).for_each(&mut frame);
    finished();
    let taken = began.elapsed();
    for mut worker in [filter, sink] {
        let ended = worker.wait_timeout(Duration::from_secs(60));
        ended.expect("a child of this process").expect("it ends by itself");
    }
    Run { rate: size.frames as f64 / taken.as_secs_f64(), huge_mib }
}

/// Reads each frame, and writes its inverse.
fn filter(job: Job) {
    let (way, total) = parse(&job);
    let parent = parent_port().expect("a port to the parent");
    let ports = [(); 2].map(|()| parent.recv().expect("a port").take_port().expect("a port"));
    let [from, to] = ports;
    // The sink makes its end in the meantime.
    let mut output = Output::new(way, job.bytes, to);
    let mut input = Input::new(way, job.bytes, from);
    for _ in 0..total {
        if output.has_parts() {
            input.read(|_, from| {
                output.write(|at, to| invert(&from[at..at + to.len()], to));
            });
        } else {
            output.write(|_, to| input.read(|at, from| invert(from, &mut to[at..])));
        }
    }
    output.finish();
}

/// Reads each frame, and says when it has read the last one of the warm-up, and the last one.
fn sink(job: Job) {
    let (way, total) = parse(&job);
    let parent = parent_port().expect("a port to the parent");
    let port = parent.recv().expect("a port").take_port().expect("a port");
    let mut input = Input::new(way, job.bytes, port);
    for number in 0..total {
        let expected = u64::from_ne_bytes([!(number as u8); 8]).wrapping_mul(job.bytes as u64 / 8);
        let mut found = 0u64;
        input.read(|_, frame| found = found.wrapping_add(sum(frame)));
        assert_eq!(found, expected, "frame {number}");
        if number + 1 == WARM_UP || number + 1 == total {
            parent.post_text("read").expect("the parent lives");
        }
    }
}

fn parse(job: &Job) -> (Way, u64) {
    let mut words = job.role.split(':').skip(1);
    let mut word = || words.next().expect("a role of three words");
    (Way::from_name(word()), word().parse().expect("a number of frames"))
}

/// Never inlined, so that every way runs the same machine code.
#[inline(never)]
fn invert(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.iter().zip(to) {
        *to = !from;
    }
}

#[inline(never)]
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let sum = words.map(|word| u64::from_ne_bytes(word.try_into().expect("eight")));
    black_box(sum.fold(0, u64::wrapping_add))
}

/// Room for the frames of a link as messages.
fn roomy() -> messageport::ChannelBuilder {
    MessageChannel::builder().limit(1 << 30)
}

pub const ROLES: &[Role] = &[(FILTER, filter), (SINK, sink)];
const FILTER: &str = "frames-filter";
const SINK: &str = "frames-sink";
/// Frames before the first that is timed: every link has been filled once.
const WARM_UP: u64 = 8;
