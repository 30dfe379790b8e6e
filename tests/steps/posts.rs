//! A process posts: what it has committed comes once, whole and in order, and nothing else does.

use crate::common::region::{self, Region};
use crate::common::{DEADLINE, refusal, wait_until};
use crate::subject::{Subject, operate, text};
use crate::walk::{Fate, Operation, Partner, plain};
use messageport::{ChannelBuilder, CloseReason, MessagePort, PostError, RecvError};
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Messages before the operation.
const BEFORE: u64 = 2;
/// Bytes of a message, at most.
const SHORT: u64 = 60;
const LONG: u64 = 1500;
/// Lane of the subject's posts.
const FROM_SUBJECT: usize = 1;

pub static TEXT: Operation = Operation {
    is_short: true,
    channel: plain,
    subject: |subject| {
        post_before(&subject, SHORT);
        let body = text(subject.seed, BEFORE, SHORT);
        operate((), |()| subject.port.post_text(&body).map_err(|error| ((), error)));
        post_after(&subject, 1, SHORT);
    },
    partner: |port, seed| Receiving::partner(port, seed, 1, SHORT),
};

pub static GROWING: Operation = Operation {
    is_short: true,
    channel: small,
    subject: |subject| {
        post_before(&subject, LONG);
        let body = text(subject.seed, BEFORE, LONG);
        operate((), |()| subject.port.post_text(&body).map_err(|error| ((), error)));
        post_after(&subject, 1, LONG);
    },
    partner: |port, seed| Receiving::partner(port, seed, 1, LONG),
};

pub static BURST: Operation = Operation {
    is_short: true,
    channel: plain,
    subject: |subject| {
        post_before(&subject, SHORT);
        let bodies: Vec<_> =
            (BEFORE..BEFORE + 3).map(|number| text(subject.seed, number, SHORT)).collect();
        operate(0, |mut staged| {
            let burst = subject.port.burst();
            for body in &bodies[staged..] {
                if let Err(error) = burst.stage_text(body) {
                    return Err((staged, error));
                }
                staged += 1;
            }
            burst.commit();
            Ok(())
        });
        post_after(&subject, 3, SHORT);
    },
    partner: |port, seed| Receiving::partner(port, seed, 3, SHORT),
};

pub static LOAN: Operation = Operation {
    is_short: true,
    channel: plain,
    subject: |subject| {
        post_before(&subject, SHORT);
        let body = text(subject.seed, BEFORE, SHORT);
        operate((), |()| {
            let lent = subject.port.loan(body.len()).and_then(|mut loan| {
                loan.copy_from_slice(body.as_bytes());
                loan.post()
            });
            lent.map_err(|error| ((), error))
        });
        post_after(&subject, 1, SHORT);
    },
    partner: |port, seed| Receiving::partner(port, seed, 1, SHORT),
};

/// The receiver sleeps, and has to be woken.
pub static WAKING: Operation = Operation {
    is_short: true,
    channel: plain,
    subject: TEXT.subject,
    partner: |port, seed| Sleeping::partner(port, seed, SHORT),
};

fn small() -> ChannelBuilder {
    plain().capacity(4096)
}

fn post_before(subject: &Subject, most: u64) {
    for number in 0..BEFORE {
        subject.port.post_text(&text(subject.seed, number, most)).expect("room");
    }
}

fn post_after(subject: &Subject, count: u64, most: u64) {
    subject.port.post_text(&text(subject.seed, BEFORE + count, most)).expect("room");
}

/// Receives what the subject posts.
struct Receiving {
    port: MessagePort,
    region: Region,
    seed: u64,
    /// Messages of the operation, which become visible at once.
    count: u64,
    most: u64,
    /// Messages received so far.
    received: u64,
    /// The lane's tail when the operation began.
    tail: u64,
}

impl Receiving {
    fn partner(port: MessagePort, seed: u64, count: u64, most: u64) -> Box<dyn Partner> {
        let region = Region::of(&port);
        Box::new(Receiving { port, region, seed, count, most, received: 0, tail: 0 })
    }

    fn tail(&self) -> u64 {
        self.region.word(region::tail(FROM_SUBJECT)).load(SeqCst)
    }

    /// Receives one message if there is one.
    fn receive(&mut self, timeout: Duration) -> Result<(), RecvError> {
        let event = self.port.recv_timeout(timeout)?;
        let expected = text(self.seed, self.received, self.most);
        assert_eq!(String::from_utf8_lossy(event.bytes()), expected, "{event:?}");
        self.received += 1;
        Ok(())
    }

    /// How many messages are committed, as the tail says.
    fn committed(&self) -> u64 {
        if self.tail() == self.tail { BEFORE } else { BEFORE + self.count }
    }
}

impl Partner for Receiving {
    fn begin(&mut self) {
        self.tail = self.tail();
    }

    fn carry_on(&mut self) {
        while self.receive(Duration::ZERO).is_ok() {}
        assert_eq!(self.received, self.committed());
        self.port.post_text("from the partner").expect("a post needs no peer that runs");
        assert!(!self.port.is_closed(), "it has only stopped");
    }

    fn end(mut self: Box<Self>, fate: Fate) {
        let (committed, reason) = match fate {
            Fate::Killed => (self.committed(), CloseReason::PeerDied),
            Fate::Finished => (BEFORE + self.count + 1, CloseReason::PeerDropped),
        };
        let end = loop {
            match self.receive(DEADLINE) {
                Ok(()) => {}
                Err(RecvError::Closed { reason }) => break reason,
                Err(error) => panic!("{error}\n{:#?}", self.port),
            }
        };
        assert_eq!((self.received, end), (committed, reason), "{:#?}", self.port);
        assert_eq!(refusal(self.port.post_text("too late")), reason);
        assert!(matches!(self.port.loan(1), Err(PostError::Closed { .. })));
    }
}

/// A thread that has received what came before, and sleeps.
struct Sleeping {
    seed: u64,
    most: u64,
    region: Region,
    tail: u64,
    port: Option<MessagePort>,
    thread: Option<JoinHandle<(Vec<String>, CloseReason)>>,
}

impl Sleeping {
    fn partner(port: MessagePort, seed: u64, most: u64) -> Box<dyn Partner> {
        let region = Region::of(&port);
        Box::new(Sleeping { seed, most, region, tail: 0, port: Some(port), thread: None })
    }

    fn word(&self, place: usize) -> u64 {
        self.region.word(place).load(SeqCst)
    }
}

impl Partner for Sleeping {
    fn begin(&mut self) {
        self.tail = self.word(region::tail(FROM_SUBJECT));
        let port = self.port.take().expect("an operation begins once");
        self.thread = Some(thread::spawn(move || {
            let mut texts = Vec::new();
            loop {
                match port.recv() {
                    Ok(event) => texts.push(event.text().expect("a text").to_owned()),
                    Err(RecvError::Closed { reason }) => return (texts, reason),
                    Err(error) => panic!("{error}"),
                }
            }
        }));
        wait_until("the receiver sleeps", || {
            let flag = self.region.half_word(region::message_sleeper(FROM_SUBJECT)).load(SeqCst);
            flag == ON_THE_DOORBELL && self.word(region::head(FROM_SUBJECT)) == self.tail
        });
    }

    fn expected_call(&self) -> Option<&'static str> {
        Some("sendto")
    }

    fn end(self: Box<Self>, fate: Fate) {
        let is_committed = self.word(region::tail(FROM_SUBJECT)) != self.tail;
        let (count, reason) = match fate {
            Fate::Killed => (BEFORE + u64::from(is_committed), CloseReason::PeerDied),
            Fate::Finished => (BEFORE + 2, CloseReason::PeerDropped),
        };
        let (texts, end) = self.thread.expect("it began").join().expect("it receives to the end");
        let expected: Vec<_> =
            (0..count).map(|number| text(self.seed, number, self.most)).collect();
        assert_eq!((texts, end), (expected, reason));
    }
}

/// What stands in a sleeper's flag while it waits for the doorbell.
const ON_THE_DOORBELL: u32 = 2;
