//! Who is compared: every subject with its configuration, and what it does in which row.

use std::any::Any;

use crate::exchange::{self, Echo, Invited, OneWay, Part, Wake};
use crate::handoffs;
use crate::harness::child::{Job, Role};
use crate::harness::workload::{Subject, Trips};
use crate::own;
use crate::peers::bytes::{Interprocess, Pipe, Seqpacket, UnixPair};
use crate::peers::copied::Copied;
use crate::peers::iceoryx::Iceoryx;
use crate::peers::ipc_channel::IpcChannel;
use crate::peers::ipmpsc::Ipmpsc;
use crate::peers::limits::{BareFutex, Slots};
use crate::peers::messageport::Ports;
use crate::peers::ringfire::{Blobs, Ringfire};
use crate::peers::shmem_ipc::ShmemIpc;
use crate::peers::threads::{Crossbeam, Rtrb, StdMpsc};
use crate::peers::{iceoryx_requests, moving};
use crate::rows::{BURST, Work};
use crate::transport::{Plan, ThreadTransport, Transport};

#[cfg(feature = "aeron")]
use crate::peers::aeron::Aeron;

/// What a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the hardware or the kernel takes at least.
    Limit,
    /// Written for comparison.
    Reference,
    /// This crate.
    Ours,
    /// Another library, or the kernel's own way, between processes.
    Peer,
    /// The same with records of one size only, or a stream that is cut by a size both sides know.
    FixedPeer,
    /// Inside one process.
    Thread,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Reference => "reference",
            Self::Ours => "ours",
            Self::Peer => "peer",
            Self::FixedPeer => "peer, fixed size",
            Self::Thread => "threads",
        }
    }

    /// Whether it counts as a peer that can be the best of a row.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Peer | Self::FixedPeer)
    }
}

/// Where a subject runs.
#[derive(Clone, Debug)]
pub struct Site {
    /// Core of the other side.
    pub core: usize,
    /// Private directory, in memory, for files and names.
    pub directory: String,
}

impl Site {
    /// A plan with a name of its own.
    pub fn plan(&self, work: Work, is_asleep: bool, number: u64) -> Plan {
        let name = format!("{}/channel{number}", self.directory);
        Plan { name, bytes: work.bytes(), capacity: work.capacity(), is_asleep }
    }
}

/// What a subject says to a row.
pub enum Answer {
    Runs(Subject),
    /// Makes both ends of one channel, named by the number.
    Makes(Box<dyn Fn(u64) -> Box<dyn Any>>),
    /// Cannot do it, for this reason.
    Lacks(&'static str),
    /// Has nothing to do with it.
    Absent,
}

/// One subject.
pub struct Entry {
    pub name: &'static str,
    pub kind: Kind,
    /// How it was used and why so.
    pub about: &'static str,
    pub answer: fn(Work, &Site) -> Answer,
}

/// Makes the subject that hands over so many bytes, which are read or not.
pub type MakeHandoff = fn(usize, bool, &Site) -> Subject;

/// What transports differ in besides how they carry bytes.
struct Abilities {
    sleeps: Result<(), &'static str>,
    bursts: Result<(), &'static str>,
    /// Largest message.
    most: usize,
    handoff: Result<MakeHandoff, &'static str>,
    transfer: Result<fn() -> Subject, &'static str>,
}

impl Abilities {
    const LEAST: Self = Self {
        sleeps: Ok(()),
        bursts: Err("no call for several messages"),
        most: usize::MAX,
        handoff: Err("messages are copied: see one way"),
        transfer: Err("its ends do not move"),
    };

    /// The rows that look the same for processes and threads.
    fn answer(&self, work: Work, spins: bool) -> Result<(), &'static str> {
        if work.bytes() > self.most && !matches!(work, Work::Handoff { .. }) {
            return Err("not for messages of this size");
        }
        match work {
            Work::Trip { is_asleep: false, .. } if !spins => Err("blocks in the kernel only"),
            Work::Trip { is_asleep: true, .. } | Work::Wake { .. } => self.sleeps,
            Work::OneWay { is_burst: true, .. } => self.bursts,
            _ => Ok(()),
        }
    }
}

/// The answer of a transport between processes.
fn between<T: Transport>(abilities: &Abilities, work: Work, site: &Site) -> Answer {
    if let Err(reason) = abilities.answer(work, T::SPINS) {
        return Answer::Lacks(reason);
    }
    let (site, bytes) = (site.clone(), work.bytes());
    match work {
        Work::Trip { is_asleep, .. } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, is_asleep, 0);
            Trips(Echo(exchange::start::<T>(&plan, Part::Echo, site.core)))
        })),
        Work::OneWay { is_burst, .. } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, !T::SPINS, 0);
            let session = exchange::start::<T>(&plan, Part::Sink, site.core);
            OneWay(session, if is_burst { BURST } else { 1 })
        })),
        Work::Wake { slept } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, true, 0);
            Wake(exchange::start::<T>(&plan, Part::Waker, site.core), slept)
        })),
        Work::Create | Work::Memory | Work::Descriptors => {
            Answer::Makes(Box::new(move |number| T::make(&site.plan(work, false, number))))
        }
        Work::Handoff { bytes, is_read } => match abilities.handoff {
            Ok(make) => Answer::Runs(make(bytes, is_read, &site)),
            Err(reason) => Answer::Lacks(reason),
        },
        Work::Transfer => match abilities.transfer {
            Ok(make) => Answer::Runs(make()),
            Err(reason) => Answer::Lacks(reason),
        },
    }
}

/// The answer of a transport between threads.
fn inside<T: ThreadTransport>(abilities: &Abilities, work: Work, site: &Site) -> Answer {
    if let Err(reason) = abilities.answer(work, true) {
        return Answer::Lacks(reason);
    }
    let (site, bytes) = (site.clone(), work.bytes());
    match work {
        Work::Trip { is_asleep, .. } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, is_asleep, 0);
            Trips(Echo(exchange::start_thread::<T>(&plan, Part::Echo, site.core)))
        })),
        Work::OneWay { is_burst, .. } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, false, 0);
            let session = exchange::start_thread::<T>(&plan, Part::Sink, site.core);
            OneWay(session, if is_burst { BURST } else { 1 })
        })),
        Work::Wake { slept } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, true, 0);
            Wake(exchange::start_thread::<T>(&plan, Part::Waker, site.core), slept)
        })),
        Work::Create | Work::Memory | Work::Descriptors => Answer::Makes(Box::new(move |number| {
            let plan = site.plan(work, false, number);
            Box::new((T::direction(&plan), T::direction(&plan)))
        })),
        Work::Handoff { .. } | Work::Transfer => Answer::Absent,
    }
}

/// Calls a function for the type whose records are as long as a message.
macro_rules! sized {
    ($transport:ident, $bytes:expr, $otherwise:expr, $function:ident($($argument:expr),*)) => {
        match $bytes {
            8 => $function::<$transport<8>>($($argument),*),
            64 => $function::<$transport<64>>($($argument),*),
            1024 => $function::<$transport<1024>>($($argument),*),
            4096 => $function::<$transport<4096>>($($argument),*),
            65536 => $function::<$transport<65536>>($($argument),*),
            _ => $otherwise,
        }
    };
}

/// The same for a transport whose records are written and read by pointer, so that their length is
/// not bounded by a stack.
macro_rules! sized_by_pointer {
    ($transport:ident, $bytes:expr, $otherwise:expr, $function:ident($($argument:expr),*)) => {
        match $bytes {
            0x4_0000 => $function::<$transport<0x4_0000>>($($argument),*),
            0x10_0000 => $function::<$transport<0x10_0000>>($($argument),*),
            bytes => sized!($transport, bytes, $otherwise, $function($($argument),*)),
        }
    };
}

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

const COPIES: Abilities = Abilities::LEAST;
const STREAMS: Abilities = Abilities { bursts: Ok(()), ..COPIES };
const FIXED: Abilities = Abilities { bursts: Ok(()), most: 64 << 10, ..COPIES };
const MOVES: Abilities = Abilities { most: 64 << 10, ..COPIES };

/// All subjects, the limits first.
pub fn all() -> Vec<Entry> {
    let mut all = own::limits();
    all.extend(own::ours());
    all.extend(libraries());
    #[cfg(feature = "aeron")]
    all.push(Entry {
        name: "aeron",
        kind: Kind::Peer,
        about: crate::peers::aeron::ABOUT,
        answer: |work, site| {
            let sleeps = Err("wakes no receiver: its idle strategies sleep for fixed times");
            between::<Aeron>(&Abilities { sleeps, ..COPIES }, work, site)
        },
    });
    all.extend(kernels());
    all.extend(threads());
    all
}

fn libraries() -> Vec<Entry> {
    vec![
        Entry {
            name: "iceoryx2",
            kind: Kind::Peer,
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
            about: "0.10, request-response of slices, both loaned",
            answer: iceoryx_requests::answer,
        },
        Entry {
            name: "ringfire",
            kind: Kind::FixedPeer,
            about: "0.5, lossless ring of fixed-size records, polled with `try_push`, `try_recv`, \
                    bursts by `push_batch`; asleep by `FutexWait` without spins; from 4 KiB on \
                    blobs, viewed in place, for hand-off written in place as well",
            answer: ringfire,
        },
        Entry {
            name: "shmem-ipc",
            kind: Kind::FixedPeer,
            about: "0.3, `sharedring` of items as long as a message, written by pointer, polled \
                    without its event counters, received in place and as many as there are; \
                    asleep by them",
            answer: shmem_ipc,
        },
        Entry {
            name: "shmem-ipc-copied",
            kind: Kind::Reference,
            about: "the same, each message copied into private memory before it is used, as a \
                    receiver has to that does not trust its peer",
            answer: shmem_ipc_copied,
        },
        Entry {
            name: "ipmpsc",
            kind: Kind::Peer,
            about: "0.5, bytes by serde, borrowed from the ring with `zero_copy_context`",
            answer: |work, site| between::<Ipmpsc>(&COPIES, work, site),
        },
        Entry {
            name: "ipc-channel",
            kind: Kind::Peer,
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
            about: "2.4, a local socket, read through a buffer of 64 KiB",
            answer: |work, site| between::<Interprocess>(&STREAMS, work, site),
        },
    ]
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

fn kernels() -> Vec<Entry> {
    vec![
        Entry {
            name: "pipe",
            kind: Kind::FixedPeer,
            about: "two pipes of the usual 64 KiB, a burst is one `write`, read through a buffer",
            answer: |work, site| between::<Pipe>(&STREAMS, work, site),
        },
        Entry {
            name: "seqpacket",
            kind: Kind::Peer,
            about: "a pair of `SOCK_SEQPACKET`, a burst is one `sendmmsg`",
            answer: |work, site| between::<Seqpacket>(&FIXED, work, site),
        },
        Entry {
            name: "unix-stream",
            kind: Kind::FixedPeer,
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

fn threads() -> Vec<Entry> {
    vec![
        Entry {
            name: "rtrb",
            kind: Kind::Thread,
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
            about: "0.5, bounded, records moved by value",
            answer: sized_answer!(Crossbeam, inside, MOVES),
        },
        Entry {
            name: "std-mpsc",
            kind: Kind::Thread,
            about: "`sync_channel`, records moved by value",
            answer: sized_answer!(StdMpsc, inside, MOVES),
        },
    ]
}

/// The answer of the throughput limit.
pub fn slots(work: Work, site: &Site) -> Answer {
    between::<Slots>(&COPIES, work, site)
}

/// The answer of the limit of wake-ups.
pub fn futex(work: Work, site: &Site) -> Answer {
    between::<BareFutex>(&COPIES, work, site)
}

/// The answer of this crate's ports as they come, or trusted.
pub fn ports(is_trusted: bool, work: Work, site: &Site) -> Answer {
    if is_trusted {
        between::<Ports<true>>(&COPIES, work, site)
    } else {
        between::<Ports<false>>(&COPIES, work, site)
    }
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

/// Plays the other side of any transport.
fn serve(job: Job) {
    let (name, invited) = exchange::invited(job);
    serve_as(&name, invited);
}

fn serve_as(name: &str, invited: Invited) {
    use exchange::serve as play;
    let bytes = invited.plan.bytes;
    match name {
        "iceoryx2" => play::<Iceoryx>(invited),
        "ringfire" => match bytes {
            8 => play::<Ringfire<8>>(invited),
            64 => play::<Ringfire<64>>(invited),
            1024 => play::<Ringfire<1024>>(invited),
            _ => play::<Blobs>(invited),
        },
        "shmem-ipc" => {
            sized_by_pointer!(ShmemIpc, bytes, unreachable!("no such item"), play(invited))
        }
        "shmem-ipc-copied" => sized!(Copied, bytes, unreachable!("no such item"), play(invited)),
        "ipmpsc" => play::<Ipmpsc>(invited),
        "ipc-channel" => play::<IpcChannel>(invited),
        "interprocess" => play::<Interprocess>(invited),
        "pipe" => play::<Pipe>(invited),
        "seqpacket" => play::<Seqpacket>(invited),
        "unix-stream" => play::<UnixPair>(invited),
        "slots" => play::<Slots>(invited),
        "futex" => play::<BareFutex>(invited),
        "messageport" => play::<Ports<false>>(invited),
        "messageport-trusted" => play::<Ports<true>>(invited),
        #[cfg(feature = "aeron")]
        "aeron" => play::<Aeron>(invited),
        _ => panic!("no transport is called {name}"),
    }
}

/// The roles of this package's children.
pub fn roles() -> Vec<Role> {
    let mut roles = vec![(exchange::ROLE, serve as fn(Job))];
    roles.extend(handoffs::roles());
    roles.push(iceoryx_requests::ROLE);
    roles
}
