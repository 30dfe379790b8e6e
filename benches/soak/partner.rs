//! The other processes: partners, which do what messages say, and workers of the pool.

use std::collections::HashMap;
use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use messageport::{
    BroadcastChannel, Connect, Message, MessageEvent, MessagePort, PortId, PortSet, Responder,
    Transferable, WorkerBuilder, parent_port,
};

use crate::words::{Fate, Kind, MOST_NANOS, answer, now, number, pattern};

/// Builds what starts this program again in `role`; it ends with this process.
pub fn command(role: &str) -> WorkerBuilder {
    let mut command = Command::new(env::current_exe().expect("path of this program"));
    command.env(ROLE, role).env(BUS, bus());
    WorkerBuilder::from(command).end_with_parent()
}

/// Plays the role that the environment names, if it names one; then returns true.
pub fn serve() -> bool {
    let Ok(role) = env::var(ROLE) else { return false };
    let port = parent_port().expect("a port to the parent");
    match role.as_str() {
        PARTNER => Partner::new(port).run(),
        _ => do_tasks(&port.responder()),
    }
    true
}

/// Name of the broadcast channel of this run.
pub fn bus() -> String {
    env::var(BUS).unwrap_or_else(|_| format!("messageport-soak-{}", std::process::id()))
}

/// A worker of the pool, until its port is closed.
fn do_tasks(responder: &Responder<u64, u64>) {
    while let Ok(request) = responder.recv() {
        let value = request.data().to_native();
        // The pool may be gone.
        let _ = request.reply(&answer(value));
    }
}

/// Takes the requests of the driver, each of which has its own fate.
fn take_requests(responder: &Responder<u64, u64>) {
    while let Ok(request) = responder.recv() {
        let value = request.data().to_native();
        let fate = Fate::of(value);
        if fate == Fate::Delay {
            thread::sleep(Duration::from_millis(3));
        }
        let _ = match fate {
            Fate::Answer | Fate::Delay => request.reply(&answer(value)),
            Fate::Refuse => request.refuse("as agreed"),
            Fate::Drop => Ok(()),
        };
    }
}

struct Partner {
    ports: PortSet,
    parent: PortId,
    /// Ports to other partners, by their numbers.
    links: HashMap<u64, PortId>,
    /// How many messages of the stream have come.
    received: u64,
    one_way: Histogram<u64>,
    /// The last message of the broadcast channel.
    heard: Arc<AtomicU64>,
    member: Option<JoinHandle<()>>,
    wants_to_stay: Arc<AtomicU64>,
}

/// A port that came and is to be served from now on.
enum Added {
    Link(u64, MessagePort),
    Echo(MessagePort),
}

impl Partner {
    fn new(port: MessagePort) -> Partner {
        let mut ports = PortSet::new().expect("a set");
        let parent = ports.add(port).expect("a first port");
        Partner {
            ports,
            parent,
            links: HashMap::new(),
            received: 0,
            one_way: Histogram::new_with_max(MOST_NANOS, 3).expect("three digits"),
            heard: Arc::default(),
            member: None,
            wants_to_stay: Arc::default(),
        }
    }

    fn run(mut self) {
        loop {
            let (id, event) = self.ports.recv().expect("a set that can wait");
            let message = event.map(MessageEvent::into_message);
            let added = match message {
                Ok(message) => self.take(id, &message),
                Err(_) if id == self.parent => break,
                Err(_) => {
                    self.links.retain(|_, link| *link != id);
                    self.ports.remove(id);
                    continue;
                }
            };
            match added {
                None => {}
                Some(Added::Echo(port)) => drop(self.ports.add(port).expect("room for a port")),
                Some(Added::Link(number, port)) => {
                    let id = self.ports.add(port).expect("room for a port");
                    self.links.insert(number, id);
                }
            }
        }
        self.leave();
    }

    /// The peer of any port but the driver's may have been killed, so only posts to the driver
    /// have to succeed, as long as there is a driver.
    fn take(&mut self, id: PortId, message: &Message) -> Option<Added> {
        let bytes = message.bytes();
        let port = self.ports.get(id).expect("a port that has just given a message");
        match Kind::of(bytes) {
            Kind::Echo => drop(port.post_bytes_timeout(bytes, PATIENCE)),
            Kind::Stream => self.take_of_stream(bytes),
            Kind::Sum => {
                let sum = self.sum();
                drop(self.driver().post_bytes(&sum));
            }
            Kind::Return => drop(port.post_bytes_with(bytes, everything(message))),
            Kind::Link => return Some(Added::Link(number(bytes, 0), port_of(message))),
            Kind::Add => return Some(Added::Echo(port_of(message))),
            Kind::Chain => self.pass_on(bytes, port_of(message)),
            Kind::Serve => {
                let port = port_of(message);
                thread::spawn(move || take_requests(&port.responder()));
            }
            Kind::Frame => {
                let frame = message.take_frame().expect("a frame").to_vec();
                let seed = number(bytes, 0);
                assert!(frame.iter().copied().eq(pattern(seed, frame.len())), "frame {seed}");
                drop(port.post_bytes(bytes));
            }
            Kind::Join => {
                self.join();
                drop(self.driver().post_bytes(bytes));
            }
            Kind::Leave => {
                self.leave();
                drop(self.driver().post_bytes(bytes));
            }
            Kind::Dial => {
                let path = str::from_utf8(&bytes[1..]).expect("a path");
                // The listener may be gone.
                return Connect::new().timeout(PATIENCE).at(path).ok().map(Added::Echo);
            }
        }
        None
    }

    fn driver(&self) -> &MessagePort {
        self.ports.get(self.parent).expect("it stays until the end")
    }

    fn take_of_stream(&mut self, bytes: &[u8]) {
        self.one_way.saturating_record(now().saturating_sub(number(bytes, 1)));
        let (number, rest) = (number(bytes, 0), &bytes[17..]);
        assert_eq!(number, self.received, "the next message of the stream");
        assert!(rest.iter().copied().eq(pattern(number, rest.len())), "bytes of message {number}");
        self.received += 1;
    }

    /// What came in the stream, what came of the broadcast channel, and how long messages took.
    fn sum(&mut self) -> Vec<u8> {
        let [median, most, outlier] =
            [0.5, 0.99, 0.999].map(|quantile| self.one_way.value_at_quantile(quantile));
        self.one_way.reset();
        Kind::Sum.message(&[self.received, self.heard.load(SeqCst), median, most, outlier])
    }

    /// A port goes to the next partner of its chain, or is at its end.
    fn pass_on(&self, bytes: &[u8], port: MessagePort) {
        let (count, route) = (number(bytes, 0), &bytes[9..]);
        if route.is_empty() {
            for index in 0..count {
                // The driver has closed it, if it is no longer interested.
                let Ok(event) = port.recv_timeout(PATIENCE) else { return };
                assert_eq!(number(event.bytes(), 0), index, "what is in a port that moved");
            }
            drop(port.post_bytes(&Kind::Chain.message(&[count])));
            return;
        }
        let next = self.links.get(&number(bytes, 1)).and_then(|link| self.ports.get(*link));
        // If the next one was killed, the port is closed here, which the driver is told by it.
        if let Some(next) = next {
            let rest: Vec<u8> = bytes[..9].iter().chain(&bytes[17..]).copied().collect();
            drop(next.post_bytes_with(&rest, [port.into()]));
        }
    }

    fn join(&mut self) {
        self.leave();
        let (heard, wanted) = (self.heard.clone(), self.wants_to_stay.clone());
        wanted.store(1, SeqCst);
        let (ready, opened) = std::sync::mpsc::channel();
        self.member = Some(thread::spawn(move || {
            let bus = BroadcastChannel::open(&bus()).expect("a broadcast channel");
            let (mut last, _) = (None, ready.send(()));
            while wanted.load(SeqCst) == 1 {
                let Ok(message) = bus.recv_timeout(Duration::from_millis(20)) else { continue };
                let number = number(message.bytes(), 0);
                assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
                last = Some(number);
                heard.store(number, SeqCst);
            }
        }));
        opened.recv().expect("a thread that has joined");
    }

    fn leave(&mut self) {
        self.wants_to_stay.store(0, SeqCst);
        let ended = self.member.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))), "the member has failed");
    }
}

fn port_of(message: &Message) -> MessagePort {
    message.take_port().expect("a port")
}

fn everything(message: &Message) -> Vec<Transferable> {
    let ports = message.take_ports().expect("ports").into_iter().map(Transferable::from);
    let buffers = message.take_buffers().expect("buffers").into_iter().map(Transferable::from);
    let files = message.take_descriptors().expect("files").into_iter().map(Transferable::from);
    ports.chain(buffers).chain(files).collect()
}

/// Roles.
pub const PARTNER: &str = "partner";
pub const TASKS: &str = "tasks";
/// Longer than any wait takes on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
const ROLE: &str = "MESSAGEPORT_SOAK_ROLE";
const BUS: &str = "MESSAGEPORT_SOAK_BUS";
