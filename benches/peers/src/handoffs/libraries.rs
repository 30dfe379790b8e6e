//! Hand-offs by other libraries.

use std::hint::spin_loop;
use std::os::fd::{AsFd, OwnedFd};

use ipc_channel::ipc::{IpcOneShotServer, IpcSender, IpcSharedMemory, channel};
use ringfire::{BlobConsumer, BlobProducer};
use shmem_ipc::sharedring::{Receiver, Sender};

use super::{Told, Way, start};
use crate::harness::child::{Job, Role};
use crate::harness::handoff::FILL;
use crate::harness::workload::Subject;
use crate::peers::crossbar::{self, Crossbar};
use crate::peers::iceoryx::{Iceoryx, In, Out};
use crate::subjects::{MakeHandoff, Site};
use crate::transport::{Invitation, Plan, Receiving, Transport};

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

/// Acknowledges each payload.
fn serve(told: &Told, incoming: &mut impl Receiving) -> ! {
    told.say_ready();
    loop {
        let mut sum = 0;
        if incoming.poll(|payload| sum = told.sum(payload)) > 0 {
            told.acks.acknowledge(sum);
        }
        spin_loop();
    }
}

fn serve_iceoryx(mut job: Job) {
    let told = Told::of(&mut job);
    let plan = sample_plan(&told.directory, told.bytes);
    let (_out, mut incoming) = Iceoryx::ends(&plan, ("back", 8), ("out", told.bytes));
    serve(&told, &mut incoming);
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
        let descriptors: Vec<OwnedFd> =
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

/// The pinned block of crossbar.
struct Pinned {
    out: crossbar::Out<true>,
    bytes: usize,
    _in: crossbar::In<true>,
}

impl Way for Pinned {
    #[inline]
    fn give(&mut self, _number: u64, is_first: bool) {
        self.out.publish_pinned(self.bytes, |block| {
            if is_first {
                block.fill(FILL);
            }
        });
    }
}

fn pinned_plan(directory: &str, bytes: usize) -> Plan {
    Plan { name: format!("{directory}/pinned"), bytes, capacity: 2 * bytes, is_asleep: false }
}

pub fn crossbar(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("crossbar", bytes, 0, move || {
        let plan = pinned_plan(&site.directory, bytes);
        let (offer, invitation) = Crossbar::<true>::offer(&plan);
        let descriptors: Vec<_> = invitation.descriptors.iter().map(AsFd::as_fd).collect();
        start("handoff-crossbar", (bytes, is_read), &site, &descriptors, || {
            let (out, _in) = Crossbar::<true>::accept(&plan, offer);
            Pinned { out, bytes, _in }
        })
    })
}

fn serve_crossbar(mut job: Job) {
    let told = Told::of(&mut job);
    let plan = pinned_plan(&told.directory, told.bytes);
    let descriptors = vec![job.descriptor()];
    let invitation = Invitation { descriptors, ..Invitation::default() };
    let (_out, mut incoming) = Crossbar::<true>::join(&plan, invitation);
    serve(&told, &mut incoming);
}

/// Shared memory of ipc-channel, the same again and again or new each time.
struct IpcMemory {
    carrier: IpcSender<IpcSharedMemory>,
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
    }
}

fn ipc(bytes: usize, is_read: bool, site: &Site, keeps: bool) -> Subject {
    let site = site.clone();
    Subject::new("ipc-channel", bytes, 0, move || {
        let (server, name) =
            IpcOneShotServer::<IpcSender<IpcSharedMemory>>::new().expect("a server");
        // Where the server listens is the directory of this role.
        let place = Site { directory: name, ..site.clone() };
        start("handoff-ipc", (bytes, is_read), &place, &[], || {
            let (_, carrier) = server.accept().expect("a client connects");
            let kept = keeps.then(|| IpcSharedMemory::from_byte(FILL, bytes));
            IpcMemory { carrier, kept, bytes }
        })
    })
}

fn serve_ipc(mut job: Job) {
    let told = Told::of(&mut job);
    let (carrier, arrivals) = channel::<IpcSharedMemory>().expect("a channel");
    let server = IpcSender::connect(told.directory.clone()).expect("a server");
    server.send(carrier).expect("the parent lives");
    told.say_ready();
    loop {
        // Polled, as the other subjects are: this side does not sleep.
        if let Ok(memory) = arrivals.try_recv() {
            let sum = told.sum(&memory);
            drop(memory);
            told.acks.acknowledge(sum);
        }
    }
}

pub const IPC_REUSED: MakeHandoff = |bytes, is_read, site| ipc(bytes, is_read, site, true);
pub const IPC_FRESH: MakeHandoff = |bytes, is_read, site| ipc(bytes, is_read, site, false);

pub const ROLES: [Role; 5] = [
    ("handoff-crossbar", serve_crossbar),
    ("handoff-iceoryx", serve_iceoryx),
    ("handoff-ringfire", serve_ringfire),
    ("handoff-shmem", serve_shmem),
    ("handoff-ipc", serve_ipc),
];
