//! Who is compared: every subject with its configuration, and what it does in which row.

use std::any::Any;

use crate::entries;
use crate::exchange::{self, Echo, Invited, OneWay, Part, Wake};
use crate::handoffs;
use crate::harness::child::{Job, Role};
use crate::harness::workload::{Subject, Trips};
use crate::own;
use crate::peers::bcast::Bcast;
use crate::peers::bip_buffer::BipBuffer;
use crate::peers::bytes::{Interprocess, Pipe, Seqpacket, UnixPair};
use crate::peers::copied::Copied;
use crate::peers::crossbar::{Bus, Crossbar};
use crate::peers::iceoryx::Iceoryx;
use crate::peers::iceoryx_requests;
use crate::peers::ipc_channel::IpcChannel;
use crate::peers::ipmpsc::Ipmpsc;
use crate::peers::limits::{BareFutex, Slots};
use crate::peers::messageport::Ports;
use crate::peers::ringfire::{Blobs, Ringfire};
use crate::peers::shmem_ipc::ShmemIpc;
use crate::rows::{BURST, Work};
use crate::transport::{Plan, ThreadTransport, Transport};
use crate::typed_trips;

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
    /// The same, built with another profile.
    Otherwise,
    /// Another library, or the kernel's own way, between processes.
    Peer,
    /// The same with records of one size only, or a stream that is cut by a size both sides know.
    FixedPeer,
    /// Inside one process.
    Thread,
}

impl Kind {
    /// Whether the code that is measured is another library's.
    pub fn is_foreign(self) -> bool {
        matches!(self, Self::Peer | Self::FixedPeer | Self::Thread)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Reference => "reference",
            Self::Ours => "ours",
            Self::Otherwise => "ours, other profile",
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

/// What a subject promises of its messages.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// How long they may be.
    pub length: &'static str,
    /// Whether one may be lost while both sides live.
    pub loss: &'static str,
}

impl Promises {
    /// Of those that carry no messages.
    pub const NONE: Self = Self { length: "-", loss: "-" };
    /// As long as there is memory for it; waits rather than losing one.
    pub const ANY: Self = Self { length: "any", loss: "none" };
    /// Each takes a place as long as the longest.
    pub const PLACE: Self = Self { length: "up to a place", loss: "none" };
    /// All as long.
    pub const ONE: Self = Self { length: "one", loss: "none" };
    /// Bytes, which both sides cut by a length that they know.
    pub const STREAM: Self = Self { length: "stream", loss: "none" };

    /// The same, but its sender overwrites what is unread: a word of this harness keeps it from
    /// that.
    pub const fn but_overwrites(self) -> Self {
        Self { loss: "overwrites", ..self }
    }
}

/// One subject.
pub struct Entry {
    pub name: &'static str,
    pub kind: Kind,
    pub promises: Promises,
    /// How it was used and why so.
    pub about: &'static str,
    pub answer: fn(Work, &Site) -> Answer,
}

/// Makes the subject that hands over so many bytes, which are read or not.
pub type MakeHandoff = fn(usize, bool, &Site) -> Subject;

/// What transports differ in besides how they carry bytes.
pub struct Abilities {
    pub sleeps: Result<(), &'static str>,
    pub bursts: Result<(), &'static str>,
    /// Largest message.
    pub most: usize,
    pub handoff: Result<MakeHandoff, &'static str>,
    pub transfer: Result<fn() -> Subject, &'static str>,
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
            Work::Trip { is_asleep: false, .. } | Work::Typed { .. } if !spins => {
                Err("blocks in the kernel only")
            }
            Work::Trip { is_asleep: true, .. } | Work::Wake { .. } => self.sleeps,
            Work::OneWay { is_burst: true, .. } => self.bursts,
            _ => Ok(()),
        }
    }
}

/// The answer of a transport between processes.
pub fn between<T: Transport>(abilities: &Abilities, work: Work, site: &Site) -> Answer {
    if let Err(reason) = abilities.answer(work, T::SPINS) {
        return Answer::Lacks(reason);
    }
    let (site, bytes) = (site.clone(), work.bytes());
    match work {
        Work::Trip { is_asleep, .. } => Answer::Runs(Subject::new(T::NAME, bytes, 0, move || {
            let plan = site.plan(work, is_asleep, 0);
            Trips(Echo(exchange::start::<T>(&plan, Part::Echo, site.core)))
        })),
        Work::Typed { .. } => Answer::Runs(Subject::boxed(T::NAME, bytes, move || {
            let plan = site.plan(work, false, 0);
            typed_trips::start(exchange::start::<T>(&plan, Part::TypedEcho, site.core))
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
pub fn inside<T: ThreadTransport>(abilities: &Abilities, work: Work, site: &Site) -> Answer {
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
        Work::Typed { .. } | Work::Handoff { .. } | Work::Transfer => Answer::Absent,
    }
}

/// Of those that copy messages and send them one by one.
pub const COPIES: Abilities = Abilities::LEAST;
/// With a call for several messages.
pub const STREAMS: Abilities = Abilities { bursts: Ok(()), ..COPIES };
/// The same, moved by value.
pub const FIXED: Abilities = Abilities { bursts: Ok(()), most: 64 << 10, ..COPIES };
/// Moved by value, one by one.
pub const MOVES: Abilities = Abilities { most: 64 << 10, ..COPIES };

/// All subjects, the limits first.
pub fn all() -> Vec<Entry> {
    let mut all = own::limits();
    all.extend(own::ours());
    all.extend(entries::libraries());
    all.extend(entries::kernels());
    all.extend(entries::threads());
    all
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
        "shm-primitives" => play::<BipBuffer>(invited),
        "bcast" => play::<Bcast>(invited),
        "crossbar" => play::<Crossbar<false>>(invited),
        "crossbar-pinned" => play::<Crossbar<true>>(invited),
        "crossbar-bus" => match bytes {
            8 => play::<Bus<8>>(invited),
            64 => play::<Bus<64>>(invited),
            1024 => play::<Bus<1024>>(invited),
            _ => unreachable!("no such value"),
        },
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

/// What the table says below a row about a subject that was at a disadvantage.
pub fn remark(_name: &str) -> Option<&'static str> {
    #[cfg(feature = "aeron")]
    if _name == "aeron" {
        return crate::peers::aeron::remark();
    }
    None
}
