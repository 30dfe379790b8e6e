//! What the fuzzer runs on ports: honest programs with up to twelve ports that post, receive, move
//! each other, split, and close, against a model of which message and which port is where.
//!
//! Each port is in one place: the program holds it, it waits in the queue of another one, or it is
//! gone. Each message that was posted arrives once, in order and whole, with what moved with it,
//! unless the port that it was posted to has gone. No call hangs or panics.

use crate::error::{PostError, RecvError};
use crate::link::buffer::Buffer;
use crate::port::MessagePort;
use crate::port::channel::MessageChannel;
use crate::port::message::Message;
use crate::port::transfer::Transferable;
use crate::wire::record::Format;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Runs a script of calls. Returns how many messages arrived, and how many ports in them.
pub fn port_ops(data: &[u8]) -> [usize; 2] {
    let mut script = Script { data };
    let mut world = World::default();
    while let Some(step) = script.byte() {
        world.step(step, &mut script);
    }
    world.finish();
    world.arrived
}

/// Bytes, read as numbers. An end of the bytes is the end of the script.
struct Script<'a> {
    data: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.data.split_first()?;
        self.data = rest;
        Some(first)
    }

    /// A number below `bound`; 0 after the end.
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % bound
    }

    fn len(&mut self) -> usize {
        LENGTHS[self.below(LENGTHS.len())]
    }
}

/// Lengths at which something changes: in the header, read ahead, in chunks, past the first segment
/// and past the limit.
const LENGTHS: [usize; 12] = [0, 1, 7, 8, 9, 100, 512, 513, 4096, 9000, 30_000, 200_000];
const LIMIT: usize = 64 << 10;
/// Ports, and items of a list.
const MOST_PORTS: usize = 12;
const MOST_ITEMS: usize = 4;
/// A hang is not waited for longer than this.
const DEADLINE: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_millis(10);

/// What a message that is on its way should be.
#[derive(Debug)]
struct Expected {
    number: u64,
    len: usize,
    format: Format,
    items: Vec<Item>,
}

#[derive(Debug)]
enum Item {
    /// The port of this number.
    Port(usize),
    /// A buffer of this length.
    Buffer(usize),
    Descriptor,
}

/// One port: port `n` and port `n ^ 1` are a pair.
#[derive(Default)]
struct Place {
    /// The port, while the program holds it.
    held: Option<MessagePort>,
    /// The port in whose queue it is.
    inside: Option<usize>,
    /// Posted to it, and not received yet.
    queue: VecDeque<Expected>,
    /// Whether it was closed: it can be read, and takes nothing more.
    is_closed: bool,
    /// Whether it has said that no more can come.
    has_ended: bool,
}

#[derive(Default)]
struct World {
    ports: Vec<Place>,
    /// Owned messages, kept for later, and what they should be.
    kept: Vec<(Message, u64, usize)>,
    posted: u64,
    arrived: [usize; 2],
}

impl World {
    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        if self.ports.is_empty() {
            return self.open(script);
        }
        let port = script.below(self.ports.len());
        if self.ports[port].held.is_none() {
            return;
        }
        match step % 16 {
            0 => self.open(script),
            1..=3 => self.post(port, script),
            4 => self.burst(port, script),
            5 => self.lend(port, script),
            6..=8 => self.transfer(port, script),
            9 | 10 => self.receive(port, script),
            11 => self.receive_all(port, script),
            12 => self.discard(port),
            13 => self.split(port, script),
            14 => self.look(port),
            _ => self.leave(port, script),
        }
    }

    fn open(&mut self, script: &mut Script<'_>) {
        if self.ports.len() >= MOST_PORTS {
            return;
        }
        let builder = MessageChannel::builder().capacity(4096 << script.below(3)).limit(LIMIT);
        let MessageChannel { port1, port2 } = builder.build().expect("descriptors are left");
        for port in [port1, port2] {
            if script.below(3) == 0 {
                port.endpoint().trust();
            }
            self.ports.push(Place { held: Some(port), ..Place::default() });
        }
    }

    /// Whether the program can still reach a port: it holds it, or the one in whose queue it is,
    /// and so on. Ports in each other's queues are reached by nothing, and the kernel closes them
    /// at some time.
    fn is_reachable(&self, port: usize) -> bool {
        let mut at = port;
        for _ in 0..=MOST_PORTS {
            if self.ports[at].held.is_some() {
                return true;
            }
            let Some(carrier) = self.ports[at].inside else { return false };
            at = carrier;
        }
        false
    }

    /// Whether what is posted to a port can be received, and its peer is not told of an end.
    fn is_open(&self, port: usize) -> bool {
        self.is_reachable(port) && !self.ports[port].is_closed
    }

    fn held(&self, port: usize) -> &MessagePort {
        self.ports[port].held.as_ref().expect("the program holds it")
    }

    /// What the next message should be.
    fn next(&mut self, len: usize, format: Format) -> Expected {
        self.posted += 1;
        Expected { number: self.posted, len, format, items: Vec::new() }
    }

    /// Notes the outcome of a post; returns whether the message is on its way.
    fn note(&mut self, port: usize, expected: Expected, posted: Result<(), &PostError>) -> bool {
        let peer = port ^ 1;
        match posted {
            Ok(()) if self.is_open(peer) => self.ports[peer].queue.push_back(expected),
            // Nothing reads it any more, and that is not known yet.
            Ok(()) => self.lose(expected),
            Err(PostError::Closed { .. }) => {
                assert!(!self.is_open(peer) || !self.is_open(port), "port {port} says closed");
                return false;
            }
            Err(PostError::QueueFull { .. } | PostError::TooLarge { .. }) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn post(&mut self, port: usize, script: &mut Script<'_>) {
        let (len, kind) = (script.len(), script.below(3));
        let format = [Format::Bytes, Format::Text, Format::Archive][kind];
        let expected = self.next(len, format);
        let bytes = content(expected.number, len);
        let posted = match format {
            Format::Text => self.held(port).post_text(text(&bytes)),
            Format::Archive => self.held(port).post_message(&bytes),
            _ => self.held(port).post_bytes(&bytes),
        };
        self.note(port, expected, posted.as_ref().copied());
    }

    fn burst(&mut self, port: usize, script: &mut Script<'_>) {
        for _ in 0..=script.below(4) {
            let len = script.len();
            let expected = self.next(len, Format::Bytes);
            let burst = self.held(port).burst();
            let staged = burst.stage_bytes(&content(expected.number, len));
            if script.below(4) == 0 {
                burst.commit();
            } else {
                // The next post publishes it, or the end of the port.
                std::mem::forget(burst);
            }
            self.note(port, expected, staged.as_ref().copied());
        }
        self.held(port).burst().commit();
    }

    fn lend(&mut self, port: usize, script: &mut Script<'_>) {
        let len = script.len();
        let expected = self.next(len, Format::Bytes);
        let bytes = content(expected.number, len);
        let lent = self.held(port).loan(len).and_then(|mut loan| {
            loan.copy_from_slice(&bytes);
            loan.post()
        });
        if script.below(4) == 0 {
            drop(self.held(port).loan(len));
        }
        self.note(port, expected, lent.as_ref().copied());
    }

    /// Posts with a list of ports that the program holds, buffers and descriptors.
    fn transfer(&mut self, port: usize, script: &mut Script<'_>) {
        let len = LENGTHS[script.below(9)];
        let mut expected = self.next(len, Format::Bytes);
        let mut list: Vec<Transferable> = Vec::new();
        for _ in 0..script.below(MOST_ITEMS + 1) {
            match script.below(4) {
                0 => {
                    let len = [0, 5, 4096, 4097, 20_000][script.below(5)];
                    let buffer = Buffer::from_slice(&content(expected.number, len));
                    list.push(buffer.expect("memory is left").into());
                    expected.items.push(Item::Buffer(len));
                }
                1 => {
                    list.push(std::io::pipe().expect("descriptors are left").0.into());
                    expected.items.push(Item::Descriptor);
                }
                _ => {
                    let moving = script.below(self.ports.len());
                    if moving != port
                        && let Some(port) = self.ports[moving].held.take()
                    {
                        list.push(port.into());
                        expected.items.push(Item::Port(moving));
                    }
                }
            }
        }
        let bytes = content(expected.number, len);
        let refused = match self.held(port).post_bytes_with(&bytes, list) {
            Ok(()) => None,
            Err(error) => Some(error.into_parts()),
        };
        let Some((reason, list)) = refused else {
            for item in &expected.items {
                if let Item::Port(moving) = item {
                    self.ports[*moving].inside = Some(port ^ 1);
                }
            }
            self.note(port, expected, Ok(()));
            return;
        };
        self.take_back(&expected, list);
        let is_closed = |item: &Item| matches!(item, Item::Port(it) if self.ports[*it].is_closed);
        if expected.items.iter().any(is_closed) {
            return;
        }
        let has_peer =
            expected.items.iter().any(|it| matches!(it, Item::Port(it) if *it == port ^ 1));
        match reason {
            PostError::TransferLoop { .. } => assert!(has_peer, "{expected:?}"),
            reason => _ = self.note(port, expected, Err(&reason)),
        }
    }

    /// A list that comes back has all that was in it, in its order.
    fn take_back(&mut self, expected: &Expected, list: Vec<Transferable>) {
        assert_eq!(list.len(), expected.items.len());
        for (item, back) in expected.items.iter().zip(list) {
            match (item, back) {
                (Item::Port(number), Transferable::Port(port)) => {
                    self.ports[*number].held = Some(port);
                }
                (Item::Buffer(len), Transferable::Buffer(buffer)) => {
                    assert_eq!(*buffer, *content(expected.number, *len));
                }
                (Item::Descriptor, Transferable::Descriptor(_)) => {}
                (item, back) => panic!("{back:?} for {item:?}"),
            }
        }
    }

    fn receive(&mut self, port: usize, script: &mut Script<'_>) {
        let received = self.held(port).try_recv().map(|event| event.map(|it| it.into_message()));
        match received {
            Ok(Some(message)) => self.check(port, message, script),
            Ok(None) => self.found_nothing(port),
            Err(error) => self.found_end(port, &error),
        }
    }

    fn receive_all(&mut self, port: usize, script: &mut Script<'_>) {
        let most = script.below(8);
        let taken: Vec<Message> =
            self.held(port).try_iter().take(most).map(|event| event.into_message()).collect();
        for message in taken {
            self.check(port, message, script);
        }
    }

    fn discard(&mut self, port: usize) {
        match self.held(port).discard_next() {
            Ok(true) => {
                let expected = self.ports[port].queue.pop_front().expect("a message was posted");
                self.lose(expected);
            }
            Ok(false) => self.found_nothing(port),
            Err(error) => self.found_end(port, &error),
        }
    }

    fn found_nothing(&self, port: usize) {
        assert!(self.ports[port].queue.is_empty(), "port {port}: {:?}", self.ports[port].queue);
    }

    fn found_end(&mut self, port: usize, error: &RecvError) {
        assert!(matches!(error, RecvError::Closed { .. }), "{error}");
        let place = &self.ports[port];
        assert!(place.queue.is_empty(), "port {port}, {error}: {:?}", place.queue);
        assert!(!self.is_open(port) || !self.is_open(port ^ 1), "port {port}: {error}");
        self.ports[port].has_ended = true;
    }

    /// Compares a message with the next one of the model, and takes or leaves what moved with it.
    fn check(&mut self, port: usize, message: Message, script: &mut Script<'_>) {
        self.arrived[0] += 1;
        let expected = self.ports[port].queue.pop_front().expect("a message was posted");
        is_as_posted(&message, &expected);
        if script.below(8) == 0 {
            // Dropped with all that it has.
            drop(message);
            return self.lose(expected);
        }
        for item in &expected.items {
            match item {
                Item::Port(number) => {
                    let port = message.take_port().expect("the port that was posted");
                    self.ports[*number].inside = None;
                    self.ports[*number].held = Some(port);
                    self.arrived[1] += 1;
                }
                Item::Buffer(len) => {
                    let buffer = message.take_buffer().expect("the buffer that was posted");
                    assert_eq!(*buffer, *content(expected.number, *len));
                }
                Item::Descriptor => drop(message.take_descriptor().expect("a descriptor")),
            }
        }
        assert_eq!(message.transferred(), (0, 0, 0));
        if script.below(4) == 0 && expected.format != Format::Archive {
            self.kept.push((message, expected.number, expected.len));
        }
    }

    /// A message is not received: what is in its list has gone.
    fn lose(&mut self, expected: Expected) {
        for item in expected.items {
            if let Item::Port(number) = item {
                self.ports[number].inside = None;
                self.end(number);
            }
        }
    }

    /// A port has gone: so has what is in its queue.
    fn end(&mut self, port: usize) {
        for expected in std::mem::take(&mut self.ports[port].queue) {
            self.lose(expected);
        }
    }

    fn split(&mut self, port: usize, script: &mut Script<'_>) {
        let whole = self.ports[port].held.take().expect("the program holds it");
        let (sender, receiver) = whole.split();
        let expected = self.next(script.len(), Format::Bytes);
        let posted = sender.post_bytes(&content(expected.number, expected.len));
        let whole = MessagePort::join(sender, receiver).expect("halves of one port");
        self.ports[port].held = Some(whole);
        self.note(port, expected, posted.as_ref().copied());
    }

    /// Calls that change nothing.
    fn look(&self, port: usize) {
        let held = self.held(port);
        if self.is_open(port) && self.is_open(port ^ 1) {
            assert!(!held.is_closed());
            let unread = self.ports[port ^ 1].queue.len() as u64;
            assert_eq!(held.backlog().messages, unread, "port {port}");
        }
        let _ = held.trim();
        let _ = held.stats();
    }

    /// Closes a port, or drops it.
    fn leave(&mut self, port: usize, script: &mut Script<'_>) {
        match script.below(4) {
            0 => {
                self.held(port).close();
                self.ports[port].is_closed = true;
                let error = self.held(port).post_text("too late").expect_err("it is closed");
                assert!(matches!(error, PostError::Closed { .. }), "{error}");
                // What is in its queue is still there for it.
            }
            1 => {
                self.ports[port].held = None;
                self.end(port);
            }
            _ => {}
        }
    }

    /// What a port says that has no messages, and whose peer has gone.
    fn end_of(&self, port: usize) -> RecvError {
        let start = Instant::now();
        loop {
            // The kernel looks for ports that nothing reaches when a socket closes, unless it is
            // just doing that.
            drop(MessageChannel::new().expect("descriptors are left"));
            let error = self.held(port).recv_timeout(TURN).expect_err("nothing was posted");
            if !matches!(error, RecvError::Timeout) || start.elapsed() > DEADLINE {
                return error;
            }
        }
    }

    /// Everything that is on its way to a port that the program holds, or will hold, arrives; then
    /// each port whose peer has gone says so.
    fn finish(&mut self) {
        let mut script = Script { data: &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] };
        while let Some(port) = (0..self.ports.len())
            .find(|&port| self.ports[port].held.is_some() && !self.ports[port].queue.is_empty())
        {
            let received = self.held(port).try_recv();
            let message = received.expect("a message").expect("it was posted").into_message();
            self.check(port, message, &mut script);
        }
        for port in (0..self.ports.len()).filter(|&port| self.ports[port].held.is_some()) {
            if self.is_open(port) && self.is_open(port ^ 1) {
                assert!(self.held(port).try_recv().expect("its peer is there").is_none());
                continue;
            }
            let error = self.end_of(port);
            assert!(matches!(error, RecvError::Closed { .. }), "port {port}: {error}");
        }
        for (message, number, len) in self.kept.drain(..) {
            assert_eq!(message.bytes(), content(number, len), "a message that was kept");
        }
    }
}

fn is_as_posted(message: &Message, expected: &Expected) {
    assert_eq!(message.format(), expected.format, "{expected:?}");
    let bytes = content(expected.number, expected.len);
    match expected.format {
        Format::Archive => assert_eq!(*message.data::<Vec<u8>>().expect("a vector"), *bytes),
        _ => assert_eq!(message.bytes(), bytes, "{expected:?}"),
    }
    let count = |of: fn(&Item) -> bool| expected.items.iter().filter(|item| of(item)).count();
    let ports = count(|item| matches!(item, Item::Port(_)));
    let buffers = count(|item| matches!(item, Item::Buffer(_)));
    let descriptors = count(|item| matches!(item, Item::Descriptor));
    assert_eq!(message.transferred(), (ports, buffers, descriptors), "{expected:?}");
}

/// The bytes of a message: text, and others for each number and place.
fn content(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| b'a' + ((number * 7 + at * 3 + at / 251) % 26) as u8).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("letters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::Config;

    proptest! {
        #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]
        #[test]
        fn any_script_of_ports_behaves_as_the_model(
            script in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            port_ops(&script);
        }
    }

    #[test]
    fn the_corpus_moves_ports_and_messages() {
        let folder = format!("{}/fuzz/corpus/port_ops", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(folder).into_iter().flatten();
        let all: Vec<_> = files
            .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a readable file"))
            .map(|script| port_ops(&script))
            .collect();
        let [messages, ports] = [0, 1].map(|which| all.iter().map(|it| it[which]).sum::<usize>());
        // The published crate has no corpus.
        assert!(all.is_empty() || messages > 30 && ports > 5, "{messages} messages, {ports} ports");
    }
}
