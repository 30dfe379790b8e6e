//! A request and its reply, between two processes.

use std::hint::spin_loop;

#[cfg(feature = "tokio")]
use messageport::AsyncWorkerPool;
use messageport::{
    MessageChannel, ReceiveOwned, Requester, Responder, TypedError, Worker, WorkerPool, parent_port,
};
#[cfg(feature = "tokio")]
use tokio::runtime::Runtime;

use super::child::{self, Job};
use super::message::CHECKED;
use super::ports::{self, Mode};
use super::typed::{Number, Order, Typed};
use super::workload::{RoundTrip, Subject, Trips};

/// Calls of a responder in another process, one after the other.
struct Calls<T> {
    worker: Worker,
    requester: Requester<T, T>,
    request: T,
}

impl<T: Typed + ReceiveOwned> RoundTrip for Calls<T> {
    fn check(&mut self) {
        for _ in 0..CHECKED {
            *self.request.number() += 1;
            let reply = self.requester.call(&self.request).expect("a reply");
            assert_eq!(reply, self.request);
        }
    }

    #[inline]
    fn round_trip(&mut self) {
        *self.request.number() += 1;
        let number = self.requester.call_map(&self.request, |reply| T::number_of(reply));
        assert_eq!(number.expect("a reply"), *self.request.number());
    }

    fn peer(&self) -> u32 {
        self.worker.id()
    }
}

/// Tasks of a pool with one worker, one after the other.
struct Tasks<T> {
    pool: WorkerPool<T, T>,
    request: T,
}

impl<T: Typed + ReceiveOwned> RoundTrip for Tasks<T> {
    fn check(&mut self) {
        for _ in 0..CHECKED {
            self.round_trip();
        }
    }

    #[inline]
    fn round_trip(&mut self) {
        *self.request.number() += 1;
        let mut reply = self.pool.call(&self.request).expect("a reply");
        assert_eq!(*reply.number(), *self.request.number());
    }

    fn peer(&self) -> u32 {
        self.pool.ids()[0]
    }
}

/// The same by an async pool, on a runtime of one thread.
#[cfg(feature = "tokio")]
struct AsyncTasks<T> {
    /// Dropped before its runtime.
    pool: AsyncWorkerPool<T, T>,
    runtime: Runtime,
    request: T,
}

#[cfg(feature = "tokio")]
impl<T: Typed + ReceiveOwned> RoundTrip for AsyncTasks<T> {
    fn check(&mut self) {
        for _ in 0..CHECKED {
            self.round_trip();
        }
    }

    #[inline]
    fn round_trip(&mut self) {
        *self.request.number() += 1;
        let reply = self.runtime.block_on(self.pool.call(&self.request)).expect("a reply");
        assert_eq!(T::number_of(reply.data()), *self.request.number());
    }

    fn peer(&self) -> u32 {
        self.pool.ids()[0]
    }
}

/// Plays the other side of [`Calls`] and of [`Tasks`].
pub fn serve(job: Job) {
    let port = parent_port().expect("a port to the parent");
    if job.role.contains("pool") {
        return match job.bytes {
            8 => answer::<Number>(&port.responder(), false),
            bytes => {
                assert_eq!(bytes, 64, "no type of so many bytes");
                answer::<Order>(&port.responder(), false);
            }
        };
    }
    let is_trusted = job.role.contains("trusted");
    if is_trusted {
        ports::trust(&port);
    }
    let port = port.recv().expect("a port").take_port().expect("a port");
    if is_trusted {
        ports::trust(&port);
    }
    let is_returned = job.role.contains("returned");
    match job.bytes {
        8 => answer::<Number>(&port.responder(), is_returned),
        64 => answer::<Order>(&port.responder(), is_returned),
        bytes => panic!("no type of {bytes} bytes"),
    }
}

/// Answers with the value that came, or with one of our own with its number.
fn answer<T: Typed + ReceiveOwned>(responder: &Responder<T, T>, is_returned: bool) {
    let mut reply = T::example();
    loop {
        match responder.try_recv() {
            Ok(Some(request)) => {
                match is_returned {
                    true => reply = request.deserialize().expect("a valid request"),
                    false => *reply.number() = T::number_of(request.data()),
                }
                if request.reply(&reply).is_err() {
                    return;
                }
            }
            Ok(None) => spin_loop(),
            Err(TypedError::Recv(_)) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Calls with values of 8 and of 64 bytes.
pub fn calls(core: usize, is_trusted: bool, count: u64) -> Vec<Subject> {
    let name = if is_trusted { TRUSTED } else { DEFAULT };
    vec![subject::<Number>(core, name, 8, count), subject::<Order>(core, name, 64, count)]
}

/// Tasks with values of 8 and of 64 bytes; with the feature `tokio` also by an async pool.
pub fn tasks(core: usize, count: u64) -> Vec<Subject> {
    vec![
        task::<Number>(core, 8, count),
        task::<Order>(core, 64, count),
        #[cfg(feature = "tokio")]
        async_task::<Number>(core, 8, count),
        #[cfg(feature = "tokio")]
        async_task::<Order>(core, 64, count),
    ]
}

#[cfg(feature = "tokio")]
fn async_task<T: Typed + ReceiveOwned>(core: usize, bytes: usize, count: u64) -> Subject {
    Subject::new(ASYNC_POOL, bytes, count, move || {
        let role = format!("calls:{ASYNC_POOL}");
        let launch = move || child::command(&role, core, bytes, &[]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let pool = {
            let _inside = runtime.enter();
            WorkerPool::builder(launch).workers(1).build_async()
        };
        let pool = pool.expect("starting this executable again");
        Trips(AsyncTasks { pool, runtime, request: T::example() })
    })
}

fn task<T: Typed + ReceiveOwned>(core: usize, bytes: usize, count: u64) -> Subject {
    Subject::new(POOL, bytes, count, move || {
        let role = format!("calls:{POOL}");
        let launch = move || child::command(&role, core, bytes, &[]);
        let pool = WorkerPool::builder(launch).workers(1).build();
        Trips(Tasks { pool: pool.expect("starting this executable again"), request: T::example() })
    })
}

/// Calls whose reply is the value that came, of 64 bytes.
pub fn returned(core: usize) -> Subject {
    subject::<Order>(core, RETURNED, 64, 0)
}

fn subject<T: Typed + ReceiveOwned>(
    core: usize,
    name: &'static str,
    bytes: usize,
    count: u64,
) -> Subject {
    Subject::new(name, bytes, count, move || {
        let role = format!("calls:{name}");
        let worker = Worker::spawn(child::command(&role, core, bytes, &[]));
        let worker = worker.expect("starting this executable again");
        let channel = MessageChannel::new().expect("a channel");
        if name == TRUSTED {
            ports::trust(worker.port());
            ports::trust(&channel.port1);
        }
        worker.port().post_text_with("answer", [channel.port2.into()]).expect("room");
        Trips(Calls { worker, requester: channel.port1.requester(), request: T::example() })
    })
}

/// What a call is compared with: a typed message and its answer.
pub fn bare(core: usize, is_trusted: bool, count: u64) -> Vec<Subject> {
    let mode = Mode { is_trusted, is_asleep: false, is_typed: true, is_returned: false };
    ports::round_trips(core, mode, &[8, 64], count)
}

pub const DEFAULT: &str = "default-requests";
pub const TRUSTED: &str = "trusted-requests";
pub const POOL: &str = "default-pool";
/// The caller sleeps in its reactor; the worker spins.
#[cfg(feature = "tokio")]
const ASYNC_POOL: &str = "async-pool";
const RETURNED: &str = "default-requests-returned";
