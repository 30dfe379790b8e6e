//! Channels begin and end: what a dead or refused process leaves keeps no other one from going on.

use crate::common::census::Census;
use crate::common::members::directory_of;
use crate::common::role::command;
use crate::common::{DEADLINE, receive_end, receive_text, wait_until};
use crate::subject::{Subject, operate};
use crate::walk::{Fate, Operation, Partner, plain};
use messageport::{
    BroadcastChannel, Buffer, ChannelError, CloseReason, Connect, ConnectError, Listener,
    MessageChannel, MessagePort, RecvError, Worker, WorkerEnd, connect, parent_port,
};
use nix::fcntl::AT_FDCWD;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::ftruncate;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the subject says when it has done everything.
const DONE: &str = "done";
const HELLO: &str = "hello";

pub static CREATING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let made = operate((), |()| MessageChannel::new().map_err(|error| ((), error)));
        made.port1.post_text(HELLO).expect("room");
        assert_eq!(receive_text(&made.port2), HELLO);
        drop(made);
        before.wait_for("nothing is left of the channel");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| Box::new(Watching { port }),
};

/// Memory of another library becomes a buffer.
pub static ADOPTING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = memfd_create(c"another library's", flags).expect("a memfd");
        ftruncate(&memory, 10_000).expect("room");
        let buffer = operate((), |()| Buffer::from_fd(&memory).map_err(|error| ((), error)));
        assert_eq!(*buffer, [0; 10_000]);
        drop((buffer, memory));
        before.wait_for("nothing is left of the buffer");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| Box::new(Watching { port }),
};

pub static CLOSING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| end_by(subject, MessagePort::close),
    partner: |port, _| Ending::partner(port, CloseReason::PeerClosed),
};

pub static DROPPING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| end_by(subject, |_| ()),
    partner: |port, _| Ending::partner(port, CloseReason::PeerDropped),
};

pub static ACCEPTING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let listener = Listener::bind(&receive_text(&subject.port)).expect("a listener");
        subject.port.post_text(HELLO).expect("room");
        let port = operate((), |()| listener.accept().map_err(|error| ((), error)));
        port.post_text(HELLO).expect("room");
        drop((port, listener));
        before.wait_for("nothing is left of the listener");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| Client::partner(port),
};

pub static LISTENING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let name = receive_text(&subject.port);
        let listener = operate((), |()| Listener::bind(&name).map_err(|error| ((), error)));
        drop(listener);
        before.wait_for("nothing is left of the listener");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| {
        let name = name();
        port.post_text(&name).expect("room");
        Box::new(Named { port, name })
    },
};

pub static CONNECTING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let name = receive_text(&subject.port);
        let port = operate((), |()| connect(&name).map_err(|error| ((), error)));
        assert_eq!(receive_text(&port), HELLO);
        drop(port);
        before.wait_for("nothing is left of the connection");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| Server::partner(port),
};

pub static JOINING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let name = receive_text(&subject.port);
        let member = operate((), |()| BroadcastChannel::open(&name).map_err(|error| ((), error)));
        member.post_text(HELLO).expect("room");
        drop(member);
        before.wait_for("nothing is left of the membership");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| Resident::partner(port, true),
};

pub static LEAVING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let name = receive_text(&subject.port);
        let member = BroadcastChannel::open(&name).expect("a member");
        operate(member, |member| {
            drop(member);
            Ok::<(), (BroadcastChannel, ChannelError)>(())
        });
        before.wait_for("nothing is left of the membership");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| Resident::partner(port, false),
};

pub static SPAWNING: Operation = Operation {
    is_short: false,
    channel: plain,
    subject: |subject| {
        let before = Census::take();
        let test = receive_text(&subject.port);
        // The second one is for another attempt.
        let commands = Vec::from([(); 2].map(|()| command(&test, "grandchild")));
        let worker = operate(commands, |mut commands| {
            let command = commands.pop().expect("two attempts");
            Worker::spawn(command).map_err(|error| (commands, error))
        });
        assert_eq!(receive_text(worker.port()), HELLO);
        let end = worker.shutdown(DEADLINE).expect("a child");
        assert!(matches!(end, WorkerEnd::Exited(status) if status.success()), "{end:?}");
        before.wait_for("nothing is left of the child");
        subject.port.post_text(DONE).expect("room");
    },
    partner: |port, _| {
        port.post_text("a_start_of_a_worker").expect("room");
        Box::new(Watching { port })
    },
};

/// The role of the process that the subject starts.
pub fn grandchild() {
    let port = parent_port().expect("a port to the parent");
    // The parent may be dead.
    let _ = port.post_text(HELLO);
    receive_end(&port);
}

/// A name that no other test has.
fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("steps-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

/// Expects the last word of the subject, or its death.
fn expect_end(port: &MessagePort, fate: Fate) {
    if fate == Fate::Finished {
        assert_eq!(receive_text(port), DONE);
        assert_eq!(receive_end(port), CloseReason::PeerDropped);
    } else {
        assert_eq!(receive_end(port), CloseReason::PeerDied);
    }
}

/// Has no part in the operation.
struct Watching {
    port: MessagePort,
}

impl Partner for Watching {
    fn carry_on(&mut self) {
        assert!(!self.port.is_closed(), "it has only stopped");
    }

    fn end(self: Box<Self>, fate: Fate) {
        expect_end(&self.port, fate);
    }
}

/// Posts, ends its port, and ends.
fn end_by(Subject { port, .. }: Subject, how: fn(&MessagePort)) {
    port.post_text("0").expect("room");
    operate(Box::new(port), |port| {
        how(&port);
        drop(port);
        Ok::<(), (Box<MessagePort>, ChannelError)>(())
    });
}

/// Sees a port end that has messages and another port in its queue.
struct Ending {
    port: MessagePort,
    port1: MessagePort,
    reason: CloseReason,
}

impl Ending {
    fn partner(port: MessagePort, reason: CloseReason) -> Box<dyn Partner> {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        port.post_text_with("not received", [port2.into()]).expect("room");
        Box::new(Ending { port, port1, reason })
    }
}

impl Partner for Ending {
    fn carry_on(&mut self) {
        // It may have ended, and then this says so.
        let _ = self.port.post_text("not received");
    }

    fn end(self: Box<Self>, fate: Fate) {
        assert_eq!(receive_text(&self.port), "0");
        let reason = receive_end(&self.port);
        let died = fate == Fate::Killed && reason == CloseReason::PeerDied;
        assert!(died || reason == self.reason, "{reason:?}");
        // What was in its queue ends with it.
        receive_end(&self.port1);
        // A process killed between its two closes is found to be gone a moment later.
        wait_until("posts fail", || self.port.post_text("too late").is_err());
    }
}

/// Wants the name that the subject takes.
struct Named {
    port: MessagePort,
    name: String,
}

impl Partner for Named {
    fn end(self: Box<Self>, fate: Fate) {
        expect_end(&self.port, fate);
        check_free(&self.name);
    }
}

/// A listener can have the name, and leaves nothing of it.
fn check_free(name: &str) {
    let listener = Listener::bind(name).expect("the name is free");
    let path = listener.path().to_owned();
    drop(listener);
    assert!(!path.exists(), "left behind: {path:?}");
}

/// Connects to the subject.
struct Client {
    port: MessagePort,
    name: String,
    thread: Option<JoinHandle<Result<(), RecvError>>>,
}

impl Client {
    fn partner(port: MessagePort) -> Box<dyn Partner> {
        let name = name();
        port.post_text(&name).expect("room");
        Box::new(Client { port, name, thread: None })
    }
}

impl Partner for Client {
    fn begin(&mut self) {
        assert_eq!(receive_text(&self.port), HELLO);
        let name = self.name.clone();
        self.thread =
            Some(thread::spawn(move || match Connect::new().timeout(DEADLINE).to(&name) {
                Ok(port) => port.recv_timeout(DEADLINE).map(|event| {
                    assert_eq!(event.text().expect("a text"), HELLO);
                }),
                // A listener that has died is no error of the client's.
                Err(ConnectError::NoListener { .. } | ConnectError::HungUp { .. }) => {
                    Err(RecvError::Closed { reason: CloseReason::PeerDied })
                }
                Err(error) => panic!("{error}"),
            }));
    }

    fn end(self: Box<Self>, fate: Fate) {
        let received = self.thread.expect("it began").join().expect("it returns");
        expect_end(&self.port, fate);
        match received {
            Ok(()) => assert_eq!(fate, Fate::Finished),
            Err(RecvError::Closed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        check_free(&self.name);
    }
}

/// Listens, and serves each client.
struct Server {
    port: MessagePort,
    listener: Listener,
    name: String,
    served: Vec<MessagePort>,
}

impl Server {
    fn partner(port: MessagePort) -> Box<dyn Partner> {
        let name = name();
        let listener = Listener::bind(&name).expect("a listener");
        port.post_text(&name).expect("room");
        Box::new(Server { port, listener, name, served: Vec::new() })
    }
}

impl Partner for Server {
    fn meanwhile(&mut self) {
        if let Some(port) = self.listener.try_accept().expect("a listener") {
            // It may be dead by now.
            let _ = port.post_text(HELLO);
            self.served.push(port);
        }
    }

    fn carry_on(&mut self) {
        self.meanwhile();
        let answer = self.listener.accept_timeout(Duration::ZERO).map(|port| {
            let _ = port.post_text(HELLO);
            self.served.push(port);
        });
        drop(answer);
    }

    fn end(mut self: Box<Self>, fate: Fate) {
        expect_end(&self.port, fate);
        for port in self.served.drain(..) {
            receive_end(&port);
        }
        // The next one is served.
        let name = self.name.clone();
        let client = thread::spawn(move || receive_text(&connect(&name).expect("a listener")));
        wait_until("the next client was served", || {
            self.meanwhile();
            client.is_finished()
        });
        assert_eq!(client.join().expect("it was served"), HELLO);
    }
}

/// A member that was there before.
struct Resident {
    port: MessagePort,
    name: String,
    member: BroadcastChannel,
    /// Whether the subject posts.
    hears: bool,
}

impl Resident {
    fn partner(port: MessagePort, hears: bool) -> Box<dyn Partner> {
        let name = name();
        let member = BroadcastChannel::open(&name).expect("a member");
        port.post_text(&name).expect("room");
        Box::new(Resident { port, name, member, hears })
    }
}

impl Partner for Resident {
    fn meanwhile(&mut self) {
        self.member.others().expect("an open member");
    }

    fn carry_on(&mut self) {
        self.member.others().expect("an open member");
        // The subject may be a member or not.
        self.member.post_text("from the resident").expect("room");
    }

    fn end(self: Box<Self>, fate: Fate) {
        expect_end(&self.port, fate);
        if fate == Fate::Finished && self.hears {
            let message = self.member.recv_timeout(DEADLINE).expect("the joiner has posted");
            assert_eq!(message.text().expect("a text"), HELLO);
        }
        wait_until("the other one is gone", || self.member.others().expect("an open member") == 0);
        assert!(self.member.try_recv().expect("an open member").is_none(), "nothing else came");
        // The next one joins.
        let next = BroadcastChannel::open(&self.name).expect("a member");
        next.post_text(HELLO).expect("room");
        let message = self.member.recv_timeout(DEADLINE).expect("the next one has posted");
        assert_eq!(message.text().expect("a text"), HELLO);
        drop(self.member);
        drop(next);
        clear(&self.name);
    }
}

/// Files that were on the way to their names when their owner was killed are removed by the next
/// member, some seconds later.
fn clear(name: &str) {
    let directory = directory_of(name);
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        assert!(entry.path().to_string_lossy().ends_with(".new"), "left behind: {entry:?}");
        let then = TimeSpec::new(1, 0);
        utimensat(AT_FDCWD, &entry.path(), &then, &then, UtimensatFlags::NoFollowSymlink)
            .expect("it is ours");
    }
    drop(BroadcastChannel::open(name).expect("a member"));
    assert!(!directory.exists(), "left behind: {directory:?}");
}
