//! Several threads that post, and one that receives: the crate's shared sender, a sender in a
//! mutex, and the standard library's channel. The posting threads take turns on the two cores, the
//! first one on the other core than the receiver.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use messageport::{MessageChannel, MessagePort};

use super::machine::pin;
use super::workload::{Subject, Workload};

pub const SHARED: &str = "shared-sender";
pub const MUTEX: &str = "mutex-sender";
pub const MPSC: &str = "std-sync-channel";

/// Messages of a `u64` through each of them, from so many threads.
pub fn subjects(cores: Cores, threads: u64, count: u64) -> Vec<Subject> {
    let subject = |variant, run: Run| {
        Subject::new(variant, size_of::<u64>(), count, move || Senders { cores, threads, run })
    };
    vec![subject(SHARED, shared), subject(MUTEX, mutex), subject(MPSC, mpsc)]
}

type Cores = (usize, usize);
type Run = fn(Cores, u64, u64) -> Duration;

struct Senders {
    cores: Cores,
    threads: u64,
    run: Run,
}

impl Workload for Senders {
    fn check(&mut self) {
        // Each run asserts that the sum of what arrives is right.
        let _ = (self.run)(self.cores, self.threads, 1_000);
    }

    fn run(&mut self, count: u64) -> Duration {
        (self.run)(self.cores, self.threads, count)
    }
}

/// Has each thread post its part of `count` numbers, and times until the last one is received.
fn measure<P: FnMut(u64) + Send + 'static>(
    (ours, other): Cores,
    threads: u64,
    count: u64,
    mut poster: impl FnMut() -> P,
    mut receive: impl FnMut() -> u64,
) -> Duration {
    let each = count.div_ceil(threads);
    let barrier = Arc::new(Barrier::new(threads as usize + 1));
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let (barrier, mut post) = (barrier.clone(), poster());
            let core = if thread % 2 == 0 { other } else { ours };
            thread::spawn(move || {
                pin(core);
                barrier.wait();
                (0..each).for_each(&mut post);
            })
        })
        .collect();
    barrier.wait();
    let start = Instant::now();
    let sum: u64 = (0..each * threads).map(|_| receive()).sum();
    let spent = start.elapsed();
    assert_eq!(sum, threads * (0..each).sum::<u64>());
    running.into_iter().for_each(|thread| thread.join().expect("no panic"));
    spent.mul_f64(count as f64 / (each * threads) as f64)
}

fn channel() -> MessageChannel {
    MessageChannel::builder().capacity(1 << 20).bounded().build().expect("a channel")
}

fn number(port: &MessagePort) -> u64 {
    port.recv().expect("a message").data::<u64>().expect("a number").to_native()
}

fn shared(cores: Cores, threads: u64, count: u64) -> Duration {
    let MessageChannel { port1, port2 } = channel();
    let (sender, _receiver) = port1.split();
    let sender = sender.into_shared();
    let poster = || {
        let sender = sender.clone();
        move |number| sender.post_message_timeout(&number, Duration::MAX).expect("room")
    };
    measure(cores, threads, count, poster, || number(&port2))
}

fn mutex(cores: Cores, threads: u64, count: u64) -> Duration {
    let MessageChannel { port1, port2 } = channel();
    let (sender, _receiver) = port1.split();
    let sender = Arc::new(Mutex::new(sender));
    let poster = || {
        let sender = sender.clone();
        move |number: u64| {
            let sender = sender.lock().expect("no panic");
            sender.post_message_timeout(&number, Duration::MAX).expect("room");
        }
    };
    measure(cores, threads, count, poster, || number(&port2))
}

/// With room for about as many as the rings of the others have.
fn mpsc(cores: Cores, threads: u64, count: u64) -> Duration {
    let (sender, receiver) = sync_channel(1 << 15);
    let poster = || {
        let sender = sender.clone();
        move |number| sender.send(number).expect("a receiver")
    };
    measure(cores, threads, count, poster, || receiver.recv().expect("a message"))
}
