//! A port whose descriptors nothing takes is left out for a while, however fast they are closed:
//! all of its messages come all the same, and each front comes back to it by itself.

use crate::common::role::play;
use crate::common::wait_until;
use crate::lingering::threads;
use messageport::{EventLoop, MessageChannel, MessagePort, PortSet, Transferable};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::EventFd;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// Three shares, and less than what an ordinary user may have in flight.
const MESSAGES: usize = 12;

/// A port to which they have all been posted, and its peer.
fn flooded() -> MessageChannel {
    let channel = MessageChannel::new().expect("a channel");
    for _ in 0..MESSAGES {
        let event = || OwnedFd::from(EventFd::new().expect("a descriptor"));
        let list: Vec<Transferable> = (0..64).map(|_| event().into()).collect();
        channel.port1.post_text_with("a flood", list).expect("room");
    }
    channel
}

/// A loop that counts the messages of `port`.
fn counting(port: MessagePort) -> (EventLoop, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    port.on_message(move |_| {
        counted.fetch_add(1, SeqCst);
    });
    let mut events = EventLoop::new().expect("a loop");
    events.add(port).expect("room for a port");
    (events, count)
}

#[test]
fn a_loop_comes_back_to_a_port_that_had_its_share() {
    fn victim() {
        let MessageChannel { port1: _kept, port2 } = flooded();
        let (mut events, count) = counting(port2);
        wait_until("all have come", || {
            events.poll_once(Duration::from_millis(10)).expect("a turn");
            count.load(SeqCst) == MESSAGES
        });
    }
    play("shares::a_loop_comes_back_to_a_port_that_had_its_share", &[("victim", victim)]);
}

#[test]
fn a_nested_loop_tells_the_outer_one_when_to_come_back() {
    fn victim() {
        let MessageChannel { port1: _kept, port2 } = flooded();
        let (mut events, count) = counting(port2);
        while count.load(SeqCst) < MESSAGES {
            let mut asked = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut asked, 10_000_u16).expect("a poll"), 1, "nothing is told");
            events.run_until_idle().expect("a turn");
        }
        // Its alarm does not go on.
        events.run_until_idle().expect("a turn");
        let mut asked = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        wait_until("it is silent", || poll(&mut asked, 200_u16).expect("a poll") == 0);
    }
    play("shares::a_nested_loop_tells_the_outer_one_when_to_come_back", &[("victim", victim)]);
}

#[test]
fn a_set_comes_back_to_a_port_that_had_its_share() {
    fn victim() {
        let MessageChannel { port1: _kept, port2 } = flooded();
        let mut set = PortSet::new().expect("a descriptor");
        set.add(port2).expect("a descriptor");
        for _ in 0..MESSAGES {
            drop(set.recv().expect("a turn").1.expect("a message"));
        }
    }
    play("shares::a_set_comes_back_to_a_port_that_had_its_share", &[("victim", victim)]);
}

/// Freeing it takes the kernel milliseconds, in which a loop or a task serves nothing.
#[test]
fn a_long_message_is_freed_by_a_thread() {
    fn victim() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let pass_on = |len: usize| {
            port1.post_bytes(&vec![7; len]).expect("room");
            drop(port2.recv().expect("a message").into_message());
        };
        pass_on(1 << 20);
        assert_eq!(threads(), 0);
        // The thread ends when it has had nothing to do for a while.
        wait_until("there is a thread", || {
            pass_on(3 << 20);
            threads() > 0
        });
    }
    play("shares::a_long_message_is_freed_by_a_thread", &[("victim", victim)]);
}
