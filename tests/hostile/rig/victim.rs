//! A program with a hostile peer: it does everything that one can with a port, and complains of
//! each answer that it should not have had.

use super::Desk;
use super::peer::misplaced;
use super::tally::Tally;
use crate::common::messages::Rng;
use crate::examine;
use messageport::{
    CloseReason, EventLoop, Message, MessageEvent, MessagePort, PortSet, PostError, Receiver,
    RecvError, Sender, TransferError, Transferable,
};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::{Arc, atomic::AtomicU64};
use std::time::{Duration, Instant};

/// One port's life.
pub struct Victim<'t> {
    tally: &'t mut Tally,
    desk: &'t Desk,
    rng: Rng,
    /// Set by the peer before it does what may end the port.
    provoked: Arc<AtomicBool>,
    /// How the port has ended, in each direction.
    unreadable: Option<CloseReason>,
    unwritable: Option<CloseReason>,
    /// Rounds in a row in which nothing came, and rounds since an end.
    idle: u32,
    since_end: u32,
    /// Receives of the whole run after which this port has lived long enough.
    enough: u64,
}

/// A message that is kept, and what it was when it came.
struct Held<'p> {
    what: Kept<'p>,
    sum: u64,
}

enum Kept<'p> {
    Event(MessageEvent<'p>),
    Message(Message),
}

impl Held<'_> {
    fn sum(&self) -> u64 {
        match &self.what {
            Kept::Event(event) => sum(event.bytes()),
            Kept::Message(message) => sum(message.bytes()),
        }
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder().iter().fold(1u64, |sum, byte| sum * 31 + u64::from(*byte));
    chunks.fold(rest, |sum, word| {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

/// Messages in a row from one look at a port.
const RUN: usize = 32;
/// Rounds of nothing after which the port is given up: its peer has lied itself out of step.
const PATIENCE: u32 = 64;
/// Messages that are kept at a time.
const KEPT: usize = 12;
const SHORT: Duration = Duration::from_micros(20);

impl<'t> Victim<'t> {
    pub fn new(
        tally: &'t mut Tally,
        desk: &'t Desk,
        mut rng: Rng,
        provoked: Arc<AtomicBool>,
    ) -> Victim<'t> {
        let (unreadable, unwritable, idle, since_end) = (None, None, 0, 0);
        let enough = tally.receives + (100 << rng.below(7));
        Victim { tally, desk, rng, provoked, unreadable, unwritable, idle, since_end, enough }
    }

    /// Uses a port until it has ended, and a little longer.
    pub fn live(mut self, mut port: MessagePort) {
        if self.rng.below(24) == 0 {
            return self.listen(port);
        }
        while !self.is_done() {
            self.use_by_calls(&port);
            let next = match self.rng.below(8) {
                0 => self.part(port),
                1 => self.put_in_a_set(port),
                2 | 3 => self.move_away(port),
                _ => Some(port),
            };
            let Some(next) = next else { return };
            port = next;
        }
        self.tally.end(self.unreadable.or(self.unwritable));
        if self.rng.below(4) == 0 {
            port.close();
        }
        self.timed("drop", || drop(port));
    }

    fn is_done(&self) -> bool {
        self.idle >= PATIENCE || self.since_end >= 6 || self.tally.receives >= self.enough
    }

    fn timed<T>(&mut self, what: &'static str, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let answer = call();
        self.tally.took(what, start.elapsed());
        answer
    }

    fn use_by_calls(&mut self, port: &MessagePort) {
        let mut held = VecDeque::new();
        for round in 0..8 + self.rng.below(120) {
            self.receive_some(port, &mut held);
            self.post_something(port);
            if self.rng.below(4) == 0 {
                self.desk.help();
            }
            if round % 16 == 0 {
                self.look_around(port);
            }
            if self.unreadable.is_some() || self.unwritable.is_some() {
                self.since_end += 1;
            }
            if self.is_done() {
                break;
            }
        }
        held.drain(..).for_each(|one| self.let_go(one));
    }

    // Receiving.

    fn receive_some<'p>(&mut self, port: &'p MessagePort, held: &mut VecDeque<Held<'p>>) {
        let before = self.tally.receives;
        let start = Instant::now();
        let what = match self.rng.below(24) {
            0 => {
                let timeout = SHORT * self.rng.below(3) as u32;
                let received = port.recv_timeout(timeout).map(Some);
                self.received(received, held);
                "recv_timeout"
            }
            1 => {
                match port.discard_next() {
                    Ok(found) => self.tally.receives += u64::from(found),
                    Err(error) => self.failed(error),
                }
                "discard_next"
            }
            2..12 => {
                for event in port.try_iter().take(RUN) {
                    self.take(event, held);
                }
                let received = port.try_recv();
                self.received(received, held);
                "try_iter"
            }
            _ => {
                for _ in 0..RUN {
                    let received = port.try_recv();
                    let is_over = !matches!(received, Ok(Some(_)));
                    self.received(received, held);
                    if is_over {
                        break;
                    }
                }
                "try_recv"
            }
        };
        self.tally.took(what, start.elapsed());
        self.rest(before);
    }

    /// Lets the peer have the processor when nothing has come.
    fn rest(&mut self, before: u64) {
        if self.tally.receives == before {
            self.idle += 1;
            self.desk.help();
            std::thread::yield_now();
        } else {
            self.idle = 0;
        }
    }

    fn received<'p>(
        &mut self,
        received: Result<Option<MessageEvent<'p>>, RecvError>,
        held: &mut VecDeque<Held<'p>>,
    ) {
        match received {
            Ok(Some(event)) => self.take(event, held),
            Ok(None) if self.unreadable.is_some() => self.tally.finding("empty after the end"),
            Ok(None) => {}
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: RecvError) {
        match error {
            RecvError::Closed { reason } => self.ended(reason, false),
            RecvError::Timeout if self.unreadable.is_none() => {}
            other => self.tally.finding(&format!("a receive says {other}")),
        }
    }

    fn take<'p>(&mut self, event: MessageEvent<'p>, held: &mut VecDeque<Held<'p>>) {
        self.count(event.bytes());
        self.take_attachments(&event);
        match self.rng.below(16) {
            0 => examine(&event),
            1..4 => {
                let sum = sum(event.bytes());
                let what = match self.rng.below(3) {
                    0 => Kept::Message(event.into_message()),
                    _ => Kept::Event(event),
                };
                held.push_back(Held { what, sum });
                if held.len() > KEPT
                    && let Some(oldest) = held.pop_front()
                {
                    self.let_go(oldest);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.tally.receives += 1;
        if self.unreadable.is_some() {
            self.tally.finding("a message after the end");
        }
        if let Some(what) = misplaced(bytes) {
            self.tally.finding(&format!("a message of another place: {what}"));
        }
    }

    fn let_go(&mut self, held: Held<'_>) {
        if held.sum() != held.sum {
            self.tally.finding("a message changed while it was held");
        }
    }

    fn take_attachments(&mut self, event: &MessageEvent<'_>) {
        let (ports, buffers, descriptors) = event.transferred();
        if ports + buffers + descriptors == 0 {
            return;
        }
        let start = Instant::now();
        while let Ok(buffer) = event.take_buffer() {
            if let Some(what) = misplaced(&buffer) {
                self.tally.finding(&format!("a buffer of another place: {what}"));
            }
            std::hint::black_box(sum(&buffer));
            let _ = buffer.access::<Vec<String>>().map(drop);
            if self.rng.below(4) == 0 {
                break;
            }
        }
        drop(event.take_descriptor());
        if self.rng.below(4) != 0
            && let Ok(port) = event.take_port()
        {
            self.tally.attachments += 1;
            self.use_transferable(&port);
        }
        self.tally.took("attachments", start.elapsed());
    }

    /// Uses a port whose words may be anything; what it answers does not matter.
    fn use_transferable(&mut self, port: &MessagePort) {
        for _ in 0..8 {
            let most = 1 << self.rng.below(14);
            let len = self.rng.below(most) as usize;
            match self.rng.below(8) {
                0 => drop(port.post_bytes(&vec![1; len])),
                1 => drop(port.loan(len).and_then(|loan| loan.post())),
                2 => drop(port.discard_next()),
                3 => drop(port.trim()),
                4 => drop(port.post_text_with("one", [null()])),
                5 => drop((port.backlog(), port.stats(), port.is_closed())),
                _ => {
                    if let Ok(Some(event)) = port.try_recv() {
                        examine(&event);
                    }
                }
            }
        }
    }

    /// A port has said that it ended. It must have had a reason, and keeps to it.
    fn ended(&mut self, reason: CloseReason, of_posts: bool) {
        if !self.provoked.load(Acquire) {
            self.tally.finding(&format!("an honest peer's port ended: {reason}"));
        }
        let known = if of_posts { &mut self.unwritable } else { &mut self.unreadable };
        let first = *known.get_or_insert(reason);
        if first != reason {
            let direction = if of_posts { "posts" } else { "receives" };
            let text = format!("{direction} ended twice: {first}; {reason}");
            self.tally.finding(&text);
        }
    }

    // Posting.

    fn post_something(&mut self, port: &MessagePort) {
        let start = Instant::now();
        let number = self.rng.next();
        let (what, posted) = match self.rng.below(48) {
            0..8 => ("post_bytes", port.post_bytes(&[1; 300][..number as usize % 300])),
            8..12 => ("post_message", port.post_message(&(number, "words ".repeat(5)))),
            12 => ("post_bytes_timeout", port.post_bytes_timeout(&[2; 3000], SHORT)),
            13 => ("wait_for_room", port.wait_for_room(9000, SHORT)),
            14..16 => ("loan", port.loan(50).and_then(|loan| loan.post())),
            16 => ("loan, dropped", port.loan(500).map(drop)),
            17..19 => {
                let burst = port.burst();
                let staged = burst.stage(&number).and_then(|()| burst.stage_text("more"));
                if number.is_multiple_of(2) {
                    burst.commit();
                } else {
                    drop(burst);
                }
                ("burst", staged)
            }
            19 => {
                let posted = port.post_text_with("beside", [null()]);
                ("post_text_with", posted.map_err(TransferError::into_parts).map_err(|it| it.0))
            }
            20..24 => ("post_text", port.post_text("words")),
            _ => return,
        };
        self.tally.took(what, start.elapsed());
        self.posted(what, posted);
    }

    fn posted(&mut self, what: &str, posted: Result<(), PostError>) {
        let is_open = self.unwritable.is_none();
        match posted {
            Err(PostError::Closed { reason }) => self.ended(reason, true),
            Ok(()) | Err(PostError::QueueFull { .. } | PostError::Timeout) if is_open => {}
            // A loan that was given and dropped, a burst of nothing, is no post.
            Ok(()) => self.tally.finding(&format!("{what} after the end of posts")),
            Err(error) => self.tally.finding(&format!("{what} says {error}")),
        }
    }

    fn look_around(&mut self, port: &MessagePort) {
        let _ = self.timed("backlog", || port.backlog());
        let _ = self.timed("stats", || port.stats());
        let is_closed = self.timed("is_closed", || port.is_closed());
        if !is_closed && self.unwritable.is_some() {
            self.tally.finding("not closed after the end of posts");
        }
        match self.rng.below(8) {
            0 => {
                let trimmed = self.timed("trim", || port.trim());
                self.posted_or_trimmed(trimmed.map(drop));
            }
            1 => drop(self.timed("Debug", || format!("{port:?}"))),
            2 => {
                use std::os::fd::AsFd;
                // As if it waited among other descriptors.
                let _ = port.as_fd();
            }
            _ => {}
        }
    }

    /// Memory can be given back while there is any.
    fn posted_or_trimmed(&mut self, trimmed: Result<(), PostError>) {
        match trimmed {
            Ok(()) => {}
            error => self.posted("trim", error),
        }
    }

    // The other ways to use a port.

    fn part(&mut self, port: MessagePort) -> Option<MessagePort> {
        let (sender, receiver) = port.split();
        for _ in 0..8 {
            self.use_halves(&sender, &receiver);
        }
        Some(MessagePort::join(sender, receiver).expect("two halves of one port"))
    }

    fn use_halves(&mut self, sender: &Sender, receiver: &Receiver) {
        let before = self.tally.receives;
        let mut held = VecDeque::new();
        for _ in 0..RUN {
            let received = receiver.try_recv();
            let is_over = !matches!(received, Ok(Some(_)));
            self.received(received, &mut held);
            if is_over {
                break;
            }
        }
        held.drain(..).for_each(|one| self.let_go(one));
        self.rest(before);
        let posted = sender.post_bytes(&[3; 40]);
        self.posted("half: post_bytes", posted);
    }

    fn put_in_a_set(&mut self, port: MessagePort) -> Option<MessagePort> {
        let mut set = PortSet::new().expect("a set");
        let id = set.add(port).expect("room for a port");
        let mut held = VecDeque::new();
        let start = Instant::now();
        for _ in 0..4 * RUN {
            match set.try_recv().expect("a set works") {
                Some((_, Ok(event))) => self.take(event, &mut held),
                Some((_, Err(error))) => self.failed(error),
                None => break,
            }
        }
        held.drain(..).for_each(|one| self.let_go(one));
        drop(held);
        self.tally.took("PortSet", start.elapsed());
        set.remove(id)
    }

    fn move_away(&mut self, port: MessagePort) -> Option<MessagePort> {
        let start = Instant::now();
        let descriptor = match port.into_fd() {
            Ok(descriptor) => descriptor,
            Err(error) => return Some(error.into_port()),
        };
        let arrived = MessagePort::from_fd(descriptor);
        self.tally.took("into_fd, from_fd", start.elapsed());
        match arrived {
            Ok(port) => {
                // Another port, which learns of its end by itself.
                (self.unreadable, self.unwritable) = (None, None);
                Some(port)
            }
            Err(error) => {
                if !self.provoked.load(Relaxed) {
                    self.tally.finding(&format!("an honest peer's port was refused: {error}"));
                }
                self.tally.refused(&error);
                None
            }
        }
    }

    /// The port delivers events, to its end.
    fn listen(&mut self, port: MessagePort) {
        let seen = Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
        let (messages, close) = (seen.clone(), seen.clone());
        port.on_message(move |event| {
            if let Some(message) = event.message() {
                std::hint::black_box(sum(message.bytes()));
            }
            messages.0.fetch_add(1, Relaxed);
        });
        port.on_close(move |_| close.1.store(true, Relaxed));
        let mut events = EventLoop::new().expect("a loop");
        events.add(port).expect("room for a port");
        let (mut known, mut idle) = (0, 0);
        while !seen.1.load(Relaxed) && idle < PATIENCE && self.tally.receives < self.enough {
            let start = Instant::now();
            events.poll_once(Duration::ZERO).expect("a loop works");
            self.tally.took("EventLoop::poll_once", start.elapsed());
            let now = seen.0.load(Relaxed);
            idle = if now == known { idle + 1 } else { 0 };
            self.tally.receives += now - known;
            known = now;
            self.desk.help();
            if idle > 0 {
                std::thread::yield_now();
            }
        }
        self.tally.end_of_events(seen.1.load(Relaxed));
    }
}

fn null() -> Transferable {
    File::open("/dev/null").expect("a device").into()
}
