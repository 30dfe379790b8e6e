//! The same work on threads of one process, for comparison: the same chunks, handed over as owned
//! buffers through a channel of the standard library that holds as many bytes as a worker's ring.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use sha2::{Digest, Sha256};

use crate::input::{self, Input};
use crate::jobs::{Finished, Job, Jobs};
use crate::protocol::{CHUNK, RING};

/// What a reading thread tells its hashing thread.
enum Order {
    Start,
    Chunk(Vec<u8>),
    Finish { job: usize },
}

/// Runs `pairs` of a reading and a hashing thread until there is nothing left to do.
pub fn run(pairs: usize, jobs: &Jobs, mut take: impl FnMut(Finished)) {
    thread::scope(|scope| {
        let (results, finished) = mpsc::channel();
        for _ in 0..pairs.min(jobs.len()) {
            let (orders, work) = mpsc::sync_channel(RING / CHUNK);
            let digests = results.clone();
            let errors = results.clone();
            scope.spawn(move || hash(&work, &digests));
            scope.spawn(move || read(jobs, &orders, &errors));
        }
        drop(results);
        finished.into_iter().for_each(&mut take);
    });
}

fn read(jobs: &Jobs, orders: &SyncSender<Order>, errors: &Sender<Finished>) {
    while let Some(job) = jobs.take(true) {
        let index = job.index;
        if let Err(error) = read_file(&job, orders) {
            let _ = errors.send((index, Err(input::reason(&error))));
        }
        if job.stream {
            jobs.stream_done();
        }
    }
}

fn read_file(job: &Job, orders: &SyncSender<Order>) -> std::io::Result<()> {
    let mut input = Input::open(job)?;
    send(orders, Order::Start);
    let mut position = 0;
    loop {
        let chunk = match &mut input {
            Input::Again(file) => {
                let mut chunk = vec![0; file.ask(position)];
                let count = file.read(&mut chunk, position)?;
                chunk.truncate(count);
                chunk
            }
            Input::Once(kept) => {
                kept.read_more()?;
                let chunk = kept.at(position).to_vec();
                kept.forget(position);
                chunk
            }
        };
        if chunk.is_empty() {
            break;
        }
        position += chunk.len() as u64;
        send(orders, Order::Chunk(chunk));
    }
    send(orders, Order::Finish { job: job.index });
    Ok(())
}

fn hash(work: &Receiver<Order>, results: &Sender<Finished>) {
    let mut sha = Sha256::new();
    for order in work {
        match order {
            Order::Start => sha.reset(),
            Order::Chunk(chunk) => sha.update(&chunk),
            Order::Finish { job } => {
                // The main thread takes results until all threads are done.
                let _ = results.send((job, Ok(sha.finalize_reset().into())));
            }
        }
    }
}

fn send(orders: &SyncSender<Order>, order: Order) {
    orders.send(order).expect("the hashing thread takes orders until this one ends");
}
