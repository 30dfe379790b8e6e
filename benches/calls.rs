//! What single calls cost that are made beside messages: looks at the queue, events, labels,
//! buffers, members of a broadcast channel, and processes. Each beside a call that does the same
//! without it, in one thread, in turns; the table prints medians and their ratio. The last lines say
//! how long after a kill the death of a peer is seen.
//!
//! ```text
//! cargo bench --bench calls
//! MESSAGEPORT_BENCH_QUICK=1 cargo bench --bench calls
//! ```

use std::fmt;
use std::hint::black_box;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use messageport::{
    BroadcastChannel, Buffer, CloseReason, Event, EventTarget, ListenerOptions, MessageChannel,
    MessagePort, RecvError, ResourceLimit, Worker,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // `cargo test --benches` wants to know that it runs.
    let is_quick = std::env::var_os("MESSAGEPORT_BENCH_QUICK").is_some()
        || std::env::args().any(|argument| argument == "--test");
    let table = Table { rounds: if is_quick { 1 } else { 21 } };
    println!("{:<40} {:>10}   {:<32} {:>10} {:>6}", "call", "", "beside", "", "ratio");
    queue(&table)?;
    events(&table)?;
    labels(&table)?;
    buffers(&table)?;
    members(&table)?;
    processes(&table)?;
    deaths(if is_quick { 3 } else { 500 });
    Ok(())
}

struct Table {
    rounds: usize,
}

impl Table {
    /// Measures both, in turns, and prints a row. Each call gets as many repetitions.
    fn row(
        &self,
        repetitions: u32,
        (name, mut call): (&str, impl FnMut()),
        (other, mut reference): (&str, impl FnMut()),
    ) {
        let repetitions = if self.rounds == 1 { repetitions.min(3) } else { repetitions };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            ours.push(time(repetitions, &mut call));
            theirs.push(time(repetitions, &mut reference));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let ratio = ours / theirs;
        let (ours, theirs) = (Ns(ours), Ns(theirs));
        println!("{name:<40} {ours:>10}   {other:<32} {theirs:>10} {ratio:>6.2}");
    }
}

/// Nanoseconds of one call.
fn time(repetitions: u32, call: &mut impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..repetitions {
        call();
    }
    begin.elapsed().as_nanos() as f64 / f64::from(repetitions)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Printed in ns, or in µs from 10,000 ns on.
struct Ns(f64);

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            short if short < 10_000.0 => f.pad(&format!("{short:.1} ns")),
            long => f.pad(&format!("{:.1} µs", long / 1000.0)),
        }
    }
}

/// Posts one message, and takes it.
fn post_and_receive(from: &MessagePort, to: &MessagePort) {
    from.post_bytes(b"12345678").expect("room");
    black_box(to.try_recv().expect("an open port").expect("a message"));
}

fn queue(table: &Table) -> Result<(), Failure> {
    let (plain, other) = (MessageChannel::new()?, MessageChannel::new()?);
    let plainly = || post_and_receive(&plain.port1, &plain.port2);
    let reference = "post_bytes, try_recv";
    let peeked = || {
        other.port1.post_bytes(b"12345678").expect("room");
        black_box(other.port2.peek().expect("an open port").expect("a message"));
        black_box(other.port2.try_recv().expect("an open port").expect("a message"));
    };
    table.row(10_000, ("post_bytes, peek, try_recv", peeked), (reference, plainly));
    let copied = || {
        other.port1.post_bytes(b"12345678").expect("room");
        black_box(other.port2.peek_message().expect("an open port").expect("a message"));
        black_box(other.port2.try_recv().expect("an open port").expect("a message"));
    };
    table.row(10_000, ("post_bytes, peek_message, try_recv", copied), (reference, plainly));
    let started = MessageChannel::new()?;
    started.port2.start();
    let received = || {
        started.port1.post_bytes(b"12345678").expect("room");
        black_box(started.port2.receive_message().expect("a port").expect("a message"));
    };
    table.row(10_000, ("post_bytes, receive_message", received), (reference, plainly));
    Ok(())
}

fn events(table: &Table) -> Result<(), Failure> {
    let (plain, other) = (MessageChannel::new()?, MessageChannel::new()?);
    let plainly = || post_and_receive(&plain.port1, &plain.port2);
    other.port2.on_message(|event| {
        black_box(event.message().is_some());
    });
    let dispatched = || {
        other.port1.post_bytes(b"12345678").expect("room");
        assert_eq!(other.port2.dispatch(1).expect("an open port"), 1);
    };
    let reference = "post_bytes, try_recv";
    table.row(10_000, ("post_bytes, dispatch to one listener", dispatched), (reference, plainly));
    let target = EventTarget::new();
    target.add_event_listener("tick", ListenerOptions::new(), |event| {
        black_box(event.kind());
    });
    let fired = || {
        target.dispatch_event(Event::new("tick")).expect("no dispatch is running");
    };
    let handler: Box<dyn Fn(u32)> = Box::new(|number| {
        black_box(number);
    });
    let called = || black_box(&handler)(7);
    table.row(10_000, ("dispatch_event to one listener", fired), ("a boxed closure", called));
    Ok(())
}

fn labels(table: &Table) -> Result<(), Failure> {
    let channel = MessageChannel::builder().label("prices").build()?;
    let port = &channel.port1;
    let reference = ("is_closed, which asks the kernel", || {
        black_box(port.is_closed());
    });
    table.row(10_000, ("set_label", || port.set_label(black_box("shop"))), reference);
    let reference = ("is_closed, which asks the kernel", || {
        black_box(port.is_closed());
    });
    let read = || {
        black_box(port.labels());
    };
    table.row(10_000, ("labels", read), reference);
    let (plain, carrier) = (MessageChannel::new()?, MessageChannel::new()?);
    let (mut labeled, mut bare) = (Some(channel.port1), Some(plain.port1));
    let passed = |port: &mut Option<MessagePort>| {
        let moving = port.take().expect("a port");
        carrier.port1.post_text_with("", [moving.into()]).expect("room");
        let event = carrier.port2.try_recv().expect("an open port").expect("a message");
        *port = Some(event.take_port().expect("a port"));
    };
    let with = || passed(&mut labeled);
    let without = || passed(&mut bare);
    table.row(500, ("moving a port with labels", with), ("one without", without));
    Ok(())
}

fn buffers(table: &Table) -> Result<(), Failure> {
    let mut buffer = Buffer::new(1 << 20)?;
    buffer.bytes_mut()?.fill(7);
    buffer.seal()?;
    let mut private = vec![0u8; 1 << 20];
    let mut copied = || black_box(&mut private).copy_from_slice(black_box(&buffer));
    let cloned = || {
        black_box(buffer.clone());
    };
    let reference = "copying its bytes";
    table.row(500, ("Buffer::clone, 1 MiB", cloned), (reference, &mut copied));
    let descriptor = buffer.as_fd().ok_or("a buffer without a descriptor")?;
    let adopted = || {
        black_box(Buffer::from_fd(descriptor).expect("a sealed memfd"));
    };
    table.row(500, ("Buffer::from_fd, 1 MiB, sealed", adopted), (reference, &mut copied));
    Ok(())
}

fn members(table: &Table) -> Result<(), Failure> {
    let name = format!("bench-calls-{}", std::process::id());
    let _first = BroadcastChannel::open(&name)?;
    let joined = || {
        drop(black_box(BroadcastChannel::open(&name).expect("a name")));
    };
    let made = || {
        black_box(MessageChannel::new().expect("a channel"));
    };
    table.row(50, ("joining a broadcast channel, and leaving", joined), ("MessageChannel", made));
    let second = BroadcastChannel::open(&name)?;
    let asked = || {
        black_box(second.peers().expect("a member"));
    };
    let counted = || {
        black_box(second.others().expect("a member"));
    };
    table.row(500, ("BroadcastChannel::peers, of one", asked), ("others", counted));
    Ok(())
}

/// Each starts `true`, and waits for its end.
fn processes(table: &Table) -> Result<(), Failure> {
    fn bare() {
        let status = Command::new("true").status();
        assert!(status.expect("`true` is a program").success());
    }
    const REFERENCE: &str = "Command::status";
    let plain = || {
        let mut worker = Worker::spawn(Command::new("true")).expect("`true` is a program");
        assert!(worker.wait().expect("a child").success());
    };
    table.row(20, ("Worker::spawn, wait", plain), (REFERENCE, bare));
    let limited = || {
        let worker = Worker::builder(Command::new("true")).limit(ResourceLimit::OpenFiles, 64);
        assert!(worker.spawn().expect("`true`").wait().expect("a child").success());
    };
    table.row(20, ("the same with a limit", limited), (REFERENCE, bare));
    let tied = || {
        let worker = Worker::builder(Command::new("true")).end_with_parent();
        assert!(worker.spawn().expect("`true`").wait().expect("a child").success());
    };
    table.row(20, ("the same, ended with its parent", tied), (REFERENCE, bare));
    let ended = || {
        let worker = Worker::spawn(Command::new("true")).expect("`true` is a program");
        worker.shutdown(Duration::from_secs(10)).expect("a child");
    };
    table.row(20, ("Worker::spawn, shutdown", ended), (REFERENCE, bare));
    Ok(())
}

/// From `kill` until `recv` says that the peer has died, and until a read of a pipe says that its
/// writer has.
fn deaths(count: usize) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (port, mut child) = Worker::spawn(sleeper()).expect("`sleep`").into_parts();
        ours.push(time_to_end(&mut child, || {
            let answer = port.recv();
            let Err(RecvError::Closed { reason: CloseReason::PeerDied }) = answer else {
                panic!("expected a death: {answer:?}");
            };
        }));
        let mut child = sleeper().stdout(Stdio::piped()).spawn().expect("`sleep`");
        let mut pipe = child.stdout.take().expect("a pipe");
        theirs.push(time_to_end(&mut child, || {
            assert_eq!(pipe.read(&mut [0]).expect("the end"), 0);
        }));
    }
    println!("{count} deaths{:>40} {:>10} {:>10}", "50 %", "99 %", "longest");
    for (name, mut times) in [("kill, `recv` says PeerDied", ours), ("kill, end of a pipe", theirs)]
    {
        times.sort_by(f64::total_cmp);
        let [half, most, last] = [count / 2, count * 99 / 100, count - 1].map(|at| Ns(times[at]));
        println!("{name:<40} {half:>10} {most:>10} {last:>10}");
    }
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("60");
    command
}

/// Nanoseconds from a kill until `see` returns.
fn time_to_end(child: &mut Child, see: impl FnOnce()) -> f64 {
    // Until it sleeps: a process that has just started has more to take down.
    thread::sleep(Duration::from_millis(2));
    let begin = Instant::now();
    child.kill().expect("a child of our own");
    see();
    let time = begin.elapsed().as_nanos() as f64;
    child.wait().expect("a child of our own");
    time
}
