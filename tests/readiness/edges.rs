//! Watchers that are told of changes alone: raw `EPOLLET`, mio, and polls of io_uring. Messages and
//! the peer's end may come in one event, and no other event comes behind it.
#![allow(unsafe_code)]

use crate::common::parts::{DOORBELL, Parts, send};
use crate::common::role::{command, play, skip};
use crate::common::watchdog::progress;
use crate::common::{DEADLINE, kill_process, wait_until};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use messageport::{
    CloseReason, MessageChannel, MessagePort, PortSet, Receiver, RecvError, Worker, parent_port,
};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

/// Waits for changes of one descriptor. Says whether one came before the deadline.
trait Watcher {
    fn wait(&mut self) -> bool;
}

struct Edges(Epoll);

impl Edges {
    fn new(descriptor: impl AsFd) -> Edges {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        epoll.add(descriptor, EpollEvent::new(flags, 0)).expect("room for one");
        Edges(epoll)
    }
}

impl Watcher for Edges {
    fn wait(&mut self) -> bool {
        let timeout: EpollTimeout = DEADLINE.try_into().expect("a minute");
        self.0.wait(&mut [EpollEvent::empty()], timeout).expect("an epoll") == 1
    }
}

struct Mio(Poll);

impl Mio {
    fn new(descriptor: impl AsFd) -> Mio {
        let poll = Poll::new().expect("a poll");
        let raw = descriptor.as_fd().as_raw_fd();
        let mut source = SourceFd(&raw);
        poll.registry().register(&mut source, Token(0), Interest::READABLE).expect("room for one");
        Mio(poll)
    }
}

impl Watcher for Mio {
    fn wait(&mut self) -> bool {
        let mut events = Events::with_capacity(1);
        self.0.poll(&mut events, Some(DEADLINE)).expect("a poll");
        !events.is_empty()
    }
}

/// A poll of io_uring, asked for again after each completion or once for many.
struct Ring {
    ring: IoUring,
    descriptor: RawFd,
    is_multishot: bool,
    is_armed: bool,
}

impl Ring {
    /// `None` where the kernel refuses io_uring altogether.
    fn new(descriptor: impl AsFd, is_multishot: bool) -> Option<Ring> {
        let ring = match IoUring::new(8) {
            Ok(ring) => ring,
            Err(error) => {
                let refusals = [libc::ENOSYS, libc::EPERM, libc::EACCES];
                let errno = error.raw_os_error().expect("an error of the kernel");
                assert!(refusals.contains(&errno), "io_uring_setup: {error}");
                return None;
            }
        };
        let descriptor = descriptor.as_fd().as_raw_fd();
        Some(Ring { ring, descriptor, is_multishot, is_armed: false })
    }

    fn arm(&mut self) {
        let poll = opcode::PollAdd::new(types::Fd(self.descriptor), libc::POLLIN as u32)
            .multi(self.is_multishot);
        let entry: squeue::Entry = poll.build();
        // SAFETY: a poll of a descriptor that the test keeps open; it has no memory of ours.
        unsafe { self.ring.submission().push(&entry) }.expect("room for one");
        self.is_armed = true;
    }
}

impl Watcher for Ring {
    fn wait(&mut self) -> bool {
        if !self.is_armed {
            self.arm();
        }
        let timeout = types::Timespec::from(DEADLINE);
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => return false,
            Err(error) => panic!("io_uring_enter: {error}"),
        }
        let mut woken = false;
        for completion in self.ring.completion() {
            let events = completion.result();
            assert!(events > 0, "{}", io::Error::from_raw_os_error(-events));
            self.is_armed &= cqueue::more(completion.flags());
            woken = true;
        }
        woken
    }
}

/// Each watcher that this machine has, by name.
fn each_watcher(mut test: impl FnMut(&str, &dyn Fn(&dyn AsRawFd) -> Box<dyn Watcher>)) {
    let borrow = |descriptor: &dyn AsRawFd| {
        // SAFETY: the caller keeps it open for as long as the watcher lives.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor.as_raw_fd()) }
    };
    test("EPOLLET", &|descriptor| Box::new(Edges::new(borrow(descriptor))));
    test("mio", &|descriptor| Box::new(Mio::new(borrow(descriptor))));
    if Ring::new(io::stdin(), false).is_none() {
        return skip("the kernel refuses io_uring_setup");
    }
    for (name, is_multishot) in [("io_uring", false), ("io_uring, multishot", true)] {
        test(name, &|descriptor| {
            Box::new(Ring::new(borrow(descriptor), is_multishot).expect("it was there"))
        });
    }
}

/// Takes what is there, and then waits, until the end.
fn receive_all(name: &str, receiver: &Receiver, watcher: &mut dyn Watcher) -> (u32, CloseReason) {
    let mut received = 0;
    loop {
        match receiver.try_recv() {
            Ok(Some(_)) => received += 1,
            Ok(None) => assert!(watcher.wait(), "{name}: nothing for {DEADLINE:?}\n{receiver:#?}"),
            Err(RecvError::Closed { reason }) => return (received, reason),
            Err(error) => panic!("{error}"),
        }
    }
}

const ROUNDS: u32 = 30;

#[test]
fn an_edge_triggered_watcher_sees_a_drop_behind_messages() {
    each_watcher(|name, watch| {
        for round in 0..ROUNDS {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let (_sender, receiver) = port2.split();
            let mut watcher = watch(&receiver.as_fd());
            // The flag is up now, so that the post rings; its ring and the end are one event.
            assert!(receiver.try_recv().expect("an open port").is_none());
            let poster = thread::spawn(move || {
                if round % 2 == 0 {
                    thread::sleep(Duration::from_micros(u64::from(round) * 20));
                }
                port1.post_text("last words").expect("room");
                let (sender, receiver) = port1.split();
                // Nothing announces a close: the sockets alone tell.
                drop(MessagePort::join(sender, receiver).map(MessagePort::into_fd));
            });
            if round % 3 == 0 {
                // Both are there, and told of by the one event that is taken first.
                poster.join().expect("no panic");
                assert!(watcher.wait(), "{name}: {receiver:#?}");
            }
            let (received, reason) = receive_all(name, &receiver, &mut *watcher);
            assert_eq!((received, reason), (1, CloseReason::PeerDied), "{name}");
            progress();
        }
    });
}

#[test]
fn an_edge_triggered_watcher_sees_the_death_of_a_process() {
    const TEST: &str = "edges::an_edge_triggered_watcher_sees_the_death_of_a_process";
    fn posts() {
        let port = parent_port().expect("a port to the parent");
        port.post_text("alive").expect("room");
        // The parent says when its flag is up.
        port.recv().expect("a message");
        port.post_text("last words").expect("room");
        loop {
            thread::park();
        }
    }
    fn watches() {
        each_watcher(|name, watch| {
            for round in 0..ROUNDS / 3 {
                let worker = Worker::spawn(command(TEST, "posts")).expect("a worker");
                let (port, mut child) = worker.into_parts();
                let (sender, receiver) = port.split();
                let mut watcher = watch(&receiver.as_fd());
                while receiver.try_recv().expect("an open port").is_none() {
                    assert!(watcher.wait(), "{name}: {receiver:#?}");
                }
                assert!(receiver.try_recv().expect("an open port").is_none());
                sender.post_text("go on").expect("room");
                if round % 2 == 0 {
                    // The ring and the end wait together, told of by the one event that is taken.
                    wait_until("the child has posted", || receiver.stats().messages == 2);
                    kill_process(child.id());
                    child.wait().expect("a child");
                    assert!(watcher.wait(), "{name}: {receiver:#?}");
                } else {
                    kill_process(child.id());
                }
                let (_, reason) = receive_all(name, &receiver, &mut *watcher);
                assert_eq!(reason, CloseReason::PeerDied, "{name}");
                child.wait().expect("a child");
                progress();
            }
        });
    }
    play(TEST, &[("watches", watches), ("posts", posts)]);
}

/// One call of epoll tells of 64 ports at most, and the watcher's event was for all that ring.
#[test]
fn an_edge_triggered_watcher_of_a_set_sees_a_message_behind_the_rings_of_many_ports() {
    each_watcher(|name, watch| {
        let mut set = PortSet::new().expect("a set");
        let mut senders = Vec::new();
        for _ in 0..65 {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            senders.push((port1, set.add(port2).expect("room for a port")));
        }
        let mut watcher = watch(&set.as_fd());
        assert!(set.try_recv().expect("a set").is_none());
        let (last, _) = senders.pop().expect("some ports");
        for (sender, id) in &senders {
            // Its message is taken at once, and the ring stays in the doorbell.
            sender.post_text("taken").expect("room");
            let port = set.get(*id).expect("a port of the set");
            assert!(port.try_recv().expect("an open port").is_some());
        }
        last.post_text("here").expect("room");
        assert!(watcher.wait(), "{name}: {set:#?}");
        let (_, event) = set.try_recv().expect("a set").expect(name);
        assert_eq!(event.expect("an open port").text().expect("text"), "here");
    });
}

#[test]
fn an_edge_triggered_watcher_of_a_set_sees_a_death_behind_a_ring_that_came_late() {
    each_watcher(|name, watch| {
        for round in 0..ROUNDS {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let mut set = PortSet::new().expect("a set");
            let mut port2 = Some(port2);
            let mut add = |set: &mut PortSet| {
                if let Some(port) = port2.take() {
                    set.add(port).expect("room for a port");
                }
            };
            if round % 2 == 0 {
                add(&mut set);
            }
            let mut watcher = watch(&set.as_fd());
            add(&mut set);
            assert!(set.try_recv().expect("a set").is_none());
            // A ring whose message was taken before, and the end: one event, and one look for both.
            let parts = Parts::of(port1);
            send(&parts.descriptors[DOORBELL], b"!", &[]).expect("an empty socket");
            drop(parts);
            assert!(watcher.wait(), "{name}: {set:#?}");
            let end = set.try_recv().expect("a set").map(|(_, said)| said.map(|_| ()));
            assert!(matches!(end, Some(Err(RecvError::Closed { .. }))), "{name}: {end:?}");
        }
    });
}
