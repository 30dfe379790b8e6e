//! The table of the peers: how each is used, what it promises, and what it does in which row.

use crate::handoffs;
use crate::peers::bcast::Bcast;
use crate::peers::bip_buffer::BipBuffer;
use crate::peers::bytes::{Interprocess, Pipe, Seqpacket, UnixPair};
use crate::peers::copied::Copied;
use crate::peers::crossbar::{Bus, Crossbar};
use crate::peers::iceoryx::Iceoryx;
use crate::peers::ipc_channel::IpcChannel;
use crate::peers::ipmpsc::Ipmpsc;
use crate::peers::ringfire::{Blobs, Ringfire};
use crate::peers::shmem_ipc::ShmemIpc;
use crate::peers::threads::{Crossbeam, Rtrb, StdMpsc};
use crate::peers::{iceoryx_requests, moving};
use crate::rows::Work;
use crate::subjects::{
    Abilities, Answer, COPIES, Entry, FIXED, Kind, MOVES, Promises, STREAMS, Site, between, inside,
};
use crate::transport::Transport;

#[cfg(feature = "aeron")]
use crate::peers::aeron::Aeron;

/// The same for a peer of the table.
macro_rules! sized_answer {
    ($transport:ident, $function:ident, $abilities:expr) => {
        |work, site| {
            let abilities = $abilities;
            // A hand-off has no records of its size: any type of the transport answers.
            let bytes = if matches!(work, Work::Handoff { .. }) { 64 } else { work.bytes() };
            let otherwise = Answer::Lacks("records of fixed size, moved by value: up to 64 KiB");
            sized!($transport, bytes, otherwise, $function(&abilities, work, site))
        }
    };
}

/// Libraries between processes.
pub fn libraries() -> Vec<Entry> {
    let mut all = rings();
    all.extend(brokers());
    #[cfg(feature = "aeron")]
    all.push(Entry {
        name: "aeron",
        kind: Kind::Peer,
        promises: Promises::ANY,
        about: crate::peers::aeron::ABOUT,
        answer: |work, site| {
            let sleeps = Err("wakes no receiver: its idle strategies sleep for fixed times");
            between::<Aeron>(&Abilities { sleeps, ..COPIES }, work, site)
        },
    });
    all
}

/// Those that are little more than memory with an order.
fn rings() -> Vec<Entry> {
    vec![
        Entry {
            name: "shm-primitives",
            kind: Kind::Peer,
            promises: Promises::ANY,
            about: "7.3, its `BipBuffer`, messages behind their length, written where they are \
                    granted, a burst in one grant, read in place, all that are there at once",
            answer: |work, site| {
                let sleeps = Err("wakes no receiver");
                in_lent_memory::<BipBuffer>(&Abilities { sleeps, ..STREAMS }, work, site)
            },
        },
        Entry {
            name: "bcast",
            kind: Kind::Peer,
            promises: Promises::ANY.but_overwrites(),
            about: "1.0-rc, written in place with `publish`, copied out by `read_batch`",
            answer: |work, site| {
                let sleeps = Err("wakes no receiver");
                in_lent_memory::<Bcast>(&Abilities { sleeps, ..COPIES }, work, site)
            },
        },
        Entry {
            name: "crossbar",
            kind: Kind::Peer,
            promises: Promises::PLACE.but_overwrites(),
            about: "1.2, blocks of its pool, loaned, read in place; its pinned block for round \
                    trips and hand-offs; asleep by its futex, without spins",
            answer: crossbar,
        },
        Entry {
            name: "crossbar-bus",
            kind: Kind::FixedPeer,
            promises: Promises::ONE,
            about: "1.2, its bounded `PodBus`, values moved by value",
            answer: crossbar_bus,
        },
        Entry {
            name: "ringfire",
            kind: Kind::FixedPeer,
            promises: Promises::ONE,
            about: "0.5, lossless ring of fixed-size records, polled with `try_push`, `try_recv`, \
                    bursts by `push_batch`; asleep by `FutexWait` without spins; from 4 KiB on \
                    blobs, viewed in place, for hand-off written in place as well",
            answer: ringfire,
        },
        Entry {
            name: "shmem-ipc",
            kind: Kind::FixedPeer,
            promises: Promises::ONE,
            about: "0.3, `sharedring` of items as long as a message, written by pointer, polled \
                    without its event counters, received in place and as many as there are; \
                    asleep by them",
            answer: shmem_ipc,
        },
        Entry {
            name: "shmem-ipc-copied",
            kind: Kind::Reference,
            promises: Promises::ONE,
            about: "the same, each message copied into private memory before it is used, as a \
                    receiver has to that does not trust its peer",
            answer: shmem_ipc_copied,
        },
        Entry {
            name: "ipmpsc",
            kind: Kind::Peer,
            promises: Promises::ANY,
            about: "0.5, bytes by serde, borrowed from the ring with `zero_copy_context`",
            answer: |work, site| between::<Ipmpsc>(&COPIES, work, site),
        },
    ]
}

/// Those that also find each other, serialise or ask the kernel.
fn brokers() -> Vec<Entry> {
    vec![
        Entry {
            name: "iceoryx2",
            kind: Kind::Peer,
            promises: Promises::PLACE,
            about: "0.10, publish-subscribe of slices, loaned and written in place, no overflow, \
                    the publisher retries; asleep with an event service beside it",
            answer: |work, site| {
                between::<Iceoryx>(
                    &Abilities { handoff: Ok(handoffs::iceoryx), ..COPIES },
                    work,
                    site,
                )
            },
        },
        Entry {
            name: iceoryx_requests::NAME,
            kind: Kind::Peer,
            promises: Promises::PLACE,
            about: "0.10, request-response of slices, both loaned",
            answer: iceoryx_requests::answer,
        },
        Entry {
            name: "ipc-channel",
            kind: Kind::Peer,
            promises: Promises::ANY,
            about: "0.23, bytes channels, which do not serialise; hand-off by one \
                    `IpcSharedMemory` again and again",
            answer: |work, site| {
                let (handoff, transfer) = (Ok(handoffs::IPC_REUSED), Ok(moving::ipc_receiver as _));
                between::<IpcChannel>(&Abilities { handoff, transfer, ..COPIES }, work, site)
            },
        },
        Entry {
            name: "ipc-channel-fresh",
            kind: Kind::Peer,
            promises: Promises::ANY,
            about: "the same with a new `IpcSharedMemory` for each message",
            answer: |work, site| match work {
                Work::Handoff { bytes, is_read } => {
                    Answer::Runs((handoffs::IPC_FRESH)(bytes, is_read, site))
                }
                _ => Answer::Absent,
            },
        },
        Entry {
            name: "interprocess",
            kind: Kind::FixedPeer,
            promises: Promises::STREAM,
            about: "2.4, a local socket, read through a buffer of 64 KiB",
            answer: |work, site| between::<Interprocess>(&STREAMS, work, site),
        },
    ]
}

/// The answer of a ring in memory that this harness shares between the processes.
fn in_lent_memory<T: Transport>(abilities: &Abilities, work: Work, site: &Site) -> Answer {
    match work {
        Work::Create | Work::Memory | Work::Descriptors => {
            Answer::Lacks("a ring in memory that the program shares")
        }
        _ => between::<T>(abilities, work, site),
    }
}

/// One block again and again where one message at a time is under way.
fn crossbar(work: Work, site: &Site) -> Answer {
    let abilities = Abilities { handoff: Ok(handoffs::crossbar), ..COPIES };
    match work {
        Work::Trip { is_asleep: false, .. } | Work::Typed { .. } => {
            between::<Crossbar<true>>(&abilities, work, site)
        }
        _ => between::<Crossbar<false>>(&abilities, work, site),
    }
}

/// What is not about messages is that of the pool.
fn crossbar_bus(work: Work, site: &Site) -> Answer {
    let sleeps = Err("the bus wakes no receiver");
    let abilities = Abilities { sleeps, most: 1 << 10, ..COPIES };
    match (work, work.bytes()) {
        (Work::Create | Work::Memory | Work::Descriptors | Work::Transfer, _) => Answer::Absent,
        (Work::Handoff { .. }, _) => Answer::Absent,
        (_, 8) => between::<Bus<8>>(&abilities, work, site),
        (_, 64) => between::<Bus<64>>(&abilities, work, site),
        (_, 1024) => between::<Bus<1024>>(&abilities, work, site),
        _ => Answer::Lacks("values moved by value: up to 1 KiB here"),
    }
}

/// Records up to 1 KiB, blobs from there on: the crate moves records by value, for which the
/// compiler writes megabytes of code where they are large.
fn ringfire(work: Work, site: &Site) -> Answer {
    let handoff = Ok(handoffs::ringfire as _);
    let records = Abilities { handoff, ..FIXED };
    match work {
        Work::Handoff { .. } => between::<Ringfire<64>>(&records, work, site),
        _ => match work.bytes() {
            8 => between::<Ringfire<8>>(&records, work, site),
            64 => between::<Ringfire<64>>(&records, work, site),
            1024 => between::<Ringfire<1024>>(&records, work, site),
            _ => between::<Blobs>(&Abilities { handoff, ..COPIES }, work, site),
        },
    }
}

/// The kernel's own ways.
pub fn kernels() -> Vec<Entry> {
    vec![
        Entry {
            name: "pipe",
            kind: Kind::FixedPeer,
            promises: Promises::STREAM,
            about: "two pipes of the usual 64 KiB, a burst is one `write`, read through a buffer",
            answer: |work, site| between::<Pipe>(&STREAMS, work, site),
        },
        Entry {
            name: "seqpacket",
            kind: Kind::Peer,
            promises: Promises::ANY,
            about: "a pair of `SOCK_SEQPACKET`, a burst is one `sendmmsg`",
            answer: |work, site| between::<Seqpacket>(&FIXED, work, site),
        },
        Entry {
            name: "unix-stream",
            kind: Kind::FixedPeer,
            promises: Promises::STREAM,
            about: "a pair of `SOCK_STREAM`, a burst is one `write`, read through a buffer",
            answer: |work, site| match work {
                Work::Handoff { is_read: false, .. } => Answer::Lacks("reading is receiving"),
                _ => between::<UnixPair>(
                    &Abilities { handoff: Ok(handoffs::unix_stream), ..STREAMS },
                    work,
                    site,
                ),
            },
        },
    ]
}

/// Inside one process.
pub fn threads() -> Vec<Entry> {
    vec![
        Entry {
            name: "rtrb",
            kind: Kind::Thread,
            promises: Promises::ONE,
            about: "0.4, records moved by value, bursts by chunks",
            answer: sized_answer!(
                Rtrb,
                inside,
                Abilities { sleeps: Err("has no call that sleeps"), ..FIXED }
            ),
        },
        Entry {
            name: "crossbeam-channel",
            kind: Kind::Thread,
            promises: Promises::ONE,
            about: "0.5, bounded, records moved by value",
            answer: sized_answer!(Crossbeam, inside, MOVES),
        },
        Entry {
            name: "std-mpsc",
            kind: Kind::Thread,
            promises: Promises::ONE,
            about: "`sync_channel`, records moved by value",
            answer: sized_answer!(StdMpsc, inside, MOVES),
        },
    ]
}

/// The answer of shmem-ipc, whose items may be as long as a message of any row.
fn shmem_ipc(work: Work, site: &Site) -> Answer {
    let abilities = Abilities { handoff: Ok(handoffs::shmem_ipc), most: 1 << 20, ..FIXED };
    // A hand-off has no records of its size: any type of the transport answers.
    let bytes = if matches!(work, Work::Handoff { .. }) { 64 } else { work.bytes() };
    let otherwise = Answer::Lacks("items of these lengths only: 8 B, 64 B and on, up to 1 MiB");
    sized_by_pointer!(ShmemIpc, bytes, otherwise, between(&abilities, work, site))
}

/// The answer of what a private copy costs, where both sides spin.
fn shmem_ipc_copied(work: Work, site: &Site) -> Answer {
    match work {
        Work::Trip { is_asleep: false, .. } | Work::OneWay { is_burst: false, .. } => {
            sized!(Copied, work.bytes(), Answer::Absent, between(&FIXED, work, site))
        }
        _ => Answer::Absent,
    }
}
