//! The driver: which partners there are, what each must have received, and what is done next.

use std::collections::HashSet;
use std::env;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use messageport::{
    BroadcastChannel, BufferPool, ChannelBuilder, Listener, Message, MessageChannel, MessagePort,
    Requester, Worker, WorkerPool,
};
use tempfile::TempDir;

use crate::actions::{self, ACTIONS};
use crate::gauge::{Gauge, Held, Share};
use crate::partner::{PARTNER, PATIENCE, TASKS, bus, command};
use crate::words::{Kind, Rng, number};

/// What is done wrong on purpose, once in a hundred actions from the second slice on, so that the
/// soak can be seen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A descriptor stays open.
    Descriptor,
    /// A buffer stays mapped.
    Mapping,
    /// Memory is not freed.
    Memory,
    /// A message is not posted.
    Message,
    /// A message is posted twice.
    Double,
}

/// A partner, and what it must have received.
pub struct Peer {
    pub number: u64,
    pub worker: Worker,
    pub requester: Requester<u64, u64>,
    pub frames: BufferPool,
    /// Messages of its stream.
    pub sent: u64,
    pub is_member: bool,
    /// The partners to which it has a port.
    pub links: HashSet<u64>,
}

pub struct Driver {
    pub rng: Rng,
    /// The first one is never killed.
    pub peers: Vec<Peer>,
    pub most: usize,
    pub pool: Option<WorkerPool<u64, u64>>,
    pub names: Option<(Listener, TempDir)>,
    pub bus: BroadcastChannel,
    /// Number of the last message of the broadcast channel.
    pub announced: u64,
    started: u64,
    slices: u32,
    fault: Option<Fault>,
    totals: [u64; 5],
    /// Action that is under way, and how many have been.
    progress: Arc<[AtomicU64; 2]>,
}

impl Driver {
    pub fn new(seed: u64, most: usize) -> Driver {
        let mut driver = Driver {
            rng: Rng::new(seed),
            peers: Vec::new(),
            most,
            pool: None,
            names: None,
            bus: BroadcastChannel::open(&bus()).expect("a broadcast channel"),
            announced: 0,
            started: 0,
            slices: 0,
            fault: chosen_fault(),
            totals: [0; 5],
            progress: Arc::default(),
        };
        let progress = driver.progress.clone();
        thread::spawn(move || end_what_hangs(seed, &progress));
        driver.start();
        driver
    }

    /// One action, chosen at random.
    pub fn act(&mut self, gauge: &mut Gauge) {
        let sum: u64 = ACTIONS.iter().map(|action| action.weight).sum();
        let mut ticket = self.rng.below(sum);
        let chosen = ACTIONS.iter().position(|action| match ticket.checked_sub(action.weight) {
            Some(left) => {
                ticket = left;
                false
            }
            None => true,
        });
        self.play(chosen.expect("a ticket below the sum"), gauge);
        if self.slices > 0 && self.rng.below(100) == 0 {
            self.plant();
        }
    }

    pub fn act_each_once(&mut self, gauge: &mut Gauge) {
        (0..ACTIONS.len()).for_each(|action| self.play(action, gauge));
    }

    fn play(&mut self, action: usize, gauge: &mut Gauge) {
        self.progress[0].store(action as u64, SeqCst);
        self.progress[1].fetch_add(1, SeqCst);
        (ACTIONS[action].act)(self, gauge);
        gauge.actions += 1;
        let workers = self.pool.as_ref().map_or(0, |pool| pool.ids().len());
        gauge.processes = gauge.processes.max(1 + self.peers.len() + workers);
    }

    /// Starts a partner with a channel of random sizes, and gives it what every partner has.
    pub fn start(&mut self) -> usize {
        let worker = command(PARTNER).channel(self.sizes()).spawn().expect("a partner");
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let serve = Kind::Serve.message(&[]);
        worker.port().post_bytes_with(&serve, [port2.into()]).expect("room for a port");
        let frames = BufferPool::for_untrusted(worker.port(), 3, FRAME).expect("a pool");
        self.peers.push(Peer {
            number: self.started,
            worker,
            requester: port1.requester(),
            frames,
            sent: 0,
            is_member: false,
            links: HashSet::new(),
        });
        self.started += 1;
        self.peers.len() - 1
    }

    /// Small enough that a burst makes the lane grow.
    fn sizes(&mut self) -> ChannelBuilder {
        MessageChannel::builder().capacity(4096 << self.rng.below(6)).limit(16 << 20)
    }

    pub fn any(&mut self) -> usize {
        self.rng.below(self.peers.len() as u64) as usize
    }

    /// A partner that may be killed.
    pub fn any_but_eldest(&mut self) -> usize {
        match self.peers.len() as u64 - 1 {
            0 => self.start(),
            others => 1 + self.rng.below(others) as usize,
        }
    }

    pub fn pool(&mut self) -> &WorkerPool<u64, u64> {
        self.pool.get_or_insert_with(|| {
            let builder = WorkerPool::builder(|| command(TASKS)).workers(2);
            builder.attempts(100).restart_limit(1000).build().expect("two workers")
        })
    }

    /// Asks every partner what it has received: all of its stream, and of the broadcast channel.
    pub fn look_at_all(&mut self, gauge: &mut Gauge) {
        for at in 0..self.peers.len() {
            self.check(at, gauge);
        }
    }

    /// Compares what a partner has received with what was posted to it.
    pub fn check(&mut self, at: usize, gauge: &mut Gauge) {
        let (peer, announced, end) = (&self.peers[at], self.announced, Instant::now() + PATIENCE);
        loop {
            peer.port().post_bytes(&Kind::Sum.message(&[])).expect("room for a byte");
            let sum = peer.next(Kind::Sum);
            let count = number(sum.bytes(), 0);
            assert_eq!(count, peer.sent, "messages that partner {} received", peer.number);
            for (most, index) in gauge.one_way.iter_mut().zip(2..) {
                *most = number(sum.bytes(), index).max(*most);
            }
            // Another thread of the partner receives these.
            let heard = number(sum.bytes(), 1);
            if !peer.is_member || announced == 0 || heard == announced {
                break;
            }
            assert!(
                Instant::now() < end,
                "partner {} has heard message {heard} of {announced}",
                peer.number
            );
        }
        if let Some(share) = Share::of(peer.worker.id()) {
            gauge.most_kib = gauge.most_kib.max(share.kib);
            gauge.most_descriptors = gauge.most_descriptors.max(share.descriptors);
        }
    }

    /// Ends everything but the eldest partner, which is left as it was at its start.
    pub fn rest(&mut self, gauge: &mut Gauge) {
        while self.peers.len() > 1 {
            self.end_last();
        }
        self.pool = None;
        self.names = None;
        let eldest = &mut self.peers[0];
        eldest.links.clear();
        if !eldest.is_member {
            eldest.ask(Kind::Join);
            eldest.is_member = true;
            actions::announce_one(self, gauge);
        }
        self.peers[0].port().trim().expect("pages that the lane does not use");
        self.slices += 1;
        let done = [gauge.actions, gauge.messages, gauge.moves, gauge.calls, gauge.kills];
        self.totals.iter_mut().zip(done).for_each(|(total, done)| *total += done);
    }

    /// Tells a partner to end, by closing its port, and waits until it has.
    pub fn end_last(&mut self) {
        let peer = self.peers.pop().expect("a partner");
        drop((peer.frames, peer.requester));
        let end = peer.worker.shutdown(PATIENCE).expect("a child of this process");
        let status = end.status();
        assert!(status.success(), "partner {} ended with {status}", peer.number);
    }

    /// What is held, after a look at the broadcast channel: it closes its ports to members that have
    /// left when it is used.
    fn held(&self) -> Held {
        let others = self.bus.others().expect("a broadcast channel that is open");
        assert!(others >= 1, "the eldest partner is a member");
        let processes = [process::id(), self.peers[0].worker.id()];
        Held(processes.map(|process| Share::of(process).expect("a process that lives")))
    }

    /// What is held when it has not changed for a second: threads of the crate close what was
    /// dropped, and the eldest partner has yet to see that its links are closed.
    pub fn settled(&self) -> Held {
        let (mut held, mut since) = (self.held(), Instant::now());
        while since.elapsed() < SETTLED {
            thread::sleep(SETTLED / 50);
            let now = self.held();
            if !(now.is_at_most(&held, 0) && held.is_at_most(&now, 0)) {
                since = Instant::now();
            }
            held = now;
        }
        held
    }

    /// Waits until no more is held than at an earlier rest, but for some descriptors. What has leaked is still there at the
    /// end of the time.
    pub fn wait_until_at_most(&self, earlier: &Held, slack: usize) -> Held {
        let end = Instant::now() + PATIENCE / 6;
        loop {
            let held = self.held();
            if held.is_at_most(earlier, slack) {
                return held;
            }
            assert!(Instant::now() < end, "held is {held:?}, and was {earlier:?} at first");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn totals(&self) -> String {
        let [actions, messages, moves, calls, kills] = self.totals;
        format!(
            "{actions} actions, {messages} messages, {moves} transferables, {calls} calls, {kills} \
             kills, {} partners",
            self.started
        )
    }

    fn plant(&mut self) {
        match self.fault {
            None => {}
            Some(Fault::Descriptor) => {
                let file = std::fs::File::open("/dev/null").expect("the null device");
                std::mem::forget(file);
            }
            Some(Fault::Mapping) => {
                std::mem::forget(messageport::Buffer::from_slice(&[1; 8192]).expect("a buffer"));
            }
            Some(Fault::Memory) => std::mem::forget(vec![1_u8; 4 << 20]),
            Some(Fault::Message) => self.peers[0].sent += 1,
            Some(Fault::Double) => {
                let message = Kind::Stream.message(&[self.peers[0].sent, 0]);
                let port = self.peers[0].port();
                port.post_bytes(&message).and_then(|()| port.post_bytes(&message)).expect("room");
                self.peers[0].sent += 1;
            }
        }
    }
}

impl Peer {
    pub fn port(&self) -> &MessagePort {
        self.worker.port()
    }

    /// The next message of this partner, which is of this kind.
    pub fn next(&self, kind: Kind) -> Message {
        let event = self.port().recv_timeout(PATIENCE);
        let event = event.unwrap_or_else(|error| {
            panic!("partner {} owes {kind:?}: {error}\n{:?}", self.number, self.port())
        });
        assert_eq!(Kind::of(event.bytes()), kind, "what partner {} says", self.number);
        event.into_message()
    }

    /// Posts a message of this kind, and waits for the reply.
    pub fn ask(&self, kind: Kind) {
        self.port().post_bytes(&kind.message(&[])).expect("room for a byte");
        self.next(kind);
    }
}

fn chosen_fault() -> Option<Fault> {
    let name = env::var("MESSAGEPORT_SOAK_FAULT").ok()?;
    let faults = [Fault::Descriptor, Fault::Mapping, Fault::Memory, Fault::Message, Fault::Double];
    let fault = faults.into_iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(&name));
    Some(fault.unwrap_or_else(|| panic!("no fault is called {name}; there are {faults:?}")))
}

/// Ends this process, and with it its children, when an action takes for ever.
fn end_what_hangs(seed: u64, progress: &[AtomicU64; 2]) {
    let mut last = (u64::MAX, Instant::now());
    loop {
        thread::sleep(Duration::from_secs(1));
        let done = progress[1].load(SeqCst);
        if done != last.0 {
            last = (done, Instant::now());
        }
        if last.1.elapsed() > 3 * PATIENCE {
            let action = ACTIONS[progress[0].load(SeqCst) as usize].name;
            eprintln!("soak: action {done} ({action}) of seed {seed} has not ended");
            process::abort();
        }
    }
}

/// Far longer than a thread needs to close what was dropped.
const SETTLED: Duration = Duration::from_secs(1);
pub const FRAME: usize = 32 << 10;
