//! What is timed, written once for every transport: round trips, one way, wake-ups.

use std::hint::spin_loop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::harness::child::{Job, Peer};
use crate::harness::clock::Clock;
use crate::harness::machine;
use crate::harness::message::{CHECKED, Outgoing, Source, Tally, assert_echo};
use crate::harness::shared::{LINE, Shared, SharedMemory};
use crate::harness::workload::{RoundTrip, Workload};
use crate::transport::{Invitation, Plan, Receiving, Sending, ThreadTransport, Transport};
use crate::typed_trips;

/// What the other side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Sends everything back.
    Echo,
    /// Takes, checks and counts everything.
    Sink,
    /// Notes the time at which it received something.
    Waker,
    /// Turns every message into a value, and sends that back.
    TypedEcho,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Sink => "sink",
            Self::Waker => "waker",
            Self::TypedEcho => "typed-echo",
        }
    }

    fn of_name(name: &str) -> Self {
        let all = [Self::Echo, Self::Sink, Self::Waker, Self::TypedEcho];
        let found = all.into_iter().find(|part| part.name() == name);
        found.unwrap_or_else(|| panic!("no part is called {name}"))
    }
}

/// Words that both sides share beside the transport, one writer each.
pub struct Signals {
    memory: Rc<SharedMemory>,
    /// One, once the other side has joined.
    ready: Shared<AtomicU64>,
    /// Monotonic time at which the other side received its last message.
    woke_ns: Shared<AtomicU64>,
    /// Messages of which that time was noted.
    woken: Shared<AtomicU64>,
}

impl Signals {
    fn new(memory: Rc<SharedMemory>) -> Self {
        let (ready, woke_ns, woken) = (memory.word(0), memory.word(LINE), memory.word(LINE + 8));
        Self { memory, ready, woke_ns, woken }
    }

    fn create() -> Self {
        Self::new(SharedMemory::create(2 * LINE))
    }

    fn wait_until_ready(&self) {
        while self.ready.load(Acquire) == 0 {
            spin_loop();
        }
    }
}

/// The other side, wherever it runs; a process ends when this is dropped.
pub enum Other {
    Process(Peer),
    /// It ends with this process.
    Thread,
}

/// The first side of a channel with the other side at work.
pub struct Session<O, I> {
    pub out: O,
    pub back: I,
    pub plan: Plan,
    source: Source,
    signals: Signals,
    other: Other,
}

impl<O, I> Session<O, I> {
    /// Process id of the other side, if it is another process.
    pub fn peer(&self) -> Option<u32> {
        match &self.other {
            Other::Process(peer) => Some(peer.id()),
            Other::Thread => None,
        }
    }
}

/// Starts the other side of `T` in a process of its own.
pub fn start<T: Transport>(plan: &Plan, part: Part, core: usize) -> Session<T::Out, T::In> {
    let (offer, invitation) = T::offer(plan);
    let (source, signals) = (Source::new(plan.bytes), Signals::create());
    let mut descriptors = vec![source.descriptor(), signals.memory.descriptor()];
    descriptors.extend(invitation.descriptors.iter().map(AsFd::as_fd));
    let Plan { name, bytes, capacity, is_asleep } = plan;
    let (part, word) = (part.name(), &invitation.word);
    let role = format!("{ROLE}:{}:{part}:{is_asleep}:{capacity}:{name}:{word}", T::NAME);
    let other = Other::Process(Peer::start(&role, core, *bytes, &descriptors));
    drop(invitation);
    let (out, back) = T::accept(plan, offer);
    signals.wait_until_ready();
    Session { out, back, plan: plan.clone(), source, signals, other }
}

/// Starts the other side of `T` in a thread.
pub fn start_thread<T: ThreadTransport>(
    plan: &Plan,
    part: Part,
    core: usize,
) -> Session<T::Out, T::In> {
    let (source, signals) = (Source::new(plan.bytes), Signals::create());
    let ((out, incoming), (outgoing, back)) = (T::direction(plan), T::direction(plan));
    let copy = |descriptor: BorrowedFd<'_>| {
        descriptor.try_clone_to_owned().expect("a descriptor for the thread")
    };
    let pages = (copy(source.descriptor()), copy(signals.memory.descriptor()));
    let at_work = plan.clone();
    let builder = std::thread::Builder::new().stack_size(STACK);
    let thread = builder.spawn(move || {
        machine::pin(core);
        play(&at_work, part, pages, (outgoing, incoming));
    });
    thread.expect("a thread");
    signals.wait_until_ready();
    Session { out, back, plan: plan.clone(), source, signals, other: Other::Thread }
}

/// The words of a role, without its transport.
pub struct Invited {
    pub plan: Plan,
    part: Part,
    pages: (OwnedFd, OwnedFd),
    invitation: Invitation,
}

/// Reads what `start` wrote; returns the transport's name with the rest.
pub fn invited(mut job: Job) -> (String, Invited) {
    let role = job.role.clone();
    let mut words = role.splitn(7, ':').skip(1);
    let mut word = || words.next().expect("seven words of a role").to_owned();
    let transport = word();
    let part = Part::of_name(&word());
    let is_asleep = word() == "true";
    let capacity = word().parse().expect("a capacity");
    let plan = Plan { name: word(), bytes: job.bytes, capacity, is_asleep };
    let word = word();
    let pages = (job.descriptor(), job.descriptor());
    let descriptors = job.remaining();
    (transport, Invited { plan, part, pages, invitation: Invitation { descriptors, word } })
}

/// Plays the other side of [`start`].
pub fn serve<T: Transport>(invited: Invited) {
    let Invited { plan, part, pages, invitation } = invited;
    play(&plan, part, pages, T::join(&plan, invitation));
}

fn play<O: Sending, I: Receiving>(
    plan: &Plan,
    part: Part,
    (source, signals): (OwnedFd, OwnedFd),
    (mut out, mut incoming): (O, I),
) {
    let signals = Signals::new(SharedMemory::open(signals));
    // Release: what this side set up is there before the first message.
    signals.ready.store(1, Release);
    match part {
        Part::Echo => loop {
            receive(plan, &mut incoming, |message| out.send(message));
        },
        Part::TypedEcho => typed_trips::echo(plan, &mut out, &mut incoming),
        Part::Sink => {
            let mut tally = Tally::new(&SharedMemory::open(source), plan.bytes);
            if plan.is_asleep {
                loop {
                    incoming.sleep(|message| tally.take(message));
                    if !incoming.has_more() {
                        tally.publish();
                    }
                }
            }
            loop {
                if incoming.poll(|message| tally.take(message)) == 0 {
                    tally.publish();
                    spin_loop();
                }
            }
        }
        Part::Waker => loop {
            let mut woke_ns = 0;
            incoming.sleep(|_| woke_ns = monotonic_ns());
            signals.woke_ns.store(woke_ns, Release);
            signals.woken.fetch_add(1, Release);
        },
    }
}

/// Waits for one message in the way that the plan asks for.
#[inline]
pub fn receive<I: Receiving>(plan: &Plan, from: &mut I, mut take: impl FnMut(&[u8])) {
    if plan.is_asleep {
        return from.sleep(take);
    }
    while from.poll(&mut take) == 0 {
        spin_loop();
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// A message there and back.
pub struct Echo<O, I>(pub Session<O, I>);

impl<O: Sending, I: Receiving> RoundTrip for Echo<O, I> {
    fn check(&mut self) {
        let Session { out, back, plan, .. } = &mut self.0;
        assert_echo(plan.bytes, |message| {
            out.send(message);
            let mut answer = Vec::new();
            receive(plan, back, |bytes| answer = bytes.to_vec());
            answer
        });
    }

    #[inline]
    fn round_trip(&mut self) {
        let Session { out, back, plan, source, .. } = &mut self.0;
        out.send(source.message.next());
        receive(plan, back, |answer| source.message.confirm(answer));
    }

    fn peer(&self) -> u32 {
        // Without another process its switches are this one's, which are counted anyway; no
        // process has the number zero.
        self.0.peer().unwrap_or_default()
    }
}

/// Messages one way, in bursts of so many.
pub struct OneWay<O, I>(pub Session<O, I>, pub u64);

impl<O: Sending, I: Receiving> Workload for OneWay<O, I> {
    fn check(&mut self) {
        self.run(CHECKED);
    }

    fn run(&mut self, count: u64) -> Duration {
        let Session { out, source, .. } = &mut self.0;
        let message: &mut Outgoing = &mut source.message;
        let start = Instant::now();
        if self.1 == 1 {
            for _ in 0..count {
                out.send(message.next());
            }
        } else {
            let mut left = count;
            while left > 0 {
                let burst = self.1.min(left);
                out.send_burst(message, burst);
                left -= burst;
            }
        }
        self.0.source.wait_until_taken();
        start.elapsed()
    }

    fn pauses(&self) -> Option<u64> {
        Some(self.0.source.pauses())
    }

    fn peer(&self) -> Option<u32> {
        self.0.peer()
    }
}

/// From sending to the moment at which a receiver that slept for so long has the message.
pub struct Wake<O, I>(pub Session<O, I>, pub Duration);

impl<O: Sending, I: Receiving> Wake<O, I> {
    fn once(&mut self) -> u64 {
        let before = self.0.signals.woken.load(Acquire);
        // This side does not sleep: its own core shall be awake.
        let start = Instant::now();
        while start.elapsed() < self.1 {
            spin_loop();
        }
        let sent_ns = monotonic_ns();
        self.0.out.send(self.0.source.message.next());
        while self.0.signals.woken.load(Acquire) == before {
            spin_loop();
        }
        self.0.signals.woke_ns.load(Acquire).saturating_sub(sent_ns)
    }
}

impl<O: Sending, I: Receiving> Workload for Wake<O, I> {
    fn check(&mut self) {
        self.run(3);
    }

    fn run(&mut self, count: u64) -> Duration {
        Duration::from_nanos((0..count).map(|_| self.once()).sum())
    }

    fn sample(&mut self, count: u64, clock: &Clock) -> Option<Vec<u64>> {
        let ns_per_tick = clock.ns(1);
        Some((0..count).map(|_| (self.once() as f64 / ns_per_tick) as u64).collect())
    }

    fn peer(&self) -> Option<u32> {
        self.0.peer()
    }
}

/// The role under which [`invited`] is called.
pub const ROLE: &str = "peer";
/// Some transports move messages of 64 KiB by value, a few copies deep.
const STACK: usize = 64 << 20;
