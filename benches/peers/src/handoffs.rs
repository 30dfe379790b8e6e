//! Large payloads handed over: memory mapped before as the limit, and the peers' ways.
//!
//! Every payload is written in full during the first trips, which are checked; later ones hand the
//! same memory over as it is, since writing costs the same everywhere. Each is acknowledged with
//! its number and, where it is read, its sum.

use std::hint::spin_loop;
use std::rc::Rc;

use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, IpcSharedMemory, bytes_channel,
    channel,
};
use ringfire::{BlobConsumer, BlobProducer};
use shmem_ipc::sharedring::{Receiver, Sender};

use crate::harness::child::{Job, Peer, Role};
use crate::harness::handoff::{self, FILL, sum_of, sum_of_length};
use crate::harness::shared::{LINE, Shared, SharedMemory};
use crate::harness::workload::{RoundTrip, Subject, Trips};
use crate::peers::iceoryx::{Iceoryx, In, Out};
use crate::subjects::{MakeHandoff, Site};
use crate::transport::Plan;

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

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
    descriptors: &[std::os::fd::BorrowedFd<'_>],
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

/// A sample of iceoryx2, loaned.
struct Sample {
    out: Out,
    bytes: usize,
    _in: In,
}

impl Way for Sample {
    #[inline]
    fn give(&mut self, _number: u64, is_first: bool) {
        if is_first {
            self.out.send_filled(self.bytes, FILL);
        } else {
            self.out.send_as_it_is(self.bytes);
        }
    }
}

fn sample_plan(directory: &str, bytes: usize) -> Plan {
    let name = format!("{directory}/samples");
    Plan { name, bytes, capacity: 2 * bytes, is_asleep: false }
}

pub fn iceoryx(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("iceoryx2", bytes, 0, move || {
        start("handoff-iceoryx", (bytes, is_read), &site, &[], || {
            let plan = sample_plan(&site.directory, bytes);
            let (out, _in) = Iceoryx::ends(&plan, ("out", bytes), ("back", 8));
            Sample { out, bytes, _in }
        })
    })
}

fn serve_iceoryx(mut job: Job) {
    use crate::transport::Receiving;
    let told = Told::of(&mut job);
    let plan = sample_plan(&told.directory, told.bytes);
    let (_out, mut incoming) = Iceoryx::ends(&plan, ("back", 8), ("out", told.bytes));
    told.say_ready();
    loop {
        let mut sum = 0;
        if incoming.poll(|payload| sum = told.sum(payload)) > 0 {
            told.acks.acknowledge(sum);
        }
        spin_loop();
    }
}

/// A blob of ringfire, written in place.
struct Blob(BlobProducer<u64>, usize);

impl Way for Blob {
    #[inline]
    fn give(&mut self, number: u64, is_first: bool) {
        let write = |payload: &mut [u8]| {
            if is_first {
                payload.fill(FILL);
            }
        };
        self.0.push_with(&number, self.1, write).expect("room in the arena");
    }
}

pub fn ringfire(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("ringfire", bytes, 0, move || {
        // Two payloads fit: one is read while the next is written.
        let path = format!("{}/blobs", site.directory);
        let ring = BlobProducer::create(path, 8, 2 * bytes).expect("a ring of blobs");
        start("handoff-ringfire", (bytes, is_read), &site, &[], || Blob(ring, bytes))
    })
}

fn serve_ringfire(mut job: Job) {
    let told = Told::of(&mut job);
    let path = format!("{}/blobs", told.directory);
    let mut ring = BlobConsumer::<u64>::attach(path).expect("the ring of the parent");
    told.say_ready();
    loop {
        if let Some(sum) = ring.view(|_, payload| told.sum(payload)).expect("a sound ring") {
            told.acks.acknowledge(sum);
        }
        spin_loop();
    }
}

/// Items of a ring of shmem-ipc, written in place.
struct Items(Sender<Item>, usize);

type Item = [u8; 4096];

impl Way for Items {
    #[inline]
    fn give(&mut self, _number: u64, is_first: bool) {
        let mut is_given = false;
        while !is_given {
            let fill = |items: *mut Item, free: usize| {
                if free < self.1 {
                    return 0;
                }
                if is_first {
                    let bytes = self.1 * size_of::<Item>();
                    // SAFETY: the ring lends `free` items, and no reader reads them meanwhile.
                    unsafe { items.cast::<u8>().write_bytes(FILL, bytes) };
                }
                is_given = true;
                self.1
            };
            self.0.sender_mut().send(fill).expect("a sound ring");
        }
    }
}

pub fn shmem_ipc(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("shmem-ipc", bytes, 0, move || {
        let items = bytes / size_of::<Item>();
        let ring = Sender::<Item>::new(2 * items).expect("a ring");
        let descriptors: Vec<std::os::fd::OwnedFd> =
            [ring.memfd().as_file(), ring.empty_signal(), ring.full_signal()]
                .map(|file| file.try_clone().expect("a second descriptor").into())
                .into();
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        start("handoff-shmem", (bytes, is_read), &site, &borrowed, || Items(ring, items))
    })
}

fn serve_shmem(mut job: Job) {
    let told = Told::of(&mut job);
    let items = told.bytes / size_of::<Item>();
    let mut file = || job.descriptor().into();
    let ring = Receiver::<Item>::open(2 * items, file(), file(), file());
    let mut ring = ring.expect("the ring of the parent");
    told.say_ready();
    loop {
        let mut sum = None;
        let take = |first: *const Item, there: usize| {
            assert_eq!(there, items, "one payload at a time");
            // SAFETY: the ring lends these items, and the sender leaves them alone meanwhile.
            let payload = unsafe { std::slice::from_raw_parts(first.cast::<u8>(), told.bytes) };
            sum = Some(told.sum(payload));
            there
        };
        ring.receiver_mut().recv(take).expect("a sound ring");
        if let Some(sum) = sum {
            told.acks.acknowledge(sum);
        }
        spin_loop();
    }
}

/// Shared memory of ipc-channel, the same again and again or new each time.
struct IpcMemory {
    carrier: IpcSender<IpcSharedMemory>,
    answers: IpcBytesReceiver,
    kept: Option<IpcSharedMemory>,
    bytes: usize,
}

impl Way for IpcMemory {
    fn give(&mut self, _number: u64, _is_first: bool) {
        let memory = match &self.kept {
            Some(memory) => memory.clone(),
            None => IpcSharedMemory::from_byte(FILL, self.bytes),
        };
        self.carrier.send(memory).expect("the other side lives");
        // The crate's own answer; the sum comes beside it, as for every subject.
        self.answers.recv().expect("an answer");
    }
}

/// What the other side makes and sends.
type IpcEnds = (IpcSender<IpcSharedMemory>, IpcBytesReceiver);

fn ipc(bytes: usize, is_read: bool, site: &Site, keeps: bool) -> Subject {
    let site = site.clone();
    Subject::new("ipc-channel", bytes, 0, move || {
        let (server, name) = IpcOneShotServer::<IpcEnds>::new().expect("a server");
        // Where the server listens is the directory of this role.
        let place = Site { directory: name, ..site.clone() };
        start("handoff-ipc", (bytes, is_read), &place, &[], || {
            let (_, (carrier, answers)) = server.accept().expect("a client connects");
            let kept = keeps.then(|| IpcSharedMemory::from_byte(FILL, bytes));
            IpcMemory { carrier, answers, kept, bytes }
        })
    })
}

fn serve_ipc(mut job: Job) {
    let told = Told::of(&mut job);
    let (carrier, arrivals) = channel().expect("a channel");
    let (answers, theirs): (IpcBytesSender, _) = bytes_channel().expect("a channel");
    let server = IpcSender::<IpcEnds>::connect(told.directory.clone()).expect("a server");
    server.send((carrier, theirs)).expect("the parent lives");
    told.say_ready();
    while let Ok(memory) = arrivals.recv() {
        let sum = told.sum(&memory);
        drop(memory);
        told.acks.acknowledge(sum);
        answers.send(&[0; 8]).expect("the parent lives");
    }
}

/// A Unix stream socket, by the crate's own benchmark.
pub fn unix_stream(bytes: usize, _is_read: bool, site: &Site) -> Subject {
    handoff::stream(site.core, bytes, 0)
}

pub const IPC_REUSED: MakeHandoff = |bytes, is_read, site| ipc(bytes, is_read, site, true);
pub const IPC_FRESH: MakeHandoff = |bytes, is_read, site| ipc(bytes, is_read, site, false);

pub fn roles() -> Vec<Role> {
    vec![
        ("handoff-mapped", serve_mapped),
        ("handoff-iceoryx", serve_iceoryx),
        ("handoff-ringfire", serve_ringfire),
        ("handoff-shmem", serve_shmem),
        ("handoff-ipc", serve_ipc),
    ]
}

/// Payloads that are written in full: more than any peer has places for.
const FIRST_TRIPS: u64 = 8;
