//! Large payloads handed over: memory mapped before as the limit, and the peers' ways.
//!
//! Every payload is written in full during the first trips, which are checked; later ones hand the
//! same memory over as it is, since writing costs the same everywhere. Each is acknowledged in the
//! same way, whichever library carries it: the other side stores its number and, where it is read, its sum in
//! memory that this side polls.

mod kernel;
mod libraries;
mod own;

use std::hint::spin_loop;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::harness::child::{Job, Peer, Role};
use crate::harness::handoff::{FILL, sum_of, sum_of_length};
use crate::harness::shared::{LINE, Shared, SharedMemory};
use crate::harness::workload::{RoundTrip, Subject, Trips};
use crate::subjects::Site;

pub use kernel::{bare_memfd, unix_stream};
pub use libraries::{IPC_FRESH, IPC_REUSED, crossbar, iceoryx, ringfire, shmem_ipc};
pub use own::{Carrying, own};

/// What the two sides of a hand-off share beside the payload's own way: an acknowledgement.
struct Acks {
    memory: Rc<SharedMemory>,
    /// Number of the last payload that was taken.
    taken: Shared<AtomicU64>,
    /// Its sum, or zero.
    sum: Shared<AtomicU64>,
    /// One, once the other side is ready.
    ready: Shared<AtomicU64>,
    /// Number of the last payload that is there; only the limit uses it.
    given: Shared<AtomicU64>,
}

impl Acks {
    fn new(memory: Rc<SharedMemory>) -> Self {
        let word = |offset| memory.word(offset);
        let (taken, sum, ready, given) = (word(0), word(8), word(16), word(LINE));
        Self { memory, taken, sum, ready, given }
    }

    fn create() -> Self {
        Self::new(SharedMemory::create(2 * LINE))
    }

    fn acknowledge(&self, sum: u64) {
        self.sum.store(sum, Release);
        // Release: publishes the sum, and that the payload was read.
        self.taken.fetch_add(1, Release);
    }

    /// Waits for the answer to payload `number`; returns its sum.
    #[inline]
    fn wait(&self, number: u64) -> u64 {
        while self.taken.load(Acquire) != number {
            spin_loop();
        }
        self.sum.load(Acquire)
    }
}

/// One way of handing over.
trait Way {
    /// Hands payload `number` over; writes it in full when `is_first`.
    fn give(&mut self, number: u64, is_first: bool);
}

/// A hand-off and its acknowledgement.
struct Handoff<W> {
    way: W,
    acks: Acks,
    bytes: usize,
    is_read: bool,
    number: u64,
    peer: Peer,
}

impl<W: Way> Handoff<W> {
    fn trip(&mut self, is_first: bool) {
        self.number += 1;
        self.way.give(self.number, is_first);
        let expected = if self.is_read { sum_of_length(self.bytes) } else { 0 };
        assert_eq!(self.acks.wait(self.number), expected, "sum of payload {}", self.number);
    }
}

impl<W: Way> RoundTrip for Handoff<W> {
    fn check(&mut self) {
        (0..FIRST_TRIPS).for_each(|_| self.trip(true));
    }

    #[inline]
    fn round_trip(&mut self) {
        self.trip(false);
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// Starts `role` and waits until it is ready; `way` is made in between where it must be.
fn start<W: Way>(
    role: &str,
    (bytes, is_read): (usize, bool),
    site: &Site,
    descriptors: &[BorrowedFd<'_>],
    way: impl FnOnce() -> W,
) -> Trips<Handoff<W>> {
    let acks = Acks::create();
    let read = if is_read { "read" } else { "unread" };
    let mut all = vec![acks.memory.descriptor()];
    all.extend(descriptors);
    let role = format!("{role}:{read}:{}", site.directory);
    let peer = Peer::start(&role, site.core, bytes, &all);
    let way = way();
    while acks.ready.load(Acquire) == 0 {
        spin_loop();
    }
    Trips(Handoff { way, acks, bytes, is_read, number: 0, peer })
}

/// What the other side was told.
struct Told {
    acks: Acks,
    is_read: bool,
    directory: String,
    bytes: usize,
}

impl Told {
    fn of(job: &mut Job) -> Self {
        let acks = Acks::new(SharedMemory::open(job.descriptor()));
        let mut words = job.role.splitn(3, ':').skip(1);
        let is_read = words.next() == Some("read");
        let directory = words.next().expect("a directory").to_owned();
        Self { acks, is_read, directory, bytes: job.bytes }
    }

    /// The sum of a payload that came, or zero where none is to be read.
    fn sum(&self, payload: &[u8]) -> u64 {
        assert_eq!(payload.len(), self.bytes, "length of the payload");
        if self.is_read { sum_of(payload) } else { 0 }
    }

    fn say_ready(&self) {
        self.acks.ready.store(1, Release);
    }
}

/// Memory that both sides mapped before.
struct Mapped {
    given: Shared<AtomicU64>,
}

impl Way for Mapped {
    #[inline]
    fn give(&mut self, number: u64, _is_first: bool) {
        // Release: hands the bytes over.
        self.given.store(number, Release);
    }
}

pub fn mapped(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("mapped", bytes, 0, move || {
        let memory = SharedMemory::create(bytes);
        // SAFETY: the memory is as long as that, and the other side does not have it yet.
        unsafe { memory.bytes(0, bytes).write_bytes(FILL, bytes) };
        let descriptors = [memory.descriptor()];
        let mut trips = start("handoff-mapped", (bytes, is_read), &site, &descriptors, || {
            let given = SharedMemory::create(LINE).word(0);
            Mapped { given }
        });
        // The word lies in the page of the acknowledgements, which `start` makes.
        trips.0.way.given = trips.0.acks.memory.word(LINE);
        trips
    })
}

fn serve_mapped(mut job: Job) {
    let told = Told::of(&mut job);
    let memory = SharedMemory::open(job.descriptor());
    let bytes = memory.bytes(0, told.bytes);
    told.say_ready();
    for number in 1.. {
        while told.acks.given.load(Acquire) != number {
            spin_loop();
        }
        // SAFETY: the other side writes nothing once it has said so.
        let payload = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), told.bytes) };
        told.acks.acknowledge(told.sum(payload));
    }
}

pub fn roles() -> Vec<Role> {
    let mut roles: Vec<Role> = vec![("handoff-mapped", serve_mapped)];
    roles.extend(libraries::ROLES);
    roles.extend(kernel::ROLES);
    roles.extend(own::ROLES);
    roles
}

/// Payloads that are written in full: more than any peer has places for.
const FIRST_TRIPS: u64 = 8;
