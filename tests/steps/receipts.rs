//! A process receives: every message comes once and in order, and a sleep ends when one comes.

use crate::common::trusted::trust;
use crate::common::{DEADLINE, receive_end, receive_text, refusal};
use crate::subject::{Subject, operate, text};
use crate::walk::{Fate, Operation, Partner, plain};
use messageport::{CloseReason, MessagePort, PostError, RecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Messages that wait when the operation begins.
const WAITING: u64 = 3;
const SHORT: u64 = 60;
/// Too long for a copy on a trusted port.
const LONG: u64 = 1500;
/// The last text to the subject, and the subject's last one.
const LAST: &str = "last";
const DONE: &str = "all of them came";

pub static PLAIN: Operation = Operation {
    is_short: true,
    channel: plain,
    subject: |subject| receive(&subject, SHORT),
    partner: |port, seed| Posting::partner(port, seed, SHORT, WAITING),
};

pub static IN_PLACE: Operation = Operation {
    is_short: true,
    channel: plain,
    subject: |subject| {
        trust(&subject.port);
        receive(&subject, LONG);
    },
    partner: |port, seed| Posting::partner(port, seed, LONG, WAITING),
};

/// Nothing is there, so that the receiver sleeps.
pub static ASLEEP: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| receive(&subject, SHORT),
    partner: |port, seed| Posting::partner(port, seed, SHORT, 0),
};

/// The sender sleeps, as it has no room, and has to be woken.
pub static MAKING_ROOM: Operation = Operation {
    is_short: true,
    channel: || plain().capacity(4096).bounded(),
    subject: |subject| receive(&subject, LONG),
    partner: |port, seed| Box::new(Waiting { port: Some(port), seed, thread: None }),
};

/// Receives one message as the operation, and the others after it.
fn receive(subject: &Subject, most: u64) {
    let Subject { port, seed } = subject;
    let first = text(*seed, 0, most);
    operate((), |()| {
        let event = port.recv().map_err(|error| ((), error))?;
        assert!(event.text().is_ok_and(|text| text == first), "{event:?}");
        Ok::<(), ((), RecvError)>(())
    });
    for number in 1.. {
        let found = receive_text(port);
        if found == LAST {
            break;
        }
        assert_eq!(found, text(*seed, number, most));
    }
    port.post_text(DONE).expect("room");
}

/// Posts, and waits for the end.
struct Posting {
    port: MessagePort,
    seed: u64,
    most: u64,
    waiting: u64,
    posted: u64,
}

impl Posting {
    fn partner(port: MessagePort, seed: u64, most: u64, waiting: u64) -> Box<dyn Partner> {
        Box::new(Posting { port, seed, most, waiting, posted: 0 })
    }

    fn post(&mut self) {
        self.port.post_text(&text(self.seed, self.posted, self.most)).expect("room");
        self.posted += 1;
    }
}

impl Partner for Posting {
    fn begin(&mut self) {
        for _ in 0..self.waiting {
            self.post();
        }
    }

    fn meanwhile(&mut self) {
        if self.waiting == 0 && self.posted == 0 {
            self.post();
        }
    }

    fn carry_on(&mut self) {
        self.post();
        assert!(matches!(self.port.recv_timeout(Duration::ZERO), Err(RecvError::Timeout)));
        assert!(!self.port.is_closed(), "it has only stopped");
    }

    fn after(&mut self) {
        // A refused sleep has ended the operation before.
        self.meanwhile();
        self.port.post_text(LAST).expect("room");
    }

    fn ends_sleeps(&self) -> bool {
        self.posted > 0
    }

    fn end(self: Box<Self>, fate: Fate) {
        if fate == Fate::Finished {
            assert_eq!(receive_text(&self.port), DONE);
            assert_eq!(receive_end(&self.port), CloseReason::PeerDropped);
            return assert_eq!(self.port.backlog().messages, 0);
        }
        assert_eq!(receive_end(&self.port), CloseReason::PeerDied);
        assert_eq!(refusal(self.port.post_text("too late")), CloseReason::PeerDied);
        // It had received one at most.
        let left = self.port.backlog().messages;
        let least = self.posted.saturating_sub(1);
        assert!((least..=self.posted).contains(&left), "{left} of {}", self.posted);
    }
}

/// A thread that has filled its lane, and waits for room.
struct Waiting {
    port: Option<MessagePort>,
    seed: u64,
    thread: Option<JoinHandle<(MessagePort, Result<(), PostError>)>>,
}

impl Partner for Waiting {
    fn begin(&mut self) {
        let port = self.port.take().expect("an operation begins once");
        let mut number = 0;
        let next = loop {
            let body = text(self.seed, number, LONG);
            match port.post_text(&body) {
                Ok(()) => number += 1,
                Err(error) => {
                    assert!(matches!(error, PostError::QueueFull { .. }), "{error}");
                    break body;
                }
            }
        };
        let (id, its_id) = std::sync::mpsc::channel();
        self.thread = Some(thread::spawn(move || {
            id.send(nix::unistd::gettid()).expect("it is waited for");
            let posted = port.post_text_timeout(&next, DEADLINE);
            let posted = posted.and_then(|()| port.post_text_timeout(LAST, DEADLINE));
            (port, posted)
        }));
        crate::common::wait_until_asleep(its_id.recv().expect("the thread says who it is"));
    }

    fn end(self: Box<Self>, fate: Fate) {
        let (port, posted) = self.thread.expect("it began").join().expect("it returns");
        if fate == Fate::Finished {
            posted.expect("there was room");
            assert_eq!(receive_text(&port), DONE);
            return assert_eq!(receive_end(&port), CloseReason::PeerDropped);
        }
        // There may have been room before the end.
        if posted.is_err() {
            assert_eq!(refusal(posted), CloseReason::PeerDied);
        }
        assert_eq!(receive_end(&port), CloseReason::PeerDied);
    }
}
